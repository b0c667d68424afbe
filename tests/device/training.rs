use super::{allocations, emulated};
use cudarc::driver::CudaContext;
use warpsmith::augment::{Pipeline, RandAugment, Step};
use warpsmith::autograd::Var;
use warpsmith::data::{Batches, ImageSet, synthetic};
use warpsmith::device::{CudaOptions, Precision};
use warpsmith::nn::{Dense, Forward, ParamsBuilder};
use warpsmith::train::{Augmented, Loader, Session, evaluate};
use warpsmith::{DType, Device, Tensor, ops};

const IMAGES: usize = 14;
const PIXEL_BYTES: usize = IMAGES * 24 * 20 * 3;

fn set() -> ImageSet {
    synthetic::images(IMAGES, 2, 24, 20, 5).unwrap()
}

/// The same images in front of so many others that the set does not fit the device; all share the pixels.
fn too_large() -> ImageSet {
    let rows: Vec<u32> = (0..IMAGES as u32).chain(std::iter::repeat_n(0, 20_000_000)).collect();
    set().subset(&rows).unwrap()
}

fn noisy() -> Pipeline {
    Pipeline::new(vec![Step::RandomFlip, Step::RandAugment(RandAugment::default())]).unwrap()
}

fn in_use(device: &Device) -> usize {
    device.memory().in_use_bytes
}

#[test]
fn a_set_lies_on_the_device_once() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let set = set();
        let train = |pipeline: Pipeline| {
            let plan = Batches::new(IMAGES, 5).unwrap();
            let loader = Loader::new(&device, set.clone(), plan, pipeline, 9);
            loader.pass(0, 0).unwrap().for_each(|batch| drop(batch.unwrap()));
            loader
        };
        let empty = in_use(&device);
        let first = train(noisy());
        let held = in_use(&device);
        assert!((PIXEL_BYTES..PIXEL_BYTES + 1024).contains(&(held - empty)), "{}", held - empty);
        let second = train(Pipeline::new(vec![Step::RandomFlip]).unwrap());
        let clone = set.clone().renamed("other");
        Augmented::new(&device, clone.clone(), noisy(), 1).batch(&[3, 1, 4], 2).unwrap();
        drop(train(noisy()));
        assert_eq!(in_use(&device), held);
        // It goes with the last clone of the set.
        drop((first, second, set));
        assert_eq!(in_use(&device), held);
        drop(clone);
        assert!(in_use(&device) < empty + 1024);
    });
    assert!(findings.is_empty(), "{findings:?}");
}

/// A set that stays does not keep the devices that it was on, nor what their pools hold.
#[test]
fn a_device_goes_before_its_sets() {
    let findings = emulated(|| {
        let (cpu, context) = (Device::cpu().unwrap(), CudaContext::new(0).unwrap());
        let taken = || {
            // What was freed is free once its turn has come.
            context.synchronize().unwrap();
            let (free, total) = context.mem_get_info().unwrap();
            total - free
        };
        let set = set();
        let view = |device: &Device| Augmented::new(device, set.clone(), noisy(), 7);
        let batch = |view: &Augmented| view.batch(&[3, 1, 4], 2).unwrap().to_bytes().unwrap();
        let want = batch(&view(&cpu));
        let before = taken();
        let stays = Device::cuda(0).unwrap();
        assert_eq!(batch(&view(&stays)), want);
        let with_one = taken();
        for _ in 0..2 {
            let device = Device::cuda(0).unwrap();
            drop(Tensor::zeros(&device, &[1 << 20], DType::U8).unwrap());
            let view = view(&device);
            assert_eq!(batch(&view), want);
            assert!(taken() > with_one + (1 << 20));
            // What uses a copy keeps it.
            drop(device);
            assert_eq!(batch(&view), want);
            drop(view);
            assert_eq!(taken(), with_one);
        }
        // The other device's copy is still there.
        let held = in_use(&stays);
        assert_eq!(batch(&view(&stays)), want);
        assert_eq!(in_use(&stays), held);
        drop(stays);
        assert_eq!(taken(), before);
        drop(set);
    });
    assert!(findings.is_empty(), "{findings:?}");
}

/// A batch takes the memory of its pixels; what it is made from is there, or takes the place of the last batch's.
#[test]
fn batches_of_a_size_take_no_other_memory() {
    let findings = emulated(|| {
        let (cpu, device) = (Device::cpu().unwrap(), Device::cuda(0).unwrap());
        for (set, of_a_batch) in [(set(), 1), (too_large(), 2)] {
            let [want, got] = [&cpu, &device].map(|device| Augmented::new(device, set.clone(), noisy(), 7));
            got.batch(&[0, 1, 2, 3], 0).unwrap();
            for (step, indices) in [(1, [4, 5, 6, 7]), (2, [1, 1, 2, 0])] {
                let mut batch = None;
                let count = allocations(&device, || batch = Some(got.batch(&indices, step).unwrap()));
                assert_eq!(count, of_a_batch, "{} images", set.len());
                assert_eq!(batch.unwrap().to_bytes().unwrap(), want.batch(&indices, step).unwrap().to_bytes().unwrap());
            }
            // More images than before, and fewer.
            for indices in [&[9, 8, 7, 6, 5, 4][..], &[3]] {
                let [want, got] = [&want, &got].map(|view| view.batch(indices, 3).unwrap().to_bytes().unwrap());
                assert!(want == got);
            }
            let error = got.batch(&[u32::MAX], 0).unwrap_err().to_string();
            assert!(error.contains("Augmented::batch: expected indices below"), "{error}");
        }
    });
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn evaluation_keeps_its_images_on_the_device() {
    let findings = emulated(|| {
        let device = Device::cuda(0).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let session = Session::create(folder.path(), &device, "test", 1, serde_json::json!({})).unwrap();
        let mut builder = ParamsBuilder::new();
        let dense = Dense::new(&mut builder, "dense", 2, 3);
        let params = builder.build(&device, 3).unwrap();
        let forward = |pass: &Forward, images: &Var| dense.forward(pass, &ops::global_avg_pool(images)?);
        let (set, plain) = (set(), Pipeline::new(vec![Step::RandomFlip]).unwrap());
        let score = || evaluate(&session, &params, &forward, &set, &plain, 5).unwrap();
        let before = in_use(&device);
        let first = score();
        let held = in_use(&device);
        assert!((PIXEL_BYTES..PIXEL_BYTES + 1024).contains(&(held - before)), "{}", held - before);
        let taken = device.memory().system_allocations;
        assert_eq!(score(), first);
        assert_eq!((in_use(&device), device.memory().system_allocations), (held, taken));
    });
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn a_session_does_not_go_on_in_another_precision() {
    emulated(|| {
        let folder = tempfile::tempdir().unwrap();
        let create = |device: &Device| {
            Session::create(folder.path(), device, "test", 1, serde_json::json!({})).unwrap();
        };
        let resume =
            |device: &Device| Session::resume(folder.path(), device, "test").map(|_| ()).map_err(|e| e.to_string());
        let [f32, bf16] = [Precision::F32, Precision::Bf16]
            .map(|precision| Device::cuda_with(CudaOptions { precision, ..CudaOptions::default() }).unwrap());
        let cpu = Device::cpu().unwrap();
        create(&cpu);
        assert_eq!((resume(&cpu), resume(&f32)), (Ok(()), Ok(())));
        let error = resume(&bf16).unwrap_err();
        for part in ["precision: expected f32, which the session was started in, got bf16 on cuda:0", "--precision f32"]
        {
            assert!(error.contains(part), "{error}");
        }
        create(&bf16);
        assert_eq!(resume(&bf16), Ok(()));
        assert!(resume(&cpu).unwrap_err().contains("expected bf16"));
    });
}
