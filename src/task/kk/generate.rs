//! A deterministic stream of distinct puzzles, each with exactly one solution.

use std::collections::HashSet;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::people::{MAX_PEOPLE, MIN_PEOPLE};
use super::puzzle::Puzzle;
use super::solve::unique_solution;
use super::statement::Statement;
use super::text::SAYINGS;
use super::words::RoleWords;
use crate::seed::splitmix64;

/// The first names that people have.
pub const NAMES: [&str; 51] = [
    "Alice",
    "Amelia",
    "Anna",
    "Arthur",
    "Ava",
    "Benjamin",
    "Charlotte",
    "Chloe",
    "Clara",
    "Daniel",
    "David",
    "Edward",
    "Eleanor",
    "Elena",
    "Emily",
    "Emma",
    "Ethan",
    "Felix",
    "Freya",
    "George",
    "Grace",
    "Hannah",
    "Harry",
    "Helen",
    "Henry",
    "Isaac",
    "Isla",
    "Jack",
    "Jacob",
    "James",
    "Julia",
    "Laura",
    "Leo",
    "Liam",
    "Lucas",
    "Lucy",
    "Maria",
    "Martin",
    "Mia",
    "Noah",
    "Nora",
    "Oliver",
    "Oscar",
    "Peter",
    "Ruby",
    "Samuel",
    "Sophia",
    "Thomas",
    "Victor",
    "William",
    "Zoey",
];

/// A stream ends after this many draws in a row without a new puzzle.
const ATTEMPTS: usize = 1_000;

/// An iterator over distinct puzzles of one size. The same size and seed give the same puzzles.
///
/// Two puzzles are equal if their statements are; names do not matter. The stream ends when new puzzles become too
/// rare.
#[derive(Clone, Debug)]
pub struct Generator {
    people: u8,
    rng: ChaCha8Rng,
    seen: HashSet<Vec<Statement>>,
}

impl Generator {
    /// The stream of puzzles with `people` people.
    ///
    /// # Panics
    /// If `people` is outside [`MIN_PEOPLE`]..=[`MAX_PEOPLE`].
    pub fn new(people: usize, seed: u64) -> Self {
        assert!((MIN_PEOPLE..=MAX_PEOPLE).contains(&people), "{MIN_PEOPLE} to {MAX_PEOPLE} people, got {people}");
        let rng = ChaCha8Rng::seed_from_u64(splitmix64(splitmix64(seed) ^ people as u64));
        Self { people: people as u8, rng, seen: HashSet::new() }
    }

    /// Draws the names, and how each person is quoted.
    fn tell(&mut self, statements: Vec<Statement>, solution: u32) -> Puzzle {
        let people = usize::from(self.people);
        let names = NAMES.choose_multiple(&mut self.rng, people).copied().collect();
        let sayings = (0..people).map(|_| self.rng.random_range(0..SAYINGS.len() as u32) as usize).collect();
        Puzzle { names, statements, sayings, order: (0..people).collect(), words: RoleWords::KNIGHTS, solution }
    }
}

impl Iterator for Generator {
    type Item = Puzzle;

    fn next(&mut self) -> Option<Puzzle> {
        let mut statements = Vec::with_capacity(usize::from(self.people));
        for _ in 0..ATTEMPTS {
            statements.clear();
            statements.extend((0..self.people).map(|it| Statement::draw(self.people, it, &mut self.rng)));
            let Some(solution) = unique_solution(&statements) else { continue };
            if self.seen.insert(statements.clone()) {
                return Some(self.tell(statements, solution));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::solve::solutions;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_puzzle_has_exactly_its_solution(people in MIN_PEOPLE..=MAX_PEOPLE, seed: u64) {
            for puzzle in Generator::new(people, seed).take(5) {
                prop_assert_eq!(puzzle.statements.len(), people);
                prop_assert_eq!(solutions(&puzzle.statements), 1);
                for (i, statement) in puzzle.statements.iter().enumerate() {
                    prop_assert_eq!(puzzle.solution >> i & 1 == 1, statement.holds(puzzle.solution));
                }
                let names: HashSet<_> = puzzle.names.iter().collect();
                prop_assert_eq!(names.len(), people);
            }
        }
    }

    #[test]
    fn a_stream_repeats_itself_for_its_seed_and_size_only() {
        let take = |people, seed| Generator::new(people, seed).take(20).collect::<Vec<_>>();
        assert_eq!(take(5, 1), take(5, 1));
        assert_ne!(take(5, 1), take(5, 2));
        assert_ne!(take(5, 1)[0].names, take(6, 1)[0].names[..5]);
    }

    #[test]
    fn puzzles_are_distinct_even_where_there_are_few() {
        let statements: HashSet<_> = Generator::new(3, 9).take(10_000).map(|it| it.statements).collect();
        assert_eq!(statements.len(), 10_000);
    }

    #[test]
    fn names_are_single_words_and_distinct() {
        let word = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(|b| b.is_ascii_alphabetic())
        };
        assert!(NAMES.iter().all(|name| word(name)));
        assert_eq!(HashSet::from(NAMES).len(), NAMES.len());
    }
}
