//! What goes into an engine and what comes out: token ids and numbers, no tensors.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::version::PolicyVersion;

/// One prompt, and how many completions of it to sample.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids of the prompt; the caller tokenises it once.
    pub prompt: Arc<[u32]>,
    /// G: the number of completions.
    pub group_size: usize,
    /// Completion `i` draws from a generator with the seed `mix_seed(seed, i)`.
    pub seed: u64,
    pub sampling: Sampling,
}

impl Request {
    /// How many tokens may be drawn: `max_new_tokens`, or fewer if a context of `context` tokens ends before. At least
    /// one.
    ///
    /// # Errors
    /// If the prompt is empty or fills the context, or the request asks for no token or no completion.
    pub fn room(&self, context: usize) -> Result<usize, EngineError> {
        let tokens = self.prompt.len();
        if tokens == 0 || tokens >= context {
            return Err(EngineError::PromptLength { tokens, context });
        }
        if self.sampling.max_new_tokens == 0 || self.group_size == 0 {
            return Err(EngineError::Generate("max_new_tokens or group_size is 0".into()));
        }
        Ok(self.sampling.max_new_tokens.min(context - tokens))
    }
}

/// How tokens are drawn: from softmax(logits / temperature), truncated by top-k, then top-p, then min-p, as in
/// transformers.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Only this many of the likeliest tokens may be drawn; 0: all.
    pub top_k: usize,
    /// Only the smallest set of likeliest tokens whose probabilities reach this sum may be drawn (arXiv 1904.09751); 1:
    /// all.
    pub top_p: f32,
    /// Only tokens with at least this fraction of the largest probability may be drawn (arXiv 2407.01082); 0: all.
    pub min_p: f32,
    /// A completion of this many tokens ends with [`Finish::Length`].
    pub max_new_tokens: usize,
    /// Any of these ids ends the completion with [`Finish::Stop`], and is its last token.
    pub stop_tokens: Arc<[u32]>,
    /// A token whose text completes one of these strings does so too.
    pub stop_strings: StopStrings,
}

impl Sampling {
    /// At a temperature, without truncation, up to 512 tokens, until a stop token.
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

    /// How a completion of `tokens` ends at its last one, if there may be `most` tokens; `None` if it continues.
    pub fn finish(&self, tokens: &[u32], most: usize) -> Option<Finish> {
        let stops = tokens.last().is_some_and(|last| self.stop_tokens.contains(last)) || self.stop_strings.end(tokens);
        match stops {
            true => Some(Finish::Stop),
            false => (tokens.len() >= most).then_some(Finish::Length),
        }
    }
}

/// Bytes of the longest UTF-8 character.
const MAX_CHAR_BYTES: usize = 4;

type Decode = dyn Fn(&[u32]) -> String + Send + Sync;

/// Strings that end a completion. An engine knows only ids, so the caller provides the decoder.
#[derive(Clone, Default)]
pub struct StopStrings {
    strings: Arc<[String]>,
    decode: Option<Arc<Decode>>,
}

impl StopStrings {
    /// `decode` returns the text of consecutive tokens.
    pub fn new(strings: Vec<String>, decode: impl Fn(&[u32]) -> String + Send + Sync + 'static) -> Self {
        Self { strings: strings.into(), decode: Some(Arc::new(decode)) }
    }

    pub fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }

    pub fn strings(&self) -> &[String] {
        &self.strings
    }

    /// Whether the last of `tokens` completes one of the strings; no earlier token may have.
    fn end(&self, tokens: &[u32]) -> bool {
        let (Some(decode), Some(longest)) = (&self.decode, self.strings.iter().map(String::len).max()) else {
            return false;
        };
        // A token has at least one byte, so this tail is long enough, with room for one more token, because some
        // tokenizers decode the first token differently. If tokens are single bytes, the tail may begin inside a
        // character, and then all of its text is replaced. Of any four consecutive positions one begins a character.
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

/// One sampled completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The sampled ids, with the stop token.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token under the distribution it was drawn from, after top-k, top-p and min-p (at
    /// temperature 0: under softmax(logits)). As long as `tokens`.
    pub log_probs: Vec<f32>,
    /// The same under softmax(logits / temperature), without truncation: what a trainer's forward gives.
    pub full_log_probs: Vec<f32>,
    pub finish: Finish,
    /// The policy of the first token.
    pub policy: PolicyVersion,
    /// The policy of the last token: another one if there was a publish in between.
    pub last_policy: PolicyVersion,
    /// The address of the server that sampled it; `None`: this process.
    pub endpoint: Option<Arc<str>>,
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    F32,
    /// On a CPU in the native engine only; mistral.rs needs a GPU for it.
    Bf16,
}

/// How the matrices of a loaded model are quantized. Embeddings, norms and the cache are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// Not quantized: as [`Precision`] says.
    None,
    Q8_0,
    Q6K,
    Q5K,
    Q4K,
}

impl Quantization {
    /// Bits per number of a matrix, scales included; `None` if it is not quantized.
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
    /// The format of the activations.
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

    /// Tokens are bytes, as in a tokenizer with byte fallback. If they do not form whole characters, each of them is
    /// decoded as a replacement character.
    fn decode(tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().map(|token| *token as u8).collect();
        String::from_utf8(bytes).unwrap_or_else(|e| "\u{FFFD}".repeat(e.as_bytes().len()))
    }

    #[test]
    fn a_stop_string_ends_at_its_last_byte_wherever_characters_begin() {
        let check = |text: &str, strings: &[&str], end: Option<usize>| {
            let stop = StopStrings::new(strings.iter().map(ToString::to_string).collect(), decode);
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            let found = (1..=tokens.len()).find(|len| stop.end(&tokens[..*len]));
            assert_eq!(found, end, "{text} {strings:?}");
        };
        let before = |text: &str, stop: &str| text.find(stop).map(|at| at + stop.len());
        for text in ["日本語です。終", "aé日𝄞日本𝄞é。終わり", "𝄞𝄞𝄞𝄞𝄞𝄞終", "plain text 終"]
        {
            for stop in ["終", "。終", "日本", "t 終", "absent"] {
                check(text, &[stop], before(text, stop));
            }
            let first = ["終", "日"].iter().filter_map(|stop| before(text, stop)).min();
            check(text, &["終", "日"], first);
        }
    }
}
