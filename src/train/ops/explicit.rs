//! Operators with a forward made of candle's operators and an explicit backward. The graph keeps their inputs and their
//! value, and no intermediate results.

use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, MetalStorage, Result, Shape, Storage, Tensor,
};

/// Computes the gradients of `N` inputs from the inputs, the value and the value's gradient. Inputs and value are detached.
pub trait Backward<const N: usize>: Fn([Tensor; N], &Tensor, &Tensor) -> Result<[Tensor; N]> + Send + Sync {}

impl<const N: usize, F: Fn([Tensor; N], &Tensor, &Tensor) -> Result<[Tensor; N]> + Send + Sync> Backward<N> for F {}

/// `value`, which is a function of x, with its backward.
pub fn one(x: &Tensor, value: Tensor, backward: impl Backward<1> + 'static) -> Result<Tensor> {
    if x.track_op() { x.apply_op1(Explicit::new(value, backward)?) } else { Ok(value) }
}

/// `value`, which is a function of x and y, with its backward.
pub fn two(x: &Tensor, y: &Tensor, value: Tensor, backward: impl Backward<2> + 'static) -> Result<Tensor> {
    if x.track_op() || y.track_op() { x.apply_op2(y, Explicit::new(value, backward)?) } else { Ok(value) }
}

/// `value`, which is a function of x, y and z, with its backward.
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

/// An operator whose forward hands out the value, once. The graph then holds a copy, and the value is freed.
struct Explicit<F> {
    value: Mutex<Option<Tensor>>,
    backward: F,
}

impl<F> Explicit<F> {
    fn new(value: Tensor, backward: F) -> Result<Self> {
        // The copy of the storage is read from its beginning, so the value must begin there.
        let is_at_start = value.is_contiguous() && value.layout().start_offset() == 0;
        let value = if is_at_start { value } else { value.force_contiguous()? };
        Ok(Self { value: Mutex::new(Some(value)), backward })
    }

    fn take(&self) -> Result<Tensor> {
        let value = self.value.lock().expect("nothing panics while the lock is held").take();
        value.ok_or_else(|| candle_core::Error::Msg("the forward of an operator ran twice: this is a bug".into()))
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
        let Storage::Cpu(storage) = &*storage else { return wrong_device() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { return wrong_device() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal(&self) -> Result<(MetalStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        let Storage::Metal(storage) = &*storage else { return wrong_device() };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

fn wrong_device<T>() -> Result<T> {
    candle_core::bail!("the value and the inputs are on different devices: this is a bug")
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
