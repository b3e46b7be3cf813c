//! The native engine's model on a CPU: a forward pass over chunks of many sequences by our own kernels.
//!
//! - `parameters.rs` what a pass reads · `pass.rs` the pass · `products.rs` products with weights and adapter
//! - `bf16.rs` products in bf16 · `buffers.rs` access to tensors and buffers

mod bf16;
mod buffers;
mod parameters;
mod pass;
mod products;

use candle_core::{DType, Device};
use rayon::prelude::*;

use super::cache::BlockLayout;
use super::compute::Compute;
use super::live_adapter::LiveAdapter;
use crate::decoder::{DecoderConfig, Rope, Weights};
use crate::kernels::{LANES, Split};
use crate::{EngineError, Precision};
pub use bf16::is_supported as has_bf16;
use parameters::{Parameters, Rounded};
use pass::{CpuChunk, Pass, Workspace};

/// Below this number of parameters the weights stay in a CPU's caches. Each thread then computes some of the sequences,
/// and does not wait for the others during a pass. Above it all threads share each product, so that weights are read
/// once.
const SMALL: usize = 8_000_000;

/// The decoder; its weights are shared with the caller that loaded them.
pub struct CpuModel {
    parameters: Parameters,
    rope: Rope,
    /// cos and sin of the rotary angles (positions × head_dim/2), for the positions used so far.
    angles: (Vec<f32>, Vec<f32>),
    pool: rayon::ThreadPool,
    split: Split,
    /// One per thread, or one for all.
    workspaces: Vec<Workspace>,
}

impl CpuModel {
    /// The fastest split of the work over threads.
    pub fn best_split(config: &DecoderConfig) -> Split {
        if config.parameters() < SMALL { Split::Alone } else { Split::Threads }
    }

    /// `split` says whether each thread computes some of the sequences, or all threads share each product. Both give
    /// the same bits.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the weights are not f32 in main memory, or the head's width is not a multiple of
    /// [`LANES`];
    /// [`EngineError::Start`] if the threads do not start.
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
        let pool = pool.map_err(|e| EngineError::Start(e.to_string()))?;
        let shares = if split == Split::Alone { threads.max(1) } else { 1 };
        Ok(Self {
            rope: config.rope(),
            angles: (Vec::new(), Vec::new()),
            workspaces: (0..shares).map(|_| Workspace::default()).collect(),
            parameters: Parameters {
                layout: BlockLayout::of(&config),
                config,
                rounded: (precision == Precision::Bf16).then(|| Rounded::new(&weights)).flatten(),
                weights,
            },
            pool,
            split,
        })
    }

    fn grow_angles(&mut self, positions: usize) {
        if positions * self.parameters.config.head_dim / 2 > self.angles.0.len() {
            self.angles = self.rope.tables(positions.next_power_of_two());
        }
    }
}

impl Compute for CpuModel {
    type Store = BlockLayout;

    const PREFILL_TOKENS: usize = 256;

    fn forward(&mut self, chunks: Vec<CpuChunk>, adapter: &LiveAdapter) -> candle_core::Result<()> {
        self.grow_angles(chunks.iter().map(|chunk| chunk.start + chunk.tokens.len()).max().unwrap_or(0));
        let shares = deal(chunks, self.workspaces.len());
        let split = self.split;
        let mut workspaces = std::mem::take(&mut self.workspaces);
        let pass = |(chunks, workspace): (Vec<CpuChunk>, &mut Workspace)| {
            Pass::new(&self.parameters, &self.angles, adapter, split, chunks, workspace).run();
        };
        self.pool.install(|| match split {
            Split::Alone => shares.into_par_iter().zip(workspaces.par_iter_mut()).for_each(pass),
            Split::Threads => shares.into_iter().zip(&mut workspaces).for_each(pass),
        });
        self.workspaces = workspaces;
        Ok(())
    }

    /// The cache allocates main memory as needed, and keeps it.
    fn suspend(&mut self) {}

    fn resume(&mut self) -> candle_core::Result<()> {
        Ok(())
    }
}

/// Divides the chunks into shares of about equally many tokens.
fn deal(chunks: Vec<CpuChunk>, shares: usize) -> Vec<Vec<CpuChunk>> {
    let mut dealt: Vec<(usize, Vec<CpuChunk>)> = (0..shares).map(|_| (0, Vec::new())).collect();
    for chunk in chunks {
        let share = dealt.iter_mut().min_by_key(|share| share.0).expect("there is at least one share");
        share.0 += chunk.tokens.len();
        share.1.push(chunk);
    }
    dealt.into_iter().map(|share| share.1).filter(|chunks| !chunks.is_empty()).collect()
}
