//! Optimisers, weight averaging and callbacks.

use crate::case::{Case, Output};
use crate::layers::keras_version;
use crate::{Fallible, fail};
use warpsmith::nn::{Init, Params, ParamsBuilder};
use warpsmith::optim::{Adam, AdamConfig, Sgd, SgdConfig, Swa};
use warpsmith::train::{EarlyStopping, Monitor, ReduceLrOnPlateau};

/// A model of one parameter with the value `w0`, and the gradients that are played to it.
struct Playback {
    params: Params,
    grads: Vec<f32>,
    shape: Vec<usize>,
    steps: usize,
}

impl Playback {
    fn new(case: &Case) -> Fallible<Playback> {
        let (w0, grads) = (case.input("w0")?, case.input("grads")?);
        let steps = grads.shape.first().copied().unwrap_or(0);
        if grads.shape[1..] != w0.shape {
            return fail(format!("`grads` {:?} are not steps of `w0` {:?}", grads.shape, w0.shape));
        }
        let mut builder = ParamsBuilder::new();
        let w = builder.param("layer/w", &w0.shape, Init::Constant(0.0));
        let params = builder.build(case.device, 0)?;
        params.value(w)?.copy_from(&case.tensor("w0")?)?;
        Ok(Playback { params, grads: grads.f32s(), shape: grads.shape.clone(), steps })
    }

    /// Puts the gradient of step `t` in its place and calls `step`.
    fn play(&self, mut step: impl FnMut(usize, &Params) -> Fallible<()>) -> Fallible<()> {
        let elems = self.grads.len() / self.steps.max(1);
        for t in 0..self.steps {
            self.params.gradients().view(0, &[elems])?.copy_from_slice(&self.grads[t * elems..][..elems])?;
            step(t, &self.params)?;
        }
        Ok(())
    }

    fn live(&self) -> Fallible<Vec<f32>> {
        let elems = self.grads.len() / self.steps.max(1);
        Ok(self.params.values().read::<f32>()?[..elems].to_vec())
    }
}

fn adam_config(case: &Case, eps: &str) -> Fallible<AdamConfig> {
    Ok(AdamConfig {
        learning_rate: case.number("learning_rate")? as f32,
        beta_1: case.number("beta_1")?,
        beta_2: case.number("beta_2")?,
        eps: case.number(eps)? as f32,
    })
}

/// An Adam with the settings of the row; `eps` is what the row calls its epsilon.
pub fn adam_of(case: &Case, params: &Params, eps: &str) -> Fallible<Adam> {
    Ok(Adam::new(params, adam_config(case, eps)?)?)
}

pub fn adam(case: &Case) -> Fallible<Output> {
    let playback = Playback::new(case)?;
    let mut adam = adam_of(case, &playback.params, "eps")?;
    let mut trace = Vec::new();
    playback.play(|_, params| {
        adam.step(params)?;
        trace.extend(playback.live()?);
        Ok(())
    })?;
    Ok(Output::new(&playback.shape, &trace))
}

/// One step of an optimiser.
type Step = Box<dyn FnMut(&Params) -> warpsmith::Result<()>>;

pub fn swa(case: &Case, wants_average: bool) -> Fallible<Output> {
    let playback = Playback::new(case)?;
    let params = &playback.params;
    let mut step: Step = match case.text("inner")?.as_str() {
        "adam" => {
            let mut adam = adam_of(case, params, "eps")?;
            Box::new(move |params| adam.step(params))
        }
        "sgd" => {
            let config = SgdConfig { learning_rate: case.number("learning_rate")? as f32, ..SgdConfig::default() };
            let mut sgd = Sgd::new(params, config)?;
            Box::new(move |params| sgd.step(params))
        }
        other => return fail(format!("arg `inner`: no optimiser `{other}`")),
    };
    let mut swa = Swa::new(params, case.size("start_averaging")? as u64, case.size("average_period")? as u64)?;
    let mut trace = Vec::new();
    playback.play(|t, params| {
        step(params)?;
        swa.update(params, t as u64)?;
        let live = playback.live()?;
        if wants_average {
            trace.extend_from_slice(&swa.average().read::<f32>()?[..live.len()]);
        } else {
            trace.extend(live);
        }
        Ok(())
    })?;
    Ok(Output::new(&playback.shape, &trace))
}

fn direction(case: &Case) -> Fallible<Monitor> {
    let monitor = case.text("monitor")?;
    match case.text("mode")?.as_str() {
        "min" => Ok(Monitor::Min),
        "max" => Ok(Monitor::Max),
        "auto" => Ok(Monitor::of(&monitor)),
        other => fail(format!("arg `mode`: `{other}` is none of min, max and auto")),
    }
}

fn patience(case: &Case) -> Fallible<u32> {
    Ok(u32::try_from(case.size("patience")?)?)
}

pub fn reduce_lr_on_plateau(case: &Case) -> Fallible<Output> {
    // Both versions of Keras follow the same rule here.
    keras_version(case)?;
    let mut plateau = ReduceLrOnPlateau::new(direction(case)?, case.number("factor")?, patience(case)?)?;
    plateau.min_delta = case.number("min_delta")?;
    plateau.cooldown = u32::try_from(case.size("cooldown")?)?;
    plateau.min_lr = case.number("min_lr")?;
    let mut lr = case.number("initial_lr")? as f32;
    let values = &case.input("values")?.data;
    let mut trace = Vec::new();
    for &value in values {
        lr = plateau.epoch_end(value, lr);
        trace.extend([f64::from(lr), f64::from(plateau.wait), f64::from(plateau.cooldown_counter), plateau.best]);
    }
    Ok(Output::new(&[values.len(), 4], &trace))
}

pub fn early_stopping(case: &Case, wants_final_weight: bool) -> Fallible<Output> {
    let keras = keras_version(case)?;
    let mut stopping = EarlyStopping::new(direction(case)?, patience(case)?, case.flag("restore_best_weights")?);
    stopping.min_delta = case.number("min_delta")?;
    let mut trace = Vec::new();
    // The only weight of the model is the number of the epoch, from 1.
    let (mut weight, mut saved) = (0.0, 0.0);
    for (epoch, &value) in case.input("values")?.data.iter().enumerate() {
        weight = epoch as f64 + 1.0;
        let decision = stopping.epoch_end(u32::try_from(epoch)?, value);
        if decision.save {
            saved = weight;
        }
        let (wait, best_epoch) = (f64::from(stopping.wait), f64::from(stopping.best_epoch));
        trace.extend([wait, stopping.best, best_epoch, f64::from(u8::from(decision.stop))]);
        if decision.stop {
            break;
        }
    }
    if wants_final_weight {
        return Ok(Output::scalar(if stopping.restores(keras) { saved } else { weight }));
    }
    Ok(Output::new(&[trace.len() / 4, 4], &trace))
}
