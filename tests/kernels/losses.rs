//! `kernels/{cross_entropy,softmax_kl,dropout}.cu` against the host twins.
//!
//! Both compute losses in f64: what differs is the order of a few sums, so results agree to the last bits of f32.

use super::Case;
use super::common::oracle::{cross_entropy as oracle_ce, softmax_kl as oracle_kl};
use super::common::{assert_close, assert_error, numeric_gradient, random, widen};
use super::gpu::{Float, assert_bits, gpu};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu;
use warpsmith::cuda;
use warpsmith::problem::Clip;
use warpsmith::rng::Stream;

pub const CASES: &[Case] = &[
    ("losses::cross_entropy_matches_the_cpu", cross_entropy_matches_the_cpu),
    ("losses::cross_entropy_of_probabilities_matches_the_cpu", probabilities_match_the_cpu),
    ("losses::a_label_that_is_no_class_gives_nan", bad_labels),
    ("losses::softmax_matches_the_cpu", softmax_matches_the_cpu),
    ("losses::kl_divergence_matches_the_cpu", kl_matches_the_cpu),
    ("losses::distillation_matches_the_cpu", distillation_matches_the_cpu),
    ("losses::dropout_draws_the_same_mask", dropout_draws_the_same_mask),
    ("losses::bad_input_is_an_error", bad_input),
];

/// `(rows, classes)`: one number; fewer, as many and more classes than lanes; more rows than a block and a mean's block.
const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 10), (9, 32), (8, 33), (21, 257), (515, 5)];

/// The one whose gradients are compared with differences, in steps that do not leave what is clipped.
const SMALL: (usize, usize) = (3, 10);

const RTOL: f64 = 4.0 * f32::EPSILON as f64;

fn logits(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|x| x * 8.0).collect()
}

fn labels(rows: usize, classes: usize) -> Vec<i32> {
    (0..rows).map(|i| (i * 7 % classes) as i32).collect()
}

fn mean(losses: &CudaSlice<f64>) -> (f32, Vec<f32>) {
    let (gpu, s) = (gpu(), &gpu().stream);
    let (mut loss, mut per_sample) = (gpu.put(&[9.0f32]), gpu.put(&vec![9.0f32; losses.len()]));
    cuda::cross_entropy::mean(&gpu.kernels, losses, Some(&mut per_sample), &mut loss, s).unwrap();
    let mut alone = gpu.put(&[9.0f32]);
    cuda::cross_entropy::mean(&gpu.kernels, losses, None::<&mut CudaSlice<f32>>, &mut alone, s).unwrap();
    assert_bits(&gpu.get(&alone), &gpu.get(&loss), "the mean with and without its terms");
    (gpu.get(&loss)[0], gpu.get(&per_sample))
}

fn cross_entropy_matches_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape @ (rows, classes) in SHAPES {
        let (mut z, labels) = (logits(rows * classes, 1), labels(rows, classes));
        // Numbers whose exponentials overflow, and a tie for the count of right answers.
        z[0] = 1000.0;
        if classes > 2 {
            z[rows * classes - 1] = z[rows * classes - 2];
        }
        let (dz, dlabels) = (gpu.put(&z), gpu.put(&labels));
        let mut losses = s.alloc_zeros::<f64>(rows).unwrap();
        cuda::cross_entropy::forward(&gpu.kernels, shape, (&dz, &dlabels), &mut losses, s).unwrap();
        let (loss, terms) = mean(&losses);
        let mut want_terms = vec![0.0; rows];
        let want = cpu::cross_entropy::forward(rows, classes, &z, &labels, Some(&mut want_terms)).unwrap();
        assert_close("loss", &shape, &[1], &[loss], &[f64::from(want)], 1e-12, RTOL);
        assert_close("terms", &shape, &[rows], &terms, &widen(&want_terms), 1e-12, RTOL);
        let oracle = oracle_ce::per_sample(classes, &widen(&z), &labels);
        assert_close("oracle terms", &shape, &[rows], &terms, &oracle, 1e-12, RTOL);
        assert_close("oracle loss", &shape, &[1], &[loss], &[oracle_ce::mean(&oracle)], 1e-12, RTOL);

        let dloss = gpu.put(&[0.7f32]);
        for accumulate in [false, true] {
            let mut want = random(rows * classes, 2);
            let mut got = gpu.put(&want);
            cpu::cross_entropy::backward(rows, classes, &z, &labels, 0.7, accumulate, &mut want).unwrap();
            let inputs = (&dz, &dlabels);
            cuda::cross_entropy::backward(&gpu.kernels, shape, inputs, &dloss, accumulate, &mut got, s).unwrap();
            assert_close("dlogits", &shape, &[rows, classes], &gpu.get(&got), &widen(&want), 1e-12, RTOL);
            // (softmax - onehot) · dloss / rows
            let mut oracle = oracle_kl::softmax(classes, &widen(&z), 1.0);
            labels.iter().enumerate().for_each(|(row, &label)| oracle[row * classes + label as usize] -= 1.0);
            for (dz, old) in oracle.iter_mut().zip(random(rows * classes, 2)) {
                *dz = *dz * f64::from(0.7f32) / rows as f64 + if accumulate { f64::from(old) } else { 0.0 };
            }
            assert_close("oracle dlogits", &shape, &[rows, classes], &gpu.get(&got), &oracle, 1e-9, RTOL);
        }

        let mut count = gpu.put(&[5u32]);
        cuda::cross_entropy::correct(&gpu.kernels, shape, (&dz, &dlabels), &mut count, s).unwrap();
        let want = cpu::cross_entropy::correct(rows, classes, &z, &labels).unwrap();
        assert_eq!(gpu.get(&count), [5 + want as u32], "{shape:?}");
    }
    // Of equal logits the first counts, also where they lie in different lanes.
    let z = vec![1.0f32; 3 * 40];
    let mut count = gpu.put(&[0u32]);
    let inputs = (&gpu.put(&z), &gpu.put(&[0, 1, 39]));
    cuda::cross_entropy::correct(&gpu.kernels, (3, 40), inputs, &mut count, s).unwrap();
    assert_eq!(gpu.get(&count), [1]);
}

fn probabilities_match_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape @ (rows, classes) in SHAPES {
        let labels = labels(rows, classes);
        let mut p: Vec<f32> = random(rows * classes, 3).iter().map(|x| x.abs()).collect();
        (p[0], p[rows * classes - 1]) = (0.0, 1.5);
        let (dp, dlabels) = (gpu.put(&p), gpu.put(&labels));
        let mut losses = s.alloc_zeros::<f64>(rows).unwrap();
        let clip = Clip::PROBS;
        cuda::cross_entropy::probs_forward(&gpu.kernels, shape, (&dp, &dlabels), clip, &mut losses, s).unwrap();
        let mut want_terms = vec![0.0; rows];
        let want = cpu::cross_entropy::probs_forward(rows, classes, &p, &labels, clip, Some(&mut want_terms)).unwrap();
        let (loss, terms) = mean(&losses);
        assert_close("loss", &shape, &[1], &[loss], &[f64::from(want)], 1e-12, RTOL);
        assert_close("terms", &shape, &[rows], &terms, &widen(&want_terms), 1e-12, RTOL);
        let oracle = oracle_ce::probs_per_sample(classes, &widen(&p), &labels);
        assert_close("oracle terms", &shape, &[rows], &terms, &oracle, 1e-7, RTOL);
        let (mut want, dloss) = (vec![0.0; p.len()], gpu.put(&[0.7f32]));
        let mut got = s.alloc_zeros::<f32>(p.len()).unwrap();
        cpu::cross_entropy::probs_backward(rows, classes, &p, &labels, clip, 0.7, &mut want).unwrap();
        let inputs = (&dp, &dlabels);
        cuda::cross_entropy::probs_backward(&gpu.kernels, shape, inputs, clip, &dloss, &mut got, s).unwrap();
        assert_close("dp", &shape, &[rows, classes], &gpu.get(&got), &widen(&want), 1e-12, RTOL);
        if shape == SMALL {
            let loss = |p: &[f64]| 0.7 * oracle_ce::mean(&oracle_ce::probs_per_sample(classes, p, &labels));
            let oracle = numeric_gradient(&widen(&p), 1e-8, loss);
            assert_close("numeric dp", &shape, &[rows, classes], &gpu.get(&got), &oracle, 1e-6, 1e-6);
        }
    }
}

fn bad_labels() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for label in [-1, 3] {
        let (z, labels) = (gpu.put(&[1.0f32, 2.0, 3.0]), gpu.put(&[label]));
        let mut losses = s.alloc_zeros::<f64>(1).unwrap();
        cuda::cross_entropy::forward(&gpu.kernels, (1, 3), (&z, &labels), &mut losses, s).unwrap();
        assert!(mean(&losses).0.is_nan());
        let mut dz = s.alloc_zeros::<f32>(3).unwrap();
        let dloss = gpu.put(&[1.0f32]);
        cuda::cross_entropy::backward(&gpu.kernels, (1, 3), (&z, &labels), &dloss, false, &mut dz, s).unwrap();
        let sum: f32 = gpu.get(&dz).iter().sum();
        assert!((sum - 1.0).abs() < 1e-6, "the softmax alone, {sum}");
    }
}

fn softmax_matches_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape @ (rows, classes) in SHAPES {
        let (z, dp) = (logits(rows * classes, 4), random(rows * classes, 5));
        for temperature in [1.0, 10.0] {
            let (mut want, mut want_dz) = (vec![0.0; z.len()], vec![0.0; z.len()]);
            cpu::softmax_kl::softmax(rows, classes, &z, temperature, &mut want).unwrap();
            cpu::softmax_kl::softmax_backward(rows, classes, &want, &dp, temperature, &mut want_dz).unwrap();
            let (mut got, mut dz) = (s.alloc_zeros::<f32>(z.len()).unwrap(), s.alloc_zeros::<f32>(z.len()).unwrap());
            cuda::softmax_kl::softmax(&gpu.kernels, shape, &gpu.put(&z), temperature, &mut got, s).unwrap();
            assert_close("softmax", &shape, &[rows, classes], &gpu.get(&got), &widen(&want), 1e-30, RTOL);
            let oracle = oracle_kl::softmax(classes, &widen(&z), f64::from(temperature));
            assert_close("oracle softmax", &shape, &[rows, classes], &gpu.get(&got), &oracle, 1e-30, RTOL);
            let inputs = (&gpu.put(&want), &gpu.put(&dp));
            cuda::softmax_kl::softmax_backward(&gpu.kernels, shape, inputs, temperature, &mut dz, s).unwrap();
            assert_close("dlogits", &shape, &[rows, classes], &gpu.get(&dz), &widen(&want_dz), 1e-12, RTOL);
        }
    }
}

fn kl_matches_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape @ (rows, classes) in SHAPES {
        let probs = |seed| random(rows * classes, seed).iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (p, mut q) = (probs(6), probs(7));
        (q[0], q[rows * classes - 1]) = (1e-9, 2.0);
        let inputs = (&gpu.put(&p), &gpu.put(&q));
        let mut losses = s.alloc_zeros::<f64>(rows).unwrap();
        cuda::softmax_kl::kl_div(&gpu.kernels, shape, inputs, &mut losses, s).unwrap();
        let mut want_terms = vec![0.0; rows];
        let want = cpu::softmax_kl::kl_div(rows, classes, &p, &q, Some(&mut want_terms)).unwrap();
        let (loss, terms) = mean(&losses);
        assert_close("loss", &shape, &[1], &[loss], &[f64::from(want)], 1e-9, RTOL);
        assert_close("terms", &shape, &[rows], &terms, &widen(&want_terms), 1e-9, RTOL);
        let (mut want, mut got) = (vec![0.0; q.len()], s.alloc_zeros::<f32>(q.len()).unwrap());
        cpu::softmax_kl::kl_div_backward(rows, classes, &p, &q, 0.7, &mut want).unwrap();
        cuda::softmax_kl::kl_div_backward(&gpu.kernels, shape, inputs, &gpu.put(&[0.7f32]), &mut got, s).unwrap();
        assert_close("dq", &shape, &[rows, classes], &gpu.get(&got), &widen(&want), 1e-12, RTOL);
        let oracle = oracle_kl::kl_div(classes, &widen(&p), &widen(&q));
        assert_close("oracle loss", &shape, &[1], &[loss], &[oracle], 1e-9, RTOL);
        if shape == SMALL {
            let oracle = numeric_gradient(&widen(&q), 1e-8, |q| 0.7 * oracle_kl::kl_div(classes, &widen(&p), q));
            assert_close("numeric dq", &shape, &[rows, classes], &gpu.get(&got), &oracle, 1e-6, 1e-6);
        }
    }
}

fn distillation_matches_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape @ (rows, classes) in SHAPES {
        for temperature in [1.0, 10.0] {
            // Hot logits at temperature 1 reach the clip.
            let spread = if temperature == 1.0 { 4.0 } else { 1.0 };
            let stretched = |seed| logits(rows * classes, seed).iter().map(|z| z * spread).collect::<Vec<f32>>();
            let (teacher, student) = (stretched(8), stretched(9));
            let inputs = (&gpu.put(&teacher), &gpu.put(&student));
            let (mut losses, dloss) = (s.alloc_zeros::<f64>(rows).unwrap(), gpu.put(&[0.7f32]));
            let mut got = s.alloc_zeros::<f32>(student.len()).unwrap();
            let gradient = Some((&dloss, &mut got));
            cuda::softmax_kl::distill(&gpu.kernels, shape, inputs, temperature, &mut losses, gradient, s).unwrap();
            let mut want = vec![0.0; student.len()];
            let gradient = Some((0.7, &mut want[..]));
            let want_loss = cpu::softmax_kl::distill(rows, classes, &teacher, &student, temperature, gradient).unwrap();
            let (loss, _) = mean(&losses);
            assert_close("kl", &shape, &[1], &[loss], &[f64::from(want_loss)], 1e-12, RTOL);
            assert_close("dstudent", &shape, &[rows, classes], &gpu.get(&got), &widen(&want), 1e-12, RTOL);
            let (t, from) = (f64::from(temperature), widen(&teacher));
            let oracle = oracle_kl::distill(classes, &from, &widen(&student), t);
            assert_close("oracle kl", &shape, &[1], &[loss], &[oracle], 1e-9, RTOL);
            // Where no probability is clipped.
            if shape == SMALL && temperature == 10.0 {
                let oracle =
                    numeric_gradient(&widen(&student), 1e-4, |s| 0.7 * oracle_kl::distill(classes, &from, s, t));
                assert_close("numeric dstudent", &shape, &[rows, classes], &gpu.get(&got), &oracle, 1e-8, 1e-6);
            }
            let mut alone = s.alloc_zeros::<f64>(rows).unwrap();
            let none = None::<(&CudaSlice<f32>, &mut CudaSlice<f32>)>;
            cuda::softmax_kl::distill(&gpu.kernels, shape, inputs, temperature, &mut alone, none, s).unwrap();
            assert_eq!(gpu.get(&alone), gpu.get(&losses));
        }
    }
}

fn dropout_draws_the_same_mask() {
    fn check<T: Float>() {
        let (gpu, s) = (gpu(), &gpu().stream);
        for (indices, elems) in [(vec![5u32], 1), (vec![3, 0, 77], 7), (vec![9, 2], 2048), (vec![1], 5001)] {
            for rate in [0.0, 0.5, 0.9] {
                let stream = Stream { seed: 0x1234_5678_9abc, step: 17, index: 0, op: 3 };
                let x = T::rounded(&random(indices.len() * elems, 10));
                let mut want = vec![0.0; x.len()];
                cpu::dropout::dropout(stream, rate, &indices, &x, &mut want).unwrap();
                let (step, dindices, dx) = (gpu.put(&[17u32]), gpu.put(&indices), gpu.put(&T::from_floats(&x)));
                let mut y = s.alloc_zeros::<T>(x.len()).unwrap();
                cuda::dropout::dropout(&gpu.kernels, stream, &step, rate, &dindices, &dx, &mut y, s).unwrap();
                assert_bits(&T::to_floats(&gpu.get(&y)), &T::rounded(&want), "dropout");
                // The rule itself: a value stays where the stream of its sample draws no less than the rate.
                let kept =
                    |i: usize| Stream { index: indices[i / elems], ..stream }.uniform((i % elems) as u32) >= rate;
                let rule = (0..x.len()).map(|i| if kept(i) { x[i] * (1.0 / (1.0 - rate)) } else { 0.0 });
                let got: Vec<f32> = T::to_floats(&gpu.get(&y)).iter().map(|y| y + 0.0).collect();
                let rule: Vec<f32> = rule.map(|y| y + 0.0).collect();
                assert_bits(&got, &T::rounded(&rule), "the rule of dropout");
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

fn bad_input() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let (z, mut out) = (gpu.put(&[0.0f32; 6]), gpu.put(&[0.0f32; 6]));
    let result = cuda::softmax_kl::softmax(&gpu.kernels, (2, 3), &z, 0.0, &mut out, s);
    assert_error(result, &["a positive temperature", "got 0"]);
    let result = cuda::softmax_kl::softmax(&gpu.kernels, (0, 3), &z, 1.0, &mut out, s);
    assert_error(result, &["positive extents", "[0, 3]"]);
    // Products of extents that wrap around to the length of nothing.
    let (huge, none, mut nowhere) = ((1 << 33, 1 << 31), z.slice(0..0), s.alloc_zeros::<f32>(1).unwrap());
    let result = cuda::softmax_kl::softmax(&gpu.kernels, huge, &none, 1.0, &mut nowhere.slice_mut(0..0), s);
    assert_error(result, &["softmax", "fits the address space", "[8589934592, 2147483648]"]);
    let mut losses = s.alloc_zeros::<f64>(2).unwrap();
    let result = cuda::softmax_kl::kl_div(&gpu.kernels, huge, (&none, &none), &mut losses, s);
    assert_error(result, &["kl_div", "fits the address space"]);
    let result = cuda::cross_entropy::forward(&gpu.kernels, huge, (&none, &gpu.put(&[1])), &mut losses, s);
    assert_error(result, &["cross_entropy", "fits the address space"]);
    let result = cuda::cross_entropy::forward(&gpu.kernels, (2, 3), (&z, &gpu.put(&[1])), &mut losses, s);
    assert_error(result, &["`labels`", "2", "1"]);
    let stream = Stream { seed: 1, step: 0, index: 0, op: 3 };
    let (step, indices) = (gpu.put(&[0u32]), gpu.put(&[0u32, 1]));
    let result = cuda::dropout::dropout(&gpu.kernels, stream, &step, 1.0, &indices, &z, &mut out, s);
    assert_error(result, &["a rate in [0, 1)"]);
    let (indices, five) = (gpu.put(&[0u32, 1]), gpu.put(&[0.0f32; 5]));
    let result = cuda::dropout::dropout(&gpu.kernels, stream, &step, 0.5, &indices, &five, &mut out, s);
    assert_error(result, &["5 values for 2 indices"]);
}
