//! How many tokens each running sequence computes in a step, and which are preempted when the cache is full.

use super::group::{PromptState, SequenceGroup};
use super::state::{ContinuousBatcher, RunningSequence};
use crate::native::compute::Compute;

impl<C: Compute> ContinuousBatcher<C> {
    /// Decides how many tokens each sequence computes in this step, and takes the blocks for them, oldest sequence
    /// first.
    pub(super) fn plan(&mut self) {
        let mut budget = C::PREFILL_TOKENS;
        let mut index = 0;
        while index < self.running.len() {
            let decodes = self.running[index].uncomputed() == 1;
            self.running[index].scheduled = if decodes { 1 } else { self.prefill(index, budget) };
            while !self.running[index].reserve(&mut self.pool) {
                if !self.make_room(index) {
                    return;
                }
            }
            if !decodes {
                budget -= self.running[index].scheduled;
            }
            index += 1;
        }
    }

    /// How many tokens a sequence that does not decode computes in this step, once it shares the blocks that others
    /// have computed: none while an older sequence computes the same block.
    fn prefill(&mut self, index: usize, budget: usize) -> usize {
        if budget == 0 {
            return 0;
        }
        let (older, rest) = self.running.split_at_mut(index);
        let sequence = &mut rest[0];
        sequence.share(&mut self.prefixes, &mut self.pool);
        match older.iter().any(|older| older.computes_for(sequence)) {
            true => 0,
            false => sequence.uncomputed().min(budget),
        }
    }

    /// Frees at least one block: an idle prefix, a cached prompt, or the youngest sequence's. `false` if that is the
    /// sequence at `index` itself.
    fn make_room(&mut self, index: usize) -> bool {
        let before = self.pool.in_use();
        self.prefixes.evict(&mut self.pool, 1);
        if self.pool.in_use() == before {
            self.release_prompts();
            self.prefixes.evict(&mut self.pool, 1);
        }
        if self.pool.in_use() < before {
            return true;
        }
        let Some(youngest) = self.running.pop() else { return false };
        match youngest.completion {
            None => self.drop_prompt(youngest),
            Some(_) => self.preempt(youngest),
        }
        self.running.len() > index
    }

    /// Releases a completion's blocks and keeps its tokens.
    fn preempt(&mut self, mut sequence: RunningSequence<C>) {
        let blocks = std::mem::take(&mut sequence.blocks);
        self.release(blocks);
        (sequence.computed, sequence.scheduled, sequence.is_current) = (0, 0, true);
        self.preempted.push_front(sequence);
    }

    /// Releases a running prompt's blocks; its group waits again.
    pub(super) fn drop_prompt(&mut self, sequence: RunningSequence<C>) {
        self.release(sequence.blocks);
        if let Some(group) = self.groups.get_mut(&sequence.group) {
            group.prompt = PromptState::Waiting;
        }
    }

    /// Releases the cached prompts of groups that have completions left to start.
    fn release_prompts(&mut self) {
        let cached = |group: &mut SequenceGroup<_>| {
            let is_cached = matches!(group.prompt, PromptState::Cached(_));
            is_cached.then(|| std::mem::replace(&mut group.prompt, PromptState::Waiting))
        };
        let prompts: Vec<PromptState<_>> = self.groups.values_mut().filter_map(cached).collect();
        for prompt in prompts {
            if let PromptState::Cached(prompt) = prompt {
                self.release(prompt.blocks);
            }
        }
    }
}
