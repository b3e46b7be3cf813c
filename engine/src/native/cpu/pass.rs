//! One forward pass over chunks of many sequences.

use std::sync::Arc;

use rayon::prelude::*;

use super::buffers::{gather, read, reset, scatter};
use super::parameters::Parameters;
use super::products::{Products, Scratch, multiply};
use crate::decoder::{LayerWeights, Module, Weights, first_seen};
use crate::kernels::{self, LANES, Split};
use crate::native::cache::{BLOCK_TOKENS, BlockLayout, HostBlock};
use crate::native::compute::{ChunkOutput, SequenceChunk, requested};
use crate::native::live_adapter::LiveAdapter;

// The attention kernel reads a cache block as one tile of `LANES` tokens.
const _: () = assert!(BLOCK_TOKENS == LANES);

pub type CpuChunk<'a> = SequenceChunk<'a, HostBlock>;

/// Activations (features × rows), reused by every pass so that no pass allocates.
#[derive(Default)]
pub struct Workspace {
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

/// A forward pass over some of the chunks.
pub struct Pass<'a, 'p> {
    parameters: &'a Parameters,
    /// cos and sin of the rotary angles (positions × head_dim/2).
    angles: &'a (Vec<f32>, Vec<f32>),
    adapter: &'a LiveAdapter,
    split: Split,
    /// Rows, padded to a multiple of [`LANES`].
    n: usize,
    /// The chunk and the position of each row.
    rows: Vec<(usize, usize)>,
    chunks: Vec<CpuChunk<'p>>,
    w: &'a mut Workspace,
}

impl<'a, 'p> Pass<'a, 'p> {
    pub fn new(
        parameters: &'a Parameters,
        angles: &'a (Vec<f32>, Vec<f32>),
        adapter: &'a LiveAdapter,
        split: Split,
        chunks: Vec<CpuChunk<'p>>,
        w: &'a mut Workspace,
    ) -> Self {
        let positions = |(index, chunk): (usize, &CpuChunk)| {
            (chunk.start..chunk.start + chunk.tokens.len()).map(move |position| (index, position)).collect::<Vec<_>>()
        };
        let rows: Vec<(usize, usize)> = chunks.iter().enumerate().flat_map(positions).collect();
        let n = rows.len().next_multiple_of(LANES);
        Self { parameters, angles, adapter, split, n, rows, chunks, w }
    }

    fn products(&self, layer: usize) -> Products<'a> {
        Products { parameters: self.parameters, adapter: self.adapter, layer, n: self.n, split: self.split }
    }
}

impl Pass<'_, '_> {
    /// Computes the chunks.
    pub fn run(mut self) {
        self.embed();
        for (index, layer) in self.parameters.weights.layers.iter().enumerate() {
            self.attention(index, layer);
            self.mlp(index, layer);
        }
        self.answer();
    }

    fn embed(&mut self) {
        let (d, n, half) = (self.parameters.config.hidden_size, self.n, self.parameters.config.head_dim / 2);
        let tokens = self.chunks.iter().flat_map(|chunk| chunk.tokens);
        reset(&mut self.w.x, d * n);
        self.w.x.fill(0.0);
        read(&self.parameters.weights.embed_tokens, |embeddings| {
            for (row, &token) in tokens.enumerate() {
                scatter(&mut self.w.x, &embeddings[token as usize * d..][..d], row, n);
            }
        });
        for (out, table) in [(&mut self.w.cos, &self.angles.0), (&mut self.w.sin, &self.angles.1)] {
            reset(out, half * n);
            for (row, &(_, position)) in self.rows.iter().enumerate() {
                scatter(out, &table[position * half..][..half], row, n);
            }
        }
    }

    fn attention(&mut self, index: usize, layer: &LayerWeights) {
        let config = &self.parameters.config;
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

    /// Writes the rows' keys and values to their blocks.
    fn store(&mut self, layer: usize) {
        let (layout, n, d) = (&self.parameters.layout, self.n, self.parameters.config.head_dim);
        for (row, &(chunk, position)) in self.rows.iter().enumerate() {
            let block = Arc::get_mut(&mut self.chunks[chunk].blocks[position / BLOCK_TOKENS]);
            let block = block.expect("a block that is written has one holder");
            let slot = position % BLOCK_TOKENS;
            for head in 0..layout.kv_heads {
                let source = |all: &[f32], i: usize| all[(head * d + i) * n + row];
                let keys = block.keys_mut(layout, layer, head);
                (0..d).for_each(|i| keys[i * BLOCK_TOKENS + slot] = source(&self.w.k, i));
                let values = &mut block.values_mut(layout, layer, head)[slot * d..][..d];
                values.iter_mut().enumerate().for_each(|(i, value)| *value = source(&self.w.v, i));
            }
        }
    }

    /// Each row attends to its sequence up to its own token, or to the layer's window of it, head by head.
    fn attend(&mut self, layer: usize) {
        let (layout, n, d) = (&self.parameters.layout, self.n, self.parameters.config.head_dim);
        let (heads, window) = (self.parameters.config.num_attention_heads, self.parameters.config.window(layer));
        let (rows, chunks, q) = (&self.rows, &self.chunks, &self.w.q);
        let head = |(head, out): (usize, &mut [f32])| {
            let (mut query, mut mixed, mut scores) = (vec![0.0; d], vec![0.0; d], Vec::new());
            for (row, &(chunk, position)) in rows.iter().enumerate() {
                gather(&mut query, &q[head * d * n..][..d * n], row, n);
                let kv_head = head * layout.kv_heads / heads;
                let (first, end) = (first_seen(position, window), position + 1);
                let context = BlockContext { blocks: &*chunks[chunk].blocks, first, end, layout, layer, kv_head };
                kernels::attend(&mut mixed, &query, &context, &mut scores);
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
        let (n, split, eps) = (self.n, self.split, self.parameters.config.rms_norm_eps as f32);
        let products = self.products(index);
        let w = &mut *self.w;
        reset(&mut w.normed, w.x.len());
        read(&layer.post_attention_layernorm, |weight| kernels::rms_norm(&mut w.normed, &w.x, weight, eps, n));
        let inner = self.parameters.config.intermediate_size * n;
        reset(&mut w.gate, inner);
        reset(&mut w.up, inner);
        products.apply(Module::Gate, &mut w.gate, &w.normed, &mut w.scratch, false);
        products.apply(Module::Up, &mut w.up, &w.normed, &mut w.scratch, false);
        kernels::swiglu(&mut w.gate, &w.up, split);
        products.apply(Module::Down, &mut w.x, &w.gate, &mut w.scratch, true);
    }

    /// Computes the head for the rows whose logits are needed, and fills the chunks' outputs.
    fn answer(&mut self) {
        let (config, n) = (&self.parameters.config, self.n);
        let d = config.hidden_size;
        let requested = requested(&mut self.chunks);
        if requested.is_empty() {
            return;
        }
        let w = &mut *self.w;
        let m = requested.len().next_multiple_of(LANES);
        reset(&mut w.q, d * m);
        for (feature, out) in w.q.chunks_exact_mut(m).enumerate() {
            out.iter_mut().zip(&requested).for_each(|(out, (row, _))| *out = w.x[feature * n + row]);
        }
        reset(&mut w.normed, d * m);
        let norm = &self.parameters.weights.norm;
        read(norm, |weight| kernels::rms_norm(&mut w.normed, &w.q, weight, config.rms_norm_eps as f32, m));
        reset(&mut w.logits, config.vocab_size * m);
        let Parameters { weights: Weights { lm_head, .. }, rounded, .. } = self.parameters;
        let rounded = rounded.as_ref().map(|rounded| &rounded.lm_head);
        multiply(&mut w.logits, lm_head, rounded, &w.normed, &mut w.scratch.packed, m, false, self.split);
        let logits = &w.logits;
        let fill = |(column, (_, output)): (usize, (usize, &mut ChunkOutput))| match output {
            ChunkOutput::Nothing => {}
            ChunkOutput::Logits(out) => {
                reset(out, config.vocab_size);
                gather(out, logits, column, m);
            }
            ChunkOutput::Sample(sampler, out) => **out = sampler.sample_column(logits, column, m),
        };
        match self.split {
            Split::Alone => requested.into_iter().enumerate().for_each(fill),
            Split::Threads => requested.into_par_iter().enumerate().for_each(fill),
        }
    }
}

/// What a row attends to in one layer and head.
struct BlockContext<'a> {
    blocks: &'a [Arc<HostBlock>],
    first: usize,
    end: usize,
    layout: &'a BlockLayout,
    layer: usize,
    kv_head: usize,
}

impl kernels::Context for BlockContext<'_> {
    fn first(&self) -> usize {
        self.first
    }

    fn end(&self) -> usize {
        self.end
    }

    fn keys(&self, tile: usize) -> &[f32] {
        self.blocks[tile].keys(self.layout, self.layer, self.kv_head)
    }

    fn values(&self, tile: usize) -> &[f32] {
        self.blocks[tile].values(self.layout, self.layer, self.kv_head)
    }
}
