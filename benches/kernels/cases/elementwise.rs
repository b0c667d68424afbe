//! Sums, ReLU, casts, scales, fills and dropout, on the activations where the network has them.

use super::{Case, Images, Units, bytes};
use crate::common::float::Float;
use crate::common::{assert_close, random, random_bytes, widen};
use crate::resnet50v2::{self, FEATURES};
use crate::rig::{Fallible, Rig, Rotation};
use cudarc::driver::{CudaSlice, DeviceRepr};
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
    list.push(normalization::<f32>("f32", pixels, |x| x.iter().map(|&x| f32::from(x)).collect()));
    list.push(normalization::<u8>("u8", pixels, <[u8]>::to_vec));
    let activation = activation(images, 64);
    let name = |op| (op, "f32", "s1.bn1");
    // One value of the second buffer is what comes from the device.
    list.push(on_two(
        name("scale_by"),
        (activation, bytes(activation, 8) + 4, 0.0),
        |a, b, y| {
            y.iter_mut().zip(a).for_each(|(y, a)| *y = b[0] * a);
            Ok(())
        },
        |rig, a: &CudaSlice<f32>, b, y| elementwise::scale_by(&rig.kernels, a, &b.slice(..1), false, y, &rig.stream),
    ));
    list.push(on_two(
        name("fill_from"),
        (activation, bytes(activation, 4) + 4, 0.0),
        |_, b, y| {
            y.fill(b[0]);
            Ok(())
        },
        |rig, _, b: &CudaSlice<f32>, y| elementwise::fill_from(&rig.kernels, &b.slice(..1), y, &rig.stream),
    ));
    // By one block: of few values.
    list.push(on_two(
        ("sum", "f32", "avg_pool"),
        (pooled, bytes(pooled, 4) + 4, f64::from(f32::EPSILON)),
        |a, _, y| {
            y[0] = a.iter().map(|&a| f64::from(a)).sum::<f64>() as f32;
            Ok(())
        },
        |rig, a: &CudaSlice<f32>, _, y| elementwise::sum(&rig.kernels, a, &mut y.slice_mut(..1), &rig.stream),
    ));
    list
}

/// Values of an activation of the first stage.
fn activation(images: Images, channels: usize) -> usize {
    let h = resnet50v2::half(resnet50v2::half(images.size)) as usize;
    images.batch as usize * h * h * channels
}

fn of_type<T: Float>(images: Images, dtype: &'static str) -> Vec<Case> {
    // The largest one, a smaller one, and the features behind the average pool.
    let (activation, smaller) = (activation(images, 256), activation(images, 64));
    let all =
        |op, buffers: usize| ((op, dtype, "s1.pre"), (activation, bytes(activation, buffers * size_of::<T>()), 0.0));
    let some = |op, buffers: usize| ((op, dtype, "s1.bn1"), (smaller, bytes(smaller, buffers * size_of::<T>()), 0.0));
    let ((relu_backward, of_relu), (add, of_add), (add_assign, of_add_assign)) =
        (all("relu_backward", 3), all("add", 3), all("add_assign", 3));
    let ((scale, of_scale), (rescale, of_rescale), (fill, of_fill)) =
        (some("scale", 2), some("rescale", 2), some("fill", 1));
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
        on_two(
            relu_backward,
            of_relu,
            |x, dy, dx| Ok(cpu::elementwise::relu_backward(x, dy, false, dx)?),
            |rig, x: &CudaSlice<T>, dy, dx| elementwise::relu_backward(&rig.kernels, x, dy, false, dx, &rig.stream),
        ),
        on_two(
            add,
            of_add,
            |a, b, y| Ok(cpu::elementwise::add(a, b, y)?),
            |rig, a: &CudaSlice<T>, b, y| elementwise::add(&rig.kernels, a, b, y, &rig.stream),
        ),
        on_two(
            add_assign,
            of_add_assign,
            |a, _, y| Ok(cpu::elementwise::add_assign(a, y)?),
            |rig, a: &CudaSlice<T>, _, y| elementwise::add_assign(&rig.kernels, a, y, &rig.stream),
        ),
        on_two(
            scale,
            of_scale,
            |_, _, y| Ok(cpu::elementwise::scale_assign(0.3, y)?),
            |rig, _, _, y: &mut CudaSlice<T>| elementwise::scale_assign(&rig.kernels, 0.3, y, &rig.stream),
        ),
        on_two(
            rescale,
            of_rescale,
            |a, _, y| Ok(cpu::elementwise::rescale(a, 0.7, -1.1, y)?),
            |rig, a: &CudaSlice<T>, _, y| elementwise::rescale(&rig.kernels, a, 0.7, -1.1, y, &rig.stream),
        ),
        on_two(
            fill,
            of_fill,
            |_, _, y| Ok(cpu::elementwise::fill(2.5, y)?),
            |rig, _, _, y: &mut CudaSlice<T>| elementwise::fill(&rig.kernels, 2.5, y, &rig.stream),
        ),
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

/// What an op makes of `a`, `b` and a third buffer, which starts as `b`: where that is added to, and where it is
/// overwritten. `(op, dtype, name)`; elements, compulsory bytes and relative tolerance.
fn on_two<T: Float>(
    (op, dtype, name): (&'static str, &'static str, &str),
    (elems, compulsory, rtol): (usize, u64, f64),
    want: impl Fn(&[f32], &[f32], &mut [f32]) -> Fallible<()> + Copy + 'static,
    launch: impl Fn(&Rig, &CudaSlice<T>, &CudaSlice<T>, &mut CudaSlice<T>) -> warpsmith::Result<()> + Copy + 'static,
) -> Case {
    Case {
        op,
        dtype,
        name: name.into(),
        count: 0,
        problem: elems.to_string(),
        flops: elems as u64,
        bytes: compulsory,
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let (a, b) = (T::rounded(&random(elems, 1)), T::rounded(&random(elems, 2)));
            let set = || Ok((rig.floats::<T>(&a)?, rig.floats::<T>(&b)?, rig.floats::<T>(&b)?));
            let (a, b) = (a.clone(), b.clone());
            Rotation::boxed(
                copies,
                set,
                move |rig, (a, b, y)| Ok(launch(rig, a, b, y)?),
                move |rig, (_, _, y)| {
                    let mut expected = b.clone();
                    want(&a, &b, &mut expected)?;
                    let expected = widen(&T::rounded(&expected));
                    assert_close(op, &elems, &[elems], &rig.read(y)?, &expected, 0.0, rtol);
                    Ok(())
                },
            )
        }),
    }
}

/// Keras' Normalization of the three channels of images.
fn normalization<X>(dtype: &'static str, elems: usize, pixels: fn(&[u8]) -> Vec<X>) -> Case
where
    X: elementwise::Pixel + cpu::elementwise::Pixel + DeviceRepr + 'static,
{
    Case {
        op: "normalization",
        dtype,
        name: "images".into(),
        count: 0,
        problem: elems.to_string(),
        flops: 2 * elems as u64,
        bytes: bytes(elems, size_of::<X>() + 4) + bytes(6, 4),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let (x, mean, var) = (pixels(&random_bytes(elems, 1)), [125.3, 123.0, 113.9], [3969.0, 3856.0, 4448.0f32]);
            let set = || Ok((rig.put(&x)?, rig.put(&mean)?, rig.put(&var)?, rig.zeros::<f32>(elems)?));
            let x = x.clone();
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, mean, var, y)| {
                    Ok(elementwise::normalization(&rig.kernels, &*x, &*mean, &*var, y, &rig.stream)?)
                },
                move |rig, (_, _, _, y)| {
                    let mut want = vec![0.0; elems];
                    cpu::elementwise::normalization(&x, &mean, &var, &mut want)?;
                    assert_close("normalization", &elems, &[elems], &rig.get(y)?, &widen(&want), 0.0, 0.0);
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
