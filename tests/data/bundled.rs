//! The bundled images: there, balanced, within their size.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use warpsmith::data::cifar10::CLASSES;
use warpsmith::data::{ImageSet, Split, bundled};

#[test]
fn cifar10_is_balanced_and_of_real_images() {
    let data = bundled::cifar10().unwrap();
    assert_eq!((data.train.class_counts(), data.test.class_counts()), (vec![120; 10], vec![30; 10]));
    assert_eq!(data.train.class_names(), CLASSES);
    // A mix-up of planes or record bounds would make copies, flat images, or labels in order.
    let images = |set: &ImageSet| (0..set.len()).map(|i| set.image(i).2.to_vec()).collect::<HashSet<_>>();
    let (train, test) = (images(&data.train), images(&data.test));
    assert_eq!((train.len(), test.len()), (1200, 300));
    assert!(train.is_disjoint(&test));
    let labels = data.train.labels();
    assert!(labels.windows(2).filter(|pair| pair[0] == pair[1]).count() < 200, "the records are sorted by class");
    // Neighbouring pixels of photos are alike: within a channel they differ by a fifth of the contrast or less.
    let (mut near, mut far) = (0.0, 0.0);
    for i in 0..data.train.len() {
        let pixels = data.train.image(i).2;
        for place in (0..32 * 31 * 3).step_by(97) {
            near += (f64::from(pixels[place]) - f64::from(pixels[place + 3])).abs();
            far += (f64::from(pixels[place]) - f64::from(data.train.image((i + 1) % 1200).2[place])).abs();
        }
    }
    assert!(near * 3.0 < far, "{near} {far}");
}

#[test]
fn tf_flowers_are_balanced_and_decode() {
    let found = bundled::tf_flowers().unwrap();
    assert_eq!((found.len(), found.skipped()), (200, 0));
    assert_eq!(found.class_names(), ["daisy", "dandelion", "roses", "sunflowers", "tulips"]);
    let set = found.load().unwrap();
    assert_eq!((set.class_counts(), set.name()), (vec![40; 5], "tf_flowers"));
    let images: HashSet<_> = (0..200).map(|i| set.image(i).2).collect();
    assert_eq!(images.len(), 200);
    assert!((0..200).all(|i| {
        let (h, w, _) = set.image(i);
        (100..=240).contains(&h.min(w))
    }));
    let (train, validation) = found.split(Split::Fraction(0.2), 1).unwrap();
    assert_eq!((train.len(), validation.load().unwrap().class_counts()), (160, vec![8; 5]));
}

fn bytes_under(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| if e.path().is_dir() { bytes_under(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

#[test]
fn all_of_it_is_under_8_mb_and_every_photo_has_its_licence_line() {
    let dir = bundled::dir().unwrap();
    assert!(bytes_under(&dir) < 8_000_000, "{} bytes", bytes_under(&dir));
    let licences = fs::read_to_string(dir.join("LICENSES.md")).unwrap();
    let lines: Vec<&str> = licences.lines().filter(|line| line.ends_with("| CC BY 2.0 |")).collect();
    assert_eq!(lines.len(), 200);
    for (file, line) in bundled::tf_flowers().unwrap().files().iter().zip(lines) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let id = name.split('_').next().unwrap();
        assert!(line.contains(&format!("/{name} | [{id}](")), "{name}: {line}");
    }
}
