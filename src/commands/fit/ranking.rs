//! The policies of the recorded runs, as they did in truth and as the simulated learner says. If the two orders differ, no policy should
//! be chosen by simulation.

use std::fmt::Write;

use anyhow::Result;

use super::record::RecordedRun;
use crate::curriculum_bench::simulated_runs;
use crate::simulator::{Evaluation, SimulateConfig, Simulation};
use crate::table;

/// One policy, with its settings.
struct Compared<'a> {
    label: String,
    runs: Vec<&'a RecordedRun>,
}

/// The mean success rate over all evaluations after the start, and at the last one.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Score {
    mean: f64,
    end: f64,
}

/// A table of both, and the verdict.
///
/// # Errors
/// Settings that do not fit the data.
pub fn compare(runs: &[RecordedRun], learner: &SimulateConfig, seeds: u64) -> Result<String> {
    let policies = by_policy(runs);
    let real: Vec<Score> =
        policies.iter().map(|policy| mean_of(policy.runs.iter().map(|run| of(&run.evaluations)))).collect();
    let simulated =
        policies.iter().map(|policy| simulate(policy.runs[0], learner, seeds)).collect::<Result<Vec<_>>>()?;
    let header = ["policy", "runs", "real: mean", "end", "simulated: mean", "end"];
    let mut table = table::table(header);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    for ((policy, real), simulated) in policies.iter().zip(&real).zip(&simulated) {
        table.add_row([
            policy.label.clone(),
            policy.runs.len().to_string(),
            percent(real.mean),
            percent(real.end),
            percent(simulated.mean),
            percent(simulated.end),
        ]);
    }
    let mut text = format!(
        "right answers, mean over distributions: over all evaluations after the start, and at the end\n{table}\n"
    );
    for (what, key) in [("mean", (|it| it.mean) as fn(&Score) -> f64), ("end", |it| it.end)] {
        let (agree, pairs) = agreement(&real, &simulated, key);
        if pairs > 0 {
            writeln!(
                text,
                "by the {what}, the simulation orders {agree} of {pairs} pairs of policies as the runs did"
            )?;
        }
    }
    Ok(text)
}

/// Runs with the same settings but for the seed, in the order in which they first come.
fn by_policy(runs: &[RecordedRun]) -> Vec<Compared<'_>> {
    let mut policies: Vec<Compared> = Vec::new();
    for run in runs {
        let same = |other: &&mut Compared| {
            let other = &other.runs[0].config;
            other.curriculum == run.config.curriculum
                && other.filter == run.config.filter
                && other.max_steps == run.config.max_steps
        };
        match policies.iter_mut().find(same) {
            Some(policy) => policy.runs.push(run),
            None => policies.push(Compared { label: label(run), runs: vec![run] }),
        }
    }
    policies
}

/// The folder that `curriculum bench` gave the policy, or the policy's name.
fn label(run: &RecordedRun) -> String {
    let name = run.folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed_"));
    let parent = run.folder.parent().and_then(|parent| parent.file_name()).filter(|_| name);
    parent.map_or_else(|| run.config.curriculum.policy.clone(), |parent| parent.to_string_lossy().into_owned())
}

/// Of at least one evaluation.
fn of(evaluations: &[(u64, f64)]) -> Score {
    let after: Vec<f64> = evaluations.iter().filter(|(step, _)| *step > 0).map(|(_, success)| *success).collect();
    let end = evaluations.last().map_or(0.0, |(_, success)| *success);
    Score { mean: after.iter().sum::<f64>() / after.len().max(1) as f64, end }
}

fn mean_of(results: impl Iterator<Item = Score>) -> Score {
    let (mut sum, mut count) = (Score { mean: 0.0, end: 0.0 }, 0.0);
    for Score { mean, end } in results {
        (sum.mean, sum.end, count) = (sum.mean + mean, sum.end + end, count + 1.0);
    }
    Score { mean: sum.mean / count, end: sum.end / count }
}

fn simulate(run: &RecordedRun, learner: &SimulateConfig, seeds: u64) -> Result<Score> {
    let simulation = Simulation { learner: learner.clone(), ..run.config.simulation() };
    let runs = simulated_runs(&simulation, &run.mixture, seeds)?;
    let of_run = |run: &Vec<Evaluation>| of(&run.iter().map(|it| (it.step, it.success)).collect::<Vec<_>>());
    Ok(mean_of(runs.iter().map(of_run)))
}

/// How many pairs have the same order in both, and how many pairs there are.
fn agreement(real: &[Score], simulated: &[Score], key: fn(&Score) -> f64) -> (usize, usize) {
    let pairs = (0..real.len()).flat_map(|a| (a + 1..real.len()).map(move |b| (a, b)));
    let same =
        |(a, b): &(usize, usize)| (key(&real[*a]) < key(&real[*b])) == (key(&simulated[*a]) < key(&simulated[*b]));
    (pairs.clone().filter(same).count(), pairs.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_in_the_same_order_are_counted() {
        let results = |means: [f64; 3]| means.map(|mean| Score { mean, end: 0.0 });
        let real = results([0.1, 0.2, 0.3]);
        assert_eq!(agreement(&real, &results([0.5, 0.6, 0.7]), |it| it.mean), (3, 3));
        assert_eq!(agreement(&real, &results([0.6, 0.5, 0.7]), |it| it.mean), (2, 3));
        assert_eq!(agreement(&real[..1], &results([0.6, 0.5, 0.7])[..1], |it| it.mean), (0, 0));
    }

    #[test]
    fn the_start_does_not_count_in_the_mean() {
        assert_eq!(of(&[(0, 0.0), (10, 0.25), (20, 0.75)]), Score { mean: 0.5, end: 0.75 });
        assert_eq!(mean_of([of(&[(0, 0.5)]), of(&[(5, 0.75)])].into_iter()), Score { mean: 0.375, end: 0.625 });
    }
}
