use crate::common::{assert_error, random};
use warpsmith::cpu::dropout::dropout;
use warpsmith::rng::Stream;

const STREAM: Stream = Stream { seed: 42, step: 3, index: 0, op: 9 };

#[test]
fn mask_is_the_stream_of_the_sample() {
    for elems in [1, 3, 4097, 9001] {
        let indices = [5, 0, u32::MAX];
        let x = random(3 * elems, 1);
        let mut y = vec![f32::NAN; x.len()];
        dropout(STREAM, 0.3, &indices, &x, &mut y).unwrap();
        for (i, &y) in y.iter().enumerate() {
            let stream = Stream { index: indices[i / elems], ..STREAM };
            let keep = stream.uniform((i % elems) as u32) >= 0.3;
            assert_eq!(y, if keep { x[i] * (1.0 / (1.0 - 0.3)) } else { 0.0 }, "element {i}");
        }
        // The gradient is the same function, so the same mask and factor.
        let mut dx = vec![f32::NAN; x.len()];
        dropout(STREAM, 0.3, &indices, &vec![1.0; x.len()], &mut dx).unwrap();
        for i in 0..x.len() {
            assert_eq!(dx[i] * x[i], y[i]);
        }
    }
}

#[test]
fn place_in_the_batch_does_not_matter_but_step_and_op_do() {
    let x = vec![1.0; 2 * 64];
    let mask = |stream: Stream, indices: [u32; 2]| {
        let mut y = vec![0.0; 128];
        dropout(stream, 0.5, &indices, &x, &mut y).unwrap();
        y
    };
    let (ab, ba) = (mask(STREAM, [1, 2]), mask(STREAM, [2, 1]));
    assert_eq!((&ab[..64], &ab[64..]), (&ba[64..], &ba[..64]));
    assert_ne!(ab[..64], ab[64..]);
    assert_ne!(ab, mask(Stream { step: 4, ..STREAM }, [1, 2]));
    assert_ne!(ab, mask(Stream { op: 8, ..STREAM }, [1, 2]));
    assert_ne!(ab, mask(Stream { seed: 43, ..STREAM }, [1, 2]));
}

#[test]
fn share_and_mean_are_right() {
    let n = 200_000;
    for rate in [0.0, 0.1, 0.5, 0.9] {
        let mut y = vec![0.0; n];
        dropout(STREAM, rate, &[0], &vec![1.0; n], &mut y).unwrap();
        let share = y.iter().filter(|&&y| y == 0.0).count() as f64 / n as f64;
        let rate = f64::from(rate);
        // Five standard deviations of a binomial share.
        assert!((share - rate).abs() <= 5.0 * (rate * (1.0 - rate) / n as f64).sqrt(), "{share} {rate}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let mut y = [0.0; 4];
    for rate in [1.0, -0.1, f32::NAN] {
        assert_error(dropout(STREAM, rate, &[0], &[0.0; 4], &mut y), &["dropout", "a rate in [0, 1)"]);
    }
    assert_error(dropout(STREAM, 0.5, &[0; 3], &[0.0; 4], &mut y), &["3 elements in `x`", "got 4"]);
    assert_error(dropout(STREAM, 0.5, &[], &[0.0; 4], &mut y), &["positive extents"]);
    assert_error(dropout(STREAM, 0.5, &[0], &[0.0; 3], &mut y), &["3 elements in `y`", "got 4"]);
}
