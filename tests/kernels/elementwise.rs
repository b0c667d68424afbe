//! `kernels/elementwise.cu`, bit by bit equal to the host twins, whatever the length and the alignment.

use super::Case;
use super::gpu::{assert_bits, gpu, numbers};
use half::bf16;
use warpsmith::cpu::elementwise as cpu;
use warpsmith::cuda::elementwise as cuda;

pub const CASES: &[Case] = &[
    ("elementwise::floats_equal_the_cpu", floats_equal_the_cpu),
    ("elementwise::bf16_is_the_rounded_float", bf16_is_the_rounded_float),
    ("elementwise::normalization_equals_the_cpu", normalization_equals_the_cpu),
    ("elementwise::factors_and_sums_stay_on_the_device", factors_and_sums_stay_on_the_device),
    ("elementwise::foreign_buffers_and_streams", foreign_buffers_and_streams),
    ("elementwise::wrong_lengths_are_errors", wrong_lengths_are_errors),
    ("elementwise::nothing_is_nothing", nothing_is_nothing),
];

/// One value, packs with and without a tail, more than a block.
const LENGTHS: [usize; 6] = [1, 4, 7, 1024, 1027, 5003];

/// Elements by which a buffer's start is off its allocation's: 0 is aligned, 1 is not.
const SHIFTS: [usize; 2] = [0, 1];

const SPECIAL: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1e-40, f32::MAX, f32::MIN_POSITIVE, -3.5];

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut values = numbers(n, seed);
    for (value, special) in values.iter_mut().step_by(5).zip(SPECIAL) {
        *value = special;
    }
    values
}

fn factors_and_sums_stay_on_the_device() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let factor = gpu.put(&[-1.7f32]);
    for (n, shift) in LENGTHS.into_iter().flat_map(|n| SHIFTS.map(|shift| (n, shift))) {
        let (x, old) = (numbers(n + shift, 1), numbers(n + shift, 2));
        let dx = gpu.put(&x);
        let (dx, x) = (dx.slice(shift..), &x[shift..]);
        for accumulate in [false, true] {
            let mut dy = gpu.put(&old);
            cuda::scale_by(&gpu.kernels, &dx, &factor, accumulate, &mut dy.slice_mut(shift..), s).unwrap();
            let mut want = old.clone();
            for (want, x) in want[shift..].iter_mut().zip(x) {
                *want = if accumulate { *want + -1.7 * x } else { -1.7 * x };
            }
            assert_bits(&gpu.get(&dy), &want, &format!("scale_by of {n} from {shift}, accumulate {accumulate}"));
        }
        let mut dy = gpu.put(&old);
        cuda::fill_from(&gpu.kernels, &factor, &mut dy.slice_mut(shift..), s).unwrap();
        let mut want = old.clone();
        want[shift..].fill(-1.7);
        assert_bits(&gpu.get(&dy), &want, &format!("fill_from of {n} from {shift}"));
        let mut sum = gpu.put(&[f32::NAN]);
        cuda::sum(&gpu.kernels, &dx, &mut sum, s).unwrap();
        // Both sums are f64, in different orders, of at most 5003 numbers below 2.
        let want: f64 = x.iter().map(|&x| f64::from(x)).sum();
        let got = f64::from(gpu.get(&sum)[0]);
        assert!((got - want).abs() <= f64::from(f32::EPSILON) * want.abs() + 1e-11, "sum of {n}: {got}, not {want}");
    }
    let (one, mut two) = (gpu.put(&[1.0f32]), gpu.put(&[1.0f32; 2]));
    let result = cuda::scale_by(&gpu.kernels, &one, &factor, false, &mut two, s);
    super::common::assert_error(result, &["scale_by", "1 elements in `y`, got 2"]);
    let pair = gpu.put(&[1.0f32; 2]);
    let result = cuda::scale_by(&gpu.kernels, &pair, &pair, false, &mut two, s);
    super::common::assert_error(result, &["scale_by", "1 elements in `factor`, got 2"]);
    super::common::assert_error(cuda::sum(&gpu.kernels, &one, &mut two, s), &["sum", "1 elements in `y`, got 2"]);
    let result = cuda::fill_from(&gpu.kernels, &pair, &mut two, s);
    super::common::assert_error(result, &["fill_from", "1 elements in `value`, got 2"]);
}

/// Addresses of another allocator and a stream that another library has made.
fn foreign_buffers_and_streams() {
    use cudarc::driver::{DevicePtr, DevicePtrMut};
    use warpsmith::cuda::Raw;
    let gpu = gpu();
    let made_elsewhere = gpu.kernels.context().new_stream().unwrap();
    // SAFETY: the stream lives until the end of this function.
    let stream = unsafe { gpu.kernels.context().wrap_borrowed_stream(made_elsewhere.cu_stream()) };
    let x = numbers(1000, 3);
    let (dx, mut dy) = (gpu.put(&x), gpu.put(&[7.0f32; 1000]));
    gpu.stream.synchronize().unwrap();
    {
        let (from, to) = (dx.device_ptr(&gpu.stream).0, dy.device_ptr_mut(&gpu.stream).0);
        // SAFETY: both buffers hold 1000 floats and live on; the stream is synchronised before anybody else uses them.
        let (from, mut to) = unsafe { (Raw::<f32>::new(from, 1000, &stream), Raw::<f32>::new(to, 1000, &stream)) };
        cuda::relu(&gpu.kernels, &from, &mut to, &stream).unwrap();
        stream.synchronize().unwrap();
    }
    let mut want = vec![0.0; 1000];
    cpu::relu(&x, &mut want).unwrap();
    assert_bits(&gpu.get(&dy), &want, "relu");
}

fn floats_equal_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for (n, shift) in LENGTHS.into_iter().flat_map(|n| SHIFTS.map(|shift| (n, shift))) {
        let (a, b) = (values(n + shift, 1), numbers(n + shift, 2));
        let (da, db) = (gpu.put(&a), gpu.put(&b));
        let (xa, xb) = (da.slice(shift..), db.slice(shift..));
        let (a, b) = (&a[shift..], &b[shift..]);
        // Every op on a buffer that holds `b`, on the device and on the host.
        let check = |what: &str, device: &dyn Fn(&mut cudarc::driver::CudaViewMut<f32>), host: &dyn Fn(&mut [f32])| {
            let mut dy = gpu.put(&numbers(n + shift, 2));
            device(&mut dy.slice_mut(shift..));
            let mut y = b.to_vec();
            host(&mut y);
            assert_bits(&gpu.get(&dy.slice(shift..)), &y, &format!("{what} of {n}+{shift}"));
        };
        let k = &gpu.kernels;
        check("relu", &|y| cuda::relu(k, &xa, y, s).unwrap(), &|y| cpu::relu(a, y).unwrap());
        for accumulate in [false, true] {
            check("relu_backward", &|y| cuda::relu_backward(k, &xa, &xb, accumulate, y, s).unwrap(), &|y| {
                cpu::relu_backward(a, b, accumulate, y).unwrap()
            });
        }
        check("add", &|y| cuda::add(k, &xa, &xb, y, s).unwrap(), &|y| cpu::add(a, b, y).unwrap());
        check("add_assign", &|y| cuda::add_assign(k, &xa, y, s).unwrap(), &|y| cpu::add_assign(a, y).unwrap());
        check("scale", &|y| cuda::scale_assign(k, 0.3, y, s).unwrap(), &|y| cpu::scale_assign(0.3, y).unwrap());
        check("rescale", &|y| cuda::rescale(k, &xa, 0.7, -1.1, y, s).unwrap(), &|y| {
            cpu::rescale(a, 0.7, -1.1, y).unwrap()
        });
        check("fill", &|y| cuda::fill(k, 2.5, y, s).unwrap(), &|y| cpu::fill(2.5, y).unwrap());

        let bytes: Vec<u8> = (0..n + shift).map(|i| (i * 37 % 256) as u8).collect();
        let dbytes = gpu.put(&bytes);
        check("rescale_u8", &|y| cuda::rescale_u8(k, &dbytes.slice(shift..), 1.0 / 127.5, -1.0, y, s).unwrap(), &|y| {
            cpu::rescale_u8(&bytes[shift..], 1.0 / 127.5, -1.0, y).unwrap()
        });
    }
}

/// The ops compute in f32 and round once at the end.
fn bf16_is_the_rounded_float() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let k = &gpu.kernels;
    let rounded = |x: &[f32]| -> Vec<bf16> { x.iter().map(|&x| bf16::from_f32(x)).collect() };
    let floats = |x: &[bf16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
    for (n, shift) in LENGTHS.into_iter().flat_map(|n| SHIFTS.map(|shift| (n, shift))) {
        let all = values(n + shift, 3);
        let mut dall = gpu.stream.alloc_zeros::<bf16>(n + shift).unwrap();
        cuda::f32_to_bf16(k, &gpu.put(&all), &mut dall, s).unwrap();
        let mut expected = vec![bf16::ZERO; n + shift];
        cpu::f32_to_bf16(&all, &mut expected).unwrap();
        let got = gpu.get(&dall);
        assert_bits(&floats(&got), &floats(&expected), "f32_to_bf16");
        let mut wide = gpu.stream.alloc_zeros::<f32>(n).unwrap();
        cuda::bf16_to_f32(k, &dall.slice(shift..), &mut wide, s).unwrap();
        assert_bits(&gpu.get(&wide), &floats(&expected[shift..]), "bf16_to_f32");

        let (x, b) = (floats(&expected[shift..]), floats(&rounded(&numbers(n, 4))));
        let (dx, db) = (dall.slice(shift..), gpu.put(&rounded(&b)));
        let check = |what: &str, device: &dyn Fn(&mut cudarc::driver::CudaSlice<bf16>), host: &dyn Fn(&mut [f32])| {
            let mut dy = gpu.put(&rounded(&b));
            device(&mut dy);
            let mut y = b.clone();
            host(&mut y);
            let want = floats(&rounded(&y));
            assert_bits(&floats(&gpu.get(&dy)), &want, &format!("bf16 {what} of {n}+{shift}"));
        };
        check("relu", &|y| cuda::relu(k, &dx, y, s).unwrap(), &|y| cpu::relu(&x, y).unwrap());
        check("relu_backward", &|y| cuda::relu_backward(k, &dx, &db, true, y, s).unwrap(), &|y| {
            cpu::relu_backward(&x, &b, true, y).unwrap()
        });
        check("add", &|y| cuda::add(k, &dx, &db, y, s).unwrap(), &|y| cpu::add(&x, &b, y).unwrap());
        check("add_assign", &|y| cuda::add_assign(k, &dx, y, s).unwrap(), &|y| cpu::add_assign(&x, y).unwrap());
        check("scale", &|y| cuda::scale_assign(k, 0.3, y, s).unwrap(), &|y| cpu::scale_assign(0.3, y).unwrap());
        check("rescale", &|y| cuda::rescale(k, &dx, 0.7, -1.1, y, s).unwrap(), &|y| {
            cpu::rescale(&x, 0.7, -1.1, y).unwrap()
        });
        check("fill", &|y| cuda::fill(k, 2.5, y, s).unwrap(), &|y| cpu::fill(2.5, y).unwrap());
    }
}

fn normalization_equals_the_cpu() {
    let (gpu, s) = (gpu(), &gpu().stream);
    for (rows, c) in [(1, 1), (5, 3), (700, 3), (33, 7)] {
        let (mean, var) = (numbers(c, 5), numbers(c, 6).iter().map(|x| x * x).collect::<Vec<_>>());
        let (dmean, dvar) = (gpu.put(&mean), gpu.put(&var));
        let x = numbers(rows * c, 7);
        let mut y = vec![0.0; rows * c];
        let mut dy = gpu.stream.alloc_zeros::<f32>(rows * c).unwrap();
        cuda::normalization(&gpu.kernels, &gpu.put(&x), &dmean, &dvar, &mut dy, s).unwrap();
        cpu::normalization(&x, &mean, &var, &mut y).unwrap();
        assert_bits(&gpu.get(&dy), &y, "normalization");
        let x: Vec<u8> = x.iter().map(|x| (x * 60.0 + 127.0) as u8).collect();
        cuda::normalization(&gpu.kernels, &gpu.put(&x), &dmean, &dvar, &mut dy, s).unwrap();
        cpu::normalization(&x, &mean, &var, &mut y).unwrap();
        assert_bits(&gpu.get(&dy), &y, "normalization of bytes");
    }
}

fn wrong_lengths_are_errors() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let (x, mut y) = (gpu.put(&[1.0f32; 4]), gpu.put(&[1.0f32; 3]));
    let error = cuda::relu(&gpu.kernels, &x, &mut y, s).unwrap_err().to_string();
    assert!(error.contains("relu") && error.contains('4') && error.contains('3'), "{error}");
    let (table, mut y) = (gpu.put(&[1.0f32; 3]), gpu.put(&[1.0f32; 4]));
    let error = cuda::normalization(&gpu.kernels, &x, &table, &table, &mut y, s).unwrap_err().to_string();
    assert!(error.contains("whole rows of 3 channels"), "{error}");
}

fn nothing_is_nothing() {
    let (gpu, s) = (gpu(), &gpu().stream);
    let (x, mut y) = (gpu.put(&[1.0f32]), gpu.put(&[2.0f32]));
    let (none, mut target) = (x.slice(0..0), y.slice_mut(0..0));
    cuda::relu(&gpu.kernels, &none, &mut target, s).unwrap();
    assert_eq!(gpu.get(&y), [2.0]);
    // What leaves every number as it is: the sum of nothing, as Rust's iterators have it, and of itself.
    for (x, what) in [(&none, "a sum of nothing"), (&gpu.put(&[-0.0f32, -0.0]).slice(..), "a sum of -0")] {
        cuda::sum(&gpu.kernels, x, &mut y, s).unwrap();
        assert_bits(&gpu.get(&y), &[-0.0], what);
    }
}
