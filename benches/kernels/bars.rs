//! What the counters of a case must say, and which kernels miss it and why.

use crate::cases::{Case, Units};
use crate::counted::{Counters, Way};
use std::fmt;
use std::slice::from_ref;
use warpsmith_emulator::Launch;

/// Sectors that a memory-bound case touches, of the compulsory bytes; the inverse is the least share of a request's
/// sectors that is asked for, and of the bytes that come 16 to a lane.
const MOST_BYTES: f64 = 1.05;
/// Wavefronts of shared memory in kernels on tensor cores, of the number without bank conflicts.
const MOST_WAVEFRONTS: f64 = 1.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bar {
    /// Unique bytes of a case, of the compulsory ones.
    Bytes,
    /// Bytes that a launch asks for, of those that the sectors of its requests hold.
    Coalesced(Way),
    /// Bytes that a launch asks for 16 to a lane, of all.
    Wide(Way),
    /// Wavefronts of a case, of the number without bank conflicts.
    Wavefronts,
}

use Bar::{Bytes, Coalesced, Wavefronts, Wide};
use Way::{Load, Store};

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bytes => "unique bytes, of the compulsory ones",
            Coalesced(Load) => "loads, used of their sectors",
            Coalesced(Store) => "stores, used of their sectors",
            Wide(Load) => "loads, 16 bytes to a lane",
            Wide(Store) => "stores, 16 bytes to a lane",
            Wavefronts => "wavefronts of shared memory, of the number without bank conflicts",
        })
    }
}

impl Bar {
    fn is_kept(self, value: f64) -> bool {
        match self {
            Bytes => value <= MOST_BYTES,
            Coalesced(_) | Wide(_) => value >= 1.0 / MOST_BYTES,
            Wavefronts => value <= MOST_WAVEFRONTS,
        }
    }

    /// A value as tables have it.
    pub fn show(self, value: f64) -> String {
        match self {
            Bytes | Wavefronts => format!("{value:.3}"),
            Coalesced(_) | Wide(_) => format!("{:.0} %", 100.0 * value),
        }
    }

    /// Which of two values is worse, as an order that begins with the worst.
    pub fn worst_first(self, a: f64, b: f64) -> std::cmp::Ordering {
        match self {
            Bytes | Wavefronts => b.total_cmp(&a),
            Coalesced(_) | Wide(_) => a.total_cmp(&b),
        }
    }
}

/// A kernel that misses a bar; where the bar is for all of a case, the first of its kernels.
pub struct Miss<'a> {
    pub kernel: &'a str,
    pub bar: Bar,
    pub value: f64,
}

/// The bars that a case misses, each launch and loads and stores for themselves.
pub fn misses<'a>(case: &Case, launches: &'a [Launch]) -> Vec<Miss<'a>> {
    let counters = Counters(launches);
    let mut found = Vec::new();
    let Some(first) = launches.first() else { return found };
    let mut add = |kernel: &'a str, bar: Bar, value: f64| {
        if !bar.is_kept(value) {
            found.push(Miss { kernel, bar, value });
        }
    };
    if case.units == Units::Memory {
        add(&first.kernel, Bytes, counters.unique_bytes() as f64 / case.bytes as f64);
        for launch in launches {
            for way in [Load, Store] {
                let counters = Counters(from_ref(launch));
                if let Some((used, wide)) = counters.used(way).zip(counters.wide(way)) {
                    add(&launch.kernel, Coalesced(way), used);
                    add(&launch.kernel, Wide(way), wide);
                }
            }
        }
    }
    if counters.instructions_per_mma().is_some() {
        add(&first.kernel, Wavefronts, counters.wavefronts());
    }
    found
}

/// Kernels that miss bars for one reason.
pub struct Exception {
    pub why: &'static str,
    /// Nothing else can be had where the data lies as it does.
    pub of_layout: bool,
    pub kernels: &'static [(&'static str, &'static [Bar])],
}

const LOADS: &[Bar] = &[Coalesced(Load), Wide(Load)];
const WIDE_LOADS: &[Bar] = &[Wide(Load)];
const WIDE_STORES: &[Bar] = &[Wide(Store)];
const WIDE_BOTH: &[Bar] = &[Wide(Load), Wide(Store)];
const ALL: &[Bar] = &[Coalesced(Load), Wide(Load), Coalesced(Store), Wide(Store)];
const STORES: &[Bar] = &[Coalesced(Store), Wide(Store)];

/// Whoever mends a kernel takes it off this list, which a test compares with what is counted; no other may come.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        why: "a row of ten classes is 40 bytes: no whole sectors, and only every second is aligned to 16",
        of_layout: true,
        kernels: &[
            ("cross_entropy_f32", LOADS),
            ("cross_entropy_backward_f32", ALL),
            ("cross_entropy_correct_f32", LOADS),
            ("cross_entropy_probs_f32", LOADS),
            ("cross_entropy_probs_backward_f32", ALL),
            ("kl_div_f32", LOADS),
            ("kl_div_backward_f32", ALL),
            ("softmax_f32", ALL),
            ("softmax_backward_f32", ALL),
            ("softmax_kl_f32", ALL),
        ],
    },
    Exception {
        why: "values of two widths lie side by side: where those of one side are 16 bytes, those of the other are 8 or 4",
        of_layout: true,
        kernels: &[
            ("adam_f32", WIDE_STORES),
            ("cast_bf16_f32", WIDE_LOADS),
            ("cast_f32_bf16", WIDE_STORES),
            ("max_pool2d_bf16", WIDE_STORES),
            ("max_pool2d_f32", WIDE_STORES),
            ("max_pool2d_backward_bf16", WIDE_LOADS),
            ("max_pool2d_backward_f32", WIDE_LOADS),
            ("rescale_u8_f32", WIDE_LOADS),
            ("sgd_f32", WIDE_STORES),
            ("swa_assign_f32", WIDE_STORES),
        ],
    },
    Exception {
        why: "every warp reads numbers of the launch, of its sample or of three channels: 4 to 12 bytes of a sector",
        of_layout: true,
        kernels: &[
            ("dropout_bf16", &[Coalesced(Load)]),
            ("dropout_f32", &[Coalesced(Load)]),
            ("fill_from_f32", LOADS),
            ("normalization_f32", LOADS),
            ("normalization_u8_f32", LOADS),
            ("scale_by_f32", &[Coalesced(Load)]),
        ],
    },
    Exception {
        why: "the result is one number",
        of_layout: true,
        kernels: &[("loss_mean_f64", STORES), ("sum_f32", STORES)],
    },
    Exception {
        why: "pixels are looked up where a crop, a rotation or a resize asks for them",
        of_layout: true,
        kernels: &[
            ("augment_geometry_crop_u8", &[Bytes, Wide(Load)]),
            ("augment_geometry_crop_f32", WIDE_LOADS),
            ("augment_geometry_resize_u8", LOADS),
            ("augment_geometry_resize_f32", LOADS),
            ("augment_geometry_warp_u8", LOADS),
            ("augment_geometry_warp_f32", LOADS),
            ("augment_pipeline_geometry_f32", LOADS),
            ("augment_pipeline_shared_f32", LOADS),
            ("augment_pipeline_workspace_f32", LOADS),
        ],
    },
    Exception {
        why: "a row of a box begins and ends inside a sector: of 216 bytes that is much",
        of_layout: true,
        kernels: &[("augment_geometry_crop_u8", &[Coalesced(Load)])],
    },
    Exception {
        why: "tables of c channels and their partial sums, or the few terms of one sum: together at most 0.4 % of a step's \
              predicted time, where 16 bytes a lane would leave at most half of the lanes with work in double precision",
        of_layout: false,
        kernels: &[
            ("batch_norm_backward_merge_f32", WIDE_BOTH),
            ("batch_norm_inv_std_f32", WIDE_BOTH),
            ("batch_norm_statistics_merge_f32", WIDE_BOTH),
            ("loss_mean_f64", WIDE_LOADS),
            ("sum_f32", WIDE_LOADS),
        ],
    },
    Exception {
        why: "a warp has one row and writes the one loss of it: n losses, a kilobyte a launch, where more rows to a warp would \
              leave fewer warps with work",
        of_layout: false,
        kernels: &[("cross_entropy_f32", STORES), ("cross_entropy_probs_f32", STORES), ("kl_div_f32", STORES)],
    },
];
