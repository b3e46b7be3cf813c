//! Models by their name on the Hugging Face hub, from its local cache or downloaded into it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo};
use serde_json::Value;

use crate::config::is_hub_id;
use crate::error::InputError;

/// Files that every model needs.
const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
/// Files that some have.
const OPTIONAL: [&str; 2] = ["generation_config.json", "chat_template.jinja"];
const INDEX: &str = "model.safetensors.index.json";

/// # Errors
/// If no model is named.
pub fn check_named(model: &Path) -> Result<(), InputError> {
    if model.as_os_str().is_empty() {
        let problem = "the folder of a base model is needed, or its name on the Hugging Face hub";
        return Err(InputError::new("model", problem));
    }
    Ok(())
}

/// The folder of a model: `model` itself if it is a folder, else that of the hub's model of this name.
///
/// `HF_HOME` is the folder of the hub's cache. `HF_HUB_OFFLINE=1` forbids downloads. `HF_TOKEN`, or the token of
/// `hf auth login`, gives access to gated models.
///
/// # Errors
/// If it is neither a folder nor a name, or cannot be downloaded.
pub fn folder(model: &Path) -> Result<PathBuf, InputError> {
    check_named(model)?;
    let id = model.to_string_lossy();
    if model.is_dir() || !is_hub_id(&id) {
        return Ok(model.to_path_buf());
    }
    if let Some(folder) = cached(&id) {
        return Ok(folder);
    }
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0")) {
        let problem = "is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids downloads";
        return Err(InputError::new(id, problem));
    }
    download(&id).map_err(|e| {
        let problem = format!(
            "could not be downloaded from the Hugging Face hub: {e}; give the path of a folder, or download it first"
        );
        InputError::new(id, problem)
    })
}

/// The folder of a model that is complete in the cache.
pub fn cached(id: &str) -> Option<PathBuf> {
    let repo = Cache::from_env().repo(Repo::model(id.to_string()));
    NEEDED.iter().all(|name| repo.get(name).is_some()).then_some(())?;
    if repo.get("model.safetensors").is_none() {
        shards(&repo.get(INDEX)?)?.iter().all(|shard| repo.get(shard).is_some()).then_some(())?;
    }
    repo.get(NEEDED[0])?.parent().map(Path::to_path_buf)
}

/// The folder of a model's `config.json`, without a download. `None` if it is not on this machine.
pub fn local(model: &Path) -> Option<PathBuf> {
    let id = model.to_string_lossy();
    if model.is_dir() || !is_hub_id(&id) {
        return Some(model.to_path_buf());
    }
    let config = Cache::from_env().repo(Repo::model(id.into_owned())).get(NEEDED[0])?;
    config.parent().map(Path::to_path_buf)
}

fn download(id: &str) -> Result<PathBuf, hf_hub::api::sync::ApiError> {
    let token = std::env::var("HF_TOKEN").ok().or_else(|| Cache::from_env().token());
    let repo: ApiRepo = ApiBuilder::from_env().with_token(token).build()?.model(id.to_string());
    let there: BTreeSet<String> = repo.info()?.siblings.into_iter().map(|file| file.rfilename).collect();
    for name in OPTIONAL.iter().filter(|name| there.contains(**name)) {
        repo.get(name)?;
    }
    if there.contains(INDEX) {
        for shard in shards(&repo.get(INDEX)?).unwrap_or_default() {
            repo.get(&shard)?;
        }
    } else {
        repo.get("model.safetensors")?;
    }
    NEEDED[1..].iter().try_for_each(|name| repo.get(name).map(drop))?;
    let config = repo.get(NEEDED[0])?;
    Ok(config.parent().unwrap_or(&config).to_path_buf())
}

/// The files that an index names.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    Some(index["weight_map"].as_object()?.values().filter_map(|name| Some(name.as_str()?.to_string())).collect())
}
