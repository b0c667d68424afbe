//! Planted bugs, each beside its repaired twin: the finding must come, with its words, and the twin must be silent.

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::exec::grid::Outcome;

use crate::rig::{Arg, Rig, assert_clean, assert_finding};

const BUGS: &str = include_str!("../../../tests/kernels/bugs.ptx");

fn rig() -> Rig {
    Rig::new(BUGS)
}

fn floats(rig: &Rig, n: usize) -> u64 {
    rig.put(&vec![1f32; n])
}

#[test]
fn out_of_bounds_in_every_space() {
    let r = rig();
    let (x, y) = (floats(&r, 100), floats(&r, 100));
    let out = r.run("read_past", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(40)]);
    assert_finding(
        &out,
        Kind::OutOfBounds,
        &[
            "global read of 4 bytes",
            "0 bytes past the end of allocation",
            "(400 bytes",
            "warp 1, lane 28 (thread 60,0,0)",
            "`ld.global.f32`",
        ],
    );
    assert!(out.fault.is_some(), "the hardware stops here too");
    r.clean("read_past", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(36)]);
    let out = r.run("write_past", 1, 64, &[Arg::Ptr(y), Arg::I32(-1)]);
    assert_finding(&out, Kind::OutOfBounds, &["global write of 4 bytes", "4 bytes before allocation", "lane 0"]);
    r.clean("write_past", 1, 64, &[Arg::Ptr(y), Arg::I32(0)]);
    let out = r.run("atomic_past", 1, 64, &[Arg::Ptr(y), Arg::I32(100)]);
    assert_finding(&out, Kind::OutOfBounds, &["global atomic access of 4 bytes", "0 bytes past the end"]);
    r.clean("atomic_past", 1, 64, &[Arg::Ptr(y), Arg::I32(36)]);
    for (bytes, n, ok) in [(256, 1, false), (260, 1, true), (256, -1, false)] {
        let out = r.run_with("shared_past", [1; 3], [64, 1, 1], bytes, &[Arg::Ptr(y), Arg::I32(n)]);
        if ok {
            assert_clean("shared_past", &out);
        } else {
            assert_finding(
                &out,
                Kind::OutOfBounds,
                &[
                    "shared write of 4 bytes",
                    if n > 0 {
                        "0 bytes past the end of the shared memory of this block (256 bytes)"
                    } else {
                        "4 bytes before the shared memory of this block (256 bytes)"
                    },
                ],
            );
        }
    }
    r.clean("local_past", 1, 32, &[Arg::Ptr(y), Arg::I32(7)]);
    let out = r.run("local_past", 1, 32, &[Arg::Ptr(y), Arg::I32(8)]);
    assert_finding(
        &out,
        Kind::OutOfBounds,
        &["local write of 4 bytes", "0 bytes past the end of the local memory of this thread (32 bytes)"],
    );
    r.clean("copy", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(32)]);
    let out = r.run("copy", 1, 32, &[Arg::Ptr(0), Arg::Ptr(y), Arg::I32(32)]);
    assert_finding(&out, Kind::OutOfBounds, &["not a device address (null or host pointer?)"]);
}

/// Shared arrays of a block lie side by side on a GPU; here closed bytes lie between them.
#[test]
fn overruns_from_one_shared_array_into_the_next() {
    let r = rig();
    let y = floats(&r, 32);
    let kernel = r.kernel("neighbours");
    assert_eq!((kernel.shared_bytes, kernel.dynamic_at), (256, 256), "limits and occupancy do not count them");
    let args = |n, m| [Arg::Ptr(y), Arg::I32(n), Arg::I32(m)];
    r.clean("neighbours", 1, 32, &args(0, 0));
    assert_eq!(r.get::<f32>(y, 32), [3f32; 32]);
    // Which array comes first is the compiler's choice.
    let low_first = kernel.shared_vars[0].name.contains("low");
    let (over, under) = if low_first { ((1, 0), (0, -1)) } else { ((0, 1), (-1, 0)) };
    let (first, second) = if low_first { ("low", "high") } else { ("high", "low") };
    let out = r.run("neighbours", 1, 32, &args(over.0, over.1));
    let words = format!("it starts 0 bytes past the end of the shared variable `{first}` (128 bytes at 0x0)");
    assert_finding(&out, Kind::OutOfBounds, &["shared write of 4 bytes", &words, "lane 31 "]);
    let out = r.run("neighbours", 1, 32, &args(under.0, under.1));
    let words = format!("it starts 4 bytes before the shared variable `{second}` (128 bytes at 0x100)");
    assert_finding(&out, Kind::OutOfBounds, &["shared write of 4 bytes", &words, "lane 0 "]);
    let run = |n, m| r.run_with("before_dynamic", [1; 3], [32, 1, 1], 512, &args(n, m));
    assert_clean("before_dynamic", &run(0, 0));
    assert_eq!(r.get::<f32>(y, 32), [3f32; 32]);
    for (n, m, words) in [
        (1, 0, "it starts 0 bytes past the end of the shared variable `first` (128 bytes at 0x0)"),
        (0, -1, "it starts 16 bytes before the dynamic shared memory"),
        (0, 1, "it starts 0 bytes past the end of the shared memory of this block (640 bytes)"),
    ] {
        assert_finding(&run(n, m), Kind::OutOfBounds, &[words]);
    }
}

#[test]
fn reads_through_the_read_only_cache_of_what_the_kernel_writes() {
    let r = rig();
    let (x, y) = (r.put(&[5i32; 64]), r.put(&[0i32; 64]));
    let args = |change| [Arg::Ptr(x), Arg::Ptr(y), Arg::I32(change)];
    r.clean("stale_read", 1, 64, &args(0));
    r.clean("stale_read_ok", 1, 64, &args(7));
    // What earlier launches wrote may be read.
    r.clean("stale_read", 1, 64, &args(0));
    assert_eq!(r.get::<i32>(y, 64), [7; 64]);
    let out = r.run("stale_read", 1, 64, &args(9));
    let words = "the word was written by block 0 (warp 1, lane 0) of this launch, and `.nc` reads through a cache";
    assert_finding(&out, Kind::GlobalRace, &["read after write", words, "ld.global.nc", "warp 0, lane 0 "]);
}

#[test]
fn misaligned_scalars_and_vectors() {
    let r = rig();
    let (x, y) = (floats(&r, 200), floats(&r, 200));
    r.clean("misaligned", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(4)]);
    let out = r.run("misaligned", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(2)]);
    assert_finding(
        &out,
        Kind::Misaligned,
        &["must be a multiple of 4; it lies 2 bytes inside allocation 1 (800 bytes"],
    );
    r.clean("misaligned_vector", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(4)]);
    let out = r.run("misaligned_vector", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(1)]);
    assert_finding(&out, Kind::Misaligned, &["global read of 16 bytes", "the address must be a multiple of 16"]);
}

#[test]
fn use_after_free_and_uninitialised_reads() {
    let r = rig();
    let (x, y) = (floats(&r, 64), floats(&r, 64));
    r.clean("copy", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(64)]);
    r.device.arena.free(x, "cuMemFree").unwrap();
    let out = r.run("copy", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(64)]);
    assert_finding(&out, Kind::UseAfterFree, &["0 bytes inside allocation 1 (256 bytes", "freed by cuMemFree"]);
    let fresh = r.empty::<f32>(64);
    let out = r.run("copy", 1, 64, &[Arg::Ptr(fresh), Arg::Ptr(y), Arg::I32(64)]);
    assert_finding(&out, Kind::Uninitialised, &["byte 0 was never written since allocation", "64 times"]);
    assert!(out.fault.is_none(), "the hardware would go on");
    r.clean("copy", 1, 64, &[Arg::Ptr(y), Arg::Ptr(fresh), Arg::I32(64)]);
    r.clean("copy", 1, 64, &[Arg::Ptr(fresh), Arg::Ptr(y), Arg::I32(64)]);
    let out = r.run("uninitialised_shared", 1, 64, &[Arg::Ptr(y), Arg::I32(63)]);
    assert_finding(&out, Kind::Uninitialised, &["shared read of 4 bytes", "lane 31 (thread 63,0,0)"]);
    r.clean("uninitialised_shared", 1, 64, &[Arg::Ptr(y), Arg::I32(64)]);
}

#[test]
fn overruns_between_tensors_of_a_pool() {
    let r = rig();
    let pool = r.empty::<f32>(1024);
    r.device.arena.sub_alloc(pool, 256).unwrap();
    r.device.arena.sub_alloc(pool + 512, 256).unwrap();
    let x = floats(&r, 65);
    r.clean("copy", 1, 64, &[Arg::Ptr(x), Arg::Ptr(pool), Arg::I32(64)]);
    let out = r.run("copy", 1, 128, &[Arg::Ptr(x), Arg::Ptr(pool), Arg::I32(65)]);
    assert_finding(&out, Kind::OutOfBounds, &["0 bytes past the end of sub-allocation", "global write"]);
    r.device.arena.sub_free(pool, 256, false).unwrap();
    let out = r.run("copy", 1, 64, &[Arg::Ptr(pool), Arg::Ptr(pool + 512), Arg::I32(64)]);
    assert_finding(&out, Kind::UseAfterFree, &["freed by warpsmithEmuSubFree"]);
    // What is handed out again is unwritten again.
    r.device.arena.sub_alloc(pool, 256).unwrap();
    let out = r.run("copy", 1, 64, &[Arg::Ptr(pool), Arg::Ptr(pool + 512), Arg::I32(64)]);
    assert_finding(&out, Kind::Uninitialised, &["was never written since sub-allocation", "0 bytes into it"]);
    r.clean("copy", 1, 64, &[Arg::Ptr(x), Arg::Ptr(pool), Arg::I32(64)]);
    r.clean("copy", 1, 64, &[Arg::Ptr(pool), Arg::Ptr(pool + 512), Arg::I32(64)]);
}

#[test]
fn shared_memory_races() {
    let r = rig();
    let (x, y) = (floats(&r, 128), floats(&r, 128));
    let two = [Arg::Ptr(x), Arg::Ptr(y)];
    let cases: [(&str, u32, &[Arg], &str); 4] = [
        ("race_raw", 128, &two, "read after write"),
        ("race_war", 128, &two, "write after read"),
        ("race_waw", 128, &two[1..], "write after write"),
        ("race_warp", 32, &two, "of the same warp, and no __syncwarp or barrier lies between them"),
    ];
    for (name, threads, args, words) in cases {
        let out = r.run(name, 1, threads, args);
        // Whoever reads too early may also read what nobody has written yet.
        let races: Vec<String> =
            out.findings.iter().filter(|f| f.kind == Kind::SharedRace).map(|f| f.to_string()).collect();
        assert!(races.iter().any(|r| r.contains(words)), "{name}: {}", races.join("\n"));
        r.clean(&format!("{name}_ok"), 1, threads, args);
    }
}

#[test]
fn a_syncwarp_orders_the_lanes_of_its_mask() {
    let r = rig();
    let x: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let (px, y) = (r.put(&x), r.empty::<f32>(32));
    let args = |low, high, flip| [Arg::Ptr(px), Arg::Ptr(y), Arg::U32(low), Arg::U32(high), Arg::I32(flip)];
    for (low, high, flip) in [(0xffff, 0xffff_0000, 8), (u32::MAX, u32::MAX, 16)] {
        r.clean("partial_syncwarp", 1, 32, &args(low, high, flip));
        assert!(r.get::<f32>(y, 32).iter().enumerate().all(|(i, &v)| v == x[i ^ flip as usize]));
    }
    let out = r.run("partial_syncwarp", 1, 32, &args(0xffff, 0xffff_0000, 16));
    let words = "written by lane 16 of the same warp, and no __syncwarp or barrier lies between them";
    assert_finding(&out, Kind::SharedRace, &["read after write", words, "warp 0, lane 0 "]);
    let chain = |last| [Arg::Ptr(px), Arg::Ptr(y), Arg::I32(last)];
    r.clean("chained_syncwarp", 1, 32, &chain(2));
    let out = r.run("chained_syncwarp", 1, 32, &chain(0));
    assert_finding(&out, Kind::SharedRace, &["written by lane 2 of the same warp"]);
    r.clean("fence_is_no_barrier", 1, 32, &[Arg::Ptr(px), Arg::Ptr(y), Arg::I32(1)]);
    let out = r.run("fence_is_no_barrier", 1, 32, &[Arg::Ptr(px), Arg::Ptr(y), Arg::I32(0)]);
    assert_finding(&out, Kind::SharedRace, &["written by lane 31 of the same warp"]);
}

#[test]
fn races_after_very_many_barriers() {
    let r = rig();
    let (x, y) = (floats(&r, 64), floats(&r, 64));
    // 2^17 barriers were once more than a record could count.
    for (name, threads, words) in [
        ("late_race", 64, "the word was written by warp 0, lane 31, and no barrier lies between them"),
        ("late_race_warp", 32, "the word was written by lane 31 of the same warp"),
    ] {
        for barriers in [100, (1 << 17) - 1, (1 << 17) + 100] {
            let args = |last| [Arg::Ptr(x), Arg::Ptr(y), Arg::I32(barriers), Arg::I32(last)];
            r.clean(name, 1, threads, &args(1));
            let out = r.run(name, 1, threads, &args(0));
            let races: Vec<_> = out.findings.iter().filter(|f| f.kind == Kind::SharedRace).collect();
            assert!(races.iter().any(|f| f.message.contains(words)), "{name}, {barriers}: {:?}", out.findings);
        }
    }
}

#[test]
fn global_memory_races_between_blocks() {
    let mut r = rig();
    let (x, y) = (floats(&r, 64), floats(&r, 64));
    for threads in [1, 2] {
        r.settings.threads = threads;
        let out = r.run("global_race", 16, 32, &[Arg::Ptr(x), Arg::Ptr(y)]);
        assert_finding(
            &out,
            Kind::GlobalRace,
            &["blocks of a launch are unordered", "bytes inside allocation 2 (256 bytes"],
        );
        r.clean("global_race_ok", 16, 32, &[Arg::Ptr(x), Arg::Ptr(y)]);
    }
    let (bytes, to) = (r.put(&[7u8; 128]), r.put(&[0u8; 256]));
    r.clean("bytes_ok", 1, 127, &[Arg::Ptr(bytes), Arg::Ptr(to)]);
}

#[test]
fn barriers_that_not_all_reach() {
    let r = rig();
    let y = floats(&r, 128);
    let out = r.run("divergent_barrier", 1, 64, &[Arg::Ptr(y), Arg::I32(40)]);
    let text = |out: &Outcome| out.findings.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n");
    assert!(text(&out).contains("must be executed by all threads of the warp together"), "{}", text(&out));
    r.clean("divergent_barrier", 1, 64, &[Arg::Ptr(y), Arg::I32(64)]);
    let out = r.run("half_barrier", 1, 64, &[Arg::Ptr(y), Arg::I32(32)]);
    assert_finding(&out, Kind::DivergentBarrier, &["32 of 64 threads of the block had exited without reaching it"]);
    r.clean("half_barrier", 1, 64, &[Arg::Ptr(y), Arg::I32(64)]);
}

#[test]
fn masks_that_do_not_fit() {
    let r = rig();
    let (x, y) = (r.put(&[3i32; 32]), r.put(&[0i32; 32]));
    r.clean("bad_mask", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(32)]);
    let out = r.run("bad_mask", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(16)]);
    // The ISA lets the shuffle wait for lanes that have not exited: these never come, and it goes on when they are gone.
    assert_finding(&out, Kind::WarpMask, &["names lanes that have exited (0xffff0000)"]);
    r.clean("bad_mask_own", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::U32(u32::MAX)]);
    let out = r.run("bad_mask_own", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::U32(0x7fff_ffff)]);
    assert_finding(&out, Kind::WarpMask, &["not in its member mask 0x7fffffff", "lane 31"]);
    // Lanes without a thread may be named as long as nobody reads them.
    for threads in [1, 16, 40] {
        r.clean(
            "bad_mask_own",
            1,
            threads,
            &[Arg::Ptr(r.put(&[3i32; 40])), Arg::Ptr(r.put(&[0i32; 40])), Arg::U32(!0)],
        );
    }
}

#[test]
fn asynchronous_copies_need_their_wait() {
    let r = rig();
    let (x, y) = (floats(&r, 128), floats(&r, 128));
    let out = r.run("missing_wait", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y)]);
    assert_finding(&out, Kind::MissingWait, &["no cp.async.wait has completed"]);
    r.clean("missing_wait_ok", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y)]);
    assert_eq!(r.get::<f32>(y, 128), [1f32; 128]);
}

#[test]
fn asynchronous_copies_need_barriers_too() {
    let r = rig();
    let x: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    let (px, py) = (r.put(&x), r.empty::<f32>(1024));
    let two = [Arg::Ptr(px), Arg::Ptr(py)];
    let out = r.run("wait_without_barrier", 1, 64, &two);
    let text = |out: &Outcome| out.findings.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n");
    // What warp 1 copied is not even under way when warp 0 reads it.
    assert!(text(&out).contains("read after write at shared address"), "{}", text(&out));
    r.clean("wait_without_barrier_ok", 1, 64, &two);
    assert!(r.get::<f32>(py, 256).chunks(4).enumerate().all(|(i, v)| v == &x[4 * (63 - i)..][..4]));
    let three = [two[0], two[1], Arg::I32(4)];
    let out = r.run("stage_overwritten", 1, 64, &three);
    assert!(text(&out).contains("write after read at shared address"), "{}", text(&out));
    r.clean("stage_overwritten_ok", 1, 64, &three);
    let y: Vec<f32> = r.get(py, 1024);
    for (i, v) in y.chunks(4).enumerate() {
        assert_eq!(v, &x[4 * (i / 64 * 64 + 63 - i % 64)..][..4], "element {i}");
    }
}

#[test]
fn data_handed_over_without_fences() {
    let r = rig();
    for (name, bug) in [("publish", true), ("publish_ok", false)] {
        let (data, flag, y) = (r.put(&[0i32]), r.put(&[0i32]), r.put(&[0i32]));
        let args = [Arg::Ptr(data), Arg::Ptr(flag), Arg::Ptr(y)];
        if bug {
            let out = r.run(name, 2, 1, &args);
            assert_finding(&out, Kind::GlobalRace, &["read after write", "unless a fence and an atomic order them"]);
        } else {
            r.clean(name, 2, 1, &args);
            assert_eq!(r.get::<i32>(y, 1), [42]);
        }
    }
}

/// What every report must name: the access, its address, the allocation and the distance, the kernel, block, warp, lane
/// and thread, the line of the source (the file was compiled with -lineinfo) and the line of the PTX text.
#[test]
fn a_report_says_where_and_what() {
    let r = rig();
    let y = floats(&r, 100);
    let out = r.run_with("write_past", [2, 1, 1], [64, 1, 1], 0, &[Arg::Ptr(y), Arg::I32(60)]);
    let line = |text: &str, what: &str| text.lines().position(|l| l.contains(what)).unwrap() + 1;
    let source = line(include_str!("../../../tests/kernels/bugs.cu"), "void write_past(");
    let ptx = out.findings[0].place.as_ref().unwrap().ptx_line;
    let text = BUGS.lines().nth(ptx as usize - 1).unwrap();
    assert!(text.contains("st.global.u32"), "PTX line {ptx} is `{text}`");
    let want = format!(
        "out-of-bounds: global write of 4 bytes at {:#x}: it starts 0 bytes past the end of allocation 1 (400 bytes at \
         {y:#x}); kernel write_past, block (0,0,0), warp 1, lane 8 (thread 40,0,0), bugs.cu:{source}, PTX line {ptx} \
         `st.global.u32`",
        y + 400
    );
    assert!(out.findings[0].to_string().starts_with(&want), "{}\n{want}", out.findings[0]);
    // An access that is half inside.
    let z = floats(&r, 33);
    let out = r.run("misaligned_vector", 1, 1, &[Arg::Ptr(z), Arg::Ptr(y), Arg::I32(32)]);
    assert_finding(&out, Kind::OutOfBounds, &["global read of 16 bytes", "its last bytes lie 0 bytes past the end"]);
}

/// Forms that nvcc does not make of such bugs: it would see through them.
#[test]
fn local_memory_and_shared_addresses_by_hand() {
    let r = Rig::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry local_read(.param .u64 y, .param .u32 n)\n{\n.local .align 16 .b8 depot[32];\n\
         .reg .b32 %r<4>; .reg .b64 %rd<4>;\n\
         ld.param.u64 %rd0, [y];\nld.param.u32 %r0, [n];\nmov.u64 %rd1, depot;\ncvt.u64.u32 %rd2, %r0;\n\
         add.s64 %rd2, %rd1, %rd2;\nmov.u32 %r1, 7;\nst.local.u32 [%rd1+8], %r1;\nld.local.u32 %r2, [%rd2];\n\
         st.global.u32 [%rd0], %r2;\nret;\n}\n\
         .visible .entry shared_at(.param .u64 y, .param .u32 n)\n{\n.shared .align 16 .b8 tile[64];\n\
         .reg .b32 %r<4>; .reg .b64 %rd<4>;\n\
         ld.param.u64 %rd0, [y];\nld.param.u32 %r0, [n];\nmov.u32 %r1, tile;\nadd.s32 %r1, %r1, %r0;\n\
         mov.u32 %r2, 5;\natom.shared.exch.b32 %r3, [%r1], %r2;\nst.global.u32 [%rd0], %r2;\nret;\n}\n",
    );
    let y = r.put(&[0u32]);
    r.clean("local_read", 1, 1, &[Arg::Ptr(y), Arg::U32(8)]);
    assert_eq!(r.get::<u32>(y, 1), [7]);
    let out = r.run("local_read", 1, 1, &[Arg::Ptr(y), Arg::U32(12)]);
    assert_finding(&out, Kind::Uninitialised, &["local read of 4 bytes", "byte 0 was never written"]);
    let out = r.run("local_read", 1, 1, &[Arg::Ptr(y), Arg::U32(32)]);
    assert_finding(&out, Kind::OutOfBounds, &["local read of 4 bytes", "0 bytes past the end of the local memory"]);
    let out = r.run("local_read", 1, 1, &[Arg::Ptr(y), Arg::U32(10)]);
    assert_finding(&out, Kind::Misaligned, &["local read of 4 bytes", "must be a multiple of 4"]);
    for (at, kind, words) in [
        (64, Kind::OutOfBounds, "shared atomic access of 4 bytes at 0x40: it starts 0 bytes past the end"),
        (2, Kind::Misaligned, "shared atomic access of 4 bytes at 0x2: the address must be a multiple of 4"),
    ] {
        let out = r.run("shared_at", 1, 1, &[Arg::Ptr(y), Arg::U32(at)]);
        assert_finding(&out, kind, &[words]);
    }
    // An atomic reads before it writes.
    let out = r.run("shared_at", 1, 1, &[Arg::Ptr(y), Arg::U32(60)]);
    assert_finding(&out, Kind::Uninitialised, &["shared atomic access of 4 bytes at 0x3c"]);
}

#[test]
fn deadlocks_and_traps() {
    let r = rig();
    let flag = r.put(&[0i32]);
    let out = r.run("wait_for_ever", 2, 64, &[Arg::Ptr(flag)]);
    assert_finding(&out, Kind::Deadlock, &["spins in a loop that nothing can end"]);
    let set = r.put(&[1i32]);
    r.clean("wait_for_ever", 2, 64, &[Arg::Ptr(set)]);
    let y = floats(&r, 64);
    let out = r.run("barrier_deadlock", 1, 64, &[Arg::Ptr(y)]);
    assert_finding(&out, Kind::Deadlock, &["warp 0", "waits at barrier 1 for warps 1"]);
    r.clean("barrier_deadlock_ok", 1, 64, &[Arg::Ptr(y)]);
    let out = r.run("stop", 1, 1, &[]);
    assert_finding(&out, Kind::Trap, &["trap executed"]);
}
