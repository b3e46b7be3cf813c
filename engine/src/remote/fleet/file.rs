//! The endpoints file: one address a line, `#` before comments.

use std::path::{Path, PathBuf};

use url::Url;

use crate::EngineError;
use crate::remote::EndpointSettings;

/// A file that is read again and again.
pub(super) struct EndpointsFile {
    pub(super) path: PathBuf,
    /// The most sequences on each of its servers.
    max_sequences: usize,
    /// What it held last; `None`: it could not be read.
    text: Option<String>,
}

/// A line that is no address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) problem: String,
}

impl BadLine {
    pub(super) fn error(self, path: &Path) -> EngineError {
        EngineError::Endpoint { url: format!("{}:{}", path.display(), self.line), problem: self.problem }
    }
}

/// A good line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GoodLine {
    pub(super) line: usize,
    pub(super) endpoint: EndpointSettings,
}

impl EndpointsFile {
    /// Reads the file for the first time.
    pub(super) async fn open(path: &Path, max_sequences: usize) -> Result<Self, EngineError> {
        let text = tokio::fs::read_to_string(path).await.map_err(|e| EngineError::Endpoint {
            url: path.display().to_string(),
            problem: format!("cannot read the endpoints file: {e}"),
        })?;
        Ok(Self { path: path.to_owned(), max_sequences, text: Some(text) })
    }

    /// Reads the file again; `false`: nothing changed. A file that is missing for a moment changes nothing.
    pub(super) async fn changed(&mut self) -> bool {
        match tokio::fs::read_to_string(&self.path).await {
            Ok(text) if self.text.as_ref() == Some(&text) => false,
            Ok(text) => {
                self.text = Some(text);
                true
            }
            Err(error) => {
                // Only once, until it can be read again.
                if self.text.take().is_some() {
                    tracing::warn!("{}: {error}; its servers stay", self.path.display());
                }
                false
            }
        }
    }

    pub(super) fn lines(&self) -> (Vec<GoodLine>, Vec<BadLine>) {
        parse(self.text.as_deref().unwrap_or_default(), self.max_sequences)
    }
}

fn parse(text: &str, max_sequences: usize) -> (Vec<GoodLine>, Vec<BadLine>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let address = line.split('#').next().unwrap_or_default().trim();
        match address {
            "" => {}
            _ => match parse_url(address) {
                Ok(url) => {
                    let endpoint = EndpointSettings { url, model: None, max_sequences };
                    good.push(GoodLine { line: at + 1, endpoint });
                }
                Err(problem) => bad.push(BadLine { line: at + 1, problem }),
            },
        }
    }
    (good, bad)
}

fn parse_url(address: &str) -> Result<Url, String> {
    let url = Url::parse(address).map_err(|e| format!("{address:?} is not an address: {e}"))?;
    match (url.scheme(), url.has_host()) {
        ("http" | "https", true) => Ok(url),
        _ => Err(format!("{address:?} does not begin with http:// or https://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_are_skipped_and_bad_lines_keep_their_numbers() {
        let text = "# ours\nhttp://a:1\n\n  https://b:2/x  # fast\nnonsense\nftp://c\n";
        let (good, bad) = parse(text, 7);
        let urls: Vec<_> = good.iter().map(|good| (good.line, good.endpoint.url.as_str())).collect();
        assert_eq!(urls, [(2, "http://a:1/"), (4, "https://b:2/x")]);
        assert!(good.iter().all(|good| good.endpoint.max_sequences == 7 && good.endpoint.model.is_none()));
        assert_eq!(bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [5, 6]);
    }
}
