use super::{allocations, emulated};
use warpsmith::rng::Stream;
use warpsmith::{Device, Tape, Tensor, Var, ops};

/// The step and the images' indices lie where the last call had them, so that a captured launch would find the next ones.
#[test]
fn dropout_reads_its_step_at_one_address() {
    let findings = emulated(|| {
        let (cpu, cuda) = (Device::cpu().unwrap(), Device::cuda(0).unwrap());
        let [on_cpu, on_cuda] =
            [&cpu, &cuda].map(|device| Tape::no_grad().constant(Tensor::full(device, &[3, 40], 1.0f32).unwrap()));
        let masked = |x: &Var, step, indices: &[u32]| {
            let stream = Stream { seed: 9, step, index: 0, op: 2 };
            ops::dropout(x, 0.5, stream, indices).unwrap().into_tensor()
        };
        masked(&on_cuda, 0, &[0, 1, 2]);
        for (step, indices) in [(1, [0, 1, 2]), (1, [5, 1, 2]), (2, [5, 1, 2]), (2, [5, 1, 2]), (1, [0, 1, 2])] {
            let mut y = None;
            assert_eq!(allocations(&cuda, || y = Some(masked(&on_cuda, step, &indices))), 1, "the result alone");
            let want = masked(&on_cpu, step, &indices).to_vec::<f32>().unwrap();
            assert_eq!(y.unwrap().to_vec::<f32>().unwrap(), want, "step {step}, indices {indices:?}");
        }
        // Another number of samples, and back.
        let short = |x: &Var| Tape::no_grad().constant(x.tensor().view(0, &[2, 40]).unwrap());
        for indices in [&[7, 3][..], &[0, 1]] {
            let want = masked(&short(&on_cpu), 4, indices).to_vec::<f32>().unwrap();
            assert_eq!(masked(&short(&on_cuda), 4, indices).to_vec::<f32>().unwrap(), want);
        }
        let want = masked(&on_cpu, 4, &[0, 1, 2]).to_vec::<f32>().unwrap();
        assert_eq!(masked(&on_cuda, 4, &[0, 1, 2]).to_vec::<f32>().unwrap(), want);
    });
    assert!(findings.is_empty(), "{findings:?}");
}

/// A device without a cache keeps nothing at all: a memory checker would take it for a leak.
#[test]
fn an_uncached_device_keeps_nothing() {
    emulated(|| {
        let cuda = super::uncached();
        let x = Tape::no_grad().constant(Tensor::full(&cuda, &[3, 40], 1.0f32).unwrap());
        let held = cuda.memory().in_use_bytes;
        ops::dropout(&x, 0.5, Stream { seed: 9, step: 1, index: 0, op: 2 }, &[0, 1, 2]).unwrap();
        assert_eq!(cuda.memory().in_use_bytes, held);
    });
}
