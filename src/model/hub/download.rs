//! Files from the hub into the cache. A blob gets its name when it is whole, and a download that stopped goes on later.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::HubError;
use super::cache::{Repo, RepoCache, disk};
use super::client::{Client, Remote, patiently, wait_again};
use super::progress::Progress;
use crate::files;

/// One repository at one commit.
pub struct Download<'a> {
    pub client: &'a Client<'a>,
    pub cache: &'a RepoCache,
    pub repo: &'a Repo,
    pub commit: &'a str,
    pub progress: super::environment::Progress,
}

impl Download<'_> {
    /// Gets the files that the cache does not have, in this order.
    pub fn fetch(&self, names: &[String]) -> Result<(), HubError> {
        let snapshot = self.cache.snapshot(self.commit);
        let missing = names.iter().filter(|name| !snapshot.join(name).exists());
        let describe = |name: &String| patiently(|| self.client.describe(self.repo, self.commit, name));
        let files = missing.map(describe).collect::<Result<Vec<Remote>, HubError>>()?;
        let is_missing = |file: &&Remote| !is_whole(&self.cache.blob(&file.etag), file.size);
        let total = files.iter().filter(is_missing).filter_map(|file| file.size).sum();
        let mut progress = Progress::new(&self.repo.address(), total, self.progress);
        files.iter().try_for_each(|file| {
            self.blob(file, &mut progress)?;
            self.cache.link(self.commit, &file.name, &file.etag)
        })
    }

    fn blob(&self, file: &Remote, progress: &mut Progress) -> Result<(), HubError> {
        let blob = self.cache.blob(&file.etag);
        if is_whole(&blob, file.size) {
            return Ok(());
        }
        let _lock = self.cache.lock(&file.etag)?;
        if is_whole(&blob, file.size) {
            return Ok(());
        }
        progress.file(&file.name);
        let mut part = Part::open(&blob, file)?;
        progress.add(part.size);
        if let Err(error) = self.complete(file, &mut part, progress) {
            // A part from elsewhere may be wrong. What came now is thrown away, or it would be wrong for ever.
            let HubError::Damaged { .. } = error else { return Err(error) };
            progress.take_back(part.size);
            let was_resumed = part.was_resumed;
            part.restart()?;
            if !was_resumed {
                return Err(error);
            }
            self.complete(file, &mut part, progress)?;
        }
        part.finish(&blob)
    }

    /// Appends until the file is whole and is what the hub announced.
    fn complete(&self, file: &Remote, part: &mut Part, progress: &mut Progress) -> Result<(), HubError> {
        let mut failures = 0;
        while file.size.is_none() || file.size != Some(part.size) {
            let before = part.size;
            match self.append(file, part, progress) {
                Ok(()) => break,
                Err(error) => {
                    failures = if part.size > before { 1 } else { failures + 1 };
                    wait_again(error, failures)?;
                }
            }
        }
        part.check(file)
    }

    fn append(&self, file: &Remote, part: &mut Part, progress: &mut Progress) -> Result<(), HubError> {
        let mut body = self.client.open(self.repo, self.commit, &file.name, part.size)?;
        if body.start != part.size {
            // The server began at another byte than it was asked for, in most cases at the first.
            progress.take_back(part.size);
            part.restart()?;
            if body.start != 0 {
                return Err(HubError::Network("another part of the file came than was asked for".into()));
            }
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = match body.reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(HubError::Network(format!("{} broke off: {e}", file.name))),
            };
            part.write(&buffer[..count])?;
            progress.add(count as u64);
            if file.size.is_some_and(|size| part.size > size) {
                return Err(damaged(file, format!("it is longer than {} bytes", file.size.unwrap_or(0))));
            }
        }
        match file.size {
            Some(size) if part.size < size => Err(HubError::Network(format!("{} broke off", file.name))),
            _ => Ok(()),
        }
    }
}

fn damaged(file: &Remote, problem: String) -> HubError {
    HubError::Damaged { file: file.name.clone(), problem }
}

fn is_whole(blob: &Path, size: Option<u64>) -> bool {
    fs::metadata(blob).is_ok_and(|found| found.is_file() && size.is_none_or(|size| size == found.len()))
}

/// A file that is not whole yet, `blobs/ETAG.incomplete`.
struct Part {
    path: PathBuf,
    file: File,
    size: u64,
    /// Of all bytes so far, if the ETag is a SHA-256.
    hash: Option<Sha256>,
    was_resumed: bool,
}

impl Part {
    fn open(blob: &Path, remote: &Remote) -> Result<Self, HubError> {
        let mut path = blob.to_path_buf();
        path.set_file_name(format!("{}.incomplete", remote.etag));
        let open = || -> io::Result<File> {
            fs::create_dir_all(blob.parent().unwrap_or(blob))?;
            File::options().create(true).truncate(false).read(true).write(true).open(&path)
        };
        let file = open().map_err(|e| disk(&path, e))?;
        let is_sha256 = remote.etag.len() == 64 && remote.etag.bytes().all(|b| b.is_ascii_hexdigit());
        let mut part = Self { path, file, size: 0, hash: is_sha256.then(Sha256::new), was_resumed: false };
        part.take_up(remote.size)?;
        Ok(part)
    }

    /// Goes on behind what an earlier download left, unless that is longer than the file.
    fn take_up(&mut self, size: Option<u64>) -> Result<(), HubError> {
        let found = self.file.metadata().map_err(|e| disk(&self.path, e))?.len();
        if size.is_none_or(|size| found > size) {
            return self.restart();
        }
        if let Some(hash) = &mut self.hash {
            io::copy(&mut self.file, hash).map_err(|e| disk(&self.path, e))?;
        }
        (self.size, self.was_resumed) = (found, found > 0);
        self.file.seek(SeekFrom::Start(found)).map_err(|e| disk(&self.path, e)).map(drop)
    }

    fn restart(&mut self) -> Result<(), HubError> {
        (self.size, self.was_resumed) = (0, false);
        self.hash = self.hash.take().map(|_| Sha256::new());
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|e| disk(&self.path, e))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|e| disk(&self.path, e))?;
        self.size += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    fn check(&self, remote: &Remote) -> Result<(), HubError> {
        let Some(hash) = &self.hash else { return Ok(()) };
        let found = files::hex(hash.clone().finalize());
        match found.eq_ignore_ascii_case(&remote.etag) {
            true => Ok(()),
            false => Err(damaged(remote, format!("its SHA-256 is {found}, the hub announced {}", remote.etag))),
        }
    }

    fn finish(self, blob: &Path) -> Result<(), HubError> {
        self.file.sync_all().and_then(|()| fs::rename(&self.path, blob)).map_err(|e| disk(&self.path, e))
    }
}
