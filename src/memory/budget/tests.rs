use engine::{Precision, Quantization};

use super::*;
use crate::config::run::{DeviceKind, EngineConfig};
use crate::presets;

const PROMPT: usize = 600;

/// Qwen2.5-7B in bf16 with a cache of so many MiB.
fn config(cache_mb: usize) -> RunConfig {
    let mut config = RunConfig::default();
    (config.engine.device, config.engine.dtype, config.engine.cache_mb) = (DeviceKind::Cuda, Precision::Bf16, cache_mb);
    (config.engine.max_new_tokens, config.engine.max_sequences) = (2048, 64);
    config.trainer.micro_batch_tokens = 4096;
    config
}

fn model() -> DecoderConfig {
    presets::find("qwen2.5-7b").expect("a preset")
}

fn card(gb: usize) -> Card {
    let bytes = gb * 1000 * MIB;
    Card { total: bytes, free: bytes }
}

#[test]
fn each_mode_needs_what_is_in_memory_together() {
    let mut sizes = Sizes {
        trainer_weights: 1_000,
        adapter: 200,
        activations: 30,
        shares_weights: false,
        engine_weights: 4,
        cache: 50_000,
        sampling: 600_000,
        merging: 7_000_000,
        own: 80_000_000,
    };
    let check = |sizes: &Sizes, sync, generating, training, publishing| {
        assert_eq!(sizes.need(sync), Need { sync, generating, training, publishing });
    };
    check(&sizes, SyncMode::SideBySide, 80_651_204, 80_651_234, 88_301_208);
    check(&sizes, SyncMode::Reload, 80_651_204, 80_651_234, 87_651_204);
    check(&sizes, SyncMode::Alternate, 80_650_204, 80_001_230, 87_050_204);
    // A second adapter, and no second model.
    (sizes.shares_weights, sizes.merging) = (true, 0);
    check(&sizes, SyncMode::SideBySide, 80_651_204, 80_651_234, 80_651_208);
    check(&sizes, SyncMode::Alternate, 80_651_204, 80_001_234, 80_051_208);
}

/// No second copy of the weights, at any time, and nothing to load again.
#[test]
fn the_native_engine_samples_with_the_trainers_weights() {
    let mut config = config(4000);
    config.engine.kind = EngineKind::Native;
    let sizes = Sizes::new(&config, &model(), PROMPT, 4000);
    assert_eq!(sizes.engine_weights, 4 * predict::adapter_parameters(&config, &model()));
    let share = resolve(&config, &model(), PROMPT, card(40)).expect("fits");
    assert_eq!(share, Share { sync: SyncMode::SideBySide, cache_mb: 4000 });
    let mistral =
        RunConfig { engine: EngineConfig { kind: EngineKind::Mistralrs, ..config.engine.clone() }, ..config.clone() };
    assert_eq!(resolve(&mistral, &model(), PROMPT, card(40)).expect("fits").sync, SyncMode::Alternate);
    let text = describe(&config, &model(), PROMPT, None);
    assert!(text.contains("side_by_side") && !text.contains("reload"), "{text}");
    assert_eq!(resolve(&config, &model(), PROMPT, card(24)).expect("fits").sync, SyncMode::Alternate);
    // Where mistral.rs does not fit, this engine is advice.
    let mut tight = mistral;
    tight.engine.sync = SyncMode::SideBySide;
    let advice = advice::fitting_changes(&tight, &model(), PROMPT, card(40)).join("\n");
    assert!(advice.contains("engine.kind"), "{advice}");
}

#[test]
fn auto_takes_the_first_mode_that_fits() {
    let check = |gb, overlap, expected: Option<SyncMode>| {
        let mut config = config(8000);
        config.pipeline.max_off_policy_steps = overlap;
        let share = resolve(&config, &model(), PROMPT, card(gb));
        assert_eq!(share.as_ref().ok().map(|share| share.sync), expected, "{gb} GB: {share:?}");
    };
    check(141, 0, Some(SyncMode::SideBySide));
    check(48, 0, Some(SyncMode::Reload));
    check(40, 0, Some(SyncMode::Alternate));
    check(40, 1, None);
    check(24, 0, None);
}

/// Every change that is advised does fit, and the first says how large the cache may be.
#[test]
fn what_does_not_fit_is_refused_with_changes_that_do() {
    let config = config(40_000);
    let error = resolve(&config, &model(), PROMPT, card(48)).expect_err("too large").to_string();
    assert!(error.contains("engine.sync = \"auto\"") && error.contains("GB are free"), "{error}");
    let mb: usize = error
        .split("engine.cache_mb = ")
        .nth(1)
        .and_then(|rest| rest.split([';', ' ']).next()?.parse().ok())
        .expect("a value");
    let with = |cache_mb| RunConfig { engine: EngineConfig { cache_mb, ..config.engine.clone() }, ..config.clone() };
    assert!(fitting(&with(mb), &model(), PROMPT, card(48)).is_some());
    assert!(fitting(&with(mb + 256), &model(), PROMPT, card(48)).is_none());
    let mut fixed = with(8000);
    fixed.engine.sync = SyncMode::SideBySide;
    let error = resolve(&fixed, &model(), PROMPT, card(48)).expect_err("too large").to_string();
    assert!(error.contains("engine.sync = \"reload\"") && error.contains("engine.sync = \"alternate\""), "{error}");
}

#[test]
fn a_cache_must_hold_one_completion() {
    // 28 layers × 4 heads × 128 × 2 bytes × 2: 57,344 bytes a token.
    assert_eq!(token_bytes(&config(0), &model()), 57_344);
    let error = resolve(&config(100), &model(), PROMPT, card(80)).expect_err("too small").to_string();
    assert!(error.contains("does not hold one completion") && error.contains("engine.cache_mb = "), "{error}");
    assert_eq!(longest_completions(&config(0), &model(), PROMPT, 8000), 8000 / 149);
}

/// In vLLM's sense: weights, cache and activations of the engine are that part of the card.
#[test]
fn a_cache_can_be_what_is_left_of_a_part_of_the_card() {
    let mut config = config(4096);
    config.engine.gpu_memory_utilization = 0.5;
    let (total, mb) = (card(80).total, cache_mb(&config, &model(), PROMPT, card(80).total));
    let Sizes { engine_weights, sampling, cache, .. } = Sizes::new(&config, &model(), PROMPT, mb);
    let used = engine_weights + sampling + cache + CUDA_BYTES;
    assert!(used <= total / 2 && used + MIB > total / 2, "{used} of {total}");
    config.engine.quantization = Quantization::Q4K;
    assert!(cache_mb(&config, &model(), PROMPT, total) > mb + 8000);
}

#[test]
fn packed_matrices_take_less_and_embeddings_stay() {
    let of = |quantization| {
        let mut config = config(0);
        config.engine.quantization = quantization;
        engine_weights(&config, &model()) as f64 * 1e-9
    };
    assert!((of(Quantization::None) - 15.23).abs() < 0.01);
    // 7.07 G numbers in 8.5 bits, 0.545 G of the embedding in 16.
    assert!((of(Quantization::Q8_0) - 8.60).abs() < 0.02, "{}", of(Quantization::Q8_0));
    assert!((of(Quantization::Q4K) - 5.07).abs() < 0.02, "{}", of(Quantization::Q4K));
}
