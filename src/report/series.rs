//! Numbers over steps: means over runs, thinning, and the mix of distributions. Pure.

use std::collections::BTreeMap;

use super::load::LoadedRun;
use crate::metric_names::ArmMetric;

/// The largest number of points of a line; longer lines are reduced to means over neighbouring steps.
pub const MOST_POINTS: usize = 400;

/// A point of a line. For a single run `low` and `high` equal `y`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlotPoint {
    pub x: f64,
    pub y: f64,
    pub low: f64,
    pub high: f64,
}

impl PlotPoint {
    /// A point without a band.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, low: y, high: y }
    }
}

/// The mean of several runs, each a list of (step, x, y), with the smallest and the largest y as a band. Empty runs are
/// left out; of the others, only the steps that all of them have are kept. The result is thinned.
pub fn mean(runs: &[Vec<(u64, f64, f64)>]) -> Vec<PlotPoint> {
    let count = runs.iter().filter(|run| !run.is_empty()).count();
    let mut by_step: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for &(step, x, y) in runs.iter().flatten() {
        by_step.entry(step).or_default().push((x, y));
    }
    let points = by_step.into_values().filter(|values| values.len() >= count).map(|values| {
        let n = values.len() as f64;
        let ys = || values.iter().map(|(_, y)| *y);
        PlotPoint {
            x: values.iter().map(|(x, _)| x).sum::<f64>() / n,
            y: ys().sum::<f64>() / n,
            low: ys().fold(f64::INFINITY, f64::min),
            high: ys().fold(f64::NEG_INFINITY, f64::max),
        }
    });
    thin(points.collect())
}

/// At most [`MOST_POINTS`] points: means over neighbouring points.
pub fn thin(points: Vec<PlotPoint>) -> Vec<PlotPoint> {
    if points.len() <= MOST_POINTS {
        return points;
    }
    let size = points.len().div_ceil(MOST_POINTS);
    let mean_of = |chunk: &[PlotPoint], f: fn(&PlotPoint) -> f64| chunk.iter().map(f).sum::<f64>() / chunk.len() as f64;
    let one = |chunk: &[PlotPoint]| PlotPoint {
        x: mean_of(chunk, |p| p.x),
        y: mean_of(chunk, |p| p.y),
        low: mean_of(chunk, |p| p.low),
        high: mean_of(chunk, |p| p.high),
    };
    points.chunks(size).map(one).collect()
}

/// Groups of each distribution in each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    pub steps: Vec<u64>,
    /// One row per step, one number per distribution.
    pub counts: Vec<Vec<f64>>,
}

impl Mix {
    /// From the running totals `what` of every source, added up over the runs; none if they are all 0.
    pub fn of(runs: &[&LoadedRun], sources: &[String], what: ArmMetric) -> Option<Self> {
        let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for run in runs {
            for (index, source) in sources.iter().enumerate() {
                for (step, gain) in gains(run.metrics.get(&what.of(source))) {
                    by_step.entry(step).or_insert_with(|| vec![0.0; sources.len()])[index] += gain;
                }
            }
        }
        let total: f64 = by_step.values().flatten().sum();
        let (steps, counts) = by_step.into_iter().unzip();
        (total > 0.0).then_some(Self { steps, counts })
    }

    /// The number of groups of all steps.
    pub fn total(&self) -> f64 {
        self.counts.iter().flatten().sum()
    }

    /// The share of each distribution over `window` steps around each step, one row per step; none where no group was
    /// drawn.
    pub fn shares(&self, window: usize) -> Vec<Option<Vec<f64>>> {
        let half = window / 2;
        let around = |at: usize| &self.counts[at.saturating_sub(half)..(at + half + 1).min(self.counts.len())];
        (0..self.counts.len()).map(|at| share(around(at))).collect()
    }

    /// The shares over at most `columns` equal parts of the run: first step, last step, shares.
    pub fn binned(&self, columns: usize) -> Vec<(u64, u64, Option<Vec<f64>>)> {
        let size = self.steps.len().div_ceil(columns).max(1);
        let parts = self.steps.chunks(size).zip(self.counts.chunks(size));
        parts.map(|(steps, counts)| (steps[0], steps[steps.len() - 1], share(counts))).collect()
    }
}

fn share(counts: &[Vec<f64>]) -> Option<Vec<f64>> {
    let total: f64 = counts.iter().flatten().sum();
    let sums = (0..counts.first()?.len()).map(|index| counts.iter().map(|row| row[index]).sum::<f64>() / total);
    (total > 0.0).then(|| sums.collect())
}

/// The increase of a running total in each step.
pub fn gains(totals: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let before = std::iter::once(0.0).chain(totals.iter().map(|(_, total)| *total));
    totals.iter().zip(before).map(|(&(step, total), before)| (step, (total - before).max(0.0))).collect()
}

/// Divides 0..len into at most `most` equal parts.
pub fn bins(len: usize, most: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let size = len.div_ceil(most.max(1)).max(1);
    (0..len).step_by(size).map(move |start| start..(start + size).min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_over_the_steps_that_all_runs_have() {
        let runs =
            [vec![(0, 0.0, 1.0), (10, 10.0, 2.0), (20, 20.0, 9.0)], vec![(0, 0.0, 3.0), (10, 20.0, 4.0)], vec![]];
        let expected =
            [PlotPoint { x: 0.0, y: 2.0, low: 1.0, high: 3.0 }, PlotPoint { x: 15.0, y: 3.0, low: 2.0, high: 4.0 }];
        assert_eq!(mean(&runs), expected);
    }

    #[test]
    fn a_long_line_is_thinned_to_means() {
        let thinned = thin((0..1000).map(|i| PlotPoint::new(f64::from(i), 2.0 * f64::from(i))).collect());
        assert_eq!((thinned.len(), thinned[0]), (334, PlotPoint::new(1.0, 2.0)));
    }

    #[test]
    fn shares_are_over_a_window_and_skip_empty_steps() {
        let mix = Mix { steps: vec![1, 2, 3], counts: vec![vec![4.0, 0.0], vec![2.0, 2.0], vec![0.0, 0.0]] };
        assert_eq!(mix.shares(1), [Some(vec![1.0, 0.0]), Some(vec![0.5, 0.5]), None]);
        assert_eq!(mix.shares(3)[0], Some(vec![0.75, 0.25]));
        assert_eq!(mix.binned(2), [(1, 2, Some(vec![0.75, 0.25])), (3, 3, None)]);
        assert_eq!(gains(&[(1, 4.0), (2, 4.0), (3, 9.0)]), [(1, 4.0), (2, 0.0), (3, 5.0)]);
    }
}
