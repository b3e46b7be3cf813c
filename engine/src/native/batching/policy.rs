//! The weights that sequences are computed with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::PolicyVersion;
use crate::native::live_adapter::LiveAdapter;

/// The weights that sample: the base model with an adapter.
pub struct LivePolicy {
    /// Another one for each value ever made, from 1.
    id: u64,
    pub version: PolicyVersion,
    pub adapter: LiveAdapter,
}

impl LivePolicy {
    pub fn new(version: PolicyVersion, adapter: LiveAdapter) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Self { id: IDS.fetch_add(1, Ordering::Relaxed), version, adapter }
    }
}

/// The policy that a request names, to be answered under it whatever is published. `None`: the engine's policy of the
/// moment.
pub type OwnPolicy = Option<Arc<LivePolicy>>;

/// What tells policies apart, now and later: 0 stands for the engine's policy.
pub fn id_of(policy: &OwnPolicy) -> u64 {
    policy.as_ref().map_or(0, |policy| policy.id)
}
