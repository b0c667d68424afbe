//! Kernels with known answers. Every one must also pass every check.

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::exec::alu::Level;
use warpsmith_emulator_driver::exec::grid::{Launch, Outcome};
use warpsmith_emulator_driver::exec::run::Site;

use crate::rig::{Arg, Rig, assert_clean, assert_finding};

const BASIC: &str = include_str!("../../../tests/kernels/basic.ptx");
const REPORT: &str = include_str!("../../../tests/kernels/report.ptx");

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

/// Every flag, width, precision, size and conversion that the programming guide lists, on values whose text follows from
/// the C standard; what it does not list stays as it stands.
#[test]
fn printf_formats() {
    let rig = Rig::new(REPORT);
    let s = rig.put(b"string\0");
    let mut args: Vec<u8> = Vec::new();
    args.extend((-42i32).to_le_bytes());
    args.extend(48879u32.to_le_bytes());
    args.extend((-5_000_000_000i64).to_le_bytes());
    args.extend(1234.5678f64.to_le_bytes());
    args.extend(s.to_le_bytes());
    let launch = Launch { grid: [1; 3], block: [1; 3], dynamic_shared: 0, params: args, cooperative: false };
    let out = rig.device.launch(&rig.kernel("formats"), &launch, &rig.settings);
    assert_clean("formats", &out);
    let text = String::from_utf8(out.output).unwrap();
    let want = "\
[-42|-42|48879|137357|beef|BEEF|c]
[-42|-42|+42|-0042|-42   |   -42|-0042|   -0042|-0042   |   -0042]
[0xbeef|0XBEEF|0137357|0|1234.568|2.00000]
[-42|214|-42|65494|-5000000000|18446744068709551616|-5000000000|fffffffed5fa0e00|18446744068709551616|-5000000000|\
-5000000000]
[st|string|  string|string  |     str|s| string|string ]
[1234.567800|1234.567800|1235|1234.568|   1234.57|1234.57   |0001234.57|+1234.6]
[1.234568e+03|1.234568E+03|1e+03|1.235E+03|1234.57|1234.57|1e-05|1e+20|1.23e+03|100000]
[0x1.8p+0|0X1.8P+0|0x1.8p+0|inf|-INF|  inf|nan  |INF]
[   -42|-42   |-42   |1234.57|   1234.6|-42]
[0x7f00|%|    x|y  |100%]
[%y|%5y|%n]
";
    for (got, want) in text.lines().zip(want.lines()) {
        assert_eq!(got, want);
    }
    assert_eq!(text, want);
    let y = rig.empty::<i32>(3);
    let out = rig.clean("format_results", 1, 1, &[Arg::Ptr(y)]);
    assert_eq!(String::from_utf8(out.output).unwrap(), "nothing\n1   2\n");
    assert_eq!(rig.get::<i32>(y, 3), [0, 3, -1]);
}

/// A string argument is read as any memory is; a precision bounds how much of it.
#[test]
fn printf_strings_without_an_end() {
    let rig = Rig::new(REPORT);
    let text = |format: &[u8], string: &[u8]| {
        let (f, s) = (rig.put(format), rig.put(string));
        let out = rig.run("say", 1, 1, &[Arg::Ptr(f), Arg::Ptr(s)]);
        let findings: Vec<String> = out.findings.iter().map(|f| f.to_string()).collect();
        (String::from_utf8(out.output).unwrap(), findings.join(""))
    };
    assert_eq!(text(b"<%.4s>\0", b"abcd"), ("<abcd>".into(), String::new()));
    let (said, finding) = text(b"<%s>\0", b"abcd");
    assert_eq!(said, "<");
    for words in ["out-of-bounds: global read of 1 bytes", "0 bytes past the end of allocation", "(4 bytes", "say"] {
        assert!(finding.contains(words), "`{words}` is missing in: {finding}");
    }
    // More conversions than arguments: the third `int` lies behind the pointer that was given.
    let (said, finding) = text(b"%d%d%d\0", b"\0");
    assert!(finding.contains("uninitialised: local read of 4 bytes"), "{said} {finding}");
    // 32 arguments at most: the rest of the format stays as it is.
    let out = rig.clean("many", 1, 1, &[Arg::I32(7)]);
    assert_eq!(String::from_utf8(out.output).unwrap(), "7 ".repeat(32) + "%d|%d\n");
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

const KNOWN: &str = include_str!("../../../tests/kernels/known.ptx");

/// Sums a counter over the sites of an outcome.
fn total(out: &Outcome, f: impl Fn(&Site) -> u64) -> u64 {
    out.sites.iter().map(f).sum()
}

#[test]
fn transposition_and_what_it_costs() {
    let rig = Rig::new(KNOWN);
    let n = 96;
    let x = noise(n * n, 30);
    let px = rig.put(&x);
    // Per kernel: sectors of one store request, wavefronts of one shared request on the average, both exact.
    let mut waves = Vec::new();
    for (name, store_sectors) in [("transpose_naive", 32), ("transpose_tiled", 4), ("transpose_padded", 4)] {
        let py = rig.empty::<f32>(n * n);
        let out = rig.run_with(name, [3, 3, 1], [32, 8, 1], 0, &[Arg::Ptr(px), Arg::Ptr(py), Arg::I32(n as i32)]);
        assert_clean(name, &out);
        let y: Vec<f32> = rig.get(py, n * n);
        assert!((0..n * n).all(|i| y[i] == x[i % n * n + i / n]), "{name}");
        let requests = (n * n / 32) as u64;
        assert_eq!(total(&out, |s| s.requests), 2 * requests, "{name}");
        assert_eq!(total(&out, |s| s.sectors), requests * (4 + store_sectors), "{name}");
        assert_eq!(total(&out, |s| s.bytes), 8 * (n * n) as u64, "{name}");
        assert_eq!((out.unique_read, out.unique_write), ((n * n / 8) as u64, (n * n / 8) as u64), "{name}");
        waves.push((total(&out, |s| s.waves), total(&out, |s| s.ideal_waves)));
    }
    // A store of a row takes one wavefront; a load of a column 32 with a pitch of 32 words, one with 33.
    assert_eq!(waves, [(0, 0), (288 * 33, 288 * 2), (288 * 2, 288 * 2)]);
}

#[test]
fn products_from_blocks_of_registers_to_tensor_cores() {
    let rig = Rig::new(KNOWN);
    let (m, n, k) = (128, 64, 48);
    // Integers are exact in tf32 and their sums in f32, in any order.
    let whole = |v: Vec<f32>| v.into_iter().map(|v| (v * 8.0).round()).collect::<Vec<f32>>();
    let (a, b) = (whole(noise(m * k, 31)), whole(noise(k * n, 32)));
    let (pa, pb) = (rig.put(&a), rig.put(&b));
    let want: Vec<f32> = (0..m * n).map(|i| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum()).collect();
    for (name, grid, block) in [("gemm_blocked", [1, 2, 1], 256), ("gemm_tf32", [8, 8, 1], 32)] {
        let pc = rig.empty::<f32>(m * n);
        let dims = [m, n, k].map(|v| Arg::I32(v as i32));
        let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), dims[0], dims[1], dims[2]];
        let out = rig.run_with(name, grid, [block, 1, 1], 0, &args);
        assert_clean(name, &out);
        assert_eq!(rig.get::<f32>(pc, m * n), want, "{name}");
    }
    // The two warps that share rows of A, and four float4 columns: what blocking saves.
    let bytes = |name: &str, grid: [u32; 3], block: [u32; 3], text: &str| {
        let r = Rig::new(text);
        let (pa, pb, pc) = (r.put(&a), r.put(&b), r.empty::<f32>(m * n));
        let dims = [m, n, k].map(|v| Arg::I32(v as i32));
        let out =
            r.run_with(name, grid, block, 0, &[Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), dims[0], dims[1], dims[2]]);
        assert_clean(name, &out);
        total(&out, |s| s.bytes)
    };
    let result = (4 * m * n) as u64;
    let naive = bytes("gemm_naive", [4, 8, 1], [16, 16, 1], BASIC);
    let tiled = bytes("gemm_tiled", [4, 8, 1], [16, 16, 1], BASIC);
    let blocked = bytes("gemm_blocked", [1, 2, 1], [256, 1, 1], KNOWN);
    let operands = (4 * m * n * k) as u64;
    assert_eq!(naive, 2 * operands + result, "every product loads both of its factors");
    assert_eq!(tiled, 2 * operands / 16 + result, "tiles of 16");
    assert_eq!(blocked, 2 * operands / 64 + result, "tiles of 64");
}

#[test]
fn welford_rows_by_merging() {
    let rig = Rig::new(KNOWN);
    let (rows, cols) = (3, 1000);
    // A large mean: sums of squares would lose the variance.
    let x: Vec<f32> = noise(rows * cols, 33).into_iter().map(|v| v + 1000.0).collect();
    let (px, pm, pq) = (rig.put(&x), rig.empty::<f32>(rows), rig.empty::<f32>(rows));
    rig.clean("welford_rows", rows as u32, 128, &[Arg::Ptr(px), Arg::Ptr(pm), Arg::Ptr(pq), Arg::I32(cols as i32)]);
    let (mean, m2): (Vec<f32>, Vec<f32>) = (rig.get(pm, rows), rig.get(pq, rows));
    for r in 0..rows {
        let row = &x[r * cols..][..cols];
        let mu = row.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
        let q = row.iter().map(|&v| (f64::from(v) - mu).powi(2)).sum::<f64>();
        assert!((f64::from(mean[r]) - mu).abs() < 1e-6 * mu, "row {r}: {} {mu}", mean[r]);
        assert!((f64::from(m2[r]) - q).abs() < 1e-3 * q, "row {r}: {} {q}", m2[r]);
    }
}

#[test]
fn the_place_of_the_smallest_value() {
    let rig = Rig::new(KNOWN);
    let x: Vec<u32> = (0..3000u32).map(|i| i.wrapping_mul(2654435761) % 997 + 5).collect();
    let (px, best) = (rig.put(&x), rig.put(&[u64::MAX]));
    rig.clean("arg_min", 3, 128, &[Arg::Ptr(px), Arg::Ptr(best), Arg::I32(3000)]);
    let (at, low) = x.iter().enumerate().min_by_key(|(i, v)| (**v, *i)).unwrap();
    assert_eq!(rig.get::<u64>(best, 1), [u64::from(*low) << 32 | at as u64]);
}

#[test]
fn redux_scan_and_sort() {
    let rig = Rig::new(KNOWN);
    let x: Vec<i32> = (0..512).map(|i| (i * 7919 % 1001) - 500).collect();
    let px = rig.put(&x);
    let [sum, low, high] = [0; 3].map(|_| rig.empty::<i32>(16));
    rig.clean("redux_all", 4, 128, &[Arg::Ptr(px), Arg::Ptr(sum), Arg::Ptr(low), Arg::Ptr(high)]);
    for (w, part) in x.chunks(32).enumerate() {
        let got = [sum, low, high].map(|p| rig.get::<i32>(p, 16)[w]);
        assert_eq!(got, [part.iter().sum(), *part.iter().min().unwrap(), *part.iter().max().unwrap()], "warp {w}");
    }
    let py = rig.empty::<i32>(512);
    rig.clean("scan_block", 2, 256, &[Arg::Ptr(px), Arg::Ptr(py)]);
    let want: Vec<i32> = x
        .chunks(256)
        .flat_map(|b| {
            b.iter().scan(0, |s, v| {
                *s += v;
                Some(*s)
            })
        })
        .collect();
    assert_eq!(rig.get::<i32>(py, 512), want);
    let keys: Vec<u32> = (0..512u32).map(|i| i.wrapping_mul(2654435761)).collect();
    let (pk, ps) = (rig.put(&keys), rig.empty::<u32>(512));
    rig.clean("sort_block", 1, 256, &[Arg::Ptr(pk), Arg::Ptr(ps)]);
    let mut sorted = keys;
    sorted.sort_unstable();
    assert_eq!(rig.get::<u32>(ps, 512), sorted);
}

#[test]
fn lanes_return_from_inside_nested_loops() {
    let rig = Rig::new(KNOWN);
    let (rows, cols, limit) = (75, 29, 0.9f32);
    let mut x = noise(rows * cols, 34);
    x.iter_mut().step_by(11).for_each(|v| *v = f32::NAN);
    x[3 * cols..4 * cols].fill(0.0);
    let (px, at) = (rig.put(&x), rig.empty::<i32>(rows));
    let args = [Arg::Ptr(px), Arg::Ptr(at), Arg::I32(rows as i32), Arg::I32(cols as i32), Arg::F32(limit)];
    let out = rig.clean("find_first", 3, 32, &args);
    let want: Vec<i32> = x
        .chunks(cols)
        .map(|row| match row.iter().position(|v| v.abs() > limit) {
            Some(c) if row[c] > limit => c as i32,
            Some(_) => -2,
            None => -1,
        })
        .collect();
    assert_eq!(rig.get::<i32>(at, rows), want);
    assert!(want.contains(&-2) && want.contains(&-1) && want.iter().any(|&c| c > 8), "all ways out are taken");
    assert!(total(&out, |s| s.divergent) > 0);
}

#[test]
fn a_pipeline_of_four_stages_with_and_without_its_wait() {
    let rig = Rig::new(KNOWN);
    for steps in [1, 3, 4, 9] {
        let x: Vec<f32> = (0..2 * steps * 256).map(|i| (i % 23) as f32).collect();
        let (px, py) = (rig.put(&x), rig.empty::<f32>(128));
        let args = [Arg::Ptr(px), Arg::Ptr(py), Arg::I32(steps as i32)];
        rig.clean("pipeline_sum", 2, 64, &args);
        let y: Vec<f32> = rig.get(py, 128);
        for (i, got) in y.into_iter().enumerate() {
            let (block, lane) = (i / 64, 63 - i % 64);
            let parts = (0..steps).flat_map(|s| &x[((block * steps + s) * 64 + lane) * 4..][..4]);
            assert_eq!(got, parts.sum::<f32>(), "{steps} steps, thread {i}");
        }
        let out = rig.run("pipeline_sum_missing_wait", 2, 64, &args);
        let missing: Vec<_> = out.findings.iter().filter(|f| f.kind == Kind::MissingWait).collect();
        assert!(!missing.is_empty() && missing[0].to_string().contains("no cp.async.wait has completed"), "{steps}");
    }
}

/// The same seed gives the same everything, and kernels without bugs give the same result for every seed and number of
/// threads.
#[test]
fn seeds_and_threads_change_nothing_that_is_right() {
    let x: Vec<f32> = (0..40_000).map(|i| (i % 17) as f32).collect();
    let mut results = Vec::new();
    for (seed, threads) in [(0, 1), (0, 4), (7, 1), (7, 4), (7, 4), (99, 3)] {
        let mut rig = Rig::new(BASIC);
        rig.settings.seed = seed;
        rig.settings.threads = threads;
        let (px, py, pz) = (rig.put(&x), rig.put(&x), rig.empty::<f32>(40_000));
        let add = rig.clean("vector_add", 157, 256, &[Arg::Ptr(px), Arg::Ptr(py), Arg::Ptr(pz), Arg::I32(40_000)]);
        let sum = rig.put(&[0f32]);
        let reduce = rig.clean("reduce_sum", 9, 256, &[Arg::Ptr(px), Arg::Ptr(sum), Arg::I32(40_000)]);
        let z: Vec<f32> = rig.get(pz, 40_000);
        results.push((z, rig.get::<f32>(sum, 1), add.sites, add.unique_read, reduce.sites, reduce.unique_write));
    }
    for r in &results[1..] {
        assert!(*r == results[0]);
    }
    // A race is found under every seed, and the same report comes back for the same seed.
    let bugs = include_str!("../../../tests/kernels/bugs.ptx");
    let report = |seed: u64, threads: usize| {
        let mut rig = Rig::new(bugs);
        rig.settings.seed = seed;
        rig.settings.threads = threads;
        let (x, y) = (rig.put(&vec![1f32; 256]), rig.put(&vec![1f32; 256]));
        let out = rig.run("global_race", 128, 32, &[Arg::Ptr(x), Arg::Ptr(y)]);
        // Devices of tests that run at the same time lie at different addresses: only the last digits are the same.
        let relative = |text: String| text.replace(&format!("{:#x}", y >> 12), "");
        out.findings.iter().map(|f| relative(f.to_string())).collect::<Vec<_>>()
    };
    for seed in [0, 1, 5] {
        let first = report(seed, 1);
        assert!(first[0].contains("blocks of a launch are unordered"), "{first:?}");
        assert_eq!(report(seed, 1), first);
    }
}

/// Seeds shuffle the warps of each block: whoever stores last, where nothing orders the stores, wins under some seed.
#[test]
fn seeds_shuffle_the_warps_of_a_block() {
    let last_wins = ".version 8.0\n.target sm_80\n.address_size 64\n
        .visible .entry last_wins(.param .u64 out) {
            .reg .b32 %r<6>;
            .reg .b64 %rd<4>;
            .shared .align 4 .b8 word[4];
            mov.u32 %r1, %tid.x;
            st.shared.u32 [word], %r1;
            bar.sync 0;
            ld.shared.u32 %r2, [word];
            mov.u32 %r3, %ctaid.x;
            mad.lo.u32 %r4, %r3, %ntid.x, %r1;
            ld.param.u64 %rd1, [out];
            mul.wide.u32 %rd2, %r4, 4;
            add.u64 %rd3, %rd1, %rd2;
            st.global.u32 [%rd3], %r2;
            ret;
        }";
    let winners = |seed: u64, threads: usize| -> Vec<u32> {
        let mut rig = Rig::new(last_wins);
        rig.settings.seed = seed;
        rig.settings.threads = threads;
        let out = rig.empty::<u32>(64 * 256);
        rig.run("last_wins", 64, 256, &[Arg::Ptr(out)]);
        rig.get::<u32>(out, 64 * 256).chunks(256).map(|block| block[0] / 32).collect()
    };
    assert_eq!(winners(0, 1), [7; 64], "by number");
    let seventh = winners(7, 1);
    assert!((0..8).all(|warp| seventh.contains(&warp)), "each warp is last in some block: {seventh:?}");
    assert_eq!(winners(7, 3), seventh, "whatever the threads");
    assert_ne!(winners(8, 1), seventh);
}
