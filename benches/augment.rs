//! Throughput of augmentation on one thread: `cargo bench --bench augment`.
//!
//! Prints images/s of the procedures' pipelines and the time of every op on a 72x72x3 image; every figure is the
//! median of several rounds. `--threads N` uses N threads for the pipelines.

use std::hint::black_box;
use std::time::Instant;
use warpsmith::augment::{
    DistortedBox, ImageRef, KerasRandAugment, Pipeline, RandAugment, RandAugmentDraw, RandAugmentOp, Step,
};
use warpsmith::cpu::augment_geometry::{CropBox, crop_resize, random_rotation, random_zoom, resize_bilinear};
use warpsmith::cpu::augment_pixel::{keras_cv, randaugment};
use warpsmith::cpu::corruption::Corruption;
use warpsmith::rng::Philox;

const BATCH: usize = 128;
const ROUNDS: usize = 15;

fn images(elems: usize) -> Vec<u8> {
    let mut rng = Philox::new(1, 0);
    // Neighbouring values differ little, as in pictures.
    let mut value = 128i32;
    (0..elems)
        .map(|_| {
            value = (value + (rng.next_word() % 33) as i32 - 16).clamp(0, 255);
            value as u8
        })
        .collect()
}

/// Median seconds of one call of `run`, which does `calls` of them.
fn median_seconds(calls: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() / calls as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

fn bench_pipeline(name: &str, h: usize, w: usize, n: usize, steps: Vec<Step>) {
    let data = images(n * h * w * 3);
    let refs: Vec<_> = data.chunks_exact(h * w * 3).map(|data| ImageRef { height: h, width: w, data }).collect();
    let indices: Vec<u32> = (0..n as u32).collect();
    let pipeline = Pipeline::new(steps).expect("steps are valid");
    let (out_h, out_w) = pipeline.output_size(h, w).expect("sizes fit");
    let mut out = vec![0.0; n * out_h * out_w * 3];
    let mut step = 0;
    let seconds = median_seconds(n, || {
        step += 1;
        pipeline.apply(&refs, &indices, 1, step, &mut out).expect("inputs are valid");
        black_box(&out);
    });
    println!("{name:<58} {:>9.0} images/s {:>9.1} µs/image", 1.0 / seconds, seconds * 1e6);
}

fn bench_op(name: &str, mut op: impl FnMut()) {
    let calls = 50;
    let seconds = median_seconds(calls, || (0..calls).for_each(|_| op()));
    println!("{name:<58} {:>9.1} µs", seconds * 1e6);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let threads = arguments.iter().position(|a| a == "--threads").and_then(|i| arguments.get(i + 1)?.parse().ok());
    let threads: usize = threads.unwrap_or(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    pool.install(|| {
        println!("pipelines, {threads} thread(s)");
        let resize = |size| Step::Resize { height: size, width: size };
        let crop = |size| Step::RandomCrop { height: size, width: size };
        let clean = vec![Step::RandomFlip, resize(96), crop(72)];
        let noisy = |policy| [clean.clone(), vec![Step::RandAugment(policy)]].concat();
        bench_pipeline("consistency clean: flip, resize 96, crop 72", 32, 32, BATCH, clean.clone());
        let name = "consistency noisy: flip, resize 96, crop 72, RandAugment";
        bench_pipeline(name, 32, 32, BATCH, noisy(RandAugment::default()));
        let zoom = Step::RandomZoom { height_factor: 0.2, width_factor: 0.2 };
        let simple = vec![resize(72), Step::RandomFlip, Step::RandomRotation { factor: 0.02 }, zoom];
        bench_pipeline("randaugment simple: resize 72, flip, rotation, zoom", 32, 32, BATCH, simple);
        let keras = vec![resize(72), Step::KerasRandAugment(KerasRandAugment::default())];
        bench_pipeline("randaugment: resize 72, keras_cv RandAugment", 32, 32, BATCH, keras);
        let distorted = vec![Step::DistortedBoxCrop(DistortedBox::default()), resize(128), Step::RandomFlip];
        bench_pipeline("fixres: distorted box crop, resize 128, flip", 333, 500, 16, distorted);
        let fine_tune = vec![resize(392), Step::RandomFlip, Step::CenterCrop { height: 224, width: 224 }];
        bench_pipeline("fixres fine-tune: resize 392, flip, centre crop 224", 333, 500, 16, fine_tune);
        let supcon = vec![Step::RandomFlip, Step::RandomRotation { factor: 0.02 }];
        bench_pipeline("supcon: flip, rotation", 32, 32, BATCH, supcon);

        println!("\nmodel-garden RandAugment, level 9, one 72x72x3 image (u8)");
        let (h, w) = (72, 72);
        let x = images(h * w * 3);
        let mut y = x.clone();
        bench_op("auto_contrast", || randaugment::auto_contrast(black_box(&mut y), h, w).expect("valid"));
        bench_op("equalize", || randaugment::equalize(black_box(&mut y), h, w).expect("valid"));
        bench_op("invert", || randaugment::invert(black_box(&mut y), h, w).expect("valid"));
        bench_op("rotate", || randaugment::rotate(black_box(&x), h, w, 27.0, &mut y).expect("valid"));
        bench_op("posterize", || randaugment::posterize(black_box(&mut y), h, w, 3).expect("valid"));
        bench_op("solarize", || randaugment::solarize(black_box(&mut y), h, w, 230).expect("valid"));
        bench_op("color", || randaugment::color(black_box(&mut y), h, w, 1.72).expect("valid"));
        bench_op("contrast", || randaugment::contrast(black_box(&mut y), h, w, 1.72).expect("valid"));
        bench_op("brightness", || randaugment::brightness(black_box(&mut y), h, w, 1.72).expect("valid"));
        bench_op("sharpness", || randaugment::sharpness(black_box(&x), h, w, 1.72, &mut y).expect("valid"));
        bench_op("shear_x", || randaugment::shear_x(black_box(&x), h, w, 0.27, &mut y).expect("valid"));
        bench_op("shear_y", || randaugment::shear_y(black_box(&x), h, w, 0.27, &mut y).expect("valid"));
        bench_op("translate_x", || randaugment::translate_x(black_box(&x), h, w, 90.0, &mut y).expect("valid"));
        bench_op("translate_y", || randaugment::translate_y(black_box(&x), h, w, -90.0, &mut y).expect("valid"));
        bench_op("cutout", || randaugment::cutout(black_box(&mut y), h, w, 36, 36, 36, [128; 3]).expect("valid"));
        bench_op("solarize_add", || randaugment::solarize_add(black_box(&mut y), h, w, 99, 128).expect("valid"));
        let invert = RandAugmentDraw { op: RandAugmentOp::Invert, positive: true, centre_row: 0, centre_col: 0 };
        let xf: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
        let mut yf = xf.clone();
        let policy = RandAugment::default();
        bench_op("distort (convert, invert, convert)", || {
            policy.distort(black_box(&xf), h, w, &[invert], &mut yf).expect("valid");
        });

        println!("\nkeras_cv RandAugment, one 72x72x3 image (f32)");
        let shape = [1, h, w];
        bench_op("auto_contrast", || keras_cv::auto_contrast(black_box(&mut yf), shape).expect("valid"));
        bench_op("equalization", || keras_cv::equalization(black_box(&mut yf), shape).expect("valid"));
        bench_op("solarization", || keras_cv::solarization(black_box(&mut yf), shape, 88.0, 51.0).expect("valid"));
        bench_op("random_color_degeneration", || {
            keras_cv::random_color_degeneration(black_box(&mut yf), shape, 0.8).expect("valid");
        });
        bench_op("random_contrast", || keras_cv::random_contrast(black_box(&mut yf), shape, 1.25).expect("valid"));
        bench_op("random_brightness", || keras_cv::random_brightness(black_box(&mut yf), shape, 9.0).expect("valid"));
        bench_op("random_shear_x", || keras_cv::random_shear_x(black_box(&xf), shape, 0.8, &mut yf).expect("valid"));
        bench_op("random_translation_y", || {
            keras_cv::random_translation_y(black_box(&xf), shape, 0.33, &mut yf).expect("valid");
        });

        println!("\ngeometry, one image");
        let nhwc = [1, h, w, 3];
        bench_op("random_rotation 72x72", || {
            random_rotation(black_box(&xf), nhwc, 0.1, &mut yf).expect("valid");
        });
        bench_op("random_zoom 72x72", || random_zoom(black_box(&xf), nhwc, 0.1, -0.1, &mut yf).expect("valid"));
        let mut resized = vec![0.0; 96 * 96 * 3];
        bench_op("resize_bilinear 72x72 -> 96x96", || {
            resize_bilinear(black_box(&x), nhwc, 96, 96, &mut resized).expect("valid");
        });
        let part = CropBox { top: 10, left: 5, height: 40, width: 50 };
        bench_op("crop_resize 40x50 -> 96x96", || {
            crop_resize(black_box(&x), nhwc, part, 96, 96, &mut resized).expect("valid");
        });

        println!("\nCIFAR-10-C corruptions, severity 5, one 32x32x3 image");
        let small = images(32 * 32 * 3);
        let mut corrupted = small.clone();
        for corruption in Corruption::ALL {
            bench_op(corruption.name(), || {
                corruption.apply(5, black_box(&small), [1, 32, 32], &mut corrupted).expect("valid");
            });
        }
    });
}
