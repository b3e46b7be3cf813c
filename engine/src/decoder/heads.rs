//! How attention is divided into heads.

/// The numbers of heads, and their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// H, a multiple of `key_value`.
    pub query: usize,
    /// K.
    pub key_value: usize,
    /// d, the width of one head.
    pub dim: usize,
}

impl Heads {
    /// Query heads that share a key-value head.
    pub fn group(self) -> usize {
        self.query / self.key_value
    }

    pub fn query_width(self) -> usize {
        self.query * self.dim
    }

    pub fn key_value_width(self) -> usize {
        self.key_value * self.dim
    }
}
