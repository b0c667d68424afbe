//! Making the next batches on a worker thread while the current one trains.

use crate::{Error, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Batches that wait ready, besides the one in the making.
const DEPTH: usize = 2;
/// How long a thread of a rayon pool sleeps before it looks for work to help with.
const NAP: Duration = Duration::from_millis(1);

/// Runs an iterator of batches ahead on one worker thread, in order, at most two batches early.
///
/// The first error ends the iteration, and so does a panic of the worker, which arrives as an error. Dropping it
/// stops the worker after the batch in the making.
///
/// # Determinism
/// The items are those of the iterator, in its order.
///
/// # Example
/// ```
/// use warpsmith::data::{Batches, Prefetch};
/// let batches = Batches::new(100, 32)?;
/// let ready = Prefetch::new(None, batches.pass(0).map(|indices| Ok(indices.len())))?;
/// let sizes = ready.collect::<Result<Vec<usize>, warpsmith::Error>>()?;
/// assert_eq!(sizes, [32, 32, 32, 4]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Debug)]
pub struct Prefetch<T> {
    /// `None` once the iteration has ended.
    receiver: Option<Receiver<Result<T>>>,
    worker: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts the worker. What `batches` does in parallel runs on `pool`, or on rayon's global pool without one.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(
        pool: Option<Arc<rayon::ThreadPool>>,
        batches: impl Iterator<Item = Result<T>> + Send + 'static,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(DEPTH);
        let work = move || produce(pool.as_deref(), batches, &sender);
        let worker = std::thread::Builder::new().name("prefetch".into()).spawn(work);
        let worker = worker.map_err(|error| {
            Error::device("cpu", format_args!("no thread for prefetching: {error}"), "raise the system's thread limit")
        })?;
        Ok(Prefetch { receiver: Some(receiver), worker: Some(worker) })
    }
}

/// The worker: makes batches until they end, one fails, or nobody wants them.
fn produce<T: Send>(
    pool: Option<&rayon::ThreadPool>,
    mut batches: impl Iterator<Item = Result<T>> + Send,
    sender: &SyncSender<Result<T>>,
) {
    loop {
        let batch = match pool {
            Some(pool) => pool.install(|| batches.next()),
            None => batches.next(),
        };
        let Some(batch) = batch else { return };
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl<T> Prefetch<T> {
    /// Waits for the worker to end; the text of its panic, if it panicked.
    fn join(&mut self) -> Option<String> {
        let worker = self.worker.take()?;
        // As in `next`: the worker may need this very thread to finish its batch.
        while !worker.is_finished() && rayon::current_thread_index().is_some() {
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                std::thread::sleep(NAP);
            }
        }
        let panic = worker.join().err()?;
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        Some(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into()))
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        let receiver = self.receiver.as_ref()?;
        let received = if rayon::current_thread_index().is_none() {
            receiver.recv().ok()
        } else {
            // On a thread of a pool: the batch may be made on that pool, which may have no other thread. Helping
            // instead of blocking keeps even a pool of one alive.
            loop {
                match receiver.try_recv() {
                    Ok(batch) => break Some(batch),
                    Err(TryRecvError::Disconnected) => break None,
                    Err(TryRecvError::Empty) => {}
                }
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    std::thread::sleep(NAP);
                }
            }
        };
        match received {
            Some(Ok(batch)) => Some(Ok(batch)),
            Some(Err(error)) => {
                self.receiver = None;
                Some(Err(error))
            }
            None => {
                self.receiver = None;
                let panic = self.join()?;
                Some(Err(Error::argument(
                    "prefetch",
                    "a batch",
                    format_args!("a panic of the worker: {panic}"),
                    "this is a fault of the code that makes the batches: report it",
                )))
            }
        }
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // The worker's next send fails, which ends it.
        self.receiver = None;
        self.join();
    }
}
