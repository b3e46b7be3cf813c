//! A run that was stopped or killed, and goes on from its checkpoint, is the run that was never interrupted.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dump_rl::config::eval::EvalConfig;
use dump_rl::config::run::RunConfig;
use dump_rl::curriculum::CurriculumConfig;
use dump_rl::curriculum::rows::Rows;
use dump_rl::pipeline::learner::End;
use dump_rl::run_dir::checkpoint::Checkpoint;
use engine::seed::mix_seed;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::fixtures::records::{assert_same, check_ledger, metrics, newest_step, number};
use crate::fixtures::runs::{FOREVER, block_on, finish, prepare, run_until, start, stop_at, train};
use crate::fixtures::steered_engine::{Behaviour, SteeredEngine};
use crate::fixtures::world::{B, G, STEPS, World, out_of_memory};

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let world = World::new();
    // The second learns from gradients and rows.
    for (policy, rows) in [("dump", Rows::Uniform), ("tac", Rows::Mopps)] {
        let curriculum = CurriculumConfig { policy: policy.into(), rows, ..CurriculumConfig::default() };
        let config = RunConfig { curriculum, ..world.config() };
        let straight = world.out(&format!("{policy} straight"));
        finish(&config, &straight, world.engine());
        // In the first round, and at the first and the last request of later rounds.
        for at in [1, 2 * B, 3 * B - 1] {
            let out = world.out(&format!("{policy} stopped at {at}"));
            assert_eq!(stop_at(world.engine(), &config, &out, at), End::Stopped);
            assert_eq!(newest_step(&out), (at / B) as u64);
            finish(&config, &out, world.engine());
            assert_same(&straight, &out);
        }
        let learnt = fs::read_to_string(straight.join("curriculum.jsonl")).expect("a record");
        assert_eq!(learnt.contains("\"gradients\""), policy == "tac");
    }
}

#[test]
fn many_stops_change_nothing() {
    let world = World::new();
    let (config, straight, out) = (world.config(), world.out("straight"), world.out("stopped"));
    finish(&config, &straight, world.engine());
    let sessions = (0..20).take_while(|_| stop_at(world.engine(), &config, &out, B + 1) == End::Stopped).count();
    assert_eq!(sessions as u64, STEPS - 1);
    assert_same(&straight, &out);
}

/// The stop comes during the first evaluation, when the curriculum has seen a whole batch.
#[test]
fn a_stop_with_a_batch_ready_loses_nothing() {
    let world = World::new();
    let eval = EvalConfig { interval: 2, ..world.config().eval };
    let config = RunConfig { eval, ..world.config() };
    let (straight, out) = (world.out("straight"), world.out("stopped"));
    finish(&config, &straight, world.engine());
    let run = prepare(&config, &out).expect("a run");
    let scheduler = run.scheduler();
    let (stop, stopped) = watch::channel(false);
    let until = Box::new(move || {
        let is_ready = scheduler.lock().ledger().observed >= B as u64;
        stop.send_if_modified(|stop| std::mem::replace(stop, is_ready) != is_ready);
        is_ready
    });
    let engine = SteeredEngine::new(world.engine(), Behaviour::HoldsEvaluations { until });
    assert_eq!(block_on(start(run, Arc::new(engine), stopped)).expect("a good end"), End::Stopped);
    let seen: Value =
        serde_json::to_value(&Checkpoint::load_latest(&out).expect("a checkpoint").scheduler).expect("JSON");
    let observed = seen["flights"].as_array().into_iter().flatten().filter(|flight| flight["observed"] == true).count();
    assert_eq!(observed, B, "the batch was not ready, so this test shows nothing");
    finish(&config, &out, world.engine());
    assert_same(&straight, &out);
}

/// A run that is asked to stop when the request `at`, from 0, of its evaluations arrives. That request is never answered.
fn stop_in_evaluation(world: &World, config: &RunConfig, out: &Path, at: usize) -> End {
    let (stop, stopped) = watch::channel(false);
    let requests = AtomicUsize::new(0);
    let engine = world.engine().with_latency(move |request| {
        if request.group_size == G || requests.fetch_add(1, Ordering::SeqCst) != at {
            return Duration::ZERO;
        }
        stop.send_replace(true);
        FOREVER
    });
    block_on(train(config, out, Arc::new(engine), stopped)).expect("a good end")
}

/// It is done again, and its numbers are in the line of its step, even if a kill follows.
#[test]
fn an_evaluation_that_is_cut_off_is_done_again() {
    let world = World::new();
    let eval = EvalConfig { interval: 2, ..world.config().eval };
    let config = RunConfig { eval, ..world.config() };
    let straight = world.out("straight");
    finish(&config, &straight, world.engine());
    // Evaluations of nine requests each, at steps 0, 2, 4 and 5.
    for (at, step) in [(0, 0), (8, 0), (9, 2), (20, 4), (27, 5), (35, 5)] {
        let out = world.out(&format!("stopped at {at}"));
        assert_eq!(stop_in_evaluation(&world, &config, &out, at), End::Stopped);
        assert_eq!(
            (newest_step(&out), metrics(&out).last().map_or(0, |line| number(line, "step") as u64 + 1)),
            (step, step)
        );
        // Stopped in it once more, then killed after it.
        assert_eq!(stop_in_evaluation(&world, &config, &out, 3), End::Stopped);
        if step < STEPS {
            let kill = Arc::new(Notify::new());
            let killer = kill.clone();
            let engine = world.engine().with_latency(move |request| {
                if request.group_size != G {
                    return Duration::ZERO;
                }
                killer.notify_one();
                FOREVER
            });
            run_until(&config, &out, engine, &kill);
        }
        finish(&config, &out, world.engine());
        assert_same(&straight, &out);
    }
}

/// The step whose policy is being published is whole.
#[test]
fn a_stop_does_not_wait_for_a_publish() {
    let world = World::new();
    let eval = EvalConfig { interval: 1, ..world.config().eval };
    for config in [RunConfig { eval, ..world.config() }, world.config()] {
        let name = config.eval.interval;
        let (straight, out) = (world.out(&format!("straight {name}")), world.out(&format!("stopped {name}")));
        finish(&config, &straight, world.engine());
        let (stop, stopped) = watch::channel(false);
        let reached = Arc::new(Notify::new());
        let engine =
            SteeredEngine::new(world.engine(), Behaviour::HangsAtPublish { step: 3, reached: reached.clone() });
        let end = block_on(async {
            let stopping = async {
                reached.notified().await;
                stop.send_replace(true);
            };
            tokio::join!(train(&config, &out, Arc::new(engine), stopped), stopping).0
        });
        assert_eq!(end.expect("a good end"), End::Stopped);
        assert_eq!(newest_step(&out), 3);
        finish(&config, &out, world.engine());
        assert_same(&straight, &out);
    }
}

/// A kill leaves log lines of steps after the checkpoint, half a line, and half a checkpoint.
#[test]
fn a_killed_run_resumes_from_its_checkpoint() {
    let world = World::new();
    let (config, straight) = (world.config(), world.out("straight"));
    finish(&config, &straight, world.engine());
    let generating = world.out("generating");
    let (kill, calls) = (Arc::new(Notify::new()), AtomicUsize::new(0));
    let killer = kill.clone();
    let engine = world.engine().with_latency(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        at if at == 3 * B + 1 => {
            killer.notify_one();
            FOREVER
        }
        _ => Duration::ZERO,
    });
    run_until(&config, &generating, engine, &kill);
    let (publishing, kill) = (world.out("publishing"), Arc::new(Notify::new()));
    let engine = SteeredEngine::new(world.engine(), Behaviour::HangsAtPublish { step: 4, reached: kill.clone() });
    run_until(&config, &publishing, engine, &kill);
    for out in [generating, publishing] {
        assert_eq!(newest_step(&out), 2);
        assert_eq!(metrics(&out).len(), 3);
        let mut log = fs::OpenOptions::new().append(true).open(out.join("metrics.jsonl")).expect("a log");
        log.write_all(b"{\"step\":4,\"rew").expect("half a line");
        fs::create_dir_all(out.join("checkpoints/step_4.tmp")).expect("half a checkpoint");
        fs::write(out.join("checkpoints/step_4.tmp/state.json"), "{").expect("half a checkpoint");
        finish(&config, &out, world.engine());
        assert_same(&straight, &out);
    }
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let world = World::new();
    let (config, straight, out) = (world.config(), world.out("straight"), world.out("longer"));
    finish(&config, &straight, world.engine());
    finish(&RunConfig { max_steps: 3, ..config.clone() }, &out, world.engine());
    finish(&config, &out, world.engine());
    assert_same(&straight, &out);
    let engine = world.engine();
    finish(&config, &out, engine);
    assert_same(&straight, &out);
}

#[test]
fn an_overlapping_run_resumes_after_a_stop() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    assert_eq!(stop_at(world.engine(), &config, &out, 4 * B), End::Stopped);
    assert!(newest_step(&out) < STEPS);
    finish(&config, &out, world.engine());
    assert_eq!(check_ledger(&out), 0);
    assert!(metrics(&out).iter().all(|line| number(line, "off_policy/max") <= 1.0));
}

#[test]
fn a_stop_while_a_failed_group_is_replaced_changes_nothing() {
    let world = World::new();
    let (config, straight, out) = (world.config(), world.out("straight"), world.out("stopped"));
    let fails = mix_seed(config.seed, 4);
    let engine = || world.engine().with_failure(move |request, _| (request.seed == fails).then(out_of_memory));
    finish(&config, &straight, engine());
    assert_eq!(check_ledger(&straight), 1);
    // The stop comes when the other groups of the round are done and the replacement runs.
    let (stop, stopped) = watch::channel(false);
    let replacement = mix_seed(config.seed, 2 * B as u64);
    let stopping = engine().with_latency(move |request| {
        if request.seed != replacement {
            return Duration::ZERO;
        }
        stop.send_replace(true);
        FOREVER
    });
    assert_eq!(block_on(train(&config, &out, Arc::new(stopping), stopped)).expect("a good end"), End::Stopped);
    finish(&config, &out, engine());
    assert_same(&straight, &out);
}

#[test]
fn a_stop_in_a_run_with_refills_changes_nothing() {
    let world = World::new();
    let mut config = world.config();
    config.filter.zero_variance = true;
    let straight = world.out("straight");
    finish(&config, &straight, world.engine_without_variance());
    for at in [1, 4, 5, 9, 13] {
        let out = world.out(&format!("stopped_{at}"));
        assert_eq!(stop_at(world.engine_without_variance(), &config, &out, at), End::Stopped);
        finish(&config, &out, world.engine_without_variance());
        assert_same(&straight, &out);
    }
}
