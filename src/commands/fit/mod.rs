//! `dump-rl curriculum fit`: the simulated learner's numbers from recorded runs, and whether it ranks their policies as they did.
//!
//! - [`record`]: what a run's folder says · [`likelihood`]: how probable the record is under a learner · [`search`]: the best learner
//! - [`ranking`]: the policies of the runs, real and simulated

pub mod likelihood;
pub mod ranking;
pub mod record;
pub mod search;

use std::path::PathBuf;

use anyhow::Result;

use crate::curriculum::rows::Rows;
use crate::error::InputError;
use record::RecordedRun;

/// Fits the learner to the runs in these folders. Gives it as `[simulate]`, how well it explains the record, and a comparison of the
/// policies with `seeds` simulated runs of each.
///
/// # Errors
/// A folder that is no run, or a run without an evaluation at step 0; runs of different distributions; none whose rows are drawn
/// uniformly.
pub fn fit_and_compare(folders: &[PathBuf], seeds: u64) -> Result<String> {
    let runs = folders.iter().map(|folder| RecordedRun::load(folder)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = runs.first() else {
        return Err(InputError::new("RUN_DIR", "name at least one run").into());
    };
    if let Some(other) = runs.iter().find(|run| run.mixture.sources != first.mixture.sources) {
        let problem = format!("has other distributions than {}", first.folder.display());
        return Err(InputError::new(other.folder.display(), problem).into());
    }
    // Under a choice of rows the rows of a group do not stand for their distribution.
    let uniform: Vec<&RecordedRun> = runs.iter().filter(|run| run.config.curriculum.rows == Rows::Uniform).collect();
    if uniform.is_empty() {
        let problem = "all runs choose their rows; the learner is fitted to runs with curriculum.rows = \"uniform\"";
        return Err(InputError::new(first.folder.display(), problem).into());
    }
    let fit = search::fit(&uniform)?;
    let groups: usize = uniform.iter().map(|run| run.groups()).sum();
    Ok(format!(
        "[simulate]\n{}\nmean log-likelihood of a group ({groups} groups of {} runs): {:.4}; of a learner that learns nothing: {:.4}\n\n{}",
        toml::to_string(&fit.learner)?,
        uniform.len(),
        fit.log_likelihood / groups as f64,
        fit.without_learning / groups as f64,
        ranking::compare(&runs, &fit.learner, seeds)?
    ))
}
