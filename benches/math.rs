//! Mathematical answers graded per second, on one core: reading the completion, finding the answer, comparing it.
//!
//! `cargo bench --bench math`. The target is 20,000 answers per second on the mix of all kinds.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use dump_rl::task::math::Expected;

/// Kinds of truths and answers: a right one and a wrong one.
const KINDS: [(&str, &str, &str, &str); 9] = [
    ("integer", "42", "42", "43"),
    ("fraction", "\\frac{1}{4}", "0.25", "\\frac{3}{4}"),
    ("quantity", "12\\text{ cm}^2", "12 square centimeters", "13\\text{ cm}^2"),
    ("root", "\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", "\\sqrt{2}"),
    ("polynomial", "x^2+2x+1", "(x+1)^2", "x^2+1"),
    ("equation", "y=2x+3", "2x-y+3=0", "y=3x+2"),
    ("interval", "[0,1)", "0 \\le x < 1", "(0,1)"),
    ("set", "\\{1,2,3\\}", "3, 2, 1", "1, 2, 4"),
    ("text", "\\text{Monday}", "Monday", "Tuesday"),
];
const ROUNDS: usize = 4_000;

fn main() {
    println!("{:<12} {:>9} {:>9} {:>12}", "kind", "answers", "seconds", "answers/s");
    let mut total = 0.0;
    for (kind, truth, right, wrong) in KINDS {
        let filler = "First we add the numbers 3 and 4, then we divide by $x+1$. ".repeat(30);
        let completions = [right, wrong].map(|it| format!("<think>{filler}</think>The answer is \\boxed{{{it}}}."));
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let expected = Expected::from_ground_truth(black_box(truth)).expect("a fixed truth is readable");
            for completion in &completions {
                black_box(expected.verdict(black_box(completion)));
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        total += seconds;
        print_line(kind, 2 * ROUNDS, seconds);
    }
    print_line("all", 2 * ROUNDS * KINDS.len(), total);
}

fn print_line(kind: &str, answers: usize, seconds: f64) {
    println!("{kind:<12} {answers:>9} {seconds:>9.3} {:>12.0}", answers as f64 / seconds);
}
