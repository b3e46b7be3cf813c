//! Gradients of keys and values, summed over query blocks and segments.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use crate::train::packed::Segment;

/// The gradients of keys or values in f32, by the first row of their segment. A prompt's sum over its completions.
#[derive(Default)]
pub struct KeyGrads(BTreeMap<usize, Tensor>);

impl KeyGrads {
    /// Adds `grad` (K × T × d), which covers the segment's prefix and then its own rows. Prompts must come before their
    /// completions.
    pub fn add(&mut self, segment: &Segment, grad: Option<Tensor>) -> Result<()> {
        let Some(grad) = grad else { return Ok(()) };
        let (heads, _, dim) = grad.dims3()?;
        let grad = grad.transpose(0, 1)?.reshape(((), heads * dim))?;
        let own = grad.narrow(0, segment.prefix.len(), segment.rows.len())?;
        self.0.insert(segment.rows.start, own);
        if segment.prefix.is_empty() {
            return Ok(());
        }
        match self.0.get_mut(&segment.prefix.start) {
            Some(sum) if sum.dim(0)? == segment.prefix.len() => {
                *sum = (&*sum + grad.narrow(0, 0, segment.prefix.len())?)?;
                Ok(())
            }
            _ => candle_core::bail!("rows {:?} continue no segment: this is a bug", segment.rows),
        }
    }

    /// All gradients (N × K·d) in the number format of `like`.
    pub fn rows(self, like: &Tensor) -> Result<Tensor> {
        Tensor::cat(&self.0.into_values().collect::<Vec<_>>(), 0)?.to_dtype(like.dtype())
    }
}

/// Adds the gradients of some keys of a segment (K × S × d), which are `keys` of `all`, to the sum for all of them, in f32.
pub fn add_part(sum: &mut Option<Tensor>, part: Tensor, keys: &Range<usize>, all: usize) -> Result<()> {
    let part = part.to_dtype(DType::F32)?.pad_with_zeros(1, keys.start, all - keys.end)?;
    *sum = Some(match sum.take() {
        None => part,
        Some(sum) => (sum + part)?,
    });
    Ok(())
}
