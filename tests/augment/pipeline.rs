use crate::common::oracle::augment as oracle;
use crate::common::random_bytes;
use warpsmith::augment::geometry::{draw_crop, draw_flip, draw_rotation};
use warpsmith::augment::sampler::Sampler;
use warpsmith::augment::{DistortedBox, ImageRef, KerasRandAugment, Pipeline, RandAugment, Step};
use warpsmith::cpu::augment_geometry::{CropBox, rotation_transform};

fn resize(size: usize) -> Step {
    Step::Resize { height: size, width: size }
}

fn crop(size: usize) -> Step {
    Step::RandomCrop { height: size, width: size }
}

/// The pipelines of the procedures.
fn procedures() -> Vec<(&'static str, Vec<Step>)> {
    let centre = Step::CenterCrop { height: 20, width: 24 };
    let zoom = Step::RandomZoom { height_factor: 0.2, width_factor: 0.2 };
    let rotation = Step::RandomRotation { factor: 0.02 };
    let keras = Step::KerasRandAugment(KerasRandAugment::default());
    vec![
        ("clean", vec![Step::RandomFlip, resize(40), crop(28)]),
        ("noisy", vec![Step::RandomFlip, resize(40), crop(28), Step::RandAugment(RandAugment::default())]),
        ("simple", vec![resize(30), Step::RandomFlip, rotation, zoom]),
        ("simple, truncated", vec![resize(30), Step::Truncate, Step::RandomFlip, rotation, zoom]),
        ("keras", vec![resize(30), keras]),
        ("keras, truncated", vec![resize(30), Step::Truncate, keras]),
        ("fixres", vec![Step::DistortedBoxCrop(DistortedBox::default()), resize(32), Step::RandomFlip]),
        ("fine-tune", vec![resize(45), Step::RandomFlip, centre]),
        ("supcon", vec![Step::RandomFlip, rotation, resize(24)]),
        ("everything", vec![resize(40), Step::RandAugment(RandAugment::default()), Step::RandomFlip, keras, resize(9)]),
    ]
}

struct Set {
    h: usize,
    w: usize,
    data: Vec<u8>,
}

impl Set {
    fn new(n: usize, h: usize, w: usize) -> Set {
        Set { h, w, data: random_bytes(n * h * w * 3, 31) }
    }

    fn image(&self, index: u32) -> ImageRef<'_> {
        let elems = self.h * self.w * 3;
        ImageRef { height: self.h, width: self.w, data: &self.data[index as usize * elems..][..elems] }
    }

    fn run(&self, pipeline: &Pipeline, indices: &[u32], seed: u64, step: u32) -> Vec<f32> {
        let images: Vec<_> = indices.iter().map(|&index| self.image(index)).collect();
        let (h, w) = pipeline.output_size(self.h, self.w).unwrap();
        let mut out = vec![f32::NAN; indices.len() * h * w * 3];
        pipeline.apply(&images, indices, seed, step, &mut out).unwrap();
        out
    }
}

#[test]
fn threads_order_and_partition_do_not_matter() {
    let set = Set::new(11, 33, 31);
    let indices: Vec<u32> = (0..11).collect();
    for (name, steps) in procedures() {
        let pipeline = Pipeline::new(steps).unwrap();
        let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let want = pool(1).install(|| set.run(&pipeline, &indices, 9, 4));
        for threads in [2, 3] {
            let got = pool(threads).install(|| set.run(&pipeline, &indices, 9, 4));
            assert!(got == want, "{name}: {threads} threads");
        }
        let image_elems = want.len() / 11;
        let image = |out: &[f32], i: usize| out[i * image_elems..][..image_elems].to_vec();
        let reversed: Vec<u32> = (0..11).rev().collect();
        let got = set.run(&pipeline, &reversed, 9, 4);
        (0..11).for_each(|i| assert!(image(&got, 10 - i) == image(&want, i), "{name}: reversed, image {i}"));
        let parts = [&indices[..1], &indices[1..5], &indices[5..]].map(|part| set.run(&pipeline, part, 9, 4)).concat();
        assert!(parts == want, "{name}: in three batches");
        assert!(set.run(&pipeline, &indices, 10, 4) != want, "{name}: the seed does nothing");
        assert!(set.run(&pipeline, &indices, 9, 5) != want, "{name}: the step does nothing");
        let branch = pipeline.clone().with_branch(1);
        assert!(set.run(&branch, &indices, 9, 4) != want, "{name}: the branch does nothing");
    }
}

#[test]
fn flip_resize_crop_equals_the_steps_one_by_one() {
    let set = Set::new(40, 33, 31);
    let pipeline = Pipeline::new(vec![Step::RandomFlip, resize(96), crop(72)]).unwrap();
    let mut flips = 0;
    for index in 0..40 {
        let sampler = Sampler { seed: 1, step: 2, index, branch: 0 };
        let mut image: Vec<f32> = set.image(index).data.iter().map(|&x| f32::from(x)).collect();
        if draw_flip(&sampler.draws(0, 0)) {
            image = oracle::flip(&image, [33, 31, 3]);
            flips += 1;
        }
        let image = oracle::resize(&image, [33, 31, 3], 96, 96);
        let CropBox { top, left, height, width } = draw_crop(&sampler.draws(2, 0), 96, 96, 72, 72).unwrap();
        let want = oracle::crop(&image, [96, 96, 3], [top, left, height, width]);
        assert!(set.run(&pipeline, &[index], 1, 2) == want, "image {index}");
    }
    assert!((5..35).contains(&flips));
}

#[test]
fn later_geometry_equals_the_steps_one_by_one() {
    let set = Set::new(20, 21, 17);
    let steps = vec![
        crop(16),
        Step::RandomRotation { factor: 0.1 },
        resize(23),
        Step::RandomFlip,
        resize(19),
        Step::Truncate,
        Step::RandomFlip,
    ];
    let pipeline = Pipeline::new(steps).unwrap();
    for index in 0..20 {
        let sampler = Sampler { seed: 1, step: 0, index, branch: 0 };
        let image: Vec<f32> = set.image(index).data.iter().map(|&x| f32::from(x)).collect();
        let CropBox { top, left, height, width } = draw_crop(&sampler.draws(0, 0), 21, 17, 16, 16).unwrap();
        let image = oracle::crop(&image, [21, 17, 3], [top, left, height, width]);
        let transform = rotation_transform(16, 16, draw_rotation(&sampler.draws(1, 0), 0.1));
        let image = oracle::warp(&image, [16, 16, 3], &transform, false, "reflect", 0.0);
        let mut image = oracle::resize(&image, [16, 16, 3], 23, 23);
        if draw_flip(&sampler.draws(3, 0)) {
            image = oracle::flip(&image, [23, 23, 3]);
        }
        let mut image = oracle::resize(&image, [23, 23, 3], 19, 19);
        image.iter_mut().for_each(|x| *x = x.trunc());
        if draw_flip(&sampler.draws(6, 0)) {
            image = oracle::flip(&image, [19, 19, 3]);
        }
        assert!(set.run(&pipeline, &[index], 1, 0) == image, "image {index}");
    }
}

#[test]
fn rand_augment_equals_its_draws_given() {
    let set = Set::new(60, 24, 24);
    let policy = RandAugment { num_layers: 3, ..RandAugment::default() };
    let pipeline = Pipeline::new(vec![resize(30), Step::RandAugment(policy)]).unwrap();
    for index in 0..60 {
        let sampler = Sampler { seed: 7, step: 1, index, branch: 0 };
        let draws: Vec<_> = (0..3).map(|layer| policy.draw(&sampler.draws(1, layer), 30, 30)).collect();
        let image: Vec<f32> = set.image(index).data.iter().map(|&x| f32::from(x)).collect();
        let image = oracle::resize(&image, [24, 24, 3], 30, 30);
        let mut want = vec![0.0; image.len()];
        policy.distort(&image, 30, 30, &draws, &mut want).unwrap();
        assert!(set.run(&pipeline, &[index], 7, 1) == want, "image {index}: {draws:?}");
    }
}

#[test]
fn images_of_several_sizes_share_a_batch() {
    let (small, large) = (Set::new(1, 20, 30), Set::new(1, 50, 41));
    let pipeline = Pipeline::new(vec![resize(16), Step::RandomFlip]).unwrap();
    let mut out = vec![0.0; 2 * 16 * 16 * 3];
    pipeline.apply(&[small.image(0), large.image(0)], &[0, 1], 1, 0, &mut out).unwrap();
    assert_eq!(out[..768], small.run(&pipeline, &[0], 1, 0));
    let error = Pipeline::new(vec![Step::RandomFlip]).unwrap();
    let error = error.apply(&[small.image(0), large.image(0)], &[0, 1], 1, 0, &mut out).unwrap_err().to_string();
    assert!(error.contains("all come out as 20x30, got 50x41"), "{error}");
}

#[test]
fn an_empty_pipeline_converts_and_an_empty_batch_is_fine() {
    let set = Set::new(1, 4, 5);
    let pipeline = Pipeline::new(vec![]).unwrap();
    let want: Vec<f32> = set.data.iter().map(|&x| f32::from(x)).collect();
    assert_eq!(set.run(&pipeline, &[0], 0, 0), want);
    pipeline.apply(&[], &[], 0, 0, &mut []).unwrap();
}

#[test]
fn bad_input_is_an_error() {
    let set = Set::new(2, 20, 30);
    let text = |result: warpsmith::Result<()>| result.unwrap_err().to_string();
    let invalid = |step: Step| Pipeline::new(vec![step]).unwrap_err().to_string();
    assert!(invalid(resize(0)).contains("resize: expected a height and width in 1..=32768, got 0x0"));
    assert!(invalid(crop(1 << 20)).contains("random_crop"));
    assert!(invalid(Step::RandomRotation { factor: -0.1 }).contains("random_rotation: expected a factor in 0..=1"));
    assert!(invalid(Step::RandomZoom { height_factor: 0.1, width_factor: f32::NAN }).contains("random_zoom"));
    assert!(invalid(Step::RandAugment(RandAugment { magnitude: 11.0, ..Default::default() })).contains("0..=10"));
    let keras = KerasRandAugment { rate: 1.5, ..Default::default() };
    assert!(invalid(Step::KerasRandAugment(keras)).contains("KerasRandAugment"));
    assert!(invalid(Step::DistortedBoxCrop(DistortedBox::default())).contains("append a Resize"));
    let swapped = DistortedBox { aspect: (1.33, 0.75), ..DistortedBox::default() };
    assert!(invalid(Step::DistortedBoxCrop(swapped)).contains("lower <= upper"));
    let steps = vec![Step::DistortedBoxCrop(DistortedBox::default()), crop(8)];
    assert!(Pipeline::new(steps).unwrap_err().to_string().contains("insert a Resize"));
    assert!(Pipeline::new(vec![Step::Truncate; 257]).unwrap_err().to_string().contains("256 steps, got 257"));

    let pipeline = Pipeline::new(vec![crop(24)]).unwrap();
    let mut out = vec![0.0; 24 * 24 * 3];
    let error = text(pipeline.apply(&[set.image(0)], &[0], 0, 0, &mut out));
    assert!(error.contains("random_crop: expected an image of at least 24x24, got 20x30"), "{error}");
    let pipeline = Pipeline::new(vec![resize(24)]).unwrap();
    assert!(text(pipeline.apply(&[set.image(0)], &[], 0, 0, &mut out)).contains("1 elements in `indices`, got 0"));
    let images = [set.image(0), set.image(1)];
    assert!(text(pipeline.apply(&images, &[0, 1], 0, 0, &mut out)).contains("3456 elements in `out`, got 1728"));
    let short = ImageRef { height: 20, width: 30, data: &[0; 10] };
    assert!(text(pipeline.apply(&[short], &[0], 0, 0, &mut out)).contains("1800 elements in `data`, got 10"));
    let empty = ImageRef { height: 0, width: 30, data: &[] };
    assert!(text(pipeline.apply(&[empty], &[0], 0, 0, &mut out)).contains("0x30"));
}
