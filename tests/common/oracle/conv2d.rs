//! Convolution, one multiplication at a time.

use warpsmith::problem::Conv2dProblem;

/// Calls `f(x index, w index, y index)` for every product that the convolution sums.
fn for_each_product(p: &Conv2dProblem, mut f: impl FnMut(usize, usize, usize)) {
    let [n, h, w, c, k, r, s] = [p.n, p.h, p.w, p.c, p.k, p.r, p.s].map(|extent| extent as usize);
    let (out_p, out_q) = (p.p as usize, p.q as usize);
    for n in 0..n {
        for op in 0..out_p {
            for oq in 0..out_q {
                for ir in 0..r {
                    for is in 0..s {
                        let y = (op * p.stride_h as usize + ir * p.dilation_h as usize).checked_sub(p.pad_top as usize);
                        let x =
                            (oq * p.stride_w as usize + is * p.dilation_w as usize).checked_sub(p.pad_left as usize);
                        let (Some(y), Some(x)) = (y, x) else { continue };
                        if y >= h || x >= w {
                            continue;
                        }
                        for ik in 0..k {
                            for ic in 0..c {
                                f(
                                    ((n * h + y) * w + x) * c + ic,
                                    ((ik * r + ir) * s + is) * c + ic,
                                    ((n * out_p + op) * out_q + oq) * k + ik,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `y = conv(x, w) + bias + residual`.
pub fn fprop(p: &Conv2dProblem, x: &[f32], w: &[f32], bias: Option<&[f32]>, residual: Option<&[f32]>) -> Vec<f64> {
    let mut y = vec![0.0; p.y_elems()];
    for_each_product(p, |i, j, o| y[o] += f64::from(x[i]) * f64::from(w[j]));
    for (i, y) in y.iter_mut().enumerate() {
        *y += bias.map_or(0.0, |bias| f64::from(bias[i % p.k as usize]));
        *y += residual.map_or(0.0, |residual| f64::from(residual[i]));
    }
    y
}

/// `dx`.
pub fn dgrad(p: &Conv2dProblem, w: &[f32], dy: &[f32]) -> Vec<f64> {
    let mut dx = vec![0.0; p.x_elems()];
    for_each_product(p, |i, j, o| dx[i] += f64::from(dy[o]) * f64::from(w[j]));
    dx
}

/// `dw`, added to `before`.
pub fn wgrad(p: &Conv2dProblem, x: &[f32], dy: &[f32], before: &[f32]) -> Vec<f64> {
    let mut dw: Vec<f64> = before.iter().map(|&dw| f64::from(dw)).collect();
    for_each_product(p, |i, j, o| dw[j] += f64::from(x[i]) * f64::from(dy[o]));
    dw
}

/// `db`, added to `before`.
pub fn bias_grad(p: &Conv2dProblem, dy: &[f32], before: &[f32]) -> Vec<f64> {
    let mut db: Vec<f64> = before.iter().map(|&db| f64::from(db)).collect();
    for (i, &dy) in dy.iter().enumerate() {
        db[i % p.k as usize] += f64::from(dy);
    }
    db
}
