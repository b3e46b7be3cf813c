//! Parts of a graph that are computed again in the backward pass, so that nothing inside them is kept.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor, Var,
};

/// A function of `N` tensors that passes its gradient on to all of them; what else it uses must need none.
pub trait Function<const N: usize>: Fn(&[Tensor; N]) -> Result<Tensor> + Send + Sync + 'static {}

impl<const N: usize, F: Fn(&[Tensor; N]) -> Result<Tensor> + Send + Sync + 'static> Function<N> for F {}

/// `f([x])`, of which only `x` and the value are kept.
pub fn one(x: &Tensor, f: impl Function<1>) -> Result<Tensor> {
    let value = value(&[x], &f)?;
    x.contiguous()?.apply_op1(Recomputed { value, f })
}

/// `f([x, y, z])`, of which only `x`, `y`, `z` and the value are kept.
pub fn three(x: &Tensor, y: &Tensor, z: &Tensor, f: impl Function<3>) -> Result<Tensor> {
    let value = value(&[x, y, z], &f)?;
    x.contiguous()?.apply_op3(&y.contiguous()?, &z.contiguous()?, Recomputed { value, f })
}

/// The value, in memory of its own.
fn value<const N: usize>(inputs: &[&Tensor; N], f: &impl Function<N>) -> Result<Tensor> {
    f(&inputs.map(Tensor::detach))?.detach().force_contiguous()
}

/// Gives `value` forward; backward `f` is done again, and gone back through.
struct Recomputed<F> {
    value: Tensor,
    f: F,
}

impl<F> Recomputed<F> {
    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]>
    where
        F: Function<N>,
    {
        let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(&input.detach())).collect::<Result<_>>()?;
        let value = (self.f)(&std::array::from_fn(|i| vars[i].as_tensor().clone()))?;
        // The derivative of Σ value·grad with respect to the value is grad.
        let mut store = (value * grad)?.sum_all()?.backward()?;
        Ok(std::array::from_fn(|i| store.remove(&vars[i])))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { return elsewhere() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { return elsewhere() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        let Storage::Metal(storage) = &*storage else { return elsewhere() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

fn elsewhere<T>() -> Result<T> {
    candle_core::bail!("the value is on another device than what it was made of: this is a bug")
}

impl<F: Function<1>> CustomOp1 for Recomputed<F> {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [x] = self.gradients([x], grad)?;
        Ok(x)
    }
}

impl<F: Function<3>> CustomOp3 for Recomputed<F> {
    fn name(&self) -> &'static str {
        "recomputed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, y, z] = self.gradients([x, y, z], grad)?;
        Ok((x, y, z))
    }
}
