use crate::common::oracle::pool2d as oracle;
use crate::common::{assert_close, assert_error, dot, numeric_gradient, problems, random, rtol_sum, widen};
use warpsmith::cpu::pool2d::{self, PADDING};
use warpsmith::problem::{Pool2dProblem, Window};

fn run(problem: &Pool2dProblem, padding: f32, x: &[f32]) -> (Vec<f32>, Vec<u8>) {
    let (mut y, mut argmax) = (vec![f32::NAN; problem.y_elems()], vec![77; problem.y_elems()]);
    pool2d::max(problem, padding, x, &mut y, Some(&mut argmax)).unwrap();
    let mut without = vec![f32::NAN; problem.y_elems()];
    pool2d::max(problem, padding, x, &mut without, None).unwrap();
    let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&y), bits(&without));
    (y, argmax)
}

#[test]
fn max_matches_the_oracle() {
    for (reason, problem) in problems::pool2d() {
        for padding in [0.0, -0.4] {
            // Coarse values make ties; ties between taps and with the padding are part of the meaning.
            let x: Vec<f32> = random(problem.x_elems(), 1).iter().map(|x| (x * 5.0).round() / 5.0).collect();
            let (y, argmax) = run(&problem, padding, &x);
            let (want, winner) = oracle::max(&problem, f64::from(padding), &widen(&x));
            let extents = [problem.n, problem.p, problem.q, problem.c].map(|extent| extent as usize);
            assert_close("max", &(problem, reason), &extents, &y, &want, 1e-7, 1e-7);
            let dy = random(problem.y_elems(), 2);
            for accumulate in [false, true] {
                let old = random(problem.x_elems(), 3);
                let mut dx = old.clone();
                pool2d::max_backward(&problem, &dy, Some(&argmax), accumulate, &mut dx).unwrap();
                let mut want = oracle::max_backward(&problem, &winner, &widen(&dy));
                want.iter_mut().zip(&old).for_each(|(w, o)| *w += if accumulate { f64::from(*o) } else { 0.0 });
                let extents = [problem.n, problem.h, problem.w, problem.c].map(|extent| extent as usize);
                assert_close("max_backward", &(problem, reason), &extents, &dx, &want, 1e-6, rtol_sum(9));
            }
        }
    }
}

#[test]
fn gradient_matches_finite_differences() {
    let problem = Pool2dProblem::new([1, 5, 6, 2], [3, 3], Window::square(1, 2)).unwrap();
    let (x, dy) = (random(problem.x_elems(), 4), random(problem.y_elems(), 5));
    let (_, argmax) = run(&problem, 0.0, &x);
    let mut dx = vec![0.0; problem.x_elems()];
    pool2d::max_backward(&problem, &dy, Some(&argmax), false, &mut dx).unwrap();
    let dy = widen(&dy);
    let numeric = numeric_gradient(&widen(&x), 1e-6, |x| dot(&dy, &oracle::max(&problem, 0.0, x).0));
    assert_close("max_backward", &problem, &[dx.len()], &dx, &numeric, 1e-6, 1e-6);
}

#[test]
fn padding_competes() {
    // All negative: the corner windows are won by the zero padding and send no gradient.
    let problem = Pool2dProblem::new([1, 2, 2, 1], [3, 3], Window::square(1, 2)).unwrap();
    let (y, argmax) = run(&problem, 0.0, &[-1.0, -2.0, -3.0, -4.0]);
    assert_eq!((y, argmax.clone()), (vec![0.0], vec![PADDING]));
    let mut dx = [9.0; 4];
    pool2d::max_backward(&problem, &[5.0], Some(&argmax), false, &mut dx).unwrap();
    assert_eq!(dx, [0.0; 4]);
    // A tie between padding (first) and an image zero goes to the padding.
    assert_eq!(run(&problem, 0.0, &[0.0, -2.0, -3.0, -4.0]).1, [PADDING]);
}

#[test]
fn subsampling_needs_no_argmax() {
    let problem = Pool2dProblem::new([2, 9, 7, 33], [1, 1], Window::square(0, 2)).unwrap();
    let x = random(problem.x_elems(), 6);
    let (y, argmax) = run(&problem, 0.0, &x);
    assert!(argmax.iter().all(|&place| place == 0));
    let (mut with, mut without) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    pool2d::max_backward(&problem, &y, Some(&argmax), false, &mut with).unwrap();
    pool2d::max_backward(&problem, &y, None, false, &mut without).unwrap();
    assert_eq!(with, without);
}

#[test]
fn nan_wins() {
    for c in [1, 40] {
        let problem = Pool2dProblem::new([1, 1, 3, c], [1, 3], Window::square(0, 1)).unwrap();
        let mut x = vec![1.0; problem.x_elems()];
        x[c as usize..2 * c as usize].fill(f32::NAN);
        let (y, argmax) = run(&problem, 0.0, &x);
        assert!(y.iter().all(|y| y.is_nan()) && argmax.iter().all(|&place| place == 1), "{y:?} {argmax:?}");
    }
}

#[test]
fn global_average_matches_the_oracle() {
    for (n, pixels, c) in [(1, 1, 1), (3, 49, 7), (2, 9, 2048), (5, 211, 3)] {
        let x = random(n * pixels * c, 7);
        let mut y = vec![f32::NAN; n * c];
        pool2d::global_avg(n, pixels, c, &x, &mut y).unwrap();
        let wide = widen(&x);
        let want = oracle::global_avg(n, pixels, c, &wide);
        assert_close("global_avg", &(n, pixels, c), &[n, c], &y, &want, rtol_sum(pixels) / 4.0, rtol_sum(pixels));
        let dy = random(n * c, 8);
        let old = random(x.len(), 9);
        let (mut dx, mut sum) = (vec![f32::NAN; x.len()], old.clone());
        pool2d::global_avg_backward(n, pixels, c, &dy, false, &mut dx).unwrap();
        pool2d::global_avg_backward(n, pixels, c, &dy, true, &mut sum).unwrap();
        for i in 0..x.len() {
            let want = dy[i / (pixels * c) * c + i % c] / pixels as f32;
            assert_eq!((dx[i], sum[i]), (want, old[i] + want));
        }
    }
    let dy = [0.5, -2.0];
    let x = widen(&random(6, 10));
    let numeric = numeric_gradient(&x, 1e-4, |x| dot(&dy, &oracle::global_avg(1, 3, 2, x)));
    let mut dx = [0.0; 6];
    pool2d::global_avg_backward(1, 3, 2, &[0.5, -2.0], false, &mut dx).unwrap();
    assert_close("global_avg_backward", &"", &[6], &dx, &numeric, 1e-7, 1e-7);
}

#[test]
fn errors_say_what_is_wrong() {
    let problem = Pool2dProblem::new([1, 4, 4, 1], [3, 3], Window::square(1, 2)).unwrap();
    let (x, mut y) = ([0.0; 16], [0.0; 4]);
    assert_error(pool2d::max(&problem, 0.0, &x[..15], &mut y, None), &["pool2d max", "16 elements in `x`", "got 15"]);
    assert_error(pool2d::max(&problem, 0.0, &x, &mut y[..3], None), &["4 elements in `y`", "got 3"]);
    assert_error(pool2d::max(&problem, 0.0, &x, &mut y, Some(&mut [0; 5])), &["4 elements in `argmax`", "got 5"]);
    let mut dx = [0.0; 16];
    assert_error(
        pool2d::max_backward(&problem, &y, None, false, &mut dx),
        &["pool2d max_backward", "the argmax of the forward pass", "1x1"],
    );
    let wide = Pool2dProblem::new([1, 16, 16, 1], [16, 16], Window::square(0, 1)).unwrap();
    assert_error(
        pool2d::max(&wide, 0.0, &[0.0; 256], &mut [0.0], None),
        &["at most 254 elements a window", "16 x 16", "global_avg"],
    );
    let wrong = Pool2dProblem { p: 3, ..problem };
    assert_error(pool2d::max(&wrong, 0.0, &x, &mut [0.0; 6], None), &["pool2d max", "p and q that follow"]);
    assert_error(pool2d::global_avg(1, 0, 1, &[], &mut [0.0]), &["positive extents", "[1, 0, 1]"]);
    assert_error(pool2d::global_avg_backward(1, 2, 1, &[0.0; 2], false, &mut [0.0; 2]), &["1 elements in `dy`"]);
}
