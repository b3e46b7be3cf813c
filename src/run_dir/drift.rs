//! Whether engine and trainer drift apart over a run: their log-probabilities of tokens that the present policy drew. Pure.
//!
//! Tokens of older policies do not count, so staleness cannot look like drift. A single difference that is too large is told at once
//! by other checks. This one sees what grows slowly, before it is too large.

use serde::{Deserialize, Serialize};

/// The steps that the latest ones are compared with, and how many latest ones there are.
const STEPS: usize = 20;
/// The median has grown by this factor.
const FACTOR: f64 = 4.0;
/// What is below this part of the limit does no harm, however much it has grown.
const SHARE: f64 = 0.1;

/// See the module. A checkpoint keeps it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The largest difference of each of the first steps, in nats.
    first: Vec<f64>,
    /// Those of the latest steps.
    latest: Vec<f64>,
    told: bool,
}

/// The medians, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drifted {
    pub first: f64,
    pub latest: f64,
}

impl Drift {
    /// Takes the largest difference of a step. `limit`: what a single step may have. Returns the drift once, when it begins to
    /// matter.
    pub fn step(&mut self, difference: f64, limit: f64) -> Option<Drifted> {
        // JSON has no infinity.
        let difference = difference.min(f64::MAX);
        if self.first.len() < STEPS {
            self.first.push(difference);
            return None;
        }
        self.latest.push(difference);
        if self.latest.len() > STEPS {
            self.latest.remove(0);
        }
        let drifted = Drifted { first: median(&self.first), latest: median(&self.latest) };
        let matters = drifted.latest > FACTOR * drifted.first && drifted.latest > SHARE * limit;
        if self.latest.len() < STEPS || self.told || !matters {
            return None;
        }
        self.told = true;
        Some(drifted)
    }
}

/// The larger of the two in the middle, of an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps, from 1, after which something is told. `difference` is that of a step.
    fn told(steps: u64, difference: impl Fn(u64) -> f64) -> Vec<(u64, Drifted)> {
        let mut drift = Drift::default();
        (1..=steps).filter_map(|step| Some((step, drift.step(difference(step), 0.01)?))).collect()
    }

    #[test]
    fn what_stays_the_same_is_no_drift() {
        assert_eq!(told(1000, |_| 2e-5), []);
        assert_eq!(told(1000, |step| if step % 7 == 0 { 9e-3 } else { 2e-5 }), []);
        // It is large from the beginning: other checks see that.
        assert_eq!(told(1000, |_| 0.5), []);
    }

    /// 2e-5 · 1.05^step: the median of the steps 1 to 20 is that of step 11, and of the latest 20 that of nine steps before.
    #[test]
    fn growth_is_told_once_when_it_begins_to_matter() {
        let found = told(300, |step| 2e-5 * 1.05f64.powi(step as i32));
        let [(step, drifted)] = found[..] else { panic!("{found:?}") };
        // 2e-5 · 1.05^81 = 1.04e-3 is the first above a tenth of the limit.
        assert_eq!(step, 90);
        assert!((drifted.first - 2e-5 * 1.05f64.powi(11)).abs() < 1e-12);
        assert!((drifted.latest - 2e-5 * 1.05f64.powi(81)).abs() < 1e-12);
    }

    #[test]
    fn growth_far_below_the_limit_is_not_told() {
        assert_eq!(told(300, |step| if step < 50 { 1e-6 } else { 9e-4 }), []);
        let found = told(300, |step| if step < 50 { 1e-6 } else { 1.1e-3 });
        // The steps 50 to 59 are ten of the latest 20.
        assert_eq!(found, [(59, Drifted { first: 1e-6, latest: 1.1e-3 })]);
    }

    /// What is not finite counts as the largest number, which JSON can hold.
    #[test]
    fn a_checkpoint_keeps_it() {
        let mut drift = Drift::default();
        for difference in [1e-6, f64::INFINITY, f64::NAN].into_iter().cycle().take(30) {
            drift.step(difference, 0.01);
        }
        let text = serde_json::to_string(&drift).unwrap();
        assert_eq!(serde_json::from_str::<Drift>(&text).unwrap(), drift);
    }
}
