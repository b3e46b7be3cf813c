//! One decision and update of the DUMP curriculum: weights, draw, observe a group of 16, over 12 arms with windows of
//! 300. Target: under 20 µs, so that it never shows beside a rollout. Run: `cargo bench --bench curriculum`.

use std::hint::black_box;
use std::time::Instant;

use dump_rl::curriculum::{CurriculumConfig, Observation, Policy, build, draw};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ARMS: usize = 12;
const GROUP: usize = 16;
const WARM_UP: u32 = 20_000;
const TURNS: u32 = 500_000;
const TARGET_US: f64 = 20.0;

fn main() {
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let groups: Vec<Observation> = (0..ARMS).map(|arm| group(arm, &mut rng)).collect();
    let mut policy = build(&CurriculumConfig::default(), ARMS);
    (0..WARM_UP).for_each(|_| turn(&mut *policy, &groups, &mut rng));
    let start = Instant::now();
    (0..TURNS).for_each(|_| turn(&mut *policy, &groups, &mut rng));
    let mean_us = start.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS);
    let ratio = mean_us / TARGET_US;
    println!(
        "decision + update, {ARMS} arms, group of {GROUP}: {mean_us:.3} µs, {ratio:.3} of the target {TARGET_US} µs"
    );
}

fn turn(policy: &mut dyn Policy, groups: &[Observation], rng: &mut ChaCha8Rng) {
    let arm = draw(&policy.weights(), rng);
    policy.observe(black_box(&groups[arm]));
}

fn group(arm: usize, rng: &mut ChaCha8Rng) -> Observation {
    let mut draw = || (0..GROUP).map(|_| rng.random_range(-1.5_f32..1.5)).collect();
    Observation { arm, rewards: draw(), advantages: draw() }
}
