//! Conversations from JSON Lines files: `{"messages": [{"role", "content"}, …]}`, or `{"prompt", "completion"}` where the prompt is
//! text or a list of messages. Every turn of the assistant is one example. The text before it has the weight `prompt_loss_weight`.

use std::path::Path;

use anyhow::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::Examples;
use crate::config::sft::SftConfig;
use crate::error::InputError;
use crate::model::tokenizer::ChatTokenizer;
use crate::seed::mix_seed;
use crate::task::Message;
use crate::terminal;
use crate::train::sft::Example;

/// One line of a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum ConversationLine {
    Messages { messages: Vec<Message> },
    Pair { prompt: ConversationPrompt, completion: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConversationPrompt {
    Text(String),
    Messages(Vec<Message>),
}

impl ConversationLine {
    fn into_messages(self) -> Vec<Message> {
        match self {
            Self::Messages { messages } => messages,
            Self::Pair { prompt, completion } => {
                let mut messages = match prompt {
                    ConversationPrompt::Text(text) => vec![Message::new("user", text)],
                    ConversationPrompt::Messages(messages) => messages,
                };
                messages.push(Message::new("assistant", completion));
                messages
            }
        }
    }
}

/// All examples. Each pass over them has a new random order.
pub struct Conversations {
    examples: Vec<Example>,
    batch_tokens: usize,
    next: usize,
    rng: ChaCha8Rng,
}

impl Conversations {
    /// Reads `data.files`. Examples longer than `context` are skipped and counted.
    ///
    /// # Errors
    /// A missing file, a line that is not a conversation, or no example at all. Names file and line.
    pub fn load(config: &SftConfig, tokenizer: &ChatTokenizer, context: usize) -> Result<Self> {
        let mut examples = Vec::new();
        for path in &config.data.files {
            read(path, tokenizer, config.prompt_loss_weight, &mut examples)?;
        }
        let all = examples.len();
        examples.retain(|example| example.tokens.len() <= context);
        if examples.len() < all {
            let long = all - examples.len();
            terminal::say(format_args!("{long} of {all} examples are longer than {context} tokens and left out"));
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

/// Appends the examples of one file.
fn read(
    path: &Path,
    tokenizer: &ChatTokenizer,
    prompt_weight: f32,
    examples: &mut Vec<Example>,
) -> Result<(), InputError> {
    let text = std::fs::read_to_string(path).map_err(|e| InputError::new(path.display(), e))?;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}:{}", path.display(), number + 1);
        let expected = "expected {\"messages\": [{\"role\", \"content\"}, …]} or {\"prompt\", \"completion\"}";
        let line: ConversationLine =
            serde_json::from_str(line).map_err(|e| InputError::new(place(), format!("{e}; {expected}")))?;
        let messages = line.into_messages();
        for turn in (0..messages.len()).filter(|&turn| messages[turn].role == "assistant") {
            let prompt = tokenizer.encode_prompt(&messages[..turn]).map_err(|e| InputError::new(place(), e))?;
            let answer =
                tokenizer.encode_answer(&messages[..=turn], &prompt).map_err(|e| InputError::new(place(), e))?;
            let mut weights = vec![prompt_weight; prompt.len()];
            weights.resize(prompt.len() + answer.len(), 1.0);
            examples.push(Example { learned: prompt.len(), tokens: [prompt, answer].concat(), weights });
        }
    }
    Ok(())
}
