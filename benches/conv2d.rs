//! Times fprop, dgrad and wgrad of every distinct convolution of ResNet50V2 on the CPU device.
//!
//! `cargo bench --bench conv2d -- [image size] [batch] [repetitions] [threads] [name filter]`, by default
//! `72 128 5` with one thread per core. Every time is the median of the repetitions. FLOPs count padding taps, as
//! `Conv2dProblem::flops` does, so a layer that leaves them out can exceed the processor's peak.

#[path = "common/resnet50v2.rs"]
mod resnet50v2;

use resnet50v2::{Convolution, convolutions};
use std::time::Instant;
use warpsmith::cpu::conv2d;

/// Seconds of the median repetition, after one run that warms caches and buffers.
fn time(repetitions: usize, mut pass: impl FnMut()) -> f64 {
    pass();
    let mut seconds: Vec<f64> = (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[repetitions / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(default, |arg| arg.parse().expect("a number"));
    let (size, batch, repetitions) = (number(0, 72) as u32, number(1, 128) as u32, number(2, 5).max(1));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(number(3, 0)).build().expect("a thread pool");
    let filter = args.get(4).map_or("", String::as_str);
    println!("{size}x{size} b{batch}, {} threads", pool.current_num_threads());
    println!("{:<12} {:>8} {:>26} {:>26}", "conv", "GFLOP", "ms fprop/dgrad/wgrad", "GFLOP/s fprop/dgrad/wgrad");
    let (mut sums, mut flops) = ([0.0; 3], 0.0);
    let layers = convolutions(size, batch).into_iter().filter(|layer| layer.name.contains(filter));
    for Convolution { name, count, problem: p, .. } in layers {
        let numbers = |elems: usize| (0..elems).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect::<Vec<_>>();
        let (x, w, dy) = (numbers(p.x_elems()), numbers(p.w_elems()), numbers(p.y_elems()));
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let gflop = p.flops() as f64 / 1e9;
        let seconds = pool.install(|| {
            [
                time(repetitions, || conv2d::fprop(p, &x, &w, None, None, &mut y).expect("fprop")),
                time(repetitions, || conv2d::dgrad(p, &w, &dy, &mut dx).expect("dgrad")),
                time(repetitions, || conv2d::wgrad(p, &x, &dy, &mut dw).expect("wgrad")),
            ]
        });
        let show = |values: [f64; 3], digits: usize| values.map(|v| format!("{v:.digits$}")).join(" / ");
        println!(
            "{:<12} {gflop:>8.2} {:>26} {:>26}",
            format!("{name} x{count}"),
            show(seconds.map(|s| s * 1e3), 2),
            show(seconds.map(|s| gflop / s), 0)
        );
        for i in 0..3 {
            sums[i] += seconds[i] * f64::from(count);
        }
        flops += gflop * f64::from(count);
    }
    let total: f64 = sums.iter().sum();
    println!(
        "sum: fprop {:.3} s, dgrad {:.3} s, wgrad {:.3} s, together {total:.3} s, {:.0} GFLOP/s",
        sums[0],
        sums[1],
        sums[2],
        3.0 * flops / total
    );
}
