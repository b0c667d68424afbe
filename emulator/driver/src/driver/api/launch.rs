//! Launches.

use super::*;

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
    // Registers are handed out to whole warps, in units of 8 per thread.
    let registers = s.registers(k);
    let needed = u64::from(registers.next_multiple_of(8)) * threads.next_multiple_of(32);
    if needed > u64::from(s.profile.regs_per_sm) {
        let text = format!(
            "{registers} registers of each of {threads} threads take {needed} registers: a block can have {}",
            s.profile.regs_per_sm
        );
        return refuse(s, LAUNCH_OUT_OF_RESOURCES, text);
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
    let room = u64::from(s.blocks_per_sm(k, threads as u32, shared)) * u64::from(s.profile.sms);
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
                // Ignored ones change no result: access policy, waiting policy, priority, memory sync domain.
                0 | 1 | 3 | 8 | 9 | 10 => {}
                // A cluster of one block is no cluster.
                4 if a.value[..3] == [1, 1, 1] => {}
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
}
