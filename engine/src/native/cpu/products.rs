//! The products of a block: weights, biases and the adapter.

use candle_core::Tensor;

use super::bf16::Bf16Matrix;
use super::buffers::{read, reset};
use super::parameters::Parameters;
use crate::decoder::{Linear, Module};
use crate::kernels::{self, Split};
use crate::native::live_adapter::LiveAdapter;

/// Scratch memory of products.
#[derive(Default)]
pub struct Scratch {
    /// A·x of an adapter.
    pub low: Vec<f32>,
    /// x in bf16.
    pub packed: Vec<u32>,
}

/// The linear layers of one block in one pass.
#[derive(Clone, Copy)]
pub struct Products<'a> {
    pub parameters: &'a Parameters,
    pub adapter: &'a LiveAdapter,
    pub layer: usize,
    /// Rows, padded.
    pub n: usize,
    pub split: Split,
}

impl Products<'_> {
    /// `out` = W·x + b, plus B·(A·x) if the adapter covers the layer; `+=` instead of `=` with `add`.
    pub fn apply(self, module: Module, out: &mut [f32], x: &[f32], scratch: &mut Scratch, add: bool) {
        let Self { parameters, adapter, layer, n, split } = self;
        let Linear { weight, bias } = parameters.weights.layers[layer].linear(module);
        let rounded = parameters.rounded.as_ref().map(|rounded| &rounded.layers[layer][module as usize]);
        multiply(out, weight, rounded, x, &mut scratch.packed, n, add, split);
        if let Some(bias) = bias {
            read(bias, |bias| kernels::add_bias(out, bias, n));
        }
        if let Some(update) = adapter.update(layer, module) {
            reset(&mut scratch.low, update.rank() * n);
            read(&update.a, |a| kernels::matmul(&mut scratch.low, a, x, n, false, Split::Alone));
            read(&update.b, |b| kernels::matmul(out, b, &scratch.low, n, true, split));
        }
    }
}

/// `out` = weight · x, or `+=` with `add`; in bf16 if `rounded` is given.
#[expect(clippy::too_many_arguments, reason = "a matrix product with its scratch memory")]
pub fn multiply(
    out: &mut [f32],
    weight: &Tensor,
    rounded: Option<&Bf16Matrix>,
    x: &[f32],
    packed: &mut Vec<u32>,
    n: usize,
    add: bool,
    split: Split,
) {
    match rounded {
        Some(matrix) => matrix.multiply(out, x, packed, n, add, split),
        None => read(weight, |weight| kernels::matmul(out, weight, x, n, add, split)),
    }
}
