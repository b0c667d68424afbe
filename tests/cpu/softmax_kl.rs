use crate::common::oracle::softmax_kl as oracle;
use crate::common::{assert_close, assert_error, dot, numeric_gradient, random, widen};
use warpsmith::cpu::softmax_kl;

const SHAPES: [(usize, usize); 5] = [(1, 1), (1, 2), (7, 10), (265, 10), (3, 1000)];

fn logits(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    random(n, seed).iter().map(|z| z * scale).collect()
}

#[test]
fn softmax_matches_the_oracle() {
    for (rows, classes) in SHAPES {
        for temperature in [0.5, 1.0, 10.0] {
            let z = logits(rows * classes, 1, 20.0);
            let mut probs = vec![f32::NAN; z.len()];
            softmax_kl::softmax(rows, classes, &z, temperature, &mut probs).unwrap();
            let want = oracle::softmax(classes, &widen(&z), f64::from(temperature));
            assert_close("softmax", &(rows, classes, temperature), &[rows, classes], &probs, &want, 1e-30, 2e-7);
        }
    }
    let (z, dy) = (logits(12, 2, 2.0), random(12, 3));
    let (mut probs, mut dz) = (vec![0.0; 12], vec![0.0; 12]);
    softmax_kl::softmax(3, 4, &z, 2.0, &mut probs).unwrap();
    softmax_kl::softmax_backward(3, 4, &probs, &dy, 2.0, &mut dz).unwrap();
    let numeric = numeric_gradient(&widen(&z), 1e-5, |z| dot(&widen(&dy), &oracle::softmax(4, z, 2.0)));
    assert_close("softmax_backward", &"", &[3, 4], &dz, &numeric, 1e-7, 1e-6);
}

#[test]
fn kl_div_matches_the_oracle() {
    for (rows, classes) in SHAPES {
        // Zeros and values above one are clipped.
        let mut p: Vec<f32> = random(rows * classes, 4).iter().map(|p| p.max(0.0) * 1.2).collect();
        let q: Vec<f32> = random(rows * classes, 5).iter().map(|q| q.max(0.0) * 1.2).collect();
        p[0] = 0.0;
        let (wide_p, wide_q) = (widen(&p), widen(&q));
        let mut per_sample = vec![0.0; rows];
        let kl = softmax_kl::kl_div(rows, classes, &p, &q, Some(&mut per_sample)).unwrap();
        let want = oracle::kl_div(classes, &wide_p, &wide_q);
        assert_close("kl_div", &(rows, classes), &[1], &[kl], &[want], 1e-12, 1e-6);
        let mean = per_sample.iter().map(|&kl| f64::from(kl)).sum::<f64>() / rows as f64;
        assert!((mean - want).abs() <= 1e-6 * want.abs().max(1.0), "{mean} {want}");
        if p.len() <= 70 {
            let mut dq = vec![f32::NAN; q.len()];
            softmax_kl::kl_div_backward(rows, classes, &p, &q, 0.5, &mut dq).unwrap();
            let numeric = numeric_gradient(&wide_q, 1e-8, |q| 0.5 * oracle::kl_div(classes, &wide_p, q));
            assert_close("dq", &(rows, classes), &[rows, classes], &dq, &numeric, 1e-5, 1e-5);
        }
    }
}

#[test]
fn distill_matches_the_oracle() {
    for (rows, classes) in SHAPES {
        // A scale of 60 at temperature 1 drives probabilities below the clip.
        for (temperature, scale) in [(10.0, 5.0), (3.0, 5.0), (1.0, 60.0)] {
            let (teacher, student) = (logits(rows * classes, 6, scale), logits(rows * classes, 7, scale));
            let (wide_teacher, wide_student) = (widen(&teacher), widen(&student));
            let mut dz = vec![f32::NAN; student.len()];
            let gradient = Some((0.5, &mut dz[..]));
            let kl = softmax_kl::distill(rows, classes, &teacher, &student, temperature, gradient).unwrap();
            assert_eq!(kl, softmax_kl::distill(rows, classes, &teacher, &student, temperature, None).unwrap());
            let value = |student: &[f64]| oracle::distill(classes, &wide_teacher, student, f64::from(temperature));
            let case = (rows, classes, temperature);
            assert_close("distill", &case, &[1], &[kl], &[value(&wide_student)], 1e-12, 2e-7);
            if student.len() <= 70 {
                let numeric = numeric_gradient(&wide_student, 1e-6, |student| 0.5 * value(student));
                assert_close("dstudent", &case, &[rows, classes], &dz, &numeric, 1e-8, 1e-6);
            }
        }
    }
}

#[test]
fn equal_logits_have_no_divergence() {
    let z = logits(40, 8, 5.0);
    let mut dz = vec![f32::NAN; 40];
    let kl = softmax_kl::distill(4, 10, &z, &z, 10.0, Some((1.0, &mut dz))).unwrap();
    assert!(kl == 0.0 && dz.iter().all(|dz| dz.abs() < 1e-9));
}

#[test]
fn errors_say_what_is_wrong() {
    let z = [0.0; 6];
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_error(
            softmax_kl::distill(2, 3, &z, &z, temperature, None),
            &["softmax_kl", "a positive temperature", "1 leaves the logits"],
        );
    }
    assert_error(softmax_kl::distill(2, 3, &z, &z[..5], 1.0, None), &["6 elements in `student_logits`", "got 5"]);
    assert_error(softmax_kl::distill(2, 3, &z, &z, 1.0, Some((1.0, &mut [0.0]))), &["6 elements in `dstudent`"]);
    assert_error(softmax_kl::softmax(2, 0, &[], 1.0, &mut []), &["softmax", "positive extents", "[2, 0]"]);
    assert_error(softmax_kl::kl_div(2, 3, &z, &z[..4], None), &["kl_div", "6 elements in `q`", "got 4"]);
    assert_error(softmax_kl::kl_div_backward(2, 3, &z, &z, 1.0, &mut [0.0]), &["6 elements in `dq`", "got 1"]);
}
