//! Folders of JPEG and PNG files.

use crate::assert_error;
use std::fs;
use std::path::{Path, PathBuf};
use warpsmith::data::image_folder::{ImageFolder, decode_file};
use warpsmith::data::{Split, bundled};

// Both written by Pillow, quality 95: 16x8 pixels, every channel 16 times the column.
const GREY_JPEG: &[u8] = include_bytes!("grey.jpg");
const CMYK_JPEG: &[u8] = include_bytes!("cmyk.jpg");

pub fn write_png(path: &Path, w: u32, h: u32, color: png::ColorType, data: &[u8]) {
    write_png_deep(path, w, h, color, png::BitDepth::Eight, data);
}

fn write_png_deep(path: &Path, w: u32, h: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), w, h);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
}

/// A bundled photo.
fn photo() -> Vec<u8> {
    fs::read(&bundled::tf_flowers().unwrap().files()[0]).unwrap()
}

/// Writes `contents` to a new file `name` and decodes it.
fn decode(name: &str, contents: &[u8]) -> warpsmith::Result<(usize, usize, Vec<u8>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, contents).unwrap();
    decode_file(path)
}

/// Class folders `b` and `a` of `n` and 2 PNG files, and things to skip.
fn folder(n: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let class = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (b, a) = (class("b"), class("a"));
    for i in 0..n {
        write_png(&b.join(format!("{i:03}.png")), 1, 1, png::ColorType::Rgb, &[i as u8, 1, 1]);
    }
    write_png(&a.join("z.PNG"), 1, 1, png::ColorType::Rgb, &[201, 0, 0]);
    write_png(&a.join("m.png"), 1, 1, png::ColorType::Rgb, &[200, 0, 0]);
    fs::write(a.join(".hidden.png"), "x").unwrap();
    fs::write(a.join("notes.txt"), "x").unwrap();
    fs::create_dir(a.join("deeper.png")).unwrap();
    fs::write(dir.path().join("README"), "x").unwrap();
    class(".cache");
    dir
}

#[test]
fn classes_and_files_are_sorted_and_the_rest_is_counted() {
    let dir = folder(3);
    let found = ImageFolder::scan(dir.path()).unwrap();
    assert_eq!((found.len(), found.class_names(), found.skipped()), (5, &["a".into(), "b".into()][..], 5));
    let set = found.load().unwrap();
    assert_eq!(set.labels(), [0, 0, 1, 1, 1]);
    assert_eq!((0..5).map(|i| set.image(i).2[0]).collect::<Vec<_>>(), [200, 201, 0, 1, 2]);
    assert_eq!(set.name(), dir.path().file_name().unwrap().to_str().unwrap());
}

#[test]
fn splits_and_limits_before_decoding_agree_with_those_after() {
    let dir = folder(20);
    let found = ImageFolder::scan(dir.path()).unwrap();
    let whole = found.load().unwrap();
    let (before, _) = found.split(Split::Count(11), 9).unwrap();
    let (after, validation) = whole.split(Split::Count(11), 9).unwrap();
    let before = before.load().unwrap();
    assert_eq!((before.len(), validation.len()), (11, 11));
    assert!((0..11).all(|i| before.image(i) == after.image(i) && before.label(i) == after.label(i)));
    assert_eq!(validation.class_counts(), [1, 10]);
    assert_eq!(found.take(6).unwrap().load().unwrap().labels(), whole.take(6).unwrap().labels());
    assert_error(found.take(0), &["a limit of at least 1"]);
    assert_error(found.split(Split::Count(22), 9), &["1 to 21 of 22 images", "got 22"]);
}

#[test]
fn bad_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let scan = |path: PathBuf| ImageFolder::scan(path);
    assert_error(scan(dir.path().join("nowhere")), &["nowhere", "one folder of images per class", "nothing there"]);
    fs::write(dir.path().join("a.jpg"), "x").unwrap();
    assert_error(scan(dir.path().join("a.jpg")), &["a.jpg", "got a file"]);
    assert_error(scan(dir.path().into()), &["no folder (1 files)", "sort the images into folders"]);
    fs::create_dir(dir.path().join("empty_class")).unwrap();
    fs::write(dir.path().join("empty_class/notes.txt"), "x").unwrap();
    assert_error(scan(dir.path().into()), &["empty_class", "at least one .jpg, .jpeg or .png", "got none"]);
}

#[test]
fn the_first_bad_file_is_named() {
    let dir = folder(9);
    fs::write(dir.path().join("b/004.png"), "not a picture").unwrap();
    fs::write(dir.path().join("b/007.png"), "neither").unwrap();
    let found = ImageFolder::scan(dir.path()).unwrap();
    assert_error(found.load(), &["004.png", "a JPEG or PNG", "starts like neither", "replace the file"]);
    fs::remove_file(dir.path().join("b/004.png")).unwrap();
    assert_error(found.load(), &["004.png", "could not read"]);
}

#[test]
fn damaged_pictures_are_refused() {
    let jpeg = photo();
    let (h, w, pixels) = decode("whole.jpg", &jpeg).unwrap();
    assert_eq!(pixels.len(), h * w * 3);
    for keep in [3, 100, jpeg.len() / 2, jpeg.len() - 50] {
        assert_error(decode("cut.jpg", &jpeg[..keep]), &["cut.jpg", "a JPEG that can be decoded", "replace the file"]);
    }
    assert_error(decode("zero.jpg", &[]), &["zero.jpg", "an empty file"]);
    assert_error(decode("text.jpg", b"hello"), &["text.jpg", "starts like neither"]);
    assert_error(decode("cmyk.jpg", CMYK_JPEG), &["cmyk.jpg", "a CMYK JPEG: convert it to RGB"]);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    write_png(&path, 16, 16, png::ColorType::Rgb, &crate::common::random_bytes(768, 1));
    let bytes = fs::read(&path).unwrap();
    assert_error(decode("cut.png", &bytes[..bytes.len() / 2]), &["cut.png", "a PNG that can be decoded"]);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 0x40;
    assert_error(decode("flipped.png", &flipped), &["flipped.png", "a PNG that can be decoded"]);
    assert_error(decode("head.png", &bytes[..10]), &["head.png", "a PNG that can be decoded"]);
}

#[test]
fn a_jpeg_under_another_ending_is_still_a_jpeg() {
    assert_eq!(decode("photo.png", &photo()).unwrap(), decode("photo.jpg", &photo()).unwrap());
}

#[test]
fn grey_jpeg_becomes_rgb() {
    let (h, w, pixels) = decode("grey.jpg", GREY_JPEG).unwrap();
    assert_eq!((h, w), (8, 16));
    for (i, pixel) in pixels.chunks(3).enumerate() {
        assert!(pixel[0] == pixel[1] && pixel[1] == pixel[2], "pixel {i} is {pixel:?}");
        let want = 16 * (i % 16) as i32;
        assert!((i32::from(pixel[0]) - want).abs() <= 4, "pixel {i} is {pixel:?}, not about {want}");
    }
}

#[test]
fn every_kind_of_png_becomes_rgb8() {
    use png::{BitDepth, ColorType};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let cases: [(ColorType, BitDepth, &[u8], [u8; 6]); 8] = [
        (ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        (ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 0, 4, 5, 6, 255], [1, 2, 3, 4, 5, 6]),
        (ColorType::Grayscale, BitDepth::Eight, &[7, 9], [7, 7, 7, 9, 9, 9]),
        (ColorType::GrayscaleAlpha, BitDepth::Eight, &[7, 0, 9, 255], [7, 7, 7, 9, 9, 9]),
        (ColorType::Grayscale, BitDepth::One, &[0b0100_0000], [0, 0, 0, 255, 255, 255]),
        (ColorType::Grayscale, BitDepth::Sixteen, &[7, 200, 9, 100], [7, 7, 7, 9, 9, 9]),
        (ColorType::Rgb, BitDepth::Sixteen, &[1, 255, 2, 0, 3, 9, 4, 0, 5, 0, 6, 0], [1, 2, 3, 4, 5, 6]),
        (ColorType::Indexed, BitDepth::Eight, &[1, 0], [40, 50, 60, 10, 20, 30]),
    ];
    for (color, depth, data, want) in cases {
        write_png_deep(&path, 2, 1, color, depth, data);
        assert_eq!(decode_file(&path).unwrap(), (1, 2, want.to_vec()), "{color:?} {depth:?}");
    }
}
