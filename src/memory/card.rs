//! How much memory a device has.

use crate::config::run::{DeviceKind, RunConfig};

/// Memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    pub total: usize,
    /// What nothing else has taken.
    pub free: usize,
}

/// On a GPU what `engine.device_memory_mb` says, or the card that is there. Main memory is not counted.
pub fn known_card(config: &RunConfig) -> Option<Card> {
    match (config.engine.device, config.engine.device_memory_mb) {
        (DeviceKind::Cpu, _) => None,
        (DeviceKind::Cuda, 0) => card(config.engine.device_index),
        (DeviceKind::Cuda, mb) => Some(Card { total: mb << 20, free: mb << 20 }),
    }
}

/// The memory of CUDA device `index`; `None` without one.
#[cfg(feature = "cuda")]
fn card(index: usize) -> Option<Card> {
    use candle_core::cuda::cudarc::driver::result;
    let device = candle_core::Device::new_cuda(index).ok()?;
    device.as_cuda_device().ok()?.cuda_stream().context().bind_to_thread().ok()?;
    let (free, total) = result::mem_get_info().ok()?;
    Some(Card { total, free })
}

#[cfg(not(feature = "cuda"))]
fn card(_index: usize) -> Option<Card> {
    None
}
