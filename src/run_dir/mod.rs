//! A run's folder: what is written at each step, and how a resume continues without losing or repeating a line.

pub mod base_model;
pub mod checkpoint;
pub mod drift;
pub mod fingerprints;
pub mod log;
pub mod metrics;
pub mod progress;
pub mod rollouts;
pub mod score;
mod settings;
pub mod start;
mod step_log;
pub mod watch;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config;
use crate::config::resolve::{LogFormat, log_format};
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::files;
use checkpoint::Checkpoint;
use start::Changes;

/// Files with one JSON object for each step, with its number under "step".
const STEP_LOGS: [&str; 3] = [METRICS, CURRICULUM, DECISIONS];

const CONFIG: &str = "config.toml";
/// The file of the metrics.
pub const METRICS: &str = "metrics.jsonl";
const CURRICULUM: &str = "curriculum.jsonl";
const DECISIONS: &str = "decisions.jsonl";

const CHECKPOINTS: &str = "checkpoints";
const ROLLOUTS: &str = "rollouts";
/// The file of the report.
pub const REPORT: &str = "report.html";

/// A folder with any of these belongs to a run.
const RUN_FILES: [&str; 4] = [CONFIG, METRICS, CURRICULUM, CHECKPOINTS];

/// The default of zstd. Higher levels take several times as long for a few per cent.
const ZSTD_LEVEL: i32 = 3;

/// A folder that belongs to one run, and to this process until the value is dropped.
pub struct RunDir {
    path: PathBuf,
    format: LogFormat,
    /// The last step whose files are durable.
    synced: AtomicU64,
    _lock: File,
}

impl RunDir {
    /// Starts a run in `path`, writing the resolved configuration.
    ///
    /// # Errors
    /// If the folder holds a run already. Nothing is overwritten.
    pub fn create(path: &Path, config: &RunConfig) -> Result<Self> {
        fs::create_dir_all(path).map_err(|e| InputError::new(path.display(), e))?;
        let lock = files::lock(path)?;
        Self::check_free(path)?;
        fs::create_dir_all(path.join(ROLLOUTS)).map_err(|e| InputError::new(path.display(), e))?;
        files::write_atomic(&path.join(CONFIG), config::to_toml(config)?.as_bytes())?;
        Ok(Self::new(path, config, 0, lock))
    }

    /// Continues the run in `path` at `checkpoint`. What it wrote of later steps is removed, or set aside.
    ///
    /// # Errors
    /// If there is no run, or `config` differs from the run's in a setting that cannot change.
    pub fn resume(path: &Path, config: &RunConfig, checkpoint: &Checkpoint, changes: Changes) -> Result<Self> {
        let lock = files::lock(path)?;
        Self::check_same(path, config, changes)?;
        forget_after(path, Some(checkpoint.step()), checkpoint.last_measured())?;
        checkpoint::set_aside_after(path, checkpoint.step())?;
        // A kill may have come between the newest checkpoint and the removal of an old one.
        checkpoint::remove_old(path, &config.ckpt);
        files::write_atomic(&path.join(CONFIG), config::to_toml(config)?.as_bytes())?;
        Ok(Self::new(path, config, checkpoint.step(), lock))
    }

    /// Begins the run in `path` again, which has no checkpoint: its logs are emptied. There may be no run.
    ///
    /// # Errors
    /// As [`RunDir::check_unsaved`].
    pub fn begin_again(path: &Path, config: &RunConfig, changes: Changes) -> Result<Self> {
        fs::create_dir_all(path).map_err(|e| InputError::new(path.display(), e))?;
        let lock = files::lock(path)?;
        Self::check_unsaved(path, config, changes)?;
        forget_after(path, None, None)?;
        files::write_atomic(&path.join(CONFIG), config::to_toml(config)?.as_bytes())?;
        Ok(Self::new(path, config, 0, lock))
    }

    /// `step`: where the run goes on.
    fn new(path: &Path, config: &RunConfig, step: u64, lock: File) -> Self {
        Self { path: path.to_path_buf(), format: log_format(config), synced: AtomicU64::new(step), _lock: lock }
    }

    /// For a folder without a checkpoint: whether a run may begin in it and nothing that was saved is lost.
    ///
    /// # Errors
    /// If its run has other settings than `config`, or had a checkpoint once.
    pub fn check_unsaved(path: &Path, config: &RunConfig, changes: Changes) -> Result<()> {
        let interval = match path.join(CONFIG).exists() {
            true => {
                Self::check_same(path, config, changes)?;
                config::load::<RunConfig>(&path.join(CONFIG), &[])?.ckpt.interval
            }
            false => config.ckpt.interval,
        };
        // The checkpoint of a step is written right after its metrics, and a report only when a run has ended with a checkpoint.
        let was_saved = |last: &u64| path.join(REPORT).exists() || interval > 0 && *last > interval;
        if let Some(last) = last_step(&path.join(METRICS)).filter(was_saved) {
            let problem = format!(
                "the run's checkpoints are gone, and its metrics go to step {last}; to train anew, choose another folder with --out DIR"
            );
            return Err(InputError::new(path.join(CHECKPOINTS).display(), problem).into());
        }
        Ok(())
    }

    /// # Errors
    /// If `path` holds a run.
    pub fn check_free(path: &Path) -> Result<()> {
        if RUN_FILES.iter().any(|name| path.join(name).exists()) {
            let problem = "already holds a run; continue it with --resume, or choose another folder with --out DIR";
            return Err(InputError::new(path.display(), problem).into());
        }
        Ok(())
    }

    /// # Errors
    /// If `path` holds no run, or `config` differs from the run's in a setting that cannot change and changes are refused.
    pub fn check_same(path: &Path, config: &RunConfig, changes: Changes) -> Result<()> {
        let may_change = settings::may_change(fingerprints::is_recorded(path));
        Ok(changes.judge(Self::difference(&may_change, path, config)?, &settings::advice())?)
    }

    /// # Errors
    /// If `path` holds no run, or `config` differs from the run's in a setting that is not in `may_change`. `why` is the end of
    /// the message.
    pub fn check_same_but(may_change: &[&str], path: &Path, config: &RunConfig, why: &str) -> Result<()> {
        Ok(Changes::Refused.judge(Self::difference(may_change, path, config)?, why)?)
    }

    fn difference(may_change: &[&str], path: &Path, config: &RunConfig) -> Result<Option<InputError>> {
        let old: RunConfig = config::load(&path.join(CONFIG), &[])?;
        let config = RunConfig { model: base_model::at_recorded_commit(&old.model, &config.model), ..config.clone() };
        let all = settings::differences(&old, &config, may_change)?;
        let error = || InputError::new(path.join(CONFIG).display(), all.join(", and "));
        Ok((!all.is_empty()).then(error))
    }

    /// The configuration with which the run in `path` goes on: its model is at the commit that the run began with. Without a run
    /// it is `config`.
    ///
    /// # Errors
    /// If the run's model is a folder that is not there.
    pub fn resumed(path: &Path, config: RunConfig) -> Result<RunConfig, InputError> {
        if !path.join(CONFIG).exists() {
            return Ok(config);
        }
        let old: RunConfig = config::load(&path.join(CONFIG), &[])?;
        let model = base_model::at_recorded_commit(&old.model, &config.model);
        base_model::check_here(&model, "--set model=DIR")?;
        Ok(RunConfig { model, ..config })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to metrics.jsonl, which is never compressed: everybody plots it.
    pub fn metrics(&self, values: &Map<String, Value>) -> Result<()> {
        self.append(METRICS, LogFormat::Plain, values)
    }

    /// Appends a step's observations to curriculum.jsonl, in the form that `curriculum replay` reads.
    pub fn observations(&self, event: &impl Serialize) -> Result<()> {
        self.append(CURRICULUM, self.format, event)
    }

    /// Appends the jobs that ended in a step to decisions.jsonl.
    pub fn decisions(&self, decisions: &impl Serialize) -> Result<()> {
        self.append(DECISIONS, self.format, decisions)
    }

    /// Files and folders that were written to since the last call, up to `step`. A checkpoint of this step is saved when they are
    /// durable: after a power cut the run goes on from it with whole logs.
    pub fn unsynced(&self, step: u64) -> Vec<PathBuf> {
        let mut all = rollouts::files(&self.path, self.synced.swap(step, Ordering::Relaxed) + 1..=step);
        all.extend(STEP_LOGS.iter().map(|name| files::plain_or_compressed(&self.path.join(name))));
        all.push(self.path.clone());
        all
    }

    fn append(&self, name: &str, format: LogFormat, value: &impl Serialize) -> Result<()> {
        step_log::append(&self.path.join(name), format, value)
    }

    /// Writes the completions of a step to rollouts/.
    pub fn rollouts<T: Serialize>(&self, step: u64, lines: impl Iterator<Item = T>) -> Result<()> {
        rollouts::write(&self.path, step, self.format, lines)
    }

    /// Writes a batch that could not be trained on to rollouts/failed_step_N.jsonl.
    pub fn failed_batch<T: Serialize>(&self, step: u64, lines: impl Iterator<Item = T>) -> Result<PathBuf> {
        rollouts::write_failed(&self.path, step, lines)
    }
}

/// The last "step" in a file of lines.
fn last_step(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    bytes.split(|byte| *byte == b'\n').rev().find_map(step_log::step_of)
}

/// Removes from a run's folder what comes after `step` (none: everything), and from its metrics what comes after `measured`.
fn forget_after(run: &Path, step: Option<u64>, measured: Option<u64>) -> Result<()> {
    STEP_LOGS.iter().try_for_each(|name| step_log::truncate_after(&run.join(name), step))?;
    step_log::truncate_after(&run.join(METRICS), measured)?;
    rollouts::remove_after(run, step.unwrap_or(0))?;
    checkpoint::remove_unfinished(run)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_resume_keeps_what_was_written_up_to_its_step() {
        let dir = temp_dir::TempDir::new().unwrap();
        let run = RunDir::create(dir.path(), &RunConfig::default()).unwrap();
        for step in 0..4 {
            run.metrics(&Map::from_iter([("step".to_string(), step.into())])).unwrap();
            run.decisions(&serde_json::json!({ "step": step })).unwrap();
            run.rollouts(step + 1, std::iter::once(step)).unwrap();
        }
        let torn = dir.path().join(METRICS);
        OpenOptions::new().append(true).open(&torn).unwrap().write_all(b"{\"step\":1,\"\xC3").unwrap();
        fs::create_dir_all(dir.path().join("checkpoints/step_3.tmp")).unwrap();
        forget_after(dir.path(), Some(2), Some(1)).unwrap();
        assert_eq!(text(&torn), "{\"step\":0}\n{\"step\":1}\n");
        assert_eq!(text(&dir.path().join(DECISIONS)).lines().count(), 3);
        let mut rollouts: Vec<_> =
            fs::read_dir(dir.path().join(ROLLOUTS)).unwrap().map(|it| it.unwrap().file_name()).collect();
        rollouts.sort();
        assert_eq!(rollouts, ["step_1.jsonl", "step_2.jsonl"]);
        assert_eq!(fs::read_dir(dir.path().join(CHECKPOINTS)).unwrap().count(), 0);
        forget_after(dir.path(), None, None).unwrap();
        assert_eq!((text(&torn).as_str(), fs::read_dir(dir.path().join(ROLLOUTS)).unwrap().count()), ("", 0));
    }

    #[test]
    fn a_folder_with_a_run_is_not_overwritten_and_changed_settings_are_named() {
        let dir = temp_dir::TempDir::new().unwrap();
        let run = RunDir::create(dir.path(), &RunConfig::default()).unwrap();
        let again = |config: &RunConfig, changes| RunDir::begin_again(dir.path(), config, changes);
        let refused = |config: &RunConfig| again(config, Changes::Refused).err().unwrap().to_string();
        assert!(refused(&RunConfig::default()).contains("another dump-rl"));
        drop(run);
        let error = RunDir::create(dir.path(), &RunConfig::default()).err().unwrap().to_string();
        assert!(error.contains("--resume") && error.contains("--out"), "{error}");
        let mut changed = RunConfig { max_steps: 7, ..RunConfig::default() };
        changed.engine.remote.retries = 3;
        changed.engine.max_sequences = 3;
        drop(again(&changed, Changes::Refused).unwrap());
        changed.optim.lr = 0.5;
        changed.lora.rank = 2;
        let error = refused(&changed);
        for words in ["optim.lr was 0.0001, is 0.5", "lora.rank was 16, is 2", "--allow-changed"] {
            assert!(error.contains(words), "{error}");
        }
        drop(again(&changed, Changes::Allowed).unwrap());
        assert!(again(&changed, Changes::Refused).is_ok(), "these are the run's settings now");
    }

    /// Where files are may change only if what they contain is known.
    #[test]
    fn paths_may_change_where_contents_are_recorded() {
        let dir = temp_dir::TempDir::new().unwrap();
        let mut old = RunConfig::default();
        old.data[0].task.clear();
        old.data[0].train_files = vec!["/data/old.jsonl".into()];
        old.eval.interval = 0;
        drop(RunDir::create(dir.path(), &old).unwrap());
        let mut moved = old.clone();
        moved.data[0].train_files = vec!["/data/new.jsonl".into()];
        let error = RunDir::check_same(dir.path(), &moved, Changes::Refused).unwrap_err().to_string();
        assert!(error.contains("data.train_files was"), "{error}");
        fs::write(dir.path().join("fingerprints.json"), "{}").unwrap();
        assert!(RunDir::check_same(dir.path(), &moved, Changes::Refused).is_ok());
        moved.data[0].limit = 3;
        let error = RunDir::check_same(dir.path(), &moved, Changes::Refused).unwrap_err().to_string();
        assert!(error.contains("data.limit was 0, is 3"), "{error}");
    }
}
