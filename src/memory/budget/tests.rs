use engine::{Precision, Quantization};

use super::*;
use crate::config::engine::{DeviceKind, EngineConfig, EngineKind};
use crate::config::resolve::Machine;
use crate::config::run::RunConfig;
use crate::model::presets;

const PROMPT: usize = 600;

/// Qwen2.5-7B in bf16 in mistral.rs, with a cache of `cache_mb` MiB.
fn config(cache_mb: usize) -> RunConfig {
    let mut config = RunConfig::default();
    (config.engine.device, config.engine.dtype, config.engine.cache_mb) = (DeviceKind::Cuda, Precision::Bf16, cache_mb);
    config.engine.kind = EngineKind::Mistralrs;
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

/// The run on a card of `gb` GB.
fn on<'a>(config: &'a RunConfig, model: &'a DecoderConfig, gb: usize) -> Workload<'a> {
    let machine = Machine { cores: 16, has_bf16: false, card: Some(card(gb)) };
    Workload::new(config, model, machine, PROMPT).expect("settings that the engine has")
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
    let check = |sizes: &Sizes, sharing, generating, training, publishing| {
        assert_eq!(sizes.need(sharing), Need { sharing, generating, training, publishing });
    };
    check(&sizes, Sharing::SideBySide, 80_651_204, 80_651_234, 88_301_208);
    check(&sizes, Sharing::Reload, 80_651_204, 80_651_234, 87_651_204);
    check(&sizes, Sharing::Alternate, 80_650_204, 80_001_230, 87_050_204);
    // A second adapter, and no second model.
    (sizes.shares_weights, sizes.merging) = (true, 0);
    check(&sizes, Sharing::SideBySide, 80_651_204, 80_651_234, 80_651_208);
    check(&sizes, Sharing::Alternate, 80_651_204, 80_001_234, 80_051_208);
}

/// There is never a second copy of the weights, and nothing is loaded again.
#[test]
fn the_native_engine_samples_with_the_trainers_weights() {
    let mut config = config(4000);
    config.engine.kind = EngineKind::Native;
    let model = model();
    let sizes = Sizes::new(&on(&config, &model, 40), 4000);
    assert_eq!(sizes.engine_weights, 4 * predict::adapter_parameters(&config, &model));
    let sharing = |config: &RunConfig, gb| on(config, &model, gb).fit().expect("fits").sharing;
    assert_eq!(sharing(&config, 40), Sharing::SideBySide);
    assert_eq!(on(&config, &model, 40).fit().expect("fits").cache_mb, 4000);
    let mistral =
        RunConfig { engine: EngineConfig { kind: EngineKind::Mistralrs, ..config.engine.clone() }, ..config.clone() };
    assert_eq!(sharing(&mistral, 40), Sharing::Alternate);
    let nowhere =
        Workload { machine: Machine { card: None, ..on(&config, &model, 40).machine }, ..on(&config, &model, 40) };
    let text = describe(&nowhere);
    assert!(text.contains("side_by_side") && !text.contains("reload"), "{text}");
    assert_eq!(sharing(&config, 24), Sharing::Alternate);
    // If mistral.rs does not fit, this engine is advised.
    let mut tight = mistral;
    tight.engine.sync = Sharing::SideBySide.into();
    let advice = advice::fitting_changes(&on(&tight, &model, 40), card(40)).join("\n");
    assert!(advice.contains("engine.kind"), "{advice}");
}

#[test]
fn auto_takes_the_first_mode_that_fits() {
    let check = |gb, overlap, expected: Option<Sharing>| {
        let mut config = config(8000);
        config.pipeline.max_off_policy_steps = overlap;
        let model = model();
        let resolved = on(&config, &model, gb).fit();
        assert_eq!(resolved.as_ref().ok().map(|it| it.sharing), expected, "{gb} GB: {resolved:?}");
    };
    check(141, 0, Some(Sharing::SideBySide));
    check(48, 0, Some(Sharing::Reload));
    check(40, 0, Some(Sharing::Alternate));
    check(40, 1, None);
    check(24, 0, None);
}

/// Every advised change fits. The first one gives the largest cache.
#[test]
fn what_does_not_fit_is_refused_with_changes_that_do() {
    let (config, model) = (config(40_000), model());
    let error = on(&config, &model, 48).fit().expect_err("too large").to_string();
    assert!(error.contains("engine.sync = \"auto\"") && error.contains("GB are free"), "{error}");
    let mb: usize = error
        .split("engine.cache_mb = ")
        .nth(1)
        .and_then(|rest| rest.split([';', ' ']).next()?.parse().ok())
        .expect("a value");
    let with = |cache_mb| RunConfig { engine: EngineConfig { cache_mb, ..config.engine.clone() }, ..config.clone() };
    assert!(on(&with(mb), &model, 48).fit().is_ok());
    assert!(on(&with(mb + 256), &model, 48).fit().is_err());
    let mut fixed = with(8000);
    fixed.engine.sync = Sharing::SideBySide.into();
    let error = on(&fixed, &model, 48).fit().expect_err("too large").to_string();
    assert!(error.contains("engine.sync = \"reload\"") && error.contains("engine.sync = \"alternate\""), "{error}");
}

#[test]
fn a_cache_must_hold_one_completion() {
    // 28 layers × 4 heads × 128 × 2 bytes × 2: 57,344 bytes a token.
    let model = model();
    assert_eq!(token_bytes(&on(&config(0), &model, 80)), 57_344);
    let error = on(&config(100), &model, 80).fit().expect_err("too small").to_string();
    assert!(error.contains("does not hold one completion") && error.contains("engine.cache_mb = "), "{error}");
    assert_eq!(longest_completions(&on(&config(0), &model, 80), 8000), 8000 / 149);
}

/// As in vLLM: weights, cache and activations of the engine together take that part of the card.
#[test]
fn a_cache_can_be_what_is_left_of_a_part_of_the_card() {
    let mut config = config(4096);
    config.engine.gpu_memory_utilization = 0.5;
    let (model, total) = (model(), card(80).total);
    let mb = cache_mb(&on(&config, &model, 80), total);
    let Sizes { engine_weights, sampling, cache, .. } = Sizes::new(&on(&config, &model, 80), mb);
    let used = engine_weights + sampling + cache + CUDA_BYTES;
    assert!(used <= total / 2 && used + MIB > total / 2, "{used} of {total}");
    config.engine.quantization = Quantization::Q4K;
    assert!(cache_mb(&on(&config, &model, 80), total) > mb + 8000);
}

#[test]
fn packed_matrices_take_less_and_embeddings_stay() {
    let of = |quantization| {
        let mut config = config(0);
        config.engine.quantization = quantization;
        engine_weights(&on(&config, &model(), 80)) as f64 * 1e-9
    };
    assert!((of(Quantization::None) - 15.23).abs() < 0.01);
    // 7.07 G numbers in 8.5 bits, 0.545 G of the embedding in 16.
    assert!((of(Quantization::Q8_0) - 8.60).abs() < 0.02, "{}", of(Quantization::Q8_0));
    assert!((of(Quantization::Q4K) - 5.07).abs() < 0.02, "{}", of(Quantization::Q4K));
}
