//! Models and data sets by their name on the Hugging Face hub, from its local cache or downloaded into it.
//!
//! - [`environment`]: the variables of `huggingface_hub`, with their meaning there · [`cache`]: the same layout on disk
//! - `models`, `datasets`: which files, and from where · `download`: a file, whole or not at all
//! - `client`: requests · `errors`: what can go wrong, a sentence each · `progress`: what a download shows
//!
//! Where a branch or a tag is named and the hub can be reached, it is asked for the commit, as `huggingface_hub` does. Where it
//! cannot, the commit in the cache is used, with a warning.

pub mod cache;
mod client;
mod datasets;
mod download;
pub mod environment;
mod errors;
mod models;
mod progress;

use crate::error::InputError;
use cache::{Kind, Repo};
use client::{Client, Listing, patiently};
use environment::{Environment, Network};
use errors::HubError;

pub use datasets::dataset_files;
pub use models::{check_named, folder, local, pinned, without_revision};

/// What the address of a file of a data set begins with.
pub const DATASETS: &str = "hf://datasets/";

/// Whether a data set that is not in the cache may be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Download {
    Allowed,
    Never,
}

/// Asks for the files of a repository. Without patience if the cache can stand in for the hub.
fn listing(client: &Client, repo: &Repo, is_cached: bool) -> Result<Listing, HubError> {
    if is_cached { client.listing(repo) } else { patiently(|| client.listing(repo)) }
}

/// What is said where the cache stands in for the hub.
fn warn_of_cache(error: &HubError, repo: &Repo, environment: &Environment) {
    let why = error.sentence(repo, environment);
    tracing::warn!("{}: what the cache has is used, because: {why}", repo.address());
}

fn not_cached(repo: &Repo, missing: &str) -> InputError {
    InputError::new(repo.address(), format!("{missing}, and HF_HUB_OFFLINE forbids downloads"))
}
