//! Complex numbers: exact fractions as long as possible, otherwise balls.

use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::ball::Ball;

/// Exact numbers have at most this many bits above and below the line.
pub(super) const MAX_BITS: u64 = 12_000;
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

    /// Both parts, rounded.
    pub(super) fn balls(&self) -> Option<(Ball, Ball)> {
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
pub(super) fn bits(value: &BigRational) -> u64 {
    value.numer().bits().max(value.denom().bits())
}
