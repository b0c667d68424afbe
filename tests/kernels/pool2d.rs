//! `kernels/pool2d.cu`: bit by bit equal to the host twins.

use super::Case;
use super::common::oracle::pool2d as oracle;
use super::common::{assert_close, assert_error, problems, random, rtol_sum, widen};
use super::gpu::{Float, assert_bits, gpu};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cpu::pool2d as cpu;
use warpsmith::cuda::pool2d as cuda;
use warpsmith::problem::{Pool2dProblem, Window};

pub const CASES: &[Case] = &[
    ("pool2d::max_f32_equals_the_cpu", || max_equals_the_cpu::<f32>()),
    ("pool2d::max_bf16_equals_the_cpu", || max_equals_the_cpu::<bf16>()),
    ("pool2d::max_matches_the_oracle", max_matches_the_oracle),
    ("pool2d::global_average_equals_the_cpu", global_average_equals_the_cpu),
    ("pool2d::bad_input_is_an_error", bad_input),
];

fn max_equals_the_cpu<T: Float>() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for (why, problem) in problems::pool2d() {
        // Few distinct values: ties are common. A NaN wins its windows.
        let mut x: Vec<f32> = random(problem.x_elems(), 1).iter().map(|x| (x * 4.0).round() * 0.5 - 0.5).collect();
        if x.len() > 8 {
            x[7] = f32::NAN;
        }
        let dy = T::rounded(&random(problem.y_elems(), 2));
        for padding in [0.0, f32::NEG_INFINITY] {
            let (mut y, mut argmax) = (vec![0.0; problem.y_elems()], vec![0; problem.y_elems()]);
            cpu::max(&problem, padding, &x, &mut y, Some(&mut argmax)).unwrap();
            let dx = gpu.put(&T::from_floats(&x));
            let (mut got, mut places) = (s.alloc_zeros::<T>(y.len()).unwrap(), s.alloc_zeros::<u8>(y.len()).unwrap());
            cuda::max(&gpu.kernels, &problem, padding, &dx, &mut got, Some(&mut places), s).unwrap();
            assert_bits(&T::to_floats(&gpu.get(&got)), &T::rounded(&y), why);
            assert_eq!(gpu.get(&places), argmax, "{why}: argmax");
            let mut without = s.alloc_zeros::<T>(y.len()).unwrap();
            cuda::max(&gpu.kernels, &problem, padding, &dx, &mut without, None::<&mut CudaSlice<u8>>, s).unwrap();
            assert_bits(&T::to_floats(&gpu.get(&without)), &T::rounded(&y), why);

            let ddy = gpu.put(&T::from_floats(&dy));
            for accumulate in [false, true] {
                let before = T::rounded(&random(x.len(), 3));
                let mut want = before.clone();
                cpu::max_backward(&problem, &dy, Some(&argmax), accumulate, &mut want).unwrap();
                let subsample = (problem.r, problem.s, problem.pad_top, problem.pad_right) == (1, 1, 0, 0);
                for places in [Some(&places)].into_iter().chain(subsample.then_some(None)) {
                    let mut dx = gpu.put(&T::from_floats(&before));
                    cuda::max_backward(&gpu.kernels, &problem, &ddy, places, accumulate, &mut dx, s).unwrap();
                    assert_bits(&T::to_floats(&gpu.get(&dx)), &T::rounded(&want), why);
                }
            }
        }
    }
}

fn max_matches_the_oracle() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for (why, problem) in problems::pool2d() {
        let x: Vec<f32> = random(problem.x_elems(), 4).iter().map(|x| (x * 5.0).round() / 5.0).collect();
        let dy = random(problem.y_elems(), 5);
        let (want, winner) = oracle::max(&problem, f64::from(-0.4f32), &widen(&x));
        let want_dx = oracle::max_backward(&problem, &winner, &widen(&dy));
        let (mut y, mut dx) = (gpu.put(&vec![f32::NAN; dy.len()]), gpu.put(&vec![f32::NAN; x.len()]));
        let mut places = s.alloc_zeros::<u8>(dy.len()).unwrap();
        cuda::max(&gpu.kernels, &problem, -0.4, &gpu.put(&x), &mut y, Some(&mut places), s).unwrap();
        cuda::max_backward(&gpu.kernels, &problem, &gpu.put(&dy), Some(&places), false, &mut dx, s).unwrap();
        assert_close("max", &why, &[dy.len()], &gpu.get(&y), &want, 1e-7, 1e-7);
        assert_close("max backward", &why, &[x.len()], &gpu.get(&dx), &want_dx, 1e-6, rtol_sum(9));
    }
}

fn global_average_equals_the_cpu() {
    fn check<T: Float>() {
        let (gpu, s) = (gpu(), &gpu().stream);
        for [n, pixels, c] in [[1, 1, 1], [2, 9, 2048], [3, 49, 7], [5, 1, 130]] {
            let (x, dy) = (T::rounded(&random(n * pixels * c, 1)), T::rounded(&random(n * c, 2)));
            let mut want = vec![0.0; n * c];
            cpu::global_avg(n, pixels, c, &x, &mut want).unwrap();
            let mut y = s.alloc_zeros::<T>(n * c).unwrap();
            cuda::global_avg(&gpu.kernels, [n, pixels, c], &gpu.put(&T::from_floats(&x)), &mut y, s).unwrap();
            assert_bits(&T::to_floats(&gpu.get(&y)), &T::rounded(&want), "global_avg");
            let (oracle, rtol) = (oracle::global_avg(n, pixels, c, &widen(&x)), rtol_sum(pixels) + T::EPSILON);
            assert_close(
                "global_avg",
                &[n, pixels, c],
                &[n, c],
                &T::to_floats(&gpu.get(&y)),
                &oracle,
                rtol_sum(pixels),
                rtol,
            );
            for accumulate in [false, true] {
                let mut want = x.clone();
                cpu::global_avg_backward(n, pixels, c, &dy, accumulate, &mut want).unwrap();
                let (ddy, mut dx) = (gpu.put(&T::from_floats(&dy)), gpu.put(&T::from_floats(&x)));
                cuda::global_avg_backward(&gpu.kernels, [n, pixels, c], &ddy, accumulate, &mut dx, s).unwrap();
                assert_bits(&T::to_floats(&gpu.get(&dx)), &T::rounded(&want), "global_avg backward");
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

fn bad_input() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let mut problem = Pool2dProblem::new([2, 9, 9, 64], [3, 3], Window::square(1, 2)).unwrap();
    let x = gpu.put(&vec![0.0f32; problem.x_elems()]);
    let mut y = gpu.put(&vec![0.0f32; problem.y_elems() - 1]);
    let none = None::<&mut CudaSlice<u8>>;
    assert_error(cuda::max(&gpu.kernels, &problem, 0.0, &x, &mut y, none, s), &["max_pool2d", "`y`"]);
    let (dy, mut dx) = (gpu.put(&vec![0.0f32; problem.y_elems()]), gpu.put(&vec![0.0f32; problem.x_elems()]));
    let none = None::<&CudaSlice<u8>>;
    let result = cuda::max_backward(&gpu.kernels, &problem, &dy, none, false, &mut dx, s);
    assert_error(result, &["the argmax of the forward pass"]);
    problem.p += 1;
    let none = None::<&mut CudaSlice<u8>>;
    assert_error(cuda::max(&gpu.kernels, &problem, 0.0, &x, &mut y, none, s), &["Pool2dProblem::new"]);
    let result = cuda::global_avg(&gpu.kernels, [0, 1, 1], &x, &mut y, s);
    assert_error(result, &["positive extents", "[0, 1, 1]"]);
    let nothing = x.slice(0..0);
    let result = cuda::global_avg(&gpu.kernels, [1 << 33, 2, 1 << 30], &nothing, &mut y, s);
    assert_error(result, &["global_avg_pool", "fits the address space"]);
    // More than kernels count in 32 bits: rows above the picture, packs of a row, channels.
    let far = Window { pads: [1 << 31, 0, 0, 0], strides: [1 << 31, 1], ..Window::default() };
    let window = Window::square(0, 1);
    for (x, window) in [([1, 4, 4, 8], far), ([1, 1, 1 << 30, 16], window), ([1, 1, 1, 1 << 31], window)] {
        let problem = Pool2dProblem::new(x, [1, 1], window).unwrap();
        let none = None::<&mut CudaSlice<u8>>;
        let result = cuda::max(&gpu.kernels, &problem, 0.0, &nothing, &mut y, none, s);
        assert_error(result, &["max_pool2d", "below 2^31"]);
        let result = cuda::max_backward(&gpu.kernels, &problem, &nothing, None::<&CudaSlice<u8>>, false, &mut dx, s);
        assert_error(result, &["max_pool2d backward", "below 2^31"]);
    }
}
