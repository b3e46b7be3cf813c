//! `state.json` of a checkpoint with a correct seal, beside three files of one byte each, and a scheduler that goes on from it.
#![no_main]

use dump_rl::curriculum::{CurriculumConfig, Mixture};
use dump_rl::run_dir::checkpoint::Checkpoint;
use dump_rl::scheduler::{FilterConfig, Next, Scheduler, SchedulerConfig};
use dump_rl_fuzz::folder;
use engine::adapter::hash_bytes;
use libfuzzer_sys::fuzz_target;

const UNSEALED: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const LORA: &str = r#"{"r": 1, "lora_alpha": 1.0, "target_modules": [], "peft_type": "LORA", "task_type": "",
    "base_model_name_or_path": "", "bias": "none", "lora_dropout": 0.0}"#;

fuzz_target!(|input: &[u8]| {
    let text = format!(r#"{{"sha256": "{UNSEALED}", {}"#, String::from_utf8_lossy(input));
    let text = text.replacen(UNSEALED, &hash_bytes(text.as_bytes()).0, 1);
    let files: [(&str, &[u8]); 4] = [
        ("state.json", text.as_bytes()),
        ("adapter_config.json", LORA.as_bytes()),
        ("adapter_model.safetensors", b"x"),
        ("optimizer.safetensors", b"x"),
    ];
    let Ok(checkpoint) = Checkpoint::load(folder(files)) else { return };
    checkpoint.last_measured();
    let mut scheduler = scheduler();
    if scheduler.restore(checkpoint.scheduler).is_ok() {
        while let Next::Dispatch(job) = scheduler.next_job() {
            scheduler.observe(job.id, vec![1.0, 0.0], vec![1.0, -1.0], 2);
        }
    }
});

fn scheduler() -> Scheduler {
    let config = SchedulerConfig {
        batch_size: 2,
        max_off_policy_steps: 1,
        max_steps: 4,
        seed: 1,
        curriculum: CurriculumConfig { window: 4, ..CurriculumConfig::default() },
        filter: FilterConfig::default(),
    };
    let sources = ["a", "b"].map(String::from).to_vec();
    let mixture = Mixture { sources, sizes: vec![2, 2], max_steps: 4, batch_size: 2 };
    Scheduler::new(config, mixture).expect("settings that fit")
}
