//! Losses: cross-entropy and distillation of the batch's logits, contrastive losses of the document's batch of
//! embeddings.

use super::{Case, Images, Units, bytes};
use crate::common::float::Float;
use crate::common::{assert_close, random, widen};
use crate::rig::{Fallible, Rig, Rotation, Run};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu;
use warpsmith::cuda::supcon::{self, Plan};
use warpsmith::cuda::{cross_entropy, softmax_kl};
use warpsmith::problem::Supcon;

const CLASSES: usize = 10;
/// Embeddings of a batch, and their dimensions.
const EMBEDDINGS: (usize, usize) = (265, 128);
const RTOL: f64 = 4.0 * f32::EPSILON as f64;

pub fn cases(images: Images) -> Vec<Case> {
    let rows = images.batch as usize;
    let mut list = vec![cross_entropy_case(rows, false), cross_entropy_case(rows, true), distill_case(rows)];
    list.extend(contrastive::<bf16>("bf16", Units::TensorBf16));
    list.extend(contrastive::<f32>("f32", Units::F32));
    list
}

fn logits(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|x| x * 8.0).collect()
}

fn cross_entropy_case(rows: usize, is_backward: bool) -> Case {
    let elems = rows * CLASSES;
    let labels: Vec<i32> = (0..rows).map(|i| (i * 7 % CLASSES) as i32).collect();
    Case {
        op: if is_backward { "cross_entropy_backward" } else { "cross_entropy" },
        dtype: "f32",
        name: "predictions".into(),
        count: 1,
        problem: format!("{rows}x{CLASSES}"),
        flops: 4 * elems as u64,
        bytes: match is_backward {
            true => bytes(elems, 8) + bytes(rows, 4) + 4,
            // The losses of the rows go to f64 and are read again by the mean.
            false => bytes(elems, 4) + bytes(rows, 4 + 8 + 8) + 4,
        },
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let z = logits(elems, 1);
            let set = || {
                let losses = rig.stream.alloc_zeros::<f64>(rows)?;
                let scalars = (rig.put(&[0.7f32])?, rig.zeros::<f32>(1)?);
                Ok((rig.put(&z)?, rig.put(&labels)?, losses, scalars, rig.zeros::<f32>(elems)?))
            };
            let (z, labels) = (z.clone(), labels.clone());
            let shape = (rows, CLASSES);
            Rotation::boxed(
                copies,
                set,
                move |rig, (z, labels, losses, (dloss, loss), dz)| {
                    let (kernels, stream, inputs) = (&rig.kernels, &rig.stream, (&*z, &*labels));
                    if is_backward {
                        return Ok(cross_entropy::backward(kernels, shape, inputs, &*dloss, false, dz, stream)?);
                    }
                    cross_entropy::forward(kernels, shape, inputs, losses, stream)?;
                    Ok(cross_entropy::mean(kernels, &*losses, None::<&mut CudaSlice<f32>>, loss, stream)?)
                },
                move |rig, (_, _, _, (_, loss), dz)| {
                    let mut want = vec![0.0; elems];
                    let got = if is_backward {
                        cpu::cross_entropy::backward(rows, CLASSES, &z, &labels, 0.7, false, &mut want)?;
                        rig.get(dz)?
                    } else {
                        want = vec![cpu::cross_entropy::forward(rows, CLASSES, &z, &labels, None)?];
                        rig.get(loss)?
                    };
                    assert_close("cross_entropy", &shape, &[want.len()], &got, &widen(&want), 1e-12, RTOL);
                    Ok(())
                },
            )
        }),
    }
}

/// Loss and gradient in one pass.
fn distill_case(rows: usize) -> Case {
    let elems = rows * CLASSES;
    Case {
        op: "softmax_kl",
        dtype: "f32",
        name: "predictions".into(),
        count: 0,
        problem: format!("{rows}x{CLASSES}"),
        flops: 12 * elems as u64,
        bytes: bytes(elems, 12) + bytes(rows, 8) + 4,
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let (teacher, student) = (logits(elems, 8), logits(elems, 9));
            let set = || {
                let losses = rig.stream.alloc_zeros::<f64>(rows)?;
                Ok((rig.put(&teacher)?, rig.put(&student)?, losses, rig.put(&[0.7f32])?, rig.zeros::<f32>(elems)?))
            };
            let (teacher, student) = (teacher.clone(), student.clone());
            let (shape, temperature) = ((rows, CLASSES), 10.0);
            Rotation::boxed(
                copies,
                set,
                move |rig, (teacher, student, losses, dloss, dz)| {
                    let (kernels, stream, inputs) = (&rig.kernels, &rig.stream, (&*teacher, &*student));
                    let gradient = Some((&*dloss, dz));
                    Ok(softmax_kl::distill(kernels, shape, inputs, temperature, losses, gradient, stream)?)
                },
                move |rig, (_, _, losses, _, dz)| {
                    let mut want = vec![0.0; elems];
                    let gradient = Some((0.7, &mut want[..]));
                    let loss = cpu::softmax_kl::distill(rows, CLASSES, &teacher, &student, temperature, gradient)?;
                    assert_close("dstudent", &shape, &[elems], &rig.get(dz)?, &widen(&want), 1e-12, RTOL);
                    let got = rig.get(losses)?.iter().sum::<f64>() / rows as f64;
                    assert_close("softmax_kl", &shape, &[1], &[got as f32], &[f64::from(loss)], 1e-12, RTOL);
                    Ok(())
                },
            )
        }),
    }
}

fn contrastive<T: Float>(dtype: &'static str, units: Units) -> [Case; 4] {
    let (n, dim) = EMBEDDINGS;
    let case = move |op, flops, bytes, units, prepare: super::Prepare| Case {
        op,
        dtype,
        name: "projection".into(),
        count: 0,
        problem: format!("{n}x{dim}"),
        flops,
        bytes,
        units,
        prepare,
    };
    let product = 2 * (n * n * dim) as u64;
    let rows = bytes(n * dim, size_of::<T>());
    [
        case(
            "l2_normalize",
            3 * (n * dim) as u64,
            2 * rows,
            Units::Memory,
            Box::new(|rig, copies| normalize::<T>(rig, copies)),
        ),
        case(
            "similarity_matrix",
            product,
            rows + bytes(n * n, size_of::<T>()),
            units,
            Box::new(|rig, copies| similarity::<T>(rig, copies)),
        ),
        // Unit rows are written, and read by the product; the state of a row is three floats.
        case(
            "supcon_loss",
            product,
            3 * rows + bytes(n, 4 + 12) + 4,
            units,
            Box::new(|rig, copies| loss::<T>(rig, copies, false)),
        ),
        // The similarities are computed again, then multiplied by the rows.
        case(
            "supcon_loss_backward",
            2 * product,
            3 * rows + bytes(n, 4 + 12) + 4,
            units,
            Box::new(|rig, copies| loss::<T>(rig, copies, true)),
        ),
    ]
}

/// Embeddings behind a ReLU, as projection heads give them.
fn embeddings<T: Float>() -> Vec<f32> {
    let (n, dim) = EMBEDDINGS;
    T::rounded(&random(n * dim, 1).iter().map(|z| z.max(0.0) + 0.01).collect::<Vec<f32>>())
}

fn normalize<T: Float>(rig: &Rig, copies: usize) -> Fallible<Box<dyn Run>> {
    let (shape @ (n, dim), z) = (EMBEDDINGS, embeddings::<T>());
    let set = || Ok((rig.floats::<T>(&z)?, rig.zeros::<T>(n * dim)?));
    let z = z.clone();
    Rotation::boxed(
        copies,
        set,
        move |rig, (z, y)| Ok(supcon::l2_normalize(&rig.kernels, shape, 1e-12, &*z, y, &rig.stream)?),
        move |rig, (_, y)| {
            let mut want = vec![0.0; n * dim];
            cpu::supcon::l2_normalize(n, dim, 1e-12, &z, &mut want)?;
            let rtol = T::EPSILON.max(RTOL);
            assert_close("l2_normalize", &shape, &[n, dim], &rig.read(y)?, &widen(&want), 0.0, rtol);
            Ok(())
        },
    )
}

fn similarity<T: Float>(rig: &Rig, copies: usize) -> Fallible<Box<dyn Run>> {
    let (shape @ (n, dim), z) = (EMBEDDINGS, embeddings::<T>());
    let set = || Ok((rig.floats::<T>(&z)?, rig.zeros::<T>(n * n)?));
    let z = z.clone();
    Rotation::boxed(
        copies,
        set,
        move |rig, (z, sim)| Ok(supcon::similarity_matrix(&rig.kernels, shape, &*z, 0.5, sim, &rig.stream)?),
        move |rig, (_, sim)| {
            let mut want = vec![0.0; n * n];
            cpu::supcon::similarity_matrix(n, dim, &z, 0.5, &mut want)?;
            let rtol = crate::common::rtol_sum(dim) + T::EPSILON;
            assert_close("similarity_matrix", &shape, &[n, n], &rig.read(sim)?, &widen(&want), 1e-6, rtol);
            Ok(())
        },
    )
}

/// The loss alone, or its gradient from the state that the loss left.
fn loss<T: Float>(rig: &Rig, copies: usize, is_backward: bool) -> Fallible<Box<dyn Run>> {
    let ((n, dim), z) = (EMBEDDINGS, embeddings::<T>());
    let labels: Vec<i32> = (0..n).map(|i| ((i * 5 + 1) % CLASSES) as i32).collect();
    let settings = Supcon { temperature: 0.1, ..Supcon::default() };
    let plan = Plan::new(&settings, n, 1, dim)?;
    let set = || {
        let (dz, labels) = (rig.floats::<T>(&z)?, rig.put(&labels)?);
        let (mut unit, mut state) = (rig.zeros::<T>(plan.unit_elems())?, rig.zeros::<f32>(plan.state_elems())?);
        let (mut workspace, mut loss) = (rig.zeros::<f32>(plan.workspace_elems())?, rig.zeros::<f32>(1)?);
        if is_backward {
            let saved = (&mut unit, &mut state);
            supcon::loss(&rig.kernels, &plan, (&dz, &labels), saved, &mut loss, &mut workspace, &rig.stream)?;
        }
        Ok((dz, labels, unit, state, workspace, loss, rig.put(&[1.0f32])?, rig.zeros::<T>(n * dim)?))
    };
    let (z, host_labels) = (z.clone(), labels.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (z, labels, unit, state, workspace, loss, dloss, dz)| {
            let (kernels, stream, inputs) = (&rig.kernels, &rig.stream, (&*z, &*labels));
            if is_backward {
                let saved = (&*unit, &*state);
                supcon::loss_backward(kernels, &plan, inputs, saved, &*dloss, false, dz, workspace, stream)
            } else {
                supcon::loss(kernels, &plan, inputs, (unit, state), loss, workspace, stream)
            }?;
            Ok(())
        },
        move |rig, (_, _, _, _, _, loss, _, dz)| {
            let mut want = vec![0.0; n * dim];
            let value = cpu::supcon::loss(&settings, n, 1, dim, &z, &host_labels, Some((1.0, &mut want)))?;
            // The host twin keeps the unit rows in f32: similarities up to ten are off by bf16's rounding of the rows.
            let precision = (4.0 * T::EPSILON).max(4e-6);
            if is_backward {
                let largest = want.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                let atol = precision * f64::from(largest) + 1e-6;
                assert_close("dz", &settings, &[n, dim], &rig.read(dz)?, &widen(&want), atol, precision);
            } else {
                assert_close("supcon", &settings, &[1], &rig.get(loss)?, &[f64::from(value)], 1e-6, precision);
            }
            Ok(())
        },
    )
}
