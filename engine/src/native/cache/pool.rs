//! The block pool: which blocks are free.
//!
//! Invariant: blocks in use + blocks that can still be handed out = the capacity.

use std::sync::Arc;

use super::store::BlockStore;

/// Hands out blocks, up to a fixed number.
pub struct BlockPool<S: BlockStore> {
    store: S,
    capacity: usize,
    in_use: usize,
    free: Vec<S::Block>,
}

impl<S: BlockStore> BlockPool<S> {
    pub fn new(store: S, capacity: usize) -> Self {
        Self { store, capacity, in_use: 0, free: Vec::new() }
    }

    /// A block with one holder, the caller; `None` if all blocks are in use.
    pub fn take(&mut self) -> Option<Arc<S::Block>> {
        if self.in_use == self.capacity {
            return None;
        }
        self.in_use += 1;
        let Some(mut used) = self.free.pop() else { return Some(Arc::new(self.store.add())) };
        self.store.clear(&mut used);
        Some(Arc::new(used))
    }

    /// Ends one holder's claim. The last one frees the block.
    pub fn release(&mut self, block: Arc<S::Block>) {
        if let Some(block) = Arc::into_inner(block) {
            self.in_use -= 1;
            self.free.push(block);
        }
    }

    /// Makes `block` writable: as it is if it has one holder, otherwise as a copy. `false` if no block is left for the
    /// copy.
    pub fn make_unique(&mut self, block: &mut Arc<S::Block>) -> bool {
        if Arc::get_mut(block).is_some() {
            return true;
        }
        let Some(mut copy) = self.take() else { return false };
        self.store.copy(block, Arc::get_mut(&mut copy).expect("a block from the pool has one holder"));
        self.release(std::mem::replace(block, copy));
        true
    }

    /// Raises the capacity to at least `capacity` blocks; `false` if the store cannot hold that many. The capacity
    /// never falls, because memory is kept.
    pub fn grow(&mut self, capacity: usize) -> bool {
        if S::GROWS {
            self.capacity = self.capacity.max(capacity);
        }
        capacity <= self.capacity
    }

    /// How many blocks have a holder.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::BlockLayout;
    use super::*;

    #[test]
    fn a_shared_block_is_copied_before_it_is_written() {
        let layout = BlockLayout { layers: 1, kv_heads: 1, head_dim: 16 };
        let mut pool = BlockPool::new(layout, 2);
        let mut mine = pool.take().unwrap();
        let theirs = Arc::clone(&mine);
        assert!(pool.make_unique(&mut mine));
        Arc::get_mut(&mut mine).unwrap().keys_mut(&layout, 0, 0)[0] = 5.0;
        assert_eq!((theirs.keys(&layout, 0, 0)[0], pool.in_use()), (0.0, 2));
        let mut another = Arc::clone(&theirs);
        assert!(!pool.make_unique(&mut another), "no third block");
        for block in [mine, theirs, another] {
            pool.release(block);
        }
        assert_eq!(pool.in_use(), 0);
    }
}
