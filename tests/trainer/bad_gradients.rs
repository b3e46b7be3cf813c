//! NaN and infinity in a batch, and the learning rate across steps that made no update.

use dump_rl::config::loss::RolloutIs;
use dump_rl::train::lr_schedule::learning_rate;
use dump_rl::train::sample::Sample;
use dump_rl::train::trainer::TrainerSettings;

use super::{
    batch, check, check_tensors, metric, settings, settings_of, settings_with, settings_without_kl, trainer,
    trainer_gradients,
};

/// Checks that a batch with one bad sample makes no update, and that the next step is the one that would have been made without it.
fn check_skipped(settings: TrainerSettings, change: impl Fn(&mut Sample)) {
    let mut samples = batch();
    change(&mut samples[0]);
    let mut skipping = trainer(settings.clone());
    let before = skipping.adapter().unwrap().hash;
    let output = skipping.step(0, &samples).unwrap();
    assert_eq!(output.stats.skipped_updates, settings.trainer.ppo_epochs);
    assert_eq!(output.adapter.hash, before);
    assert_eq!(skipping.state().unwrap().updates, 0);
    let next = skipping.step(1, &batch()).unwrap();
    assert_eq!(next.stats.skipped_updates, 0);
    assert_eq!(next.adapter.hash, trainer(settings).step(1, &batch()).unwrap().adapter.hash);
}

#[test]
fn a_nan_leaves_the_policy_as_it_was() {
    let twice = settings_of(|trainer| trainer.ppo_epochs = 2);
    let uncorrected = settings_with(|loss| (loss.rollout_is, loss.kl_loss_coef) = (RolloutIs::None, 0.0));
    for settings in [settings(), settings_without_kl(), twice, uncorrected] {
        check_skipped(settings.clone(), |sample| sample.advantage = f32::NAN);
        check_skipped(settings.clone(), |sample| sample.advantage = f32::INFINITY);
        if settings.loss.rollout_is == RolloutIs::Truncate {
            check_skipped(settings, |sample| sample.rollout_log_probs[3] = f32::NAN);
        }
    }
}

/// An engine that gives a sampled token probability 0 is wrong, but the token's weight is truncated like any other.
#[test]
fn an_infinite_importance_weight_is_truncated() {
    let gradients = |log_prob| {
        let mut samples = batch();
        samples[0].rollout_log_probs[3] = log_prob;
        trainer_gradients(settings(), &samples)
    };
    check_tensors(&gradients(f32::NEG_INFINITY), &gradients(-60.0), 1e-9);
}

/// The schedule follows the planned updates: through steps without a gradient, with one that is not finite, and with fewer
/// groups than planned.
#[test]
fn the_learning_rate_follows_the_plan() {
    let mut settings = settings_of(|trainer| trainer.ppo_mini_batch_size = 1);
    settings.loss.kl_loss_coef = 0.0;
    (settings.updates_per_step, settings.total_updates, settings.optim.warmup_steps) = (5, 100, 50);
    let (optim, good) = (settings.optim.clone(), batch());
    let with = |change: fn(&mut Sample)| {
        let mut samples = batch();
        samples.iter_mut().for_each(change);
        samples
    };
    let mut one_group = batch();
    one_group.retain(|sample| sample.group == 0);
    let steps = [with(|s| s.advantage = 0.0), with(|s| s.advantage = f32::NAN), one_group, good];
    let mut trainer = trainer(settings);
    // The planned number of the last update that each step makes. A step has five groups, but the third has only one.
    for (step, (samples, update)) in steps.iter().zip([4, 9, 10, 19]).enumerate() {
        let stats = trainer.step(step as u64, samples).unwrap().stats;
        check("lr", metric(&stats, "actor/lr"), learning_rate(&optim, update, 100), 1e-12);
    }
}
