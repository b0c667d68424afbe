//! The parser and the lowering on broken and foreign input: an error with a line, never a panic.

use warpsmith_emulator_driver::engine::Device;

const SOURCES: [&str; 3] = [
    include_str!("../../../tests/kernels/basic.ptx"),
    include_str!("../../../tests/kernels/tensor.ptx"),
    include_str!("../../../tests/kernels/bugs.ptx"),
];

fn refused(body: &str) -> String {
    let device = Device::new(1 << 20).unwrap();
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .pred %p<2>; .reg .f32 %f<4>;\n{body}\nret;\n}}\n"
    );
    match device.load(&text) {
        Ok(_) => panic!("{body} was accepted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn forms_that_do_not_exist_are_refused_by_line_and_opcode() {
    for (body, words) in [
        ("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0}, %rd0, %rd1;", "does not know this instruction"),
        ("add.rn.s32 %r0, %r1, %r2;", "a float modifier on an integer operation"),
        ("add.s32.wrong %r0, %r1, %r2;", "modifier `.wrong` is not known"),
        ("add.s32 %r0, %r1;", "it has 2 operands, this form takes 3"),
        ("add.s32 %r0, %r1, %rd2;", "operand `%rd2` has the wrong width for a 32-bit type"),
        ("add.s32 %rd0, %r1, %r2;", "destination `%rd0` has the wrong width for a 32-bit type"),
        ("add.s32 5, %r1, %r2;", "operand `5` where a destination register is expected"),
        ("add.f32 0f3f800000, %f1, %f2;", "operand `0f3f800000` where a destination register is expected"),
        ("add.s32 %r0, [%rd1+-8], %r2;", "operand `[%rd1-8]` where a register or a number is expected"),
        ("add.s32 %r0, {%r1, %r2}, %r2;", "operand `{%r1, %r2}` where a register or a number is expected"),
        ("ld.global.u32 %r0, %r1;", "operand `%r1` where an address such as `[%rd1+8]` is expected"),
        ("selp.s32 %r0, %r1, %r2, [%rd1];", "operand `[%rd1]` where a predicate is expected"),
        ("add.s32 %r0, %r1, %r9;", "`%r9` is not declared"),
        ("bra NOWHERE;", "label `NOWHERE` is not defined"),
        ("div.f32 %f0, %f1, %f2;", "it needs a rounding mode or .approx"),
        ("cvt.s32.f32 %r0, %f1;", "needs an integer rounding mode"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e4m3.f32 {%f0}, {%r0}, {%r1}, {%f0};", "`e4m3` is not supported"),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%rd1], 16, [%r2];",
            "is not supported",
        ),
        ("mbarrier.init.shared.b64 [%r0], 1;", "does not know this instruction"),
        ("ld.param.u64 %rd0, [p+4];", "the access ends at byte 12 of 8"),
        ("call (%r0), missing, (%r1);", "is not a .param variable"),
        ("shfl.b32 %r0, %r1, 1, 31;", "obsolete"),
        ("mov.u32 %r0, %cluster_ctaid.x;", "`%cluster_ctaid.x` is not declared"),
        // Known to the lowering or close to it, but no form of any target.
        ("cvt.sat.s16.u8 %r0, %r1;", "not in the emulator's list of forms"),
        ("ld.volatile.local.u32 %r0, [%rd1];", "not in the emulator's list of forms"),
        ("atom.global.add.s64 %rd0, [%rd1], %rd2;", "not in the emulator's list of forms"),
        // Forms of later targets.
        ("min.xorsign.abs.f32 %f0, %f1, %f2;", "it needs .target sm_86, the module has sm_80"),
        ("red.global.add.noftz.bf16x2 [%rd0], %r1;", "it needs .target sm_90, the module has sm_80"),
        ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%rd0], {%r1};", "it needs .target sm_90, the module has sm_80"),
        // What this version leaves out.
        ("alloca.u64 %rd0, %rd1;", "does not know this instruction"),
        ("stacksave.u64 %rd0;", "does not know this instruction"),
        ("vadd4.u32.u32.u32 %r0, %r1, %r2, %r3;", "does not know this instruction"),
        (
            "tex.1d.v4.f32.s32 {%f0, %f1, %f2, %f3}, [t, {%r0}];",
            "`tex.1d.v4.f32.s32`: operands like `[map, {x, y}]` belong to textures and tensors, which are not supported",
        ),
        ("suld.b.1d.b32.trap {%r0}, [t, {%r1}];", "`suld.b.1d.b32.trap`: operands like `[map, {x, y}]` belong to"),
        ("add.s32 %r0, [], %r1;", "`add.s32`: expected a number, got `]`"),
        (
            "mma.sync.aligned.m8n8k32.row.col.s32.s4.s4.s32 {%r0, %r1}, {%r0}, {%r1}, {%r0, %r1};",
            "this shape is not supported",
        ),
        ("wmma.load.a.sync.aligned.row.m8n8k32.s4 {%r0}, [%rd0];", "modifier `.m8n8k32` is not known"),
        ("call (%r0), %rd1, (%r1);", "is not a .param variable"),
        ("call %rd1, nowhere;", "`nowhere` is not a call prototype"),
    ] {
        let e = refused(body);
        assert!(e.contains("PTX line 7") && e.contains(words), "{body}: {e}");
    }
}

#[test]
fn broken_files_say_where() {
    let device = Device::new(1 << 20).unwrap();
    for (text, words) in [
        ("", "no `.version`"),
        ("hello", "directive `hello`"),
        (".version 8.0\n.entry k() { add.s32 %r0, ", "the end of the file"),
        (".version 8.0\n/* open", "never closed"),
        (".version 8.0\n.address_size 32\n", "only `.address_size 64`"),
        (".version 8.0\n.global .b8 x[99999999999999];", "larger than any device memory"),
        (".version 8.0\n.global .b8 x[2097152];", "no device memory for variable `x`"),
        (".version 8.0\n.entry k() { .reg .b32 %r<99999999>; }", "`.reg` declares 99999999 registers"),
        (".version 8.0\n.entry k() { L: L: ret; }", "label `L` is defined twice"),
    ] {
        let e = device.load(text).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(words), "{text:?}: {e}");
    }
    assert_eq!(device.arena.info().0, 1 << 20, "a refused module keeps no memory");
}

/// Deterministic mutations of real files: cut, delete, repeat, swap and overwrite at random places.
#[test]
fn mutated_files_never_panic() {
    let device = Device::new(1 << 24).unwrap();
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below.max(1)
    };
    let noise = [
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "<",
        ">",
        ",",
        ";",
        ":",
        "::",
        "%",
        "0f",
        "0d12",
        "-",
        "+",
        "@!",
        "\"",
        ".reg",
        "%r1",
        "_",
        "|",
        "99999999999999999999",
    ];
    let (mut loaded, mut errors) = (0, 0);
    for round in 0..600 {
        let source = SOURCES[round % 3];
        // One function is enough, and keeps a round short.
        let starts: Vec<usize> = source.match_indices(".visible .entry").map(|m| m.0).collect();
        let i = random(starts.len());
        let end = starts.get(i + 1).copied().unwrap_or(source.len());
        let mut words: Vec<&str> = source[starts[i]..end].split_inclusive([' ', '\n', '\t', ',']).collect();
        for _ in 0..1 + random(3) {
            let at = random(words.len());
            match random(5) {
                0 => words.truncate(at + 1),
                1 => {
                    words.remove(at);
                }
                2 => words.insert(at, words[at]),
                3 => {
                    let other = random(words.len());
                    words.swap(at, other);
                }
                _ => words[at] = noise[random(noise.len())],
            }
            if words.is_empty() {
                break;
            }
        }
        let text = format!(".version 8.0\n.target sm_80\n.address_size 64\n{}", words.concat());
        match device.load(&text) {
            Ok(m) => {
                loaded += 1;
                device.unload(&m);
            }
            Err(e) => {
                errors += 1;
                assert!(e.line > 0 && !e.message.is_empty());
            }
        }
    }
    assert!(loaded > 20 && errors > 100, "{loaded} loaded, {errors} refused: the mutations test nothing");
    // Deep nesting must not exhaust the stack.
    for deep in ["{".repeat(100_000), format!("mov.b32 %r0, {}", "{".repeat(100_000))] {
        let e = device.load(&format!(".version 8.0\n.entry k() {{ {deep}")).map(|_| ()).unwrap_err();
        assert!(e.message.contains("fewer nested"), "{e}");
    }
}
