//! A record of a curriculum, replayed under each policy: its first byte chooses which. All weights must be numbers.
#![no_main]

use dump_rl::commands::replay;
use dump_rl::curriculum::policies::POLICIES;
use dump_rl::curriculum::{CurriculumConfig, Mixture};
use dump_rl_fuzz::folder;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some((choice, events)) = input.split_first() else { return };
    let policy = POLICIES[usize::from(*choice) % POLICIES.len()].name.to_owned();
    let config = CurriculumConfig { policy, ..CurriculumConfig::default() };
    let known = Mixture { sources: vec!["a".into(), "b".into()], sizes: vec![3, 4], max_steps: 10, batch_size: 2 };
    let file = folder([("events.jsonl", events)]).join("events.jsonl");
    let mut out = Vec::new();
    drop(replay::run(&config, &known, &file, &mut out));
    for line in out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).expect("JSON");
        let weights = line["weights"].as_object().expect("weights");
        assert!(weights.values().all(Value::is_number), "{line}");
    }
});
