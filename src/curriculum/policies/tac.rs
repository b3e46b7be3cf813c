//! Arms by how much can be learned from them and whether that helps the others: TAC, transfer-aware curriculum (arXiv 2606.25178).
//!
//! P(d) = softmax(s/τ) with s_d = a_d·(1 + α·t_d). a_d is the mean |Â| of the arm's last rollouts (`curriculum.window`). t_d is the mean,
//! over the other arms, of the cosine between their gradients and the gradient of d: above 0, a step on d also improves the others.
//! The gradients are those of the steps that are made anyway. The trainer gives each micro-batch rows of one arm, and a sketch of its
//! LoRA gradient (`train/sketch.rs`).
//!
//! Ours, where a summary of the paper left it open: an arm's gradient is the running mean of its sketches, each divided by its length,
//! because one step has few prompts of an arm. An arm that was not seen has a_d = 1, the largest mean |Â| that rewards of 0 and 1 have in
//! expectation, and t_d is 0 where gradients are not known.

use std::cell::OnceCell;

use serde::{Deserialize, Serialize};

use super::super::arms::Arm;
use super::super::{Gradients, Mixture, Policy, Score, View};
use super::{CurriculumConfig, above_zero, load_into, not_negative, softmax, to_json};
use crate::error::KeyError;

/// `[curriculum.tac]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// α: how much transfer counts; ≥ 0, which leaves mean |Â| alone.
    pub alpha: f64,
    /// τ of the softmax, in the unit of the advantages; > 0. Lower is greedier.
    pub temperature: f64,
    /// What remains of an arm's running mean when it gets another gradient; ≥ 0, below 1.
    pub memory: f64,
}

impl Default for Settings {
    /// Our choice: DUMP's τ, and a memory of about five steps of an arm.
    fn default() -> Self {
        Self { alpha: 1.0, temperature: 0.1, memory: 0.8 }
    }
}

struct Tac {
    settings: Settings,
    /// The running mean of each arm; empty before the first.
    gradients: Vec<Vec<f32>>,
    /// t of each arm, once computed for these gradients.
    transfers: OnceCell<Vec<f64>>,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let settings = config.tac.clone();
    not_negative("tac.alpha", settings.alpha)?;
    above_zero("tac.temperature", settings.temperature)?;
    not_negative("tac.memory", settings.memory)?;
    if settings.memory >= 1.0 {
        return Err(KeyError::new("tac.memory", format!("must be below 1, got {}", settings.memory)));
    }
    let gradients = vec![Vec::new(); mixture.arms()];
    Ok(Box::new(Tac { settings, gradients, transfers: OnceCell::new() }))
}

impl Tac {
    fn transfers(&self) -> Vec<f64> {
        let known: Vec<usize> = (0..self.gradients.len()).filter(|arm| !self.gradients[*arm].is_empty()).collect();
        let mut transfers = vec![0.0; self.gradients.len()];
        for &arm in &known {
            let others = known.iter().filter(|other| **other != arm);
            let cosines = others.map(|other| cosine(&self.gradients[arm], &self.gradients[*other]));
            transfers[arm] = cosines.sum::<f64>() / (known.len() - 1).max(1) as f64;
        }
        transfers
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// 0 if either is 0.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

impl Policy for Tac {
    fn weights(&self, view: View) -> Vec<f64> {
        let scores: Vec<f64> = self.scores(view).iter().map(|score| score.value + score.bonus).collect();
        softmax(&scores, self.settings.temperature)
    }

    /// a_d, and a_d·α·t_d as the bonus.
    fn scores(&self, view: View) -> Vec<Score> {
        let transfers = self.transfers.get_or_init(|| self.transfers());
        let signal = |arm: &Arm| if arm.n > 0 { arm.window.mean() } else { 1.0 };
        let signals = view.arms.as_slice().iter().map(signal);
        let score = |(value, transfer): (f64, &f64)| Score { value, bonus: value * self.settings.alpha * transfer };
        signals.zip(transfers).map(score).collect()
    }

    fn observe_gradients(&mut self, gradients: &Gradients) {
        let memory = self.settings.memory as f32;
        for (arm, gradient) in gradients {
            let length = dot(gradient, gradient).sqrt() as f32;
            let Some(mean) = self.gradients.get_mut(*arm).filter(|_| length.is_finite() && length > 0.0) else {
                continue;
            };
            if mean.len() == gradient.len() {
                let parts = mean.iter_mut().zip(gradient);
                parts.for_each(|(mean, new)| *mean = memory * *mean + (1.0 - memory) * new / length);
            } else {
                *mean = gradient.iter().map(|new| new / length).collect();
            }
        }
        self.transfers = OnceCell::new();
    }

    fn save(&self) -> serde_json::Value {
        to_json(&self.gradients)
    }

    fn load(&mut self, state: serde_json::Value) -> Result<(), String> {
        load_into(&mut self.gradients, state)?;
        self.transfers = OnceCell::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Curriculum, Observation};
    use super::super::tests::mixture;
    use super::*;

    fn tac(arms: usize) -> Curriculum {
        let config = CurriculumConfig { policy: "tac".into(), ..CurriculumConfig::default() };
        let mut curriculum = Curriculum::new(&config, &mixture(arms)).unwrap();
        for arm in 0..arms {
            curriculum.observe(&Observation::new(arm, vec![0.0; 2], vec![0.5, -0.5]), 0, &[0; 12]);
        }
        curriculum
    }

    fn check(curriculum: &Curriculum, transfers: &[f64]) {
        let scores = curriculum.scores(0, &[0; 12]);
        for (score, transfer) in scores.iter().zip(transfers) {
            assert!((score.value - 0.5).abs() < 1e-12 && (score.bonus - 0.5 * transfer).abs() < 1e-6, "{scores:?}");
        }
    }

    /// Arm 0 is at a right angle to arm 1 and at 45° to arm 2; arm 1 is at 135° to arm 2.
    #[test]
    fn transfer_is_the_mean_cosine_with_the_others() {
        let mut curriculum = tac(4);
        assert_eq!(curriculum.weights(0, &[0; 4]), [0.25; 4]);
        curriculum.observe_gradients(&[(0, vec![3.0, 0.0])].into());
        check(&curriculum, &[0.0; 4]);
        curriculum.observe_gradients(&[(1, vec![0.0, -2.0]), (2, vec![1.0, 1.0])].into());
        let half = 0.5_f64.sqrt();
        check(&curriculum, &[half / 2.0, -half / 2.0, 0.0, 0.0]);
        let weights = curriculum.weights(0, &[0; 4]);
        let odds = (0.5 * half / 2.0 / 0.1).exp();
        assert!((weights[0] / weights[2] - odds).abs() < 1e-5 && weights[2] == weights[3], "{weights:?}");
    }

    /// After (1, 0) and then (0, 5) an arm's mean is 0.8·(1, 0) + 0.2·(0, 1), whatever their lengths. Its cosine with (1, 0) is
    /// 0.8/√0.68. A gradient without length, or with a NaN, changes nothing.
    #[test]
    fn gradients_are_averaged_by_direction() {
        let mut curriculum = tac(2);
        for gradient in [vec![0.1, 0.0], vec![0.0, 5.0], vec![0.0, 0.0], vec![f32::NAN, 1.0]] {
            curriculum.observe_gradients(&[(0, gradient)].into());
        }
        curriculum.observe_gradients(&[(1, vec![2.0, 0.0])].into());
        check(&curriculum, &[0.8 / 0.68_f64.sqrt(); 2]);
    }
}
