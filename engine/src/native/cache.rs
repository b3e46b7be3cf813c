//! The paged key-value cache: blocks of [`LANES`] tokens, a free list, and a tree of shared prefixes.
//!
//! A block holds the keys and values of all layers for 16 consecutive tokens, in main memory or on a device: what that
//! is, its [`Store`] knows. Sequences hold blocks by `Arc`: what several hold is shared and never written again; who
//! wants to write into a shared block takes a copy of it (copy on write). Invariant: blocks in use + blocks that can
//! still be given out = the pool's capacity.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decoder::DecoderConfig;
use crate::kernels::LANES;

/// Where the keys and values of blocks are.
pub trait Store: Send + 'static {
    /// One block's: for every layer and head, those of 16 tokens.
    type Block: Send + Sync;

    /// Whether there can be more of it than was set aside at first.
    const GROWS: bool;

    /// A block that was never used.
    fn add(&mut self) -> Self::Block;

    /// Prepares a block for its next holder: what the last one left must not reach it.
    fn clear(&mut self, block: &mut Self::Block);

    /// Makes `to` hold what `from` holds.
    fn copy(&mut self, from: &Self::Block, to: &mut Self::Block);
}

/// Sizes of what a block holds; in main memory also where its numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Layout {
    pub fn of(config: &DecoderConfig) -> Self {
        Self { layers: config.num_hidden_layers, kv_heads: config.num_key_value_heads, head_dim: config.head_dim }
    }

    /// Numbers in a block.
    pub fn block_len(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * LANES
    }

    pub fn block_bytes(&self) -> usize {
        4 * self.block_len()
    }

    /// Blocks that let a request of `tokens`, prompt and completion together, always end: its own, a copy of the one in
    /// which the completion leaves its prompt, and one to go on into.
    pub fn blocks_of_request(tokens: usize) -> usize {
        tokens.div_ceil(LANES) + 2
    }

    fn part(&self, layer: usize, head: usize, values: usize) -> std::ops::Range<usize> {
        let len = self.head_dim * LANES;
        let start = ((layer * self.kv_heads + head) * 2 + values) * len;
        start..start + len
    }
}

/// Keys and values of 16 tokens, for every layer and head.
#[derive(Debug, Clone)]
pub struct Block(Box<[f32]>);

impl Block {
    /// (head_dim × 16): feature by feature.
    pub fn keys(&self, layout: &Layout, layer: usize, head: usize) -> &[f32] {
        &self.0[layout.part(layer, head, 0)]
    }

    /// (16 × head_dim): token by token.
    pub fn values(&self, layout: &Layout, layer: usize, head: usize) -> &[f32] {
        &self.0[layout.part(layer, head, 1)]
    }

    pub fn keys_mut(&mut self, layout: &Layout, layer: usize, head: usize) -> &mut [f32] {
        &mut self.0[layout.part(layer, head, 0)]
    }

    pub fn values_mut(&mut self, layout: &Layout, layer: usize, head: usize) -> &mut [f32] {
        &mut self.0[layout.part(layer, head, 1)]
    }
}

/// Main memory: taken when a block is first needed, and used again.
impl Store for Layout {
    type Block = Block;

    const GROWS: bool = true;

    fn add(&mut self) -> Block {
        Block(vec![0.0; self.block_len()].into())
    }

    /// A slot behind the last token is multiplied by 0, and must not hold what is no number.
    fn clear(&mut self, block: &mut Block) {
        block.0.fill(0.0);
    }

    fn copy(&mut self, from: &Block, to: &mut Block) {
        to.0.copy_from_slice(&from.0);
    }
}

/// Gives out blocks, up to a number of them.
pub struct Pool<S: Store> {
    store: S,
    capacity: usize,
    in_use: usize,
    free: Vec<S::Block>,
}

impl<S: Store> Pool<S> {
    pub fn new(store: S, capacity: usize) -> Self {
        Self { store, capacity, in_use: 0, free: Vec::new() }
    }

    /// A block that nobody else holds; `None` when all are in use.
    pub fn take(&mut self) -> Option<Arc<S::Block>> {
        if self.in_use == self.capacity {
            return None;
        }
        self.in_use += 1;
        let Some(mut used) = self.free.pop() else { return Some(Arc::new(self.store.add())) };
        self.store.clear(&mut used);
        Some(Arc::new(used))
    }

    /// Ends one holder's claim; the last one's makes the block free.
    pub fn release(&mut self, block: Arc<S::Block>) {
        if let Some(block) = Arc::into_inner(block) {
            self.in_use -= 1;
            self.free.push(block);
        }
    }

    /// Makes `block` writable: in place where nobody else holds it, else as a copy. `false` when there is no block left.
    pub fn make_unique(&mut self, block: &mut Arc<S::Block>) -> bool {
        if Arc::get_mut(block).is_some() {
            return true;
        }
        let Some(mut copy) = self.take() else { return false };
        self.store.copy(block, Arc::get_mut(&mut copy).expect("a block from the pool has one holder"));
        self.release(std::mem::replace(block, copy));
        true
    }

    /// Lets at least `capacity` blocks be in use; `false` where that is more than there can be. There is no way back:
    /// memory that was taken is kept.
    pub fn grow(&mut self, capacity: usize) -> bool {
        if S::GROWS {
            self.capacity = self.capacity.max(capacity);
        }
        capacity <= self.capacity
    }

    /// How many blocks are held by anybody.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Full blocks of prompts that were computed under the current policy, by the tokens that lead to them.
///
/// A block depends on all tokens before it, so it is found by its parent and its own 16 tokens: a tree, in which a
/// block is reached only through its prefix.
pub struct Prefixes<S: Store> {
    nodes: HashMap<(u64, [u32; LANES]), Node<S::Block>>,
    ids: u64,
    clock: u64,
}

struct Node<B> {
    id: u64,
    block: Arc<B>,
    last_used: u64,
    depth: usize,
}

impl<S: Store> Default for Prefixes<S> {
    fn default() -> Self {
        Self { nodes: HashMap::new(), ids: 0, clock: 0 }
    }
}

impl<S: Store> Prefixes<S> {
    /// The blocks of the longest known prefix of `tokens`, shared with the caller.
    pub fn find(&mut self, tokens: &[u32]) -> Vec<Arc<S::Block>> {
        self.clock += 1;
        let (mut parent, mut found) = (0, Vec::new());
        for chunk in tokens.as_chunks().0 {
            let Some(node) = self.nodes.get_mut(&(parent, *chunk)) else { break };
            node.last_used = self.clock;
            parent = node.id;
            found.push(Arc::clone(&node.block));
        }
        found
    }

    /// Remembers the full blocks of a computed prompt.
    pub fn insert(&mut self, tokens: &[u32], blocks: &[Arc<S::Block>]) {
        self.clock += 1;
        let mut parent = 0;
        for (depth, (chunk, block)) in tokens.as_chunks().0.iter().zip(blocks).enumerate() {
            let (ids, clock) = (&mut self.ids, self.clock);
            let node = self.nodes.entry((parent, *chunk)).or_insert_with(|| {
                *ids += 1;
                Node { id: *ids, block: Arc::clone(block), last_used: clock, depth }
            });
            node.last_used = clock;
            parent = node.id;
        }
    }

    /// Forgets the blocks that nobody else holds, the longest unused first, until `pool` has `wanted` free ones or
    /// nothing is left to forget. Of equally old ones the deepest goes first, so that no block outlives its prefix.
    pub fn evict(&mut self, pool: &mut Pool<S>, wanted: usize) {
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

    /// Forgets everything: the policy has changed.
    pub fn clear(&mut self, pool: &mut Pool<S>) {
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
    use super::*;

    fn pool(capacity: usize) -> Pool<Layout> {
        Pool::new(Layout { layers: 1, kv_heads: 1, head_dim: 16 }, capacity)
    }

    #[test]
    fn a_shared_block_is_copied_before_it_is_written() {
        let mut pool = pool(2);
        let mut mine = pool.take().unwrap();
        let theirs = Arc::clone(&mine);
        assert!(pool.make_unique(&mut mine));
        Arc::get_mut(&mut mine).unwrap().0[0] = 5.0;
        assert_eq!((theirs.0[0], pool.in_use()), (0.0, 2));
        let mut another = Arc::clone(&theirs);
        assert!(!pool.make_unique(&mut another), "no third block");
        for block in [mine, theirs, another] {
            pool.release(block);
        }
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn prefixes_are_found_by_all_tokens_before_them_and_evicted_from_the_leaves() {
        let (mut pool, mut prefixes) = (pool(4), Prefixes::default());
        let tokens: Vec<u32> = (0..40).collect();
        let blocks = vec![pool.take().unwrap(), pool.take().unwrap()];
        prefixes.insert(&tokens, &blocks);
        assert_eq!(prefixes.find(&tokens[..39]).len(), 2);
        assert_eq!(prefixes.find(&tokens[..31]).len(), 1);
        assert_eq!(prefixes.find(&tokens[16..]).len(), 0, "the second block without the first");
        prefixes.evict(&mut pool, 4);
        assert_eq!(pool.in_use(), 2, "somebody holds them");
        blocks.into_iter().for_each(|block| pool.release(block));
        prefixes.evict(&mut pool, 3);
        assert_eq!((pool.in_use(), prefixes.find(&tokens).len()), (1, 1), "the deeper one went");
        // Found, then made longer: its beginning is as young as its end, and goes after it.
        let tail = pool.take().unwrap();
        let longer = [prefixes.find(&tokens), vec![tail]].concat();
        prefixes.insert(&tokens, &longer);
        longer.into_iter().for_each(|block| pool.release(block));
        prefixes.evict(&mut pool, 3);
        assert_eq!(prefixes.find(&tokens).len(), 1, "the deeper one went");
        prefixes.clear(&mut pool);
        assert_eq!((pool.in_use(), prefixes.len()), (0, 0));
    }
}
