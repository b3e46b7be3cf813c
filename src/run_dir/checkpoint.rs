//! Checkpoints: all of a run's state at one step, complete or absent.
//!
//! `checkpoints/step_N/` holds the PEFT adapter, the optimiser's moments and `state.json`. It is written under another
//! name, synced, and renamed. `state.json` has the hashes of the other files, so damage is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use engine::adapter::hash_bytes;
use engine::{Adapter, AdapterHash, LoraConfig};
use serde::{Deserialize, Serialize};

use super::score::SourceScore;
use crate::error::InputError;
use crate::files;
use crate::scheduler::SchedulerState;
use crate::train::lora::{ADAPTER, ADAPTER_CONFIG};
use crate::train::trainer::state::TrainerState;

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// The placeholder in `state.json` for the file's own hash while that is computed.
const UNSEALED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

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
    /// How many of the latest steps in a row had a gradient that was not finite.
    #[serde(default)]
    pub skipped_in_a_row: usize,
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

    /// Writes the checkpoint into `run/checkpoints`, then removes all but the newest `keep_last`.
    pub fn save(&self, run: &Path, keep_last: usize) -> Result<PathBuf> {
        let target = folder(run, self.step());
        if !target.exists() {
            let temporary = files::temporary_name(&target);
            drop(fs::remove_dir_all(&temporary));
            fs::create_dir_all(&temporary).with_context(|| temporary.display().to_string())?;
            self.write(&temporary)?;
            fs::rename(&temporary, &target).with_context(|| target.display().to_string())?;
            files::sync_parent(&target)?;
        }
        for (_, old) in list(run).into_iter().rev().skip(keep_last) {
            drop(fs::remove_dir_all(old));
        }
        Ok(target)
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let config = serde_json::to_vec_pretty(&*self.trainer.adapter.config)?;
        let parts: [(&str, &[u8]); 3] =
            [(ADAPTER, &self.trainer.adapter.bytes), (ADAPTER_CONFIG, &config), (OPTIMIZER, &self.trainer.optimizer)];
        let state = StateFile {
            sha256: AdapterHash(UNSEALED.into()),
            step: self.step(),
            optimizer_updates: self.trainer.updates,
            files: parts.iter().map(|(name, bytes)| (name.to_string(), hash_bytes(bytes))).collect(),
            scheduler: self.scheduler.clone(),
            history: self.history.clone(),
        };
        for (name, bytes) in parts {
            files::write_atomic(&dir.join(name), bytes)?;
        }
        let text = serde_json::to_string_pretty(&state)?;
        let sealed = text.replacen(UNSEALED, &hash_bytes(text.as_bytes()).0, 1);
        Ok(files::write_atomic(&dir.join(STATE), sealed.as_bytes())?)
    }

    /// The newest checkpoint of a run.
    ///
    /// # Errors
    /// No checkpoint, or one with a missing or damaged file. Names the file, and an older checkpoint if there is one.
    pub fn load_latest(run: &Path) -> Result<Self, InputError> {
        let all = list(run);
        let Some((_, newest)) = all.last() else {
            let problem = "holds no checkpoint to resume from; start anew in another folder with --out DIR";
            return Err(InputError::new(run.join("checkpoints").display(), problem));
        };
        Self::load(newest).map_err(|error| match all.len().checked_sub(2).map(|i| &all[i].1) {
            Some(older) => InputError::new(
                error.place,
                format!("{}; remove {} to resume from {}", error.problem, newest.display(), older.display()),
            ),
            None => error,
        })
    }

    /// Reads one checkpoint folder.
    pub fn load(dir: &Path) -> Result<Self, InputError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(|e| InputError::new(path.display(), e))
        };
        let broken =
            |name: &str, e: &dyn std::fmt::Display| InputError::new(dir.join(name).display(), format!("damaged: {e}"));
        let text = String::from_utf8(read(STATE)?).map_err(|e| broken(STATE, &e))?;
        let state: StateFile = serde_json::from_str(&text).map_err(|e| broken(STATE, &e))?;
        if hash_bytes(text.replacen(&*state.sha256.0, UNSEALED, 1).as_bytes()) != state.sha256 {
            return Err(broken(STATE, &"its SHA-256 is not the one it names"));
        }
        let checked = |name: &str| {
            let bytes = read(name)?;
            match state.files.get(name) {
                Some(hash) if *hash == hash_bytes(&bytes) => Ok(bytes),
                _ => Err(broken(name, &"its SHA-256 is not the one in state.json")),
            }
        };
        let config: LoraConfig =
            serde_json::from_slice(&checked(ADAPTER_CONFIG)?).map_err(|e| broken(ADAPTER_CONFIG, &e))?;
        let adapter = Adapter::new(Arc::new(config), checked(ADAPTER)?);
        let trainer = TrainerState { adapter, optimizer: checked(OPTIMIZER)?, updates: state.optimizer_updates };
        Ok(Self { trainer, scheduler: state.scheduler, history: state.history })
    }
}

fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step_{step}"))
}

/// The finished checkpoints of a run by step, oldest first.
fn list(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("step_")?.parse().ok();
    let mut all: Vec<(u64, PathBuf)> = entries.filter_map(|e| Some((step(&e.path())?, e.path()))).collect();
    all.sort();
    all
}
