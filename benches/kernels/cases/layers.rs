//! Batch normalisation and pooling.

use super::{Case, Images, Units, bytes};
use crate::common::float::Float;
use crate::common::{assert_close, random, rtol_sum, widen};
use crate::resnet50v2::{self, FEATURES, Norm, Pool};
use crate::rig::{Fallible, Rig, Rotation, Run};
use cudarc::driver::CudaSlice;
use half::bf16;
use std::array;
use warpsmith::cpu;
use warpsmith::cuda::batch_norm::{self as cuda, Gradients, Running, Statistics, Tables};
use warpsmith::cuda::pool2d;

const EPS: f32 = 1.001e-5;

type Buffer = CudaSlice<f32>;

pub fn cases(images: Images) -> Vec<Case> {
    let mut list = of_type::<bf16>(images, "bf16");
    list.extend(of_type::<f32>(images, "f32"));
    list.push(inv_std_case(FEATURES as usize));
    list
}

fn of_type<T: Float>(Images { size, batch }: Images, dtype: &'static str) -> Vec<Case> {
    let mut list = Vec::new();
    let forward = resnet50v2::distinct_norms(size, batch, false);
    list.extend(forward.iter().map(|norm| statistics_case::<T>(norm, dtype)));
    list.extend(forward.iter().map(|norm| normalize_case::<T>(norm, dtype, false)));
    // The kernel can add a shortcut; the network does so in the convolution before.
    list.extend(forward.iter().take(1).map(|norm| normalize_case::<T>(norm, dtype, true)));
    let backward = resnet50v2::distinct_norms(size, batch, true);
    list.extend(backward.iter().map(|norm| backward_case::<T>(norm, dtype, Statistics::OfBatch)));
    list.extend(backward.iter().take(1).map(|norm| backward_case::<T>(norm, dtype, Statistics::Constant)));
    for pool in resnet50v2::pools(size, batch) {
        list.extend([max_case::<T>(&pool, dtype), max_backward_case::<T>(&pool, dtype)]);
    }
    let pixels = resnet50v2::last_extent(size).pow(2) as usize;
    let extents = [batch as usize, pixels, FEATURES as usize];
    list.extend([false, true].map(|backward| average_case::<T>(extents, dtype, backward)));
    list
}

fn matrix(Norm { rows, c, .. }: &Norm) -> String {
    format!("{rows}x{c}")
}

/// What all passes of a normalisation start from.
struct Data {
    x: Vec<f32>,
    dy: Vec<f32>,
    /// Mean, inv_std, gamma, beta.
    tables: [Vec<f32>; 4],
}

impl Data {
    fn new<T: Float>(rows: usize, c: usize) -> Fallible<Data> {
        let x: Vec<f32> = random(rows * c, 1).iter().enumerate().map(|(i, x)| x + (i % c % 16) as f32 * 0.1).collect();
        let (x, dy) = (T::rounded(&x), T::rounded(&random(rows * c, 2)));
        let (mut mean, mut var, mut inv_std) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
        cpu::batch_norm::statistics(rows, c, &x, &mut mean, &mut var)?;
        cpu::batch_norm::inv_std(&var, EPS, &mut inv_std)?;
        Ok(Data { x, dy, tables: [mean, inv_std, random(c, 3), random(c, 4)] })
    }
}

fn put_tables(rig: &Rig, tables: &[Vec<f32>; 4]) -> Fallible<[Buffer; 4]> {
    let [a, b, c, d] = tables.each_ref().map(|table| rig.put(table));
    Ok([a?, b?, c?, d?])
}

fn tables([mean, inv_std, gamma, beta]: &[Buffer; 4]) -> Tables<'_, Buffer> {
    Tables { mean, inv_std, gamma, beta }
}

fn statistics_case<T: Float>(norm: &Norm, dtype: &'static str) -> Case {
    let &Norm { rows, c, .. } = norm;
    Case {
        op: "batch_norm_statistics",
        dtype,
        name: norm.name.clone(),
        count: norm.count,
        problem: matrix(norm),
        flops: 3 * (rows * c) as u64,
        // Three tables are written, two are moved.
        bytes: bytes(rows * c, size_of::<T>()) + bytes(c, 4 * (3 + 4)),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| statistics::<T>(rig, copies, rows, c)),
    }
}

fn statistics<T: Float>(rig: &Rig, copies: usize, rows: usize, c: usize) -> Fallible<Box<dyn Run>> {
    let Data { x, tables: [mean, inv_std, ..], .. } = Data::new::<T>(rows, c)?;
    let set = || {
        let [a, b, d, e, f]: [Fallible<Buffer>; 5] = array::from_fn(|_| rig.zeros::<f32>(c));
        let workspace = rig.zeros::<f32>(cuda::workspace_elems(rows, c))?;
        Ok((rig.floats::<T>(&x)?, [a?, b?, d?, e?, f?], workspace))
    };
    Rotation::boxed(
        copies,
        set,
        move |rig, (x, [mean, var, inv_std, running_mean, running_var], workspace)| {
            let running = Running { mean: running_mean, var: running_var, momentum: 0.99, unbiased: false };
            let (running, out) = (Some(running), [mean, var, inv_std]);
            Ok(cuda::statistics(&rig.kernels, (rows, c), &*x, EPS, running, out, workspace, &rig.stream)?)
        },
        move |rig, (_, [got_mean, _, got_inv_std, ..], _)| {
            let rtol = rtol_sum(rows);
            assert_close("mean", &(rows, c), &[c], &rig.get(got_mean)?, &widen(&mean), rtol, rtol);
            assert_close("inv_std", &(rows, c), &[c], &rig.get(got_inv_std)?, &widen(&inv_std), 0.0, rtol);
            Ok(())
        },
    )
}

fn normalize_case<T: Float>(norm: &Norm, dtype: &'static str, residual: bool) -> Case {
    let &Norm { rows, c, .. } = norm;
    Case {
        op: if residual { "batch_norm_normalize_relu_residual" } else { "batch_norm_normalize_relu" },
        dtype,
        name: norm.name.clone(),
        count: if residual { 0 } else { norm.count },
        problem: matrix(norm),
        flops: 4 * (rows * c) as u64,
        bytes: bytes(rows * c, size_of::<T>() * if residual { 3 } else { 2 }) + bytes(c, 16),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| normalize::<T>(rig, copies, rows, c, residual)),
    }
}

fn normalize<T: Float>(rig: &Rig, copies: usize, rows: usize, c: usize, residual: bool) -> Fallible<Box<dyn Run>> {
    let Data { x, dy, tables: host } = Data::new::<T>(rows, c)?;
    let set = || {
        let r = residual.then(|| rig.floats::<T>(&dy)).transpose()?;
        Ok((rig.floats::<T>(&x)?, put_tables(rig, &host)?, r, rig.zeros::<T>(rows * c)?))
    };
    let mut want = vec![0.0; rows * c];
    let [mean, inv_std, gamma, beta] = &host;
    cpu::batch_norm::normalize(rows, c, &x, mean, inv_std, gamma, beta, !residual, &mut want)?;
    if residual {
        want.iter_mut().zip(&dy).for_each(|(y, r)| *y = (*y + r).max(0.0));
    }
    Rotation::boxed(
        copies,
        set,
        move |rig, (x, buffers, r, y)| {
            let (kernels, stream) = (&rig.kernels, &rig.stream);
            Ok(cuda::normalize(kernels, (rows, c), &*x, &tables(buffers), r.as_ref(), true, y, stream)?)
        },
        move |rig, (_, _, _, y)| {
            let atol = 4.0 * f64::from(f32::EPSILON);
            assert_close("normalize", &(rows, c), &[rows, c], &rig.read(y)?, &widen(&want), atol, T::EPSILON);
            Ok(())
        },
    )
}

/// With the statistics of the batch, or frozen: their gradient alone is wanted, and no sums.
fn backward_case<T: Float>(norm: &Norm, dtype: &'static str, of: Statistics) -> Case {
    let &Norm { rows, c, adds, .. } = norm;
    let frozen = of == Statistics::Constant;
    // The sums read x and dy, then dx does so again, is written, and read where it is added to.
    let matrices = if frozen { 3 } else { 5 } + usize::from(adds);
    // Four tables in both, two gradients that are added to, two means in between.
    let tables = if frozen { 4 } else { 2 * 4 + 2 * 2 + 2 * 2 };
    Case {
        op: if frozen { "batch_norm_backward_frozen" } else { "batch_norm_backward_relu" },
        dtype,
        name: norm.name.clone(),
        count: if frozen { 0 } else { norm.count },
        problem: format!("{}{}", matrix(norm), if adds { ", added" } else { "" }),
        flops: if frozen { 5 } else { 13 } * (rows * c) as u64,
        bytes: bytes(rows * c, matrices * size_of::<T>()) + bytes(c, 4 * tables),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| backward::<T>(rig, copies, rows, c, adds, of)),
    }
}

fn backward<T: Float>(
    rig: &Rig,
    copies: usize,
    rows: usize,
    c: usize,
    adds: bool,
    of: Statistics,
) -> Fallible<Box<dyn Run>> {
    let Data { x, dy, tables: host } = Data::new::<T>(rows, c)?;
    let before = if adds { T::rounded(&random(rows * c, 6)) } else { vec![0.0; rows * c] };
    let frozen = of == Statistics::Constant;
    let set = || {
        let workspace = rig.zeros::<f32>(cuda::workspace_elems(rows, c))?;
        let sums = (rig.zeros::<f32>(c)?, rig.zeros::<f32>(c)?);
        let matrices = (rig.floats::<T>(&x)?, rig.floats::<T>(&dy)?, rig.floats::<T>(&before)?);
        Ok((matrices, put_tables(rig, &host)?, sums, workspace))
    };
    let (x, dy, host, before) = (x.clone(), dy.clone(), host.clone(), before.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, ((x, dy, dx), buffers, (dgamma, dbeta), workspace)| {
            let none = None::<&CudaSlice<T>>;
            let (dgamma, dbeta) = ((!frozen).then_some(dgamma), (!frozen).then_some(dbeta));
            let gradients = Gradients { dx: Some(dx), dresidual: None, accumulate: adds, dgamma, dbeta };
            let (kernels, tables) = (&rig.kernels, tables(buffers));
            let inputs = (&*x, &*dy);
            Ok(cuda::backward(kernels, (rows, c), inputs, &tables, none, true, of, gradients, workspace, &rig.stream)?)
        },
        move |rig, ((_, _, dx), _, (dgamma, dbeta), _)| {
            let [mean, inv_std, gamma, beta] = &host;
            let (mut want, mut want_dgamma, mut want_dbeta) = (before.clone(), vec![0.0; c], vec![0.0; c]);
            let dx_slot = Some(&mut want[..]);
            if frozen {
                cpu::batch_norm::backward_inference(
                    rows, c, &x, &dy, mean, inv_std, gamma, beta, true, dx_slot, adds, None, None,
                )?;
            } else {
                let sums = (Some(&mut want_dgamma[..]), Some(&mut want_dbeta[..]));
                cpu::batch_norm::backward_train(
                    rows, c, &x, &dy, mean, inv_std, gamma, beta, true, dx_slot, adds, sums.0, sums.1,
                )?;
            }
            // Sums of `rows` products of numbers up to about one, times gamma * inv_std for dx.
            let rtol = rtol_sum(rows);
            let widest = inv_std.iter().fold(1.0, |widest, &s| f64::max(widest, f64::from(s)));
            let (atol, shape) = (8.0 * rtol * widest, (rows, c));
            assert_close("dgamma", &shape, &[c], &rig.get(dgamma)?, &widen(&want_dgamma), atol, rtol);
            assert_close("dbeta", &shape, &[c], &rig.get(dbeta)?, &widen(&want_dbeta), atol, rtol);
            assert_close("dx", &shape, &[rows, c], &rig.read(dx)?, &widen(&want), atol, rtol + T::EPSILON);
            Ok(())
        },
    )
}

/// What inference and frozen layers make of their variances, of the widest layer.
fn inv_std_case(c: usize) -> Case {
    Case {
        op: "batch_norm_inv_std",
        dtype: "f32",
        name: "post".into(),
        count: 0,
        problem: c.to_string(),
        flops: 2 * c as u64,
        bytes: bytes(c, 8),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let var: Vec<f32> = random(c, 1).iter().map(|x| x * x).collect();
            let set = || Ok((rig.put(&var)?, rig.zeros::<f32>(c)?));
            let var = var.clone();
            Rotation::boxed(
                copies,
                set,
                move |rig, (var, out)| Ok(cuda::inv_std(&rig.kernels, &*var, EPS, out, &rig.stream)?),
                move |rig, (_, out)| {
                    let mut want = vec![0.0; c];
                    cpu::batch_norm::inv_std(&var, EPS, &mut want)?;
                    let rtol = 2.0 * f64::from(f32::EPSILON);
                    assert_close("inv_std", &c, &[c], &rig.get(out)?, &widen(&want), 0.0, rtol);
                    Ok(())
                },
            )
        }),
    }
}

fn describe(Pool { problem: p, .. }: &Pool) -> String {
    format!("{}x{}x{}x{}, {}x{} stride {}", p.n, p.h, p.w, p.c, p.r, p.s, p.stride_h)
}

/// What a pooling must read: all of x, or the pixels that a shortcut picks.
fn read_elems(Pool { problem: p, .. }: &Pool) -> usize {
    if p.r == 1 { p.y_elems() } else { p.x_elems() }
}

fn max_case<T: Float>(pool: &Pool, dtype: &'static str) -> Case {
    let pool = pool.clone();
    let with_places = pool.problem.r > 1;
    let places = if with_places { pool.problem.y_elems() } else { 0 };
    Case {
        op: "max_pool2d",
        dtype,
        name: pool.name.clone(),
        count: pool.count,
        problem: describe(&pool),
        flops: pool.problem.flops(),
        bytes: bytes(read_elems(&pool) + pool.problem.y_elems(), size_of::<T>()) + bytes(places, 1),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let p = pool.problem;
            let x = T::rounded(&random(p.x_elems(), 1));
            let set = || {
                let places = with_places.then(|| rig.put(&vec![0u8; p.y_elems()])).transpose()?;
                Ok((rig.floats::<T>(&x)?, rig.zeros::<T>(p.y_elems())?, places))
            };
            let x = x.clone();
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, y, places)| {
                    Ok(pool2d::max(&rig.kernels, &p, 0.0, &*x, y, places.as_mut(), &rig.stream)?)
                },
                move |rig, (_, y, places)| {
                    let (mut want, mut want_places) = (vec![0.0; p.y_elems()], vec![0; p.y_elems()]);
                    cpu::pool2d::max(&p, 0.0, &x, &mut want, Some(&mut want_places))?;
                    assert_close("max_pool2d", &p, &[want.len()], &rig.read(y)?, &widen(&want), 0.0, 0.0);
                    if let Some(places) = places {
                        assert!(rig.get(places)? == want_places, "max_pool2d {p:?}: other places");
                    }
                    Ok(())
                },
            )
        }),
    }
}

fn max_backward_case<T: Float>(pool: &Pool, dtype: &'static str) -> Case {
    let pool = pool.clone();
    // A shortcut's gradient is added to that of the block.
    let adds = pool.problem.r == 1;
    let places = if adds { 0 } else { pool.problem.y_elems() };
    // What is not picked stays as it is.
    let written = if adds { 2 * pool.problem.y_elems() } else { pool.problem.x_elems() };
    Case {
        op: "max_pool2d_backward",
        dtype,
        name: pool.name.clone(),
        count: pool.count,
        problem: format!("{}{}", describe(&pool), if adds { ", added" } else { "" }),
        flops: pool.problem.y_elems() as u64,
        bytes: bytes(written + pool.problem.y_elems(), size_of::<T>()) + bytes(places, 1),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let p = pool.problem;
            let (dy, before) = (T::rounded(&random(p.y_elems(), 1)), T::rounded(&random(p.x_elems(), 2)));
            // Any place inside the image will do: the first of the window's own pixels.
            let mut places = vec![0u8; p.y_elems()];
            let mut y = vec![0.0; p.y_elems()];
            cpu::pool2d::max(&p, 0.0, &before, &mut y, Some(&mut places))?;
            let set = || {
                let places = (!adds).then(|| rig.put(&places)).transpose()?;
                Ok((rig.floats::<T>(&dy)?, places, rig.floats::<T>(&before)?))
            };
            let (dy, before, places) = (dy.clone(), before.clone(), places.clone());
            Rotation::boxed(
                copies,
                set,
                move |rig, (dy, places, dx)| {
                    Ok(pool2d::max_backward(&rig.kernels, &p, &*dy, places.as_ref(), adds, dx, &rig.stream)?)
                },
                move |rig, (_, _, dx)| {
                    let mut want = before.clone();
                    cpu::pool2d::max_backward(&p, &dy, Some(&places), adds, &mut want)?;
                    let got = rig.read(dx)?;
                    assert_close("max_pool2d_backward", &p, &[want.len()], &got, &widen(&want), 1e-6, T::EPSILON);
                    Ok(())
                },
            )
        }),
    }
}

fn average_case<T: Float>([n, pixels, c]: [usize; 3], dtype: &'static str, is_backward: bool) -> Case {
    Case {
        op: if is_backward { "global_avg_pool_backward" } else { "global_avg_pool" },
        dtype,
        name: "avg_pool".into(),
        count: 1,
        problem: format!("{n}x{pixels}x{c}"),
        flops: (n * pixels * c) as u64,
        bytes: bytes(n * pixels * c + n * c, size_of::<T>()),
        units: Units::Memory,
        prepare: Box::new(move |rig, copies| {
            let (x, dy) = (T::rounded(&random(n * pixels * c, 1)), T::rounded(&random(n * c, 2)));
            let set = || Ok((rig.floats::<T>(&x)?, rig.floats::<T>(&dy)?));
            let (x, dy) = (x.clone(), dy.clone());
            Rotation::boxed(
                copies,
                set,
                move |rig, (x, y)| {
                    let (kernels, stream) = (&rig.kernels, &rig.stream);
                    if is_backward {
                        pool2d::global_avg_backward(kernels, [n, pixels, c], &*y, false, x, stream)
                    } else {
                        pool2d::global_avg(kernels, [n, pixels, c], &*x, y, stream)
                    }?;
                    Ok(())
                },
                move |rig, (got_x, got_y)| {
                    let (mut want_x, mut want_y) = (x.clone(), dy.clone());
                    let (got, want) = if is_backward {
                        cpu::pool2d::global_avg_backward(n, pixels, c, &dy, false, &mut want_x)?;
                        (rig.read(got_x)?, want_x)
                    } else {
                        cpu::pool2d::global_avg(n, pixels, c, &x, &mut want_y)?;
                        (rig.read(got_y)?, want_y)
                    };
                    let what = [n, pixels, c];
                    assert_close("global_avg_pool", &what, &[want.len()], &got, &widen(&want), 1e-6, T::EPSILON);
                    Ok(())
                },
            )
        }),
    }
}
