//! The value of an expression at a point, with a budget of steps instead of a time-out.

use std::collections::BTreeSet;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::functions;
use super::number::Number;
use super::tree::{Expr, Function};
use crate::seed::splitmix64;

/// The largest n of n! and of n choose k.
const MAX_FACTORIAL: u32 = 500;
/// The largest k of n choose k where n is not a whole number.
const MAX_DEGREE: u32 = 30;

/// The values of all variables: a function of the name and of the round.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    round: u64,
    grid: Grid,
}

/// Where the coordinates of a point lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Odd whole numbers of 31 bits: many points, for rational functions.
    Fine,
    /// Multiples of 2⁻¹²: short fractions, for roots and transcendental functions.
    Coarse,
    /// Small positive whole numbers, for powers such as (−1)ⁿ.
    Whole,
}

impl Point {
    /// The point of a round. In even rounds all coordinates are positive, in round 1 all are negative.
    pub fn new(round: u64, grid: Grid) -> Self {
        Self { round, grid }
    }

    fn coordinate(self, variable: &str) -> BigRational {
        let seed = variable.bytes().fold(self.round + 1, |hash, byte| splitmix64(hash ^ u64::from(byte)));
        let random = splitmix64(seed);
        // Up to 1 in the first rounds, so that an arc sine is defined; up to 4 later.
        let reach = if self.round < 4 { 0 } else { 2 };
        let (numerator, denominator) = match self.grid {
            Grid::Fine => (random >> (33 - reach), 1_u64),
            Grid::Coarse => (random >> (52 - reach), 1 << 12),
            Grid::Whole => (2 + random % 97, 1),
        };
        let numerator = numerator as i64 | 1;
        let negative = self.grid != Grid::Whole && self.round % 2 == 1 && (self.round == 1 || random & 1 == 1);
        BigRational::new((if negative { -numerator } else { numerator }).into(), denominator.into())
    }
}

/// The steps that are left.
#[derive(Debug)]
pub struct Budget(u64);

impl Budget {
    pub fn new(steps: u64) -> Self {
        Self(steps)
    }

    /// Takes steps; `None` once there are too few.
    pub fn spend(&mut self, steps: u64) -> Option<()> {
        self.0 = self.0.checked_sub(steps)?;
        Some(())
    }
}

/// Evaluates expressions at one point.
pub struct Evaluator<'a> {
    pub point: Point,
    pub budget: &'a mut Budget,
}

impl Evaluator<'_> {
    /// The value; `None` where it is undefined or takes too many steps.
    pub fn value(&mut self, expr: &Expr) -> Option<Number> {
        let value = match expr {
            Expr::Number(it) => Number::rational(it.clone()),
            Expr::Variable(name) => Number::rational(self.point.coordinate(name)),
            Expr::Pi => Number::real(functions::pi()),
            Expr::Euler => Number::integer(1).exp()?,
            Expr::Imaginary => Number::imaginary(),
            Expr::Infinity => return None,
            Expr::Negative(it) => self.value(it)?.neg(),
            Expr::Inverse(it) => self.value(it)?.inverse()?,
            Expr::Sum(parts) => self.fold(parts, Number::add)?,
            Expr::Product(parts) => self.fold(parts, Number::mul)?,
            Expr::Power(base, exponent) if **base == Expr::Euler => {
                self.budget.spend(100)?;
                self.value(exponent)?.exp()?
            }
            Expr::Power(base, exponent) => {
                let (base, exponent) = (self.value(base)?, self.value(exponent)?);
                let heavy = exponent.as_rational().is_none_or(|it| !it.is_integer());
                self.budget.spend(if heavy { 200 } else { 4 * base.cost() })?;
                base.power(&exponent)?
            }
            Expr::Root(it, degree) => {
                let value = self.value(it)?;
                self.budget.spend(8 * value.cost())?;
                // With variables, even roots are real: √x √y is √(xy).
                if degree % 2 == 0 && it.has_variables() && value.as_real()?.is_negative() {
                    return None;
                }
                value.root(*degree)?
            }
            Expr::Call(function, it) => {
                let value = self.value(it)?;
                self.budget.spend(100)?;
                call(*function, &value)?
            }
            Expr::Log(base, it) => {
                let (base, it) = (self.value(base)?.as_real()?, self.value(it)?.as_real()?);
                self.budget.spend(200)?;
                Number::real(functions::ln(&it)?).mul(&Number::real(functions::ln(&base)?).inverse()?)?
            }
            Expr::Choose(n, k) => choose(self.value(n)?, self.value(k)?)?,
        };
        self.budget.spend(value.cost())?;
        Some(value)
    }

    fn fold(&mut self, parts: &[Expr], add: fn(&Number, &Number) -> Option<Number>) -> Option<Number> {
        let (first, rest) = parts.split_first()?;
        let mut total = self.value(first)?;
        for part in rest {
            let part = self.value(part)?;
            self.budget.spend(total.cost() + part.cost())?;
            total = add(&total, &part)?;
        }
        Some(total)
    }
}

fn call(function: Function, x: &Number) -> Option<Number> {
    let sin_cos = || {
        let (sin, cos) = functions::sin_cos(&x.as_real()?)?;
        Some((Number::real(sin), Number::real(cos)))
    };
    let one = Number::integer(1);
    Some(match function {
        Function::Sin => sin_cos()?.0,
        Function::Cos => sin_cos()?.1,
        Function::Tan => sin_cos().and_then(|(sin, cos)| sin.mul(&cos.inverse()?))?,
        Function::Cot => sin_cos().and_then(|(sin, cos)| cos.mul(&sin.inverse()?))?,
        Function::Sec => sin_cos()?.1.inverse()?,
        Function::Csc => sin_cos()?.0.inverse()?,
        Function::Arcsin => arcsin(x)?,
        Function::Arccos => {
            Number::real(functions::pi()).mul(&Number::integer(2).inverse()?)?.add(&arcsin(x)?.neg())?
        }
        Function::Arctan => Number::real(functions::atan(&x.as_real()?)?),
        Function::Sinh | Function::Cosh | Function::Tanh => {
            let (up, down) = (x.exp()?, x.neg().exp()?);
            let (sum, difference) = (up.add(&down)?, up.add(&down.neg())?);
            match function {
                Function::Tanh => difference.mul(&sum.inverse()?)?,
                Function::Sinh => difference.mul(&Number::integer(2).inverse()?)?,
                _ => sum.mul(&Number::integer(2).inverse()?)?,
            }
        }
        Function::Exp => x.exp()?,
        Function::Ln if x.same(&one) => Number::integer(0),
        Function::Ln => Number::real(functions::ln(&x.as_real()?)?),
        Function::Abs => x.abs()?,
        Function::Floor => Number::rational(x.as_rational()?.floor()),
        Function::Ceil => Number::rational(x.as_rational()?.ceil()),
        Function::Factorial => {
            let n = x.as_rational().filter(|it| it.is_integer() && !it.is_negative())?.to_integer().to_u32()?;
            (n <= MAX_FACTORIAL).then(|| Number::rational(falling(&n.into(), n).into()))?
        }
    })
}

fn arcsin(x: &Number) -> Option<Number> {
    let cos = Number::integer(1).add(&x.mul(x)?.neg())?.root(2)?;
    if cos.as_rational().is_some_and(Zero::is_zero) {
        return Number::real(functions::pi()).mul(x)?.mul(&Number::integer(2).inverse()?);
    }
    Some(Number::real(functions::atan(&x.mul(&cos.inverse()?)?.as_real()?)?))
}

/// n (n − 1) … (n − k + 1) / k!, for a small whole k and any n.
fn choose(n: Number, k: Number) -> Option<Number> {
    let k = k.as_rational().filter(|it| it.is_integer() && !it.is_negative())?.to_integer().to_u32()?;
    // The larger of k and n − k counts the same.
    let rest = n.as_rational().filter(|it| it.is_integer() && !it.is_negative());
    let rest = rest.and_then(|it| (it.to_integer() - k).to_u32());
    let k = rest.map_or(k, |rest| rest.min(k));
    if let Some(n) = n.as_rational().filter(|it| it.is_integer() && it.numer().bits() <= 32) {
        let whole = || falling(n.numer(), k) / falling(&k.into(), k);
        return (k <= MAX_FACTORIAL).then(|| Number::rational(whole().into()));
    }
    if k > MAX_DEGREE {
        return None;
    }
    let mut result = Number::integer(1);
    for i in 0..i64::from(k) {
        result = result.mul(&n.add(&Number::integer(-i))?)?.mul(&Number::integer(i + 1).inverse()?)?;
    }
    Some(result)
}

/// n (n − 1) … (n − k + 1)
fn falling(n: &BigInt, k: u32) -> BigInt {
    (0..k).fold(BigInt::one(), |all, i| all * (n - i))
}

/// The grid for an expression: coarse where rounding is needed.
pub fn grid(expr: &Expr) -> Grid {
    let here = match expr {
        Expr::Pi | Expr::Euler | Expr::Root(..) | Expr::Call(..) | Expr::Log(..) => Grid::Coarse,
        Expr::Power(_, exponent) => match &**exponent {
            Expr::Number(it) if it.is_integer() => Grid::Fine,
            Expr::Negative(it) if matches!(&**it, Expr::Number(it) if it.is_integer()) => Grid::Fine,
            _ => Grid::Coarse,
        },
        _ => Grid::Fine,
    };
    if here == Grid::Coarse || expr.children().into_iter().any(|it| grid(it) == Grid::Coarse) {
        Grid::Coarse
    } else {
        Grid::Fine
    }
}

/// The names of all variables.
pub fn variables<'a>(expr: &'a Expr, names: &mut BTreeSet<&'a str>) {
    if let Expr::Variable(name) = expr {
        names.insert(name);
    }
    expr.children().into_iter().for_each(|it| variables(it, names));
}
