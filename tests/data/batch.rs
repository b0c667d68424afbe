//! Shuffles, batches and the paired streams.

use crate::assert_error;
use warpsmith::data::{Batches, Pairing, Shuffle, ShuffleUnit};

fn assert_permutation(order: &[u32], n: usize) {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..n as u32).collect::<Vec<_>>());
}

#[test]
fn every_order_is_a_seeded_permutation() {
    for shuffle in [Shuffle::Full, Shuffle::Window(7), Shuffle::Window(99), Shuffle::Window(100), Shuffle::Window(9999)]
    {
        let order = shuffle.order(100, 3, 4).unwrap();
        assert_permutation(&order, 100);
        assert_eq!(shuffle.order(100, 3, 4).unwrap(), order, "{shuffle:?}: same seed and pass");
        assert_ne!(shuffle.order(100, 3, 5).unwrap(), order, "{shuffle:?}: another pass");
        assert_ne!(shuffle.order(100, 3, 4 + (1 << 32)).unwrap(), order, "{shuffle:?}: a far pass");
        assert_ne!(shuffle.order(100, 2, 4).unwrap(), order, "{shuffle:?}: another seed");
        assert_ne!(shuffle.order(100, 3 + (1 << 32), 4).unwrap(), order, "{shuffle:?}: a far seed");
    }
    for shuffle in [Shuffle::None, Shuffle::Window(1)] {
        assert_eq!(shuffle.order(5, 3, 4).unwrap(), [0, 1, 2, 3, 4]);
    }
    for n in [0, 1, 2] {
        assert_permutation(&Shuffle::Full.order(n, 0, 0).unwrap(), n);
        assert_permutation(&Shuffle::Window(3).order(n, 0, 0).unwrap(), n);
    }
}

#[test]
fn a_window_holds_items_back_but_lets_none_jump_ahead() {
    let (n, buffer) = (2000, 50);
    let (mut late, mut at_limit) = (0, 0);
    for pass in 0..20 {
        let order = Shuffle::Window(buffer).order(n, 11, pass).unwrap();
        for (position, &item) in order.iter().enumerate() {
            let earliest = (item as usize + 1).saturating_sub(buffer);
            assert!(position >= earliest, "item {item} came at {position}, before {earliest}");
            at_limit += usize::from(position == earliest && earliest > 0);
            late += usize::from(position > item as usize + 3 * buffer);
        }
    }
    // A refilled slot is chosen at once with probability 1/50: 39,000 chances, about 780 hits.
    assert!((600..1000).contains(&at_limit), "{at_limit}");
    // The wait is geometric with mean 50: some items stay far longer than the window is wide.
    assert!(late > 100, "{late}");
}

/// Each item is equally likely at each place, within four standard deviations of the binomial count.
#[test]
fn full_and_whole_window_are_uniform() {
    let (n, passes) = (6, 6000);
    for shuffle in [Shuffle::Full, Shuffle::Window(n)] {
        let mut counts = vec![vec![0i32; n]; n];
        for pass in 0..passes {
            for (position, &item) in shuffle.order(n, 1, pass).unwrap().iter().enumerate() {
                counts[position][item as usize] += 1;
            }
        }
        let worst = counts.iter().flatten().map(|&count| (count - 1000).abs()).max().unwrap();
        assert!(worst < 116, "{shuffle:?}: {counts:?}");
    }
}

/// The law of the reservoir on a case small enough to enumerate: 3 items, a buffer of 2.
#[test]
fn the_window_follows_the_reservoirs_law() {
    let mut counts = std::collections::BTreeMap::new();
    for pass in 0..8000 {
        *counts.entry(Shuffle::Window(2).order(3, 5, pass).unwrap()).or_insert(0i32) += 1;
    }
    // First output 0 or 1; then 2 has taken its slot and both remaining items are equally likely.
    let orders: Vec<Vec<u32>> = counts.keys().cloned().collect();
    assert_eq!(orders, [vec![0, 1, 2], vec![0, 2, 1], vec![1, 0, 2], vec![1, 2, 0]]);
    // Four standard deviations of 8000 draws with probability 1/4 are 155.
    assert!(counts.values().all(|count| (count - 2000).abs() < 155), "{counts:?}");
}

#[test]
fn batches_cover_the_data() {
    let plan = Batches::new(10, 4).unwrap().shuffle(Shuffle::Full).unwrap().seed(3);
    let batches: Vec<Vec<u32>> = plan.pass(2).collect();
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!((plan.steps(), plan.pass(2).len()), (3, 3));
    assert_eq!(batches.concat(), Shuffle::Full.order(10, 3, 2).unwrap());
    let dropping: Vec<Vec<u32>> = plan.drop_last(true).pass(2).collect();
    assert_eq!((plan.drop_last(true).steps(), &dropping[..]), (2, &batches[..2]));
    let in_order: Vec<Vec<u32>> = Batches::new(5, 5).unwrap().pass(7).collect();
    assert_eq!(in_order, [[0, 1, 2, 3, 4]]);
}

#[test]
fn documented_steps_per_epoch() {
    let steps = |len, batch_size| Batches::new(len, batch_size).unwrap().steps();
    assert_eq!((steps(49_501, 128), steps(50_000, 128), steps(10_000, 128)), (387, 391, 79));
    assert_eq!((steps(3303, 32), steps(367, 32), steps(50_000, 265)), (104, 12, 189));
    assert_eq!(Batches::new(50_000, 265).unwrap().pass(0).last().unwrap().len(), 180);
}

#[test]
fn shuffled_batches_keep_their_examples_together() {
    let plan = Batches::new(103, 10).unwrap().shuffle(Shuffle::Window(320)).unwrap().unit(ShuffleUnit::Batches).seed(1);
    let batches: Vec<Vec<u32>> = plan.pass(0).collect();
    assert_eq!(batches.len(), 11);
    for batch in &batches {
        assert_eq!(batch[0] % 10, 0);
        assert_eq!(batch.len(), if batch[0] == 100 { 3 } else { 10 });
        assert!(batch.windows(2).all(|pair| pair[1] == pair[0] + 1), "{batch:?}");
    }
    let firsts: Vec<u32> = batches.iter().map(|batch| batch[0] / 10).collect();
    assert_permutation(&firsts, 11);
    assert_ne!(firsts, (0..11).collect::<Vec<u32>>());
    let other: Vec<Vec<u32>> = plan.pass(1).collect();
    assert_ne!(other, batches);
    let mut dropped = plan.drop_last(true).pass(0).collect::<Vec<_>>().concat();
    dropped.sort_unstable();
    assert_eq!(dropped, (0..100).collect::<Vec<u32>>());
}

#[test]
fn pairs_agree_or_do_not() {
    let plan = Batches::new(1000, 64).unwrap().shuffle(Shuffle::Window(640)).unwrap().seed(42);
    for (clean, noisy) in plan.paired_pass(1, Pairing::Paired) {
        assert_eq!(clean, noisy);
    }
    let clean: Vec<Vec<u32>> = plan.pass(6).collect();
    let noisy: Vec<Vec<u32>> = plan.pass(1).collect();
    let pairs: Vec<_> = plan.paired_pass(1, Pairing::Mispaired { clean_passes_ahead: 5 }).collect();
    assert_eq!(pairs, clean.iter().cloned().zip(noisy.iter().cloned()).collect::<Vec<_>>());
    let coincide = clean.concat().iter().zip(noisy.concat()).filter(|(a, b)| *a == b).count();
    assert!(coincide < 20, "{coincide} of 1000 pairs coincide");
}

#[test]
fn bad_plans_are_refused() {
    assert_error(Batches::new(10, 11), &["batches", "1 to 10, the number of images", "got 11", "--batch-size"]);
    assert_error(Batches::new(10, 0), &["1 to 10", "got 0"]);
    assert_error(Batches::new(0, 1), &["1 to 0", "got 1"]);
    assert_error(Batches::new(10, 5).unwrap().shuffle(Shuffle::Window(0)), &["a buffer of at least 1, got 0"]);
    assert_error(Shuffle::Window(0).order(10, 0, 0), &["a buffer of at least 1, got 0"]);
    assert_error(Batches::new(1 << 33, 5), &["fewer than 2^32 images"]);
}
