//! `dump-rl serve`: an OpenAI-compatible endpoint over the native engine.
//!
//! - `routes.rs` what can be asked · `connections.rs` who may connect, and for how long · `access.rs` the token
//! - `body.rs` the bytes of a request · `parameters.rs` their keys, where nothing is ignored · `asked.rs` what they ask of the engine
//! - `completions.rs`, `chat.rs` the two kinds of completion · `answer.rs` what both say · `stream.rs` the same piece by piece
//! - `text.rs` tokens to text, also in pieces · `adapters.rs`, `registry.rs` adapters that are loaded while it serves
//! - `metrics.rs` counters · `error.rs` what is refused
//!
//! Invariants: nothing that a client sends ends the server. Completion `i` of a prompt draws with the seed
//! `mix_seed(seed, i)`, as in process, so the tokens are the same, bit for bit on the same CPU. A request keeps the policy
//! that it named. A client that goes away gives up its request.

mod access;
mod adapters;
mod answer;
mod asked;
mod body;
mod chat;
mod completions;
mod connections;
mod error;
mod metrics;
mod parameters;
mod registry;
mod routes;
mod stream;
mod text;

use std::path::PathBuf;
use std::sync::Arc;

use engine::decoder::{DecoderConfig, Module};
use engine::native::Native;
use engine::{LoraConfig, Precision};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub use access::Token;
use metrics::Metrics;
use registry::Registry;

use crate::model::tokenizer::ChatTokenizer;

/// What is served, and to whom.
pub struct Serving {
    pub engine: Native,
    pub decoder: DecoderConfig,
    pub tokenizer: Arc<ChatTokenizer>,
    /// The base model's name in requests.
    pub name: String,
    /// Its folder.
    pub root: PathBuf,
    /// What the engine computes in.
    pub precision: Precision,
    /// Whether the same seed gives the same tokens, whatever else runs.
    pub keeps_seeds: bool,
    pub token: Option<Token>,
    pub limits: Limits,
}

/// What the server takes at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests at a time. More are refused with status 503.
    pub requests: usize,
    /// Adapters at a time.
    pub adapters: usize,
    /// The folder from which adapters may be loaded by path; `None`: only uploads.
    pub adapter_folder: Option<PathBuf>,
}

/// What every handler sees.
struct Server {
    serving: Serving,
    registry: Registry,
    running: Arc<Semaphore>,
    metrics: Metrics,
    /// Seconds since 1970.
    started: u64,
}

impl Server {
    /// The largest adapter that is taken, in bytes: one of rank 256 on every layer.
    fn largest_adapter(&self) -> usize {
        const RANK: usize = 256;
        const LEAST: usize = 64 << 20;
        let decoder = &self.serving.decoder;
        let widths =
            Module::ALL.into_iter().map(|module| decoder.linear_shape(module)).map(|(input, output)| input + output);
        (4 * RANK * decoder.num_hidden_layers * widths.sum::<usize>()).max(LEAST)
    }
}

/// Serves until `stop` turns true. `adapters` are loaded at the start, each with its name.
///
/// # Errors
/// An adapter that does not fit the model.
pub async fn serve(
    serving: Serving,
    adapters: Vec<(String, engine::Adapter)>,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let registry = Registry::new(serving.limits.adapters);
    for (name, adapter) in adapters {
        let policy = serving.engine.policy(0, adapter).await?;
        registry.insert(&name, policy).map_err(|refused| anyhow::anyhow!("{name}: {}", refused.message))?;
    }
    let running = Arc::new(Semaphore::new(serving.limits.requests));
    let server = Arc::new(Server { serving, registry, running, metrics: Metrics::default(), started });
    connections::accept(listener, routes::routes(server), stop).await;
    Ok(())
}

/// The adapter that changes nothing.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn no_adapter() -> anyhow::Result<engine::Adapter> {
    let bytes = crate::train::tensors_to_bytes(&std::collections::BTreeMap::new())?;
    Ok(engine::Adapter::new(Arc::new(LoraConfig::new(1, 1.0, Vec::new(), String::new())), bytes))
}
