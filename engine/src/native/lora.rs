//! A LoRA adapter beside the weights: W·x + (alpha / r)·B·(A·x) (arXiv 2106.09685).
//!
//! Nothing is merged: the base weights stay shared, and a new adapter is a new pointer.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::decoder::{DecoderConfig, Module};
use crate::{Adapter, EngineError};

/// An adapter's matrices, ready for the kernels.
pub struct Lora {
    layers: Vec<[Option<Delta>; Module::COUNT]>,
}

/// The update of one linear layer.
pub struct Delta {
    /// (rank × in).
    pub a: Vec<f32>,
    /// (out × rank), times alpha / r.
    pub b: Vec<f32>,
    pub rank: usize,
}

impl Lora {
    /// # Errors
    /// [`EngineError::Adapter`] if a tensor has another shape than the model's layer, or belongs to none.
    pub fn new(adapter: &Adapter, config: &DecoderConfig) -> Result<Self, EngineError> {
        let mut tensors = adapter.tensors()?;
        let scale = adapter.config.scale() as f32;
        let mut layer = |index: usize| -> Result<_, EngineError> {
            let mut deltas = [const { None }; Module::COUNT];
            for (delta, module) in deltas.iter_mut().zip(Module::ALL) {
                let path = format!("base_model.model.model.layers.{index}.{}", module.path());
                *delta = take(&mut tensors, &path, config.linear_shape(module), scale)?;
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

/// Takes the pair of matrices of the layer at `path`, if the adapter covers it.
fn take(
    tensors: &mut BTreeMap<String, Tensor>,
    path: &str,
    (input, output): (usize, usize),
    scale: f32,
) -> Result<Option<Delta>, EngineError> {
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
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let b = values(&b)?.into_iter().map(|x| x * scale).collect();
    Ok(Some(Delta { a: values(&a)?, b, rank }))
}
