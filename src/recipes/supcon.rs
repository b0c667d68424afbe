//! Supervised contrastive learning: an encoder that first learns which images belong together, then a classifier on it.
//!
//! 1. `baseline`: encoder and classifier trained together with cross-entropy.
//! 2. `pretrain`: the encoder behind a projection head, trained with a contrastive loss.
//! 3. `classifier`: the pretrained encoder frozen, in inference mode; two dense layers learn on its features.
//!
//! The document's encoder holds normalisation, flip and rotation. Here flip and rotation are steps of the training
//! pipeline, active in all three runs as they are there (they commute with the normalisation of each channel), and
//! test images go through neither.
//!
//! Source: Keras example "Supervised contrastive learning", after Khosla et al. (2020); its loss is the n-pairs form
//! with the diagonal.

use super::report::{augmented, results};
use super::{Recipe, Report, Sources, check_limits, check_positive, check_range, check_size, cross_entropy_step};
use super::{evaluation_batch, load_cifar, plan, resize, score};
use crate::augment::{Pipeline, Step};
use crate::autograd::Var;
use crate::data::{Cifar10, ImageSet, Pairing, Shuffle};
use crate::device::Device;
use crate::nn::resnet50v2::FEATURES;
use crate::nn::{Dense, Forward, Head, KerasVersion, Normalization, Params, ParamsBuilder, ResNet50V2};
use crate::ops::ContrastiveLoss;
use crate::optim::{Adam, AdamConfig};
use crate::tensor::Tensor;
use crate::train::{Augmented, Batch, Fit, ForwardFn, Loader, Session, StepOutput, fit, plot, recompute_statistics};
use crate::{DType, Result, ops};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Form of the contrastive loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// The document's: n-pairs, the anchor among its own positives.
    Npairs,
    /// L_out of the paper.
    Khosla,
}

/// The procedure's constants; the defaults are the document's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Epochs of the baseline.
    pub baseline_epochs: u32,
    /// Epochs of the contrastive pretraining.
    pub pretrain_epochs: u32,
    /// Epochs of the classifier on the frozen encoder.
    pub classifier_epochs: u32,
    /// Images per step.
    pub batch_size: usize,
    /// Rows and columns that the network sees.
    pub image_size: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Contrastive loss.
    pub loss: Loss,
    /// Its temperature T.
    pub temperature: f64,
    /// Augmented views per image in pretraining, 1 or 2.
    pub views: usize,
    /// Neurons of the projection head.
    pub projection_units: usize,
    /// Neurons of the classifier's hidden layer.
    pub hidden_units: usize,
    /// Dropout before and behind the hidden layer.
    pub dropout_rate: f64,
    /// Largest rotation as a share of a full turn.
    pub rotation: f64,
    /// Test images in the picture of the similarity matrix.
    pub similarity_images: usize,
    /// Ends each run after so many steps.
    pub max_steps: Option<u64>,
    /// Uses at most so many training images, spread over the classes.
    pub limit_train: Option<usize>,
    /// Uses at most so many test images, spread over the classes.
    pub limit_test: Option<usize>,
    /// Does what the printed program does: batch-norm statistics are never recomputed.
    pub exact: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            baseline_epochs: 50,
            pretrain_epochs: 50,
            classifier_epochs: 50,
            batch_size: 265,
            image_size: 32,
            learning_rate: 1e-3,
            loss: Loss::Npairs,
            temperature: 0.05,
            views: 1,
            projection_units: 128,
            hidden_units: 512,
            dropout_rate: 0.5,
            rotation: 0.02,
            similarity_images: 200,
            max_steps: None,
            limit_train: None,
            limit_test: None,
            exact: false,
        }
    }
}

/// Normalisation and ResNet50V2 without its top: 23,564,807 numbers.
struct Encoder {
    normalization: Normalization,
    net: ResNet50V2,
}

impl Encoder {
    fn new(builder: &mut ParamsBuilder) -> Encoder {
        Encoder {
            normalization: Normalization::new(builder, "normalization", 3),
            net: ResNet50V2::new(builder, Head::None),
        }
    }

    fn forward(&self, pass: &Forward, images: &Var) -> Result<Var> {
        self.net.forward(pass, &self.normalization.forward(pass, images)?)
    }

    fn adapt(&self, params: &Params, set: &ImageSet) -> Result<()> {
        self.normalization.adapt(params, (0..set.len()).map(|i| set.image(i).2))
    }
}

/// The classifier: dropout, a hidden layer, dropout, class logits, over an encoder.
pub struct Classifier {
    encoder: Encoder,
    hidden: Dense,
    predictions: Dense,
    dropout: f32,
}

impl Classifier {
    /// Registers its parameters. It has 24,619,025 numbers with 512 hidden units and 10 classes.
    pub fn new(builder: &mut ParamsBuilder, hidden_units: usize, classes: usize, dropout: f32) -> Classifier {
        Classifier {
            encoder: Encoder::new(builder),
            hidden: Dense::new(builder, "hidden", hidden_units, FEATURES),
            predictions: Dense::new(builder, "predictions", classes, hidden_units),
            dropout,
        }
    }

    /// Logits of images in 0..255.
    ///
    /// # Errors
    /// When the images do not fit the network.
    pub fn forward(&self, pass: &Forward, images: &Var) -> Result<Var> {
        let x = pass.dropout(&self.encoder.forward(pass, images)?, self.dropout, 0)?;
        let x = ops::relu(&self.hidden.forward(pass, &x)?)?;
        self.predictions.forward(pass, &pass.dropout(&x, self.dropout, 1)?)
    }
}

/// The encoder behind a projection head with ReLU.
pub struct Projector {
    encoder: Encoder,
    projection: Dense,
}

impl Projector {
    /// Registers its parameters. It has 23,827,079 numbers with 128 units.
    pub fn new(builder: &mut ParamsBuilder, units: usize) -> Projector {
        Projector { encoder: Encoder::new(builder), projection: Dense::new(builder, "projection", units, FEATURES) }
    }

    /// Embeddings, not normalised, of images in 0..255.
    ///
    /// # Errors
    /// When the images do not fit the network.
    pub fn forward(&self, pass: &Forward, images: &Var) -> Result<Var> {
        ops::relu(&self.projection.forward(pass, &self.encoder.forward(pass, images)?)?)
    }
}

/// Copies every parameter and statistic of `from` that `to` has too.
fn copy_shared(from: &Params, to: &Params) -> Result<()> {
    let from = from.tensors()?;
    for (name, target) in to.tensors()? {
        if let Some((_, source)) = from.iter().find(|(other, _)| *other == name) {
            target.copy_from(source)?;
        }
    }
    to.refresh_bf16()
}

/// The tensors one below the other.
fn stacked(device: &Device, parts: &[Tensor]) -> Result<Tensor> {
    let mut shape = parts[0].shape().to_vec();
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    let all = Tensor::empty(device, &shape, DType::F32)?;
    let mut start = 0;
    for part in parts {
        all.view(start, part.shape())?.copy_from(part)?;
        start += part.elems();
    }
    Ok(all)
}

/// Cosine similarities of fixed images, sorted by class.
struct Similarity {
    values: Vec<f32>,
    /// Mean over pairs of one class, the diagonal aside, and over pairs of two.
    within: f64,
    between: f64,
}

impl Config {
    fn augmentation(&self) -> Result<Pipeline> {
        let rotation = Step::RandomRotation { factor: self.rotation as f32 };
        Pipeline::new(vec![resize(self.image_size), Step::RandomFlip, rotation])
    }

    fn contrastive(&self) -> ContrastiveLoss {
        let temperature = self.temperature as f32;
        match self.loss {
            Loss::Npairs => ContrastiveLoss::Npairs { temperature },
            Loss::Khosla => ContrastiveLoss::SupconOut { temperature, scale: 1.0, mean_over_all: true },
        }
    }

    fn adam(&self, params: &Params) -> Result<Adam> {
        Adam::new(params, AdamConfig { learning_rate: self.learning_rate as f32, ..Default::default() })
    }

    fn similarity(
        &self,
        session: &Session,
        params: &Params,
        forward: &ForwardFn,
        set: &ImageSet,
        plain: &Pipeline,
    ) -> Result<Similarity> {
        let device = session.device();
        let indices: Vec<u32> = (0..set.len() as u32).collect();
        let images = Augmented::new(device, set.clone(), plain.clone(), session.seed());
        let mut parts = Vec::new();
        for indices in indices.chunks(evaluation_batch(self.image_size)) {
            session.check_stop()?;
            let pass = Forward::inference(params);
            parts.push(forward(&pass, &pass.tape.constant(images.batch(indices, 0)?))?.into_tensor());
        }
        let tape = crate::autograd::Tape::no_grad();
        let z = ops::l2_normalize(&tape.constant(stacked(device, &parts)?))?;
        let values = ops::similarity_matrix(&z, 1.0)?.tensor().to_vec::<f32>()?;
        let n = set.len();
        let [mut within, mut between] = [(0.0, 0usize); 2];
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j) {
            let (sum, pairs) = if set.label(i) == set.label(j) { &mut within } else { &mut between };
            *sum += f64::from(values[i * n + j]);
            *pairs += 1;
        }
        let mean = |(sum, pairs): (f64, usize)| sum / pairs.max(1) as f64;
        Ok(Similarity { values, within: mean(within), between: mean(between) })
    }
}

/// At most `limit` images, spread over the classes and sorted by class.
fn sorted_sample(set: &ImageSet, limit: usize) -> Result<ImageSet> {
    let set = set.take(limit)?;
    let mut indices: Vec<u32> = (0..set.len() as u32).collect();
    indices.sort_by_key(|&i| set.label(i as usize));
    set.subset(&indices)
}

fn similarity_picture(when: &str, set: &ImageSet, similarity: &Similarity) -> Result<plot::Image> {
    let counts = set.class_counts();
    let groups: Vec<(&str, usize)> = set.class_names().iter().map(String::as_str).zip(counts).collect();
    plot::matrix(&format!("similarity {when}"), set.len(), &similarity.values, &groups, (0.0, 1.0))
}

impl Recipe for Config {
    const PROCEDURE: &'static str = "supcon";
    const CORRUPTED: bool = false;
    type Data = Cifar10;

    fn reduced() -> Self {
        Config { baseline_epochs: 9, pretrain_epochs: 9, classifier_epochs: 6, batch_size: 32, ..Default::default() }
    }

    fn check(&self) -> Result<()> {
        check_positive(&[
            ("baseline_epochs", f64::from(self.baseline_epochs)),
            ("pretrain_epochs", f64::from(self.pretrain_epochs)),
            ("classifier_epochs", f64::from(self.classifier_epochs)),
            ("batch_size", self.batch_size as f64),
            ("learning_rate", self.learning_rate),
            ("temperature", self.temperature),
        ])?;
        check_size("image_size", self.image_size)?;
        check_range("projection_units", self.projection_units as f64, (1.0, 65_536.0))?;
        check_range("hidden_units", self.hidden_units as f64, (1.0, 65_536.0))?;
        check_range("views", self.views as f64, (1.0, 2.0))?;
        check_range("dropout_rate", self.dropout_rate, (0.0, 0.99))?;
        check_range("similarity_images", self.similarity_images as f64, (2.0, 4096.0))?;
        check_limits(&[
            ("max_steps", self.max_steps),
            ("limit_train", self.limit_train.map(|n| n as u64)),
            ("limit_test", self.limit_test.map(|n| n as u64)),
        ])?;
        self.augmentation().map(|_| ())
    }

    fn load(&self, sources: &Sources, seed: u64) -> Result<Cifar10> {
        self.check()?;
        let data = load_cifar(sources, self.limit_train, self.limit_test)?;
        plan(&data.train, self.batch_size, Shuffle::Full, seed)?;
        Ok(data)
    }

    fn run(&self, session: &mut Session, data: &Cifar10) -> Result<Report> {
        let (device, seed) = (session.device().clone(), session.seed());
        let Cifar10 { train, test } = data;
        session.check_data(&[("training", train), ("test", test)])?;
        let plan = plan(train, self.batch_size, Shuffle::Full, seed)?;
        let (augmentation, plain) = (self.augmentation()?, Pipeline::new(vec![resize(self.image_size)])?);
        augmented(session, train, self.image_size, &[("augmented", &augmentation)])?;
        let loader = Loader::new(&device, train.clone(), plan, augmentation.clone(), seed);

        let mut builder = ParamsBuilder::new();
        let model = Classifier::new(&mut builder, self.hidden_units, train.classes(), self.dropout_rate as f32);
        let mut params = builder.build(&device, seed)?;
        model.encoder.adapt(&params, train)?;
        let forward = |pass: &Forward, images: &Var| model.forward(pass, images);
        let cross_entropy = |pass: &Forward, batch: &Batch| cross_entropy_step(&forward, pass, batch);
        let finish = |session: &mut Session, params: &Params, record: &mut _| {
            score(session, params, &forward, (test, &plain), self.image_size, record)
        };
        // Both runs that end in a classifier.
        let classify = |session: &mut Session, name: &str, params: &Params, epochs: u32| {
            let adam = self.adam(params)?;
            let mut run = Fit::new(name, params, &loader, &forward, &cross_entropy, adam, epochs);
            run.keras = KerasVersion::V2;
            run.max_steps = self.max_steps;
            run.recompute_short = !self.exact;
            run.finish = Some(&finish);
            fit(session, run)
        };
        classify(session, "baseline", &params, self.baseline_epochs)?;

        let mut builder = ParamsBuilder::new();
        let projector = Projector::new(&mut builder, self.projection_units);
        let encoder_params = builder.build(&device, seed)?;
        projector.encoder.adapt(&encoder_params, train)?;
        let embed = |pass: &Forward, images: &Var| projector.forward(pass, images);
        let sample = sorted_sample(test, self.similarity_images)?;
        let before = {
            // Initial moving statistics say nothing about the data, so they are taken from a part of it.
            let start = encoder_params.snapshot()?;
            let part = train.take(1024)?;
            let batches = super::plan(&part, self.batch_size.min(part.len()), Shuffle::None, seed)?;
            let part = Loader::new(&device, part, batches, augmentation.clone(), seed);
            recompute_statistics(session, &encoder_params, &embed, &part, KerasVersion::V2)?;
            let similarity = self.similarity(session, &encoder_params, &embed, &sample, &plain)?;
            encoder_params.restore(&start)?;
            similarity
        };
        let contrast = |pass: &Forward, batch: &Batch| {
            let images = stacked(&device, &batch.images)?;
            let labels = batch.labels.to_vec::<i32>()?.repeat(batch.images.len());
            let labels = Tensor::from_slice(&device, &[labels.len()], &labels)?;
            let z = embed(pass, &pass.tape.constant(images))?;
            Ok(StepOutput { loss: ops::contrastive_loss(&z, &labels, self.contrastive())?, logits: None })
        };
        let views = match self.views {
            1 => loader.clone(),
            _ => Loader::paired(
                &device,
                train.clone(),
                plan,
                [augmentation.clone(), augmentation.clone()],
                Pairing::Paired,
                seed,
            ),
        };
        let adam = self.adam(&encoder_params)?;
        let mut run = Fit::new("pretrain", &encoder_params, &views, &embed, &contrast, adam, self.pretrain_epochs);
        run.keras = KerasVersion::V2;
        run.max_steps = self.max_steps;
        run.recompute_short = !self.exact;
        fit(session, run)?;
        let after = self.similarity(session, &encoder_params, &embed, &sample, &plain)?;
        plot::side_by_side(&[
            similarity_picture("before pretraining", &sample, &before)?,
            similarity_picture("after pretraining", &sample, &after)?,
        ])?
        .write_png(session.folder().join("similarity.png"))?;

        params.initialise(seed)?;
        copy_shared(&encoder_params, &params)?;
        drop(encoder_params);
        params.freeze("*")?;
        params.unfreeze("hidden")?;
        params.unfreeze("predictions")?;
        classify(session, "classifier", &params, self.classifier_epochs)?;

        let means = |s: &Similarity| json!({ "within_class": s.within, "between_classes": s.between });
        let similarity = json!({ "before": means(&before), "after": means(&after) });
        let report = Report::new::<Self>(session, results([("mean_similarity", similarity)]));
        report.write(session.folder())?;
        Ok(report)
    }
}
