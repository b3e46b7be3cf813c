//! Tensors as slices, and back.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

/// The slice that a contiguous f32 layout covers.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = layout.contiguous_offsets().ok_or_else(|| candle_core::Error::Msg("not contiguous".into()))?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `f` with the values of f32 tensors on the CPU.
pub fn with_values<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let tensors = tensors.map(Tensor::contiguous);
    let mut guards = Vec::with_capacity(N);
    for tensor in &tensors {
        guards.push(tensor.as_ref().map_err(|e| candle_core::Error::Msg(e.to_string()))?.storage_and_layout());
    }
    let mut values = [&[] as &[f32]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&guards) {
        *values = match &**storage {
            Storage::Cpu(storage) => slice(storage, layout)?,
            _ => candle_core::bail!("fused operators are for the CPU"),
        };
    }
    Ok(f(values))
}

/// A tensor of `values` with the shape and device of `like`.
pub fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Refuses rows that do not match their targets.
pub fn check_rows(x: &Tensor, targets: &Tensor) -> Result<()> {
    if x.dim(0)? != targets.dim(0)? {
        candle_core::bail!("{} rows for {} targets", x.dim(0)?, targets.dim(0)?);
    }
    Ok(())
}
