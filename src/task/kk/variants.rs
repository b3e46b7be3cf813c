//! Variants of puzzles, to test whether a model has learnt to reason or has memorised what it was trained on
//! (arXiv 2410.23123).
//!
//! A perturbed variant changes one statement, so that the answer changes. The others tell the same puzzle in other
//! words: the answer stays, up to names and role words.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::people::source_name;
use super::puzzle::Puzzle;
use super::solve::unique_solution;
use super::statement::{Leaf, Statement};
use super::words::{PAIRS, RoleWords};
use crate::seed::splitmix64;

/// How a variant differs from its original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "train", derive(clap::ValueEnum), value(rename_all = "snake_case"))]
pub enum Variant {
    /// One person says something else, and the solution is another one.
    PerturbedStatement,
    /// One part "X is a knight" of a statement is another one, and the solution is another one.
    PerturbedLeaf,
    /// Other words for the roles, such as saints and sinners.
    RoleWords,
    /// Knights lie, and knaves tell the truth.
    FlippedRoles,
    /// Names that few people have.
    UncommonNames,
    /// The people are quoted in another order.
    ReorderedStatements,
}

/// Every variant with its name.
pub const VARIANTS: [(Variant, &str); 6] = [
    (Variant::PerturbedStatement, "perturbed_statement"),
    (Variant::PerturbedLeaf, "perturbed_leaf"),
    (Variant::RoleWords, "role_words"),
    (Variant::FlippedRoles, "flipped_roles"),
    (Variant::UncommonNames, "uncommon_names"),
    (Variant::ReorderedStatements, "reordered_statements"),
];

/// The names of [`Variant::UncommonNames`].
const UNCOMMON_NAMES: &str = "Aurelio Balthasar Bellamy Birgitta Caspian Cordelia Corvin Cosmo Damaris Desdemona Drusilla \
    Eudora Evander Fenella Fidelio Galatea Gideon Gwendolen Hephzibah Hyacinth Ignatia Isolde Jessamine Jocasta Keziah \
    Lavinia Leocadia Lysander Marigold Melchior Morwenna Nicodemus Octavian Odalys Ondine Orsino Osric Peregrine \
    Perpetua Quillon Rosalba Saskia Severin Tamsin Thaddea Theodoric Ulrika Valerian Wilhelmina Xanthe Ysolde Zenobia";

/// A random change to a statement is tried this often.
const ATTEMPTS: usize = 1_000;

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = VARIANTS.iter().find(|(variant, _)| variant == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = VARIANTS.iter().find(|(_, known)| *known == name);
        found.map(|(variant, _)| *variant).ok_or_else(|| {
            let known: Vec<_> = VARIANTS.iter().map(|(_, name)| *name).collect();
            format!("no variant is called {name:?}; known are: {}", known.join(", "))
        })
    }
}

impl Variant {
    /// The data source of variants of puzzles with `people` people, such as `kk_logic_3_role_words`.
    pub fn source_name(self, people: usize) -> String {
        format!("{}_{self}", source_name(people))
    }

    /// The variants of `originals`, the puzzles of one size from `seed`, one by one. `None` where no change gives a
    /// puzzle with exactly one solution that is another one. No perturbed puzzle is among the originals, or twice among
    /// the variants.
    pub fn of_all(self, originals: &[Puzzle], seed: u64) -> Vec<Option<Puzzle>> {
        let mut seen = match self {
            Self::PerturbedStatement | Self::PerturbedLeaf => {
                originals.iter().map(|it| it.statements.clone()).collect()
            }
            _ => HashSet::new(),
        };
        let one = |(position, original): (usize, &Puzzle)| {
            let salt = (self as u64) << 40 | (original.people() as u64) << 32 | position as u64;
            let mut rng = ChaCha8Rng::seed_from_u64(splitmix64(splitmix64(seed ^ VARIANT_SALT) ^ salt));
            self.of(original, &mut seen, &mut rng)
        };
        originals.iter().enumerate().map(one).collect()
    }

    fn of(self, original: &Puzzle, seen: &mut HashSet<Vec<Statement>>, rng: &mut impl Rng) -> Option<Puzzle> {
        let puzzle = original.clone();
        match self {
            Self::PerturbedStatement => {
                let mut tries = (0..ATTEMPTS).map(|_| with_other_statement(&puzzle.statements, rng));
                tries.find_map(|statements| perturbed(original, statements, seen))
            }
            Self::PerturbedLeaf => {
                let mut changes = other_leaves(&puzzle.statements);
                changes.shuffle(rng);
                changes.into_iter().find_map(|statements| perturbed(original, statements, seen))
            }
            Self::RoleWords => Some(Puzzle { words: *PAIRS[1..].choose(rng)?, ..puzzle }),
            Self::FlippedRoles => Some(Puzzle { words: RoleWords::KNIGHTS.flipped(), ..puzzle }),
            Self::UncommonNames => {
                let names: Vec<_> = UNCOMMON_NAMES.split_whitespace().collect();
                let names = names.choose_multiple(rng, puzzle.people()).copied().collect();
                Some(Puzzle { names, ..puzzle })
            }
            Self::ReorderedStatements => Some(Puzzle { order: other_order(puzzle.people(), rng), ..puzzle }),
        }
    }
}

/// Keeps the variants' random numbers apart from those of the puzzles.
const VARIANT_SALT: u64 = 0x6b6b_7661_7269_616e;

/// The original with other statements, if these are new, and have exactly one solution, which is another one.
fn perturbed(original: &Puzzle, statements: Vec<Statement>, seen: &mut HashSet<Vec<Statement>>) -> Option<Puzzle> {
    let solution = unique_solution(&statements).filter(|it| *it != original.solution)?;
    seen.insert(statements.clone()).then(|| Puzzle { statements, solution, ..original.clone() })
}

/// One person, drawn at random, says something else.
fn with_other_statement(statements: &[Statement], rng: &mut impl Rng) -> Vec<Statement> {
    let mut changed = statements.to_vec();
    let speaker = rng.random_range(0..changed.len());
    changed[speaker] = Statement::draw(changed.len() as u8, speaker as u8, rng);
    changed
}

/// Every way to change one leaf of one statement.
fn other_leaves(statements: &[Statement]) -> Vec<Vec<Statement>> {
    let people = statements.len() as u8;
    let leaves: Vec<_> = (0..people).flat_map(|person| [false, true].map(|knight| Leaf { person, knight })).collect();
    let mut all = Vec::new();
    for (speaker, statement) in statements.iter().enumerate() {
        for other in statement.with_other_leaves(speaker as u8, &leaves) {
            let mut changed = statements.to_vec();
            changed[speaker] = other;
            all.push(changed);
        }
    }
    all
}

/// An order of `people`, at least two, that is not 0, 1, 2, ….
fn other_order(people: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..people).collect();
    while order.is_sorted() {
        order.shuffle(rng);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::super::generate::{Generator, NAMES};
    use super::super::text;
    use super::*;
    use proptest::prelude::*;

    fn leaf(person: u8, knight: bool) -> Leaf {
        Leaf { person, knight }
    }

    /// The consistent assignments, by trying all of them.
    fn solutions(statements: &[Statement]) -> Vec<u32> {
        let agrees = |knights: u32| (0..).zip(statements).all(|(i, it)| (knights >> i & 1 == 1) == it.holds(knights));
        (0..1 << statements.len()).filter(|&knights| agrees(knights)).collect()
    }

    fn leaves_of(statement: &Statement) -> (u8, Vec<Leaf>) {
        match *statement {
            Statement::Is(a) => (0, vec![a]),
            Statement::Not(a) => (1, vec![a]),
            Statement::And(a, b) => (2, vec![a, b]),
            Statement::Or(a, b) => (3, vec![a, b]),
            Statement::Imply(a, b) => (4, vec![a, b]),
            Statement::Iff(a, b) => (5, vec![a, b]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn perturbed_puzzles_have_one_other_solution_and_one_change(people in 3..=9_usize, seed: u64) {
            let originals: Vec<_> = Generator::new(people, seed).take(10).collect();
            for variant in [Variant::PerturbedStatement, Variant::PerturbedLeaf] {
                for (original, puzzle) in originals.iter().zip(variant.of_all(&originals, seed)) {
                    let Some(puzzle) = puzzle else { continue };
                    prop_assert_eq!(solutions(&puzzle.statements), [puzzle.solution]);
                    prop_assert_ne!(puzzle.solution, original.solution);
                    let changed: Vec<_> =
                        (0..people).filter(|&i| puzzle.statements[i] != original.statements[i]).collect();
                    prop_assert_eq!(changed.len(), 1);
                    if variant == Variant::PerturbedLeaf {
                        let [(old_kind, old), (new_kind, new)] =
                            [original, &puzzle].map(|it| leaves_of(&it.statements[changed[0]]));
                        prop_assert_eq!(old_kind, new_kind);
                        prop_assert_eq!(old.iter().zip(&new).filter(|(a, b)| a != b).count(), 1);
                    }
                    prop_assert_eq!((&puzzle.names, &puzzle.sayings), (&original.names, &original.sayings));
                }
            }
        }

        #[test]
        fn retold_puzzles_keep_their_statements_and_solution(people in 3..=20_usize, seed: u64) {
            let originals: Vec<_> = Generator::new(people, seed).take(3).collect();
            use Variant::{FlippedRoles, ReorderedStatements, RoleWords, UncommonNames};
            for variant in [RoleWords, FlippedRoles, UncommonNames, ReorderedStatements] {
                for (original, puzzle) in originals.iter().zip(variant.of_all(&originals, seed)) {
                    let puzzle = puzzle.unwrap();
                    prop_assert_eq!((&puzzle.statements, puzzle.solution), (&original.statements, original.solution));
                    prop_assert_ne!(text::quiz(&puzzle), text::quiz(original));
                    let kept = (puzzle.names == original.names, puzzle.words == original.words, puzzle.order == original.order);
                    prop_assert_eq!(kept, (variant != UncommonNames, !matches!(variant, RoleWords | FlippedRoles),
                        variant != ReorderedStatements));
                    let people: HashSet<_> = puzzle.order.iter().collect();
                    prop_assert_eq!(people.len(), puzzle.people());
                }
            }
        }
    }

    /// Zoey says that Oliver is a knight, Oliver that Zoey is a knave, Liam that Zoey is a knight.
    #[test]
    fn leaves_are_changed_in_every_way_that_the_grammar_allows() {
        let said =
            [Statement::Is(leaf(1, true)), Statement::Not(leaf(0, true)), Statement::And(leaf(0, true), leaf(2, true))];
        let changes = other_leaves(&said);
        // Zoey: "Zoey is a knight", Oliver a knave, Liam either: 4.
        // Oliver, not: Zoey a knave, Liam either: 3.
        // Liam, first leaf: Zoey a knave, Oliver either: 3; second leaf: Oliver either: 2, for Liam cannot be a knave.
        assert_eq!(changes.len(), 4 + 3 + 3 + 2);
        let distinct: HashSet<_> = changes.iter().collect();
        assert_eq!(distinct.len(), changes.len());
        assert!(changes.contains(&vec![said[0], said[1], Statement::And(leaf(0, true), leaf(1, false))]));
        assert!(!changes.contains(&vec![Statement::Is(leaf(0, false)), said[1], said[2]]));
    }

    /// Zoey says that Oliver is a knave, Oliver that Zoey and Liam are knights, Liam that Oliver is a knight. Then Zoey
    /// alone is a knight: if Oliver were one, Zoey would be one too, and lie.
    #[test]
    fn a_perturbed_leaf_of_a_puzzle_made_by_hand() {
        let said = vec![
            Statement::Is(leaf(1, false)),
            Statement::And(leaf(0, true), leaf(2, true)),
            Statement::Is(leaf(1, true)),
        ];
        assert_eq!(solutions(&said), [0b001]);
        // "Oliver is a knight" from Zoey fits if all are knights and if all are knaves.
        let ambiguous = vec![Statement::Is(leaf(1, true)), said[1], said[2]];
        let puzzle = Puzzle {
            names: vec!["Zoey", "Oliver", "Liam"],
            statements: said.clone(),
            sayings: vec![0; 3],
            order: vec![0, 1, 2],
            words: RoleWords::KNIGHTS,
            solution: 0b001,
        };
        assert_eq!(solutions(&ambiguous), [0b000, 0b111]);
        assert_eq!(perturbed(&puzzle, ambiguous, &mut HashSet::new()), None);
        // "Oliver is a knave" from Liam: then Zoey and Liam agree, and Oliver is a knight exactly if both lie.
        // Two knights make Oliver a knight, against what they say; two knaves make Oliver a knave, against it too.
        let impossible = vec![said[0], said[1], Statement::Is(leaf(1, false))];
        assert_eq!(perturbed(&puzzle, impossible, &mut HashSet::new()), None);
        // "Zoey is a knight and Liam is a knave" from Oliver. If Oliver is a knight, Zoey lies, so Oliver does. If Oliver
        // is a knave, Zoey is a knight and Liam a knave, so Oliver tells the truth. There is no solution.
        let none = vec![said[0], Statement::And(leaf(0, true), leaf(2, false)), said[2]];
        assert_eq!(solutions(&none), [0u32; 0]);
        // "Zoey is a knave" from Liam: the only solution stays.
        let same = vec![said[0], said[1], Statement::Is(leaf(0, false))];
        assert_eq!(solutions(&same), [0b001]);
        assert_eq!(perturbed(&puzzle, same, &mut HashSet::new()), None);
    }

    /// All 11 changes of that puzzle were tried by hand: two give one solution that is not Zoey and Liam as knights.
    #[test]
    fn only_changes_with_one_other_solution_are_taken() {
        let original = text::tests::puzzle();
        let changes = other_leaves(&original.statements);
        assert_eq!(changes.len(), 11);
        let mut seen = HashSet::new();
        let taken: Vec<_> = changes.into_iter().filter_map(|it| perturbed(&original, it, &mut seen)).collect();
        assert_eq!(taken.len(), 2);
        assert!(taken.iter().all(|it| it.solution == 0b011));
        // The same change is not taken twice.
        assert_eq!(perturbed(&original, taken[0].statements.clone(), &mut seen), None);
    }

    #[test]
    fn retold_puzzles_read_as_expected() {
        let original = text::tests::puzzle();
        let saints = Puzzle { words: PAIRS[2], ..original.clone() };
        let expected = "A very special island is inhabited only by saints and sinners. Saints always tell the truth, and \
            sinners always lie. You meet 3 inhabitants: Zoey, Oliver, and Liam. Zoey said that if Oliver is a saint then \
            Liam is a sinner. As Oliver put it, \"Zoey is a saint and Liam is a sinner\". \"Oliver is not a saint,\" Liam \
            declared. So who is a saint and who is a sinner?";
        assert_eq!(text::quiz(&saints), expected);
        assert_eq!(
            text::solution_text_format(&saints),
            "(1) Zoey is a saint\n(2) Oliver is a sinner\n(3) Liam is a saint"
        );
        let flipped = Puzzle { words: RoleWords::KNIGHTS.flipped(), ..original.clone() };
        let quiz = text::quiz(&flipped);
        assert!(quiz.contains("Knaves always tell the truth, and knights always lie."), "{quiz}");
        assert!(quiz.contains("Zoey said that if Oliver is a knave then Liam is a knight."), "{quiz}");
        assert_eq!(text::solution_text(&flipped), "Zoey is a knave, Oliver is a knight, and Liam is a knave.");
        let reordered = text::quiz(&Puzzle { order: vec![2, 0, 1], ..original });
        let at = |part: &str| reordered.find(part).unwrap();
        assert!(at("Zoey, Oliver, and Liam") < at("Liam declared"), "{reordered}");
        assert!(at("Liam declared") < at("Zoey said") && at("Zoey said") < at("As Oliver"), "{reordered}");
    }

    #[test]
    fn uncommon_names_are_distinct_words_that_no_other_puzzle_uses() {
        let names: Vec<_> = UNCOMMON_NAMES.split_whitespace().collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(names.len() >= 50 && names.iter().all(|it| !NAMES.contains(it)));
        assert!(names.iter().all(|it| it.bytes().all(|byte| byte.is_ascii_alphabetic())));
    }

    #[test]
    fn names_of_variants_are_read_and_written() {
        for (variant, name) in VARIANTS {
            assert_eq!((name.parse(), variant.to_string().as_str()), (Ok(variant), name));
            assert_eq!(serde_json::to_value(variant).unwrap(), name);
            assert_eq!(serde_json::from_value::<Variant>(name.into()).unwrap(), variant);
        }
        assert!("shuffled".parse::<Variant>().unwrap_err().contains("perturbed_leaf"));
    }
}
