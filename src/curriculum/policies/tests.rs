//! What must hold for every policy in the list.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::super::{CountUnit, Curriculum, Mixture, Observation};
use super::*;

pub fn mixture(arms: usize) -> Mixture {
    let sources = (0..arms).map(|arm| format!("source_{arm}")).collect();
    Mixture { sources, sizes: (1..=arms).map(|arm| 10 * arm).collect(), max_steps: 20, batch_size: 4 }
}

/// A curriculum over five arms with a short window.
fn curriculum(entry: &Entry, count: CountUnit) -> Curriculum {
    let config = CurriculumConfig { policy: entry.name.into(), window: 30, count, ..CurriculumConfig::default() };
    Curriculum::new(&config, &mixture(5)).unwrap()
}

/// Any arms, rewards and advantages (including NaN and infinities), tokens, and groups in flight.
fn any_groups() -> impl Strategy<Value = Vec<(Observation, Vec<u64>)>> {
    let number = || prop_oneof![4 => -3.0..3.0, 1 => proptest::num::f64::ANY];
    let completions = vec((number(), number()), 0..20);
    let group =
        (0_usize..5, completions, 0_u64..5000, 0.0..=1.0).prop_map(|(arm, completions, tokens, probability)| {
            let (rewards, advantages) = completions.into_iter().unzip();
            Observation { arm, rewards, advantages, row: None, tokens, probability }
        });
    vec((group, vec(0_u64..20, 5)), 0..40)
}

fn bits(weights: &[f64]) -> Vec<u64> {
    weights.iter().map(|weight| weight.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn weights_are_a_distribution_and_scores_are_finite(groups in any_groups()) {
        for entry in POLICIES {
            for count in [CountUnit::Rollouts, CountUnit::Groups] {
                let mut curriculum = curriculum(entry, count);
                for (step, (group, in_flight)) in groups.iter().enumerate() {
                    let step = step as u64;
                    curriculum.observe(group, step, in_flight);
                    let weights = curriculum.weights(step, in_flight);
                    prop_assert_eq!(weights.len(), 5);
                    let again = curriculum.weights(step, in_flight);
                    prop_assert_eq!(bits(&weights), bits(&again), "{}", entry.name);
                    let proper = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
                    prop_assert!(proper, "{}: {weights:?}", entry.name);
                    prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{}: {weights:?}", entry.name);
                    let scores = curriculum.scores(step, in_flight);
                    prop_assert_eq!(scores.len(), 5);
                    let finite = scores.iter().all(|score| score.value.is_finite() && score.bonus.is_finite());
                    prop_assert!(finite, "{}: {scores:?}", entry.name);
                }
            }
        }
    }

    #[test]
    fn a_resumed_policy_gives_the_same_bits(before in any_groups(), after in any_groups()) {
        for entry in POLICIES {
            let config = CurriculumConfig { policy: entry.name.into(), window: 30, ..CurriculumConfig::default() };
            let mut curriculum = curriculum(entry, CountUnit::Rollouts);
            before.iter().for_each(|(group, in_flight)| curriculum.observe(group, 1, in_flight));
            let mut resumed = self::curriculum(entry, CountUnit::Rollouts);
            let text = serde_json::to_string(&curriculum.save(&config)).unwrap();
            resumed.load(&config, serde_json::from_str(&text).unwrap()).unwrap();
            for (group, in_flight) in &after {
                let (one, other) = (curriculum.weights(2, in_flight), resumed.weights(2, in_flight));
                prop_assert_eq!(bits(&one), bits(&other), "{}", entry.name);
                curriculum.observe(group, 2, in_flight);
                resumed.observe(group, 2, in_flight);
            }
        }
    }
}

/// A state of another policy, or of another number of arms, is refused and changes nothing.
#[test]
fn a_state_that_does_not_fit_is_refused() {
    for entry in POLICIES {
        let config = CurriculumConfig { policy: entry.name.into(), window: 30, ..CurriculumConfig::default() };
        let mut curriculum = curriculum(entry, CountUnit::Rollouts);
        let before = bits(&curriculum.weights(0, &[0; 5]));
        let fewer = Curriculum::new(&config, &mixture(4)).unwrap().save(&config);
        assert!(curriculum.load(&config, fewer).is_err(), "{}", entry.name);
        let mut broken = serde_json::to_value(curriculum.save(&config)).unwrap();
        broken["learnt"] = json!("nonsense");
        assert!(curriculum.load(&config, serde_json::from_value(broken).unwrap()).is_err(), "{}", entry.name);
        assert_eq!(bits(&curriculum.weights(0, &[0; 5])), before, "{}", entry.name);
    }
}

#[test]
fn config_has_the_papers_defaults_and_refuses_what_it_does_not_know() {
    assert_eq!(toml::from_str::<CurriculumConfig>("").unwrap(), CurriculumConfig::default());
    let config: CurriculumConfig = toml::from_str("policy = \"uniform\"\ncount = \"groups\"").unwrap();
    assert_eq!((config.policy.as_str(), config.count), ("uniform", CountUnit::Groups));
    assert!(toml::from_str::<CurriculumConfig>("tau = 0.1").is_err());
    let KeyError { key, problem } = CurriculumConfig { policy: "dumb".into(), ..config }.check().unwrap_err();
    assert!(key == "policy" && problem.contains("uniform, size_proportional"), "{problem}");
}

/// Every policy with settings out of range, and the key that is wrong.
#[test]
fn settings_out_of_range_are_refused_by_their_key() {
    let wrong = [
        ("fixed_mix", "weights = { source_9 = 1.0 }", "weights.source_9"),
        ("fixed_mix", "weights = { source_1 = -1.0 }", "weights.source_1"),
        ("fixed_mix", "weights = { source_1 = 0.0 }", "weights"),
        ("easy_to_hard", "exponent = 0.0", "exponent"),
        ("easy_to_hard", "sigma = -1.0", "sigma"),
        ("easy_to_hard", "floor = 1.5", "floor"),
        ("dump_plus", "discount = 0.0", "discount"),
        ("dump_plus", "memory = 0.0", "memory"),
        ("dump_plus", "prior = -1.0", "prior"),
        ("dump_plus", "floor = 2.0", "floor"),
        ("dump_plus", "bonus = -0.1", "bonus"),
        ("dump_plus", "bonus = inf", "bonus"),
        ("dump_plus", "temperature = 0.0", "temperature"),
        ("sec", "alpha = 1.5", "alpha"),
        ("sec", "alpha = nan", "alpha"),
        ("sec", "temperature = 0.0", "temperature"),
        ("learnability", "window = 0", "window"),
        ("learnability", "prior = 0.0", "prior"),
        ("learning_progress", "fast = 0.0", "fast"),
        ("learning_progress", "slow = 0.0", "slow"),
        ("learning_progress", "fast = 0.1\nslow = 0.1", "slow"),
        ("learning_progress", "floor = -0.1", "floor"),
        ("adarft", "eta = 0.0", "eta"),
        ("adarft", "alpha = nan", "alpha"),
        ("adarft", "beta = 1.1", "beta"),
        ("adarft", "min = -1.0", "min"),
        ("adarft", "min = 60.0\nmax = 50.0", "max"),
        ("adarft", "min = 10.0", "start"),
        ("dump", "shrinkage = -1.0", "shrinkage"),
        ("pac", "window = 1", "window"),
        ("pac", "noise = 0.0", "noise"),
        ("pac", "drift = -0.1", "drift"),
        ("thompson", "discount = 1.1", "discount"),
        ("exp3s", "gamma = 0.0", "gamma"),
        ("exp3s", "alpha = -0.1", "alpha"),
    ];
    for (policy, settings, key) in wrong {
        let text = format!("policy = {policy:?}\n[{policy}]\n{settings}");
        let config: CurriculumConfig = toml::from_str(&text).unwrap();
        let KeyError { key: refused, problem } = Curriculum::new(&config, &mixture(5)).err().expect(&text);
        assert_eq!(refused, format!("{policy}.{key}"), "{text}");
        assert!(!problem.is_empty(), "{text}");
    }
}

/// A configuration survives being written as TOML and read again. A key that a policy does not know is refused.
#[test]
fn settings_survive_toml() {
    let default = CurriculumConfig::default();
    assert_eq!(toml::from_str::<CurriculumConfig>(&toml::to_string(&default).unwrap()).unwrap(), default);
    for entry in POLICIES {
        assert!(toml::from_str::<CurriculumConfig>(&format!("[{}]\nnonsense = 1", entry.name)).is_err());
    }
}

#[test]
fn validate_names_the_key() {
    let default = CurriculumConfig::default();
    assert_eq!(default.check(), Ok(()));
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = CurriculumConfig { temperature, ..default.clone() };
        assert_eq!(config.check().unwrap_err().key, "temperature");
    }
    assert_eq!(CurriculumConfig { window: 0, ..default }.check().unwrap_err().key, "window");
}

#[test]
fn softmax_survives_any_scale() {
    assert_eq!(softmax(&[1e308, 0.0], 1e-300), [1.0, 0.0]);
    assert_eq!(softmax(&[0.0, 0.0], f64::MIN_POSITIVE), [0.5, 0.5]);
    assert_eq!(softmax(&[], 0.1), [0.0; 0]);
}
