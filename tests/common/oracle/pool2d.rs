//! Pooling, NHWC.

use warpsmith::problem::Pool2dProblem;

/// Calls `visit(y index, place, x index or None for padding)` for every element of every window, row-major.
fn for_windows(problem: &Pool2dProblem, mut visit: impl FnMut(usize, usize, Option<usize>)) {
    let Pool2dProblem { n, h, w, c, r, s, p, q, pad_top, pad_left, stride_h, stride_w, .. } = *problem;
    for image in 0..n {
        for out_row in 0..p {
            for out_column in 0..q {
                for ch in 0..c {
                    for tap_row in 0..r {
                        for tap_column in 0..s {
                            let row = i64::from(out_row * stride_h + tap_row) - i64::from(pad_top);
                            let column = i64::from(out_column * stride_w + tap_column) - i64::from(pad_left);
                            let inside = (0..i64::from(h)).contains(&row) && (0..i64::from(w)).contains(&column);
                            let x = ((i64::from(image * h) + row) * i64::from(w) + column) * i64::from(c);
                            visit(
                                (((image * p + out_row) * q + out_column) * c + ch) as usize,
                                (tap_row * s + tap_column) as usize,
                                inside.then_some((x + i64::from(ch)) as usize),
                            );
                        }
                    }
                }
            }
        }
    }
}

/// `(y, winner)`: the maximum of every window and the index in `x` it came from (`None`: the padding).
pub fn max(problem: &Pool2dProblem, padding: f64, x: &[f64]) -> (Vec<f64>, Vec<Option<usize>>) {
    let mut y = vec![f64::NEG_INFINITY; problem.y_elems()];
    let mut winner = vec![None; problem.y_elems()];
    for_windows(problem, |out, place, source| {
        let value = source.map_or(padding, |i| x[i]);
        if place == 0 || value > y[out] {
            y[out] = value;
            winner[out] = source;
        }
    });
    (y, winner)
}

/// Every `dy` goes to the winner of its window.
pub fn max_backward(problem: &Pool2dProblem, winner: &[Option<usize>], dy: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; problem.x_elems()];
    for (winner, dy) in winner.iter().zip(dy) {
        if let Some(i) = winner {
            dx[*i] += dy;
        }
    }
    dx
}

/// Mean over the pixels of `[n, pixels, c]`.
pub fn global_avg(n: usize, pixels: usize, c: usize, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; n * c];
    for image in 0..n {
        for pixel in 0..pixels {
            for ch in 0..c {
                y[image * c + ch] += x[(image * pixels + pixel) * c + ch] / pixels as f64;
            }
        }
    }
    y
}
