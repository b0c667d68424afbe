use crate::common::oracle::augment as oracle;
use crate::common::random_bytes;
use crate::{SIZES, random_floats};
use warpsmith::cpu::augment_pixel::{keras_cv, randaugment};

/// Images of every kind an op may treat specially: noise, low contrast, one constant channel, two values.
fn images(h: usize, w: usize) -> Vec<Vec<u8>> {
    let noise = random_bytes(h * w * 3, 11);
    let low = noise.iter().map(|x| 100 + x / 8).collect();
    let constant = noise.iter().enumerate().map(|(i, &x)| if i % 3 == 1 { 77 } else { x }).collect();
    let two = noise.iter().map(|x| if *x < 128 { 3 } else { 250 }).collect();
    vec![noise, low, constant, two]
}

fn map(x: &[u8], op: impl Fn(u8) -> u8) -> Vec<u8> {
    x.iter().map(|&x| op(x)).collect()
}

#[test]
fn randaugment_ops_match_the_oracle() {
    for (h, w) in SIZES {
        for x in images(h, w) {
            let in_place = |op: &dyn Fn(&mut [u8]) -> warpsmith::Result<()>| {
                let mut y = x.clone();
                op(&mut y).unwrap();
                y
            };
            assert_eq!(in_place(&|y| randaugment::auto_contrast(y, h, w)), oracle::auto_contrast(&x));
            let last = |counts: &[usize]| counts[counts.len() - 1];
            assert_eq!(in_place(&|y| randaugment::equalize(y, h, w)), oracle::equalize(&x, last));
            assert_eq!(in_place(&|y| randaugment::invert(y, h, w)), map(&x, |x| 255 - x));
            for (bits, keep) in [(0, 0x80), (1, 0x80), (3, 0xe0), (4, 0xf0), (8, 0xff)] {
                assert_eq!(in_place(&|y| randaugment::posterize(y, h, w, bits)), map(&x, |x| x & keep));
            }
            for threshold in [0, 128, 230, 255, 256] {
                let want = map(&x, |x| if u32::from(x) < threshold { x } else { 255 - x });
                assert_eq!(in_place(&|y| randaugment::solarize(y, h, w, threshold)), want);
            }
            for addition in [0, 99, 255] {
                let want = map(&x, |x| if x < 128 { (u32::from(x) + addition).min(255) as u8 } else { x });
                assert_eq!(in_place(&|y| randaugment::solarize_add(y, h, w, addition, 128)), want);
            }
            for factor in [0.0, 0.1, 0.64, 1.0, 1.72, 1.9] {
                let d = (h * w / 256).min(255) as u8;
                let want = map(&x, |x| oracle::blend(d, x, factor));
                assert_eq!(in_place(&|y| randaugment::contrast(y, h, w, factor)), want);
                let want = map(&x, |x| oracle::blend(0, x, factor));
                assert_eq!(in_place(&|y| randaugment::brightness(y, h, w, factor)), want);
                let gray = |pixel: &[u8]| oracle::gray(pixel);
                let want: Vec<u8> =
                    x.chunks(3).flat_map(|p| [0, 1, 2].map(|k| oracle::blend(gray(p), p[k], factor))).collect();
                assert_eq!(in_place(&|y| randaugment::color(y, h, w, factor)), want);
                let sharp = in_place(&|y| randaugment::sharpness(&x, h, w, factor, y));
                assert_eq!(sharp, oracle::sharpness(&x, h, w, factor), "sharpness {h}x{w}, {factor}");
            }
        }
    }
}

#[test]
fn randaugment_warps_match_the_oracle() {
    for (h, w) in SIZES {
        let x = random_bytes(h * w * 3, 12);
        let floats: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
        let want = |t: [f32; 6]| {
            let t = [t[0], t[1], t[2], t[3], t[4], t[5], 0.0, 0.0];
            let y = oracle::warp(&floats, [h, w, 3], &t, true, "reflect", 0.0);
            y.iter().map(|&x| x as u8).collect::<Vec<u8>>()
        };
        let mut y = x.clone();
        for sign in [-1.0f32, 1.0] {
            randaugment::shear_x(&x, h, w, sign * 0.27, &mut y).unwrap();
            assert_eq!(y, want([1.0, sign * 0.27, 0.0, 0.0, 1.0, 0.0]));
            randaugment::shear_y(&x, h, w, sign * 0.27, &mut y).unwrap();
            assert_eq!(y, want([1.0, 0.0, 0.0, sign * 0.27, 1.0, 0.0]));
            randaugment::translate_x(&x, h, w, sign * 90.0, &mut y).unwrap();
            assert_eq!(y, want([1.0, 0.0, sign * 90.0, 0.0, 1.0, 0.0]));
            randaugment::translate_y(&x, h, w, sign * 12.5, &mut y).unwrap();
            assert_eq!(y, want([1.0, 0.0, 0.0, 0.0, 1.0, sign * 12.5]));
        }
        // A half turn reverses rows and columns exactly, whatever the rounding of its sine.
        randaugment::rotate(&x, h, w, 180.0, &mut y).unwrap();
        let reversed: Vec<u8> = x.rchunks(3).flatten().copied().collect();
        assert_eq!(y, reversed);
    }
}

#[test]
fn cutout_clips_to_the_image() {
    let (h, w) = (6, 8);
    let x = random_bytes(h * w * 3, 13);
    for (pad, row, col) in [(0, 3, 3), (1, 0, 7), (2, 5, 0), (36, 2, 2)] {
        let mut y = x.clone();
        randaugment::cutout(&mut y, h, w, pad, row, col, [1, 2, 3]).unwrap();
        for p in 0..h {
            for q in 0..w {
                let near = |i: usize, centre: usize| i + pad >= centre && i < centre + pad;
                let want = if near(p, row) && near(q, col) { &[1, 2, 3] } else { &x[(p * w + q) * 3..][..3] };
                assert_eq!(&y[(p * w + q) * 3..][..3], want, "pad {pad} at {row},{col}: pixel {p},{q}");
            }
        }
    }
}

#[test]
fn keras_ops_match_the_oracle() {
    for (h, w) in SIZES {
        let (n, shape) = (2, [2, h, w]);
        let x = random_floats(n * h * w * 3, 14);
        let each = |op: &dyn Fn(&[f32], &mut [f32])| {
            let mut y = x.clone();
            for (x, y) in x.chunks(h * w * 3).zip(y.chunks_mut(h * w * 3)) {
                op(x, y);
            }
            y
        };
        let in_place = |op: &dyn Fn(&mut [f32]) -> warpsmith::Result<()>| {
            let mut y = x.clone();
            op(&mut y).unwrap();
            y
        };
        let channel = |x: &[f32], k: usize| x.iter().skip(k).step_by(3).copied().collect::<Vec<f32>>();
        let want = each(&|x, y| {
            for k in 0..3 {
                let values = channel(x, k);
                let lo = values.iter().copied().fold(f32::INFINITY, f32::min);
                let hi = values.iter().copied().fold(0.0, f32::max);
                for (i, v) in values.into_iter().enumerate().filter(|_| hi > lo) {
                    let s = 255.0 / (hi - lo);
                    y[3 * i + k] = (v * s + (-lo * s)).clamp(0.0, 255.0);
                }
            }
        });
        assert_eq!(in_place(&|y| keras_cv::auto_contrast(y, shape)), want);
        let want = each(&|x, y| {
            let bytes: Vec<u8> = x.iter().map(|&x| x as u8).collect();
            let smallest = |counts: &[usize]| *counts.iter().min().unwrap();
            y.iter_mut().zip(oracle::equalize(&bytes, smallest)).for_each(|(y, v)| *y = f32::from(v));
        });
        assert_eq!(in_place(&|y| keras_cv::equalization(y, shape)), want);
        for (add, threshold) in [(88.0, 51.0), (0.0, 128.0), (110.0, 0.0)] {
            let solarize = |x: f32| {
                let v = (x + add).clamp(0.0, 255.0);
                if v < threshold { v } else { 255.0 - v }
            };
            let want: Vec<f32> = x.iter().map(|&x| solarize(x)).collect();
            assert_eq!(in_place(&|y| keras_cv::solarization(y, shape, add, threshold)), want);
        }
        for factor in [0.0, 0.35, 0.8, 1.0, 1.8] {
            let want: Vec<f32> = x
                .chunks(3)
                .flat_map(|p| {
                    let gray = p[0] * 0.2989 + p[1] * 0.587 + p[2] * 0.114;
                    [0, 1, 2].map(|k| (p[k] + factor * (gray - p[k])).clamp(0.0, 255.0))
                })
                .collect();
            assert_eq!(in_place(&|y| keras_cv::random_color_degeneration(y, shape, factor)), want);
            // The mean by another summation order: compare within its rounding, 2^-24 of 255 times a few.
            let got = in_place(&|y| keras_cv::random_contrast(y, shape, factor));
            let want = each(&|x, y| {
                for k in 0..3 {
                    let values = channel(x, k);
                    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
                    for (i, v) in values.into_iter().enumerate() {
                        let v = (f64::from(v) - mean) * f64::from(factor) + mean;
                        y[3 * i + k] = v.clamp(0.0, 255.0) as f32;
                    }
                }
            });
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "contrast {factor}: {worst}");
        }
        let want: Vec<f32> = x.iter().map(|&x| (x - 204.0).clamp(0.0, 255.0)).collect();
        assert_eq!(in_place(&|y| keras_cv::random_brightness(y, shape, -204.0)), want);
        let warped = |t: [f32; 6]| {
            let t = [t[0], t[1], t[2], t[3], t[4], t[5], 0.0, 0.0];
            each(&|x, y| y.copy_from_slice(&oracle::warp(x, [h, w, 3], &t, false, "reflect", 0.0)))
        };
        let mut y = x.clone();
        keras_cv::random_shear_x(&x, shape, -0.55, &mut y).unwrap();
        assert_eq!(y, warped([1.0, -0.55, 0.0, 0.0, 1.0, 0.0]));
        keras_cv::random_shear_y(&x, shape, 0.8, &mut y).unwrap();
        assert_eq!(y, warped([1.0, 0.0, 0.0, 0.8, 1.0, 0.0]));
        keras_cv::random_translation_x(&x, shape, 0.33, &mut y).unwrap();
        assert_eq!(y, warped([1.0, 0.0, -(0.33 * w as f32), 0.0, 1.0, 0.0]));
        keras_cv::random_translation_y(&x, shape, -0.8, &mut y).unwrap();
        assert_eq!(y, warped([1.0, 0.0, 0.0, 0.0, 1.0, 0.8 * h as f32]));
    }
}

#[test]
fn bad_input_is_an_error() {
    let text = |result: warpsmith::Result<()>| result.unwrap_err().to_string();
    let mut x = [0u8; 12];
    assert!(text(randaugment::invert(&mut x, 2, 3)).contains("randaugment.invert: expected 18 elements"));
    assert!(text(randaugment::equalize(&mut [], 0, 3)).contains("0x3"));
    assert!(text(randaugment::posterize(&mut x, 2, 2, 9)).contains("0..=8 bits, got 9"));
    assert!(text(randaugment::color(&mut x, 2, 2, f32::NAN)).contains("finite factor"));
    assert!(text(randaugment::cutout(&mut x, 2, 2, 1, 2, 0, [0; 3])).contains("inside the 2x2 image"));
    assert!(text(randaugment::rotate(&[0; 12], 2, 2, f64::NAN, &mut x)).contains("randaugment.rotate"));
    let mut x = [0.0f32; 12];
    assert!(text(keras_cv::random_contrast(&mut x, [1, 2, 2], f32::INFINITY)).contains("finite factor"));
    assert!(text(keras_cv::auto_contrast(&mut x, [2, 2, 2])).contains("24 elements in `images`, got 12"));
}
