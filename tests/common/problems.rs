//! Curated problems, each with its reason: the tests of both devices go through all of them.

use warpsmith::problem::{Conv2dProblem, Pool2dProblem, Window};

fn window(pads: [u32; 4], strides: [u32; 2], dilations: [u32; 2]) -> Window {
    Window { pads, strides, dilations }
}

/// The convolutions: images `[n,h,w,c]`, filters `[k,r,s]`, window. "Exact classes" are batches that the host's blocks divide.
pub fn conv2d() -> Vec<(&'static str, Conv2dProblem)> {
    let square = Window::square;
    let list = vec![
        ("one multiplication", [1, 1, 1, 1], [1, 1, 1], square(0, 1)),
        ("R differs from S", [2, 7, 9, 5], [6, 3, 2], square(1, 1)),
        ("one row of taps", [2, 5, 9, 4], [8, 1, 5], window([0, 0, 2, 2], [1, 1], [1, 1])),
        ("one column of taps", [17, 9, 5, 4], [8, 5, 1], window([2, 2, 0, 0], [1, 1], [1, 1])),
        ("C below a vector", [2, 8, 8, 3], [16, 3, 3], square(1, 1)),
        ("C not a multiple of 4", [3, 6, 6, 13], [20, 3, 3], square(1, 1)),
        ("K=1", [4, 6, 6, 8], [1, 3, 3], square(1, 1)),
        ("K one more than a panel", [2, 6, 6, 8], [33, 3, 3], square(1, 1)),
        ("K one vector and a bit", [20, 4, 4, 8], [17, 3, 3], square(1, 1)),
        ("stride 2, even image", [2, 8, 8, 6], [10, 3, 3], square(1, 2)),
        ("stride 2, odd image", [2, 9, 9, 6], [10, 3, 3], square(1, 2)),
        ("stride 2, even image, exact classes", [18, 8, 8, 6], [10, 3, 3], square(1, 2)),
        ("stride 2, odd image, exact classes", [18, 9, 9, 6], [10, 3, 3], square(1, 2)),
        ("strides differ", [2, 9, 10, 4], [5, 3, 3], window([1, 1, 1, 1], [1, 3], [1, 1])),
        ("stride larger than the filter: pixels that no window sees", [3, 11, 11, 4], [6, 2, 2], square(0, 3)),
        ("stride larger than the filter, exact classes", [16, 11, 11, 4], [6, 2, 2], square(0, 3)),
        ("stride larger than the image", [2, 3, 3, 4], [6, 3, 3], square(0, 7)),
        ("asymmetric padding", [2, 7, 6, 5], [7, 3, 3], window([0, 2, 1, 0], [1, 1], [1, 1])),
        (
            "asymmetric padding with stride 2 (TensorFlow's `same`)",
            [16, 8, 8, 5],
            [7, 3, 3],
            window([0, 1, 0, 1], [2, 2], [1, 1]),
        ),
        ("dilation", [2, 9, 9, 5], [7, 3, 3], window([2; 4], [1, 1], [2, 2])),
        ("dilation, exact classes", [19, 9, 9, 5], [7, 3, 3], window([2; 4], [1, 1], [2, 2])),
        ("dilation and stride share a factor", [17, 11, 11, 4], [6, 3, 3], window([2; 4], [2, 2], [2, 2])),
        ("dilation and stride are coprime", [2, 12, 11, 4], [6, 3, 3], window([3; 4], [2, 2], [3, 3])),
        ("padding beyond the filter: windows of zeros", [2, 4, 4, 3], [5, 2, 2], square(3, 1)),
        ("padding beyond the filter, exact classes", [16, 4, 4, 3], [5, 2, 2], square(3, 1)),
        ("rows that the stride never reaches", [2, 8, 8, 3], [5, 2, 2], square(0, 5)),
        ("1x1 with stride 2", [2, 7, 7, 8], [12, 1, 1], square(0, 2)),
        ("1x1 with stride 2, exact classes", [16, 7, 7, 8], [12, 1, 1], square(0, 2)),
        ("1x1 with padding", [2, 4, 4, 8], [12, 1, 1], square(1, 1)),
        ("last stage at 32x32: one pixel, centre tap only", [21, 1, 1, 24], [40, 3, 3], square(1, 1)),
        ("one pixel, small batch", [2, 1, 1, 24], [40, 3, 3], square(1, 1)),
        ("batch 1", [1, 14, 14, 16], [32, 3, 3], square(1, 1)),
        ("filter as large as the image", [2, 5, 5, 7], [9, 5, 5], square(0, 1)),
        ("depth over several blocks", [2, 3, 3, 200], [18, 3, 3], square(1, 1)),
        ("depth over several blocks, exact classes", [16, 3, 3, 130], [18, 3, 3], square(1, 1)),
        ("more filters than one wgrad tile", [2, 2, 2, 5], [300, 1, 1], square(0, 1)),
        ("more columns than one wgrad tile, cut inside a tap", [2, 3, 3, 150], [7, 3, 3], square(1, 1)),
        ("several row blocks", [3, 17, 19, 4], [6, 3, 3], square(1, 1)),
        ("stem 7x7/2", [2, 24, 24, 3], [64, 7, 7], square(3, 2)),
        ("stem 7x7/2, exact classes", [16, 12, 12, 3], [64, 7, 7], square(3, 2)),
        ("shortcut 1x1", [2, 6, 6, 64], [256, 1, 1], square(0, 1)),
        ("reduce 1x1", [2, 6, 6, 256], [64, 1, 1], square(0, 1)),
        ("stage 1 3x3", [2, 6, 6, 64], [64, 3, 3], square(1, 1)),
        ("stage 1 3x3, exact classes", [16, 3, 3, 64], [64, 3, 3], square(1, 1)),
        ("stage end 3x3/2", [2, 9, 9, 64], [64, 3, 3], square(1, 2)),
        ("large C", [1, 2, 2, 2048], [40, 1, 1], square(0, 1)),
        ("large K", [1, 2, 2, 40], [2048, 1, 1], square(0, 1)),
    ];
    [named(list), conv2d_tiles()].concat()
}

/// Those of them that are about the tiles of the device: computed in every shape of tile.
pub fn conv2d_tiles() -> Vec<(&'static str, Conv2dProblem)> {
    let square = Window::square;
    named(vec![
        ("channels below a pack", [2, 5, 6, 3], [4, 3, 3], square(1, 1)),
        (
            "a pack of channels, below a tile; R is not S",
            [1, 9, 7, 8],
            [12, 3, 2],
            window([1, 0, 0, 1], [1, 1], [1, 1]),
        ),
        ("stride 2 over even extents, whole tiles of channels", [2, 8, 8, 64], [64, 3, 3], square(1, 2)),
        ("stride 2 over odd extents, whole tiles of channels", [2, 7, 9, 32], [32, 3, 3], square(1, 2)),
        (
            "pixels that no tap reaches, strides that differ",
            [1, 9, 9, 8],
            [32, 2, 3],
            window([2, 1, 0, 3], [3, 2], [1, 2]),
        ),
        (
            "stride and dilation share a factor in one axis",
            [1, 11, 10, 16],
            [32, 3, 3],
            window([2, 2, 3, 3], [2, 2], [2, 3]),
        ),
        ("no extent is a multiple of anything", [3, 6, 5, 6], [10, 3, 3], window([0, 2, 1, 0], [2, 1], [1, 2])),
        ("several tiles with tails, channels no multiple of BK", [1, 12, 12, 72], [136, 3, 3], square(1, 1)),
        ("a plain GEMM, tails everywhere", [150, 1, 1, 264], [200, 1, 1], square(0, 1)),
        ("a plain GEMM, deep enough to be cut into parts in every pass", [2, 18, 18, 264], [264, 1, 1], square(0, 1)),
        ("a plain GEMM whose outputs are no packs", [2, 6, 7, 64], [10, 1, 1], square(0, 1)),
        ("a plain GEMM of less than a tile in depth", [3, 5, 7, 8], [24, 1, 1], square(0, 1)),
        ("windows of padding alone at the corners", [1, 2, 2, 24], [16, 3, 3], square(2, 1)),
        ("a strided 1x1 of whole packs: most of dx is zero", [2, 4, 4, 16], [32, 1, 1], square(0, 2)),
        ("many taps", [1, 2, 24, 32], [32, 1, 17], window([0, 0, 5, 5], [1, 1], [1, 1])),
        (
            "a stride longer than the image, with dilation",
            [2, 3, 4, 32],
            [32, 2, 2],
            window([1, 1, 0, 0], [5, 7], [3, 2]),
        ),
        ("rows longer than a tile", [1, 3, 200, 8], [8, 1, 7], window([0, 0, 3, 3], [1, 1], [1, 1])),
        (
            "more than 2^31 packs of rows between the first tap and the last",
            [1, 2, 8, 64],
            [64, 3, 1],
            window([1 << 26, 1 << 26, 0, 0], [1, 1], [1 << 26, 1]),
        ),
        (
            "more than 2^31 packs of columns between the first tap and the last",
            [1, 1, 2, 256],
            [256, 1, 3],
            window([0, 0, 1 << 27, 1 << 27], [1, 1], [1, 1 << 27]),
        ),
        ("strides that are no int: one window", [2, 3, 3, 1], [1, 3, 3], window([1, 0, 0, 1], [u32::MAX; 2], [1; 2])),
    ])
}

fn named(list: Vec<(&'static str, [u32; 4], [u32; 3], Window)>) -> Vec<(&'static str, Conv2dProblem)> {
    list.into_iter()
        .map(|(why, x, [k, r, s], window)| (why, Conv2dProblem::new(x, [k, r, s, x[3]], window).expect(why)))
        .collect()
}

/// The pooling problems, each with its reason.
pub fn pool2d() -> Vec<(&'static str, Pool2dProblem)> {
    let square = Window::square;
    let list = [
        ("one element", [1, 1, 1, 1], [1, 1], square(0, 1)),
        ("3x3/2, even image", [2, 10, 8, 3], [3, 3], square(1, 2)),
        ("3x3/2, odd image", [1, 9, 7, 2], [3, 3], square(1, 2)),
        ("pool1 at 32x32", [2, 16, 16, 64], [3, 3], square(1, 2)),
        ("channels with a tail behind the tile", [1, 12, 11, 35], [3, 3], square(1, 2)),
        ("1x1/2, even image", [2, 8, 10, 5], [1, 1], square(0, 2)),
        ("1x1/2, odd image", [2, 9, 7, 70], [1, 1], square(0, 2)),
        ("1x1/2 in whole packs: the shortcut of a strided block", [2, 8, 7, 12], [1, 1], square(0, 2)),
        ("1x1 with padding: no fast path", [1, 5, 6, 4], [1, 1], window([1, 0, 0, 2], [2, 3], [1, 1])),
        ("R != S, asymmetric padding, other strides", [1, 7, 9, 3], [2, 4], window([0, 3, 2, 1], [3, 2], [1, 1])),
        ("channels in no pack, asymmetric padding", [3, 5, 6, 7], [2, 3], window([1, 0, 0, 2], [1, 2], [1, 1])),
        ("overlapping windows, stride 1", [1, 6, 6, 3], [3, 3], square(0, 1)),
        ("a row in several blocks", [2, 7, 7, 300], [3, 3], square(1, 1)),
        ("pixels that no window sees", [1, 7, 7, 3], [2, 2], square(0, 3)),
        ("windows that do not overlap, some of padding alone", [1, 6, 6, 3], [4, 4], square(2, 4)),
        ("windows that see padding alone, and overlap", [1, 3, 3, 2], [3, 3], square(3, 1)),
        ("one pixel", [1, 1, 1, 2048], [3, 3], square(1, 2)),
    ];
    list.map(|(why, x, filter, window)| (why, Pool2dProblem::new(x, filter, window).expect(why))).to_vec()
}
