//! The blocks of a device's cache, by number.

use crate::native::cache::BlockStore;

/// A block of the cache.
#[derive(Debug)]
pub struct DeviceBlock {
    pub index: u32,
    /// The block whose content must be copied here before this one is written.
    pub copy_of: Option<u32>,
}

/// Numbers the blocks; the memory itself is in `device/cache.rs`.
#[derive(Debug, Default)]
pub struct DeviceBlocks {
    used: u32,
}

impl BlockStore for DeviceBlocks {
    type Block = DeviceBlock;

    const GROWS: bool = false;

    fn add(&mut self) -> DeviceBlock {
        self.used += 1;
        DeviceBlock { index: self.used - 1, copy_of: None }
    }

    /// The content stays: attention reads no key or value after a row's context.
    fn clear(&mut self, block: &mut DeviceBlock) {
        block.copy_of = None;
    }

    /// The copy is made in the pass that writes `to`; `from` is not written before it.
    fn copy(&mut self, from: &DeviceBlock, to: &mut DeviceBlock) {
        to.copy_of = Some(from.index);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::native::cache::BlockPool;

    #[test]
    fn a_copy_that_was_never_written_is_forgotten_with_its_holder() {
        let mut pool = BlockPool::new(DeviceBlocks::default(), 2);
        let original = pool.take().unwrap();
        let mut copy = Arc::clone(&original);
        assert!(pool.make_unique(&mut copy));
        assert_eq!((copy.index, copy.copy_of), (1, Some(original.index)));
        pool.release(copy);
        let next = pool.take().unwrap();
        assert_eq!((next.index, next.copy_of), (1, None));
    }
}
