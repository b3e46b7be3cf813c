//! The paged key-value cache (arXiv 2309.06180): blocks of [`BLOCK_TOKENS`] tokens, a pool that hands them out, and a
//! tree of shared prefixes.
//!
//! A block holds the keys and values of all layers for consecutive tokens. Sequences hold blocks by `Arc`: a block with
//! several holders is never written; a sequence that must write to one gets a copy (copy on write).
//!
//! - `store.rs` where blocks are kept · `host.rs` blocks in main memory · `pool.rs` the block pool · `prefixes.rs` the
//!   tree

mod host;
mod pool;
mod prefixes;
mod store;

pub use host::{BlockLayout, HostBlock};
pub use pool::BlockPool;
pub use prefixes::PrefixCache;
pub use store::{BLOCK_TOKENS, BlockStore, blocks_of_request};
