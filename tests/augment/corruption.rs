use crate::common::random_bytes;
use warpsmith::cpu::corruption::{
    Corruption, brightness, contrast, defocus_blur, gaussian_blur, pixelate, saturate, zoom_blur,
};

fn run(h: usize, w: usize, x: &[u8], op: impl Fn(&[u8], &mut [u8]) -> warpsmith::Result<()>) -> Vec<u8> {
    let mut y = vec![0; h * w * 3];
    op(x, &mut y).unwrap();
    y
}

/// At most 1 apart: truncation after another order of float64 operations.
#[track_caller]
fn assert_near(got: &[u8], want: &[f64]) {
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let want = want.clamp(0.0, 1.0) * 255.0;
        assert!(f64::from(got) <= want + 1e-6 && f64::from(got) > want - 1.0 - 1e-6, "value {i}: {got}, want {want}");
    }
}

const SIZES: [(usize, usize); 5] = [(1, 1), (1, 9), (5, 7), (17, 12), (32, 32)];

#[test]
fn blurs_match_direct_sums() {
    for (h, w) in SIZES {
        let x = random_bytes(h * w * 3, 21);
        let at = |p: usize, q: usize, k: usize| f64::from(x[(p * w + q) * 3 + k]) / 255.0;
        let correlate = |reach: isize, weight: &dyn Fn(isize, isize) -> f64, border: &dyn Fn(isize, usize) -> usize| {
            let mut y = Vec::new();
            for p in 0..h as isize {
                for q in 0..w as isize {
                    for k in 0..3 {
                        let mut sum = 0.0;
                        for dy in -reach..=reach {
                            for dx in -reach..=reach {
                                sum += weight(dy, dx) * at(border(p + dy, h), border(q + dx, w), k);
                            }
                        }
                        y.push(sum);
                    }
                }
            }
            y
        };
        let edge = |i: isize, n: usize| i.clamp(0, n as isize - 1) as usize;
        for sigma in [0.4, 0.6, 1.0, 1.7] {
            let reach = (4.0 * sigma + 0.5) as isize;
            let g = |d: isize| (-0.5 * (d * d) as f64 / (sigma * sigma)).exp();
            let total: f64 = (-reach..=reach).map(g).sum();
            let want = correlate(reach, &|dy, dx| g(dy) * g(dx) / (total * total), &edge);
            assert_near(&run(h, w, &x, |x, y| gaussian_blur(x, h, w, sigma, y)), &want);
        }
        let mirror = |mut i: isize, n: usize| {
            let last = n as isize - 1;
            while last > 0 && !(0..=last).contains(&i) {
                i = if i < 0 { -i } else { 2 * last - i };
            }
            if last == 0 { 0 } else { i as usize }
        };
        for (radius, sigma) in [(0.3, 0.4), (1.0, 0.2), (1.5, 0.1), (2.3, 0.8)] {
            let disk = |dy: isize, dx: isize| f64::from(u8::from((dy * dy + dx * dx) as f64 <= radius * radius));
            let count: f64 = (-4..=4).flat_map(|dy| (-4..=4).map(move |dx| (dy, dx))).map(|(a, b)| disk(a, b)).sum();
            let g = |d: isize| {
                (-0.5 * (d * d) as f64 / (sigma * sigma)).exp() / (1.0 + 2.0 * (-0.5 / (sigma * sigma)).exp())
            };
            let weight = |dy: isize, dx: isize| {
                let mut sum = 0.0;
                for a in -1..=1 {
                    for b in -1..=1 {
                        sum += g(a) * g(b) * disk(dy + a, dx + b) / count;
                    }
                }
                // The reference keeps its kernel in float32.
                f64::from(sum as f32)
            };
            let want = correlate(4, &weight, &mirror);
            assert_near(&run(h, w, &x, |x, y| defocus_blur(x, h, w, radius, sigma, y)), &want);
        }
    }
}

#[test]
fn constant_images_stay_constant() {
    for (h, w) in SIZES {
        let x: Vec<u8> = [200, 30, 90].repeat(h * w);
        for corruption in [Corruption::Contrast, Corruption::DefocusBlur, Corruption::GaussianBlur] {
            for severity in 1..=5 {
                let y = run(h, w, &x, |x, y| corruption.apply(severity, x, [1, h, w], y));
                assert_near(&y, &x.iter().map(|&x| f64::from(x) / 255.0).collect::<Vec<f64>>());
            }
        }
        for severity in 1..=5 {
            let y = run(h, w, &x, |x, y| Corruption::Pixelate.apply(severity, x, [1, h, w], y));
            assert_eq!(y, x);
            // Sums of float32 roundings, truncated.
            let y = run(h, w, &x, |x, y| Corruption::ZoomBlur.apply(severity, x, [1, h, w], y));
            assert!(y.iter().zip(&x).all(|(&y, &x)| x - y <= 1));
        }
    }
}

#[test]
fn colours_follow_the_hexcone() {
    type Op<'a> = &'a dyn Fn(&[u8], &mut [u8]) -> warpsmith::Result<()>;
    let pixel = |rgb: [u8; 3], op: Op<'_>| run(1, 1, &rgb, op);
    // Black gets brighter as gray; saturation of gray with b > 0 has hue 0, red.
    assert_eq!(pixel([0, 0, 0], &|x, y| brightness(x, 1, 1, 0.3, y)), [76, 76, 76]);
    assert_eq!(pixel([100, 100, 100], &|x, y| saturate(x, 1, 1, 2.5, 0.2, y)), [100, 80, 80]);
    // No saturation leaves the value: the largest channel, for each order of the channels.
    for rgb in [[90, 40, 10], [40, 90, 10], [10, 90, 40], [10, 40, 90], [40, 10, 90], [90, 10, 40]] {
        assert_near(&pixel(rgb, &|x, y| saturate(x, 1, 1, 0.0, 0.0, y)), &[90.0 / 255.0; 3]);
        assert_near(&pixel(rgb, &|x, y| saturate(x, 1, 1, 1.0, 0.0, y)), &rgb.map(|x| f64::from(x) / 255.0));
        assert_near(&pixel(rgb, &|x, y| brightness(x, 1, 1, 90.0 / 255.0, y)), &rgb.map(|x| f64::from(x) / 127.5));
    }
    let x = random_bytes(30, 22);
    let y = run(2, 5, &x, |x, y| contrast(x, 2, 5, 0.3, y));
    let mut want = vec![0.0; 30];
    for k in 0..3 {
        let mean = (0..10).map(|i| f64::from(x[3 * i + k])).sum::<f64>() / 10.0;
        (0..10).for_each(|i| want[3 * i + k] = ((f64::from(x[3 * i + k]) - mean) * 0.3 + mean) / 255.0);
    }
    assert_near(&y, &want);
}

#[test]
fn pixelate_averages_boxes() {
    // 4x4 to 2x2 and back: every block becomes its mean, rows rounded first.
    let x: Vec<u8> = (0..16).flat_map(|i| [i * 10; 3]).collect();
    let y = run(4, 4, &x, |x, y| pixelate(x, 4, 4, 2, 2, y));
    let red: Vec<u8> = y.chunks(3).map(|p| p[0]).collect();
    assert_eq!(red, [25, 25, 45, 45, 25, 25, 45, 45, 105, 105, 125, 125, 105, 105, 125, 125]);
    assert_eq!(run(4, 4, &x, |x, y| pixelate(x, 4, 4, 4, 4, y)), x);
}

#[test]
fn zoom_blur_of_factor_one_is_the_image_and_the_centre_spreads() {
    let x = random_bytes(32 * 32 * 3, 23);
    let y = run(32, 32, &x, |x, y| zoom_blur(x, 32, 32, &[1.0, 1.0], y));
    assert!(x.iter().zip(&y).all(|(&x, &y)| x - y <= 1));
    // Zoom by 2: the central 16x16 over 32x32, corner-aligned, so output corner = crop corner (8, 8).
    let y = run(32, 32, &x, |x, y| zoom_blur(x, 32, 32, &[2.0], y));
    for k in 0..3 {
        let want = (f64::from(x[k]) + f64::from(x[(8 * 32 + 8) * 3 + k])) / 2.0;
        assert!((f64::from(y[k]) - want).abs() <= 1.0);
    }
}

#[test]
fn names_severities_and_errors() {
    for corruption in Corruption::ALL {
        assert_eq!(Corruption::from_name(corruption.name()), Some(corruption));
    }
    assert_eq!(Corruption::from_name("jpeg_compression"), None);
    let text = |result: warpsmith::Result<()>| result.unwrap_err().to_string();
    let x = [0; 12];
    let mut y = [0; 12];
    assert!(
        text(Corruption::Saturate.apply(0, &x, [1, 2, 2], &mut y))
            .contains("saturate: expected a severity of 1..=5, got 0")
    );
    assert!(text(Corruption::Saturate.apply(6, &x, [1, 2, 2], &mut y)).contains("got 6"));
    assert!(text(Corruption::Contrast.apply(1, &x, [2, 2, 2], &mut y)).contains("24 elements in `x`, got 12"));
    assert!(text(gaussian_blur(&x, 2, 2, 0.0, &mut y)).contains("sigma above 0"));
    assert!(text(gaussian_blur(&x, 2, 2, f64::NAN, &mut y)).contains("finite"));
    assert!(text(defocus_blur(&x, 2, 2, 9.0, 0.1, &mut y)).contains("radius above 0, at most 8"));
    assert!(text(zoom_blur(&x, 2, 2, &[], &mut y)).contains("at least one factor"));
    assert!(text(pixelate(&x, 2, 2, 3, 1, &mut y)).contains("at most 2x2"));
    assert!(text(brightness(&x, 0, 2, 0.1, &mut y)).contains("0x2"));
}

#[test]
fn batches_equal_single_images_for_any_thread_count() {
    let (n, h, w) = (5, 32, 32);
    let x = random_bytes(n * h * w * 3, 24);
    for corruption in Corruption::ALL {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = vec![0; x.len()];
            pool.install(|| corruption.apply(5, &x, [n, h, w], &mut y)).unwrap();
            y
        };
        let one = run(1);
        assert_eq!(one, run(3), "{}", corruption.name());
        let mut single = vec![0; h * w * 3];
        corruption.apply(5, &x[3 * h * w * 3..][..h * w * 3], [1, h, w], &mut single).unwrap();
        assert_eq!(single, one[3 * h * w * 3..][..h * w * 3]);
    }
}
