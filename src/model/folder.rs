//! A model folder in Hugging Face layout, as `export`, `init-model` and `sft` write it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;

use crate::error::InputError;
use crate::files;

/// Files that a model folder may have in addition to its configuration and weights.
const BESIDE: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
];

/// Copies tokenizer, chat template and similar files, those that exist.
pub fn copy_beside(from: &Path, to: &Path) -> Result<()> {
    BESIDE.iter().filter(|name| from.join(name).is_file()).try_for_each(|name| copy(&from.join(name), &to.join(name)))
}

pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display())).map(drop)
}

/// Writes a safetensors file with the `format` metadata that transformers expects, completely or not at all.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let temporary = files::temporary_name(path);
    let write = || -> Result<()> {
        safetensors::serialize_to_file(tensors, Some(metadata), &temporary)?;
        Ok(File::open(&temporary)?.sync_all()?)
    };
    write().with_context(|| temporary.display().to_string())?;
    fs::rename(&temporary, path).with_context(|| path.display().to_string())
}

/// # Errors
/// If the folder `path` is not empty.
pub fn check_empty(path: &Path) -> Result<(), InputError> {
    if path.exists() && !path.is_dir() {
        return Err(InputError::new(path.display(), "is a file; choose a folder with --out DIR"));
    }
    match fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        true => Err(InputError::new(path.display(), "is not empty; choose another folder with --out DIR")),
        false => Ok(()),
    }
}

/// Lets `write` fill a folder under a temporary name, and renames it to `path` when it is complete. `path` may exist if it is
/// empty.
///
/// # Errors
/// If the temporary folder exists already. Errors of `write`; then nothing is left behind.
pub fn write_folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = &std::path::absolute(path)?;
    let temporary = files::temporary_name(path);
    if temporary.exists() {
        let problem = "is left from a command that was cut off, or is yours; remove it, or choose another folder";
        return Err(InputError::new(temporary.display(), problem).into());
    }
    fs::create_dir_all(&temporary).map_err(|e| InputError::new(temporary.display(), e))?;
    if let Err(error) = write(&temporary) {
        drop(fs::remove_dir_all(&temporary));
        return Err(error);
    }
    drop(fs::remove_dir(path));
    fs::rename(&temporary, path).with_context(|| path.display().to_string())?;
    Ok(files::sync_parent(path)?)
}
