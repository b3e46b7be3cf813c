//! A puzzle in words: the quiz, and its solution as a sentence and as a numbered list.

use super::puzzle::Puzzle;
use super::words::{plural, with_article};

/// The ways to report what a person says. After "that" the content does not begin with a capital letter.
pub const SAYINGS: [&str; 18] = [
    "{name} said that {content}.",
    "{name} told you that {content}.",
    "{name} claimed that {content}.",
    "{name} insisted that {content}.",
    "{name} let you know that {content}.",
    "It was {name}'s opinion that {content}.",
    "{name} said: \"{content}.\"",
    "{name} answered, \"{content}.\"",
    "{name} remarked, \"{content}\".",
    "{name} whispered, \"{content}\".",
    "{name} added: \"{content}\".",
    "As {name} put it, \"{content}\".",
    "According to {name}, \"{content}\".",
    "In the words of {name}: \"{content}\".",
    "When asked, {name} replied, \"{content}\".",
    "\"{content},\" {name} declared.",
    "\"{content},\" said {name}.",
    "\"{content}\" - {name}.",
];

/// The whole quiz as one paragraph: the island, the people, what each of them says, and the question.
pub fn quiz(puzzle: &Puzzle) -> String {
    let [truthful, lying] = [puzzle.words.truthful, puzzle.words.lying];
    let [truth_tellers, liars] = [truthful, lying].map(plural);
    let mut sentences = vec![
        format!("A very special island is inhabited only by {truth_tellers} and {liars}."),
        format!("{} always tell the truth, and {liars} always lie.", capitalised(&truth_tellers)),
        format!("You meet {} inhabitants: {}.", puzzle.people(), listing(&puzzle.names)),
    ];
    for &person in &puzzle.order {
        let content = puzzle.statements[person].text(&puzzle.names, puzzle.words);
        sentences.push(say(SAYINGS[puzzle.sayings[person]], puzzle.names[person], &content));
    }
    sentences.push(format!("So who is {} and who is {}?", with_article(truthful), with_article(lying)));
    sentences.join(" ")
}

/// `Zoey is a knight, Oliver is a knave, and Liam is a knight.`
pub fn solution_text(puzzle: &Puzzle) -> String {
    format!("{}.", listing(&roles(puzzle).collect::<Vec<_>>()))
}

/// `(1) Zoey is a knight`, one person per line.
pub fn solution_text_format(puzzle: &Puzzle) -> String {
    let line = |(i, role)| format!("({}) {role}", i + 1);
    roles(puzzle).enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// `Zoey is a knight`, for each person.
fn roles(puzzle: &Puzzle) -> impl Iterator<Item = String> {
    puzzle.roles().map(|(name, truthful)| format!("{name} is {}", with_article(puzzle.words.of(truthful))))
}

fn capitalised(word: &str) -> String {
    word[..1].to_ascii_uppercase() + &word[1..]
}

/// The statements in the form of the public data: one tuple with one statement per person.
pub fn statements(puzzle: &Puzzle) -> String {
    let tuples: Vec<_> = puzzle.statements.iter().map(ToString::to_string).collect();
    format!("({})", tuples.join(", "))
}

fn say(saying: &str, name: &str, content: &str) -> String {
    let said = saying.replace("{name}", name).replace("{content}", content);
    said.replacen(" that If ", " that if ", 1)
}

/// `A, B, and C`.
fn listing<S: AsRef<str>>(items: &[S]) -> String {
    let words: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{}, and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::statement::{Leaf, Statement};
    use super::super::words::RoleWords;
    use super::*;

    /// Zoey is a knight, Oliver a knave and Liam a knight.
    pub fn puzzle() -> Puzzle {
        let leaf = |person, knight| Leaf { person, knight };
        Puzzle {
            names: vec!["Zoey", "Oliver", "Liam"],
            statements: vec![
                Statement::Imply(leaf(1, true), leaf(2, false)),
                Statement::And(leaf(0, true), leaf(2, false)),
                Statement::Not(leaf(1, true)),
            ],
            sayings: vec![0, 11, 15],
            order: vec![0, 1, 2],
            words: RoleWords::KNIGHTS,
            solution: 0b101,
        }
    }

    #[test]
    fn the_quiz_reads_as_the_public_data() {
        let expected = "A very special island is inhabited only by knights and knaves. Knights always tell the truth, \
            and knaves always lie. You meet 3 inhabitants: Zoey, Oliver, and Liam. Zoey said that if Oliver is a knight \
            then Liam is a knave. As Oliver put it, \"Zoey is a knight and Liam is a knave\". \"Oliver is not a knight,\" \
            Liam declared. So who is a knight and who is a knave?";
        assert_eq!(quiz(&puzzle()), expected);
    }

    #[test]
    fn the_solution_reads_in_both_forms() {
        assert_eq!(solution_text(&puzzle()), "Zoey is a knight, Oliver is a knave, and Liam is a knight.");
        let lines = "(1) Zoey is a knight\n(2) Oliver is a knave\n(3) Liam is a knight";
        assert_eq!(solution_text_format(&puzzle()), lines);
    }

    #[test]
    fn the_statements_are_one_tuple() {
        let expected = "(('->', ('telling-truth', 1), ('lying', 2)), ('and', ('telling-truth', 0), ('lying', 2)), \
            ('not', ('telling-truth', 1)))";
        assert_eq!(statements(&puzzle()), expected);
    }

    #[test]
    fn every_saying_names_the_speaker_and_ends_a_sentence() {
        for saying in SAYINGS {
            let said = say(saying, "Zoey", "If Liam is a knight then Oliver is a knave");
            assert!(said.contains("Zoey") && said.contains("f Liam is a knight then Oliver is a knave"), "{said}");
            assert!(said.ends_with(['.', '"']) && !said.contains('{'), "{said}");
            assert_eq!(said.contains("that if"), saying.contains("that"), "{said}");
        }
    }
}
