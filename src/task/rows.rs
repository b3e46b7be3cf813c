//! Reads rows from JSON Lines files in any accepted schema, and groups them by source.
//!
//! Every loaded row has a data source, a prompt that is not empty, and a ground truth that its grader understands. The
//! keys of a line decide its schema; the first that fits is taken:
//!
//! | keys | schema |
//! |---|---|
//! | `reward_model` | the one that is common in the field, which [`Row`] writes |
//! | `quiz` | the public Knights and Knaves data |
//! | `prompt`, `answer` | plain; the prompt is a string (one user message, unchanged) or a list of messages |
//! | `question`, `answer` | plain; `metadata` becomes `extra_info` |

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::graders::Graders;
use super::kk;
use super::row::{Message, RewardModel, Row};
use crate::error::InputError;

/// As [`load_for`], with the default graders.
///
/// # Errors
/// As [`load_for`].
pub fn load(path: &Path) -> Result<Vec<Row>, InputError> {
    load_for(&Graders::default(), path)
}

/// Reads every row of a JSON Lines file; blank lines are skipped. `graders` must have a grader for each row.
///
/// # Errors
/// A file that cannot be read or has no rows; the first line that is not a valid row, as `path:line`.
pub fn load_for(graders: &Graders, path: &Path) -> Result<Vec<Row>, InputError> {
    if path.extension().is_some_and(|it| it.eq_ignore_ascii_case("parquet")) {
        let problem = "parquet is not read here; convert the file to JSON Lines (one JSON object per line)";
        return Err(InputError::new(path.display(), problem));
    }
    let rows = numbered_lines(path)?.map(|line| {
        let (place, line) = line?;
        parse(&line, graders).map_err(|problem| InputError::new(place, problem))
    });
    let rows = rows.collect::<Result<Vec<Row>, InputError>>()?;
    if rows.is_empty() {
        return Err(InputError::new(path.display(), "the file has no rows; expected one JSON object per line"));
    }
    Ok(rows)
}

/// The lines of a text file that are not blank, each with its place as `path:line`.
///
/// # Errors
/// A file that cannot be opened; a line that cannot be read or is not UTF-8.
pub fn numbered_lines(
    path: &Path,
) -> Result<impl Iterator<Item = Result<(String, String), InputError>> + use<>, InputError> {
    let file = File::open(path).map_err(|e| InputError::new(path.display(), format!("cannot be opened: {e}")))?;
    let name = path.display().to_string();
    let lines = BufReader::new(file).lines().enumerate().map(move |(index, line)| {
        let place = format!("{name}:{}", index + 1);
        match line {
            Ok(line) => Ok((place, line)),
            Err(e) => Err(InputError::new(place, format!("cannot be read: {e}"))),
        }
    });
    Ok(lines.filter(|it| !it.as_ref().is_ok_and(|(_, line)| line.trim().is_empty())))
}

/// Splits rows by `data_source`: sources in the order of first appearance, rows in their order.
pub fn group_by_source(rows: Vec<Row>) -> Vec<(String, Vec<Row>)> {
    let mut groups: Vec<(String, Vec<Row>)> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|(source, _)| *source == row.data_source) {
            Some((_, group)) => group.push(row),
            None => groups.push((row.data_source.clone(), vec![row])),
        }
    }
    groups
}

/// One line as a row that can be graded.
fn parse(line: &str, graders: &Graders) -> Result<Row, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("this is not JSON: {e}"))?;
    let row = convert(value)?;
    if row.prompt.is_empty() {
        return Err("the prompt has no messages; expected at least one {role, content}".into());
    }
    graders.for_row(&row)?;
    Ok(row)
}

fn convert(value: Value) -> Result<Row, String> {
    let Value::Object(fields) = &value else { return Err("expected a JSON object".into()) };
    let has = |key: &str| fields.contains_key(key);
    if has("quiz") && !has("reward_model") {
        return typed::<PublicKk>(value)?.row();
    }
    if fields.get("data_source").and_then(Value::as_str).is_none_or(str::is_empty) {
        let example = r#""data_source": "kk_logic_3""#;
        return Err(format!("the row has no data_source; name the distribution it belongs to, such as {example}"));
    }
    if has("reward_model") {
        typed(value)
    } else if (has("prompt") || has("question")) && has("answer") {
        typed::<Plain>(value).map(Plain::row)
    } else {
        let found = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(format!(
            "the row's schema is unknown: it has {found}; expected data_source with prompt and reward_model, with \
             prompt and answer, or with question and answer; or public Knights and Knaves data with quiz and names"
        ))
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
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
            prompt: kk::prompt::messages(self.quiz),
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
    #[serde(deserialize_with = "super::row::text")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Grader;

    const TRUTH: &str = r#"(1) Zoey is a knave\n(2) Oliver is a knight"#;

    fn load_text(text: &str) -> Result<Vec<Row>, InputError> {
        let folder = temp_dir::TempDir::new().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    fn one(line: &str) -> Row {
        load_text(line).unwrap().remove(0)
    }

    /// Checks that the error for a wrong second line names that line and contains `word`.
    fn check_wrong(line: &str, word: &str) {
        let good = format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "kk"}}"#);
        let error = load_text(&format!("{good}\n{line}\n")).unwrap_err();
        assert!(error.place.ends_with("rows.jsonl:2"), "{error}");
        assert!(error.problem.contains(word), "{error}");
    }

    #[test]
    fn the_fields_schema_survives_a_round_trip() {
        let puzzle = kk::generate::Generator::new(4, 7).next().unwrap();
        let row = kk::prompt::row(&puzzle, "train", 0);
        assert_eq!(one(&serde_json::to_string(&row).unwrap()), row);
    }

    #[test]
    fn public_puzzles_are_read_as_they_are() {
        let row = one(&format!(
            r#"{{"quiz": "Who?", "names": ["Zoey", "Oliver"], "knight_knave": {{"knight": "a knight"}},
            "solution": [false, true], "solution_text": "…", "solution_text_format": "{TRUTH}", "cot_head": "",
            "statements": "(('not', ('telling-truth', 1)), ('lying', 0))", "index": 3}}"#
        )
        .replace('\n', " "));
        assert_eq!(row.data_source, "kk_logic_2");
        assert_eq!(row.prompt, [Message::new("system", kk::prompt::SYSTEM), Message::new("user", "Who?")]);
        assert_eq!(row.extra_info["index"], 3);
        let completion = "<think></think><answer>Zoey is a knave, Oliver is a knight</answer>";
        assert_eq!(Grader::for_row(&row).unwrap().grade(completion).score(), 3.0);
    }

    #[test]
    fn plain_rows_are_read_in_every_form() {
        let user = [Message::new("user", "Who?")];
        for prompt in
            [r#""prompt": "Who?""#, r#""prompt": [{"role": "user", "content": "Who?"}]"#, r#""question": "Who?""#]
        {
            let row =
                one(&format!(r#"{{{prompt}, "answer": "{TRUTH}", "metadata": {{"a": 1}}, "data_source": "kk_x"}}"#));
            assert_eq!((row.prompt.as_slice(), row.data_source.as_str()), (user.as_slice(), "kk_x"));
            assert_eq!(row.extra_info["a"], 1);
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        check_wrong("{", "not JSON");
        check_wrong("[]", "object");
        check_wrong(&format!(r#"{{"prompt": "?", "answer": "{TRUTH}"}}"#), "data_source");
        check_wrong(r#"{"prompt": "?", "answer": "nobody knows", "data_source": "kk"}"#, "nobody knows");
        check_wrong(&format!(r#"{{"prompt": [], "answer": "{TRUTH}", "data_source": "kk"}}"#), "no messages");
        check_wrong(&format!(r#"{{"prompt": 3, "answer": "{TRUTH}", "data_source": "kk"}}"#), "string or a list");
        check_wrong(&format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "chess"}}"#), "chess");
        check_wrong(r#"{"text": "?", "data_source": "kk"}"#, "it has text, data_source");
        check_wrong(r#"{"data_source": "kk", "reward_model": {"ground_truth": ""}}"#, "prompt");
        check_wrong(&format!(r#"{{"quiz": "?", "names": ["Zoey"], "solution_text_format": "{TRUTH}"}}"#), "names");
    }

    #[test]
    fn files_without_rows_are_refused() {
        assert!(load_text("\n \n").unwrap_err().problem.contains("no rows"));
        assert!(load(Path::new("train.parquet")).unwrap_err().problem.contains("JSON Lines"));
        assert!(load(Path::new("/nowhere/train.jsonl")).unwrap_err().place.contains("/nowhere/train.jsonl"));
    }

    #[test]
    fn groups_stand_in_order_of_first_appearance() {
        let row = |source: &str| one(&format!(r#"{{"prompt": "?", "answer": "{TRUTH}", "data_source": "{source}"}}"#));
        let groups = group_by_source(["kk_b", "kk_a", "kk_b"].map(row).into());
        let shape: Vec<_> = groups.iter().map(|(source, rows)| (source.as_str(), rows.len())).collect();
        assert_eq!(shape, [("kk_b", 2), ("kk_a", 1)]);
    }
}
