//! On a GPU: times by device events, beside the peaks of the device.
//!
//! A time is that of a call among many, queued one behind the other: where kernels are shorter than their launches take
//! on the host, it is the host's.

use crate::Options;
use crate::cases::{Case, name_width};
use crate::rig::{Fallible, Rig, Run};
use crate::roofline::Peaks;
use criterion::Criterion;
use cudarc::driver::sys::CUevent_flags;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::Duration;

/// Samples of a case.
const SAMPLES: usize = 20;
/// Sets of buffers at most, and what they may take together.
const COPIES: usize = 64;
const MEMORY_BYTES: usize = 4 << 30;

/// Sets of buffers, so that one is out of L2 when its turn comes again.
fn copies(case: &Case, peaks: &Peaks) -> usize {
    let bytes = (case.bytes as usize).max(1);
    (2 * peaks.l2_bytes / bytes + 2).min(COPIES).min(MEMORY_BYTES / bytes).max(1)
}

/// Time of `launches` calls one behind the other, between two events on the stream.
fn elapsed(rig: &Rig, run: &mut dyn Run, launches: u64) -> Fallible<Duration> {
    let event = || rig.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let begin = event()?;
    (0..launches).try_for_each(|_| run.launch(rig))?;
    Ok(Duration::from_secs_f32(begin.elapsed_ms(&event()?)? * 1e-3))
}

/// Checks and times the cases; a line of each, and the results.
pub fn measure(cases: &[Case], options: &Options) -> Fallible<Value> {
    let rig = Rig::new()?;
    let context = rig.kernels.context();
    let (name, peaks) = (context.name()?, Peaks::of(context));
    let known = |value: Option<f64>, unit: &str| match value {
        Some(value) => format!("{value:.0} {unit}"),
        None => "not known".into(),
    };
    println!(
        "{name}; peaks from its clocks: memory {}, f32 {}, tf32 {}, bf16 {}",
        known(peaks.dram_gbs, "GB/s"),
        known(peaks.f32_gflops, "GFLOP/s"),
        known(peaks.tf32_gflops, "GFLOP/s"),
        known(peaks.bf16_gflops, "GFLOP/s"),
    );
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_secs_f64(0.3))
        .measurement_time(Duration::from_secs_f64(options.seconds))
        .without_plots();
    criterion = match &options.baseline {
        Some(baseline) => criterion.retain_baseline(baseline.clone(), true),
        None => criterion.save_baseline(options.save_baseline.clone()),
    };
    let mut results = Vec::new();
    let width = name_width(cases);
    for case in cases {
        let copies = copies(case, &peaks);
        let mut run = case.prepare(&rig, copies)?;
        run.launch(&rig)?;
        run.check(&rig)?;
        // Seconds of a call, of every sample; what failed inside a measurement is told behind it.
        let (samples, failure) = (RefCell::new(Vec::new()), RefCell::new(None));
        let mut group = criterion.benchmark_group(case.op);
        group.bench_function(format!("{}/{}", case.dtype, case.name), |bencher| {
            bencher.iter_custom(|launches| match elapsed(&rig, run.as_mut(), launches) {
                Ok(time) => {
                    samples.borrow_mut().push(time.as_secs_f64() / launches as f64);
                    time
                }
                Err(error) => {
                    *failure.borrow_mut() = Some(error);
                    Duration::from_secs(1)
                }
            });
        });
        group.finish();
        if let Some(error) = failure.into_inner() {
            return Err(format!("{}: {error}", case.id()).into());
        }
        // The first are criterion's warm-up.
        let mut samples = samples.into_inner();
        samples.drain(..samples.len().saturating_sub(SAMPLES));
        samples.sort_by(f64::total_cmp);
        let seconds = samples.get(samples.len() / 2).copied().ok_or("criterion took no sample")?;
        let (gflops, gbs) = (case.flops as f64 / seconds * 1e-9, case.bytes as f64 / seconds * 1e-9);
        let floor = peaks.floor(case.units, case.flops, case.bytes);
        let share = floor.map_or("peak not known".into(), |floor| format!("{:.1} %", 100.0 * floor / seconds));
        println!(
            "{:<width$} {:>10.2} us {gflops:>9.0} GFLOP/s {gbs:>8.1} GB/s (compulsory)  roofline {share}",
            case.id(),
            seconds * 1e6,
        );
        results.push(json!({
            "op": case.op,
            "dtype": case.dtype,
            "name": case.name,
            "problem": case.problem,
            "count_in_resnet50v2": case.count,
            "flops": case.flops,
            "compulsory_bytes": case.bytes,
            "buffer_sets": copies,
            "median_us": seconds * 1e6,
            "least_us": samples[0] * 1e6,
            "gflop_per_s": gflops,
            "compulsory_gb_per_s": gbs,
            "share_of_roofline": floor.map(|floor| floor / seconds),
        }));
    }
    Ok(json!({
        "device": name,
        "peaks": {
            "memory_gb_per_s": peaks.dram_gbs,
            "f32_gflop_per_s": peaks.f32_gflops,
            "tf32_gflop_per_s": peaks.tf32_gflops,
            "bf16_gflop_per_s": peaks.bf16_gflops,
        },
        "cases": results,
    }))
}
