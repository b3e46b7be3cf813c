//! Rows to train on and rows to test on.

use std::ops::RangeInclusive;

use super::people::{MAX_PEOPLE, MIN_PEOPLE};
use super::puzzle::Puzzle;
use super::variants::Variant;
use super::{generate, prompt};
use crate::task::levels;
use crate::task::row::Row;

/// Why puzzles cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A number of people outside [`MIN_PEOPLE`]..=[`MAX_PEOPLE`], or an empty range.
    #[error("people must be a range within {MIN_PEOPLE}-{MAX_PEOPLE}, got {}-{}", .0.start(), .0.end())]
    People(RangeInclusive<usize>),
    /// There are too few distinct puzzles of this size, or new ones are too rare to find.
    #[error("only {found} distinct puzzles with {people} people were found, {wanted} were asked for; ask for fewer")]
    TooFew {
        /// The number of people in each puzzle.
        people: usize,
        /// Requested puzzles, train and test together.
        wanted: usize,
        /// Puzzles found before giving up.
        found: usize,
    },
}

/// Generates `train` and `test` rows for every number of people, smallest first. No puzzle is in both.
///
/// The rows of one size depend only on `seed` and on that size.
///
/// # Errors
/// A range of people that is not possible, or a size with too few distinct puzzles.
pub fn splits(
    people: RangeInclusive<usize>,
    train: usize,
    test: usize,
    seed: u64,
) -> Result<(Vec<Row>, Vec<Row>), Error> {
    splits_of(None, people, train, test, seed)
}

/// As [`splits`], but with a variant of each puzzle. Every row has the index of its original. A puzzle without a
/// perturbed variant is left out.
///
/// # Errors
/// As [`splits`].
pub fn splits_of(
    variant: Option<Variant>,
    people: RangeInclusive<usize>,
    train: usize,
    test: usize,
    seed: u64,
) -> Result<(Vec<Row>, Vec<Row>), Error> {
    if !levels::are_within(&people, &(MIN_PEOPLE..=MAX_PEOPLE)) {
        return Err(Error::People(people));
    }
    let (mut train_rows, mut test_rows) = (Vec::new(), Vec::new());
    for people in people {
        let wanted = train.saturating_add(test);
        let puzzles: Vec<_> = generate::Generator::new(people, seed).take(wanted).collect();
        if puzzles.len() < wanted {
            return Err(Error::TooFew { people, wanted, found: puzzles.len() });
        }
        let told = match variant {
            None => puzzles.into_iter().map(Some).collect(),
            Some(variant) => variant.of_all(&puzzles, seed),
        };
        let (first, rest) = told.split_at(train);
        train_rows.extend(rows(first, variant, "train"));
        test_rows.extend(rows(rest, variant, "test"));
    }
    Ok((train_rows, test_rows))
}

fn rows(puzzles: &[Option<Puzzle>], variant: Option<Variant>, split: &str) -> impl Iterator<Item = Row> {
    let row = move |(index, puzzle): (usize, &Option<Puzzle>)| match variant {
        None => Some(prompt::row(puzzle.as_ref()?, split, index)),
        Some(variant) => Some(prompt::variant_row(puzzle.as_ref()?, variant, split, index)),
    };
    puzzles.iter().enumerate().filter_map(row)
}

#[cfg(test)]
mod tests {
    use super::super::variants::VARIANTS;
    use super::*;
    use crate::task::Grader;
    use std::collections::HashSet;

    #[test]
    fn splits_hold_what_was_asked_for_and_share_no_puzzle() {
        let (train, test) = splits(3..=5, 40, 10, 42).unwrap();
        assert_eq!((train.len(), test.len()), (120, 30));
        assert_eq!((train[40].data_source.as_str(), &train[40].extra_info["index"]), ("kk_logic_4", &0.into()));
        let statements = |row: &Row| {
            let truth: serde_json::Value = serde_json::from_str(&row.reward_model.ground_truth).unwrap();
            truth["statements"].as_str().unwrap().to_owned()
        };
        let distinct: HashSet<_> = train.iter().chain(&test).map(statements).collect();
        assert_eq!(distinct.len(), 150);
    }

    #[test]
    fn the_rows_of_a_size_do_not_depend_on_the_other_sizes() {
        let (all, _) = splits(3..=4, 5, 0, 1).unwrap();
        assert_eq!(all[5..], splits(4..=4, 5, 0, 1).unwrap().0);
        assert_ne!(all[5..], splits(4..=4, 5, 0, 2).unwrap().0);
    }

    #[test]
    fn rows_of_variants_belong_to_the_originals_and_are_graded() {
        let (originals, _) = splits(3..=5, 30, 0, 42).unwrap();
        let key = |row: &Row| (row.extra_info["people"].clone(), row.extra_info["index"].clone());
        let mut solved: HashSet<String> = HashSet::new();
        for (variant, name) in VARIANTS {
            let (rows, _) = splits_of(Some(variant), 3..=5, 30, 0, 42).unwrap();
            assert!(rows.len() >= 80, "{name}: {}", rows.len());
            for row in &rows {
                let original = originals.iter().find(|it| key(it) == key(row)).unwrap();
                assert_eq!(row.data_source, format!("{}_{name}", original.data_source));
                assert_eq!(row.extra_info["variant"], name);
                let answer = |row: &Row| {
                    let truth: serde_json::Value = serde_json::from_str(&row.reward_model.ground_truth).unwrap();
                    truth["solution_text_format"].as_str().unwrap().to_owned()
                };
                let grader = Grader::for_row(row).unwrap();
                let score =
                    |answer: String| grader.grade(&format!("<think>So.</think><answer>{answer}</answer>")).score();
                assert_eq!(score(answer(row)), 3.0);
                // What is memorised is right only if the order alone differs.
                assert_eq!(score(answer(original)) > 0.0, variant == Variant::ReorderedStatements, "{name}");
                solved.insert(row.prompt[1].content.clone());
            }
        }
        assert!(originals.iter().all(|it| !solved.contains(&it.prompt[1].content)));
    }

    #[test]
    fn the_prompt_of_a_variant_names_its_roles() {
        let (rows, _) = splits_of(Some(Variant::RoleWords), 3..=3, 20, 0, 1).unwrap();
        for row in rows {
            assert!(!row.prompt.iter().any(|it| it.content.contains("knight") || it.content.contains("knave")));
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        for people in [2..=5, 3..=21, RangeInclusive::new(5, 4)] {
            assert_eq!(splits(people.clone(), 1, 1, 0), Err(Error::People(people)));
        }
    }
}
