//! 2-d convolution on the CPU: fprop, dgrad, wgrad and the bias gradient, NHWC activations and KRSC filters.
//!
//! All three passes are matrix products over gathered rows. Two ideas keep the gather cheap and free of zeros:
//!
//! - **Implicit im2col.** A row of A is one pixel's filter window. It is copied straight from the image into the
//!   packed block that the register tile reads; neighbouring taps of a filter row lie next to each other in NHWC and
//!   are copied as one piece. There is no other copy.
//! - **Classes instead of padding.** Along each axis the output positions that see the same taps form a `Span`; a
//!   pair of spans is a `Class`. All pixels of a class, over the whole batch, use the same taps, so taps that hit only
//!   padding are left out of the product. In ResNet50V2 at 32x32 the last stage has one pixel per image: one class
//!   with one tap, not nine. For dgrad the same construction sorts the pixels by their residue modulo the
//!   stride, and a strided dgrad does no wasted work either. Small batches would give classes of a few rows; they
//!   use one class per residue and copy zeros for the padding.

use crate::cpu::gemm::{
    COLS, KC, LDA, MC, Output, PIECES, Panels, ROWS, Run, Shared, column_block, compiled_for, current_isa, even_parts,
    row_block, with_shared,
};
use crate::error::{Result, check_len};
use crate::problem::Conv2dProblem;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;

/// Batches from this size on leave padded taps out.
const EXACT_BATCH: usize = 16;
/// Up to this many input channels dgrad multiplies first and scatters then: its product would have too few columns.
const NARROW: usize = 8;
/// Columns of dw that one wgrad task computes at most.
const WGRAD_COLS: usize = 512;
/// Floats of partial sums that wgrad may keep: 16 MiB.
const PARTIAL_ELEMS: usize = 4 << 20;

/// One tap of a span: which filter row (or column), and the input position that the span's first output reads.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tap {
    index: usize,
    at: isize,
}

/// Output positions along one axis that see the same taps: `first, first + step, …`.
#[derive(Debug)]
struct Span {
    first: usize,
    count: usize,
    taps: Vec<Tap>,
}

/// One axis of a pass: written positions, read positions, and how one moves with the other.
struct Axis {
    out: usize,
    input: usize,
    /// Output positions of a span are `out_step` apart; each moves the input position by `in_step`.
    out_step: usize,
    in_step: usize,
    spans: Vec<Span>,
}

impl Axis {
    /// Groups output positions by their taps. `at(out, tap)` is the input position, if there is one.
    /// With `exact`, taps outside the input are dropped.
    fn new(
        [out, input, taps]: [usize; 3],
        [out_step, in_step]: [usize; 2],
        exact: bool,
        at: impl Fn(usize, usize) -> Option<isize>,
    ) -> Axis {
        let mut spans: Vec<Span> = Vec::new();
        for residue in 0..out_step.min(out) {
            let begin = spans.len();
            for first in (residue..out).step_by(out_step) {
                let taps: Vec<Tap> = (0..taps)
                    .filter_map(|index| at(first, index).map(|at| Tap { index, at }))
                    .filter(|tap| !exact || (0..input as isize).contains(&tap.at))
                    .collect();
                let same = |span: &&mut Span| {
                    span.taps.len() == taps.len() && span.taps.iter().zip(&taps).all(|(a, b)| a.index == b.index)
                };
                match spans[begin..].last_mut().filter(same) {
                    Some(span) => span.count += 1,
                    None => spans.push(Span { first, count: 1, taps }),
                }
            }
        }
        Axis { out, input, out_step, in_step, spans }
    }

    /// Output `p` reads input `p * stride + tap * dilation - pad`.
    fn fprop([out, input, taps]: [u32; 3], stride: u32, pad: u32, dilation: u32, exact: bool) -> Axis {
        let (stride_, pad, dilation) = (stride as isize, pad as isize, dilation as isize);
        let extents = [out as usize, input as usize, taps as usize];
        Axis::new(extents, [1, stride as usize], exact, |p, tap| {
            Some(p as isize * stride_ + tap as isize * dilation - pad)
        })
    }

    /// The reverse: pixel `h` is read by output `p` where `p * stride = h + pad - tap * dilation`.
    fn dgrad([out, input, taps]: [u32; 3], stride: u32, pad: u32, dilation: u32, exact: bool) -> Axis {
        let (stride_, pad, dilation) = (stride as isize, pad as isize, dilation as isize);
        let extents = [out as usize, input as usize, taps as usize];
        Axis::new(extents, [stride as usize, 1], exact, |h, tap| {
            let reached = h as isize + pad - tap as isize * dilation;
            (reached.rem_euclid(stride_) == 0).then(|| reached.div_euclid(stride_))
        })
    }
}

/// A piece of a gathered row: `len` floats of one input line, against rows `start..` of B.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Input row that the class's first pixel reads.
    line: isize,
    /// First float within that input row; may lie outside when the class is padded.
    from: isize,
    /// Depth index in B.
    start: usize,
    len: usize,
}

impl Piece {
    /// The part of the piece whose depth index lies in `range`.
    fn clip(self, range: &Range<usize>) -> Option<Piece> {
        let begin = self.start.max(range.start);
        let end = (self.start + self.len).min(range.end);
        (begin < end).then(|| Piece {
            from: self.from + (begin - self.start) as isize,
            start: begin,
            len: end - begin,
            ..self
        })
    }
}

/// Pixels that see the same taps: a pair of spans, over all images.
struct Class<'a> {
    rows: &'a Span,
    cols: &'a Span,
    /// The taps, in the order of the gathered row.
    pieces: Vec<Piece>,
}

/// A pixel of a class.
#[derive(Clone, Copy)]
struct Pixel {
    /// Input element that a piece with `line = 0, from = 0` would read.
    base: usize,
    /// How far the pixel moves a piece's `line` and `from`.
    line: isize,
    from: isize,
    /// Index of the output pixel.
    out: usize,
}

/// How a pass gathers: both axes and the extents that turn positions into offsets.
struct Gather {
    batch: usize,
    h: Axis,
    w: Axis,
    /// Channels of the gathered tensor.
    channels: usize,
    exact: bool,
}

impl Gather {
    /// fprop and wgrad gather windows of `x` for every output pixel.
    fn fprop(p: &Conv2dProblem, exact: bool) -> Gather {
        Gather {
            batch: p.n as usize,
            h: Axis::fprop([p.p, p.h, p.r], p.stride_h, p.pad_top, p.dilation_h, exact),
            w: Axis::fprop([p.q, p.w, p.s], p.stride_w, p.pad_left, p.dilation_w, exact),
            channels: p.c as usize,
            exact,
        }
    }

    /// dgrad gathers, for every input pixel, the pixels of `dy` that it contributed to.
    fn dgrad(p: &Conv2dProblem) -> Gather {
        let exact = p.n as usize >= EXACT_BATCH;
        Gather {
            batch: p.n as usize,
            h: Axis::dgrad([p.h, p.p, p.r], p.stride_h, p.pad_top, p.dilation_h, exact),
            w: Axis::dgrad([p.w, p.q, p.s], p.stride_w, p.pad_left, p.dilation_w, exact),
            channels: p.k as usize,
            exact,
        }
    }

    /// Floats in one row of the gathered image.
    fn line_elems(&self) -> usize {
        self.w.input * self.channels
    }

    /// The classes; depth index of B is `(tap row * s + tap column) * channels + channel`.
    fn classes(&self, s: usize) -> Vec<Class<'_>> {
        let mut classes = Vec::new();
        for rows in &self.h.spans {
            for cols in &self.w.spans {
                let mut pieces: Vec<Piece> = Vec::new();
                for row in &rows.taps {
                    for col in &cols.taps {
                        let piece = Piece {
                            line: row.at,
                            from: col.at * self.channels as isize,
                            start: (row.index * s + col.index) * self.channels,
                            len: self.channels,
                        };
                        // Neighbouring taps that lie next to each other in memory are one piece.
                        match pieces.last_mut() {
                            Some(last)
                                if last.line == piece.line
                                    && last.from + last.len as isize == piece.from
                                    && last.start + last.len == piece.start =>
                            {
                                last.len += piece.len;
                            }
                            _ => pieces.push(piece),
                        }
                    }
                }
                classes.push(Class { rows, cols, pieces });
            }
        }
        classes
    }

    /// The rows of B that some class uses: a tap that hits only padding everywhere need not be packed.
    fn used(&self, s: usize) -> Vec<Run> {
        let taps = |axis: &Axis| -> BTreeSet<usize> {
            axis.spans.iter().flat_map(|span| span.taps.iter().map(|tap| tap.index)).collect()
        };
        let (rows, cols) = (taps(&self.h), taps(&self.w));
        let run = |row: usize, col: usize| Run { start: (row * s + col) * self.channels, len: self.channels };
        rows.iter().flat_map(|&row| cols.iter().map(move |&col| run(row, col))).collect()
    }

    /// Number of pixels of a class.
    fn pixels(&self, class: &Class) -> usize {
        self.batch * class.rows.count * class.cols.count
    }

    /// Pixel `m` of a class, images outermost.
    fn pixel(&self, class: &Class, m: usize) -> Pixel {
        let (j, rest) = (m % class.cols.count, m / class.cols.count);
        let (i, n) = (rest % class.rows.count, rest / class.rows.count);
        let (line, from) = (i * self.h.in_step, j * self.w.in_step * self.channels);
        let (row, col) = (class.rows.first + i * self.h.out_step, class.cols.first + j * self.w.out_step);
        Pixel {
            base: (n * self.h.input + line) * self.line_elems() + from,
            line: line as isize,
            from: from as isize,
            out: (n * self.h.out + row) * self.w.out + col,
        }
    }

    /// The part of a piece that lies inside the image: which floats of the piece, and where they are in the input.
    #[inline(always)]
    fn inside(&self, pixel: &Pixel, piece: &Piece, len: usize) -> (Range<usize>, usize) {
        let line = self.line_elems() as isize;
        if !(0..self.h.input as isize).contains(&(pixel.line + piece.line)) {
            return (0..0, 0);
        }
        let from = pixel.from + piece.from;
        let begin = (-from).clamp(0, len as isize);
        let end = (line - from).clamp(begin, len as isize);
        if begin == end {
            return (0..0, 0);
        }
        let input = pixel.base as isize + piece.line * line + piece.from + begin;
        (begin as usize..end as usize, input as usize)
    }

    /// Copies one piece of one pixel's row to `to`, zeros where it lies outside the image.
    #[inline(always)]
    fn copy(&self, input: &[f32], pixel: &Pixel, piece: &Piece, to: &mut [f32]) {
        if self.exact {
            let from = pixel.base as isize + piece.line * self.line_elems() as isize + piece.from;
            copy(to, &input[from as usize..][..to.len()]);
            return;
        }
        let (part, from) = self.inside(pixel, piece, to.len());
        to[..part.start].fill(0.0);
        to[part.end..].fill(0.0);
        if !part.is_empty() {
            let len = part.len();
            copy(&mut to[part], &input[from..][..len]);
        }
    }
}

/// `copy_from_slice`, inline for short pieces: whole vectors, the last one overlapping its neighbour.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let len = to.len();
    if !(4..=256).contains(&len) {
        to.copy_from_slice(from);
        return;
    }
    let ((to_lines, to_rest), (from_lines, from_rest)) = (to.as_chunks_mut::<16>(), from.as_chunks::<16>());
    for (to, from) in to_lines.iter_mut().zip(from_lines) {
        *to = *from;
    }
    if to_rest.is_empty() {
        return;
    }
    for (to, from) in to_rest.as_chunks_mut::<4>().0.iter_mut().zip(from_rest.as_chunks::<4>().0) {
        *to = *from;
    }
    to[len - 4..].copy_from_slice(&from[len - 4..]);
}

/// Cuts a class's pieces into blocks of at most [`KC`] deep; at least one block, so that results without a tap are
/// written too.
fn depth_blocks(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let depth: usize = pieces.iter().map(|piece| piece.len).sum();
    let step = even_parts(depth, KC, 1);
    let mut blocks = vec![Vec::new()];
    let mut room = step;
    for &piece in pieces {
        let mut rest = piece;
        while rest.len > 0 {
            if room == 0 {
                blocks.push(Vec::new());
                room = step;
            }
            let len = rest.len.min(room);
            let cut = rest.start + len;
            blocks.last_mut().expect("never empty").push(Piece { len, ..rest });
            rest = Piece { from: rest.from + len as isize, start: cut, len: rest.len - len, ..rest };
            room -= len;
        }
    }
    blocks
}

/// fprop and dgrad: every output pixel is its gathered row times packed B.
fn gather_rows(gather: &Gather, s: usize, input: &[f32], panels: Panels, packed: &[f32], out: &Output) {
    struct Block {
        class: usize,
        pixels: Range<usize>,
    }
    let isa = panels.isa;
    let classes = gather.classes(s);
    let depths: Vec<Vec<Vec<Piece>>> = classes.iter().map(|class| depth_blocks(&class.pieces)).collect();
    let mut blocks = Vec::new();
    for (index, class) in classes.iter().enumerate() {
        let pixels = gather.pixels(class);
        let step = even_parts(pixels, MC / isa.mr() * isa.mr(), isa.mr());
        blocks.extend((0..pixels).step_by(step).map(|m| Block { class: index, pixels: m..pixels.min(m + step) }));
    }
    // Few row blocks: cut the columns as well, but not below four panels, to keep the gather worth its while.
    let which = panels.count().div_ceil(PIECES.div_ceil(blocks.len().max(1))).max(4);
    let pieces = panels.count().div_ceil(which);
    (0..blocks.len() * pieces).into_par_iter().with_max_len(1).for_each(|task| {
        let block = &blocks[task / pieces];
        let which = task % pieces * which..panels.count().min((task % pieces + 1) * which);
        let pixels: Vec<Pixel> = block.pixels.clone().map(|m| gather.pixel(&classes[block.class], m)).collect();
        let offsets: Vec<usize> = pixels.iter().map(|pixel| pixel.out * panels.cols).collect();
        let depths = &depths[block.class];
        ROWS.with_borrow_mut(|scratch| {
            let packed_rows = scratch.floats(pixels.len() * LDA);
            for (index, pieces) in depths.iter().enumerate() {
                compiled_for(isa, || {
                    for (pixel, row) in pixels.iter().zip(packed_rows.chunks_exact_mut(LDA)) {
                        let mut rest = row;
                        for piece in pieces {
                            let (to, after) = rest.split_at_mut(piece.len);
                            gather.copy(input, pixel, piece, to);
                            rest = after;
                        }
                    }
                });
                let runs: Vec<Run> = pieces.iter().map(|p| Run { start: p.start, len: p.len }).collect();
                let (add, last) = (index > 0, index + 1 == depths.len());
                // SAFETY: offsets are output pixels times `cols`, within the output (and residual) whose lengths the
                // caller checked; classes partition the pixels and tasks partition classes and columns.
                unsafe { row_block(panels, packed_rows, &runs, packed, which.clone(), &offsets, out, add, last) }
            }
        });
    });
}

/// `y[n,p,q,k] = sum_{r,s,c} x[n, p·stride + r·dilation - pad, q·…, c] · w[k,r,s,c] (+ bias[k]) (+ residual[n,p,q,k])`.
///
/// # Shapes
/// `x [n,h,w,c]`, `w [k,r,s,c]`, `bias [k]`, `residual` and `y` `[n,p,q,k]`. Pixels outside the image are zero.
/// Writes `y =`; bias and residual are added while the results are in registers.
///
/// # Gradient
/// [`dgrad`] to `x`, [`wgrad`] to `w`, [`bias_grad`] to `bias`; `dy` itself to `residual`.
///
/// # Errors
/// When a slice has the wrong length or the problem contradicts itself.
///
/// # Determinism
/// Bit-equal for every number of threads. Instruction sets differ in rounding, and so may other batch sizes.
///
/// # Source
/// Implicit GEMM as in CUTLASS, "Implicit GEMM Convolution"; blocking as in [`gemm`](super::gemm).
///
/// # Example
/// ```
/// use warpsmith::{cpu::conv2d, problem::{Conv2dProblem, Window}};
/// // A 3x3 box over a 3x3 image of ones: the corners see four pixels.
/// let p = Conv2dProblem::new([1, 3, 3, 1], [1, 3, 3, 1], Window::square(1, 1))?;
/// let mut y = [0.0; 9];
/// conv2d::fprop(p, &[1.0; 9], &[1.0; 9], Some(&[0.5]), None, &mut y)?;
/// assert_eq!(y, [4.5, 6.5, 4.5, 6.5, 9.5, 6.5, 4.5, 6.5, 4.5]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn fprop(
    p: Conv2dProblem,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: &mut [f32],
) -> Result<()> {
    const OP: &str = "conv2d.fprop";
    p.check(OP)?;
    check_len(OP, "x", x.len(), p.x_elems())?;
    check_len(OP, "w", w.len(), p.w_elems())?;
    check_len(OP, "y", y.len(), p.y_elems())?;
    if let Some(bias) = bias {
        check_len(OP, "bias", bias.len(), p.k as usize)?;
    }
    if let Some(residual) = residual {
        check_len(OP, "residual", residual.len(), p.y_elems())?;
    }
    let panels = Panels { isa: current_isa(), depth: p.gemm_k(), cols: p.k as usize };
    let out = Output { c: Shared(y.as_mut_ptr()), bias, residual };
    with_shared(panels.elems(), |packed| {
        let gather = Gather::fprop(&p, p.n as usize >= EXACT_BATCH);
        panels.pack_transposed(w, &gather.used(p.s as usize), p.gemm_k(), packed);
        gather_rows(&gather, p.s as usize, x, panels, packed, &out);
    });
    Ok(())
}

/// Gradient to the input: `dx[n,h,w,c] = sum_{k,r,s} dy[n,p,q,k] · w[k,r,s,c]` over the `p, q` whose windows see `h, w`.
///
/// # Shapes
/// `w [k,r,s,c]`, `dy [n,p,q,k]`, `dx [n,h,w,c]`. Writes `dx =` (pixels that no window sees become 0).
///
/// # Errors
/// When a slice has the wrong length or the problem contradicts itself.
///
/// # Determinism
/// Bit-equal for every number of threads.
///
/// # Source
/// The adjoint of [`fprop`]; pixels sorted by residue modulo the stride as in CUTLASS's strided dgrad.
///
/// # Example
/// ```
/// use warpsmith::{cpu::conv2d, problem::{Conv2dProblem, Window}};
/// // 1x1 filters with stride 2 see every second pixel.
/// let p = Conv2dProblem::new([1, 3, 3, 1], [1, 1, 1, 1], Window::square(0, 2))?;
/// let mut dx = [9.0; 9];
/// conv2d::dgrad(p, &[2.0], &[1.0, 2.0, 3.0, 4.0], &mut dx)?;
/// assert_eq!(dx, [2.0, 0.0, 4.0, 0.0, 0.0, 0.0, 6.0, 0.0, 8.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn dgrad(p: Conv2dProblem, w: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
    const OP: &str = "conv2d.dgrad";
    p.check(OP)?;
    check_len(OP, "w", w.len(), p.w_elems())?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "dx", dx.len(), p.x_elems())?;
    if p.c as usize <= NARROW && p.r as usize * p.s as usize > 1 {
        dgrad_narrow(&p, w, dy, dx);
        return Ok(());
    }
    let (k, c, taps) = (p.k as usize, p.c as usize, p.r as usize * p.s as usize);
    let panels = Panels { isa: current_isa(), depth: taps * k, cols: c };
    let out = Output { c: Shared(dx.as_mut_ptr()), bias: None, residual: None };
    with_shared(panels.elems(), |packed| {
        // B's depth runs over taps, then output channels: filter k's tap is `c` neighbouring floats.
        let gather = Gather::dgrad(&p);
        panels.pack(w, &gather.used(p.s as usize), |depth| (depth % k * taps + depth / k) * c, 1, packed);
        gather_rows(&gather, p.s as usize, dy, panels, packed, &out);
    });
    Ok(())
}

/// dgrad for few input channels (the stem's three): `dy` times the filters gives every pixel's whole window of
/// `r·s·c` numbers, which are added to the image. A task owns an image, so the order of the additions is fixed.
fn dgrad_narrow(p: &Conv2dProblem, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let isa = current_isa();
    let (k, window) = (p.k as usize, p.gemm_k());
    let gather = Gather::fprop(p, false);
    // Padded and with step 1 along both outputs: one class that holds every pixel.
    let class = &gather.classes(p.s as usize)[0];
    let image_pixels = p.p as usize * p.q as usize;
    let panels = Panels { isa, depth: k, cols: window };
    let rows_step = even_parts(image_pixels, MC / isa.mr() * isa.mr(), isa.mr());
    let depth_step = even_parts(k, KC, 1);
    with_shared(panels.elems(), |packed| {
        panels.pack(w, &[Run { start: 0, len: k }], |depth| depth * window, 1, packed);
        let packed = &*packed;
        let images = dx.par_chunks_mut(p.h as usize * p.w as usize * p.c as usize);
        images.zip(dy.par_chunks(image_pixels * k)).with_max_len(1).for_each(|(dx, dy)| {
            dx.fill(0.0);
            for first in (0..image_pixels).step_by(rows_step) {
                let pixels = first..image_pixels.min(first + rows_step);
                let offsets: Vec<usize> = (0..pixels.len()).map(|row| row * window).collect();
                ROWS.with_borrow_mut(|rows_scratch| {
                    COLS.with_borrow_mut(|cols_scratch| {
                        let packed_rows = rows_scratch.floats(pixels.len() * LDA);
                        let windows = cols_scratch.floats(pixels.len() * window);
                        let out = Output { c: Shared(windows.as_mut_ptr()), bias: None, residual: None };
                        for start in (0..k).step_by(depth_step) {
                            let len = depth_step.min(k - start);
                            for (pixel, row) in pixels.clone().zip(packed_rows.chunks_exact_mut(LDA)) {
                                row[..len].copy_from_slice(&dy[pixel * k + start..][..len]);
                            }
                            let runs = [Run { start, len }];
                            let which = 0..panels.count();
                            // SAFETY: `windows` belongs to this task and holds a window for every offset.
                            unsafe {
                                row_block(panels, packed_rows, &runs, packed, which, &offsets, &out, start > 0, true)
                            }
                        }
                        for (m, windows) in pixels.zip(windows.chunks_exact(window)) {
                            let pixel = gather.pixel(class, m);
                            for piece in &class.pieces {
                                let (part, at) = gather.inside(&pixel, piece, piece.len);
                                let from = &windows[piece.start..][part];
                                for (dx, from) in dx[at..].iter_mut().zip(from) {
                                    *dx += from;
                                }
                            }
                        }
                    });
                });
            }
        });
    });
}

/// Gradient to the filters: `dw[k,r,s,c] += sum_{n,p,q} dy[n,p,q,k] · x[n, p·stride + r·dilation - pad, q·…, c]`.
///
/// # Shapes
/// `x [n,h,w,c]`, `dy [n,p,q,k]`, `dw [k,r,s,c]`. Writes `dw +=`: parameter gradients accumulate in an arena.
///
/// # Errors
/// When a slice has the wrong length or the problem contradicts itself.
///
/// # Determinism
/// Bit-equal for every number of threads: small filters are summed in a number of partial sums that follows from
/// the extents, merged in order; large ones need no partial sums.
///
/// # Source
/// The adjoint of [`fprop`].
///
/// # Example
/// ```
/// use warpsmith::{cpu::conv2d, problem::{Conv2dProblem, Window}};
/// let p = Conv2dProblem::new([1, 2, 2, 1], [1, 1, 1, 1], Window::square(0, 1))?;
/// let mut dw = [100.0];
/// conv2d::wgrad(p, &[1.0, 2.0, 3.0, 4.0], &[1.0; 4], &mut dw)?;
/// assert_eq!(dw, [110.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn wgrad(p: Conv2dProblem, x: &[f32], dy: &[f32], dw: &mut [f32]) -> Result<()> {
    const OP: &str = "conv2d.wgrad";
    p.check(OP)?;
    check_len(OP, "x", x.len(), p.x_elems())?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "dw", dw.len(), p.w_elems())?;
    let isa = current_isa();
    let (k, cols) = (p.k as usize, p.gemm_k());
    let gather = Gather::fprop(&p, p.n as usize >= EXACT_BATCH);
    let classes = gather.classes(p.s as usize);

    // Blocks of at most KC pixels, the depth of this product.
    let mut blocks: Vec<(&Class, Range<usize>)> = Vec::new();
    for class in &classes {
        let pixels = gather.pixels(class);
        let step = even_parts(pixels, KC, 1);
        blocks.extend((0..pixels).step_by(step).map(|m| (class, m..pixels.min(m + step))));
    }

    // Tiles of dw; where they are few, the pixels are split too, into partial sums.
    // Narrow tiles are taller: their rows of dy are read in longer pieces, and x is packed less often.
    let tile_cols = even_parts(cols, WGRAD_COLS, isa.nr());
    let tall = if tile_cols <= WGRAD_COLS / 2 { 2 * MC } else { MC };
    let tile_rows = even_parts(k, tall / isa.mr() * isa.mr(), isa.mr());
    let (row_tiles, col_tiles) = (k.div_ceil(tile_rows), cols.div_ceil(tile_cols));
    let tiles = row_tiles * col_tiles;
    let splits = PIECES.div_ceil(tiles).min(PARTIAL_ELEMS / dw.len()).clamp(1, blocks.len().max(1));

    let sum_tile = |tile: usize, blocks: &[(&Class, Range<usize>)], sums: Shared| {
        let first_row = tile / col_tiles * tile_rows;
        let first_col = tile % col_tiles * tile_cols;
        let rows = first_row..k.min(first_row + tile_rows);
        let cols_range = first_col..cols.min(first_col + tile_cols);
        for (class, pixels) in blocks {
            let pixels: Vec<Pixel> = pixels.clone().map(|m| gather.pixel(class, m)).collect();
            let pieces: Vec<Piece> = class.pieces.iter().filter_map(|piece| piece.clip(&cols_range)).collect();
            ROWS.with_borrow_mut(|rows_scratch| {
                let packed_rows = rows_scratch.floats(rows.len() * pixels.len());
                compiled_for(isa, || pack_column_panels(packed_rows, dy, k, &rows, &pixels, isa.mr()));
                // Pieces that are neighbours in dw share their panels.
                for run in pieces.chunk_by(|a, b| a.start + a.len == b.start) {
                    let panels = Panels { isa, depth: pixels.len(), cols: run.iter().map(|piece| piece.len).sum() };
                    COLS.with_borrow_mut(|cols_scratch| {
                        let packed = cols_scratch.floats(panels.elems());
                        compiled_for(isa, || pack_windows(packed, panels, &gather, x, &pixels, run));
                        let c = sums.get().wrapping_add(rows.start * cols + run[0].start);
                        // SAFETY: the run's columns and the tile's rows lie within dw (or a partial sum of its
                        // length), and a tile belongs to one task.
                        unsafe { column_block(panels, packed_rows, packed, rows.len(), c, cols) }
                    });
                }
            });
        }
    };

    if splits == 1 {
        let sums = Shared(dw.as_mut_ptr());
        (0..tiles).into_par_iter().with_max_len(1).for_each(|tile| sum_tile(tile, &blocks, sums));
        return Ok(());
    }
    let elems = dw.len();
    with_shared(splits * elems, |partial| {
        partial.par_chunks_mut(elems).for_each(|sums| sums.fill(0.0));
        let sums = Shared(partial.as_mut_ptr());
        (0..splits * tiles).into_par_iter().with_max_len(1).for_each(|task| {
            let (split, tile) = (task / tiles, task % tiles);
            let range = split * blocks.len() / splits..(split + 1) * blocks.len() / splits;
            sum_tile(tile, &blocks[range], Shared(sums.get().wrapping_add(split * elems)));
        });
        dw.par_chunks_mut(4096).enumerate().for_each(|(chunk, dw)| {
            for sums in partial.chunks_exact(elems) {
                for (dw, sum) in dw.iter_mut().zip(&sums[chunk * 4096..]) {
                    *dw += sum;
                }
            }
        });
    });
    Ok(())
}

/// Packs channels `rows` of `dy` for some pixels: panels of `mr` channels, `[panel][pixel][channel]`.
#[inline(always)]
fn pack_column_panels(packed: &mut [f32], dy: &[f32], k: usize, rows: &Range<usize>, pixels: &[Pixel], mr: usize) {
    for (m, pixel) in pixels.iter().enumerate() {
        let row = &dy[pixel.out * k..][rows.clone()];
        match mr {
            14 => pack_column::<14>(packed, row, m, pixels.len()),
            _ => pack_column::<6>(packed, row, m, pixels.len()),
        }
    }
}

/// Writes one pixel's channels into panels of `MR` channels.
#[inline(always)]
fn pack_column<const MR: usize>(packed: &mut [f32], row: &[f32], m: usize, pixels: usize) {
    let (full, rest) = row.as_chunks::<MR>();
    for (panel, from) in full.iter().enumerate() {
        packed[(panel * pixels + m) * MR..][..MR].copy_from_slice(from);
    }
    packed[full.len() * MR * pixels + m * rest.len()..][..rest.len()].copy_from_slice(rest);
}

/// Packs neighbouring pieces of the pixels' windows as panels of B, one row per pixel.
#[inline(always)]
fn pack_windows(packed: &mut [f32], panels: Panels, gather: &Gather, x: &[f32], pixels: &[Pixel], run: &[Piece]) {
    let nr = panels.isa.nr();
    for (row, pixel) in pixels.iter().enumerate() {
        let mut col = 0;
        for piece in run {
            let mut rest = *piece;
            while rest.len > 0 {
                let (j, lane) = (col / nr, col % nr);
                let len = rest.len.min(nr - lane);
                let at = panels.start(j) + row * panels.width(j) + lane;
                gather.copy(x, pixel, &rest, &mut packed[at..at + len]);
                rest = Piece { from: rest.from + len as isize, start: rest.start + len, len: rest.len - len, ..rest };
                col += len;
            }
        }
        let last = panels.count() - 1;
        let at = panels.start(last) + row * panels.width(last);
        packed[at + panels.valid(last)..at + panels.width(last)].fill(0.0);
    }
}

/// Gradient to the bias: `db[k] += sum_{n,p,q} dy[n,p,q,k]`.
///
/// # Shapes
/// `dy [n,p,q,k]`, `db [k]`. Writes `db +=`.
///
/// # Errors
/// When a slice has the wrong length or the problem contradicts itself.
///
/// # Determinism
/// Bit-equal for every number of threads: partial sums of a fixed number of rows, merged in order.
///
/// # Source
/// The adjoint of the bias in [`fprop`].
///
/// # Example
/// ```
/// use warpsmith::{cpu::conv2d, problem::{Conv2dProblem, Window}};
/// let p = Conv2dProblem::new([1, 1, 2, 1], [2, 1, 1, 1], Window::square(0, 1))?;
/// let mut db = [0.0, 1.0];
/// conv2d::bias_grad(p, &[1.0, 2.0, 3.0, 4.0], &mut db)?;
/// assert_eq!(db, [4.0, 7.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn bias_grad(p: Conv2dProblem, dy: &[f32], db: &mut [f32]) -> Result<()> {
    const OP: &str = "conv2d.bias_grad";
    p.check(OP)?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "db", db.len(), p.k as usize)?;
    let k = db.len();
    let rows = p.gemm_m().div_ceil(PIECES);
    let parts = p.gemm_m().div_ceil(rows);
    with_shared(parts * k, |partial| {
        partial.par_chunks_mut(k).zip(dy.par_chunks(rows * k)).for_each(|(sums, dy)| {
            sums.fill(0.0);
            for row in dy.chunks_exact(k) {
                for (sum, dy) in sums.iter_mut().zip(row) {
                    *sum += dy;
                }
            }
        });
        for sums in partial.chunks_exact(k) {
            for (db, sum) in db.iter_mut().zip(sums) {
                *db += sum;
            }
        }
    });
    Ok(())
}
