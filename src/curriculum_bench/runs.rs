//! Real training, one process a run: `OUT/<variant>/seed_N`. What is finished is read, what was cut off goes on.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::sync::watch;

use super::curve::Curve;
use super::variant::Variant;
use super::{Bench, VariantCurves};
use crate::config::run::RunConfig;
use crate::run_dir::RunDir;
use crate::{files, metric_names};

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// One run of the plan.
struct PlannedRun {
    label: String,
    seed: u64,
    config: RunConfig,
    sets: Vec<String>,
    folder: PathBuf,
}

/// Makes every run that is not there yet, so many at a time, until one fails or `stop` turns true, and reads the curves of
/// the seeds that all variants have.
///
/// # Errors
/// A folder that holds another run, or is in use. Which runs failed is printed as it happens.
pub fn measure(
    bench: &Bench,
    variants: &[Variant],
    configs: &[RunConfig],
    stop: &watch::Receiver<bool>,
) -> Result<Vec<VariantCurves>> {
    let plan: Vec<PlannedRun> = plan(bench, variants, configs);
    plan.iter().try_for_each(PlannedRun::check)?;
    let open: Vec<&PlannedRun> = plan.iter().filter(|run| !run.is_finished()).collect();
    make(&open, bench, stop);
    let whole = |seed: &u64| plan.iter().filter(|run| run.seed == *seed).all(PlannedRun::is_finished);
    let seeds: Vec<u64> = (0..bench.seeds).filter(whole).collect();
    let curves = |variant: &Variant| {
        let runs = plan.iter().filter(|run| run.label == variant.label && seeds.contains(&run.seed));
        runs.map(|run| Ok(Curve::load(&run.folder.join("metrics.jsonl"), run.seed)?)).collect::<Result<_>>()
    };
    variants.iter().map(|v| Ok(VariantCurves { label: v.label.clone(), curves: curves(v)? })).collect()
}

/// All seeds of all variants, seed by seed: what is cut short still compares.
fn plan(bench: &Bench, variants: &[Variant], configs: &[RunConfig]) -> Vec<PlannedRun> {
    let run = |seed: u64, variant: &Variant, config: &RunConfig| PlannedRun {
        label: variant.label.clone(),
        seed,
        config: RunConfig { seed, ..config.clone() },
        sets: [bench.sets.as_slice(), &variant.sets, &[format!("seed={seed}")]].concat(),
        folder: bench.out.join(variant.folder()).join(format!("seed_{seed}")),
    };
    let pairs = || variants.iter().zip(configs);
    (0..bench.seeds).flat_map(|seed| pairs().map(move |(variant, config)| run(seed, variant, config))).collect()
}

/// Makes the runs one after the other on each of so many threads; after a failure none is begun any more.
fn make(runs: &[&PlannedRun], bench: &Bench, stop: &watch::Receiver<bool>) {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = if bench.jobs == 0 { cores } else { bench.jobs };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for job in 0..jobs.min(runs.len()) {
            let (next, failed) = (&next, &failed);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(run) = runs.get(at) else { break };
                    if failed.load(Ordering::Relaxed) || *stop.borrow() {
                        break;
                    }
                    // With as many runs as cores each has one to itself; the last ones, where some are left over, share all.
                    let core = (jobs == cores && at < runs.len() - runs.len() % jobs).then_some(job);
                    if let Err(error) = run.finish(&bench.config, core, runs.len(), stop) {
                        failed.store(true, Ordering::Relaxed);
                        println!("{} (seed {}): {error:#}", run.label, run.seed);
                    }
                }
            });
        }
    });
}

/// Starts a process that stays on one core; none: on any. It takes that from the thread that starts it.
fn spawn_on(core: Option<usize>, mut command: Command) -> Result<Child> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let starter = thread::spawn(move || {
        if let Some(id) = core.and_then(|core| ids.get(core)) {
            core_affinity::set_for_current(*id);
        }
        command.spawn()
    });
    let child = starter.join().map_err(|_| anyhow!("the thread that starts training processes panicked"))?;
    child.map_err(|e| anyhow!("cannot start a training process: {e}"))
}

impl PlannedRun {
    /// # Errors
    /// If the folder holds a run with other settings, whose curve would not compare, or somebody trains in it.
    fn check(&self) -> Result<()> {
        if self.folder.join("config.toml").exists() {
            let why = "such runs do not compare; choose another folder with --out DIR";
            RunDir::check_same_but(&["ckpt"], &self.folder, &self.config, why)?;
            files::lock(&self.folder)?;
        }
        Ok(())
    }

    /// The last step in the run's metrics is the last of all.
    fn is_finished(&self) -> bool {
        let last = || {
            let text = std::fs::read_to_string(self.folder.join("metrics.jsonl")).ok()?;
            serde_json::from_str::<serde_json::Value>(text.lines().last()?).ok()?[metric_names::STEP].as_u64()
        };
        last() == Some(self.config.max_steps)
    }

    /// Trains to the end, or to a checkpoint once `stop` turns true.
    fn finish(&self, config: &Path, core: Option<usize>, runs: usize, stop: &watch::Receiver<bool>) -> Result<()> {
        let since = Instant::now();
        let resume = self.has_checkpoint();
        if !resume && self.folder.join("config.toml").exists() {
            // It was cut off before its first checkpoint.
            std::fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        }
        let log = self.folder.with_extension("log");
        let status = wait(spawn_on(core, self.command(config, resume, &log)?)?, stop)?;
        if self.is_finished() {
            println!("{} (seed {}) took {:.0} s; of {runs} runs", self.label, self.seed, since.elapsed().as_secs_f64());
            return Ok(());
        }
        ensure!(*stop.borrow() && status.success(), "did not end: {}; see {}", last_line(&log), log.display());
        println!("{} (seed {}) stopped at a checkpoint", self.label, self.seed);
        Ok(())
    }

    fn command(&self, config: &Path, resume: bool, log: &Path) -> Result<Command> {
        std::fs::create_dir_all(self.folder.parent().unwrap_or(Path::new(".")))?;
        let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("train").arg(config).arg("--out").arg(&self.folder);
        command.args(self.sets.iter().flat_map(|set| ["--set", set])).args(resume.then_some("--resume"));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Out of reach of the terminal's Ctrl-C, which would come twice: `wait` passes it on.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command)
    }

    /// Whether a checkpoint was ever finished, be it readable or not.
    fn has_checkpoint(&self) -> bool {
        let found = std::fs::read_dir(self.folder.join("checkpoints")).into_iter().flatten().flatten();
        found.map(|entry| entry.file_name()).any(|name| !name.to_string_lossy().ends_with(".tmp"))
    }
}

/// Waits for the process to end, and asks it to once `stop` turns true.
fn wait(mut child: Child, stop: &watch::Receiver<bool>) -> Result<std::process::ExitStatus> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if *stop.borrow() && !asked {
            asked = true;
            terminate(&mut child)?;
        }
        thread::sleep(LOOK);
    }
}

#[cfg(unix)]
fn terminate(child: &mut Child) -> Result<()> {
    use rustix::process::{Pid, Signal, kill_process};
    Ok(kill_process(Pid::from_child(child), Signal::TERM)?)
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) -> Result<()> {
    Ok(child.kill()?)
}

/// What a process said last.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_string()
}
