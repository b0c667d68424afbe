//! Control flow: basic blocks, and the immediate post-dominator of every branch, which is where diverged lanes meet.

/// What an operation does to the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// The next operation follows.
    Next,
    /// Goes to one of these, or on to the next if `true`.
    Jump(Vec<u32>, bool),
    /// Ends the thread, or goes on to the next if `true`.
    Exit(bool),
}

/// For every operation that may split a warp: the operation where both ways meet again, or `None` if they only meet at
/// the exit. Other operations have `None`.
pub fn meeting_points(flow: &[Flow]) -> Vec<Option<u32>> {
    let n = flow.len();
    let mut leader = vec![false; n + 1];
    leader[0] = true;
    for (i, f) in flow.iter().enumerate() {
        match f {
            Flow::Next => {}
            Flow::Jump(targets, _) => {
                for &t in targets {
                    leader[t as usize] = true;
                }
                leader[i + 1] = true;
            }
            Flow::Exit(_) => leader[i + 1] = true,
        }
    }
    let starts: Vec<usize> = (0..n).filter(|&i| leader[i]).collect();
    let mut block_of = vec![0usize; n];
    for (b, &s) in starts.iter().enumerate() {
        let end = starts.get(b + 1).copied().unwrap_or(n);
        block_of[s..end].fill(b);
    }
    let blocks = starts.len();
    let exit = blocks;
    let mut succ: Vec<Vec<usize>> = vec![Vec::new(); blocks + 1];
    for b in 0..blocks {
        let end = starts.get(b + 1).copied().unwrap_or(n);
        let next = if end < n { block_of[end] } else { exit };
        match &flow[end - 1] {
            Flow::Next => succ[b].push(next),
            Flow::Jump(targets, falls) => {
                succ[b].extend(targets.iter().map(|&t| block_of[t as usize]));
                if *falls {
                    succ[b].push(next);
                }
            }
            Flow::Exit(falls) => {
                succ[b].push(exit);
                if *falls {
                    succ[b].push(next);
                }
            }
        }
    }
    let ipdom = post_dominators(&succ, exit);
    (0..n)
        .map(|i| match &flow[i] {
            Flow::Jump(targets, falls) if targets.len() + usize::from(*falls) > 1 => {
                ipdom[block_of[i]].filter(|&b| b != exit).map(|b| starts[b] as u32)
            }
            _ => None,
        })
        .collect()
}

/// Immediate post-dominators after Cooper, Harvey and Kennedy ("A simple, fast dominance algorithm") on the reversed graph.
fn post_dominators(succ: &[Vec<usize>], exit: usize) -> Vec<Option<usize>> {
    let n = succ.len();
    let mut pred: Vec<Vec<usize>> = vec![Vec::new(); n];
    for (b, list) in succ.iter().enumerate() {
        for &s in list {
            pred[s].push(b);
        }
    }
    // Post-order of the reversed graph from the exit.
    let mut order = Vec::with_capacity(n);
    let mut number = vec![usize::MAX; n];
    let mut seen = vec![false; n];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((b, i)) = stack.pop() {
        if let Some(&p) = pred[b].get(i) {
            stack.push((b, i + 1));
            if !seen[p] {
                seen[p] = true;
                stack.push((p, 0));
            }
        } else {
            number[b] = order.len();
            order.push(b);
        }
    }
    let mut idom: Vec<Option<usize>> = vec![None; n];
    idom[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().skip(1) {
            let mut new: Option<usize> = None;
            for &s in &succ[b] {
                if idom[s].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => s,
                    Some(mut x) => {
                        let mut y = s;
                        while x != y {
                            while number[x] < number[y] {
                                x = idom[x].unwrap_or(exit);
                            }
                            while number[y] < number[x] {
                                y = idom[y].unwrap_or(exit);
                            }
                        }
                        x
                    }
                });
            }
            if new.is_some() && idom[b] != new {
                idom[b] = new;
                changed = true;
            }
        }
    }
    idom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_meet_where_both_ways_must_pass() {
        // 0: if -> 3; 1: next; 2: jump 4; 3: next; 4: loop back to 1 or fall; 5: exit
        let flow = [
            Flow::Jump(vec![3], true),
            Flow::Next,
            Flow::Jump(vec![4], false),
            Flow::Next,
            Flow::Jump(vec![1], true),
            Flow::Exit(false),
        ];
        assert_eq!(meeting_points(&flow), [Some(4), None, None, None, Some(5), None]);
    }

    #[test]
    fn ways_that_only_meet_at_the_exit_have_no_meeting_point() {
        let flow = [Flow::Jump(vec![2], true), Flow::Exit(false), Flow::Exit(false)];
        assert_eq!(meeting_points(&flow)[0], None);
    }
}
