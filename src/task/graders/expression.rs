//! Arithmetic expressions of whole numbers, evaluated exactly. They are parsed here, and never run as code.
//!
//! `+ - * /`, `×`, `·`, `÷`, typeset minus signs and LaTeX's `\times`, `\cdot` and `\div` are read, and round brackets.
//! The time is linear in the text, because nesting and numbers have limits.

use num_rational::Ratio;
use num_traits::{Signed, Zero};

/// Deeper brackets and longer rows of signs are refused.
const MAX_DEPTH: usize = 100;
/// The digits of the largest number in a text.
const MAX_DIGITS: usize = 15;
/// Numerators and denominators reach at most this size, so that no operation on two of them overflows.
const LARGEST: i128 = 1 << 60;
/// LaTeX commands and the signs that they mean.
const COMMANDS: [(&str, &str); 6] =
    [(r"\times", "*"), (r"\cdot", "*"), (r"\div", "/"), (r"\left", ""), (r"\right", ""), (r"\,", "")];

/// An expression's value, and the numbers that stand in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    pub value: Ratio<i128>,
    /// In the order of the text.
    pub numbers: Vec<i64>,
}

/// Reads a text that is an expression and nothing else.
///
/// None for any other text, for a division by zero, and for numbers or brackets beyond the limits.
pub fn evaluate(text: &str) -> Option<Expression> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, numbers: Vec::new() };
    let value = parser.sum(0)?;
    parser.tokens.is_empty().then_some(Expression { value, numbers: parser.numbers })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Number(i64),
    /// One of `+-*/()`.
    Sign(char),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut plain = std::borrow::Cow::Borrowed(text);
    for (command, sign) in COMMANDS {
        if plain.contains(command) {
            plain = plain.replace(command, sign).into();
        }
    }
    let (mut tokens, mut rest) = (Vec::new(), &*plain);
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        match c {
            '0'..='9' => {
                length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let digits = &rest[..length];
                tokens.push(Token::Number(if length <= MAX_DIGITS { digits.parse().ok()? } else { return None }));
            }
            '+' | '-' | '*' | '/' | '(' | ')' => tokens.push(Token::Sign(c)),
            '−' | '–' => tokens.push(Token::Sign('-')),
            '×' | '·' | '⋅' | 'x' => tokens.push(Token::Sign('*')),
            '÷' => tokens.push(Token::Sign('/')),
            c if c.is_whitespace() => {}
            _ => return None,
        }
        rest = &rest[length..];
    }
    Some(tokens)
}

struct Parser<'a> {
    /// What is not read yet.
    tokens: &'a [Token],
    numbers: Vec<i64>,
}

impl Parser<'_> {
    fn sum(&mut self, depth: usize) -> Option<Ratio<i128>> {
        let mut value = self.product(depth)?;
        while let Some(sign) = self.take(&['+', '-']) {
            let next = self.product(depth)?;
            value = bounded(if sign == '+' { value + next } else { value - next })?;
        }
        Some(value)
    }

    fn product(&mut self, depth: usize) -> Option<Ratio<i128>> {
        let mut value = self.factor(depth)?;
        while let Some(sign) = self.take(&['*', '/']) {
            let next = self.factor(depth)?;
            value = match sign {
                '*' => bounded(value * next)?,
                _ if next.is_zero() => return None,
                _ => bounded(value / next)?,
            };
        }
        Some(value)
    }

    fn factor(&mut self, depth: usize) -> Option<Ratio<i128>> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.next()? {
            Token::Number(number) => {
                self.numbers.push(number);
                Some(Ratio::from_integer(number.into()))
            }
            Token::Sign('-') => Some(-self.factor(depth + 1)?),
            Token::Sign('(') => {
                let value = self.sum(depth + 1)?;
                self.take(&[')']).map(|_| value)
            }
            Token::Sign(_) => None,
        }
    }

    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    /// Takes the next token if it is one of `signs`.
    fn take(&mut self, signs: &[char]) -> Option<char> {
        match self.tokens.first() {
            Some(Token::Sign(sign)) if signs.contains(sign) => {
                self.tokens = &self.tokens[1..];
                Some(*sign)
            }
            _ => None,
        }
    }
}

fn bounded(value: Ratio<i128>) -> Option<Ratio<i128>> {
    (value.numer().abs() <= LARGEST && *value.denom() <= LARGEST).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, numerator: i128, denominator: i128, numbers: &[i64]) {
        let expected = Expression { value: Ratio::new(numerator, denominator), numbers: numbers.into() };
        assert_eq!(evaluate(text), Some(expected), "{text:?}");
    }

    #[test]
    fn expressions_have_their_value() {
        check("7", 7, 1, &[7]);
        check("2 + 3 * 4", 14, 1, &[2, 3, 4]);
        check("(2 + 3) * 4", 20, 1, &[2, 3, 4]);
        check("10 - 3 - 2", 5, 1, &[10, 3, 2]);
        check("10 - (3 - 2)", 9, 1, &[10, 3, 2]);
        check("8 / 3 * 3", 8, 1, &[8, 3, 3]);
        check("8/(3-8/3)", 24, 1, &[8, 3, 8, 3]);
        check("1/3", 1, 3, &[1, 3]);
        check("-2 * -(3)", 6, 1, &[2, 3]);
        check("2 × 3 ÷ 4 − 1", 1, 2, &[2, 3, 4, 1]);
        check(r"\left(2 \times 3\right) \div 4 \cdot 2", 3, 1, &[2, 3, 4, 2]);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in
            ["", "()", "2 +", "+ 2", "2 3", "2(3)", "(2", "2)", "1/0", "1/(2-2)", "2^3", "a", "1.5", "é", "2 ** 3"]
        {
            assert_eq!(evaluate(text), None, "{text:?}");
        }
    }

    #[test]
    fn hostile_texts_are_refused_at_once() {
        for text in ["(".repeat(1_000_000), "-".repeat(1_000_000), "9".repeat(1_000_000), "1+".repeat(1_000_000)] {
            assert_eq!(evaluate(&text), None);
            assert_eq!(
                evaluate(&format!("{text}1")),
                (text.starts_with('1')).then(|| evaluate(&format!("{text}1")).unwrap())
            );
        }
        assert_eq!(evaluate(&format!("9{}", "*999999999999999".repeat(10_000))), None);
        check(&format!("{}1{}", "(".repeat(100), ")".repeat(100)), 1, 1, &[1]);
        assert_eq!(evaluate(&format!("{}1{}", "(".repeat(101), ")".repeat(101))), None);
    }
}
