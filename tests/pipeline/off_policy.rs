//! η: how far generation runs ahead of training.

use std::sync::Arc;
use std::time::Duration;

use engine::seed::mix_seed;

use crate::fixtures::records::{check_ledger, dropped, metrics, number, rollouts, total};
use crate::fixtures::runs::{block_on, check_finished, finish, in_virtual_time, never, train};
use crate::fixtures::steered_engine::{Behaviour, SteeredEngine};
use crate::fixtures::world::{B, G, STEPS, World};

#[test]
fn generation_overlaps_training_by_one_step_at_most() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    // No group is answered before the groups of two batches are running. So those of the second batch are one step old.
    let engine =
        world.engine().with_concurrency(2 * B).with_latency(|request| Duration::from_millis(request.seed % 20));
    let engine = Arc::new(SteeredEngine::new(engine, Behaviour::WaitsForGroups { arrived: 2 * B }));
    block_on(train(&config, &out, engine.clone(), never())).expect("a good end");
    assert!((B + 1..=2 * B).contains(&engine.most_running()), "{} at a time", engine.most_running());
    assert_eq!(check_ledger(&out), 0);
    let ages: Vec<f64> = metrics(&out).iter().map(|line| number(line, "off_policy/max")).collect();
    assert_eq!(ages[0], 0.0);
    assert!(ages.contains(&1.0) && ages.iter().all(|age| *age <= 1.0), "{ages:?}");
    assert!(metrics(&out).iter().all(|line| line.contains_key("rollout_corr/canary_max_diff")));
    let published: Vec<u64> = engine.scripted().published().iter().map(|policy| policy.step).collect();
    assert_eq!(published, [0, 0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_synchronous_run_trains_only_on_its_own_policy() {
    let world = World::new();
    let (config, out) = (world.config(), world.out("a"));
    let engine =
        world.engine().with_concurrency(2 * B).with_latency(|request| Duration::from_millis(request.seed % 20));
    check_finished(&in_virtual_time(train(&config, &out, Arc::new(engine), never())).expect("a run that ends well"));
    assert!(metrics(&out).iter().all(|line| number(line, "off_policy/max") == 0.0));
}

#[test]
fn a_group_that_is_too_old_is_dropped_but_observed() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    let behaviour = Behaviour::HoldsGroup { seed: mix_seed(config.seed, 0), until: 2 };
    finish(&config, &out, SteeredEngine::new(world.engine(), behaviour));
    assert_eq!(check_ledger(&out), 1);
    let lines = metrics(&out);
    assert!(lines.iter().all(|line| number(line, "off_policy/max") <= 1.0));
    assert_eq!(total(lines.last().expect("a line"), "n"), ((STEPS as usize * B + 1) * G) as f64);
    assert_eq!(dropped(&out), serde_json::json!({"stale": 1}));
    for step in 1..=STEPS {
        assert!(!rollouts(&out, step).contains("\"job\":0,"), "step {step} was trained on the stale group");
    }
}
