//! The device that the kernels are tested on.

pub use super::common::float::Float;
use bytemuck::NoUninit;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};
use warpsmith::cuda::{Kernels, entries};
use warpsmith::rng::Philox;

pub struct Gpu {
    pub kernels: Kernels,
    pub stream: Arc<CudaStream>,
}

fn real() -> bool {
    std::env::var_os("WARPSMITH_CUDA").is_some_and(|value| value == "device")
}

static GPU: OnceLock<Gpu> = OnceLock::new();

/// The one device of this process.
pub fn gpu() -> &'static Gpu {
    GPU.get_or_init(|| {
        if !real() {
            warpsmith_emulator::install().unwrap();
        }
        let context = CudaContext::new(0).unwrap();
        Gpu { kernels: Kernels::new(&context), stream: context.new_stream().unwrap() }
    })
}

impl Gpu {
    pub fn put<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).unwrap()
    }

    pub fn get<T: DeviceRepr + NoUninit>(&self, buffer: &impl DevicePtr<T>) -> Vec<T> {
        let values = self.stream.clone_dtoh(buffer).unwrap();
        READ.with_borrow_mut(|read| read.write(bytemuck::cast_slice(&values)));
        values
    }
}

thread_local! {
    /// What the test of this thread has read back.
    static READ: RefCell<DefaultHasher> = RefCell::default();
}

/// A digest of what the test of this thread has read back.
pub fn digest() -> u64 {
    READ.take().finish()
}

/// From here on the blocks of a launch, and the warps of a block, run in an order of this seed.
pub fn schedule(seed: u64) {
    gpu();
    assert!(!real(), "a GPU orders blocks and warps as it likes");
    warpsmith_emulator::configure("seed", &seed.to_string()).unwrap();
}

/// Reproducible numbers in -2..2, with a few zeros.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut philox = Philox::new(seed, 77);
    let mut number = || match philox.next_word() {
        word if word % 17 == 0 => 0.0,
        word => (word >> 8) as f32 / (1 << 22) as f32 - 2.0,
    };
    (0..n).map(|_| number()).collect()
}

/// Equal to the last bit. NaN has many bit patterns, and which one an operation gives is the machine's business.
#[track_caller]
pub fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let wrong: Vec<usize> = (0..got.len())
        .filter(|&i| got[i].to_bits() != want[i].to_bits() && !(got[i].is_nan() && want[i].is_nan()))
        .collect();
    if let Some(&i) = wrong.first() {
        panic!("{what}: {} of {} differ, first [{i}]: {} instead of {}", wrong.len(), got.len(), got[i], want[i]);
    }
}

/// Whether the emulator has nothing to report and, of a whole run, every kernel was launched; says what is wrong.
pub fn verdict(whole: bool) -> bool {
    if real() || GPU.get().is_none() {
        return true;
    }
    let report = match warpsmith_emulator::report() {
        Ok(report) => report,
        Err(error) => {
            eprintln!("no report: {error}");
            return false;
        }
    };
    for finding in &report.findings {
        eprintln!("finding: {finding:?}");
    }
    let launched: BTreeSet<&str> = report.launches.iter().map(|launch| launch.kernel.as_str()).collect();
    let known = entries().into_iter().flat_map(|e| e.suffixes.iter().map(move |suffix| format!("{}_{suffix}", e.name)));
    let idle: Vec<String> = known.filter(|name| !launched.contains(name.as_str())).collect();
    if whole && !idle.is_empty() {
        eprintln!("no test launches {}", idle.join(", "));
    }
    println!("emulator: {} launches, {} findings", report.launches.len(), report.findings.len());
    report.findings.is_empty() && (idle.is_empty() || !whole)
}
