//! Convolutions, the linear layer, the gradients of their biases, and plain products.

use super::{Case, Images, Units, bytes};
use crate::common::float::Float;
use crate::common::{assert_close, random, widen};
use crate::resnet50v2::{self, Convolution, FEATURES};
use crate::rig::{Fallible, Rig, Rotation, Run};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu;
use warpsmith::cuda::conv2d::{self as cuda, Pass, Plan};
use warpsmith::cuda::{gemm, linear};
use warpsmith::problem::Conv2dProblem;

/// How a dtype of the list multiplies.
#[derive(Clone, Copy)]
struct Kind {
    dtype: &'static str,
    units: Units,
    plan: fn(Pass, &Conv2dProblem) -> warpsmith::Result<Plan>,
    /// How far a factor is rounded, relatively.
    rounds: f64,
}

const BF16: Kind = Kind { dtype: "bf16", units: Units::TensorBf16, plan: Plan::new::<bf16>, rounds: 0.0 };
const TF32: Kind = Kind { dtype: "tf32", units: Units::TensorTf32, plan: Plan::tf32, rounds: 1.0 / 2048.0 };
const F32: Kind = Kind { dtype: "f32", units: Units::F32, plan: Plan::new::<f32>, rounds: 0.0 };

/// Classes of the document's data set.
const CLASSES: usize = 10;

pub fn cases(Images { size, batch }: Images) -> Vec<Case> {
    let layers = resnet50v2::convolutions(size, batch);
    let distinct = resnet50v2::distinct_convolutions(size, batch);
    let mut list = Vec::new();
    for kind in [BF16, TF32, F32] {
        // Epilogues differ where the backward passes do not.
        list.extend(layers.iter().map(|layer| of_kind(kind, Pass::Fprop, layer)));
        list.extend(distinct.iter().filter(|l| l.name != "stem").map(|layer| of_kind(kind, Pass::Dgrad, layer)));
        list.extend(distinct.iter().map(|layer| of_kind(kind, Pass::Wgrad, layer)));
    }
    list.extend(bias_grads::<bf16>(&layers, "bf16"));
    list.extend(bias_grads::<f32>(&layers, "f32"));
    let problem = Conv2dProblem::linear("linear", batch as usize, CLASSES, FEATURES as usize);
    let layer = |problem| Convolution { name: "predictions".into(), count: 1, problem, bias: true, residual: false };
    let layer = layer(problem.expect("the classifier is a problem"));
    for pass in [Pass::Fprop, Pass::Dgrad, Pass::Wgrad] {
        list.push(linear_case(pass, &layer));
    }
    list.extend(products());
    list
}

fn of_kind(kind: Kind, pass: Pass, layer: &Convolution) -> Case {
    if kind.dtype == "bf16" { case::<bf16>(kind, pass, layer) } else { case::<f32>(kind, pass, layer) }
}

fn describe(p: &Conv2dProblem) -> String {
    let stride = if p.stride_h == 1 { String::new() } else { format!(" stride {}", p.stride_h) };
    format!("{}x{}x{}x{} * {}x{}x{}{stride}", p.n, p.h, p.w, p.c, p.k, p.r, p.s)
}

/// Every operand and the result once; gradients of filters are f32 and added to, the epilogue reads bias and shortcut.
fn compulsory(pass: Pass, layer: &Convolution, each: usize) -> u64 {
    let p = &layer.problem;
    match pass {
        Pass::Fprop => {
            let bias = if layer.bias { bytes(p.k as usize, 4) } else { 0 };
            p.bytes(each) + bias + if layer.residual { bytes(p.y_elems(), each) } else { 0 }
        }
        Pass::Dgrad => p.bytes(each),
        Pass::Wgrad => bytes(p.x_elems() + p.y_elems(), each) + bytes(p.w_elems(), 8),
    }
}

fn case<T: Float>(kind: Kind, pass: Pass, layer: &Convolution) -> Case {
    let (p, extras) = (layer.problem, (layer.bias, layer.residual));
    let op = match pass {
        Pass::Fprop => "conv2d_fprop",
        Pass::Dgrad => "conv2d_dgrad",
        Pass::Wgrad => "conv2d_wgrad",
    };
    Case {
        op,
        dtype: kind.dtype,
        name: layer.name.clone(),
        count: layer.count,
        problem: describe(&p),
        flops: p.flops(),
        bytes: compulsory(pass, layer, size_of::<T>()),
        units: kind.units,
        prepare: Box::new(move |rig, copies| match pass {
            Pass::Fprop => fprop::<T>(rig, copies, kind, p, extras),
            Pass::Dgrad => dgrad::<T>(rig, copies, kind, p),
            Pass::Wgrad => wgrad::<T>(rig, copies, kind, p),
        }),
    }
}

/// Sums of `terms` products of numbers below one, in f32 in two orders, with factors that are rounded: seven deviations
/// of a sum of such errors, for there are millions of sums.
fn atol(kind: Kind, terms: usize) -> f64 {
    2.0 * f64::from(f32::EPSILON) * terms as f64 + 2.0 * kind.rounds * (terms as f64).sqrt()
}

fn fprop<T: Float>(
    rig: &Rig,
    copies: usize,
    kind: Kind,
    p: Conv2dProblem,
    (bias, residual): (bool, bool),
) -> Fallible<Box<dyn Run>> {
    let plan = (kind.plan)(Pass::Fprop, &p)?;
    let (x, w) = (T::rounded(&random(p.x_elems(), 1)), T::rounded(&random(p.w_elems(), 2)));
    let b = bias.then(|| random(p.k as usize, 4));
    let r = residual.then(|| T::rounded(&random(p.y_elems(), 5)));
    let set = || {
        let b = b.as_ref().map(|b| rig.put(b)).transpose()?;
        let r = r.as_ref().map(|r| rig.floats::<T>(r)).transpose()?;
        let workspace = rig.zeros::<f32>(plan.workspace_elems())?;
        Ok((rig.floats::<T>(&x)?, rig.floats::<T>(&w)?, b, r, rig.zeros::<T>(p.y_elems())?, workspace))
    };
    let (hx, hw, hb, hr) = (x.clone(), w.clone(), b.clone(), r.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (x, w, b, r, y, workspace)| {
            Ok(cuda::fprop(&rig.kernels, &plan, (&*x, &*w), b.as_ref(), r.as_ref(), y, workspace, &rig.stream)?)
        },
        move |rig, (_, _, _, _, y, _)| {
            let mut want = vec![0.0; p.y_elems()];
            cpu::conv2d::fprop(p, &hx, &hw, hb.as_deref(), hr.as_deref(), &mut want)?;
            let (got, shape) = (rig.read(y)?, [p.n, p.p, p.q, p.k].map(|e| e as usize));
            assert_close("fprop", &p, &shape, &got, &widen(&want), atol(kind, p.gemm_k()), T::EPSILON);
            Ok(())
        },
    )
}

fn dgrad<T: Float>(rig: &Rig, copies: usize, kind: Kind, p: Conv2dProblem) -> Fallible<Box<dyn Run>> {
    let plan = (kind.plan)(Pass::Dgrad, &p)?;
    let (w, dy) = (T::rounded(&random(p.w_elems(), 2)), T::rounded(&random(p.y_elems(), 3)));
    let set = || {
        let workspace = rig.zeros::<f32>(plan.workspace_elems())?;
        Ok((rig.floats::<T>(&w)?, rig.floats::<T>(&dy)?, rig.zeros::<T>(p.x_elems())?, workspace))
    };
    let (hw, hdy) = (w.clone(), dy.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (w, dy, dx, workspace)| {
            Ok(cuda::dgrad(&rig.kernels, &plan, (&*w, &*dy), dx, workspace, &rig.stream)?)
        },
        move |rig, (_, _, dx, _)| {
            let mut want = vec![0.0; p.x_elems()];
            cpu::conv2d::dgrad(p, &hw, &hdy, &mut want)?;
            let (got, shape) = (rig.read(dx)?, [p.n, p.h, p.w, p.c].map(|e| e as usize));
            let terms = p.r as usize * p.s as usize * p.k as usize;
            assert_close("dgrad", &p, &shape, &got, &widen(&want), atol(kind, terms), T::EPSILON);
            Ok(())
        },
    )
}

fn wgrad<T: Float>(rig: &Rig, copies: usize, kind: Kind, p: Conv2dProblem) -> Fallible<Box<dyn Run>> {
    let plan = (kind.plan)(Pass::Wgrad, &p)?;
    let (x, dy) = (T::rounded(&random(p.x_elems(), 1)), T::rounded(&random(p.y_elems(), 3)));
    let dw = random(p.w_elems(), 6);
    let set = || {
        let workspace = rig.zeros::<f32>(plan.workspace_elems())?;
        Ok((rig.floats::<T>(&x)?, rig.floats::<T>(&dy)?, rig.put(&dw)?, workspace))
    };
    let (hx, hdy, hdw) = (x.clone(), dy.clone(), dw.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (x, dy, dw, workspace)| {
            Ok(cuda::wgrad(&rig.kernels, &plan, (&*x, &*dy), dw, workspace, &rig.stream)?)
        },
        move |rig, (_, _, dw, _)| {
            let mut want = hdw.clone();
            cpu::conv2d::wgrad(p, &hx, &hdy, &mut want)?;
            let (got, shape) = (rig.get(dw)?, [p.k, p.r, p.s, p.c].map(|e| e as usize));
            assert_close("wgrad", &p, &shape, &got, &widen(&want), atol(kind, p.gemm_m()), 0.0);
            Ok(())
        },
    )
}

/// Gradients of biases: one per distinct `[rows, k]`.
fn bias_grads<T: Float>(layers: &[Convolution], dtype: &'static str) -> Vec<Case> {
    let with_bias: Vec<Convolution> = layers.iter().filter(|layer| layer.bias).cloned().collect();
    let distinct = resnet50v2::merged(
        &with_bias,
        |a, b| (a.problem.gemm_m(), a.problem.k) == (b.problem.gemm_m(), b.problem.k),
        |a, b| (a.name, a.count) = (format!("{}, {}", a.name, b.name), a.count + b.count),
    );
    let case = |layer: Convolution| {
        let p = layer.problem;
        let (rows, k) = (p.gemm_m(), p.k as usize);
        Case {
            op: "conv2d_bias_grad",
            dtype,
            name: layer.name,
            count: layer.count,
            problem: format!("{rows}x{k}"),
            flops: (rows * k) as u64,
            bytes: bytes(rows * k, size_of::<T>()) + bytes(k, 8),
            units: Units::Memory,
            prepare: Box::new(move |rig, copies| bias_grad::<T>(rig, copies, p)),
        }
    };
    distinct.into_iter().map(case).collect()
}

fn bias_grad<T: Float>(rig: &Rig, copies: usize, p: Conv2dProblem) -> Fallible<Box<dyn Run>> {
    let (dy, db) = (T::rounded(&random(p.y_elems(), 1)), random(p.k as usize, 2));
    let elems = cuda::bias_grad_workspace_elems(p.gemm_m(), p.k as usize);
    let set = || Ok((rig.floats::<T>(&dy)?, rig.put(&db)?, rig.zeros::<f32>(elems)?));
    let (hdy, hdb) = (dy.clone(), db.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (dy, db, workspace)| Ok(cuda::bias_grad(&rig.kernels, &p, &*dy, db, workspace, &rig.stream)?),
        move |rig, (_, db, _)| {
            let mut want = hdb.clone();
            cpu::conv2d::bias_grad(p, &hdy, &mut want)?;
            assert_close("bias_grad", &p, &[want.len()], &rig.get(db)?, &widen(&want), atol(F32, p.gemm_m()), 0.0);
            Ok(())
        },
    )
}

/// The classifier computes in f32 whatever the activations are.
fn linear_case(pass: Pass, layer: &Convolution) -> Case {
    let p = layer.problem;
    let [m, n_out, k_in] = [p.n, p.k, p.c].map(|extent| extent as usize);
    let op = match pass {
        Pass::Fprop => "linear_forward",
        Pass::Dgrad => "linear_backward_x",
        Pass::Wgrad => "linear_backward_w",
    };
    Case {
        op,
        dtype: "f32",
        name: layer.name.clone(),
        count: 1,
        problem: format!("{m}x{k_in} * {k_in}x{n_out}"),
        flops: p.flops(),
        bytes: compulsory(pass, layer, 4),
        units: Units::F32,
        prepare: Box::new(move |rig, copies| linear_run(rig, copies, pass, [m, n_out, k_in])),
    }
}

fn linear_run(rig: &Rig, copies: usize, pass: Pass, [m, n_out, k_in]: [usize; 3]) -> Fallible<Box<dyn Run>> {
    let plan = linear::plan::<f32>(pass, m, n_out, k_in)?;
    let (x, w, dy, b) = (random(m * k_in, 1), random(n_out * k_in, 2), random(m * n_out, 3), random(n_out, 4));
    // Of the three matrices one is the result.
    let (a, c, out) = match pass {
        Pass::Fprop => (&x, &w, vec![0.0; m * n_out]),
        Pass::Dgrad => (&w, &dy, vec![0.0; m * k_in]),
        Pass::Wgrad => (&x, &dy, random(n_out * k_in, 5)),
    };
    let set =
        || Ok((rig.put(a)?, rig.put(c)?, rig.put(&b)?, rig.put(&out)?, rig.zeros::<f32>(plan.workspace_elems())?));
    let (ha, hc, hb, before) = (a.clone(), c.clone(), b.clone(), out.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (a, c, b, out, workspace)| {
            let (kernels, stream, inputs) = (&rig.kernels, &rig.stream, (&*a, &*c));
            match pass {
                Pass::Fprop => linear::forward(kernels, &plan, inputs, Some(&*b), out, workspace, stream),
                Pass::Dgrad => linear::backward_x(kernels, &plan, inputs, out, workspace, stream),
                Pass::Wgrad => linear::backward_w(kernels, &plan, inputs, out, workspace, stream),
            }?;
            Ok(())
        },
        move |rig, (_, _, _, out, _)| {
            let mut want = before.clone();
            let terms = match pass {
                Pass::Fprop => (cpu::linear::forward(m, n_out, k_in, &ha, &hc, Some(&hb), &mut want)?, k_in).1,
                Pass::Dgrad => (cpu::linear::backward_x(m, n_out, k_in, &ha, &hc, &mut want)?, n_out).1,
                Pass::Wgrad => (cpu::linear::backward_w(m, n_out, k_in, &ha, &hc, &mut want)?, m).1,
            };
            let got = rig.get(out)?;
            assert_close("linear", &[m, n_out, k_in], &[want.len()], &got, &widen(&want), atol(F32, terms), 0.0);
            Ok(())
        },
    )
}

/// Square products of the study ladder: no layer of the network.
fn products() -> Vec<Case> {
    let case = |op, dtype, side: usize, each, units, prepare: super::Prepare| Case {
        op,
        dtype,
        name: format!("square {side}"),
        count: 0,
        problem: format!("{side}x{side} * {side}x{side}"),
        flops: 2 * (side as u64).pow(3),
        bytes: bytes(3 * side * side, each),
        units,
        prepare,
    };
    vec![
        case("gemm_naive", "f32", 256, 4, Units::F32, Box::new(|rig, copies| product::<f32>(rig, copies, 256, naive))),
        case(
            "gemm_naive",
            "bf16",
            256,
            2,
            Units::F32,
            Box::new(|rig, copies| product::<bf16>(rig, copies, 256, naive)),
        ),
        case(
            "gemm_tensor_core",
            "bf16",
            1024,
            2,
            Units::TensorBf16,
            Box::new(|rig, copies| product::<bf16>(rig, copies, 1024, tensor_core)),
        ),
    ]
}

/// Queues a square product of two matrices.
type Product<T> = fn(&Rig, usize, &CudaSlice<T>, &CudaSlice<T>, &mut CudaSlice<T>) -> warpsmith::Result<()>;

fn naive<T: Float>(
    rig: &Rig,
    side: usize,
    a: &CudaSlice<T>,
    b: &CudaSlice<T>,
    c: &mut CudaSlice<T>,
) -> warpsmith::Result<()> {
    gemm::naive(&rig.kernels, [side; 3], (a, b), false, c, &rig.stream)
}

fn tensor_core(
    rig: &Rig,
    side: usize,
    a: &CudaSlice<bf16>,
    b: &CudaSlice<bf16>,
    c: &mut CudaSlice<bf16>,
) -> warpsmith::Result<()> {
    gemm::tensor_core(&rig.kernels, [side; 3], (a, b), false, c, &rig.stream)
}

fn product<T: Float>(rig: &Rig, copies: usize, side: usize, launch: Product<T>) -> Fallible<Box<dyn Run>> {
    let (a, b) = (T::rounded(&random(side * side, 1)), T::rounded(&random(side * side, 2)));
    let set = || Ok((rig.floats::<T>(&a)?, rig.floats::<T>(&b)?, rig.zeros::<T>(side * side)?));
    let (ha, hb) = (a.clone(), b.clone());
    Rotation::boxed(
        copies,
        set,
        move |rig, (a, b, c)| Ok(launch(rig, side, a, b, c)?),
        move |rig, (_, _, c)| {
            use cpu::gemm::{Strided, gemm};
            let mut want = vec![0.0; side * side];
            let (a, b) = (Strided::row_major(&ha, side), Strided::row_major(&hb, side));
            gemm(side, side, side, a, b, &mut want, side, false)?;
            let got = rig.read(c)?;
            assert_close("gemm", &side, &[side, side], &got, &widen(&want), atol(F32, side), T::EPSILON);
            Ok(())
        },
    )
}
