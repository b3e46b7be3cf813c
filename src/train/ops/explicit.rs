//! Operators made of candle's own whose backward is written out: nothing inside them is kept, and the graph holds their
//! inputs and their value alone.

use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor,
};

/// The gradients of `N` inputs, from them, the value, and its gradient; none of these remembers how it came about.
pub trait Backward<const N: usize>: Fn([Tensor; N], &Tensor, &Tensor) -> Result<[Tensor; N]> + Send + Sync {}

impl<const N: usize, F: Fn([Tensor; N], &Tensor, &Tensor) -> Result<[Tensor; N]> + Send + Sync> Backward<N> for F {}

/// `value`, a function of x.
pub fn one(x: &Tensor, value: Tensor, backward: impl Backward<1> + 'static) -> Result<Tensor> {
    if x.track_op() { x.apply_op1(Explicit::new(value, backward)?) } else { Ok(value) }
}

/// `value`, a function of x and y.
pub fn two(x: &Tensor, y: &Tensor, value: Tensor, backward: impl Backward<2> + 'static) -> Result<Tensor> {
    if x.track_op() || y.track_op() { x.apply_op2(y, Explicit::new(value, backward)?) } else { Ok(value) }
}

/// `value`, a function of x, y and z.
pub fn three(
    x: &Tensor,
    y: &Tensor,
    z: &Tensor,
    value: Tensor,
    backward: impl Backward<3> + 'static,
) -> Result<Tensor> {
    let is_tracked = [x, y, z].iter().any(|input| input.track_op());
    if is_tracked { x.apply_op3(y, z, Explicit::new(value, backward)?) } else { Ok(value) }
}

/// Gives its value once, forward: what the graph then holds is a copy, and the value is freed.
struct Explicit<F> {
    value: Mutex<Option<Tensor>>,
    backward: F,
}

impl<F> Explicit<F> {
    fn new(value: Tensor, backward: F) -> Result<Self> {
        // A storage is copied from its beginning.
        let begins = value.is_contiguous() && value.layout().start_offset() == 0;
        let value = if begins { value } else { value.force_contiguous()? };
        Ok(Self { value: Mutex::new(Some(value)), backward })
    }

    fn take(&self) -> Result<Tensor> {
        let value = self.value.lock().expect("nothing panics while it is held").take();
        value.ok_or_else(|| candle_core::Error::Msg("an operator ran forward twice: this is a bug".into()))
    }

    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], value: &Tensor, grad: &Tensor) -> Result<[Tensor; N]>
    where
        F: Backward<N>,
    {
        (self.backward)(inputs.map(Tensor::detach), &value.detach(), grad)
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { return elsewhere() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { return elsewhere() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Metal(storage) = &*storage else { return elsewhere() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

fn elsewhere<T>() -> Result<T> {
    candle_core::bail!("the value is on another device than what it was made of: this is a bug")
}

const NAME: &str = "explicit";

impl<F: Backward<1>> CustomOp1 for Explicit<F> {
    fn name(&self) -> &'static str {
        NAME
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

    fn bwd(&self, x: &Tensor, value: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [x] = self.gradients([x], value, grad)?;
        Ok(Some(x))
    }
}

impl<F: Backward<2>> CustomOp2 for Explicit<F> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.metal()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, value: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, y] = self.gradients([x, y], value, grad)?;
        Ok((Some(x), Some(y)))
    }
}

impl<F: Backward<3>> CustomOp3 for Explicit<F> {
    fn name(&self) -> &'static str {
        NAME
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
        value: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, y, z] = self.gradients([x, y, z], value, grad)?;
        Ok((Some(x), Some(y), Some(z)))
    }
}
