//! Streams, events, capture and graphs.

use super::*;

fn new_stream(s: &mut State, out: &Out<u64>, flags: u32, priority: i32) -> Outcome {
    current(s)?;
    let handle = s.handle();
    // Priorities out of range are clamped, as the driver does.
    let priority = priority.clamp(-5, 0);
    s.queue.streams.insert(handle, Stream { blocking: flags & 1 == 0, priority, ..Stream::default() });
    out.set(handle)
}

fn record(s: &mut State, event: u64, stream: u64) -> Outcome {
    let stream = s.stream(stream)?;
    if !s.events.contains_key(&event) {
        return s.fail(INVALID_HANDLE, "not an event");
    }
    let capture = s.queue.streams.get(&stream).and_then(|s| s.capture);
    s.submit(stream, Work::Record(event))?;
    let now = s.queue.streams.get(&stream).cloned().unwrap_or_default();
    let Some(e) = s.events.get_mut(&event) else { return Ok(()) };
    match capture {
        Some(c) => e.node = Some((c, now.node)),
        None => *e = Event { command: now.last, clock: now.clock, timed: e.timed, ..Event::default() },
    }
    Ok(())
}

/// Waits until an event is reached.
fn reach(s: &mut State, event: u64) -> Outcome {
    let Some(e) = s.events.get(&event).cloned() else { return s.fail(INVALID_HANDLE, "not an event") };
    if e.node.is_some() {
        return s.fail(CAPTURED_EVENT, "the event was last recorded in a capture: it happens when the graph runs");
    }
    let targets: Vec<u64> = e.command.into_iter().collect();
    s.run(&targets)?;
    s.host_knows(&e.clock);
    Ok(())
}

/// Time between two events on the emulating host, which says nothing about a GPU.
fn elapsed(s: &mut State, ms: &Out<f32>, start: u64, end: u64) -> Outcome {
    let (Some(a), Some(b)) = (s.events.get(&start).cloned(), s.events.get(&end).cloned()) else {
        return s.fail(INVALID_HANDLE, "not an event");
    };
    if !a.timed || !b.timed {
        return s.fail(INVALID_HANDLE, "an event was made with CU_EVENT_DISABLE_TIMING");
    }
    if a.command.is_none() || b.command.is_none() {
        return s.fail(INVALID_HANDLE, "an event was never recorded");
    }
    match (a.time, b.time) {
        (Some(a), Some(b)) => ms.set(b.saturating_duration_since(a).as_secs_f32() * 1e3),
        _ => s.fail(NOT_READY, "the stream has not reached an event: wait for it first"),
    }
}

entry_points! { false;
    cuStreamDestroy_v2(stream: u64) s {
        if stream <= 2 || !s.queue.streams.contains_key(&stream) {
            return s.fail(INVALID_HANDLE, format!("{stream:#x} is not a stream that can be destroyed"));
        }
        if let Some(c) = s.queue.streams.get(&stream).and_then(|s| s.capture) {
            s.invalidate(c);
        }
        // What it still has queued keeps running; nothing new can be ordered behind it.
        let last = s.queue.streams.get(&stream).and_then(|s| s.last);
        if let Some(id) = last.filter(|_| s.sticky.is_none()) {
            s.run(&[id])?;
        }
        s.queue.remove(stream);
        Ok(())
    }
    cuEventDestroy_v2(event: u64) s { s.events.remove(&event).map(|_| ()).ok_or(INVALID_HANDLE) }
    cuGraphDestroy(graph: u64) s {
        let g = s.graphs.remove(&graph).ok_or(INVALID_HANDLE)?;
        s.release(g);
        Ok(())
    }
    cuGraphExecDestroy(exec: u64) s {
        // Runs that are queued need it.
        if s.sticky.is_none() && !s.capturing() {
            s.run_all()?;
        }
        let g = s.execs.remove(&exec).ok_or(INVALID_HANDLE)?;
        s.release(g);
        Ok(())
    }
}

entry_points! { true;
    cuCtxSynchronize() s { current(s)?; s.synchronise_all() }
    cuStreamCreate(stream: Out<u64>, flags: u32) s { new_stream(s, &stream, flags, 0) }
    cuStreamCreateWithPriority(stream: Out<u64>, flags: u32, priority: i32) s { new_stream(s, &stream, flags, priority) }
    cuStreamGetPriority(stream: u64, priority: Out<i32>) s {
        let stream = s.stream(stream)?;
        priority.set(s.queue.streams.get(&stream).map_or(0, |s| s.priority))
    }
    cuStreamGetFlags(stream: u64, flags: Out<u32>) s {
        let stream = s.stream(stream)?;
        flags.set(s.queue.streams.get(&stream).map_or(0, |s| u32::from(!s.blocking)))
    }
    cuStreamGetCtx(stream: u64, ctx: Out<u64>) s {
        s.stream(stream)?;
        current(s)?;
        ctx.set(CONTEXTS.with_borrow(|c| c.last().copied().unwrap_or(0)))
    }
    cuStreamSynchronize(stream: u64) s { current(s)?; s.synchronise(stream) }
    cuStreamQuery(stream: u64) s {
        let stream = s.stream(stream)?;
        s.no_capture(stream)?;
        // Nobody else will ever run what it has queued: a program that polls would wait for ever.
        s.synchronise(stream)
    }
    cuStreamWaitEvent(stream: u64, event: u64, _flags: u32) s {
        let stream = s.stream(stream)?;
        let Some(e) = s.events.get(&event).cloned() else { return s.fail(INVALID_HANDLE, "not an event") };
        if let Some((capture, _)) = e.node
            && !s.queue.streams.values().any(|t| t.capture == Some(capture))
        {
            return s.fail(CAPTURED_EVENT, "the event was recorded in a capture that is over: record it again");
        }
        let Some(target) = s.queue.streams.get_mut(&stream) else { return Ok(()) };
        if let Some((capture, node)) = e.node {
            // An event of a capture brings the stream into it.
            match target.capture {
                Some(c) if c != capture => return s.fail(CAPTURE_MERGE, "the event belongs to another capture"),
                Some(_) => {}
                None => {
                    target.capture = Some(capture);
                    target.node = None;
                }
            }
            target.node_waits.extend(node);
            return Ok(());
        }
        if let Some(c) = target.capture {
            s.invalidate(c);
            return s.fail(CAPTURE_ISOLATION, "a capturing stream waits for an event recorded outside the capture");
        }
        s.queue.wait(stream, e.command, &e.clock);
        Ok(())
    }
    cuThreadExchangeStreamCaptureMode(mode: Out<i32>) _s {
        // SAFETY: the driver API requires a valid place, null is checked.
        let Some(new) = (unsafe { mode.0.as_ref().copied() }).filter(|m| (0..=2).contains(m)) else {
            return Err(INVALID_VALUE);
        };
        mode.set(CAPTURE_MODE.replace(new))
    }
    cuStreamBeginCapture_v2(stream: u64, mode: i32) s {
        if !(0..=2).contains(&mode) {
            return Err(INVALID_VALUE);
        }
        let stream = s.stream(stream)?;
        if stream == 0 {
            return s.fail(CAPTURE_UNSUPPORTED, "the legacy default stream cannot be captured");
        }
        let handle = s.handle();
        let Some(target) = s.queue.streams.get_mut(&stream) else { return Err(INVALID_HANDLE) };
        if target.capture.is_some() {
            return s.fail(CAPTURE_UNSUPPORTED, "the stream is capturing already");
        }
        target.capture = Some(handle);
        target.node = None;
        target.node_waits.clear();
        let thread = Some(std::thread::current().id());
        s.graphs.insert(handle, Graph { origin: stream, mode, thread, ..Graph::default() });
        Ok(())
    }
    cuStreamEndCapture(stream: u64, graph: Out<u64>) s {
        let stream = s.stream(stream)?;
        let capture = s.queue.streams.get(&stream).and_then(|s| s.capture);
        let Some(handle) = capture else { return s.fail(CAPTURE_UNMATCHED, "the stream is not capturing") };
        let Some(g) = s.graphs.get(&handle).cloned() else { return Err(CAPTURE_INVALIDATED) };
        if g.mode != 2 && g.thread != Some(std::thread::current().id()) {
            return s.fail(CAPTURE_WRONG_THREAD, "the capture was begun by another thread, and not in relaxed mode");
        }
        if g.origin != stream {
            return s.fail(CAPTURE_UNMATCHED, "the capture began in another stream: end it there");
        }
        // Streams that joined must have come back: their last node must lie before one of the origin.
        let reached = |node: usize| {
            let mut open: Vec<usize> = s.queue.streams.get(&stream).into_iter().flat_map(|s| {
                s.node.into_iter().chain(s.node_waits.iter().copied())
            }).collect();
            let mut seen = vec![false; g.nodes.len()];
            while let Some(n) = open.pop() {
                if !std::mem::replace(&mut seen[n], true) {
                    open.extend(g.nodes[n].after.iter().map(|&a| a as usize));
                }
            }
            seen[node]
        };
        let joined: Vec<(u64, Option<usize>)> =
            s.queue.streams.iter().filter(|(_, t)| t.capture == Some(handle)).map(|(&h, t)| (h, t.node)).collect();
        let unjoined = joined.iter().any(|&(h, n)| h != stream && n.is_some_and(|n| !reached(n)));
        for (h, _) in joined {
            if let Some(t) = s.queue.streams.get_mut(&h) {
                t.capture = None;
                t.node = None;
                t.node_waits.clear();
            }
        }
        if g.invalid || unjoined {
            if let Some(g) = s.graphs.remove(&handle) {
                s.release(g);
            }
            graph.set_if_wanted(0);
            if unjoined {
                return s.fail(CAPTURE_UNJOINED, "a stream that joined the capture was not joined back by an event");
            }
            return s.fail(CAPTURE_INVALIDATED, "a call that cannot be captured was made during the capture");
        }
        graph.set(handle)
    }
    cuStreamIsCapturing(stream: u64, status: Out<i32>) s {
        let stream = s.stream(stream)?;
        let capture = s.queue.streams.get(&stream).and_then(|s| s.capture);
        let invalid = capture.and_then(|c| s.graphs.get(&c)).is_some_and(|g| g.invalid);
        status.set(match capture { None => 0, Some(_) if invalid => 2, Some(_) => 1 })
    }
    cuStreamAttachMemAsync(_stream: u64, _p: u64, _bytes: usize, _flags: u32) _s { Ok(()) }
    cuGraphInstantiateWithFlags(exec: Out<u64>, graph: u64, _flags: u64) s {
        let Some(g) = s.graphs.get(&graph).cloned() else { return s.fail(INVALID_HANDLE, "not a graph") };
        let handle = s.handle();
        s.execs.insert(handle, g);
        exec.set(handle)
    }
    cuGraphUpload(exec: u64, _stream: u64) s {
        if s.execs.contains_key(&exec) { Ok(()) } else { s.fail(INVALID_HANDLE, "not an executable graph") }
    }
    cuGraphLaunch(exec: u64, stream: u64) s {
        let stream = s.stream(stream)?;
        s.no_capture(stream)?;
        let Some(g) = s.execs.get(&exec).cloned() else { return s.fail(INVALID_HANDLE, "not an executable graph") };
        let last = s.queue.push_graph(stream, &g);
        if let Some(g) = s.execs.get_mut(&exec) {
            g.last = last;
        }
        Ok(())
    }

    cuEventCreate(event: Out<u64>, flags: u32) s {
        current(s)?;
        if flags & !7 != 0 {
            return Err(INVALID_VALUE);
        }
        let handle = s.handle();
        s.events.insert(handle, Event { timed: flags & 2 == 0, ..Event::default() });
        event.set(handle)
    }
    cuEventRecord(event: u64, stream: u64) s { record(s, event, stream) }
    cuEventRecordWithFlags(event: u64, stream: u64, _flags: u32) s { record(s, event, stream) }
    cuEventSynchronize(event: u64) s { reach(s, event) }
    // As for streams: a program that polls must not wait for ever.
    cuEventQuery(event: u64) s { reach(s, event) }
    cuEventElapsedTime(ms: Out<f32>, start: u64, end: u64) s { elapsed(s, &ms, start, end) }
    cuEventElapsedTime_v2(ms: Out<f32>, start: u64, end: u64) s { elapsed(s, &ms, start, end) }
}
