//! Per-pixel restatements of the augmentation ops, one output value at a time.
//!
//! Geometry and pixel arithmetic promise float32 bits, so these are float32 too; they share no code and no shortcuts
//! (tap tables, lookup tables, row coordinates) with the crate.

/// Bilinear resize of `[h, w, c]`, one value.
pub fn resize_at(x: &[f32], [h, w, c]: [usize; 3], [height, width]: [usize; 2], p: usize, q: usize, k: usize) -> f32 {
    let axis = |o: usize, input: usize, output: usize| {
        let s = (o as f32 + 0.5) * (input as f32 / output as f32) - 0.5;
        let lo = s.floor().max(0.0) as usize;
        let hi = (s.ceil().max(0.0) as usize).min(input - 1);
        (lo, hi, s - s.floor())
    };
    let (y0, y1, wy) = axis(p, h, height);
    let (x0, x1, wx) = axis(q, w, width);
    let at = |y: usize, col: usize| x[(y * w + col) * c + k];
    let top = at(y0, x0) + (at(y0, x1) - at(y0, x0)) * wx;
    let bottom = at(y1, x0) + (at(y1, x1) - at(y1, x0)) * wx;
    top + (bottom - top) * wy
}

/// Bilinear resize of `[h, w, c]`.
pub fn resize(x: &[f32], [h, w, c]: [usize; 3], height: usize, width: usize) -> Vec<f32> {
    let mut y = Vec::new();
    for p in 0..height {
        for q in 0..width {
            for k in 0..c {
                y.push(resize_at(x, [h, w, c], [height, width], p, q, k));
            }
        }
    }
    y
}

/// A rectangle of `[h, w, c]`.
pub fn crop(x: &[f32], [_, w, c]: [usize; 3], [top, left, height, width]: [usize; 4]) -> Vec<f32> {
    let mut y = Vec::new();
    for p in top..top + height {
        for q in left..left + width {
            y.extend_from_slice(&x[(p * w + q) * c..][..c]);
        }
    }
    y
}

/// `[h, w, c]` with its columns reversed.
pub fn flip(x: &[f32], [h, w, c]: [usize; 3]) -> Vec<f32> {
    let mut y = Vec::new();
    for p in 0..h {
        for q in 0..w {
            y.extend_from_slice(&x[(p * w + w - 1 - q) * c..][..c]);
        }
    }
    y
}

/// Source coordinate under a fill mode: "reflect", "nearest", "wrap" or "constant".
fn map(mut u: f32, n: usize, fill: &str) -> f32 {
    let (len, last) = (n as f32, n as f32 - 1.0);
    match fill {
        "constant" => return u,
        "reflect" if n == 1 => return 0.0,
        "wrap" if n == 1 => return 0.0,
        "reflect" if u < 0.0 => {
            u += 2.0 * len * (-u / (2.0 * len)).trunc();
            u = if u < -len { u + 2.0 * len } else { -u - 1.0 };
        }
        "reflect" if u > last => {
            u -= 2.0 * len * (u / (2.0 * len)).trunc();
            if u >= len {
                u = 2.0 * len - u - 1.0;
            }
        }
        "wrap" if u < 0.0 => u += len * ((-u / last).trunc() + 1.0),
        "wrap" if u > last => u -= len * (u / last).trunc(),
        _ => {}
    }
    u.clamp(0.0, last)
}

/// Projective warp of `[h, w, c]`.
pub fn warp(x: &[f32], [h, w, c]: [usize; 3], t: &[f32; 8], nearest: bool, fill: &str, fill_value: f32) -> Vec<f32> {
    let mut y = Vec::new();
    for p in 0..h {
        for q in 0..w {
            let (px, py) = (q as f32, p as f32);
            let k = t[6] * px + t[7] * py + 1.0;
            let sx = map((t[0] * px + t[1] * py + t[2]) / k, w, fill);
            let sy = map((t[3] * px + t[4] * py + t[5]) / k, h, fill);
            for channel in 0..c {
                let at = |row: f32, col: f32| {
                    let inside = row >= 0.0 && col >= 0.0 && row < h as f32 && col < w as f32;
                    if inside { x[(row as usize * w + col as usize) * c + channel] } else { fill_value }
                };
                y.push(if k == 0.0 {
                    fill_value
                } else if nearest {
                    at(sy.round(), sx.round())
                } else {
                    let (fy, fx) = (sy.floor(), sx.floor());
                    let row = |r: f32| (fx + 1.0 - sx) * at(r, fx) + (sx - fx) * at(r, fx + 1.0);
                    (fy + 1.0 - sy) * row(fy) + (sy - fy) * row(fy + 1.0)
                });
            }
        }
    }
    y
}

fn truncate(value: f32) -> u8 {
    value.clamp(0.0, 255.0) as u8
}

/// `d + factor·(x − d)`, truncated.
pub fn blend(d: u8, x: u8, factor: f32) -> u8 {
    if factor == 0.0 {
        return d;
    }
    if factor == 1.0 {
        return x;
    }
    truncate(f32::from(d) + factor * (f32::from(x) - f32::from(d)))
}

fn channel(x: &[u8], k: usize) -> Vec<u8> {
    x.iter().skip(k).step_by(3).copied().collect()
}

/// Stretch to 0..255 per channel.
pub fn auto_contrast(x: &[u8]) -> Vec<u8> {
    let mut y = x.to_vec();
    for k in 0..3 {
        let values = channel(x, k);
        let (lo, hi) = (f32::from(*values.iter().min().unwrap()), f32::from(*values.iter().max().unwrap()));
        if hi > lo {
            let s = 255.0 / (hi - lo);
            for (i, value) in values.iter().enumerate() {
                y[3 * i + k] = truncate(f32::from(*value) * s + (-lo * s));
            }
        }
    }
    y
}

/// Histogram equalisation per channel; `spared(counts)` is the count that the step leaves out.
pub fn equalize(x: &[u8], spared: impl Fn(&[usize]) -> usize) -> Vec<u8> {
    let mut y = x.to_vec();
    for k in 0..3 {
        let values = channel(x, k);
        let counts: Vec<usize> = (0..=255u8).map(|v| values.iter().filter(|&&x| x == v).count()).collect();
        let non_zero: Vec<usize> = counts.iter().copied().filter(|&n| n > 0).collect();
        let step = (values.len() - spared(&non_zero)) / 255;
        if step == 0 {
            continue;
        }
        for (i, &value) in values.iter().enumerate() {
            if value == 0 {
                y[3 * i + k] = 0;
            } else {
                let below: usize = counts[..usize::from(value)].iter().sum();
                y[3 * i + k] = ((below + step / 2) / step).min(255) as u8;
            }
        }
    }
    y
}

/// The u8 gray value of a pixel.
pub fn gray(pixel: &[u8]) -> u8 {
    let unit = |k: usize| f32::from(pixel[k]) * (1.0f32 / 255.0);
    ((unit(0) * 0.2989 + unit(1) * 0.587 + unit(2) * 0.114) * 255.5) as u8
}

/// 3x3 smoothing inside, blended with the image; `f32::mul_add` is exact on every machine.
pub fn sharpness(x: &[u8], h: usize, w: usize, factor: f32) -> Vec<u8> {
    let mut y = x.to_vec();
    for p in 0..h {
        for q in 0..w {
            for k in 0..3 {
                let at = |row: usize, col: usize| x[(row * w + col) * 3 + k];
                let mut smooth = at(p, q);
                if p > 0 && p + 1 < h && q > 0 && q + 1 < w {
                    let mut sum = 0.0f32;
                    for r in 0..3 {
                        for s in 0..3 {
                            let weight = if (r, s) == (1, 1) { 5.0f32 / 13.0 } else { 1.0f32 / 13.0 };
                            sum = weight.mul_add(f32::from(at(p + r - 1, q + s - 1)), sum);
                        }
                    }
                    smooth = truncate(sum);
                }
                y[(p * w + q) * 3 + k] = blend(smooth, at(p, q), factor);
            }
        }
    }
    y
}
