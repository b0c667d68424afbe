//! `warpsmith-emulate`: runs a program of the CUDA driver API on the emulator.

mod signals;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use warpsmith_emulator::{Error, Finding, Report, library};

const USAGE: &str = "usage: warpsmith-emulate [OPTIONS] [--] PROGRAM ARGS...\n\n\
                     Runs a program of the CUDA driver API (cudarc, cust) on an emulated GPU, checks and counts what its \
                     kernels do.\n\
                     \x20 --profile sm_80|sm_90       A100 (sm_80, the default) or H100 (sm_90)\n\
                     \x20 --checks all|memory|none    all (the default); memory: without races; none: neither checks nor \
                     counts\n\
                     \x20 --seed N                    order of unordered streams and of blocks; 0, the default, is \
                     oldest first\n\
                     \x20 --threads N                 host threads; the default is one per core\n\
                     \x20 --limit SECONDS             after which a launch is given up; the default is never\n\
                     \x20 --resources FILE            output of ptxas -v: registers for occupancy and launch limits\n\
                     \x20 --budget FILE               JSON of limits: {\"kernel\": {\"counter\": most}}\n\
                     \x20 --report table|json=FILE    table on standard error (the default), or JSON into a file\n\
                     \x20 -h, --help                  this text\n\n\
                     Exit status: that of the program; 1 if it ended well and there is a finding or a leak; 2 for a wrong \
                     command line or a program that cannot run here.";

struct Options {
    env: Vec<(&'static str, String)>,
    json: Option<PathBuf>,
    /// Text of the budgets.
    budget: Option<String>,
    program: Vec<String>,
}

fn options(args: &[String]) -> Result<Options, Error> {
    let mut o = Options { env: Vec::new(), json: None, budget: None, program: Vec::new() };
    let mut i = 0;
    while let Some(arg) = args.get(i) {
        if arg == "--help" || arg == "-h" {
            println!("{USAGE}");
            std::process::exit(0);
        }
        if arg == "--" || !arg.starts_with('-') {
            o.program = args[i + usize::from(arg == "--")..].to_vec();
            break;
        }
        // `--seed 7` or `--seed=7`.
        let (name, joined) = match arg.split_once('=') {
            Some((name, v)) => (name, Some(v.to_string())),
            None => (&arg[..], None),
        };
        let known = ["--profile", "--checks", "--seed", "--threads", "--limit", "--resources", "--budget", "--report"];
        if !known.contains(&name) {
            return Err(Error::new(format!("unknown option {name}\n{USAGE}")));
        }
        i += 1 + usize::from(joined.is_none());
        let next = || args.get(i - 1).filter(|v| *v != "--").cloned();
        let value = joined.or_else(next).ok_or_else(|| Error::new(format!("{name} needs a value\n{USAGE}")))?;
        let among = |list: &[&str]| match list.contains(&&value[..]) {
            true => Ok(value.clone()),
            false => Err(Error::new(format!("{name} {value}: expected {}\n{USAGE}", list.join(" or ")))),
        };
        let number = || match value.parse::<u64>() {
            Ok(_) => Ok(value.clone()),
            Err(_) => Err(Error::new(format!("{name} {value}: expected a number\n{USAGE}"))),
        };
        let file = |e: std::io::Error| Error::new(format!("{name} {value}: {e}"));
        match name {
            "--profile" => o.env.push(("WARPSMITH_EMULATOR_PROFILE", among(&["sm_80", "sm_90"])?)),
            "--checks" => o.env.push(("WARPSMITH_EMULATOR_CHECKS", among(&["all", "memory", "none"])?)),
            "--seed" => o.env.push(("WARPSMITH_EMULATOR_SEED", number()?)),
            "--threads" => o.env.push(("WARPSMITH_EMULATOR_THREADS", number()?)),
            "--limit" => o.env.push(("WARPSMITH_EMULATOR_LIMIT", number()?)),
            "--budget" => o.budget = Some(fs::read_to_string(&value).map_err(file)?),
            "--resources" => {
                // The program may run in another folder.
                let path = fs::canonicalize(&value).map_err(file)?;
                fs::read_to_string(&path).map_err(file)?;
                o.env.push(("WARPSMITH_EMULATOR_RESOURCES", path.display().to_string()));
            }
            _ => match value.strip_prefix("json=") {
                Some("") => return Err(Error::new(format!("--report json=: the name of a file is missing\n{USAGE}"))),
                Some(f) => o.json = Some(PathBuf::from(f)),
                None => {
                    among(&["table", "json=FILE"])?;
                }
            },
        }
    }
    if o.program.is_empty() {
        return Err(Error::new(format!("no program to run\n{USAGE}")));
    }
    Ok(o)
}

fn io(what: &str, e: std::io::Error) -> Error {
    Error::new(format!("{what}: {e}"))
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    /// One that nobody else has: an earlier command with the same number may have been killed.
    fn new() -> Result<Folder, Error> {
        let mut n = 0;
        loop {
            let path = std::env::temp_dir().join(format!("warpsmith-emulate-{}-{n}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Folder(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
                Err(e) => return Err(io(&path.display().to_string(), e)),
            }
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The program is over; a folder that cannot be removed is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens the file of the report before the program runs: a long run should not end in a file that cannot be written.
fn report_file(path: &Path) -> Result<File, Error> {
    let open = File::options().create(true).write(true).truncate(false).open(path);
    open.map_err(|e| io(&format!("--report json={}", path.display()), e))
}

/// What the processes of the program left behind, in the order in which they began: one report of all, and the leaks,
/// which are a matter of each.
fn collect(folder: &Path, child: u32, status: ExitStatus) -> Result<Option<(Report, Vec<String>)>, Error> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| io("private folder", e))? {
        let path = entry.map_err(|e| io("private folder", e))?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("refused") => {
                return Err(Error::new(fs::read_to_string(&path).map_err(|e| io("private folder", e))?));
            }
            Some("begun") => {
                let mark = fs::read_to_string(&path).unwrap_or_default();
                let (time, program) = mark.split_once('\n').unwrap_or_default();
                marks.push((time.parse::<u128>().unwrap_or(0), path, program.trim_end().to_string()));
            }
            _ => {}
        }
    }
    marks.sort();
    let mut all: Option<Report> = None;
    let mut leaks = Vec::new();
    for (_, path, program) in marks {
        let bad = |e: serde_json::Error| Error::new(format!("the report of {program} cannot be read: {e}"));
        let one = match fs::read_to_string(path.with_extension("json")) {
            Ok(text) => serde_json::from_str::<Report>(&text).map_err(bad)?,
            Err(_) => unreported(&path, &program, child, status),
        };
        leaks.extend(one.leaks());
        match &mut all {
            None => all = Some(one),
            Some(r) => r.add(one),
        }
    }
    Ok(all.map(|r| (r, leaks)))
}

/// What is known of a process that ended without a report: the findings that it made.
fn unreported(mark: &Path, program: &str, child: u32, status: ExitStatus) -> Report {
    let text = fs::read_to_string(mark.with_extension("findings")).unwrap_or_default();
    // The last line is cut off where the process was killed while it wrote.
    let findings: Vec<Finding> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let name = mark.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
    let number = name.split('-').next().unwrap_or(name);
    let how = match status.signal() {
        Some(n) if number == child.to_string() => format!("was ended by signal {n} before it could report"),
        _ if Path::new("/proc").join(number).exists() => "still runs".to_string(),
        _ => "ended without a report (through _exit, exec, a signal, or inside a host function)".to_string(),
    };
    let what = match findings.len() {
        0 => "what its kernels did, its counters and leaks are not known".to_string(),
        1 => "of it there is 1 finding; its counters and leaks are not known".to_string(),
        n => format!("of it there are {n} findings; its counters and leaks are not known"),
    };
    let sentence = format!("process {number} (`{program}`) {how}: {what}");
    Report { findings, unreported: vec![sentence], ..Report::default() }
}

fn run(args: &[String]) -> Result<u8, Error> {
    let o = options(args)?;
    let json = o.json.as_deref().map(report_file).transpose()?;
    let result = emulate(&o, json);
    if let (Err(_), Some(path)) = (&result, &o.json)
        && path.metadata().is_ok_and(|m| m.len() == 0)
    {
        // Nothing came of it: the file that was made to see that it can be written goes.
        let _ = fs::remove_file(path);
    }
    result
}

fn emulate(o: &Options, json: Option<File>) -> Result<u8, Error> {
    let library = library()?;
    let library = library.canonicalize().map_err(|e| io("driver", e))?;
    // The names of the counters in the budget are checked now, too.
    o.budget.as_ref().map_or(Ok(Vec::new()), |b| Report::default().over_budget(b))?;
    // A folder of its own, so that no loader path ever holds a libcuda.so by accident.
    let folder = Folder::new()?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        symlink(&library, folder.0.join(name)).map_err(|e| io("link to the driver", e))?;
    }
    let mut path = folder.0.clone().into_os_string();
    if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(old);
    }
    let mut command = Command::new(&o.program[0]);
    command.args(&o.program[1..]).env("LD_LIBRARY_PATH", path).env("WARPSMITH_EMULATOR_REPORT_FOLDER", &folder.0);
    command.envs(o.env.iter().map(|(k, v)| (k, v)));
    // From here on a signal is the program's affair: this process stays to report and to clean up.
    signals::pass_on();
    let mut child = command.spawn().map_err(|e| io(&format!("cannot start {}", o.program[0]), e))?;
    signals::to(child.id());
    let status = child.wait();
    signals::to(0);
    let status = status.map_err(|e| io("the program cannot be waited for", e))?;
    // As shells do it: a program that a signal ended counts as 128 and the signal.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) as u8;
    let used = collect(&folder.0, child.id(), status)?;
    if used.is_none() {
        eprintln!("warpsmith-emulate: the program made no use of the CUDA driver API");
    }
    let (report, leaks) = used.unwrap_or_default();
    match json {
        None => eprint!("{}", report.table()),
        Some(_) => eprint!("{}", report.words()),
    }
    for l in &leaks {
        eprintln!("finding  {l}");
    }
    let over = o.budget.as_ref().map_or(Ok(Vec::new()), |b| report.over_budget(b))?;
    for sentence in &over {
        eprintln!("finding  over-budget: {sentence}");
    }
    if let (Some(mut file), Some(path)) = (json, &o.json) {
        use std::io::Write;
        let text = serde_json::to_string(&report).map_err(|e| Error::new(format!("the report: {e}")))?;
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|e| io(&path.display().to_string(), e))?;
    }
    let found = !over.is_empty() || !report.findings.is_empty() || !leaks.is_empty();
    Ok(if code == 0 && found { 1 } else { code })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("warpsmith-emulate: {e}");
            ExitCode::from(2)
        }
    }
}
