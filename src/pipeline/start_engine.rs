//! Starts the engine that was resolved, and hands it to what samples with it.

use std::sync::Arc;

use anyhow::Result;
use engine::native::{Native, NativeSettings};
use engine::{Adapter, Engine};

use crate::config::resolve::EngineChoice;
use crate::model::base::Base;
use crate::pipeline::remote_settings;

/// Something to do with an engine of any kind.
pub trait WithEngine {
    type Output;

    fn call<E: Engine>(self, engine: Arc<E>) -> impl Future<Output = Result<Self::Output>>;
}

/// Starts the engine with `adapter` as the policy of step 0 and passes it to `then`.
///
/// # Errors
/// If the engine is not built in or cannot load the model, or a server does not do what training needs; what `then` returns.
pub async fn with_engine<W: WithEngine>(base: Base, adapter: Adapter, then: W) -> Result<W::Output> {
    match base.resolved.engine {
        EngineChoice::Mistralrs => with_mistral(&base, adapter, then).await,
        EngineChoice::Native => then.call(Arc::new(native(base, adapter)?)).await,
        EngineChoice::Remote => with_servers(&base, adapter, then).await,
    }
}

/// The native engine, where the trainer's weights are.
fn native(base: Base, adapter: Adapter) -> Result<Native> {
    let settings = NativeSettings {
        max_sequences: base.config.engine.max_sequences,
        cache_bytes: base.resolved.cache_mb.saturating_mul(1 << 20),
        threads: 0,
        precision: base.resolved.engine_precision,
    };
    if base.resolved.engine_precision != base.config.engine.dtype {
        tracing::warn!("this CPU has no AVX-512 BF16: the engine computes in f32, on the trainer's own weights");
    }
    Ok(Native::start(base.decoder, base.weights, settings, adapter)?)
}

/// Servers, from which this run's policies are removed at the end, however it ends.
async fn with_servers<W: WithEngine>(base: &Base, adapter: Adapter, then: W) -> Result<W::Output> {
    remote_settings::raise_file_limit();
    let engine = Arc::new(engine::remote::start(remote_settings::read(base)?, adapter).await?);
    let result = then.call(engine.clone()).await;
    engine.close().await;
    result
}

#[cfg(feature = "mistralrs")]
async fn with_mistral<W: WithEngine>(base: &Base, adapter: Adapter, then: W) -> Result<W::Output> {
    use engine::mistral::{Cache, Device, MistralRs, MistralSettings, Swap};

    use crate::config::engine::DeviceKind;
    use crate::config::resolve::Sharing;

    let (settings, resolved) = (&base.config.engine, &base.resolved);
    let device = match resolved.device {
        DeviceKind::Cpu => Device::Cpu { replicas: resolved.replicas },
        DeviceKind::Cuda => Device::Gpu {
            index: settings.device_index,
            max_sequences: settings.max_sequences,
            cache: Cache { mb: resolved.cache_mb, block_size: settings.block_size, format: settings.cache_dtype },
        },
    };
    let swap = match resolved.sharing {
        Sharing::SideBySide => Swap::SideBySide,
        Sharing::Reload | Sharing::Alternate => Swap::Reload,
    };
    let (precision, quantization) = (resolved.engine_precision, settings.quantization);
    let settings = MistralSettings { device, precision, quantization, swap };
    let engine = MistralRs::load(&base.folder, settings, adapter).await?;
    then.call(Arc::new(engine)).await
}

#[cfg(not(feature = "mistralrs"))]
async fn with_mistral<W: WithEngine>(_: &Base, _: Adapter, _: W) -> Result<W::Output> {
    let problem = "\"mistralrs\" is not built in; build with the default features";
    Err(crate::error::InputError::new("engine.kind", problem).into())
}
