//! Judgements of answers, and ground truths.

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
    let grade = |answer: &str| grade(prefixes.as_ref().unwrap(), &format!("<think></think><answer>{answer}</answer>"));
    assert_eq!(grade("Anna is a knave, Ann is a knight, Anna-Ann is a knave").score(), RIGHT);
    assert_eq!(grade("Anna-Ann is a knave, Ann is a knight, Anna is a knave").score(), RIGHT);
    // By the published rule the first claim about Ann is the end of the claim about Anna-Ann.
    let answer = "<think></think><answer>Anna-Ann is a knave, Ann is a knight, Anna is a knave</answer>";
    assert_eq!(prefixes.as_ref().unwrap().verdict(answer, Mode::Published), Verdict::Wrong);
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
        let found = Claims::of(0).read(std::iter::repeat_n(name, roles), &answer);
        let wanted = by_the_pattern(name, &answer).map(|it| vec![it; roles]);
        prop_assert_eq!(if roles == 0 { None } else { found }, wanted, "{:?}", answer);
    }
}
