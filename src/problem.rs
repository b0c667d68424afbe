//! Problem structs: the extents of one call of an op, shared by host, device, tests and benches.
//!
//! They are `#[repr(C)]`, passed by value, and know their own cost.

use crate::{Error, Result};

/// Extents of a 2-d convolution (cross-correlation), NHWC activations and KRSC filters.
///
/// `x[n,h,w,c] * w[k,r,s,c] -> y[n,p,q,k]`. Build it with [`Conv2dProblem::new`], which derives `p, q`
/// and rejects empty outputs.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv2dProblem {
    /// Batch.
    pub n: u32,
    /// Input rows.
    pub h: u32,
    /// Input columns.
    pub w: u32,
    /// Input channels.
    pub c: u32,
    /// Output channels.
    pub k: u32,
    /// Filter rows.
    pub r: u32,
    /// Filter columns.
    pub s: u32,
    /// Output rows.
    pub p: u32,
    /// Output columns.
    pub q: u32,
    /// Zero rows above the image.
    pub pad_top: u32,
    /// Zero rows below the image.
    pub pad_bottom: u32,
    /// Zero columns left of the image.
    pub pad_left: u32,
    /// Zero columns right of the image.
    pub pad_right: u32,
    /// Row stride.
    pub stride_h: u32,
    /// Column stride.
    pub stride_w: u32,
    /// Row dilation.
    pub dilation_h: u32,
    /// Column dilation.
    pub dilation_w: u32,
}

/// Window geometry shared by convolution and pooling: how a filter walks over an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// `[top, bottom, left, right]` padding in pixels.
    pub pads: [u32; 4],
    /// `[rows, columns]` stride in pixels.
    pub strides: [u32; 2],
    /// `[rows, columns]` dilation in pixels.
    pub dilations: [u32; 2],
}

impl Default for Window {
    fn default() -> Self {
        Window { pads: [0; 4], strides: [1; 2], dilations: [1; 2] }
    }
}

impl Window {
    /// The same padding on all four sides and the same stride in both directions.
    pub fn square(pad: u32, stride: u32) -> Self {
        Window { pads: [pad; 4], strides: [stride; 2], dilations: [1; 2] }
    }

    /// Output extent along one axis, or why there is none.
    fn extent(
        op: &'static str,
        axis: &str,
        input: u32,
        filter: u32,
        before: u32,
        after: u32,
        stride: u32,
        dilation: u32,
    ) -> Result<u32> {
        if input == 0 || filter == 0 || stride == 0 || dilation == 0 {
            return Err(Error::argument(
                op,
                format_args!("positive input, filter, stride and dilation along the {axis}"),
                format_args!("input {input}, filter {filter}, stride {stride}, dilation {dilation}"),
                "no extent of a problem may be zero",
            ));
        }
        let padded = u64::from(input) + u64::from(before) + u64::from(after);
        let span = u64::from(dilation) * u64::from(filter - 1) + 1;
        if padded < span {
            return Err(Error::shape(
                op,
                format_args!("at least {span} padded {axis} for a filter of {filter} with dilation {dilation}"),
                format_args!("{input} + {before} + {after}"),
                "use a larger input or more padding",
            ));
        }
        u32::try_from((padded - span) / u64::from(stride) + 1)
            .map_err(|_| Error::shape(op, format_args!("fewer than 2^32 {axis}"), padded, "use less padding"))
    }

    /// Output rows and columns of a filter `[r, s]` over an image `[h, w]`.
    pub fn output(&self, op: &'static str, image: [u32; 2], filter: [u32; 2]) -> Result<[u32; 2]> {
        let [top, bottom, left, right] = self.pads;
        Ok([
            Self::extent(op, "rows", image[0], filter[0], top, bottom, self.strides[0], self.dilations[0])?,
            Self::extent(op, "columns", image[1], filter[1], left, right, self.strides[1], self.dilations[1])?,
        ])
    }
}

/// Fails when a tensor of these extents would not fit the address space: the products below must not wrap around.
fn check_elems(op: &'static str, extents: [u32; 4]) -> Result<()> {
    let elems = extents.iter().try_fold(1usize, |elems, &extent| elems.checked_mul(extent as usize));
    if elems.is_some_and(|elems| elems <= isize::MAX as usize / size_of::<f32>()) {
        return Ok(());
    }
    Err(Error::shape(op, "tensors that fit the address space", format_args!("{extents:?}"), "use smaller extents"))
}

impl Conv2dProblem {
    /// The problem of sliding filters `[k, r, s, c]` over images `[n, h, w, c]`.
    ///
    /// # Errors
    /// When an extent is zero, the channels disagree, or the output would be empty.
    ///
    /// # Example
    /// ```
    /// use warpsmith::problem::{Conv2dProblem, Window};
    /// let p = Conv2dProblem::new([8, 32, 32, 3], [64, 7, 7, 3], Window::square(3, 2))?;
    /// assert_eq!((p.p, p.q), (16, 16));
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn new(x: [u32; 4], filter: [u32; 4], window: Window) -> Result<Self> {
        let [n, h, w, c] = x;
        let [k, r, s, fc] = filter;
        if fc != c {
            return Err(Error::shape(
                "conv2d",
                format_args!("filters with {c} channels"),
                fc,
                "KRSC filters carry the input's channels last",
            ));
        }
        if n == 0 || c == 0 || k == 0 {
            return Err(Error::argument(
                "conv2d",
                "positive n, c and k",
                format_args!("n {n}, c {c}, k {k}"),
                "no extent of a problem may be zero",
            ));
        }
        let [p, q] = window.output("conv2d", [h, w], [r, s])?;
        for extents in [x, filter, [n, p, q, k]] {
            check_elems("conv2d", extents)?;
        }
        let [pad_top, pad_bottom, pad_left, pad_right] = window.pads;
        let [stride_h, stride_w] = window.strides;
        let [dilation_h, dilation_w] = window.dilations;
        Ok(Conv2dProblem {
            n,
            h,
            w,
            c,
            k,
            r,
            s,
            p,
            q,
            pad_top,
            pad_bottom,
            pad_left,
            pad_right,
            stride_h,
            stride_w,
            dilation_h,
            dilation_w,
        })
    }

    /// A fully connected layer of `m` rows with `k_in` features and `n_out` units: the 1x1 convolution of images of one
    /// pixel.
    ///
    /// # Errors
    /// When an extent is zero or exceeds 32 bits.
    pub fn linear(op: &'static str, m: usize, n_out: usize, k_in: usize) -> Result<Self> {
        let extent = |name: &str, value: usize| {
            u32::try_from(value).ok().filter(|&value| value > 0).ok_or_else(|| {
                Error::argument(
                    op,
                    format_args!("{name} of 1 to 2^32 - 1"),
                    value,
                    "no extent of a problem may be zero",
                )
            })
        };
        let (m, n_out, k_in) = (extent("m", m)?, extent("n_out", n_out)?, extent("k_in", k_in)?);
        Conv2dProblem::new([m, 1, 1, k_in], [n_out, 1, 1, k_in], Window::default())
    }

    /// Rejects a problem whose fields contradict each other (they are public), so that the passes can rely on them.
    #[cfg(any(feature = "cpu", feature = "cuda"))]
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let window = Window {
            pads: [self.pad_top, self.pad_bottom, self.pad_left, self.pad_right],
            strides: [self.stride_h, self.stride_w],
            dilations: [self.dilation_h, self.dilation_w],
        };
        if Conv2dProblem::new([self.n, self.h, self.w, self.c], [self.k, self.r, self.s, self.c], window)? == *self {
            return Ok(());
        }
        Err(Error::argument(
            op,
            "p and q that follow from the other extents",
            format_args!("{self:?}"),
            "use Conv2dProblem::new",
        ))
    }

    /// Elements of `x`.
    pub fn x_elems(&self) -> usize {
        self.n as usize * self.h as usize * self.w as usize * self.c as usize
    }

    /// Elements of `w`.
    pub fn w_elems(&self) -> usize {
        self.k as usize * self.r as usize * self.s as usize * self.c as usize
    }

    /// Elements of `y`.
    pub fn y_elems(&self) -> usize {
        self.gemm_m() * self.k as usize
    }

    /// Rows of the implicit GEMM, `n·p·q`.
    pub fn gemm_m(&self) -> usize {
        self.n as usize * self.p as usize * self.q as usize
    }

    /// Columns of the implicit GEMM, `k`.
    pub fn gemm_n(&self) -> usize {
        self.k as usize
    }

    /// Depth of the implicit GEMM, `r·s·c`.
    pub fn gemm_k(&self) -> usize {
        self.r as usize * self.s as usize * self.c as usize
    }

    /// Floating-point operations of one pass (padding taps included): `2·m·n·k`, at most what a u64 holds.
    pub fn flops(&self) -> u64 {
        let [m, n, k] = [self.gemm_m(), self.gemm_n(), self.gemm_k()].map(|extent| extent as u64);
        2u64.saturating_mul(m).saturating_mul(n).saturating_mul(k)
    }

    /// Compulsory bytes of one pass for elements of `elem_bytes`: each operand and the result once.
    pub fn bytes(&self, elem_bytes: usize) -> u64 {
        ((self.x_elems() + self.w_elems() + self.y_elems()) * elem_bytes) as u64
    }
}

/// Extents of a 2-d pooling: windows `[r, s]` over `x[n,h,w,c]` give `y[n,p,q,c]`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool2dProblem {
    /// Batch.
    pub n: u32,
    /// Input rows.
    pub h: u32,
    /// Input columns.
    pub w: u32,
    /// Channels.
    pub c: u32,
    /// Window rows.
    pub r: u32,
    /// Window columns.
    pub s: u32,
    /// Output rows.
    pub p: u32,
    /// Output columns.
    pub q: u32,
    /// Padding rows above.
    pub pad_top: u32,
    /// Padding rows below.
    pub pad_bottom: u32,
    /// Padding columns left.
    pub pad_left: u32,
    /// Padding columns right.
    pub pad_right: u32,
    /// Row stride.
    pub stride_h: u32,
    /// Column stride.
    pub stride_w: u32,
}

impl Pool2dProblem {
    /// Windows `[r, s]` over images `[n, h, w, c]`. Dilation must be 1.
    ///
    /// # Errors
    /// When an extent is zero, the window is dilated, or the output would be empty.
    pub fn new(x: [u32; 4], filter: [u32; 2], window: Window) -> Result<Self> {
        let [n, h, w, c] = x;
        let [r, s] = filter;
        if n == 0 || c == 0 {
            return Err(Error::argument(
                "pool2d",
                "positive n and c",
                format_args!("n {n}, c {c}"),
                "no extent of a problem may be zero",
            ));
        }
        if window.dilations != [1, 1] {
            return Err(Error::argument(
                "pool2d",
                "dilation 1",
                format_args!("{:?}", window.dilations),
                "pooling windows are dense",
            ));
        }
        let [p, q] = window.output("pool2d", [h, w], [r, s])?;
        for extents in [x, [n, p, q, c]] {
            check_elems("pool2d", extents)?;
        }
        let [pad_top, pad_bottom, pad_left, pad_right] = window.pads;
        let [stride_h, stride_w] = window.strides;
        Ok(Pool2dProblem { n, h, w, c, r, s, p, q, pad_top, pad_bottom, pad_left, pad_right, stride_h, stride_w })
    }

    #[cfg(any(feature = "cpu", feature = "cuda"))]
    /// Whether the pooling only picks every `stride`-th pixel: 1x1 windows, no padding.
    pub(crate) fn is_subsample(&self) -> bool {
        self.r == 1 && self.s == 1 && [self.pad_top, self.pad_bottom, self.pad_left, self.pad_right] == [0; 4]
    }

    #[cfg(any(feature = "cpu", feature = "cuda"))]
    /// Rejects a problem whose fields contradict each other (they are public), and windows of more places than a byte
    /// counts.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let &Pool2dProblem { n, h, w, c, r, s, pad_top, pad_bottom, pad_left, pad_right, stride_h, stride_w, .. } =
            self;
        let window = Window {
            pads: [pad_top, pad_bottom, pad_left, pad_right],
            strides: [stride_h, stride_w],
            dilations: [1; 2],
        };
        if Pool2dProblem::new([n, h, w, c], [r, s], window)? != *self {
            return Err(Error::argument(
                op,
                "p and q that follow from the other extents",
                format_args!("{self:?}"),
                "use Pool2dProblem::new",
            ));
        }
        if self.r as usize * (self.s as usize) < usize::from(u8::MAX) {
            return Ok(());
        }
        Err(Error::argument(
            op,
            "at most 254 elements a window",
            format_args!("{} x {}", self.r, self.s),
            "places in a window are stored as bytes; use a smaller window or global_avg",
        ))
    }

    /// Elements of `x`.
    pub fn x_elems(&self) -> usize {
        self.n as usize * self.h as usize * self.w as usize * self.c as usize
    }

    /// Elements of `y`.
    pub fn y_elems(&self) -> usize {
        self.n as usize * self.p as usize * self.q as usize * self.c as usize
    }

    /// Comparisons of the forward pass: one per window element.
    pub fn flops(&self) -> u64 {
        self.y_elems() as u64 * u64::from(self.r) * u64::from(self.s)
    }

    /// Compulsory bytes of the forward pass for elements of `elem_bytes`.
    pub fn bytes(&self, elem_bytes: usize) -> u64 {
        ((self.x_elems() + self.y_elems()) * elem_bytes) as u64
    }
}

/// One parameter tensor as an optimiser sees it: where it lies in the parameter arena and in the gradient arena.
///
/// Optimiser state has the gradient arena's layout. A table of spans ascends in both offsets.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// First element in the parameter arena.
    pub param_offset: u64,
    /// First element in the gradient arena and in every state arena.
    pub grad_offset: u64,
    /// Elements.
    pub len: u64,
}

#[cfg(any(feature = "cpu", feature = "cuda"))]
/// Checks that the spans ascend without overlap in both arenas and end inside them.
pub(crate) fn check_spans(op: &'static str, spans: &[Span], params: usize, grads: usize) -> Result<()> {
    let (mut param_end, mut grad_end) = (0u64, 0u64);
    for (i, span) in spans.iter().enumerate() {
        let ends = (span.param_offset.checked_add(span.len), span.grad_offset.checked_add(span.len));
        let ascending = span.param_offset >= param_end && span.grad_offset >= grad_end;
        match ends {
            (Some(p), Some(g)) if ascending && p <= params as u64 && g <= grads as u64 => {
                (param_end, grad_end) = (p, g);
            }
            _ => {
                return Err(Error::shape(
                    op,
                    format_args!(
                        "span {i} from parameter {param_end} and gradient {grad_end} on, inside arenas of {params} \
                         and {grads} elements"
                    ),
                    format_args!("{span:?}"),
                    "sort the span table, without overlaps, and size the arenas to hold it",
                ));
            }
        }
    }
    Ok(())
}

impl Span {
    /// The spans cut into pieces of at most `max` elements, in order; empty spans vanish.
    ///
    /// # Example
    /// ```
    /// use warpsmith::problem::Span;
    /// let pieces = Span::pieces(&[Span { param_offset: 8, grad_offset: 0, len: 5 }], 4);
    /// assert_eq!(pieces[1], Span { param_offset: 12, grad_offset: 4, len: 1 });
    /// ```
    pub fn pieces(spans: &[Span], max: u64) -> Vec<Span> {
        let max = max.max(1);
        let cut = |span: &Span| {
            let Span { param_offset, grad_offset, len } = *span;
            (0..len).step_by(max as usize).map(move |at| Span {
                param_offset: param_offset + at,
                grad_offset: grad_offset + at,
                len: max.min(len - at),
            })
        };
        spans.iter().flat_map(cut).collect()
    }
}

/// The range that Keras clips probabilities to before it takes their logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Clip {
    /// `[1e-7, 1 - 1e-7]`, for cross-entropy of probabilities.
    pub const PROBS: Clip = Clip { min: 1e-7, max: 1.0 - 1e-7 };
    /// `[1e-7, 1]`, for Kullback-Leibler divergences.
    pub const KL: Clip = Clip { min: 1e-7, max: 1.0 };

    #[cfg(feature = "cpu")]
    pub(crate) fn apply(self, p: f64) -> f64 {
        p.clamp(self.min, self.max)
    }

    #[cfg(feature = "cpu")]
    pub(crate) fn contains(self, p: f64) -> bool {
        (self.min..=self.max).contains(&p)
    }
}

/// Which contrastive loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// N-pairs: `log Σ_j exp S_ij - mean over positives of S_ij`, the anchor itself among both.
    Npairs,
    /// Khosla's L_out: `-mean over positives of (S_ip - log Σ_{k≠i} exp S_ik)`, the anchor itself excluded.
    Out,
    /// Khosla's L_in: `-log of the mean over positives of exp S_ip / Σ_{k≠i} exp S_ik`.
    In,
}

/// What the sum over the anchors is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeanOver {
    /// The anchors that have a positive.
    WithPositive,
    /// All anchors; one without a positive counts as 0.
    All,
}

/// Settings of a supervised contrastive loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Supcon {
    /// Which loss.
    pub form: Form,
    /// Similarities are divided by it.
    pub temperature: f32,
    /// Floor under the squared norm of a row.
    pub norm_eps: f32,
    /// Factor of the loss (temperature / base temperature in the authors' code).
    pub scale: f32,
    /// What the sum is divided by; all anchors have a positive under [`Form::Npairs`].
    pub mean_over: MeanOver,
}

impl Default for Supcon {
    fn default() -> Self {
        let (form, mean_over) = (Form::Npairs, MeanOver::WithPositive);
        Supcon { form, temperature: 0.05, norm_eps: 1e-12, scale: 1.0, mean_over }
    }
}
