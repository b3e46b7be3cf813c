//! One of several choices: a letter (`B`), or a word such as `True`, `unknown`, `contradiction` or `joy`.
//!
//! Published: the answer must equal the ground truth after upper-casing. Lenient: `(B)`, `B.`, `Option B`,
//! `B. the text of the choice` and "The answer is B, because …" are read too. An answer that names several choices, or
//! denies one, is wrong.

use super::Judge;
use super::answer::{self, Answer, Mode};
use crate::task::grade::Verdict;

/// The data sources whose answers are choices.
pub const SOURCES: &[&str] = &[
    "choice",
    "logiqa",
    "lsat_ar",
    "ar_lsat",
    "logicnli",
    "ruletaker",
    "proofwriter",
    "longiclbench",
    // The questions of AI2's ARC are choices. Those of ARC-AGI are grids.
    "arc_challenge",
    "arc_easy",
    "ai2_arc",
];

/// The three truth values. An answer may name them in a sentence.
const TRUTH_VALUES: [&str; 3] = ["TRUE", "FALSE", "UNKNOWN"];
/// Words with which a text denies a truth value.
const DENIALS: [&str; 10] = ["NOT", "NEVER", "NEITHER", "NOR", "CANNOT", "CANT", "ISNT", "DOESNT", "WASNT", "HARDLY"];
/// Words that may stand before the choice.
const LEADS: &str = "THE CORRECT RIGHT BEST FINAL MY ANSWER OPTION CHOICE LABEL STATEMENT HYPOTHESIS CONCLUSION \
    RELATION EMOTION IS IT ITS SO THUS THEREFORE HENCE THAT WOULD BE LETTER TEXT I CHOOSE PICK SELECT THINK GO WITH WE MUST";
/// Words behind the choice that begin a reason.
const REASONS: [&str; 6] = ["BECAUSE", "SINCE", "AS", "DUE", "GIVEN", "BY"];
/// Words behind the choice that offer a second one.
const ALTERNATIVES: [&str; 6] = ["OR", "AND", "/", "&", "+", "|"];

/// The choice with which an answer is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// In upper case, without white space around it.
    text: String,
    /// The same without punctuation around it; words are joined by one space.
    choice: String,
}

impl Expected {
    /// # Errors
    /// A ground truth without a letter or a digit.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let text = ground_truth.trim().to_uppercase();
        let choice = words(&text).join(" ");
        match choice.is_empty() {
            true => Err("the ground truth is empty; expected a choice, such as \"B\" or \"True\"".into()),
            false => Ok(Self { text, choice }),
        }
    }

    fn lenient(&self, answer: Answer) -> Verdict {
        let text = match answer {
            Answer::Free(text) => text.lines().next_back().unwrap_or_default(),
            _ => answer.text(),
        };
        match self.is_named_by(&text.to_uppercase(), answer) {
            Some(true) => Verdict::Right,
            // A text that nothing marks as the answer need not be one.
            None if matches!(answer, Answer::Free(_)) => Verdict::Missing,
            _ => Verdict::Wrong,
        }
    }

    /// Whether an upper-case text names this choice. None if it names no choice, or several.
    fn is_named_by(&self, text: &str, answer: Answer) -> Option<bool> {
        if text.trim() == self.text {
            return Some(true);
        }
        let words = words(text);
        if words.iter().map(String::as_str).eq(self.choice.split(' ')) {
            return Some(true);
        }
        let led = self.after_leads(&words);
        if led.join(" ") == self.choice {
            return Some(true);
        }
        if let Some(letter) = leading_letter(text, led, answer) {
            return Some(self.choice == letter);
        }
        if TRUTH_VALUES.contains(&self.choice.as_str()) {
            return sole_truth_value(&words).map(|it| it == self.choice);
        }
        self.begins_a_reason(led).then_some(true)
    }

    /// The words from the choice on, if only leading words stand before it.
    fn after_leads<'a>(&self, words: &'a [String]) -> &'a [String] {
        let first = self.choice.split(' ').next().unwrap_or_default();
        let start = words.iter().position(|word| word == first || !LEADS.split(' ').any(|lead| lead == word));
        &words[start.unwrap_or(words.len())..]
    }

    /// Whether the words are this choice and a reason for it.
    fn begins_a_reason(&self, words: &[String]) -> bool {
        let length = self.choice.split(' ').count();
        words.len() > length
            && words[..length].iter().map(String::as_str).eq(self.choice.split(' '))
            && REASONS.contains(&words[length].as_str())
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        match mode {
            Mode::Published => match answer::published(completion) {
                None => Verdict::Missing,
                Some(text) if text.to_uppercase() == self.text => Verdict::Right,
                Some(_) => Verdict::Wrong,
            },
            Mode::Lenient => answer::lenient(completion).map_or(Verdict::Missing, |it| self.lenient(it)),
        }
    }
}

/// The words of an upper-case text without punctuation. LaTeX commands are no words; `-` and `_` within a word separate
/// words.
fn words(text: &str) -> Vec<String> {
    let separates = |c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '’' | '/' | '&' | '+' | '|' | '\\'));
    let clean = |word: &str| word.replace(['\'', '’'], "");
    let words = text.split(separates).filter(|word| !word.starts_with('\\')).map(clean);
    words.filter(|word| !word.is_empty()).collect()
}

/// The letter with which an upper-case text begins, if it stands there as a choice: alone, with a mark behind it
/// (`B.`, `(B)`), or with a reason. None if another choice follows.
fn leading_letter(text: &str, words: &[String], answer: Answer) -> Option<String> {
    let letter = words.first().filter(|word| is_letter(word))?;
    let next = words.get(1);
    let marks = labels(text);
    let labelled = marks.first().is_some_and(|label| label == letter);
    // In "B: a dog" the A is a word.
    let article = |word: &str| labelled && words.len() > 2 && matches!(word, "A" | "I");
    let another = next.is_some_and(|word| ALTERNATIVES.contains(&word.as_str()) || is_letter(word) && !article(word));
    let reason = next.is_some_and(|word| REASONS.contains(&word.as_str())) || is_affirmed(&words[1..]);
    let marked = matches!(answer, Answer::Marked(_)) && (labelled || !matches!(letter.as_str(), "A" | "I"));
    let only = marks.iter().all(|label| label == letter);
    (only && !another && (next.is_none() || reason || labelled || marked)).then(|| letter.clone())
}

/// The letters that stand in a text as the label of a choice: `(B)`, `B)`, `B:`, `**B**`, and `B.` or `B,` with more behind it.
fn labels(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let enclosed = word.ends_with([')', ':', '*', ']', '}']) || word.starts_with(['(', '[', '*']);
        // At the end of the text these end the sentence.
        let followed = word.ends_with(['.', ',', ';', '-']) && words.peek().is_some();
        if is_letter(bare) && (enclosed || followed) {
            labels.push(bare.to_owned());
        }
    }
    labels
}

/// Whether the words say "is right", or "is the correct answer".
fn is_affirmed(words: &[String]) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !matches!(*word, "THE" | "MY")).collect();
    matches!(words.as_slice(), ["IS", "CORRECT" | "RIGHT" | "TRUE" | "ANSWER"])
        || matches!(words.as_slice(), ["IS", "CORRECT" | "RIGHT" | "BEST", "ANSWER" | "OPTION" | "CHOICE" | "ONE"])
}

fn is_letter(word: &str) -> bool {
    word.len() == 1 && word.as_bytes()[0].is_ascii_alphabetic()
}

/// The truth value that a text names, unless it names several or denies one.
fn sole_truth_value(words: &[String]) -> Option<&str> {
    let is_value = |word: &String| TRUTH_VALUES.contains(&word.as_str());
    let at = words.iter().position(is_value)?;
    let others = words[at + 1..].iter().filter(|word| is_value(word)).any(|word| *word != words[at]);
    // "Bob is not green" may be true: only a denial right before the value counts.
    let denied = words[at.saturating_sub(2)..at].iter().any(|word| DENIALS.contains(&word.as_str()));
    (!others && !denied).then_some(words[at].as_str())
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(truth: &str, answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(truth).unwrap();
        let completion = format!("<think>A, B or C: True, False?</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
    }

    fn check_untagged(truth: &str, completion: &str, lenient: Verdict) {
        let expected = Expected::new(truth).unwrap();
        assert_verdicts(&expected, completion, lenient, Missing);
    }

    #[test]
    fn the_published_table() {
        check("B", "B", Right, Right);
        check("B", "b", Right, Right);
        check("B", " b\n", Right, Right);
        check("True", "true", Right, Right);
        check("B", "B.", Right, Wrong);
        check("B", "(B)", Right, Wrong);
        check("B", "", Missing, Wrong);
        check("B", "C", Wrong, Wrong);
        check("joy", "Joy", Right, Right);
        check("(B)", "(b)", Right, Right);
    }

    #[test]
    fn letters_are_read_in_every_form() {
        for answer in [
            "B.",
            "B)",
            "B:",
            "(b)",
            "[B]",
            "**B**",
            "'B'",
            "\"B\"",
            "Option B",
            "option (B).",
            "Choice B",
            "Answer: B",
            "The answer is B",
            "The answer is B.",
            "The correct answer is (B).",
            "The answer is **B**",
            "The correct option is B",
            "B. The cat is on the mat",
            "(B) The cat is on the mat.",
            "B) Vitamin C",
            "B: a dog",
            "B. Vitamin C.",
            "I choose B",
            "I would go with option B.",
            "B is correct",
            "Option B is the correct answer.",
            "B because it rains",
            "B, since A contradicts it",
            r"\boxed{B}",
            r"\boxed{\text{B}}",
            r"$\text{B}$",
            r"The answer is \boxed{(B)}.",
        ] {
            check("B", answer, Right, Wrong);
        }
        check_untagged("B", "The answer is B.", Right);
        check_untagged("B", "I compared A and C.\nThe answer is B because A fails.", Right);
        check_untagged("B", "**Answer:** (B) the dog", Right);
        check_untagged("B", "Answer: B, the dog", Right);
        check_untagged("B", "A is impossible.\nB", Right);
        check_untagged("B", "A is impossible.\n(B) the dog", Right);
        check_untagged("B", "<think>A?</think>\n\nB", Right);
        check_untagged("B", r"\boxed{A} No: \boxed{B}", Right);
        check("A", "A", Right, Right);
        check("A", "A. a cat", Right, Wrong);
    }

    #[test]
    fn other_letters_and_several_are_wrong() {
        for answer in [
            "C",
            "C. B is wrong",
            "A or B",
            "B or A",
            "B and C",
            "B, C",
            "(B) or (C)",
            "A, B, C, D",
            "A. a cat B. a dog",
            "AB",
            "not B",
            "The answer is not B",
            "Bob",
            "a dog",
            "B/C",
            "none",
            "B is wrong",
            "B is not correct",
            "B is the worst answer",
        ] {
            check("B", answer, Wrong, Wrong);
        }
        check("A", "A cat", Wrong, Wrong);
        check("I", "I think so", Wrong, Wrong);
        check_untagged("B", "", Missing);
        check_untagged("B", "I do not know.", Missing);
        check_untagged("A", "A cat sits there.", Missing);
        check_untagged("B", "Answer: C", Wrong);
        check_untagged("B", "The answer is A or B.", Wrong);
        check_untagged("B", "C", Wrong);
    }

    #[test]
    fn words_are_read_in_every_form() {
        check("True", "True.", Right, Wrong);
        check("True", "**TRUE**", Right, Wrong);
        check("True", "The statement is true.", Right, Wrong);
        check("False", "The statement is false, because Anne is young.", Right, Wrong);
        check("Unknown", "It is unknown.", Right, Wrong);
        check("unknown", "The answer is Unknown", Right, Wrong);
        check("True", "False", Wrong, Wrong);
        check("True", "not true", Wrong, Wrong);
        check("True", "It isn't true", Wrong, Wrong);
        check("True", "It isn’t true", Wrong, Wrong);
        check("True", "It can't be true", Wrong, Wrong);
        check("True", "The statement \"Bob is not green\" is true.", Right, Wrong);
        check("True", "It is not necessarily true", Wrong, Wrong);
        check("True", "The plant is different: true", Right, Wrong);
        check("True", "true or false", Wrong, Wrong);
        check("False", "untrue", Wrong, Wrong);
        check("True", "T", Wrong, Wrong);
        check("self_contradiction", "Self-contradiction", Right, Wrong);
        check("entailment", "The label is entailment.", Right, Wrong);
        check("entailment", "not entailment", Wrong, Wrong);
        check("entailment", "entailment, contradiction", Wrong, Wrong);
        check("neutral", "neutral because nothing follows", Right, Wrong);
        check("joy", "\"joy\"", Right, Wrong);
        check("joy", "enjoyment", Wrong, Wrong);
        check("joy", "joy, sadness", Wrong, Wrong);
        check("2", "(2)", Right, Wrong);
        check("ja", "JA!", Right, Wrong);
        check_untagged("Unknown", "The answer is unknown.", Right);
        check_untagged("True", "So the statement is true.", Right);
        check_untagged("joy", "Emotion:\njoy", Right);
        check_untagged("joy", "They are happy.", Missing);
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for truth in ["", "  ", "()", "."] {
            assert!(Expected::new(truth).unwrap_err().contains("empty"), "{truth:?}");
        }
        assert_eq!(Expected::new(" (b). ").unwrap().choice, "B");
    }
}
