//! Adapters that are loaded and unloaded while it serves, by the routes of vLLM.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use engine::adapter::{ADAPTER, ADAPTER_CONFIG};
use engine::{Adapter, AdapterHash, LoraConfig};

use super::Server;
use super::body::{BODY, body};
use super::error::Refused;
use super::parameters::Parameters;

/// How long an upload may take.
const UPLOAD: Duration = Duration::from_secs(600);
/// An adapter as older versions of PEFT wrote it. Pickles run code when they are read.
const PICKLED: &str = "adapter_model.bin";
/// The longest adapter_config.json, and the longest name.
const CONFIG: usize = 1 << 20;
const NAME: usize = 128;

/// An adapter as a client gives it.
struct Given {
    name: String,
    config: Vec<u8>,
    tensors: Vec<u8>,
}

/// Loads an adapter: an upload (`multipart/form-data` with `lora_name`, `adapter_config` and `adapter_model`), or a folder that
/// this machine sees (`{"lora_name", "lora_path"}`). Returns its name and the hash of what was loaded.
///
/// # Errors
/// A name that cannot be one or is taken; an adapter that is damaged, does not fit, or is more than the server gives.
pub async fn load(server: &Server, request: Request) -> Result<(String, AdapterHash), Refused> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let given = match kind.starts_with("multipart/form-data") {
        true => tokio::time::timeout(UPLOAD, upload(server, request)).await.map_err(|_| late())??,
        false => from_folder(server, request.into_body()).await?,
    };
    check_name(server, &given.name)?;
    let wrong = |problem: String| Refused::parameter("adapter_config", problem);
    let config = String::from_utf8(given.config).map_err(|_| wrong("is not UTF-8".into()))?;
    let config = LoraConfig::read(&config).map_err(|error| wrong(error.to_string()))?;
    let tensors = given.tensors;
    // Its hash takes a while.
    let adapter = tokio::task::spawn_blocking(move || Adapter::new(Arc::new(config), tensors)).await;
    let adapter = adapter.map_err(|e| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let policy = server.serving.engine.policy(0, adapter).await?;
    let hash = policy.version().adapter.clone();
    server.registry.insert(&given.name, policy)?;
    tracing::info!(name = given.name, hash = hash.short(), "an adapter was loaded");
    Ok((given.name, hash))
}

/// Unloads the adapter that `{"lora_name"}` names. Returns its name.
///
/// # Errors
/// Status 404 if there is none.
pub async fn unload(server: &Server, request: Request) -> Result<String, Refused> {
    let mut given = Parameters::parse(&body(request.into_body(), BODY).await?)?;
    let name: String = given.need("lora_name")?;
    given.take::<u64>("lora_int_id")?;
    given.finish()?;
    match server.registry.remove(&name) {
        true => Ok(name),
        false => Err(Refused::unknown_model(&name)),
    }
}

fn late() -> Refused {
    Refused::new(StatusCode::REQUEST_TIMEOUT, format!("the upload took more than {} s", UPLOAD.as_secs()))
}

/// # Errors
/// A name that could be taken for a path or another model.
fn check_name(server: &Server, name: &str) -> Result<(), Refused> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > NAME || !name.chars().all(is_good) || name.starts_with('.') {
        let problem =
            format!("must have 1 to {NAME} letters, digits, hyphens, underscores or dots, and not begin with a dot");
        return Err(Refused::parameter("lora_name", problem));
    }
    if name == server.serving.name {
        return Err(Refused::parameter("lora_name", format!("{name} is the base model")));
    }
    Ok(())
}

async fn upload(server: &Server, request: Request) -> Result<Given, Refused> {
    let wrong = |problem: String| Refused::parameter("body", problem);
    let mut parts = Multipart::from_request(request, &()).await.map_err(|e| wrong(e.body_text()))?;
    let (mut name, mut config, mut tensors) = (None, None, None);
    while let Some(part) = parts.next_field().await.map_err(|e| wrong(e.body_text()))? {
        match part.name() {
            Some("lora_name") => name = Some(read(part, NAME).await?),
            Some("adapter_config") => config = Some(read(part, CONFIG).await?),
            Some("adapter_model") => tensors = Some(read(part, server.largest_adapter()).await?),
            other => {
                let other = other.unwrap_or_default().chars().take(100).collect::<String>();
                return Err(wrong(format!(
                    "has a part {other:?}; known are lora_name, adapter_config and adapter_model"
                )));
            }
        }
    }
    let missing = |part: &str| Refused::parameter(part, "is missing");
    Ok(Given {
        name: String::from_utf8_lossy(&name.ok_or_else(|| missing("lora_name"))?).trim().to_string(),
        config: config.ok_or_else(|| missing("adapter_config"))?,
        tensors: tensors.ok_or_else(|| missing("adapter_model"))?,
    })
}

/// A part of at most `most` bytes.
async fn read(mut part: Field<'_>, most: usize) -> Result<Vec<u8>, Refused> {
    let name = part.name().unwrap_or_default().to_string();
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|e| Refused::parameter(&name, e.body_text()))? {
        if bytes.len() + chunk.len() > most {
            return Err(Refused::parameter(&name, format!("has more than {most} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn from_folder(server: &Server, given: Body) -> Result<Given, Refused> {
    let mut given = Parameters::parse(&body(given, BODY).await?)?;
    let (name, path): (String, PathBuf) = (given.need("lora_name")?, given.need("lora_path")?);
    given.take::<bool>("load_inplace")?.filter(|inplace| *inplace).map_or(Ok(()), |_| {
        Err(Refused::parameter("load_inplace", "is not supported here: a name always means the same weights"))
    })?;
    given.finish()?;
    let Some(allowed) = server.serving.limits.adapter_folder.clone() else {
        return Err(Refused::parameter("lora_path", "this server loads no paths (--adapters DIR); upload the adapter"));
    };
    let most = server.largest_adapter();
    let read = tokio::task::spawn_blocking(move || {
        let folder = within(&allowed, &path)?;
        Ok::<_, Refused>((read_file(&folder, ADAPTER_CONFIG, CONFIG)?, read_file(&folder, ADAPTER, most)?))
    });
    let (config, tensors) =
        read.await.map_err(|e| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))??;
    Ok(Given { name, config, tensors })
}

/// The folder `path`, which must be inside `allowed`, links followed. Nothing is told of what lies elsewhere.
fn within(allowed: &Path, path: &Path) -> Result<PathBuf, Refused> {
    let inside = allowed.canonicalize().ok().zip(allowed.join(path).canonicalize().ok());
    let inside = inside.filter(|(allowed, path)| path.starts_with(allowed)).map(|(_, path)| path);
    inside.ok_or_else(|| Refused::parameter("lora_path", "is no folder inside that of --adapters"))
}

fn read_file(folder: &Path, name: &str, most: usize) -> Result<Vec<u8>, Refused> {
    let path = folder.join(name);
    let wrong = |problem: String| Refused::parameter("lora_path", format!("{name}: {problem}"));
    if !path.exists() {
        let is_pickled = name == ADAPTER && folder.join(PICKLED).exists();
        let instead =
            format!(", and {PICKLED} is not read: save the adapter as safetensors, as PEFT's save_pretrained does");
        return Err(wrong(format!("is not there{}", if is_pickled { &instead } else { "" })));
    }
    // The file itself may be a link to elsewhere.
    let path = within(folder, &path)?;
    let size = path.metadata().map_err(|e| wrong(e.to_string()))?;
    if !size.is_file() || size.len() > most as u64 {
        return Err(wrong(format!("is no file of at most {most} bytes")));
    }
    std::fs::read(&path).map_err(|e| wrong(e.to_string()))
}
