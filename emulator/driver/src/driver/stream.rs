//! Streams. Work is queued with the commands it must follow and runs when somebody waits for it. Among commands that
//! nothing orders the seed decides, so a missing event wait shows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::check::order::{Clock, Stamp};
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

/// A queued command, or a node of a graph.
#[derive(Debug, Clone)]
pub struct Command {
    /// Its number, in the order in which the program asked for commands.
    pub id: u64,
    /// Commands that come first.
    pub after: Vec<u64>,
    /// What to do.
    pub work: Work,
    /// What comes before it, as far as the program sees to that, itself included.
    pub clock: Clock,
    /// Its place among all commands.
    pub stamp: Stamp,
    /// Its stream.
    pub stream: u64,
}

impl Command {
    /// A node of a graph, which gets its place when the graph runs.
    pub fn node(after: Vec<u64>, work: Work) -> Command {
        Command { id: 0, after, work, clock: Clock::default(), stamp: Stamp::default(), stream: 0 }
    }
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
    /// What its next command knows.
    pub clock: Clock,
    /// Its own timeline, and those of parallel branches of its graphs.
    pub timelines: Vec<u32>,
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
    /// The end of its latest run, which the next one follows.
    pub last: Option<(u64, Clock)>,
}

/// The queue of a device.
#[derive(Debug, Default)]
pub struct Queue {
    pending: BTreeMap<u64, Command>,
    next: u64,
    /// Streams by handle; 0 is the legacy default stream.
    pub streams: HashMap<u64, Stream>,
    /// What the host has waited for.
    pub host: Clock,
    /// What destroyed streams knew.
    gone: Clock,
    timelines: u32,
    /// Timelines of destroyed streams, and their last commands.
    idle: Vec<(u32, Stamp)>,
    random: u64,
    seed: u64,
}

impl Queue {
    /// An empty queue with its default streams.
    pub fn new(seed: u64) -> Queue {
        let mut streams = HashMap::new();
        streams.insert(0, Stream { blocking: true, ..Stream::default() });
        streams.insert(2, Stream { blocking: true, ..Stream::default() });
        Queue { streams, random: seed.wrapping_mul(2).wrapping_add(1), seed, next: 1, ..Queue::default() }
    }

    /// A timeline for a stream: that of a destroyed one can go on once the host has waited for it.
    fn timeline(&mut self) -> u32 {
        match self.idle.iter().position(|(_, last)| self.host.knows(*last)) {
            Some(i) => self.idle.swap_remove(i).0,
            None => {
                self.timelines += 1;
                self.timelines - 1
            }
        }
    }

    /// A timeline of a stream: its own, or the one of a branch of its graphs.
    fn timeline_of(&mut self, stream: u64, branch: usize) -> u32 {
        loop {
            if let Some(&t) = self.streams.get(&stream).and_then(|s| s.timelines.get(branch)) {
                return t;
            }
            let t = self.timeline();
            self.streams.entry(stream).or_default().timelines.push(t);
        }
    }

    /// A stream ends.
    pub fn remove(&mut self, stream: u64) {
        let Some(mut s) = self.streams.remove(&stream) else { return };
        // A last stamp on each timeline stands for all that it had.
        for t in s.timelines {
            self.idle.push((t, s.clock.advance(t)));
        }
        self.gone.join(&s.clock);
    }

    /// The commands and the knowledge of whoever has waited for a stream. The legacy default stream stands for all that
    /// synchronise with it.
    pub fn reached(&self, stream: u64) -> (Vec<u64>, Clock) {
        let mut targets = Vec::new();
        let mut clock = Clock::default();
        for (&h, s) in &self.streams {
            if h == stream || (stream == 0 && s.blocking) {
                targets.extend(s.last.iter().chain(&s.waits));
                clock.join(&s.clock);
            }
        }
        (targets, clock)
    }

    /// What everything knows that has not run yet: queued work, and work that the host will queue.
    pub fn common(&self) -> Clock {
        let mut clock = self.host.clone();
        self.pending.values().for_each(|c| clock.meet(&c.clock));
        clock
    }

    /// The knowledge of whoever has waited for everything.
    pub fn everything(&self) -> Clock {
        let mut clock = self.gone.clone();
        self.streams.values().for_each(|s| clock.join(&s.clock));
        clock
    }

    /// Queues work on a stream behind everything it must follow. The stream must exist.
    pub fn push(&mut self, stream: u64, work: Work) -> u64 {
        let timeline = self.timeline_of(stream, 0);
        let mut clock = self.host.clone();
        // Work on the legacy default stream follows that of all streams that synchronise with it, and the other way round.
        let (mut after, seen) = match self.streams.get(&stream) {
            Some(s) if stream != 0 && s.blocking => self.streams.get(&0).map_or_else(Default::default, |legacy| {
                (legacy.last.iter().chain(&legacy.waits).copied().collect(), legacy.clock.clone())
            }),
            _ if stream == 0 => self.reached(0),
            _ => Default::default(),
        };
        clock.join(&seen);
        let id = self.next;
        self.next += 1;
        let s = self.streams.entry(stream).or_default();
        clock.join(&s.clock);
        let stamp = clock.advance(timeline);
        s.clock = clock.clone();
        after.append(&mut s.waits);
        after.extend(s.last);
        s.last = Some(id);
        after.retain(|a| self.pending.contains_key(a));
        self.pending.insert(id, Command { id, after, work, clock, stamp, stream });
        id
    }

    /// Lets the next command of a stream follow another command.
    pub fn wait(&mut self, stream: u64, command: Option<u64>, clock: &Clock) {
        if let Some(s) = self.streams.get_mut(&stream) {
            s.waits.extend(command);
            s.clock.join(clock);
        }
    }

    /// Queues the nodes of a graph on a stream.
    pub fn push_graph(&mut self, stream: u64, graph: &Graph) -> Option<(u64, Clock)> {
        if let Some((last, clock)) = &graph.last {
            self.wait(stream, Some(*last), clock);
        }
        let start = self.push(stream, Work::Nothing);
        let known = self.streams.get(&stream).map(|s| s.clock.clone()).unwrap_or_default();
        let mut ids = Vec::with_capacity(graph.nodes.len());
        let mut clocks: Vec<Clock> = Vec::with_capacity(graph.nodes.len());
        // Each branch is a timeline: a node goes on with that of a node that it follows and that no other has gone on with.
        let mut ends: Vec<Option<usize>> = Vec::new();
        for (n, node) in graph.nodes.iter().enumerate() {
            let id = self.next;
            self.next += 1;
            let mut after: Vec<u64> = node.after.iter().filter_map(|&n| ids.get(n as usize).copied()).collect();
            after.push(start);
            let mut clock = known.clone();
            node.after.iter().filter_map(|&n| clocks.get(n as usize)).for_each(|c| clock.join(c));
            let follows = |end: &Option<usize>| end.is_some_and(|e| node.after.contains(&(e as u64)));
            let branch = ends.iter().position(follows).unwrap_or(ends.len());
            ends.resize(ends.len().max(branch + 1), None);
            ends[branch] = Some(n);
            let stamp = clock.advance(self.timeline_of(stream, branch));
            clocks.push(clock.clone());
            self.pending.insert(id, Command { id, after, work: node.work.clone(), clock, stamp, stream });
            ids.push(id);
        }
        if let Some(s) = self.streams.get_mut(&stream) {
            s.waits.extend(ids);
            clocks.iter().for_each(|c| s.clock.join(c));
        }
        let end = self.push(stream, Work::Nothing);
        self.streams.get(&stream).map(|s| (end, s.clock.clone()))
    }

    /// Another order of unrelated work from now on.
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        self.random = seed.wrapping_mul(2).wrapping_add(1);
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
        let reached = q.reached(16).1;
        q.wait(32, Some(a), &reached);
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

    /// Clocks know exactly the commands that a chain of streams, events, graphs and waits of the host puts first.
    #[test]
    fn clocks_follow_streams_events_graphs_and_the_host() {
        let mut q = Queue::new(0);
        for (handle, blocking) in [(16, false), (32, false), (48, true), (64, true)] {
            q.streams.insert(handle, Stream { blocking, ..Stream::default() });
        }
        let knows = |q: &Queue, later: u64, earlier: u64| q.pending[&later].clock.knows(q.pending[&earlier].stamp);
        let (a, b) = (q.push(16, Work::Nothing), q.push(32, Work::Nothing));
        assert!(!knows(&q, b, a) && !knows(&q, a, b), "two streams");
        let event = q.streams[&16].clock.clone();
        let c = q.push(16, Work::Nothing);
        q.wait(32, Some(a), &event);
        let d = q.push(32, Work::Nothing);
        assert!(knows(&q, d, a) && knows(&q, d, b) && !knows(&q, d, c), "the event was recorded before the last one");
        let (e, f) = (q.push(48, Work::Nothing), q.push(64, Work::Nothing));
        let legacy = q.push(0, Work::Nothing);
        let g = q.push(64, Work::Nothing);
        assert!(!knows(&q, f, e) && knows(&q, legacy, e) && knows(&q, g, e), "the legacy stream stands between");
        assert!(!knows(&q, legacy, c) && !knows(&q, q.next - 1, c), "but not for streams that do not block");
        // A graph that forks and joins: 0 -> (1, 2) -> 3.
        let nodes = [vec![], vec![0], vec![0], vec![1, 2]].map(|after| Command::node(after, Work::Nothing));
        let graph = Graph { nodes: nodes.to_vec(), ..Graph::default() };
        let first = q.next + 1;
        let last = q.push_graph(16, &graph);
        let (fork, left, right, join) = (first, first + 1, first + 2, first + 3);
        assert!(knows(&q, fork, c) && knows(&q, left, fork) && knows(&q, right, fork));
        assert!(!knows(&q, left, right) && !knows(&q, right, left), "branches");
        assert!(knows(&q, join, left) && knows(&q, join, right));
        let h = q.push(16, Work::Nothing);
        assert!(knows(&q, h, left) && knows(&q, h, right));
        // The next run of a graph follows the one before, in whatever stream.
        let again = q.next + 1;
        q.push_graph(32, &Graph { last, ..graph });
        assert!(knows(&q, again, right) && !knows(&q, again, h));
        // What the host has waited for precedes what it asks for.
        let before = q.push(32, Work::Nothing);
        assert!(!knows(&q, before, legacy));
        let reached = q.reached(0).1;
        q.host.join(&reached);
        let after = q.push(32, Work::Nothing);
        assert!(knows(&q, after, legacy) && knows(&q, after, f) && !knows(&q, after, h));
        // The timeline of a stream that is gone is used again only when the host has waited for it.
        let used = q.streams[&16].timelines.clone();
        q.remove(16);
        assert!(!used.contains(&q.timeline()));
        let all = q.everything();
        assert!(all.knows(q.pending[&h].stamp));
        q.host.join(&all);
        assert!(used.contains(&q.timeline()));
    }
}
