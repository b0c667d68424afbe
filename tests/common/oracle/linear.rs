//! Matrix products and the fully connected layer, one multiplication at a time.

/// `sum_k a(i, k) * b(k, j)` for every `i, j`, row-major.
pub fn matmul([m, n, k]: [usize; 3], a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            for kk in 0..k {
                c[i * n + j] += f64::from(a(i, kk)) * f64::from(b(kk, j));
            }
        }
    }
    c
}

/// `y = x wᵀ + bias`.
pub fn forward([m, n_out, k_in]: [usize; 3], x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let mut y = matmul([m, n_out, k_in], |i, k| x[i * k_in + k], |k, j| w[j * k_in + k]);
    if let Some(bias) = bias {
        for (i, y) in y.iter_mut().enumerate() {
            *y += f64::from(bias[i % n_out]);
        }
    }
    y
}

/// `dx = dy w`.
pub fn backward_x([m, n_out, k_in]: [usize; 3], w: &[f32], dy: &[f32]) -> Vec<f64> {
    matmul([m, k_in, n_out], |i, k| dy[i * n_out + k], |k, j| w[k * k_in + j])
}

/// `dw = dyᵀ x`.
pub fn backward_w([m, n_out, k_in]: [usize; 3], x: &[f32], dy: &[f32]) -> Vec<f64> {
    matmul([n_out, k_in, m], |i, k| dy[k * n_out + i], |k, j| x[k * k_in + j])
}
