//! A device, a module and typed buffers for tests.

use std::sync::Arc;

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::engine::{Device, Module, Settings};
use warpsmith_emulator_driver::exec::alu::Level;
use warpsmith_emulator_driver::exec::grid::{Launch, Outcome};
use warpsmith_emulator_driver::exec::op::Kernel;

/// A kernel argument.
#[derive(Clone, Copy)]
pub enum Arg {
    Ptr(u64),
    I32(i32),
    U32(u32),
    F32(f32),
}

pub struct Rig {
    pub device: Device,
    pub module: Module,
    pub settings: Settings,
}

/// Values that can lie in device memory.
pub trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for [u32; 4] {}

fn bytes<T: Plain>(v: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), std::mem::size_of_val(v)) }
}

impl Rig {
    pub fn new(ptx: &str) -> Rig {
        let device = Device::new(1 << 32).unwrap();
        let module = match device.load(ptx) {
            Ok(m) => m,
            Err(e) => panic!("{e}"),
        };
        Rig { device, module, settings: Settings::default() }
    }

    pub fn at_level(ptx: &str, level: Level) -> Rig {
        let mut device = Device::new(1 << 32).unwrap();
        device.level = level;
        let module = device.load(ptx).unwrap();
        Rig { device, module, settings: Settings::default() }
    }

    pub fn kernel(&self, name: &str) -> Arc<Kernel> {
        self.module.kernels.get(name).unwrap_or_else(|| panic!("no kernel {name}")).clone()
    }

    /// A buffer with contents.
    pub fn put<T: Plain>(&self, v: &[T]) -> u64 {
        let p = self.empty::<T>(v.len());
        self.device.upload(p, bytes(v)).unwrap();
        p
    }

    /// A buffer that nobody has written.
    pub fn empty<T: Plain>(&self, n: usize) -> u64 {
        self.device.arena.alloc((n * size_of::<T>()) as u64, None, false).unwrap()
    }

    pub fn get<T: Plain>(&self, p: u64, n: usize) -> Vec<T> {
        let mut v = vec![T::default(); n];
        // SAFETY: `Plain` types accept any bytes.
        let raw = unsafe { std::slice::from_raw_parts_mut(v.as_mut_ptr().cast::<u8>(), std::mem::size_of_val(&v[..])) };
        self.device.download(p, raw).unwrap();
        v
    }

    pub fn run_with(&self, name: &str, grid: [u32; 3], block: [u32; 3], shared: u32, args: &[Arg]) -> Outcome {
        let kernel = self.kernel(name);
        assert_eq!(kernel.params.len(), args.len(), "arguments of {name}");
        let mut params = vec![0u8; kernel.param_bytes as usize];
        for (p, a) in kernel.params.iter().zip(args) {
            let raw = match *a {
                Arg::Ptr(v) => v.to_le_bytes().to_vec(),
                Arg::I32(v) => v.to_le_bytes().to_vec(),
                Arg::U32(v) => v.to_le_bytes().to_vec(),
                Arg::F32(v) => v.to_le_bytes().to_vec(),
            };
            assert_eq!(raw.len(), p.bytes as usize, "argument size of {name}");
            params[p.offset as usize..][..raw.len()].copy_from_slice(&raw);
        }
        let launch = Launch { grid, block, dynamic_shared: shared, params, cooperative: false };
        self.device.launch(&kernel, &launch, &self.settings)
    }

    pub fn run(&self, name: &str, grid: u32, block: u32, args: &[Arg]) -> Outcome {
        self.run_with(name, [grid, 1, 1], [block, 1, 1], 0, args)
    }

    /// Runs and insists that no check found anything.
    pub fn clean(&self, name: &str, grid: u32, block: u32, args: &[Arg]) -> Outcome {
        let out = self.run(name, grid, block, args);
        assert_clean(name, &out);
        out
    }
}

pub fn assert_clean(name: &str, out: &Outcome) {
    let text: Vec<String> = out.findings.iter().map(|f| f.to_string()).collect();
    assert!(text.is_empty(), "{name}: {}", text.join("\n"));
}

/// Insists on exactly one class of finding, and on words of its message.
#[track_caller]
pub fn assert_finding(out: &Outcome, kind: Kind, words: &[&str]) {
    let all: Vec<String> = out.findings.iter().map(|f| f.to_string()).collect();
    let hit: Vec<_> = out.findings.iter().filter(|f| f.kind == kind).map(|f| f.to_string()).collect();
    assert!(!hit.is_empty(), "no {} among: {}", kind.name(), all.join("\n"));
    assert!(out.findings.iter().all(|f| f.kind == kind), "more than {}: {}", kind.name(), all.join("\n"));
    for w in words {
        assert!(hit.iter().any(|h| h.contains(w)), "`{w}` is missing in: {}", hit.join("\n"));
    }
}
