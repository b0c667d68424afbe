//! Sums, ReLU, casts and dropout, on the activations where the network has them.

use super::{Case, Images, Units, bytes};
use crate::common::float::Float;
use crate::common::{assert_close, random, random_bytes, widen};
use crate::resnet50v2::{self, FEATURES};
use crate::rig::{Fallible, Rig, Rotation};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu;
use warpsmith::cuda::{dropout, elementwise};
use warpsmith::rng::Stream;

pub fn cases(images: Images) -> Vec<Case> {
    let mut list = of_type::<bf16>(images, "bf16");
    list.extend(of_type::<f32>(images, "f32"));
    let pixels = images.batch as usize * (images.size as usize).pow(2) * 3;
    let pooled = images.batch as usize * FEATURES as usize;
    list.push(map(
        ("cast_f32_bf16", "bf16", "images", 1),
        pixels,
        |x| Ok(x.to_vec()),
        |rig, x: &CudaSlice<f32>, y: &mut CudaSlice<bf16>| elementwise::f32_to_bf16(&rig.kernels, x, y, &rig.stream),
    ));
    list.push(map(
        ("cast_bf16_f32", "bf16", "avg_pool", 1),
        pooled,
        |x| Ok(x.to_vec()),
        |rig, x: &CudaSlice<bf16>, y: &mut CudaSlice<f32>| elementwise::bf16_to_f32(&rig.kernels, x, y, &rig.stream),
    ));
    list.push(rescale_u8(pixels));
    list
}

fn of_type<T: Float>(images: Images, dtype: &'static str) -> Vec<Case> {
    // The largest activation of the first stage, and the features behind the average pool.
    let h = resnet50v2::half(resnet50v2::half(images.size)) as usize;
    let activation = images.batch as usize * h * h * 256;
    vec![
        map(
            ("relu", dtype, "s1.pre", 0),
            activation,
            |x| {
                let mut y = vec![0.0; x.len()];
                cpu::elementwise::relu(x, &mut y)?;
                Ok(y)
            },
            |rig, x: &CudaSlice<T>, y: &mut CudaSlice<T>| elementwise::relu(&rig.kernels, x, y, &rig.stream),
        ),
        pair("add", dtype, activation, 3, |rig, a: &CudaSlice<T>, b: &CudaSlice<T>, y: &mut CudaSlice<T>| {
            elementwise::add(&rig.kernels, a, b, y, &rig.stream)
        }),
        pair("add_assign", dtype, activation, 3, |rig, a: &CudaSlice<T>, _: &CudaSlice<T>, y: &mut CudaSlice<T>| {
            elementwise::add_assign(&rig.kernels, a, y, &rig.stream)
        }),
        dropped::<T>(dtype, images.batch as usize, FEATURES as usize),
    ]
}

/// A function of one buffer: `(op, dtype, name, count)`, elements, what the CPU makes of them, the launch.
fn map<X: Float, Y: Float>(
    (op, dtype, name, count): (&'static str, &'static str, &str, u32),
    elems: usize,
    want: impl Fn(&[f32]) -> Fallible<Vec<f32>> + Copy + 'static,
    launch: impl Fn(&Rig, &CudaSlice<X>, &mut CudaSlice<Y>) -> warpsmith::Result<()> + Copy + 'static,
) -> Case {
    Case {
        op,
        dtype,
        name: name.into(),
        count,
        problem: elems.to_string(),
        flops: elems as u64,
        bytes: bytes(elems, size_of::<X>() + size_of::<Y>()),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let x = X::rounded(&random(elems, 1));
            let set = || Ok((rig.floats::<X>(&x)?, rig.zeros::<Y>(elems)?));
            let x = x.clone();
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, y)| Ok(launch(rig, x, y)?),
                move |rig, (_, y)| {
                    let want = Y::rounded(&want(&x)?);
                    assert_close(op, &elems, &[elems], &rig.read(y)?, &widen(&want), 0.0, 0.0);
                    Ok(())
                },
            )
        }),
    }
}

/// The sum of two buffers, in a third or in one of them.
fn pair<T: Float>(
    op: &'static str,
    dtype: &'static str,
    elems: usize,
    buffers: usize,
    launch: impl Fn(&Rig, &CudaSlice<T>, &CudaSlice<T>, &mut CudaSlice<T>) -> warpsmith::Result<()> + Copy + 'static,
) -> Case {
    Case {
        op,
        dtype,
        name: "s1.pre".into(),
        count: 0,
        problem: elems.to_string(),
        flops: elems as u64,
        bytes: bytes(elems, buffers * size_of::<T>()),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let (a, b) = (T::rounded(&random(elems, 1)), T::rounded(&random(elems, 2)));
            // The result starts as the second: where that is added to, and where it is overwritten.
            let set = || Ok((rig.floats::<T>(&a)?, rig.floats::<T>(&b)?, rig.floats::<T>(&b)?));
            let (a, b) = (a.clone(), b.clone());
            Rotation::boxed(
                copies,
                set,
                move |rig, (a, b, y)| Ok(launch(rig, a, b, y)?),
                move |rig, (_, _, y)| {
                    let mut want = vec![0.0; elems];
                    cpu::elementwise::add(&a, &b, &mut want)?;
                    assert_close(op, &elems, &[elems], &rig.read(y)?, &widen(&T::rounded(&want)), 0.0, 0.0);
                    Ok(())
                },
            )
        }),
    }
}

fn rescale_u8(elems: usize) -> Case {
    Case {
        op: "rescale",
        dtype: "u8",
        name: "images".into(),
        count: 0,
        problem: elems.to_string(),
        flops: 2 * elems as u64,
        bytes: bytes(elems, 5),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let x = random_bytes(elems, 1);
            let set = || Ok((rig.put(&x)?, rig.zeros::<f32>(elems)?));
            let x = x.clone();
            let (scale, offset) = (1.0 / 127.5, -1.0);
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, y)| Ok(elementwise::rescale_u8(&rig.kernels, &*x, scale, offset, y, &rig.stream)?),
                move |rig, (_, y)| {
                    let mut want = vec![0.0; elems];
                    cpu::elementwise::rescale_u8(&x, scale, offset, &mut want)?;
                    assert_close("rescale", &elems, &[elems], &rig.get(y)?, &widen(&want), 0.0, 0.0);
                    Ok(())
                },
            )
        }),
    }
}

/// Dropout in front of the classifier.
fn dropped<T: Float>(dtype: &'static str, samples: usize, features: usize) -> Case {
    let elems = samples * features;
    Case {
        op: "dropout",
        dtype,
        name: "avg_pool".into(),
        count: 0,
        problem: format!("{samples}x{features}"),
        flops: elems as u64,
        bytes: bytes(elems, 2 * size_of::<T>()) + bytes(samples, 4),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let x = T::rounded(&random(elems, 1));
            let indices: Vec<u32> = (0..samples as u32).collect();
            let (stream, rate) = (Stream { seed: 7, step: 3, index: 0, op: 1 }, 0.5);
            let set = || Ok((rig.floats::<T>(&x)?, rig.put(&indices)?, rig.put(&[3u32])?, rig.zeros::<T>(elems)?));
            let (x, indices) = (x.clone(), indices.clone());
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, indices, step, y)| {
                    Ok(dropout::dropout(&rig.kernels, stream, &*step, rate, &*indices, &*x, y, &rig.stream)?)
                },
                move |rig, (_, _, _, y)| {
                    let mut want = vec![0.0; elems];
                    cpu::dropout::dropout(stream, rate, &indices, &x, &mut want)?;
                    assert_close("dropout", &elems, &[elems], &rig.read(y)?, &widen(&T::rounded(&want)), 0.0, 0.0);
                    Ok(())
                },
            )
        }),
    }
}
