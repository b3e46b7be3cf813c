//! Worked completions for supervised training: careful deductions, and hasty guesses.
//!
//! A careful `<think>` first repeats who said what, in order and in one form. Then it supposes that a person is a
//! knight or a knave, quotes one statement at a time with the known roles, and writes down what follows: "Zoey said
//! Liam is a knave, Zoey: knight so Liam: knave". After a supposition, each statement that was not needed is checked
//! ("… yes"). If a statement does not hold ("… no"), the supposition is reversed. Roles that were found are written in
//! another form (": knight") than what people say (" is a knight"), and each line contains everything that its
//! conclusion depends on. So a small model only has to copy and look up, and need not connect distant lines.

use rand::Rng;

use super::puzzle::Puzzle;
use super::words::RoleWords;

/// How a completion is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Deduces; the answer is right.
    Careful,
    /// Guesses; each role is right with the given probability in percent.
    Hasty { percent_right: u32 },
}

/// The share of careful completions: `at_3` for three people, falling linearly to `at_14` for fourteen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CarefulShare {
    pub at_3: f64,
    pub at_14: f64,
}

impl CarefulShare {
    pub fn of(&self, people: usize) -> f64 {
        let along = (people as f64 - 3.0) / 11.0;
        (self.at_3 + (self.at_14 - self.at_3) * along).clamp(0.0, 1.0)
    }
}

/// A completion in the right format.
pub fn completion(puzzle: &Puzzle, style: Style, rng: &mut impl Rng) -> String {
    let (thought, answer) = match style {
        Style::Careful => (Deduction::new(puzzle).solve(rng), puzzle.solution),
        Style::Hasty { percent_right } => {
            let wrong = |rng: &mut _| u32::from(!Rng::random_ratio(rng, percent_right.min(100), 100));
            let flips = (0..puzzle.people()).fold(0, |mask, i| mask | (wrong(rng) << i));
            ("this is just a guess.".to_string(), puzzle.solution ^ flips)
        }
    };
    format!("<think> {thought} </think>\n<answer> {} </answer>", answer_text(puzzle, answer))
}

/// An exercise in quoting: the statements of all people, as a careful completion begins, and then `quotes` of them in
/// random order. With these texts a model learns to copy within a few million tokens; with worked puzzles alone it
/// takes many times as long.
pub fn quoting_exercise(puzzle: &Puzzle, quotes: usize, rng: &mut impl Rng) -> (String, String) {
    let deduction = Deduction::new(puzzle);
    let line = |speaker| deduction.said(speaker) + ". ";
    let list = (0..puzzle.people()).map(line).collect();
    (list, (0..quotes).map(|_| line(rng.random_range(0..puzzle.people()))).collect())
}

fn answer_text(puzzle: &Puzzle, knights: u32) -> String {
    let line =
        |(i, name): (usize, &&str)| format!("({}) {name} is a {}", i + 1, RoleWords::KNIGHTS.of(knights >> i & 1 == 1));
    puzzle.names.iter().enumerate().map(line).collect::<Vec<_>>().join(" ")
}

/// What one statement says about the roles known so far.
#[derive(Debug, PartialEq)]
enum Implied {
    Nothing,
    Role { person: usize, knight: bool },
    Contradiction,
}

/// An unfinished chain of deductions.
#[derive(Clone)]
struct Deduction<'a> {
    puzzle: &'a Puzzle,
    /// People whose role is known, in the order in which it was found.
    order: Vec<usize>,
    /// Bit i: person i's role is known.
    known: u32,
    /// Bit i: person i is known to be a knight.
    knights: u32,
    /// Bit i: a role was deduced from what person i said.
    used: u32,
}

impl<'a> Deduction<'a> {
    fn new(puzzle: &'a Puzzle) -> Self {
        Self { puzzle, order: Vec::new(), known: 0, knights: 0, used: 0 }
    }

    /// The whole text. It may contain wrong suppositions, whose consequences end in a contradiction.
    fn solve(mut self, rng: &mut impl Rng) -> String {
        let mut lines: Vec<String> = (0..self.puzzle.people()).map(|speaker| self.said(speaker)).collect();
        self.propagate(&mut lines);
        let certain = self.order.len() == self.puzzle.people();
        while let Some((person, refutation)) = self.supposition() {
            let verb = match refutation {
                Some(mut tried) if rng.random() => {
                    lines.append(&mut tried);
                    "so"
                }
                _ => "suppose",
            };
            let right = self.is_knight(person);
            lines.push(format!("{verb} {}", self.found(person, right)));
            self.assign(person, right);
            self.propagate(&mut lines);
        }
        if !certain {
            self.check(&mut lines);
        }
        lines.join(". ") + "."
    }

    /// The first person without a known role whose wrong role leads to a contradiction, with the lines that show it.
    /// There a wrong supposition is noticed. If there is no such person, the first one without a known role.
    fn supposition(&self) -> Option<(usize, Option<Vec<String>>)> {
        let mut open = (0..self.puzzle.people()).filter(|i| self.known >> i & 1 == 0).peekable();
        let first = *open.peek()?;
        let refuted = open.find_map(|person| Some((person, Some(self.refute(person, !self.is_knight(person))?))));
        Some(refuted.unwrap_or((first, None)))
    }

    /// The lines from the supposition to a contradiction; none if it leads to no contradiction.
    fn refute(&self, person: usize, knight: bool) -> Option<Vec<String>> {
        let mut branch = self.clone();
        let mut lines = vec![format!("suppose {}", self.found(person, knight))];
        branch.assign(person, knight);
        branch.propagate(&mut lines);
        (!branch.check(&mut lines)).then_some(lines)
    }

    fn is_knight(&self, person: usize) -> bool {
        self.puzzle.solution >> person & 1 == 1
    }

    /// Deduces until nothing more follows.
    fn propagate(&mut self, lines: &mut Vec<String>) {
        loop {
            let next = self.speakers().find_map(|speaker| match self.implied(speaker) {
                Implied::Role { person, knight } => Some((speaker, person, knight)),
                _ => None,
            });
            let Some((speaker, person, knight)) = next else { return };
            lines.push(format!("{} so {}", self.quote(speaker), self.found(person, knight)));
            self.used |= 1 << speaker;
            self.assign(person, knight);
        }
    }

    /// Checks each statement that no deduction used and whose people all have known roles; `false` at the first that
    /// fails.
    fn check(&self, lines: &mut Vec<String>) -> bool {
        let open = |speaker: &usize| self.used >> speaker & 1 == 0 && self.involved(*speaker) & !self.known == 0;
        for speaker in (0..self.puzzle.people()).filter(open) {
            let holds = self.implied(speaker) != Implied::Contradiction;
            lines.push(format!("{} {}", self.quote(speaker), if holds { "yes" } else { "no" }));
            if !holds {
                return false;
            }
        }
        true
    }

    /// The people whose roles the statement of `speaker` connects, including the speaker, as bits.
    fn involved(&self, speaker: usize) -> u32 {
        self.puzzle.statements[speaker].people().iter().fold(1 << speaker, |mask, person| mask | 1 << person)
    }

    /// The order in which statements are examined. The role that was found last comes first: the statement of that
    /// person, then the statements about them.
    fn speakers(&self) -> impl Iterator<Item = usize> + '_ {
        let about = move |person: usize| {
            let mentions = move |s: &usize| self.puzzle.statements[*s].people().contains(&(person as u8));
            std::iter::once(person).chain((0..self.puzzle.people()).filter(mentions))
        };
        self.order.iter().rev().copied().flat_map(about).chain(0..self.puzzle.people())
    }

    /// What follows from "`speaker` is a knight exactly if its statement holds", over all ways to fill in unknown
    /// roles.
    fn implied(&self, speaker: usize) -> Implied {
        let statement = &self.puzzle.statements[speaker];
        let involved = self.involved(speaker);
        let open: Vec<usize> = (0..self.puzzle.people()).filter(|i| involved & !self.known & 1 << i != 0).collect();
        let (mut always, mut ever, mut any) = (u32::MAX, 0u32, false);
        for choice in 0..1u32 << open.len() {
            let filled = open.iter().enumerate().fold(self.knights, |mask, (bit, i)| mask | (choice >> bit & 1) << i);
            if statement.holds(filled) == (filled >> speaker & 1 == 1) {
                (always, ever, any) = (always & filled, ever | filled, true);
            }
        }
        if !any {
            return Implied::Contradiction;
        }
        let forced = |i: &usize| always >> i & 1 == ever >> i & 1;
        match open.into_iter().find(forced) {
            Some(person) => Implied::Role { person, knight: always >> person & 1 == 1 },
            None => Implied::Nothing,
        }
    }

    fn assign(&mut self, person: usize, knight: bool) {
        self.order.push(person);
        self.known |= 1 << person;
        self.knights |= u32::from(knight) << person;
    }

    /// What `speaker` said, and the roles found so far of those it is about.
    fn quote(&self, speaker: usize) -> String {
        let mut people = self.puzzle.statements[speaker].people().map(usize::from).to_vec();
        people.retain(|&person| person != speaker);
        people.insert(0, speaker);
        people.dedup();
        let known = people.into_iter().filter(|i| self.known >> i & 1 == 1);
        let roles: String = known.map(|i| format!(", {}", self.found(i, self.knights >> i & 1 == 1))).collect();
        self.said(speaker) + &roles
    }

    fn said(&self, speaker: usize) -> String {
        let Puzzle { names, statements, .. } = self.puzzle;
        format!(
            "{} said {}",
            names[speaker],
            statements[speaker].text(names, RoleWords::KNIGHTS).replacen("If ", "if ", 1)
        )
    }

    fn found(&self, person: usize, knight: bool) -> String {
        format!("{}: {}", self.puzzle.names[person], RoleWords::KNIGHTS.of(knight))
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate::Generator;
    use super::super::{prompt, statement::Statement};
    use super::*;
    use crate::task::Grader;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn careful_completions_are_right_and_hasty_ones_well_formed() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for people in [3, 5, 9, 14] {
            for (index, puzzle) in Generator::new(people, 7).take(50).enumerate() {
                let grader = Grader::for_row(&prompt::row(&puzzle, "train", index)).unwrap();
                assert_eq!(grader.grade(&completion(&puzzle, Style::Careful, &mut rng)).score(), 3.0);
                let hasty = grader.grade(&completion(&puzzle, Style::Hasty { percent_right: 0 }, &mut rng));
                assert_eq!((hasty.format_score, hasty.answer_score), (1.0, -1.5));
            }
        }
    }

    /// Every deduction that is written down must hold in each assignment that agrees with what was supposed before.
    #[test]
    fn every_written_deduction_follows_from_the_statement_it_names() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for puzzle in Generator::new(6, 3).take(40) {
            let mut deduction = Deduction::new(&puzzle);
            for _ in 0..puzzle.people() {
                let Some(speaker) =
                    (0..puzzle.people()).find(|&s| matches!(deduction.implied(s), Implied::Role { .. }))
                else {
                    let person = (0..6).find(|i| deduction.known >> i & 1 == 0);
                    if let Some(person) = person {
                        deduction.assign(person, rng.random())
                    }
                    continue;
                };
                let Implied::Role { person, knight } = deduction.implied(speaker) else { unreachable!() };
                for assignment in 0..1u32 << puzzle.people() {
                    let agrees = assignment & deduction.known == deduction.knights;
                    let consistent =
                        Statement::holds(&puzzle.statements[speaker], assignment) == (assignment >> speaker & 1 == 1);
                    assert!(!agrees || !consistent || (assignment >> person & 1 == 1) == knight);
                }
                deduction.assign(person, knight);
            }
        }
    }

    #[test]
    fn the_careful_share_falls_with_the_size() {
        let share = CarefulShare { at_3: 0.5, at_14: 0.06 };
        assert_eq!((share.of(3), share.of(14)), (0.5, 0.06));
        assert!((share.of(8) - 0.3).abs() < 1e-9);
    }
}
