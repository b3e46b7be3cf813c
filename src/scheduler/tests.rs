use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::curriculum::CurriculumConfig;
use crate::curriculum::rows::Rows;

fn scheduler(eta: u64, batch_size: usize, max_steps: u64) -> Scheduler {
    choosing(Rows::Uniform, eta, batch_size, max_steps)
}

fn choosing(rows: Rows, eta: u64, batch_size: usize, max_steps: u64) -> Scheduler {
    let curriculum = CurriculumConfig { rows, ..CurriculumConfig::default() };
    let filter = FilterConfig::default();
    let config = SchedulerConfig { batch_size, max_off_policy_steps: eta, max_steps, seed: 5, curriculum, filter };
    let sources = ["a", "b", "c"].map(String::from).to_vec();
    Scheduler::new(config, Mixture { sources, sizes: vec![10, 20, 30], max_steps, batch_size }).unwrap()
}

fn dispatch_all(scheduler: &mut Scheduler) -> Vec<Job> {
    std::iter::from_fn(|| match scheduler.next_job() {
        Next::Dispatch(job) => Some(job),
        _ => None,
    })
    .collect()
}

fn finish(scheduler: &mut Scheduler, job: &Job, outcome: Outcome) {
    let reward = job.arm as f32;
    scheduler.observe(job.id, vec![reward, -reward], vec![reward, -reward], 7);
    scheduler.settle(job.id, outcome);
}

#[test]
fn admission_bounds_how_far_generation_runs_ahead() {
    let mut scheduler = scheduler(1, 4, 3);
    let jobs = dispatch_all(&mut scheduler);
    assert_eq!(jobs.len(), 8); // (η + 0 + 1)·B
    jobs.iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
    assert_eq!(scheduler.next_job(), Next::Wait);
    scheduler.trained(&[0, 1, 2, 3]);
    assert_eq!(dispatch_all(&mut scheduler).len(), 4);
    scheduler.trained(&[4, 5, 6, 7]);
    assert_eq!(scheduler.next_job(), Next::Wait); // the run's 3·B jobs are out
    scheduler.trained(&[8, 9, 10, 11]);
    assert_eq!(scheduler.next_job(), Next::Done);
}

/// The state of a checkpoint that somebody else made.
#[test]
fn a_state_that_names_what_is_not_there_is_refused() {
    let mut running = scheduler(1, 4, 3);
    let jobs = dispatch_all(&mut running);
    finish(&mut running, &jobs[0], Outcome::Dropped(DropReason::Failed));
    let good = serde_json::to_value(running.state()).unwrap();
    assert!(scheduler(1, 4, 3).restore(serde_json::from_value(good.clone()).unwrap()).is_ok());
    for (place, wrong) in [
        ("/flights/0/job/arm", json!(3)),
        ("/flights/0/job/row", json!(30)),
        ("/flights/0/decision/weights", json!([1.0])),
        ("/history/ended/0/job/arm", json!(3)),
        ("/history/observed/0/group/arm", json!(3)),
        ("/history/observed/0/group/rewards", json!([])),
        ("/history/observed/0/drawn/in_flight", json!([])),
        ("/weights", json!([])),
        ("/ledger/dispatched", json!([1, 2])),
        ("/ledger/trained", json!([])),
    ] {
        let mut state = good.clone();
        *state.pointer_mut(place).unwrap() = wrong;
        let problem = scheduler(1, 4, 3).restore(serde_json::from_value(state).unwrap()).unwrap_err();
        assert!(problem.contains("do not fit"), "{place}: {problem}");
    }
}

#[test]
fn a_dropped_group_is_replaced() {
    let mut scheduler = scheduler(0, 3, 2);
    let jobs = dispatch_all(&mut scheduler);
    finish(&mut scheduler, &jobs[0], Outcome::Dropped(DropReason::Failed));
    assert_eq!(scheduler.next_job(), Next::Wait); // the round is not over
    jobs[1..].iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
    assert_eq!(dispatch_all(&mut scheduler).iter().map(|job| job.id).collect::<Vec<_>>(), [3]);
}

/// With η = 0 the order in which groups finish must not matter.
#[test]
fn synchronous_draws_do_not_depend_on_the_order_of_completion() {
    let run = |reverse: bool| {
        let (mut scheduler, mut all) = (scheduler(0, 6, 5), Vec::new());
        for _ in 0..5 {
            let jobs = dispatch_all(&mut scheduler);
            let mut order = jobs.clone();
            if reverse {
                order.reverse();
            }
            order.iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
            scheduler.trained(&jobs.iter().map(|job| job.id).collect::<Vec<_>>());
            all.extend(jobs);
        }
        (all, scheduler.curriculum.weights(5, &[0; 3]))
    };
    assert_eq!(run(false), run(true));
}

/// A checkpoint within a round is written as text and read back. The run continues as if it had never stopped.
#[test]
fn a_resumed_run_draws_the_same_jobs() {
    let run = |rows: Rows, stop_at: Option<usize>| {
        let (mut scheduler, mut trained, mut finished) = (choosing(rows, 0, 4, 6), Vec::new(), 0);
        while scheduler.step() < 6 {
            let mut batch = Vec::new();
            while let Next::Dispatch(job) = scheduler.next_job() {
                finished += 1;
                if Some(finished) == stop_at {
                    let text = serde_json::to_string(&scheduler.state()).unwrap();
                    scheduler = choosing(rows, 0, 4, 6);
                    scheduler.restore(serde_json::from_str(&text).unwrap()).unwrap();
                    batch.clear();
                    continue;
                }
                finish(&mut scheduler, &job, Outcome::Accepted);
                batch.push(job);
            }
            scheduler.trained(&batch.iter().map(|job| job.id).collect::<Vec<_>>());
            trained.extend(batch);
        }
        (trained, scheduler.ledger().clone())
    };
    for rows in [Rows::Uniform, Rows::Mopps, Rows::Greso] {
        let straight = run(rows, None);
        for stop_at in [1, 2, 6, 8, 13] {
            assert_eq!(run(rows, Some(stop_at)), straight, "{rows}, stopped at {stop_at}");
        }
    }
}

/// The curriculum is told which row a group was of, except where rows are new at every draw. `mopps` draws no row twice at a time.
#[test]
fn rows_are_observed_and_not_drawn_twice_at_a_time() {
    let mut scheduler = choosing(Rows::Mopps, 0, 8, 30).with_fresh_rows(vec![false, true, false]);
    for _ in 0..30 {
        let jobs = dispatch_all(&mut scheduler);
        let kept: Vec<_> = jobs.iter().filter(|job| job.arm != 1).map(|job| (job.arm, job.row)).collect();
        // Of 10 or 30 rows 16 are looked at, so one that is free is found.
        assert_eq!(kept.iter().collect::<std::collections::BTreeSet<_>>().len(), kept.len(), "{kept:?}");
        jobs.iter().for_each(|job| finish(&mut scheduler, job, Outcome::Accepted));
        for (Observed { group, .. }, job) in scheduler.take_history().observed.iter().zip(&jobs) {
            assert_eq!((group.arm, group.row), (job.arm, (job.arm != 1).then_some(job.row)));
        }
        scheduler.trained(&jobs.iter().map(|job| job.id).collect::<Vec<_>>());
    }
    assert!(scheduler.running_rows.is_empty());
}

proptest! {
    /// Under any interleaving every job ends exactly once, no batch is too old, and the run ends.
    #[test]
    fn the_ledger_balances(eta in 0u64..3, batch in 1usize..5, choices in prop::collection::vec(0usize..100, 400)) {
        let mut scheduler = scheduler(eta, batch, 4);
        let (mut running, mut ready): (Vec<Job>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut fates = BTreeMap::new();
        for choice in choices.into_iter().cycle().take(20_000) {
            match choice % 4 {
                0 | 1 => if let Next::Dispatch(job) = scheduler.next_job() {
                    prop_assert!(fates.insert(job.id, "running").is_none(), "dispatched twice");
                    running.push(job);
                },
                2 if !running.is_empty() => {
                    let job = running.swap_remove(choice % running.len());
                    let drops = choice % 7 == 0;
                    finish(&mut scheduler, &job, if drops { Outcome::Dropped(DropReason::Stale) } else { Outcome::Accepted });
                    fates.insert(job.id, if drops { "dropped" } else { "accepted" });
                    if !drops { ready.push(job.id) }
                }
                _ if ready.len() >= batch => {
                    let ids: Vec<u64> = ready.drain(..batch).collect();
                    scheduler.trained(&ids);
                    fates.extend(ids.iter().map(|id| (*id, "trained")));
                }
                _ => {}
            }
            let ledger = scheduler.ledger();
            let (out, trained): (u64, u64) = (ledger.dispatched.iter().sum(), ledger.trained.iter().sum());
            prop_assert_eq!(out, trained + ledger.dropped.values().sum::<u64>() + scheduler.in_flight() as u64);
            prop_assert!(running.len() + ready.len() <= (eta as usize + 1) * batch);
            if scheduler.next_would_end() { break }
        }
        prop_assert_eq!(scheduler.step(), 4);
        prop_assert!(fates.values().all(|fate| *fate == "trained" || *fate == "dropped"));
    }
}

impl Scheduler {
    fn next_would_end(&self) -> bool {
        self.step >= self.config.max_steps
    }
}
