//! A model's tokenizer and chat template. Prompts become ids here, once; completions become text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::StopStrings;
use engine::decoder::DecoderConfig;
use serde::Deserialize;

use crate::error::InputError;
use crate::task::Message;

/// Tokenizer, chat template and stop tokens of a Hugging Face folder.
pub struct ChatTokenizer {
    inner: tokenizers::Tokenizer,
    template: minijinja::Environment<'static>,
    path: PathBuf,
    bos: String,
    eos: String,
    /// The token with which the chat template ends the assistant's turn, or eos_token if that is not a special token.
    pub end_of_turn: u32,
    /// Ids that end a completion: eos_token, those in the model's configuration, and `end_of_turn`.
    pub stop_tokens: Arc<[u32]>,
}

/// The parts of `tokenizer_config.json` that are needed.
#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    #[serde(default)]
    bos_token: Option<TokenText>,
    eos_token: TokenText,
}

/// One chat template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl Templates {
    /// The only one, or the one named `default`.
    fn into_default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(all) => all.into_iter().find(|it| it.name == "default").map(|it| it.template),
        }
    }
}

/// A special token is written as text, or as an object with its `content`.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Object { content: String },
}

impl TokenText {
    fn into_text(self) -> String {
        match self {
            Self::Text(content) | Self::Object { content } => content,
        }
    }
}

const TEMPLATE: &str = "chat";

impl ChatTokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and, if it exists, `chat_template.jinja`.
    ///
    /// # Errors
    /// If a file is missing or broken, there is no chat template, or an id is outside of the model's vocabulary.
    pub fn load(dir: &Path, config: &DecoderConfig) -> Result<Self, InputError> {
        let path = dir.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_file(&path).map_err(|e| InputError::new(path.display(), e))?;
        let size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let vocab = config.vocab_size;
        if size > vocab {
            let problem = format!(
                "the tokenizer has {size} tokens but the model's vocab_size is {vocab}: it is not this model's"
            );
            return Err(InputError::new(path.display(), problem));
        }
        let settings: TokenizerConfig = read_json(&dir.join("tokenizer_config.json"))?;
        let eos = settings.eos_token.into_text();
        let eos_id = inner.token_to_id(&eos).ok_or_else(|| {
            InputError::new(
                dir.join("tokenizer_config.json").display(),
                format!("eos_token {eos:?} is not in the vocabulary"),
            )
        })?;
        let template = chat_template(dir, settings.chat_template)?;
        let bos = settings.bos_token.map(TokenText::into_text).unwrap_or_default();
        let mut tokenizer = Self { inner, template, path, bos, eos, end_of_turn: eos_id, stop_tokens: Arc::new([]) };
        tokenizer.end_of_turn = tokenizer.find_end_of_turn().unwrap_or(eos_id);
        let mut stop_tokens = config.eos_token_ids();
        stop_tokens.extend([eos_id, tokenizer.end_of_turn]);
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        tokenizer.stop_tokens = stop_tokens.into();
        Ok(tokenizer)
    }

    /// The special token after an answer in the template's text, ignoring white space. `None` if the template refuses this
    /// conversation; it may still accept others.
    fn find_end_of_turn(&self) -> Option<u32> {
        let messages = [Message::new("user", "?"), Message::new("assistant", "!")];
        let text = self.render(&messages, false).ok()?;
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let last = added.filter(|(_, token)| token.special && text.trim_end().ends_with(&token.content));
        last.max_by_key(|(_, token)| token.content.len()).map(|(id, _)| id)
    }

    /// The ids of a conversation, up to the start of the assistant's turn.
    ///
    /// # Errors
    /// If the template refuses the messages, for example because of an unknown role.
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>, InputError> {
        self.encode(&self.render(messages, true)?)
    }

    /// The ids of the last message, which must be the assistant's, including the end of its turn. `prompt` must be
    /// [`encode_prompt`](Self::encode_prompt) of the messages before it.
    ///
    /// # Errors
    /// If the template refuses the messages, or does not continue the prompt with the answer.
    pub fn encode_answer(&self, messages: &[Message], prompt: &[u32]) -> Result<Vec<u32>, InputError> {
        let before = &messages[..messages.len().saturating_sub(1)];
        let (start, whole) = (self.render(before, true)?, self.render(messages, false)?);
        let fail = |problem: &str| InputError::new(self.path.display(), problem);
        let answer = whole.strip_prefix(&start);
        let answer = answer.ok_or_else(|| fail("the chat template does not continue a prompt with its answer"))?;
        // White space after the end of the turn belongs to the next turn.
        let end = answer.trim_end().len();
        // Encoded together, because some tokenizers encode the first word of a text differently.
        let together = self.encode(&whole[..start.len() + end])?;
        match together.strip_prefix(prompt) {
            Some(answer) => Ok(answer.to_vec()),
            None => self.encode(&answer[..end]),
        }
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, InputError> {
        let context = minijinja::context! {
            messages => messages, add_generation_prompt, bos_token => self.bos, eos_token => self.eos,
        };
        let text = self.template.get_template(TEMPLATE).and_then(|template| template.render(context));
        text.map_err(|e| InputError::new(self.path.display(), format!("the chat template failed: {e}")))
    }

    /// The ids of plain text, without special tokens added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, InputError> {
        let encoding = self.inner.encode(text, false).map_err(|e| InputError::new(self.path.display(), e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Strings that end a completion, found in this tokenizer's text.
    pub fn stop_strings(this: &Arc<Self>, strings: Vec<String>) -> StopStrings {
        let this = Arc::clone(this);
        // Ids that cannot be decoded are reported when the whole completion is decoded.
        StopStrings::new(strings, move |tokens| this.inner.decode(tokens, false).unwrap_or_default())
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

/// `chat_template.jinja` if it exists, as in transformers, else the template in `tokenizer_config.json`.
fn chat_template(dir: &Path, from_config: Option<Templates>) -> Result<minijinja::Environment<'static>, InputError> {
    let file = dir.join("chat_template.jinja");
    let source = match file.exists() {
        true => std::fs::read_to_string(&file).map_err(|e| InputError::new(file.display(), e))?,
        false => from_config.and_then(Templates::into_default).ok_or_else(|| {
            let problem = "the model has no chat template: neither this file nor chat_template (a text, or a list with one \
                           named \"default\") in tokenizer_config.json";
            InputError::new(file.display(), problem)
        })?,
    };
    let mut environment = minijinja::Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<(), minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
    });
    environment
        .add_template_owned(TEMPLATE, source)
        .map_err(|e| InputError::new(dir.display(), format!("the chat template is broken: {e}")))?;
    Ok(environment)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, InputError> {
    let text = std::fs::read_to_string(path).map_err(|e| InputError::new(path.display(), e))?;
    serde_json::from_str(&text).map_err(|e| InputError::new(path.display(), e))
}
