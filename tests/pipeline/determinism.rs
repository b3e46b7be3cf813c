//! The same seed gives the same run, whatever the timing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dump_rl::config::eval::EvalConfig;
use dump_rl::config::run::RunConfig;
use dump_rl::pipeline::learner::End;
use dump_rl::pipeline::setup::Setup;

use crate::fixtures::records::{Line, assert_same, check_ledger, last, metrics, number, total};
use crate::fixtures::runs::{check_finished, finish, in_virtual_time, never, run, train};
use crate::fixtures::world::{B, STEPS, World};

#[test]
fn a_run_trains_and_its_rewards_vary() {
    let world = World::new();
    let (config, out) = (world.config(), world.out("a"));
    finish(&config, &out, world.engine());
    assert_eq!(check_ledger(&out), 0);
    let setup = Setup::for_training(config).expect("a good configuration");
    let start = setup.base.trainer().expect("a trainer").adapter().expect("an adapter");
    assert_ne!(last(&out).trainer.adapter.hash, start.hash);
    assert_eq!(last(&out).trainer.updates, STEPS);
    for line in metrics(&out) {
        assert!(number(&line, "frac_reward_zero_std") < 1.0 && number(&line, "actor/grad_norm") > 0.0, "{line:?}");
        assert!(number(&line, "completions/clipped_ratio") == 0.0, "{line:?}");
        assert!((total(&line, "weight") - 1.0).abs() < 1e-9, "{line:?}");
    }
    let kept: BTreeSet<String> = fs::read_dir(out.join("checkpoints"))
        .expect("a folder")
        .map(|it| it.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(kept, BTreeSet::from(["step_4".to_string(), "step_5".to_string()]));
}

#[test]
fn synchronous_runs_are_equal_whatever_the_latency() {
    let world = World::new();
    let orders = [|_: u64| 0, |seed: u64| seed % 40, |seed: u64| 40 - seed % 40].map(|millis| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = order.clone();
        let out = world.out(&format!("latency {}", millis(1)));
        let engine = world.engine_that(move |request| seen.lock().expect("a lock").push(request.seed));
        let engine = Arc::new(engine.with_latency(move |request| Duration::from_millis(millis(request.seed))));
        let end = in_virtual_time(train(&world.config(), &out, engine, never())).expect("a run that ends well");
        check_finished(&end);
        let order = order.lock().expect("a lock").clone();
        (out, order)
    });
    let [(first, in_order), (second, by_seed), (third, reversed)] = orders;
    assert_eq!(in_order.len(), STEPS as usize * B);
    assert!(by_seed != in_order && by_seed != reversed, "the groups did not finish in other orders");
    assert_same(&first, &second);
    assert_same(&first, &third);
    // Once more on two threads and the real clock, where the interleavings are real.
    let threaded = world.out("threads");
    finish(&world.config(), &threaded, world.engine().with_latency(|it| Duration::from_millis(it.seed % 40)));
    assert_same(&first, &threaded);
    let another = RunConfig { seed: 8, ..world.config() };
    finish(&another, &world.out("another seed"), world.engine());
    assert_ne!(last(&world.out("another seed")).trainer.adapter.hash, last(&first).trainer.adapter.hash);
}

#[test]
fn validation_never_reaches_the_curriculum() {
    let world = World::new();
    let with_eval = |interval| RunConfig { eval: EvalConfig { interval, ..world.config().eval }, ..world.config() };
    let (without, with) = (world.out("without"), world.out("with"));
    finish(&with_eval(0), &without, world.engine());
    let end = run(&with_eval(1), &with, world.engine()).expect("a good end");
    let End::Finished { first: Some(first), last: Some(last_eval) } = end else { panic!("no evaluations: {end:?}") };
    assert_eq!((first.len(), last_eval.len()), (3, 3));
    assert!(metrics(&with).iter().all(|line| line.contains_key("eval/mean/reward")));
    let curriculum = |out: &Path| -> Vec<Line> {
        let seen = |line: Line| line.into_iter().filter(|(name, _)| name.starts_with("curriculum/")).collect();
        metrics(out).into_iter().filter(|line| line["step"] != 0).map(seen).collect()
    };
    assert_eq!(curriculum(&without), curriculum(&with));
    assert_eq!(curriculum(&with)[0].len(), 3 * 6);
    assert_eq!(last(&without).trainer.adapter.hash, last(&with).trainer.adapter.hash);
    let state = |out: &Path| serde_json::to_string(&last(out).scheduler).expect("JSON");
    assert_eq!(state(&without), state(&with));
}
