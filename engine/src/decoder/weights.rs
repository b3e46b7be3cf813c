//! The weights of a Llama-family decoder, by their Hugging Face names.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::DecoderConfig;
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

/// One block. Norms are (D), matrices (out × in).
#[derive(Debug, Clone)]
pub struct LayerWeights {
    pub input_layernorm: Tensor,
    pub q_proj: Tensor,
    pub k_proj: Tensor,
    pub v_proj: Tensor,
    pub o_proj: Tensor,
    pub post_attention_layernorm: Tensor,
    pub gate_proj: Tensor,
    pub up_proj: Tensor,
    pub down_proj: Tensor,
}

/// The path of a linear layer inside a block: `self_attn.q_proj`, `mlp.up_proj`.
pub fn module_path(module: &str) -> String {
    let parent = if matches!(module, "q_proj" | "k_proj" | "v_proj" | "o_proj") { "self_attn" } else { "mlp" };
    format!("{parent}.{module}")
}

impl Weights {
    /// Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// If a file or a tensor is missing, or has another shape than `config` says: names the tensor and both shapes.
    pub fn load(dir: &Path, config: &DecoderConfig, dtype: DType, device: &Device) -> Result<Self, EngineError> {
        let mut tensors = HashMap::new();
        for file in weight_files(dir)? {
            let loaded = candle_core::safetensors::load(&file, device)
                .map_err(|e| EngineError::Model { path: file.clone(), problem: e.to_string() })?;
            tensors.extend(loaded);
        }
        Self::from_named(config, |name, shape| {
            let fail = |problem: String| EngineError::Model { path: dir.to_path_buf(), problem };
            let tensor = tensors.get(name).ok_or_else(|| fail(format!("tensor {name} is missing")))?;
            if tensor.dims() != shape {
                return Err(fail(format!("tensor {name}: expected shape {shape:?}, found {:?}", tensor.dims())));
            }
            Ok(tensor.to_dtype(dtype)?)
        })
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
            all.extend(layer.named().map(|(name, tensor)| (format!("model.layers.{i}.{name}.weight"), tensor.clone())));
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
        let mut norm = |name: &str| get(&format!("model.layers.{index}.{name}.weight"), &[config.hidden_size]);
        let (input_layernorm, post_attention_layernorm) = (norm("input_layernorm")?, norm("post_attention_layernorm")?);
        let mut linear = |module: &str| {
            let (input, output) = config.linear_shape(module).expect("a module of the block");
            get(&format!("model.layers.{index}.{}.weight", module_path(module)), &[output, input])
        };
        Ok(Self {
            input_layernorm,
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            o_proj: linear("o_proj")?,
            post_attention_layernorm,
            gate_proj: linear("gate_proj")?,
            up_proj: linear("up_proj")?,
            down_proj: linear("down_proj")?,
        })
    }

    fn named(&self) -> [(&'static str, &Tensor); 9] {
        [
            ("input_layernorm", &self.input_layernorm),
            ("self_attn.q_proj", &self.q_proj),
            ("self_attn.k_proj", &self.k_proj),
            ("self_attn.v_proj", &self.v_proj),
            ("self_attn.o_proj", &self.o_proj),
            ("post_attention_layernorm", &self.post_attention_layernorm),
            ("mlp.gate_proj", &self.gate_proj),
            ("mlp.up_proj", &self.up_proj),
            ("mlp.down_proj", &self.down_proj),
        ]
    }
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
    let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
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
