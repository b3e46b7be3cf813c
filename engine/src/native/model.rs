//! One forward pass over a batch of tokens from many sequences.

use std::sync::Arc;

use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;

use super::cache::{Block, Layout};
use super::kernels::{self, LANES, Split};
use super::lora::{Delta, Lora, Module};
use crate::EngineError;
use crate::decoder::{DecoderConfig, LayerWeights, Weights};
use crate::sampler::Sampler;

/// Below so many parameters the weights stay in a CPU's caches: each thread then takes part of the sequences, and
/// none waits for another within a pass. Above, all threads share each product, so that weights are read once.
const SMALL: usize = 8_000_000;

/// The decoder; its weights are shared with whoever loaded them.
pub struct Model {
    config: DecoderConfig,
    weights: Weights,
    layout: Layout,
    /// cos and sin of the rotary angles, position by position (positions × head_dim/2).
    rope: (Vec<f32>, Vec<f32>),
    pool: rayon::ThreadPool,
    workspaces: Vec<Workspace>,
}

/// Consecutive tokens of one sequence that are computed now; the cache holds all tokens before them.
pub struct Piece<'a> {
    pub tokens: &'a [u32],
    /// Position of the first of `tokens`.
    pub start: usize,
    /// The sequence's blocks, up to the last of `tokens`; those that are written are held by nobody else.
    pub blocks: &'a mut [Arc<Block>],
    pub want: Want<'a>,
}

/// What is wanted of the logits behind a piece's last token.
pub enum Want<'a> {
    Nothing,
    Logits(&'a mut Vec<f32>),
    /// The next token and its log-probability.
    Sample(&'a mut Sampler, &'a mut (u32, f32)),
}

impl Model {
    /// # Errors
    /// If the weights are not f32 in main memory, or the head's width is not a multiple of 16.
    pub fn new(config: DecoderConfig, weights: Weights, threads: usize) -> Result<Self, EngineError> {
        if !config.head_dim.is_multiple_of(LANES) {
            let problem = format!(
                "head_dim {}: the native engine needs a multiple of {LANES}; use engine.kind = \"mistralrs\"",
                config.head_dim
            );
            return Err(EngineError::Model { path: "config.json".into(), problem });
        }
        for (name, tensor) in weights.named(&config) {
            if tensor.dtype() != DType::F32 || !matches!(tensor.device(), Device::Cpu) || !tensor.is_contiguous() {
                let problem = "the native engine computes in f32 on a CPU".to_string();
                return Err(EngineError::Model { path: name.into(), problem });
            }
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1));
        let pool = pool.thread_name(|index| format!("native-{index}")).build();
        let pool = pool.map_err(|e| EngineError::Generate(e.to_string()))?;
        let shares = if config.parameters() < SMALL { threads.max(1) } else { 1 };
        Ok(Self {
            layout: Layout::of(&config),
            rope: config.rope_tables(),
            workspaces: (0..shares).map(|_| Workspace::default()).collect(),
            config,
            weights,
            pool,
        })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Computes all pieces: writes their keys and values into their blocks and gives each what it wants.
    pub fn forward(&mut self, pieces: Vec<Piece>, lora: &Lora) {
        let shares = deal(pieces, self.workspaces.len());
        let split = if self.workspaces.len() > 1 { Split::Alone } else { Split::Threads };
        let mut workspaces = std::mem::take(&mut self.workspaces);
        let pass = |(pieces, workspace): (Vec<Piece>, &mut Workspace)| {
            Pass { model: self, lora, split, n: 0, rows: Vec::new(), pieces, w: workspace }.run();
        };
        self.pool.install(|| match split {
            Split::Alone => shares.into_par_iter().zip(workspaces.par_iter_mut()).for_each(pass),
            Split::Threads => shares.into_iter().zip(&mut workspaces).for_each(pass),
        });
        self.workspaces = workspaces;
    }
}

/// Deals the pieces out so that every share has about as many tokens.
fn deal(pieces: Vec<Piece>, shares: usize) -> Vec<Vec<Piece>> {
    let mut dealt: Vec<(usize, Vec<Piece>)> = (0..shares).map(|_| (0, Vec::new())).collect();
    for piece in pieces {
        let share = dealt.iter_mut().min_by_key(|share| share.0).expect("there is at least one share");
        share.0 += piece.tokens.len();
        share.1.push(piece);
    }
    dealt.into_iter().map(|share| share.1).filter(|pieces| !pieces.is_empty()).collect()
}

/// Activations (features × rows), kept from pass to pass so that none allocates.
#[derive(Default)]
struct Workspace {
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    low: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    logits: Vec<f32>,
}

/// A pass of one share of the pieces.
struct Pass<'a, 'p> {
    model: &'a Model,
    lora: &'a Lora,
    split: Split,
    /// Rows, padded to a multiple of [`LANES`].
    n: usize,
    /// For each row its piece and its position.
    rows: Vec<(usize, usize)>,
    pieces: Vec<Piece<'p>>,
    w: &'a mut Workspace,
}

impl Pass<'_, '_> {
    fn run(mut self) {
        let positions = |(index, piece): (usize, &Piece)| {
            (piece.start..piece.start + piece.tokens.len()).map(move |position| (index, position)).collect::<Vec<_>>()
        };
        self.rows = self.pieces.iter().enumerate().flat_map(positions).collect();
        self.n = self.rows.len().next_multiple_of(LANES);
        self.embed();
        for (index, layer) in self.model.weights.layers.iter().enumerate() {
            self.attention(index, layer);
            self.mlp(index, layer);
        }
        self.answer();
    }

    fn embed(&mut self) {
        let (d, n, half) = (self.model.config.hidden_size, self.n, self.model.config.head_dim / 2);
        let tokens = self.pieces.iter().flat_map(|piece| piece.tokens);
        reset(&mut self.w.x, d * n);
        self.w.x.fill(0.0);
        read(&self.model.weights.embed_tokens, |embeddings| {
            for (row, &token) in tokens.enumerate() {
                scatter(&mut self.w.x, &embeddings[token as usize * d..][..d], row, n);
            }
        });
        for (out, table) in [(&mut self.w.cos, &self.model.rope.0), (&mut self.w.sin, &self.model.rope.1)] {
            reset(out, half * n);
            for (row, &(_, position)) in self.rows.iter().enumerate() {
                scatter(out, &table[position * half..][..half], row, n);
            }
        }
    }

    fn attention(&mut self, index: usize, layer: &LayerWeights) {
        let config = &self.model.config;
        let (n, eps, d) = (self.n, config.rms_norm_eps as f32, config.head_dim);
        let (lora, split) = (self.lora, self.split);
        let linear = |weight, module| Linear { weight, delta: lora.delta(index, module), n, split };
        let w = &mut *self.w;
        reset(&mut w.normed, w.x.len());
        read(&layer.input_layernorm, |weight| kernels::rms_norm(&mut w.normed, &w.x, weight, eps, n));
        for (out, weight, module) in [
            (&mut w.q, &layer.q_proj, Module::Q),
            (&mut w.k, &layer.k_proj, Module::K),
            (&mut w.v, &layer.v_proj, Module::V),
        ] {
            reset(out, weight.dims()[0] * n);
            linear(weight, module).apply(out, &w.normed, &mut w.low, false);
        }
        kernels::rope(&mut w.q, &w.cos, &w.sin);
        kernels::rope(&mut w.k, &w.cos, &w.sin);
        w.q.iter_mut().for_each(|x| *x *= 1.0 / (d as f32).sqrt());
        self.store(index);
        self.attend(index);
        let w = &mut *self.w;
        linear(&layer.o_proj, Module::O).apply(&mut w.x, &w.mixed, &mut w.low, true);
    }

    /// Writes the rows' keys and values into their blocks.
    fn store(&mut self, layer: usize) {
        let (layout, n, d) = (&self.model.layout, self.n, self.model.config.head_dim);
        for (row, &(piece, position)) in self.rows.iter().enumerate() {
            let block = Arc::get_mut(&mut self.pieces[piece].blocks[position / LANES]);
            let block = block.expect("a block that is written has one holder");
            let slot = position % LANES;
            for head in 0..layout.kv_heads {
                let source = |all: &[f32], i: usize| all[(head * d + i) * n + row];
                let keys = block.keys_mut(layout, layer, head);
                (0..d).for_each(|i| keys[i * LANES + slot] = source(&self.w.k, i));
                let values = &mut block.values_mut(layout, layer, head)[slot * d..][..d];
                values.iter_mut().enumerate().for_each(|(i, value)| *value = source(&self.w.v, i));
            }
        }
    }

    /// Each row attends to its sequence up to itself, head by head.
    fn attend(&mut self, layer: usize) {
        let (layout, n, d) = (&self.model.layout, self.n, self.model.config.head_dim);
        let heads = self.model.config.num_attention_heads;
        let (rows, pieces, q) = (&self.rows, &self.pieces, &self.w.q);
        let head = |(head, out): (usize, &mut [f32])| {
            let (mut query, mut mixed, mut scores) = (vec![0.0; d], vec![0.0; d], Vec::new());
            for (row, &(piece, position)) in rows.iter().enumerate() {
                gather(&mut query, &q[head * d * n..][..d * n], row, n);
                let kv_head = head * layout.kv_heads / heads;
                let seen = Seen { blocks: &*pieces[piece].blocks, tokens: position + 1, layout, layer, kv_head };
                kernels::attend(&mut mixed, &query, &seen, &mut scores);
                scatter(out, &mixed, row, n);
            }
        };
        reset(&mut self.w.mixed, heads * d * n);
        match self.split {
            Split::Alone => self.w.mixed.chunks_exact_mut(d * n).enumerate().for_each(head),
            Split::Threads => self.w.mixed.par_chunks_exact_mut(d * n).enumerate().for_each(head),
        }
    }

    fn mlp(&mut self, index: usize, layer: &LayerWeights) {
        let (n, split, eps) = (self.n, self.split, self.model.config.rms_norm_eps as f32);
        let linear = |weight, module| Linear { weight, delta: self.lora.delta(index, module), n, split };
        let w = &mut *self.w;
        read(&layer.post_attention_layernorm, |weight| kernels::rms_norm(&mut w.normed, &w.x, weight, eps, n));
        let inner = layer.gate_proj.dims()[0] * n;
        reset(&mut w.gate, inner);
        reset(&mut w.up, inner);
        linear(&layer.gate_proj, Module::Gate).apply(&mut w.gate, &w.normed, &mut w.low, false);
        linear(&layer.up_proj, Module::Up).apply(&mut w.up, &w.normed, &mut w.low, false);
        kernels::swiglu(&mut w.gate, &w.up, split);
        linear(&layer.down_proj, Module::Down).apply(&mut w.x, &w.gate, &mut w.low, true);
    }

    /// The head, for the rows whose logits are wanted only.
    fn answer(&mut self) {
        let (config, n) = (&self.model.config, self.n);
        let d = config.hidden_size;
        let (mut wanted, mut end): (Vec<(usize, &mut Want)>, usize) = (Vec::new(), 0);
        for piece in &mut self.pieces {
            end += piece.tokens.len();
            if !matches!(piece.want, Want::Nothing) {
                wanted.push((end - 1, &mut piece.want));
            }
        }
        if wanted.is_empty() {
            return;
        }
        let w = &mut *self.w;
        let m = wanted.len().next_multiple_of(LANES);
        reset(&mut w.q, d * m);
        for (feature, out) in w.q.chunks_exact_mut(m).enumerate() {
            out.iter_mut().zip(&wanted).for_each(|(out, (row, _))| *out = w.x[feature * n + row]);
        }
        reset(&mut w.normed, d * m);
        let norm = &self.model.weights.norm;
        read(norm, |weight| kernels::rms_norm(&mut w.normed, &w.q, weight, config.rms_norm_eps as f32, m));
        reset(&mut w.logits, config.vocab_size * m);
        let lm_head = &self.model.weights.lm_head;
        read(lm_head, |weight| kernels::matmul(&mut w.logits, weight, &w.normed, m, false, self.split));
        let logits = &w.logits;
        let give = |(column, (_, want)): (usize, (usize, &mut Want))| {
            let mut row = vec![0.0; config.vocab_size];
            gather(&mut row, logits, column, m);
            match want {
                Want::Nothing => {}
                Want::Logits(out) => **out = row,
                Want::Sample(sampler, out) => **out = sampler.sample(&row),
            }
        };
        match self.split {
            Split::Alone => wanted.into_iter().enumerate().for_each(give),
            Split::Threads => wanted.into_par_iter().enumerate().for_each(give),
        }
    }
}

/// W·x + B·(A·x), the second part where an adapter covers the layer.
struct Linear<'a> {
    weight: &'a Tensor,
    delta: Option<&'a Delta>,
    n: usize,
    split: Split,
}

impl Linear<'_> {
    fn apply(self, out: &mut [f32], x: &[f32], low: &mut Vec<f32>, add: bool) {
        let Self { weight, delta, n, split } = self;
        read(weight, |weight| kernels::matmul(out, weight, x, n, add, split));
        if let Some(Delta { a, b, rank }) = delta {
            reset(low, rank * n);
            kernels::matmul(low, a, x, n, false, Split::Alone);
            kernels::matmul(out, b, low, n, true, split);
        }
    }
}

/// What a row sees in one layer and head.
struct Seen<'a> {
    blocks: &'a [Arc<Block>],
    tokens: usize,
    layout: &'a Layout,
    layer: usize,
    kv_head: usize,
}

impl kernels::Context for Seen<'_> {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn keys(&self, block: usize) -> &[f32] {
        self.blocks[block].keys(self.layout, self.layer, self.kv_head)
    }

    fn values(&self, block: usize) -> &[f32] {
        self.blocks[block].values(self.layout, self.layer, self.kv_head)
    }
}

/// Makes `buffer` hold `len` values, whatever they are.
fn reset(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}

/// Writes `row` as one column of `out` (features × n).
fn scatter(out: &mut [f32], row: &[f32], column: usize, n: usize) {
    out.iter_mut().skip(column).step_by(n).zip(row).for_each(|(out, value)| *out = *value);
}

/// Reads one column of `all` (features × n).
fn gather(row: &mut [f32], all: &[f32], column: usize, n: usize) {
    row.iter_mut().zip(all.iter().skip(column).step_by(n)).for_each(|(out, value)| *out = *value);
}

/// The tensor's values; [`Model::new`] has checked that they are f32 in main memory.
fn read<T>(tensor: &Tensor, with: impl FnOnce(&[f32]) -> T) -> T {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { unreachable!("checked when the model was made") };
    let values = storage.as_slice::<f32>().expect("checked when the model was made");
    with(&values[layout.start_offset()..][..tensor.elem_count()])
}
