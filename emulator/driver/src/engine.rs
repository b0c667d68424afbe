//! A device without the driver around it: memory, modules, launches. The C entry points and the tests sit on this.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::check::arena::Arena;
use crate::check::order::Foreign;
use crate::check::race;
use crate::exec::alu::Level;
use crate::exec::grid::{self, Launch, Options, Outcome};
use crate::exec::op::Kernel;
use crate::exec::run::Checks;
use crate::ptx::ast::{Init, Module as Tree, Number, Space, Ty};
use crate::ptx::lower::{Location, Symbols, lower};
use crate::ptx::parse::parse;
use crate::ptx::{Cause, LoadError};

/// One emulated device.
pub struct Device {
    /// Its memory.
    pub arena: Arena,
    /// Host vector level.
    pub level: Level,
    /// The newest architecture that it runs, such as 80.
    pub architecture: u32,
    epoch: AtomicU32,
}

/// A loaded module.
#[derive(Debug)]
pub struct Module {
    /// Kernels by name.
    pub kernels: HashMap<String, Arc<Kernel>>,
    /// Global and constant variables.
    pub symbols: Symbols,
}

/// How launches run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Which checks run.
    pub checks: Checks,
    /// Order of blocks.
    pub seed: u64,
    /// Worker threads; 0: one per core.
    pub threads: usize,
    /// Multiprocessors.
    pub sms: u32,
    /// Blocks that can be resident together.
    pub resident: usize,
    /// Seconds after which a launch is given up; 0: never.
    pub limit: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { checks: Checks::ALL, seed: 0, threads: 0, sms: 108, resident: 108, limit: 0 }
    }
}

impl Device {
    /// A device with `memory` bytes.
    pub fn new(memory: u64) -> Result<Device, String> {
        Ok(Device {
            arena: Arena::new(memory)?,
            level: Level::detect(),
            architecture: u32::MAX,
            epoch: AtomicU32::new(0),
        })
    }

    /// Parses and lowers PTX text, and places its variables.
    pub fn load(&self, text: &str) -> Result<Module, LoadError> {
        let tree = parse(text)?;
        if tree.architecture() > self.architecture {
            let text = format!(
                "`.target {}` is newer than the device, which is sm_{}: compile for compute_{} or choose another profile",
                tree.target, self.architecture, self.architecture
            );
            return Err(LoadError::new(tree.target_line, text));
        }
        let mut symbols = Symbols::new();
        let placed = self.place(&tree, &mut symbols);
        let result = placed.and_then(|()| {
            let mut kernels = HashMap::new();
            for f in tree.functions.iter().filter(|f| f.entry && f.body.is_some()) {
                kernels.insert(f.name.clone(), Arc::new(lower(&tree, &symbols, f, self.level)?));
            }
            Ok(kernels)
        });
        match result {
            Ok(kernels) => Ok(Module { kernels, symbols }),
            Err(e) => {
                self.unplace(&symbols);
                Err(e)
            }
        }
    }

    /// Frees the variables of a module.
    pub fn unload(&self, module: &Module) {
        self.unplace(&module.symbols);
    }

    fn unplace(&self, symbols: &Symbols) {
        for v in symbols.values() {
            // The addresses came from `alloc`, so freeing them cannot fail.
            let _ = self.arena.free(v.at, "cuModuleUnload");
        }
    }

    fn place(&self, tree: &Tree, symbols: &mut Symbols) -> Result<(), LoadError> {
        let placed = |v: &&crate::ptx::ast::Var| matches!(v.space, Space::Global | Space::Const);
        for v in tree.vars.iter().filter(placed) {
            if v.external {
                return Err(LoadError::new(
                    v.line,
                    format!("variable `{}` is extern: there is no linker here", v.name),
                ));
            }
            if symbols.contains_key(&v.name) {
                return Err(LoadError::new(v.line, format!("variable `{}` is declared twice", v.name)));
            }
            let bytes = v.bytes().max(1);
            let name = format!("variable {}", v.name);
            let Some(at) = self.arena.alloc(bytes, Some(name), true) else {
                let text = format!("no device memory for variable `{}` of {bytes} bytes", v.name);
                return Err(LoadError { cause: Cause::Memory, ..LoadError::new(v.line, text) });
            };
            symbols.insert(v.name.clone(), Location { space: v.space, at, bytes });
            // Variables without initial value are zero.
            self.arena.mark_init(at, bytes);
        }
        for v in tree.vars.iter().filter(placed) {
            let Some(place) = symbols.get(&v.name).copied() else { continue };
            let size = u64::from(v.ty.bytes());
            if v.init.len() as u64 > v.elems {
                return Err(LoadError::new(v.line, format!("variable `{}` has more values than elements", v.name)));
            }
            let mut bytes = vec![0u8; place.bytes as usize];
            for (i, init) in v.init.iter().enumerate() {
                let bits = match init {
                    Init::Number(Number::Int(n)) => *n,
                    Init::Number(Number::F32(n)) if v.ty == Ty::F64 => f64::from(f32::from_bits(*n)).to_bits(),
                    Init::Number(Number::F32(n)) => u64::from(*n),
                    Init::Number(Number::F64(n)) if v.ty == Ty::F32 => u64::from((f64::from_bits(*n) as f32).to_bits()),
                    Init::Number(Number::F64(n)) => *n,
                    Init::Symbol(name, offset) => match (symbols.get(name), tree.function_address(name)) {
                        (Some(s), _) if size == 8 => s.at.wrapping_add(*offset as u64),
                        (None, Some(at)) if size == 8 && *offset == 0 => at,
                        _ => {
                            let text = format!("`{name}` cannot be the initial value of `{}`", v.name);
                            return Err(LoadError::new(v.line, text));
                        }
                    },
                };
                let at = i * size as usize;
                bytes[at..at + size as usize].copy_from_slice(&bits.to_le_bytes()[..size as usize]);
            }
            self.write(place.at, &bytes);
        }
        Ok(())
    }

    /// Writes bytes that are known to lie in an allocation.
    fn write(&self, at: u64, bytes: &[u8]) {
        let view = self.arena.view();
        // SAFETY: the caller passes a range of an allocation, which lies inside the view.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), view.data.add((at - view.base) as usize), bytes.len());
        }
        self.arena.mark_init(at, bytes.len() as u64);
    }

    /// Copies host bytes to the device. The error says what lies at the range.
    pub fn upload(&self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.check_range(at, bytes.len() as u64)?;
        self.write(at, bytes);
        Ok(())
    }

    /// Copies device bytes to the host.
    pub fn download(&self, at: u64, bytes: &mut [u8]) -> Result<(), String> {
        self.check_range(at, bytes.len() as u64)?;
        let view = self.arena.view();
        // SAFETY: the range was just found inside one allocation.
        unsafe {
            std::ptr::copy_nonoverlapping(view.data.add((at - view.base) as usize), bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    /// Whether a range lies inside one allocation.
    pub fn check_range(&self, at: u64, bytes: u64) -> Result<(), String> {
        if bytes == 0 {
            return Ok(());
        }
        match self.arena.find(at) {
            Some(a) if bytes <= a.base + a.bytes - at => {
                self.arena.mark_used(at);
                // The program's own pool may have closed parts of it.
                if !a.open || !a.divided {
                    return Ok(());
                }
                match self.arena.accessible(at, bytes) {
                    Err(first) => {
                        let what = if first == at { "the range starts" } else { "the range reaches a byte that lies" };
                        Err(format!("{bytes} bytes at {at:#x}: {what} {}", self.arena.describe(first)))
                    }
                    Ok(()) => Ok(()),
                }
            }
            Some(a) => Err(format!(
                "{bytes} bytes at {at:#x}: the range ends {} bytes past the end of {} ({} bytes at {:#x})",
                at + bytes - (a.base + a.bytes),
                a.name,
                a.bytes,
                a.base
            )),
            None if self.arena.contains(at) => {
                Err(format!("{bytes} bytes at {at:#x}: the range starts {}", self.arena.describe(at)))
            }
            None => Err(format!("{bytes} bytes at {at:#x}: not a device address")),
        }
    }

    /// Runs a kernel. The caller has checked the launch limits and the size of the parameter block.
    pub fn launch(&self, kernel: &Kernel, launch: &Launch, settings: &Settings) -> Outcome {
        self.launch_beside(kernel, launch, settings, None)
    }

    /// The number under which the next launch leaves its records.
    pub fn next_tag(&self) -> u32 {
        (self.epoch.load(Ordering::Relaxed) + 1) % race::MAX_LAUNCH
    }

    /// Runs a kernel beside operations of other streams that nothing orders before it.
    pub fn launch_beside(
        &self,
        kernel: &Kernel,
        launch: &Launch,
        settings: &Settings,
        foreign: Option<&Foreign>,
    ) -> Outcome {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        if epoch.is_multiple_of(race::MAX_LAUNCH) {
            self.arena.forget_races();
        }
        let threads = match settings.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let options = Options {
            checks: settings.checks,
            seed: settings.seed,
            level: self.level,
            epoch,
            threads,
            resident: settings.resident,
            sms: settings.sms,
            deadline: match settings.limit {
                0 => None,
                seconds => Some((Instant::now() + Duration::from_secs(seconds), seconds)),
            },
            workspace: 0,
        };
        grid::launch(kernel, &self.arena, launch, &options, foreign)
    }
}
