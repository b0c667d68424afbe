//! `warpsmith-emulate`: runs a program of the CUDA driver API on the emulator.

use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use warpsmith_emulator::{Error, Report, library};

const USAGE: &str = "usage: warpsmith-emulate [--profile sm_80|sm_90] [--checks all|memory|none] [--seed N] \
                     [--threads N] [--limit SECONDS] [--resources FILE] [--budget FILE] [--report table|json=FILE] -- PROGRAM ARGS...\n\n\
                     Runs a program of the CUDA driver API (cudarc, cust) on an emulated GPU, checks and counts what its \
                     kernels do.\n\
                     \x20 --profile    A100 (sm_80, the default) or H100 (sm_90)\n\
                     \x20 --checks     all (the default); memory: without races; none: neither checks nor counts\n\
                     \x20 --seed       order of unordered streams and of blocks; 0, the default, is oldest first\n\
                     \x20 --threads    host threads; the default is one per core\n\
                     \x20 --limit      seconds after which a launch is given up; the default is never\n\
                     \x20 --resources  output of ptxas -v: registers for occupancy and launch limits\n\
                     \x20 --budget     JSON of limits: {\"kernel\": {\"counter\": most}}\n\
                     \x20 --report     table on standard error (the default), or JSON into a file\n\n\
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
    while i < args.len() {
        if args[i] == "--help" {
            println!("{USAGE}");
            std::process::exit(0);
        }
        if args[i] == "--" {
            o.program = args[i + 1..].to_vec();
            break;
        }
        let value = args.get(i + 1).ok_or_else(|| Error::new(format!("{} needs a value\n{USAGE}", args[i])))?;
        let among = |list: &[&str]| match list.contains(&value.as_str()) {
            true => Ok(value.clone()),
            false => Err(Error::new(format!("{} {value}: expected {}\n{USAGE}", args[i], list.join(" or ")))),
        };
        match args[i].as_str() {
            "--profile" => o.env.push(("WARPSMITH_EMULATOR_PROFILE", among(&["sm_80", "sm_90"])?)),
            "--checks" => o.env.push(("WARPSMITH_EMULATOR_CHECKS", among(&["all", "memory", "none"])?)),
            "--seed" | "--threads" | "--limit" => {
                value
                    .parse::<u64>()
                    .map_err(|_| Error::new(format!("{} {value}: expected a number\n{USAGE}", args[i])))?;
                let name = match args[i].as_str() {
                    "--seed" => "WARPSMITH_EMULATOR_SEED",
                    "--threads" => "WARPSMITH_EMULATOR_THREADS",
                    _ => "WARPSMITH_EMULATOR_LIMIT",
                };
                o.env.push((name, value.clone()));
            }
            "--budget" => {
                let text = std::fs::read_to_string(value);
                o.budget = Some(text.map_err(|e| Error::new(format!("--budget {value}: {e}")))?);
            }
            "--resources" => {
                let file = std::path::absolute(value).map_err(|e| Error::new(format!("--resources {value}: {e}")))?;
                if !file.is_file() {
                    return Err(Error::new(format!("--resources {value}: no such file")));
                }
                o.env.push(("WARPSMITH_EMULATOR_RESOURCES", file.display().to_string()));
            }
            "--report" => match value.strip_prefix("json=") {
                Some(f) => o.json = Some(PathBuf::from(f)),
                None => {
                    among(&["table"])?;
                }
            },
            other => return Err(Error::new(format!("unknown option {other}\n{USAGE}"))),
        }
        i += 2;
    }
    if o.program.is_empty() {
        return Err(Error::new(USAGE));
    }
    Ok(o)
}

fn run(args: &[String]) -> Result<u8, Error> {
    let o = options(args)?;
    let io = |what: &str, e: std::io::Error| Error::new(format!("{what}: {e}"));
    let library = library()?;
    let library = library.canonicalize().map_err(|e| io("driver", e))?;
    // A folder of its own, so that no loader path ever holds a libcuda.so by accident.
    let folder = std::env::temp_dir().join(format!("warpsmith-emulate-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|e| io("private folder", e))?;
    let result = (|| {
        for name in ["libcuda.so", "libcuda.so.1"] {
            symlink(&library, folder.join(name)).map_err(|e| io("link to the driver", e))?;
        }
        let report = folder.join("report.json");
        let mut path = folder.clone().into_os_string();
        if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
            path.push(":");
            path.push(old);
        }
        let status = Command::new(&o.program[0])
            .args(&o.program[1..])
            .env("LD_LIBRARY_PATH", path)
            .env("WARPSMITH_EMULATOR_REPORT_FILE", &report)
            .envs(o.env.iter().map(|(k, v)| (k, v)))
            .status()
            .map_err(|e| io(&format!("cannot start {}", o.program[0]), e))?;
        // As shells do it: a program that a signal ended counts as 128 and the signal.
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) as u8;
        if let Ok(why) = std::fs::read_to_string(folder.join("report.json.refused")) {
            return Err(Error::new(why));
        }
        let Ok(text) = std::fs::read_to_string(&report) else {
            match status.signal() {
                Some(n) => eprintln!("warpsmith-emulate: signal {n} ended the program before it could report"),
                None => eprintln!("warpsmith-emulate: the program made no use of the CUDA driver API"),
            }
            return Ok(code);
        };
        let parsed: Report =
            serde_json::from_str(&text).map_err(|e| Error::new(format!("the report cannot be read: {e}")))?;
        match &o.json {
            Some(file) => {
                std::fs::write(file, &text).map_err(|e| io(&file.display().to_string(), e))?;
                for f in &parsed.findings {
                    eprintln!("finding  {}", f.text);
                }
            }
            None => eprint!("{}", parsed.table()),
        }
        for l in parsed.leaks() {
            eprintln!("finding  {l}");
        }
        let over = o.budget.as_ref().map_or(Ok(Vec::new()), |b| parsed.over_budget(b))?;
        for sentence in &over {
            eprintln!("finding  over-budget: {sentence}");
        }
        let found = !over.is_empty() || !parsed.findings.is_empty() || !parsed.leaks().is_empty();
        Ok(if code == 0 && found { 1 } else { code })
    })();
    // The program is over; a folder that cannot be removed is no reason to fail.
    let _ = std::fs::remove_dir_all(&folder);
    result
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
