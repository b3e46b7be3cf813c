//! Our own engine, by its CPU kernels and by candle's operators.

use std::path::Path;
use std::sync::Arc;

use dump_rl::train::trainer::Trainer;
use engine::decoder::{DecoderConfig, Weights};
use engine::native::{Native, NativeSettings};
use engine::{EngineError, Precision};

use super::checks::{
    check_cuts, check_endings, check_log_probs, check_publish, check_repeatable, check_suspension, check_versions,
};
use super::{generate_together, samples, trainer};
use crate::fixtures::model::TinyModel;
use crate::fixtures::root;

pub fn native(model: &Path, trainer: &Trainer) -> Arc<Native> {
    native_in(Precision::F32, model, trainer)
}

fn native_in(precision: Precision, model: &Path, trainer: &Trainer) -> Arc<Native> {
    native_by(Native::start, precision, model, trainer)
}

/// The engine as it computes on a GPU.
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

#[tokio::test(flavor = "multi_thread")]
async fn log_probs_agree_with_the_trainer_before_and_after_publishes() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    check_publish(native(model.path(), &trainer), trainer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_repeatable_and_end_where_they_should() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let engine = native(model.path(), &trainer);
    check_repeatable(engine.clone()).await;
    check_endings(engine.clone()).await;
    check_cuts(engine.clone(), &trainer).await;
    check_versions(engine, trainer.adapter().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_operators_it_keeps_the_same_guarantees() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    let engine = native_on_operators(model.path(), &trainer);
    check_endings(engine.clone()).await;
    check_cuts(engine.clone(), &trainer).await;
    check_versions(engine.clone(), trainer.adapter().unwrap()).await;
    check_publish(native_on_operators(model.path(), &trainer), trainer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_operators_its_cache_is_freed_and_allocated_again() {
    let model = TinyModel::new();
    let trainer = trainer(model.path());
    check_suspension(native_on_operators(model.path(), &trainer), trainer).await;
}

/// In bf16 too, a request gets the same bits alone and in a batch. Log-probabilities stay near those of f32 (docs/benchmarks.md has
/// the figures of a real model). On a CPU without bf16 the engine computes in f32, and the test passes more easily.
#[tokio::test(flavor = "multi_thread")]
async fn bf16_stays_near_f32() {
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
async fn the_shipped_model_agrees_with_the_trainer() {
    let model = root().join("data/kk-tiny");
    let trainer = trainer(&model);
    check_log_probs(&native(&model, &trainer), &trainer, 0).await;
}
