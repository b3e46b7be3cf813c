//! The smallest parts of an expression: numbers, variables, commands and brackets.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::expr::Parser;
use super::numeral::number;
use super::quantity::number_word;
use super::token::Kind;
use super::tree::{Expr, Function};
use super::words;

impl Parser<'_> {
    /// A number, a variable, a function with its argument, or brackets.
    pub(super) fn primary(&mut self) -> Option<Expr> {
        self.deeper(Self::shallow_primary)
    }

    fn shallow_primary(&mut self) -> Option<Expr> {
        match self.peek()? {
            Kind::Number(text) => {
                self.at += 1;
                if self.eat('_') { self.based(text) } else { Some(Expr::Number(number(text)?)) }
            }
            Kind::Letter(letter) => {
                self.at += 1;
                self.letter(*letter)
            }
            Kind::Name(name) => {
                self.at += 1;
                self.named(name)
            }
            Kind::Symbol(symbol) => match symbol {
                '(' => self.enclosed('(', ')'),
                '[' => self.enclosed('[', ']'),
                '{' => self.braces(),
                '⌊' => Some(Expr::Call(Function::Floor, Box::new(self.enclosed('⌊', '⌋')?))),
                '⌈' => Some(Expr::Call(Function::Ceil, Box::new(self.enclosed('⌈', '⌉')?))),
                '∞' => {
                    self.at += 1;
                    Some(Expr::Infinity)
                }
                '|' => {
                    self.at += 1;
                    self.bars += 1;
                    let inner = self.sum()?;
                    self.bars -= 1;
                    self.expect('|')?;
                    Some(Expr::Call(Function::Abs, Box::new(inner)))
                }
                _ => None,
            },
            Kind::Text(_) => None,
        }
    }

    /// A number in another base: `101_2`.
    fn based(&mut self, digits: &str) -> Option<Expr> {
        let braces = self.eat('{');
        let base: u32 = match self.peek()? {
            Kind::Number(base) => base.parse().ok()?,
            Kind::Text(word) => u32::try_from(number_word(word)?).ok()?,
            _ => return None,
        };
        self.at += 1;
        if braces {
            self.expect('}')?;
        }
        if !(2..=10).contains(&base) {
            return None;
        }
        let value = BigInt::parse_bytes(digits.as_bytes(), base)?;
        Some(Expr::Number(value.into()))
    }

    fn letter(&mut self, letter: char) -> Option<Expr> {
        if self.peek() == Some(&Kind::Symbol('_')) {
            return self.subscripted(&letter.to_string());
        }
        Some(match letter {
            'e' => Expr::Euler,
            'i' => Expr::Imaginary,
            _ => Expr::Variable(letter.to_string()),
        })
    }

    fn subscripted(&mut self, name: &str) -> Option<Expr> {
        if !self.eat('_') {
            return Some(Expr::Variable(name.into()));
        }
        let braces = self.eat('{');
        let mut subscript = String::new();
        loop {
            match self.peek()? {
                Kind::Number(it) | Kind::Name(it) | Kind::Text(it) => subscript += it,
                Kind::Letter(it) => subscript.push(*it),
                Kind::Symbol('}') if braces => break,
                Kind::Symbol(it @ ('+' | '-' | ',')) if braces => subscript.push(*it),
                Kind::Symbol(_) => return None,
            }
            self.at += 1;
            if !braces {
                break;
            }
        }
        if braces {
            self.expect('}')?;
        }
        Some(Expr::Variable(format!("{name}_{subscript}")))
    }

    fn named(&mut self, name: &str) -> Option<Expr> {
        match name {
            "pi" => Some(Expr::Pi),
            "frac" => {
                let (above, below) = (self.argument()?, self.argument()?);
                Some(Expr::Product(vec![above, Expr::Inverse(Box::new(below))]))
            }
            "sqrt" => self.root(),
            "cbrt" => Some(Expr::Root(Box::new(self.argument()?), 3)),
            "binom" => {
                let (n, k) = (self.argument()?, self.argument()?);
                Some(Expr::Choose(Box::new(n), Box::new(k)))
            }
            "log" | "lg" => {
                let base = if self.eat('_') { self.argument()? } else { Expr::integer(10) };
                Some(Expr::Log(Box::new(base), Box::new(self.operand()?)))
            }
            _ if words::is_greek(name) => self.subscripted(name),
            _ => self.function(Function::named(name)?),
        }
    }

    fn root(&mut self) -> Option<Expr> {
        let degree = if self.peek() == Some(&Kind::Symbol('[')) {
            let Expr::Number(degree) = self.enclosed('[', ']')? else { return None };
            let degree = degree.is_integer().then(|| degree.to_integer())?;
            u32::try_from(degree).ok().filter(|it| (2..=64).contains(it))?
        } else {
            2
        };
        Some(Expr::Root(Box::new(self.argument()?), degree))
    }

    fn function(&mut self, function: Function) -> Option<Expr> {
        if !self.eat('^') {
            return Some(Expr::Call(function, Box::new(self.operand()?)));
        }
        // `\sin^2 x` is the square of the sine, `\sin^{-1} x` the arc sine.
        let exponent = self.exponent()?;
        let argument = Box::new(self.operand()?);
        if exponent == Expr::Negative(Box::new(Expr::integer(1))) {
            return Some(Expr::Call(function.inverse()?, argument));
        }
        Some(Expr::Power(Box::new(Expr::Call(function, argument)), Box::new(exponent)))
    }

    /// The argument of a LaTeX command: a group, or one token. The scanner splits the digits of `\frac12`.
    pub(super) fn argument(&mut self) -> Option<Expr> {
        self.primary()
    }

    /// The argument of a function: in brackets, or all factors up to the next sign or function, as in `\sin 2x`.
    fn operand(&mut self) -> Option<Expr> {
        self.deeper(|parser| {
            if matches!(parser.peek(), Some(Kind::Symbol('(' | '{' | '['))) {
                let inner = parser.primary()?;
                if parser.degrees() {
                    let degree = BigRational::new(1.into(), 180.into());
                    return Some(Expr::Product(vec![inner, Expr::Number(degree), Expr::Pi]));
                }
                return Some(inner);
            }
            let mut parts = vec![parser.power()?];
            while matches!(parser.peek(), Some(Kind::Letter(_)))
                || matches!(parser.peek(), Some(Kind::Name(name)) if name == "pi" || words::is_greek(name))
            {
                parts.push(parser.power()?);
            }
            Some(Expr::product(parts))
        })
    }
}
