use warpsmith::augment::geometry::{draw_crop, draw_flip, draw_rotation, draw_zoom};
use warpsmith::augment::sampler::{Draws, Sampler};
use warpsmith::augment::{DistortedBox, KerasOp, KerasRandAugment, RandAugment, RandAugmentOp};

const N: u32 = 20_000;

fn draws() -> impl Iterator<Item = Draws> {
    (0..N).map(|index| Sampler { seed: 3, step: 5, index, branch: 0 }.draws(2, 0))
}

/// Five standard deviations of a binomial count.
#[track_caller]
fn assert_frequency(what: &str, count: usize, total: usize, p: f64) {
    let (mean, sd) = (total as f64 * p, (total as f64 * p * (1.0 - p)).sqrt());
    assert!((count as f64 - mean).abs() < 5.0 * sd, "{what}: {count} of {total}, expected {mean:.0} +- {sd:.0}");
}

/// Mean within five standard errors, all values within the bounds, the bounds nearly reached.
#[track_caller]
fn assert_uniform(what: &str, values: &[f32], lo: f32, hi: f32) {
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let (centre, width) = (f64::from(lo + hi) / 2.0, f64::from(hi - lo));
    let error = width / (12.0 * values.len() as f64).sqrt();
    assert!((mean - centre).abs() < 5.0 * error, "{what}: mean {mean}, expected {centre} +- {error}");
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert!(min >= lo && max <= hi, "{what}: {min}..{max} outside {lo}..{hi}");
    let slack = (width * 20.0 / values.len() as f64) as f32;
    assert!(min < lo + slack && max > hi - slack, "{what}: {min}..{max} does not fill {lo}..{hi}");
}

#[test]
fn flips_rotations_and_zooms() {
    assert_frequency("flips", draws().filter(draw_flip).count(), N as usize, 0.5);
    let angles: Vec<f32> = draws().map(|d| draw_rotation(&d, 0.02)).collect();
    assert_uniform("angles", &angles, -0.02 * std::f32::consts::TAU, 0.02 * std::f32::consts::TAU);
    let zooms: Vec<(f32, f32)> = draws().map(|d| draw_zoom(&d, 0.2, 0.1)).collect();
    assert_uniform("heights", &zooms.iter().map(|z| z.0).collect::<Vec<f32>>(), -0.2, 0.2);
    assert_uniform("widths", &zooms.iter().map(|z| z.1).collect::<Vec<f32>>(), -0.1, 0.1);
    let product: f64 = zooms.iter().map(|z| f64::from(z.0 * z.1)).sum::<f64>() / f64::from(N);
    assert!(product.abs() < 5.0 * 0.2 * 0.1 / 3.0 / f64::from(N).sqrt(), "correlated: {product}");
}

#[test]
fn crops_reach_every_offset() {
    let mut tops = [0; 25];
    let mut lefts = [0; 4];
    for d in draws() {
        let region = draw_crop(&d, 96, 75, 72, 72).unwrap();
        tops[region.top] += 1;
        lefts[region.left] += 1;
    }
    tops.iter().for_each(|&n| assert_frequency("top", n, N as usize, 1.0 / 25.0));
    lefts.iter().for_each(|&n| assert_frequency("left", n, N as usize, 1.0 / 4.0));
    let first = draws().next().unwrap();
    let error = draw_crop(&first, 64, 80, 72, 70).unwrap_err().to_string();
    assert!(error.contains("at least 72x70, got 64x80"), "{error}");
}

#[test]
fn distorted_boxes_keep_their_rules() {
    let region = DistortedBox::default();
    for (h, w) in [(333, 500), (500, 333), (100, 100)] {
        let mut heights = Vec::new();
        for d in draws() {
            let found = region.draw(&d, h, w);
            let share = (found.height * found.width) as f64 / (h * w) as f64;
            assert!((0.05..=1.0).contains(&share), "{found:?} of {h}x{w}");
            // Rounding the width to a pixel moves the ratio by at most half a pixel over the height.
            let aspect = found.width as f64 / found.height as f64;
            let slack = 0.5 / found.height as f64 + 1e-6;
            assert!(aspect > 0.75 - slack && aspect < 1.33 + slack, "{found:?}");
            // The last offset is never chosen, unless it is the only one.
            assert!(found.top < (h - found.height).max(1) && found.left < (w - found.width).max(1), "{found:?}");
            heights.push(found.height);
        }
        if (h, w) == (333, 500) {
            // The height is uniform between the bounds of its aspect ratio: the mean over r of (h0 + h1)/2, where
            // h1 = 333 here for every r, h0 = sqrt(0.05·W·H/r).
            let want = (0..1000).map(|i| 0.75 + 0.58 * (f64::from(i) + 0.5) / 1000.0);
            let want = want.map(|r| ((0.05 * 333.0 * 500.0 / r).sqrt() + 333.0) / 2.0).sum::<f64>() / 1000.0;
            let mean = heights.iter().sum::<usize>() as f64 / heights.len() as f64;
            // Standard deviation of a uniform height is (333 − 90)/√12 = 70.
            assert!((mean - want).abs() < 5.0 * 70.0 / f64::from(N).sqrt(), "mean height {mean}, expected {want}");
        }
    }
    // No box of a thin image has the ratio and the area: the whole image is taken.
    let d = draws().next().unwrap();
    let whole = region.draw(&d, 2, 1000);
    assert_eq!((whole.top, whole.left, whole.height, whole.width), (0, 0, 2, 1000));
    assert_eq!(region.draw(&d, 1, 1).height, 1);
}

#[test]
fn model_garden_ops_are_uniform() {
    let policy = RandAugment::default();
    let drawn: Vec<_> = draws().map(|d| policy.draw(&d, 72, 50)).collect();
    for op in RandAugmentOp::ALL {
        let count = drawn.iter().filter(|draw| draw.op == op).count();
        assert_frequency(op.name(), count, N as usize, 1.0 / 17.0);
        assert_eq!(RandAugmentOp::from_name(op.name()), Some(op));
    }
    assert_frequency("sign", drawn.iter().filter(|d| d.positive).count(), N as usize, 0.5);
    for row in [0, 35, 71] {
        assert_frequency("row", drawn.iter().filter(|d| d.centre_row == row).count(), N as usize, 1.0 / 72.0);
    }
    for col in [0, 25, 49] {
        assert_frequency("column", drawn.iter().filter(|d| d.centre_col == col).count(), N as usize, 1.0 / 50.0);
    }
    assert!(drawn.iter().all(|d| d.centre_row < 72 && d.centre_col < 50));
}

/// Mean and bounds of normal samples clipped to `[lo, hi]`, by integrating over 10,000 quantiles.
#[track_caller]
fn assert_clipped_normal(what: &str, values: &[f32], mean: f64, sd: f64, lo: f64, hi: f64) {
    let steps = 4000;
    let (mut want, mut weight) = (0.0, 0.0);
    for i in 0..steps {
        let z = (f64::from(i) + 0.5) / f64::from(steps) * 12.0 - 6.0;
        let density = (-0.5 * z * z).exp();
        want += density * (mean + sd * z).clamp(lo, hi);
        weight += density;
    }
    let got = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let error = sd / (values.len() as f64).sqrt();
    assert!((got - want / weight).abs() < 5.0 * error, "{what}: mean {got}, expected {} +- {error}", want / weight);
    assert!(values.iter().all(|&v| (lo..=hi).contains(&f64::from(v))), "{what}: outside {lo}..{hi}");
    let clipped = values.iter().filter(|&&v| f64::from(v) == hi).count();
    assert!(clipped > 0, "{what}: never clipped to {hi}");
}

#[test]
fn keras_ops_follow_their_factors() {
    let policy = KerasRandAugment::default();
    let drawn: Vec<Option<KerasOp>> = draws().map(|d| policy.draw(&d)).collect();
    let ops: Vec<KerasOp> = drawn.iter().flatten().copied().collect();
    assert_frequency("rate", ops.len(), N as usize, 10.0 / 11.0);
    let collect = |pick: &dyn Fn(&KerasOp) -> Option<f32>| {
        let values: Vec<f32> = ops.iter().filter_map(pick).collect();
        assert_frequency("op", values.len(), ops.len(), 0.1);
        values
    };
    collect(&|op| matches!(op, KerasOp::AutoContrast).then_some(0.0));
    collect(&|op| matches!(op, KerasOp::Equalization).then_some(0.0));
    let pick = |op: &KerasOp| if let KerasOp::Solarization { addition, .. } = op { Some(*addition) } else { None };
    assert_clipped_normal("addition", &collect(&pick), 88.0, 16.5, 0.0, 110.0);
    let pick = |op: &KerasOp| if let KerasOp::Solarization { threshold, .. } = op { Some(*threshold) } else { None };
    let thresholds = collect(&pick);
    assert!(thresholds.contains(&0.0) && thresholds.iter().all(|&t| (0.0..=255.0).contains(&t)));
    let pick = |op: &KerasOp| if let KerasOp::ColorDegeneration { factor } = op { Some(*factor) } else { None };
    assert_clipped_normal("colour", &collect(&pick), 0.8, 0.15, 0.0, 1.0);
    let pick = |op: &KerasOp| if let KerasOp::Contrast { factor } = op { Some(*factor) } else { None };
    assert_uniform("contrast", &collect(&pick), 0.2, 1.8);
    let pick = |op: &KerasOp| if let KerasOp::Brightness { delta } = op { Some(*delta) } else { None };
    assert_uniform("brightness", &collect(&pick), -204.0, 204.0);
    let pick = |op: &KerasOp| if let KerasOp::TranslationX { factor } = op { Some(*factor) } else { None };
    assert_uniform("translation x", &collect(&pick), -0.8, 0.8);
    let pick = |op: &KerasOp| if let KerasOp::TranslationY { factor } = op { Some(*factor) } else { None };
    assert_uniform("translation y", &collect(&pick), -0.8, 0.8);
    let pick_x = |op: &KerasOp| if let KerasOp::ShearX { shear } = op { Some(*shear) } else { None };
    let pick_y = |op: &KerasOp| if let KerasOp::ShearY { shear } = op { Some(*shear) } else { None };
    for shears in [collect(&pick_x), collect(&pick_y)] {
        assert_frequency("shear sign", shears.iter().filter(|&&s| s > 0.0).count(), shears.len(), 0.5);
        let sizes: Vec<f32> = shears.iter().map(|s| s.abs()).collect();
        assert_clipped_normal("shear", &sizes, 0.8, 0.15, 0.0, 1.0);
    }
}
