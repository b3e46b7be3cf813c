//! What can go wrong between this program and the hub, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::cache::{Kind, Repo};
use super::environment::{Environment, Token};
use crate::error::InputError;

#[derive(Debug)]
pub enum HubError {
    /// The repository's owner gives access to those who accept its licence.
    Gated,
    /// Missing, or private and not for this token.
    NoRepository,
    NoRevision,
    NoFile(String),
    /// The token is wrong or has expired.
    BadToken,
    /// Not allowed, with the hub's reason.
    Forbidden(String),
    /// With the wait that the hub asks for.
    TooManyRequests(Duration),
    /// The hub's own fault, with its status.
    Server(u16),
    /// No answer, or one that broke off.
    Network(String),
    /// An answer that a hub does not give.
    NotAHub(String),
    /// What came is not what the hub announced.
    Damaged {
        file: String,
        problem: String,
    },
    Disk(PathBuf, io::Error),
}

impl HubError {
    /// Whether the same request may succeed a little later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::TooManyRequests(_) | Self::Server(_) | Self::Network(_))
    }

    /// Whether a copy in the cache may be used in place of the hub's answer. A revision or a file that the hub does not have was
    /// asked for by mistake.
    pub fn allows_cache(&self) -> bool {
        !matches!(self, Self::NoRevision | Self::NoFile(_) | Self::Disk(..) | Self::Damaged { .. })
    }

    /// One sentence that says what to do.
    pub fn explain(&self, repo: &Repo, environment: &Environment) -> InputError {
        InputError::new(repo.address(), self.sentence(repo, environment))
    }

    pub fn sentence(&self, repo: &Repo, environment: &Environment) -> String {
        let page = repo.page(&environment.endpoint);
        let token = environment.token.as_ref();
        match self {
            Self::Gated => format!("is gated: accept its conditions at {page}, {}", then_log_in(token)),
            Self::NoRepository => format!(
                "is not on the hub as a {}, or is private: check the name at {page}, {}",
                repo.kind.name(),
                or_log_in(token)
            ),
            Self::NoRevision => format!("has no branch, tag or commit {}; see {page}/commits/main", repo.revision),
            Self::NoFile(name) => format!("has no file {name} at revision {}; see {page}", repo.revision),
            Self::BadToken => match token {
                Some(token) => {
                    format!("the hub does not accept the token of {}: it is wrong or has expired", token.from)
                }
                None => "the hub asks for a token: set HF_TOKEN".into(),
            },
            Self::Forbidden(reason) => format!("the hub refuses access: {reason}; see {page}, {}", or_log_in(token)),
            Self::TooManyRequests(_) => format!(
                "the hub answers that there were too many requests (429): try again in some minutes{}",
                if token.is_some() { "" } else { ", or set HF_TOKEN, which allows more" }
            ),
            Self::Server(status) => {
                format!("{} has a fault of its own (status {status}): try again later", environment.endpoint)
            }
            Self::Network(problem) => format!(
                "{} did not answer: {problem}; check the network, HF_ENDPOINT and HTTPS_PROXY, and start again: a download goes on where it stopped",
                environment.endpoint
            ),
            Self::NotAHub(problem) => {
                format!("{} does not answer as a Hugging Face hub: {problem}; check HF_ENDPOINT", environment.endpoint)
            }
            Self::Damaged { file, problem } => format!("{file} came damaged: {problem}; start again"),
            Self::Disk(path, error) if error.kind() == io::ErrorKind::StorageFull => format!(
                "there is no space left for {}; make room and start again, which goes on where it stopped, or name another folder with HF_HUB_CACHE",
                path.display()
            ),
            Self::Disk(path, error) => {
                format!("{}: {error}; HF_HUB_CACHE names another folder for downloads", path.display())
            }
        }
    }
}

fn then_log_in(token: Option<&Token>) -> String {
    match token {
        Some(token) => format!("with the account of the token of {}", token.from),
        None => "then set HF_TOKEN to a token of that account (or run hf auth login)".into(),
    }
}

fn or_log_in(token: Option<&Token>) -> String {
    match token {
        Some(token) => format!("and whether the token of {} may read it", token.from),
        None => "or set HF_TOKEN to a token that may read it".into(),
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "data set",
        }
    }
}
