use crate::common::oracle::augment as oracle;
use crate::{SIZES, random_floats};
use warpsmith::cpu::augment_geometry::*;

const MODES: [(FillMode, &str); 4] = [
    (FillMode::Reflect, "reflect"),
    (FillMode::Constant, "constant"),
    (FillMode::Nearest, "nearest"),
    (FillMode::Wrap, "wrap"),
];

fn bytes_and_floats(n: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
    let bytes = crate::common::random_bytes(n, seed);
    let floats = bytes.iter().map(|&x| f32::from(x)).collect();
    (bytes, floats)
}

#[test]
fn resize_matches_the_oracle_bit_for_bit() {
    for (h, w) in SIZES {
        for c in [1, 3, 4] {
            let (bytes, floats) = bytes_and_floats(2 * h * w * c, 1);
            for (height, width) in [(1, 1), (1, 5), (7, 4), (h, w), (96, 96), (2 * h + 1, w.div_ceil(2))] {
                let mut y = vec![0.0; 2 * height * width * c];
                resize_bilinear(&bytes, [2, h, w, c], height, width, &mut y).unwrap();
                let want: Vec<f32> =
                    floats.chunks(h * w * c).flat_map(|x| oracle::resize(x, [h, w, c], height, width)).collect();
                assert_eq!(y, want, "{h}x{w}x{c} -> {height}x{width}");
                resize_bilinear(&floats, [2, h, w, c], height, width, &mut y).unwrap();
                assert_eq!(y, want, "{h}x{w}x{c} f32 -> {height}x{width}");
            }
        }
    }
}

#[test]
fn crops_and_flips_match_the_oracle() {
    let (h, w, c) = (9, 11, 3);
    let (_, x) = bytes_and_floats(h * w * c, 2);
    for region in [[0, 0, 9, 11], [2, 3, 4, 5], [8, 10, 1, 1], [0, 6, 9, 5]] {
        let want = oracle::crop(&x, [h, w, c], region);
        let [top, left, height, width] = region;
        let region = CropBox { top, left, height, width };
        let mut y = vec![0.0; want.len()];
        crop(&x, [1, h, w, c], region, &mut y).unwrap();
        assert_eq!(y, want);
        let resized = oracle::resize(&want, [height, width, c], 6, 13);
        let mut y = vec![0.0; resized.len()];
        crop_resize(&x, [1, h, w, c], region, 6, 13, &mut y).unwrap();
        assert_eq!(y, resized);
    }
    let mut y = vec![0.0; x.len()];
    flip_left_right(&x, [1, h, w, c], &mut y).unwrap();
    assert_eq!(y, oracle::flip(&x, [h, w, c]));
}

#[test]
fn center_crop_cuts_or_resizes() {
    let (h, w, c) = (9, 12, 3);
    let (x, floats) = bytes_and_floats(h * w * c, 3);
    let run = |height: usize, width: usize| {
        let mut y = vec![0.0; height * width * c];
        center_crop(&x, [1, h, w, c], height, width, &mut y).unwrap();
        y
    };
    assert_eq!(run(4, 5), oracle::crop(&floats, [h, w, c], [2, 3, 4, 5]));
    // Too low: the largest box of that shape is 9 rows by 6 columns (9·10/15), from column 3.
    let part = oracle::crop(&floats, [h, w, c], [0, 3, 9, 6]);
    assert_eq!(run(15, 10), oracle::resize(&part, [9, 6, c], 15, 10));
    // Too narrow: the largest box is 6 rows (12·8/16) by 12 columns, from row 1.
    let part = oracle::crop(&floats, [h, w, c], [1, 0, 6, 12]);
    assert_eq!(run(8, 16), oracle::resize(&part, [6, 12, c], 8, 16));
}

#[test]
fn warp_matches_the_oracle_bit_for_bit() {
    for (h, w) in SIZES {
        let transforms = [
            IDENTITY,
            rotation_transform(h, w, 0.47),
            rotation_transform(h, w, -3.0),
            zoom_transform(h, w, 0.2, -0.15),
            shear_x_transform(-0.8),
            shear_y_transform(0.27),
            translation_transform(-90.0, 0.0),
            translation_transform(2.5, 61.25),
            [1.0, 0.3, -4.25, -0.2, 1.1, 60.5, 0.0, 0.0],
            [1.1, 0.1, -2.0, 0.2, 0.9, 1.0, 0.01, -0.02],
            // The divisor is 0 where x = 4.
            [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -0.25, 0.0],
        ];
        for c in [1, 3] {
            let (bytes, floats) = bytes_and_floats(h * w * c, 4);
            for (i, transform) in transforms.iter().enumerate() {
                for (fill, name) in MODES {
                    for nearest in [true, false] {
                        let case = format!("{h}x{w}x{c}, transform {i}, {name}, nearest {nearest}");
                        let how = if nearest { Interpolation::Nearest } else { Interpolation::Bilinear };
                        let want = oracle::warp(&floats, [h, w, c], transform, nearest, name, 99.0);
                        let mut y = vec![0.0; floats.len()];
                        warp(&floats, [1, h, w, c], transform, how, fill, 99.0, &mut y).unwrap();
                        assert_eq!(y, want, "{case}");
                        let mut y = vec![0; bytes.len()];
                        warp(&bytes, [1, h, w, c], transform, how, fill, 99.0, &mut y).unwrap();
                        let want: Vec<u8> = want.iter().map(|&x| x as u8).collect();
                        assert_eq!(y, want, "{case}, u8");
                    }
                }
            }
        }
    }
}

#[test]
fn rotation_and_zoom_turn_the_right_way() {
    // A bright pixel right of the centre moves up under a positive quarter turn: counter-clockwise.
    let mut x = vec![0.0; 25];
    x[2 * 5 + 4] = 100.0;
    let mut y = vec![0.0; 25];
    random_rotation(&x, [1, 5, 5, 1], std::f32::consts::FRAC_PI_2, &mut y).unwrap();
    assert!(y[2] > 99.9, "{y:?}");
    // Zooming out by 2 brings the corners of a 5x5 image to the pixels around the centre.
    let x = random_floats(25, 5);
    random_zoom(&x, [1, 5, 5, 1], 1.0, 1.0, &mut y).unwrap();
    assert_eq!([y[6], y[8], y[16], y[18]], [x[0], x[4], x[20], x[24]]);
}

#[test]
fn bad_input_is_an_error() {
    let x = [0u8; 12];
    let text = |result: warpsmith::Result<()>| result.unwrap_err().to_string();
    let mut y = vec![0.0; 12];
    assert!(text(resize_bilinear(&x, [1, 2, 2, 3], 0, 4, &mut y)).contains("resize_bilinear"));
    assert!(text(resize_bilinear(&x, [1, 0, 2, 3], 2, 2, &mut y)).contains("0x2x3"));
    assert!(text(resize_bilinear(&x, [1, 2, 3, 3], 2, 2, &mut y)).contains("18 elements in `x`, got 12"));
    assert!(text(resize_bilinear(&x, [1, 2, 2, 3], 3, 2, &mut y)).contains("18 elements in `y`, got 12"));
    assert!(text(resize_bilinear(&x, [usize::MAX, 2, 2, 3], 2, 2, &mut y)).contains("product"));
    let region = CropBox { top: 1, left: 0, height: 2, width: 1 };
    assert!(text(crop(&x, [1, 2, 2, 3], region, &mut [0u8; 6])).contains("inside the 2x2 image, got 2x1 at row 1"));
    let nan = shear_x_transform(f32::NAN);
    let error = warp(&x, [1, 2, 2, 3], &nan, Interpolation::Nearest, FillMode::Wrap, 0.0, &mut [0u8; 12]);
    assert!(text(error).contains("finite transform"));
    assert!(text(random_rotation(&y.clone(), [1, 2, 2, 3], f32::INFINITY, &mut y)).contains("random_rotation"));
    assert!(text(flip_left_right(&x, [1, 2, 2, 3], &mut [0u8; 3])).contains("flip_left_right"));
}
