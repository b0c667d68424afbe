//! Augmentation: crop, resize and warp of a batch, single ops, and whole pipelines of the procedures.

use super::{Case, Images, Units, bytes};
use crate::common::{assert_close, random_bytes, widen};
use crate::rig::{Fallible, Rig, Rotation, Run};
use cudarc::driver::CudaSlice;
use warpsmith::augment::{ImageRef, KerasRandAugment, Pipeline, RandAugment, Step};
use warpsmith::cpu;
use warpsmith::cuda::augment_geometry::{self as geometry, CropBox, FillMode, Interpolation};
use warpsmith::cuda::augment_pipeline::{ImageTable, Rows, apply, memory};
use warpsmith::cuda::augment_pixel::{keras_cv, randaugment};

/// Side of CIFAR's pictures.
const SOURCE: usize = 32;
const RGB: usize = 3;

pub fn cases(Images { size, batch }: Images) -> Vec<Case> {
    let (n, size) = (batch as usize, size as usize);
    // The crop's source, as the procedures have it: 96 for 72.
    let resized = size * 4 / 3;
    let shape = [n, size, size, RGB];
    let (resize, crop) =
        (Step::Resize { height: resized, width: resized }, Step::RandomCrop { height: size, width: size });
    let clean = vec![Step::RandomFlip, resize, crop];
    let noisy = [clean.clone(), vec![Step::RandAugment(RandAugment::default())]].concat();
    let whole = Step::Resize { height: size, width: size };
    let keras = vec![whole, Step::KerasRandAugment(KerasRandAugment::default())];
    let mut list = geometry_of::<u8>("u8", [n, size, resized]);
    list.extend(geometry_of::<f32>("f32", [n, size, resized]));
    list.push(images(
        ("augment_pixel_equalize", "u8"),
        (shape, shape),
        move |x: &[u8], y: &mut [u8]| {
            y.copy_from_slice(x);
            let mut each = y.chunks_mut(size * size * RGB);
            Ok(each.try_for_each(|y| cpu::augment_pixel::randaugment::equalize(y, size, size))?)
        },
        move |rig, x, y: &mut CudaSlice<u8>| randaugment::equalize(&rig.kernels, x, [n, size, size], y, &rig.stream),
    ));
    list.push(images(
        ("augment_pixel_keras_equalize", "f32"),
        (shape, shape),
        move |x: &[f32], y: &mut [f32]| {
            y.copy_from_slice(x);
            Ok(cpu::augment_pixel::keras_cv::equalization(y, [n, size, size])?)
        },
        move |rig, x, y: &mut CudaSlice<f32>| keras_cv::equalization(&rig.kernels, x, [n, size, size], y, &rig.stream),
    ));
    list.push(pipeline("consistency, clean", n, clean, false));
    list.push(pipeline("consistency, RandAugment", n, noisy.clone(), false));
    list.push(pipeline("keras RandAugment", n, keras, false));
    list.push(pipeline("consistency, RandAugment", n, noisy, true));
    list
}

/// Resize, crop and warp, of bytes or floats.
fn geometry_of<S>(dtype: &'static str, [n, size, resized]: [usize; 3]) -> Vec<Case>
where
    S: Value + cpu::augment_geometry::Pixel + geometry::Pixel,
{
    let shape = [n, size, size, RGB];
    let (small_shape, crop_shape) = ([n, SOURCE, SOURCE, RGB], [n, resized, resized, RGB]);
    let region = CropBox { top: resized / 8, left: resized / 9, height: size, width: size };
    let transform = geometry::rotation_transform(size, size, 0.3);
    let (interpolation, fill) = (Interpolation::Bilinear, FillMode::Reflect);
    vec![
        images(
            ("augment_geometry_resize", dtype),
            (small_shape, shape),
            move |x: &[S], y: &mut [f32]| Ok(cpu::augment_geometry::resize_bilinear(x, small_shape, size, size, y)?),
            move |rig, x, y: &mut CudaSlice<f32>| {
                geometry::resize_bilinear(&rig.kernels, x, small_shape, size, size, y, &rig.stream)
            },
        ),
        images(
            ("augment_geometry_crop", dtype),
            (crop_shape, shape),
            move |x: &[S], y: &mut [S]| Ok(cpu::augment_geometry::crop(x, crop_shape, region, y)?),
            move |rig, x, y: &mut CudaSlice<S>| geometry::crop(&rig.kernels, x, crop_shape, region, y, &rig.stream),
        ),
        images(
            ("augment_geometry_warp", dtype),
            (shape, shape),
            move |x: &[S], y: &mut [S]| {
                Ok(cpu::augment_geometry::warp(x, shape, &transform, interpolation, fill, 0.0, y)?)
            },
            move |rig, x, y: &mut CudaSlice<S>| {
                geometry::warp(&rig.kernels, x, shape, &transform, interpolation, fill, 0.0, y, &rig.stream)
            },
        ),
    ]
}

/// Values of images.
trait Value: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits + Copy + Default + 'static {
    fn of_bytes(bytes: &[u8]) -> Vec<Self>;
    fn floats(values: &[Self]) -> Vec<f32>;
}

impl Value for u8 {
    fn of_bytes(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    fn floats(values: &[u8]) -> Vec<f32> {
        values.iter().map(|&v| f32::from(v)).collect()
    }
}

impl Value for f32 {
    fn of_bytes(bytes: &[u8]) -> Vec<f32> {
        u8::floats(bytes)
    }

    fn floats(values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }
}

/// An op on a batch of images, which must give the bits of the CPU.
fn images<X: Value, Y: Value>(
    (op, dtype): (&'static str, &'static str),
    (from, to): ([usize; 4], [usize; 4]),
    want: impl Fn(&[X], &mut [Y]) -> Fallible<()> + Copy + 'static,
    launch: impl Fn(&Rig, &CudaSlice<X>, &mut CudaSlice<Y>) -> warpsmith::Result<()> + Copy + 'static,
) -> Case {
    let elems = |shape: [usize; 4]| shape.iter().product::<usize>();
    // A crop need not read what it leaves out.
    let read = if op.ends_with("crop") { elems(to) } else { elems(from) };
    Case {
        op,
        dtype,
        name: format!("batch of {}", from[0]),
        count: 0,
        problem: format!("{}x{} to {}x{}", from[1], from[2], to[1], to[2]),
        flops: 0,
        bytes: bytes(read, size_of::<X>()) + bytes(elems(to), size_of::<Y>()),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let x = X::of_bytes(&random_bytes(elems(from), 1));
            let set = || Ok((rig.put(&x)?, rig.stream.alloc_zeros::<Y>(elems(to))?));
            let x = x.clone();
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, y)| Ok(launch(rig, x, y)?),
                move |rig, (_, y)| {
                    let mut expected = vec![Y::default(); elems(to)];
                    want(&x, &mut expected)?;
                    let got = Y::floats(&rig.get(y)?);
                    assert_close(op, &to, &to, &got, &widen(&Y::floats(&expected)), 0.0, 0.0);
                    Ok(())
                },
            )
        }),
    }
}

/// A pipeline over CIFAR's pictures, with shared memory between its steps or through a workspace.
fn pipeline(name: &str, n: usize, steps: Vec<Step>, through_workspace: bool) -> Case {
    let pipeline = Pipeline::new(steps).expect("the steps are valid");
    let (h, w) = pipeline.output_size(SOURCE, SOURCE).expect("the sizes fit");
    let (pixels, values) = (n * SOURCE * SOURCE * RGB, n * h * w * RGB);
    // Each image has two places of its own, before and after a layer; both are written and read, in bytes.
    let between = if through_workspace { bytes(values, 2 * 2) } else { 0 };
    Case {
        op: if through_workspace { "augment_pipeline_workspace" } else { "augment_pipeline" },
        dtype: "u8",
        name: name.into(),
        count: 0,
        problem: format!("{n} of {SOURCE}x{SOURCE} to {h}x{w}"),
        flops: 0,
        bytes: bytes(pixels, 1) + bytes(n, 4) + bytes(values, 4) + between,
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| run_pipeline(rig, copies, &pipeline, [n, values], through_workspace)),
    }
}

fn run_pipeline(
    rig: &Rig,
    copies: usize,
    pipeline: &Pipeline,
    [n, values]: [usize; 2],
    through_workspace: bool,
) -> Fallible<Box<dyn Run>> {
    let data = random_bytes(n * SOURCE * SOURCE * RGB, 31);
    let indices: Vec<u32> = (0..n as u32).collect();
    let (seed, step) = (7, 3u32);
    let set = || {
        let table = ImageTable::new(&rig.kernels, std::iter::repeat_n([SOURCE; 2], n), &rig.stream)?;
        let plan = pipeline.plan(&rig.kernels, &rig.stream)?;
        let place = memory(&rig.kernels, &plan, &table)?.image_bytes;
        let workspace = through_workspace.then(|| rig.stream.alloc_zeros::<u8>(n * place)).transpose()?;
        let inputs = (rig.put(&data)?, rig.put(&indices)?, rig.put(&[step])?);
        Ok((plan, table, inputs, workspace, rig.zeros::<f32>(values)?))
    };
    let (data, indices, pipeline) = (data.clone(), indices.clone(), pipeline.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (plan, table, (pixels, indices, step), workspace, y)| {
            let (kernels, stream, workspace) = (&rig.kernels, &rig.stream, workspace.as_mut());
            Ok(apply(kernels, plan, table, Rows::Batch, &*pixels, &*indices, seed, &*step, workspace, y, stream)?)
        },
        move |rig, (_, _, _, _, y)| {
            let image = |data| ImageRef { height: SOURCE, width: SOURCE, data };
            let images: Vec<_> = data.chunks(SOURCE * SOURCE * RGB).map(image).collect();
            let mut want = vec![0.0; values];
            pipeline.apply(&images, &indices, seed, step, &mut want)?;
            assert_close("augment_pipeline", &n, &[values], &rig.get(y)?, &widen(&want), 0.0, 0.0);
            Ok(())
        },
    )
}
