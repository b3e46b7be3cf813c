//! The memory of this process.

/// Resident memory of this process now, in MB (10^6 bytes). 0 on systems without /proc.
pub fn resident_mb() -> f64 {
    status_mb("VmRSS")
}

/// The peak of this process's resident memory, in MB (10^6 bytes). 0 on systems without /proc.
pub fn peak_mb() -> f64 {
    status_mb("VmHWM")
}

fn status_mb(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map_or(0.0, |kib| kib * 1024.0 / 1e6)
}
