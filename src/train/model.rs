//! The policy's forward pass: a decoder with an optional LoRA adapter on its linear layers.
//!
//! Axes: N rows (tokens of all sequences, packed without padding), D width, H heads, K key-value heads, V vocabulary.

use candle_core::{Result, Tensor};
use engine::decoder::{DecoderConfig, LayerWeights, Linear, Module, Rope, Weights};

use super::lora::Lora;
use super::ops::{Attention, Entropy, Operators};
use super::packed::Packed;

/// A decoder.
pub struct Model {
    pub config: DecoderConfig,
    pub weights: Weights,
    rope: Rope,
    /// Where they are not to be the fastest.
    operators: Option<Operators>,
}

/// Packed sequences, as the model takes them.
pub struct Rows {
    /// Ids (N).
    tokens: Tensor,
    /// cos and sin of the rotary angles, each (N × head_dim/2).
    angles: (Tensor, Tensor),
    attention: Attention,
}

impl Rows {
    /// N.
    pub fn count(&self) -> usize {
        self.tokens.elem_count()
    }
}

impl Model {
    pub fn new(config: DecoderConfig, weights: Weights) -> Self {
        Self { rope: config.rope(), operators: None, config, weights }
    }

    /// The same, computed as on any device, also where there is a faster way.
    pub fn on_plain_operators(self) -> Self {
        Self { operators: Some(Operators::Plain), ..self }
    }

    /// For the weights where they are now.
    fn operators(&self) -> Operators {
        self.operators.unwrap_or_else(|| Operators::of(&self.weights.norm))
    }

    /// Lays packed sequences out on the model's device.
    pub fn rows(&self, packed: &Packed) -> Result<Rows> {
        let norm = &self.weights.norm;
        let (positions, half) = (&packed.positions, self.config.head_dim / 2);
        let (cos, sin) = self.rope.tables(positions.iter().max().map_or(0, |last| *last as usize + 1));
        let angles = |table: &[f32]| {
            let values: Vec<f32> =
                positions.iter().flat_map(|p| &table[*p as usize * half..][..half]).copied().collect();
            Tensor::from_vec(values, (positions.len(), half), norm.device())
        };
        Ok(Rows {
            tokens: Tensor::new(packed.tokens.as_slice(), norm.device())?,
            angles: (angles(&cos)?, angles(&sin)?),
            attention: self.operators().attention(
                self.config.heads(),
                packed.segments.as_slice().into(),
                norm.device(),
            )?,
        })
    }

    /// The residual stream before the first block, (N × D).
    pub fn embed(&self, rows: &Rows) -> Result<Tensor> {
        self.weights.embed_tokens.index_select(&rows.tokens, 0)
    }

    /// The residual stream behind block `layer`. `lora` `None` is the base model.
    pub fn block(&self, layer: usize, x: &Tensor, rows: &Rows, lora: Option<&Lora>) -> Result<Tensor> {
        Block { model: self, weights: &self.weights.layers[layer], layer, rows, lora }.forward(x)
    }

    /// The residual stream behind the last block, (N × D).
    pub fn hidden(&self, rows: &Rows, lora: Option<&Lora>) -> Result<Tensor> {
        (0..self.config.num_hidden_layers).try_fold(self.embed(rows)?, |x, layer| self.block(layer, &x, rows, lora))
    }

    /// What goes into each block, and behind them what comes out of the last: L + 1 tensors (N × D) that remember
    /// nothing of how they came about. One block's activations are in memory at a time.
    pub fn checkpoints(&self, rows: &Rows, lora: Option<&Lora>) -> Result<Vec<Tensor>> {
        let mut all = vec![self.embed(rows)?.detach()];
        for layer in 0..self.config.num_hidden_layers {
            let next = self.block(layer, &all[layer], rows, lora)?.detach();
            all.push(next);
        }
        Ok(all)
    }

    /// Natural-log probabilities under softmax(logits / temperature) of `targets` (M ids), where `positions` (M) are the
    /// rows of `hidden` (before the final norm) that predict them. Also the entropy of each of those distributions.
    pub fn log_probs(
        &self,
        hidden: &Tensor,
        positions: &Tensor,
        targets: &Tensor,
        temperature: f64,
        entropy: Entropy,
    ) -> Result<(Tensor, Tensor)> {
        let rows = hidden.index_select(positions, 0)?;
        let normed = self.operators().rms_norm(&rows, &self.weights.norm, self.config.rms_norm_eps)?;
        self.operators().head_log_probs(&normed, &self.weights.lm_head, targets, temperature, entropy)
    }
}

/// One block of one forward pass.
struct Block<'a> {
    model: &'a Model,
    weights: &'a LayerWeights,
    layer: usize,
    rows: &'a Rows,
    lora: Option<&'a Lora>,
}

impl Block<'_> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (eps, ops) = (self.model.config.rms_norm_eps, self.model.operators());
        let x = (x + self.attention(&ops.rms_norm(x, &self.weights.input_layernorm, eps)?)?)?;
        let expanded = self.mlp(&ops.rms_norm(&x, &self.weights.post_attention_layernorm, eps)?)?;
        x + expanded
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let (ops, (cos, sin)) = (self.model.operators(), &self.rows.angles);
        let q = self.head_norm(self.project(x, Module::Q)?, &self.weights.q_norm)?;
        let k = self.head_norm(self.project(x, Module::K)?, &self.weights.k_norm)?;
        let v = self.project(x, Module::V)?;
        let (q, k) = (ops.rope(&q, cos, sin)?, ops.rope(&k, cos, sin)?);
        self.project(&self.rows.attention.apply(&q, &k, &v)?, Module::O)
    }

    /// Normalises each head by itself, where the architecture does.
    fn head_norm(&self, x: Tensor, weight: &Option<Tensor>) -> Result<Tensor> {
        let Some(weight) = weight else { return Ok(x) };
        let heads = x.reshape(((), self.model.config.head_dim))?;
        self.model.operators().rms_norm(&heads, weight, self.model.config.rms_norm_eps)?.reshape(x.shape())
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (self.project(x, Module::Gate)?, self.project(x, Module::Up)?);
        self.project(&self.model.operators().swiglu(&gate, &up)?, Module::Down)
    }

    /// W·x + b, plus (alpha / r)·B·A·x where the adapter covers this module.
    fn project(&self, x: &Tensor, module: Module) -> Result<Tensor> {
        let Linear { weight, bias } = self.weights.linear(module);
        let delta = self.lora.and_then(|lora| lora.delta(self.layer, module));
        self.model.operators().linear(x, weight, bias.as_ref(), delta)
    }
}
