//! Candle's own operators in place of the fused ones, as a GPU computes a step, with every number in f32.

use dump_rl::config::loss::LossKind;
use dump_rl::config::trainer::Recompute;
use dump_rl::train::trainer::{Trainer, TrainerSettings};

use super::{
    TOLERANCE, batch, check, check_adapter, check_log_probs, check_mismatch, check_tensors, expected, gradients_of,
    metric, settings, settings_of, settings_with, settings_without_kl, tensors, trainer, unclipped,
};

fn plain_trainer(settings: TrainerSettings) -> Trainer {
    trainer(settings).on_plain_operators()
}

#[test]
fn a_step_on_plain_operators_is_that_of_pytorch() {
    check_log_probs(&plain_trainer(settings()).score(&batch()).unwrap(), &expected().log_probs);
    for recompute in [Recompute::Always, Recompute::Never] {
        let settings = settings_of(|trainer| trainer.recompute = recompute);
        let grads = gradients_of(plain_trainer(unclipped(settings.clone())), &batch());
        check_tensors(&grads, &tensors("grads_token-mean.safetensors"), TOLERANCE);
        let output = plain_trainer(settings).step(0, &batch()).unwrap();
        check_adapter(&output.adapter, &tensors("after1.safetensors"), TOLERANCE);
        check_mismatch(&output.stats, &expected());
        let losses = &expected().losses["token-mean"];
        for name in ["pg_loss", "kl_loss", "grad_norm"] {
            check(name, metric(&output.stats, &format!("actor/{name}")), losses[name], TOLERANCE);
        }
    }
    let twice = settings_of(|trainer| trainer.ppo_epochs = 2);
    let output = plain_trainer(twice).step(0, &batch()).unwrap();
    check_adapter(&output.adapter, &tensors("after2.safetensors"), 1e-4);
}

/// Also where completions share a prompt, where entropies have a gradient, and for a loss with one ratio per sequence.
#[test]
fn plain_operators_agree_with_the_fused_ones() {
    let mut samples = batch();
    let prompt = samples[0].prompt.clone();
    samples.iter_mut().for_each(|sample| sample.prompt = prompt.clone());
    let gspo = settings_with(|loss| (loss.kind, loss.entropy_coef) = (LossKind::Gspo, 0.1));
    for settings in [settings(), settings_without_kl(), gspo].map(unclipped) {
        let (mut plain, mut fused) = (plain_trainer(settings.clone()), trainer(settings.clone()));
        check_tensors(
            &gradients_of(plain_trainer(settings.clone()), &samples),
            &gradients_of(trainer(settings), &samples),
            1e-5,
        );
        let [plain, fused] = [&mut plain, &mut fused].map(|trainer| trainer.step(0, &samples).unwrap().stats.metrics());
        for ((name, plain), (_, fused)) in plain.into_iter().zip(fused) {
            assert!((plain - fused).abs() <= 1e-6 + TOLERANCE * fused.abs(), "{name}: {plain} is not {fused}");
        }
    }
}
