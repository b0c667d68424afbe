//! One probe per instruction form: the instruction runs on every combination of awkward operands and is compared with a
//! host reference written from the ISA text, without a line of the engine.

use crate::rig::{Arg, Rig};

/// Operands: the three lists are combined in all ways.
struct Operands {
    a: Vec<u64>,
    b: Vec<u64>,
    c: Vec<u64>,
}

fn ints() -> Operands {
    let v = vec![
        0,
        1,
        2,
        31,
        32,
        33,
        0x7fff,
        0x8000,
        0xffff,
        0x12345678,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x8000_0000_0000_0000,
        0xffff_ffff_ffff_ffff,
        0x0123_4567_89ab_cdef,
    ];
    Operands { a: v.clone(), b: v.clone(), c: v }
}

fn floats() -> Operands {
    let v: Vec<u64> = [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        1.5,
        3.0000002,
        0.1,
        -2.5,
        16777217.0,
        3.0e38,
        -3.0e38,
        1.1754944e-38,
        1e-40,
        -1e-42,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ]
    .iter()
    .map(|v| u64::from(v.to_bits()))
    .collect();
    Operands { a: v.clone(), b: v.clone(), c: v[..9].to_vec() }
}

fn doubles() -> Operands {
    let v: Vec<u64> = [0.0f64, -0.0, 1.0, -1.5, 0.1, 1e300, -1e300, 1e-310, 2.5, 4294967295.5, f64::INFINITY, f64::NAN]
        .iter()
        .map(|v| v.to_bits())
        .collect();
    Operands { a: v.clone(), b: v.clone(), c: v }
}

fn halves() -> Operands {
    let v =
        vec![0, 0x8000, 0x3c00, 0xbc00, 0x3555, 0x7bff, 0xfbff, 0x0001, 0x83ff, 0x0400, 0x7c00, 0xfc00, 0x7e00, 0x4248];
    Operands { a: v.clone(), b: v.clone(), c: v[..8].to_vec() }
}

/// Registers of a probe: `%ra %rb %rc %rd` (32 bits), `%qa…` (64 bits), `%ha…` (16 bits), `%p0`; the result is the one
/// named by `out`.
fn run(body: &str, out: &str, operands: &Operands) -> Vec<([u64; 3], u64)> {
    let widen = match &out[..2] {
        "%q" => format!("mov.b64 %qo, {out};"),
        "%r" => format!("cvt.u64.u32 %qo, {out};"),
        _ => format!("cvt.u64.u16 %qo, {out};"),
    };
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry probe(.param .u64 pin, .param .u64 pout)\n{{\n\
         .reg .pred %p<4>; .reg .b16 %h<3>, %ha, %hb, %hc, %hd; .reg .b32 %r<9>, %ra, %rb, %rc, %rd;\n\
         .reg .b64 %q<9>, %qa, %qb, %qc, %qd, %qo;\n\
         ld.param.u64 %q1, [pin]; ld.param.u64 %q2, [pout];\n\
         mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.u32 %r1, %r2, %r3, %r1;\n\
         mad.wide.u32 %q3, %r1, 24, %q1; mad.wide.u32 %q4, %r1, 8, %q2;\n\
         ld.global.u64 %qa, [%q3]; ld.global.u64 %qb, [%q3+8]; ld.global.u64 %qc, [%q3+16];\n\
         cvt.u32.u64 %ra, %qa; cvt.u32.u64 %rb, %qb; cvt.u32.u64 %rc, %qc;\n\
         cvt.u16.u64 %ha, %qa; cvt.u16.u64 %hb, %qb; cvt.u16.u64 %hc, %qc;\n\
         mov.u32 %rd, 0; mov.u64 %qd, 0; mov.u16 %hd, 0;\n\
         {body}\n{widen}\nst.global.u64 [%q4], %qo;\nret;\n}}\n"
    );
    let rig = Rig::new(&ptx);
    let mut cases = Vec::new();
    for &a in &operands.a {
        for &b in &operands.b {
            for &c in &operands.c {
                cases.push([a, b, c]);
            }
        }
    }
    let n = cases.len().next_multiple_of(64);
    let mut flat: Vec<u64> = cases.concat();
    flat.resize(3 * n, 0);
    let (pin, pout) = (rig.put(&flat), rig.empty::<u64>(n));
    rig.clean("probe", (n / 64) as u32, 64, &[Arg::Ptr(pin), Arg::Ptr(pout)]);
    cases.into_iter().zip(rig.get::<u64>(pout, n)).collect()
}

#[track_caller]
fn probe(body: &str, out: &str, operands: &Operands, want: impl Fn(u64, u64, u64) -> u64) {
    for ([a, b, c], got) in run(body, out, operands) {
        let w = want(a, b, c);
        assert_eq!(got, w, "{body} of {a:#x}, {b:#x}, {c:#x}: got {got:#x}, want {w:#x}");
    }
}

fn s(v: u64) -> i32 {
    v as u32 as i32
}

fn u(v: u64) -> u32 {
    v as u32
}

#[test]
fn integer_arithmetic() {
    let o = ints();
    probe("add.s32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from(u(a).wrapping_add(u(b))));
    probe("add.sat.s32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from(s(a).saturating_add(s(b)) as u32));
    probe("sub.sat.s32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from(s(a).saturating_sub(s(b)) as u32));
    probe("sub.u64 %qd, %qa, %qb;", "%qd", &o, |a, b, _| a.wrapping_sub(b));
    probe("add.u16 %hd, %ha, %hb;", "%hd", &o, |a, b, _| u64::from((a as u16).wrapping_add(b as u16)));
    probe("mul.lo.s32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from(s(a).wrapping_mul(s(b)) as u32));
    probe("mul.hi.s32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| {
        u64::from(((i64::from(s(a)) * i64::from(s(b))) >> 32) as u32)
    });
    probe("mul.hi.u32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| (u64::from(u(a)) * u64::from(u(b))) >> 32);
    probe("mul.hi.u64 %qd, %qa, %qb;", "%qd", &o, |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    probe("mul.hi.s64 %qd, %qa, %qb;", "%qd", &o, |a, b, _| {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    });
    probe("mul.wide.s32 %qd, %ra, %rb;", "%qd", &o, |a, b, _| (i64::from(s(a)) * i64::from(s(b))) as u64);
    probe("mul.wide.u16 %rd, %ha, %hb;", "%rd", &o, |a, b, _| u64::from(a as u16) * u64::from(b as u16));
    probe("mad.hi.sat.s32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        u64::from((((i64::from(s(a)) * i64::from(s(b))) >> 32) as i32).saturating_add(s(c)) as u32)
    });
    probe("mad.wide.u32 %qd, %ra, %rb, %qc;", "%qd", &o, |a, b, c| (u64::from(u(a)) * u64::from(u(b))).wrapping_add(c));
    probe("mul24.hi.u32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| ((a & 0xffffff) * (b & 0xffffff)) >> 16 & 0xffff_ffff);
    probe("mad24.lo.s32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        let t = |v: u64| i64::from((v as u32) << 8) << 32 >> 40;
        u64::from((t(a).wrapping_mul(t(b)) as u32).wrapping_add(u(c)))
    });
    probe("sad.s32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| u64::from(u(c).wrapping_add(s(a).abs_diff(s(b)))));
    probe("abs.s32 %rd, %ra;", "%rd", &o, |a, _, _| u64::from(s(a).wrapping_abs() as u32));
    probe("neg.s16 %hd, %ha;", "%hd", &o, |a, _, _| u64::from((a as i16).wrapping_neg() as u16));
    probe("min.s64 %qd, %qa, %qb;", "%qd", &o, |a, b, _| (a as i64).min(b as i64) as u64);
    probe("max.u32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from(u(a).max(u(b))));
    probe("min.s16 %hd, %ha, %hb;", "%hd", &o, |a, b, _| u64::from((a as i16).min(b as i16) as u16));
    // Division by zero is left open by the ISA.
    let nonzero = Operands {
        b: ints().b.into_iter().filter(|b| b & 0xffff != 0 || *b >> 32 != 0).filter(|b| u(*b) != 0).collect(),
        ..ints()
    };
    probe("div.s32 %rd, %ra, %rb;", "%rd", &nonzero, |a, b, _| u64::from(s(a).wrapping_div(s(b)) as u32));
    probe("rem.s32 %rd, %ra, %rb;", "%rd", &nonzero, |a, b, _| u64::from(s(a).wrapping_rem(s(b)) as u32));
    probe("div.u64 %qd, %qa, %qb;", "%qd", &nonzero, |a, b, _| a / b);
    probe("rem.u32 %rd, %ra, %rb;", "%rd", &nonzero, |a, b, _| u64::from(u(a) % u(b)));
}

#[test]
fn bits_and_shifts() {
    let o = ints();
    probe("popc.b64 %rd, %qa;", "%rd", &o, |a, _, _| u64::from(a.count_ones()));
    probe("clz.b32 %rd, %ra;", "%rd", &o, |a, _, _| (0..32).rev().position(|i| a >> i & 1 == 1).unwrap_or(32) as u64);
    probe("brev.b32 %rd, %ra;", "%rd", &o, |a, _, _| (0..32).fold(0, |v, i| v | (a >> i & 1) << (31 - i)));
    let find = |a: u64, bits: i32| (0..bits).rev().find(|i| a >> i & 1 == 1).unwrap_or(-1);
    probe("bfind.u32 %rd, %ra;", "%rd", &o, |a, _, _| u64::from(find(a, 32) as u32));
    probe("bfind.s32 %rd, %ra;", "%rd", &o, |a, _, _| {
        u64::from(find(if s(a) < 0 { u64::from(!u(a)) } else { a }, 32) as u32)
    });
    probe("bfind.shiftamt.u64 %rd, %qa;", "%rd", &o, |a, _, _| {
        let d = find(a, 64);
        u64::from(if d < 0 { u32::MAX } else { (63 - d) as u32 })
    });
    // The loops of the ISA text.
    let bfe = |a: u64, p: u64, n: u64, signed: bool| {
        let (p, n) = ((p & 0xff) as usize, (n & 0xff) as usize);
        let sign = if signed && n > 0 { a >> (p + n - 1).min(31) & 1 } else { 0 };
        (0..32).fold(0u64, |d, i| d | (if i < n && p + i <= 31 { a >> (p + i) & 1 } else { sign }) << i)
    };
    probe("bfe.u32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| bfe(a, b, c, false));
    probe("bfe.s32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| bfe(a, b, c, true));
    probe("bfi.b32 %rd, %ra, %rb, %rc, 5;", "%rd", &o, |a, b, c| {
        let p = (c & 0xff) as usize;
        (0..5).filter(|i| p + i <= 31).fold(b & 0xffff_ffff, |f, i| (f & !(1 << (p + i))) | (a >> i & 1) << (p + i))
    });
    probe("shl.b32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| if u(b) > 31 { 0 } else { u64::from(u(a) << u(b)) });
    probe("shr.s32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from((i64::from(s(a)) >> u(b).min(63)) as u32));
    probe("shr.u64 %qd, %qa, %rb;", "%qd", &o, |a, b, _| a.checked_shr(u(b)).unwrap_or(0));
    probe("shl.b16 %hd, %ha, %rb;", "%hd", &o, |a, b, _| if u(b) > 15 { 0 } else { u64::from((a as u16) << u(b)) });
    probe("shr.s16 %hd, %ha, %rb;", "%hd", &o, |a, b, _| u64::from((i32::from(a as i16) >> u(b).min(31)) as u16));
    let funnel = |a: u64, b: u64| u64::from(u(b)) << 32 | u64::from(u(a));
    probe("shf.l.wrap.b32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| (funnel(a, b) << (c & 31)) >> 32);
    probe("shf.l.clamp.b32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| (funnel(a, b) << u64::from(u(c)).min(32)) >> 32);
    probe("shf.r.wrap.b32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| (funnel(a, b) >> (c & 31)) & 0xffff_ffff);
    probe("lop3.b32 %rd, %ra, %rb, %rc, 0xca;", "%rd", &o, |a, b, c| u64::from((u(a) & u(b)) | (!u(a) & u(c))));
    probe("cnot.b32 %rd, %ra;", "%rd", &o, |a, _, _| u64::from(u(a) == 0));
    probe("not.b16 %hd, %ha;", "%hd", &o, |a, _, _| u64::from(!(a as u16)));
    let bytes = |a: u64, b: u64| {
        let mut v = [0u8; 8];
        v[..4].copy_from_slice(&u(a).to_le_bytes());
        v[4..].copy_from_slice(&u(b).to_le_bytes());
        v
    };
    probe("prmt.b32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        let v = bytes(a, b);
        (0..4).fold(0, |d, i| {
            let x = c >> (4 * i) & 15;
            let byte = v[(x & 7) as usize];
            let byte = if x & 8 == 0 {
                byte
            } else if byte & 0x80 != 0 {
                0xff
            } else {
                0
            };
            d | u64::from(byte) << (8 * i)
        })
    });
    probe("prmt.b32.f4e %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        (0..4).fold(0, |d, i| d | u64::from(bytes(a, b)[((c & 3) + i) as usize]) << (8 * i))
    });
    probe("prmt.b32.b4e %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        (0..4).fold(0, |d, i| d | u64::from(bytes(a, b)[((8 + (c & 3) - i) % 8) as usize]) << (8 * i))
    });
    probe("dp4a.s32.u32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        let (x, y) = (u(a).to_le_bytes(), u(b).to_le_bytes());
        u64::from((0..4).fold(s(c), |t, i| t.wrapping_add(i32::from(x[i] as i8) * i32::from(y[i]))) as u32)
    });
    probe("dp2a.hi.s32.s32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| {
        let y = u(b).to_le_bytes();
        let x = [i32::from(a as i16), i32::from((a >> 16) as i16)];
        u64::from((0..2).fold(s(c), |t, i| t.wrapping_add(x[i].wrapping_mul(i32::from(y[2 + i] as i8)))) as u32)
    });
    probe("add.cc.u32 %rd, %ra, %rb; addc.u32 %rd, %rc, 0;", "%rd", &o, |a, b, c| {
        u64::from(u(c).wrapping_add(u(a).overflowing_add(u(b)).1 as u32))
    });
    probe("sub.cc.u64 %qd, %qa, %qb; subc.u64 %qd, %qc, 0;", "%qd", &o, |a, b, c| c.wrapping_sub(u64::from(a < b)));
    probe("mad.lo.cc.u32 %rd, %ra, %rb, %rc; madc.hi.u32 %rd, %ra, %rb, 7;", "%rd", &o, |a, b, c| {
        let p = u64::from(u(a)) * u64::from(u(b));
        ((p + u64::from(u(c)) - (p & !0xffff_ffff)) >> 32).wrapping_add(p >> 32).wrapping_add(7) & 0xffff_ffff
    });
}

fn f(v: u64) -> f32 {
    f32::from_bits(v as u32)
}

fn canonical(v: f32) -> u64 {
    u64::from(if v.is_nan() { 0x7fff_ffff } else { v.to_bits() })
}

fn flush(v: f32) -> f32 {
    if v.is_subnormal() { 0f32.copysign(v) } else { v }
}

#[test]
fn single_precision() {
    let o = floats();
    probe("add.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| canonical(f(a) + f(b)));
    probe("mul.ftz.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| canonical(flush(flush(f(a)) * flush(f(b)))));
    probe("fma.rn.f32 %rd, %ra, %rb, %rc;", "%rd", &o, |a, b, c| canonical(f(a).mul_add(f(b), f(c))));
    probe("div.rn.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| canonical(f(a) / f(b)));
    probe("sqrt.rn.f32 %rd, %ra;", "%rd", &o, |a, _, _| canonical(f(a).sqrt()));
    probe("sub.sat.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| {
        let v = f(a) - f(b);
        canonical(if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) })
    });
    probe("min.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| match (f(a), f(b)) {
        (x, y) if x.is_nan() => canonical(y),
        (x, y) if y.is_nan() => canonical(x),
        (x, y) if x == y => u64::from(if x.is_sign_negative() { u(a) } else { u(b) }),
        (x, y) => canonical(if x < y { x } else { y }),
    });
    probe("max.NaN.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| match (f(a), f(b)) {
        (x, y) if x.is_nan() || y.is_nan() => 0x7fff_ffff,
        (x, y) if x == y => u64::from(if x.is_sign_negative() { u(b) } else { u(a) }),
        (x, y) => canonical(if x > y { x } else { y }),
    });
    probe("neg.f32 %rd, %ra;", "%rd", &o, |a, _, _| u64::from(u(a) ^ 0x8000_0000));
    probe("abs.f32 %rd, %ra;", "%rd", &o, |a, _, _| u64::from(u(a) & 0x7fff_ffff));
    probe("copysign.f32 %rd, %ra, %rb;", "%rd", &o, |a, b, _| u64::from((u(a) & 0x8000_0000) | (u(b) & 0x7fff_ffff)));
    // Directed rounding: the result brackets the exact value, which f64 holds or orders correctly for these operands.
    for (mode, up) in [("rp", true), ("rm", false)] {
        for ([a, b, _], got) in run(&format!("mul.{mode}.f32 %rd, %ra, %rb;"), "%rd", &o) {
            let exact = f64::from(f(a)) * f64::from(f(b));
            let (g, near) = (f64::from(f(got)), f(a) * f(b));
            if exact.is_nan() {
                assert!(g.is_nan());
                continue;
            }
            assert!(if up { g >= exact } else { g <= exact }, "mul.{mode} of {a:#x}, {b:#x}");
            let back = if up { f(got).next_down() } else { f(got).next_up() };
            assert!(
                f64::from(near) == exact || (f64::from(back) < exact) == up || g == exact,
                "mul.{mode} is not tight"
            );
        }
    }
    probe("fma.rz.f32 %rd, %ra, %rb, %rc;", "%rd", &floats_small(), |a, b, c| {
        // These operands make the sum exact in f64.
        let exact = f64::from(f(a)) * f64::from(f(b)) + f64::from(f(c));
        let near = exact as f32;
        let cut = if f64::from(near).abs() > exact.abs() { f32::from_bits(near.to_bits() - 1) } else { near };
        canonical(cut)
    });
}

fn floats_small() -> Operands {
    let v: Vec<u64> = [1.0f32, 1.1, -2.3, 7.7, 0.33333334].iter().map(|v| u64::from(v.to_bits())).collect();
    Operands { a: v.clone(), b: v.clone(), c: v }
}

#[test]
fn double_precision() {
    let o = doubles();
    let d = f64::from_bits;
    let canonical = |v: f64| if v.is_nan() { 0x7ff8_0000_0000_0000 } else { v.to_bits() };
    probe("add.f64 %qd, %qa, %qb;", "%qd", &o, |a, b, _| canonical(d(a) + d(b)));
    probe("fma.rn.f64 %qd, %qa, %qb, %qc;", "%qd", &o, |a, b, c| canonical(d(a).mul_add(d(b), d(c))));
    probe("div.rn.f64 %qd, %qa, %qb;", "%qd", &o, |a, b, _| canonical(d(a) / d(b)));
    probe("sqrt.rn.f64 %qd, %qa;", "%qd", &o, |a, _, _| canonical(d(a).sqrt()));
    probe(
        "add.rz.f64 %qd, %qa, %qb;",
        "%qd",
        &Operands { a: vec![1f64.to_bits()], b: vec![1e-30f64.to_bits(), (-1e-30f64).to_bits()], c: vec![0] },
        |_, b, _| if d(b) > 0.0 { 1f64.to_bits() } else { 1f64.next_down().to_bits() },
    );
}

/// The f16 nearest to `v`, found by looking at all of them.
fn nearest_f16(v: f64) -> u16 {
    if v.is_nan() {
        return 0x7fff;
    }
    let value = |h: u16| match h >> 10 {
        0 => f64::from(h) * 2f64.powi(-24),
        31 => 65536.0,
        e => (1.0 + f64::from(h & 0x3ff) / 1024.0) * 2f64.powi(i32::from(e) - 15),
    };
    let sign = u16::from(v.is_sign_negative()) << 15;
    let a = v.abs();
    let best = (0..=0x7c00u16).min_by(|&x, &y| {
        let (dx, dy) = ((value(x) - a).abs(), (value(y) - a).abs());
        dx.total_cmp(&dy).then((x & 1).cmp(&(y & 1)))
    });
    sign | if a >= 65520.0 { 0x7c00 } else { best.unwrap_or(0) }
}

fn h(v: u64) -> f64 {
    let v = v as u16;
    let s = if v >> 15 == 1 { -1.0 } else { 1.0 };
    s * match v >> 10 & 31 {
        0 => f64::from(v & 0x3ff) * 2f64.powi(-24),
        31 if v & 0x3ff == 0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + f64::from(v & 0x3ff) / 1024.0) * 2f64.powi(i32::from(e) - 15),
    }
}

#[test]
fn half_precision() {
    let o = halves();
    probe("add.f16 %hd, %ha, %hb;", "%hd", &o, |a, b, _| u64::from(nearest_f16(h(a) + h(b))));
    probe("mul.f16 %hd, %ha, %hb;", "%hd", &o, |a, b, _| u64::from(nearest_f16(h(a) * h(b))));
    // Sums of f16 products fit f64 for these operands.
    probe("fma.rn.f16 %hd, %ha, %hb, %hc;", "%hd", &o, |a, b, c| u64::from(nearest_f16(h(a).mul_add(h(b), h(c)))));
    probe("cvt.f32.f16 %rd, %ha;", "%rd", &o, |a, _, _| canonical(h(a) as f32));
    probe("neg.f16 %hd, %ha;", "%hd", &o, |a, _, _| a ^ 0x8000);
    let f32s = floats();
    probe("cvt.rn.f16.f32 %hd, %ra;", "%hd", &f32s, |a, _, _| u64::from(nearest_f16(f64::from(f(a)))));
    probe("cvt.rn.relu.f16.f32 %hd, %ra;", "%hd", &f32s, |a, _, _| {
        u64::from(nearest_f16(if f(a) <= 0.0 { 0.0 } else { f64::from(f(a)) }))
    });
    let bf16 = |v: f32| {
        if v.is_nan() {
            return 0x7fff;
        }
        let (down, rest) = (v.to_bits() >> 16, v.to_bits() & 0xffff);
        u64::from(down + u32::from(rest > 0x8000 || (rest == 0x8000 && down & 1 == 1)))
    };
    probe("cvt.rn.bf16.f32 %hd, %ra;", "%hd", &f32s, |a, _, _| bf16(f(a)));
    probe("cvt.rn.bf16x2.f32 %rd, %ra, %rb;", "%rd", &f32s, |a, b, _| bf16(f(a)) << 16 | bf16(f(b)));
    probe("cvt.rz.bf16.f32 %hd, %ra;", "%hd", &f32s, |a, _, _| if f(a).is_nan() { 0x7fff } else { a >> 16 });
    let pairs = Operands { a: vec![0x3f80_4000, 0xbf00_4049], b: vec![0x4000_3f80, 0x3dcd_c040], c: vec![0x3f80_3f80] };
    let wide = |v: u64| [f32::from_bits(u(v) << 16), f32::from_bits(u(v) & 0xffff_0000)];
    probe("fma.rn.bf16x2 %rd, %ra, %rb, %rc;", "%rd", &pairs, |a, b, c| {
        let r: Vec<u64> = (0..2).map(|i| bf16(wide(a)[i].mul_add(wide(b)[i], wide(c)[i]))).collect();
        r[1] << 16 | r[0]
    });
    probe("max.bf16x2 %rd, %ra, %rb;", "%rd", &pairs, |a, b, _| {
        bf16(wide(a)[1].max(wide(b)[1])) << 16 | bf16(wide(a)[0].max(wide(b)[0]))
    });
}

#[test]
fn conversions() {
    let i = ints();
    let fl = floats();
    probe("cvt.u64.u32 %qd, %ra;", "%qd", &i, |a, _, _| u64::from(u(a)));
    probe("cvt.s64.s32 %qd, %ra;", "%qd", &i, |a, _, _| i64::from(s(a)) as u64);
    probe("cvt.s32.s8 %rd, %ra;", "%rd", &i, |a, _, _| u64::from(i32::from(a as i8) as u32));
    probe("cvt.u16.u32 %hd, %ra;", "%hd", &i, |a, _, _| a & 0xffff);
    probe("cvt.s16.s8 %hd, %ra;", "%hd", &i, |a, _, _| u64::from(i16::from(a as i8) as u16));
    probe("cvt.sat.u8.s32 %rd, %ra;", "%rd", &i, |a, _, _| s(a).clamp(0, 255) as u64);
    probe("cvt.sat.s16.s32 %rd, %ra;", "%rd", &i, |a, _, _| u64::from(s(a).clamp(-32768, 32767) as u32));
    probe("cvt.sat.u32.s64 %rd, %qa;", "%rd", &i, |a, _, _| (a as i64).clamp(0, 0xffff_ffff) as u64);
    probe("cvt.rn.f32.s32 %rd, %ra;", "%rd", &i, |a, _, _| canonical(s(a) as f32));
    probe("cvt.rn.f32.u64 %rd, %qa;", "%rd", &i, |a, _, _| canonical(a as f32));
    probe("cvt.rn.f64.s64 %qd, %qa;", "%qd", &i, |a, _, _| (a as i64 as f64).to_bits());
    probe("cvt.rz.f32.u32 %rd, %ra;", "%rd", &i, |a, _, _| {
        let near = u(a) as f32;
        canonical(if near as f64 > f64::from(u(a)) { f32::from_bits(near.to_bits() - 1) } else { near })
    });
    probe("cvt.rzi.s32.f32 %rd, %ra;", "%rd", &fl, |a, _, _| u64::from(f(a) as i32 as u32));
    probe("cvt.rni.s32.f32 %rd, %ra;", "%rd", &fl, |a, _, _| u64::from(f(a).round_ties_even() as i32 as u32));
    probe("cvt.rmi.u32.f32 %rd, %ra;", "%rd", &fl, |a, _, _| u64::from(f(a).floor() as u32));
    probe("cvt.rpi.f32.f32 %rd, %ra;", "%rd", &fl, |a, _, _| canonical(f(a).ceil()));
    probe("cvt.rzi.s64.f32 %qd, %ra;", "%qd", &fl, |a, _, _| if f(a).is_nan() { 1 << 63 } else { f(a) as i64 as u64 });
    probe("cvt.rzi.u8.f32 %rd, %ra;", "%rd", &fl, |a, _, _| u64::from(f(a) as u8));
    probe(
        "cvt.f64.f32 %qd, %ra;",
        "%qd",
        &fl,
        |a, _, _| if f(a).is_nan() { 0x7ff8 << 48 } else { f64::from(f(a)).to_bits() },
    );
    probe("cvt.rn.f32.f64 %rd, %qa;", "%rd", &doubles(), |a, _, _| canonical(f64::from_bits(a) as f32));
    probe("cvt.rna.tf32.f32 %rd, %ra;", "%rd", &fl, |a, _, _| {
        let v = f(a);
        if v.is_nan() {
            0x7fff_ffff
        } else if v.is_infinite() {
            a
        } else {
            u64::from(u(a).wrapping_add(0x1000) & 0xffff_e000)
        }
    });
    probe("cvt.sat.f32.f32 %rd, %ra;", "%rd", &fl, |a, _, _| {
        canonical(if f(a).is_nan() || f(a) <= 0.0 { 0.0 } else { f(a).min(1.0) })
    });
}

#[test]
fn comparisons_and_selections() {
    let (i, fl) = (ints(), floats());
    let bit = |p: bool| u64::from(p);
    let setp = |form: &str, a: &str, b: &str| format!("setp.{form} %p0, {a}, {b}; selp.u32 %rd, 1, 0, %p0;");
    probe(&setp("lt.s32", "%ra", "%rb"), "%rd", &i, |a, b, _| bit(s(a) < s(b)));
    probe(&setp("hi.u32", "%ra", "%rb"), "%rd", &i, |a, b, _| bit(u(a) > u(b)));
    probe(&setp("ge.s64", "%qa", "%qb"), "%rd", &i, |a, b, _| bit(a as i64 >= b as i64));
    probe(&setp("ne.b16", "%ha", "%hb"), "%rd", &i, |a, b, _| bit(a as u16 != b as u16));
    probe(&setp("gt.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(f(a) > f(b)));
    probe(&setp("ne.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(f(a) != f(b) && !f(a).is_nan() && !f(b).is_nan()));
    probe(&setp("neu.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(f(a) != f(b)));
    probe(&setp("equ.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(f(a) == f(b) || f(a).is_nan() || f(b).is_nan()));
    probe(&setp("geu.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(f(a) >= f(b) || f(a).is_nan() || f(b).is_nan()));
    probe(&setp("lt.ftz.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(flush(f(a)) < flush(f(b))));
    probe(&setp("nan.f32", "%ra", "%rb"), "%rd", &fl, |a, b, _| bit(f(a).is_nan() || f(b).is_nan()));
    probe(&setp("lt.f16", "%ha", "%hb"), "%rd", &halves(), |a, b, _| bit(h(a) < h(b)));
    probe(
        "setp.eq.s32 %p1, %rc, 0; setp.lt.and.s32 %p0|%p2, %ra, %rb, %p1; selp.u32 %rd, 1, 0, %p0; @%p2 add.u32 %rd, %rd, 2;",
        "%rd",
        &i,
        |a, b, c| {
            let third = s(c) == 0;
            bit(s(a) < s(b) && third) + 2 * bit(s(a) >= s(b) && third)
        },
    );
    probe("set.gt.u32.f32 %rd, %ra, %rb;", "%rd", &fl, |a, b, _| if f(a) > f(b) { 0xffff_ffff } else { 0 });
    probe("set.lt.f32.s32 %rd, %ra, %rb;", "%rd", &i, |a, b, _| if s(a) < s(b) { 0x3f80_0000 } else { 0 });
    probe("slct.b32.s32 %rd, %ra, %rb, %rc;", "%rd", &i, |a, b, c| u64::from(if s(c) >= 0 { u(a) } else { u(b) }));
    probe("testp.subnormal.f32 %p0, %ra; selp.u32 %rd, 1, 0, %p0;", "%rd", &fl, |a, _, _| bit(f(a).is_subnormal()));
    probe("mov.b64 %qd, {%ra, %rb}; mov.b64 {%r5, %r6}, %qd; mov.b64 %qd, {%r6, %r5};", "%qd", &i, |a, b, _| {
        u64::from(u(a)) << 32 | u64::from(u(b))
    });
    probe("mov.b32 %rd, {%ha, %hb};", "%rd", &i, |a, b, _| (b & 0xffff) << 16 | (a & 0xffff));
}

#[test]
fn warp_operations_against_plain_loops() {
    // Threads of a warp get consecutive values of c.
    let o = Operands { a: vec![5], b: vec![3], c: (0..64).map(|i| i * 7 % 32).collect() };
    let lanes: Vec<u64> = o.c.clone();
    let by_lane = |body: &str, want: &dyn Fn(usize, &[u64]) -> u64| {
        for (i, (_, got)) in run(body, "%rd", &o).into_iter().enumerate() {
            let warp = &lanes[i / 32 * 32..][..32];
            assert_eq!(got, want(i % 32, warp), "{body} lane {i}");
        }
    };
    by_lane("shfl.sync.up.b32 %rd, %rc, 3, 0, -1;", &|l, w| w[if l >= 3 { l - 3 } else { l }]);
    by_lane("shfl.sync.down.b32 %rd, %rc, 5, 31, -1;", &|l, w| w[if l + 5 < 32 { l + 5 } else { l }]);
    by_lane("shfl.sync.bfly.b32 %rd, %rc, 9, 31, -1;", &|l, w| w[l ^ 9]);
    by_lane("shfl.sync.idx.b32 %rd|%p0, %rc, 2, 0x1807, -1;", &|l, w| w[l / 8 * 8 + 2]);
    by_lane("setp.gt.u32 %p0, %rc, 9; vote.sync.ballot.b32 %rd, %p0, -1;", &|_, w| {
        (0..32).filter(|&i| w[i] > 9).fold(0, |m, i| m | 1 << i)
    });
    by_lane("and.b32 %rc, %rc, 3; match.any.sync.b32 %rd, %rc, -1;", &|l, w| {
        (0..32).filter(|&i| w[i] & 3 == w[l] & 3).fold(0, |m, i| m | 1 << i)
    });
    by_lane("redux.sync.max.u32 %rd, %rc, -1;", &|_, w| *w.iter().max().unwrap());
    by_lane("setp.lt.u32 %p0, %rc, 4; bar.red.popc.u32 %rd, 0, %p0;", &|_, _| {
        lanes.iter().filter(|v| **v < 4).count() as u64
    });
    by_lane("activemask.b32 %rd;", &|_, _| 0xffff_ffff);
    by_lane("setp.lt.u32 %p0, %rc, 16; @%p0 activemask.b32 %rd;", &|l, w| {
        if w[l] < 16 { (0..32).filter(|&i| w[i] < 16).fold(0, |m, i| m | 1 << i) } else { 0 }
    });
}
