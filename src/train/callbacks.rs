//! ReduceLROnPlateau and EarlyStopping, with the rules of both Keras versions.
//!
//! Both are small state machines fed with one monitored value per epoch; their state is plain data, so
//! a training checkpoint stores it.
//!
//! Source: `keras.callbacks`, tf.keras 2.15 and Keras 3.5.

use crate::nn::KerasVersion;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which direction of a monitored value is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// Lower is better: losses.
    Min,
    /// Higher is better: accuracies.
    Max,
}

impl Monitor {
    /// The direction that Keras' mode `auto` picks for a metric of this name.
    pub fn of(name: &str) -> Monitor {
        if name.contains("acc") || name.ends_with("auc") { Monitor::Max } else { Monitor::Min }
    }

    fn worst(self) -> f64 {
        match self {
            Monitor::Min => f64::INFINITY,
            Monitor::Max => f64::NEG_INFINITY,
        }
    }

    fn improves(self, value: f64, best: f64, min_delta: f64) -> bool {
        match self {
            Monitor::Min => value < best - min_delta,
            Monitor::Max => value > best + min_delta,
        }
    }
}

/// JSON has no infinities, and `best` starts as one.
mod float {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{value:?}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Multiplies the learning rate by `factor` when the monitored value has not improved for `patience` epochs.
///
/// # Example
/// ```
/// use warpsmith::train::{Monitor, ReduceLrOnPlateau};
/// let mut plateau = ReduceLrOnPlateau::new(Monitor::Min, 0.1, 2)?;
/// let mut lr = 1e-3;
/// for loss in [1.0, 1.0, 1.0] {
///     lr = plateau.epoch_end(loss, lr);
/// }
/// assert_eq!(lr, 1e-3f32 * 0.1);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReduceLrOnPlateau {
    /// Direction.
    pub monitor: Monitor,
    /// What the rate is multiplied by; below 1.
    pub factor: f64,
    /// Epochs without improvement before the rate falls.
    pub patience: u32,
    /// Improvements up to this size do not count.
    pub min_delta: f64,
    /// Epochs to wait after a reduction.
    pub cooldown: u32,
    /// Lowest rate.
    pub min_lr: f64,
    /// Epochs since the last improvement.
    pub wait: u32,
    /// Epochs of cool-down left.
    pub cooldown_counter: u32,
    /// Best value so far.
    #[serde(with = "float")]
    pub best: f64,
}

impl ReduceLrOnPlateau {
    /// Keras' defaults: `min_delta` 1e-4, no cool-down, lowest rate 0.
    ///
    /// # Errors
    /// When `factor` is not in (0, 1).
    pub fn new(monitor: Monitor, factor: f64, patience: u32) -> Result<Self> {
        if !(factor > 0.0 && factor < 1.0) {
            return Err(Error::argument("ReduceLrOnPlateau", "a factor in (0, 1)", factor, "0.1 and 0.5 are usual"));
        }
        Ok(ReduceLrOnPlateau {
            monitor,
            factor,
            patience,
            min_delta: 1e-4,
            cooldown: 0,
            min_lr: 0.0,
            wait: 0,
            cooldown_counter: 0,
            best: monitor.worst(),
        })
    }

    /// Takes the epoch's value and returns the learning rate of the next epoch.
    pub fn epoch_end(&mut self, value: f64, lr: f32) -> f32 {
        if self.cooldown_counter > 0 {
            self.cooldown_counter -= 1;
            self.wait = 0;
        }
        if self.monitor.improves(value, self.best, self.min_delta) {
            self.best = value;
            self.wait = 0;
        } else if self.cooldown_counter == 0 {
            self.wait += 1;
            if self.wait >= self.patience && lr > self.min_lr as f32 {
                self.cooldown_counter = self.cooldown;
                self.wait = 0;
                return (f64::from(lr) * self.factor).max(self.min_lr) as f32;
            }
        }
        lr
    }
}

/// What [`EarlyStopping::epoch_end`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopDecision {
    /// Keep a copy of the weights as they are now.
    pub save: bool,
    /// Stop training after this epoch.
    pub stop: bool,
}

/// Ends training when the monitored value has not improved for `patience` epochs, and can bring back the best weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Direction.
    pub monitor: Monitor,
    /// Epochs without improvement before training stops.
    pub patience: u32,
    /// Improvements up to this size do not count.
    pub min_delta: f64,
    /// Whether the best weights come back at the end.
    pub restore_best_weights: bool,
    /// Epochs since the last improvement.
    pub wait: u32,
    /// Best value so far.
    #[serde(with = "float")]
    pub best: f64,
    /// Epoch of the best value.
    pub best_epoch: u32,
    /// Whether weights have been saved.
    pub saved: bool,
    /// Whether this callback stopped the run.
    pub stopped: bool,
}

impl EarlyStopping {
    /// Keras' defaults with the given patience: `min_delta` 0.
    pub fn new(monitor: Monitor, patience: u32, restore_best_weights: bool) -> Self {
        EarlyStopping {
            monitor,
            patience,
            min_delta: 0.0,
            restore_best_weights,
            wait: 0,
            best: monitor.worst(),
            best_epoch: 0,
            saved: false,
            stopped: false,
        }
    }

    /// Takes the value of epoch `epoch` (counted from 0).
    pub fn epoch_end(&mut self, epoch: u32, value: f64) -> StopDecision {
        let mut save = false;
        if self.restore_best_weights && !self.saved {
            (save, self.saved, self.best_epoch) = (true, true, epoch);
        }
        self.wait += 1;
        if self.monitor.improves(value, self.best, self.min_delta) {
            self.best = value;
            self.best_epoch = epoch;
            self.wait = 0;
            return StopDecision { save: self.restore_best_weights, stop: false };
        }
        self.stopped = self.wait >= self.patience && epoch > 0;
        StopDecision { save, stop: self.stopped }
    }

    /// Whether the saved weights come back when training ends: in Keras 2 only when this callback stopped the run,
    /// in Keras 3 always.
    pub fn restores(&self, keras: KerasVersion) -> bool {
        self.restore_best_weights && self.saved && (self.stopped || keras == KerasVersion::V3)
    }
}
