//! What goes into an engine and what comes out: token ids and numbers, no tensors.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::version::PolicyVersion;

/// One prompt, and how many completions of it are wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids of the prompt, tokenised once by the caller.
    pub prompt: Arc<[u32]>,
    /// G: how many completions make the group.
    pub group_size: usize,
    /// Completion `i` draws from a generator seeded by `mix_seed(seed, i)`.
    pub seed: u64,
    pub sampling: Sampling,
}

impl Request {
    /// How many tokens may be drawn: what is asked for, as far as a context of `context` tokens goes. At least one.
    ///
    /// # Errors
    /// If the prompt is empty or fills the context, or no token or no completion is asked for.
    pub fn room(&self, context: usize) -> Result<usize, EngineError> {
        let tokens = self.prompt.len();
        if tokens == 0 || tokens >= context {
            return Err(EngineError::PromptLength { tokens, context });
        }
        if self.sampling.max_new_tokens == 0 || self.group_size == 0 {
            return Err(EngineError::Generate("max_new_tokens or the group's size is 0".into()));
        }
        Ok(self.sampling.max_new_tokens.min(context - tokens))
    }
}

/// How tokens are drawn: from softmax(logits / temperature), cut by top-k, then top-p, then min-p, as transformers does.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn; 0: all.
    pub top_k: usize,
    /// Only the fewest likeliest tokens whose probabilities reach this sum are drawn (arXiv 1904.09751); 1: all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest are drawn (arXiv 2407.01082); 0: all.
    pub min_p: f32,
    /// A completion that reaches this many tokens ends with [`Finish::Length`].
    pub max_new_tokens: usize,
    /// Any of these ids ends the completion with [`Finish::Stop`]; it is the completion's last token.
    pub stop_tokens: Arc<[u32]>,
    /// So does the token whose text completes one of these strings.
    pub stop_strings: StopStrings,
}

impl Sampling {
    /// At a temperature, from all tokens, up to 512 of them, until a stop token.
    pub fn new(temperature: f32, stop_tokens: Vec<u32>) -> Self {
        Self {
            temperature,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            max_new_tokens: 512,
            stop_tokens: stop_tokens.into(),
            stop_strings: StopStrings::default(),
        }
    }

    /// How a completion of `tokens`, of which there may be `most`, ends here; `None` if it goes on.
    pub fn finish(&self, tokens: &[u32], most: usize) -> Option<Finish> {
        let stops = tokens.last().is_some_and(|last| self.stop_tokens.contains(last)) || self.stop_strings.end(tokens);
        match stops {
            true => Some(Finish::Stop),
            false => (tokens.len() >= most).then_some(Finish::Length),
        }
    }
}

/// Bytes of the longest character in UTF-8.
const MAX_CHAR_BYTES: usize = 4;

type Decode = dyn Fn(&[u32]) -> String + Send + Sync;

/// Strings that end a completion. An engine knows ids only, so the caller lends its tokenizer.
#[derive(Clone, Default)]
pub struct StopStrings {
    strings: Arc<[String]>,
    decode: Option<Arc<Decode>>,
}

impl StopStrings {
    /// `decode` gives the text of consecutive tokens.
    pub fn new(strings: Vec<String>, decode: impl Fn(&[u32]) -> String + Send + Sync + 'static) -> Self {
        Self { strings: strings.into(), decode: Some(Arc::new(decode)) }
    }

    pub fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }

    /// Whether the last of `tokens` completes one of the strings, if no token before it did.
    fn end(&self, tokens: &[u32]) -> bool {
        let (Some(decode), Some(longest)) = (&self.decode, self.strings.iter().map(String::len).max()) else {
            return false;
        };
        // A token has at least one byte; one more, because some tokenizers write the first token otherwise. Where tokens
        // are single bytes, a tail may begin inside a character, which spoils all of its text: of any four places in a row
        // one begins a character.
        let tail = &tokens[tokens.len().saturating_sub(longest + MAX_CHAR_BYTES)..];
        for from in 0..MAX_CHAR_BYTES.min(tail.len()) {
            let text = decode(&tail[from..]);
            if self.strings.iter().any(|string| text.contains(string)) {
                return true;
            }
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                return false;
            }
        }
        false
    }
}

impl fmt::Debug for StopStrings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.strings.iter()).finish()
    }
}

/// One sampled answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Sampled ids, the stop token included.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token under the distribution it was drawn from, after top-k, top-p and min-p
    /// (at temperature 0: under softmax(logits)). As long as `tokens`.
    pub log_probs: Vec<f32>,
    /// The same under softmax(logits / temperature), nothing cut away: what a trainer's own forward gives.
    pub full_log_probs: Vec<f32>,
    pub finish: Finish,
    /// The policy that made the first token.
    pub policy: PolicyVersion,
    /// The policy that made the last token: another one if the engine took up a publish in between.
    pub last_policy: PolicyVersion,
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    F32,
    /// On a CPU by the native engine only; mistral.rs needs a GPU for it.
    Bf16,
}

/// How the matrices of a loaded model are packed. Embeddings, norms and the cache are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// As [`Precision`] says.
    None,
    Q8_0,
    Q6K,
    Q5K,
    Q4K,
}

impl Quantization {
    /// Bits that a number of a matrix takes, scales included; `None` if it is not packed.
    pub fn bits(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Q8_0 => Some(8.5),
            Self::Q6K => Some(6.5625),
            Self::Q5K => Some(5.5),
            Self::Q4K => Some(4.5),
        }
    }
}

/// Number format of a paged cache of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheFormat {
    /// That of the activations.
    Auto,
    /// Eight bits, with one scale for all keys and one for all values.
    F8E4M3,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// A stop token was drawn, or a stop string completed.
    Stop,
    /// `max_new_tokens` was reached: the completion is truncated.
    Length,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are bytes, as a tokenizer with byte fallback has them for rare characters: if they are no whole characters, each
    /// of them is written as a replacement.
    fn decode(tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().map(|token| *token as u8).collect();
        String::from_utf8(bytes).unwrap_or_else(|e| "\u{FFFD}".repeat(e.as_bytes().len()))
    }

    #[test]
    fn a_stop_string_ends_with_its_last_byte_wherever_characters_begin() {
        let check = |text: &str, strings: &[&str], end: Option<usize>| {
            let stop = StopStrings::new(strings.iter().map(ToString::to_string).collect(), decode);
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            let found = (1..=tokens.len()).find(|len| stop.end(&tokens[..*len]));
            assert_eq!(found, end, "{text} {strings:?}");
        };
        let before = |text: &str, stop: &str| text.find(stop).map(|at| at + stop.len());
        for text in ["日本語です。終", "aé日𝄞日本𝄞é。終わり", "𝄞𝄞𝄞𝄞𝄞𝄞終", "plain text 終"]
        {
            for stop in ["終", "。終", "日本", "t 終", "nobody"] {
                check(text, &[stop], before(text, stop));
            }
            let first = ["終", "日"].iter().filter_map(|stop| before(text, stop)).min();
            check(text, &["終", "日"], first);
        }
    }
}
