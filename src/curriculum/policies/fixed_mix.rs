//! A mix that the user chooses: the same shares in every step.
//!
//! P(d) = w_d / Σ w, with w from the configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::{Mixture, Policy, View};
use super::{CurriculumConfig, normalised, not_negative};
use crate::error::KeyError;

/// `[curriculum.fixed_mix]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How often each source is drawn, in any unit: only the ratios count. A source that is not named is never drawn.
    /// With an empty table all sources are drawn equally often.
    pub weights: BTreeMap<String, f64>,
}

struct FixedMix {
    weights: Vec<f64>,
}

pub fn build(config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    let named = &config.fixed_mix.weights;
    for (source, &weight) in named {
        let key = format!("fixed_mix.weights.{source}");
        if !mixture.sources.contains(source) {
            return Err(KeyError::new(
                key,
                format!("this source does not exist; known: {}", mixture.sources.join(", ")),
            ));
        }
        not_negative(&key, weight)?;
    }
    let largest = named.values().copied().fold(0.0, f64::max);
    if largest == 0.0 && !named.is_empty() {
        return Err(KeyError::new("fixed_mix.weights", "at least one source must have a weight above 0"));
    }
    // Divided by the largest, so that no sum overflows.
    let share = |source| named.get(source).map_or(0.0, |weight| weight / largest);
    Ok(Box::new(FixedMix { weights: normalised(mixture.sources.iter().map(share).collect()) }))
}

impl Policy for FixedMix {
    fn weights(&self, _view: View) -> Vec<f64> {
        self.weights.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    fn weights(named: &[(&str, f64)]) -> Result<Vec<f64>, KeyError> {
        let weights = named.iter().map(|(source, weight)| (source.to_string(), *weight)).collect();
        let config = CurriculumConfig {
            policy: "fixed_mix".into(),
            fixed_mix: Settings { weights },
            ..CurriculumConfig::default()
        };
        Ok(Curriculum::new(&config, &mixture(3))?.weights(0, &[0; 3]))
    }

    #[test]
    fn only_the_ratios_count() {
        assert_eq!(weights(&[("source_0", 3.0), ("source_2", 1.0)]).unwrap(), [0.75, 0.0, 0.25]);
        assert_eq!(weights(&[("source_0", f64::MAX), ("source_1", f64::MAX)]).unwrap(), [0.5, 0.5, 0.0]);
        assert_eq!(weights(&[]).unwrap(), [1.0 / 3.0; 3]);
    }

    #[test]
    fn what_cannot_be_drawn_from_is_refused() {
        let KeyError { key, problem } = weights(&[("sauce_0", 1.0)]).unwrap_err();
        assert!(key == "fixed_mix.weights.sauce_0" && problem.contains("source_0, source_1, source_2"), "{problem}");
        assert_eq!(weights(&[("source_1", f64::NAN)]).unwrap_err().key, "fixed_mix.weights.source_1");
        assert_eq!(weights(&[("source_1", 0.0)]).unwrap_err().key, "fixed_mix.weights");
    }
}
