//! Knights and Knaves on one core: distinct puzzles per second (statements drawn, solved, and kept if the solution is
//! unique), and completions graded per second.
//!
//! `cargo bench --bench kk`. The targets are 10,000 puzzles per second with 14 people, and 100,000 graded completions.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use dump_rl::task::Grader;
use dump_rl::task::kk::generate::Generator;
use dump_rl::task::kk::{prompt, text};

fn main() {
    generate();
    grade();
}

fn generate() {
    println!("people  puzzles  seconds  puzzles/s");
    for people in [3, 8, 14, 20] {
        let start = Instant::now();
        let puzzles = Generator::new(people, 42).take(20_000).map(black_box).count();
        let seconds = start.elapsed().as_secs_f64();
        println!("{people:>6}  {puzzles:>7}  {seconds:>7.3}  {:>9.0}", puzzles as f64 / seconds);
    }
}

/// Completions of 200 words of reasoning and an answer; every second one is wrong.
fn grade() {
    const COMPLETIONS: usize = 100_000;
    println!("people  completions  seconds  graded/s");
    for people in [3, 8, 14] {
        let puzzle = Generator::new(people, 42).next().expect("a puzzle");
        let grader = Grader::for_row(&prompt::row(&puzzle, "train", 0)).expect("a ground truth");
        let right = text::solution_text_format(&puzzle);
        let wrong = right.replacen("knight", "knave", 1);
        let complete =
            |answer: &str| format!("<think>{}</think>\n<answer> {answer} </answer>", "Then this is so. ".repeat(50));
        let completions = [complete(&right), complete(&wrong)];
        let start = Instant::now();
        let solved =
            (0..COMPLETIONS).filter(|index| grader.grade(black_box(&completions[index % 2])).is_right()).count();
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(solved, COMPLETIONS / 2);
        println!("{people:>6}  {COMPLETIONS:>11}  {seconds:>7.3}  {:>8.0}", COMPLETIONS as f64 / seconds);
    }
}
