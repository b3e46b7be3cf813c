//! Rows that are left out because they are too long.

use std::fmt;

/// How many there are, and the first few by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LongRows {
    pub count: usize,
    named: Vec<String>,
}

/// This many are named.
const NAMED: usize = 3;

impl LongRows {
    /// Counts a row of so many tokens.
    pub fn push(&mut self, place: impl fmt::Display, tokens: usize) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{place} has {tokens} tokens"));
        }
    }

    /// Counts those of `other` too.
    pub fn extend(&mut self, other: &Self) {
        self.count += other.count;
        self.named.extend(other.named.iter().take(NAMED - self.named.len()).cloned());
    }
}

/// `rows.jsonl:7 has 300 tokens, rows.jsonl:9 has 280 tokens, …`.
impl fmt::Display for LongRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.count > self.named.len() { ", …" } else { "" };
        write!(f, "{}{more}", self.named.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_three_are_named() {
        let (mut first, mut second) = (LongRows::default(), LongRows::default());
        first.push("a.jsonl:1", 10);
        assert_eq!(first.to_string(), "a.jsonl:1 has 10 tokens");
        (2..5).for_each(|line| second.push(format!("b.jsonl:{line}"), line));
        first.extend(&second);
        assert_eq!(first.count, 4);
        assert_eq!(first.to_string(), "a.jsonl:1 has 10 tokens, b.jsonl:2 has 2 tokens, b.jsonl:3 has 3 tokens, …");
    }
}
