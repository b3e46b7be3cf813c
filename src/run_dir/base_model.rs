//! Where a run's base model is: a folder, or a commit of a model on the hub.

use std::path::{Path, PathBuf};

use crate::config;
use crate::error::InputError;
use crate::model::hub;

/// # Errors
/// If `model`, as a run's configuration names it, is a folder that is not there. `option` is how to name another.
pub fn check_here(model: &Path, option: &str) -> Result<(), InputError> {
    if model.is_dir() || config::is_hub_id(&model.to_string_lossy()) {
        return Ok(());
    }
    let problem = format!("the run's base model is not here; if it has moved, say where it is now with {option}");
    Err(InputError::new(model.display(), problem))
}

/// The model of a run that began with `recorded`, where the configuration names `given`: a model of the hub stays at the commit that
/// the run began with, also if its branch has moved on.
pub fn at_recorded_commit(recorded: &Path, given: &Path) -> PathBuf {
    let (recorded_name, given_name) = (recorded.to_string_lossy(), given.to_string_lossy());
    let is_same = hub::without_revision(&recorded_name) == given_name.trim_end_matches("@main");
    if is_same { recorded.to_path_buf() } else { given.to_path_buf() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stays_at_its_commit() {
        let check = |recorded: &str, given: &str, expected: &str| {
            assert_eq!(at_recorded_commit(Path::new(recorded), Path::new(given)), Path::new(expected), "{given}");
        };
        check("a/b@c0ffee", "a/b", "a/b@c0ffee");
        check("a/b@c0ffee", "a/b@main", "a/b@c0ffee");
        check("a/b@c0ffee", "a/b@v2", "a/b@v2");
        check("a/b@c0ffee", "a/c", "a/c");
        check("/models/b", "/other/b", "/other/b");
    }
}
