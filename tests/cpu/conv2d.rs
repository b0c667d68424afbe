//! Convolution against the naive oracle, on every instruction set, and its promises: `=` and `+=`, bit-equal results
//! for every number of threads, errors instead of panics.

use crate::common::oracle::conv2d as oracle;
use crate::common::{assert_close, problems, random, rtol_sum};
use warpsmith::cpu::conv2d;
use warpsmith::cpu::gemm::{Isa, with_isa};
use warpsmith::problem::{Conv2dProblem, Window};
use warpsmith::rng::Philox;

fn window(pads: [u32; 4], strides: [u32; 2], dilations: [u32; 2]) -> Window {
    Window { pads, strides, dilations }
}

struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    dw: Vec<f32>,
    db: Vec<f32>,
}

fn data(p: &Conv2dProblem) -> Data {
    Data {
        x: random(p.x_elems(), 1),
        w: random(p.w_elems(), 2),
        bias: random(p.k as usize, 3),
        residual: random(p.y_elems(), 4),
        dy: random(p.y_elems(), 5),
        dw: random(p.w_elems(), 6),
        db: random(p.k as usize, 7),
    }
}

/// The wanted results of all passes: y plain, y with bias, y with bias and residual, dx, dw, db.
fn wanted(p: &Conv2dProblem, d: &Data) -> [Vec<f64>; 6] {
    [
        oracle::fprop(p, &d.x, &d.w, None, None),
        oracle::fprop(p, &d.x, &d.w, Some(&d.bias), None),
        oracle::fprop(p, &d.x, &d.w, Some(&d.bias), Some(&d.residual)),
        oracle::dgrad(p, &d.w, &d.dy),
        oracle::wgrad(p, &d.x, &d.dy, &d.dw),
        oracle::bias_grad(p, &d.dy, &d.db),
    ]
}

/// The results of all passes, in the order of [`wanted`]. Everything that is written with `=` starts as NaN.
fn computed(p: &Conv2dProblem, d: &Data) -> [Vec<f32>; 6] {
    let nan = |elems| vec![f32::NAN; elems];
    let (mut plain, mut biased, mut full) = (nan(p.y_elems()), nan(p.y_elems()), nan(p.y_elems()));
    let mut dx = nan(p.x_elems());
    let (mut dw, mut db) = (d.dw.clone(), d.db.clone());
    conv2d::fprop(*p, &d.x, &d.w, None, None, &mut plain).unwrap();
    conv2d::fprop(*p, &d.x, &d.w, Some(&d.bias), None, &mut biased).unwrap();
    conv2d::fprop(*p, &d.x, &d.w, Some(&d.bias), Some(&d.residual), &mut full).unwrap();
    conv2d::dgrad(*p, &d.w, &d.dy, &mut dx).unwrap();
    conv2d::wgrad(*p, &d.x, &d.dy, &mut dw).unwrap();
    conv2d::bias_grad(*p, &d.dy, &mut db).unwrap();
    [plain, biased, full, dx, dw, db]
}

fn check(why: &str, p: &Conv2dProblem) {
    let d = data(p);
    let want = wanted(p, &d);
    let [n, h, w, c, k, r, s] = [p.n, p.h, p.w, p.c, p.k, p.r, p.s].map(|extent| extent as usize);
    let y = [n, p.p as usize, p.q as usize, k];
    let shapes: [&[usize]; 6] = [&y, &y, &y, &[n, h, w, c], &[k, r, s, c], &[k]];
    // Longest sums: a window, the outputs that see a pixel, all pixels.
    let terms = [r * s * c + 2, r * s * c + 2, r * s * c + 2, r * s * k, p.gemm_m() + 1, p.gemm_m() + 1];
    let names = ["fprop", "fprop + bias", "fprop + bias + residual", "dgrad", "wgrad", "bias_grad"];
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let got = with_isa(isa, || computed(p, &d)).unwrap();
        for i in 0..6 {
            let rtol = rtol_sum(terms[i]);
            // Products of numbers below 1: a sum of n has typical size sqrt(n) / 3, so its rounding is `rtol` of that
            // even where the sum itself cancels.
            let atol = rtol * (terms[i] as f64).sqrt() / 3.0;
            let op = format!("{} {isa:?} ({why})", names[i]);
            assert_close(&op, p, shapes[i], &got[i], &want[i], atol, rtol);
        }
    }
}

#[test]
fn curated_problems_match_the_oracle() {
    for (why, p) in problems::conv2d() {
        check(why, &p);
    }
}

#[test]
fn random_problems_match_the_oracle() {
    let mut rng = Philox::new(2024, 7);
    let mut up_to = |limit: u32| rng.next_word() % limit + 1;
    let mut checked = 0;
    while checked < 60 {
        let x = [up_to(20), up_to(9), up_to(9), up_to(20)];
        let filter = [up_to(40), up_to(4), up_to(4), x[3]];
        let window = window(
            [up_to(4) - 1, up_to(4) - 1, up_to(4) - 1, up_to(4) - 1],
            [up_to(3), up_to(3)],
            [up_to(3), up_to(3)],
        );
        // A filter larger than the padded image has no output.
        if let Ok(p) = Conv2dProblem::new(x, filter, window) {
            check("random", &p);
            checked += 1;
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (why, p) in problems::conv2d() {
        let d = data(&p);
        let mut results = [1, 2, 3].into_iter().map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| computed(&p, &d)).map(|result| result.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        });
        let one = results.next().unwrap();
        for (threads, other) in results.enumerate() {
            assert!(one == other, "{why}: 1 and {} threads differ", threads + 2);
        }
    }
}

#[test]
fn concurrent_calls_do_not_disturb_each_other() {
    let problems: Vec<_> = problems::conv2d().into_iter().map(|(_, p)| (data(&p), p)).collect();
    let alone: Vec<_> = problems.iter().map(|(d, p)| computed(p, d)).collect();
    use rayon::prelude::*;
    // Calls started inside a pool steal each other's tasks while they wait.
    let together: Vec<_> = problems.par_iter().map(|(d, p)| computed(p, d)).collect();
    assert!(alone == together);
}

#[test]
fn wrong_lengths_are_errors() {
    let p = Conv2dProblem::new([2, 4, 4, 3], [5, 3, 3, 3], Window::square(1, 1)).unwrap();
    let d = data(&p);
    let (mut y, mut dx) = (vec![0.0; p.y_elems()], vec![0.0; p.x_elems()]);
    let (mut dw, mut db) = (d.dw.clone(), d.db.clone());
    let short = |slice: &[f32]| slice[1..].to_vec();
    let cases = [
        ("`x`", conv2d::fprop(p, &short(&d.x), &d.w, None, None, &mut y)),
        ("`w`", conv2d::fprop(p, &d.x, &short(&d.w), None, None, &mut y)),
        ("`bias`", conv2d::fprop(p, &d.x, &d.w, Some(&short(&d.bias)), None, &mut y)),
        ("`residual`", conv2d::fprop(p, &d.x, &d.w, None, Some(&short(&d.residual)), &mut y)),
        ("`y`", conv2d::fprop(p, &d.x, &d.w, None, None, &mut y[1..])),
        ("`w`", conv2d::dgrad(p, &short(&d.w), &d.dy, &mut dx)),
        ("`dy`", conv2d::dgrad(p, &d.w, &short(&d.dy), &mut dx)),
        ("`dx`", conv2d::dgrad(p, &d.w, &d.dy, &mut dx[1..])),
        ("`x`", conv2d::wgrad(p, &short(&d.x), &d.dy, &mut dw)),
        ("`dy`", conv2d::wgrad(p, &d.x, &short(&d.dy), &mut dw)),
        ("`dw`", conv2d::wgrad(p, &d.x, &d.dy, &mut dw[1..])),
        ("`dy`", conv2d::bias_grad(p, &short(&d.dy), &mut db)),
        ("`db`", conv2d::bias_grad(p, &d.dy, &mut db[1..])),
    ];
    for (name, result) in cases {
        let text = result.expect_err(name).to_string();
        assert!(text.starts_with("conv2d.") && text.contains(name) && text.contains("elements"), "{name}: {text}");
    }
}

#[test]
fn contradictory_problems_are_errors() {
    let good = Conv2dProblem::new([1, 4, 4, 1], [1, 3, 3, 1], Window::square(1, 1)).unwrap();
    let wrong = Conv2dProblem { p: 5, ..good };
    let text = conv2d::fprop(wrong, &[0.0; 16], &[0.0; 9], None, None, &mut [0.0; 20]).unwrap_err().to_string();
    assert!(text.starts_with("conv2d.fprop: expected p and q that follow"), "{text}");
    let still = Conv2dProblem { stride_h: 0, ..good };
    let text = conv2d::dgrad(still, &[0.0; 9], &[0.0; 16], &mut [0.0; 16]).unwrap_err().to_string();
    assert!(text.contains("stride 0"), "{text}");
    // Offsets of such tensors would wrap around: 2^63 pixels of 2 channels count as none.
    let huge = [1 << 31, 1 << 31, 2, 2];
    let text = Conv2dProblem::new(huge, [2, 1, 1, 2], Window::default()).unwrap_err().to_string();
    assert!(text.contains("fit the address space"), "{text}");
}
