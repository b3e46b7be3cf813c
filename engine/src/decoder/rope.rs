//! Rotary position embeddings (arXiv 2104.09864), and their scaling to longer contexts.

use std::f64::consts::PI;

use serde_json::Value;

/// The angle by which each pair of features is rotated from one position to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// (head_dim/2), in radians.
    frequencies: Vec<f64>,
}

impl Rope {
    /// θ^(−2i/d), scaled as `scaling` (`rope_scaling` of `config.json`) says.
    ///
    /// # Errors
    /// If the scaling is not `default`, `linear` or `llama3`, or lacks a number.
    pub fn new(head_dim: usize, theta: f64, scaling: &Value) -> Result<Self, String> {
        let plain = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
        let kind = kind.map_or(Some("default"), Value::as_str).unwrap_or_default();
        let number = |key: &str| {
            let value = scaling.get(key).and_then(Value::as_f64).filter(|x| *x > 0.0);
            value.ok_or_else(|| format!("rope_scaling of type {kind:?} needs a positive {key}"))
        };
        let frequencies = match kind {
            "default" => plain.collect(),
            "linear" => {
                let factor = number("factor")?;
                plain.map(|frequency| frequency / factor).collect()
            }
            "llama3" => {
                let scaling = Llama3 {
                    factor: number("factor")?,
                    low: number("low_freq_factor")?,
                    high: number("high_freq_factor")?,
                    context: number("original_max_position_embeddings")?,
                };
                if scaling.high <= scaling.low {
                    return Err(format!("rope_scaling of type {kind:?}: high_freq_factor must exceed low_freq_factor"));
                }
                plain.map(|frequency| scaling.apply(frequency)).collect()
            }
            other => {
                return Err(format!("rope_scaling of type {other:?} is not supported; known: default, linear, llama3"));
            }
        };
        Ok(Self { frequencies })
    }

    /// cos and sin of the angles, each (positions × head_dim/2).
    pub fn tables(&self, positions: usize) -> (Vec<f32>, Vec<f32>) {
        let size = positions * self.frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for position in 0..positions {
            for frequency in &self.frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        (cos, sin)
    }
}

/// Llama 3.1's scaling: low frequencies are divided by `factor`, high ones stay, those in between are interpolated
/// (arXiv 2407.21783; the formula is that of transformers' `_compute_llama3_parameters`).
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    /// The context length of pre-training.
    context: f64,
}

impl Llama3 {
    fn apply(&self, frequency: f64) -> f64 {
        let turns = self.context * frequency / (2.0 * PI);
        let blend = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        (1.0 - blend) * frequency / self.factor + blend * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn llama3_scales_low_frequencies_only() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192});
        let (plain, scaled) = (Rope::new(128, 5e5, &Value::Null).unwrap(), Rope::new(128, 5e5, &scaling).unwrap());
        let ratio = |i: usize| plain.frequencies[i] / scaled.frequencies[i];
        assert_eq!((ratio(0), ratio(63)), (1.0, 8.0));
        // 8192 / (2π) · 500000^(−34·2/128) is 1.22 turns: between 1 and 4.
        assert!(ratio(34) > 1.0 && ratio(34) < 8.0);
    }

    #[test]
    fn unknown_scaling_is_refused_by_name() {
        let check = |scaling: Value, part: &str| {
            let problem = Rope::new(64, 1e4, &scaling).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        };
        check(json!({"type": "yarn", "factor": 4.0}), "yarn");
        check(json!({"rope_type": "linear"}), "factor");
    }
}
