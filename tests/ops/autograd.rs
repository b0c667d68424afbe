//! The tape: what it adds up, what it keeps, what it lets go, and what it refuses.

use crate::common::{assert_close, random};
use crate::{assert_error, bits, device, f32s, own_device};
use std::cell::Cell;
use std::rc::Rc;
use warpsmith::nn::{Dense, Forward, Init, ParamsBuilder};
use warpsmith::problem::Window;
use warpsmith::{DType, Device, Tape, Tensor, Var, ops};

fn leaf(tape: &Tape, device: &Device, values: &[f32]) -> Var {
    tape.leaf(f32s(device, &[values.len()], values))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

#[test]
fn gradients_of_all_uses_add_up() {
    let device = device();
    let tape = Tape::new();
    let x = leaf(&tape, &device, &[1.0, -1.0]);
    let y = ops::add(&ops::scale(&x, 2.0).unwrap(), &ops::scale(&x, 3.0).unwrap()).unwrap();
    let y = ops::add(&y, &ops::relu(&x).unwrap()).unwrap();
    let gradients = ops::sum(&ops::add(&y, &y).unwrap()).unwrap().backward().unwrap();
    assert_eq!(values(gradients.get(&x).unwrap()), [12.0, 10.0]);
}

#[test]
fn shared_gradients_stay_apart() {
    // `add` hands one tensor to both inputs; a later contribution to one of them must not reach the other.
    let device = device();
    let tape = Tape::new();
    let (a, b) = (leaf(&tape, &device, &[1.0]), leaf(&tape, &device, &[1.0]));
    let doubled = ops::scale(&a, 2.0).unwrap();
    let relu = ops::relu(&b).unwrap();
    let both = ops::add(&a, &b).unwrap();
    let loss = ops::add(&ops::add(&both, &doubled).unwrap(), &ops::scale(&relu, 10.0).unwrap()).unwrap();
    let dy = f32s(&device, &[1], &[1.0]);
    let gradients = loss.backward_with(dy.clone()).unwrap();
    assert_eq!(values(gradients.get(&a).unwrap()), [3.0]);
    assert_eq!(values(gradients.get(&b).unwrap()), [11.0]);
    assert_eq!(values(&dy), [1.0]);

    // The same where the sharing comes from a convolution's residual.
    let tape = Tape::new();
    let image = |value: f32| tape.leaf(Tensor::full(&device, &[1, 1, 1, 1], value).unwrap());
    let (x, w, residual) = (image(2.0), image(3.0), image(1.0));
    let also = ops::scale(&residual, 5.0).unwrap();
    let y = ops::conv2d(&x, &w, None, Some(&residual), Window::default()).unwrap();
    let gradients = ops::sum(&ops::add(&y, &also).unwrap()).unwrap().backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().item().unwrap(), 3.0);
    assert_eq!(gradients.get(&w).unwrap().item().unwrap(), 2.0);
    assert_eq!(gradients.get(&residual).unwrap().item().unwrap(), 6.0);
}

#[test]
fn detach_stops_the_gradient() {
    let device = device();
    let tape = Tape::new();
    let x = leaf(&tape, &device, &[2.0]);
    let y = ops::add(&x, &ops::scale(&x, 5.0).unwrap().detach()).unwrap();
    assert_eq!(values(y.tensor()), [12.0]);
    let gradients = y.backward().unwrap();
    assert_eq!(values(gradients.get(&x).unwrap()), [1.0]);
    assert_error(
        x.detach().backward(),
        &["backward: expected a value computed from leaves", "a value without gradient"],
    );
}

#[test]
fn ops_after_the_root_do_not_count() {
    let device = device();
    let tape = Tape::new();
    let x = leaf(&tape, &device, &[2.0]);
    let loss = ops::scale(&x, 3.0).unwrap();
    let _later = ops::scale(&x, 100.0).unwrap();
    let on_top = ops::scale(&loss, 100.0).unwrap();
    let gradients = loss.backward().unwrap();
    assert_eq!(values(gradients.get(&x).unwrap()), [3.0]);
    assert_error(gradients.get(&on_top), &["Gradients::get: expected a leaf that the loss depends on"]);
}

#[test]
fn no_grad_keeps_nothing() {
    let device = own_device();
    let start = f32s(&device, &[1024], &random(1024, 1));
    let before = device.memory();
    device.reset_peak_memory();
    let tape = Tape::no_grad();
    assert!(!tape.is_recording());
    let mut x = tape.leaf(start.clone());
    for _ in 0..10 {
        x = ops::scale(&ops::relu(&x).unwrap(), 0.5).unwrap();
    }
    assert!(tape.is_empty() && x.node().is_none());
    assert_error(ops::sum(&x).unwrap().backward(), &["use Tape::new()", "a value without gradient"]);
    drop(x);
    assert_eq!(device.memory().in_use_bytes, before.in_use_bytes);
    // At most the present value, its predecessor and the new one exist at once.
    assert!(device.memory().peak_bytes <= before.in_use_bytes + 3 * 4096);
}

#[test]
fn constants_record_nothing() {
    let device = device();
    let tape = Tape::new();
    let x = tape.constant(f32s(&device, &[2], &[1.0, 2.0]));
    let y = ops::relu(&x).unwrap();
    assert!(tape.is_empty() && y.node().is_none());
}

#[test]
fn backward_frees_activations_as_it_walks() {
    const OPS: usize = 20;
    const BYTES: usize = 4096;
    let device = own_device();
    let tape = Tape::new();
    let x = tape.leaf(f32s(&device, &[BYTES / 4], &random(BYTES / 4, 1)));
    // An op at the bottom of the tape looks at the memory when the walk reaches it, last of all.
    let seen = Rc::new(Cell::new(0));
    let mut y = {
        let (seen, node, watched) = (seen.clone(), x.node(), device.clone());
        let output = x.tensor().duplicate().unwrap();
        Var::record("watch", &[&x], output, move |dy, gradients| {
            seen.set(watched.memory().in_use_bytes);
            gradients.add(node, dy)
        })
        .unwrap()
    };
    for _ in 0..OPS {
        y = ops::relu(&y).unwrap();
    }
    let forward = device.memory().in_use_bytes;
    assert_eq!(forward, (OPS + 2) * BYTES, "x, the watching op's output and one activation per ReLU");
    device.reset_peak_memory();
    let gradients = y.backward_with(Tensor::full(&device, &[BYTES / 4], 1.0f32).unwrap()).unwrap();
    // x, y and the gradient; the watching op's output is saved by the first ReLU, which is gone.
    assert_eq!(seen.get(), 3 * BYTES);
    assert!(device.memory().peak_bytes <= forward + 2 * BYTES);
    let want: Vec<f32> = values(x.tensor()).iter().map(|&v| if v > 0.0 { 1.0 } else { 0.0 }).collect();
    assert_eq!(values(gradients.get(&x).unwrap()), want);
    drop((gradients, y));
    assert_eq!(device.memory().in_use_bytes, BYTES, "x alone, though the tape is still there");
    drop(x);
    assert_eq!(device.memory().in_use_bytes, 0);
    assert_eq!(tape.len(), OPS + 2);
}

#[test]
fn a_whole_step_runs_on_the_threads_of_the_device() {
    let device = Device::cpu_with_threads(2).unwrap();
    let step = || {
        let tape = Tape::new();
        let x = tape.leaf(f32s(&device, &[4, 6, 6, 3], &random(432, 1)));
        let w = tape.leaf(f32s(&device, &[5, 3, 3, 3], &random(135, 2)));
        let y = ops::relu(&ops::conv2d(&x, &w, None, None, Window::square(1, 1)).unwrap()).unwrap();
        let gradients = ops::sum(&y).unwrap().backward().unwrap();
        [&x, &w].map(|v| bits(gradients.get(v).unwrap()))
    };
    assert_eq!(step(), device.run(step));
}

#[test]
fn misuse_is_an_error() {
    let device = device();
    let tape = Tape::new();
    let (x, unused) = (leaf(&tape, &device, &[1.0, 2.0]), leaf(&tape, &device, &[1.0]));
    let y = ops::scale(&x, 2.0).unwrap();
    assert_error(y.backward(), &["backward: expected a single f32, got f32 [2]", "backward_with"]);
    assert_error(y.backward_with(f32s(&device, &[3], &[0.0; 3])), &["backward: expected f32 [2]", "got f32 [3]"]);

    let loss = ops::sum(&y).unwrap();
    let gradients = loss.backward().unwrap();
    assert_error(loss.backward(), &["backward: expected a fresh tape, got a tape that was already walked"]);
    assert_error(gradients.get(&unused), &["Gradients::get: expected a leaf that the loss depends on"]);
    assert_error(gradients.get(&y), &["Gradients::get: expected a leaf"]);

    let other = Tape::new();
    let z = leaf(&other, &device, &[1.0, 2.0]);
    assert_eq!(z.node(), x.node());
    assert_error(gradients.get(&z), &["Gradients::get: expected a leaf"]);
    assert_error(ops::add(&x, &z), &["add: expected inputs of one tape, got inputs of two tapes"]);
    // A constant belongs to any tape.
    ops::add(&other.constant(x.tensor().clone()), &z).unwrap();
    ops::add(&x, &other.constant(x.tensor().clone())).unwrap();

    let nothing = Var::record("nothing", &[], x.tensor().clone(), |_, _| Ok(()));
    assert_error(nothing, &["nothing: expected at least one input"]);
    let wrong = Var::record("wrong", &[&z], z.tensor().clone(), {
        let node = z.node();
        move |dy, gradients| {
            gradients.add(node, dy.clone())?;
            gradients.add(node, dy.view(0, &[1])?)
        }
    });
    assert_error(ops::sum(&wrong.unwrap()).unwrap().backward(), &["a gradient of shape [1]", "[2]", "wrong shape"]);
}

#[test]
fn a_parameter_and_its_accumulator_must_agree() {
    let device = device();
    let tape = Tape::new();
    let zeros = |device: &Device, shape: &[usize], dtype| Tensor::zeros(device, shape, dtype).unwrap();
    let w = zeros(&device, &[2, 3], DType::F32);
    for wrong in [
        zeros(&device, &[3, 2], DType::F32),
        zeros(&device, &[2, 3], DType::Bf16),
        zeros(&own_device(), &[2, 3], DType::F32),
    ] {
        assert_error(tape.parameter(w.clone(), wrong), &["Tape::parameter", "shape and device, and its type or f32"]);
    }
}

#[test]
fn parameters_accumulate_over_passes() {
    let device = device();
    let mut builder = ParamsBuilder::new();
    let first = Dense::new(&mut builder, "first", 5, 7);
    let second = Dense::new(&mut builder, "second", 3, 5);
    let params = builder.build(&device, 4).unwrap();
    let pass = |seed: u64| {
        let pass = Forward::training(&params);
        let x = pass.tape.constant(f32s(&device, &[4, 7], &random(28, seed)));
        let y = second.forward(&pass, &ops::relu(&first.forward(&pass, &x).unwrap()).unwrap()).unwrap();
        let gradients = y.backward_with(f32s(&device, &[4, 3], &random(12, seed + 1))).unwrap();
        drop(gradients);
        values(params.gradients())
    };
    assert!(values(params.gradients()).iter().all(|&g| g == 0.0));
    let one = pass(1);
    params.zero_gradients().unwrap();
    let other = pass(2);
    let both = pass(1);
    assert!(one.iter().filter(|&&g| g != 0.0).count() > 20 && one != other);
    let want: Vec<f64> = one.iter().zip(&other).map(|(&a, &b)| f64::from(a) + f64::from(b)).collect();
    assert_close("accumulation", &"two passes", &[want.len()], &both, &want, 1e-6, 1e-6);

    // A parameter that is used twice in one pass.
    let tape = Tape::new();
    let id = params.find("first/bias").unwrap();
    params.zero_gradients().unwrap();
    let sum = ops::add(&params.var(&tape, id).unwrap(), &params.var(&tape, id).unwrap()).unwrap();
    ops::sum(&sum).unwrap().backward().unwrap();
    assert_eq!(values(&params.gradient(id).unwrap().unwrap()), [2.0; 5]);
}

#[test]
fn frozen_parameters_have_no_gradient() {
    let device = device();
    let mut builder = ParamsBuilder::new();
    let ids: Vec<_> =
        ["a/w", "b/w", "c/w"].map(|name| builder.param(name, &[6], Init::Constant(1.0))).into_iter().collect();
    let mut params = builder.build(&device, 0).unwrap();
    assert_eq!(params.gradients().elems(), 3 * 8);
    params.freeze("b").unwrap();
    assert_eq!(params.gradients().elems(), 2 * 8, "a frozen parameter has no buffer");
    assert!(params.gradient(ids[1]).unwrap().is_none() && !params.is_trainable(ids[1]));

    let before = bits(params.values());
    let tape = Tape::new();
    let v: Vec<Var> = ids.iter().map(|&id| params.var(&tape, id).unwrap()).collect();
    assert!(v[1].node().is_none());
    let y = ops::add(&ops::add(&v[0], &ops::scale(&v[1], 3.0).unwrap()).unwrap(), &ops::scale(&v[2], 2.0).unwrap());
    let gradients = ops::sum(&y.unwrap()).unwrap().backward().unwrap();
    assert_error(gradients.get(&v[1]), &["Gradients::get"]);
    assert_eq!(values(&params.gradient(ids[0]).unwrap().unwrap()), [1.0; 6]);
    assert_eq!(values(&params.gradient(ids[2]).unwrap().unwrap()), [2.0; 6]);
    assert_eq!(bits(params.values()), before);

    params.freeze("*").unwrap();
    assert_eq!(params.gradients().elems(), 0);
    let y = params.var(&Tape::new(), ids[0]).unwrap();
    assert_error(ops::sum(&y).unwrap().backward(), &["a value without gradient"]);
}
