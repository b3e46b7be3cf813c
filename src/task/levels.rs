//! Ranges of levels as people write them: `3-14`, or `5` for one.

use std::ops::RangeInclusive;

/// Reads a range. `None` if the text has another form, or the range is empty.
pub fn parse(text: &str) -> Option<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
    (!range.is_empty()).then_some(range)
}

/// Writes a range.
pub fn shown(levels: &RangeInclusive<usize>) -> String {
    match levels.start() == levels.end() {
        true => levels.start().to_string(),
        false => format!("{}-{}", levels.start(), levels.end()),
    }
}

/// Whether all of `levels` are in `allowed`.
pub fn are_within(levels: &RangeInclusive<usize>, allowed: &RangeInclusive<usize>) -> bool {
    !levels.is_empty() && allowed.contains(levels.start()) && allowed.contains(levels.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for (text, range) in [("3-14", 3..=14), ("5", 5..=5), (" 3 - 4 ", 3..=4), ("0-0", 0..=0)] {
            assert_eq!(parse(text), Some(range), "{text}");
        }
        for text in ["", "-", "3-", "-3", "14-3", "three", "3-5-7", "3..5", "99999999999999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!([shown(&(3..=14)), shown(&(5..=5))], ["3-14", "5"]);
    }

    #[test]
    fn a_range_is_within_another_if_both_ends_are() {
        assert!(are_within(&(3..=5), &(3..=5)) && are_within(&(4..=4), &(3..=5)));
        assert!(!are_within(&(2..=5), &(3..=5)) && !are_within(&(3..=6), &(3..=5)));
        assert!(!are_within(&RangeInclusive::new(5, 4), &(3..=5)));
    }
}
