//! Memory-bound CPU ops on ResNet50V2's sizes, beside a copy and a triad of the same machine and moment.
//!
//! `cargo bench --bench layers -- [--threads N] [--batch N] [NAME]` prints the median and the best time, and GB/s over
//! the compulsory bytes (every operand once) at the best, beside the share of the triad's GB/s in the same rounds.

use rayon::prelude::*;
use std::time::Instant;
use warpsmith::cpu::{adam, batch_norm, elementwise, pool2d};
use warpsmith::problem::{Pool2dProblem, Span, Window};

/// Rounds of interleaved measurements; medians are printed.
const ROUNDS: usize = 15;

/// Activations `(what, pixels per image, channels)` at 72x72.
const ACTIVATIONS: [(&str, usize, usize); 5] = [
    ("conv1 36x36x64", 36 * 36, 64),
    ("conv2 18x18x256", 18 * 18, 256),
    ("conv2 18x18x64", 18 * 18, 64),
    ("conv4 5x5x1024", 5 * 5, 1024),
    ("conv5 3x3x2048", 3 * 3, 2048),
];

struct Bench {
    name: String,
    bytes: usize,
    run: Box<dyn FnMut()>,
    seconds: Vec<f64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |flag: &str, default: usize| {
        let place = arguments.iter().position(|a| a == flag);
        place.and_then(|i| arguments.get(i + 1)?.parse().ok()).unwrap_or(default)
    };
    let threads = value("--threads", std::thread::available_parallelism().map_or(1, |n| n.get()));
    let batch = value("--batch", 128);
    let name = arguments.last().filter(|a| !a.starts_with("--") && a.parse::<usize>().is_err()).cloned();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    pool.install(|| measure(threads, batch, name.as_deref().unwrap_or("")));
}

fn measure(threads: usize, batch: usize, filter: &str) {
    let mut benches: Vec<Bench> = Vec::new();
    let mut add = |name: String, floats: usize, run: Box<dyn FnMut()>| {
        if filter.is_empty() || name.contains(filter) || name.starts_with("triad") {
            benches.push(Bench { name, bytes: floats * 4, run, seconds: Vec::new() });
        }
    };
    let n = 16 << 20;
    let (a, b, mut y) = (vec![1.0f32; n], vec![2.0f32; n], vec![0.0f32; n]);
    add(
        "triad y = a + 0.5 b".into(),
        3 * n,
        Box::new(move || {
            y.par_chunks_mut(1 << 16).zip(a.par_chunks(1 << 16).zip(b.par_chunks(1 << 16))).for_each(|(y, (a, b))| {
                for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
                    *y = a + 0.5 * b;
                }
            });
        }),
    );
    let (a, mut y) = (vec![1.0f32; n], vec![0.0f32; n]);
    add(
        "copy".into(),
        2 * n,
        Box::new(move || {
            y.par_chunks_mut(1 << 16).zip(a.par_chunks(1 << 16)).for_each(|(y, a)| y.copy_from_slice(a));
        }),
    );
    for (what, pixels, c) in ACTIVATIONS {
        add_batch_norm(&mut add, what, batch * pixels, c);
    }
    add_pool(&mut add, batch);
    let n = batch * 18 * 18 * 256;
    let (a, mut y) = (vec![1.0f32; n], vec![0.0f32; n]);
    add("add_assign conv2 18x18x256".into(), 3 * n, Box::new(move || elementwise::add_assign(&a, &mut y).unwrap()));
    let n = 23_519_360;
    let spans: Vec<Span> = (0..160)
        .map(|i| Span { param_offset: i * (n as u64 / 160), grad_offset: i * (n as u64 / 160), len: n as u64 / 160 })
        .collect();
    let (mut w, g, mut m, mut v) = (vec![0.1f32; n], vec![0.2f32; n], vec![0.0f32; n], vec![0.0f32; n]);
    let mut t = 0;
    add(
        "adam 23.5 M parameters".into(),
        7 * n,
        Box::new(move || {
            t += 1;
            adam::step(&adam::Adam::default(), t, &spans, &mut w, &g, &mut m, &mut v).unwrap();
        }),
    );

    benches.iter_mut().for_each(|bench| (bench.run)());
    for _ in 0..ROUNDS {
        for bench in &mut benches {
            let start = Instant::now();
            (bench.run)();
            bench.seconds.push(start.elapsed().as_secs_f64());
        }
    }
    for bench in &mut benches {
        bench.seconds.sort_by(f64::total_cmp);
    }
    let rate = |bench: &Bench| bench.bytes as f64 / bench.seconds[0] / 1e9;
    let triad = rate(&benches[0]);
    println!("{threads} threads, batch {batch}, {ROUNDS} rounds");
    println!("{:<46} {:>9} {:>9} {:>8} {:>9}", "op", "median ms", "best ms", "GB/s", "of triad");
    for bench in &benches {
        let (median, best, gbs) = (bench.seconds[ROUNDS / 2] * 1e3, bench.seconds[0] * 1e3, rate(bench));
        println!("{:<46} {median:>9.3} {best:>9.3} {gbs:>8.1} {:>8.0}%", bench.name, gbs / triad * 100.0);
    }
}

fn add_batch_norm(add: &mut impl FnMut(String, usize, Box<dyn FnMut()>), what: &str, rows: usize, c: usize) {
    let n = rows * c;
    let x: Vec<f32> = (0..n).map(|i| (i % 977) as f32 / 977.0).collect();
    let (gamma, beta) = (vec![1.0; c], vec![-0.3; c]);
    let (mut mean, mut var, mut inv_std) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    batch_norm::statistics(rows, c, &x, &mut mean, &mut var).unwrap();
    batch_norm::inv_std(&var, 1e-5, &mut inv_std).unwrap();
    let (mut out_mean, mut out_var, input) = (mean.clone(), var.clone(), x.clone());
    add(
        format!("batch_norm statistics {what}"),
        n,
        Box::new(move || batch_norm::statistics(rows, c, &input, &mut out_mean, &mut out_var).unwrap()),
    );
    let (mut y, tables) = (vec![0.0; n], (mean.clone(), inv_std.clone(), gamma.clone(), beta.clone()));
    let input = x.clone();
    add(
        format!("batch_norm normalize+relu {what}"),
        2 * n,
        Box::new(move || {
            let (mean, inv_std, gamma, beta) = &tables;
            batch_norm::normalize(rows, c, &input, mean, inv_std, gamma, beta, true, &mut y).unwrap();
        }),
    );
    let (dy, mut dx, mut dgamma, mut dbeta) = (vec![0.5; n], vec![0.0; n], vec![0.0; c], vec![0.0; c]);
    // x and dy are needed twice, once on either side of the reduction.
    add(
        format!("batch_norm backward_train+relu {what}"),
        5 * n,
        Box::new(move || {
            let (dx, dgamma, dbeta) = (Some(&mut dx[..]), Some(&mut dgamma[..]), Some(&mut dbeta[..]));
            batch_norm::backward_train(
                rows, c, &x, &dy, &mean, &inv_std, &gamma, &beta, true, dx, false, dgamma, dbeta,
            )
            .unwrap();
        }),
    );
}

fn add_pool(add: &mut impl FnMut(String, usize, Box<dyn FnMut()>), batch: usize) {
    let problem = Pool2dProblem::new([batch as u32, 36, 36, 64], [3, 3], Window::square(1, 2)).unwrap();
    let (x_elems, y_elems) = (problem.x_elems(), problem.y_elems());
    let x: Vec<f32> = (0..x_elems).map(|i| (i * 7919 % 977) as f32 - 400.0).collect();
    let (mut y, mut argmax) = (vec![0.0; y_elems], vec![0; y_elems]);
    pool2d::max(&problem, 0.0, &x, &mut y, Some(&mut argmax)).unwrap();
    let mut written = argmax.clone();
    add(
        "pool2d max 3x3/2 36x36x64".into(),
        x_elems + y_elems + y_elems / 4,
        Box::new(move || pool2d::max(&problem, 0.0, &x, &mut y, Some(&mut written)).unwrap()),
    );
    let (dy, mut dx) = (vec![1.0; y_elems], vec![0.0; x_elems]);
    add(
        "pool2d max_backward 3x3/2 36x36x64".into(),
        x_elems + y_elems + y_elems / 4,
        Box::new(move || pool2d::max_backward(&problem, &dy, Some(&argmax), false, &mut dx).unwrap()),
    );
    let problem = Pool2dProblem::new([batch as u32, 18, 18, 256], [1, 1], Window::square(0, 2)).unwrap();
    let (x, mut y) = (vec![1.0; problem.x_elems()], vec![0.0; problem.y_elems()]);
    add(
        "pool2d max 1x1/2 18x18x256".into(),
        2 * problem.y_elems(),
        Box::new(move || pool2d::max(&problem, 0.0, &x, &mut y, None).unwrap()),
    );
}
