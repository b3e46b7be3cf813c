//! Curves over seeds as numbers: means with 95 % confidence intervals, and the cost for each variant to reach the
//! rewards of the first one.

use std::fmt;

use comfy_table::Table;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::VariantCurves;
use super::curve::{Axis, Curve};
use crate::table;

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    pub mean: f64,
    /// Half the width of the 95 % confidence interval (Student's t); none for a single seed.
    pub ci95: Option<f64>,
}

impl Mean {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let ci95 = StudentsT::new(0.0, 1.0, n - 1.0).ok().filter(|_| n > 1.0).map(|t| {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
            t.inverse_cdf(0.975) * (variance / n).sqrt()
        });
        Self { mean, ci95 }
    }

    fn show(&self, decimals: usize, scale: f64) -> String {
        let ci = self.ci95.map(|ci| format!(" ± {:.decimals$}", ci * scale)).unwrap_or_default();
        format!("{:.decimals$}{ci}", self.mean * scale)
    }
}

/// When a variant reaches a target.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReached {
    pub target: f64,
    /// The number of seeds that reached it.
    pub seeds: usize,
    /// The steps and tokens that it took; none unless all seeds reached it.
    pub steps: Option<Mean>,
    pub tokens: Option<Mean>,
    /// The tokens on the mean curve, divided by those of the first variant; none if either never reaches the target.
    pub tokens_ratio: Option<f64>,
}

/// One variant.
#[derive(Debug, Clone, Serialize)]
pub struct VariantSummary {
    pub label: String,
    pub first_reward: Mean,
    pub final_reward: Mean,
    /// The difference of the final rewards to the first variant, seed by seed.
    pub difference: Option<Mean>,
    /// Mean reward over all steps, and over the number of tokens that every run has generated.
    pub mean_over_steps: Mean,
    pub mean_over_tokens: Mean,
    pub tokens: Mean,
    pub seconds: Mean,
    pub reached: Vec<TargetReached>,
    pub curves: Vec<Curve>,
    /// The mean over seeds at each evaluation.
    pub mean_curve: Curve,
}

/// See the module.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// No model was trained: the model of a learner in [`crate::simulator`] took its place.
    pub simulated: bool,
    pub seeds: usize,
    pub rows: Vec<VariantSummary>,
}

impl Summary {
    /// Of at least one variant with at least one seed. The default targets are the end of the mean curve of the first
    /// variant, and the middle between its start and its end.
    pub fn new(measured: &[VariantCurves], targets: &[f64], simulated: bool) -> Self {
        let base = mean_curve(&measured[0].curves);
        let (start, end) = (base.first().reward, base.last().reward);
        let targets = if targets.is_empty() { vec![0.5 * (start + end), end] } else { targets.to_vec() };
        let all = || measured.iter().flat_map(|m| &m.curves);
        let steps = all().map(|curve| curve.last().at(Axis::Steps)).fold(f64::INFINITY, f64::min);
        let tokens = all().map(|curve| curve.last().tokens).fold(f64::INFINITY, f64::min);
        let row = |one: &VariantCurves| VariantSummary::new(one, &measured[0], &targets, steps, tokens);
        Self { simulated, seeds: measured[0].curves.len(), rows: measured.iter().map(row).collect() }
    }
}

impl VariantSummary {
    fn new(one: &VariantCurves, base: &VariantCurves, targets: &[f64], steps: f64, tokens: f64) -> Self {
        let over = |f: &dyn Fn(&Curve) -> f64| Mean::of(&one.curves.iter().map(f).collect::<Vec<_>>());
        let pairs = || one.curves.iter().zip(&base.curves);
        let differences: Vec<f64> = pairs().map(|(one, base)| one.last().reward - base.last().reward).collect();
        let (mean, base_mean) = (mean_curve(&one.curves), mean_curve(&base.curves));
        Self {
            label: one.label.clone(),
            first_reward: over(&|curve| curve.first().reward),
            final_reward: over(&|curve| curve.last().reward),
            difference: (one.label != base.label).then(|| Mean::of(&differences)),
            mean_over_steps: over(&|curve| curve.mean_up_to(steps, Axis::Steps)),
            mean_over_tokens: over(&|curve| curve.mean_up_to(tokens, Axis::Tokens)),
            tokens: over(&|curve| curve.last().tokens),
            seconds: over(&|curve| curve.last().seconds),
            reached: targets.iter().map(|target| reached(&one.curves, &mean, &base_mean, *target)).collect(),
            curves: one.curves.clone(),
            mean_curve: mean,
        }
    }
}

fn reached(curves: &[Curve], mean: &Curve, base: &Curve, target: f64) -> TargetReached {
    let all = |axis| -> Option<Vec<f64>> { curves.iter().map(|curve| curve.reaches(target, axis)).collect() };
    let ratio = mean.reaches(target, Axis::Tokens).zip(base.reaches(target, Axis::Tokens));
    TargetReached {
        target,
        seeds: curves.iter().filter(|curve| curve.reaches(target, Axis::Steps).is_some()).count(),
        steps: all(Axis::Steps).map(|steps| Mean::of(&steps)),
        tokens: all(Axis::Tokens).map(|tokens| Mean::of(&tokens)),
        tokens_ratio: ratio.filter(|(_, base)| *base > 0.0).map(|(own, base)| own / base),
    }
}

/// The mean of each evaluation that all curves have.
fn mean_curve(curves: &[Curve]) -> Curve {
    let shortest = curves.iter().map(|curve| curve.points.len()).min().unwrap_or(0);
    let n = curves.len() as f64;
    let at = |i: usize| {
        let step = curves[0].points[i].step;
        assert!(
            curves.iter().all(|curve| curve.points[i].step == step),
            "this is a bug: evaluations at different steps"
        );
        let mean = |f: fn(&super::curve::Point) -> f64| curves.iter().map(|c| f(&c.points[i])).sum::<f64>() / n;
        super::curve::Point {
            step,
            tokens: mean(|p| p.tokens),
            seconds: mean(|p| p.seconds),
            reward: mean(|p| p.reward),
        }
    };
    Curve { seed: curves[0].seed, points: (0..shortest).map(at).collect() }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATION: a model of a learner, not a language model; see docs/curriculum.md")?;
        }
        let base = &self.rows[0].label;
        writeln!(f, "mean answer reward over distributions, {} seeds, ± 95 % confidence interval", self.seeds)?;
        writeln!(f, "{}", self.rewards(base))?;
        writeln!(f, "to reach a mean answer reward (ratio: tokens on the mean curve, divided by those of {base})")?;
        write!(f, "{}", self.targets())
    }
}

impl Summary {
    fn rewards(&self, base: &str) -> Table {
        let against = format!("end − {base}'s");
        let header = ["policy", "start", "end", &against, "mean over steps", "mean over tokens", "M tokens", "seconds"];
        let mut table = table::table(header);
        for row in &self.rows {
            table.add_row([
                row.label.clone(),
                row.first_reward.show(3, 1.0),
                row.final_reward.show(3, 1.0),
                row.difference.map_or("".into(), |difference| difference.show(3, 1.0)),
                row.mean_over_steps.show(3, 1.0),
                row.mean_over_tokens.show(3, 1.0),
                row.tokens.show(2, 1e-6),
                row.seconds.show(0, 1.0),
            ]);
        }
        table
    }

    fn targets(&self) -> Table {
        let mut table = table::table(["policy", "target", "seeds there", "steps", "M tokens", "ratio"]);
        for row in &self.rows {
            for reached in &row.reached {
                let show =
                    |mean: Option<Mean>, decimals, scale| mean.map_or("–".into(), |mean| mean.show(decimals, scale));
                table.add_row([
                    row.label.clone(),
                    format!("{:.3}", reached.target),
                    format!("{}/{}", reached.seeds, self.seeds),
                    show(reached.steps, 1, 1.0),
                    show(reached.tokens, 2, 1e-6),
                    reached.tokens_ratio.map_or("–".into(), |ratio| format!("{ratio:.2}")),
                ]);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::super::curve::Point;
    use super::*;

    /// Curves that rise linearly from 0 to `end` in ten steps of `tokens` each.
    fn measured(label: &str, ends: &[f64], tokens: f64) -> VariantCurves {
        let curve = |end: f64| Curve {
            seed: 0,
            points: [0, 5, 10]
                .map(|step| Point {
                    step,
                    tokens: tokens * step as f64,
                    seconds: 0.0,
                    reward: end * step as f64 / 10.0,
                })
                .to_vec(),
        };
        VariantCurves { label: label.into(), curves: ends.iter().map(|end| curve(*end)).collect() }
    }

    #[test]
    fn intervals_are_students() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]);
        // t(0.975, 2) = 4.302653, standard error 1/√3.
        assert!((mean.ci95.unwrap() - 4.302653 / 3.0_f64.sqrt()).abs() < 1e-4);
        assert_eq!(Mean::of(&[2.0]), Mean { mean: 2.0, ci95: None });
    }

    #[test]
    fn a_faster_policy_needs_fewer_tokens() {
        let summary = Summary::new(&[measured("a", &[1.0, 1.0], 100.0), measured("b", &[2.0, 2.0], 50.0)], &[], false);
        let (a, b) = (&summary.rows[0], &summary.rows[1]);
        assert_eq!(a.reached.iter().map(|r| r.target).collect::<Vec<_>>(), [0.5, 1.0]);
        assert_eq!((a.reached[1].tokens_ratio, b.reached[1].tokens_ratio), (Some(1.0), Some(0.25)));
        assert_eq!(b.difference.unwrap().mean, 1.0);
        // Over the 500 tokens that both have, a reaches 0.5 and b reaches 2.
        assert_eq!((a.mean_over_tokens.mean, b.mean_over_tokens.mean), (0.25, 1.0));
        assert!(summary.to_string().contains("0.25"));
    }

    #[test]
    fn a_target_that_a_seed_misses_has_no_mean() {
        let summary = Summary::new(&[measured("a", &[1.0, 0.4], 100.0)], &[0.5, 3.0], false);
        let reached = &summary.rows[0].reached;
        assert_eq!((reached[0].seeds, reached[0].steps), (1, None));
        assert_eq!((reached[1].seeds, reached[1].tokens_ratio), (0, None));
    }
}
