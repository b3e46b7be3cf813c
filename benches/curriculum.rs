//! One decision and update of each curriculum policy: weights, draw, observe a group of 16, over 12 arms with windows
//! of 300. Target: under 20 µs, so that it never shows beside a rollout. Then the same over 50 arms of 20,000 rows each, with each
//! choice of rows: under 200 µs and 100 MB. Run: `cargo bench --bench curriculum --no-default-features`.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use dump_rl::curriculum::policies::POLICIES;
use dump_rl::curriculum::rows::{Candidates, Rows};
use dump_rl::curriculum::{Curriculum, CurriculumConfig, Mixture, Observation, draw};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ARMS: usize = 12;
const GROUP: usize = 16;
const WARM_UP: u32 = 10_000;
const TURNS: u32 = 100_000;
const TARGET_US: f64 = 20.0;

const MANY_ARMS: usize = 50;
const ROWS: usize = 20_000;
const ROWS_TURNS: usize = 200_000;

fn main() {
    if let [choice] = std::env::args().skip(1).filter(|it| it != "--bench").collect::<Vec<_>>().as_slice() {
        return choose_rows(choice);
    }
    policies();
    println!("decision + update, {MANY_ARMS} arms of {ROWS} rows, group of {GROUP}; target 200 µs, 100 MB");
    for choice in ["uniform", "mopps", "greso"] {
        // Each has a process of its own, for its memory.
        let program = std::env::current_exe().expect("this program");
        assert!(std::process::Command::new(program).arg(choice).status().expect("a process").success());
    }
}

fn policies() {
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

fn choose_rows(choice: &str) {
    let rows: Rows = serde_json::from_value(choice.into()).expect("a choice of rows");
    let before = resident_mb();
    let sources = (0..MANY_ARMS).map(|arm| arm.to_string()).collect();
    let mixture = Mixture { sources, sizes: vec![ROWS; MANY_ARMS], max_steps: 100, batch_size: 16 };
    let mut curriculum =
        Curriculum::new(&CurriculumConfig { rows, ..CurriculumConfig::default() }, &mixture).expect("a fit");
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    let mut group = group(0, &mut rng);
    let start = Instant::now();
    for _ in 0..ROWS_TURNS {
        let arm = draw(&curriculum.weights(0, &[0; MANY_ARMS]), &mut rng);
        let row = curriculum.draw_row(Candidates { arm, rows: ROWS, is_running: &|_| false }, &mut rng);
        group = Observation { arm, row: Some(row), ..group };
        curriculum.observe(black_box(&group), 0, &[0; MANY_ARMS]);
    }
    let us = start.elapsed().as_secs_f64() * 1e6 / ROWS_TURNS as f64;
    println!("{choice:<18} {us:>7.3} µs, {:.0} MB", resident_mb() - before);
}

/// Resident memory of this process, on Linux.
fn resident_mb() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(f64::NAN) * 4096.0 / 1e6
}

fn group(arm: usize, rng: &mut ChaCha8Rng) -> Observation {
    let mut draw = || (0..GROUP).map(|_| rng.random_range(-1.5..1.5)).collect();
    Observation::new(arm, draw(), draw())
}
