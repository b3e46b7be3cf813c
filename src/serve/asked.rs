//! What a request asks of the engine.

use std::sync::Arc;

use axum::http::StatusCode;
use engine::native::Policy;
use engine::{Request, Sampling};
use serde::Deserialize;

use super::Server;
use super::error::Refused;
use super::parameters::Parameters;
use crate::model::tokenizer::ChatTokenizer;

/// The most completions and tokens that a request may ask for.
const COMPLETIONS: usize = 4096;
const TOKENS: usize = 1 << 22;
/// The most stop strings, their bytes, and the most stop ids.
const STOP_STRINGS: usize = 16;
const STOP_BYTES: usize = 1000;
const STOP_IDS: usize = 1024;

/// See the module. Choice `p · n + i` of the answer is completion `i` of prompt `p`.
pub struct Asked {
    /// The name of the base model or the adapter.
    pub model: String,
    /// `None`: the base model.
    pub policy: Option<Policy>,
    pub requests: Vec<Request>,
    pub stop: Stop,
    pub shown: Shown,
    /// Whether the answer comes in pieces, and whether the last of them counts tokens.
    pub stream: Option<Stream>,
}

/// What ends a completion.
pub struct Stop {
    pub strings: Vec<String>,
    /// Whether the string that ended a completion is part of its text.
    pub included: bool,
    /// The ids that the request names: its answer says which of them it was.
    pub ids: Vec<u32>,
}

/// What the answer shows.
pub struct Shown {
    pub token_ids: bool,
    pub log_probs: bool,
    pub full_log_probs: bool,
    pub text: bool,
    /// Whether special tokens are left out of the text.
    pub skips_special: bool,
}

/// How an answer comes in pieces.
pub struct Stream {
    pub usage: bool,
}

/// How long a completion may be if the request does not say.
#[derive(Clone, Copy)]
pub enum UsualLength {
    /// As OpenAI's completions.
    Sixteen,
    /// As long as the context allows.
    Context,
}

/// A value, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Asked {
    /// Takes what both kinds of completion have in common. The caller takes the rest, and calls [`Parameters::finish`].
    ///
    /// # Errors
    /// A value that is wrong, or more than the server gives.
    pub fn take(
        given: &mut Parameters,
        server: &Server,
        prompts: Vec<Vec<u32>>,
        usual: UsualLength,
    ) -> Result<Self, Refused> {
        let model: String = given.need("model")?;
        let policy = match model == server.serving.name {
            true => None,
            false => Some(server.registry.get(&model).ok_or_else(|| Refused::unknown_model(&model))?),
        };
        let n = given.take("n")?.unwrap_or(1);
        within("n", n, 1, COMPLETIONS)?;
        let max_tokens = match given.take("max_completion_tokens")? {
            Some(tokens) => Some(tokens),
            None => given.take("max_tokens")?,
        };
        let stop = take_stop(given)?;
        let sampling = take_sampling(given, server, &stop)?;
        let seed = given.take("seed")?.unwrap_or_else(rand::random::<u64>);
        let requests = prompts.into_iter().map(|prompt| {
            check_ids(server, &prompt)?;
            let max_new_tokens = length(server, prompt.len(), max_tokens, usual)?;
            let sampling = Sampling { max_new_tokens, ..sampling.clone() };
            Ok(Request { prompt: prompt.into(), group_size: n, seed, sampling })
        });
        let requests = requests.collect::<Result<Vec<_>, Refused>>()?;
        let tokens = |request: &Request| request.group_size.saturating_mul(request.sampling.max_new_tokens);
        if requests.iter().map(tokens).fold(0, usize::saturating_add) > TOKENS {
            return Err(Refused::parameter(
                "max_tokens",
                format!("the request asks for more than {TOKENS} tokens in all"),
            ));
        }
        let shown = Shown {
            token_ids: given.take("return_token_ids")?.unwrap_or(false),
            log_probs: false,
            full_log_probs: given.take("full_token_logprobs")?.unwrap_or(false),
            text: given.take("detokenize")?.unwrap_or(true),
            skips_special: given.take("skip_special_tokens")?.unwrap_or(true),
        };
        let options: Option<StreamOptions> = given.take("stream_options")?;
        let usage = options.is_some_and(|options| options.include_usage);
        let stream = given.take("stream")?.unwrap_or(false).then_some(Stream { usage });
        if stream.is_some() && requests.len() > 1 {
            return Err(Refused::parameter("stream", "a streamed request has one prompt"));
        }
        Ok(Self { model, policy, requests, stop, shown, stream })
    }

    pub fn prompt_tokens(&self) -> usize {
        self.requests.iter().map(|request| request.prompt.len()).sum()
    }
}

fn check_ids(server: &Server, prompt: &[u32]) -> Result<(), Refused> {
    let size = server.serving.decoder.vocab_size;
    match prompt.iter().find(|id| **id as usize >= size) {
        Some(id) => Err(Refused::parameter("prompt", format!("token {id} is not in the vocabulary of {size}"))),
        None => Ok(()),
    }
}

/// The longest completion of a prompt.
fn length(server: &Server, prompt: usize, asked: Option<usize>, usual: UsualLength) -> Result<usize, Refused> {
    let context = server.serving.decoder.max_position_embeddings;
    let room = match prompt {
        0 => return Err(Refused::parameter("prompt", "is empty")),
        prompt if prompt >= context => {
            let problem = format!("{prompt} tokens leave no room in the model's context of {context}");
            return Err(Refused::parameter("prompt", problem));
        }
        prompt => context - prompt,
    };
    match asked {
        Some(tokens) => {
            within("max_tokens", tokens, 1, room)?;
            Ok(tokens)
        }
        None => Ok(match usual {
            UsualLength::Sixteen => room.min(16),
            UsualLength::Context => room,
        }),
    }
}

fn take_stop(given: &mut Parameters) -> Result<Stop, Refused> {
    let strings = given.take::<OneOrMany<String>>("stop")?.map_or_else(Vec::new, OneOrMany::into_vec);
    if strings.len() > STOP_STRINGS || strings.iter().any(|it| it.is_empty() || it.len() > STOP_BYTES) {
        let problem = format!("at most {STOP_STRINGS} strings of 1 to {STOP_BYTES} bytes");
        return Err(Refused::parameter("stop", problem));
    }
    let ids: Vec<u32> = given.take("stop_token_ids")?.unwrap_or_default();
    if ids.len() > STOP_IDS {
        return Err(Refused::parameter("stop_token_ids", format!("at most {STOP_IDS} ids")));
    }
    let included = given.take("include_stop_str_in_output")?.unwrap_or(false);
    Ok(Stop { strings, included, ids })
}

fn take_sampling(given: &mut Parameters, server: &Server, stop: &Stop) -> Result<Sampling, Refused> {
    let tokenizer = &server.serving.tokenizer;
    let own = match given.take("ignore_eos")?.unwrap_or(false) {
        true => &[][..],
        false => &tokenizer.stop_tokens[..],
    };
    let stop_tokens: Vec<u32> = own.iter().chain(&stop.ids).copied().collect();
    let temperature: f32 = given.take("temperature")?.unwrap_or(1.0);
    if temperature != 0.0 && !(1e-3..=100.0).contains(&temperature) {
        return Err(Refused::parameter("temperature", format!("must be 0, or from 0.001 to 100, got {temperature}")));
    }
    let top_k: i64 = given.take("top_k")?.unwrap_or(0);
    let (top_p, min_p): (f32, f32) = (given.take("top_p")?.unwrap_or(1.0), given.take("min_p")?.unwrap_or(0.0));
    within("top_k", top_k, -1, i64::from(u32::MAX))?;
    within("top_p", top_p, 1e-6, 1.0)?;
    within("min_p", min_p, 0.0, 1.0)?;
    Ok(Sampling {
        top_k: usize::try_from(top_k).unwrap_or(0),
        top_p,
        min_p,
        stop_strings: ChatTokenizer::stop_strings(tokenizer, stop.strings.clone()),
        ..Sampling::new(temperature, stop_tokens)
    })
}

/// # Errors
/// A value outside its limits. NaN is outside.
fn within<T: PartialOrd + std::fmt::Display>(name: &str, value: T, low: T, high: T) -> Result<(), Refused> {
    match value >= low && value <= high {
        true => Ok(()),
        false => Err(Refused::parameter(name, format!("must be from {low} to {high}, got {value}"))),
    }
}

/// A slot for a request, as long as it is answered.
///
/// # Errors
/// Status 503 if too many are answered now.
pub fn slot(server: &Server) -> Result<tokio::sync::OwnedSemaphorePermit, Refused> {
    Arc::clone(&server.running).try_acquire_owned().map_err(|_| {
        let message = format!("{} requests are answered now; try again later", server.serving.limits.requests);
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })
}
