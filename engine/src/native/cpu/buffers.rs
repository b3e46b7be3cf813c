//! Access to tensors and to arrays that are stored feature by feature.

use candle_core::{Storage, Tensor};

/// Gives `buffer` `len` values, of any content.
#[inline]
pub fn reset(buffer: &mut Vec<f32>, len: usize) {
    buffer.resize(len, 0.0);
}

/// Writes `row` as one column of `out` (features × n).
#[inline]
pub fn scatter(out: &mut [f32], row: &[f32], column: usize, n: usize) {
    out.iter_mut().skip(column).step_by(n).zip(row).for_each(|(out, value)| *out = *value);
}

/// Reads one column of `all` (features × n).
#[inline]
pub fn gather(row: &mut [f32], all: &[f32], column: usize, n: usize) {
    row.iter_mut().zip(all.iter().skip(column).step_by(n)).for_each(|(out, value)| *out = *value);
}

/// The tensor's values. They are f32 in main memory: `CpuModel::new` and `LiveAdapter::new` guarantee it.
pub fn read<T>(tensor: &Tensor, with: impl FnOnce(&[f32]) -> T) -> T {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { unreachable!("checked when the model was made") };
    let values = storage.as_slice::<f32>().expect("checked when the model was made");
    with(&values[layout.start_offset()..][..tensor.elem_count()])
}
