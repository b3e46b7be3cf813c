//! Decides what is dispatched next, and keeps the ledger of how each job ended. Pure: no clock, no async.
//!
//! Invariants:
//! - Every dispatched job ends exactly once: trained on, dropped with a reason, or still in flight.
//! - Staleness is bounded by admission: with B groups per step and at most η off-policy steps, a job is dispatched only while
//!   accepted + running < (η + step + 1)·B, and never more than the run will train on.
//! - η = 0 is deterministic: jobs are drawn in rounds when nothing runs. A round's observations are applied in the order of
//!   dispatch when all of them are there. With η ≥ 1 an observation is applied at once.

mod config;
mod job;
mod ledger;
mod running_rows;
mod state;

use std::collections::{BTreeMap, VecDeque};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::curriculum::rows::Candidates;
use crate::curriculum::{self, Curriculum, Gradients, Mixture, Observation, Score};
use crate::error::KeyError;
use crate::seed::mix_seed;
pub use config::{FilterConfig, SchedulerConfig};
pub use job::{DropReason, FinishedGroup, Job, Next, Outcome};
use ledger::{Decision, Flight};
pub use ledger::{DrawState, Ended, History, Ledger, Observed};
use running_rows::RunningRows;
pub use state::SchedulerState;

/// See the module.
pub struct Scheduler {
    config: SchedulerConfig,
    mixture: Mixture,
    curriculum: Curriculum,
    /// Arms whose rows are new at every draw.
    fresh: Vec<bool>,
    rng: ChaCha8Rng,
    step: u64,
    next_id: u64,
    closed: bool,
    /// Flights that were drawn and not dispatched yet.
    queue: VecDeque<u64>,
    flights: BTreeMap<u64, Flight>,
    running_rows: RunningRows,
    /// Flights of each arm that the curriculum has not observed.
    in_flight: Vec<u64>,
    /// Observations of the current round, in dispatch order (η = 0).
    pending: BTreeMap<u64, Observation>,
    ledger: Ledger,
    /// The weights of the latest draw.
    weights: Vec<f64>,
    /// Groups without variance that were dropped since the last step.
    filtered: u64,
    history: History,
}

impl Scheduler {
    /// A scheduler over `mixture`, none of whose distributions may be empty.
    ///
    /// # Errors
    /// The key inside `[curriculum]` that does not fit the mixture, and what would.
    pub fn new(config: SchedulerConfig, mixture: Mixture) -> Result<Self, KeyError> {
        let zeros = vec![0; mixture.arms()];
        let curriculum = Curriculum::new(&config.curriculum, &mixture)?;
        let (dispatched, trained) = (zeros.clone(), zeros.clone());
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(config.seed),
            ledger: Ledger { dispatched, trained, dropped: BTreeMap::new(), observed: 0, tokens: 0 },
            weights: curriculum.weights(0, &zeros),
            fresh: vec![false; mixture.arms()],
            config,
            mixture,
            curriculum,
            step: 0,
            next_id: 0,
            closed: false,
            queue: VecDeque::new(),
            flights: BTreeMap::new(),
            running_rows: RunningRows::default(),
            in_flight: zeros,
            pending: BTreeMap::new(),
            filtered: 0,
            history: History::default(),
        })
    }

    /// The same, but draw n of an arm in `fresh` takes row n instead of any row. One entry per arm.
    #[must_use]
    pub fn with_fresh_rows(mut self, fresh: Vec<bool>) -> Self {
        self.fresh = fresh;
        self
    }

    /// What to do with a free slot.
    pub fn next_job(&mut self) -> Next {
        if self.closed || self.step >= self.config.max_steps {
            return Next::Done;
        }
        if self.queue.is_empty() {
            self.draw_jobs();
        }
        match self.queue.pop_front().and_then(|id| self.flights.get(&id)) {
            Some(flight) => Next::Dispatch(flight.job.clone()),
            None => Next::Wait,
        }
    }

    /// Draws as many jobs as admission allows.
    fn draw_jobs(&mut self) {
        let batch = self.config.batch_size as u64;
        let steps = (self.config.max_off_policy_steps + self.step + 1).min(self.config.max_steps);
        let room = (steps * batch).saturating_sub(self.step * batch + self.flights.len() as u64);
        let synchronous = self.is_synchronous();
        if room == 0 || synchronous && self.running() > 0 {
            return;
        }
        for _ in 0..if synchronous { room } else { 1 } {
            self.draw_job();
        }
    }

    fn draw_job(&mut self) {
        self.weights = self.curriculum.weights(self.step, &self.in_flight);
        let arm = curriculum::draw(&self.weights, &mut self.rng);
        let row = match self.fresh[arm] {
            true => self.ledger.dispatched[arm] as usize,
            false => {
                let is_running = |row| self.running_rows.contains(arm, row);
                let from = Candidates { arm, rows: self.mixture.sizes[arm], is_running: &is_running };
                self.curriculum.draw_row(from, &mut self.rng)
            }
        };
        let seed = mix_seed(self.config.seed, self.next_id);
        let job = Job { id: self.next_id, arm, row, seed, refills: self.filtered / self.config.batch_size as u64 };
        let scores = self.curriculum.scores(self.step, &self.in_flight);
        let (step, seen, in_flight) = (self.step, self.ledger.observed, self.in_flight.clone());
        let decision = Decision {
            drawn: DrawState { step, seen, in_flight },
            weights: rounded(self.weights.iter().copied()),
            values: rounded(scores.iter().map(|score| score.value)),
            bonuses: rounded(scores.iter().map(|score| score.bonus)),
        };
        self.queue.push_back(job.id);
        self.running_rows.add(&job);
        self.flights.insert(job.id, Flight { job, decision, observed: false, settled: None });
        self.in_flight[arm] += 1;
        self.ledger.dispatched[arm] += 1;
        self.next_id += 1;
    }

    fn is_synchronous(&self) -> bool {
        self.config.max_off_policy_steps == 0
    }

    /// Jobs that are drawn and not settled.
    fn running(&self) -> usize {
        self.flights.values().filter(|flight| flight.settled.is_none()).count()
    }

    /// Lets the curriculum observe a finished group, even if it is dropped later. `tokens`: of all its completions.
    pub fn observe(&mut self, id: u64, rewards: Vec<f32>, advantages: Vec<f32>, tokens: u64) {
        let Some(flight) = self.flights.get(&id).filter(|flight| !flight.observed) else { return };
        let Job { arm, row, .. } = flight.job;
        let row = (!self.fresh[arm]).then_some(row);
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        let (rewards, advantages) = (wide(rewards), wide(advantages));
        let probability = f64::from(flight.decision.weights[arm]);
        let observation = Observation { arm, rewards, advantages, row, tokens, probability };
        if self.is_synchronous() {
            self.pending.insert(id, observation);
        } else {
            self.apply(id, observation);
        }
    }

    fn apply(&mut self, id: u64, group: Observation) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.observed = true;
        let drawn = flight.decision.drawn.clone();
        self.in_flight[group.arm] -= 1;
        self.ledger.observed += 1;
        self.ledger.tokens += group.tokens;
        self.curriculum.observe(&group, self.step, &self.in_flight);
        self.history.observed.push(Observed { drawn, group });
    }

    /// Whether a group can stand in a batch that trains the policy of `step`: it may be too old, or have nothing to learn from.
    pub fn judge(&self, group: &FinishedGroup, step: u64) -> Outcome {
        let FilterConfig { zero_variance, max_refills } = self.config.filter;
        let all_same = || group.rewards.windows(2).all(|pair| pair[0] == pair[1]);
        if step.saturating_sub(group.policy_step) > self.config.max_off_policy_steps {
            Outcome::Dropped(DropReason::Stale)
        } else if zero_variance && group.job.refills < max_refills && all_same() {
            Outcome::Dropped(if group.right { DropReason::SolvedAll } else { DropReason::SolvedNone })
        } else {
            Outcome::Accepted
        }
    }

    /// Records what became of a finished group. With η = 0 a round ends as a whole: a run that is stopped before does all of
    /// it again.
    pub fn settle(&mut self, id: u64, outcome: Outcome) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.settled = Some(outcome);
        }
        if !self.is_synchronous() {
            self.end_if_dropped(id);
        } else if self.queue.is_empty() && self.running() == 0 {
            for (id, observation) in std::mem::take(&mut self.pending) {
                self.apply(id, observation);
            }
            self.flights.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.end_if_dropped(id));
        }
    }

    fn end_if_dropped(&mut self, id: u64) {
        let settled = self.flights.get(&id).and_then(|flight| flight.settled);
        if let Some(Outcome::Dropped(reason)) = settled {
            *self.ledger.dropped.entry(reason).or_default() += 1;
            self.filtered += u64::from(matches!(reason, DropReason::SolvedAll | DropReason::SolvedNone));
            self.end(id, Some(reason));
        }
    }

    /// Removes a job from the flights. A job that the engine failed to answer was never observed.
    fn end(&mut self, id: u64, dropped: Option<DropReason>) {
        if let Some(Flight { job, decision, observed, .. }) = self.flights.remove(&id) {
            self.in_flight[job.arm] -= u64::from(!observed);
            self.running_rows.remove(&job);
            self.history.ended.push(Ended { job, decision, dropped });
        }
    }

    /// Lets the curriculum learn from the gradients of the step that is about to be counted.
    pub fn observe_gradients(&mut self, gradients: &Gradients) {
        self.curriculum.observe_gradients(gradients);
    }

    /// A batch was trained on and its policy published: the step goes up by one.
    pub fn trained(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(flight) = self.flights.get(id) {
                self.ledger.trained[flight.job.arm] += 1;
                self.end(*id, None);
            }
        }
        self.filtered = 0;
        self.step += 1;
    }

    /// What happened since the last call.
    pub fn take_history(&mut self) -> History {
        std::mem::take(&mut self.history)
    }

    /// Dispatches nothing more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// The policy step that is published.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The probability of each distribution at the latest draw.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// What the curriculum thinks of each distribution now.
    pub fn scores(&self) -> Vec<Score> {
        self.curriculum.scores(self.step, &self.in_flight)
    }

    /// n_d: what was observed of each distribution, in the unit of `curriculum.count`.
    pub fn counts(&self) -> Vec<u64> {
        self.curriculum.arms().as_slice().iter().map(|arm| arm.n).collect()
    }

    /// The names of the distributions, in the order of the arms.
    pub fn sources(&self) -> &[String] {
        &self.mixture.sources
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Jobs that are neither trained nor dropped.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }
}

/// In f32, and finite: JSON has no infinity.
fn rounded(values: impl Iterator<Item = f64>) -> Vec<f32> {
    values.map(|value| (value as f32).clamp(f32::MIN, f32::MAX)).collect()
}

#[cfg(test)]
mod tests;
