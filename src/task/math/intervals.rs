//! A chain of inequalities about one variable, as an interval: 0 ≤ x < 1 is [0, 1).

use super::tree::{Answer, Bracket, Expr, Joint, Relation};

/// The variable and its interval, or the two intervals of x ≠ a; `None` if the chain is of another form.
pub fn from_chain(sides: &[Answer], relations: &[Relation]) -> Option<(String, Answer)> {
    let sides: Vec<&Expr> = sides.iter().map(plain).collect::<Option<_>>()?;
    if let ([Expr::Variable(name), hole], [Relation::NotEqual]) = (sides.as_slice(), relations) {
        return (!hole.has_variables()).then(|| (name.clone(), without(hole)));
    }
    let (low, name, high) = match (sides.as_slice(), relations) {
        ([Expr::Variable(name), bound], [relation]) => match up(*relation)? {
            (true, strict) => (None, name, Some((*bound, strict))),
            (false, strict) => (Some((*bound, strict)), name, None),
        },
        ([bound, Expr::Variable(name)], [relation]) => match up(*relation)? {
            (true, strict) => (Some((*bound, strict)), name, None),
            (false, strict) => (None, name, Some((*bound, strict))),
        },
        ([first, Expr::Variable(name), last], [left, right]) => match (up(*left)?, up(*right)?) {
            ((true, left), (true, right)) => (Some((*first, left)), name, Some((*last, right))),
            ((false, left), (false, right)) => (Some((*last, right)), name, Some((*first, left))),
            _ => return None,
        },
        _ => return None,
    };
    if [low, high].into_iter().flatten().any(|(bound, _)| bound.has_variables()) {
        return None;
    }
    let bracket =
        |end: Option<(&Expr, bool)>| if end.is_some_and(|it| !it.1) { Bracket::Square } else { Bracket::Round };
    let (open, close) = (bracket(low), bracket(high));
    let low = low.map_or(Expr::Negative(Box::new(Expr::Infinity)), |it| it.0.clone());
    let high = high.map_or(Expr::Infinity, |it| it.0.clone());
    let items = vec![Answer::value(low), Answer::value(high)];
    Some((name.clone(), Answer::List { open, close, joint: Joint::Comma, items }))
}

/// All real numbers but one.
fn without(hole: &Expr) -> Answer {
    let open = |low: Expr, high: Expr| Answer::List {
        open: Bracket::Round,
        close: Bracket::Round,
        joint: Joint::Comma,
        items: vec![Answer::value(low), Answer::value(high)],
    };
    let below = open(Expr::Negative(Box::new(Expr::Infinity)), hole.clone());
    Answer::Union(vec![below, open(hole.clone(), Expr::Infinity)])
}

fn plain(side: &Answer) -> Option<&Expr> {
    match side {
        Answer::Value(expr, None) => Some(expr),
        _ => None,
    }
}

/// Whether the relation points up (`<`), and whether it is strict.
fn up(relation: Relation) -> Option<(bool, bool)> {
    Some(match relation {
        Relation::Less => (true, true),
        Relation::LessOrEqual => (true, false),
        Relation::Greater => (false, true),
        Relation::GreaterOrEqual => (false, false),
        _ => return None,
    })
}
