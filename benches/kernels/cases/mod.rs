//! The list of cases: every kernel family over the problems of ResNet50V2.

mod augment;
mod conv2d;
mod elementwise;
mod layers;
mod losses;
mod optimisers;

use crate::rig::{Fallible, Rig, Run};

/// The images that the network is given.
#[derive(Debug, Clone, Copy)]
pub struct Images {
    pub size: u32,
    pub batch: u32,
}

/// The units that do a case's arithmetic, and so the peak it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    /// Tensor cores, factors of bf16.
    TensorBf16,
    /// Tensor cores, factors of tf32.
    TensorTf32,
    /// The units for f32.
    F32,
    /// Hardly any arithmetic: memory is the limit.
    Memory,
}

type Prepare = Box<dyn Fn(&Rig, usize) -> Fallible<Box<dyn Run>>>;

/// One thing to measure.
pub struct Case {
    /// Family and pass: `conv2d_fprop`.
    pub op: &'static str,
    /// `bf16`, `f32`, `tf32` or `u8`.
    pub dtype: &'static str,
    /// Names of the layers, or the reason for the problem.
    pub name: String,
    /// How often a training step of the network does it; 0: it is not part of the network.
    pub count: u32,
    /// The extents.
    pub problem: String,
    /// Operations: an addition and a product are two.
    pub flops: u64,
    /// Compulsory bytes: what each kernel of the case must read and write, once per kernel.
    pub bytes: u64,
    pub units: Units,
    prepare: Prepare,
}

impl Case {
    /// `conv2d_fprop/bf16/s1.c2`, by which it is chosen.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.op, self.dtype, self.name)
    }

    /// Makes buffers, `copies` sets of them.
    pub fn prepare(&self, rig: &Rig, copies: usize) -> Fallible<Box<dyn Run>> {
        (self.prepare)(rig, copies)
    }
}

/// The width of the longest name.
#[allow(dead_code)] // The bench prints names, the test of the bars does not.
pub fn name_width(cases: &[Case]) -> usize {
    cases.iter().map(|case| case.id().chars().count()).max().unwrap_or(0)
}

/// What [`Case::bytes`] and its likes are made of.
fn bytes(elems: usize, each: usize) -> u64 {
    (elems * each) as u64
}

/// All cases.
pub fn all(images: Images) -> Vec<Case> {
    [
        conv2d::cases(images),
        layers::cases(images),
        elementwise::cases(images),
        losses::cases(images),
        optimisers::cases(),
        augment::cases(images),
    ]
    .into_iter()
    .flatten()
    .collect()
}
