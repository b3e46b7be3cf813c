//! Counts the assignments under which everybody says what it must: a knight the truth, a knave a falsehood.
//!
//! 64 assignments are one `u64`: the people 0..6 vary within the word, in fixed patterns, and the others are assigned one
//! by one in a depth-first search. A statement narrows the word as soon as everybody it involves is assigned, and a
//! branch whose word is empty is left. With 20 people this looks at hundreds of words instead of 16,384.

use super::MAX_PEOPLE;
use super::statement::Statement;

/// How many people vary within a word.
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

/// The only consistent assignment (bit i: person i is a knight), or `None` where there is none or more than one.
///
/// `statements[i]` is what person i says. It stops at the second solution.
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
/// With more than [`MAX_PEOPLE`] statements, or with one about a person who says nothing.
pub fn solutions(statements: &[Statement]) -> usize {
    Search::run(statements, usize::MAX).found
}

struct Search<'a> {
    /// Speakers with their statements, those that are decided earliest first.
    said: Vec<(u8, &'a Statement)>,
    /// `ends[s]`: how many of `said` are decided once `s` people beyond the inner ones are assigned.
    ends: Vec<usize>,
    /// One word a person: whether it is a knight.
    truth: [u64; MAX_PEOPLE],
    /// The search ends when so many solutions are found.
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

    /// Narrows `alive`, the inner assignments that agree with the `decided` statements, by those that `stage` decides,
    /// and goes on with the next person in both roles.
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

    /// The inner assignment `inner` with the roles of the `outer` people who are assigned.
    fn assignment(&self, outer: usize, inner: u32) -> u32 {
        (0..outer).fold(inner, |knights, it| knights | ((self.truth[INNER + it] & 1) as u32) << (INNER + it))
    }
}

/// How many people beyond the inner ones are assigned when everybody involved in a statement is.
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

    /// Every consistent assignment, one after the other.
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
    fn everybody_praising_itself_leaves_every_assignment() {
        for people in [1, 5, 6, 7, 20] {
            let praise: Vec<_> = (0..people).map(|person| Statement::Is(Leaf { person, knight: true })).collect();
            assert_eq!(solutions(&praise), 1 << people);
            assert_eq!(unique_solution(&praise), None);
        }
    }

    #[test]
    fn a_chain_of_twenty_has_one_solution() {
        // Each calls the next one a knave; the last one says what is always true, so it is a knight.
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
