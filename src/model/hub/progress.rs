//! What a download shows on standard error: a bar on a terminal, else a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::environment;
use crate::terminal;

/// The time between two lines. A download that takes less shows none.
const INTERVAL: Duration = Duration::from_secs(5);

pub struct Progress {
    kind: Kind,
    repo: String,
    file: String,
    done: u64,
    total: u64,
}

enum Kind {
    Bar(ProgressBar),
    Lines { begun: Instant, last: Instant },
    Hidden,
}

impl Progress {
    /// For `total` bytes of `repo`.
    pub fn new(repo: &str, total: u64, progress: environment::Progress) -> Self {
        let kind = match progress {
            environment::Progress::Hidden => Kind::Hidden,
            environment::Progress::Shown if total > 0 && terminal::is_watched() => Kind::Bar(bar(total)),
            environment::Progress::Shown => Kind::Lines { begun: Instant::now(), last: Instant::now() },
        };
        Self { kind, repo: repo.into(), file: String::new(), done: 0, total }
    }

    /// The next file begins.
    pub fn file(&mut self, name: &str) {
        self.file = name.into();
        if let Kind::Bar(bar) = &self.kind {
            bar.set_message(format!("{}: {name}", self.repo));
        }
    }

    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        match &mut self.kind {
            Kind::Bar(bar) => bar.inc(bytes),
            Kind::Lines { begun, last } if last.elapsed() >= INTERVAL => {
                *last = Instant::now();
                let line = line(&self.repo, &self.file, self.done, self.total, begun.elapsed());
                terminal::warn(format!("{line}\n").as_bytes());
            }
            Kind::Lines { .. } | Kind::Hidden => {}
        }
    }

    /// Bytes that must be downloaded again.
    pub fn take_back(&mut self, bytes: u64) {
        self.done = self.done.saturating_sub(bytes);
        if let Kind::Bar(bar) = &self.kind {
            bar.set_position(self.done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    const TEMPLATE: &str = "{msg} [{bar:20}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn line(repo: &str, file: &str, done: u64, total: u64, since: Duration) -> String {
    let rate = done as f64 / since.as_secs_f64().max(1e-3);
    format!("downloading {repo}: {file}, {} of {}, {}/s", size(done), size(total), size(rate as u64))
}

fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.2} GB", bytes * 1e-9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes * 1e-6),
        bytes => format!("{:.0} kB", bytes * 1e-3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let said = line("a/b", "model.safetensors", 1_200_000_000, 15_231_000_000, Duration::from_secs(10));
        assert_eq!(said, "downloading a/b: model.safetensors, 1.20 GB of 15.23 GB, 120.0 MB/s");
        assert_eq!(
            line("a/b", "x", 5_000, 2_000_000, Duration::from_secs(1)),
            "downloading a/b: x, 5 kB of 2.0 MB, 5 kB/s"
        );
    }
}
