//! The bars of the counters, over the cases of the kernels' bench: kernels that memory limits move little more than
//! they must, in whole sectors and 16 bytes to a lane; kernels on tensor cores meet no bank conflicts. And the table of
//! the counters, `kernels/COUNTERS.md`, has every case and every kernel.
//!
//! A test binary of its own: the emulator's counters are those of the process. Nothing is timed.

#![allow(missing_docs)]

#[path = "../../benches/kernels/bars.rs"]
#[allow(dead_code)] // The bench prints values and reasons.
mod bars;
#[path = "../../benches/kernels/cases/mod.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../benches/kernels/counted.rs"]
#[allow(dead_code)] // The bench prints what is counted.
mod counted;
#[path = "../../benches/common/resnet50v2.rs"]
mod resnet50v2;
#[path = "../../benches/kernels/rig.rs"]
mod rig;
#[path = "../../benches/kernels/roofline.rs"]
#[allow(dead_code)] // The bench asks real devices too.
mod roofline;

use bars::{Bar, EXCEPTIONS};
use cases::{Case, Images, Units};
use counted::Way;
use rig::Rig;
use std::collections::BTreeSet;
use warpsmith::cuda::entries;
use warpsmith_emulator::Launch;

/// What the table is written for.
const IMAGES: Images = Images { size: 72, batch: 128 };

/// Kernels that other problems than those of the network choose: unaligned operands, and a tile.
const OF_OTHER_PROBLEMS: [&str; 5] = [
    "conv2d_dgrad_implicit_gemm_guarded_bf16",
    "conv2d_wgrad_implicit_gemm_128x128_bf16",
    "gemm_tensor_core_guarded_bf16",
    "similarity_matrix_guarded_bf16",
    "similarity_matrix_guarded_f32",
];

#[test]
fn kernels_keep_to_their_bars() {
    counted::install().unwrap();
    let rig = Rig::new().unwrap();
    // Conflicts show in any batch, how many bytes a sum costs in its parts at the network's own.
    let on_tensor_cores = [Units::TensorBf16, Units::TensorTf32];
    let products = cases::all(Images { batch: 2, ..IMAGES }).into_iter();
    let products = products.filter(|case| on_tensor_cores.contains(&case.units));
    let others = cases::all(IMAGES).into_iter().filter(|case| case.units == Units::Memory);
    let (mut found, mut said) = (BTreeSet::new(), Vec::new());
    for case in products.chain(others) {
        let launches = counted::count(&rig, &case).unwrap();
        for miss in bars::misses(&case, &launches) {
            found.insert((miss.kernel.to_string(), miss.bar));
            said.push(format!("{}: {}: {}: {}", case.id(), miss.kernel, miss.bar, miss.bar.show(miss.value)));
        }
    }
    let kernels = EXCEPTIONS.iter().flat_map(|exception| exception.kernels);
    let listed: BTreeSet<(String, Bar)> =
        kernels.flat_map(|&(kernel, bars)| bars.iter().map(move |&bar| (kernel.to_string(), bar))).collect();
    let new: Vec<_> = found.difference(&listed).collect();
    let mended: Vec<_> = listed.difference(&found).collect();
    assert!(new.is_empty() && mended.is_empty(), "new {new:?}, mended {mended:?}\n{}", said.join("\n"));
}

/// Made-up counters of one warp: sectors, distinct bytes and wide bytes of its loads, then of its stores.
fn warp(kernel: &str, loads: [u64; 3], stores: [u64; 3]) -> Launch {
    let names = |way: &str| ["sectors", "distinct_bytes", "wide_bytes"].map(|name| format!("global_{way}_{name}"));
    let counters = names("load").into_iter().zip(loads).chain(names("store").into_iter().zip(stores));
    let unique = [("unique_read_bytes".to_string(), 32 * loads[0]), ("unique_write_bytes".to_string(), 32 * stores[0])];
    Launch { kernel: kernel.into(), counters: counters.chain(unique).collect(), ..Launch::default() }
}

#[test]
fn bars_are_missed_where_they_should_be() {
    let relu = |case: &Case| case.id() == "relu/f32/s1.pre";
    let mut case = cases::all(Images { batch: 1, ..IMAGES }).into_iter().find(relu).unwrap();
    case.bytes = 1024;
    let missed = |launches: &[Launch]| -> Vec<(String, Bar)> {
        bars::misses(&case, launches).into_iter().map(|miss| (miss.kernel.to_string(), miss.bar)).collect()
    };
    let of = |kernel: &str, bars: &[Bar]| bars.iter().map(|&bar| (kernel.to_string(), bar)).collect::<Vec<_>>();
    // 16 bytes a lane side by side, and the same in words of 4.
    let (whole, narrow) = ([16, 512, 512], [16, 512, 0]);
    assert_eq!(missed(&[warp("good", whole, whole)]), []);
    assert_eq!(missed(&[warp("narrow", narrow, whole)]), of("narrow", &[Bar::Wide(Way::Load)]));
    assert_eq!(missed(&[warp("narrow", whole, narrow)]), of("narrow", &[Bar::Wide(Way::Store)]));
    // Whole sectors of loads do not make up for stores of 40 bytes in two sectors, nor a good launch for a bad one.
    let half = [16, 320, 320];
    assert_eq!(missed(&[warp("rows", whole, half)]), of("rows", &[Bar::Coalesced(Way::Store)]));
    let both = [warp("good", [8, 256, 256], [0; 3]), warp("bad", [8, 160, 160], whole)];
    assert_eq!(missed(&both), of("bad", &[Bar::Coalesced(Way::Load)]));
    // A word that all lanes share is 4 bytes of its sector, not 128.
    let shared = missed(&[warp("shared", [16, 64, 0], whole)]);
    assert_eq!(shared, of("shared", &[Bar::Coalesced(Way::Load), Bar::Wide(Way::Load)]));
    // Twice the compulsory bytes.
    let twice = [32, 1024, 1024];
    assert_eq!(missed(&[warp("twice", twice, twice)]), of("twice", &[Bar::Bytes]));
}

fn table() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/COUNTERS.md");
    std::fs::read_to_string(path).unwrap()
}

/// First cells of the rows of the tables below a title, until the next one.
fn first_cells<'a>(table: &'a str, title: &str) -> BTreeSet<&'a str> {
    let below = table.split_once(&format!("\n{title}\n")).unwrap_or_else(|| panic!("no title `{title}`")).1;
    let rows = below.lines().take_while(|line| !line.starts_with('#')).filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" |").next()).map(str::trim).collect()
}

#[test]
fn every_kernel_is_launched_by_some_case() {
    let table = table();
    let launched = first_cells(&table, "## Registers, shared memory, occupancy");
    let known: Vec<String> =
        entries().iter().flat_map(|e| e.suffixes.iter().map(|suffix| format!("{}_{suffix}", e.name))).collect();
    let missing = known.iter().map(String::as_str).filter(|kernel| !launched.contains(kernel)).collect();
    let listed = BTreeSet::from(OF_OTHER_PROBLEMS);
    assert_eq!(listed, missing, "on the left the list, on the right what no case of kernels/COUNTERS.md launches");
}

#[test]
fn the_table_has_every_case() {
    let table = table();
    for case in cases::all(IMAGES) {
        let (title, row) = if case.units == Units::Memory {
            (format!("### {}", case.dtype), format!("{}: {}", case.op, case.name))
        } else if case.op.starts_with("conv2d") {
            (format!("### {}, {}", case.op, case.dtype), case.name.clone())
        } else {
            ("### Other products".into(), format!("{}, {}: {}", case.op, case.dtype, case.name))
        };
        let known = first_cells(&table, &title).contains(&row[..]);
        let renew = "cargo bench --bench kernels -- --table kernels/COUNTERS.md";
        assert!(known, "kernels/COUNTERS.md lacks {}: renew it with `{renew}`", case.id());
    }
}
