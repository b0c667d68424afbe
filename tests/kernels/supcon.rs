//! `kernels/supcon.cu` against the host twin, the oracle and the golden files.

use super::Case;
use super::common::oracle::supcon as oracle;
use super::common::{assert_close, assert_error, random, widen};
use super::gpu::{Float, assert_bits, gpu};
use cudarc::driver::CudaSlice;
use half::bf16;
use std::path::Path;
use warpsmith::cpu;
use warpsmith::cuda::supcon::{self, Plan};
use warpsmith::problem::{Form, MeanOver, Supcon};

pub const CASES: &[Case] = &[
    ("supcon::normalisation_f32_matches_the_cpu", normalisation::<f32>),
    ("supcon::normalisation_bf16_matches_the_cpu", normalisation::<bf16>),
    ("supcon::similarity_matrix_f32_equals_the_oracle", similarity_matrix::<f32>),
    ("supcon::similarity_matrix_bf16_equals_the_oracle", similarity_matrix::<bf16>),
    ("supcon::loss_f32_matches_the_cpu", loss_matches_the_cpu),
    ("supcon::loss_f32_matches_the_oracle", loss_matches_the_oracle::<f32>),
    ("supcon::loss_bf16_matches_the_oracle", loss_matches_the_oracle::<bf16>),
    ("supcon::degenerate_batches_are_finite", degenerate_batches_are_finite),
    ("supcon::extreme_similarities_do_not_overflow", extreme_similarities),
    ("supcon::loss_matches_the_golden_files", golden),
    ("supcon::bad_input_is_an_error", bad_input),
    ("supcon::counters_of_the_tiles", counters),
];

fn put<T: Float>(x: &[f32]) -> CudaSlice<T> {
    gpu().put(&T::from_floats(x))
}

fn zeros<T: Float>(elems: usize) -> CudaSlice<T> {
    gpu().stream.alloc_zeros::<T>(elems).unwrap()
}

fn normalisation<T: Float>() {
    let (gpu, s) = (gpu(), &gpu().stream);
    // One number, tails of a pack and of a warp's row, whole packs, more rows than a block.
    for shape @ (n, dim) in [(1, 1), (5, 3), (17, 128), (9, 257), (33, 1000)] {
        let mut z = T::rounded(&random(n * dim, 1));
        let (dy, old) = (T::rounded(&random(n * dim, 2)), T::rounded(&random(n * dim, 3)));
        if n > 1 {
            z[dim..2 * dim].fill(0.0);
        }
        for eps in [1e-12, 0.1 * dim as f32] {
            let mut want = vec![0.0; z.len()];
            cpu::supcon::l2_normalize(n, dim, eps, &z, &mut want).unwrap();
            let (dz, mut y) = (put::<T>(&z), zeros::<T>(z.len()));
            supcon::l2_normalize(&gpu.kernels, shape, eps, &dz, &mut y, s).unwrap();
            let close = |op, got: &CudaSlice<T>, want: &[f32]| {
                let got = T::to_floats(&gpu.get(got));
                assert_close(op, &(shape, eps), &[n, dim], &got, &widen(want), 1e-6, 2.0 * T::EPSILON);
            };
            close("l2_normalize", &y, &want);
            for accumulate in [false, true] {
                let mut want = old.clone();
                let mut got = put::<T>(&old);
                cpu::supcon::l2_normalize_backward(n, dim, eps, &z, &dy, accumulate, &mut want).unwrap();
                let inputs = (&dz, &put::<T>(&dy));
                supcon::l2_normalize_backward(&gpu.kernels, shape, eps, inputs, accumulate, &mut got, s).unwrap();
                close("l2_normalize backward", &got, &want);
            }
        }
    }
}

/// Whole numbers from -3 to 3, and no -0: sums of products are exact.
fn whole(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|x| (x * 3.49).round() + 0.0).collect()
}

fn similarity_matrix<T: Float>() {
    let (gpu, s) = (gpu(), &gpu().stream);
    // One number, one row and one column more or less than a tile, depths of whole packs and others, the document's batch.
    for shape @ (n, dim) in [(1, 1), (2, 3), (63, 16), (65, 17), (64, 128), (130, 40), (265, 5)] {
        let (z, dsim, old) = (whole(n * dim, 1), whole(n * n, 2), whole(n * dim, 3));
        let rounded = |x: Vec<f64>| T::rounded(&x.iter().map(|&x| x as f32).collect::<Vec<_>>());
        let want = rounded(oracle::similarity_matrix(dim, &widen(&z), 0.5));
        // A view from the second element on is unaligned.
        for shift in [0, 1] {
            let padded = put::<T>(&[&[9.0][..], &z].concat()[1 - shift..]);
            let mut sim = zeros::<T>(n * n);
            let z = padded.slice(shift..shift + n * dim);
            supcon::similarity_matrix(&gpu.kernels, shape, &z, 0.5, &mut sim, s).unwrap();
            assert_bits(&T::to_floats(&gpu.get(&sim)), &want, &format!("similarities {n} x {dim}, from {shift}"));
        }
        let mut gradient = vec![0.0; n * dim];
        for i in 0..n {
            for j in 0..n {
                let slope = f64::from(dsim[i * n + j]) + f64::from(dsim[j * n + i]);
                for k in 0..dim {
                    gradient[i * dim + k] += slope * f64::from(z[j * dim + k]) / 0.5;
                }
            }
        }
        for accumulate in [false, true] {
            let sums = gradient.iter().zip(&old).map(|(g, &old)| if accumulate { g + f64::from(old) } else { *g });
            let want = rounded(sums.collect());
            let (inputs, mut got) = ((&put::<T>(&z), &put::<T>(&dsim)), put::<T>(&old));
            supcon::similarity_matrix_backward(&gpu.kernels, shape, inputs, 0.5, accumulate, &mut got, s).unwrap();
            assert_bits(&T::to_floats(&gpu.get(&got)), &want, &format!("backward {n} x {dim}, {accumulate}"));
        }
    }
}

/// One batch on the device.
struct Run {
    loss: f32,
    dz: Vec<f32>,
    unit: Vec<f32>,
}

/// Loss and gradient times `dloss`, added to `old` if there is one.
fn run<T: Float>(
    settings: &Supcon,
    [batch, views, dim]: [usize; 3],
    z: &[f32],
    labels: &[i32],
    (dloss, old): (f32, Option<&[f32]>),
) -> Run {
    let (gpu, s) = (gpu(), &gpu().stream);
    let plan = Plan::new(settings, batch, views, dim).unwrap();
    let (z, labels) = (put::<T>(z), gpu.put(labels));
    // Nothing may depend on what a buffer holds.
    let (mut unit, mut state) =
        (put::<T>(&vec![f32::NAN; plan.unit_elems()]), put(&vec![f32::NAN; plan.state_elems()]));
    let (mut workspace, mut loss) = (put(&vec![f32::NAN; plan.workspace_elems()]), gpu.put(&[9.0f32]));
    let saved = (&mut unit, &mut state);
    supcon::loss(&gpu.kernels, &plan, (&z, &labels), saved, &mut loss, &mut workspace, s).unwrap();
    let mut workspace = put(&vec![f32::NAN; plan.workspace_elems()]);
    let mut dz = put::<T>(old.unwrap_or(&vec![f32::NAN; z.len()]));
    let (saved, dloss) = ((&unit, &state), gpu.put(&[dloss]));
    let accumulate = old.is_some();
    supcon::loss_backward(&gpu.kernels, &plan, (&z, &labels), saved, &dloss, accumulate, &mut dz, &mut workspace, s)
        .unwrap();
    let pitch = plan.unit_elems() / (batch * views);
    let padded = T::to_floats(&gpu.get(&unit));
    assert!(padded.chunks(pitch).all(|row| row[dim..].iter().all(|&x| x == 0.0)));
    let unit = padded.chunks(pitch).flat_map(|row| row[..dim].to_vec()).collect();
    Run { loss: gpu.get(&loss)[0], dz: T::to_floats(&gpu.get(&dz)), unit }
}

fn forms(temperature: f32) -> Vec<Supcon> {
    let mut all = Vec::new();
    for form in [Form::Npairs, Form::Out, Form::In] {
        for mean_over in [MeanOver::WithPositive, MeanOver::All] {
            all.push(Supcon { form, mean_over, temperature, scale: 0.7, ..Supcon::default() });
        }
    }
    all
}

/// `(batch, views, dim, classes)`: one anchor; everyone alone; views; one more and one less than a tile; whole tiles; the
/// document's batch; more dimensions than a block's share; an odd one of several parts.
const PROBLEMS: [(usize, usize, usize, usize); 10] = [
    (1, 1, 1, 1),
    (2, 1, 3, 1),
    (4, 1, 3, 4),
    (6, 2, 5, 3),
    (63, 1, 17, 4),
    (13, 5, 24, 2),
    (64, 2, 32, 10),
    (265, 1, 16, 10),
    (70, 1, 300, 7),
    (5, 1, 128, 2),
];

/// Embeddings behind a ReLU, as projection heads give them; the last sample is alone in its class.
fn case<T: Float>((batch, views, dim, classes): (usize, usize, usize, usize)) -> (Vec<f32>, Vec<i32>) {
    let z: Vec<f32> = random(batch * views * dim, 1).iter().map(|z| z.max(0.0) + 0.01).collect();
    let mut labels: Vec<i32> = (0..batch).map(|i| ((i * 5 + 1) % classes) as i32).collect();
    if batch > 2 {
        labels[batch - 1] = 99;
    }
    (T::rounded(&z), labels)
}

fn largest(x: &[f32]) -> f64 {
    x.iter().fold(0.0f64, |max, &x| max.max(f64::from(x).abs()))
}

fn loss_matches_the_cpu() {
    for problem @ (batch, views, dim, _) in PROBLEMS {
        let (z, labels) = case::<f32>(problem);
        for settings in forms(0.1) {
            let mut want = vec![0.0; z.len()];
            let loss = cpu::supcon::loss(&settings, batch, views, dim, &z, &labels, Some((0.5, &mut want))).unwrap();
            let got = run::<f32>(&settings, [batch, views, dim], &z, &labels, (0.5, None));
            let what = (problem, settings);
            assert_close("supcon", &what, &[1], &[got.loss], &[f64::from(loss)], 1e-6, 2e-6);
            // A similarity of 10 is off by an eps or two, and so is its exponential by ten times that.
            let atol = 4e-6 * largest(&want) + 1e-6;
            assert_close("dz", &what, &[batch * views, dim], &got.dz, &widen(&want), atol, 4e-6);
            let old = random(z.len(), 9);
            let sum = run::<f32>(&settings, [batch, views, dim], &z, &labels, (0.5, Some(&old)));
            let want: Vec<f32> = old.iter().zip(&got.dz).map(|(old, dz)| old + dz).collect();
            assert_bits(&sum.dz, &want, "added to what was there");
        }
    }
}

fn loss_matches_the_oracle<T: Float>() {
    for problem @ (batch, views, dim, _) in PROBLEMS {
        let (z, labels) = case::<T>(problem);
        for settings in forms(0.1) {
            let got = run::<T>(&settings, [batch, views, dim], &z, &labels, (0.5, None));
            let (what, eps) = ((problem, settings), f64::from(settings.norm_eps));
            let unit = oracle::l2_normalize(dim, &widen(&z), eps);
            assert_close("unit", &what, &[batch * views, dim], &got.unit, &unit, 0.0, T::EPSILON);
            // From the rounded rows on sums are f32: what remains of bf16 are slopes and results.
            let (loss, dn) = oracle::loss_of_unit_rows(&settings, views, dim, &widen(&got.unit), &labels);
            assert_close("supcon", &what, &[1], &[got.loss], &[loss], 1e-6, 2e-6);
            let dn: Vec<f64> = dn.iter().map(|x| 0.5 * x).collect();
            let want = oracle::l2_normalize_backward(dim, &widen(&z), &dn, eps);
            let scale = want.iter().fold(0.0f64, |max, x| max.max(x.abs()));
            let precision = (2.0 * T::EPSILON).max(4e-6);
            assert_close("dz", &what, &[batch * views, dim], &got.dz, &want, precision * scale + 1e-6, precision);
        }
    }
}

fn degenerate_batches_are_finite() {
    fn check<T: Float>() {
        for settings in forms(0.05) {
            // Pairs, nobody with a positive, one class.
            for labels in [[0, 0, 1, 1], [0, 1, 2, 3], [7, 7, 7, 7]] {
                let mut z = T::rounded(&random(12, 2));
                z[3..6].fill(0.0);
                let got = run::<T>(&settings, [4, 1, 3], &z, &labels, (1.0, None));
                let what = (settings, labels);
                assert!(got.loss.is_finite() && got.dz.iter().all(|dz| dz.is_finite()), "{what:?} {}", got.loss);
                let (want, _) = oracle::loss_of_unit_rows(&settings, 1, 3, &widen(&got.unit), &labels);
                assert_close("supcon", &what, &[1], &[got.loss], &[want], 2e-6, 2e-6);
                if settings.form != Form::Npairs && labels[1] == 1 {
                    assert_eq!((got.loss, got.dz), (0.0, vec![0.0; 12]));
                }
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

fn extreme_similarities() {
    // Opposite rows at a low temperature: exponentials from e^-500 to e^500.
    let z = [1.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0];
    for settings in forms(0.002) {
        for labels in [[0, 0, 1, 1], [0, 1, 0, 1]] {
            let got = run::<f32>(&settings, [4, 1, 2], &z, &labels, (1.0, None));
            let mut want = vec![0.0; 8];
            let loss = cpu::supcon::loss(&settings, 4, 1, 2, &z, &labels, Some((1.0, &mut want))).unwrap();
            assert_close("supcon", &settings, &[1], &[got.loss], &[f64::from(loss)], 1e-4, 1e-6);
            assert_close("dz", &settings, &[4, 2], &got.dz, &widen(&want), 1e-4 * largest(&want), 1e-4);
        }
    }
}

fn golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let index = std::fs::read_to_string(folder.join("contrastive.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let bytes = std::fs::read(folder.join("contrastive.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let f32s = |name: &str| -> Vec<f32> { bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data()) };
    let i32s = |name: &str| -> Vec<i32> { bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data()) };
    let mut compared = 0;
    for row in index["rows"].as_array().unwrap() {
        let Some((op, grad)) = row["op"].as_str().map(|op| (op.trim_end_matches(".grad"), op.ends_with(".grad")))
        else {
            continue;
        };
        let (name, args) = (row["name"].as_str().unwrap(), &row["args"]);
        let form = match op {
            "npairs" => Form::Npairs,
            "supcon_out" => Form::Out,
            "supcon_in" => Form::In,
            _ => continue,
        };
        let number = |key: &str, default: f64| args[key].as_f64().unwrap_or(default);
        let mean_over = if args["mean_over"] == "with_positive" { MeanOver::WithPositive } else { MeanOver::All };
        let settings = Supcon {
            form,
            temperature: number("temperature", f64::NAN) as f32,
            norm_eps: number("norm_eps", f64::NAN) as f32,
            scale: number("scale", 1.0) as f32,
            mean_over,
        };
        let input = |key: &str| row["inputs"][key].as_str().unwrap();
        let (z, labels) = (f32s(input("z")), i32s(input("labels")));
        let (batch, views) = (labels.len(), number("views", 1.0) as usize);
        let dim = z.len() / (batch * views);
        let got = run::<f32>(&settings, [batch, views, dim], &z, &labels, (1.0, None));
        if grad {
            let want = f32s(name);
            for (got, want) in got.dz.chunks(dim).zip(want.chunks(dim)) {
                assert_close(name, &settings, &[dim], got, &widen(want), 1e-4 * largest(want), 0.0);
            }
        } else {
            let want: Vec<f64> = bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data());
            assert_close(name, &settings, &[1], &[got.loss], &want, 0.0, 1e-5);
        }
        compared += 1;
    }
    assert_eq!(compared, 10, "rows of the golden file");
}

fn bad_input() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let default = Supcon::default();
    assert_error(
        Plan::new(&Supcon { temperature: 0.0, ..default }, 4, 1, 3),
        &["a positive temperature", "0.05 to 0.1"],
    );
    assert_error(Plan::new(&Supcon { norm_eps: -1.0, ..default }, 4, 1, 3), &["positive floor", "1e-12"]);
    assert_error(Plan::new(&default, 4, 0, 3), &["positive extents", "[0, 3]"]);
    assert_error(Plan::new(&default, 1 << 20, 1 << 10, 3), &["below 2^30", "[1073741824, 3]"]);
    assert_error(Plan::new(&default, 4, 1, 1 << 27), &["fewer than 2^27 dimensions", "got 134217728"]);
    let plan = Plan::new(&default, 4, 1, 3).unwrap();
    let (z, labels, mut loss) = (put::<f32>(&[1.0; 12]), gpu.put(&[0, 0, 1, 1]), gpu.put(&[0.0f32]));
    let (unit, mut state) = (zeros::<f32>(plan.unit_elems() + 1), zeros::<f32>(plan.state_elems()));
    let mut workspace = zeros::<f32>(plan.workspace_elems());
    let mut unit_of = |range: std::ops::Range<usize>, labels: &CudaSlice<i32>, workspace: &mut CudaSlice<f32>| {
        let mut unit = unit.clone();
        let mut view = unit.slice_mut(range);
        supcon::loss(&gpu.kernels, &plan, (&z, labels), (&mut view, &mut state), &mut loss, workspace, s)
    };
    let whole = 0..plan.unit_elems();
    let shifted = 1..plan.unit_elems() + 1;
    assert_error(unit_of(shifted, &labels, &mut workspace), &["`unit` aligned to 16 bytes", "instead of a view"]);
    assert_error(unit_of(whole.clone(), &gpu.put(&[0; 3]), &mut workspace), &["supcon", "4 elements in `labels`"]);
    assert_error(unit_of(0..12, &labels, &mut workspace), &["32 elements in `unit`", "got 12"]);
    let result = unit_of(whole, &labels, &mut zeros::<f32>(1));
    assert_error(result, &["a workspace of at least 24 floats", "got 1", "Plan::workspace_elems"]);

    let (unit, mut dz) = (zeros::<f32>(plan.unit_elems()), zeros::<f32>(3));
    let (saved, dloss) = ((&unit, &state), gpu.put(&[1.0f32]));
    let result =
        supcon::loss_backward(&gpu.kernels, &plan, (&z, &labels), saved, &dloss, false, &mut dz, &mut workspace, s);
    assert_error(result, &["supcon backward", "12 elements in `dz`", "got 3"]);
    let mut sim = zeros::<f32>(15);
    let result = supcon::similarity_matrix(&gpu.kernels, (4, 3), &z, 1.0, &mut sim, s);
    assert_error(result, &["16 elements in `sim`", "got 15"]);
    let result = supcon::similarity_matrix(&gpu.kernels, (4, 3), &z, f32::NAN, &mut zeros::<f32>(16), s);
    assert_error(result, &["a positive temperature", "NaN"]);
    let result = supcon::similarity_matrix_backward(&gpu.kernels, (4, 3), (&z, &sim), 1.0, false, &mut dz, s);
    assert_error(result, &["similarity_matrix backward", "12 elements in `dz`"]);
    let result = supcon::l2_normalize(&gpu.kernels, (4, 3), 0.0, &z, &mut zeros::<f32>(12), s);
    assert_error(result, &["l2_normalize", "positive floor"]);
    let result = supcon::l2_normalize_backward(&gpu.kernels, (4, 3), 1.0, (&z, &sim), false, &mut dz, s);
    assert_error(result, &["l2_normalize backward", "12 elements in `dy`", "got 15"]);
}

/// Shared memory almost without bank conflicts: tiles are read, slopes and measures exchanged through it.
fn counters() {
    fn check<T: Float>() {
        let (gpu, s) = (gpu(), &gpu().stream);
        let (z, labels) = case::<T>((265, 1, 128, 10));
        run::<T>(&Supcon::default(), [265, 1, 128], &z, &labels, (1.0, None));
        let mut sim = zeros::<T>(265 * 265);
        supcon::similarity_matrix(&gpu.kernels, (265, 128), &put::<T>(&z), 0.5, &mut sim, s).unwrap();
        let report = warpsmith_emulator::report().unwrap();
        for (name, grid) in
            [("supcon_measure", [5, 5, 1]), ("supcon_gradient", [5, 5, 1]), ("similarity_matrix", [25, 1, 1])]
        {
            let name = format!("{name}_{}", T::SUFFIX);
            // Other tests run beside this one.
            let launch = report.launches.iter().rev().find(|l| l.kernel == name && l.grid == grid).unwrap();
            let (waves, ideal) = (launch.get("shared_wavefronts"), launch.get("shared_ideal_wavefronts"));
            println!("{name} {:?}: {waves} wavefronts, {ideal} at best", launch.grid);
            assert!(waves as f64 <= 1.05 * ideal as f64, "{name}: {waves} wavefronts, {ideal} at best");
        }
    }
    if std::env::var_os("WARPSMITH_CUDA").is_none() {
        check::<f32>();
        check::<bf16>();
    }
}
