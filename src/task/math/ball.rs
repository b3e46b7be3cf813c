//! Real numbers known to about 115 decimal digits, each with a bound on its error.
//!
//! A ball is a number `mantissa · 2^exponent` and a radius: the true value is at most `2^radius` away. Every operation
//! widens the radius by at least its own rounding error, so two balls that do not meet are two different numbers.

use num_bigint::{BigInt, Sign};
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

/// Mantissas are rounded to this many bits.
pub const PRECISION: i64 = 384;
/// A sum in which one part is this many bits smaller than the other is refused: the small part would soon be lost.
const MAX_GAP: i64 = 160;
/// The radius of an exact number.
const EXACT: i64 = i64::MIN;
/// Larger and smaller numbers are refused.
const MAX_MAGNITUDE: i64 = 1 << 24;

/// A real number with a bound on its error.
#[derive(Clone, Debug)]
pub struct Ball {
    mantissa: BigInt,
    exponent: i64,
    /// The base-2 logarithm of the radius.
    radius: i64,
}

impl Ball {
    /// The number `mantissa · 2^exponent`, known up to `2^radius`.
    pub fn new(mantissa: BigInt, exponent: i64, radius: i64) -> Self {
        let excess = mantissa.bits() as i64 - PRECISION;
        if excess <= 0 {
            return Self { mantissa, exponent, radius };
        }
        let exponent = exponent + excess;
        Self { mantissa: mantissa >> excess, exponent, radius: join(radius, exponent) }
    }

    /// Zero.
    pub fn zero() -> Self {
        Self::integer(0)
    }

    /// A whole number.
    pub fn integer(n: i64) -> Self {
        Self::new(n.into(), 0, EXACT)
    }

    /// A rational number, rounded.
    pub fn rational(value: &BigRational) -> Self {
        if value.is_integer() {
            return Self::new(value.numer().clone(), 0, EXACT);
        }
        let shift = (PRECISION + 8 + value.denom().bits() as i64 - value.numer().bits() as i64).max(0);
        Self::new((value.numer() << shift) / value.denom(), -shift, -shift)
    }

    /// The smallest known k with |value| < 2^k, apart from the radius.
    fn magnitude(&self) -> i64 {
        self.mantissa.bits() as i64 + self.exponent
    }

    /// Whether the number is zero and exactly known.
    pub fn is_zero(&self) -> bool {
        self.mantissa.is_zero() && self.radius == EXACT
    }

    /// Whether zero lies outside of the ball.
    pub fn is_nonzero(&self) -> bool {
        !self.mantissa.is_zero() && self.radius < self.magnitude() - 1
    }

    /// Whether the number is surely positive.
    pub fn is_positive(&self) -> bool {
        self.is_nonzero() && self.mantissa.is_positive()
    }

    /// Whether the number is surely negative.
    pub fn is_negative(&self) -> bool {
        self.is_nonzero() && self.mantissa.is_negative()
    }

    /// Whether |value| lies between 2⁻⁶⁴ and 2^`bits`, or is zero as far as can be seen.
    pub fn is_moderate(&self, bits: i64) -> bool {
        let zero = self.is_zero() || (!self.is_nonzero() && self.radius < -200);
        zero || (-64..bits).contains(&self.magnitude().max(self.radius))
    }

    /// The negative.
    pub fn neg(&self) -> Self {
        Self { mantissa: -&self.mantissa, ..self.clone() }
    }

    /// The sum; `None` if one part is far too small to matter.
    pub fn add(&self, other: &Self) -> Option<Self> {
        let gap = self.magnitude() - other.magnitude();
        if self.is_nonzero() && other.is_nonzero() && gap.abs() > MAX_GAP {
            return None;
        }
        Some(self.plain_add(other))
    }

    fn plain_add(&self, other: &Self) -> Self {
        if self.is_zero() {
            return other.clone();
        }
        if other.is_zero() {
            return self.clone();
        }
        let (low, high) = if self.exponent <= other.exponent { (self, other) } else { (other, self) };
        let radius = join(self.radius, other.radius);
        let shift = high.exponent - low.exponent;
        if shift > 4 * PRECISION {
            // The low part is rounded away, or the high part is an uncertain zero.
            return Self { radius: join(radius, low.magnitude()), ..high.clone() };
        }
        Self::new((&high.mantissa << shift) + &low.mantissa, low.exponent, radius)
    }

    /// The product.
    pub fn mul(&self, other: &Self) -> Option<Self> {
        if self.is_zero() || other.is_zero() {
            return Some(Self::zero());
        }
        let radius = join(
            join(plus(self.magnitude(), other.radius), plus(other.magnitude(), self.radius)),
            if self.radius == EXACT { EXACT } else { plus(self.radius, other.radius) },
        );
        let product = Self::new(&self.mantissa * &other.mantissa, self.exponent + other.exponent, radius);
        (product.magnitude().abs() < MAX_MAGNITUDE).then_some(product)
    }

    /// 1 / value; `None` if the value may be zero.
    pub fn inverse(&self) -> Option<Self> {
        if !self.is_nonzero() || self.radius > self.magnitude() - 4 {
            return None;
        }
        let shift = self.mantissa.bits() as i64 + PRECISION;
        let quotient = (BigInt::one() << shift) / &self.mantissa;
        let exponent = -shift - self.exponent;
        let spread = plus(self.radius, 3 - 2 * self.magnitude());
        Some(Self::new(quotient, exponent, join(spread, exponent)))
    }

    /// The `degree`-th root of a positive number.
    pub fn root(&self, degree: u32) -> Option<Self> {
        if self.is_zero() {
            return Some(Self::zero());
        }
        if !self.is_positive() || degree == 0 || degree > 64 || self.radius > self.magnitude() - 4 {
            return None;
        }
        let n = i64::from(degree);
        let mut shift = (n * PRECISION - self.mantissa.bits() as i64).max(0);
        shift += (self.exponent - shift).rem_euclid(n);
        let root = (&self.mantissa << shift).nth_root(degree);
        let exponent = (self.exponent - shift) / n;
        let magnitude = root.bits() as i64 + exponent;
        let spread = plus(self.radius, magnitude - self.magnitude() + 2);
        Some(Self::new(root, exponent, join(spread, exponent)))
    }

    /// The value times 2^`bits`, rounded to an integer.
    pub fn to_fixed(&self, bits: i64) -> BigInt {
        let shift = self.exponent + bits;
        if shift >= 0 { &self.mantissa << shift } else { &self.mantissa >> -shift }
    }

    /// The base-2 logarithm of the error bound.
    pub fn radius(&self) -> i64 {
        self.radius
    }

    /// Mantissa and exponent.
    pub fn parts(&self) -> (&BigInt, i64) {
        (&self.mantissa, self.exponent)
    }

    /// The absolute value.
    pub fn abs(&self) -> Self {
        if self.mantissa.sign() == Sign::Minus { self.neg() } else { self.clone() }
    }

    /// Whether both are the same number as far as can be seen: the balls meet, and both are so small that two
    /// different numbers that an answer can contain would not meet. `false` where that is not sure.
    pub fn meets(&self, other: &Self) -> bool {
        let difference = self.plain_add(&other.neg());
        let apart = difference.magnitude() > plus(difference.radius, 1) && !difference.mantissa.is_zero();
        let size = self.magnitude().max(other.magnitude());
        let narrow = difference.radius == EXACT || difference.radius < (size - 200).clamp(-260, -200);
        !apart && narrow
    }
}

/// A bound of the sum of two errors.
fn join(a: i64, b: i64) -> i64 {
    if a == EXACT {
        b
    } else if b == EXACT {
        a
    } else {
        a.max(b) + 1
    }
}

/// The radius `a`, scaled by 2^`b`.
fn plus(a: i64, b: i64) -> i64 {
    if a == EXACT || b == EXACT { EXACT } else { a + b }
}
