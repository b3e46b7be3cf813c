//! A step does not depend on how its batch is cut, and some changes to a batch change nothing.

use dump_rl::config::loss::LossConfig;
use dump_rl::config::trainer::Recompute;
use dump_rl::train::memory;
use dump_rl::train::sample::Sample;
use dump_rl::train::sketch::sketch;
use dump_rl::train::trainer::TrainerSettings;

use super::{
    MODES, TOLERANCE, batch, check_mismatch, check_tensors, expected, metric, model, settings, settings_of,
    settings_with, settings_without_kl, trainer, trainer_gradients, unclipped,
};

/// Two updates of about 1e-3 per entry differ only by rounding, which AdamW enlarges where a gradient is near 0.
#[test]
fn how_the_batch_is_cut_does_not_change_the_step() {
    let cut = |tokens| {
        let mut cut = settings_of(|trainer| (trainer.micro_batch_tokens, trainer.ppo_epochs) = (tokens, 2));
        cut.optim.lr = 1e-3;
        cut
    };
    check_tensors(&trainer_gradients(cut(64), &batch()), &trainer_gradients(cut(4096), &batch()), TOLERANCE);
    let step = |tokens| trainer(cut(tokens)).step(0, &batch()).unwrap().adapter.tensors().unwrap();
    let (small, large) = (step(64), step(4096));
    for (name, want) in &large {
        let difference = (&small[name] - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(difference < 1e-6, "{name} differs by {difference}");
    }
}

/// Blocks that are computed again give the same bits as blocks that were kept.
#[test]
fn recomputing_changes_no_bit() {
    let step = |recompute| {
        let mut trainer = trainer(settings_of(|trainer| (trainer.recompute, trainer.ppo_epochs) = (recompute, 2)));
        let output = trainer.step(0, &batch()).unwrap();
        (output.adapter.hash, output.stats.metrics())
    };
    assert_eq!(step(Recompute::Always), step(Recompute::Never));
}

/// A sequence is never cut, so a micro-batch may have more rows than its budget. Its rows decide, not the budget.
#[test]
fn the_rows_of_a_micro_batch_decide_whether_it_is_computed_again() {
    let limit = memory::of_machine() / 4 / memory::kept_bytes(&model().config, 1);
    let auto = trainer(settings());
    assert!(!auto.recomputes(1) && auto.recomputes(limit + 1));
    let never = trainer(settings_of(|trainer| trainer.recompute = Recompute::Never));
    assert!(!never.recomputes(limit + 1));
}

/// Completions of one prompt share its rows in a micro-batch. In separate micro-batches each has rows for the prompt.
#[test]
fn sharing_a_prompt_does_not_change_the_gradients() {
    let mut samples = batch();
    let (prompt, other) = (samples[0].prompt.clone(), samples[1].clone());
    samples.iter_mut().for_each(|sample| sample.prompt = prompt.clone());
    let shared = trainer_gradients(settings(), &samples);
    // A budget of one token: every completion has its own micro-batch.
    let apart = settings_of(|trainer| trainer.micro_batch_tokens = 1);
    check_tensors(&shared, &trainer_gradients(apart, &samples), TOLERANCE);
    assert_ne!(other.prompt, prompt, "the batch must have several prompts");
}

/// Two updates on halves of the batch: both halves are compared with the first policy, and the second sees the first update.
#[test]
fn mini_batches_update_one_after_the_other() {
    let halves = settings_of(|trainer| trainer.ppo_mini_batch_size = groups(&batch()).div_ceil(2));
    let mut trainer_of_halves = trainer(halves);
    let output = trainer_of_halves.step(0, &batch()).unwrap();
    assert_eq!(trainer_of_halves.state().unwrap().updates, 2);
    check_mismatch(&output.stats, &expected());
    assert!(metric(&output.stats, "actor/ppo_kl") != 0.0, "the second half did not see the first update");
}

fn groups(samples: &[Sample]) -> usize {
    samples.chunk_by(|a, b| a.group == b.group).count()
}

/// A batch may draw a prompt several times. Neighbours that share it are still two groups, with an update each.
#[test]
fn groups_with_equal_prompts_are_counted_apart() {
    let mut samples = batch();
    let groups = groups(&samples);
    let prompt = samples[0].prompt.clone();
    samples.iter_mut().for_each(|sample| sample.prompt = prompt.clone());
    for (size, updates) in [(1, groups), (2, groups.div_ceil(2)), (0, 1)] {
        let mut trainer = trainer(settings_of(|trainer| trainer.ppo_mini_batch_size = size));
        trainer.step(0, &samples).unwrap();
        assert_eq!(trainer.state().unwrap().updates, updates as u64, "{size} groups of {groups}");
    }
}

#[test]
fn truncated_completions_can_be_left_out() {
    let mut samples = batch();
    samples[0].truncated = true;
    let masked = trainer_gradients(settings_with(|loss| loss.mask_truncated = true), &samples);
    check_tensors(&masked, &trainer_gradients(settings(), &samples[1..]), TOLERANCE);
}

/// A tiny KL term has no visible effect, but with it no completion is left out.
#[test]
fn leaving_out_completions_without_advantage_changes_nothing() {
    for (mode, _) in MODES {
        let gradients = |kl_loss_coef| {
            let change = |loss: &mut LossConfig| (loss.kl_loss_coef, loss.loss_agg_mode) = (kl_loss_coef, mode);
            trainer_gradients(settings_with(change), &batch())
        };
        check_tensors(&gradients(0.0), &gradients(1e-12), 1e-5);
    }
}

#[test]
fn a_batch_without_any_advantage_changes_nothing() {
    let mut samples = batch();
    samples.iter_mut().for_each(|sample| sample.advantage = 0.0);
    let mut trainer = trainer(settings_without_kl());
    let before = trainer.adapter().unwrap().hash;
    let output = trainer.step(0, &samples).unwrap();
    assert_eq!(output.adapter.hash, before);
    assert_eq!(output.stats.skipped_updates, 0);
    assert_eq!(trainer.state().unwrap().updates, 0);
}

#[test]
fn without_a_token_to_train_on_there_is_no_entropy() {
    let mut samples = batch();
    samples.iter_mut().for_each(|sample| sample.advantage = 0.0);
    let stats = trainer(settings_without_kl()).step(0, &samples).unwrap().stats;
    assert!(stats.metrics().iter().all(|(name, _)| *name != "actor/entropy"));
}

/// Every second group is of another distribution. The sketch of each is that of the gradient that its groups have alone.
#[test]
fn gradients_are_sketched_by_distribution() {
    let mut samples = batch();
    samples.iter_mut().for_each(|sample| sample.source = sample.group as usize % 2);
    let settings = unclipped(settings_without_kl());
    let sketching = TrainerSettings { sketches_gradients: true, ..settings.clone() };
    check_tensors(
        &trainer_gradients(sketching.clone(), &samples),
        &trainer_gradients(settings.clone(), &samples),
        TOLERANCE,
    );
    let sketches = trainer(sketching).step(0, &samples).unwrap().stats.gradients;
    assert_eq!(sketches.keys().copied().collect::<Vec<_>>(), [0, 1]);
    for (source, found) in sketches {
        let mut alone = samples.clone();
        alone.iter_mut().filter(|sample| sample.source != source).for_each(|sample| sample.advantage = 0.0);
        let expected = sketch(&trainer_gradients(settings.clone(), &alone)).unwrap();
        let norm = |values: &[f32]| values.iter().map(|it| it * it).sum::<f32>().sqrt();
        let difference: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        assert!(
            norm(&expected) > 0.0 && norm(&difference) < 1e-3 * norm(&expected),
            "{source}: {found:?}, not {expected:?}"
        );
    }
    assert!(trainer(settings).step(0, &samples).unwrap().stats.gradients.is_empty());
}
