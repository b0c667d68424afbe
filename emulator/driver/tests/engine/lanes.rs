//! Probes of the forms that work across lanes: matrices, shuffles, votes, barriers; and of control flow. The last test
//! walks the list of forms and demands that each was executed.

use std::fmt::Write;

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::ptx::forms;

use crate::forms::others;
use crate::moves::{self, Probes};
use crate::rig::{assert_clean, assert_finding};

/// Element types of matrices: bytes, from an integer, to an integer (values are small integers, exact everywhere).
fn encode(ty: &str, v: i64) -> u64 {
    match ty {
        "f16" => u64::from(half(v as f32)),
        "bf16" => u64::from((v as f32).to_bits() >> 16),
        "f32" | "tf32" => u64::from((v as f32).to_bits()),
        "f64" => (v as f64).to_bits(),
        _ => v as u64 & ((1 << (8 * size(ty))) - 1),
    }
}

fn decode(ty: &str, v: u64) -> i64 {
    match ty {
        "f16" => {
            let (s, e, m) = (v >> 15 & 1, (v >> 10 & 31) as i32, (v & 0x3ff) as f64);
            let r = if e == 0 { m * 2f64.powi(-24) } else { (1.0 + m / 1024.0) * 2f64.powi(e - 15) };
            (if s == 1 { -r } else { r }) as i64
        }
        "f32" => f32::from_bits(v as u32) as i64,
        "f64" => f64::from_bits(v) as i64,
        _ => i64::from(v as u32 as i32),
    }
}

fn half(v: f32) -> u16 {
    if v == 0.0 {
        return 0;
    }
    let e = v.abs().log2().floor() as i32;
    let m = ((v.abs() / 2f32.powi(e) - 1.0) * 1024.0) as u16;
    u16::from(v < 0.0) << 15 | ((e + 15) as u16) << 10 | m
}

fn size(ty: &str) -> usize {
    match ty {
        "s8" | "u8" => 1,
        "f16" | "bf16" => 2,
        "f64" => 8,
        _ => 4,
    }
}

fn value(ty: &str, i: usize, j: usize, salt: usize) -> i64 {
    let v = ((i * 7 + j * 13 + salt * 5 + i * j) % 15) as i64 - 7;
    if ty == "u8" { v + 200 } else { v }
}

/// Where the ISA puts the elements of an `mma` fragment ("Matrix Fragments for mma.m…"): for each register of a lane, the
/// rows and columns of its elements. groupID is lane / 4, threadID_in_group lane % 4.
fn place(shape: (usize, usize, usize), part: char, ty: &str, lane: usize) -> Vec<Vec<(usize, usize)>> {
    let (m, n, k) = shape;
    let (g, t) = (lane / 4, lane % 4);
    let e = (4 / size(ty)).max(1);
    let mut regs = Vec::new();
    match part {
        // a0, a1, …: rows groupID and groupID + 8 alternate per register, then the columns advance by four registers' worth.
        'a' => {
            for c in 0..k / (4 * e) {
                for r in 0..m / 8 {
                    regs.push((0..e).map(|i| (g + 8 * r, t * e + i + 4 * e * c)).collect());
                }
            }
        }
        // b0, b1, …: rows threadID_in_group * e + i, column groupID.
        'b' => {
            for c in 0..k / (4 * e) {
                regs.push((0..e).map(|i| (t * e + i + 4 * e * c, g)).collect());
            }
        }
        // c0, c1: row groupID, columns threadID_in_group * 2 and + 1; c2, c3: row groupID + 8.
        _ => {
            assert_eq!(n, 8);
            for r in 0..m / 8 {
                let pair = [(g + 8 * r, 2 * t), (g + 8 * r, 2 * t + 1)];
                if ty == "f16" {
                    regs.push(pair.to_vec());
                } else {
                    regs.extend(pair.map(|p| vec![p]));
                }
            }
        }
    }
    regs
}

fn shape_of(form: &str) -> (usize, usize, usize) {
    let part =
        form.split('.').find(|p| p.starts_with('m') && p[1..].starts_with(|c: char| c.is_ascii_digit())).unwrap();
    let n: Vec<usize> =
        part.split(|c: char| !c.is_ascii_digit()).filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
    (n[0], n[1], n[2])
}

fn product(m: usize, n: usize, k: usize, tys: [&str; 3]) -> Vec<i64> {
    let mut d = vec![0; m * n];
    for i in 0..m {
        for j in 0..n {
            d[i * n + j] =
                value(tys[2], i, j, 3) + (0..k).map(|l| value(tys[0], i, l, 1) * value(tys[1], l, j, 2)).sum::<i64>();
        }
    }
    d
}

fn mma(p: &mut Probes) {
    for form in forms::all().map(|f| f.0).filter(|f| f.starts_with("mma")) {
        let (m, n, k) = shape_of(form);
        let t: Vec<&str> = form
            .split('.')
            .filter(|p| matches!(*p, "f16" | "bf16" | "tf32" | "f32" | "f64" | "s8" | "u8" | "s32"))
            .collect();
        let [d_ty, a_ty, b_ty, c_ty] = t[..] else { panic!("{form}") };
        // A lane's registers of A, B and C, one word each.
        let mut input = Vec::new();
        let mut counts = [0; 3];
        for lane in 0..32 {
            for (x, (part, ty)) in [('a', a_ty), ('b', b_ty), ('c', c_ty)].into_iter().enumerate() {
                let regs = place((m, n, k), part, ty, lane);
                counts[x] = regs.len();
                for r in regs {
                    let word = r.iter().enumerate().fold(0, |w, (i, &(row, col))| {
                        w | encode(ty, value(ty, row, col, x + 1)) << (8 * size(ty) * i)
                    });
                    input.push(word);
                }
            }
        }
        let total: usize = counts.iter().sum();
        let reg = |ty: &str, i: usize| match ty {
            "f64" => format!("%q{}", 10 + i),
            _ => format!("%r{}", 10 + i),
        };
        let mut body = format!("mad.wide.u32 %q1, %me, {}, %in;\n", 8 * total);
        let mut operands = Vec::new();
        let mut at = 0;
        for (count, ty) in counts.into_iter().zip([a_ty, b_ty, c_ty]) {
            let regs: Vec<String> = (at..at + count).map(|i| reg(ty, i)).collect();
            for (i, r) in regs.iter().enumerate() {
                let w = if ty == "f64" { 64 } else { 32 };
                let _ = writeln!(body, "ld.global.b{w} {r}, [%q1+{}];", 8 * (at + i));
            }
            operands.push(format!("{{{}}}", regs.join(", ")));
            at += count;
        }
        let d: Vec<String> = (0..counts[2]).map(|i| reg(d_ty, 20 + i)).collect();
        // ptxas wants f32 accumulators in f32 registers.
        let typed = |list: &str, ty: &str, body: &mut String| -> String {
            if ty != "f32" {
                return list.to_string();
            }
            let names: Vec<&str> = list.trim_matches(['{', '}']).split(", ").collect();
            let f: Vec<String> = (0..names.len()).map(|i| format!("%f{}", 1 + i)).collect();
            for (f, r) in f.iter().zip(&names) {
                let _ = writeln!(body, "mov.b32 {f}, {r};");
            }
            format!("{{{}}}", f.join(", "))
        };
        let c = typed(&operands[2], c_ty, &mut body);
        let d_text = if d_ty == "f32" { c.clone() } else { format!("{{{}}}", d.join(", ")) };
        let _ = writeln!(body, "{form} {d_text}, {}, {}, {c};", operands[0], operands[1]);
        let _ = writeln!(body, "mad.wide.u32 %q2, %me, {}, %out;", 8 * counts[2]);
        for (i, r) in d.iter().enumerate() {
            let w = if d_ty == "f64" { 64 } else { 32 };
            if d_ty == "f32" {
                let _ = writeln!(body, "mov.b32 {r}, %f{};", 1 + i);
            }
            let _ = writeln!(body, "st.global.b{w} [%q2+{}], {r};", 8 * i);
        }
        let got = p.run("", &body, 32, &input, 32 * counts[2]);
        let want = product(m, n, k, [a_ty, b_ty, c_ty]);
        for lane in 0..32 {
            for (r, places) in place((m, n, k), 'c', d_ty, lane).iter().enumerate() {
                for (i, &(row, col)) in places.iter().enumerate() {
                    let mask = if size(d_ty) == 8 { u64::MAX } else { (1 << (8 * size(d_ty))) - 1 };
                    let word = got[lane * counts[2] + r] >> (8 * size(d_ty) * i) & mask;
                    assert_eq!(
                        decode(d_ty, word),
                        want[row * n + col],
                        "{form} lane {lane} register {r} ({row},{col})"
                    );
                }
            }
        }
    }
    // Saturation: sums beyond i32 stay at its ends or wrap.
    for (sat, want) in [(".satfinite", i32::MAX), ("", i32::MAX.wrapping_add(16 * 127 * 127))] {
        let body = format!(
            "mov.b32 %r1, 0x7f7f7f7f; mov.b32 %r2, 0x7fffffff;\n\
             mma.sync.aligned.m8n8k16.row.col{sat}.s32.s8.s8.s32 {{%r3, %r4}}, {{%r1}}, {{%r1}}, {{%r2, %r2}};\n\
             add.u64 %q1, %out, %t8; st.global.b32 [%q1], %r3; st.global.b32 [%q1+4], %r4;"
        );
        let word = u64::from(want as u32);
        assert_eq!(p.run("", &body, 32, &[0], 32), vec![word << 32 | word; 32], "mma{sat}");
    }
}

/// A matrix in memory, and back: load, multiply, store, in every layout, against a plain product.
fn wmma(p: &mut Probes) {
    let all: Vec<&str> = forms::all().map(|f| f.0).filter(|f| f.starts_with("wmma.mma")).collect();
    let all = all.into_iter().flat_map(|f| ["", ".global", ".shared"].map(|s| (f, s)));
    for (number, (form, space)) in all.enumerate() {
        let parts: Vec<&str> = form.split('.').collect();
        let (al, bl, (m, n, k)) = (parts[4], parts[5], shape_of(form));
        let t: Vec<&str> = parts[7..].iter().copied().filter(|p| !matches!(*p, "satfinite" | "rn")).collect();
        let [d_ty, a_ty, b_ty, c_ty] = match t[..] {
            [d, c] => [d, "f16", "f16", c],
            [d, a, b, c] => [d, a, b, c],
            _ => panic!("{form}"),
        };
        let shape = parts[6];
        // Turns through the layouts of C and D.
        let (cl, dl) = (["row", "col"][number / 3 % 2], ["col", "row"][number / 6 % 2]);
        let mut bytes: Vec<u8> = Vec::new();
        let mut offsets = Vec::new();
        let mut strides = Vec::new();
        for (x, (rows, cols, layout, ty)) in
            [(m, k, al, a_ty), (k, n, bl, b_ty), (m, n, cl, c_ty)].into_iter().enumerate()
        {
            // A leading dimension beyond the matrix.
            let minor = if layout == "row" { cols } else { rows } + 16 / size(ty);
            let major = if layout == "row" { rows } else { cols };
            offsets.push(bytes.len());
            strides.push(minor);
            let mut area = vec![0u8; minor * major * size(ty)];
            for i in 0..rows {
                for j in 0..cols {
                    let at = if layout == "row" { i * minor + j } else { j * minor + i } * size(ty);
                    area[at..at + size(ty)]
                        .copy_from_slice(&encode(ty, value(ty, i, j, x + 1)).to_le_bytes()[..size(ty)]);
                }
            }
            bytes.extend(area);
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        let input: Vec<u64> = bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        let regs = |part: char, ty: &str| match (part, ty) {
            ('a' | 'b', "f16") => 8,
            ('a', _) => m * k * size(ty) / 128 / if ty == "f64" { 2 } else { 1 },
            ('b', _) => k * n * size(ty) / 128 / if ty == "f64" { 2 } else { 1 },
            (_, "f16") => m * n / 64,
            _ => m * n / 32,
        };
        let class = |ty: &str| match ty {
            "f64" => "d",
            "f32" => "w",
            _ => "r",
        };
        let list = |ty: &str, from: usize, count: usize| -> String {
            let r: Vec<String> = (from..from + count).map(|i| format!("%{}{i}", class(ty))).collect();
            format!("{{{}}}", r.join(", "))
        };
        let (a, b) = (list(a_ty, 1, regs('a', a_ty)), list(b_ty, if a_ty == "f64" { 2 } else { 10 }, regs('b', b_ty)));
        let c = list(c_ty, if c_ty == "f64" { 3 } else { 20 }, regs('c', c_ty));
        let d = list(d_ty, if d_ty == "f64" { 5 } else { 30 }, regs('c', d_ty));
        let mut body = ".reg .f32 %w<60>;\n".to_string();
        let mut base = "%in".to_string();
        if space == ".shared" {
            let words = input.len();
            let _ = writeln!(
                body,
                ".shared .align 32 .b8 tile[{}]; mov.u64 %q1, tile; add.u64 %q2, %q1, %t8; add.u64 %q3, %in, %t8; mov.u32 %r90, %me;\n\
                 COPY: setp.lt.u32 %p1, %r90, {words}; @%p1 ld.global.u64 %q4, [%q3]; @%p1 st.shared.u64 [%q2], %q4;\n\
                 add.u64 %q2, %q2, 256; add.u64 %q3, %q3, 256; add.u32 %r90, %r90, 32; @%p1 bra COPY; bar.sync 0;",
                8 * words + 4096
            );
            base = "%q1".to_string();
        }
        for (x, (part, ty, layout, regs)) in
            [('a', a_ty, al, &a), ('b', b_ty, bl, &b), ('c', c_ty, cl, &c)].into_iter().enumerate()
        {
            let _ = writeln!(
                body,
                "mov.u32 %r91, {}; wmma.load.{part}.sync.aligned.{layout}.{shape}{space}.{ty} {regs}, [{base}+{}], %r91;",
                strides[x], offsets[x]
            );
        }
        let _ = writeln!(body, "{form} {d}, {a}, {b}, {c};");
        let minor = if dl == "row" { n } else { m };
        let (out_space, out) = if space == ".shared" {
            (".shared", format!("%q1+{}", 8 * input.len().next_multiple_of(4)))
        } else {
            (space, "%out".to_string())
        };
        // The stride of a dense matrix may be left away.
        let stride = if number % 2 == 0 { format!(", {minor}") } else { String::new() };
        let _ = writeln!(body, "wmma.store.d.sync.aligned.{dl}.{shape}{out_space}.{d_ty} [{out}], {d}{stride};");
        let words = (m * n * size(d_ty)).div_ceil(8);
        if space == ".shared" {
            let _ = writeln!(
                body,
                "bar.sync 0; add.u64 %q2, %q1, %t8; add.u64 %q3, %out, %t8; mov.u32 %r90, %me;\n\
                 BACK: setp.lt.u32 %p1, %r90, {words}; @%p1 ld.shared.u64 %q4, [%q2+{}]; @%p1 st.global.u64 [%q3], %q4;\n\
                 add.u64 %q2, %q2, 256; add.u64 %q3, %q3, 256; add.u32 %r90, %r90, 32; @%p1 bra BACK;",
                8 * input.len().next_multiple_of(4)
            );
        }
        let got: Vec<u8> = p.run("", &body, 32, &input, words).iter().flat_map(|w| w.to_le_bytes()).collect();
        let want = product(m, n, k, [a_ty, b_ty, c_ty]);
        for i in 0..m {
            for j in 0..n {
                let at = if dl == "row" { i * minor + j } else { j * minor + i } * size(d_ty);
                let mut word = [0; 8];
                word[..size(d_ty)].copy_from_slice(&got[at..at + size(d_ty)]);
                assert_eq!(decode(d_ty, u64::from_le_bytes(word)), want[i * n + j], "{form} ({i},{j}) via {space}");
            }
        }
    }
}

/// The remaining loads and stores of fragments: what is loaded in one layout is stored in another.
fn wmma_moves(p: &mut Probes) {
    for form in forms::all().map(|f| f.0).filter(|f| f.starts_with("wmma.load.c") || f.starts_with("wmma.store")) {
        let parts: Vec<&str> = form.split('.').collect();
        let load = parts[1] == "load";
        let (layout, shape, ty) = (parts[5], parts[6], *parts.last().unwrap());
        let space = if form.contains(".shared") {
            ".shared"
        } else if form.contains(".global") {
            ".global"
        } else {
            ""
        };
        let (m, n, _) = shape_of(form);
        let count = if ty == "f16" { m * n / 64 } else { m * n / 32 };
        let class = if ty == "f64" {
            "d"
        } else if ty == "f32" {
            "w"
        } else {
            "r"
        };
        let r: Vec<String> = (1..=count).map(|i| format!("%{class}{i}")).collect();
        let regs = format!("{{{}}}", r.join(", "));
        let words = (m * n * size(ty)).div_ceil(8);
        let other = if layout == "row" { "col" } else { "row" };
        let mut body = ".reg .f32 %w<60>;\n".to_string();
        let copy = |body: &mut String, label: &str, from: &str, s: &str, to: &str, t: &str| {
            let _ = writeln!(
                body,
                "add.u64 %q2, {from}, %t8; add.u64 %q3, {to}, %t8; mov.u32 %r90, %me;\n\
                 {label}: setp.lt.u32 %p1, %r90, {words}; @%p1 ld.{s}.u64 %q4, [%q2]; @%p1 st.{t}.u64 [%q3], %q4;\n\
                 add.u64 %q2, %q2, 256; add.u64 %q3, %q3, 256; add.u32 %r90, %r90, 32; @%p1 bra {label}; bar.sync 0;"
            );
        };
        let (mut from, mut to) = ("%in", "%out");
        if space == ".shared" {
            let _ = writeln!(body, ".shared .align 32 .b8 tile[{}]; mov.u64 %q1, tile;", 8 * words);
            if load {
                copy(&mut body, "COPY", "%in", "global", "%q1", "shared");
                from = "%q1";
            } else {
                to = "%q1";
            }
        }
        let name = |kind: &str| match kind {
            "load" if load => form.to_string(),
            "store" if !load => form.to_string(),
            "load" => format!("wmma.load.c.sync.aligned.{other}.{shape}.global.{ty}"),
            _ => format!("wmma.store.d.sync.aligned.{other}.{shape}.global.{ty}"),
        };
        let _ = writeln!(body, "{} {regs}, [{from}]; {} [{to}], {regs};", name("load"), name("store"));
        if to == "%q1" {
            body.push_str("bar.sync 0;\n");
            copy(&mut body, "BACK", "%q1", "shared", "%out", "global");
        }
        let first = if load { layout } else { other };
        let mut bytes = vec![0u8; 8 * words];
        let index = |row_major: bool, i: usize, j: usize| if row_major { i * n + j } else { j * m + i } * size(ty);
        for i in 0..m {
            for j in 0..n {
                let at = index(first == "row", i, j);
                bytes[at..at + size(ty)]
                    .copy_from_slice(&encode(ty, (i * n + j) as i64 % 300).to_le_bytes()[..size(ty)]);
            }
        }
        let input: Vec<u64> = bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        let got: Vec<u8> = p.run("", &body, 32, &input, words).iter().flat_map(|w| w.to_le_bytes()).collect();
        for i in 0..m {
            for j in 0..n {
                let at = index(first != "row", i, j);
                let mut word = [0; 8];
                word[..size(ty)].copy_from_slice(&got[at..at + size(ty)]);
                assert_eq!(decode(ty, u64::from_le_bytes(word)), (i * n + j) as i64 % 300, "{form} ({i},{j})");
            }
        }
    }
}

/// 8x8 matrices of 16-bit elements in shared memory: element (i, j) of matrix x is 256x + 16i + j.
fn matrices(p: &mut Probes) {
    for form in forms::all().map(|f| f.0).filter(|f| f.starts_with("ldmatrix") || f.starts_with("stmatrix")) {
        let (n, trans, load) = (
            form.split('x').nth(1).unwrap_or("")[..1].parse::<usize>(),
            form.contains("trans"),
            form.starts_with("ld"),
        );
        let n = n.unwrap_or_else(|_| {
            if form.contains(".x4") {
                4
            } else if form.contains(".x2") {
                2
            } else {
                1
            }
        });
        let n = if form.contains(".x4") {
            4
        } else if form.contains(".x2") {
            2
        } else if form.contains(".x1") {
            1
        } else {
            n
        };
        let generic = !form.contains("shared");
        let regs: Vec<String> = (1..=n).map(|i| format!("%r{i}")).collect();
        let element = |x: usize, i: usize, j: usize| (256 * x + 16 * i + j) as u64;
        // Lane l holds elements (l / 4, 2 (l % 4)) and the next one; transposed, the matrix is turned over first.
        let held = |x: usize, lane: usize| {
            let (i, j) = (lane / 4, 2 * (lane % 4));
            if trans {
                element(x, j, i) | element(x, j + 1, i) << 16
            } else {
                element(x, i, j) | element(x, i, j + 1) << 16
            }
        };
        let address = if generic { "cvta.shared.u64 %q5, %q1;" } else { "mov.u64 %q5, %q1;" };
        let mut body = format!(
            ".shared .align 16 .b8 tile[512]; mov.u64 %q1, tile; add.u64 %q1, %q1, %t16; {address} add.u64 %q2, %in, %t16; add.u64 %q3, %out, %t16;\n"
        );
        if load {
            let input: Vec<u64> = (0..64)
                .map(|w| (0..4).fold(0, |v, e| v | element(w / 16, w / 2 % 8, w % 2 * 4 + e) << (16 * e)))
                .collect();
            let _ = writeln!(
                body,
                "ld.global.u64 %q6, [%q2]; ld.global.u64 %q7, [%q2+8]; st.shared.u64 [%q1], %q6; st.shared.u64 [%q1+8], %q7; bar.sync 0;\n\
                 {form} {{{}}}, [%q5];",
                regs.join(", ")
            );
            for (i, r) in regs.iter().enumerate() {
                let _ = writeln!(body, "st.global.u32 [%q3+{}], {r};", 4 * i);
            }
            let got = p.run("", &body, 32, &input, 64);
            for lane in 0..32 {
                for x in 0..n {
                    let word = got[2 * lane + x / 2] >> (32 * (x % 2)) & 0xffff_ffff;
                    assert_eq!(word, held(x, lane), "{form} lane {lane} matrix {x}");
                }
            }
        } else {
            let input: Vec<u64> =
                (0..32).flat_map(|l| [held(0, l) | held(1, l) << 32, held(2, l) | held(3, l) << 32]).collect();
            for (i, r) in regs.iter().enumerate() {
                let _ = writeln!(body, "ld.global.u32 {r}, [%q2+{}];", 4 * i);
            }
            let rows = 8 * n;
            let _ = writeln!(
                body,
                "mov.u64 %q6, 0; st.shared.u64 [%q1], %q6; st.shared.u64 [%q1+8], %q6; bar.sync 0;\n\
                 {form} [%q5], {{{}}}; bar.sync 0;\n\
                 ld.shared.u64 %q6, [%q1]; ld.shared.u64 %q7, [%q1+8]; st.global.u64 [%q3], %q6; st.global.u64 [%q3+8], %q7;",
                regs.join(", ")
            );
            let got = p.run("", &body, 32, &input, 64);
            for (w, &v) in got.iter().enumerate() {
                let want = (0..4).fold(0, |v, e| v | element(w / 16, w / 2 % 8, w % 2 * 4 + e) << (16 * e));
                assert_eq!(v, if w / 2 < rows { want } else { 0 }, "{form} word {w}");
            }
        }
    }
    // movmatrix turns over what ldmatrix would have loaded.
    let body = "add.u64 %q1, %in, %t8; ld.global.u32 %r1, [%q1]; movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1;\n\
                cvt.u64.u32 %q2, %r2; add.u64 %q1, %out, %t8; st.global.u64 [%q1], %q2;";
    let at = |i: usize, j: usize| (16 * i + j) as u64;
    let input: Vec<u64> = (0..32).map(|l| at(l / 4, 2 * (l % 4)) | at(l / 4, 2 * (l % 4) + 1) << 16).collect();
    let want: Vec<u64> = (0..32).map(|l| at(2 * (l % 4), l / 4) | at(2 * (l % 4) + 1, l / 4) << 16).collect();
    assert_eq!(p.run("", body, 32, &input, 32), want);
}

/// One value per lane in, one word per lane out.
fn by_lane(p: &mut Probes, body: &str, input: &[u64], want: impl Fn(usize) -> u64) {
    let text = format!(
        "add.u64 %q1, %in, %t8; ld.global.u64 %q2, [%q1]; cvt.u32.u64 %r1, %q2; mov.u64 %q3, 0; mov.u32 %r3, 0;\n\
         {body}\nadd.u64 %q1, %out, %t8; st.global.u64 [%q1], %q3;"
    );
    let got = p.run("", &text, input.len() as u32, input, input.len());
    for (i, v) in got.into_iter().enumerate() {
        assert_eq!(v, want(i), "{body} thread {i}");
    }
}

fn shuffles(p: &mut Probes) {
    let v: Vec<u64> = (0..32).map(|i| i * i * 37 + 11).collect();
    for mode in ["up", "down", "bfly", "idx"] {
        for (by, clamp) in [
            (0, 0x1f),
            (1, 0x1f),
            (3, 0x1f),
            (5, 0x181f),
            (2, 0x1c03),
            (17, 0x101f),
            (31, 0x1f),
            (33, 0x1f),
            (4, 0x0007),
        ] {
            // `up` clamps at the lower end of the segment, which the low bits of c name.
            let c = if mode == "up" { clamp & !0x1f } else { clamp };
            let body = format!(
                "shfl.sync.{mode}.b32 %r3|%p1, %r1, {by}, {c}, -1; selp.b64 %q3, 0x100000000, 0, %p1; cvt.u64.u32 %q4, %r3; or.b64 %q3, %q3, %q4;"
            );
            by_lane(p, &body, &v, |l| {
                // The pseudo-code of the ISA.
                let (lane, b) = (l as i32, by & 0x1f);
                let (cval, segmask) = (c & 0x1f, c >> 8 & 0x1f);
                let max_lane = (lane & segmask) | (cval & !segmask);
                let min_lane = lane & segmask;
                let (j, pred) = match mode {
                    "up" => (lane - b, lane - b >= max_lane),
                    "down" => (lane + b, lane + b <= max_lane),
                    "bfly" => (lane ^ b, lane ^ b <= max_lane),
                    _ => (min_lane | (b & !segmask), min_lane | (b & !segmask) <= max_lane),
                };
                let j = if pred { j } else { lane };
                v[j as usize] | u64::from(pred) << 32
            });
        }
    }
}

fn votes(p: &mut Probes) {
    let v: Vec<u64> = (0..32).map(|i| i * 5 % 7).collect();
    let pred = "selp.b64 %q3, 1, 0, %p2;";
    for limit in [0, 3, 7] {
        let holds = |l: usize| v[l] < limit;
        let count = (0..32).filter(|&l| holds(l)).count();
        for (mode, want) in [("all", count == 32), ("any", count > 0), ("uni", count == 0 || count == 32)] {
            let body = format!("setp.lt.u32 %p1, %r1, {limit}; vote.sync.{mode}.pred %p2, %p1, -1; {pred}");
            by_lane(p, &body, &v, |_| u64::from(want));
            // Negated, and for half a warp.
            let body = format!(
                "setp.lt.u32 %p1, %r1, {limit}; setp.lt.u32 %p3, %me, 16; setp.eq.u32 %p2, 1, 2;\n@%p3 vote.sync.{mode}.pred %p2, !%p1, 0xffff; {pred}"
            );
            let low = (0..16).filter(|&l| !holds(l)).count();
            let want = match mode {
                "all" => low == 16,
                "any" => low > 0,
                _ => low == 0 || low == 16,
            };
            by_lane(p, &body, &v, |l| u64::from(l < 16 && want));
        }
        let body = format!("setp.lt.u32 %p1, %r1, {limit}; vote.sync.ballot.b32 %r3, %p1, -1; cvt.u64.u32 %q3, %r3;");
        let mask = (0..32).filter(|&l| holds(l)).fold(0, |m, l| m | 1 << l);
        by_lane(p, &body, &v, |_| mask);
    }
    for width in [32, 64] {
        let reg = if width == 32 { "%r1" } else { "%q2" };
        // For 64 bits, values that differ only above bit 31.
        let w: Vec<u64> = v.iter().map(|&x| if width == 64 { x << 40 } else { x }).collect();
        let body = format!("match.any.sync.b{width} %r3, {reg}, -1; cvt.u64.u32 %q3, %r3;");
        by_lane(p, &body, &w, |l| (0..32).filter(|&i| w[i] == w[l]).fold(0, |m, i| m | 1 << i));
        let body = format!(
            "match.all.sync.b{width} %r3|%p1, {reg}, -1; selp.b64 %q3, 0x100000000, 0, %p1; cvt.u64.u32 %q4, %r3; or.b64 %q3, %q3, %q4;"
        );
        by_lane(p, &body, &w, |_| 0);
        by_lane(p, &body, &[w[3]; 32], |_| 0x1_ffff_ffff);
    }
    let r: Vec<u64> = (0..32u64).map(|i| (i * 0x1234_5677 + 0x8000_0000) & 0xffff_ffff).collect();
    let fold = |f: &dyn Fn(u32, u32) -> u32| u64::from(r.iter().skip(1).fold(r[0] as u32, |a, &b| f(a, b as u32)));
    type Fold = fn(u32, u32) -> u32;
    let ops: [(&str, Fold); 9] = [
        ("add.u32", |a, b| a.wrapping_add(b)),
        ("add.s32", |a, b| a.wrapping_add(b)),
        ("min.u32", |a, b| a.min(b)),
        ("max.u32", |a, b| a.max(b)),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    for (op, f) in ops {
        let want = fold(&f);
        by_lane(p, &format!("redux.sync.{op} %r3, %r1, -1; cvt.u64.u32 %q3, %r3;"), &r, |_| want);
    }
    by_lane(p, "setp.lt.u32 %p1, %me, 10; @%p1 activemask.b32 %r3; cvt.u64.u32 %q3, %r3;", &v, |l| {
        if l < 10 { 0x3ff } else { 0 }
    });
}

fn barriers(p: &mut Probes) {
    let v: Vec<u64> = (0..64).map(|i| i * 5 % 7).collect();
    // Neighbours across warps exchange through shared memory: the barrier must make the value visible.
    let exchange = |sync: &str| {
        format!(
            ".shared .align 8 .b8 s[512]; mov.u64 %q5, s; add.u64 %q6, %q5, %t8; st.shared.u64 [%q6], %q2;\n{sync}\n\
             xor.b32 %r4, %me, 63; mad.wide.u32 %q6, %r4, 8, %q5; ld.shared.u64 %q3, [%q6];"
        )
    };
    for sync in [
        "bar.sync 0;",
        "bar.sync 3, 64;",
        "bar.cta.sync 1;",
        "barrier.sync 2;",
        "barrier.sync.aligned 2, 64;",
        "barrier.cta.sync 4;",
        "barrier.cta.sync.aligned 4;",
    ] {
        by_lane(p, &exchange(sync), &v, |l| v[63 - l]);
    }
    // One warp produces and only arrives; the other waits.
    for arrive in [
        "bar.arrive",
        "bar.cta.arrive",
        "barrier.arrive",
        "barrier.arrive.aligned",
        "barrier.cta.arrive",
        "barrier.cta.arrive.aligned",
    ] {
        let wait = if arrive.starts_with("barrier") { "barrier.sync" } else { "bar.sync" };
        let body = format!(
            ".shared .align 8 .b8 s[512]; mov.u64 %q5, s; add.u64 %q6, %q5, %t8; setp.lt.u32 %p1, %me, 32; @!%p1 bra WAIT;\n\
             st.shared.u64 [%q6], %q2; {arrive} 5, 64; bra.uni DONE;\nWAIT: {wait} 5, 64; ld.shared.u64 %q3, [%q6+-256];\nDONE:"
        );
        by_lane(p, &body, &v, |l| if l < 32 { 0 } else { v[l - 32] });
    }
    for limit in [0, 3, 7] {
        let count = v.iter().filter(|&&x| x < limit).count() as u64;
        for name in ["bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red"] {
            let aligned: &[&str] = if name.starts_with("barrier") { &["", ".aligned"] } else { &[""] };
            for a in aligned {
                let body =
                    format!("setp.lt.u32 %p1, %r1, {limit}; {name}.popc{a}.u32 %r3, 0, %p1; cvt.u64.u32 %q3, %r3;");
                by_lane(p, &body, &v, |_| count);
                let body = format!(
                    "setp.lt.u32 %p1, %r1, {limit}; {name}.popc{a}.u32 %r3, 1, 64, !%p1; cvt.u64.u32 %q3, %r3;"
                );
                by_lane(p, &body, &v, |_| 64 - count);
                for (op, want) in [("and", count == 64), ("or", count > 0)] {
                    let body = format!(
                        "setp.lt.u32 %p1, %r1, {limit}; {name}.{op}{a}.pred %p2, 0, %p1; selp.b64 %q3, 1, 0, %p2;"
                    );
                    by_lane(p, &body, &v, |_| u64::from(want));
                }
            }
        }
    }
    // Lanes of a warp exchange after bar.warp.sync.
    let body = ".shared .align 8 .b8 s[256]; mov.u64 %q5, s; add.u64 %q6, %q5, %t8; st.shared.u64 [%q6], %q2; bar.warp.sync -1;\n\
                xor.b32 %r4, %me, 31; mad.wide.u32 %q6, %r4, 8, %q5; ld.shared.u64 %q3, [%q6];";
    by_lane(p, body, &v[..32], |l| v[31 - l]);
    for fence in ["fence.acq_rel.cta", "fence.sc.cta", "membar.cta"] {
        by_lane(p, &exchange(&format!("{fence}; bar.sync 0;")), &v, |l| v[63 - l]);
    }
}

fn control(p: &mut Probes) {
    let v: Vec<u64> = (0..32).map(|i| i * 5 % 7).collect();
    let body = "mov.u64 %q3, 0;\nLOOP: setp.eq.u32 %p1, %r1, 0; @%p1 bra DONE; add.u64 %q3, %q3, 3; sub.u32 %r1, %r1, 1; bra.uni LOOP;\nDONE:";
    by_lane(p, body, &v, |l| 3 * v[l]);
    let body = "and.b32 %r4, %r1, 3;\nts: .branchtargets L0, L1, L2, L3;\nbrx.idx %r4, ts;\n\
                L0: mov.u64 %q3, 10; bra END;\nL1: mov.u64 %q3, 21; bra END;\nL2: mov.u64 %q3, 32;\nL3: add.u64 %q3, %q3, 43;\nEND:";
    by_lane(p, body, &v, |l| [10, 21, 75, 43][v[l] as usize & 3]);
    // Calls: direct, guarded, and through a register with diverging targets.
    let outside = ".func (.param .b64 r) twice(.param .b64 a) { .reg .b64 %x; ld.param.u64 %x, [a]; add.u64 %x, %x, %x; st.param.u64 [r], %x; ret; }\n\
                   .func (.param .b64 r) square(.param .b64 a) { .reg .b64 %x; .reg .pred %z; ld.param.u64 %x, [a]; setp.eq.u64 %z, %x, 3; @%z ret; \
                   mul.lo.u64 %x, %x, %x; st.param.u64 [r], %x; ret; }\n\
                   .global .align 8 .u64 functions[2] = {twice, square};";
    let body = "add.u64 %q1, %in, %t8; ld.global.u64 %q2, [%q1]; mov.u64 %q3, 0; cvt.u32.u64 %r1, %q2; and.b32 %r2, %r1, 1; mov.u64 %q4, functions;\n\
                mad.wide.u32 %q4, %r2, 8, %q4; ld.global.u64 %q5, [%q4]; setp.eq.u32 %p1, %r2, 1; mov.u64 %q8, twice; setp.eq.u64 %p2, %q5, %q8;\n\
                { .param .b64 a; .param .b64 r; st.param.u64 [a], %q2; st.param.u64 [r], %q3;\n\
                shape: .callprototype (.param .b64 _) _ (.param .b64 _);\ncall (r), %q5, (a), shape; ld.param.u64 %q6, [r];\n\
                st.param.u64 [r], %q3; @%p1 call (r), twice, (a); ld.param.u64 %q7, [r]; }\n\
                mul.lo.u64 %q7, %q7, 1000; add.u64 %q6, %q6, %q7; selp.b64 %q7, 1000000, 0, %p2; add.u64 %q6, %q6, %q7; add.u64 %q1, %out, %t8; st.global.u64 [%q1], %q6;";
    let got = p.run(outside, body, 32, &v, 32);
    for (l, x) in got.into_iter().enumerate() {
        let called = if v[l].is_multiple_of(2) {
            1_000_000 + 2 * v[l]
        } else if v[l] == 3 {
            0
        } else {
            v[l] * v[l]
        };
        let guarded = if v[l] % 2 == 1 { 2 * v[l] } else { 0 };
        assert_eq!(x, called + 1000 * guarded, "calls, lane {l}");
    }
    // `exit` of some lanes; the others go on.
    let body = "add.u64 %q1, %out, %t8; setp.lt.u32 %p1, %me, 5; @%p1 exit; mov.u64 %q2, 9; st.global.u64 [%q1], %q2;";
    let got = p.run("", body, 32, &[0], 32);
    assert!(got.iter().enumerate().all(|(l, &x)| x == if l < 5 { 0xeeee_eeee_eeee_eeee } else { 9 }));
    for stop in ["trap", "brkpt"] {
        let (_, outcome, _) = p.try_run("", &format!("setp.eq.u32 %p1, %me, 7; @%p1 {stop};"), 32, &[0], 1);
        assert!(outcome.findings.iter().any(|f| f.kind == Kind::Trap), "{stop}");
    }
    // A call to an address that is no function of the prototype says so.
    let body = "{ .param .b64 a; .param .b64 r; mov.u64 %q5, 48; st.param.u64 [a], %q5;\n\
                shape: .callprototype (.param .b64 _) _ (.param .b64 _);\ncall (r), %q5, (a), shape; }";
    let (_, outcome, _) = p.try_run(outside, body, 32, &[0], 1);
    let text: Vec<String> = outcome.findings.iter().map(|f| f.to_string()).collect();
    assert!(text.iter().any(|t| t.contains("indirect call to 0x30")), "{text:?}");
}

#[test]
fn every_other_form_has_a_probe_and_passes_it() {
    let mut p = Probes::default();
    moves::loads(&mut p);
    moves::stores(&mut p);
    moves::atomics(&mut p);
    moves::copies(&mut p);
    moves::addresses(&mut p);
    moves::hints(&mut p);
    mma(&mut p);
    wmma(&mut p);
    wmma_moves(&mut p);
    matrices(&mut p);
    shuffles(&mut p);
    votes(&mut p);
    barriers(&mut p);
    control(&mut p);
    assert!(p.refused.is_empty(), "{} refused:\n{}", p.refused.len(), p.refused.join("\n"));
    let missing: Vec<&str> = others().into_iter().map(|f| f.0).filter(|f| !p.executed.contains(*f)).collect();
    assert!(missing.is_empty(), "{} forms have no probe: {}", missing.len(), missing.join("\n"));
}

/// Lanes of one store at one address: different values are reported, equal ones are not, nor is a single writer.
#[test]
fn lanes_of_one_store_that_disagree_are_reported() {
    let mut p = Probes::default();
    for (space, kind) in [("shared", Kind::SharedRace), ("global", Kind::GlobalRace)] {
        let body = |address: &str, value: &str, guard: &str| {
            let target = if space == "shared" { "mov.u64 %q1, s;" } else { "mov.u64 %q1, %out;" };
            format!(
                ".shared .align 8 .u64 s[32]; {target} setp.eq.u32 %p1, %me, 9; and.b32 %r1, %me, 3;\n\
                 mad.wide.u32 %q2, {address}, 8, %q1; mov.u32 %r2, {value}; {guard} st.{space}.u32 [%q2], %r2;"
            )
        };
        let (_, out, _) = p.try_run("", &body("%r1", "%me", ""), 32, &[0], 32);
        assert_finding(
            &out,
            kind,
            &["lane 4 (", "lane 0 writes another value in the same instruction", "write after write", "st.", space],
        );
        for (address, value, guard) in [("%r1", "%r1", ""), ("%me", "%me", ""), ("%r1", "%me", "@%p1")] {
            let (_, out, _) = p.try_run("", &body(address, value, guard), 32, &[0], 32);
            assert_clean(&format!("{space} {address} {value}"), &out);
        }
        // Only the bytes that are written count.
        let narrow = body("%r1", "%me", "")
            .replace("mov.u32 %r2, %me;", "shl.b32 %r2, %me, 8;")
            .replace("u32 [%q2]", "u8 [%q2]");
        let (_, out, _) = p.try_run("", &narrow, 32, &[0], 32);
        assert_clean("bytes", &out);
    }
}

/// The loop around a compare-and-swap starts from a plain read, as in the programming guide: no race. A plain write
/// beside it is one.
#[test]
fn compare_and_swap_loops_are_clean_and_plain_writes_beside_them_are_not() {
    let mut p = Probes::default();
    let body = |write: &str| {
        format!(
            "{write} ld.global.u32 %r1, [%out];\nAGAIN: add.u32 %r2, %r1, 1; atom.global.cas.b32 %r3, [%out], %r1, %r2;\n\
             setp.ne.u32 %p1, %r3, %r1; mov.u32 %r1, %r3; @%p1 bra AGAIN;"
        )
    };
    assert_eq!(p.run("", &body(""), 64, &[0], 1)[0], 0xeeee_eeee_eeee_eeee + 64);
    let write = "setp.eq.u32 %p2, %me, 40; mov.u32 %r4, 0; @%p2 st.global.u32 [%out], %r4;";
    let (_, out, _) = p.try_run("", &body(write), 64, &[0], 1);
    assert_finding(&out, Kind::GlobalRace, &["no barrier lies between them"]);
}
