use std::path::PathBuf;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::record::{Outcome, Step};
use super::*;
use crate::advantage::{AdvantageScale, group_advantages};
use crate::config::run::RunConfig;
use crate::curriculum::Mixture;
use crate::simulator::SimulatedLearner;

const ARMS: usize = 6;
const BATCH: usize = 24;
const GROUP: u64 = 8;

/// A run of a learner whose numbers are known, in which every arm is drawn as often, from the first on in odd runs only the easier half.
fn run(learner: &SimulateConfig, seed: u64) -> RecordedRun {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut state = SimulatedLearner::new(learner, ARMS);
    let start = (0..ARMS).map(|arm| (state.mean_success(arm), 400)).collect();
    let mut steps = Vec::new();
    for _ in 0..80 {
        let mut step = Step { groups: Vec::new(), practice: vec![0.0; ARMS] };
        for _ in 0..BATCH {
            let arm = rng.random_range(0..if seed % 2 == 1 { ARMS / 2 } else { ARMS });
            let success = state.success(arm, rng.random());
            let rewards: Vec<f32> = (0..GROUP).map(|_| f32::from(u8::from(rng.random::<f64>() < success))).collect();
            let right = rewards.iter().filter(|reward| **reward > 0.5).count() as u64;
            let advantages = group_advantages(&rewards, AdvantageScale::GroupStd);
            let signal = advantages.iter().map(|a| f64::from(a.abs())).sum::<f64>() / GROUP as f64;
            step.groups.push(Outcome { arm, right, completions: GROUP });
            step.practice[arm] += signal / BATCH as f64;
        }
        state.practise(&step.practice);
        steps.push(step);
    }
    let sources = (0..ARMS).map(|arm| arm.to_string()).collect();
    RecordedRun {
        folder: PathBuf::new(),
        config: RunConfig::default(),
        mixture: Mixture { sources, sizes: vec![100; ARMS], max_steps: 80, batch_size: BATCH },
        steps,
        start,
        evaluations: Vec::new(),
        tokens: (0..ARMS).map(|arm| (arm != 2).then_some(50.0 + 10.0 * arm as f64)).collect(),
    }
}

#[test]
fn the_numbers_of_a_known_learner_are_found() {
    for (rate, transfer, spread) in [(0.2, 0.5, 1.0), (0.1, 0.8, 2.0), (0.3, 0.2, 0.5)] {
        let known = SimulateConfig { rate, transfer, spread, skill_slope: 0.6, ..SimulateConfig::default() };
        let runs: Vec<RecordedRun> = (0..4).map(|seed| run(&known, seed)).collect();
        let Fit { learner, log_likelihood, without_learning } = fit(&runs.iter().collect::<Vec<_>>()).unwrap();
        let found = format!("{learner:?} for {known:?}");
        assert!((learner.rate / rate - 1.0).abs() < 0.15, "{found}");
        assert!((learner.transfer - transfer).abs() < 0.08, "{found}");
        assert!((learner.spread / spread - 1.0).abs() < 0.15, "{found}");
        assert!(log_likelihood > without_learning + 100.0);
        for (arm, skill) in learner.skills.iter().enumerate() {
            let expected = known.skill_easiest - known.skill_slope * arm as f64;
            assert!((skill - expected).abs() < 0.3, "{found}");
        }
        assert!((learner.tokens_easiest - 50.0).abs() < 1e-6 && (learner.tokens_slope - 10.0).abs() < 1e-6);
    }
}
