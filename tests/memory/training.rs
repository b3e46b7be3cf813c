//! The memory of a step on candle's operators, measured in a process that does nothing else.

use candle_core::{Device, Tensor};
use dump_rl::config::trainer::Recompute;
use dump_rl::memory::process::{peak_mb, resident_mb};
use dump_rl::train::memory;
use dump_rl::train::sample::Sample;
use dump_rl::train::trainer::Trainer;
use engine::decoder::{DecoderConfig, Weights};

use crate::trainer::{adapter, settings_of};

const VOCABULARY: &str = "DUMP_RL_TEST_VOCABULARY";
const PROMPT: usize = 64;
const COMPLETION: usize = 1000;

/// What is predicted for a GPU, once where the head takes most of the memory, and once where a block does.
#[test]
fn memory_of_plain_operators_is_predicted() {
    for vocabulary in [2048, 16384] {
        let test = ["--exact", "memory::training::a_step_in_its_own_process", "--ignored", "--nocapture"];
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(test).env(VOCABULARY, vocabulary.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let measured = said.lines().find_map(|line| line.split("took ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
        let measured = measured.unwrap_or_else(|| panic!("no measurement: {said}"));
        // Two completions, each in its own micro-batch. They are computed together if there are two cores.
        let training = memory::Training {
            workers: std::thread::available_parallelism().unwrap().get().min(2),
            micro_batch_tokens: usize::MAX,
            recompute: Recompute::Always,
            plain: true,
            number: 4,
        };
        let (prompts, group_size, prompt_tokens, new_tokens) = (1, 2, PROMPT, COMPLETION);
        let batch = memory::Batch { prompts, group_size, prompt_tokens, new_tokens, fewest_tokens: new_tokens };
        let predicted = training.activation_bytes(&wide_config(vocabulary), batch) as f64 / 1e6;
        println!("{vocabulary} tokens: {predicted:.0} MB predicted, {measured:.0} MB measured");
        let ratio = predicted / measured;
        assert!((0.9..1.3).contains(&ratio), "{vocabulary} tokens: {predicted} MB predicted, {measured} MB measured");
    }
}

fn wide_config(vocabulary: usize) -> DecoderConfig {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": 256,
        "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    });
    DecoderConfig::parse(&config.to_string()).unwrap()
}

#[test]
#[ignore = "run by another test"]
fn a_step_in_its_own_process() {
    let config = wide_config(std::env::var(VOCABULARY).expect(VOCABULARY).parse().unwrap());
    let random = |_: &str, shape: &[usize]| Ok(Tensor::randn(0f32, 0.02, shape, &Device::Cpu)?);
    let weights = Weights::from_named(&config, random).unwrap();
    let settings = settings_of(|trainer| {
        (trainer.micro_batch_tokens, trainer.recompute) = (usize::MAX, Recompute::Always);
    });
    let mut trainer =
        Trainer::new(Device::Cpu, config, weights, adapter().config, settings, 1).unwrap().on_plain_operators();
    let sample = |advantage| Sample {
        group: 0,
        source: 0,
        prompt: vec![1; PROMPT].into(),
        completion: vec![2; COMPLETION],
        rollout_log_probs: vec![-7.0; COMPLETION],
        advantage,
        policy_step: 0,
        truncated: false,
    };
    let before = resident_mb();
    trainer.step(0, &[sample(1.0), sample(-1.0)]).unwrap();
    println!("took {} MB", peak_mb() - before);
}
