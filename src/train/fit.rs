//! The training loop.

use super::callbacks::{EarlyStopping, ReduceLrOnPlateau};
use super::evaluate::{Evaluation, recompute_statistics};
use super::history::{EpochRecord, RunRecord};
use super::loader::{Batch, Loader};
use super::session::{Progress, Session, StepReport};
use crate::autograd::Var;
use crate::nn::checkpoint::TensorFile;
use crate::nn::{Forward, KerasVersion, Params, Snapshot};
use crate::optim::{Adam, Swa};
use crate::tensor::Tensor;
use crate::{Error, Result, ops};
use std::rc::Rc;
use std::time::Instant;

/// Steps after which the moving statistics (momentum 0.99) are trusted: before, they still carry their initial values.
const WARM_STEPS: u64 = 500;

/// A model: from images [n, h, w, 3] in 0..255 to its output. Layers that act only in training look at the pass's mode.
pub type ForwardFn<'a> = dyn Fn(&Forward, &Var) -> Result<Var> + 'a;

/// Scores the present weights at the end of an epoch.
pub type ValidateFn<'a> = dyn Fn(&Session, &Params) -> Result<Evaluation> + 'a;

/// Scores the finished weights and adds the results to their record.
pub type FinishFn<'a> = dyn Fn(&mut Session, &Params, &mut RunRecord) -> Result<()> + 'a;

/// What a training step computes.
pub struct StepOutput {
    /// The scalar to minimise.
    pub loss: Var,
    /// Logits [n, classes] for the accuracy, where there are classes.
    pub logits: Option<Var>,
}

/// One training run. Build it with [`Fit::new`] and change what differs.
pub struct Fit<'a> {
    /// Name within the procedure; also that of its model file.
    pub name: &'a str,
    /// The model's numbers; frozen layers are already frozen.
    pub params: &'a Params,
    /// Where batches come from.
    pub loader: &'a Loader,
    /// The model, for validation and for recomputing statistics.
    pub forward: &'a ForwardFn<'a>,
    /// Loss of one batch.
    pub loss: &'a dyn Fn(&Forward, &Batch) -> Result<StepOutput>,
    /// Optimiser of the trainable set.
    pub optimizer: Adam,
    /// Epochs.
    pub epochs: u32,
    /// Ends the run after this many steps, wherever it is.
    pub max_steps: Option<u64>,
    /// Rules for moving variances and for restoring weights.
    pub keras: KerasVersion,
    /// Weight averaging.
    pub swa: Option<Swa>,
    /// Whether evaluations use the average (with recomputed statistics) or leave it unused.
    pub assign_swa: bool,
    /// Whether statistics are recomputed before evaluations of runs shorter than 500 steps.
    pub recompute_short: bool,
    /// Learning-rate schedule and what it monitors (`val_loss` or `val_accuracy`).
    pub reduce_lr: Option<(&'static str, ReduceLrOnPlateau)>,
    /// Early stopping and what it monitors.
    pub early_stopping: Option<(&'static str, EarlyStopping)>,
    /// Validation at the end of each epoch.
    pub validate: Option<&'a ValidateFn<'a>>,
    /// Results of the finished model, added to its record before it is stored.
    pub finish: Option<&'a FinishFn<'a>>,
}

impl<'a> Fit<'a> {
    /// A run with the given parts, Keras 3's rules and no callbacks.
    pub fn new(
        name: &'a str,
        params: &'a Params,
        loader: &'a Loader,
        forward: &'a ForwardFn<'a>,
        loss: &'a dyn Fn(&Forward, &Batch) -> Result<StepOutput>,
        optimizer: Adam,
        epochs: u32,
    ) -> Self {
        Fit {
            name,
            params,
            loader,
            forward,
            loss,
            optimizer,
            epochs,
            max_steps: None,
            keras: KerasVersion::V3,
            swa: None,
            assign_swa: true,
            recompute_short: true,
            reduce_lr: None,
            early_stopping: None,
            validate: None,
            finish: None,
        }
    }
}

/// The monitored value of an epoch.
fn monitored(name: &str, record: &EpochRecord) -> Result<f64> {
    let value = match name {
        "loss" => Some(record.train_loss),
        "accuracy" => record.train_accuracy,
        "val_loss" => record.val_loss,
        "val_accuracy" => record.val_accuracy,
        _ => None,
    };
    value.ok_or_else(|| {
        Error::argument(
            "fit",
            "a metric that the run has",
            format_args!("`{name}`"),
            "monitor loss, accuracy, val_loss or val_accuracy, with validation data",
        )
    })
}

/// The tensors that a checkpoint of the run holds.
fn tensors(fit: &Fit, best: Option<&Snapshot>) -> Vec<(String, Tensor)> {
    let mut list = vec![
        ("params".to_string(), fit.params.values().clone()),
        ("moving_statistics".to_string(), fit.params.stats().clone()),
    ];
    list.extend(fit.optimizer.state().map(|(name, tensor)| (format!("adam/{name}"), tensor)));
    list.extend(fit.swa.as_ref().map(|swa| ("swa/average".to_string(), swa.average().clone())));
    if let Some(best) = best {
        list.push(("best/params".into(), best.values.clone()));
        list.push(("best/moving_statistics".into(), best.stats.clone()));
    }
    list
}

/// Trains a run to its end and stores it in the session; returns at once with the stored result when the session
/// has already finished it, and goes on in the middle when its checkpoint is of this run. Either way `params`
/// then hold the finished weights.
///
/// # Errors
/// What the closures return; [`Error::NonFinite`] when the loss is NaN or infinite; [`Error::Interrupted`] when asked
/// to stop, after saving.
pub fn fit(session: &mut Session, mut fit: Fit) -> Result<RunRecord> {
    if let Some(record) = session.record(fit.name).cloned() {
        session.load_model(fit.name, fit.params)?;
        return Ok(record);
    }
    let mut run = match session.progress(fit.name)? {
        Some((progress, file)) => Running::restored(&mut fit, progress, &file)?,
        None => Running::fresh(&fit),
    };
    let steps = fit.loader.steps();
    let limit = fit.max_steps.unwrap_or(u64::MAX).min(u64::from(fit.epochs) * steps as u64);
    while run.goes_on(fit.epochs, limit) {
        run.train_epoch(session, &mut fit, steps, limit)?;
        let record = run.epoch_record();
        run.end_epoch(session, &mut fit, record)?;
    }
    run.finish(session, &fit)
}

/// A run between two epochs.
struct Running {
    progress: Progress,
    /// The best evaluated weights, for EarlyStopping.
    best: Option<Rc<Snapshot>>,
    /// The weights that the last epoch was validated with and how their statistics came about: those that `finish`
    /// would prepare again. Not in the checkpoint: a resumed run prepares them once more, to the same bits.
    validated: Option<(Rc<Snapshot>, String)>,
}

impl Running {
    fn fresh(fit: &Fit) -> Running {
        let progress = Progress {
            run: fit.name.to_string(),
            epoch: 0,
            step: 0,
            steps: 0,
            learning_rate: fit.optimizer.learning_rate(),
            loss_sum: 0.0,
            correct: None,
            seen: 0,
            seconds: 0.0,
            history: Vec::new(),
            reduce_lr: fit.reduce_lr.as_ref().map(|(_, callback)| callback.clone()),
            early_stopping: fit.early_stopping.as_ref().map(|(_, callback)| callback.clone()),
        };
        Running { progress, best: None, validated: None }
    }

    fn restored(fit: &mut Fit, progress: Progress, file: &TensorFile) -> Result<Running> {
        let saved = progress.early_stopping.as_ref().is_some_and(|e| e.saved);
        let best = saved.then(|| fit.params.snapshot()).transpose()?.map(Rc::new);
        let targets = tensors(fit, best.as_deref());
        file.copy_into(targets.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())))?;
        fit.params.refresh_bf16()?;
        fit.optimizer.set_t(progress.steps);
        fit.optimizer.set_learning_rate(progress.learning_rate);
        Ok(Running { progress, best, validated: None })
    }

    /// Whether there is something left to train or to validate. Asked of a restored run too, so the answer is in
    /// the checkpoint: an epoch may have all its steps and still lack its validation.
    fn goes_on(&self, epochs: u32, limit: u64) -> bool {
        let p = &self.progress;
        let stopped = p.early_stopping.as_ref().is_some_and(|callback| callback.stopped);
        !stopped && p.epoch < epochs && (p.steps < limit || p.step > 0)
    }

    fn save(&self, session: &mut Session, fit: &Fit) -> Result<()> {
        session.checkpoint(self.progress.clone(), &tensors(fit, self.best.as_deref()))
    }

    /// The steps of one epoch, from wherever the last session stopped.
    fn train_epoch(&mut self, session: &mut Session, fit: &mut Fit, steps: usize, limit: u64) -> Result<()> {
        self.validated = None;
        let p = &mut self.progress;
        let before = (p.seen, p.step, p.seconds);
        let mut batches = fit.loader.pass(u64::from(p.epoch), p.step)?;
        let clock = Instant::now();
        while p.step < steps && p.steps < limit {
            let Some(batch) = batches.next().transpose()? else {
                return Err(Error::argument(
                    "fit",
                    format_args!("{steps} batches per epoch"),
                    p.step,
                    "the loader ended early",
                ));
            };
            let (loss, correct) = step(session, fit, p.steps, &batch)?;
            let n = batch.indices.len() as u64;
            if !loss.is_finite() {
                return Err(Error::NonFinite {
                    what: format!(
                        "run `{}`: the loss became {loss} in epoch {}, step {}",
                        fit.name,
                        p.epoch + 1,
                        p.step + 1
                    ),
                    hint: "lower the learning rate, or check the images and labels; the last checkpoint is intact"
                        .into(),
                });
            }
            p.loss_sum += f64::from(loss) * n as f64;
            p.correct = correct.map(|now| now + p.correct.unwrap_or(0));
            p.seen += n;
            p.step += 1;
            p.steps += 1;
            let elapsed = clock.elapsed().as_secs_f64();
            p.seconds = before.2 + elapsed;
            let done = (p.step - before.1) as f64;
            session.observer.step(&StepReport {
                run: fit.name,
                epoch: p.epoch + 1,
                epochs: fit.epochs,
                step: p.step,
                steps,
                loss: p.loss_sum / p.seen as f64,
                accuracy: p.correct.map(|correct| correct as f64 / p.seen as f64),
                steps_per_second: done / elapsed,
                images_per_second: (p.seen - before.0) as f64 / elapsed,
                eta_seconds: (limit - p.steps) as f64 * elapsed / done,
                batch: &batch,
            });
            if session.stop.is_stopped() {
                self.save(session, fit)?;
                return Err(session.interrupted());
            }
        }
        Ok(())
    }

    fn epoch_record(&self) -> EpochRecord {
        let p = &self.progress;
        EpochRecord {
            epoch: p.epoch + 1,
            steps: p.steps,
            learning_rate: p.learning_rate,
            train_loss: p.loss_sum / p.seen as f64,
            train_accuracy: p.correct.map(|correct| correct as f64 / p.seen as f64),
            val_loss: None,
            val_accuracy: None,
            seconds: p.seconds,
            images_per_second: p.seen as f64 / p.seconds.max(1e-9),
        }
    }

    /// Validation, callbacks and checkpoint.
    fn end_epoch(&mut self, session: &mut Session, fit: &mut Fit, mut record: EpochRecord) -> Result<()> {
        // Validation may look at averaged weights and recomputed statistics; training goes on with the live ones.
        let live = fit.validate.is_some().then(|| fit.params.snapshot()).transpose()?;
        if let (Some(validate), Some(live)) = (fit.validate, &live) {
            let result = prepare(session, fit, self.progress.steps)
                .and_then(|statistics| Ok((statistics, validate(session, fit.params)?)));
            let last = self.progress.epoch + 1 == fit.epochs || fit.max_steps == Some(self.progress.steps);
            let keep = result.is_ok() && (last || fit.early_stopping.is_some());
            let weights = keep.then(|| fit.params.snapshot()).transpose();
            // Whatever failed: training's own weights first.
            fit.params.restore(live)?;
            let weights = weights?;
            let result = result.map(|(statistics, result)| {
                self.validated = weights.map(|weights| (Rc::new(weights), statistics));
                result
            });
            if result.is_err() {
                // Interrupted while validating: the epoch is trained, and resuming validates again.
                self.save(session, fit)?;
            }
            let result = result?;
            record.val_loss = Some(result.loss);
            record.val_accuracy = Some(result.accuracy);
        }
        let p = &mut self.progress;
        if let (Some((name, _)), Some(callback)) = (&fit.early_stopping, &mut p.early_stopping) {
            let decision = callback.epoch_end(p.epoch, monitored(name, &record)?);
            if decision.save {
                self.best = Some(match &self.validated {
                    Some((weights, _)) => weights.clone(),
                    None => Rc::new(fit.params.snapshot()?),
                });
            }
        }
        if let (Some((name, _)), Some(callback)) = (&fit.reduce_lr, &mut p.reduce_lr) {
            p.learning_rate = callback.epoch_end(monitored(name, &record)?, p.learning_rate);
            fit.optimizer.set_learning_rate(p.learning_rate);
        }
        session.observer.epoch(fit.name, fit.epochs, &record);
        p.history.push(record);
        (p.epoch, p.step, p.loss_sum, p.correct, p.seen, p.seconds) = (p.epoch + 1, 0, 0.0, None, 0, 0.0);
        self.save(session, fit)
    }

    /// The finished weights, their evaluation and their record.
    fn finish(mut self, session: &mut Session, fit: &Fit) -> Result<RunRecord> {
        let restores = self.progress.early_stopping.as_ref().is_some_and(|callback| callback.restores(fit.keras));
        let statistics = match (self.best.take().filter(|_| restores), self.validated.take()) {
            (Some(best), _) => {
                fit.params.restore(&best)?;
                "those of the best epoch".to_string()
            }
            (None, Some((weights, statistics))) => {
                fit.params.restore(&weights)?;
                statistics
            }
            (None, None) => prepare(session, fit, self.progress.steps)?,
        };
        let history = self.progress.history;
        let mut record = RunRecord {
            name: fit.name.to_string(),
            epochs: history.len() as u32,
            steps: self.progress.steps,
            train_loss: history.iter().map(|e| e.train_loss).collect(),
            test_accuracy: None,
            test_loss: None,
            batch_norm_statistics: statistics,
            history,
            extra: serde_json::Map::new(),
        };
        if let Some(finish) = fit.finish {
            finish(session, fit.params, &mut record)?;
        }
        session.finish(record.clone(), fit.params)?;
        Ok(record)
    }
}

/// One optimiser step: its loss, and how many training predictions were right.
fn step(session: &Session, fit: &mut Fit, i: u64, batch: &Batch) -> Result<(f32, Option<u64>)> {
    fit.params.zero_gradients()?;
    let mut pass = Forward::training(fit.params);
    pass.keras = fit.keras;
    pass.dropout_key = (session.seed(), i as u32);
    pass.samples = batch.indices.clone();
    let output = (fit.loss)(&pass, batch)?;
    let loss = output.loss.tensor().item()?;
    let correct = match &output.logits {
        Some(logits) => Some(ops::correct_count(logits.tensor(), &batch.labels)? as u64),
        None => None,
    };
    if loss.is_finite() {
        output.loss.backward()?;
        fit.optimizer.step(fit.params)?;
        if let Some(swa) = &mut fit.swa {
            swa.update(fit.params, i)?;
        }
    }
    Ok((loss, correct))
}

/// Brings the model into the state that is evaluated: the average where there is one, statistics recomputed where
/// the moving ones cannot be trusted. Says how the statistics came about.
fn prepare(session: &mut Session, fit: &Fit, steps: u64) -> Result<String> {
    let averaged = match &fit.swa {
        Some(swa) if fit.assign_swa && swa.has_average(steps) => {
            swa.assign(fit.params)?;
            true
        }
        _ => false,
    };
    if !trains_batch_norm(fit.params) {
        return Ok("frozen".into());
    }
    let cold = fit.recompute_short && steps < WARM_STEPS;
    if !averaged && !cold {
        return Ok("moving averages".into());
    }
    recompute_statistics(session, fit.params, fit.forward, fit.loader, fit.keras)?;
    let why = if averaged {
        "the weights are averages".to_string()
    } else {
        format!("only {steps} {} taken", if steps == 1 { "step was" } else { "steps were" })
    };
    Ok(format!("recomputed over {} training images, because {why}", fit.loader.set().len()))
}

/// Whether any batch norm is not frozen; a frozen one keeps its statistics.
fn trains_batch_norm(params: &Params) -> bool {
    params.stat_names().any(|name| {
        let gamma = name.strip_suffix("/moving_mean").and_then(|layer| params.find(&format!("{layer}/gamma")));
        gamma.is_some_and(|gamma| params.is_trainable(gamma))
    })
}
