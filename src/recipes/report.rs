//! What a procedure leaves behind: tables, JSON, and pictures.

use super::{Recipe, resize};
use crate::Result;
use crate::augment::Pipeline;
use crate::data::ImageSet;
use crate::train::history::{self, RunHistory};
use crate::train::plot::{Series, Tile, image_grid, line_chart, side_by_side};
use crate::train::{Augmented, EpochRecord, Robustness, RunRecord, Session};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::path::Path;

/// The outcome of a procedure.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the procedure.
    pub procedure: String,
    /// Device it ran on.
    pub device: String,
    /// Seed.
    pub seed: u64,
    /// The recipe's constants.
    pub config: Value,
    /// Where the images came from; `null` = the bundled ones, or generated corruptions.
    pub sources: Value,
    /// Every run, in order.
    pub runs: Vec<RunRecord>,
    /// Seconds, sessions that were resumed included.
    pub wall_seconds: f64,
    /// Highest use of the device's memory.
    pub peak_memory_bytes: usize,
    /// What else the procedure found, by name.
    #[serde(flatten)]
    pub results: Map<String, Value>,
}

impl Report {
    /// The report of a session whose runs are finished.
    pub(super) fn new<R: Recipe>(session: &Session, results: Map<String, Value>) -> Report {
        let part = |name: &str| session.config().get(name).cloned().unwrap_or_default();
        Report {
            procedure: R::PROCEDURE.into(),
            device: session.device().to_string(),
            seed: session.seed(),
            config: part("recipe"),
            sources: part("sources"),
            runs: session.finished().to_vec(),
            wall_seconds: session.wall_seconds(),
            peak_memory_bytes: session.peak_memory_bytes(),
            results,
        }
    }

    /// Writes `report.json`, `history.json`, `history.csv` and `curves.png` into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let histories: Vec<_> =
            self.runs.iter().map(|run| RunHistory { name: &run.name, history: &run.history }).collect();
        history::write(folder, &histories)?;
        curves(&self.procedure, &self.runs)?.write_png(folder.join("curves.png"))?;
        crate::fs::write_json(folder.join("report.json"), self)
    }

    /// The runs as a table for the terminal: a line each, with every number that was measured. Below it what each run
    /// reaches under corruption, where that was measured.
    pub fn table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in self.runs.iter().flat_map(|run| run.extra.iter().filter(|(_, v)| v.is_number()).map(|(k, _)| k)) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let mut rows = vec![["run", "epochs", "steps", "train loss", "test accuracy"].map(String::from).to_vec()];
        rows[0].extend(names.iter().map(|name| name.replace('_', " ")));
        for run in &self.runs {
            let mut row = vec![run.name.clone(), run.epochs.to_string(), run.steps.to_string()];
            row.push(run.train_loss.last().map_or("-".into(), |loss| format!("{loss:.4}")));
            row.push(run.test_accuracy.map_or("-".into(), percent));
            row.extend(names.iter().map(|name| match run.extra.get(*name).and_then(Value::as_f64) {
                Some(value) if name.contains("accuracy") => percent(value),
                Some(value) => format!("{value:.4}"),
                None => "-".into(),
            }));
            rows.push(row);
        }
        let mut text = aligned(&rows);
        for run in &self.runs {
            let robustness = run.extra.get("robustness").cloned().map(serde_json::from_value::<Robustness>);
            if let Some(Ok(robustness)) = robustness {
                text += &format!("\n{}, {}", run.name, robustness.table());
            }
        }
        text
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Rows in columns of one width; the first is the header, numbers stand to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            let (left, right) = if column == 0 { ("", pad.as_str()) } else { (pad.as_str(), "") };
            // Writing to a String does not fail.
            let _ = write!(text, "{gap}{left}{cell}{right}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        if i == 0 {
            text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
            text.push('\n');
        }
    }
    text
}

/// Loss and accuracy of all runs over their epochs, side by side. Training is drawn in one series, validation, where
/// there is any, in another.
fn curves(title: &str, runs: &[RunRecord]) -> Result<crate::train::plot::Image> {
    let series = |train: fn(&EpochRecord) -> Option<f64>, validation: fn(&EpochRecord) -> Option<f64>| {
        let mut list = Vec::new();
        for run in runs {
            for (suffix, value) in [("", train), (", validation", validation)] {
                let points: Vec<(f64, f64)> =
                    run.history.iter().filter_map(|e| Some((f64::from(e.epoch), value(e)?))).collect();
                if !points.is_empty() {
                    list.push(Series { name: format!("{}{suffix}", run.name), points });
                }
            }
        }
        list
    };
    let loss = series(|e| Some(e.train_loss), |e| e.val_loss);
    let accuracy = series(|e| e.train_accuracy.map(|a| a * 100.0), |e| e.val_accuracy.map(|a| a * 100.0));
    let size = (800, 480);
    side_by_side(&[
        line_chart(&format!("{title}: loss"), "epoch", "mean loss of the epoch", &loss, size)?,
        line_chart(&format!("{title}: accuracy"), "epoch", "accuracy (%)", &accuracy, size)?,
    ])
}

/// Images in each row of the picture of augmented images.
const COLUMNS: usize = 8;

/// Writes `augmented.png`: some training images as they are, and below each what every pipeline makes of it.
pub(super) fn augmented(session: &Session, set: &ImageSet, size: usize, rows: &[(&str, &Pipeline)]) -> Result<()> {
    // Fewer of very large images: the picture must stay one that can be drawn.
    let count = COLUMNS.min(8192 / size).max(1).min(set.len());
    let indices: Vec<u32> = (0..count).map(|i| (i * set.len() / count) as u32).collect();
    let plain = Pipeline::new(vec![resize(size)])?;
    let mut tiles = Vec::new();
    for (name, pipeline) in std::iter::once(&("original", &plain)).chain(rows) {
        let view = Augmented::new(session.device(), set.clone(), (*pipeline).clone(), session.seed());
        let batch = view.batch(&indices, 0)?;
        let [_, h, w, _] = batch.nhwc("augmented")?.map(|extent| extent as usize);
        let pixels = batch.read::<f32>()?;
        for (image, &index) in pixels.chunks_exact(h * w * 3).zip(&indices) {
            let class = &set.class_names()[set.label(index as usize) as usize];
            let caption = if *name == "original" { class.clone() } else { name.to_string() };
            tiles.push((caption, h, w, image.iter().map(|&x| x.clamp(0.0, 255.0) as u8).collect::<Vec<u8>>()));
        }
    }
    let tiles: Vec<Tile> = tiles.iter().map(|(caption, h, w, rgb)| Tile { caption, h: *h, w: *w, rgb }).collect();
    let title = format!("{}: training images and their augmentations", set.name());
    image_grid(&title, &tiles, count, (128 / size).max(1))?.write_png(session.folder().join("augmented.png"))
}

/// Wraps a result into the map of a report.
pub(super) fn results<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}
