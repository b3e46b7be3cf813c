//! Checkpoints: all of a run's state at one step, complete or absent.
//!
//! `checkpoints/step_N/` holds the PEFT adapter, the optimiser's moments and `state.json`. It is written under another
//! name, synced, and renamed. `state.json` has the hashes of the other files, so damage is noticed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use engine::adapter::hash_bytes;
use engine::{Adapter, AdapterHash, LoraConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::drift::Drift;
use super::log;
use super::score::SourceScore;
use super::watch::Watch;
use crate::config::ckpt::CkptConfig;
use crate::error::InputError;
use crate::files;
use crate::scheduler::SchedulerState;
use crate::train::lora::{ADAPTER, ADAPTER_CONFIG};
use crate::train::trainer::state::TrainerState;

const FOLDER: &str = "checkpoints";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// The placeholder in `state.json` for the file's own hash while that is computed.
const UNSEALED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The files of a checkpoint beside its state, by name.
type Parts<'a> = [(&'static str, Cow<'a, [u8]>); 3];

/// Everything that a run needs to continue.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub trainer: TrainerState,
    pub scheduler: SchedulerState,
    pub history: RunHistory,
}

/// What the learner needs to know of the run's past.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunHistory {
    /// The evaluation at step 0, if there was one. The final table compares with it.
    pub first_eval: Option<Vec<SourceScore>>,
    /// The metrics of the checkpoint's step, if a stop cut off its evaluation. It is done again after a resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unevaluated: Option<Map<String, Value>>,
    /// How many of the latest steps in a row had a gradient that was not finite.
    #[serde(default)]
    pub skipped_in_a_row: usize,
    /// How many of the latest steps in a row differed from the engine by more than the limit.
    #[serde(default)]
    pub mismatched_in_a_row: usize,
    #[serde(default)]
    pub watch: Watch,
    #[serde(default)]
    pub drift: Drift,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    /// SHA-256 of this file with [`UNSEALED`] in this place.
    sha256: AdapterHash,
    step: u64,
    optimizer_updates: u64,
    /// SHA-256 of the other files.
    files: BTreeMap<String, AdapterHash>,
    scheduler: SchedulerState,
    #[serde(flatten)]
    history: RunHistory,
}

impl Checkpoint {
    pub fn step(&self) -> u64 {
        self.scheduler.step
    }

    /// The last step whose line of metrics is whole. `None` if there is none: the first evaluation is still to come.
    pub fn last_measured(&self) -> Option<u64> {
        let is_open = self.history.unevaluated.is_some() || self.step() == 0 && self.history.first_eval.is_none();
        if is_open { self.step().checked_sub(1) } else { Some(self.step()) }
    }

    /// Writes the checkpoint into `run/checkpoints`, then removes those that `config` does not keep. One of the same step has the
    /// same policy, and gets the new state. `before`: files and folders that must be durable when the checkpoint is.
    pub fn save(&self, run: &Path, config: &CkptConfig, before: Vec<PathBuf>) -> Result<PathBuf> {
        let target = checkpoint_folder(run, self.step());
        let parts = self.parts()?;
        let state = self.state(&parts)?;
        if target.exists() {
            files::sync_all(&before)?;
            files::write_atomic(&target.join(STATE), &state)?;
        } else {
            let temporary = files::temporary_name(&target);
            drop(fs::remove_dir_all(&temporary));
            fs::create_dir_all(&temporary).with_context(|| temporary.display().to_string())?;
            let mut unsynced = before;
            for (name, bytes) in parts.into_iter().chain([(STATE, state.into())]) {
                let path = temporary.join(name);
                fs::write(&path, bytes).map_err(|e| files::at(&path, e))?;
                unsynced.push(path);
            }
            unsynced.push(temporary.clone());
            files::sync_all(&unsynced)?;
            fs::rename(&temporary, &target).with_context(|| target.display().to_string())?;
            files::sync_parent(&target)?;
        }
        remove_old(run, config);
        Ok(target)
    }

    /// The files beside the state.
    fn parts(&self) -> Result<Parts<'_>> {
        let TrainerState { adapter, optimizer, .. } = &self.trainer;
        let config = serde_json::to_vec_pretty(&*adapter.config)?;
        Ok([(ADAPTER, (&adapter.bytes[..]).into()), (ADAPTER_CONFIG, config.into()), (OPTIMIZER, optimizer.into())])
    }

    /// The content of `state.json`.
    fn state(&self, parts: &Parts) -> Result<Vec<u8>> {
        let state = StateFile {
            sha256: AdapterHash(UNSEALED.into()),
            step: self.step(),
            optimizer_updates: self.trainer.updates,
            files: parts.iter().map(|(name, bytes)| (name.to_string(), hash_bytes(bytes))).collect(),
            scheduler: self.scheduler.clone(),
            history: self.history.clone(),
        };
        let text = serde_json::to_string_pretty(&state)?;
        Ok(text.replacen(UNSEALED, &hash_bytes(text.as_bytes()).0, 1).into_bytes())
    }

    /// The newest checkpoint of a run. `None` if there is none.
    ///
    /// # Errors
    /// As [`Checkpoint::load_latest`].
    pub fn newest(run: &Path) -> Result<Option<Self>, InputError> {
        if list(run).is_empty() { Ok(None) } else { Self::load_latest(run).map(Some) }
    }

    /// The checkpoint of one step of a run.
    ///
    /// # Errors
    /// None of that step: names the steps that there are. One that is damaged or of another version.
    pub fn load_step(run: &Path, step: u64) -> Result<Self, InputError> {
        let all = list(run);
        match all.iter().find(|(of, _)| *of == step) {
            Some((_, folder)) => Self::load(folder),
            None => {
                let steps = all.iter().map(|(of, _)| of.to_string()).collect::<Vec<_>>();
                let steps = if steps.is_empty() { "none".into() } else { steps.join(", ") };
                let problem = format!("there is no checkpoint of step {step}; those of these steps are here: {steps}");
                Err(InputError::new(run.join(FOLDER).display(), problem))
            }
        }
    }

    /// The newest checkpoint of a run.
    ///
    /// # Errors
    /// No checkpoint, or one that is damaged or of another version. Names the file, and for a damaged one an older checkpoint if
    /// there is one.
    pub fn load_latest(run: &Path) -> Result<Self, InputError> {
        of_newest(run, Self::read)
    }

    /// Reads one checkpoint folder.
    ///
    /// # Errors
    /// A missing or damaged file, or a checkpoint of another version.
    pub fn load(dir: &Path) -> Result<Self, InputError> {
        Self::read(dir).map_err(Fault::error)
    }

    fn read(dir: &Path) -> Result<Self, Fault> {
        let sealed = Sealed::open(dir)?;
        let adapter = sealed.adapter()?;
        let state: StateFile = serde_json::from_str(&sealed.text).map_err(|e| {
            let problem = format!(
                "written by another version of dump-rl: {e}; resume with that version, or start anew in another folder with --out DIR"
            );
            Fault::Version(InputError::new(dir.join(STATE).display(), problem))
        })?;
        let optimizer = sealed.file(OPTIMIZER)?;
        let trainer = TrainerState { adapter, optimizer, updates: state.optimizer_updates };
        Ok(Self { trainer, scheduler: state.scheduler, history: state.history })
    }
}

/// The step and the policy of a run's newest checkpoint, for commands that train no further. Checkpoints of older versions
/// are read too.
///
/// # Errors
/// As [`Checkpoint::load_latest`].
pub fn latest_policy(run: &Path) -> Result<(u64, Adapter), InputError> {
    of_newest(run, |dir| {
        let sealed = Sealed::open(dir)?;
        Ok((sealed.seal.step, sealed.adapter()?))
    })
}

/// Why a checkpoint cannot be read.
enum Fault {
    /// A file is missing or damaged: an older checkpoint may help.
    Damaged(InputError),
    /// All files are intact, and their format is another one.
    Version(InputError),
}

impl Fault {
    fn error(self) -> InputError {
        match self {
            Self::Damaged(error) | Self::Version(error) => error,
        }
    }
}

fn of_newest<T>(run: &Path, read: impl FnOnce(&Path) -> Result<T, Fault>) -> Result<T, InputError> {
    let all = list(run);
    let Some((_, newest)) = all.last() else {
        let problem = "holds no checkpoint yet; to train anew, choose another folder with --out DIR";
        return Err(InputError::new(run.join(FOLDER).display(), problem));
    };
    let older = all.len().checked_sub(2).map(|i| all[i].0);
    read(newest).map_err(|fault| match (fault, older) {
        (Fault::Damaged(InputError { place, problem }), Some(older)) => {
            let advice = format!("train --resume={older} goes on from the checkpoint before, and sets this one aside");
            InputError::new(place, format!("{problem}; {advice}"))
        }
        (fault, _) => fault.error(),
    })
}

/// What every version of `state.json` has.
#[derive(Deserialize)]
struct Seal {
    sha256: AdapterHash,
    step: u64,
    files: BTreeMap<String, AdapterHash>,
}

/// A checkpoint folder whose `state.json` is intact.
struct Sealed<'a> {
    dir: &'a Path,
    text: String,
    seal: Seal,
}

impl<'a> Sealed<'a> {
    fn open(dir: &'a Path) -> Result<Self, Fault> {
        let text = String::from_utf8(read(dir, STATE)?).map_err(|e| damaged(dir, STATE, e))?;
        let seal: Seal = serde_json::from_str(&text).map_err(|e| damaged(dir, STATE, e))?;
        if hash_bytes(text.replacen(&*seal.sha256.0, UNSEALED, 1).as_bytes()) != seal.sha256 {
            return Err(damaged(dir, STATE, "its SHA-256 is not the one it names"));
        }
        Ok(Self { dir, text, seal })
    }

    /// The content of a file, whose hash must be the one in `state.json`.
    fn file(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let bytes = read(self.dir, name)?;
        match self.seal.files.get(name) {
            Some(hash) if *hash == hash_bytes(&bytes) => Ok(bytes),
            _ => Err(damaged(self.dir, name, "its SHA-256 is not the one in state.json")),
        }
    }

    fn adapter(&self) -> Result<Adapter, Fault> {
        let config = self.file(ADAPTER_CONFIG)?;
        let config: LoraConfig = serde_json::from_slice(&config).map_err(|e| damaged(self.dir, ADAPTER_CONFIG, e))?;
        Ok(Adapter::new(Arc::new(config), self.file(ADAPTER)?))
    }
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, Fault> {
    let path = dir.join(name);
    fs::read(&path).map_err(|e| Fault::Damaged(InputError::new(path.display(), e)))
}

fn damaged(dir: &Path, name: &str, why: impl Display) -> Fault {
    Fault::Damaged(InputError::new(dir.join(name).display(), format!("damaged: {why}")))
}

/// The folder of the checkpoint of `step` in the folder of a run.
pub fn checkpoint_folder(run: &Path, step: u64) -> PathBuf {
    run.join(FOLDER).join(format!("step_{step}"))
}

/// Gives the checkpoints after `step` another name, because the run goes on from there and will save other ones. Nobody reads them
/// again, and nothing is lost.
pub fn set_aside_after(run: &Path, step: u64) -> Result<()> {
    for (_, folder) in list(run).into_iter().filter(|(of, _)| *of > step) {
        let aside = files::with_ending(&folder, ".set-aside");
        remove(&aside);
        fs::rename(&folder, &aside).with_context(|| folder.display().to_string())?;
        log::say(&format!("{} is set aside as {}", folder.display(), aside.display()));
    }
    Ok(())
}

/// Removes the checkpoints that `config` does not keep.
pub fn remove_old(run: &Path, config: &CkptConfig) {
    let old = list(run).into_iter().rev().skip(config.keep_last);
    old.filter(|(step, _)| !config.keeps(*step)).for_each(|(_, folder)| remove(&folder));
}

/// Removes what a kill left of a checkpoint that was being written or removed.
pub fn remove_unfinished(run: &Path) -> Result<()> {
    // A checkpoint of the same step gets a new state.
    let states = list(run).into_iter().map(|(_, folder)| files::temporary_name(&folder.join(STATE)));
    states.for_each(|left| drop(fs::remove_file(left)));
    for entry in fs::read_dir(run.join(FOLDER)).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "tmp") {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Removes a checkpoint, which has another name first: half a checkpoint must not look like a whole one. It only wastes space where
/// that fails.
fn remove(folder: &Path) {
    let temporary = files::temporary_name(folder);
    if fs::rename(folder, &temporary).is_ok() {
        drop(fs::remove_dir_all(temporary));
    }
}

/// The finished checkpoints of a run by step, oldest first.
fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(run.join(FOLDER)).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step_")?.parse().ok();
    let mut all: Vec<(u64, PathBuf)> = entries.filter_map(|e| Some((step(&e.path())?, e.path()))).collect();
    all.sort();
    all
}
