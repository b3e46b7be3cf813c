//! Paths in configurations.

use std::path::{Path, PathBuf};

/// `path` relative to `base`, as an absolute path without `.` and `..`. An empty path and a URL stay as they are.
pub(super) fn absolute(base: &Path, path: &str) -> String {
    if path.is_empty() || path.contains("://") {
        return path.to_string();
    }
    let joined = base.join(path);
    let full = std::path::absolute(&joined).unwrap_or(joined);
    let mut clean = PathBuf::new();
    for part in full.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean.to_string_lossy().into_owned()
}
