//! What the CUDA headers emit for sm_80: every family of device functions is loaded and run under all checks, and compared
//! with the host where the host has the function.

use warpsmith_emulator_driver::exec::grid::Launch;

use crate::rig::{Arg, Plain, Rig, assert_clean};

const INVENTORY: &str = include_str!("../../../tests/kernels/inventory.ptx");

const N: usize = 64;

fn rig() -> Rig {
    Rig::new(INVENTORY)
}

/// Runs a kernel over 64 threads; `columns` results per thread come back column by column.
fn columns<T: Plain>(rig: &Rig, name: &str, inputs: &[u64], columns: usize) -> Vec<Vec<T>> {
    let out = rig.empty::<T>(columns * N);
    let mut args: Vec<Arg> = inputs.iter().map(|&p| Arg::Ptr(p)).collect();
    args.push(Arg::Ptr(out));
    rig.clean(name, 1, N as u32, &args);
    rig.get::<T>(out, columns * N).chunks(N).map(<[T]>::to_vec).collect()
}

fn xs() -> Vec<f64> {
    (0..N).map(|i| (i as f64 - 31.5) * 0.1875).collect()
}

fn ys() -> Vec<f64> {
    (0..N).map(|i| 0.625 + (i * 7 % 29) as f64 * 0.25).collect()
}

type Unary = (&'static str, Option<fn(f64) -> f64>);

/// The functions of `f32_unary` and `f64_unary` in order, as far as both have them; `None`: not in the standard library.
const UNARY: [Unary; 36] = [
    ("sin", Some(f64::sin)),
    ("cos", Some(f64::cos)),
    ("tan", Some(f64::tan)),
    ("asin", Some(|v| (v / 10.0).asin())),
    ("acos", Some(|v| (v / 10.0).acos())),
    ("atan", Some(f64::atan)),
    ("sinh", Some(f64::sinh)),
    ("cosh", Some(f64::cosh)),
    ("tanh", Some(f64::tanh)),
    ("asinh", Some(f64::asinh)),
    ("acosh", Some(|v| (v.abs() + 1.0).acosh())),
    ("atanh", Some(|v| (v / 10.0).atanh())),
    ("exp", Some(f64::exp)),
    ("exp2", Some(f64::exp2)),
    ("exp10", Some(|v| 10f64.powf(v))),
    ("expm1", Some(f64::exp_m1)),
    ("log", Some(|v| v.abs().ln())),
    ("log2", Some(|v| v.abs().log2())),
    ("log10", Some(|v| v.abs().log10())),
    ("log1p", Some(|v| v.abs().ln_1p())),
    ("sqrt", Some(|v| v.abs().sqrt())),
    ("rsqrt", Some(|v| 1.0 / v.abs().sqrt())),
    ("cbrt", Some(f64::cbrt)),
    ("rcbrt", Some(|v| 1.0 / v.cbrt())),
    ("floor", Some(f64::floor)),
    ("ceil", Some(f64::ceil)),
    ("trunc", Some(f64::trunc)),
    ("rint", Some(f64::round_ties_even)),
    ("round", Some(f64::round)),
    ("nearbyint", Some(f64::round_ties_even)),
    ("erf", None),
    ("erfc", None),
    ("tgamma", None),
    ("lgamma", None),
    ("sinpi", Some(|v| (v % 2.0 * std::f64::consts::PI).sin())),
    ("cospi", Some(|v| (v % 2.0 * std::f64::consts::PI).cos())),
];

fn close(name: &str, x: f64, got: f64, want: f64, relative: f64, absolute: f64) {
    assert!((got - want).abs() <= want.abs() * relative + absolute, "{name}({x}): got {got}, want {want}");
}

/// erf by its series, exact enough inside the range used.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn math_functions_agree_with_the_host() {
    let rig = rig();
    let x = xs();
    let narrow: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    let got = columns::<f32>(&rig, "f32_unary", &[rig.put(&narrow)], 43);
    // CUDA's error bounds for these functions reach 4 ulp; near a zero of the function the error is absolute.
    for ((name, f), c) in UNARY.iter().zip(&got) {
        for (&v, &g) in narrow.iter().zip(c) {
            let want = f.map_or(f64::NAN, |f| f(f64::from(v)));
            if f.is_some() {
                close(name, f64::from(v), f64::from(g), want, 6e-7, 2e-6);
            }
        }
    }
    for (i, &v) in narrow.iter().enumerate().filter(|v| v.1.abs() < 3.0) {
        close("erff", f64::from(v), f64::from(got[30][i]), erf(f64::from(v)), 6e-7, 0.0);
    }
    assert_eq!(got[42], narrow.iter().map(|v| v.abs()).collect::<Vec<_>>(), "the last column is fabsf");
    let got = columns::<f64>(&rig, "f64_unary", &[rig.put(&x)], 43);
    for ((name, f), c) in UNARY.iter().zip(&got) {
        for (&v, &g) in x.iter().zip(c) {
            if let Some(f) = f {
                close(name, v, g, f(v), 2e-15, 4e-15);
            }
        }
    }
    for (i, &v) in x.iter().enumerate().filter(|v| v.1.abs() < 3.0) {
        close("erf", v, got[30][i], erf(v), 1e-13, 0.0);
    }
    assert_eq!(got[42], x.iter().map(|v| v.abs()).collect::<Vec<_>>(), "the last column is fabs");
}

#[test]
fn binary_functions_and_rounding_intrinsics() {
    let rig = rig();
    let (x, y) = (xs(), ys());
    let (nx, ny): (Vec<f32>, Vec<f32>) = (x.iter().map(|&v| v as f32).collect(), y.iter().map(|&v| v as f32).collect());
    let got = columns::<f32>(&rig, "f32_binary", &[rig.put(&nx), rig.put(&[&ny[..], &ny[..]].concat())], 31);
    let wide = columns::<f64>(&rig, "f64_binary", &[rig.put(&x), rig.put(&y)], 38);
    for i in 0..N {
        let (a, b) = (x[i], y[i]);
        let pow = a.abs().powf(b);
        close("powf", a, f64::from(got[0][i]), pow, 1e-6, 0.0);
        close("pow", a, wide[0][i], pow, 2e-15, 0.0);
        close("atan2f", a, f64::from(got[1][i]), a.atan2(b), 6e-7, 0.0);
        close("atan2", a, wide[1][i], a.atan2(b), 1e-15, 0.0);
        // These operands are exact in f32, and so are the remainders.
        assert_eq!((f64::from(got[2][i]), wide[2][i]), (a % b, a % b), "fmod of {a}, {b}");
        close("hypot", a, wide[4][i], a.hypot(b), 1e-15, 0.0);
        assert_eq!((f64::from(got[7][i]), f64::from(got[8][i])), (a.max(b), a.min(b)));
        assert_eq!(f64::from(got[11][i]), a * 32.0, "ldexpf");
        assert_eq!(wide[17][i], a / b);
        close("fdividef", a, f64::from(got[30][i]), a / b, 3e-7, 0.0);
        // Directed modes bracket the exact sum, and the sum is exact here.
        assert!((19..23).all(|k| wide[k][i] == a + b), "a + b of {a}, {b}");
        let [rn, rz, ru, rd] = [27, 28, 29, 30].map(|k| wide[k][i]);
        assert!(rd <= rn && rn <= ru && ru - rd <= rn.abs() * 3e-16 && rz.abs() <= rn.abs().max(rz.abs()));
        assert!(rz == if a < 0.0 { ru } else { rd }, "division of {a} by {b} towards zero");
    }
    let got = columns::<f32>(&rig, "f32_intrinsics", &[rig.put(&nx), rig.put(&ny)], 43);
    for i in 0..N {
        let (a, b) = (nx[i], ny[i]);
        assert!((0..4).all(|k| got[k][i] == a + b) && (4..8).all(|k| got[k][i] == a - b));
        assert_eq!(got[12][i], a.mul_add(b, 1.0));
        assert_eq!((got[16][i], got[24][i]), (a / b, a.abs().sqrt()));
        let [rz, ru, rd] = [17, 18, 19].map(|k| got[k][i]);
        assert!(f64::from(rd) * f64::from(b) <= f64::from(a) && f64::from(ru) * f64::from(b) >= f64::from(a));
        assert_eq!(rz, if a < 0.0 { ru } else { rd });
        close("__expf", f64::from(a), f64::from(got[33][i]), f64::from(a).exp(), 2e-6, 0.0);
        assert_eq!(got[39][i], a.clamp(0.0, 1.0), "__saturatef");
    }
}

#[test]
fn integer_functions() {
    let rig = rig();
    let x: Vec<u32> = (0..N as u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x1234_8765).collect();
    let y: Vec<u32> = x.iter().map(|v| v.rotate_left(7).wrapping_mul(3)).collect();
    let got = columns::<u32>(&rig, "integers", &[rig.put(&x), rig.put(&y)], 88);
    let bytes = |a: u32, b: u32, f: &dyn Fn(u8, u8) -> u8| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        u32::from_le_bytes(std::array::from_fn(|i| f(a[i], b[i])))
    };
    let halves = |a: u32, b: u32, f: &dyn Fn(u16, u16) -> u16| {
        u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
    };
    for i in 0..N {
        let (a, b) = (x[i], y[i]);
        let column = |k: usize| got[k][i];
        assert_eq!(column(0), a.reverse_bits());
        assert_eq!(column(2), if a == 0 { 0 } else { a.trailing_zeros() + 1 });
        assert_eq!(column(9), ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
        assert_eq!(column(15), ((i64::from(a as i32) + i64::from(b as i32)) >> 1) as u32, "__hadd");
        assert_eq!(column(18), ((u64::from(a) + u64::from(b) + 1) >> 1) as u32, "__urhadd");
        assert_eq!((column(24), column(25)), (a / (b | 1), a % (b | 1)));
        assert_eq!(column(26), (a as i32).wrapping_div((b | 1) as i32) as u32);
        assert_eq!(column(33), halves(a, 0, &|x, _| (x as i16).wrapping_abs() as u16), "__vabs2");
        assert_eq!(column(36), bytes(a, b, &|x, y| (x as i8).abs_diff(y as i8)), "__vabsdiffs4");
        assert_eq!(column(37), halves(a, b, &|x, y| x.abs_diff(y)), "__vabsdiffu2");
        assert_eq!(column(38), bytes(a, b, &|x, y| x.abs_diff(y)), "__vabsdiffu4");
        assert_eq!(column(41), halves(a, b, &|x, y| x.wrapping_add(y)), "__vadd2");
        assert_eq!(column(44), bytes(a, b, &|x, y| (x as i8).saturating_add(y as i8) as u8), "__vaddss4");
        assert_eq!(column(46), bytes(a, b, &|x, y| x.saturating_add(y)), "__vaddus4");
        assert_eq!(column(52), bytes(a, b, &|x, y| if x == y { 0xff } else { 0 }), "__vcmpeq4");
        assert_eq!(column(58), halves(a, b, &|x, y| (x as i16).max(y as i16) as u16), "__vmaxs2");
        let sums = |f: &dyn Fn(u8, u8) -> u8| bytes(a, b, f).to_le_bytes().iter().map(|&v| u32::from(v)).sum::<u32>();
        assert_eq!(column(69), sums(&|x, y| x.abs_diff(y)), "__vsadu4");
        assert_eq!(column(75), bytes(a, b, &|x, y| x.saturating_sub(y)), "__vsubus4");
    }
    let x: Vec<u64> = (0..N as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x0123_4567_89ab_cdef).collect();
    let y: Vec<u64> = x.iter().enumerate().map(|(i, v)| v.rotate_left(9) >> (i % 40)).collect();
    let got = columns::<u64>(&rig, "wide_integers", &[rig.put(&x), rig.put(&y)], 22);
    for i in 0..N {
        let (a, b) = (x[i], y[i]);
        let column = |k: usize| got[k][i];
        assert_eq!((column(6), column(7)), (a / (b | 1), a % (b | 1)), "64-bit division of {a:#x} by {b:#x}");
        assert_eq!(column(8), (a as i64).wrapping_div((b | 1) as i64) as u64);
        let m = (u128::from(a) * u128::from(b)).wrapping_add(u128::from(a));
        let q = m / (u128::from(b) << 7 | 1);
        assert_eq!((column(10), column(11)), (m as u64, (m >> 64) as u64), "128-bit product");
        assert_eq!((column(12), column(13)), (q as u64, (q >> 64) as u64), "128-bit quotient");
        let s = m << (a & 127);
        assert_eq!((column(14), column(15)), (s as u64, (s >> 64) as u64), "128-bit shift");
        let t = i128::from(a as i64) * i128::from(b as i64);
        assert_eq!(column(16), (t % i128::from((b | 1) as i64)) as u64, "128-bit remainder");
    }
}

#[test]
fn halves_conversions_lanes_and_memory_run_clean() {
    let rig = rig();
    let f16 = |v: f32| {
        let e = v.abs().log2().floor() as i32;
        let m = ((v.abs() / 2f32.powi(e) - 1.0) * 1024.0) as u16;
        u16::from(v < 0.0) << 15 | ((e + 15) as u16) << 10 | m
    };
    let bf16 = |v: f32| (v.to_bits() >> 16) as u16;
    // Multiples of 1/16 with few bits are exact in both formats.
    let x: Vec<f32> = (0..N).map(|i| (i as f32 - 32.5) / 16.0).collect();
    let y: Vec<f32> = (0..N).map(|i| 0.5 + (i % 7) as f32 / 4.0).collect();
    for (name, convert) in [("f16_functions", &f16 as &dyn Fn(f32) -> u16), ("bf16_functions", &bf16)] {
        let h = |v: &[f32]| rig.put(&v.iter().map(|&v| convert(v)).collect::<Vec<u16>>());
        let got = columns::<f32>(&rig, name, &[h(&x), h(&y)], 128);
        for i in 0..N {
            let (a, b) = (x[i], y[i]);
            // Sums and maxima of these numbers are exact in f16; bf16 has 8 bits for them.
            let slack = if name.starts_with('b') { a.abs().max(b) / 64.0 } else { 0.0 };
            for (k, want) in [(0, a + b), (1, a - b), (5, -a), (6, a.abs()), (12, a.max(b)), (13, a.min(b))] {
                assert!((got[k][i] - want).abs() <= slack, "{name} column {k} of {a}, {b}: {}, not {want}", got[k][i]);
            }
            let relative = if name.starts_with('b') { 1.0 / 100.0 } else { 1.0 / 900.0 };
            for (k, want) in
                [(2, a * b), (3, a / b), (19, a.abs().sqrt()), (25, a.exp()), (30, a.tanh()), (28, a.cos())]
            {
                assert!(
                    (got[k][i] - want).abs() <= want.abs() * relative + relative / 4.0,
                    "{name} column {k} of {a}, {b}: {}, not {want}",
                    got[k][i]
                );
            }
        }
    }
    let ints: Vec<i32> = (0..N as i32).map(|i| (i - 30) * 7001).collect();
    let h: Vec<u16> = x.iter().map(|&v| f16(v)).collect();
    let g: Vec<u16> = x.iter().map(|&v| bf16(v)).collect();
    let got = columns::<u64>(&rig, "half_conversions", &[rig.put(&x), rig.put(&ints), rig.put(&h), rig.put(&g)], 40);
    for i in 0..N {
        assert_eq!(got[0][i], u64::from(f16(x[i])), "__float2half_rn");
        assert_eq!(got[14][i] as i64, x[i].trunc() as i64, "__half2int_rz");
        assert_eq!(got[13][i] as i64, x[i].round_ties_even() as i64, "__half2int_rn");
        assert_eq!(got[24][i] as u32, x[i].to_bits(), "__half2float");
        assert_eq!(got[37][i] as u32, x[i].to_bits(), "__bfloat162float");
    }
    let wide: Vec<u64> = (0..N as u64).map(|i| (i << 59) ^ (i * 0x1234_5677)).collect();
    let got = columns::<u64>(&rig, "conversions", &[rig.put(&x), rig.put(&xs()), rig.put(&wide)], 53);
    for i in 0..N {
        let d = xs()[i];
        assert_eq!(got[0][i] as i64, x[i].round_ties_even() as i64, "__float2int_rn");
        assert_eq!(got[3][i] as i64, x[i].floor() as i64, "__float2int_rd");
        assert_eq!(got[7][i] as i64, x[i].floor().max(0.0) as i64, "__float2uint_rd");
        assert_eq!(got[18][i] as i64, d.ceil() as i64, "__double2int_ru");
        assert_eq!(got[38][i] as u32, (wide[i] as i64 as f32).to_bits(), "__ll2float_rn");
        assert_eq!(got[43][i], (wide[i] as i64 as f64).to_bits(), "__ll2double_rn");
    }
    let v: Vec<i32> = (0..N as i32).map(|i| i * 37 % 101 - 20).collect();
    let got = columns::<i32>(&rig, "warp_functions", &[rig.put(&v)], 24);
    for i in 0..N {
        let warp = &v[i / 32 * 32..][..32];
        assert_eq!(got[0][i], warp[5]);
        assert_eq!(got[10][i], warp.iter().sum::<i32>());
        assert_eq!(got[11][i], *warp.iter().min().unwrap());
        assert_eq!(got[17][i], warp[(i % 32) ^ 1], "64-bit shuffle");
    }
}

#[test]
fn atomics_groups_and_pointers() {
    let rig = rig();
    let zero = |n: usize| rig.put(&vec![0u32; n]);
    let (u, s, w, f, d, h, h2, b, b2, us) =
        (zero(32), zero(8), zero(32), zero(8), zero(8), zero(4), zero(4), zero(4), zero(4), zero(4));
    let args = [u, s, w, f, d, h, h2, b, b2, us].map(Arg::Ptr);
    rig.clean("atomics", 2, 128, &args);
    let n = 256u32;
    let got = rig.get::<u32>(u, 22);
    assert_eq!(got[0], n * (n - 1) / 2, "atomicAdd");
    assert_eq!(got[1], 0u32.wrapping_sub(n), "atomicSub");
    assert_eq!((got[3], got[4]), (0, n - 1), "atomicMin and atomicMax");
    assert_eq!(got[5], n % 10, "atomicInc counts 0 to 9");
    assert_eq!((got[8], got[9]), (0, u32::MAX), "atomicAnd and atomicOr");
    assert_eq!((got[12], &got[18..]), (n, &[128, 127, 128, 255][..]), "system and block scope");
    assert_eq!(got[15], 128 + 128 + 128 + 128, "shared counters");
    assert_eq!(rig.get::<f32>(f, 1)[0], 128.0);
    assert_eq!(rig.get::<f64>(d, 1)[0], 64.0);
    // 256 is 0x5c00 in f16; bf16 sums stop growing at 256 as well.
    assert_eq!((rig.get::<u16>(h, 1)[0], rig.get::<u16>(h2, 2)), (0x5c00, vec![0x5c00, 0x6000]));
    assert_eq!((rig.get::<u16>(b, 1)[0], rig.get::<u16>(us, 1)[0]), (0x4380, 7));

    // A grid of four blocks that wait for each other; threads sum over tiles of 8.
    let x: Vec<i32> = (0..256).map(|i| i * 11 % 17).collect();
    let (px, out) = (rig.put(&x), rig.empty::<i32>(512));
    let kernel = rig.kernel("groups");
    let params = [px.to_le_bytes(), out.to_le_bytes()].concat();
    let launch = Launch { grid: [4, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params, cooperative: true };
    let outcome = rig.device.launch(&kernel, &launch, &rig.settings);
    assert_clean("groups", &outcome);
    let got = rig.get::<i32>(out, 512);
    for i in 0..256 {
        assert_eq!(got[256 + i], got[(i + 64) % 256], "what another block wrote before the barrier, thread {i}");
    }

    let which: Vec<i32> = (0..N as i32).map(|i| i * i % 3).collect();
    let got = columns::<f32>(&rig, "pointers", &[rig.put(&which)], 2);
    for i in 0..N {
        let odd = which[i] & 1 == 1;
        assert_eq!(got[0][i], if odd { (i * i) as f32 } else { i as f32 + 1.0 });
        assert_eq!(got[1][i], if odd { 5.0 } else { 10.0 }, "a virtual call");
    }

    let kernel = rig.kernel("parameters");
    let out = rig.empty::<i32>(32);
    let mut params: Vec<u8> = (0..16i32).flat_map(|i| (i * i).to_le_bytes()).collect();
    params.extend_from_slice(&out.to_le_bytes());
    let launch = Launch { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared: 0, params, cooperative: false };
    assert_clean("parameters", &rig.device.launch(&kernel, &launch, &rig.settings));
    assert_eq!(rig.get::<i32>(out, 32), (0..32).map(|i| (i % 16) * (i % 16)).collect::<Vec<i32>>());

    let x: Vec<i32> = (0..N as i32).collect();
    let px = rig.put(&x);
    let out = rig.empty::<i32>(N);
    let outcome = rig.clean("local_memory", 1, N as u32, &[Arg::Ptr(px), Arg::Ptr(out)]);
    let sums: Vec<i32> = rig.get(out, N);
    let mut lines = 0;
    for (i, &got) in sums.iter().enumerate() {
        let mut bins = [0i32; 16];
        for k in 0..8 {
            bins[(i + k * k) & 15] += k as i32;
        }
        let s = bins.iter().fold(0i32, |s, b| s.wrapping_mul(3).wrapping_add(*b));
        lines += usize::from(i & 7 > 5);
        assert_eq!(got, [s + 5, s.wrapping_mul(7), s - 9, s ^ 11, s / 3, s % 1000, s, s][i & 7], "thread {i}");
    }
    let text = String::from_utf8_lossy(&outcome.output).into_owned();
    assert_eq!(text.lines().filter(|l| l.ends_with(" other 0.50")).count(), lines, "{text}");
}

#[test]
fn fragments_in_c_plus_plus() {
    let rig = rig();
    let small = |n: usize, salt: usize| (0..n).map(|i| ((i * 7 + salt) % 9) as i32 - 4).collect::<Vec<i32>>();
    let cases: [(&str, [usize; 3], bool, bool); 6] = [
        ("wmma_f16", [16, 16, 16], true, false),
        ("wmma_f16_half", [32, 8, 16], false, true),
        ("wmma_bf16", [8, 32, 16], true, true),
        ("wmma_s8", [16, 16, 16], true, false),
        ("wmma_u8", [8, 32, 16], false, true),
        ("wmma_f64", [8, 8, 4], true, false),
    ];
    for (name, [m, n, k], a_row, b_row) in cases {
        let lift = if name == "wmma_u8" { 4 } else { 0 };
        let (a, b, c) = (small(m * k, 1), small(k * n, 2), small(m * n, 3));
        let (a, b): (Vec<i32>, Vec<i32>) = (a.iter().map(|v| v + lift).collect(), b.iter().map(|v| v + lift).collect());
        // Small integers, exactly.
        let f16 = |v: i32| {
            let x = v.unsigned_abs();
            if x == 0 {
                return 0;
            }
            let e = x.ilog2();
            u16::from(v < 0) << 15 | ((e + 15) as u16) << 10 | ((x << (10 - e)) & 0x3ff) as u16
        };
        let element = |v: &[i32]| match name {
            "wmma_f64" => rig.put(&v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()),
            "wmma_bf16" => rig.put(&v.iter().map(|&x| ((x as f32).to_bits() >> 16) as u16).collect::<Vec<u16>>()),
            "wmma_s8" | "wmma_u8" => rig.put(&v.iter().map(|&x| x as u8).collect::<Vec<u8>>()),
            _ => rig.put(&v.iter().map(|&x| f16(x)).collect::<Vec<u16>>()),
        };
        let sum = |v: &[i32]| match name {
            "wmma_f64" => rig.put(&v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()),
            "wmma_s8" | "wmma_u8" => rig.put(v),
            "wmma_f16_half" => rig.put(&v.iter().map(|&x| f16(x)).collect::<Vec<u16>>()),
            _ => rig.put(&v.iter().map(|&x| x as f32).collect::<Vec<f32>>()),
        };
        let out = sum(&vec![0; m * n]);
        rig.clean(name, 1, 32, &[Arg::Ptr(element(&a)), Arg::Ptr(element(&b)), Arg::Ptr(sum(&c)), Arg::Ptr(out)]);
        let want: Vec<i32> = (0..m * n)
            .map(|at| {
                let (i, j) = (at % m, at / m);
                let dot = (0..k).map(|l| {
                    a[if a_row { i * k + l } else { l * m + i }] * b[if b_row { l * n + j } else { j * k + l }]
                });
                2 * (c[i * n + j] + dot.sum::<i32>())
            })
            .collect();
        match name {
            "wmma_f64" => {
                assert_eq!(rig.get::<f64>(out, m * n), want.iter().map(|&x| f64::from(x)).collect::<Vec<_>>())
            }
            "wmma_s8" | "wmma_u8" => assert_eq!(rig.get::<i32>(out, m * n), want),
            "wmma_f16_half" => assert_eq!(rig.get::<u16>(out, m * n), want.iter().map(|&x| f16(x)).collect::<Vec<_>>()),
            _ => assert_eq!(rig.get::<f32>(out, m * n), want.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        }
    }
}

#[test]
fn copies_and_cache_operators() {
    let rig = rig();
    let x: Vec<f32> = (0..4 * N).map(|i| i as f32).collect();
    let y: Vec<u8> = (0..N).map(|i| i as u8).collect();
    let (px, py) = (rig.put(&x), rig.put(&y));
    let (out, extra) = (rig.empty::<f32>(4 * N), rig.empty::<i32>(N));
    rig.clean("memory_functions", 1, N as u32, &[Arg::Ptr(px), Arg::Ptr(py), Arg::Ptr(out), Arg::Ptr(extra)]);
    let got: Vec<f32> = rig.get(out, 4 * N);
    for t in 0..N {
        let v = |e: usize| x[4 * t + e];
        let flag = u32::from_le_bytes(y[4 * (t & 7)..][..4].try_into().unwrap()) as i32 as f32;
        assert_eq!(got[4 * t], v(0) + (v(0) + v(0) + v(1) + v(2) + v(3) + v(0) + flag), "thread {t}");
        assert_eq!(got[4 * t + 1..4 * t + 4], x[4 * t + 1..4 * t + 4]);
    }
    // One byte, the answers of __isGlobal (1), __isShared (2), __isConstant and __isLocal (8), and what follows.
    let extra: Vec<i32> = rig.get(extra, N);
    let odd = |t: usize| i32::from((t ^ 1) % 2 == 1);
    for (t, &e) in extra.iter().enumerate() {
        assert_eq!(e, t as i32 + 1 + 2 + 8 + odd(t) + 1 + 2, "thread {t}");
    }
}
