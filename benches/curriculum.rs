//! One decision and update of each curriculum policy: weights, draw, observe a group of 16, over 12 arms with windows
//! of 300. Target: under 20 µs, so that it never shows beside a rollout. Run: `cargo bench --bench curriculum`.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use dump_rl::curriculum::policies::POLICIES;
use dump_rl::curriculum::{Curriculum, CurriculumConfig, Mixture, Observation, draw};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ARMS: usize = 12;
const GROUP: usize = 16;
const WARM_UP: u32 = 10_000;
const TURNS: u32 = 100_000;
const TARGET_US: f64 = 20.0;

fn main() {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let groups: Vec<Observation> = (0..ARMS).map(|arm| group(arm, &mut rng)).collect();
    println!("decision + update, {ARMS} arms, group of {GROUP}; target {TARGET_US} µs");
    for entry in POLICIES {
        let mean_us = mean_us(entry.name, &groups, &mut rng);
        println!("{:<18} {mean_us:>7.3} µs, {:.3} of the target", entry.name, mean_us / TARGET_US);
    }
}

fn mean_us(policy: &str, groups: &[Observation], rng: &mut ChaCha8Rng) -> f64 {
    let sources = (0..ARMS).map(|arm| arm.to_string()).collect();
    let mixture = Mixture { sources, sizes: vec![900; ARMS], max_steps: 100, batch_size: 16 };
    let config = CurriculumConfig { policy: policy.into(), ..CurriculumConfig::default() };
    let mut curriculum = Curriculum::new(&config, &mixture).expect("the defaults fit");
    (0..WARM_UP).for_each(|_| turn(&mut curriculum, groups, rng));
    let start = Instant::now();
    (0..TURNS).for_each(|_| turn(&mut curriculum, groups, rng));
    start.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS)
}

fn turn(curriculum: &mut Curriculum, groups: &[Observation], rng: &mut ChaCha8Rng) {
    let arm = draw(&curriculum.weights(0, &[0; ARMS]), rng);
    curriculum.observe(black_box(&groups[arm]), 0, &[0; ARMS]);
}

fn group(arm: usize, rng: &mut ChaCha8Rng) -> Observation {
    let mut draw = || (0..GROUP).map(|_| rng.random_range(-1.5..1.5)).collect();
    Observation::new(arm, draw(), draw())
}
