//! `kernels/gemm.cu` and the fully connected layer, in whole numbers: every sum is exact, and results are compared bit by
//! bit with the oracle.

use super::Case;
use super::common::oracle::linear as oracle;
use super::common::{assert_error, random};
use super::gpu::{Float, assert_bits, gpu};
use half::bf16;
use warpsmith::cuda::conv2d::{self, Pass};
use warpsmith::cuda::{gemm, linear};

pub const CASES: &[Case] = &[
    ("gemm::naive_equals_the_oracle", naive),
    ("gemm::tensor_core_equals_the_oracle", tensor_core),
    ("gemm::bad_input_is_an_error", bad_input),
    ("linear::f32_equals_the_oracle", || layer::<f32>()),
    ("linear::bf16_equals_the_oracle", || layer::<bf16>()),
];

/// Whole numbers from -3 to 3, and no -0: a sum of nothing is 0.
fn whole(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|x| (x * 3.49).round() + 0.0).collect()
}

/// One result, tails in every direction, whole tiles, no depth.
const EXTENTS: [[usize; 3]; 6] = [[1, 1, 1], [17, 33, 5], [130, 72, 40], [128, 256, 64], [3, 8, 0], [200, 136, 264]];

fn want<T: Float>([m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: Option<&[f32]>) -> Vec<f32> {
    let product = oracle::matmul([m, n, k], |i, j| a[i * k + j], |i, j| b[i * n + j]);
    let sums: Vec<f32> = product.iter().enumerate().map(|(i, &x)| x as f32 + c.map_or(0.0, |c| c[i])).collect();
    T::rounded(&sums)
}

fn naive() {
    fn check<T: Float>() {
        let (gpu, s) = (gpu(), &gpu().stream);
        for [m, n, k] in EXTENTS {
            let (a, b, c) = (whole(m * k, 1), whole(k * n, 2), whole(m * n, 3));
            // A buffer of no elements cannot be allocated: a view of one can be empty.
            let (da, db) = (gpu.put(&T::from_floats(&[&a[..], &[9.0]].concat())), [&b[..], &[9.0]].concat());
            let db = gpu.put(&T::from_floats(&db));
            for accumulate in [false, true] {
                let mut dc = gpu.put(&T::from_floats(&c));
                let operands = (&da.slice(..m * k), &db.slice(..k * n));
                gemm::naive(&gpu.kernels, [m, n, k], operands, accumulate, &mut dc, s).unwrap();
                let want = want::<T>([m, n, k], &a, &b, accumulate.then_some(&c));
                assert_bits(&T::to_floats(&gpu.get(&dc)), &want, &format!("{m} x {n} x {k}"));
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

fn tensor_core() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for [m, n, k] in EXTENTS {
        let (a, b, c) = (whole(m * k, 1), whole(k * n, 2), whole(m * n, 3));
        // A view from the second element on is unaligned.
        for (accumulate, shift) in [(false, 0), (true, 0), (false, 1)] {
            let put = |x: &[f32]| gpu.put(&bf16::from_floats(&[&[9.0], x, &[9.0]].concat()[1 - shift..]));
            let (da, db, mut dc) = (put(&a), put(&b), gpu.put(&bf16::from_floats(&c)));
            let operands = (&da.slice(shift..shift + m * k), &db.slice(shift..shift + k * n));
            gemm::tensor_core(&gpu.kernels, [m, n, k], operands, accumulate, &mut dc, s).unwrap();
            let want = want::<bf16>([m, n, k], &a, &b, accumulate.then_some(&c));
            assert_bits(&bf16::to_floats(&gpu.get(&dc)), &want, &format!("{m} x {n} x {k}, from {shift}"));
        }
    }
}

fn layer<T: Float>() {
    let (gpu, s) = (gpu(), &gpu().stream);
    // One number, the network's last layer with ten classes and with five, a projection head, extents of no tile.
    for [m, n_out, k_in] in [[1, 1, 1], [8, 10, 2048], [3, 5, 2048], [70, 128, 256], [33, 100, 77]] {
        let (x, w, dy) = (whole(m * k_in, 1), whole(n_out * k_in, 2), whole(m * n_out, 3));
        let (bias, before) = (whole(n_out, 4), whole(n_out * k_in, 5));
        let put = |x: &[f32]| gpu.put(&T::from_floats(x));
        let (dx_, dw_, ddy) = (put(&x), put(&w), put(&dy));
        let rounded = |want: &[f64]| T::rounded(&want.iter().map(|&x| x as f32).collect::<Vec<_>>());
        let plan = |pass| linear::plan::<T>(pass, m, n_out, k_in).unwrap();
        let workspace = |plan: &conv2d::Plan| s.alloc_zeros::<f32>(plan.workspace_elems().max(1)).unwrap();
        let what = format!("{m} x {n_out} x {k_in}");

        let forward = plan(Pass::Fprop);
        for bias in [None, Some(&bias)] {
            let (mut y, dbias) = (s.alloc_zeros::<T>(m * n_out).unwrap(), bias.map(|bias| gpu.put(bias)));
            let mut space = workspace(&forward);
            linear::forward(&gpu.kernels, &forward, (&dx_, &dw_), dbias.as_ref(), &mut y, &mut space, s).unwrap();
            let want = oracle::forward([m, n_out, k_in], &x, &w, bias.map(Vec::as_slice));
            assert_bits(&T::to_floats(&gpu.get(&y)), &rounded(&want), &format!("forward {what}"));
        }

        let backward_x = plan(Pass::Dgrad);
        let (mut dx, mut space) = (s.alloc_zeros::<T>(m * k_in).unwrap(), workspace(&backward_x));
        linear::backward_x(&gpu.kernels, &backward_x, (&dw_, &ddy), &mut dx, &mut space, s).unwrap();
        let want = oracle::backward_x([m, n_out, k_in], &w, &dy);
        assert_bits(&T::to_floats(&gpu.get(&dx)), &rounded(&want), &format!("backward_x {what}"));

        let backward_w = plan(Pass::Wgrad);
        let (mut dw, mut space) = (gpu.put(&before), workspace(&backward_w));
        linear::backward_w(&gpu.kernels, &backward_w, (&dx_, &ddy), &mut dw, &mut space, s).unwrap();
        let product = oracle::backward_w([m, n_out, k_in], &x, &dy);
        let want: Vec<f32> = product.iter().zip(&before).map(|(product, before)| *product as f32 + before).collect();
        assert_bits(&gpu.get(&dw), &want, &format!("backward_w {what}"));

        let elems = conv2d::bias_grad_workspace_elems(m, n_out);
        let (mut db, mut space) = (gpu.put(&bias), s.alloc_zeros::<f32>(elems).unwrap());
        linear::backward_b(&gpu.kernels, (m, n_out), &ddy, &mut db, &mut space, s).unwrap();
        let sum = |j: usize| bias[j] + dy.iter().skip(j).step_by(n_out).sum::<f32>();
        assert_bits(&gpu.get(&db), &(0..n_out).map(sum).collect::<Vec<_>>(), &format!("backward_b {what}"));
    }
}

fn bad_input() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let (a, b) = (gpu.put(&[bf16::ZERO; 6]), gpu.put(&[bf16::ZERO; 12]));
    let mut c = gpu.put(&[bf16::ZERO; 7]);
    let result = gemm::tensor_core(&gpu.kernels, [2, 4, 3], (&a, &b), false, &mut c, s);
    assert_error(result, &["gemm.tensor_core", "`c`"]);
    assert_error(gemm::naive(&gpu.kernels, [2, 4, 2], (&a, &b), false, &mut c, s), &["gemm.naive", "`a`"]);
    let result = gemm::naive(&gpu.kernels, [1 << 30, 1, 1], (&a, &b), false, &mut c, s);
    assert_error(result, &["extents below 2^30"]);
    assert_error(linear::plan::<f32>(Pass::Fprop, 0, 1, 1), &["linear", "m of 1 to 2^32 - 1"]);
}
