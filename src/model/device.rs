//! The trainer's device, and what the machine has. When a card cannot be opened, one sentence says why.

use candle_core::Device;

use crate::config::engine::{DeviceKind, EngineConfig};
use crate::config::resolve::{Card, HAS_CUDA, Machine};
use crate::error::InputError;

/// What is wrong where the program cannot use a GPU.
pub const NO_CUDA: &str = "this program was built without GPU support; build it with --features cuda";

/// The compute capability that the kernels were compiled for, such as "90". Absent if the build took that of its own card.
#[cfg(feature = "cuda")]
const BUILT_FOR: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

/// The device that `engine.device` names.
///
/// # Errors
/// No GPU support in this program; no driver or no card; a card that the kernels were not compiled for.
pub fn open(engine: &EngineConfig) -> Result<Device, InputError> {
    match engine.device {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda => open_card(engine.device_index),
    }
}

/// What this machine has. `device` is the open device, where there is one; the GPU's memory is what
/// `engine.device_memory_mb` says, or what the open card tells.
pub fn machine(engine: &EngineConfig, device: Option<&Device>) -> Machine {
    let card = match (engine.device, engine.device_memory_mb) {
        (DeviceKind::Cpu, _) => None,
        (DeviceKind::Cuda, 0) => device.and_then(memory_of),
        (DeviceKind::Cuda, mb) => Some(Card { total: mb << 20, free: mb << 20 }),
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    Machine { cores, has_bf16: engine::native::has_bf16(), card }
}

#[cfg(feature = "cuda")]
fn memory_of(device: &Device) -> Option<Card> {
    use candle_core::cuda::cudarc::driver::result;
    device.as_cuda_device().ok()?.cuda_stream().context().bind_to_thread().ok()?;
    let (free, total) = result::mem_get_info().ok()?;
    Some(Card { total, free })
}

#[cfg(not(feature = "cuda"))]
fn memory_of(_: &Device) -> Option<Card> {
    None
}

/// The CUDA card with this number, from 0.
fn open_card(index: usize) -> Result<Device, InputError> {
    let wrong = |problem: String| InputError::new("engine.device", problem);
    if !HAS_CUDA {
        return Err(wrong(NO_CUDA.to_owned()));
    }
    let device = Device::new_cuda(index).map_err(|e| wrong(no_card(&e)))?;
    check_kernels(&device).map_err(wrong)?;
    Ok(device)
}

fn no_card(error: &candle_core::Error) -> String {
    // Only the first line: the rest may be a backtrace.
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    format!(
        "\"cuda\" needs an NVIDIA card and its driver, and there is none that works: {why}; see what nvidia-smi lists, or use \"cpu\""
    )
}

#[cfg(not(feature = "cuda"))]
fn check_kernels(_: &Device) -> Result<(), String> {
    Ok(())
}

#[cfg(feature = "cuda")]
fn check_kernels(device: &Device) -> Result<(), String> {
    let Some(built) = BUILT_FOR.and_then(capability) else { return Ok(()) };
    let card = capability_of(device).map_err(|e| no_card(&e))?;
    if runs_on(built, card) {
        return Ok(());
    }
    let ((built_major, built_minor), (major, minor)) = (built, card);
    Err(format!(
        "this program was built for compute capability {built_major}.{built_minor}, which the card, {major}.{minor}, does not run; build it for {major}{minor} (docs/gpu.md)"
    ))
}

#[cfg(feature = "cuda")]
fn capability_of(device: &Device) -> candle_core::Result<(u32, u32)> {
    use candle_core::cuda::WrapErr;
    let (major, minor) = device.as_cuda_device()?.cuda_stream().context().compute_capability().w()?;
    Ok((major.unsigned_abs(), minor.unsigned_abs()))
}

/// A compute capability as the kernels' build reads it: 90, 9.0, 90a and sm_90 are the same. `None` for other text.
#[cfg(any(feature = "cuda", test))]
fn capability(text: &str) -> Option<(u32, u32)> {
    let text = text.trim().trim_start_matches("sm_").trim_end_matches(['a', 'f']);
    let number: u32 = text.replace('.', "").parse().ok()?;
    let number = if number < 20 { number * 10 } else { number };
    Some((number / 10, number % 10))
}

/// Whether kernels for the compute capability `built` run on `card`. Machine code runs on cards of the same generation that are
/// not older. From 9.0 on the kernels are compiled for exactly one capability (sm_90a).
#[cfg(any(feature = "cuda", test))]
fn runs_on(built: (u32, u32), card: (u32, u32)) -> bool {
    built == card || built.0 < 9 && built.0 == card.0 && built.1 <= card.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_read_as_the_build_reads_it() {
        let read = ["80", "8.0", "8", "90a", "sm_90", " 120 ", "hopper"].map(capability);
        assert_eq!(read[..4], [Some((8, 0)), Some((8, 0)), Some((8, 0)), Some((9, 0))]);
        assert_eq!(read[4..], [Some((9, 0)), Some((12, 0)), None]);
    }

    #[test]
    fn kernels_run_on_newer_cards_of_their_generation_only() {
        let check = |built, runs: &[(u32, u32)], not: &[(u32, u32)]| {
            runs.iter().for_each(|card| assert!(runs_on(built, *card), "{built:?} on {card:?}"));
            not.iter().for_each(|card| assert!(!runs_on(built, *card), "{built:?} on {card:?}"));
        };
        check((8, 0), &[(8, 0), (8, 6), (8, 9)], &[(7, 5), (9, 0)]);
        check((8, 9), &[(8, 9)], &[(8, 0), (8, 6), (9, 0)]);
        check((9, 0), &[(9, 0)], &[(8, 9), (10, 0), (12, 0)]);
        check((10, 0), &[(10, 0)], &[(10, 3)]);
    }

    #[test]
    fn a_missing_card_is_a_sentence() {
        let text = no_card(&candle_core::Error::Msg("CUDA_ERROR_NO_DEVICE\n   0: backtrace".into()));
        assert!(text.contains("CUDA_ERROR_NO_DEVICE; see what nvidia-smi lists") && !text.contains("backtrace"));
    }
}
