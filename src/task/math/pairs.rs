//! A table of pairs of answers with their verdicts, `pairs.tsv`: kind, verdict, and the two answers.
//!
//! The verdicts are arithmetic by hand; none was produced by this code.

use super::equal;

const TABLE: &str = include_str!("pairs.tsv");

fn rows() -> impl Iterator<Item = (&'static str, bool, &'static str, &'static str)> {
    TABLE.lines().filter(|it| !it.starts_with('#') && !it.is_empty()).map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        let [kind, verdict, a, b] = fields[..] else { panic!("four fields expected: {line}") };
        assert!(matches!(verdict, "=" | "≠"), "{line}");
        (kind, verdict == "=", a, b)
    })
}

#[test]
fn every_pair_has_its_verdict() {
    let failed: Vec<_> = rows().filter(|(_, same, a, b)| equal(a, b) != *same || equal(b, a) != *same).collect();
    let text = failed.iter().map(|it| format!("{it:?}\n")).collect::<String>();
    assert!(failed.is_empty(), "{} pairs fail:\n{text}", failed.len());
}

#[test]
fn the_table_is_large_and_a_third_of_it_is_different() {
    let (all, different) = (rows().count(), rows().filter(|it| !it.1).count());
    assert!(all >= 300, "{all}");
    assert!(different * 3 >= all, "{different} of {all}");
}

#[test]
fn every_answer_equals_itself() {
    for (_, _, a, b) in rows() {
        assert!(equal(a, a), "{a}");
        assert!(equal(b, b), "{b}");
    }
}
