//! Scans and reads numbers: separators of thousands, decimals, repeating decimals, powers of ten.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Pow, Zero};

use super::token::{Kind, Scanner, Token};

/// The most digits of a number.
const MAX_DIGITS: usize = 2000;

/// Reads a number as the scanner writes it.
pub fn number(text: &str) -> Option<BigRational> {
    if text.len() > MAX_DIGITS {
        return None;
    }
    let (text, exponent) = match text.split_once('e') {
        Some((text, exponent)) => (text, exponent.parse::<i32>().ok().filter(|it| it.abs() <= 1000)?),
        None => (text, 0),
    };
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let (fraction, repeating) = rest.split_once('(').unwrap_or((rest, ""));
    let ten = |n: usize| Pow::pow(BigInt::from(10), n as u32);
    let integer = |digits: &str| if digits.is_empty() { Some(BigInt::zero()) } else { digits.parse().ok() };
    let mut value = BigRational::new(integer(&format!("{whole}{fraction}"))?, ten(fraction.len()));
    if let Some(digits) = repeating.strip_suffix(')') {
        value += BigRational::new(integer(digits)?, ten(fraction.len()) * (ten(digits.len()) - 1));
    }
    let scale = BigRational::from_integer(ten(exponent.unsigned_abs() as usize));
    Some(if exponent < 0 {
        value / scale
    } else if exponent > 0 {
        value * scale
    } else {
        value
    })
}

impl Scanner<'_> {
    fn digits(&mut self) -> String {
        let start = self.at;
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn starts_with(&self, pattern: &str) -> bool {
        pattern.chars().enumerate().all(|(i, c)| self.peek(i) == c)
    }

    /// How long a separator of thousands is here: one that exactly three digits follow.
    fn thousands(&self) -> Option<usize> {
        let separators = ["{,}", ",\\!", "\\,", "\\!", "\\ ", ",", " ", "\u{202f}", "\u{a0}", "_"];
        let separator = separators.iter().find(|it| self.starts_with(it))?;
        let length = separator.chars().count();
        let three = (0..3).all(|i| self.peek(length + i).is_ascii_digit());
        let free = *separator != "," || self.brackets == 0;
        (free && three && !self.peek(length + 3).is_ascii_digit()).then_some(length)
    }

    /// Whether the digits here are arguments of `\frac`, one digit each.
    fn after_frac(&self) -> bool {
        let is_frac = |it: Option<&Token>| it.is_some_and(|it| it.kind == Kind::Name("frac".into()));
        let one_digit = |it: Option<&Token>| matches!(it, Some(Token { kind: Kind::Number(it), .. }) if it.len() == 1);
        let mut last = self.out.iter().rev();
        let previous = last.next();
        is_frac(previous) || (one_digit(previous) && is_frac(last.next()))
    }

    /// Reads a number.
    pub(super) fn number(&mut self) {
        if self.after_frac() && self.peek(0).is_ascii_digit() {
            let digit = self.peek(0).to_string();
            self.at += 1;
            return self.push(Kind::Number(digit));
        }
        let mut text = self.digits();
        if (1..=3).contains(&text.len()) && !text.starts_with('0') {
            self.groups(&mut text);
        }
        let comma = self.starts_with("{,}") && self.peek(3).is_ascii_digit();
        if comma
            || (self.peek(0) == '.' && (self.peek(1).is_ascii_digit() || (self.peek(1) == '\\' && !text.is_empty())))
        {
            self.at += if comma { 3 } else { 1 };
            text.push('.');
            text += &self.digits();
        }
        if text.contains('.') && self.starts_with("\\overline{") {
            let start = self.at;
            self.at += 10;
            let repeating = self.digits();
            if self.peek(0) == '}' && !repeating.is_empty() {
                self.at += 1;
                text += &format!("({repeating})");
            } else {
                self.at = start;
            }
        }
        let sign = usize::from(matches!(self.peek(1), '-' | '+'));
        if matches!(self.peek(0), 'e' | 'E') && self.peek(1 + sign).is_ascii_digit() {
            text.push('e');
            text.push(if self.peek(1) == '-' { '-' } else { '+' });
            self.at += 1 + sign;
            text += &self.digits();
        }
        self.push(Kind::Number(text));
    }

    /// Reads groups of thousands, unless a group of another length follows: then the commas separate.
    fn groups(&mut self, text: &mut String) {
        let (start, first) = (self.at, text.clone());
        let mut separator = None;
        while let Some(length) = self.thousands() {
            let this = self.peek(0);
            if *separator.get_or_insert(this) != this {
                break;
            }
            self.at += length;
            text.extend((0..3).map(|i| self.peek(i)));
            self.at += 3;
        }
        if separator == Some(',') && self.peek(0) == ',' && self.peek(1).is_ascii_digit() {
            self.at = start;
            *text = first;
        }
    }
}
