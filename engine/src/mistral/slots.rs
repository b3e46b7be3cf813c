//! Slots for sequences on a CPU, and the replica of the model that each slot belongs to.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::EngineError;

/// All slots. The old and the new model share them, so that a publish adds none.
pub struct Slots {
    permits: Arc<Semaphore>,
    /// The replicas of the free slots: one entry per permit.
    free: Mutex<Vec<usize>>,
}

/// One slot, given back on drop.
pub struct Slot {
    slots: Arc<Slots>,
    replica: usize,
    /// Dropped after [`Drop::drop`] has put the replica back, so that the next holder of the permit finds an entry.
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// `each` slots in each of `replicas` models.
    pub fn new(replicas: usize, each: usize) -> Arc<Self> {
        let free: Vec<usize> = (0..replicas).flat_map(|replica| std::iter::repeat_n(replica, each)).collect();
        Arc::new(Self { permits: Arc::new(Semaphore::new(free.len())), free: Mutex::new(free) })
    }

    /// Waits for a free slot.
    pub async fn acquire(self: &Arc<Self>) -> Result<Slot, EngineError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| EngineError::Stopped)?;
        let replica = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // There is one entry per permit. Without it (a bug) the engine could not continue.
        let replica = replica.ok_or(EngineError::Stopped)?;
        Ok(Slot { slots: Arc::clone(self), replica, _permit: permit })
    }

    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }
}

impl Slot {
    /// Which model the sequence goes to.
    pub fn replica(&self) -> usize {
        self.replica
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.replica);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_replica_gets_more_sequences_than_it_has_slots() {
        let slots = Slots::new(2, 1);
        let (a, b) = (slots.acquire().await.expect("a slot"), slots.acquire().await.expect("a slot"));
        assert_ne!(a.replica(), b.replica());
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.acquire().await.map(|slot| slot.replica()) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let freed = a.replica();
        drop(a);
        assert_eq!(waiting.await.expect("a task").expect("a slot"), freed);
        drop(b);
    }
}
