//! Names of all kinds. The expected verdicts are those of a careful reader.

use super::*;

const KNIGHT: bool = true;
const KNAVE: bool = false;

/// The people of a puzzle; of `words`, the first is the role of those who are `true`.
fn expected(people: &[(&str, bool)], words: [&str; 2]) -> Result<Expected, String> {
    let line = |(name, first): &(&str, bool)| format!("(1) {name} is a {}", words[usize::from(!first)]);
    Expected::from_ground_truth(&people.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn verdict(expected: &Expected, answer: &str, mode: Mode) -> Verdict {
    expected.verdict(&format!("<think></think><answer>{answer}</answer>"), mode)
}

fn check(people: &[(&str, bool)], cases: &[(&str, Verdict)]) {
    let expected = expected(people, ["knight", "knave"]).unwrap();
    assert_eq!(expected.check(Mode::Lenient), Ok(()), "{people:?}");
    for (answer, wanted) in cases {
        assert_eq!(verdict(&expected, answer, Mode::Lenient), *wanted, "{people:?}: {answer}");
    }
}

use Verdict::{Missing, Right, Wrong};

#[test]
fn names_with_punctuation() {
    check(
        &[("J. Smith Jr.", KNIGHT), ("Bob", KNAVE)],
        &[
            ("(1) J. Smith Jr. is a knight (2) Bob is a knave", Right),
            ("(1) j. smith jr. is a knight\n(2) BOB is a Knave", Right),
            ("J. Smith Jr. is a knave, Bob is a knave", Wrong),
            ("J. Smith is a knight, Bob is a knave", Missing),
            ("Smith Jr. is a knight, Bob is a knave", Missing),
            ("AJ. Smith Jr. is a knight, Bob is a knave", Missing),
        ],
    );
    check(
        &[("Ann (the baker)", KNIGHT), ("Ann (the smith)", KNAVE)],
        &[
            ("Ann (the baker) is a knight, Ann (the smith) is a knave", Right),
            ("Ann (the smith) is a knave, Ann (the baker) is a knight", Right),
            ("Ann (the baker) is a knave, Ann (the smith) is a knight", Wrong),
            ("Ann is a knight, Ann is a knave", Missing),
            ("(the baker) is a knight, (the smith) is a knave", Missing),
        ],
    );
    check(
        &[("C++", KNIGHT), ("C", KNAVE), ("C#", KNAVE)],
        &[
            ("(1) C++ is a knight (2) C is a knave (3) C# is a knave", Right),
            ("C is a knave, C# is a knave, C++ is a knight", Right),
            ("C is a knight, C# is a knave, C++ is a knave", Wrong),
            ("C++ is a knight, C++ is a knave, C# is a knave", Missing),
            ("ABC++ is a knight, C is a knave, C# is a knave", Missing),
        ],
    );
    check(
        &[("@bob", KNIGHT), ("+1", KNAVE), ("...", KNIGHT)],
        &[
            ("@bob is a knight; +1 is a knave; ... is a knight", Right),
            ("@bob is a knight; +1 is a knave; ... is a knave", Wrong),
            ("x@bob is a knight; +1 is a knave; ... is a knight", Missing),
        ],
    );
    check(
        &[("Bob", KNIGHT), ("A.I.", KNAVE)],
        &[
            ("Bob is a knight. A.I. is a knave.", Right),
            ("Bob is a knight.A.I. is a knave.", Right),
            ("Bob is a knight. I. is a knave.", Missing),
        ],
    );
}

#[test]
fn apostrophes_and_hyphens() {
    check(
        &[("O'Neil", KNIGHT), ("Neil", KNAVE)],
        &[
            ("O'Neil is a knight, Neil is a knave", Right),
            ("Neil is a knave, O'Neil is a knight", Right),
            ("O\u{2019}Neil is a knight, Neil is a knave", Right),
            ("O'Neil is a knave, Neil is a knight", Wrong),
            ("D'Neil is a knave, O'Neil is a knight", Missing),
        ],
    );
    check(
        &[("Jean-Luc", KNIGHT), ("Luc", KNAVE), ("Jean", KNAVE)],
        &[
            ("Jean-Luc is a knight, Luc is a knave, Jean is a knave", Right),
            ("Luc is a knave, Jean-Luc is a knight, Jean is a knave", Right),
            ("Jean\u{2011}Luc is a knight, Luc is a knave, Jean is a knave", Right),
            ("Jean-Luc is a knave, Luc is a knight, Jean is a knave", Wrong),
            ("- Jean-Luc is a knight\n- Luc is a knave\n-Jean is a knave", Right),
            ("1-Jean-Luc is a knight, Jean-Paul-Luc is a knave, Jean is a knave", Missing),
        ],
    );
}

#[test]
fn names_within_names() {
    check(
        &[("Ann", KNIGHT), ("Mary Ann", KNAVE)],
        &[
            ("Mary Ann is a knave, Ann is a knight", Right),
            ("Ann is a knight, Mary Ann is a knave", Right),
            ("Mary  Ann is a knave,\nAnn is a knight", Right),
            ("Mary\u{A0}Ann is a knave, Ann is a knight", Right),
            ("Mary Ann is a knight, Ann is a knave", Wrong),
            ("Mary Ann is a knave, Mary Ann is a knight", Missing),
            ("Ann is a knight, Ann is a knave", Missing),
            ("Rosemary Ann is a knave, Ann is a knight", Missing),
        ],
    );
    check(
        &[("Ann", KNIGHT), ("Ann Lee", KNAVE), ("Lee", KNIGHT)],
        &[
            ("Ann is a knight, Ann Lee is a knave, Lee is a knight", Right),
            ("Lee is a knight, Ann Lee is a knave, Ann is a knight", Right),
            ("Ann is a knight, Ann Lee is a knight, Lee is a knave", Wrong),
        ],
    );
    check(
        &[("Person 1", KNIGHT), ("Person 11", KNAVE)],
        &[
            ("Person 11 is a knave, Person 1 is a knight", Right),
            ("Person 1 is a knight, Person 11 is a knave", Right),
            ("Person 1 is a knave, Person 11 is a knight", Wrong),
            ("Person 111 is a knave, Person 1 is a knight", Missing),
        ],
    );
    check(
        &[("A", KNIGHT), ("A B", KNAVE), ("A B C", KNIGHT)],
        &[
            ("A B C is a knight, A B is a knave, A is a knight", Right),
            ("A B C is a knight, A B is a knight, A is a knave", Wrong),
        ],
    );
    // Words alone, which the published rule keeps apart.
    check(
        &[("Ann", KNIGHT), ("Anna", KNAVE), ("Joann", KNAVE)],
        &[
            ("Anna is a knave, Joann is a knave, Ann is a knight", Right),
            ("Anna is a knight, Joann is a knave, Ann is a knave", Wrong),
        ],
    );
}

#[test]
fn role_words_in_names() {
    check(
        &[("Knightley", KNIGHT), ("Emma", KNAVE)],
        &[
            ("(1) Knightley is a knight (2) Emma is a knave", Right),
            ("Emma is a knave. Knightley is a knave.", Wrong),
            ("Mr. Knightley is a knight, Emma is a knave", Right),
            ("The knights: Knightley is a knight, Emma is a knave", Missing),
            ("Knightley is a knight", Missing),
        ],
    );
    check(
        &[("Black Knight", KNAVE), ("Sir Knave", KNIGHT), ("Knight", KNAVE)],
        &[
            ("Black Knight is a knave, Sir Knave is a knight, Knight is a knave", Right),
            ("Knight is a knave, Black Knight is a knave, Sir Knave is a knight", Right),
            ("Black Knight is a knight, Sir Knave is a knight, Knight is a knave", Wrong),
            ("Black Knight is a knave, Sir Knave is a knight", Missing),
            ("White Knave: Black Knight is a knave, Sir Knave is a knight, Knight is a knave", Missing),
        ],
    );
    check(
        &[("Mid-knight", KNIGHT), ("Zoey", KNAVE)],
        &[
            ("Mid-knight is a knight, Zoey is a knave", Right),
            ("Mid-knight is a knight, Zoey is a knave, so one knight", Missing),
        ],
    );
    let angel = expected(&[("Angel", KNIGHT), ("Angela", KNAVE)], ["angel", "devil"]).unwrap();
    assert_eq!(angel.check(Mode::Lenient), Ok(()));
    for (answer, wanted) in [
        ("Angel is an angel, Angela is a devil", Right),
        ("Angela is a devil, Angel is an angel", Right),
        ("Angela is an angel, Angel is an angel", Wrong),
        ("Angel is an angel, Angela is a devil. Two angels?", Missing),
    ] {
        assert_eq!(verdict(&angel, answer, Mode::Lenient), wanted, "{answer}");
    }
}

#[test]
fn scripts_and_accents() {
    // Composed in the ground truth, decomposed in the answer, and the other way round.
    check(
        &[("Ren\u{E9}", KNIGHT), ("Rene", KNAVE)],
        &[
            ("Ren\u{E9} is a knight, Rene is a knave", Right),
            ("Rene\u{301} is a knight, Rene is a knave", Right),
            ("REN\u{C9} is a knight, RENE is a knave", Right),
            ("Rene is a knight, Rene is a knave", Missing),
            ("Rene\u{301} is a knave, Rene is a knight", Wrong),
        ],
    );
    check(
        &[("Zoe\u{308}", KNIGHT), ("\u{1EC7}", KNAVE)],
        &[
            ("Zo\u{EB} is a knight, e\u{323}\u{302} is a knave", Right),
            ("Zo\u{EB} is a knight, e\u{302}\u{323} is a knave", Right),
            ("Zoe is a knight, e\u{323}\u{302} is a knave", Missing),
        ],
    );
    check(
        &[("Жанна", KNIGHT), ("Анна", KNAVE)],
        &[("ЖАННА is a knight, анна is a knave", Right), ("Жанна is a knave, Анна is a knight", Wrong)],
    );
    check(
        &[("太郎", KNIGHT), ("小太郎", KNAVE)],
        &[
            ("(1) 太郎 is a knight (2) 小太郎 is a knave", Right),
            ("小太郎 is a knave、太郎 is a knight", Right),
            ("小太郎 is a knight, 太郎 is a knave", Wrong),
        ],
    );
    check(
        &[("דוד", KNIGHT), ("أحمد", KNAVE), ("नेहा", KNAVE)],
        &[
            ("דוד is a knight, أحمد is a knave, नेहा is a knave", Right),
            ("\u{200F}דוד\u{200F} is a knight, أحمد is a knave, नेहा is a knave", Right),
            ("דוד is a knight, أحمد is a knight, नेहा is a knave", Wrong),
            ("דוד is a knight, أحمد is a knave, ने is a knave", Missing),
        ],
    );
    check(
        &[("Straße", KNIGHT), ("Οδυσσεύς", KNAVE)],
        &[("STRASSE is a knight, ΟΔΥΣΣΕΎΣ is a knave", Right), ("straße is a knave, οδυσσεύς is a knave", Wrong)],
    );
    check(
        &[("R2-D2", KNIGHT), ("007", KNAVE)],
        &[
            ("R2-D2 is a knight, 007 is a knave", Right),
            ("D2 is a knight, 007 is a knave", Missing),
            ("R2-D2 is a knight, 1007 is a knave", Missing),
        ],
    );
    check(
        &[("👑", KNIGHT), ("Is", KNAVE)],
        &[("👑 is a knight, Is is a knave", Right), ("👑 is a knave, Is is a knave", Wrong)],
    );
}

/// The form of an answer is that of the published rule.
#[test]
fn the_form_is_as_strict_as_for_other_names() {
    check(
        &[("Mary Ann", KNIGHT), ("Bob", KNAVE)],
        &[
            ("**Mary Ann is a knight**; Bob is a knave!", Right),
            ("**Mary Ann** is a knight, Bob is a knave", Missing),
            ("Mary Ann is not a knave, Bob is a knave", Missing),
            ("Mary Ann: knight, Bob: knave", Missing),
            ("Mary Ann is a knights, Bob is a knave", Missing),
            ("Mary Ann is a knight, Bob is a knave, Liam is a knight", Missing),
            ("Mary Ann is a knight, Mary Ann is a knave", Missing),
            ("Mary Ann is a knight, Liam is a knave", Missing),
            ("", Missing),
        ],
    );
}

#[test]
fn equal_names_are_refused() {
    for names in [["Ann", "ANN"], ["Ann Lee", "ann  lee"], ["Ren\u{E9}", "Rene\u{301}"], ["O'Neil", "O\u{2019}Neil"]] {
        let problem = expected(&names.map(|name| (name, KNIGHT)), ["knight", "knave"]).unwrap_err();
        assert!(problem.contains("twice"), "{problem}");
    }
}

/// Whether a row can be right depends on the rule that grades it.
#[test]
fn people_whom_no_answer_can_name_are_refused() {
    let check = |name: &str, lenient: bool, published: bool| {
        let expected = expected(&[(name, KNIGHT), ("Bob", KNAVE)], ["knight", "knave"]).unwrap();
        for (mode, satisfiable) in [(Mode::Lenient, lenient), (Mode::Published, published)] {
            let problem = expected.check(mode).err();
            assert_eq!(problem.is_none(), satisfiable, "{name} {mode:?} {problem:?}");
            assert!(problem.is_none_or(|it| it.contains(name) && it.contains("no answer can be right")), "{name}");
        }
    };
    check("Zoey", true, true);
    check("Mary Ann", true, true);
    check("O'Neil", true, true);
    check("Élodie", true, true);
    check("J. Smith Jr.", true, false);
    check("Knightley", true, false);
    check("Ann (the baker)", true, false);
    check("C++", true, false);
    check("Ann is a knight", false, false);
    check("Ann </answer>", false, false);
    check("Bob is a knave, Ann", false, false);
}

proptest::proptest! {
    /// Whatever two names are, the right answer is right, unless the row is refused.
    #[test]
    fn the_right_answer_is_right(a in "[A-Ca-c .'+é太-]{1,6}", b in "[A-Ca-c .'+é太-]{1,6}", first in proptest::bool::ANY) {
        let people = [(a.trim(), first), (b.trim(), !first)];
        if let Ok(expected) = expected(&people, ["knight", "knave"]) && expected.check(Mode::Lenient).is_ok() {
            let said = |swapped: bool| {
                people.map(|(name, first)| format!("{name} is a {}", if first != swapped { "knight" } else { "knave" }))
            };
            proptest::prop_assert_eq!(verdict(&expected, &said(false).join("\n"), Mode::Lenient), Right);
            proptest::prop_assert_eq!(verdict(&expected, &said(true).join("\n"), Mode::Lenient), Wrong);
        }
    }
}
