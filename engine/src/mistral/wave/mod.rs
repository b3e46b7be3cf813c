//! Which sequences may be in a model together on a GPU.
//!
//! 0.8.1's PagedAttention decodes only sequences of one length (`bucket_and_preempt_sequences`). Of several lengths it
//! takes the shortest, drops the keys and values of all other sequences and computes those again in the next step, and
//! in every step after it. If its cache is full, it drops those of the newest sequence, which is then the shortest. So
//! a sequence is admitted at one moment only: when the running sequences have just become as long as its prompt will
//! be.
//!
//! Invariants, which the tests compare with a model of that scheduler:
//! 1. All sequences in the model have the same length, prompt included.
//! 2. The cache holds all of them at their greatest length.
//! 3. The prompts that one step computes have at most `PREFILL_TOKENS` tokens together, unless there is only one.
//!
//! The running length grows by one per step. So one wave passes every waiting prompt that is longer than the shortest,
//! and each joins when the wave reaches it. The first sequence of a wave starts alone; its first draw admits the others
//! of its length.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Prompt tokens that one step computes at most.
pub const PREFILL_TOKENS: usize = 8192;

/// Sends a sequence to the model.
pub type Launch = Box<dyn FnOnce(Ticket) + Send>;

/// Admission to one model.
pub struct Wave {
    block_size: usize,
    state: Mutex<WaveState>,
}

struct WaveState {
    free_places: usize,
    free_blocks: usize,
    /// Tickets that are held.
    running: usize,
    /// Tickets whose prompt is not computed yet.
    prefilling: usize,
    /// By the length of the prompt, in the order of arrival.
    waiting: BTreeMap<usize, VecDeque<Waiting>>,
}

struct Waiting {
    blocks: usize,
    launch: Launch,
}

/// A sequence's place in the model and its share of the cache; given back on drop.
pub struct Ticket {
    wave: Arc<Wave>,
    prompt_tokens: usize,
    blocks: usize,
    is_prefilled: Mutex<bool>,
}

impl Wave {
    /// For a model that runs up to `places` sequences over a cache of `blocks` blocks of `block_size` tokens.
    pub fn new(places: usize, blocks: usize, block_size: usize) -> Arc<Self> {
        let state =
            WaveState { free_places: places, free_blocks: blocks, running: 0, prefilling: 0, waiting: BTreeMap::new() };
        Arc::new(Self { block_size, state: Mutex::new(state) })
    }

    /// The greatest length of prompt and completion together.
    pub fn longest(&self) -> usize {
        let WaveState { free_blocks, .. } = *self.state();
        (free_blocks * self.block_size).saturating_sub(EXTRA_TOKENS)
    }

    /// Queues a sequence that draws at most `tokens` tokens after its prompt. Nothing starts before [`Wave::begin`].
    pub fn enter(&self, prompt_tokens: usize, tokens: usize, launch: Launch) {
        let blocks = (prompt_tokens + tokens + EXTRA_TOKENS).div_ceil(self.block_size);
        let queue = &mut self.state().waiting;
        queue.entry(prompt_tokens).or_default().push_back(Waiting { blocks, launch });
    }

    /// Begins a wave with the shortest waiting prompt, if nothing runs.
    pub fn begin(self: &Arc<Self>) {
        let mut state = self.state();
        let shortest = state.waiting.keys().next().copied().filter(|_| state.running == 0);
        let first = shortest.and_then(|prompt_tokens| self.next(&mut state, prompt_tokens));
        // A launch that fails drops its ticket at once, which takes the lock.
        drop(state);
        first.into_iter().for_each(|(launch, ticket)| launch(ticket));
    }

    /// Removes the first waiting sequence with a prompt of this length, if places, cache and prefill allow it.
    fn next(self: &Arc<Self>, state: &mut WaveState, prompt_tokens: usize) -> Option<(Launch, Ticket)> {
        let has_room = state.prefilling == 0 || (state.prefilling + 1) * prompt_tokens <= PREFILL_TOKENS;
        let (free_places, free_blocks) = (state.free_places, state.free_blocks);
        let queue = state.waiting.get_mut(&prompt_tokens)?;
        let fits = queue.front().is_some_and(|next| has_room && free_places > 0 && free_blocks >= next.blocks);
        let Waiting { blocks, launch } = fits.then(|| queue.pop_front()).flatten()?;
        if queue.is_empty() {
            state.waiting.remove(&prompt_tokens);
        }
        (state.free_places, state.free_blocks) = (free_places - 1, free_blocks - blocks);
        (state.running, state.prefilling) = (state.running + 1, state.prefilling + 1);
        let (wave, is_prefilled) = (Arc::clone(self), Mutex::new(false));
        Some((launch, Ticket { wave, prompt_tokens, blocks, is_prefilled }))
    }

    fn state(&self) -> MutexGuard<'_, WaveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens beyond a sequence's end: one that ends with its first token, or by a stop string, continues for a token; and
/// the slot of the next token is taken before it is known whether there is one.
const EXTRA_TOKENS: usize = 2;

impl Ticket {
    /// Must be called at each draw, with the length of prompt and completion so far, before the model continues. Admits
    /// the sequences whose prompt has this length.
    pub fn drawn(&self, context: usize) {
        debug_assert!(context >= self.prompt_tokens);
        let mut state = self.wave.state();
        self.prefilled(&mut state);
        let joining: Vec<_> = std::iter::from_fn(|| self.wave.next(&mut state, context)).collect();
        drop(state);
        joining.into_iter().for_each(|(launch, ticket)| launch(ticket));
    }

    fn prefilled(&self, state: &mut WaveState) {
        let mut is_prefilled = self.is_prefilled.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *is_prefilled, true) {
            state.prefilling -= 1;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.wave.state();
        self.prefilled(&mut state);
        state.free_places += 1;
        state.free_blocks += self.blocks;
        state.running -= 1;
        drop(state);
        self.wave.begin();
    }
}

#[cfg(test)]
mod tests;
