//! The card's name and the memory in use on it, from the driver's `nvidia-smi`.
//!
//! This needs no CUDA in the program, so it builds everywhere. Without `nvidia-smi` there are no numbers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::Precision;

use crate::config::bench::BenchConfig;
use crate::config::engine::{DeviceKind, EngineConfig};

/// Dense bf16 rates of cards, in 10^12 operations per second, from their data sheets. The first name that is part of the
/// card's name counts.
const PEAKS: [(&str, f64); 12] = [
    ("B200", 2250.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("A10", 125.0),
    ("A6000", 155.0),
    ("RTX 4090", 165.0),
    ("RTX 3090", 71.0),
];

/// The device's peak rate, in 10^12 operations per second: the configured one, or the known one of the card.
pub fn peak_tflops(bench: &BenchConfig, engine: &EngineConfig) -> Option<f64> {
    match (bench.peak_tflops, engine.device, engine.dtype) {
        (0.0, DeviceKind::Cuda, Precision::Bf16) => known_peak(&name(engine.device_index)?),
        (0.0, _, _) => None,
        (given, _, _) => Some(given),
    }
}

fn known_peak(name: &str) -> Option<f64> {
    PEAKS.iter().find(|(part, _)| name.contains(part)).map(|(_, peak)| *peak)
}

/// The name of card `index`.
fn name(index: usize) -> Option<String> {
    let output = query(index, "name").output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(|name| name.trim().to_string())
}

fn query(index: usize, what: &str) -> Command {
    let mut command = Command::new("nvidia-smi");
    command.arg(format!("--id={index}")).arg(format!("--query-gpu={what}")).arg("--format=csv,noheader,nounits");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// Watches the memory in use on the card, by all programs, until it is dropped.
pub struct MemoryWatch {
    mib: Arc<AtomicU64>,
    child: Option<Child>,
}

impl MemoryWatch {
    /// Starts watching if the device is a card.
    pub fn start(engine: &EngineConfig) -> Self {
        let mib = Arc::new(AtomicU64::new(0));
        let is_card = engine.device == DeviceKind::Cuda;
        let query = || query(engine.device_index, "memory.used").arg("--loop-ms=100").spawn().ok();
        let child = is_card.then(query).flatten();
        let mut watch = Self { mib: mib.clone(), child };
        if let Some(output) = watch.child.as_mut().and_then(|child| child.stdout.take()) {
            std::thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                for now in lines.filter_map(|line| line.trim().parse().ok()) {
                    mib.fetch_max(now, Ordering::Relaxed);
                }
            });
        }
        watch
    }

    /// The peak of the memory in use so far, in MB (10^6 bytes). `None` if it is not known.
    pub fn peak_mb(&self) -> Option<f64> {
        let mib = self.mib.load(Ordering::Relaxed);
        (mib > 0).then(|| (mib << 20) as f64 / 1e6)
    }
}

/// The peak as tables show it.
pub fn shown_mb(peak: Option<f64>) -> String {
    peak.map_or("–".into(), |mb| format!("{mb:.0}"))
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_known_by_its_name() {
        let check = |name: &str, peak: Option<f64>| assert_eq!(known_peak(name), peak, "{name}");
        check("NVIDIA H100 80GB HBM3", Some(989.0));
        check("NVIDIA H100 PCIe", Some(756.0));
        check("NVIDIA A100-SXM4-80GB", Some(312.0));
        check("NVIDIA L40S", Some(362.0));
        check("NVIDIA L4", Some(121.0));
        check("Tesla T4", None);
    }

    #[test]
    fn what_is_given_counts_before_what_is_known() {
        let peak = |given: f64| {
            let bench = BenchConfig { peak_tflops: given, ..BenchConfig::default() };
            peak_tflops(&bench, &EngineConfig::default())
        };
        assert_eq!((peak(0.2), peak(0.0)), (Some(0.2), None));
    }
}
