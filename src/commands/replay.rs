//! `dump-rl curriculum replay`: a recorded run's groups, seen by another curriculum.
//!
//! Reads JSON Lines `{"step": t, "observations": [{"source": …, "rewards": […], "advantages": […]}]}`, as a run's
//! `curriculum.jsonl` holds them, and writes after each `{"step": t, "weights": {source: weight, …}}`. Where the
//! observations also name the probability that their source was drawn with, each line has importance-weighted means.
//! Pure but for the file that it reads.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use crate::curriculum::{Curriculum, CurriculumConfig, Mixture, Observation};
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
    /// Tokens of all its completions.
    #[serde(default)]
    tokens: u64,
    /// The probability that the recorded run's curriculum gave its source when it was drawn.
    #[serde(default)]
    probability: f32,
}

#[derive(Serialize)]
struct Decision<'a> {
    step: u64,
    #[serde(serialize_with = "as_map")]
    weights: (&'a [String], Vec<f64>),
    #[serde(skip_serializing_if = "Option::is_none")]
    importance: Option<Importance>,
}

/// What the replayed curriculum would have seen on average up to here, estimated from the groups that the recorded one drew.
///
/// A group that was drawn with probability p, and would have been with q, weighs q/p; means are self-normalised
/// (Σ w·x / Σ w), and (Σ w)² / Σ w² tells how many groups they rest on. The model is that of the recorded run: what another
/// mix would have made of it cannot be known from a record.
#[derive(Debug, Clone, Copy, Serialize)]
struct Importance {
    groups: u64,
    effective_sample_size: f64,
    /// Mean |Â|.
    learnability: f64,
    reward: f64,
}

/// Sums over the groups whose probability is known.
#[derive(Default)]
struct Sums {
    groups: u64,
    weight: f64,
    squares: f64,
    learnability: f64,
    reward: f64,
}

impl Sums {
    /// Takes in a group that the replayed curriculum would have drawn with this probability.
    fn add(&mut self, group: &Observation, probability: f64) {
        let (Some(learnability), Some(reward)) = (group.mean_abs_advantage(), group.mean_reward()) else { return };
        if group.probability > 0.0 {
            let weight = probability / f64::from(group.probability);
            self.groups += 1;
            self.weight += weight;
            self.squares += weight * weight;
            self.learnability += weight * learnability;
            self.reward += weight * reward;
        }
    }

    fn importance(&self) -> Option<Importance> {
        (self.weight > 0.0).then(|| Importance {
            groups: self.groups,
            effective_sample_size: self.weight * self.weight / self.squares,
            learnability: self.learnability / self.weight,
            reward: self.reward / self.weight,
        })
    }
}

/// Replays the events at `events` under `config` and writes the weights after each line to `out`, in full precision.
///
/// The arms are those of `known` and then the file's own sources, in the order of first appearance; every line names all
/// of them, also those that appear only later. A source that only the file has counts as one row. Blank lines are
/// skipped. Wrong input names its `file:line:column`.
pub fn run(config: &CurriculumConfig, known: &Mixture, events: &Path, out: &mut impl Write) -> Result<(), InputError> {
    let events = read(events)?;
    let recorded = events.iter().flat_map(|event| &event.observations).map(|group| &group.source);
    let (names, arms) = index(known.sources.iter().chain(recorded));
    let mut mixture = Mixture { sources: names.clone(), ..known.clone() };
    mixture.sizes.resize(names.len(), 1);
    let mut curriculum = Curriculum::new(config, &mixture)
        .map_err(|(key, problem)| InputError::new(format_args!("curriculum.{key}"), problem))?;
    let mut sums = Sums::default();
    for Event { step, observations } in events {
        // A line is written after its step: its groups were drawn before.
        replay(&mut curriculum, step.saturating_sub(1), observations, &arms, &mut sums);
        let weights = curriculum.weights(step, &vec![0; names.len()]);
        let decision = Decision { step, weights: (&names, weights), importance: sums.importance() };
        write_line(&decision, out).map_err(|error| InputError::new("output", error))?;
    }
    Ok(())
}

/// The groups of one step: all drawn, one after the other, and then observed in that order.
fn replay(curriculum: &mut Curriculum, step: u64, groups: Vec<Group>, arms: &HashMap<String, usize>, sums: &mut Sums) {
    let mut in_flight = vec![0; arms.len()];
    let groups: Vec<Observation> = groups.into_iter().map(|group| group.observation(arms)).collect();
    for group in &groups {
        if group.probability > 0.0 {
            sums.add(group, curriculum.weights(step, &in_flight)[group.arm]);
        }
        in_flight[group.arm] += 1;
    }
    for group in &groups {
        in_flight[group.arm] -= 1;
        curriculum.observe(group, step, &in_flight);
    }
}

impl Group {
    fn observation(self, arms: &HashMap<String, usize>) -> Observation {
        let Self { source, rewards, advantages, tokens, probability } = self;
        Observation { arm: arms[&source], rewards, advantages, tokens, probability }
    }
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
    for Group { source, rewards, advantages, .. } in &event.observations {
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
    use crate::curriculum::CountUnit;

    fn mixture(known: &[&str]) -> Mixture {
        let sources: Vec<String> = known.iter().map(ToString::to_string).collect();
        Mixture { sizes: vec![1; sources.len()], sources, max_steps: 10, batch_size: 4 }
    }

    fn replay(config: &CurriculumConfig, known: &[&str], events: &str) -> Result<String, InputError> {
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
}
