//! `dump-rl curriculum replay`: shows the groups of a recorded run to another curriculum.
//!
//! Reads JSON Lines `{"step": t, "observations": [{"source": …, "rewards": […], "advantages": […]}]}`, as a run's
//! `curriculum.jsonl` holds them, and writes `{"step": t, "weights": {source: weight, …}}` after each. Where the
//! observations also say how their source was drawn, each line has importance-weighted means. Where they name their row, and
//! `curriculum.rows` estimates success rates, each line says how far the estimates were off.
//! Pure except for the file that it reads.
//!
//! - `record`: the recorded file · `importance`: the importance-weighted means · `rows`: how well rows were foreseen

mod importance;
pub mod record;
mod rows;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::curriculum::{Curriculum, CurriculumConfig, Gradients, Mixture, Observation};
use crate::error::InputError;
use importance::{Importance, ImportanceSums};
use record::{RecordedDraw, RecordedGroup, RecordedStep};
use rows::{Foreseen, RowErrors};

/// One line of the output.
#[derive(Serialize)]
struct ReplayedStep<'a> {
    step: u64,
    #[serde(serialize_with = "as_map")]
    weights: (&'a [String], Vec<f64>),
    #[serde(skip_serializing_if = "Option::is_none")]
    importance: Option<Importance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Foreseen>,
}

/// Replays the events at `events` under `config` and writes the weights after each line to `out`, in full precision.
///
/// The arms are those of `known` and then the sources of the file, in the order of first appearance. Every line names
/// all of them, also those that appear only later. A source that is only in the file has
/// the rows that are named there, at least one. Blank lines are skipped.
///
/// # Errors
/// Wrong input, with its `file:line:column`; a setting that does not fit; an output that cannot be written.
pub fn run(config: &CurriculumConfig, known: &Mixture, events: &Path, out: &mut impl Write) -> Result<(), InputError> {
    let steps = record::read(events)?;
    let groups = || steps.iter().flat_map(|step| &step.observations);
    let in_flight = groups().flat_map(|group| &group.drawn).flat_map(|drawn| drawn.in_flight.keys());
    let (names, arms) =
        index(known.sources.iter().chain(steps.iter().flat_map(RecordedStep::sources)).chain(in_flight));
    if config.needs_gradients() && steps.iter().all(RecordedStep::has_no_gradients) {
        let problem = format!("has no gradients, from which {} learns; record a run with it", config.policy);
        return Err(InputError::new(events.display(), problem));
    }
    let mut mixture = Mixture { sources: names.clone(), ..known.clone() };
    mixture.sizes.resize(names.len(), 1);
    for (group, arm) in groups().map(|group| (group, arms[&group.source])).filter(|(_, arm)| *arm >= known.arms()) {
        mixture.sizes[arm] = mixture.sizes[arm].max(group.row.map_or(1, |row| row + 1));
    }
    let curriculum = Curriculum::new(config, &mixture).map_err(InputError::in_curriculum)?;
    let waiting = waiting(&steps, &arms);
    let (weights, sums) = (HashMap::new(), ImportanceSums::default());
    let rows = RowErrors::new(config.success_above);
    let mut replay = Replay { curriculum, waiting, seen: 0, weights, sums, rows };
    for recorded in steps {
        let (step, gradients) = (recorded.step, recorded.gradients(&arms));
        for group in recorded.observations {
            // A line is written after its step, so its groups were observed during the step before.
            replay.observe(step.saturating_sub(1), &group.observation(&arms));
        }
        replay.observe_gradients(step, &gradients);
        let weights = replay.curriculum.weights(step, &vec![0; names.len()]);
        let (importance, rows) = (replay.sums.importance(), replay.rows.foreseen());
        let line = ReplayedStep { step, weights: (&names, weights), importance, rows };
        write_line(&line, out).map_err(|error| InputError::new("output", error))?;
    }
    Ok(())
}

/// A recorded draw that the replayed curriculum decides again.
struct DrawToRepeat {
    /// The group that was drawn, by its place in the file, from 0.
    group: u64,
    arm: usize,
    step: u64,
    /// Groups in flight of the arms that had any, which may be few of many.
    in_flight: Vec<(usize, u64)>,
    /// The probability that the recorded curriculum gave the arm.
    probability: f64,
}

struct Replay {
    curriculum: Curriculum,
    /// Draws by how many groups had been observed when they were made.
    waiting: HashMap<u64, Vec<DrawToRepeat>>,
    seen: u64,
    /// The importance weights of groups whose draw was repeated and that are not observed yet.
    weights: HashMap<u64, f64>,
    sums: ImportanceSums,
    rows: RowErrors,
}

impl Replay {
    /// Repeats the draws that were made in the present state, and then takes the next group in.
    fn observe(&mut self, step: u64, group: &Observation) {
        let waiting = self.waiting.remove(&self.seen).unwrap_or_default();
        self.repeat(&waiting);
        if let Some(weight) = self.weights.remove(&self.seen) {
            self.sums.add(group, weight);
        }
        self.rows.add(group, &self.curriculum);
        self.curriculum.observe(group, step, &vec![0; self.arms()]);
        self.seen += 1;
    }

    /// Takes in the gradients of the step that ended as number `step`. Draws before that did not know them.
    fn observe_gradients(&mut self, step: u64, gradients: &Gradients) {
        let waiting = self.waiting.remove(&self.seen).unwrap_or_default();
        let (before, after): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|draw| draw.step < step);
        self.repeat(&before);
        self.waiting.insert(self.seen, after);
        self.curriculum.observe_gradients(gradients);
    }

    fn repeat(&mut self, draws: &[DrawToRepeat]) {
        for draw in draws {
            let mut in_flight = vec![0; self.arms()];
            draw.in_flight.iter().for_each(|(arm, groups)| in_flight[*arm] = *groups);
            let probability = self.curriculum.weights(draw.step, &in_flight)[draw.arm];
            self.weights.insert(draw.group, probability / draw.probability);
        }
    }

    fn arms(&self) -> usize {
        self.curriculum.arms().as_slice().len()
    }
}

/// All draws of the record, by how many groups had been observed when they were made.
fn waiting(steps: &[RecordedStep], arms: &HashMap<String, usize>) -> HashMap<u64, Vec<DrawToRepeat>> {
    let mut waiting: HashMap<u64, Vec<DrawToRepeat>> = HashMap::new();
    let groups = steps.iter().flat_map(|step| &step.observations);
    for (at, RecordedGroup { source, drawn, .. }) in (0..).zip(groups) {
        let Some(RecordedDraw { step, seen, in_flight, probability }) = drawn else { continue };
        let in_flight = in_flight.iter().map(|(name, groups)| (arms[name], *groups)).collect();
        let draw = DrawToRepeat { group: at, arm: arms[source], step: *step, in_flight, probability: *probability };
        waiting.entry(*seen).or_default().push(draw);
    }
    waiting
}

/// The distinct names in the order of first appearance, and the index of each.
fn index<'a>(sources: impl Iterator<Item = &'a String>) -> (Vec<String>, HashMap<String, usize>) {
    let mut names = Vec::new();
    let mut indices = HashMap::new();
    for source in sources {
        indices.entry(source.clone()).or_insert_with(|| {
            names.push(source.clone());
            names.len() - 1
        });
    }
    (names, indices)
}

fn write_line(line: &ReplayedStep, out: &mut impl Write) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    writeln!(out)
}

/// Names and weights as one object that keeps their order.
fn as_map<S: Serializer>((names, weights): &(&[String], Vec<f64>), serializer: S) -> Result<S::Ok, S::Error> {
    assert_eq!(names.len(), weights.len(), "this is a bug: one weight per arm");
    serializer.collect_map(names.iter().zip(weights))
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
