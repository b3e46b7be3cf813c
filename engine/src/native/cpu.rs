//! The native engine's model on a CPU: one forward pass over a batch of tokens from many sequences, by our own kernels.

mod bf16;

use std::sync::Arc;

use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;

use super::cache::{Block, Layout};
use super::compute::{Compute, Piece as Pieced, Want, wanted};
use super::live_adapter::LiveAdapter;
use crate::decoder::{DecoderConfig, LayerWeights, Linear, Module, Rope, Weights};
use crate::kernels::{self, LANES, Split};
use crate::{EngineError, Precision};
use bf16::Bf16Matrix;
pub use bf16::is_supported as has_bf16;

type Piece<'a> = Pieced<'a, Block>;

/// Below so many parameters the weights stay in a CPU's caches: each thread then takes part of the sequences, and
/// none waits for another within a pass. Above, all threads share each product, so that weights are read once.
const SMALL: usize = 8_000_000;

/// The decoder; its weights are shared with whoever loaded them.
pub struct Model {
    config: DecoderConfig,
    weights: Weights,
    /// The same in bf16, where products are computed so.
    rounded: Option<Rounded>,
    layout: Layout,
    rope: Rope,
    /// cos and sin of the rotary angles (positions × head_dim/2), for as many positions as there were so far.
    angles: (Vec<f32>, Vec<f32>),
    pool: rayon::ThreadPool,
    split: Split,
    /// One for each thread, or for all.
    workspaces: Vec<Workspace>,
}

/// The matrices of a model in bf16.
struct Rounded {
    layers: Vec<[Bf16Matrix; Module::COUNT]>,
    lm_head: Bf16Matrix,
}

impl Rounded {
    /// `None` where the CPU cannot multiply bf16.
    fn new(weights: &Weights) -> Option<Self> {
        let round = |weight: &Tensor| read(weight, |values| Bf16Matrix::new(values, weight.dims()[1]));
        let layers = weights.layers.iter().map(|layer| {
            let [q, k, v, o, gate, up, down] = Module::ALL.map(|module| round(&layer.linear(module).weight));
            Some([q?, k?, v?, o?, gate?, up?, down?])
        });
        Some(Self { layers: layers.collect::<Option<_>>()?, lm_head: round(&weights.lm_head)? })
    }
}

impl Model {
    /// How the work is split over threads where that is to be fast.
    pub fn best_split(config: &DecoderConfig) -> Split {
        if config.parameters() < SMALL { Split::Alone } else { Split::Threads }
    }

    /// `split` says whether each thread computes part of the sequences or all share each product; both give the same bits.
    ///
    /// # Errors
    /// If the weights are not f32 in main memory, or the head's width is not a multiple of 16.
    pub fn new(
        config: DecoderConfig,
        weights: Weights,
        threads: usize,
        split: Split,
        precision: Precision,
    ) -> Result<Self, EngineError> {
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
        let shares = if split == Split::Alone { threads.max(1) } else { 1 };
        Ok(Self {
            layout: Layout::of(&config),
            rope: config.rope(),
            angles: (Vec::new(), Vec::new()),
            workspaces: (0..shares).map(|_| Workspace::default()).collect(),
            config,
            rounded: (precision == Precision::Bf16).then(|| Rounded::new(&weights)).flatten(),
            weights,
            pool,
            split,
        })
    }

    fn grow_angles(&mut self, positions: usize) {
        if positions * self.config.head_dim / 2 > self.angles.0.len() {
            self.angles = self.rope.tables(positions.next_power_of_two());
        }
    }
}

impl Compute for Model {
    type Store = Layout;

    const PREFILL_TOKENS: usize = 256;

    fn forward(&mut self, pieces: Vec<Piece>, adapter: &LiveAdapter) -> candle_core::Result<()> {
        self.grow_angles(pieces.iter().map(|piece| piece.start + piece.tokens.len()).max().unwrap_or(0));
        let shares = deal(pieces, self.workspaces.len());
        let split = self.split;
        let mut workspaces = std::mem::take(&mut self.workspaces);
        let pass = |(pieces, workspace): (Vec<Piece>, &mut Workspace)| {
            Pass { model: self, adapter, split, n: 0, rows: Vec::new(), pieces, w: workspace }.run();
        };
        self.pool.install(|| match split {
            Split::Alone => shares.into_par_iter().zip(workspaces.par_iter_mut()).for_each(pass),
            Split::Threads => shares.into_iter().zip(&mut workspaces).for_each(pass),
        });
        self.workspaces = workspaces;
        Ok(())
    }

    /// The cache takes main memory as it needs it, and keeps it.
    fn suspend(&mut self) {}

    fn resume(&mut self) -> candle_core::Result<()> {
        Ok(())
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
    scratch: Scratch,
    cos: Vec<f32>,
    sin: Vec<f32>,
    logits: Vec<f32>,
}

/// A pass of one share of the pieces.
struct Pass<'a, 'p> {
    model: &'a Model,
    adapter: &'a LiveAdapter,
    split: Split,
    /// Rows, padded to a multiple of [`LANES`].
    n: usize,
    /// For each row its piece and its position.
    rows: Vec<(usize, usize)>,
    pieces: Vec<Piece<'p>>,
    w: &'a mut Workspace,
}

impl<'a> Pass<'a, '_> {
    fn products(&self, layer: usize) -> Products<'a> {
        Products { model: self.model, adapter: self.adapter, layer, n: self.n, split: self.split }
    }
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
        for (out, table) in [(&mut self.w.cos, &self.model.angles.0), (&mut self.w.sin, &self.model.angles.1)] {
            reset(out, half * n);
            for (row, &(_, position)) in self.rows.iter().enumerate() {
                scatter(out, &table[position * half..][..half], row, n);
            }
        }
    }

    fn attention(&mut self, index: usize, layer: &LayerWeights) {
        let config = &self.model.config;
        let (n, eps, d) = (self.n, config.rms_norm_eps as f32, config.head_dim);
        let products = self.products(index);
        let w = &mut *self.w;
        reset(&mut w.normed, w.x.len());
        read(&layer.input_layernorm, |weight| kernels::rms_norm(&mut w.normed, &w.x, weight, eps, n));
        for (out, module) in [(&mut w.q, Module::Q), (&mut w.k, Module::K), (&mut w.v, Module::V)] {
            reset(out, config.linear_shape(module).1 * n);
            products.apply(module, out, &w.normed, &mut w.scratch, false);
        }
        for (x, norm) in [(&mut w.q, &layer.q_norm), (&mut w.k, &layer.k_norm)] {
            if let Some(norm) = norm {
                reset(&mut w.normed, x.len());
                let heads = w.normed.chunks_exact_mut(d * n).zip(x.chunks_exact(d * n));
                read(norm, |weight| heads.for_each(|(out, x)| kernels::rms_norm(out, x, weight, eps, n)));
                std::mem::swap(x, &mut w.normed);
            }
        }
        kernels::rope(&mut w.q, &w.cos, &w.sin);
        kernels::rope(&mut w.k, &w.cos, &w.sin);
        w.q.iter_mut().for_each(|x| *x *= 1.0 / (d as f32).sqrt());
        self.store(index);
        self.attend(index);
        let w = &mut *self.w;
        products.apply(Module::O, &mut w.x, &w.mixed, &mut w.scratch, true);
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
        let products = self.products(index);
        let w = &mut *self.w;
        reset(&mut w.normed, w.x.len());
        read(&layer.post_attention_layernorm, |weight| kernels::rms_norm(&mut w.normed, &w.x, weight, eps, n));
        let inner = self.model.config.intermediate_size * n;
        reset(&mut w.gate, inner);
        reset(&mut w.up, inner);
        products.apply(Module::Gate, &mut w.gate, &w.normed, &mut w.scratch, false);
        products.apply(Module::Up, &mut w.up, &w.normed, &mut w.scratch, false);
        kernels::swiglu(&mut w.gate, &w.up, split);
        products.apply(Module::Down, &mut w.x, &w.gate, &mut w.scratch, true);
    }

    /// The head, for the rows whose logits are wanted only.
    fn answer(&mut self) {
        let (config, n) = (&self.model.config, self.n);
        let d = config.hidden_size;
        let wanted = wanted(&mut self.pieces);
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
        let Model { weights: Weights { lm_head, .. }, rounded, .. } = self.model;
        let rounded = rounded.as_ref().map(|rounded| &rounded.lm_head);
        multiply(&mut w.logits, lm_head, rounded, &w.normed, &mut w.scratch.packed, m, false, self.split);
        let logits = &w.logits;
        let give = |(column, (_, want)): (usize, (usize, &mut Want))| match want {
            Want::Nothing => {}
            Want::Logits(out) => {
                reset(out, config.vocab_size);
                gather(out, logits, column, m);
            }
            Want::Sample(sampler, out) => **out = sampler.sample_column(logits, column, m),
        };
        match self.split {
            Split::Alone => wanted.into_iter().enumerate().for_each(give),
            Split::Threads => wanted.into_par_iter().enumerate().for_each(give),
        }
    }
}

/// What products need beside their input and output.
#[derive(Default)]
struct Scratch {
    /// A·x of an adapter.
    low: Vec<f32>,
    /// x in bf16.
    packed: Vec<u32>,
}

/// The linear layers of one block in one pass.
#[derive(Clone, Copy)]
struct Products<'a> {
    model: &'a Model,
    adapter: &'a LiveAdapter,
    layer: usize,
    n: usize,
    split: Split,
}

impl Products<'_> {
    /// `out` = W·x + b + B·(A·x), or `+=` with `add`; the last part where an adapter covers the layer.
    fn apply(self, module: Module, out: &mut [f32], x: &[f32], scratch: &mut Scratch, add: bool) {
        let Self { model, adapter, layer, n, split } = self;
        let Linear { weight, bias } = model.weights.layers[layer].linear(module);
        let rounded = model.rounded.as_ref().map(|rounded| &rounded.layers[layer][module as usize]);
        multiply(out, weight, rounded, x, &mut scratch.packed, n, add, split);
        if let Some(bias) = bias {
            read(bias, |bias| kernels::add_bias(out, bias, n));
        }
        if let Some(update) = adapter.update(layer, module) {
            reset(&mut scratch.low, update.rank() * n);
            read(&update.a, |a| kernels::matmul(&mut scratch.low, a, x, n, false, Split::Alone));
            read(&update.b, |b| kernels::matmul(out, b, &scratch.low, n, true, split));
        }
    }
}

/// `out` = weight · x, or `+=` with `add`; in bf16 where there are rounded weights.
#[expect(clippy::too_many_arguments, reason = "a matrix product with its scratch memory")]
fn multiply(
    out: &mut [f32],
    weight: &Tensor,
    rounded: Option<&Bf16Matrix>,
    x: &[f32],
    packed: &mut Vec<u32>,
    n: usize,
    add: bool,
    split: Split,
) {
    match rounded {
        Some(matrix) => matrix.multiply(out, x, packed, n, add, split),
        None => read(weight, |weight| kernels::matmul(out, weight, x, n, add, split)),
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

/// The tensor's values; [`Model::new`] and [`LiveAdapter::new`] have seen to it that they are f32 in main memory.
fn read<T>(tensor: &Tensor, with: impl FnOnce(&[f32]) -> T) -> T {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { unreachable!("checked when the model was made") };
    let values = storage.as_slice::<f32>().expect("checked when the model was made");
    with(&values[layout.start_offset()..][..tensor.elem_count()])
}
