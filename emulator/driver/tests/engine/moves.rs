//! Probes of the forms that move data: loads, stores, atomics, asynchronous copies, address conversions.

use std::collections::BTreeSet;
use std::fmt::Write;

use warpsmith_emulator_driver::exec::grid::{Launch, Outcome};
use warpsmith_emulator_driver::ptx::forms;

use crate::forms::{Want, assemble, bits, edges, reference};
use crate::rig::{Rig, assert_clean};

/// Runs probes and remembers which forms were executed.
#[derive(Default)]
pub struct Probes {
    pub executed: BTreeSet<String>,
    pub refused: Vec<String>,
    count: u32,
}

/// Parameters of a probe: pointers and 16 bytes that it may read.
pub const HEADER: &str = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<99>; .reg .f32 %f<9>; .reg .b64 %q<40>; .reg .f64 %d<9>;\n\
     .reg .b64 %in, %out, %t8, %t16; .reg .b32 %me;\n\
     ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout]; mov.u32 %me, %tid.x;\n\
     mul.wide.u32 %t8, %me, 8; mul.wide.u32 %t16, %me, 16;\n";

impl Probes {
    /// Runs a kernel body with `input` at `%in`; returns `n` words from `%out`. `outside` stands before the kernel.
    pub fn run(&mut self, outside: &str, body: &str, threads: u32, input: &[u64], n: usize) -> Vec<u64> {
        let (rig, outcome, out) = self.try_run(outside, body, threads, input, n);
        assert_clean(body, &outcome);
        rig.get::<u64>(out, n)
    }

    /// The same without the demand that nothing is found.
    pub fn try_run(&mut self, outside: &str, body: &str, threads: u32, input: &[u64], n: usize) -> (Rig, Outcome, u64) {
        let target = if body.contains("stmatrix") || body.contains("noftz.bf16") { 90 } else { 80 };
        let text = format!(
            ".version 8.6\n.target sm_{target}\n.address_size 64\n{outside}\n.visible .entry probe(.param .u64 pin, \
             .param .u64 pout, .param .align 16 .b8 blob[16])\n{{\n{HEADER}{body}\nret;\n}}\n"
        );
        self.count += 1;
        if std::env::var("PTXAS").is_ok() {
            self.refused.extend(assemble(&text, target, &format!("moves{}", self.count)));
        }
        let rig = Rig::new(&text);
        let (pin, pout) = (rig.put(input), rig.put(&vec![0xeeee_eeee_eeee_eeeeu64; n]));
        let kernel = rig.kernel("probe");
        let mut params = [pin.to_le_bytes(), pout.to_le_bytes()].concat();
        params.extend_from_slice(&BLOB);
        let launch = Launch { grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared: 0, params, cooperative: false };
        let outcome = rig.device.launch(&kernel, &launch, &rig.settings);
        for (i, _) in outcome.sites.iter().enumerate().filter(|s| s.1.hits > 0) {
            let name = &kernel.opcode_names[kernel.opcodes[i] as usize];
            let parts: Vec<String> = name.split('.').map(str::to_string).collect();
            self.executed.insert(forms::form(&parts));
        }
        (rig, outcome, pout)
    }
}

/// The 16 bytes of the third parameter.
pub const BLOB: [u8; 16] =
    [0x81, 0x02, 0x83, 0x74, 0xf5, 0x06, 0x77, 0x88, 0x19, 0xfa, 0x0b, 0x8c, 0x3d, 0x9e, 0x2f, 0xc0];

/// Bytes with all sorts of signs.
fn noise(n: usize) -> Vec<u64> {
    let mut s = 0x1234_5678_9abc_def1u64;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            s
        })
        .collect()
}

fn bytes(v: &[u64]) -> Vec<u8> {
    v.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A form with the scope that a strong access needs.
fn spelled(form: &str) -> String {
    let mut s = form.to_string();
    for order in ["relaxed", "acquire", "release"] {
        s = s.replace(&format!(".{order}"), &format!(".{order}.gpu"));
    }
    s
}

fn space_of(form: &str) -> &str {
    form.split('.').find(|p| matches!(*p, "global" | "shared" | "local" | "const" | "param")).unwrap_or("generic")
}

fn lanes_of(form: &str) -> usize {
    if form.contains(".v4") {
        4
    } else if form.contains(".v2") {
        2
    } else {
        1
    }
}

/// Registers of a type, and of a wider one where that is allowed.
fn list(ty: &str, lanes: usize, wide: bool, from: usize) -> (Vec<String>, String) {
    let class = match (ty, wide) {
        (_, true) => "q",
        ("f32", _) => "f",
        ("f64", _) => "d",
        (t, _) if bits(t) == 64 => "q",
        (t, _) if bits(t) == 16 => "h",
        _ => "r",
    };
    let regs: Vec<String> = (from..from + lanes).map(|i| format!("%{class}{i}")).collect();
    let text = if lanes == 1 { regs[0].clone() } else { format!("{{{}}}", regs.join(", ")) };
    (regs, text)
}

/// Text that puts a register into `%q20`.
fn widen(reg: &str) -> String {
    match &reg[..2] {
        "%q" => format!("mov.b64 %q20, {reg};"),
        "%d" => format!("mov.b64 %q20, {reg};"),
        "%f" => format!("mov.b32 %r90, {reg}; cvt.u64.u32 %q20, %r90;"),
        "%h" => format!("cvt.u64.u16 %q20, {reg};"),
        _ => format!("cvt.u64.u32 %q20, {reg};"),
    }
}

pub fn loads(p: &mut Probes) {
    let input = noise(64);
    let raw = bytes(&input);
    let constant: Vec<String> = raw.iter().map(u8::to_string).collect();
    let outside = format!(".const .align 16 .b8 table[512] = {{{}}};", constant.join(", "));
    let all: Vec<&str> = forms::all().map(|f| f.0).filter(|f| f.starts_with("ld.") || f.starts_with("ldu")).collect();
    for form in all {
        let (space, lanes) = (space_of(form), lanes_of(form));
        let ty = form.rsplit('.').next().unwrap();
        let widths: &[bool] = if bits(ty) <= 32 && ty != "f32" { &[false, true] } else { &[false] };
        for &wide in widths {
            let mut body = match space {
                "global" | "generic" => "add.u64 %q1, %in, %t16;".to_string(),
                "const" => "mov.u64 %q1, table; add.u64 %q1, %q1, %t16;".to_string(),
                "param" => String::new(),
                s => format!(
                    ".{s} .align 16 .b8 copy[512]; add.u64 %q2, %in, %t16; ld.global.u64 %q3, [%q2]; \
                     ld.global.u64 %q4, [%q2+8]; mov.u64 %q1, copy; add.u64 %q1, %q1, %t16; st.{s}.u64 [%q1], %q3; \
                     st.{s}.u64 [%q1+8], %q4;"
                ),
            };
            let (regs, text) = list(ty, lanes, wide, 4);
            let address = if space == "param" { "blob" } else { "%q1" };
            let _ = write!(body, "\n{} {text}, [{address}];\nmad.wide.u32 %q2, %me, 32, %out;", spelled(form));
            for (i, r) in regs.iter().enumerate() {
                let _ = write!(body, "{} st.global.u64 [%q2+{}], %q20;", widen(r), 8 * i);
            }
            let got = p.run(&outside, &body, 32, &input, 128);
            for lane in 0..32 {
                for i in 0..lanes {
                    let size = bits(ty) as usize / 8;
                    let at = if space == "param" { &BLOB[i * size..] } else { &raw[16 * lane + i * size..] };
                    let mut word = [0; 8];
                    word[..size].copy_from_slice(&at[..size]);
                    let v = u64::from_le_bytes(word);
                    // Signed types fill the register with their sign, others with zeros.
                    let n = 8 * size as u32;
                    let filled =
                        if ty.starts_with('s') && n < 64 { ((v << (64 - n)) as i64 >> (64 - n)) as u64 } else { v };
                    let register = if wide || n == 64 {
                        64
                    } else if n == 16 {
                        16
                    } else {
                        32
                    };
                    let want = if register == 64 { filled } else { filled & ((1 << register) - 1) };
                    assert_eq!(
                        got[4 * lane + i],
                        want,
                        "{form} (register of {register} bits), lane {lane}, element {i}"
                    );
                }
            }
        }
    }
}

pub fn stores(p: &mut Probes) {
    let input = noise(4 * 32);
    let callee = ".func (.param .align 16 .b8 r[16]) copy(.param .align 16 .b8 a[16])\n{ .reg .b64 %x<2>;\n\
                  ld.param.u64 %x0, [a]; ld.param.u64 %x1, [a+8]; st.param.u64 [r], %x0; st.param.u64 [r+8], %x1; ret; }";
    for form in forms::all().map(|f| f.0).filter(|f| f.starts_with("st.")) {
        let (space, lanes) = (space_of(form), lanes_of(form));
        let ty = form.rsplit('.').next().unwrap();
        let (regs, text) = list(ty, lanes, false, 4);
        let mut body = "mad.wide.u32 %q2, %me, 32, %in; mov.u64 %q3, 0x1111111111111111;\n".to_string();
        for (i, r) in regs.iter().enumerate() {
            let _ = match &r[..2] {
                "%q" | "%d" => writeln!(body, "ld.global.b64 {r}, [%q2+{}];", 8 * i),
                "%h" => writeln!(body, "ld.global.b16 {r}, [%q2+{}];", 8 * i),
                _ => writeln!(body, "ld.global.b32 {r}, [%q2+{}];", 8 * i),
            };
        }
        let (setup, address, back) = match space {
            "global" | "generic" => ("add.u64 %q1, %out, %t16;".to_string(), "%q1", "global"),
            "param" => (String::new(), "arg", "param"),
            s => (format!(".{s} .align 16 .b8 copy[512]; mov.u64 %q1, copy; add.u64 %q1, %q1, %t16;"), "%q1", s),
        };
        if space == "param" {
            body.push_str("{ .param .align 16 .b8 arg[16]; .param .align 16 .b8 res[16];\n");
        }
        let _ = writeln!(body, "{setup} st.{back}.u64 [{address}], %q3; st.{back}.u64 [{address}+8], %q3;");
        let _ = writeln!(body, "{} [{address}], {text};", spelled(form));
        let from = if space == "param" {
            body.push_str("call (res), copy, (arg);\n");
            "res"
        } else {
            address
        };
        let _ = writeln!(body, "ld.{back}.u64 %q10, [{from}]; ld.{back}.u64 %q11, [{from}+8];");
        if space == "param" {
            body.push_str("}\n");
        }
        body.push_str("add.u64 %q1, %out, %t16; st.global.u64 [%q1], %q10; st.global.u64 [%q1+8], %q11;");
        let got = bytes(&p.run(callee, &body, 32, &input, 64));
        for lane in 0..32 {
            let mut want = [0x11; 16];
            let size = bits(ty) as usize / 8;
            for i in 0..lanes {
                want[i * size..(i + 1) * size].copy_from_slice(&input[4 * lane + i].to_le_bytes()[..size]);
            }
            assert_eq!(got[16 * lane..16 * lane + 16], want, "{form}, lane {lane}");
        }
    }
}

/// One lane per address: the old value comes back, the new one is what the ISA says.
pub fn atomics(p: &mut Probes) {
    for form in
        forms::all().map(|f| f.0).filter(|f| f.starts_with("atom") || f.starts_with("red.") && !f.contains("sync"))
    {
        let parts: Vec<&str> = form.split('.').collect();
        let ty = *parts.last().unwrap();
        let op = *parts
            .iter()
            .find(|p| matches!(**p, "and" | "or" | "xor" | "exch" | "cas" | "add" | "inc" | "dec" | "min" | "max"))
            .unwrap();
        let space = space_of(form);
        let (a, b) = (edges(ty, 0), edges(ty, 1));
        let mut cases: Vec<[u64; 3]> = a.iter().flat_map(|&a| b.iter().map(move |&b| [a, b, 77])).collect();
        if op == "cas" {
            // A third that meets the comparison.
            cases.iter_mut().step_by(3).for_each(|c| c[1] = c[0]);
        }
        let n = cases.len().div_ceil(256) * 256;
        let mut input = vec![0u64; 4 * n];
        for (i, c) in cases.iter().enumerate() {
            input[4 * i..4 * i + 3].copy_from_slice(c);
        }
        let class = if bits(ty) == 64 {
            "q"
        } else if bits(ty) == 16 {
            "h"
        } else {
            "r"
        };
        let size = bits(ty);
        let mut body = format!(
            "mad.wide.u32 %q32, %me, 32, %in; mad.wide.u32 %q33, %me, 16, %out;\n\
             ld.global.b{size} %{class}1, [%q32]; ld.global.b{size} %{class}2, [%q32+8]; ld.global.b{size} %{class}3, [%q32+16];\n"
        );
        let back = if space == "shared" { "shared" } else { "global" };
        body += if space == "shared" {
            ".shared .align 16 .b8 cell[2048]; mov.u64 %q31, cell; add.u64 %q31, %q31, %t8;\n"
        } else {
            "add.u64 %q31, %q32, 24;\n"
        };
        let operands = if op == "cas" { format!("%{class}2, %{class}3") } else { format!("%{class}2") };
        let _ = writeln!(body, "st.{back}.b{size} [%q31], %{class}1;");
        let _ = if parts[0] == "atom" {
            writeln!(body, "{form} %{class}4, [%q31], {operands};")
        } else {
            writeln!(body, "{form} [%q31], {operands}; mov.b{size} %{class}4, 0;")
        };
        let _ = writeln!(
            body,
            "{} st.global.u64 [%q33], %q20; ld.{back}.b{size} %{class}5, [%q31]; {} st.global.u64 [%q33+8], %q20;",
            widen(&format!("%{class}4")),
            widen(&format!("%{class}5"))
        );
        for (k, chunk) in input.chunks(4 * 256).enumerate() {
            let got = p.run("", &body, 256, chunk, 512);
            for (i, c) in cases.iter().skip(256 * k).take(256).enumerate() {
                let [a, b, c] = *c;
                let mask = if size == 64 { u64::MAX } else { (1 << size) - 1 };
                let new = match op {
                    "exch" => Want::Bits(b),
                    "cas" => Want::Bits(if a == b { c } else { a }),
                    "inc" => Want::Bits(if a >= b { 0 } else { a + 1 }),
                    "dec" => Want::Bits(if a == 0 || a > b { b } else { a - 1 }),
                    // f32 sums flush subnormals in global memory.
                    "add" if ty == "f32" && back == "global" => reference("add.ftz.f32", &[a, b])[0],
                    _ => reference(&format!("{op}.{ty}"), &[a, b])[0],
                };
                assert_eq!(Want::Bits(got[2 * i + 1] & mask), new, "{form} of {a:#x}, {b:#x}: new value");
                let old = if parts[0] == "atom" { a } else { 0 };
                assert_eq!(got[2 * i], old, "{form} of {a:#x}, {b:#x}: old value");
            }
        }
    }
}

pub fn copies(p: &mut Probes) {
    let input = noise(64);
    let raw = bytes(&input);
    let body = |copy: &str, wait: &str| {
        format!(
            ".shared .align 16 .b8 tile[512]; mov.u64 %q1, tile; add.u64 %q1, %q1, %t16; add.u64 %q2, %in, %t16; \
             add.u64 %q3, %out, %t16; mov.u64 %q4, 0x2222222222222222; st.shared.u64 [%q1], %q4; st.shared.u64 [%q1+8], %q4;\n\
             and.b32 %r5, %me, 15; and.b32 %r6, %me, 1; setp.eq.u32 %p1, %r6, 1;\n\
             {copy}\n{wait}\n\
             ld.shared.u64 %q5, [%q1]; ld.shared.u64 %q6, [%q1+8]; st.global.u64 [%q3], %q5; st.global.u64 [%q3+8], %q6;"
        )
    };
    let full = "cp.async.wait_all;";
    // Instruction, bytes copied, and the bytes read by lane (others are zero).
    let by_lane = |l: usize, n: usize| if l % 16 < n { l % 16 } else { n };
    type Read = Box<dyn Fn(usize) -> usize>;
    let cases: Vec<(String, usize, Read)> = vec![
        ("cp.async.ca.shared.global [%q1], [%q2], 4;".into(), 4, Box::new(|_| 4)),
        ("cp.async.ca.shared.global [%q1], [%q2], 8;".into(), 8, Box::new(|_| 8)),
        ("cp.async.ca.shared.global [%q1], [%q2], 16;".into(), 16, Box::new(|_| 16)),
        ("cp.async.cg.shared.global [%q1], [%q2], 16;".into(), 16, Box::new(|_| 16)),
        ("cp.async.cg.shared.global.L2::128B [%q1], [%q2], 16;".into(), 16, Box::new(|_| 16)),
        (
            "createpolicy.fractional.L2::evict_first.b64 %q9, 1.0; cp.async.cg.shared.global.L2::cache_hint [%q1], [%q2], 16, %q9;".into(),
            16,
            Box::new(|_| 16),
        ),
        ("min.u32 %r5, %r5, 4; cp.async.ca.shared.global [%q1], [%q2], 4, %r5;".into(), 4, Box::new(move |l| by_lane(l, 4))),
        ("min.u32 %r5, %r5, 8; cp.async.ca.shared.global [%q1], [%q2], 8, %r5;".into(), 8, Box::new(move |l| by_lane(l, 8))),
        ("cp.async.cg.shared.global [%q1], [%q2], 16, %r5;".into(), 16, Box::new(move |l| by_lane(l, 16))),
        ("cp.async.cg.shared.global [%q1], [%q2], 16, %p1;".into(), 16, Box::new(|l| if l % 2 == 1 { 0 } else { 16 })),
    ];
    for (copy, n, read) in &cases {
        for wait in [full, "cp.async.commit_group; cp.async.wait_group 0;"] {
            let got = bytes(&p.run("", &body(copy, wait), 32, &input, 64));
            for lane in 0..32 {
                let mut want = [0x22; 16];
                want[..*n].fill(0);
                let r = read(lane).min(*n);
                want[..r].copy_from_slice(&raw[16 * lane..16 * lane + r]);
                assert_eq!(got[16 * lane..16 * lane + 16], want, "{copy} lane {lane}");
            }
        }
    }
    // Groups complete in order: waiting for all but the last one delivers the first.
    let two = "cp.async.ca.shared.global [%q1], [%q2], 8; cp.async.commit_group; cp.async.ca.shared.global [%q1+8], [%q2+8], 8; \
               cp.async.commit_group; cp.async.wait_group 1; ld.shared.u64 %q7, [%q1]; add.u64 %q7, %q7, 0;";
    let got = bytes(&p.run("", &body(two, full), 32, &input, 64));
    assert_eq!(got, raw, "two groups");
}

pub fn addresses(p: &mut Probes) {
    let outside = ".const .align 8 .u64 c = 33; .global .align 8 .u64 g = 44;";
    // A value written through one address is read through the other, both ways round.
    let body = ".shared .align 8 .u64 s; .local .align 8 .u64 l; mov.u64 %q5, 55;\n\
        mov.u64 %q1, s; cvta.shared.u64 %q2, %q1; st.shared.u64 [%q1], %q5; ld.u64 %q6, [%q2]; st.global.u64 [%out], %q6;\n\
        cvta.shared::cta.u64 %q2, %q1; cvta.to.shared::cta.u64 %q3, %q2; sub.u64 %q3, %q3, %q1; add.u64 %q4, %q3, 0;\n\
        cvta.to.shared.u64 %q3, %q2; sub.u64 %q3, %q3, %q1; add.u64 %q3, %q3, %q4; st.global.u64 [%out+8], %q3;\n\
        mov.u64 %q1, l; cvta.local.u64 %q2, %q1; st.local.u64 [%q1], %q5; ld.u64 %q6, [%q2]; st.global.u64 [%out+16], %q6;\n\
        cvta.to.local.u64 %q3, %q2; sub.u64 %q3, %q3, %q1; st.global.u64 [%out+24], %q3;\n\
        mov.u64 %q1, c; cvta.const.u64 %q2, %q1; ld.u64 %q6, [%q2]; st.global.u64 [%out+32], %q6;\n\
        cvta.to.const.u64 %q3, %q2; ld.const.u64 %q6, [%q3]; st.global.u64 [%out+40], %q6;\n\
        mov.u64 %q1, g; cvta.global.u64 %q2, %q1; ld.u64 %q6, [%q2]; st.global.u64 [%out+48], %q6;\n\
        cvta.to.global.u64 %q3, %q2; ld.global.u64 %q6, [%q3]; st.global.u64 [%out+56], %q6;\n\
        mov.u64 %q1, blob; cvta.param.u64 %q2, %q1; ld.u64 %q6, [%q2+8]; st.global.u64 [%out+64], %q6;\n\
        cvta.to.param.u64 %q3, %q2; ld.param.u64 %q6, [%q3+8]; st.global.u64 [%out+72], %q6;";
    let last = u64::from_le_bytes(BLOB[8..].try_into().unwrap());
    assert_eq!(p.run(outside, body, 1, &[0], 10), [55, 0, 55, 0, 33, 33, 44, 44, last, last]);
    // Which space an address lies in: rows are addresses, columns are questions.
    let spaces = ["global", "shared", "local", "const", "param"];
    let mut body = ".shared .align 8 .u64 s; .local .align 8 .u64 l;\n".to_string();
    for (i, (space, name)) in spaces.iter().zip(["g", "s", "l", "c", "blob"]).enumerate() {
        let _ = writeln!(body, "mov.u64 %q1, {name}; cvta.{space}.u64 %q2, %q1;");
        for (j, ask) in ["global", "shared", "local", "const", "param", "shared::cta"].iter().enumerate() {
            let _ = writeln!(
                body,
                "isspacep.{ask} %p1, %q2; selp.u64 %q3, 1, 0, %p1; st.global.u64 [%out+{}], %q3;",
                8 * (6 * i + j)
            );
        }
    }
    let got = p.run(outside, &body, 1, &[0], 30);
    for i in 0..5 {
        for j in 0..6 {
            let same = i == j || (i == 1 && j == 5);
            assert_eq!(got[6 * i + j], u64::from(same), "isspacep.{} of an address in {}", j, spaces[i]);
        }
    }
}

/// Hints and fences: they must leave the data alone.
pub fn hints(p: &mut Probes) {
    let body = ".local .align 8 .u64 l; mov.u64 %q1, l; mov.u64 %q2, 7; st.local.u64 [%q1], %q2;\n\
        prefetch.global.L1 [%in]; prefetch.global.L2 [%in]; prefetch.local.L1 [%q1]; prefetch.local.L2 [%q1];\n\
        prefetch.L1 [%in]; prefetch.L2 [%in]; prefetchu.L1 [%in]; prefetch.global.L2::evict_last [%in];\n\
        prefetch.global.L2::evict_normal [%in]; applypriority.global.L2::evict_normal [%in], 128;\n\
        applypriority.L2::evict_normal [%in], 128; discard.global.L2 [%out], 128; discard.L2 [%out], 128;\n\
        membar.cta; membar.gl; membar.sys; fence.sc.cta; fence.sc.gpu; fence.sc.sys; fence.cta; fence.gpu; fence.sys; fence.acq_rel.cta;\n\
        fence.acq_rel.gpu; fence.acq_rel.sys; pmevent 3; pmevent.mask 0x10; nanosleep.u32 100;\n\
        createpolicy.fractional.L2::evict_last.b64 %q4, 0.5;\n\
        ld.global.L1::evict_last.L2::cache_hint.L2::128B.u64 %q5, [%in], %q4; ld.local.u64 %q6, [%q1];\n\
        st.global.u64 [%out], %q5; st.global.u64 [%out+8], %q6;";
    let mut policies = String::new();
    for first in ["evict_last", "evict_normal", "evict_first", "evict_unchanged"] {
        for second in ["", ".L2::evict_first", ".L2::evict_unchanged"] {
            let _ = writeln!(policies, "createpolicy.fractional.L2::{first}{second}.b64 %q4, 0.5;");
            for space in ["", ".global"] {
                let _ = writeln!(policies, "createpolicy.range{space}.L2::{first}{second}.b64 %q4, [%in], 64, 128;");
            }
        }
    }
    let body = format!("{policies} mov.u64 %q5, 0; createpolicy.cvt.L2.b64 %q4, %q5;\n{body}");
    let input = noise(16);
    assert_eq!(p.run("", &body, 1, &input, 16)[..2], [input[0], 7]);
}
