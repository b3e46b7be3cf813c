//! Which stage limits a run, and what to change. Pure: turns seconds into a sentence.

use super::svg::{number, percent};

/// Seconds of a whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    /// All steps, without evaluations.
    pub steps: f64,
    pub generate: f64,
    pub train: f64,
    pub eval: f64,
    /// η.
    pub max_off_policy_steps: f64,
}

/// If evaluations take more than this share of the time, the advice is about them.
const MUCH_EVAL: f64 = 0.35;

/// The stages are balanced if their idle shares differ by less than this.
const BALANCED: f64 = 0.15;

impl Times {
    /// The share of the time, without evaluations, in which the trainer was idle.
    pub fn trainer_idle(&self) -> f64 {
        (1.0 - self.train / self.steps).max(0.0)
    }

    /// The share of the time, without evaluations, in which the engine was idle.
    pub fn engine_idle(&self) -> f64 {
        (1.0 - self.generate / self.steps).max(0.0)
    }

    /// Names the bottleneck and what to change; none if no times were logged.
    pub fn sentence(&self) -> Option<String> {
        if self.steps <= 0.0 {
            return None;
        }
        let eval = self.eval / (self.steps + self.eval);
        if eval > MUCH_EVAL {
            let problem = format!("Evaluations take {} of the wall time", percent(eval));
            return Some(problem + ": raise eval.interval, or lower eval.prompts or eval.samples.");
        }
        Some(if self.max_off_policy_steps == 0.0 { self.synchronous() } else { self.overlapped() })
    }

    fn synchronous(&self) -> String {
        let (generate, train) = (self.generate / self.steps, self.train / self.steps);
        let (slow, share, change) = if generate >= train {
            ("Generation", generate, FASTER_GENERATION)
        } else {
            ("Training", train, FASTER_TRAINING)
        };
        let saved = percent(generate.min(train));
        format!(
            "{slow} is the bottleneck with {} of a step's time. The stages wait for each other, because \
             pipeline.max_off_policy_steps is 0. A value of 1 would let them overlap, and save at most {saved} where they do \
             not share cores. {change}.",
            percent(share)
        )
    }

    fn overlapped(&self) -> String {
        let (trainer, engine) = (self.trainer_idle(), self.engine_idle());
        let idle = |what: &str, share| format!("the {what} is idle {} of the time", percent(share));
        if (trainer - engine).abs() < BALANCED {
            let both = format!("{} and {}", idle("trainer", trainer), idle("engine", engine));
            let advice = if trainer.min(engine) > 0.3 {
                "Both wait: raise pipeline.max_off_policy_steps"
            } else {
                "The stages are balanced: only making both faster would help"
            };
            return format!("No stage alone is the bottleneck: {both}. {advice}.");
        }
        if trainer > engine {
            return format!("Generation is the bottleneck: {}. {FASTER_GENERATION}.", idle("trainer", trainer));
        }
        format!("Training is the bottleneck: {}. {FASTER_TRAINING}.", idle("engine", engine))
    }
}

const FASTER_GENERATION: &str =
    "To generate faster, raise engine.max_sequences, try engine.dtype = \"bf16\", or lower engine.max_new_tokens";
const FASTER_TRAINING: &str = "To train faster, raise trainer.micro_batch_tokens, set trainer.recompute = \"never\" if memory allows, or lower lora.rank";

/// A second sentence about groups without a signal, if they are many. `share` is their share of the trained groups.
pub fn wasted(share: f64, filtered: bool) -> Option<String> {
    let much = share > 0.25 && !filtered;
    much.then(|| {
        format!(
            "{} of the groups that were trained on had one reward for all completions, so no advantage. filter.zero_variance = \
             true draws other groups instead, and costs as many more completions.",
            percent(share)
        )
    })
}

/// Seconds in a readable unit: "48 s", "3.5 min", "2.1 h".
pub fn duration(seconds: f64) -> String {
    match seconds {
        7200.0.. => format!("{} h", number(seconds / 3600.0)),
        120.0.. => format!("{} min", number(seconds / 60.0)),
        _ => format!("{} s", number(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(times: Times, words: &[&str]) {
        let sentence = times.sentence().unwrap_or_default();
        assert!(words.iter().all(|word| sentence.contains(word)), "{sentence}");
    }

    #[test]
    fn the_stage_that_limits_is_named() {
        let times = Times { steps: 100.0, generate: 60.0, train: 35.0, eval: 10.0, max_off_policy_steps: 0.0 };
        check(times, &["Generation is the bottleneck with 60 %", "save at most 35 %", "engine.max_sequences"]);
        check(Times { generate: 20.0, train: 75.0, ..times }, &["Training", "75 %", "trainer.micro_batch_tokens"]);
        check(Times { eval: 100.0, ..times }, &["Evaluations take 50 %", "eval.interval"]);
        let overlapped = Times { max_off_policy_steps: 1.0, ..times };
        check(Times { generate: 99.0, ..overlapped }, &["Generation", "the trainer is idle 65 %"]);
        check(Times { generate: 40.0, train: 98.0, ..overlapped }, &["Training", "the engine is idle 60 %"]);
        check(Times { generate: 95.0, train: 92.0, ..overlapped }, &["No stage alone", "balanced"]);
        assert_eq!(Times::default().sentence(), None);
    }
}
