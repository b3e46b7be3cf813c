//! The policy's forward pass: a Llama-family decoder with an optional LoRA adapter on its linear layers.
//!
//! Axes: B sequences, T positions (right-padded), D width, H heads, K key-value heads, V vocabulary.
//! Padding stands on the right and attention is causal, so no real position ever sees it.

use candle_core::{DType, Device, Result, Tensor};
use engine::decoder::{DecoderConfig, LayerWeights, Weights, module_path};

use super::lora::Lora;
use super::ops;

/// A decoder, and the tables that its forward needs.
pub struct Model {
    pub config: DecoderConfig,
    pub weights: Weights,
    /// cos and sin of the rotary angles, each (max positions × head_dim/2).
    rope: (Tensor, Tensor),
}

impl Model {
    pub fn new(config: DecoderConfig, weights: Weights) -> Result<Self> {
        let rope = rope_tables(&config, weights.norm.dtype(), weights.norm.device())?;
        Ok(Self { config, weights, rope })
    }

    /// The residual stream after the final norm, (B × T × D). `lora` `None` is the base model.
    pub fn hidden(&self, tokens_bt: &Tensor, lora: Option<&Lora>) -> Result<Tensor> {
        let (b, t) = tokens_bt.dims2()?;
        let rope = (self.rope.0.narrow(0, 0, t)?, self.rope.1.narrow(0, 0, t)?);
        let flat = tokens_bt.flatten_all()?;
        let mut x = self.weights.embed_tokens.index_select(&flat, 0)?.reshape((b, t, self.config.hidden_size))?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            x = Block { model: self, layer, index, lora }.forward(&x, &rope)?;
        }
        ops::rms_norm(&x, &self.weights.norm, self.config.rms_norm_eps)
    }

    /// Natural-log probabilities under softmax(logits / temperature) of `targets` (N ids), where `positions` (N) index the
    /// flattened (B·T) rows of `hidden` that predict them. Also the entropy of each of those distributions, detached.
    pub fn log_probs(
        &self,
        hidden: &Tensor,
        positions: &Tensor,
        targets: &Tensor,
        temperature: f64,
    ) -> Result<(Tensor, Tensor)> {
        let (b, t, d) = hidden.dims3()?;
        let rows = hidden.reshape((b * t, d))?.index_select(positions, 0)?;
        let logits = (linear(&rows, &self.weights.lm_head)?.to_dtype(DType::F32)? * (1.0 / temperature))?;
        ops::log_softmax_gather(&logits, targets)
    }
}

/// One block of one forward pass.
struct Block<'a> {
    model: &'a Model,
    layer: &'a LayerWeights,
    index: usize,
    lora: Option<&'a Lora>,
}

impl Block<'_> {
    fn forward(&self, x: &Tensor, rope: &(Tensor, Tensor)) -> Result<Tensor> {
        let eps = self.model.config.rms_norm_eps;
        let attended = self.attention(&ops::rms_norm(x, &self.layer.input_layernorm, eps)?, rope)?;
        let x = (x + attended)?;
        let expanded = self.mlp(&ops::rms_norm(&x, &self.layer.post_attention_layernorm, eps)?)?;
        x + expanded
    }

    fn attention(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
        let config = &self.model.config;
        let (b, t, _) = x.dims3()?;
        let split = |y: Tensor, heads: usize| y.reshape((b, t, heads, config.head_dim))?.transpose(1, 2)?.contiguous();
        let q = split(self.project(x, "q_proj", &self.layer.q_proj)?, config.num_attention_heads)?;
        let k = split(self.project(x, "k_proj", &self.layer.k_proj)?, config.num_key_value_heads)?;
        let v = split(self.project(x, "v_proj", &self.layer.v_proj)?, config.num_key_value_heads)?;
        let groups = config.num_attention_heads / config.num_key_value_heads;
        let q = ops::rope(&q, cos, sin)?;
        let k = repeat_heads(&ops::rope(&k, cos, sin)?, groups)?;
        let v = repeat_heads(&v, groups)?;
        let scores = (q.matmul(&k.t()?)? * (1.0 / (config.head_dim as f64).sqrt()))?;
        let mixed = ops::causal_softmax(&scores)?.matmul(&v)?;
        let joined = mixed.transpose(1, 2)?.reshape((b, t, config.num_attention_heads * config.head_dim))?;
        self.project(&joined, "o_proj", &self.layer.o_proj)
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.project(x, "gate_proj", &self.layer.gate_proj)?;
        let up = self.project(x, "up_proj", &self.layer.up_proj)?;
        self.project(&ops::swiglu(&gate, &up)?, "down_proj", &self.layer.down_proj)
    }

    /// W·x, plus (alpha / r)·B·A·x where the adapter covers this module.
    fn project(&self, x: &Tensor, module: &str, weight: &Tensor) -> Result<Tensor> {
        let base = linear(x, weight)?;
        match self.lora.and_then(|lora| lora.delta(&format!("model.layers.{}.{}", self.index, module_path(module)))) {
            Some(delta) => base + delta.forward(x)?,
            None => Ok(base),
        }
    }
}

/// x·Wᵀ over the last axis of `x`, as one matrix product.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let dims = x.dims();
    let (rows, width) = (x.elem_count() / dims[dims.len() - 1], dims[dims.len() - 1]);
    let mut out = dims.to_vec();
    out[dims.len() - 1] = weight.dim(0)?;
    x.reshape((rows, width))?.matmul(&weight.t()?)?.reshape(out)
}

/// (B × K × T × d) → (B × K·groups × T × d): each key-value head serves `groups` query heads.
fn repeat_heads(x: &Tensor, groups: usize) -> Result<Tensor> {
    if groups == 1 {
        return Ok(x.clone());
    }
    let (b, k, t, d) = x.dims4()?;
    x.unsqueeze(2)?.broadcast_as((b, k, groups, t, d))?.reshape((b, k * groups, t, d))
}

fn rope_tables(config: &DecoderConfig, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
    let (cos, sin) = config.rope_tables();
    let shape = (config.max_position_embeddings, config.head_dim / 2);
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, shape, device)?.to_dtype(dtype);
    Ok((tensor(cos)?, tensor(sin)?))
}
