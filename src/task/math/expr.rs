//! From tokens to an expression, by recursive descent with a limit on the depth.

use num_rational::BigRational;
use num_traits::Zero;

use super::numeral::number;
use super::token::{Kind, Token};
use super::tree::{Expr, Function};

/// Brackets, fractions and powers nest at most this deep.
const MAX_DEPTH: usize = 48;
/// More tokens than this are not understood.
const MAX_TOKENS: usize = 800;

/// Reads all tokens as one expression; `None` if they are not one, or too large.
pub fn parse(tokens: &[Token]) -> Option<Expr> {
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return None;
    }
    let mut parser = Parser { tokens, at: 0, depth: 0, bars: 0 };
    let expr = parser.over()?;
    (parser.at == tokens.len()).then_some(expr)
}

/// The state of the parser.
pub struct Parser<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) at: usize,
    pub(super) depth: usize,
    /// How many absolute values are open.
    pub(super) bars: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Option<&'a Kind> {
        self.tokens.get(self.at).map(|it| &it.kind)
    }

    pub(super) fn ahead(&self, n: usize) -> Option<&'a Kind> {
        self.tokens.get(self.at + n).map(|it| &it.kind)
    }

    pub(super) fn eat(&mut self, symbol: char) -> bool {
        let found = self.peek() == Some(&Kind::Symbol(symbol));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, symbol: char) -> Option<()> {
        self.eat(symbol).then_some(())
    }

    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    pub(super) fn sum(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let mut parts = Vec::new();
            loop {
                let negative = parser.signs();
                if !parts.is_empty() && negative.is_none() {
                    return Some(Expr::sum(parts));
                }
                let term = parser.term()?;
                parts.push(if negative == Some(true) { Expr::Negative(Box::new(term)) } else { term });
            }
        })
    }

    /// A sum, or two with `\over` or `\choose` between them.
    pub(super) fn over(&mut self) -> Option<Expr> {
        let above = self.sum()?;
        let Some(Kind::Name(name)) = self.peek() else { return Some(above) };
        self.at += 1;
        match name.as_str() {
            "over" => Some(Expr::Product(vec![above, Expr::Inverse(Box::new(self.sum()?))])),
            "choose" => Some(Expr::Choose(Box::new(above), Box::new(self.sum()?))),
            _ => None,
        }
    }

    /// Reads signs; whether they make the term negative, or `None` if there are none.
    pub(super) fn signs(&mut self) -> Option<bool> {
        let mut negative = None;
        loop {
            if self.eat('-') {
                negative = Some(!negative.unwrap_or(false));
            } else if self.eat('+') {
                negative = Some(negative.unwrap_or(false));
            } else {
                return negative;
            }
        }
    }

    fn term(&mut self) -> Option<Expr> {
        let mut parts = vec![self.mixed().map_or_else(|| self.power(), Some)?];
        loop {
            let times = self.eat('*') || self.multiplication_sign(&parts);
            let over = !times && self.eat('/');
            if !times && !over && !self.starts_factor() {
                return Some(Expr::product(parts));
            }
            let negative = (times || over) && self.signs() == Some(true);
            let mut factor = self.power()?;
            if over {
                factor = Expr::Inverse(Box::new(factor));
            }
            parts.push(if negative { Expr::Negative(Box::new(factor)) } else { factor });
        }
    }

    /// `x` between a number and a power of ten: `1.5 x 10^3`.
    fn multiplication_sign(&mut self, parts: &[Expr]) -> bool {
        let found = matches!(parts, [Expr::Number(_)])
            && self.peek() == Some(&Kind::Letter('x'))
            && matches!(self.ahead(1), Some(Kind::Number(it)) if it == "10")
            && self.ahead(2) == Some(&Kind::Symbol('^'));
        self.at += usize::from(found);
        found
    }

    /// `3\frac{1}{2}` or `3 1/2`.
    fn mixed(&mut self) -> Option<Expr> {
        let Some(Kind::Number(whole)) = self.peek() else { return None };
        let digits = |kind: Option<&Kind>| match kind {
            Some(Kind::Number(it)) if it.bytes().all(|it| it.is_ascii_digit()) => Some(it.clone()),
            _ => None,
        };
        let whole = digits(Some(&Kind::Number(whole.clone())))?;
        let start = self.at;
        self.at += 1;
        let mut fraction = || match self.peek() {
            Some(Kind::Name(name)) if name == "frac" => {
                self.at += 1;
                let (above, below) = (self.argument()?, self.argument()?);
                match (above, below) {
                    (Expr::Number(above), Expr::Number(below)) if !below.is_zero() && above < below => {
                        Some(above / below)
                    }
                    _ => None,
                }
            }
            Some(Kind::Number(_)) if self.ahead(1) == Some(&Kind::Symbol('/')) => {
                let (above, below) = (digits(self.peek())?, digits(self.ahead(2))?);
                self.at += 3;
                let (above, below) = (number(&above)?, number(&below)?);
                (!below.is_zero() && above < below).then(|| above / below)
            }
            _ => None,
        };
        let value = fraction().and_then(|fraction| Some(number(&whole)? + fraction));
        if value.is_none() || self.peek() == Some(&Kind::Symbol('^')) {
            self.at = start;
            return None;
        }
        value.map(Expr::Number)
    }

    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Kind::Letter(_)) => true,
            Some(Kind::Number(_)) => {
                self.at > 0 && !matches!(self.tokens[self.at - 1].kind, Kind::Number(_) | Kind::Letter(_))
            }
            Some(Kind::Name(name)) => {
                !matches!(name.as_str(), "and" | "or" | "over" | "choose") && !name.starts_with("end:")
            }
            Some(Kind::Symbol('|')) => self.bars == 0,
            Some(Kind::Symbol(it)) => matches!(it, '(' | '{' | '[' | '⌊' | '⌈' | '∞'),
            _ => false,
        }
    }

    pub(super) fn power(&mut self) -> Option<Expr> {
        let mut base = self.primary()?;
        loop {
            if self.eat('!') {
                base = self.deeper(|_| Some(Expr::Call(Function::Factorial, Box::new(base))))?;
                if self.peek() == Some(&Kind::Symbol('!')) {
                    return None;
                }
            } else if self.eat('%') {
                base = Expr::Product(vec![base, Expr::Number(BigRational::new(1.into(), 100.into()))]);
            } else if self.degrees() {
                let degree = BigRational::new(1.into(), 180.into());
                base = Expr::Product(vec![base, Expr::Number(degree), Expr::Pi]);
            } else if self.eat('^') {
                let exponent = self.exponent()?;
                return Some(Expr::Power(Box::new(base), Box::new(exponent)));
            } else {
                return Some(base);
            }
        }
    }

    /// `°`, `^\circ` or `^{\circ}`.
    pub(super) fn degrees(&mut self) -> bool {
        let kinds = [self.peek(), self.ahead(1), self.ahead(2), self.ahead(3)];
        let is = |i: usize, symbol| kinds[i] == Some(&Kind::Symbol(symbol));
        let length = match () {
            () if is(0, '°') => 1,
            () if is(0, '^') && is(1, '°') => 2,
            () if is(0, '^') && is(1, '{') && is(2, '°') && is(3, '}') => 4,
            () => 0,
        };
        self.at += length;
        length > 0
    }

    pub(super) fn exponent(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            let negative = parser.signs() == Some(true);
            let exponent =
                if parser.peek() == Some(&Kind::Symbol('{')) { parser.braces()? } else { parser.primary()? };
            // Powers of powers group to the right.
            let exponent =
                if parser.eat('^') { Expr::Power(Box::new(exponent), Box::new(parser.exponent()?)) } else { exponent };
            Some(if negative { Expr::Negative(Box::new(exponent)) } else { exponent })
        })
    }

    pub(super) fn braces(&mut self) -> Option<Expr> {
        self.enclosed('{', '}')
    }

    pub(super) fn enclosed(&mut self, open: char, close: char) -> Option<Expr> {
        self.expect(open)?;
        let bars = std::mem::take(&mut self.bars);
        let inner = self.over()?;
        self.bars = bars;
        self.expect(close)?;
        Some(inner)
    }
}
