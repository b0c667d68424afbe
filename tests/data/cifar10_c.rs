//! CIFAR-10-C folders, whole, partial and damaged.

use crate::assert_error;
use std::fs;
use std::path::Path;
use warpsmith::data::Cifar10C;
use warpsmith::data::cifar10_c::{BENCHMARK, EXTRA, canonical_name, corruptions, parse_config};
use warpsmith::data::npy::encode_u8;

/// Images per severity in these tests.
const N: usize = 2;
const IMAGE: usize = 32 * 32 * 3;

/// Images `0 .. 5 N`; all pixels of image `i` are `base + i`.
fn write_images(dir: &Path, name: &str, base: usize) {
    let pixels: Vec<u8> = (0..5 * N).flat_map(|i| vec![(base + i) as u8; IMAGE]).collect();
    fs::write(dir.join(format!("{name}.npy")), encode_u8(&[5 * N, 32, 32, 3], &pixels).unwrap()).unwrap();
}

fn write_labels(dir: &Path, labels: &[u8]) {
    fs::write(dir.join("labels.npy"), encode_u8(&[labels.len()], labels).unwrap()).unwrap();
}

/// A folder with three corruptions, two of them under the names of TensorFlow Datasets.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_labels(dir.path(), &[4, 7].repeat(5));
    write_images(dir.path(), "saturate", 0);
    write_images(dir.path(), "frosted_glass_blur", 100);
    write_images(dir.path(), "elastic", 200);
    dir
}

#[test]
fn names() {
    assert_eq!((BENCHMARK.len(), EXTRA.len(), corruptions().count()), (15, 4, 19));
    assert_eq!(canonical_name("saturate").unwrap(), "saturate");
    assert_eq!(canonical_name("frosted_glass_blur").unwrap(), "glass_blur");
    assert_eq!(canonical_name("elastic").unwrap(), "elastic_transform");
    assert_eq!(parse_config("saturate_5").unwrap(), ("saturate", 5));
    assert_eq!(parse_config("frosted_glass_blur_1").unwrap(), ("glass_blur", 1));
    assert_error(canonical_name("rain"), &["a name of CIFAR-10-C, got rain", "gaussian_noise, shot_noise"]);
    for config in ["saturate", "saturate_0", "saturate_6", "saturate_x", "5"] {
        assert_error(parse_config(config), &["NAME_S", config, "saturate_5"]);
    }
    assert_error(parse_config("rain_3"), &["got rain"]);
}

#[test]
fn severities_are_slices() {
    let dir = folder();
    let data = Cifar10C::open(dir.path()).unwrap();
    assert_eq!(data.present(), ["glass_blur", "elastic_transform", "saturate"]);
    assert_eq!(data.missing().len(), 16);
    assert!(data.missing().contains(&"fog") && !data.missing().contains(&"saturate"));
    assert_eq!(data.images_per_severity(), N);
    for (name, base) in [("saturate", 0), ("glass_blur", 100), ("elastic", 200)] {
        for severity in 1..=5 {
            let set = data.set(name, severity).unwrap();
            assert_eq!((set.len(), set.labels()), (N, vec![4, 7]));
            for i in 0..N {
                let value = (base + (severity - 1) * N + i) as u8;
                assert_eq!(set.image(i), (32, 32, &vec![value; IMAGE][..]));
            }
        }
    }
    assert_eq!(data.set("elastic", 3).unwrap().name(), "elastic_transform_3");
    assert_error(data.set("saturate", 0), &["a severity from 1 to 5", "got 0"]);
    assert_error(data.set("saturate", 6), &["a severity from 1 to 5", "got 6"]);
    assert_error(data.set("fog", 1), &["in the folder: glass_blur, elastic_transform, saturate", "got fog"]);
    assert_error(data.set("rain", 1), &["got rain"]);
}

#[test]
fn the_parent_folder_will_do() {
    let parent = tempfile::tempdir().unwrap();
    let inner = parent.path().join("CIFAR-10-C");
    fs::create_dir(&inner).unwrap();
    write_labels(&inner, &[0; 5 * N]);
    write_images(&inner, "fog", 0);
    assert_eq!(Cifar10C::open(parent.path()).unwrap().present(), ["fog"]);
}

#[test]
fn sets_outlive_the_folder_object() {
    let dir = folder();
    let set = Cifar10C::open(dir.path()).unwrap().set("saturate", 5).unwrap();
    assert_eq!(set.image(1).2[0], 9);
}

#[test]
fn bad_folders_are_refused() {
    let dir = folder();
    let open = || Cifar10C::open(dir.path());
    write_labels(dir.path(), &[0; 9]);
    assert_error(open(), &["labels.npy", "multiple of 5", "shape [9]"]);
    write_labels(dir.path(), &[0, 1, 2, 3, 10, 0, 0, 0, 0, 0]);
    assert_error(open(), &["labels.npy", "labels from 0 to 9", "10 at position 4"]);
    write_labels(dir.path(), &[0; 5]);
    assert_error(open(), &["frosted_glass_blur.npy", "shape [5, 32, 32, 3]", "got shape [10, 32, 32, 3]"]);
    fs::write(dir.path().join("labels.npy"), encode_u8(&[2, 5], &[0; 10]).unwrap()).unwrap();
    assert_error(open(), &["labels.npy", "shape [n]", "shape [2, 5]"]);
    write_labels(dir.path(), &[0; 10]);
    let file = dir.path().join("saturate.npy");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 7]).unwrap();
    assert_error(open(), &["saturate.npy", "truncated"]);
    fs::remove_file(dir.path().join("labels.npy")).unwrap();
    assert_error(open(), &["expected labels.npy", "no such file", "CIFAR-10-C.tar"]);

    let bare = tempfile::tempdir().unwrap();
    write_labels(bare.path(), &[0; 10]);
    assert_error(Cifar10C::open(bare.path()), &["at least one corruption", "none of the 19"]);
    assert_error(Cifar10C::open(bare.path().join("nowhere")), &["nowhere", "nothing there"]);
}
