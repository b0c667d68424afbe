use crate::common::{assert_close, assert_error, random, random_bytes};
use half::bf16;
use warpsmith::cpu::elementwise;

/// Nothing, one, a vector and a tail, exactly a chunk, several chunks and a tail.
const LENGTHS: [usize; 6] = [0, 1, 37, 16_384, 16_385, 50_021];

/// Values of both signs, zeros of both signs included.
fn signed(n: usize, seed: u64) -> Vec<f32> {
    random(n, seed).iter().map(|&x| if x.abs() < 0.05 { 0.0f32.copysign(x) } else { x }).collect()
}

#[test]
fn maps_match_their_formulas() {
    for n in LENGTHS {
        let (a, b) = (signed(n, 1), signed(n, 2));
        let mut y = vec![f32::NAN; n];
        let check = |y: &[f32], want: &dyn Fn(usize) -> f32| {
            for i in 0..n {
                assert_eq!(y[i], want(i), "element {i} of {n}");
            }
        };
        elementwise::relu(&a, &mut y).unwrap();
        check(&y, &|i| a[i].max(0.0));
        elementwise::relu_backward(&a, &b, false, &mut y).unwrap();
        check(&y, &|i| if a[i] > 0.0 { b[i] } else { 0.0 });
        let mut sum = b.clone();
        elementwise::relu_backward(&a, &b, true, &mut sum).unwrap();
        check(&sum, &|i| b[i] + if a[i] > 0.0 { b[i] } else { 0.0 });
        elementwise::add(&a, &b, &mut y).unwrap();
        check(&y, &|i| a[i] + b[i]);
        let mut sum = b.clone();
        elementwise::add_assign(&a, &mut sum).unwrap();
        check(&sum, &|i| b[i] + a[i]);
        let mut scaled = a.clone();
        elementwise::scale_assign(3.0, &mut scaled).unwrap();
        check(&scaled, &|i| a[i] * 3.0);
        elementwise::rescale(&a, 0.3, -0.7, &mut y).unwrap();
        check(&y, &|i| a[i] * 0.3 + -0.7);
        let bytes = random_bytes(n, 3);
        elementwise::rescale_u8(&bytes, 1.0 / 127.5, -1.0, &mut y).unwrap();
        check(&y, &|i| f32::from(bytes[i]) * (1.0 / 127.5) + -1.0);
        elementwise::fill(2.5, &mut y).unwrap();
        check(&y, &|_| 2.5);
    }
}

#[test]
fn relu_keeps_nan() {
    let mut y = [0.0; 2];
    elementwise::relu(&[f32::NAN, -1.0], &mut y).unwrap();
    assert!(y[0].is_nan() && y[1] == 0.0);
}

#[test]
fn normalization_divides_by_the_floored_deviation() {
    let (rows, c) = (7_001, 3);
    let (mean, var) = ([10.0, 20.0, 30.0], [4.0, 0.0, 9.0]);
    let bytes = random_bytes(rows * c, 4);
    let floats: Vec<f32> = bytes.iter().map(|&b| f32::from(b)).collect();
    let want: Vec<f64> = (0..rows * c)
        .map(|i| (f64::from(bytes[i]) - f64::from(mean[i % c])) / f64::from(var[i % c]).sqrt().max(1e-7))
        .collect();
    let (mut from_floats, mut from_bytes) = (vec![0.0; rows * c], vec![0.0; rows * c]);
    elementwise::normalization(&floats, &mean, &var, &mut from_floats).unwrap();
    elementwise::normalization(&bytes, &mean, &var, &mut from_bytes).unwrap();
    assert_eq!(from_floats, from_bytes);
    assert_close("normalization", &"", &[rows, c], &from_floats, &want, 0.0, 4e-7);
}

#[test]
fn bf16_conversions_agree_with_half() {
    // Every bf16, the neighbours of every rounding boundary, and NaN payloads that only live in the low bits.
    let high = (0..=u16::MAX).map(|bits| u32::from(bits) << 16);
    let x: Vec<f32> =
        high.flat_map(|bits| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| f32::from_bits(bits | low))).collect();
    let mut narrow = vec![bf16::ZERO; x.len()];
    elementwise::f32_to_bf16(&x, &mut narrow).unwrap();
    let mut wide = vec![0.0; x.len()];
    elementwise::bf16_to_f32(&narrow, &mut wide).unwrap();
    for i in 0..x.len() {
        assert_eq!(narrow[i].to_bits(), bf16::from_f32(x[i]).to_bits(), "{:08x}", x[i].to_bits());
        assert_eq!(wide[i].to_bits(), u32::from(narrow[i].to_bits()) << 16);
    }
}

#[test]
fn sums_and_checks() {
    for n in LENGTHS {
        let x = random(n, 5);
        let want: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        let got = elementwise::sum_of_squares(&x);
        assert!((got - want).abs() <= 1e-12 * want, "{n}: {got} {want}");
        assert!(!elementwise::has_non_finite(&x));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for i in [0, n / 2, n.saturating_sub(1)].into_iter().filter(|&i| i < n) {
                let mut x = x.clone();
                x[i] = bad;
                assert!(elementwise::has_non_finite(&x), "{bad} at {i} of {n}");
            }
        }
    }
    assert!(!elementwise::has_non_finite(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE / 2.0]));
}

#[test]
fn errors_say_what_is_wrong() {
    let (a, mut y) = ([0.0; 3], [0.0; 2]);
    assert_error(elementwise::relu(&a, &mut y), &["relu: expected 3 elements in `y`, got 2", "product of the extents"]);
    assert_error(elementwise::relu_backward(&a, &y.clone(), false, &mut y), &["relu_backward", "`dy`"]);
    assert_error(elementwise::add(&a, &[0.0], &mut y), &["add: expected 3 elements in `b`, got 1"]);
    assert_error(elementwise::add_assign(&a, &mut y), &["add_assign: expected 3 elements in `y`, got 2"]);
    assert_error(elementwise::rescale_u8(&[0], 1.0, 0.0, &mut y), &["rescale_u8: expected 1 elements in `y`, got 2"]);
    assert_error(elementwise::f32_to_bf16(&a, &mut []), &["f32_to_bf16", "got 0"]);
    assert_error(elementwise::normalization(&a, &[], &[], &mut [0.0; 3]), &["normalization", "positive extents"]);
    assert_error(
        elementwise::normalization(&a, &[0.0; 2], &[1.0; 2], &mut [0.0; 3]),
        &["whole rows of 2 channels", "got 3"],
    );
}
