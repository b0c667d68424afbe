//! ResNet50V2, freezing, initial values, model files, and the training step as a whole.

use crate::common::random;
use crate::{assert_error, bits, device, f32s, i32s, own_device};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use warpsmith::nn::{
    BatchNorm, Conv2d, Dense, Forward, Head, Init, KerasVersion, Mode, Params, ParamsBuilder, ResNet50V2,
};
use warpsmith::nn::{checkpoint, resnet50v2};
use warpsmith::optim::{Adam, AdamConfig};
use warpsmith::problem::Window;
use warpsmith::{DType, Device, Tape, Tensor, ops};

fn resnet(device: &Device, head: Head, seed: u64) -> (ResNet50V2, Params) {
    let mut builder = ParamsBuilder::new();
    let net = ResNet50V2::new(&mut builder, head);
    (net, builder.build(device, seed).unwrap())
}

fn images(device: &Device, n: usize, h: usize, w: usize) -> Tensor {
    f32s(device, &[n, h, w, 3], &random(n * h * w * 3, 3))
}

#[test]
fn parameter_counts() {
    let device = device();
    for (head, trainable) in [
        (Head::None, 23_519_360),
        (Head::Classes(10), 23_539_850),
        (Head::Classes(1000), 25_613_800 - 45_440),
        (Head::Classes(5), 23_575_045 - 45_440),
    ] {
        let (_, mut params) = resnet(&device, head, 0);
        assert_eq!(params.counts(), (trainable, 45_440), "{head:?}");
        params.freeze("*").unwrap();
        assert_eq!(params.counts(), (0, trainable + 45_440), "{head:?}, frozen");
    }
}

#[test]
fn variables_have_the_names_and_the_order_of_keras() {
    let (_, params) = resnet(&device(), Head::Classes(10), 0);
    let (mut trainable, mut moving) = (Vec::new(), Vec::new());
    let mut list = &mut trainable;
    for line in include_str!("resnet50v2.names.txt").lines() {
        match line {
            "# trainable" => {}
            "# non-trainable" => list = &mut moving,
            name => list.push(name),
        }
    }
    assert_eq!((trainable.len(), moving.len()), (174, 98));
    assert_eq!(params.names().collect::<Vec<_>>(), trainable);
    assert_eq!(params.stat_names().collect::<Vec<_>>(), moving);
    assert_eq!(params.tensors().unwrap().len(), 272);
    for (name, tensor) in params.tensors().unwrap() {
        let found = match (params.find(name), params.find_stat(name)) {
            (Some(id), None) => params.value(id).unwrap(),
            (None, Some(id)) => params.stat(id).unwrap(),
            both => panic!("{name} is {both:?}"),
        };
        assert_eq!(found.shape(), tensor.shape());
    }
    assert!(params.find("conv1_conv").is_none() && params.find_stat("conv1_conv/kernel").is_none());
}

#[test]
fn glorot_initialisation() {
    let device = device();
    let (_, params) = resnet(&device, Head::Classes(10), 7);
    let mut starts = HashSet::new();
    for (name, tensor) in params.tensors().unwrap() {
        let values = tensor.to_vec::<f32>().unwrap();
        let (_, kind) = name.rsplit_once('/').unwrap();
        match kind {
            "gamma" | "moving_variance" => assert!(values.iter().all(|&v| v == 1.0), "{name}"),
            "beta" | "bias" | "moving_mean" => assert!(values.iter().all(|&v| v == 0.0), "{name}"),
            _ => {
                let (fan_in, fan_out) = match *tensor.shape() {
                    [k, r, s, c] => (r * s * c, r * s * k),
                    [outputs, inputs] => (inputs, outputs),
                    ref shape => panic!("{name} {shape:?}"),
                };
                let limit = (6.0 / (fan_in + fan_out) as f64).sqrt();
                let largest = values.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
                assert!(largest <= limit * (1.0 + 1e-6) && largest > 0.99 * limit, "{name}: {largest} of {limit}");
                // The mean of n uniform numbers has deviation limit / sqrt(3 n); the variance is limit² / 3.
                let n = values.len() as f64;
                let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                let var = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                assert!(mean.abs() < 5.0 * limit / (3.0 * n).sqrt(), "{name}: mean {mean}");
                assert!((var / (limit * limit / 3.0) - 1.0).abs() < 5.0 / n.sqrt(), "{name}: variance {var}");
                // Two layers that drew from one stream would start in proportion.
                assert!(starts.insert((values[0] / values[1]).to_bits()), "{name} starts like another layer");
            }
        }
    }
    assert_eq!(starts.len(), 54);

    // Values depend on seed and name, not on what else is in the model.
    let (_, again) = resnet(&device, Head::Classes(10), 7);
    assert_eq!(bits(params.values()), bits(again.values()));
    let (_, headless) = resnet(&device, Head::None, 7);
    let shared = headless.values().elems();
    assert_eq!(bits(&params.values().view(0, &[shared]).unwrap()), bits(headless.values()));
    let (_, mut other) = resnet(&device, Head::None, 8);
    assert_ne!(bits(other.values()), bits(headless.values()));
    other.stats().zero().unwrap();
    other.initialise(7).unwrap();
    assert_eq!(bits(other.values()), bits(headless.values()));
    assert_eq!(bits(other.stats()), bits(headless.stats()));
}

#[test]
fn output_shapes() {
    let device = device();
    let (net, params) = resnet(&device, Head::None, 0);
    // Height, width, and the extents behind conv1, the pool, and the four stacks.
    for (h, w, rows, columns) in [
        (32, 32, [16, 8, 4, 2, 1, 1], [16, 8, 4, 2, 1, 1]),
        (33, 33, [17, 9, 5, 3, 2, 2], [17, 9, 5, 3, 2, 2]),
        (72, 72, [36, 18, 9, 5, 3, 3], [36, 18, 9, 5, 3, 3]),
        (75, 40, [38, 19, 10, 5, 3, 3], [20, 10, 5, 3, 2, 2]),
        (128, 128, [64, 32, 16, 8, 4, 4], [64, 32, 16, 8, 4, 4]),
    ] {
        let seen = RefCell::new(HashMap::new());
        let pass = Forward::inference(&params).with_tap(|name, output| {
            assert!(seen.borrow_mut().insert(name.to_string(), output.shape().to_vec()).is_none(), "{name} twice");
            Ok(())
        });
        let y = net.forward(&pass, &pass.tape.constant(images(&device, 2, h, w))).unwrap();
        assert_eq!(y.shape(), [2, resnet50v2::FEATURES]);
        let names = [
            "conv1_conv",
            "pool1_pool",
            "conv2_block3_out",
            "conv3_block4_out",
            "conv4_block6_out",
            "conv5_block3_out",
        ];
        for (i, (name, c)) in names.iter().zip([64, 64, 256, 512, 1024, 2048]).enumerate() {
            assert_eq!(seen.borrow()[*name], [2, rows[i], columns[i], c], "{name} at {h}x{w}");
        }
        // 53 convolutions, 49 batch norms and their ReLUs, 16 block outputs, 2 pools.
        assert_eq!(seen.borrow().len(), 53 + 49 + 49 + 16 + 2);
    }
    let (net, params) = resnet(&device, Head::Classes(5), 0);
    let pass = Forward::inference(&params);
    assert_eq!(net.forward(&pass, &pass.tape.constant(images(&device, 3, 32, 32))).unwrap().shape(), [3, 5]);
}

#[test]
fn unsuitable_images_are_errors() {
    let device = device();
    let (net, params) = resnet(&device, Head::None, 0);
    let pass = Forward::inference(&params);
    let run =
        |shape: &[usize], dtype| net.forward(&pass, &pass.tape.constant(Tensor::zeros(&device, shape, dtype).unwrap()));
    let parts = ["ResNet50V2: expected images [n, h, w, 3] of at least 32x32", "resize the images first"];
    for shape in [[1, 31, 32, 3], [1, 32, 31, 3], [1, 32, 32, 1], [1, 0, 32, 3]] {
        assert_error(run(&shape, DType::F32), &parts);
    }
    assert_error(run(&[32, 32, 3], DType::F32), &["ResNet50V2: expected 4 axes", "[32, 32, 3]"]);
    assert_error(run(&[0, 32, 32, 3], DType::F32), &["conv2d: expected positive n"]);
    assert_error(run(&[1, 32, 32, 3], DType::U8), &["conv2d: expected `x` of f32, got u8"]);
}

/// Loss, gradients and moving statistics of one training pass.
fn training_pass(net: &ResNet50V2, params: &Params, tapped: bool) -> (f32, Vec<f32>, Vec<f32>) {
    let device = params.device();
    params.zero_gradients().unwrap();
    let mut pass = Forward::training(params);
    if tapped {
        pass = pass.with_tap(|_, _| Ok(()));
    }
    let x = pass.tape.constant(images(device, 8, 32, 32));
    let logits = net.forward(&pass, &x).unwrap();
    let loss = ops::cross_entropy(&logits, &i32s(device, &[0, 1, 2, 3, 4, 5, 6, 7])).unwrap();
    let value = loss.tensor().item().unwrap();
    loss.backward().unwrap();
    (value, params.gradients().to_vec().unwrap(), params.stats().to_vec().unwrap())
}

#[test]
fn the_fused_path_equals_the_layers_one_by_one() {
    let device = device();
    let (net, params) = resnet(&device, Head::Classes(10), 1);
    let run = |tapped: bool| {
        let mut pass = Forward::inference(&params);
        if tapped {
            pass = pass.with_tap(|_, _| Ok(()));
        }
        net.forward(&pass, &pass.tape.constant(images(&device, 4, 40, 40))).unwrap().tensor().to_vec::<f32>().unwrap()
    };
    // Fusing changes where a value is, not how it is computed: bias and residual are added to the convolution's
    // finished sum, and the ReLU is applied to the normalised value.
    let (fused, plain) = (run(false), run(true));
    assert!(plain.iter().any(|&v| v != 0.0) && fused == plain);

    let snapshot = params.snapshot().unwrap();
    let fused = training_pass(&net, &params, false);
    params.restore(&snapshot).unwrap();
    let plain = training_pass(&net, &params, true);
    assert_eq!(fused.0, plain.0, "loss");
    assert!(fused.1 == plain.1, "gradients");
    assert!(fused.2 == plain.2, "moving statistics");
}

#[test]
fn a_training_step_is_bit_equal_for_any_number_of_threads() {
    let mut first: Option<Vec<Vec<u32>>> = None;
    for threads in [1, 2, 3] {
        let device = Device::cpu_with_threads(threads).unwrap();
        let (net, params) = resnet(&device, Head::Classes(10), 1);
        let mut adam = Adam::new(&params, AdamConfig::default()).unwrap();
        let (loss, _, _) = training_pass(&net, &params, false);
        adam.step(&params).unwrap();
        let state = vec![vec![loss.to_bits()], bits(params.gradients()), bits(params.stats()), bits(params.values())];
        assert!(loss.is_finite() && params.gradients().read::<f32>().unwrap().iter().all(|g| g.is_finite()));
        match &first {
            None => first = Some(state),
            Some(first) => {
                for (name, (a, b)) in
                    ["loss", "gradients", "statistics", "weights"].iter().zip(first.iter().zip(&state))
                {
                    assert!(a == b, "{name} differ with {threads} threads");
                }
            }
        }
    }
}

#[test]
fn training_steps_allocate_nothing_after_the_second() {
    // With a cache, on a GPU too: without one every tensor is taken from the system.
    let device = own_device();
    let (net, params) = resnet(&device, Head::Classes(10), 1);
    let mut adam = Adam::new(&params, AdamConfig::default()).unwrap();
    let mut allocations = Vec::new();
    let mut in_use = Vec::new();
    let mut losses = Vec::new();
    for _ in 0..5 {
        losses.push(training_pass(&net, &params, false).0);
        adam.step(&params).unwrap();
        allocations.push(device.memory().system_allocations);
        in_use.push(device.memory().in_use_bytes);
    }
    assert!(allocations[2..].iter().all(|&n| n == allocations[1]), "{allocations:?}");
    assert!(in_use.iter().all(|&bytes| bytes == in_use[0]), "a step leaves nothing behind: {in_use:?}");
    assert!(losses[4] < losses[0], "{losses:?}");
}

#[test]
fn freezing_by_name_and_pattern() {
    let device = device();
    let (_, mut params) = resnet(&device, Head::Classes(10), 0);
    let frozen = |params: &Params| -> Vec<String> {
        let names = params.names().filter(|name| !params.is_trainable(params.find(name).unwrap()));
        names.map(String::from).collect()
    };
    let generation = params.generation();
    assert_eq!(params.freeze("conv1_conv").unwrap(), 2);
    assert_eq!(frozen(&params), ["conv1_conv/kernel", "conv1_conv/bias"]);
    assert!(params.generation() > generation);
    assert_eq!(params.counts(), (23_539_850 - 9_472, 45_440 + 9_472));
    // `conv5_block1_0_conv` to `conv5_block1_preact_bn`: a prefix means layers, and a bare name just one of them.
    assert_eq!(params.freeze("conv5_block1_*").unwrap(), 2 + 1 + 2 + 1 + 2 + 2 + 2);
    assert_eq!(params.unfreeze("conv1_conv").unwrap(), 2);
    assert!(frozen(&params).iter().all(|name| name.starts_with("conv5_block1_")) && frozen(&params).len() == 12);
    for unknown in ["conv5_block1", "conv9_*", "", "conv1_conv/kernel", "conv5_block3_out"] {
        let before = (frozen(&params), params.generation());
        assert_error(
            params.freeze(unknown),
            &[
                "Params::freeze: expected a layer name of this model, or a prefix followed by *",
                &format!("`{unknown}`"),
            ],
        );
        assert_error(params.unfreeze(unknown), &["Params::unfreeze"]);
        assert_eq!((frozen(&params), params.generation()), before);
    }
    assert_eq!(params.unfreeze("*").unwrap(), 174);
    assert_eq!(params.counts(), (23_539_850, 45_440));
    assert_eq!(params.spans().len(), 1, "everything trainable is one span");
    // What FixRes fine-tunes: the last batch norm and the classifier.
    params.set_trainable(|name| name.starts_with("post_bn/") || name.starts_with("predictions/")).unwrap();
    assert_eq!(params.counts().0, 2 * 2048 + 2048 * 10 + 10);
    assert_eq!(params.gradients().elems(), 2 * 2048 + 2048 * 10 + 12);
    assert_eq!(params.spans().len(), 1);
}

#[test]
fn a_frozen_batch_norm_runs_in_inference_mode() {
    let device = device();
    let (net, mut params) = resnet(&device, Head::Classes(10), 1);
    params.freeze("*").unwrap();
    params.unfreeze("predictions").unwrap();
    let stats = bits(params.stats());
    let x = images(&device, 2, 32, 32);
    let run = |params: &Params, pass: Forward| {
        let tape = pass.tape.clone();
        assert_eq!(pass.params.counts(), params.counts());
        (net.forward(&pass, &tape.constant(x.clone())).unwrap(), tape)
    };
    let (inference, _) = run(&params, Forward::inference(&params));
    let (training, tape) = run(&params, Forward::training(&params));
    assert_eq!(bits(inference.tensor()), bits(training.tensor()));
    assert_eq!(bits(params.stats()), stats, "moving statistics stand still");
    assert_eq!(tape.len(), 3, "kernel, bias and one op: a frozen encoder keeps no activations");
    ops::cross_entropy(&training, &i32s(&device, &[1, 2])).unwrap().backward().unwrap();
    assert!(params.gradients().read::<f32>().unwrap().iter().any(|&g| g != 0.0));

    // One frozen layer among trained ones: gradients pass through it.
    params.unfreeze("*").unwrap();
    params.freeze("conv2_block1_preact_bn").unwrap();
    let (logits, _) = run(&params, Forward::training(&params));
    ops::cross_entropy(&logits, &i32s(&device, &[1, 2])).unwrap().backward().unwrap();
    for (name, stat) in params.tensors().unwrap().into_iter().filter(|(name, _)| name.contains("/moving_mean")) {
        let moved = stat.read::<f32>().unwrap().iter().any(|&v| v != 0.0);
        assert_eq!(moved, !name.starts_with("conv2_block1_preact_bn/"), "{name}");
    }
    let first = params.gradient(params.find("conv1_conv/kernel").unwrap()).unwrap().unwrap();
    assert!(first.read::<f32>().unwrap().iter().any(|&g| g != 0.0));
}

#[test]
fn moving_variance_follows_the_keras_version() {
    let device = device();
    let mut builder = ParamsBuilder::new();
    let bn = BatchNorm::new(&mut builder, "bn", 1, 1e-3, 0.5);
    let mut params = builder.build(&device, 0).unwrap();
    for (keras, momentum, want) in [
        (KerasVersion::V3, None, 0.5 + 0.5 * 1.0),
        (KerasVersion::V2, None, 0.5 + 0.5 * 2.0),
        (KerasVersion::V2, Some(0.0), 2.0),
    ] {
        params.initialise(0).unwrap();
        let mut pass = Forward::training(&params);
        (pass.keras, pass.momentum) = (keras, momentum);
        bn.forward(&pass, &pass.tape.constant(f32s(&device, &[2, 1], &[1.0, 3.0])), None).unwrap();
        let var = params.stat(params.find_stat("bn/moving_variance").unwrap()).unwrap().item().unwrap();
        assert_eq!(var, want, "{keras:?} {momentum:?}");
    }
}

#[test]
fn dropout_follows_seed_step_and_sample() {
    let device = device();
    let params = ParamsBuilder::new().build(&device, 0).unwrap();
    let run = |mode: Mode, key: (u64, u32), samples: &[u32]| {
        let mut pass = Forward::training(&params);
        (pass.mode, pass.dropout_key, pass.samples) = (mode, key, samples.to_vec());
        let x = pass.tape.constant(Tensor::full(&device, &[2, 50], 1.0f32).unwrap());
        pass.dropout(&x, 0.5, 1).map(|y| y.tensor().to_vec::<f32>().unwrap())
    };
    let mask = |key, samples: &[u32]| run(Mode::Training, key, samples).unwrap();
    assert_eq!(mask((1, 2), &[7, 9]), mask((1, 2), &[7, 9]));
    assert_eq!(mask((1, 2), &[]), mask((1, 2), &[0, 1]));
    assert_eq!(mask((1, 2), &[7, 9])[..50], mask((1, 2), &[9, 7])[50..]);
    assert_ne!(mask((1, 2), &[7, 9]), mask((1, 3), &[7, 9]));
    assert_ne!(mask((1, 2), &[7, 9]), mask((2, 2), &[7, 9]));
    assert_eq!(run(Mode::Inference, (1, 2), &[7, 9]).unwrap(), [1.0; 100]);
    assert_error(run(Mode::Training, (1, 2), &[7]), &["dropout: expected 2 elements in `indices`, got 1"]);
}

#[test]
fn layers_check_their_inputs() {
    let device = device();
    let mut builder = ParamsBuilder::new();
    let dense = Dense::new(&mut builder, "dense", 2, 5);
    let conv = Conv2d::new(&mut builder, "conv", 4, [3, 3], 2, Window::square(1, 1), true);
    let params = builder.build(&device, 0).unwrap();
    let pass = Forward::inference(&params);
    let zeros = |shape: &[usize]| pass.tape.constant(Tensor::zeros(&device, shape, DType::F32).unwrap());
    for shape in [vec![3, 4], vec![3, 5, 1], vec![5]] {
        assert_error(
            dense.forward(&pass, &zeros(&shape)),
            &["Dense: expected x of shape [n, 5] in layer `dense`", &format!("{shape:?}")],
        );
    }
    assert_error(
        conv.forward(&pass, &zeros(&[1, 4, 4, 3]), None),
        &["conv2d: expected filters with 3 channels, got 2"],
    );
    let failing =
        Forward::inference(&params).with_tap(|name, _| Err(warpsmith::Error::argument("tap", "calm", name, "")));
    assert_error(dense.forward(&failing, &zeros(&[1, 5])), &["tap: expected calm, got dense"]);

    let mut builder = ParamsBuilder::new();
    Dense::new(&mut builder, "same", 2, 5);
    Dense::new(&mut builder, "same", 2, 5);
    assert_error(builder.build(&device, 0), &["ParamsBuilder::build: expected distinct names", "`same/bias` twice"]);
}

#[test]
fn arenas_are_padded_with_zeros() {
    let mut builder = ParamsBuilder::new();
    let ids = [("a/w", vec![3]), ("b/w", vec![2, 3]), ("c/w", vec![4])]
        .map(|(name, shape)| builder.param(name, &shape, Init::Constant(1.0)));
    builder.stat("a/moving", &[1], 2.0);
    builder.stat("b/moving", &[1], 3.0);
    let params = builder.build(&device(), 0).unwrap();
    let ones = |n: usize, pad: usize| [vec![1.0; n], vec![0.0; pad]].concat();
    assert_eq!(params.values().to_vec::<f32>().unwrap(), [ones(3, 1), ones(6, 2), ones(4, 0)].concat());
    assert_eq!(params.stats().to_vec::<f32>().unwrap(), [2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
    assert_eq!(params.value(ids[1]).unwrap().shape(), [2, 3]);
    let address = params.value(ids[2]).unwrap().read::<f32>().unwrap().as_ptr() as usize;
    assert_eq!(address % 16, 0);
}

#[test]
fn snapshots_go_back() {
    let device = device();
    let (net, params) = resnet(&device, Head::Classes(10), 1);
    let start = (bits(params.values()), bits(params.stats()));
    let snapshot = params.snapshot().unwrap();
    let mut adam = Adam::new(&params, AdamConfig::default()).unwrap();
    training_pass(&net, &params, false);
    adam.step(&params).unwrap();
    assert_ne!((bits(params.values()), bits(params.stats())), start);
    params.restore(&snapshot).unwrap();
    assert_eq!((bits(params.values()), bits(params.stats())), start);
    let (_, other) = resnet(&device, Head::Classes(5), 1);
    assert_error(other.restore(&snapshot), &["Tensor::copy_from", "shape, type and device must be equal"]);
}

/// A small model for the tests of model files.
fn small(device: &Device, classes: usize, seed: u64) -> Params {
    let mut builder = ParamsBuilder::new();
    Conv2d::new(&mut builder, "conv", 4, [3, 3], 2, Window::square(1, 1), true);
    BatchNorm::new(&mut builder, "bn", 4, 1e-3, 0.99);
    Dense::new(&mut builder, "dense", classes, 4);
    let params = builder.build(device, seed).unwrap();
    params.stats().copy_from_slice(&random(8, seed)).unwrap();
    params
}

#[test]
fn model_files_are_exact() {
    let device = device();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (_, saved) = resnet(&device, Head::Classes(10), 1);
    // Values that only an exact copy keeps.
    let special = [f32::MIN_POSITIVE / 2.0, -0.0, f32::MAX, f32::from_bits(0x7fc0_1234), 1.0 + f32::EPSILON];
    saved.values().view(0, &[5]).unwrap().copy_from_slice(&special).unwrap();
    saved.stats().view(0, &[5]).unwrap().copy_from_slice(&special).unwrap();
    checkpoint::save(&saved, &path).unwrap();
    let (_, loaded) = resnet(&device, Head::Classes(10), 2);
    assert_ne!(bits(loaded.values()), bits(saved.values()));
    checkpoint::load(&loaded, &path).unwrap();
    assert_eq!(bits(loaded.values()), bits(saved.values()));
    assert_eq!(bits(loaded.stats()), bits(saved.stats()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");

    // The file is what other programs expect of it.
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kernel = file.tensor("conv2_block1_2_conv/kernel").unwrap();
    assert_eq!((kernel.shape(), kernel.dtype()), (&[64, 3, 3, 64][..], safetensors::Dtype::F32));
    assert_eq!(file.tensor("predictions/kernel").unwrap().shape(), [10, 2048]);
    let opened = checkpoint::TensorFile::open(&path).unwrap();
    assert_eq!(opened.names().unwrap().len(), 272);
    assert_eq!(opened.metadata("filter_layout").unwrap(), "KRSC");
    assert_eq!(opened.metadata("format_version").unwrap(), checkpoint::FORMAT_VERSION);
    assert_error(opened.metadata("epoch"), &["model.safetensors: metadata `epoch`: expected an entry, got none"]);
}

#[test]
fn files_hold_every_element_type() {
    let device = device();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tensors.safetensors");
    let tensors = [
        ("a".to_string(), Tensor::from_slice(&device, &[3], &[0u8, 1, 255]).unwrap()),
        ("b".to_string(), Tensor::from_slice(&device, &[2], &[i32::MIN, 5]).unwrap()),
        ("c".to_string(), Tensor::from_slice(&device, &[1], &[half::bf16::from_f32(1.5)]).unwrap()),
        ("d".to_string(), Tensor::zeros(&device, &[0, 3], DType::F32).unwrap()),
    ];
    checkpoint::write_tensors(&path, &tensors, &[("purpose", "test".into())]).unwrap();
    let file = checkpoint::TensorFile::open(&path).unwrap();
    assert_eq!(file.metadata("purpose").unwrap(), "test");
    let targets = tensors.each_ref().map(|(_, t)| Tensor::zeros(&device, t.shape(), t.dtype()).unwrap());
    file.copy_into(tensors.iter().zip(&targets).map(|((name, _), t)| (name.as_str(), t.clone()))).unwrap();
    for ((name, want), got) in tensors.iter().zip(&targets) {
        assert_eq!(want.to_bytes().unwrap(), got.to_bytes().unwrap(), "{name}");
    }
    let host = Tensor::zeros(&Device::cpu().unwrap(), &[3], DType::U8).unwrap();
    let _writer = host.write::<u8>().unwrap();
    assert_error(checkpoint::write_tensors(&path, &[("a".to_string(), host.clone())], &[]), &["being written"]);
    assert_eq!(file.names().unwrap().len(), checkpoint::TensorFile::open(&path).unwrap().names().unwrap().len());
}

#[test]
fn model_files_that_do_not_fit_are_refused() {
    let device = device();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let params = small(&device, 3, 1);
    checkpoint::save(&small(&device, 3, 2), &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let before = (bits(params.values()), bits(params.stats()));
    let refused = |path: &Path, parts: &[&str]| {
        assert_error(checkpoint::load(&params, path), parts);
        assert_eq!((bits(params.values()), bits(params.stats())), before, "the model is unchanged");
    };
    let write = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };

    refused(&folder.path().join("missing"), &["missing: could not read the checkpoint: "]);
    refused(folder.path(), &["could not read the checkpoint"]);

    // Damage: cut anywhere, or a header that lies.
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for cut in [0, 4, 8, 8 + header / 2, 8 + header, good.len() / 2 + header / 2, good.len() - 1] {
        let path = write("cut", &good[..cut]);
        refused(&path, &["cut: file: expected a complete safetensors file", "the file is damaged"]);
    }
    refused(&write("long", &[&good[..], &[0; 4]].concat()), &["long: file: expected a complete safetensors file"]);
    refused(&write("text", b"this is not a model, just some text"), &["text: file: expected a complete"]);
    let mut absurd = good.clone();
    absurd[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&write("absurd", &absurd), &["absurd: file: expected a complete"]);
    let mut scratched = good.clone();
    scratched[12] ^= 0xff;
    refused(&write("scratched", &scratched), &["scratched: file: expected a complete"]);

    // Whole files of another origin, version or model.
    let file = safetensors::SafeTensors::deserialize(&good).unwrap();
    let metadata = |pairs: &[(&str, &str)]| -> Option<HashMap<String, String>> {
        Some(pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    };
    for (pairs, got) in [
        (vec![], "format None, format_version None"),
        (vec![("format", "pt")], "format Some(\"pt\")"),
        (vec![("format", "warpsmith")], "format_version None"),
        (vec![("format", "warpsmith"), ("format_version", "2")], "format_version Some(\"2\")"),
    ] {
        let path = write("other", &safetensors::serialize(file.tensors(), metadata(&pairs)).unwrap());
        refused(&path, &["other: metadata: expected format warpsmith, format_version 1", got]);
    }
    let ours = metadata(&[("format", "warpsmith"), ("format_version", "1")]);
    // The tensor that is missing is the last to be copied: the others must not have been touched before.
    let missing = file.tensors().into_iter().filter(|(name, _)| name != "bn/moving_variance");
    let path = write("fewer", &safetensors::serialize(missing, ours.clone()).unwrap());
    refused(&path, &["fewer: tensor `bn/moving_variance`: expected to find it, got nothing", "another model"]);
    let mut more = file.tensors();
    more.push(("extra/kernel".to_string(), file.tensor("dense/bias").unwrap()));
    let path = write("more", &safetensors::serialize(more, ours.clone()).unwrap());
    refused(&path, &["more: tensor `extra/kernel`: expected only tensors that the model has"]);
    let (shape, bytes) = ([4], [0u8; 8]);
    let mut halves = file.tensors();
    let half = safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.to_vec(), &bytes).unwrap();
    halves.iter_mut().filter(|(name, _)| name == "bn/moving_variance").for_each(|(_, view)| *view = half.clone());
    let path = write("halves", &safetensors::serialize(halves, ours).unwrap());
    refused(&path, &["halves: tensor `bn/moving_variance`: expected F32 [4], got BF16 [4]"]);
    checkpoint::save(&small(&device, 5, 2), &path).unwrap();
    refused(&path, &["tensor `dense/kernel`: expected F32 [3, 4], got F32 [5, 4]", "another model"]);

    assert_error(
        checkpoint::save(&params, &folder.path().join("no/such/folder")),
        &["no/such/folder: could not write"],
    );
    write("whole", &good);
    checkpoint::load(&params, &folder.path().join("whole")).unwrap();
    assert_eq!(bits(params.values()), bits(small(&device, 3, 2).values()));
}

#[test]
fn inference_keeps_no_activations() {
    let device = own_device();
    let (net, params) = resnet(&device, Head::Classes(10), 1);
    let x = images(&device, 4, 64, 64);
    let before = device.memory().in_use_bytes;
    device.reset_peak_memory();
    let pass = Forward::inference(&params);
    drop(net.forward(&pass, &pass.tape.constant(x)).unwrap());
    // The largest moment of a block: its input, the normalised input and three more of at most their size.
    let widest = 4 * 16 * 16 * 256 * 4;
    let peak = device.memory().peak_bytes - before;
    assert!(peak <= 5 * widest, "{peak} bytes of {widest}");
    assert_eq!(Tape::no_grad().len(), 0);
}
