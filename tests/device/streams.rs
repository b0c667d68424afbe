use super::emulated;
use warpsmith::cuda::elementwise;
use warpsmith::{DType, Device, Tensor};

/// Launchers are safe functions: whatever stream they are given, a tensor's memory is used in order.
#[test]
fn launches_on_another_stream_are_ordered_with_the_devices() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let gpu = device.gpu().unwrap();
        let other = gpu.context().new_stream().unwrap();
        let x = Tensor::full(&device, &[4096], -1.0f32).unwrap();
        let y = Tensor::full(&device, &[4096], 7.0f32).unwrap();
        let relu = |x: &Tensor, y: &Tensor| {
            let (x, mut y) = (x.device_read::<f32>().unwrap(), y.device_write::<f32>().unwrap());
            elementwise::relu(gpu.kernels(), &x, &mut y, &other).unwrap();
        };
        relu(&x, &y);
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.0; 4096]);
        // The next owner of the memory writes to it on the device's stream.
        relu(&x, &y);
        drop((x, y));
        let z = Tensor::full(&device, &[4096], 3.0f32).unwrap();
        assert_eq!(z.to_vec::<f32>().unwrap(), [3.0; 4096]);
        // cudarc's own copies are safe functions too.
        let w = Tensor::full(&device, &[4096], 5.0f32).unwrap();
        assert_eq!(other.clone_dtoh(&w.device_read::<f32>().unwrap()).unwrap(), [5.0; 4096]);
        other.memset_zeros(&mut w.device_write::<f32>().unwrap()).unwrap();
        assert_eq!(w.to_vec::<f32>().unwrap(), [0.0; 4096]);
    });
    assert!(findings.is_empty(), "{findings:?}");
}

/// What is no tensor, but made on the device's context, keeps cudarc's promise.
#[test]
fn buffers_of_the_context_may_be_used_on_two_streams() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let gpu = device.gpu().unwrap();
        let other = gpu.context().new_stream().unwrap();
        let x = gpu.stream().clone_htod(&[-1.0f32, 2.0, -3.0]).unwrap();
        let y = Tensor::zeros(&device, &[3], DType::F32).unwrap();
        elementwise::relu(gpu.kernels(), &x, &mut y.device_write::<f32>().unwrap(), gpu.stream()).unwrap();
        let mut z = other.alloc_zeros::<f32>(3).unwrap();
        elementwise::relu(gpu.kernels(), &x, &mut z, &other).unwrap();
        let mut x = x;
        gpu.stream().memset_zeros(&mut x).unwrap();
        assert_eq!(gpu.stream().clone_dtoh(&z).unwrap(), [0.0, 2.0, 0.0]);
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.0, 2.0, 0.0]);
    });
    assert!(findings.is_empty(), "{findings:?}");
}
