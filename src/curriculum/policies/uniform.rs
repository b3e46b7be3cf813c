//! The baseline: all arms are drawn equally often throughout.

use super::super::{Mixture, Policy, View};
use super::{CurriculumConfig, NoSettings};
use crate::error::KeyError;

pub type Settings = NoSettings;

/// P(d) = 1/K.
struct Uniform;

pub fn build(_config: &CurriculumConfig, _mixture: &Mixture) -> Result<Box<dyn Policy>, KeyError> {
    Ok(Box::new(Uniform))
}

impl Policy for Uniform {
    fn weights(&self, view: View) -> Vec<f64> {
        let arms = view.arms.as_slice().len();
        vec![1.0 / arms as f64; arms]
    }
}
