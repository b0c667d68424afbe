use warpsmith::math::{exp, ln, sin_cos, standard_normal};

#[test]
fn sin_cos_matches_the_system_library() {
    // The system's f64 functions are correct to an ulp or two: a bound of 4e-16 near 1 has room for both errors.
    for i in -40_000..40_000 {
        let angle = f64::from(i) * 1.234_567e-3;
        let (sin, cos) = sin_cos(angle);
        assert!((sin - angle.sin()).abs() < 1e-14 && (cos - angle.cos()).abs() < 1e-14, "at {angle}");
        if angle.abs() < 3.2 {
            assert!((sin - angle.sin()).abs() < 4e-16 && (cos - angle.cos()).abs() < 4e-16, "at {angle}");
        }
    }
    assert_eq!(sin_cos(0.0), (0.0, 1.0));
}

#[test]
fn exp_and_ln_match_the_system_library() {
    for i in -70_000..70_000 {
        let x = f64::from(i) * 0.01;
        assert!((exp(x) / x.exp() - 1.0).abs() < 1e-15, "exp({x}) = {:e}, want {:e}", exp(x), x.exp());
    }
    for i in 1..200_000 {
        let x = f64::from(i) * 1e-5;
        assert!((ln(x) - x.ln()).abs() <= 4e-16 * x.ln().abs(), "ln({x}) = {:e}, want {:e}", ln(x), x.ln());
    }
}

/// Probability below −x of a standard normal number, x ≥ 0: a series near 0, a continued fraction in the tail.
fn lower_tail(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let fraction = (1..200).rev().fold(x, |fraction, n| x + f64::from(n) / fraction);
    density / fraction
}

#[test]
fn standard_normal_inverts_the_distribution() {
    // The result is rounded to f32, so x is known to 2^-24 relative; a probability moves by density times that.
    let check = |bits: u32| {
        let p = (f64::from(bits) + 0.5) / 4_294_967_296.0;
        let x = -f64::from(standard_normal(bits));
        assert!(x >= 0.0);
        let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let bound = density * x * 2f64.powi(-24) * 1.01 + 2e-15 * p.max(1e-3);
        assert!((lower_tail(x) - p).abs() <= bound, "bits {bits}: x {x}, {:e} against {p:e}", lower_tail(x));
    };
    (0..1000).for_each(check);
    (0..2000).for_each(|i| check(i * 1_073_741));
    (0..31).for_each(|i| check((1 << i) + 3));
    assert_eq!(standard_normal(u32::MAX), -standard_normal(0));
    assert!((standard_normal(0) + 6.34).abs() < 0.01);
}
