//! Image ops: the augmentations with given parameters, on the row's device; and what there is on the host only, whole
//! policies with given draws and the deterministic corruptions.

use crate::case::{Case, Output};
use crate::index::Values;
use crate::{Fallible, fail};
use safetensors::tensor::Dtype;
use serde_json::json;
use warpsmith::augment::{RandAugment, RandAugmentDraw, RandAugmentOp};
use warpsmith::cpu::augment_geometry::{self as geometry, CropBox, FillMode, Interpolation, Transform};
use warpsmith::cpu::augment_pixel::{keras_cv, randaugment};
use warpsmith::cpu::corruption;
use warpsmith::cpu::elementwise::normalization_adapt;
use warpsmith::{Tape, ops};
#[cfg(feature = "cuda")]
use {
    cudarc::driver::CudaStream,
    warpsmith::cuda::Kernels,
    warpsmith::tensor::{DeviceReadGuard, DeviceWriteGuard},
    warpsmith::{Element, Tensor},
};

/// [n, h, w, c] of an HWC image or an NHWC batch.
fn nhwc(values: &Values) -> Fallible<[usize; 4]> {
    match values.shape[..] {
        [h, w, c] => Ok([1, h, w, c]),
        [n, h, w, c] => Ok([n, h, w, c]),
        _ => fail(format!("expected an HWC image or an NHWC batch, got {:?}", values.shape)),
    }
}

/// A result of another height and width, of the rank of the input.
fn resized(input: &Values, h: usize, w: usize, data: &[f32]) -> Output {
    let mut shape = input.shape.clone();
    let rank = shape.len();
    (shape[rank - 3], shape[rank - 2]) = (h, w);
    Output::new(&shape, data)
}

/// Runs a launcher on a copy of `x`, if the row's device is one for it, and takes the result back into `y`.
#[cfg(feature = "cuda")]
fn launched<X: Element, Y: Element>(
    case: &Case,
    x: &[X],
    y: &mut [Y],
    launch: impl FnOnce(&Kernels, &DeviceReadGuard<X>, &mut DeviceWriteGuard<Y>, &CudaStream) -> warpsmith::Result<()>,
) -> Fallible<bool> {
    let Some(gpu) = case.device.gpu() else { return Ok(false) };
    let from = Tensor::from_slice(case.device, &[x.len()], x)?;
    let to = Tensor::empty(case.device, &[y.len()], Y::DTYPE)?;
    launch(gpu.kernels(), &from.device_read()?, &mut to.device_write()?, gpu.stream())?;
    y.copy_from_slice(&to.to_vec()?);
    Ok(true)
}

/// Whether the launcher `cuda::module::op` ran on the row's device; `false` on the CPU.
#[cfg(feature = "cuda")]
macro_rules! launched {
    ($case:expr, $($op:ident)::+($x:expr, $shape:expr $(, $argument:expr)*) => $y:expr) => {
        launched($case, $x, $y, |k, x, y, s| warpsmith::cuda::$($op)::+(k, x, $shape $(, $argument)*, y, s))?
    };
}
#[cfg(not(feature = "cuda"))]
macro_rules! launched {
    ($($anything:tt)*) => {
        false
    };
}

/// An op of both `cpu::augment_geometry` and `cuda::augment_geometry`.
macro_rules! geometry {
    ($case:expr, $op:ident($x:expr, $shape:expr $(, $argument:expr)*) => $y:expr) => {
        if !launched!($case, augment_geometry::$op($x, $shape $(, $argument)*) => $y) {
            geometry::$op($x, $shape $(, $argument)*, $y)?;
        }
    };
}

/// A RandAugment op on every u8 image of the input; the host's are in place, or `into` a second image.
macro_rules! rand_augment {
    ($case:expr, $op:ident($($argument:expr),*)) => {
        rand_augment!($case, $op($($argument),*), |x, h, w, y| {
            y.copy_from_slice(x);
            randaugment::$op(y, h, w $(, $argument)*)
        })
    };
    ($case:expr, $op:ident($($argument:expr),*) into) => {
        rand_augment!($case, $op($($argument),*), |x, h, w, y| randaugment::$op(x, h, w $(, $argument)*, y))
    };
    ($case:expr, $op:ident($($argument:expr),*), $host:expr) => {{
        let input = $case.input("image")?;
        let [n, h, w, _] = nhwc(input)?;
        let (x, mut y) = (input.u8s()?, input.u8s()?);
        if launched!($case, augment_pixel::randaugment::$op(&x, [n, h, w] $(, $argument)*) => &mut y) {
            Ok(Output::new(&input.shape, &y))
        } else {
            each_u8($case, $host)
        }
    }};
}

/// Runs an op of the host on every u8 image of the input.
fn each_u8(case: &Case, op: impl Fn(&[u8], usize, usize, &mut [u8]) -> warpsmith::Result<()>) -> Fallible<Output> {
    let input = case.input("image")?;
    let [_, h, w, c] = nhwc(input)?;
    let (x, mut y) = (input.u8s()?, input.u8s()?);
    let elems = (h * w * c).max(1);
    for (x, y) in x.chunks_exact(elems).zip(y.chunks_exact_mut(elems)) {
        op(x, h, w, y)?;
    }
    Ok(Output::new(&input.shape, &y))
}

/// `level` and `sign`, which the explicit argument `name` came from as `value(level / 10) * sign`.
fn level(case: &Case, name: &str, value: impl Fn(f64) -> f64) -> Fallible<f64> {
    let sign = if case.has("sign") { sign(case)? } else { 1.0 };
    let (level, explicit) = (case.number("level")?, case.number(name)?);
    case.explains(name, explicit, sign * value(level / 10.0))?;
    Ok(explicit)
}

fn sign(case: &Case) -> Fallible<f64> {
    let sign = case.number("sign")?;
    if sign.abs() == 1.0 { Ok(sign) } else { fail(format!("arg `sign`: expected 1 or -1, got {sign}")) }
}

/// The level of an argument whose constant the row does not give: only its sign can be checked.
fn level_of_any_constant(case: &Case, name: &str) -> Fallible<f64> {
    let sign = if case.has("sign") { sign(case)? } else { 1.0 };
    let (level, explicit) = (case.number("level")?, case.number(name)?);
    if level < 0.0 || explicit * sign < 0.0 {
        return fail(format!("arg `{name}`: {explicit} does not agree with level {level} and sign {sign}"));
    }
    Ok(explicit)
}

pub fn rand_augment(case: &Case, op: &str) -> Fallible<Output> {
    match op {
        "auto_contrast" => rand_augment!(case, auto_contrast()),
        "equalize" => rand_augment!(case, equalize()),
        "invert" => rand_augment!(case, invert()),
        "rotate" => {
            let degrees = level(case, "degrees", |share| share * 30.0)?;
            rand_augment!(case, rotate(degrees) into)
        }
        "shear_x" | "shear_y" => {
            let shear = level(case, "shear", |share| share * 0.3)? as f32;
            if op == "shear_x" {
                rand_augment!(case, shear_x(shear) into)
            } else {
                rand_augment!(case, shear_y(shear) into)
            }
        }
        "translate_x" | "translate_y" => {
            let pixels = level_of_any_constant(case, "pixels")? as f32;
            if op == "translate_x" {
                rand_augment!(case, translate_x(pixels) into)
            } else {
                rand_augment!(case, translate_y(pixels) into)
            }
        }
        "color" | "contrast" | "brightness" | "sharpness" => {
            let factor = level(case, "factor", |share| share * 1.8 + 0.1)? as f32;
            match op {
                "color" => rand_augment!(case, color(factor)),
                "contrast" => rand_augment!(case, contrast(factor)),
                "brightness" => rand_augment!(case, brightness(factor)),
                _ => rand_augment!(case, sharpness(factor) into),
            }
        }
        "posterize" => {
            level(case, "bits", |share| (share * 4.0).trunc())?;
            let bits = u32::try_from(case.size("bits")?)?;
            rand_augment!(case, posterize(bits))
        }
        "solarize" => {
            level(case, "threshold", |share| (share * 256.0).trunc())?;
            let threshold = u32::try_from(case.size("threshold")?)?;
            rand_augment!(case, solarize(threshold))
        }
        "solarize_add" => {
            level(case, "addition", |share| (share * 110.0).trunc())?;
            let addition = u32::try_from(case.size("addition")?)?;
            let threshold = u32::try_from(case.size("threshold")?)?;
            rand_augment!(case, solarize_add(addition, threshold))
        }
        "cutout" => {
            level_of_any_constant(case, "pad_size")?;
            let pad = case.size("pad_size")?;
            let (row, col) = (case.size("centre_row")?, case.size("centre_col")?);
            let replace = replace(case)?;
            // The host counts in usize, kernels in u32.
            rand_augment!(case, cutout(pad as _, row as _, col as _, replace))
        }
        "distort" => distort(case),
        _ => fail(format!("no op `{op}`")),
    }
}

fn replace(case: &Case) -> Fallible<[u8; 3]> {
    let values: Vec<u8> = case.sizes("replace")?.into_iter().map(u8::try_from).collect::<Result<_, _>>()?;
    values.try_into().map_err(|got| format!("arg `replace`: expected 3 values, got {got:?}").into())
}

fn distort(case: &Case) -> Fallible<Output> {
    let input = case.input("image")?;
    let [_, h, w, c] = nhwc(input)?;
    let (names, indices) = (case.texts("ops")?, case.sizes("op_indices")?);
    if names.len() != indices.len() {
        return fail(format!("{} ops with {} indices", names.len(), indices.len()));
    }
    let positive = sign(case)? > 0.0;
    let replace = replace(case)?;
    let mut draws = Vec::new();
    for (name, &index) in names.iter().zip(&indices) {
        let op = RandAugmentOp::from_name(name).ok_or_else(|| format!("arg `ops`: no op `{name}`"))?;
        if RandAugmentOp::ALL.get(index) != Some(&op) {
            return fail(format!("index {index} is not that of `{name}`"));
        }
        let (mut centre_row, mut centre_col) = (0, 0);
        if op == RandAugmentOp::Cutout {
            // Only a cutout shows the replacing value, and the policy has the reference's built in.
            (centre_row, centre_col) = (case.size("centre_row")?, case.size("centre_col")?);
            if replace != [128; 3] {
                return fail(format!("arg `replace`: RandAugment has 128 built in and cannot do {replace:?}"));
            }
        }
        draws.push(RandAugmentDraw { op, positive, centre_row, centre_col });
    }
    let policy = RandAugment {
        num_layers: draws.len(),
        magnitude: case.number("magnitude")?,
        cutout_const: case.number("cutout_const")?,
        translate_const: case.number("translate_const")?,
    };
    let images = input.f32s();
    let mut y = vec![0.0; images.len()];
    let elems = (h * w * c).max(1);
    for (x, y) in images.chunks_exact(elems).zip(y.chunks_exact_mut(elems)) {
        policy.distort(x, h, w, &draws, y)?;
    }
    Ok(Output::new(&input.shape, &y))
}

/// Runs `u8` or `f32` on the pixels as they are stored.
macro_rules! by_type {
    ($input:expr, $pixels:ident => $body:expr) => {
        if $input.dtype == Dtype::U8 {
            let $pixels = $input.u8s()?;
            $body
        } else {
            let $pixels = $input.f32s();
            $body
        }
    };
}

fn crop_and_resize(case: &Case, region: CropBox, h: usize, w: usize) -> Fallible<Output> {
    let input = case.input("image")?;
    let shape = nhwc(input)?;
    let mut y = vec![0.0; shape[0] * h * w * shape[3]];
    by_type!(input, x => geometry!(case, crop_resize(&x, shape, region, h, w) => &mut y));
    Ok(resized(input, h, w, &y))
}

pub fn resize_bilinear(case: &Case) -> Fallible<Output> {
    case.only("antialias", json!(false))?;
    case.only("half_pixel_centers", json!(true))?;
    let input = case.input("image")?;
    let (shape, h, w) = (nhwc(input)?, case.size("height")?, case.size("width")?);
    let mut y = vec![0.0; shape[0] * h * w * shape[3]];
    by_type!(input, x => geometry!(case, resize_bilinear(&x, shape, h, w) => &mut y));
    Ok(resized(input, h, w, &y))
}

pub fn crop_resize(case: &Case) -> Fallible<Output> {
    let region = CropBox {
        top: case.size("top")?,
        left: case.size("left")?,
        height: case.size("crop_height")?,
        width: case.size("crop_width")?,
    };
    crop_and_resize(case, region, case.size("height")?, case.size("width")?)
}

pub fn flip_left_right(case: &Case) -> Fallible<Output> {
    let input = case.input("image")?;
    let shape = nhwc(input)?;
    by_type!(input, x => {
        let mut y = x.clone();
        geometry!(case, flip_left_right(&x, shape) => &mut y);
        Ok(Output::new(&input.shape, &y))
    })
}

pub fn center_crop(case: &Case) -> Fallible<Output> {
    let input = case.input("image")?;
    let (shape, h, w) = (nhwc(input)?, case.size("height")?, case.size("width")?);
    let mut y = vec![0.0; shape[0] * h * w * shape[3]];
    by_type!(input, x => geometry!(case, center_crop(&x, shape, h, w) => &mut y));
    Ok(resized(input, h, w, &y))
}

pub fn resize_center_crop(case: &Case) -> Fallible<Output> {
    let (train_size, test_size) = (case.number("train_size")?, case.number("test_size")?);
    let (resize, crop) = (case.size("resize")?, case.size("crop")?);
    case.explains("resize", resize as f64, (test_size / train_size * test_size).trunc())?;
    let input = case.input("image")?;
    let [n, _, _, c] = nhwc(input)?;
    let mut whole = vec![0.0; n * resize * resize * c];
    let shape = nhwc(input)?;
    by_type!(input, x => geometry!(case, resize_bilinear(&x, shape, resize, resize) => &mut whole));
    let mut y = vec![0.0; n * crop * crop * c];
    geometry!(case, center_crop(&whole, [n, resize, resize, c], crop, crop) => &mut y);
    Ok(resized(input, crop, crop, &y))
}

fn interpolation(case: &Case) -> Fallible<Interpolation> {
    match case.text("interpolation")?.as_str() {
        "nearest" => Ok(Interpolation::Nearest),
        "bilinear" => Ok(Interpolation::Bilinear),
        other => fail(format!("arg `interpolation`: `{other}` is neither nearest nor bilinear")),
    }
}

fn fill_mode(case: &Case, name: &str) -> Fallible<FillMode> {
    match case.text(name)?.as_str() {
        "reflect" => Ok(FillMode::Reflect),
        "constant" => Ok(FillMode::Constant),
        "nearest" => Ok(FillMode::Nearest),
        "wrap" => Ok(FillMode::Wrap),
        other => fail(format!("arg `{name}`: no fill mode `{other}`")),
    }
}

/// A named geometric op, which is bilinear and reflects; for any other way its transform and [`geometry::warp`].
fn named_warp(
    case: &Case,
    transform: impl Fn(usize, usize) -> Transform,
    named: impl Fn(&[f32], [usize; 4], &mut [f32]) -> Fallible<()>,
) -> Fallible<Output> {
    let input = case.input("images")?;
    let shape = nhwc(input)?;
    let (interpolation, fill) = (interpolation(case)?, fill_mode(case, "fill")?);
    let x = input.f32s();
    let mut y = vec![0.0; x.len()];
    if interpolation == Interpolation::Bilinear && fill == FillMode::Reflect {
        named(&x, shape, &mut y)?;
    } else {
        let fill_value = if fill == FillMode::Constant { case.number("fill_value")? as f32 } else { 0.0 };
        let transform = transform(shape[1], shape[2]);
        geometry!(case, warp(&x, shape, &transform, interpolation, fill, fill_value) => &mut y);
    }
    Ok(Output::new(&input.shape, &y))
}

pub fn random_rotation(case: &Case) -> Fallible<Output> {
    let radians = case.number("radians")?;
    case.explains("radians", radians, case.number("factor")? * std::f64::consts::TAU)?;
    let radians = radians as f32;
    named_warp(
        case,
        |h, w| geometry::rotation_transform(h, w, radians),
        |x, shape, y| {
            geometry!(case, random_rotation(x, shape, radians) => y);
            Ok(())
        },
    )
}

pub fn random_zoom(case: &Case) -> Fallible<Output> {
    let (height, width) = (case.number("height_factor")? as f32, case.number("width_factor")? as f32);
    named_warp(
        case,
        |h, w| geometry::zoom_transform(h, w, height, width),
        |x, shape, y| {
            geometry!(case, random_zoom(x, shape, height, width) => y);
            Ok(())
        },
    )
}

pub fn warp(case: &Case) -> Fallible<Output> {
    let input = case.input("images")?;
    let [n, h, w, c] = nhwc(input)?;
    let first = case.size("first")?;
    if first > n || input.shape.len() != 4 {
        return fail(format!("arg `first`: {first} images of {:?}", input.shape));
    }
    let numbers = case.numbers("transform")?;
    let transform: Vec<f32> = numbers.iter().map(|&v| v as f32).collect();
    let transform: Transform =
        transform.try_into().map_err(|_| format!("arg `transform`: 8 numbers, not {numbers:?}"))?;
    let (interpolation, fill) = (interpolation(case)?, fill_mode(case, "fill_mode")?);
    let fill_value = case.number("fill_value")? as f32;
    let shape = [first, h, w, c];
    let mut y = vec![0.0; first * h * w * c];
    let x = &input.f32s()[..y.len()];
    geometry!(case, warp(x, shape, &transform, interpolation, fill, fill_value) => &mut y);
    Ok(Output::new(&shape, &y))
}

pub fn rescale(case: &Case) -> Fallible<Output> {
    let x = Tape::no_grad().constant(case.pixels("x")?);
    Output::of(ops::rescale(&x, case.number("scale")? as f32, case.number("offset")? as f32)?.tensor())
}

pub fn adapt(case: &Case, wants_mean: bool) -> Fallible<Output> {
    let data = case.input("data")?;
    let c = data.shape.last().copied().unwrap_or(0);
    let (mut mean, mut variance) = (vec![0.0; c], vec![0.0; c]);
    by_type!(data, x => normalization_adapt(&x, &mut mean, &mut variance)?);
    Ok(Output::new(&[c], if wants_mean { &mean } else { &variance }))
}

pub fn normalization(case: &Case) -> Fallible<Output> {
    case.constant("eps", 1e-7)?;
    let x = Tape::no_grad().constant(case.pixels("x")?);
    Output::of(ops::normalization(&x, &case.tensor("mean")?, &case.tensor("variance")?)?.tensor())
}

pub fn keras_cv_op(case: &Case, op: &str) -> Fallible<Output> {
    case.only("value_range", json!([0, 255]))?;
    let input = case.input("images")?;
    let [n, h, w, _] = nhwc(input)?;
    let shape = [n, h, w];
    let number = |name: &str| Ok::<f32, Box<dyn std::error::Error>>(case.number(name)? as f32);
    let x = input.f32s();
    let mut y = x.clone();
    // In place on the host.
    macro_rules! op {
        ($op:ident($($argument:expr),*)) => {
            if !launched!(case, augment_pixel::keras_cv::$op(&x, shape $(, $argument)*) => &mut y) {
                keras_cv::$op(&mut y, shape $(, $argument)*)?;
            }
        };
    }
    macro_rules! warped {
        ($op:ident($argument:expr), $transform:expr) => {
            return named_warp(case, $transform, |x, [n, h, w, _], y| {
                if !launched!(case, augment_pixel::keras_cv::$op(x, [n, h, w], $argument) => y) {
                    keras_cv::$op(x, [n, h, w], $argument, y)?;
                }
                Ok(())
            })
        };
    }
    match op {
        "auto_contrast" => op!(auto_contrast()),
        "equalization" => op!(equalization()),
        "solarization" => {
            let (addition, threshold) = (number("addition")?, number("threshold")?);
            op!(solarization(addition, threshold));
        }
        "random_color_degeneration" => {
            let factor = number("factor")?;
            op!(random_color_degeneration(factor));
        }
        "random_contrast" => {
            let factor = number("factor")?;
            op!(random_contrast(factor));
        }
        "random_brightness" => {
            let delta = case.number("delta")?;
            case.explains("delta", delta, case.number("factor")? * 255.0)?;
            op!(random_brightness(delta as f32));
        }
        "random_shear_x" => {
            let shear = number("shear")?;
            warped!(random_shear_x(shear), |_, _| geometry::shear_x_transform(shear));
        }
        "random_shear_y" => {
            let shear = number("shear")?;
            warped!(random_shear_y(shear), |_, _| geometry::shear_y_transform(shear));
        }
        "random_translation_x" => {
            let factor = number("factor")?;
            warped!(random_translation_x(factor), |_, w| geometry::translation_transform(-factor * w as f32, 0.0));
        }
        "random_translation_y" => {
            let factor = number("factor")?;
            warped!(random_translation_y(factor), |h, _| geometry::translation_transform(0.0, -factor * h as f32));
        }
        _ => return fail(format!("no op `{op}`")),
    }
    Ok(Output::new(&input.shape, &y))
}

pub fn corrupt(case: &Case, op: &str) -> Fallible<Output> {
    // The parameters say what a severity is; the library's own table is compared in `severities`.
    case.size("severity")?;
    let number = |name: &str| case.number(name);
    match op {
        "contrast" => {
            let c = number("c")?;
            each_u8(case, |x, h, w, y| corruption::contrast(x, h, w, c, y))
        }
        "brightness" => {
            let b = number("b")?;
            each_u8(case, |x, h, w, y| corruption::brightness(x, h, w, b, y))
        }
        "saturate" => {
            let (a, b) = (number("a")?, number("b")?);
            each_u8(case, |x, h, w, y| corruption::saturate(x, h, w, a, b, y))
        }
        "gaussian_blur" => {
            let sigma = number("sigma")?;
            each_u8(case, |x, h, w, y| corruption::gaussian_blur(x, h, w, sigma, y))
        }
        "defocus_blur" => {
            let (radius, blur_sigma) = (number("radius")?, number("blur_sigma")?);
            each_u8(case, |x, h, w, y| corruption::defocus_blur(x, h, w, radius, blur_sigma, y))
        }
        "zoom_blur" => {
            let factors = case.numbers("factors")?;
            each_u8(case, |x, h, w, y| corruption::zoom_blur(x, h, w, &factors, y))
        }
        "pixelate" => {
            let size = case.size("size")?;
            each_u8(case, |x, h, w, y| corruption::pixelate(x, h, w, size, size, y))
        }
        _ => fail(format!("no op `{op}`")),
    }
}

/// What the library's table of severities makes of a corruption row, with the row's parameters left aside.
pub fn corrupt_by_severity(case: &Case, op: &str) -> Fallible<Option<Output>> {
    let Some(corruption) = corruption::Corruption::from_name(op) else { return Ok(None) };
    let severity = case.size("severity")?;
    each_u8(case, |x, h, w, y| corruption.apply(severity, x, [1, h, w], y)).map(Some)
}
