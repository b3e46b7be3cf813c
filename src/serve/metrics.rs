//! Counters, in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Since the start of the server.
#[derive(Default)]
pub struct Metrics {
    pub requests: AtomicU64,
    /// Refused with a status below 500.
    pub refused: AtomicU64,
    /// Failed with another.
    pub failed: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
}

pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Metrics {
    /// `running`: requests that are answered now. `adapters`: those that are loaded.
    pub fn text(&self, running: usize, adapters: usize) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = [
            ("requests_total", "counter", "Requests for completions.", of(&self.requests)),
            ("requests_refused_total", "counter", "Requests refused with a status below 500.", of(&self.refused)),
            ("requests_failed_total", "counter", "Requests failed with a status from 500.", of(&self.failed)),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", of(&self.prompt_tokens)),
            ("generated_tokens_total", "counter", "Tokens of completions.", of(&self.generated_tokens)),
            ("requests_running", "gauge", "Requests that are answered now.", running as u64),
            ("adapters", "gauge", "Adapters that are loaded.", adapters as u64),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in all {
            // Writing into a string cannot fail.
            let _ =
                write!(text, "# HELP dump_rl_{name} {help}\n# TYPE dump_rl_{name} {kind}\ndump_rl_{name} {value}\n");
        }
        text
    }
}
