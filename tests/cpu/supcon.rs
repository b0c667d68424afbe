use crate::common::oracle::supcon as oracle;
use crate::common::{assert_close, assert_error, dot, numeric_gradient, random, rtol_sum, widen};
use warpsmith::cpu::supcon::{self, Form, MeanOver, Supcon};

/// `(batch, views, dim, classes)`, each with its reason.
const PROBLEMS: [(usize, usize, usize, usize, &str); 7] = [
    (1, 1, 1, 1, "one anchor, nobody to compare with"),
    (4, 1, 3, 4, "every anchor alone in its class"),
    (6, 2, 5, 3, "two views"),
    (3, 4, 17, 2, "four views, one element more than the lanes"),
    (13, 1, 8, 4, "a tail in the block of anchors"),
    (67, 1, 16, 10, "a tail in the tile of columns"),
    (33, 2, 128, 5, "several tiles"),
];

fn settings() -> Vec<Supcon> {
    let mut all = Vec::new();
    for form in [Form::Npairs, Form::Out, Form::In] {
        for mean_over in [MeanOver::WithPositive, MeanOver::All] {
            all.push(Supcon { form, mean_over, temperature: 0.1, scale: 0.7, ..Supcon::default() });
        }
    }
    all
}

/// Embeddings behind a ReLU, as projection heads give them; the last sample is alone in its class.
fn case(batch: usize, views: usize, dim: usize, classes: usize) -> (Vec<f32>, Vec<i32>) {
    let z = random(batch * views * dim, 1).iter().map(|z| z.max(0.0) + 0.01).collect();
    let mut labels: Vec<i32> = (0..batch).map(|i| ((i * 5 + 1) % classes) as i32).collect();
    labels[batch - 1] = 99;
    (z, labels)
}

#[test]
fn losses_match_the_oracle() {
    for problem @ (batch, views, dim, classes, _) in PROBLEMS {
        for settings in settings() {
            let (z, labels) = case(batch, views, dim, classes);
            let wide = widen(&z);
            let mut dz = vec![f32::NAN; z.len()];
            let value = supcon::loss(&settings, batch, views, dim, &z, &labels, Some((0.5, &mut dz))).unwrap();
            assert_eq!(value, supcon::loss(&settings, batch, views, dim, &z, &labels, None).unwrap());
            let want = oracle::loss(&settings, views, dim, &wide, &labels);
            // A similarity is off by a few eps / temperature.
            assert_close("supcon", &(problem, settings), &[1], &[value], &[want], 2e-6, 2e-6);
            if z.len() <= 300 {
                let numeric = numeric_gradient(&wide, 1e-6, |z| 0.5 * oracle::loss(&settings, views, dim, z, &labels));
                let scale = numeric.iter().fold(1e-3f64, |max, d| max.max(d.abs()));
                assert_close("dz", &(problem, settings), &[z.len()], &dz, &numeric, 2e-6 * scale, 2e-5);
            }
        }
    }
}

#[test]
fn gradient_of_a_large_batch_is_the_sum_of_directions() {
    // Too many elements for one difference each: compare derivatives along a few directions.
    let (batch, views, dim) = (67, 2, 24);
    let (z, labels) = case(batch, views, dim, 10);
    let wide = widen(&z);
    for settings in settings() {
        let mut dz = vec![f32::NAN; z.len()];
        supcon::loss(&settings, batch, views, dim, &z, &labels, Some((1.0, &mut dz))).unwrap();
        for seed in 0..4 {
            let direction = widen(&random(z.len(), 100 + seed));
            let along = |t: &[f64]| {
                let moved: Vec<f64> = wide.iter().zip(&direction).map(|(z, d)| z + t[0] * d).collect();
                oracle::loss(&settings, views, dim, &moved, &labels)
            };
            let numeric = numeric_gradient(&[0.0], 1e-6, along)[0];
            let analytic = dot(&widen(&dz), &direction);
            assert!((numeric - analytic).abs() <= 1e-5 * numeric.abs() + 1e-6, "{settings:?}: {numeric} {analytic}");
        }
    }
}

#[test]
fn zero_rows_and_lonely_anchors_are_finite() {
    for settings in settings() {
        for labels in [[0, 0, 1, 1], [0, 1, 2, 3]] {
            let mut z = random(12, 2);
            z[3..6].fill(0.0);
            let mut dz = vec![f32::NAN; 12];
            let value = supcon::loss(&settings, 4, 1, 3, &z, &labels, Some((1.0, &mut dz))).unwrap();
            assert!(value.is_finite() && dz.iter().all(|dz| dz.is_finite()), "{settings:?} {value} {dz:?}");
            let want = oracle::loss(&settings, 1, 3, &widen(&z), &labels);
            assert_close("supcon", &settings, &[1], &[value], &[want], 2e-6, 2e-6);
            if settings.form != Form::Npairs && labels[1] == 1 {
                assert_eq!((value, dz), (0.0, vec![0.0; 12]));
            }
        }
    }
}

#[test]
fn a_zero_row_has_a_constant_normaliser() {
    // norm_eps 1e-4: the floor's normaliser is 100; differences stay below the floor.
    let settings = Supcon { norm_eps: 1e-4, ..Supcon::default() };
    let mut z = random(12, 3);
    z[3..6].fill(0.0);
    let mut dz = vec![f32::NAN; 12];
    supcon::loss(&settings, 4, 1, 3, &z, &[0, 0, 1, 1], Some((1.0, &mut dz))).unwrap();
    let numeric = numeric_gradient(&widen(&z), 1e-7, |z| oracle::loss(&settings, 1, 3, z, &[0, 0, 1, 1]));
    assert!(dz[3..6].iter().any(|dz| dz.abs() > 1.0));
    assert_close("dz", &settings, &[4, 3], &dz, &numeric, 1e-4, 1e-4);
}

#[test]
fn normalisation_matches_the_oracle() {
    for (n, dim) in [(1, 1), (5, 3), (17, 128)] {
        let mut z = random(n * dim, 4);
        if n > 1 {
            z[dim..2 * dim].fill(0.0);
        }
        let mut y = vec![f32::NAN; z.len()];
        supcon::l2_normalize(n, dim, 1e-12, &z, &mut y).unwrap();
        assert_close(
            "l2_normalize",
            &(n, dim),
            &[n, dim],
            &y,
            &oracle::l2_normalize(dim, &widen(&z), 1e-12),
            0.0,
            1e-7,
        );
    }
    let (mut z, dy) = (random(12, 5), random(12, 6));
    z[..3].fill(1e-4);
    // The first row lies under this floor.
    let eps = 1e-4;
    let old = random(12, 7);
    let (mut dz, mut sum) = (vec![f32::NAN; 12], old.clone());
    supcon::l2_normalize_backward(4, 3, eps, &z, &dy, false, &mut dz).unwrap();
    supcon::l2_normalize_backward(4, 3, eps, &z, &dy, true, &mut sum).unwrap();
    let value = |z: &[f64]| dot(&widen(&dy), &oracle::l2_normalize(3, z, f64::from(eps)));
    let numeric = numeric_gradient(&widen(&z), 1e-6, value);
    assert_close("l2_normalize_backward", &"", &[4, 3], &dz, &numeric, 1e-6, 1e-6);
    assert!(sum.iter().zip(&old).zip(&dz).all(|((sum, old), dz)| *sum == old + dz));
}

#[test]
fn similarity_matrix_matches_the_oracle() {
    for (n, dim) in [(1, 1), (5, 3), (66, 17), (130, 128)] {
        let z = random(n * dim, 8);
        let mut sim = vec![f32::NAN; n * n];
        supcon::similarity_matrix(n, dim, &z, 0.05, &mut sim).unwrap();
        let want = oracle::similarity_matrix(dim, &widen(&z), f64::from(0.05f32));
        let atol = 20.0 * rtol_sum(dim);
        assert_close("similarity_matrix", &(n, dim), &[n, n], &sim, &want, atol, rtol_sum(dim));
        assert!((0..n).all(|i| (0..n).all(|j| sim[i * n + j] == sim[j * n + i])));
    }
    let (z, dsim) = (random(15, 9), random(25, 10));
    let old = random(15, 11);
    let (mut dz, mut sum) = (vec![f32::NAN; 15], old.clone());
    supcon::similarity_matrix_backward(5, 3, &z, 0.5, &dsim, false, &mut dz).unwrap();
    supcon::similarity_matrix_backward(5, 3, &z, 0.5, &dsim, true, &mut sum).unwrap();
    let value = |z: &[f64]| dot(&widen(&dsim), &oracle::similarity_matrix(3, z, 0.5));
    let numeric = numeric_gradient(&widen(&z), 1e-4, value);
    assert_close("similarity_matrix_backward", &"", &[5, 3], &dz, &numeric, 1e-6, 1e-6);
    assert!(sum.iter().zip(&old).zip(&dz).all(|((sum, old), dz)| *sum == old + dz));
}

#[test]
fn errors_say_what_is_wrong() {
    let z = [1.0; 12];
    let run = |settings: &Supcon, views: usize, labels: &[i32]| supcon::loss(settings, 4, views, 3, &z, labels, None);
    let default = Supcon::default();
    assert_error(run(&default, 1, &[0; 3]), &["supcon", "4 elements in `labels`", "got 3"]);
    assert_error(run(&default, 2, &[0; 4]), &["24 elements in `z`", "got 12"]);
    assert_error(run(&default, 0, &[0; 4]), &["positive extents", "[4, 0, 3]"]);
    assert_error(run(&Supcon { temperature: 0.0, ..default }, 1, &[0; 4]), &["a positive temperature", "0.05 to 0.1"]);
    assert_error(run(&Supcon { norm_eps: -1.0, ..default }, 1, &[0; 4]), &["positive floor", "1e-12"]);
    let dz = Some((1.0, &mut [0.0; 3][..]));
    assert_error(supcon::loss(&default, 4, 1, 3, &z, &[0; 4], dz), &["12 elements in `dz`", "got 3"]);
    assert_error(supcon::similarity_matrix(4, 3, &z, 1.0, &mut [0.0; 15]), &["16 elements in `sim`", "got 15"]);
    assert_error(supcon::l2_normalize(4, 3, 0.0, &z, &mut [0.0; 12]), &["l2_normalize", "positive floor"]);
}
