//! How many people a puzzle can have.

use std::ops::RangeInclusive;

use crate::task::levels;

/// The smallest number of people in a generated puzzle.
pub const MIN_PEOPLE: usize = 3;
/// The largest number of people in a generated puzzle.
pub const MAX_PEOPLE: usize = 20;

/// The data source of puzzles with `people` people.
pub fn source_name(people: usize) -> String {
    format!("kk_logic_{people}")
}

/// Reads a range of numbers of people: `3-14`, or `5` for one size.
///
/// # Errors
/// Text of another form, and numbers outside [`MIN_PEOPLE`]..=[`MAX_PEOPLE`].
pub fn parse_people(text: &str) -> Result<RangeInclusive<usize>, String> {
    let allowed = MIN_PEOPLE..=MAX_PEOPLE;
    levels::parse(text).filter(|it| levels::are_within(it, &allowed)).ok_or_else(|| {
        let allowed = levels::shown(&allowed);
        format!("expected a number of people or a range such as 3-14, within {allowed}, got {text:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_a_number_or_a_range() {
        assert_eq!(parse_people("3-14"), Ok(3..=14));
        assert_eq!(parse_people("5"), Ok(5..=5));
        for text in ["", "-", "3-", "14-3", "2-5", "3-21", "three", "3-5-7", "3..5"] {
            assert!(parse_people(text).unwrap_err().contains("3-14"), "{text}");
        }
    }
}
