//! The keys and values of one block.

use engine::decoder::first_seen;

/// The keys and values of one block of one head.
///
/// The number of keys is padded to a multiple of [`engine::kernels::LANES`]. The padding is 0.
pub struct KeyBlock {
    /// Index of the first key in its sequence.
    pub start: usize,
    /// The number of keys, and that number with padding.
    pub len: usize,
    pub padded: usize,
    /// (padded × d).
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// The transposes, (d × padded).
    pub kt: Vec<f32>,
    pub vt: Vec<f32>,
}

impl KeyBlock {
    /// Sets the scores of keys after `position`, the query's index in its sequence, and before its window to −∞.
    #[inline]
    pub fn mask(&self, row: &mut [f32], position: usize, window: Option<usize>) {
        let index = |key: usize| key.saturating_sub(self.start).min(self.len);
        row[..index(first_seen(position, window))].fill(f32::NEG_INFINITY);
        row[index(position + 1)..].fill(f32::NEG_INFINITY);
    }
}

/// (rows × cols) → (cols × rows).
pub fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    let mut out = vec![0.0; values.len()];
    for (row, values) in values.chunks_exact(cols).enumerate() {
        values.iter().enumerate().for_each(|(col, value)| out[col * rows + row] = *value);
    }
    out
}
