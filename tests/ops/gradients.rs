//! Finite differences against the backward pass of every differentiable op.

use crate::common::{assert_close, oracle, random, rtol_sum};
use crate::{assert_error, device, f32s, i32s, own_device};
use half::bf16;
use warpsmith::ops::{self, ContrastiveLoss, RunningStatistics};
use warpsmith::problem::{Conv2dProblem, Window};
use warpsmith::rng::Stream;
use warpsmith::{DType, Result, Tape, Tensor, Var};

/// Shape and values of an input of the op under test.
pub type Input<'a> = (&'a [usize], Vec<f32>);

/// Step of the central differences for inputs of order 1.
///
/// The difference `D(h)` is off by `h²/6 · L'''` and by the rounding of the forward pass, `eps · |L| / h`; their sum is
/// smallest near `h = eps^(1/3) = 1/200`. A few times more costs little, because the `h²` term is removed by Richardson
/// extrapolation below.
pub const H: f32 = 1.0 / 64.0;

/// Coordinates of each input that are tried.
const COORDINATES: usize = 12;

/// Checks the gradients of `L = Σ dy · f(inputs)`, with a fixed random `dy`, with respect to every input.
///
/// `L` is summed in f64 from the op's f32 outputs. With central differences `D(h)` and `D(2h)` the estimate is
/// `(4 D(h) - D(2h)) / 3`; the bound is the rounding of the forward pass, `8 eps · magnitude · |dy| / h`, where
/// `magnitude` is the size of its intermediate results, plus `|D(2h) - D(h)| / 3`, the error of `D(h)` itself. A bound
/// that is not small beside the gradient would pass anything, so that is a failure too.
///
/// The same gradients are then demanded twice over when `f` is applied twice to the same variables: every op must be
/// able to add to a gradient that is already there.
#[track_caller]
pub fn check(op: &str, inputs: &[Input], h: f32, magnitude: f64, f: impl Fn(&[Var]) -> Result<Var>) {
    let device = device();
    let tensors: Vec<Tensor> = inputs.iter().map(|(shape, values)| f32s(&device, shape, values)).collect();
    let leaves = |tape: &Tape| tensors.iter().map(|t| tape.leaf(t.duplicate().unwrap())).collect::<Vec<Var>>();

    let tape = Tape::new();
    let vars = leaves(&tape);
    let y = f(&vars).unwrap();
    let elems = y.tensor().elems();
    let dy = if elems == 1 { vec![1.25] } else { random(elems, 77) };
    let dy = f32s(&device, y.shape(), &dy);
    let dys = dy.to_vec::<f32>().unwrap();
    let largest = y.tensor().to_vec::<f32>().unwrap().iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
    let dy_norm = dys.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let noise = 8.0 * f64::from(f32::EPSILON) * largest.max(magnitude) * dy_norm / f64::from(h);
    let gradients = y.backward_with(dy.clone()).unwrap();
    assert_eq!(dy.to_vec::<f32>().unwrap(), dys, "{op}: backward changed the gradient it was given");

    let tape = Tape::new();
    let twice_vars = leaves(&tape);
    let twice = ops::add(&f(&twice_vars).unwrap(), &f(&twice_vars).unwrap()).unwrap();
    let twice = twice.backward_with(dy.clone()).unwrap();

    let loss = |input: usize, at: usize, value: f32| {
        let tape = Tape::no_grad();
        let vars: Vec<Var> = leaves(&tape);
        vars[input].tensor().view(at, &[1]).unwrap().fill(value).unwrap();
        let y = f(&vars).unwrap();
        y.tensor().read::<f32>().unwrap().iter().zip(&dys).map(|(&y, &dy)| f64::from(y) * f64::from(dy)).sum::<f64>()
    };
    for (input, (shape, values)) in inputs.iter().enumerate() {
        let gradient = gradients.get(&vars[input]).unwrap();
        assert_eq!(gradient.shape(), *shape, "{op}: gradient of input {input}");
        let gradient = gradient.to_vec::<f32>().unwrap();
        let steepest = gradient.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));

        let doubled: Vec<f64> = gradient.iter().map(|&v| 2.0 * f64::from(v)).collect();
        let got = twice.get(&twice_vars[input]).unwrap().to_vec::<f32>().unwrap();
        assert_close(op, &("applied twice, input", input), shape, &got, &doubled, 1e-5 * steepest, 1e-5);

        let picks: Vec<usize> = if values.len() <= COORDINATES {
            (0..values.len()).collect()
        } else {
            let stream = Stream { seed: 5, step: 0, index: input as u32, op: 0 };
            (0..COORDINATES).map(|i| stream.below(i as u32, values.len() as u32) as usize).collect()
        };
        for at in picks {
            let difference = |h: f32| {
                let (above, below) = (values[at] + h, values[at] - h);
                (loss(input, at, above) - loss(input, at, below)) / (f64::from(above) - f64::from(below))
            };
            let (near, far) = (difference(h), difference(2.0 * h));
            let want = (4.0 * near - far) / 3.0;
            let bound = noise + (far - near).abs() / 3.0;
            let got = f64::from(gradient[at]);
            assert!(
                (got - want).abs() <= bound,
                "{op}: input {input} [{at}]: gradient {got:e}, finite difference {want:e}, bound {bound:e}"
            );
            assert!(
                bound <= 0.05 * steepest,
                "{op}: input {input} [{at}]: a bound of {bound:e} says nothing about gradients up to {steepest:e}"
            );
        }
    }
}

/// Random numbers at least 0.1 away from 0: no step of `2 H` crosses it.
fn away_from_zero(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|v| v.signum() * (0.1 + 0.9 * v.abs())).collect()
}

/// A shuffle of numbers 0.1 apart, none within 0.05 of 0: no step of `2 H` changes which one is the largest.
fn apart(n: usize, seed: u64) -> Vec<f32> {
    let keys = random(n, seed);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    order.iter().map(|&rank| (rank as f32 - (n / 2) as f32) * 0.1 + 0.05).collect()
}

#[test]
fn conv2d() {
    let window = |pads, strides, dilations| Window { pads, strides, dilations };
    let problems = [
        ("1x1, a plain GEMM", [2, 4, 3, 5], [6, 1, 1, 5], Window::default()),
        ("1x1 with stride 2", [1, 5, 4, 3], [4, 1, 1, 3], Window::square(0, 2)),
        ("3x3, same size", [2, 5, 4, 3], [4, 3, 3, 3], Window::square(1, 1)),
        ("3x3 with stride 2", [1, 7, 6, 2], [3, 3, 3, 2], Window::square(1, 2)),
        ("7x7/2, the first layer", [1, 9, 8, 3], [4, 7, 7, 3], Window::square(3, 2)),
        ("everything uneven", [2, 6, 7, 3], [2, 2, 3, 3], window([1, 0, 2, 1], [2, 1], [1, 2])),
        ("pixels that no filter reads", [1, 6, 6, 2], [2, 1, 2, 2], window([0; 4], [3, 3], [1, 1])),
    ];
    for (reason, x_shape, w_shape, window) in problems {
        let p = Conv2dProblem::new(x_shape, w_shape, window).unwrap();
        let y_shape = [p.n, p.p, p.q, p.k].map(|e| e as usize);
        let (x_shape, w_shape) = (x_shape.map(|e| e as usize), w_shape.map(|e| e as usize));
        let x = (&x_shape[..], random(p.x_elems(), 1));
        let w = (&w_shape[..], random(p.w_elems(), 2));
        let b = (&w_shape[..1], random(w_shape[0], 3));
        let residual = (&y_shape[..], random(p.y_elems(), 4));
        let conv = |v: &[Var]| ops::conv2d(&v[0], &v[1], v.get(2), v.get(3), window);
        check(&format!("conv2d, {reason}"), &[x.clone(), w.clone(), b.clone(), residual.clone()], H, 1.0, conv);
        check(&format!("conv2d without bias, {reason}"), &[x.clone(), w.clone()], H, 1.0, conv);

        // The oracle is sharper than finite differences, and shows that each buffer went to its place.
        let device = device();
        let tape = Tape::new();
        let v = [&x, &w, &b, &residual].map(|(shape, values)| tape.leaf(f32s(&device, shape, values)));
        let y = conv(&v).unwrap();
        let dy = random(p.y_elems(), 5);
        let got = y.backward_with(f32s(&device, &y_shape, &dy)).unwrap();
        let close = |name: &str, shape: &[usize], got: &Tensor, want: &[f64], terms: usize| {
            let rtol = rtol_sum(terms);
            assert_close("conv2d", &(reason, name), shape, &got.to_vec::<f32>().unwrap(), want, rtol, rtol);
        };
        let y_want = oracle::conv2d::fprop(&p, &x.1, &w.1, Some(&b.1), Some(&residual.1));
        close("y", &y_shape, y.tensor(), &y_want, p.gemm_k());
        close("dx", &x_shape, got.get(&v[0]).unwrap(), &oracle::conv2d::dgrad(&p, &w.1, &dy), p.gemm_k() * p.gemm_n());
        let dw = oracle::conv2d::wgrad(&p, &x.1, &dy, &vec![0.0; p.w_elems()]);
        close("dw", &w_shape, got.get(&v[1]).unwrap(), &dw, p.gemm_m());
        let db = oracle::conv2d::bias_grad(&p, &dy, &vec![0.0; w_shape[0]]);
        close("db", &w_shape[..1], got.get(&v[2]).unwrap(), &db, p.gemm_m());
        assert_eq!(got.get(&v[3]).unwrap().to_vec::<f32>().unwrap(), dy, "{reason}: the residual receives dy itself");
    }
}

#[test]
fn conv2d_computes_only_the_gradients_that_are_needed() {
    let device = device();
    for needed in 0..4 {
        let tape = Tape::new();
        let shapes: [&[usize]; 4] = [&[1, 4, 4, 2], &[2, 1, 1, 2], &[2], &[1, 4, 4, 2]];
        let v: Vec<Var> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| {
                let tensor = Tensor::full(&device, shape, 1.0f32).unwrap();
                if i == needed { tape.leaf(tensor) } else { tape.constant(tensor) }
            })
            .collect();
        let y = ops::conv2d(&v[0], &v[1], Some(&v[2]), Some(&v[3]), Window::default()).unwrap();
        let gradients = ops::sum(&y).unwrap().backward().unwrap();
        for (i, var) in v.iter().enumerate() {
            assert_eq!(gradients.get(var).is_ok(), i == needed);
        }
        let want = [2.0, 16.0, 16.0, 1.0][needed];
        assert!(gradients.get(&v[needed]).unwrap().to_vec::<f32>().unwrap().iter().all(|&g| g == want));
    }
}

#[test]
fn linear() {
    for [n, outputs, inputs] in [[1, 1, 1], [3, 4, 5], [7, 10, 33]] {
        let (x, w, b) = (random(n * inputs, 1), random(outputs * inputs, 2), random(outputs, 3));
        let v: [Input; 3] = [(&[n, inputs], x.clone()), (&[outputs, inputs], w.clone()), (&[outputs], b)];
        check("linear", &v, H, 1.0, |v| ops::linear(&v[0], &v[1], v.get(2)));
        check("linear without bias", &v[..2], H, 1.0, |v| ops::linear(&v[0], &v[1], None));
    }
}

/// Batch norm with moving statistics of its own for every call, so that calls do not influence each other.
fn batch_norm(v: &[Var], training: bool, relu: bool) -> Result<Var> {
    let (c, device) = (v[1].shape()[0], v[0].tensor().device());
    let var: Vec<f32> = random(c, 8).iter().map(|v| 0.5 + v.abs()).collect();
    let running = RunningStatistics {
        mean: f32s(device, &[c], &random(c, 9)),
        var: f32s(device, &[c], &var),
        momentum: 0.9,
        unbiased: true,
    };
    ops::batch_norm(&v[0], &v[1], &v[2], &running, 1e-3, training, relu)
}

#[test]
fn batch_norm_without_relu() {
    for shape in [[2, 3, 2, 5], [1, 1, 4, 19], [6, 1, 1, 3]] {
        let (elems, c) = (shape.iter().product(), shape[3]);
        let gamma = random(c, 2).iter().map(|v| 1.0 + 0.3 * v).collect();
        let v: [Input; 3] = [(&shape, random(elems, 1)), (&[c], gamma), (&[c], random(c, 3))];
        check("batch_norm in training", &v, H, 1.0, |v| batch_norm(v, true, false));
        check("batch_norm in inference", &v, H, 1.0, |v| batch_norm(v, false, false));
    }
}

#[test]
fn batch_norm_with_relu() {
    // Two clusters per channel, normalised to about -1 and 1: no step moves a value across 0.
    let (rows, c) = (8, 5);
    let cluster = |i: usize| if (i / c).is_multiple_of(2) { 1.0 } else { -1.0 };
    let x = random(rows * c, 1).iter().enumerate().map(|(i, v)| cluster(i) * (1.0 + 0.2 * v)).collect();
    let gamma = random(c, 2).iter().map(|v| 1.0 + 0.2 * v).collect();
    let beta = random(c, 3).iter().map(|v| 0.2 * v).collect();
    let v: [Input; 3] = [(&[rows, c], x), (&[c], gamma), (&[c], beta)];
    check("batch_norm + ReLU in training", &v, H, 1.0, |v| batch_norm(v, true, true));

    // In inference the preactivation is an affine function of x: choose x such that it is away from 0.
    let device = device();
    let tape = Tape::new();
    let constants: Vec<Var> = v.iter().map(|(shape, values)| tape.constant(f32s(&device, shape, values))).collect();
    let preactivation = batch_norm(&constants, false, false).unwrap().tensor().to_vec::<f32>().unwrap();
    let scale: Vec<f32> = {
        let zero = [tape.constant(Tensor::zeros(&device, &[1, c], DType::F32).unwrap())];
        let one = [tape.constant(Tensor::full(&device, &[1, c], 1.0f32).unwrap())];
        let at = |x: &[Var; 1]| {
            let v = [x[0].clone(), constants[1].clone(), constants[2].clone()];
            batch_norm(&v, false, false).unwrap().tensor().to_vec::<f32>().unwrap()
        };
        at(&one).iter().zip(at(&zero)).map(|(one, zero)| one - zero).collect()
    };
    let x = v[0].1.iter().zip(&preactivation).enumerate().map(|(i, (x, p))| x + (p.signum() * 0.5) / scale[i % c]);
    let v: [Input; 3] = [(&[rows, c], x.collect()), v[1].clone(), v[2].clone()];
    check("batch_norm + ReLU in inference", &v, H, 1.0, |v| batch_norm(v, false, true));
}

#[test]
fn batch_norm_fused_with_relu_is_batch_norm_then_relu() {
    let device = device();
    let run = |training: bool, fused: bool| {
        let tape = Tape::new();
        let v = [(vec![3, 4, 4, 7], 1), (vec![7], 2), (vec![7], 3)]
            .map(|(shape, seed)| tape.leaf(f32s(&device, &shape, &random(shape.iter().product(), seed))));
        let y = batch_norm(&v, training, fused).unwrap();
        let y = if fused { y } else { ops::relu(&y).unwrap() };
        let dy = f32s(&device, y.shape(), &random(y.tensor().elems(), 4));
        let value = y.tensor().to_vec::<f32>().unwrap();
        let gradients = y.backward_with(dy).unwrap();
        (value, v.map(|v| gradients.get(&v).unwrap().to_vec::<f32>().unwrap()))
    };
    for training in [true, false] {
        let ((fused, fused_gradients), (plain, plain_gradients)) = (run(training, true), run(training, false));
        assert!(fused.contains(&0.0) && fused.iter().any(|&y| y > 0.0));
        assert_eq!(fused, plain);
        assert_eq!(fused_gradients, plain_gradients);
    }
}

#[test]
fn batch_norm_moves_its_statistics_in_training_only() {
    let device = device();
    let (rows, c, momentum) = (12, 3, 0.9f64);
    let x = random(rows * c, 1);
    for (training, unbiased) in [(true, false), (true, true), (false, false)] {
        let running = RunningStatistics {
            mean: f32s(&device, &[c], &[1.0, 2.0, 3.0]),
            var: f32s(&device, &[c], &[4.0, 5.0, 6.0]),
            momentum: momentum as f32,
            unbiased,
        };
        let tape = Tape::no_grad();
        let constant = |shape: &[usize], values: &[f32]| tape.constant(f32s(&device, shape, values));
        let (gamma, beta) = (constant(&[c], &[1.0; 3]), constant(&[c], &[0.0; 3]));
        ops::batch_norm(&constant(&[rows, c], &x), &gamma, &beta, &running, 1e-3, training, false).unwrap();
        let (mut means, mut vars) = (vec![1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0]);
        for ch in (0..c).filter(|_| training) {
            let column: Vec<f64> = (0..rows).map(|row| f64::from(x[row * c + ch])).collect();
            let mean = column.iter().sum::<f64>() / rows as f64;
            let squares = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let var = squares / (if unbiased { rows - 1 } else { rows }) as f64;
            means[ch] = means[ch] * momentum + mean * (1.0 - momentum);
            vars[ch] = vars[ch] * momentum + var * (1.0 - momentum);
        }
        let close = |name: &str, got: &Tensor, want: &[f64]| {
            let got = got.to_vec::<f32>().unwrap();
            assert_close("batch_norm", &(name, training, unbiased), &[c], &got, want, 0.0, rtol_sum(rows));
        };
        close("moving mean", &running.mean, &means);
        close("moving variance", &running.var, &vars);
    }
}

#[test]
fn elementwise() {
    let x = || (&[3, 4][..], away_from_zero(12, 1));
    let other = || (&[3, 4][..], random(12, 2));
    check("relu", &[x()], H, 1.0, |v| ops::relu(&v[0]));
    check("add", &[x(), other()], H, 1.0, |v| ops::add(&v[0], &v[1]));
    check("add of a variable to itself", &[x()], H, 1.0, |v| ops::add(&v[0], &v[0]));
    check("scale", &[x()], H, 1.0, |v| ops::scale(&v[0], -2.5));
    check("rescale", &[x()], H, 1.0, |v| ops::rescale(&v[0], 3.0, -1.0));
    check("sum", &[x()], H, 1.0, |v| ops::sum(&v[0]));
}

#[test]
fn relu_has_gradient_0_at_0() {
    let device = device();
    let tape = Tape::new();
    let x = tape.leaf(f32s(&device, &[4], &[0.0, -0.0, 1e-38, -1e-38]));
    let gradients = ops::sum(&ops::relu(&x).unwrap()).unwrap().backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn cast_rounds_to_bf16_and_back() {
    let device = device();
    let values = random(9, 1);
    let rounded: Vec<f32> = values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    assert_ne!(values, rounded);
    let tape = Tape::new();
    let x = tape.leaf(f32s(&device, &[3, 3], &values));
    let half = ops::cast(&x, DType::Bf16).unwrap();
    assert_eq!(half.tensor().dtype(), DType::Bf16);
    let y = ops::cast(&half, DType::F32).unwrap();
    assert_eq!(y.tensor().to_vec::<f32>().unwrap(), rounded);
    // The gradient passes through bf16 storage as well.
    let dy = random(9, 2);
    let gradients = y.backward_with(f32s(&device, &[3, 3], &dy)).unwrap();
    let want: Vec<f32> = dy.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), want);

    // Gradients of a bf16 variable with two readers add up.
    let tape = Tape::new();
    let x = tape.leaf(f32s(&device, &[2], &[1.0, 2.0]));
    let half = ops::cast(&x, DType::Bf16).unwrap();
    let (a, b) = (ops::cast(&half, DType::F32).unwrap(), ops::cast(&half, DType::F32).unwrap());
    let gradients =
        ops::add(&a, &ops::scale(&b, 2.0).unwrap()).unwrap().backward_with(f32s(&device, &[2], &[1.0, -0.5])).unwrap();
    assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>().unwrap(), [3.0, -1.5]);

    let pixels = Tape::no_grad().constant(Tensor::from_slice(&device, &[1], &[3u8]).unwrap());
    assert_error(ops::cast(&pixels, DType::F32), &["cast: expected f32 and bf16", "u8 to f32"]);
}

#[test]
fn images_become_floats() {
    let device = device();
    let pixels = Tape::no_grad().constant(Tensor::from_slice(&device, &[2, 2], &[0u8, 255, 51, 102]).unwrap());
    let got = ops::rescale(&pixels, 1.0 / 255.0, 0.0).unwrap().tensor().to_vec::<f32>().unwrap();
    assert_close("rescale", &"u8", &[2, 2], &got, &[0.0, 1.0, 0.2, 0.4], 0.0, 1e-6);
    let (mean, var) = (f32s(&device, &[2], &[51.0, 55.0]), f32s(&device, &[2], &[4.0, 0.0]));
    let got = ops::normalization(&pixels, &mean, &var).unwrap().tensor().to_vec::<f32>().unwrap();
    assert_close("normalization", &"u8", &[2, 2], &got, &[-25.5, 2e9, 0.0, 4.7e8], 0.0, 1e-6);
    let labels = Tape::no_grad().constant(i32s(&device, &[1, 2]));
    assert_error(ops::rescale(&labels, 1.0, 0.0), &["rescale: expected `x` of f32 or u8", "i32 [2]"]);
    assert_error(ops::normalization(&labels, &mean, &var), &["normalization: expected `x` of f32 or u8"]);
}

#[test]
fn max_pool2d() {
    let uneven = Window { pads: [1, 0, 0, 2], strides: [2, 1], dilations: [1; 2] };
    for (reason, filter, window, padding_value) in [
        ("3x3/2 against zeros, as in ResNet", [3, 3], Window::square(1, 2), 0.0),
        ("1x1/2, the strided shortcut", [1, 1], Window::square(0, 2), 0.0),
        ("1x1 with padding that wins", [1, 1], Window::square(1, 2), 100.0),
        ("overlapping, uneven", [2, 3], uneven, f32::NEG_INFINITY),
    ] {
        let x: Input = (&[2, 5, 4, 2], apart(80, 1));
        // A window that padding wins yields its value: infinities would poison the loss, so they must lose.
        check(reason, &[x], H, 1.0, |v| {
            let y = ops::max_pool2d(&v[0], filter, window, padding_value)?;
            assert!(y.tensor().to_vec::<f32>()?.iter().all(|v| v.is_finite()));
            Ok(y)
        });
    }
}

#[test]
fn global_avg_pool() {
    for shape in [[2, 3, 4, 5], [3, 1, 1, 17]] {
        check("global_avg_pool", &[(&shape, random(shape.iter().product(), 1))], H, 1.0, |v| {
            ops::global_avg_pool(&v[0])
        });
    }
}

#[test]
fn dropout() {
    let stream = Stream { seed: 9, step: 3, index: 0, op: 2 };
    check("dropout", &[(&[4, 5], random(20, 1))], H, 1.0, |v| ops::dropout(&v[0], 0.4, stream, &[8, 1, 7, 3]));
    let device = device();
    let x = Tape::no_grad().constant(Tensor::full(&device, &[4, 6], 1.0f32).unwrap());
    let mask = |indices: &[u32]| ops::dropout(&x, 0.5, stream, indices).unwrap().tensor().to_vec::<f32>().unwrap();
    let (there, back) = (mask(&[5, 6, 7, 8]), mask(&[8, 7, 6, 5]));
    assert!(there.chunks(6).eq(back.chunks(6).rev()), "a mask follows its sample, not its place in the batch");
    assert_error(ops::dropout(&x, 0.5, stream, &[1, 2]), &["dropout: expected 4 elements in `indices`", "got 2"]);
    assert_error(ops::dropout(&x, 1.0, stream, &[1, 2, 3, 4]), &["dropout: expected a rate in [0, 1)"]);
}

#[test]
fn cross_entropy() {
    let labels = i32s(&device(), &[0, 6, 3, 3]);
    let z: Vec<f32> = random(28, 1).iter().map(|v| 3.0 * v).collect();
    let z: Input = (&[4, 7], z);
    check("cross_entropy", &[z], H, 3.0, |v| {
        let labels = i32s(v[0].tensor().device(), &labels.to_vec::<i32>()?);
        ops::cross_entropy(&v[0], &labels)
    });
}

#[test]
fn companions_of_cross_entropy() {
    let device = device();
    let z: Vec<f32> = random(12, 1).iter().map(|v| 3.0 * v).collect();
    let z = f32s(&device, &[4, 3], &z);
    let labels = i32s(&device, &[0, 2, 1, 1]);
    let (mut terms, mut probabilities) = (Vec::new(), Vec::new());
    for (row, &label) in z.to_vec::<f32>().unwrap().chunks(3).zip(&labels.to_vec::<i32>().unwrap()) {
        let total: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        terms.push(total.ln() - f64::from(row[label as usize]));
        probabilities.extend(row.iter().map(|&v| f64::from(v).exp() / total));
    }
    let got = ops::cross_entropy_per_sample(&z, &labels).unwrap().to_vec::<f32>().unwrap();
    assert_close("cross_entropy_per_sample", &"4 rows", &[4], &got, &terms, 1e-6, 1e-6);
    let loss = ops::cross_entropy(&Tape::no_grad().constant(z.clone()), &labels).unwrap();
    let mean = terms.iter().sum::<f64>() / 4.0;
    assert_close("cross_entropy", &"4 rows", &[1], &[loss.tensor().item().unwrap()], &[mean], 1e-6, 1e-6);
    let got = ops::softmax(&z, 1.0).unwrap().to_vec::<f32>().unwrap();
    assert_close("softmax", &"4 rows", &[4, 3], &got, &probabilities, 1e-6, 1e-6);
    // The first of equal logits counts.
    let ties = f32s(&device, &[3, 3], &[1.0, 5.0, 5.0, 1.0, 5.0, 5.0, 2.0, 1.0, 0.0]);
    assert_eq!(ops::correct_count(&ties, &i32s(&device, &[1, 2, 0])).unwrap(), 2);
    assert_error(ops::correct_count(&ties, &labels), &["correct_count: expected `labels` of shape [3]"]);
}

#[test]
fn softmax_kl() {
    let scaled = |seed| random(28, seed).iter().map(|v| 4.0 * v).collect::<Vec<f32>>();
    let teacher = scaled(2);
    for temperature in [1.0, 2.0, 10.0] {
        check("softmax_kl", &[(&[4, 7], scaled(1))], H * temperature, 1.0, |v| {
            ops::softmax_kl(&f32s(v[0].tensor().device(), &[4, 7], &teacher), &v[0], temperature)
        });
    }
}

#[test]
fn contrastive_loss() {
    // Class 4 has one sample: an anchor without positives when there is one view.
    let labels = [0, 1, 0, 2, 1, 0, 4];
    let mut forms = vec![("n-pairs", ContrastiveLoss::Npairs { temperature: 0.5 })];
    for mean_over_all in [true, false] {
        let (temperature, scale) = (0.5, 1.5);
        forms.push(("L_out", ContrastiveLoss::SupconOut { temperature, scale, mean_over_all }));
        forms.push(("L_in", ContrastiveLoss::SupconIn { temperature, scale, mean_over_all }));
    }
    for (name, form) in forms {
        for views in [1usize, 2, 3] {
            let shape = [labels.len(), views, 6];
            let shape: &[usize] = if views == 1 { &[labels.len(), 6] } else { &shape };
            let z = random(shape.iter().product(), 1);
            check(&format!("{name}, {views} views, {form:?}"), &[(shape, z)], H, 4.0, |v| {
                ops::contrastive_loss(&v[0], &i32s(v[0].tensor().device(), &labels), form)
            });
        }
    }
    // The procedure's temperature: similarities reach 20, and curvature grows with the cube of 1 / T.
    check("n-pairs at T = 0.05", &[(&[7, 6], random(42, 1))], 1.0 / 512.0, 20.0, |v| {
        let labels = i32s(v[0].tensor().device(), &labels);
        ops::contrastive_loss(&v[0], &labels, ContrastiveLoss::Npairs { temperature: 0.05 })
    });
}

#[test]
fn l2_normalize() {
    check("l2_normalize", &[(&[5, 4], away_from_zero(20, 1))], H, 1.0, |v| ops::l2_normalize(&v[0]));
    let device = device();
    let tape = Tape::new();
    let z = tape.leaf(Tensor::zeros(&device, &[1, 3], DType::F32).unwrap());
    let n = ops::l2_normalize(&z).unwrap();
    assert_eq!(n.tensor().to_vec::<f32>().unwrap(), [0.0; 3]);
    let gradients = n.backward_with(f32s(&device, &[1, 3], &[1.0, -2.0, 0.0])).unwrap();
    let got = gradients.get(&z).unwrap().to_vec::<f32>().unwrap();
    assert_close("l2_normalize", &"a row of zeros", &[1, 3], &got, &[1e6, -2e6, 0.0], 0.0, 1e-6);
}

#[test]
fn similarity_matrix() {
    check("similarity_matrix", &[(&[5, 4], random(20, 1))], H, 4.0, |v| ops::similarity_matrix(&v[0], 0.5));
}

#[test]
fn residual_stream() {
    // The gradient of x comes from the shortcut first; batch norm then adds to it.
    let v: [Input; 4] = [
        (&[2, 3, 3, 4], random(72, 1)),
        (&[4], random(4, 2).iter().map(|v| 1.0 + 0.3 * v).collect()),
        (&[4], random(4, 3)),
        (&[4, 3, 3, 4], random(144, 4)),
    ];
    check("x + conv(bn(x))", &v, H, 2.0, |v| {
        let y = batch_norm(&v[..3], true, false)?;
        ops::conv2d(&y, &v[3], None, Some(&v[0]), Window::square(1, 1))
    });
    check("x + conv(x)", &[v[0].clone(), v[3].clone()], H, 2.0, |v| {
        ops::conv2d(&v[0], &v[1], None, Some(&v[0]), Window::square(1, 1))
    });
}

#[test]
fn bad_inputs_are_errors() {
    let (device, other) = (device(), own_device());
    let tape = Tape::no_grad();
    let zeros = |shape: &[usize]| tape.constant(Tensor::zeros(&device, shape, DType::F32).unwrap());
    let window = Window::default();
    let image = zeros(&[1, 4, 4, 2]);
    let filter = zeros(&[3, 1, 1, 2]);
    assert_error(
        ops::conv2d(&zeros(&[4, 4, 2]), &filter, None, None, window),
        &["conv2d: expected 4 axes [n, h, w, c]", "[4, 4, 2]"],
    );
    assert_error(
        ops::conv2d(&image, &zeros(&[3, 1, 1, 5]), None, None, window),
        &["conv2d: expected filters with 2 channels, got 5"],
    );
    assert_error(
        ops::conv2d(&image, &filter, Some(&zeros(&[2])), None, window),
        &["conv2d: expected `b` of shape [3], got [2]"],
    );
    assert_error(
        ops::conv2d(&image, &filter, None, Some(&image), window),
        &["conv2d: expected `residual` of shape [1, 4, 4, 3]"],
    );
    assert_error(
        ops::conv2d(&image, &zeros(&[3, 5, 5, 2]), None, None, window),
        &["conv2d: expected at least 5 padded"],
    );
    assert_error(ops::conv2d(&zeros(&[0, 4, 4, 2]), &filter, None, None, window), &["conv2d: expected positive n"]);
    let elsewhere = tape.constant(Tensor::zeros(&other, &[3, 1, 1, 2], DType::F32).unwrap());
    assert_error(
        ops::conv2d(&image, &elsewhere, None, None, window),
        &["conv2d: expected `w` on the device of `x`", "clone its handle"],
    );
    let bytes = tape.constant(Tensor::zeros(&device, &[2, 2], DType::U8).unwrap());
    assert_error(ops::relu(&bytes), &["relu: expected `x` of f32, got u8 [2, 2]"]);
    assert_error(ops::add(&zeros(&[2, 3]), &zeros(&[3, 2])), &["add: expected `b` of shape [2, 3], got [3, 2]"]);
    assert_error(ops::linear(&zeros(&[2, 3]), &zeros(&[4, 5]), None), &["linear: expected `w` of shape [out, 3]"]);
    assert_error(ops::linear(&zeros(&[2, 3, 1]), &zeros(&[4, 3]), None), &["linear: expected `x` with 2 axes"]);
    assert_error(
        ops::linear(&zeros(&[2, 3]), &zeros(&[4, 3]), Some(&zeros(&[3]))),
        &["linear: expected `b` of shape [4], got [3]"],
    );
    assert_error(ops::max_pool2d(&image, [5, 5], window, 0.0), &["pool2d: expected at least 5 padded rows"]);
    assert_error(ops::max_pool2d(&zeros(&[2]), [1, 1], window, 0.0), &["max_pool2d: expected 4 axes"]);
    assert_error(ops::global_avg_pool(&zeros(&[2, 3])), &["global_avg_pool: expected `x` [n, h, w, c]"]);
    let logits = zeros(&[2, 3]);
    assert_error(ops::cross_entropy(&logits, &i32s(&device, &[0])), &["cross_entropy: expected `labels` of shape [2]"]);
    if crate::common::device::is_cuda() {
        // Labels are not looked at before the loss is, which a wrong one makes NaN.
        let loss = ops::cross_entropy(&logits, &i32s(&device, &[0, 3])).unwrap();
        assert!(loss.tensor().item().unwrap().is_nan());
    } else {
        assert_error(ops::cross_entropy(&logits, &i32s(&device, &[0, 3])), &["cross_entropy", "label", "3"]);
        assert_error(ops::cross_entropy(&logits, &i32s(&device, &[-1, 0])), &["cross_entropy", "label", "-1"]);
    }
    assert_error(ops::cross_entropy(&logits, logits.tensor()), &["cross_entropy: expected `labels` of i32"]);
    assert_error(
        ops::softmax_kl(zeros(&[3, 2]).tensor(), &logits, 1.0),
        &["softmax_kl: expected `teacher_logits` of shape [2, 3]"],
    );
    for temperature in [0.0, -1.0, f32::NAN] {
        assert_error(ops::softmax_kl(logits.tensor(), &logits, temperature), &["softmax_kl", "temperature"]);
        assert_error(ops::similarity_matrix(&logits, temperature), &["similarity_matrix", "temperature"]);
        let form = ContrastiveLoss::Npairs { temperature };
        assert_error(ops::contrastive_loss(&logits, &i32s(&device, &[0, 1]), form), &["temperature"]);
    }
    let form = ContrastiveLoss::Npairs { temperature: 1.0 };
    assert_error(
        ops::contrastive_loss(&zeros(&[2, 2, 3]), &i32s(&device, &[0, 1, 0, 1]), form),
        &["contrastive_loss: expected `labels` i32 [2]", "one label per sample, not per view"],
    );
    assert_error(
        ops::contrastive_loss(&image, &i32s(&device, &[0]), form),
        &["contrastive_loss: expected `z` [batch, dim]"],
    );
    assert_error(
        ops::contrastive_loss(&logits, &i32s(&other, &[0, 1]), form),
        &["contrastive_loss: expected `labels` i32 [2] on the device of `z`"],
    );
}

#[test]
fn batch_norm_bad_inputs_are_errors() {
    let device = device();
    let tape = Tape::new();
    let leaf = |shape: &[usize]| tape.leaf(Tensor::full(&device, shape, 1.0f32).unwrap());
    let running = |c: usize| RunningStatistics {
        mean: Tensor::zeros(&device, &[c], DType::F32).unwrap(),
        var: Tensor::zeros(&device, &[c], DType::F32).unwrap(),
        momentum: 0.9,
        unbiased: false,
    };
    let run = |x: &Var, gamma: &Var, beta: &Var, running: RunningStatistics| {
        ops::batch_norm(x, gamma, beta, &running, 1e-3, true, false)
    };
    let (x, gamma, beta) = (leaf(&[2, 3]), leaf(&[3]), leaf(&[3]));
    assert_error(run(&leaf(&[0, 3]), &gamma, &beta, running(3)), &["batch_norm: expected a non-empty `x`", "[0, 3]"]);
    assert_error(run(&x, &leaf(&[2]), &beta, running(3)), &["batch_norm: expected `gamma` of shape [3], got [2]"]);
    assert_error(run(&x, &gamma, &beta, running(2)), &["batch_norm: expected `running_mean` of shape [3], got [2]"]);
    let shaky = RunningStatistics { momentum: 1.5, ..running(3) };
    assert_error(run(&x, &gamma, &beta, shaky), &["momentum in [0, 1]", "1.5"]);
    assert_error(run(&x, &gamma, &gamma, running(3)), &["batch_norm: expected three variables", "twice"]);
    assert_error(run(&gamma, &gamma, &beta, running(3)), &["batch_norm: expected three variables", "twice"]);
}
