//! What can be said of the comparison where there is neither a GPU nor NVIDIA's libraries.

use std::process::Command;
use warpsmith::cuda::ProbeError;
use warpsmith::cuda::conv2d::Pass;
use warpsmith::problem::{Conv2dProblem, Window};
use warpsmith_peers::Math;
use warpsmith_peers::agree::{compare, tolerance};
use warpsmith_peers::cublas::Gemm;
use warpsmith_peers::cudnn::Extents;
use warpsmith_peers::layers::{classifier, convolutions};
use warpsmith_peers::library::{Library, usable};

const PASSES: [Pass; 3] = [Pass::Fprop, Pass::Dgrad, Pass::Wgrad];

#[test]
fn the_network_has_26_distinct_layers_and_53_convolutions() {
    for (size, distinct) in [(72, 26), (32, 26), (224, 26)] {
        let layers = convolutions(size, 8).unwrap();
        assert_eq!(layers.len(), distinct, "{size}");
        assert_eq!(layers.iter().map(|layer| layer.count).sum::<u32>(), 53);
        // All of ResNet50V2's parameters are 23,585,290: these, 19,008 biases, 90,880 of batch norm, 20,490 of the classifier.
        let weights: usize = layers.iter().map(|layer| layer.count as usize * layer.problem.w_elems()).sum();
        assert_eq!(weights, 23_585_290 - 19_008 - 90_880 - 20_490);
    }
    let layers = convolutions(72, 128).unwrap();
    let (first, last) = (&layers[0].problem, &layers[25].problem);
    assert_eq!((first.p, first.q, first.k), (36, 36, 64));
    assert_eq!((last.h, last.w, last.c, last.k), (3, 3, 2048, 512));
    let classifier = classifier(128, 10).unwrap().problem;
    assert_eq!((classifier.gemm_m(), classifier.gemm_n(), classifier.gemm_k()), (128, 10, 2048));
}

#[test]
fn every_layer_pads_as_cudnn_can() {
    for size in [32, 71, 72, 224] {
        for layer in convolutions(size, 2).unwrap() {
            let (p, e) = (&layer.problem, Extents::new(&layer.problem).unwrap());
            assert_eq!(e.x, [p.n, p.c, p.h, p.w].map(|extent| extent as i32));
            assert_eq!(e.w, [p.k, p.c, p.r, p.s].map(|extent| extent as i32));
            // cuDNN derives the output's extents from the others.
            let output =
                |i: usize| 1 + (e.x[2 + i] + 2 * e.pads[i] - (e.w[2 + i] - 1) * e.dilations[i] - 1) / e.strides[i];
            assert_eq!(e.y, [e.x[0], e.w[0], output(0), output(1)], "{} at {size}", layer.name);
        }
    }
}

#[test]
fn rows_and_columns_are_not_mixed_up() {
    let window = Window { pads: [1, 1, 2, 2], strides: [3, 4], dilations: [5, 6] };
    let e = Extents::new(&Conv2dProblem::new([2, 30, 40, 8], [16, 3, 5, 8], window).unwrap()).unwrap();
    assert_eq!((e.x, e.w), ([2, 8, 30, 40], [16, 8, 3, 5]));
    assert_eq!((e.pads, e.strides, e.dilations), ([1, 2], [3, 4], [5, 6]));
}

#[test]
fn what_cudnn_cannot_say_is_refused() {
    for pads in [[0, 1, 0, 0], [0, 0, 1, 0]] {
        let window = Window { pads, ..Window::default() };
        let problem = Conv2dProblem::new([1, 8, 8, 4], [4, 3, 3, 4], window).unwrap();
        let error = Extents::new(&problem).unwrap_err().to_string();
        assert!(error.contains("expected the same padding above as below"), "{error}");
        assert!(error.contains("pad the image first"), "{error}");
    }
    let huge = Conv2dProblem::new([1 << 20, 32, 32, 4], [4, 1, 1, 4], Window::default()).unwrap();
    let error = Extents::new(&huge).unwrap_err().to_string();
    assert!(error.contains("fewer than 2^31 elements"), "{error}");
}

/// A column-major product as cuBLAS defines it.
fn column_major(gemm: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
    let ([m, n, k], [lda, ldb, ldc]) = (gemm.extents.map(|e| e as usize), gemm.leading.map(|e| e as usize));
    let (a, b) = if gemm.swapped { (b, a) } else { (a, b) };
    let [ta, tb] = gemm.transposed;
    for row in 0..m {
        for column in 0..n {
            let product = |i: usize| {
                let a = if ta { a[i + row * lda] } else { a[row + i * lda] };
                a * if tb { b[column + i * ldb] } else { b[i + column * ldb] }
            };
            c[row + column * ldc] = (0..k).map(product).sum();
        }
    }
}

#[test]
fn a_gemm_is_its_convolution() {
    let p = Conv2dProblem::new([2, 3, 2, 5], [4, 1, 1, 5], Window::default()).unwrap();
    let (rows, k, c) = (p.gemm_m(), 4, 5);
    let numbers = |n: usize, factor: usize| (0..n).map(|i| (i * factor % 7) as f32 - 3.0).collect::<Vec<_>>();
    let (x, w, dy) = (numbers(p.x_elems(), 3), numbers(p.w_elems(), 5), numbers(p.y_elems(), 2));
    for pass in PASSES {
        let gemm = Gemm::new(pass, &p).unwrap();
        let (a, b, want) = match pass {
            Pass::Fprop => {
                let y = |i: usize| (0..c).map(|j| x[i / k * c + j] * w[i % k * c + j]).sum::<f32>();
                (&x, &w, (0..rows * k).map(y).collect::<Vec<_>>())
            }
            Pass::Dgrad => {
                let dx = |i: usize| (0..k).map(|j| dy[i / c * k + j] * w[j * c + i % c]).sum();
                (&w, &dy, (0..rows * c).map(dx).collect())
            }
            Pass::Wgrad => {
                let dw = |i: usize| (0..rows).map(|j| dy[j * k + i / c] * x[j * c + i % c]).sum();
                (&x, &dy, (0..k * c).map(dw).collect())
            }
        };
        let mut got = vec![f32::NAN; want.len()];
        column_major(&gemm, a, b, &mut got);
        assert_eq!(got, want, "{pass:?}");
    }
}

#[test]
fn what_is_no_plain_product_is_refused() {
    for (filter, window) in [(3, Window::square(1, 1)), (1, Window::square(0, 2)), (1, Window::square(1, 1))] {
        let problem = Conv2dProblem::new([1, 8, 8, 4], [4, filter, filter, 4], window).unwrap();
        let error = Gemm::new(Pass::Fprop, &problem).unwrap_err().to_string();
        assert!(error.contains("1x1 filter without stride and padding"), "{error}");
    }
    let products = convolutions(72, 128).unwrap().iter().filter(|l| Gemm::new(Pass::Wgrad, &l.problem).is_ok()).count();
    assert_eq!(products, 18, "all but the stem, four 3x3 and three strided 3x3");
}

#[test]
fn tolerances_tell_the_types_apart() {
    // tf32 where f32 was asked for must be seen: one factor rounded, the other exact, over a thousand products.
    let depth = 1024;
    let rounding = 1.0 / 2048.0 / 3.0 * f64::from(depth).sqrt() / 3.0f64.sqrt();
    assert!(tolerance(Math::F32, depth as usize) < rounding / 4.0);
    assert!(tolerance(Math::Tf32, depth as usize) > 4.0 * rounding);
    // A result that misses one image of many, or is another's, differs by about the size of a result.
    let size = f64::from(depth).sqrt() / 3.0;
    assert!(tolerance(Math::Tf32, depth as usize) < size / 40.0);
    assert!(tolerance(Math::Bf16, depth as usize) < size / 8.0);
}

#[test]
fn a_wrong_value_is_named() {
    assert_eq!(compare(&[1.0, 2.0], &[1.5, 2.0], 1.0), Ok(0.5));
    let error = compare(&[1.0, 2.0, 3.0], &[1.0, 4.0, 0.0], 1.0).unwrap_err();
    assert!(error.contains("2 of 3 values") && error.contains("first [1]: 2 of ours, 4 of theirs"), "{error}");
    for nan in [[f32::NAN, 0.0], [0.0, f32::INFINITY]] {
        assert!(compare(&nan, &[0.0, 0.0], 1.0).is_err());
    }
    assert!(compare(&[f32::NAN], &[f32::NAN], 1.0).is_err());
    assert!(compare(&[], &[], 1.0).is_err(), "nothing is no agreement");
}

#[test]
fn what_is_missing_is_said_with_a_remedy() {
    let error = usable(Err::<(), _>(ProbeError::NoDriverLibrary), |_| true).unwrap_err();
    assert!(error.contains("no GPU") && error.contains("nothing is timed") && error.contains("R535"), "{error}");
    let error = usable(Ok(()), |_| false).unwrap_err();
    for text in ["nothing is timed", "libcudnn.so.9", "nvidia-cudnn-cu12", "libcublas.so.12", "nvidia-cublas-cu12"] {
        assert!(error.contains(text), "{error}");
    }
    // One of the two is enough.
    assert_eq!(usable(Ok(7), |library| library == Library::Cudnn), Ok(7));
    assert_eq!(usable(Ok(7), |library| library == Library::Cublas), Ok(7));
}

/// Features of cudarc in a build of a package of this workspace on its own.
fn cudarc_features(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "tree",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
            "--format",
            "{p} {f}",
            "--offline",
            "--locked",
        ])
        .args(["--package", package])
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("crate names are UTF-8");
    let line = text.lines().find(|line| line.starts_with("cudarc v")).expect("cudarc is part of it");
    let features = line.trim_end_matches(" (*)").rsplit(' ').next().expect("features are last");
    features.split(',').map(str::to_string).collect()
}

#[test]
fn these_libraries_never_reach_the_library() {
    let has = |package, library: &str| cudarc_features(package).iter().any(|feature| feature.starts_with(library));
    for library in ["cudnn", "cublas"] {
        assert!(has("warpsmith-peers", library), "the test looks in the wrong place");
        for package in ["warpsmith", "warpsmith-emulator"] {
            assert!(!has(package, library), "{package} is built with cudarc's {library}");
        }
    }
}
