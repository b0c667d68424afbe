//! The one device of the process: its objects, its queue, its findings.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::error;
use super::stream::{Bytes, Graph, Queue, Stream, Work};
use crate::check::finding::{Finding, Kind};
use crate::count::counters::{Report, quote};
use crate::count::profile::{Profile, SM_80};
use crate::engine::{Device, Module, Settings};
use crate::exec::grid::Launch;
use crate::exec::op::Kernel;
use crate::exec::run::Checks;

/// The result of an entry point: an error code.
pub type Outcome = Result<(), u32>;

/// A function handle.
#[derive(Debug, Clone)]
pub struct Function {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// The module it belongs to.
    pub module: u64,
    /// Dynamic shared memory it opted in to.
    pub max_dynamic_shared: u32,
}

/// An event.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// The command that records it.
    pub command: Option<u64>,
    /// When it was reached.
    pub time: Option<Instant>,
    /// The node that records it, inside a capture.
    pub node: Option<(u64, Option<usize>)>,
}

/// Everything behind the entry points.
pub struct State {
    /// Memory and execution.
    pub device: Device,
    /// What it pretends to be.
    pub profile: Profile,
    /// How launches run.
    pub settings: Settings,
    /// Queued work and streams.
    pub queue: Queue,
    /// Modules by handle.
    pub modules: HashMap<u64, Module>,
    /// Functions by handle.
    pub functions: HashMap<u64, Function>,
    /// Events by handle.
    pub events: HashMap<u64, Event>,
    /// Captures under way and finished graphs, by handle.
    pub graphs: HashMap<u64, Graph>,
    /// Executable graphs, by handle.
    pub execs: HashMap<u64, Graph>,
    /// Pinned host memory: address to size.
    pub pinned: HashMap<usize, usize>,
    /// The primary context is retained this often.
    pub retained: u32,
    /// The error that every later call returns.
    pub sticky: Option<u32>,
    /// Diagnosis of the latest error of each code.
    pub texts: HashMap<u32, CString>,
    /// Findings in the order of execution.
    pub findings: Vec<Finding>,
    /// Counters of every launch.
    pub reports: Vec<Report>,
    handles: u64,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Locks the state; `None` before `cuInit`.
pub fn lock() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

fn option(name: &str) -> Option<String> {
    std::env::var(format!("WARPSMITH_EMULATOR_{name}")).ok().filter(|v| !v.is_empty())
}

/// Checks by name.
pub fn checks(name: &str) -> Option<Checks> {
    Some(match name {
        "all" => Checks::ALL,
        "memory" => Checks::MEMORY,
        "none" => Checks::NONE,
        _ => return None,
    })
}

impl State {
    /// A fresh device with the options of the environment.
    pub fn new() -> Result<State, String> {
        let profile = match option("PROFILE") {
            None => SM_80,
            Some(k) => Profile::find(&k).ok_or(format!("WARPSMITH_EMULATOR_PROFILE={k}: expected sm_80 or sm_90"))?,
        };
        let mut settings = Settings { sms: profile.sms, ..Settings::default() };
        if let Some(c) = option("CHECKS") {
            settings.checks =
                checks(&c).ok_or(format!("WARPSMITH_EMULATOR_CHECKS={c}: expected all, memory or none"))?;
        }
        let number = |name: &str| match option(name) {
            None => Ok(0),
            Some(v) => v.parse::<u64>().map_err(|_| format!("WARPSMITH_EMULATOR_{name}={v}: expected a number")),
        };
        settings.seed = number("SEED")?;
        settings.threads = number("THREADS")? as usize;
        Ok(State {
            device: Device::new(profile.memory_bytes)?,
            profile,
            settings,
            queue: Queue::new(settings.seed),
            modules: HashMap::new(),
            functions: HashMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            pinned: HashMap::new(),
            retained: 0,
            sticky: None,
            texts: HashMap::new(),
            findings: Vec::new(),
            reports: Vec::new(),
            handles: 0x1000,
        })
    }

    /// A new handle.
    pub fn handle(&mut self) -> u64 {
        self.handles += 16;
        self.handles
    }

    /// Returns a code with a diagnosis that `cuGetErrorString` gives.
    pub fn fail<T>(&mut self, code: u32, text: impl Into<String>) -> Result<T, u32> {
        let text: Vec<u8> = text.into().into_bytes().into_iter().filter(|&b| b != 0).collect();
        if let Ok(c) = CString::new(text) {
            // The program may keep the pointer of the text before: it is never freed.
            if let Some(old) = self.texts.insert(code, c) {
                let _ = old.into_raw();
            }
        }
        Err(code)
    }

    /// Notes a finding outside kernels and returns a code with its text.
    pub fn finding<T>(&mut self, kind: Kind, code: u32, message: String) -> Result<T, u32> {
        let finding = Finding { kind, message, place: None, count: 1 };
        let text = finding.to_string();
        self.findings.push(finding);
        self.fail(code, text)
    }

    /// The stream of a handle; 1 is another name of the legacy default stream.
    pub fn stream(&mut self, handle: u64) -> Result<u64, u32> {
        let handle = if handle == 1 { 0 } else { handle };
        if self.queue.streams.contains_key(&handle) {
            return Ok(handle);
        }
        self.fail(error::INVALID_HANDLE, format!("{handle:#x} is not a stream"))
    }

    /// Queues work, or adds it to the capture the stream belongs to.
    pub fn submit(&mut self, stream: u64, work: Work) -> Outcome {
        let stream = self.stream(stream)?;
        let s = self.queue.streams.get(&stream).cloned().unwrap_or_default();
        if let Some(capture) = s.capture {
            let node = self.add_node(capture, &s, work)?;
            if let Some(s) = self.queue.streams.get_mut(&stream) {
                s.node = Some(node);
                s.node_waits.clear();
            }
            return Ok(());
        }
        if stream == 0 && self.queue.streams.values().any(|s| s.capture.is_some() && s.blocking) {
            for g in self.graphs.values_mut() {
                g.invalid = true;
            }
            return self.fail(
                906,
                "work on the legacy default stream while another stream is capturing: use a stream of your own",
            );
        }
        self.queue.push(stream, work);
        Ok(())
    }

    fn add_node(&mut self, capture: u64, s: &Stream, work: Work) -> Result<usize, u32> {
        let Some(g) = self.graphs.get_mut(&capture) else { return Err(error::CAPTURE_INVALIDATED) };
        if g.invalid {
            return Err(error::CAPTURE_INVALIDATED);
        }
        let mut after: Vec<u64> = s.node.into_iter().map(|n| n as u64).collect();
        after.extend(s.node_waits.iter().map(|&n| n as u64));
        g.nodes.push(super::stream::Command { after, work });
        Ok(g.nodes.len() - 1)
    }

    /// Fails if a call that waits is made on a capturing stream.
    pub fn no_capture(&mut self, stream: u64) -> Outcome {
        let capture = self.queue.streams.get(&stream).and_then(|s| s.capture);
        if let Some(c) = capture {
            if let Some(g) = self.graphs.get_mut(&c) {
                g.invalid = true;
            }
            return self.fail(
                error::CAPTURE_UNSUPPORTED,
                "this call waits for a stream that is capturing: end the capture first",
            );
        }
        Ok(())
    }

    /// Runs everything a stream has queued.
    pub fn synchronise(&mut self, stream: u64) -> Outcome {
        let stream = self.stream(stream)?;
        self.no_capture(stream)?;
        let Some(s) = self.queue.streams.get(&stream) else { return Ok(()) };
        let mut targets: Vec<u64> = s.last.into_iter().collect();
        targets.extend(&s.waits);
        self.run(&targets)
    }

    /// Runs everything.
    pub fn synchronise_all(&mut self) -> Outcome {
        if self.queue.streams.values().any(|s| s.capture.is_some()) {
            for g in self.graphs.values_mut() {
                g.invalid = true;
            }
            return self
                .fail(error::CAPTURE_UNSUPPORTED, "the context cannot be synchronised while a stream is capturing");
        }
        let all = self.queue.all();
        self.run(&all)
    }

    /// Runs commands and all they depend on.
    pub fn run(&mut self, targets: &[u64]) -> Outcome {
        for id in self.queue.plan(targets) {
            let Some(command) = self.queue.take(id) else { continue };
            if let Err(code) = self.execute(command.work) {
                self.sticky = Some(code);
                self.queue.clear();
                return Err(code);
            }
        }
        Ok(())
    }

    fn ordered(&mut self, what: &str, at: u64, bytes: u64) -> Outcome {
        let text = match self.device.check_range(at, bytes) {
            Ok(()) => match self.device.arena.find(at) {
                Some(a) if !a.open => format!("{what} of {bytes} bytes at {at:#x}: {}", self.device.arena.describe(at)),
                _ => return Ok(()),
            },
            Err(e) => format!("{what} of {e}"),
        };
        let early = text.contains("not allocated yet") || text.contains("freed by");
        let kind = if early { Kind::StreamOrder } else { Kind::ApiBounds };
        self.finding(kind, error::INVALID_VALUE, text)
    }

    fn execute(&mut self, work: Work) -> Outcome {
        match work {
            Work::Nothing => Ok(()),
            Work::Launch(kernel, launch) => self.execute_launch(&kernel, &launch),
            Work::Upload(dst, bytes) => {
                let host;
                let bytes: &[u8] = match &bytes {
                    Bytes::Staged(b) => b,
                    Bytes::Host(p, n) => {
                        // SAFETY: the driver API asks the program to keep the memory of an asynchronous copy alive.
                        host = unsafe { std::slice::from_raw_parts(*p as *const u8, *n) };
                        host
                    }
                };
                self.ordered("host-to-device copy", dst, bytes.len() as u64)?;
                match self.device.upload(dst, bytes) {
                    Ok(()) => Ok(()),
                    Err(e) => self.finding(Kind::ApiBounds, error::INVALID_VALUE, e),
                }
            }
            Work::Download(dst, src, bytes) => {
                self.ordered("device-to-host copy", src, bytes as u64)?;
                // SAFETY: as for uploads; the program keeps the destination alive until the copy is done.
                let host = unsafe { std::slice::from_raw_parts_mut(dst as *mut u8, bytes) };
                match self.device.download(src, host) {
                    Ok(()) => Ok(()),
                    Err(e) => self.finding(Kind::ApiBounds, error::INVALID_VALUE, e),
                }
            }
            Work::Copy(dst, src, bytes) => {
                self.ordered("copy to the device range", dst, bytes)?;
                self.ordered("copy from the device range", src, bytes)?;
                let view = self.device.arena.view();
                // SAFETY: both ranges were just found inside allocations.
                unsafe {
                    let (d, s) = ((dst - view.base) as usize, (src - view.base) as usize);
                    std::ptr::copy(view.data.add(s), view.data.add(d), bytes as usize);
                }
                self.device.arena.copy_state(dst, src, bytes);
                Ok(())
            }
            Work::Fill(dst, value, size, n) => {
                self.ordered("memset", dst, n * u64::from(size))?;
                let element = value.to_le_bytes();
                let bytes: Vec<u8> = (0..n as usize * size as usize).map(|i| element[i % size as usize]).collect();
                match self.device.upload(dst, &bytes) {
                    Ok(()) => Ok(()),
                    Err(e) => self.finding(Kind::ApiBounds, error::INVALID_VALUE, e),
                }
            }
            Work::Record(event) => {
                if let Some(e) = self.events.get_mut(&event) {
                    e.time = Some(Instant::now());
                }
                Ok(())
            }
            Work::Open(at) => {
                self.device.arena.open(at);
                Ok(())
            }
            Work::Free(at) => self.free(at, "cuMemFreeAsync"),
            Work::Host(f, arg) => {
                // SAFETY: the program gave a function of this type, which must not call the driver.
                unsafe {
                    let f: extern "C" fn(*mut libc::c_void) = std::mem::transmute(f);
                    f(arg as *mut libc::c_void);
                }
                Ok(())
            }
        }
    }

    /// Frees device memory and says what is wrong with the address otherwise.
    pub fn free(&mut self, at: u64, by: &str) -> Outcome {
        if let Some(a) = self.device.arena.find(at).filter(|a| a.base == at && a.open && !a.used)
            && !self.device.arena.written(&a)
        {
            let message = format!("{} ({} bytes at {:#x}) was freed without ever being used", a.name, a.bytes, a.base);
            self.findings.push(Finding { kind: Kind::Unused, message, place: None, count: 1 });
        }
        match self.device.arena.free(at, by) {
            Ok(_) => Ok(()),
            Err(e) => self.finding(Kind::InvalidFree, error::INVALID_VALUE, e),
        }
    }

    fn execute_launch(&mut self, kernel: &Kernel, launch: &Launch) -> Outcome {
        let threads: u32 = launch.block.iter().product();
        let per_sm = self.profile.blocks_per_sm(kernel, threads, launch.dynamic_shared).max(1);
        let settings = Settings { resident: (per_sm * self.profile.sms) as usize, ..self.settings };
        let outcome = self.device.launch(kernel, launch, &settings);
        if !outcome.output.is_empty() {
            use std::io::Write;
            let mut out = std::io::stdout();
            // Nothing can be done about a closed standard output.
            let _ = out.write_all(&outcome.output).and_then(|()| out.flush());
        }
        if self.settings.checks.count {
            self.reports.push(Report::new(kernel, launch, &outcome, &self.profile));
        }
        self.findings.extend(outcome.findings.iter().cloned());
        let Some(fault) = outcome.fault else { return Ok(()) };
        let code = match fault.kind {
            Kind::OutOfBounds | Kind::UseAfterFree | Kind::StreamOrder => error::ILLEGAL_ADDRESS,
            Kind::Misaligned => error::MISALIGNED_ADDRESS,
            Kind::Deadlock => error::LAUNCH_TIMEOUT,
            Kind::Assert => error::ASSERT,
            _ => error::LAUNCH_FAILED,
        };
        self.fail(code, fault.to_string())
    }

    /// Launches, findings and live allocations as JSON.
    pub fn json(&self) -> String {
        let launches: Vec<String> = self.reports.iter().map(Report::json).collect();
        let findings: Vec<String> = self
            .findings
            .iter()
            .map(|f| {
                let kernel = f.place.as_ref().map_or("", |p| &p.kernel);
                format!(
                    "{{\"kind\":{},\"kernel\":{},\"text\":{},\"count\":{}}}",
                    quote(f.kind.name()),
                    quote(kernel),
                    quote(&f.to_string()),
                    f.count
                )
            })
            .collect();
        let live: Vec<String> = self
            .device
            .arena
            .live()
            .iter()
            .map(|a| format!("{{\"name\":{},\"address\":{},\"bytes\":{}}}", quote(&a.name), a.base, a.bytes))
            .collect();
        format!(
            "{{\"profile\":{},\"launches\":[{}],\"findings\":[{}],\"live\":[{}]}}",
            quote(self.profile.key),
            launches.join(","),
            findings.join(","),
            live.join(",")
        )
    }
}
