//! The weights of a Llama-family decoder, by their Hugging Face names.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::DecoderConfig;
use super::module::Module;
use super::weight_files::{EMBEDDINGS, HEAD, WeightFolder};
use crate::error::EngineError;

/// All weights; matrices are (out × in), as in the files.
#[derive(Debug, Clone)]
pub struct Weights {
    /// V × D.
    pub embed_tokens: Tensor,
    pub layers: Vec<LayerWeights>,
    /// D.
    pub norm: Tensor,
    /// V × D; the embedding itself if the two are tied.
    pub lm_head: Tensor,
}

/// One block. Norms are (D), or (head_dim) for queries and keys.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    pub input_layernorm: Tensor,
    pub post_attention_layernorm: Tensor,
    /// Norms of queries and keys, if the architecture has them.
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
    /// If a file or a tensor is missing, a tensor is left over, or its shape is not what `config` says. Names the
    /// tensor and both shapes.
    pub fn load(dir: &Path, config: &DecoderConfig, dtype: DType, device: &Device) -> Result<Self, EngineError> {
        let mut folder = WeightFolder::open(dir)?;
        let weights = Self::from_named(config, |name, shape| folder.take(name, shape)?.read(name, dtype, device))?;
        folder.check_left_over(config)?;
        Ok(weights)
    }

    /// Checks names and shapes as [`Weights::load`] does, from the files' tables of contents. Reads no tensor.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn check(dir: &Path, config: &DecoderConfig) -> Result<(), EngineError> {
        let mut folder = WeightFolder::open(dir)?;
        let nothing = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        Self::from_named(config, |name, shape| folder.take(name, shape).map(|_| nothing.clone()))?;
        folder.check_left_over(config)
    }

    /// Builds the weights from a function that returns each tensor by name and shape.
    pub fn from_named(
        config: &DecoderConfig,
        mut get: impl FnMut(&str, &[usize]) -> Result<Tensor, EngineError>,
    ) -> Result<Self, EngineError> {
        let (d, v) = (config.hidden_size, config.vocab_size);
        let embed_tokens = get(EMBEDDINGS, &[v, d])?;
        let layers = (0..config.num_hidden_layers)
            .map(|i| LayerWeights::from_named(config, i, &mut get))
            .collect::<Result<_, _>>()?;
        let norm = get("model.norm.weight", &[d])?;
        let lm_head = if config.tie_word_embeddings { embed_tokens.clone() } else { get(HEAD, &[v, d])? };
        Ok(Self { embed_tokens, layers, norm, lm_head })
    }

    /// The weights on `device`: shared if they are already there, copied otherwise.
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

    /// Every tensor by name, without a tied head, as in the files.
    pub fn named(&self, config: &DecoderConfig) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::from([
            (EMBEDDINGS.to_string(), self.embed_tokens.clone()),
            ("model.norm.weight".to_string(), self.norm.clone()),
        ]);
        if !config.tie_word_embeddings {
            all.insert(HEAD.into(), self.lm_head.clone());
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

    /// A linear layer of the block.
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
