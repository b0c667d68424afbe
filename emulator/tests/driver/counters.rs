//! The counters against numbers worked out by hand, and the budgets that keep kernels from getting worse.

use std::sync::Arc;

use cudarc::driver::{CudaModule, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::{Turn, command};

const KNOWN: &str = include_str!("../kernels/known.ptx");

/// Every kind of work once, at places that make the counts easy to work out.
const COUNTED: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry counted(.param .u64 x, .param .u64 y)
{
    .reg .pred %p<1>; .reg .b32 %r<9>; .reg .b64 %rd<8>; .reg .f32 %f<12>; .reg .f64 %fd<2>;
    .shared .align 16 .b8 tile[8192];
    .local .align 8 .b8 depot[64];
    ld.param.u64 %rd0, [x];
    ld.param.u64 %rd1, [y];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd2, %r0, 4;
    add.s64 %rd3, %rd0, %rd2;
    ld.global.f32 %f0, [%rd3];
    mul.wide.u32 %rd4, %r0, 128;
    add.s64 %rd4, %rd0, %rd4;
    ld.global.f32 %f1, [%rd4];
    mul.wide.u32 %rd5, %r0, 16;
    add.s64 %rd5, %rd0, %rd5;
    ld.global.v4.f32 {%f2, %f3, %f4, %f5}, [%rd5];
    ld.global.f32 %f11, [%rd0];
    add.f32 %f0, %f0, %f1;
    fma.rn.f32 %f0, %f2, %f3, %f0;
    cvt.f64.f32 %fd0, %f0;
    fma.rn.f64 %fd1, %fd0, %fd0, %fd0;
    mov.u32 %r1, tile;
    shl.b32 %r2, %r0, 7;
    add.s32 %r2, %r1, %r2;
    st.shared.f32 [%r2], %f0;
    bar.sync 0;
    ld.shared.f32 %f1, [%r2];
    bar.sync 0;
    atom.shared.add.u32 %r4, [%r1], 1;
    red.global.add.u32 [%rd1+4096], 1;
    mov.u32 %r5, %ctaid.x;
    mad.lo.u32 %r6, %r5, 64, %r0;
    mul.wide.u32 %rd6, %r6, 4;
    add.s64 %rd6, %rd1, %rd6;
    st.global.f32 [%rd6], %f0;
    mov.u32 %r7, 0;
    mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f6, %f7, %f8, %f9}, {%r7, %r7, %r7, %r7}, {%r7, %r7}, \
    {%f1, %f1, %f1, %f1};
    fma.rn.f16x2 %r8, %r7, %r7, %r7;
    shfl.sync.bfly.b32 %r8, %r8, 1, 31, -1;
    ex2.approx.f32 %f10, %f0;
    mov.u64 %rd7, depot;
    st.local.v2.f32 [%rd7+8], {%f0, %f1};
    ld.local.f32 %f11, [%rd7+8];
    setp.lt.u32 %p0, %r0, 16;
    @%p0 bra DONE;
    add.f32 %f0, %f0, %f1;
DONE:
    ret;
}
";

#[test]
fn counters_worked_out_by_hand() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let module = t.context.load_module(Ptx::from_src(COUNTED)).unwrap();
    let f = module.load_function("counted").unwrap();
    let x = stream.clone_htod(&vec![0.5f32; 2048 + 4096]).unwrap();
    let y = stream.alloc_zeros::<u32>(2048).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&x).arg(&y);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig { grid_dim: (2, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 }) }.unwrap();
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
    let l = report.of("counted")[0];
    let warps = 4;
    // All instructions have all lanes but two: the branch counts where its predicate is true (16 lanes of each block's
    // first warp), the last add where it was false.
    let all =
        COUNTED.lines().filter(|l| l.starts_with("    ") && l.contains(';') && !l.contains(" .")).count() as u64 - 1;
    let want = [
        ("warp_instructions", warps * (all + 1)),
        ("thread_instructions", warps * 32 * (all - 1) + 2 * 16 + 2 * (16 + 32)),
        ("divergent_branches", 2),
        // 4-byte lanes side by side, 128 bytes apart, 16-byte lanes side by side, and all lanes on one word.
        ("global_load_requests", warps * 4),
        ("global_load_sectors", warps * (4 + 32 + 16 + 1)),
        ("global_load_bytes", warps * (128 + 128 + 512 + 128)),
        ("global_load_distinct_bytes", warps * (128 + 128 + 512 + 4)),
        ("global_load_wide_bytes", warps * 512),
        ("global_store_requests", warps),
        ("global_store_sectors", warps * 4),
        ("global_store_bytes", warps * 128),
        ("global_store_distinct_bytes", warps * 128),
        ("global_store_wide_bytes", 0),
        ("global_atomic_requests", warps),
        ("global_atomic_sectors", warps),
        // Sectors 0 to 31 by the 16-byte lanes, every fourth from 32 to 252 by the strided ones; both blocks the same.
        ("unique_read_bytes", 32 * (32 + 56)),
        // 128 floats, and the sector of the atomic.
        ("unique_write_bytes", 32 * (16 + 1)),
        ("shared_store_requests", warps),
        ("shared_load_requests", warps),
        ("shared_atomic_requests", warps),
        // A store and a load with all lanes in one bank, an atomic of all lanes on one word.
        ("shared_wavefronts", warps * (32 + 32 + 1)),
        ("shared_ideal_wavefronts", warps * 3),
        ("barriers", warps * 2),
        ("tensor_flops", warps * 2 * 16 * 8 * 16),
        // Every lane adds to one word of shared memory and to one of global memory.
        ("atomic_operations", 2 * 128),
        ("atomic_steps", 2 * 128),
        ("hottest_atomic_operations", 128),
        ("local_store_bytes", 128 * 8),
        ("local_load_bytes", 128 * 4),
        // An add and an fma of every thread, an add of 48 of 64.
        ("f32_flops", 128 * 3 + 2 * 48),
        ("f64_flops", 128 * 2),
        // A packed fma.
        ("half_flops", 128 * 4),
        ("blocks", 2),
        ("threads", 128),
    ];
    for (name, value) in want {
        assert_eq!(l.get(name), value, "{name}");
    }
    let mut names: Vec<&str> = want.iter().map(|(n, _)| *n).collect();
    names.sort_unstable();
    assert_eq!(names, warpsmith_emulator::COUNTERS, "a counter is not tested");
    assert!(l.counters.keys().eq(warpsmith_emulator::COUNTERS));
    assert_eq!(l.classes.values().sum::<u64>(), l.get("warp_instructions"));
    assert_eq!((l.classes["tensor"], l.classes["load"], l.classes["store"]), (warps, 8 * warps, 3 * warps));
    assert_eq!((l.resident_blocks, &l.occupancy_limit[..]), (18, "shared memory"));
    assert_eq!((l.multiprocessors, l.busy_multiprocessors), (108, 2));
    assert!((l.waves - 2.0 / (18.0 * 108.0)).abs() < 1e-4, "{}", l.waves);
    // 8192 + 1024 bytes of shared memory: 17 blocks of two warps; 164 KiB / 9 KiB is 18.2, rounded down to 18.
    assert!((l.occupancy - 18.0 * 64.0 / 2048.0).abs() < 1e-4, "{}", l.occupancy);
    let close = |name: &str, us: f64| {
        // The report rounds to picoseconds.
        let got = l.bounds_us[name];
        assert!((got - us).abs() < 2e-6, "{name}: {got} {us}");
    };
    // A100: 2039 GB/s; 312 TFLOP/s of 108 multiprocessors at 1.41 GHz, of which the two blocks keep two busy.
    close("dram_compulsory", (32.0 * 105.0) / 2039e9 * 1e6);
    close("dram_if_uncached", 32.0 * 4.0 * (53.0 + 4.0 + 1.0) / 2039e9 * 1e6);
    close("tensor_half", 4.0 * 4096.0 / (312e12 / 108.0 * 2.0) * 1e6);
    let clocks = |name: &str, n: f64| close(name, n / (2.0 * 1.41e9) * 1e6);
    clocks("shared", 4.0 * 65.0);
    // Four per clock, without the two parameters and five moves.
    clocks("issue", (4 * (all + 1 - 7)) as f64 / 4.0);
    // Lanes per clock: 64 f32 (an add, an fma and the add behind the branch, which every warp runs), 32 f64, 128 of
    // packed half, 64 integer (four products, eight sums, a shift and a comparison, one of the sums in a mad), 16 special
    // (an exponential and the conversion to f64), 32 shuffled.
    clocks("f32", 4.0 * 3.0 * 32.0 / 64.0);
    clocks("f64", 4.0 * 32.0 / 32.0);
    clocks("half", 4.0 * 32.0 / 128.0);
    clocks("integer", 4.0 * 12.0 * 32.0 / 64.0);
    clocks("special", 4.0 * 2.0 * 32.0 / 16.0);
    clocks("shuffle", 4.0 * 32.0 / 32.0);
    let table = report.table();
    for words in [
        "sectors each, 46 % of the moved bytes used, each by 1.2 lanes",
        "21.67 times the conflict-free number",
        "16384 tensor FLOP, 480 f32 FLOP, 256 f64 FLOP, 512 half FLOP, 2 divergent branches, 8 barriers",
        "2 blocks leave 106 of 108 multiprocessors idle; 18 fit a multiprocessor at a time: occupancy 56 %, limited by \
         shared memory",
        "atomics       256 operations in 8 requests, 32.0 lanes of each on one address; 128 on one word of global memory",
        "local         512 B read, 1024 B written",
        "up to 32.0 lanes of a warp on one address, which take turns (contention)",
        "128 of the 128 atomic operations on global memory go to the word at 0x1000",
        "32.0 wavefronts per request where 1.0 would do (bank conflicts)",
        "32.0 sectors per request, 12 % of the fetched bytes used (uncoalesced)",
    ] {
        assert!(table.contains(words), "`{words}` is missing in:\n{table}");
    }
}

/// The test kernels at the sizes their budgets are for.
fn budgeted(t: &Turn, known: &Arc<CudaModule>) -> warpsmith_emulator::Report {
    warpsmith_emulator::reset().unwrap();
    let stream = t.context.default_stream();
    let (m, n, k) = (128i32, 128i32, 128i32);
    let x = stream.clone_htod(&vec![1f32; 128 * 128]).unwrap();
    let y = stream.clone_htod(&vec![1f32; 128 * 128]).unwrap();
    let z = stream.alloc_zeros::<f32>(128 * 128).unwrap();
    let config = |grid: (u32, u32, u32), block: (u32, u32, u32)| LaunchConfig {
        grid_dim: grid,
        block_dim: block,
        shared_mem_bytes: 0,
    };
    for name in ["transpose_naive", "transpose_tiled", "transpose_padded"] {
        let f = known.load_function(name).unwrap();
        let mut launch = stream.launch_builder(&f);
        launch.arg(&x).arg(&z).arg(&n);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(config((4, 4, 1), (32, 8, 1))) }.unwrap();
    }
    for (module, name, grid, block) in [
        (&t.module, "gemm_naive", (8, 8, 1), (16, 16, 1)),
        (&t.module, "gemm_tiled", (8, 8, 1), (16, 16, 1)),
        (known, "gemm_blocked", (2, 2, 1), (256, 1, 1)),
        (known, "gemm_tf32", (16, 8, 1), (32, 1, 1)),
    ] {
        let f = module.load_function(name).unwrap();
        let mut launch = stream.launch_builder(&f);
        launch.arg(&x).arg(&y).arg(&z).arg(&m).arg(&n).arg(&k);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(config(grid, block)) }.unwrap();
    }
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
    report
}

/// `tests/budgets.json` holds what the kernels move today. `WARPSMITH_BLESS=1` writes it anew, for review.
#[test]
fn kernels_keep_their_budgets_and_a_regression_does_not() {
    let t = Turn::new();
    let known = t.context.load_module(Ptx::from_src(KNOWN)).unwrap();
    let report = budgeted(&t, &known);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budgets.json");
    if crate::kernels::blessing() {
        let counters = ["global_load_sectors", "global_store_sectors", "shared_wavefronts", "warp_instructions"];
        let mut all = std::collections::BTreeMap::new();
        for l in &report.launches {
            let limits: std::collections::BTreeMap<_, _> = counters.iter().map(|c| (*c, l.get(c))).collect();
            all.insert(l.kernel.clone(), limits);
        }
        std::fs::write(&file, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
    let budgets = std::fs::read_to_string(&file).unwrap();
    let over = report.over_budget(&budgets).unwrap();
    assert!(over.is_empty(), "{}", over.join("\n"));
    // Padding lost: the same kernel with bank conflicts. Tiling lost: the same with scattered stores.
    for (old, words) in [
        ("transpose_tiled", "kernel transpose_padded: shared_wavefronts is 16896, the budget is 1024"),
        ("transpose_naive", "kernel transpose_padded: global_store_sectors is 16384, the budget is 2048"),
    ] {
        let text = KNOWN.replace("transpose_padded", "transpose_other").replace(old, "transpose_padded");
        let text = text.replace("transpose_other", old);
        let regressed = t.context.load_module(Ptx::from_src(text)).unwrap();
        let over = budgeted(&t, &regressed).over_budget(&budgets).unwrap();
        assert!(over.iter().any(|o| o == words), "{}", over.join("\n"));
    }
    let e = report.over_budget("{\"gemm_tf32\": {\"global_load_sector\": 3}}").unwrap_err().to_string();
    assert!(e.contains("no counter `global_load_sector`; there are atomic_operations, atomic_steps, barriers"), "{e}");
    let e = report.over_budget("{\"gemm_tf32\": 3}").unwrap_err().to_string();
    assert!(e.contains("expected {\"kernel\": {\"counter\": most}}"), "{e}");
}

/// The whole report of a program, byte by byte, under one seed.
#[test]
fn reports_are_repeatable() {
    let report = |what: &str, seed: &str, threads: &str| {
        let name = format!("warpsmith-repeat-{}-{what}-{seed}-{threads}.json", std::process::id());
        let json = std::env::temp_dir().join(name);
        let option = format!("json={}", json.display());
        command::emulate(what, &["--seed", seed, "--threads", threads, "--report", &option]);
        let text = std::fs::read_to_string(&json).unwrap();
        std::fs::remove_file(&json).unwrap();
        text
    };
    for what in ["race", "bug", "streams"] {
        for seed in ["0", "9"] {
            assert_eq!(report(what, seed, "1"), report(what, seed, "1"), "{what} seed {seed}");
        }
    }
    assert_eq!(report("busy", "0", "1"), report("busy", "5", "3"), "neither order nor threads change what is counted");
}

/// The rates of the programming guide give the published peaks.
#[test]
fn units_keep_the_published_peaks() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let lines = |op: &str, n: usize| {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.reg .b32 %r<4>; .reg .b64 %rd<4>; \
             .reg .f32 %f<4>; .reg .f64 %fd<4>; .reg .b16 %h<4>; .reg .pred %p<2>;\n{}ret;\n}}\n",
            format!("{op};\n").repeat(n)
        );
        let module = t.context.load_module(Ptx::from_src(text)).unwrap();
        let f = module.load_function("k").unwrap();
        // SAFETY: the kernel has no arguments.
        unsafe {
            let config = LaunchConfig { grid_dim: (132 * 108, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
            stream.launch_builder(&f).launch(config).unwrap()
        };
        let l = warpsmith_emulator::report().unwrap().launches.pop().unwrap();
        warpsmith_emulator::reset().unwrap();
        l
    };
    // Operation, its unit, FLOP or operations of a lane, and the peaks of A100 and H100 in Tera per second: the data
    // sheets' for f32, f64, f16 and bf16, and 64, 16 and 32 lanes per clock of 1.41 and 1.98 GHz for the others.
    for (op, unit, per, peaks) in [
        ("fma.rn.f32 %f0, %f1, %f2, %f3", "f32", 2.0, [19.5, 66.9]),
        ("fma.rn.f64 %fd0, %fd1, %fd2, %fd3", "f64", 2.0, [9.7, 33.5]),
        ("fma.rn.f16x2 %r0, %r1, %r2, %r3", "half", 4.0, [78.0, 133.8]),
        ("fma.rn.bf16x2 %r0, %r1, %r2, %r3", "half", 4.0, [39.0, 133.8]),
        ("fma.rn.f16 %h0, %h1, %h2, %h3", "half", 2.0, [39.0, 66.9]),
        ("add.s32 %r0, %r1, %r2", "integer", 1.0, [9.75, 16.73]),
        ("mad.lo.s32 %r0, %r1, %r2, %r3", "integer", 1.0, [9.75, 16.73]),
        ("setp.lt.f32 %p0, %f1, %f2", "integer", 1.0, [9.75, 16.73]),
        ("cvt.rn.f32.s32 %f0, %r1", "integer", 1.0, [9.75, 16.73]),
        ("cvt.rn.f64.s32 %fd0, %r1", "special", 1.0, [2.44, 4.18]),
        ("rsqrt.approx.f32 %f0, %f1", "special", 1.0, [2.44, 4.18]),
        ("div.rn.f32 %f0, %f1, %f2", "special", 1.0, [2.44, 4.18]),
        ("popc.b32 %r0, %r1", "special", 1.0, [2.44, 4.18]),
        ("redux.sync.add.s32 %r0, %r1, -1", "special", 1.0, [2.44, 4.18]),
        ("shfl.sync.idx.b32 %r0, %r1, 0, 31, -1", "shuffle", 1.0, [4.87, 8.36]),
    ] {
        for (profile, peak) in ["sm_80", "sm_90"].into_iter().zip(peaks) {
            warpsmith_emulator::configure("profile", profile).unwrap();
            let (few, many) = (lines(op, 1), lines(op, 33));
            let us = many.bounds_us[unit] - few.bounds_us[unit];
            let rate = per * 32.0 * 32.0 * 132.0 * 108.0 / us * 1e-6;
            assert!((rate / peak - 1.0).abs() < 0.01, "{op} on {profile}: {rate} where {peak} is published");
            // No other unit is kept busy by it, only the issue slots.
            for (other, us) in many.bounds_us.iter().filter(|b| b.0 != unit && b.0 != "issue") {
                assert_eq!(*us, few.bounds_us[other], "{op} counts for {other}");
            }
        }
        warpsmith_emulator::configure("profile", "sm_80").unwrap();
    }
    // What ptxas takes away or the address unit does keeps none of them busy.
    for op in ["mov.u32 %r0, %r1", "cvta.to.global.u64 %rd0, %rd1", "cvt.u64.u32 %rd0, %r1", "neg.f32 %f0, %f1"] {
        assert_eq!(lines(op, 33).bounds_us.keys().filter(|k| k.as_str() != "issue").count(), 3, "{op}");
    }
}

const REPORT: &str = include_str!("../kernels/report.ptx");

/// Kernels that are slow for one reason each: the table names it, and does not for the repaired twin.
#[test]
fn the_table_says_why_a_kernel_is_slow() {
    let t = Turn::new();
    let module = t.context.load_module(Ptx::from_src(REPORT)).unwrap();
    let stream = t.context.default_stream();
    let x = stream.clone_htod(&vec![1f32; 128 * 64]).unwrap();
    let y = stream.alloc_zeros::<f32>(128 * 64).unwrap();
    let run = |name: &str, grid: u32, block: u32, n: Option<i32>| {
        warpsmith_emulator::reset().unwrap();
        let f = module.load_function(name).unwrap();
        let mut launch = stream.launch_builder(&f);
        launch.arg(&x).arg(&y);
        if let Some(n) = &n {
            launch.arg(n);
        }
        // SAFETY: the arguments are those of the kernel.
        unsafe {
            launch
                .launch(LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: 0 })
                .unwrap()
        };
        let report = warpsmith_emulator::report().unwrap();
        assert!(report.findings.is_empty(), "{}", report.table());
        report
    };
    let line = |what: &str| {
        let source = include_str!("../kernels/report.cu");
        source.lines().position(|l| l.contains(what)).unwrap() + 1
    };
    // Divergence: the branch, how often, and what it leaves.
    let table = run("parted", 128, 64, None).table();
    let at = line("if (threadIdx.x & 1)");
    for words in [
        format!("look at       report.cu:{at}, PTX line"),
        "bra: the lanes of a warp part ways in 256 of 256 executions (divergence)".to_string(),
        "256 divergent branches".to_string(),
    ] {
        assert!(table.contains(&words), "`{words}` is missing in: {table}");
    }
    let table = run("parted_ok", 128, 64, None).table();
    assert!(!table.contains("look at") && table.contains("31.8 of 32 lanes active"), "{table}");
    // Contention on one word, inside warps and between them.
    let report = run("crowded", 128, 64, None);
    let table = report.table();
    let at = line("atomicAdd(sum, x[");
    for words in [
        &format!("inlined at report.cu:{at}, PTX line")[..],
        "atom.global.add.u32: up to 32.0 lanes of a warp on one address, which take turns (contention)",
        "8192 of the 8192 atomic operations on global memory go to the word at 0x10000",
        "atomics       8192 operations in 256 requests, 32.0 lanes of each on one address; 8192 on one word",
    ] {
        assert!(table.contains(words), "`{words}` is missing in: {table}");
    }
    let table = run("crowded_ok", 128, 64, None).table();
    let words = "atomics       256 operations in 256 requests, 1.0 lanes of each on one address; 8 on one word";
    assert!(table.contains(words) && !table.contains("(contention)") && !table.contains("go to the word"), "{table}");
    // Local memory.
    let report = run("indexed", 1, 32, Some(3));
    let table = report.table();
    assert_eq!(report.launches[0].get("local_store_bytes"), 32 * 16 * 4);
    assert_eq!(report.launches[0].get("local_load_bytes"), 32 * 4);
    for words in ["local         128 B read, 2048 B written", "B of local memory, which is memory and not registers"] {
        assert!(table.contains(words), "`{words}` is missing in: {table}");
    }
    let table = run("indexed_ok", 1, 32, Some(3)).table();
    assert!(!table.contains("local"), "{table}");
    // Special functions at an eighth of the rate of everything else.
    let table = run("sines", 128, 64, None).table();
    assert!(table.contains("us on sm_80, limited by special functions"), "{table}");
    // A grid that is too small, one that fits, one that does not, and a block that is no multiple of a warp.
    let table = run("sines", 2, 64, None).table();
    assert!(table.contains("2 blocks leave 106 of 108 multiprocessors idle; 32 fit"), "{table}");
    let few = warpsmith_emulator::report().unwrap().launches[0].bounds_us["special"];
    let table = run("sines", 108, 64, None).table();
    assert!(table.contains("108 blocks run at once and take 3 % of the places"), "{table}");
    let filled = warpsmith_emulator::report().unwrap().launches[0].bounds_us["special"];
    assert!((few - filled).abs() < 1e-6, "54 times the blocks take as long: {few} {filled}");
    let table = run("sines", 128, 48, None).table();
    assert!(table.contains("a block of 48 threads: 16 lanes of its last warp do not exist"), "{table}");
    warpsmith_emulator::reset().unwrap();
    let basic = t.kernel("speak");
    let mut launch = stream.launch_builder(&basic);
    launch.arg(&0i32);
    // SAFETY: the argument is that of the kernel.
    unsafe {
        launch.launch(LaunchConfig { grid_dim: (540, 1, 1), block_dim: (1024, 1, 1), shared_mem_bytes: 0 }).unwrap()
    };
    let table = warpsmith_emulator::report().unwrap().table();
    assert!(
        table.contains(
            "540 blocks in 2.50 waves, the last one 50 % full; 2 fit a multiprocessor at a time: occupancy 100 %\n"
        ),
        "{table}"
    );
}

/// Several kernels: the table begins with where the time goes.
#[test]
fn the_table_begins_with_what_costs_most() {
    let t = Turn::new();
    let known = t.context.load_module(Ptx::from_src(KNOWN)).unwrap();
    let report = budgeted(&t, &known);
    let table = report.table();
    let lines: Vec<&str> = table.lines().take(9).collect();
    assert_eq!(lines[1], "at least us  share  without caches us  launches  kernel, limited by");
    let times: Vec<f64> = lines[2..9].iter().map(|l| l.split_whitespace().next().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{table}");
    let shares: f64 = lines[2..9].iter().map(|l| l.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()).sum();
    assert!((shares - 100.0).abs() < 4.0, "{table}");
    assert!(lines[2..9].iter().any(|l| l.ends_with("  transpose_tiled, shared memory")), "{table}");
}
