//! A run's folder: what is written at each step, and how a resume continues without losing or repeating a line.

pub mod base_model;
pub mod checkpoint;
pub mod log;
pub mod metrics;
pub mod progress;
pub mod score;
pub mod start;
pub mod watch;

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::run::RunConfig;
use crate::config::{self, Config};
use crate::error::InputError;
use crate::files;

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

/// Settings that a resume may change.
const MAY_CHANGE: [&str; 5] = ["max_steps", "eval", "ckpt", "engine.endpoints", "engine.remote"];

/// A folder that belongs to one run, and to this process until the value is dropped.
pub struct RunDir {
    path: PathBuf,
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
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Continues the run in `path`. Everything after `step` is removed from its logs, and everything after `measured` (none: all)
    /// from its metrics.
    ///
    /// # Errors
    /// If there is no run, or `config` differs from the run's in a setting that cannot change.
    pub fn resume(path: &Path, config: &RunConfig, step: u64, measured: Option<u64>) -> Result<Self> {
        let lock = files::lock(path)?;
        Self::check_same(path, config)?;
        STEP_LOGS.iter().try_for_each(|name| truncate_after(&path.join(name), Some(step)))?;
        truncate_after(&path.join(METRICS), measured)?;
        files::write_atomic(&path.join(CONFIG), config::to_toml(config)?.as_bytes())?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Begins the run in `path` again, which has no checkpoint: its logs are emptied. There may be no run.
    ///
    /// # Errors
    /// As [`RunDir::check_unsaved`].
    pub fn begin_again(path: &Path, config: &RunConfig) -> Result<Self> {
        fs::create_dir_all(path).map_err(|e| InputError::new(path.display(), e))?;
        let lock = files::lock(path)?;
        Self::check_unsaved(path, config)?;
        STEP_LOGS.iter().try_for_each(|name| truncate_after(&path.join(name), None))?;
        files::write_atomic(&path.join(CONFIG), config::to_toml(config)?.as_bytes())?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// For a folder without a checkpoint: whether a run may begin in it and nothing that was saved is lost.
    ///
    /// # Errors
    /// If its run has other settings than `config`, or had a checkpoint once.
    pub fn check_unsaved(path: &Path, config: &RunConfig) -> Result<()> {
        let interval = match path.join(CONFIG).exists() {
            true => {
                Self::check_same(path, config)?;
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
    /// If `path` holds no run, or `config` differs from the run's in a setting that cannot change.
    pub fn check_same(path: &Path, config: &RunConfig) -> Result<()> {
        let why = format!("only {} may change on a resume", MAY_CHANGE.join(", "));
        // The model's name may change if its contents can be compared: see `base_model::check`.
        let may_change = [&MAY_CHANGE[..], if base_model::is_recorded(path) { &["model"] } else { &[] }].concat();
        Self::check_same_but(&may_change, path, config, &why)
    }

    /// # Errors
    /// If `path` holds no run, or `config` differs from the run's in a setting that is not in `may_change`. `why` is the end of
    /// the message.
    pub fn check_same_but(may_change: &[&str], path: &Path, config: &RunConfig, why: &str) -> Result<()> {
        let old: RunConfig = config::load(&path.join(CONFIG), &[])?;
        let config = RunConfig { model: base_model::at_recorded_commit(&old.model, &config.model), ..config.clone() };
        match first_difference(&old, &config, may_change)? {
            Some(difference) => {
                Err(InputError::new(path.join(CONFIG).display(), format!("{difference}; {why}")).into())
            }
            None => Ok(()),
        }
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

    /// Appends a line to metrics.jsonl.
    pub fn metrics(&self, values: &Map<String, Value>) -> Result<()> {
        self.append(METRICS, values)
    }

    /// Appends a step's observations to curriculum.jsonl, in the form that `curriculum replay` reads.
    pub fn observations(&self, event: &impl Serialize) -> Result<()> {
        self.append(CURRICULUM, event)
    }

    /// Appends the jobs that ended in a step to decisions.jsonl.
    pub fn decisions(&self, decisions: &impl Serialize) -> Result<()> {
        self.append(DECISIONS, decisions)
    }

    fn append(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.path.join(name);
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(&line)).with_context(|| path.display().to_string())
    }

    /// Writes the completions of a step to rollouts/step_N.jsonl.
    pub fn rollouts<T: Serialize>(&self, step: u64, lines: impl Iterator<Item = T>) -> Result<()> {
        self.write_lines(&format!("step_{step}.jsonl"), lines).map(drop)
    }

    /// Writes a batch that could not be trained on to rollouts/failed_step_N.jsonl.
    pub fn failed_batch<T: Serialize>(&self, step: u64, lines: impl Iterator<Item = T>) -> Result<PathBuf> {
        self.write_lines(&format!("failed_step_{step}.jsonl"), lines)
    }

    fn write_lines<T: Serialize>(&self, name: &str, lines: impl Iterator<Item = T>) -> Result<PathBuf> {
        let path = self.path.join(ROLLOUTS).join(name);
        let write = || -> Result<()> {
            fs::create_dir_all(self.path.join(ROLLOUTS))?;
            let mut file = BufWriter::new(File::create(&path)?);
            for line in lines {
                serde_json::to_writer(&mut file, &line)?;
                file.write_all(b"\n")?;
            }
            Ok(file.flush()?)
        };
        write().with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// The first key whose value differs and must not, as "key was X, is Y".
fn first_difference<C: Config>(old: &C, new: &C, may_change: &[&str]) -> Result<Option<String>> {
    let (mut old, mut new) = (toml::Table::try_from(old)?, toml::Table::try_from(new)?);
    may_change.iter().for_each(|key| [&mut old, &mut new].into_iter().for_each(|table| remove(table, key)));
    let Some(key) = new.keys().find(|key| old.get(*key) != new.get(*key)) else { return Ok(None) };
    Ok(Some(difference(key, old.get(key), new.get(key))))
}

/// Removes a dotted key.
fn remove(table: &mut toml::Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.remove(key)),
        Some((outer, inner)) => {
            if let Some(toml::Value::Table(table)) = table.get_mut(outer) {
                remove(table, inner);
            }
        }
    }
}

/// Goes into tables, and into lists of tables that are as long as before.
fn difference(key: &str, old: Option<&toml::Value>, new: Option<&toml::Value>) -> String {
    match (old, new) {
        (Some(toml::Value::Table(old)), Some(toml::Value::Table(new))) => {
            let differing = old.keys().chain(new.keys()).find(|it| old.get(*it) != new.get(*it));
            let inner = differing.map_or("", String::as_str);
            difference(&format!("{key}.{inner}"), old.get(inner), new.get(inner))
        }
        (Some(toml::Value::Array(old)), Some(toml::Value::Array(new))) if old.len() == new.len() && is_tables(new) => {
            let index = (0..new.len()).find(|it| old[*it] != new[*it]).unwrap_or(0);
            let key = if new.len() == 1 { key.to_string() } else { format!("{key}[{index}]") };
            difference(&key, old.get(index), new.get(index))
        }
        _ => format!("{key} was {}, is {}", show(old), show(new)),
    }
}

fn is_tables(values: &[toml::Value]) -> bool {
    !values.is_empty() && values.iter().all(toml::Value::is_table)
}

fn show(value: Option<&toml::Value>) -> String {
    value.map_or_else(|| "unset".into(), ToString::to_string)
}

/// The last "step" in a file of lines.
fn last_step(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    bytes.split(|byte| *byte == b'\n').rev().find_map(step_of)
}

fn step_of(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(line).ok()?["step"].as_u64()
}

/// Keeps the lines whose "step" is at most `step`; without one, none. An incomplete last line is removed too.
fn truncate_after(path: &Path, step: Option<u64>) -> Result<()> {
    let Ok(bytes) = fs::read(path) else { return Ok(()) };
    let mut kept = Vec::new();
    // In bytes, because the last line may end within a character.
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if step_of(line).is_some_and(|at| step.is_some_and(|step| at <= step)) {
            kept.extend_from_slice(line.trim_ascii_end());
            kept.push(b'\n');
        }
    }
    Ok(files::write_atomic(path, &kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_keeps_the_lines_up_to_its_step() {
        let dir = temp_dir::TempDir::new().unwrap();
        let run = RunDir::create(dir.path(), &RunConfig::default()).unwrap();
        for step in 0..4 {
            run.metrics(&Map::from_iter([("step".to_string(), step.into())])).unwrap();
        }
        let torn = dir.path().join("metrics.jsonl");
        OpenOptions::new().append(true).open(&torn).unwrap().write_all(b"{\"step\":1,\"\xC3").unwrap();
        drop(run);
        RunDir::resume(dir.path(), &RunConfig::default(), 1, Some(1)).unwrap();
        assert_eq!(fs::read_to_string(torn).unwrap(), "{\"step\":0}\n{\"step\":1}\n");
    }

    #[test]
    fn a_folder_with_a_run_is_not_overwritten_and_a_changed_setting_is_named() {
        let dir = temp_dir::TempDir::new().unwrap();
        let run = RunDir::create(dir.path(), &RunConfig::default()).unwrap();
        let error = RunDir::resume(dir.path(), &RunConfig::default(), 0, None).err().unwrap().to_string();
        assert!(error.contains("another dump-rl"), "{error}");
        drop(run);
        let error = RunDir::create(dir.path(), &RunConfig::default()).err().unwrap().to_string();
        assert!(error.contains("--resume") && error.contains("--out"), "{error}");
        let mut changed = RunConfig { max_steps: 7, ..RunConfig::default() };
        assert!(RunDir::resume(dir.path(), &changed, 0, None).is_ok());
        changed.engine.remote.retries = 3;
        assert!(RunDir::resume(dir.path(), &changed, 0, None).is_ok());
        changed.optim.lr = 0.5;
        let error = RunDir::resume(dir.path(), &changed, 0, None).err().unwrap().to_string();
        assert!(error.contains("optim.lr was 0.0001, is 0.5"), "{error}");
    }
}
