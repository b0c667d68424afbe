//! Atomic writes: the old file or the new one, never a part, never a leftover.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use warpsmith::fs::{create_dir, write_atomic};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn replaces_the_old_file_and_leaves_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("history.csv");
    fs::write(&path, "a longer old text").expect("written");
    write_atomic(&path, |file| {
        file.write_all(b"new")?;
        // Until the write is complete a reader sees the old file.
        assert_eq!(fs::read_to_string(&path)?, "a longer old text");
        Ok(())
    })
    .expect("written");
    assert_eq!(fs::read_to_string(&path).expect("readable"), "new");
    assert_eq!(names(folder.path()), ["history.csv"]);
}

#[test]
fn a_failing_writer_leaves_the_old_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("checkpoint.safetensors");
    fs::write(&path, "old").expect("written");
    let error = write_atomic(&path, |file| {
        // More than the buffer holds, so that bytes have reached the temporary file.
        file.write_all(&[7; 100_000])?;
        Err(io::Error::other("disk is full"))
    })
    .expect_err("the writer fails")
    .to_string();
    assert!(error.contains("checkpoint.safetensors: could not write: disk is full"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("readable"), "old");
    assert_eq!(names(folder.path()), ["checkpoint.safetensors"]);
}

#[test]
fn a_panicking_writer_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("report.json");
    let result = std::panic::catch_unwind(|| write_atomic(&path, |_| panic!("writer panics")));
    assert!(result.is_err());
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn two_writers_of_one_path_do_not_mix() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state");
    std::thread::scope(|scope| {
        for byte in [b'a', b'b', b'c', b'd'] {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    write_atomic(path, |file| file.write_all(&[byte; 50_000])).expect("written");
                }
            });
        }
    });
    let bytes = fs::read(&path).expect("readable");
    assert_eq!(bytes.len(), 50_000);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    assert_eq!(names(folder.path()), ["state"]);
}

// A folder's permissions do not stop root, so the unwritable folders here are none: a path below a regular file.
#[test]
fn an_unwritable_folder_is_an_error_that_names_the_path() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("written");
    let below = file.join("report.json");
    let error = write_atomic(&below, |file| file.write_all(b"{}")).expect_err("no folder").to_string();
    assert!(error.contains(&format!("{}: could not write: ", below.display())), "{error}");
    let error = create_dir(file.join("runs")).expect_err("no folder").to_string();
    assert!(error.contains("runs: could not create folder: "), "{error}");
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(fs::read_to_string(&file).expect("readable"), "x");
}

#[test]
fn a_target_that_is_a_folder_leaves_no_temporary_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("taken");
    create_dir(&target).expect("created");
    write_atomic(&target, |file| file.write_all(b"x")).expect_err("a folder cannot be replaced by a file");
    assert_eq!(names(folder.path()), ["taken"]);
}

#[test]
fn a_path_without_a_file_name_is_an_argument_error() {
    let error = write_atomic("/", |_| Ok(())).expect_err("no name").to_string();
    assert!(error.contains("write_atomic: expected a path that ends in a file name, got /"), "{error}");
}

#[test]
fn create_dir_makes_the_folders_above_and_accepts_its_own_work() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("runs/consistency/student");
    create_dir(&path).expect("created");
    create_dir(&path).expect("exists already");
    assert!(path.is_dir());
}
