//! The environment variables of the hub, with the meaning that Python's `huggingface_hub` gives them.
//!
//! An empty variable counts as one that is not set.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::error::InputError;

const ENDPOINT: &str = "https://huggingface.co";
/// Seconds to wait for an answer, or for more of one.
const TIMEOUT: u64 = 10;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The folder with a folder for each repository.
    pub cache: PathBuf,
    /// The address that all others begin with.
    pub endpoint: Url,
    pub token: Option<Token>,
    pub network: Network,
    /// How long the hub may take to say what it has.
    pub metadata_timeout: Duration,
    /// How long it may send nothing during a download.
    pub download_timeout: Duration,
    pub proxies: Proxies,
    pub progress: Progress,
}

/// Whether the hub may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Online,
    Offline,
}

/// How a download shows its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Shown,
    Hidden,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    /// The variable or the file that it is from.
    pub from: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a token from {}", self.from)
    }
}

/// Proxies by the scheme of the address, and the hosts that are reached without.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    without: Vec<String>,
}

impl Environment {
    /// # Errors
    /// A variable whose value cannot be used.
    pub fn read() -> Result<Self, InputError> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, InputError> {
        let variable = &|name: &str| variable(name).filter(|value| !value.is_empty());
        let is_on = |names: &[&str]| names.iter().find_map(|name| variable(name)).is_some_and(|value| is_true(&value));
        let home = home(variable);
        let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].iter().find_map(|name| variable(name));
        let offline = is_on(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]);
        Ok(Self {
            cache: cache.map_or_else(|| home.join("hub"), |path| expanded(&path, variable)),
            endpoint: endpoint(variable("HF_ENDPOINT"))?,
            token: if is_on(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) { None } else { token(variable, &home)? },
            network: if offline { Network::Offline } else { Network::Online },
            metadata_timeout: seconds("HF_HUB_ETAG_TIMEOUT", variable)?,
            download_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT", variable)?,
            proxies: Proxies::from_variables(variable),
            progress: if is_on(&["HF_HUB_DISABLE_PROGRESS_BARS"]) { Progress::Hidden } else { Progress::Shown },
        })
    }
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

/// The folder of the hub's files: cache and token.
fn home(variable: Variable) -> PathBuf {
    let cache = || variable("XDG_CACHE_HOME").unwrap_or_else(|| "~/.cache".into());
    let home = variable("HF_HOME").unwrap_or_else(|| format!("{}/huggingface", cache()));
    expanded(&home, variable)
}

/// `path` with the home folder for a leading `~`, and with the values of `$NAME` and `${NAME}`.
fn expanded(path: &str, variable: Variable) -> PathBuf {
    let home = || variable("HOME").or_else(|| Some(std::env::home_dir()?.display().to_string()));
    let path = match path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(rest) => home().map_or_else(|| path.to_string(), |home| format!("{home}{rest}")),
        None => path.to_string(),
    };
    let mut parts = path.split('$');
    let mut whole = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
        let (name, rest) =
            part.strip_prefix('{').and_then(|it| it.split_once('}')).unwrap_or_else(|| part.split_at(end));
        match variable(name) {
            Some(value) => whole.extend([value.as_str(), rest]),
            None => whole.extend(["$", part]),
        }
    }
    whole.into()
}

fn endpoint(given: Option<String>) -> Result<Url, InputError> {
    let text = given.unwrap_or_else(|| ENDPOINT.into());
    let url = Url::parse(&text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    url.ok_or_else(|| {
        InputError::new("HF_ENDPOINT", format!("{text:?} is not the address of a hub; expected one such as {ENDPOINT}"))
    })
}

fn seconds(name: &str, variable: Variable) -> Result<Duration, InputError> {
    let Some(text) = variable(name) else { return Ok(Duration::from_secs(TIMEOUT)) };
    match text.trim().parse() {
        Ok(0) => Ok(Duration::from_secs(TIMEOUT)),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => Err(InputError::new(name, format!("expected whole seconds, got {text:?}"))),
    }
}

fn token(variable: Variable, home: &std::path::Path) -> Result<Option<Token>, InputError> {
    let name = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find(|name| variable(name).is_some());
    let given = name.and_then(|name| Token::new(&variable(name)?, name));
    let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), |path| expanded(&path, variable));
    let stored = || Token::new(&std::fs::read_to_string(&path).ok()?, &path.display().to_string());
    match given.or_else(stored) {
        Some(token) if token.text.chars().any(|c| !c.is_ascii_graphic()) => {
            Err(InputError::new(token.from, "the token has a character that no token has; copy it again"))
        }
        token => Ok(token),
    }
}

impl Token {
    fn new(text: &str, from: &str) -> Option<Self> {
        let text = text.replace(['\r', '\n'], "").trim().to_string();
        (!text.is_empty()).then(|| Self { text, from: from.into() })
    }
}

impl Proxies {
    fn from_variables(variable: Variable) -> Self {
        let either = |name: &str| variable(&name.to_lowercase()).or_else(|| variable(name));
        let without = either("NO_PROXY").unwrap_or_default();
        Self {
            http: either("HTTP_PROXY").or_else(|| either("ALL_PROXY")),
            https: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")),
            without: without.split(',').map(|host| host.trim().trim_start_matches('.').to_lowercase()).collect(),
        }
    }

    /// The proxy for an address.
    pub fn of(&self, url: &Url) -> Option<&str> {
        let host = url.host_str().unwrap_or_default();
        let covers =
            |name: &String| name == "*" || name == host || (!name.is_empty() && host.ends_with(&format!(".{name}")));
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        proxy.as_deref().filter(|_| !self.without.iter().any(covers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Environment, InputError> {
        let given: Vec<(String, String)> = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Environment::from_variables(&move |name| {
            let home = (name == "HOME").then(|| "/home/me".to_string());
            given.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).or(home)
        })
    }

    /// The expected values are those of huggingface_hub 2.4's constants.py.
    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let check = |given: &[(&str, &str)], expected: &str| {
            assert_eq!(read(given).unwrap().cache, PathBuf::from(expected), "{given:?}");
        };
        check(&[], "/home/me/.cache/huggingface/hub");
        check(&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        check(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub");
        check(&[("HF_HOME", "~/hf")], "/home/me/hf/hub");
        check(&[("HF_HOME", "$HOME/a${HOME}-$NONE/b")], "/home/me/a/home/me-$NONE/b/hub");
        check(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")], "/old");
        check(&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/new");
        check(&[("HF_HUB_CACHE", "")], "/home/me/.cache/huggingface/hub");
    }

    #[test]
    fn only_four_words_mean_offline() {
        let check = |name: &str, value: &str, expected: Network| {
            assert_eq!(read(&[(name, value)]).unwrap().network, expected, "{name}={value}");
        };
        ["1", "ON", "on", "Yes", "TRUE", "true"].iter().for_each(|it| check("HF_HUB_OFFLINE", it, Network::Offline));
        ["0", "off", "no", "false", "2", "", " 1"].iter().for_each(|it| check("HF_HUB_OFFLINE", it, Network::Online));
        check("TRANSFORMERS_OFFLINE", "1", Network::Offline);
        let both = read(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).unwrap();
        assert_eq!(both.network, Network::Online, "the first one that is not empty decides");
    }

    #[test]
    fn a_token_is_cleaned_and_the_variable_goes_before_the_file() {
        let folder = temp_dir::TempDir::new().unwrap();
        let file = folder.path().join("token").display().to_string();
        std::fs::write(&file, "hf_stored\n").unwrap();
        let check = |given: &[(&str, &str)], expected: Option<&str>| {
            let given = [given, &[("HF_TOKEN_PATH", file.as_str())]].concat();
            assert_eq!(read(&given).unwrap().token.map(|it| it.text).as_deref(), expected, "{given:?}");
        };
        check(&[("HF_TOKEN", " hf_a\r\n")], Some("hf_a"));
        check(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")], Some("hf_old"));
        check(&[("HF_TOKEN", "hf_a"), ("HUGGING_FACE_HUB_TOKEN", "hf_old")], Some("hf_a"));
        check(&[("HF_TOKEN", "")], Some("hf_stored"));
        check(&[("HF_TOKEN", " \n")], Some("hf_stored"));
        check(&[("HF_TOKEN", "hf_a"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")], None);
        let home = folder.path().display().to_string();
        assert_eq!(read(&[("HF_HOME", &home)]).unwrap().token.map(|it| it.text).as_deref(), Some("hf_stored"));
        let error = read(&[("HF_TOKEN", "hf_\u{e4}")]).unwrap_err();
        assert_eq!(error.place, "HF_TOKEN");
        assert!(!format!("{:?}", read(&[("HF_TOKEN", "hf_secret")])).contains("secret"));
    }

    #[test]
    fn an_endpoint_and_seconds_that_cannot_be_used_are_refused() {
        assert_eq!(read(&[]).unwrap().endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(read(&[("HF_ENDPOINT", "http://h:8/hf/")]).unwrap().endpoint.as_str(), "http://h:8/hf/");
        assert_eq!(read(&[("HF_ENDPOINT", "hf-mirror.com")]).unwrap_err().place, "HF_ENDPOINT");
        let timeout = |value| read(&[("HF_HUB_DOWNLOAD_TIMEOUT", value)]).map(|it| it.download_timeout.as_secs());
        assert_eq!((timeout("30"), timeout("0"), timeout("")), (Ok(30), Ok(10), Ok(10)));
        assert_eq!(timeout("1.5").unwrap_err().place, "HF_HUB_DOWNLOAD_TIMEOUT");
    }

    #[test]
    fn a_proxy_is_for_its_scheme_and_not_for_hosts_without() {
        let given = [("HTTPS_PROXY", "http://p:1"), ("http_proxy", "http://p:2"), ("NO_PROXY", "b.org, .c.org")];
        let proxies = read(&given).unwrap().proxies;
        let check = |url: &str, expected: Option<&str>| {
            assert_eq!(proxies.of(&Url::parse(url).unwrap()), expected, "{url}");
        };
        check("https://a.org/x", Some("http://p:1"));
        check("http://a.org/x", Some("http://p:2"));
        check("https://b.org/x", None);
        check("https://cdn.c.org/x", None);
        check("https://nob.org/x", Some("http://p:1"));
    }
}
