//! The driver API call by call: what cudarc and cust ask for, and the driver's own rules and codes.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{self, cudaError_enum as Code};
use cudarc::driver::{LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::Ptx;

use crate::{Turn, one_block};

/// What the safe layer of cudarc 0.19 calls, over all CUDA versions it knows.
const CUDARC: &str = "
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit
    cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize
    cuDestroyExternalMemory cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool
    cuDeviceGetMemPool cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2
    cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2 cuEventCreate cuEventDestroy_v2
    cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery cuEventRecord cuEventSynchronize
    cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuGetErrorName
    cuGetErrorString cuGraphDestroy cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload
    cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel cuMemAdvise_v2
    cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost cuMemFree_v2
    cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute cuMemPoolSetAttribute
    cuMemPoolTrimTo cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2
    cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async cuMemsetD8_v2 cuModuleGetFunction
    cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload cuOccupancyAvailableDynamicSMemPerBlock
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
    cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync cuStreamBeginCapture_v2
    cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamEndCapture cuStreamIsCapturing
    cuStreamSynchronize cuStreamWaitEvent";

/// What cust 0.3 and hand-written programs call besides, without arrays, textures and graphs made node by node.
const OTHERS: &str = "
    cuCtxCreate_v2 cuCtxGetApiVersion cuCtxGetDevice cuCtxGetFlags cuCtxGetSharedMemConfig cuCtxPopCurrent_v2
    cuCtxPushCurrent_v2 cuCtxSetSharedMemConfig cuDeviceCanAccessPeer cuDeviceComputeCapability
    cuDevicePrimaryCtxGetState cuDevicePrimaryCtxReset_v2 cuDevicePrimaryCtxSetFlags_v2 cuDriverGetVersion
    cuEventRecordWithFlags cuFuncGetModule cuFuncSetSharedMemConfig cuLaunchKernelEx cuLinkAddData_v2 cuLinkComplete
    cuLinkCreate_v2 cuLinkDestroy cuMemAdvise cuMemAllocHost_v2 cuMemAllocPitch_v2 cuMemGetAddressRange_v2
    cuMemHostGetDevicePointer_v2 cuMemHostGetFlags cuMemHostRegister_v2 cuMemHostUnregister cuMemPrefetchAsync cuMemcpy
    cuMemcpyAsync cuMemcpyPeer cuMemcpy2D_v2 cuMemcpy2DUnaligned_v2 cuMemcpy2DAsync_v2 cuMemsetD16Async cuMemsetD16_v2
    cuMemsetD32Async cuMemsetD32_v2 cuMemsetD2D8_v2 cuMemsetD2D32_v2 cuMemsetD2D8Async cuMemsetD2D32Async
    cuModuleGetFunctionCount cuModuleLoadDataEx cuModuleLoadFatBinary cuStreamGetCtx cuStreamGetFlags
    cuStreamGetPriority cuStreamQuery cuThreadExchangeStreamCaptureMode
    warpsmithEmuSubAlloc warpsmithEmuSubFree warpsmithEmuReset warpsmithEmuConfigure warpsmithEmuReport";

#[test]
fn every_call_of_cudarc_and_cust_is_there() {
    warpsmith_emulator::install().unwrap();
    // SAFETY: the library is loaded, which this only looks up.
    let library = unsafe { libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
    assert!(!library.is_null());
    for name in CUDARC.split_whitespace().chain(OTHERS.split_whitespace()) {
        let c = std::ffi::CString::new(name).unwrap();
        // SAFETY: the handle was just returned.
        assert!(!unsafe { libc::dlsym(library, c.as_ptr()) }.is_null(), "{name} is missing");
    }
    // Where cargo keeps cudarc's source, the list above must be all it calls.
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| h + "/.cargo")).unwrap_or_default();
    let sources = std::fs::read_dir(format!("{home}/registry/src")).into_iter().flatten().flatten();
    let files: Vec<_> = sources
        .filter_map(|r| std::fs::read_dir(r.path()).ok())
        .flatten()
        .flatten()
        .filter(|c| c.file_name().to_string_lossy().starts_with("cudarc-0.19"))
        .map(|c| c.path().join("src/driver/result.rs"))
        .filter(|f| f.is_file())
        .collect();
    if files.is_empty() {
        eprintln!("SKIPPED: the source of cudarc was not found; the list of its calls was not compared");
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for part in text.split("sys::cu").skip(1).filter(|p| p.starts_with(|c: char| c.is_ascii_uppercase())) {
            let rest: String = part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let name = format!("cu{rest}");
            assert!(CUDARC.split_whitespace().any(|n| n == name), "{}: {name} is not in the list", file.display());
        }
    }
}

/// The text of the latest error of a code.
fn why(code: Code) -> String {
    cudarc::driver::DriverError(code).error_string().unwrap().to_string_lossy().into_owned()
}

#[track_caller]
fn refused(got: sys::CUresult, code: Code, words: &str) {
    assert_eq!(got, code);
    assert!(why(code).contains(words), "`{words}` is missing in: {}", why(code));
}

#[track_caller]
fn ok(got: sys::CUresult) {
    assert!(got == Code::CUDA_SUCCESS, "{got:?}: {}", why(got));
}

#[test]
fn contexts_of_ones_own() {
    let _t = Turn::new();
    // SAFETY: every call gets valid places; contexts are destroyed once.
    unsafe {
        let mut before = null_mut();
        ok(sys::cuCtxGetCurrent(&mut before));
        let (mut a, mut b, mut now) = (null_mut(), null_mut(), null_mut());
        ok(sys::cuCtxCreate_v2(&mut a, 0, 0));
        ok(sys::cuCtxCreate_v2(&mut b, 0, 0));
        ok(sys::cuCtxGetCurrent(&mut now));
        assert_eq!(now, b);
        ok(sys::cuCtxPopCurrent_v2(&mut now));
        assert_eq!(now, b);
        ok(sys::cuCtxGetCurrent(&mut now));
        assert_eq!(now, a);
        ok(sys::cuCtxPushCurrent_v2(b));
        // Another thread has none until it is given one.
        let address = a as usize;
        std::thread::spawn(move || {
            let mut p = 0;
            assert_eq!(sys::cuMemAlloc_v2(&mut p, 16), Code::CUDA_ERROR_INVALID_CONTEXT);
            ok(sys::cuCtxSetCurrent(address as sys::CUcontext));
            ok(sys::cuMemAlloc_v2(&mut p, 16));
            ok(sys::cuMemsetD8_v2(p, 0, 16));
            ok(sys::cuMemFree_v2(p));
        })
        .join()
        .unwrap();
        ok(sys::cuCtxDestroy_v2(b));
        ok(sys::cuCtxGetCurrent(&mut now));
        assert_eq!(now, a, "destroying the current context takes it off the stack");
        ok(sys::cuCtxDestroy_v2(a));
        refused(sys::cuCtxDestroy_v2(a), Code::CUDA_ERROR_INVALID_CONTEXT, "not a context made by cuCtxCreate");
        refused(sys::cuCtxPushCurrent_v2(a), Code::CUDA_ERROR_INVALID_CONTEXT, "not a context");
        ok(sys::cuCtxGetCurrent(&mut now));
        assert_eq!(now, before);
        let mut dev = 7;
        refused(sys::cuDeviceGet(&mut dev, 1), Code::CUDA_ERROR_INVALID_DEVICE, "one device, 0");
    }
}

#[test]
fn memory_can_be_made_short() {
    let t = Turn::new();
    let (free, total) = t.context.mem_get_info().unwrap();
    let most = total - free + 4096;
    warpsmith_emulator::configure("memory_bytes", &most.to_string()).unwrap();
    let full = Code::CUDA_ERROR_OUT_OF_MEMORY;
    let variable =
        || t.context.load_module(Ptx::from_src(".version 8.0 .target sm_80 .address_size 64 .global .b8 x[16];"));
    // SAFETY: the memory is freed once and never used.
    unsafe {
        assert_eq!(result::malloc_sync(4097).unwrap_err().0, full);
        let memory = result::malloc_sync(4096).unwrap();
        assert_eq!(t.context.mem_get_info().unwrap(), (0, most));
        assert_eq!(variable().unwrap_err().0, full, "a module's variables take device memory too");
        result::free_sync(memory).unwrap();
    }
    variable().unwrap();
    warpsmith_emulator::configure("memory_bytes", &total.to_string()).unwrap();
}

#[test]
fn pools_keep_books_and_limits() {
    let t = Turn::new();
    let owner = t.context.new_stream().unwrap();
    let stream = owner.cu_stream();
    // SAFETY: every call gets valid places; memory and pools are given back once.
    unsafe {
        let mut properties: sys::CUmemPoolProps = std::mem::zeroed();
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = 0;
        properties.maxSize = 1 << 20;
        let pool = result::mem_pool::create(&properties).unwrap();
        let value = |attribute| {
            let mut v = 0u64;
            result::mem_pool::get_attribute(pool, attribute, (&raw mut v).cast()).unwrap();
            v
        };
        use sys::CUmemPool_attribute_enum::*;
        let mut keep = 1u64 << 30;
        result::mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut keep).cast()).unwrap();
        assert_eq!(value(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), keep);
        let a = result::mem_pool::alloc_async(pool, 1000, stream).unwrap();
        let b = result::mem_pool::alloc_async(pool, 500, stream).unwrap();
        assert_eq!(value(CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 1500);
        for p in [a, b] {
            result::memset_d8_async(p, 1, 500, stream).unwrap();
        }
        result::free_async(a, stream).unwrap();
        result::stream::synchronize(stream).unwrap();
        assert_eq!(value(CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 500);
        assert_eq!(value(CU_MEMPOOL_ATTR_USED_MEM_HIGH), 1500);
        let mut zero = 0u64;
        result::mem_pool::set_attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, (&raw mut zero).cast()).unwrap();
        assert_eq!(value(CU_MEMPOOL_ATTR_USED_MEM_HIGH), 500);
        let mut p = 0;
        let code = sys::cuMemAllocFromPoolAsync(&mut p, 1 << 20, pool, stream);
        refused(code, Code::CUDA_ERROR_OUT_OF_MEMORY, "500 of the pool's 1048576 in use");
        result::mem_pool::trim_to(pool, 0).unwrap();
        // The pool of the device, and the default one.
        result::device::set_mem_pool(0, pool).unwrap();
        assert_eq!(result::device::get_mem_pool(0).unwrap(), pool);
        let c = result::malloc_async(stream, 100).unwrap();
        assert_eq!(value(CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 600);
        result::memset_d8_async(c, 1, 100, stream).unwrap();
        for p in [b, c] {
            result::free_async(p, stream).unwrap();
        }
        result::mem_pool::destroy(pool).unwrap();
        let default = result::device::get_default_mem_pool(0).unwrap();
        assert_eq!(result::device::get_mem_pool(0).unwrap(), default);
        assert!(result::mem_pool::destroy(default).is_err());
        let code = sys::cuMemPoolTrimTo(pool, 0);
        refused(code, Code::CUDA_ERROR_INVALID_HANDLE, "not a memory pool");
        result::stream::synchronize(stream).unwrap();
    }
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
}

#[test]
fn pinned_copies_are_late_and_pageable_ones_are_not() {
    let t = Turn::new();
    let stream = t.context.new_stream().unwrap();
    // SAFETY: sizes and lifetimes are right; memory is given back once.
    unsafe {
        let mut p = null_mut();
        ok(sys::cuMemAllocHost_v2(&mut p, 64));
        let pinned = std::slice::from_raw_parts_mut(p.cast::<u32>(), 16);
        let d = result::malloc_sync(64).unwrap();
        pinned.fill(1);
        ok(sys::cuMemcpyHtoDAsync_v2(d, p, 64, stream.cu_stream()));
        // The copy has not run: it takes what the memory holds when it does. The bug shows as wrong data.
        pinned.fill(2);
        let mut back = [0u32; 16];
        ok(sys::cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), d, 64, stream.cu_stream()));
        assert_eq!(back, [2; 16], "a copy to pageable memory waits");
        let mut pageable = [3u32; 16];
        ok(sys::cuMemcpyHtoDAsync_v2(d, pageable.as_ptr().cast(), 64, stream.cu_stream()));
        pageable.fill(4);
        ok(sys::cuMemcpyDtoHAsync_v2(p, d, 64, stream.cu_stream()));
        assert_eq!(pinned[0], 2, "a copy to pinned memory does not wait");
        ok(sys::cuStreamSynchronize(stream.cu_stream()));
        assert_eq!(pinned, [3; 16], "pageable memory was read when the copy was asked for");
        // Registered memory behaves like pinned memory.
        ok(sys::cuMemHostRegister_v2(pageable.as_mut_ptr().cast(), 64, 0));
        let again = sys::cuMemHostRegister_v2(pageable.as_mut_ptr().cast(), 64, 0);
        refused(again, Code::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "pinned already");
        ok(sys::cuMemcpyDtoHAsync_v2(pageable.as_mut_ptr().cast(), d, 64, stream.cu_stream()));
        assert_eq!(pageable, [4; 16]);
        ok(sys::cuMemHostUnregister(pageable.as_mut_ptr().cast()));
        assert_eq!(pageable, [3; 16], "what was queued has run");
        let code = sys::cuMemHostUnregister(pageable.as_mut_ptr().cast());
        refused(code, Code::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "not registered host memory");
        // Freeing pinned memory waits for the copies that use it.
        ok(sys::cuMemcpyHtoDAsync_v2(d, p, 64, stream.cu_stream()));
        ok(sys::cuMemFreeHost(p));
        ok(sys::cuMemcpyDtoD_v2(d, d + 32, 32));
        ok(sys::cuMemFree_v2(d));
        assert_eq!(sys::cuMemFreeHost(p), Code::CUDA_ERROR_INVALID_VALUE);
    }
    let findings = warpsmith_emulator::report().unwrap().findings;
    assert!(findings.len() == 1 && findings[0].text.contains("is not pinned host memory"), "{findings:?}");
}

fn rectangle() -> sys::CUDA_MEMCPY2D {
    sys::CUDA_MEMCPY2D {
        srcXInBytes: 0,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        srcHost: std::ptr::null(),
        srcDevice: 0,
        srcArray: null_mut(),
        srcPitch: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
        dstHost: null_mut(),
        dstDevice: 0,
        dstArray: null_mut(),
        dstPitch: 0,
        WidthInBytes: 0,
        Height: 0,
    }
}

#[test]
fn rectangles() {
    let t = Turn::new();
    let stream = t.context.new_stream().unwrap();
    // SAFETY: sizes are right; memory is given back once.
    unsafe {
        let (mut d, mut pitch) = (0, 0);
        ok(sys::cuMemAllocPitch_v2(&mut d, &mut pitch, 20, 6, 4));
        assert_eq!(pitch % 512, 0);
        // On the stream of the copy: nothing would order it after work on the default stream.
        ok(sys::cuMemsetD2D32Async(d, pitch, 9, 5, 6, stream.cu_stream()));
        let x: Vec<u32> = (0..24).collect();
        // Rows 1 to 3, columns 1 to 2 of a 4 x 6 host matrix go to row 2, column 3 of the device's.
        let mut c = rectangle();
        c.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        c.srcHost = x.as_ptr().cast();
        c.srcPitch = 24;
        c.srcXInBytes = 4;
        c.srcY = 1;
        c.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        c.dstDevice = d;
        c.dstPitch = pitch;
        c.dstXInBytes = 12;
        c.dstY = 2;
        c.WidthInBytes = 8;
        c.Height = 3;
        ok(sys::cuMemcpy2DAsync_v2(&c, stream.cu_stream()));
        ok(sys::cuStreamSynchronize(stream.cu_stream()));
        let mut back = [0u32; 30];
        let mut b = rectangle();
        b.srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        b.srcDevice = d;
        b.srcPitch = pitch;
        b.dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
        b.dstHost = back.as_mut_ptr().cast();
        b.WidthInBytes = 20;
        b.Height = 6;
        ok(sys::cuMemcpy2D_v2(&b));
        for row in 0..6 {
            for col in 0..5 {
                let inside = (2..5).contains(&row) && (3..5).contains(&col);
                let want = if inside { x[(row - 2 + 1) * 6 + col - 3 + 1] } else { 9 };
                assert_eq!(back[row * 5 + col], want, "({row},{col})");
            }
        }
        // One row too many reaches past the allocation.
        b.Height = 7;
        assert_eq!(sys::cuMemcpy2D_v2(&b), Code::CUDA_ERROR_INVALID_VALUE);
        ok(sys::cuMemFree_v2(d));
    }
    let findings = warpsmith_emulator::report().unwrap().findings;
    assert!(findings.len() == 1 && findings[0].kind == "api-bounds", "{findings:?}");
}

#[test]
fn events_and_times() {
    let t = Turn::new();
    let stream = t.context.new_stream().unwrap();
    // SAFETY: handles are valid unless the test says otherwise.
    unsafe {
        let event = |flags| {
            let mut e = null_mut();
            ok(sys::cuEventCreate(&mut e, flags));
            e
        };
        let (a, b, untimed) = (event(0), event(1), event(2));
        let mut ms = -1.0;
        let code = sys::cuEventElapsedTime(&mut ms, a, b);
        refused(code, Code::CUDA_ERROR_INVALID_HANDLE, "never recorded");
        ok(sys::cuEventRecord(a, stream.cu_stream()));
        ok(sys::cuEventRecord(b, stream.cu_stream()));
        ok(sys::cuEventRecord(untimed, stream.cu_stream()));
        refused(sys::cuEventElapsedTime(&mut ms, a, b), Code::CUDA_ERROR_NOT_READY, "has not reached an event");
        ok(sys::cuEventSynchronize(b));
        ok(sys::cuEventElapsedTime(&mut ms, a, b));
        assert!(ms >= 0.0);
        let code = sys::cuEventElapsedTime(&mut ms, a, untimed);
        refused(code, Code::CUDA_ERROR_INVALID_HANDLE, "CU_EVENT_DISABLE_TIMING");
        ok(sys::cuEventQuery(untimed));
        for e in [a, b, untimed] {
            ok(sys::cuEventDestroy_v2(e));
        }
        assert_eq!(sys::cuEventDestroy_v2(a), Code::CUDA_ERROR_INVALID_HANDLE);
        let mut p = 9;
        ok(sys::cuStreamGetPriority(stream.cu_stream(), &mut p));
        assert_eq!(p, 0);
        let mut s = null_mut();
        ok(sys::cuStreamCreateWithPriority(&mut s, 1, -100));
        ok(sys::cuStreamGetPriority(s, &mut p));
        assert_eq!(p, -5);
        ok(sys::cuStreamDestroy_v2(s));
        assert_eq!(sys::cuStreamDestroy_v2(s), Code::CUDA_ERROR_INVALID_HANDLE);
    }
}

#[test]
fn handles_that_are_none() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let bad = 0x1234_5670_usize;
    // SAFETY: the emulator answers wrong handles with errors.
    unsafe {
        let (mut i, mut u, mut h) = (0i32, 0usize, null_mut());
        let invalid = Code::CUDA_ERROR_INVALID_HANDLE;
        let (s, e) = (bad as sys::CUstream, bad as sys::CUevent);
        refused(sys::cuStreamSynchronize(s), invalid, "is not a stream");
        refused(sys::cuStreamWaitEvent(stream.cu_stream(), e, 0), invalid, "not an event");
        refused(sys::cuEventRecord(e, stream.cu_stream()), invalid, "not an event");
        refused(sys::cuEventSynchronize(e), invalid, "not an event");
        refused(sys::cuFuncGetAttribute(&mut i, ATTRIBUTE, bad as _), invalid, "not a function");
        let name = c"speak".as_ptr();
        refused(sys::cuModuleGetFunction(&mut h, bad as _, name), invalid, "not a module");
        let mut p = 0;
        refused(sys::cuModuleGetGlobal_v2(&mut p, &mut u, bad as _, name), invalid, "not a module");
        let none = null_mut::<*mut c_void>();
        refused(sys::cuLaunchKernel(bad as _, 1, 1, 1, 1, 1, 1, 0, null_mut(), none, none), invalid, "not a function");
        refused(sys::cuGraphLaunch(bad as _, stream.cu_stream()), invalid, "not an executable graph");
        let mut exec = null_mut();
        refused(sys::cuGraphInstantiateWithFlags(&mut exec, bad as _, 0), invalid, "not a graph");
        refused(sys::cuMemAllocFromPoolAsync(&mut p, 16, bad as _, null_mut()), invalid, "not a memory pool");
        assert_eq!(sys::cuModuleUnload(bad as _), invalid);
        assert_eq!(sys::cuGraphDestroy(bad as _), invalid);
        assert_eq!(sys::cuMemcpyDtoDAsync_v2(16, 16, 4, s), invalid);
        let m = t.context.load_module(Ptx::from_src(crate::BASIC)).unwrap();
        let text = m.load_function("speek").unwrap_err().error_string().unwrap().to_string_lossy().into_owned();
        assert!(text.contains("no kernel `speek` in this module; it has") && text.contains("speak"), "{text}");
    }
}

const ATTRIBUTE: sys::CUfunction_attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_NUM_REGS;

#[test]
fn launches_with_attributes() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let f = t.kernel("vector_add");
    let x = stream.clone_htod(&[1f32; 64]).unwrap();
    let y = stream.alloc_zeros::<f32>(64).unwrap();
    use cudarc::driver::DevicePtr;
    let ((dx, _a), (dy, _b)) = (x.device_ptr(&stream), y.device_ptr(&stream));
    let mut n = 64i32;
    let (mut px, mut py) = (dx, dy);
    let mut params: [*mut c_void; 4] =
        [(&raw mut px).cast(), (&raw mut px).cast(), (&raw mut py).cast(), (&raw mut n).cast()];
    // SAFETY: the arguments are those of the kernel; `cu_function` is valid while `f` lives.
    unsafe {
        let mut attributes: [sys::CUlaunchAttribute; 1] = std::mem::zeroed();
        let mut config: sys::CUlaunchConfig = std::mem::zeroed();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (64, 1, 1);
        config.hStream = stream.cu_stream();
        let function = f.cu_function();
        ok(sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), null_mut()));
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [2f32; 64]);

        config.numAttrs = 1;
        attributes[0].id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
        attributes[0].value.cooperative = 1;
        config.attrs = attributes.as_mut_ptr();
        ok(sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), null_mut()));
        config.gridDimX = 100_000;
        let code = sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), null_mut());
        refused(code, Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "are resident together");
        config.gridDimX = 1;
        attributes[0].id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        config.attrs = attributes.as_mut_ptr();
        let code = sys::cuLaunchKernelEx(&config, function, params.as_mut_ptr(), null_mut());
        refused(code, Code::CUDA_ERROR_NOT_SUPPORTED, "launch attribute 6 is not supported");
        // The packed form of arguments.
        let packed = [dx, dx, dy, 64];
        let mut bytes = 28usize;
        let mut extra: [*mut c_void; 5] = [1 as _, packed.as_ptr() as _, 2 as _, (&raw mut bytes).cast(), null_mut()];
        let (one, none) = (1, null_mut());
        ok(sys::cuLaunchKernel(function, one, 1, 1, 64, 1, 1, 0, stream.cu_stream(), none, extra.as_mut_ptr()));
        ok(sys::cuStreamSynchronize(stream.cu_stream()));
        let code = sys::cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, stream.cu_stream(), null_mut(), null_mut());
        refused(code, Code::CUDA_ERROR_INVALID_VALUE, "takes 4 arguments, none were given");
    }
    assert_eq!(warpsmith_emulator::report().unwrap().of("vector_add").len(), 3);
}

#[test]
fn fatbins() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    // SAFETY: the images are whole.
    unsafe {
        let mut module = null_mut();
        ok(sys::cuModuleLoadData(&mut module, include_bytes!("../kernels/bundle.plain.fatbin").as_ptr().cast()));
        let mut function = null_mut();
        ok(sys::cuModuleGetFunction(&mut function, module, c"twice".as_ptr()));
        let x = stream.clone_htod(&(0..100).collect::<Vec<i32>>()).unwrap();
        let y = stream.alloc_zeros::<i32>(100).unwrap();
        use cudarc::driver::DevicePtr;
        let ((mut dx, _a), (mut dy, _b), mut n) = (x.device_ptr(&stream), y.device_ptr(&stream), 100i32);
        let mut params: [*mut c_void; 3] = [(&raw mut dx).cast(), (&raw mut dy).cast(), (&raw mut n).cast()];
        let (p, none) = (params.as_mut_ptr(), null_mut());
        ok(sys::cuLaunchKernel(function, 1, 1, 1, 128, 1, 1, 0, stream.cu_stream(), p, none));
        assert_eq!(stream.clone_dtoh(&y).unwrap(), (0..100).map(|v| 2 * v).collect::<Vec<i32>>());
        ok(sys::cuModuleUnload(module));
        for (image, words) in [
            (&include_bytes!("../kernels/bundle.compressed.fatbin")[..], "build it with nvcc --compress-mode=none"),
            (&include_bytes!("../kernels/bundle.machine.fatbin")[..], "holds no PTX, only machine code"),
            (&b"\x7fELF and so on\0"[..], "this is a cubin"),
        ] {
            let code = sys::cuModuleLoadData(&mut module, image.as_ptr().cast());
            refused(code, Code::CUDA_ERROR_NO_BINARY_FOR_GPU, words);
        }
        // The compiler's words go to the buffer that the options name.
        let mut log = [1u8; 200];
        let mut options = [
            sys::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as _];
        let bad = c".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { frob.s32 a, b; }";
        let (o, v) = (options.as_mut_ptr(), values.as_mut_ptr());
        let code = sys::cuModuleLoadDataEx(&mut module, bad.as_ptr().cast(), 2, o, v);
        assert_eq!(code, Code::CUDA_ERROR_INVALID_PTX);
        let text = CStr::from_bytes_until_nul(&log).unwrap().to_string_lossy();
        assert!(text.contains("PTX line 4") && text.contains("frob.s32"), "{text}");
    }
    let missing = std::ffi::CString::new("no/such/file.ptx").unwrap();
    let mut module = null_mut();
    // SAFETY: a valid place and a terminated string.
    let code = unsafe { sys::cuModuleLoad(&mut module, missing.as_ptr()) };
    refused(code, Code::CUDA_ERROR_FILE_NOT_FOUND, "no/such/file.ptx");
}

#[test]
fn registers_from_ptxas_limit_launches_and_occupancy() {
    let t = Turn::new();
    let f = t.kernel("speak");
    let blocks = || f.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap();
    assert_eq!(blocks(), 8, "2048 threads");
    assert_eq!(f.get_attribute(ATTRIBUTE).unwrap(), 0, "PTX does not say");
    let file = std::env::temp_dir().join(format!("warpsmith-ptxas-{}.txt", std::process::id()));
    let words = "ptxas info    : Compiling entry function 'speak' for 'sm_80'\n\
                 ptxas info    : Function properties for speak\n    \
                 32 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n\
                 ptxas info    : Used 100 registers, used 0 barriers, 356 bytes cmem[0]\n";
    std::fs::write(&file, words).unwrap();
    warpsmith_emulator::configure("resources", &file.display().to_string()).unwrap();
    // 100 registers count as 104: 65536 / (104 * 256) = 2.
    assert_eq!(blocks(), 2);
    assert_eq!(f.get_attribute(ATTRIBUTE).unwrap(), 100);
    let local = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES;
    assert_eq!(f.get_attribute(local).unwrap(), 32);
    let stream = t.context.default_stream();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&0i32);
    // SAFETY: the launch is refused.
    let e = unsafe { launch.launch(one_block(640)) }.unwrap_err();
    assert_eq!(e.0, Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    let text = e.error_string().unwrap().to_string_lossy().into_owned();
    assert!(
        text.contains("100 registers of each of 640 threads take 66560 registers: a block can have 65536"),
        "{text}"
    );
    let mut launch = stream.launch_builder(&f);
    launch.arg(&0i32);
    // SAFETY: the argument is that of the kernel.
    unsafe { launch.launch(one_block(608)) }.unwrap();
    let report = warpsmith_emulator::report().unwrap();
    let l = report.of("speak")[0];
    assert_eq!((l.registers, l.spill_bytes), (100, 20));
    assert!(report.table().contains("registers 100 (spills 20 B)"), "{}", report.table());
    assert!((l.occupancy - 608.0 / 2048.0).abs() < 1e-4, "{}", l.occupancy);
    // Without registers again, for the other tests.
    std::fs::write(&file, words.replace("Used 100", "Used 1")).unwrap();
    warpsmith_emulator::configure("resources", &file.display().to_string()).unwrap();
    std::fs::write(&file, "nothing of the kind").unwrap();
    let e = warpsmith_emulator::configure("resources", &file.display().to_string()).unwrap_err();
    assert!(e.to_string().contains("not the output of ptxas -v"), "{e}");
    std::fs::remove_file(&file).unwrap();
    let best = f.occupancy_max_potential_block_size(no_shared, 0, 0, None).unwrap();
    assert_eq!(best, (216, 1024), "two blocks of 1024 threads on each of 108 multiprocessors");
    assert_eq!(f.occupancy_max_potential_block_size(no_shared, 0, 300, None).unwrap().1, 256);
}

extern "C" fn no_shared(_threads: i32) -> usize {
    0
}

/// Streams for capture tests, which cudarc's own events would disturb.
fn two_streams(t: &Turn) -> (std::sync::Arc<cudarc::driver::CudaStream>, std::sync::Arc<cudarc::driver::CudaStream>) {
    // SAFETY: the tests order their streams themselves.
    unsafe { t.context.disable_event_tracking() };
    (t.context.new_stream().unwrap(), t.context.new_stream().unwrap())
}

const GLOBAL: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL;
const LOCAL: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;

#[test]
fn what_a_capture_forbids() {
    let t = Turn::new();
    let (a, b) = two_streams(&t);
    let (sa, sb) = (a.cu_stream(), b.cu_stream());
    let d = a.alloc_zeros::<u8>(64).unwrap();
    let legacy_blocked = {
        let mut s = null_mut();
        // SAFETY: a valid place.
        unsafe { ok(sys::cuStreamCreate(&mut s, 0)) };
        s
    };
    a.synchronize().unwrap();
    // SAFETY: handles are valid; the emulator answers what is forbidden with errors.
    unsafe {
        let mut graph = null_mut();
        let mut p = 0;
        let event = {
            let mut e = null_mut();
            ok(sys::cuEventCreate(&mut e, 0));
            e
        };
        ok(sys::cuEventRecord(event, sb));
        // Each of these breaks the capture, and its end says so.
        let unsupported = Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        type Call<'a> = (&'a str, Code, Box<dyn Fn() -> sys::CUresult + 'a>);
        let calls: Vec<Call> = vec![
            (
                "cuMemAlloc while a stream is being captured",
                unsupported,
                Box::new(|| sys::cuMemAlloc_v2(&mut { p }, 16)),
            ),
            ("waits for a stream that is capturing", unsupported, Box::new(|| sys::cuStreamSynchronize(sa))),
            ("waits for a stream that is capturing", unsupported, Box::new(|| sys::cuStreamQuery(sa))),
            ("the context cannot be synchronised", unsupported, Box::new(|| sys::cuCtxSynchronize())),
            (
                "waits for an event recorded outside the capture",
                Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                Box::new(|| sys::cuStreamWaitEvent(sa, event, 0)),
            ),
        ];
        for (words, code, call) in &calls {
            ok(sys::cuStreamBeginCapture_v2(sa, GLOBAL));
            refused(call(), *code, words);
            let mut status = sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE;
            ok(sys::cuStreamIsCapturing(sa, &mut status));
            assert_eq!(status, sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_INVALIDATED, "{words}");
            let end = sys::cuStreamEndCapture(sa, &mut graph);
            refused(end, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cannot be captured");
            assert!(graph.is_null());
        }
        drop(calls);
        // The legacy stream would wait for a capturing stream that it synchronises with.
        ok(sys::cuStreamBeginCapture_v2(legacy_blocked, RELAXED));
        let code = sys::cuMemsetD8Async(on(&d, &a), 0, 64, null_mut());
        refused(code, Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "legacy default stream");
        let end = sys::cuStreamEndCapture(legacy_blocked, &mut graph);
        assert_eq!(end, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        // Modes: a relaxed capture forbids no unsafe calls, a local one only those of its own thread.
        ok(sys::cuStreamBeginCapture_v2(sa, RELAXED));
        ok(sys::cuMemAlloc_v2(&mut p, 16));
        ok(sys::cuStreamEndCapture(sa, &mut graph));
        ok(sys::cuGraphDestroy(graph));
        ok(sys::cuMemsetD8_v2(p, 0, 16));
        ok(sys::cuMemFree_v2(p));
        let context = t.context.clone();
        let elsewhere = |f: &(dyn Fn() -> sys::CUresult + Sync)| {
            std::thread::scope(|s| {
                s.spawn(|| {
                    context.bind_to_thread().unwrap();
                    f()
                })
                .join()
                .unwrap()
            })
        };
        let host = || {
            let mut p = null_mut();
            let code = sys::cuMemAllocHost_v2(&mut p, 16);
            if code == Code::CUDA_SUCCESS { sys::cuMemHostGetFlags(&mut 0, p) } else { code }
        };
        ok(sys::cuStreamBeginCapture_v2(sa, LOCAL));
        ok(elsewhere(&host));
        let raw = sa as usize;
        let end = elsewhere(&|| sys::cuStreamEndCapture(raw as sys::CUstream, &mut null_mut()));
        refused(end, Code::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "begun by another thread");
        refused(host(), unsupported, "allocating pinned memory while");
        assert_eq!(sys::cuStreamEndCapture(sa, &mut graph), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        ok(sys::cuStreamBeginCapture_v2(sa, GLOBAL));
        let mut mode = RELAXED;
        ok(sys::cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, GLOBAL, "the mode of the thread was the default");
        ok(host());
        ok(sys::cuThreadExchangeStreamCaptureMode(&mut mode));
        refused(elsewhere(&host), unsupported, "allocating pinned memory while");
        assert_eq!(sys::cuStreamEndCapture(sa, &mut graph), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        // Beginning twice, ending what was not begun, capturing the legacy stream.
        ok(sys::cuStreamBeginCapture_v2(sa, GLOBAL));
        refused(sys::cuStreamBeginCapture_v2(sa, GLOBAL), unsupported, "capturing already");
        refused(sys::cuGraphLaunch(null_mut(), sa), unsupported, "capturing");
        assert_eq!(sys::cuStreamEndCapture(sa, &mut graph), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let code = sys::cuStreamEndCapture(sa, &mut graph);
        refused(code, Code::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "is not capturing");
        refused(sys::cuStreamBeginCapture_v2(null_mut(), GLOBAL), unsupported, "legacy default stream cannot be");
        ok(sys::cuStreamDestroy_v2(legacy_blocked));
        ok(sys::cuEventDestroy_v2(event));
    }
    assert!(warpsmith_emulator::report().unwrap().findings.is_empty());
}

fn on<T>(d: &cudarc::driver::CudaSlice<T>, s: &std::sync::Arc<cudarc::driver::CudaStream>) -> u64 {
    use cudarc::driver::DevicePtr;
    d.device_ptr(s).0
}

#[test]
fn a_graph_of_two_streams() {
    let t = Turn::new();
    let (a, b) = two_streams(&t);
    let (sa, sb) = (a.cu_stream(), b.cu_stream());
    let f = t.kernel("vector_add");
    let x = a.clone_htod(&[1f32; 64]).unwrap();
    let (y, z, w) =
        (a.alloc_zeros::<f32>(64).unwrap(), a.alloc_zeros::<f32>(64).unwrap(), a.alloc_zeros::<f32>(64).unwrap());
    a.synchronize().unwrap();
    let add = |s: &std::sync::Arc<cudarc::driver::CudaStream>, p: u64, q: u64, r: u64| {
        let mut launch = s.launch_builder(&f);
        launch.arg(&p).arg(&q).arg(&r).arg(&64i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(one_block(64)) }.unwrap();
    };
    let [px, py, pz, pw] = [on(&x, &a), on(&y, &a), on(&z, &a), on(&w, &a)];
    // SAFETY: handles are valid.
    unsafe {
        let (mut fork, mut join) = (null_mut(), null_mut());
        ok(sys::cuEventCreate(&mut fork, 0));
        ok(sys::cuEventCreate(&mut join, 0));
        for joined in [true, false] {
            let mut graph = null_mut();
            ok(sys::cuStreamBeginCapture_v2(sa, GLOBAL));
            add(&a, px, py, py); // y += x
            ok(sys::cuEventRecord(fork, sa));
            ok(sys::cuStreamWaitEvent(sb, fork, 0));
            add(&b, py, py, pz); // z = 2 y
            ok(sys::cuEventRecord(join, sb));
            if joined {
                ok(sys::cuStreamWaitEvent(sa, join, 0));
            }
            add(&a, py, if joined { pz } else { px }, pw); // w = y + z
            let end = sys::cuStreamEndCapture(sa, &mut graph);
            if !joined {
                refused(end, Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "was not joined back by an event");
                continue;
            }
            ok(end);
            let code = sys::cuEventQuery(join);
            refused(code, Code::CUDA_ERROR_CAPTURED_EVENT, "recorded in a capture");
            let code = sys::cuStreamWaitEvent(sb, join, 0);
            refused(code, Code::CUDA_ERROR_CAPTURED_EVENT, "a capture that is over");
            let mut exec = null_mut();
            ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            ok(sys::cuGraphDestroy(graph));
            ok(sys::cuGraphUpload(exec, sa));
            for seed in ["0", "3", "17"] {
                warpsmith_emulator::configure("seed", seed).unwrap();
                ok(sys::cuGraphLaunch(exec, sa));
            }
            assert_eq!(a.clone_dtoh(&w).unwrap(), [9f32; 64], "y is 3 after three launches, z twice that");
            ok(sys::cuGraphExecDestroy(exec));
            assert_eq!(sys::cuGraphExecDestroy(exec), Code::CUDA_ERROR_INVALID_HANDLE);
        }
        ok(sys::cuEventDestroy_v2(fork));
        ok(sys::cuEventDestroy_v2(join));
    }
    warpsmith_emulator::configure("seed", "0").unwrap();
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
    assert_eq!(report.of("vector_add").len(), 9);
}

#[test]
fn memory_that_a_graph_allocates() {
    let t = Turn::new();
    let (a, _) = two_streams(&t);
    let f = t.kernel("vector_add");
    let x = a.clone_htod(&[1f32; 64]).unwrap();
    let y = a.alloc_zeros::<f32>(64).unwrap();
    a.synchronize().unwrap();
    let (px, py) = (on(&x, &a), on(&y, &a));
    let add = |p: u64, q: u64, r: u64| {
        let mut launch = a.launch_builder(&f);
        launch.arg(&p).arg(&q).arg(&r).arg(&64i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(one_block(64)) }.unwrap();
    };
    let before = result::mem_get_info().unwrap().0;
    // SAFETY: handles and sizes are right, unless the test says otherwise.
    unsafe {
        for (early, late) in [(false, false), (true, false), (false, true)] {
            let (mut graph, mut exec) = (null_mut(), null_mut());
            ok(sys::cuStreamBeginCapture_v2(a.cu_stream(), GLOBAL));
            let z = result::malloc_async(a.cu_stream(), 256).unwrap();
            if !early {
                add(px, px, z); // z = 2
            }
            if late {
                result::free_async(z, a.cu_stream()).unwrap();
            }
            add(z, py, py); // y += z
            if !late {
                result::free_async(z, a.cu_stream()).unwrap();
            }
            ok(sys::cuStreamEndCapture(a.cu_stream(), &mut graph));
            ok(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0));
            ok(sys::cuGraphLaunch(exec, a.cu_stream()));
            ok(sys::cuGraphLaunch(exec, a.cu_stream()));
            let _ = a.synchronize();
            let report = warpsmith_emulator::report().unwrap();
            match (early, late) {
                (false, false) => {
                    assert!(report.findings.is_empty(), "{}", report.table());
                    assert_eq!(a.clone_dtoh(&y).unwrap(), [4f32; 64]);
                }
                (true, _) => {
                    // Every run makes the memory anew: what the one before wrote is gone.
                    assert_eq!(report.findings[0].kind, "uninitialised", "{}", report.table());
                }
                _ => assert_eq!(report.findings[0].kind, "stream-order", "{}", report.table()),
            }
            warpsmith_emulator::reset().unwrap();
            ok(sys::cuGraphExecDestroy(exec));
            ok(sys::cuGraphDestroy(graph));
            assert_eq!(result::mem_get_info().unwrap().0, before, "the memory went with its graph");
        }
        // Memory from outside cannot be freed by a graph.
        let mut graph = null_mut();
        let p = result::malloc_sync(16).unwrap();
        ok(sys::cuStreamBeginCapture_v2(a.cu_stream(), RELAXED));
        let code = sys::cuMemFreeAsync(p, a.cu_stream());
        refused(code, Code::CUDA_ERROR_INVALID_VALUE, "frees memory that it did not allocate");
        assert_eq!(sys::cuStreamEndCapture(a.cu_stream(), &mut graph), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        ok(sys::cuMemsetD8_v2(p, 0, 16));
        ok(sys::cuMemFree_v2(p));
    }
}

#[test]
fn host_functions_run_in_their_stream_and_may_not_call_the_driver() {
    use std::sync::Mutex;
    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    extern "C" fn look(arg: *mut c_void) {
        // SAFETY: the pinned buffer lives until the stream was synchronised.
        let first = unsafe { *arg.cast::<u32>() };
        // SAFETY: a valid place.
        let code = unsafe { sys::cuMemAlloc_v2(&mut 0, 16) };
        SEEN.lock().unwrap().push(format!("{first} {code:?}"));
    }
    let t = Turn::new();
    let (a, _) = two_streams(&t);
    // SAFETY: sizes and lifetimes are right.
    unsafe {
        let mut p = null_mut();
        ok(sys::cuMemAllocHost_v2(&mut p, 4));
        let d = result::malloc_sync(4).unwrap();
        for v in [5u8, 6] {
            ok(sys::cuMemsetD8Async(d, v, 4, a.cu_stream()));
            ok(sys::cuMemcpyDtoHAsync_v2(p, d, 4, a.cu_stream()));
            ok(sys::cuLaunchHostFunc(a.cu_stream(), Some(look), p));
        }
        assert!(SEEN.lock().unwrap().is_empty());
        ok(sys::cuStreamSynchronize(a.cu_stream()));
        let want = [0x0505_0505u32, 0x0606_0606].map(|v| format!("{v} CUDA_ERROR_NOT_PERMITTED"));
        assert_eq!(*SEEN.lock().unwrap(), want);
        ok(sys::cuMemFree_v2(d));
        ok(sys::cuMemFreeHost(p));
    }
}

#[test]
fn after_a_fault_only_giving_back_works() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let f = t.kernel("vector_add");
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
    let mut launch = stream.launch_builder(&f);
    let null = 0u64;
    launch.arg(&null).arg(&null).arg(&null).arg(&64i32);
    // SAFETY: the emulator answers with an error.
    unsafe { launch.launch(config) }.unwrap();
    let illegal = Code::CUDA_ERROR_ILLEGAL_ADDRESS;
    // SAFETY: places and handles are valid.
    unsafe {
        refused(sys::cuCtxSynchronize(), illegal, "not a device address (null or host pointer?)");
        let mut p = 0;
        assert_eq!(sys::cuMemAlloc_v2(&mut p, 16), illegal);
        let mut s = null_mut();
        assert_eq!(sys::cuStreamCreate(&mut s, 0), illegal);
        assert_eq!(sys::cuMemGetInfo_v2(&mut 0, &mut 0), illegal);
        // Asking what device this is works, and so does resetting it.
        ok(sys::cuDeviceGetCount(&mut 0));
        ok(sys::cuDevicePrimaryCtxReset_v2(0));
        ok(sys::cuMemGetInfo_v2(&mut 0, &mut 0));
    }
    let report = warpsmith_emulator::report().unwrap();
    assert_eq!(report.findings.len(), 1, "{}", report.table());
}

/// Attributes that CUDA 13.0 does not know are an error, as the driver's; what programs ask for has its published value.
#[test]
fn attributes_of_the_device_and_of_functions() {
    let t = Turn::new();
    let ask = |attribute: i32| {
        let mut v = -7;
        // SAFETY: the enumeration is a C int, and any is asked for here.
        let code = unsafe {
            let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY);
            let f = libc::dlsym(library, c"cuDeviceGetAttribute".as_ptr());
            let f: extern "C" fn(*mut i32, i32, i32) -> sys::CUresult = std::mem::transmute(f);
            f(&mut v, attribute, 0)
        };
        (code, v)
    };
    for (attribute, value) in [
        (1, 1024),
        (10, 32),
        (11, i32::MAX),
        (16, 108),
        // 1593 MHz twice, 640 bytes: 2039 GB/s.
        (36, 1_592_968),
        (37, 5120),
        (39, 2048),
        (75, 8),
        (78, 1),
        // 19.5 to 9.7 TFLOP/s.
        (87, 2),
        (97, 163 << 10),
        (115, 1),
        // Managed memory, and the last one of CUDA 13.0.
        (83, 0),
        (147, 0),
    ] {
        assert_eq!(ask(attribute), (sys::CUresult::CUDA_SUCCESS, value), "attribute {attribute}");
    }
    for unknown in [0, -1, 148, 9999] {
        assert_eq!(ask(unknown), (sys::CUresult::CUDA_ERROR_INVALID_VALUE, -7), "attribute {unknown}");
        let e = cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        let text = e.error_string().unwrap().to_string_lossy().into_owned();
        assert!(text.contains(&format!("device attribute {unknown}: CUDA 13.0")), "{text}");
    }
    use sys::CUfunction_attribute_enum::*;
    let f = t.kernel("vector_add");
    assert_eq!(f.get_attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK).unwrap(), 1024);
    assert_eq!(f.get_attribute(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT).unwrap(), -1);
    let e = f.get_attribute(CU_FUNC_ATTRIBUTE_MAX).unwrap_err();
    assert_eq!(e.0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(e.error_string().unwrap().to_string_lossy().contains("function attribute 16: CUDA 13.0 knows 0 to 15"));
    f.set_attribute(CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 50).unwrap();
    let e = f.set_attribute(CU_FUNC_ATTRIBUTE_NUM_REGS, 4).unwrap_err();
    assert!(e.error_string().unwrap().to_string_lossy().contains("function attribute 4 cannot be set"));
}

/// PTX for a newer device or of a newer toolkit: what the driver's compiler makes of it (`SM version specified by .target
/// is higher`) is an invalid PTX, and an unsupported version has a code of its own.
#[test]
fn modules_for_newer_devices_and_toolkits() {
    let t = Turn::new();
    let text = |version: &str, target: &str| {
        format!(".version {version}\n.target {target}\n.address_size 64\n.visible .entry k()\n{{\nret;\n}}\n")
    };
    let load = |version: &str, target: &str| {
        let e = t.context.load_module(Ptx::from_src(text(version, target))).map(|_| ()).err();
        e.map(|e| (e.0, e.error_string().unwrap().to_string_lossy().into_owned()))
    };
    for (profile, target, runs) in [
        ("sm_80", "sm_80", true),
        ("sm_80", "sm_75", true),
        ("sm_80", "sm_86", false),
        ("sm_80", "sm_90", false),
        ("sm_80", "sm_90a", false),
        ("sm_90", "sm_80", true),
        ("sm_90", "sm_90", true),
        ("sm_90", "sm_90a", true),
        ("sm_90", "sm_100", false),
    ] {
        warpsmith_emulator::configure("profile", profile).unwrap();
        let said = load("8.0", target);
        warpsmith_emulator::configure("profile", "sm_80").unwrap();
        if runs {
            assert_eq!(said, None, "{target} on {profile}");
        } else {
            let (code, said) = said.unwrap();
            assert_eq!(code, Code::CUDA_ERROR_INVALID_PTX, "{target} on {profile}");
            let words = format!("PTX line 2: `.target {target}` is newer than the device, which is {profile}");
            assert!(said.starts_with(&words), "{said}");
        }
    }
    assert_eq!(load("9.0", "sm_80"), None);
    let (code, said) = load("9.1", "sm_80").unwrap();
    assert_eq!(code, Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    assert!(said.starts_with("PTX line 1: PTX 9.1 is newer than 9.0, the last version of CUDA 13.0"), "{said}");
}
