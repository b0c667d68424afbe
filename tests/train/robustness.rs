//! CIFAR-10-C evaluation with a model whose answers are known: it reads the class off the brightness of a pixel.
//! With `WARPSMITH_PICTURES=DIR` the heat map is kept there to be looked at.

use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Mutex};
use warpsmith::augment::Pipeline;
use warpsmith::autograd::Var;
use warpsmith::cpu::corruption::{self, Corruption};
use warpsmith::data::cifar10_c::{BENCHMARK, corruptions};
use warpsmith::data::npy::encode_u8;
use warpsmith::data::{Cifar10C, ImageSet, synthetic};
use warpsmith::device::Device;
use warpsmith::nn::{Forward, Params, ParamsBuilder};
use warpsmith::tensor::Tensor;
use warpsmith::train::plot::Image;
use warpsmith::train::robustness::evaluate;
use warpsmith::train::{CorruptionSource, EpochRecord, Observer, Robustness, Session, StepReport};

/// Images per severity: one of each class.
const N: usize = 10;
const IMAGE: usize = 32 * 32 * 3;
const GENERATED: [&str; 7] =
    ["defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "gaussian_blur", "saturate"];

/// The grey level that the model takes for `class`; up to 14 above or 10 below will do as well.
fn grey(class: usize) -> u8 {
    (25 * class + 10) as u8
}

/// Class = red value of the first pixel / 25.
fn model(pass: &Forward, images: &Var) -> warpsmith::Result<Var> {
    let images = images.tensor();
    let pixels = images.to_vec::<f32>()?;
    let n = images.shape()[0];
    let mut logits = vec![0.0f32; n * 10];
    for (image, logits) in pixels.chunks_exact(images.elems() / n).zip(logits.chunks_exact_mut(10)) {
        logits[(image[0] / 25.0).clamp(0.0, 9.0) as usize] = 5.0;
    }
    Ok(pass.tape.constant(Tensor::from_slice(images.device(), &[n, 10], &logits)?))
}

/// How many of the ten images of a corruption the model is made to get right.
fn right(corruption: &str, severity: usize) -> usize {
    (corruption.len() % 4 + 7) - severity
}

/// A folder of these corruptions: the first [`right`] images of ten show their class, the others the next one.
fn folder<'a>(names: impl IntoIterator<Item = &'a str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let labels: Vec<u8> = (0..5 * N).map(|i| (i % N) as u8).collect();
    std::fs::write(dir.path().join("labels.npy"), encode_u8(&[5 * N], &labels).unwrap()).unwrap();
    for name in names {
        let mut pixels = Vec::with_capacity(5 * N * IMAGE);
        for severity in 1..=5 {
            for class in 0..N {
                let shown = if class < right(name, severity) { class } else { (class + 1) % N };
                pixels.resize(pixels.len() + IMAGE, grey(shown));
            }
        }
        let file = encode_u8(&[5 * N, 32, 32, 3], &pixels).unwrap();
        std::fs::write(dir.path().join(format!("{name}.npy")), file).unwrap();
    }
    dir
}

fn open(dir: &tempfile::TempDir) -> CorruptionSource {
    CorruptionSource::Folder(Cifar10C::open(dir.path()).unwrap())
}

/// One grey image of each class.
fn greys() -> ImageSet {
    let pixels = (0..N).flat_map(|class| [grey(class); IMAGE]).collect();
    let labels: Vec<i32> = (0..N as i32).collect();
    let names: Vec<String> = labels.iter().map(i32::to_string).collect();
    ImageSet::from_arrays("greys", pixels, [N, 32, 32, 3], &labels, &names).unwrap()
}

#[derive(Clone, Default)]
struct Messages(Arc<Mutex<Vec<String>>>);

impl Observer for Messages {
    fn step(&mut self, _: &StepReport) {}
    fn epoch(&mut self, _: &str, _: u32, _: &EpochRecord) {}
    fn message(&mut self, text: &str) {
        self.0.lock().unwrap().push(text.to_string());
    }
}

/// What an evaluation needs beside its source.
struct Bench {
    session: Session,
    params: Params,
    pipeline: Pipeline,
    messages: Messages,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::cpu_with_threads(2).unwrap();
        let mut session = Session::create(folder.path(), &device, "test", 1, serde_json::Value::Null).unwrap();
        let messages = Messages::default();
        session.observer = Box::new(messages.clone());
        let params = ParamsBuilder::new().build(&device, 1).unwrap();
        Bench { session, params, pipeline: Pipeline::new(Vec::new()).unwrap(), messages, _folder: folder }
    }

    /// In batches of 4: the last one of ten images is not full.
    fn run(&mut self, source: &CorruptionSource, only: Option<&[(&str, usize)]>) -> warpsmith::Result<Robustness> {
        evaluate(&mut self.session, &self.params, &model, source, &self.pipeline, 4, only)
    }

    fn messages(&self) -> Vec<String> {
        self.messages.0.lock().unwrap().clone()
    }
}

/// The heat map, after a copy for whoever wants to look.
fn keep(result: &Robustness, name: &str) -> Image {
    let picture = result.heat_map().unwrap();
    if let Ok(dir) = std::env::var("WARPSMITH_PICTURES") {
        picture.write_png(Path::new(&dir).join(format!("{name}.png"))).unwrap();
    }
    picture
}

fn assert_near(got: f64, want: f64) {
    assert!((got - want).abs() < 1e-12, "got {got}, want {want}");
}

fn assert_error<T: Debug>(result: warpsmith::Result<T>, parts: &[&str]) {
    let text = result.expect_err("an error was expected").to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// Mean of [`right`] over these corruptions and severities.
fn mean_right(names: &[&str], severities: std::ops::RangeInclusive<usize>) -> f64 {
    let cells: Vec<usize> =
        names.iter().flat_map(|name| severities.clone().map(move |severity| right(name, severity))).collect();
    cells.iter().sum::<usize>() as f64 / (cells.len() * N) as f64
}

#[test]
fn the_whole_folder() {
    let all: Vec<&str> = corruptions().collect();
    let dir = folder(all.iter().copied());
    let mut bench = Bench::new();
    let result = bench.run(&open(&dir), None).unwrap();

    assert_eq!((result.source.as_str(), result.generated_subset, result.images), ("CIFAR-10-C", false, N));
    assert_eq!(result.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), all);
    for row in &result.rows {
        let want = [1, 2, 3, 4, 5].map(|severity| Some(right(&row.name, severity) as f64 / N as f64));
        assert_eq!(row.accuracy, want, "{}", row.name);
    }
    assert_near(result.mean_all, mean_right(&all, 1..=5));
    assert_near(result.mean_severity_5.unwrap(), mean_right(&all, 5..=5));
    assert_near(result.mean_benchmark.unwrap(), mean_right(&BENCHMARK, 1..=5));
    // Otherwise the test could not tell them apart.
    assert!((result.mean_benchmark.unwrap() - result.mean_all).abs() > 1e-3);
    assert!(result.missing.is_empty());

    let messages = bench.messages();
    assert_eq!(messages.len(), 19);
    assert_eq!(messages[9], "CIFAR-10-C 10/19 fog: 90.0 80.0 70.0 60.0 50.0 %");

    let means = "mean over all severities 52.1, severity 5 only 32.1, 15 benchmark corruptions 52.0\n";
    assert!(result.table().ends_with(means), "{}", result.table());
    let picture = keep(&result, "robustness");
    // 19 rows of 30 pixels with a title above.
    assert!(picture.height() > 19 * 30 && picture.height() < 19 * 30 + 120, "{}", picture.height());
}

#[test]
fn missing_corruptions_are_named_and_left_out_of_the_means() {
    let dir = folder(["saturate", "fog"]);
    let mut bench = Bench::new();
    let result = bench.run(&open(&dir), None).unwrap();
    // fog: 9 8 7 6 5 of ten, saturate: 6 5 4 3 2.
    assert_near(result.mean_all, 0.55);
    assert_near(result.mean_severity_5.unwrap(), 0.35);
    assert_eq!(result.mean_benchmark, None);
    assert_eq!(result.missing.len(), 17);
    assert!(result.missing.contains(&"frost".to_string()) && !result.missing.contains(&"fog".to_string()));
    assert_eq!((result.accuracy("saturate", 5), result.accuracy("fog", 1)), (Some(0.2), Some(0.9)));
    assert_eq!((result.accuracy("frost", 1), result.accuracy("fog", 0), result.accuracy("fog", 6)), (None, None, None));
    assert_eq!(
        result.table(),
        "\
CIFAR-10-C: accuracy in %, 10 images per corruption and severity
severity      1      2      3      4      5    mean
fog        90.0   80.0   70.0   60.0   50.0    70.0
saturate   60.0   50.0   40.0   30.0   20.0    40.0
mean       75.0   65.0   55.0   45.0   35.0    55.0
mean over all severities 55.0, severity 5 only 35.0
missing (17 of 19): gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, \
snow, frost, brightness, contrast, elastic_transform, pixelate, jpeg_compression, speckle_noise, gaussian_blur, spatter
"
    );
}

#[test]
fn a_selection() {
    let dir = folder(["saturate", "fog", "elastic_transform"]);
    let mut bench = Bench::new();
    // One twice, one under the name of TensorFlow Datasets.
    let only = [("saturate", 5), ("elastic", 2), ("saturate", 5)];
    let result = bench.run(&open(&dir), Some(&only)).unwrap();
    assert_eq!(result.rows.len(), 2);
    assert_eq!(result.rows[0].name, "elastic_transform");
    assert_eq!(result.rows[0].accuracy, [None, Some(0.6), None, None, None]);
    assert_eq!(result.rows[1].accuracy, [None, None, None, None, Some(0.2)]);
    assert_near(result.mean_all, 0.4);
    assert_eq!(result.mean_severity_5, Some(0.2));
    assert!(result.missing.is_empty());
    assert_eq!(bench.messages()[1], "CIFAR-10-C 2/2 saturate: - - - - 20.0 %");

    let result = bench.run(&open(&dir), Some(&[("fog", 1)])).unwrap();
    assert_eq!((result.mean_all, result.mean_severity_5), (0.9, None));
    assert!(result.table().contains("all severities 90.0, severity 5 only -"), "{}", result.table());
}

#[test]
fn limits_take_the_first_images() {
    let dir = folder(["saturate"]);
    let source = open(&dir).limited(4).unwrap();
    let set = source.set("saturate", 5).unwrap();
    assert_eq!((set.name(), set.labels()), ("saturate_5", vec![0, 1, 2, 3]));
    let result = Bench::new().run(&source, None).unwrap();
    // 6 5 4 3 2 of the first ten are right, the earliest.
    assert_eq!(result.rows[0].accuracy, [Some(1.0), Some(1.0), Some(1.0), Some(0.75), Some(0.5)]);
    assert_eq!(result.images, 4);
    // The tighter of two limits holds; one beyond the data changes nothing.
    assert_eq!(source.limited(9).unwrap().set("saturate", 1).unwrap().len(), 4);
    assert_eq!(open(&dir).limited(99).unwrap().set("saturate", 1).unwrap().len(), N);

    let generated = CorruptionSource::Generated(greys());
    let whole = generated.set("contrast", 3).unwrap();
    let limited = generated.limited(3).unwrap().set("contrast", 3).unwrap();
    assert_eq!((limited.name(), limited.labels()), ("contrast_3", vec![0, 1, 2]));
    assert!((0..3).all(|i| limited.image(i) == whole.image(i)));
}

#[test]
fn the_generated_subset_is_the_generator_applied() {
    let clean = synthetic::images(7, 7, 32, 32, 3).unwrap();
    let source = CorruptionSource::Generated(clean.clone());
    assert_eq!(source.names(), GENERATED);
    let [one, two] = [1, 2].map(|threads| Device::cpu_with_threads(threads).unwrap());
    let mut want = vec![0; IMAGE];
    for name in GENERATED {
        for severity in 1..=5 {
            let set = one.run(|| source.set(name, severity)).unwrap();
            let again = two.run(|| source.set(name, severity)).unwrap();
            assert_eq!((set.name(), set.labels()), (format!("{name}_{severity}").as_str(), clean.labels()));
            assert_eq!(set.class_names(), clean.class_names());
            let mut changed = false;
            for i in 0..clean.len() {
                let (_, _, x) = clean.image(i);
                Corruption::from_name(name).unwrap().apply(severity, x, [1, 32, 32], &mut want).unwrap();
                assert_eq!(set.image(i), (32, 32, &want[..]), "{name} {severity}, image {i}");
                assert_eq!(set.image(i), again.image(i), "{name} {severity}, image {i}, 2 threads");
                changed |= want != x;
            }
            assert!(changed, "{name} {severity} changes nothing");
        }
    }
    // Severity 5 by its parameters, so that a severity off by one cannot pass.
    corruption::saturate(clean.image(2).2, 32, 32, 2.5, 0.2, &mut want).unwrap();
    assert_eq!(source.set("saturate", 5).unwrap().image(2).2, want);
    corruption::contrast(clean.image(3).2, 32, 32, 0.75, &mut want).unwrap();
    assert_eq!(source.set("contrast", 1).unwrap().image(3).2, want);
}

#[test]
fn evaluation_of_the_generated_subset() {
    let mut bench = Bench::new();
    let result = bench.run(&CorruptionSource::Generated(greys()), None).unwrap();
    assert_eq!((result.source.as_str(), result.generated_subset, result.images), ("generated subset", true, N));
    assert_eq!(result.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), GENERATED);
    for row in &result.rows {
        // Only brightness changes the red of a grey image by more than 1: by 12, which the model forgives, and by 25
        // to 76, which leaves it right about the brightest class alone.
        let want = if row.name == "brightness" { [1.0, 0.1, 0.1, 0.1, 0.1] } else { [1.0; 5] };
        assert_eq!(row.accuracy, want.map(Some), "{}", row.name);
    }
    assert_near(result.mean_all, (30.0 + 1.4) / 35.0);
    assert_near(result.mean_severity_5.unwrap(), 6.1 / 7.0);
    assert_eq!((result.mean_benchmark, result.missing.len()), (None, 12));
    assert_eq!(bench.messages()[2], "generated subset 3/7 brightness: 100.0 10.0 10.0 10.0 10.0 %");
    // Seven rows of 30 pixels, and no taller for the 12 that are missing.
    let picture = keep(&result, "robustness_generated");
    assert!(picture.height() > 7 * 30 && picture.height() < 7 * 30 + 120, "{}", picture.height());
    let table = result.table();
    for part in [
        "generated subset: accuracy in %, 10 images per corruption and severity\n",
        "mean over all severities 89.7, severity 5 only 87.1\n",
        "generated subset of CIFAR-10-C: the deterministic corruptions, made from the test images\n",
        "missing (12 of 19): gaussian_noise, ",
    ] {
        assert!(table.contains(part), "`{part}` is not in:\n{table}");
    }
}

#[test]
fn files() {
    let dir = folder(["saturate", "fog"]);
    let result = Bench::new().run(&open(&dir), Some(&[("saturate", 5), ("fog", 1), ("fog", 5)])).unwrap();
    let out = tempfile::tempdir().unwrap();
    result.write(out.path(), "student_cifar10_c").unwrap();
    let text = std::fs::read_to_string(out.path().join("student_cifar10_c.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "source": "CIFAR-10-C",
            "generated_subset": false,
            "images": 10,
            "missing": [],
            "mean_all": (0.9 + 0.5 + 0.2) / 3.0,
            "mean_severity_5": 0.35,
            "mean_benchmark": null,
            "rows": [
                { "name": "fog", "accuracy": [0.9, null, null, null, 0.5] },
                { "name": "saturate", "accuracy": [null, null, null, null, 0.2] },
            ],
        })
    );
    assert_eq!(serde_json::from_str::<Robustness>(&text).unwrap(), result);
    let png = std::fs::read(out.path().join("student_cifar10_c.png")).unwrap();
    assert_eq!(&png[1..4], b"PNG");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 2, "no temporary files stay");
    assert_error(result.write(out.path().join("none"), "x"), &["none/x.json: could not write"]);
}

#[test]
fn bad_input() {
    let dir = folder(["saturate", "fog"]);
    let mut bench = Bench::new();
    let official = open(&dir);
    let generated = CorruptionSource::Generated(greys());

    assert_error(official.clone().limited(0), &["a limit of at least 1 image per corruption and severity, got 0"]);
    assert_error(generated.clone().limited(0), &["a limit of at least 1 image", "leave the limit out"]);
    assert_error(official.set("frost", 1), &["of the CIFAR-10-C: fog, saturate, got frost", "add its .npy file"]);
    assert_error(generated.set("frost", 1), &["defocus_blur, zoom_blur", "got frost; pass CIFAR-10-C's folder"]);
    assert_error(official.set("rain", 1), &["a name of CIFAR-10-C, got rain"]);
    for severity in [0, 6] {
        let got = format!("a severity from 1 to 5, got {severity}");
        assert_error(official.set("fog", severity), &[&got]);
        assert_error(generated.set("contrast", severity), &[&got]);
    }

    assert_error(bench.run(&official, Some(&[])), &["robustness: expected at least one corruption", "an empty list"]);
    // The second pair is refused before the first one is evaluated.
    assert_error(bench.run(&official, Some(&[("fog", 1), ("frost", 1)])), &["got frost"]);
    assert_error(bench.run(&official, Some(&[("fog", 1), ("fog", 7)])), &["got 7"]);

    let large = synthetic::images(4, 2, 64, 48, 1).unwrap().renamed("photos");
    let large = CorruptionSource::Generated(large);
    let parts = ["expected 32x32 test images to generate from, got 64x48 images in `photos`", "pass its test set"];
    assert_error(large.set("contrast", 1), &parts);
    assert_error(bench.run(&large, None), &parts);
    assert_eq!(bench.messages(), Vec::<String>::new());

    bench.session.stop.stop();
    assert_error(bench.run(&official, None), &["interrupted; the state is saved; go on with --resume"]);
    assert_eq!(bench.messages(), Vec::<String>::new());
}
