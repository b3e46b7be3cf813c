//! A LoRA adapter beside the weights: W·x + (alpha / r)·B·(A·x) (arXiv 2106.09685).
//!
//! Nothing is merged: the base weights stay shared, and a new adapter is a new pointer.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::decoder::{DecoderConfig, Module};
use crate::{Adapter, EngineError};

/// An adapter's matrices where the model computes, in f32.
pub struct Lora {
    layers: Vec<[Option<Delta>; Module::COUNT]>,
}

/// The update of one linear layer.
pub struct Delta {
    /// (r × in).
    pub a: Tensor,
    /// (out × r), times alpha / r.
    pub b: Tensor,
}

impl Lora {
    /// # Errors
    /// [`EngineError::Adapter`] if a tensor has another shape than the model's layer, or belongs to none;
    /// [`EngineError::Generate`] if the device has no room for it.
    pub fn new(adapter: &Adapter, config: &DecoderConfig, device: &Device) -> Result<Self, EngineError> {
        let mut tensors = adapter.tensors()?;
        let scale = adapter.config.scale();
        let mut layer = |index: usize| -> Result<_, EngineError> {
            let mut deltas = [const { None }; Module::COUNT];
            for (delta, module) in deltas.iter_mut().zip(Module::ALL) {
                let path = format!("base_model.model.model.layers.{index}.{}", module.path());
                *delta = take(&mut tensors, &path, config.linear_shape(module))?
                    .map(|(a, b)| Delta::new(&a, &b, scale, device))
                    .transpose()?;
            }
            Ok(deltas)
        };
        let layers = (0..config.num_hidden_layers).map(&mut layer).collect::<Result<_, _>>()?;
        match tensors.keys().next() {
            Some(name) => Err(EngineError::Adapter(format!("{name}: the model has no such layer"))),
            None => Ok(Self { layers }),
        }
    }

    pub fn delta(&self, layer: usize, module: Module) -> Option<&Delta> {
        self.layers[layer][module as usize].as_ref()
    }
}

impl Delta {
    fn new(a: &Tensor, b: &Tensor, scale: f64, device: &Device) -> candle_core::Result<Self> {
        let place = |tensor: Tensor| tensor.to_dtype(DType::F32)?.contiguous()?.to_device(device);
        Ok(Self { a: place(a.clone())?, b: place((b.to_dtype(DType::F32)? * scale)?)? })
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }
}

/// Takes the pair of matrices of the layer at `path`, if the adapter covers it.
fn take(
    tensors: &mut BTreeMap<String, Tensor>,
    path: &str,
    (input, output): (usize, usize),
) -> Result<Option<(Tensor, Tensor)>, EngineError> {
    let names = ["A", "B"].map(|side| format!("{path}.lora_{side}.weight"));
    let [a, b] = [tensors.remove(&names[0]), tensors.remove(&names[1])];
    let (a, b) = match (a, b) {
        (None, None) => return Ok(None),
        (Some(a), Some(b)) => (a, b),
        _ => return Err(EngineError::Adapter(format!("{path}: one of lora_A and lora_B is missing"))),
    };
    let rank = a.dims()[0];
    if a.dims() != [rank, input] || b.dims() != [output, rank] {
        let problem =
            format!("{path}: expected (rank × {input}) and ({output} × rank), found {:?} and {:?}", a.dims(), b.dims());
        return Err(EngineError::Adapter(problem));
    }
    Ok(Some((a, b)))
}
