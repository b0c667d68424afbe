//! `kernels/{adam,sgd,swa}.cu`: several steps on a span table with gaps, bit by bit equal to the host twins.

use super::Case;
use super::common::oracle::optimisers as oracle;
use super::common::{assert_close, widen};
use super::gpu::{assert_bits, gpu, numbers};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cuda::SpanTable;
use warpsmith::problem::Span;
use warpsmith::{cpu, cuda};

pub const CASES: &[Case] = &[
    ("optimisers::adam_equals_the_cpu", adam_equals_the_cpu),
    ("optimisers::sgd_equals_the_cpu", sgd_equals_the_cpu),
    ("optimisers::swa_equals_the_cpu", swa_equals_the_cpu),
    ("optimisers::bad_tables_are_errors", bad_tables_are_errors),
];

/// A frozen stretch first, an unaligned start, a span of several pieces, an empty one, one element.
const SPANS: [Span; 5] = [
    Span { param_offset: 8, grad_offset: 0, len: 12 },
    Span { param_offset: 21, grad_offset: 13, len: 30 },
    Span { param_offset: 64, grad_offset: 44, len: 9001 },
    Span { param_offset: 9100, grad_offset: 9050, len: 0 },
    Span { param_offset: 9101, grad_offset: 9051, len: 1 },
];
const PARAMS: usize = 9110;
const GRADS: usize = 9060;

fn table() -> SpanTable {
    SpanTable::new(&gpu().kernels, &SPANS, PARAMS, GRADS, &gpu().stream).unwrap()
}

/// The bf16 twin holds the rounded weights inside the spans and what it held before outside.
fn assert_copy(copy: &CudaSlice<bf16>, params: &[f32]) {
    let got: Vec<f32> = gpu().get(copy).iter().map(|x| x.to_f32()).collect();
    let mut want = vec![0.0; PARAMS];
    for span in SPANS {
        let range = span.param_offset as usize..(span.param_offset + span.len) as usize;
        for i in range {
            want[i] = bf16::from_f32(params[i]).to_f32();
        }
    }
    assert_bits(&got, &want, "the bf16 copy");
}

fn adam_equals_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let spans = table();
    let (mut w, mut m, mut v) = (numbers(PARAMS, 1), vec![0.0; GRADS], vec![0.0; GRADS]);
    let (mut dw, mut dm, mut dv) = (gpu.put(&w), gpu.put(&m), gpu.put(&v));
    let mut copy = s.alloc_zeros::<bf16>(PARAMS).unwrap();
    let (mut exact, mut exact_m, mut exact_v) = (widen(&w), vec![0.0; GRADS], vec![0.0; GRADS]);
    let [lr, eps] = [0.01f32, 1e-7].map(f64::from);
    for t in 1..=3 {
        let g = numbers(GRADS, 10 + t);
        let step = cuda::adam::AdamStep::new(0.01, 0.9, 0.999, 1e-7, t);
        let (step, dg) = (gpu.put(&[step]), gpu.put(&g));
        // The copy is optional.
        let copy = (t > 1).then_some(&mut copy);
        cuda::adam::step(&gpu.kernels, &spans, &step, &mut dw, &dg, (&mut dm, &mut dv), copy, s).unwrap();
        let adam = cpu::adam::Adam { learning_rate: 0.01, ..Default::default() };
        cpu::adam::step(&adam, t, &SPANS, &mut w, &g, &mut m, &mut v).unwrap();
        oracle::adam([lr, 0.9, 0.999, eps], t as i32, &SPANS, &mut exact, &g, (&mut exact_m, &mut exact_v));
    }
    assert_close("adam m", &"oracle", &[GRADS], &gpu.get(&dm), &exact_m, 1e-6, 1e-6);
    assert_close("adam v", &"oracle", &[GRADS], &gpu.get(&dv), &exact_v, 1e-6, 1e-6);
    assert_close("adam w", &"oracle", &[PARAMS], &gpu.get(&dw), &exact, 1e-6, 1e-6);
    assert_bits(&gpu.get(&dw), &w, "adam w");
    assert_bits(&gpu.get(&dm), &m, "adam m");
    assert_bits(&gpu.get(&dv), &v, "adam v");
    assert_copy(&copy, &w);
}

fn sgd_equals_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let spans = table();
    for momentum in [0.0, 0.9] {
        let sgd = cpu::sgd::Sgd { learning_rate: 0.1, momentum, weight_decay: 0.01 };
        let step = gpu.put(&[cuda::sgd::SgdStep { rate: 0.1, momentum, weight_decay: 0.01 }]);
        let (mut w, mut u) = (numbers(PARAMS, 2), vec![0.0; GRADS]);
        let (mut dw, mut du) = (gpu.put(&w), gpu.put(&u));
        let mut copy = s.alloc_zeros::<bf16>(PARAMS).unwrap();
        let (mut exact, mut exact_u) = (widen(&w), vec![0.0; GRADS]);
        for t in 0..3 {
            let g = numbers(GRADS, 20 + t);
            let dg = gpu.put(&g);
            let with_velocity = momentum != 0.0;
            let (du, u) = (with_velocity.then_some(&mut du), with_velocity.then_some(&mut u[..]));
            cuda::sgd::step(&gpu.kernels, &spans, &step, &mut dw, &dg, du, Some(&mut copy), s).unwrap();
            cpu::sgd::step(&sgd, &SPANS, &mut w, &g, u).unwrap();
            oracle::sgd([0.1f32, momentum, 0.01].map(f64::from), &SPANS, &mut exact, &g, &mut exact_u);
        }
        assert_close("sgd w", &"oracle", &[PARAMS], &gpu.get(&dw), &exact, 1e-6, 1e-6);
        assert_bits(&gpu.get(&dw), &w, "sgd w");
        assert_bits(&gpu.get(&du), &u, "sgd velocity");
        assert_copy(&copy, &w);
    }
}

fn swa_equals_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let spans = table();
    let (mut average, mut w) = (vec![0.0; GRADS], numbers(PARAMS, 3));
    let mut daverage = gpu.put(&average);
    let mut snapshots = Vec::new();
    for n in 0..3 {
        w = numbers(PARAMS, 30 + n);
        let step = gpu.put(&[cuda::swa::SwaStep { n: n as f32 }]);
        cuda::swa::update(&gpu.kernels, &spans, &step, &gpu.put(&w), &mut daverage, s).unwrap();
        cpu::swa::update(n, &SPANS, &w, &mut average).unwrap();
        snapshots.push(w.clone());
    }
    let exact = oracle::swa(&SPANS, &snapshots, GRADS);
    assert_close("swa average", &"oracle", &[GRADS], &gpu.get(&daverage), &exact, 1e-6, 1e-6);
    assert_bits(&gpu.get(&daverage), &average, "swa average");
    let (mut dw, mut copy) = (gpu.put(&w), s.alloc_zeros::<bf16>(PARAMS).unwrap());
    cuda::swa::assign(&gpu.kernels, &spans, &daverage, &mut dw, Some(&mut copy), s).unwrap();
    cpu::swa::assign(&SPANS, &average, &mut w).unwrap();
    assert_bits(&gpu.get(&dw), &w, "swa weights");
    assert_copy(&copy, &w);
}

fn bad_tables_are_errors() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let overlapping = [SPANS[0], SPANS[0]];
    let error = SpanTable::new(&gpu.kernels, &overlapping, PARAMS, GRADS, s).unwrap_err().to_string();
    assert!(error.contains("span 1"), "{error}");
    let mut short = gpu.put(&numbers(PARAMS - 9, 1));
    let none = None::<&mut CudaSlice<bf16>>;
    let error = cuda::swa::assign(&gpu.kernels, &table(), &gpu.put(&numbers(GRADS, 1)), &mut short, none, s);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("params") && error.contains("9102"), "{error}");
    // No trainable parameter is no launch.
    let nothing = SpanTable::new(&gpu.kernels, &[], PARAMS, GRADS, s).unwrap();
    cuda::swa::assign(&gpu.kernels, &nothing, &gpu.put(&[0.0f32]), &mut short, None::<&mut CudaSlice<bf16>>, s)
        .unwrap();
    assert_bits(&gpu.get(&short), &numbers(PARAMS - 9, 1), "untouched");
}
