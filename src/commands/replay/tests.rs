//! Golden weights, the form of the output, and wrong input.

use super::*;
use crate::curriculum::CountUnit;
use crate::curriculum::rows::Rows;

pub(super) fn mixture(known: &[&str]) -> Mixture {
    let sources: Vec<String> = known.iter().map(ToString::to_string).collect();
    Mixture { sizes: vec![1; sources.len()], sources, max_steps: 10, batch_size: 4 }
}

pub(super) fn replay(config: &CurriculumConfig, known: &[&str], events: &str) -> Result<String, InputError> {
    let folder = temp_dir::TempDir::new().unwrap();
    let file = folder.child("events.jsonl");
    std::fs::write(&file, events).unwrap();
    let mut out = Vec::new();
    let result = run(config, &mixture(known), &file, &mut out);
    let name = format!("{}:", file.display());
    result.map_err(|error| InputError { place: error.place.replace(&name, "events:"), ..error })?;
    Ok(String::from_utf8(out).unwrap())
}

/// tests/golden/curriculum.py made the numbers, in plain Python.
fn check_golden(count: CountUnit, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let config = CurriculumConfig { window: 40, count, ..CurriculumConfig::default() };
    let mut out = Vec::new();
    run(&config, &mixture(&[]), &folder.join("curriculum_events.jsonl"), &mut out).unwrap();
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

/// The rewards and advantages of these events have more digits than an f32 holds: nothing on the way may round them.
#[test]
fn replay_follows_the_formulas_to_the_last_digits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let expected = std::fs::read_to_string(folder.join("curriculum_f64.jsonl")).unwrap();
    let sources = ["a", "b", "c", "d", "e"];
    for policy in ["dump", "dump_plus", "sec", "learnability", "learning_progress", "exp3s"] {
        let config = CurriculumConfig { policy: policy.into(), ..CurriculumConfig::default() };
        let mut out = Vec::new();
        run(&config, &mixture(&sources), &folder.join("curriculum_f64_events.jsonl"), &mut out).unwrap();
        let got = String::from_utf8(out).unwrap();
        assert_eq!((got.lines().count(), expected.lines().count()), (30, 30));
        for (got, expected) in got.lines().zip(expected.lines()) {
            let [got, expected] = [got, expected].map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
            assert_eq!(got["step"], expected["step"]);
            for source in sources {
                let got = got["weights"][source].as_f64().unwrap();
                let expected = expected["policies"][policy][source].as_f64().unwrap();
                assert!((got - expected).abs() < 1e-12, "{policy}, {source}: {got} is not {expected}");
            }
        }
    }
}

#[test]
fn names_stand_in_the_order_of_first_appearance() {
    let config = CurriculumConfig { policy: "uniform".into(), ..CurriculumConfig::default() };
    let line = |step: u64, source: &str| {
        let group = format!("{{\"source\": \"{source}\", \"rewards\": [1], \"advantages\": [1]}}");
        format!("{{\"step\": {step}, \"observations\": [{group}]}}\n\n")
    };
    let events = [line(3, "b"), line(4, "z"), line(4, "a")].concat();
    let weights = r#""weights":{"z":0.25,"c":0.25,"b":0.25,"a":0.25}}"#;
    let expected = format!("{{\"step\":3,{weights}\n{{\"step\":4,{weights}\n{{\"step\":4,{weights}\n");
    assert_eq!(replay(&config, &["z", "c"], &events).unwrap(), expected);
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
    let drawn = |seen: u64, probability: f64| {
        let drawn = format!("{{\"step\": 0, \"seen\": {seen}, \"in_flight\": {{}}, \"probability\": {probability}}}");
        group(&format!("\"rewards\": [1], \"advantages\": [1], \"drawn\": {drawn}"))
    };
    check(&drawn(1, 0.5), "events:2", "drawn after 1 groups");
    check(&drawn(0, 0.0), "events:2", "probability of 0");
}

#[test]
fn a_missing_file_and_a_bad_config_are_wrong_input() {
    let mut out = Vec::new();
    let missing = Path::new("no/such/events.jsonl");
    let error = run(&CurriculumConfig::default(), &mixture(&[]), missing, &mut out).unwrap_err();
    assert_eq!(error.place, "no/such/events.jsonl");
    let config = CurriculumConfig { temperature: 0.0, ..CurriculumConfig::default() };
    assert_eq!(replay(&config, &[], "").unwrap_err().place, "curriculum.temperature");
}

/// The numbers are those of the belief in `curriculum::rows::tests`: ½ and then (2p̄ + 5)/8 of the row, and p̄ = 6.9/9.8 of its source.
#[test]
fn rows_that_come_again_are_compared_with_what_was_expected() {
    let line = |step: u64, rewards: &str| {
        let group = format!(r#"{{"source":"a","rewards":{rewards},"advantages":[0,0,0,0],"row":0}}"#);
        format!("{{\"step\":{step},\"observations\":[{group}]}}\n")
    };
    let events = line(1, "[1,1,-1,-1]") + &line(2, "[1,1,1,1]") + &line(3, "[-1,-1,-1,-1]");
    let rows = |rows| CurriculumConfig { rows, ..CurriculumConfig::default() };
    let out = replay(&rows(Rows::Mopps), &["a"], &events).unwrap();
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0].get("rows").is_none());
    let p = 6.9 / 9.8_f64;
    let both = |last: f64| f64::midpoint(0.25, last.powi(2)).sqrt();
    for (line, groups, error, source) in [(1, 1, 0.5, 0.5), (2, 2, both((2.0 * p + 5.0) / 8.0), both(p))] {
        let found = &lines[line]["rows"];
        assert_eq!(found["groups"], groups);
        for (key, expected) in [("error", error), ("error_of_source", source)] {
            assert!((found[key].as_f64().unwrap() - expected).abs() < 1e-12, "{key}: {found}, not {expected}");
        }
    }
    assert!(!replay(&rows(Rows::Uniform), &["a"], &events).unwrap().contains("rows"));
    // A source that is only in the file has the rows that are named there.
    assert_eq!(replay(&rows(Rows::Mopps), &[], &events).unwrap(), out);
    let tac = CurriculumConfig { policy: "tac".into(), ..CurriculumConfig::default() };
    let problem = replay(&tac, &["a"], &events).unwrap_err().problem;
    assert!(problem.contains("has no gradients, from which tac learns"), "{problem}");
}
