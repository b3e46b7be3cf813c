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

use super::cache::{Block, Layout, Pool, Prefixes};
use super::lora::Lora;
use super::model::{Model, Piece, Want};
use crate::kernels::LANES;
use crate::sampler::{Draw, Sampler, mix_seed};
use crate::{Completion, EngineError, PolicyVersion, Request};

/// Tokens of prompts that are computed in one step, beside the sequences that decode.
const PREFILL_TOKENS: usize = 256;

/// Who waits for a group.
pub type Reply = oneshot::Sender<Result<Vec<Completion>, EngineError>>;

/// The weights that sample now.
pub struct Policy {
    pub version: PolicyVersion,
    pub lora: Lora,
}

pub struct Scheduler {
    model: Model,
    policy: Policy,
    max_sequences: usize,
    pool: Pool,
    prefixes: Prefixes,
    /// By the number of their arrival.
    groups: HashMap<u64, Group>,
    /// Groups of which not every completion was started, oldest first.
    queue: VecDeque<u64>,
    arrivals: u64,
    running: Vec<Sequence>,
    /// Completions that gave their blocks back, oldest first.
    preempted: VecDeque<Sequence>,
}

/// One request.
struct Group {
    request: Request,
    reply: Reply,
    max_new_tokens: usize,
    prompt: Prompt,
    started: usize,
    completions: Vec<Option<Completion>>,
}

enum Prompt {
    Waiting,
    Running,
    Done(Computed),
    /// Every completion was started; the prompt is not needed any more.
    Over,
}

/// A prompt in the cache, and the logits behind its last token.
struct Computed {
    /// The policy that computed `logits`: every first token is its.
    policy: PolicyVersion,
    blocks: Vec<Arc<Block>>,
    logits: Vec<f32>,
}

/// Something that computes tokens: a prompt, or one completion of it.
struct Sequence {
    group: u64,
    /// `None`: the prompt itself.
    member: Option<Member>,
    /// Prompt and completion.
    tokens: Vec<u32>,
    /// How many of `tokens` the cache holds.
    computed: usize,
    blocks: Vec<Arc<Block>>,
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

impl Scheduler {
    pub fn new(model: Model, policy: Policy, max_sequences: usize, cache_bytes: usize) -> Self {
        let layout = Layout::of(model.config());
        let blocks = cache_bytes / layout.block_bytes();
        Self {
            model,
            policy,
            max_sequences: max_sequences.max(1),
            pool: Pool::new(layout, blocks),
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
        self.pool.grow(Layout::blocks_of_request(request.prompt.len() + max_new_tokens));
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

    pub fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// One forward pass over everything that can run.
    pub fn step(&mut self) {
        self.prepare();
        self.compute();
    }

    /// Decides what the pass computes.
    fn prepare(&mut self) {
        self.drop_abandoned();
        self.admit();
        self.plan();
    }

    fn compute(&mut self) {
        let mut drawn = vec![Draw::default(); self.running.len()];
        let mut logits = vec![Vec::new(); self.running.len()];
        let outputs = drawn.iter_mut().zip(&mut logits);
        let pieces = self.running.iter_mut().zip(outputs).filter(|(sequence, _)| sequence.chunk > 0);
        let pieces = pieces.map(|(sequence, (drawn, logits))| sequence.piece(drawn, logits)).collect();
        self.model.forward(pieces, &self.policy.lora);
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
    fn start(&mut self, mut sequence: Sequence) -> Option<Sequence> {
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
        let mut budget = PREFILL_TOKENS;
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
    fn preempt(&mut self, mut sequence: Sequence) {
        let blocks = std::mem::take(&mut sequence.blocks);
        self.release(blocks);
        (sequence.computed, sequence.chunk, sequence.is_current) = (0, 0, true);
        self.preempted.push_front(sequence);
    }

    /// Takes a running prompt's blocks away; its group waits again.
    fn drop_prompt(&mut self, sequence: Sequence) {
        self.release(sequence.blocks);
        if let Some(group) = self.groups.get_mut(&sequence.group) {
            group.prompt = Prompt::Waiting;
        }
    }

    /// Gives up the computed prompts of groups that still have completions to start.
    fn forget_prompts(&mut self) {
        let done = |group: &mut Group| {
            let is_done = matches!(group.prompt, Prompt::Done(_));
            is_done.then(|| std::mem::replace(&mut group.prompt, Prompt::Waiting))
        };
        let prompts: Vec<Prompt> = self.groups.values_mut().filter_map(done).collect();
        for prompt in prompts {
            if let Prompt::Done(computed) = prompt {
                self.release(computed.blocks);
            }
        }
    }

    /// Shares what a prompt has computed so far.
    fn remember(&mut self, sequence: &Sequence) {
        if sequence.member.is_none() && sequence.is_current && sequence.chunk > 0 {
            self.prefixes.insert(&sequence.tokens[..sequence.computed], &sequence.blocks);
        }
    }

    fn finish_prompt(&mut self, sequence: Sequence, logits: Vec<f32>) {
        let Some(group) = self.groups.get_mut(&sequence.group) else { return self.release(sequence.blocks) };
        let policy = self.policy.version.clone();
        group.prompt = Prompt::Done(Computed { policy, blocks: sequence.blocks, logits });
    }

    /// Appends a token that was drawn from logits of `policy`; a completion that ends is put into its group, and the last
    /// one answers the request.
    fn accept(&mut self, mut sequence: Sequence, drawn: Draw, policy: PolicyVersion) {
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
    fn fail(&mut self, sequence: Sequence) {
        if let Some(group) = self.groups.get_mut(&sequence.group) {
            let at = sequence.tokens.len() - group.request.prompt.len();
            let problem = EngineError::Generate(format!("the logits of token {at} are not finite"));
            let (gone, _) = oneshot::channel();
            // The caller may have gone meanwhile; then nobody needs the answer.
            let _ = std::mem::replace(&mut group.reply, gone).send(Err(problem));
        }
        self.release(sequence.blocks);
    }

    fn release(&mut self, blocks: Vec<Arc<Block>>) {
        blocks.into_iter().for_each(|block| self.pool.release(block));
    }
}

impl Sequence {
    fn new(group: u64, member: Option<Member>, tokens: Vec<u32>) -> Self {
        Self { group, member, tokens, computed: 0, blocks: Vec::new(), chunk: 0, is_current: true }
    }

    /// How many of its tokens are still to be computed.
    fn open(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Takes the blocks of its prefix that others have computed, if those are more than its own. Its last token is
    /// always computed, for the logits.
    fn share(&mut self, prefixes: &mut Prefixes, pool: &mut Pool) {
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
    fn reserve(&mut self, pool: &mut Pool) -> bool {
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

    fn piece<'a>(&'a mut self, drawn: &'a mut Draw, logits: &'a mut Vec<f32>) -> Piece<'a> {
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
mod tests {
    use super::*;
    use crate::decoder::{DecoderConfig, Weights};
    use crate::kernels::Split;
    use crate::{Adapter, AdapterHash, Finish, LoraConfig, Precision, Sampling, StopStrings};
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    const CONTEXT: usize = 96;

    fn config() -> DecoderConfig {
        serde_json::from_value(serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 16, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        }))
        .unwrap()
    }

    fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.6..0.6)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn policy(step: u64) -> Policy {
        let version = PolicyVersion { step, adapter: AdapterHash(step.to_string().into()) };
        Policy { version, lora: lora(step, if step == 0 { 0.0 } else { 1.0 }) }
    }

    fn lora(seed: u64, scale: f64) -> Lora {
        let (config, mut rng) = (config(), ChaCha8Rng::seed_from_u64(seed));
        let path = "base_model.model.model.layers.1.self_attn.v_proj";
        let tensors = [("A", [4, 32]), ("B", [16, 4])]
            .map(|(side, shape)| (format!("{path}.lora_{side}.weight"), (random(&shape, &mut rng) * scale).unwrap()));
        let bytes = safetensors::serialize(tensors.iter().map(|(name, t)| (name, t)), None).unwrap();
        let adapter = Adapter::new(LoraConfig::new(4, 8.0, vec!["v_proj".into()], String::new()).into(), bytes);
        Lora::new(&adapter, &config).unwrap()
    }

    fn scheduler(max_sequences: usize, blocks: usize) -> Scheduler {
        scheduler_in(Split::Alone, max_sequences, blocks)
    }

    fn scheduler_in(split: Split, max_sequences: usize, blocks: usize) -> Scheduler {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let weights = Weights::from_named(&config(), |_, shape| Ok(random(shape, &mut rng))).unwrap();
        scheduler_of(weights, split, max_sequences, blocks)
    }

    fn scheduler_of(weights: Weights, split: Split, max_sequences: usize, blocks: usize) -> Scheduler {
        let config = config();
        let cache_bytes = blocks * Layout::of(&config).block_bytes();
        Scheduler::new(
            Model::new(config, weights, 2, split, Precision::F32).unwrap(),
            policy(0),
            max_sequences,
            cache_bytes,
        )
    }

    fn request(seed: u64, prompt_len: usize, group_size: usize, max_new_tokens: usize) -> Request {
        // Prompts share their beginning, as those with one system message do.
        let prompt: Vec<u32> =
            (0..prompt_len).map(|i| if i < 20 { 1 } else { (seed as u32 + i as u32) % 40 }).collect();
        let sampling = Sampling { max_new_tokens, ..Sampling::new(1.0, vec![7]) };
        Request { prompt: prompt.into(), group_size, seed, sampling }
    }

    type Answer = oneshot::Receiver<Result<Vec<Completion>, EngineError>>;

    fn submit(scheduler: &mut Scheduler, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        let room = request.room(CONTEXT).unwrap();
        scheduler.submit(request, room, reply);
        answer
    }

    fn run(scheduler: &mut Scheduler) {
        for _ in 0..100_000 {
            if scheduler.is_idle() {
                return;
            }
            scheduler.step();
        }
        panic!("requests are left over");
    }

    fn alone(request: Request) -> Vec<Completion> {
        alone_in(Split::Alone, request)
    }

    fn alone_in(split: Split, request: Request) -> Vec<Completion> {
        let mut scheduler = scheduler_in(split, 1, 0);
        let mut answer = submit(&mut scheduler, request);
        run(&mut scheduler);
        answer.try_recv().unwrap().unwrap()
    }

    /// A publish before every step must not keep prompts from ending. Every token then has a policy of its own: the
    /// first that of the step which computed the prompt's end, though it is drawn in a later one.
    #[test]
    fn publishes_in_every_step_stop_nothing_and_tokens_name_the_policy_of_their_logits() {
        let mut scheduler = scheduler(4, 60);
        let requests = (0..8).map(|i| request(i, CONTEXT - 12, 2, if i % 2 == 0 { 1 } else { 8 }));
        let mut answers: Vec<Answer> = requests.map(|request| submit(&mut scheduler, request)).collect();
        for step in 1..2000 {
            if scheduler.is_idle() {
                break;
            }
            scheduler.publish(policy(step));
            scheduler.step();
        }
        for (index, answer) in answers.iter_mut().enumerate() {
            let group = answer.try_recv().unwrap().unwrap();
            for completion in &group {
                let (first, last) = (completion.policy.step, completion.last_policy.step);
                assert!(last - first >= completion.tokens.len() as u64 - 1);
                assert_eq!(last == first, completion.tokens.len() == 1);
            }
            // The oldest prompt is computed whole in the first step.
            assert!(index > 0 || group.iter().all(|completion| completion.policy.step == 1));
        }
        assert_eq!(scheduler.pool.in_use(), scheduler.prefixes.len());
    }

    #[test]
    fn a_request_gives_the_same_bits_alone_and_in_any_batch_also_when_preempted() {
        for split in [Split::Alone, Split::Threads] {
            check_the_same_bits(split);
        }
        // Nor does it matter how the work is split.
        assert_eq!(alone_in(Split::Alone, request(2, 40, 4, 30)), alone_in(Split::Threads, request(2, 40, 4, 30)));
    }

    fn check_the_same_bits(split: Split) {
        for (max_sequences, blocks) in [(64, 1000), (9, 1000), (64, 14), (3, 0)] {
            let mut scheduler = scheduler_in(split, max_sequences, blocks);
            let requests: Vec<Request> = (0..6).map(|i| request(i, 5 + 13 * i as usize, 4, 30)).collect();
            let mut answers: Vec<Answer> = requests.iter().map(|r| submit(&mut scheduler, r.clone())).collect();
            run(&mut scheduler);
            for (request, answer) in requests.into_iter().zip(&mut answers) {
                let answer = answer.try_recv().unwrap().unwrap();
                assert_eq!(answer, alone_in(split, request), "{split:?} {max_sequences} {blocks}");
            }
        }
    }

    #[test]
    fn a_prompt_is_computed_once_for_its_group_and_its_beginning_once_for_all() {
        let mut scheduler = scheduler(64, 1000);
        let mut first = submit(&mut scheduler, request(1, 40, 8, 1));
        run(&mut scheduler);
        first.try_recv().unwrap().unwrap();
        assert_eq!((scheduler.prefixes.len(), scheduler.pool.in_use()), (2, 2), "the full blocks of 40 tokens");
        let _second = submit(&mut scheduler, request(2, 40, 8, 1));
        scheduler.admit();
        assert_eq!(scheduler.running[0].computed, 16, "the block that both begin with");
    }

    #[test]
    fn a_publish_takes_effect_at_the_next_token_and_both_policies_are_named() {
        let mut scheduler = scheduler(64, 1000);
        let sampling = Sampling { max_new_tokens: 20, ..Sampling::new(1.0, vec![]) };
        let long = Request { sampling, ..request(3, 10, 2, 1) };
        let mut answer = submit(&mut scheduler, long.clone());
        (0..5).for_each(|_| scheduler.step());
        assert_eq!(scheduler.publish(policy(1)).step, 1);
        run(&mut scheduler);
        let (old, new) = (alone(long), answer.try_recv().unwrap().unwrap());
        for (old, new) in old.iter().zip(&new) {
            assert_eq!((new.policy.step, new.last_policy.step), (0, 1));
            assert_eq!(old.log_probs[..5], new.log_probs[..5]);
            assert_ne!(old.log_probs[5..], new.log_probs[5..]);
        }
    }

    /// Prompts of 80 tokens that come together, of which the first 64 are the same, are computed as 80 and 16 for each
    /// other one.
    #[test]
    fn prompts_that_arrive_together_share_their_beginning() {
        let mut scheduler = scheduler(64, 1000);
        let requests = (0..6u32).map(|i| {
            let prompt: Vec<u32> = (0..80).map(|at| if at < 64 { at % 40 } else { (i + at) % 40 }).collect();
            Request { prompt: prompt.into(), ..request(u64::from(i), 80, 1, 1) }
        });
        let requests: Vec<Request> = requests.collect();
        let mut answers: Vec<Answer> = requests.iter().map(|r| submit(&mut scheduler, r.clone())).collect();
        let mut computed = 0;
        while !scheduler.is_idle() {
            scheduler.prepare();
            computed += scheduler.running.iter().map(|sequence| sequence.chunk).sum::<usize>();
            scheduler.compute();
        }
        assert_eq!(computed, 80 + 5 * 16);
        for (request, answer) in requests.into_iter().zip(&mut answers) {
            assert_eq!(answer.try_recv().unwrap().unwrap(), alone(request));
        }
    }

    /// The context is not reserved: a cache too small for a request grows to the size of it.
    #[test]
    fn a_cache_grows_to_the_longest_request_and_no_further() {
        let mut scheduler = scheduler(8, 3);
        assert_eq!(scheduler.pool.capacity(), 3);
        for (tokens, capacity) in [(1, 4), (40, 6), (2, 6)] {
            let mut answer = submit(&mut scheduler, request(1, 20, 3, tokens));
            assert_eq!(scheduler.pool.capacity(), capacity);
            run(&mut scheduler);
            assert_eq!(answer.try_recv().unwrap().unwrap(), alone(request(1, 20, 3, tokens)));
        }
    }

    /// Weights that overflow fail the request, and leave nothing behind in the blocks that the next one gets.
    #[test]
    fn logits_that_are_not_finite_are_an_error_and_do_not_spread() {
        let (mut scheduler, good) = (scheduler(8, 0), request(1, 40, 2, 8));
        scheduler.publish(Policy { version: policy(1).version, lora: lora(1, 1e30) });
        let mut answer = submit(&mut scheduler, good.clone());
        run(&mut scheduler);
        assert!(
            matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("finite"))
        );
        scheduler.publish(policy(0));
        let mut answer = submit(&mut scheduler, good.clone());
        run(&mut scheduler);
        assert_eq!(answer.try_recv().unwrap().unwrap(), alone(good));
    }

    /// One broken row of the head gives one logit that is no number. Top-k would draw another token as if nothing were.
    #[test]
    fn one_logit_that_is_not_finite_is_an_error_whatever_is_cut_away() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let weights = Weights::from_named(&config(), |name, shape| {
            let tensor = random(shape, &mut rng);
            let broken = Tensor::full(f32::NAN, (1, 32), &Device::Cpu).unwrap();
            Ok(match name {
                "model.embed_tokens.weight" => tensor.slice_assign(&[39..40, 0..32], &broken).unwrap(),
                _ => tensor,
            })
        });
        let mut scheduler = scheduler_of(weights.unwrap(), Split::Alone, 8, 0);
        let mut broken = Request { prompt: vec![1; 20].into(), ..request(1, 20, 1, 8) };
        broken.sampling.top_k = 2;
        let mut answer = submit(&mut scheduler, broken);
        run(&mut scheduler);
        assert!(
            matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("finite"))
        );
    }

    #[derive(Debug, Clone)]
    enum Event {
        Submit { prompt: usize, group: usize, tokens: usize, cut: usize },
        Step(usize),
        Publish,
        Abandon(usize),
    }

    fn text(tokens: &[u32]) -> String {
        tokens.iter().map(|token| format!("<{token}>")).collect()
    }

    const STOPS: [&str; 2] = ["5><1", "<11>"];

    /// Another way to draw or to end: all tokens, few of them by number or by probability, or stop strings.
    fn cut_to(cut: usize, mut request: Request) -> Request {
        let sampling = &mut request.sampling;
        match cut {
            1 => sampling.top_k = 3,
            2 => (sampling.top_p, sampling.min_p) = (0.7, 0.05),
            3 => sampling.stop_strings = StopStrings::new(STOPS.map(String::from).to_vec(), text),
            _ => {}
        }
        request
    }

    /// Whether the completion ends where its request says, and no earlier place would have done.
    fn check_ending(request: &Request, completion: &Completion) {
        let (last, before) = completion.tokens.split_last().unwrap();
        let stops = |tokens: &[u32]| STOPS.iter().any(|stop| text(tokens).contains(stop));
        let has_strings = !request.sampling.stop_strings.is_empty();
        assert!(!before.contains(&7));
        assert!(!has_strings || !stops(before));
        let stopped = *last == 7 || has_strings && stops(&completion.tokens);
        assert_eq!(completion.finish == Finish::Stop, stopped);
        assert!(stopped || completion.tokens.len() == request.room(CONTEXT).unwrap());
        let is_cut = request.sampling.top_k > 0 || request.sampling.top_p < 1.0;
        let more = completion.log_probs.iter().zip(&completion.full_log_probs).filter(|(cut, full)| cut > full).count();
        assert_eq!(more > 0, is_cut, "what is cut away makes the rest likelier");
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (1..CONTEXT - 1, 1..6usize, 1..60usize, 0..4usize)
                .prop_map(|(prompt, group, tokens, cut)| Event::Submit { prompt, group, tokens, cut }),
            4 => (1..20usize).prop_map(Event::Step),
            1 => Just(Event::Publish),
            1 => (0..8usize).prop_map(Event::Abandon),
        ];
        proptest::collection::vec(event, 1..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_request_is_answered_once_and_no_block_is_lost(
            events in events(), max_sequences in 1..12usize, blocks in 0..40usize, is_shared in any::<bool>(),
        ) {
            let split = if is_shared { Split::Threads } else { Split::Alone };
            let mut scheduler = scheduler_in(split, max_sequences, blocks);
            let mut answers: Vec<(Request, Answer)> = Vec::new();
            let mut abandoned = BTreeSet::new();
            let mut published = 0;
            for event in events {
                match event {
                    Event::Submit { prompt, group, tokens, cut } => {
                        let request = cut_to(cut, request(answers.len() as u64, prompt, group, tokens));
                        answers.push((request.clone(), submit(&mut scheduler, request)));
                    }
                    Event::Step(steps) => (0..steps).for_each(|_| scheduler.step()),
                    Event::Publish => {
                        published += 1;
                        scheduler.publish(policy(published));
                    }
                    Event::Abandon(index) if index < answers.len() => {
                        answers[index].1.close();
                        abandoned.insert(index);
                    }
                    Event::Abandon(_) => {}
                }
                prop_assert!(scheduler.pool.in_use() <= scheduler.pool.capacity());
                prop_assert!(scheduler.running.len() <= max_sequences);
            }
            run(&mut scheduler);
            for (index, (request, mut answer)) in answers.into_iter().enumerate() {
                let Ok(completions) = answer.try_recv() else {
                    prop_assert!(abandoned.contains(&index), "request {} was never answered", index);
                    continue;
                };
                let completions = completions.unwrap();
                prop_assert_eq!(completions.len(), request.group_size);
                completions.iter().for_each(|completion| check_ending(&request, completion));
                if published == 0 {
                    prop_assert_eq!(&completions, &alone(request));
                }
                prop_assert!(completions.iter().all(|c| c.tokens.len() == c.log_probs.len() && !c.tokens.is_empty()));
                prop_assert!(completions.iter().all(|c| c.policy.step <= c.last_policy.step));
            }
            prop_assert!(scheduler.running.is_empty() && scheduler.preempted.is_empty() && scheduler.queue.is_empty());
            prop_assert_eq!(scheduler.pool.in_use(), scheduler.prefixes.len(), "only the prefix cache holds blocks");
        }
    }
}
