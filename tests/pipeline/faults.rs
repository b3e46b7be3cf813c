//! Engines that fail or lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dump_rl::config::engine::{EngineCheck, EngineConfig};
use dump_rl::config::eval::EvalConfig;
use dump_rl::config::run::RunConfig;
use engine::{Completion, EngineError, PolicyVersion, Request};

use crate::fixtures::records::{assert_same, check_ledger, dropped, metrics, newest_step, total};
use crate::fixtures::runs::{FOREVER, block_on, fail, finish, never, train};
use crate::fixtures::steered_engine::{Behaviour, SteeredEngine, other_hash};
use crate::fixtures::world::{B, G, STEPS, World, out_of_memory};

/// The scripted engine gives every token the probability ½. That is wrong, and with a check the run never begins.
#[test]
fn an_engine_that_fails_its_check_is_not_trained_on() {
    let world = World::new();
    let with_check = |check| {
        let engine = EngineConfig { check, ..world.config().engine };
        RunConfig { engine, ..world.config() }
    };
    let out = world.out("checked");
    let error = fail(&with_check(EngineCheck::Always), &out, world.engine());
    assert!(error.contains("training ends here") && error.contains("of 16 completions"), "{error}");
    assert!(metrics(&out).is_empty() && !out.join("checkpoints").join("step_1").exists());
    finish(&with_check(EngineCheck::Never), &world.out("unchecked"), world.engine());
    // On a CPU there is no check by default.
    finish(&with_check(EngineCheck::Auto), &world.out("auto"), world.engine());
}

/// A server says that it has loaded the policy, and samples from another one. Without a check it is found out after the first
/// publish; with one it is found out before the first step.
#[test]
fn a_server_that_samples_from_another_policy_ends_the_run_by_its_name() {
    const NAME: &str = "http://10.0.0.9:8000";
    let world = World::new();
    let run = |check: EngineCheck, words: [&str; 2]| {
        let config = RunConfig { engine: EngineConfig { check, ..world.config().engine }, ..world.config() };
        let out = world.out(&format!("{check:?}"));
        let error = fail(&config, &out, SteeredEngine::new(world.engine(), Behaviour::IsServer { name: NAME }));
        assert!(error.contains(NAME) && words.iter().all(|word| error.contains(word)), "{error}");
        assert!(metrics(&out).is_empty());
    };
    run(EngineCheck::Never, ["does not sample from the policy of step 1", "limit 0.01"]);
    run(EngineCheck::Always, ["does not compute what the trainer computes", "of 16 completions"]);
}

/// The scripted engine's log-probabilities are not the policy's, as those of an engine that ignores every publish are not and says
/// nothing of it. One such step may be chance. The count goes on after a resume.
#[test]
fn an_engine_that_never_computes_what_the_trainer_computes_ends_the_run() {
    let world = World::new();
    let steps = |max_steps, check| RunConfig {
        max_steps,
        engine: EngineConfig { check, ..world.config().engine },
        ..world.config()
    };
    let out = world.out("a");
    finish(&steps(6, EngineCheck::Auto), &out, world.engine());
    let error = fail(&steps(12, EngineCheck::Auto), &out, world.engine());
    assert!(error.contains("in 10 steps in a row") && error.contains("limit 0.01"), "{error}");
    assert_eq!(metrics(&out).len(), 9);
    finish(&steps(12, EngineCheck::Never), &world.out("never"), world.engine());
}

#[test]
fn failed_groups_are_replaced() {
    let world = World::new();
    for (eta, failures) in [(0, 4..5), (0, 4..6), (1, 4..5), (1, 1..3)] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta} {failures:?}")));
        let count = failures.end - failures.start;
        finish(&config, &out, world.engine_that_fails(failures));
        assert_eq!(check_ledger(&out), count);
        // A failed group is not observed.
        assert_eq!(total(metrics(&out).last().expect("a line"), "n"), (STEPS as usize * B * G) as f64);
        assert_eq!(dropped(&out), serde_json::json!({"failed": count}));
    }
}

#[test]
fn three_failures_in_a_row_end_the_run_with_their_cause() {
    let world = World::new();
    for eta in [0, 1] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta}")));
        let error = fail(&config, &out, world.engine_that_fails(1..100));
        assert!(error.contains("scripted: out of memory") && error.contains("3 groups in a row"), "{error}");
        assert!(metrics(&out).is_empty());
    }
}

/// Makes an answer wrong.
type Break = fn(&mut Vec<Completion>);

/// What an engine may not answer.
const BROKEN: [(Break, &str); 9] = [
    (|group| drop(group.pop()), "completions for a group of"),
    (|group| group.push(group[0].clone()), "completions for a group of"),
    (|group| group[0].log_probs[0] = f32::NAN, "completion 0: the log-probability at position 0 is NaN"),
    (|group| group[0].full_log_probs[1] = 0.5, "the log-probability at position 1 is 0.5"),
    (|group| group[0].log_probs.clear(), "log-probabilities for"),
    (|group| group[0].full_log_probs.truncate(1), "log-probabilities for"),
    (|group| group[0].tokens[0] = u32::MAX, "is not in the vocabulary"),
    (|group| group[0].tokens.clear(), "0 tokens, expected 1 to"),
    (|group| group[0].tokens = vec![1; 97], "97 tokens, expected 1 to"),
];

/// One such answer is a failed group, as any other failure of an engine. The third in a row ends the run. Nothing of it is trained on.
#[test]
fn answers_that_break_the_contract_are_not_trained_on() {
    let world = World::new();
    let when = |request: &Request| request.group_size == G;
    for (number, (how, words)) in BROKEN.into_iter().enumerate() {
        let breaks = |answers| SteeredEngine::new(world.engine(), Behaviour::Breaks { when, answers, how });
        let out = world.out(&format!("once {number}"));
        finish(&world.config(), &out, breaks(2..3));
        assert_eq!((check_ledger(&out), dropped(&out)), (1, serde_json::json!({"failed": 1})));
        let error = fail(&world.config(), &world.out(&format!("always {number}")), breaks(0..100));
        assert!(error.contains("the native engine gave a wrong answer") && error.contains(words), "{error}");
        assert!(error.contains("3 groups in a row"), "{error}");
    }
}

/// An evaluation has no other prompts to draw, so its answer must be right. A canary says nothing.
#[test]
fn answers_that_break_the_contract_are_not_evaluated_or_compared() {
    let world = World::new();
    for (number, (how, words)) in BROKEN.into_iter().enumerate() {
        let breaks = |when: fn(&Request) -> bool| {
            SteeredEngine::new(world.engine(), Behaviour::Breaks { when, answers: 1..2, how })
        };
        let config = RunConfig { eval: EvalConfig { interval: 1, ..world.config().eval }, ..world.config() };
        let error = fail(&config, &world.out(&format!("evaluation {number}")), breaks(|it| it.group_size == 1));
        assert!(error.contains("the native engine gave a wrong answer") && error.contains(words), "{error}");
        let out = world.out(&format!("canary {number}"));
        finish(&world.off_policy(1), &out, breaks(|it| it.group_size == 2));
        let compared = metrics(&out).iter().filter(|line| line.contains_key("rollout_corr/canary_max_diff")).count();
        assert_eq!((check_ledger(&out), compared), (0, STEPS as usize - 1));
    }
}

/// The engine says that it has loaded the policy, and samples from the one before. Nothing that it answers is trained on, and with a
/// better engine the run goes on from its checkpoint as if nothing had been.
#[test]
fn an_engine_that_ignores_a_publish_ends_the_run() {
    let world = World::new();
    let straight = world.out("straight");
    finish(&world.config(), &straight, world.engine());
    for eta in [0, 1] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta}")));
        let error = fail(&config, &out, SteeredEngine::new(world.engine(), Behaviour::IgnoresPublishes { step: 3 }));
        let words = "the native engine answered by the policy of step 2 after it had loaded that of step 3";
        assert!(error.contains(words), "{error}");
        assert!(metrics(&out).len() <= 3 && newest_step(&out) == 2);
        finish(&config, &out, world.engine());
        check_ledger(&out);
    }
    assert_same(&straight, &world.out("0"));
}

#[test]
fn a_failing_run_ends_even_if_a_request_hangs() {
    let world = World::new();
    let calls = AtomicUsize::new(0);
    let latency = move |_: &Request| if calls.fetch_add(1, Ordering::SeqCst) == 0 { FOREVER } else { Duration::ZERO };
    let engine = world.engine().with_latency(latency).with_failure(|_, _| Some(out_of_memory())).with_concurrency(B);
    let error = fail(&world.off_policy(1), &world.out("a"), engine);
    assert!(error.contains("scripted: out of memory"), "{error}");
}

#[test]
fn a_wrong_request_ends_the_run_at_once() {
    let world = World::new();
    let engine = world.engine().with_failure(|_, _| Some(EngineError::PromptLength { tokens: 900, context: 512 }));
    let engine = Arc::new(engine.with_concurrency(1));
    let error = block_on(train(&world.config(), &world.out("a"), engine.clone(), never())).expect_err("a wrong prompt");
    assert!(format!("{error:#}").contains("prompt of 900 tokens"), "{error:#}");
    assert!(
        error.chain().any(|cause| cause.downcast_ref::<EngineError>().is_some_and(EngineError::is_input)),
        "the exit status must be 2"
    );
    assert_eq!(engine.calls(), 1);
}

#[test]
fn an_engine_that_loads_another_adapter_ends_the_run() {
    let world = World::new();
    let out = world.out("a");
    let error = fail(&world.config(), &out, SteeredEngine::new(world.engine(), Behaviour::LoadsAnother { step: 2 }));
    let loaded = other_hash();
    assert!(error.contains("published adapter") && error.contains(&format!("the engine loaded {loaded}")), "{error}");
    // A step whose policy could not be published does not count.
    assert_eq!(metrics(&out).len(), 1);
}

#[test]
fn a_completion_of_an_unpublished_policy_ends_the_run() {
    let world = World::new();
    let another: fn(PolicyVersion) -> PolicyVersion = |policy| PolicyVersion { adapter: other_hash(), ..policy };
    let ahead: fn(PolicyVersion) -> PolicyVersion = |policy| PolicyVersion { step: policy.step + 1, ..policy };
    for (eta, step, policy, trained) in [(0, 0, another, 0), (0, 2, another, 2), (0, 1, ahead, 1), (1, 0, ahead, 0)] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta} {step} {trained}")));
        let error = fail(&config, &out, SteeredEngine::new(world.engine(), Behaviour::Misnames { step, policy }));
        assert!(error.contains("was not published") && error.contains("job"), "{error}");
        assert_eq!(metrics(&out).len(), trained);
    }
}
