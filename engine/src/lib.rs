//! Everything that samples: one trait, and the engines behind it.
//!
//! An engine sees token ids, numbers and safetensors bytes; it knows nothing of tasks, rewards or training.
//! - [`types`]: what goes in and out · [`version`]: which policy made it · [`error`]
//! - [`adapter`]: a LoRA adapter and its hash, the only parser of PEFT's format
//! - [`sampler`]: how a token is drawn · [`seed`]: seeds for random streams
//! - [`decoder`]: model configuration, weights and block, shared with the trainer
//! - [`kernels`]: the arithmetic of a decoder on a CPU, also the trainer's
//! - [`native`]: our own · [`mistral`]: mistral.rs in process · [`scripted`]: a deterministic fake for tests

pub mod adapter;
pub mod decoder;
pub mod error;
pub mod kernels;
pub mod math;
#[cfg(feature = "mistralrs")]
pub mod mistral;
pub mod native;
pub mod sampler;
pub mod scripted;
pub mod seed;
pub mod types;
pub mod version;

use std::future::Future;
use std::time::Duration;

pub use adapter::{Adapter, LoraConfig};
pub use error::EngineError;
pub use types::{CacheFormat, Completion, Finish, Precision, Quantization, Request, Sampling, StopStrings};
pub use version::{AdapterHash, PolicyVersion};

/// Samples groups of completions under a policy that can be replaced while it answers.
///
/// Invariants that every engine keeps, and `tests/engines.rs` checks:
/// 1. A request is answered once, with exactly `group_size` completions, or with an error.
/// 2. `tokens` are the very ids that were sampled, `log_probs` the natural-log probabilities of the distribution they
///    were drawn from, and `full_log_probs` those before any cut: the trainer's own forward agrees within 1e-4 at f32.
/// 3. The same request under the same policy gives the same completions, whatever runs beside it; on a GPU but for rounding,
///    as products there are summed in another order for another number of rows.
/// 4. Each completion names the policies of its first and last token: a publish never changes one half-way unseen.
pub trait Engine: Send + Sync + 'static {
    /// Answers with the whole group. Dropping the future abandons the request; nothing else is affected.
    fn generate(&self, request: Request) -> impl Future<Output = Result<Vec<Completion>, EngineError>> + Send;

    /// Makes `adapter` the policy of step `step` and returns the version that was really loaded.
    ///
    /// Requests that already run go on with the policy they started with or with the new one, and say so; requests that
    /// arrive after this returns are answered by the new one. Dropping the future leaves either policy in place.
    /// [`EngineError::WrongAdapter`] if the bytes are not those that the adapter's hash names.
    fn publish(&self, step: u64, adapter: Adapter) -> impl Future<Output = Result<PolicyVersion, EngineError>> + Send;

    /// Frees the model's memory as soon as what runs is answered. Requests that arrive from then on wait for the next
    /// [`Engine::publish`], which loads a model again.
    ///
    /// Does nothing in an engine that has no memory of its own to give: such a one answers on. Dropping the future leaves
    /// the engine suspended, with its memory on the way out.
    fn suspend(&self) -> impl Future<Output = Result<(), EngineError>> + Send {
        async { Ok(()) }
    }

    /// How many requests of `group_size` completions are worth keeping in flight at a time.
    fn concurrency(&self, group_size: usize) -> usize;

    /// How long each of the last steps took (decoding and prefill together), oldest first, and forgets them; empty
    /// if the engine has no steps of its own.
    fn take_step_times(&self) -> Vec<Duration> {
        Vec::new()
    }
}
