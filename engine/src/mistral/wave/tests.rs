//! Waves, run against a simulation of 0.8.1's engine loop and PagedAttention scheduler.

use std::sync::mpsc;

use super::*;
use crate::seed::mix_seed;

const BLOCK: usize = 8;

struct SimulatedSequence {
    prompt: usize,
    tokens: usize,
    length: usize,
    ticket: Ticket,
}

/// Does what `PagedAttentionScheduler::schedule` and `Engine::run` do with lengths and blocks.
struct SimulatedModel {
    inbox: mpsc::Receiver<SimulatedSequence>,
    waiting: Vec<SimulatedSequence>,
    running: Vec<SimulatedSequence>,
    blocks: usize,
    finished: usize,
    steps: usize,
    tokens: usize,
}

impl SimulatedModel {
    /// One iteration of the loop; false if there was nothing to do.
    fn turn(&mut self) -> bool {
        self.waiting.extend(self.inbox.try_iter());
        if self.waiting.is_empty() && self.running.is_empty() {
            return false;
        }
        self.steps += 1;
        if self.waiting.is_empty() {
            let length = self.running[0].length;
            assert!(self.running.iter().all(|s| s.length == length), "sequences of other lengths are preempted");
            let next = self.running.iter().map(|s| (s.length + 1).div_ceil(BLOCK)).sum::<usize>();
            assert!(next <= self.blocks, "the cache is full: a sequence is preempted");
            self.running.iter_mut().for_each(|s| Self::draw(s, &mut self.tokens));
        } else {
            let mut prompts = std::mem::take(&mut self.waiting);
            let prompt = prompts[0].prompt;
            assert!(prompts.iter().all(|s| s.prompt == prompt), "prompts of other lengths are preempted");
            assert!(prompts.len() == 1 || prompts.len() * prompt <= PREFILL_TOKENS);
            prompts.iter_mut().for_each(|s| Self::draw(s, &mut self.tokens));
            self.running.extend(prompts);
        }
        let before = self.running.len();
        // A sequence that ends with its first token continues for another one.
        self.running.retain(|s| s.length < s.prompt + s.tokens.max(2));
        self.finished += before - self.running.len();
        true
    }

    fn draw(sequence: &mut SimulatedSequence, tokens: &mut usize) {
        sequence.ticket.drawn(sequence.length);
        sequence.length += 1;
        *tokens += 1;
    }
}

fn model(places: usize, blocks: usize) -> (Arc<Wave>, mpsc::Sender<SimulatedSequence>, SimulatedModel) {
    let (outbox, inbox) = mpsc::channel();
    let (waiting, running) = (Vec::new(), Vec::new());
    let model = SimulatedModel { inbox, waiting, running, blocks, finished: 0, steps: 0, tokens: 0 };
    (Wave::new(places, blocks, BLOCK), outbox, model)
}

fn enter(wave: &Wave, outbox: &mpsc::Sender<SimulatedSequence>, prompt: usize, most: usize, tokens: usize) {
    let outbox = outbox.clone();
    let launch = move |ticket| {
        let sent = outbox.send(SimulatedSequence { prompt, tokens, length: prompt, ticket });
        assert!(sent.is_ok(), "the model listens");
    };
    wave.enter(prompt, most, Box::new(launch));
}

/// Groups of random lengths arrive at random times: none is lost, and nothing is computed twice.
#[test]
fn nothing_is_preempted_and_every_sequence_finishes() {
    for case in 0..200u64 {
        let random = |i: u64, below: usize| 1 + (mix_seed(case, i) % below as u64) as usize;
        let (places, most) = (random(0, 40), random(1, 60));
        let (wave, outbox, mut model) = model(places, (80 + most + EXTRA_TOKENS).div_ceil(BLOCK) * random(2, 10));
        let (mut sent, groups) = (0, random(3, 30) as u64);
        for group in 0..groups {
            let (prompt, size) = (random(100 + group, 80), random(200 + group, 9));
            for i in 0..size as u64 {
                enter(&wave, &outbox, prompt, most, random(1000 * (group + 1) + i, most));
            }
            sent += size;
            wave.begin();
            for _ in 0..random(300 + group, 40) {
                model.turn();
            }
        }
        while model.turn() {}
        assert_eq!(model.finished, sent, "case {case}");
        assert!(wave.state().waiting.is_empty() && wave.state().running == 0);
    }
}

/// 16 groups of 8, each of another length, all waiting from the start: one wave runs them all.
#[test]
fn a_wave_admits_every_length_that_it_passes() {
    let (wave, outbox, mut model) = model(128, 100_000);
    for prompt in 0..16 {
        (0..8).for_each(|_| enter(&wave, &outbox, 100 + 7 * prompt, 200, 200));
    }
    wave.begin();
    while model.turn() {}
    assert_eq!((model.finished, model.tokens), (128, 128 * 200));
    // 16 prompts, the first of which takes two steps, and lengths from 101 to 100 + 105 + 200.
    assert_eq!(model.steps, 17 + 199 + 105);
}

#[test]
fn prompts_are_computed_in_steps_of_bounded_size() {
    let (wave, outbox, mut model) = model(64, 1_000_000);
    (0..40).for_each(|_| enter(&wave, &outbox, PREFILL_TOKENS / 4, 10, 10));
    wave.begin();
    while model.turn() {}
    // One alone, 39 in steps of four, and nine more tokens each.
    assert_eq!((model.finished, model.steps), (40, 1 + 10 + 9));
}
