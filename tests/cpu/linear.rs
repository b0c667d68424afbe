//! The fully connected layer against the naive oracle.

use crate::common::oracle::linear as oracle;
use crate::common::{assert_close, random, rtol_sum};
use warpsmith::cpu::gemm::{Isa, with_isa};
use warpsmith::cpu::linear;

/// `[m, n_out, k_in]` and why.
const SIZES: [([usize; 3], &str); 6] = [
    ([1, 1, 1], "one multiplication"),
    ([128, 10, 2048], "the classifier"),
    ([265, 128, 512], "a projection head"),
    ([3, 33, 5], "one unit more than a panel"),
    ([17, 1, 40], "one unit"),
    ([150, 40, 1], "one feature"),
];

#[test]
fn all_passes_match_the_oracle() {
    for (extents @ [m, n_out, k_in], why) in SIZES {
        let (x, w, bias, dy) = (random(m * k_in, 1), random(n_out * k_in, 2), random(n_out, 3), random(m * n_out, 4));
        let close = |op: &str, shape: [usize; 2], got: &[f32], want: &[f64], terms: usize| {
            let rtol = rtol_sum(terms);
            assert_close(
                &format!("{op} ({why})"),
                &extents,
                &shape,
                got,
                want,
                rtol * (terms as f64).sqrt() / 3.0,
                rtol,
            );
        };
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            with_isa(isa, || {
                let mut y = vec![f32::NAN; m * n_out];
                linear::forward(m, n_out, k_in, &x, &w, Some(&bias), &mut y).unwrap();
                let want = oracle::forward(extents, &x, &w, Some(&bias));
                close("forward", [m, n_out], &y, &want, k_in + 1);
                linear::forward(m, n_out, k_in, &x, &w, None, &mut y).unwrap();
                close("forward without bias", [m, n_out], &y, &oracle::forward(extents, &x, &w, None), k_in);
                let mut dx = vec![f32::NAN; m * k_in];
                linear::backward_x(m, n_out, k_in, &w, &dy, &mut dx).unwrap();
                close("backward_x", [m, k_in], &dx, &oracle::backward_x(extents, &w, &dy), n_out);
                // The gradients of parameters are added to what is there.
                let mut dw = w.clone();
                linear::backward_w(m, n_out, k_in, &x, &dy, &mut dw).unwrap();
                let want: Vec<f64> =
                    oracle::backward_w(extents, &x, &dy).iter().zip(&w).map(|(dw, &w)| dw + f64::from(w)).collect();
                close("backward_w", [n_out, k_in], &dw, &want, m + 1);
                let mut db = bias.clone();
                linear::backward_b(m, n_out, &dy, &mut db).unwrap();
                let want: Vec<f64> = (0..n_out)
                    .map(|j| f64::from(bias[j]) + (0..m).map(|i| f64::from(dy[i * n_out + j])).sum::<f64>())
                    .collect();
                close("backward_b", [1, n_out], &db, &want, m + 1);
            })
            .unwrap();
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for ([m, n_out, k_in], why) in SIZES {
        let (x, w, dy) = (random(m * k_in, 1), random(n_out * k_in, 2), random(m * n_out, 4));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut y, mut dx) = (vec![0.0; m * n_out], vec![0.0; m * k_in]);
                let (mut dw, mut db) = (w.clone(), vec![1.0; n_out]);
                linear::forward(m, n_out, k_in, &x, &w, None, &mut y).unwrap();
                linear::backward_x(m, n_out, k_in, &w, &dy, &mut dx).unwrap();
                linear::backward_w(m, n_out, k_in, &x, &dy, &mut dw).unwrap();
                linear::backward_b(m, n_out, &dy, &mut db).unwrap();
                [y, dx, dw, db].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{why}");
    }
}

#[test]
fn wrong_extents_and_lengths_are_errors() {
    let (six, mut out) = ([0.0f32; 6], [0.0f32; 6]);
    let cases = [
        ("linear.forward: expected 6 elements in `x`", linear::forward(2, 3, 3, &six[1..], &[0.0; 9], None, &mut out)),
        ("linear.forward: expected 9 elements in `w`", linear::forward(2, 3, 3, &six, &six, None, &mut out)),
        (
            "linear.forward: expected 3 elements in `bias`",
            linear::forward(2, 3, 3, &six, &[0.0; 9], Some(&six), &mut out),
        ),
        ("linear.forward: expected 6 elements in `y`", linear::forward(2, 3, 3, &six, &[0.0; 9], None, &mut out[1..])),
        ("linear.backward_x: expected 6 elements in `dx`", linear::backward_x(2, 3, 3, &[0.0; 9], &six, &mut out[1..])),
        ("linear.backward_w: expected 9 elements in `dw`", linear::backward_w(2, 3, 3, &six, &six, &mut out)),
        ("linear.backward_b: expected 3 elements in `db`", linear::backward_b(2, 3, &six, &mut out)),
        ("linear.forward: expected m of 1 to 2^32 - 1", linear::forward(0, 3, 3, &[], &[0.0; 9], None, &mut [])),
        ("linear.backward_b: expected n_out of 1 to 2^32 - 1", linear::backward_b(2, usize::MAX, &six, &mut out)),
    ];
    for (text, result) in cases {
        let message = result.expect_err(text).to_string();
        assert!(message.starts_with(text), "{message}");
    }
}
