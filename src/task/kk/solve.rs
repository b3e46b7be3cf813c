//! Counts the consistent assignments: under these every knight tells the truth and every knave lies.
//!
//! One `u64` holds 64 assignments: the people 0..6 vary within the word, in fixed patterns, and the others are assigned
//! one by one in a depth-first search. A statement narrows the word as soon as all people in it are assigned, and an
//! empty word ends its branch. With 20 people this visits hundreds of words instead of 16,384.

use super::people::MAX_PEOPLE;
use super::statement::Statement;

/// The number of people who vary within a word.
const INNER: usize = 6;
/// Bit a of `PATTERNS[i]` is bit i of a: whether person i is a knight in assignment a of a word.
const PATTERNS: [u64; INNER] = [
    0xAAAA_AAAA_AAAA_AAAA,
    0xCCCC_CCCC_CCCC_CCCC,
    0xF0F0_F0F0_F0F0_F0F0,
    0xFF00_FF00_FF00_FF00,
    0xFFFF_0000_FFFF_0000,
    0xFFFF_FFFF_0000_0000,
];

/// The only consistent assignment (bit i: person i is a knight); `None` if there is none or more than one.
///
/// `statements[i]` is what person i says. The search stops at the second solution.
///
/// # Panics
/// As [`solutions`].
pub fn unique_solution(statements: &[Statement]) -> Option<u32> {
    let search = Search::run(statements, 2);
    search.last.filter(|_| search.found == 1)
}

/// The number of consistent assignments.
///
/// # Panics
/// With more than [`MAX_PEOPLE`] statements, or with a statement about a person who has none.
pub fn solutions(statements: &[Statement]) -> usize {
    Search::run(statements, usize::MAX).found
}

struct Search<'a> {
    /// Speakers with their statements; those that can be decided first come first.
    said: Vec<(u8, &'a Statement)>,
    /// `ends[s]`: the number of entries of `said` that are decided once `s` people beyond the inner ones are assigned.
    ends: Vec<usize>,
    /// One word per person: in which of the 64 assignments they are a knight.
    truth: [u64; MAX_PEOPLE],
    /// The search ends after this many solutions.
    limit: usize,
    found: usize,
    last: Option<u32>,
}

impl<'a> Search<'a> {
    fn run(statements: &'a [Statement], limit: usize) -> Self {
        let people = statements.len();
        assert!(people <= MAX_PEOPLE, "at most {MAX_PEOPLE} people, got {people}");
        let known = |it: &Statement| it.people().iter().all(|&person| usize::from(person) < people);
        assert!(statements.iter().all(known), "a statement is about a person who says nothing");
        let mut said: Vec<_> = (0..).zip(statements).collect();
        said.sort_unstable_by_key(stage);
        let last_stage = people.saturating_sub(INNER);
        let ends: Vec<_> = (0..=last_stage).map(|at| said.partition_point(|it| stage(it) <= at)).collect();
        let mut truth = [0; MAX_PEOPLE];
        truth[..INNER].copy_from_slice(&PATTERNS);
        let mut search = Self { said, ends, truth, limit, found: 0, last: None };
        search.descend(0, 0, if people < INNER { (1 << (1 << people)) - 1 } else { u64::MAX });
        search
    }

    /// `alive` are the inner assignments that agree with the `decided` statements. Narrows them by the statements that
    /// `stage` decides, and continues with the next person in both roles.
    fn descend(&mut self, stage: usize, decided: usize, mut alive: u64) {
        let end = self.ends[stage];
        for (speaker, statement) in &self.said[decided..end] {
            let claim = statement.eval(|person| self.truth[usize::from(person)]);
            alive &= !(self.truth[usize::from(*speaker)] ^ claim);
        }
        if alive == 0 {
            return;
        }
        if stage + 1 == self.ends.len() {
            self.found += alive.count_ones() as usize;
            self.last = Some(self.assignment(stage, alive.trailing_zeros()));
            return;
        }
        for role in [0, u64::MAX] {
            self.truth[INNER + stage] = role;
            self.descend(stage + 1, end, alive);
            if self.found >= self.limit {
                return;
            }
        }
    }

    /// The inner assignment `inner`, together with the roles of the `outer` assigned people.
    fn assignment(&self, outer: usize, inner: u32) -> u32 {
        (0..outer).fold(inner, |knights, it| knights | ((self.truth[INNER + it] & 1) as u32) << (INNER + it))
    }
}

/// How many people beyond the inner ones must be assigned to decide a statement.
fn stage((speaker, statement): &(u8, &Statement)) -> usize {
    let [a, b] = statement.people();
    usize::from(a.max(b).max(*speaker) + 1).saturating_sub(INNER)
}

#[cfg(test)]
mod tests {
    use super::super::statement::Leaf;
    use super::*;
    use proptest::prelude::*;

    fn leaf(people: u8) -> impl Strategy<Value = Leaf> {
        (0..people, any::<bool>()).prop_map(|(person, knight)| Leaf { person, knight })
    }

    fn statement(people: u8) -> impl Strategy<Value = Statement> {
        (0..6, leaf(people), leaf(people)).prop_map(|(kind, a, b)| match kind {
            0 => Statement::Is(a),
            1 => Statement::Not(a),
            2 => Statement::And(a, b),
            3 => Statement::Or(a, b),
            4 => Statement::Imply(a, b),
            _ => Statement::Iff(a, b),
        })
    }

    fn statements() -> impl Strategy<Value = Vec<Statement>> {
        (1..=10u8).prop_flat_map(|people| proptest::collection::vec(statement(people), usize::from(people)))
    }

    /// All consistent assignments.
    fn brute_force(statements: &[Statement]) -> Vec<u32> {
        let agrees = |knights: u32| (0..).zip(statements).all(|(i, it)| (knights >> i & 1 == 1) == it.holds(knights));
        (0..1 << statements.len()).filter(|&knights| agrees(knights)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn the_search_finds_what_brute_force_finds(statements in statements()) {
            let expected = brute_force(&statements);
            prop_assert_eq!(solutions(&statements), expected.len());
            let only = match expected[..] { [only] => Some(only), _ => None };
            prop_assert_eq!(unique_solution(&statements), only);
        }
    }

    #[test]
    fn self_praise_alone_excludes_no_assignment() {
        for people in [1, 5, 6, 7, 20] {
            let praise: Vec<_> = (0..people).map(|person| Statement::Is(Leaf { person, knight: true })).collect();
            assert_eq!(solutions(&praise), 1 << people);
            assert_eq!(unique_solution(&praise), None);
        }
    }

    #[test]
    fn a_chain_of_twenty_has_one_solution() {
        // Each person calls the next one a knave. The last one says something that is always true, so they are a
        // knight.
        let mut chain: Vec<_> = (1..20).map(|person| Statement::Is(Leaf { person, knight: false })).collect();
        chain.push(Statement::Or(Leaf { person: 0, knight: true }, Leaf { person: 0, knight: false }));
        assert_eq!(unique_solution(&chain), Some(0xAAAAA));
    }

    #[test]
    #[should_panic(expected = "says nothing")]
    fn a_statement_about_a_stranger_panics() {
        solutions(&[Statement::Is(Leaf { person: 1, knight: true })]);
    }
}
