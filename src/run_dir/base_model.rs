//! What a run's base model was, by the contents of its files: a folder may move, and another model is noticed.
//!
//! Configuration, tokenizer and templates are hashed whole. Of weights the header is, and of each tensor `BLOCKS` pieces from its
//! beginning to its end: about 14 MB of a model of 7 B parameters are read. Training or merging changes every matrix nearly
//! everywhere, so that the pieces differ too. What changes single rows of a large matrix can go unnoticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use engine::decoder::weight_files;
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config;
use crate::error::InputError;
use crate::files;
use crate::model::folder;
use crate::model::hub;

const RECORD: &str = "base_model.json";
/// Pieces of a tensor, and their bytes. A smaller tensor is hashed whole.
const BLOCKS: u64 = 16;
const BLOCK: u64 = 4096;

/// The hash of each file of a model that changes what is computed, by its name.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct BaseModel {
    files: BTreeMap<String, String>,
}

/// Whether the run in `run` knows the contents of its base model. Runs of older versions do not.
pub fn is_recorded(run: &Path) -> bool {
    run.join(RECORD).exists()
}

/// Writes what the model in `model` contains into the folder of a run that does not know yet.
pub fn record(run: &Path, model: &Path) -> Result<()> {
    if is_recorded(run) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&BaseModel::read(model)?)?;
    Ok(files::write_atomic(&run.join(RECORD), &text)?)
}

/// # Errors
/// If the model in `model` is not the one that the run in `run` began with. Names the file that differs.
pub fn check(run: &Path, model: &Path) -> Result<()> {
    let path = run.join(RECORD);
    if !path.exists() {
        return Ok(());
    }
    let record = fs::read(&path).with_context(|| path.display().to_string())?;
    let record: BaseModel = serde_json::from_slice(&record).map_err(|e| InputError::new(path.display(), e))?;
    match record.difference(&BaseModel::read(model)?) {
        None => Ok(()),
        Some(what) => {
            let problem = format!(
                "is not the base model of the run in {}: {what}; name a folder with the files that the run began with, or begin another run",
                run.display()
            );
            Err(InputError::new(model.display(), problem).into())
        }
    }
}

/// # Errors
/// If `model`, as a run's configuration names it, is a folder that is not there. `option` is how to name another.
pub fn check_here(model: &Path, option: &str) -> Result<(), InputError> {
    if model.is_dir() || config::is_hub_id(&model.to_string_lossy()) {
        return Ok(());
    }
    let problem = format!("the run's base model is not here; if it has moved, say where it is now with {option}");
    Err(InputError::new(model.display(), problem))
}

/// The model of a run that began with `recorded`, where the configuration names `given`: a model of the hub stays at the commit that
/// the run began with, also if its branch has moved on.
pub fn at_recorded_commit(recorded: &Path, given: &Path) -> PathBuf {
    let (recorded_name, given_name) = (recorded.to_string_lossy(), given.to_string_lossy());
    let is_same = hub::without_revision(&recorded_name) == given_name.trim_end_matches("@main");
    if is_same { recorded.to_path_buf() } else { given.to_path_buf() }
}

impl BaseModel {
    fn read(model: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in std::iter::once("config.json".to_string()).chain(folder::read(model)?) {
            let path = model.join(&name);
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            files.insert(name, hex(Sha256::digest(bytes)));
        }
        for path in weight_files(model)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, hash_weights(&path).with_context(|| path.display().to_string())?);
        }
        Ok(Self { files })
    }

    fn difference(&self, now: &Self) -> Option<String> {
        let names = self.files.keys().chain(now.files.keys());
        let differs = |name: &&String| self.files.get(*name) != now.files.get(*name);
        names.into_iter().find(differs).map(|name| {
            match (self.files.contains_key(name), now.files.contains_key(name)) {
                (true, false) => format!("{name} is missing"),
                (false, _) => format!("it has {name}, which the run's model had not"),
                (true, true) => format!("{name} differs"),
            }
        })
    }
}

/// The hash of a safetensors file's header and of pieces of its tensors.
fn hash_weights(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let header_bytes = u64::from_le_bytes(length);
    let mut header = length.to_vec();
    (&mut file).take(header_bytes).read_to_end(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header[8..])?;
    let mut hash = Sha256::new();
    hash.update(&header);
    let mut tensors: Vec<(usize, usize)> = metadata.tensors().values().map(|info| info.data_offsets).collect();
    tensors.sort_unstable();
    for (start, end) in tensors {
        for (from, bytes) in pieces(start as u64, end as u64) {
            let mut piece = vec![0; bytes as usize];
            file.seek(SeekFrom::Start(8 + header_bytes + from))?;
            file.read_exact(&mut piece)?;
            hash.update(piece);
        }
    }
    Ok(hex(hash.finalize()))
}

/// The places and sizes of the pieces of the bytes from `start` to `end`.
fn pieces(start: u64, end: u64) -> Vec<(u64, u64)> {
    match end - start {
        size if size <= BLOCKS * BLOCK => vec![(start, size)],
        size => (0..BLOCKS).map(|i| (start + (size - BLOCK) * i / (BLOCKS - 1), BLOCK)).collect(),
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_reach_from_the_first_byte_to_the_last() {
        assert_eq!(pieces(10, 10 + 65_536), [(10, 65_536)]);
        let many = pieces(100, 1_000_100);
        assert_eq!((many.len(), many[0], many[15]), (16, (100, 4096), (1_000_100 - 4096, 4096)));
        assert!(many.windows(2).all(|pair| pair[0].0 + BLOCK <= pair[1].0));
    }

    #[test]
    fn a_run_stays_at_its_commit() {
        let check = |recorded: &str, given: &str, expected: &str| {
            assert_eq!(at_recorded_commit(Path::new(recorded), Path::new(given)), Path::new(expected), "{given}");
        };
        check("a/b@c0ffee", "a/b", "a/b@c0ffee");
        check("a/b@c0ffee", "a/b@main", "a/b@c0ffee");
        check("a/b@c0ffee", "a/b@v2", "a/b@v2");
        check("a/b@c0ffee", "a/c", "a/c");
        check("/models/b", "/other/b", "/other/b");
    }
}
