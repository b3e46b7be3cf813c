//! `dump-rl curriculum replay`: a recorded run's groups, seen by another curriculum.
//!
//! Reads JSON Lines `{"step": t, "observations": [{"source": …, "rewards": […], "advantages": […]}]}` and writes after
//! each `{"step": t, "weights": {source: weight, …}}`. Pure but for the file that it reads.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use crate::curriculum::{self, CurriculumConfig, Observation};
use crate::error::InputError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    step: u64,
    observations: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    source: String,
    rewards: Vec<f32>,
    advantages: Vec<f32>,
}

#[derive(Serialize)]
struct Decision<'a> {
    step: u64,
    #[serde(serialize_with = "as_map")]
    weights: (&'a [String], Vec<f64>),
}

/// Replays the events at `events` under `config` and writes the weights after each line to `out`, in full precision.
///
/// The arms are `known_sources` and then the file's own sources, in the order of first appearance; every line names all
/// of them, also those that appear only later. Blank lines are skipped. Wrong input names its `file:line:column`.
pub fn run(
    config: &CurriculumConfig,
    known_sources: &[String],
    events: &Path,
    out: &mut impl Write,
) -> Result<(), InputError> {
    config.validate().map_err(|(key, problem)| InputError::new(format_args!("curriculum.{key}"), problem))?;
    let events = read(events)?;
    let recorded = events.iter().flat_map(|event| &event.observations).map(|group| &group.source);
    let (names, arms) = index(known_sources.iter().chain(recorded));
    let mut policy = curriculum::build(config, names.len());
    for Event { step, observations } in events {
        for Group { source, rewards, advantages } in observations {
            policy.observe(&Observation { arm: arms[&source], rewards, advantages });
        }
        let decision = Decision { step, weights: (&names, policy.weights()) };
        write_line(&decision, out).map_err(|error| InputError::new("output", error))?;
    }
    Ok(())
}

/// The distinct names in the order of first appearance, and the place of each.
fn index<'a>(sources: impl Iterator<Item = &'a String>) -> (Vec<String>, HashMap<String, usize>) {
    let mut names = Vec::new();
    let mut places = HashMap::new();
    for source in sources {
        places.entry(source.clone()).or_insert_with(|| {
            names.push(source.clone());
            names.len() - 1
        });
    }
    (names, places)
}

fn read(path: &Path) -> Result<Vec<Event>, InputError> {
    let text = std::fs::read_to_string(path).map_err(|error| InputError::new(path.display(), error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| parse(line).map_err(|(column, problem)| wrong(path, at + 1, column, problem))).collect()
}

/// One line as an event; an error is its column, where known, and the problem.
fn parse(line: &str) -> Result<Event, (Option<usize>, String)> {
    let event: Event = serde_json::from_str(line).map_err(|error| (Some(error.column()), without_place(&error)))?;
    for Group { source, rewards, advantages } in &event.observations {
        let (rewards, advantages) = (rewards.len(), advantages.len());
        if rewards != advantages {
            return Err((None, format!("{source:?} has {rewards} rewards but {advantages} advantages")));
        }
    }
    Ok(event)
}

/// The message without serde_json's " at line 1 column 7": every line of the file is line 1 to it.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message.rsplit_once(" at line ").map_or(message.as_str(), |(problem, _)| problem).to_string()
}

fn wrong(path: &Path, line: usize, column: Option<usize>, problem: String) -> InputError {
    let column = column.map(|column| format!(":{column}")).unwrap_or_default();
    InputError::new(format_args!("{}:{line}{column}", path.display()), problem)
}

fn write_line(decision: &Decision, out: &mut impl Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, decision)?;
    writeln!(out)
}

/// Names and weights as one object, in their order, whatever serde_json's own maps do.
fn as_map<S: Serializer>((names, weights): &(&[String], Vec<f64>), serializer: S) -> Result<S::Ok, S::Error> {
    assert_eq!(names.len(), weights.len(), "this is a bug: one weight an arm");
    serializer.collect_map(names.iter().zip(weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curriculum::{CountUnit, PolicyKind};

    fn replay(config: &CurriculumConfig, known: &[&str], events: &str) -> Result<String, InputError> {
        let folder = temp_dir::TempDir::new().unwrap();
        let file = folder.child("events.jsonl");
        std::fs::write(&file, events).unwrap();
        let known: Vec<String> = known.iter().map(ToString::to_string).collect();
        let mut out = Vec::new();
        let result = run(config, &known, &file, &mut out);
        let name = format!("{}:", file.display());
        result.map_err(|error| InputError { place: error.place.replace(&name, "events:"), ..error })?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// tests/golden/curriculum.py made the numbers, in plain Python.
    fn check_golden(count: CountUnit, name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let config = CurriculumConfig { window: 40, count, ..CurriculumConfig::default() };
        let mut out = Vec::new();
        run(&config, &[], &folder.join("curriculum_events.jsonl"), &mut out).unwrap();
        let expected = std::fs::read_to_string(folder.join(name)).unwrap();
        let got = String::from_utf8(out).unwrap();
        assert_eq!((got.lines().count(), expected.lines().count()), (60, 60));
        got.lines().zip(expected.lines()).for_each(|(got, expected)| same_line(got, expected));
    }

    fn same_line(got: &str, expected: &str) {
        let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        let (got, expected) = (parse(got), parse(expected));
        assert_eq!(got["step"], expected["step"]);
        let (got, expected) = (got["weights"].as_object().unwrap(), expected["weights"].as_object().unwrap());
        assert!(got.keys().eq(expected.keys()) && got.len() == 12);
        for (got, (name, expected)) in got.values().zip(expected) {
            let (got, expected) = (got.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((got - expected).abs() < 1e-9, "{name}: {got} is not {expected}");
        }
    }

    #[test]
    fn golden_weights() {
        check_golden(CountUnit::Rollouts, "curriculum_rollouts.jsonl");
        check_golden(CountUnit::Groups, "curriculum_groups.jsonl");
    }

    #[test]
    fn names_stand_in_the_order_of_first_appearance() {
        let config = CurriculumConfig { policy: PolicyKind::Uniform, ..CurriculumConfig::default() };
        let line = |step: u64, source: &str| {
            let group = format!("{{\"source\": \"{source}\", \"rewards\": [1], \"advantages\": [1]}}");
            format!("{{\"step\": {step}, \"observations\": [{group}]}}\n\n")
        };
        let events = [line(3, "b"), line(4, "z"), line(4, "a")].concat();
        let weights = r#""weights":{"z":0.25,"c":0.25,"b":0.25,"a":0.25}}"#;
        let expected = format!("{{\"step\":3,{weights}\n{{\"step\":4,{weights}\n{{\"step\":4,{weights}\n");
        assert_eq!(replay(&config, &["z", "c", "z"], &events).unwrap(), expected);
        assert_eq!(replay(&config, &[], "").unwrap(), "");
    }

    #[test]
    fn wrong_lines_are_named() {
        let check = |line: &str, place: &str, word: &str| {
            let events = format!("{{\"step\": 1, \"observations\": []}}\n{line}\n");
            let error = replay(&CurriculumConfig::default(), &["a"], &events).unwrap_err();
            assert!(error.place.starts_with(place) && error.problem.contains(word), "{error}");
            assert!(!error.problem.contains("line 1"), "{error}");
        };
        check("{", "events:2:", "EOF");
        check("{\"step\": 2}", "events:2:11", "observations");
        check("{\"step\": 2, \"observations\": [], \"seed\": 1}", "events:2:", "unknown field `seed`");
        let group = |lists: &str| format!("{{\"step\": 2, \"observations\": [{{\"source\": \"a\", {lists}}}]}}");
        check(&group("\"rewards\": [1, 2], \"advantages\": [1]"), "events:2", "\"a\" has 2 rewards but 1 advantages");
        check(&group("\"rewards\": [1]"), "events:2:", "missing field `advantages`");
    }

    #[test]
    fn a_missing_file_and_a_bad_config_are_wrong_input() {
        let mut out = Vec::new();
        let missing = Path::new("no/such/events.jsonl");
        let error = run(&CurriculumConfig::default(), &[], missing, &mut out).unwrap_err();
        assert_eq!(error.place, "no/such/events.jsonl");
        let config = CurriculumConfig { temperature: 0.0, ..CurriculumConfig::default() };
        assert_eq!(replay(&config, &[], "").unwrap_err().place, "curriculum.temperature");
    }
}
