//! Whether two expressions are equal, and whether one is a constant multiple of the other.
//!
//! **Numbers** that are fractions are compared exactly. Other numbers are balls of 384 bits; two of them count as equal
//! if the balls meet and are narrower than 2⁻²⁰⁰, absolutely and relative to the number. Different numbers within 10⁻⁶⁰
//! of each other would be confused; sums that hide one part behind a much larger one are refused.
//!
//! **Expressions with variables** are compared at random points. Two different rational functions of degree d agree at
//! a random point of a grid of 2³⁰ values per variable with a probability of at most d/2³⁰ (Schwartz and Zippel), so at
//! all [`AGREE`] points with at most (d/2³⁰)⁴. With roots, logarithms and the like the grid has 2¹² values.

use std::collections::BTreeSet;

use super::evaluate::{Budget, Evaluator, Grid, Point, grid, variables};
use super::number::Number;
use super::tree::Expr;

/// The number of points at which two expressions must agree.
const AGREE: usize = 4;
/// The number of points to try; at some of them an expression is undefined.
const ROUNDS: u64 = 12;

/// Whether two expressions are equal wherever both are defined. `false` where that is not sure.
pub fn same(a: &Expr, b: &Expr, budget: &mut Budget) -> bool {
    a == b || same_value(a, b, budget)
}

fn same_value(a: &Expr, b: &Expr, budget: &mut Budget) -> bool {
    if !a.has_variables() && !b.has_variables() {
        let point = Point::new(0, Grid::Fine);
        return match (value(a, point, budget), value(b, point, budget)) {
            (Some(a), Some(b)) => a.same(&b),
            _ => false,
        };
    }
    let whole = has_power_of_negative(a) && has_power_of_negative(b);
    let grid = if whole { Grid::Whole } else { joint_grid(a, b) };
    let mut agreed = 0;
    for round in 0..ROUNDS {
        let point = Point::new(round, grid);
        let Some(left) = value(a, point, budget) else { continue };
        let Some(right) = value(b, point, budget) else { continue };
        if !left.same(&right) {
            return false;
        }
        agreed += 1;
        if agreed == AGREE {
            return true;
        }
    }
    false
}

/// The sign of c where a = c · b for a real constant c: `Some(true)` if it is positive. `None` if there is no such
/// constant, or if that is not sure.
pub fn multiple(a: &Expr, b: &Expr, budget: &mut Budget) -> Option<bool> {
    let (mut names_a, mut names_b) = (BTreeSet::new(), BTreeSet::new());
    variables(a, &mut names_a);
    variables(b, &mut names_b);
    if names_a != names_b || names_a.is_empty() {
        return None;
    }
    let mut first: Option<(Number, Number)> = None;
    let (mut agreed, mut positive, mut varies) = (0, None, false);
    for round in 0..ROUNDS {
        let point = Point::new(round, joint_grid(a, b));
        let Some(left) = value(a, point, budget) else { continue };
        let Some(right) = value(b, point, budget) else { continue };
        let Some((left_0, right_0)) = &first else {
            if !left.is_nonzero() || !right.is_nonzero() {
                return None;
            }
            let ratio = left.mul(&right.inverse()?)?.as_real()?;
            positive = Some(ratio.is_positive());
            if ratio.is_positive() == ratio.is_negative() {
                return None;
            }
            first = Some((left, right));
            continue;
        };
        if !left.mul(right_0)?.same(&right.mul(left_0)?) {
            return None;
        }
        agreed += 1;
        varies |= !left.same(left_0);
        if agreed == AGREE {
            // 1 = 0 and 2 = 0 are no equations about the variables.
            return positive.filter(|_| varies);
        }
    }
    None
}

fn value(expr: &Expr, point: Point, budget: &mut Budget) -> Option<Number> {
    Evaluator { point, budget }.value(expr)
}

fn joint_grid(a: &Expr, b: &Expr) -> Grid {
    if grid(a) == Grid::Fine && grid(b) == Grid::Fine { Grid::Fine } else { Grid::Coarse }
}

/// Whether a negative number has a power with a variable, such as (−1)ⁿ: it is defined for whole n only.
fn has_power_of_negative(expr: &Expr) -> bool {
    matches!(expr, Expr::Power(base, exponent) if matches!(**base, Expr::Negative(_)) && exponent.has_variables())
        || expr.children().into_iter().any(has_power_of_negative)
}
