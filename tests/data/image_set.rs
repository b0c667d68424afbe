//! In-memory sets, subsets, splits, and the synthetic images.

use crate::assert_error;
use warpsmith::data::Split;
use warpsmith::data::image_folder::ImageFolder;
use warpsmith::data::{ImageSet, synthetic};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// `labels.len()` images of 2x1 pixels; all pixels of image `i` are `i`.
fn numbered(labels: &[i32]) -> ImageSet {
    let pixels = (0..labels.len()).flat_map(|i| [i as u8; 6]).collect();
    ImageSet::from_arrays("numbered", pixels, [labels.len(), 2, 1, 3], labels, &NAMES).unwrap()
}

/// The numbers of the images of a set made by `numbered`.
fn numbers(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).map(|i| set.image(i).2[0]).collect()
}

#[test]
fn arrays_come_back() {
    let set = numbered(&[2, 0, 1]);
    assert_eq!((set.name(), set.len(), set.classes(), set.uniform_size()), ("numbered", 3, 3, Some((2, 1))));
    assert_eq!(set.image(1), (2, 1, &[1u8; 6][..]));
    assert_eq!(set.labels(), [2, 0, 1]);
    assert_eq!(set.labels_of(&[2, 2, 0]).unwrap(), [1, 1, 2]);
    let mut batch = [9; 12];
    set.copy_batch(&[2, 0], &mut batch).unwrap();
    assert_eq!(batch, [2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn bad_arrays_are_refused() {
    let make = |pixels: usize, shape, labels: &[i32], names: &[&str]| {
        ImageSet::from_arrays("bad", vec![0; pixels], shape, labels, names)
    };
    assert_error(make(8, [2, 2, 2, 1], &[0, 0], &NAMES), &["[n, h, w, 3]", "[2, 2, 2, 1]", "grey"]);
    assert_error(make(0, [0, 2, 2, 3], &[], &NAMES), &["positive extents", "[0, 2, 2, 3]"]);
    assert_error(make(23, [2, 2, 2, 3], &[0, 0], &NAMES), &["product of [2, 2, 2, 3]", "got 23"]);
    assert_error(make(0, [usize::MAX, 2, 2, 3], &[], &NAMES), &["the product of", "got 0"]);
    assert_error(make(24, [2, 2, 2, 3], &[0], &NAMES), &["expected 2 labels, got 1"]);
    assert_error(make(24, [2, 2, 2, 3], &[0, 3], &NAMES), &["labels from 0 to 2", "3 at position 1"]);
    assert_error(make(24, [2, 2, 2, 3], &[-1, 0], &NAMES), &["labels from 0 to 2", "-1 at position 0"]);
    assert_error(make(24, [2, 2, 2, 3], &[0, 0], &[]), &["at least one class name"]);
}

#[test]
fn bad_indices_are_refused() {
    let set = numbered(&[0, 1, 2]);
    assert_error(set.subset(&[0, 3]), &["subset", "indices below 3, got 3", "`numbered` has 3 images"]);
    assert_error(set.subset(&[]), &["at least one index"]);
    assert_error(set.labels_of(&[7]), &["labels_of", "got 7"]);
    assert_error(set.copy_batch(&[7], &mut [0; 6]), &["copy_batch", "got 7"]);
    assert_error(set.copy_batch(&[0], &mut [0; 5]), &["6 elements in `out`, got 5"]);
    assert_error(set.slice(2..4), &["within 0..3", "2..4"]);
    assert_error(set.slice(1..1), &["not empty", "1..1"]);
    assert_error(set.take(0), &["a limit of at least 1"]);
}

#[test]
fn subsets_of_subsets_index_the_subset() {
    let set = numbered(&[0, 1, 2, 0, 1]);
    let subset = set.subset(&[4, 2, 0, 0]).unwrap();
    assert_eq!((numbers(&subset), subset.labels()), (vec![4, 2, 0, 0], vec![1, 2, 0, 0]));
    let again = subset.slice(1..3).unwrap().renamed("again");
    assert_eq!((again.name(), numbers(&again), again.labels()), ("again", vec![2, 0], vec![2, 0]));
}

#[test]
fn take_is_balanced_and_keeps_order() {
    let set = numbered(&[0, 0, 0, 0, 1, 1, 1, 2]);
    assert_eq!(numbers(&set.take(3).unwrap()), [0, 4, 7]);
    assert_eq!(set.take(5).unwrap().class_counts(), [2, 2, 1]);
    assert_eq!(set.take(7).unwrap().class_counts(), [3, 3, 1]);
    assert_eq!(numbers(&set.take(100).unwrap()), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn splits_partition_and_share_the_classes() {
    let labels: Vec<i32> = (0..100)
        .map(|i| {
            if i < 50 {
                0
            } else if i < 80 {
                1
            } else {
                2
            }
        })
        .collect();
    let set = numbered(&labels);
    let (train, validation) = set.split(Split::Fraction(0.1), 5).unwrap();
    assert_eq!((train.class_counts(), validation.class_counts()), (vec![45, 27, 18], vec![5, 3, 2]));
    let mut all = [numbers(&train), numbers(&validation)].concat();
    assert_ne!(all[..90], (0..90).collect::<Vec<u8>>(), "the training part is in data order");
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<u8>>());

    let (same, _) = set.split(Split::Count(10), 5).unwrap();
    assert_eq!(numbers(&same), numbers(&train));
    let (other, _) = set.split(Split::Count(10), 6).unwrap();
    assert_ne!(numbers(&other), numbers(&train));
    // 7 of 100 do not divide by the classes: shares 3.5, 2.1, 1.4 are rounded up or down.
    let counts = set.split(Split::Count(7), 5).unwrap().1.class_counts();
    assert!((3..=4).contains(&counts[0]) && (2..=3).contains(&counts[1]) && (1..=2).contains(&counts[2]), "{counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 7);
}

#[test]
fn bad_splits_are_refused() {
    let set = numbered(&[0, 1, 2]);
    for fraction in [0.0, 1.0, -0.5, f64::NAN, f64::INFINITY] {
        assert_error(set.split(Split::Fraction(fraction), 0), &["between 0 and 1", &fraction.to_string()]);
    }
    assert_error(set.split(Split::Fraction(0.01), 0), &["1 to 2 of 3 images", "got 0"]);
    assert_error(set.split(Split::Count(3), 0), &["1 to 2 of 3 images", "got 3"]);
}

#[test]
fn tf_flowers_splits_as_documented() {
    let labels: Vec<i32> = [633, 898, 641, 699, 799].iter().zip(0..).flat_map(|(&n, label)| vec![label; n]).collect();
    let names = ["daisy", "dandelion", "roses", "sunflowers", "tulips"];
    let set = ImageSet::from_arrays("flowers", vec![0; 3670 * 3], [3670, 1, 1, 3], &labels, &names).unwrap();
    let (train, validation) = set.split(Split::Fraction(0.1), 42).unwrap();
    assert_eq!((train.len(), validation.len()), (3303, 367));
}

#[test]
fn synthetic_images_are_seeded_and_balanced() {
    let set = synthetic::images(30, 10, 8, 6, 1).unwrap();
    assert_eq!((set.len(), set.uniform_size(), set.class_counts()), (30, Some((8, 6)), vec![3; 10]));
    let same = synthetic::images(30, 10, 8, 6, 1).unwrap();
    let other = synthetic::images(30, 10, 8, 6, 2).unwrap();
    assert!((0..30).all(|i| set.image(i) == same.image(i)));
    assert!((0..30).all(|i| set.image(i).2 != other.image(i).2));
    assert_error(synthetic::images(3, 10, 8, 8, 1), &["synthetic", "3 images, 10 classes"]);
    assert_error(synthetic::images(3, 1, 0, 8, 1), &["h 0"]);
}

/// A classifier that only compares mean colours must already beat chance by far.
#[test]
fn synthetic_classes_can_be_learnt() {
    let mean = |set: &ImageSet, i: usize| {
        let pixels = set.image(i).2;
        [0, 1, 2].map(|c| pixels.iter().skip(c).step_by(3).map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64)
    };
    let set = synthetic::images(400, 4, 16, 16, 3).unwrap();
    let mut centres = [[0.0; 3]; 4];
    for i in 0..200 {
        let colour = mean(&set, i);
        (0..3).for_each(|c| centres[i % 4][c] += colour[c] / 50.0);
    }
    let right = (200..400).filter(|&i| {
        let colour = mean(&set, i);
        let distance = |class: &usize| (0..3).map(|c| (centres[*class][c] - colour[c]).powi(2)).sum::<f64>();
        (0..4usize).min_by(|a, b| distance(a).total_cmp(&distance(b))) == Some(i % 4)
    });
    let right = right.count();
    assert!(right > 150, "{right} of 200");
}

#[test]
fn folders_of_one_size_and_of_many() {
    let dir = tempfile::tempdir().unwrap();
    let class = dir.path().join("only");
    std::fs::create_dir(&class).unwrap();
    crate::image_folder::write_png(&class.join("a.png"), 4, 3, png::ColorType::Rgb, &[7; 36]);
    crate::image_folder::write_png(&class.join("b.png"), 4, 3, png::ColorType::Rgb, &[8; 36]);
    let set = ImageFolder::scan(dir.path()).unwrap().load().unwrap();
    assert_eq!(set.uniform_size(), Some((3, 4)));
    let mut batch = vec![0; 72];
    set.copy_batch(&[1, 0], &mut batch).unwrap();
    assert_eq!((batch[0], batch[71]), (8, 7));

    crate::image_folder::write_png(&class.join("c.png"), 2, 2, png::ColorType::Rgb, &[9; 12]);
    let set = ImageFolder::scan(dir.path()).unwrap().load().unwrap();
    assert_eq!(set.uniform_size(), None);
    assert_error(set.copy_batch(&[0], &mut batch), &["images of one size", "resize or crop"]);
    assert_eq!(set.slice(0..2).unwrap().uniform_size(), Some((3, 4)), "a subset of one size");
}

#[test]
fn a_checksum_tells_order_labels_sizes_and_pixels() {
    let set = |h: usize, pixels: &[u8], labels: &[i32]| {
        ImageSet::from_arrays("set", pixels.to_vec(), [2, h, 2 / h, 3], labels, &NAMES).unwrap()
    };
    let (first, second) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
    let original = set(1, &[first, second].concat(), &[0, 1]).checksum();
    assert_eq!(set(1, &[first, second].concat(), &[0, 1]).checksum(), original);
    assert_ne!(set(1, &[second, first].concat(), &[1, 0]).checksum(), original, "order");
    assert_ne!(set(1, &[first, second].concat(), &[1, 0]).checksum(), original, "labels");
    assert_ne!(set(2, &[first, second].concat(), &[0, 1]).checksum(), original, "size");
    assert_ne!(set(1, &[first, first].concat(), &[0, 1]).checksum(), original, "pixels");
}
