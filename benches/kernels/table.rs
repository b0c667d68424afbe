//! The table of counters that is kept in the repository.

use crate::bars::{self, Bar, Miss};
use crate::cases::{self, Case, Images, Units};
use crate::counted::{self, Counters, Way, least_us};
use crate::floor::{Floor, Fusion, GAP_US};
use crate::ptx_hash::ptx_hash;
use crate::rig::{Fallible, Rig};
use crate::roofline::{A100, H100, Profile};
use crate::step::PRECISIONS;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use warpsmith_emulator::Launch;

const NOTE: &str = "*Predicted from counters, not measured on a GPU.*";

/// Cases that are named where a kernel misses a bar.
const WORST: usize = 3;

/// How the columns are to be read.
const COLUMNS: &str = "
- **x**: layers of the network that have this problem.
- **asked MB**: bytes that loads and stores of all lanes ask for. **unique MB**: sectors of 32 bytes that a launch
  touches, each once, summed over the launches. **of min**: unique bytes, of the compulsory ones: every operand and
  every result once per kernel.
- **sectors**: of a warp's access to global memory, loads and stores; 16 where every lane moves 16 bytes beside its
  neighbour's. **used**: bytes asked for, of the bytes of those sectors; a byte that several lanes of a request ask for
  counts once. **wide**: of the bytes asked for, those in accesses of 16 bytes a lane (128 bits).
- **shared**: wavefronts of shared memory, for one that a layout without bank conflicts takes. **instr/mma**:
  instructions of warps for one product on tensor cores.
- **tile**: rows and columns, and behind the stroke in how many parts the depth is cut, which a second kernel adds. The
  guarded kernels take any shape.
- **A100 us, H100 us**: what the slowest resource takes at least, and which it is: memory (unique bytes), tensor cores,
  shared memory, instruction issue, integer, f32 and f64 arithmetic, special functions, shuffles. Summed over the
  launches. A GPU takes longer: latency, caches and the tail of a grid have no counter.
- **occupancy**: share of a multiprocessor's warps that are resident. **MMA share**: of the instructions of the main
  loop (`machine_code.txt`).
";

/// What the floors of a step assume.
const FLOORS: &str = "
Forward, backward and Adam through the library's own device, every launch counted. Below each stands the physical floor,
which knows nothing of these kernels:

- *serial*: of every kernel the larger of its operations at the peak and its compulsory bytes at the memory's rate, one
  behind the other. Operations count padding; what fits L2 counts as memory too.
- *tiled*: the same with products in the best of six tiles from 64x64 to 256x128 and of splits of the depth up to 16, in
  whole waves of blocks at 80 % of the peak, and 1.5 us from one kernel to the next.
- Peaks: A100 312 TFLOP/s in bf16, 156 in tf32, 19.5 in f32, 2.04 TB/s; H100 989, 495, 67 and 3.35.
- *all of it fused*: sums of the batch norms in epilogues, their results computed where they are loaded, the residual
  sum in an epilogue.

*These kernels* are the sum above; tiled adds the same gaps to it, but knows neither waves nor the 80 %, and so can lie
below the floor.
";

/// The bars of bars.rs.
const BARS: &str = "
Kernels that memory limits: unique bytes of a case at most 1.05 of the compulsory ones; of each launch, its loads and
its stores for themselves, the sectors of requests hold at most 1.05 of the bytes asked for, and those are at most 1.05
of what is asked for 16 bytes to a lane. Kernels on tensor cores: at most 1.05 wavefronts for one without bank conflicts.
";

/// A table in markdown, its columns as wide as they must be; the first is text, the others are numbers.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Table {
        Table { rows: vec![header.iter().map(|cell| cell.to_string()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
            }
            text += "|\n";
            if i == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    text += &if column == 0 {
                        format!("|{:-<1$}", "", width + 2)
                    } else {
                        format!("|{:-<1$}:", "", width + 1)
                    };
                }
                text += "|\n";
            }
        }
        text
    }
}

/// What ptxas makes of a kernel.
struct Resources {
    registers: [u32; 2],
    shared: u32,
}

/// `kernels/resources.txt`, of sm_80 and sm_90.
fn resources(kernels: &Path) -> Fallible<BTreeMap<String, Resources>> {
    let path = kernels.join("resources.txt");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let kernel = words.next().unwrap_or_default().to_string();
        let numbers: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>().map_err(|e| format!("{line}: {e}"))?;
        match numbers[..] {
            [first, shared, _, _, second, ..] => {
                found.insert(kernel, Resources { registers: [first, second], shared });
            }
            _ => return Err(format!("{}: `{line}` has no numbers for two architectures", path.display()).into()),
        }
    }
    Ok(found)
}

/// Shares of the main loops that multiply, from `kernels/machine_code.txt`.
fn shares(kernels: &Path) -> Fallible<BTreeMap<String, [String; 2]>> {
    let path = kernels.join("machine_code.txt");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let kernel = line.split_whitespace().next().unwrap_or_default().to_string();
        let percents: Vec<&str> = line.split_whitespace().filter_map(|word| word.strip_suffix('%')).collect();
        match percents[..] {
            [first, second] => found.insert(kernel, [first, second].map(|share| format!("{share} %"))),
            _ => return Err(format!("{}: `{line}` has no two shares", path.display()).into()),
        };
    }
    Ok(found)
}

fn mb(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 * 1e-6)
}

fn us((resource, us): (&str, f64)) -> String {
    format!("{us:.1} {resource}")
}

/// A share in per cent, or a dash.
fn share(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.0} %", 100.0 * share))
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

/// A case with its launches.
struct Counted {
    case: Case,
    launches: Vec<Launch>,
}

impl Counted {
    fn counters(&self) -> Counters<'_> {
        Counters(&self.launches)
    }

    fn of_compulsory(&self) -> f64 {
        self.counters().unique_bytes() as f64 / self.case.bytes as f64
    }

    fn times(&self) -> String {
        if self.case.count == 0 { "-".into() } else { self.case.count.to_string() }
    }

    /// The tile and the parts of a product, from the kernel's name and its grid.
    fn tile(&self) -> String {
        let main = &self.launches[0];
        let is_tile = |word: &&str| word.contains('x') && word.starts_with(|c: char| c.is_ascii_digit());
        let guarded = if main.kernel.contains("guarded") { "guarded" } else { "-" };
        let tile = main.kernel.split('_').find(is_tile).unwrap_or(guarded);
        match self.launches.iter().any(|launch| launch.kernel.starts_with("conv2d_reduce_parts")) {
            true => format!("{tile} /{}", main.grid[1]),
            false => tile.into(),
        }
    }
}

/// Whether a case is one of the products.
fn is_product(case: &Case) -> bool {
    case.units != Units::Memory
}

fn products(text: &mut String, counted: &[Counted]) {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for c in counted.iter().filter(|c| is_product(&c.case)) {
        let group = (c.case.op, c.case.dtype);
        if !groups.contains(&group) && c.case.op.starts_with("conv2d") {
            groups.push(group);
        }
    }
    groups.sort_by_key(|(op, dtype)| {
        (["bf16", "tf32", "f32"].iter().position(|d| d == dtype), *op != "conv2d_fprop", *op)
    });
    let mut write = |title: String, names: fn(&Case) -> String, of: &dyn Fn(&Case) -> bool| {
        let mut table = Table::new(&[
            "layer",
            "x",
            "GFLOP",
            "tile",
            "asked MB",
            "unique MB",
            "of min",
            "sectors",
            "shared",
            "instr/mma",
            "A100 us",
            "H100 us",
        ]);
        let chosen: Vec<&Counted> = counted.iter().filter(|c| is_product(&c.case) && of(&c.case)).collect();
        for c in &chosen {
            let counters = c.counters();
            table.row(vec![
                names(&c.case),
                c.times(),
                format!("{:.2}", c.case.flops as f64 * 1e-9),
                c.tile(),
                mb(counters.requested_bytes()),
                mb(counters.unique_bytes()),
                format!("{:.2}", c.of_compulsory()),
                format!("{:.1}", counters.sectors_per_request()),
                or_dash(Some(counters.wavefronts()).filter(|&ratio| ratio > 0.0), 2),
                or_dash(counters.instructions_per_mma(), 1),
                us(least_us(&c.launches, &A100)),
                us(least_us(&c.launches, &H100)),
            ]);
        }
        if chosen.iter().all(|c| c.case.count > 0) {
            table.row(in_the_network(&chosen));
        }
        let _ = write!(text, "\n### {title}\n\n{}", table.text());
    };
    for (op, dtype) in groups {
        write(format!("{op}, {dtype}"), |case| case.name.clone(), &|case| (case.op, case.dtype) == (op, dtype));
    }
    let whole_name = |case: &Case| format!("{}, {}: {}", case.op, case.dtype, case.name);
    write("Other products".into(), whole_name, &|case| !case.op.starts_with("conv2d"));
}

/// The sum of a table of products, each as often as the network has it.
fn in_the_network(chosen: &[&Counted]) -> Vec<String> {
    let sum = |of: &dyn Fn(&Counted) -> f64| chosen.iter().map(|c| f64::from(c.case.count) * of(c)).sum::<f64>();
    let (asked, unique) =
        (sum(&|c| c.counters().requested_bytes() as f64 * 1e-6), sum(&|c| c.counters().unique_bytes() as f64 * 1e-6));
    let mut row = vec![
        "the network".to_string(),
        sum(&|_| 1.0).to_string(),
        format!("{:.2}", sum(&|c| c.case.flops as f64 * 1e-9)),
        String::new(),
        format!("{asked:.2}"),
        format!("{unique:.2}"),
        format!("{:.2}", unique / sum(&|c| c.case.bytes as f64 * 1e-6)),
    ];
    row.extend(["", "", ""].map(String::from));
    row.extend([A100, H100].map(|device| format!("{:.1}", sum(&|c| least_us(&c.launches, &device).1))));
    row
}

fn memory_bound(text: &mut String, counted: &[Counted]) {
    for (title, dtype) in [("bf16", "bf16"), ("f32", "f32"), ("u8", "u8")] {
        let mut table = Table::new(&[
            "kernel and layer",
            "x",
            "launches",
            "asked MB",
            "unique MB",
            "of min",
            "sectors",
            "loads used",
            "wide",
            "stores used",
            "wide",
            "A100 us",
            "H100 us",
        ]);
        for c in counted.iter().filter(|c| !is_product(&c.case) && c.case.dtype == dtype) {
            let counters = c.counters();
            table.row(vec![
                format!("{}: {}", c.case.op, c.case.name),
                c.times(),
                c.launches.len().to_string(),
                mb(counters.requested_bytes()),
                mb(counters.unique_bytes()),
                format!("{:.2}", c.of_compulsory()),
                format!("{:.1}", counters.sectors_per_request()),
                share(counters.used(Way::Load)),
                share(counters.wide(Way::Load)),
                share(counters.used(Way::Store)),
                share(counters.wide(Way::Store)),
                us(least_us(&c.launches, &A100)),
                us(least_us(&c.launches, &H100)),
            ]);
        }
        let _ = write!(text, "\n### {title}\n\n{}", table.text());
    }
}

/// Every kernel that a case launched: what the compiler made of it, and how many fit a multiprocessor.
fn kernels(
    text: &mut String,
    counted: &[Counted],
    resources: &BTreeMap<String, Resources>,
    shares: &BTreeMap<String, [String; 2]>,
) -> Fallible<()> {
    let mut launched: BTreeMap<&str, &Launch> = BTreeMap::new();
    for launch in counted.iter().flat_map(|c| &c.launches) {
        let known = launched.entry(&launch.kernel).or_insert(launch);
        // Dynamic shared memory differs between launches of a pipeline: the most is what limits.
        if launch.dynamic_shared > known.dynamic_shared {
            *known = launch;
        }
    }
    let mut table = Table::new(&[
        "kernel",
        "threads",
        "registers A100",
        "H100",
        "shared KiB",
        "occupancy A100",
        "H100",
        "MMA share A100",
        "H100",
    ]);
    for (kernel, launch) in launched {
        let resources = resources.get(kernel).ok_or_else(|| format!("kernels/resources.txt lacks {kernel}"))?;
        let threads = launch.block.iter().product();
        let shared = launch.dynamic_shared + resources.shared;
        let occupancy =
            |device: &Profile, registers| format!("{:.0} %", 100.0 * device.occupancy(threads, registers, shared));
        let [first, second] = shares.get(kernel).cloned().unwrap_or(["-".into(), "-".into()]);
        let [on_a100, on_h100] = resources.registers;
        table.row(vec![
            kernel.to_string(),
            threads.to_string(),
            on_a100.to_string(),
            on_h100.to_string(),
            format!("{:.1}", f64::from(shared) / 1024.0),
            occupancy(&A100, on_a100),
            occupancy(&H100, on_h100),
            first,
            second,
        ]);
    }
    *text += "\n";
    *text += &table.text();
    Ok(())
}

/// One step, by kernel.
fn step_table(text: &mut String, images: Images, (name, units): (&str, Units), launches: &[Launch]) {
    let mut by_kernel: BTreeMap<&str, Vec<&Launch>> = BTreeMap::new();
    for launch in launches {
        by_kernel.entry(&launch.kernel).or_default().push(launch);
    }
    struct Row {
        kernel: String,
        launches: usize,
        unique: u64,
        least: [f64; 2],
        limits: [String; 2],
    }
    let row = |(kernel, of): (&str, Vec<&Launch>)| {
        let unique = of.iter().map(|l| l.get("unique_read_bytes") + l.get("unique_write_bytes")).sum();
        let both = [A100, H100].map(|device| {
            let mut by_resource: BTreeMap<&str, f64> = BTreeMap::new();
            for launch in &of {
                let (resource, us) = device.bound(launch, &A100);
                *by_resource.entry(resource).or_default() += us;
            }
            let most =
                by_resource.iter().fold(("none", 0.0), |most, (&r, &us)| if us > most.1 { (r, us) } else { most });
            (by_resource.values().sum::<f64>(), most.0.to_string())
        });
        let [(a100, on_a100), (h100, on_h100)] = both;
        Row { kernel: kernel.into(), launches: of.len(), unique, least: [a100, h100], limits: [on_a100, on_h100] }
    };
    let mut rows: Vec<Row> = by_kernel.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.least[0].total_cmp(&a.least[0]));
    let total = |i: usize| rows.iter().map(|row| row.least[i]).sum::<f64>();
    let (sums, unique) = ([total(0), total(1)], rows.iter().map(|row| row.unique).sum::<u64>());

    let mut table =
        Table::new(&["kernel", "launches", "unique MB", "A100 us", "share", "limit", "H100 us", "share", "limit"]);
    for row in &rows {
        let [a100, h100] =
            [0, 1].map(|i| (format!("{:.1}", row.least[i]), format!("{:.1} %", 100.0 * row.least[i] / sums[i])));
        table.row(vec![
            row.kernel.clone(),
            row.launches.to_string(),
            mb(row.unique),
            a100.0,
            a100.1,
            row.limits[0].clone(),
            h100.0,
            h100.1,
            row.limits[1].clone(),
        ]);
    }
    let all = launches.len();
    table.row(vec![
        "all".into(),
        all.to_string(),
        mb(unique),
        format!("{:.1}", sums[0]),
        "100 %".into(),
        "".into(),
        format!("{:.1}", sums[1]),
        "100 %".into(),
        "".into(),
    ]);
    let _ = write!(text, "\n### {name}\n\n{}\n", table.text());

    let mut table =
        Table::new(&["", "kernels", "GB", "A100 serial ms", "A100 tiled ms", "H100 serial ms", "H100 tiled ms"]);
    for (what, fusion) in [
        ("floor, nothing fused", Fusion::None),
        ("floor, batch norm with ReLU", Fusion::NormRelu),
        ("floor, all of it fused", Fusion::Full),
    ] {
        let [a100, h100] = [A100, H100].map(|device| Floor::new(images, &device, units, fusion));
        table.row(vec![
            what.into(),
            a100.kernels.to_string(),
            format!("{:.2}", a100.gigabytes),
            format!("{:.2}", a100.serial_ms),
            format!("{:.2}", a100.tiled_ms),
            format!("{:.2}", h100.serial_ms),
            format!("{:.2}", h100.tiled_ms),
        ]);
    }
    let gaps = all as f64 * GAP_US;
    table.row(vec![
        "these kernels".into(),
        all.to_string(),
        format!("{:.2}", unique as f64 * 1e-9),
        format!("{:.2}", sums[0] * 1e-3),
        format!("{:.2}", (sums[0] + gaps) * 1e-3),
        format!("{:.2}", sums[1] * 1e-3),
        format!("{:.2}", (sums[1] + gaps) * 1e-3),
    ]);
    *text += &table.text();
}

/// Kernels that miss what they are asked for, by the reasons of bars.rs: of each the cases, from the worst on.
fn misses(counted: &[Counted]) -> String {
    /// What a kernel has instead of a bar, by case.
    type Cases<'a> = Vec<(f64, &'a Case)>;
    let mut missed: BTreeMap<(&str, Bar), Cases> = BTreeMap::new();
    for Counted { case, launches } in counted {
        for Miss { kernel, bar, value } in bars::misses(case, launches) {
            missed.entry((kernel, bar)).or_default().push((value, case));
        }
    }
    let line = |kernel: &str, bar: Bar, mut cases: Cases| {
        cases.sort_by(|a, b| bar.worst_first(a.0, b.0));
        let named = cases.iter().take(WORST).map(|(value, case)| format!("{} ({})", bar.show(*value), case.name));
        let mut named: Vec<String> = named.collect();
        if cases.len() > WORST {
            named.push(format!("and {} more", cases.len() - WORST));
        }
        format!("- {kernel}: {bar}: {}\n", named.join("; "))
    };
    let mut text = String::new();
    for (of_layout, title) in
        [(true, "Because of where the data lies"), (false, "Because of how the kernel is written")]
    {
        let _ = write!(text, "\n### {title}\n");
        for exception in bars::EXCEPTIONS.iter().filter(|exception| exception.of_layout == of_layout) {
            let listed =
                exception.kernels.iter().flat_map(|&(kernel, bars)| bars.iter().map(move |&bar| (kernel, bar)));
            // Another batch may miss less.
            let lines: String =
                listed.filter_map(|(kernel, bar)| Some(line(kernel, bar, missed.remove(&(kernel, bar))?))).collect();
            if !lines.is_empty() {
                let _ = write!(text, "\n{}:\n\n{lines}", uppercase(exception.why));
            }
        }
    }
    if !missed.is_empty() {
        text += "\n### For no reason that is known\n\n";
        text.extend(missed.into_iter().map(|((kernel, bar), cases)| line(kernel, bar, cases)));
    }
    text
}

fn uppercase(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Bounds of a launch under one profile, converted to another, are those that the emulator gives under the other: tried
/// on a product and on a kernel that memory limits.
fn check_conversion(images: Images) -> Fallible<()> {
    counted::install()?;
    let rig = Rig::new()?;
    let small = Images { batch: 2, ..images };
    let tried = ["conv2d_fprop/bf16/s4.c1", "conv2d_wgrad/f32/s4.c1a", "batch_norm_backward_relu/f32/post"];
    for case in cases::all(small).into_iter().filter(|case| tried.contains(&&case.id()[..])) {
        let on_a100 = counted::count(&rig, &case)?;
        warpsmith_emulator::configure("profile", H100.key)?;
        let on_h100 = counted::count(&rig, &case);
        warpsmith_emulator::configure("profile", A100.key)?;
        for (a, h) in on_a100.iter().zip(&on_h100?) {
            for (name, us) in H100.bounds(a, &A100) {
                let said = h.bounds_us.get(&name).copied().unwrap_or(0.0);
                // The report has six digits behind the point.
                if (us - said).abs() > 1e-4 * said + 2e-6 {
                    return Err(format!("{}: {name} takes {said} us on an H100, converted {us}", a.kernel).into());
                }
            }
        }
    }
    Ok(())
}

/// What results are made from: other kernels, counters and batches give others.
pub fn made_from(images: Images) -> Value {
    json!({
        "ptx": format!("{:016x}", ptx_hash()),
        "counters": warpsmith_emulator::COUNTERS.as_slice(),
        "size": images.size,
        "batch": images.batch,
    })
}

/// Results of an earlier run of this program: of the kernels that are built in, and of the same batch.
fn earlier(path: &Path, images: Images) -> Option<Value> {
    let results: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (results["made_from"] == made_from(images)).then_some(results)
}

/// Runs this program on its own for a part of the counting: the emulator keeps a note of all memory that a process has
/// ever had. A part that lies in the folder already is taken from there.
fn part(folder: &Path, name: &str, images: Images, arguments: &[String]) -> Fallible<Value> {
    let path = folder.join(format!("{name}.json"));
    if let Some(results) = earlier(&path, images) {
        return Ok(results);
    }
    println!("{name}");
    let [size, batch] = [images.size, images.batch].map(|number| number.to_string());
    let status = Command::new(std::env::current_exe()?)
        .args(["--size", &size, "--batch", &batch, "--json"])
        .arg(&path)
        .args(arguments)
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("counting {name}: {status}").into());
    }
    earlier(&path, images).ok_or_else(|| format!("{} does not hold what was asked for", path.display()).into())
}

/// The launches of the cases, each group of op and type counted by a process of its own.
fn count(cases: Vec<Case>, images: Images, folder: &Path) -> Fallible<Vec<Counted>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for case in &cases {
        groups.entry(format!("{}.{}", case.op, case.dtype)).or_default().push(case.id());
    }
    let mut found: BTreeMap<String, Vec<Launch>> = BTreeMap::new();
    for (name, ids) in groups {
        let results = part(folder, &name, images, &ids)?;
        for case in results["cases"].as_array().into_iter().flatten() {
            let word = |key: &str| case[key].as_str().unwrap_or_default();
            let id = format!("{}/{}/{}", word("op"), word("dtype"), word("name"));
            found.insert(id, serde_json::from_value(case["launches"].clone())?);
        }
    }
    let of = |case: Case| match found.remove(&case.id()) {
        Some(launches) => Ok(Counted { case, launches }),
        None => Err(format!("{} was not counted", case.id()).into()),
    };
    cases.into_iter().map(of).collect()
}

/// Counts the cases and three training steps, and writes the table; parts of the counting lie in `folder`.
pub fn write(path: &Path, images: Images, cases: Vec<Case>, folder: &Path) -> Fallible<()> {
    // What is missing should be missed before the counting.
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let (resources, shares) = (resources(&kept)?, shares(&kept)?);
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let counted = count(cases, images, folder)?;
    check_conversion(images)?;
    let Images { size, batch } = images;
    let mut text = format!(
        "# What the kernels do, counted\n\n\
         {NOTE} ResNet50V2 at {size}x{size}, batch {batch}, on the emulator.\n\
         Written by `cargo bench --bench kernels -- --table kernels/COUNTERS.md` from the PTX with the hash \
         {:016x}.\nEvery result was first compared with the CPU's. The same kernels give the same file.\n{COLUMNS}",
        ptx_hash()
    );
    text += "\n## Products\n";
    products(&mut text, &counted);
    text += "\n## Kernels that memory limits\n";
    memory_bound(&mut text, &counted);
    text += "\n## Registers, shared memory, occupancy\n";
    kernels(&mut text, &counted, &resources, &shares)?;
    let _ = write!(text, "\n## A training step\n\n{NOTE}\n{FLOORS}");
    for (name, _, units) in PRECISIONS {
        let results = part(folder, &format!("step.{name}"), images, &["--step".into(), name.into()])?;
        step_table(
            &mut text,
            images,
            (name, units),
            &serde_json::from_value::<Vec<Launch>>(results["launches"].clone())?,
        );
    }
    let _ = write!(text, "\n## What misses its bar\n{BARS}{}", misses(&counted));
    std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()))?;
    Ok(())
}
