//! Augmentation: crop, resize and warp of a batch, single ops, and whole pipelines of the procedures.

use super::{Case, Images, Units, bytes};
use crate::common::{assert_close, random_bytes, widen};
use crate::rig::{Fallible, Rig, Rotation, Run};
use cudarc::driver::CudaSlice;
use warpsmith::augment::{ImageRef, KerasRandAugment, Pipeline, RandAugment, Step};
use warpsmith::cpu;
use warpsmith::cuda::augment_geometry::{self as geometry, CropBox, FillMode, Interpolation};
use warpsmith::cuda::augment_pipeline::{ImageTable, Rows, apply};
use warpsmith::cuda::augment_pixel::randaugment;

/// Side of CIFAR's pictures.
const SOURCE: usize = 32;
const RGB: usize = 3;

pub fn cases(Images { size, batch }: Images) -> Vec<Case> {
    let (n, size) = (batch as usize, size as usize);
    // The crop's source, as the procedures have it: 96 for 72.
    let resized = size * 4 / 3;
    let shape = [n, size, size, RGB];
    let region = CropBox { top: resized / 8, left: resized / 9, height: size, width: size };
    let transform = geometry::rotation_transform(size, size, 0.3);
    let crop_shape = [n, resized, resized, RGB];
    let (resize, crop) =
        (Step::Resize { height: resized, width: resized }, Step::RandomCrop { height: size, width: size });
    let clean = vec![Step::RandomFlip, resize, crop];
    let noisy = [clean.clone(), vec![Step::RandAugment(RandAugment::default())]].concat();
    let whole = Step::Resize { height: size, width: size };
    let keras = vec![whole, Step::KerasRandAugment(KerasRandAugment::default())];
    vec![
        images(
            ("augment_geometry_resize", "u8"),
            ([n, SOURCE, SOURCE, RGB], shape),
            move |x, y: &mut [f32]| {
                Ok(cpu::augment_geometry::resize_bilinear(x, [n, SOURCE, SOURCE, RGB], size, size, y)?)
            },
            move |rig, x, y: &mut CudaSlice<f32>| {
                geometry::resize_bilinear(&rig.kernels, x, [n, SOURCE, SOURCE, RGB], size, size, y, &rig.stream)
            },
        ),
        images(
            ("augment_geometry_crop", "u8"),
            (crop_shape, shape),
            move |x, y: &mut [u8]| Ok(cpu::augment_geometry::crop(x, crop_shape, region, y)?),
            move |rig, x, y: &mut CudaSlice<u8>| geometry::crop(&rig.kernels, x, crop_shape, region, y, &rig.stream),
        ),
        images(
            ("augment_geometry_warp", "u8"),
            (shape, shape),
            move |x, y: &mut [u8]| {
                let how = (Interpolation::Bilinear, FillMode::Reflect);
                Ok(cpu::augment_geometry::warp(x, shape, &transform, how.0, how.1, 0.0, y)?)
            },
            move |rig, x, y: &mut CudaSlice<u8>| {
                let how = (Interpolation::Bilinear, FillMode::Reflect);
                geometry::warp(&rig.kernels, x, shape, &transform, how.0, how.1, 0.0, y, &rig.stream)
            },
        ),
        images(
            ("augment_pixel_equalize", "u8"),
            (shape, shape),
            move |x, y: &mut [u8]| {
                y.copy_from_slice(x);
                let mut each = y.chunks_mut(size * size * RGB);
                Ok(each.try_for_each(|y| cpu::augment_pixel::randaugment::equalize(y, size, size))?)
            },
            move |rig, x, y: &mut CudaSlice<u8>| {
                randaugment::equalize(&rig.kernels, x, [n, size, size], y, &rig.stream)
            },
        ),
        pipeline("consistency, clean", n, clean),
        pipeline("consistency, RandAugment", n, noisy),
        pipeline("keras RandAugment", n, keras),
    ]
}

/// Values of a result.
trait Value: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits + Copy + Default + 'static {
    fn floats(values: &[Self]) -> Vec<f32>;
}

impl Value for u8 {
    fn floats(values: &[u8]) -> Vec<f32> {
        values.iter().map(|&v| f32::from(v)).collect()
    }
}

impl Value for f32 {
    fn floats(values: &[f32]) -> Vec<f32> {
        values.to_vec()
    }
}

/// An op on a batch of u8 images, which must give the bits of the CPU.
fn images<Y: Value>(
    (op, dtype): (&'static str, &'static str),
    (from, to): ([usize; 4], [usize; 4]),
    want: impl Fn(&[u8], &mut [Y]) -> Fallible<()> + Copy + 'static,
    launch: impl Fn(&Rig, &CudaSlice<u8>, &mut CudaSlice<Y>) -> warpsmith::Result<()> + Copy + 'static,
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
        bytes: bytes(read, 1) + bytes(elems(to), size_of::<Y>()),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let x = random_bytes(elems(from), 1);
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

/// A pipeline over CIFAR's pictures.
fn pipeline(name: &str, n: usize, steps: Vec<Step>) -> Case {
    let pipeline = Pipeline::new(steps).expect("the steps are valid");
    let (h, w) = pipeline.output_size(SOURCE, SOURCE).expect("the sizes fit");
    let (pixels, values) = (n * SOURCE * SOURCE * RGB, n * h * w * RGB);
    Case {
        op: "augment_pipeline",
        dtype: "u8",
        name: name.into(),
        count: 0,
        problem: format!("{n} of {SOURCE}x{SOURCE} to {h}x{w}"),
        flops: 0,
        bytes: bytes(pixels, 1) + bytes(n, 4) + bytes(values, 4),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| run_pipeline(rig, copies, &pipeline, n, values)),
    }
}

fn run_pipeline(rig: &Rig, copies: usize, pipeline: &Pipeline, n: usize, values: usize) -> Fallible<Box<dyn Run>> {
    let data = random_bytes(n * SOURCE * SOURCE * RGB, 31);
    let indices: Vec<u32> = (0..n as u32).collect();
    let (seed, step) = (7, 3u32);
    let set = || {
        let table = ImageTable::new(&rig.kernels, std::iter::repeat_n([SOURCE; 2], n), &rig.stream)?;
        let inputs = (rig.put(&data)?, rig.put(&indices)?, rig.put(&[step])?);
        Ok((pipeline.plan(&rig.kernels, &rig.stream)?, table, inputs, rig.zeros::<f32>(values)?))
    };
    let (data, indices, pipeline) = (data.clone(), indices.clone(), pipeline.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (plan, table, (pixels, indices, step), y)| {
            let (kernels, stream, none) = (&rig.kernels, &rig.stream, None::<&mut CudaSlice<u8>>);
            Ok(apply(kernels, plan, table, Rows::Batch, &*pixels, &*indices, seed, &*step, none, y, stream)?)
        },
        move |rig, (_, _, _, y)| {
            let image = |data| ImageRef { height: SOURCE, width: SOURCE, data };
            let images: Vec<_> = data.chunks(SOURCE * SOURCE * RGB).map(image).collect();
            let mut want = vec![0.0; values];
            pipeline.apply(&images, &indices, seed, step, &mut want)?;
            assert_close("augment_pipeline", &n, &[values], &rig.get(y)?, &widen(&want), 0.0, 0.0);
            Ok(())
        },
    )
}
