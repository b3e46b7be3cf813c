//! The safetensors files of a model folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;

use super::config::DecoderConfig;
use super::file::TensorFile;
use crate::error::EngineError;
use crate::json::read_text;

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
    /// If a tensor was not taken and is not one of those that the model does not need.
    pub fn check_left_over(&self, config: &DecoderConfig) -> Result<(), EngineError> {
        let is_unneeded = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight";
        match self.left_over.keys().find(|name| !is_unneeded(name)) {
            Some(name) => Err(self.fail(format!("tensor {name} belongs to no part of a {}", config.architectures[0]))),
            None => Ok(()),
        }
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
    if single.exists() || !index.exists() {
        return Ok(vec![existing(single)?]);
    }
    let fail = |e: &dyn std::fmt::Display| EngineError::Model { path: index.clone(), problem: e.to_string() };
    let text = read_text(&index).map_err(|e| fail(&e))?;
    let parsed: Index = serde_json::from_str(&text).map_err(|e| fail(&e))?;
    let names: std::collections::BTreeSet<_> = parsed.weight_map.into_values().collect();
    names.into_iter().map(|name| existing(dir.join(name))).collect()
}

fn existing(path: PathBuf) -> Result<PathBuf, EngineError> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(EngineError::Model { path, problem: "the model's weights are missing".into() })
    }
}
