//! How much memory training takes, from sizes alone.

use std::sync::LazyLock;

use engine::decoder::{DecoderConfig, Module};

use super::ops::{LOGITS, PLAIN_LOGITS, SCORES};
use crate::config::trainer::Recompute;

/// The shape of a policy step's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub prompts: usize,
    pub group_size: usize,
    pub prompt_tokens: usize,
    /// Of each completion, or of the longest.
    pub new_tokens: usize,
    /// Of the shortest completion.
    pub fewest_tokens: usize,
}

/// How a step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// Micro-batches that are computed at a time.
    pub workers: usize,
    pub micro_batch_tokens: usize,
    pub recompute: Recompute,
    /// Whether candle's own operators run, as on a GPU.
    pub plain: bool,
    /// Bytes of a number of the frozen weights and of the activations.
    pub number: usize,
}

impl Batch {
    fn rows(&self) -> usize {
        self.prompts * (self.prompt_tokens + self.group_size * self.new_tokens)
    }
}

impl Training {
    /// How many micro-batches a batch is cut into.
    fn micro_batches(&self, batch: Batch) -> usize {
        batch.rows().div_ceil(self.micro_batch_tokens).next_multiple_of(self.workers)
    }

    /// Rows of the largest micro-batch: a sequence is never cut.
    fn rows(&self, batch: Batch) -> usize {
        let even = batch.rows().div_ceil(self.micro_batches(batch)) * 9 / 8;
        even.min(self.micro_batch_tokens).max(batch.prompt_tokens + batch.new_tokens).min(batch.rows())
    }

    /// Bytes of everything between the input of a micro-batch and its gradients, for all micro-batches that run at a time.
    pub fn activation_bytes(&self, model: &DecoderConfig, batch: Batch) -> usize {
        let rows = self.rows(batch);
        let largest = self.bytes_of(model, batch, rows);
        // A micro-batch of shorter completions may be one that is kept.
        let kept = of_machine() / 4 / (self.workers * kept_bytes(model, 1));
        match self.recompute {
            Recompute::Auto if !self.plain && batch.fewest_tokens < batch.new_tokens && kept < rows => {
                largest.max(self.bytes_of(model, batch, kept))
            }
            _ => largest,
        }
    }

    /// The same, of micro-batches of `rows` rows.
    fn bytes_of(&self, model: &DecoderConfig, batch: Batch, rows: usize) -> usize {
        let recomputes = match self.recompute {
            Recompute::Always => true,
            Recompute::Never => false,
            Recompute::Auto if self.plain => true,
            Recompute::Auto => recomputes(model, rows * self.workers),
        };
        let (stream, block) = (self.number * rows * model.hidden_size, self.number * block_numbers(model, rows));
        let (kept, block) = match recomputes {
            // The block's own, and their gradients.
            true => (model.num_hidden_layers * stream, 2 * block),
            false => (model.num_hidden_layers * block, block / 2),
        };
        // The head is done before the first block is gone back through.
        let most = match self.plain {
            true => (block + self.plain_block_bytes(model, batch, rows)).max(self.plain_head_bytes(model, rows)),
            // Hidden states of the completions, normed, and their derivatives; logits and what comes of them.
            false => block.max(4 * stream + 2 * 4 * LOGITS.min(rows * model.vocab_size)),
        };
        self.workers * (kept + most)
    }

    /// What candle's operators have in memory beside, at most, while a block is gone back through: five tensors in f32 of
    /// SwiGLU's width; or some scores as they come and three times in f32, and the gradients of keys and values.
    fn plain_block_bytes(&self, model: &DecoderConfig, batch: Batch, rows: usize) -> usize {
        let keys = batch.prompt_tokens + batch.new_tokens;
        let row = model.num_attention_heads * keys;
        let scores = row * (SCORES / row).clamp(1, batch.prompt_tokens.max(batch.new_tokens));
        let key_grads = 4 * 4 * rows * model.num_key_value_heads * model.head_dim;
        (5 * 4 * rows * model.intermediate_size).max((self.number + 3 * 4) * scores + key_grads)
    }

    /// The same of the head: some logits three times in f32, and once rounded; hidden states of the completions, normed,
    /// both derivatives, as they come and put together, and the gradients of the norm in f32.
    fn plain_head_bytes(&self, model: &DecoderConfig, rows: usize) -> usize {
        let logits = model.vocab_size * (PLAIN_LOGITS / model.vocab_size).clamp(1, rows);
        let rounded = if self.number < 4 { self.number } else { 0 };
        (3 * 4 + rounded) * logits + (6 * self.number + 7 * 4) * rows * model.hidden_size
    }
}

/// Whether blocks are computed again where the setting leaves it open: for `rows` rows at a time, those of all workers.
pub fn recomputes(model: &DecoderConfig, rows: usize) -> bool {
    kept_bytes(model, rows) > of_machine() / 4
}

/// Bytes of main memory that this process may use: the machine's, or its control group's where that is less; 8 GiB
/// where the system does not tell.
pub fn of_machine() -> usize {
    static BYTES: LazyLock<usize> = LazyLock::new(read_memory_limit);
    *BYTES
}

fn read_memory_limit() -> usize {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.split_whitespace().next()?.parse::<usize>().ok()? << 10)
    });
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min().unwrap_or(8 << 30)
}

/// Bytes of what one block keeps for its backward, for `rows` rows: the inputs of its operators in f32.
pub fn block_bytes(config: &DecoderConfig, rows: usize) -> usize {
    4 * block_numbers(config, rows)
}

fn block_numbers(config: &DecoderConfig, rows: usize) -> usize {
    let width = |module| config.linear_shape(module).1;
    let (d, q, kv, f) = (config.hidden_size, width(Module::Q), width(Module::K), config.intermediate_size);
    // Six of the residual stream's width; q, k before and after rotation, v and what attention gives; gate, up and their product.
    rows * (6 * d + 3 * q + 3 * kv + 3 * f)
}

/// Bytes of what all blocks keep, when none is computed again.
pub fn kept_bytes(config: &DecoderConfig, rows: usize) -> usize {
    config.num_hidden_layers * block_bytes(config, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence longer than `micro_batch_tokens` is not cut: what it really takes decides.
    #[test]
    fn the_longest_sequence_decides_whether_blocks_are_computed_again() {
        let model = crate::model::presets::find("smollm2-135m").expect("a preset");
        let limit = of_machine() / 4 / (2 * kept_bytes(&model, 1));
        let bytes = |recompute, tokens, fewest_tokens| {
            let training = Training { workers: 2, micro_batch_tokens: 512, recompute, plain: false, number: 4 };
            let batch = Batch { prompts: 2, group_size: 1, prompt_tokens: 16, new_tokens: tokens - 16, fewest_tokens };
            training.activation_bytes(&model, batch)
        };
        let (short, long) = (limit - 1, limit + 1);
        assert_eq!(bytes(Recompute::Auto, short, short - 16), bytes(Recompute::Never, short, short - 16));
        assert_eq!(bytes(Recompute::Auto, long, long - 16), bytes(Recompute::Always, long, long - 16));
        // Where lengths vary, a shorter batch takes more: it is kept.
        assert_eq!(bytes(Recompute::Auto, long, 1), bytes(Recompute::Never, limit, 1));
    }
}
