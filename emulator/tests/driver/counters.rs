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
    .reg .pred %p<1>; .reg .b32 %r<9>; .reg .b64 %rd<8>; .reg .f32 %f<10>; .reg .f64 %fd<2>;
    .shared .align 16 .b8 tile[8192];
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
        // 4-byte lanes side by side, 128 bytes apart, and 16-byte lanes side by side.
        ("global_load_requests", warps * 3),
        ("global_load_sectors", warps * (4 + 32 + 16)),
        ("global_load_bytes", warps * (128 + 128 + 512)),
        ("global_store_requests", warps),
        ("global_store_sectors", warps * 4),
        ("global_store_bytes", warps * 128),
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
        // An add and an fma of every thread, an add of 48 of 64.
        ("f32_flops", 128 * 3 + 2 * 48),
        ("f64_flops", 128 * 2),
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
    assert_eq!((l.classes["tensor"], l.classes["load"], l.classes["store"]), (warps, 6 * warps, 2 * warps));
    // 8192 + 1024 bytes of shared memory: 17 blocks of two warps; 164 KiB / 9 KiB is 18.2, rounded down to 18.
    assert!((l.occupancy - 18.0 * 64.0 / 2048.0).abs() < 1e-4, "{}", l.occupancy);
    let close = |name: &str, us: f64| {
        // The report rounds to picoseconds.
        let got = l.bounds_us[name];
        assert!((got - us).abs() < 2e-6, "{name}: {got} {us}");
    };
    // A100: 2039 GB/s, 19.5 TFLOP/s, 312 TFLOP/s, 108 multiprocessors at 1.41 GHz.
    close("dram_compulsory", (32.0 * 105.0) / 2039e9 * 1e6);
    close("dram_if_uncached", 32.0 * 4.0 * (52.0 + 4.0 + 1.0) / 2039e9 * 1e6);
    close("f32", 480.0 / 19.5e12 * 1e6);
    close("tensor_half", 4.0 * 4096.0 / 312e12 * 1e6);
    close("shared", 4.0 * 65.0 / (108.0 * 1.41e9) * 1e6);
    close("issue", (4 * (all + 1)) as f64 / (4.0 * 108.0 * 1.41e9) * 1e6);
    let table = report.table();
    for words in [
        "sectors each, 46 % of the moved bytes used",
        "21.67 times the conflict-free number",
        "16384 tensor FLOP, 480 f32 FLOP, 256 f64 FLOP; 2 divergent branches, 8 barriers, 8 atomics",
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
    assert!(e.contains("no counter `global_load_sector`; there are barriers, blocks"), "{e}");
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
