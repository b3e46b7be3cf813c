//! The syntax trees of expressions and of whole answers.

use num_rational::BigRational;

/// A mathematical expression. Sums and products are lists, so that the depth of a tree is the depth of its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// A literal number.
    Number(BigRational),
    /// A variable, with its subscript.
    Variable(String),
    /// The ratio of a circle's circumference to its diameter.
    Pi,
    /// The base of the natural logarithm.
    Euler,
    /// The square root of −1.
    Imaginary,
    /// Infinity. It has no value, and equals only itself.
    Infinity,
    /// The negative.
    Negative(Box<Expr>),
    /// One divided by the expression.
    Inverse(Box<Expr>),
    /// The sum of all parts.
    Sum(Vec<Expr>),
    /// The product of all parts.
    Product(Vec<Expr>),
    /// Base and exponent.
    Power(Box<Expr>, Box<Expr>),
    /// The root of the expression, of a fixed degree.
    Root(Box<Expr>, u32),
    /// A function of one argument.
    Call(Function, Box<Expr>),
    /// The logarithm of the second to the base of the first.
    Log(Box<Expr>, Box<Expr>),
    /// The number of ways to choose the second out of the first.
    Choose(Box<Expr>, Box<Expr>),
}

/// The functions of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Exp,
    Ln,
    Abs,
    Floor,
    Ceil,
    Factorial,
}

impl Function {
    /// The function with this name in LaTeX or plain text.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "sin" => Self::Sin,
            "cos" => Self::Cos,
            "tan" | "tg" => Self::Tan,
            "cot" => Self::Cot,
            "sec" => Self::Sec,
            "csc" => Self::Csc,
            "arcsin" | "asin" => Self::Arcsin,
            "arccos" | "acos" => Self::Arccos,
            "arctan" | "atan" => Self::Arctan,
            "sinh" => Self::Sinh,
            "cosh" => Self::Cosh,
            "tanh" => Self::Tanh,
            "exp" => Self::Exp,
            "ln" => Self::Ln,
            "abs" => Self::Abs,
            "floor" => Self::Floor,
            "ceil" => Self::Ceil,
            _ => return None,
        })
    }

    /// The function that undoes this one, as in `\sin^{-1}`.
    pub fn inverse(self) -> Option<Self> {
        Some(match self {
            Self::Sin => Self::Arcsin,
            Self::Cos => Self::Arccos,
            Self::Tan => Self::Arctan,
            _ => return None,
        })
    }
}

impl Expr {
    /// A whole number.
    pub fn integer(n: i64) -> Self {
        Self::Number(BigRational::from_integer(n.into()))
    }

    /// The product, without a needless list.
    pub fn product(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 { parts.remove(0) } else { Self::Product(parts) }
    }

    /// The sum, without a needless list.
    pub fn sum(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 { parts.remove(0) } else { Self::Sum(parts) }
    }

    /// `self − other`.
    pub fn minus(&self, other: &Self) -> Self {
        Self::Sum(vec![self.clone(), Self::Negative(Box::new(other.clone()))])
    }

    /// The parts of the expression.
    pub fn children(&self) -> Vec<&Self> {
        match self {
            Self::Negative(a) | Self::Inverse(a) | Self::Root(a, _) | Self::Call(_, a) => vec![a],
            Self::Sum(all) | Self::Product(all) => all.iter().collect(),
            Self::Power(a, b) | Self::Log(a, b) | Self::Choose(a, b) => vec![a, b],
            _ => vec![],
        }
    }

    /// Whether the variable occurs.
    pub fn mentions(&self, name: &str) -> bool {
        matches!(self, Self::Variable(it) if it == name) || self.children().iter().any(|it| it.mentions(name))
    }

    /// Whether any variable occurs.
    pub fn has_variables(&self) -> bool {
        matches!(self, Self::Variable(_)) || self.children().iter().any(|it| it.has_variables())
    }
}

/// A relation between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Approximately,
}

/// What encloses a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bracket {
    /// `( )` or `⟨ ⟩`: ordered; as the end of an interval, open.
    Round,
    /// `[ ]`: ordered; as the end of an interval, closed.
    Square,
    /// `{ }`: a set.
    Curly,
    /// Nothing: several answers, in any order.
    Bare,
}

/// How a bare list is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joint {
    /// A comma or a semicolon, or brackets.
    Comma,
    And,
    Or,
}

/// The unit of a quantity: its dimension, and how many base units it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The name of what is measured; a word that is in no table is its own dimension.
    pub dimension: String,
    /// The size in the base unit of the dimension.
    pub factor: BigRational,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An expression, with a unit or without.
    Value(Expr, Option<Unit>),
    /// Sides and the relations between them: one relation fewer than sides.
    Related(Vec<Answer>, Vec<Relation>),
    /// A list, with what opens and closes it.
    List { open: Bracket, close: Bracket, joint: Joint, items: Vec<Answer> },
    /// A union of intervals or sets.
    Union(Vec<Answer>),
    /// The rows of a matrix.
    Matrix(Vec<Vec<Expr>>),
    /// `…` in a list.
    Dots,
    /// Words. Equal to the same words, whatever their case.
    Text(String),
    /// What cannot be understood. Equal to the same symbols only.
    Opaque(String),
}

impl Answer {
    /// A number or expression without a unit.
    pub fn value(expr: Expr) -> Self {
        Self::Value(expr, None)
    }
}
