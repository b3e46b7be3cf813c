//! Files of data sets on the hub.

use std::collections::BTreeSet;
use std::path::PathBuf;

use glob::{MatchOptions, Pattern};

use super::cache::RepoCache;
use super::{Client, DATASETS, Download, Environment, Kind, Network, Repo, download, listing, warn_of_cache};
use crate::config::is_hub_id;
use crate::error::InputError;

/// The files of a data set that fit the path in `address`, which may be a glob. `rest` is `OWNER/NAME[@REVISION]/PATH`, the part
/// behind [`DATASETS`]. In the order of their names. `None` if nothing is in the cache and it must not be downloaded.
///
/// # Errors
/// An address without a path, no file that fits, or a failed download.
pub fn dataset_files(address: &str, rest: &str, download: Download) -> Result<Option<Vec<PathBuf>>, InputError> {
    let fail = |problem: String| InputError::new(address, problem);
    let (repo, path) = parse(rest)
        .ok_or_else(|| fail(format!("expected {DATASETS}OWNER/NAME/PATH or {DATASETS}OWNER/NAME@REVISION/PATH")))?;
    let pattern = Pattern::new(path).map_err(|e| fail(format!("{path:?} is not a valid pattern: {e}")))?;
    let environment = Environment::read()?;
    let cache = RepoCache::new(&environment.cache, &repo);
    let cached = cached_files(&cache, &repo, &pattern);
    if environment.network == Network::Offline || download == Download::Never {
        return match (cached.is_empty(), missing_shard(&cached), download) {
            (false, None, _) => Ok(Some(cached)),
            (_, _, Download::Never) => Ok(None),
            (_, Some(shard), _) => {
                Err(fail(format!("the Hugging Face cache has only a part of it: {shard} is missing")))
            }
            (true, ..) => Err(fail("is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids downloads".into())),
        };
    }
    let client = Client::new(&environment);
    let is_cached = !cached.is_empty() && missing_shard(&cached).is_none();
    let explain = |error: &super::HubError| fail(error.sentence(&repo, &environment));
    let there = match listing(&client, &repo, is_cached) {
        Ok(there) => there,
        Err(error) if is_cached && error.allows_cache() => {
            warn_of_cache(&error, &repo, &environment);
            return Ok(Some(cached));
        }
        Err(error) => return Err(explain(&error)),
    };
    let names: Vec<String> = there.names.iter().filter(|name| fits(&pattern, name)).cloned().collect();
    if names.is_empty() {
        return Err(fail(format!("no file fits {path:?}; the data set has {}", there.names.join(", "))));
    }
    let (commit, progress) = (&there.commit, environment.progress);
    let files = download::Download { client: &client, cache: &cache, repo: &repo, commit, progress };
    files.fetch(&names).and_then(|()| cache.remember(&repo.revision, commit)).map_err(|error| explain(&error))?;
    Ok(Some(names.iter().map(|name| cache.snapshot(commit).join(name)).collect()))
}

/// `OWNER/NAME[@REVISION]/PATH`. A revision with a slash is written with `%2F`.
fn parse(rest: &str) -> Option<(Repo, &str)> {
    let (owner, tail) = rest.split_once('/')?;
    let (name, path) = tail.split_once('/').filter(|(_, path)| !path.is_empty())?;
    let name = format!("{owner}/{name}");
    is_hub_id(&name).then(|| (Repo::new(Kind::Dataset, &name), path))
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

/// The files in the cache that fit, of the commit that the revision was when it was last asked for.
fn cached_files(cache: &RepoCache, repo: &Repo, pattern: &Pattern) -> Vec<PathBuf> {
    let Some(snapshot) = cache.commit(&repo.revision).map(|commit| cache.snapshot(&commit)) else { return Vec::new() };
    let all = glob::glob(&format!("{}/**/*", Pattern::escape(&snapshot.to_string_lossy())));
    let name = |path: &PathBuf| path.strip_prefix(&snapshot).ok()?.to_str().map(str::to_owned);
    let mut files: Vec<PathBuf> = all.into_iter().flatten().flatten().filter(|path| path.is_file()).collect();
    files.retain(|path| name(path).is_some_and(|name| fits(pattern, &name)));
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
