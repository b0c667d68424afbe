//! What a run leaves behind: numbers per epoch, numbers per run, as JSON and CSV.

use crate::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// The numbers of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, counted from 1.
    pub epoch: u32,
    /// Optimiser steps of the run so far.
    pub steps: u64,
    /// Learning rate during the epoch.
    pub learning_rate: f32,
    /// Mean training loss over the epoch's examples, in training mode.
    pub train_loss: f64,
    /// Training accuracy over the epoch's examples, in training mode; `None` for losses without classes.
    pub train_accuracy: Option<f64>,
    /// Validation loss, where there is validation data.
    pub val_loss: Option<f64>,
    /// Validation accuracy, where there is validation data.
    pub val_accuracy: Option<f64>,
    /// Seconds of training, without validation.
    pub seconds: f64,
    /// Training examples per second.
    pub images_per_second: f64,
}

/// One finished training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name within the procedure.
    pub name: String,
    /// Epochs trained.
    pub epochs: u32,
    /// Optimiser steps taken.
    pub steps: u64,
    /// Training loss per epoch.
    pub train_loss: Vec<f64>,
    /// Accuracy on the test data (0 to 1), where the run ends in a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Loss on the test data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_loss: Option<f64>,
    /// How the batch-norm statistics of the evaluation came about.
    pub batch_norm_statistics: String,
    /// Every epoch in full.
    pub history: Vec<EpochRecord>,
    /// Further results of the run, by name.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn cell(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}

/// The epochs of one run, finished or not.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct RunHistory<'a> {
    pub name: &'a str,
    pub history: &'a [EpochRecord],
}

/// Writes the epochs of all runs into `folder`: `history.json`, a list of runs with their records, and `history.csv`,
/// one table.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(folder: &Path, runs: &[RunHistory]) -> Result<()> {
    crate::fs::write_json(folder.join("history.json"), &runs)?;
    let mut text = String::from(
        "run,epoch,steps,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy,seconds,images_per_second\n",
    );
    for run in runs {
        for e in run.history {
            writeln!(
                text,
                "{},{},{},{},{},{},{},{},{:.3},{:.1}",
                run.name,
                e.epoch,
                e.steps,
                e.learning_rate,
                e.train_loss,
                cell(e.train_accuracy),
                cell(e.val_loss),
                cell(e.val_accuracy),
                e.seconds,
                e.images_per_second
            )
            .expect("writing to a String does not fail");
        }
    }
    crate::fs::write_atomic(folder.join("history.csv"), |file| std::io::Write::write_all(file, text.as_bytes()))
}
