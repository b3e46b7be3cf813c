//! The memory of this process.

/// Resident memory of this process in MB (10^6 bytes): `VmRSS` is now, `VmHWM` is the peak. 0 on systems without /proc.
pub fn memory_mb(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map_or(0.0, |kib| kib * 1024.0 / 1e6)
}
