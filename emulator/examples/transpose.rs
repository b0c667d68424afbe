//! Three ways to transpose a matrix, run, checked and counted on the emulator: a complete program with cudarc.
//!
//!     cargo run -p warpsmith-emulator --example transpose
//!
//! The kernels are in `tests/kernels/known.cu`; nvcc -ptx makes the text that is loaded here. The table that the program
//! prints is explained in the README, under "How to read the counters".

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

/// Runs the kernels and returns what the emulator has to say.
pub fn run() -> Result<warpsmith_emulator::Report, Box<dyn std::error::Error>> {
    // Before the first CUDA call. Everything below is what a program for a real GPU would do.
    warpsmith_emulator::install()?;
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(include_str!("../tests/kernels/known.ptx")))?;
    let n = 256usize;
    let x: Vec<f32> = (0..n * n).map(|i| i as f32).collect();
    let x_gpu = stream.clone_htod(&x)?;
    for name in ["transpose_naive", "transpose_tiled", "transpose_padded"] {
        let kernel = module.load_function(name)?;
        let mut y_gpu = stream.alloc_zeros::<f32>(n * n)?;
        let tiles = n as u32 / 32;
        let config = LaunchConfig { grid_dim: (tiles, tiles, 1), block_dim: (32, 8, 1), shared_mem_bytes: 0 };
        let size = n as i32;
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&x_gpu).arg(&mut y_gpu).arg(&size);
        // SAFETY: the arguments are those of the kernel, and the grid covers the matrix.
        unsafe { launch.launch(config)? };
        let y = stream.clone_dtoh(&y_gpu)?;
        assert!((0..n * n).all(|i| y[i] == x[i % n * n + i / n]), "{name} is wrong");
    }
    // This is all that is special: ask what was found, and what was counted.
    Ok(warpsmith_emulator::report()?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let report = run()?;
    print!("{}", report.table());
    if !report.findings.is_empty() {
        return Err("the checks found something".into());
    }
    Ok(())
}
