//! The cache on disk, laid out as `huggingface_hub` does, so that both programs share it:
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION            the commit that a branch or tag stood for when it was last asked
//! models--OWNER--NAME/snapshots/COMMIT/FILE    a link into blobs/
//! models--OWNER--NAME/blobs/ETAG               a file's content; ETAG.incomplete is a download that is not done
//! models--OWNER--NAME/trees/COMMIT.json        huggingface_hub's list of all files of a commit
//! .locks/models--OWNER--NAME/ETAG.lock         held while that blob is downloaded
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use url::Url;

use super::HubError;
use crate::config::is_hub_id;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Model,
    Dataset,
}

/// A repository at a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    pub kind: Kind,
    /// `OWNER/NAME`.
    pub id: String,
    pub revision: String,
}

impl Repo {
    /// The model that `OWNER/NAME` or `OWNER/NAME@REVISION` names.
    pub fn model(name: &str) -> Option<Self> {
        is_hub_id(name).then(|| Self::new(Kind::Model, name))
    }

    /// `name` is `OWNER/NAME` or `OWNER/NAME@REVISION`.
    pub fn new(kind: Kind, name: &str) -> Self {
        let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
        // The hub writes a branch such as refs/pr/3 into an address as one part.
        Self { kind, id: id.into(), revision: revision.replace("%2F", "/") }
    }

    /// As it is named in configurations.
    pub fn address(&self) -> String {
        let at = if self.revision == "main" { String::new() } else { format!("@{}", self.revision) };
        match self.kind {
            Kind::Model => format!("{}{at}", self.id),
            Kind::Dataset => format!("{}{}{at}", super::DATASETS, self.id),
        }
    }

    /// The parts that its addresses on the hub begin with.
    pub fn prefix(&self) -> Vec<&str> {
        let kind = match self.kind {
            Kind::Model => None,
            Kind::Dataset => Some("datasets"),
        };
        kind.into_iter().chain(self.id.split('/')).collect()
    }

    /// Its page on the hub.
    pub fn page(&self, endpoint: &Url) -> String {
        format!("{}/{}", endpoint.as_str().trim_end_matches('/'), self.prefix().join("/"))
    }

    /// The name of its folder in the cache.
    pub fn folder_name(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// Whether the revision is a whole commit hash, whose files never change.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }
}

/// The folder of one repository in the cache.
pub struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: &Repo) -> Self {
        let name = repo.folder_name();
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that a revision stands for, as far as the cache knows.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let known = fs::read_to_string(self.root.join("refs").join(revision)).ok();
        let known = known.map(|commit| commit.trim().to_string()).filter(|commit| !commit.is_empty());
        known.or_else(|| self.snapshot(revision).is_dir().then(|| revision.to_string()))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The names of all files of a commit, if `huggingface_hub` has listed them.
    pub fn tree(&self, commit: &str) -> Option<Vec<String>> {
        let text = fs::read(self.root.join("trees").join(format!("{commit}.json"))).ok()?;
        let tree: Value = serde_json::from_slice(&text).ok()?;
        Some(tree["files"].as_object()?.keys().cloned().collect())
    }

    /// Waits until no other process downloads this blob. It is locked until the file is closed.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = fs::create_dir_all(&self.locks).and_then(|()| open()).map_err(|e| disk(&path, e))?;
        // On a file system without locks nothing is lost but time: a blob is checked before it gets its name.
        drop(file.lock());
        Ok(file)
    }

    /// Remembers what a revision stood for.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.root.join("refs").join(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|known| known == commit) {
            return Ok(());
        }
        // Another process may write the same at the same time.
        let temporary = format!("{}.{}.tmp", path.display(), std::process::id());
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(&temporary, commit)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|e| disk(&path, e))
    }

    /// Makes the file `name` of a commit a link to a blob.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(name);
        let up = "../".repeat(1 + name.split('/').count());
        let link = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            drop(fs::remove_file(&path));
            match symlink(&format!("{up}blobs/{etag}"), &self.blob(etag), &path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done,
            }
        };
        link().map_err(|e| disk(&path, e))
    }
}

#[cfg(unix)]
fn symlink(target: &str, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_target: &str, blob: &Path, path: &Path) -> io::Result<()> {
    fs::copy(blob, path).map(drop)
}

pub fn disk(path: &Path, error: io::Error) -> HubError {
    HubError::Disk(path.to_path_buf(), error)
}

/// Whether a name from the hub stays inside the folder it is joined to.
pub fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\\')
        && Path::new(name).components().all(|it| matches!(it, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_revision() {
        let check = |name: &str, id: &str, revision: &str, folder: &str| {
            let repo = Repo::model(name).unwrap();
            assert_eq!((repo.id.as_str(), repo.revision.as_str(), repo.folder_name().as_str()), (id, revision, folder));
        };
        check("a/b", "a/b", "main", "models--a--b");
        check("Qwen/Qwen2.5-0.5B@refs/pr/3", "Qwen/Qwen2.5-0.5B", "refs/pr/3", "models--Qwen--Qwen2.5-0.5B");
        check("a/b@refs%2Fpr%2F3", "a/b", "refs/pr/3", "models--a--b");
        assert!(Repo::model("a/b@").is_none() && Repo::model("/a/b").is_none());
    }

    #[test]
    fn no_name_leads_out_of_the_cache() {
        for name in [
            "../b",
            "a/..",
            "..\\a/b",
            "a/b\\..",
            "C:/b",
            "a/b@../../x",
            "a/b@..%2F..%2Fx",
            "a/b@x%2F..%2F..%2Fx",
            "a/b@%2Fetc%2Fx",
            "a/b@x%2F%2Fy",
            "a/b@..\\x",
            "a/b@\0",
        ] {
            assert!(Repo::model(name).is_none(), "{name}");
        }
        let cache = Path::new("/cache");
        for name in ["a/b", "a/b@main", "a/b@refs%2Fpr%2F3", "a/b@v1..2", "a/b@..."] {
            let repo = Repo::model(name).unwrap();
            let folder = RepoCache::new(cache, &repo);
            assert!(is_inside(&repo.revision) && is_inside(&repo.folder_name()), "{name}");
            assert!(folder.root.starts_with(cache) && folder.locks.starts_with(cache.join(".locks")), "{name}");
        }
    }

    #[test]
    fn names_that_lead_out_of_a_folder_are_noticed() {
        ["config.json", "a/b.json"].iter().for_each(|name| assert!(is_inside(name), "{name}"));
        ["", "../x", "a/../../x", "/etc/x", "a\\..\\x", "./x/.."]
            .iter()
            .for_each(|name| assert!(!is_inside(name), "{name}"));
    }
}
