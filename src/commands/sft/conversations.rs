//! Conversations from files. Every turn of the assistant that is learned is one example. The text before it has the weight
//! `prompt_loss_weight`.

use anyhow::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use super::Examples;
use super::conversation::Conversation;
use crate::config::sft::SftConfig;
use crate::error::InputError;
use crate::model::tokenizer::ChatTokenizer;
use crate::pipeline::dataset::LongRows;
use crate::seed::mix_seed;
use crate::task::rows;
use crate::terminal;
use crate::train::sft::Example;

/// All examples. Each pass over them has a new random order.
pub struct Conversations {
    examples: Vec<Example>,
    batch_tokens: usize,
    next: usize,
    rng: ChaCha8Rng,
}

impl Conversations {
    /// Reads `data.files`. Examples longer than `context` are left out, counted, and the first few are named.
    ///
    /// # Errors
    /// A missing file, a row that is not a conversation, or no example at all. Names file and line.
    pub fn load(config: &SftConfig, tokenizer: &ChatTokenizer, context: usize) -> Result<Self> {
        let (mut examples, mut too_long) = (Vec::new(), LongRows::default());
        for path in &config.data.files {
            rows::objects(path, |fields, place| {
                for example in read(fields, tokenizer, config.prompt_loss_weight)? {
                    match example.tokens.len() <= context {
                        true => examples.push(example),
                        false => too_long.push(place, example.tokens.len()),
                    }
                }
                Ok(())
            })?;
        }
        if too_long.count > 0 {
            let (left_out, all) = (too_long.count, too_long.count + examples.len());
            let what =
                format_args!("{left_out} of {all} examples are longer than {context} tokens and left out ({too_long})");
            terminal::say(what);
        }
        if examples.is_empty() {
            return Err(InputError::new("data.files", "hold no turn of an assistant that fits the context").into());
        }
        terminal::say(format_args!("{} examples", examples.len()));
        let rng = ChaCha8Rng::seed_from_u64(mix_seed(config.seed, 0xC0DE));
        Ok(Self { next: examples.len(), examples, batch_tokens: config.batch_tokens, rng })
    }
}

impl Examples for Conversations {
    fn batch(&mut self, _along: f64) -> Result<Vec<Example>> {
        let (mut batch, mut tokens) = (Vec::new(), 0);
        while tokens < self.batch_tokens {
            if self.next == self.examples.len() {
                self.examples.shuffle(&mut self.rng);
                self.next = 0;
            }
            let example = self.examples[self.next].clone();
            self.next += 1;
            tokens += example.tokens.len();
            batch.push(example);
        }
        Ok(batch)
    }
}

/// The examples of one row.
fn read(fields: Map<String, Value>, tokenizer: &ChatTokenizer, prompt_weight: f32) -> Result<Vec<Example>, String> {
    let conversation = Conversation::read(fields)?;
    let messages = &conversation.messages;
    let example = |turn: usize| {
        let prompt = tokenizer.encode_prompt(&messages[..turn])?;
        let answer = tokenizer.encode_answer(&messages[..=turn], &prompt)?;
        let prompt = prompt.ids;
        let mut weights = vec![prompt_weight; prompt.len()];
        weights.resize(prompt.len() + answer.len(), 1.0);
        Ok(Example { learned: prompt.len(), tokens: [prompt, answer].concat(), weights })
    };
    conversation.turns().map(example).collect::<Result<_, InputError>>().map_err(|error| error.to_string())
}
