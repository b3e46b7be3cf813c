//! Models and data sets by their name on the Hugging Face hub, from its local cache or downloaded into it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
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
    if is_offline() {
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

fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}

fn api() -> Result<Api, ApiError> {
    let token = std::env::var("HF_TOKEN").ok().or_else(|| Cache::from_env().token());
    ApiBuilder::from_env().with_token(token).build()
}

fn download(id: &str) -> Result<PathBuf, ApiError> {
    let repo = api()?.model(id.to_string());
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

/// What the address of a file of a data set begins with.
pub const DATASETS: &str = "hf://datasets/";

/// Whether a data set that is not in the cache may be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Download {
    Allowed,
    Never,
}

/// The files of a data set that fit the path in `address`, which may be a glob. `rest` is `OWNER/NAME[@REVISION]/PATH`, the part
/// behind [`DATASETS`]. In the order of their names. `None` if nothing is in the cache and it must not be downloaded.
///
/// # Errors
/// An address without a path, no file that fits, or a failed download.
pub fn dataset_files(address: &str, rest: &str, download: Download) -> Result<Option<Vec<PathBuf>>, InputError> {
    let fail = |problem: String| InputError::new(address, problem);
    let form = || fail(format!("expected {DATASETS}OWNER/NAME/PATH or {DATASETS}OWNER/NAME@REVISION/PATH"));
    let (owner, tail) = rest.split_once('/').ok_or_else(form)?;
    let (name, path) = tail.split_once('/').filter(|(_, path)| !path.is_empty()).ok_or_else(form)?;
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let id = format!("{owner}/{name}");
    if !is_hub_id(&id) || revision.is_empty() {
        return Err(form());
    }
    let pattern = Pattern::new(path).map_err(|e| fail(format!("{path:?} is not a valid pattern: {e}")))?;
    // The hub writes a branch such as refs/convert/parquet into an address as one part.
    let repo = Repo::with_revision(id, RepoType::Dataset, revision.replace("%2F", "/"));
    if is_offline() || download == Download::Never {
        let files = cached_files(&repo, &pattern);
        return match (files.is_empty(), missing_shard(&files), download) {
            (false, None, _) => Ok(Some(files)),
            (_, _, Download::Never) => Ok(None),
            (_, Some(shard), _) => {
                Err(fail(format!("the Hugging Face cache has only a part of it: {shard} is missing")))
            }
            (true, ..) => Err(fail("is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids downloads".into())),
        };
    }
    let files = download_files(&repo, &pattern).map_err(|e| {
        fail(format!(
            "could not be downloaded from the Hugging Face hub: {e}; where it is in the cache, set HF_HUB_OFFLINE=1"
        ))
    })?;
    match files {
        Ok(files) => Ok(Some(files)),
        Err(there) => Err(fail(format!("no file fits {path:?}; the data set has {}", there.join(", ")))),
    }
}

/// The first file that a name such as `train-00001-of-00003.parquet` says should be there, and is not.
fn missing_shard(files: &[PathBuf]) -> Option<String> {
    let names: BTreeSet<String> = files.iter().filter_map(|it| Some(it.file_name()?.to_str()?.to_owned())).collect();
    let missing = |name: &String| {
        let (start, rest) = name.split_once("-of-")?;
        let (total, end) = rest.split_once('.').unwrap_or((rest, ""));
        let (stem, number) = start.rsplit_once('-')?;
        let total = total.split('-').next()?.parse::<usize>().ok().filter(|it| *it <= 100_000)?;
        let start = |i: usize| format!("{stem}-{i:0width$}-of-", width = number.len());
        let is_missing = |i: &usize| !names.iter().any(|it| it.starts_with(&start(*i)));
        (0..total).find(is_missing).map(|i| format!("{}{total:0width$}.{end}", start(i), width = number.len()))
    };
    names.iter().find_map(missing)
}

fn fits(pattern: &Pattern, name: &str) -> bool {
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    pattern.matches_with(name, options)
}

/// The files that fit, or else the names of those that are there.
fn download_files(repo: &Repo, pattern: &Pattern) -> Result<Result<Vec<PathBuf>, Vec<String>>, ApiError> {
    let repo = api()?.repo(repo.clone());
    let mut there: Vec<String> = repo.info()?.siblings.into_iter().map(|file| file.rfilename).collect();
    there.sort();
    let fitting: Vec<&String> = there.iter().filter(|name| fits(pattern, name)).collect();
    match fitting.is_empty() {
        true => Ok(Err(there)),
        false => fitting.into_iter().map(|name| repo.get(name)).collect::<Result<_, _>>().map(Ok),
    }
}

/// The files of a data set's newest snapshot in the cache that fit.
fn cached_files(repo: &Repo, pattern: &Pattern) -> Vec<PathBuf> {
    let folder = Cache::from_env().path().join(repo.folder_name());
    let commit = std::fs::read_to_string(folder.join("refs").join(repo.revision()));
    let commit = commit.map_or_else(|_| repo.revision().to_string(), |it| it.trim().to_string());
    let snapshot = folder.join("snapshots").join(commit);
    let all = glob::glob(&format!("{}/**/*", Pattern::escape(&snapshot.to_string_lossy())));
    let name = |path: &PathBuf| path.strip_prefix(&snapshot).ok()?.to_str().map(str::to_owned);
    let mut files: Vec<PathBuf> = all.into_iter().flatten().flatten().filter(|path| path.is_file()).collect();
    files.retain(|path| name(path).is_some_and(|name| fits(pattern, &name)));
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_shard_is_named() {
        let check = |names: &[&str], expected: Option<&str>| {
            let files: Vec<PathBuf> = names.iter().map(|name| Path::new("/cache").join(name)).collect();
            assert_eq!(missing_shard(&files).as_deref(), expected, "{names:?}");
        };
        check(&["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], None);
        check(&["train-00000-of-00002.parquet"], Some("train-00001-of-00002.parquet"));
        check(&["train-00000-of-00001-a1b2.parquet", "test-00000-of-00001-c3.parquet"], None);
        check(&["0000.parquet", "one-of-us.jsonl", "x.jsonl"], None);
        check(&[], None);
    }
}
