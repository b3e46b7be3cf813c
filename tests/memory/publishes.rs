//! What mistral.rs gives back: in a suspended engine, and at each publish.

use std::process::Command;
use std::sync::Arc;

use dump_rl::memory::process::resident_mb;
use engine::decoder::DecoderConfig;
use engine::mistral::{MistralRs, MistralSettings, Swap};
use engine::{Engine, PolicyVersion};

use crate::engines::{check_groups, trainer};
use crate::fixtures::program::program;
use crate::fixtures::root;

/// Measured in a process that does nothing else.
#[test]
fn a_suspended_engine_holds_no_memory() {
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["memory::publishes::memory_of_a_suspended_engine", "--exact", "--ignored"]);
    // Freed memory goes back to the system at once.
    alone.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_ARENA_MAX", "1");
    let output = alone.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above, in its own process"]
async fn memory_of_a_suspended_engine() {
    const COPIES: usize = 12;
    let model = root().join("data/kk-tiny");
    let trainer = trainer(&model);
    let adapter = trainer.adapter().unwrap();
    let one_mb = DecoderConfig::load(&model).unwrap().parameters() as f64 * 4.0 / 1e6;
    for swap in [Swap::SideBySide, Swap::Reload] {
        let settings = MistralSettings { swap, ..MistralSettings::cpu(COPIES) };
        let engine = Arc::new(MistralRs::load(&model, settings, adapter.clone()).await.unwrap());
        check_groups(&engine, &PolicyVersion { step: 0, adapter: adapter.hash.clone() }).await;
        for step in 1..4 {
            let loaded = resident_mb();
            engine.suspend().await.unwrap();
            let suspended = resident_mb();
            let weights = COPIES as f64 * one_mb;
            println!("{swap:?}: {loaded:.1} MB, suspended {suspended:.1} MB; weights of {weights:.1} MB");
            assert!(loaded - suspended > 0.8 * weights, "{loaded} MB, then {suspended}; weights of {weights} MB");
            engine.publish(step, adapter.clone()).await.unwrap();
            check_groups(&engine, &PolicyVersion { step, adapter: adapter.hash.clone() }).await;
        }
    }
}

/// 200 real steps, each with a publish: the memory of a replaced model is freed.
#[test]
fn memory_stays_flat_over_two_hundred_publishes() {
    let out = temp_dir::TempDir::new().unwrap();
    let run = out.path().join("run");
    let sets = [
        "max_steps=200",
        "batch_size=2",
        "group_size=2",
        "engine.max_new_tokens=8",
        "eval.interval=0",
        "engine.kind=mistralrs",
    ];
    let mut command = program();
    command.arg("train").arg(root().join("configs/kk-tiny.toml")).arg("--out").arg(&run);
    command.args(sets.iter().flat_map(|set| ["--set", set]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let memory_mb: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["perf/memory"].as_f64().unwrap())
        .collect();
    assert_eq!(memory_mb.len(), 200);
    // Means over ten steps, because freed memory goes back to the system only after a second.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (early, late) = (mean(&memory_mb[5..15]), mean(&memory_mb[190..]));
    // If replaced policies stayed, every publish would add two copies of the model, of 5.6 MB each: 2 GB in all. What does
    // stay is a thread that mistral.rs 0.8.1 leaves behind for each model, about 0.2 MB each, and what the allocator keeps.
    let growth = (late - early) / 190.0;
    assert!(growth < 1.0, "{growth} MB per publish: {early} MB after 10, {late} MB after 200");
}
