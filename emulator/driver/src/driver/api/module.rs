//! Modules, functions, occupancy.

use super::*;
use crate::ptx::Cause;

fn load(s: &mut State, out: &Out<u64>, image: &Host) -> Outcome {
    current(s)?;
    s.allowed_in_capture("loading a module")?;
    if image.0.is_null() {
        return Err(INVALID_VALUE);
    }
    let head = image.bytes(4)?;
    let text = match head {
        [0x50, 0xed, 0x55, 0xba] => match fatbin(image, s.profile.architecture()) {
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
        Err(e) => {
            let code = match e.cause {
                Cause::Text => INVALID_PTX,
                Cause::Version => UNSUPPORTED_PTX_VERSION,
                Cause::Memory => OUT_OF_MEMORY,
            };
            s.fail(code, e.to_string())
        }
    }
}

/// The PTX text of a fatbin for the newest architecture that the device can run. It must not be compressed.
fn fatbin(image: &Host, architecture: u32) -> Result<String, String> {
    let bad = |_| "the fatbin cannot be read".to_string();
    let word = |b: &[u8], at: usize, n: usize| {
        b.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0u64, |v, &x| v << 8 | u64::from(x)))
    };
    let header = image.bytes(16).map_err(bad)?;
    let total = 16 + word(header, 8, 8) as usize;
    let all = image.bytes(total).map_err(bad)?;
    let device = u64::from(architecture);
    let (mut compressed, mut newer) = (false, None);
    let mut best: Option<(u64, &[u8])> = None;
    let mut at = word(header, 6, 2) as usize;
    while at + 64 <= total {
        let (kind, head, size) = (word(all, at, 2), word(all, at + 4, 4) as usize, word(all, at + 8, 8) as usize);
        let (arch, flags) = (word(all, at + 28, 4), word(all, at + 40, 8));
        if head == 0 || size > total || at + head + size > total {
            break;
        }
        // Kind 1 is PTX, 2 machine code.
        if kind == 1 && flags & 0xf000 != 0 {
            compressed = true;
        } else if kind == 1 && arch > device {
            newer = Some(arch);
        } else if kind == 1 && best.is_none_or(|(a, _)| a <= arch) {
            best = Some((arch, &all[at + head..at + head + size]));
        }
        at += head + size;
    }
    if let Some((_, text)) = best {
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        return Ok(String::from_utf8_lossy(&text[..end]).into_owned());
    }
    Err(match newer {
        _ if compressed => {
            "the PTX in this fatbin is compressed: build it with nvcc --compress-mode=none, or load PTX text (nvcc -ptx)"
                .to_string()
        }
        Some(arch) => format!("the PTX in this fatbin is for sm_{arch}, the emulated device is sm_{device}"),
        None => "this fatbin holds no PTX, only machine code, which the emulator cannot run: build it with nvcc -gencode \
                 arch=compute_80,code=compute_80 --compress-mode=none"
            .to_string(),
    })
}

/// The text behind an error of this code, into the buffer that the options of `cuModuleLoadDataEx` name.
fn error_log(s: &State, code: u32, count: u32, options: &Host, values: &Host) {
    let read = |i: u32| {
        // SAFETY: the driver API requires `count` options and as many values.
        unsafe { (*options.0.cast::<u32>().add(i as usize), *values.0.cast::<usize>().add(i as usize)) }
    };
    let (mut buffer, mut size) = (0usize, 0usize);
    for i in 0..if options.0.is_null() || values.0.is_null() { 0 } else { count } {
        match read(i) {
            (5, v) => buffer = v,
            (6, v) => size = v,
            _ => {}
        }
    }
    let Some(text) = s.texts.get(&code).filter(|_| buffer != 0 && size > 0) else { return };
    let text = &text.as_bytes()[..text.as_bytes().len().min(size - 1)];
    // SAFETY: the program says that the buffer holds `size` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer as *mut u8, text.len());
        (buffer as *mut u8).add(text.len()).write(0);
    }
}

/// The block size that keeps most threads resident, and the blocks that fill the device with it.
fn potential(
    s: &mut State,
    grid: &Out<i32>,
    block: &Out<i32>,
    function: u64,
    shared_of: usize,
    shared: usize,
    limit: i32,
) -> Outcome {
    let Some(f) = s.functions.get(&function).cloned() else { return s.fail(INVALID_HANDLE, "not a function") };
    let max: u32 = f.kernel.maxntid.iter().product();
    let cap = if max > 0 { max } else { 1024 };
    let cap = if limit > 0 { cap.min(limit as u32) } else { cap };
    let bytes = |threads: u32| match shared_of {
        0 => shared,
        // SAFETY: the program gave a function of this type.
        f => unsafe { std::mem::transmute::<usize, extern "C" fn(i32) -> usize>(f)(threads as i32) },
    };
    let blocks = |t: u32| s.blocks_per_sm(&f.kernel, t, u32::try_from(bytes(t)).unwrap_or(u32::MAX / 2));
    let best = (1..=cap / 32).map(|w| 32 * w).max_by_key(|&t| (blocks(t) * t, t)).unwrap_or(32);
    grid.set((blocks(best) * s.profile.sms) as i32)?;
    block.set(best as i32)
}

fn no_link(s: &mut State) -> Outcome {
    s.fail(NOT_SUPPORTED, "the emulator has no linker: link with nvcc -dlink, or load one PTX module")
}

fn occupancy(s: &mut State, n: &Out<i32>, function: u64, threads: i32, shared: usize) -> Outcome {
    let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
    let threads = u32::try_from(threads).unwrap_or(0);
    if threads == 0 || threads > 1024 {
        return Err(INVALID_VALUE);
    }
    n.set(s.blocks_per_sm(&f.kernel, threads, u32::try_from(shared).unwrap_or(u32::MAX / 2)) as i32)
}

entry_points! { false;
    cuModuleUnload(module: u64) s {
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        let m = s.modules.remove(&module).ok_or(INVALID_HANDLE)?;
        s.functions.retain(|_, f| f.module != module);
        s.device.unload(&m);
        Ok(())
    }
}

entry_points! { true;
    cuModuleLoadData(module: Out<u64>, image: Host) s { load(s, &module, &image) }
    cuModuleLoadDataEx(module: Out<u64>, image: Host, n: u32, options: Host, values: Host) s {
        let result = load(s, &module, &image);
        if let Err(code @ (INVALID_PTX | UNSUPPORTED_PTX_VERSION)) = result {
            error_log(s, code, n, &options, &values);
        }
        result
    }
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
            // The stack frame of the machine code, where `ptxas -v` was given.
            3 => s.resources.get(&k.name).map_or(k.local_bytes, |r| r.stack),
            4 => s.registers(k),
            5 | 6 => s.profile.architecture(),
            8 => f.max_dynamic_shared.max((48 << 10) - k.shared_bytes.min(48 << 10)),
            9 => u32::MAX,
            7 | 10..=15 => 0,
            _ => return s.fail(INVALID_VALUE, format!("function attribute {attribute}: CUDA 13.0 knows 0 to 15")),
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
        } else if !(9..=15).contains(&attribute) {
            return s.fail(INVALID_VALUE, format!("function attribute {attribute} cannot be set: 8 to 15 can"));
        }
        Ok(())
    }
    cuFuncSetSharedMemConfig(_function: u64, _config: u32) _s { Ok(()) }
    cuFuncGetModule(module: Out<u64>, function: u64) s {
        let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
        module.set(f.module)
    }
    cuModuleGetFunctionCount(n: Out<u32>, module: u64) s {
        let Some(m) = s.modules.get(&module) else { return s.fail(INVALID_HANDLE, "not a module") };
        n.set(m.kernels.len() as u32)
    }
    cuLinkCreate_v2(_n: u32, _options: Host, _values: Host, _link: Out<u64>) s { no_link(s) }
    cuLinkAddData_v2(_link: u64, _kind: u32, _data: Host, _bytes: usize, _name: Text, _n: u32, _o: Host, _v: Host) s { no_link(s) }
    cuLinkComplete(_link: u64, _image: Out<usize>, _bytes: Out<usize>) s { no_link(s) }
    cuLinkDestroy(_link: u64) s { no_link(s) }
    cuFuncSetCacheConfig(_function: u64, _config: i32) _s { Ok(()) }
    cuOccupancyMaxActiveBlocksPerMultiprocessor(n: Out<i32>, function: u64, threads: i32, shared: usize) s {
        occupancy(s, &n, function, threads, shared)
    }
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n: Out<i32>, function: u64, threads: i32, shared: usize, _f: u32) s {
        occupancy(s, &n, function, threads, shared)
    }
    cuOccupancyMaxPotentialBlockSize(grid: Out<i32>, block: Out<i32>, function: u64, of: usize, shared: usize, limit: i32) s {
        potential(s, &grid, &block, function, of, shared, limit)
    }
    cuOccupancyMaxPotentialBlockSizeWithFlags(
            grid: Out<i32>, block: Out<i32>, function: u64, of: usize, shared: usize, limit: i32, _flags: u32) s {
        potential(s, &grid, &block, function, of, shared, limit)
    }
    cuOccupancyMaxActiveClusters(_n: Out<i32>, _function: u64, _config: Host) s {
        s.fail(NOT_SUPPORTED, "clusters are not supported by the emulator")
    }
    cuOccupancyMaxPotentialClusterSize(_n: Out<i32>, _function: u64, _config: Host) s {
        s.fail(NOT_SUPPORTED, "clusters are not supported by the emulator")
    }
    cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: u64, blocks: i32, _threads: i32) s {
        let Some(f) = s.functions.get(&function) else { return s.fail(INVALID_HANDLE, "not a function") };
        let per = s.profile.shared_per_sm / u32::try_from(blocks).unwrap_or(1).max(1);
        bytes.set(per.saturating_sub(1024 + f.kernel.shared_bytes) as usize)
    }
}
