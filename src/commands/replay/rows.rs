//! How well the choice of rows foresees which rows succeed.
//!
//! Before a group of a row that was seen earlier is taken in, the success rate that is expected of the row is compared with that of the
//! group, and so is the rate that is expected of a row of the distribution that was never seen. If the first is no better than the
//! second, rows differ too little, or change too fast, for a choice of rows to help.

use std::collections::HashSet;

use serde::Serialize;

use crate::curriculum::{Curriculum, Observation};

/// The errors up to one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Foreseen {
    /// Groups of rows that were seen before.
    groups: u64,
    /// The root mean square of expected − observed success rate.
    error: f64,
    /// The same for what is expected of the row's distribution.
    error_of_source: f64,
}

/// Sums of squares over groups.
pub struct RowErrors {
    success_above: f64,
    seen: HashSet<(usize, usize)>,
    groups: u64,
    row: f64,
    source: f64,
}

impl RowErrors {
    pub fn new(success_above: f64) -> Self {
        Self { success_above, seen: HashSet::new(), groups: 0, row: 0.0, source: 0.0 }
    }

    /// Takes in a group that `curriculum` has not seen yet.
    pub fn add(&mut self, group: &Observation, curriculum: &Curriculum) {
        let (successes, completions) = group.successes(self.success_above);
        let Some(row) = group.row.filter(|_| completions > 0) else { return };
        let expected = |row| curriculum.expected(group.arm, row);
        let (Some(of_row), Some(of_source)) = (expected(Some(row)), expected(None)) else { return };
        if !self.seen.insert((group.arm, row)) {
            let rate = successes as f64 / completions as f64;
            self.groups += 1;
            self.row += (of_row - rate).powi(2);
            self.source += (of_source - rate).powi(2);
        }
    }

    /// None before the first row that was seen twice.
    pub fn foreseen(&self) -> Option<Foreseen> {
        let error = |squares: f64| (squares / self.groups as f64).sqrt();
        let all = || Foreseen { groups: self.groups, error: error(self.row), error_of_source: error(self.source) };
        (self.groups > 0).then(all)
    }
}
