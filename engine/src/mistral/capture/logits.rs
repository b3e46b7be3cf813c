//! Logits in and out of mistral.rs.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, Device, Storage, Tensor};

/// Calls `f` with the numbers of a vector on the CPU, without a copy if they are contiguous.
pub fn with_values<T>(logits: &Tensor, f: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let (storage, layout) = logits.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(f(&values[start..end]));
    }
    drop(storage);
    Ok(f(&logits.to_vec1::<f32>()?))
}

/// 0, 1, 2, … up to `vocabulary` at least. The largest number of any prefix is its last. Made once, and shared.
pub fn rising(vocabulary: usize) -> candle_core::Result<Tensor> {
    static RISING: Mutex<Option<Tensor>> = Mutex::new(None);
    let mut rising = RISING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*rising {
        Some(rising) if rising.elem_count() >= vocabulary => Ok(rising.clone()),
        _ => Ok(rising.insert(Tensor::arange(0.0, vocabulary as f32, &Device::Cpu)?).clone()),
    }
}
