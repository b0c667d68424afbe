//! Parameters and moving statistics of a model, in arenas.
//!
//! All parameters lie in one tensor, each padded to 16 bytes (the padding stays 0); moving statistics
//! lie in a second; gradients in a third that covers the trainable set only, so a frozen parameter has
//! no gradient buffer. Optimiser, SWA, EarlyStopping and checkpoints then work on whole arenas.

use crate::autograd::{Tape, Var};
use crate::device::{Device, Precision};
use crate::dtype::DType;
use crate::problem::Span;
use crate::rng::{Philox, unit};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Elements that every entry of an arena is padded to: 16 bytes of f32.
const PAD: usize = 4;

/// A parameter of a [`Params`], by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ParamId(usize);

/// A moving statistic of a [`Params`], by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatId(usize);

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f32),
    /// Glorot uniform: U(-l, l) with l = sqrt(6 / (fan_in + fan_out)).
    GlorotUniform {
        /// Inputs of one output.
        fan_in: usize,
        /// Outputs of one input.
        fan_out: usize,
    },
}

#[derive(Debug, Clone)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    init: Init,
    /// First element in its arena.
    offset: usize,
    /// First element in the gradient arena, while trainable.
    gradient: Option<usize>,
    trainable: bool,
}

impl Entry {
    fn elems(&self) -> usize {
        self.shape.iter().product()
    }

    fn padded(&self) -> usize {
        self.elems().next_multiple_of(PAD)
    }
}

/// Collects the parameters of a model while its layers are made.
#[derive(Debug, Default)]
pub struct ParamsBuilder {
    params: Vec<Entry>,
    stats: Vec<Entry>,
}

fn place(list: &mut Vec<Entry>, name: &str, shape: &[usize], init: Init) -> usize {
    let offset = list.last().map_or(0, |e| e.offset + e.padded());
    list.push(Entry { name: name.to_string(), shape: shape.to_vec(), init, offset, gradient: None, trainable: true });
    list.len() - 1
}

impl ParamsBuilder {
    /// An empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter called `<layer>/<kind>`.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init) -> ParamId {
        ParamId(place(&mut self.params, name, shape, init))
    }

    /// Adds a moving statistic called `<layer>/<kind>`, starting at `value`.
    pub fn stat(&mut self, name: &str, shape: &[usize], value: f32) -> StatId {
        StatId(place(&mut self.stats, name, shape, Init::Constant(value)))
    }

    /// Allocates the arenas and initialises them. A parameter's start depends on `seed` and its name only.
    ///
    /// # Errors
    /// When two entries share a name or memory runs out.
    pub fn build(self, device: &Device, seed: u64) -> Result<Params> {
        let mut names: Vec<&str> = self.params.iter().chain(&self.stats).map(|e| e.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::argument(
                "ParamsBuilder::build",
                "distinct names",
                format_args!("`{}` twice", pair[0]),
                "name every layer differently",
            ));
        }
        let total = |list: &[Entry]| list.last().map_or(0, |e| e.offset + e.padded());
        let mut params = Params {
            values: Tensor::zeros(device, &[total(&self.params)], DType::F32)?,
            stats: Tensor::zeros(device, &[total(&self.stats)], DType::F32)?,
            gradients: Tensor::zeros(device, &[0], DType::F32)?,
            bf16: match device.precision() {
                Precision::Bf16 => Some(Tensor::empty(device, &[total(&self.params)], DType::Bf16)?),
                Precision::F32 | Precision::Tf32 => None,
            },
            params: self.params,
            moving: self.stats,
            generation: 0,
            layout: 0,
        };
        params.initialise(seed)?;
        params.place_gradients()?;
        Ok(params)
    }
}

/// 32-bit FNV-1a of a name.
pub(crate) fn fnv1a32(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The parameters, moving statistics and gradients of a model.
pub struct Params {
    values: Tensor,
    stats: Tensor,
    gradients: Tensor,
    /// The values in bf16, in mixed precision.
    bf16: Option<Tensor>,
    params: Vec<Entry>,
    moving: Vec<Entry>,
    generation: u64,
    layout: u64,
}

impl Params {
    /// Sets every parameter and statistic to its initial value for `seed`.
    ///
    /// # Errors
    /// When the arenas are borrowed.
    pub fn initialise(&mut self, seed: u64) -> Result<()> {
        for (arena, list) in [(&self.values, &self.params), (&self.stats, &self.moving)] {
            let mut values = vec![0.0f32; arena.elems()];
            for entry in list {
                let slot = &mut values[entry.offset..entry.offset + entry.elems()];
                match entry.init {
                    Init::Constant(value) => slot.fill(value),
                    Init::GlorotUniform { fan_in, fan_out } => {
                        let limit = (6.0 / (fan_in + fan_out) as f64).sqrt() as f32;
                        let mut rng = Philox::new(seed, fnv1a32(&entry.name));
                        slot.fill_with(|| (unit(rng.next_word()) * 2.0 - 1.0) * limit);
                    }
                }
            }
            arena.copy_from_slice(&values)?;
        }
        self.refresh_bf16()
    }

    fn place_gradients(&mut self) -> Result<()> {
        let mut offset = 0;
        let mut layout = DefaultHasher::new();
        for entry in &mut self.params {
            entry.gradient = entry.trainable.then_some(offset);
            if entry.trainable {
                offset += entry.padded();
            }
            (&entry.name, &entry.shape, entry.trainable).hash(&mut layout);
        }
        self.layout = layout.finish();
        self.gradients = Tensor::zeros(self.values.device(), &[offset], DType::F32)?;
        self.generation += 1;
        Ok(())
    }

    /// The device that holds the arenas.
    pub fn device(&self) -> &Device {
        self.values.device()
    }

    /// The arena of parameters.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The arena of moving statistics.
    pub fn stats(&self) -> &Tensor {
        &self.stats
    }

    /// The arena of gradients, over the trainable parameters only.
    pub fn gradients(&self) -> &Tensor {
        &self.gradients
    }

    /// The copy of the values in bf16 that convolutions multiply by, on a device of [`Precision::Bf16`]. The optimisers
    /// write it in the same pass as the f32 values.
    pub fn bf16_values(&self) -> Option<&Tensor> {
        self.bf16.as_ref()
    }

    /// Brings the bf16 copy up to the values, after they were written by something else than an optimiser. Does nothing
    /// without such a copy.
    ///
    /// # Errors
    /// When the arenas are borrowed.
    pub fn refresh_bf16(&self) -> Result<()> {
        match &self.bf16 {
            Some(copy) => crate::ops::cast_into(&self.values, copy),
            None => Ok(()),
        }
    }

    /// Grows by one whenever the trainable set changes; optimisers remember it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Hash of the parameters' names and shapes and of which are trainable: two models for which it is the same have
    /// their arenas laid out alike.
    pub(crate) fn layout(&self) -> u64 {
        self.layout
    }

    /// The trainable spans: where each lies in the parameter arena and in the gradient arena. Neighbours are merged.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for entry in &self.params {
            let Some(gradient) = entry.gradient else { continue };
            let (param_offset, grad_offset, len) = (entry.offset as u64, gradient as u64, entry.padded() as u64);
            match spans.last_mut() {
                Some(last)
                    if last.param_offset + last.len == param_offset && last.grad_offset + last.len == grad_offset =>
                {
                    last.len += len;
                }
                _ => spans.push(Span { param_offset, grad_offset, len }),
            }
        }
        spans
    }

    /// The value of a parameter: a view of the arena.
    ///
    /// # Errors
    /// Never for an id of this collection.
    pub fn value(&self, id: ParamId) -> Result<Tensor> {
        let entry = &self.params[id.0];
        self.values.view(entry.offset, &entry.shape)
    }

    /// A moving statistic: a view of the arena.
    ///
    /// # Errors
    /// Never for an id of this collection.
    pub fn stat(&self, id: StatId) -> Result<Tensor> {
        let entry = &self.moving[id.0];
        self.stats.view(entry.offset, &entry.shape)
    }

    /// The parameter as a variable: its gradient is added to the gradient arena, or stops here when frozen.
    ///
    /// # Errors
    /// When the tape refuses it.
    pub fn var(&self, tape: &Tape, id: ParamId) -> Result<Var> {
        let value = self.value(id)?;
        match self.params[id.0].gradient {
            Some(offset) if tape.is_recording() => {
                tape.parameter(value, self.gradients.view(offset, &self.params[id.0].shape)?)
            }
            _ => Ok(tape.constant(value)),
        }
    }

    /// As [`Params::var`] for what a layer multiplies by: in mixed precision the value is bf16, its gradient f32.
    ///
    /// # Errors
    /// When the tape refuses it.
    pub fn factor(&self, tape: &Tape, id: ParamId) -> Result<Var> {
        let Some(bf16) = &self.bf16 else { return self.var(tape, id) };
        let entry = &self.params[id.0];
        let value = bf16.view(entry.offset, &entry.shape)?;
        match entry.gradient {
            Some(offset) if tape.is_recording() => tape.parameter(value, self.gradients.view(offset, &entry.shape)?),
            _ => Ok(tape.constant(value)),
        }
    }

    /// The gradient of a parameter: a view of the gradient arena; `None` when frozen.
    ///
    /// # Errors
    /// Never for an id of this collection.
    pub fn gradient(&self, id: ParamId) -> Result<Option<Tensor>> {
        let entry = &self.params[id.0];
        entry.gradient.map(|offset| self.gradients.view(offset, &entry.shape)).transpose()
    }

    /// Whether a parameter is trained.
    pub fn is_trainable(&self, id: ParamId) -> bool {
        self.params[id.0].trainable
    }

    /// Decides by name which parameters are trained (`true`) and which are frozen. A batch norm whose
    /// `gamma` is frozen also keeps its moving statistics and runs in inference mode.
    ///
    /// Gradients are reset; optimisers must be built anew.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn set_trainable(&mut self, trainable: impl Fn(&str) -> bool) -> Result<()> {
        for entry in &mut self.params {
            entry.trainable = trainable(&entry.name);
        }
        self.place_gradients()
    }

    fn set_layers(&mut self, pattern: &str, trainable: bool) -> Result<usize> {
        let matches = |name: &str| {
            let layer = name.rsplit_once('/').map_or(name, |(layer, _)| layer);
            match pattern.strip_suffix('*') {
                Some(prefix) => layer.starts_with(prefix),
                None => layer == pattern,
            }
        };
        let mut count = 0;
        for entry in self.params.iter_mut().filter(|e| matches(&e.name)) {
            entry.trainable = trainable;
            count += 1;
        }
        if count == 0 {
            return Err(Error::argument(
                if trainable { "Params::unfreeze" } else { "Params::freeze" },
                "a layer name of this model, or a prefix followed by *",
                format_args!("`{pattern}`"),
                "see Params::names for the layers",
            ));
        }
        self.place_gradients()?;
        Ok(count)
    }

    /// Freezes the layers that `pattern` names (`conv5_block3_3_conv`, `conv5_*`, `*`); returns how many parameters that are.
    ///
    /// # Errors
    /// When no layer matches or memory runs out.
    pub fn freeze(&mut self, pattern: &str) -> Result<usize> {
        self.set_layers(pattern, false)
    }

    /// Unfreezes the layers that `pattern` names; returns how many parameters that are.
    ///
    /// # Errors
    /// When no layer matches or memory runs out.
    pub fn unfreeze(&mut self, pattern: &str) -> Result<usize> {
        self.set_layers(pattern, true)
    }

    /// Sets all gradients to 0.
    ///
    /// # Errors
    /// When the arena is borrowed.
    pub fn zero_gradients(&self) -> Result<()> {
        self.gradients.zero()
    }

    /// Names of the parameters in arena order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|e| e.name.as_str())
    }

    /// Names of the moving statistics in arena order.
    pub fn stat_names(&self) -> impl Iterator<Item = &str> {
        self.moving.iter().map(|e| e.name.as_str())
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.params.iter().position(|e| e.name == name).map(ParamId)
    }

    /// The moving statistic of that name.
    pub fn find_stat(&self, name: &str) -> Option<StatId> {
        self.moving.iter().position(|e| e.name == name).map(StatId)
    }

    /// Every parameter and statistic by name, as views of the arenas.
    ///
    /// # Errors
    /// Never for a well-formed collection.
    pub fn tensors(&self) -> Result<Vec<(&str, Tensor)>> {
        let values = self.params.iter().map(|e| Ok((e.name.as_str(), self.values.view(e.offset, &e.shape)?)));
        let stats = self.moving.iter().map(|e| Ok((e.name.as_str(), self.stats.view(e.offset, &e.shape)?)));
        values.chain(stats).collect()
    }

    /// Number of trainable and of other numbers (frozen parameters and moving statistics).
    pub fn counts(&self) -> (usize, usize) {
        let trainable: usize = self.params.iter().filter(|e| e.trainable).map(Entry::elems).sum();
        let frozen: usize = self.params.iter().filter(|e| !e.trainable).map(Entry::elems).sum();
        let stats: usize = self.moving.iter().map(Entry::elems).sum();
        (trainable, frozen + stats)
    }

    /// A copy of values and moving statistics, for EarlyStopping, SWA or a second run from the same start.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot { values: self.values.duplicate()?, stats: self.stats.duplicate()? })
    }

    /// Goes back to a snapshot.
    ///
    /// # Errors
    /// When the snapshot belongs to a model of another size.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        self.values.copy_from(&snapshot.values)?;
        self.stats.copy_from(&snapshot.stats)?;
        self.refresh_bf16()
    }
}

/// Values and moving statistics of a model at one moment. Optimiser state is not part of it.
pub struct Snapshot {
    /// The parameter arena.
    pub values: Tensor,
    /// The arena of moving statistics.
    pub stats: Tensor,
}
