//! A policy step compared with PyTorch, transformers and PEFT.

use candle_core::{DType, Device};
use dump_rl::train::trainer::Trainer;
use dump_rl::train::trainer::state::TrainerState;
use engine::decoder::Weights;

use super::{
    HALF_TOLERANCE, MODES, TOLERANCE, adapter, batch, check, check_adapter, check_log_probs, check_mismatch,
    check_tensors, expected, fresh_trainer, golden, gradients_of, metric, model, settings, settings_of, settings_with,
    tensors, trainer, trainer_gradients, unclipped,
};

#[test]
fn log_probs_are_those_of_transformers_and_peft() {
    check_log_probs(&trainer(settings()).score(&batch()).unwrap(), &expected().log_probs);
    check_log_probs(&fresh_trainer(settings()).score(&batch()).unwrap(), &expected().base_log_probs);
}

#[test]
fn losses_and_entropy_are_those_of_pytorch() {
    for (mode, name) in MODES {
        let (expected, mut trainer) = (expected(), trainer(settings_with(|loss| loss.loss_agg_mode = mode)));
        let stats = trainer.step(0, &batch()).unwrap().stats;
        let losses = &expected.losses[name];
        check("pg_loss", metric(&stats, "actor/pg_loss"), losses["pg_loss"], TOLERANCE);
        check("kl_loss", metric(&stats, "actor/kl_loss"), losses["kl_loss"], TOLERANCE);
        check("grad_norm", metric(&stats, "actor/grad_norm"), losses["grad_norm"], TOLERANCE);
        check("entropy", metric(&stats, "actor/entropy"), expected.entropy, TOLERANCE);
        check_mismatch(&stats, &expected);
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    for (mode, name) in MODES {
        let want = tensors(&format!("grads_{name}.safetensors"));
        check_tensors(&trainer_gradients(settings_with(|loss| loss.loss_agg_mode = mode), &batch()), &want, TOLERANCE);
    }
}

#[test]
fn an_update_is_that_of_pytorch() {
    let mut trainer = trainer(settings());
    let output = trainer.step(0, &batch()).unwrap();
    check_adapter(&output.adapter, &tensors("after1.safetensors"), TOLERANCE);
    assert_eq!(output.adapter.hash, trainer.adapter().unwrap().hash);
}

/// In the second update the ratio to the log-probabilities from before the first is no longer 1, and is clipped.
#[test]
fn two_updates_on_a_batch_are_those_of_pytorch() {
    let output = trainer(settings_of(|trainer| trainer.ppo_epochs = 2)).step(0, &batch()).unwrap();
    check_adapter(&output.adapter, &tensors("after2.safetensors"), 1e-4);
    check_mismatch(&output.stats, &expected());
    let updates = expected().updates;
    for (name, key) in [
        ("actor/pg_loss", "pg_loss"),
        ("actor/kl_loss", "kl_loss"),
        ("actor/pg_clipfrac", "clip_fraction"),
        ("actor/grad_norm", "grad_norm"),
    ] {
        let mean = updates.iter().map(|update| update[key]).sum::<f64>() / updates.len() as f64;
        check(name, metric(&output.stats, name), mean, TOLERANCE);
    }
}

/// Frozen weights and activations have 16 bits, as on a GPU. candle multiplies f16 on a CPU, but not bf16. The adapter, its
/// gradients and its moments stay in f32.
#[test]
fn frozen_weights_may_have_16_bits() {
    let settings = unclipped(settings());
    let weights = Weights::load(&golden("model"), &model().config, DType::F16, &Device::Cpu).unwrap();
    let half = || {
        let fresh =
            Trainer::new(Device::Cpu, model().config, weights.clone(), adapter().config, settings.clone(), 1).unwrap();
        let state = TrainerState { adapter: adapter(), ..fresh.state().unwrap() };
        fresh.restore(&state).unwrap()
    };
    let grads = gradients_of(half(), &batch());
    check_tensors(&grads, &tensors("grads_token-mean.safetensors"), f64::from(HALF_TOLERANCE));
    let mut half = half();
    for (got, want) in half.score(&batch()).unwrap().iter().flatten().zip(expected().log_probs.iter().flatten()) {
        assert!((got - want).abs() < HALF_TOLERANCE, "{got} is not {want}");
    }
    let output = half.step(0, &batch()).unwrap();
    let losses = &expected().losses["token-mean"];
    check("grad_norm", metric(&output.stats, "actor/grad_norm"), losses["grad_norm"], f64::from(HALF_TOLERANCE));
    assert!(output.adapter.tensors().unwrap().values().all(|tensor| tensor.dtype() == DType::F32));
    let moments = candle_core::safetensors::load_buffer(&half.state().unwrap().optimizer, &Device::Cpu).unwrap();
    assert!(moments.values().all(|moment| moment.dtype() == DType::F32));
}
