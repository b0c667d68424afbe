//! Planted bugs written by hand, in the forms of PTX that carry them: each kernel takes a number that makes it wrong or
//! right, so that the repaired twin differs in nothing else. `bugs.rs` has those that nvcc makes of C++.

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::exec::grid::Outcome;

use crate::rig::{Arg, Rig};

struct Twin {
    name: &'static str,
    /// Declarations and instructions. `%rd0`: 1024 bytes of input, `%rd1`: as many of output, `%r0`: the number, `%r1`: the
    /// thread, `%rd2` and `%rd3`: input and output at 4 bytes per thread, `%r2`: 4 times the thread.
    body: &'static str,
    threads: u32,
    wrong: u32,
    right: u32,
    kind: Kind,
    words: &'static [&'static str],
}

/// 16 bytes per thread from global to shared memory and back.
const COPY: &str = "
    .shared .align 16 .b8 tile[512];
    shl.b32 %r3, %r1, 4; mov.u32 %r4, tile; add.s32 %r4, %r4, %r3; cvt.u64.u32 %rd4, %r3; add.s64 %rd4, %rd0, %rd4;
    cvt.u64.u32 %rd5, %r0;";

const TWINS: &[Twin] = &[
    Twin {
        name: "cp.async reads past the end of global memory",
        // 32 threads copy the last 512 of 1024 bytes.
        body: "add.s64 %rd4, %rd4, %rd5; cp.async.cg.shared.global [%r4], [%rd4+512], 16; cp.async.wait_all;
            ld.shared.u32 %r5, [%r4]; st.global.u32 [%rd3], %r5;",
        threads: 32,
        wrong: 16,
        right: 0,
        kind: Kind::OutOfBounds,
        words: &["global asynchronous copy from here of 16 bytes", "0 bytes past the end of allocation 2 (1024 bytes"],
    },
    Twin {
        name: "cp.async writes past the end of shared memory",
        body: "add.s32 %r4, %r4, %r0; cp.async.cg.shared.global [%r4], [%rd4], 16; cp.async.wait_all;",
        threads: 32,
        wrong: 16,
        right: 0,
        kind: Kind::OutOfBounds,
        words: &["shared asynchronous copy to here of 16 bytes", "past the end of the shared memory of this block (512"],
    },
    Twin {
        name: "cp.async to a misaligned address",
        body: "add.s32 %r4, %r4, %r0; cp.async.cg.shared.global [%r4], [%rd4], 16; cp.async.wait_all;",
        threads: 16,
        wrong: 8,
        right: 16,
        kind: Kind::Misaligned,
        words: &["shared asynchronous copy to here of 16 bytes at 0x8: the address must be a multiple of 16"],
    },
    Twin {
        name: "shared read past the end",
        body: "st.shared.u32 [%r4], %r1; bar.sync 0; shl.b32 %r5, %r0, 4; add.s32 %r4, %r4, %r5; ld.shared.u32 %r6, [%r4];
            st.global.u32 [%rd3], %r6;",
        threads: 32,
        wrong: 1,
        right: 0,
        kind: Kind::OutOfBounds,
        words: &["shared read of 4 bytes at 0x200: it starts 0 bytes past the end of the shared memory", "lane 31"],
    },
    Twin {
        name: "generic read past the end of shared memory",
        body: "st.shared.u32 [%r4], %r1; cvt.u64.u32 %rd6, %r4; cvta.shared.u64 %rd6, %rd6; add.s64 %rd6, %rd6, %rd5;
            ld.u32 %r6, [%rd6]; st.global.u32 [%rd3], %r6;",
        threads: 32,
        wrong: 16,
        right: 0,
        kind: Kind::OutOfBounds,
        words: &["shared read of 4 bytes", "0 bytes past the end of the shared memory of this block (512 bytes)", "`ld.u32`"],
    },
    Twin {
        name: "ldmatrix reads past the end of shared memory",
        body: "mov.u32 %r5, 0; st.shared.v4.u32 [%r4], {%r5, %r5, %r5, %r5}; bar.warp.sync -1; add.s32 %r4, %r4, %r0;
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r4];",
        threads: 32,
        wrong: 16,
        right: 0,
        kind: Kind::OutOfBounds,
        words: &["shared read of 16 bytes at 0x200: it starts 0 bytes past the end", "`ldmatrix.sync.aligned.m8n8.x4"],
    },
    Twin {
        name: "ldmatrix at a misaligned address",
        body: "mov.u32 %r5, 0; st.shared.v4.u32 [%r4], {%r5, %r5, %r5, %r5}; bar.warp.sync -1; and.b32 %r3, %r3, 127;
            mov.u32 %r4, tile; add.s32 %r4, %r4, %r3; add.s32 %r4, %r4, %r0;
            ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r6}, [%r4];",
        threads: 32,
        wrong: 8,
        right: 16,
        kind: Kind::Misaligned,
        words: &["shared read of 16 bytes at 0x8: the address must be a multiple of 16"],
    },
    Twin {
        name: "misaligned global write",
        body: "add.s64 %rd3, %rd3, %rd5; st.global.u32 [%rd3], %r1;",
        threads: 32,
        wrong: 2,
        right: 4,
        kind: Kind::Misaligned,
        words: &["global write of 4 bytes", "must be a multiple of 4; it lies 2 bytes inside allocation 3 (1024 bytes"],
    },
    Twin {
        name: "misaligned global atomic",
        body: "add.s64 %rd3, %rd1, %rd5; red.global.add.u64 [%rd3], 1;",
        threads: 32,
        wrong: 4,
        right: 8,
        kind: Kind::Misaligned,
        words: &["global atomic access of 8 bytes", "the address must be a multiple of 8; it lies 4 bytes inside"],
    },
    Twin {
        name: "misaligned shared write",
        body: "add.s32 %r4, %r4, %r0; st.shared.u64 [%r4], %rd5;",
        threads: 16,
        wrong: 4,
        right: 8,
        kind: Kind::Misaligned,
        words: &["shared write of 8 bytes at 0x4: the address must be a multiple of 8"],
    },
    Twin {
        name: "read past the end of a constant",
        body: "mov.u64 %rd6, table; add.s64 %rd6, %rd6, %rd5; ld.const.u32 %r6, [%rd6]; st.global.u32 [%rd3], %r6;",
        threads: 1,
        wrong: 16,
        right: 12,
        kind: Kind::OutOfBounds,
        words: &["read of 4 bytes", "0 bytes past the end of variable table (16 bytes"],
    },
    Twin {
        name: "read past the end of the parameters",
        body: "mov.u64 %rd6, n; cvta.param.u64 %rd6, %rd6; add.s64 %rd6, %rd6, %rd5; ld.u32 %r6, [%rd6];
            st.global.u32 [%rd3], %r6;",
        threads: 1,
        wrong: 4,
        right: 0,
        kind: Kind::OutOfBounds,
        words: &["read of 4 bytes", "0 bytes past the end of the parameter block (20 bytes)"],
    },
    Twin {
        name: "uninitialised local read",
        body: "mov.u64 %rd6, depot; st.local.u32 [%rd6+4], %r1; add.s64 %rd6, %rd6, %rd5; ld.local.u32 %r6, [%rd6];
            st.global.u32 [%rd3], %r6;",
        threads: 32,
        wrong: 8,
        right: 4,
        kind: Kind::Uninitialised,
        words: &["local read of 4 bytes", "byte 0 was never written", "32 times"],
    },
    Twin {
        name: "mma by a part of the warp",
        body: "mov.u32 %r5, 0; mov.f32 %f0, 0f00000000; setp.lt.u32 %p0, %r1, %r0;
            @%p0 mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r5, %r5}, {%r5}, {%f0, %f0, %f0, %f0};",
        threads: 32,
        wrong: 31,
        right: 32,
        kind: Kind::WarpMask,
        words: &["mma.sync must be executed by all 32 lanes together", "lane 0"],
    },
    Twin {
        name: "ldmatrix by a part of the warp",
        body: "mov.u32 %r5, 0; st.shared.v4.u32 [%r4], {%r5, %r5, %r5, %r5}; bar.warp.sync -1; setp.ge.u32 %p0, %r1, %r0;
            @%p0 ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r6, %r7, %r8, %r9}, [%r4];",
        threads: 32,
        wrong: 1,
        right: 0,
        kind: Kind::WarpMask,
        words: &["ldmatrix and stmatrix must be executed by all 32 lanes together", "lane 1"],
    },
    Twin {
        name: "wmma by a part of the warp",
        body: "setp.ge.u32 %p0, %r1, %r0; mov.u32 %r5, 16;
            @%p0 wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, [%rd0], %r5;",
        threads: 32,
        wrong: 2,
        right: 0,
        kind: Kind::WarpMask,
        words: &["wmma must be executed by all 32 lanes together", "lane 2"],
    },
    Twin {
        name: "a barrier number that does not exist",
        body: "bar.sync %r0;",
        threads: 32,
        wrong: 16,
        right: 15,
        kind: Kind::DivergentBarrier,
        words: &["barrier 16 with 0 threads: the number must be below 16"],
    },
    Twin {
        name: "a barrier for a part of a warp",
        body: "bar.sync 1, %r0;",
        threads: 64,
        wrong: 33,
        right: 64,
        kind: Kind::DivergentBarrier,
        words: &["barrier 1 with 33 threads", "the count a multiple of 32 up to the block"],
    },
    Twin {
        name: "a barrier that its users count differently",
        body: "shr.u32 %r5, %r1, 5; setp.eq.u32 %p0, %r5, 0; selp.b32 %r5, 64, %r0, %p0; bar.sync 1, %r5;",
        threads: 64,
        wrong: 32,
        right: 64,
        kind: Kind::DivergentBarrier,
        words: &["barrier 1 is used with 32 threads while others wait for 64 (0 means all)", "warp 1"],
    },
    Twin {
        name: "a branch past the end of its table",
        body: "ways: .branchtargets FIRST, LAST;
            brx.idx %r0, ways;
            FIRST: st.global.u32 [%rd3], %r1;
            LAST:",
        threads: 32,
        wrong: 2,
        right: 1,
        kind: Kind::Trap,
        words: &["index 2 of a table of 2 targets", "`brx.idx`"],
    },
    Twin {
        name: "a trap",
        body: "setp.eq.u32 %p0, %r1, %r0; @%p0 trap;",
        threads: 32,
        wrong: 5,
        right: 32,
        kind: Kind::Trap,
        words: &["trap executed", "lane 5 (thread 5,0,0)"],
    },
];

#[test]
fn hand_written_bugs_and_their_twins() {
    let mut failed = Vec::new();
    for t in TWINS {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.const .align 4 .b32 table[4] = {{1, 2, 3, 4}};\n\
             .visible .entry k(.param .u64 x, .param .u64 y, .param .u32 n)\n{{\n.reg .b32 %r<10>; .reg .b64 %rd<8>;\n\
             .reg .f32 %f<8>; .reg .pred %p<2>;\n.local .align 4 .b8 depot[16];\n\
             ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y]; ld.param.u32 %r0, [n]; mov.u32 %r1, %tid.x;\n\
             shl.b32 %r2, %r1, 2; cvt.u64.u32 %rd2, %r2; add.s64 %rd3, %rd1, %rd2; add.s64 %rd2, %rd0, %rd2;\n\
             {COPY}\n{}\nret;\n}}\n",
            t.body
        );
        let run = |n: u32| {
            let r = Rig::new(&text);
            let (x, y) = (r.put(&[0u32; 256]), r.put(&[0u32; 256]));
            r.run("k", 1, t.threads, &[Arg::Ptr(x), Arg::Ptr(y), Arg::U32(n)])
        };
        let texts = |out: &Outcome| out.findings.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n");
        let out = run(t.wrong);
        let hit = out.findings.iter().find(|f| f.kind == t.kind).map(|f| f.to_string()).unwrap_or_default();
        for w in t.words.iter().filter(|w| !hit.contains(**w)) {
            failed.push(format!("{}: `{w}` is missing in: {}", t.name, texts(&out)));
        }
        let twin = run(t.right);
        if !twin.findings.is_empty() {
            failed.push(format!("{}, repaired: {}", t.name, texts(&twin)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
