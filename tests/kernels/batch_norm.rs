//! `kernels/batch_norm.cu` against the host twin and the oracle.

use super::Case;
use super::common::oracle::batch_norm as oracle;
use super::common::{assert_close, assert_error, random, rtol_sum, widen};
use super::gpu::{Float, assert_bits, gpu};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu::batch_norm as cpu;
use warpsmith::cuda::batch_norm::{self as cuda, Gradients, Running, Statistics, Tables};

pub const CASES: &[Case] = &[
    ("batch_norm::f32_matches_the_oracle_and_the_cpu", || matches_the_cpu::<f32>()),
    ("batch_norm::bf16_matches_the_cpu_on_rounded_images", || matches_the_cpu::<bf16>()),
    ("batch_norm::a_large_mean_does_not_swallow_the_variance", large_mean),
    ("batch_norm::running_statistics_follow_both_keras", running_statistics),
    ("batch_norm::bad_input_is_an_error", bad_input),
];

const EPS: f32 = 1.001e-5;

/// `(rows, c)`, each with its reason.
const PROBLEMS: [(usize, usize, &str); 9] = [
    (1, 1, "one element"),
    (2, 7, "no whole pack in a row, rows unaligned"),
    (1, 2048, "the last stage at one pixel, one image"),
    (5, 2048, "more blocks across than down"),
    (997, 64, "a row of a block is half the threads in bf16"),
    (1_031, 130, "channels between the packs"),
    (100_003, 1, "one channel, many blocks of rows"),
    (10_007, 7, "channels that fit no pack, many rows"),
    (20_000, 64, "the first stage"),
];

type Buffer = CudaSlice<f32>;

struct Setup<T: Float> {
    rows: usize,
    c: usize,
    x: Vec<f32>,
    dy: Vec<f32>,
    residual: Vec<f32>,
    tables: [Vec<f32>; 4],
    dx: CudaSlice<T>,
    ddy: CudaSlice<T>,
    dresidual: CudaSlice<T>,
    dtables: [Buffer; 4],
    workspace: Buffer,
}

impl<T: Float> Setup<T> {
    fn new(rows: usize, c: usize) -> Self {
        let gpu = gpu();
        let x: Vec<f32> = random(rows * c, 1).iter().enumerate().map(|(i, x)| x + (i % c) as f32 * 0.1).collect();
        let [x, dy, residual] = [x, random(rows * c, 2), random(rows * c, 5)].map(|v| T::rounded(&v));
        let (mut mean, mut var, mut inv_std) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
        cpu::statistics(rows, c, &x, &mut mean, &mut var).unwrap();
        cpu::inv_std(&var, EPS, &mut inv_std).unwrap();
        let tables = [mean, inv_std, random(c, 3), random(c, 4)];
        let dtables = std::array::from_fn(|i| gpu.put(&tables[i]));
        let workspace = gpu.stream.alloc_zeros(cuda::workspace_elems(rows, c)).unwrap();
        let [dx, ddy, dresidual] = [&x, &dy, &residual].map(|v| gpu.put(&T::from_floats(v)));
        Setup { rows, c, x, dy, residual, tables, dx, ddy, dresidual, dtables, workspace }
    }

    fn device_tables(&self) -> Tables<'_, Buffer> {
        let [mean, inv_std, gamma, beta] = &self.dtables;
        Tables { mean, inv_std, gamma, beta }
    }

    /// The output of the host twin, with the residual between it and the ReLU.
    fn host_output(&self, residual: bool, relu: bool) -> Vec<f32> {
        let [mean, inv_std, gamma, beta] = &self.tables;
        let mut y = vec![0.0; self.x.len()];
        let (rows, c) = (self.rows, self.c);
        cpu::normalize(rows, c, &self.x, mean, inv_std, gamma, beta, relu && !residual, &mut y).unwrap();
        if residual {
            for (y, r) in y.iter_mut().zip(&self.residual) {
                *y += r;
                *y = if relu && *y < 0.0 { 0.0 } else { *y };
            }
        }
        y
    }
}

fn matches_the_cpu<T: Float>() {
    for problem @ (rows, c, _) in PROBLEMS {
        let mut s = Setup::<T>::new(rows, c);
        statistics_match(&mut s, &problem);
        for (residual, relu) in [(false, false), (false, true), (true, false), (true, true)] {
            normalize_matches(&s, residual, relu);
            for statistics in [Statistics::OfBatch, Statistics::Constant] {
                backward_matches(&mut s, &problem, residual, relu, statistics);
            }
        }
    }
}

fn statistics_match<T: Float>(s: &mut Setup<T>, problem: &(usize, usize, &str)) {
    let (gpu, c) = (gpu(), s.c);
    let mut out: [Buffer; 3] = std::array::from_fn(|_| gpu.stream.alloc_zeros(c).unwrap());
    let [mean, var, inv_std] = &mut out;
    let none = None::<Running<Buffer>>;
    let outputs = [mean, var, inv_std];
    cuda::statistics(&gpu.kernels, (s.rows, c), &s.dx, EPS, none, outputs, &mut s.workspace, &gpu.stream).unwrap();
    let [mean, var, inv_std] = out.map(|buffer| gpu.get(&buffer));
    let (want_mean, want_var) = oracle::statistics(s.rows, c, &widen(&s.x));
    let scale = c as f64 * 0.1 + 1.0;
    assert_close("mean", problem, &[c], &mean, &want_mean, 1e-6 * scale, 1e-6);
    assert_close("var", problem, &[c], &var, &want_var, 1e-7 * scale, 4e-6);
    let mut want = vec![0.0; c];
    cpu::inv_std(&var, EPS, &mut want).unwrap();
    assert_bits(&inv_std, &want, "inv_std");
    let mut again = gpu.stream.alloc_zeros::<f32>(c).unwrap();
    cuda::inv_std(&gpu.kernels, &gpu.put(&var), EPS, &mut again, &gpu.stream).unwrap();
    assert_bits(&gpu.get(&again), &want, "inv_std on its own");
}

fn normalize_matches<T: Float>(s: &Setup<T>, residual: bool, relu: bool) {
    let gpu = gpu();
    let mut y = gpu.stream.alloc_zeros::<T>(s.x.len()).unwrap();
    let dresidual = residual.then_some(&s.dresidual);
    let tables = s.device_tables();
    cuda::normalize(&gpu.kernels, (s.rows, s.c), &s.dx, &tables, dresidual, relu, &mut y, &gpu.stream).unwrap();
    let want = T::rounded(&s.host_output(residual, relu));
    assert_bits(&T::to_floats(&gpu.get(&y)), &want, &format!("normalize {:?} {residual} {relu}", (s.rows, s.c)));
}

/// `(dx, dgamma, dbeta)` in f64 for the gradient `g` behind the ReLU; the tables hold 1 / sqrt(var + eps).
fn oracle_backward<T: Float>(s: &Setup<T>, g: &[f32], statistics: Statistics) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let [mean, inv_std, gamma, beta] = [0, 1, 2, 3].map(|i| widen(&s.tables[i]));
    let var: Vec<f64> = inv_std.iter().map(|inv_std| 1.0 / (inv_std * inv_std)).collect();
    let of_batch = statistics == Statistics::OfBatch;
    oracle::backward(s.c, &widen(&s.x), &widen(g), &mean, &var, 0.0, &gamma, &beta, false, of_batch)
}

fn backward_matches<T: Float>(
    s: &mut Setup<T>,
    problem: &(usize, usize, &str),
    residual: bool,
    relu: bool,
    statistics: Statistics,
) {
    let (gpu, rows, c) = (gpu(), s.rows, s.c);
    let elems = rows * c;
    // Where the output was not positive, nothing comes back.
    let y = s.host_output(residual, relu);
    let g: Vec<f32> = s.dy.iter().zip(&y).map(|(&dy, &y)| if relu && y <= 0.0 { 0.0 } else { dy }).collect();
    let before = T::rounded(&random(elems, 6));
    let [mean, inv_std, gamma, beta] = &s.tables;
    for accumulate in [false, true] {
        let mut want_dx = before.clone();
        let (mut want_dgamma, mut want_dbeta) = (random(c, 7), random(c, 8));
        let twin = match statistics {
            Statistics::OfBatch => cpu::backward_train,
            Statistics::Constant => cpu::backward_inference,
        };
        let oracle = oracle_backward(s, &g, statistics);
        let added = |want: Vec<f64>, before: &[f32]| want.iter().zip(before).map(|(w, &b)| w + f64::from(b)).collect();
        let exact_dx: Vec<f64> = if accumulate { added(oracle.0, &before) } else { oracle.0 };
        let exact: [Vec<f64>; 2] = [added(oracle.1, &want_dgamma), added(oracle.2, &want_dbeta)];
        let (dgamma, dbeta) = (Some(&mut want_dgamma[..]), Some(&mut want_dbeta[..]));
        let dx = Some(&mut want_dx[..]);
        twin(rows, c, &s.x, &g, mean, inv_std, gamma, beta, false, dx, accumulate, dgamma, dbeta).unwrap();

        let (mut dx, mut dr) = (gpu.put(&T::from_floats(&before)), gpu.put(&T::from_floats(&before)));
        let (mut dgamma, mut dbeta) = (gpu.put(&random(c, 7)), gpu.put(&random(c, 8)));
        let gradients = Gradients {
            dx: Some(&mut dx),
            dresidual: residual.then_some(&mut dr),
            accumulate,
            dgamma: Some(&mut dgamma),
            dbeta: Some(&mut dbeta),
        };
        let [mean, inv_std, gamma, beta] = &s.dtables;
        let tables = Tables { mean, inv_std, gamma, beta };
        let dresidual = residual.then_some(&s.dresidual);
        cuda::backward(
            &gpu.kernels,
            (rows, c),
            (&s.dx, &s.ddy),
            &tables,
            dresidual,
            relu,
            statistics,
            gradients,
            &mut s.workspace,
            &gpu.stream,
        )
        .unwrap();
        let what = format!("{problem:?} residual {residual} relu {relu} {statistics:?} accumulate {accumulate}");
        // Sums of `rows` products of numbers up to about one, times gamma * inv_std for dx.
        let rtol = rtol_sum(rows);
        let size = |ch: usize| f64::from(s.tables[1][ch].abs()).max(1.0);
        let widest = (0..c).map(size).fold(1.0, f64::max);
        assert_close("dgamma", &what, &[c], &gpu.get(&dgamma), &widen(&want_dgamma), rtol * widest * 8.0, rtol);
        assert_close("dbeta", &what, &[c], &gpu.get(&dbeta), &widen(&want_dbeta), rtol * 8.0, rtol);
        let got = T::to_floats(&gpu.get(&dx));
        let atol = rtol_sum(rows) * widest * 4.0;
        assert_close("dx", &what, &[rows, c], &got, &widen(&want_dx), atol, rtol + T::EPSILON);
        for (name, got, want) in [("dgamma", &dgamma, &exact[0]), ("dbeta", &dbeta, &exact[1])] {
            assert_close(&format!("oracle {name}"), &what, &[c], &gpu.get(got), want, rtol * widest * 8.0, rtol);
        }
        assert_close("oracle dx", &what, &[rows, c], &got, &exact_dx, atol, rtol + T::EPSILON);
        let want: Vec<f32> = match residual {
            true => before.iter().zip(&g).map(|(b, g)| if accumulate { b + g } else { *g }).collect(),
            false => before.clone(),
        };
        assert_bits(&T::to_floats(&gpu.get(&dr)), &T::rounded(&want), "dresidual");
    }
}

/// Values around 4096 ± 1: a sum of squares in f32 would lose the variance altogether.
fn large_mean() {
    let gpu = gpu();
    let (rows, c) = (50_021, 3);
    let x: Vec<f32> = random(rows * c, 5).iter().map(|x| x + 4096.0).collect();
    let mut out: [Buffer; 3] = std::array::from_fn(|_| gpu.stream.alloc_zeros(c).unwrap());
    let [mean, var, inv_std] = &mut out;
    let mut workspace = gpu.stream.alloc_zeros(cuda::workspace_elems(rows, c)).unwrap();
    let (dx, outputs) = (gpu.put(&x), [mean, var, inv_std]);
    let none = None::<Running<Buffer>>;
    cuda::statistics(&gpu.kernels, (rows, c), &dx, EPS, none, outputs, &mut workspace, &gpu.stream).unwrap();
    let (want_mean, want_var) = oracle::statistics(rows, c, &widen(&x));
    assert_close("mean", &"offset 4096", &[c], &gpu.get(&out[0]), &want_mean, 0.0, 4e-7);
    assert_close("var", &"offset 4096", &[c], &gpu.get(&out[1]), &want_var, 0.0, 4e-6);
}

fn running_statistics() {
    let gpu = gpu();
    let (rows, c) = (11, 5);
    let x = random(rows * c, 9);
    for unbiased in [false, true] {
        let mut out: [Buffer; 3] = std::array::from_fn(|_| gpu.stream.alloc_zeros(c).unwrap());
        let [mean, var, inv_std] = &mut out;
        let (mut host_mean, mut host_var) = (random(c, 10), vec![1.0; c]);
        let (mut running_mean, mut running_var) = (gpu.put(&host_mean), gpu.put(&host_var));
        let running = Running { mean: &mut running_mean, var: &mut running_var, momentum: 0.9, unbiased };
        let mut workspace = gpu.stream.alloc_zeros(cuda::workspace_elems(rows, c)).unwrap();
        let (dx, outputs) = (gpu.put(&x), [mean, var, inv_std]);
        let running = Some(running);
        cuda::statistics(&gpu.kernels, (rows, c), &dx, EPS, running, outputs, &mut workspace, &gpu.stream).unwrap();
        let [mean, var, _] = out.map(|buffer| gpu.get(&buffer));
        cpu::update_running(&mut host_mean, &mut host_var, &mean, &var, rows, 0.9, unbiased).unwrap();
        assert_bits(&gpu.get(&running_mean), &host_mean, "running mean");
        assert_bits(&gpu.get(&running_var), &host_var, "running var");
    }
}

fn bad_input() {
    let gpu = gpu();
    let s = Setup::<f32>::new(4, 3);
    let none = None::<&Buffer>;
    let tables = s.device_tables();
    let mut y = gpu.stream.alloc_zeros::<f32>(11).unwrap();
    let result = cuda::normalize(&gpu.kernels, (4, 3), &s.dx, &tables, none, false, &mut y, &gpu.stream);
    assert_error(result, &["batch_norm normalize", "`y`", "12", "11"]);
    let result = cuda::normalize(&gpu.kernels, (0, 3), &s.dx, &tables, none, false, &mut y, &gpu.stream);
    assert_error(result, &["rows > 0", "[0, 3]"]);
    let (huge, nothing) = ((1 << 41, 1 << 23), s.dx.slice(0..0));
    let result =
        cuda::normalize(&gpu.kernels, huge, &nothing, &tables, none, false, &mut y.slice_mut(0..0), &gpu.stream);
    assert_error(result, &["batch_norm normalize", "fits the address space"]);
    assert_eq!(cuda::workspace_elems(usize::MAX, usize::MAX), usize::MAX, "more than there is");
    let mut short = gpu.stream.alloc_zeros::<f32>(1).unwrap();
    let mut dgamma = gpu.stream.alloc_zeros::<f32>(3).unwrap();
    let gradients = Gradients {
        dx: None::<&mut Buffer>,
        dresidual: None,
        accumulate: false,
        // Without sums there is nothing that a workspace is needed for.
        dgamma: Some(&mut dgamma),
        dbeta: None,
    };
    let result = cuda::backward(
        &gpu.kernels,
        (4, 3),
        (&s.dx, &s.ddy),
        &tables,
        none,
        false,
        Statistics::OfBatch,
        gradients,
        &mut short,
        &gpu.stream,
    );
    assert_error(result, &["a workspace of at least", "got 1"]);
}
