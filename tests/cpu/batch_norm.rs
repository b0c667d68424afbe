use crate::common::oracle::batch_norm as oracle;
use crate::common::{assert_close, assert_error, dot, numeric_gradient, random, rtol_sum, widen};
use warpsmith::cpu::batch_norm;

const EPS: f32 = 1.001e-5;

/// `(rows, c)`, each with its reason.
const PROBLEMS: [(usize, usize, &str); 10] = [
    (1, 1, "one element"),
    (2, 7, "shorter than the repeated tables"),
    (1, 2048, "the last stage at one pixel, one image"),
    (86, 3, "exactly the repeated tables"),
    (87, 3, "a tail behind the repeated tables"),
    (997, 64, "two chunks, the second partial"),
    (33, 2048, "one row more than a chunk"),
    (100_003, 1, "one channel, many chunks"),
    (10_007, 7, "channels that fit no vector"),
    (1_031, 130, "channels between the powers of two"),
];

struct Case {
    x: Vec<f32>,
    dy: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    mean: Vec<f32>,
    var: Vec<f32>,
    inv_std: Vec<f32>,
}

/// Inputs with batch statistics.
fn case(rows: usize, c: usize) -> Case {
    let x: Vec<f32> = random(rows * c, 1).iter().enumerate().map(|(i, x)| x + (i % c) as f32 * 0.1).collect();
    let (mut mean, mut var, mut inv_std) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    batch_norm::statistics(rows, c, &x, &mut mean, &mut var).unwrap();
    batch_norm::inv_std(&var, EPS, &mut inv_std).unwrap();
    Case { dy: random(rows * c, 2), gamma: random(c, 3), beta: random(c, 4), x, mean, var, inv_std }
}

#[test]
fn statistics_match_the_oracle() {
    for problem @ (rows, c, _) in PROBLEMS {
        let case = case(rows, c);
        let (mean, var) = oracle::statistics(rows, c, &widen(&case.x));
        let scale = c as f64 * 0.1 + 1.0;
        assert_close("mean", &problem, &[c], &case.mean, &mean, 1e-6 * scale, 1e-6);
        // The deviations are differences of numbers up to `scale`.
        assert_close("var", &problem, &[c], &case.var, &var, 1e-7 * scale, 4e-6);
    }
}

#[test]
fn statistics_survive_a_large_mean() {
    // Values around 4096 ± 1: a sum of squares in f32 would lose the variance altogether.
    let (rows, c) = (50_021, 3);
    let x: Vec<f32> = random(rows * c, 5).iter().map(|x| x + 4096.0).collect();
    let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
    batch_norm::statistics(rows, c, &x, &mut mean, &mut var).unwrap();
    let (want_mean, want_var) = oracle::statistics(rows, c, &widen(&x));
    assert_close("mean", &"offset 4096", &[c], &mean, &want_mean, 0.0, 4e-7);
    assert_close("var", &"offset 4096", &[c], &var, &want_var, 0.0, 1e-5);
}

#[test]
fn statistics_survive_first_rows_unlike_the_rest() {
    // Pivots are means of the first rows of a chunk: give those rows, and single outliers, another size.
    for (rows, c) in [(512, 64), (5_003, 7), (40, 2048)] {
        for special in [1, 8, 64] {
            let mut x = random(rows * c, 9);
            x[..(special * c).min(rows * c)].iter_mut().for_each(|x| *x += 1000.0);
            let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
            batch_norm::statistics(rows, c, &x, &mut mean, &mut var).unwrap();
            let (want_mean, want_var) = oracle::statistics(rows, c, &widen(&x));
            // Float32 numbers near 1000 carry 3e-5 of rounding; where all rows are special the variance is 0.3.
            assert_close("mean", &(rows, c, special), &[c], &mean, &want_mean, 1e-4, 1e-6);
            assert_close("var", &(rows, c, special), &[c], &var, &want_var, 1e-5, 4e-6);
        }
    }
}

#[test]
fn normalize_matches_the_oracle() {
    for problem @ (rows, c, _) in PROBLEMS {
        for relu in [false, true] {
            let Case { x, gamma, beta, mean, var, inv_std, .. } = case(rows, c);
            let mut y = vec![f32::NAN; rows * c];
            batch_norm::normalize(rows, c, &x, &mean, &inv_std, &gamma, &beta, relu, &mut y).unwrap();
            let [wx, wm, wv, wg, wb] = [&x, &mean, &var, &gamma, &beta].map(|v| widen(v));
            let want = oracle::normalize(c, &wx, &wm, &wv, f64::from(EPS), &wg, &wb, relu);
            assert_close("normalize", &(problem, relu), &[rows, c], &y, &want, 2e-6, 1e-6);
        }
    }
}

#[test]
fn oracle_gradients_match_finite_differences() {
    let (rows, c, eps) = (5, 3, 0.1);
    let [x, dy, gamma, beta] = [(15, 1), (15, 2), (3, 3), (3, 4)].map(|(n, seed)| widen(&random(n, seed)));
    let (running_mean, running_var) = (vec![0.1, -0.2, 0.3], vec![0.5, 1.5, 1.0]);
    for relu in [false, true] {
        for batch in [false, true] {
            let value = |x: &[f64], gamma: &[f64], beta: &[f64]| {
                let (mean, var) = oracle::statistics(rows, c, x);
                let (mean, var) = if batch { (&mean, &var) } else { (&running_mean, &running_var) };
                dot(&dy, &oracle::normalize(c, x, mean, var, eps, gamma, beta, relu))
            };
            let (mean, var) = oracle::statistics(rows, c, &x);
            let (mean, var) = if batch { (&mean, &var) } else { (&running_mean, &running_var) };
            let (dx, dgamma, dbeta) = oracle::backward(c, &x, &dy, mean, var, eps, &gamma, &beta, relu, batch);
            let numeric = [
                numeric_gradient(&x, 1e-5, |x| value(x, &gamma, &beta)),
                numeric_gradient(&gamma, 1e-5, |gamma| value(&x, gamma, &beta)),
                numeric_gradient(&beta, 1e-5, |beta| value(&x, &gamma, beta)),
            ];
            for (analytic, numeric) in [dx, dgamma, dbeta].iter().zip(&numeric) {
                for (a, n) in analytic.iter().zip(numeric) {
                    assert!((a - n).abs() < 1e-7, "relu {relu}, batch {batch}: {a} {n}");
                }
            }
        }
    }
}

#[test]
fn gradients_match_the_oracle() {
    for problem @ (rows, c, _) in PROBLEMS {
        for (relu, batch, accumulate) in
            [(false, true, false), (true, true, true), (true, true, false), (false, false, true), (true, false, false)]
        {
            let Case { x, dy, gamma, beta, mean, var, inv_std } = case(rows, c);
            let (old_dx, old_dgamma, old_dbeta) = (random(rows * c, 6), random(c, 7), random(c, 8));
            let (mut dx, mut dgamma, mut dbeta) = (old_dx.clone(), old_dgamma.clone(), old_dbeta.clone());
            let backward = if batch { batch_norm::backward_train } else { batch_norm::backward_inference };
            backward(
                rows,
                c,
                &x,
                &dy,
                &mean,
                &inv_std,
                &gamma,
                &beta,
                relu,
                Some(&mut dx),
                accumulate,
                Some(&mut dgamma),
                Some(&mut dbeta),
            )
            .unwrap();
            // The oracle takes the same float32 statistics and, for the ReLU, the same float32 decision:
            // where an output lies within rounding of zero the two may differ, so such elements get no dy.
            let mut y = vec![0.0; rows * c];
            batch_norm::normalize(rows, c, &x, &mean, &inv_std, &gamma, &beta, true, &mut y).unwrap();
            let mask = |i: usize| !relu || y[i] > 0.0;
            let g: Vec<f64> = (0..rows * c).map(|i| if mask(i) { f64::from(dy[i]) } else { 0.0 }).collect();
            let [wx, wm, wv, wg, wb] = [&x, &mean, &var, &gamma, &beta].map(|v| widen(v));
            let (mut want_dx, mut want_dgamma, mut want_dbeta) =
                oracle::backward(c, &wx, &g, &wm, &wv, f64::from(EPS), &wg, &wb, false, batch);
            for (want, old) in want_dx.iter_mut().zip(&old_dx) {
                *want += if accumulate { f64::from(*old) } else { 0.0 };
            }
            want_dgamma.iter_mut().zip(&old_dgamma).for_each(|(want, old)| *want += f64::from(*old));
            want_dbeta.iter_mut().zip(&old_dbeta).for_each(|(want, old)| *want += f64::from(*old));
            let case = (problem, relu, batch, accumulate);
            // With one row the variance is zero and inv_std is 316: errors grow by as much.
            let gain = f64::from(inv_std.iter().copied().fold(1.0, f32::max));
            let atol = rtol_sum(rows) * (rows as f64).sqrt();
            assert_close("dx", &case, &[rows, c], &dx, &want_dx, 1e-6 * gain, 1e-6);
            assert_close("dgamma", &case, &[c], &dgamma, &want_dgamma, atol, rtol_sum(rows));
            assert_close("dbeta", &case, &[c], &dbeta, &want_dbeta, atol, rtol_sum(rows));
        }
    }
}

#[test]
fn gradients_that_are_not_wanted_are_left_out() {
    let (rows, c) = (997, 64);
    let Case { x, dy, gamma, beta, mean, inv_std, .. } = case(rows, c);
    for backward in [batch_norm::backward_train, batch_norm::backward_inference] {
        let run = |dx: Option<&mut [f32]>, dgamma: Option<&mut [f32]>, dbeta: Option<&mut [f32]>| {
            backward(rows, c, &x, &dy, &mean, &inv_std, &gamma, &beta, true, dx, false, dgamma, dbeta).unwrap();
        };
        let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; rows * c], vec![0.0; c], vec![0.0; c]);
        run(Some(&mut dx), Some(&mut dgamma), Some(&mut dbeta));
        let (mut alone_dx, mut alone_dgamma, mut alone_dbeta) = (vec![0.0; rows * c], vec![0.0; c], vec![0.0; c]);
        run(Some(&mut alone_dx), None, None);
        run(None, Some(&mut alone_dgamma), None);
        run(None, None, Some(&mut alone_dbeta));
        run(None, None, None);
        assert_eq!((dx, dgamma, dbeta), (alone_dx, alone_dgamma, alone_dbeta));
    }
}

#[test]
fn relu_mask_agrees_with_the_output_bit_for_bit() {
    // Outputs that round to zero from either side: gamma tiny, beta 0, x close to the mean.
    let (rows, c) = (4096, 5);
    let x: Vec<f32> = (0..rows * c).map(|i| 1.0 + (i % 7) as f32 * f32::EPSILON).collect();
    let (mean, inv_std, gamma, beta) = ([1.0 + 3.0 * f32::EPSILON; 5], [1.0; 5], [1e-38; 5], [0.0; 5]);
    let mut y = vec![0.0; rows * c];
    batch_norm::normalize(rows, c, &x, &mean, &inv_std, &gamma, &beta, true, &mut y).unwrap();
    let mut dbeta = vec![0.0; c];
    let dy = vec![1.0; rows * c];
    let db = Some(&mut dbeta[..]);
    batch_norm::backward_train(rows, c, &x, &dy, &mean, &inv_std, &gamma, &beta, true, None, false, None, db).unwrap();
    for ch in 0..c {
        let open = (0..rows).filter(|row| y[row * c + ch] > 0.0).count();
        assert!(open > 0 && open < rows);
        assert_eq!(dbeta[ch], open as f32);
    }
}

#[test]
fn running_statistics_follow_both_rules() {
    let run = |rows: usize, unbiased: bool| {
        let (mut mean, mut var) = ([1.0f32, 2.0], [3.0f32, 4.0]);
        batch_norm::update_running(&mut mean, &mut var, &[5.0, 6.0], &[7.0, 8.0], rows, 0.99, unbiased).unwrap();
        (mean, var)
    };
    let (mean, population) = run(4, false);
    assert_close("mean", &"", &[2], &mean, &[0.99 + 0.05, 1.98 + 0.06], 0.0, 1e-6);
    assert_close("var", &"Keras 3", &[2], &population, &[2.97 + 0.07, 3.96 + 0.08], 0.0, 1e-6);
    let (_, unbiased) = run(4, true);
    assert_close("var", &"Keras 2", &[2], &unbiased, &[2.97 + 0.07 * 4.0 / 3.0, 3.96 + 0.08 * 4.0 / 3.0], 0.0, 1e-6);
    // One row: the divisor is 1, not 0.
    assert_eq!(run(1, true), run(1, false));
}

#[test]
fn non_finite_inputs_stay_visible() {
    let mut y = [0.0; 2];
    batch_norm::normalize(2, 1, &[f32::NAN, 1.0], &[0.0], &[1.0], &[1.0], &[0.0], true, &mut y).unwrap();
    assert!(y[0].is_nan());
    let (mut mean, mut var) = ([0.0], [0.0]);
    batch_norm::statistics(2, 1, &[f32::NAN, 1.0], &mut mean, &mut var).unwrap();
    assert!(mean[0].is_nan() && var[0].is_nan());
}

#[test]
fn errors_say_what_is_wrong() {
    let (x, one) = ([0.0; 6], [0.0; 3]);
    let (mut mean, mut var, mut y) = ([0.0; 3], [0.0; 3], [0.0; 6]);
    assert_error(
        batch_norm::statistics(2, 4, &x, &mut mean, &mut var),
        &["batch_norm statistics", "8 elements in `x`", "got 6"],
    );
    assert_error(batch_norm::statistics(0, 3, &[], &mut mean, &mut var), &["positive extents", "[0, 3]"]);
    assert_error(batch_norm::statistics(usize::MAX, 3, &x, &mut mean, &mut var), &["fits in memory"]);
    assert_error(
        batch_norm::normalize(2, 3, &x, &one, &one, &one[..2], &one, false, &mut y),
        &["batch_norm normalize", "3 elements in `gamma`", "got 2"],
    );
    let dx = Some(&mut y[..5]);
    assert_error(
        batch_norm::backward_train(2, 3, &x, &x, &one, &one, &one, &one, false, dx, false, None, None),
        &["batch_norm backward_train", "6 elements in `dx`", "got 5"],
    );
    assert_error(
        batch_norm::backward_inference(2, 3, &x, &x[..4], &one, &one, &one, &one, false, None, false, None, None),
        &["batch_norm backward_inference", "6 elements in `dy`", "got 4"],
    );
    assert_error(batch_norm::inv_std(&one, 1e-3, &mut y), &["3 elements in `out`", "got 6"]);
    assert_error(batch_norm::update_running(&mut mean, &mut var, &one, &one, 0, 0.99, false), &["rows > 0", "got 0"]);
    assert_error(
        batch_norm::update_running(&mut mean, &mut var, &one, &one, 1, 1.5, false),
        &["momentum in [0, 1]", "got 1.5", "0.99 by default"],
    );
}
