//! The weights of a Llama-family decoder, by their Hugging Face names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::file::TensorFile;
use super::{DecoderConfig, Module};
use crate::error::EngineError;

/// All weights; matrices are (out × in), as in the files.
#[derive(Debug, Clone)]
pub struct Weights {
    /// V × D.
    pub embed_tokens: Tensor,
    pub layers: Vec<LayerWeights>,
    /// D.
    pub norm: Tensor,
    /// V × D; the embedding itself where the two are tied.
    pub lm_head: Tensor,
}

/// One block. Norms are (D), or (head_dim) for queries and keys.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    pub input_layernorm: Tensor,
    pub post_attention_layernorm: Tensor,
    /// Of queries and keys, where the architecture has them.
    pub q_norm: Option<Tensor>,
    pub k_norm: Option<Tensor>,
    linears: [Linear; Module::COUNT],
}

/// W·x + b: `weight` (out × in), `bias` (out).
#[derive(Debug, Clone)]
pub struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Weights {
    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// If a file or a tensor is missing, left over, or has another shape than `config` says: names the tensor and both
    /// shapes.
    pub fn load(dir: &Path, config: &DecoderConfig, dtype: DType, device: &Device) -> Result<Self, EngineError> {
        let mut folder = Folder::open(dir)?;
        let weights = Self::from_named(config, |name, shape| folder.take(name, shape)?.read(name, dtype, device))?;
        folder.check_left_over(config)?;
        Ok(weights)
    }

    /// Checks names and shapes as [`Weights::load`] does, by the files' tables of contents: no tensor is read.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn check(dir: &Path, config: &DecoderConfig) -> Result<(), EngineError> {
        let mut folder = Folder::open(dir)?;
        let nothing = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        Self::from_named(config, |name, shape| folder.take(name, shape).map(|_| nothing.clone()))?;
        folder.check_left_over(config)
    }

    /// Builds the structure from a function that gives each tensor by name and shape.
    pub fn from_named(
        config: &DecoderConfig,
        mut get: impl FnMut(&str, &[usize]) -> Result<Tensor, EngineError>,
    ) -> Result<Self, EngineError> {
        let (d, v) = (config.hidden_size, config.vocab_size);
        let embed_tokens = get("model.embed_tokens.weight", &[v, d])?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| LayerWeights::from_named(config, i, &mut get))
            .collect::<Result<_, _>>()?;
        let norm = get("model.norm.weight", &[d])?;
        let lm_head = if config.tie_word_embeddings { embed_tokens.clone() } else { get("lm_head.weight", &[v, d])? };
        Ok(Self { embed_tokens, layers, norm, lm_head })
    }

    /// All of them on `device`: themselves where they are there already, else copies.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn to_device(&self, device: &Device) -> candle_core::Result<Self> {
        let embed_tokens = self.embed_tokens.to_device(device)?;
        let is_tied = self.lm_head.id() == self.embed_tokens.id();
        let lm_head = if is_tied { embed_tokens.clone() } else { self.lm_head.to_device(device)? };
        let layers = self.layers.iter().map(|layer| layer.to_device(device)).collect::<candle_core::Result<_>>()?;
        Ok(Self { embed_tokens, layers, norm: self.norm.to_device(device)?, lm_head })
    }

    /// Every tensor by name; a tied head is left out, as in the files.
    pub fn named(&self, config: &DecoderConfig) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::from([
            ("model.embed_tokens.weight".to_string(), self.embed_tokens.clone()),
            ("model.norm.weight".to_string(), self.norm.clone()),
        ]);
        if !config.tie_word_embeddings {
            all.insert("lm_head.weight".into(), self.lm_head.clone());
        }
        for (i, layer) in self.layers.iter().enumerate() {
            all.extend(
                layer.named().into_iter().map(|(name, tensor)| (format!("model.layers.{i}.{name}"), tensor.clone())),
            );
        }
        all
    }
}

impl LayerWeights {
    fn from_named(
        config: &DecoderConfig,
        index: usize,
        get: &mut impl FnMut(&str, &[usize]) -> Result<Tensor, EngineError>,
    ) -> Result<Self, EngineError> {
        let mut get = |name: &str, shape: &[usize]| get(&format!("model.layers.{index}.{name}"), shape);
        let mut linear = |module: Module| -> Result<Linear, EngineError> {
            let (input, output) = config.linear_shape(module);
            let weight = get(&format!("{}.weight", module.path()), &[output, input])?;
            let bias =
                config.has_bias(module).then(|| get(&format!("{}.bias", module.path()), &[output])).transpose()?;
            Ok(Linear { weight, bias })
        };
        let [q, k, v, o, gate, up, down] = Module::ALL.map(&mut linear);
        let linears = [q?, k?, v?, o?, gate?, up?, down?];
        let mut head_norm = |name: &str| {
            config.has_qk_norm().then(|| get(&format!("self_attn.{name}.weight"), &[config.head_dim])).transpose()
        };
        let (q_norm, k_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        Ok(Self {
            input_layernorm: get("input_layernorm.weight", &[config.hidden_size])?,
            post_attention_layernorm: get("post_attention_layernorm.weight", &[config.hidden_size])?,
            q_norm,
            k_norm,
            linears,
        })
    }

    fn to_device(&self, device: &Device) -> candle_core::Result<Self> {
        let mut layer = self.clone();
        for norm in [&mut layer.input_layernorm, &mut layer.post_attention_layernorm] {
            *norm = norm.to_device(device)?;
        }
        for norm in [&mut layer.q_norm, &mut layer.k_norm].into_iter().flatten() {
            *norm = norm.to_device(device)?;
        }
        for Linear { weight, bias } in &mut layer.linears {
            *weight = weight.to_device(device)?;
            *bias = bias.as_ref().map(|bias| bias.to_device(device)).transpose()?;
        }
        Ok(layer)
    }

    pub fn linear(&self, module: Module) -> &Linear {
        &self.linears[module as usize]
    }

    fn named(&self) -> Vec<(String, &Tensor)> {
        let norms = [
            ("input_layernorm", Some(&self.input_layernorm)),
            ("post_attention_layernorm", Some(&self.post_attention_layernorm)),
            ("self_attn.q_norm", self.q_norm.as_ref()),
            ("self_attn.k_norm", self.k_norm.as_ref()),
        ];
        let norms = norms.into_iter().filter_map(|(name, tensor)| Some((format!("{name}.weight"), tensor?)));
        let linears = Module::ALL.into_iter().zip(&self.linears).flat_map(|(module, linear)| {
            let bias = linear.bias.as_ref().map(|bias| (format!("{}.bias", module.path()), bias));
            std::iter::once((format!("{}.weight", module.path()), &linear.weight)).chain(bias)
        });
        norms.chain(linears).collect()
    }
}

/// The open files of a model folder.
struct Folder<'a> {
    dir: &'a Path,
    files: Vec<TensorFile>,
    /// The file of each tensor that nothing has asked for yet.
    left_over: BTreeMap<String, usize>,
}

impl<'a> Folder<'a> {
    fn open(dir: &'a Path) -> Result<Self, EngineError> {
        let files = weight_files(dir)?.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>, _>>()?;
        let names = |(index, file): (usize, &TensorFile)| file.names().into_iter().map(move |name| (name, index));
        let left_over = files.iter().enumerate().flat_map(names).collect();
        Ok(Self { dir, files, left_over })
    }

    fn fail(&self, problem: String) -> EngineError {
        EngineError::Model { path: self.dir.to_path_buf(), problem }
    }

    /// The file that holds this tensor, which must have this shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<&mut TensorFile, EngineError> {
        let index = self.left_over.remove(name).ok_or_else(|| self.fail(format!("tensor {name} is missing")))?;
        match self.files[index].info(name) {
            Some((found, _)) if found != shape => {
                Err(self.fail(format!("tensor {name}: expected shape {shape:?}, found {found:?}")))
            }
            // A number format that candle lacks is named when the tensor is read.
            _ => Ok(&mut self.files[index]),
        }
    }

    fn check_left_over(&self, config: &DecoderConfig) -> Result<(), EngineError> {
        let is_needless = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight";
        match self.left_over.keys().find(|name| !is_needless(name)) {
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

/// Whether a model folder has any weights: the file, or an index of shards.
pub fn has_weights(dir: &Path) -> bool {
    dir.join(SINGLE).exists() || dir.join(INDEX).exists()
}

/// The safetensors files of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
///
/// # Errors
/// If the index is broken, or a file is missing: names it.
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
    let text = std::fs::read_to_string(&index).map_err(|e| fail(&e))?;
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
