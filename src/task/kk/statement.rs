//! What a person can say: six kinds of statements about one or two people, with their truth and their text.

use std::fmt;

use rand::Rng;

use super::words::{RoleWords, with_article};

/// "`person` is a knight", or a knave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// Index of the person that it is about.
    pub person: u8,
    /// Whether it calls them a knight.
    pub knight: bool,
}

/// What one person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// The leaf is true.
    Is(Leaf),
    /// The leaf is false.
    Not(Leaf),
    /// Both are true.
    And(Leaf, Leaf),
    /// At least one is true.
    Or(Leaf, Leaf),
    /// If the first is true, so is the second.
    Imply(Leaf, Leaf),
    /// Both are true or both are false.
    Iff(Leaf, Leaf),
}

impl Leaf {
    /// Draws what `speaker` says about `person`; a speaker never calls themselves a knave.
    fn draw(person: u8, speaker: u8, rng: &mut impl Rng) -> Self {
        Self { person, knight: person == speaker || rng.random() }
    }

    fn eval(self, truth: impl Fn(u8) -> u64) -> u64 {
        if self.knight { truth(self.person) } else { !truth(self.person) }
    }

    fn text(self, names: &[&str], words: RoleWords) -> String {
        format!("{} is {}", names[usize::from(self.person)], with_article(words.of(self.knight)))
    }
}

impl Statement {
    /// Draws what `speaker`, one of `people` (at least 2), says. The kind is uniform over the six.
    ///
    /// The two leaves of a compound are about two different people, so they neither repeat nor contradict each other.
    /// "I am not a knight" is never drawn: like "I am a knave", neither a knight nor a knave can say it.
    pub fn draw(people: u8, speaker: u8, rng: &mut impl Rng) -> Self {
        let kind = rng.random_range(0..6u8);
        let person = rng.random_range(0..people);
        let other = (person + rng.random_range(1..people)) % people;
        let [first, second] = [person, other].map(|it| Leaf::draw(it, speaker, rng));
        match kind {
            0 => Self::Is(first),
            1 => Self::Not(if person == speaker { second } else { first }),
            2 => Self::And(first, second),
            3 => Self::Or(first, second),
            4 => Self::Imply(first, second),
            _ => Self::Iff(first, second),
        }
    }

    /// Whether the statement is true under the assignment `knights` (bit i: person i is a knight).
    pub fn holds(&self, knights: u32) -> bool {
        self.eval(|person| u64::from(knights >> person)) & 1 == 1
    }

    /// The truth of the statement under 64 assignments at once. Bit a of `truth(i)` says whether person i is a knight
    /// in assignment a; bit a of the result says whether the statement is true in it.
    pub fn eval(&self, truth: impl Fn(u8) -> u64) -> u64 {
        let leaf = |it: Leaf| it.eval(&truth);
        match *self {
            Self::Is(it) => leaf(it),
            Self::Not(it) => !leaf(it),
            Self::And(a, b) => leaf(a) & leaf(b),
            Self::Or(a, b) => leaf(a) | leaf(b),
            Self::Imply(a, b) => !leaf(a) | leaf(b),
            Self::Iff(a, b) => !(leaf(a) ^ leaf(b)),
        }
    }

    /// The two people that the statement is about; a single person is repeated.
    pub fn people(&self) -> [u8; 2] {
        match *self {
            Self::Is(it) | Self::Not(it) => [it.person; 2],
            Self::And(a, b) | Self::Or(a, b) | Self::Imply(a, b) | Self::Iff(a, b) => [a.person, b.person],
        }
    }

    /// The statement, said by `speaker`, with one leaf replaced by another one of `leaves`, in every way that keeps the
    /// rules of [`Statement::draw`].
    pub fn with_other_leaves(&self, speaker: u8, leaves: &[Leaf]) -> Vec<Self> {
        let fits = |it: Leaf| it.knight || it.person != speaker;
        let mut all: Vec<Self> = Vec::new();
        for &new in leaves.iter().filter(|it| fits(**it)) {
            let pair = |a: Leaf, b: Leaf, make: fn(Leaf, Leaf) -> Self| {
                let both =
                    [(new != a && new.person != b.person, (new, b)), (new != b && new.person != a.person, (a, new))];
                both.into_iter().filter(|(fits, _)| *fits).map(|(_, (a, b))| make(a, b)).collect()
            };
            let changed: Vec<Self> = match *self {
                Self::Is(old) => (new != old).then_some(Self::Is(new)).into_iter().collect(),
                Self::Not(old) => (new != old && new.person != speaker).then_some(Self::Not(new)).into_iter().collect(),
                Self::And(a, b) => pair(a, b, Self::And),
                Self::Or(a, b) => pair(a, b, Self::Or),
                Self::Imply(a, b) => pair(a, b, Self::Imply),
                Self::Iff(a, b) => pair(a, b, Self::Iff),
            };
            all.extend(changed);
        }
        all
    }

    /// The statement in English, without a full stop; `names[i]` is person i.
    pub fn text(&self, names: &[&str], words: RoleWords) -> String {
        let leaf = |it: Leaf| it.text(names, words);
        match *self {
            Self::Is(it) => leaf(it),
            Self::Not(it) => format!("{} is not {}", names[usize::from(it.person)], with_article(words.of(it.knight))),
            Self::And(a, b) => format!("{} and {}", leaf(a), leaf(b)),
            Self::Or(a, b) => format!("{} or {}", leaf(a), leaf(b)),
            Self::Imply(a, b) => format!("If {} then {}", leaf(a), leaf(b)),
            Self::Iff(a, b) => format!("{} if and only if {}", leaf(a), leaf(b)),
        }
    }
}

/// The form of the public data: `('telling-truth', 0)`, or `('lying', 0)`.
impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "('{}', {})", if self.knight { "telling-truth" } else { "lying" }, self.person)
    }
}

/// The form of the public data, nested tuples: `('->', ('lying', 0), ('telling-truth', 2))`.
impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(it) => it.fmt(f),
            Self::Not(it) => write!(f, "('not', {it})"),
            Self::And(a, b) => write!(f, "('and', {a}, {b})"),
            Self::Or(a, b) => write!(f, "('or', {a}, {b})"),
            Self::Imply(a, b) => write!(f, "('->', {a}, {b})"),
            Self::Iff(a, b) => write!(f, "('<=>', {a}, {b})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const ZOEY_KNIGHT: Leaf = Leaf { person: 0, knight: true };
    const LIAM_KNAVE: Leaf = Leaf { person: 1, knight: false };

    /// `truth` is for the assignments 0b00, 0b01 (Zoey a knight), 0b10 (Liam a knight), 0b11.
    fn check(statement: Statement, truth: [bool; 4], english: &str, tuple: &str) {
        assert_eq!([0, 1, 2, 3].map(|knights| statement.holds(knights)), truth, "{statement}");
        assert_eq!(statement.text(&["Zoey", "Liam"], RoleWords::KNIGHTS), english);
        assert_eq!(statement.to_string(), tuple);
    }

    #[test]
    fn every_kind_has_its_truth_and_its_text() {
        use Statement::*;
        let (zoey, liam) = (ZOEY_KNIGHT, LIAM_KNAVE);
        let (t, f) = (true, false);
        check(Is(zoey), [f, t, f, t], "Zoey is a knight", "('telling-truth', 0)");
        check(Is(liam), [t, t, f, f], "Liam is a knave", "('lying', 1)");
        check(Not(zoey), [t, f, t, f], "Zoey is not a knight", "('not', ('telling-truth', 0))");
        check(Not(liam), [f, f, t, t], "Liam is not a knave", "('not', ('lying', 1))");
        let tuple = |word: &str| format!("('{word}', ('telling-truth', 0), ('lying', 1))");
        check(And(zoey, liam), [f, t, f, f], "Zoey is a knight and Liam is a knave", &tuple("and"));
        check(Or(zoey, liam), [t, t, f, t], "Zoey is a knight or Liam is a knave", &tuple("or"));
        check(Imply(zoey, liam), [t, t, t, f], "If Zoey is a knight then Liam is a knave", &tuple("->"));
        check(Iff(zoey, liam), [f, t, t, f], "Zoey is a knight if and only if Liam is a knave", &tuple("<=>"));
    }

    #[test]
    fn kinds_are_drawn_uniformly_and_nobody_calls_themselves_a_knave() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut kinds = [0; 6];
        for _ in 0..6000 {
            let statement = Statement::draw(3, 2, &mut rng);
            let (kind, leaves) = match statement {
                Statement::Is(it) => (0, vec![it]),
                Statement::Not(it) => (1, vec![it]),
                Statement::And(a, b) => (2, vec![a, b]),
                Statement::Or(a, b) => (3, vec![a, b]),
                Statement::Imply(a, b) => (4, vec![a, b]),
                Statement::Iff(a, b) => (5, vec![a, b]),
            };
            kinds[kind] += 1;
            assert!(leaves.iter().all(|it| it.person < 3 && (it.person != 2 || it.knight)), "{statement}");
            assert!(leaves.len() == 1 || leaves[0].person != leaves[1].person, "{statement}");
            assert!(kind != 1 || leaves[0].person != 2, "{statement}");
        }
        assert!(kinds.iter().all(|&count| (850..1150).contains(&count)), "{kinds:?}");
    }
}
