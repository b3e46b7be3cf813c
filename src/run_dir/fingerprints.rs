//! What a run was made of, by contents: the files of its base model, and the rows of its distributions.
//!
//! A run records it in `fingerprints.json` when it begins. So files may move, and a resume notices weights or rows that were changed
//! in place.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use engine::decoder::weight_files;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::start::Changes;
use crate::error::InputError;
use crate::files::{self, hex};
use crate::model::folder;

const RECORD: &str = "fingerprints.json";
/// A file is hashed in pieces of this many bytes, on all cores.
const PIECE: u64 = 64 << 20;

/// What helps against a difference.
const OTHER_MODEL: &str = "name a folder with the files that the run began with, or begin another run";
const OTHER_ROWS: &str = "give the rows that the run began with, or begin another run in another folder with --out DIR; --allow-changed \
                          goes on all the same";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    /// The hash of each file of the model that changes what is computed, by its name.
    model: BTreeMap<String, String>,
    /// The training rows of each distribution.
    train: BTreeMap<String, Rows>,
    /// The test rows of each distribution.
    test: BTreeMap<String, Rows>,
    /// `eval.prompts`, which says how many test rows are used.
    test_rows: usize,
}

/// The rows of a distribution: how many, and the SHA-256 of what is sampled and graded. Of rows that are made when they are drawn,
/// the first ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    pub rows: usize,
    pub sha256: String,
}

impl Fingerprints {
    /// `model` is a folder. `train` and `test` are the rows by distribution, with at most `test_rows` test rows in each.
    ///
    /// # Errors
    /// A file of the model that cannot be read.
    pub fn new(
        model: &Path,
        train: BTreeMap<String, Rows>,
        test: BTreeMap<String, Rows>,
        test_rows: usize,
    ) -> Result<Self> {
        Ok(Self { model: model_files(model)?, train, test, test_rows })
    }

    /// Writes the record into the folder of a run, if it has another one or none.
    pub fn write(&self, run: &Path) -> Result<()> {
        let (path, text) = (run.join(RECORD), serde_json::to_vec_pretty(self)?);
        if fs::read(&path).is_ok_and(|recorded| recorded == text) {
            return Ok(());
        }
        Ok(files::write_atomic(&path, &text)?)
    }

    /// Compares with what the run in `run` began with. A folder without a record has nothing to compare with.
    ///
    /// # Errors
    /// What differs, unless changes are allowed: then it is warned of.
    pub fn check(&self, run: &Path, model: &Path, changes: Changes) -> Result<()> {
        let Some(recorded) = Self::read(run)? else { return Ok(()) };
        changes.judge(recorded.model_difference(run, model, &self.model), OTHER_MODEL)?;
        changes.judge(other_rows("training", run, &recorded.train, &self.train), OTHER_ROWS)?;
        if recorded.test_rows == self.test_rows {
            changes.judge(other_rows("test", run, &recorded.test, &self.test), OTHER_ROWS)?;
        }
        Ok(())
    }

    fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(RECORD);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(Some(serde_json::from_slice(&text).map_err(|e| InputError::new(path.display(), e))?))
    }

    fn model_difference(&self, run: &Path, model: &Path, now: &BTreeMap<String, String>) -> Option<InputError> {
        let what = difference(&self.model, now)?;
        let problem = format!("is not the base model of the run in {}: {what}", run.display());
        Some(InputError::new(model.display(), problem))
    }
}

/// Whether the run in `run` knows the contents of its base model and rows. Runs of older versions do not.
pub fn is_recorded(run: &Path) -> bool {
    run.join(RECORD).exists()
}

/// For commands that read a run's policy.
///
/// # Errors
/// If the model in `model` is not the one that the run in `run` began with. Names the file that differs.
pub fn check_model(run: &Path, model: &Path) -> Result<()> {
    let Some(recorded) = Fingerprints::read(run)? else { return Ok(()) };
    Ok(Changes::Refused.judge(recorded.model_difference(run, model, &model_files(model)?), OTHER_MODEL)?)
}

fn other_rows(
    split: &str,
    run: &Path,
    old: &BTreeMap<String, Rows>,
    new: &BTreeMap<String, Rows>,
) -> Option<InputError> {
    let what = difference(old, new)?;
    Some(InputError::new("data", format!("the {split} rows are not those of the run in {}: {what}", run.display())))
}

/// The first name whose value differs.
fn difference<T: PartialEq + Differs>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Option<String> {
    let name = old.keys().chain(new.keys()).find(|name| old.get(*name) != new.get(*name))?;
    Some(match (old.get(name), new.get(name)) {
        (Some(_), None) => format!("{name} is missing"),
        (Some(old), Some(new)) => format!("{name} {}", old.how(new)),
        (None, _) => format!("it has {name}, which the run's {} had not", T::OWNER),
    })
}

/// How two values that belong to one name differ.
trait Differs {
    const OWNER: &str;

    fn how(&self, new: &Self) -> String;
}

impl Differs for String {
    const OWNER: &str = "model";

    fn how(&self, _: &Self) -> String {
        "differs".into()
    }
}

impl Differs for Rows {
    const OWNER: &str = "data";

    fn how(&self, new: &Self) -> String {
        match self.rows == new.rows {
            true => format!("has {} rows as before, but not the same ones", self.rows),
            false => format!("had {} rows, has {}", self.rows, new.rows),
        }
    }
}

fn model_files(model: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for name in std::iter::once("config.json".to_string()).chain(folder::read(model)?) {
        let path = model.join(&name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        hashes.insert(name, hex(Sha256::digest(bytes)));
    }
    for path in weight_files(model)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hashes.insert(name, hash_in_pieces(&path).with_context(|| path.display().to_string())?);
    }
    Ok(hashes)
}

/// SHA-256 of the SHA-256 of each piece of a file.
fn hash_in_pieces(path: &Path) -> io::Result<String> {
    let pieces = fs::metadata(path)?.len().div_ceil(PIECE);
    let hashes = (0..pieces).into_par_iter().map(|piece| hash_piece(path, piece * PIECE));
    let all: Vec<[u8; 32]> = hashes.collect::<io::Result<_>>()?;
    Ok(hex(Sha256::digest(all.concat())))
}

fn hash_piece(path: &Path, from: u64) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut hash = Sha256::new();
    io::copy(&mut file.take(PIECE), &mut hash)?;
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python: `sha256(sha256(bytes(64 << 20)).digest() + sha256(b"abc").digest()).hexdigest()`.
    #[test]
    fn a_large_file_is_hashed_in_pieces() {
        let folder = temp_dir::TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut bytes = vec![0; PIECE as usize];
        bytes.extend(b"abc");
        fs::write(&path, bytes).unwrap();
        assert_eq!(hash_in_pieces(&path).unwrap(), "128062fd9886663bb8c3c726c4cda52facab94db79ff290391dfa20c1bcb1c8b");
    }

    #[test]
    fn what_differs_is_named() {
        let rows = |rows: usize, sha256: &str| Rows { rows, sha256: sha256.into() };
        let map = |all: &[(&str, Rows)]| all.iter().map(|(name, it)| (name.to_string(), it.clone())).collect();
        let old: BTreeMap<String, Rows> = map(&[("a", rows(3, "x")), ("b", rows(2, "y"))]);
        let check = |new: &[(&str, Rows)], expected: Option<&str>| {
            assert_eq!(difference(&old, &map(new)).as_deref(), expected);
        };
        check(&[("a", rows(3, "x")), ("b", rows(2, "y"))], None);
        check(&[("a", rows(3, "z")), ("b", rows(2, "y"))], Some("a has 3 rows as before, but not the same ones"));
        check(&[("a", rows(3, "x")), ("b", rows(4, "y"))], Some("b had 2 rows, has 4"));
        check(&[("a", rows(3, "x"))], Some("b is missing"));
        let more = [("a", rows(3, "x")), ("b", rows(2, "y")), ("c", rows(1, "z"))];
        check(&more, Some("it has c, which the run's data had not"));
    }
}
