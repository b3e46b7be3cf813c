//! What a checkpoint keeps of a scheduler.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Scheduler;
use super::job::Job;
use super::ledger::{Decision, Flight, History, Ledger};
use super::running_rows::RunningRows;
use crate::curriculum::{CurriculumState, Mixture};

/// What a checkpoint keeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SchedulerState {
    /// Name and number of rows of each distribution, in the order of the arms.
    sources: Vec<String>,
    sizes: Vec<usize>,
    pub step: u64,
    next_id: u64,
    rng: ChaCha8Rng,
    curriculum: CurriculumState,
    flights: Vec<Flight>,
    ledger: Ledger,
    weights: Vec<f64>,
    filtered: u64,
    history: History,
}

impl SchedulerState {
    /// # Errors
    /// A job, an observation or a list that is not one of the state's distributions.
    fn check(&self, has_row: impl Fn(&Job) -> bool) -> Result<(), String> {
        let arms = self.sources.len();
        let decided = |it: &Decision| {
            [it.weights.len(), it.values.len(), it.bonuses.len(), it.drawn.in_flight.len()].iter().all(|it| *it == arms)
        };
        let flights = self.flights.iter().map(|it| (&it.job, &it.decision));
        let jobs = flights.chain(self.history.ended.iter().map(|it| (&it.job, &it.decision)));
        let observed = self.history.observed.iter().all(|it| {
            let group = &it.group;
            group.arm < arms && group.rewards.len() == group.advantages.len() && it.drawn.in_flight.len() == arms
        });
        let lists = [self.weights.len(), self.ledger.dispatched.len(), self.ledger.trained.len()];
        let fits = lists.iter().all(|it| *it == arms) && observed;
        match fits && jobs.into_iter().all(|(job, decision)| has_row(job) && decided(decision)) {
            true => Ok(()),
            false => Err("the checkpoint's jobs and counts do not fit its distributions".into()),
        }
    }
}

impl Scheduler {
    /// What a checkpoint keeps. Jobs in flight are kept too and dispatched again after a resume.
    pub fn state(&self) -> SchedulerState {
        SchedulerState {
            sources: self.mixture.sources.clone(),
            sizes: self.mixture.sizes.clone(),
            step: self.step,
            next_id: self.next_id,
            rng: self.rng.clone(),
            curriculum: self.curriculum.save(&self.config.curriculum),
            flights: self.flights.values().cloned().collect(),
            ledger: self.ledger.clone(),
            weights: self.weights.clone(),
            filtered: self.filtered,
            history: self.history.clone(),
        }
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// If the data differ or the curriculum's state does not fit its settings.
    pub fn restore(&mut self, state: SchedulerState) -> Result<(), String> {
        let Mixture { sources, sizes, .. } = &self.mixture;
        if state.sources != *sources {
            return Err(format!("the checkpoint's distributions are {:?}, the data's {sources:?}", state.sources));
        }
        if let Some(arm) = (0..sizes.len()).find(|arm| state.sizes.get(*arm) != Some(&sizes[*arm])) {
            let (name, now, before) = (&sources[arm], sizes[arm], state.sizes.get(arm).unwrap_or(&0));
            return Err(format!("distribution {name} has {now} training rows, and had {before} at the checkpoint"));
        }
        state.check(|job| sizes.get(job.arm).is_some_and(|rows| self.fresh[job.arm] || job.row < *rows))?;
        self.curriculum.load(&self.config.curriculum, state.curriculum)?;
        (self.step, self.next_id, self.rng, self.ledger) = (state.step, state.next_id, state.rng, state.ledger);
        (self.weights, self.filtered, self.history) = (state.weights, state.filtered, state.history);
        self.queue = state.flights.iter().map(|flight| flight.job.id).collect();
        self.in_flight = vec![0; sources.len()];
        let waiting = state.flights.iter().filter(|flight| !flight.observed);
        waiting.for_each(|flight| self.in_flight[flight.job.arm] += 1);
        self.running_rows = RunningRows::default();
        state.flights.iter().for_each(|flight| self.running_rows.add(&flight.job));
        self.flights = state.flights.into_iter().map(|flight| (flight.job.id, flight)).collect();
        Ok(())
    }
}
