//! The policy's forward pass: a decoder with an optional LoRA adapter on its linear layers. The block itself is
//! `engine::decoder::DecoderBlock`, which the native engine runs too.
//!
//! Axes: N rows (tokens of all sequences, packed without padding), D width, H heads, K key-value heads, V vocabulary.

use candle_core::{Result, Tensor};
use engine::decoder::{BlockOps, DecoderBlock, DecoderConfig, Linear, Module, Rope, Weights};

use super::give_up::GiveUp;
use super::lora::Lora;
use super::ops::{Attention, Entropy, Operators};
use super::packed::Packed;

/// A decoder.
pub struct Model {
    pub config: DecoderConfig,
    pub weights: Weights,
    rope: Rope,
    /// `None`: the fastest for the weights.
    operators: Option<Operators>,
    pub give_up: GiveUp,
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
        Self { rope: config.rope(), operators: None, config, weights, give_up: GiveUp::never() }
    }

    /// The same model on the plain operators of any device, even if there are faster ones.
    pub fn on_plain_operators(self) -> Self {
        Self { operators: Some(Operators::Plain), ..self }
    }

    /// The operators for the device that holds the weights now.
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

    /// The residual stream after block `layer`. `lora` `None` is the base model. An error once [`Model::give_up`] is asked.
    pub fn block(&self, layer: usize, x: &Tensor, rows: &Rows, lora: Option<&Lora>) -> Result<Tensor> {
        self.give_up.check()?;
        let ops = TrainOps { operators: self.operators(), layer, rows, lora };
        DecoderBlock::new(&self.config, &self.weights, layer).forward(x, &ops)
    }

    /// The residual stream after the last block, (N × D).
    pub fn hidden(&self, rows: &Rows, lora: Option<&Lora>) -> Result<Tensor> {
        (0..self.config.num_hidden_layers).try_fold(self.embed(rows)?, |x, layer| self.block(layer, &x, rows, lora))
    }

    /// The input of each block, then the output of the last: L + 1 tensors (N × D), detached from the graph. Only one
    /// block's activations are in memory at a time.
    pub fn checkpoints(&self, rows: &Rows, lora: Option<&Lora>) -> Result<Vec<Tensor>> {
        let mut all = vec![self.embed(rows)?.detach()];
        for layer in 0..self.config.num_hidden_layers {
            let next = self.block(layer, &all[layer], rows, lora)?.detach();
            all.push(next);
        }
        Ok(all)
    }

    /// Natural-log probabilities under softmax(logits / temperature) of `targets` (M ids), where `positions` (M) are
    /// the rows of `hidden` (before the final norm) that predict them. Also the entropy of each of those distributions.
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

/// One layer's operators in one forward pass.
struct TrainOps<'a> {
    operators: Operators,
    layer: usize,
    rows: &'a Rows,
    lora: Option<&'a Lora>,
}

impl BlockOps for TrainOps<'_> {
    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
        self.operators.rms_norm(x, weight, eps)
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.operators.swiglu(gate, up)
    }

    fn rope(&self, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = &self.rows.angles;
        self.operators.rope(x, cos, sin)
    }

    fn project(&self, x: &Tensor, Linear { weight, bias }: &Linear, module: Module) -> Result<Tensor> {
        let delta = self.lora.and_then(|lora| lora.delta(self.layer, module));
        self.operators.linear(x, weight, bias.as_ref(), delta)
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor> {
        self.rows.attention.apply(q, k, v, window)
    }
}
