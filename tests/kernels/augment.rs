//! `kernels/augment_*.cu`: bit by bit equal to the host twins, op by op and as whole pipelines.

use super::Case;
use super::common::{assert_error, random, random_bytes};
use super::gpu::{assert_bits, gpu};
use cudarc::driver::{CudaSlice, DeviceRepr};
use warpsmith::augment::{DistortedBox, ImageRef, KerasRandAugment, Pipeline, RandAugment, Step};
use warpsmith::cpu::augment_geometry as cpu;
use warpsmith::cpu::augment_pixel as cpu_pixel;
use warpsmith::cuda::augment_geometry::{self as cuda, CropBox, FillMode, Interpolation, Transform};
use warpsmith::cuda::augment_pipeline::{AugmentStep, ImageTable, Plan, Rows, apply, memory};
use warpsmith::cuda::augment_pixel as cuda_pixel;

/// No workspace.
const NONE: Option<&mut CudaSlice<u8>> = None;

pub const CASES: &[Case] = &[
    ("augment::resize_crop_flip_u8_equal_the_cpu", || resize_crop_flip::<u8>()),
    ("augment::resize_crop_flip_f32_equal_the_cpu", || resize_crop_flip::<f32>()),
    ("augment::warps_u8_equal_the_cpu", || warps::<u8>()),
    ("augment::warps_f32_equal_the_cpu", || warps::<f32>()),
    ("augment::rand_augment_ops_equal_the_cpu", rand_augment_ops),
    ("augment::keras_ops_equal_the_cpu", keras_ops),
    ("augment::auto_contrast_is_blind_to_nan", auto_contrast_is_blind_to_nan),
    ("augment::pipelines_of_the_procedures_equal_the_cpu", pipelines_of_the_procedures),
    ("augment::pipelines_of_all_sizes_equal_the_cpu", pipelines_of_all_sizes),
    ("augment::many_draws_equal_the_cpu", many_draws),
    ("augment::images_of_several_sizes_and_a_resident_set", several_sizes_and_a_resident_set),
    ("augment::bad_input_is_an_error", bad_input),
];

/// Image values of both types.
trait Pixel:
    cpu::Pixel + cuda::Pixel + DeviceRepr + cudarc::driver::ValidAsZeroBits + bytemuck::NoUninit + Default
{
    fn values(n: usize, seed: u64) -> Vec<Self>;
}

impl Pixel for u8 {
    fn values(n: usize, seed: u64) -> Vec<u8> {
        random_bytes(n, seed)
    }
}

impl Pixel for f32 {
    fn values(n: usize, seed: u64) -> Vec<f32> {
        random(n, seed).into_iter().map(|x| (x + 1.0) * 127.5).collect()
    }
}

#[track_caller]
fn assert_same<T: Pixel>(got: &[T], want: &[T], what: &str) {
    let floats = |x: &[T]| x.iter().map(|&x| x.to_f32()).collect::<Vec<f32>>();
    assert_bits(&floats(got), &floats(want), what);
}

/// Batches `[n, h, w, c]`: a pixel, a row, a column, odd ones, channels in no unit of four, several blocks an image.
const SHAPES: [[usize; 4]; 9] = [
    [1, 1, 1, 1],
    [2, 1, 9, 3],
    [2, 9, 1, 3],
    [3, 5, 7, 3],
    [2, 31, 33, 3],
    [2, 6, 5, 7],
    [1, 8, 8, 4],
    [1, 72, 72, 3],
    [1, 96, 70, 2],
];

fn zeros<T: Pixel>(n: usize) -> CudaSlice<T> {
    gpu().put(&vec![T::default(); n])
}

fn resize_crop_flip<T: Pixel>() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape in SHAPES {
        let [n, h, w, c] = shape;
        let x = T::values(n * h * w * c, 1);
        let dx = gpu.put(&x);
        for (height, width) in [(h, w), (1, 1), (13, 6), (h.div_ceil(2), 2 * w), (h + 3, w + 1)] {
            let what = format!("{shape:?} to {height}x{width}");
            let mut want = vec![0.0; n * height * width * c];
            let mut y = zeros::<f32>(want.len());
            cpu::resize_bilinear(&x, shape, height, width, &mut want).unwrap();
            cuda::resize_bilinear(&gpu.kernels, &dx, shape, height, width, &mut y, s).unwrap();
            assert_bits(&gpu.get(&y), &want, &what);
            cpu::center_crop(&x, shape, height, width, &mut want).unwrap();
            cuda::center_crop(&gpu.kernels, &dx, shape, height, width, &mut y, s).unwrap();
            assert_bits(&gpu.get(&y), &want, &what);
            let region = CropBox { top: h / 3, left: w / 4, height: h.div_ceil(2), width: w.div_ceil(2) };
            cpu::crop_resize(&x, shape, region, height, width, &mut want).unwrap();
            cuda::crop_resize(&gpu.kernels, &dx, shape, region, height, width, &mut y, s).unwrap();
            assert_bits(&gpu.get(&y), &want, &what);

            let (mut want, mut y) = (vec![T::default(); n * region.height * region.width * c], Vec::new());
            cpu::crop(&x, shape, region, &mut want).unwrap();
            y.push(zeros::<T>(want.len()));
            cuda::crop(&gpu.kernels, &dx, shape, region, &mut y[0], s).unwrap();
            assert_same(&gpu.get(&y[0]), &want, &what);
        }
        let (mut want, mut y) = (x.clone(), zeros::<T>(x.len()));
        cpu::flip_left_right(&x, shape, &mut want).unwrap();
        cuda::flip_left_right(&gpu.kernels, &dx, shape, &mut y, s).unwrap();
        assert_same(&gpu.get(&y), &want, &format!("{shape:?} flipped"));
    }
}

fn transforms(h: usize, w: usize) -> Vec<Transform> {
    vec![
        cuda::IDENTITY,
        cuda::rotation_transform(h, w, 0.3),
        cuda::rotation_transform(h, w, -2.5),
        cuda::zoom_transform(h, w, 0.4, -0.3),
        cuda::shear_x_transform(0.8),
        cuda::shear_y_transform(-0.27),
        cuda::translation_transform(2.5, 0.0),
        cuda::translation_transform(-3e9, 1e4),
        [0.9, 0.1, 1.0, -0.2, 1.1, 0.5, 0.01, -0.02],
        // The divisor is 0 in column 2.
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -0.5, 0.0],
    ]
}

fn warps<T: Pixel>() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for shape in SHAPES {
        let [n, h, w, c] = shape;
        let x = T::values(n * h * w * c, 2);
        let (dx, mut want, mut y) = (gpu.put(&x), x.clone(), zeros::<T>(x.len()));
        for transform in transforms(h, w) {
            for interpolation in [Interpolation::Nearest, Interpolation::Bilinear] {
                for fill in [FillMode::Reflect, FillMode::Constant, FillMode::Nearest, FillMode::Wrap] {
                    cpu::warp(&x, shape, &transform, interpolation, fill, 77.5, &mut want).unwrap();
                    cuda::warp(&gpu.kernels, &dx, shape, &transform, interpolation, fill, 77.5, &mut y, s).unwrap();
                    assert_same(&gpu.get(&y), &want, &format!("{shape:?} {transform:?} {interpolation:?} {fill:?}"));
                }
            }
        }
    }
    let shape = [2, 24, 31, 3];
    let x = f32::values(2 * 24 * 31 * 3, 3);
    let (dx, mut want, mut y) = (gpu.put(&x), x.clone(), zeros::<f32>(x.len()));
    cpu::random_rotation(&x, shape, 0.2, &mut want).unwrap();
    cuda::random_rotation(&gpu.kernels, &dx, shape, 0.2, &mut y, s).unwrap();
    assert_bits(&gpu.get(&y), &want, "random_rotation");
    cpu::random_zoom(&x, shape, -0.2, 0.1, &mut want).unwrap();
    cuda::random_zoom(&gpu.kernels, &dx, shape, -0.2, 0.1, &mut y, s).unwrap();
    assert_bits(&gpu.get(&y), &want, "random_zoom");
}

/// Pictures of several kinds, `[3, h, w, 3]`: noise, few values, one value.
fn pictures(h: usize, w: usize) -> Vec<u8> {
    let noise = random_bytes(h * w * 3, 4);
    let few = noise.iter().enumerate().map(|(i, x)| if i % 3 == 1 { 40 } else { 90 + x % 4 });
    [noise.clone(), few.collect(), vec![200; h * w * 3]].concat()
}

const SIZES: [(usize, usize); 8] = [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7), (32, 32), (31, 33), (72, 72)];

fn rand_augment_ops() {
    type Cpu<'a> = &'a dyn Fn(&[u8], &mut [u8]);
    type Cuda<'a> = &'a dyn Fn(&CudaSlice<u8>, &mut CudaSlice<u8>);
    use cpu_pixel::randaugment as host;
    use cuda_pixel::randaugment as device;
    let (gpu, s) = (gpu(), &gpu().stream);
    let k = &gpu.kernels;
    for (h, w) in SIZES {
        let (x, shape) = (pictures(h, w), [3, h, w]);
        let dx = gpu.put(&x);
        let check = |what: &str, cpu: Cpu, cuda: Cuda| {
            let (mut want, mut y) = (x.clone(), zeros::<u8>(x.len()));
            for (x, want) in x.chunks(h * w * 3).zip(want.chunks_mut(h * w * 3)) {
                cpu(x, want);
            }
            cuda(&dx, &mut y);
            assert_same(&gpu.get(&y), &want, &format!("{what} {h}x{w}"));
        };
        // Ops in place on the CPU: the result starts as a copy of the source.
        macro_rules! in_place {
            ($name:ident $(, $argument:expr)*) => {
                check(
                    &format!("{} {:?}", stringify!($name), ($($argument,)*)),
                    &|_, y| host::$name(y, h, w $(, $argument)*).unwrap(),
                    &|x, y| device::$name(k, x, shape $(, $argument)*, y, s).unwrap(),
                )
            };
        }
        macro_rules! apart {
            ($name:ident, $argument:expr) => {
                check(
                    &format!("{} {:?}", stringify!($name), $argument),
                    &|x, y| host::$name(x, h, w, $argument, y).unwrap(),
                    &|x, y| device::$name(k, x, shape, $argument, y, s).unwrap(),
                )
            };
        }
        in_place!(auto_contrast);
        in_place!(equalize);
        in_place!(invert);
        [0, 1, 3, 8].into_iter().for_each(|bits| in_place!(posterize, bits));
        [0, 1, 230, 255, 256].into_iter().for_each(|threshold| in_place!(solarize, threshold));
        for factor in [0.0, 0.28, 1.0, 1.72] {
            in_place!(color, factor);
            in_place!(contrast, factor);
            in_place!(brightness, factor);
            apart!(sharpness, factor);
        }
        [0, 99, 300].into_iter().for_each(|addition| in_place!(solarize_add, addition, 128));
        [27.0, -27.0, 180.0].into_iter().for_each(|degrees| apart!(rotate, degrees));
        for shear in [0.27, -0.27] {
            apart!(shear_x, shear);
            apart!(shear_y, shear);
        }
        for pixels in [90.0, -2.4] {
            apart!(translate_x, pixels);
            apart!(translate_y, pixels);
        }
        for pad in [0, 2, 36] {
            let (row, col) = (h / 2, w - 1);
            let replace = [128, 1, 255];
            check("cutout", &|_, y| host::cutout(y, h, w, pad as usize, row, col, replace).unwrap(), &|x, y| {
                device::cutout(k, x, shape, pad, row as u32, col as u32, replace, y, s).unwrap()
            });
        }
    }
}

fn keras_ops() {
    use cpu_pixel::keras_cv as host;
    use cuda_pixel::keras_cv as device;
    let (gpu, s) = (gpu(), &gpu().stream);
    let k = &gpu.kernels;
    // Several passes over the rows of a mean.
    for (h, w) in [&SIZES[..], &[(400, 3)]].concat() {
        let shape = [3, h, w];
        let fractions = random(3 * h * w * 3, 5);
        let x: Vec<f32> =
            pictures(h, w).iter().zip(fractions).map(|(&x, f)| (f32::from(x) + (f + 1.0) * 0.5).min(255.0)).collect();
        let dx = gpu.put(&x);
        let mut y = zeros::<f32>(x.len());
        macro_rules! in_place {
            ($name:ident $(, $argument:expr)*) => {{
                let mut want = x.clone();
                host::$name(&mut want, shape $(, $argument)*).unwrap();
                device::$name(k, &dx, shape $(, $argument)*, &mut y, s).unwrap();
                assert_bits(&gpu.get(&y), &want, &format!("{} {:?} {h}x{w}", stringify!($name), ($($argument,)*)));
            }};
        }
        macro_rules! apart {
            ($name:ident, $argument:expr) => {{
                let mut want = x.clone();
                host::$name(&x, shape, $argument, &mut want).unwrap();
                device::$name(k, &dx, shape, $argument, &mut y, s).unwrap();
                assert_bits(&gpu.get(&y), &want, &format!("{} {:?} {h}x{w}", stringify!($name), $argument));
            }};
        }
        in_place!(auto_contrast);
        in_place!(equalization);
        in_place!(solarization, 88.0, 51.0);
        in_place!(solarization, 0.0, 200.5);
        for factor in [0.0, 0.37, 1.0, 1.8] {
            in_place!(random_color_degeneration, factor);
            in_place!(random_contrast, factor);
        }
        in_place!(random_brightness, -120.25);
        in_place!(random_brightness, 33.0);
        for amount in [0.8, -0.33] {
            apart!(random_shear_x, amount);
            apart!(random_shear_y, amount);
            apart!(random_translation_x, amount);
            apart!(random_translation_y, amount);
        }
    }
}

/// NaN is neither the smallest nor the largest value of a channel, stays what it is, and a channel of nothing else stays.
fn auto_contrast_is_blind_to_nan() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for (h, w) in [(1, 1), (5, 7), (31, 33)] {
        let mut x: Vec<f32> = random(2 * h * w * 3, 6).iter().map(|x| (x + 1.0) * 100.0).collect();
        // Of the first image some values of channel 1, in every place of a unit of four; of the second all of channel 0.
        let (one, two) = x.split_at_mut(h * w * 3);
        one.iter_mut().skip(1).step_by(15).for_each(|x| *x = f32::NAN);
        two.iter_mut().step_by(3).for_each(|x| *x = f32::NAN);
        let (mut want, mut y) = (x.clone(), zeros::<f32>(x.len()));
        cpu_pixel::keras_cv::auto_contrast(&mut want, [2, h, w]).unwrap();
        cuda_pixel::keras_cv::auto_contrast(&gpu.kernels, &gpu.put(&x), [2, h, w], &mut y, s).unwrap();
        assert_bits(&gpu.get(&y), &want, &format!("{h}x{w} with NaN"));
        assert_eq!(want.iter().filter(|x| x.is_nan()).count(), x.iter().filter(|x| x.is_nan()).count());
    }
}

fn resize(size: usize) -> Step {
    Step::Resize { height: size, width: size }
}

fn crop(size: usize) -> Step {
    Step::RandomCrop { height: size, width: size }
}

/// Runs a pipeline on both devices: with shared memory, and through a workspace that holds three images.
#[track_caller]
fn check_pipeline(what: &str, pipeline: &Pipeline, sizes: &[[usize; 2]], seed: u64, step: u32) {
    let (gpu, s) = (gpu(), &gpu().stream);
    let bytes: usize = sizes.iter().map(|[h, w]| h * w * 3).sum();
    let data = random_bytes(bytes, seed + 31);
    let mut rest = &data[..];
    let images: Vec<ImageRef<'_>> = sizes
        .iter()
        .map(|&[height, width]| {
            let (data, after) = rest.split_at(height * width * 3);
            rest = after;
            ImageRef { height, width, data }
        })
        .collect();
    // Indices need not be places in the batch.
    let indices: Vec<u32> = (0..images.len() as u32).map(|i| i * 7919 + 5).collect();
    let (h, w) = pipeline.output_size(sizes[0][0], sizes[0][1]).unwrap();
    let mut want = vec![f32::NAN; images.len() * h * w * 3];
    pipeline.apply(&images, &indices, seed, step, &mut want).unwrap();

    let table = ImageTable::new(&gpu.kernels, sizes.iter().copied(), s).unwrap();
    let plan = pipeline.plan(&gpu.kernels, s).unwrap();
    assert_eq!(plan.output_size(&table).unwrap(), (h, w), "{what}");
    let (pixels, indices, step) = (gpu.put(&data), gpu.put(&indices), gpu.put(&[step]));
    let memory = memory(&gpu.kernels, &plan, &table).unwrap();
    for through_workspace in [false, true] {
        if through_workspace && memory.image_bytes == 0 || !through_workspace && !memory.is_shared {
            continue;
        }
        // Room for three images at a time. SAFETY: the kernel writes what it reads of it.
        let mut workspace = through_workspace.then(|| unsafe { s.alloc::<u8>(3 * memory.image_bytes) }.unwrap());
        // SAFETY: the kernel writes every value and reads none.
        let mut y = unsafe { s.alloc::<f32>(want.len()) }.unwrap();
        let workspace = workspace.as_mut();
        apply(&gpu.kernels, &plan, &table, Rows::Batch, &pixels, &indices, seed, &step, workspace, &mut y, s).unwrap();
        assert_bits(&gpu.get(&y), &want, &format!("{what}, workspace {through_workspace}"));
    }
}

fn rotation_and_zoom() -> [Step; 2] {
    [Step::RandomRotation { factor: 0.02 }, Step::RandomZoom { height_factor: 0.2, width_factor: 0.2 }]
}

fn keras() -> Step {
    Step::KerasRandAugment(KerasRandAugment::default())
}

fn noisy() -> Step {
    Step::RandAugment(RandAugment::default())
}

/// The pipelines of the four procedures at their own sizes.
fn pipelines_of_the_procedures() {
    let [rotation, zoom] = rotation_and_zoom();
    let clean = vec![Step::RandomFlip, resize(96), crop(72)];
    let cifar = [[32, 32]; 12];
    let flowers = [[333, 500], [500, 333], [212, 320], [40, 600]];
    let centre = Step::CenterCrop { height: 128, width: 128 };
    for (name, steps, sizes) in [
        ("plain", vec![resize(72)], &cifar[..]),
        ("consistency, clean", clean.clone(), &cifar),
        ("consistency, noisy", [clean, vec![noisy()]].concat(), &cifar),
        ("randaugment, simple", vec![resize(72), Step::RandomFlip, rotation, zoom], &cifar),
        ("randaugment, simple, truncated", vec![resize(72), Step::Truncate, Step::RandomFlip, rotation, zoom], &cifar),
        ("randaugment", vec![resize(72), keras()], &cifar),
        ("randaugment, truncated", vec![resize(72), Step::Truncate, keras()], &cifar),
        ("fixres", vec![Step::DistortedBoxCrop(DistortedBox::default()), resize(128), Step::RandomFlip], &flowers),
        ("fixres, fine-tune", vec![resize(161), Step::RandomFlip, centre], &flowers),
        ("supcon", vec![resize(32), Step::RandomFlip, rotation], &cifar),
    ] {
        let pipeline = Pipeline::new(steps).unwrap();
        for step in 0..2 {
            check_pipeline(name, &pipeline, sizes, 42, step);
        }
    }
}

/// Every kind of step after every other, at odd sizes.
fn pipelines_of_all_sizes() {
    let [rotation, zoom] = rotation_and_zoom();
    let centre = |height, width| Step::CenterCrop { height, width };
    let three = Step::RandAugment(RandAugment { num_layers: 3, magnitude: 7.3, ..RandAugment::default() });
    let box_crop = Step::DistortedBoxCrop(DistortedBox { attempts: 3, area: (0.6, 0.9), ..DistortedBox::default() });
    let sizes = [[33, 31], [33, 31], [33, 31], [33, 31], [33, 31]];
    let pipelines = [
        ("nothing", vec![]),
        ("a flip", vec![Step::RandomFlip]),
        ("wider than a block", vec![resize(530), Step::RandomFlip, crop(521)]),
        ("too large for shared memory", vec![resize(530), noisy(), keras()]),
        (
            "crops around a resize",
            vec![crop(29), Step::RandomFlip, resize(40), Step::RandomFlip, crop(17), centre(9, 11)],
        ),
        ("two resizes", vec![resize(40), Step::RandomFlip, resize(23)]),
        ("resizes that change nothing", vec![resize(40), resize(40), centre(40, 40)]),
        ("a centre crop that resizes", vec![centre(50, 20)]),
        ("a centre crop that resizes again", vec![resize(40), centre(50, 20), Step::RandomFlip]),
        ("a box that is rotated", vec![box_crop, rotation, resize(20)]),
        ("a box, twice", vec![box_crop, Step::RandomFlip, box_crop, resize(20), Step::RandomFlip]),
        ("truncated", vec![Step::Truncate, Step::Truncate, Step::RandomFlip, Step::Truncate]),
        (
            "a warp of a crop",
            vec![crop(16), rotation, resize(23), Step::RandomFlip, resize(19), Step::Truncate, Step::RandomFlip],
        ),
        ("everything", vec![resize(40), three, Step::RandomFlip, keras(), resize(9)]),
        ("floats as bytes and back", vec![keras(), noisy(), zoom, noisy()]),
    ];
    for (name, steps) in pipelines {
        let pipeline = Pipeline::new(steps).unwrap().with_branch(3);
        check_pipeline(name, &pipeline, &sizes, 1 << 40 | 17, u32::MAX - 1);
    }
    for size in [[1, 1], [1, 7], [7, 1], [2, 3], [96, 96]] {
        for steps in [vec![noisy(), three], vec![keras(), rotation, zoom], vec![box_crop, resize(8), noisy()]] {
            check_pipeline(&format!("{size:?}"), &Pipeline::new(steps).unwrap(), &[size; 4], 5, 6);
        }
    }
}

/// Thousands of draws of every kind on tiny images: sine and cosine, normal numbers, boxes.
fn many_draws() {
    let [rotation, zoom] =
        [Step::RandomRotation { factor: 1.0 }, Step::RandomZoom { height_factor: 0.9, width_factor: 0.4 }];
    let layers =
        Step::KerasRandAugment(KerasRandAugment { augmentations_per_image: 5, magnitude: 0.5, ..Default::default() });
    let many =
        Step::RandAugment(RandAugment { num_layers: 8, translate_const: 3.0, cutout_const: 2.0, ..Default::default() });
    let flat = Step::DistortedBoxCrop(DistortedBox { aspect: (0.2, 6.0), ..DistortedBox::default() });
    for (name, steps, size) in [
        ("geometry", vec![Step::RandomFlip, crop(4), rotation, zoom], [5, 6]),
        ("keras", vec![layers], [4, 5]),
        ("model garden", vec![many], [5, 4]),
        ("boxes", vec![flat, resize(3)], [37, 23]),
    ] {
        let pipeline = Pipeline::new(steps).unwrap();
        for (seed, step) in [(1, 0), (u64::MAX - 40, 77)] {
            check_pipeline(name, &pipeline, &vec![size; 800], seed, step);
        }
    }
}

fn several_sizes_and_a_resident_set() {
    let [rotation, _] = rotation_and_zoom();
    let sizes = [[20, 30], [50, 41], [3, 70], [20, 30]];
    let pipelines = [vec![resize(16), Step::RandomFlip], vec![resize(24), noisy()], vec![resize(9), rotation]];
    for steps in pipelines {
        let pipeline = Pipeline::new(steps).unwrap();
        check_pipeline("several sizes", &pipeline, &sizes, 3, 1);

        // A batch of a resident set; the last row is beyond it.
        let (gpu, s) = (gpu(), &gpu().stream);
        let data = random_bytes(sizes.iter().map(|[h, w]| h * w * 3).sum(), 8);
        let indices = [2u32, 0, 3, 4];
        let (table, plan) = (ImageTable::new(&gpu.kernels, sizes, s).unwrap(), pipeline.plan(&gpu.kernels, s).unwrap());
        let (h, w) = plan.output_size(&table).unwrap();
        let mut want = vec![f32::NAN; 4 * h * w * 3];
        let start = |i: u32| sizes[..i as usize].iter().map(|[h, w]| h * w * 3).sum::<usize>();
        let images: Vec<ImageRef<'_>> = indices[..3]
            .iter()
            .map(|&i| {
                let [height, width] = sizes[i as usize];
                ImageRef { height, width, data: &data[start(i)..start(i + 1)] }
            })
            .collect();
        pipeline.apply(&images, &indices[..3], 9, 2, &mut want[..3 * h * w * 3]).unwrap();
        let (pixels, indices, step) = (gpu.put(&data), gpu.put(&indices), gpu.put(&[2]));
        // SAFETY: the kernel writes every value and reads none.
        let mut y = unsafe { s.alloc::<f32>(want.len()) }.unwrap();
        apply(&gpu.kernels, &plan, &table, Rows::DataSet, &pixels, &indices, 9, &step, NONE, &mut y, s).unwrap();
        assert_bits(&gpu.get(&y), &want, "resident");
    }
}

fn bad_input() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let k = &gpu.kernels;
    let (x, mut y) = (zeros::<u8>(60), zeros::<u8>(60));
    let mut floats = zeros::<f32>(60);
    assert_error(cuda::resize_bilinear(k, &x, [1, 4, 5, 2], 4, 5, &mut floats, s), &["resize_bilinear", "`x`"]);
    assert_error(cuda::resize_bilinear(k, &x, [1, 4, 5, 3], 0, 5, &mut floats, s), &["1..2^24", "0x5x3"]);
    assert_error(cuda::flip_left_right(k, &x, [1, 4, 5, 3], &mut zeros::<u8>(59), s), &["flip_left_right", "`y`"]);
    let region = CropBox { top: 1, left: 0, height: 4, width: 1 };
    assert_error(cuda::crop(k, &x, [1, 4, 5, 3], region, &mut y, s), &["a box inside the 4x5 image", "4x1 at row 1"]);
    let bad = cuda::shear_x_transform(f32::NAN);
    let (nearest, fill) = (Interpolation::Nearest, FillMode::Wrap);
    assert_error(cuda::warp(k, &x, [1, 4, 5, 3], &bad, nearest, fill, 0.0, &mut y, s), &["warp", "a finite transform"]);
    use cuda_pixel::{keras_cv, randaugment};
    assert_error(randaugment::posterize(k, &x, [1, 4, 5], 9, &mut y, s), &["posterize", "0..=8 bits"]);
    assert_error(randaugment::color(k, &x, [1, 4, 5], f32::INFINITY, &mut y, s), &["color", "finite"]);
    assert_error(randaugment::cutout(k, &x, [1, 4, 5], 1, 4, 0, [0; 3], &mut y, s), &["inside the 4x5 image"]);
    assert_error(randaugment::invert(k, &x, [2, 4, 5], &mut y, s), &["invert", "120 elements in `x`, got 60"]);
    let result = keras_cv::random_contrast(k, &zeros::<f32>(60), [1, 4, 5], f32::NAN, &mut floats, s);
    assert_error(result, &["keras_cv.random_contrast", "finite"]);

    assert_error(Plan::new(k, &[AugmentStep::resize(0, 3)], 0, s), &["AugmentStep", "1..=32768"]);
    assert_error(Plan::new(k, &[AugmentStep::random_rotation(1.5)], 0, s), &["shares in 0..=1"]);
    assert_error(Plan::new(k, &[AugmentStep::truncate(); 257], 0, s), &["at most 256 steps", "257"]);
    assert_error(ImageTable::new(k, [[0, 5]], s), &["ImageTable", "0x5x3"]);
    let plan = |steps: &[AugmentStep]| Plan::new(k, steps, 0, s).unwrap();
    let table = ImageTable::new(k, [[4, 5], [5, 4]], s).unwrap();
    assert_error(plan(&[]).output_size(&table), &["all come out as 4x5", "5x4 from a 5x4 image"]);
    let boxes = AugmentStep::distorted_box_crop((0.1, 1.0), (0.5, 2.0), 10);
    assert_error(plan(&[boxes]).output_size(&table), &["append a resize"]);
    assert_error(plan(&[boxes, AugmentStep::random_crop(2, 2)]).output_size(&table), &["4x5 or less"]);
    assert_error(plan(&[AugmentStep::random_crop(5, 5)]).output_size(&table), &["at least 5x5", "4x5"]);

    let (pixels, step) = (zeros::<u8>(120), gpu.put(&[0u32]));
    let fine = plan(&[AugmentStep::resize(4, 5), AugmentStep::truncate()]);
    let mut y = zeros::<f32>(120);
    let one = gpu.put(&[0u32]);
    let result = apply(k, &fine, &table, Rows::Batch, &pixels, &one, 0, &step, NONE, &mut y, s);
    assert_error(result, &["2 elements in `indices`, got 1"]);
    let two = gpu.put(&[0u32, 1]);
    let mut small = zeros::<u8>(100);
    let result = apply(k, &fine, &table, Rows::Batch, &pixels, &two, 0, &step, Some(&mut small), &mut y, s);
    assert_error(result, &["at least 128 bytes of workspace", "100"]);
    let turning = plan(&[AugmentStep::resize(4, 5), AugmentStep::random_rotation(0.1)]);
    let mut shifted = zeros::<u8>(1001);
    let shifted = Some(&mut shifted.slice_mut(1..));
    let result = apply(k, &turning, &table, Rows::Batch, &pixels, &two, 0, &step, shifted, &mut y, s);
    assert_error(result, &["augment_pipeline", "`workspace` aligned to 16 bytes", "instead of a view"]);
    let large = plan(&[AugmentStep::resize(400, 400), AugmentStep::truncate()]);
    let mut y = zeros::<f32>(2 * 400 * 400 * 3);
    let result = apply(k, &large, &table, Rows::Batch, &pixels, &two, 0, &step, NONE, &mut y, s);
    assert_error(result, &["a workspace of at least 960000 bytes", "ask `memory`"]);
}
