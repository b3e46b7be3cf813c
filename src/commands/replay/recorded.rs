//! Records of the scheduler of the pipeline, replayed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tests::{mixture, replay};

use crate::curriculum::{CurriculumConfig, Gradients, Mixture};
use crate::pipeline::learner::record;
use crate::scheduler::{FilterConfig, FinishedGroup, Job, Next, Outcome, Scheduler, SchedulerConfig};

/// A record of `steps` steps of this policy. Groups end in any order, and every step has some gradient of two of the arms.
fn record(policy: &str, max_off_policy_steps: u64, zero_variance: bool, steps: u64) -> (CurriculumConfig, String) {
    let curriculum = CurriculumConfig { policy: policy.into(), ..CurriculumConfig::default() };
    let filter = FilterConfig { zero_variance, max_refills: 3 };
    let (batch_size, max_steps) = (4, steps);
    let config = SchedulerConfig {
        batch_size,
        max_off_policy_steps,
        max_steps,
        seed: 1,
        curriculum: curriculum.clone(),
        filter,
    };
    let mixture = Mixture { max_steps, ..mixture(&["a", "b", "c"]) };
    let mut scheduler = Scheduler::new(config, mixture).unwrap();
    let (mut rng, mut running, mut batch, mut text) =
        (ChaCha8Rng::seed_from_u64(2), Vec::new(), Vec::new(), String::new());
    while scheduler.step() < steps {
        while let Next::Dispatch(job) = scheduler.next_job() {
            running.push(job);
        }
        let job: Job = running.swap_remove(rng.random_range(0..running.len()));
        let rewards: Vec<f32> = (0..4).map(|_| f32::from(u8::from(rng.random_range(0..3) < job.arm))).collect();
        let group = FinishedGroup { job: &job, policy_step: scheduler.step(), rewards: &rewards, right: false };
        let outcome = scheduler.judge(&group, scheduler.step());
        scheduler.observe(job.id, rewards.clone(), rewards, 1);
        scheduler.settle(job.id, outcome);
        batch.extend((outcome == Outcome::Accepted).then_some(job.id));
        if batch.len() == batch_size {
            let gradient = |_| (rng.random_range(0..3), (0..3).map(|_| rng.random_range(-1.0..1.0)).collect());
            let gradients = if policy == "tac" { (0..2).map(gradient).collect() } else { Gradients::new() };
            scheduler.observe_gradients(&gradients);
            scheduler.trained(&std::mem::take(&mut batch));
            let observed = scheduler.take_history().observed;
            text += &(record::observations(scheduler.step(), &observed, &gradients, scheduler.sources()).to_string()
                + "\n");
        }
    }
    (curriculum, text)
}

fn last_importance(config: &CurriculumConfig, events: &str) -> [f64; 3] {
    let out = replay(config, &["a", "b", "c"], events).unwrap();
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    ["groups", "effective_sample_size", "mean_weight"].map(|key| last["importance"][key].as_f64().unwrap())
}

/// The recorded policy itself would have made the same draws, so every weight is 1, even with overlap and refills.
#[test]
fn replayed_under_its_own_policy_every_group_weighs_one() {
    // The weights of dump_plus depend on the groups in flight, those of tac on gradients.
    for policy in ["dump_plus", "tac"] {
        for (eta, refill) in [(0, false), (0, true), (1, false), (2, true)] {
            let (config, events) = record(policy, eta, refill, 12);
            let [groups, ess, mean] = last_importance(&config, &events);
            let case = format!("{policy}, η = {eta}, refill {refill}");
            assert!(groups >= 48.0, "{case}: {groups} groups");
            assert!((ess - groups).abs() < 1e-3 && (mean - 1.0).abs() < 1e-5, "{case}: {ess}, {mean}");
            let other = CurriculumConfig { policy: "uniform".into(), ..config };
            assert!(last_importance(&other, &events)[1] < 0.99 * groups, "{case}");
        }
    }
}
