//! Writing files so that a crash leaves the old one or the new one, never a part. Reading the text files that people give.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use crate::error::InputError;

/// Writes `bytes` to a temporary name beside `path`, syncs, and renames.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, |file| file.write_all(bytes).and_then(|()| file.sync_all()))?;
    sync_parent(path)
}

/// Lets `write` write to a temporary name beside `path`, and renames. A kill leaves the whole file or the old one; a power cut may
/// leave a part, until [`sync_all`].
pub fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>) -> io::Result<()> {
    write_beside(path, |file| {
        let mut file = BufWriter::new(file);
        write(&mut file).and_then(|()| file.flush())
    })
}

/// Gives `path` the file that `write` makes under a temporary name, which is removed if that fails.
fn write_beside(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_name(path);
    let mut file = File::create(&temporary).map_err(|e| at(&temporary, e))?;
    let written = write(&mut file).map_err(|e| at(&temporary, e));
    written.and_then(|()| fs::rename(&temporary, path).map_err(|e| at(path, e))).inspect_err(|_| {
        drop(fs::remove_file(&temporary));
    })
}

/// So many files are synced at a time.
const SYNCED_AT_ONCE: usize = 32;

/// Makes the content of files and folders durable. Those that are not there are passed over. Several at a time, because a disk
/// takes little longer for many than for one.
pub fn sync_all(paths: &[PathBuf]) -> io::Result<()> {
    paths.chunks(SYNCED_AT_ONCE).try_for_each(|some| {
        thread::scope(|scope| {
            let syncs = some.iter().map(|path| (path, thread::Builder::new().spawn_scoped(scope, || sync(path))));
            let syncs = syncs.collect::<Vec<_>>();
            // Where no thread can be started, this one does it.
            let synced = syncs.into_iter().map(|(path, thread)| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => sync(path),
            });
            synced.fold(Ok(()), io::Result::and)
        })
    })
}

fn sync(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        file => file.and_then(|file| file.sync_all()).map_err(|e| at(path, e)),
    }
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
    with_ending(path, ".tmp")
}

/// `path` with `.zst` added to its name.
pub fn compressed_name(path: &Path) -> PathBuf {
    with_ending(path, ".zst")
}

/// `path` with this added to its name.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    path.with_file_name(name)
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `path`, or what it is called if it was written compressed.
pub fn plain_or_compressed(path: &Path) -> PathBuf {
    let compressed = compressed_name(path);
    if compressed.exists() { compressed } else { path.to_path_buf() }
}

/// The text of a UTF-8 file, without its byte order mark.
///
/// # Errors
/// A file that cannot be read; text that is not UTF-8, with its line.
pub fn read_text(path: &Path) -> Result<String, InputError> {
    let bytes = fs::read(path).map_err(|e| InputError::new(path.display(), format!("cannot read the file: {e}")))?;
    decode(bytes).map_err(|error| InputError::new(format!("{}:{}", path.display(), error.line), error))
}

/// Why bytes are not the text that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8 {
    /// The line of the first wrong byte, from 1.
    pub line: usize,
    is_utf16: bool,
}

impl fmt::Display for NotUtf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_utf16 {
            true => "the text is UTF-16; save the file as UTF-8",
            false => "the text is not UTF-8; save the file as UTF-8",
        })
    }
}

/// UTF-8 text without the byte order mark that some programs on Windows begin a file with.
///
/// # Errors
/// Bytes that are not UTF-8.
pub fn decode(bytes: Vec<u8>) -> Result<String, NotUtf8> {
    if is_utf16(&bytes) {
        return Err(NotUtf8 { line: 1, is_utf16: true });
    }
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        NotUtf8 { line: 1 + lines(before), is_utf16: false }
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// Whether text begins with a byte order mark of UTF-16, or without one with an ASCII character in two bytes.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [0, 1..=0x7F, ..] | [1..=0x7F, 0, ..])
}

/// The error with the path it is about.
pub fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    }

    /// More paths than are synced at a time.
    #[test]
    fn what_is_not_there_is_not_synced_and_a_failure_is_named() {
        let folder = temp_dir::TempDir::new().unwrap();
        let mut paths: Vec<PathBuf> = (0..2 * SYNCED_AT_ONCE).map(|i| folder.child(i.to_string())).collect();
        paths.iter().step_by(2).for_each(|path| fs::write(path, "text").unwrap());
        paths.push(folder.path().to_path_buf());
        sync_all(&paths).unwrap();
        sync_all(&[]).unwrap();
        // Below a file there is nothing.
        paths.insert(1, folder.child("0").join("below"));
        let error = sync_all(&paths).unwrap_err().to_string();
        assert!(error.contains("0/below"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_is_left_out_and_other_encodings_are_named() {
        let text = |bytes: &[u8]| decode(bytes.to_vec()).map_err(|error| (error.line, error.to_string()));
        assert_eq!(text(b"\xEF\xBB\xBFa = 1\n"), Ok("a = 1\n".into()));
        assert_eq!(text("é\u{feff}".as_bytes()), Ok("é\u{feff}".into()));
        assert_eq!(text(b""), Ok(String::new()));
        assert_eq!(text(b"\xEF\xBB\xBF"), Ok(String::new()));
        for bytes in [
            utf16("\u{feff}{}", u16::to_le_bytes),
            utf16("\u{feff}{}", u16::to_be_bytes),
            utf16("{}", u16::to_le_bytes),
            utf16("{}", u16::to_be_bytes),
        ] {
            let (line, problem) = text(&bytes).unwrap_err();
            assert!(line == 1 && problem.contains("UTF-16") && problem.contains("save"), "{problem}");
        }
        let (line, problem) = text(b"a\nb\ncaf\xE9\n").unwrap_err();
        assert!(line == 3 && problem.contains("not UTF-8"), "{line}: {problem}");
    }
}
