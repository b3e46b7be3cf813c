//! Grids of whole numbers, as in ARC-AGI: the ground truth is a JSON list of rows.
//!
//! Published: the answer's lines are rows of numbers that white space separates. Lenient: a JSON grid is read too, and so are
//! rows with commas, bars or brackets, rows of digits without separators, and grids among other lines.

use super::Judge;
use super::answer::{self, Mode};
use crate::task::grade::Verdict;

type Grid = Vec<Vec<i64>>;

/// The grid with which an answer is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    grid: Grid,
}

impl Expected {
    /// # Errors
    /// A ground truth that is not a JSON list of rows of whole numbers.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let grid: Grid = serde_json::from_str(ground_truth)
            .map_err(|e| format!("the ground truth must be a grid such as [[1, 2], [3, 4]]: {e}"))?;
        match grid.iter().all(Vec::is_empty) {
            true => Err("the ground truth is a grid without numbers".into()),
            false => Ok(Self { grid }),
        }
    }

    fn compare(&self, found: Option<Grid>, without: Verdict) -> Verdict {
        match found {
            None => without,
            Some(grid) if grid == self.grid => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        match mode {
            Mode::Published => match answer::published(completion) {
                None => Verdict::Missing,
                Some(text) => self.compare(plain_grid(text), Verdict::Wrong),
            },
            Mode::Lenient => match answer::whole(completion) {
                None => Verdict::Missing,
                Some(text) => self.compare(last_json_grid(text).or_else(|| last_block(text)), Verdict::Missing),
            },
        }
    }
}

/// Rows of numbers that white space separates, and nothing else.
fn plain_grid(text: &str) -> Option<Grid> {
    let row = |line: &str| line.split_whitespace().map(|cell| cell.parse().ok()).collect::<Option<Vec<i64>>>();
    text.trim().split('\n').map(row).collect()
}

/// The last JSON grid of a text. It may be followed by anything but rows of numbers.
fn last_json_grid(text: &str) -> Option<Grid> {
    let start = start_of_grid(text)?;
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Grid>();
    let grid = values.next()?.ok()?;
    last_block(&text[start + values.byte_offset()..]).is_none().then_some(grid)
}

/// Where the last two opening brackets stand that only white space separates.
fn start_of_grid(text: &str) -> Option<usize> {
    let mut second = None;
    for (at, byte) in text.bytes().enumerate().rev() {
        match (byte, second) {
            (b'[', Some(())) => return Some(at),
            (b'[', None) => second = Some(()),
            (byte, _) if byte.is_ascii_whitespace() => {}
            _ => second = None,
        }
    }
    None
}

/// The last block of lines that are rows of numbers. Blank lines end a block, too.
fn last_block(text: &str) -> Option<Grid> {
    let (mut block, mut last) = (Grid::new(), None);
    for line in text.lines().filter(|line| !is_rule(line)) {
        match row(line) {
            Some(row) => block.push(row),
            None if block.is_empty() => {}
            None => last = Some(std::mem::take(&mut block)),
        }
    }
    if block.is_empty() { last } else { Some(block) }
}

/// Whether the line separates the head of a Markdown table.
fn is_rule(line: &str) -> bool {
    line.contains("--") && line.chars().all(|c| matches!(c, '-' | '|' | ':' | ' '))
}

/// A line of numbers that white space, commas, bars or brackets separate. A line of digits without separators is one
/// number per digit.
fn row(line: &str) -> Option<Vec<i64>> {
    let separates = |c: char| c.is_whitespace() || matches!(c, ',' | '|' | '[' | ']');
    let cells: Vec<&str> = line.split(separates).filter(|cell| !cell.is_empty()).collect();
    match cells.as_slice() {
        [] => None,
        [digits] if digits.len() > 1 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.bytes().map(|byte| i64::from(byte - b'0')).collect())
        }
        cells => cells.iter().map(|cell| cell.parse().ok()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new("[[1,2],[3,4]]").unwrap();
        let completion = format!("<think>[[5, 6]]\n7 8</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
        assert_verdicts(&expected, answer, lenient, Missing);
    }

    #[test]
    fn the_published_table() {
        check("1 2\n3 4", Right, Right);
        check("[[1,2],[3,4]]", Right, Wrong);
        check("\n 1  2 \n3\t4\n", Right, Right);
        check("1 2\n3 5", Wrong, Wrong);
        check("", Missing, Wrong);
    }

    #[test]
    fn grids_are_read_in_every_form() {
        for answer in [
            "[[1, 2], [3, 4]]",
            "[\n  [1, 2],\n  [3, 4]\n]",
            "```json\n[[1, 2], [3, 4]]\n```",
            "```\n1 2\n3 4\n```",
            "The output is [[1, 2], [3, 4]].",
            "The output:\n1 2\n3 4\nDone.",
            "1, 2\n3, 4",
            "1,2\n3,4",
            "| 1 | 2 |\n| 3 | 4 |",
            "| 1 | 2 |\n|---|---|\n| 3 | 4 |",
            "[1, 2]\n[3, 4]",
            "[1 2]\n[3 4]",
            "12\n34",
            "5 6\n\n1 2\n3 4",
            "[[5, 6]] becomes [[1, 2], [3, 4]]",
            "[[5, 6]] becomes\n1 2\n3 4",
            "1 2\r\n3 4",
            r"\[ [[1,2],[3,4]] \]",
        ] {
            check(answer, Right, if answer == "1 2\r\n3 4" { Right } else { Wrong });
        }
    }

    #[test]
    fn other_grids_are_wrong() {
        for answer in [
            "[[1, 2], [3, 5]]",
            "[[1, 2, 3, 4]]",
            "1 2 3 4",
            "1 2",
            "1 2\n3 4\n5 6",
            "3 4\n1 2",
            "1 3\n2 4",
            "1234",
            "[[1, 2], [3, 4]] or [[5, 6]]",
            "1 2\n3 4\n\n5 6",
            "1 2\n\n3 4",
            "-1 2\n3 4",
        ] {
            check(answer, Wrong, Wrong);
        }
        for answer in ["I do not know.", "1 two\n3 four", "1.0 2.0\n3.0 4.0"] {
            check(answer, Missing, Wrong);
        }
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for truth in ["", "B", "[1, 2]", "[[1.5]]", "[[\"1\"]]", "{}", "[]", "[[]]"] {
            assert!(Expected::new(truth).unwrap_err().contains("grid"), "{truth:?}");
        }
    }
}
