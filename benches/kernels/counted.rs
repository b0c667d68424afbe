//! Without a GPU: what the emulator counts of each case.

use crate::cases::{Case, name_width};
use crate::rig::{Fallible, Rig};
use crate::roofline::{A100, H100};
use serde_json::{Value, json};
use warpsmith_emulator::Launch;

/// Makes the emulator this process's driver, with the profile and the checks that counting needs.
pub fn install() -> Fallible<()> {
    warpsmith_emulator::install()?;
    warpsmith_emulator::configure("profile", A100.key)?;
    // Tests look for races; without that the counters are the same, and sooner there.
    warpsmith_emulator::configure("checks", "memory")?;
    Ok(())
}

/// The launches of one call, once its results are those of the CPU.
pub fn count(rig: &Rig, case: &Case) -> Fallible<Vec<Launch>> {
    let mut run = case.prepare(rig, 1)?;
    warpsmith_emulator::reset()?;
    run.launch(rig)?;
    let report = warpsmith_emulator::report()?;
    run.check(rig)?;
    match report.findings.first() {
        Some(finding) => Err(format!("{}: {}", case.id(), finding.text).into()),
        None => Ok(report.launches),
    }
}

/// Counters of the launches of a case.
pub struct Counters<'a>(pub &'a [Launch]);

impl Counters<'_> {
    pub fn sum(&self, counter: &str) -> u64 {
        self.0.iter().map(|launch| launch.get(counter)).sum()
    }

    fn ratio(&self, above: &[&str], below: &[&str]) -> f64 {
        let sum = |names: &[&str]| names.iter().map(|name| self.sum(name)).sum::<u64>() as f64;
        if sum(below) == 0.0 { 0.0 } else { sum(above) / sum(below) }
    }

    /// What loads and stores of all lanes ask for.
    pub fn requested_bytes(&self) -> u64 {
        self.sum("global_load_bytes") + self.sum("global_store_bytes")
    }

    /// Every sector that a launch touches once.
    pub fn unique_bytes(&self) -> u64 {
        self.sum("unique_read_bytes") + self.sum("unique_write_bytes")
    }

    /// Sectors of a warp's access to global memory: 16 when every lane takes 16 bytes next to its neighbour's.
    pub fn sectors_per_request(&self) -> f64 {
        let sectors = ["global_load_sectors", "global_store_sectors"];
        self.ratio(&sectors, &["global_load_requests", "global_store_requests"])
    }

    /// Bytes asked for, of those that the sectors of the requests hold; `None` where nothing is asked for.
    pub fn used(&self, way: Way) -> Option<f64> {
        let [sectors, distinct, _] = way.counters().map(|counter| self.sum(counter) as f64);
        (sectors > 0.0).then(|| distinct / (32.0 * sectors))
    }

    /// Bytes asked for 16 to a lane, of all; `None` where nothing is asked for.
    pub fn wide(&self, way: Way) -> Option<f64> {
        let [sectors, distinct, wide] = way.counters().map(|counter| self.sum(counter) as f64);
        (sectors > 0.0).then(|| wide / distinct)
    }

    /// Wavefronts of shared memory, of the number without bank conflicts; 0 where there are none.
    pub fn wavefronts(&self) -> f64 {
        self.ratio(&["shared_wavefronts"], &["shared_ideal_wavefronts"])
    }

    /// Warp-instructions per `mma` of the launches that have any.
    pub fn instructions_per_mma(&self) -> Option<f64> {
        let with_mma: Vec<&Launch> = self.0.iter().filter(|launch| launch.classes.contains_key("tensor")).collect();
        let mmas: u64 = with_mma.iter().map(|launch| launch.classes["tensor"]).sum();
        let all: u64 = with_mma.iter().map(|launch| launch.get("warp_instructions")).sum();
        (mmas > 0).then(|| all as f64 / mmas as f64)
    }
}

/// Accesses of warps to global memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Load,
    Store,
}

impl Way {
    /// Sectors of requests; bytes asked for, each once in a request however many lanes share it; those of them that are
    /// asked for 16 to a lane.
    fn counters(self) -> [&'static str; 3] {
        match self {
            Way::Load => ["global_load_sectors", "global_load_distinct_bytes", "global_load_wide_bytes"],
            Way::Store => ["global_store_sectors", "global_store_distinct_bytes", "global_store_wide_bytes"],
        }
    }
}

/// The least time of the launches one behind the other on a device, and the resource that takes most of it.
pub fn least_us(launches: &[Launch], device: &crate::roofline::Profile) -> (&'static str, f64) {
    let bounds: Vec<(&str, f64)> = launches.iter().map(|launch| device.bound(launch, &A100)).collect();
    let most = bounds.iter().fold(("none", 0.0), |most, bound| if bound.1 > most.1 { *bound } else { most });
    (most.0, bounds.iter().map(|bound| bound.1).sum())
}

/// Counts the cases and prints a line of each as it comes.
pub fn print(cases: &[Case]) -> Fallible<Value> {
    install()?;
    let rig = Rig::new()?;
    let width = name_width(cases);
    println!(
        "\nleast us: what the slowest resource takes at least, predicted from counters, not measured on a GPU\n\n\
         {:<width$} {:>8} {:>10} {:>10} {:>7} {:>8} {:>8} {:>6} {:>18} {:>18}",
        "case",
        "launches",
        "asked MB",
        "unique MB",
        "of min",
        "sec/req",
        "shared",
        "i/mma",
        "least us on A100",
        "least us on H100",
    );
    let mut results = Vec::new();
    for case in cases {
        let launches = count(&rig, case)?;
        let counters = Counters(&launches);
        let mb = |bytes: u64| format!("{:.3}", bytes as f64 * 1e-6);
        let some = |value: f64| if value > 0.0 { format!("{value:.2}") } else { "-".into() };
        let [a100, h100] = [A100, H100].map(|device| {
            let (resource, us) = least_us(&launches, &device);
            format!("{us:.2} {resource}")
        });
        println!(
            "{:<width$} {:>8} {:>10} {:>10} {:>7.3} {:>8.2} {:>8} {:>6} {a100:>18} {h100:>18}",
            case.id(),
            launches.len(),
            mb(counters.requested_bytes()),
            mb(counters.unique_bytes()),
            counters.unique_bytes() as f64 / case.bytes as f64,
            counters.sectors_per_request(),
            some(counters.wavefronts()),
            some(counters.instructions_per_mma().unwrap_or(0.0)),
        );
        results.push(json!({
            "op": case.op,
            "dtype": case.dtype,
            "name": case.name,
            "problem": case.problem,
            "count_in_resnet50v2": case.count,
            "flops": case.flops,
            "compulsory_bytes": case.bytes,
            "launches": launches,
        }));
    }
    Ok(json!({
        "device": null,
        "note": "counters of the emulator; bounds_us are predicted from counters, not measured on a GPU",
        "profile": A100.key,
        "cases": results,
    }))
}
