//! The matrix product against the naive oracle.

use crate::common::oracle::linear::matmul;
use crate::common::{assert_close, random, rtol_sum};
use warpsmith::cpu::gemm::{Isa, Strided, gemm, with_isa};

/// `[m, n, k]` and why.
const SIZES: [([usize; 3], &str); 12] = [
    ([1, 1, 1], "one multiplication"),
    ([5, 7, 0], "no depth: zeros"),
    ([14, 32, 8], "exactly one AVX-512 tile"),
    ([15, 33, 8], "one more than a tile each way"),
    ([6, 8, 5], "exactly one portable tile"),
    ([13, 16, 3], "one row less than a tile, one vector"),
    ([1, 100, 50], "one row"),
    ([100, 1, 50], "one column"),
    ([265, 265, 128], "a similarity matrix"),
    ([150, 40, 400], "two row blocks, two depth blocks"),
    ([3, 2100, 5], "two column blocks"),
    ([4, 6, 1700], "two packings of B along the depth"),
];

#[test]
fn all_layouts_match_the_oracle() {
    for (extents @ [m, n, k], why) in SIZES {
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        let ldc = n + 3;
        let before = random(m * ldc, 3);
        let product = matmul(extents, |i, kk| a[i * k + kk], |kk, j| b[kk * n + j]);
        let views = [Strided::row_major(&a, k), Strided::transposed(&at, m)];
        let others = [Strided::row_major(&b, n), Strided::transposed(&bt, k)];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (av, a) in views.into_iter().enumerate() {
                for (bv, b) in others.into_iter().enumerate() {
                    for accumulate in [false, true] {
                        let mut c = before.clone();
                        with_isa(isa, || gemm(m, n, k, a, b, &mut c, ldc, accumulate)).unwrap().unwrap();
                        let want: Vec<f64> = (0..m * ldc)
                            .map(|i| match (i % ldc < n, accumulate) {
                                (true, false) => product[i / ldc * n + i % ldc],
                                (true, true) => f64::from(before[i]) + product[i / ldc * n + i % ldc],
                                // Between the rows of C nothing is written.
                                (false, _) => f64::from(before[i]),
                            })
                            .collect();
                        let rtol = rtol_sum(k + 1);
                        let atol = rtol * (k as f64).sqrt() / 3.0;
                        let op = format!("gemm {isa:?} ({why}), layouts {av} {bv}, accumulate {accumulate}");
                        assert_close(&op, &extents, &[m, ldc], &c, &want, atol, rtol);
                    }
                }
            }
        }
    }
}

/// Positive terms make every partial sum large, so a long float32 chain shows: summing the 384 products in one chain is
/// off by 2.5 eps in the root mean square, in chains of 96 by 0.65.
#[test]
fn deep_products_are_summed_in_short_chains() {
    let [m, n, k] = [14, 32, 384];
    let positive = |seed| random(m.max(n) * k, seed).into_iter().map(|v| v + 1.0).collect::<Vec<f32>>();
    let (a, b) = (positive(1), positive(2));
    let want = matmul([m, n, k], |i, kk| a[i * k + kk], |kk, j| b[kk * n + j]);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut c = vec![0.0; m * n];
        let (a, b) = (Strided::row_major(&a, k), Strided::row_major(&b, n));
        with_isa(isa, || gemm(m, n, k, a, b, &mut c, n, false)).unwrap().unwrap();
        let squares: f64 = c.iter().zip(&want).map(|(&c, &want)| (f64::from(c) / want - 1.0).powi(2)).sum();
        let error = (squares / (m * n) as f64).sqrt() / f64::from(f32::EPSILON);
        assert!(error < 1.2, "{isa:?}: {error:.2} eps");
    }
}

fn transpose(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| a[i % rows * cols + i / rows]).collect()
}

#[test]
fn strides_may_skip_elements() {
    // Every second row and every third column of A.
    let a = random(7 * 12, 1);
    let b = random(4 * 5, 2);
    let view = Strided { data: &a, row_stride: 24, col_stride: 3 };
    let mut c = vec![f32::NAN; 3 * 5];
    gemm(3, 5, 4, view, Strided::row_major(&b, 5), &mut c, 5, false).unwrap();
    let want = matmul([3, 5, 4], |i, k| a[i * 24 + k * 3], |k, j| b[k * 5 + j]);
    assert_close("gemm", &"strided", &[3, 5], &c, &want, rtol_sum(4), rtol_sum(4));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for ([m, n, k], why) in SIZES {
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let run = |threads| {
            let mut c = vec![0.0; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (a, b) = (Strided::row_major(&a, k), Strided::row_major(&b, n));
            pool.install(|| gemm(m, n, k, a, b, &mut c, n, false)).unwrap();
            c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{why}");
    }
}

#[test]
fn short_slices_are_errors() {
    let numbers = [0.0f32; 12];
    let view = Strided::row_major(&numbers, 4);
    let short = Strided::row_major(&numbers[..11], 4);
    let mut c = [0.0f32; 9];
    let cases = [
        (
            "a 3 x 4 matrix with strides 4, 1 in `a`",
            gemm(3, 3, 4, short, Strided::row_major(&numbers, 3), &mut c, 3, false),
        ),
        (
            "a 4 x 3 matrix with strides 3, 1 in `b`",
            gemm(3, 3, 4, view, Strided::row_major(&numbers[1..], 3), &mut c, 3, false),
        ),
        (
            "a 3 x 3 matrix with strides 3, 1 in `c`",
            gemm(3, 3, 4, view, Strided::row_major(&numbers, 3), &mut c[1..], 3, false),
        ),
        ("ldc >= n = 3", gemm(3, 3, 4, view, Strided::row_major(&numbers, 3), &mut c, 2, false)),
        ("in `a`", gemm(2, 1, 1, Strided { row_stride: usize::MAX, ..view }, view, &mut c, 1, false)),
    ];
    for (text, result) in cases {
        let message = result.expect_err(text).to_string();
        assert!(message.starts_with("gemm: expected") && message.contains(text), "{message}");
    }
}

#[test]
fn forcing_chooses_the_tile_and_ends_with_the_call() {
    assert!(Isa::Portable.is_available() && Isa::detect().is_available());
    // -1 + (1 - e)(1 + e) is -e² when the product is not rounded before the addition.
    let e = f32::EPSILON;
    let (a, b) = ([1.0, 1.0 - e], [-1.0, 1.0 + e]);
    let run = || {
        let mut c = [f32::NAN];
        gemm(1, 1, 2, Strided::row_major(&a, 2), Strided::row_major(&b, 1), &mut c, 1, false).unwrap();
        c[0]
    };
    assert_eq!(with_isa(Isa::Portable, run).unwrap(), 0.0);
    for isa in [Isa::Avx512, Isa::Avx2] {
        match with_isa(isa, run) {
            Ok(fused) => assert_eq!(fused, -e * e),
            Err(error) => assert!(error.to_string().contains("instruction set of this processor"), "{error}"),
        }
    }
    let detected = if Isa::detect() == Isa::Portable { 0.0 } else { -e * e };
    assert_eq!(run(), detected);
}
