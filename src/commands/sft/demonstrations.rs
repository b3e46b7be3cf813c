//! Worked Knights-and-Knaves puzzles, generated when they are needed.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use anyhow::Result;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Examples;
use crate::config::sft::SftConfig;
use crate::model::tokenizer::ChatTokenizer;
use crate::seed::mix_seed;
use crate::task::Message;
use crate::task::kk::demo::{self, CarefulShare, Style};
use crate::task::kk::generate::Generator;
use crate::task::kk::puzzle::Puzzle;
use crate::task::kk::statement::Statement;
use crate::task::kk::{prompt, text};
use crate::train::sft::Example;

/// Puzzles of each size that a later run may train or test on. They are never shown here.
const HELD_OUT: usize = 1000;

/// An endless supply of worked puzzles.
pub struct Demonstrations<'a> {
    config: &'a SftConfig,
    people: RangeInclusive<usize>,
    streams: BTreeMap<usize, Generator>,
    held_out: HashSet<Vec<Statement>>,
    rng: ChaCha8Rng,
}

impl<'a> Demonstrations<'a> {
    pub fn new(config: &'a SftConfig, people: RangeInclusive<usize>) -> Self {
        let data = &config.data;
        let streams = people.clone().map(|n| (n, Generator::new(n, data.seed))).collect();
        let held_out = people
            .clone()
            .flat_map(|n| Generator::new(n, data.held_out_seed).take(HELD_OUT))
            .map(|p| p.statements)
            .collect();
        let rng = ChaCha8Rng::seed_from_u64(mix_seed(config.seed, 0xDE30));
        Self { config, people, streams, held_out, rng }
    }

    /// A new puzzle. After all puzzles of a size were shown, they repeat.
    fn puzzle(&mut self, people: usize) -> Puzzle {
        loop {
            let stream = self.streams.entry(people).or_insert_with(|| Generator::new(people, 0));
            match stream.next() {
                Some(puzzle) if !self.held_out.contains(&puzzle.statements) => return puzzle,
                Some(_) => {}
                None => *stream = Generator::new(people, self.rng.random()),
            }
        }
    }

    fn completion(&mut self, puzzle: &Puzzle, along: f64) -> String {
        let data = &self.config.data;
        let late = CarefulShare { at_3: data.careful_at_3, at_14: data.careful_at_14 };
        let share = if along < data.hasty_from { 1.0 } else { late.of(puzzle.people()) };
        let hasty = Style::Hasty { percent_right: data.hasty_percent_right };
        let style = if self.rng.random_bool(share) { Style::Careful } else { hasty };
        demo::completion(puzzle, style, &mut self.rng)
    }

    /// One text for the tokenizer to learn from.
    fn text(&mut self, people: usize) -> String {
        let puzzle = self.puzzle(people);
        let completion = self.completion(&puzzle, 1.0);
        let chat = |m: Message| format!("<|im_start|>{}\n{}<|im_end|>\n", m.role, m.content);
        let mut messages = prompt::messages(text::quiz(&puzzle));
        messages.push(Message::new("assistant", completion));
        messages.into_iter().map(chat).collect()
    }

    /// Texts of every size for a tokenizer to learn from.
    pub fn corpus(&mut self) -> Vec<String> {
        let puzzles = self.config.tokenizer.corpus_puzzles;
        let sizes = self.people.clone().flat_map(|people| (0..puzzles).map(move |_| people));
        sizes.map(|people| self.text(people)).collect()
    }

    pub fn with_tokenizer(self, tokenizer: ChatTokenizer, context: usize) -> Tokenised<'a> {
        Tokenised { demonstrations: self, tokenizer, context }
    }

    /// A random size with a probability inverse to it, so that each size gets about the same number of tokens.
    fn size(&mut self, sizes: RangeInclusive<usize>) -> usize {
        let sizes: Vec<usize> = sizes.collect();
        let drawn = sizes.choose_weighted(&mut self.rng, |&people| 1.0 / people as f64);
        *drawn.expect("sizes are a range of numbers above zero")
    }

    fn exercise(&mut self, tokenizer: &ChatTokenizer, people: usize) -> Result<Example> {
        let puzzle = self.puzzle(people);
        let (list, quotes) = demo::quoting_exercise(&puzzle, 4 * people, &mut self.rng);
        Ok(self.weighted(&tokenizer.encode(&list)?, &tokenizer.encode(&quotes)?))
    }

    fn example(&mut self, tokenizer: &ChatTokenizer, people: usize, along: f64) -> Result<Example> {
        let puzzle = self.puzzle(people);
        let prompt = tokenizer.encode_prompt(&prompt::messages(text::quiz(&puzzle)))?;
        let completion = self.completion(&puzzle, along);
        let mut completion = tokenizer.encode(tokenizer.after_opening(&completion, &prompt)?)?;
        completion.push(tokenizer.end_of_turn);
        Ok(self.weighted(&prompt.ids, &completion))
    }

    /// An example whose text `given` has the weight of a prompt and whose text `learned` has weight 1.
    fn weighted(&self, given: &[u32], learned: &[u32]) -> Example {
        let mut weights = vec![self.config.prompt_loss_weight; given.len()];
        let tokens = [given, learned].concat();
        weights.resize(tokens.len(), 1.0);
        Example { tokens, weights, learned: given.len() }
    }
}

/// Worked puzzles as examples for a model with this tokenizer and context.
pub struct Tokenised<'a> {
    demonstrations: Demonstrations<'a>,
    tokenizer: ChatTokenizer,
    context: usize,
}

impl Examples for Tokenised<'_> {
    fn batch(&mut self, along: f64) -> Result<Vec<Example>> {
        let Self { demonstrations: from, tokenizer, context } = self;
        let (mut batch, mut tokens) = (Vec::new(), 0);
        let (least, most) = (*from.people.start(), *from.people.end());
        let grown = (along / from.config.data.easy_first.max(1e-9)).min(1.0);
        let largest = (least as f64 + (most - least) as f64 * grown).round().clamp(least as f64, most as f64) as usize;
        while tokens < from.config.batch_tokens {
            let people = from.size(least..=largest);
            let exercise = along < from.config.data.exercises_until && from.rng.random();
            let example = match exercise {
                true => from.exercise(tokenizer, people)?,
                false => from.example(tokenizer, people, along)?,
            };
            if example.tokens.len() <= *context {
                tokens += example.tokens.len();
                batch.push(example);
            }
        }
        Ok(batch)
    }
}
