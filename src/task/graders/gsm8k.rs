//! Numbers as answers, as in GSM8K: the ground truth is a number, or a solution that ends in `#### 42`.
//!
//! Lenient: the number behind the last `####`; else that in the last box, behind the last marker, or the last one of the
//! text. `$42`, `42.`, `1,000` and `42.0` are read as numbers. Published: the tags must hold `####` and the number,
//! which is compared as a string without commas.

use std::sync::LazyLock;

use regex::Regex;

use super::Judge;
use super::answer::{self, Answer, Mode, pattern};
use super::numeral::{self, Numeral};
use crate::task::grade::Verdict;

const MARK: &str = "####";
static PUBLISHED: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (-?[0-9.,]+)"));

/// The number with which an answer is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    text: String,
    number: Numeral,
}

impl Expected {
    /// # Errors
    /// A ground truth that is not one number, alone or behind `####`.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let text = ground_truth.rsplit(MARK).next().unwrap_or_default().trim();
        let numbers = numeral::all(&numeral::plain(text));
        match <[Numeral; 1]>::try_from(numbers) {
            Ok([number]) => Ok(Self { text: text.replace([',', '$'], ""), number }),
            Err(_) => Err(format!(
                "the ground truth is {text:?}; expected one number, or a solution that ends in \"#### 42\""
            )),
        }
    }

    fn published(&self, answer: &str) -> Verdict {
        let last = PUBLISHED.captures_iter(answer).last();
        match last.is_some_and(|it| it[1].replace(',', "") == self.text) {
            true => Verdict::Right,
            false => Verdict::Wrong,
        }
    }
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        if mode == Mode::Published {
            return answer::published(completion).map_or(Verdict::Missing, |it| self.published(it));
        }
        match stated(completion) {
            None => Verdict::Missing,
            Some(number) if self.equals(&number) => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }
}

impl Expected {
    /// A percentage may be written with or without its sign.
    fn equals(&self, number: &Numeral) -> bool {
        match number.percent == self.number.percent {
            true => self.number.equals(number),
            false => (self.number.value - number.value).abs() <= 1e-9 * number.value.abs(),
        }
    }
}

/// The number that a completion ends up with.
fn stated(completion: &str) -> Option<Numeral> {
    let scope = answer::scope(completion);
    let Some((number, rest)) = marked(scope) else {
        return answer::lenient(completion).and_then(said);
    };
    // "#### 1. Count the legs … The answer is 42": this mark begins a heading.
    match answer::lenient(rest) {
        Some(it @ (Answer::Given(_) | Answer::Marked(_))) => said(it).or(Some(number)),
        _ => Some(number),
    }
}

/// The number behind the last mark that a number follows, and the text behind that mark.
fn marked(text: &str) -> Option<(Numeral, &str)> {
    let skipped = |c: char| c.is_whitespace() || matches!(c, '*' | '$' | '\\' | '(' | '[' | ':' | '=' | '+');
    let behind = |(at, _)| {
        let rest = &text[at + MARK.len()..];
        let start = rest.char_indices().take(20).find(|(_, c)| !skipped(*c))?.0;
        let number = rest[start..].trim_start_matches(['-', '−']).trim_start_matches(['\\', '$']);
        let begins = number.strip_prefix('.').unwrap_or(number).starts_with(|c: char| c.is_ascii_digit());
        begins.then_some(rest)
    };
    let rest = text.rmatch_indices(MARK).find_map(behind)?;
    let line = rest.trim_start().lines().next().unwrap_or_default();
    Some((first(&numeral::plain(line))?, rest))
}

fn said(answer: Answer) -> Option<Numeral> {
    let text = numeral::plain(answer.text());
    match answer {
        Answer::Given(_) => match text.contains('=') {
            true => result(&text),
            false => last(&text),
        },
        Answer::Free(_) => last(&text),
        Answer::Marked(_) => {
            // "The answer is 5 + 7 = 12. I counted 3 times." The first sentence decides.
            let sentence = text.split(". ").next().unwrap_or_default();
            let denied = sentence.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("not "));
            if denied { None } else { result(sentence).or_else(|| first(&text)) }
        }
    }
}

fn first(text: &str) -> Option<Numeral> {
    numeral::all(text).into_iter().next()
}

fn last(text: &str) -> Option<Numeral> {
    numeral::all(text).into_iter().next_back()
}

/// The number behind the last `=`, or that before it if it is alone there: `12 = 3 * 4`.
fn result(text: &str) -> Option<Numeral> {
    let (left, right) = text.rsplit_once('=')?;
    if numeral::is_product(left) {
        return None;
    }
    let (alone, product) = (left.trim().trim_start_matches('$'), numeral::all(right));
    let number = alone.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'.' | b'-'));
    if number && product.len() > 1 { first(left) } else { product.into_iter().next() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};

    fn check(truth: &str, completion: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(truth).unwrap();
        assert_verdicts(&expected, completion, lenient, published);
    }

    #[test]
    fn the_published_table() {
        check("1234", "<answer>#### 1,234</answer>", Right, Right);
        check("1234", "<answer>1234</answer>", Right, Wrong);
        check("12", "<answer>#### 12.</answer>", Right, Wrong);
        check("12", "<answer>12.0</answer>", Right, Wrong);
        check("12", "<answer>#### 12.0</answer>", Right, Wrong);
        check("12", "<answer>#### 13</answer>", Wrong, Wrong);
        check("12", "#### 12", Right, Missing);
        check("-12", "<answer>#### -12</answer>", Right, Right);
        check("12", "<answer>#### $12</answer>", Right, Wrong);
        check("12", "<answer>####12</answer>", Right, Wrong);
        check("1,234", "<answer>So 1200 + 34 = 1234 #### 1234 apples</answer>", Right, Right);
        check("12", "<answer></answer>", Missing, Wrong);
    }

    #[test]
    fn answers_of_every_form_are_read() {
        for right in [
            "#### 42",
            "####42",
            "#### $42",
            "#### 42.",
            "#### **42**",
            "#### 42 apples",
            "#### 42.00",
            r"#### \$42",
            "Answer: 42.",
            "**Answer:** 42",
            "**Answer: 42**",
            "Final answer: $42 dollars",
            "The answer is 42",
            "The answer is $42.00, because 6 * 7 = 42.",
            "The answer is 6 * 7 = 42. I checked it 3 times.",
            r"The answer is \boxed{42}.",
            r"\boxed{\$42}",
            r"\boxed{42 \text{ apples}}",
            "6 * 7 = 42",
            "So she has 42 apples.",
            "She has 42%.",
            "<think>6 * 8 = 48</think>\n<answer>42</answer>",
            "<think>6 * 8 = 48</think>\n<answer>$42</answer><|im_end|>",
            "<think>#### 48</think>\n#### 42",
            "#### 41\nNo.\n#### 42",
            "<answer>41</answer> no, <answer>42</answer>",
            "<answer>The answer is 42.</answer>",
            "<answer>6 * 7 = 42</answer>",
            "<answer>84/2</answer>",
            "#### 1. Count\nThere are 6.\n#### 2. Multiply\nThe answer is 42.",
            "#### Step 1\n6 * 7 = 42",
            "#### Final answer\n42",
            "####\n42",
            "#### 42. I checked this 3 times.",
            "#### (42)",
            "She pays US$42.",
            "x = 5. So she has 42 apples.",
            "The answer is 42 = 6 * 7.",
            "The answer is 42 percent.",
        ] {
            check("42", right, Right, expected_published(right));
        }
        check("42", &format!("#### 42{}", " and that is why".repeat(20)), Right, Missing);
        check("1000", r"\boxed{1,000}", Right, Missing);
        check("1000", r"\boxed{1{,}000}", Right, Missing);
        check("-3", "The answer is −3", Right, Missing);
        check("-3", "#### -$3", Right, Missing);
        check("5000000", "#### $5 million", Right, Missing);
        check("0.5", "#### 1/2", Right, Missing);
        check("Tom has 3 cats.\n#### 3", "#### 3", Right, Missing);
        check("12345678901234567890", "#### 12345678901234567890", Right, Missing);
    }

    fn expected_published(completion: &str) -> Verdict {
        if answer::published(completion).is_some() { Wrong } else { Missing }
    }

    #[test]
    fn other_numbers_are_wrong() {
        for wrong in [
            "#### 43",
            "#### 4.2",
            "#### -42",
            "#### 420",
            "#### 4 2",
            "42 #### 43",
            "The answer is 43, not 42.",
            r"\boxed{42} \boxed{43}",
            "<answer>42</answer><answer>43</answer>",
            "It is 42 or 43",
            r"\boxed{42000}",
            "#### 42 thousand",
            "The answer is 42 million",
        ] {
            check("42", wrong, Wrong, expected_published(wrong));
        }
        check("12345678901234567890", "#### 12345678901234567891", Wrong, Missing);
        for missing in [
            "",
            "I do not know.",
            "####",
            "<answer>forty-two</answer>",
            "<think></think>",
            r"\boxed{xy=42}",
            "The answer is not 42",
        ] {
            check("42", missing, Missing, expected_published(missing));
        }
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for truth in ["", "many", "3 or 4", "####"] {
            assert!(Expected::new(truth).unwrap_err().contains("one number"), "{truth:?}");
        }
    }
}
