//! Finds out what a server is, and refuses those that cannot serve training exactly, with what to do about it.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::HttpServer;
use super::completions::{self, Completions, Dialect};
use super::program::Program;
use super::transport::Body;
use crate::remote::{Capabilities, Failure, FailureKind};

/// A log-probability this close to 0 is that of the only token allowed.
const CERTAIN: f32 = 1e-3;

#[derive(Default, Deserialize)]
pub struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
pub struct Model {
    id: String,
    owned_by: Option<String>,
    /// The base model of an adapter.
    parent: Option<String>,
    max_model_len: Option<usize>,
    dump_rl: Option<Value>,
}

impl Models {
    fn bases(&self) -> impl Iterator<Item = &Model> {
        self.data.iter().filter(|model| model.parent.is_none())
    }

    pub fn adapters(self) -> Vec<String> {
        self.data.into_iter().filter(|model| model.parent.is_some()).map(|model| model.id).collect()
    }
}

/// What is known about a server's program before its model is looked at.
struct Identity {
    program: Program,
    version: String,
    keeps_seeds: bool,
}

pub async fn probe(server: &HttpServer) -> Result<(Program, Capabilities), Failure> {
    let models = server.models().await?;
    let identity = identify(server, &models).await?;
    let base = base(server, &models)?;
    check_context(server, base)?;
    if identity.program != Program::Ours {
        check_settings(server, identity.program)?;
        check_adapter_route(server, identity.program).await?;
    }
    match identity.program {
        Program::Ours => check_vocabulary(server, base)?,
        Program::Vllm => check_answers(server, &base.id).await?,
        Program::Sglang => {}
    }
    let capabilities = Capabilities {
        name: format!("{} {}", identity.program.name(), identity.version),
        keeps_seeds: identity.keeps_seeds,
    };
    Ok((identity.program, capabilities))
}

async fn identify(server: &HttpServer, models: &Models) -> Result<Identity, Failure> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("of unknown version").to_string();
    let first = models.data.first();
    if let Some(ours) = first.and_then(|model| model.dump_rl.as_ref()) {
        let keeps_seeds = ours.get("keeps_seeds") == Some(&Value::Bool(true));
        return Ok(Identity { program: Program::Ours, version: text(ours.get("version")), keeps_seeds });
    }
    if first.is_some_and(|model| model.owned_by.as_deref() == Some("vllm"))
        && let Some(version) = get(server, "/version").await?.as_ref().and_then(|answer| answer.get("version"))
    {
        return Ok(Identity { program: Program::Vllm, version: text(Some(version)), keeps_seeds: false });
    }
    for route in ["/get_model_info", "/model_info"] {
        if get(server, route).await?.is_some_and(|info| info.get("model_path").is_some()) {
            let version = server_info(server).await?;
            let version = text(version.as_ref().and_then(|info| info.get("version")));
            return Ok(Identity { program: Program::Sglang, version, keeps_seeds: false });
        }
    }
    let owner = first.and_then(|model| model.owned_by.as_deref());
    let owner = owner.map(|owner| format!(" (its models are owned by {owner:?})")).unwrap_or_default();
    Err(unfit(
        server,
        &format!(
            "it is neither vLLM nor SGLang nor `dump-rl serve`{owner}: it neither takes nor gives token ids, so nothing \
             that it samples can be trained on exactly"
        ),
    ))
}

/// The model that is served under the name of the settings, or the only one.
fn base<'a>(server: &HttpServer, models: &'a Models) -> Result<&'a Model, Failure> {
    let names = || models.bases().map(|model| model.id.as_str()).collect::<Vec<_>>().join(", ");
    let found = match &server.settings.model {
        Some(name) => models.bases().find(|model| model.id == *name).ok_or_else(|| format!("it serves no {name}, but")),
        None => {
            let mut bases = models.bases();
            match (bases.next(), bases.next()) {
                (Some(only), None) => Ok(only),
                (None, _) => Err("it serves no model:".into()),
                _ => Err("say which of its models to use, by the `model` of its entry in `engine.endpoints`:".into()),
            }
        }
    };
    found.map_err(|problem| unfit(server, &format!("{problem} [{}]", names())))
}

fn check_context(server: &HttpServer, base: &Model) -> Result<(), Failure> {
    let needed = server.shared.settings.model.context;
    match base.max_model_len {
        Some(found) if found < needed => Err(unfit(
            server,
            &format!(
                "its context is {found} tokens, but prompts and completions may have {needed}: start it with a longer \
                 one (`--max-model-len`, in SGLang `--context-length`)"
            ),
        )),
        _ => Ok(()),
    }
}

fn check_vocabulary(server: &HttpServer, base: &Model) -> Result<(), Failure> {
    let needed = server.shared.settings.model.vocab_size;
    match base.dump_rl.as_ref().and_then(|ours| ours.get("vocab_size")).and_then(Value::as_u64) {
        Some(found) if found == needed as u64 => Ok(()),
        Some(found) => Err(unfit(server, &format!("its model has {found} tokens, the one to train {needed}"))),
        None => Err(unfit(server, "it does not say the vocab_size of its model")),
    }
}

/// What other servers than ours cannot do, whatever their flags.
fn check_settings(server: &HttpServer, program: Program) -> Result<(), Failure> {
    let (settings, name) = (&server.shared.settings, program.name());
    if settings.adapters.is_none() {
        let problem = "reads adapters from a folder that both can see: name it by `engine.remote.adapters`";
        return Err(unfit(server, &format!("{name} {problem}")));
    }
    if settings.model.truncates {
        let problem = "does not give the log-probabilities before truncation: leave top_k, top_p and min_p unset";
        return Err(unfit(server, &format!("{name} {problem}")));
    }
    if program == Program::Sglang && settings.model.temperature != 1.0 {
        let problem = "cannot show whether its log-probabilities are those after temperature: use temperature 1";
        return Err(unfit(server, &format!("{name} {problem}")));
    }
    Ok(())
}

/// Asks to load an adapter without saying where it is: refused by a server that has the route, unknown to another.
async fn check_adapter_route(server: &HttpServer, program: Program) -> Result<(), Failure> {
    let reply = server.control(Method::POST, program.load_route(), Body::Json(json!({"lora_name": ""}))).await?;
    let disabled = program == Program::Sglang
        && server_info(server).await?.is_some_and(|info| info.get("enable_lora") == Some(&Value::Bool(false)));
    match (reply.status.as_u16(), program) {
        (400 | 422, _) if !disabled => Ok(()),
        (404 | 405, Program::Vllm) => Err(unfit(
            server,
            "it cannot load adapters: start vLLM with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its \
             environment",
        )),
        (400 | 404 | 405 | 422, _) => {
            Err(unfit(server, &format!("it cannot load adapters: start {} with `--enable-lora`", program.name())))
        }
        _ => Err(server.shared.transport.refusal(&reply)),
    }
}

/// Samples one token that is given: its id must come back, and its log-probability must be 0 once the others are
/// excluded, which a log-probability of the raw logits is not.
async fn check_answers(server: &HttpServer, model: &str) -> Result<(), Failure> {
    let (settings, token) = (&server.shared.settings, 1);
    let reply = server.control(Method::POST, "/v1/completions", Body::Json(completions::trial(model, token))).await?;
    let answer: Completions = server.shared.transport.parse(&reply)?;
    let choices = answer.choices(Dialect::Vllm).map_err(|problem| {
        unfit(server, &format!("{problem}: vLLM gives token ids (`return_token_ids`) since version 0.10.2"))
    })?;
    let tokens: Vec<&[u32]> = choices.iter().map(|choice| &choice.tokens[..]).collect();
    if tokens != [[token]] {
        return Err(unfit(server, &format!("it sampled {tokens:?} where only token {token} was allowed")));
    }
    let certain = matches!(choices[0].log_probs[..], [Some(log_prob)] if log_prob.abs() < CERTAIN);
    match certain || settings.model.temperature == 1.0 {
        true => Ok(()),
        false => Err(unfit(
            server,
            "its log-probabilities are those before temperature: start vLLM with `--logprobs-mode processed_logprobs`, \
             or use temperature 1",
        )),
    }
}

async fn server_info(server: &HttpServer) -> Result<Option<Value>, Failure> {
    match get(server, "/get_server_info").await? {
        Some(info) => Ok(Some(info)),
        None => get(server, "/server_info").await,
    }
}

/// The answer of a route that other programs may not have.
async fn get(server: &HttpServer, path: &str) -> Result<Option<Value>, Failure> {
    let reply = server.control(Method::GET, path, Body::Nothing).await?;
    match reply.status.as_u16() {
        200..=299 => Ok(serde_json::from_slice(&reply.bytes).ok()),
        400 | 404 | 405 => Ok(None),
        _ => Err(server.shared.transport.refusal(&reply)),
    }
}

fn unfit(server: &HttpServer, problem: &str) -> Failure {
    server.shared.transport.failure(FailureKind::Unfit, problem)
}
