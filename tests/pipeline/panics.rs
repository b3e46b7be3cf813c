//! Panics in the stages: the run ends with the stage and the message, and a resume goes on from the checkpoint before.

use std::sync::Arc;

use dump_rl::pipeline::setup::Setup;
use dump_rl::train::sample::Sample;
use dump_rl::train::worker::TrainerHandle;
use engine::seed::mix_seed;
use engine::{Engine, EngineError};

use crate::fixtures::records::{assert_same, metrics, newest_step};
use crate::fixtures::runs::{block_on, finish, run};
use crate::fixtures::steered_engine::{Behaviour, SteeredEngine};
use crate::fixtures::world::{B, World};

/// The run panics after step 2, its checkpoint. With a better engine it goes on as if nothing had been.
fn check<E: Engine>(world: &World, name: &str, engine: E, words: &str) {
    let (config, out) = (world.config(), world.out(name));
    let error = run(&config, &out, engine).expect_err("this run cannot end well");
    assert!(format!("{error:#}").contains(words), "{error:#}");
    // The exit status is 1.
    assert!(!error.chain().any(|cause| cause.downcast_ref::<EngineError>().is_some_and(EngineError::is_input)));
    assert_eq!((metrics(&out).len(), newest_step(&out)), (2, 2));
    finish(&config, &out, world.engine());
    assert_same(&world.out("straight"), &out);
}

#[test]
fn a_stage_that_panics_ends_the_run_with_its_name() {
    let world = World::new();
    finish(&world.config(), &world.out("straight"), world.engine());
    let third_step = mix_seed(world.config().seed, 2 * B as u64);
    let failure = move |request: &engine::Request, _: usize| -> Option<EngineError> {
        assert!(request.seed != third_step, "scripted: the request panics");
        None
    };
    let engine = world.engine().with_failure(failure);
    check(&world, "rollout", engine, "the stage rollout panicked: scripted: the request panics");
    let panics = SteeredEngine::new(world.engine(), Behaviour::PanicsAtPublish { step: 3 });
    check(&world, "learner", panics, "the stage learner panicked: scripted: the publish panics");
}

/// The trainer may be in any state then, so it is not used again: no checkpoint can be made of it.
#[test]
fn a_panic_of_the_trainers_thread_is_told_by_its_message() {
    let world = World::new();
    let setup = Setup::for_training(world.config()).expect("a setup");
    let sample = |log_probs: usize| Sample {
        group: 0,
        source: 0,
        prompt: [1, 2].into(),
        completion: vec![3, 4],
        rollout_log_probs: vec![-1.0; log_probs],
        advantage: 1.0,
        policy_step: 0,
        truncated: false,
    };
    let handle = || Arc::new(TrainerHandle::spawn(setup.base.trainer().expect("a trainer")).expect("a thread"));
    block_on(async {
        let trainer = handle();
        let computed = trainer.progress();
        trainer.step(0, vec![sample(2)]).await.expect("a good step");
        assert!(computed.load(std::sync::atomic::Ordering::SeqCst) > 0);
        for samples in [vec![sample(1)], vec![sample(2), sample(1)]] {
            let trainer = handle();
            let error = format!("{:#}", trainer.step(0, samples).await.expect_err("a panic"));
            assert!(
                error.contains("the trainer panicked") && error.contains("one log-probability per token"),
                "{error}"
            );
            let error = format!("{:#}", trainer.state().await.expect_err("no trainer"));
            assert!(error.contains("the trainer's thread has ended"), "{error}");
        }
    });
}
