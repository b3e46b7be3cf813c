//! Servers that speak HTTP: `dump-rl serve`, vLLM and SGLang.
//!
//! - `transport.rs` sends and reads, within limits · `probe.rs` what a server is, and whether it will do
//! - `program.rs` where the programs differ in a route or in a status
//! - `completions.rs`, `sglang.rs` the two protocols of generation · `answer.rs` checks what came back
//! - `upload.rs` an adapter as a form

mod answer;
mod completions;
mod probe;
mod program;
mod sglang;
#[cfg(test)]
mod tests;
mod transport;
mod upload;

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use self::answer::{Asked, Choice};
use self::completions::{Completions, Dialect};
use self::probe::Models;
use self::program::Program;
use self::transport::{Body, Limits, MAX_CONTROL_ANSWER, Reply, Transport};
use super::folder::AdapterStore;
use super::{Answer, Capabilities, Connect, EndpointSettings, Failure, FailureKind, RemoteSettings, Server};
use crate::{Adapter, EngineError, Request};

/// Connects to serving engines over HTTP.
#[derive(Debug)]
pub struct HttpServers {
    shared: Arc<Shared>,
}

/// What all servers have in common.
#[derive(Debug)]
struct Shared {
    transport: Transport,
    settings: RemoteSettings,
    store: Option<AdapterStore>,
}

/// One server; what it is, its first probe finds out.
#[derive(Debug)]
pub struct HttpServer {
    shared: Arc<Shared>,
    settings: EndpointSettings,
    url: Arc<str>,
    program: Mutex<Option<Program>>,
}

impl HttpServers {
    /// # Errors
    /// [`EngineError::Start`] if the certificates or the token cannot be used.
    pub fn new(settings: &RemoteSettings) -> Result<Self, EngineError> {
        let store = settings.adapters.clone().map(AdapterStore::new);
        let shared = Shared { transport: Transport::new(settings)?, settings: settings.clone(), store };
        Ok(Self { shared: shared.into() })
    }
}

impl Connect for HttpServers {
    type Server = HttpServer;

    fn connect(&self, settings: &EndpointSettings) -> Result<HttpServer, EngineError> {
        for url in [Some(&settings.url), self.shared.settings.router.as_ref()].into_iter().flatten() {
            check_url(url)?;
        }
        let url = settings.url.as_str().trim_end_matches('/').into();
        Ok(HttpServer { shared: self.shared.clone(), settings: settings.clone(), url, program: Mutex::default() })
    }

    async fn retire(&self, policy: &str) {
        if let Some(store) = &self.shared.store {
            store.remove(policy).await;
        }
    }
}

fn check_url(url: &Url) -> Result<(), EngineError> {
    let fail = |shown: String, problem: &str| Err(EngineError::Endpoint { url: shown, problem: problem.into() });
    if !url.username().is_empty() || url.password().is_some() {
        // The whole address must not be printed.
        let shown = url.host_str().unwrap_or_default().to_string();
        return fail(shown, "the address of a server holds no password: give a token by `engine.remote.token_env`");
    }
    match (url.scheme(), url.query(), url.fragment()) {
        ("http" | "https", None, None) => Ok(()),
        ("http" | "https", ..) => fail(url.to_string(), "the address of a server ends before `?` and `#`"),
        _ => fail(url.to_string(), "the address of a server begins with http:// or https://"),
    }
}

/// An address below a server's root.
fn route(root: &Url, path: &str) -> Url {
    let mut url = root.clone();
    url.set_path(&format!("{}{path}", root.path().trim_end_matches('/')));
    url
}

#[derive(Deserialize)]
struct Loaded {
    adapter: String,
}

impl HttpServer {
    /// A call that is not generation.
    async fn control(&self, method: Method, path: &str, body: Body) -> Result<Reply, Failure> {
        let limits = Limits { bytes: MAX_CONTROL_ANSWER, time: self.shared.settings.control_timeout };
        self.shared.transport.call(method, route(&self.settings.url, path), body, limits).await
    }

    async fn models(&self) -> Result<Models, Failure> {
        let reply = self.control(Method::GET, "/v1/models", Body::Nothing).await?;
        match reply.status {
            // Some other program: the probe says so.
            StatusCode::NOT_FOUND => Ok(Models::default()),
            _ => self.shared.transport.parse(&reply),
        }
    }

    /// As the last probe found it; the first caller probes.
    async fn program(&self) -> Result<Program, Failure> {
        let known = *self.program.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(program) => Ok(program),
            None => self.find().await.map(|(program, _)| program),
        }
    }

    async fn find(&self) -> Result<(Program, Capabilities), Failure> {
        let (program, capabilities) = probe::probe(self).await?;
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = Some(program);
        Ok((program, capabilities))
    }

    fn asked<'a>(&self, request: &'a Request, program: Program) -> Result<Asked<'a>, Failure> {
        let (model, sampling) = (&self.shared.settings.model, &request.sampling);
        let refuse = |problem: String| Failure::new(FailureKind::Refused, problem);
        if program != Program::Ours && (sampling.top_k != 0 || sampling.top_p != 1.0 || sampling.min_p != 0.0) {
            let problem = "does not give the log-probabilities before top_k, top_p and min_p";
            return Err(refuse(format!("{} {problem}", program.name())));
        }
        let most_tokens = request.room(model.context).map_err(|e| refuse(e.to_string()))?;
        Ok(Asked { request, most_tokens, vocab_size: model.vocab_size })
    }

    fn choices(&self, program: Program, reply: &Reply, prompt: &[u32]) -> Result<Vec<Choice>, Failure> {
        let transport = &self.shared.transport;
        let choices = match program {
            Program::Ours => transport.parse::<Completions>(reply)?.choices(Dialect::Ours),
            Program::Vllm => transport.parse::<Completions>(reply)?.choices(Dialect::Vllm),
            Program::Sglang => sglang::choices(sglang::outputs(transport, reply)?, prompt),
        };
        choices.map_err(|problem| transport.failure(FailureKind::Broken, &problem))
    }

    async fn upload(&self, policy: &str, adapter: &Adapter) -> Result<(), Failure> {
        let fail = |problem: String| self.shared.transport.failure(FailureKind::Broken, &problem);
        let form = upload::form(policy, adapter)?;
        let reply = self.control(Method::POST, Program::Ours.load_route(), Body::Form(form)).await?;
        let loaded: Loaded = self.shared.transport.parse(&reply)?;
        match loaded.adapter == *adapter.hash.0 {
            true => Ok(()),
            false => Err(fail(format!("sent adapter {} but it loaded {}", adapter.hash, loaded.adapter))),
        }
    }

    /// For servers that read adapters from a folder.
    async fn load_path(&self, program: Program, policy: &str, adapter: &Adapter) -> Result<(), Failure> {
        let without = || Failure::new(FailureKind::Unfit, "there is no folder: name it by `engine.remote.adapters`");
        let path = self.shared.store.as_ref().ok_or_else(without)?.put(policy, adapter).await?;
        let body = Body::Json(json!({"lora_name": policy, "lora_path": path}));
        let reply = self.control(Method::POST, program.load_route(), body).await?;
        match reply.status.is_success() || program.has_policy(&reply) {
            true => Ok(()),
            false => Err(self.shared.transport.refusal(&reply)),
        }
    }
}

impl Server for HttpServer {
    fn url(&self) -> &Arc<str> {
        &self.url
    }

    fn max_sequences(&self) -> usize {
        self.settings.max_sequences
    }

    async fn probe(&self) -> Result<Capabilities, Failure> {
        self.find().await.map(|(_, capabilities)| capabilities)
    }

    async fn generate(&self, policy: &str, request: &Request) -> Result<Vec<Answer>, Failure> {
        let (program, transport) = (self.program().await?, &self.shared.transport);
        let asked = self.asked(request, program)?;
        let body: Value = match program {
            Program::Ours => completions::body(Dialect::Ours, policy, asked),
            Program::Vllm => completions::body(Dialect::Vllm, policy, asked),
            Program::Sglang => sglang::body(policy, asked),
        };
        let url = route(self.shared.settings.router.as_ref().unwrap_or(&self.settings.url), program.generate_route());
        let limits = Limits { bytes: asked.most_bytes(), time: self.shared.settings.request_timeout };
        let reply = transport.call(Method::POST, url, Body::Json(body), limits).await?;
        if program.lacks_policy(&reply) {
            return Err(Failure { kind: FailureKind::NoSuchPolicy, ..transport.refusal(&reply) });
        }
        let choices = self.choices(program, &reply, &request.prompt)?;
        asked.check(choices).map_err(|problem| transport.failure(FailureKind::Broken, &problem))
    }

    async fn load(&self, policy: &str, adapter: &Adapter) -> Result<(), Failure> {
        match self.program().await? {
            Program::Ours => self.upload(policy, adapter).await,
            program => self.load_path(program, policy, adapter).await,
        }
    }

    async fn unload(&self, policy: &str) -> Result<(), Failure> {
        let program = self.program().await?;
        let body = Body::Json(json!({"lora_name": policy}));
        let reply = self.control(Method::POST, program.unload_route(), body).await?;
        match reply.status.is_success() || program.had_no_policy(&reply) {
            true => Ok(()),
            false => Err(self.shared.transport.refusal(&reply)),
        }
    }

    async fn adapters(&self) -> Result<Vec<String>, Failure> {
        Ok(self.models().await?.adapters())
    }

    async fn health(&self) -> Result<(), Failure> {
        let reply = self.control(Method::GET, "/health", Body::Nothing).await?;
        match reply.status.is_success() {
            true => Ok(()),
            false => Err(self.shared.transport.refusal(&reply)),
        }
    }
}
