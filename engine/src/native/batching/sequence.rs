//! A prompt or a completion that is computed.

use std::sync::Arc;

use super::policy::{OwnPolicy, id_of};
use crate::PolicyVersion;
use crate::native::cache::{BLOCK_TOKENS, BlockPool, BlockStore, PrefixCache};
use crate::native::compute::{ChunkOutput, SequenceChunk};
use crate::sampler::{SampledToken, Sampler};

/// Tokens of which the cache holds a beginning: a prompt, or a prompt with one of its completions.
pub struct Sequence<B> {
    /// The group's id.
    pub group: u64,
    /// `None` for the prompt itself.
    pub completion: Option<CompletionState>,
    /// Prompt and completion.
    pub tokens: Vec<u32>,
    /// How many of `tokens` the cache holds.
    pub computed: usize,
    pub blocks: Vec<Arc<B>>,
    /// How many tokens the coming step computes.
    pub scheduled: usize,
    pub policy: OwnPolicy,
    /// Whether all of `blocks` were computed under its policy of now.
    pub is_current: bool,
}

/// What a completion has besides its tokens.
pub struct CompletionState {
    /// Which completion of the group.
    pub index: usize,
    pub sampler: Sampler,
    pub log_probs: Vec<f32>,
    pub full_log_probs: Vec<f32>,
    /// The policy that drew the first token.
    pub first_policy: PolicyVersion,
}

impl<B> Sequence<B> {
    pub fn new(group: u64, completion: Option<CompletionState>, tokens: Vec<u32>, policy: OwnPolicy) -> Self {
        Self { group, completion, tokens, computed: 0, blocks: Vec::new(), scheduled: 0, policy, is_current: true }
    }

    /// How many of its tokens are not computed yet.
    pub fn uncomputed(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Takes the blocks of its prefix that others have computed, if they are more than its own. The last token is
    /// always computed, because its logits are needed.
    pub fn share<S: BlockStore<Block = B>>(&mut self, prefixes: &mut PrefixCache<S>, pool: &mut BlockPool<S>) {
        let found = prefixes.find(id_of(&self.policy), &self.tokens[..self.tokens.len() - 1]);
        if found.len() * BLOCK_TOKENS <= self.computed {
            return found.into_iter().for_each(|block| pool.release(block));
        }
        (self.computed, self.is_current) = (found.len() * BLOCK_TOKENS, true);
        std::mem::replace(&mut self.blocks, found).into_iter().for_each(|block| pool.release(block));
    }

    /// Whether this step computes, and then shares, the block that `other` needs next.
    pub fn computes_for(&self, other: &Self) -> bool {
        let end = (other.computed / BLOCK_TOKENS + 1) * BLOCK_TOKENS;
        let shares = self.completion.is_none()
            && self.is_current
            && self.computed < end
            && end <= self.computed + self.scheduled;
        // `other` computes its last token itself.
        shares
            && id_of(&self.policy) == id_of(&other.policy)
            && end < other.tokens.len()
            && self.tokens[..end] == other.tokens[..end]
    }

    /// How many more blocks its tokens need.
    pub fn missing_blocks(&self) -> usize {
        self.tokens.len().div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len())
    }

    /// Takes the blocks for `scheduled` more tokens, and makes those that are written unshared; `false` if the pool is
    /// empty.
    pub fn reserve(&mut self, pool: &mut BlockPool<impl BlockStore<Block = B>>) -> bool {
        if self.scheduled == 0 {
            return true;
        }
        let needed = (self.computed + self.scheduled).div_ceil(BLOCK_TOKENS);
        if let Some(tail) = self.blocks.get_mut(self.computed / BLOCK_TOKENS)
            && !pool.make_unique(tail)
        {
            return false;
        }
        while self.blocks.len() < needed {
            let Some(block) = pool.take() else { return false };
            self.blocks.push(block);
        }
        true
    }

    /// What the coming step computes of it; results go to `drawn` or `logits`.
    pub fn chunk<'a>(&'a mut self, drawn: &'a mut SampledToken, logits: &'a mut Vec<f32>) -> SequenceChunk<'a, B> {
        let end = self.computed + self.scheduled;
        let output = match &mut self.completion {
            _ if end < self.tokens.len() => ChunkOutput::Nothing,
            None => ChunkOutput::Logits(logits),
            Some(completion) => ChunkOutput::Sample(&mut completion.sampler, drawn),
        };
        SequenceChunk {
            tokens: &self.tokens[self.computed..end],
            start: self.computed,
            blocks: &mut self.blocks,
            output,
        }
    }
}
