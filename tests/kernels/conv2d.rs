//! `kernels/conv2d.cu` against the oracle and the host twin.
//!
//! Most tests compute with small whole numbers: products and sums are exact in f32 whatever their order, so that results
//! are compared bit by bit. How sums round is tested with real numbers.

use super::Case;
use super::common::oracle::conv2d as oracle;
use super::common::{assert_close, assert_error, problems, random};
use super::gpu::{Float, assert_bits, gpu};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu::conv2d as cpu;
use warpsmith::cuda::conv2d::{self as cuda, Pass, Plan};
use warpsmith::problem::{Conv2dProblem, Window};

pub const CASES: &[Case] = &[
    ("conv2d::curated_f32", || curated::<f32>(Plan::candidates::<f32>)),
    ("conv2d::curated_tf32", || curated::<f32>(Plan::tf32_candidates)),
    ("conv2d::curated_bf16", || curated::<bf16>(Plan::candidates::<bf16>)),
    ("conv2d::resnet_f32", || resnet::<f32>(Plan::new::<f32>)),
    ("conv2d::resnet_tf32", || resnet::<f32>(Plan::tf32)),
    ("conv2d::resnet_bf16", || resnet::<bf16>(Plan::new::<bf16>)),
    ("conv2d::unaligned_views", unaligned_views),
    ("conv2d::rounding_f32", || rounding::<f32>(Plan::candidates::<f32>, 0.0)),
    ("conv2d::rounding_tf32", || rounding::<f32>(Plan::tf32_candidates, 1.0 / 2048.0)),
    ("conv2d::rounding_bf16", || rounding::<bf16>(Plan::candidates::<bf16>, 0.0)),
    ("conv2d::bias_grad_equals_the_oracle", bias_grad),
    ("conv2d::counters_of_the_main_loops", counters),
    ("conv2d::bad_input_is_an_error", bad_input),
];

fn problem(x: [u32; 4], [k, r, s]: [u32; 3], window: Window) -> Conv2dProblem {
    Conv2dProblem::new(x, [k, r, s, x[3]], window).unwrap()
}

/// The plans of a pass over a problem.
type Plans = fn(Pass, &Conv2dProblem) -> warpsmith::Result<Vec<Plan>>;

/// Every distinct convolution of ResNet50V2 at 32x32.
fn resnet_layers(n: u32) -> Vec<(Conv2dProblem, &'static str)> {
    let (square, same, half) = (Window::square(0, 1), Window::square(1, 1), Window::square(1, 2));
    [
        (32, 3, 64, 7, Window::square(3, 2), "stem"),
        (8, 64, 256, 1, square, "s1.sc, s1.c3"),
        (8, 64, 64, 1, square, "s1.c1a"),
        (8, 64, 64, 3, same, "s1.c2"),
        (8, 256, 64, 1, square, "s1.c1"),
        (8, 64, 64, 3, half, "s1.c2_s2"),
        (4, 64, 256, 1, square, "s1.c3_end"),
        (4, 256, 512, 1, square, "s2.sc"),
        (4, 256, 128, 1, square, "s2.c1a"),
        (4, 128, 128, 3, same, "s2.c2"),
        (4, 128, 512, 1, square, "s2.c3"),
        (4, 512, 128, 1, square, "s2.c1"),
        (4, 128, 128, 3, half, "s2.c2_s2"),
        (2, 128, 512, 1, square, "s2.c3_end"),
        (2, 512, 1024, 1, square, "s3.sc"),
        (2, 512, 256, 1, square, "s3.c1a"),
        (2, 256, 256, 3, same, "s3.c2"),
        (2, 256, 1024, 1, square, "s3.c3"),
        (2, 1024, 256, 1, square, "s3.c1"),
        (2, 256, 256, 3, half, "s3.c2_s2"),
        (1, 256, 1024, 1, square, "s3.c3_end"),
        (1, 1024, 2048, 1, square, "s4.sc"),
        (1, 1024, 512, 1, square, "s4.c1a"),
        (1, 512, 512, 3, same, "s4.c2"),
        (1, 512, 2048, 1, square, "s4.c3"),
        (1, 2048, 512, 1, square, "s4.c1"),
    ]
    .map(|(size, c, k, r, window, name)| (problem([n, size, size, c], [k, r, r], window), name))
    .to_vec()
}

/// Whole numbers from -3 to 3, and no -0: a sum of nothing is 0.
fn whole(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|x| (x * 3.49).round() + 0.0).collect()
}

fn exact(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// What a pass reads and writes, on the host.
struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    dw: Vec<f32>,
}

impl Data {
    fn new(p: &Conv2dProblem, numbers: fn(usize, u64) -> Vec<f32>) -> Data {
        Data {
            x: numbers(p.x_elems(), 1),
            w: numbers(p.w_elems(), 2),
            dy: numbers(p.y_elems(), 3),
            bias: numbers(p.k as usize, 4),
            residual: numbers(p.y_elems(), 5),
            dw: numbers(p.w_elems(), 6),
        }
    }

    fn rounded<T: Float>(self) -> Data {
        let Data { x, w, dy, residual, .. } = &self;
        Data { x: T::rounded(x), w: T::rounded(w), dy: T::rounded(dy), residual: T::rounded(residual), ..self }
    }

    /// Runs a plan on the device.
    fn run<T: Float>(&self, plan: &Plan, extras: bool) -> Vec<f32> {
        let (gpu, s, p) = (gpu(), &gpu().stream, plan.problem());
        let mut workspace = s.alloc_zeros::<f32>(plan.workspace_elems().max(1)).unwrap();
        let put = |x: &[f32]| gpu.put(&T::from_floats(x));
        match plan.pass() {
            Pass::Fprop => {
                let (x, w, mut y) = (put(&self.x), put(&self.w), s.alloc_zeros::<T>(p.y_elems()).unwrap());
                let (bias, residual) = (extras.then(|| gpu.put(&self.bias)), extras.then(|| put(&self.residual)));
                let (bias, residual) = (bias.as_ref(), residual.as_ref());
                cuda::fprop(&gpu.kernels, plan, (&x, &w), bias, residual, &mut y, &mut workspace, s).unwrap();
                T::to_floats(&gpu.get(&y))
            }
            Pass::Dgrad => {
                let (w, dy, mut dx) = (put(&self.w), put(&self.dy), s.alloc_zeros::<T>(p.x_elems()).unwrap());
                cuda::dgrad(&gpu.kernels, plan, (&w, &dy), &mut dx, &mut workspace, s).unwrap();
                T::to_floats(&gpu.get(&dx))
            }
            Pass::Wgrad => {
                let (x, dy, mut dw) = (put(&self.x), put(&self.dy), gpu.put(&self.dw));
                cuda::wgrad(&gpu.kernels, plan, (&x, &dy), &mut dw, &mut workspace, s).unwrap();
                gpu.get(&dw)
            }
        }
    }

    /// What the oracle says.
    fn want(&self, pass: Pass, p: &Conv2dProblem, extras: bool) -> Vec<f64> {
        match pass {
            Pass::Fprop if extras => oracle::fprop(p, &self.x, &self.w, Some(&self.bias), Some(&self.residual)),
            Pass::Fprop => oracle::fprop(p, &self.x, &self.w, None, None),
            Pass::Dgrad => oracle::dgrad(p, &self.w, &self.dy),
            Pass::Wgrad => oracle::wgrad(p, &self.x, &self.dy, &self.dw),
        }
    }
}

/// The type of a pass's result: gradients of filters are f32.
fn rounded<T: Float>(pass: Pass, want: &[f64]) -> Vec<f32> {
    if pass == Pass::Wgrad { exact(want) } else { T::rounded(&exact(want)) }
}

const PASSES: [Pass; 3] = [Pass::Fprop, Pass::Dgrad, Pass::Wgrad];

/// Problems about tiles in every plan that there is, the others in the smallest tile.
fn curated<T: Float>(plans: Plans) {
    let tiles = problems::conv2d_tiles();
    for (why, p) in problems::conv2d() {
        let data = Data::new(&p, whole);
        for pass in PASSES {
            let mut plans = plans(pass, &p).unwrap();
            if !tiles.contains(&(why, p)) {
                // Plans come with ascending parts, tiles one behind the other.
                plans = plans.into_iter().rev().filter(|plan| plan.parts() == 1).take(1).collect();
            }
            for extras in if pass == Pass::Fprop { vec![false, true] } else { vec![false] } {
                let want = rounded::<T>(pass, &data.want(pass, &p, extras));
                // Of every tile: the depth in one piece and in two, and in as many as there may be.
                for (i, plan) in plans.iter().enumerate() {
                    let last = plans.get(i + 1).is_none_or(|next| next.tile() != plan.tile());
                    if plan.parts() <= 2 || last {
                        let what = format!("{pass:?}: {why}, {:?} in {} parts", plan.tile(), plan.parts());
                        assert_bits(&data.run::<T>(plan, extras), &want, &what);
                    }
                }
            }
        }
    }
}

fn resnet<T: Float>(plan: fn(Pass, &Conv2dProblem) -> warpsmith::Result<Plan>) {
    for (p, name) in resnet_layers(2) {
        let data = Data::new(&p, whole);
        for pass in PASSES {
            let plan = plan(pass, &p).unwrap();
            let want = match pass {
                // The host twin, itself tested against the oracle: exact for whole numbers, and fast.
                Pass::Fprop => {
                    let mut y = vec![0.0; p.y_elems()];
                    cpu::fprop(p, &data.x, &data.w, Some(&data.bias), Some(&data.residual), &mut y).unwrap();
                    T::rounded(&y)
                }
                Pass::Dgrad => {
                    let mut dx = vec![0.0; p.x_elems()];
                    cpu::dgrad(p, &data.w, &data.dy, &mut dx).unwrap();
                    T::rounded(&dx)
                }
                Pass::Wgrad => {
                    let mut dw = data.dw.clone();
                    cpu::wgrad(p, &data.x, &data.dy, &mut dw).unwrap();
                    dw
                }
            };
            assert_bits(&data.run::<T>(&plan, true), &want, &format!("{pass:?} of {name}"));
        }
    }
}

/// Views that begin in the middle of 16 bytes take the guarded kernels, and outputs there are written element by element.
fn unaligned_views() {
    fn check<T: Float>() {
        let (gpu, s) = (gpu(), &gpu().stream);
        let p = problem([1, 9, 10, 32], [40, 3, 3], Window::square(1, 1));
        let data = Data::new(&p, whole);
        let shifted = |x: &[f32]| gpu.put(&T::from_floats(&[&[99.0], x].concat()));
        let (x, w, residual) = (shifted(&data.x), shifted(&data.w), shifted(&data.residual));
        let bias = gpu.put(&[&[99.0], &data.bias[..]].concat());
        let want = rounded::<T>(Pass::Fprop, &data.want(Pass::Fprop, &p, true));
        for plan in Plan::candidates::<T>(Pass::Fprop, &p).unwrap().into_iter().filter(|plan| plan.parts() <= 2) {
            let mut workspace = s.alloc_zeros::<f32>(plan.workspace_elems() + 1).unwrap();
            let mut y = gpu.put(&T::from_floats(&vec![7.0; p.y_elems() + 2]));
            let (operands, bias) = ((&x.slice(1..), &w.slice(1..)), bias.slice(1..));
            let (residual, mut to) = (residual.slice(1..), y.slice_mut(1..=p.y_elems()));
            let mut partials = workspace.slice_mut(1..);
            let (bias, residual) = (Some(&bias), Some(&residual));
            cuda::fprop(&gpu.kernels, &plan, operands, bias, residual, &mut to, &mut partials, s).unwrap();
            let y = T::to_floats(&gpu.get(&y));
            assert_eq!((y[0], y[y.len() - 1]), (7.0, 7.0), "neighbours");
            assert_bits(&y[1..y.len() - 1], &want, "unaligned views");
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// Real numbers: sums in f32, one rounding of the result. `each` is how far a factor may be rounded, relatively.
fn rounding<T: Float>(plans: Plans, each: f64) {
    let p = problem([2, 6, 6, 256], [64, 3, 3], Window::square(1, 1));
    let data = Data::new(&p, random).rounded::<T>();
    for pass in PASSES {
        let plans = plans(pass, &p).unwrap();
        let want = data.want(pass, &p, true);
        for plan in plans.iter().filter(|plan| plan.parts() <= 2) {
            let got = data.run::<T>(plan, true);
            // Partial sums are as large as the root of their number, and so many of them are rounded.
            let terms = if pass == Pass::Wgrad { p.gemm_m() } else { p.gemm_k() };
            // Rounded factors of random sign: five deviations of a sum of such errors.
            let atol = f64::from(f32::EPSILON) * terms as f64 + each * (terms as f64).sqrt();
            let rtol = if pass == Pass::Wgrad { 0.0 } else { T::EPSILON };
            assert_close(&format!("{pass:?}"), plan, &[want.len()], &got, &want, atol, rtol);
            assert_bits(&data.run::<T>(plan, true), &got, "the same bits each time");
        }
    }
}

fn bias_grad() {
    fn check<T: Float>() {
        let (gpu, s) = (gpu(), &gpu().stream);
        for k in [1, 7, 64, 300] {
            let p = problem([3, 9, 11, 2], [k, 1, 1], Window::square(0, 1));
            let (dy, db) = (whole(p.y_elems(), 1), whole(k as usize, 2));
            let elems = cuda::bias_grad_workspace_elems(p.gemm_m(), k as usize);
            let (mut got, mut workspace) = (gpu.put(&db), s.alloc_zeros::<f32>(elems).unwrap());
            cuda::bias_grad(&gpu.kernels, &p, &gpu.put(&T::from_floats(&dy)), &mut got, &mut workspace, s).unwrap();
            assert_bits(&gpu.get(&got), &exact(&oracle::bias_grad(&p, &dy, &db)), "bias_grad");
        }
    }
    check::<f32>();
    check::<bf16>();
}

/// Shared memory without bank conflicts.
fn counters() {
    if std::env::var_os("WARPSMITH_CUDA").is_some() {
        return;
    }
    let windows = problem([1, 16, 16, 128], [128, 3, 3], Window::square(1, 1));
    let plain = problem([1, 16, 16, 128], [128, 1, 1], Window::square(0, 1));
    for (p, pass) in [windows, plain].into_iter().flat_map(|p| PASSES.map(|pass| (p, pass))) {
        let data = Data::new(&p, whole);
        let kinds: [(&str, Plans); 3] =
            [("f32", Plan::candidates::<f32>), ("tf32", Plan::tf32_candidates), ("bf16", Plan::candidates::<bf16>)];
        let plans =
            kinds.iter().flat_map(|(kind, plans)| plans(pass, &p).unwrap().into_iter().map(move |p| (*kind, p)));
        for (kind, plan) in plans.filter(|(_, plan)| plan.parts() == 1) {
            if kind == "bf16" {
                data.run::<bf16>(&plan, false)
            } else {
                data.run::<f32>(&plan, false)
            };
            let ((bm, bn), pass) = (plan.tile(), format!("{pass:?}").to_lowercase());
            let algorithm = if p == plain && kind != "f32" { "gemm" } else { "implicit_gemm" };
            let name = format!("conv2d_{pass}_{algorithm}_{bm}x{bn}_{kind}");
            // Other tests run beside this one.
            let report = warpsmith_emulator::report().unwrap();
            let launch = report.launches.iter().rev().find(|l| l.kernel == name).unwrap();
            let (waves, ideal) = (launch.get("shared_wavefronts"), launch.get("shared_ideal_wavefronts"));
            println!("{} {:?}: {waves} wavefronts, {ideal} at best", launch.kernel, launch.grid);
            assert!(waves as f64 <= 1.05 * ideal as f64, "{}: {waves} wavefronts, {ideal} at best", launch.kernel);
        }
    }
}

fn bad_input() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let mut p = problem([1, 4, 4, 8], [8, 3, 3], Window::square(1, 1));
    let plan = Plan::new::<f32>(Pass::Fprop, &p).unwrap();
    let (x, w) = (gpu.put(&vec![0.0f32; p.x_elems()]), gpu.put(&vec![0.0f32; p.w_elems()]));
    let (mut y, mut workspace) = (gpu.put(&vec![0.0f32; p.y_elems() - 1]), gpu.put(&[0.0f32]));
    let (bias, residual) = (None::<&CudaSlice<f32>>, None::<&CudaSlice<f32>>);
    let result = cuda::fprop(&gpu.kernels, &plan, (&x, &w), bias, residual, &mut y, &mut workspace, s);
    assert_error(result, &["conv2d.fprop", "`y`"]);
    let mut y = gpu.put(&vec![0.0f32; p.y_elems()]);
    let result = cuda::fprop(&gpu.kernels, &plan, (&x, &w), Some(&x), residual, &mut y, &mut workspace, s);
    assert_error(result, &["`bias`"]);
    let mut dx = gpu.put(&vec![0.0f32; p.x_elems()]);
    let result = cuda::dgrad(&gpu.kernels, &plan, (&w, &y), &mut dx, &mut workspace, s);
    assert_error(result, &["a plan for Dgrad in f32", "one for Fprop in f32", "Plan::new"]);
    let deep = problem([1, 4, 4, 64], [8, 3, 3], Window::square(1, 1));
    let plans = Plan::candidates::<f32>(Pass::Dgrad, &deep).unwrap();
    let plan = plans.into_iter().find(|plan| plan.parts() == 1).unwrap();
    let result = cuda::dgrad(&gpu.kernels, &plan, (&x, &y), &mut dx, &mut workspace, s);
    assert_error(result, &["conv2d.dgrad", "`w`"]);
    let plans = Plan::candidates::<f32>(Pass::Fprop, &deep).unwrap();
    let plan = plans.into_iter().find(|plan| plan.parts() > 1).unwrap();
    let result = cuda::fprop(&gpu.kernels, &plan, (&x, &w), bias, residual, &mut y, &mut workspace, s);
    assert_error(result, &["workspace", "Plan::workspace_elems"]);
    p.p += 1;
    assert_error(Plan::new::<f32>(Pass::Fprop, &p), &["Conv2dProblem::new"]);
    let huge = problem([1 << 16, 1 << 10, 1 << 5, 1], [1, 1, 1], Window::square(0, 1));
    assert_error(Plan::new::<f32>(Pass::Fprop, &huge), &["2^30", "split the batch"]);
    assert_eq!(cuda::bias_grad_workspace_elems(usize::MAX, usize::MAX), usize::MAX, "more than there is");
    let large = problem([1 << 29, 1, 1, 1 << 29], [1, 1, 1], Window::square(0, 1));
    let plans = Plan::candidates::<f32>(Pass::Dgrad, &large).unwrap();
    assert!(plans.iter().all(|plan| plan.parts() == 1), "64 parts of 2^58 results are more than there is to count");
    let far = Window { pads: [1 << 18, 0, 0, 0], dilations: [1 << 18, 1], ..Window::default() };
    let far = problem([1, 4, 1 << 12, 1], [1, 2, 1], far);
    assert_error(Plan::new::<f32>(Pass::Fprop, &far), &["pixels between two taps", "2^30"]);
    // Two rows of windows, the second in padding: three strides would be more than an int.
    let below = Window { pads: [0, (1 << 30) - 3, 0, 0], strides: [(1 << 30) - 2, 1], ..Window::default() };
    let below = problem([9, 2, 3, 8], [8, 1, 1], below);
    assert_error(Plan::new::<f32>(Pass::Wgrad, &below), &["2^29 padded rows and columns"]);
}
