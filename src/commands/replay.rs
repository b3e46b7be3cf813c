//! `dump-rl curriculum replay`: a recorded run's groups, seen by another curriculum.
//!
//! Reads JSON Lines `{"step": t, "observations": [{"source": …, "rewards": […], "advantages": […]}]}`, as a run's
//! `curriculum.jsonl` holds them, and writes after each `{"step": t, "weights": {source: weight, …}}`. Where the
//! observations also say how their source was drawn, each line has importance-weighted means.
//! Pure but for the file that it reads.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use crate::curriculum::{Curriculum, CurriculumConfig, Mixture, Observation};
use crate::error::InputError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedStep {
    step: u64,
    observations: Vec<RecordedGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedGroup {
    source: String,
    rewards: Vec<f64>,
    advantages: Vec<f64>,
    /// Tokens of all its completions.
    #[serde(default)]
    tokens: u64,
    /// How the recorded run came to draw it.
    #[serde(default)]
    drawn: Option<RecordedDraw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedDraw {
    /// Policy steps that were made.
    step: u64,
    /// Groups of this file that its curriculum had observed, from the first line on.
    seen: u64,
    /// Groups of each source that were drawn before and not observed.
    in_flight: BTreeMap<String, u64>,
    /// What its curriculum gave the source.
    probability: f64,
}

#[derive(Serialize)]
struct ReplayedStep<'a> {
    step: u64,
    #[serde(serialize_with = "as_map")]
    weights: (&'a [String], Vec<f64>),
    #[serde(skip_serializing_if = "Option::is_none")]
    importance: Option<Importance>,
}

/// What the replayed curriculum would have seen on average up to here, estimated from the groups that the recorded one drew.
///
/// A group that was drawn with probability p, and would have been with q, weighs w = q/p; means are self-normalised
/// (Σ w·x / Σ w), and (Σ w)² / Σ w² tells how many groups they rest on. q is what the replayed curriculum gives when it has
/// seen what the recorded one had, with the same groups in flight. The model is that of the recorded run: what another mix
/// would have made of it cannot be known from a record.
#[derive(Debug, Clone, Copy, Serialize)]
struct Importance {
    groups: u64,
    effective_sample_size: f64,
    /// 1 but for chance. Below: the record hardly ever drew what the replayed curriculum would, and the means leave that out.
    mean_weight: f64,
    /// Mean |Â|.
    learnability: f64,
    reward: f64,
}

/// Sums over the groups of which is known how they were drawn.
#[derive(Default)]
struct ImportanceSums {
    groups: u64,
    weight: f64,
    squares: f64,
    learnability: f64,
    reward: f64,
}

impl ImportanceSums {
    /// Takes in a group that weighs so much.
    fn add(&mut self, group: &Observation, weight: f64) {
        let (Some(learnability), Some(reward)) = (group.mean_abs_advantage(), group.mean_reward()) else { return };
        self.groups += 1;
        self.weight += weight;
        self.squares += weight * weight;
        self.learnability += weight * learnability;
        self.reward += weight * reward;
    }

    fn importance(&self) -> Option<Importance> {
        (self.weight > 0.0).then(|| Importance {
            groups: self.groups,
            effective_sample_size: self.weight * self.weight / self.squares,
            mean_weight: self.weight / self.groups as f64,
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
    let groups = || events.iter().flat_map(|event| &event.observations);
    let in_flight = groups().flat_map(|group| &group.drawn).flat_map(|drawn| drawn.in_flight.keys());
    let (names, arms) = index(known.sources.iter().chain(groups().map(|group| &group.source)).chain(in_flight));
    let mut mixture = Mixture { sources: names.clone(), ..known.clone() };
    mixture.sizes.resize(names.len(), 1);
    let curriculum = Curriculum::new(config, &mixture).map_err(InputError::in_curriculum)?;
    let waiting = waiting(&events, &arms);
    let mut replay = Replay { curriculum, waiting, seen: 0, weights: HashMap::new(), sums: ImportanceSums::default() };
    for RecordedStep { step, observations } in events {
        for group in observations {
            // A line is written after its step: its groups were observed before.
            replay.observe(step.saturating_sub(1), &group.observation(&arms));
        }
        let weights = replay.curriculum.weights(step, &vec![0; names.len()]);
        let decision = ReplayedStep { step, weights: (&names, weights), importance: replay.sums.importance() };
        write_line(&decision, out).map_err(|error| InputError::new("output", error))?;
    }
    Ok(())
}

/// A draw to decide again: of the group that is observed as number `group`, from 0.
struct DrawToRepeat {
    group: u64,
    arm: usize,
    step: u64,
    in_flight: Vec<u64>,
    probability: f64,
}

struct Replay {
    curriculum: Curriculum,
    /// By how many groups had been observed.
    waiting: HashMap<u64, Vec<DrawToRepeat>>,
    seen: u64,
    /// w of the groups whose draw was decided again and that are not observed yet.
    weights: HashMap<u64, f64>,
    sums: ImportanceSums,
}

impl Replay {
    /// Decides the draws that were made in this state again, and then takes the next group in.
    fn observe(&mut self, step: u64, group: &Observation) {
        for DrawToRepeat { group, arm, step, in_flight, probability } in
            self.waiting.remove(&self.seen).unwrap_or_default()
        {
            self.weights.insert(group, self.curriculum.weights(step, &in_flight)[arm] / probability);
        }
        if let Some(weight) = self.weights.remove(&self.seen) {
            self.sums.add(group, weight);
        }
        self.curriculum.observe(group, step, &vec![0; self.arms()]);
        self.seen += 1;
    }

    fn arms(&self) -> usize {
        self.curriculum.arms().as_slice().len()
    }
}

/// All draws of the record, by how many groups had been observed before.
fn waiting(events: &[RecordedStep], arms: &HashMap<String, usize>) -> HashMap<u64, Vec<DrawToRepeat>> {
    let mut waiting: HashMap<u64, Vec<DrawToRepeat>> = HashMap::new();
    let groups = events.iter().flat_map(|event| &event.observations);
    for (at, RecordedGroup { source, drawn, .. }) in (0..).zip(groups) {
        let Some(RecordedDraw { step, seen, in_flight, probability }) = drawn else { continue };
        let mut in_flight_of_arm = vec![0; arms.len()];
        in_flight.iter().for_each(|(name, groups)| in_flight_of_arm[arms[name]] = *groups);
        let (arm, probability) = (arms[source], *probability);
        let draw = DrawToRepeat { group: at, arm, step: *step, in_flight: in_flight_of_arm, probability };
        waiting.entry(*seen).or_default().push(draw);
    }
    waiting
}

impl RecordedGroup {
    fn observation(self, arms: &HashMap<String, usize>) -> Observation {
        let Self { source, rewards, advantages, tokens, drawn } = self;
        let probability = drawn.map_or(0.0, |drawn| drawn.probability);
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

fn read(path: &Path) -> Result<Vec<RecordedStep>, InputError> {
    let text = std::fs::read_to_string(path).map_err(|error| InputError::new(path.display(), error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut seen = 0;
    let one = |(at, line)| parse(line, &mut seen).map_err(|(column, problem)| wrong(path, at + 1, column, problem));
    lines.map(one).collect()
}

/// One line as an event after `seen` groups, which counts on; an error is its column, where known, and the problem.
fn parse(line: &str, seen: &mut u64) -> Result<RecordedStep, (Option<usize>, String)> {
    let event: RecordedStep =
        serde_json::from_str(line).map_err(|error| (Some(error.column()), without_place(&error)))?;
    for RecordedGroup { source, rewards, advantages, drawn, .. } in &event.observations {
        let (rewards, advantages) = (rewards.len(), advantages.len());
        if rewards != advantages {
            return Err((None, format!("{source:?} has {rewards} rewards but {advantages} advantages")));
        }
        if let Some(drawn) = drawn {
            check(drawn, *seen).map_err(|problem| (None, format!("{source:?}: {problem}")))?;
        }
        *seen += 1;
    }
    Ok(event)
}

fn check(drawn: &RecordedDraw, before: u64) -> Result<(), String> {
    let RecordedDraw { seen, probability, .. } = *drawn;
    if seen > before {
        return Err(format!(
            "drawn after {seen} groups were observed, but the file has {before} before it; give all of it"
        ));
    }
    match probability > 0.0 && probability <= 1.0 {
        true => Ok(()),
        false => Err(format!("drawn with a probability of {probability}; must be above 0 and at most 1")),
    }
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

fn write_line(decision: &ReplayedStep, out: &mut impl Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, decision)?;
    writeln!(out)
}

/// Names and weights as one object, in their order, whatever serde_json's own maps do.
fn as_map<S: Serializer>((names, weights): &(&[String], Vec<f64>), serializer: S) -> Result<S::Ok, S::Error> {
    assert_eq!(names.len(), weights.len(), "this is a bug: one weight an arm");
    serializer.collect_map(names.iter().zip(weights))
}

#[cfg(all(test, feature = "train"))]
mod recorded;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curriculum::CountUnit;

    pub fn mixture(known: &[&str]) -> Mixture {
        let sources: Vec<String> = known.iter().map(ToString::to_string).collect();
        Mixture { sizes: vec![1; sources.len()], sources, max_steps: 10, batch_size: 4 }
    }

    pub fn replay(config: &CurriculumConfig, known: &[&str], events: &str) -> Result<String, InputError> {
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
                let [got, expected] =
                    [got, expected].map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
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
            let drawn =
                format!("{{\"step\": 0, \"seen\": {seen}, \"in_flight\": {{}}, \"probability\": {probability}}}");
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
}
