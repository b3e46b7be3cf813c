//! Everything that samples from a model: the [`Engine`] trait and its implementations.
//!
//! An engine sees token ids, numbers and safetensors bytes. It knows nothing about tasks, rewards or training.
//! - [`types`]: requests and completions · [`version`]: which policy made a completion · [`error`]
//! - [`contract`]: what every answer must be
//! - [`adapter`]: a LoRA adapter and its hash, the only parser of PEFT's format
//! - [`sampler`]: how a token is drawn · [`seed`]: seeds for random streams · [`threads`]: waiting for one to end
//! - [`decoder`]: model configuration, weights and block, shared with the trainer
//! - [`kernels`]: a decoder's arithmetic on a CPU, also used by the trainer · [`math`]: functions that vectorise
//! - [`native`]: our own engine · [`mistral`]: mistral.rs in process · [`remote`]: servers over HTTP · [`scripted`]: a
//!   deterministic fake for tests

pub mod adapter;
pub mod contract;
pub mod decoder;
pub mod error;
pub mod json;
pub mod kernels;
pub mod math;
#[cfg(feature = "mistralrs")]
pub mod mistral;
pub mod native;
pub mod remote;
pub mod sampler;
pub mod scripted;
pub mod seed;
pub mod threads;
pub mod types;
pub mod version;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use adapter::{Adapter, LoraConfig};
pub use error::EngineError;
pub use types::{CacheFormat, Completion, Finish, Precision, Quantization, Request, Sampling, StopStrings};
pub use version::{AdapterHash, PolicyVersion};

/// Samples groups of completions under a policy that can be replaced while requests run.
///
/// Invariants of every engine, which `tests/engines/` checks:
/// 1. A request is answered once, with exactly `group_size` completions or with an error.
/// 2. `tokens` are exactly the ids that were sampled. `log_probs` are natural-log probabilities under the distribution
///    they were drawn from, `full_log_probs` those before truncation: the trainer's forward agrees within 1e-4 in f32.
/// 3. The same request under the same policy gives the same completions, whatever else runs. On a GPU this holds up to
///    rounding, because the order of sums there depends on the number of rows.
/// 4. Each completion names the policies of its first and last token, so a publish in between is visible.
pub trait Engine: Send + Sync + 'static {
    /// Answers with the whole group. Dropping the future abandons the request and affects nothing else.
    fn generate(&self, request: Request) -> impl Future<Output = Result<Vec<Completion>, EngineError>> + Send;

    /// Makes `adapter` the policy of step `step`, and returns the version that was loaded.
    ///
    /// Requests that run already continue under their policy or the new one; their completions say which. Requests that
    /// arrive after this returns are answered by the new one. If the future is dropped, either policy may be in place.
    ///
    /// # Errors
    /// [`EngineError::WrongAdapter`] if the adapter's hash is not that of its bytes.
    fn publish(&self, step: u64, adapter: Adapter) -> impl Future<Output = Result<PolicyVersion, EngineError>> + Send;

    /// Frees the model's memory as soon as the running requests are answered. Requests that arrive from then on wait
    /// for the next [`Engine::publish`], which loads a model again.
    ///
    /// An engine without memory of its own does nothing and keeps answering. If the future is dropped, the engine stays
    /// suspended and its memory is still freed.
    fn suspend(&self) -> impl Future<Output = Result<(), EngineError>> + Send {
        async { Ok(()) }
    }

    /// How many requests of `group_size` completions to keep in flight.
    fn concurrency(&self, group_size: usize) -> usize;

    /// Removes and returns the durations of the last steps (decoding and prefill together), oldest first. Empty if the
    /// engine has no steps of its own.
    fn take_step_times(&self) -> Vec<Duration> {
        Vec::new()
    }

    /// How many steps the engine has made since its start. It grows while the engine computes, so that a slow answer can be
    /// told from one that never comes. Always 0 if the engine has no steps of its own.
    fn steps(&self) -> u64 {
        0
    }

    /// The addresses of the servers that sample now; empty if the engine samples in this process.
    fn endpoints(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// As [`Engine::generate`], on this one of [`Engine::endpoints`] and no other.
    ///
    /// # Errors
    /// As [`Engine::generate`]; if the server has gone.
    fn generate_at(
        &self,
        endpoint: &str,
        request: Request,
    ) -> impl Future<Output = Result<Vec<Completion>, EngineError>> + Send {
        let _ = endpoint;
        self.generate(request)
    }

    /// What the engine counted since its start, by the names that metrics use: failures of servers, retries and the
    /// like. Empty if it counts nothing.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
