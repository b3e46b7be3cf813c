//! What a batch is logged as, and batches whose gradient is not finite.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use dump_rl::advantage::AdvantageScale;
use dump_rl::config::run::RunConfig;
use dump_rl::pipeline::learner::End;
use dump_rl::run_dir::checkpoint::Checkpoint;
use serde_json::Value;

use crate::fixtures::runs::{block_on, check_finished, finish, never, prepare_scripted, start};
use crate::fixtures::scripted_trainer::ScriptedTrainer;
use crate::fixtures::world::{B, G, World};

/// A run whose trainer never has a finite gradient.
fn skip_updates(world: &World, config: &RunConfig, out: &Path) -> Result<End> {
    let trainer = |state| ScriptedTrainer::new(state, Duration::ZERO).that_skips_updates();
    let run = prepare_scripted(config, out, trainer).expect("a run");
    block_on(start(run, Arc::new(world.engine()), never()))
}

/// The third update in a row that is skipped ends the run, and the batch is in a file.
#[test]
fn three_bad_gradients_in_a_row_end_the_run_and_save_the_batch() {
    let world = World::new();
    let out = world.out("a");
    let error = skip_updates(&world, &world.config(), &out).expect_err("this run cannot end well").to_string();
    assert!(error.contains("not finite") && error.contains("failed_step_3.jsonl"), "{error}");
    let text = fs::read_to_string(out.join("rollouts/failed_step_3.jsonl")).expect("the batch");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), B * G);
    for line in &lines {
        let length = |key: &str| line[key].as_array().map_or(0, Vec::len);
        assert!(length("prompt") > 0 && length("completion") > 0, "{line}");
        assert_eq!(length("rollout_log_probs"), length("completion"));
        assert!(line["advantage"].is_number() && line["rollout_log_probs"][0].is_number(), "{line}");
    }
}

/// A stop between two such steps does not reset the count.
#[test]
fn bad_gradients_are_counted_across_a_resume() {
    let world = World::new();
    let (config, out) = (world.config(), world.out("a"));
    let two_steps = RunConfig { max_steps: 2, ..config.clone() };
    check_finished(&skip_updates(&world, &two_steps, &out).expect("a good end"));
    assert_eq!(Checkpoint::load_latest(&out).expect("a checkpoint").history.skipped_in_a_row, 2);
    let error = skip_updates(&world, &config, &out).expect_err("this run cannot end well").to_string();
    assert!(error.contains("failed_step_3.jsonl"), "{error}");
}

/// Rollouts are logged with the advantages that were trained on, `curriculum.jsonl` with those that the curriculum saw.
#[test]
fn logged_advantages_are_those_trained_on() {
    let world = World::new();
    let mut config = RunConfig { max_steps: 1, ..world.config() };
    config.advantage.scale = AdvantageScale::BatchStd;
    let out = world.out("scaled");
    finish(&config, &out, world.engine());
    let read = |name: &str| fs::read_to_string(out.join(name)).expect(name);
    let text = read("rollouts/step_1.jsonl");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let trained: Vec<f64> = lines.map(|line| line["advantage"].as_f64().expect("a number")).collect();
    let seen: Value = serde_json::from_str(&read("curriculum.jsonl")).expect("JSON");
    let groups = seen["observations"].as_array().expect("groups").iter();
    let seen: Vec<f64> = groups
        .flat_map(|g| g["advantages"].as_array().cloned().unwrap_or_default())
        .map(|a| a.as_f64().expect("a number"))
        .collect();
    let deviation = |all: &[f64]| (all.iter().map(|a| a * a).sum::<f64>() / (all.len() - 1) as f64).sqrt();
    assert!((deviation(&trained) - 1.0).abs() < 1e-4);
    // The curriculum's advantages are divided by each group's own standard deviation, whatever the loss uses.
    for (trained, seen) in trained.chunks(G).zip(seen.chunks(G)).filter(|(_, seen)| seen.iter().any(|a| *a != 0.0)) {
        assert!((deviation(seen) - 1.0).abs() < 1e-4, "{seen:?}");
        let scale = deviation(trained);
        assert!(trained.iter().zip(seen).all(|(trained, seen)| (trained - scale * seen).abs() < 1e-4));
    }
}
