//! exp, ln, sine, cosine and arc tangent of a [`Ball`], by power series in fixed-point numbers.

use std::sync::LazyLock;

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::ball::Ball;

/// Bits behind the point of a fixed-point number.
const BITS: i64 = 512;
/// The error bound of every series, as a power of two, with a wide margin.
const ERROR: i64 = -440;
/// Arguments of this magnitude or more, and their inverses, are refused: they need more digits.
const MAX_ARGUMENT_BITS: i64 = 40;

static ONE: LazyLock<BigInt> = LazyLock::new(|| BigInt::one() << BITS);
/// π by Machin's formula: 16 atan(1/5) − 4 atan(1/239).
static PI: LazyLock<BigInt> =
    LazyLock::new(|| 16 * atan_series(&(&*ONE / 5)) - BigInt::from(4) * atan_series(&(&*ONE / 239)));
static LN_2: LazyLock<BigInt> = LazyLock::new(|| ln_fixed(&(&*ONE * 2)));

/// π.
pub fn pi() -> Ball {
    fixed(PI.clone(), ERROR)
}

/// e to the power of `x`; `None` for large arguments.
pub fn exp(x: &Ball) -> Option<Ball> {
    if x.is_zero() {
        return Some(Ball::integer(1));
    }
    if !x.is_moderate(20) {
        return None;
    }
    let (quotient, rest) = x.to_fixed(BITS).div_mod_floor(&LN_2);
    // exp(rest) = exp(rest / 2^16)^(2^16)
    let small = rest >> 16;
    let (mut sum, mut term) = (ONE.clone(), ONE.clone());
    for n in 1..60 {
        term = times(&term, &small) / n;
        sum += &term;
    }
    for _ in 0..16 {
        sum = times(&sum, &sum);
    }
    let exponent = quotient.to_i64()?;
    Some(Ball::new(sum, exponent - BITS, exponent + 2 + ERROR.max(x.radius().max(ERROR) + 1)))
}

/// The natural logarithm of a positive number.
pub fn ln(x: &Ball) -> Option<Ball> {
    if !x.is_positive() {
        return None;
    }
    let (mantissa, exponent) = x.parts();
    let bits = mantissa.bits() as i64;
    let scaled = if bits < BITS { mantissa << (BITS - bits) } else { mantissa >> (bits - BITS) };
    let whole = exponent + bits;
    let relative = x.radius().saturating_sub(whole - 3).max(ERROR);
    Some(fixed(ln_fixed(&scaled) + &*LN_2 * whole, relative + 2))
}

/// Sine and cosine.
pub fn sin_cos(x: &Ball) -> Option<(Ball, Ball)> {
    if x.is_zero() {
        return Some((Ball::zero(), Ball::integer(1)));
    }
    // A multiple of π is fine; a tiny number is not.
    if !x.is_moderate(MAX_ARGUMENT_BITS) {
        return None;
    }
    let half = &*PI >> 1;
    let (quarter, rest) = x.to_fixed(BITS).div_mod_floor(&half);
    let square = times(&rest, &rest);
    let (mut sin, mut cos) = (rest.clone(), ONE.clone());
    let (mut odd, mut even) = (rest, ONE.clone());
    for n in 1..60_i64 {
        even = -times(&even, &square) / (2 * n * (2 * n - 1));
        odd = -times(&odd, &square) / (2 * n * (2 * n + 1));
        cos += &even;
        sin += &odd;
    }
    let radius = x.radius().max(ERROR) + 2;
    let ball = |value: BigInt| fixed(value, radius);
    Some(match quarter.mod_floor(&4.into()).to_u8()? {
        0 => (ball(sin), ball(cos)),
        1 => (ball(cos), ball(-sin)),
        2 => (ball(-sin), ball(-cos)),
        _ => (ball(-cos), ball(sin)),
    })
}

/// The arc tangent.
pub fn atan(x: &Ball) -> Option<Ball> {
    if x.is_zero() {
        return Some(Ball::zero());
    }
    if !x.is_moderate(MAX_ARGUMENT_BITS) {
        return None;
    }
    let mut value = x.to_fixed(BITS);
    for _ in 0..8 {
        let hypotenuse = ((&value * &value) + (&*ONE * &*ONE)).sqrt();
        value = (value << BITS) / (&*ONE + hypotenuse);
    }
    Some(fixed(atan_series(&value) << 8, x.radius().max(ERROR) + 2))
}

fn fixed(value: BigInt, radius: i64) -> Ball {
    Ball::new(value, -BITS, radius)
}

fn times(a: &BigInt, b: &BigInt) -> BigInt {
    (a * b) >> BITS
}

/// The arc tangent of a small fixed-point number: x − x³/3 + x⁵/5 …
fn atan_series(x: &BigInt) -> BigInt {
    alternating(x, -1)
}

/// The logarithm of a fixed-point number: after eight square roots, 2 artanh((x − 1) / (x + 1)).
fn ln_fixed(x: &BigInt) -> BigInt {
    let mut root = x.clone();
    for _ in 0..8 {
        root = (root << BITS).sqrt();
    }
    let ratio = ((&root - &*ONE) << BITS) / (root + &*ONE);
    alternating(&ratio, 1) << 9
}

/// x + s x³/3 + s² x⁵/5 …
fn alternating(x: &BigInt, sign: i64) -> BigInt {
    let square = times(x, x) * sign;
    let (mut sum, mut power) = (x.clone(), x.clone());
    for n in 1..400_i64 {
        power = times(&power, &square);
        if power.is_zero() || power.abs().is_one() {
            break;
        }
        sum += &power / (2 * n + 1);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digits are those of mpmath: `mp.dps = 60; print(mp.pi, mp.exp(2), mp.log(10), …)`.
    fn check(value: &Ball, expected: &str) {
        let scaled = (value.to_fixed(BITS) * BigInt::from(10).pow(50)) >> BITS;
        assert_eq!(scaled.to_string(), expected);
    }

    #[test]
    fn values_agree_with_published_digits() {
        check(&pi(), "314159265358979323846264338327950288419716939937510");
        check(&exp(&Ball::integer(1)).unwrap(), "271828182845904523536028747135266249775724709369995");
        check(&ln(&Ball::integer(10)).unwrap(), "230258509299404568401799145468436420760110148862877");
        check(&ln(&Ball::integer(2)).unwrap(), "69314718055994530941723212145817656807550013436025");
        check(
            &atan(&Ball::integer(1)).unwrap().mul(&Ball::integer(4)).unwrap(),
            "314159265358979323846264338327950288419716939937510",
        );
        check(&sin_cos(&Ball::integer(1)).unwrap().0, "84147098480789650665250232163029899962256306079837");
        check(&sin_cos(&Ball::integer(1)).unwrap().1, "54030230586813971740093660744297660373231042061792");
    }

    #[test]
    fn inverse_functions_meet() {
        for n in [1, 2, 3, 7, 1000] {
            let x = Ball::integer(n);
            assert!(exp(&ln(&x).unwrap()).unwrap().meets(&x));
            let (sin, cos) = sin_cos(&x).unwrap();
            let one = sin.mul(&sin).unwrap().add(&cos.mul(&cos).unwrap()).unwrap();
            assert!(one.meets(&Ball::integer(1)));
            assert!(!one.meets(&Ball::integer(2)));
            let turns = pi().mul(&Ball::integer(n)).unwrap();
            assert!(sin_cos(&turns).unwrap().0.meets(&Ball::zero()));
        }
    }
}
