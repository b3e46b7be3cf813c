//! Fills batches. Groups that are too old, or that nothing can be learned from, are dropped here.

use std::sync::Arc;

use anyhow::Result;
use async_channel::{Receiver, Sender};

use super::group::ScoredGroup;
use super::reward::HeldGroup;
use super::shared::SharedScheduler;
use crate::scheduler::Outcome;

/// Collects accepted groups into batches of `size`, sorted by job, until either channel closes.
///
/// # Errors
/// None.
pub async fn fill_batches(
    shared: Arc<SharedScheduler>,
    size: usize,
    scored: Receiver<HeldGroup>,
    batches: Sender<Vec<ScoredGroup>>,
) -> Result<()> {
    // The step whose policy the present batch will train.
    let mut step = shared.lock().step();
    let mut batch = Vec::with_capacity(size);
    while let Ok(HeldGroup { group, slot }) = scored.recv().await {
        let outcome = shared.change(|scheduler| {
            let outcome = scheduler.judge(&group.finished(), step);
            scheduler.settle(group.job.id, outcome);
            outcome
        });
        drop(slot);
        if outcome == Outcome::Accepted {
            batch.push(group);
        }
        if batch.len() == size {
            batch.sort_by_key(|group: &ScoredGroup| group.job.id);
            if batches.send(std::mem::take(&mut batch)).await.is_err() {
                break;
            }
            step += 1;
        }
    }
    Ok(())
}
