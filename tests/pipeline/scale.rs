//! How much the stages of one trainer can take: for docs/scaling.md, by `just bench-scale`.

use std::path::Path;
use std::time::{Duration, Instant};

use dump_rl::config::log::Compression;
use dump_rl::config::pipeline::PipelineConfig;
use dump_rl::config::run::RunConfig;
use dump_rl::run_dir::RunDir;
use dump_rl::task::kk::demo::{self, Style};
use dump_rl::task::kk::generate::Generator;
use engine::Request;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use temp_dir::TempDir;

use super::stages::run_scripted;
use crate::fixtures::records::{all_metrics, check_ledger_of};
use crate::fixtures::runs::check_finished;
use crate::fixtures::world::World;

/// 1,000 servers with 100 sequences each.
const GROUPS: usize = 12_500;
const EACH: usize = 8;
const STEPS: u64 = 3;

/// Every stage but generation and training, which take virtual time only: scheduler, rollout workers, graders, batches, logs. All
/// of it runs on one thread here, so its time is what it costs.
#[test]
#[ignore = "a measurement; just bench-scale runs it"]
fn stages_with_100_000_completions_in_flight() {
    let world = World::new();
    let mut config = RunConfig { batch_size: GROUPS, group_size: EACH, max_steps: STEPS, ..world.config() };
    config.pipeline = PipelineConfig { max_off_policy_steps: 1, rollout_workers: GROUPS, ..PipelineConfig::default() };
    (config.eval.interval, config.ckpt.interval) = (0, 0);
    let seconds = |request: &Request| Duration::from_secs(5 + request.seed % 50);
    let engine = world.engine().with_latency(seconds);
    let since = Instant::now();
    let (end, _) = run_scripted(&config, &world.out("scale"), engine, 20);
    let took = since.elapsed().as_secs_f64();
    check_finished(&end.expect("a good end"));
    assert_eq!(check_ledger_of(&world.out("scale"), STEPS, [GROUPS, EACH]), 0);
    assert_eq!(all_metrics(&world.out("scale")).len() as u64, STEPS);
    let completions = (STEPS as usize * GROUPS * EACH) as f64;
    println!(
        "{completions} completions of {} a step: {took:.1} s, {:.1} µs each; one core keeps up with {:.0} completions/s",
        GROUPS * EACH,
        1e6 * took / completions,
        completions / took
    );
}

/// What it takes to write the completions of a step: 128 prompts of 14 people, each answered 16 times.
#[test]
#[ignore = "a measurement; just bench-scale runs it"]
fn completions_of_a_large_step_on_a_disk() {
    let lines = worked_completions(128, 16);
    for compression in [Compression::None, Compression::Zstd] {
        let folder = TempDir::new().expect("a folder");
        let mut config = RunConfig::default();
        config.log.compression = compression;
        let run = RunDir::create(folder.path(), &config).expect("a folder");
        let since = Instant::now();
        run.rollouts(1, lines.iter()).expect("a file");
        let took = since.elapsed().as_secs_f64();
        let bytes = bytes_in(&folder.path().join("rollouts"));
        println!("{compression:?}: {} completions, {} kB in {:.1} ms", lines.len(), bytes / 1000, 1e3 * took);
    }
}

fn worked_completions(prompts: usize, each: usize) -> Vec<Value> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut lines = Vec::new();
    for (job, puzzle) in Generator::new(14, 0).take(prompts).enumerate() {
        for _ in 0..each {
            let completion = demo::completion(&puzzle, Style::Careful, &mut rng);
            lines.push(json!({"step": 1, "job": job, "data_source": "kk_logic_14", "row": job, "completion": completion,
                "reward": 3.0, "format_score": 1.0, "answer_score": 2.0, "advantage": 0.25, "tokens": completion.len() / 4,
                "finish": "stop", "policy_step": 0, "last_policy_step": 0, "adapter": "0123456789ab"}));
        }
    }
    lines
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).expect("a folder");
    files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).sum()
}
