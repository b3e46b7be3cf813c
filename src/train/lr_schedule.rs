//! The learning rate of each optimiser update. Pure.

use crate::config::optim::{LrSchedule, OptimConfig};

/// The learning rate of update `update` (from 0) of `total`.
pub fn learning_rate(optim: &OptimConfig, update: u64, total: u64) -> f64 {
    if update < optim.warmup_steps {
        return optim.lr * (update + 1) as f64 / optim.warmup_steps as f64;
    }
    let after_warmup = total.saturating_sub(optim.warmup_steps).max(1);
    let progress = ((update - optim.warmup_steps) as f64 / after_warmup as f64).min(1.0);
    let remaining = match optim.lr_schedule {
        LrSchedule::Constant => return optim.lr,
        LrSchedule::Linear => 1.0 - progress,
        LrSchedule::WarmupStableDecay => ((1.0 - progress) / 0.3).min(1.0),
        LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    optim.lr * (optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_schedule() {
        let check = |lr_schedule, expected: [f64; 4]| {
            let config =
                OptimConfig { lr: 2.0, warmup_steps: 2, lr_schedule, min_lr_ratio: 0.1, ..OptimConfig::default() };
            let rates = [0, 1, 6, 10].map(|update| learning_rate(&config, update, 10));
            assert!(rates.iter().zip(expected).all(|(got, want)| (got - want).abs() < 1e-12), "{rates:?}");
        };
        check(LrSchedule::Constant, [1.0, 2.0, 2.0, 2.0]);
        check(LrSchedule::Linear, [1.0, 2.0, 1.1, 0.2]);
        check(LrSchedule::Cosine, [1.0, 2.0, 1.1, 0.2]);
        check(LrSchedule::WarmupStableDecay, [1.0, 2.0, 2.0, 0.2]);
    }
}
