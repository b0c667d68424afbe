//! The examples as a user meets them: exit codes, messages, and what they leave.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;

/// An example, built in the profile of this test. `cargo test` has built it already, `cargo test --test train` has not.
fn example(name: &str) -> Command {
    static BUILT: Once = Once::new();
    // The test is target/PROFILE/deps/train-HASH, the example target/PROFILE/examples/NAME.
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps").to_path_buf();
    BUILT.call_once(|| {
        let release = profile.ends_with("release").then_some("--release");
        let status = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--examples", "--quiet", "--locked", "--offline"])
            .args(release)
            .arg("--target-dir")
            .arg(profile.parent().expect("PROFILE lies in target"))
            .status();
        assert!(status.expect("cargo runs").success(), "the examples do not build");
    });
    Command::new(profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

fn output(name: &str, flags: &[&str]) -> Output {
    example(name).args(flags).output().unwrap()
}

/// Runs an example that must fail with this exit code, and say all this.
#[track_caller]
fn refused(name: &str, flags: &[&str], code: i32, parts: &[&str]) {
    let output = output(name, flags);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name} {flags:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "{name} {flags:?}: no `{part}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// One step per run on a few images.
const TINY: [&str; 8] = ["--steps", "1", "--batch-size", "4", "--limit-train", "10", "--limit-test", "5"];

#[test]
fn wrong_flags_are_usage_errors() {
    refused("randaugment", &["--batchsize", "3"], 2, &["--batchsize", "--batch-size"]);
    for flag in ["--epochs", "--steps", "--batch-size", "--image-size", "--limit-train", "--limit-test", "--threads"] {
        for value in ["0", "-3", "many"] {
            refused("randaugment", &[flag, value], 2, &[flag, value]);
        }
    }
    refused("randaugment", &["--epochs", "4294967296"], 2, &["--epochs", "4294967296"]);
    refused("randaugment", &["--threads", "1025"], 2, &["--threads", "1024"]);
    refused("fixres", &["--test-size", "0"], 2, &["--test-size"]);
    refused("fixres", &["--test-size", "16"], 2, &["test_size", "32 to 4096", "--test-size"]);
    refused("randaugment", &["--image-size", "16"], 2, &["image_size", "--image-size"]);
    refused("randaugment", &["--device", "tpu"], 2, &["--device", "cuda:N"]);
    refused("randaugment", &["--precision", "f64"], 2, &["--precision", "bf16"]);
    refused("supervised_contrastive", &["--loss", "triplet"], 2, &["--loss", "npairs", "khosla"]);
    refused("supervised_contrastive", &["--cifar10-c", "x"], 2, &["--cifar10-c", "supcon"]);
    refused("randaugment", &["--set", "magnitud=1"], 2, &["`magnitud`", "magnitude", "epochs"]);
    refused("randaugment", &["--set", "magnitude=strong"], 2, &["`magnitude`", "`strong`"]);
    refused("randaugment", &["--resume", "x", "--epochs", "3"], 2, &["--resume", "--epochs"]);
    refused("fixres", &["--resume", "x", "--test-size", "64"], 2, &["--resume", "--test-size"]);
}

#[test]
fn what_cannot_be_done_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    refused("randaugment", &["--out", out, "--precision", "bf16"], 1, &["--precision", "f32 on the CPU", "bf16"]);
    refused("randaugment", &["--out", out, "--device", "cuda:1"], 1, &["cuda:1"]);
    refused("randaugment", &["--out", out, "--data", "no/such/folder"], 1, &["no/such/folder"]);
    refused("consistency_training", &["--out", out, "--cifar10-c", "no/such/folder"], 1, &["no/such/folder"]);
    refused("randaugment", &["--out", out, "--batch-size", "2000"], 1, &["--batch-size", "1200", "2000"]);
    refused("randaugment", &["--resume", out], 1, &["out", "checkpoint.safetensors"]);
    assert!(!Path::new(out).exists(), "a refused run must leave no output folder");

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let inside = file.join("out");
    refused("randaugment", &["--out", inside.to_str().unwrap()], 1, &["file", "create folder"]);
    let truncated = folder.path().join("data");
    fs::create_dir(&truncated).unwrap();
    fs::write(truncated.join("data_batch_1.bin"), [0; 5000]).unwrap();
    fs::write(truncated.join("test_batch.bin"), [0; 3073]).unwrap();
    refused("randaugment", &["--out", out, "--data", truncated.to_str().unwrap()], 1, &["data_batch_1.bin", "3073"]);
}

#[test]
fn an_output_folder_is_kept_unless_told_otherwise_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let flags = [&TINY[..], &["--seed", "3", "--threads", "2", "--out", out.to_str().unwrap()]].concat();
    let first = output("randaugment", &flags);
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    for part in ["device: cpu (2 threads), because: ", "saturate 5 accuracy", "rand_augment", "--full --data DIR"] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    let report = || serde_json::from_slice::<serde_json::Value>(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let before = report();
    assert_eq!((&before["seed"], &before["config"]["batch_size"]), (&3.into(), &4.into()));

    refused("randaugment", &flags, 1, &["not empty", "--resume", "--overwrite"]);
    // A finished procedure writes its report again.
    for name in ["report.json", "history.csv", "history.json"] {
        fs::remove_file(out.join(name)).unwrap();
    }
    let again = output("randaugment", &["--resume", out.to_str().unwrap()]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(report()["runs"], before["runs"]);
    assert!(fs::read_to_string(out.join("history.csv")).unwrap().contains("rand_augment,1,"));
    refused("fixres", &["--resume", out.to_str().unwrap()], 1, &["procedure", "expected fixres, got randaugment"]);

    fs::write(out.join("notes.txt"), "mine").unwrap();
    let other = [&flags[..], &["--overwrite", "--set", "zoom=0.1"]].concat();
    let other = output("randaugment", &other);
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
    assert_eq!(report()["config"]["zoom"], 0.1);
    assert_eq!(fs::read(out.join("notes.txt")).unwrap(), b"mine");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_resume_goes_on_to_the_same_result() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let (whole, parts) = (whole.to_str().unwrap(), parts.to_str().unwrap());
    let flags = ["--epochs", "3", "--batch-size", "4", "--limit-train", "10", "--limit-test", "5"];
    let uninterrupted = output("randaugment", &[&flags[..], &["--out", whole]].concat());
    assert!(uninterrupted.status.success());

    let mut child = example("randaugment").args(flags).args(["--out", parts]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("epoch 1/3") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the example ended before its first epoch");
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    assert!(text.contains("interrupted") && text.contains(&format!("--resume {parts}")), "{text}");

    let resumed = output("randaugment", &["--resume", parts]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    for run in ["simple", "rand_augment"] {
        let model = |out: &str| fs::read(format!("{out}/models/{run}.safetensors")).unwrap();
        assert!(model(whole) == model(parts), "{run}: the weights differ");
    }
}
