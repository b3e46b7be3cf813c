//! A model folder in Hugging Face layout, as `export`, `init-model` and `sft` write it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;

use crate::error::InputError;
use crate::files;

/// The files that this program reads beside `config.json` and weights, those that exist.
pub const READ: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// A folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
/// Endings of the files of tokenizers, templates and processors, whatever their names.
const ENDINGS: [&str; 9] = ["json", "jinja", "txt", "model", "tiktoken", "bpe", "spm", "vocab", "py"];
/// What the names of licence files begin with. They go where the weights go.
const LICENCES: [&str; 5] = ["license", "licence", "notice", "use_policy", "copying"];
/// Files with such an ending that are about weights in other files, or about how the model was trained.
const NOT: [&str; 4] = ["adapter_config.json", "trainer_state.json", "_results.json", ".index.json"];

/// Whether a file of a model folder belongs to the model beside its configuration and weights: all of its tokenizer, chat templates
/// and processors, and its licence. Other formats of the weights, folders, hidden files and the model card do not.
pub fn belongs(name: &str) -> bool {
    let name = match name.split_once('/') {
        Some((TEMPLATES, name)) if name.ends_with(".jinja") => return !name.contains('/'),
        Some(_) => return false,
        None => name,
    };
    let lower = name.to_lowercase();
    if name.starts_with('.') || name == "config.json" || NOT.iter().any(|ending| name.ends_with(ending)) {
        return false;
    }
    let ending = lower.rsplit_once('.').map_or("", |(_, ending)| ending);
    LICENCES.iter().any(|it| lower.starts_with(it)) || ENDINGS.contains(&ending)
}

/// Copies the files that belong to a model: see [`belongs`].
pub fn copy_beside(from: &Path, to: &Path) -> Result<()> {
    for name in beside(from)? {
        let target = to.join(&name);
        fs::create_dir_all(target.parent().unwrap_or(to)).with_context(|| target.display().to_string())?;
        copy(&from.join(&name), &target)?;
    }
    Ok(())
}

/// The names of the files in a model folder that this program reads, beside `config.json` and weights.
pub fn read(folder: &Path) -> Result<Vec<String>> {
    let is_read = |name: &String| READ.contains(&name.as_str()) || name.starts_with(TEMPLATES);
    Ok(beside(folder)?.into_iter().filter(is_read).collect())
}

/// The names of the files in a model folder that belong to it: see [`belongs`].
fn beside(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (prefix, folder) in [(String::new(), folder.to_path_buf()), (format!("{TEMPLATES}/"), folder.join(TEMPLATES))] {
        if !folder.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry.with_context(|| folder.display().to_string())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).map(|name| format!("{prefix}{name}"));
            names.extend(name.filter(|name| belongs(name) && path.is_file()));
        }
    }
    names.sort();
    Ok(names)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokenizer_templates_and_licence_belong_to_a_model() {
        READ.iter().for_each(|name| assert!(belongs(name), "{name}"));
        for name in [
            "vocab.json",
            "merges.txt",
            "tokenizer.model",
            "spiece.model",
            "tekken.json",
            "qwen.tiktoken",
            "source.spm",
            "preprocessor_config.json",
            "additional_chat_templates/tool_use.jinja",
            "tokenization_x.py",
            "LICENSE",
            "LICENSE.md",
            "Notice.txt",
            "USE_POLICY.md",
        ] {
            assert!(belongs(name), "{name}");
        }
        for name in [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "model.gguf",
            "model.onnx",
            "onnx/model.onnx",
            "original/params.json",
            "original/tokenizer.model",
            "README.md",
            ".gitattributes",
            "figure.png",
            "tf_model.h5",
            "trainer_state.json",
            "all_results.json",
            "adapter_config.json",
            "training_args.bin",
            "additional_chat_templates/x.txt",
        ] {
            assert!(!belongs(name), "{name}");
        }
    }
}
