//! Output folders and checkpoints: what is refused, and in which words.

use super::tiny::{Setup, new_session, resumed, train};
use std::fs;
use warpsmith::nn::checkpoint::write_tensors;
use warpsmith::train::Session;
use warpsmith::{Device, Error};

fn resume_error(folder: &std::path::Path, procedure: &str) -> String {
    match Session::resume(folder, &Device::cpu().unwrap(), procedure) {
        Ok(_) => panic!("resumed"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_folder_without_a_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = resume_error(folder.path(), "tiny");
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    assert!(text.contains("a folder with checkpoint.safetensors"), "{text}");
}

#[test]
fn another_procedure_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    new_session(folder.path(), 2);
    let text = resume_error(folder.path(), "fixres");
    assert!(text.contains("procedure: expected fixres, got tiny"), "{text}");
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let interrupted = Setup { stop_after_steps: Some(3), ..Default::default() };
    train(&mut new_session(folder.path(), 2), "run", &interrupted).unwrap_err();
    let path = folder.path().join("checkpoint.safetensors");
    let bytes = fs::read(&path).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..7], &[]] {
        fs::write(&path, damaged).unwrap();
        let text = resume_error(folder.path(), "tiny");
        assert!(text.contains("checkpoint.safetensors") && text.contains("damaged"), "{text}");
    }
    write_tensors(&path, &[], &[]).unwrap();
    let text = resume_error(folder.path(), "tiny");
    assert!(text.contains("metadata `state`"), "{text}");
    write_tensors(&path, &[], &[("state", "{\"procedure\": 3}".into())]).unwrap();
    let text = resume_error(folder.path(), "tiny");
    assert!(text.contains("the state of a training session"), "{text}");
    // And the whole file is still good.
    fs::write(&path, &bytes).unwrap();
    train(&mut resumed(folder.path(), 2), "run", &Setup::default()).unwrap();
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let interrupted = Setup { stop_after_steps: Some(3), ..Default::default() };
    train(&mut new_session(folder.path(), 2), "run", &interrupted).unwrap_err();
    let wider = Setup { units: 16, ..Default::default() };
    let error = train(&mut resumed(folder.path(), 2), "run", &wider).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }));
    assert!(error.to_string().contains("tensor `params`"), "{error}");
    // A finished run's model too.
    train(&mut resumed(folder.path(), 2), "run", &Setup::default()).unwrap();
    let error = train(&mut resumed(folder.path(), 2), "run", &wider).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("run.safetensors") && text.contains("another model"), "{text}");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let device = Device::cpu().unwrap();
    match Session::create(&file, &device, "tiny", 1, serde_json::json!({})) {
        Ok(_) => panic!("created"),
        Err(error) => assert!(error.to_string().contains(&file.display().to_string()), "{error}"),
    }
}

#[test]
fn other_images_than_those_of_the_start_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let set = |seed| warpsmith::data::synthetic::images(6, 3, 8, 8, seed).unwrap();
    let mut session = new_session(folder.path(), 1);
    session.check_data(&[("training", &set(1)), ("test", &set(2))]).unwrap();
    // Interrupted in its first epoch.
    train(&mut session, "run", &Setup { stop_after_steps: Some(1), ..Default::default() }).unwrap_err();
    let mut session = resumed(folder.path(), 1);
    session.check_data(&[("training", &set(1)), ("test", &set(2))]).unwrap();
    let error = session.check_data(&[("training", &set(1)), ("test", &set(3))]).unwrap_err().to_string();
    assert!(error.contains("test images") && error.contains("checksum"), "{error}");
}

#[test]
fn nothing_temporary_is_left() {
    let folder = tempfile::tempdir().unwrap();
    train(&mut new_session(folder.path(), 2), "run", &Setup::default()).unwrap();
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .chain(fs::read_dir(folder.path().join("models")).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["checkpoint.safetensors", "history.csv", "history.json", "models", "run.safetensors"]);
}
