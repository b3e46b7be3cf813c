//! Tokens to text, also while they come: a character may be spread over several tokens, and a stop string may be cut off.

use crate::model::tokenizer::ChatTokenizer;

/// The text of a completion that grows. Its pieces together are the text that a whole completion gets.
pub struct GrowingText<'a> {
    tokenizer: &'a ChatTokenizer,
    skips_special: bool,
    /// Strings that are cut off where they end a completion.
    cut: &'a [String],
    tokens: Vec<u32>,
    /// `text` is that of the tokens before `read`. Decoding begins at `from`, because a token may be decoded otherwise at
    /// the beginning.
    from: usize,
    read: usize,
    text: String,
    /// Bytes of `text` that were given out.
    given: usize,
}

impl<'a> GrowingText<'a> {
    pub fn new(tokenizer: &'a ChatTokenizer, skips_special: bool, cut: &'a [String]) -> Self {
        Self { tokenizer, skips_special, cut, tokens: Vec::new(), from: 0, read: 0, text: String::new(), given: 0 }
    }

    /// Adds a token; not the stop token that ends a completion.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        let (known, now) = self.decoded();
        // The next token may complete the character.
        if now.len() > known.len() && !now.ends_with(char::REPLACEMENT_CHARACTER) {
            self.append(&known, &now);
        }
    }

    /// What has been added since the last call and cannot be cut off any more.
    pub fn take(&mut self) -> String {
        // The rest may be the beginning of a string that is cut off.
        let held = self.cut.iter().map(|string| string.len() - 1).max().unwrap_or(0);
        let mut end = self.text.len().saturating_sub(held);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let end = self.cut_at().map_or(end, |cut| cut.min(end)).max(self.given);
        let piece = self.text[self.given..end].to_string();
        self.given += piece.len();
        piece
    }

    /// The rest, at the completion's end.
    pub fn finish(mut self) -> String {
        let (known, now) = self.decoded();
        self.append(&known, &now);
        let end = self.cut_at().unwrap_or(self.text.len()).max(self.given);
        self.text[self.given..end].to_string()
    }

    /// Where the first string begins that is cut off. None is in the text that was given out.
    fn cut_at(&self) -> Option<usize> {
        let rest = &self.text[self.given..];
        self.cut.iter().filter_map(|string| rest.find(string.as_str())).min().map(|at| self.given + at)
    }

    /// The stop string that is in the text, if any.
    pub fn stop_string<'s>(text_with_stop: &str, strings: &'s [String]) -> Option<&'s str> {
        let found = strings.iter().filter_map(|string| Some((text_with_stop.find(string.as_str())?, string)));
        found.min_by_key(|(at, _)| *at).map(|(_, string)| string.as_str())
    }

    /// The text of the tokens from `from` to `read`, and to the last.
    fn decoded(&self) -> (String, String) {
        let decode = |tokens: &[u32]| self.tokenizer.decode(tokens, self.skips_special);
        (decode(&self.tokens[self.from..self.read]), decode(&self.tokens[self.from..]))
    }

    fn append(&mut self, known: &str, now: &str) {
        self.text.push_str(now.get(known.len()..).unwrap_or_default());
        (self.from, self.read) = (self.read, self.tokens.len());
    }
}
