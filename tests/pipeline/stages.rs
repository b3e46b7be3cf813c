//! The stages by themselves: a scripted engine and a scripted trainer on a paused clock, so that every time is exact.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use dump_rl::config::pipeline::PipelineConfig;
use dump_rl::config::run::RunConfig;
use dump_rl::pipeline::learner::End;
use engine::Request;
use engine::scripted::Scripted;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fixtures::records::{all_metrics, assert_same, check_ledger, metrics, newest_step, number};
use crate::fixtures::runs::{FOREVER, check_finished, finish, in_virtual_time, never, prepare_scripted, start};
use crate::fixtures::scripted_trainer::{ScriptedTrainer, TrainerFault};
use crate::fixtures::world::{B, G, STEPS, World};

/// A latency for requests of groups. Other requests, those of the canary, take no time.
fn groups_take(seconds: u64) -> impl Fn(&Request) -> Duration {
    move |request| Duration::from_secs(if request.group_size == G { seconds } else { 0 })
}

/// A run whose steps take `train` seconds. Returns its end and how many virtual seconds it took.
pub(super) fn run_scripted(config: &RunConfig, out: &Path, engine: Scripted, train: u64) -> (Result<End>, f64) {
    let trainer = |state| ScriptedTrainer::new(state, Duration::from_secs(train));
    in_virtual_time(async {
        let run = prepare_scripted(config, out, trainer).expect("a run");
        let since = Instant::now();
        let end = start(run, Arc::new(engine), never()).await;
        (end, since.elapsed().as_secs_f64())
    })
}

/// Checks the virtual seconds of a run, with an engine that takes `generate` seconds for B requests at a time, and of each of
/// its steps after the first.
fn check_times(world: &World, eta: u64, [generate, train]: [u64; 2], whole_run: u64, each_step: u64) {
    let (config, out) = (world.off_policy(eta), world.out(&format!("{eta} {generate} {train}")));
    let engine = world.engine().with_latency(groups_take(generate));
    let (end, seconds) = run_scripted(&config, &out, engine, train);
    check_finished(&end.expect("a good end"));
    assert_eq!(seconds, whole_run as f64);
    for line in &all_metrics(&out)[1..] {
        assert_eq!(number(line, "time/step"), each_step as f64, "{line:?}");
        assert_eq!(number(line, "time/train"), train as f64, "{line:?}");
    }
    assert_eq!(check_ledger(&out), 0);
}

#[test]
fn without_off_policy_steps_generation_and_training_alternate() {
    let world = World::new();
    check_times(&world, 0, [10, 7], STEPS * 17, 17);
    check_times(&world, 0, [7, 10], STEPS * 17, 17);
    let line = &all_metrics(&world.out("0 10 7"))[1];
    assert_eq!((number(line, "time/generate"), number(line, "time/wait_for_batch")), (10.0, 10.0));
    assert_eq!(number(line, "time/wait_for_policy"), 7.0);
}

/// A step takes as long as the slower of the two. Only the first batch is waited for, and only the last step is not hidden.
#[test]
fn with_off_policy_steps_generation_and_training_overlap() {
    let world = World::new();
    for eta in [1, 2, 4] {
        check_times(&world, eta, [10, 7], STEPS * 10 + 7, 10);
        check_times(&world, eta, [7, 10], 7 + STEPS * 10, 10);
    }
}

/// An engine that answers at once is held back by admission: at the end of step k, from 0, it was asked for (η + k + 1)·B groups.
#[test]
fn a_slow_trainer_bounds_how_far_generation_runs_ahead() {
    let world = World::new();
    for eta in [0, 1, 2] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta}")));
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let engine = world.engine().with_concurrency(10 * B).with_latency(move |request| {
            counter.fetch_add(usize::from(request.group_size == G), Ordering::SeqCst);
            Duration::ZERO
        });
        let check = move |step: u64| {
            let admitted = (eta + step + 1).min(STEPS) as usize * B;
            assert_eq!(asked.load(Ordering::SeqCst), admitted, "η = {eta}, step {step}");
        };
        let trainer = |state| ScriptedTrainer::new(state, Duration::from_secs(1000)).at_end_of_step(check);
        let run = || start(prepare_scripted(&config, &out, trainer).expect("a run"), Arc::new(engine), never());
        check_finished(&in_virtual_time(async { run().await }).expect("a good end"));
        assert_eq!(check_ledger(&out), 0);
    }
}

/// With a trainer that takes no time the engine is never idle, and batches come as fast as it fills them.
#[test]
fn a_slow_engine_is_never_idle() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    let (end, seconds) = run_scripted(&config, &out, world.engine().with_latency(groups_take(100)), 0);
    check_finished(&end.expect("a good end"));
    assert_eq!(seconds, STEPS as f64 * 100.0);
    for line in all_metrics(&out) {
        assert_eq!((number(&line, "time/generate"), number(&line, "time/step")), (100.0, 100.0));
    }
}

/// `pipeline.rollout_workers` bounds the requests in flight: a round of six groups takes ⌈6 / workers⌉ times as long as a
/// request, and gives the same batch. 0 takes what the engine advises.
#[test]
fn rollout_workers_bound_the_requests_in_flight() {
    let world = World::new();
    let with_workers = |rollout_workers| {
        let pipeline = PipelineConfig { rollout_workers, ..PipelineConfig::default() };
        let config = RunConfig { pipeline, batch_size: 6, ..world.config() };
        let out = world.out(&format!("{rollout_workers} workers"));
        let engine = Arc::new(world.engine().with_concurrency(3).with_latency(groups_take(10)));
        let trainer = |state| ScriptedTrainer::new(state, Duration::from_secs(1));
        let (end, seconds) = in_virtual_time(async {
            let run = prepare_scripted(&config, &out, trainer).expect("a run");
            let since = Instant::now();
            (start(run, engine.clone(), never()).await, since.elapsed().as_secs())
        });
        check_finished(&end.expect("a good end"));
        (out, engine.most_running(), seconds)
    };
    let (advised, running, seconds) = with_workers(0);
    assert_eq!((running, seconds), (3, STEPS * (20 + 1)));
    for (workers, round) in [(1, 60), (2, 30), (5, 20)] {
        let (out, running, seconds) = with_workers(workers);
        assert_eq!((running, seconds), (workers, STEPS * (round + 1)), "{workers} workers");
        assert_same(&advised, &out);
    }
}

/// A step that runs is given up.
#[test]
fn a_stop_ends_the_run_at_once() {
    let world = World::new();
    let config = world.config();
    let engine = || world.engine().with_latency(groups_take(10));
    let straight = world.out("straight");
    check_finished(&run_scripted(&config, &straight, engine(), 7).0.expect("a good end"));
    // Rounds begin at 0, 17 and 34 seconds, training at 10, 27 and 44.
    for (stop_at, ends_at, step) in [(5, 5, 0), (12, 12, 0), (20, 20, 1), (30, 30, 1)] {
        let out = world.out(&format!("stopped at {stop_at}"));
        let (stop, stopped) = watch::channel(false);
        let (end, seconds) = in_virtual_time(async {
            let trainer = |state| ScriptedTrainer::new(state, Duration::from_secs(7));
            let run = prepare_scripted(&config, &out, trainer).expect("a run");
            let since = Instant::now();
            let stopping = async {
                tokio::time::sleep(Duration::from_secs(stop_at)).await;
                stop.send_replace(true);
            };
            let (end, ()) = tokio::join!(start(run, Arc::new(engine()), stopped), stopping);
            (end.expect("a good end"), since.elapsed().as_secs())
        });
        assert_eq!((end, seconds, newest_step(&out)), (End::Stopped, ends_at, step), "stopped at {stop_at} s");
        check_finished(&run_scripted(&config, &out, engine(), 7).0.expect("a good end"));
        assert_same(&straight, &out);
    }
}

/// Requests that hang do not delay a stop: no time passes. The checkpoint is one that the real trainer resumes from.
#[test]
fn a_stop_while_waiting_for_a_batch_ends_the_run_at_once() {
    let world = World::new();
    for eta in [0, 1] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta}")));
        let (stop, stopped) = watch::channel(false);
        let requests = AtomicUsize::new(0);
        let engine = world.engine().with_latency(move |_| {
            if requests.fetch_add(1, Ordering::SeqCst) + 1 == B {
                stop.send_replace(true);
            }
            FOREVER
        });
        let (end, took) = in_virtual_time(async {
            let run = prepare_scripted(&config, &out, |state| ScriptedTrainer::new(state, FOREVER)).expect("a run");
            let since = Instant::now();
            (start(run, Arc::new(engine), stopped).await, since.elapsed())
        });
        assert_eq!(end.expect("a good end"), End::Stopped);
        assert_eq!(took, Duration::ZERO);
        assert_eq!(newest_step(&out), 0);
        finish(&config, &out, world.engine());
        assert_eq!(check_ledger(&out), 0);
    }
}

/// The steps before the fault are logged; requests that run do not delay the end.
#[test]
fn a_trainer_that_fails_or_panics_ends_the_run_with_its_error() {
    let world = World::new();
    let faults =
        [(TrainerFault::Fails, "scripted: the trainer fails"), (TrainerFault::Panics, "scripted: the trainer panics")];
    for (eta, (fault, cause)) in [0, 1].into_iter().flat_map(|eta| faults.map(|fault| (eta, fault))) {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta} {cause}")));
        let trainer = |state| ScriptedTrainer::new(state, Duration::from_secs(7)).with_fault(2, fault);
        let engine = Arc::new(world.engine().with_latency(groups_take(5)));
        let (end, seconds) = in_virtual_time(async {
            let run = prepare_scripted(&config, &out, trainer).expect("a run");
            let since = Instant::now();
            (start(run, engine, never()).await, since.elapsed().as_secs())
        });
        let error = end.expect_err("this run cannot end well");
        assert!(error.root_cause().to_string().contains(cause), "{error:#}");
        assert_eq!((metrics(&out).len(), seconds), (2, if eta == 0 { 3 * 12 } else { 5 + 3 * 7 }));
    }
}
