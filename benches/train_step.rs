//! One training step of ResNet50V2 (forward, backward, Adam) and one inference pass on random data.
//!
//! `cargo bench --bench train_step -- --size 72 --batch 128 --threads 2 [--steps 3]` prints one JSON line with
//! the times of every step, and a table of where the time of the last step went by op.

use std::time::Instant;
use warpsmith::nn::{Forward, Head, ParamsBuilder, ResNet50V2};
use warpsmith::optim::{Adam, AdamConfig};
use warpsmith::rng::{Philox, unit};
use warpsmith::{Device, Error, Result, Tensor, ops};

struct Options {
    size: usize,
    batch: usize,
    threads: usize,
    steps: usize,
}

fn options() -> Result<Options> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { size: 72, batch: 128, threads: cores, steps: 3 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let slot = match flag.as_str() {
            "--size" => &mut options.size,
            "--batch" => &mut options.batch,
            "--threads" => &mut options.threads,
            "--steps" => &mut options.steps,
            // cargo adds this one to every bench.
            "--bench" => continue,
            _ => {
                return Err(Error::argument(
                    "train_step",
                    "--size, --batch, --threads or --steps",
                    flag,
                    "see the bench's first lines",
                ));
            }
        };
        let text = args.next().unwrap_or_default();
        *slot = text.parse().ok().filter(|&n: &usize| n > 0).ok_or_else(|| {
            Error::argument("train_step", "a positive number", format_args!("{flag} {text}"), "for example --size 72")
        })?;
    }
    Ok(options)
}

/// CPU seconds of this process, all threads; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the parenthesised name; user and system time are the 12th and 13th, in 1/100 s on Linux.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Highest resident memory of this process in GB; 0 where the system does not say.
fn peak_rss_gb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1e6
}

fn list(values: &[f64]) -> String {
    let texts: Vec<String> = values.iter().map(|v| format!("{v:.4}")).collect();
    format!("[{}]", texts.join(", "))
}

fn main() -> Result<()> {
    let Options { size, batch, threads, steps } = options()?;
    let device = Device::cpu_with_threads(threads)?;
    let mut builder = ParamsBuilder::new();
    let net = ResNet50V2::new(&mut builder, Head::Classes(10));
    let params = builder.build(&device, 0)?;
    let mut adam = Adam::new(&params, AdamConfig::default())?;
    let mut rng = Philox::new(0, 0);
    let pixels: Vec<f32> = (0..batch * size * size * 3).map(|_| unit(rng.next_word()) * 2.0 - 1.0).collect();
    let images = Tensor::from_slice(&device, &[batch, size, size, 3], &pixels)?;
    let classes: Vec<i32> = (0..batch).map(|_| (rng.next_word() % 10) as i32).collect();
    let labels = Tensor::from_slice(&device, &[batch], &classes)?;

    let (mut fwd, mut bwd, mut opt, mut total, mut cpu, mut losses) = (vec![], vec![], vec![], vec![], vec![], vec![]);
    let mut by_op = Vec::new();
    // The first step warms the pool up and is not counted.
    for i in 0..=steps {
        if i == steps {
            device.start_profile();
        }
        let cpu_start = cpu_seconds();
        let start = Instant::now();
        params.zero_gradients()?;
        let pass = Forward::training(&params);
        let logits = net.forward(&pass, &pass.tape.constant(images.clone()))?;
        let loss = ops::cross_entropy(&logits, &labels)?;
        let value = loss.tensor().item()?;
        let after_forward = start.elapsed().as_secs_f64();
        loss.backward()?;
        let after_backward = start.elapsed().as_secs_f64();
        adam.step(&params)?;
        let end = start.elapsed().as_secs_f64();
        if i > 0 {
            fwd.push(after_forward);
            bwd.push(after_backward - after_forward);
            opt.push(end - after_backward);
            total.push(end);
            cpu.push(cpu_seconds() - cpu_start);
            losses.push(f64::from(value));
        }
        if i == steps {
            by_op = device.end_profile();
        }
    }
    let rss = peak_rss_gb();

    let (mut infer, mut infer_cpu) = (vec![], vec![]);
    for i in 0..=steps.max(2) {
        let (cpu_start, start) = (cpu_seconds(), Instant::now());
        let pass = Forward::inference(&params);
        net.forward(&pass, &pass.tape.constant(images.clone()))?;
        if i > 0 {
            infer.push(start.elapsed().as_secs_f64());
            infer_cpu.push(cpu_seconds() - cpu_start);
        }
    }

    println!(
        "{{\"peer\": \"warpsmith-fp32\", \"size\": {size}, \"batch\": {batch}, \"threads\": {threads}, \"fwd\": {}, \"bwd\": {}, \
         \"opt\": {}, \"step\": {}, \"step_cpu\": {}, \"loss\": {}, \"infer\": {}, \"infer_cpu\": {}, \"rss_gb\": {rss:.3}, \
         \"pool_peak_gb\": {:.3}}}",
        list(&fwd),
        list(&bwd),
        list(&opt),
        list(&total),
        list(&cpu),
        list(&losses),
        list(&infer),
        list(&infer_cpu),
        device.memory().peak_bytes as f64 / 1e9,
    );
    let last = total[total.len() - 1];
    let mut accounted = 0.0;
    eprintln!("\n{:<28} {:>6} {:>10} {:>7}", "op", "calls", "ms", "share");
    for (op, time) in &by_op {
        accounted += time.seconds;
        eprintln!("{op:<28} {:>6} {:>10.2} {:>6.1}%", time.calls, time.seconds * 1e3, 100.0 * time.seconds / last);
    }
    let rest = last - accounted;
    eprintln!("{:<28} {:>6} {:>10.2} {:>6.1}%", "everything else", "", rest * 1e3, 100.0 * rest / last);
    eprintln!("{:<28} {:>6} {:>10.2} {:>6.1}%", "step", "", last * 1e3, 100.0);
    Ok(())
}
