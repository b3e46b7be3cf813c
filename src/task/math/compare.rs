//! Whether two answers are equal.
//!
//! Every rule is applied both ways, so the order of the two does not matter. Where a rule is not sure, the answers are
//! different.

use super::answer::Parsed;
use super::evaluate::Budget;
use super::identity::same;
use super::intervals;
use super::tree::{Answer, Bracket, Expr, Joint, Relation, Unit};
use super::{relations, units};

/// Steps for one comparison: a few milliseconds.
const STEPS: u64 = 20_000;

/// Whether two answers are equal.
pub fn equal(a: &Parsed, b: &Parsed) -> bool {
    a.key == b.key || Comparison { budget: Budget::new(STEPS) }.answers(&a.answer, &b.answer)
}

struct Comparison {
    budget: Budget,
}

impl Comparison {
    fn answers(&mut self, a: &Answer, b: &Answer) -> bool {
        if a == b {
            return true;
        }
        if self.budget.spend(4).is_none() {
            return false;
        }
        match (a, b) {
            (Answer::Value(a, unit_a), Answer::Value(b, unit_b)) => self.quantities(a, unit_a, b, unit_b),
            (Answer::Text(text), Answer::Value(Expr::Variable(name), None))
            | (Answer::Value(Expr::Variable(name), None), Answer::Text(text)) => {
                text.len() == 1 && name.eq_ignore_ascii_case(text)
            }
            (Answer::Matrix(a), Answer::Matrix(b)) => self.matrices(a, b),
            (Answer::Matrix(rows), Answer::List { open: Bracket::Round, close: Bracket::Round, items, .. })
            | (Answer::List { open: Bracket::Round, close: Bracket::Round, items, .. }, Answer::Matrix(rows)) => {
                self.column(rows, items)
            }
            (Answer::Union(a), Answer::Union(b)) => self.unordered(a, b),
            (Answer::List { .. }, Answer::List { .. }) => self.lists(a, b),
            (Answer::Related(sides_a, relations_a), Answer::Related(sides_b, relations_b)) => {
                if relations_a == relations_b && self.ordered(sides_a, sides_b) {
                    return true;
                }
                match (intervals::from_chain(sides_a, relations_a), intervals::from_chain(sides_b, relations_b)) {
                    (Some((name_a, a)), Some((name_b, b))) => name_a == name_b && self.answers(&a, &b),
                    _ => relations::equal((sides_a, relations_a), (sides_b, relations_b), &mut self.budget),
                }
            }
            (Answer::Related(sides, relations), Answer::List { open: Bracket::Bare, items, joint, .. })
            | (Answer::List { open: Bracket::Bare, items, joint, .. }, Answer::Related(sides, relations))
                if *joint != Joint::Or && relations == &[Relation::Equal] && self.by_coordinate(sides, items) =>
            {
                true
            }
            (Answer::Related(sides, relations), other) | (other, Answer::Related(sides, relations)) => {
                self.assignment(sides, relations, other) || self.interval(sides, relations, other)
            }
            (Answer::Union(parts), Answer::List { joint: Joint::Or, items, .. })
            | (Answer::List { joint: Joint::Or, items, .. }, Answer::Union(parts)) => self.cases(items, parts),
            (Answer::List { open: Bracket::Curly, items, .. }, other)
            | (other, Answer::List { open: Bracket::Curly, items, .. }) => {
                matches!(items.as_slice(), [one] if self.answers(one, other))
            }
            _ => false,
        }
    }

    /// "(x, y) = (1, 2)", whose sides are given, and "x = 1, y = 2".
    fn by_coordinate(&mut self, sides: &[Answer], items: &[Answer]) -> bool {
        let [Answer::List { items: names, .. }, Answer::List { items: values, .. }] = sides else { return false };
        let name = |it: &Answer| matches!(it, Answer::Value(Expr::Variable(_), None));
        if !names.iter().all(name) || names.len() != values.len() {
            return false;
        }
        let link = |(name, value): (&Answer, &Answer)| {
            Answer::Related(vec![name.clone(), value.clone()], vec![Relation::Equal])
        };
        self.unordered(&names.iter().zip(values).map(link).collect::<Vec<_>>(), items)
    }

    /// A chain of inequalities and an interval.
    fn interval(&mut self, sides: &[Answer], relations: &[Relation], other: &Answer) -> bool {
        intervals::from_chain(sides, relations).is_some_and(|(_, interval)| self.answers(&interval, other))
    }

    /// "x < 0 or x > 1" and a union of intervals.
    fn cases(&mut self, items: &[Answer], parts: &[Answer]) -> bool {
        let chain = |it: &Answer| match it {
            Answer::Related(sides, relations) => intervals::from_chain(sides, relations),
            _ => None,
        };
        let Some(intervals) = items.iter().map(chain).collect::<Option<Vec<_>>>() else { return false };
        let one_variable = intervals.iter().all(|it| it.0 == intervals[0].0);
        one_variable && self.unordered(&intervals.into_iter().map(|it| it.1).collect::<Vec<_>>(), parts)
    }

    fn quantities(&mut self, a: &Expr, unit_a: &Option<Unit>, b: &Expr, unit_b: &Option<Unit>) -> bool {
        match (unit_a, unit_b) {
            (None, None) => same(a, b, &mut self.budget),
            (Some(unit_a), Some(unit_b)) if unit_a.factor == unit_b.factor => {
                unit_a.dimension == unit_b.dimension && same(a, b, &mut self.budget)
            }
            (Some(unit_a), Some(unit_b)) => {
                let scaled =
                    |expr: &Expr, unit: &Unit| Expr::Product(vec![expr.clone(), Expr::Number(unit.factor.clone())]);
                unit_a.dimension == unit_b.dimension && same(&scaled(a, unit_a), &scaled(b, unit_b), &mut self.budget)
            }
            (Some(unit), None) => self.without_unit(a, unit, b),
            (None, Some(unit)) => self.without_unit(b, unit, a),
        }
    }

    /// A quantity and a bare number: the unit may be left out; 50 % is also ½, and 180° is also π.
    fn without_unit(&mut self, quantity: &Expr, unit: &Unit, bare: &Expr) -> bool {
        if same(quantity, bare, &mut self.budget) {
            return true;
        }
        let scale = |numerator: i64, denominator: i64| {
            Expr::Product(vec![Expr::integer(numerator), Expr::Inverse(Box::new(Expr::integer(denominator)))])
        };
        let scaled = match unit.dimension.as_str() {
            units::PERCENT => Expr::Product(vec![quantity.clone(), scale(1, 100)]),
            units::DEGREE => Expr::Product(vec![quantity.clone(), scale(1, 180), Expr::Pi]),
            _ => return false,
        };
        same(&scaled, bare, &mut self.budget)
    }

    fn matrices(&mut self, a: &[Vec<Expr>], b: &[Vec<Expr>]) -> bool {
        let shape = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.len() == b.len());
        shape && a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| same(a, b, &mut self.budget))
    }

    /// A vector as a column and as a tuple.
    fn column(&mut self, rows: &[Vec<Expr>], items: &[Answer]) -> bool {
        let entry = |(row, item): (&Vec<Expr>, &Answer)| match (row.as_slice(), item) {
            ([entry], Answer::Value(item, None)) => same(entry, item, &mut self.budget),
            _ => false,
        };
        rows.len() == items.len() && rows.len() > 1 && rows.iter().zip(items).all(entry)
    }

    fn lists(&mut self, a: &Answer, b: &Answer) -> bool {
        let (
            Answer::List { open: open_a, close: close_a, joint: joint_a, items: items_a },
            Answer::List { open: open_b, close: close_b, joint: joint_b, items: items_b },
        ) = (a, b)
        else {
            return false;
        };
        let ordered = |bracket: &Bracket| matches!(bracket, Bracket::Round | Bracket::Square);
        if ordered(open_a) || ordered(open_b) {
            return open_a == open_b && close_a == close_b && self.ordered(items_a, items_b);
        }
        let dots = |items: &[Answer]| items.contains(&Answer::Dots);
        if dots(items_a) || dots(items_b) {
            return self.ordered(items_a, items_b);
        }
        // "x < 1 and x > 0" is not "x < 1 or x > 0"; for values the word makes no difference.
        let relation =
            |it: &Answer| matches!(it, Answer::Related(_, all) if all.iter().any(|it| *it != Relation::Equal));
        if joint_a != joint_b && items_a.iter().chain(items_b).any(relation) {
            return false;
        }
        self.unordered(items_a, items_b)
    }

    fn ordered(&mut self, a: &[Answer], b: &[Answer]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.answers(a, b))
    }

    /// The same items in any order; each is used once.
    fn unordered(&mut self, a: &[Answer], b: &[Answer]) -> bool {
        if a.len() != b.len() {
            return false;
        }
        let mut free: Vec<&Answer> = b.iter().collect();
        a.iter().all(|item| match free.iter().position(|it| self.answers(item, it)) {
            Some(found) => {
                free.remove(found);
                true
            }
            None => false,
        })
    }

    /// `x = 5` and `5`; also `1/2 = 0.5` and `1/2`, but not `xy = 5` and `5`.
    fn assignment(&mut self, sides: &[Answer], relations: &[Relation], other: &Answer) -> bool {
        if !relations.iter().all(|it| matches!(it, Relation::Equal | Relation::Approximately)) {
            return false;
        }
        let (mut sides, mut relations) = (sides, relations);
        if is_name(&sides[0], &sides[1..]) {
            (sides, relations) = (&sides[1..], &relations[1..]);
        } else if sides.len() == 2 && relations == [Relation::Equal] && is_name(&sides[1], &sides[..1]) {
            (sides, relations) = (&sides[..1], &[]);
        }
        // What follows "≈" is a remark.
        let exact = relations.iter().position(|it| *it == Relation::Approximately).map_or(sides.len(), |at| at + 1);
        sides[..exact].iter().all(|it| self.answers(it, other))
    }
}

/// Whether the side only names what the other sides say: a variable, `f(x)`, a tuple of variables, or words.
fn is_name(side: &Answer, others: &[Answer]) -> bool {
    match side {
        Answer::Value(Expr::Variable(name), None) => others.iter().all(|it| !mentions(it, name)),
        Answer::Value(Expr::Product(parts), None) => match parts.as_slice() {
            [Expr::Variable(function), Expr::Variable(_)] => {
                "fghFGHPpqTy".contains(function.as_str()) && others.iter().all(|it| !mentions(it, function))
            }
            // f⁻¹(x)
            [Expr::Power(function, exponent), Expr::Variable(_)] => match &**function {
                Expr::Variable(function) => {
                    **exponent == Expr::Negative(Box::new(Expr::integer(1)))
                        && "fgh".contains(function.as_str())
                        && others.iter().all(|it| !mentions(it, function))
                }
                _ => false,
            },
            _ => false,
        },
        Answer::List { open: Bracket::Round, items, .. } => {
            items.iter().all(|it| matches!(it, Answer::Value(Expr::Variable(_), None)) && is_name(it, others))
        }
        Answer::Text(words) => words.len() <= 24 && !words.contains("not"),
        _ => false,
    }
}

fn mentions(answer: &Answer, name: &str) -> bool {
    match answer {
        Answer::Value(expr, _) => expr.mentions(name),
        Answer::List { items, .. } | Answer::Union(items) | Answer::Related(items, _) => {
            items.iter().any(|it| mentions(it, name))
        }
        Answer::Matrix(rows) => rows.iter().flatten().any(|it| it.mentions(name)),
        _ => false,
    }
}
