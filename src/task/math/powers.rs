//! Powers and roots of complex numbers.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Pow, Signed, ToPrimitive, Zero};

use super::functions;
use super::number::Number::{self, Exact};
use super::number::{MAX_BITS, bits};

impl Number {
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

    /// Any power of a number. A fractional power is defined for positive numbers only.
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
