//! Tokens of several sequences in one row dimension, without padding. Completions of one prompt share its rows.
//!
//! A token's forward depends only on the tokens before it. So the prompt of a group is computed once for all of its
//! completions, and the prompt's gradient is the sum over them.

use std::ops::Range;

/// Consecutive rows that attend causally to each other, and all of them also to the rows of `prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub rows: Range<usize>,
    /// The prompt that these rows continue; empty if they begin a sequence.
    pub prefix: Range<usize>,
}

impl Segment {
    /// How many rows the last row attends to, including itself.
    pub fn keys(&self) -> usize {
        self.prefix.len() + self.rows.len()
    }

    /// The row of the `index`-th token of the sequence.
    pub fn row(&self, index: usize) -> usize {
        match index.checked_sub(self.prefix.len()) {
            Some(own) => self.rows.start + own,
            None => self.prefix.start + index,
        }
    }
}

/// N rows: the token and the position of each, and which rows attend to which.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub segments: Vec<Segment>,
}

impl Packed {
    /// Appends a sequence and returns its rows.
    pub fn push(&mut self, tokens: &[u32]) -> Range<usize> {
        self.push_after(&(0..0), tokens)
    }

    /// Appends tokens that continue the sequence at `prefix` and returns their rows.
    pub fn push_after(&mut self, prefix: &Range<usize>, tokens: &[u32]) -> Range<usize> {
        let rows = self.tokens.len()..self.tokens.len() + tokens.len();
        self.tokens.extend(tokens);
        self.positions.extend((prefix.len()..prefix.len() + tokens.len()).map(|position| position as u32));
        if !tokens.is_empty() {
            self.segments.push(Segment { rows: rows.clone(), prefix: prefix.clone() });
        }
        rows
    }
}
