//! What the four examples share: flags, the output folder, Ctrl-C, and the way from a recipe to its report.

mod progress;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use warpsmith::recipes::{self, Recipe, Report, Sources};
use warpsmith::train::{Session, StopFlag};
use warpsmith::{Device, Error, Result, device};

/// The flags of every example. Those that shape the training conflict with --resume, which takes them from the
/// checkpoint.
#[derive(Args)]
pub struct Flags {
    /// Folder of the data set [default: the bundled images]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    data: Option<PathBuf>,
    /// Folder for models, pictures and the report [default: runs/PROCEDURE-DATE]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with the interrupted procedure in this output folder
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Use the output folder although it is not empty; the files of an earlier run in it are replaced
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = parse_device)]
    device: DeviceChoice,
    /// What convolutions multiply in; tf32 and bf16 run on a GPU's tensor cores
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// CPU threads, at most 1024 [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024), allow_negative_numbers = true)]
    threads: Option<u64>,
    /// The document's whole schedule instead of the reduced one
    #[arg(long, conflicts_with = "resume")]
    full: bool,
    /// Do what the document's program does where that differs from its text
    #[arg(long, conflicts_with = "resume")]
    exact: bool,
    /// Epochs of every run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true, conflicts_with = "resume")]
    epochs: Option<u32>,
    /// End every run after N steps
    #[arg(long, value_name = "N", value_parser = positive(), allow_negative_numbers = true, conflicts_with = "resume")]
    steps: Option<u64>,
    /// Images per step
    #[arg(long, value_name = "N", value_parser = positive(), allow_negative_numbers = true, conflicts_with = "resume")]
    batch_size: Option<u64>,
    /// Rows and columns that the network trains on
    #[arg(long, value_name = "N", value_parser = positive(), allow_negative_numbers = true, conflicts_with = "resume")]
    image_size: Option<u64>,
    /// Train on at most N images, spread over the classes
    #[arg(long, value_name = "N", value_parser = positive(), allow_negative_numbers = true, conflicts_with = "resume")]
    limit_train: Option<u64>,
    /// Test on at most N images, spread over the classes
    #[arg(long, value_name = "N", value_parser = positive(), allow_negative_numbers = true, conflicts_with = "resume")]
    limit_test: Option<u64>,
    /// Folder of CIFAR-10-C [default: corruptions generated from the test images]
    #[arg(long = "cifar10-c", value_name = "DIR", conflicts_with = "resume")]
    cifar10_c: Option<PathBuf>,
    /// Seed of everything random [default: 42]
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    seed: Option<u64>,
    /// Set a field of the recipe; an unknown one lists those that exist. May be repeated
    #[arg(long, value_name = "FIELD=VALUE", conflicts_with = "resume")]
    set: Vec<String>,
}

#[derive(Clone, Copy)]
enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Precision {
    F32,
    Tf32,
    Bf16,
}

impl Precision {
    fn of_device(self) -> device::Precision {
        match self {
            Precision::F32 => device::Precision::F32,
            Precision::Tf32 => device::Precision::Tf32,
            Precision::Bf16 => device::Precision::Bf16,
        }
    }
}

/// A count or size of at least 1.
pub fn positive() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

fn parse_device(text: &str) -> std::result::Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "cuda" => Ok(DeviceChoice::Cuda(0)),
        _ => {
            let ordinal = text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
            ordinal.map(DeviceChoice::Cuda).ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_string())
        }
    }
}

/// Why an example ends early.
enum Failure {
    /// The flags do not fit together: exit code 2.
    Usage(Error),
    /// Anything else: exit code 1.
    Run(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Run(error)
    }
}

/// Runs or resumes a recipe. `extra` holds the assignments of the example's own flags.
pub fn main<R: Recipe>(example: &str, flags: Flags, extra: Vec<String>) -> ExitCode {
    match procedure::<R>(example, flags, extra) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => {
            eprintln!("error: {error}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
        Err(Failure::Run(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn procedure<R: Recipe>(example: &str, flags: Flags, extra: Vec<String>) -> std::result::Result<(), Failure> {
    if flags.cifar10_c.is_some() && !R::CORRUPTED {
        let hint = "leave the flag out";
        return Err(Failure::Usage(Error::argument("--cifar10-c", "a procedure that uses it", R::PROCEDURE, hint)));
    }
    let recipe: R = configured(&flags, extra).map_err(Failure::Usage)?;
    let (device, why) = chosen_device(&flags)?;
    println!("device: {device}{why}");

    let (mut session, recipe, data) = match &flags.resume {
        Some(folder) => {
            let (session, recipe, sources) = recipes::resume::<R>(folder, &device)?;
            let data = recipe.load(&sources, session.seed())?;
            println!("resuming {}: {} runs are finished", R::PROCEDURE, session.finished().len());
            (session, recipe, data)
        }
        None => {
            let sources = sources(&flags)?;
            let folder = output_folder(&flags, R::PROCEDURE)?;
            let seed = flags.seed.unwrap_or(42);
            // Data are loaded first: a wrong folder must not leave an output folder behind.
            let data = recipe.load(&sources, seed)?;
            if flags.overwrite {
                remove_outputs(&folder)?;
            }
            (recipes::start(&recipe, &sources, &folder, &device, seed)?, recipe, data)
        }
    };
    println!("output: {}", session.folder().display());
    session.observer = Box::new(progress::Progress::new());
    session.stop = stop_on_ctrl_c()?;
    let report = recipe.run(&mut session, &data)?;
    conclude(example, &flags, &session, &report);
    Ok(())
}

/// The recipe that the flags ask for.
fn configured<R: Recipe>(flags: &Flags, extra: Vec<String>) -> Result<R> {
    let mut recipe = if flags.full { R::default() } else { R::reduced() };
    let mut assignments = extra;
    if let Some(epochs) = flags.epochs {
        let fields = recipes::field_names(&recipe)?;
        assignments.extend(fields.iter().filter(|f| f.ends_with("epochs")).map(|field| format!("{field}={epochs}")));
    }
    let numbers = [
        ("max_steps", flags.steps),
        ("batch_size", flags.batch_size),
        ("image_size", flags.image_size),
        ("limit_train", flags.limit_train),
        ("limit_test", flags.limit_test),
    ];
    assignments.extend(numbers.iter().filter_map(|(field, value)| Some(format!("{field}={}", (*value)?))));
    assignments.extend(flags.exact.then(|| "exact=true".to_string()));
    // Last, so that they win.
    assignments.extend(flags.set.iter().cloned());
    for assignment in &assignments {
        recipes::set_field(&mut recipe, assignment)?;
    }
    recipe.check()?;
    Ok(recipe)
}

/// The device and, behind a comma, why it was chosen.
fn chosen_device(flags: &Flags) -> Result<(Device, String)> {
    let cpu = || match flags.threads {
        Some(threads) => Device::cpu_with_threads(threads as usize),
        None => Device::cpu(),
    };
    let chosen = match flags.device {
        DeviceChoice::Auto => {
            let auto = Device::auto()?;
            (if flags.threads.is_some() { cpu()? } else { auto.device }, format!(", because: {}", auto.reason))
        }
        DeviceChoice::Cpu => (cpu()?, String::new()),
        DeviceChoice::Cuda(ordinal) => (cuda(ordinal, flags.precision.of_device())?, String::new()),
    };
    let precision = flags.precision.of_device();
    if chosen.0.precision() == precision {
        return Ok(chosen);
    }
    #[cfg(feature = "cuda")]
    if let Some(gpu) = chosen.0.gpu() {
        // Chosen automatically, in f32.
        return Ok((cuda(gpu.options().ordinal, precision)?, chosen.1));
    }
    let name = flags.precision.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
    Err(Error::argument("--precision", "f32 on the CPU", name, "leave the flag out, or use a GPU (--device cuda)"))
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, precision: device::Precision) -> Result<Device> {
    Device::cuda_with(device::CudaOptions { ordinal, precision, ..device::CudaOptions::default() })
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize, _: device::Precision) -> Result<Device> {
    Err(Error::device(format!("cuda:{ordinal}"), "built without feature `cuda`", "build with --features cuda"))
}

/// The folders of the flags, from the root on: a resumed procedure may start elsewhere.
fn sources(flags: &Flags) -> Result<Sources> {
    let absolute = |dir: &Option<PathBuf>| {
        let dir = dir.as_ref();
        dir.map(|dir| std::path::absolute(dir).map_err(|e| Error::io(dir, "find the folder", e))).transpose()
    };
    Ok(Sources { data: absolute(&flags.data)?, cifar10_c: absolute(&flags.cifar10_c)? })
}

/// The output folder, which must be empty unless it may be overwritten.
fn output_folder(flags: &Flags, procedure: &str) -> Result<PathBuf> {
    let Some(folder) = &flags.out else {
        let name = format!("runs/{procedure}-{}", timestamp());
        let names = std::iter::once(name.clone()).chain((2..).map(|i| format!("{name}-{i}")));
        return Ok(names.map(PathBuf::from).find(|folder| !folder.exists()).expect("names do not run out"));
    };
    if folder.exists() && !flags.overwrite {
        let mut entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "list the --out folder", e))?;
        if entries.next().is_some() {
            return Err(Error::argument(
                "--out",
                "an empty or new folder",
                format_args!("{}, which is not empty", folder.display()),
                "go on with --resume DIR, replace with --overwrite, or choose another folder",
            ));
        }
    }
    Ok(folder.clone())
}

/// Removes what an earlier run wrote, and nothing else.
fn remove_outputs(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let models = folder.join("models");
    for entry in entries.chain(std::fs::read_dir(&models).into_iter().flatten()).flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let fixed = ["checkpoint.safetensors", "report.json", "history.json", "history.csv"];
        let pictures = ["curves.png", "augmented.png", "similarity.png"];
        let ours = fixed.contains(&name.as_str())
            || pictures.contains(&name.as_str())
            || name.starts_with("robustness_")
            || path.parent() == Some(models.as_path()) && name.ends_with(".safetensors");
        if ours {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))?;
        }
    }
    Ok(())
}

/// Now, in UTC, as `20260131-235959`.
fn timestamp() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in years that end with February: the leap day is then a year's last day.
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// A flag that the first Ctrl-C raises; the second ends the program at once.
fn stop_on_ctrl_c() -> Result<StopFlag> {
    let stop = StopFlag::new();
    let flag = stop.clone();
    let handler = move || {
        if flag.is_stopped() {
            std::process::exit(130);
        }
        flag.stop();
        eprintln!("\nstopping after this step; press Ctrl-C again to end at once");
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Error::device("signals", format!("no handler for Ctrl-C: {e}"), "start it from a terminal"))?;
    Ok(stop)
}

/// The results, where they are, and what to do next.
fn conclude(example: &str, flags: &Flags, session: &Session, report: &Report) {
    println!("\n{}", report.table());
    let statistics = report.runs.iter().filter(|run| run.batch_norm_statistics.starts_with("recomputed"));
    for run in statistics {
        println!("{}: batch-norm statistics {}", run.name, run.batch_norm_statistics);
    }
    println!("\n{:.0} s, {:.0} MB of tensors at the peak", report.wall_seconds, report.peak_memory_bytes as f64 / 1e6);
    println!("report, history, models and pictures: {}", session.folder().display());
    if !flags.full && flags.resume.is_none() {
        println!(
            "\nThis was a reduced schedule on few images: it shows that all of it works, and where accuracies differ by a few \
             points it does not say which run is better. The document's whole one, on the whole data set:\n  \
             cargo run --release --example {example} -- --full --data DIR"
        );
    }
}
