//! Atomics that meet: lanes of a request on one address, and the words of global memory that many operations go to.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use crate::exec::memory::Request;
use crate::exec::regs::{LANES, lanes};
use crate::exec::run::Cx;
use crate::ptx::ast::Space;

/// Words to keep count of. A kernel that spreads its operations over more has no word that all of them wait for.
const MOST: usize = 1 << 16;

/// Atomic operations by address of global memory.
#[derive(Debug, Clone, Default)]
pub struct Words {
    at: HashMap<u64, u64, Spread>,
    /// There were too many: nothing is known, whatever the order of execution.
    many: bool,
}

impl Words {
    fn note(&mut self, address: u64, operations: u64) {
        if self.many {
            return;
        }
        *self.at.entry(address).or_insert(0) += operations;
        if self.at.len() > MOST {
            self.many = true;
            self.at = HashMap::default();
        }
    }

    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Words) {
        for (&address, &n) in &other.at {
            self.note(address, n);
        }
        if other.many {
            *self = Words { many: true, ..Words::default() };
        }
    }

    /// All operations, unless there were too many words.
    pub fn total(&self) -> u64 {
        self.at.values().sum()
    }

    /// The address that most operations went to, the lowest of equals, and how many.
    pub fn hottest(&self) -> Option<(u64, u64)> {
        self.at.iter().map(|(&address, &n)| (address, n)).max_by_key(|&(address, n)| (n, std::cmp::Reverse(address)))
    }
}

/// Addresses are spread well enough by a multiplication.
#[derive(Debug, Clone, Copy, Default)]
struct Spread;

struct Product(u64);

impl BuildHasher for Spread {
    type Hasher = Product;

    fn build_hasher(&self) -> Product {
        Product(0)
    }
}

impl Hasher for Product {
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Counts the operations of a request, and the steps they take if those on one address go one after the other.
#[inline(never)]
pub fn note(cx: &mut Cx, pc: usize, r: &Request) {
    let mut distinct = [(0u64, 0u32); LANES];
    let mut n = 0;
    let mut steps = 0;
    for lane in lanes(r.mask) {
        let at = r.at[lane];
        let i = match distinct[..n].iter().position(|d| d.0 == at) {
            Some(i) => i,
            None => {
                distinct[n] = (at, 0);
                n += 1;
                n - 1
            }
        };
        distinct[i].1 += 1;
        steps = steps.max(distinct[i].1);
    }
    let site = &mut cx.sites[pc];
    site.atomics += u64::from(r.mask.count_ones());
    site.atomic_steps += u64::from(steps);
    if r.space == Space::Global {
        for &(at, count) in &distinct[..n] {
            cx.words.note(r.view.base + at, u64::from(count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_word_does_not_depend_on_the_order() {
        let mut words = Words::default();
        for i in 0..1000u64 {
            words.note(4096 + 4 * (i % 7), 1 + i % 2);
        }
        // 1000 operations, half of them double: words 0 to 5 get 143 of 1000, and each parity about half of those.
        let mut reversed = Words::default();
        for i in (0..1000u64).rev() {
            reversed.note(4096 + 4 * (i % 7), 1 + i % 2);
        }
        let counts: Vec<u64> = (0..7).map(|w| (0..1000).filter(|i| i % 7 == w).map(|i| 1 + i % 2).sum()).collect();
        let most = *counts.iter().max().unwrap();
        let first = counts.iter().position(|&c| c == most).unwrap() as u64;
        assert_eq!(words.hottest(), Some((4096 + 4 * first, most)));
        assert_eq!(words.hottest(), reversed.hottest());
        let mut both = Words::default();
        both.add(&words);
        both.add(&reversed);
        assert_eq!(both.hottest(), Some((4096 + 4 * first, 2 * most)));
    }

    #[test]
    fn too_many_words_are_no_word() {
        let mut words = Words::default();
        words.note(0, 1000);
        for i in 0..MOST as u64 {
            assert!(words.hottest().is_some());
            words.note(4 + 4 * i, 1);
        }
        words.note(0, 1000);
        assert_eq!(words.hottest(), None);
        let mut sum = Words::default();
        sum.note(8, 5);
        sum.add(&words);
        assert_eq!(sum.hottest(), None);
    }
}
