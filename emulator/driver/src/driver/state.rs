//! The one device of the process: its objects, its queue, its findings.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::api::DEFAULT_POOL;
use super::journal::{self, Findings};
use super::resources::{self, Resources};
use super::stream::{Bytes, Command, Graph, Queue, Stream, Work};
use super::{api, error};
use crate::check::finding::{Finding, Kind};
use crate::check::order::{Act, Clock, History, Operation, Use};
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
    /// Made to be timed.
    pub timed: bool,
    /// The command that records it.
    pub command: Option<u64>,
    /// What comes before it.
    pub clock: Clock,
    /// When it was reached.
    pub time: Option<Instant>,
    /// The node that records it, inside a capture.
    pub node: Option<(u64, Option<usize>)>,
}

/// A memory pool. It decides nothing here, but keeps the books a program may ask for.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    /// Reuse policies: follow event dependencies, opportunistic, internal dependencies.
    pub reuse: [u32; 3],
    /// Bytes it may keep.
    pub threshold: u64,
    /// Most bytes it may hand out; 0: as many as the device has.
    pub max: u64,
    /// Bytes it has handed out.
    pub used: u64,
    /// The most of them at one time.
    pub used_high: u64,
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
    /// Host memory of the program that was pinned: address to size.
    pub registered: HashMap<usize, usize>,
    /// Memory pools by handle.
    pub pools: HashMap<u64, Pool>,
    /// The pool that `cuMemAllocAsync` uses.
    pub pool: u64,
    /// Pool and size of stream-ordered allocations.
    pub pool_of: HashMap<u64, (u64, u64)>,
    /// Stream-ordered frees that are still queued.
    pub freeing: HashSet<u64>,
    /// Contexts made by `cuCtxCreate`.
    pub contexts: HashSet<u64>,
    /// What `ptxas -v` said about kernels, by name.
    pub resources: HashMap<String, Resources>,
    /// The primary context is retained this often.
    pub retained: u32,
    /// The error that every later call returns.
    pub sticky: Option<u32>,
    /// Diagnosis of the latest error of each code.
    pub texts: HashMap<u32, CString>,
    /// Findings in the order of execution.
    pub findings: Findings,
    /// Where a finding of an instruction stands in the list: the same one in the next launch only counts.
    pub noted: HashMap<(Kind, String, u32), usize>,
    /// Counters of every launch.
    pub reports: Vec<Report>,
    /// What ran that the host has not waited for.
    pub history: History,
    handles: u64,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Locks the state; `None` before `cuInit`.
pub fn lock() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The state, unless somebody holds it.
pub fn try_lock() -> Option<MutexGuard<'static, Option<State>>> {
    STATE.try_lock().ok()
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

/// Memory of the host. Every byte of device memory takes one for its state at once, and one for itself and up to six for
/// races when it is used.
fn host_memory() -> u64 {
    // SAFETY: only asks for two numbers.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(size).unwrap_or(0)).max(1 << 30)
}

/// Reads a file that holds the output of `ptxas -v`.
pub fn read_resources(file: &str) -> Result<HashMap<String, Resources>, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    resources::parse(&text).map_err(|e| format!("{file}: {e}"))
}

/// A command as findings name it.
fn operation(what: &str, command: &Command) -> Operation {
    let name = match command.stream {
        0 => format!("{what} on the legacy default stream"),
        2 => format!("{what} on the per-thread default stream"),
        s => format!("{what} on stream {s:#x}"),
    };
    Operation { name: name.into(), stamp: command.stamp, asked: command.id }
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
        settings.limit = number("LIMIT")?;
        let resources = match option("RESOURCES") {
            None => HashMap::new(),
            Some(file) => read_resources(&file).map_err(|e| format!("WARPSMITH_EMULATOR_RESOURCES: {e}"))?,
        };
        let mut device = Device::new(profile.memory_bytes.min(host_memory() / 2))?;
        device.architecture = profile.architecture();
        Ok(State {
            device,
            profile,
            settings,
            queue: Queue::new(settings.seed),
            modules: HashMap::new(),
            functions: HashMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            pinned: HashMap::new(),
            registered: HashMap::new(),
            pools: HashMap::from([(DEFAULT_POOL, Pool { reuse: [1; 3], ..Pool::default() })]),
            pool: DEFAULT_POOL,
            pool_of: HashMap::new(),
            freeing: HashSet::new(),
            contexts: HashSet::new(),
            resources,
            retained: 0,
            sticky: None,
            texts: HashMap::new(),
            findings: Findings::default(),
            noted: HashMap::new(),
            reports: Vec::new(),
            history: History::default(),
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
            self.invalidate_all(|s| s.blocking);
            return self.fail(
                error::CAPTURE_IMPLICIT,
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
        g.nodes.push(Command::node(after, work));
        Ok(g.nodes.len() - 1)
    }

    /// Whether any stream is being captured.
    pub fn capturing(&self) -> bool {
        self.queue.streams.values().any(|s| s.capture.is_some())
    }

    /// A call that cannot be captured was made: the capture yields no graph.
    pub fn invalidate(&mut self, capture: u64) {
        if let Some(g) = self.graphs.get_mut(&capture) {
            g.invalid = true;
        }
    }

    fn invalidate_all(&mut self, which: impl Fn(&Stream) -> bool) {
        let captures: Vec<u64> = self.queue.streams.values().filter(|s| which(s)).filter_map(|s| s.capture).collect();
        for c in captures {
            self.invalidate(c);
        }
    }

    /// Fails if the capture modes forbid a call that a capture in progress could make unsafe.
    pub fn allowed_in_capture(&mut self, what: &str) -> Outcome {
        let me = std::thread::current().id();
        let mine = api::capture_mode();
        let forbids = |g: &Graph| match mine {
            2 => false,
            m => (g.mode != 2 && g.thread == Some(me)) || (m == 0 && g.mode == 0),
        };
        let active: Vec<u64> = self.queue.streams.values().filter_map(|s| s.capture).collect();
        if let Some(&c) = active.iter().find(|c| self.graphs.get(c).is_some_and(forbids)) {
            self.invalidate(c);
            return self.fail(error::CAPTURE_UNSUPPORTED, format!("{what} while a stream is being captured"));
        }
        Ok(())
    }

    /// Registers of a thread: what `ptxas` said, else the bound in the PTX, else 0.
    pub fn registers(&self, kernel: &Kernel) -> u32 {
        self.resources.get(&kernel.name).map_or(kernel.maxnreg, |r| r.registers)
    }

    /// Blocks of a kernel that fit one multiprocessor.
    pub fn blocks_per_sm(&self, kernel: &Kernel, threads: u32, dynamic_shared: u32) -> u32 {
        self.profile.blocks_per_sm(kernel, self.registers(kernel), threads, dynamic_shared)
    }

    /// Fails if a call that waits is made on a capturing stream.
    pub fn no_capture(&mut self, stream: u64) -> Outcome {
        let capture = self.queue.streams.get(&stream).and_then(|s| s.capture);
        if let Some(c) = capture {
            self.invalidate(c);
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
        let (targets, clock) = self.queue.reached(stream);
        self.run(&targets)?;
        self.host_knows(&clock);
        Ok(())
    }

    /// Runs everything.
    pub fn synchronise_all(&mut self) -> Outcome {
        self.run_all()?;
        let clock = self.queue.everything();
        self.host_knows(&clock);
        Ok(())
    }

    /// The host has waited: all that it asks for from now on comes after that.
    pub fn host_knows(&mut self, clock: &Clock) {
        self.queue.host.join(clock);
        self.history.forget(&self.queue.common());
    }

    /// Runs everything, for reasons of the emulator: on a GPU the host would not have waited.
    pub fn run_all(&mut self) -> Outcome {
        if self.capturing() {
            self.invalidate_all(|_| true);
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
            if let Err(code) = self.execute(command) {
                self.sticky = Some(code);
                self.drop_queue();
                return Err(code);
            }
        }
        Ok(())
    }

    /// Forgets queued work. What the program has asked to free is freed, so that it is no leak.
    pub fn drop_queue(&mut self) {
        self.queue.clear();
        for p in std::mem::take(&mut self.freeing) {
            let _ = self.device.arena.free(p, "cuMemFreeAsync");
        }
    }

    /// Checks a range again when its command runs: the allocation may not be made yet, or be gone.
    fn ordered(&mut self, what: &str, at: u64, bytes: u64) -> Outcome {
        let text = match self.device.check_range(at, bytes) {
            Ok(()) => match self.device.arena.find(at) {
                Some(a) if !a.open => format!("{what} of {bytes} bytes at {at:#x}: {}", self.device.arena.describe(at)),
                _ => return Ok(()),
            },
            Err(e) => format!("{what} of {e}"),
        };
        let (kind, code) = if text.contains("not allocated yet") {
            (Kind::StreamOrder, error::ILLEGAL_ADDRESS)
        } else if text.contains("was freed") {
            (Kind::UseAfterFree, error::ILLEGAL_ADDRESS)
        } else {
            (Kind::ApiBounds, error::INVALID_VALUE)
        };
        self.finding(kind, code, text)
    }

    /// Compares what a command does to a range with what nothing orders before it, and remembers it.
    fn note(&mut self, command: &Command, what: &str, at: u64, bytes: u64, act: Act) {
        if !self.settings.checks.races || bytes == 0 {
            return;
        }
        let by = operation(what, command);
        let range = at..at + bytes;
        if let Some((text, first)) = self.history.conflict(&by, &command.clock, &range, act, &self.device.arena) {
            // The same two operations again only count.
            let next = self.findings.len();
            let key = (Kind::StreamRace, format!("{}, {first}", by.name), 0);
            match *self.noted.entry(key).or_insert(next) {
                n if n == next => {
                    let message = format!("{what} of {bytes} bytes at {at:#x}: {text}");
                    self.findings.push(Finding { kind: Kind::StreamRace, message, place: None, count: 1 });
                }
                n => self.findings[n].count += 1,
            }
        }
        match act {
            Act::Free => self.history.forget_range(&range),
            _ => self.history.push(Use { range, act, by }),
        }
    }

    /// Notes the begin or the end of an allocation.
    fn note_life(&mut self, command: &Command, what: &str, at: u64, act: Act) {
        if let Some(a) = self.device.arena.find(at) {
            self.note(command, what, a.base, a.bytes, act);
        }
    }

    fn execute(&mut self, mut command: Command) -> Outcome {
        match std::mem::replace(&mut command.work, Work::Nothing) {
            Work::Nothing => Ok(()),
            Work::Launch(kernel, launch) => self.execute_launch(&kernel, &launch, &command),
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
                self.note(&command, "host-to-device copy", dst, bytes.len() as u64, Act::Write);
                match self.device.upload(dst, bytes) {
                    Ok(()) => Ok(()),
                    Err(e) => self.finding(Kind::ApiBounds, error::INVALID_VALUE, e),
                }
            }
            Work::Download(dst, src, bytes) => {
                self.ordered("device-to-host copy", src, bytes as u64)?;
                self.note(&command, "device-to-host copy", src, bytes as u64, Act::Read);
                self.check_written("device-to-host copy", src, bytes as u64);
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
                self.note(&command, "copy from the device range", src, bytes, Act::Read);
                self.note(&command, "copy to the device range", dst, bytes, Act::Write);
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
                self.note(&command, "memset", dst, n * u64::from(size), Act::Write);
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
                self.note_life(&command, "cuMemAllocAsync", at, Act::Allocate);
                self.device.arena.open(at);
                Ok(())
            }
            Work::Free(at) => {
                self.freeing.remove(&at);
                self.note_life(&command, "cuMemFreeAsync", at, Act::Free);
                if self.graphs.values().chain(self.execs.values()).any(|g| g.memory.contains(&at)) {
                    self.device.arena.close(at);
                    return Ok(());
                }
                self.free(at, "cuMemFreeAsync")
            }
            Work::Close(at) => {
                self.note_life(&command, "cuMemFreeAsync", at, Act::Free);
                self.device.arena.close(at);
                Ok(())
            }
            Work::Host(f, arg) => {
                // SAFETY: the program gave a function of this type, which must not call the driver.
                let f = unsafe { std::mem::transmute::<usize, extern "C" fn(*mut libc::c_void)>(f) };
                api::call_back(|| f(arg as *mut libc::c_void));
                // It may have told a thread of the program that waits for it.
                self.host_knows(&command.clock);
                Ok(())
            }
        }
    }

    /// Notes a copy out of bytes that nobody wrote. The copy goes on.
    fn check_written(&mut self, what: &str, at: u64, bytes: u64) {
        if !self.settings.checks.memory {
            return;
        }
        let Some(first) = self.device.arena.first_unwritten(at, bytes) else { return };
        let message = format!(
            "{what} of {bytes} bytes at {at:#x}: byte {first} was never written, {}",
            self.device.arena.locate(at + first)
        );
        self.findings.push(Finding { kind: Kind::Uninitialised, message, place: None, count: 1 });
    }

    /// A graph is gone: memory that no other graph hands out is free.
    pub fn release(&mut self, graph: Graph) {
        for at in graph.memory {
            if !self.graphs.values().chain(self.execs.values()).any(|g| g.memory.contains(&at)) {
                let _ = self.device.arena.free(at, "the end of its graph");
            }
        }
    }

    /// Frees device memory and says what is wrong with the address otherwise.
    pub fn free(&mut self, at: u64, by: &str) -> Outcome {
        if let Some(a) = self.device.arena.find(at).filter(|a| a.base == at && a.open && !a.used)
            && !self.device.arena.written(&a)
        {
            let message = format!(
                "{} ({} bytes at {:#x}) was freed, and no kernel, copy or memset had ever written to it",
                a.name, a.bytes, a.base
            );
            self.findings.push(Finding { kind: Kind::Unused, message, place: None, count: 1 });
        }
        match self.device.arena.free(at, by) {
            Ok(_) => {
                if let Some((pool, bytes)) = self.pool_of.remove(&at)
                    && let Some(p) = self.pools.get_mut(&pool)
                {
                    p.used -= bytes;
                }
                Ok(())
            }
            Err(e) => self.finding(Kind::InvalidFree, error::INVALID_VALUE, e),
        }
    }

    fn execute_launch(&mut self, kernel: &Kernel, launch: &Launch, command: &Command) -> Outcome {
        let threads: u32 = launch.block.iter().product();
        let per_sm = self.blocks_per_sm(kernel, threads, launch.dynamic_shared).max(1);
        let settings = Settings { resident: (per_sm * self.profile.sms) as usize, ..self.settings };
        let by = operation(&format!("kernel {}", kernel.name), command);
        let foreign = self.history.foreign(&by, &command.clock);
        if settings.checks.races {
            self.history.launch(self.device.next_tag(), by);
        }
        let outcome = self.device.launch_beside(kernel, launch, &settings, foreign.as_ref());
        if !outcome.output.is_empty() {
            use std::io::Write;
            let mut out = std::io::stdout();
            // Nothing can be done about a closed standard output.
            let _ = out.write_all(&outcome.output).and_then(|()| out.flush());
        }
        if self.settings.checks.count {
            let resources = self.resources.get(&kernel.name).copied();
            let registers = resources.map_or(kernel.maxnreg, |r| r.registers);
            let mut report = Report::new(kernel, launch, &outcome, &self.profile, registers);
            report.spill_bytes = resources.map_or(0, |r| r.spills);
            self.reports.push(report);
        }
        for f in &outcome.findings {
            let place = f.place.as_ref().map_or_else(Default::default, |p| (p.kernel.clone(), p.ptx_line));
            let next = self.findings.len();
            match *self.noted.entry((f.kind, place.0, place.1)).or_insert(next) {
                at if at == next => self.findings.push(f.clone()),
                at => self.findings[at].count += f.count,
            }
        }
        let Some(fault) = outcome.fault else { return Ok(()) };
        let code = match fault.kind {
            Kind::OutOfBounds | Kind::UseAfterFree | Kind::StreamOrder => error::ILLEGAL_ADDRESS,
            Kind::Misaligned => error::MISALIGNED_ADDRESS,
            Kind::Deadlock | Kind::TimeLimit => error::LAUNCH_TIMEOUT,
            Kind::Assert => error::ASSERT,
            _ => error::LAUNCH_FAILED,
        };
        self.fail(code, fault.to_string())
    }

    /// Launches, findings and live allocations as JSON.
    pub fn json(&self) -> String {
        let launches: Vec<String> = self.reports.iter().map(Report::json).collect();
        let findings: Vec<String> = self.findings.iter().map(journal::json).collect();
        let live: Vec<String> = self
            .device
            .arena
            .live()
            .iter()
            .map(|a| format!("{{\"name\":{},\"address\":{},\"bytes\":{}}}", quote(&a.name), a.base, a.bytes))
            .collect();
        format!(
            "{{\"profile\":{},\"faulted\":{},\"launches\":[{}],\"findings\":[{}],\"live\":[{}]}}",
            quote(self.profile.key),
            self.sticky.is_some(),
            launches.join(","),
            findings.join(","),
            live.join(",")
        )
    }
}
