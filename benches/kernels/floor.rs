//! The physical floor of a training step: no kernel is faster than its arithmetic at the peak, nor than its compulsory
//! bytes at the memory's rate.

use crate::cases::{Images, Units};
use crate::resnet50v2::{self, FEATURES};
use crate::roofline::Profile;
use warpsmith::cuda::conv2d::Pass;

/// Share of the peak that a tile computes at, for the tiled floor.
const EFFICIENCY: f64 = 0.8;
/// Microseconds from one kernel to the next, for the tiled floor.
pub const GAP_US: f64 = 1.5;
const CLASSES: usize = 10;

/// Which passes over activations are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fusion {
    /// Batch norm, ReLU and sums are kernels of their own.
    None,
    /// Batch norm and ReLU are one kernel either way.
    NormRelu,
    /// Sums of the batch norm in epilogues, its result computed where it is loaded, the residual sum in an epilogue.
    Full,
}

/// What a step takes at least.
#[derive(Debug, Default, Clone, Copy)]
pub struct Floor {
    pub gflop: f64,
    pub gigabytes: f64,
    pub kernels: u32,
    /// Milliseconds, kernels one behind the other.
    pub serial_ms: f64,
    /// Milliseconds, products in whole waves of tiles and with a gap between kernels.
    pub tiled_ms: f64,
}

/// Rates of a device.
struct Rates {
    multiprocessors: u64,
    gflops: f64,
    f32_gflops: f64,
    dram_gbs: f64,
}

impl Rates {
    /// Seconds of a product in the best of some tiles and splits of its depth: whole waves, tiles 32 deep, partial sums
    /// half of which L2 keeps.
    fn tiled(&self, [m, n, k]: [u64; 3]) -> f64 {
        let rate = self.gflops * 1e9 / self.multiprocessors as f64 * EFFICIENCY;
        let tiles = [(256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64)];
        let splits = [1, 2, 3, 4, 6, 8, 12, 16];
        let mut best = f64::INFINITY;
        for (tm, tn) in tiles {
            for split in splits.into_iter().filter(|&split| split == 1 || k / split >= 128) {
                let blocks = m.div_ceil(tm) * n.div_ceil(tn) * split;
                let depth = k.div_ceil(split).div_ceil(32) * 32;
                let waves = blocks.div_ceil(self.multiprocessors) as f64;
                let partials = if split > 1 { (m * n * 4 * split) as f64 / (self.dram_gbs * 1e9) } else { 0.0 };
                best = best.min(waves * (2 * tm * tn * depth) as f64 / rate + partials);
            }
        }
        best
    }
}

impl Floor {
    fn add(&mut self, count: u32, rates: &Rates, flops: usize, bytes: usize, product: Option<[u64; 3]>) {
        let gflops = if product.is_some() { rates.gflops } else { rates.f32_gflops };
        let serial = (flops as f64 / (gflops * 1e9)).max(bytes as f64 / (rates.dram_gbs * 1e9));
        let tiled = product.map_or(serial, |extents| serial.max(rates.tiled(extents)));
        self.gflop += f64::from(count) * if product.is_some() { flops as f64 * 1e-9 } else { 0.0 };
        self.gigabytes += f64::from(count) * bytes as f64 * 1e-9;
        self.kernels += count;
        self.serial_ms += f64::from(count) * serial * 1e3;
        self.tiled_ms += f64::from(count) * (tiled * 1e3 + GAP_US * 1e-3);
    }

    /// Of a step of ResNet50V2: forward, backward, Adam, with elements of `each` bytes that `units` multiply.
    pub fn new(images: Images, device: &Profile, units: Units, fusion: Fusion) -> Floor {
        let Images { size, batch } = images;
        let each = if units == Units::TensorBf16 { 2 } else { 4 };
        let rates = Rates {
            multiprocessors: u64::from(device.multiprocessors),
            gflops: device.gflops(units),
            f32_gflops: device.gflops(Units::F32),
            dram_gbs: device.dram_gbs,
        };
        let mut floor = Floor::default();
        let mut add = |count, flops, bytes, product| floor.add(count, &rates, flops, bytes, product);
        let mut params = 0;
        for layer in resnet50v2::convolutions(size, batch) {
            let (p, flops) = (layer.problem, layer.problem.flops() as usize);
            let (x, y, w) = (p.x_elems(), p.y_elems(), p.w_elems());
            params += layer.count as usize * (w + if layer.bias { p.k as usize } else { 0 });
            for pass in [Pass::Fprop, Pass::Dgrad, Pass::Wgrad] {
                let (stride, taps) = (p.stride_h as usize, (p.r * p.s) as usize);
                let (pixels, c, k) = (p.gemm_m(), p.c as usize, p.k as usize);
                let (bytes, extents) = match pass {
                    Pass::Fprop => (each * (x + y + w), [pixels, k, taps * c]),
                    // The network's input has no gradient.
                    Pass::Dgrad if layer.name == "stem" => continue,
                    Pass::Dgrad => {
                        let rows = if stride == 1 { x / c } else { pixels * stride * stride };
                        (each * (x + y + w), [rows, c, taps * k / (stride * stride)])
                    }
                    Pass::Wgrad => (each * (x + y) + 4 * w, [k, taps * c, pixels]),
                };
                add(layer.count, flops, bytes, Some(extents.map(|extent| extent as u64)));
            }
        }
        for norm in resnet50v2::norms(size, batch) {
            let (elems, count) = (norm.rows * norm.c, norm.count);
            params += count as usize * 2 * norm.c;
            match fusion {
                Fusion::None => {
                    // Statistics and result; ReLU; its gradient; sums and dx.
                    for (flops, passes) in [(8, 3), (1, 2), (1, 3), (12, 5)] {
                        add(count, flops * elems, passes * each * elems, None);
                    }
                }
                Fusion::NormRelu => {
                    for (flops, passes) in [(9, 3), (13, 5)] {
                        add(count, flops * elems, passes * each * elems, None);
                    }
                }
                Fusion::Full => {
                    add(count, 0, 32 * norm.c, None);
                    let passes = if norm.name.contains(".pre") { 5 } else { 3 };
                    add(count, 13 * elems, passes * each * elems, None);
                }
            }
        }
        for (elems, count) in resnet50v2::sums(size, batch) {
            match fusion {
                Fusion::Full => add(count, elems, each * elems, None),
                _ => (0..2).for_each(|_| add(count, elems, 3 * each * elems, None)),
            }
        }
        for pool in resnet50v2::pools(size, batch) {
            let (p, x, y) = (pool.problem, pool.problem.x_elems(), pool.problem.y_elems());
            let picks = p.r == 1;
            add(1, 9 * y, each * (y + if picks { y } else { x }), None);
            add(1, x, each * (x + y) + if picks { 0 } else { y }, None);
        }
        let (n, features) = (batch as usize, FEATURES as usize);
        let last = n * (resnet50v2::last_extent(size) as usize).pow(2) * features;
        (0..2).for_each(|_| add(1, last, each * last, None));
        for extents in [[n, CLASSES, features], [n, features, CLASSES], [CLASSES, features, n]] {
            let bytes = each * n * (features + CLASSES) + 4 * features * CLASSES;
            add(1, 2 * n * features * CLASSES, bytes, Some(extents.map(|extent| extent as u64)));
        }
        params += CLASSES * (features + 1);
        // w, m, v read and written, g read; in bf16 a copy of the weights is written.
        add(1, 12 * params, params * if each == 2 { 30 } else { 28 }, None);
        floor
    }
}
