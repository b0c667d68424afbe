//! The bars of the counters, over the cases of the kernels' bench: kernels that memory limits move little more than
//! they must, in whole sectors; kernels on tensor cores meet no bank conflicts.
//!
//! A test binary of its own: the emulator's counters are those of the process. Nothing is timed.

#![allow(missing_docs)]

#[path = "../../benches/kernels/bars.rs"]
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

use bars::Bar;
use cases::{Images, Units};
use rig::Rig;
use std::collections::BTreeSet;

/// Ops that cannot keep a bar on some layer, because of where their data lies. Whoever mends one takes it off this list; no
/// other may come.
const EXCEPTED: [(&str, &str, Bar); 7] = [
    // Rows of ten logits are no whole sectors.
    ("cross_entropy", "f32", Bar::Coalesced),
    ("softmax_kl", "f32", Bar::Coalesced),
    // Bytes of pictures are looked up where the crop begins, the rotation or the resize asks for them.
    ("augment_geometry_crop", "u8", Bar::Bytes),
    ("augment_geometry_crop", "u8", Bar::Coalesced),
    ("augment_geometry_resize", "u8", Bar::Coalesced),
    ("augment_geometry_warp", "u8", Bar::Coalesced),
    ("augment_pipeline", "u8", Bar::Coalesced),
];

#[test]
fn kernels_keep_to_their_bars() {
    counted::install().unwrap();
    let rig = Rig::new().unwrap();
    // Conflicts show in any batch, how many bytes a sum costs in its parts at the network's own.
    let on_tensor_cores = [Units::TensorBf16, Units::TensorTf32];
    let products = cases::all(Images { size: 72, batch: 2 }).into_iter();
    let products = products.filter(|case| on_tensor_cores.contains(&case.units));
    let others = cases::all(Images { size: 72, batch: 128 }).into_iter().filter(|case| case.units == Units::Memory);
    let (mut found, mut said) = (BTreeSet::new(), Vec::new());
    for case in products.chain(others) {
        let launches = counted::count(&rig, &case).unwrap();
        for (bar, value) in bars::misses(&case, &launches) {
            found.insert((case.op, case.dtype, bar));
            said.push(format!("{}: {bar}: {value:.3}", case.id()));
        }
    }
    let listed = BTreeSet::from(EXCEPTED);
    let new: Vec<_> = found.difference(&listed).collect();
    let mended: Vec<_> = listed.difference(&found).collect();
    assert!(new.is_empty() && mended.is_empty(), "new {new:?}, mended {mended:?}\n{}", said.join("\n"));
}
