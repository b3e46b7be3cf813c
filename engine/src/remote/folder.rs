//! Adapters in a folder that servers share with this program.
//!
//! Invariant: a folder under its final name is complete. It is written under another name and then renamed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::settings::AdapterFolders;
use super::{Failure, FailureKind};
use crate::Adapter;
use crate::adapter::{ADAPTER, ADAPTER_CONFIG};

/// Writes each policy once, however many servers load it.
#[derive(Debug)]
pub struct AdapterStore {
    folders: AdapterFolders,
    /// What was written. Locked while a folder is written or removed, even if nobody waits for it any more.
    written: Arc<Mutex<Written>>,
}

type Written = HashSet<String>;

impl AdapterStore {
    pub fn new(folders: AdapterFolders) -> Self {
        Self { folders, written: Arc::default() }
    }

    /// Where a server finds the policy's PEFT folder, which is there from now on.
    pub async fn put(&self, policy: &str, adapter: &Adapter) -> Result<String, Failure> {
        let here = self.path(policy)?;
        let written = self.written.clone().lock_owned().await;
        if !written.contains(policy) {
            let (policy, target, adapter) = (policy.to_string(), here.clone(), adapter.clone());
            let work = move |written: &mut Written| {
                write(&target, &adapter)?;
                written.insert(policy);
                Ok(())
            };
            in_background(written, work).await.map_err(|e| refused(&here, &e))?;
        }
        let at_server = self.folders.at_server.to_str().ok_or_else(|| {
            refused(&self.folders.at_server, &io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))
        })?;
        Ok(format!("{}/{policy}", at_server.trim_end_matches('/')))
    }

    /// Removes the policy's folder. One that cannot be removed costs space but nothing else.
    pub async fn remove(&self, policy: &str) {
        let Ok(here) = self.path(policy) else { return };
        let written = self.written.clone().lock_owned().await;
        let (policy, target) = (policy.to_string(), here.clone());
        let work = move |written: &mut Written| {
            written.remove(&policy);
            fs::remove_dir_all(target)
        };
        match in_background(written, work).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %here.display(), %error, "an adapter's folder could not be removed");
            }
            _ => {}
        }
    }

    /// A policy's name must not lead out of the folder.
    fn path(&self, policy: &str) -> Result<PathBuf, Failure> {
        let plain = policy.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        match plain && !policy.is_empty() && !policy.starts_with('.') {
            true => Ok(self.folders.here.join(policy)),
            false => Err(Failure::new(FailureKind::Refused, format!("{policy:?} cannot be the name of a folder"))),
        }
    }
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Refused, format!("cannot write the adapter to {}: {error}", path.display()))
}

/// Does the work under the lock. Whoever waits may give up; the work goes on, and keeps the lock.
async fn in_background(
    mut written: OwnedMutexGuard<Written>,
    work: impl FnOnce(&mut Written) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    tokio::task::spawn_blocking(move || work(&mut written)).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

fn write(target: &Path, adapter: &Adapter) -> io::Result<()> {
    if target.exists() {
        return same(target, adapter);
    }
    let (parent, name) = (target.parent().unwrap_or(target), target.file_name().unwrap_or_default());
    let temporary = parent.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // An earlier attempt may have been cut off.
    if temporary.exists() {
        fs::remove_dir_all(&temporary)?;
    }
    let done = fill(&temporary, adapter).and_then(|()| fs::rename(&temporary, target)).and_then(|()| sync(parent));
    if done.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&temporary);
    }
    done
}

/// An adapter that is already there, from this run before it was resumed, must be this one.
fn same(target: &Path, adapter: &Adapter) -> io::Result<()> {
    match fs::read(target.join(ADAPTER))? == *adapter.bytes {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::AlreadyExists, "another adapter is there already")),
    }
}

fn fill(folder: &Path, adapter: &Adapter) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    write_file(&folder.join(ADAPTER_CONFIG), &serde_json::to_vec_pretty(&*adapter.config)?)?;
    write_file(&folder.join(ADAPTER), &adapter.bytes)?;
    sync(folder)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a folder last.
#[cfg(unix)]
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Other systems cannot open a folder as a file.
#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoraConfig;

    fn adapter(byte: u8) -> Adapter {
        Adapter::new(LoraConfig::new(2, 4.0, vec!["up_proj".into()], "base".into()).into(), vec![byte; 9])
    }

    fn store(name: &str) -> (AdapterStore, PathBuf) {
        let here = std::env::temp_dir().join(format!("engine-folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&here);
        (AdapterStore::new(AdapterFolders { here: here.clone(), at_server: "/mnt/adapters/".into() }), here)
    }

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_policy_is_whole_under_its_name_until_it_is_removed() {
        let (store, here) = store("whole");
        // What a crash left behind does not get into the folder.
        let left = here.join(format!(".p-1.{}", std::process::id()));
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("junk"), "").unwrap();
        let adapter = adapter(7);
        let puts = futures_util::future::join_all((0..4).map(|_| store.put("p-1", &adapter))).await;
        assert!(puts.iter().all(|at| at.as_deref() == Ok("/mnt/adapters/p-1")), "{puts:?}");
        assert_eq!(names(&here), ["p-1"]);
        let mut files = names(&here.join("p-1"));
        files.sort();
        assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors"]);
        assert_eq!(fs::read(here.join("p-1/adapter_model.safetensors")).unwrap(), [7; 9]);
        let config: serde_json::Value =
            serde_json::from_slice(&fs::read(here.join("p-1/adapter_config.json")).unwrap()).unwrap();
        assert_eq!((&config["r"], &config["peft_type"]), (&2.into(), &"LORA".into()));
        // The run that goes on after this one removes it too.
        AdapterStore::new(store.folders.clone()).remove("p-1").await;
        assert!(names(&here).is_empty());
        store.remove("p-1").await;
        fs::remove_dir_all(here).unwrap();
    }

    #[tokio::test]
    async fn other_bytes_under_a_name_that_is_there_are_refused() {
        let (first, here) = store("other");
        first.put("p", &adapter(1)).await.unwrap();
        let resumed = AdapterStore::new(first.folders.clone());
        resumed.put("p", &adapter(1)).await.unwrap();
        let other = AdapterStore::new(first.folders.clone());
        let failure = other.put("p", &adapter(2)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Refused);
        assert!(failure.problem.contains("another adapter is there"), "{failure}");
        fs::remove_dir_all(here).unwrap();
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_a_whole_folder() {
        let (store, here) = store("gives-up");
        let bytes = vec![5; 32 << 20];
        let large = Adapter::new(adapter(0).config, bytes.clone());
        // It has begun to write when it is dropped.
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(1), store.put("p", &large)).await;
        store.put("p", &large).await.unwrap();
        assert!(given_up.is_err(), "32 MB were written within a millisecond");
        assert_eq!(names(&here), ["p"]);
        assert!(fs::read(here.join("p/adapter_model.safetensors")).unwrap() == bytes);
        fs::remove_dir_all(here).unwrap();
    }

    #[tokio::test]
    async fn names_and_folders_that_cannot_be_written_are_refused() {
        let (store, here) = store("names");
        fs::write(&here, "a file, where the folder should be").unwrap();
        for (policy, part) in [("p", here.to_str().unwrap()), ("../p", "../p"), (".", "name"), ("", "name")] {
            let failure = store.put(policy, &adapter(1)).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused);
            assert!(failure.problem.contains(part), "{failure}");
        }
        fs::remove_file(here).unwrap();
    }
}
