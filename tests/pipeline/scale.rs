//! How much the stages of one trainer can take: for docs/scaling.md, by `just bench-scale`.

use std::time::{Duration, Instant};

use dump_rl::config::pipeline::PipelineConfig;
use dump_rl::config::run::RunConfig;
use engine::Request;

use super::stages::run_scripted;
use crate::fixtures::records::{all_metrics, check_ledger};
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
    config.pipeline = PipelineConfig { max_off_policy_steps: 1, rollout_workers: GROUPS };
    (config.eval.interval, config.ckpt.interval) = (0, 0);
    let seconds = |request: &Request| Duration::from_secs(5 + request.seed % 50);
    let engine = world.engine().with_latency(seconds);
    let since = Instant::now();
    let (end, _) = run_scripted(&config, &world.out("scale"), engine, 20);
    let took = since.elapsed().as_secs_f64();
    check_finished(&end.expect("a good end"));
    assert_eq!(check_ledger(&world.out("scale")), 0);
    assert_eq!(all_metrics(&world.out("scale")).len() as u64, STEPS);
    let completions = (STEPS as usize * GROUPS * EACH) as f64;
    println!(
        "{completions} completions of {} a step: {took:.1} s, {:.1} µs each; one core keeps up with {:.0} completions/s",
        GROUPS * EACH,
        1e6 * took / completions,
        completions / took
    );
}
