//! One invocation of a procedure: its output folder, checkpoints, progress and interruption.
//!
//! The folder holds `checkpoint.safetensors` (the run in progress and what is known of finished ones),
//! `history.json` and `history.csv` (every epoch so far), `models/<run>.safetensors` (weights of each finished run),
//! and at the end the report. Every file is
//! replaced atomically, so at any moment the folder can be resumed from.

use super::callbacks::{EarlyStopping, ReduceLrOnPlateau};
use super::history::{self, EpochRecord, RunHistory, RunRecord};
use super::loader::Batch;
use crate::data::ImageSet;
use crate::device::Device;
use crate::nn::checkpoint::{TensorFile, write_tensors};
use crate::nn::{Params, checkpoint};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Asks a running procedure to stop after its present step. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag: training finishes its step, saves, and returns [`Error::Interrupted`].
    pub fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the flag is up.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Where a run stands after a step.
#[derive(Debug, Clone)]
pub struct StepReport<'a> {
    /// Run.
    pub run: &'a str,
    /// Epoch, counted from 1.
    pub epoch: u32,
    /// Epochs planned.
    pub epochs: u32,
    /// Steps done in this epoch.
    pub step: usize,
    /// Steps of this epoch.
    pub steps: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Training accuracy of the epoch so far.
    pub accuracy: Option<f64>,
    /// Steps per second in this epoch.
    pub steps_per_second: f64,
    /// Examples per second in this epoch.
    pub images_per_second: f64,
    /// Estimated seconds to the end of the run, without validation.
    pub eta_seconds: f64,
    /// What the step trained on.
    pub batch: &'a Batch,
}

/// Watches a procedure. The library itself never prints.
pub trait Observer {
    /// A step is done.
    fn step(&mut self, report: &StepReport);
    /// An epoch is done and validated.
    fn epoch(&mut self, run: &str, epochs: u32, record: &EpochRecord);
    /// Something else worth telling.
    fn message(&mut self, text: &str);
}

/// An observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {
    fn step(&mut self, _: &StepReport) {}
    fn epoch(&mut self, _: &str, _: u32, _: &EpochRecord) {}
    fn message(&mut self, _: &str) {}
}

/// Where the run in progress stands: everything but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub run: String,
    /// Epoch in progress, counted from 0.
    pub epoch: u32,
    /// Steps done in it.
    pub step: usize,
    /// Steps done in the whole run: Adam's t.
    pub steps: u64,
    pub learning_rate: f32,
    pub loss_sum: f64,
    /// Right predictions of the epoch, where the run has classes.
    pub correct: Option<u64>,
    pub seen: u64,
    pub seconds: f64,
    pub history: Vec<EpochRecord>,
    pub reduce_lr: Option<ReduceLrOnPlateau>,
    pub early_stopping: Option<EarlyStopping>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    procedure: String,
    seed: u64,
    /// What the procedure was started with; resuming continues with exactly this.
    config: Value,
    /// What the device multiplies in. Not in the checkpoints of earlier versions.
    #[serde(default)]
    precision: Option<String>,
    /// Checksums of the images, by their role. Not in the checkpoints of earlier versions.
    #[serde(default)]
    data: Vec<(String, u32)>,
    finished: Vec<RunRecord>,
    progress: Option<Progress>,
    wall_seconds: f64,
    peak_memory_bytes: usize,
}

/// One invocation of a procedure.
pub struct Session {
    folder: PathBuf,
    device: Device,
    state: State,
    started: Instant,
    /// Watches progress.
    pub observer: Box<dyn Observer>,
    /// Asks for an early end.
    pub stop: StopFlag,
}

const CHECKPOINT: &str = "checkpoint.safetensors";

impl Session {
    /// Starts a procedure in `folder`, which is created if need be.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path, device: &Device, procedure: &str, seed: u64, config: Value) -> Result<Session> {
        crate::fs::create_dir(folder.join("models"))?;
        let state = State {
            procedure: procedure.to_string(),
            seed,
            config,
            precision: Some(device.precision().to_string()),
            data: Vec::new(),
            finished: Vec::new(),
            progress: None,
            wall_seconds: 0.0,
            peak_memory_bytes: 0,
        };
        let mut session = Session::over(folder, device, state);
        session.save(&[])?;
        Ok(session)
    }

    /// Goes on with the procedure in `folder` from its last checkpoint.
    ///
    /// # Errors
    /// When there is no checkpoint, it is damaged, or it belongs to another procedure; when the device computes in another
    /// precision than the one before, whose runs could not be compared with those to come.
    pub fn resume(folder: &Path, device: &Device, procedure: &str) -> Result<Session> {
        let path = folder.join(CHECKPOINT);
        if !path.is_file() {
            return Err(Error::checkpoint(
                folder,
                "output folder",
                format_args!("a folder with {CHECKPOINT}"),
                "none",
                "pass the --out folder of an earlier run",
            ));
        }
        let file = TensorFile::open(&path)?;
        let mut state: State = serde_json::from_str(file.metadata("state")?).map_err(|e| {
            Error::checkpoint(
                &path,
                "metadata `state`",
                "the state of a training session",
                e,
                "use an earlier checkpoint or train again",
            )
        })?;
        if state.procedure != procedure {
            return Err(Error::checkpoint(
                &path,
                "procedure",
                procedure,
                &state.procedure,
                "resume with the example that wrote it",
            ));
        }
        let now = device.precision().to_string();
        let before = state.precision.get_or_insert(now.clone());
        if now != *before {
            return Err(Error::checkpoint(
                &path,
                "precision",
                format_args!("{before}, which the session was started in"),
                format_args!("{now} on {device}"),
                format_args!("resume with --precision {before}, or start again with another --out"),
            ));
        }
        Ok(Session::over(folder, device, state))
    }

    fn over(folder: &Path, device: &Device, state: State) -> Session {
        Session {
            folder: folder.to_path_buf(),
            device: device.clone(),
            state,
            started: Instant::now(),
            observer: Box::new(Quiet),
            stop: StopFlag::new(),
        }
    }

    /// The output folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The device that everything runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The seed of the procedure.
    pub fn seed(&self) -> u64 {
        self.state.seed
    }

    /// What the procedure was started with.
    pub fn config(&self) -> &Value {
        &self.state.config
    }

    /// The runs that are finished, in order.
    pub fn finished(&self) -> &[RunRecord] {
        &self.state.finished
    }

    /// Seconds spent so far, earlier sessions included.
    pub fn wall_seconds(&self) -> f64 {
        self.state.wall_seconds + self.started.elapsed().as_secs_f64()
    }

    /// Highest use of the device's memory, earlier sessions included.
    pub fn peak_memory_bytes(&self) -> usize {
        self.state.peak_memory_bytes.max(self.device.memory().peak_bytes)
    }

    /// Remembers the checksums of image sets that the procedure works on; a resumed session refuses others, whose runs
    /// could not be compared with those before.
    ///
    /// # Errors
    /// When the session was started with other images.
    pub fn check_data(&mut self, sets: &[(&str, &ImageSet)]) -> Result<()> {
        for (role, set) in sets {
            let now = set.checksum();
            let Some((_, before)) = self.state.data.iter().find(|(known, _)| known == role) else {
                self.state.data.push((role.to_string(), now));
                continue;
            };
            if now != *before {
                return Err(Error::checkpoint(
                    &self.folder,
                    format_args!("{role} images"),
                    format_args!("those the session was started with (checksum {before:08x})"),
                    format_args!("others (checksum {now:08x})"),
                    "bring the data set's folder back to what it was, or start again with another --out",
                ));
            }
        }
        Ok(())
    }

    /// The error that ends an interrupted procedure.
    pub fn interrupted(&self) -> Error {
        Error::Interrupted { hint: format!("the state is saved; go on with --resume {}", self.folder.display()) }
    }

    /// Fails when the stop flag is up.
    pub(crate) fn check_stop(&self) -> Result<()> {
        if self.stop.is_stopped() { Err(self.interrupted()) } else { Ok(()) }
    }

    fn model_path(&self, run: &str) -> PathBuf {
        self.folder.join("models").join(format!("{run}.safetensors"))
    }

    /// Loads the weights of a finished run.
    ///
    /// # Errors
    /// When there are none, or they do not fit the model.
    pub fn load_model(&self, run: &str, params: &Params) -> Result<()> {
        checkpoint::load(params, &self.model_path(run))
    }

    /// What is known of a run: its record when finished.
    pub(crate) fn record(&self, run: &str) -> Option<&RunRecord> {
        self.state.finished.iter().find(|r| r.name == run)
    }

    /// The progress of `run` and the file with its tensors, if that is the run the checkpoint holds.
    pub(crate) fn progress(&self, run: &str) -> Result<Option<(Progress, TensorFile)>> {
        match &self.state.progress {
            Some(progress) if progress.run == run => {
                Ok(Some((progress.clone(), TensorFile::open(&self.folder.join(CHECKPOINT))?)))
            }
            _ => Ok(None),
        }
    }

    /// Writes the checkpoint of the run in progress.
    pub(crate) fn checkpoint(&mut self, progress: Progress, tensors: &[(String, Tensor)]) -> Result<()> {
        self.state.progress = Some(progress);
        self.save(tensors)
    }

    /// Stores a finished run: first its weights, then the checkpoint that knows of it.
    pub(crate) fn finish(&mut self, record: RunRecord, params: &Params) -> Result<()> {
        checkpoint::save(params, &self.model_path(&record.name))?;
        self.state.finished.push(record);
        self.state.progress = None;
        self.save(&[])
    }

    fn save(&mut self, tensors: &[(String, Tensor)]) -> Result<()> {
        let mut state = self.state.clone();
        state.wall_seconds = self.wall_seconds();
        state.peak_memory_bytes = self.peak_memory_bytes();
        let text = serde_json::to_string(&state).map_err(|e| {
            Error::argument("Session", "a state that JSON can hold", e, "non-finite numbers do not belong in a history")
        })?;
        write_tensors(&self.folder.join(CHECKPOINT), tensors, &[("state", text)])?;
        let finished = self.state.finished.iter().map(|run| RunHistory { name: &run.name, history: &run.history });
        let present = self.state.progress.iter().map(|p| RunHistory { name: &p.run, history: &p.history });
        history::write(&self.folder, &finished.chain(present).collect::<Vec<_>>())
    }
}
