//! The C entry points. Each takes the lock, refuses to work after a fault (the error is sticky, as on a GPU), and
//! returns a code; its diagnosis waits in `cuGetErrorString`.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use super::error::*;
use super::state::{Event, Function, Outcome, State, checks, lock};
use super::stream::{Bytes, Graph, Stream, Work};
use crate::check::finding::Kind;
use crate::count::profile::Profile;
use crate::exec::grid::Launch;

/// A place for a result, given by the program.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    fn set(&self, v: T) -> Outcome {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver API requires a valid place for every result.
        unsafe { self.0.write(v) };
        Ok(())
    }

    fn set_if_wanted(&self, v: T) {
        if !self.0.is_null() {
            let _ = self.set(v);
        }
    }
}

/// A NUL-terminated string from the program.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    fn get(&self) -> Result<String, u32> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver API requires a terminated string.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

/// An address in the program.
#[repr(transparent)]
pub struct Host(*mut c_void);

impl Host {
    fn bytes(&self, n: usize) -> Result<&[u8], u32> {
        if n == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver API requires `n` readable bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), n) })
    }
}

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// The handle of the primary context.
const PRIMARY: u64 = 0x800;

fn enter(sticky: bool, f: impl FnOnce(&mut State) -> Outcome) -> u32 {
    let mut guard = lock();
    let Some(state) = guard.as_mut() else { return NOT_INITIALIZED };
    if let Some(code) = state.sticky.filter(|_| sticky) {
        return code;
    }
    match f(state) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

macro_rules! entry_points {
    ($sticky:literal; $($name:ident($($a:ident: $t:ty),*) $s:ident $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the driver API.")]
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub extern "C" fn $name($($a: $t),*) -> u32 {
                enter($sticky, |$s: &mut State| $body)
            }
        )*
    };
}

/// `cuInit` of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuInit(flags: u32) -> u32 {
    if flags != 0 {
        return INVALID_VALUE;
    }
    let mut guard = lock();
    if guard.is_none() {
        match State::new() {
            Ok(s) => {
                *guard = Some(s);
                if std::env::var_os("WARPSMITH_EMULATOR_REPORT_FILE").is_some() {
                    // SAFETY: registers a function that lives as long as the process.
                    unsafe { libc::atexit(write_report) };
                }
            }
            Err(e) => {
                eprintln!("warpsmith emulator: {e}");
                return NO_DEVICE;
            }
        }
    }
    SUCCESS
}

/// At the end of the process: the report goes where `warpsmith-emulate` looks for it.
extern "C" fn write_report() {
    let Some(file) = std::env::var_os("WARPSMITH_EMULATOR_REPORT_FILE") else { return };
    if let Some(s) = lock().as_mut() {
        if s.sticky.is_none() {
            // An error here is a finding in the report.
            let _ = s.synchronise_all();
        }
        if let Err(e) = std::fs::write(&file, s.json()) {
            eprintln!("warpsmith emulator: {}: {e}", file.to_string_lossy());
        }
    }
}

/// `cuGetProcAddress_v2`: asked for by the CUDA runtime, as the private tables are.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetProcAddress_v2(
    _name: Text,
    out: Out<usize>,
    _version: i32,
    _flags: u64,
    _status: Out<i32>,
) -> u32 {
    out.set_if_wanted(0);
    cuGetExportTable(Out(std::ptr::null_mut()), Host(std::ptr::null_mut()))
}

/// `cuDriverGetVersion` of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuDriverGetVersion(version: Out<i32>) -> u32 {
    version.set(13000).map_or_else(|e| e, |()| SUCCESS)
}

/// `cuGetExportTable`: the private tables that the CUDA runtime library asks for. There are none.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetExportTable(_table: Out<usize>, _id: Host) -> u32 {
    eprintln!(
        "warpsmith emulator: this program uses the CUDA runtime (libcudart), which needs private driver tables. The \
         emulator serves programs on the driver API (cudarc, cust): link those, or load the kernels as PTX."
    );
    NOT_SUPPORTED
}

/// `cuGetErrorName` of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetErrorName(code: u32, name: Out<*const c_char>) -> u32 {
    match describe(code) {
        Some((n, _)) => name.set(n.as_ptr().cast()).map_or_else(|e| e, |()| SUCCESS),
        None => INVALID_VALUE,
    }
}

/// `cuGetErrorString` of the driver API: the diagnosis of the latest error of this code, if there is one.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetErrorString(code: u32, text: Out<*const c_char>) -> u32 {
    if let Some(t) = lock().as_ref().and_then(|s| s.texts.get(&code)) {
        return text.set(t.as_ptr()).map_or_else(|e| e, |()| SUCCESS);
    }
    match describe(code) {
        Some((_, t)) => text.set(t.as_ptr().cast()).map_or_else(|e| e, |()| SUCCESS),
        None => INVALID_VALUE,
    }
}

fn device(s: &mut State, ordinal: i32) -> Outcome {
    if ordinal == 0 {
        Ok(())
    } else {
        s.fail(INVALID_DEVICE, format!("device {ordinal}: the emulator has one device, 0"))
    }
}

fn current(s: &mut State) -> Outcome {
    if CURRENT.get() == PRIMARY && s.retained > 0 {
        return Ok(());
    }
    s.fail(INVALID_CONTEXT, "no context is current on this thread: retain the primary context and make it current")
}

entry_points! { false;
    cuDeviceGetCount(count: Out<i32>) _s { count.set(1) }
    cuDeviceGet(out: Out<i32>, ordinal: i32) s { device(s, ordinal)?; out.set(ordinal) }
    cuDeviceGetName(name: Out<u8>, len: i32, dev: i32) s {
        device(s, dev)?;
        let text = s.profile.name.as_bytes();
        let n = text.len().min(usize::try_from(len).unwrap_or(0).saturating_sub(1));
        for (i, &b) in text[..n].iter().chain(&[0]).enumerate() {
            Out(name.0.wrapping_add(i)).set(b)?;
        }
        Ok(())
    }
    cuDeviceGetUuid(uuid: Out<[u8; 16]>, dev: i32) s { device(s, dev)?; uuid.set(*b"warpsmith-emu-00") }
    cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, dev: i32) s { device(s, dev)?; uuid.set(*b"warpsmith-emu-00") }
    cuDeviceTotalMem_v2(bytes: Out<usize>, dev: i32) s { device(s, dev)?; bytes.set(s.profile.memory_bytes as usize) }
    cuDeviceGetAttribute(value: Out<i32>, attribute: i32, dev: i32) s {
        device(s, dev)?;
        let p = &s.profile;
        let v = match attribute {
            1 => 1024,                                  // threads of a block
            2 | 3 => 1024,                              // block x, y
            4 => 64,                                    // block z
            5 => i32::MAX,                              // grid x
            6 | 7 => 65535,                             // grid y, z
            8 => 48 << 10,                              // shared memory of a block
            9 => 64 << 10,                              // constant memory
            10 => 32,                                   // warp
            12 | 82 => p.regs_per_sm as i32,            // registers of a block, of a multiprocessor
            13 => p.clock_khz as i32,
            16 => p.sms as i32,
            18 | 20 | 35 => 0,                          // integrated, compute mode, ECC
            31 => 1,                                    // concurrent kernels
            36 => 1_512_000,                            // memory clock in kHz
            37 => 5120,                                 // bus width
            38 => p.l2_bytes as i32,
            39 => p.threads_per_sm as i32,
            40 => 3,                                    // copy engines
            41 => 1,                                    // unified addressing
            75 => p.capability.0 as i32,
            76 => p.capability.1 as i32,
            81 => p.shared_per_sm as i32,
            95 => 1,                                    // cooperative launch
            97 => p.shared_optin as i32,
            106 => p.blocks_per_sm as i32,
            111 => 1024,                                // reserved shared memory of a block
            115 => 1,                                   // memory pools
            _ => 0,
        };
        value.set(v)
    }
    cuDevicePrimaryCtxRetain(ctx: Out<u64>, dev: i32) s { device(s, dev)?; s.retained += 1; ctx.set(PRIMARY) }
    cuDevicePrimaryCtxRelease_v2(dev: i32) s {
        device(s, dev)?;
        if s.retained == 0 {
            return Err(INVALID_CONTEXT);
        }
        s.retained -= 1;
        Ok(())
    }
    cuDevicePrimaryCtxReset_v2(dev: i32) s { device(s, dev)?; s.sticky = None; s.queue.clear(); Ok(()) }
    cuDevicePrimaryCtxGetState(dev: i32, flags: Out<u32>, active: Out<i32>) s {
        device(s, dev)?;
        flags.set(0)?;
        active.set(i32::from(s.retained > 0))
    }
    cuCtxGetCurrent(ctx: Out<u64>) _s { ctx.set(CURRENT.get()) }
    cuCtxSetCurrent(ctx: u64) _s {
        if ctx != 0 && ctx != PRIMARY {
            return Err(INVALID_CONTEXT);
        }
        CURRENT.set(ctx);
        Ok(())
    }
    cuCtxGetDevice(dev: Out<i32>) s { current(s)?; dev.set(0) }
    cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) _s {
        least.set_if_wanted(0);
        greatest.set_if_wanted(-5);
        Ok(())
    }
    cuCtxSetFlags(_flags: u32) _s { Ok(()) }
    cuCtxGetLimit(value: Out<usize>, _limit: i32) _s { value.set(1 << 20) }
    cuCtxSetLimit(_limit: i32, _value: usize) _s { Ok(()) }
    cuCtxGetCacheConfig(value: Out<i32>) _s { value.set(0) }
    cuCtxSetCacheConfig(_value: i32) _s { Ok(()) }
    cuProfilerStart() _s { Ok(()) }
    cuProfilerStop() _s { Ok(()) }
    cuDeviceGetDefaultMemPool(pool: Out<u64>, dev: i32) s { device(s, dev)?; pool.set(0x900) }
    cuDeviceGetMemPool(pool: Out<u64>, dev: i32) s { device(s, dev)?; pool.set(0x900) }
    cuDeviceSetMemPool(dev: i32, _pool: u64) s { device(s, dev) }
    cuMemPoolSetAttribute(_pool: u64, _attribute: i32, _value: Host) _s { Ok(()) }
    cuMemPoolGetAttribute(_pool: u64, _attribute: i32, value: Out<u64>) _s { value.set(0) }
    cuMemPoolTrimTo(_pool: u64, _bytes: usize) _s { Ok(()) }

    // Objects may be given back after a fault too.
    cuStreamDestroy_v2(stream: u64) s {
        if stream <= 2 || !s.queue.streams.contains_key(&stream) {
            return s.fail(INVALID_HANDLE, format!("{stream:#x} is not a stream that can be destroyed"));
        }
        // What it still has queued keeps running; nothing new can be ordered behind it.
        let last = s.queue.streams.get(&stream).and_then(|s| s.last);
        if let Some(id) = last.filter(|_| s.sticky.is_none()) {
            s.run(&[id])?;
        }
        s.queue.streams.remove(&stream);
        Ok(())
    }
    cuEventDestroy_v2(event: u64) s { s.events.remove(&event).map(|_| ()).ok_or(INVALID_HANDLE) }
    cuModuleUnload(module: u64) s {
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        let m = s.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        s.functions.retain(|_, f| f.module != module);
        s.device.unload(&m);
        Ok(())
    }
    cuGraphDestroy(graph: u64) s { s.graphs.remove(&graph).map(|_| ()).ok_or(INVALID_HANDLE) }
    cuGraphExecDestroy(exec: u64) s { s.execs.remove(&exec).map(|_| ()).ok_or(INVALID_HANDLE) }
    cuMemFreeHost(p: Host) s {
        match s.pinned.remove(&(p.0 as usize)) {
            Some(n) => {
                let layout = host_layout(n)?;
                // SAFETY: the address and size are those of an allocation of `cuMemHostAlloc`.
                unsafe { std::alloc::dealloc(p.0.cast(), layout) };
                Ok(())
            }
            None => s.finding(Kind::InvalidFree, INVALID_VALUE, format!("{:p} is not pinned host memory", p.0)),
        }
    }
}

fn host_layout(bytes: usize) -> Result<std::alloc::Layout, u32> {
    std::alloc::Layout::from_size_align(bytes.max(1), 4096).map_err(|_| INVALID_VALUE)
}

fn allocate(s: &mut State, out: &Out<u64>, bytes: usize) -> Result<u64, u32> {
    current(s)?;
    if bytes == 0 {
        return s.fail(INVALID_VALUE, "an allocation of 0 bytes");
    }
    let Some(p) = s.device.arena.alloc(bytes as u64, None, false) else {
        let (free, total) = s.device.arena.info();
        return s.fail(OUT_OF_MEMORY, format!("{bytes} bytes asked for, {free} of {total} free"));
    };
    out.set(p)?;
    Ok(p)
}

fn upload(s: &mut State, dst: u64, src: &Host, bytes: usize, stream: u64, wait: bool) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    api_range(s, "host-to-device copy", dst, bytes as u64)?;
    let pinned = s.pinned.iter().any(|(&p, &n)| (src.0 as usize) >= p && (src.0 as usize) + bytes <= p + n);
    let capturing = s.queue.streams.get(&stream).is_some_and(|s| s.capture.is_some());
    let data = if pinned || capturing {
        Bytes::Host(src.0 as usize, bytes)
    } else {
        Bytes::Staged(Arc::new(src.bytes(bytes)?.to_vec()))
    };
    s.submit(stream, Work::Upload(dst, data))?;
    if wait { s.synchronise(stream) } else { Ok(()) }
}

fn download(s: &mut State, dst: &Host, src: u64, bytes: usize, stream: u64, wait: bool) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    if dst.0.is_null() {
        return Err(INVALID_VALUE);
    }
    api_range(s, "device-to-host copy", src, bytes as u64)?;
    let pinned = s.pinned.iter().any(|(&p, &n)| (dst.0 as usize) >= p && (dst.0 as usize) + bytes <= p + n);
    s.submit(stream, Work::Download(dst.0 as usize, src, bytes))?;
    let capturing = s.queue.streams.get(&stream).is_some_and(|s| s.capture.is_some());
    // A copy to pageable memory returns when it is done.
    if (wait || !pinned) && !capturing { s.synchronise(stream) } else { Ok(()) }
}

/// A copy past the end of an allocation is refused when it is asked for.
fn api_range(s: &mut State, what: &str, at: u64, bytes: u64) -> Outcome {
    match s.device.check_range(at, bytes) {
        Ok(()) => Ok(()),
        Err(e) => s.finding(Kind::ApiBounds, INVALID_VALUE, format!("{what} of {e}")),
    }
}

fn fill(s: &mut State, dst: u64, value: u32, size: u32, n: usize, stream: u64) -> Outcome {
    if n == 0 {
        return Ok(());
    }
    api_range(s, "memset", dst, n as u64 * u64::from(size))?;
    s.submit(stream, Work::Fill(dst, value, size, n as u64))
}

fn load(s: &mut State, out: &Out<u64>, image: &Host) -> Outcome {
    current(s)?;
    if image.0.is_null() {
        return Err(INVALID_VALUE);
    }
    let head = image.bytes(4)?;
    let text = match head {
        [0x50, 0xed, 0x55, 0xba] => match fatbin(image) {
            Ok(t) => t,
            Err(e) => return s.fail(NO_BINARY_FOR_GPU, e),
        },
        [0x7f, b'E', b'L', b'F'] => {
            return s
                .fail(NO_BINARY_FOR_GPU, "this is a cubin: the emulator runs PTX (nvcc -ptx), machine code it cannot");
        }
        _ => {
            // SAFETY: an image that is no binary is a NUL-terminated text.
            unsafe { CStr::from_ptr(image.0.cast()) }.to_string_lossy().into_owned()
        }
    };
    match s.device.load(&text) {
        Ok(m) => {
            let handle = s.handle();
            s.modules.insert(handle, m);
            out.set(handle)
        }
        Err(e) => s.fail(INVALID_PTX, e.to_string()),
    }
}

/// The first PTX text of a fatbin that is not compressed.
fn fatbin(image: &Host) -> Result<String, String> {
    let bad = |_| "the fatbin cannot be read".to_string();
    let word = |b: &[u8], at: usize, n: usize| {
        b.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0u64, |v, &x| v << 8 | u64::from(x)))
    };
    let header = image.bytes(16).map_err(bad)?;
    let total = 16 + word(header, 8, 8) as usize;
    let all = image.bytes(total).map_err(bad)?;
    let mut at = word(header, 6, 2) as usize;
    let mut compressed = false;
    while at + 64 <= total {
        let kind = word(all, at, 2);
        let head = word(all, at + 4, 4) as usize;
        let size = word(all, at + 8, 8) as usize;
        let flags = word(all, at + 40, 8);
        if head == 0 || at + head + size > total {
            break;
        }
        if kind == 1 {
            if flags & 0xf000 != 0 {
                compressed = true;
            } else {
                let text = &all[at + head..at + head + size];
                let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
                return Ok(String::from_utf8_lossy(&text[..end]).into_owned());
            }
        }
        at += head + size;
    }
    Err(if compressed {
        "the PTX in this fatbin is compressed: build it with --compress-mode=none, or load PTX text".to_string()
    } else {
        "this fatbin holds no PTX: the emulator cannot run machine code".to_string()
    })
}

/// Reads kernel arguments and checks every limit of a launch.
fn launch(
    s: &mut State,
    function: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    cooperative: bool,
) -> Outcome {
    current(s)?;
    let Some(f) = s.functions.get(&function).cloned() else {
        return s.fail(INVALID_HANDLE, format!("{function:#x} is not a function"));
    };
    let k = &f.kernel;
    let threads = block.iter().map(|&d| u64::from(d)).product::<u64>();
    let refuse = |s: &mut State, code: u32, text: String| {
        s.finding(Kind::LaunchLimit, code, format!("kernel {}: {text}", f.kernel.name))
    };
    if threads == 0 || threads > 1024 || block[0] > 1024 || block[1] > 1024 || block[2] > 64 {
        return refuse(s, INVALID_VALUE, format!("a block of {block:?} threads: at most 1024, and 64 in z"));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return refuse(s, INVALID_VALUE, format!("a grid of {grid:?} blocks: 1 to 2^31-1 in x, 65535 in y and z"));
    }
    let max: u32 = k.maxntid.iter().product();
    if max > 0 && threads > u64::from(max) {
        let text = format!("a block of {threads} threads, __launch_bounds__ promised at most {max}");
        return refuse(s, LAUNCH_OUT_OF_RESOURCES, text);
    }
    if k.reqntid[0] > 0 && k.reqntid != block {
        return refuse(s, INVALID_VALUE, format!("a block of {block:?} threads, .reqntid demands {:?}", k.reqntid));
    }
    if k.maxnreg > 0 && u64::from(k.maxnreg) * threads > u64::from(s.profile.regs_per_sm) {
        return refuse(s, LAUNCH_OUT_OF_RESOURCES, format!("{} registers times {threads} threads", k.maxnreg));
    }
    let total = k.dynamic_at.max(k.shared_bytes) + shared;
    let limit = k.shared_bytes + f.max_dynamic_shared.max((48 << 10) - k.shared_bytes.min(48 << 10));
    if shared > f.max_dynamic_shared && total > 48 << 10 {
        let text = format!(
            "{shared} bytes of dynamic and {} of static shared memory: above 48 KiB set \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first (limit now {limit})",
            k.shared_bytes
        );
        return refuse(s, INVALID_VALUE, text);
    }
    let blocks = grid.iter().map(|&d| u64::from(d)).product::<u64>();
    let room = u64::from(s.profile.blocks_per_sm(k, threads as u32, shared)) * u64::from(s.profile.sms);
    if room == 0 {
        return refuse(s, LAUNCH_OUT_OF_RESOURCES, "no multiprocessor has room for one block".to_string());
    }
    if cooperative && blocks > room {
        return refuse(
            s,
            COOPERATIVE_LAUNCH_TOO_LARGE,
            format!("{blocks} blocks, at most {room} are resident together"),
        );
    }
    let mut bytes = vec![0u8; k.param_bytes as usize];
    if !k.params.is_empty() {
        // SAFETY: the driver API requires one valid pointer per kernel parameter, or a packed buffer in `extra`.
        unsafe {
            if !params.is_null() {
                for (i, p) in k.params.iter().enumerate() {
                    let from = *params.add(i);
                    if from.is_null() {
                        return Err(INVALID_VALUE);
                    }
                    let to = bytes.as_mut_ptr().add(p.offset as usize);
                    std::ptr::copy_nonoverlapping(from.cast::<u8>(), to, p.bytes as usize);
                }
            } else if !extra.is_null() {
                let (mut buffer, mut size) = (std::ptr::null::<u8>(), 0usize);
                let mut at = extra;
                while !(*at).is_null() {
                    match *at as usize {
                        1 => buffer = (*at.add(1)).cast(),
                        2 => size = *(*at.add(1)).cast::<usize>(),
                        _ => return Err(INVALID_VALUE),
                    }
                    at = at.add(2);
                }
                if buffer.is_null() || size > bytes.len().next_multiple_of(16) {
                    return Err(INVALID_VALUE);
                }
                std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), size.min(bytes.len()));
            } else {
                return s.fail(
                    INVALID_VALUE,
                    format!("kernel {} takes {} arguments, none were given", k.name, k.params.len()),
                );
            }
        }
    }
    let launch = Launch { grid, block, dynamic_shared: shared, params: bytes, cooperative };
    s.submit(stream, Work::Launch(f.kernel.clone(), Arc::new(launch)))
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: u64,
    attributes: *const LaunchAttribute,
    count: u32,
}

/// A launch configuration from the program.
#[repr(transparent)]
pub struct Config(*const LaunchConfig);

/// `CUlaunchAttribute`.
#[repr(C)]
pub struct LaunchAttribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

entry_points! { true;
    cuCtxSynchronize() s { current(s)?; s.synchronise_all() }
    cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) s {
        current(s)?;
        let (f, t) = s.device.arena.info();
        free.set_if_wanted(f as usize);
        total.set_if_wanted(t as usize);
        Ok(())
    }
    cuMemAlloc_v2(p: Out<u64>, bytes: usize) s { allocate(s, &p, bytes).map(|_| ()) }
    cuMemAllocAsync(p: Out<u64>, bytes: usize, stream: u64) s {
        let stream = s.stream(stream)?;
        if s.queue.streams.get(&stream).is_some_and(|s| s.capture.is_some()) {
            return s.fail(NOT_SUPPORTED, "stream-ordered allocation inside a capture is not supported by the emulator");
        }
        let at = allocate(s, &p, bytes)?;
        s.device.arena.close(at);
        s.submit(stream, Work::Open(at))
    }
    cuMemAllocFromPoolAsync(p: Out<u64>, bytes: usize, _pool: u64, stream: u64) s {
        let stream = s.stream(stream)?;
        let at = allocate(s, &p, bytes)?;
        s.device.arena.close(at);
        s.submit(stream, Work::Open(at))
    }
    cuMemFree_v2(p: u64) s {
        current(s)?;
        if p == 0 {
            return Ok(());
        }
        // The call waits for everything that may still use the memory.
        s.synchronise_all()?;
        s.free(p, "cuMemFree")
    }
    cuMemFreeAsync(p: u64, stream: u64) s {
        current(s)?;
        if p == 0 {
            return Ok(());
        }
        if s.device.arena.find(p).is_none_or(|a| a.base != p) {
            return s.free(p, "cuMemFreeAsync");
        }
        s.submit(stream, Work::Free(p))
    }
    cuMemHostAlloc(p: Out<*mut c_void>, bytes: usize, _flags: u32) s {
        current(s)?;
        let layout = host_layout(bytes)?;
        // SAFETY: the layout has a size above 0.
        let m = unsafe { std::alloc::alloc_zeroed(layout) };
        if m.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        s.pinned.insert(m as usize, bytes);
        p.set(m.cast())
    }
    cuMemAllocManaged(_p: Out<u64>, _bytes: usize, _flags: u32) s {
        s.fail(NOT_SUPPORTED, "managed memory: the emulator keeps device pointers apart from host pointers")
    }
    cuMemcpyHtoD_v2(dst: u64, src: Host, bytes: usize) s { current(s)?; upload(s, dst, &src, bytes, 0, true) }
    cuMemcpyHtoDAsync_v2(dst: u64, src: Host, bytes: usize, stream: u64) s {
        current(s)?;
        let stream = s.stream(stream)?;
        upload(s, dst, &src, bytes, stream, false)
    }
    cuMemcpyDtoH_v2(dst: Host, src: u64, bytes: usize) s { current(s)?; download(s, &dst, src, bytes, 0, true) }
    cuMemcpyDtoHAsync_v2(dst: Host, src: u64, bytes: usize, stream: u64) s {
        current(s)?;
        let stream = s.stream(stream)?;
        download(s, &dst, src, bytes, stream, false)
    }
    cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) s {
        current(s)?;
        api_range(s, "copy to the device range", dst, bytes as u64)?;
        api_range(s, "copy from the device range", src, bytes as u64)?;
        s.submit(0, Work::Copy(dst, src, bytes as u64))
    }
    cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) s {
        current(s)?;
        api_range(s, "copy to the device range", dst, bytes as u64)?;
        api_range(s, "copy from the device range", src, bytes as u64)?;
        s.submit(stream, Work::Copy(dst, src, bytes as u64))
    }
    cuMemsetD8_v2(dst: u64, value: u8, n: usize) s { current(s)?; fill(s, dst, value.into(), 1, n, 0) }
    cuMemsetD16_v2(dst: u64, value: u16, n: usize) s { current(s)?; fill(s, dst, value.into(), 2, n, 0) }
    cuMemsetD32_v2(dst: u64, value: u32, n: usize) s { current(s)?; fill(s, dst, value, 4, n, 0) }
    cuMemsetD8Async(dst: u64, value: u8, n: usize, stream: u64) s { current(s)?; fill(s, dst, value.into(), 1, n, stream) }
    cuMemsetD16Async(dst: u64, value: u16, n: usize, stream: u64) s { current(s)?; fill(s, dst, value.into(), 2, n, stream) }
    cuMemsetD32Async(dst: u64, value: u32, n: usize, stream: u64) s { current(s)?; fill(s, dst, value, 4, n, stream) }

    cuModuleLoadData(module: Out<u64>, image: Host) s { load(s, &module, &image) }
    cuModuleLoadDataEx(module: Out<u64>, image: Host, _n: u32, _options: Host, _values: Host) s { load(s, &module, &image) }
    cuModuleLoadFatBinary(module: Out<u64>, image: Host) s { load(s, &module, &image) }
    cuModuleLoad(module: Out<u64>, path: Text) s {
        let path = path.get()?;
        let mut data = match std::fs::read(&path) {
            Ok(d) => d,
            Err(e) => return s.fail(FILE_NOT_FOUND, format!("{path}: {e}")),
        };
        data.extend([0; 16]);
        load(s, &module, &Host(data.as_mut_ptr().cast()))
    }
    cuModuleGetFunction(function: Out<u64>, module: u64, name: Text) s {
        let name = name.get()?;
        let Some(m) = s.modules.get(&module) else { return s.fail(INVALID_HANDLE, "not a module") };
        let Some(kernel) = m.kernels.get(&name).cloned() else {
            let mut known: Vec<String> = m.kernels.keys().cloned().collect();
            known.sort();
            return s.fail(NOT_FOUND, format!("no kernel `{name}` in this module; it has {}", known.join(", ")));
        };
        let handle = s.handle();
        s.functions.insert(handle, Function { kernel, module, max_dynamic_shared: 0 });
        function.set(handle)
    }
    cuModuleGetGlobal_v2(p: Out<u64>, bytes: Out<usize>, module: u64, name: Text) s {
        let name = name.get()?;
        let Some(m) = s.modules.get(&module) else { return s.fail(INVALID_HANDLE, "not a module") };
        let Some(v) = m.symbols.get(&name).copied() else {
            return s.fail(NOT_FOUND, format!("no variable `{name}` in this module"));
        };
        p.set_if_wanted(v.at);
        bytes.set_if_wanted(v.bytes as usize);
        Ok(())
    }
    cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: u64) s {
        let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
        let k = &f.kernel;
        let max: u32 = k.maxntid.iter().product();
        let v = match attribute {
            0 => if max > 0 { max } else { 1024 },
            1 => k.shared_bytes,
            2 => 0,
            3 => k.local_bytes,
            4 => k.maxnreg,
            5 | 6 => s.profile.capability.0 * 10 + s.profile.capability.1,
            8 => f.max_dynamic_shared.max((48 << 10) - k.shared_bytes.min(48 << 10)),
            _ => 0,
        };
        value.set(v as i32)
    }
    cuFuncSetAttribute(function: u64, attribute: i32, value: i32) s {
        let optin = s.profile.shared_optin;
        let Some(f) = s.functions.get_mut(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
        if attribute == 8 {
            let wanted = u32::try_from(value).unwrap_or(u32::MAX);
            if wanted > optin.saturating_sub(f.kernel.shared_bytes) {
                let text = format!(
                    "{wanted} bytes of dynamic beside {} of static shared memory: the device lets a block opt in to {optin}",
                    f.kernel.shared_bytes
                );
                return s.finding(Kind::LaunchLimit, INVALID_VALUE, text);
            }
            f.max_dynamic_shared = wanted;
        }
        Ok(())
    }
    cuFuncSetCacheConfig(_function: u64, _config: i32) _s { Ok(()) }
    cuOccupancyMaxActiveBlocksPerMultiprocessor(n: Out<i32>, function: u64, threads: i32, shared: usize) s {
        occupancy(s, &n, function, threads, shared)
    }
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n: Out<i32>, function: u64, threads: i32, shared: usize, _f: u32) s {
        occupancy(s, &n, function, threads, shared)
    }
    cuOccupancyMaxPotentialBlockSize(grid: Out<i32>, block: Out<i32>, function: u64, _map: usize, shared: usize, limit: i32) s {
        let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
        let max: u32 = f.kernel.maxntid.iter().product();
        let cap = if max > 0 { max } else { 1024 };
        let cap = if limit > 0 { cap.min(limit as u32) } else { cap };
        let fit = |t: u32| s.profile.blocks_per_sm(&f.kernel, t, shared as u32) * t;
        let best = (1..=cap / 32).map(|w| 32 * w).max_by_key(|&t| (fit(t), t)).unwrap_or(32);
        let blocks = s.profile.blocks_per_sm(&f.kernel, best, shared as u32) * s.profile.sms;
        grid.set(blocks as i32)?;
        block.set(best as i32)
    }
    cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: u64, blocks: i32, _threads: i32) s {
        let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
        let per = s.profile.shared_per_sm / u32::try_from(blocks).unwrap_or(1).max(1);
        bytes.set(per.saturating_sub(1024 + f.kernel.shared_bytes) as usize)
    }
    cuLaunchKernel(f: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: u64,
            params: *mut *mut c_void, extra: *mut *mut c_void) s {
        launch(s, f, [gx, gy, gz], [bx, by, bz], shared, stream, params, extra, false)
    }
    cuLaunchCooperativeKernel(f: u64, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: u64,
            params: *mut *mut c_void) s {
        launch(s, f, [gx, gy, gz], [bx, by, bz], shared, stream, params, std::ptr::null_mut(), true)
    }
    cuLaunchKernelEx(config: Config, f: u64, params: *mut *mut c_void, extra: *mut *mut c_void) s {
        // SAFETY: the driver API requires a valid configuration, null is checked.
        let Some(c) = (unsafe { config.0.as_ref() }) else { return Err(INVALID_VALUE) };
        let mut cooperative = false;
        for i in 0..c.count as usize {
            // SAFETY: the configuration says how many attributes there are.
            let a = unsafe { &*c.attributes.add(i) };
            match a.id {
                2 => cooperative = a.value[0] != 0,
                // Ignored ones change no result: access policy, priority, memory sync domain.
                0 | 1 | 8 | 9 | 10 => {}
                id => return s.fail(NOT_SUPPORTED, format!("launch attribute {id} is not supported by the emulator")),
            }
        }
        launch(s, f, c.grid, c.block, c.shared, c.stream, params, extra, cooperative)
    }
    cuLaunchHostFunc(stream: u64, f: usize, arg: Host) s {
        if f == 0 {
            return Err(INVALID_VALUE);
        }
        s.submit(stream, Work::Host(f, arg.0 as usize))
    }

    cuStreamCreate(stream: Out<u64>, flags: u32) s { new_stream(s, &stream, flags) }
    cuStreamCreateWithPriority(stream: Out<u64>, flags: u32, _priority: i32) s { new_stream(s, &stream, flags) }
    cuStreamSynchronize(stream: u64) s { current(s)?; s.synchronise(stream) }
    cuStreamQuery(stream: u64) s {
        let stream = s.stream(stream)?;
        s.no_capture(stream)?;
        let busy = s.queue.streams.get(&stream).and_then(|s| s.last).is_some_and(|id| s.queue.is_pending(id));
        // Nobody else will ever run it: a program that polls would wait for ever.
        if busy { s.synchronise(stream) } else { Ok(()) }
    }
    cuStreamWaitEvent(stream: u64, event: u64, _flags: u32) s {
        let stream = s.stream(stream)?;
        let Some(e) = s.events.get(&event).cloned() else { return s.fail(INVALID_HANDLE, "not an event") };
        let Some(target) = s.queue.streams.get_mut(&stream) else { return Ok(()) };
        if let Some((capture, node)) = e.node {
            // An event of a capture brings the stream into it.
            match target.capture {
                Some(c) if c != capture => return s.fail(902, "the event belongs to another capture"),
                Some(_) => {}
                None => {
                    target.capture = Some(capture);
                    target.node = None;
                }
            }
            target.node_waits.extend(node);
            return Ok(());
        }
        if target.capture.is_some() {
            return s.fail(905, "a capturing stream waits for an event recorded outside the capture");
        }
        target.waits.extend(e.command);
        Ok(())
    }
    cuStreamBeginCapture_v2(stream: u64, _mode: i32) s {
        let stream = s.stream(stream)?;
        if stream == 0 {
            return s.fail(CAPTURE_UNSUPPORTED, "the legacy default stream cannot be captured");
        }
        let handle = s.handle();
        let Some(target) = s.queue.streams.get_mut(&stream) else { return Err(INVALID_HANDLE) };
        if target.capture.is_some() {
            return s.fail(CAPTURE_UNSUPPORTED, "the stream is capturing already");
        }
        target.capture = Some(handle);
        target.node = None;
        target.node_waits.clear();
        s.graphs.insert(handle, Graph { origin: stream, ..Graph::default() });
        Ok(())
    }
    cuStreamEndCapture(stream: u64, graph: Out<u64>) s {
        let stream = s.stream(stream)?;
        let capture = s.queue.streams.get(&stream).and_then(|s| s.capture);
        let Some(handle) = capture else { return s.fail(CAPTURE_UNMATCHED, "the stream is not capturing") };
        let Some(g) = s.graphs.get(&handle).cloned() else { return Err(CAPTURE_INVALIDATED) };
        if g.origin != stream {
            return s.fail(CAPTURE_UNMATCHED, "the capture began in another stream: end it there");
        }
        // Streams that joined must have come back: their last node must lie before one of the origin.
        let reached = |node: usize| {
            let mut open: Vec<usize> = s.queue.streams.get(&stream).into_iter().flat_map(|s| {
                s.node.into_iter().chain(s.node_waits.iter().copied())
            }).collect();
            let mut seen = vec![false; g.nodes.len()];
            while let Some(n) = open.pop() {
                if !std::mem::replace(&mut seen[n], true) {
                    open.extend(g.nodes[n].after.iter().map(|&a| a as usize));
                }
            }
            seen[node]
        };
        let joined: Vec<(u64, Option<usize>)> =
            s.queue.streams.iter().filter(|(_, t)| t.capture == Some(handle)).map(|(&h, t)| (h, t.node)).collect();
        let unjoined = joined.iter().any(|&(h, n)| h != stream && n.is_some_and(|n| !reached(n)));
        for (h, _) in joined {
            if let Some(t) = s.queue.streams.get_mut(&h) {
                t.capture = None;
                t.node = None;
                t.node_waits.clear();
            }
        }
        if g.invalid || unjoined {
            s.graphs.remove(&handle);
            graph.set_if_wanted(0);
            if unjoined {
                return s.fail(CAPTURE_UNJOINED, "a stream that joined the capture was not joined back by an event");
            }
            return s.fail(CAPTURE_INVALIDATED, "a call that cannot be captured was made during the capture");
        }
        graph.set(handle)
    }
    cuStreamIsCapturing(stream: u64, status: Out<i32>) s {
        let stream = s.stream(stream)?;
        let capture = s.queue.streams.get(&stream).and_then(|s| s.capture);
        let invalid = capture.and_then(|c| s.graphs.get(&c)).is_some_and(|g| g.invalid);
        status.set(match capture { None => 0, Some(_) if invalid => 2, Some(_) => 1 })
    }
    cuStreamAttachMemAsync(_stream: u64, _p: u64, _bytes: usize, _flags: u32) _s { Ok(()) }
    cuGraphInstantiateWithFlags(exec: Out<u64>, graph: u64, _flags: u64) s {
        let Some(g) = s.graphs.get(&graph).cloned() else { return s.fail(INVALID_HANDLE, "not a graph") };
        let handle = s.handle();
        s.execs.insert(handle, g);
        exec.set(handle)
    }
    cuGraphUpload(exec: u64, _stream: u64) s {
        if s.execs.contains_key(&exec) { Ok(()) } else { s.fail(INVALID_HANDLE, "not an executable graph") }
    }
    cuGraphLaunch(exec: u64, stream: u64) s {
        let stream = s.stream(stream)?;
        s.no_capture(stream)?;
        let Some(g) = s.execs.get(&exec).cloned() else { return s.fail(INVALID_HANDLE, "not an executable graph") };
        s.queue.push_graph(stream, &g);
        Ok(())
    }

    cuEventCreate(event: Out<u64>, _flags: u32) s {
        let handle = s.handle();
        s.events.insert(handle, Event::default());
        event.set(handle)
    }
    cuEventRecord(event: u64, stream: u64) s {
        let stream = s.stream(stream)?;
        if !s.events.contains_key(&event) {
            return s.fail(INVALID_HANDLE, "not an event");
        }
        let from = s.queue.streams.get(&stream).cloned().unwrap_or_default();
        s.submit(stream, Work::Record(event))?;
        let now = s.queue.streams.get(&stream).cloned().unwrap_or_default();
        let Some(e) = s.events.get_mut(&event) else { return Ok(()) };
        match from.capture {
            Some(c) => e.node = Some((c, now.node)),
            None => {
                e.node = None;
                e.command = now.last;
            }
        }
        Ok(())
    }
    cuEventSynchronize(event: u64) s {
        let Some(e) = s.events.get(&event).cloned() else { return s.fail(INVALID_HANDLE, "not an event") };
        let targets: Vec<u64> = e.command.into_iter().collect();
        s.run(&targets)
    }
    cuEventQuery(event: u64) s {
        let Some(e) = s.events.get(&event).cloned() else { return s.fail(INVALID_HANDLE, "not an event") };
        // As for streams: a program that polls must not wait for ever.
        let targets: Vec<u64> = e.command.into_iter().collect();
        s.run(&targets)
    }
    cuEventElapsedTime(ms: Out<f32>, start: u64, end: u64) s { elapsed(s, &ms, start, end) }
    cuEventElapsedTime_v2(ms: Out<f32>, start: u64, end: u64) s { elapsed(s, &ms, start, end) }
}

fn occupancy(s: &mut State, n: &Out<i32>, function: u64, threads: i32, shared: usize) -> Outcome {
    let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
    let threads = u32::try_from(threads).unwrap_or(0);
    if threads == 0 || threads > 1024 {
        return Err(INVALID_VALUE);
    }
    n.set(s.profile.blocks_per_sm(&f.kernel, threads, u32::try_from(shared).unwrap_or(u32::MAX / 2)) as i32)
}

fn new_stream(s: &mut State, out: &Out<u64>, flags: u32) -> Outcome {
    current(s)?;
    let handle = s.handle();
    s.queue.streams.insert(handle, Stream { blocking: flags & 1 == 0, ..Stream::default() });
    out.set(handle)
}

/// Time between two events on the emulating host, which says nothing about a GPU.
fn elapsed(s: &mut State, ms: &Out<f32>, start: u64, end: u64) -> Outcome {
    let time = |h: u64| s.events.get(&h).map(|e| e.time);
    let (Some(a), Some(b)) = (time(start), time(end)) else { return Err(INVALID_HANDLE) };
    match (a, b) {
        (Some(a), Some(b)) => ms.set(b.saturating_duration_since(a).as_secs_f32() * 1e3),
        _ => s.fail(NOT_READY, "an event was never recorded, or its stream has not reached it"),
    }
}

entry_points! { false;
    warpsmithEmuSubAlloc(p: u64, bytes: u64) s {
        match s.device.arena.sub_alloc(p, bytes) {
            Ok(()) => Ok(()),
            Err(e) => s.fail(INVALID_VALUE, e),
        }
    }
    warpsmithEmuSubFree(p: u64, _bytes: u64) s {
        // What is queued may still use the part.
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        match s.device.arena.sub_free(p) {
            Ok(()) => Ok(()),
            Err(e) => s.finding(Kind::InvalidFree, INVALID_VALUE, e),
        }
    }
    warpsmithEmuReset() s {
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        s.sticky = None;
        s.queue.clear();
        s.findings.clear();
        s.reports.clear();
        s.texts.clear();
        Ok(())
    }
    warpsmithEmuConfigure(key: Text, value: Text) s {
        let (key, value) = (key.get()?, value.get()?);
        match (&key[..], Profile::find(&value), checks(&value), value.parse::<u64>()) {
            ("profile", Some(p), _, _) => {
                s.profile = p;
                s.settings.sms = p.sms;
            }
            ("checks", _, Some(c), _) => s.settings.checks = c,
            ("seed", _, _, Ok(n)) => {
                s.settings.seed = n;
                s.queue.reseed(n);
            }
            ("threads", _, _, Ok(n)) => s.settings.threads = n as usize,
            _ => return s.fail(INVALID_VALUE, format!("option {key}={value}: profile=sm_80|sm_90, checks=all|memory|none, seed=N, threads=N")),
        }
        Ok(())
    }
    warpsmithEmuReport(buffer: Out<u8>, capacity: usize, needed: Out<usize>) s {
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        let json = s.json();
        needed.set(json.len())?;
        if json.len() <= capacity && !buffer.0.is_null() {
            // SAFETY: the caller says how many bytes the buffer has.
            unsafe { std::ptr::copy_nonoverlapping(json.as_ptr(), buffer.0, json.len()) };
        }
        Ok(())
    }
}
