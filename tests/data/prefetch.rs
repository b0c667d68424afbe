//! Prefetching: order, errors, panics, stopping.

use crate::assert_error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use warpsmith::data::Prefetch;
use warpsmith::{Error, Result};

fn pool(threads: usize) -> Arc<rayon::ThreadPool> {
    Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

/// Runs `body` on a thread of its own and fails if it has not ended after a minute.
fn within_a_minute(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        done.send(()).unwrap();
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("deadlock"),
        _ => thread.join().unwrap(),
    }
}

#[test]
fn items_come_in_order() {
    for pool in [None, Some(pool(2))] {
        let items = Prefetch::new(pool, (0..100).map(Ok)).unwrap().collect::<Result<Vec<i32>>>().unwrap();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn an_error_ends_the_iteration() {
    let made = |i| if i == 3 { Err(Error::argument("test", "a", "b", "c")) } else { Ok(i) };
    let mut ready = Prefetch::new(None, (0..100).map(made)).unwrap();
    for i in 0..3 {
        assert_eq!(ready.next().unwrap().unwrap(), i);
    }
    assert_error(ready.next().unwrap(), &["test: expected a, got b; c"]);
    assert!(ready.next().is_none());
}

#[test]
fn a_panic_arrives_as_an_error() {
    for pool in [None, Some(pool(1))] {
        let made = |i| if i == 1 { panic!("image {i} is odd") } else { Ok(i) };
        let mut ready = Prefetch::new(pool, (0..100).map(made)).unwrap();
        assert_eq!(ready.next().unwrap().unwrap(), 0);
        assert_error(ready.next().unwrap(), &["prefetch", "a panic of the worker: image 1 is odd", "report it"]);
        assert!(ready.next().is_none());
    }
}

#[test]
fn the_worker_runs_at_most_three_ahead_and_stops_when_dropped() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let mut ready =
        Prefetch::new(None, (0..).map(move |i: u64| Ok(count.fetch_add(1, Ordering::SeqCst) as u64 + i))).unwrap();
    assert_eq!(ready.next().unwrap().unwrap(), 0);
    std::thread::sleep(Duration::from_millis(100));
    // One taken, two queued, one in the worker's hands.
    assert!(made.load(Ordering::SeqCst) <= 4, "{} made", made.load(Ordering::SeqCst));
    drop(ready);
    // Dropping waited for the worker, which owned the other reference.
    assert_eq!(Arc::strong_count(&made), 1);
}

#[test]
fn the_work_runs_on_the_given_pool() {
    let threads = pool(3);
    let mut ready = Prefetch::new(Some(threads), std::iter::once_with(|| Ok(rayon::current_num_threads()))).unwrap();
    assert_eq!(ready.next().unwrap().unwrap(), 3);
}

#[test]
fn a_pool_of_one_can_wait_for_itself() {
    within_a_minute(|| {
        let threads = pool(1);
        let same = threads.clone();
        threads.install(move || {
            let ready = Prefetch::new(Some(same.clone()), (0..20).map(Ok)).unwrap();
            assert_eq!(ready.collect::<Result<Vec<i32>>>().unwrap(), (0..20).collect::<Vec<_>>());
            // Dropped while the worker waits for this very thread.
            drop(Prefetch::new(Some(same), (0..20).map(Ok)).unwrap());
        });
    });
}
