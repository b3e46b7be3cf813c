//! How a kernel's work is divided.

/// Whether one kernel may use all threads of the current pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// The caller has split the batch over threads.
    Alone,
    /// Output features are split over the pool.
    Threads,
}
