//! Adam, SGD and SWA: one walk over the span table, three rules.

use crate::common::oracle::optimisers as oracle;
use crate::common::{assert_close, assert_error, random, widen};
use warpsmith::cpu::{adam, sgd, swa};
use warpsmith::problem::Span;

const PARAMS: usize = 150_000;
const GRADS: usize = 120_000;

/// Spans of one element, of a vector and a tail, empty, and longer than a task; with gaps in both arenas.
fn spans() -> Vec<Span> {
    let span = |param_offset, grad_offset, len| Span { param_offset, grad_offset, len };
    vec![span(3, 0, 1), span(4, 4, 37), span(64, 64, 0), span(100, 64, 100_001), span(140_000, 110_000, 10_000)]
}

#[test]
fn adam_follows_its_formula() {
    let settings = adam::Adam { learning_rate: 0.01, beta_1: 0.9, beta_2: 0.99, eps: 1e-3 };
    let mut w = random(PARAMS, 1);
    let (mut m, mut v) = (vec![0.0; GRADS], vec![0.0; GRADS]);
    let (untouched, mut want) = (w.clone(), widen(&w));
    let (mut want_m, mut want_v) = (vec![0.0; GRADS], vec![0.0; GRADS]);
    let [lr, eps] = [0.01f32, 1e-3].map(f64::from);
    for t in 1..=5 {
        let g = random(GRADS, 10 + t);
        adam::step(&settings, t, &spans(), &mut w, &g, &mut m, &mut v).unwrap();
        oracle::adam([lr, 0.9, 0.99, eps], t as i32, &spans(), &mut want, &g, (&mut want_m, &mut want_v));
        assert_close("m", &t, &[GRADS], &m, &want_m, 1e-6, 1e-6);
        assert_close("v", &t, &[GRADS], &v, &want_v, 1e-6, 1e-6);
        assert_close("w", &t, &[PARAMS], &w, &want, 1e-6, 1e-6);
    }
    let mut inside = vec![false; PARAMS];
    oracle::pairs(&spans()).iter().for_each(|&(p, _)| inside[p] = true);
    assert!((0..PARAMS).all(|p| inside[p] != (w[p] == untouched[p])), "padding must not move, parameters must");
}

#[test]
fn sgd_follows_its_formula() {
    let [lr, momentum, decay] = [0.1f32, 0.9, 0.01];
    for (momentum, decay) in [(0.0, 0.0), (momentum, 0.0), (momentum, decay), (0.0, decay)] {
        let settings = sgd::Sgd { learning_rate: lr, momentum, weight_decay: decay };
        let mut w = random(PARAMS, 2);
        let mut velocity = vec![0.0; GRADS];
        let (mut want, mut want_velocity) = (widen(&w), vec![0.0; GRADS]);
        for t in 0..4 {
            let g = random(GRADS, 20 + t);
            let state = (momentum != 0.0).then_some(&mut velocity[..]);
            sgd::step(&settings, &spans(), &mut w, &g, state).unwrap();
            oracle::sgd([lr, momentum, decay].map(f64::from), &spans(), &mut want, &g, &mut want_velocity);
        }
        assert_close("w", &settings, &[PARAMS], &w, &want, 1e-6, 1e-6);
        if momentum != 0.0 {
            assert_close("velocity", &settings, &[GRADS], &velocity, &want_velocity, 1e-6, 1e-6);
        }
    }
}

#[test]
fn swa_averages_its_snapshots() {
    let mut average = vec![0.0; GRADS];
    let snapshots: Vec<Vec<f32>> = (0..8).map(|step| random(PARAMS, 30 + step)).collect();
    for (n, w) in (0..).zip(&snapshots) {
        swa::update(n, &spans(), w, &mut average).unwrap();
    }
    let want = oracle::swa(&spans(), &snapshots, GRADS);
    assert_close("average", &"", &[GRADS], &average, &want, 1e-6, 1e-6);
    let mut w = vec![7.0; PARAMS];
    swa::assign(&spans(), &average, &mut w).unwrap();
    let mut want = vec![7.0; PARAMS];
    oracle::pairs(&spans()).iter().for_each(|&(p, i)| want[p] = average[i]);
    assert_eq!(w, want);
}

#[test]
fn an_empty_table_does_nothing() {
    let mut w = [1.0];
    adam::step(&adam::Adam::default(), 1, &[], &mut w, &[], &mut [], &mut []).unwrap();
    assert_eq!(w, [1.0]);
}

#[test]
fn errors_say_what_is_wrong() {
    let span = |param_offset, grad_offset, len| Span { param_offset, grad_offset, len };
    let adam = |spans: &[Span], t: u64, state: usize| {
        let (mut w, mut m, mut v) = ([0.0; 8], vec![0.0; state], vec![0.0; 8]);
        adam::step(&adam::Adam::default(), t, spans, &mut w, &[0.0; 8], &mut m, &mut v)
    };
    assert_error(adam(&[span(0, 0, 8)], 0, 8), &["adam", "t >= 1", "got 0", "count steps from 1"]);
    assert_error(adam(&[span(0, 0, 8)], 1, 7), &["8 elements in `m`", "got 7"]);
    let text = &["span 1 from parameter 4 and gradient 4 on", "sort the span table"];
    for bad in [span(3, 4, 1), span(4, 3, 1), span(4, 4, 5), span(u64::MAX, 4, 2)] {
        assert_error(adam(&[span(0, 0, 4), bad], 1, 8), text);
    }
    let momentum = sgd::Sgd { momentum: 0.9, ..sgd::Sgd::default() };
    assert_error(
        sgd::step(&momentum, &[span(0, 0, 1)], &mut [0.0], &[0.0], None),
        &["sgd", "a velocity when momentum is not 0", "gradient arena's layout"],
    );
    assert_error(swa::update(0, &[span(0, 0, 2)], &[0.0], &mut [0.0; 2]), &["swa", "arenas of 1 and 2 elements"]);
}
