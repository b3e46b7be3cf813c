//! Models on the hub: which files belong to one, and the folder of the cache that has them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cache::{RepoCache, is_inside};
use super::download::Download;
use super::{Client, Environment, HubError, Listing, Network, Repo, listing, not_cached, warn_of_cache};
use crate::config::is_hub_id;
use crate::error::InputError;
use crate::model::folder::{READ, belongs};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Files that every model needs, beside its weights.
const NEEDED: [&str; 3] = [CONFIG, "tokenizer.json", "tokenizer_config.json"];

/// # Errors
/// If no model is named.
pub fn check_named(model: &Path) -> Result<(), InputError> {
    if model.as_os_str().is_empty() {
        let problem = "the folder of a base model is needed, or its name on the Hugging Face hub";
        return Err(InputError::new("model", problem));
    }
    Ok(())
}

/// The folder of a model: `model` itself if it is a folder, else that of the hub's model `OWNER/NAME` or `OWNER/NAME@REVISION`.
/// `huggingface_hub`'s environment variables decide where it is looked for.
///
/// # Errors
/// If it is neither a folder nor a name, or cannot be downloaded.
pub fn folder(model: &Path) -> Result<PathBuf, InputError> {
    check_named(model)?;
    let Some(repo) = on_hub(model) else { return Ok(model.to_path_buf()) };
    let environment = Environment::read()?;
    let cache = RepoCache::new(&environment.cache, &repo);
    let cached = complete(&cache, &repo);
    match (environment.network, cached) {
        (Network::Offline, Ok(folder)) => Ok(folder),
        (Network::Offline, Err(missing)) => Err(not_cached(&repo, &missing)),
        // A commit does not change.
        (Network::Online, Ok(folder)) if repo.is_commit() => Ok(folder),
        (Network::Online, cached) => newest(&environment, &cache, &repo, cached.ok()),
    }
}

/// The folder of the commit that the hub names, or that of the cache where the hub does not answer.
fn newest(
    environment: &Environment,
    cache: &RepoCache,
    repo: &Repo,
    cached: Option<PathBuf>,
) -> Result<PathBuf, InputError> {
    let client = Client::new(environment);
    let there = match (listing(&client, repo, cached.is_some()), cached) {
        (Ok(there), _) => there,
        (Err(error), Some(folder)) if error.allows_cache() => {
            warn_of_cache(&error, repo, environment);
            return Ok(folder);
        }
        (Err(error), _) => return Err(error.explain(repo, environment)),
    };
    check_listing(&there).map_err(|problem| InputError::new(repo.address(), problem))?;
    let (commit, progress) = (&there.commit, environment.progress);
    let download = Download { client: &client, cache, repo, commit, progress };
    fetch(&download, &there).map_err(|error| error.explain(repo, environment))
}

/// Downloads what is missing. The configuration comes last: a folder without it is not complete.
fn fetch(download: &Download, there: &Listing) -> Result<PathBuf, HubError> {
    let folder = download.cache.snapshot(&there.commit);
    let has = |name: &str| there.names.iter().any(|it| it == name);
    let mut names: Vec<String> = there.names.iter().filter(|name| belongs(name)).cloned().collect();
    match has(WEIGHTS) {
        true => names.push(WEIGHTS.into()),
        false => {
            names.push(INDEX.into());
            download.fetch(&names)?;
            let problem = || HubError::NotAHub(format!("{INDEX} names no files"));
            names.extend(shards(&folder.join(INDEX)).ok_or_else(problem)?);
        }
    }
    names.push(CONFIG.into());
    download.fetch(&names)?;
    download.cache.remember(&download.repo.revision, &there.commit)?;
    Ok(folder)
}

/// Whether a repository holds a model that can be read, before gigabytes of it are downloaded.
fn check_listing(there: &Listing) -> Result<(), String> {
    let has = |name: &str| there.names.iter().any(|it| it == name);
    let ending = |ending: &str| there.names.iter().find(|name| name.ends_with(ending));
    if has("adapter_config.json") && !has(CONFIG) {
        return Err("is an adapter; name its base model, or a model that it is merged into".into());
    }
    if !has(WEIGHTS) && !has(INDEX) {
        return Err(match (ending(".gguf"), ending(".bin").or_else(|| ending(".pt"))) {
            (Some(file), _) => format!(
                "has no safetensors, only GGUF: download {file}, turn it into a folder with dump-rl import, and name that"
            ),
            (None, Some(file)) => format!(
                "has no safetensors, only {file}: convert it with transformers (from_pretrained, then save_pretrained), and name that folder"
            ),
            (None, None) => format!("has no weights: neither {WEIGHTS} nor {INDEX}"),
        });
    }
    match NEEDED.iter().find(|name| !has(name)) {
        Some(&"tokenizer.json") => Err(
            "has no tokenizer.json: make one with transformers (AutoTokenizer.from_pretrained, then save_pretrained) beside the model's other files, and name that folder"
                .into(),
        ),
        Some(name) => Err(format!("has no {name}: it is no model in Hugging Face layout")),
        None => Ok(()),
    }
}

/// The model that `model` names on the hub. `None` for a folder.
fn on_hub(model: &Path) -> Option<Repo> {
    Repo::model(&model.to_string_lossy()).filter(|_| !model.is_dir())
}

/// The folder of a model that is complete in the cache, or what is missing.
fn complete(cache: &RepoCache, repo: &Repo) -> Result<PathBuf, String> {
    let nothing = || "is not in the Hugging Face cache".to_string();
    let commit = cache.commit(&repo.revision).ok_or_else(nothing)?;
    let folder = cache.snapshot(&commit);
    let listed = cache.tree(&commit).unwrap_or_default();
    let read = listed.iter().map(String::as_str).filter(|name| READ.contains(name));
    let mut names: Vec<String> = NEEDED.into_iter().chain(read).map(str::to_string).collect();
    if !folder.join(WEIGHTS).exists() {
        match shards(&folder.join(INDEX)) {
            Some(shards) => names.extend(shards),
            None => names.push(WEIGHTS.into()),
        }
    }
    match names.iter().find(|name| !folder.join(name).exists()) {
        Some(_) if !folder.is_dir() => Err(nothing()),
        Some(missing) => Err(format!("the Hugging Face cache has only a part of it ({missing} is missing)")),
        None => Ok(folder),
    }
}

/// The folder of a model's `config.json`, without a download. `None` if it is not on this machine.
///
/// # Errors
/// A variable of the hub whose value cannot be used.
pub fn local(model: &Path) -> Result<Option<PathBuf>, InputError> {
    let Some(repo) = on_hub(model) else { return Ok(Some(model.to_path_buf())) };
    let cache = RepoCache::new(&Environment::read()?.cache, &repo);
    let folder = cache.commit(&repo.revision).map(|commit| cache.snapshot(&commit));
    Ok(folder.filter(|folder| folder.join(CONFIG).exists()))
}

/// `model` with the commit whose files are in `folder`: `OWNER/NAME@COMMIT`. A folder stays as it is.
pub fn pinned(model: &Path, folder: &Path) -> PathBuf {
    match (on_hub(model), folder.file_name()) {
        (Some(repo), Some(commit)) => format!("{}@{}", repo.id, commit.to_string_lossy()).into(),
        _ => model.to_path_buf(),
    }
}

/// The files that an index names. `None` if it is missing or wrong.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let names = index["weight_map"].as_object()?.values().map(|name| name.as_str().map(str::to_string));
    let names: BTreeSet<String> = names.collect::<Option<_>>()?;
    (!names.is_empty() && names.iter().all(|name| is_inside(name))).then_some(names)
}

/// The name of a model without its revision, as other programs know it.
pub fn without_revision(model: &str) -> &str {
    model.split_once('@').map_or(model, |(id, _)| if is_hub_id(model) { id } else { model })
}
