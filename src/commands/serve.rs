//! `dump-rl serve`: a base model, and the newest policy of a run, over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::DType;
use clap::Args;
use engine::decoder::{DecoderConfig, Weights};
use engine::native::{Native, NativeSettings, cache_bytes};
use engine::{Adapter, Precision};
use tokio::net::TcpListener;

use crate::config;
use crate::config::engine::{DeviceKind, EngineConfig};
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::files;
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{device, hub};
use crate::run_dir::checkpoint::latest_policy;
use crate::run_dir::{base_model, fingerprints};
use crate::serve::{Limits, Serving, Token, no_adapter, serve};
use crate::signals::Stop;
use crate::terminal;

/// The environment variable with the token that clients must send.
const TOKEN: &str = "DUMP_RL_API_KEY";

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A run's folder, a model's folder, or a model's name on the hub.
    target: PathBuf,
    /// The address to listen on. Others than loopback need a token.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port. 0: any free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// A file with the token that clients must send (default: the environment variable DUMP_RL_API_KEY, if it is set).
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The base model's name in requests (default: that of its folder).
    #[arg(long)]
    name: Option<String>,
    /// A folder from which adapters may be loaded by path. Without it they can only be uploaded.
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,
    /// Adapters at a time.
    #[arg(long, default_value_t = 8)]
    max_adapters: usize,
    /// Sequences that are computed together.
    #[arg(long, default_value_t = 64)]
    max_sequences: usize,
    /// Requests at a time. More are refused with status 503.
    #[arg(long, default_value_t = 1024)]
    max_requests: usize,
    /// Memory of the key-value cache, in MiB.
    #[arg(long, default_value_t = 4096)]
    cache_mb: usize,
    /// The number format: f32, or bf16 (on a CPU with AVX-512 BF16, or on a GPU).
    #[arg(long, default_value = "f32", value_parser = precision)]
    dtype: Precision,
    /// Where the model runs: cpu or cuda.
    #[arg(long, default_value = "cpu", value_parser = device_kind)]
    device: DeviceKind,
    /// Where a run's base model is now: a folder, or a name on the hub (default: where the run had it).
    #[arg(long, value_name = "DIR")]
    model: Option<String>,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f32" => Ok(Precision::F32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("use f32 or bf16".into()),
    }
}

fn device_kind(text: &str) -> Result<DeviceKind, String> {
    match text {
        "cpu" => Ok(DeviceKind::Cpu),
        "cuda" => Ok(DeviceKind::Cuda),
        _ => Err("use cpu or cuda".into()),
    }
}

/// Serves until it is asked to stop.
///
/// # Errors
/// A model that cannot be served, an address that others can reach without a token, a port that is taken.
pub async fn run(args: ServeArgs, stop: Stop) -> Result<()> {
    let token = token(&args)?;
    if token.is_none() && !args.host.is_loopback() {
        let problem = format!("others can reach {}, so clients need a token: set {TOKEN} or --api-key-file", args.host);
        return Err(InputError::new("--host", problem).into());
    }
    let address = SocketAddr::new(args.host, args.port);
    let taken = |error| InputError::new("--port", format!("{address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let Target { folder, adapter } = target(&args)?;
    let policy = adapter.map(|adapter| (last_part(&args.target), adapter));
    let name = base_name(args.name.clone(), &folder, policy.as_ref().map(|(name, _)| name))?;
    let adapters: Vec<(String, Adapter)> = policy.into_iter().collect();
    let serving = serving(args, folder, name, token)?;
    let names = adapters.iter().map(|(name, _)| format!(" and {name}")).collect::<String>();
    let (base, precision) = (serving.name.clone(), serving.precision);
    let stop = stop.heed();
    terminal::say(format!("serving {base}{names} in {precision:?}").to_lowercase());
    terminal::say(format!("listening on http://{}", listener.local_addr().context("the address")?));
    serve(serving, adapters, listener, stop).await
}

/// What is served.
struct Target {
    /// Of the base model.
    folder: PathBuf,
    /// The newest policy of a run.
    adapter: Option<Adapter>,
}

fn target(args: &ServeArgs) -> Result<Target> {
    let run = &args.target;
    if !run.join("config.toml").is_file() {
        if args.model.is_some() {
            return Err(InputError::new("--model", format!("{} is no run's folder", run.display())).into());
        }
        return Ok(Target { folder: hub::folder(run)?, adapter: None });
    }
    let sets: Vec<String> = args.model.iter().map(|model| format!("model={model}")).collect();
    let config: RunConfig = config::load(&run.join("config.toml"), &sets)?;
    base_model::check_here(&config.model, "--model DIR")?;
    let folder = hub::folder(&config.model)?;
    fingerprints::check_model(run, &folder)?;
    Ok(Target { folder, adapter: Some(latest_policy(run)?.1) })
}

/// The base model's name: the one that was given, or that of its folder. `policy` has the name of the run's folder.
fn base_name(given: Option<String>, folder: &Path, policy: Option<&String>) -> Result<String, InputError> {
    match given {
        Some(given) if policy == Some(&given) => {
            Err(InputError::new("--name", format!("{given} is the name of the run's policy; choose another")))
        }
        Some(given) => Ok(given),
        None => {
            let name = last_part(folder);
            Ok(if policy == Some(&name) { format!("{name}-base") } else { name })
        }
    }
}

/// The last part of a path, with links and dots followed.
fn last_part(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    full.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

fn serving(args: ServeArgs, folder: PathBuf, name: String, token: Option<Token>) -> Result<Serving> {
    let decoder = DecoderConfig::load(&folder)?;
    let is_gpu = args.device == DeviceKind::Cuda;
    if !is_gpu && !Native::supports(&decoder) {
        let problem =
            format!("head_dim is {}; the native engine, which serves, needs a multiple of 16", decoder.head_dim);
        return Err(InputError::new(folder.join("config.json").display(), problem).into());
    }
    let tokenizer = Arc::new(ChatTokenizer::load(&folder, &decoder)?);
    let device = device::open(&EngineConfig { device: args.device, ..EngineConfig::default() })?;
    let dtype = if is_gpu && args.dtype == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let weights = Weights::load(&folder, &decoder, dtype, &device)?;
    let cache = (args.cache_mb << 20).max(cache_bytes(&decoder, decoder.max_position_embeddings.min(8192)));
    let settings = NativeSettings {
        max_sequences: args.max_sequences.max(1),
        cache_bytes: cache,
        threads: 0,
        precision: args.dtype,
    };
    let precision = if is_gpu { args.dtype } else { settings.computed() };
    if precision != args.dtype {
        tracing::warn!("this CPU has no AVX-512 BF16: the engine computes in f32");
    }
    let engine = Native::start(decoder.clone(), weights, settings, no_adapter()?)?;
    let limits = Limits { requests: args.max_requests, adapters: args.max_adapters, adapter_folder: args.adapters };
    // On a GPU the order of sums depends on what else runs.
    Ok(Serving { engine, decoder, tokenizer, name, root: folder, precision, keeps_seeds: !is_gpu, token, limits })
}

/// From the file, or from the environment.
fn token(args: &ServeArgs) -> Result<Option<Token>, InputError> {
    let (text, place) = match &args.api_key_file {
        Some(path) => (Some(files::read_text(path)?), format!("--api-key-file {}", path.display())),
        None => (std::env::var(TOKEN).ok(), format!("environment variable {TOKEN}")),
    };
    text.map(|text| Token::new(&text).map_err(|problem| InputError::new(place, problem))).transpose()
}
