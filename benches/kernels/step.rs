//! A whole training step of the library on its own device, counted.

use crate::cases::{Images, Units};
use crate::counted;
use crate::rig::Fallible;
use crate::roofline::A100;
use serde_json::{Value, json};
use warpsmith::device::{CudaOptions, Precision};
use warpsmith::nn::{Forward, Head, ParamsBuilder, ResNet50V2};
use warpsmith::optim::{Adam, AdamConfig};
use warpsmith::rng::{Philox, unit};
use warpsmith::{Device, Tensor, ops};
use warpsmith_emulator::Launch;

const CLASSES: usize = 10;

/// How a device of a precision is named, and what it multiplies with.
pub const PRECISIONS: [(&str, Precision, Units); 3] = [
    ("bf16", Precision::Bf16, Units::TensorBf16),
    ("tf32", Precision::Tf32, Units::TensorTf32),
    ("f32", Precision::F32, Units::F32),
];

/// The launches of a step in the precision of this name, as JSON.
pub fn count(images: Images, name: &str) -> Fallible<Value> {
    let known = PRECISIONS.iter().find(|(known, ..)| *known == name);
    let (_, precision, _) = known.ok_or_else(|| format!("--step takes bf16, tf32 or f32, not `{name}`"))?;
    Ok(json!({ "profile": A100.key, "launches": launches(images, *precision)? }))
}

/// Every launch of a step: gradients cleared, forward, backward, Adam.
fn launches(images: Images, precision: Precision) -> Fallible<Vec<Launch>> {
    counted::install()?;
    let device = Device::cuda_with(CudaOptions { precision, ..CudaOptions::default() })?;
    let mut builder = ParamsBuilder::new();
    let net = ResNet50V2::new(&mut builder, Head::Classes(CLASSES));
    let params = builder.build(&device, 0)?;
    let mut adam = Adam::new(&params, AdamConfig::default())?;
    let (n, size) = (images.batch as usize, images.size as usize);
    let mut rng = Philox::new(0, 0);
    let pixels: Vec<f32> = (0..n * size * size * 3).map(|_| unit(rng.next_word()) * 2.0 - 1.0).collect();
    let labels: Vec<i32> = (0..n).map(|_| (rng.next_word() % CLASSES as u32) as i32).collect();
    let pixels = Tensor::from_slice(&device, &[n, size, size, 3], &pixels)?;
    let labels = Tensor::from_slice(&device, &[n], &labels)?;
    warpsmith_emulator::reset()?;

    params.zero_gradients()?;
    let pass = Forward::training(&params);
    let logits = net.forward(&pass, &pass.tape.constant(pixels))?;
    let loss = ops::cross_entropy(&logits, &labels)?;
    loss.backward()?;
    adam.step(&params)?;
    device.synchronize()?;
    let report = warpsmith_emulator::report()?;
    if let Some(finding) = report.findings.first() {
        return Err(format!("a training step: {}", finding.text).into());
    }
    let value = loss.tensor().item()?;
    if !value.is_finite() {
        return Err(format!("a training step: the loss is {value}").into());
    }
    Ok(report.launches)
}
