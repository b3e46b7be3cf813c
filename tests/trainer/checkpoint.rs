//! Adapters read and written, and a trainer restored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use dump_rl::train::lora::Lora;
use dump_rl::train::trainer::state::TrainerState;
use engine::{Adapter, LoraConfig};
use tokio::sync::watch;

use super::{adapter, batch, fresh_trainer, model, settings, settings_of, trainer};

fn bits(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<&str, (Vec<usize>, Vec<u32>)> {
    let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits()).collect();
    tensors.iter().map(|(name, x)| (name.as_str(), (x.dims().to_vec(), bits(x)))).collect()
}

/// PEFT's file has a metadata entry that ours does not have, so only the tensors have the same bits. Our own file, read and
/// written again, is the same file.
#[test]
fn an_adapter_survives_reading_and_writing_bit_for_bit() {
    let (config, peft) = (model().config, adapter());
    let rewrite = |adapter: &Adapter| Lora::from_adapter(adapter, &config, &Device::Cpu).unwrap().to_adapter().unwrap();
    let ours = rewrite(&peft);
    assert_eq!(bits(&ours.tensors().unwrap()), bits(&peft.tensors().unwrap()));
    let again = rewrite(&ours);
    assert_eq!(again.bytes, ours.bytes);
    assert_eq!(again.hash, ours.hash);
}

/// The message names what was expected and what was found.
#[test]
fn an_adapter_with_other_settings_is_refused() {
    let refused = |change: &dyn Fn(&mut LoraConfig), words: [&str; 3]| {
        let mut config = (*adapter().config).clone();
        change(&mut config);
        let fresh = fresh_trainer(settings());
        let adapter = Adapter::new(Arc::new(config), adapter().bytes.to_vec());
        let state = TrainerState { adapter, ..fresh.state().unwrap() };
        let error = fresh.restore(&state).err().expect("a refusal").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let found = |what| format!("found {what}");
    refused(&|c| c.r = 2, ["rank", "expected 4", &found("2")]);
    refused(&|c| c.lora_alpha = 3.0, ["alpha", "expected 8", &found("3")]);
    refused(&|c| drop(c.target_modules.pop()), ["target modules", "expected", "found"]);
}

/// The settings are right, but a tensor is missing, unknown or of another shape.
#[test]
fn an_adapter_with_other_tensors_is_refused() {
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>), words: [&str; 2]| {
        let mut tensors = adapter().tensors().unwrap();
        change(&mut tensors);
        let bytes = dump_rl::train::tensors_to_bytes(&tensors).unwrap();
        let fresh = fresh_trainer(settings());
        let state = TrainerState { adapter: Adapter::new(adapter().config, bytes), ..fresh.state().unwrap() };
        let error = fresh.restore(&state).err().expect("a refusal").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    const NAME: &str = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight";
    refused(&|tensors| drop(tensors.remove(NAME)), [NAME, "is missing"]);
    refused(
        &|tensors| drop(tensors.insert(NAME.replace("layers.1", "layers.9"), tensors[NAME].clone())),
        ["layers.9", "no target module"],
    );
    refused(
        &|tensors| drop(tensors.insert(NAME.into(), tensors[NAME].t().unwrap().contiguous().unwrap())),
        ["expected shape [64, 4]", "found [4, 64]"],
    );
}

/// Given up at any moment, between two updates as well, a step leaves the policy and its optimiser as they were.
#[test]
fn a_step_that_is_given_up_changes_nothing() {
    let mut settings = settings_of(|trainer| trainer.ppo_epochs = 4);
    settings.updates_per_step = 4;
    let mut straight = trainer(settings.clone());
    let since = Instant::now();
    let whole_step = straight.step(0, &batch()).unwrap();
    let takes = since.elapsed();
    let mut given_up = 0;
    for part in 0..8 {
        let mut trainer = trainer(settings.clone());
        let before = trainer.state().unwrap();
        let (ask, asked) = watch::channel(false);
        trainer.give_up_when(asked);
        if part == 0 {
            ask.send_replace(true);
        }
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(takes * part / 8);
                ask.send_replace(true)
            });
            trainer.step_unless_given_up(0, &batch()).unwrap()
        });
        let after = trainer.state().unwrap();
        match output {
            Some(output) => assert_eq!(output.adapter.hash, whole_step.adapter.hash),
            None => {
                given_up += 1;
                assert_eq!((after.adapter.hash, after.updates), (before.adapter.hash, before.updates));
                assert!(after.optimizer == before.optimizer, "the moments differ");
            }
        }
    }
    assert!(given_up > 0);
}

#[test]
fn a_restored_trainer_continues_bit_for_bit() {
    let mut settings = settings_of(|trainer| trainer.ppo_epochs = 2);
    (settings.optim.warmup_steps, settings.updates_per_step) = (8, 2);
    let mut uninterrupted = trainer(settings.clone());
    uninterrupted.step(0, &batch()).unwrap();
    let state = uninterrupted.state().unwrap();
    assert_eq!(state.updates, 2);
    let mut resumed = fresh_trainer(settings).restore(&state).unwrap();
    assert_eq!(resumed.adapter().unwrap().hash, state.adapter.hash);
    for step in 1..3 {
        let (one, other) = (uninterrupted.step(step, &batch()).unwrap(), resumed.step(step, &batch()).unwrap());
        assert_eq!(one.adapter.bytes, other.adapter.bytes);
        assert_eq!(one.stats.metrics(), other.stats.metrics());
    }
    let (one, other) = (uninterrupted.state().unwrap(), resumed.state().unwrap());
    assert_eq!((one.optimizer, one.updates), (other.optimizer, other.updates));
}
