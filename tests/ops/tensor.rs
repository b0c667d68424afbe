//! Tensors and the device's memory pool, on the host; those of a GPU are in tests/kernels/device.rs.

use crate::{assert_error, f32s};
use half::bf16;
use warpsmith::{DType, Device, Element, Tensor, ops};

/// The CPU, with a memory pool of its own.
fn device() -> Device {
    Device::cpu().unwrap()
}

#[test]
fn reads_share_and_writes_exclude() {
    let device = device();
    let x = f32s(&device, &[4], &[1.0, 2.0, 3.0, 4.0]);
    {
        let (first, second) = (x.read::<f32>().unwrap(), x.read::<f32>().unwrap());
        assert_eq!(*first, *second);
        assert_error(
            x.write::<f32>(),
            &["Tensor::write: expected elements that nobody else is using", "being read", "drop the other guard"],
        );
        drop(first);
        assert_error(x.write::<f32>(), &["being read"]);
    }
    {
        let mut writer = x.write::<f32>().unwrap();
        writer[0] = 5.0;
        assert_error(x.read::<f32>(), &["Tensor::read: expected elements that nobody else is using", "being written"]);
        assert_error(x.write::<f32>(), &["being written"]);
        assert_error(x.to_vec::<f32>(), &["being written"]);
        assert_error(x.duplicate(), &["being written"]);
        assert_error(x.zero(), &["being written"]);
    }
    assert_eq!(x.to_vec::<f32>().unwrap(), [5.0, 2.0, 3.0, 4.0]);
    assert_error(x.copy_from(&x), &["being written"]);
}

#[test]
fn views_are_written_side_by_side_but_never_into_each_other() {
    let device = device();
    let arena = Tensor::zeros(&device, &[10], DType::F32).unwrap();
    let (left, middle, right) =
        (arena.view(0, &[5]).unwrap(), arena.view(4, &[2]).unwrap(), arena.view(5, &[5]).unwrap());
    assert!(!arena.is_unique());
    {
        let mut l = left.write::<f32>().unwrap();
        let mut r = right.write::<f32>().unwrap();
        l.fill(1.0);
        r.fill(2.0);
        assert_error(middle.write::<f32>(), &["being written"]);
        assert_error(middle.read::<f32>(), &["being written"]);
        assert_error(arena.read::<f32>(), &["being written"]);
        drop(l);
        assert_error(middle.read::<f32>(), &["being written"]);
    }
    assert_eq!(middle.to_vec::<f32>().unwrap(), [1.0, 2.0]);
    // A view of a view, under another shape.
    let inner = right.view(1, &[4]).unwrap().reshape(&[2, 2]).unwrap();
    inner.view(3, &[1]).unwrap().fill(9.0f32).unwrap();
    assert_eq!(arena.to_vec::<f32>().unwrap(), [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 9.0]);
    // An empty window is nobody's, even in the middle of one that is being written.
    let empty = arena.view(3, &[0]).unwrap();
    let _writer = arena.write::<f32>().unwrap();
    assert!(empty.read::<f32>().unwrap().is_empty() && empty.write::<f32>().unwrap().is_empty());
    drop((left, middle, right, inner, empty));
    drop(_writer);
    assert!(arena.is_unique());
}

#[test]
fn wrong_shapes_are_errors() {
    let device = device();
    let x = Tensor::zeros(&device, &[2, 3], DType::F32).unwrap();
    assert_error(x.reshape(&[4]), &["Tensor::reshape: expected a shape of 6 elements, got [4]", "[2, 3]"]);
    assert_eq!(x.reshape(&[3, 1, 2]).unwrap().shape(), [3, 1, 2]);
    for (start, shape) in [(0, vec![7]), (6, vec![1]), (5, vec![2]), (7, vec![0]), (usize::MAX, vec![2])] {
        assert_error(x.view(start, &shape), &["Tensor::view: expected a window inside 6 elements"]);
    }
    assert_eq!(x.view(6, &[0]).unwrap().elems(), 0);
    // A window of a window cannot reach the rest of the storage.
    assert_error(x.view(1, &[2]).unwrap().view(1, &[2]), &["expected a window inside 2 elements"]);
    assert_error(
        Tensor::from_slice(&device, &[2, 2], &[1.0f32; 3]),
        &["Tensor::from_slice: expected 4 elements in `values`, got 3"],
    );
    assert_error(x.item(), &["Tensor::item: expected 1 element, got [2, 3]"]);
    assert_error(x.copy_from_bytes(&[0; 23]), &["Tensor::copy_from_bytes: expected 24 elements in `bytes`, got 23"]);
    assert_error(x.nhwc("here"), &["here: expected 4 axes [n, h, w, c]", "[2, 3]"]);
    for other in [
        Tensor::zeros(&device, &[3, 2], DType::F32).unwrap(),
        Tensor::zeros(&device, &[2, 3], DType::I32).unwrap(),
        Tensor::zeros(&crate::device(), &[2, 3], DType::F32).unwrap(),
    ] {
        assert_error(x.copy_from(&other), &["Tensor::copy_from", "shape, type and device must be equal"]);
    }
}

#[test]
fn absurd_shapes_are_errors() {
    let device = device();
    for shape in [vec![usize::MAX, 2], vec![usize::MAX], vec![1 << 61], vec![1 << 32, 1 << 32], vec![usize::MAX, 2, 0]]
    {
        assert_error(
            Tensor::zeros(&device, &shape, DType::U8),
            &["Tensor::empty: expected a shape that fits the address space"],
        );
    }
    let x = Tensor::zeros(&device, &[2], DType::F32).unwrap();
    assert_error(x.reshape(&[usize::MAX, 2]), &["fits the address space"]);
    assert_error(x.view(0, &[usize::MAX, 2]), &["fits the address space"]);
    // It fits the address space, but no machine has 4 PiB.
    assert_error(
        Tensor::empty(&device, &[1 << 50], DType::F32),
        &["device cpu: out of memory: requested 4503599627370496"],
    );
    assert_eq!(device.memory().in_use_bytes, 64, "x alone");
    // Before it gives up, the pool returns what it has cached.
    drop(Tensor::zeros(&device, &[1000], DType::F32).unwrap());
    assert_eq!(device.memory().reserved_bytes, 64 + 4032);
    assert_error(Tensor::empty(&device, &[1 << 50], DType::F32), &["with 64 in use and 64 reserved"]);
}

#[test]
fn zero_size_tensors() {
    let device = device();
    for shape in [vec![0], vec![3, 0, 2], vec![0, usize::MAX]] {
        let x = Tensor::zeros(&device, &shape, DType::F32).unwrap();
        assert_eq!((x.elems(), x.to_vec::<f32>().unwrap()), (0, vec![]));
        assert_eq!(x.duplicate().unwrap().shape(), shape);
        assert!(x.to_bytes().unwrap().is_empty());
        x.copy_from_bytes(&[]).unwrap();
    }
    let scalar = Tensor::full(&device, &[], 3.0f32).unwrap();
    assert_eq!((scalar.elems(), scalar.item().unwrap()), (1, 3.0));
}

#[test]
fn zero_size_inputs_of_ops_do_not_panic() {
    let device = device();
    let tape = warpsmith::Tape::no_grad();
    let empty = |shape: &[usize]| tape.constant(Tensor::zeros(&device, shape, DType::F32).unwrap());
    let x = empty(&[0, 3]);
    for op in [ops::relu(&x), ops::scale(&x, 2.0), ops::add(&x, &x), ops::cast(&x, DType::Bf16)] {
        assert_eq!(op.map(|y| y.tensor().elems()).unwrap_or(0), 0);
    }
    assert_eq!(ops::sum(&x).unwrap().tensor().item().unwrap(), 0.0);
    let labels = Tensor::zeros(&device, &[0], DType::I32).unwrap();
    assert_error(ops::cross_entropy(&x, &labels), &["cross_entropy"]);
    assert_error(ops::softmax_kl(x.tensor(), &x, 1.0), &["softmax_kl"]);
    assert_error(ops::softmax(x.tensor(), 1.0), &["softmax"]);
    assert_error(ops::linear(&x, &empty(&[4, 3]), None), &["linear"]);
    assert_error(ops::linear(&empty(&[2, 0]), &empty(&[4, 0]), None), &["linear"]);
    assert_error(ops::l2_normalize(&x), &["l2_normalize"]);
    assert_error(ops::similarity_matrix(&x, 1.0), &["similarity_matrix"]);
    assert_error(ops::global_avg_pool(&empty(&[1, 0, 4, 2])), &["global_avg"]);
    assert_error(ops::max_pool2d(&empty(&[1, 4, 4, 0]), [2, 2], Default::default(), 0.0), &["pool2d"]);
    let stream = warpsmith::rng::Stream { seed: 0, step: 0, index: 0, op: 0 };
    assert_error(ops::dropout(&x, 0.5, stream, &[]), &["dropout"]);
    let form = ops::ContrastiveLoss::Npairs { temperature: 1.0 };
    assert_error(ops::contrastive_loss(&x, &labels, form), &["supcon"]);
}

#[test]
fn element_types() {
    fn round_trip<T: Element + PartialEq + std::fmt::Debug>(device: &Device, values: &[T], dtype: DType) {
        let x = Tensor::from_slice(device, &[values.len()], values).unwrap();
        assert_eq!((x.dtype(), x.elems()), (dtype, values.len()));
        assert_eq!(x.to_vec::<T>().unwrap(), values);
        let bytes = x.to_bytes().unwrap();
        assert_eq!(bytes.len(), values.len() * dtype.bytes());
        let y = Tensor::zeros(device, x.shape(), dtype).unwrap();
        y.copy_from_bytes(&bytes).unwrap();
        assert_eq!(y.to_vec::<T>().unwrap(), values);
        assert_eq!(y.duplicate().unwrap().to_vec::<T>().unwrap(), values);
        assert_eq!(x.view(1, &[2]).unwrap().to_vec::<T>().unwrap(), values[1..3]);
        y.zero().unwrap();
        assert!(y.to_bytes().unwrap().iter().all(|&byte| byte == 0));
    }
    let device = device();
    round_trip(&device, &[1.5f32, -0.0, f32::MAX], DType::F32);
    round_trip(&device, &[1.5, -0.25, 3e38].map(bf16::from_f32), DType::Bf16);
    round_trip(&device, &[0u8, 7, 255], DType::U8);
    round_trip(&device, &[i32::MIN, 0, i32::MAX], DType::I32);
    let x = Tensor::from_slice(&device, &[1], &[7i32]).unwrap();
    assert_error(x.read::<f32>(), &["Tensor::read: expected a tensor of f32, got i32", "cast"]);
    assert_error(x.write::<bf16>(), &["Tensor::write: expected a tensor of bf16, got i32"]);
    assert_error(x.item(), &["expected a tensor of f32, got i32"]);
}

#[test]
fn the_pool_reuses_memory() {
    let device = device();
    let step = || {
        let a = Tensor::empty(&device, &[1000], DType::F32).unwrap();
        let b = Tensor::empty(&device, &[500], DType::F32).unwrap();
        drop(a);
        let c = Tensor::empty(&device, &[900], DType::F32).unwrap();
        (b, c)
    };
    drop(step());
    let warm = device.memory();
    assert_eq!(warm.in_use_bytes, 0);
    assert_eq!(warm.system_allocations, 2, "c takes a's place");
    for _ in 0..10 {
        drop(step());
    }
    assert_eq!(device.memory(), warm);
    // A small tensor does not sit on a large block.
    let small = Tensor::empty(&device, &[16], DType::F32).unwrap();
    assert_eq!(device.memory().system_allocations, 3);
    assert_eq!(device.memory().in_use_bytes, 64);
    drop(small);
    device.trim_memory();
    let trimmed = device.memory();
    assert_eq!((trimmed.reserved_bytes, trimmed.in_use_bytes), (0, 0));
}

#[test]
fn memory_is_counted() {
    let device = device();
    assert_eq!(device.memory().peak_bytes, 0);
    let a = Tensor::empty(&device, &[100], DType::F32).unwrap();
    assert_eq!(device.memory().in_use_bytes, 448, "400 bytes in units of 64");
    let b = Tensor::empty(&device, &[64], DType::U8).unwrap();
    let view = a.view(10, &[5]).unwrap();
    drop(a);
    assert_eq!(device.memory().in_use_bytes, 512, "a view keeps the whole storage");
    drop(view);
    let memory = device.memory();
    assert_eq!((memory.in_use_bytes, memory.peak_bytes, memory.reserved_bytes), (64, 512, 512));
    device.reset_peak_memory();
    assert_eq!(device.memory().peak_bytes, 64);
    drop(b);
    assert_eq!(self::device().memory().reserved_bytes, 0, "every handle has a pool of its own");
    assert_eq!(device.clone().memory(), device.memory());
}

#[test]
fn a_tensor_outlives_its_device_handle() {
    let x = f32s(&device(), &[2], &[1.0, 2.0]);
    assert_eq!(x.duplicate().unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
}

#[test]
fn the_uncached_mode_keeps_nothing() {
    let device = Device::cpu_uncached().unwrap();
    for n in 1..=5 {
        let x = Tensor::zeros(&device, &[100], DType::F32).unwrap();
        let memory = device.memory();
        assert_eq!(memory.system_allocations, n, "one per tensor");
        assert_eq!((memory.in_use_bytes, memory.reserved_bytes), (448, 448));
        drop(x);
        assert_eq!(device.memory().reserved_bytes, 0);
    }
}

#[test]
fn tensors_cross_threads() {
    let device = device();
    let arena = Tensor::zeros(&device, &[1000], DType::F32).unwrap();
    std::thread::scope(|scope| {
        for part in 0..10 {
            let view = arena.view(part * 100, &[100]).unwrap();
            scope.spawn(move || view.write::<f32>().unwrap().fill(part as f32));
        }
    });
    let got = arena.to_vec::<f32>().unwrap();
    assert!(got.iter().enumerate().all(|(i, &v)| v == (i / 100) as f32));
}

#[test]
fn devices() {
    assert_error(Device::cpu_with_threads(0), &["Device::cpu_with_threads: expected at least 1 thread, got 0"]);
    let three = Device::cpu_with_threads(3).unwrap();
    assert_eq!(three.threads(), 3);
    assert_eq!(three.to_string(), "cpu (3 threads)");
    assert_eq!(three, three.clone());
    assert_ne!(three, Device::cpu_with_threads(3).unwrap());
    assert_eq!(three.run(|| 6 * 7), 42);

    let auto = Device::auto().unwrap();
    let x = Tensor::full(&auto.device, &[1], 2.0f32).unwrap();
    assert_eq!(x.item().unwrap(), 2.0);
    #[cfg(feature = "cuda")]
    {
        match auto.device.gpu() {
            Some(gpu) => assert_eq!(auto.reason, gpu.info().to_string()),
            // On a machine without a driver, which most are; others have texts of their own, see tests/cuda.
            None => assert!(!auto.reason.is_empty()),
        }
        assert_error(Device::cuda(1 << 20), &["device cuda:1048576: "]);
    }
}
