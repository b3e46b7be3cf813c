//! `dump-rl report`: one or several runs as one HTML file. It needs no network, and can be read without scripts.
//!
//! - [`load`] reads the folder of a run with its [`settings`], [`rollouts`] its completions; [`cohort`] compares runs
//! - [`series`] averages and thins, [`svg`] draws, [`html`] is the page
//! - `sections` has one file per part of the report; a plot without data is left out
//!
//! Pure except for the files that it reads and the one that it writes.

pub mod advice;
pub mod cohort;
pub mod html;
pub mod lines;
pub mod load;
pub mod rollouts;
mod sections;
pub mod series;
pub mod settings;
pub mod svg;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::error::InputError;
use crate::files;
use load::LoadedRun;

/// The largest number of sample completions, over all runs.
const MOST_SAMPLES: usize = 200;

/// Writes a report over the runs in `folders` to `out`, and returns its size in bytes.
///
/// # Errors
/// A folder without a run; a file of a run that cannot be read or has a wrong line; an `out` that cannot be written.
pub fn run(folders: &[PathBuf], out: &Path) -> Result<usize, InputError> {
    let html = sections::page(&load_all(folders)?);
    let unwritable = |e| InputError::new(out.display(), format!("cannot be written: {e}"));
    files::write_atomic(out, html.as_bytes()).map_err(unwritable)?;
    Ok(html.len())
}

/// Reads the runs in parallel, with one thread per core.
fn load_all(folders: &[PathBuf]) -> Result<Vec<LoadedRun>, InputError> {
    let samples = MOST_SAMPLES / folders.len().max(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut runs = Vec::new();
    for some in folders.chunks(threads) {
        let read: Vec<Result<LoadedRun, InputError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|folder| scope.spawn(|| load::run(folder, samples))).collect();
            threads.into_iter().map(|thread| thread.join().expect("reading a run does not panic")).collect()
        });
        runs.extend(read.into_iter().collect::<Result<Vec<LoadedRun>, InputError>>()?);
    }
    name_apart(&mut runs, folders);
    Ok(runs)
}

/// Names the runs by their folders. If names repeat, as many parent folders are added as needed to make all names
/// different.
fn name_apart(runs: &mut [LoadedRun], folders: &[PathBuf]) {
    let paths: Vec<PathBuf> = folders.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    let end = |path: &PathBuf, parts: usize| -> String {
        let mut names: Vec<String> = path.iter().rev().take(parts).map(|part| part.to_string_lossy().into()).collect();
        names.reverse();
        names.join("/")
    };
    let deepest = paths.iter().map(|path| path.iter().count()).max().unwrap_or(1);
    for parts in 1..=deepest {
        let names: Vec<String> = paths.iter().map(|path| end(path, parts)).collect();
        let different = (1..names.len()).all(|i| !names[..i].contains(&names[i]));
        if different || parts == deepest {
            runs.iter_mut().zip(names).for_each(|(run, name)| run.name = name);
            break;
        }
    }
}
