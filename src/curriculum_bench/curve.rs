//! A run as a curve: the mean answer reward on held-out rows against policy steps and against generated tokens.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::InputError;
use crate::metric_names::{self as names, EvalMetric};
use crate::simulator::Evaluation;

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub step: u64,
    /// Tokens of all training completions so far, including groups that were dropped.
    pub tokens: f64,
    /// Seconds of training so far, without evaluations; 0 in a simulation.
    pub seconds: f64,
    /// The mean over distributions of the mean answer reward.
    pub reward: f64,
}

/// The evaluations of a run, from step 0 on; never empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    pub seed: u64,
    pub points: Vec<Point>,
}

/// The horizontal axis of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Steps,
    Tokens,
}

impl Point {
    /// Its position on the axis.
    pub fn at(&self, axis: Axis) -> f64 {
        match axis {
            Axis::Steps => self.step as f64,
            Axis::Tokens => self.tokens,
        }
    }
}

impl Curve {
    /// Reads metrics.jsonl of a run.
    ///
    /// # Errors
    /// A file that cannot be read, a line that is not JSON, or no evaluation at all.
    pub fn load(metrics: &Path, seed: u64) -> Result<Self, InputError> {
        let text = std::fs::read_to_string(metrics).map_err(|e| InputError::new(metrics.display(), e))?;
        let (mut points, mut tokens, mut seconds) = (Vec::new(), 0.0, 0.0);
        for (at, line) in text.lines().enumerate() {
            let place = || format!("{}:{}", metrics.display(), at + 1);
            let line: Value = serde_json::from_str(line).map_err(|e| InputError::new(place(), e))?;
            let number = |name: &str| line[name].as_f64();
            tokens = number(names::TOTAL_TOKENS).unwrap_or(tokens);
            seconds += number(names::TIME_STEP).unwrap_or(0.0);
            if let (Some(step), Some(reward)) =
                (line[names::STEP].as_u64(), number(&EvalMetric::AnswerReward.of(names::MEAN)))
            {
                points.push(Point { step, tokens, seconds, reward });
            }
        }
        match points.is_empty() {
            true => Err(InputError::new(metrics.display(), "has no evaluation")),
            false => Ok(Self { seed, points }),
        }
    }

    /// A simulated run.
    pub fn simulated(seed: u64, evaluations: &[Evaluation]) -> Self {
        let point = |&Evaluation { step, tokens, reward, .. }: &Evaluation| Point {
            step,
            tokens: tokens as f64,
            seconds: 0.0,
            reward,
        };
        Self { seed, points: evaluations.iter().map(point).collect() }
    }

    pub fn first(&self) -> Point {
        self.points[0]
    }

    pub fn last(&self) -> Point {
        self.points[self.points.len() - 1]
    }

    /// The first position where the curve reaches `target`, interpolated between evaluations; none if it never does.
    pub fn reaches(&self, target: f64, axis: Axis) -> Option<f64> {
        if self.first().reward >= target {
            return Some(self.first().at(axis));
        }
        let pair = self.points.windows(2).find(|pair| pair[1].reward >= target)?;
        let share = (target - pair[0].reward) / (pair[1].reward - pair[0].reward);
        Some(pair[0].at(axis) + share * (pair[1].at(axis) - pair[0].at(axis)))
    }

    /// The mean reward along the axis from 0 to `end`: the area under the curve divided by `end`. After its last point
    /// the curve is constant.
    pub fn mean_up_to(&self, end: f64, axis: Axis) -> f64 {
        let mut area = 0.0;
        for pair in self.points.windows(2) {
            let (from, to) = (pair[0].at(axis), pair[1].at(axis));
            let upto = to.min(end);
            if upto > from {
                let slope = (pair[1].reward - pair[0].reward) / (to - from);
                area += (upto - from) * (pair[0].reward + 0.5 * slope * (upto - from));
            }
        }
        area += (end - self.last().at(axis)).max(0.0) * self.last().reward;
        if end > 0.0 { area / end } else { self.first().reward }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(u64, f64, f64)]) -> Curve {
        let point = |&(step, tokens, reward): &(u64, f64, f64)| Point { step, tokens, seconds: 0.0, reward };
        Curve { seed: 0, points: points.iter().map(point).collect() }
    }

    #[test]
    fn targets_are_reached_between_evaluations() {
        let curve = curve(&[(0, 0.0, -1.0), (10, 400.0, 0.0), (20, 1000.0, -0.5), (30, 1200.0, 1.0)]);
        assert_eq!(curve.reaches(-0.5, Axis::Steps), Some(5.0));
        assert_eq!(curve.reaches(-0.25, Axis::Tokens), Some(300.0));
        assert_eq!(curve.reaches(0.25, Axis::Steps), Some(25.0));
        assert_eq!(curve.reaches(-2.0, Axis::Tokens), Some(0.0));
        assert_eq!(curve.reaches(1.5, Axis::Steps), None);
    }

    #[test]
    fn the_area_is_that_of_the_trapezia() {
        let curve = curve(&[(0, 0.0, 0.0), (10, 100.0, 1.0), (20, 300.0, 1.0)]);
        assert_eq!(curve.mean_up_to(20.0, Axis::Steps), 0.75);
        assert_eq!(curve.mean_up_to(5.0, Axis::Steps), 0.25);
        assert!((curve.mean_up_to(600.0, Axis::Tokens) - 550.0 / 600.0).abs() < 1e-12);
    }

    #[test]
    fn a_curve_is_read_from_metrics() {
        let folder = temp_dir::TempDir::new().unwrap();
        let file = folder.child("metrics.jsonl");
        let lines = "{\"step\":0,\"eval/mean/answer_reward\":-1.5}\n\
            {\"step\":1,\"perf/total_tokens\":70,\"time/step\":2}\n\
            {\"step\":2,\"perf/total_tokens\":90,\"time/step\":3,\"eval/mean/answer_reward\":-1}\n";
        std::fs::write(&file, lines).unwrap();
        let last = Point { step: 2, tokens: 90.0, seconds: 5.0, reward: -1.0 };
        assert_eq!(Curve::load(&file, 4).unwrap().points[1..], [last]);
        std::fs::write(&file, "{\"step\":1}\nnonsense\n").unwrap();
        assert!(Curve::load(&file, 0).unwrap_err().place.ends_with(":2"));
        std::fs::write(&file, "{\"step\":1}\n").unwrap();
        assert!(Curve::load(&file, 0).unwrap_err().problem.contains("no evaluation"));
    }
}
