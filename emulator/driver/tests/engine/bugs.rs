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
    let out = r.run("atomic_past", 1, 64, &[Arg::Ptr(y), Arg::I32(100)]);
    assert_finding(&out, Kind::OutOfBounds, &["global atomic access of 4 bytes", "0 bytes past the end"]);
    for (bytes, n, ok) in [(256, 1, false), (260, 1, true), (256, -1, false)] {
        let out = r.run_with("shared_past", [1; 3], [64, 1, 1], bytes, &[Arg::Ptr(y), Arg::I32(n)]);
        if ok {
            assert_clean("shared_past", &out);
        } else {
            assert_finding(
                &out,
                Kind::OutOfBounds,
                &["shared write of 4 bytes", "of the shared memory of this block (256 bytes)"],
            );
        }
    }
    r.clean("local_past", 1, 32, &[Arg::Ptr(y), Arg::I32(7)]);
    let out = r.run("local_past", 1, 32, &[Arg::Ptr(y), Arg::I32(8)]);
    assert_finding(
        &out,
        Kind::OutOfBounds,
        &["local write of 4 bytes", "past the end of the local memory of this thread (32 bytes)"],
    );
    let out = r.run("copy", 1, 32, &[Arg::Ptr(0), Arg::Ptr(y), Arg::I32(32)]);
    assert_finding(&out, Kind::OutOfBounds, &["not a device address (null or host pointer?)"]);
}

#[test]
fn misaligned_scalars_and_vectors() {
    let r = rig();
    let (x, y) = (floats(&r, 200), floats(&r, 200));
    r.clean("misaligned", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(4)]);
    let out = r.run("misaligned", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(2)]);
    assert_finding(&out, Kind::Misaligned, &["the address must be a multiple of 4"]);
    r.clean("misaligned_vector", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(4)]);
    let out = r.run("misaligned_vector", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(1)]);
    assert_finding(&out, Kind::Misaligned, &["global read of 16 bytes", "the address must be a multiple of 16"]);
}

#[test]
fn use_after_free_and_uninitialised_reads() {
    let r = rig();
    let (x, y) = (floats(&r, 64), floats(&r, 64));
    r.device.arena.free(x, "cuMemFree").unwrap();
    let out = r.run("copy", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(64)]);
    assert_finding(&out, Kind::UseAfterFree, &["0 bytes inside allocation 1 (256 bytes", "freed by cuMemFree"]);
    let fresh = r.empty::<f32>(64);
    let out = r.run("copy", 1, 64, &[Arg::Ptr(fresh), Arg::Ptr(y), Arg::I32(64)]);
    assert_finding(&out, Kind::Uninitialised, &["byte 0 was never written since allocation", "64 times"]);
    assert!(out.fault.is_none(), "the hardware would go on");
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
    r.device.arena.sub_free(pool).unwrap();
    let out = r.run("copy", 1, 64, &[Arg::Ptr(pool), Arg::Ptr(pool + 512), Arg::I32(64)]);
    assert_finding(&out, Kind::UseAfterFree, &["freed by warpsmithEmuSubFree"]);
    // What is handed out again is unwritten again.
    r.device.arena.sub_alloc(pool, 256).unwrap();
    let out = r.run("copy", 1, 64, &[Arg::Ptr(pool), Arg::Ptr(pool + 512), Arg::I32(64)]);
    assert_finding(&out, Kind::Uninitialised, &["was never written"]);
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
fn global_memory_races_between_blocks() {
    let mut r = rig();
    let (x, y) = (floats(&r, 64), floats(&r, 64));
    for threads in [1, 2] {
        r.settings.threads = threads;
        let out = r.run("global_race", 16, 32, &[Arg::Ptr(x), Arg::Ptr(y)]);
        assert_finding(&out, Kind::GlobalRace, &["blocks of a launch are unordered"]);
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
    assert_finding(&out, Kind::WarpMask, &["names lanes that have exited or do not exist (0xffff0000)"]);
    r.clean("bad_mask_own", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::U32(u32::MAX)]);
    let out = r.run("bad_mask_own", 1, 32, &[Arg::Ptr(x), Arg::Ptr(y), Arg::U32(0x7fff_ffff)]);
    assert_finding(&out, Kind::WarpMask, &["not in its member mask 0x7fffffff", "lane 31"]);
    let out = r.run("bad_mask_own", 1, 16, &[Arg::Ptr(x), Arg::Ptr(y), Arg::U32(u32::MAX)]);
    assert_finding(&out, Kind::WarpMask, &["names lanes that have exited or do not exist (0xffff0000)"]);
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
    let out = r.run("stop", 1, 1, &[]);
    assert_finding(&out, Kind::Trap, &["trap executed"]);
}
