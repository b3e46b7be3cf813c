//! The batcher's state.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::group::SequenceGroup;
use super::policy::{LivePolicy, OwnPolicy};
use super::sequence::Sequence;
use crate::native::cache::{BlockPool, PrefixCache};
use crate::native::compute::{BlockOf, Compute};

/// Runs the sequences of many requests together.
pub struct ContinuousBatcher<C: Compute> {
    pub(super) model: C,
    /// The policy of every request that names none.
    pub(super) policy: Arc<LivePolicy>,
    pub(super) max_sequences: usize,
    pub(super) pool: BlockPool<C::Store>,
    pub(super) prefixes: PrefixCache<C::Store>,
    /// By id: the number of their arrival.
    pub(super) groups: HashMap<u64, SequenceGroup<BlockOf<C>>>,
    /// Ids of groups that have completions left to start, oldest first.
    pub(super) waiting: VecDeque<u64>,
    pub(super) arrivals: u64,
    /// In the order of admission.
    pub(super) running: Vec<RunningSequence<C>>,
    /// Completions without blocks, oldest first.
    pub(super) preempted: VecDeque<RunningSequence<C>>,
}

/// What a batcher of `C` runs.
pub(super) type RunningSequence<C> = Sequence<BlockOf<C>>;

impl<C: Compute> ContinuousBatcher<C> {
    /// With a cache of `blocks` blocks in `store`.
    pub fn new(model: C, policy: LivePolicy, max_sequences: usize, store: C::Store, blocks: usize) -> Self {
        Self {
            model,
            policy: Arc::new(policy),
            max_sequences: max_sequences.max(1),
            pool: BlockPool::new(store, blocks),
            prefixes: PrefixCache::default(),
            groups: HashMap::new(),
            waiting: VecDeque::new(),
            arrivals: 0,
            running: Vec::new(),
            preempted: VecDeque::new(),
        }
    }

    /// The weights that compute a sequence with this policy now.
    pub(super) fn live(&self, own: &OwnPolicy) -> Arc<LivePolicy> {
        Arc::clone(own.as_ref().unwrap_or(&self.policy))
    }

    /// Ends a sequence's claim on its blocks.
    pub fn release(&mut self, blocks: Vec<Arc<BlockOf<C>>>) {
        blocks.into_iter().for_each(|block| self.pool.release(block));
    }
}
