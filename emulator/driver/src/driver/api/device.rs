//! Devices and contexts. All contexts share the one device, its memory and its streams.

use super::*;

fn create_context(s: &mut State, out: &Out<u64>, dev: i32) -> Outcome {
    device(s, dev)?;
    let handle = s.handle();
    out.set(handle)?;
    s.contexts.insert(handle);
    CONTEXTS.with_borrow_mut(|c| c.push(handle));
    Ok(())
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
            11 => i32::MAX,                             // pitch of a copy
            14 => 512,                                  // alignment of textures
            15 => 1,                                    // copies beside kernels
            31 => 1,                                    // concurrent kernels
            36 => (p.dram_gbs * 1e6 / 1280.0) as i32,   // memory clock in kHz: two transfers of 640 bytes each
            37 => 5120,                                 // bus width
            38 => p.l2_bytes as i32,
            39 => p.threads_per_sm as i32,
            40 => 3,                                    // copy engines
            41 => 1,                                    // unified addressing
            75 => p.capability.0 as i32,
            76 => p.capability.1 as i32,
            51 => 32,                                   // alignment of a texture's pitch
            78 => 1,                                    // stream priorities
            79 | 80 => 1,                               // global and local accesses go through L1
            81 => p.shared_per_sm as i32,
            87 => (p.f32_lanes / p.f64_lanes) as i32,
            90 => 1,                                    // compute preemption
            95 => 1,                                    // cooperative launch
            97 => p.shared_optin as i32,
            99 => 1,                                    // registering host memory
            106 => p.blocks_per_sm as i32,
            111 => 1024,                                // reserved shared memory of a block
            115 => 1,                                   // memory pools
            126 => 1,                                   // domains of memory synchronisation
            // What CUDA 13.0 knows besides is something this device does not have: textures, managed memory, peers.
            known if (1..=147).contains(&known) => 0,
            _ => {
                let text = format!("device attribute {attribute}: CUDA 13.0, which this driver is, knows 1 to 147");
                return s.fail(INVALID_VALUE, text);
            }
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
    cuDevicePrimaryCtxReset_v2(dev: i32) s {
        device(s, dev)?;
        s.drop_queue();
        s.sticky = None;
        Ok(())
    }
    cuDevicePrimaryCtxGetState(dev: i32, flags: Out<u32>, active: Out<i32>) s {
        device(s, dev)?;
        flags.set(0)?;
        active.set(i32::from(s.retained > 0))
    }
    cuDevicePrimaryCtxSetFlags_v2(dev: i32, _flags: u32) s { device(s, dev) }
    cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, dev: i32) s {
        device(s, dev)?;
        major.set(s.profile.capability.0 as i32)?;
        minor.set(s.profile.capability.1 as i32)
    }
    cuDeviceCanAccessPeer(can: Out<i32>, dev: i32, peer: i32) s { device(s, dev)?; device(s, peer)?; can.set(0) }

    cuCtxCreate_v2(ctx: Out<u64>, _flags: u32, dev: i32) s { create_context(s, &ctx, dev) }
    cuCtxCreate_v3(ctx: Out<u64>, _affinity: Host, _n: i32, _flags: u32, dev: i32) s { create_context(s, &ctx, dev) }
    cuCtxCreate_v4(ctx: Out<u64>, _params: Host, _flags: u32, dev: i32) s { create_context(s, &ctx, dev) }
    cuCtxDestroy_v2(ctx: u64) s {
        if !s.contexts.contains(&ctx) {
            return s.fail(INVALID_CONTEXT, format!("{ctx:#x} is not a context made by cuCtxCreate"));
        }
        if s.sticky.is_none() {
            s.synchronise_all()?;
        }
        s.contexts.remove(&ctx);
        // Memory belongs to the device here: what the context leaves behind stays visible as a leak.
        CONTEXTS.with_borrow_mut(|c| c.pop_if(|top| *top == ctx));
        Ok(())
    }
    cuCtxPushCurrent_v2(ctx: u64) s {
        if !context_exists(s, ctx) {
            return s.fail(INVALID_CONTEXT, format!("{ctx:#x} is not a context"));
        }
        CONTEXTS.with_borrow_mut(|c| c.push(ctx));
        Ok(())
    }
    cuCtxPopCurrent_v2(ctx: Out<u64>) s {
        let Some(top) = CONTEXTS.with_borrow_mut(Vec::pop) else {
            return s.fail(INVALID_CONTEXT, "this thread has no context to pop");
        };
        ctx.set_if_wanted(top);
        Ok(())
    }
    cuCtxGetCurrent(ctx: Out<u64>) _s { ctx.set(CONTEXTS.with_borrow(|c| c.last().copied().unwrap_or(0))) }
    cuCtxSetCurrent(ctx: u64) s {
        if ctx != 0 && ctx != PRIMARY && !s.contexts.contains(&ctx) {
            return s.fail(INVALID_CONTEXT, format!("{ctx:#x} is not a context"));
        }
        CONTEXTS.with_borrow_mut(|c| {
            c.pop();
            c.extend((ctx != 0).then_some(ctx));
        });
        Ok(())
    }
    cuCtxGetApiVersion(_ctx: u64, version: Out<u32>) _s { version.set(3020) }
    cuCtxGetFlags(flags: Out<u32>) s { current(s)?; flags.set(0) }
    cuCtxGetSharedMemConfig(config: Out<u32>) s { current(s)?; config.set(1) }
    cuCtxSetSharedMemConfig(_config: u32) s { current(s) }
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
}
