//! Kernels with known answers. Every one must also pass every check.

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::exec::alu::Level;

use crate::rig::{Arg, Rig, assert_clean, assert_finding};

const BASIC: &str = include_str!("../../../tests/kernels/basic.ptx");

/// Small reproducible numbers.
pub fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2654435761).wrapping_add(1);
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1664525).wrapping_add(1013904223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn vector_add_at_every_host_level() {
    for level in [Level::Base, Level::Avx2, Level::Avx512] {
        if level != Level::Base && Level::detect() == Level::Base {
            continue;
        }
        if level == Level::Avx512 && Level::detect() != Level::Avx512 {
            continue;
        }
        let rig = Rig::at_level(BASIC, level);
        let n = 1000;
        let (x, y) = (noise(n, 1), noise(n, 2));
        let (px, py, pz) = (rig.put(&x), rig.put(&y), rig.empty::<f32>(n));
        let out = rig.clean("vector_add", 4, 256, &[Arg::Ptr(px), Arg::Ptr(py), Arg::Ptr(pz), Arg::I32(n as i32)]);
        let z: Vec<f32> = rig.get(pz, n);
        for i in 0..n {
            assert_eq!(z[i], x[i] + y[i]);
        }
        // 31 full warps and one of 8 lanes, each reading and writing 4 bytes per lane.
        let loads: u64 = out.sites.iter().map(|s| s.bytes).sum();
        assert_eq!(loads, 3 * 4 * n as u64);
        assert_eq!(out.unique_read, 2 * (4 * n as u64).div_ceil(32));
        assert_eq!(out.unique_write, (4 * n as u64).div_ceil(32));
    }
}

#[test]
fn reduce_through_shared_memory_and_atomics() {
    let rig = Rig::new(BASIC);
    let x: Vec<f32> = (0..5000).map(|i| (i % 17) as f32).collect();
    let (px, sum) = (rig.put(&x), rig.put(&[0f32]));
    rig.clean("reduce_sum", 6, 256, &[Arg::Ptr(px), Arg::Ptr(sum), Arg::I32(5000)]);
    assert_eq!(rig.get::<f32>(sum, 1)[0], x.iter().sum::<f32>());
}

#[test]
fn warp_shuffles_and_ballots() {
    let rig = Rig::new(BASIC);
    let x: Vec<i32> = (0..128).map(|i| (i * 37 % 101) - 50).collect();
    let (px, sum, neg) = (rig.put(&x), rig.empty::<i32>(4), rig.empty::<i32>(4));
    rig.clean("warp_sum", 2, 64, &[Arg::Ptr(px), Arg::Ptr(sum), Arg::Ptr(neg)]);
    for w in 0..4 {
        let part = &x[32 * w..32 * w + 32];
        assert_eq!(rig.get::<i32>(sum, 4)[w], part.iter().sum::<i32>());
        assert_eq!(rig.get::<i32>(neg, 4)[w], part.iter().filter(|v| **v < 0).count() as i32);
    }
}

#[test]
fn histogram_with_shared_atomics() {
    let rig = Rig::new(BASIC);
    let x: Vec<u8> = (0..10000u32).map(|i| (i * i % 251) as u8).collect();
    let (px, bins) = (rig.put(&x), rig.put(&[0u32; 256]));
    rig.clean("histogram", 4, 256, &[Arg::Ptr(px), Arg::Ptr(bins), Arg::I32(10000)]);
    let got: Vec<u32> = rig.get(bins, 256);
    for (b, &n) in got.iter().enumerate() {
        assert_eq!(n, x.iter().filter(|v| **v as usize == b).count() as u32, "bin {b}");
    }
}

#[test]
fn lanes_leave_a_loop_one_by_one() {
    let rig = Rig::new(BASIC);
    let x: Vec<u32> = (1..=100).collect();
    let (px, steps) = (rig.put(&x), rig.empty::<u32>(100));
    let out = rig.clean("collatz", 1, 128, &[Arg::Ptr(px), Arg::Ptr(steps), Arg::I32(100)]);
    for (i, got) in rig.get::<u32>(steps, 100).into_iter().enumerate() {
        let (mut v, mut n) = (i as u32 + 1, 0);
        while v != 1 {
            v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
            n += 1;
        }
        assert_eq!(got, n, "start {}", i + 1);
    }
    assert!(out.sites.iter().map(|s| s.divergent).sum::<u64>() > 0);
}

#[test]
fn locks_between_lanes_and_blocks() {
    for kernel in ["spin_lock", "spin_lock_naive"] {
        let rig = Rig::new(BASIC);
        let (lock, counter) = (rig.put(&[0i32]), rig.put(&[0i32]));
        rig.clean(kernel, 3, 40, &[Arg::Ptr(lock), Arg::Ptr(counter)]);
        assert_eq!(rig.get::<i32>(counter, 1)[0], 120, "{kernel}");
    }
}

#[test]
fn dynamic_shared_memory() {
    let rig = Rig::new(BASIC);
    let x = noise(16384, 3);
    let (px, py) = (rig.put(&x), rig.empty::<f32>(16384));
    let out = rig.run_with("dynamic_shared", [1; 3], [256, 1, 1], 65536, &[Arg::Ptr(px), Arg::Ptr(py)]);
    assert_clean("dynamic_shared", &out);
    let y: Vec<f32> = rig.get(py, 16384);
    assert!((0..16384).all(|i| y[i] == x[16383 - i]));
}

#[test]
fn calls_of_functions_under_divergence() {
    let rig = Rig::new(BASIC);
    let x = noise(64, 4);
    let (px, py) = (rig.put(&x), rig.empty::<f32>(64));
    rig.clean("calls", 1, 64, &[Arg::Ptr(px), Arg::Ptr(py), Arg::I32(5)]);
    let horner = |x: f32, n: i32| (1..=n).rev().fold(0f32, |s, i| s.mul_add(x, i as f32));
    for (i, y) in rig.get::<f32>(py, 64).into_iter().enumerate() {
        let want = if i % 3 == 0 { horner(x[i], 5) } else { horner(x[i], 2) - 1.0 };
        assert_eq!(y, want, "lane {i}");
    }
}

#[test]
fn printf_and_assert() {
    let rig = Rig::new(BASIC);
    let out = rig.clean("speak", 1, 32, &[Arg::I32(2)]);
    let text = String::from_utf8(out.output).unwrap();
    assert_eq!(text, "thread 0 of block:  0.00|0   |ff\nthread 1 of block:  0.50|1   |ff\n");
    let good: Vec<i32> = (0..32).collect();
    rig.clean("claim", 1, 32, &[Arg::Ptr(rig.put(&good))]);
    let bad: Vec<i32> = (0..32).map(|i| i * 5).collect();
    let out = rig.run("claim", 1, 32, &[Arg::Ptr(rig.put(&bad))]);
    assert_finding(&out, Kind::Assert, &["assertion `x[threadIdx.x] < 100` failed", "lane 20", "basic.cu"]);
    assert!(out.fault.is_some());
}

#[test]
fn philox_test_vectors() {
    // Random123, kat_vectors: philox4x32-10.
    let rig = Rig::new(BASIC);
    let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
        (
            [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
            [0xa4093822, 0x299f31d0],
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
        ),
    ];
    for (counter, key, want) in cases {
        let (pc, po) = (rig.put(&[counter]), rig.empty::<[u32; 4]>(1));
        rig.clean("philox", 1, 1, &[Arg::U32(key[0]), Arg::U32(key[1]), Arg::Ptr(pc), Arg::Ptr(po)]);
        assert_eq!(rig.get::<[u32; 4]>(po, 1)[0], want);
    }
}

#[test]
fn softmax_rows() {
    let rig = Rig::new(BASIC);
    let (rows, cols) = (5, 77);
    let x = noise(rows * cols, 5);
    let (px, py) = (rig.put(&x), rig.empty::<f32>(rows * cols));
    rig.clean("softmax", rows as u32, 32, &[Arg::Ptr(px), Arg::Ptr(py), Arg::I32(cols as i32)]);
    let y: Vec<f32> = rig.get(py, rows * cols);
    for r in 0..rows {
        let sum: f64 = x[r * cols..][..cols].iter().map(|v| (*v as f64).exp()).sum();
        for c in 0..cols {
            let want = (x[r * cols + c] as f64).exp() / sum;
            assert!((y[r * cols + c] as f64 - want).abs() < 2e-6 * want, "row {r} column {c}");
        }
    }
}

#[test]
fn matrix_products_naive_and_tiled() {
    let rig = Rig::new(BASIC);
    let (m, n, k) = (45, 37, 50);
    let (a, b) = (noise(m * k, 6), noise(k * n, 7));
    let (pa, pb) = (rig.put(&a), rig.put(&b));
    for kernel in ["gemm_naive", "gemm_tiled"] {
        let pc = rig.empty::<f32>(m * n);
        let dims = [m, n, k].map(|v| Arg::I32(v as i32));
        let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), dims[0], dims[1], dims[2]];
        let out = rig.run_with(kernel, [3, 3, 1], [16, 16, 1], 0, &args);
        assert_clean(kernel, &out);
        let c: Vec<f32> = rig.get(pc, m * n);
        for i in 0..m {
            for j in 0..n {
                let want = (0..k).fold(0f32, |s, l| a[i * k + l].mul_add(b[l * n + j], s));
                assert_eq!(c[i * n + j], want, "{kernel} ({i},{j})");
            }
        }
    }
}

#[test]
fn the_last_block_adds_what_the_others_left() {
    let rig = Rig::new(BASIC);
    let x: Vec<f32> = (0..2000).map(|i| (i % 13) as f32).collect();
    let (px, parts, sum) = (rig.put(&x), rig.empty::<f32>(8), rig.empty::<f32>(1));
    rig.clean("last_block_sum", 8, 32, &[Arg::Ptr(px), Arg::Ptr(parts), Arg::Ptr(sum), Arg::I32(2000)]);
    assert_eq!(rig.get::<f32>(sum, 1)[0], x.iter().sum::<f32>());
}

#[test]
fn blocks_that_wait_for_each_other_become_resident_together() {
    let rig = Rig::new(BASIC);
    let x: Vec<i32> = (0..5).collect();
    let (arrived, px, py) = (rig.put(&[0u32]), rig.put(&x), rig.empty::<i32>(10));
    rig.clean("grid_barrier", 5, 64, &[Arg::Ptr(arrived), Arg::Ptr(px), Arg::Ptr(py)]);
    assert_eq!(rig.get::<i32>(py, 5), [2, 4, 6, 8, 0]);
    // On a device that holds fewer blocks than wait, nobody can go on.
    let mut small = Rig::new(BASIC);
    small.settings.resident = 3;
    let (arrived, px, py) = (small.put(&[0u32]), small.put(&x), small.empty::<i32>(10));
    let out = small.run("grid_barrier", 5, 64, &[Arg::Ptr(arrived), Arg::Ptr(px), Arg::Ptr(py)]);
    assert_finding(&out, Kind::Deadlock, &["spins in a loop", "the remaining blocks have no room to start"]);
}

#[test]
fn a_switch_with_many_ways() {
    let rig = Rig::new(BASIC);
    let x: Vec<i32> = (0..64).map(|i| i % 10).collect();
    let (px, py) = (rig.put(&x), rig.empty::<i32>(64));
    rig.clean("switch_table", 1, 64, &[Arg::Ptr(px), Arg::Ptr(py)]);
    for (v, r) in x.iter().zip(rig.get::<i32>(py, 64)) {
        let want = [100, 7, -2, 48, -996, !5, 6 ^ 0x55, 1, 0, 0][*v as usize];
        assert_eq!(r, want, "case {v}");
    }
}
