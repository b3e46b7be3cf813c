//! The learner under which the record is most probable.
//!
//! Skills at the start are those of the evaluations of the base model. Spread, rate, transfer and drift are searched for by the method
//! of Nelder and Mead. Tokens are a straight line through the means of the arms.

use anyhow::{Context, Result, anyhow};
use argmin::core::{CostFunction, Error, Executor, State};
use argmin::solver::neldermead::NelderMead;

use super::likelihood::{log_likelihood, skill_of};
use super::record::RecordedRun;
use crate::simulator::SimulateConfig;

const STEPS: u64 = 200;

/// See the module.
pub struct Fit {
    pub learner: SimulateConfig,
    pub log_likelihood: f64,
    /// The same for the learner with a rate of 0.
    pub without_learning: f64,
}

/// The best learner for at least one run. All runs are of the same distributions, and drew their rows uniformly.
///
/// # Errors
/// If the search fails.
pub fn fit(runs: &[&RecordedRun]) -> Result<Fit> {
    let problem = Problem { runs, start: start(runs), tokens: tokens(runs) };
    let first = [0.0, -1.4, 0.0, -6.0];
    let mut simplex = vec![first.to_vec()];
    simplex.extend((0..first.len()).map(|at| {
        let mut corner = first.to_vec();
        corner[at] += 1.0;
        corner
    }));
    let solver = NelderMead::new(simplex);
    let found = Executor::new(&problem, solver).configure(|state| state.max_iters(STEPS)).run();
    let found = found.map_err(|e| anyhow!("the search for the best learner failed: {e}"))?;
    let best = found.state.get_best_param().context("the search found nothing: this is a bug")?;
    let learner = problem.learner(best);
    let nothing = SimulateConfig { rate: 0.0, ..learner.clone() };
    let (log_likelihood, without_learning) = (log_likelihood(runs, &learner), log_likelihood(runs, &nothing));
    Ok(Fit { learner, log_likelihood, without_learning })
}

struct Problem<'a> {
    runs: &'a [&'a RecordedRun],
    /// The success rate of each arm at the start.
    start: Vec<f64>,
    /// Tokens of a completion of the first arm, and how many more each next one has.
    tokens: (f64, f64),
}

impl Problem<'_> {
    /// `searched`: ln spread, ln rate, and the logits of transfer and drift.
    fn learner(&self, searched: &[f64]) -> SimulateConfig {
        let share = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        let spread = searched[0].clamp(-5.0, 3.0).exp();
        SimulateConfig {
            skills: self.start.iter().map(|rate| skill_of(*rate, spread)).collect(),
            spread,
            rate: searched[1].clamp(-12.0, 5.0).exp(),
            transfer: share(searched[2]),
            drift: share(searched[3]),
            tokens_easiest: self.tokens.0,
            tokens_slope: self.tokens.1,
            ..SimulateConfig::default()
        }
    }
}

impl CostFunction for &Problem<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, searched: &Vec<f64>) -> Result<f64, Error> {
        Ok(-log_likelihood(self.runs, &self.learner(searched)))
    }
}

/// The success rate of each arm over the first evaluations of all runs. One imagined success and one failure keep it off 0 and 1.
fn start(runs: &[&RecordedRun]) -> Vec<f64> {
    let of_arm = |arm: usize| {
        let parts = runs.iter().map(|run| run.start[arm]);
        let (right, all) =
            parts.fold((0.0, 0.0), |(right, all), (share, n)| (right + share * n as f64, all + n as f64));
        (right + 1.0) / (all + 2.0)
    };
    (0..runs[0].mixture.arms()).map(of_arm).collect()
}

/// The least-squares line through the mean lengths of the arms.
fn tokens(runs: &[&RecordedRun]) -> (f64, f64) {
    let points = runs.iter().flat_map(|run| (0..).zip(&run.tokens));
    let points: Vec<(f64, f64)> = points.filter_map(|(arm, mean)| Some((f64::from(arm), (*mean)?))).collect();
    let mean =
        |values: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(values).sum::<f64>() / points.len().max(1) as f64;
    let (x, y) = (mean(&|it| it.0), mean(&|it| it.1));
    let squares = points.iter().map(|it| (it.0 - x).powi(2)).sum::<f64>();
    let slope =
        if squares > 0.0 { points.iter().map(|it| (it.0 - x) * (it.1 - y)).sum::<f64>() / squares } else { 0.0 };
    // A simulated length cannot fall.
    let slope = slope.max(0.0);
    ((y - slope * x).max(1.0), slope)
}

#[cfg(test)]
mod tests;
