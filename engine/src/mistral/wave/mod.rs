//! Which sequences may be in a model together, on a GPU.
//!
//! 0.8.1's PagedAttention decodes sequences of one length only (`bucket_and_preempt_sequences`): of several lengths it takes
//! the shortest, drops the keys and values of all others, and computes those again in the next step; and again in the step
//! after that. When its cache is full it drops those of the sequence that came last, which from then on is the shortest. So a
//! sequence is let in at one moment only: when those that run have just become as long as it will be behind its prompt.
//!
//! Invariants, held against a model of that scheduler below:
//! 1. All sequences in the model have the same length, prompt included.
//! 2. The cache holds all of them at their greatest lengths.
//! 3. Prompts that are computed in one step have at most `PREFILL_TOKENS` tokens together, or are one.
//!
//! The lengths that run rise by one a step, so one wave passes every prompt that waits and is longer than the shortest: each
//! joins when the wave comes by. The first sequence of a wave goes alone; its first draw lets in the others of its length.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tokens of prompts that are computed together.
pub const PREFILL_TOKENS: usize = 8192;

/// Hands a sequence to the model.
pub type Launch = Box<dyn FnOnce(Ticket) + Send>;

/// The way into one model.
pub struct Wave {
    block_size: usize,
    state: Mutex<State>,
}

struct State {
    places: usize,
    blocks: usize,
    /// Tickets that are out.
    running: usize,
    /// Tickets whose prompt has not been computed.
    prefilling: usize,
    /// By the length of their prompts, in the order in which they came.
    waiting: BTreeMap<usize, VecDeque<Waiting>>,
}

struct Waiting {
    blocks: usize,
    launch: Launch,
}

/// A sequence's place, and its share of the cache; given back on drop.
pub struct Ticket {
    wave: Arc<Wave>,
    prompt_tokens: usize,
    blocks: usize,
    is_prefilled: Mutex<bool>,
}

impl Wave {
    /// For a model that runs `places` sequences over a cache of `blocks` blocks of `block_size` tokens.
    pub fn new(places: usize, blocks: usize, block_size: usize) -> Arc<Self> {
        let state = State { places, blocks, running: 0, prefilling: 0, waiting: BTreeMap::new() };
        Arc::new(Self { block_size, state: Mutex::new(state) })
    }

    /// Longest that prompt and completion may be together.
    pub fn longest(&self) -> usize {
        let State { blocks, .. } = *self.state();
        (blocks * self.block_size).saturating_sub(RUNS_ON)
    }

    /// Lets a sequence wait, of which at most `tokens` are to come behind its prompt. Nothing starts yet: [`Wave::begin`].
    pub fn enter(&self, prompt_tokens: usize, tokens: usize, launch: Launch) {
        let blocks = (prompt_tokens + tokens + RUNS_ON).div_ceil(self.block_size);
        let queue = &mut self.state().waiting;
        queue.entry(prompt_tokens).or_default().push_back(Waiting { blocks, launch });
    }

    /// Begins a wave with the shortest prompt that waits, if nothing runs.
    pub fn begin(self: &Arc<Self>) {
        let mut state = self.state();
        let shortest = state.waiting.keys().next().copied().filter(|_| state.running == 0);
        let first = shortest.and_then(|prompt_tokens| self.next(&mut state, prompt_tokens));
        // A launch that fails gives its ticket back at once, which takes the lock.
        drop(state);
        first.into_iter().for_each(|(launch, ticket)| launch(ticket));
    }

    /// Takes out the first of those with such a prompt, if places, cache and prefill allow.
    fn next(self: &Arc<Self>, state: &mut State, prompt_tokens: usize) -> Option<(Launch, Ticket)> {
        let has_room = state.prefilling == 0 || (state.prefilling + 1) * prompt_tokens <= PREFILL_TOKENS;
        let (places, blocks) = (state.places, state.blocks);
        let queue = state.waiting.get_mut(&prompt_tokens)?;
        let fits = queue.front().is_some_and(|next| has_room && places > 0 && blocks >= next.blocks);
        let Waiting { blocks, launch } = fits.then(|| queue.pop_front()).flatten()?;
        if queue.is_empty() {
            state.waiting.remove(&prompt_tokens);
        }
        (state.places, state.blocks) = (state.places - 1, state.blocks - blocks);
        (state.running, state.prefilling) = (state.running + 1, state.prefilling + 1);
        let (wave, is_prefilled) = (Arc::clone(self), Mutex::new(false));
        Some((launch, Ticket { wave, prompt_tokens, blocks, is_prefilled }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sequence that ends with its first token, or by a stop string, runs on for a token; and the next one's place is taken
/// before it is known to be the last.
const RUNS_ON: usize = 2;

impl Ticket {
    /// To be called at each draw, behind `context` tokens, before the model goes on: lets in who has become as long.
    pub fn drawn(&self, context: usize) {
        debug_assert!(context >= self.prompt_tokens);
        let mut state = self.wave.state();
        self.prefilled(&mut state);
        let joining: Vec<_> = std::iter::from_fn(|| self.wave.next(&mut state, context)).collect();
        drop(state);
        joining.into_iter().for_each(|(launch, ticket)| launch(ticket));
    }

    fn prefilled(&self, state: &mut State) {
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
        (state.places, state.blocks, state.running) = (state.places + 1, state.blocks + self.blocks, state.running - 1);
        drop(state);
        self.wave.begin();
    }
}

#[cfg(test)]
mod tests;
