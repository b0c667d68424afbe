//! Progress on standard error: a bar per epoch on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use warpsmith::train::{EpochRecord, Observer, StepReport};

/// How often a plain line says where an epoch stands.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub struct Progress {
    terminal: bool,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), bar: None, last_line: Instant::now() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02} min"),
        (h, m, _) => format!("{h}:{m:02} h"),
    }
}

fn metrics(loss: f64, accuracy: Option<f64>) -> String {
    accuracy.map_or(format!("loss {loss:.4}"), |share| format!("loss {loss:.4}, accuracy {:.1} %", share * 100.0))
}

fn rate(r: &StepReport) -> String {
    let (steps, images, eta) = (r.steps_per_second, r.images_per_second, duration(r.eta_seconds));
    format!("{steps:.1} steps/s, {images:.0} images/s, ETA {eta}, {}", metrics(r.loss, r.accuracy))
}

impl Observer for Progress {
    fn step(&mut self, r: &StepReport) {
        let place = format!("{} epoch {}/{}", r.run, r.epoch, r.epochs);
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| {
                let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg}");
                let bar = ProgressBar::new(r.steps as u64).with_prefix(place);
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
                bar
            });
            bar.set_message(rate(r));
            bar.set_position(r.step as u64);
        } else if self.last_line.elapsed() >= PLAIN_EVERY {
            eprintln!("{place}, step {}/{}: {}", r.step, r.steps, rate(r));
            self.last_line = Instant::now();
        }
    }

    fn epoch(&mut self, run: &str, epochs: u32, e: &EpochRecord) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let mut text = format!("{run} epoch {}/{epochs}: {}", e.epoch, metrics(e.train_loss, e.train_accuracy));
        if let Some(loss) = e.val_loss {
            text += &format!(", validation {}", metrics(loss, e.val_accuracy));
        }
        text += &format!(", {:.0} images/s, {}", e.images_per_second, duration(e.seconds));
        self.line(&text);
        self.last_line = Instant::now();
    }

    fn message(&mut self, text: &str) {
        self.line(text);
    }
}
