//! `dump-rl curriculum bench`: policies × seeds on one configuration, trained or simulated, and their results.
//!
//! - [`variant`]: what `--policies` names · [`runs`]: real training, one process per run, resumable
//!   ([`crate::simulator`]: the pipeline's scheduler over a formula, thousands of runs per minute)
//! - [`curve`]: a run's evaluations against steps and tokens · [`summary`]: curves over seeds as tables

pub mod curve;
pub mod runs;
pub mod summary;
pub mod variant;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use crate::config;
use crate::config::run::RunConfig;
use crate::curriculum::Mixture;
use crate::error::InputError;
use crate::files;
use crate::pipeline::dataset;
use crate::signals::Stop;
use crate::simulator::{self, Evaluation, Simulation};
use crate::terminal;
use curve::Curve;
use summary::Summary;
use variant::Variant;

/// A larger number is a typo.
const MOST_SEEDS: u64 = 100_000;

/// The arguments of `curriculum bench`.
pub struct CurriculumBench {
    pub config: PathBuf,
    pub sets: Vec<String>,
    /// Comma-separated variants; the first is what the others are compared with.
    pub policies: String,
    pub seeds: u64,
    /// Mean answer rewards to reach. Empty: the final reward of the first variant, and the middle between its first and
    /// final reward.
    pub targets: Vec<f64>,
    /// The folder for runs and results.
    pub out: PathBuf,
    /// Runs at the same time; 0: one per core.
    pub jobs: usize,
    pub simulate: bool,
}

/// The curves of one variant, one per seed.
pub struct VariantCurves {
    pub label: String,
    pub curves: Vec<Curve>,
}

impl CurriculumBench {
    /// Makes the missing runs, prints the tables, and writes `bench.json` (or `simulation.json`) into the folder. Once
    /// it is asked to stop, active runs end at a checkpoint, and the same command continues from there.
    ///
    /// # Errors
    /// Wrong input, before anything runs; a failed run, after the tables of the complete seeds have been printed.
    pub fn run(&self, stop: Stop) -> Result<()> {
        if !(1..=MOST_SEEDS).contains(&self.seeds) {
            return Err(
                InputError::new("--seeds", format!("must be from 1 to {MOST_SEEDS}, got {}", self.seeds)).into()
            );
        }
        if let Some(target) = self.targets.iter().find(|target| !target.is_finite()) {
            return Err(InputError::new("--targets", format!("must be finite numbers, got {target}")).into());
        }
        let variants = variant::parse(&self.policies)?;
        // Every configuration must be valid before the first run takes time.
        let configs = variants.iter().map(|variant| self.resolve(variant)).collect::<Result<Vec<_>>>()?;
        std::fs::create_dir_all(&self.out).map_err(|e| InputError::new(self.out.display(), e))?;
        let _lock = files::lock(&self.out)?;
        if self.simulate {
            let measured = self.pool()?.install(|| self.simulated(&variants, &configs))?;
            return self.summarise(&measured);
        }
        let stop = stop.heed();
        let measured = runs::measure(self, &variants, &configs, &stop)?;
        let seeds = measured[0].curves.len() as u64;
        if seeds > 0 {
            self.summarise(&measured)?;
        }
        ensure!(seeds == self.seeds || *stop.borrow(), "only {seeds} of {} seeds have all their runs", self.seeds);
        Ok(())
    }

    fn summarise(&self, measured: &[VariantCurves]) -> Result<()> {
        let summary = Summary::new(measured, &self.targets, self.simulate);
        let path = self.out.join(if self.simulate { "simulation.json" } else { "bench.json" });
        files::write_atomic(&path, (serde_json::to_string_pretty(&summary)? + "\n").as_bytes())?;
        terminal::say(format_args!("{summary}\nall results, with every curve, are in {}", path.display()));
        Ok(())
    }

    /// As many threads as `--jobs` says.
    fn pool(&self) -> Result<rayon::ThreadPool> {
        let threads = self.jobs.min(self.seeds as usize);
        Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?)
    }

    fn resolve(&self, variant: &Variant) -> Result<RunConfig> {
        let config: RunConfig = config::load(&self.config, &[self.sets.as_slice(), &variant.sets].concat())?;
        if config.eval.interval == 0 && !self.simulate {
            return Err(InputError::new("eval.interval", "must be above 0: curves are made of evaluations").into());
        }
        dataset::check_curriculum(&config)?;
        Ok(config)
    }

    fn simulated(&self, variants: &[Variant], configs: &[RunConfig]) -> Result<Vec<VariantCurves>> {
        let of_variant = |(variant, config): (&Variant, &RunConfig)| -> Result<VariantCurves> {
            let mixture = dataset::mixture(config)?;
            let skills = config.simulate.skills.len();
            if skills > 0 && skills != mixture.arms() {
                let problem = format!("has {skills} entries, and the data {} distributions", mixture.arms());
                return Err(InputError::new("simulate.skills", problem).into());
            }
            let runs = simulated_runs(&config.simulation(), &mixture, self.seeds)?;
            let curves = (0..).zip(&runs).map(|(seed, run)| Curve::simulated(seed, run)).collect();
            Ok(VariantCurves { label: variant.label.clone(), curves })
        };
        variants.iter().zip(configs).map(of_variant).collect()
    }
}

/// A simulated run with each seed from 0, on all threads of the pool.
///
/// # Errors
/// The key inside `[curriculum]` that does not fit the data, and what would.
pub fn simulated_runs(
    simulation: &Simulation,
    mixture: &Mixture,
    seeds: u64,
) -> Result<Vec<Vec<Evaluation>>, InputError> {
    let one = |seed| simulator::run(simulation, mixture, seed).map_err(InputError::in_curriculum);
    (0..seeds).into_par_iter().map(one).collect()
}
