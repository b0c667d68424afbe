use crate::common::oracle::cross_entropy as oracle;
use crate::common::{assert_close, assert_error, numeric_gradient, random, widen};
use warpsmith::cpu::cross_entropy::{self, Clip};

const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 2), (7, 10), (265, 10), (3, 1000), (129, 5)];

fn labels(rows: usize, classes: usize) -> Vec<i32> {
    (0..rows).map(|row| ((7 * row + 3) % classes) as i32).collect()
}

/// Logits of very different sizes: row `r` is multiplied by 1, 10, 100 in turn.
fn logits(rows: usize, classes: usize) -> Vec<f32> {
    let scale = |i: usize| [1.0, 10.0, 100.0][i / classes % 3];
    random(rows * classes, 1).iter().enumerate().map(|(i, z)| z * scale(i)).collect()
}

/// Rows of positive numbers that sum to about one, some beyond the clip.
fn probs(rows: usize, classes: usize) -> Vec<f32> {
    let p = random(rows * classes, 2).iter().map(|p| p.abs() / classes as f32).collect::<Vec<_>>();
    p.iter()
        .enumerate()
        .map(|(i, &p)| {
            if i % 11 == 4 {
                0.0
            } else if i % 13 == 5 {
                1.0
            } else {
                p
            }
        })
        .collect()
}

#[test]
fn value_and_gradient_match_the_oracle() {
    for (rows, classes) in SHAPES {
        let (z, labels) = (logits(rows, classes), labels(rows, classes));
        let wide = widen(&z);
        let want = oracle::per_sample(classes, &wide, &labels);
        let mut per_sample = vec![f32::NAN; rows];
        let loss = cross_entropy::forward(rows, classes, &z, &labels, Some(&mut per_sample)).unwrap();
        assert_eq!(loss, cross_entropy::forward(rows, classes, &z, &labels, None).unwrap());
        assert_close("per_sample", &(rows, classes), &[rows], &per_sample, &want, 1e-12, 1e-7);
        assert_close("loss", &(rows, classes), &[1], &[loss], &[oracle::mean(&want)], 1e-12, 1e-7);
        let mut dz = vec![f32::NAN; z.len()];
        cross_entropy::backward(rows, classes, &z, &labels, 0.5, false, &mut dz).unwrap();
        let old = random(z.len(), 3);
        let mut sum = old.clone();
        cross_entropy::backward(rows, classes, &z, &labels, 0.5, true, &mut sum).unwrap();
        assert!(sum.iter().zip(&old).zip(&dz).all(|((sum, old), dz)| *sum == old + dz));
        if z.len() <= 70 {
            let value = |z: &[f64]| 0.5 * oracle::mean(&oracle::per_sample(classes, z, &labels));
            let numeric = numeric_gradient(&wide, 1e-5, value);
            assert_close("dlogits", &(rows, classes), &[rows, classes], &dz, &numeric, 1e-8, 1e-6);
        } else {
            // Every row sums to zero and has its only negative element at the label.
            for (row, dz) in dz.chunks(classes).enumerate() {
                assert!(dz.iter().map(|&dz| f64::from(dz)).sum::<f64>().abs() < 1e-8, "row {row}");
                assert!(dz.iter().enumerate().all(|(class, &dz)| dz >= 0.0 || class == labels[row] as usize));
            }
        }
    }
}

#[test]
fn far_apart_logits_stay_finite() {
    let z = [1000.0, -1000.0, 0.0, -3e38, 3e38, 0.0];
    let mut losses = [0.0; 2];
    cross_entropy::forward(2, 3, &z, &[1, 1], Some(&mut losses)).unwrap();
    assert_eq!(losses, [2000.0, 0.0]);
    let mut dz = [0.0; 6];
    cross_entropy::backward(2, 3, &z, &[1, 1], 2.0, false, &mut dz).unwrap();
    assert_eq!(dz, [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
    assert!(cross_entropy::forward(1, 3, &[f32::NAN, 0.0, 0.0], &[1], None).unwrap().is_nan());
}

#[test]
fn probabilities_match_the_oracle() {
    for (rows, classes) in SHAPES {
        let (p, labels) = (probs(rows, classes), labels(rows, classes));
        let wide = widen(&p);
        let want = oracle::probs_per_sample(classes, &wide, &labels);
        let mut per_sample = vec![f32::NAN; rows];
        let loss =
            cross_entropy::probs_forward(rows, classes, &p, &labels, Clip::PROBS, Some(&mut per_sample)).unwrap();
        assert_close("per_sample", &(rows, classes), &[rows], &per_sample, &want, 1e-12, 1e-6);
        assert_close("loss", &(rows, classes), &[1], &[loss], &[oracle::mean(&want)], 1e-12, 1e-6);
        if p.len() <= 70 {
            let mut dp = vec![f32::NAN; p.len()];
            cross_entropy::probs_backward(rows, classes, &p, &labels, Clip::PROBS, 0.5, &mut dp).unwrap();
            let value = |p: &[f64]| 0.5 * oracle::mean(&oracle::probs_per_sample(classes, p, &labels));
            let numeric = numeric_gradient(&wide, 1e-9, value);
            assert_close("dp", &(rows, classes), &[rows, classes], &dp, &numeric, 1e-4, 1e-5);
            let clipped = |p: f32| !(1e-7..=1.0 - 1e-7).contains(&f64::from(p));
            assert!(p.iter().zip(&dp).all(|(&p, &dp)| !clipped(p) || dp == 0.0));
        }
    }
}

#[test]
fn correct_counts_first_maxima() {
    let z = [0.0, 2.0, 2.0, 5.0, 1.0, 1.0, 7.0, 7.0, 7.0];
    assert_eq!(cross_entropy::correct(3, 3, &z, &[1, 0, 0]).unwrap(), 3);
    assert_eq!(cross_entropy::correct(3, 3, &z, &[2, 1, 2]).unwrap(), 0);
}

#[test]
fn errors_say_what_is_wrong() {
    let z = [0.0; 6];
    let text = &["cross_entropy", "labels in 0..3 (3 classes)", "label 3 in row 1", "last layer"];
    assert_error(cross_entropy::forward(2, 3, &z, &[0, 3], None), text);
    assert_error(cross_entropy::correct(2, 3, &z, &[0, -1]), &["accuracy", "label -1 in row 1"]);
    assert_error(cross_entropy::backward(2, 3, &z, &[0, 9], 1.0, false, &mut [0.0; 6]), &["label 9 in row 1"]);
    assert_error(cross_entropy::probs_forward(2, 3, &z, &[7, 0], Clip::PROBS, None), &["label 7 in row 0"]);
    assert_error(cross_entropy::forward(2, 3, &z[..5], &[0, 0], None), &["6 elements in `logits`", "got 5"]);
    assert_error(cross_entropy::forward(2, 3, &z, &[0], None), &["2 elements in `labels`", "got 1"]);
    assert_error(cross_entropy::forward(0, 3, &[], &[], None), &["positive extents", "[0, 3]"]);
    assert_error(cross_entropy::forward(2, 3, &z, &[0, 0], Some(&mut [0.0])), &["2 elements in `per_sample`"]);
}
