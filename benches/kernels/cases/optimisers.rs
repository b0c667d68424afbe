//! Optimisers over all parameters of the network, as they lie in its arena.

use super::{Case, Units, bytes};
use crate::common::{random, widen};
use crate::rig::{Fallible, Rig, Rotation};
use cudarc::driver::CudaSlice;
use half::bf16;
use warpsmith::cuda::SpanTable;
use warpsmith::nn::{Head, ParamsBuilder, ResNet50V2};
use warpsmith::problem::Span;
use warpsmith::{Device, cpu, cuda};

const CLASSES: usize = 10;

/// The parameters of the network: spans, elements of the arena.
fn parameters() -> (Vec<Span>, usize) {
    let device = Device::cpu().expect("the CPU is always there");
    let mut builder = ParamsBuilder::new();
    ResNet50V2::new(&mut builder, Head::Classes(CLASSES));
    let params = builder.build(&device, 0).expect("the network can be built");
    (params.spans(), params.values().elems())
}

pub fn cases() -> Vec<Case> {
    let (spans, elems) = parameters();
    let trained: usize = spans.iter().map(|span| span.len as usize).sum();
    let problem = format!("{trained} in {} spans", spans.len());
    let data = Data { spans, elems };
    let case = |op, count, flops: usize, each: usize, prepare: fn(&Data, &Rig, usize) -> Runs| {
        let data = data.clone();
        Case {
            op,
            dtype: "f32",
            name: "all parameters".into(),
            count,
            problem: problem.clone(),
            flops: (flops * trained) as u64,
            bytes: bytes(trained, each),
            units: Units::Memory,
            prepare: Box::new(move |rig, copies| prepare(&data, rig, copies)),
        }
    };
    vec![
        // w, m, v read and written, g read, and the bf16 copy written.
        case("adam", 1, 12, 4 * 7 + 2, Data::adam),
        case("sgd", 0, 6, 4 * 5 + 2, Data::sgd),
        case("swa_update", 0, 4, 4 * 3, Data::swa_update),
        case("swa_assign", 0, 0, 4 * 2 + 2, Data::swa_assign),
    ]
}

#[derive(Clone)]
struct Data {
    spans: Vec<Span>,
    elems: usize,
}

type Runs = Fallible<Box<dyn crate::rig::Run>>;

/// Bit by bit: every element is computed on its own, by the same operations.
fn assert_equal(op: &str, rig: &Rig, got: &CudaSlice<f32>, want: &[f32]) -> Fallible<()> {
    crate::common::assert_close(op, &"all parameters", &[want.len()], &rig.get(got)?, &widen(want), 0.0, 0.0);
    Ok(())
}

impl Data {
    fn table(&self, rig: &Rig) -> Fallible<SpanTable> {
        Ok(SpanTable::new(&rig.kernels, &self.spans, self.elems, self.elems, &rig.stream)?)
    }

    fn adam(&self, rig: &Rig, copies: usize) -> Runs {
        let (w, g, spans, elems) = (random(self.elems, 1), random(self.elems, 2), self.spans.clone(), self.elems);
        let set = || {
            let step = rig.put(&[cuda::adam::AdamStep::new(1e-3, 0.9, 0.999, 1e-7, 1)])?;
            let moments = (rig.zeros::<f32>(elems)?, rig.zeros::<f32>(elems)?);
            Ok((self.table(rig)?, step, rig.put(&w)?, rig.put(&g)?, moments, rig.zeros::<bf16>(elems)?))
        };
        let (w, g) = (w.clone(), g.clone());
        Rotation::boxed(
            copies,
            set,
            |rig, (table, step, w, g, (m, v), copy)| {
                Ok(cuda::adam::step(&rig.kernels, table, &*step, w, &*g, (m, v), Some(copy), &rig.stream)?)
            },
            move |rig, (_, _, got, _, _, _)| {
                let (mut want, mut m, mut v) = (w.clone(), vec![0.0; elems], vec![0.0; elems]);
                cpu::adam::step(&cpu::adam::Adam::default(), 1, &spans, &mut want, &g, &mut m, &mut v)?;
                assert_equal("adam", rig, got, &want)
            },
        )
    }

    fn sgd(&self, rig: &Rig, copies: usize) -> Runs {
        let (w, g, spans, elems) = (random(self.elems, 1), random(self.elems, 2), self.spans.clone(), self.elems);
        let (rate, momentum, weight_decay) = (0.1, 0.9, 0.01);
        let set = || {
            let step = rig.put(&[cuda::sgd::SgdStep { rate, momentum, weight_decay }])?;
            let (velocity, copy) = (rig.zeros::<f32>(elems)?, rig.zeros::<bf16>(elems)?);
            Ok((self.table(rig)?, step, rig.put(&w)?, rig.put(&g)?, velocity, copy))
        };
        let (w, g) = (w.clone(), g.clone());
        Rotation::boxed(
            copies,
            set,
            |rig, (table, step, w, g, velocity, copy)| {
                let (velocity, copy) = (Some(velocity), Some(copy));
                Ok(cuda::sgd::step(&rig.kernels, table, &*step, w, &*g, velocity, copy, &rig.stream)?)
            },
            move |rig, (_, _, got, _, _, _)| {
                let (mut want, mut velocity) = (w.clone(), vec![0.0; elems]);
                let sgd = cpu::sgd::Sgd { learning_rate: rate, momentum, weight_decay };
                cpu::sgd::step(&sgd, &spans, &mut want, &g, Some(&mut velocity))?;
                assert_equal("sgd", rig, got, &want)
            },
        )
    }

    fn swa_update(&self, rig: &Rig, copies: usize) -> Runs {
        let (w, average, spans) = (random(self.elems, 1), random(self.elems, 2), self.spans.clone());
        let set =
            || Ok((self.table(rig)?, rig.put(&[cuda::swa::SwaStep { n: 3.0 }])?, rig.put(&w)?, rig.put(&average)?));
        let (w, average) = (w.clone(), average.clone());
        Rotation::boxed(
            copies,
            set,
            |rig, (table, step, w, average)| {
                Ok(cuda::swa::update(&rig.kernels, table, &*step, &*w, average, &rig.stream)?)
            },
            move |rig, (_, _, _, got)| {
                let mut want = average.clone();
                cpu::swa::update(3, &spans, &w, &mut want)?;
                assert_equal("swa_update", rig, got, &want)
            },
        )
    }

    fn swa_assign(&self, rig: &Rig, copies: usize) -> Runs {
        let (w, average, spans) = (random(self.elems, 1), random(self.elems, 2), self.spans.clone());
        let set = || Ok((self.table(rig)?, rig.put(&average)?, rig.put(&w)?, rig.zeros::<bf16>(self.elems)?));
        let (w, average) = (w.clone(), average.clone());
        Rotation::boxed(
            copies,
            set,
            |rig, (table, average, w, copy)| {
                Ok(cuda::swa::assign(&rig.kernels, table, &*average, w, Some(copy), &rig.stream)?)
            },
            move |rig, (_, _, got, _)| {
                let mut want = w.clone();
                cpu::swa::assign(&spans, &average, &mut want)?;
                assert_equal("swa_assign", rig, got, &want)
            },
        )
    }
}
