//! A probe for every form: the emulator's list of forms is walked, each form that computes a value from registers runs on
//! every combination of awkward operands and is compared with a reference written from the ISA text; forms of memory,
//! matrices, lanes and control have probes of their own in `moves` and `lanes`. A form without any probe fails the test.

use std::collections::BTreeSet;
use std::fmt::Write;

use warpsmith_emulator_driver::exec::alu::Level;
use warpsmith_emulator_driver::ptx::forms;

use crate::exact::{BF16, Exact, F16, F32, F64, Format, Mode};
use crate::rig::{Arg, Rig};

/// What a reference says about a result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Want {
    Bits(u64),
    /// Within a relative or an absolute error of a value; bits in this format.
    Near(Format, f64, f64, f64),
    /// The ISA leaves it open.
    Open,
}

use Want::{Bits, Near, Open};

const MODES: [(&str, Mode); 4] = [("rn", Mode::Near), ("rz", Mode::Zero), ("rm", Mode::Down), ("rp", Mode::Up)];

pub fn bits(ty: &str) -> u32 {
    match ty {
        "pred" => 1,
        "f16x2" | "bf16x2" => 32,
        "bf16" => 16,
        t => t[1..].parse().unwrap_or_else(|_| panic!("type {ty}")),
    }
}

fn signed(ty: &str) -> bool {
    ty.starts_with('s')
}

fn float(ty: &str) -> Option<Format> {
    Some(match ty {
        "f16" => F16,
        "bf16" => BF16,
        "f32" => F32,
        "f64" => F64,
        _ => return None,
    })
}

fn mask(n: u32) -> u64 {
    if n >= 64 { u64::MAX } else { (1 << n) - 1 }
}

/// The integer that these bits are in a type.
fn int(ty: &str, v: u64) -> i128 {
    let n = bits(ty);
    let v = v & mask(n);
    if signed(ty) && v >> (n - 1) & 1 == 1 { i128::from(v) - (1i128 << n) } else { i128::from(v) }
}

fn cut(ty: &str, v: i128) -> u64 {
    v as u64 & mask(bits(ty))
}

fn limits(ty: &str) -> (i128, i128) {
    let n = bits(ty);
    if signed(ty) { (-(1 << (n - 1)), (1 << (n - 1)) - 1) } else { (0, (1 << n) - 1) }
}

/// Operands worth trying.
pub fn edges(ty: &str, position: usize) -> Vec<u64> {
    let wide = |v: &[f64], f: Format| -> Vec<u64> {
        v.iter()
            .map(|&x| {
                Exact::of(F64, x.to_bits()).round(f, Mode::Near) | if x.is_sign_negative() { f.sign() } else { 0 }
            })
            .collect()
    };
    if let Some(f) = float(ty) {
        let tiny = 1u64;
        let mut v =
            vec![0, f.sign(), f.infinity(), f.infinity() | f.sign(), f.nan(), f.infinity() + 1, tiny, tiny | f.sign()];
        // The largest subnormal and finite numbers, the smallest normal one.
        v.extend([(1 << f.mant) - 1, 1 << f.mant, f.infinity() - 1, (f.infinity() - 1) | f.sign()]);
        v.extend(wide(&[1.0, -1.0, 1.5, 3.0000002, 0.1, -2.5, 100.0, -0.75, 40000.0, 255.5, 1e-3], f));
        if f.exp > 5 {
            v.extend(wide(&[16777217.0, -2147483648.0, 4294967295.0, 1e30, -3e37, 1e-30, 9.3e18, 1.9e19], f));
        }
        if position == 2 {
            v = v.into_iter().step_by(2).collect();
        }
        return v;
    }
    match ty {
        "pred" => vec![0, 1],
        "f16x2" | "bf16x2" => {
            let v = edges(if ty == "f16x2" { "f16" } else { "bf16" }, position);
            (0..v.len()).map(|i| v[i] | v[(3 * i + 5) % v.len()] << 16).collect()
        }
        _ => {
            let n = bits(ty);
            let mut v = vec![0, 1, 2, 3, 7, 15, 16, 31, 32, 33, 63, 64, 100, 255, 0x7f, 0x80];
            v.extend([mask(n), mask(n) - 1, mask(n - 1), mask(n - 1) + 1, mask(n - 1) + 2]);
            v.extend([
                0x7fff,
                0x8000,
                0xffff,
                0x5a3c_96f1,
                0x8000_0000,
                0x7fff_ffff,
                0xffff_ffff,
                0x00ff_8001,
                0x0123_4567_89ab_cdef,
                0xfedc_ba98_7654_3210,
            ]);
            v.iter_mut().for_each(|x| *x &= mask(n));
            v.sort_unstable();
            v.dedup();
            if position == 2 {
                v = v.into_iter().step_by(2).collect();
            }
            v
        }
    }
}

/// The operands of a form: type of the result, types of the sources.
pub struct Signature {
    dst: String,
    src: Vec<String>,
    /// Text after the sources.
    extra: &'static str,
}

/// The types an opcode names.
fn types(parts: &[&str]) -> Vec<String> {
    let known = |p: &&&str| {
        matches!(**p, "pred" | "f16" | "bf16" | "f16x2" | "bf16x2" | "f32" | "f64" | "tf32")
            || (p.len() >= 2 && "bus".contains(&p[..1]) && matches!(&p[1..], "8" | "16" | "32" | "64"))
    };
    parts[1..].iter().filter(known).map(|p| p.to_string()).collect()
}

/// How many sources of which type a form has, or `None` if it is not one that computes a value from registers.
pub fn signature(form: &str) -> Option<Signature> {
    let parts: Vec<&str> = form.split('.').collect();
    let t = types(&parts);
    let last = t.last().cloned().unwrap_or_default();
    let same = |n: usize| Some(Signature { dst: last.clone(), src: vec![last.clone(); n], extra: "" });
    let of = |dst: &str, src: &[&str]| {
        Some(Signature { dst: dst.to_string(), src: src.iter().map(|s| s.to_string()).collect(), extra: "" })
    };
    let boolean = parts.iter().any(|p| matches!(*p, "and" | "or" | "xor"));
    match parts[0] {
        "mul" | "mad" if parts[1] == "wide" => {
            let double = format!("{}{}", &last[..1], 2 * bits(&last));
            let mut src = vec![last.clone(), last.clone()];
            if parts[0] == "mad" {
                src.push(double.clone());
            }
            Some(Signature { dst: double, src, extra: "" })
        }
        "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "mul24" | "copysign" | "addc" | "subc" => same(2),
        "mad" | "mad24" | "sad" | "fma" | "madc" => same(3),
        "abs" | "neg" | "brev" | "cnot" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "not"
        | "mov" => same(1),
        "and" | "or" | "xor" => same(2),
        "popc" | "clz" | "bfind" => of("u32", &[&last]),
        "fns" => of("b32", &["b32", "b32", "s32"]),
        "bfe" => of(&last, &[&last, "u32", "u32"]),
        "bfi" => of(&last, &[&last, &last, "u32", "u32"]),
        "szext" | "bmsk" => of(&last, &[&last, "u32"]),
        "dp4a" | "dp2a" => of("u32", &["b32", "b32", "b32"]),
        "vabsdiff2" | "vabsdiff4" => same(3),
        "testp" => of("pred", &[&last]),
        "setp" if boolean => of("pred", &[&last, &last, "pred"]),
        "setp" => of("pred", &[&last, &last]),
        "set" if boolean => of(&t[0], &[&last, &last, "pred"]),
        "set" => of(&t[0], &[&last, &last]),
        "selp" => of(&last, &[&last, &last, "pred"]),
        "slct" => of(&t[0], &[&t[0], &t[0], &last]),
        "lop3" => Some(Signature { extra: ", 0x96", ..same(3)? }),
        "shf" => of("b32", &["b32", "b32", "u32"]),
        "shl" | "shr" => of(&last, &[&last, "u32"]),
        "prmt" => same(3),
        "cvt" if parts[1] == "pack" && parts.contains(&"b32") => of("b32", &["s32", "s32", "b32"]),
        "cvt" if parts[1] == "pack" => of("b32", &["s32", "s32"]),
        "cvt" if parts.contains(&"tf32") => of("b32", &["f32"]),
        "cvt" if matches!(&t[0][..], "f16x2" | "bf16x2") => of(&t[0], &["f32", "f32"]),
        "cvt" => of(&t[0], &[&t[1]]),
        _ => None,
    }
}

/// Two results: the destination, and a second predicate or the carry.
pub fn reference(form: &str, v: &[u64]) -> [Want; 2] {
    let parts: Vec<&str> = form.split('.').collect();
    let has = |p: &str| parts.contains(&p);
    let t = types(&parts);
    let ty = t.last().cloned().unwrap_or_default();
    let one = |w: u64| [Bits(w), Bits(0)];
    match parts[0] {
        "setp" => {
            let c = has("and") || has("or") || has("xor");
            let combine = |x: bool| match () {
                _ if !c => x,
                _ if has("and") => x && v[2] == 1,
                _ if has("or") => x || v[2] == 1,
                _ => x != (v[2] == 1),
            };
            if ty.ends_with("x2") {
                let half = &ty[..ty.len() - 2];
                let [low, high] =
                    [0, 16].map(|s| compare(parts[1], half, v[0] >> s & 0xffff, v[1] >> s & 0xffff, has("ftz")));
                return [Bits(combine(low).into()), Bits(combine(high).into())];
            }
            let x = compare(parts[1], &ty, v[0], v[1], has("ftz"));
            // A comparison of halves has no second result.
            let second = !matches!(&ty[..], "f16" | "bf16") && combine(!x);
            [Bits(combine(x).into()), Bits(second.into())]
        }
        "set" => {
            let combine = |x: bool| match () {
                _ if has("and") => x && v[2] == 1,
                _ if has("or") => x || v[2] == 1,
                _ if has("xor") => x != (v[2] == 1),
                _ => x,
            };
            let d = &t[0][..];
            if ty.ends_with("x2") {
                let half = &ty[..ty.len() - 2];
                let one = if d == ty { float(half).unwrap().one() } else { 0xffff };
                let r = [0, 16].map(|s| {
                    u64::from(combine(compare(parts[1], half, v[0] >> s & 0xffff, v[1] >> s & 0xffff, has("ftz"))))
                        * one
                });
                return [Bits(r[0] | r[1] << 16), Bits(0)];
            }
            let yes = float(d).map_or(mask(bits(d)), Format::one);
            [Bits(u64::from(combine(compare(parts[1], &ty, v[0], v[1], has("ftz")))) * yes), Bits(0)]
        }
        "selp" => one(if v[2] == 1 { v[0] } else { v[1] } & mask(bits(&ty))),
        "slct" => {
            let ge = match float(&ty) {
                None => int("s32", v[2]) >= 0,
                Some(f) => {
                    let c = if has("ftz") { f.flush(v[2]) } else { v[2] };
                    !f.is_nan(c) && (!f.negative(c) || f.is_zero(c))
                }
            };
            one(if ge { v[0] } else { v[1] } & mask(bits(&t[0])))
        }
        "testp" => {
            let f = float(&ty).unwrap();
            let x = v[0];
            one(u64::from(match parts[1] {
                "finite" => !f.is_nan(x) && !f.is_inf(x),
                "infinite" => f.is_inf(x),
                "number" => !f.is_nan(x),
                "notanumber" => f.is_nan(x),
                "normal" => !f.is_nan(x) && !f.is_inf(x) && !f.is_zero(x) && !f.subnormal(x),
                _ => f.subnormal(x),
            }))
        }
        "cvt" => [convert(&parts, &t, v), Bits(0)],
        "mov" => one(v[0] & mask(bits(&ty))),
        "and" => one(v[0] & v[1] & mask(bits(&ty))),
        "or" => one((v[0] | v[1]) & mask(bits(&ty))),
        "xor" => one((v[0] ^ v[1]) & mask(bits(&ty))),
        "not" => one(!v[0] & mask(bits(&ty))),
        _ if ty.ends_with("x2") => {
            // Packed: both halves as the scalar form does them.
            let half = form.trim_end_matches("x2");
            let r = [0, 16].map(|s| {
                let w: Vec<u64> = v.iter().map(|x| x >> s & 0xffff).collect();
                reference(half, &w)[0]
            });
            match r {
                [Bits(a), Bits(b)] => one(a | b << 16),
                [a, b] => [a, b],
            }
        }
        _ if float(&ty).is_some() => [arithmetic(&parts, float(&ty).unwrap(), v), Bits(0)],
        _ => integer(&parts, &ty, &t, v),
    }
}

fn compare(rel: &str, ty: &str, a: u64, b: u64, ftz: bool) -> bool {
    let (order, nan) = match float(ty) {
        None => (int(ty, a).cmp(&int(ty, b)), false),
        Some(f) => {
            let (a, b) = if ftz { (f.flush(a), f.flush(b)) } else { (a, b) };
            // Sign and magnitude order floats; both zeros are equal.
            let key = |x: u64| {
                if f.is_zero(x) { 0 } else { i128::from(x & (f.sign() - 1)) * if f.negative(x) { -1 } else { 1 } }
            };
            (key(a).cmp(&key(b)), f.is_nan(a) || f.is_nan(b))
        }
    };
    match rel {
        "num" => return !nan,
        "nan" => return nan,
        _ => {}
    }
    if nan {
        return rel.len() == 3;
    }
    match &rel[..2] {
        "eq" => order.is_eq(),
        "ne" => order.is_ne(),
        "lt" | "lo" => order.is_lt(),
        "le" | "ls" => order.is_le(),
        "gt" | "hi" => order.is_gt(),
        _ => order.is_ge(),
    }
}

fn integer(parts: &[&str], ty: &str, t: &[String], v: &[u64]) -> [Want; 2] {
    let has = |p: &str| parts.contains(&p);
    let one = |w: i128, ty: &str| [Bits(cut(ty, w)), Bits(0)];
    let n = bits(ty);
    let a = int(ty, v[0]);
    let b = v.get(1).map_or(0, |&x| int(ty, x));
    let c = v.get(2).map_or(0, |&x| int(ty, x));
    let clamp = |w: i128| w.clamp(limits(ty).0, limits(ty).1);
    // The carry that the prelude of a probe leaves: the highest bit of the last operand.
    let carry = i128::from(v.last().copied().unwrap_or(0) >> (n - 1) & 1);
    let plain = |x: u64| i128::from(x & mask(n));
    match parts[0] {
        "add" | "addc" if has("cc") || parts[0] == "addc" => {
            let sum = plain(v[0]) + plain(v[1]) + if parts[0] == "addc" { carry } else { 0 };
            [Bits(cut(ty, sum)), Bits(if has("cc") { (sum >> n) as u64 } else { 0 })]
        }
        "sub" | "subc" if has("cc") || parts[0] == "subc" => {
            // The flag is the carry of adding the complement: set where nothing is borrowed.
            let d = plain(v[0]) - plain(v[1]) - if parts[0] == "subc" { 1 - carry } else { 0 };
            [Bits(cut(ty, d)), Bits(u64::from(has("cc") && d >= 0))]
        }
        "mad" | "madc" if has("cc") || parts[0] == "madc" => {
            let p = a.wrapping_mul(b);
            let part = if has("hi") { if signed(ty) { p >> n } else { ((p as u128) >> n) as i128 } } else { p };
            let sum = i128::from(cut(ty, part)) + plain(v[2]) + if parts[0] == "madc" { carry } else { 0 };
            [Bits(cut(ty, sum)), Bits(if has("cc") { (sum >> n) as u64 } else { 0 })]
        }
        "add" => one(if has("sat") { clamp(a + b) } else { a + b }, ty),
        "sub" => one(if has("sat") { clamp(a - b) } else { a - b }, ty),
        "mul" | "mad" => {
            let p = a.wrapping_mul(b);
            if has("wide") {
                let double = format!("{}{}", &ty[..1], 2 * n);
                let c = v.get(2).map_or(0, |&x| int(&double, x));
                return one(p + c, &double);
            }
            // The product of two u64 does not fit i128: its upper half is taken unsigned.
            let part = match (has("hi"), signed(ty)) {
                (false, _) => i128::from(cut(ty, p)),
                (true, true) => p >> n,
                (true, false) => ((p as u128) >> n) as i128,
            };
            one(if has("sat") { clamp(part + c) } else { part + c }, ty)
        }
        "mul24" | "mad24" => {
            let t24 = |x: u64| int(if signed(ty) { "s64" } else { "u64" }, x << 40) >> 40;
            let p = t24(v[0]) * t24(v[1]);
            let part = if has("hi") { p >> 16 } else { p };
            let part = int(ty, part as u64);
            one(if has("sat") { clamp(part + c) } else { part + c }, ty)
        }
        "sad" => one((a - b).abs() + c, ty),
        "div" | "rem" if b == 0 => [Open, Bits(0)],
        "div" => one(a / b, ty),
        "rem" => one(a % b, ty),
        "abs" => one(a.abs(), ty),
        "neg" => one(-a, ty),
        "min" => one(a.min(b), ty),
        "max" => one(a.max(b), ty),
        "popc" => one((0..n).filter(|i| v[0] >> i & 1 == 1).count() as i128, "u32"),
        "clz" => one((0..n).take_while(|i| v[0] >> (n - 1 - i) & 1 == 0).count() as i128, "u32"),
        "bfind" => {
            let x = if a < 0 { !v[0] & mask(n) } else { v[0] };
            let d = (0..n as i128).rev().find(|i| x >> i & 1 == 1).unwrap_or(-1);
            one(if has("shiftamt") && d != -1 { i128::from(n) - 1 - d } else { d }, "u32")
        }
        "fns" => {
            let (m, base, offset) = (v[0], int("b32", v[1]), int("s32", v[2]));
            if base > 31 {
                return [Open, Bits(0)];
            }
            let found = if offset == 0 {
                (m >> base & 1 == 1).then_some(base)
            } else {
                let mut at: Vec<i128> = (0..32).filter(|i| m >> i & 1 == 1).collect();
                if offset < 0 {
                    at.reverse();
                }
                at.retain(|&i| if offset > 0 { i >= base } else { i <= base });
                at.get(offset.unsigned_abs() as usize - 1).copied()
            };
            one(found.unwrap_or(0xffff_ffff), "u32")
        }
        "brev" => one((0..n).fold(0, |d, i| d | i128::from(v[0] >> i & 1) << (n - 1 - i)), ty),
        "bfe" => {
            let (p, len, msb) = (v[1] & 0xff, v[2] & 0xff, u64::from(n - 1));
            let sign = if signed(ty) && len > 0 { v[0] >> (p + len - 1).min(msb) & 1 } else { 0 };
            let bit = |i: u64| if i < len && p + i <= msb { v[0] >> (p + i) & 1 } else { sign };
            one((0..=msb).fold(0, |d, i| d | i128::from(bit(i)) << i), ty)
        }
        "bfi" => {
            let (p, len) = (v[2] & 0xff, v[3] & 0xff);
            let mut f = v[1];
            for i in 0..len {
                if p + i < u64::from(n) {
                    f = (f & !(1 << (p + i))) | (v[0] >> i & 1) << (p + i);
                }
            }
            one(i128::from(f), ty)
        }
        "szext" => {
            let len = if has("clamp") { v[1].min(32) } else { v[1] & 31 };
            let field = v[0] & mask(len as u32);
            let sign = signed(ty) && len > 0 && field >> (len - 1) & 1 == 1;
            one(i128::from(if sign { field | !mask(len as u32) } else { field }), ty)
        }
        "bmsk" => {
            let f = |x: u64| if has("clamp") { x.min(32) } else { x & 31 };
            one((0..32).filter(|&i| i >= f(v[0]) && i < f(v[0]) + f(v[1])).fold(0, |d, i| d | 1 << i), ty)
        }
        "dp4a" => {
            let byte = |x: u64, i: u32, t: &str| int(if signed(t) { "s8" } else { "u8" }, x >> (8 * i));
            one((0..4).map(|i| byte(v[0], i, &t[0]) * byte(v[1], i, &t[1])).sum::<i128>() + i128::from(v[2]), "u32")
        }
        "dp2a" => {
            let first = if has("hi") { 2 } else { 0 };
            let half = |i: u32| int(if signed(&t[0]) { "s16" } else { "u16" }, v[0] >> (16 * i));
            let byte = |i: u32| int(if signed(&t[1]) { "s8" } else { "u8" }, v[1] >> (8 * (first + i)));
            one((0..2).map(|i| half(i) * byte(i)).sum::<i128>() + i128::from(v[2]), "u32")
        }
        "vabsdiff2" | "vabsdiff4" => {
            let width = if parts[0] == "vabsdiff2" { 16 } else { 8 };
            let part = |i: u32| ((v[0] >> i & mask(width)) as i64).abs_diff((v[1] >> i & mask(width)) as i64);
            let all = (0..32).step_by(width as usize);
            let r = if has("add") { all.map(part).sum::<u64>() + v[2] } else { all.fold(0, |d, i| d | part(i) << i) };
            one(i128::from(r), ty)
        }
        "cnot" => one(i128::from(v[0] & mask(n) == 0), ty),
        // The table 0x96 is the exclusive or of all three.
        "lop3" => one(i128::from(v[0] ^ v[1] ^ v[2]), ty),
        "shl" => one(if v[1] >= u64::from(n) { 0 } else { i128::from(v[0]) << v[1] }, ty),
        "shr" => one(a >> v[1].min(100), ty),
        "shf" => {
            let both = v[1] << 32 | v[0];
            let by = if has("wrap") { v[2] & 31 } else { v[2].min(32) };
            let r = if has("l") { (both << by) >> 32 } else { both >> by };
            one(i128::from(r), "b32")
        }
        "prmt" => {
            let bytes: Vec<u64> = (0..8).map(|i| (v[1] << 32 | v[0]) >> (8 * i) & 0xff).collect();
            let k = v[2] & 3;
            let at = |i: u64| match parts.get(2) {
                None => bytes[(v[2] >> (4 * i) & 7) as usize],
                Some(&"f4e") => bytes[(k + i) as usize],
                Some(&"b4e") => bytes[((8 + k - i) % 8) as usize],
                Some(&"rc8") => bytes[k as usize],
                Some(&"ecl") => bytes[i.max(k) as usize],
                Some(&"ecr") => bytes[i.min(k) as usize],
                _ => bytes[(2 * (k & 1) + (i & 1)) as usize],
            };
            let r = (0..4).fold(0, |d, i| {
                let x = at(i);
                let replicate = parts.len() == 2 && v[2] >> (4 * i + 3) & 1 == 1;
                d | i128::from(if replicate { if x & 0x80 != 0 { 0xff } else { 0 } } else { x }) << (8 * i)
            });
            one(r, ty)
        }
        other => panic!("no reference for {other}"),
    }
}

/// Operations on one floating-point format.
fn arithmetic(parts: &[&str], f: Format, v: &[u64]) -> Want {
    let has = |p: &str| parts.contains(&p);
    let mode = MODES.iter().find(|m| has(m.0)).map_or(Mode::Near, |m| m.1);
    let ftz = has("ftz");
    let v: Vec<u64> = v.iter().map(|&x| if ftz && f != F64 { f.flush(x) } else { x }).collect();
    let x = v[0];
    let y = v.get(1).copied().unwrap_or(0);
    let nan = v.iter().any(|&x| f.is_nan(x));
    let finish = |r: u64| {
        let r = if ftz { f.flush(r) } else { r };
        if has("sat") {
            // Into [0, 1]; NaN and everything negative become +0.
            if f.is_nan(r) || f.negative(r) {
                return Bits(0);
            }
            return Bits(r.min(f.one()));
        }
        if has("relu") && f.negative(r) && !f.is_nan(r) {
            return Bits(0);
        }
        Bits(r)
    };
    let zero = |negative: bool| if negative { f.sign() } else { 0 };
    match parts[0] {
        "neg" => return Bits(x ^ f.sign()).nan(f, x, ftz),
        "abs" => return Bits(x & !f.sign()).nan(f, x, ftz),
        "copysign" => return Bits((y & !f.sign()) | (x & f.sign())),
        "min" | "max" => {
            let (mut a, mut b) = (x, y);
            let sign = (a ^ b) & f.sign();
            if has("xorsign") {
                (a, b) = (a & !f.sign(), b & !f.sign());
            }
            let r = match (f.is_nan(a), f.is_nan(b)) {
                (true, true) => f.nan(),
                (true, _) | (_, true) if has("NaN") => f.nan(),
                (true, false) => b,
                (false, true) => a,
                _ => {
                    // -0 is below +0.
                    let key = |v: u64| if f.negative(v) { -1 - i128::from(v & !f.sign()) } else { i128::from(v) };
                    if (key(a) < key(b)) == (parts[0] == "min") { a } else { b }
                }
            };
            let r = if has("xorsign") && !f.is_nan(r) { (r & !f.sign()) | sign } else { r };
            return Bits(r);
        }
        _ => {}
    }
    if has("approx") || has("full") {
        return approximate(parts, f, x, y);
    }
    if nan {
        return finish(f.nan());
    }
    match parts[0] {
        "add" | "sub" => {
            let y = if parts[0] == "sub" { y ^ f.sign() } else { y };
            sum(f, mode, Term::Number(x), y, finish)
        }
        "fma" | "mad" => sum(f, mode, Term::Product(x, y), v[2], finish),
        "mul" => {
            let negative = f.negative(x) != f.negative(y);
            if (f.is_inf(x) && f.is_zero(y)) || (f.is_zero(x) && f.is_inf(y)) {
                return finish(f.nan());
            }
            if f.is_inf(x) || f.is_inf(y) {
                return finish(f.infinity() | zero(negative));
            }
            finish(Exact::product(f, x, y).round(f, mode) | zero(negative))
        }
        "div" | "rcp" => {
            let (x, y) = if parts[0] == "rcp" { (f.one(), x) } else { (x, y) };
            let negative = f.negative(x) != f.negative(y);
            if (f.is_inf(x) && f.is_inf(y)) || (f.is_zero(x) && f.is_zero(y)) {
                return finish(f.nan());
            }
            if f.is_inf(x) || f.is_zero(y) {
                return finish(f.infinity() | zero(negative));
            }
            if f.is_inf(y) || f.is_zero(x) {
                return finish(zero(negative));
            }
            finish(Exact::quotient(f, x, y).round(f, mode) | zero(negative))
        }
        "sqrt" => {
            if f.is_zero(x) {
                return finish(x);
            }
            if f.negative(x) {
                return finish(f.nan());
            }
            if f.is_inf(x) {
                return finish(x);
            }
            finish(Exact::root(f, x).round(f, mode))
        }
        other => panic!("no reference for {other}"),
    }
}

impl Want {
    /// `neg` and `abs` of a NaN give some NaN; of a subnormal with `.ftz`, a zero.
    fn nan(self, f: Format, x: u64, ftz: bool) -> Want {
        match self {
            Bits(_) if f.is_nan(x) => Near(f, f64::NAN, 0.0, 0.0),
            Bits(r) if ftz => Bits(f.flush(r)),
            w => w,
        }
    }
}

enum Term {
    Number(u64),
    Product(u64, u64),
}

/// A term plus a number, rounded once.
fn sum(f: Format, mode: Mode, term: Term, c: u64, finish: impl Fn(u64) -> Want) -> Want {
    let (inf, nan, negative) = match term {
        Term::Number(a) => (f.is_inf(a), false, f.negative(a)),
        Term::Product(a, b) => (
            f.is_inf(a) || f.is_inf(b),
            (f.is_inf(a) && f.is_zero(b)) || (f.is_zero(a) && f.is_inf(b)),
            f.negative(a) != f.negative(b),
        ),
    };
    let sign = |n: bool| if n { f.sign() } else { 0 };
    if nan || (inf && f.is_inf(c) && negative != f.negative(c)) {
        return finish(f.nan());
    }
    if inf {
        return finish(f.infinity() | sign(negative));
    }
    if f.is_inf(c) {
        return finish(c);
    }
    let a = match term {
        Term::Number(a) => Exact::of(f, a),
        Term::Product(a, b) => Exact::product(f, a, b),
    };
    let total = a.add(&Exact::of(f, c));
    if total.is_zero() {
        // Equal signs keep their sign; otherwise an exact zero is negative only when rounding down.
        let r = if negative == f.negative(c) { sign(negative) } else { sign(mode == Mode::Down) };
        return finish(r);
    }
    finish(total.round(f, mode))
}

/// Error bounds of the ISA, against the functions of the host.
fn approximate(parts: &[&str], f: Format, x: u64, y: u64) -> Want {
    let (a, b) = (f.to_f64(x), f.to_f64(y));
    let ulp = 2f64.powi(-(f.mant as i32));
    if f == F64 {
        // Only the upper halves count; the lower half of the result is zero.
        let gross = parts.contains(&"ftz");
        let a = if gross { f.to_f64(F64.flush(x & !0xffff_ffff)) } else { a };
        let r = if parts[0] == "rcp" { 1.0 / a } else { 1.0 / a.sqrt() };
        if gross && r.is_subnormal() {
            return Bits((0f64.copysign(r)).to_bits());
        }
        return Near(f, r, if gross { 2f64.powi(-20) } else { 2f64.powi(-50) }, 0.0);
    }
    // Subnormal results may be anything up to the smallest normal number where `.ftz` flushes them.
    let flushed = if parts.contains(&"ftz") { 2f64.powi(1 - ((1 << (f.exp - 1)) - 1)) } else { 2f64.powi(-149) };
    match parts[0] {
        "div" => {
            // Divisors between 2^126 and 2^128 may give 0 (NaN for an infinite dividend).
            if b.abs() > 2f64.powi(126) && b.is_finite() { Open } else { Near(f, a / b, 2.0 * ulp, flushed) }
        }
        "rcp" => Near(f, 1.0 / a, ulp, flushed),
        "sqrt" => Near(f, a.sqrt(), ulp, flushed),
        "rsqrt" => Near(f, 1.0 / a.sqrt(), 2f64.powf(-22.9), flushed),
        "sin" | "cos" if a.abs() > 314.0 && a.is_finite() => Open,
        "sin" => Near(f, a.sin(), 0.0, if a.abs() < 6.29 { 2f64.powf(-20.5) } else { 2f64.powf(-14.7) }),
        "cos" => Near(f, a.cos(), 0.0, if a.abs() < 6.29 { 2f64.powf(-20.5) } else { 2f64.powf(-14.7) }),
        "lg2" => Near(f, a.log2(), 2f64.powi(-22), 2f64.powi(-22)),
        "ex2" if f == F16 => Near(f, a.exp2(), 2f64.powf(-9.9), 2f64.powi(-24)),
        "ex2" if f == BF16 => Near(f, a.exp2(), 2f64.powi(-7), flushed),
        "ex2" => Near(f, a.exp2(), 2f64.powi(-22), flushed),
        "tanh" if f == F16 => Near(f, a.tanh(), 2f64.powf(-10.987), 2f64.powi(-24)),
        "tanh" if f == BF16 => Near(f, a.tanh(), 2f64.powi(-8), flushed),
        "tanh" => Near(f, a.tanh(), 2f64.powi(-11), flushed),
        other => panic!("no bound for {other}"),
    }
}

/// `cvt`.
fn convert(parts: &[&str], t: &[String], v: &[u64]) -> Want {
    let has = |p: &str| parts.contains(&p);
    let mode = MODES.iter().find(|m| has(m.0)).map_or(Mode::Near, |m| m.1);
    let whole = [("rni", Mode::Near), ("rzi", Mode::Zero), ("rmi", Mode::Down), ("rpi", Mode::Up)];
    let whole = whole.iter().find(|m| has(m.0)).map(|m| m.1);
    if has("pack") {
        let n: u32 = parts[3][1..].parse().unwrap();
        let (low, high) = if signed(parts[3]) { (-(1 << (n - 1)), (1 << (n - 1)) - 1) } else { (0, (1 << n) - 1) };
        let part = |x: u64| int("s32", x).clamp(low, high) as u64 & mask(n);
        let rest = v.get(2).map_or(0, |c| c << (2 * n));
        return Bits((part(v[0]) << n | part(v[1]) | rest) & mask(32));
    }
    if has("tf32") {
        let x = v[0];
        let mode = if has("rna") { Mode::Away } else { mode };
        return match () {
            _ if F32.is_nan(x) => Near(F32, f64::NAN, 0.0, 0.0),
            _ if has("relu") && F32.negative(x) => Bits(0),
            _ if F32.is_inf(x) => Bits(x),
            // 13 bits fewer.
            _ => Bits(Exact::of(F32, x).round(Format { exp: 8, mant: 10 }, mode) << 13 | (x & F32.sign())),
        };
    }
    if t[0].ends_with("x2") {
        let half = t[0].replace("x2", "");
        let part = |x: u64| convert(parts, &[half.clone(), "f32".to_string()], &[x]);
        return match (part(v[0]), part(v[1])) {
            // The first source is the upper half.
            (Bits(a), Bits(b)) => Bits(a << 16 | b),
            _ => Open,
        };
    }
    let (to, from) = (&t[0][..], &t[1][..]);
    match (float(to), float(from)) {
        (None, None) => {
            let x = int(from, v[0]);
            Bits(if has("sat") { cut(to, x.clamp(limits(to).0, limits(to).1)) } else { cut(to, x) })
        }
        (Some(f), None) => {
            let r = Exact::int(int(from, v[0])).round(f, mode);
            Bits(match has("sat") {
                true if f.negative(r) => 0,
                true => r.min(f.one()),
                false => r,
            })
        }
        (None, Some(g)) => {
            let x = if has("ftz") { g.flush(v[0]) } else { v[0] };
            let (low, high) = limits(to);
            if g.is_nan(x) {
                let zero = from != "f64" && bits(to) != 64;
                return Bits(if zero { 0 } else { 1 << (bits(to) - 1) });
            }
            if g.is_inf(x) {
                return Bits(cut(to, if g.negative(x) { low } else { high }));
            }
            Bits(cut(to, Exact::of(g, x).to_int(whole.unwrap_or(Mode::Zero)).clamp(low, high)))
        }
        (Some(f), Some(g)) => {
            let x = if has("ftz") && g == F32 { g.flush(v[0]) } else { v[0] };
            let sign = if g.negative(x) { f.sign() } else { 0 };
            let finish = |r: u64| {
                let r = if has("ftz") && f == F32 { f.flush(r) } else { r };
                if has("sat") {
                    return Bits(if f.is_nan(r) || f.negative(r) { 0 } else { r.min(f.one()) });
                }
                Bits(if has("relu") && f.negative(r) && !f.is_nan(r) { 0 } else { r })
            };
            if g.is_nan(x) {
                return finish(f.nan());
            }
            if g.is_inf(x) {
                return finish(f.infinity() | sign);
            }
            // Beyond 2^60 every number is whole.
            if let Some(mode) = whole
                && g.to_f64(x).abs() < 2f64.powi(60)
            {
                return finish(Exact::int(Exact::of(g, x).to_int(mode)).round(f, Mode::Near) | sign);
            }
            finish(Exact::of(g, x).round(f, mode) | sign)
        }
    }
}

/// Whether a result is what the reference wants.
fn agrees(want: Want, got: u64) -> bool {
    match want {
        Open => true,
        Bits(w) => w == got,
        Near(f, w, relative, absolute) => {
            let g = f.to_f64(got);
            if w.is_nan() || g.is_nan() {
                return w.is_nan() && g.is_nan();
            }
            // Overflow of the format counts as infinity.
            let max = f.to_f64(f.infinity() - 1);
            if w.abs() > max {
                return g == w.signum() * f64::INFINITY
                    || (g.abs() >= max * (1.0 - relative) && g.signum() == w.signum());
            }
            // Half a unit in the last place comes on top where the bound is that of an exact function's rounding.
            (g - w).abs() <= w.abs() * relative + absolute + w.abs() * 2f64.powi(-(f.mant as i32) - 1)
        }
    }
}

fn register(ty: &str, i: usize) -> String {
    let class = match bits(ty) {
        1 => 'p',
        64 => 'q',
        16 => 'h',
        _ => 'r',
    };
    format!("%{class}{i}")
}

/// The text of a probe: sources in registers 1 to 4, the result in 5, a second result in 6.
fn kernel(name: &str, form: &str, s: &Signature) -> String {
    let parts: Vec<&str> = form.split('.').collect();
    let mut text = format!(
        ".visible .entry {name}(.param .u64 pin, .param .u64 pout)\n{{\n\
         .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<8>; .reg .b32 %t<4>; .reg .b64 %q<8>; .reg .b64 %a<8>;\n\
         ld.param.u64 %a1, [pin]; ld.param.u64 %a2, [pout];\n\
         mov.u32 %t1, %tid.x; mov.u32 %t2, %ctaid.x; mov.u32 %t3, %ntid.x; mad.lo.u32 %t1, %t2, %t3, %t1;\n\
         mad.wide.u32 %a3, %t1, 32, %a1; mad.wide.u32 %a4, %t1, 16, %a2; mov.u64 %a5, 0; mov.u64 %a6, 0;\n"
    );
    let mut sources = Vec::new();
    for (i, ty) in s.src.iter().enumerate() {
        let (at, n) = (8 * i, i + 1);
        let reg = register(ty, n);
        let _ = match &reg[..2] {
            "%q" => writeln!(text, "ld.global.u64 {reg}, [%a3+{at}];"),
            "%r" => writeln!(text, "ld.global.u32 {reg}, [%a3+{at}];"),
            "%h" => writeln!(text, "ld.global.u16 {reg}, [%a3+{at}];"),
            _ => writeln!(text, "ld.global.u32 %r{n}, [%a3+{at}]; setp.ne.u32 {reg}, %r{n}, 0;"),
        };
        sources.push(reg);
    }
    let dst = register(&s.dst, 5);
    let chain = matches!(parts[0], "addc" | "subc" | "madc");
    let last = sources.last().cloned().unwrap_or_default();
    let ty = types(&parts).last().cloned().unwrap_or_default();
    if chain {
        // Doubling the last source sets the carry to its highest bit.
        let _ = writeln!(text, "add.cc.u{0} {1}, {last}, {last};", bits(&ty), register(&ty, 7));
    }
    let second = parts[0] == "setp" && !matches!(&ty[..], "f16" | "bf16");
    let target = if second { format!("{dst}|%p6") } else { dst.clone() };
    let _ = writeln!(text, "{form} {target}, {}{};", sources.join(", "), s.extra);
    if parts.contains(&"cc") {
        let r = register(&ty, 6);
        let _ = writeln!(text, "addc.u{} {r}, 0, 0;", bits(&ty));
        let _ =
            if bits(&ty) == 64 { writeln!(text, "mov.u64 %a6, {r};") } else { writeln!(text, "cvt.u64.u32 %a6, {r};") };
    }
    if second {
        text.push_str("selp.u64 %a6, 1, 0, %p6;\n");
    }
    let _ = match &dst[..2] {
        "%q" => writeln!(text, "mov.u64 %a5, {dst};"),
        "%r" => writeln!(text, "cvt.u64.u32 %a5, {dst};"),
        "%h" => writeln!(text, "cvt.u64.u16 %a5, {dst};"),
        _ => writeln!(text, "selp.u64 %a5, 1, 0, {dst};"),
    };
    text.push_str("st.global.u64 [%a4], %a5; st.global.u64 [%a4+8], %a6;\nret;\n}\n");
    text
}

/// Runs one batch of forms at a host level; returns what went wrong.
fn batch(list: &[(&'static str, u32)], level: Level) -> Vec<String> {
    let target = list[0].1;
    let mut text = format!(".version 8.6\n.target sm_{target}\n.address_size 64\n");
    for (i, (form, _)) in list.iter().enumerate() {
        text += &kernel(&format!("probe_{i}"), form, &signature(form).unwrap());
    }
    let mut wrong = assemble(&text, target, list[0].0);
    let rig = Rig::at_level(&text, level);
    for (i, (form, _)) in list.iter().enumerate() {
        let s = signature(form).unwrap();
        let mut cases: Vec<Vec<u64>> = vec![vec![]];
        for (j, ty) in s.src.iter().enumerate() {
            let values = edges(ty, j);
            cases = cases.iter().flat_map(|c| values.iter().map(move |v| [&c[..], &[*v]].concat())).collect();
        }
        let n = cases.len().next_multiple_of(64);
        let mut flat = vec![0u64; 4 * n];
        for (k, c) in cases.iter().enumerate() {
            flat[4 * k..4 * k + c.len()].copy_from_slice(c);
        }
        let (pin, pout) = (rig.put(&flat), rig.empty::<u64>(2 * n));
        let name = format!("probe_{i}");
        rig.clean(&name, (n / 64) as u32, 64, &[Arg::Ptr(pin), Arg::Ptr(pout)]);
        let got = rig.get::<u64>(pout, 2 * n);
        // A signed result narrower than its register is sign-extended, others are cut.
        let narrow = matches!(bits(&s.dst), 8) && s.dst != "pred";
        let bad = cases.iter().enumerate().find(|(k, c)| {
            let want = reference(form, c);
            let mut w0 = want[0];
            if narrow && let Bits(b) = w0 {
                w0 = Bits(cut("u32", int(&s.dst, b)));
            }
            let packed = s.dst.ends_with("x2") && !matches!(want, [Bits(_), Bits(_)]);
            let first = if packed {
                // Approximate halves are judged one by one.
                agrees(want[0], got[2 * k] & 0xffff) && agrees(want[1], got[2 * k] >> 16)
            } else {
                agrees(w0, got[2 * k])
            };
            !(first && (packed || agrees(want[1], got[2 * k + 1])))
        });
        if let Some((k, c)) = bad {
            let want = reference(form, c);
            wrong.push(format!("{form} of {c:x?}: got {:#x} and {:#x}, want {want:x?}", got[2 * k], got[2 * k + 1]));
        }
        for p in [pin, pout] {
            rig.device.arena.free(p, "cuMemFree").unwrap();
        }
    }
    wrong
}

/// Where ptxas is at hand (`PTXAS` names it) it must accept the text: a form that it refuses does not exist. Returns
/// what it refused.
pub fn assemble(text: &str, target: u32, name: &str) -> Vec<String> {
    let Ok(ptxas) = std::env::var("PTXAS") else { return Vec::new() };
    let name = format!("warpsmith-probe-{}-{}.ptx", std::process::id(), name.replace([':', '.'], "_"));
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    let out = std::process::Command::new(ptxas)
        .args([&format!("-arch=sm_{target}"), "-O0", "-o", "/dev/null"])
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let refused: Vec<String> = said
        .lines()
        .filter_map(|l| {
            let (_, after) = l.split_once(", line ")?;
            let n: usize = after.split(';').next()?.parse().ok()?;
            Some(format!("ptxas refuses `{}`: {after}", lines.get(n - 1)?))
        })
        .collect();
    assert!(out.status.success() || !refused.is_empty(), "{said}");
    refused
}

#[test]
fn every_form_that_computes_has_a_probe_and_passes_it() {
    let list: Vec<(&'static str, u32)> = forms::all().filter(|f| signature(f.0).is_some()).collect();
    assert!(list.len() > 2000, "{} forms", list.len());
    let mut batches: Vec<Vec<(&'static str, u32)>> = Vec::new();
    for target in [80, 86, 90] {
        let part: Vec<_> = list.iter().filter(|f| f.1 == target).copied().collect();
        batches.extend(part.chunks(100).map(<[_]>::to_vec));
    }
    let wrong: Vec<String> = std::thread::scope(|s| {
        let halves: Vec<_> = (0..2)
            .map(|k| {
                let mine: Vec<_> = batches.iter().skip(k).step_by(2).collect();
                s.spawn(move || mine.into_iter().flat_map(|b| batch(b, Level::detect())).collect::<Vec<_>>())
            })
            .collect();
        halves.into_iter().flat_map(|h| h.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} forms fail:\n{}", wrong.len(), wrong.join("\n"));
}

/// The vector levels share one source; a sample of every operation runs on each.
#[test]
fn the_levels_of_the_host_agree() {
    for level in [Level::Base, Level::Avx2] {
        if level == Level::Avx2 && Level::detect() == Level::Base {
            continue;
        }
        let list: Vec<(&'static str, u32)> =
            forms::all().filter(|f| f.1 == 80 && signature(f.0).is_some()).step_by(13).collect();
        let wrong: Vec<String> = list.chunks(100).flat_map(|b| batch(b, level)).collect();
        assert!(wrong.is_empty(), "{level:?}:\n{}", wrong.join("\n"));
    }
}

/// Forms that no automatic probe reaches, with their targets.
pub fn others() -> BTreeSet<(&'static str, u32)> {
    forms::all().filter(|f| signature(f.0).is_none()).collect()
}
