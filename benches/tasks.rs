//! Rows of procedural tasks per second, on one core: drawn, proven, and found to be new.
//!
//! `cargo bench --bench tasks`. The target is 2,000 training rows per second at every usual level.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use dump_rl::task::procedural::{REGISTRY, Split, Stream};

const TIME: Duration = Duration::from_millis(300);

fn main() {
    println!("{:<16} {:>5} {:>5} {:>12} {:>12}", "task", "level", "usual", "train rows/s", "test rows/s");
    for task in REGISTRY {
        let mut levels = vec![*task.usual.start(), *task.usual.end(), *task.levels.end()];
        levels.dedup();
        for level in levels {
            let [train, test] =
                [Split::Train, Split::Test].map(|split| rows_per_second(Stream::new(task, level, 42, split)));
            let usual = if task.usual.contains(&level) { "yes" } else { "no" };
            println!("{:<16} {level:>5} {usual:>5} {train:>12.0} {test:>12.0}", task.name);
        }
    }
}

fn rows_per_second(mut stream: Stream) -> f64 {
    let start = Instant::now();
    let mut rows = 0;
    while start.elapsed() < TIME {
        for _ in 0..50 {
            black_box(stream.row(rows));
            rows += 1;
        }
    }
    rows as f64 / start.elapsed().as_secs_f64()
}
