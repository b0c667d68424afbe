//! Patterns from kernels that are known to be right on GPUs: the checks accept them, and still catch the broken twins.

use warpsmith_emulator_driver::check::finding::Kind;

use crate::rig::{Arg, Rig, assert_clean, assert_finding};

const PATTERNS: &str = include_str!("../../../tests/kernels/patterns.ptx");

#[test]
fn a_fence_of_every_thread_covers_the_ticket_behind_the_barrier() {
    let r = Rig::new(PATTERNS);
    let run = |name: &str| {
        let (parts, count, out) = (r.empty::<f32>(4 * 96), r.put(&[0u32]), r.empty::<f32>(96));
        (r.run(name, 4, 96, &[Arg::Ptr(parts), Arg::Ptr(count), Arg::Ptr(out)]), out)
    };
    let (done, out) = run("ticket_fenced");
    assert_clean("ticket_fenced", &done);
    let want: Vec<f32> = (0..96).map(|i| 4.0 * (i as f32 + 1.0)).collect();
    assert_eq!(r.get::<f32>(out, 96), want);
    let (done, _) = run("ticket_unfenced");
    assert_finding(&done, Kind::GlobalRace, &["read after write", "unless a fence and an atomic order them"]);
}

#[test]
fn an_exit_counts_as_an_arrival_at_the_barrier() {
    let r = Rig::new(PATTERNS);
    let y = r.empty::<f32>(32);
    // That threads leave without the barrier is told, but what they did before is no race.
    let done = r.run("few_write_out", 1, 128, &[Arg::Ptr(y), Arg::I32(1)]);
    assert_finding(&done, Kind::DivergentBarrier, &["96 of 128 threads of the block had exited"]);
    assert_eq!(r.get::<f32>(y, 32), [4f32; 32]);
    let done = r.run("few_write_out", 1, 128, &[Arg::Ptr(y), Arg::I32(0)]);
    assert_finding(&done, Kind::SharedRace, &["no barrier lies between them"]);
}

/// Threads that leave in the middle of a warp: barriers go on without them, as on a GPU, and nothing deadlocks.
#[test]
fn an_early_return_in_the_middle_of_a_warp() {
    let r = Rig::new(PATTERNS);
    let x: Vec<f32> = (0..64).map(|i| (i * i % 37) as f32).collect();
    let px = r.put(&x);
    for n in [1, 20, 32, 40, 63, 64] {
        let sums: Vec<f32> = (0..n).map(|i| x[..=i].iter().sum()).collect();
        let args = |y| [Arg::Ptr(px), Arg::Ptr(y), Arg::I32(n as i32)];
        let y = r.empty::<f32>(64);
        r.clean("early_return_ok", 1, 64, &args(y));
        assert_eq!(r.get::<f32>(y, n), sums, "{n} threads that go on");
        let y = r.empty::<f32>(64);
        let done = r.run("early_return", 1, 64, &args(y));
        assert_eq!(r.get::<f32>(y, n), sums, "{n} threads that stay");
        // That they leave is told, once for each barrier, and nothing else is.
        if n > 1 && n < 64 {
            let words = format!("{} of 64 threads of the block had exited without reaching it", 64 - n);
            assert_finding(&done, Kind::DivergentBarrier, &[&words]);
            assert!(done.findings.iter().all(|f| f.message.contains(&words)), "{:?}", done.findings);
        } else {
            assert_clean("early_return", &done);
        }
        assert!(done.fault.is_none());
        let y = r.empty::<f32>(64);
        if n > 32 {
            r.clean("late_return", 1, 64, &args(y));
            let want: Vec<f32> = (0..n).map(|i| x[n - 1 - i]).chain((n..64).map(|i| x[i] + (i % 4) as f32)).collect();
            assert_eq!(r.get::<f32>(y, 64), want, "{n} threads at the counted barrier");
        }
    }
}

#[test]
fn a_shuffle_waits_only_for_lanes_that_have_not_exited() {
    let r = Rig::new(PATTERNS);
    let x: Vec<i32> = (0..32).collect();
    let y = r.put(&x);
    r.clean("shuffle_of_the_rest", 1, 32, &[Arg::Ptr(y), Arg::I32(32), Arg::I32(1)]);
    let y = r.put(&x);
    let done = r.run("shuffle_of_the_rest", 1, 32, &[Arg::Ptr(y), Arg::I32(20), Arg::I32(1)]);
    assert_finding(&done, Kind::WarpMask, &["names lanes that have exited (0xfff00000)"]);
    assert!(done.fault.is_none(), "the others go on");
    // After two rounds lane i holds x[i] + 2 x[i + 1] + x[i + 2], as far as only live lanes went into it.
    let got = r.get::<i32>(y, 32);
    assert!((0..18).all(|i| got[i] == 4 * i as i32 + 4), "{got:?}");
    assert_eq!(got[20..], x[20..]);
}

/// A full mask in a partial warp is common and harmless; the values of lanes without a thread are not.
#[test]
fn full_masks_in_a_partial_warp() {
    let r = Rig::new(PATTERNS);
    let x: Vec<i32> = (0..52).collect();
    let run = |step| {
        let y = r.put(&x);
        (r.run("shuffle_of_the_rest", 1, 52, &[Arg::Ptr(y), Arg::I32(52), Arg::I32(step)]), r.get::<i32>(y, 52))
    };
    let (done, y) = run(0);
    assert_clean("shuffle_of_the_rest", &done);
    assert!(y.iter().zip(&x).all(|(y, x)| *y == 4 * x));
    let (done, _) = run(3);
    let words = "the lane reads lane 20, which does not exist: the block has 52 threads";
    assert_finding(&done, Kind::WarpMask, &[words, "warp 1, lane 17 (thread 49,0,0)"]);
    assert!(done.fault.is_none());
}

#[test]
fn what_raced_once_is_remembered_for_the_next_race() {
    let r = Rig::new(PATTERNS);
    let (x, y) = (r.put(&[1f32, 2.0]), r.empty::<f32>(64));
    r.clean("reused_slot", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(1)]);
    assert_eq!(r.get::<f32>(y, 64), [3f32; 64]);
    let done = r.run("reused_slot", 1, 64, &[Arg::Ptr(x), Arg::Ptr(y), Arg::I32(0)]);
    assert_finding(
        &done,
        Kind::SharedRace,
        &[
            "write after read at shared address 0x0: the word was read by lane 31 of the same warp",
            "read after write at shared address 0x0: the word was written by warp 0, lane 0",
        ],
    );
}

#[test]
fn member_masks_may_cross_those_of_the_operation_before() {
    let r = Rig::new(PATTERNS);
    let x: Vec<i32> = (0..32).map(|i| i * 37 % 101).collect();
    let (dx, y) = (r.put(&x), r.empty::<i32>(128));
    r.clean("crossing_masks", 1, 32, &[Arg::Ptr(dx), Arg::Ptr(y)]);
    let got = r.get::<i32>(y, 128);
    for lane in 0..32usize {
        let half = &x[lane / 16 * 16..][..16];
        let parity = || (0..32).filter(|i| i % 2 == lane % 2);
        let ballot = parity().filter(|&i| x[i] > 50).fold(0u32, |mask, i| mask | 1 << i);
        let want = [*half.iter().max().unwrap(), parity().map(|i| x[i]).sum(), x[lane ^ 16], ballot as i32];
        assert_eq!(got[lane * 4..][..4], want, "lane {lane}");
    }
}

/// Lanes with several member masks stay together: barriers and tensor operations behind them see whole warps, and the
/// counters are those of one mask.
#[test]
fn tiles_of_a_warp_stay_one_warp() {
    let r = Rig::new(PATTERNS);
    let x: Vec<f32> = (0..64).map(|i| (i * 5 % 11) as f32).collect();
    let px = r.put(&x);
    for width in [2usize, 4, 8, 16] {
        let sums: Vec<f32> = (0..64).map(|i| x[i / width * width..][..width].iter().sum()).collect();
        for (kernel, threads) in [("tile_sums", 64), ("tile_sums_mma", 32)] {
            let run = |tile: usize| {
                let y = r.empty::<f32>(threads);
                let args = [Arg::Ptr(px), Arg::Ptr(y), Arg::I32(width as i32), Arg::I32(tile as i32)];
                let out = r.clean(kernel, 1, threads as u32, &args);
                (r.get::<f32>(y, threads), out)
            };
            let (_, whole) = run(32);
            for tile in [2, 4, 8, 16, 32].into_iter().filter(|&t| t >= width) {
                let (got, out) = run(tile);
                // Row 4 g + t of A is what lanes 4 g to 4 g + 3 have, column 2 t of B what lanes 8 t to 8 t + 3 have.
                let product =
                    |lane: usize| 2.0 * (0..4).map(|k| sums[lane / 4 * 4 + k] * sums[lane % 4 * 8 + k]).sum::<f32>();
                let want: Vec<f32> = match kernel {
                    "tile_sums" => (0..64).map(|i| sums[63 - i]).collect(),
                    _ => (0..32).map(product).collect(),
                };
                assert_eq!(got, want, "{kernel}, sums of {width}, tiles of {tile}");
                assert_eq!(out.sites, whole.sites, "{kernel}, sums of {width}, tiles of {tile}");
            }
        }
    }
}

#[test]
fn masks_of_equal_keys_before_a_barrier() {
    let r = Rig::new(PATTERNS);
    let x: Vec<i32> = (0..64).map(|i| i * i % 7).collect();
    let (px, y) = (r.put(&x), r.empty::<i32>(64));
    let out = r.clean("keys", 1, 64, &[Arg::Ptr(px), Arg::Ptr(y)]);
    let mates = |t: usize| (t / 32 * 32..t / 32 * 32 + 32).filter(move |&l| (l * l) % 7 == (t * t) % 7);
    let seen = |t: usize| mates(t).sum::<usize>() * 100 + mates(t).filter(|l| l % 2 == 1).count();
    let want: Vec<i32> = (0..64).map(|t| (seen(t) + seen(63 - t)) as i32).collect();
    assert_eq!(r.get::<i32>(y, 64), want);
    // Two warps, and no operation ran more often than that, nor by fewer lanes.
    assert!(out.sites.iter().all(|s| (s.hits, s.lanes) == (2, 64) || s.hits == 0), "{:?}", out.sites);
}

/// The ISA asks for the same instruction, qualifiers and member mask, not for the same place.
#[test]
fn lanes_in_both_branches_meet() {
    let r = Rig::new(PATTERNS);
    let x: Vec<f32> = (0..64).map(|i| (i * 7 % 23) as f32).collect();
    let px = r.put(&x);
    for split in [0usize, 1, 8, 13, 16, 24, 31, 32] {
        for tile in [2, 8, 16, 32] {
            let y = r.empty::<f32>(64);
            let args = [Arg::Ptr(px), Arg::Ptr(y), Arg::I32(split as i32), Arg::I32(tile)];
            r.clean("two_places", 1, 64, &args);
            let low = |t: usize| t % 32 < split;
            let v = |t: usize| x[t] * if low(t) { 2.0 } else { 3.0 };
            let got = |t: usize| v(t ^ (tile as usize / 2)) + if low(t) { 1.0 } else { -1.0 };
            let want: Vec<f32> = (0..64).map(|t| got(63 - t)).collect();
            assert_eq!(r.get::<f32>(y, 64), want, "split at {split}, tiles of {tile}");
        }
    }
    let x: Vec<i32> = (0..32).map(|i| i * i % 9).collect();
    let (px, y) = (r.put(&x), r.empty::<i32>(128));
    let args = |split, low, high| [Arg::Ptr(px), Arg::Ptr(y), Arg::I32(split), Arg::U32(low), Arg::U32(high)];
    for split in [0usize, 1, 16, 20, 32] {
        r.clean("two_places_all", 1, 32, &args(split as i32, u32::MAX, u32::MAX));
        let got = r.get::<i32>(y, 128);
        let low = |t: usize| t < split;
        let bits = |f: &dyn Fn(usize) -> bool| (0..32).filter(|&t| f(t)).fold(0u32, |m, t| m | 1 << t) as i32;
        let key = |t: usize| x[t] + i32::from(!low(t));
        let sum: i32 = (0..32).map(|t| x[t] * if low(t) { 1 } else { 5 }).sum();
        for t in 0..32 {
            let votes = bits(&|l| if low(l) { x[l] > 3 } else { x[l] < 6 });
            let mates = bits(&|l| key(l) == key(t));
            let other = x[31 - t] * if low(31 - t) { 1 } else { -1 } * if low(t) { 1 } else { 2 };
            assert_eq!(got[4 * t..][..4], [votes, mates, sum, other], "split at {split}, lane {t}");
        }
    }
    // Half of a warp waits for itself only: its other half may not have written yet.
    let done = r.run("two_places_all", 1, 32, &args(16, 0xffff, 0xffff_0000));
    assert_finding(&done, Kind::SharedRace, &["no __syncwarp or barrier lies between them"]);
    // A shuffle of another mode is another operation.
    let done = r.run("two_places_two_modes", 1, 32, &[Arg::Ptr(px), Arg::Ptr(y), Arg::I32(16)]);
    assert_finding(&done, Kind::Deadlock, &["lanes 0x0000ffff waits for lanes 0xffff0000 of its warp"]);
    r.clean("two_places_two_modes", 1, 32, &[Arg::Ptr(px), Arg::Ptr(y), Arg::I32(32)]);
}

/// What a fence, an atomic, a release or an acquire orders lies within its scope.
#[test]
fn scopes_end_at_the_block() {
    let r = Rig::new(PATTERNS);
    let out = r.empty::<i32>(1);
    let run = |name: &str, from: i32| {
        let (data, flag) = (r.empty::<i32>(1), r.put(&[0i32]));
        let done = r.run(name, 2, 64, &[Arg::Ptr(data), Arg::Ptr(flag), Arg::Ptr(out), Arg::I32(from)]);
        assert_eq!(r.get::<i32>(out, 1), [42], "{name}");
        done
    };
    for (name, across) in [
        ("hand_over_device", true),
        ("hand_over_fence", false),
        ("hand_over_atomic", false),
        ("release_device", true),
        ("release_block", false),
    ] {
        assert_clean(name, &run(name, 0));
        let done = run(name, 1);
        if across {
            assert_clean(name, &done);
        } else {
            let words = "the word was written by block 0 (warp 0, lane 0), and blocks of a launch are unordered";
            assert_finding(&done, Kind::GlobalRace, &["read after write", words]);
        }
    }
    let count = |name: &str, blocks: u32| {
        let n = r.put(&[0i32]);
        let done = r.run(name, blocks, 64, &[Arg::Ptr(n)]);
        assert_eq!(r.get::<i32>(n, 1), [64 * blocks as i32]);
        done
    };
    assert_clean("count_device", &count("count_device", 3));
    assert_clean("count_block", &count("count_block", 1));
    let words = "the word was written atomically, but only for its own block, by block 0 (warp 1, lane 31)";
    assert_finding(&count("count_block", 3), Kind::GlobalRace, &["write after write", words]);
}
