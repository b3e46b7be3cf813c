//! Which rows have a job in flight.

use std::collections::BTreeMap;

use super::Job;

/// Counts jobs by distribution and row: the same row may be drawn twice.
#[derive(Default)]
pub(super) struct RunningRows(BTreeMap<(usize, usize), usize>);

impl RunningRows {
    pub fn add(&mut self, job: &Job) {
        *self.0.entry((job.arm, job.row)).or_default() += 1;
    }

    pub fn remove(&mut self, job: &Job) {
        let place = (job.arm, job.row);
        let left = self.0.get(&place).map_or(0, |jobs| jobs - 1);
        if left == 0 {
            self.0.remove(&place);
        } else {
            self.0.insert(place, left);
        }
    }

    pub fn contains(&self, arm: usize, row: usize) -> bool {
        self.0.contains_key(&(arm, row))
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
