//! The reference tensors: every row of every `*.index.json` in `tests/golden`, or in the folder that
//! `WARPSMITH_GOLDEN_DIR` names, is computed from its `op`, `inputs` and `args` and compared by its `tol`
//! (INDEX.md in that folder says what each of them means). Nothing is known by name or shape.
//!
//! A row fails when its op is unknown, when it holds an argument that the op has no use for, and when an argument
//! asks for what the implementation cannot do.
//!
//! One op is left out by default, and said so: `corruption.jpeg_compression`, whose result depends on the JPEG encoder.
//! `WARPSMITH_GOLDEN_ALLOW_SKIP` lists further ops (separated by commas or blanks) that may be unknown; an op that
//! is known is compared all the same.
#![cfg(feature = "train")]

mod case;
#[path = "../common/device.rs"]
#[allow(dead_code)] // Other test binaries use the rest.
mod device;
mod images;
mod index;
mod layers;
mod losses;
mod resnet;
mod tolerance;
mod training;

use case::{Case, Output};
use index::Folder;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tolerance::Comparison;
use warpsmith::Device;
use warpsmith::cpu::supcon::Form;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn fail<T>(why: impl Into<String>) -> Fallible<T> {
    Err(why.into().into())
}

/// Ops that need a JPEG encoder, and the very one of the reference.
const CODEC_DEPENDENT: [&str; 1] = ["corruption.jpeg_compression"];

/// What the op of a row computes; `None` when there is no such op.
fn compute(case: &Case, cache: &resnet::Cache) -> Option<Fallible<Output>> {
    let op = case.row.op.as_str();
    let grad = op.ends_with(".grad");
    if let Some(op) = op.strip_prefix("randaugment.") {
        let known =
            op == "distort" || warpsmith::augment::RandAugmentOp::from_name(op).is_some_and(|_| op != "identity");
        return known.then(|| images::rand_augment(case, op));
    }
    if let Some(op) = op.strip_prefix("corruption.") {
        let known = warpsmith::cpu::corruption::Corruption::from_name(op).is_some();
        return known.then(|| images::corrupt(case, op));
    }
    Some(match op {
        "resize_bilinear" => images::resize_bilinear(case),
        "flip_left_right" => images::flip_left_right(case),
        "center_crop" => images::center_crop(case),
        "resize_center_crop" => images::resize_center_crop(case),
        "crop_resize" => images::crop_resize(case),
        "random_rotation" => images::random_rotation(case),
        "random_zoom" => images::random_zoom(case),
        "rescale" => images::rescale(case),
        "normalization_adapt.mean" => images::adapt(case, true),
        "normalization_adapt.variance" => images::adapt(case, false),
        "normalization" => images::normalization(case),
        "warp" => images::warp(case),
        "keras_cv.auto_contrast"
        | "keras_cv.equalization"
        | "keras_cv.solarization"
        | "keras_cv.random_color_degeneration"
        | "keras_cv.random_contrast"
        | "keras_cv.random_brightness"
        | "keras_cv.random_shear_x"
        | "keras_cv.random_shear_y"
        | "keras_cv.random_translation_x"
        | "keras_cv.random_translation_y" => images::keras_cv_op(case, &op["keras_cv.".len()..]),
        "conv2d.fprop" | "conv2d.dgrad" | "conv2d.wgrad" | "conv2d.bias_grad" => {
            layers::conv2d(case, &op["conv2d.".len()..])
        }
        "max_pool2d" | "max_pool2d.grad" => layers::max_pool2d(case, grad),
        "batch_norm.train" => layers::batch_norm(case, "train", ""),
        "batch_norm.inference" => layers::batch_norm(case, "inference", ""),
        "batch_norm.train.grad_x"
        | "batch_norm.train.grad_gamma"
        | "batch_norm.train.grad_beta"
        | "batch_norm.train.moving_mean"
        | "batch_norm.train.moving_variance" => layers::batch_norm(case, "train", &op["batch_norm.train.".len()..]),
        "batch_norm.inference.grad_x"
        | "batch_norm.inference.grad_gamma"
        | "batch_norm.inference.grad_beta"
        | "batch_norm.inference.moving_mean"
        | "batch_norm.inference.moving_variance" => {
            layers::batch_norm(case, "inference", &op["batch_norm.inference.".len()..])
        }
        "dense" => layers::dense(case, ""),
        "dense.grad_x" | "dense.grad_w" | "dense.grad_b" => layers::dense(case, &op["dense.".len()..]),
        "global_average_pool2d" | "global_average_pool2d.grad" => layers::global_average_pool2d(case, grad),
        "relu" | "relu.grad" => layers::relu(case, grad),
        "softmax_cross_entropy" => losses::softmax_cross_entropy(case, ""),
        "softmax_cross_entropy.per_sample" => losses::softmax_cross_entropy(case, "per_sample"),
        "softmax_cross_entropy.grad" => losses::softmax_cross_entropy(case, "grad"),
        "cross_entropy_probs" => losses::cross_entropy_probs(case, ""),
        "cross_entropy_probs.per_sample" => losses::cross_entropy_probs(case, "per_sample"),
        "cross_entropy_probs.grad" => losses::cross_entropy_probs(case, "grad"),
        "kl_div" => losses::kl_divergence(case),
        "distill_kl" | "distill_kl.grad" => losses::distillation(case, false, grad),
        "distill_total" | "distill_total.grad" => losses::distillation(case, true, grad),
        "npairs" | "npairs.grad" => losses::contrastive(case, Form::Npairs, grad),
        "supcon_out" | "supcon_out.grad" => losses::contrastive(case, Form::Out, grad),
        "supcon_in" | "supcon_in.grad" => losses::contrastive(case, Form::In, grad),
        "adam" => training::adam(case),
        "swa.weights" => training::swa(case, false),
        "swa.average" => training::swa(case, true),
        "reduce_lr_on_plateau" => training::reduce_lr_on_plateau(case),
        "early_stopping" => training::early_stopping(case, false),
        "early_stopping.final_weight" => training::early_stopping(case, true),
        "resnet50v2.logits"
        | "resnet50v2.loss"
        | "resnet50v2.tap_stats"
        | "resnet50v2.grad_stats"
        | "resnet50v2.grad"
        | "resnet50v2.moving_stats"
        | "resnet50v2.adam_trajectory" => resnet::network(case, cache, &op["resnet50v2.".len()..]),
        "formula.weights" => resnet::weights_row(case),
        "formula.input" => resnet::input_row(case),
        _ => return None,
    })
}

/// Compares with the stored tensor; returns which alternative of `tol` held.
fn compare(case: &Case, output: &Output) -> Fallible<usize> {
    let stored = case.folder.tensor(case.file, &case.row.name)?;
    if output.shape != stored.shape {
        return fail(format!("computed shape {:?}, stored {:?}", output.shape, stored.shape));
    }
    let compared = match case.row.args.get("compare_first") {
        Some(_) => case.size("compare_first")?.min(stored.data.len()),
        None => stored.data.len(),
    };
    if compared == 0 {
        return fail("no value to compare");
    }
    let tensor = |name: &str| Ok(case.folder.tensor(case.file, name)?.data.clone());
    let comparison = Comparison {
        x: &output.data[..compared],
        r: &stored.data[..compared],
        shape: &stored.shape,
        args: &case.row.args,
        tensor: &tensor,
    };
    let mut missed = Vec::new();
    for (alternative, tolerance) in case.row.tol.iter().enumerate() {
        match tolerance.miss(&comparison)? {
            None => return Ok(alternative),
            Some(why) => missed.push(why),
        }
    }
    fail(missed.join("; "))
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Tally {
    /// Passed by the first alternative of `tol`.
    first: usize,
    /// Passed by a later one.
    later: usize,
    failed: usize,
    skipped: usize,
}

/// What became of the rows of a folder.
#[derive(Debug, Default)]
struct Report {
    tallies: BTreeMap<(String, String), Tally>,
    failures: Vec<String>,
}

impl Report {
    fn total(&self) -> Tally {
        self.tallies.values().fold(Tally::default(), |sum, tally| Tally {
            first: sum.first + tally.first,
            later: sum.later + tally.later,
            failed: sum.failed + tally.failed,
            skipped: sum.skipped + tally.skipped,
        })
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{:<18} {:<40} {:>8} {:>6} {:>6} {:>6} {:>7}\n",
            "file", "op", "compared", "first", "later", "failed", "skipped"
        );
        let total = (("total".to_string(), String::new()), self.total());
        let rows = self.tallies.iter().map(|(place, tally)| (place.clone(), tally.clone())).chain([total]);
        for ((file, op), Tally { first, later, failed, skipped }) in rows {
            let compared = first + later + failed;
            writeln!(table, "{file:<18} {op:<40} {compared:>8} {first:>6} {later:>6} {failed:>6} {skipped:>7}")
                .expect("strings grow");
        }
        table
    }
}

enum Outcome {
    Passed(usize),
    Skipped,
}

fn judge(case: &Case, cache: &resnet::Cache, allow_skip: &BTreeSet<String>) -> Fallible<Outcome> {
    // A panic is one failed row, not the end of the report.
    let computed = catch_unwind(AssertUnwindSafe(|| compute(case, cache))).map_err(|_| "panicked (see above)")?;
    match computed {
        Some(output) => {
            let output = output?;
            case.finish()?;
            Ok(Outcome::Passed(compare(case, &output)?))
        }
        None if allow_skip.contains(&case.row.op) => Ok(Outcome::Skipped),
        None => fail("unknown op"),
    }
}

/// Computes and compares all rows of a folder.
fn check(folder: &Folder, allow_skip: &BTreeSet<String>) -> Fallible<Report> {
    let device = device::device();
    let cache = resnet::Cache::default();
    let mut report = Report::default();
    for (file, contents) in &folder.files {
        for row in contents.rows.iter().filter(|row| row.role == "output") {
            let tally = report.tallies.entry((file.clone(), row.op.clone())).or_default();
            match judge(&Case::new(folder, file, row, &device), &cache, allow_skip) {
                Ok(Outcome::Passed(0)) => tally.first += 1,
                Ok(Outcome::Passed(_)) => tally.later += 1,
                Ok(Outcome::Skipped) => tally.skipped += 1,
                Err(why) => {
                    tally.failed += 1;
                    report.failures.push(format!("{file}: {} ({}): {why}", row.name, row.op));
                }
            }
        }
    }
    Ok(report)
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn golden_rows() {
    let path = std::env::var_os("WARPSMITH_GOLDEN_DIR").map_or_else(shipped, PathBuf::from);
    let listed = std::env::var("WARPSMITH_GOLDEN_ALLOW_SKIP").unwrap_or_default();
    let listed = listed.split([',', ' ', '\n']).filter(|op| !op.is_empty());
    let allow_skip: BTreeSet<String> = listed.chain(CODEC_DEPENDENT).map(String::from).collect();

    let folder = Folder::open(&path).unwrap();
    let report = check(&folder, &allow_skip).unwrap();
    let Tally { first, later, failed, skipped } = report.total();
    let text = format!(
        "\ngolden rows of {}\n{}{} rows compared, {failed} failed, {skipped} skipped (allowed to skip: {allow_skip:?})\n",
        path.display(),
        report.table(),
        first + later + failed,
    );
    // Written past the capture of the test harness: the table is the point of a passing run, too.
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    assert!(report.failures.is_empty(), "{failed} rows failed:\n{}", report.failures.join("\n"));
    assert!(first + later > 0, "{}: no row was compared", path.display());
}

/// The corruptions' own tables of severities give what the rows of the shipped folder hold.
#[test]
fn severities() {
    let (folder, device) = (Folder::open(&shipped()).unwrap(), Device::cpu().unwrap());
    let mut compared = 0;
    for (file, row) in folder.files.iter().flat_map(|(file, contents)| contents.rows.iter().map(move |row| (file, row)))
    {
        let Some(op) = row.op.strip_prefix("corruption.") else { continue };
        let case = Case::new(&folder, file, row, &device);
        if let Some(output) = images::corrupt_by_severity(&case, op).unwrap() {
            compare(&case, &output).unwrap_or_else(|why| panic!("{}: {why}", row.name));
            compared += 1;
        }
    }
    assert!(compared > 0, "no corruption row");
}

/// Parameters and moving statistics have the names, and the order, of the shipped list.
#[test]
fn names() {
    use warpsmith::nn::{Head, ParamsBuilder, ResNet50V2};
    let list = std::fs::read_to_string(shipped().join("resnet50v2.names.txt")).unwrap();
    let (trainable, moving) = list.split_once("# non-trainable").unwrap();
    let mut builder = ParamsBuilder::new();
    ResNet50V2::new(&mut builder, Head::Classes(10));
    let params = builder.build(&Device::cpu().unwrap(), 0).unwrap();
    let lines = |text: &str| text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(String::from).collect();
    let pairs: [(Vec<String>, Vec<String>); 2] = [
        (params.names().map(String::from).collect(), lines(trainable)),
        (params.stat_names().map(String::from).collect(), lines(moving)),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(ours, theirs);
    }
}

/// Small folders made on the spot: the runner must reject what is wrong with them.
#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorView};
    use serde_json::{Value, json};

    fn write(folder: &Path, name: &str, tensors: &[(&str, &[f32])], rows: Value) {
        let bytes: Vec<(&str, Vec<u8>)> =
            tensors.iter().map(|(n, data)| (*n, data.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
        let views = bytes
            .iter()
            .map(|(name, bytes)| (*name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).unwrap()));
        std::fs::write(folder.join(format!("{name}.safetensors")), safetensors::serialize(views, None).unwrap())
            .unwrap();
        std::fs::write(folder.join(format!("{name}.index.json")), json!({"rows": rows}).to_string()).unwrap();
    }

    fn row(name: &str, op: &str, inputs: Value, args: Value) -> Value {
        json!({"name": name, "role": "output", "op": op, "inputs": inputs, "args": args,
            "tol": [{"kind": "exact"}, {"kind": "abs", "value": 0.5}]})
    }

    /// A folder whose output row `y` of `op` holds `stored`, beside an input in a second file.
    fn run(op: &str, args: Value, stored: &[f32], allow_skip: &[&str]) -> Report {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "other", &[("x", &[1.0, -2.0, 3.0])], json!([{"name": "x", "role": "input"}]));
        write(folder.path(), "set", &[("y", stored)], json!([row("y", op, json!({"x": "other:x"}), args)]));
        let allow_skip = allow_skip.iter().map(|op| op.to_string()).collect();
        check(&Folder::open(folder.path()).unwrap(), &allow_skip).unwrap()
    }

    #[test]
    fn a_right_row_passes_by_the_alternative_that_holds() {
        let report = run("relu", json!({}), &[1.0, 0.0, 3.0], &[]);
        assert_eq!((report.total(), report.failures.len()), (Tally { first: 1, ..Tally::default() }, 0));
        let report = run("relu", json!({}), &[1.0, 0.25, 3.0], &[]);
        assert_eq!(report.total(), Tally { later: 1, ..Tally::default() });
        assert!(report.table().contains("set                relu"), "{}", report.table());
    }

    #[test]
    fn a_planted_wrong_value_is_rejected() {
        let report = run("relu", json!({}), &[1.0, 0.0, 4.0], &["relu"]);
        assert_eq!(report.total(), Tally { failed: 1, ..Tally::default() });
        let why = &report.failures[0];
        assert!(why.contains("set: y (relu)") && why.contains("max |x-r| 1.000e0 > 5.000e-1"), "{why}");
        let why = &run("relu", json!({}), &[1.0, 0.0], &[]).failures[0];
        assert!(why.contains("computed shape [3], stored [2]"), "{why}");
    }

    #[test]
    fn unknown_ops_fail_unless_they_are_allowed_to() {
        let why = &run("gelu", json!({}), &[1.0], &["selu"]).failures[0];
        assert!(why.contains("unknown op"), "{why}");
        let report = run("gelu", json!({}), &[1.0], &["gelu"]);
        assert_eq!((report.total(), report.failures.len()), (Tally { skipped: 1, ..Tally::default() }, 0));
    }

    #[test]
    fn arguments_are_honoured_or_refused() {
        let stored = [1.0, 0.0, 3.0];
        let why = &run("relu", json!({"slope": 0.1}), &stored, &[]).failures[0];
        assert!(why.contains("`relu` has no use for [\"slope\"]"), "{why}");
        let why = &run("rescale", json!({"scale": 1}), &stored, &[]).failures[0];
        assert!(why.contains("wants an arg `offset`"), "{why}");
        let report = run("rescale", json!({"scale": 2, "offset": -1}), &[1.0, -5.0, 5.0], &[]);
        assert_eq!(report.total().first, 1, "{:?}", report.failures);
        let why = &run("softmax_cross_entropy", json!({}), &stored, &[]).failures[0];
        assert!(why.contains("wants an input `logits`"), "{why}");
        let args = json!({"eps": 1e-3});
        let why = &run("normalization", args, &stored, &[]).failures[0];
        assert!(why.contains("has 0.0000001 built in and cannot do 0.001"), "{why}");
    }

    #[test]
    fn a_folder_without_rows_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no rows in any *.index.json"), "{error}");
        let row = json!({"name": "y", "role": "output", "op": "relu"});
        write(folder.path(), "set", &[("y", &[1.0])], json!([row]));
        let error = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("set.index.json: row `y`"), "{error}");
    }
}
