//! The distinct layers of ResNet50V2, for every bench: derived from the topology once, with how often each occurs.
#![allow(dead_code)]

use warpsmith::problem::{Conv2dProblem, Pool2dProblem, Window};

/// Filters and blocks of the four stages. All but the last end with a block of stride 2.
const STAGES: [(u32, u32); 4] = [(64, 3), (128, 4), (256, 6), (512, 3)];

/// Features behind the global average pool.
pub const FEATURES: u32 = 2048;

/// A convolution: `s2.c1a` is the first convolution of the first block of stage 2, `c1` that of its other blocks, `sc`
/// the shortcut, `c2_s2` the strided one of the last block, `c3_end` the one behind that.
#[derive(Debug, Clone)]
pub struct Convolution {
    pub name: String,
    pub count: u32,
    pub problem: Conv2dProblem,
    /// Whether it has a bias: the convolutions in front of a sum do.
    pub bias: bool,
    /// Whether its epilogue adds the shortcut.
    pub residual: bool,
}

/// A batch normalisation of `rows` pixels, with its ReLU.
#[derive(Debug, Clone)]
pub struct Norm {
    pub name: String,
    pub count: u32,
    pub rows: usize,
    pub c: usize,
    /// Whether its gradient is added to that of the shortcut around the block.
    pub adds: bool,
}

/// A maximum pooling: that of the stem, or a shortcut that picks every second pixel.
#[derive(Debug, Clone)]
pub struct Pool {
    pub name: String,
    pub count: u32,
    pub problem: Pool2dProblem,
}

pub fn half(h: u32) -> u32 {
    h.div_ceil(2)
}

/// Every distinct convolution, for `n` images of `size` pixels.
pub fn convolutions(size: u32, n: u32) -> Vec<Convolution> {
    let mut list = Vec::new();
    let mut add = |name: String, count, [h, c, k, r, stride]: [u32; 5]| {
        let window = Window::square(r / 2, stride);
        let problem = Conv2dProblem::new([n, h, h, c], [k, r, r, c], window).expect("a layer of ResNet50V2");
        let residual = name.contains(".c3");
        list.push(Convolution { bias: residual || !name.contains(".c"), residual, name, count, problem });
    };
    add("stem".into(), 1, [size, 3, 64, 7, 2]);
    let mut h = half(half(size));
    let mut input = 64;
    for (stage, (f, blocks)) in STAGES.into_iter().enumerate() {
        let name = |layer: &str| format!("s{}.{layer}", stage + 1);
        let strided = stage < 3;
        let plain = blocks - u32::from(strided);
        add(name("sc"), 1, [h, input, 4 * f, 1, 1]);
        add(name("c1a"), 1, [h, input, f, 1, 1]);
        add(name("c2"), plain, [h, f, f, 3, 1]);
        add(name("c3"), plain, [h, f, 4 * f, 1, 1]);
        add(name("c1"), blocks - 1, [h, 4 * f, f, 1, 1]);
        if strided {
            add(name("c2_s2"), 1, [h, f, f, 3, 2]);
            h = half(h);
            add(name("c3_end"), 1, [h, f, 4 * f, 1, 1]);
        }
        input = 4 * f;
    }
    list
}

/// Layers of equal problems as one: their names joined, their counts added.
pub fn merged<T: Clone>(list: &[T], same: impl Fn(&T, &T) -> bool, join: impl Fn(&mut T, &T)) -> Vec<T> {
    let mut merged: Vec<T> = Vec::new();
    for layer in list {
        match merged.iter_mut().find(|other| same(other, layer)) {
            Some(other) => join(other, layer),
            None => merged.push(layer.clone()),
        }
    }
    merged
}

/// [`convolutions`] whose problems are equal as one, whatever their epilogues.
pub fn distinct_convolutions(size: u32, n: u32) -> Vec<Convolution> {
    merged(
        &convolutions(size, n),
        |a, b| a.problem == b.problem,
        |a, b| (a.name, a.count) = (format!("{}, {}", a.name, b.name), a.count + b.count),
    )
}

/// The batch normalisations in the order of the network.
pub fn norms(size: u32, n: u32) -> Vec<Norm> {
    let mut list = Vec::new();
    let mut add = |name: String, count, h: u32, c: u32, adds| {
        list.push(Norm { name, count, rows: (n * h * h) as usize, c: c as usize, adds });
    };
    let mut h = half(half(size));
    let mut input = 64;
    for (stage, (f, blocks)) in STAGES.into_iter().enumerate() {
        let name = |layer: &str| format!("s{}.{layer}", stage + 1);
        let strided = stage < 3;
        add(name("pre1"), 1, h, input, false);
        add(name("pre"), blocks - 1, h, 4 * f, true);
        add(name("bn1"), blocks, h, f, false);
        add(name("bn2"), blocks - u32::from(strided), h, f, false);
        if strided {
            h = half(h);
            add(name("bn2_s2"), 1, h, f, false);
        }
        input = 4 * f;
    }
    add("post".into(), 1, h, input, false);
    list
}

/// [`norms`] of equal problems as one; `backward` tells those apart whose gradient is added to another.
pub fn distinct_norms(size: u32, n: u32, backward: bool) -> Vec<Norm> {
    merged(
        &norms(size, n),
        |a, b| (a.rows, a.c) == (b.rows, b.c) && (a.adds == b.adds || !backward),
        |a, b| (a.name, a.count) = (format!("{}, {}", a.name, b.name), a.count + b.count),
    )
}

/// The sums of the blocks: elements, and how many there are.
pub fn sums(size: u32, n: u32) -> Vec<(usize, u32)> {
    let ends = convolutions(size, n).into_iter().filter(|layer| layer.residual);
    ends.map(|layer| (layer.problem.y_elems(), layer.count)).collect()
}

/// The pooling of the stem and the shortcuts of strided blocks.
pub fn pools(size: u32, n: u32) -> Vec<Pool> {
    let mut h = half(size);
    let mut list = Vec::new();
    let mut add = |name: String, h, c, r, pad| {
        let problem = Pool2dProblem::new([n, h, h, c], [r, r], Window::square(pad, 2)).expect("a layer of ResNet50V2");
        list.push(Pool { name, count: 1, problem });
    };
    add("pool1".into(), h, 64, 3, 1);
    h = half(h);
    for (stage, (f, _)) in STAGES.into_iter().enumerate().take(3) {
        add(format!("s{}.shortcut", stage + 1), h, 4 * f, 1, 0);
        h = half(h);
    }
    list
}

/// Rows and columns of the last activation.
pub fn last_extent(size: u32) -> u32 {
    (0..5).fold(size, |h, _| half(h))
}
