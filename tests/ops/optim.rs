//! Optimisers and weight averaging against a plain loop in f64.

use crate::common::{assert_close, random};
use crate::{assert_error, bits, device, f32s};
use warpsmith::Device;
use warpsmith::nn::{BatchNorm, Init, KerasVersion, ParamId, Params, ParamsBuilder};
use warpsmith::optim::{Adam, AdamConfig, Sgd, SgdConfig, Swa, recompute_batch_norm};

/// Extents that leave padding, one that is split among threads, and frozen spans at the start, in between and at the end.
const ENTRIES: [(&str, usize, bool); 7] = [
    ("a/w", 5, false),
    ("b/w", 3, true),
    ("c/w", 70_001, true),
    ("d/w", 6, false),
    ("e/w", 1, false),
    ("f/w", 10, true),
    ("g/w", 2, false),
];

struct Model {
    params: Params,
    ids: Vec<ParamId>,
}

/// Entries with random values; the frozen ones are frozen by name.
fn model() -> Model {
    let device = device();
    let mut builder = ParamsBuilder::new();
    let ids: Vec<ParamId> =
        ENTRIES.iter().map(|&(name, n, _)| builder.param(name, &[n], Init::Constant(0.0))).collect();
    let mut params = builder.build(&device, 0).unwrap();
    for (i, (&id, &(_, n, _))) in ids.iter().zip(&ENTRIES).enumerate() {
        params.value(id).unwrap().copy_from_slice(&random(n, 100 + i as u64)).unwrap();
    }
    params.set_trainable(|name| ENTRIES.iter().any(|&(entry, _, trainable)| entry == name && trainable)).unwrap();
    Model { params, ids }
}

impl Model {
    /// The trainable values, one entry after the other.
    fn trainable(&self) -> Vec<f32> {
        let trained = self.ids.iter().filter(|&&id| self.params.is_trainable(id));
        trained.flat_map(|&id| self.params.value(id).unwrap().to_vec::<f32>().unwrap()).collect()
    }

    /// Everything that no optimiser may touch: frozen values and padding.
    fn untouchable(&self) -> Vec<u32> {
        let mut all = bits(self.params.values());
        let mut offset = 0;
        for &(_, n, trainable) in &ENTRIES {
            if trainable {
                all[offset..offset + n].fill(0);
            }
            offset += n.next_multiple_of(4);
        }
        all
    }

    /// Fills the gradient arena with seeded numbers and returns them in the order of [`Model::trainable`].
    fn draw_gradients(&self, seed: u64) -> Vec<f32> {
        let mut all = Vec::new();
        for (i, (&id, &(_, n, _))) in self.ids.iter().zip(&ENTRIES).enumerate() {
            if let Some(gradient) = self.params.gradient(id).unwrap() {
                let values = random(n, seed * 1000 + i as u64);
                gradient.copy_from_slice(&values).unwrap();
                all.extend(values);
            }
        }
        all
    }
}

fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn adam_is_the_formula() {
    let model = model();
    let mut adam = Adam::new(&model.params, AdamConfig::default()).unwrap();
    let untouchable = model.untouchable();
    let mut w = to_f64(&model.trainable());
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    let (b1, b2) = (f64::from(0.9f32), f64::from(0.999f32));
    let mut moved = 0.0;
    for t in 1..=7 {
        // The learning rate changes on the way, as ReduceLROnPlateau does.
        let learning_rate = if t <= 4 { 1e-3 } else { 5e-4 };
        adam.set_learning_rate(learning_rate as f32);
        let g = model.draw_gradients(t);
        adam.step(&model.params).unwrap();
        let rate = learning_rate * (1.0 - b2.powi(t as i32)).sqrt() / (1.0 - b1.powi(t as i32));
        for (i, &g) in g.iter().enumerate() {
            let g = f64::from(g);
            m[i] += (g - m[i]) * (1.0 - b1);
            v[i] += (g * g - v[i]) * (1.0 - b2);
            w[i] -= rate * m[i] / (v[i].sqrt() + 1e-7);
        }
        moved += learning_rate;
        // Each step rounds the weight once, and its update, of at most a few learning rates, a few times.
        let eps = f64::from(f32::EPSILON);
        let atol = 40.0 * eps * moved;
        assert_close("Adam", &t, &[w.len()], &model.trainable(), &w, atol, t as f64 * eps);
        assert_eq!(adam.t(), t);
    }
    assert_eq!(model.untouchable(), untouchable, "frozen values and padding");
}

#[test]
fn adam_goes_on_from_restored_state() {
    let (straight, resumed) = (model(), model());
    let mut adam = Adam::new(&straight.params, AdamConfig::default()).unwrap();
    let mut before = Adam::new(&resumed.params, AdamConfig::default()).unwrap();
    for t in 1..=2 {
        straight.draw_gradients(t);
        adam.step(&straight.params).unwrap();
        resumed.draw_gradients(t);
        before.step(&resumed.params).unwrap();
    }
    let mut after = Adam::new(&resumed.params, AdamConfig::default()).unwrap();
    for ((name, to), (from_name, from)) in after.state().into_iter().zip(before.state()) {
        assert_eq!(name, from_name);
        to.copy_from(&from).unwrap();
    }
    after.set_t(before.t());
    for t in 3..=4 {
        straight.draw_gradients(t);
        adam.step(&straight.params).unwrap();
        resumed.draw_gradients(t);
        after.step(&resumed.params).unwrap();
    }
    assert_eq!(bits(straight.params.values()), bits(resumed.params.values()));
}

#[test]
fn sgd_is_the_formula() {
    for (momentum, weight_decay) in [(0.0f32, 0.0f32), (0.9, 0.0), (0.0, 0.01), (0.9, 0.01)] {
        let model = model();
        let config = SgdConfig { learning_rate: 0.1, momentum, weight_decay };
        let mut sgd = Sgd::new(&model.params, config).unwrap();
        assert_eq!(sgd.velocity().is_some(), momentum > 0.0, "no momentum, no buffer");
        let untouchable = model.untouchable();
        let mut w = to_f64(&model.trainable());
        let mut u = vec![0.0; w.len()];
        let steps = 5;
        for t in 1..=steps {
            let learning_rate = if t <= 3 { 0.1f32 } else { 0.01 };
            sgd.set_learning_rate(learning_rate);
            let g = model.draw_gradients(t);
            sgd.step(&model.params).unwrap();
            for (i, &g) in g.iter().enumerate() {
                let g = f64::from(g) + f64::from(weight_decay) * w[i];
                u[i] = f64::from(momentum) * u[i] - f64::from(learning_rate) * g;
                w[i] += u[i];
            }
        }
        // Weights and velocities stay below 2; every step rounds either a few times.
        let atol = steps as f64 * 8.0 * f64::from(f32::EPSILON);
        assert_close("Sgd", &config, &[w.len()], &model.trainable(), &w, atol, 0.0);
        assert_eq!(model.untouchable(), untouchable, "frozen values and padding");
    }
}

#[test]
fn swa_is_the_mean_of_its_snapshots() {
    let model = model();
    let (start, period) = (1, 2);
    let mut swa = Swa::new(&model.params, start, period).unwrap();
    let untouchable = model.untouchable();
    let mut sum = vec![0.0; model.trainable().len()];
    let mut count = 0.0;
    for i in 0..7 {
        for (&id, &(_, n, trainable)) in model.ids.iter().zip(&ENTRIES) {
            if trainable {
                let values = random(n, 1000 * i + n as u64);
                model.params.value(id).unwrap().copy_from_slice(&values).unwrap();
            }
        }
        let live = bits(model.params.values());
        swa.update(&model.params, i).unwrap();
        assert_eq!(bits(model.params.values()), live, "averaging leaves the live weights alone");
        if i == 0 {
            assert_error(swa.assign(&model.params), &["Swa::assign: expected at least one snapshot", "step 1"]);
            assert_eq!(bits(model.params.values()), live);
        }
        if [1, 3, 5].contains(&i) {
            count += 1.0;
            sum.iter_mut().zip(model.trainable()).for_each(|(s, w)| *s += f64::from(w));
        }
    }
    swa.assign(&model.params).unwrap();
    let want: Vec<f64> = sum.iter().map(|s| s / count).collect();
    assert_close("Swa", &count, &[want.len()], &model.trainable(), &want, 1e-6, 0.0);
    assert_eq!(model.untouchable(), untouchable, "frozen values and padding");
}

#[test]
fn a_changed_trainable_set_is_refused() {
    let mut model = model();
    let mut adam = Adam::new(&model.params, AdamConfig::default()).unwrap();
    let mut sgd = Sgd::new(&model.params, SgdConfig::default()).unwrap();
    let mut swa = Swa::new(&model.params, 0, 1).unwrap();
    swa.update(&model.params, 0).unwrap();
    model.params.unfreeze("d").unwrap();
    let before = bits(model.params.values());
    let parts = ["expected the trainable set that the optimiser was built for", "build the optimiser after"];
    assert_error(adam.step(&model.params), &parts);
    assert_error(sgd.step(&model.params), &parts);
    assert_error(swa.update(&model.params, 1), &parts);
    assert_error(swa.assign(&model.params), &parts);
    assert_eq!((bits(model.params.values()), adam.t()), (before, 0));
}

#[test]
fn parameters_of_another_layout_or_device_are_refused() {
    let here = device();
    let build = |device: &Device, entries: &[(&str, &[usize])]| {
        let mut builder = ParamsBuilder::new();
        for (name, shape) in entries {
            builder.param(name, shape, Init::Constant(1.0));
        }
        builder.build(device, 0).unwrap()
    };
    let layout: [(&str, &[usize]); 2] = [("a", &[4]), ("b", &[8])];
    let params = build(&here, &layout);
    let mut adam = Adam::new(&params, AdamConfig::default()).unwrap();
    let mut sgd = Sgd::new(&params, SgdConfig::default()).unwrap();
    let mut swa = Swa::new(&params, 0, 1).unwrap();
    swa.update(&params, 0).unwrap();

    let mut frozen = [build(&here, &layout), build(&here, &layout)];
    frozen[0].freeze("a").unwrap();
    frozen[1].set_trainable(|_| true).unwrap();
    // The arenas of the last three are as long as those of `params`.
    let others = [
        ("more", build(&here, &[("a", &[4]), ("b", &[8]), ("c", &[4])])),
        ("fewer", build(&here, &layout[..1])),
        ("other sizes", build(&here, &[("a", &[8]), ("b", &[4])])),
        ("other shapes", build(&here, &[("a", &[2, 2]), ("b", &[8])])),
        ("other names", build(&here, &[("c", &[4]), ("b", &[8])])),
    ];
    let elsewhere = build(&Device::cpu().unwrap(), &layout);
    let others = others.iter().map(|(what, other)| (*what, other));
    for (what, other) in others.chain([("frozen", &frozen[0]), ("unfrozen", &frozen[1]), ("elsewhere", &elsewhere)]) {
        other.gradients().fill(1.0f32).unwrap();
        let before = bits(other.values());
        let parts = ["expected the trainable set that the optimiser was built for", "got another one"];
        assert_error(adam.step(other), &parts);
        assert_error(sgd.step(other), &parts);
        assert_error(swa.update(other, 1), &parts);
        assert_error(swa.assign(other), &parts);
        assert_eq!(bits(other.values()), before, "{what}");
    }

    let twin = build(&here, &layout);
    twin.values().fill(3.0f32).unwrap();
    twin.gradients().fill(1.0f32).unwrap();
    swa.update(&twin, 1).unwrap();
    swa.assign(&twin).unwrap();
    assert_eq!(twin.values().to_vec::<f32>().unwrap(), [2.0; 12], "an average over two models, in one of them");
    sgd.step(&twin).unwrap();
    adam.step(&twin).unwrap();
    assert!(twin.values().to_vec::<f32>().unwrap().iter().all(|&value| value < 2.0));
    assert_eq!(params.values().to_vec::<f32>().unwrap(), [1.0; 12]);
}

#[test]
fn nothing_to_train_is_no_error() {
    let mut model = model();
    model.params.freeze("*").unwrap();
    let before = bits(model.params.values());
    Adam::new(&model.params, AdamConfig::default()).unwrap().step(&model.params).unwrap();
    Sgd::new(&model.params, SgdConfig::default()).unwrap().step(&model.params).unwrap();
    assert_eq!(bits(model.params.values()), before);
}

#[test]
fn constants_outside_their_domain_are_errors() {
    let model = model();
    let good = AdamConfig::default();
    for bad in [
        AdamConfig { learning_rate: -1.0, ..good },
        AdamConfig { learning_rate: f32::NAN, ..good },
        AdamConfig { learning_rate: f32::INFINITY, ..good },
        AdamConfig { beta_1: 1.0, ..good },
        AdamConfig { beta_2: -0.1, ..good },
        AdamConfig { eps: 0.0, ..good },
    ] {
        assert_error(Adam::new(&model.params, bad), &["Adam: expected learning_rate >= 0", "AdamConfig::default"]);
    }
    let good = SgdConfig::default();
    for bad in [
        SgdConfig { learning_rate: -1.0, ..good },
        SgdConfig { learning_rate: f32::INFINITY, ..good },
        SgdConfig { momentum: 1.0, ..good },
        SgdConfig { momentum: f32::NAN, ..good },
        SgdConfig { weight_decay: -1.0, ..good },
    ] {
        assert_error(Sgd::new(&model.params, bad), &["Sgd: expected finite learning_rate >= 0", "SgdConfig::default"]);
    }
    assert_error(Swa::new(&model.params, 0, 0), &["Swa: expected a period of at least 1 step, got 0"]);
}

#[test]
fn recomputed_statistics_are_the_mean_over_the_batches() {
    let device = device();
    let (c, sizes) = (3, [8, 8, 8, 8, 3]);
    let mut builder = ParamsBuilder::new();
    let (first, second) =
        (BatchNorm::new(&mut builder, "first", c, 1e-3, 0.99), BatchNorm::new(&mut builder, "second", c, 1e-3, 0.99));
    let mut params = builder.build(&device, 0).unwrap();
    params.freeze("second").unwrap();
    let weights = bits(params.values());
    let batch = |i: usize| random(sizes[i] * c, i as u64);
    let total = sizes.iter().sum::<usize>() as f64;
    for (keras, correction) in [(KerasVersion::V3, 0), (KerasVersion::V2, 1)] {
        recompute_batch_norm(&params, keras, &sizes, |pass, i| {
            assert!(!pass.tape.is_recording(), "no activations are kept");
            let x = pass.tape.constant(f32s(&device, &[sizes[i], c], &batch(i)));
            second.forward(pass, &first.forward(pass, &x, None)?, None)?;
            Ok(())
        })
        .unwrap();
        let (mut mean, mut var) = (vec![0.0; c], vec![0.0; c]);
        for (i, &rows) in sizes.iter().enumerate() {
            let x = batch(i);
            for ch in 0..c {
                let column: Vec<f64> = (0..rows).map(|row| f64::from(x[row * c + ch])).collect();
                let m = column.iter().sum::<f64>() / rows as f64;
                let v = column.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (rows - correction) as f64;
                mean[ch] += m * rows as f64 / total;
                var[ch] += v * rows as f64 / total;
            }
        }
        let stat = |name: &str| params.stat(params.find_stat(name).unwrap()).unwrap().to_vec::<f32>().unwrap();
        assert_close("moving_mean", &keras, &[c], &stat("first/moving_mean"), &mean, 1e-6, 1e-6);
        assert_close("moving_variance", &keras, &[c], &stat("first/moving_variance"), &var, 1e-6, 1e-6);
    }
    let stat = |name: &str| params.stat(params.find_stat(name).unwrap()).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(stat("second/moving_mean"), [0.0; 3], "a frozen layer keeps its statistics");
    assert_eq!(stat("second/moving_variance"), [1.0; 3]);
    assert_eq!(bits(params.values()), weights);
    assert_error(
        recompute_batch_norm(&params, KerasVersion::V3, &[], |_, _| Ok(())),
        &["recompute_batch_norm: expected at least one batch"],
    );
}
