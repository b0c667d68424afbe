//! Speed of the interpreter on one thread, in processor time: ALU warp-instructions, `mma.sync`, a coalesced axpy, a pipelined product.
//! `cargo bench -p warpsmith-emulator-driver`; words after `--` keep the lines whose label holds them all
//! (`-- Avx512 memory axpy`), which is what a profiler wants to see alone.

use warpsmith_emulator_driver::engine::{Device, Settings};
use warpsmith_emulator_driver::exec::alu::Level;
use warpsmith_emulator_driver::exec::grid::{Launch, Outcome};
use warpsmith_emulator_driver::exec::run::Checks;

const TENSOR: &str = include_str!("../../tests/kernels/tensor.ptx");

/// Processor time of this thread: other work on the machine does not count.
fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the struct.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let mut levels = vec![Level::Base];
    if Level::detect() != Level::Base {
        levels.push(Level::Avx2);
    }
    if Level::detect() == Level::Avx512 {
        levels.push(Level::Avx512);
    }
    for level in levels {
        let mut device = match Device::new(1 << 32) {
            Ok(d) => d,
            Err(e) => panic!("{e}"),
        };
        device.level = level;
        let module = match device.load(TENSOR) {
            Ok(m) => m,
            Err(e) => panic!("{e}"),
        };
        let buffer = |bytes: usize| {
            let Some(p) = device.arena.alloc(bytes as u64, None, false) else { panic!("device memory is full") };
            if let Err(e) = device.upload(p, &vec![0; bytes]) {
                panic!("{e}");
            }
            p
        };
        let n = 1 << 20;
        let (x, y, out) = (buffer(4 * n), buffer(4 * n), buffer(1 << 20));
        let (a, b, c) = (buffer(256 * 512 * 2), buffer(512 * 256 * 2), buffer(256 * 256 * 4));
        for (label, checks) in [("none", Checks::NONE), ("memory", Checks::MEMORY), ("all", Checks::ALL)] {
            let settings = Settings { checks, threads: 1, ..Settings::default() };
            let time = |name: &str, grid: [u32; 3], block: u32, args: &[u64], sizes: &[usize]| -> (f64, Outcome) {
                let kernel = &module.kernels[name];
                let mut params = Vec::new();
                for (v, n) in args.iter().zip(sizes) {
                    params.resize(params.len().next_multiple_of(*n), 0);
                    params.extend_from_slice(&v.to_le_bytes()[..*n]);
                }
                let launch = Launch { grid, block: [block, 1, 1], dynamic_shared: 0, params, cooperative: false };
                let mut best = f64::INFINITY;
                let mut outcome = Outcome::default();
                for _ in 0..5 {
                    let start = cpu_seconds();
                    outcome = device.launch(kernel, &launch, &settings);
                    best = best.min(cpu_seconds() - start);
                    assert!(outcome.findings.is_empty(), "{}", outcome.findings[0]);
                }
                (best, outcome)
            };
            let total = |o: &Outcome| o.sites.iter().map(|s| s.hits).sum::<u64>() as f64;
            let wanted = |kernel: &str| {
                let label = format!("{level:?} {label} {kernel}");
                words.iter().all(|w| label.contains(w.as_str()))
            };
            let show = |kernel: &str, value: f64, unit: &str| {
                println!("{level:?}, checks {label}: {kernel} {value:.1} {unit}");
            };
            if wanted("alu_chain") {
                let (t, o) = time("alu_chain", [8, 1, 1], 128, &[out, 4096], &[8, 4]);
                show("alu_chain", total(&o) / t * 1e-6, "M warp-instructions/s");
            }
            if wanted("mma_chain") {
                let (t, _) = time("mma_chain", [4, 1, 1], 128, &[out, 1024], &[8, 4]);
                show("mma_chain", 16.0 * 1024.0 * 4.0 * 4096.0 / t * 1e-9, "GFLOP/s");
            }
            // The small vectors fit the host's caches, the large ones do not.
            for (name, n) in [("axpy-16K", 1 << 14), ("axpy-1M", n)] {
                if wanted(name) {
                    let args = [x, y, u64::from(1f32.to_bits()), n as u64];
                    let (t, o) = time("axpy", [n as u32 >> 14, 1, 1], 256, &args, &[8, 8, 4, 4]);
                    show(name, total(&o) / t * 1e-6, "M warp-instructions/s");
                }
            }
            if wanted("gemm_bf16_pipeline") {
                let args = [a, b, c, 256, 256, 512];
                let (t, _) = time("gemm_bf16_pipeline", [4, 4, 1], 128, &args, &[8, 8, 8, 4, 4, 4]);
                show("gemm_bf16_pipeline", 2.0 * 256.0 * 256.0 * 512.0 / t * 1e-9, "GFLOP/s");
            }
        }
    }
}
