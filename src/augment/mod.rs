//! Batched image augmentation: an ordered list of steps, applied to every image on its own.
//!
//! The result for an image depends only on the seed, the step counter, the image's index in its data set and the
//! pipeline: never on the thread, the batch or the place in it. Parameters are drawn from Philox streams whose
//! layout [`sampler`] documents, with IEEE + − × ÷ √ only; pixel arithmetic is float32 without fused
//! multiply-add (except where [`randaugment::sharpness`](crate::cpu::augment_pixel::randaugment::sharpness) names
//! it). So the same seed gives the same bits on every device.
//!
//! # Example
//! ```
//! use warpsmith::augment::{ImageRef, Pipeline, Step};
//! let pipeline = Pipeline::new(vec![
//!     Step::RandomFlip,
//!     Step::Resize { height: 96, width: 96 },
//!     Step::RandomCrop { height: 72, width: 72 },
//!     Step::RandAugment(Default::default()),
//! ])?;
//! let image = vec![100; 32 * 32 * 3];
//! let image = ImageRef { height: 32, width: 32, data: &image };
//! let mut batch = vec![0.0; 72 * 72 * 3];
//! pipeline.apply(&[image], &[7], 42, 0, &mut batch)?;
//! # Ok::<(), warpsmith::Error>(())
//! ```

#[cfg(feature = "cuda")]
mod cuda;
pub mod geometry;
mod keras_rand_augment;
mod rand_augment;
pub mod sampler;

pub use geometry::DistortedBox;
pub use keras_rand_augment::{KerasOp, KerasRandAugment};
pub use rand_augment::{RandAugment, RandAugmentDraw, RandAugmentOp};

use crate::cpu::augment_geometry::{
    CropBox, FillMode, Interpolation, Pixel, Tap, WarpScratch, resize_taps, rotation_transform, sample, warp_image,
    zoom_transform,
};
use crate::error::{Error, Result, check_len};
use rand_augment::RandAugmentScratch;
use rayon::prelude::*;
use sampler::{MAX_STEPS, Sampler};
use std::cell::RefCell;

const RGB: usize = 3;

/// Largest height and width of a result.
const MAX_SIDE: usize = 1 << 15;

/// One RGB image: `data` is u8 `[height, width, 3]`.
#[derive(Debug, Clone, Copy)]
pub struct ImageRef<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values.
    pub data: &'a [u8],
}

/// One step of a [`Pipeline`]. Steps work on float32 values 0..255 unless they say otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Reverse the columns with probability ½.
    RandomFlip,
    /// Bilinear resize, half-pixel centres, no antialiasing; the aspect ratio is not kept.
    Resize {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Crop at an offset uniform over all that fit.
    RandomCrop {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Crop in the centre; a smaller image is resized instead, from its largest centred box of that aspect ratio.
    CenterCrop {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Crop a box of random size and aspect ratio; its output size is random, so a [`Step::Resize`] must follow.
    DistortedBoxCrop(DistortedBox),
    /// Rotate by an angle uniform in ±`factor` full turns about the centre; bilinear, reflected border.
    RandomRotation {
        /// Largest angle as a share of a full turn.
        factor: f32,
    },
    /// Zoom by 1 + U(±`height_factor`) and 1 + U(±`width_factor`) about the centre; bilinear, reflected border;
    /// positive factors zoom out.
    RandomZoom {
        /// Bound of the height's factor.
        height_factor: f32,
        /// Bound of the width's factor.
        width_factor: f32,
    },
    /// Clip to 0..255 and truncate to integers, as a cast to u8.
    Truncate,
    /// The model garden's RandAugment; clips and truncates to u8 first.
    RandAugment(RandAugment),
    /// keras_cv's RandAugment.
    KerasRandAugment(KerasRandAugment),
}

impl Step {
    fn check(&self) -> Result<()> {
        let size = |op: &'static str, height: usize, width: usize| {
            if (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width) {
                return Ok(());
            }
            Err(Error::argument(
                op,
                format_args!("a height and width in 1..={MAX_SIDE}"),
                format_args!("{height}x{width}"),
                "ask for a size that is neither empty nor huge",
            ))
        };
        let bound = |op: &'static str, factor: f32, max: f32| {
            if (0.0..=max).contains(&factor) {
                return Ok(());
            }
            Err(Error::argument(op, format_args!("a factor in 0..={max}"), factor, "choose a smaller range"))
        };
        match *self {
            Step::RandomFlip | Step::Truncate => Ok(()),
            Step::Resize { height, width } => size("resize", height, width),
            Step::RandomCrop { height, width } => size("random_crop", height, width),
            Step::CenterCrop { height, width } => size("center_crop", height, width),
            Step::DistortedBoxCrop(region) => region.check(),
            Step::RandomRotation { factor } => bound("random_rotation", factor, 1.0),
            Step::RandomZoom { height_factor, width_factor } => {
                bound("random_zoom", height_factor, 1.0)?;
                bound("random_zoom", width_factor, 1.0)
            }
            Step::RandAugment(policy) => policy.check(),
            Step::KerasRandAugment(policy) => policy.check(),
        }
    }
}

/// An ordered list of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    steps: Vec<Step>,
    branch: u8,
}

impl Pipeline {
    /// A pipeline of `steps`; an empty one converts to float32.
    ///
    /// # Errors
    /// More than 256 steps; a parameter out of range; a [`Step::DistortedBoxCrop`] whose next size-changing step is
    /// not a [`Step::Resize`].
    pub fn new(steps: Vec<Step>) -> Result<Pipeline> {
        if steps.len() > MAX_STEPS {
            return Err(Error::argument(
                "Pipeline",
                format_args!("at most {MAX_STEPS} steps"),
                steps.len(),
                "split the pipeline",
            ));
        }
        let mut random_size = false;
        for step in &steps {
            step.check()?;
            random_size = match step {
                Step::DistortedBoxCrop(_) => true,
                Step::Resize { .. } | Step::CenterCrop { .. } => false,
                Step::RandomCrop { height, width } if random_size => {
                    return Err(Error::argument(
                        "Pipeline",
                        "a Resize between DistortedBoxCrop and RandomCrop",
                        format_args!("RandomCrop {height}x{width} of a box of random size"),
                        "insert a Resize",
                    ));
                }
                _ => random_size,
            };
        }
        if random_size {
            return Err(Error::argument(
                "Pipeline",
                "a Resize after DistortedBoxCrop",
                "a pipeline whose images differ in size",
                "append a Resize",
            ));
        }
        Ok(Pipeline { steps, branch: 0 })
    }

    /// The same steps with random numbers of their own: two pipelines that see the same images in the same step,
    /// such as a teacher's and a student's, draw independently if their branches differ.
    pub fn with_branch(mut self, branch: u8) -> Pipeline {
        self.branch = branch;
        self
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Height and width of the result for an `h` x `w` image.
    ///
    /// # Errors
    /// An empty image; an image smaller than a random crop: the message names both sizes.
    pub fn output_size(&self, h: usize, w: usize) -> Result<(usize, usize)> {
        if h == 0 || w == 0 {
            return Err(Error::shape(
                "Pipeline",
                "images of at least 1x1",
                format_args!("{h}x{w}"),
                "drop the empty image",
            ));
        }
        let mut size = (h, w);
        for step in &self.steps {
            match *step {
                Step::Resize { height, width } | Step::CenterCrop { height, width } => size = (height, width),
                Step::RandomCrop { height, width } => {
                    geometry::check_crop(size.0, size.1, height, width)?;
                    size = (height, width);
                }
                _ => {}
            }
        }
        Ok(size)
    }

    /// Augments `images` into the batch `out` `[n, h, w, 3]`, in parallel over images on the current rayon pool.
    ///
    /// `indices` are the images' indices in their data set, `step` the training step: with `seed` they determine
    /// every random number.
    ///
    /// # Errors
    /// Lengths that do not fit; images whose output sizes differ; an image smaller than a crop.
    /// # Determinism
    /// Bit-equal for any thread count, batch order and partition into batches.
    pub fn apply(&self, images: &[ImageRef<'_>], indices: &[u32], seed: u64, step: u32, out: &mut [f32]) -> Result<()> {
        check_len("Pipeline", "indices", indices.len(), images.len())?;
        let Some(first) = images.first() else {
            return check_len("Pipeline", "out", out.len(), 0);
        };
        let size = self.output_size(first.height, first.width)?;
        for image in images {
            let &ImageRef { height, width, data } = image;
            let image_size = self.output_size(height, width)?;
            if image_size != size {
                return Err(Error::shape(
                    "Pipeline",
                    format_args!("images that all come out as {}x{}", size.0, size.1),
                    format_args!("{}x{} from a {height}x{width} image", image_size.0, image_size.1),
                    "add a Resize to the pipeline",
                ));
            }
            let elems = height.checked_mul(width).and_then(|elems| elems.checked_mul(RGB)).unwrap_or(usize::MAX);
            check_len("Pipeline", "data", data.len(), elems)?;
        }
        let out_elems = size.0 * size.1 * RGB;
        check_len("Pipeline", "out", out.len(), images.len() * out_elems)?;
        out.par_chunks_exact_mut(out_elems).zip(images).zip(indices).try_for_each(|((out, image), &index)| {
            let sampler = Sampler { seed, step, index, branch: self.branch };
            SCRATCH.with_borrow_mut(|scratch| self.apply_image(image, &sampler, scratch, out))
        })
    }

    fn apply_image(
        &self,
        image: &ImageRef<'_>,
        sampler: &Sampler,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        let mut work = Work::new(image, scratch);
        for (position, step) in self.steps.iter().enumerate() {
            let draws = sampler.draws(position, 0);
            let (h, w) = work.size();
            match *step {
                Step::RandomFlip => {
                    if geometry::draw_flip(&draws) {
                        work.flip();
                    }
                }
                Step::Resize { height, width } => work.resize(height, width),
                Step::RandomCrop { height, width } => work.crop(geometry::draw_crop(&draws, h, w, height, width)?),
                Step::CenterCrop { height, width } => {
                    if height <= h && width <= w {
                        work.crop(CropBox::centre(h, w, height, width));
                    } else {
                        work.crop(CropBox::centre_with_aspect(h, w, height, width));
                        work.resize(height, width);
                    }
                }
                Step::DistortedBoxCrop(region) => work.crop(region.draw(&draws, h, w)),
                Step::RandomRotation { factor } => {
                    work.warp(&rotation_transform(h, w, geometry::draw_rotation(&draws, factor)));
                }
                Step::RandomZoom { height_factor, width_factor } => {
                    let (height_factor, width_factor) = geometry::draw_zoom(&draws, height_factor, width_factor);
                    work.warp(&zoom_transform(h, w, height_factor, width_factor));
                }
                Step::Truncate => work.load_u8(),
                Step::RandAugment(policy) => {
                    work.load_u8();
                    for layer in 0..policy.num_layers {
                        let draw = policy.draw(&sampler.draws(position, layer), h, w);
                        policy.apply(&draw, &mut work.scratch.bytes, h, w, &mut work.scratch.rand_augment)?;
                    }
                }
                Step::KerasRandAugment(policy) => {
                    work.load_f32();
                    for layer in 0..policy.augmentations_per_image {
                        if let Some(op) = policy.draw(&sampler.draws(position, layer)) {
                            let Scratch { floats, spare, warp, .. } = &mut *work.scratch;
                            KerasRandAugment::apply(&op, floats, h, w, warp, spare);
                        }
                    }
                }
            }
        }
        work.write(out);
        Ok(())
    }
}

/// Grow-only buffers of one thread.
#[derive(Default)]
struct Scratch {
    rows: Vec<Tap>,
    cols: Vec<Tap>,
    /// The other tap table while one is replaced.
    taps: Vec<Tap>,
    row_buffer: Vec<f32>,
    bytes: Vec<u8>,
    floats: Vec<f32>,
    spare: Vec<f32>,
    spare_bytes: Vec<u8>,
    warp: WarpScratch,
    rand_augment: RandAugmentScratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Taps that read positions 0..n unchanged.
fn identity_taps(n: usize, taps: &mut Vec<Tap>) {
    taps.clear();
    taps.extend((0..n as u32).map(|i| Tap { lo: i, hi: i, weight: 0.0 }));
}

/// Where the current pixels of an image are.
enum Source {
    /// In the caller's image.
    Image,
    /// In `Scratch::bytes`.
    Bytes,
    /// In `Scratch::floats`.
    Floats,
}

/// An image on its way through a pipeline: pixels, and tap tables that say how to read them.
///
/// Flips, crops and a resize change only the tables, so a crop after a resize computes no pixel outside the crop.
/// The pixels are read when a step needs them as an image.
struct Work<'a> {
    image: &'a ImageRef<'a>,
    scratch: &'a mut Scratch,
    source: Source,
    /// Columns of the source.
    width: usize,
    /// Whether the tables interpolate; a second resize needs pixels first.
    resized: bool,
    /// Whether the tables read the source as it is.
    unchanged: bool,
}

impl<'a> Work<'a> {
    fn new(image: &'a ImageRef<'a>, scratch: &'a mut Scratch) -> Work<'a> {
        identity_taps(image.height, &mut scratch.rows);
        identity_taps(image.width, &mut scratch.cols);
        Work { image, scratch, source: Source::Image, width: image.width, resized: false, unchanged: false }
    }

    fn size(&self) -> (usize, usize) {
        (self.scratch.rows.len(), self.scratch.cols.len())
    }

    fn flip(&mut self) {
        self.scratch.cols.reverse();
        self.unchanged = false;
    }

    fn crop(&mut self, region: CropBox) {
        for (taps, start, size) in
            [(&mut self.scratch.rows, region.top, region.height), (&mut self.scratch.cols, region.left, region.width)]
        {
            taps.copy_within(start..start + size, 0);
            taps.truncate(size);
        }
        self.unchanged = false;
    }

    fn resize(&mut self, height: usize, width: usize) {
        if self.size() == (height, width) {
            return;
        }
        if self.resized {
            self.load_f32();
        }
        let Scratch { rows, cols, taps, .. } = &mut *self.scratch;
        for (axis, size) in [(rows, height), (cols, width)] {
            resize_taps(axis.len(), size, taps);
            for tap in taps.iter_mut() {
                // The table so far only rearranges, so its taps have lo = hi.
                (tap.lo, tap.hi) = (axis[tap.lo as usize].lo, axis[tap.hi as usize].lo);
            }
            std::mem::swap(axis, taps);
        }
        self.resized = true;
        self.unchanged = false;
    }

    /// Reads the pixels through the tables into `y`.
    fn read<D: Pixel>(&mut self, y: &mut [D]) {
        let Scratch { rows, cols, row_buffer, bytes, floats, .. } = &mut *self.scratch;
        match self.source {
            Source::Image => sample(self.image.data, self.width, RGB, rows, cols, row_buffer, y),
            Source::Bytes => sample(bytes, self.width, RGB, rows, cols, row_buffer, y),
            Source::Floats => sample(floats, self.width, RGB, rows, cols, row_buffer, y),
        }
    }

    /// Declares that the pixels now lie in `source` as they are.
    fn restart(&mut self, source: Source) {
        let (h, w) = self.size();
        identity_taps(h, &mut self.scratch.rows);
        identity_taps(w, &mut self.scratch.cols);
        self.source = source;
        self.width = w;
        self.resized = false;
        self.unchanged = true;
    }

    /// Brings the pixels into `Scratch::floats`.
    fn load_f32(&mut self) {
        if self.unchanged && matches!(self.source, Source::Floats) {
            return;
        }
        let (h, w) = self.size();
        let mut floats = std::mem::take(&mut self.scratch.spare);
        floats.resize(h * w * RGB, 0.0);
        self.read(&mut floats);
        self.scratch.spare = std::mem::replace(&mut self.scratch.floats, floats);
        self.restart(Source::Floats);
    }

    /// Brings the pixels, clipped and truncated, into `Scratch::bytes`.
    fn load_u8(&mut self) {
        if self.unchanged && matches!(self.source, Source::Bytes) {
            return;
        }
        let (h, w) = self.size();
        let mut bytes = std::mem::take(&mut self.scratch.spare_bytes);
        bytes.resize(h * w * RGB, 0);
        self.read(&mut bytes);
        self.scratch.spare_bytes = std::mem::replace(&mut self.scratch.bytes, bytes);
        self.restart(Source::Bytes);
    }

    fn warp(&mut self, transform: &crate::cpu::augment_geometry::Transform) {
        self.load_f32();
        let (h, w) = self.size();
        let Scratch { floats, spare, warp, .. } = &mut *self.scratch;
        spare.resize(floats.len(), 0.0);
        let (bilinear, reflect) = (Interpolation::Bilinear, FillMode::Reflect);
        warp_image(floats, [h, w, RGB], transform, bilinear, reflect, 0.0, warp, spare);
        std::mem::swap(floats, spare);
    }

    /// Writes the result.
    fn write(&mut self, out: &mut [f32]) {
        match self.source {
            Source::Floats if self.unchanged => out.copy_from_slice(&self.scratch.floats),
            Source::Bytes if self.unchanged => {
                for (out, &x) in out.iter_mut().zip(&self.scratch.bytes) {
                    *out = f32::from(x);
                }
            }
            _ => self.read(out),
        }
    }
}
