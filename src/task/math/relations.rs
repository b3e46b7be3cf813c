//! Whether two equations or inequalities say the same: `y = 2x + 3` and `2y − 4x − 6 = 0`.

use super::evaluate::Budget;
use super::identity::{multiple, same};
use super::tree::{Answer, Expr, Relation};

/// The sides and the relations between them.
type Chain<'a> = (&'a [Answer], &'a [Relation]);

/// One relation, written so that it never points down.
struct Link<'a> {
    left: &'a Expr,
    relation: Relation,
    right: &'a Expr,
}

/// Whether both chains have the same links, read forwards or backwards.
pub fn equal(a: Chain, b: Chain, budget: &mut Budget) -> bool {
    let (Some(a), Some(b)) = (links(a), links(b)) else { return false };
    if a.len() != b.len() {
        return false;
    }
    let forwards = a.iter().zip(&b).all(|(a, b)| same_link(a, b, budget));
    forwards || (a.len() > 1 && a.iter().zip(b.iter().rev()).all(|(a, b)| same_link(a, b, budget)))
}

fn links<'a>((sides, relations): Chain<'a>) -> Option<Vec<Link<'a>>> {
    let plain = |side: &'a Answer| match side {
        Answer::Value(expr, None) => Some(expr),
        _ => None,
    };
    let link = |(pair, relation): (&'a [Answer], &Relation)| {
        let (left, right) = (plain(&pair[0])?, plain(&pair[1])?);
        Some(match relation {
            Relation::Greater => Link { left: right, relation: Relation::Less, right: left },
            Relation::GreaterOrEqual => Link { left: right, relation: Relation::LessOrEqual, right: left },
            _ => Link { left, relation: *relation, right },
        })
    };
    sides.windows(2).zip(relations).map(link).collect()
}

fn same_link(a: &Link, b: &Link, budget: &mut Budget) -> bool {
    if a.relation != b.relation {
        return false;
    }
    if same(a.left, b.left, budget) && same(a.right, b.right, budget) {
        return true;
    }
    let (difference_a, difference_b) = (a.left.minus(a.right), b.left.minus(b.right));
    match a.relation {
        Relation::Equal | Relation::NotEqual => multiple(&difference_a, &difference_b, budget).is_some(),
        Relation::Less | Relation::LessOrEqual => multiple(&difference_a, &difference_b, budget) == Some(true),
        _ => false,
    }
}
