//! An answer in pieces, as server-sent events.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use engine::native::DrawnToken;
use engine::{Completion, EngineError};
use futures_util::stream::unfold;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::Server;
use super::answer::{Form, growing_text, insert_end, insert_tokens, is_stop, usage};
use super::asked::Asked;
use super::error::Refused;
use super::metrics::add;
use super::text::GrowingText;

/// Pieces that may wait for the client.
const WAITING: usize = 64;

/// How long a client may take to read.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client no longer listens.
struct Gone;

/// Starts the request. Its pieces are the response's body; when the client goes away, the request is given up. `slot` is freed at
/// the end.
pub fn pieces(
    server: Arc<Server>,
    asked: Asked,
    form: Form,
    slot: impl Send + 'static,
) -> Sse<impl futures_util::Stream<Item = Result<Event, std::convert::Infallible>>> {
    let (to_client, events) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        // Nothing is left to do for a client that has gone.
        let _ = Pieces::new(&server, &asked, form, to_client).run().await;
        drop(slot);
    });
    let next = |mut events: mpsc::Receiver<Event>| async { events.recv().await.map(|event| (Ok(event), events)) };
    Sse::new(unfold(events, next))
}

/// The pieces of one answer.
struct Pieces<'a> {
    server: &'a Server,
    asked: &'a Asked,
    form: Form,
    head: Map<String, Value>,
    texts: Vec<GrowingText<'a>>,
    to_client: mpsc::Sender<Event>,
    generated: usize,
}

impl<'a> Pieces<'a> {
    fn new(server: &'a Server, asked: &'a Asked, form: Form, to_client: mpsc::Sender<Event>) -> Self {
        let n = asked.requests.first().map_or(0, |request| request.group_size);
        let texts = (0..n).map(|_| growing_text(server, asked)).collect();
        Self { server, asked, form, head: form.head(asked, true), texts, to_client, generated: 0 }
    }

    async fn run(mut self) -> Result<(), Gone> {
        let Some(request) = self.asked.requests.first() else { return Ok(()) };
        if self.form == Form::Chat {
            for index in 0..self.texts.len() {
                self.send(
                    json!({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}),
                )
                .await?;
            }
        }
        let (sink, mut drawn) = mpsc::unbounded_channel();
        let engine = &self.server.serving.engine;
        let mut group = pin!(engine.generate_with(request.clone(), self.asked.policy.as_ref(), Some(sink)));
        let ended = loop {
            tokio::select! {
                biased;
                Some(token) = drawn.recv() => self.tokens(token, &mut drawn).await?,
                ended = &mut group => break ended,
            }
        };
        while let Ok(token) = drawn.try_recv() {
            self.tokens(token, &mut drawn).await?;
        }
        self.end(ended).await
    }

    /// Says a token, and the others that were drawn meanwhile.
    async fn tokens(&mut self, first: DrawnToken, drawn: &mut mpsc::UnboundedReceiver<DrawnToken>) -> Result<(), Gone> {
        let mut tokens = vec![first];
        tokens.extend(std::iter::from_fn(|| drawn.try_recv().ok()));
        self.generated += tokens.len();
        for index in 0..self.texts.len() {
            let own: Vec<DrawnToken> = tokens.iter().filter(|token| token.index == index).copied().collect();
            if own.is_empty() {
                continue;
            }
            if self.asked.shown.text {
                let spoken = own.iter().filter(|it| !is_stop(self.asked, it.token));
                spoken.for_each(|it| self.texts[index].push(it.token));
            }
            let text = self.texts[index].take();
            let mut choice = self.choice(index, &text);
            insert_tokens(&mut choice, self.server, self.asked, self.form, &own);
            choice.insert("finish_reason".into(), Value::Null);
            self.send(Value::Object(choice)).await?;
        }
        Ok(())
    }

    async fn end(mut self, ended: Result<Vec<Completion>, EngineError>) -> Result<(), Gone> {
        add(&self.server.metrics.generated_tokens, self.generated as u64);
        let completions = match ended {
            Ok(completions) => completions,
            Err(error) => {
                add(&self.server.metrics.failed, 1);
                let refused = Refused::from(error);
                return self
                    .event(&json!({"error": {"message": refused.message, "code": refused.status.as_u16()}}))
                    .await;
            }
        };
        for (index, (completion, text)) in completions.iter().zip(std::mem::take(&mut self.texts)).enumerate() {
            let mut choice = self.choice(index, &text.finish());
            insert_end(&mut choice, self.server, self.asked, completion);
            self.send(Value::Object(choice)).await?;
        }
        if self.asked.stream.as_ref().is_some_and(|stream| stream.usage) {
            let mut last = self.head.clone();
            last.insert("choices".into(), json!([]));
            last.insert("usage".into(), usage(self.asked.prompt_tokens(), self.generated));
            self.event(&Value::Object(last)).await?;
        }
        self.data("[DONE]".into()).await
    }

    fn choice(&self, index: usize, text: &str) -> Map<String, Value> {
        let (key, value) = match self.form {
            Form::Text => ("text", json!(text)),
            Form::Chat => ("delta", json!({ "content": text })),
        };
        Map::from_iter([("index".to_string(), json!(index)), (key.to_string(), value)])
    }

    async fn send(&self, choice: Value) -> Result<(), Gone> {
        let mut piece = self.head.clone();
        piece.insert("choices".into(), Value::Array(vec![choice]));
        self.event(&Value::Object(piece)).await
    }

    async fn event(&self, value: &Value) -> Result<(), Gone> {
        self.data(value.to_string()).await
    }

    async fn data(&self, text: String) -> Result<(), Gone> {
        let sent = self.to_client.send_timeout(Event::default().data(text), PATIENCE).await;
        sent.map_err(|_| Gone)
    }
}
