use super::{emulated, uncached};
use cudarc::driver::{CudaContext, DevicePtrMut, LaunchConfig, PushKernelArg};
use warpsmith::cuda::augment_pipeline::{ImageTable, Plan};
use warpsmith::cuda::{Kernels, Raw, SpanTable, elementwise, load_ptx};
use warpsmith::{Device, Result, Tape, Tensor, ops};

/// Writes a float behind the 64 of `y`.
const OVERRUN: &str = "
.version 8.2
.target sm_80
.address_size 64
.visible .entry overrun(.param .u64 y)
{
    .reg .u64 %rd<3>;
    .reg .f32 %f<2>;
    ld.param.u64 %rd1, [y];
    cvta.to.global.u64 %rd2, %rd1;
    mov.f32 %f1, 0f3F800000;
    st.global.f32 [%rd2+256], %f1;
    ret;
}";

/// The error names the device once, says what the GPU reported, and has these parts.
#[track_caller]
fn assert_fault<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("no error") };
    let error = error.to_string();
    assert_eq!(error.matches("cuda:0").count(), 1, "{error}");
    assert!(error.starts_with("device cuda:0") && error.contains("start again"), "{error}");
    for part in [&["an op failed on the GPU: ", "ILLEGAL_ADDRESS"], parts].concat() {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
}

#[test]
fn an_op_of_ones_own_that_faults_is_named_now_and_later() {
    let findings = emulated(|| {
        let device = uncached();
        let gpu = device.gpu().unwrap();
        let (x, spare) = (Tensor::full(&device, &[64], 1.0f32).unwrap(), Tensor::full(&device, &[64], 2.0f32).unwrap());
        device.synchronize().unwrap();
        let overrun = load_ptx(gpu.context(), "overrun", OVERRUN).unwrap().load_function("overrun").unwrap();
        {
            let mut y = x.device_write::<f32>().unwrap();
            let (address, _y) = y.device_ptr_mut(gpu.stream());
            let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
            // SAFETY: the kernel takes an address. It writes out of bounds, which is what this is about.
            unsafe { gpu.stream().launch_builder(&overrun).arg(&address).launch(config) }.unwrap();
        }
        gpu.note("overrun");
        // Asynchronous: what comes next is queued.
        let z = Tape::no_grad().constant(spare.clone());
        let y = ops::relu(&z).unwrap();

        assert_fault(device.synchronize(), &["queued last: relu, overrun; noticed while waiting"]);
        let suspects = "queued last: relu, overrun; noticed while";
        assert_fault(device.synchronize(), &[suspects]);
        assert_fault(y.tensor().to_vec::<f32>(), &[suspects, "downloading"]);
        assert_fault(Tensor::from_slice(&device, &[2], &[1.0f32, 2.0]), &[suspects, "allocating"]);
        assert_fault(spare.copy_from_slice(&[0.0f32; 64]), &[suspects, "uploading"]);
        assert_fault(spare.zero(), &[suspects, "clearing"]);
        assert_fault(spare.copy_from(&x), &[suspects, "copying"]);
        assert_fault(spare.fill(1.0f32), &[suspects, "fill"]);
        assert_fault(ops::relu(&z), &[suspects]);
        assert_fault(ops::add_assign(&spare, &x), &[suspects, "add_assign"]);
        let direct = elementwise::add_assign(
            gpu.kernels(),
            &x.device_read::<f32>().unwrap(),
            &mut spare.device_write::<f32>().unwrap(),
            gpu.stream(),
        );
        assert_fault(direct, &[suspects, "add_assign"]);
        let (kernels, stream) = (gpu.kernels(), gpu.stream());
        assert_fault(SpanTable::new(kernels, &[], 0, 0, stream), &[suspects, "uploading the span table"]);
        assert_fault(ImageTable::new(kernels, [[4, 4]], stream), &[suspects, "uploading the image table"]);
        assert_fault(Plan::new(kernels, &[], 0, stream), &[suspects, "uploading the steps"]);
    });
    // The device is gone, without a panic.
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].kind.as_str(), findings[0].kernel.as_str()), ("out-of-bounds", "overrun"));
}

#[test]
fn a_launcher_that_faults_is_named_by_what_notices() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let gpu = device.gpu().unwrap();
        let x = Tensor::full(&device, &[64], -1.0f32).unwrap();
        // SAFETY: nothing lies there, which is what this is about.
        let mut nowhere = unsafe { Raw::<f32>::new(0x100, 64, gpu.stream()) };
        elementwise::relu(gpu.kernels(), &x.device_read::<f32>().unwrap(), &mut nowhere, gpu.stream()).unwrap();
        x.fill(2.0f32).unwrap();
        x.zero().unwrap();
        assert_fault(x.to_vec::<f32>(), &["queued last: zero, fill, relu, fill; noticed while downloading"]);
        assert_fault(device.synchronize(), &["queued last: zero, fill, relu, fill; noticed while waiting"]);
    });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kernel, "relu_f32");
}

/// A wait for one stream says nothing of what is queued on another.
#[test]
fn what_faults_on_another_stream_is_named_by_who_waits_for_it() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let gpu = device.gpu().unwrap();
        let other = gpu.context().new_stream().unwrap();
        let x = Tensor::full(&device, &[64], -1.0f32).unwrap();
        // SAFETY: nothing lies there, which is what this is about.
        let [nowhere, mut y] = [0x100, 0x1000].map(|address| unsafe { Raw::<f32>::new(address, 64, &other) });
        elementwise::relu(gpu.kernels(), &nowhere, &mut y, &other).unwrap();
        device.synchronize().unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [-1.0; 64]);
        assert_fault(gpu.kernels().synchronize(&other), &["queued last: relu; noticed while waiting"]);
        assert_fault(device.synchronize(), &["queued last: relu; noticed while waiting"]);
    });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kernel, "relu_f32");
}

/// All that a build with feature `cuda` alone has.
#[test]
fn kernels_without_a_device_name_what_faults() {
    let findings = emulated(|| {
        let context = CudaContext::new(0).unwrap();
        let (kernels, stream) = (Kernels::new(&context), context.new_stream().unwrap());
        let x = stream.clone_htod(&[-1.0f32, 2.0]).unwrap();
        let mut y = stream.alloc_zeros::<f32>(2).unwrap();
        elementwise::relu(&kernels, &x, &mut y, &stream).unwrap();
        kernels.synchronize(&stream).unwrap();
        elementwise::fill(&kernels, 3.0, &mut y, &stream).unwrap();
        // SAFETY: nothing lies there, which is what this is about.
        let mut nowhere = unsafe { Raw::<f32>::new(0x100, 2, &stream) };
        elementwise::add_assign(&kernels, &x, &mut nowhere, &stream).unwrap();
        let suspects = "queued last: add_assign, fill; noticed while waiting";
        assert_fault(kernels.synchronize(&stream), &[suspects]);
        assert_fault(kernels.synchronize(&stream), &[suspects]);
    });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kernel, "add_assign_f32");
}

/// An error of a call's own is that call's, and does not stay.
#[test]
fn errors_that_are_no_faults_are_forgotten() {
    emulated(|| {
        let device = uncached();
        let error = Tensor::empty(&device, &[1 << 50], warpsmith::DType::F32).unwrap_err().to_string();
        assert!(error.contains("out of memory") && !error.contains("an op failed"), "{error}");
        let x = Tensor::full(&device, &[3], 4.0f32).unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [4.0; 3]);
        device.synchronize().unwrap();
    });
}
