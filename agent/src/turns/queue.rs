//! The order of a line, and how many are at work: plain data, without time and without waiting.

use std::collections::BTreeMap;

/// Whoever has begun goes ahead of whoever has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A later step of a pod that had its turn before.
    Begun,
    /// The first step.
    New,
}

/// `T` is what is known of one who waits.
#[derive(Debug)]
pub struct Queue<T> {
    free: usize,
    asked: u64,
    /// By rank and order of asking. Not empty only when nothing is free.
    waiting: BTreeMap<(Rank, u64), T>,
}

impl<T> Queue<T> {
    /// With `places` at work at a time.
    pub fn new(places: usize) -> Self {
        Self {
            free: places,
            asked: 0,
            waiting: BTreeMap::new(),
        }
    }

    /// Whether one may go at once; `false`: until [`Queue::done`] names it.
    pub fn ask(&mut self, rank: Rank, who: T) -> bool {
        if let Some(fewer) = self.free.checked_sub(1) {
            self.free = fewer;
            return true;
        }
        self.asked += 1;
        self.waiting.insert((rank, self.asked), who);
        false
    }

    /// A place is given back: who has it now. Those who do not wait any more are passed over and forgotten.
    pub fn done(&mut self, waits: impl Fn(&T) -> bool) -> Option<T> {
        while let Some((_, next)) = self.waiting.pop_first() {
            if waits(&next) {
                return Some(next);
            }
        }
        self.free += 1;
        None
    }
}
