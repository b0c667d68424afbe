//! Device memory, pools, pinned host memory, copies and fills.

use super::*;

/// The pool of the device that always exists.
pub(in crate::driver) const DEFAULT_POOL: u64 = 0x900;

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
        return s.fail(
            OUT_OF_MEMORY,
            format!("{bytes} bytes asked for, {free} of {total} free (at first half of the host's memory at most)"),
        );
    };
    out.set(p)?;
    Ok(p)
}

fn allocate_in(s: &mut State, out: &Out<u64>, bytes: usize, pool: u64, stream: u64) -> Outcome {
    let stream = s.stream(stream)?;
    if let Some(capture) = s.queue.streams.get(&stream).and_then(|s| s.capture) {
        // The address is the graph's for as long as it exists; every run makes the memory anew.
        let at = allocate(s, out, bytes)?;
        s.device.arena.close(at);
        if let Some(g) = s.graphs.get_mut(&capture) {
            g.memory.push(at);
        }
        return s.submit(stream, Work::Open(at));
    }
    let Some(p) = s.pools.get(&pool) else {
        return s.fail(INVALID_HANDLE, format!("{pool:#x} is not a memory pool"));
    };
    if p.max > 0 && p.used + bytes as u64 > p.max {
        let text = format!("{bytes} bytes asked for, {} of the pool's {} in use", p.used, p.max);
        return s.fail(OUT_OF_MEMORY, text);
    }
    let at = allocate(s, out, bytes)?;
    if let Some(p) = s.pools.get_mut(&pool) {
        p.used += bytes as u64;
        p.used_high = p.used_high.max(p.used);
    }
    s.pool_of.insert(at, (pool, bytes as u64));
    s.device.arena.close(at);
    s.submit(stream, Work::Open(at))
}

fn allocate_host(s: &mut State, out: &Out<*mut c_void>, bytes: usize) -> Outcome {
    current(s)?;
    s.allowed_in_capture("allocating pinned memory")?;
    let layout = host_layout(bytes)?;
    // SAFETY: the layout has a size above 0.
    let m = unsafe { std::alloc::alloc_zeroed(layout) };
    if m.is_null() {
        return Err(OUT_OF_MEMORY);
    }
    s.pinned.insert(m as usize, bytes);
    out.set(m.cast())
}

/// Whether host bytes are pinned: copies of them are asynchronous.
fn pinned(s: &State, p: &Host, bytes: usize) -> bool {
    let inside = |(&at, &n): (&usize, &usize)| (p.0 as usize) >= at && (p.0 as usize) + bytes <= at + n;
    s.pinned.iter().any(inside) || s.registered.iter().any(inside)
}

fn capturing(s: &State, stream: u64) -> bool {
    s.queue.streams.get(&stream).is_some_and(|s| s.capture.is_some())
}

fn upload(s: &mut State, dst: u64, src: &Host, bytes: usize, stream: u64, wait: bool) -> Outcome {
    current(s)?;
    let stream = s.stream(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    host_range(s, "host-to-device copy", src, bytes)?;
    api_range(s, "host-to-device copy", dst, bytes as u64)?;
    let data = if pinned(s, src, bytes) || capturing(s, stream) {
        Bytes::Host(src.0 as usize, bytes)
    } else {
        Bytes::Staged(Arc::new(src.bytes(bytes)?.to_vec()))
    };
    s.submit(stream, Work::Upload(dst, data))?;
    if wait { s.synchronise(stream) } else { Ok(()) }
}

fn download(s: &mut State, dst: &Host, src: u64, bytes: usize, stream: u64, wait: bool) -> Outcome {
    current(s)?;
    let stream = s.stream(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    host_range(s, "device-to-host copy", dst, bytes)?;
    api_range(s, "device-to-host copy", src, bytes as u64)?;
    let asynchronous = pinned(s, dst, bytes) || capturing(s, stream);
    s.submit(stream, Work::Download(dst.0 as usize, src, bytes))?;
    // A copy to pageable memory returns when it is done.
    if wait || !asynchronous { s.synchronise(stream) } else { Ok(()) }
}

fn copy(s: &mut State, dst: u64, src: u64, bytes: usize, stream: u64) -> Outcome {
    current(s)?;
    let stream = s.stream(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    api_range(s, "copy to the device range", dst, bytes as u64)?;
    api_range(s, "copy from the device range", src, bytes as u64)?;
    let shared = (bytes as u64).saturating_sub(dst.abs_diff(src));
    if shared > 0 {
        let message = format!(
            "copy of {bytes} bytes from {src:#x} to {dst:#x}: {shared} bytes of the source, {}, are overwritten by the copy \
             itself, and whether before or after they are read is open: copy through another buffer",
            s.device.arena.locate(src.max(dst))
        );
        s.findings.push(Finding { kind: Kind::Overlap, message, place: None, count: 1 });
    }
    s.submit(stream, Work::Copy(dst, src, bytes as u64))
}

/// A copy whose direction the addresses tell.
fn copy_any(s: &mut State, dst: u64, src: u64, bytes: usize, stream: u64, wait: bool) -> Outcome {
    let host = |p: u64| Host(p as *mut c_void);
    match (s.device.arena.contains(dst), s.device.arena.contains(src)) {
        (true, true) => copy(s, dst, src, bytes, stream),
        (true, false) => upload(s, dst, &host(src), bytes, stream, wait),
        (false, true) => download(s, &host(dst), src, bytes, stream, wait),
        (false, false) => s.fail(NOT_SUPPORTED, "a copy from host to host is not supported by the emulator"),
    }
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_type: u32,
    src_host: usize,
    src_device: u64,
    src_array: usize,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: u32,
    dst_host: usize,
    dst_device: u64,
    dst_array: usize,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

/// A rectangle to copy, described by the program.
#[repr(transparent)]
pub struct Rectangle(*const Copy2D);

/// Row by row: every row is checked and copied as a copy of its own.
fn copy_2d(s: &mut State, r: &Rectangle, stream: u64, wait: bool) -> Outcome {
    current(s)?;
    // SAFETY: the driver API requires a valid description, null is checked.
    let Some(c) = (unsafe { r.0.as_ref() }) else { return Err(INVALID_VALUE) };
    // Host, device, unified; the other one is arrays.
    if !matches!(c.src_type, 1 | 2 | 4) || !matches!(c.dst_type, 1 | 2 | 4) {
        return s.fail(NOT_SUPPORTED, "copies from or to CUDA arrays are not supported by the emulator");
    }
    let pitch = |p: usize| if p == 0 { c.width } else { p };
    let (from, to) = (pitch(c.src_pitch), pitch(c.dst_pitch));
    if c.height > 1 && (from < c.src_x + c.width || to < c.dst_x + c.width) {
        return s.fail(INVALID_VALUE, "2D copy: the pitch is smaller than the width");
    }
    let src = if c.src_type == 1 { c.src_host as u64 } else { c.src_device };
    let dst = if c.dst_type == 1 { c.dst_host as u64 } else { c.dst_device };
    for row in 0..c.height {
        let src = src + (c.src_x + (c.src_y + row) * from) as u64;
        let dst = dst + (c.dst_x + (c.dst_y + row) * to) as u64;
        copy_any(s, dst, src, c.width, stream, wait)?;
    }
    Ok(())
}

/// A copy past the end of an allocation is refused when it is asked for.
fn api_range(s: &mut State, what: &str, at: u64, bytes: u64) -> Outcome {
    match s.device.check_range(at, bytes) {
        Ok(()) => Ok(()),
        Err(e) => s.finding(Kind::ApiBounds, INVALID_VALUE, format!("{what} of {e}")),
    }
}

fn fill(s: &mut State, dst: u64, value: u32, size: u32, n: usize, stream: u64) -> Outcome {
    current(s)?;
    let stream = s.stream(stream)?;
    if n == 0 {
        return Ok(());
    }
    if !dst.is_multiple_of(u64::from(size)) {
        return s
            .fail(INVALID_VALUE, format!("memset of {size}-byte elements at {dst:#x}: the address is not aligned"));
    }
    let Some(bytes) = (n as u64).checked_mul(u64::from(size)) else { return Err(INVALID_VALUE) };
    api_range(s, "memset", dst, bytes)?;
    s.submit(stream, Work::Fill(dst, value, size, n as u64))
}

fn fill_2d(s: &mut State, dst: u64, pitch: usize, value: u32, size: u32, w: usize, h: usize, stream: u64) -> Outcome {
    if h > 1 && pitch < w * size as usize {
        return s.fail(INVALID_VALUE, "2D memset: the pitch is smaller than the width");
    }
    (0..h).try_for_each(|row| fill(s, dst + (row * pitch) as u64, value, size, w, stream))
}

fn pool_value(p: &Pool, attribute: u32) -> Option<u64> {
    Some(match attribute {
        1..=3 => u64::from(p.reuse[attribute as usize - 1]),
        4 => p.threshold,
        // Memory is reserved exactly as long as it is in use.
        5 | 7 => p.used,
        6 | 8 => p.used_high,
        _ => return None,
    })
}

entry_points! { false;
    cuDeviceGetDefaultMemPool(pool: Out<u64>, dev: i32) s { device(s, dev)?; pool.set(DEFAULT_POOL) }
    cuDeviceGetMemPool(pool: Out<u64>, dev: i32) s { device(s, dev)?; pool.set(s.pool) }
    cuDeviceSetMemPool(dev: i32, pool: u64) s {
        device(s, dev)?;
        if !s.pools.contains_key(&pool) {
            return s.fail(INVALID_HANDLE, format!("{pool:#x} is not a memory pool"));
        }
        s.pool = pool;
        Ok(())
    }
    cuMemPoolCreate(pool: Out<u64>, properties: Host) s {
        // `CUmemPoolProps`: allocation type, handle types, location (type, id), security attributes, largest size.
        let p = properties.bytes(88)?;
        let word = |at: usize| u32::from_le_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]]);
        let (kind, handles, place, id) = (word(0), word(4), word(8), word(12));
        if kind != 1 || place != 1 || id != 0 {
            return s.fail(INVALID_VALUE, "a memory pool must be of pinned allocations (1) on device 0 (1, 0)");
        }
        if handles != 0 {
            return s.fail(NOT_SUPPORTED, "memory pools that other processes share are not supported by the emulator");
        }
        let max = u64::from(word(24)) | u64::from(word(28)) << 32;
        let handle = s.handle();
        s.pools.insert(handle, Pool { max, ..Pool::default() });
        pool.set(handle)
    }
    cuMemPoolDestroy(pool: u64) s {
        if pool == DEFAULT_POOL {
            return s.fail(INVALID_VALUE, "the default pool of a device cannot be destroyed");
        }
        if s.pools.remove(&pool).is_none() {
            return s.fail(INVALID_HANDLE, format!("{pool:#x} is not a memory pool"));
        }
        if s.pool == pool {
            s.pool = DEFAULT_POOL;
        }
        Ok(())
    }
    cuMemPoolSetAttribute(pool: u64, attribute: u32, value: Host) s {
        // The reuse policies are ints, the others 64-bit numbers.
        let bytes = value.bytes(if attribute <= 3 { 4 } else { 8 })?;
        let v = bytes.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
        let Some(p) = s.pools.get_mut(&pool) else {
            return s.fail(INVALID_HANDLE, format!("{pool:#x} is not a memory pool"));
        };
        match attribute {
            1..=3 => p.reuse[attribute as usize - 1] = v as u32,
            4 => p.threshold = v,
            // High-water marks can only be reset.
            6 | 8 if v == 0 => p.used_high = p.used,
            _ => return s.fail(INVALID_VALUE, format!("attribute {attribute} of a memory pool cannot be set to {v}")),
        }
        Ok(())
    }
    cuMemPoolGetAttribute(pool: u64, attribute: u32, value: Host) s {
        let Some(p) = s.pools.get(&pool) else {
            return s.fail(INVALID_HANDLE, format!("{pool:#x} is not a memory pool"));
        };
        let Some(v) = pool_value(p, attribute) else { return Err(INVALID_VALUE) };
        if attribute <= 3 { Out(value.0.cast::<u32>()).set(v as u32) } else { Out(value.0.cast::<u64>()).set(v) }
    }
    cuMemPoolTrimTo(pool: u64, _bytes: usize) s {
        if s.pools.contains_key(&pool) { Ok(()) } else { s.fail(INVALID_HANDLE, format!("{pool:#x} is not a memory pool")) }
    }
    cuMemFreeHost(p: Host) s {
        if !s.pinned.contains_key(&(p.0 as usize)) {
            return s.finding(Kind::InvalidFree, INVALID_VALUE, format!("{:p} is not pinned host memory", p.0));
        }
        // Copies that are still queued may use it.
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        let layout = host_layout(s.pinned.remove(&(p.0 as usize)).unwrap_or(0))?;
        // SAFETY: the address and size are those of an allocation of `allocate_host`.
        unsafe { std::alloc::dealloc(p.0.cast(), layout) };
        Ok(())
    }
    cuMemHostUnregister(p: Host) s {
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        match s.registered.remove(&(p.0 as usize)) {
            Some(_) => Ok(()),
            None => s.fail(HOST_MEMORY_NOT_REGISTERED, format!("{:p} is not registered host memory", p.0)),
        }
    }
}

entry_points! { true;
    cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) s {
        current(s)?;
        let (f, t) = s.device.arena.info();
        free.set_if_wanted(f as usize);
        total.set_if_wanted(t as usize);
        Ok(())
    }
    cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, p: u64) s {
        let Some(a) = s.device.arena.find(p) else { return s.fail(NOT_FOUND, format!("{p:#x} lies in no allocation")) };
        base.set_if_wanted(a.base);
        bytes.set_if_wanted(a.bytes as usize);
        Ok(())
    }
    cuMemAlloc_v2(p: Out<u64>, bytes: usize) s {
        s.allowed_in_capture("cuMemAlloc")?;
        allocate(s, &p, bytes).map(|_| ())
    }
    cuMemAllocPitch_v2(p: Out<u64>, pitch: Out<usize>, width: usize, height: usize, _element: u32) s {
        s.allowed_in_capture("cuMemAllocPitch")?;
        let row = width.next_multiple_of(512);
        let Some(bytes) = row.checked_mul(height) else { return Err(INVALID_VALUE) };
        allocate(s, &p, bytes)?;
        pitch.set(row)
    }
    cuMemAllocAsync(p: Out<u64>, bytes: usize, stream: u64) s { let pool = s.pool; allocate_in(s, &p, bytes, pool, stream) }
    cuMemAllocFromPoolAsync(p: Out<u64>, bytes: usize, pool: u64, stream: u64) s { allocate_in(s, &p, bytes, pool, stream) }
    cuMemFree_v2(p: u64) s {
        current(s)?;
        if p == 0 {
            return Ok(());
        }
        s.allowed_in_capture("cuMemFree")?;
        // The call waits for everything that may still use the memory.
        s.synchronise_all()?;
        s.free(p, "cuMemFree")
    }
    cuMemFreeAsync(p: u64, stream: u64) s {
        current(s)?;
        let stream = s.stream(stream)?;
        if p == 0 {
            return Ok(());
        }
        if let Some(c) = s.queue.streams.get(&stream).and_then(|s| s.capture) {
            if s.graphs.get(&c).is_some_and(|g| g.memory.contains(&p)) {
                return s.submit(stream, Work::Close(p));
            }
            s.invalidate(c);
            return s.fail(INVALID_VALUE, "a capture frees memory that it did not allocate: free it outside");
        }
        if s.device.arena.find(p).is_none_or(|a| a.base != p) {
            return s.free(p, "cuMemFreeAsync");
        }
        if !s.freeing.insert(p) {
            let what = s.device.arena.locate(p);
            let text = format!("double free of {p:#x}: {what}, a stream has been asked to free it already");
            return s.finding(Kind::InvalidFree, INVALID_VALUE, text);
        }
        s.submit(stream, Work::Free(p))
    }
    cuMemHostAlloc(p: Out<*mut c_void>, bytes: usize, _flags: u32) s { allocate_host(s, &p, bytes) }
    cuMemAllocHost_v2(p: Out<*mut c_void>, bytes: usize) s { allocate_host(s, &p, bytes) }
    cuMemHostGetFlags(flags: Out<u32>, p: Host) s { if pinned(s, &p, 1) { flags.set(0) } else { Err(INVALID_VALUE) } }
    cuMemHostRegister_v2(p: Host, bytes: usize, _flags: u32) s {
        current(s)?;
        host_range(s, "cuMemHostRegister", &p, bytes)?;
        if pinned(s, &p, 1) {
            return s.fail(HOST_MEMORY_ALREADY_REGISTERED, format!("{:p} is pinned already", p.0));
        }
        s.registered.insert(p.0 as usize, bytes);
        Ok(())
    }
    cuMemHostGetDevicePointer_v2(_p: Out<u64>, _host: Host, _flags: u32) s {
        s.fail(NOT_SUPPORTED, "mapped host memory: the emulator keeps device pointers apart from host pointers")
    }
    cuMemAllocManaged(_p: Out<u64>, _bytes: usize, _flags: u32) s {
        s.fail(NOT_SUPPORTED, "managed memory: the emulator keeps device pointers apart from host pointers")
    }
    cuMemAdvise_v2(_p: u64, _bytes: usize, _advice: u32, _location: u64) s { s.fail(NOT_SUPPORTED, "managed memory") }
    cuMemAdvise(_p: u64, _bytes: usize, _advice: u32, _dev: i32) s { s.fail(NOT_SUPPORTED, "managed memory") }
    cuMemPrefetchAsync_v2(_p: u64, _bytes: usize, _location: u64, _flags: u32, _stream: u64) s {
        s.fail(NOT_SUPPORTED, "managed memory")
    }
    cuMemPrefetchAsync(_p: u64, _bytes: usize, _dev: i32, _stream: u64) s { s.fail(NOT_SUPPORTED, "managed memory") }
    cuImportExternalMemory(_memory: Out<u64>, _description: Host) s {
        s.fail(NOT_SUPPORTED, "external memory is not supported by the emulator")
    }
    cuExternalMemoryGetMappedBuffer(_p: Out<u64>, _memory: u64, _description: Host) s {
        s.fail(INVALID_HANDLE, "not external memory")
    }
    cuDestroyExternalMemory(_memory: u64) s { s.fail(INVALID_HANDLE, "not external memory") }

    cuMemcpyHtoD_v2(dst: u64, src: Host, bytes: usize) s { upload(s, dst, &src, bytes, 0, true) }
    cuMemcpyHtoDAsync_v2(dst: u64, src: Host, bytes: usize, stream: u64) s { upload(s, dst, &src, bytes, stream, false) }
    cuMemcpyDtoH_v2(dst: Host, src: u64, bytes: usize) s { download(s, &dst, src, bytes, 0, true) }
    cuMemcpyDtoHAsync_v2(dst: Host, src: u64, bytes: usize, stream: u64) s { download(s, &dst, src, bytes, stream, false) }
    cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) s { copy(s, dst, src, bytes, 0) }
    cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: u64) s { copy(s, dst, src, bytes, stream) }
    cuMemcpy(dst: u64, src: u64, bytes: usize) s { copy_any(s, dst, src, bytes, 0, true) }
    cuMemcpyAsync(dst: u64, src: u64, bytes: usize, stream: u64) s { copy_any(s, dst, src, bytes, stream, false) }
    cuMemcpyPeer(dst: u64, _to: u64, src: u64, _from: u64, bytes: usize) s { copy(s, dst, src, bytes, 0) }
    cuMemcpyPeerAsync(dst: u64, _to: u64, src: u64, _from: u64, bytes: usize, stream: u64) s { copy(s, dst, src, bytes, stream) }
    cuMemcpy2D_v2(r: Rectangle) s { copy_2d(s, &r, 0, true) }
    cuMemcpy2DUnaligned_v2(r: Rectangle) s { copy_2d(s, &r, 0, true) }
    cuMemcpy2DAsync_v2(r: Rectangle, stream: u64) s { copy_2d(s, &r, stream, false) }

    cuMemsetD8_v2(dst: u64, value: u8, n: usize) s { fill(s, dst, value.into(), 1, n, 0) }
    cuMemsetD16_v2(dst: u64, value: u16, n: usize) s { fill(s, dst, value.into(), 2, n, 0) }
    cuMemsetD32_v2(dst: u64, value: u32, n: usize) s { fill(s, dst, value, 4, n, 0) }
    cuMemsetD8Async(dst: u64, value: u8, n: usize, stream: u64) s { fill(s, dst, value.into(), 1, n, stream) }
    cuMemsetD16Async(dst: u64, value: u16, n: usize, stream: u64) s { fill(s, dst, value.into(), 2, n, stream) }
    cuMemsetD32Async(dst: u64, value: u32, n: usize, stream: u64) s { fill(s, dst, value, 4, n, stream) }
    cuMemsetD2D8_v2(dst: u64, pitch: usize, v: u8, w: usize, h: usize) s { fill_2d(s, dst, pitch, v.into(), 1, w, h, 0) }
    cuMemsetD2D32_v2(dst: u64, pitch: usize, v: u32, w: usize, h: usize) s { fill_2d(s, dst, pitch, v, 4, w, h, 0) }
    cuMemsetD2D8Async(dst: u64, pitch: usize, v: u8, w: usize, h: usize, stream: u64) s {
        fill_2d(s, dst, pitch, v.into(), 1, w, h, stream)
    }
    cuMemsetD2D32Async(dst: u64, pitch: usize, v: u32, w: usize, h: usize, stream: u64) s {
        fill_2d(s, dst, pitch, v, 4, w, h, stream)
    }
}
