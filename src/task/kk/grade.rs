//! The Knights and Knaves reward: 3 for a right answer in the right format, −0.5 for a wrong answer, −1 for an answer
//! that cannot be read, and −3 for the wrong format.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::words::{PAIRS, RoleWords};
use crate::task::grade::{Judgement, Verdict};
use crate::task::graders::Judge;
use crate::task::graders::answer::{Mode, formatted, pattern};

/// What claims about roles look like, for each of [`PAIRS`].
static CLAIMS: LazyLock<Vec<Claims>> = LazyLock::new(|| PAIRS.into_iter().map(Claims::new).collect());
/// One line of a ground truth.
static LINE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\s*\(\d+\)\s*(\S.*?)\s+is\s+an?\s+([a-z]+)\.?\s*$"));
/// A word character, as `\b` understands it.
static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\w$"));

/// How answers speak of the roles of one pair of words.
#[derive(Debug)]
struct Claims {
    words: RoleWords,
    /// A claim about a role, without the name before it.
    claim: Regex,
    /// A role word, in the singular or plural.
    role: Regex,
}

impl Claims {
    fn new(words: RoleWords) -> Self {
        let RoleWords { truthful, lying } = words;
        let article = if words == RoleWords::KNIGHTS { "a" } else { "an?" };
        Self {
            words,
            claim: pattern(&format!(r"(?i)\s+is\s+{article}\s+(?:{truthful}|{lying})\b")),
            role: pattern(&format!(r"(?i)\b(?:{truthful}|{lying})(?:e?s)?\b")),
        }
    }

    /// How often the text says a role word. The published rule, which is about knights and knaves, counts parts of longer
    /// words too. Other role words count only as whole words, because they are parts of names such as "Angela".
    fn count_roles(&self, text: &str) -> usize {
        if self.words == RoleWords::KNIGHTS { knights_and_knaves(text) } else { self.role.find_iter(text).count() }
    }

    /// The text before each claim, and whether the claim is about the first role.
    ///
    /// Matches cannot overlap. So a match after a name is a match of the pattern with that name.
    fn find<'a>(&self, text: &'a str) -> Vec<(&'a str, bool)> {
        let first =
            |claim: &str| claim.split_whitespace().next_back().is_some_and(|it| same_fold(it, self.words.truthful));
        self.claim.find_iter(text).map(|it| (&text[..it.start()], first(it.as_str()))).collect()
    }
}

/// The solution of a puzzle, with which an answer is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Names, and whether each has the first role of its pair.
    roles: Vec<(String, bool)>,
    /// The place of the role words in [`PAIRS`].
    pair: usize,
}

impl Expected {
    /// Reads the ground truth of a row: JSON with `solution_text_format`, or that text itself, with lines such as
    /// `(1) Zoey is a knight`.
    ///
    /// # Errors
    /// A text without names, a line of another form, and a name that occurs twice.
    pub fn from_ground_truth(ground_truth: &str) -> Result<Self, String> {
        let text = match serde_json::from_str(ground_truth) {
            Ok(Value::Object(fields)) => match fields.get("solution_text_format") {
                Some(Value::String(text)) => text.clone(),
                _ => return Err("the ground truth has no solution_text_format, or it is not a string".into()),
            },
            _ => ground_truth.to_owned(),
        };
        let mut roles: Vec<(String, bool)> = Vec::new();
        let mut pair = None;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (name, its_pair, first) = role_of(line).ok_or_else(|| {
                let example = "(1) Zoey is a knight";
                format!(
                    "the ground truth says {line:?}; expected a line such as {example:?}, with one of {}",
                    known_words()
                )
            })?;
            if roles.iter().any(|(other, _)| same_fold(other, name)) {
                return Err(format!("the ground truth names {name:?} twice"));
            }
            let RoleWords { truthful, lying } = PAIRS[*pair.get_or_insert(its_pair)];
            if pair != Some(its_pair) {
                return Err(format!(
                    "the ground truth says {line:?}, but the lines before it say {truthful} or {lying}"
                ));
            }
            roles.push((name.to_owned(), first));
        }
        let Some(pair) = pair else {
            return Err("the ground truth is empty; expected \"(1) Zoey is a knight\", one person per line".into());
        };
        Ok(Self { roles, pair })
    }

    /// What the roles are called.
    pub fn words(&self) -> RoleWords {
        PAIRS[self.pair]
    }

    /// The names, in the order of the ground truth.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.roles.iter().map(|(name, _)| name)
    }

    /// A right answer names every role, and a wrong one names each person but not each role. The answer is missing if it
    /// cannot be read or if the format is wrong.
    fn answer_verdict(&self, answer: &str) -> Verdict {
        match self.claims(answer) {
            None => Verdict::Missing,
            Some(claims) if claims.iter().zip(&self.roles).all(|(claim, (_, knight))| claim == knight) => {
                Verdict::Right
            }
            Some(_) => Verdict::Wrong,
        }
    }

    /// Whether the answer calls each person a knight, in the order of the ground truth. `None` if the number of roles
    /// differs from the number of people, or if a person is missing.
    fn claims(&self, answer: &str) -> Option<Vec<bool>> {
        let forms = &CLAIMS[self.pair];
        if forms.count_roles(answer) != self.roles.len() {
            return None;
        }
        let claims = forms.find(answer);
        let first = |name: &str| claims.iter().find(|(before, _)| ends_with_name(before, name)).map(|it| it.1);
        self.names().map(|name| first(name)).collect()
    }
}

/// The answer counts only in the right format. Both modes are the same.
impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        self.judge(completion, mode).verdict
    }

    fn judge(&self, completion: &str, _: Mode) -> Judgement {
        match formatted(completion) {
            None => Judgement { right_format: false, verdict: Verdict::Missing },
            Some(answer) => Judgement { right_format: true, verdict: self.answer_verdict(answer) },
        }
    }
}

/// How often the text says "knight" or "knave".
fn knights_and_knaves(text: &str) -> usize {
    let lower = if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() };
    let role = |(at, _): &(usize, &str)| ["knight", "knave"].iter().any(|role| lower[*at..].starts_with(role));
    lower.match_indices('k').filter(role).count()
}

/// The name in a line of a ground truth, and the role as a place in [`PAIRS`] and whether it is the first of its pair.
fn role_of(line: &str) -> Option<(&str, usize, bool)> {
    let (_, [name, word]) = LINE.captures(line)?.extract();
    let place = |truthful| PAIRS.iter().position(|pair| same_fold(pair.of(truthful), word));
    place(true).map(|pair| (name, pair, true)).or_else(|| place(false).map(|pair| (name, pair, false)))
}

/// All role words, for an error.
fn known_words() -> String {
    PAIRS.map(|it| format!("{}/{}", it.truthful, it.lying)).join(", ")
}

/// Whether `text`, before white space, ends with a match of `\bNAME\b`: with the name, ignoring case, but not as part
/// of a longer word.
fn ends_with_name(text: &str, name: &str) -> bool {
    if let (Some(last), Some(wanted)) = (text.bytes().next_back(), name.bytes().next_back())
        && last.is_ascii()
        && wanted.is_ascii()
        && !last.eq_ignore_ascii_case(&wanted)
    {
        return false; // Most names end here.
    }
    let Some((start, _)) = text.char_indices().rev().nth(name.chars().count() - 1) else { return false };
    let (before, tail) = text.split_at(start);
    same_fold(tail, name)
        && before.chars().next_back().is_some_and(is_word) != tail.chars().next().is_some_and(is_word)
        && tail.chars().next_back().is_some_and(is_word)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() && WORD.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Equality ignoring case, character by character, as in `(?i)`.
fn same_fold(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    let fold = |c: char| c.to_uppercase().flat_map(char::to_lowercase);
    a.chars().flat_map(fold).eq(b.chars().flat_map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::grade::{Grade, Scores};
    use proptest::prelude::*;

    const FORM: f32 = -3.0;
    const UNREADABLE: f32 = -1.0;
    const WRONG: f32 = -0.5;
    const RIGHT: f32 = 3.0;

    /// Zoey is a knight, Oliver is a knave.
    fn expected() -> Expected {
        Expected::from_ground_truth("(1) Zoey is a knight\n(2) Oliver is a knave").unwrap()
    }

    fn grade(expected: &Expected, completion: &str) -> Grade {
        Scores::default().grade(expected.judge(completion, Mode::Lenient))
    }

    fn check(completion: &str, score: f32) {
        let grade = grade(&expected(), completion);
        assert_eq!(grade.score(), score, "{completion:?}");
        assert_eq!(grade.format_score, if score == FORM { -1.0 } else { 1.0 }, "{completion:?}");
    }

    fn check_answer(answer: &str, score: f32) {
        check(&format!("<think>Zoey is a knave</think><answer>{answer}</answer>"), score);
    }

    #[test]
    fn the_form_is_four_tags_in_order_and_nothing_after() {
        let answer = "<answer>Zoey is a knight, Oliver is a knave</answer>";
        check(&format!("<think></think>{answer}"), RIGHT);
        check(&format!("Well. <think>\n…\n</think> So: {answer}"), RIGHT);
        check(&format!("<think></think>{answer} \n\t"), RIGHT);
        check(&format!("<think></think>{answer}<|im_end|>"), RIGHT);
        check(&format!("<think></think>{answer}\n<|im_end|>\n"), RIGHT);
        check(&format!("<think></think>{answer}."), FORM);
        check(&format!("<think></think>{answer}<|im_start|>"), FORM);
        check(&format!("<think></think>{answer}<|im_<|im_end|>end|>"), FORM);
        check(&format!("<think></think>{answer}{answer}"), FORM);
        check(&format!("<think><think></think>{answer}"), FORM);
        check(&format!("<think></think></think>{answer}"), FORM);
        check(&format!("</think><think>{answer}"), FORM);
        check(&format!("{answer}<think></think>"), FORM);
        check(&format!("<think>{answer}</think>"), FORM);
        check(&format!("<think>{answer}"), FORM);
        check(&format!("</think>{answer}"), FORM);
        check(answer, FORM);
        check("", FORM);
        check("<think></think></answer>Zoey is a knight, Oliver is a knave<answer>", FORM);
        check("<think></think><answer>Zoey is a knight, Oliver is a knave", FORM);
        check("<THINK></THINK><answer>Zoey is a knight, Oliver is a knave</answer>", FORM);
        check("<think>The <answer> tag.</think><answer>Zoey is a knight, Oliver is a knave</answer>", FORM);
    }

    #[test]
    fn an_answer_is_right_wrong_or_unreadable() {
        check_answer("(1) Zoey is a knight (2) Oliver is a knave", RIGHT);
        check_answer("\n(1) Zoey is a knight\n(2) Oliver is a knave\n", RIGHT);
        check_answer("Oliver is a knave and Zoey is a knight.", RIGHT);
        check_answer("ZOEY IS A KNIGHT. oliver is a Knave", RIGHT);
        check_answer("Zoey\nis  a\tknight, Oliver is a\u{a0}knave", RIGHT);
        check_answer("**Zoey is a knight**; Oliver is a knave!", RIGHT);
        check_answer("É-Zoey is a knight; Oliver is a knave", RIGHT);
        check_answer("Zoey is a knave, Oliver is a knave", WRONG);
        check_answer("Zoey is a knave, Oliver is a knight", WRONG);
        check_answer("", UNREADABLE);
        check_answer("Zoey is a knight", UNREADABLE);
        check_answer("Zoey is a knight, Oliver is a knave, Liam is a knight", UNREADABLE);
        check_answer("The knights: Zoey is a knight, Oliver is a knave", UNREADABLE);
        check_answer("Zoey is a knight, Zoey is a knave", UNREADABLE);
        check_answer("Zoey is a knave, Liam is a knave", UNREADABLE);
        check_answer("Zoey is knight, Oliver is knave", UNREADABLE);
        check_answer("Zoey is not a knave, Oliver is a knave", UNREADABLE);
        check_answer("Zoey: knight, Oliver: knave", UNREADABLE);
        check_answer("Zoey is a knights, Oliver is a knave", UNREADABLE);
        check_answer("**Zoey** is a knight, Oliver is a knave", UNREADABLE);
    }

    #[test]
    fn a_name_within_a_longer_word_is_another_name() {
        check_answer("MaryZoey is a knight, Oliver is a knave", UNREADABLE);
        check_answer("_Zoey is a knight, Oliver is a knave", UNREADABLE);
        check_answer("ÉZoey is a knight, Oliver is a knave", UNREADABLE);
        check_answer("Zoe is a knight, Olivera is a knave", UNREADABLE);
        let prefixes = Expected::from_ground_truth("(1) Ann is a knight\n(2) Anna is a knave\n(3) Anna-Ann is a knave");
        let grade =
            |answer: &str| grade(prefixes.as_ref().unwrap(), &format!("<think></think><answer>{answer}</answer>"));
        assert_eq!(grade("Anna is a knave, Ann is a knight, Anna-Ann is a knave").score(), RIGHT);
        // The first claim about Ann is the end of the claim about Anna-Ann.
        assert_eq!(grade("Anna-Ann is a knave, Ann is a knight, Anna is a knave").score(), WRONG);
    }

    #[test]
    fn other_role_words_are_graded_like_knights_and_knaves() {
        let score = |truth: &str, answer: &str| {
            let expected = Expected::from_ground_truth(truth).unwrap();
            let scores = [Mode::Lenient, Mode::Published].map(|mode| {
                let completion = format!("<think>So.</think><answer>{answer}</answer>");
                Scores::default().grade(expected.judge(&completion, mode)).score()
            });
            assert_eq!(scores[0], scores[1]);
            scores[0]
        };
        let saints = "(1) Zoey is a saint\n(2) Oliver is a sinner";
        assert_eq!(score(saints, "(1) Zoey is a saint (2) Oliver is a sinner"), RIGHT);
        assert_eq!(score(saints, "Oliver is a Sinner, zoey IS A SAINT"), RIGHT);
        assert_eq!(score(saints, "(1) Zoey is a sinner (2) Oliver is a sinner"), WRONG);
        assert_eq!(score(saints, "(1) Zoey is a saint (2) Oliver is a saint"), WRONG);
        assert_eq!(score(saints, "(1) Zoey is a knight (2) Oliver is a knave"), UNREADABLE);
        assert_eq!(score(saints, "(1) Zoey is a saint (2) Oliver is a sinner (3) Liam is a saint"), UNREADABLE);
        assert_eq!(score(saints, "The saints: Zoey is a saint, Oliver is a sinner"), UNREADABLE);
        let angels = "(1) Angela is an angel\n(2) Oliver is an angel\n(3) Liam is a devil";
        assert_eq!(score(angels, "(1) Angela is an angel (2) Oliver is an angel (3) Liam is a devil"), RIGHT);
        assert_eq!(score(angels, "(1) Angela is a angel (2) Oliver is an angel (3) Liam is a devil"), RIGHT);
        assert_eq!(score(angels, "(1) Angela is an angel (2) Oliver is a devil (3) Liam is a devil"), WRONG);
        // One word of a pair is enough to know the pair.
        assert_eq!(score("(1) Zoey is a hero", "Zoey is a hero"), RIGHT);
        assert_eq!(score("(1) Zoey is a hero", "Zoey is a villain"), WRONG);
        assert_eq!(score("(1) Zoey is an egoist", "Zoey is an altruist"), WRONG);
    }

    #[test]
    fn names_may_be_of_any_script() {
        let expected = Expected::from_ground_truth("(1) Élodie is a knight\n(2) Жанна is a knave").unwrap();
        let score = |answer: &str| grade(&expected, &format!("<think>é</think><answer>{answer}</answer>")).score();
        assert_eq!(score("élodie is a knight (2) ЖАННА is a knave"), RIGHT);
        assert_eq!(score("lodie is a knight (2) Жанна is a knave"), UNREADABLE);
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        let json = r#"{"solution_text_format": "(1) Zoey is a knight\n(2) Oliver is a knave", "statements": "()"}"#;
        assert_eq!(Expected::from_ground_truth(json), Ok(expected()));
        for (text, word) in [
            ("", "empty"),
            ("{}", "solution_text_format"),
            (r#"{"solution_text_format": 1}"#, "solution_text_format"),
            ("Zoey is a knight", "expected a line such as"),
            ("(1) Zoey is a thief", "expected a line such as"),
            ("(1) Zoey is a fool\n(2) Oliver is a knave", "say sage or fool"),
            ("(1) Zoey is a saint\n(2) Oliver is a villain", "say saint or sinner"),
            ("(1) is a knight", "expected a line such as"),
            ("(1) Zoey is a knight\n(2) zoey is a knave", "twice"),
        ] {
            let problem = Expected::from_ground_truth(text).unwrap_err();
            assert!(problem.contains(word), "{text:?}: {problem}");
        }
    }

    /// The rule as it is specified: one pattern per name.
    fn by_the_pattern(name: &str, answer: &str) -> Option<bool> {
        let pattern = format!(r"(?i)\b{}\b\s+is\s+a\s+\b(knight|knave)\b", regex::escape(name));
        pattern.parse::<Regex>().unwrap().captures(answer).map(|it| it[1].to_lowercase() == "knight")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn claims_are_found_as_the_pattern_finds_them(
            words in proptest::collection::vec(
                prop::sample::select(vec![
                    "Zoey", "zoEY", "Zo", "ey", "é", "_", "-", ".", " ", " ", " ", "\n", "\u{a0}", " is a ", " is a knight",
                    " is  a KNAVE", "is", "a", "knight", "knave", "O'Neil", "Neil", "Zoey is a knight", "Zo is a knave",
                ]),
                0..12,
            ),
            name in prop::sample::select(vec!["Zoey", "Zo", "O'Neil", "Neil", "é", "-Zo", "Zoey Zo", "Zoey-", "is a"]),
        ) {
            let answer = words.concat();
            let lower = answer.to_lowercase();
            let roles = lower.matches("knight").count() + lower.matches("knave").count();
            // As many people as roles, so that only the names decide.
            let people = vec![(name.to_owned(), true); roles];
            let found = Expected { roles: people, pair: 0 }.claims(&answer);
            let wanted = by_the_pattern(name, &answer).map(|it| vec![it; roles]);
            prop_assert_eq!(if roles == 0 { None } else { found }, wanted, "{:?}", answer);
        }
    }
}
