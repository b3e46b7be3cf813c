//! The safetensors files of a model folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;

use super::config::DecoderConfig;
use super::file::TensorFile;
use crate::error::EngineError;
use crate::json::read_text;

pub(super) const EMBEDDINGS: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// The open files of a model folder.
pub struct WeightFolder<'a> {
    dir: &'a Path,
    files: Vec<TensorFile>,
    /// The file of each tensor that was not taken yet.
    left_over: BTreeMap<String, usize>,
}

impl<'a> WeightFolder<'a> {
    /// # Errors
    /// As [`weight_files`], or if a file is damaged.
    pub fn open(dir: &'a Path) -> Result<Self, EngineError> {
        let files = weight_files(dir)?.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let names = |(index, file): (usize, &TensorFile)| file.names().into_iter().map(move |name| (name, index));
        let left_over = files.iter().enumerate().flat_map(names).collect();
        Ok(Self { dir, files, left_over })
    }

    fn fail(&self, problem: String) -> EngineError {
        EngineError::Model { path: self.dir.to_path_buf(), problem }
    }

    /// The file that holds this tensor, which must have this shape.
    ///
    /// # Errors
    /// If the tensor is missing, was taken before, or has another shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<&mut TensorFile, EngineError> {
        let index = self.left_over.remove(name).ok_or_else(|| self.fail(format!("tensor {name} is missing")))?;
        match self.files[index].info(name) {
            Some((found, _)) if found != shape => {
                Err(self.fail(format!("tensor {name}: expected shape {shape:?}, found {found:?}")))
            }
            // A number format that candle lacks is reported when the tensor is read.
            _ => Ok(&mut self.files[index]),
        }
    }

    /// # Errors
    /// If a tensor was not taken and is not one of those that the model does not need; a head that should be the
    /// embeddings and is not.
    pub fn check_left_over(&mut self, config: &DecoderConfig) -> Result<(), EngineError> {
        let is_unneeded = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == HEAD;
        match self.left_over.keys().find(|name| !is_unneeded(name)) {
            Some(name) => Err(self.fail(format!("tensor {name} belongs to no part of a {}", config.architectures[0]))),
            None => self.check_tied_head(),
        }
    }

    /// Releases of transformers differ in what they do with a tied head that is another tensor than the embeddings.
    fn check_tied_head(&mut self) -> Result<(), EngineError> {
        if !self.left_over.contains_key(HEAD) || self.bytes(HEAD)? == self.bytes(EMBEDDINGS)? {
            return Ok(());
        }
        Err(self.fail(format!(
            "tensor {HEAD} is not {EMBEDDINGS}, which config.json's tie_word_embeddings says it is; set it to false if \
             the model has a head of its own"
        )))
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, EngineError> {
        let holds = |file: &&mut TensorFile| file.names().iter().any(|it| it == name);
        let file = self.files.iter_mut().find(holds);
        Ok(file.ok_or_else(|| EngineError::Load(format!("tensor {name} is missing")))?.bytes(name)?.0)
    }
}

/// The number format of each tensor of a model folder.
///
/// # Errors
/// As [`weight_files`], or if a file is damaged.
pub fn number_formats(dir: &Path) -> Result<BTreeMap<String, DType>, EngineError> {
    let mut all = BTreeMap::new();
    for path in weight_files(dir)? {
        let file = TensorFile::open(&path)?;
        all.extend(file.names().into_iter().filter_map(|name| Some((name.clone(), file.info(&name)?.1))));
    }
    Ok(all)
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Whether a model folder has weights: the file, or an index of shards.
pub fn has_weights(dir: &Path) -> bool {
    dir.join(SINGLE).exists() || dir.join(INDEX).exists()
}

/// The safetensors files of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json`
/// names.
///
/// # Errors
/// If the index is broken or a file is missing. Names the file.
pub fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if !single.exists() && !index.exists() {
        return Err(EngineError::Model { path: single, problem: missing(dir) });
    }
    if single.exists() {
        return Ok(vec![existing(single)?]);
    }
    let fail = |e: &dyn std::fmt::Display| EngineError::Model { path: index.clone(), problem: e.to_string() };
    let text = read_text(&index).map_err(|e| fail(&e))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| fail(&e))?;
    let names: std::collections::BTreeSet<_> = parsed.weight_map.into_values().collect();
    names.into_iter().map(|name| existing(dir.join(name))).collect()
}

/// What is said of a folder without safetensors. Pickles run code when they are read.
fn missing(dir: &Path) -> String {
    let has = |name: &&str| dir.join(name).exists();
    match ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(has) {
        Some(name) => format!(
            "the model's weights are missing, and {name} is not read: convert it with transformers (from_pretrained, then \
             save_pretrained)"
        ),
        None => "the model's weights are missing".into(),
    }
}

fn existing(path: PathBuf) -> Result<PathBuf, EngineError> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(EngineError::Model { path, problem: "the model's weights are missing".into() })
    }
}
