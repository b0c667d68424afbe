//! Our convolutions beside cuDNN's and cuBLAS's, for every distinct layer of ResNet50V2.
//!
//! All read the same buffers. First results are compared; only a pass that agrees is timed.
//! Then all take turns, every call between two events of the device and behind a write of more than the L2 holds. What
//! is printed is the median over the rounds, and how much longer theirs takes than ours (above 1: ours is faster).
//!
//! Gradients of filters: ours adds to f32, as the optimiser wants it; cuDNN overwrites numbers of the operands' type;
//! cuBLAS overwrites f32.

use crate::Math;
use crate::agree::{compare, tolerance};
use crate::cublas::{Cublas, Gemm};
use crate::cudnn::{Convolution, Cudnn};
use crate::layers::{Layer, classifier, convolutions};
use crate::library::{Library, is_emulator, usable};
use clap::{Parser, ValueEnum};
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};
use half::bf16;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use warpsmith::cuda::conv2d::{self, Pass, Plan};
use warpsmith::cuda::probe::{self, Gpu};
use warpsmith::cuda::{Kernels, Value};
use warpsmith::rng::Philox;
use warpsmith::{Error, Result};

/// Bytes that are written before every timed call: more than any GPU's L2 cache holds.
const FLUSH_BYTES: usize = 256 << 20;
/// Classes of the classifier's row: CIFAR-10's.
const CLASSES: u32 = 10;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MathFlag {
    F32,
    Tf32,
    Bf16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PassFlag {
    Fprop,
    Dgrad,
    Wgrad,
}

/// Our convolutions beside cuDNN's and cuBLAS's.
#[derive(Debug, Parser)]
pub struct Flags {
    /// Pixels of an image's side.
    #[arg(long, default_value_t = 72, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Images.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Operands and how they are multiplied.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["f32", "tf32", "bf16"])]
    math: Vec<MathFlag>,
    /// Results.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["fprop", "dgrad", "wgrad"])]
    pass: Vec<PassFlag>,
    /// Only layers whose name contains this.
    #[arg(long, default_value = "")]
    layer: String,
    /// Timed calls of each.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Workspace that cuDNN's algorithms may use, and cuBLAS.
    #[arg(long, default_value_t = 256)]
    workspace_mib: usize,
    /// Which GPU; otherwise the first that will do.
    #[arg(long)]
    device: Option<usize>,
    /// Where the numbers are written.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Passed by `cargo bench`; without it nothing is timed, and results are compared only.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Compares and, where that makes sense, times. Returns how many comparisons failed; where nothing can be compared it says
/// why, and none has failed.
///
/// # Errors
/// When the device fails, or the numbers cannot be written.
pub fn run(flags: &Flags) -> Result<usize> {
    let gpu = flags.device.map_or_else(probe::probe, probe::probe_device);
    match usable(gpu, Library::is_present) {
        Ok(gpu) => run_on(flags, &gpu),
        Err(reason) => {
            println!("side_by_side: {reason}");
            Ok(0)
        }
    }
}

fn driver(doing: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |error| Error::device("cuda", format_args!("{doing}: {error}"), "see the driver's error")
}

/// An element type of buffers.
trait Element: Value + DeviceRepr + ValidAsZeroBits {
    fn from_float(x: f32) -> Self;
    fn to_float(self) -> f32;
}

impl Element for f32 {
    fn from_float(x: f32) -> f32 {
        x
    }
    fn to_float(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    fn from_float(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn to_float(self) -> f32 {
        self.to_f32()
    }
}

/// Who computes.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Ours,
    Peer(Library),
}

/// What all rows use.
struct Device {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    cudnn: Option<Cudnn>,
    cublas: Option<Cublas>,
}

/// One pass of one layer.
struct Row<'a, T> {
    device: &'a Device,
    math: Math,
    plan: Plan,
    /// cuDNN's, where it has one.
    convolution: Option<Convolution<'a>>,
    operands: [CudaSlice<T>; 2],
    out: CudaSlice<T>,
    /// Where gradients of filters are f32.
    out_f32: CudaSlice<f32>,
    our_workspace: CudaSlice<f32>,
}

/// Numbers within -1..1.
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut philox = Philox::new(seed, 0);
    (0..n).map(|_| (philox.next_word() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

impl<'a, T: Element> Row<'a, T> {
    fn new(device: &'a Device, math: Math, pass: Pass, layer: &Layer) -> Result<Row<'a, T>> {
        let p = &layer.problem;
        let plan = if math == Math::Tf32 { Plan::tf32(pass, p) } else { Plan::new::<T>(pass, p) }?;
        let (x, w, y) = (p.x_elems(), p.w_elems(), p.y_elems());
        let [a, b, out] = match pass {
            Pass::Fprop => [x, w, y],
            Pass::Dgrad => [w, y, x],
            Pass::Wgrad => [x, y, w],
        };
        let (stream, failed) = (&device.stream, driver("allocating buffers"));
        let put = |n, seed| {
            let values: Vec<T> = random(n, seed).into_iter().map(T::from_float).collect();
            stream.clone_htod(&values).map_err(driver("allocating buffers"))
        };
        Ok(Row {
            device,
            math,
            plan,
            convolution: None,
            operands: [put(a, 1)?, put(b, 2)?],
            out: stream.alloc_zeros(out).map_err(&failed)?,
            out_f32: stream.alloc_zeros(if pass == Pass::Wgrad { out } else { 1 }).map_err(&failed)?,
            our_workspace: stream.alloc_zeros(plan.workspace_elems().max(1)).map_err(&failed)?,
        })
    }

    /// Those who can compute it. cuDNN looks for its algorithm.
    fn peers(&mut self, workspace: &mut CudaSlice<u8>) -> Vec<(Library, Option<Error>)> {
        let (pass, device) = (self.plan.pass(), self.device);
        let mut peers = Vec::new();
        if let Some(cudnn) = &device.cudnn {
            let [a, b] = &self.operands;
            let found = cudnn.convolution(pass, self.math, self.plan.problem(), (a, b), &mut self.out, workspace);
            let (convolution, error) = found.map_or_else(|error| (None, Some(error)), |found| (Some(found), None));
            self.convolution = convolution;
            peers.push((Library::Cudnn, error));
        }
        if device.cublas.is_some() && Gemm::new(pass, self.plan.problem()).is_ok() {
            peers.push((Library::Cublas, None));
        }
        peers
    }

    /// Queues the pass.
    fn call(&mut self, who: Who, workspace: &mut CudaSlice<u8>) -> Result<()> {
        let Row { device, math, plan, convolution, operands: [a, b], out, out_f32, our_workspace } = self;
        let Device { stream, kernels, cublas, .. } = device;
        let (pass, problem) = (plan.pass(), *plan.problem());
        match (who, pass) {
            (Who::Ours, Pass::Fprop) => {
                let (bias, residual) = (None::<&CudaSlice<f32>>, None::<&CudaSlice<T>>);
                conv2d::fprop(kernels, plan, (&*a, &*b), bias, residual, out, our_workspace, stream)
            }
            (Who::Ours, Pass::Dgrad) => conv2d::dgrad(kernels, plan, (&*a, &*b), out, our_workspace, stream),
            (Who::Ours, Pass::Wgrad) => conv2d::wgrad(kernels, plan, (&*a, &*b), out_f32, our_workspace, stream),
            (Who::Peer(Library::Cudnn), _) => match convolution {
                Some(convolution) => convolution.run((&*a, &*b), out, workspace),
                None => Err(Library::Cudnn.missing()),
            },
            (Who::Peer(Library::Cublas), _) => match (cublas, pass) {
                (Some(cublas), Pass::Wgrad) => cublas.run(pass, *math, &problem, (&*a, &*b), out_f32),
                (Some(cublas), _) => cublas.run(pass, *math, &problem, (&*a, &*b), out),
                (None, _) => Err(Library::Cublas.missing()),
            },
        }
    }

    /// The pass from the start, and what it gives.
    fn result(&mut self, who: Who, workspace: &mut CudaSlice<u8>) -> Result<Vec<f32>> {
        let (stream, failed) = (self.device.stream.clone(), driver("reading a result"));
        stream.memset_zeros(&mut self.out).map_err(&failed)?;
        stream.memset_zeros(&mut self.out_f32).map_err(&failed)?;
        self.call(who, workspace)?;
        if self.plan.pass() == Pass::Wgrad && who != Who::Peer(Library::Cudnn) {
            return stream.clone_dtoh(&self.out_f32).map_err(&failed);
        }
        Ok(stream.clone_dtoh(&self.out).map_err(&failed)?.into_iter().map(T::to_float).collect())
    }

    /// Microseconds of one call.
    fn time(&mut self, who: Who, workspace: &mut CudaSlice<u8>, flush: &mut CudaSlice<u8>) -> Result<f64> {
        let (stream, failed) = (self.device.stream.clone(), driver("timing a call"));
        stream.memset_zeros(flush).map_err(&failed)?;
        let start = stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(&failed)?;
        self.call(who, workspace)?;
        let end = stream.record_event(Some(CU_EVENT_DEFAULT)).map_err(&failed)?;
        Ok(f64::from(start.elapsed_ms(&end).map_err(&failed)?) * 1e3)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a row says: as a line, as JSON, the medians of ours and cuDNN's where both were timed, and failed comparisons.
struct Outcome {
    line: String,
    json: Json,
    medians: Option<[f64; 2]>,
    wrong: usize,
}

fn row<T: Element>(
    device: &Device,
    math: Math,
    pass: Pass,
    layer: &Layer,
    rounds: usize,
    workspace: &mut CudaSlice<u8>,
    flush: &mut CudaSlice<u8>,
) -> Result<Outcome> {
    let p = &layer.problem;
    let mut row = Row::<T>::new(device, math, pass, layer)?;
    let ours = row.result(Who::Ours, workspace)?;
    let depth = match pass {
        Pass::Fprop => p.gemm_k(),
        Pass::Dgrad => p.r as usize * p.s as usize * p.k as usize,
        Pass::Wgrad => p.gemm_m(),
    };
    let bound = tolerance(math, depth);
    let (mut timed, mut notes, mut wrong) = (vec![Who::Ours], Vec::new(), 0);
    for (library, error) in row.peers(workspace) {
        let agreed = match error {
            Some(error) => Err(error.to_string()),
            None => {
                let theirs = row.result(Who::Peer(library), workspace)?;
                compare(&ours, &theirs, bound).inspect_err(|_| wrong += 1)
            }
        };
        timed.extend(agreed.is_ok().then_some(Who::Peer(library)));
        notes.push((library, agreed));
    }
    let mut micros = vec![Vec::new(); timed.len()];
    for round in 0..if timed.len() > 1 { rounds } else { 0 } {
        for turn in 0..timed.len() {
            // Another one begins every round.
            let i = (round + turn) % timed.len();
            micros[i].push(row.time(timed[i], workspace, flush)?);
        }
    }
    let medians: Vec<Option<f64>> = micros.into_iter().map(|us| (!us.is_empty()).then(|| median(us))).collect();
    let gflop = p.flops() as f64 / 1e9;
    let of = |who| timed.iter().position(|&other| other == who).and_then(|i| medians[i]);
    let our_us = of(Who::Ours);
    let show =
        |us: Option<f64>| us.map_or("not timed".into(), |us| format!("{us:.1} us {:.0} GFLOP/s", gflop / us * 1e6));
    let name = format!("{} x{}", layer.name, layer.count);
    let mut line = format!("{name:<18} {pass:<6?} {:<5} {gflop:>8.3} GFLOP  ours {}", math.name(), show(our_us));
    let mut json = json!({
        "layer": layer.name, "count": layer.count, "pass": format!("{pass:?}").to_lowercase(), "math": math.name(),
        "gflop": gflop, "tolerance": bound, "tile": plan_text(&row.plan), "us": our_us,
        "gflops": our_us.map(|us| gflop / us * 1e6),
    });
    for (library, agreed) in &notes {
        let us = of(Who::Peer(*library));
        let ratio = us.zip(our_us).map(|(theirs, ours)| theirs / ours);
        let mut peer = json!({ "us": us, "gflops": us.map(|us| gflop / us * 1e6), "ratio": ratio });
        match agreed {
            Ok(share) => {
                line += &format!("  {library} {} ", show(us));
                line += &ratio.map_or(String::new(), |ratio| format!("ratio {ratio:.2} "));
                line += &format!("({:.0}% of the tolerance)", share * 100.0);
                peer["share_of_tolerance"] = json!(share);
            }
            Err(text) => {
                line += &format!("  {library} {text}");
                peer["error"] = json!(text);
            }
        }
        if let (Library::Cudnn, Some(convolution)) = (library, &row.convolution) {
            peer["algorithm"] = json!(convolution.algorithm());
            peer["math_type"] = json!(convolution.math_type());
            peer["workspace_bytes"] = json!(convolution.workspace_bytes());
        }
        json[library.to_string()] = peer;
    }
    let both = our_us.zip(of(Who::Peer(Library::Cudnn))).map(|(ours, theirs)| [ours, theirs]);
    Ok(Outcome { line, json, medians: both, wrong })
}

fn plan_text(plan: &Plan) -> String {
    format!("{}x{} in {} parts", plan.tile().0, plan.tile().1, plan.parts())
}

/// A peer, or a line that says why it is left out.
fn open<P>(library: Library, open: impl FnOnce() -> Result<P>) -> Option<P> {
    if !library.is_present() {
        println!("left out: {}", library.missing());
        return None;
    }
    open().inspect_err(|error| println!("left out: {error}")).ok()
}

/// The commit that is measured, where git knows it.
fn commit() -> Option<String> {
    let git = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]).output();
    let text = git.ok().filter(|output| output.status.success())?.stdout;
    Some(String::from_utf8_lossy(&text).trim().to_string())
}

fn run_on(flags: &Flags, gpu: &Gpu) -> Result<usize> {
    let context = CudaContext::new(gpu.ordinal).map_err(driver("making a context"))?;
    // cudarc would queue events of its own around every call, and they would be timed.
    // SAFETY: everything below is queued on one stream, which orders it.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(driver("making a stream"))?;
    let workspace_bytes = flags.workspace_mib << 20;
    let cudnn = open(Library::Cudnn, || Cudnn::new(&stream));
    let cublas = open(Library::Cublas, || Cublas::new(&stream, workspace_bytes));
    if cudnn.is_none() && cublas.is_none() {
        println!("side_by_side: nothing to compare with, so nothing is timed");
        return Ok(0);
    }
    let rounds = if flags.bench && !is_emulator() { flags.rounds } else { 0 };
    if rounds == 0 {
        println!("nothing is timed, results are compared only: times need `cargo bench`, a real GPU and rounds");
    }
    let failed = driver("allocating buffers");
    let mut workspace = stream.alloc_zeros::<u8>(workspace_bytes.max(1)).map_err(&failed)?;
    let mut flush = stream.alloc_zeros::<u8>(if rounds > 0 { FLUSH_BYTES } else { 1 }).map_err(&failed)?;
    let evidence = json!({
        "gpu": gpu.info.to_string(),
        "driver_cuda_version": probe::read_inputs().ok().map(|inputs| inputs.driver_version),
        "cudnn_version": cudnn.as_ref().map(Cudnn::version),
        "cublas_version": cublas.as_ref().map(Cublas::version),
        "commit": commit(),
        "size": flags.size, "batch": flags.batch, "rounds": rounds, "workspace_bytes": workspace_bytes,
    });
    println!("{evidence}");
    let device = Device { stream, kernels: Kernels::new(&context), cudnn, cublas };
    let mut layers = convolutions(flags.size, flags.batch)?;
    layers.push(classifier(flags.batch, CLASSES)?);
    layers.retain(|layer| layer.name.contains(&flags.layer));
    let (mut rows, mut wrong) = (Vec::new(), 0);
    for math in &flags.math {
        let (workspace, flush) = (&mut workspace, &mut flush);
        for pass in &flags.pass {
            let pass = match pass {
                PassFlag::Fprop => Pass::Fprop,
                PassFlag::Dgrad => Pass::Dgrad,
                PassFlag::Wgrad => Pass::Wgrad,
            };
            let (mut sums, mut summed) = ([0.0; 2], 0);
            for layer in &layers {
                let outcome = match math {
                    MathFlag::F32 => row::<f32>(&device, Math::F32, pass, layer, rounds, workspace, flush)?,
                    MathFlag::Tf32 => row::<f32>(&device, Math::Tf32, pass, layer, rounds, workspace, flush)?,
                    MathFlag::Bf16 => row::<bf16>(&device, Math::Bf16, pass, layer, rounds, workspace, flush)?,
                };
                println!("{}", outcome.line);
                if let Some(medians) = outcome.medians {
                    (0..2).for_each(|i| sums[i] += f64::from(layer.count) * medians[i] / 1e3);
                    summed += layer.count;
                }
                wrong += outcome.wrong;
                rows.push(outcome.json);
            }
            if summed > 0 {
                let [ours, theirs] = sums;
                println!("sum over {summed} layers timed on both: ours {ours:.3} ms, cuDNN {theirs:.3} ms");
            }
        }
    }
    if let Some(path) = &flags.json {
        write(path, &json!({ "evidence": evidence, "rows": rows }))?;
    }
    Ok(wrong)
}

fn write(path: &Path, json: &Json) -> Result<()> {
    std::fs::write(path, format!("{json:#}\n")).map_err(|error| Error::io(path, "write", error))?;
    println!("written to {}", path.display());
    Ok(())
}
