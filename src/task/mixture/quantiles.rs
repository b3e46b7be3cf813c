//! Cuts a distribution into parts by the rank of a number, such as a difficulty or the length of the prompt.

use super::condition::number;
use super::field;
use crate::task::row::Row;

/// The upper bounds of all parts but the last: values up to a bound, and above the one before, are in its part.
///
/// Rows with equal values are in the same part, so there are fewer parts than asked for where many values are equal.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantiles {
    field: String,
    bounds: Vec<f64>,
}

impl Quantiles {
    /// The parts of `rows`, as equal as ties allow: part i of n ends at the value of rank ⌈i·N/n⌉ of N.
    ///
    /// # Errors
    /// A row without the field, or with one that is not a number.
    pub fn new<'a>(field: &str, parts: usize, rows: impl IntoIterator<Item = &'a Row>) -> Result<Self, String> {
        let mut values = rows.into_iter().map(|row| value(row, field)).collect::<Result<Vec<_>, _>>()?;
        values.sort_by(f64::total_cmp);
        let rank = |part: usize| (part * values.len()).div_ceil(parts).max(1) - 1;
        let mut bounds: Vec<f64> = (1..parts).filter_map(|part| values.get(rank(part)).copied()).collect();
        bounds.dedup();
        // Nothing is above the greatest value.
        bounds.retain(|bound| values.last() != Some(bound));
        Ok(Self { field: field.to_owned(), bounds })
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.bounds.len() + 1
    }

    /// The part of a row, from 0 for the smallest values.
    ///
    /// # Errors
    /// As [`Quantiles::new`].
    pub fn part(&self, row: &Row) -> Result<usize, String> {
        let value = value(row, &self.field)?;
        Ok(self.bounds.partition_point(|bound| *bound < value))
    }
}

fn value(row: &Row, name: &str) -> Result<f64, String> {
    let value = field::needed(row, name)?;
    number(&value).ok_or_else(|| format!("field {name:?} must be a number, got {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::row::RewardModel;
    use serde_json::json;

    fn rows(values: &[i64]) -> Vec<Row> {
        let row = |value: &i64| Row {
            data_source: "d".into(),
            prompt: Vec::new(),
            ability: String::new(),
            reward_model: RewardModel::rule(""),
            extra_info: json!({"difficulty": value}),
        };
        values.iter().map(row).collect()
    }

    /// The values of each part.
    fn cut(parts: usize, values: &[i64]) -> Vec<Vec<i64>> {
        let rows = rows(values);
        let quantiles = Quantiles::new("difficulty", parts, &rows).unwrap();
        let mut all = vec![Vec::new(); quantiles.parts()];
        for (row, value) in rows.iter().zip(values) {
            all[quantiles.part(row).unwrap()].push(*value);
        }
        all
    }

    #[test]
    fn parts_are_as_equal_as_ties_allow() {
        assert_eq!(cut(2, &[4, 1, 3, 2]), [vec![1, 2], vec![4, 3]]);
        assert_eq!(cut(3, &[1, 2, 3, 4, 5, 6, 7]), [vec![1, 2, 3], vec![4, 5], vec![6, 7]]);
        assert_eq!(cut(2, &[1, 1, 1, 2]), [vec![1, 1, 1], vec![2]]);
        assert_eq!(cut(4, &[5, 5, 5]), [vec![5, 5, 5]]);
        assert_eq!(cut(1, &[2, 1]), [vec![2, 1]]);
        assert_eq!(cut(5, &[1, 2]), [vec![1], vec![2]]);
    }

    #[test]
    fn a_row_without_the_number_is_named() {
        assert!(Quantiles::new("other", 2, &rows(&[1])).unwrap_err().contains("\"other\""));
        assert!(Quantiles::new("data_source", 2, &rows(&[1])).unwrap_err().contains("number"));
    }

    proptest::proptest! {
        #[test]
        fn no_part_is_empty_and_no_row_is_lost(values in proptest::collection::vec(-5_i64..5, 1..60), parts in 1_usize..8) {
            let cut = cut(parts, &values);
            proptest::prop_assert!(cut.len() <= parts && cut.iter().all(|part| !part.is_empty()), "{:?}", cut);
            proptest::prop_assert_eq!(cut.iter().map(Vec::len).sum::<usize>(), values.len());
        }
    }
}
