//! How probable a record is if a simulated learner had made it. Pure.

use super::record::{Outcome, RecordedRun, Step};
use crate::simulator::{SimulateConfig, SimulatedLearner, quantiles};

/// ln P of the groups of all runs, under a learner that practises what each run practised. Nothing is known of a group's row, so a group
/// is averaged over the prompts of its arm. Binomial coefficients, which are the same for every learner, are left out.
pub fn log_likelihood(runs: &[&RecordedRun], learner: &SimulateConfig) -> f64 {
    runs.iter().map(|run| of_steps(&run.steps, run.mixture.arms(), learner)).sum()
}

fn of_steps(steps: &[Step], arms: usize, learner: &SimulateConfig) -> f64 {
    let mut learner = SimulatedLearner::new(learner, arms);
    let mut sum = 0.0;
    for step in steps {
        let success: Vec<Vec<f64>> = (0..arms)
            .map(|arm| {
                let of_prompts = quantiles().map(|quantile| learner.success(arm, quantile).clamp(1e-12, 1.0 - 1e-12));
                of_prompts.collect()
            })
            .collect();
        sum += step.groups.iter().map(|group| of_group(group, &success[group.arm])).sum::<f64>();
        learner.practise(&step.practice);
    }
    sum
}

fn of_group(group: &Outcome, success: &[f64]) -> f64 {
    let wrong = group.completions - group.right;
    let of_prompt = |p: &f64| p.powi(group.right as i32) * (1.0 - p).powi(wrong as i32);
    (success.iter().map(of_prompt).sum::<f64>() / success.len() as f64).max(f64::MIN_POSITIVE).ln()
}

/// The skill at which the mean success rate over an arm's prompts is `rate`, which is within 0 to 1.
pub fn skill_of(rate: f64, spread: f64) -> f64 {
    let (mut low, mut high) = (-30.0, 30.0);
    for _ in 0..50 {
        let middle: f64 = f64::midpoint(low, high);
        let learner = SimulateConfig { skills: vec![middle], spread, ..SimulateConfig::default() };
        if SimulatedLearner::new(&learner, 1).mean_success(0) < rate {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}
