//! The command that runs programs, the loader path, and what the folders of cargo must not hold.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cudarc::driver::{CudaContext, CudaStream, DevicePtr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use crate::kernels::nvcc;

/// The programs that the command runs are this test binary again, told by a variable what to do.
#[test]
fn child_program() {
    let Ok(what) = std::env::var("WARPSMITH_TEST_CHILD") else { return };
    if what == "no cuda" {
        return;
    }
    if what == "install" {
        // Another driver may be loaded already.
        if let Ok(path) = std::env::var("WARPSMITH_TEST_DRIVER") {
            let path = std::ffi::CString::new(path).unwrap();
            // SAFETY: the library has no initialisers.
            assert!(!unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null());
        }
        println!("install: {:?}", warpsmith_emulator::install().map_err(|e| e.to_string()));
        return;
    }
    let (what, end) = what.split_once(" then ").unwrap_or((&what, ""));
    let context = CudaContext::new(0).unwrap();
    println!("on {}", context.name().unwrap());
    let stream = context.default_stream();
    let x = stream.clone_htod(&[1f32; 64]).unwrap();
    match what {
        "dereference" => {
            let p = x.device_ptr(&stream).0 + 12;
            // SAFETY: none: this is the bug, and the process must die of it.
            let v = unsafe { (p as *const f32).read_volatile() };
            println!("a device pointer was readable: {v}");
        }
        "leak" => std::mem::forget(x),
        "exit 3" => {
            drop((x, stream));
            std::process::exit(3);
        }
        "abort" => std::process::abort(),
        "streams" => streams(&context),
        "busy" => busy(&context, &stream),
        "for ever" => for_ever(&context, &stream),
        "exit in callback" => exit_in_callback(&stream),
        "wait" => {
            let paths = std::env::var("LD_LIBRARY_PATH").unwrap();
            println!("folder {}", paths.split(':').next().unwrap());
            std::thread::sleep(std::time::Duration::from_secs(60));
            println!("nobody came");
        }
        _ => {
            let mut y = stream.alloc_zeros::<f32>(64).unwrap();
            let basic = context.load_module(Ptx::from_src(crate::BASIC)).unwrap();
            let f = basic.load_function("vector_add").unwrap();
            let n = if what == "bug" { 65i32 } else { 64 };
            let mut launch = stream.launch_builder(&f);
            launch.arg(&x).arg(&x).arg(&mut y).arg(&n);
            // SAFETY: the emulator answers with an error.
            unsafe { launch.launch(LaunchConfig::for_num_elems(128)) }.unwrap();
            if what == "race" {
                let bugs = context.load_module(Ptx::from_src(include_str!("../kernels/bugs.ptx"))).unwrap();
                let f = bugs.load_function("race_war").unwrap();
                let (x, mut y) = (stream.clone_htod(&[1f32; 128]).unwrap(), stream.alloc_zeros::<f32>(128).unwrap());
                let mut launch = stream.launch_builder(&f);
                launch.arg(&x).arg(&mut y);
                // SAFETY: the arguments are those of the kernel.
                unsafe { launch.launch(crate::one_block(128)) }.unwrap();
            }
            if let Err(e) = stream.synchronize() {
                println!("the program saw: {}", e.error_string().unwrap().to_string_lossy());
            }
            end_as(end);
        }
    }
}

/// Ends of a program other than a return from `main`.
fn end_as(end: &str) {
    use std::os::unix::process::CommandExt;
    // SAFETY: each of these ends the process or, in the child of `fork`, calls nothing but the driver and `exit`.
    unsafe {
        match end {
            "" => {}
            "_exit" => libc::_exit(0),
            "abort" => std::process::abort(),
            "kill" => drop(libc::kill(libc::getpid(), libc::SIGKILL)),
            "exec" => panic!("{}", Command::new("true").exec()),
            "fork" => match libc::fork() {
                0 => {
                    let codes = [cudarc::driver::sys::cuInit(0), cudarc::driver::sys::cuCtxSynchronize()];
                    let refused = codes.iter().all(|&c| c == cudarc::driver::sys::CUresult::CUDA_ERROR_NOT_INITIALIZED);
                    libc::exit(if refused { 0 } else { 1 });
                }
                child => {
                    let mut status = 0;
                    libc::waitpid(child, &mut status, 0);
                    println!("the forked child ended with {status}");
                }
            },
            _ => panic!("unknown end {end}"),
        }
    }
}

/// One stream writes what another reads without waiting: whether it goes wrong depends on the order.
fn streams(context: &std::sync::Arc<CudaContext>) {
    // SAFETY: the missing order is the point.
    unsafe { context.disable_event_tracking() };
    let basic = context.load_module(Ptx::from_src(crate::BASIC)).unwrap();
    let f = basic.load_function("vector_add").unwrap();
    let (a, b) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let x = a.clone_htod(&[1f32; 64]).unwrap();
    let (y, z) = (a.alloc_zeros::<f32>(64).unwrap(), b.alloc_zeros::<f32>(64).unwrap());
    a.synchronize().unwrap();
    b.synchronize().unwrap();
    for (stream, from, to) in [(&a, &x, &y), (&b, &y, &z)] {
        let mut launch = stream.launch_builder(&f);
        launch.arg(from).arg(from).arg(to).arg(&64i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(crate::one_block(64)) }.unwrap();
    }
    b.synchronize().unwrap();
    println!("result {}", b.clone_dtoh(&z).unwrap()[0]);
    a.synchronize().unwrap();
}

/// A long launch, and how many threads this process had while it ran.
fn busy(context: &std::sync::Arc<CudaContext>, stream: &std::sync::Arc<CudaStream>) {
    let known = context.load_module(Ptx::from_src(include_str!("../kernels/known.ptx"))).unwrap();
    let f = known.load_function("busy").unwrap();
    let mut y = stream.alloc_zeros::<u32>(512 * 256).unwrap();
    let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = count();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let most = s.spawn(|| {
            let mut most = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(count());
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            most
        });
        let mut launch = stream.launch_builder(&f);
        launch.arg(&mut y).arg(&2000i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(LaunchConfig { grid_dim: (512, 1, 1), ..crate::one_block(256) }) }.unwrap();
        stream.synchronize().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("{} workers", most.join().unwrap() - before - 1);
    });
}

/// A loop that always changes something, which no detector of deadlocks can find.
fn for_ever(context: &std::sync::Arc<CudaContext>, stream: &std::sync::Arc<CudaStream>) {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry for_ever()\n{\n.reg .b64 %rd<1>;\n\
                mov.u64 %rd0, 0;\nAGAIN:\nadd.s64 %rd0, %rd0, 1;\nbra AGAIN;\n}\n";
    let module = context.load_module(Ptx::from_src(text)).unwrap();
    let f = module.load_function("for_ever").unwrap();
    // SAFETY: the kernel has no arguments.
    unsafe { stream.launch_builder(&f).launch(crate::one_block(32)) }.unwrap();
    let e = stream.synchronize().unwrap_err();
    println!("the program saw {:?}", e.0);
}

/// A host function that ends the process, from under the lock of the driver.
fn exit_in_callback(stream: &std::sync::Arc<CudaStream>) {
    extern "C" fn end(_: *mut std::ffi::c_void) {
        std::process::exit(7);
    }
    use cudarc::driver::sys;
    // SAFETY: the function has the right type and needs no argument.
    unsafe {
        assert_eq!(
            sys::cuLaunchHostFunc(stream.cu_stream(), Some(end), std::ptr::null_mut()),
            sys::CUresult::CUDA_SUCCESS
        );
    }
    let _ = stream.synchronize();
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat()).into_owned()
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_warpsmith-emulate"))
}

pub fn emulate(what: &str, options: &[&str]) -> (Option<i32>, String) {
    let out = command()
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["command::child_program", "--exact", "--nocapture"])
        .env("WARPSMITH_TEST_CHILD", what)
        .output()
        .unwrap();
    (out.status.code(), text(&out))
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("warpsmith-test-{}-{name}", std::process::id()))
}

#[test]
fn exit_codes_and_findings() {
    let (code, text) = emulate("clean", &["--profile", "sm_90", "--checks", "all"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("vector_add") && text.contains("on sm_90") && !text.contains("finding"), "{text}");
    assert!(text.contains("on NVIDIA H100 profile on the warpsmith emulator (no GPU)"), "{text}");
    let (code, text) = emulate("bug", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("finding  out-of-bounds: global read of 4 bytes"), "{text}");
    assert!(text.contains("the program saw: out-of-bounds: global read of 4 bytes"), "{text}");
    assert!(!text.contains("leak"), "after a fault nothing can be freed: {text}");
    let (code, text) = emulate("leak", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("finding  leak: allocation 1 (256 bytes at 0x"), "{text}");
    let (code, text) = emulate("exit 3", &[]);
    assert_eq!(code, Some(3), "the program's own code goes before: {text}");
    let (code, text) = emulate("abort", &[]);
    assert!(code == Some(128 + 6) && text.contains("was ended by signal 6 before it could report"), "{text}");
    let (code, text) = emulate("no cuda", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("made no use of the CUDA driver API"), "{text}");
}

#[test]
fn nothing_hangs() {
    let (code, text) = emulate("for ever", &["--limit", "1"]);
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "the program saw CUDA_ERROR_LAUNCH_TIMEOUT",
        "finding  time-limit: the launch has not ended after 1 seconds",
        "kernel for_ever, block (0,0,0), warp 0, lane 0",
    ] {
        assert!(text.contains(words), "`{words}` is missing in: {text}");
    }
    let (code, text) = emulate("exit in callback", &[]);
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("a host function ended the program"), "{text}");
    assert!(
        text.contains("ended without a report (through _exit, exec, a signal, or inside a host function)"),
        "{text}"
    );
}

const RACE: &str = "finding  shared-race: write after read at shared address 0x80";

/// Findings are on disk when they are made: no end of the process loses them, and a process without a report is named.
#[test]
fn findings_outlive_every_end_of_a_process() {
    let known = "of it there are 2 findings; its counters and leaks are not known";
    for (end, code, how) in [
        ("_exit", 1, "ended without a report (through _exit, exec, a signal, or inside a host function)"),
        ("exec", 1, "ended without a report (through _exit, exec, a signal, or inside a host function)"),
        ("abort", 128 + 6, "was ended by signal 6 before it could report"),
        ("kill", 128 + 9, "was ended by signal 9 before it could report"),
    ] {
        let (got, text) = emulate(&format!("race then {end}"), &[]);
        assert_eq!(got, Some(code), "{end}: {text}");
        assert!(text.contains(RACE) && text.contains(&format!("{how}: {known}")), "{end}: {text}");
        assert!(text.contains("no report  process ") && text.contains("command::child_program"), "{end}: {text}");
        // The twin without the race: nothing is found, but nothing is promised either.
        let (got, text) = emulate(&format!("clean then {end}"), &[]);
        assert_eq!(got, Some(if code == 1 { 0 } else { code }), "{end}: {text}");
        let unknown = "what its kernels did, its counters and leaks are not known";
        assert!(!text.contains("finding  ") && text.contains(&format!("{how}: {unknown}")), "{end}: {text}");
    }
    let (code, text) = emulate("race", &[]);
    assert!(code == Some(1) && text.contains(RACE) && !text.contains("no report"), "{text}");
}

/// The child of a fork has no driver, and what it inherited is reported once, by its parent.
#[test]
fn forks_report_nothing_twice() {
    let (code, text) = emulate("race then fork", &[]);
    assert!(code == Some(1) && text.contains("the forked child ended with 0"), "{text}");
    assert!(text.contains("this process was forked from one that had initialised the driver"), "{text}");
    assert_eq!(text.matches("finding  ").count(), 2, "{text}");
    assert!(text.contains("\nrace_war  ") && text.contains("launches 1") && !text.contains("launches 2"), "{text}");
    assert!(!text.contains("no report"), "{text}");
}

/// A shell script: what each of its programs did is in the report, in their order, whatever became of the others.
#[test]
fn every_process_of_a_script_reports() {
    let json = scratch("script.json");
    let run = |script: &str, options: &[&str]| {
        let out = command()
            .args(options)
            .args(["--", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .output()
            .unwrap();
        (out.status.code(), text(&out))
    };
    let start =
        |what: &str| format!("WARPSMITH_TEST_CHILD='{what}' \"$0\" command::child_program --exact --nocapture; ");
    // The findings of the first program of the script used to be lost to the report of the second.
    let script = start("race") + &start("leak") + &start("clean");
    let (code, text) = run(&script, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(RACE) && text.contains("finding  leak: allocation 1 (256 bytes"), "{text}");
    assert!(text.contains("\nrace_war  ") && text.contains("launches 2"), "vector_add ran in two programs: {text}");
    let (code, text) = run(&(start("clean") + &start("clean")), &[]);
    assert!(code == Some(0) && text.contains("launches 2") && !text.contains("finding  "), "{text}");
    // One of them is killed: the others report.
    let script = start("race then kill") + &start("clean");
    let (code, text) = run(&script, &["--report", &format!("json={}", json.display())]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(RACE) && text.contains("no report  process "), "{text}");
    let report: warpsmith_emulator::Report = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert_eq!((report.launches.len(), report.findings.len(), report.unreported.len()), (1, 2, 1));
    assert!(report.unreported[0].contains("of it there are 2 findings"), "{report:?}");
    assert_eq!(report.profile, "sm_80");
}

/// Who interrupts the command interrupts the program; the command reports and leaves nothing behind.
#[test]
fn signals_end_the_program_and_leave_no_folder() {
    use std::io::BufRead;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut child = command()
            .arg("--")
            .arg(std::env::current_exe().unwrap())
            .args(["command::child_program", "--exact", "--nocapture"])
            .env("WARPSMITH_TEST_CHILD", "wait")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let folder = lines.find_map(|l| l.split_once("folder ").map(|(_, f)| PathBuf::from(f))).unwrap();
        assert!(folder.join("libcuda.so").exists(), "{}", folder.display());
        // SAFETY: the child has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let out = child.wait_with_output().unwrap();
        let text = text(&out);
        assert_eq!(out.status.code(), Some(128 + signal), "{text}");
        assert!(text.contains(&format!("was ended by signal {signal} before it could report")), "{text}");
        assert!(!folder.exists(), "{} was left", folder.display());
    }
}

/// A program that links the driver when it is built, as those with cust do.
#[test]
fn programs_that_link_the_driver() {
    let folder = scratch("linked");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(warpsmith_emulator::library().unwrap(), folder.join("libcuda.so")).unwrap();
    let program = "#include <stdio.h>\n\
        int cuInit(unsigned), cuCtxCreate_v2(void **, unsigned, int), cuCtxDestroy_v2(void *);\n\
        int cuMemAlloc_v2(unsigned long long *, unsigned long), cuMemFree_v2(unsigned long long);\n\
        int cuMemsetD8_v2(unsigned long long, unsigned char, unsigned long);\n\
        int cuMemcpyDtoH_v2(void *, unsigned long long, unsigned long);\n\
        int main(void) {\n\
        void *ctx; unsigned long long p; unsigned v = 0;\n\
        int e = cuInit(0) | cuCtxCreate_v2(&ctx, 0, 0) | cuMemAlloc_v2(&p, 4) | cuMemsetD8_v2(p, 3, 4);\n\
        e |= cuMemcpyDtoH_v2(&v, p, 4) | cuMemFree_v2(p) | cuCtxDestroy_v2(ctx);\n\
        printf(\"%d %x\\n\", e, v);\nreturn e;\n}\n";
    std::fs::write(folder.join("program.c"), program).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["program.c", "-L.", "-lcuda", "-o", "program"]).current_dir(&folder);
    if cc.status().is_ok_and(|s| s.success()) {
        let out = command().arg("--").arg("./program").current_dir(&folder).output().unwrap();
        assert!(out.status.success() && text_has(&out, "0 3030303"), "{}", text(&out));
    } else {
        eprintln!("SKIPPED: no C compiler (cc); a program that links the driver was not tried");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_device_pointer_is_not_a_host_pointer() {
    let (code, text) = emulate("dereference", &[]);
    assert_eq!(code, Some(128 + 11), "{text}");
    assert!(!text.contains("was readable"), "{text}");
    for words in [
        "finding  host-access: host code dereferenced the device address 0x",
        "12 bytes inside allocation 1 (256 bytes at 0x",
        "copy the data with cuMemcpyDtoH",
    ] {
        assert!(text.contains(words), "`{words}` is missing in: {text}");
    }
}

#[test]
fn options() {
    // Races are left out by `memory`; `none` neither checks nor counts.
    let (code, text) = emulate("race", &["--checks", "all"]);
    assert!(code == Some(1) && text.contains("finding  shared-race: write after read"), "{text}");
    let (code, text) = emulate("race", &["--checks", "memory"]);
    assert!(code == Some(0) && text.contains("race_war") && !text.contains("finding"), "{text}");
    let (code, text) = emulate("race", &["--checks", "none"]);
    assert!(code == Some(0) && !text.contains("race_war"), "{text}");
    // JSON: the whole report, for programs.
    let json = scratch("report.json");
    let (code, text) = emulate("bug", &["--report", &format!("json={}", json.display())]);
    assert_eq!(code, Some(1), "{text}");
    let report: warpsmith_emulator::Report = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert!(report.faulted && report.findings[0].kind == "out-of-bounds" && report.findings[0].kernel == "vector_add");
    assert_eq!(report.of("vector_add")[0].grid, [1, 1, 1]);
    // Resources: the words of ptxas.
    let words = scratch("ptxas.txt");
    let said = "ptxas info : Compiling entry function 'vector_add' for 'sm_80'\nptxas info : Used 12 registers\n";
    std::fs::write(&words, said).unwrap();
    let (code, text) = emulate("clean", &["--resources", &words.display().to_string()]);
    assert!(code == Some(0) && text.contains("registers 12"), "{text}");
    std::fs::write(&words, "something else").unwrap();
    let (code, text) = emulate("clean", &["--resources", &words.display().to_string()]);
    assert!(code != Some(0) && text.contains("this is not the output of ptxas -v"), "{text}");
    std::fs::remove_file(&words).unwrap();
    // Budgets: a sentence per excess.
    let budget = scratch("budget.json");
    for (most, code) in [(512, 0), (511, 1)] {
        std::fs::write(&budget, format!("{{\"vector_add\": {{\"global_load_bytes\": {most}}}}}")).unwrap();
        let (got, text) = emulate("clean", &["--budget", &budget.display().to_string()]);
        assert_eq!(got, Some(code), "{text}");
        let said =
            text.contains("finding  over-budget: kernel vector_add: global_load_bytes is 512, the budget is 511");
        assert_eq!(said, code == 1, "{text}");
    }
    std::fs::remove_file(&budget).unwrap();
    // Wrong command lines.
    for (args, words) in [
        (&["--profile", "sm_30", "--", "true"][..], "expected sm_80 or sm_90"),
        (&["--checks", "some", "--", "true"], "expected all or memory or none"),
        (&["--seed", "x", "--", "true"], "expected a number"),
        (&["--report", "xml", "--", "true"], "expected table or json=FILE"),
        (&["--report", "json=", "--", "true"], "--report json=: the name of a file is missing"),
        (&["--resources", "no/such/file", "--", "true"], "--resources no/such/file: No such file"),
        (&["--budget", "no/such/file", "--", "true"], "--budget no/such/file: "),
        (&["--wrong", "1", "--", "true"], "unknown option --wrong"),
        (&["-x", "--", "true"], "unknown option -x\nusage: warpsmith-emulate"),
        (&["--seed"], "--seed needs a value"),
        (&["--seed", "--", "true"], "--seed needs a value"),
        (&["--seed=x", "true"], "--seed x: expected a number"),
        (&["--seed", "1"], "no program to run\nusage: warpsmith-emulate"),
        (&["--"], "no program to run\nusage: warpsmith-emulate"),
        (&[], "no program to run\nusage: warpsmith-emulate"),
        (&["--", "no/such/program"], "cannot start no/such/program"),
    ] {
        let out = command().args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(text_has(&out, words), "{args:?}: {}", self::text(&out));
    }
    for help in ["--help", "-h"] {
        let out = command().arg(help).output().unwrap();
        assert!(out.status.success() && text_has(&out, "--resources"), "{help}");
    }
    // Without `--` the first word that is no option is the program; its own options are its own.
    for args in [&["--seed=1", "echo", "--seed", "x"][..], &["--seed", "1", "--", "echo", "--seed", "x"]] {
        let out = command().args(args).output().unwrap();
        assert!(out.status.success() && out.stdout == b"--seed x\n", "{args:?}: {}", self::text(&out));
    }
}

/// A file that cannot be written is found out before the program runs, and a report that never comes leaves no file.
#[test]
fn the_file_of_the_report_is_tried_first() {
    let (folder, ran) = (scratch("no-such-folder"), scratch("ran"));
    let file = folder.join("report.json");
    let run = |program: &[&str]| {
        let option = format!("json={}", file.display());
        let out = command().args(["--report", &option, "--"]).args(program).output().unwrap();
        (out.status.code(), text(&out))
    };
    let (code, said) = run(&["touch", &ran.display().to_string()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(&format!("--report json={}: No such file or directory", file.display())), "{said}");
    assert!(!ran.exists(), "the program ran although its report cannot be written");
    std::fs::create_dir(&folder).unwrap();
    let (code, said) = run(&["no/such/program"]);
    assert!(code == Some(2) && !file.exists(), "{said}");
    // A program that makes no use of the driver has an empty report.
    let (code, said) = run(&["true"]);
    assert_eq!(code, Some(0), "{said}");
    let report: warpsmith_emulator::Report = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(report.launches.is_empty() && report.findings.is_empty());
    // An older, longer report is replaced whole.
    std::fs::write(&file, "x".repeat(10_000)).unwrap();
    run(&["true"]);
    let again: warpsmith_emulator::Report = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(again.launches.is_empty());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn text_has(out: &Output, words: &str) -> bool {
    text(out).contains(words)
}

#[test]
fn seeds_decide_the_order_of_unordered_streams() {
    // Oldest first and only what is waited for: the second stream goes without the first.
    let (_, text) = emulate("streams", &["--seed", "0"]);
    assert!(text.contains("result 0"), "{text}");
    let results: Vec<String> = (1..9)
        .map(|seed| {
            let run = || emulate("streams", &["--seed", &format!("{seed}")]).1;
            let (first, again) = (run(), run());
            let result = |t: &str| t.lines().find(|l| l.contains("result")).unwrap_or(t).to_string();
            assert_eq!(result(&first), result(&again), "seed {seed}");
            result(&first)
        })
        .collect();
    assert!(results.iter().any(|r| r.contains("result 0")), "{results:?}");
    assert!(results.iter().any(|r| r.contains("result 4")), "{results:?}");
}

#[test]
fn independent_blocks_run_on_as_many_threads_as_asked_for() {
    for n in ["1", "3"] {
        let (code, text) = emulate("busy", &["--threads", n]);
        let want = if n == "1" { "0 workers" } else { "3 workers" };
        assert!(code == Some(0) && text.contains(want), "{n} threads: {text}");
    }
}

/// The loader's way, without the command: a folder that holds the driver under the two names programs ask for.
#[test]
fn a_folder_on_the_loader_path() {
    let folder = scratch("folder");
    std::fs::create_dir(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(warpsmith_emulator::library().unwrap(), folder.join(name)).unwrap();
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["command::child_program", "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", &folder)
        .env("WARPSMITH_TEST_CHILD", "bug")
        .env("WARPSMITH_EMULATOR_PROFILE", "sm_90")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text = text(&out);
    assert!(out.status.success(), "{text}");
    assert!(text.contains("on NVIDIA H100 profile on the warpsmith emulator"), "{text}");
    assert!(text.contains("the program saw: out-of-bounds"), "{text}");
}

#[test]
fn install_says_what_is_in_its_way() {
    let child = |name: &str, value: &std::ffi::OsStr| {
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["command::child_program", "--exact", "--nocapture"])
            .env("WARPSMITH_TEST_CHILD", "install")
            .env(name, value)
            .output()
            .unwrap();
        text(&out)
    };
    let text = child("UNUSED", "".as_ref());
    assert!(text.contains("install: Ok(())"), "{text}");
    let text = child("WARPSMITH_EMULATOR_LIB", "no/such/driver.so".as_ref());
    assert!(text.contains("WARPSMITH_EMULATOR_LIB=no/such/driver.so: no such file"), "{text}");
    let folder = scratch("driver");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("driver.c"), "int cuInit(unsigned flags) { return 100; }\n").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "driver.c", "-o", "libcuda.so.1"]).current_dir(&folder);
    if cc.status().is_ok_and(|s| s.success()) {
        let text = child("WARPSMITH_TEST_DRIVER", folder.join("libcuda.so.1").as_os_str());
        assert!(text.contains("a CUDA driver is loaded already: call install() before the first CUDA call"), "{text}");
    } else {
        eprintln!("SKIPPED: no C compiler (cc); install() beside another driver was not tried");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// cargo puts target/debug, target/release and their deps/ on the loader path of everything it runs: a libcuda.so there
/// would take the place of a real driver.
#[test]
fn no_folder_of_cargo_holds_a_libcuda() {
    let library = warpsmith_emulator::library().unwrap();
    assert_eq!(library.file_name().unwrap(), "libwarpsmith_emulator_driver.so");
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let profile = deps.parent().unwrap();
    for folder in [deps, profile, &profile.join("examples"), profile.parent().unwrap()] {
        for file in std::fs::read_dir(folder).into_iter().flatten() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("libcuda.so"), "{} lies in {}", name, folder.display());
        }
    }
}

const SAID: &str = "this program uses the CUDA runtime (libcudart), which needs private driver tables";

/// A library that finds the driver as the CUDA runtime does, and a program that goes on without a GPU.
#[test]
fn programs_on_the_cuda_runtime_are_refused() {
    let folder = scratch("runtime");
    std::fs::create_dir(&folder).unwrap();
    let run = |c: &mut Command| c.current_dir(&folder).status().is_ok_and(|s| s.success());
    let library = "#include <dlfcn.h>\n\
        int cudaMalloc(void **p, unsigned long n) {\n\
        void *driver = dlopen(\"libcuda.so.1\", RTLD_NOW);\n\
        if (!driver) return 35;\n\
        int (*table)(const void **, const void *) = dlsym(driver, \"cuGetExportTable\");\n\
        const void *t;\n\
        return table && table(&t, \"0123456789abcdef\") == 0 ? 0 : 999;\n}\n";
    let program = "#include <stdio.h>\nint cudaMalloc(void **, unsigned long);\n\
        int main(void) { void *p; printf(\"cudaMalloc: %d\\n\", cudaMalloc(&p, 16)); return 0; }\n";
    std::fs::write(folder.join("runtime.c"), library).unwrap();
    std::fs::write(folder.join("program.c"), program).unwrap();
    let soname = "-Wl,-soname,libcudart.so.13";
    let made = run(Command::new("cc").args(["-shared", "-fPIC", soname, "runtime.c", "-o", "libcudart.so.13", "-ldl"]))
        && run(Command::new("cc").args(["program.c", "./libcudart.so.13", "-Wl,-rpath,.", "-o", "program"]));
    if made {
        let out = command().arg("--").arg("./program").current_dir(&folder).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", text(&out));
        assert!(text_has(&out, "cudaMalloc: 999") && text_has(&out, SAID), "{}", text(&out));
        assert!(text_has(&out, "warpsmith-emulate: this program uses the CUDA runtime"), "{}", text(&out));
    } else {
        eprintln!("SKIPPED: no C compiler (cc); the stand-in for the CUDA runtime was not tried");
    }
    if let Some(nvcc) = nvcc("the real CUDA runtime was not tried") {
        let source = "#include <cstdio>\nint main() { void* p; printf(\"cudaMalloc: %s\\n\", \
                      cudaGetErrorName(cudaMalloc(&p, 16))); }\n";
        std::fs::write(folder.join("real.cu"), source).unwrap();
        if real_program(&nvcc, &folder) {
            let out = command().arg("--").arg("./real").current_dir(&folder).output().unwrap();
            assert_eq!(out.status.code(), Some(2), "{}", text(&out));
            assert!(text_has(&out, SAID) && !text_has(&out, "cudaMalloc: cudaSuccess"), "{}", text(&out));
        } else {
            eprintln!("SKIPPED: nvcc cannot link programs here; the real CUDA runtime was not tried");
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// nvcc from a Python package does not look for its libraries where they are: beside its own folder.
fn real_program(nvcc: &str, folder: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|p| p.join(nvcc)).filter(|p| p.is_file());
    let lib = places.next().and_then(|p| Some(p.parent()?.parent()?.join("lib")));
    let mut c = Command::new(nvcc);
    c.args(["real.cu", "-o", "real"]).current_dir(folder);
    if let Some(lib) = lib {
        c.arg("-L").arg(lib);
    }
    c.output().is_ok_and(|o| o.status.success())
}
