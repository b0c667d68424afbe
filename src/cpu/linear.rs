//! Fully connected layer on the CPU: the 1x1 convolution of an image of one pixel, and computed as such.

use crate::cpu::conv2d;
use crate::error::{Result, check_len};
use crate::problem::Conv2dProblem;

/// `y[m, n_out] = x[m, k_in] · wᵀ (+ bias)`.
///
/// # Shapes
/// `x [m, k_in]`, `w [n_out, k_in]`, `bias [n_out]`, `y [m, n_out]`, all row-major. Writes `y =`.
///
/// # Gradient
/// [`backward_x`], [`backward_w`], [`backward_b`].
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Determinism
/// Bit-equal for every number of threads.
///
/// # Source
/// Dense layer; `w` is stored `[out, in]`, the analogue of KRSC.
///
/// # Example
/// ```
/// use warpsmith::cpu::linear;
/// let mut y = [0.0; 2];
/// linear::forward(1, 2, 3, &[1.0, 2.0, 3.0], &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0], Some(&[10.0, 20.0]), &mut y)?;
/// assert_eq!(y, [11.0, 25.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn forward(
    m: usize,
    n_out: usize,
    k_in: usize,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) -> Result<()> {
    const OP: &str = "linear.forward";
    let p = Conv2dProblem::linear(OP, m, n_out, k_in)?;
    check_len(OP, "x", x.len(), p.x_elems())?;
    check_len(OP, "w", w.len(), p.w_elems())?;
    check_len(OP, "y", y.len(), p.y_elems())?;
    if let Some(bias) = bias {
        check_len(OP, "bias", bias.len(), n_out)?;
    }
    conv2d::fprop(p, x, w, bias, None, y)
}

/// Gradient to the input: `dx[m, k_in] = dy[m, n_out] · w`.
///
/// # Shapes
/// `w [n_out, k_in]`, `dy [m, n_out]`, `dx [m, k_in]`. Writes `dx =`.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Determinism
/// Bit-equal for every number of threads.
///
/// # Source
/// The adjoint of [`forward`].
///
/// # Example
/// ```
/// let mut dx = [0.0; 2];
/// warpsmith::cpu::linear::backward_x(1, 2, 2, &[1.0, 2.0, 3.0, 4.0], &[1.0, 10.0], &mut dx)?;
/// assert_eq!(dx, [31.0, 42.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn backward_x(m: usize, n_out: usize, k_in: usize, w: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    const OP: &str = "linear.backward_x";
    let p = Conv2dProblem::linear(OP, m, n_out, k_in)?;
    check_len(OP, "w", w.len(), p.w_elems())?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "dx", dx.len(), p.x_elems())?;
    conv2d::dgrad(p, w, dy, dx)
}

/// Gradient to the weights: `dw[n_out, k_in] += dyᵀ · x`.
///
/// # Shapes
/// `x [m, k_in]`, `dy [m, n_out]`, `dw [n_out, k_in]`. Writes `dw +=`: parameter gradients accumulate in an arena.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Determinism
/// Bit-equal for every number of threads.
///
/// # Source
/// The adjoint of [`forward`].
///
/// # Example
/// ```
/// let mut dw = [100.0; 2];
/// warpsmith::cpu::linear::backward_w(2, 1, 2, &[1.0, 2.0, 3.0, 4.0], &[1.0, 10.0], &mut dw)?;
/// assert_eq!(dw, [131.0, 142.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn backward_w(m: usize, n_out: usize, k_in: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    const OP: &str = "linear.backward_w";
    let p = Conv2dProblem::linear(OP, m, n_out, k_in)?;
    check_len(OP, "x", x.len(), p.x_elems())?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "dw", dw.len(), p.w_elems())?;
    conv2d::wgrad(p, x, dy, dw)
}

/// Gradient to the bias: `db[n_out] += sum over rows of dy[m, n_out]`.
///
/// # Shapes
/// `dy [m, n_out]`, `db [n_out]`. Writes `db +=`.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Determinism
/// Bit-equal for every number of threads.
///
/// # Source
/// The adjoint of the bias in [`forward`].
///
/// # Example
/// ```
/// let mut db = [1.0, 0.0];
/// warpsmith::cpu::linear::backward_b(2, 2, &[1.0, 2.0, 3.0, 4.0], &mut db)?;
/// assert_eq!(db, [5.0, 6.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn backward_b(m: usize, n_out: usize, dy: &[f32], db: &mut [f32]) -> Result<()> {
    const OP: &str = "linear.backward_b";
    let p = Conv2dProblem::linear(OP, m, n_out, 1)?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "db", db.len(), n_out)?;
    conv2d::bias_grad(p, dy, db)
}
