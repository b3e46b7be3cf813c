//! `engine.endpoints` and the `[engine.remote]` table: servers that sample on other machines.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::error::KeyError;

/// One server: its address as text, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The server's root, such as `http://10.0.0.2:8000`, without `/v1`.
    pub url: String,
    /// The name of the base model there. Empty: the only one that it serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// The most sequences to have on it at the same time. 0: `engine.max_sequences`.
    pub max_sequences: usize,
}

/// The same with every key optional but `url`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    url: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    max_sequences: usize,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrTable;

        impl<'de> Visitor<'de> for UrlOrTable {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"http://host:8000\", or a table with url, model and max_sequences")
            }

            fn visit_str<E>(self, url: &str) -> Result<Endpoint, E> {
                Ok(Endpoint { url: url.into(), model: String::new(), max_sequences: 0 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let EndpointTable { url, model, max_sequences } =
                    EndpointTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Endpoint { url, model, max_sequences })
            }
        }

        deserializer.deserialize_any(UrlOrTable)
    }
}

/// How to talk to the servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoteConfig {
    /// A file with one address per line, in addition to `engine.endpoints`. It is read again while the run goes on, so
    /// servers can be added and removed.
    pub endpoints_file: PathBuf,
    /// The address of a router. Completions are asked of it; adapters are still loaded on each of the endpoints.
    pub router: String,
    /// A folder that this machine and the servers share. Adapters are written to it. vLLM and SGLang need it, `dump-rl
    /// serve` does not.
    pub adapters: PathBuf,
    /// The path of the same folder as the servers see it. Empty: the same path.
    pub adapters_at_server: String,
    /// The environment variable that holds the servers' token. Without the variable no token is sent.
    pub token_env: String,
    /// A file that holds the token, instead of `token_env`.
    pub token_file: PathBuf,
    /// A PEM file with certificates to trust in addition to the system's.
    pub ca_file: PathBuf,
    /// Seconds that a server may take for a group.
    pub request_timeout_s: u64,
    /// Seconds that a server may take to load an adapter or to answer a question about itself.
    pub control_timeout_s: u64,
    /// How many times a group is sent again after a failure, before it counts as failed.
    pub retries: usize,
    /// Send the last groups of a step to a second server too, and take the first answer. Only where all servers give the
    /// same tokens for the same seed, as `dump-rl serve` does.
    pub hedging: bool,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            endpoints_file: PathBuf::new(),
            router: String::new(),
            adapters: PathBuf::new(),
            adapters_at_server: String::new(),
            token_env: "DUMP_RL_API_KEY".into(),
            token_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            request_timeout_s: 600,
            control_timeout_s: 60,
            retries: 8,
            hedging: true,
        }
    }
}

impl RemoteConfig {
    /// # Errors
    /// A key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        let seconds = [("request_timeout_s", self.request_timeout_s), ("control_timeout_s", self.control_timeout_s)];
        KeyError::if_zero(&seconds.map(|(key, seconds)| (key, seconds as usize)))?;
        KeyError::if_above(&seconds.map(|(key, seconds)| (key, seconds, 7 * 86_400)))?;
        KeyError::if_above(&[("retries", self.retries as u64, 1000)])?;
        if !self.router.is_empty() {
            address(&self.router).map_err(|problem| KeyError::new("router", problem))?;
        }
        if !self.adapters_at_server.is_empty() && self.adapters.as_os_str().is_empty() {
            let problem = "set adapters too: the folder as this machine sees it";
            return Err(KeyError::new("adapters_at_server", problem));
        }
        Ok(())
    }
}

/// # Errors
/// An address that cannot be one, or one that is there twice. The key names its place in the list.
pub fn check_endpoints(endpoints: &[Endpoint]) -> Result<(), KeyError> {
    let mut seen = Vec::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let wrong = |problem: String| KeyError::new(format!("endpoints[{index}]"), problem);
        let url = address(&endpoint.url).map_err(wrong)?;
        if seen.contains(&url) {
            return Err(wrong(format!("{url} is there twice")));
        }
        seen.push(url);
    }
    Ok(())
}

/// The address of a server's root: `/v1` and a slash at its end are dropped.
///
/// # Errors
/// What is wrong with it, without the password that it may hold.
pub fn address(text: &str) -> Result<Url, String> {
    const EXAMPLE: &str = "use one such as \"http://10.0.0.2:8000\"";
    let mut url = Url::parse(text.trim()).map_err(|e| format!("not an address ({e}); {EXAMPLE}"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("the address must begin with http:// or https:// and name a host; {EXAMPLE}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address must not hold a password; use engine.remote.token_env or token_file".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("an address ends with its path; {EXAMPLE}"));
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).to_string();
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_root() {
        let check = |text: &str, expected: &str| assert_eq!(address(text).unwrap().as_str(), expected);
        check("http://10.0.0.2:8000", "http://10.0.0.2:8000/");
        check(" https://host/v1/ ", "https://host/");
        check("http://host/a/v1", "http://host/a");
        check("http://[::1]:8000/", "http://[::1]:8000/");
    }

    #[test]
    fn what_is_no_address_is_refused_and_no_password_is_repeated() {
        let check = |text: &str, says: &str| {
            let problem = address(text).unwrap_err();
            assert!(problem.contains(says) && !problem.contains("secret"), "{problem}");
        };
        check("host:8000", "must begin with http://");
        check("10.0.0.2:8000", "not an address");
        check("ftp://host", "must begin with http://");
        check("http://me:secret@host", "must not hold a password");
        check("http://host/?token=secret", "ends with its path");
    }

    #[test]
    fn an_endpoint_is_text_or_a_table() {
        #[derive(Deserialize)]
        struct File {
            endpoints: Vec<Endpoint>,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.endpoints);
        let endpoint =
            |url: &str, model: &str, max_sequences| Endpoint { url: url.into(), model: model.into(), max_sequences };
        assert_eq!(
            read(r#"endpoints = ["http://a", {url = "http://b", max_sequences = 8}]"#).unwrap(),
            [endpoint("http://a", "", 0), endpoint("http://b", "", 8)]
        );
        assert_eq!(read("[[endpoints]]\nurl = 'http://a'\nmodel = 'm'").unwrap(), [endpoint("http://a", "m", 0)]);
        for (text, says) in
            [("endpoints = [1]", "an address such as"), ("[[endpoints]]\nurll = 'x'", "unknown field `urll`")]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = check_endpoints(&[endpoint("http://a", "", 0), endpoint("http://a/v1/", "", 0)]).unwrap_err();
        assert_eq!((error.key.as_str(), error.problem.as_str()), ("endpoints[1]", "http://a/ is there twice"));
    }
}
