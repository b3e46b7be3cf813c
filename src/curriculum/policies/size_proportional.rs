//! The baseline of a concatenated data set: every row equally often, so a distribution as often as it has rows.
//!
//! P(d) = rows(d) / Σ rows. It is what a trainer does that shuffles all sources together.

use super::super::{Mixture, Policy, View};
use super::{CurriculumConfig, NoSettings, normalised};
use crate::error::KeyError;

pub type Settings = NoSettings;

struct SizeProportional {
    weights: Vec<f64>,
}

pub fn build(_config: &CurriculumConfig, mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    Ok(Box::new(SizeProportional { weights: normalised(mixture.sizes.iter().map(|&rows| rows as f64).collect()) }))
}

impl Policy for SizeProportional {
    fn weights(&self, _view: View) -> Vec<f64> {
        self.weights.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Curriculum;
    use super::super::tests::mixture;
    use super::*;

    #[test]
    fn a_row_is_as_likely_as_any_other() {
        let config = CurriculumConfig { policy: "size_proportional".into(), ..CurriculumConfig::default() };
        let curriculum = Curriculum::new(&config, &mixture(4)).unwrap();
        assert_eq!(curriculum.weights(0, &[0; 4]), [0.1, 0.2, 0.3, 0.4]);
    }
}
