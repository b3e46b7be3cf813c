//! Engines and trainers that never answer, and those that are only slow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use dump_rl::config::eval::EvalConfig;
use dump_rl::config::pipeline::PipelineConfig;
use dump_rl::config::run::RunConfig;
use dump_rl::pipeline::learner::End;
use engine::seed::mix_seed;
use engine::{Engine, Request};
use tokio::time::Instant as VirtualInstant;

use crate::fixtures::records::{check_ledger, dropped, metrics};
use crate::fixtures::runs::{
    FOREVER, block_on, check_finished, fail, finish, in_virtual_time, never, prepare_scripted, start,
};
use crate::fixtures::scripted_trainer::ScriptedTrainer;
use crate::fixtures::steered_engine::{Behaviour, SteeredEngine};
use crate::fixtures::world::{B, G, STEPS, World};

/// Seconds that the engine may take, that a group takes, and that a step of the trainer takes.
const LIMIT: u64 = 100;
const GROUP: u64 = 10;
const STEP: u64 = 7;

fn limited(world: &World, eta: u64) -> RunConfig {
    let config = world.off_policy(eta);
    RunConfig { pipeline: PipelineConfig { engine_timeout_s: LIMIT, ..config.pipeline }, ..config }
}

/// Groups take [`GROUP`] seconds and other requests none, except those that hang.
fn latency(
    hangs: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> impl Fn(&Request) -> Duration + Send + Sync + 'static {
    move |request| match request.group_size {
        _ if hangs(request) => FOREVER,
        G => Duration::from_secs(GROUP),
        _ => Duration::ZERO,
    }
}

/// The end of a run in virtual time, and how many seconds it took.
fn run<E: Engine>(world: &World, config: &RunConfig, name: &str, engine: E) -> (Result<End>, f64) {
    in_virtual_time(async {
        let trainer = |state| ScriptedTrainer::new(state, Duration::from_secs(STEP));
        let run = prepare_scripted(config, &world.out(name), trainer).expect("a run");
        let since = VirtualInstant::now();
        let end = start(run, Arc::new(engine), never()).await;
        (end, since.elapsed().as_secs_f64())
    })
}

#[track_caller]
fn check_failed((end, seconds): (Result<End>, f64), after: u64, words: &[&str]) {
    let error = format!("{:#}", end.expect_err("this run cannot end well"));
    assert!(words.iter().all(|words| error.contains(words)), "{error}");
    assert_eq!(seconds, after as f64, "{error}");
}

#[test]
fn a_group_that_never_comes_is_given_up_and_another_is_drawn() {
    let world = World::new();
    for eta in [0, 1] {
        let (config, name) = (limited(&world, eta), format!("{eta}"));
        let hanging = mix_seed(config.seed, 1);
        let engine = world.engine().with_latency(latency(move |request| request.seed == hanging));
        let (end, seconds) = run(&world, &config, &name, engine);
        check_finished(&end.expect("a good end"));
        assert_eq!(
            (check_ledger(&world.out(&name)), dropped(&world.out(&name))),
            (1, serde_json::json!({"failed": 1}))
        );
        // The group that is drawn in its place, and then four more rounds. With η = 1 the others go on meanwhile.
        let synchronous = LIMIT + (GROUP + STEP) * STEPS;
        assert!(
            if eta == 0 { seconds == synchronous as f64 } else { seconds < synchronous as f64 },
            "{eta}: {seconds}"
        );
    }
}

#[test]
fn an_engine_that_never_answers_ends_the_run() {
    let world = World::new();
    for eta in [0, 1] {
        let end = run(&world, &limited(&world, eta), &format!("{eta}"), world.engine().with_latency(latency(|_| true)));
        let why = "the native engine gave no answer within 100 s";
        check_failed(end, LIMIT, &[why, "3 groups in a row failed", "pipeline.engine_timeout_s"]);
    }
}

#[test]
fn an_evaluation_that_never_ends_ends_the_run() {
    let world = World::new();
    let config = limited(&world, 0);
    let config = RunConfig { eval: EvalConfig { interval: 1, ..config.eval }, ..config };
    let engine = world.engine().with_latency(latency(|request| request.group_size == 1));
    check_failed(run(&world, &config, "a", engine), LIMIT, &["gave no answer within 100 s"]);
}

#[test]
fn a_canary_that_never_comes_is_left_out() {
    let world = World::new();
    let engine = world.engine().with_latency(latency(|request| request.group_size == 2));
    let (end, _) = run(&world, &limited(&world, 1), "a", engine);
    check_finished(&end.expect("a good end"));
    assert!(metrics(&world.out("a")).iter().all(|line| !line.contains_key("rollout_corr/canary_max_diff")));
}

/// Whether the policy is there is not known, so it is not published again.
#[test]
fn a_publish_that_never_ends_ends_the_run() {
    let world = World::new();
    let engine = world.engine().with_latency(latency(|_| false));
    let hangs = SteeredEngine::new(engine, Behaviour::HangsAtPublish { step: 2, reached: Arc::default() });
    let end = run(&world, &limited(&world, 0), "a", hangs);
    let after = 2 * (GROUP + STEP) + LIMIT;
    check_failed(end, after, &["publishing the policy", "did not load the policy of step 2 within 100 s"]);
    assert_eq!(metrics(&world.out("a")).len(), 1);
}

/// Warnings and the end come soon, by a real clock.
fn impatient(config: RunConfig) -> RunConfig {
    let pipeline = PipelineConfig { stall_warning_s: 1, stall_timeout_s: 2, ..config.pipeline };
    RunConfig { pipeline, ..config }
}

/// Nothing hangs for ever, and the error names what the others wait for.
#[test]
fn a_run_in_which_nothing_moves_ends_with_the_stage_that_does_not() {
    let world = World::new();
    let check = |name: &str, engine: SteeredEngine, words: &str| {
        let since = Instant::now();
        let error = fail(&impatient(world.config()), &world.out(name), engine);
        assert!(error.contains("nothing has moved for") && error.contains(words), "{error}");
        assert!(error.contains("--resume") && error.contains("pipeline.stall_timeout_s"), "{error}");
        assert!(since.elapsed() >= Duration::from_secs(2));
    };
    let waits = Behaviour::WaitsForGroups { arrived: usize::MAX };
    let rollout = format!("rollout: {B} groups at the engine; learner: waits for a batch");
    check("rollout", SteeredEngine::new(world.engine(), waits), &rollout);
    let hangs = Behaviour::HangsAtPublish { step: 1, reached: Arc::default() };
    check("publish", SteeredEngine::new(world.engine(), hangs), "learner: the engine takes the new policy");
}

/// No group takes long, but all of them together do.
#[test]
fn a_slow_engine_is_not_taken_for_one_that_hangs() {
    let (world, since) = (World::new(), Instant::now());
    let slow = world.engine().with_concurrency(1).with_latency(|_| Duration::from_millis(200));
    finish(&impatient(world.config()), &world.out("a"), slow);
    assert!(since.elapsed() > Duration::from_secs(2));
}

/// A step that takes longer than the limit is slow if the trainer counts on, and hangs if it does not.
#[test]
fn a_slow_step_is_told_from_one_that_hangs() {
    let world = World::new();
    let config = RunConfig { max_steps: 1, ..impatient(world.config()) };
    let step = |name: &str, kind: fn(ScriptedTrainer) -> ScriptedTrainer| {
        let trainer = |state| kind(ScriptedTrainer::new(state, Duration::from_secs(5)));
        let run = prepare_scripted(&config, &world.out(name), trainer).expect("a run");
        block_on(start(run, Arc::new(world.engine()), never()))
    };
    check_finished(&step("slow", ScriptedTrainer::that_counts).expect("a good end"));
    let error = step("hangs", |trainer| trainer).expect_err("it hangs").to_string();
    assert!(error.contains(" s: learner: the trainer makes a step"), "{error}");
}
