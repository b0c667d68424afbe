//! Streams. Work is queued with the commands it must follow and runs when somebody waits for it. Among commands that
//! nothing orders the seed decides, so a missing event wait shows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::exec::grid::Launch;
use crate::exec::op::Kernel;

/// Where an upload takes its bytes from.
#[derive(Debug, Clone)]
pub enum Bytes {
    /// Staged when the call was made: pageable memory.
    Staged(Arc<Vec<u8>>),
    /// Read when the copy runs: pinned memory.
    Host(usize, usize),
}

/// What a command does.
#[derive(Debug, Clone)]
pub enum Work {
    /// Runs a kernel.
    Launch(Arc<Kernel>, Arc<Launch>),
    /// Host to device.
    Upload(u64, Bytes),
    /// Device to host: host address, device address, bytes.
    Download(usize, u64, usize),
    /// Device to device: destination, source, bytes.
    Copy(u64, u64, u64),
    /// Sets elements: address, value, bytes of an element, number of elements.
    Fill(u64, u32, u32, u64),
    /// Marks an event as reached.
    Record(u64),
    /// A stream-ordered allocation begins.
    Open(u64),
    /// A stream-ordered free.
    Free(u64),
    /// A free inside a graph: the address stays the graph's, for its next run.
    Close(u64),
    /// Calls back into the program: function, argument.
    Host(usize, usize),
    /// Only orders others.
    Nothing,
}

/// A queued command.
#[derive(Debug, Clone)]
pub struct Command {
    /// Commands that come first.
    pub after: Vec<u64>,
    /// What to do.
    pub work: Work,
}

/// A stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Its latest command.
    pub last: Option<u64>,
    /// Commands its next one must also follow.
    pub waits: Vec<u64>,
    /// Synchronises with the legacy default stream.
    pub blocking: bool,
    /// Its priority, which changes nothing.
    pub priority: i32,
    /// Capture it belongs to.
    pub capture: Option<u64>,
    /// Its latest node in that capture.
    pub node: Option<usize>,
    /// Nodes its next one must also follow.
    pub node_waits: Vec<usize>,
}

/// A graph: commands whose `after` are indices of earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Nodes in an order that respects their edges.
    pub nodes: Vec<Command>,
    /// Stream that began the capture.
    pub origin: u64,
    /// A call that may not be captured was made.
    pub invalid: bool,
    /// Memory that its allocations hand out at every run.
    pub memory: Vec<u64>,
    /// Which calls its capture forbids: 0 unsafe ones of all threads, 1 of its own thread, 2 none.
    pub mode: i32,
    /// The thread that began the capture.
    pub thread: Option<std::thread::ThreadId>,
}

/// The queue of a device.
#[derive(Debug, Default)]
pub struct Queue {
    pending: BTreeMap<u64, Command>,
    next: u64,
    /// Streams by handle; 0 is the legacy default stream.
    pub streams: HashMap<u64, Stream>,
    random: u64,
    seed: u64,
}

impl Queue {
    /// An empty queue with its default streams.
    pub fn new(seed: u64) -> Queue {
        let mut streams = HashMap::new();
        streams.insert(0, Stream { blocking: true, ..Stream::default() });
        streams.insert(2, Stream { blocking: true, ..Stream::default() });
        Queue { streams, random: seed.wrapping_mul(2).wrapping_add(1), seed, next: 1, pending: BTreeMap::new() }
    }

    /// Queues work on a stream behind everything it must follow. The stream must exist.
    pub fn push(&mut self, stream: u64, work: Work) -> u64 {
        let legacy = self.streams.get(&0).and_then(|s| s.last);
        let others: Vec<u64> = if stream == 0 {
            self.streams.values().filter(|s| s.blocking).filter_map(|s| s.last).collect()
        } else {
            Vec::new()
        };
        let id = self.next;
        self.next += 1;
        let s = self.streams.entry(stream).or_default();
        let mut after = std::mem::take(&mut s.waits);
        after.extend(s.last);
        if stream != 0 && s.blocking {
            after.extend(legacy);
        }
        s.last = Some(id);
        after.extend(others);
        after.retain(|a| self.pending.contains_key(a));
        self.pending.insert(id, Command { after, work });
        id
    }

    /// Queues the nodes of a graph on a stream.
    pub fn push_graph(&mut self, stream: u64, graph: &Graph) {
        let start = self.push(stream, Work::Nothing);
        let mut ids = Vec::with_capacity(graph.nodes.len());
        for node in &graph.nodes {
            let id = self.next;
            self.next += 1;
            let mut after: Vec<u64> = node.after.iter().filter_map(|&n| ids.get(n as usize).copied()).collect();
            after.push(start);
            self.pending.insert(id, Command { after, work: node.work.clone() });
            ids.push(id);
        }
        if let Some(s) = self.streams.get_mut(&stream) {
            s.waits.extend(ids);
        }
        self.push(stream, Work::Nothing);
    }

    /// Another order of unrelated work from now on.
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        self.random = seed.wrapping_mul(2).wrapping_add(1);
    }

    /// Whether a command has not run yet.
    pub fn is_pending(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }

    /// Everything that is queued.
    pub fn all(&self) -> Vec<u64> {
        self.pending.keys().copied().collect()
    }

    /// Forgets everything that is queued.
    pub fn clear(&mut self) {
        self.pending.clear();
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.random >> 33) as usize) % below.max(1)
    }

    /// The order in which commands run so that `targets` are done: with seed 0 only what they need, oldest first; with
    /// another seed an arbitrary legal order, and some work of unrelated streams as well.
    pub fn plan(&mut self, targets: &[u64]) -> Vec<u64> {
        let mut needed = BTreeSet::new();
        let mut stack: Vec<u64> = targets.to_vec();
        if self.seed != 0 {
            let all = self.all();
            for id in all {
                if self.draw(2) == 0 {
                    stack.push(id);
                }
            }
        }
        while let Some(id) = stack.pop() {
            if let Some(c) = self.pending.get(&id)
                && needed.insert(id)
            {
                stack.extend(&c.after);
            }
        }
        let mut order = Vec::with_capacity(needed.len());
        let mut left = needed.clone();
        while !left.is_empty() {
            let free: Vec<u64> = left
                .iter()
                .copied()
                .filter(|id| self.pending[id].after.iter().all(|a| !left.contains(a)))
                .take(if self.seed == 0 { 1 } else { usize::MAX })
                .collect();
            // Commands only follow older ones, so there always is a free one.
            let Some(&pick) = free.get(self.draw(free.len())) else { break };
            left.remove(&pick);
            order.push(pick);
        }
        order
    }

    /// Takes a command out to run it.
    pub fn take(&mut self, id: u64) -> Option<Command> {
        self.pending.remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_waited_for_runs_and_seeds_change_the_order() {
        let mut q = Queue::new(0);
        q.streams.insert(16, Stream::default());
        q.streams.insert(32, Stream::default());
        let a = q.push(16, Work::Nothing);
        let b = q.push(32, Work::Nothing);
        let c = q.push(32, Work::Nothing);
        assert_eq!(q.plan(&[c]), [b, c]);
        // An event wait orders the streams.
        if let Some(s) = q.streams.get_mut(&32) {
            s.waits.push(a);
        }
        let d = q.push(32, Work::Nothing);
        let plan = q.plan(&[d]);
        assert!(plan.iter().position(|&x| x == a) < plan.iter().position(|&x| x == d));
        let orders: BTreeSet<Vec<u64>> = (1..20)
            .map(|seed| {
                let mut q = Queue::new(seed);
                q.streams.insert(16, Stream::default());
                q.streams.insert(32, Stream::default());
                let ids = [q.push(16, Work::Nothing), q.push(32, Work::Nothing), q.push(16, Work::Nothing)];
                q.plan(&ids)
            })
            .collect();
        assert!(orders.len() > 1);
    }

    #[test]
    fn the_legacy_stream_waits_for_blocking_streams() {
        let mut q = Queue::new(0);
        q.streams.insert(16, Stream { blocking: true, ..Stream::default() });
        let a = q.push(16, Work::Nothing);
        let b = q.push(0, Work::Nothing);
        assert_eq!(q.plan(&[b]), [a, b]);
        let c = q.push(16, Work::Nothing);
        assert_eq!(q.plan(&[c]), [a, b, c]);
    }
}
