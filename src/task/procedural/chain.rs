//! Expressions of whole numbers that grow from their parts, written with as few brackets as their meaning allows.

/// An expression and its value.
#[derive(Clone, Debug)]
pub struct Term {
    pub text: String,
    pub value: i64,
    rank: Rank,
}

/// How closely the parts of an expression belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Sum,
    Product,
    Number,
}

/// What joins two terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Term {
    pub fn number(value: i64) -> Self {
        Self { text: value.to_string(), value, rank: Rank::Number }
    }

    /// The two terms, joined.
    ///
    /// # Panics
    /// If the value is not a whole number, or is too large.
    pub fn join(&self, operation: Operation, other: &Self) -> Self {
        use Operation::{Add, Divide, Multiply, Subtract};
        let (a, b) = (self.value, other.value);
        let (sign, value, rank, needed) = match operation {
            Add => ('+', a + b, Rank::Sum, Rank::Sum),
            Subtract => ('-', a - b, Rank::Sum, Rank::Product),
            Multiply => ('*', a * b, Rank::Product, Rank::Product),
            Divide => ('/', a / b, Rank::Product, Rank::Number),
        };
        assert!(operation != Divide || a % b == 0, "{a} / {b} is not a whole number");
        Self { text: format!("{} {sign} {}", self.within(rank), other.within(needed)), value, rank }
    }

    /// The text, in brackets if its rank is below `least`.
    fn within(&self, least: Rank) -> String {
        if self.rank < least { format!("({})", self.text) } else { self.text.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::Operation::{Add, Divide, Multiply, Subtract};
    use super::*;

    #[test]
    fn brackets_stand_where_they_are_needed() {
        let number = Term::number;
        let sum = number(2).join(Add, &number(4));
        let check = |term: Term, text: &str, value| assert_eq!((term.text.as_str(), term.value), (text, value));
        check(sum.join(Add, &sum), "2 + 4 + 2 + 4", 12);
        check(sum.join(Subtract, &sum), "2 + 4 - (2 + 4)", 0);
        check(sum.join(Multiply, &sum), "(2 + 4) * (2 + 4)", 36);
        check(number(12).join(Divide, &sum), "12 / (2 + 4)", 2);
        let product = number(2).join(Multiply, &number(3));
        check(number(12).join(Divide, &product), "12 / (2 * 3)", 2);
        check(product.join(Divide, &number(3)), "2 * 3 / 3", 2);
        check(number(1).join(Subtract, &product), "1 - 2 * 3", -5);
        check(number(5).join(Multiply, &number(6).join(Divide, &number(3))), "5 * 6 / 3", 10);
    }
}
