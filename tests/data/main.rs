//! Data sets: loaders on good and bad files, shuffles, prefetch, the bundled images.
#![cfg(feature = "train")]

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod bundled;
mod cifar10;
mod cifar10_c;
mod image_folder;
mod image_set;
mod npy;
mod prefetch;

/// Fails unless `result` is an error whose text holds all of `parts`.
#[track_caller]
fn assert_error<T: std::fmt::Debug>(result: warpsmith::Result<T>, parts: &[&str]) {
    let text = result.expect_err("an error was expected").to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
