//! What can be asked.

use std::future::ready;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state, map_request};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use engine::Precision;
use serde_json::{Value, json};

use super::answer::{Form, count, whole};
use super::asked::{Asked, slot};
use super::body::{BODY, body, read_to_the_end};
use super::error::Refused;
use super::metrics::add;
use super::parameters::Parameters;
use super::{Server, access, adapters, chat, completions, stream};

type Shared = State<Arc<Server>>;
type Answer = Result<Response, Refused>;

/// Every route. All but `/health` need the token, where there is one.
pub fn routes(server: Arc<Server>) -> Router {
    let guarded = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/completions", post(complete_text))
        .route("/v1/chat/completions", post(complete_chat))
        .route("/v1/load_lora_adapter", post(load_adapter))
        .route("/v1/unload_lora_adapter", post(unload_adapter))
        .route("/metrics", get(metrics))
        .fallback(async || Refused::new(StatusCode::NOT_FOUND, "there is no such route; see docs/serve.md"))
        .method_not_allowed_fallback(async || Refused::new(StatusCode::METHOD_NOT_ALLOWED, "another method is needed"))
        .layer(from_fn_with_state(server.clone(), guard));
    // Bodies have their own limits.
    let all = Router::new().route("/health", get(health)).merge(guarded).layer(DefaultBodyLimit::disable());
    let most = server.largest_adapter();
    all.layer(map_request(move |request| ready(read_to_the_end(request, most)))).with_state(server)
}

async fn guard(State(server): Shared, request: Request, next: Next) -> Answer {
    access::check(server.serving.token.as_ref(), request.headers())?;
    Ok(next.run(request).await)
}

async fn health(State(server): Shared) -> StatusCode {
    if server.serving.engine.is_running() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn models(State(server): Shared) -> Json<Value> {
    let serving = &server.serving;
    let precision = match serving.precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let model = |id: &str, parent: Option<&str>, more: Value| {
        json!({"id": id, "object": "model", "created": server.started, "owned_by": "dump-rl", "parent": parent,
            "root": parent.is_none().then(|| serving.root.display().to_string()),
            "max_model_len": serving.decoder.max_position_embeddings, "dump_rl": more})
    };
    let base = json!({"version": env!("CARGO_PKG_VERSION"), "vocab_size": serving.decoder.vocab_size,
        "keeps_seeds": serving.keeps_seeds, "precision": precision});
    let mut all = vec![model(&serving.name, None, base)];
    let adapters = server.registry.list();
    all.extend(adapters.iter().map(|(name, hash)| model(name, Some(&serving.name), json!({ "adapter": hash }))));
    Json(json!({"object": "list", "data": all}))
}

async fn complete_text(State(server): Shared, request: Request) -> Answer {
    let answer = complete(&server, request, Form::Text, completions::read).await;
    count(&server, &answer);
    answer
}

async fn complete_chat(State(server): Shared, request: Request) -> Answer {
    let answer = complete(&server, request, Form::Chat, chat::read).await;
    count(&server, &answer);
    answer
}

async fn complete(
    server: &Arc<Server>,
    request: Request,
    form: Form,
    read: impl Fn(Parameters, &Server) -> Result<Asked, Refused>,
) -> Answer {
    add(&server.metrics.requests, 1);
    let slot = slot(server)?;
    let asked = read(Parameters::parse(&body(request.into_body(), BODY).await?)?, server)?;
    add(&server.metrics.prompt_tokens, asked.prompt_tokens() as u64);
    match asked.stream {
        Some(_) => Ok(stream::pieces(server.clone(), asked, form, slot).into_response()),
        None => Ok(Json(whole(server, &asked, form).await?).into_response()),
    }
}

async fn load_adapter(State(server): Shared, request: Request) -> Answer {
    let (name, hash) = adapters::load(&server, request).await?;
    Ok(Json(json!({"lora_name": name, "adapter": hash})).into_response())
}

async fn unload_adapter(State(server): Shared, request: Request) -> Answer {
    Ok(Json(json!({ "lora_name": adapters::unload(&server, request).await? })).into_response())
}

async fn metrics(State(server): Shared) -> String {
    let running = server.serving.limits.requests - server.running.available_permits();
    server.metrics.text(running, server.registry.list().len())
}
