//! How much memory training takes, computed from sizes.

use std::sync::LazyLock;

use engine::decoder::{DecoderConfig, Module};

use super::ops::{FUSED_LOGITS, PLAIN_LOGITS, PLAIN_SCORES};
use crate::config::trainer::Recompute;

/// The shape of a policy step's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub prompts: usize,
    pub group_size: usize,
    pub prompt_tokens: usize,
    /// Length of the longest completion.
    pub new_tokens: usize,
    /// Length of the shortest completion.
    pub fewest_tokens: usize,
}

/// How a step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// How many micro-batches are computed at a time.
    pub workers: usize,
    pub micro_batch_tokens: usize,
    pub recompute: Recompute,
    /// Whether candle's operators run, as on a GPU, and not the fused ones.
    pub plain: bool,
    /// Bytes per number of the frozen weights and of the activations.
    pub number: usize,
}

impl Batch {
    fn rows(&self) -> usize {
        self.prompts * (self.prompt_tokens + self.group_size * self.new_tokens)
    }
}

impl Training {
    /// The number of micro-batches that a batch is cut into.
    fn micro_batches(&self, batch: Batch) -> usize {
        batch.rows().div_ceil(self.micro_batch_tokens).next_multiple_of(self.workers)
    }

    /// Rows of the largest micro-batch. A sequence is never cut, so this may exceed the budget.
    fn rows(&self, batch: Batch) -> usize {
        let even = batch.rows().div_ceil(self.micro_batches(batch)) * 9 / 8;
        even.min(self.micro_batch_tokens).max(batch.prompt_tokens + batch.new_tokens).min(batch.rows())
    }

    /// Bytes of everything between the input of a micro-batch and its gradients, for all micro-batches computed at a time.
    pub fn activation_bytes(&self, model: &DecoderConfig, batch: Batch) -> usize {
        let rows = self.rows(batch);
        let largest = self.bytes_of(model, batch, rows);
        // A micro-batch of shorter completions may keep its activations, and then take more memory than the largest one.
        let kept = max_kept_bytes() / (self.workers * kept_bytes(model, 1));
        match self.recompute {
            Recompute::Auto if !self.plain && batch.fewest_tokens < batch.new_tokens && kept < rows => {
                largest.max(self.bytes_of(model, batch, kept))
            }
            _ => largest,
        }
    }

    /// The same for micro-batches of `rows` rows.
    fn bytes_of(&self, model: &DecoderConfig, batch: Batch, rows: usize) -> usize {
        let recomputes = match self.recompute {
            Recompute::Always => true,
            Recompute::Never => false,
            Recompute::Auto if self.plain => true,
            Recompute::Auto => recomputes(model, rows * self.workers),
        };
        let (stream, block) = (self.number * rows * model.hidden_size, self.number * block_numbers(model, rows));
        let (kept, block) = match recomputes {
            // Every block's input; one block's activations and their gradients.
            true => (model.num_hidden_layers * stream, 2 * block),
            // Every block's activations; about half as many gradients of one block.
            false => (model.num_hidden_layers * block, block / 2),
        };
        // The head's backward is done before that of the last block begins.
        let most = match self.plain {
            true => (block + self.plain_block_bytes(model, batch, rows)).max(self.plain_head_bytes(model, rows)),
            // Hidden states of the completions, the normed ones, and their two derivatives; logits, and surprises of that size.
            false => block.max(4 * stream + 2 * 4 * FUSED_LOGITS.min(rows * model.vocab_size)),
        };
        self.workers * (kept + most)
    }

    /// The most that candle's operators hold in addition during a block's backward. That is either five tensors in f32 of
    /// SwiGLU's width, or the scores of one query block (once in the model's format, three times in f32) and the gradients
    /// of keys and values.
    fn plain_block_bytes(&self, model: &DecoderConfig, batch: Batch, rows: usize) -> usize {
        let keys = batch.prompt_tokens + batch.new_tokens;
        let row = model.num_attention_heads * keys;
        let scores = row * (PLAIN_SCORES / row).clamp(1, batch.prompt_tokens.max(batch.new_tokens));
        let key_grads = 4 * 4 * rows * model.num_key_value_heads * model.head_dim;
        (5 * 4 * rows * model.intermediate_size).max((self.number + 3 * 4) * scores + key_grads)
    }

    /// The most that candle's operators hold in the head: the logits of one chunk (three times in f32, once in the model's
    /// format); hidden states of the completions, the normed ones, both derivatives in parts and joined; and the gradients
    /// of the norm in f32.
    fn plain_head_bytes(&self, model: &DecoderConfig, rows: usize) -> usize {
        let logits = model.vocab_size * (PLAIN_LOGITS / model.vocab_size).clamp(1, rows);
        let rounded = if self.number < 4 { self.number } else { 0 };
        (3 * 4 + rounded) * logits + (6 * self.number + 7 * 4) * rows * model.hidden_size
    }
}

/// Whether [`Recompute::Auto`] computes blocks again on a CPU. `rows` are those of all workers at a time.
pub fn recomputes(model: &DecoderConfig, rows: usize) -> bool {
    kept_bytes(model, rows) > max_kept_bytes()
}

/// The most activations that [`Recompute::Auto`] keeps on a CPU, in bytes.
fn max_kept_bytes() -> usize {
    of_machine() / 4
}

/// Bytes of main memory that this process may use: the machine's memory, or the limit of the control group if that is less.
/// 8 GiB if the system does not say.
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

/// Bytes that one block keeps for its backward, for `rows` rows: the inputs of its operators in f32.
pub fn block_bytes(config: &DecoderConfig, rows: usize) -> usize {
    4 * block_numbers(config, rows)
}

fn block_numbers(config: &DecoderConfig, rows: usize) -> usize {
    let width = |module| config.linear_shape(module).1;
    let (d, q, kv, f) = (config.hidden_size, width(Module::Q), width(Module::K), config.intermediate_size);
    // Six of the residual stream's width; q and k before and after rotation, v, attention's output; gate, up, their product.
    rows * (6 * d + 3 * q + 3 * kv + 3 * f)
}

/// Bytes that all blocks keep if none is computed again.
pub fn kept_bytes(config: &DecoderConfig, rows: usize) -> usize {
    config.num_hidden_layers * block_bytes(config, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence longer than `micro_batch_tokens` is not cut, so its real length decides.
    #[test]
    fn the_longest_sequence_decides_whether_blocks_are_computed_again() {
        let model = crate::model::presets::find("smollm2-135m").expect("a preset");
        let limit = max_kept_bytes() / (2 * kept_bytes(&model, 1));
        let bytes = |recompute, tokens, fewest_tokens| {
            let training = Training { workers: 2, micro_batch_tokens: 512, recompute, plain: false, number: 4 };
            let batch = Batch { prompts: 2, group_size: 1, prompt_tokens: 16, new_tokens: tokens - 16, fewest_tokens };
            training.activation_bytes(&model, batch)
        };
        let (short, long) = (limit - 1, limit + 1);
        assert_eq!(bytes(Recompute::Auto, short, short - 16), bytes(Recompute::Never, short, short - 16));
        assert_eq!(bytes(Recompute::Auto, long, long - 16), bytes(Recompute::Always, long, long - 16));
        // If lengths vary, a shorter micro-batch takes more memory: its activations are kept.
        assert_eq!(bytes(Recompute::Auto, long, 1), bytes(Recompute::Never, limit, 1));
    }
}
