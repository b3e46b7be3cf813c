//! Real training, one process per run: `OUT/<variant>/seed_N`. Finished runs are read; interrupted runs continue.

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
use super::{CurriculumBench, VariantCurves};
use crate::config::run::RunConfig;
use crate::processes::{Kind, Running};
use crate::run_dir::RunDir;
use crate::{files, metric_names, terminal};

/// The time between two checks of a run.
const LOOK: Duration = Duration::from_millis(100);

/// One run of the plan.
struct PlannedRun {
    label: String,
    seed: u64,
    config: RunConfig,
    sets: Vec<String>,
    folder: PathBuf,
}

/// Makes the missing runs, several at the same time, until one fails or `stop` becomes true. Then reads the curves of
/// the seeds that all variants have finished.
///
/// # Errors
/// A folder with another run, or one in use. A failed run is no error here; it is printed when it fails.
pub fn measure(
    bench: &CurriculumBench,
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

/// All seeds of all variants, seed by seed, so that an interrupted plan still compares all variants.
fn plan(bench: &CurriculumBench, variants: &[Variant], configs: &[RunConfig]) -> Vec<PlannedRun> {
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

/// Makes the runs on several threads, each of which takes one run after the other. After a failure no run is started.
fn make(runs: &[&PlannedRun], bench: &CurriculumBench, stop: &watch::Receiver<bool>) {
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
                    // With one job per core, each run gets its own core. The last runs, too few for all cores, may use
                    // any core.
                    let core = (jobs == cores && at < runs.len() - runs.len() % jobs).then_some(job);
                    if let Err(error) = run.finish(&bench.config, core, runs.len(), stop) {
                        failed.store(true, Ordering::Relaxed);
                        terminal::say(format_args!("{} (seed {}): {error:#}", run.label, run.seed));
                    }
                }
            });
        }
    });
}

/// Starts a process on one core, or on any core if `core` is none. A process inherits this from the thread that starts
/// it.
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
    /// If the folder has a run with other settings, whose curve would not be comparable, or another process
    /// trains in it.
    fn check(&self) -> Result<()> {
        if self.folder.join("config.toml").exists() {
            let why = "these runs are not comparable; choose another folder with --out DIR";
            RunDir::check_same_but(&["ckpt", "log"], &self.folder, &self.config, why)?;
            files::lock(&self.folder)?;
        }
        Ok(())
    }

    /// Whether the metrics of the run end with the last step.
    fn is_finished(&self) -> bool {
        let last = || {
            let text = std::fs::read_to_string(self.folder.join("metrics.jsonl")).ok()?;
            serde_json::from_str::<serde_json::Value>(text.lines().last()?).ok()?[metric_names::STEP].as_u64()
        };
        last() == Some(self.config.max_steps)
    }

    /// Trains to the end, or to a checkpoint once `stop` becomes true.
    fn finish(&self, config: &Path, core: Option<usize>, runs: usize, stop: &watch::Receiver<bool>) -> Result<()> {
        let since = Instant::now();
        let log = self.folder.with_extension("log");
        let status = wait(spawn_on(core, self.command(config, &log)?)?, stop)?;
        if self.is_finished() {
            let seconds = since.elapsed().as_secs_f64();
            terminal::say(format_args!("{} (seed {}) took {seconds:.0} s; of {runs} runs", self.label, self.seed));
            return Ok(());
        }
        ensure!(*stop.borrow() && status.success(), "failed: {}; see {}", last_line(&log), log.display());
        terminal::say(format_args!("{} (seed {}) stopped at a checkpoint", self.label, self.seed));
        Ok(())
    }

    fn command(&self, config: &Path, log: &Path) -> Result<Command> {
        std::fs::create_dir_all(self.folder.parent().unwrap_or(Path::new(".")))?;
        let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("train").arg(config).arg("--out").arg(&self.folder);
        command.args(self.sets.iter().flat_map(|set| ["--set", set])).arg("--resume");
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // A process group of its own does not receive Ctrl-C from the terminal. `wait` forwards it, so it arrives once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command)
    }
}

/// Waits for the process to end, and terminates it once `stop` becomes true.
fn wait(mut child: Child, stop: &watch::Receiver<bool>) -> Result<std::process::ExitStatus> {
    let _running = Running::new(Some(child.id()), Kind::Program);
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if *stop.borrow() && !asked {
            asked = true;
            terminate(&mut child);
        }
        thread::sleep(LOOK);
    }
}

#[cfg(unix)]
fn terminate(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process};
    // A child that has just ended cannot be signalled, and need not be.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

#[cfg(not(unix))]
fn terminate(child: &mut Child) {
    drop(child.kill());
}

/// The last line that a process printed.
fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it printed nothing").to_string()
}
