//! Real training, one process a run: `OUT/<variant>/seed_N`. What is finished is read, what was cut off goes on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::curve::Curve;
use super::variant::Variant;
use super::{Bench, Measured};
use crate::checkpoint::Checkpoint;
use crate::config::run::RunConfig;
use crate::run_dir::RunDir;

/// One run of the plan.
struct Run {
    label: String,
    seed: u64,
    config: RunConfig,
    sets: Vec<String>,
    folder: PathBuf,
}

/// Makes every run that is not there yet, so many at a time, and reads all curves.
///
/// # Errors
/// A folder that holds another run; the first run that fails, with the place of its log.
pub fn measure(bench: &Bench, variants: &[Variant], configs: &[RunConfig]) -> Result<Vec<Measured>> {
    let plan: Vec<Run> = plan(bench, variants, configs);
    for run in plan.iter().filter(|run| run.folder.join("config.toml").exists()) {
        RunDir::check_same(&run.folder, &run.config)?;
    }
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = if bench.jobs == 0 { cores } else { bench.jobs };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for job in 0..jobs.min(plan.len()) {
            let (plan, next, failed, failure) = (&plan, &next, &failed, &failure);
            scope.spawn(move || {
                // A process starts with its parent thread's cores, so each run has one to itself.
                if jobs == cores {
                    pin_to(job);
                }
                while let Some(run) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failed.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(error) = run.finish(&bench.config, plan.len()) {
                        failed.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(error);
    }
    let curves = |variant: &Variant| {
        let of_variant = plan.iter().filter(|run| run.label == variant.label);
        of_variant.map(|run| Ok(Curve::load(&run.folder.join("metrics.jsonl"), run.seed)?)).collect::<Result<_>>()
    };
    variants.iter().map(|v| Ok(Measured { label: v.label.clone(), curves: curves(v)? })).collect()
}

fn pin_to(job: usize) {
    if let Some(core) = core_affinity::get_core_ids().and_then(|cores| cores.get(job).copied()) {
        core_affinity::set_for_current(core);
    }
}

/// All seeds of all variants, seed by seed: what is cut short still compares.
fn plan(bench: &Bench, variants: &[Variant], configs: &[RunConfig]) -> Vec<Run> {
    let run = |seed: u64, variant: &Variant, config: &RunConfig| Run {
        label: variant.label.clone(),
        seed,
        config: RunConfig { seed, ..config.clone() },
        sets: [bench.sets.as_slice(), &variant.sets, &[format!("seed={seed}")]].concat(),
        folder: bench.out.join(variant.folder()).join(format!("seed_{seed}")),
    };
    let pairs = || variants.iter().zip(configs);
    (0..bench.seeds).flat_map(|seed| pairs().map(move |(variant, config)| run(seed, variant, config))).collect()
}

impl Run {
    /// Trains to the end, unless that was done.
    fn finish(&self, config: &Path, runs: usize) -> Result<()> {
        if self.steps_made() >= Some(self.config.max_steps) {
            return Ok(());
        }
        let since = Instant::now();
        let resume = self.has_checkpoint();
        if resume {
            Checkpoint::load_latest(&self.folder)?;
        } else if self.folder.join("config.toml").exists() {
            // It was cut off before its first checkpoint.
            std::fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        }
        let log_path = self.folder.with_extension("log");
        std::fs::create_dir_all(self.folder.parent().unwrap_or(Path::new(".")))?;
        let log = std::fs::File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("train").arg(config).arg("--out").arg(&self.folder);
        command.args(self.sets.iter().flat_map(|set| ["--set", set])).args(resume.then_some("--resume"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status()?;
        if !status.success() || self.steps_made() < Some(self.config.max_steps) {
            bail!("{} with seed {} did not end ({status}); see {}", self.label, self.seed, log_path.display());
        }
        println!("{} (seed {}) took {:.0} s; of {runs} runs", self.label, self.seed, since.elapsed().as_secs_f64());
        Ok(())
    }

    /// Whether a checkpoint was ever finished, be it readable or not.
    fn has_checkpoint(&self) -> bool {
        let found = std::fs::read_dir(self.folder.join("checkpoints")).into_iter().flatten().flatten();
        found.map(|entry| entry.file_name()).any(|name| !name.to_string_lossy().ends_with(".tmp"))
    }

    /// The last step in the run's metrics.
    fn steps_made(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.folder.join("metrics.jsonl")).ok()?;
        serde_json::from_str::<serde_json::Value>(text.lines().last()?).ok()?["step"].as_u64()
    }
}
