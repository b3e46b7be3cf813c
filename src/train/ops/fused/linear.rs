//! Linear layers with a frozen weight, with and without a LoRA update.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};

use super::values::{slice, tensor, with_values};
use crate::train::gemm::{Matrix, add_product};
use crate::train::ops::types::LoraDelta;

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, delta: Option<LoraDelta>) -> Result<Tensor> {
    let (weight, bias) = (weight.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
    match delta {
        None => x.contiguous()?.apply_op1(FrozenLinear { weight, bias }),
        Some(LoraDelta { a, b, scale }) => {
            let op = FusedLoraLinear { frozen: FrozenLinear { weight, bias }, scale: scale as f32 };
            x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op)
        }
    }
}

/// x·Wᵀ + b. Only x has a gradient.
struct FrozenLinear {
    /// (out × in).
    weight: Tensor,
    bias: Option<Tensor>,
}

impl FrozenLinear {
    /// x·Wᵀ + b, (N × out).
    fn forward(&self, x: &[f32]) -> Result<Vec<f32>> {
        let (output, input) = self.weight.dims2()?;
        let mut out = match &self.bias {
            Some(bias) => with_values([bias], |[bias]| bias.repeat(x.len() / input))?,
            None => vec![0.0; x.len() / input * output],
        };
        with_values([&self.weight], |[weight]| {
            add_product(&mut out, 1.0, Matrix::new(x, input), Matrix::new(weight, input).t());
        })?;
        Ok(out)
    }

    /// g·W, (N × in).
    fn backward(&self, grad: &[f32]) -> Result<Vec<f32>> {
        let (output, input) = self.weight.dims2()?;
        let mut dx = vec![0.0; grad.len() / output * input];
        with_values([&self.weight], |[weight]| {
            add_product(&mut dx, 1.0, Matrix::new(grad, output), Matrix::new(weight, input));
        })?;
        Ok(dx)
    }

    /// The output's shape.
    fn shape(&self, x: &Layout) -> Result<Shape> {
        Ok(Shape::from((x.dims()[0], self.weight.dims()[0])))
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.forward(slice(storage, layout)?)?), self.shape(layout)?))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(tensor(with_values([grad], |[grad]| self.backward(grad))??, x)?))
    }
}

/// x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ. x, A (r × in) and B (out × r) have gradients.
struct FusedLoraLinear {
    frozen: FrozenLinear,
    scale: f32,
}

impl CustomOp3 for FusedLoraLinear {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, a, b) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let (rank, input) = (l2.dims()[0], l2.dims()[1]);
        let mut out = self.frozen.forward(x)?;
        let low = self.low(x, a, rank, input);
        add_product(&mut out, 1.0, Matrix::new(&low, rank), Matrix::new(b, rank).t());
        Ok((CpuStorage::F32(out), self.frozen.shape(l1)?))
    }

    /// With h = scale·g·B: dx = g·W + h·A, dA = hᵀ·x, dB = gᵀ·(scale·x·Aᵀ).
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rank, input), output) = (a.dims2()?, b.dim(0)?);
        let (dx, da, db) = with_values([x, a, b, grad], |[x, a, b, grad]| {
            let low = self.low(x, a, rank, input);
            let g = Matrix::new(grad, output);
            let mut h = vec![0.0; low.len()];
            add_product(&mut h, self.scale, g, Matrix::new(b, rank));
            let mut dx = self.frozen.backward(grad)?;
            add_product(&mut dx, 1.0, Matrix::new(&h, rank), Matrix::new(a, input));
            let (mut da, mut db) = (vec![0.0; a.len()], vec![0.0; b.len()]);
            add_product(&mut da, 1.0, Matrix::new(&h, rank).t(), Matrix::new(x, input));
            add_product(&mut db, 1.0, g.t(), Matrix::new(&low, rank));
            Ok::<_, candle_core::Error>((dx, da, db))
        })??;
        Ok((Some(tensor(dx, x)?), Some(tensor(da, a)?), Some(tensor(db, b)?)))
    }
}

impl FusedLoraLinear {
    /// scale·x·Aᵀ (N × r).
    fn low(&self, x: &[f32], a: &[f32], rank: usize, input: usize) -> Vec<f32> {
        let mut low = vec![0.0; x.len() / input * rank];
        add_product(&mut low, self.scale, Matrix::new(x, input), Matrix::new(a, input).t());
        low
    }
}
