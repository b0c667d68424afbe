//! Times fprop, dgrad and wgrad of every distinct convolution of ResNet50V2 on the CPU device.
//!
//! `cargo bench --bench conv2d -- [image size] [batch] [repetitions] [threads] [name filter]`, by default
//! `72 128 5` with one thread per core. Every time is the median of the repetitions. FLOPs count padding taps, as
//! [`Conv2dProblem::flops`] does, so a layer that leaves them out can exceed the processor's peak.

use std::time::Instant;
use warpsmith::cpu::conv2d;
use warpsmith::problem::{Conv2dProblem, Window};

/// Every distinct convolution with the number of times it occurs, for images of `size` pixels.
fn layers(size: u32, n: u32) -> Vec<(String, u32, Conv2dProblem)> {
    let conv = |h: u32, c: u32, k: u32, r: u32, stride: u32| {
        Conv2dProblem::new([n, h, h, c], [k, r, r, c], Window::square(r / 2, stride)).expect("a layer of ResNet50V2")
    };
    let half = |h: u32| h.div_ceil(2);
    let mut h = half(half(size));
    let mut list = vec![("stem".to_string(), 1, conv(size, 3, 64, 7, 2))];
    let mut input = 64;
    for (stage, blocks) in [3u32, 4, 6, 3].into_iter().enumerate() {
        let (f, name) = (64 << stage, |layer: &str| format!("s{}.{layer}", stage + 1));
        // Stages 1 to 3 end with a block of stride 2; in between every block is the same.
        let strided = stage < 3;
        let plain = blocks - u32::from(strided);
        list.push((name("sc"), 1, conv(h, input, 4 * f, 1, 1)));
        list.push((name("c1a"), 1, conv(h, input, f, 1, 1)));
        list.push((name("c2"), plain, conv(h, f, f, 3, 1)));
        list.push((name("c3"), plain, conv(h, f, 4 * f, 1, 1)));
        list.push((name("c1"), blocks - 1, conv(h, 4 * f, f, 1, 1)));
        if strided {
            list.push((name("c2_s2"), 1, conv(h, f, f, 3, 2)));
            h = half(h);
            list.push((name("c3_end"), 1, conv(h, f, 4 * f, 1, 1)));
        }
        input = 4 * f;
    }
    list
}

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
    for (name, count, p) in layers(size, batch).into_iter().filter(|(name, ..)| name.contains(filter)) {
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
