//! From LaTeX or plain text to tokens. What only changes the look of a formula is left out here.

use super::words;

/// The longest answer, in bytes, that is understood; longer ones equal only the same text.
pub const MAX_BYTES: usize = 4096;

/// A token, and whether white space precedes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub space: bool,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number without a sign, such as `12`, `1.5`, `.5`, `0.1(6)` (a repeating decimal) or `1e-3`.
    Number(String),
    /// A variable of one letter.
    Letter(char),
    /// A LaTeX command or a known word, without the backslash.
    Name(String),
    /// Words.
    Text(String),
    /// Anything else. `⦃ ⦄` are the braces of a set, `{ }` those of LaTeX; `⏎` ends a row of a matrix.
    Symbol(char),
}

impl Token {
    /// Whether the token is this symbol.
    pub fn is(&self, symbol: char) -> bool {
        self.kind == Kind::Symbol(symbol)
    }
}

/// Reads tokens. Characters that mean nothing become symbols, so every text has tokens.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let dollars =
        chars.windows(2).filter(|it| it[1] == '$' && it[0] != '\\').count() + usize::from(text.starts_with('$'));
    let mut scanner = Scanner { chars: &chars, at: 0, space: false, brackets: 0, out: Vec::new(), money: dollars == 1 };
    while scanner.at < chars.len() {
        scanner.step();
    }
    scanner.out
}

/// The state of the scanner.
pub struct Scanner<'a> {
    pub(super) chars: &'a [char],
    pub(super) at: usize,
    space: bool,
    /// How many brackets are open in which a comma always separates.
    pub(super) brackets: usize,
    pub(super) out: Vec<Token>,
    /// Whether `$` is a currency, not a delimiter of mathematics.
    money: bool,
}

impl Scanner<'_> {
    pub(super) fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    pub(super) fn push(&mut self, kind: Kind) {
        self.out.push(Token { kind, space: std::mem::take(&mut self.space) });
    }

    fn symbol(&mut self, symbol: char) {
        match symbol {
            '(' | '[' | '⦃' | '⟨' => self.brackets += 1,
            ')' | ']' | '⦄' | '⟩' => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        self.push(Kind::Symbol(symbol));
    }

    fn step(&mut self) {
        let c = self.peek(0);
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_ascii_digit()) {
            return self.number();
        }
        if c.is_alphabetic() {
            return self.word();
        }
        if c == '\\' {
            return self.command();
        }
        self.at += 1;
        match c {
            _ if c.is_whitespace() || c == '~' => self.space = true,
            '$' if self.money => self.symbol('$'),
            '$' | '`' | '"' | '“' | '”' => {}
            '−' | '–' | '—' | '‐' => self.symbol('-'),
            '×' | '·' | '⋅' | '∙' => self.symbol('*'),
            '*' if self.peek(0) == '*' => {
                self.at += 1;
                self.symbol('^');
            }
            '÷' | '∕' => self.symbol('/'),
            '<' if self.peek(0) == '=' => self.pair('≤'),
            '>' if self.peek(0) == '=' => self.pair('≥'),
            '!' if self.peek(0) == '=' => self.pair('≠'),
            '=' if self.peek(0) == '=' => self.pair('='),
            '≦' | '⩽' => self.symbol('≤'),
            '≧' | '⩾' => self.symbol('≥'),
            '±' | '∓' | '≤' | '≥' | '≠' | '≈' | '∈' | '∪' | '∞' => self.symbol(c),
            '+' if self.peek(0) == '/' && self.peek(1) == '-' => {
                self.at += 2;
                self.symbol('±');
            }
            '√' => self.push(Kind::Name("sqrt".into())),
            '∅' => self.push(Kind::Name("emptyset".into())),
            '°' => self.symbol('°'),
            '…' => self.symbol('…'),
            '.' if self.peek(0) == '.' && self.peek(1) == '.' => {
                self.at += 2;
                self.symbol('…');
            }
            '²' => self.superscript("2"),
            '³' => self.superscript("3"),
            '½' => self.fraction("1", "2"),
            '¼' => self.fraction("1", "4"),
            '¾' => self.fraction("3", "4"),
            _ => self.symbol(c),
        }
    }

    fn pair(&mut self, symbol: char) {
        self.at += 1;
        self.symbol(symbol);
    }

    fn superscript(&mut self, digit: &str) {
        self.symbol('^');
        self.push(Kind::Number(digit.into()));
    }

    fn fraction(&mut self, above: &str, below: &str) {
        self.push(Kind::Name("frac".into()));
        self.push(Kind::Number(above.into()));
        self.push(Kind::Number(below.into()));
    }

    fn word(&mut self) {
        let start = self.at;
        while self.peek(0).is_alphabetic() || (self.peek(0) == '\'' && self.peek(1).is_alphabetic()) {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        let after_number =
            matches!(self.out.last(), Some(it) if matches!(it.kind, Kind::Number(_)) || it.is(')') || it.is('}'));
        for kind in words::split(&word, after_number) {
            self.push(kind);
        }
    }

    fn command(&mut self) {
        self.at += 1;
        let start = self.at;
        while self.peek(0).is_ascii_alphabetic() {
            self.at += 1;
        }
        if self.at == start {
            let c = self.peek(0);
            self.at += 1;
            return match c {
                ',' | ';' | ':' | '!' | ' ' | '>' | '\n' => self.space = true,
                '(' | ')' | '[' | ']' | '\0' => {}
                '{' => self.symbol('⦃'),
                '}' => self.symbol('⦄'),
                '\\' => {
                    self.symbol('⏎');
                    self.row_space();
                }
                '|' => self.push(Kind::Name("Vert".into())),
                _ => self.symbol(c),
            };
        }
        let name: String = self.chars[start..self.at].iter().collect();
        match name.as_str() {
            "left" | "right" | "big" | "Big" | "bigg" | "Bigg" | "bigl" | "bigr" | "Bigl" | "Bigr" | "biggl"
            | "biggr" => {
                if self.peek(0) == '.' {
                    self.at += 1;
                }
            }
            "text" | "textbf" | "mathrm" | "mbox" | "textrm" | "textit" | "operatorname" | "hbox" | "texttt"
            | "textnormal" => self.text(),
            "color" | "textcolor" => {
                self.group();
            }
            "begin" | "end" => {
                let environment = self.group().unwrap_or_default();
                self.push(Kind::Name(format!("{name}:{environment}")));
            }
            "mathbb" | "mathcal" => {
                let set = self.group().unwrap_or_default();
                self.push(Kind::Name(format!("mathbb:{set}")));
            }
            _ => match words::command(&name) {
                Some(Some(kind)) => match kind {
                    Kind::Symbol(symbol) => self.symbol(symbol),
                    other => self.push(other),
                },
                Some(None) => self.space = true,
                None => self.push(Kind::Name(name)),
            },
        }
    }

    /// Skips the space between two rows: the `[1mm]` of `\\[1mm]`.
    fn row_space(&mut self) {
        let rest = &self.chars[self.at..];
        let Some(end) = rest.iter().take(12).position(|it| *it == ']') else { return };
        let (inner, is_length) = (&rest[1.min(end)..end], |c: &char| c.is_ascii_alphanumeric() || *c == '.');
        let unit = inner.iter().any(char::is_ascii_digit) && inner.last().is_some_and(char::is_ascii_alphabetic);
        if rest[0] == '[' && unit && inner.iter().all(is_length) {
            self.at += end + 1;
        }
    }

    /// The raw text of a group in braces, if one begins here.
    fn group(&mut self) -> Option<String> {
        let mut ahead = 0;
        while self.peek(ahead).is_whitespace() {
            ahead += 1;
        }
        if self.peek(ahead) != '{' {
            return None;
        }
        let start = self.at + ahead + 1;
        let mut depth = 1;
        let mut end = start;
        while let Some(c) = self.chars.get(end) {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            if depth == 0 {
                break;
            }
            end += 1;
        }
        self.at = (end + 1).min(self.chars.len());
        Some(self.chars[start.min(end)..end].iter().collect())
    }

    /// `\text{…}`: words, or what else stands in it.
    fn text(&mut self) {
        let Some(content) = self.group() else { return };
        let content = content.replace('~', " ");
        let words = content.trim();
        let simple = !words.contains(['\\', '$', '{']);
        if simple && words.chars().any(char::is_alphabetic) && !words.contains(|c: char| "=+".contains(c)) {
            if let Some(kind) = words::known(words) {
                return self.push(kind);
            }
            let digit = words.starts_with(|c: char| c.is_ascii_digit());
            let listed = digit || words.contains(',') || words.contains(" and ") || words.contains(" or ");
            if !listed {
                self.space |= content.starts_with(' ');
                return self.push(Kind::Text(words.into()));
            }
        }
        if content.contains("\\text") {
            // Text within text is not understood.
            return self.push(Kind::Text(words.into()));
        }
        let inner = tokens(&content);
        self.out.extend(inner);
    }
}
