//! CIFAR-10's binary files, good and bad.

use crate::assert_error;
use std::fs;
use std::path::Path;
use warpsmith::data::cifar10::{self, CLASSES};

/// A record whose red, green and blue planes hold `r`, `g`, `b` plus the position within the plane.
fn record(label: u8, [r, g, b]: [u8; 3]) -> Vec<u8> {
    let plane = |base: u8| (0..1024).map(move |i| base.wrapping_add(i as u8));
    std::iter::once(label).chain(plane(r)).chain(plane(g)).chain(plane(b)).collect()
}

fn write(dir: &Path, name: &str, records: &[Vec<u8>]) {
    fs::write(dir.join(name), records.concat()).unwrap();
}

/// A folder with two training files and a test file.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "data_batch_1.bin", &[record(3, [0, 50, 100]), record(9, [1, 2, 3])]);
    write(dir.path(), "data_batch_4.bin", &[record(0, [4, 5, 6])]);
    write(dir.path(), "test_batch.bin", &[record(1, [7, 8, 9])]);
    dir
}

#[test]
fn planes_become_pixels() {
    let dir = folder();
    let data = cifar10::load(dir.path()).unwrap();
    assert_eq!((data.train.labels(), data.test.labels()), (vec![3, 9, 0], vec![1]));
    assert_eq!((data.train.name(), data.test.name()), ("cifar10-train", "cifar10-test"));
    assert_eq!(data.train.class_names(), CLASSES);
    let (h, w, pixels) = data.train.image(0);
    assert_eq!((h, w), (32, 32));
    // Pixel (row 2, column 5) is number 69 of each plane.
    assert_eq!(pixels[69 * 3..70 * 3], [69, 119, 169]);
    assert_eq!(data.train.image(2).2[..3], [4, 5, 6]);
}

#[test]
fn the_parent_folder_will_do() {
    let parent = tempfile::tempdir().unwrap();
    let inner = parent.path().join("cifar-10-batches-bin");
    fs::create_dir(&inner).unwrap();
    write(&inner, "data_batch_2.bin", &[record(5, [0; 3])]);
    write(&inner, "test_batch.bin", &[record(6, [0; 3])]);
    let names = (0..10).map(|i| format!("name{i}\n")).collect::<String>() + "\n";
    fs::write(inner.join("batches.meta.txt"), names).unwrap();
    for dir in [parent.path(), &inner] {
        let data = cifar10::load(dir).unwrap();
        assert_eq!((data.train.label(0), data.test.label(0)), (5, 6));
        assert_eq!(data.train.class_names()[9], "name9");
    }
}

#[test]
fn truncated_and_oversized_files_are_refused() {
    let dir = folder();
    let file = dir.path().join("data_batch_4.bin");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..3000]).unwrap();
    let parts =
        ["data_batch_4.bin", "multiple of 3073 bytes", "3000 bytes: 0 records and 3000 bytes more", "binary version"];
    assert_error(cifar10::load(dir.path()), &parts);
    fs::write(&file, [&whole[..], &[1, 2]].concat()).unwrap();
    assert_error(cifar10::load(dir.path()), &["data_batch_4.bin", "3075 bytes: 1 records and 2 bytes more"]);
    fs::write(&file, []).unwrap();
    assert_error(cifar10::load(dir.path()), &["data_batch_4.bin", "an empty file"]);
    fs::write(&file, vec![0; 3074 * 4]).unwrap();
    assert_error(cifar10::load(dir.path()), &["data_batch_4.bin", "this looks like CIFAR-100"]);
}

#[test]
fn a_label_out_of_range_names_file_and_record() {
    let dir = folder();
    write(dir.path(), "test_batch.bin", &[record(1, [0; 3]), record(9, [0; 3]), record(10, [0; 3])]);
    let parts = ["test_batch.bin", "a label from 0 to 9 in record 2", "10 at byte 6146", "damaged or not CIFAR-10"];
    assert_error(cifar10::load(dir.path()), &parts);
}

#[test]
fn missing_files_are_named() {
    let dir = folder();
    fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
    assert_error(cifar10::load(dir.path()), &["expected test_batch.bin", "no such file", "cifar-10-binary.tar.gz"]);
    let empty = tempfile::tempdir().unwrap();
    assert_error(cifar10::load(empty.path()), &["data_batch_1.bin to data_batch_5.bin", "no such file"]);
    fs::write(empty.path().join("data_batch_1"), "pickle").unwrap();
    assert_error(cifar10::load(empty.path()), &["the Python version of CIFAR-10", "cifar-10-binary.tar.gz"]);
    assert_error(cifar10::load(empty.path().join("nowhere")), &["nowhere", "nothing there", "check the path"]);
    assert_error(cifar10::load(empty.path().join("data_batch_1")), &["a folder with CIFAR-10", "got a file"]);
}

#[test]
fn a_wrong_names_file_is_refused() {
    let dir = folder();
    fs::write(dir.path().join("batches.meta.txt"), "cat\ndog\n").unwrap();
    assert_error(cifar10::load(dir.path()), &["batches.meta.txt", "10 class names", "2 names", "delete"]);
}
