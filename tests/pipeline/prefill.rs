//! A chat template that begins every answer with `<think>`.

use dump_rl::config::eval::EvalConfig;
use dump_rl::config::grader::{GraderConfig, Prefill};
use dump_rl::config::run::RunConfig;
use serde_json::Value;

use crate::fixtures::records::{all_metrics, number, rollouts};
use crate::fixtures::runs::finish;
use crate::fixtures::world::World;

/// The format score of all right answers of one step, and the mean reward of an evaluation of right answers.
fn check(world: &World, prefill: Prefill, expected: (f64, f64), in_record: Option<&str>) {
    let config = RunConfig { max_steps: 1, ..world.config() };
    let config = RunConfig {
        grader: GraderConfig { prefill, ..config.grader.clone() },
        eval: EvalConfig { interval: 1, ..config.eval },
        ..config
    };
    let out = world.out(&format!("{prefill:?}"));
    finish(&config, &out, world.engine_that_solves_all());
    for line in rollouts(&out, 1).lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(line["format_score"].as_f64(), Some(expected.0), "{line}");
        assert_eq!(line["prefill"].as_str(), in_record, "{line}");
        assert!(line["completion"].as_str().is_some_and(|text| text.starts_with(" so </think>")), "{line}");
    }
    let last = all_metrics(&out).pop().expect("a line");
    assert_eq!(number(&last, "eval/mean/reward"), expected.1);
}

#[test]
fn what_the_template_begins_is_graded_unless_it_is_ignored() {
    let world = World::that_prefills_think();
    check(&world, Prefill::Graded, (1.0, 3.0), Some("<think>\n"));
    check(&world, Prefill::Ignored, (-1.0, -3.0), None);
}
