//! The transcripts of the documentation: every bug is run, and what the emulator says is compared with the chapter.
//! `WARPSMITH_BLESS=1` writes the chapter anew.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, CudaStream, LaunchConfig, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;

/// A kernel argument.
#[derive(Clone, Copy)]
enum Arg {
    P(u64),
    I(i32),
    U(u32),
}
use Arg::{I, P, U};

struct Lab {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    bugs: Arc<CudaModule>,
    basic: Arc<CudaModule>,
}

impl Lab {
    fn buffer(&self, bytes: usize) -> u64 {
        // SAFETY: the process ends soon.
        unsafe { result::malloc_sync(bytes) }.unwrap()
    }

    /// Ones, as floats.
    fn ones(&self, n: usize) -> u64 {
        let p = self.buffer(4 * n);
        // SAFETY: the size is that of the buffer.
        unsafe { result::memcpy_htod_sync(p, &vec![1f32; n]) }.unwrap();
        p
    }

    fn zeros(&self, n: usize) -> u64 {
        let p = self.buffer(4 * n);
        // SAFETY: as above.
        unsafe { result::memset_d8_sync(p, 0, 4 * n) }.unwrap();
        p
    }

    fn launch(&self, name: &str, grid: u32, block: u32, shared: u32, args: &[Arg], stream: &Arc<CudaStream>) {
        let module = if name == "claim" || name == "dynamic_shared" { &self.basic } else { &self.bugs };
        let f = module.load_function(name).unwrap();
        let mut launch = stream.launch_builder(&f);
        for a in args {
            match a {
                P(v) => launch.arg(v),
                I(v) => launch.arg(v),
                U(v) => launch.arg(v),
            };
        }
        let config = LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: shared };
        // SAFETY: the bugs are the point; the emulator answers them with findings.
        let _ = unsafe { launch.launch(config) };
    }

    fn run(&self, name: &str, grid: u32, block: u32, args: &[Arg]) {
        self.launch(name, grid, block, 0, args, &self.stream);
        let _ = self.stream.synchronize();
    }
}

struct Case {
    title: &'static str,
    bug: &'static str,
    /// How the sentence begins: its class, and where a class has several kinds, which.
    says: &'static str,
    run: fn(&Lab),
}

/// All classes, in the order of the chapter.
const CASES: &[Case] = &[
    Case {
        title: "Out of bounds, global read",
        bug: "y[threadIdx.x] = x[threadIdx.x + 40];  // x has 100 elements",
        says: "out-of-bounds",
        run: |l| l.run("read_past", 1, 64, &[P(l.ones(100)), P(l.zeros(64)), I(40)]),
    },
    Case {
        title: "Out of bounds, global write",
        bug: "y[(int)threadIdx.x - 1] = 1.f;",
        says: "out-of-bounds",
        run: |l| l.run("write_past", 1, 64, &[P(l.zeros(64)), I(-1)]),
    },
    Case {
        title: "Out of bounds, atomic",
        bug: "atomicAdd(y + threadIdx.x + 100, 1);  // y has 100 elements",
        says: "out-of-bounds",
        run: |l| l.run("atomic_past", 1, 64, &[P(l.zeros(100)), I(100)]),
    },
    Case {
        title: "Out of bounds, shared memory",
        bug: "s[threadIdx.x + 1] = 1.f;  // launched with 256 bytes for 64 threads",
        says: "out-of-bounds",
        run: |l| {
            l.launch("shared_past", 1, 64, 256, &[P(l.zeros(64)), I(1)], &l.stream);
            let _ = l.stream.synchronize();
        },
    },
    Case {
        title: "Out of bounds, local memory",
        bug: "float v[8]; v[n] = 5.f;  // n is 8",
        says: "out-of-bounds",
        run: |l| l.run("local_past", 1, 32, &[P(l.zeros(32)), I(8)]),
    },
    Case {
        title: "Overrun between two tensors of a program's own pool",
        bug: "y[i] = x[i];  // one element more than the sub-allocation that x points to",
        says: "out-of-bounds",
        run: |l| {
            let pool = l.zeros(1024);
            warpsmith_emulator::sub_alloc(pool, 400).unwrap();
            warpsmith_emulator::sub_alloc(pool + 1024, 400).unwrap();
            // SAFETY: the size is that of the part.
            unsafe { result::memcpy_htod_sync(pool, &[1f32; 100]) }.unwrap();
            l.run("copy", 1, 128, &[P(pool), P(pool + 1024), I(101)]);
        },
    },
    Case {
        title: "Misaligned scalar",
        bug: "*(const float*)(x + 4 * threadIdx.x + 2)",
        says: "misaligned",
        run: |l| l.run("misaligned", 1, 32, &[P(l.ones(64)), P(l.zeros(64)), I(2)]),
    },
    Case {
        title: "Misaligned vector",
        bug: "*(const float4*)(x + 4 * threadIdx.x + 1)  // x is float*",
        says: "misaligned",
        run: |l| l.run("misaligned_vector", 1, 32, &[P(l.ones(200)), P(l.zeros(200)), I(1)]),
    },
    Case {
        title: "Use after free",
        bug: "cuMemFree(x), then a kernel reads x",
        says: "use-after-free",
        run: |l| {
            let x = l.ones(64);
            // SAFETY: the bug.
            unsafe { result::free_sync(x) }.unwrap();
            l.run("copy", 1, 64, &[P(x), P(l.zeros(64)), I(64)]);
        },
    },
    Case {
        title: "Uninitialised global read",
        bug: "a kernel reads a buffer that nobody has written",
        says: "uninitialised",
        run: |l| l.run("copy", 1, 64, &[P(l.buffer(256)), P(l.zeros(64)), I(64)]),
    },
    Case {
        title: "Uninitialised copy to the host",
        bug: "cuMemcpyDtoH of 64 floats, of which a kernel wrote 60",
        says: "uninitialised",
        run: |l| {
            let y = l.buffer(256);
            l.run("copy", 1, 64, &[P(l.ones(64)), P(y), I(60)]);
            // SAFETY: the size is that of the buffer.
            unsafe { result::memcpy_dtoh_sync(&mut [0f32; 64], y) }.unwrap();
        },
    },
    Case {
        title: "Uninitialised shared read",
        bug: "if (threadIdx.x < 63) s[threadIdx.x] = 1.f; __syncthreads(); y[threadIdx.x] = s[threadIdx.x];",
        says: "uninitialised",
        run: |l| l.run("uninitialised_shared", 1, 64, &[P(l.zeros(64)), I(63)]),
    },
    Case {
        title: "Missing wait for cp.async",
        bug: "cp.async …; cp.async.commit_group; y[threadIdx.x] = s[threadIdx.x];",
        says: "missing-wait",
        run: |l| l.run("missing_wait", 1, 32, &[P(l.ones(128)), P(l.zeros(128))]),
    },
    Case {
        title: "Shared-memory race, read after write",
        bug: "s[threadIdx.x] = x[threadIdx.x]; y[threadIdx.x] = s[127 - threadIdx.x];",
        says: "shared-race: read after write",
        run: |l| l.run("race_raw", 1, 128, &[P(l.ones(128)), P(l.zeros(128))]),
    },
    Case {
        title: "Shared-memory race, write after read",
        bug: "float v = s[(threadIdx.x + 32) & 127]; s[threadIdx.x] = v;",
        says: "shared-race: write after read",
        run: |l| l.run("race_war", 1, 128, &[P(l.ones(128)), P(l.zeros(128))]),
    },
    Case {
        title: "Shared-memory race, write after write",
        bug: "s[threadIdx.x & 31] = threadIdx.x;  // 128 threads",
        says: "shared-race: write after write",
        run: |l| l.run("race_waw", 1, 128, &[P(l.zeros(128))]),
    },
    Case {
        title: "Race inside a warp",
        bug: "s[threadIdx.x] = x[threadIdx.x]; y[threadIdx.x] = s[31 - threadIdx.x];  // no __syncwarp()",
        says: "shared-race",
        run: |l| l.run("race_warp", 1, 32, &[P(l.ones(32)), P(l.zeros(32))]),
    },
    Case {
        title: "Global-memory race inside a launch",
        bug: "y[blockIdx.x] = …; … = y[(blockIdx.x + 1) % gridDim.x];",
        says: "global-race",
        run: |l| l.run("global_race", 16, 32, &[P(l.ones(64)), P(l.zeros(64))]),
    },
    Case {
        title: "Data published without a fence",
        bug: "block 0: *data = 42; atomicExch(flag, 1);  block 1: while (atomicAdd(flag, 0) == 0) {} *y = *data;",
        says: "global-race",
        run: |l| l.run("publish", 2, 1, &[P(l.zeros(1)), P(l.zeros(1)), P(l.zeros(1))]),
    },
    Case {
        title: "Barrier in divergent code",
        bug: "if (threadIdx.x < 40) __syncthreads();",
        says: "divergent-barrier",
        run: |l| l.run("divergent_barrier", 1, 64, &[P(l.zeros(64)), I(40)]),
    },
    Case {
        title: "Barrier that exited threads do not reach",
        bug: "if (threadIdx.x >= 32) return; __syncthreads();  // 64 threads",
        says: "divergent-barrier",
        run: |l| l.run("half_barrier", 1, 64, &[P(l.zeros(64)), I(32)]),
    },
    Case {
        title: "Wrong member mask",
        bug: "__shfl_sync(0x7fffffff, v, 0);  // lane 31 takes part too",
        says: "warp-mask",
        run: |l| l.run("bad_mask_own", 1, 32, &[P(l.zeros(32)), P(l.zeros(32)), U(0x7fff_ffff)]),
    },
    Case {
        title: "Deadlock at a barrier",
        bug: "if (threadIdx.x < 32) asm(\"bar.sync 1, 64;\"); … __syncthreads();",
        says: "deadlock",
        run: |l| l.run("barrier_deadlock", 1, 64, &[P(l.zeros(64))]),
    },
    Case {
        title: "Deadlock of a spinning loop",
        bug: "while (*flag == 0) {}  // nobody sets the flag",
        says: "deadlock",
        run: |l| l.run("wait_for_ever", 2, 64, &[P(l.zeros(1))]),
    },
    Case {
        title: "Failed assertion",
        bug: "assert(x[threadIdx.x] < 100);",
        says: "assert",
        run: |l| {
            let x = l.buffer(128);
            // SAFETY: the size is that of the buffer.
            unsafe { result::memcpy_htod_sync(x, &(0..32).map(|i| 5 * i).collect::<Vec<i32>>()) }.unwrap();
            l.run("claim", 1, 32, &[P(x)]);
        },
    },
    Case { title: "Trap", bug: "__trap();", says: "trap", run: |l| l.run("stop", 1, 1, &[]) },
    Case {
        title: "Launch limit: threads",
        bug: "a block of 1025 threads",
        says: "launch-limit",
        run: |l| l.run("copy", 1, 1025, &[P(l.ones(1)), P(l.zeros(1)), I(1)]),
    },
    Case {
        title: "Launch limit: shared memory without the attribute",
        bug: "65536 bytes of dynamic shared memory",
        says: "launch-limit",
        run: |l| l.launch("dynamic_shared", 1, 256, 65536, &[P(l.ones(16384)), P(l.zeros(16384))], &l.stream),
    },
    Case {
        title: "Missing event wait between streams",
        bug: "stream a writes y, stream b reads y, nothing orders b after a",
        says: "stream-race",
        run: |l| {
            let (a, b) = (l.context.new_stream().unwrap(), l.context.new_stream().unwrap());
            let (x, y, z) = (l.ones(64), l.zeros(64), l.zeros(64));
            l.context.synchronize().unwrap();
            l.launch("copy", 1, 64, 0, &[P(x), P(y), I(64)], &a);
            l.launch("copy", 1, 64, 0, &[P(y), P(z), I(64)], &b);
            b.synchronize().unwrap();
        },
    },
    Case {
        title: "Use before a stream-ordered allocation",
        bug: "stream a: cuMemAllocAsync; stream b uses the memory without waiting for a",
        says: "stream-order",
        run: |l| {
            let (a, b) = (l.context.new_stream().unwrap(), l.context.new_stream().unwrap());
            let z = l.zeros(64);
            l.context.synchronize().unwrap();
            // SAFETY: the bug.
            let y = unsafe { result::malloc_async(a.cu_stream(), 256) }.unwrap();
            l.launch("copy", 1, 64, 0, &[P(y), P(z), I(64)], &b);
            let _ = b.synchronize();
        },
    },
    Case {
        title: "Use after a stream-ordered free",
        bug: "stream a: cuMemFreeAsync and done; stream b uses the memory",
        says: "use-after-free",
        run: |l| {
            let (a, b) = (l.context.new_stream().unwrap(), l.context.new_stream().unwrap());
            let z = l.zeros(64);
            l.context.synchronize().unwrap();
            // SAFETY: the bug.
            unsafe {
                let y = result::malloc_async(a.cu_stream(), 256).unwrap();
                result::memset_d8_async(y, 0, 256, a.cu_stream()).unwrap();
                result::free_async(y, a.cu_stream()).unwrap();
                a.synchronize().unwrap();
                l.launch("copy", 1, 64, 0, &[P(y), P(z), I(64)], &b);
            }
            let _ = b.synchronize();
        },
    },
    Case {
        title: "API copy past the end",
        bug: "cuMemcpyHtoD of 65 bytes into 64",
        says: "api-bounds",
        run: |l| {
            let p = l.zeros(16);
            // SAFETY: the bug.
            let _ = unsafe { result::memcpy_htod_sync(p, &[0u8; 65]) };
        },
    },
    Case {
        title: "Double free",
        bug: "cuMemFree(p); cuMemFree(p);",
        says: "invalid-free",
        run: |l| {
            let p = l.zeros(64);
            // SAFETY: the bug.
            unsafe { result::free_sync(p).and_then(|()| result::free_sync(p)) }.unwrap_err();
        },
    },
    Case {
        title: "Invalid free",
        bug: "cuMemFree(p + 16);",
        says: "invalid-free",
        run: |l| {
            let p = l.zeros(64);
            // SAFETY: the bug.
            unsafe { result::free_sync(p + 16) }.unwrap_err();
        },
    },
    Case {
        title: "Unused allocation",
        bug: "cuMemAlloc(&p, 64); cuMemFree(p);",
        says: "unused",
        run: |l| {
            let p = l.buffer(64);
            // SAFETY: freed once.
            unsafe { result::free_sync(p) }.unwrap();
        },
    },
    Case {
        title: "Device pointer given where a host pointer belongs",
        bug: "cuMemcpyHtoD(y, x, 64);  // x is a device pointer",
        says: "host-access",
        run: |l| {
            let (x, y) = (l.ones(16), l.zeros(16));
            // SAFETY: the emulator does not touch the address.
            unsafe { sys::cuMemcpyHtoD_v2(y, x as *const _, 64) };
        },
    },
];

/// Runs every case in a process of its own, so that addresses and numbers are the same each time.
#[test]
fn child_transcripts() {
    if std::env::var("WARPSMITH_TEST_CHILD").as_deref() != Ok("transcripts") {
        return;
    }
    warpsmith_emulator::install().unwrap();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the cases order their streams themselves, or leave it as their bug.
    unsafe { context.disable_event_tracking() };
    let lab = Lab {
        stream: context.default_stream(),
        bugs: context.load_module(Ptx::from_src(include_str!("../kernels/bugs.ptx"))).unwrap(),
        basic: context.load_module(Ptx::from_src(crate::BASIC)).unwrap(),
        context,
    };
    for case in CASES {
        warpsmith_emulator::reset().unwrap();
        (case.run)(&lab);
        let report = warpsmith_emulator::report().unwrap();
        let found = report.findings.iter().find(|f| f.text.starts_with(case.says));
        let text = found.map_or_else(|| format!("NOTHING of {}: {}", case.says, report.table()), |f| f.text.clone());
        println!("\u{1}{}\u{2}{}\u{2}{text}", case.title, case.bug);
    }
    warpsmith_emulator::reset().unwrap();
}

fn entry(title: &str, bug: &str, text: &str) -> String {
    format!("**{title}** — `{bug}`\n\n```text\n{text}\n```\n\n")
}

#[test]
fn the_chapter_says_what_the_emulator_says() {
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["transcripts::child_transcripts", "--exact", "--nocapture"])
        .env("WARPSMITH_TEST_CHILD", "transcripts")
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{all}{}", String::from_utf8_lossy(&out.stderr));
    let mut chapter = String::from("\n");
    let mut count = 0;
    for line in all.lines().filter_map(|l| l.split_once('\u{1}').map(|(_, rest)| rest)) {
        let parts: Vec<&str> = line.split('\u{2}').collect();
        assert!(!parts[2].contains("NOTHING"), "{}: {}", parts[0], parts[2]);
        chapter += &entry(parts[0], parts[1], parts[2]);
        count += 1;
    }
    assert_eq!(count, CASES.len(), "{all}");
    // Two that the command tells: a leak, and the end of a program that uses a device pointer itself.
    let finding = |text: &str| text.lines().find_map(|l| l.strip_prefix("finding  ").map(str::to_string)).unwrap();
    let (_, leak) = crate::command::emulate("leak", &[]);
    chapter += &entry("Leak", "the program ends without cuMemFree(x)", &finding(&leak));
    let (_, dereference) = crate::command::emulate("dereference", &[]);
    chapter += &entry("Host dereference of a device pointer", "host code: x[3]", &finding(&dereference));
    in_readme("transcripts", &chapter);
}

/// Compares a part of the documentation with what the tests made, or writes it anew.
pub fn in_readme(name: &str, made: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (start, end) = (format!("<!-- {name}: made by the tests -->\n"), format!("<!-- end of {name} -->"));
    let (before, rest) = text.split_once(&start).unwrap_or_else(|| panic!("the chapter has no {start}"));
    let (old, after) = rest.split_once(&end).unwrap_or_else(|| panic!("the chapter has no {end}"));
    if crate::kernels::blessing() && old != made {
        std::fs::write(&file, format!("{before}{start}{made}{end}{after}")).unwrap();
        return;
    }
    assert!(
        old == made,
        "the part `{name}` of README.md is stale: WARPSMITH_BLESS=1 writes it anew. Now it would be:\n{made}"
    );
}

#[path = "../../examples/transpose.rs"]
#[allow(dead_code)]
mod example;

/// The example of the documentation, in a process of its own.
#[test]
fn child_example() {
    if std::env::var("WARPSMITH_TEST_CHILD").as_deref() != Ok("example") {
        return;
    }
    let report = example::run().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
    println!("\u{1}{}\u{1}", report.table());
}

#[test]
fn the_worked_example_is_what_the_example_prints() {
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["transcripts::child_example", "--exact", "--nocapture"])
        .env("WARPSMITH_TEST_CHILD", "example")
        .output()
        .unwrap();
    let all = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{all}{}", String::from_utf8_lossy(&out.stderr));
    let table = all.split('\u{1}').nth(1).unwrap();
    in_readme("worked example", &format!("\n```text\n{}\n```\n\n", table.trim()));
}
