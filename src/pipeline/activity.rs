//! What the stages do now, and when one of them last moved. By a real clock, whatever clock the runtime has.
//!
//! A move is the beginning or the end of some work, and what a long computation counts on its way: so slow work is not taken for
//! work that stands still.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Work that takes time. Everything else is waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Generating,
    Grading,
    Checking,
    Suspending,
    Training,
    Publishing,
    Recording,
    Evaluating,
    Saving,
}

impl Work {
    /// The stage, and what it does `n` times at once.
    fn describe(self, n: usize) -> String {
        let groups = if n == 1 { "1 group".into() } else { format!("{n} groups") };
        match self {
            Self::Generating => format!("rollout: {groups} at the engine"),
            Self::Grading => format!("reward: {groups} at the grader"),
            Self::Checking => "learner: the engine is compared with the trainer".into(),
            Self::Suspending => "learner: the engine frees its memory".into(),
            Self::Training => "learner: the trainer makes a step".into(),
            Self::Publishing => "learner: the engine takes the new policy".into(),
            Self::Recording => "learner: the step is written".into(),
            Self::Evaluating => format!("learner: {n} prompts of an evaluation at engine and graders"),
            Self::Saving => "learner: a checkpoint is written".into(),
        }
    }

    fn is_of_learner(self) -> bool {
        !matches!(self, Self::Generating | Self::Grading)
    }
}

/// Reads a count that grows while something is computed.
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// See the module.
pub struct Activity {
    state: Mutex<State>,
    counts: Mutex<Vec<Count>>,
}

struct State {
    moved: Instant,
    working: BTreeMap<Work, usize>,
    /// What the counts were when they were last looked at.
    counted: Vec<u64>,
}

/// Counts as work until it is dropped. Its beginning and its end are moves.
pub struct Working {
    activity: Arc<Activity>,
    work: Work,
}

/// How long nothing has moved, and what runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Still {
    pub time: Duration,
    working: BTreeMap<Work, usize>,
}

impl Default for Activity {
    fn default() -> Self {
        let state = State { moved: Instant::now(), working: BTreeMap::new(), counted: Vec::new() };
        Self { state: Mutex::new(state), counts: Mutex::default() }
    }
}

impl Activity {
    pub fn begin(self: &Arc<Self>, work: Work) -> Working {
        self.change(|working| *working.entry(work).or_default() += 1);
        Working { activity: self.clone(), work }
    }

    /// From now on a change of what `count` gives is a move. It is noticed at the next look.
    pub fn count(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(count));
    }

    pub fn still(&self) -> Still {
        let counted: Vec<u64> =
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|count| count()).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.counted != counted {
            (state.counted, state.moved) = (counted, Instant::now());
        }
        Still { time: state.moved.elapsed(), working: state.working.clone() }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Work, usize>)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.working);
        state.working.retain(|_, n| *n > 0);
        state.moved = Instant::now();
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.activity.change(|working| {
            if let Some(n) = working.get_mut(&self.work) {
                *n -= 1;
            }
        });
    }
}

impl fmt::Display for Still {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing has moved for {} s: ", self.time.as_secs())?;
        if self.working.is_empty() {
            return f.write_str("every stage waits for another");
        }
        let working: Vec<String> = self.working.iter().map(|(work, n)| work.describe(*n)).collect();
        f.write_str(&working.join("; "))?;
        match self.working.keys().any(|work| work.is_of_learner()) {
            true => Ok(()),
            false => f.write_str("; learner: waits for a batch"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const PAUSE: Duration = Duration::from_millis(30);

    #[test]
    fn what_runs_is_told() {
        let activity = Arc::new(Activity::default());
        let check = |says: &str| assert_eq!(activity.still().to_string(), format!("nothing has moved for 0 s: {says}"));
        check("every stage waits for another");
        let groups: Vec<_> = (0..3).map(|_| activity.begin(Work::Generating)).collect();
        check("rollout: 3 groups at the engine; learner: waits for a batch");
        let training = activity.begin(Work::Training);
        check("rollout: 3 groups at the engine; learner: the trainer makes a step");
        drop(groups);
        check("learner: the trainer makes a step");
        drop(training);
        let _grading = activity.begin(Work::Grading);
        check("reward: 1 group at the grader; learner: waits for a batch");
    }

    #[test]
    fn a_beginning_and_an_end_are_moves() {
        let activity = Arc::new(Activity::default());
        std::thread::sleep(PAUSE);
        assert!(activity.still().time >= PAUSE);
        let working = activity.begin(Work::Saving);
        assert!(activity.still().time < PAUSE);
        std::thread::sleep(PAUSE);
        drop(working);
        assert!(activity.still().time < PAUSE);
    }

    #[test]
    fn a_computation_that_goes_on_moves() {
        let (activity, blocks) = (Arc::new(Activity::default()), Arc::new(AtomicU64::new(0)));
        let seen = blocks.clone();
        activity.count(move || seen.load(Ordering::SeqCst));
        activity.still();
        std::thread::sleep(PAUSE);
        assert!(activity.still().time >= PAUSE);
        blocks.store(1, Ordering::SeqCst);
        assert!(activity.still().time < PAUSE);
        std::thread::sleep(PAUSE);
        assert!(activity.still().time >= PAUSE);
    }
}
