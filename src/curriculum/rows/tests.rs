use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::super::Curriculum;
use super::*;

const SIZES: [usize; 3] = [1, 7, 40];

fn mixture() -> Mixture {
    let sources = (0..SIZES.len()).map(|arm| arm.to_string()).collect();
    Mixture { sources, sizes: SIZES.to_vec(), max_steps: 20, batch_size: 4 }
}

fn config(rows: Rows) -> CurriculumConfig {
    CurriculumConfig { rows, ..CurriculumConfig::default() }
}

fn curriculum(config: &CurriculumConfig) -> Curriculum {
    Curriculum::new(config, &mixture()).unwrap()
}

fn group(arm: usize, row: usize, rewards: Vec<f64>) -> Observation {
    let advantages = vec![0.0; rewards.len()];
    Observation { row: Some(row), ..Observation::new(arm, rewards, advantages) }
}

/// Rows that are drawn one after the other, none of which is running.
fn draws(curriculum: &Curriculum, arm: usize, count: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let from = Candidates { arm, rows: SIZES[arm], is_running: &|_| false };
    (0..count).map(|_| curriculum.draw_row(from, &mut rng)).collect()
}

/// Groups of any arm with any row, also one that the arm does not have, and any rewards.
fn any_groups() -> impl Strategy<Value = Vec<Observation>> {
    let rewards = vec(prop_oneof![4 => -3.0..3.0, 1 => proptest::num::f64::ANY], 0..9);
    vec((0..SIZES.len(), 0_usize..60, rewards).prop_map(|(arm, row, rewards)| group(arm, row, rewards)), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_are_the_arms_and_a_resume_draws_the_same(before in any_groups(), after in any_groups()) {
        for rows in [Rows::Uniform, Rows::Mopps, Rows::Greso] {
            let config = config(rows);
            let (mut one, mut resumed) = (curriculum(&config), curriculum(&config));
            before.iter().for_each(|group| one.observe(group, 1, &[0; 3]));
            let text = serde_json::to_string(&one.save(&config)).unwrap();
            resumed.load(&config, serde_json::from_str(&text).unwrap()).unwrap();
            for group in &after {
                for (arm, rows) in SIZES.iter().enumerate() {
                    let drawn = draws(&one, arm, 3);
                    prop_assert_eq!(&drawn, &draws(&resumed, arm, 3));
                    prop_assert!(drawn.iter().all(|row| row < rows));
                }
                one.observe(group, 2, &[0; 3]);
                resumed.observe(group, 2, &[0; 3]);
            }
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    for (rows, wrong) in [
        (Rows::Uniform, json!([])),
        (Rows::Greso, json!([[], []])),
        (Rows::Greso, json!([[[1, 3]], [], []])),
        (Rows::Mopps, json!({"arms": [], "rows": [[], [], []]})),
        (Rows::Mopps, json!("nonsense")),
    ] {
        let config = config(rows);
        let mut curriculum = curriculum(&config);
        let mut state = serde_json::to_value(curriculum.save(&config)).unwrap();
        state["rows_learnt"] = wrong.clone();
        assert!(curriculum.load(&config, serde_json::from_value(state).unwrap()).is_err(), "{rows:?} {wrong}");
    }
    let saved = curriculum(&config(Rows::Greso)).save(&config(Rows::Greso));
    let problem = curriculum(&config(Rows::Mopps)).load(&config(Rows::Mopps), saved).unwrap_err();
    assert!(problem.contains("curriculum.rows was greso when saved and is mopps now"), "{problem}");
}

#[test]
fn settings_out_of_range_are_refused_by_their_key() {
    let check = |change: fn(&mut CurriculumConfig), rows, key: &str| {
        let mut config = config(rows);
        change(&mut config);
        assert_eq!(Curriculum::new(&config, &mixture()).err().unwrap().key, key);
    };
    check(|it| it.mopps.discount = 0.0, Rows::Mopps, "mopps.discount");
    check(|it| it.mopps.candidates = 0, Rows::Mopps, "mopps.candidates");
    check(|it| it.greso.explore = 1.5, Rows::Greso, "greso.explore");
}

/// λ = ½. Row 3 of arm 1: 2 of 4, then 4 of 4, so 2·½ + 4 = 5 successes and 2·½ = 1 failure. The arm: 2·0.95 + 4 = 5.9 of 4·0.95 + 4 =
/// 7.8, so p̄ = 6.9/9.8. The row's belief is Beta(2p̄ + 5, 2(1 − p̄) + 1), whose mean is (2p̄ + 5)/8.
#[test]
fn mopps_remembers_rows_and_lets_unseen_ones_inherit() {
    let mut curriculum = curriculum(&config(Rows::Mopps));
    let expected = |curriculum: &Curriculum, arm, row| curriculum.expected(arm, row).unwrap();
    assert_eq!(expected(&curriculum, 1, Some(3)), 0.5);
    curriculum.observe(&group(1, 3, vec![1.0, 1.0, -1.0, -1.0]), 0, &[0; 3]);
    curriculum.observe(&group(1, 3, vec![1.0; 4]), 0, &[0; 3]);
    let p = 6.9 / 9.8;
    for (arm, row, value) in [(1, Some(3), (2.0 * p + 5.0) / 8.0), (1, Some(4), p), (1, None, p), (2, Some(3), 0.5)] {
        let found = expected(&curriculum, arm, row);
        assert!((found - value).abs() < 1e-12, "{arm} {row:?}: {found}, not {value}");
    }
}

#[test]
fn mopps_draws_the_row_near_one_half() {
    let mut curriculum = curriculum(&config(Rows::Mopps));
    for _ in 0..20 {
        for row in 0..7 {
            let right = if row == 2 { 4 } else { 8 * (row % 2) };
            curriculum.observe(
                &group(1, row, (0..8).map(|i| if i < right { 1.0 } else { -1.0 }).collect()),
                0,
                &[0; 3],
            );
        }
    }
    let drawn = draws(&curriculum, 1, 200);
    let hits = drawn.iter().filter(|row| **row == 2).count();
    assert!(hits > 170, "{hits} of 200");
    // A row that is running is passed over, unless all are.
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut draw = |is_running: &dyn Fn(usize) -> bool| {
        let from = Candidates { arm: 1, rows: 7, is_running };
        (0..100).map(|_| curriculum.draw_row(from, &mut rng)).collect::<BTreeSet<_>>()
    };
    assert!(!draw(&|row| row == 2).contains(&2));
    assert!(!draw(&|_| true).is_empty());
}

/// Of seven rows, three have had two groups without variance: each is kept with probability ¼. So a draw takes one of the four others
/// with probability 4/(4 + 3·¼) = 0.842.
#[test]
fn greso_passes_over_rows_without_variance() {
    let mut curriculum = curriculum(&config(Rows::Greso));
    for row in 0..7 {
        let flat = |value| group(1, row, vec![value; 4]);
        // Sums of 0.1 are not exact, and the group has no variance all the same.
        [flat(0.1), flat(-0.5)].iter().for_each(|group| curriculum.observe(group, 0, &[0; 3]));
        if row >= 3 {
            curriculum.observe(&group(1, row, vec![1.0, 0.0]), 0, &[0; 3]);
        }
    }
    let drawn = draws(&curriculum, 1, 20_000);
    let share = drawn.iter().filter(|row| **row >= 3).count() as f64 / 20_000.0;
    assert!((share - 4.0 / 4.75).abs() < 0.02, "{share}");
}
