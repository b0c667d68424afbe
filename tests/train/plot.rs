//! Pictures: what is drawn where, by pixel, and bad input. With `WARPSMITH_PICTURES=DIR` the gallery is kept there to be
//! looked at.

use std::path::Path;
use warpsmith::train::plot::{Image, Series, Tile, heat_map, image_grid, line_chart, matrix, side_by_side};

const WHITE: [u8; 3] = [255; 3];
const BLUE: [u8; 3] = [0, 114, 178];
const VERMILION: [u8; 3] = [213, 94, 0];
const GREY: [u8; 3] = [215; 3];
const VIRIDIS_LOW: [u8; 3] = [0x44, 0x01, 0x54];
const VIRIDIS_MIDDLE: [u8; 3] = [0x21, 0x90, 0x8c];
const VIRIDIS_HIGH: [u8; 3] = [0xfd, 0xe7, 0x25];

fn series(name: &str, points: &[(f64, f64)]) -> Series {
    Series { name: name.into(), points: points.to_vec() }
}

/// The places of a colour, as (x, y).
fn places(image: &Image, color: [u8; 3]) -> Vec<(usize, usize)> {
    (0..image.height())
        .flat_map(|y| (0..image.width()).map(move |x| (x, y)))
        .filter(|&(x, y)| image.pixel(x, y) == Some(color))
        .collect()
}

/// As (left, top, right, bottom), all inside.
fn bounds(places: &[(usize, usize)]) -> (usize, usize, usize, usize) {
    let xs = || places.iter().map(|place| place.0);
    let ys = || places.iter().map(|place| place.1);
    let some = "at least one pixel of the colour";
    (xs().min().expect(some), ys().min().expect(some), xs().max().expect(some), ys().max().expect(some))
}

fn decode(path: &Path) -> (usize, usize, Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).expect("a file"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG header");
    let mut rgb = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut rgb).expect("pixels");
    (info.width as usize, info.height as usize, rgb)
}

fn gallery() -> Vec<(&'static str, Image)> {
    let epochs = || (1..=20).map(f64::from);
    let falling = |from: f64, rate: f64| -> Vec<(f64, f64)> {
        epochs().map(|e| (e, from * (-rate * e).exp() + 0.03 * (e * 2.3).sin())).collect()
    };
    let mut broken = falling(2.2, 0.05);
    broken[8].1 = f64::NAN;
    broken[10].1 = f64::INFINITY;
    let curves = [
        series("train_loss", &falling(2.4, 0.12)),
        series("test_loss", &falling(2.3, 0.07)),
        series("teacher: train_loss", &broken),
    ];
    let many: Vec<Series> = (0..9)
        .map(|i| series(&format!("run {i} with a longer name"), &falling(1.0 + f64::from(i) * 0.2, 0.08)))
        .collect();
    let steps: Vec<(f64, f64)> =
        (0..3000).map(|i| (f64::from(i), 1e-5 * (1.0 + (f64::from(i) / 400.0).cos()))).collect();

    let corruptions = [
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
        "frost",
        "fog",
        "brightness",
        "contrast",
        "elastic_transform",
        "pixelate",
        "jpeg_compression",
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "saturate",
    ];
    let severities = ["severity 1", "severity 2", "severity 3", "severity 4", "severity 5"];
    let accuracies: Vec<Vec<Option<f64>>> = (0..19)
        .map(|row| {
            let value = |s: usize| 92.0 - (s as f64 + 0.4) * (row as f64 * 1.7 % 7.0) * 2.6;
            (0..5).map(|s| (row != 4).then(|| value(s))).collect()
        })
        .collect();

    let picture = |seed: usize| -> Vec<u8> {
        (0..32 * 32i32)
            .flat_map(|i| {
                let (y, x) = (i / 32, i % 32);
                let disc = (x - 16).pow(2) + (y - 16).pow(2) < 60 + seed as i32 * 4;
                if disc { [250 - seed as u8 * 6, 90, 40 + seed as u8 * 5] } else { [x as u8 * 7, y as u8 * 7, 120] }
            })
            .collect()
    };
    let pictures: Vec<Vec<u8>> = (0..32).map(picture).collect();
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let captions: Vec<String> = (0..32).map(|i| names[i % 10].to_string()).collect();
    let tiles: Vec<Tile> =
        pictures.iter().zip(&captions).map(|(rgb, caption)| Tile { caption, h: 32, w: 32, rgb }).collect();

    let n = 130;
    let groups: Vec<(&str, usize)> = names.iter().map(|name| (*name, 13)).collect();
    let similarity = |same: f32| -> Vec<f32> {
        (0..n * n)
            .map(|i| {
                let (a, b) = (i / n, i % n);
                let noise = ((a * 31 + b * 17) % 23 + (a * 17 + b * 31) % 23) as f32 / 60.0;
                if a == b { 1.0 } else { noise - 0.3 + if a / 13 == b / 13 { same } else { 0.0 } }
            })
            .collect()
    };
    let before = matrix("Before training", n, &similarity(0.1), &groups, (-1.0, 1.0)).expect("a picture");
    let after = matrix("After training", n, &similarity(0.8), &groups, (-1.0, 1.0)).expect("a picture");
    let flowers = [("daisy", 200), ("dandelion", 250), ("roses", 40), ("sunflowers", 5), ("tulips", 5)];
    let wide: Vec<f32> = (0..500 * 500).map(|i| ((i / 500) as f32 - (i % 500) as f32).abs() / 500.0).collect();
    vec![
        (
            "line_chart",
            line_chart("Consistency training: loss", "epoch", "loss", &curves, (1100, 640)).expect("a picture"),
        ),
        ("line_chart_many", line_chart("Nine runs", "epoch", "loss", &many, (900, 600)).expect("a picture")),
        (
            "line_chart_steps",
            line_chart("Learning rate", "step", "", &steps_series(steps), (800, 400)).expect("a picture"),
        ),
        (
            "line_chart_one",
            line_chart("One point", "epoch", "accuracy", &[series("a", &[(3.0, 0.25)])], (500, 320))
                .expect("a picture"),
        ),
        ("line_chart_none", line_chart("", "x", "y", &[], (300, 200)).expect("a picture")),
        (
            "heat_map",
            heat_map("CIFAR-10-C accuracy", &corruptions, &severities, &accuracies, (0.0, 100.0), "%")
                .expect("a picture"),
        ),
        (
            "heat_map_small",
            heat_map("A small table with a long title", &["r"], &["c"], &[vec![Some(0.5)]], (0.0, 1.0), "")
                .expect("a picture"),
        ),
        ("image_grid", image_grid("Augmented training images", &tiles, 8, 4).expect("a picture")),
        ("image_grid_small", image_grid("", &tiles[..5], 3, 2).expect("a picture")),
        ("matrix", side_by_side(&[before, after]).expect("a picture")),
        ("matrix_wide", matrix("Similarity", 500, &wide, &flowers, (0.0, 1.0)).expect("a picture")),
    ]
}

fn steps_series(points: Vec<(f64, f64)>) -> [Series; 1] {
    [Series { name: String::new(), points }]
}

/// Each picture survives the way through PNG; this is also where pictures to look at come from.
#[test]
fn the_gallery_is_written_as_png() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kept = std::env::var_os("WARPSMITH_PICTURES").map(std::path::PathBuf::from);
    for (name, image) in gallery() {
        let path = kept.as_deref().unwrap_or(folder.path()).join(format!("{name}.png"));
        image.write_png(&path).expect("written");
        assert_eq!(decode(&path), (image.width(), image.height(), image.rgb().to_vec()), "{name}");
    }
}

#[test]
fn a_line_runs_from_the_first_point_to_the_last() {
    let falling = series("", &[(0.0, 2.0), (10.0, 0.0)]);
    let image = line_chart("Loss", "epoch", "loss", &[falling], (400, 300)).expect("a picture");
    let blue = places(&image, BLUE);
    let (left, top, right, bottom) = bounds(&blue);
    // It fills the plot, goes down, and is one line: halfway across it is halfway down.
    assert!(right - left > 250 && bottom - top > 150, "{left} {top} {right} {bottom}");
    let middle: Vec<usize> = blue.iter().filter(|place| place.0 == (left + right) / 2).map(|place| place.1).collect();
    assert!(!middle.is_empty() && middle.iter().all(|y| y.abs_diff((top + bottom) / 2) <= 3), "{middle:?}");
    assert!(blue.iter().filter(|place| place.0 < left + 20).all(|place| place.1 < top + 30));
}

#[test]
fn points_that_are_not_finite_are_skipped_and_break_the_line() {
    let points = [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (f64::INFINITY, 1.0), (4.0, 1.0), (5.0, 1e308), (8.0, 2.0)];
    let image = line_chart("", "", "", &[series("", &points)], (600, 300)).expect("a picture");
    let columns: std::collections::BTreeSet<usize> = places(&image, BLUE).iter().map(|place| place.0).collect();
    let columns: Vec<usize> = columns.into_iter().collect();
    let gaps = columns.windows(2).filter(|pair| pair[1] - pair[0] > 30).count();
    // The line from 0 to 1, the lone point at 4, the lone point at 8.
    assert_eq!(gaps, 2, "{columns:?}");
    let alone = line_chart("", "", "", &[series("", &[(7.0, 7.0)])], (300, 200)).expect("a picture");
    assert!(places(&alone, BLUE).len() > 30, "a single point is a marker");
}

#[test]
fn each_series_has_its_colour_in_plot_and_legend() {
    let flat = |y: f64| -> Vec<(f64, f64)> { (0..100).map(|x| (f64::from(x), y)).collect() };
    let both = [series("a", &flat(0.0)), series("b", &flat(1.0))];
    let image = line_chart("", "", "", &both, (400, 300)).expect("a picture");
    for (color, name) in [(BLUE, "a"), (VERMILION, "b")] {
        let rows: std::collections::BTreeSet<usize> = places(&image, color).iter().map(|place| place.1).collect();
        let rows: Vec<usize> = rows.into_iter().collect();
        assert_eq!(rows.windows(2).filter(|pair| pair[1] - pair[0] > 10).count(), 1, "{name}: {rows:?}");
    }
}

#[test]
fn any_numbers_make_a_picture() {
    for points in [
        vec![(0.0, 0.0)],
        vec![(-0.0, 5e-324), (1.0, 1e-320)],
        vec![(-9e299, -9e299), (9e299, 9e299)],
        vec![(1e15, 1e15), (1e15 + 1.0, 1e15 + 0.125)],
        vec![(3.0, 1.0), (3.0, 1.0)],
        vec![(f64::NAN, f64::NAN)],
        vec![(1e12, 0.5), (2e12, 0.6)],
        vec![(0.1, 0.30000000000000004), (0.1, 0.3)],
    ] {
        // Eight series, so that the last one is dashed.
        let all: Vec<Series> = (0..8).map(|_| series("x", &points)).collect();
        let image = line_chart("t", "x", "y", &all, (240, 180)).expect("a picture");
        assert_eq!((image.width(), image.height()), (240, 180), "{points:?}");
    }
    let long = "a title much longer than the picture is wide, with \u{2192} and \u{e4}".repeat(20);
    line_chart(&long, &long, &long, &[series(&long, &[(0.0, 0.0)])], (240, 180)).expect("a picture");
}

#[test]
fn heat_map_cells_have_the_colour_of_their_value() {
    let row = vec![Some(0.0), Some(0.5), Some(1.0), None, Some(7.0), Some(f64::NAN)];
    let image = heat_map("", &["row"], &["a", "b", "c", "d", "e", "f"], &[row], (0.0, 1.0), "").expect("a picture");
    // The cells' corners, clear of the text; the colour bar holds the three map colours in few pixels.
    let filled = |color| places(&image, color).len();
    for (color, cells) in [(VIRIDIS_LOW, 1), (VIRIDIS_MIDDLE, 1), (VIRIDIS_HIGH, 2), (GREY, 2)] {
        let (pixels, cell) = (filled(color), 75 * 29);
        assert!(pixels > cells * cell * 8 / 10 && pixels < cells * cell + 100, "{color:?}: {pixels} pixels");
    }
    // Text in white on the dark cell and in black on the light one.
    let (left, top, right, bottom) = bounds(&places(&image, VIRIDIS_LOW));
    let count = |color: [u8; 3], from: usize, to: usize| {
        places(&image, color).iter().filter(|(x, y)| (from..to).contains(x) && (top..=bottom).contains(y)).count()
    };
    assert!(right - left < 76 && count(WHITE, left, left + 75) > 20 && count([0; 3], left, left + 75) == 0);
    assert!(count([0; 3], left + 2 * 76, left + 2 * 76 + 75) > 20);
}

#[test]
fn tiles_are_zoomed_without_smoothing() {
    let (red, green) = ([250, 1, 2], [3, 240, 4]);
    let tile = Tile { caption: "x", h: 1, w: 2, rgb: &[red, green].concat() };
    let image = image_grid("", &[tile, tile, tile], 2, 5).expect("a picture");
    let (reds, greens) = (places(&image, red), places(&image, green));
    assert_eq!((reds.len(), greens.len()), (3 * 25, 3 * 25));
    let (left, top, right, bottom) = bounds(&reds[..]);
    // Two tiles in the first row and one in the second.
    assert!(right - left > 10 && bottom - top > 10);
    assert_eq!(image.pixel(left + 5, top), Some(green));
    assert_eq!(image.pixel(left, top + 5), Some(WHITE));
}

#[test]
fn matrix_keeps_rows_in_order_and_parts_groups() {
    let mut values = vec![0.0f32; 9];
    values[1] = 1.0; // row 0, column 1
    values[8] = f32::NAN;
    let image = matrix("", 3, &values, &[("a", 1), ("none", 0), ("b", 2)], (0.0, 1.0)).expect("a picture");
    let cell = 640 / 3;
    let nan = places(&image, GREY);
    assert_eq!(nan.len(), cell * cell);
    // The last cell ends where the body ends; column 1 starts behind the first cell and the gap, row 0 at the top.
    let (left, top) = (bounds(&nan).0 - 2 * cell - 2, bounds(&nan).1 - 2 * cell - 2);
    assert_eq!(image.pixel(left, top), Some(VIRIDIS_LOW));
    assert_eq!(image.pixel(left + cell, top), Some(WHITE));
    assert_eq!(image.pixel(left + cell + 1, top), Some(WHITE));
    assert_eq!(image.pixel(left + cell + 2, top), Some(VIRIDIS_HIGH));
    assert_eq!(image.pixel(left, top + cell + 2), Some(VIRIDIS_LOW));
}

#[test]
fn side_by_side_keeps_both_pictures() {
    let tile = |rgb| image_grid("", &[Tile { caption: "", h: 1, w: 1, rgb }], 1, 20).expect("a picture");
    let (small, large) = (tile(&[255, 0, 0]), line_chart("", "", "", &[], (240, 180)).expect("a picture"));
    let both = side_by_side(&[small.clone(), large.clone()]).expect("a picture");
    assert_eq!((both.width(), both.height()), (small.width() + 240, 180));
    for y in 0..180 {
        for x in 0..small.width() {
            assert_eq!(both.pixel(x, y), small.pixel(x, y).or(Some(WHITE)));
        }
        for x in 0..240 {
            assert_eq!(both.pixel(small.width() + x, y), large.pixel(x, y));
        }
    }
}

#[track_caller]
fn assert_error(result: warpsmith::Result<Image>, text: &str) {
    let error = result.expect_err("bad input").to_string();
    assert!(error.contains(text), "{error:?} does not contain {text:?}");
}

#[test]
fn bad_input_is_an_error() {
    assert_error(
        line_chart("", "", "", &[], (100, 100)),
        "line_chart: expected a size of at least 240 x 180, got 100 x 100",
    );
    assert_error(line_chart("", "", "", &[], (240, 20_000)), "line_chart: expected a picture of 1 to 16384 pixels");
    let unit = (0.0, 1.0);
    assert_error(heat_map("", &[], &["a"], &[], unit, ""), "heat_map: expected at least one row and one column");
    let ragged = [vec![None, None], vec![None]];
    assert_error(heat_map("", &["a", "b"], &["c", "d"], &ragged, unit, ""), "2 rows of 2 values, got 2 rows of [2, 1]");
    for range in [(1.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (0.0, f64::INFINITY), (-1e308, 1e308)] {
        assert_error(heat_map("", &["a"], &["b"], &[vec![None]], range, ""), "heat_map: expected a finite range");
        assert_error(matrix("", 1, &[0.0], &[("a", 1)], range), "matrix: expected a finite range");
    }
    assert_error(image_grid("", &[], 1, 1), "image_grid: expected at least one tile");
    let tile = Tile { caption: "", h: 2, w: 2, rgb: &[0; 11] };
    assert_error(
        image_grid("", &[tile], 1, 1),
        "image_grid: expected 2 x 2 x 3 bytes in tile 0, at least one pixel, got 11",
    );
    let overflowing = Tile { h: usize::MAX, w: 2, ..tile };
    assert_error(image_grid("", &[overflowing], 1, 1), "x 2 x 3 bytes in tile 0");
    let whole = Tile { rgb: &[0; 12], ..tile };
    assert_error(image_grid("", &[whole], 1, 0), "zoom 0");
    assert_error(image_grid("", &[whole], 1, usize::MAX), "image_grid: expected a picture of 1 to 16384 pixels");
    assert_error(matrix("", 0, &[], &[], unit), "matrix: expected at least one row, got n = 0");
    assert_error(
        matrix("", 2, &[0.0; 3], &[("a", 2)], unit),
        "2 x 2 values and groups of 2 rows together, got 3 values",
    );
    assert_error(matrix("", 2, &[0.0; 4], &[("a", 1)], unit), "got 4 values and groups of 1 rows");
    assert_error(matrix("", usize::MAX, &[0.0], &[("a", usize::MAX), ("b", 1)], unit), "matrix: expected");
    assert_error(side_by_side(&[]), "side_by_side: expected a picture of 1 to 16384 pixels a side, got 0 x 0");
}

#[test]
fn a_picture_that_cannot_be_written_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("written");
    let image = line_chart("", "", "", &[], (240, 180)).expect("a picture");
    let error = image.write_png(file.join("curves.png")).expect_err("no folder").to_string();
    assert!(error.contains("curves.png: could not write"), "{error}");
}
