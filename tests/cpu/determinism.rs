//! Every op gives the same bits for any number of threads and on every instruction set.

use crate::common::{random, random_bytes};
use half::bf16;
use warpsmith::cpu::supcon::{Form, MeanOver, Supcon};
use warpsmith::cpu::{adam, batch_norm, cross_entropy, dropout, elementwise, pool2d, sgd, softmax_kl, supcon, swa};
use warpsmith::problem::{Pool2dProblem, Span, Window};
use warpsmith::rng::Stream;

/// FNV-1a over the bits of all results of one op.
struct Digest(u64);

impl Digest {
    fn add(&mut self, x: &[f32]) -> &mut Self {
        for bits in x.iter().flat_map(|x| x.to_bits().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(bits)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }
}

/// One line `op digest` per op.
fn digests() -> String {
    let mut lines = String::new();
    let mut line = |op: &str, fill: &dyn Fn(&mut Digest)| {
        let mut digest = Digest(0xcbf2_9ce4_8422_2325);
        fill(&mut digest);
        lines += &format!("{op} {:016x}\n", digest.0);
    };
    line("batch_norm", &|digest| {
        for (rows, c) in [(70_001, 3), (2_003, 64), (99, 2048), (1_031, 37)] {
            let (x, dy, gamma, beta) = (random(rows * c, 1), random(rows * c, 2), random(c, 3), random(c, 4));
            let (mut mean, mut var, mut inv_std) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
            batch_norm::statistics(rows, c, &x, &mut mean, &mut var).unwrap();
            batch_norm::inv_std(&var, 1e-3, &mut inv_std).unwrap();
            digest.add(&mean).add(&var);
            for relu in [false, true] {
                let mut y = vec![0.0; rows * c];
                batch_norm::normalize(rows, c, &x, &mean, &inv_std, &gamma, &beta, relu, &mut y).unwrap();
                digest.add(&y);
                for backward in [batch_norm::backward_train, batch_norm::backward_inference] {
                    let (mut dgamma, mut dbeta) = (vec![0.0; c], vec![0.0; c]);
                    let (dg, db) = (Some(&mut dgamma[..]), Some(&mut dbeta[..]));
                    let dx = Some(&mut y[..]);
                    backward(rows, c, &x, &dy, &mean, &inv_std, &gamma, &beta, relu, dx, relu, dg, db).unwrap();
                    digest.add(&y).add(&dgamma).add(&dbeta);
                }
            }
        }
    });
    line("pool2d", &|digest| {
        for (c, window, pad) in [(70, 3, 1), (5, 2, 0), (33, 1, 0)] {
            let problem = Pool2dProblem::new([3, 17, 14, c], [window; 2], Window::square(pad, 2)).unwrap();
            let (mut y, mut argmax) = (vec![0.0; problem.y_elems()], vec![0; problem.y_elems()]);
            pool2d::max(&problem, 0.0, &random(problem.x_elems(), 5), &mut y, Some(&mut argmax)).unwrap();
            let mut dx = vec![0.0; problem.x_elems()];
            pool2d::max_backward(&problem, &random(y.len(), 6), Some(&argmax), false, &mut dx).unwrap();
            digest.add(&y).add(&dx);
            let mut mean = vec![0.0; 3 * c as usize];
            pool2d::global_avg(3, 17 * 14, c as usize, &dx, &mut mean).unwrap();
            pool2d::global_avg_backward(3, 17 * 14, c as usize, &mean, true, &mut dx).unwrap();
            digest.add(&mean).add(&dx);
        }
    });
    line("elementwise", &|digest| {
        let n = 50_021;
        let (a, b) = (random(n, 7), random(n, 8));
        let (mut y, mut narrow) = (vec![0.0; n], vec![bf16::ZERO; n]);
        elementwise::relu(&a, &mut y).unwrap();
        digest.add(&y);
        elementwise::relu_backward(&a, &b, true, &mut y).unwrap();
        digest.add(&y);
        elementwise::rescale(&a, 0.3, 0.7, &mut y).unwrap();
        digest.add(&y);
        elementwise::rescale_u8(&random_bytes(n, 9), 0.3, 0.7, &mut y).unwrap();
        digest.add(&y);
        elementwise::add(&a, &b, &mut y).unwrap();
        elementwise::add_assign(&a, &mut y).unwrap();
        elementwise::scale_assign(0.7, &mut y).unwrap();
        elementwise::f32_to_bf16(&y, &mut narrow).unwrap();
        digest.add(&y).add(&[elementwise::sum_of_squares(&y) as f32]);
        elementwise::bf16_to_f32(&narrow, &mut y).unwrap();
        digest.add(&y);
    });
    line("dropout", &|digest| {
        let x = random(3 * 9_001, 10);
        let mut y = vec![0.0; x.len()];
        let stream = Stream { seed: 1, step: 2, index: 0, op: 3 };
        dropout::dropout(stream, 0.3, &[4, 5, 6], &x, &mut y).unwrap();
        digest.add(&y);
    });
    line("losses", &|digest| {
        let (rows, classes) = (301, 10);
        let (z, teacher) = (random(rows * classes, 11), random(rows * classes, 12));
        let labels: Vec<i32> = (0..rows as i32).map(|row| row % 10).collect();
        let mut dz = vec![0.0; z.len()];
        digest.add(&[cross_entropy::forward(rows, classes, &z, &labels, None).unwrap()]);
        cross_entropy::backward(rows, classes, &z, &labels, 0.3, false, &mut dz).unwrap();
        digest.add(&dz);
        digest.add(&[softmax_kl::distill(rows, classes, &teacher, &z, 10.0, Some((0.3, &mut dz))).unwrap()]);
        digest.add(&dz);
        let embeddings = random(133 * 2 * 43, 13);
        for form in [Form::Npairs, Form::Out, Form::In] {
            let settings = Supcon { form, mean_over: MeanOver::All, ..Supcon::default() };
            let mut dz = vec![0.0; embeddings.len()];
            let gradient = Some((0.3, &mut dz[..]));
            digest.add(&[supcon::loss(&settings, 133, 2, 43, &embeddings, &labels[..133], gradient).unwrap()]);
            digest.add(&dz);
        }
        let mut sim = vec![0.0; 133 * 133];
        supcon::similarity_matrix(133, 86, &embeddings, 0.05, &mut sim).unwrap();
        let mut dz = vec![0.0; embeddings.len()];
        supcon::similarity_matrix_backward(133, 86, &embeddings, 0.05, &sim, false, &mut dz).unwrap();
        digest.add(&sim).add(&dz);
    });
    line("optimisers", &|digest| {
        let n = 100_003u64;
        let spans =
            [Span { param_offset: 0, grad_offset: 0, len: 5 }, Span { param_offset: 16, grad_offset: 8, len: n - 16 }];
        let (mut w, g) = (random(n as usize, 14), random(n as usize, 15));
        let (mut m, mut v, mut average) = (vec![0.0; g.len()], vec![0.0; g.len()], vec![0.0; g.len()]);
        for t in 1..4 {
            adam::step(&adam::Adam::default(), t, &spans, &mut w, &g, &mut m, &mut v).unwrap();
            swa::update(t - 1, &spans, &w, &mut average).unwrap();
        }
        let settings = sgd::Sgd { momentum: 0.9, weight_decay: 1e-4, ..sgd::Sgd::default() };
        sgd::step(&settings, &spans, &mut w, &g, Some(&mut m)).unwrap();
        digest.add(&w).add(&m).add(&v).add(&average);
    });
    lines
}

#[test]
fn thread_counts_agree() {
    let run = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(digests);
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

/// Prints the digests, for the processes that [`instruction_sets_agree`] starts.
#[test]
fn print_digests() {
    println!("digests:\n{}end", digests());
}

#[test]
fn instruction_sets_agree() {
    let want = digests();
    for isa in ["portable", "avx2", "avx512"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "determinism::print_digests", "--nocapture"])
            .env("WARPSMITH_CPU_ISA", isa)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let got = text.split("digests:\n").nth(1).and_then(|rest| rest.split("end").next());
        assert_eq!(got, Some(&want[..]), "{isa}: {text}");
    }
}
