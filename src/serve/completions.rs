//! `POST /v1/completions`: text or token ids are continued.

use serde::Deserialize;

use super::Server;
use super::asked::{Asked, UsualLength};
use super::error::Refused;
use super::parameters::Parameters;

/// The most prompts of a request.
const PROMPTS: usize = 1024;

/// Prompts as they are given.
#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// # Errors
/// What is wrong with the body.
pub fn read(mut given: Parameters, server: &Server) -> Result<Asked, Refused> {
    let prompts = serde_json::from_value(given.need("prompt")?);
    let problem = "must be text, a list of texts, token ids, or a list of token ids";
    let prompts: Prompts = prompts.map_err(|_| Refused::parameter("prompt", problem))?;
    let adds_special = given.take("add_special_tokens")?.unwrap_or(true);
    let encode = |text: &String| {
        let ids = server.serving.tokenizer.encode_with(text, adds_special);
        ids.map_err(|error| Refused::parameter("prompt", error.problem))
    };
    let prompts = match prompts {
        Prompts::Text(text) => vec![encode(&text)?],
        Prompts::Ids(ids) => vec![ids],
        Prompts::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Prompts::ManyIds(many) => many,
    };
    if prompts.is_empty() || prompts.len() > PROMPTS {
        return Err(Refused::parameter("prompt", format!("must be from 1 to {PROMPTS} prompts")));
    }
    let log_probs: Option<usize> = given.take("logprobs")?;
    let mut asked = Asked::take(&mut given, server, prompts, UsualLength::Sixteen)?;
    asked.shown.log_probs = match log_probs {
        None => false,
        Some(0) => true,
        Some(_) => return Err(Refused::parameter("logprobs", "must be 0: only the drawn token's is known")),
    };
    given.finish()?;
    Ok(asked)
}
