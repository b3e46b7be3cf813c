//! Which fields make a row: the accepted schemas, and how each becomes a [`Row`].
//!
//! The keys decide; the first schema that fits is taken:
//!
//! | keys | schema |
//! |---|---|
//! | `quiz`, without `reward_model` | the public Knights and Knaves data |
//! | exactly `question` and `answer`, the answer with `####` | GSM8K; the ground truth is what stands after `####` |
//! | exactly `problem`, `solution`, `level` and `type` | MATH; the ground truth is the solution's last `\boxed{…}` |
//! | `reward_model` | the one that is common in the field (verl), which [`Row`] writes |
//! | `question`, `answer` and a `metadata.source_dataset`, without `data_source` | reasoning-gym; `data_source` becomes `reasoning_gym_` and the name of the data set |
//! | `prompt`, `answer` | plain; the prompt is a string (one user message, unchanged) or a list of messages |
//! | `question`, `answer` | plain; `metadata` becomes `extra_info` |
//!
//! `metadata` may be an object or its JSON text. The schemas that are common in the field and plain need a
//! `data_source`. A null is a key that is not there.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::task::kk;
use crate::task::row::{self, Message, RewardModel, Row};

/// Every key that one of the schemas uses.
#[cfg(feature = "train")]
pub(super) const COLUMNS: [&str; 17] = [
    "data_source",
    "prompt",
    "ability",
    "reward_model",
    "extra_info",
    "quiz",
    "names",
    "solution_text_format",
    "statements",
    "index",
    "question",
    "answer",
    "metadata",
    "problem",
    "solution",
    "level",
    "type",
];

/// What the keys of a row say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    Verl,
    PublicKk,
    Plain,
    Gsm8k,
    Math,
    ReasoningGym,
}

impl Schema {
    fn of(fields: &Map<String, Value>) -> Result<Self, String> {
        let has = |key: &str| fields.get(key).is_some_and(|it| !it.is_null());
        let exactly = |keys: &[&str]| fields.len() == keys.len() && keys.iter().all(|key| fields.contains_key(*key));
        if has("quiz") && !has("reward_model") {
            return Ok(Self::PublicKk);
        }
        let worked = || fields["answer"].as_str().is_some_and(|it| it.contains(GSM8K_MARK));
        if exactly(&["question", "answer"]) && worked() {
            return Ok(Self::Gsm8k);
        }
        if exactly(&["problem", "solution", "level", "type"]) {
            return Ok(Self::Math);
        }
        if !has("data_source") && has("question") && source_dataset(fields.get("metadata")).is_some() {
            return Ok(Self::ReasoningGym);
        }
        if lacks_source(fields) {
            let example = r#""data_source": "kk_logic_3""#;
            return Err(format!("the row has no data_source; name the distribution it belongs to, such as {example}"));
        }
        if has("reward_model") {
            Ok(Self::Verl)
        } else if (has("prompt") || has("question")) && has("answer") {
            Ok(Self::Plain)
        } else {
            let found = fields.iter().filter(|(_, it)| !it.is_null()).map(|(key, _)| key.as_str()).collect::<Vec<_>>();
            Err(format!(
                "the row's schema is unknown: it has {}; expected data_source with prompt and reward_model, with \
                 prompt and answer, or with question and answer; public Knights and Knaves data with quiz and names; \
                 or exactly the columns of GSM8K (question, answer) or MATH (problem, solution, level, type); for other \
                 columns give the [[data]] table prompt and answer as templates",
                found.join(", ")
            ))
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verl => "data_source, prompt and reward_model",
            Self::PublicKk => "public Knights and Knaves data",
            Self::Plain => "prompt (or question) and answer",
            Self::Gsm8k => "GSM8K",
            Self::Math => "MATH",
            Self::ReasoningGym => "reasoning-gym",
        })
    }
}

fn lacks_source(fields: &Map<String, Value>) -> bool {
    fields.get("data_source").is_none_or(|it| it.is_null() || it == "")
}

/// Gives an object without a `data_source` this one, unless its schema needs none.
pub(super) fn name_source(fields: &mut Map<String, Value>, name: &str) {
    if lacks_source(fields) && Schema::of(fields).is_err() {
        fields.insert("data_source".into(), name.into());
    }
}

/// A JSON object as a row with a prompt, and the schema that it has.
///
/// # Errors
/// What is wrong, and what would be right.
pub(super) fn row(value: Value) -> Result<(Schema, Row), String> {
    let Value::Object(mut fields) = value else { return Err("expected a JSON object".into()) };
    let schema = Schema::of(&fields)?;
    fields.retain(|_, it| !it.is_null());
    let value = Value::Object(fields);
    let row = match schema {
        Schema::Verl => typed(value)?,
        Schema::PublicKk => typed::<PublicKk>(value)?.row()?,
        Schema::Plain => typed::<Plain>(value)?.row(),
        Schema::Gsm8k => typed::<Gsm8k>(value)?.row()?,
        Schema::Math => typed::<Math>(value)?.row()?,
        Schema::ReasoningGym => reasoning_gym(value)?,
    };
    if row.prompt.is_empty() {
        return Err("the prompt has no messages; expected at least one {role, content}".into());
    }
    if row.prompt.last().is_some_and(|message| message.role == "assistant") {
        return Err(
            "the prompt ends with an assistant's message, which a completion does not continue; leave it out".into()
        );
    }
    Ok((schema, row))
}

/// An error names the key, such as `prompt[0].content`.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|e| e.to_string())
}

/// The fields of the public Knights and Knaves data that are used.
#[derive(Deserialize)]
struct PublicKk {
    quiz: String,
    names: Vec<String>,
    solution_text_format: String,
    #[serde(default)]
    statements: Value,
    #[serde(default)]
    index: Value,
}

impl PublicKk {
    fn row(self) -> Result<Row, String> {
        let people = self.names.len();
        let truth = json!({"solution_text_format": self.solution_text_format, "statements": self.statements});
        let expected = kk::grade::Expected::from_ground_truth(&truth.to_string())?;
        if !expected.names().eq(self.names.iter()) {
            return Err(format!("names are {:?}, but solution_text_format names other people", self.names));
        }
        Ok(Row {
            data_source: kk::source_name(people),
            prompt: kk::prompt::messages_about(expected.words(), self.quiz),
            ability: "logic".into(),
            reward_model: RewardModel::rule(truth.to_string()),
            extra_info: json!({"index": self.index, "people": people}),
        })
    }
}

/// A prompt or a question with its answer.
#[derive(Deserialize)]
struct Plain {
    data_source: String,
    #[serde(alias = "question")]
    prompt: Prompt,
    #[serde(deserialize_with = "row::text")]
    answer: String,
    #[serde(default)]
    ability: String,
    #[serde(default, alias = "extra_info")]
    metadata: Value,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "the prompt must be a string or a list of {role, content}")]
enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

impl Plain {
    fn row(self) -> Row {
        let prompt = match self.prompt {
            Prompt::Text(text) => vec![Message::new("user", text)],
            Prompt::Messages(messages) => messages,
        };
        Row {
            data_source: self.data_source,
            prompt,
            ability: self.ability,
            reward_model: RewardModel::rule(self.answer),
            extra_info: self.metadata,
        }
    }
}

/// Stands before the final number of a GSM8K answer.
const GSM8K_MARK: &str = "####";

#[derive(Deserialize)]
struct Gsm8k {
    question: String,
    answer: String,
}

impl Gsm8k {
    fn row(self) -> Result<Row, String> {
        let number = self.answer.rsplit(GSM8K_MARK).next().unwrap_or_default().trim().replace(',', "");
        if number.is_empty() {
            return Err(format!("answer has nothing after {GSM8K_MARK}; expected the final number"));
        }
        Ok(mathematics("gsm8k", self.question, number, Value::Null))
    }
}

#[derive(Deserialize)]
struct Math {
    problem: String,
    solution: String,
    #[serde(default)]
    level: Value,
    #[serde(default)]
    r#type: Value,
}

impl Math {
    fn row(self) -> Result<Row, String> {
        let Some(answer) = last_boxed(&self.solution) else {
            return Err(r"solution has no \boxed{…}; expected the final answer in one".into());
        };
        let extra_info = json!({"level": self.level, "type": self.r#type});
        Ok(mathematics("math", self.problem, answer.to_owned(), extra_info))
    }
}

/// A row that the Python package reasoning-gym made.
#[derive(Deserialize)]
struct ReasoningGym {
    question: String,
    #[serde(deserialize_with = "row::text")]
    answer: String,
    metadata: Value,
}

fn reasoning_gym(mut value: Value) -> Result<Row, String> {
    if value.get("answer").is_none() {
        return Err("the reasoning-gym row has no answer; only rows whose answer is given can be graded".into());
    }
    if let Some(fields) = metadata_object(value.get("metadata")) {
        value["metadata"] = fields;
    }
    let ReasoningGym { question, answer, metadata } = typed(value)?;
    let Some(name) = source_dataset(Some(&metadata)) else { return Err("metadata has no source_dataset".into()) };
    Ok(Row {
        data_source: format!("reasoning_gym_{name}"),
        prompt: vec![Message::new("user", question)],
        ability: "reasoning".into(),
        reward_model: RewardModel::rule(answer),
        extra_info: metadata,
    })
}

/// The name of the data set that a reasoning-gym row says it comes from.
fn source_dataset(metadata: Option<&Value>) -> Option<String> {
    let metadata = metadata_object(metadata)?;
    metadata.get("source_dataset")?.as_str().filter(|it| !it.is_empty()).map(str::to_owned)
}

/// An object, which may be given as its JSON text.
fn metadata_object(metadata: Option<&Value>) -> Option<Value> {
    match metadata? {
        Value::String(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        object => Some(object.clone()).filter(Value::is_object),
    }
}

fn mathematics(source: &str, question: String, answer: String, extra_info: Value) -> Row {
    Row {
        data_source: source.into(),
        prompt: vec![Message::new("user", question)],
        ability: "math".into(),
        reward_model: RewardModel::rule(answer),
        extra_info,
    }
}

/// What the last `\boxed{…}`, `\fbox{…}` or `\boxed …$` contains.
fn last_boxed(text: &str) -> Option<&str> {
    let (start, command) = [r"\boxed", r"\fbox"].into_iter().filter_map(|it| Some((text.rfind(it)?, it))).max()?;
    let rest = text[start + command.len()..].trim_start();
    let inside = match rest.strip_prefix('{') {
        Some(inside) => &inside[..closing_brace(inside)?],
        None => rest.split('$').next()?,
    };
    Some(inside.trim()).filter(|it| !it.is_empty())
}

/// The position of the brace that closes a group which is open at the start of `text`. `\{` and `\}` do not count.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut depth, mut escaped) = (1_usize, false);
    for (position, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(position);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(value: Value) -> (Schema, Row) {
        row(value).unwrap()
    }

    fn problem(value: Value) -> String {
        row(value).unwrap_err()
    }

    #[test]
    fn gsm8k_is_known_by_its_columns() {
        let (schema, row) = convert(json!({"question": "How many?", "answer": "1,000 + 234.\n#### 1,234"}));
        assert_eq!((schema, row.data_source.as_str()), (Schema::Gsm8k, "gsm8k"));
        assert_eq!(row.reward_model.ground_truth, "1234");
        assert_eq!(row.prompt, [Message::new("user", "How many?")]);
        assert!(problem(json!({"question": "?", "answer": "1234"})).contains("data_source"));
        assert!(problem(json!({"question": "?", "answer": "#### 1", "id": 1})).contains("data_source"));
        assert!(problem(json!({"question": "?", "answer": "#### "})).contains("nothing after"));
        assert_eq!(convert(json!({"question": "?", "answer": "#### 1", "data_source": "x"})).0, Schema::Plain);
    }

    #[test]
    fn math_is_known_by_its_columns() {
        let math =
            |solution: &str| json!({"problem": "p", "solution": solution, "level": "Level 5", "type": "Algebra"});
        let (schema, row) = convert(math(r"So \boxed{1} and $\boxed{\frac{1}{2}}$."));
        assert_eq!((schema, row.data_source.as_str()), (Schema::Math, "math"));
        assert_eq!(row.reward_model.ground_truth, r"\frac{1}{2}");
        assert_eq!(row.extra_info, json!({"level": "Level 5", "type": "Algebra"}));
        assert!(problem(math("So 7.")).contains(r"\boxed"));
        assert!(problem(json!({"problem": "p", "solution": r"\boxed{1}"})).contains("data_source"));
    }

    #[test]
    fn reasoning_gym_is_known_by_its_metadata() {
        let metadata = json!({"source_dataset": "chain_sum", "source_index": 3, "difficulty": {"num_terms": 2}});
        for given in [metadata.clone(), json!(metadata.to_string())] {
            let (schema, row) = convert(json!({"question": "4 + 3 =", "answer": "7", "metadata": given}));
            assert_eq!((schema, row.data_source.as_str()), (Schema::ReasoningGym, "reasoning_gym_chain_sum"));
            assert_eq!(row.prompt, [Message::new("user", "4 + 3 =")]);
            assert_eq!((row.reward_model.ground_truth.as_str(), &row.extra_info), ("7", &metadata));
            assert_eq!(crate::task::Grader::for_row(&row).unwrap().name(), "tolerant");
        }
        let row = |answer: Value| json!({"question": "?", "answer": answer, "metadata": {"source_dataset": "x"}});
        assert_eq!(convert(row(json!([1, 2]))).1.reward_model.ground_truth, "[1,2]");
        assert_eq!(convert(row(json!(7))).1.reward_model.ground_truth, "7");
        assert!(problem(row(Value::Null)).contains("no answer"));
        let mut named = row(json!("7"));
        named["data_source"] = "mine".into();
        assert_eq!(convert(named).1.data_source, "mine");
        for metadata in [json!({"source_dataset": 3}), json!({}), json!("text"), json!("{"), Value::Null] {
            let row = json!({"question": "?", "answer": "7", "metadata": metadata});
            assert!(problem(row).contains("data_source"));
        }
        assert!(problem(json!({"question": 3, "answer": "7", "metadata": metadata})).starts_with("question: "));
    }

    #[test]
    fn the_last_box_is_the_answer() {
        let check = |text: &str, expected| assert_eq!(last_boxed(text), expected, "{text}");
        check(r"\boxed{1}, \boxed{2}", Some("2"));
        check(r"\boxed{1}, \fbox{2}", Some("2"));
        check(r"\boxed{\left\{1\right.}", Some(r"\left\{1\right."));
        check(r"$\boxed 5$ apples", Some("5"));
        check(r"\boxed{{{1}", None);
        check(r"\boxed{}", None);
        check(r"\boxed", None);
        check("", None);
        check(r"\boxed{ä\", None);
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        let verl = |prompt: Value| json!({"data_source": "kk", "prompt": prompt, "reward_model": {"ground_truth": ""}});
        assert!(problem(verl(json!(3))).starts_with("prompt: "), "{}", problem(verl(json!(3))));
        let role = problem(verl(json!([{"role": 3, "content": ""}])));
        assert!(role.starts_with("prompt[0].role: ") && role.contains("expected a string"), "{role}");
        let source = problem(json!({"data_source": 3, "prompt": [], "reward_model": {"ground_truth": ""}}));
        assert!(source.starts_with("data_source: "), "{source}");
    }

    #[test]
    fn a_null_is_a_missing_key() {
        let (schema, row) = convert(json!({"data_source": "kk", "prompt": "?", "answer": 3, "ability": null,
            "reward_model": null, "quiz": null, "extra_info": null}));
        assert_eq!((schema, row.ability.as_str(), row.reward_model.ground_truth.as_str()), (Schema::Plain, "", "3"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_searched_for_a_box(text in r"(\\boxed|\\fbox|[{}\\$a-ä ]){0,20}") {
            last_boxed(&text);
        }
    }
}
