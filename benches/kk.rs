//! Distinct Knights and Knaves puzzles per second on one core: draw statements, solve, keep a puzzle if its solution is unique.
//!
//! `cargo bench --bench kk`. The target is 10,000 per second with 14 people.

use std::hint::black_box;
use std::time::Instant;

use dump_rl::task::kk::generate::Generator;

fn main() {
    println!("people  puzzles  seconds  puzzles/s");
    for people in [3, 8, 14, 20] {
        let start = Instant::now();
        let puzzles = Generator::new(people, 42).take(20_000).map(black_box).count();
        let seconds = start.elapsed().as_secs_f64();
        println!("{people:>6}  {puzzles:>7}  {seconds:>7.3}  {:>9.0}", puzzles as f64 / seconds);
    }
}
