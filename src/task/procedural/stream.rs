//! The rows of one level, made when they are asked for.
//!
//! Draw n of a level depends on the seed, the task, the level and n. A stream takes the draws of its split in order,
//! and skips problems that it has had already. So the rows before row n must be found before row n is known, but only
//! their numbers are kept.

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Procedural;
use super::problem::{Problem, identity_of};
use crate::seed::mix_seed;
use crate::task::row::Row;

/// After this many draws in a row without a new problem, a level has no new one left.
///
/// If a share of 0.2 % of all problems were still to be found, that many draws would miss it once in 3,000 times.
const ATTEMPTS: usize = 4_000;

/// What rows are for. No problem is in both splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train,
    Test,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// The rows of one level and split. The same arguments give the same rows, in whatever order they are asked for.
///
/// All problems are distinct until the level has no new one left; then they begin again, with row 0. Streams of
/// different seeds may share problems, but a problem that is in a training stream is in no test stream of any seed.
///
/// It keeps 8 bytes and an entry of a hash set per row.
#[derive(Clone, Debug)]
pub struct Stream {
    task: &'static Procedural,
    level: usize,
    split: Split,
    seed: u64,
    /// The next draw.
    next: u64,
    /// `draws[i]` made row i.
    draws: Vec<u64>,
    /// The identities of the problems of all rows.
    seen: HashSet<u64>,
    /// There is no new problem left.
    exhausted: bool,
    /// The newest row's problem, which is asked for next as a rule.
    newest: Option<Problem>,
}

impl Stream {
    /// # Panics
    /// If the task has no such level.
    pub fn new(task: &'static Procedural, level: usize, seed: u64, split: Split) -> Self {
        assert!(task.levels.contains(&level), "{} has no level {level}", task.name);
        Self {
            task,
            level,
            split,
            seed: mix_seed(seed ^ identity_of(task.name), level as u64),
            next: 0,
            draws: Vec::new(),
            seen: HashSet::new(),
            exhausted: false,
            newest: None,
        }
    }

    /// Row `index`, counted from 0. The rows before it are found first, if they are not known yet.
    pub fn row(&mut self, index: u64) -> Row {
        let at = index % self.distinct(index.saturating_add(1));
        let newest = self.newest.take_if(|_| at + 1 == self.draws.len() as u64);
        let problem = newest.unwrap_or_else(|| self.draw(self.draws[at as usize]));
        problem.row(self.task, self.level, self.split, index)
    }

    /// How many distinct problems there are, but at most `wanted`, which must be at least 1.
    pub fn distinct(&mut self, wanted: u64) -> u64 {
        while (self.draws.len() as u64) < wanted && !self.exhausted {
            self.find_next();
        }
        wanted.min(self.draws.len() as u64)
    }

    fn find_next(&mut self) {
        for _ in 0..ATTEMPTS {
            let number = self.next;
            self.next += 1;
            let problem = self.draw(number);
            if problem.split() == self.split && self.seen.insert(problem.identity) {
                self.draws.push(number);
                self.newest = Some(problem);
                return;
            }
        }
        // Every level has problems of both splits, so that the first one is found in the end.
        self.exhausted = !self.draws.is_empty();
    }

    fn draw(&self, number: u64) -> Problem {
        let mut rng = ChaCha8Rng::seed_from_u64(mix_seed(self.seed, number));
        (self.task.make)(self.level, &mut rng)
    }
}
