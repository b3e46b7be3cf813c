//! mistral.rs on a CPU. If CUDA is built in, it does not compute there.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use dump_rl::train::trainer::Trainer;
use dump_rl::train::{lora::Lora, model::Model, ops::Entropy, packed::Packed};
use engine::decoder::{DecoderConfig, Weights};
use engine::mistral::{MistralRs, MistralSettings, Swap};
use engine::{Engine, EngineError, Precision, Quantization};

use super::checks::{
    check_cuts, check_endings, check_log_probs, check_publish, check_repeatable, check_suspension, check_versions,
};
use super::native::native;
use super::{generate_together, next_adapter, request, samples, trainer};
use crate::fixtures::model::TinyModel;
use crate::fixtures::root;

/// The most likely token after the prompt, and after each token of `completion` but the last, by the trainer's forward.
fn most_likely(model: &Path, trainer: &Trainer, prompt: &[u32], completion: &[u32]) -> Vec<u32> {
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
            Tensor::full((prompt.len() - 1 + at) as u32, targets.dims1().unwrap(), &candle_core::Device::Cpu).unwrap();
        let (log_probs, _) = forward.log_probs(&hidden, &positions, &targets, 1.0, Entropy::Detached).unwrap();
        log_probs.argmax(0).unwrap().to_scalar::<u32>().unwrap()
    };
    (0..completion.len()).map(best).collect()
}

async fn mistral(model: &Path, trainer: &Trainer) -> Arc<MistralRs> {
    let settings = MistralSettings::cpu(2);
    Arc::new(MistralRs::load(model, settings, trainer.adapter().unwrap()).await.unwrap())
}

/// With greedy sampling and a trained adapter, both engines draw the most likely tokens of the trainer's forward.
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
        assert_eq!(most_likely(model.path(), &trainer, &request.prompt, &ours), ours);
        assert_eq!(theirs, ours);
    }
}

/// mistral.rs would silently leave the biases out.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_it_computes_differently_is_refused() {
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

#[tokio::test(flavor = "multi_thread")]
async fn bf16_is_refused() {
    let model = TinyModel::new();
    let settings = MistralSettings { precision: Precision::Bf16, ..MistralSettings::cpu(2) };
    let adapter = trainer(model.path()).adapter().unwrap();
    let refused = MistralRs::load(model.path(), settings, adapter).await;
    assert!(matches!(refused.err(), Some(EngineError::Model { .. })));
}

/// The model has a context of 512 tokens, but with this setting dual chunk attention equals plain attention only in the first 64.
#[tokio::test(flavor = "multi_thread")]
async fn completions_end_where_attention_is_no_longer_plain() {
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
async fn log_probs_agree_with_the_trainer_before_and_after_publishes() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    check_publish(mistral(model.path(), &trainer).await, trainer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_repeatable_and_end_where_they_should() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let engine = mistral(model.path(), &trainer).await;
    check_repeatable(engine.clone()).await;
    check_endings(engine.clone()).await;
    check_cuts(engine.clone(), &trainer).await;
    check_versions(engine, trainer.adapter().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_model_agrees_with_the_trainer() {
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
async fn a_reloading_engine_keeps_the_guarantees() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let settings = MistralSettings { swap: Swap::Reload, ..MistralSettings::cpu(2) };
    let engine = Arc::new(MistralRs::load(model.path(), settings, trainer.adapter().unwrap()).await.unwrap());
    check_versions(engine.clone(), trainer.adapter().unwrap()).await;
    check_repeatable(engine).await;
}

/// Packed weights give other log-probabilities than the trainer's, very different ones on random tokens. But a large step of
/// training makes a larger difference, which shows that the adapter was loaded.
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
