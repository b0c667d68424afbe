//! Launchers and PTX agree on every entry point: its name, the bytes of its parameters, its block size.

use super::Case;
use std::collections::BTreeMap;
use warpsmith::cuda::{entries, ptx};

pub const CASES: &[Case] = &[
    ("abi::launchers_and_kernels_agree", launchers_and_kernels_agree),
    ("abi::ptx_loads_on_the_oldest_driver_that_is_promised", the_ptx_loads_on_the_oldest_driver_that_is_promised),
];

/// Parameter sizes and threads per block of every entry point of a PTX text.
fn read(text: &str) -> BTreeMap<String, (Vec<usize>, u32)> {
    let mut found = BTreeMap::new();
    for part in text.split(".visible .entry ").skip(1) {
        let name = part.split('(').next().unwrap().trim().to_string();
        let head = &part[..part.find('{').unwrap()];
        let params = head.lines().filter(|line| line.contains(".param ")).map(|line| {
            let line = line.trim().trim_end_matches(',');
            match line.split_once("_param_").and_then(|(_, rest)| rest.split_once('[')) {
                Some((_, bytes)) => bytes.trim_end_matches(']').parse().unwrap(),
                None => match line.split_whitespace().nth(1).unwrap() {
                    ".u64" | ".b64" | ".f64" | ".s64" => 8,
                    ".u32" | ".b32" | ".f32" | ".s32" => 4,
                    other => panic!("{name}: parameter type {other}"),
                },
            }
        });
        let params: Vec<usize> = params.collect();
        let bound = head.split(".maxntid ").nth(1).unwrap_or_else(|| panic!("{name} has no __launch_bounds__"));
        let threads: Vec<u32> = bound.lines().next().unwrap().split(',').map(|n| n.trim().parse().unwrap()).collect();
        found.insert(name, (params, threads.iter().product()));
    }
    found
}

fn launchers_and_kernels_agree() {
    let mut kernels = BTreeMap::new();
    for (file, text) in ptx() {
        for (name, (params, threads)) in read(text) {
            kernels.insert((file.to_string(), name), (params, threads));
        }
    }
    let mut launchers = BTreeMap::new();
    for entry in entries() {
        for suffix in entry.suffixes {
            let name = format!("{}_{suffix}", entry.name);
            launchers.insert((entry.file.to_string(), name), (entry.params.to_vec(), entry.block));
        }
    }
    assert!(!launchers.is_empty());
    assert_eq!(launchers, kernels, "left: what Rust launches; right: what the PTX holds");
}

fn the_ptx_loads_on_the_oldest_driver_that_is_promised() {
    for (file, text) in ptx() {
        assert!(text.contains("\n.version 8.2\n") && text.contains("\n.target sm_80\n"), "{file}");
        assert!(!text.contains("used_bytes_mask"), "{file} has a hint of PTX 8.3");
        assert!(!text.contains(".loc ") && !text.contains(".file "), "{file} embeds source paths");
    }
}
