//! The prefix cache: blocks of computed prompts that later prompts share.

use std::collections::HashMap;
use std::sync::Arc;

use super::pool::BlockPool;
use super::store::{BLOCK_TOKENS, BlockStore};

/// Full blocks of computed prompts, by the policy that computed them and their tokens.
///
/// A block depends on all tokens before it. So its key is its parent and its own tokens: for each policy a tree in which
/// a block is reached only through its prefix. A tree whose policy is used no longer ends by eviction.
pub struct PrefixCache<S: BlockStore> {
    nodes: HashMap<Key, Node<S::Block>>,
    ids: u64,
    clock: u64,
}

/// The policy, the parent (0: none) and the block's tokens.
type Key = (u64, u64, [u32; BLOCK_TOKENS]);

struct Node<B> {
    id: u64,
    block: Arc<B>,
    last_used: u64,
    depth: usize,
}

impl<S: BlockStore> Default for PrefixCache<S> {
    fn default() -> Self {
        Self { nodes: HashMap::new(), ids: 0, clock: 0 }
    }
}

impl<S: BlockStore> PrefixCache<S> {
    /// The blocks of the longest prefix of `tokens` that is known under `policy`, shared with the caller.
    pub fn find(&mut self, policy: u64, tokens: &[u32]) -> Vec<Arc<S::Block>> {
        self.clock += 1;
        let (mut parent, mut found) = (0, Vec::new());
        for own in tokens.as_chunks().0 {
            let Some(node) = self.nodes.get_mut(&(policy, parent, *own)) else { break };
            node.last_used = self.clock;
            parent = node.id;
            found.push(Arc::clone(&node.block));
        }
        found
    }

    /// Adds the full blocks of a computed prompt.
    pub fn insert(&mut self, policy: u64, tokens: &[u32], blocks: &[Arc<S::Block>]) {
        self.clock += 1;
        let mut parent = 0;
        for (depth, (own, block)) in tokens.as_chunks().0.iter().zip(blocks).enumerate() {
            let (ids, clock) = (&mut self.ids, self.clock);
            let node = self.nodes.entry((policy, parent, *own)).or_insert_with(|| {
                *ids += 1;
                Node { id: *ids, block: Arc::clone(block), last_used: clock, depth }
            });
            node.last_used = clock;
            parent = node.id;
        }
    }

    /// Removes blocks without another holder, least recently used first, until `pool` has `wanted` free blocks or none
    /// is left to remove. Of equally old blocks the deepest goes first, so that no block outlives its prefix.
    pub fn evict(&mut self, pool: &mut BlockPool<S>, wanted: usize) {
        let missing = (pool.in_use() + wanted).saturating_sub(pool.capacity());
        if missing == 0 {
            return;
        }
        let idle = self.nodes.iter().filter(|(_, node)| Arc::strong_count(&node.block) == 1);
        let mut idle: Vec<_> = idle.map(|(key, node)| (node.last_used, usize::MAX - node.depth, *key)).collect();
        idle.sort_unstable();
        for (.., key) in idle.into_iter().take(missing) {
            if let Some(node) = self.nodes.remove(&key) {
                pool.release(node.block);
            }
        }
    }

    /// Removes everything, because a policy has changed.
    pub fn clear(&mut self, pool: &mut BlockPool<S>) {
        for (_, node) in self.nodes.drain() {
            pool.release(node.block);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::BlockLayout;
    use super::*;

    #[test]
    fn prefixes_are_found_by_all_tokens_before_them_and_evicted_from_the_leaves() {
        let (mut pool, mut prefixes) =
            (BlockPool::new(BlockLayout { layers: 1, kv_heads: 1, head_dim: 16 }, 4), PrefixCache::default());
        let tokens: Vec<u32> = (0..40).collect();
        let blocks = vec![pool.take().unwrap(), pool.take().unwrap()];
        prefixes.insert(0, &tokens, &blocks);
        assert_eq!(prefixes.find(0, &tokens[..39]).len(), 2);
        assert_eq!(prefixes.find(0, &tokens[..31]).len(), 1);
        assert_eq!(prefixes.find(0, &tokens[16..]).len(), 0, "the second block without the first");
        assert_eq!(prefixes.find(1, &tokens).len(), 0, "another policy");
        prefixes.evict(&mut pool, 4);
        assert_eq!(pool.in_use(), 2, "they have another holder");
        blocks.into_iter().for_each(|block| pool.release(block));
        prefixes.evict(&mut pool, 3);
        assert_eq!((pool.in_use(), prefixes.find(0, &tokens).len()), (1, 1), "the deeper one was evicted");
        // Found, then extended: the prefix was used as recently as the tail, and is evicted after it.
        let tail = pool.take().unwrap();
        let longer = [prefixes.find(0, &tokens), vec![tail]].concat();
        prefixes.insert(0, &tokens, &longer);
        longer.into_iter().for_each(|block| pool.release(block));
        prefixes.evict(&mut pool, 3);
        assert_eq!(prefixes.find(0, &tokens).len(), 1, "the deeper one was evicted");
        prefixes.clear(&mut pool);
        assert_eq!((pool.in_use(), prefixes.len()), (0, 0));
    }
}
