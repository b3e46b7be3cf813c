//! A model's tokenizer and chat template. Prompts become ids here, once; completions become text.
//!
//! - `settings`: the files beside `tokenizer.json` · `opening`: what a template begins of an answer

mod opening;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Local, NaiveDateTime};
use engine::StopStrings;
use engine::decoder::DecoderConfig;
use serde::de::IgnoredAny;
use tokenizers::Tokenizer;

use crate::error::InputError;
use crate::files::read_text;
use crate::model::chat_template::ChatTemplate;
use crate::model::chat_template::source::TemplateSource;
use crate::panics;
use crate::task::Message;
use opening::Openings;
use settings::TokenizerSettings;

/// The ids of a prompt.
pub struct Prompt {
    pub ids: Vec<u32>,
    /// What the end of the prompt says in the assistant's place, from a tag on that it opens: `<think>\n`. Empty if there is none.
    pub opening: String,
}

/// Tokenizer, chat template and stop tokens of a Hugging Face folder.
pub struct ChatTokenizer {
    inner: Tokenizer,
    template: ChatTemplate,
    openings: Openings,
    path: PathBuf,
    /// The token with which the chat template ends the assistant's turn, or eos_token if that is not a special token.
    pub end_of_turn: u32,
    /// Ids that end a completion: eos_token, those in the model's configuration, and `end_of_turn`.
    pub stop_tokens: Arc<[u32]>,
}

impl ChatTokenizer {
    /// Reads `tokenizer.json`, the files beside it, and the chat template.
    ///
    /// # Errors
    /// If a file is missing or broken, there is no chat template, or an id is outside of the model's vocabulary.
    pub fn load(dir: &Path, config: &DecoderConfig) -> Result<Self, InputError> {
        let path = dir.join("tokenizer.json");
        let mut inner = read_tokenizer(&path)?;
        let mut settings = TokenizerSettings::load(dir)?;
        settings.apply(&mut inner)?;
        check_size(&path, &inner, config.vocab_size)?;
        let source = TemplateSource::find(dir, settings.chat_template.take())?;
        let now = now(&source)?;
        let template = ChatTemplate::new(source, &settings.special_tokens, now)?;
        let openings = Openings::of(&template);
        let mut tokenizer = Self { inner, template, openings, path, end_of_turn: 0, stop_tokens: Arc::new([]) };
        let eos = settings.special_tokens.get("eos_token").and_then(|text| tokenizer.inner.token_to_id(text));
        let mut stop_tokens = config.eos_token_ids();
        let end_of_turn = tokenizer.find_end_of_turn().or(eos).or(stop_tokens.first().copied());
        tokenizer.end_of_turn = end_of_turn.ok_or_else(|| {
            let problem = "nothing says which token ends an answer: there is no eos_token here or in special_tokens_map.json, no \
                           eos_token_id in config.json, and the chat template ends an answer with no special token";
            InputError::new(dir.join("tokenizer_config.json").display(), problem)
        })?;
        stop_tokens.extend(eos.into_iter().chain([tokenizer.end_of_turn]));
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        tokenizer.stop_tokens = stop_tokens.into();
        Ok(tokenizer)
    }

    /// The special token after an answer in the template's text, ignoring white space. `None` if the template refuses this
    /// conversation; it may still accept others.
    fn find_end_of_turn(&self) -> Option<u32> {
        let messages = [Message::new("user", "?"), Message::new("assistant", "!")];
        let text = self.template.render(&messages, false).ok()?;
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let last = added.filter(|(_, token)| token.special && text.trim_end().ends_with(&token.content));
        last.max_by_key(|(_, token)| token.content.len()).map(|(id, _)| id)
    }

    /// A conversation, up to the start of the assistant's turn.
    ///
    /// # Errors
    /// If the template refuses the messages, for example because of an unknown role.
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Prompt, InputError> {
        let text = self.template.render(messages, true)?;
        // A template that refuses to leave out the start of the assistant's turn does not show what belongs to it.
        let before = self.template.render(messages, false).unwrap_or_else(|_| text.clone());
        Ok(Prompt { ids: self.encode(&text)?, opening: self.openings.at_the_end_of(&text, &before) })
    }

    /// The ids of the last message, which must be the assistant's, including the end of its turn. `prompt` must be
    /// [`encode_prompt`](Self::encode_prompt) of the messages before it.
    ///
    /// # Errors
    /// If the template refuses the messages, or does not continue the prompt with the answer.
    pub fn encode_answer(&self, messages: &[Message], prompt: &Prompt) -> Result<Vec<u32>, InputError> {
        let Some((last, before)) = messages.split_last() else { return Ok(Vec::new()) };
        let start = self.template.render(before, true)?;
        if !prompt.opening.is_empty() {
            // Told by the prompt and the answer alone: a template that opens an answer often hides that part of past turns.
            let answer = self.after_opening(&last.content, prompt)?;
            let mut ids = self.continued(&start, answer.trim_end(), &prompt.ids)?;
            ids.push(self.end_of_turn);
            return Ok(ids);
        }
        let whole = self.template.render(messages, false)?;
        let answer = whole.strip_prefix(&start).ok_or_else(|| {
            InputError::new(self.path.display(), "the chat template does not continue a prompt with its answer")
        })?;
        // White space after the end of the turn belongs to the next turn.
        self.continued(&start, answer.trim_end(), &prompt.ids)
    }

    /// What is left to say of `answer` after the prompt has begun it.
    ///
    /// # Errors
    /// An answer that does not begin as the prompt does.
    pub fn after_opening<'a>(&self, answer: &'a str, prompt: &Prompt) -> Result<&'a str, InputError> {
        let opening = prompt.opening.trim_end();
        let rest = answer.trim_start().strip_prefix(opening).ok_or_else(|| {
            let problem = format!(
                "the chat template begins an answer with {opening:?}, but this one begins otherwise: {answer:?}"
            );
            InputError::new(self.path.display(), problem)
        });
        // The white space after it is in the prompt already.
        if prompt.opening.len() > opening.len() { rest.map(str::trim_start) } else { rest }
    }

    /// The ids of `answer` behind `start`, whose ids are `prompt`.
    fn continued(&self, start: &str, answer: &str, prompt: &[u32]) -> Result<Vec<u32>, InputError> {
        // Encoded together, because some tokenizers encode the first word of a text differently.
        let together = self.encode(&[start, answer].concat())?;
        match together.strip_prefix(prompt) {
            Some(answer) => Ok(answer.to_vec()),
            None => self.encode(answer),
        }
    }

    /// The ids of plain text, without special tokens added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, InputError> {
        self.encode_with(text, false)
    }

    /// The ids of plain text. With `adds_special` also those that the tokenizer puts around a text, such as its beginning.
    pub fn encode_with(&self, text: &str, adds_special: bool) -> Result<Vec<u32>, InputError> {
        let encoding = self.inner.encode(text, adds_special).map_err(|e| InputError::new(self.path.display(), e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Strings that end a completion, found in this tokenizer's text.
    pub fn stop_strings(this: &Arc<Self>, strings: Vec<String>) -> StopStrings {
        let this = Arc::clone(this);
        // Ids that cannot be decoded are reported when the whole completion is decoded.
        StopStrings::new(strings, move |tokens| this.decode(tokens, false))
    }

    /// The text of tokens, without special ones if `skips_special`. What cannot be decoded has no text.
    pub fn decode(&self, tokens: &[u32], skips_special: bool) -> String {
        self.inner.decode(tokens, skips_special).unwrap_or_default()
    }

    /// The text of a completion, without a stop token at its end.
    pub fn decode_completion(&self, tokens: &[u32]) -> Result<String, InputError> {
        let spoken = match tokens.split_last() {
            Some((last, rest)) if self.stop_tokens.contains(last) => rest,
            _ => tokens,
        };
        self.inner.decode(spoken, false).map_err(|e| InputError::new(self.path.display(), e))
    }
}

/// What a template is told as the date: that of `SOURCE_DATE_EPOCH` (seconds since 1970, UTC), else the local time.
///
/// # Errors
/// A variable that is no such number.
fn now(source: &TemplateSource) -> Result<NaiveDateTime, InputError> {
    const VARIABLE: &str = "SOURCE_DATE_EPOCH";
    match std::env::var(VARIABLE) {
        Ok(seconds) => {
            let instant = seconds.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
            let problem = format!("expected seconds since 1970, got {seconds:?}");
            instant.map(|it| it.naive_utc()).ok_or_else(|| InputError::new(VARIABLE, problem))
        }
        Err(_) => {
            if source.text.contains("strftime_now") {
                let place = &source.place;
                tracing::warn!(
                    "{place}: prompts tell the date, so a run goes on exactly only on the same day, or with {VARIABLE}"
                );
            }
            Ok(Local::now().naive_local())
        }
    }
}

/// # Errors
/// A missing or broken file. What a model without it has instead must be converted.
fn read_tokenizer(path: &Path) -> Result<Tokenizer, InputError> {
    let others = ["tokenizer.model", "vocab.json", "tiktoken.model", "tekken.json", "spiece.model", "vocab.txt"];
    if let (false, Some(dir)) = (path.exists(), path.parent())
        && let Some(other) = others.into_iter().find(|name| dir.join(name).exists())
    {
        let problem = format!(
            "is missing, and {other} is not read; make it with Python: transformers.AutoTokenizer.from_pretrained(DIR)\
             .save_pretrained(DIR)"
        );
        return Err(InputError::new(path.display(), problem));
    }
    let text = read_text(path)?;
    serde_json::from_str::<IgnoredAny>(&text).map_err(|e| InputError::new(path.display(), e))?;
    // The tokenizers crate panics on some files that are JSON and no tokenizer.
    let read = panics::caught_quietly(|| Tokenizer::from_bytes(&text));
    let read = read.map_err(|message| InputError::new(path.display(), format!("is no tokenizer: {message}")))?;
    let mut tokenizer = read.map_err(|e| InputError::new(path.display(), e))?;
    // As transformers, which encodes a conversation without either.
    tokenizer.with_padding(None).with_truncation(None).map_err(|e| InputError::new(path.display(), e))?;
    Ok(tokenizer)
}

fn check_size(path: &Path, tokenizer: &Tokenizer, vocab: usize) -> Result<(), InputError> {
    let last = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    match last {
        Some((token, id)) if id as usize >= vocab => {
            let size = id as usize + 1;
            let problem = format!(
                "the tokenizer has {size} tokens (the last is {token:?}) but the model's vocab_size is {vocab}: it is not this \
                 model's, or a file beside it adds a token"
            );
            Err(InputError::new(path.display(), problem))
        }
        _ => Ok(()),
    }
}
