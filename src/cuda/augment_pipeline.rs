//! Launchers of `kernels/augment_pipeline.cu`: whole pipelines of random augmentations in one launch per batch,
//! bit-equal to [`augment::Pipeline`](crate::augment::Pipeline) on the CPU.
//!
//! Steps that only rearrange and resize need no memory between. A pipeline with others keeps the image before and after
//! a step in shared memory, a block per image; images that are too large for that go through a workspace.
//!
// Its program makes a pipeline of the CPU's.
#![cfg_attr(all(feature = "nn", feature = "cpu"), doc = include_str!("../../kernels/augment.md"))]

use super::augment_geometry::{BLOCK, check_extents, parts};
use super::launch::{Arg, Entry, Kernels, PTR, check_aligned, elems, input, output};
use crate::error::check_len;
use crate::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use std::collections::BTreeSet;
use std::sync::Arc;

const RGB: usize = 3;

/// Most steps of a pipeline, and most layers of one step: each is 8 bits of an op number.
const MAX_STEPS: usize = 256;

/// Static shared memory that the kernels have at most.
const SCRATCH_BYTES: usize = 8192;

/// One step of a pipeline with its arguments: `AugmentStep` of augment_pipeline.cu.
///
/// What a step does and how it draws is said at [`augment::Step`](crate::augment::Step).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugmentStep {
    kind: u32,
    n: [u32; 5],
    f: [f32; 4],
}

// SAFETY: six u32 and four floats in the order of the kernel's struct.
unsafe impl DeviceRepr for AugmentStep {}

const RANDOM_FLIP: u32 = 0;
const RESIZE: u32 = 1;
const RANDOM_CROP: u32 = 2;
const CENTER_CROP: u32 = 3;
const DISTORTED_BOX_CROP: u32 = 4;
const RANDOM_ROTATION: u32 = 5;
const RANDOM_ZOOM: u32 = 6;
const TRUNCATE: u32 = 7;
const RAND_AUGMENT: u32 = 8;
const KERAS_RAND_AUGMENT: u32 = 9;

/// The arguments of the ops of the model garden's policy, computed once from its magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandAugmentArguments {
    /// Ops per image.
    pub num_layers: u32,
    /// Bits that posterize keeps, 0..=8.
    pub posterize_bits: u32,
    /// First value that solarize inverts.
    pub solarize_threshold: u32,
    /// What solarize_add adds, 0..=255.
    pub solarize_addition: u32,
    /// Half side of a cutout.
    pub cutout_pad: u32,
    /// Factor of color, contrast, brightness and sharpness.
    pub factor: f32,
    /// Size of the angle in radians.
    pub radians: f32,
    /// Size of the shear.
    pub shear: f32,
    /// Size of the translation in pixels.
    pub translate_px: f32,
}

impl AugmentStep {
    const fn new(kind: u32, n: [u32; 5], f: [f32; 4]) -> AugmentStep {
        AugmentStep { kind, n, f }
    }

    const fn size(kind: u32, height: u32, width: u32) -> AugmentStep {
        AugmentStep::new(kind, [height, width, 0, 0, 0], [0.0; 4])
    }

    /// Reverse the columns with probability ½.
    pub const fn random_flip() -> AugmentStep {
        AugmentStep::new(RANDOM_FLIP, [0; 5], [0.0; 4])
    }

    /// Bilinear resize.
    pub const fn resize(height: u32, width: u32) -> AugmentStep {
        AugmentStep::size(RESIZE, height, width)
    }

    /// Crop at an offset uniform over all that fit.
    pub const fn random_crop(height: u32, width: u32) -> AugmentStep {
        AugmentStep::size(RANDOM_CROP, height, width)
    }

    /// Crop in the centre, or resize the largest centred box.
    pub const fn center_crop(height: u32, width: u32) -> AugmentStep {
        AugmentStep::size(CENTER_CROP, height, width)
    }

    /// Crop a box of random size and aspect ratio.
    pub const fn distorted_box_crop(area: (f32, f32), aspect: (f32, f32), attempts: u32) -> AugmentStep {
        AugmentStep::new(DISTORTED_BOX_CROP, [attempts, 0, 0, 0, 0], [area.0, area.1, aspect.0, aspect.1])
    }

    /// Rotate by up to ±`factor` full turns.
    pub const fn random_rotation(factor: f32) -> AugmentStep {
        AugmentStep::new(RANDOM_ROTATION, [0; 5], [factor, 0.0, 0.0, 0.0])
    }

    /// Zoom by 1 + U(±factor) along each axis.
    pub const fn random_zoom(height_factor: f32, width_factor: f32) -> AugmentStep {
        AugmentStep::new(RANDOM_ZOOM, [0; 5], [height_factor, width_factor, 0.0, 0.0])
    }

    /// Clip to 0..255 and truncate.
    pub const fn truncate() -> AugmentStep {
        AugmentStep::new(TRUNCATE, [0; 5], [0.0; 4])
    }

    /// The model garden's RandAugment.
    pub const fn rand_augment(a: RandAugmentArguments) -> AugmentStep {
        let n = [a.num_layers, a.posterize_bits, a.solarize_threshold, a.solarize_addition, a.cutout_pad];
        AugmentStep::new(RAND_AUGMENT, n, [a.factor, a.radians, a.shear, a.translate_px])
    }

    /// keras_cv's RandAugment.
    pub const fn keras_rand_augment(layers: u32, magnitude: f32, magnitude_stddev: f32, rate: f32) -> AugmentStep {
        AugmentStep::new(KERAS_RAND_AUGMENT, [layers, 0, 0, 0, 0], [magnitude, magnitude_stddev, rate, 0.0])
    }

    fn check(&self) -> Result<()> {
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let size = |side: u32| (1..=1 << 15).contains(&side);
        let fine = match self.kind {
            RESIZE | RANDOM_CROP | CENTER_CROP => size(self.n[0]) && size(self.n[1]),
            DISTORTED_BOX_CROP => {
                let [least, most, thin, wide] = self.f;
                0.0 < least && least <= most && most <= 1.0 && 0.0 < thin && thin <= wide && wide.is_finite()
            }
            RANDOM_ROTATION | RANDOM_ZOOM => share(self.f[0]) && share(self.f[1]),
            RAND_AUGMENT => {
                self.n[0] as usize <= MAX_STEPS
                    && self.n[1] <= 8
                    && self.n[3] <= 255
                    && self.f.iter().all(|f| f.is_finite())
            }
            KERAS_RAND_AUGMENT => {
                self.n[0] as usize <= MAX_STEPS
                    && share(self.f[0])
                    && (0.0..=10.0).contains(&self.f[1])
                    && share(self.f[2])
            }
            _ => true,
        };
        if fine {
            return Ok(());
        }
        Err(Error::argument(
            "AugmentStep",
            "sides in 1..=32768, shares in 0..=1, up to 256 layers, finite arguments",
            format_args!("{self:?}"),
            "correct the argument that is out of range",
        ))
    }

    /// Whether the step needs the pixels as an image.
    fn needs_pixels(&self) -> bool {
        self.kind >= RANDOM_ROTATION
    }
}

/// Steps in device memory.
#[derive(Debug)]
pub struct Plan {
    steps: Vec<AugmentStep>,
    on_device: CudaSlice<AugmentStep>,
    branch: u8,
}

/// What a plan does to images of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Shape {
    height: usize,
    width: usize,
    /// Bytes of the largest image between two steps; 0: there is none.
    between_bytes: usize,
}

impl Plan {
    /// Checks the steps and uploads them. `branch` tells plans apart that see the same images in the same step.
    ///
    /// # Errors
    /// When there are more than 256 steps, an argument is outside its domain, or the copy fails.
    pub fn new(kernels: &Kernels, steps: &[AugmentStep], branch: u8, stream: &Arc<CudaStream>) -> Result<Plan> {
        if steps.len() > MAX_STEPS {
            return Err(Error::argument("Plan", "at most 256 steps", steps.len(), "split the pipeline"));
        }
        steps.iter().try_for_each(AugmentStep::check)?;
        // An allocation of nothing is an error to the driver.
        let list = if steps.is_empty() { &[AugmentStep::random_flip()] } else { steps };
        let on_device = kernels.upload("the steps", list, stream)?;
        Ok(Plan { steps: steps.to_vec(), on_device, branch })
    }

    /// Follows an `h` x `w` image through the steps, as the kernel's `Work` does.
    fn shape(&self, h: usize, w: usize) -> Result<Shape> {
        const OP: &str = "augment_pipeline";
        let (mut size, mut between_bytes) = ((h, w), 0);
        // Whether the size is that of every image, or at most this; whether a second resize needs pixels.
        let (mut random, mut resized) = (false, false);
        for step in &self.steps {
            let mut load = |(h, w): (usize, usize), value_bytes: usize| {
                between_bytes = between_bytes.max(h * w * RGB * value_bytes);
            };
            let target = (step.n[0] as usize, step.n[1] as usize);
            let fits = target.0 <= size.0 && target.1 <= size.1;
            match step.kind {
                RANDOM_CROP if random || !fits => {
                    return Err(Error::shape(
                        OP,
                        format_args!("an image of at least {}x{} for a random crop", target.0, target.1),
                        format_args!("{}x{}{}", size.0, size.1, if random { " or less" } else { "" }),
                        "resize the image first, or crop less",
                    ));
                }
                RANDOM_CROP => size = target,
                RESIZE | CENTER_CROP => {
                    // Whether a centre crop resizes is known where the size is.
                    if step.kind == RESIZE || random || !fits {
                        if resized && (random || size != target) {
                            // A centre crop crops first.
                            load(size, size_of::<f32>());
                        }
                        resized |= random || size != target;
                    }
                    (size, random) = (target, false);
                }
                DISTORTED_BOX_CROP => random = true,
                RANDOM_ROTATION | RANDOM_ZOOM | KERAS_RAND_AUGMENT => {
                    load(size, size_of::<f32>());
                    resized = false;
                }
                TRUNCATE | RAND_AUGMENT => {
                    load(size, size_of::<u8>());
                    resized = false;
                }
                _ => {}
            }
            check_extents(OP, [size.0, size.1, RGB])?;
        }
        if random {
            return Err(Error::argument(
                OP,
                "a resize after a distorted box",
                "images of random size",
                "append a resize",
            ));
        }
        Ok(Shape { height: size.0, width: size.1, between_bytes })
    }

    /// The shape of all images of a table.
    fn common_shape(&self, images: &ImageTable) -> Result<Shape> {
        let mut common: Option<Shape> = None;
        for &(h, w) in &images.sizes {
            let shape = self.shape(h, w)?;
            let between_bytes = shape.between_bytes.max(common.map_or(0, |common| common.between_bytes));
            if let Some(other) = common.filter(|other| (other.height, other.width) != (shape.height, shape.width)) {
                return Err(Error::shape(
                    "augment_pipeline",
                    format_args!("images that all come out as {}x{}", other.height, other.width),
                    format_args!("{}x{} from a {h}x{w} image", shape.height, shape.width),
                    "add a resize to the steps",
                ));
            }
            common = Some(Shape { between_bytes, ..shape });
        }
        Ok(common.unwrap_or_default())
    }

    /// Height and width that every image of the table comes out with.
    ///
    /// # Errors
    /// When sizes differ at the end, or an image is smaller than a crop.
    pub fn output_size(&self, images: &ImageTable) -> Result<(usize, usize)> {
        self.common_shape(images).map(|shape| (shape.height, shape.width))
    }
}

/// `ImageSpan` of augment_pipeline.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct ImageSpan {
    offset: u64,
    h: u32,
    w: u32,
}

// SAFETY: a u64 and two u32 in the order of the kernel's struct.
unsafe impl DeviceRepr for ImageSpan {}

/// The heights and widths that occur.
type Sizes = BTreeSet<(usize, usize)>;

/// Where the images of a u8 buffer lie, each `[h, w, 3]`, one after another; in device memory.
#[derive(Debug)]
pub struct ImageTable {
    spans: CudaSlice<ImageSpan>,
    len: usize,
    bytes: usize,
    sizes: Sizes,
}

impl ImageTable {
    /// A table of images with these heights and widths.
    ///
    /// # Errors
    /// When an image is empty or too large, or the copy fails.
    pub fn new(
        kernels: &Kernels,
        sizes: impl IntoIterator<Item = [usize; 2]>,
        stream: &Arc<CudaStream>,
    ) -> Result<ImageTable> {
        let (list, bytes, sizes) = spans(sizes)?;
        Ok(ImageTable { spans: upload(kernels, &list, stream)?, len: list.len(), bytes, sizes })
    }

    /// Makes it the table of other images, in the memory that it has if that holds as many.
    ///
    /// # Errors
    /// As [`ImageTable::new`]; if the copy failed, the table is not to be used.
    pub fn replace(
        &mut self,
        kernels: &Kernels,
        sizes: impl IntoIterator<Item = [usize; 2]>,
        stream: &Arc<CudaStream>,
    ) -> Result<()> {
        let (list, bytes, sizes) = spans(sizes)?;
        if list.len() > self.spans.len() {
            self.spans = upload(kernels, &list, stream)?;
        } else if !list.is_empty() {
            let mut place = self.spans.slice_mut(..list.len());
            stream.memcpy_htod(&list, &mut place).map_err(|e| kernels.error("uploading the image table", e))?;
        }
        (self.len, self.bytes, self.sizes) = (list.len(), bytes, sizes);
        Ok(())
    }
}

/// Where images with these heights and widths lie, how many bytes that takes, and the sizes that occur.
fn spans(sizes: impl IntoIterator<Item = [usize; 2]>) -> Result<(Vec<ImageSpan>, usize, Sizes)> {
    let (mut spans, mut bytes, mut distinct) = (Vec::new(), 0usize, Sizes::new());
    for [h, w] in sizes {
        let values = check_extents("ImageTable", [h, w, RGB])?;
        spans.push(ImageSpan { offset: bytes as u64, h: h as u32, w: w as u32 });
        bytes += values;
        distinct.insert((h, w));
    }
    Ok((spans, bytes, distinct))
}

fn upload(kernels: &Kernels, spans: &[ImageSpan], stream: &Arc<CudaStream>) -> Result<CudaSlice<ImageSpan>> {
    // An allocation of nothing is an error to the driver.
    let spans = if spans.is_empty() { &[ImageSpan { offset: 0, h: 0, w: 0 }] } else { spans };
    kernels.upload("the image table", spans, stream)
}

/// Which images of a table a batch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// The table holds the batch: row i is image i.
    Batch,
    /// The table holds the whole data set: row i is the image that its index names.
    DataSet,
}

/// `Batch` of augment_pipeline.cu; addresses as words.
#[repr(C)]
#[derive(Clone, Copy)]
struct Batch {
    seed: u64,
    step: u64,
    branch: u32,
    count: u32,
    steps: u64,
    images: u32,
    resident: u32,
    spans: u64,
    pixels: u64,
    n: u32,
    parts: u32,
    values: u32,
    stride: u32,
    indices: u64,
    y: u64,
}

// SAFETY: the fields of the kernel's struct in their order, an address being a u64.
unsafe impl DeviceRepr for Batch {}

const fn entry(name: &'static str, params: &'static [usize]) -> Entry {
    Entry { file: "augment_pipeline", name, suffixes: &["f32"], block: BLOCK, params }
}

static GEOMETRY: Entry = entry("augment_pipeline_geometry", &[size_of::<Batch>()]);
static SHARED: Entry = entry("augment_pipeline_shared", &[size_of::<Batch>()]);
static WORKSPACE: Entry = entry("augment_pipeline_workspace", &[size_of::<Batch>(), PTR]);

pub(super) static ENTRIES: [&Entry; 3] = [&GEOMETRY, &SHARED, &WORKSPACE];

impl Shape {
    /// Bytes of each of the two buffers of an image.
    fn stride(&self) -> usize {
        self.between_bytes.next_multiple_of(16)
    }

    /// Whether both buffers fit in a block's shared memory.
    fn is_shared(&self, kernels: &Kernels) -> Result<bool> {
        let limit = kernels
            .context()
            .attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(|e| kernels.error("asking for the shared memory of a block", e))?;
        Ok(2 * self.stride() + SCRATCH_BYTES <= limit as usize)
    }
}

/// What a plan needs between its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes for the image before and after a step; 0 where no step needs them.
    pub image_bytes: usize,
    /// Whether they fit in a block's shared memory, so that a workspace is not needed.
    pub is_shared: bool,
}

/// The memory that the images of a table need on their way through `plan`.
///
/// A workspace of n times [`Memory::image_bytes`] lets n images run at once: twice the number of multiprocessors keeps
/// a GPU busy.
///
/// # Errors
/// When the images do not fit the plan.
pub fn memory(kernels: &Kernels, plan: &Plan, images: &ImageTable) -> Result<Memory> {
    let shape = plan.common_shape(images)?;
    Ok(Memory { image_bytes: 2 * shape.stride(), is_shared: shape.is_shared(kernels)? })
}

/// Runs a pipeline on a batch: `y[i]` = the steps of `plan` on the image of row i, one launch.
///
/// Shapes: `pixels`: the bytes of the table's images; `indices [n]`: each row's index in its data set; `y
/// [n,height,width,3]` by [`Plan::output_size`]; `step [1]` is read from the device. A `workspace` is used if it is
/// given and the plan needs memory between its steps, aligned to 16 bytes; without it that is shared memory.
///
/// With [`Rows::DataSet`], a row whose index is beyond the table becomes NaN.
///
/// # Errors
/// When the images do not fit the plan, a buffer has the wrong length, a workspace is needed and missing, too small
/// ([`memory`]) or not aligned, or the launch fails.
pub fn apply(
    kernels: &Kernels,
    plan: &Plan,
    images: &ImageTable,
    rows: Rows,
    pixels: &impl DevicePtr<u8>,
    indices: &impl DevicePtr<u32>,
    seed: u64,
    step: &impl DevicePtr<u32>,
    workspace: Option<&mut impl DevicePtrMut<u8>>,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "augment_pipeline";
    let n = indices.len();
    if rows == Rows::Batch {
        check_len(OP, "indices", n, images.len)?;
    }
    if n == 0 {
        return check_len(OP, "y", y.len(), 0);
    }
    let shape = plan.common_shape(images)?;
    let values = shape.height * shape.width * RGB;
    if images.len == 0 || n > i32::MAX as usize || images.len > u32::MAX as usize {
        let got = format!("{} images for {n} rows", images.len);
        return Err(Error::shape(OP, "a table of images, below 2^31 rows", got, "pass the images of the batch"));
    }
    check_len(OP, "pixels", pixels.len(), images.bytes)?;
    check_len(OP, "step", step.len(), 1)?;
    check_len(OP, "y", y.len(), elems(OP, &[n, values])?)?;
    let stride = u32::try_from(shape.stride()).map_err(|_| {
        Error::shape(OP, "less than 2^32 bytes between steps", shape.between_bytes, "resize to less before other steps")
    })?;
    let needs_pixels = shape.between_bytes > 0;
    debug_assert!(needs_pixels || !plan.steps.iter().any(AugmentStep::needs_pixels));
    let parts = if needs_pixels { 1 } else { parts(values) };

    let ((sp, _s), (ip, _i)) = (input(kernels, step, stream)?, input(kernels, indices, stream)?);
    let ((pp, _p), (yp, _y)) = (input(kernels, pixels, stream)?, output(kernels, y, stream)?);
    let ((stepsp, _steps), (spansp, _spans)) =
        (input(kernels, &plan.on_device, stream)?, input(kernels, &images.spans, stream)?);
    let batch = Batch {
        seed,
        step: sp.word(),
        branch: u32::from(plan.branch),
        count: plan.steps.len() as u32,
        steps: stepsp.word(),
        images: images.len as u32,
        resident: u32::from(rows == Rows::DataSet),
        spans: spansp.word(),
        pixels: pp.word(),
        n: n as u32,
        parts,
        values: values as u32,
        stride,
        indices: ip.word(),
        y: yp.word(),
    };
    let batch: Arg = batch.into();
    if !needs_pixels {
        // SAFETY: the buffers have the lengths that the table, the indices and the output size ask for, as checked; no
        // step needs memory between; `y` is borrowed mutably.
        return unsafe { kernels.launch((&GEOMETRY, "f32"), n as u64 * u64::from(parts), 0, &[batch], stream) };
    }
    if let Some(workspace) = workspace {
        let blocks = n.min(workspace.len() / (2 * shape.stride()));
        if blocks == 0 {
            let expected = format!("at least {} bytes of workspace", 2 * shape.stride());
            return Err(Error::shape(OP, expected, workspace.len(), "ask `memory`"));
        }
        let (workspacep, _workspace) = output(kernels, workspace, stream)?;
        check_aligned(OP, "workspace", workspacep)?;
        // SAFETY: as above, and every block has room for two images in the workspace, which is borrowed mutably and, as
        // just checked, aligned for any value; so is each block's part.
        return unsafe { kernels.launch((&WORKSPACE, "f32"), blocks as u64, 0, &[batch, workspacep], stream) };
    }
    if !shape.is_shared(kernels)? {
        let expected = format!("a workspace of at least {} bytes", 2 * shape.stride());
        return Err(Error::argument(OP, expected, "none", "two images do not fit in shared memory: ask `memory`"));
    }
    // SAFETY: as above, and two images fit in the shared memory that is asked for.
    unsafe { kernels.launch((&SHARED, "f32"), n as u64, 2 * stride, &[batch], stream) }
}
