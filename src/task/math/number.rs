//! Complex numbers: exact fractions as long as possible, otherwise balls.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::ball::Ball;
use super::functions;

/// Exact numbers have at most this many bits above and below the line.
const MAX_BITS: u64 = 12_000;
/// Exact numbers with more bits are not rounded to balls: roots of numbers this large are too close to each other.
const MAX_ROUNDED_BITS: u64 = 360;

/// A complex number.
#[derive(Clone, Debug)]
pub enum Number {
    /// Real and imaginary part, exactly.
    Exact(BigRational, BigRational),
    /// Real and imaginary part, each with an error bound.
    Ball(Ball, Ball),
}

use Number::Exact;

/// Operations give `None` where the result is undefined, or too large or too uncertain to compute with.
impl Number {
    /// A real fraction.
    pub fn rational(value: BigRational) -> Self {
        Exact(value, BigRational::zero())
    }

    /// A whole number.
    pub fn integer(n: i64) -> Self {
        Self::rational(BigRational::from_integer(n.into()))
    }

    /// The square root of −1.
    pub fn imaginary() -> Self {
        Exact(BigRational::zero(), BigRational::one())
    }

    /// A real number with an error bound.
    pub fn real(ball: Ball) -> Self {
        Self::Ball(ball, Ball::zero())
    }

    /// About how much work an operation on this number is.
    pub fn cost(&self) -> u64 {
        match self {
            Exact(re, im) => 1 + ((bits(re) + bits(im)) / 256).pow(2),
            Self::Ball(..) => 8,
        }
    }

    fn balls(&self) -> Option<(Ball, Ball)> {
        match self {
            Exact(re, im) if bits(re).max(bits(im)) > MAX_ROUNDED_BITS => None,
            Exact(re, im) => Some((Ball::rational(re), Ball::rational(im))),
            Self::Ball(re, im) => Some((re.clone(), im.clone())),
        }
    }

    /// The value, if it is an exact real number.
    pub fn as_rational(&self) -> Option<&BigRational> {
        match self {
            Exact(re, im) if im.is_zero() => Some(re),
            _ => None,
        }
    }

    /// The value as a real ball, if it is real.
    pub fn as_real(&self) -> Option<Ball> {
        let (re, im) = self.balls()?;
        im.is_zero().then_some(re)
    }

    fn small(self) -> Option<Self> {
        match &self {
            Exact(re, im) if bits(re).max(bits(im)) > MAX_BITS => None,
            _ => Some(self),
        }
    }

    pub fn neg(&self) -> Self {
        match self {
            Exact(re, im) => Exact(-re, -im),
            Self::Ball(re, im) => Self::Ball(re.neg(), im.neg()),
        }
    }

    pub fn add(&self, other: &Self) -> Option<Self> {
        if let (Exact(a, b), Exact(c, d)) = (self, other) {
            let imaginary = if b.is_zero() && d.is_zero() { BigRational::zero() } else { b + d };
            return Exact(sum(a, c), imaginary).small();
        }
        let ((a, b), (c, d)) = (self.balls()?, other.balls()?);
        Some(Self::Ball(a.add(&c)?, b.add(&d)?))
    }

    pub fn mul(&self, other: &Self) -> Option<Self> {
        if let (Exact(a, b), Exact(c, d)) = (self, other) {
            if b.is_zero() && d.is_zero() {
                return Exact(product(a, c), BigRational::zero()).small();
            }
            return Exact(a * c - b * d, a * d + b * c).small();
        }
        let ((a, b), (c, d)) = (self.balls()?, other.balls()?);
        let re = a.mul(&c)?.add(&b.mul(&d)?.neg())?;
        Some(Self::Ball(re, a.mul(&d)?.add(&b.mul(&c)?)?))
    }

    pub fn inverse(&self) -> Option<Self> {
        if let Exact(a, b) = self {
            if b.is_zero() {
                return (!a.is_zero()).then(|| Exact(a.recip(), BigRational::zero()));
            }
            let norm = a * a + b * b;
            return Exact(a / &norm, -b / &norm).small();
        }
        let (a, b) = self.balls()?;
        if b.is_zero() {
            return Some(Self::real(a.inverse()?));
        }
        let norm = a.mul(&a)?.add(&b.mul(&b)?)?.inverse()?;
        Some(Self::Ball(a.mul(&norm)?, b.neg().mul(&norm)?))
    }

    /// The root of a real number: exact where possible. Odd roots of negative numbers are negative; the square root
    /// of a negative number is imaginary.
    pub fn root(&self, degree: u32) -> Option<Self> {
        if let Some(value) = self.as_rational() {
            if value.is_negative() {
                let root = Self::rational(-value).root(degree)?;
                return match degree {
                    2 => root.mul(&Self::imaginary()),
                    _ if degree % 2 == 1 => Some(root.neg()),
                    _ => None,
                };
            }
            if let Some(root) = exact_root(value, degree) {
                return Some(Self::rational(root));
            }
        }
        let real = self.as_real()?;
        if real.is_negative() {
            let root = Self::real(real.neg()).root(degree)?;
            return match degree {
                2 => root.mul(&Self::imaginary()),
                _ if degree % 2 == 1 => Some(root.neg()),
                _ => None,
            };
        }
        Some(Self::real(real.root(degree)?))
    }

    /// A whole power.
    fn whole_power(&self, exponent: i64) -> Option<Self> {
        if let Exact(re, im) = self
            && bits(re).max(bits(im)).saturating_sub(1).saturating_mul(exponent.unsigned_abs()) > MAX_BITS
        {
            return None;
        }
        if exponent < 0 {
            return self.whole_power(exponent.checked_neg()?)?.inverse();
        }
        if let Some(value) = self.as_rational() {
            let exponent = if value.numer().abs().is_one() && value.is_integer() { exponent % 2 } else { exponent };
            return Some(Self::rational(Pow::pow(value, exponent as u32)));
        }
        let (mut power, mut square, mut rest) = (Self::integer(1), self.clone(), exponent);
        while rest > 0 {
            if rest & 1 == 1 {
                power = power.mul(&square)?;
            }
            rest >>= 1;
            if rest > 0 {
                square = square.mul(&square)?;
            }
        }
        Some(power)
    }

    pub fn power(&self, exponent: &Self) -> Option<Self> {
        if let Some(value) = exponent.as_rational() {
            if value.is_integer() {
                let zero = self.as_rational().is_some_and(Zero::is_zero);
                if zero && !value.is_positive() {
                    return None;
                }
                return self
                    .whole_power(value.to_integer().to_i64().filter(|it| it.abs() < 1 << 20 || self.is_unit())?);
            }
            // A root of a negative number has several values.
            let base = self.as_real()?;
            let degree = value.denom().to_u32().filter(|it| *it <= 64);
            if let (true, Some(degree)) = (base.is_positive() || base.is_zero(), degree) {
                return self.root(degree)?.power(&Self::rational(value.numer().clone().into()));
            }
        }
        let logarithm = Self::real(functions::ln(&self.as_real()?)?);
        logarithm.mul(exponent)?.exp()
    }

    fn is_unit(&self) -> bool {
        self.as_rational().is_some_and(|it| it.is_integer() && it.numer().abs().is_one())
    }

    /// e to the power of this number, which may be complex.
    pub fn exp(&self) -> Option<Self> {
        if self.as_rational().is_some_and(Zero::is_zero) {
            return Some(Self::integer(1));
        }
        let (re, im) = self.balls()?;
        let size = functions::exp(&re)?;
        if im.is_zero() {
            return Some(Self::real(size));
        }
        let (sin, cos) = functions::sin_cos(&im)?;
        Some(Self::Ball(size.mul(&cos)?, size.mul(&sin)?))
    }

    /// The absolute value.
    pub fn abs(&self) -> Option<Self> {
        if let Some(value) = self.as_rational() {
            return Some(Self::rational(value.abs()));
        }
        if let Some(value) = self.as_real() {
            return Some(Self::real(value.abs()));
        }
        let conjugate = match self {
            Exact(re, im) => Exact(re.clone(), -im),
            Self::Ball(re, im) => Self::Ball(re.clone(), im.neg()),
        };
        let square = match self.mul(&conjugate)? {
            Self::Ball(re, _) => Self::real(re),
            exact => exact,
        };
        square.root(2)
    }

    /// Whether both are the same number; `false` where that is not sure.
    pub fn same(&self, other: &Self) -> bool {
        if let (Exact(a, b), Exact(c, d)) = (self, other) {
            return a == c && b == d;
        }
        let (Some((a, b)), Some((c, d))) = (self.balls(), other.balls()) else {
            return false;
        };
        a.meets(&c) && b.meets(&d)
    }

    /// Whether the number is surely not zero.
    pub fn is_nonzero(&self) -> bool {
        match self {
            Exact(re, im) => !re.is_zero() || !im.is_zero(),
            Self::Ball(re, im) => re.is_nonzero() || im.is_nonzero(),
        }
    }
}

/// The sum, without a common divisor where none is needed.
fn sum(a: &BigRational, b: &BigRational) -> BigRational {
    if a.is_integer() && b.is_integer() { (a.numer() + b.numer()).into() } else { a + b }
}

/// The product, without a common divisor where none is needed.
fn product(a: &BigRational, b: &BigRational) -> BigRational {
    if a.is_integer() && b.is_integer() { (a.numer() * b.numer()).into() } else { a * b }
}

/// The bits of the larger of numerator and denominator.
fn bits(value: &BigRational) -> u64 {
    value.numer().bits().max(value.denom().bits())
}

fn exact_root(value: &BigRational, degree: u32) -> Option<BigRational> {
    let root = |n: &BigInt| {
        let root = n.nth_root(degree);
        (Pow::pow(&root, degree) == *n).then_some(root)
    };
    if degree == 0 || degree > 64 {
        return None;
    }
    Some(BigRational::new(root(value.numer())?, root(value.denom())?))
}
