//! The four procedures on a handful of images: losses fall, reports are whole, results repeat bit by bit.

use std::fs;
use std::path::Path;
use warpsmith::data::{Cifar10, ImageSet, bundled, synthetic};
use warpsmith::nn::ParamsBuilder;
use warpsmith::recipes::{self, Recipe, Report, Sources, consistency, fixres, randaugment, set_field, supcon};
use warpsmith::train::{EpochRecord, Observer, StepReport, StopFlag};
use warpsmith::{Device, Error, Result};

/// A CIFAR-10 folder of synthetic pictures, which a few steps can tell apart.
fn cifar_folder(folder: &Path, train: usize, test: usize) -> Sources {
    let write = |name: &str, set: &ImageSet| {
        let mut bytes = Vec::new();
        for i in 0..set.len() {
            bytes.push(set.label(i) as u8);
            let pixels = set.image(i).2;
            for channel in 0..3 {
                bytes.extend(pixels.iter().skip(channel).step_by(3));
            }
        }
        fs::write(folder.join(name), bytes).unwrap();
    };
    write("data_batch_1.bin", &synthetic::images(train, 10, 32, 32, 1).unwrap());
    write("test_batch.bin", &synthetic::images(test, 10, 32, 32, 2).unwrap());
    Sources { data: Some(folder.to_path_buf()), cifar10_c: None }
}

/// Raises the flag after so many steps.
struct StopAfter(u64, StopFlag);

impl Observer for StopAfter {
    fn step(&mut self, _: &StepReport) {
        self.0 -= 1;
        if self.0 == 0 {
            self.1.stop();
        }
    }
    fn epoch(&mut self, _: &str, _: u32, _: &EpochRecord) {}
    fn message(&mut self, _: &str) {}
}

fn run<R: Recipe>(recipe: &R, sources: &Sources, folder: &Path, threads: usize, stop: Option<u64>) -> Result<Report> {
    let device = Device::cpu_with_threads(threads)?;
    let data = recipe.load(sources, 7)?;
    let mut session = recipes::start(recipe, sources, folder, &device, 7)?;
    if let Some(steps) = stop {
        session.observer = Box::new(StopAfter(steps, session.stop.clone()));
    }
    recipe.run(&mut session, &data)
}

fn resume<R: Recipe>(folder: &Path, threads: usize) -> Result<Report> {
    let (mut session, recipe, sources) = recipes::resume::<R>(folder, &Device::cpu_with_threads(threads)?)?;
    let data = recipe.load(&sources, session.seed())?;
    recipe.run(&mut session, &data)
}

/// What every procedure leaves, and that each of its runs has learned.
fn check(report: &Report, folder: &Path, names: &[&str], pictures: &[&str]) {
    let got: Vec<&str> = report.runs.iter().map(|run| run.name.as_str()).collect();
    assert_eq!(got, names);
    let table = report.table();
    for run in &report.runs {
        // At five steps an epoch a later epoch may bounce.
        let later = run.train_loss[1..].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(later < 0.97 * run.train_loss[0], "{}: {:?}", run.name, run.train_loss);
        assert!(table.contains(&run.name), "{table}");
        assert!(folder.join(format!("models/{}.safetensors", run.name)).is_file());
    }
    for name in [&["history.csv", "history.json", "curves.png", "augmented.png"], pictures].concat() {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let json: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    for field in ["procedure", "device", "seed", "config", "runs", "wall_seconds", "peak_memory_bytes"] {
        assert!(!json[field].is_null(), "{field}");
    }
    assert_eq!(json["runs"][0]["train_loss"].as_array().unwrap().len() as u32, report.runs[0].epochs);
}

#[test]
fn consistency_learns_and_repeats_bit_by_bit_across_threads_and_an_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let sources = cifar_folder(folder.path(), 44, 10);
    let recipe = consistency::Config {
        teacher_epochs: 3,
        student_epochs: 3,
        batch_size: 8,
        learning_rate: 3e-4,
        swa_start: 5,
        swa_period: 1,
        num_layers: 1,
        limit_corrupted: Some(2),
        ..consistency::Config::reduced()
    };
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let report = run(&recipe, &sources, &whole, 2, None).unwrap();
    let pictures = ["robustness_teacher.png", "robustness_student.png", "robustness_student.json"];
    check(&report, &whole, &["teacher", "student"], &pictures);
    for run in &report.runs {
        assert!(run.test_accuracy.is_some() && run.extra.contains_key("corrupted_severity_5_accuracy"), "{run:?}");
    }
    assert!(report.table().contains("generated subset"), "{}", report.table());

    // The teacher's 15 steps, then two of the student's first epoch.
    let error = run(&recipe, &sources, &parts, 1, Some(17)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    // What is known so far can be read already: the teacher's three epochs.
    let history = fs::read_to_string(parts.join("history.csv")).unwrap();
    assert_eq!(history.lines().count(), 4, "{history}");
    assert!(history.lines().skip(1).all(|line| line.starts_with("teacher,")), "{history}");
    // Other images than those it was started with are refused.
    let batch = fs::read(folder.path().join("data_batch_1.bin")).unwrap();
    let mut other = batch.clone();
    other[5] ^= 1;
    fs::write(folder.path().join("data_batch_1.bin"), other).unwrap();
    let error = resume::<consistency::Config>(&parts, 1).unwrap_err().to_string();
    assert!(error.contains("training images") && error.contains("checksum"), "{error}");
    fs::write(folder.path().join("data_batch_1.bin"), batch).unwrap();

    let resumed = resume::<consistency::Config>(&parts, 1).unwrap();
    for (got, want) in resumed.runs.iter().zip(&report.runs) {
        assert_eq!((&got.train_loss, got.test_accuracy), (&want.train_loss, want.test_accuracy), "{}", got.name);
        let model = |folder: &Path| fs::read(folder.join(format!("models/{}.safetensors", got.name))).unwrap();
        assert!(model(&parts) == model(&whole), "{}: the weights differ", got.name);
    }
}

#[test]
fn randaugment_learns_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let sources = cifar_folder(folder.path(), 40, 10);
    let recipe = randaugment::Config {
        epochs: 3,
        batch_size: 8,
        learning_rate: 3e-4,
        augmentations_per_image: 1,
        magnitude: 0.2,
        ..randaugment::Config::reduced()
    };
    let out = folder.path().join("out");
    let report = run(&recipe, &sources, &out, 2, None).unwrap();
    check(&report, &out, &["simple", "rand_augment"], &[]);
    assert!(report.runs.iter().all(|run| run.extra.contains_key("saturate_5_accuracy")));
}

#[test]
fn fixres_fine_tunes_14341_numbers_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources::default();
    let recipe = fixres::Config {
        small_epochs: 3,
        fine_tune_epochs: 2,
        vanilla_epochs: 3,
        fine_tune_learning_rate: 1e-3,
        batch_size: 8,
        learning_rate: 3e-4,
        image_size: 32,
        test_size: 40,
        crop_area_min: 0.9,
        limit_train: Some(24),
        limit_test: Some(5),
        ..fixres::Config::reduced()
    };
    let report = run(&recipe, &sources, folder.path(), 2, None).unwrap();
    check(&report, folder.path(), &["small", "fine_tune", "vanilla"], &[]);

    let model = |name: &str| fs::read(folder.path().join(format!("models/{name}.safetensors"))).unwrap();
    let (small, tuned) = (model("small"), model("fine_tune"));
    let (small, tuned) = (
        safetensors::SafeTensors::deserialize(&small).unwrap(),
        safetensors::SafeTensors::deserialize(&tuned).unwrap(),
    );
    let changed: Vec<String> = small
        .names()
        .into_iter()
        .filter(|name| small.tensor(name).unwrap().data() != tuned.tensor(name).unwrap().data())
        .map(String::from)
        .collect();
    let trained = |name: &&String| !name.contains("moving");
    let elems = |name: &String| small.tensor(name).unwrap().shape().iter().product::<usize>();
    assert_eq!(changed.iter().filter(trained).map(elems).sum::<usize>(), 14_341, "{changed:?}");
    let mut statistics: Vec<&String> = changed.iter().filter(|name| !trained(name)).collect();
    statistics.sort();
    assert_eq!(statistics, ["post_bn/moving_mean", "post_bn/moving_variance"]);
}

#[test]
fn supcon_learns_in_all_three_phases_with_either_loss() {
    let folder = tempfile::tempdir().unwrap();
    let sources = cifar_folder(folder.path(), 40, 20);
    for (loss, views) in [(supcon::Loss::Npairs, 1), (supcon::Loss::Khosla, 2)] {
        let recipe = supcon::Config {
            baseline_epochs: 3,
            pretrain_epochs: 3,
            classifier_epochs: 2,
            batch_size: 8,
            learning_rate: 3e-4,
            similarity_images: 20,
            temperature: 0.5,
            loss,
            views,
            ..supcon::Config::reduced()
        };
        let out = folder.path().join(format!("{loss:?}"));
        let report = run(&recipe, &sources, &out, 2, None).unwrap();
        check(&report, &out, &["baseline", "pretrain", "classifier"], &["similarity.png"]);
        let tested: Vec<bool> = report.runs.iter().map(|run| run.test_accuracy.is_some()).collect();
        assert_eq!(tested, [true, false, true]);
        assert_eq!(report.runs[2].batch_norm_statistics, "frozen");
        assert!(report.results["mean_similarity"]["after"]["within_class"].is_number());
    }
}

#[test]
fn supcon_has_the_documents_parameter_counts() {
    let device = Device::cpu().unwrap();
    let mut builder = ParamsBuilder::new();
    supcon::Classifier::new(&mut builder, 512, 10, 0.5);
    let mut params = builder.build(&device, 0).unwrap();
    assert_eq!(params.counts(), (24_619_025 - 45_447, 45_447));
    params.freeze("*").unwrap();
    params.unfreeze("hidden").unwrap();
    params.unfreeze("predictions").unwrap();
    assert_eq!(params.counts(), (1_054_218, 23_564_807));

    let mut builder = ParamsBuilder::new();
    supcon::Projector::new(&mut builder, 128);
    let (trainable, other) = builder.build(&device, 0).unwrap().counts();
    assert_eq!(trainable + other, 23_827_079);
}

/// Fields and values that the documents print.
#[test]
fn defaults_are_the_documents_constants() {
    let c = consistency::Config::default();
    assert_eq!((c.teacher_epochs, c.student_epochs, c.batch_size, c.image_size), (5, 5, 128, 72));
    assert_eq!((c.temperature, c.swa_start, c.swa_period, c.shuffle_buffer), (10.0, 0, 10, 1280));
    assert_eq!((c.num_layers, c.magnitude, c.teacher_lr_factor, c.student_lr_factor), (2, 9.0, 0.1, 0.5));
    let r = randaugment::Config::default();
    assert_eq!((r.epochs, r.batch_size, r.image_size, r.shuffle_buffer), (1, 128, 72, 12_800));
    assert_eq!((r.augmentations_per_image, r.magnitude, r.rotation, r.zoom), (3, 0.8, 0.02, 0.2));
    let f = fixres::Config::default();
    assert_eq!((f.small_epochs, f.fine_tune_epochs, f.vanilla_epochs, f.batch_size), (30, 10, 30, 32));
    assert_eq!((f.image_size, f.test_size, f.learning_rate, f.fine_tune_learning_rate), (128, 224, 1e-3, 1e-4));
    let s = supcon::Config::default();
    assert_eq!((s.baseline_epochs, s.pretrain_epochs, s.classifier_epochs), (50, 50, 50));
    assert_eq!((s.batch_size, s.image_size, s.temperature, s.views), (265, 32, 0.05, 1));
    assert_eq!((s.loss, s.projection_units, s.hidden_units), (supcon::Loss::Npairs, 128, 512));
}

#[test]
fn set_field_sets_and_explains() {
    let mut config = supcon::Config::default();
    set_field(&mut config, "loss=khosla").unwrap();
    set_field(&mut config, "temperature=1e-1").unwrap();
    set_field(&mut config, "max_steps=12").unwrap();
    assert_eq!((config.loss, config.temperature, config.max_steps), (supcon::Loss::Khosla, 0.1, Some(12)));
    set_field(&mut config, "max_steps=none").unwrap();
    assert_eq!(config.max_steps, None);

    let before = config.clone();
    let mut message = |assignment| set_field(&mut config, assignment).unwrap_err().to_string();
    let unknown = message("epochs=3");
    for part in ["`epochs`", "supcon", "baseline_epochs, pretrain_epochs", "exact"] {
        assert!(unknown.contains(part), "{unknown}");
    }
    let wrong = message("batch_size=many");
    assert!(wrong.contains("`batch_size`") && wrong.contains("`many`"), "{wrong}");
    let wrong = message("loss=contrastive");
    assert!(wrong.contains("`loss`") && wrong.contains("npairs"), "{wrong}");
    let negative = message("batch_size=-3");
    assert!(negative.contains("`batch_size`") && negative.contains("`-3`"), "{negative}");
    let shape = message("batch_size");
    assert!(shape.contains("field=value"), "{shape}");
    assert_eq!(config, before);
}

#[test]
fn constants_outside_their_domain_are_named() {
    let text = |assignment: &str| {
        let mut config = consistency::Config::reduced();
        set_field(&mut config, assignment).unwrap();
        config.check().unwrap_err().to_string()
    };
    for (assignment, parts) in [
        ("batch_size=0", ["batch_size", "a positive number, got 0"]),
        ("image_size=16", ["image_size", "32 to 4096 pixels"]),
        ("validation_fraction=1.5", ["validation_fraction", "1.5"]),
        ("limit_train=0", ["limit_train", "a positive number"]),
        ("student_lr_factor=2", ["a factor in (0, 1)", "2"]),
        ("temperature=-1", ["temperature", "-1"]),
    ] {
        let text = text(assignment);
        assert!(parts.iter().all(|part| text.contains(part)), "{assignment}: {text}");
    }
}

#[test]
fn data_that_do_not_suffice_are_refused_before_anything_is_written() {
    let Cifar10 { train, .. } = bundled::cifar10().unwrap();
    let recipe = supcon::Config { batch_size: train.len() + 1, ..supcon::Config::reduced() };
    let text = recipe.load(&Sources::default(), 1).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("--batch-size") && text.contains("1201"), "{text}");
    let missing = Sources { data: Some("no/such/folder".into()), cifar10_c: None };
    let text = recipe.load(&missing, 1).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("no/such/folder"), "{text}");
}
