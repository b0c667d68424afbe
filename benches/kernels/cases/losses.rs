//! Losses: cross-entropy and distillation of the batch's logits, their parts, contrastive losses of the document's batch
//! of embeddings.

use super::{Case, Images, Units, bytes};
use crate::common::float::Float;
use crate::common::{assert_close, random, widen};
use crate::rig::{Fallible, Rig, Rotation, Run};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu;
use warpsmith::cuda::supcon::{self, Plan};
use warpsmith::cuda::{cross_entropy, softmax_kl};
use warpsmith::problem::{Clip, Supcon};

const CLASSES: usize = 10;
/// Embeddings of a batch, and their dimensions.
const EMBEDDINGS: (usize, usize) = (265, 128);
const RTOL: f64 = 4.0 * f32::EPSILON as f64;

pub fn cases(images: Images) -> Vec<Case> {
    let rows = images.batch as usize;
    let mut list = vec![cross_entropy_case(rows, false), cross_entropy_case(rows, true), distill_case(rows)];
    list.extend(parts(rows));
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

/// What a pass over rows of classes reads, on the host.
#[derive(Clone)]
struct Rows {
    a: Vec<f32>,
    b: Vec<f32>,
    labels: Vec<i32>,
}

/// The same on the device, and what the passes write.
struct DeviceRows {
    a: CudaSlice<f32>,
    b: CudaSlice<f32>,
    labels: CudaSlice<i32>,
    dloss: CudaSlice<f32>,
    losses: CudaSlice<f64>,
    out: CudaSlice<f32>,
    count: CudaSlice<u32>,
}

/// What a pass over rows writes.
#[derive(Clone, Copy)]
enum Written {
    /// Losses of the rows.
    Losses,
    /// A matrix.
    Matrix,
    /// How many rows are right.
    Count,
}

const DLOSS: f32 = 0.7;
const TEMPERATURE: f32 = 10.0;

/// The passes that the fused losses are made of, and the accuracy.
fn parts(rows: usize) -> Vec<Case> {
    let (matrix, labels, losses) = (bytes(rows * CLASSES, 4), bytes(rows, 4), bytes(rows, 8));
    let (n, classes, clip) = (rows, CLASSES, Clip::PROBS);
    vec![
        rows_case(
            ("cross_entropy_probs", 3, matrix + labels + losses, Written::Losses),
            rows,
            move |rig, shape, d| {
                let inputs = (&d.a, &d.labels);
                cross_entropy::probs_forward(&rig.kernels, shape, inputs, clip, &mut d.losses, &rig.stream)
            },
            move |h, y| {
                cpu::cross_entropy::probs_forward(n, classes, &h.a, &h.labels, clip, Some(y))?;
                Ok(())
            },
        ),
        rows_case(
            ("cross_entropy_probs_backward", 4, 2 * matrix + labels + 4, Written::Matrix),
            rows,
            move |rig, shape, d| {
                let (inputs, dloss, out) = ((&d.a, &d.labels), &d.dloss, &mut d.out);
                cross_entropy::probs_backward(&rig.kernels, shape, inputs, clip, dloss, out, &rig.stream)
            },
            move |h, y| Ok(cpu::cross_entropy::probs_backward(n, classes, &h.a, &h.labels, clip, DLOSS, y)?),
        ),
        rows_case(
            ("cross_entropy_correct", 1, matrix + labels + 4, Written::Count),
            rows,
            |rig, shape, d| cross_entropy::correct(&rig.kernels, shape, (&d.a, &d.labels), &mut d.count, &rig.stream),
            move |h, y| {
                y[0] = cpu::cross_entropy::correct(n, classes, &h.a, &h.labels)? as f32;
                Ok(())
            },
        ),
        rows_case(
            ("softmax", 4, 2 * matrix, Written::Matrix),
            rows,
            |rig, shape, d| softmax_kl::softmax(&rig.kernels, shape, &d.a, TEMPERATURE, &mut d.out, &rig.stream),
            move |h, y| Ok(cpu::softmax_kl::softmax(n, classes, &h.a, TEMPERATURE, y)?),
        ),
        rows_case(
            ("softmax_backward", 4, 3 * matrix, Written::Matrix),
            rows,
            |rig, shape, d| {
                let inputs = (&d.a, &d.b);
                softmax_kl::softmax_backward(&rig.kernels, shape, inputs, TEMPERATURE, &mut d.out, &rig.stream)
            },
            move |h, y| Ok(cpu::softmax_kl::softmax_backward(n, classes, &h.a, &h.b, TEMPERATURE, y)?),
        ),
        rows_case(
            ("kl_div", 4, 2 * matrix + losses, Written::Losses),
            rows,
            |rig, shape, d| softmax_kl::kl_div(&rig.kernels, shape, (&d.a, &d.b), &mut d.losses, &rig.stream),
            move |h, y| {
                cpu::softmax_kl::kl_div(n, classes, &h.a, &h.b, Some(y))?;
                Ok(())
            },
        ),
        rows_case(
            ("kl_div_backward", 3, 3 * matrix + 4, Written::Matrix),
            rows,
            |rig, shape, d| {
                let inputs = (&d.a, &d.b);
                softmax_kl::kl_div_backward(&rig.kernels, shape, inputs, &d.dloss, &mut d.out, &rig.stream)
            },
            move |h, y| Ok(cpu::softmax_kl::kl_div_backward(n, classes, &h.a, &h.b, DLOSS, y)?),
        ),
    ]
}

/// `(op, operations of an element, compulsory bytes, what is written)`, the launch, and what the host writes.
fn rows_case(
    (op, flops, bytes, written): (&'static str, usize, u64, Written),
    rows: usize,
    launch: impl Fn(&Rig, (usize, usize), &mut DeviceRows) -> warpsmith::Result<()> + Copy + 'static,
    want: impl Fn(&Rows, &mut [f32]) -> Fallible<()> + Copy + 'static,
) -> Case {
    let (shape, elems) = ((rows, CLASSES), rows * CLASSES);
    Case {
        op,
        dtype: "f32",
        name: "predictions".into(),
        count: 0,
        problem: format!("{rows}x{CLASSES}"),
        flops: (flops * elems) as u64,
        bytes,
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            // Positive, for those passes that take probabilities.
            let positive = |seed| random(elems, seed).iter().map(|x| x.abs() + 1e-3).collect::<Vec<f32>>();
            let labels = (0..rows).map(|i| (i * 7 % CLASSES) as i32).collect();
            let host = Rows { a: positive(6), b: positive(7), labels };
            let set = || {
                Ok(DeviceRows {
                    a: rig.put(&host.a)?,
                    b: rig.put(&host.b)?,
                    labels: rig.put(&host.labels)?,
                    dloss: rig.put(&[DLOSS])?,
                    losses: rig.stream.alloc_zeros::<f64>(rows)?,
                    out: rig.zeros::<f32>(elems)?,
                    count: rig.put(&[0u32])?,
                })
            };
            let host = host.clone();
            Rotation::boxed(
                copies,
                set,
                move |rig, d| Ok(launch(rig, shape, d)?),
                move |rig, d| {
                    let got: Vec<f32> = match written {
                        Written::Losses => rig.get(&d.losses)?.iter().map(|&loss| loss as f32).collect(),
                        Written::Matrix => rig.get(&d.out)?,
                        Written::Count => vec![rig.get(&d.count)?[0] as f32],
                    };
                    let mut expected = vec![0.0; got.len()];
                    want(&host, &mut expected)?;
                    assert_close(op, &shape, &[got.len()], &got, &widen(&expected), 1e-9, RTOL);
                    Ok(())
                },
            )
        }),
    }
}

fn contrastive<T: Float>(dtype: &'static str, units: Units) -> [Case; 6] {
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
            "l2_normalize_backward",
            6 * (n * dim) as u64,
            3 * rows,
            Units::Memory,
            Box::new(|rig, copies| normalize_backward::<T>(rig, copies)),
        ),
        case(
            "similarity_matrix",
            product,
            rows + bytes(n * n, size_of::<T>()),
            units,
            Box::new(|rig, copies| similarity::<T>(rig, copies)),
        ),
        case(
            "similarity_matrix_backward",
            product,
            2 * rows + bytes(n * n, size_of::<T>()),
            units,
            Box::new(|rig, copies| similarity_backward::<T>(rig, copies)),
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

fn normalize_backward<T: Float>(rig: &Rig, copies: usize) -> Fallible<Box<dyn Run>> {
    let (shape @ (n, dim), z, eps) = (EMBEDDINGS, embeddings::<T>(), 1e-12);
    let dy = T::rounded(&random(n * dim, 2));
    let set = || Ok((rig.floats::<T>(&z)?, rig.floats::<T>(&dy)?, rig.zeros::<T>(n * dim)?));
    let (z, dy) = (z.clone(), dy.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (z, dy, dz)| {
            Ok(supcon::l2_normalize_backward(&rig.kernels, shape, eps, (&*z, &*dy), false, dz, &rig.stream)?)
        },
        move |rig, (_, _, dz)| {
            let mut want = vec![0.0; n * dim];
            cpu::supcon::l2_normalize_backward(n, dim, eps, &z, &dy, false, &mut want)?;
            let rtol = 2.0 * T::EPSILON;
            assert_close("l2_normalize_backward", &shape, &[n, dim], &rig.read(dz)?, &widen(&want), 1e-6, rtol);
            Ok(())
        },
    )
}

/// Whole numbers, so that sums of products are exact in any order.
fn similarity_backward<T: Float>(rig: &Rig, copies: usize) -> Fallible<Box<dyn Run>> {
    let (shape @ (n, dim), temperature) = (EMBEDDINGS, 0.5);
    let whole = |n, seed| random(n, seed).iter().map(|x| (x * 3.49).round() + 0.0).collect::<Vec<f32>>();
    let (z, dsim) = (whole(n * dim, 1), whole(n * n, 2));
    let set = || Ok((rig.floats::<T>(&z)?, rig.floats::<T>(&dsim)?, rig.zeros::<T>(n * dim)?));
    let (z, dsim) = (z.clone(), dsim.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (z, dsim, dz)| {
            let (kernels, inputs) = (&rig.kernels, (&*z, &*dsim));
            Ok(supcon::similarity_matrix_backward(kernels, shape, inputs, temperature, false, dz, &rig.stream)?)
        },
        move |rig, (_, _, dz)| {
            let mut want = vec![0.0; n * dim];
            cpu::supcon::similarity_matrix_backward(n, dim, &z, temperature, &dsim, false, &mut want)?;
            let want = widen(&T::rounded(&want));
            assert_close("similarity_matrix_backward", &shape, &[n, dim], &rig.read(dz)?, &want, 0.0, 0.0);
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
