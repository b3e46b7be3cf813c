//! Writing files so that a crash leaves the old one or the new one, never a part.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::InputError;

/// Writes `bytes` to a temporary name beside `path`, syncs, and renames.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    let mut file = File::create(&temporary).map_err(|e| at(&temporary, e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| {
        drop(fs::remove_file(&temporary));
        at(&temporary, e)
    })?;
    fs::rename(&temporary, path).map_err(|e| {
        drop(fs::remove_file(&temporary));
        at(path, e)
    })?;
    sync_parent(path)
}

/// Makes a rename inside the parent folder of `path` durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| at(parent, e))
}

/// Locks `folder` against other processes of this program, until the returned file is closed.
///
/// # Errors
/// If another process has locked it, or it cannot be written to.
pub fn lock(folder: &Path) -> Result<File, InputError> {
    let path = folder.join(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| InputError::new(path.display(), e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let problem = "another dump-rl is writing here; wait for it, or choose another folder with --out DIR";
            Err(InputError::new(folder.display(), problem))
        }
        // On a file system without locks the run goes ahead without one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// `path` with `.tmp` added to its name.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// The error with the path it is about.
pub fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
