//! A puzzle as a row: the prompt, and what an answer is graded against.

use serde_json::json;

use super::people::source_name;
use super::puzzle::Puzzle;
use super::text;
use super::variants::Variant;
use super::words::{RoleWords, with_article};
use crate::task::row::{Message, RewardModel, Row};

/// The system message: it asks for the format that [`super::grade`] expects.
pub const SYSTEM: &str = "Reason step by step inside <think> </think>. Then give your final answer inside \
    <answer> </answer>, naming every character once, for example: \
    <answer> (1) Zoey is a knight (2) Oliver is a knave </answer>. Write nothing after it.";

/// The conversation that asks `quiz`, which is about knights and knaves.
pub fn messages(quiz: impl Into<String>) -> Vec<Message> {
    messages_about(RoleWords::KNIGHTS, quiz)
}

/// The conversation that asks `quiz`, whose roles are called `words`.
pub fn messages_about(words: RoleWords, quiz: impl Into<String>) -> Vec<Message> {
    vec![Message::new("system", system(words)), Message::new("user", quiz)]
}

/// [`SYSTEM`] with `words` in its example.
fn system(words: RoleWords) -> String {
    let parts = SYSTEM.split_once("a knight").and_then(|(start, rest)| Some((start, rest.split_once("a knave")?)));
    let (start, (middle, end)) = parts.expect("this is a bug: the example names both roles");
    format!("{start}{}{middle}{}{end}", with_article(words.truthful), with_article(words.lying))
}

/// What answers to the puzzle are graded against.
pub fn ground_truth(puzzle: &Puzzle) -> String {
    let truth = json!({
        "solution_text_format": text::solution_text_format(puzzle),
        "statements": text::statements(puzzle),
    });
    truth.to_string()
}

/// The puzzle as row `index` of its source in `split`.
pub fn row(puzzle: &Puzzle, split: &str, index: usize) -> Row {
    Row {
        data_source: source_name(puzzle.people()),
        prompt: messages_about(puzzle.words, text::quiz(puzzle)),
        ability: "logic".into(),
        reward_model: RewardModel::rule(ground_truth(puzzle)),
        extra_info: json!({"split": split, "index": index, "people": puzzle.people()}),
    }
}

/// The variant of a puzzle as row `index` of its source in `split`; `index` is that of the original.
pub fn variant_row(puzzle: &Puzzle, variant: Variant, split: &str, index: usize) -> Row {
    let mut row = row(puzzle, split, index);
    row.data_source = variant.source_name(puzzle.people());
    row.extra_info["variant"] = variant.to_string().into();
    row
}

#[cfg(test)]
mod tests {
    use super::super::generate::Generator;
    use super::*;
    use crate::task::Grader;

    #[test]
    fn the_system_message_is_short() {
        assert!(SYSTEM.len() < 300, "{}", SYSTEM.len());
    }

    #[test]
    fn the_right_answer_to_every_size_scores_three_and_a_flipped_one_less() {
        for puzzle in (3..=20).flat_map(|people| Generator::new(people, 11).take(10)) {
            let grader = Grader::for_row(&row(&puzzle, "train", 0)).unwrap();
            let score = |puzzle: &Puzzle| {
                let answer = text::solution_text_format(puzzle).replace('\n', " ");
                grader.grade(&format!("<think>So.</think>\n<answer> {answer} </answer>")).score()
            };
            assert_eq!(score(&puzzle), 3.0);
            for person in 0..puzzle.people() {
                assert_eq!(score(&Puzzle { solution: puzzle.solution ^ 1 << person, ..puzzle.clone() }), -0.5);
            }
        }
    }

    #[test]
    fn a_row_says_where_it_belongs() {
        let row = row(&text::tests::puzzle(), "test", 7);
        assert_eq!(row.data_source, "kk_logic_3");
        assert_eq!(row.extra_info, json!({"split": "test", "index": 7, "people": 3}));
        assert_eq!(row.prompt[1].content, text::quiz(&text::tests::puzzle()));
    }
}
