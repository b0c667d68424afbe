use super::emulated;
use warpsmith::cuda::augment_pipeline::{ImageTable, Plan};
use warpsmith::cuda::{SpanTable, load_ptx, softmax_kl};
use warpsmith::device::Gpu;
use warpsmith::problem::Span;
use warpsmith::{DType, Device, Result, Tensor};

/// All memory that the device of a test has.
const BYTES: usize = 1 << 20;

/// A GPU with `BYTES` of memory beside what is taken, for as long as this lives.
struct Short {
    total: usize,
}

impl Short {
    fn of_memory(gpu: &Gpu) -> Short {
        let (free, total) = gpu.context().mem_get_info().unwrap();
        warpsmith_emulator::configure("memory_bytes", &(total - free + BYTES).to_string()).unwrap();
        Short { total }
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        // Not unwrapped: a test that fails is to say why.
        let _ = warpsmith_emulator::configure("memory_bytes", &self.total.to_string());
    }
}

fn span_table(gpu: &Gpu) -> Result<()> {
    let span = Span { param_offset: 0, grad_offset: 0, len: 3 * 4096 };
    SpanTable::new(gpu.kernels(), &[span], 3 * 4096, 3 * 4096, gpu.stream()).map(drop)
}

/// Its kernel file has a variable in device memory.
fn softmax(gpu: &Gpu, x: &Tensor, y: &Tensor) -> Result<()> {
    let (x, mut y) = (x.device_read::<f32>()?, y.device_write::<f32>()?);
    softmax_kl::softmax(gpu.kernels(), (1, 4), &x, 1.0, &mut y, gpu.stream())
}

/// The driver's own allocations get what the pool keeps and no tensor uses.
#[test]
fn what_is_cached_makes_room_for_what_is_no_tensor() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let gpu = device.gpu().unwrap();
        let (kernels, stream) = (gpu.kernels(), gpu.stream());
        let [x, y] = [(); 2].map(|()| Tensor::zeros(&device, &[4], DType::F32).unwrap());
        let _short = Short::of_memory(gpu);
        let made_room = |what: &str, make: &dyn Fn() -> Result<()>| {
            // What was freed before is free once its turn has come.
            device.synchronize().unwrap();
            drop(Tensor::zeros(&device, &[BYTES], DType::U8).unwrap());
            assert_eq!(gpu.context().mem_get_info().unwrap().0, 0, "{what}");
            make().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(device.memory().reserved_bytes, device.memory().in_use_bytes, "{what}");
        };
        made_room("span table", &|| span_table(gpu));
        made_room("image table", &|| ImageTable::new(kernels, [[4, 4]], stream).map(drop));
        made_room("plan", &|| Plan::new(kernels, &[], 0, stream).map(drop));
        made_room("module", &|| softmax(gpu, &x, &y));
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.25; 4]);
    });
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn memory_that_ran_out_is_reported_with_what_is_used_and_free() {
    const VARIABLE: &str = ".version 8.2 .target sm_80 .address_size 64 .global .align 8 .b8 variable[64];";
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let gpu = device.gpu().unwrap();
        let [x, y] = [(); 2].map(|()| Tensor::zeros(&device, &[4], DType::F32).unwrap());
        let short = Short::of_memory(gpu);
        let held = Tensor::zeros(&device, &[BYTES], DType::U8).unwrap();
        let (_, total) = gpu.context().mem_get_info().unwrap();
        let assert_words = |result: Result<()>, parts: &[&str]| {
            let error = result.unwrap_err().to_string();
            for part in [&["device cuda", "OUT_OF_MEMORY", "use a smaller batch"], parts].concat() {
                assert!(error.contains(part), "no `{part}` in: {error}");
            }
        };
        let usage = format!("{0} bytes in use, {0} at the peak; 0 of {total} bytes free on the GPU", BYTES + 128);
        assert_words(span_table(gpu), &["uploading the span table of 72 bytes", &usage]);
        assert_words(softmax(gpu, &x, &y), &["loading the kernels of `softmax_kl`", &usage]);
        assert_words(load_ptx(gpu.context(), "own", VARIABLE).map(drop), &["loading the kernels of `own`"]);
        // Nothing of that stays.
        drop((held, short));
        span_table(gpu).unwrap();
        softmax(gpu, &x, &y).unwrap();
        load_ptx(gpu.context(), "own", VARIABLE).unwrap();
        assert_eq!(y.to_vec::<f32>().unwrap(), [0.25; 4]);
    });
    assert!(findings.is_empty(), "{findings:?}");
}
