//! What the engine is told about servers: the `[engine]` table, with the files and the environment that it names read.
//! And what the operating system must allow for many connections.

use std::path::Path;
use std::time::Duration;

use engine::remote::{AdapterFolders, EndpointSettings, RemoteSettings, ServedModel, Token};

use crate::config::engine::EngineConfig;
use crate::config::remote::{RemoteConfig, address};
use crate::error::InputError;
use crate::files;
use crate::model::base::Base;

/// # Errors
/// An address or a file that is wrong, by its key.
pub fn read(base: &Base) -> Result<RemoteSettings, InputError> {
    let (engine, remote) = (&base.config.engine, &base.config.engine.remote);
    let router = Some(&remote.router).filter(|router| !router.is_empty());
    Ok(RemoteSettings {
        // Another one at every start: a name that a server has seen must never mean other weights.
        run_id: format!("{:08x}", rand::random::<u32>()),
        endpoints: endpoints(engine)?,
        endpoints_file: given(&remote.endpoints_file).map(Path::to_path_buf),
        router: router.map(|router| url(router, "engine.remote.router")).transpose()?,
        adapters: given(&remote.adapters).map(|here| folders(here, &remote.adapters_at_server)),
        token: token(remote)?,
        ca: given(&remote.ca_file)
            .map(|path| file(path, "engine.remote.ca_file").map(String::into_bytes))
            .transpose()?,
        max_sequences: engine.max_sequences,
        request_timeout: Duration::from_secs(remote.request_timeout_s),
        control_timeout: Duration::from_secs(remote.control_timeout_s),
        retries: remote.retries,
        hedges: remote.hedging,
        kept_policies: usize::try_from(base.config.pipeline.max_off_policy_steps).unwrap_or(usize::MAX - 2) + 2,
        model: ServedModel {
            vocab_size: base.decoder.vocab_size,
            context: base.resolved.longest_request,
            temperature: engine.temperature,
            truncates: engine.top_k > 0 || engine.top_p < 1.0 || engine.min_p > 0.0,
        },
    })
}

/// Allows as many open files, and so connections, as this user may have: often 1,024 are allowed at first. If that fails,
/// connections fail later, and say so.
pub fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}

fn endpoints(engine: &EngineConfig) -> Result<Vec<EndpointSettings>, InputError> {
    let settings = engine.endpoints.iter().map(|endpoint| {
        Ok(EndpointSettings {
            url: url(&endpoint.url, "engine.endpoints")?,
            model: Some(endpoint.model.clone()).filter(|model| !model.is_empty()),
            max_sequences: match endpoint.max_sequences {
                0 => engine.max_sequences,
                own => own,
            },
        })
    });
    settings.collect()
}

fn url(text: &str, key: &str) -> Result<url::Url, InputError> {
    address(text).map_err(|problem| InputError::new(key, problem))
}

fn given(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

fn folders(here: &Path, at_server: &str) -> AdapterFolders {
    let at_server = if at_server.is_empty() { here.to_path_buf() } else { at_server.into() };
    AdapterFolders { here: here.to_path_buf(), at_server }
}

/// From the file, or from the environment.
fn token(remote: &RemoteConfig) -> Result<Option<Token>, InputError> {
    let (text, key) = match given(&remote.token_file) {
        Some(path) => (Some(file(path, "engine.remote.token_file")?), "engine.remote.token_file".to_string()),
        None => (std::env::var(&remote.token_env).ok(), format!("environment variable {}", remote.token_env)),
    };
    let Some(text) = text else { return Ok(None) };
    // What a header can hold. The value itself is not repeated.
    match text.trim() {
        "" => Err(InputError::new(key, "is empty; it must hold the servers' token")),
        token if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(Token::new(token))),
        _ => Err(InputError::new(
            key,
            "holds more than one word of visible ASCII characters; it must hold the token alone",
        )),
    }
}

fn file(path: &Path, key: &str) -> Result<String, InputError> {
    files::read_text(path).map_err(|error| InputError::new(key, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_of_a_file() {
        let dir = temp_dir::TempDir::new().unwrap();
        let check = |text: &str, expected: Result<&str, &str>| {
            let path = dir.path().join("token");
            std::fs::write(&path, text).unwrap();
            let remote = RemoteConfig { token_file: path, ..RemoteConfig::default() };
            match (token(&remote), expected) {
                (Ok(Some(token)), Ok(expected)) => assert_eq!(token.secret(), expected),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (found, _) => panic!("{found:?} for {text:?}"),
            }
        };
        check("abc-123\n", Ok("abc-123"));
        check(" \n", Err("engine.remote.token_file: is empty"));
        check("two words", Err("more than one word"));
        let missing = RemoteConfig { token_file: dir.path().join("no"), ..RemoteConfig::default() };
        assert!(token(&missing).unwrap_err().to_string().contains("engine.remote.token_file"));
        let none = RemoteConfig { token_env: "DUMP_RL_NO_SUCH_VARIABLE".into(), ..RemoteConfig::default() };
        assert!(token(&none).unwrap().is_none());
    }
}
