//! Which grader: the name of one that is built in, a program or a server of the user's, or a weighted sum of several.
//!
//! In TOML a name is a string and everything else is a table, which has exactly one of the keys `command`, `http`, `verl`,
//! `trl` and `parts`. A string that begins with `{` is read as an inline table, so that a table can be given on the command line.

use std::fmt;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Value;

use super::paths::absolute;
use crate::error::KeyError;
use crate::task::graders;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub enum GraderSpec {
    /// A grader that is built in. The empty name: none.
    Name(String),
    External(ExternalSpec),
    Parts(Vec<PartSpec>),
}

/// A grader outside of this program.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalSpec {
    pub program: Program,
    /// Processes, or HTTP requests, at the same time.
    pub workers: usize,
    /// Seconds that a completion may take, or an HTTP request.
    pub timeout_s: f64,
    /// How often a completion is sent again after its process died, or an HTTP request after it failed.
    pub retries: u32,
    /// Seconds until the first reply of a new process.
    pub start_timeout_s: f64,
    /// Address space of a process, in MiB. 0: no limit.
    pub memory_mb: u64,
    /// Completions in an HTTP request, at most.
    pub batch: usize,
}

/// What grades.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, which reads requests and writes replies as JSON Lines.
    Command(Vec<String>),
    /// The URL of a server.
    Http(String),
    /// A Python function as verl calls it.
    Verl(PythonFunction),
    /// A Python function as TRL calls it.
    Trl(PythonFunction),
}

/// A function in a Python file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonFunction {
    /// `FILE.py` or `FILE.py:FUNCTION`.
    pub place: String,
    /// The interpreter.
    pub python: String,
}

/// One term of a weighted sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartSpec {
    /// In metrics: `rewards/NAME/mean`.
    pub name: String,
    /// `format` scores the format alone. Empty: the grader that the row has without a configuration.
    #[serde(default)]
    pub grader: GraderSpec,
    #[serde(default = "one")]
    pub weight: f32,
}

fn one() -> f32 {
    1.0
}

/// The name of the part that scores the format.
pub const FORMAT: &str = "format";

impl Default for GraderSpec {
    fn default() -> Self {
        Self::Name(String::new())
    }
}

impl From<&str> for GraderSpec {
    fn from(name: &str) -> Self {
        Self::Name(name.to_string())
    }
}

impl GraderSpec {
    /// Reads a name or an inline TOML table, as the command line gives it. Paths are relative to the current folder.
    ///
    /// # Errors
    /// A table that is not TOML, or has a wrong key or value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut value = Value::String(text.to_string());
        resolve_paths(&mut value, Path::new("."));
        Self::deserialize(value).map_err(|error| error.message().to_string())
    }

    /// Whether no grader is given.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// An unknown grader, or a key whose value cannot work.
    pub fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::Name(name) if name.is_empty() => Ok(()),
            Self::Name(name) => known(name).map_err(|problem| KeyError::new("", problem)),
            Self::External(spec) => spec.check(),
            Self::Parts(parts) => check_parts(parts),
        }
    }
}

fn known(name: &str) -> Result<(), String> {
    graders::named(name).map(drop)
}

/// A part's name is in the name of a metric.
pub fn is_part_name(name: &str) -> bool {
    (1..=60).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

fn check_parts(parts: &[PartSpec]) -> Result<(), KeyError> {
    let wrong = |index: usize, key: &str, problem: String| Err(KeyError::new(format!("parts[{index}].{key}"), problem));
    if parts.is_empty() || parts.len() > 64 {
        return Err(KeyError::new("parts", format!("must have 1 to 64 parts, got {}", parts.len())));
    }
    for (index, PartSpec { name, grader, weight }) in parts.iter().enumerate() {
        if !is_part_name(name) {
            return wrong(index, "name", format!("must have 1 to 60 letters, digits, `_`, `-` or `.`, got {name:?}"));
        }
        if parts[..index].iter().any(|other| other.name == *name) {
            return wrong(index, "name", format!("two parts are called {name:?}"));
        }
        if !weight.is_finite() || weight.abs() > 1e6 {
            return wrong(index, "weight", format!("must be from -1000000 to 1000000, got {weight}"));
        }
        match grader {
            GraderSpec::Parts(_) => return wrong(index, "grader", "a part cannot have parts".into()),
            GraderSpec::Name(name) if name == FORMAT => {}
            grader => grader.check().map_err(|e| e.under(&format!("parts[{index}].grader")))?,
        }
    }
    Ok(())
}

impl ExternalSpec {
    /// The defaults of the settings.
    pub fn new(program: Program) -> Self {
        Self { program, workers: 2, timeout_s: 10.0, retries: 2, start_timeout_s: 60.0, memory_mb: 0, batch: 64 }
    }

    fn check(&self) -> Result<(), KeyError> {
        self.program.check()?;
        KeyError::if_zero(&[("workers", self.workers), ("batch", self.batch)])?;
        KeyError::if_above(&[
            ("workers", self.workers as u64, 1024),
            ("batch", self.batch as u64, 10_000),
            ("retries", self.retries.into(), 100),
            ("memory_mb", self.memory_mb, 1 << 30),
        ])?;
        if self.memory_mb > 0 && !cfg!(target_os = "linux") {
            return Err(KeyError::new("memory_mb", "works on Linux only; leave it out"));
        }
        KeyError::if_outside(&[
            ("timeout_s", self.timeout_s, 0.001, 86_400.0),
            ("start_timeout_s", self.start_timeout_s, 0.001, 86_400.0),
        ])
    }
}

impl Program {
    fn check(&self) -> Result<(), KeyError> {
        match self {
            Self::Command(words) if words.first().is_none_or(|program| program.is_empty()) => {
                Err(KeyError::new("command", "must name a program, for example [\"python3\", \"reward.py\"]"))
            }
            Self::Http(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                Err(KeyError::new("http", format!("must begin with http:// or https://, got {url:?}")))
            }
            Self::Http(url) if has_password(url) => {
                let problem = "an address must not hold a password: a run's config.toml would keep it";
                Err(KeyError::new("http", problem))
            }
            Self::Verl(function) if function.file().is_empty() => Err(KeyError::new("verl", "must name a file")),
            Self::Trl(function) if function.file().is_empty() || function.name().is_none() => {
                let problem = format!("must name a file and a function, FILE.py:FUNCTION, got {:?}", function.place);
                Err(KeyError::new("trl", problem))
            }
            _ => Ok(()),
        }
    }
}

/// Whether an address holds a user's name or password.
fn has_password(address: &str) -> bool {
    url::Url::parse(address).is_ok_and(|url| !url.username().is_empty() || url.password().is_some())
}

impl PythonFunction {
    /// The file.
    pub fn file(&self) -> &str {
        self.split().0
    }

    /// The function, if it is named.
    pub fn name(&self) -> Option<&str> {
        self.split().1
    }

    fn split(&self) -> (&str, Option<&str>) {
        let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        match self.place.rsplit_once(':') {
            Some((file, name)) if is_name(name) => (file, Some(name)),
            _ => (&self.place, None),
        }
    }
}

/// Makes paths in the TOML of a grader absolute: the files of `verl` and `trl`, and each word of `command` that names a file in
/// the folder `base`. A string that holds an inline table becomes that table.
pub fn resolve_paths(value: &mut Value, base: &Path) {
    let inline = value.as_str().filter(|text| text.trim_start().starts_with('{'));
    if let Some(table) = inline.and_then(|text| format!("x = {text}").parse::<toml::Table>().ok()?.remove("x")) {
        *value = table;
    }
    let Value::Table(table) = value else { return };
    for (key, value) in table {
        match (key.as_str(), value) {
            ("verl" | "trl", Value::String(place)) => *place = absolute(base, place),
            ("command", Value::Array(words)) => words.iter_mut().for_each(|word| match word {
                Value::String(word) if !word.is_empty() && base.join(&*word).is_file() => *word = absolute(base, word),
                _ => {}
            }),
            ("parts", Value::Array(parts)) => {
                parts.iter_mut().filter_map(|part| part.get_mut("grader")).for_each(|it| resolve_paths(it, base));
            }
            _ => {}
        }
    }
}

/// A table as TOML has it. A key that is not given is `None`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    python: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_timeout_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Vec<PartSpec>>,
}

const KINDS: &str = "must have exactly one of the keys command, http, verl, trl and parts";

impl Table {
    fn into_spec(mut self) -> Result<GraderSpec, String> {
        let python = self.python.take();
        let function = |place| PythonFunction { place, python: python.clone().unwrap_or_else(|| "python3".into()) };
        let given = (self.command.take(), self.http.take(), self.verl.take(), self.trl.take(), self.parts.take());
        let program = match given {
            (Some(words), None, None, None, None) => Program::Command(words),
            (None, Some(url), None, None, None) => Program::Http(url),
            (None, None, Some(place), None, None) => Program::Verl(function(place)),
            (None, None, None, Some(place), None) => Program::Trl(function(place)),
            (None, None, None, None, Some(parts)) => {
                self.refuse("parts", python.is_some(), &["python", "workers", "timeout_s", "retries", PROCESS, HTTP])?;
                return Ok(GraderSpec::Parts(parts));
            }
            _ => return Err(KINDS.into()),
        };
        match &program {
            Program::Http(_) => self.refuse("http", python.is_some(), &["python", PROCESS])?,
            Program::Command(_) => self.refuse("command", python.is_some(), &["python", HTTP])?,
            Program::Verl(_) | Program::Trl(_) => self.refuse("a Python function", false, &[HTTP])?,
        }
        let base = ExternalSpec::new(program);
        Ok(GraderSpec::External(ExternalSpec {
            workers: self.workers.unwrap_or(base.workers),
            timeout_s: self.timeout_s.unwrap_or(base.timeout_s),
            retries: self.retries.unwrap_or(base.retries),
            start_timeout_s: self.start_timeout_s.unwrap_or(base.start_timeout_s),
            memory_mb: self.memory_mb.unwrap_or(base.memory_mb),
            batch: self.batch.unwrap_or(base.batch),
            ..base
        }))
    }

    /// Keys that mean nothing beside `kind` must not be given.
    fn refuse(&self, kind: &str, python: bool, keys: &[&str]) -> Result<(), String> {
        let given = |key: &str| match key {
            "python" => python,
            "workers" => self.workers.is_some(),
            "timeout_s" => self.timeout_s.is_some(),
            "retries" => self.retries.is_some(),
            PROCESS => self.memory_mb.is_some() || self.start_timeout_s.is_some(),
            _ => self.batch.is_some(),
        };
        match keys.iter().find(|key| given(key)) {
            Some(key) => Err(format!("{key} has no meaning together with {kind}; leave it out")),
            None => Ok(()),
        }
    }

    fn of(spec: &ExternalSpec) -> Self {
        let ExternalSpec { program, workers, timeout_s, retries, start_timeout_s, memory_mb, batch } = spec.clone();
        let is_http = matches!(program, Program::Http(_));
        let mut table = Self {
            workers: Some(workers),
            timeout_s: Some(timeout_s),
            retries: Some(retries),
            start_timeout_s: Some(start_timeout_s).filter(|_| !is_http),
            memory_mb: Some(memory_mb).filter(|_| !is_http),
            batch: Some(batch).filter(|_| is_http),
            ..Self::default()
        };
        match program {
            Program::Command(words) => table.command = Some(words),
            Program::Http(url) => table.http = Some(url),
            Program::Verl(PythonFunction { place, python }) => {
                (table.verl, table.python) = (Some(place), Some(python));
            }
            Program::Trl(PythonFunction { place, python }) => (table.trl, table.python) = (Some(place), Some(python)),
        }
        table
    }
}

const PROCESS: &str = "memory_mb or start_timeout_s";
const HTTP: &str = "batch";

impl Serialize for GraderSpec {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => out.serialize_str(name),
            Self::External(spec) => Table::of(spec).serialize(out),
            Self::Parts(parts) => Table { parts: Some(parts.clone()), ..Table::default() }.serialize(out),
        }
    }
}

impl<'de> Deserialize<'de> for GraderSpec {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(SpecVisitor)
    }
}

struct SpecVisitor;

impl<'de> Visitor<'de> for SpecVisitor {
    type Value = GraderSpec;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of a grader, or a table such as { command = [\"python3\", \"reward.py\"] }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<GraderSpec, E> {
        if !text.trim_start().starts_with('{') {
            return Ok(GraderSpec::Name(text.to_string()));
        }
        let mut table: toml::Table = format!("x = {text}")
            .parse()
            .map_err(|e: toml::de::Error| E::custom(format!("not a table: {}", e.message())))?;
        let table = table.remove("x").unwrap_or_else(|| Value::Table(toml::Table::new()));
        Table::deserialize(table).map_err(|e| E::custom(e.message()))?.into_spec().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<GraderSpec, A::Error> {
        Table::deserialize(MapAccessDeserializer::new(map))?.into_spec().map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<GraderSpec, String> {
        GraderSpec::parse(text)
    }

    fn refused(text: &str, words: &str) {
        let error = spec(text).and_then(|it| it.check().map_err(|e| e.to_string())).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        let external = |program| GraderSpec::External(ExternalSpec::new(program));
        assert_eq!(spec("math"), Ok("math".into()));
        let words = vec!["no-such-program".to_string(), "x".to_string()];
        assert_eq!(spec("{ command = [\"no-such-program\", \"x\"] }"), Ok(external(Program::Command(words))));
        assert_eq!(spec("{ http = \"http://a/b\" }"), Ok(external(Program::Http("http://a/b".into()))));
        for text in [
            "{ command = [\"a\"], workers = 3, timeout_s = 0.5, memory_mb = 100, retries = 0, start_timeout_s = 2.0 }",
            "{ http = \"https://a\", batch = 3 }",
            "{ verl = \"/a/b.py\", python = \"python\" }",
            "{ trl = \"/a/b.py:f\" }",
            "{ parts = [{ name = \"a\", grader = \"math\" }, { name = \"b\", grader = { http = \"http://a\" }, weight = -0.5 }] }",
        ] {
            let read = spec(text).unwrap();
            assert_eq!(read.check(), Ok(()), "{text}");
            let written = Value::try_from(&read).unwrap();
            assert_eq!(GraderSpec::deserialize(written).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn what_cannot_work_is_named() {
        refused("chioce", "no grader is called \"chioce\"");
        refused("{ command = [] }", "command: must name a program");
        refused("{ comand = [\"a\"] }", "unknown field `comand`");
        refused("{ workers = 2 }", KINDS);
        refused("{ command = [\"a\"], http = \"http://a\" }", KINDS);
        refused("{ command = \"a b\" }", "expected a sequence");
        refused("{ command = [\"a\"], timeout_s = 0.0 }", "timeout_s: must be from");
        refused("{ command = [\"a\"], timeout_s = nan }", "timeout_s: must be from");
        refused("{ command = [\"a\"], workers = 0 }", "workers: must be at least 1");
        refused("{ command = [\"a\"], batch = 2 }", "batch has no meaning together with command");
        refused("{ command = [\"a\"], python = \"p\" }", "python has no meaning");
        refused("{ http = \"a.b/c\" }", "http: must begin with http://");
        refused("{ http = \"http://me:secret@a/b\" }", "http: an address must not hold a password");
        refused("{ http = \"http://a\", memory_mb = 3 }", "memory_mb");
        refused("{ trl = \"a.py\" }", "FILE.py:FUNCTION");
        refused("{ parts = [] }", "parts: must have 1 to 64");
        refused("{ parts = [{ name = \"a\" }, { name = \"a\" }] }", "parts[1].name: two parts");
        refused("{ parts = [{ name = \"a/b\" }] }", "parts[0].name");
        refused("{ parts = [{ name = \"a\", weight = inf }] }", "parts[0].weight");
        refused("{ parts = [{ name = \"a\", grader = \"x\" }] }", "parts[0].grader");
        refused("{ parts = [{ name = \"a\", grader = { parts = [] } }] }", "cannot have parts");
        refused("{ command = [", "not a table");
    }

    #[test]
    fn paths_are_relative_to_the_configuration() {
        let folder = temp_dir::TempDir::new().unwrap();
        std::fs::write(folder.path().join("reward.py"), "").unwrap();
        let mut value = Value::String("{ command = [\"python3\", \"reward.py\", \"other.py\"] }".into());
        resolve_paths(&mut value, folder.path());
        let script = folder.path().join("reward.py").display().to_string();
        let words: Vec<&str> = value["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(words, ["python3", script.as_str(), "other.py"]);
        let mut value = Value::String("{ parts = [{ name = \"a\", grader = { verl = \"reward.py:f\" } }] }".into());
        resolve_paths(&mut value, folder.path());
        assert_eq!(value["parts"][0]["grader"]["verl"].as_str(), Some(format!("{script}:f").as_str()));
    }

    #[test]
    fn a_function_is_named_behind_the_last_colon() {
        let split = |place: &str| {
            let function = PythonFunction { place: place.into(), python: String::new() };
            (function.file().to_string(), function.name().map(str::to_string))
        };
        assert_eq!(split("/a/b.py"), ("/a/b.py".into(), None));
        assert_eq!(split("C:/a/b.py"), ("C:/a/b.py".into(), None));
        assert_eq!(split("/a:b/c.py:f_1"), ("/a:b/c.py".into(), Some("f_1".into())));
    }
}
