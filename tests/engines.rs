//! What every engine must keep (see `engine::Engine`), checked on real engines with a real model.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dump_rl::config::loss::LossConfig;
use dump_rl::config::optim::OptimConfig;
use dump_rl::config::trainer::TrainerConfig;
use dump_rl::train::sample::Sample;
use dump_rl::train::trainer::{Trainer, TrainerSettings};
use engine::adapter::LINEAR_LAYERS;
use engine::decoder::{DecoderConfig, Weights};
use engine::native::{Native, NativeSettings};
use engine::scripted::Scripted;
use engine::seed::mix_seed;
use engine::{
    Completion, Engine, EngineError, Finish, LoraConfig, PolicyVersion, Precision, Request, Sampling, StopStrings,
};

use crate::fixtures::{TinyModel, root};

const TOLERANCE: f64 = 1e-4;

fn trainer(model: &Path) -> Trainer {
    let decoder = DecoderConfig::load(model).unwrap();
    let weights = Weights::load(model, &decoder, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let lora = LoraConfig::new(4, 8.0, LINEAR_LAYERS.map(String::from).to_vec(), "tiny".into());
    let optim = OptimConfig { lr: 0.05, ..OptimConfig::default() };
    let settings = TrainerSettings {
        loss: LossConfig::default(),
        optim,
        trainer: TrainerConfig::default(),
        temperature: 1.0,
        max_new_tokens: 32,
        updates_per_step: 1,
        total_updates: 2,
    };
    Trainer::new(candle_core::Device::Cpu, decoder, weights, Arc::new(lora), settings, 1).unwrap()
}

fn native(model: &Path, trainer: &Trainer) -> Arc<Native> {
    native_in(Precision::F32, model, trainer)
}

fn native_in(precision: Precision, model: &Path, trainer: &Trainer) -> Arc<Native> {
    native_by(Native::start, precision, model, trainer)
}

/// As it computes on a GPU.
fn native_on_operators(model: &Path, trainer: &Trainer) -> Arc<Native> {
    native_by(Native::start_on_operators, Precision::F32, model, trainer)
}

type Start = fn(DecoderConfig, Weights, NativeSettings, engine::Adapter) -> Result<Native, EngineError>;

fn native_by(start: Start, precision: Precision, model: &Path, trainer: &Trainer) -> Arc<Native> {
    let decoder = DecoderConfig::load(model).unwrap();
    let weights = Weights::load(model, &decoder, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let settings = NativeSettings { max_sequences: 10, cache_bytes: 8 << 20, threads: 2, precision };
    Arc::new(start(decoder, weights, settings, trainer.adapter().unwrap()).unwrap())
}

fn request(number: u32, group_size: usize, stop_tokens: &[u32]) -> Request {
    let prompt: Vec<u32> = (0..12 + 5 * number).map(|i| 3 + (i * 7 + number * 31) % 250).collect();
    let sampling = Sampling { max_new_tokens: 32, ..Sampling::new(1.0, stop_tokens.to_vec()) };
    Request { prompt: prompt.into(), group_size, seed: u64::from(number), sampling }
}

/// Several requests at once, each a group of diverging completions.
async fn generate_together<E: Engine>(
    engine: &Arc<E>,
    numbers: std::ops::Range<u32>,
) -> Vec<(Request, Vec<Completion>)> {
    let running: Vec<_> = numbers
        .map(|number| {
            let (engine, request) = (engine.clone(), request(number, 4, &[2]));
            tokio::spawn(async move { (request.clone(), engine.generate(request).await.unwrap()) })
        })
        .collect();
    let mut answers = Vec::new();
    for task in running {
        answers.push(task.await.unwrap());
    }
    answers
}

fn samples(request: &Request, completions: &[Completion]) -> Vec<Sample> {
    let sample = |(i, c): (usize, &Completion)| Sample {
        prompt: request.prompt.clone(),
        completion: c.tokens.clone(),
        rollout_log_probs: c.full_log_probs.clone(),
        advantage: if i % 2 == 0 { 1.0 } else { -1.0 },
        policy_step: c.policy.step,
        truncated: false,
    };
    completions.iter().enumerate().map(sample).collect()
}

/// Several requests at once are answered with whole groups of `version`, in which the completions differ from each other.
async fn check_groups<E: Engine>(engine: &Arc<E>, version: &PolicyVersion) -> Vec<(Request, Vec<Completion>)> {
    let answers = generate_together(engine, 0..4).await;
    for (request, completions) in &answers {
        assert_eq!(completions.len(), request.group_size);
        assert!(completions.iter().any(|c| c.tokens != completions[0].tokens), "the completions do not diverge");
        for completion in completions {
            assert_eq!(completion.tokens.len(), completion.log_probs.len());
            assert_eq!(completion.tokens.len(), completion.full_log_probs.len());
            assert_eq!((&completion.policy, &completion.last_policy), (version, version));
        }
    }
    answers
}

/// The trainer's own forward gives each captured log-probability.
async fn check_log_probs<E: Engine>(engine: &Arc<E>, trainer: &Trainer, step: u64) {
    let version = PolicyVersion { step, adapter: trainer.adapter().unwrap().hash };
    for (request, completions) in check_groups(engine, &version).await {
        let difference = trainer.mismatch(&samples(&request, &completions), step).unwrap().on_policy_max;
        assert!(difference < TOLERANCE, "engine and trainer differ by {difference}");
    }
}

/// Trains a step on the engine's own completions, so that the next adapter differs from the first on every layer.
async fn next_adapter<E: Engine>(engine: &Arc<E>, trainer: &mut Trainer, step: u64) -> engine::Adapter {
    let answers = generate_together(engine, 0..2).await;
    let batch: Vec<Sample> = answers.iter().flat_map(|(request, completions)| samples(request, completions)).collect();
    trainer.step(step, &batch).unwrap().adapter
}

async fn check_publish<E: Engine>(engine: Arc<E>, mut trainer: Trainer) {
    check_log_probs(&engine, &trainer, 0).await;
    for step in 0..2 {
        let before = engine.generate(request(9, 2, &[])).await.unwrap();
        let adapter = next_adapter(&engine, &mut trainer, step).await;
        let (hash, version) = (adapter.hash.clone(), engine.publish(step + 1, adapter).await.unwrap());
        assert_eq!((version.adapter, version.step), (hash, step + 1));
        check_log_probs(&engine, &trainer, step + 1).await;
        let after = engine.generate(request(9, 2, &[])).await.unwrap();
        assert_ne!(before[0].log_probs, after[0].log_probs, "the new adapter changed nothing");
    }
}

async fn check_repeatable<E: Engine>(engine: Arc<E>) {
    let alone = engine.generate(request(1, 4, &[2])).await.unwrap();
    let beside_others = generate_together(&engine, 0..4).await;
    assert_eq!(beside_others[1].1, alone);
    let mut other_seed = request(1, 4, &[2]);
    other_seed.seed = 77;
    assert_ne!(engine.generate(other_seed).await.unwrap(), alone);
}

async fn check_endings<E: Engine>(engine: Arc<E>) {
    let free = engine.generate(request(3, 1, &[])).await.unwrap().remove(0);
    assert_eq!((free.tokens.len(), free.finish), (32, Finish::Length));
    let stop = free.tokens[5];
    let first = free.tokens.iter().position(|token| *token == stop).unwrap();
    let stopped = engine.generate(request(3, 1, &[stop])).await.unwrap().remove(0);
    assert_eq!((&stopped.tokens[..], stopped.finish), (&free.tokens[..=first], Finish::Stop));
    let mut stopped_by_text = request(3, 1, &[2]);
    let pair = format!("<{}><{}>", free.tokens[6], free.tokens[7]);
    let decode = |tokens: &[u32]| tokens.iter().map(|id| format!("<{id}>")).collect();
    stopped_by_text.sampling.stop_strings = StopStrings::new(vec!["<none>".into(), pair], decode);
    let cut = engine.generate(stopped_by_text).await.unwrap().remove(0);
    assert_eq!((&cut.tokens[..], cut.finish), (&free.tokens[..8], Finish::Stop));
    assert_eq!((cut.log_probs.len(), cut.full_log_probs.len()), (8, 8));
    let mut too_long = request(0, 1, &[]);
    too_long.prompt = vec![5; 512].into();
    assert!(matches!(engine.generate(too_long).await, Err(EngineError::PromptLength { tokens: 512, context: 512 })));
    assert_eq!(engine.generate(request(3, 1, &[])).await.unwrap()[0], free, "the engine answers on after an error");
}

/// Completions name the policy that was published last, and nothing is published under a hash that is not its own.
async fn check_versions<E: Engine>(engine: Arc<E>, adapter: engine::Adapter) {
    for step in [1, 2, 7] {
        let version = engine.publish(step, adapter.clone()).await.unwrap();
        assert_eq!((version.step, &version.adapter), (step, &adapter.hash));
        check_groups(&engine, &version).await;
    }
    let changed: Vec<u8> = adapter.bytes.iter().copied().chain([0]).collect();
    let changed = engine::Adapter { bytes: changed.into(), ..adapter.clone() };
    let refused = engine.publish(8, changed).await;
    assert!(matches!(refused, Err(EngineError::WrongAdapter { published, .. }) if published == adapter.hash));
    check_groups(&engine, &PolicyVersion { step: 7, adapter: adapter.hash }).await;
}

/// What runs is answered, what comes later waits for the next policy.
async fn check_suspension<E: Engine>(engine: Arc<E>, mut trainer: Trainer) {
    let adapter = next_adapter(&engine, &mut trainer, 0).await;
    let spawn = || {
        let engine = engine.clone();
        tokio::spawn(async move { engine.generate(request(1, 8, &[])).await.unwrap() })
    };
    let running = spawn();
    tokio::time::sleep(Duration::from_millis(20)).await;
    engine.suspend().await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), running).await;
    let answered = answered.expect("the engine was unloaded while a request ran").unwrap();
    assert!(answered.iter().all(|completion| completion.policy.step == 0));
    engine.suspend().await.unwrap();
    let waiting = spawn();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "there is no policy to answer with");
    engine.publish(1, adapter).await.unwrap();
    assert!(waiting.await.unwrap().iter().all(|completion| completion.policy.step == 1));
    check_log_probs(&engine, &trainer, 1).await;
}

/// Top-k 1 draws what greedy takes, with certainty, and still says how likely the model finds it.
async fn check_cuts<E: Engine>(engine: Arc<E>, trainer: &Trainer) {
    let mut greedy = request(2, 2, &[]);
    greedy.sampling.temperature = 0.0;
    let likeliest = engine.generate(greedy).await.unwrap();
    let mut cut = request(2, 2, &[]);
    cut.sampling.top_k = 1;
    let drawn = engine.generate(cut.clone()).await.unwrap();
    for (drawn, likeliest) in drawn.iter().zip(&likeliest) {
        assert_eq!(drawn.tokens, likeliest.tokens);
        assert!(drawn.log_probs.iter().all(|log_prob| log_prob.abs() < 1e-6));
        let pairs = drawn.full_log_probs.iter().zip(&likeliest.full_log_probs);
        assert!(pairs.into_iter().all(|(drawn, likeliest)| (drawn - likeliest).abs() < 1e-5));
    }
    let difference = trainer.mismatch(&samples(&cut, &drawn), 0).unwrap().on_policy_max;
    assert!(difference < TOLERANCE, "engine and trainer differ by {difference}");
}

/// Tokens that look random and follow from the request alone.
fn scripted() -> Arc<Scripted> {
    let token = |seed: u64, at: usize| 3 + (mix_seed(seed, at as u64) % 250) as u32;
    let script = move |request: &Request, index: usize, _: &PolicyVersion| {
        (0..32).map(|at| token(mix_seed(request.seed, index as u64), at)).collect()
    };
    Arc::new(Scripted::new(script).with_context(512))
}

#[tokio::test]
async fn scripted_keeps_what_real_engines_keep() {
    let base = PolicyVersion { step: 0, adapter: engine::AdapterHash("base".into()) };
    check_groups(&scripted(), &base).await;
    check_repeatable(scripted()).await;
    check_endings(scripted()).await;
    let model = TinyModel::new();
    check_versions(scripted(), trainer(model.path()).adapter().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_log_probs_agree_with_the_trainer_before_and_after_publishes() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    check_publish(native(model.path(), &trainer), trainer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_repeats_itself_and_ends_where_it_should() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let engine = native(model.path(), &trainer);
    check_repeatable(engine.clone()).await;
    check_endings(engine.clone()).await;
    check_cuts(engine.clone(), &trainer).await;
    check_versions(engine, trainer.adapter().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_on_operators_keeps_the_same() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let engine = native_on_operators(model.path(), &trainer);
    check_endings(engine.clone()).await;
    check_cuts(engine.clone(), &trainer).await;
    check_versions(engine.clone(), trainer.adapter().unwrap()).await;
    check_publish(native_on_operators(model.path(), &trainer), trainer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_on_operators_gives_its_cache_back_and_takes_it_again() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    check_suspension(native_on_operators(model.path(), &trainer), trainer).await;
}

/// In bf16, batched is still alone bit for bit, and log-probabilities stay near those of f32 (docs/benchmarks.md
/// has the figures of a real model). Where the CPU has no bf16 the engine computes in f32, and agrees all the more.
#[tokio::test(flavor = "multi_thread")]
async fn native_in_bf16_stays_near_f32() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let engine = native_in(Precision::Bf16, model.path(), &trainer);
    check_repeatable(engine.clone()).await;
    for (request, completions) in generate_together(&engine, 0..4).await {
        let difference = trainer.mismatch(&samples(&request, &completions), 0).unwrap().on_policy_max;
        assert!(difference < 0.05, "bf16 and f32 differ by {difference}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn native_agrees_on_the_shipped_model_too() {
    let model = root().join("data/kk-tiny");
    let trainer = trainer(&model);
    check_log_probs(&native(&model, &trainer), &trainer, 0).await;
}

// On a CPU, where it does not compute with CUDA built in.
#[cfg(all(feature = "mistralrs", not(feature = "cuda")))]
mod mistral {
    use super::*;
    use candle_core::Tensor;
    use dump_rl::train::{lora::Lora, model::Model, ops::Entropy, packed::Packed};
    use engine::Quantization;
    use engine::mistral::{MistralRs, MistralSettings, Swap};
    use std::process::Command;

    /// The likeliest token behind the prompt, and behind each of `completion`'s but the last, in the trainer's own forward.
    fn likeliest(model: &Path, trainer: &Trainer, prompt: &[u32], completion: &[u32]) -> Vec<u32> {
        let config = DecoderConfig::load(model).unwrap();
        let weights = Weights::load(model, &config, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let lora = Lora::from_adapter(&trainer.adapter().unwrap(), &config, &candle_core::Device::Cpu).unwrap();
        let (vocabulary, forward) = (config.vocab_size as u32, Model::new(config, weights));
        let mut packed = Packed::default();
        packed.push(&[prompt, &completion[..completion.len() - 1]].concat());
        let rows = forward.rows(&packed).unwrap();
        let hidden = forward.hidden(&rows, Some(&lora)).unwrap();
        let targets = Tensor::arange(0, vocabulary, &candle_core::Device::Cpu).unwrap();
        let best = |at: usize| {
            let positions =
                Tensor::full((prompt.len() - 1 + at) as u32, targets.dims1().unwrap(), &candle_core::Device::Cpu)
                    .unwrap();
            let (log_probs, _) = forward.log_probs(&hidden, &positions, &targets, 1.0, Entropy::Detached).unwrap();
            log_probs.argmax(0).unwrap().to_scalar::<u32>().unwrap()
        };
        (0..completion.len()).map(best).collect()
    }

    async fn mistral(model: &Path, trainer: &Trainer) -> Arc<MistralRs> {
        let settings = MistralSettings::cpu(2);
        Arc::new(MistralRs::load(model, settings, trainer.adapter().unwrap()).await.unwrap())
    }

    /// Greedy, both engines draw what the trainer's forward finds to be the likeliest, under an adapter that was trained.
    #[tokio::test(flavor = "multi_thread")]
    async fn native_mistral_and_the_trainer_agree_on_greedy_tokens() {
        let model = TinyModel::new();
        let mut trainer = trainer(model.path());
        next_adapter(&native(model.path(), &trainer), &mut trainer, 0).await;
        let (native, mistral) = (native(model.path(), &trainer), mistral(model.path(), &trainer).await);
        for number in 0..4 {
            let mut request = request(number, 1, &[]);
            request.sampling.temperature = 0.0;
            let ours = native.generate(request.clone()).await.unwrap().remove(0).tokens;
            let theirs = mistral.generate(request.clone()).await.unwrap().remove(0).tokens;
            assert_eq!(likeliest(model.path(), &trainer, &request.prompt, &ours), ours);
            assert_eq!(theirs, ours);
        }
    }

    /// mistral.rs would leave the biases out, and nobody would notice.
    #[tokio::test(flavor = "multi_thread")]
    async fn mistral_refuses_a_model_that_it_computes_otherwise() {
        let model = TinyModel::new();
        let adapter = trainer(model.path()).adapter().unwrap();
        let path = model.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["attention_bias"] = true.into();
        std::fs::write(&path, config.to_string()).unwrap();
        let settings = MistralSettings::cpu(1);
        match MistralRs::load(model.path(), settings, adapter).await.err() {
            Some(EngineError::Model { problem, .. }) => assert!(problem.starts_with("attention_bias: "), "{problem}"),
            other => panic!("{other:?}"),
        }
    }

    /// The same model with a context of 512 tokens, of which dual chunk attention is plain in the first 64.
    #[tokio::test(flavor = "multi_thread")]
    async fn mistral_ends_where_attention_is_no_longer_plain() {
        let model = TinyModel::new();
        let trainer = trainer(model.path());
        let path = model.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["dual_chunk_attention_config"] = serde_json::json!({"chunk_size": 64});
        std::fs::write(&path, config.to_string()).unwrap();
        let engine = mistral(model.path(), &trainer).await;
        let mut long = request(0, 1, &[]);
        long.prompt = vec![5; 60].into();
        assert_eq!(engine.generate(long.clone()).await.unwrap()[0].tokens.len(), 4);
        long.prompt = vec![5; 64].into();
        let refused = engine.generate(long).await;
        assert!(matches!(refused, Err(EngineError::PromptLength { tokens: 64, context: 64 })), "{refused:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn mistral_log_probs_agree_with_the_trainer_before_and_after_publishes() {
        let model = TinyModel::new();
        let trainer = trainer(model.path());
        check_publish(mistral(model.path(), &trainer).await, trainer).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn mistral_repeats_itself_and_ends_where_it_should() {
        let model = TinyModel::new();
        let trainer = trainer(model.path());
        let engine = mistral(model.path(), &trainer).await;
        check_repeatable(engine.clone()).await;
        check_endings(engine.clone()).await;
        check_cuts(engine.clone(), &trainer).await;
        check_versions(engine, trainer.adapter().unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_shipped_model_agrees_too() {
        let model = root().join("data/kk-tiny");
        let trainer = trainer(&model);
        check_log_probs(&mistral(&model, &trainer).await, &trainer, 0).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_suspended_engine_waits_for_the_next_policy() {
        for swap in [Swap::SideBySide, Swap::Reload] {
            let model = TinyModel::new();
            let trainer = trainer(model.path());
            let settings = MistralSettings { swap, ..MistralSettings::cpu(2) };
            let engine = MistralRs::load(model.path(), settings, trainer.adapter().unwrap()).await.unwrap();
            check_suspension(Arc::new(engine), trainer).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reloading_engine_keeps_what_every_engine_keeps() {
        let model = TinyModel::new();
        let trainer = trainer(model.path());
        let settings = MistralSettings { swap: Swap::Reload, ..MistralSettings::cpu(2) };
        let engine = Arc::new(MistralRs::load(model.path(), settings, trainer.adapter().unwrap()).await.unwrap());
        check_versions(engine.clone(), trainer.adapter().unwrap()).await;
        check_repeatable(engine).await;
    }

    /// In a process of its own, where nothing else takes memory meanwhile.
    #[test]
    fn a_suspended_engine_holds_no_memory() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["engines::mistral::memory_of_a_suspended_engine", "--exact", "--ignored"]);
        // What is freed goes back at once.
        alone.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_ARENA_MAX", "1");
        let output = alone.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    fn resident_mb() -> f64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "run by the test above, in a process of its own"]
    async fn memory_of_a_suspended_engine() {
        const COPIES: usize = 12;
        let model = root().join("data/kk-tiny");
        let trainer = trainer(&model);
        let adapter = trainer.adapter().unwrap();
        let one_mb = DecoderConfig::load(&model).unwrap().parameters() as f64 * 4.0 / f64::from(1 << 20);
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

    /// Packed matrices differ from the trainer's, on prompts of random tokens by much, but less than a large step of training
    /// makes: the adapter is in them.
    #[tokio::test(flavor = "multi_thread")]
    async fn packed_weights_stay_near_the_trainer_before_and_after_a_publish() {
        let model = root().join("data/kk-tiny");
        for (quantization, near) in [(Quantization::Q8_0, 1.0), (Quantization::Q6K, 4.0), (Quantization::Q4K, 8.0)] {
            let mut trainer = trainer(&model);
            let settings = MistralSettings { quantization, ..MistralSettings::cpu(2) };
            let engine = Arc::new(MistralRs::load(&model, settings, trainer.adapter().unwrap()).await.unwrap());
            let difference = async |trainer: &Trainer, step: u64| {
                let answers = generate_together(&engine, 0..4).await;
                let all = answers.iter().flat_map(|(request, completions)| samples(request, completions));
                trainer.mismatch(&all.collect::<Vec<_>>(), step).unwrap()
            };
            let before = difference(&trainer, 0).await.on_policy_max;
            assert!(before > 1e-4 && before < near, "{quantization:?}: {before}");
            let adapter = next_adapter(&engine, &mut trainer, 0).await;
            let unpublished = difference(&trainer, 0).await.on_policy_max;
            engine.publish(1, adapter).await.unwrap();
            let after = difference(&trainer, 1).await.on_policy_max;
            println!("{quantization:?}: {before} before, {after} after a publish, {unpublished} without it");
            assert!(after < near && after < 0.5 * unpublished, "{quantization:?}: {after} of {unpublished}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn mistral_refuses_bf16_on_a_cpu() {
        let model = TinyModel::new();
        let settings = MistralSettings { precision: Precision::Bf16, ..MistralSettings::cpu(2) };
        let adapter = trainer(model.path()).adapter().unwrap();
        let refused = MistralRs::load(model.path(), settings, adapter).await;
        assert!(matches!(refused.err(), Some(EngineError::Model { .. })));
    }

    /// 200 real steps, each with a publish: the memory that a replaced model held comes back.
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_dump-rl"));
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
        // Means over ten steps: what is freed goes back to the system only after a second.
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (early, late) = (mean(&memory_mb[5..15]), mean(&memory_mb[190..]));
        // A policy that was kept would add two copies of the model, of 5.6 MB each, at every publish: 2 GB. What does stay
        // is the thread that mistral.rs 0.8.1 leaves behind for each model, twice some 0.2 MB, and what the allocator keeps.
        let growth = (late - early) / 190.0;
        assert!(growth < 1.0, "{growth} MB a publish: {early} MB after 10, {late} MB after 200");
    }
}
