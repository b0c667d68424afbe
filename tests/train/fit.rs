//! The training loop: it learns, it resumes bit by bit, and its callbacks do what Keras' do.

use super::tiny::{STEPS, Setup, Trained, new_session, resumed, train};
use std::rc::Rc;
use warpsmith::Error;
use warpsmith::nn::KerasVersion;
use warpsmith::train::{EarlyStopping, Monitor, ReduceLrOnPlateau};

fn whole(setup: &Setup, threads: usize) -> Trained {
    let folder = tempfile::tempdir().unwrap();
    train(&mut new_session(folder.path(), threads), "run", setup).unwrap()
}

/// Everything that can be in a checkpoint.
fn with_all_callbacks() -> Setup {
    Setup {
        swa: Some((2, 3)),
        reduce_lr: Some(("val_loss", ReduceLrOnPlateau::new(Monitor::Min, 0.5, 1).unwrap())),
        early_stopping: Some(("val_accuracy", EarlyStopping::new(Monitor::Max, 2, true))),
        ..Default::default()
    }
}

fn assert_same(what: &str, got: &Trained, want: &Trained) {
    assert_eq!(got.record, want.record, "{what}");
    assert_eq!(got.values, want.values, "{what}: parameters");
    assert_eq!(got.stats, want.stats, "{what}: moving statistics");
}

#[test]
fn the_loss_falls_and_the_record_is_complete() {
    let trained = whole(&Setup { epochs: 6, ..Default::default() }, 2);
    let record = &trained.record;
    assert_eq!((record.epochs, record.steps, trained.steps_seen), (6, 6 * STEPS, 6 * STEPS));
    assert!(record.train_loss[5] < 0.7 * record.train_loss[0], "{:?}", record.train_loss);
    assert!(record.test_accuracy.unwrap() > 0.6, "{record:?}");
    assert!(record.batch_norm_statistics.contains("only 36 steps were taken"), "{}", record.batch_norm_statistics);
    let last = &record.history[5];
    assert_eq!((last.epoch, last.steps, last.learning_rate), (6, 36, 0.02));
    assert!(last.train_accuracy.is_some() && last.val_accuracy.is_some() && last.val_loss.is_some());
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let setup = with_all_callbacks();
    assert_same("threads", &whole(&setup, 1), &whole(&setup, 2));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_after_any_step() {
    let setup = with_all_callbacks();
    let want = whole(&setup, 2);
    // In an epoch, at its end, and at the very end of training, before the last validation.
    for step in [1, 5, STEPS, STEPS + 2, 3 * STEPS] {
        let folder = tempfile::tempdir().unwrap();
        let interrupted = Setup { stop_after_steps: Some(step), ..setup.clone() };
        let error = train(&mut new_session(folder.path(), 2), "run", &interrupted).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        assert!(error.to_string().contains("--resume"), "{error}");
        let got = train(&mut resumed(folder.path(), 1), "run", &setup).unwrap();
        assert_same(&format!("interrupted after step {step}"), &got, &want);
        assert_eq!(got.steps_seen, want.steps_seen - step);
    }
}

#[test]
fn an_interrupted_validation_is_done_again() {
    let setup = with_all_callbacks();
    let want = whole(&setup, 2);
    for validation in [1, 3] {
        let folder = tempfile::tempdir().unwrap();
        let interrupted = Setup { stop_in_validation: Some(validation), ..setup.clone() };
        let error = train(&mut new_session(folder.path(), 2), "run", &interrupted).unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error}");
        let got = train(&mut resumed(folder.path(), 2), "run", &setup).unwrap();
        assert_same(&format!("interrupted in validation {validation}"), &got, &want);
    }
}

#[test]
fn a_session_can_also_go_on_without_being_reopened() {
    let setup = Setup::default();
    let want = whole(&setup, 2);
    let folder = tempfile::tempdir().unwrap();
    let mut session = new_session(folder.path(), 2);
    train(&mut session, "run", &Setup { stop_after_steps: Some(8), ..setup.clone() }).unwrap_err();
    assert_same("same session", &train(&mut session, "run", &setup).unwrap(), &want);
}

#[test]
fn a_run_that_stopped_early_does_not_train_on_when_its_scoring_was_interrupted() {
    let setup = Setup {
        epochs: 9,
        script: Some(Rc::from([0.5, 0.4, 0.3])),
        early_stopping: Some(("val_accuracy", EarlyStopping::new(Monitor::Max, 2, true))),
        ..Default::default()
    };
    let want = whole(&setup, 2);
    assert_eq!(want.record.epochs, 3);
    let folder = tempfile::tempdir().unwrap();
    let interrupted = Setup { stop_in_finish: true, ..setup.clone() };
    train(&mut new_session(folder.path(), 2), "run", &interrupted).unwrap_err();
    let got = train(&mut resumed(folder.path(), 2), "run", &setup).unwrap();
    assert_eq!(got.steps_seen, 0);
    assert_same("interrupted while scored", &got, &want);
}

/// The last epoch's validated weights are scored as they are; a resumed run prepares them again.
#[test]
fn a_run_that_is_resumed_before_its_scoring_scores_the_same_weights() {
    let stopping = |monitor, patience| {
        Some((
            if monitor == Monitor::Min { "val_loss" } else { "val_accuracy" },
            EarlyStopping::new(monitor, patience, true),
        ))
    };
    let setups = [
        ("plain", Setup::default()),
        ("moving averages", Setup { recompute_short: false, ..Setup::default() }),
        ("average", Setup { swa: Some((3, 1)), ..Setup::default() }),
        (
            "Keras 2, average, early stopping",
            Setup {
                keras: KerasVersion::V2,
                swa: Some((3, 1)),
                early_stopping: stopping(Monitor::Min, 9),
                ..Setup::default()
            },
        ),
        (
            "Keras 3, average, early stopping",
            Setup { swa: Some((3, 1)), early_stopping: stopping(Monitor::Max, 9), ..Setup::default() },
        ),
        (
            "average, an end inside an epoch",
            Setup { swa: Some((3, 1)), max_steps: Some(STEPS + 2), ..Setup::default() },
        ),
        ("no validation", Setup { swa: Some((3, 1)), validates: false, ..Setup::default() }),
    ];
    for (what, setup) in setups {
        let want = whole(&setup, 2);
        let folder = tempfile::tempdir().unwrap();
        let interrupted = Setup { stop_in_finish: true, ..setup.clone() };
        train(&mut new_session(folder.path(), 2), "run", &interrupted).unwrap_err();
        let got = train(&mut resumed(folder.path(), 1), "run", &setup).unwrap();
        assert_eq!(got.steps_seen, 0, "{what}");
        assert_same(what, &got, &want);
    }
}

#[test]
fn a_finished_run_is_not_trained_again_and_its_weights_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = new_session(folder.path(), 2);
    let first = train(&mut session, "first", &Setup::default()).unwrap();
    // Between the phases: the first run is stored, the second has not begun, or has taken one step.
    let interrupted = Setup { epochs: 2, stop_after_steps: Some(1), ..Default::default() };
    train(&mut session, "second", &interrupted).unwrap_err();

    let mut session = resumed(folder.path(), 2);
    assert_eq!(session.finished().iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["first"]);
    let again = train(&mut session, "first", &Setup::default()).unwrap();
    assert_eq!(again.steps_seen, 0);
    assert_same("stored run", &again, &first);
    let second = train(&mut session, "second", &Setup { epochs: 2, ..Default::default() }).unwrap();
    assert_eq!(second.steps_seen, 2 * STEPS - 1);
    assert_eq!(second.record.name, "second");
}

#[test]
fn max_steps_ends_a_run_within_an_epoch() {
    let trained = whole(&Setup { max_steps: Some(STEPS + 2), ..Default::default() }, 2);
    assert_eq!((trained.record.epochs, trained.record.steps), (2, STEPS + 2));
    // One step beyond the end of the first epoch is a short second epoch, the end itself is not.
    let trained = whole(&Setup { max_steps: Some(STEPS), ..Default::default() }, 2);
    assert_eq!((trained.record.epochs, trained.record.steps), (1, STEPS));
}

#[test]
fn a_nan_loss_names_run_epoch_and_step_and_keeps_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let broken = Setup { nan_from: Some(STEPS + 1), ..Default::default() };
    let error = train(&mut new_session(folder.path(), 2), "run", &broken).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }));
    let text = error.to_string();
    for part in ["run `run`", "NaN", "epoch 2", "step 2", "learning rate"] {
        assert!(text.contains(part), "{text}");
    }
    // The checkpoint is that of the first epoch's end: from there the run can be finished.
    let got = train(&mut resumed(folder.path(), 2), "run", &Setup::default()).unwrap();
    assert_eq!(got.steps_seen, 2 * STEPS);
    assert_same("after NaN", &got, &whole(&Setup::default(), 2));
}

#[test]
fn early_stopping_restores_by_the_rules_of_either_keras() {
    let setup = |keras, epochs| Setup {
        epochs,
        keras,
        recompute_short: false,
        script: Some(Rc::from([0.3, 0.6, 0.5, 0.4])),
        early_stopping: Some(("val_accuracy", EarlyStopping::new(Monitor::Max, 2, true))),
        ..Default::default()
    };
    // Stopped by the callback after epoch 4: both restore epoch 2.
    for keras in [KerasVersion::V2, KerasVersion::V3] {
        let trained = whole(&setup(keras, 9), 2);
        assert_eq!(trained.record.epochs, 4, "{keras:?}");
        assert_eq!(trained.values, trained.validated[1], "{keras:?}");
        assert_eq!(trained.record.batch_norm_statistics, "those of the best epoch");
    }
    // Ended by the number of epochs: only Keras 3 does.
    let trained = whole(&setup(KerasVersion::V2, 3), 2);
    assert_eq!(trained.values, trained.validated[2]);
    let trained = whole(&setup(KerasVersion::V3, 3), 2);
    assert_eq!(trained.values, trained.validated[1]);
}

#[test]
fn swa_is_evaluated_and_kept_but_never_trained_on() {
    // Snapshots at the ends of all epochs but the first.
    let setup = Setup { swa: Some((2 * STEPS - 1, STEPS)), recompute_short: false, ..Default::default() };
    let averaged = whole(&setup, 2);
    let unused = whole(&Setup { assign_swa: false, ..setup.clone() }, 2);
    let plain = whole(&Setup { swa: None, ..setup.clone() }, 2);
    assert_same("unused average", &unused, &plain);
    assert_eq!(averaged.record.train_loss, plain.record.train_loss, "live weights must not change");
    // Before the first snapshot there is no average to look at.
    assert_eq!(averaged.validated[0], plain.validated[0]);
    assert_eq!(averaged.validated[1], plain.validated[1]);
    let mean: Vec<f32> = plain.validated[1].iter().zip(&plain.validated[2]).map(|(a, b)| (a + b) / 2.0).collect();
    for (got, want) in averaged.values.iter().zip(&mean) {
        assert!((got - want).abs() <= 1e-6 * want.abs().max(1e-3), "{got} {want}");
    }
    assert_eq!(averaged.values, averaged.validated[2]);
    assert!(averaged.record.batch_norm_statistics.contains("the weights are averages"));
    assert_eq!(plain.record.batch_norm_statistics, "moving averages");
}

#[test]
fn the_learning_rate_falls_on_a_plateau() {
    let plateau = ReduceLrOnPlateau::new(Monitor::Min, 0.1, 1).unwrap();
    let setup =
        Setup { script: Some(Rc::from([0.5, 0.4, 0.6])), reduce_lr: Some(("val_loss", plateau)), ..Default::default() };
    let rates: Vec<f32> = whole(&setup, 2).record.history.iter().map(|epoch| epoch.learning_rate).collect();
    assert_eq!(rates, [0.02, 0.02, (f64::from(0.02f32) * 0.1) as f32]);
}

#[test]
fn statistics_are_recomputed_for_short_runs_only_where_wanted() {
    let kept = whole(&Setup { recompute_short: false, ..Default::default() }, 2);
    let recomputed = whole(&Setup::default(), 2);
    assert_eq!(kept.values, recomputed.values, "weights must not depend on it");
    assert_ne!(kept.stats, recomputed.stats);
    assert_eq!(kept.record.batch_norm_statistics, "moving averages");
}

#[test]
fn monitoring_what_is_not_measured_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup { validates: false, ..with_all_callbacks() };
    let text = train(&mut new_session(folder.path(), 2), "run", &setup).unwrap_err().to_string();
    assert!(text.contains("`val_accuracy`") && text.contains("validation data"), "{text}");
}
