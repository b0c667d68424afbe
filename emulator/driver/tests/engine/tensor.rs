//! Fragments and pipelines on the tensor cores against plain loops.

use warpsmith_emulator_driver::check::finding::Kind;
use warpsmith_emulator_driver::exec::alu::Level;
use warpsmith_emulator_driver::exec::run::Checks;

use crate::known::noise;
use crate::rig::{Arg, Rig, assert_clean, assert_finding};

const TENSOR: &str = include_str!("../../../tests/kernels/tensor.ptx");

fn bf16(v: f32) -> u16 {
    (v.to_bits() >> 16) as u16
}

fn from_bf16(v: u16) -> f32 {
    f32::from_bits(u32::from(v) << 16)
}

/// Small integers are exact in every format, so sums are exact in any order.
fn integers(n: usize, seed: u32) -> Vec<f32> {
    noise(n, seed).into_iter().map(|v| (v * 8.0).round()).collect()
}

fn product(a: &[f32], b: &[f32], c: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut d = c.to_vec();
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                d[i * n + j] += a[i * k + l] * b[l * n + j];
            }
        }
    }
    d
}

#[test]
fn fragments_of_bf16_and_f16() {
    for level in [Level::Base, Level::detect()] {
        let rig = Rig::at_level(TENSOR, level);
        let (a, b, c) = (integers(256, 1), integers(128, 2), integers(128, 3));
        let want = product(&a, &b, &c, 16, 8, 16);
        // Integers up to 8 in f16: sign, exponent and three bits of mantissa.
        let f16 = |v: f32| {
            if v == 0.0 {
                return 0;
            }
            let e = (v.abs().log2().floor() as i32 + 15) as u16;
            let m = ((v.abs() / 2f32.powi(i32::from(e) - 15) - 1.0) * 1024.0) as u16;
            u16::from(v < 0.0) << 15 | e << 10 | m
        };
        for (name, convert) in [("fragment_bf16", &bf16 as &dyn Fn(f32) -> u16), ("fragment_f16", &f16)] {
            let half = |v: &[f32]| v.iter().map(|&x| convert(x)).collect::<Vec<u16>>();
            let (pa, pb, pc, pd) = (rig.put(&half(&a)), rig.put(&half(&b)), rig.put(&c), rig.empty::<f32>(128));
            rig.clean(name, 1, 32, &[Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::Ptr(pd)]);
            assert_eq!(rig.get::<f32>(pd, 128), want, "{name}");
        }
    }
}

#[test]
fn fragments_of_tf32_f64_and_s8() {
    let rig = Rig::new(TENSOR);
    let (a, b, c) = (integers(128, 4), integers(64, 5), integers(128, 6));
    let (pa, pb, pc, pd) = (rig.put(&a), rig.put(&b), rig.put(&c), rig.empty::<f32>(128));
    rig.clean("fragment_tf32", 1, 32, &[Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::Ptr(pd)]);
    assert_eq!(rig.get::<f32>(pd, 128), product(&a, &b, &c, 16, 8, 8));

    let (a, b, c) = (integers(32, 7), integers(32, 8), integers(64, 9));
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (pa, pb, pc, pd) = (rig.put(&wide(&a)), rig.put(&wide(&b)), rig.put(&wide(&c)), rig.empty::<f64>(64));
    rig.clean("fragment_f64", 1, 32, &[Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::Ptr(pd)]);
    assert_eq!(rig.get::<f64>(pd, 64), wide(&product(&a, &b, &c, 8, 8, 4)));

    let (a, b, c) = (integers(512, 10), integers(256, 11), integers(128, 12));
    let bytes = |v: &[f32]| v.iter().map(|&x| x as i8 as u8).collect::<Vec<u8>>();
    let words = |v: &[f32]| v.iter().map(|&x| x as i32).collect::<Vec<i32>>();
    let (pa, pb, pc, pd) = (rig.put(&bytes(&a)), rig.put(&bytes(&b)), rig.put(&words(&c)), rig.empty::<i32>(128));
    rig.clean("fragment_s8", 1, 32, &[Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), Arg::Ptr(pd)]);
    assert_eq!(rig.get::<i32>(pd, 128), words(&product(&a, &b, &c, 16, 8, 32)));
}

#[test]
fn a_pipelined_bf16_product_with_and_without_its_wait() {
    let mut rig = Rig::new(TENSOR);
    let (m, n, k) = (128, 64, 160);
    let half = |v: Vec<f32>| v.into_iter().map(bf16).collect::<Vec<u16>>();
    let (a, b) = (half(noise(m * k, 20)), half(noise(k * n, 21)));
    let (pa, pb) = (rig.put(&a), rig.put(&b));
    let run = |rig: &Rig, name: &str| {
        let pc = rig.empty::<f32>(m * n);
        let dims = [m, n, k].map(|v| Arg::I32(v as i32));
        let args = [Arg::Ptr(pa), Arg::Ptr(pb), Arg::Ptr(pc), dims[0], dims[1], dims[2]];
        (rig.run_with(name, [1, 2, 1], [128, 1, 1], 0, &args), pc)
    };
    let (out, pc) = run(&rig, "gemm_bf16_pipeline");
    assert_clean("gemm_bf16_pipeline", &out);
    let c: Vec<f32> = rig.get(pc, m * n);
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|l| f64::from(from_bf16(a[i * k + l])) * f64::from(from_bf16(b[l * n + j])));
            let (want, size) = terms.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs()));
            assert!((f64::from(c[i * n + j]) - want).abs() <= 1e-6 * size, "({i},{j})");
        }
    }
    // Swizzled tiles: every shared-memory request takes its fewest wavefronts.
    let (waves, ideal) = out.sites.iter().fold((0, 0), |(w, i), s| (w + s.waves, i + s.ideal_waves));
    assert_eq!(waves, ideal, "bank conflicts");
    // The missing wait: the reads hit bytes whose copy is still pending.
    rig.settings.checks = Checks::MEMORY;
    let (out, _) = run(&rig, "gemm_bf16_missing_wait");
    assert_finding(
        &out,
        Kind::MissingWait,
        &["belongs to an asynchronous copy that no cp.async.wait has completed", "ldmatrix"],
    );
}
