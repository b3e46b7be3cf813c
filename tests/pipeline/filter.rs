//! `[filter]`: groups that nothing can be learned from are dropped, replaced, and still observed.

use std::fs;

use serde_json::Value;

use crate::fixtures::records::{check_ledger, metrics, number, outcomes};
use crate::fixtures::runs::finish;
use crate::fixtures::world::{B, STEPS, World};

#[test]
fn groups_without_variance_are_dropped_replaced_and_observed() {
    let world = World::new();
    for eta in [0, 1] {
        let mut config = world.off_policy(eta);
        config.filter.zero_variance = true;
        let out = world.out(&format!("eta_{eta}"));
        finish(&config, &out, world.engine_without_variance());
        assert!(check_ledger(&out) > 0, "nothing was dropped");
        let (end, outcomes) = (metrics(&out).pop().expect("a line"), outcomes(&out));
        assert!(metrics(&out).iter().all(|line| number(line, "frac_reward_zero_std") == 0.0));
        for reason in ["solved_all", "solved_none"] {
            assert_eq!(number(&end, &format!("groups/filtered_{reason}")), outcomes[reason] as f64);
        }
        assert_eq!(outcomes["trained"], STEPS * B as u64);
        let text = fs::read_to_string(out.join("curriculum.jsonl")).expect("observations");
        let groups =
            |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["observations"].as_array().unwrap().len();
        assert_eq!(text.lines().map(groups).sum::<usize>() as u64, outcomes.values().sum::<u64>());
    }
}

#[test]
fn a_model_that_solves_everything_still_finishes() {
    let world = World::new();
    let mut config = world.config();
    (config.filter.zero_variance, config.filter.max_refills) = (true, 2);
    finish(&config, &world.out("run"), world.engine_that_solves_all());
    assert_eq!(outcomes(&world.out("run"))["solved_all"], 2 * STEPS * B as u64);
}
