//! Which sequences run in the next step, and what becomes of them: continuous batching over the paged cache.
//!
//! A request is a group: its prompt is computed once, as a sequence of its own, and each completion forks from it,
//! sharing its blocks. In every step each running sequence computes the tokens it has not computed: one where it
//! decodes, a chunk where it is a prompt. Who has computed all of its tokens draws the next. What a prompt has computed
//! is shared at once: who begins with the same tokens waits for the one that computes them.
//!
//! Invariants: every group is answered once or its caller has gone; `running` is in the order of admission, and the
//! oldest always gets its blocks (the youngest give way, keep their tokens and are computed again later), so all ends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::cache::{Layout, Pool, Prefixes, Store};
use super::compute::{BlockOf, Compute, Piece, Want};
use super::live_adapter::LiveAdapter;
use crate::kernels::LANES;
use crate::sampler::{Draw, Sampler};
use crate::seed::mix_seed;
use crate::{Completion, EngineError, PolicyVersion, Request};

/// Who waits for a group.
pub type Reply = oneshot::Sender<Result<Vec<Completion>, EngineError>>;

/// The weights that sample now.
pub struct Policy {
    pub version: PolicyVersion,
    pub adapter: LiveAdapter,
}

pub struct Scheduler<C: Compute> {
    model: C,
    policy: Policy,
    max_sequences: usize,
    pool: Pool<C::Store>,
    prefixes: Prefixes<C::Store>,
    /// By the number of their arrival.
    groups: HashMap<u64, Group<BlockOf<C>>>,
    /// Groups of which not every completion was started, oldest first.
    queue: VecDeque<u64>,
    arrivals: u64,
    running: Vec<Running<C>>,
    /// Completions that gave their blocks back, oldest first.
    preempted: VecDeque<Running<C>>,
}

/// What a scheduler of `C` runs.
type Running<C> = Sequence<BlockOf<C>>;

/// One request.
struct Group<B> {
    request: Request,
    reply: Reply,
    max_new_tokens: usize,
    prompt: Prompt<B>,
    started: usize,
    completions: Vec<Option<Completion>>,
}

enum Prompt<B> {
    Waiting,
    Running,
    Done(Computed<B>),
    /// Every completion was started; the prompt is not needed any more.
    Over,
}

/// A prompt in the cache, and the logits behind its last token.
struct Computed<B> {
    /// The policy that computed `logits`: every first token is its.
    policy: PolicyVersion,
    blocks: Vec<Arc<B>>,
    logits: Vec<f32>,
}

/// Something that computes tokens: a prompt, or one completion of it.
struct Sequence<B> {
    group: u64,
    /// `None`: the prompt itself.
    member: Option<Member>,
    /// Prompt and completion.
    tokens: Vec<u32>,
    /// How many of `tokens` the cache holds.
    computed: usize,
    blocks: Vec<Arc<B>>,
    /// How many tokens the coming step computes.
    chunk: usize,
    /// Whether all of `blocks` were computed under the current policy.
    is_current: bool,
}

struct Member {
    index: usize,
    sampler: Sampler,
    log_probs: Vec<f32>,
    full_log_probs: Vec<f32>,
    /// The policy that drew the first token.
    first_policy: PolicyVersion,
}

impl<C: Compute> Scheduler<C> {
    /// With a cache of `blocks` blocks in `store`.
    pub fn new(model: C, policy: Policy, max_sequences: usize, store: C::Store, blocks: usize) -> Self {
        Self {
            model,
            policy,
            max_sequences: max_sequences.max(1),
            pool: Pool::new(store, blocks),
            prefixes: Prefixes::default(),
            groups: HashMap::new(),
            queue: VecDeque::new(),
            arrivals: 0,
            running: Vec::new(),
            preempted: VecDeque::new(),
        }
    }

    /// Takes in a request that may draw up to `max_new_tokens` ([`Request::room`]).
    pub fn submit(&mut self, request: Request, max_new_tokens: usize, reply: Reply) {
        let tokens = request.prompt.len() + max_new_tokens;
        if !self.pool.grow(Layout::blocks_of_request(tokens)) {
            let has = self.pool.capacity() * LANES;
            let problem = format!("a request of up to {tokens} tokens does not fit the cache of {has}");
            // The caller may have gone meanwhile; then nobody needs the answer.
            let _ = reply.send(Err(EngineError::Generate(problem)));
            return;
        }
        let id = self.arrivals;
        self.arrivals += 1;
        let group = Group {
            max_new_tokens,
            completions: vec![None; request.group_size],
            request,
            reply,
            prompt: Prompt::Waiting,
            started: 0,
        };
        self.groups.insert(id, group);
        self.queue.push_back(id);
    }

    /// Everything goes on under the new policy, also prompts: computed again, they would never end where publishes follow
    /// each other closely. What they share with later requests is forgotten.
    pub fn publish(&mut self, policy: Policy) -> PolicyVersion {
        self.prefixes.clear(&mut self.pool);
        self.running.iter_mut().for_each(|sequence| sequence.is_current = false);
        self.policy = policy;
        self.policy.version.clone()
    }

    /// Computes what there is to compute, and gives the cache's memory back; until [`Scheduler::resume`] nothing is to be submitted.
    pub fn suspend(&mut self) {
        while !self.is_idle() {
            self.step();
        }
        self.prefixes.clear(&mut self.pool);
        self.model.suspend();
    }

    /// # Errors
    /// If there is no room for the cache any more.
    pub fn resume(&mut self) -> candle_core::Result<()> {
        self.model.resume()
    }

    pub fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// One forward pass over everything that can run. Where it fails, everybody who waits is told.
    pub fn step(&mut self) {
        self.prepare();
        if let Err(error) = self.compute() {
            self.give_up(&error);
        }
    }

    /// Decides what the pass computes.
    fn prepare(&mut self) {
        self.drop_abandoned();
        self.admit();
        self.plan();
    }

    fn compute(&mut self) -> candle_core::Result<()> {
        let mut drawn = vec![Draw::default(); self.running.len()];
        let mut logits = vec![Vec::new(); self.running.len()];
        let outputs = drawn.iter_mut().zip(&mut logits);
        let pieces = self.running.iter_mut().zip(outputs).filter(|(sequence, _)| sequence.chunk > 0);
        let pieces = pieces.map(|(sequence, (drawn, logits))| sequence.piece(drawn, logits)).collect();
        self.model.forward(pieces, &self.policy.adapter)?;
        let sequences = std::mem::take(&mut self.running);
        for ((mut sequence, drawn), logits) in sequences.into_iter().zip(drawn).zip(logits) {
            sequence.computed += sequence.chunk;
            self.remember(&sequence);
            let complete = sequence.chunk > 0 && sequence.computed == sequence.tokens.len();
            match (complete, sequence.member.is_some()) {
                (false, _) => self.running.push(sequence),
                (true, false) => self.finish_prompt(sequence, logits),
                (true, true) => self.accept(sequence, drawn, self.policy.version.clone()),
            }
        }
        Ok(())
    }

    /// Answers every request with the error, and forgets what the cache holds: it may have been written in part.
    fn give_up(&mut self, error: &candle_core::Error) {
        for (_, group) in std::mem::take(&mut self.groups) {
            // The caller may have gone meanwhile; then nobody needs the answer.
            let _ = group.reply.send(Err(EngineError::Generate(error.to_string())));
            if let Prompt::Done(computed) = group.prompt {
                self.release(computed.blocks);
            }
        }
        self.queue.clear();
        let sequences = std::mem::take(&mut self.running).into_iter().chain(std::mem::take(&mut self.preempted));
        sequences.collect::<Vec<_>>().into_iter().for_each(|sequence| self.release(sequence.blocks));
        self.prefixes.clear(&mut self.pool);
    }

    /// Ends what nobody waits for any more.
    fn drop_abandoned(&mut self) {
        let gone: Vec<u64> = self.groups.iter().filter(|(_, g)| g.reply.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            let group = self.groups.remove(&id);
            if let Some(Group { prompt: Prompt::Done(computed), .. }) = group {
                self.release(computed.blocks);
            }
            self.queue.retain(|queued| *queued != id);
            self.preempted.retain(|sequence| sequence.group != id);
            for sequence in self.running.extract_if(.., |sequence| sequence.group == id).collect::<Vec<_>>() {
                self.release(sequence.blocks);
            }
        }
    }

    /// Starts what there is room for: first what was preempted, then groups in the order of their arrival.
    fn admit(&mut self) {
        while self.running.len() < self.max_sequences
            && let Some(sequence) = self.preempted.pop_front()
        {
            if let Some(sequence) = self.start(sequence) {
                return self.preempted.push_front(sequence);
            }
        }
        let mut next = 0;
        while self.running.len() < self.max_sequences
            && let Some(&id) = self.queue.get(next)
        {
            let Some(group) = self.groups.get_mut(&id) else { unreachable!("a queued group is there") };
            let started = match &group.prompt {
                Prompt::Running | Prompt::Over => {
                    next += 1;
                    continue;
                }
                Prompt::Waiting => {
                    group.prompt = Prompt::Running;
                    let prompt = Sequence::new(id, None, group.request.prompt.to_vec());
                    self.start(prompt).map(|prompt| self.drop_prompt(prompt)).is_none()
                }
                // One block to write into, and one for what comes after.
                Prompt::Done(_) => self.has_room(2).then(|| self.fork(id)).is_some(),
            };
            if !started {
                return;
            }
        }
    }

    /// Runs the sequence from what the prefix cache holds of it, or gives it back if there is no room.
    fn start(&mut self, mut sequence: Running<C>) -> Option<Running<C>> {
        sequence.share(&mut self.prefixes, &mut self.pool);
        if self.has_room(sequence.missing_blocks() + 1) {
            self.running.push(sequence);
            return None;
        }
        self.release(std::mem::take(&mut sequence.blocks));
        sequence.computed = 0;
        Some(sequence)
    }

    /// Whether `blocks` are left beside those that running sequences still have to take for the tokens they have,
    /// possibly after idle prefixes are forgotten. Whoever would run alone has room.
    fn has_room(&mut self, blocks: usize) -> bool {
        let wanted = blocks + self.running.iter().map(Sequence::missing_blocks).sum::<usize>();
        self.prefixes.evict(&mut self.pool, wanted);
        self.running.is_empty() || self.pool.in_use() + wanted <= self.pool.capacity()
    }

    /// Starts the next completion of a group whose prompt is computed.
    fn fork(&mut self, id: u64) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Prompt::Done(computed) = &group.prompt else { return };
        let (request, index) = (&group.request, group.started);
        let mut sampler = Sampler::new(mix_seed(request.seed, index as u64), &request.sampling);
        let drawn = sampler.sample(&computed.logits);
        let policy = computed.policy.clone();
        let (log_probs, full_log_probs) = (Vec::new(), Vec::new());
        let member = Member { index, sampler, log_probs, full_log_probs, first_policy: policy.clone() };
        let mut sequence = Sequence::new(id, Some(member), request.prompt.to_vec());
        (sequence.computed, sequence.blocks) = (sequence.tokens.len(), computed.blocks.clone());
        group.started += 1;
        if group.started == request.group_size {
            let prompt = std::mem::replace(&mut group.prompt, Prompt::Over);
            self.queue.retain(|queued| *queued != id);
            if let Prompt::Done(computed) = prompt {
                self.release(computed.blocks);
            }
        }
        self.accept(sequence, drawn, policy);
    }

    /// Decides how many tokens each sequence computes now, and gets the blocks for them. The oldest choose first.
    fn plan(&mut self) {
        let mut budget = C::PREFILL_TOKENS;
        let mut index = 0;
        while index < self.running.len() {
            let decodes = self.running[index].open() == 1;
            self.running[index].chunk = if decodes { 1 } else { self.prefill(index, budget) };
            while !self.running[index].reserve(&mut self.pool) {
                if !self.make_room(index) {
                    return;
                }
            }
            if !decodes {
                budget -= self.running[index].chunk;
            }
            index += 1;
        }
    }

    /// How many tokens a sequence that does not decode computes now, after it has taken what others computed meanwhile:
    /// none while an older one computes the same block.
    fn prefill(&mut self, index: usize, budget: usize) -> usize {
        if budget == 0 {
            return 0;
        }
        let (older, rest) = self.running.split_at_mut(index);
        let sequence = &mut rest[0];
        sequence.share(&mut self.prefixes, &mut self.pool);
        match older.iter().any(|older| older.computes_for(sequence)) {
            true => 0,
            false => sequence.open().min(budget),
        }
    }

    /// Frees at least one block: an idle prefix, a waiting prompt, or the youngest sequence's. `false` if that was
    /// the sequence at `index` itself.
    fn make_room(&mut self, index: usize) -> bool {
        let before = self.pool.in_use();
        self.prefixes.evict(&mut self.pool, 1);
        if self.pool.in_use() == before {
            self.forget_prompts();
            self.prefixes.evict(&mut self.pool, 1);
        }
        if self.pool.in_use() < before {
            return true;
        }
        let Some(youngest) = self.running.pop() else { return false };
        match youngest.member {
            None => self.drop_prompt(youngest),
            Some(_) => self.preempt(youngest),
        }
        self.running.len() > index
    }

    /// Takes a completion's blocks away; its tokens stay.
    fn preempt(&mut self, mut sequence: Running<C>) {
        let blocks = std::mem::take(&mut sequence.blocks);
        self.release(blocks);
        (sequence.computed, sequence.chunk, sequence.is_current) = (0, 0, true);
        self.preempted.push_front(sequence);
    }

    /// Takes a running prompt's blocks away; its group waits again.
    fn drop_prompt(&mut self, sequence: Running<C>) {
        self.release(sequence.blocks);
        if let Some(group) = self.groups.get_mut(&sequence.group) {
            group.prompt = Prompt::Waiting;
        }
    }

    /// Gives up the computed prompts of groups that still have completions to start.
    fn forget_prompts(&mut self) {
        let done = |group: &mut Group<_>| {
            let is_done = matches!(group.prompt, Prompt::Done(_));
            is_done.then(|| std::mem::replace(&mut group.prompt, Prompt::Waiting))
        };
        let prompts: Vec<Prompt<_>> = self.groups.values_mut().filter_map(done).collect();
        for prompt in prompts {
            if let Prompt::Done(computed) = prompt {
                self.release(computed.blocks);
            }
        }
    }

    /// Shares what a prompt has computed so far.
    fn remember(&mut self, sequence: &Running<C>) {
        if sequence.member.is_none() && sequence.is_current && sequence.chunk > 0 {
            self.prefixes.insert(&sequence.tokens[..sequence.computed], &sequence.blocks);
        }
    }

    fn finish_prompt(&mut self, sequence: Running<C>, logits: Vec<f32>) {
        let Some(group) = self.groups.get_mut(&sequence.group) else { return self.release(sequence.blocks) };
        let policy = self.policy.version.clone();
        group.prompt = Prompt::Done(Computed { policy, blocks: sequence.blocks, logits });
    }

    /// Appends a token that was drawn from logits of `policy`; a completion that ends is put into its group, and the last
    /// one answers the request.
    fn accept(&mut self, mut sequence: Running<C>, drawn: Draw, policy: PolicyVersion) {
        if !drawn.is_finite() {
            return self.fail(sequence);
        }
        let Some(group) = self.groups.get_mut(&sequence.group) else { return self.release(sequence.blocks) };
        let Some(member) = &mut sequence.member else { unreachable!("a prompt draws no tokens") };
        sequence.tokens.push(drawn.token);
        member.log_probs.push(drawn.log_prob);
        member.full_log_probs.push(drawn.full_log_prob);
        let completion = &sequence.tokens[group.request.prompt.len()..];
        let Some(finish) = group.request.sampling.finish(completion, group.max_new_tokens) else {
            return self.running.push(sequence);
        };
        group.completions[member.index] = Some(Completion {
            tokens: sequence.tokens.split_off(group.request.prompt.len()),
            log_probs: std::mem::take(&mut member.log_probs),
            full_log_probs: std::mem::take(&mut member.full_log_probs),
            finish,
            policy: member.first_policy.clone(),
            last_policy: policy,
        });
        let complete = group.completions.iter().all(Option::is_some);
        let id = sequence.group;
        self.release(sequence.blocks);
        if complete && let Some(group) = self.groups.remove(&id) {
            // The caller may have gone meanwhile; then nobody needs the answer.
            let _ = group.reply.send(Ok(group.completions.into_iter().flatten().collect()));
        }
    }

    /// Answers the sequence's group with an error; what else runs for it ends at the next step.
    fn fail(&mut self, sequence: Running<C>) {
        if let Some(group) = self.groups.get_mut(&sequence.group) {
            let at = sequence.tokens.len() - group.request.prompt.len();
            let problem = EngineError::Generate(format!("the logits of token {at} are not finite"));
            let (gone, _) = oneshot::channel();
            // The caller may have gone meanwhile; then nobody needs the answer.
            let _ = std::mem::replace(&mut group.reply, gone).send(Err(problem));
        }
        self.release(sequence.blocks);
    }

    fn release(&mut self, blocks: Vec<Arc<BlockOf<C>>>) {
        blocks.into_iter().for_each(|block| self.pool.release(block));
    }
}

impl<B> Sequence<B> {
    fn new(group: u64, member: Option<Member>, tokens: Vec<u32>) -> Self {
        Self { group, member, tokens, computed: 0, blocks: Vec::new(), chunk: 0, is_current: true }
    }

    /// How many of its tokens are still to be computed.
    fn open(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Takes the blocks of its prefix that others have computed, if those are more than its own. Its last token is
    /// always computed, for the logits.
    fn share<S: Store<Block = B>>(&mut self, prefixes: &mut Prefixes<S>, pool: &mut Pool<S>) {
        let found = prefixes.find(&self.tokens[..self.tokens.len() - 1]);
        if found.len() * LANES <= self.computed {
            return found.into_iter().for_each(|block| pool.release(block));
        }
        (self.computed, self.is_current) = (found.len() * LANES, true);
        std::mem::replace(&mut self.blocks, found).into_iter().for_each(|block| pool.release(block));
    }

    /// Whether its next step computes the block that `other` needs next, and shares it.
    fn computes_for(&self, other: &Self) -> bool {
        let end = (other.computed / LANES + 1) * LANES;
        let shares =
            self.member.is_none() && self.is_current && self.computed < end && end <= self.computed + self.chunk;
        // The last token of `other` is its own.
        shares && end < other.tokens.len() && self.tokens[..end] == other.tokens[..end]
    }

    /// How many blocks its tokens need that it does not hold.
    fn missing_blocks(&self) -> usize {
        self.tokens.len().div_ceil(LANES).saturating_sub(self.blocks.len())
    }

    /// Gets the blocks for `chunk` more tokens, none of those written shared; `false` when the pool is empty.
    fn reserve(&mut self, pool: &mut Pool<impl Store<Block = B>>) -> bool {
        if self.chunk == 0 {
            return true;
        }
        let needed = (self.computed + self.chunk).div_ceil(LANES);
        if let Some(tail) = self.blocks.get_mut(self.computed / LANES)
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

    fn piece<'a>(&'a mut self, drawn: &'a mut Draw, logits: &'a mut Vec<f32>) -> Piece<'a, B> {
        let end = self.computed + self.chunk;
        let want = match &mut self.member {
            _ if end < self.tokens.len() => Want::Nothing,
            None => Want::Logits(logits),
            Some(member) => Want::Sample(&mut member.sampler, drawn),
        };
        Piece { tokens: &self.tokens[self.computed..end], start: self.computed, blocks: &mut self.blocks, want }
    }
}

#[cfg(test)]
mod tests;
