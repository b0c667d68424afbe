//! The CUDA device as tensors and ops see it: memory, copies, errors, and a whole network beside the CPU's.

use super::Case;
use super::common::{assert_error, random};
use super::gpu::gpu;
use half::bf16;
use std::sync::OnceLock;
use warpsmith::cuda::load_ptx;
use warpsmith::device::{CudaOptions, Precision};
use warpsmith::nn::{Forward, Head, Init, Params, ParamsBuilder, ResNet50V2};
use warpsmith::optim::{Adam, AdamConfig, Sgd, SgdConfig, Swa};
use warpsmith::rng::Philox;
use warpsmith::{DType, Device, Tape, Tensor, ops};

pub const CASES: &[Case] = &[
    ("device::tensors_go_there_and_back", tensors_go_there_and_back),
    ("device::large_uploads_go_in_pieces", large_uploads_go_in_pieces),
    ("device::guards_share_the_borrow_table", guards_share_the_borrow_table),
    ("device::the_pool_reuses_memory", the_pool_reuses_memory),
    ("device::out_of_memory_says_how_much_of_what", out_of_memory_says_how_much_of_what),
    ("device::devices_do_not_mix", devices_do_not_mix),
    ("device::ops_are_timed", ops_are_timed),
    ("device::ptx_that_is_refused_comes_with_the_compilers_words", refused_ptx),
    #[cfg(feature = "train")]
    ("device::batches_are_those_of_the_cpu", batches_are_those_of_the_cpu),
    ("device::a_network_follows_the_cpu_in_f32", || follows_the_cpu(Precision::F32)),
];

/// Tests that take long on the emulator, for `--include-ignored`.
pub const LONG_CASES: &[Case] = &[
    ("device::a_network_follows_the_cpu_in_tf32", || follows_the_cpu(Precision::Tf32)),
    ("device::a_network_follows_the_cpu_in_bf16", || follows_the_cpu(Precision::Bf16)),
];

/// The device of a precision, without a cache, so that the emulator sees every tensor. One per process: each loads the
/// kernels anew.
fn device(precision: Precision) -> Device {
    static DEVICES: [OnceLock<Device>; 3] = [const { OnceLock::new() }; 3];
    gpu(); // Installs the emulator.
    let options = CudaOptions { precision, cached: false, ..CudaOptions::default() };
    DEVICES[precision as usize].get_or_init(|| Device::cuda_with(options).unwrap()).clone()
}

fn f32_device() -> Device {
    device(Precision::F32)
}

fn tensors_go_there_and_back() {
    let device = f32_device();
    assert!(device.to_string().starts_with("cuda:0 ("), "{device}");
    assert!(device.gpu().is_some() && device.precision() == Precision::F32);
    let values = random(1000, 1);
    let x = Tensor::from_slice(&device, &[10, 100], &values).unwrap();
    assert_eq!(x.to_vec::<f32>().unwrap(), values);
    let row = x.view(300, &[100]).unwrap();
    assert_eq!(row.to_vec::<f32>().unwrap(), values[300..400]);
    row.fill(2.5f32).unwrap();
    row.view(7, &[3]).unwrap().zero().unwrap();
    let mut want = values.clone();
    want[300..400].fill(2.5);
    want[307..310].fill(0.0);
    assert_eq!(x.to_vec::<f32>().unwrap(), want);
    let copy = x.duplicate().unwrap();
    assert_eq!(copy.to_bytes().unwrap(), x.to_bytes().unwrap());
    assert_eq!(Tensor::full(&device, &[5], 7u8).unwrap().to_vec::<u8>().unwrap(), [7; 5]);
    assert_eq!(Tensor::full(&device, &[3], -2i32).unwrap().to_vec::<i32>().unwrap(), [-2; 3]);
    let halves = [bf16::from_f32(1.5), bf16::from_f32(-0.0)];
    assert_eq!(Tensor::from_slice(&device, &[2], &halves).unwrap().to_vec::<bf16>().unwrap(), halves);
    let empty = Tensor::zeros(&device, &[0, 3], DType::F32).unwrap();
    assert!(empty.to_vec::<f32>().unwrap().is_empty());
    device.synchronize().unwrap();
}

/// Uploads are staged 4 MiB at a time, through two buffers, or in one of 64 small ones.
fn large_uploads_go_in_pieces() {
    let device = f32_device();
    let values: Vec<i32> = (0..(11 << 20) / 4 + 13).collect();
    let x = Tensor::from_slice(&device, &[values.len()], &values).unwrap();
    assert!(x.to_vec::<i32>().unwrap() == values);
    // More than there are stages, before anything has run.
    let few: Vec<Tensor> = (0..150).map(|i| Tensor::from_slice(&device, &[3], &[i, i + 1, -i]).unwrap()).collect();
    for (i, tensor) in few.iter().enumerate() {
        let i = i as i32;
        assert_eq!(tensor.to_vec::<i32>().unwrap(), [i, i + 1, -i]);
    }
}

fn guards_share_the_borrow_table() {
    let device = f32_device();
    let x = Tensor::zeros(&device, &[8], DType::F32).unwrap();
    {
        let (_one, _two) = (x.device_read::<f32>().unwrap(), x.read::<f32>().unwrap());
        assert_error(x.device_write::<f32>().map(|_| ()), &["elements that nobody else is using", "being read"]);
        assert_error(x.zero(), &["being read"]);
    }
    {
        let left = x.view(0, &[4]).unwrap();
        let _writer = left.device_write::<f32>().unwrap();
        assert!(x.view(4, &[4]).unwrap().device_write::<f32>().is_ok());
        assert_error(x.read::<f32>().map(|_| ()), &["being written"]);
    }
    assert_error(x.device_read::<bf16>().map(|_| ()), &["expected a tensor of bf16, got f32"]);
    assert_error(
        x.write::<f32>().map(|_| ()),
        &["Tensor::write: expected a tensor on the CPU", "use Tensor::copy_from_slice"],
    );
    assert_error(x.copy_from_slice(&[1i32; 8]), &["Tensor::copy_from_slice: expected i32, got f32"]);
    assert_error(x.copy_from_slice(&[1f32; 7]), &["8 elements in `values`, got 7"]);
    let host = Tensor::zeros(&Device::cpu().unwrap(), &[8], DType::F32).unwrap();
    assert_error(host.device_read::<f32>().map(|_| ()), &["expected a tensor on a CUDA device", "Device::cuda"]);
}

/// A device of its own, with the pool that training uses; the emulator is told what it hands out.
fn the_pool_reuses_memory() {
    gpu();
    let device = Device::cuda(0).unwrap();
    let step = || {
        let a = Tensor::full(&device, &[1000], 1.0f32).unwrap();
        let b = Tensor::full(&device, &[500], 2.0f32).unwrap();
        drop(a);
        let c = Tensor::full(&device, &[900], 3.0f32).unwrap();
        (b.to_vec::<f32>().unwrap(), c.to_vec::<f32>().unwrap())
    };
    let values = step();
    let warm = device.memory();
    assert_eq!((warm.in_use_bytes, warm.system_allocations), (0, 2), "c takes a's place");
    for _ in 0..3 {
        assert!(step() == values);
    }
    assert_eq!(device.memory(), warm);
    assert_eq!(warm.peak_bytes, 4032 + 2048);
    device.trim_memory();
    assert_eq!(device.memory().reserved_bytes, 0);
}

fn out_of_memory_says_how_much_of_what() {
    let device = f32_device();
    let _x = Tensor::zeros(&device, &[16], DType::F32).unwrap();
    let result = Tensor::empty(&device, &[1 << 50], DType::F32);
    let parts = ["cuda:0", "out of memory: requested 4503599627370496 bytes", "in use", "at the peak", "bytes free"];
    assert_error(result, &parts);
}

fn devices_do_not_mix() {
    let tape = Tape::no_grad();
    let on = |device: &Device, dtype| tape.constant(Tensor::zeros(device, &[2], dtype).unwrap());
    let (cuda, cpu) = (f32_device(), Device::cpu().unwrap());
    assert_error(ops::add(&on(&cuda, DType::F32), &on(&cpu, DType::F32)), &["add: expected `b` on the device of `a`"]);
    assert_error(ops::relu(&on(&cpu, DType::Bf16)), &["`x` of f32", "bf16 computes on CUDA devices only"]);
    assert_error(ops::add(&on(&cuda, DType::Bf16), &on(&cuda, DType::F32)), &["`b` of bf16, as `a`"]);
    let params = |device: &Device| {
        let mut builder = ParamsBuilder::new();
        builder.param("w", &[4], Init::Constant(1.0));
        builder.build(device, 0).unwrap()
    };
    for (made_for, other) in [(params(&cuda), params(&cpu)), (params(&cpu), params(&cuda))] {
        let mut swa = Swa::new(&made_for, 0, 1).unwrap();
        swa.update(&made_for, 0).unwrap();
        let parts = ["expected the trainable set that the optimiser was built for", "another one"];
        assert_error(Adam::new(&made_for, AdamConfig::default()).unwrap().step(&other), &parts);
        assert_error(Sgd::new(&made_for, SgdConfig::default()).unwrap().step(&other), &parts);
        assert_error(swa.update(&other, 1), &parts);
        assert_error(swa.assign(&other), &parts);
    }
}

fn refused_ptx() {
    let context = gpu().kernels.context();
    let broken =
        ".version 8.2\n.target sm_80\n.address_size 64\n.visible .entry f()\n{\n  frobnicate.u32 %r1;\n  ret;\n}\n";
    let parts = ["device cuda:0: the driver could not load the kernels of `broken`", "frobnicate", "update the driver"];
    assert_error(load_ptx(context, "broken", broken).map(|_| ()), &parts);
    assert!(load_ptx(context, "whole", &broken.replace("  frobnicate.u32 %r1;\n", "")).is_ok());
}

fn ops_are_timed() {
    let device = f32_device();
    device.start_profile();
    let x = Tape::no_grad().constant(Tensor::full(&device, &[64], -1.0f32).unwrap());
    let y = ops::relu(&ops::scale(&x, 2.0).unwrap()).unwrap();
    let times = device.end_profile();
    assert_eq!(y.tensor().to_vec::<f32>().unwrap(), [0.0; 64]);
    let calls = |op| times.iter().find(|(name, _)| *name == op).map(|(_, time)| time.calls);
    assert!(calls("relu") >= Some(1) && calls("rescale") >= Some(1), "{times:?}");
}

/// What a model trains on is the same to the last bit: pictures, labels and order. Here the data set lies on the device;
/// tests/device/training.rs has one whose batches are sent.
#[cfg(feature = "train")]
fn batches_are_those_of_the_cpu() {
    use warpsmith::augment::{Pipeline, RandAugment, Step};
    use warpsmith::data::{Batches, Pairing, Shuffle, synthetic};
    use warpsmith::train::{Augmented, Loader};
    let set = synthetic::images(14, 2, 20, 24, 5).unwrap();
    let crop = [Step::RandomFlip, Step::Resize { height: 24, width: 24 }, Step::RandomCrop { height: 18, width: 18 }];
    let clean = Pipeline::new(crop.to_vec()).unwrap();
    let noisy = Pipeline::new([&crop[..], &[Step::RandAugment(RandAugment::default())]].concat()).unwrap();
    let plan = || Batches::new(14, 5).unwrap().shuffle(Shuffle::Full).unwrap().seed(3);
    let [cpu, cuda] = [Device::cpu().unwrap(), f32_device()].map(|device| {
        let pipelines = [clean.clone(), noisy.clone()];
        let loader = Loader::paired(&device, set.clone(), plan(), pipelines, Pairing::Paired, 9);
        let mut bits = Vec::new();
        for pass in 0..2 {
            for batch in loader.pass(pass, 0).unwrap() {
                let batch = batch.unwrap();
                assert!(batch.images.iter().all(|images| *images.device() == device));
                bits.extend(batch.images.iter().map(|images| images.to_bytes().unwrap()));
                bits.push(batch.labels.to_bytes().unwrap());
                bits.push(batch.indices.iter().flat_map(|i| i.to_le_bytes()).collect());
            }
        }
        let view = Augmented::new(&device, set.clone(), noisy.clone(), 1);
        bits.push(view.batch(&[3, 11, 3], 2).unwrap().to_bytes().unwrap());
        bits
    });
    assert_eq!(cpu.len(), 2 * 3 * 4 + 1);
    assert!(cpu == cuda);
}

/// A model with its optimiser on a device.
struct Model {
    net: ResNet50V2,
    params: Params,
    adam: Adam,
}

impl Model {
    fn new(device: &Device) -> Model {
        let mut builder = ParamsBuilder::new();
        let net = ResNet50V2::new(&mut builder, Head::Classes(10));
        let params = builder.build(device, 42).unwrap();
        let adam = Adam::new(&params, AdamConfig::default()).unwrap();
        Model { net, params, adam }
    }

    /// Takes over weights, moving statistics and the optimiser's state.
    fn copy(&mut self, other: &Model) {
        let copy = |to: &Tensor, from: &Tensor| to.copy_from_slice(&from.read::<f32>().unwrap()).unwrap();
        copy(self.params.values(), other.params.values());
        copy(self.params.stats(), other.params.stats());
        self.adam.state().iter().zip(other.adam.state()).for_each(|((_, to), (_, from))| copy(to, &from));
        self.adam.set_t(other.adam.t());
        self.params.refresh_bf16().unwrap();
    }

    /// Makes the batch norms constants. With statistics over 8 samples they amplify rounding a thousandfold, which leaves
    /// nothing to compare where the rounding is coarse.
    fn freeze_batch_norms(&mut self) {
        self.params.set_trainable(|name| !name.contains("bn/")).unwrap();
    }

    /// Loss and gradients of a batch; the moving statistics follow.
    fn pass(&self, images: &[f32], labels: &[i32]) -> f32 {
        let device = self.params.device();
        self.params.zero_gradients().unwrap();
        let pass = Forward::training(&self.params);
        let images = Tensor::from_slice(device, &[labels.len(), 32, 32, 3], images).unwrap();
        let labels = Tensor::from_slice(device, &[labels.len()], labels).unwrap();
        let logits = self.net.forward(&pass, &pass.tape.constant(images)).unwrap();
        let loss = ops::cross_entropy(&logits, &labels).unwrap();
        loss.backward().unwrap();
        loss.tensor().item().unwrap()
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// `|a - b| / (|b| + floor)` in the Euclidean norm.
fn distance(a: &[f32], b: &[f32], floor: f64) -> f64 {
    let difference = norm(a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    if difference == 0.0 { 0.0 } else { difference / (norm(b.iter().map(|&b| f64::from(b))) + floor) }
}

/// Eight images that differ in brightness and colour as photographs do, with noise on top.
fn pictures(seed: u64) -> Vec<f32> {
    let (colours, noise) = (random(8 * 3, seed), random(8 * 32 * 32 * 3, seed + 1));
    let colour = |i: usize| colours[i / (32 * 32 * 3) * 3 + i % 3];
    noise.iter().enumerate().map(|(i, noise)| 0.7 * colour(i) + 0.3 * noise).collect()
}

/// How far a training step of one model, and its loss, is from that of another: the loss; the worst gradient; the worst
/// gradient along the other's direction, which systematic errors change and rounding hardly does; the worst statistics.
fn difference((loss, model): (f32, &Model), (want_loss, want): (f32, &Model)) -> [(&'static str, f64); 4] {
    let gradient = |model: &Model, name: &str| {
        let gradient = model.params.gradient(model.params.find(name).unwrap()).unwrap();
        gradient.map(|gradient| gradient.to_vec::<f32>().unwrap())
    };
    let stat = |model: &Model, name: &str| {
        model.params.stat(model.params.find_stat(name).unwrap()).unwrap().to_vec::<f32>().unwrap()
    };
    let loss = f64::from((loss - want_loss).abs() / want_loss);
    // The bias of a convolution before a batch norm has gradient 0: what is computed is rounding alone.
    let floor = 1e-3 * norm(want.params.gradients().read::<f32>().unwrap().iter().map(|&g| f64::from(g)));
    let (mut worst, mut along, mut stats) = (0.0, 0.0, 0.0);
    for name in want.params.names() {
        let Some((got, want)) = gradient(model, name).zip(gradient(want, name)) else { continue };
        worst = worse(worst, distance(&got, &want, floor));
        let off = got.iter().zip(&want).map(|(&a, &b)| (f64::from(a) - f64::from(b)) * f64::from(b)).sum::<f64>();
        along = worse(along, off.abs() / (norm(want.iter().map(|&b| f64::from(b))) + floor).powi(2));
    }
    for name in want.params.stat_names() {
        stats = worse(stats, distance(&stat(model, name), &stat(want, name), 0.0));
    }
    [("loss", loss), ("gradient", worst), ("gradient's length", along), ("statistics", stats)]
}

/// The larger one, or NaN.
pub fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a >= b { a } else { b }
}

/// A training step of each model from the same state: the loss, every gradient, the statistics of the batch. They may be
/// off by three times as much as the CPU's own step moves when every weight is off by up to `nudge` of itself: a batch norm
/// over eight samples whose variance is nearly 0, or a ReLU whose input is, amplifies that as it amplifies rounding.
/// Returns how far they are off.
fn compare(
    what: &str,
    cuda: &Model,
    cpu: &Model,
    near: &Model,
    nudge: f32,
    (images, labels): (&[f32], &[i32]),
) -> [(&'static str, f64); 4] {
    let [values, stats] = [cpu.params.values(), cpu.params.stats()].map(|arena| arena.read::<f32>().unwrap().to_vec());
    let [want, got] = [cpu, cuda].map(|model| (model.pass(images, labels), model));
    let off = difference(got, want);
    let mut own = [0.0; 4];
    // And a few units in the last place, where nothing moves.
    let is_near = |own: &[f64]| off.iter().zip(own).all(|((_, off), own)| *off <= 3.0 * own + 1e-6);
    // One flip of a ReLU moves a gradient a hundred times further than rounding alone, and not every nudge makes one.
    for seed in 0..16 {
        let mut random = Philox::new(seed, 7);
        let mut nudged = |&value: &f32| value * (1.0 + nudge * (random.next_word() as f32 / (1u64 << 31) as f32 - 1.0));
        near.params.stats().copy_from_slice(&stats).unwrap();
        near.params.values().copy_from_slice(&values.iter().map(&mut nudged).collect::<Vec<_>>()).unwrap();
        let moved = difference((near.pass(images, labels), near), want);
        own = std::array::from_fn(|i| worse(own[i], moved[i].1));
        if is_near(&own) {
            break;
        }
    }
    for ((name, off), own) in off.iter().zip(own) {
        println!("{what}: {name} off by {off:.1e}, the CPU's own when nudged {own:.1e}");
    }
    assert!(is_near(&own), "{what}: {off:?}, the CPU's own when nudged {own:?}");
    off
}

/// ResNet50V2 at 32x32, batch 8, step by step from the same state as the CPU in f32: what [`compare`] compares, and the
/// optimiser's update given the same gradient. Then once more with constants for batch norms, which amplify little.
///
/// With `WARPSMITH_STEPS=10` as many steps; training is chaotic, so each starts from the CPU's state.
fn follows_the_cpu(precision: Precision) {
    let steps: u64 = std::env::var("WARPSMITH_STEPS").map_or(1, |steps| steps.parse().expect("a number of steps"));
    let nudge = match precision {
        Precision::F32 => (-21f32).exp2(),
        Precision::Tf32 => (-10f32).exp2(),
        Precision::Bf16 => (-8f32).exp2(),
    };
    let mut cpu = Model::new(&Device::cpu().unwrap());
    let mut cuda = Model::new(&device(precision));
    let mut near = Model::new(cpu.params.device());
    for step in 0..steps {
        cuda.copy(&cpu);
        // What is there afterwards is the batch's statistics, in full precision.
        [&cpu, &cuda].iter().for_each(|model| model.params.stats().zero().unwrap());
        let images = pictures(100 + 2 * step);
        let labels: Vec<i32> = (0..8).map(|i| (i * 7 + step as i32) % 10).collect();
        compare(&format!("{precision:?} step {step}"), &cuda, &cpu, &near, nudge, (&images, &labels));

        // The same gradient gives the same update, whatever the precision: it is f32.
        cuda.params.gradients().copy_from_slice(&cpu.params.gradients().read::<f32>().unwrap()).unwrap();
        let before = cpu.params.values().to_vec::<f32>().unwrap();
        let [want, got] = [&mut cpu, &mut cuda].map(|model| {
            model.adam.step(&model.params).unwrap();
            model.params.values().to_vec::<f32>().unwrap()
        });
        let moved = |after: &[f32]| after.iter().zip(&before).map(|(a, b)| a - b).collect::<Vec<f32>>();
        let error = distance(&moved(&got), &moved(&want), 0.0);
        println!("{precision:?} step {step}: update off by {error:.1e}");
        assert!(error <= 1e-5, "step {step}: the update is off by {error}");
        if let Some(copy) = cuda.params.bf16_values() {
            let rounded: Vec<bf16> = got.iter().map(|&v| bf16::from_f32(v)).collect();
            assert!(copy.to_vec::<bf16>().unwrap() == rounded, "step {step}: the bf16 copy lags behind");
        }
    }
    for model in [&mut cpu, &mut cuda, &mut near] {
        model.params.initialise(42).unwrap();
        model.freeze_batch_norms();
    }
    let (images, labels) = (pictures(50), [3, 1, 4, 1, 5, 9, 2, 6]);
    let off = compare(&format!("{precision:?}, batch norms frozen"), &cuda, &cpu, &near, nudge, (&images, &labels));
    // Nothing flips here, and what is left is rounding: ten times what was seen; tf32's is 2^13 times as coarse.
    if precision == Precision::F32 {
        assert!(off.iter().all(|(_, off)| *off <= 1e-5), "{off:?}");
    }
}
