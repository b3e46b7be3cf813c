//! Letters of words: how often one occurs, and their alphabetical order. The level is the number of letters.
//!
//! The words are random, so that no model knows them.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::problem::Problem;

const ALPHABET: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// Draws a word of `level` letters, and a letter to count. About half as many letters are used as the word is long, so
/// that many occur several times; the one to count may be missing.
pub fn count(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let letters: Vec<u8> = ALPHABET.choose_multiple(rng, (level / 2 + 1).min(8)).copied().collect();
    let word = word(&letters, level, rng);
    let letter = char::from(letters[rng.random_range(0..letters.len() as u32) as usize]);
    let number = word.matches(letter).count().to_string();
    Problem::new(format!("How often does the letter \"{letter}\" occur in \"{word}\"?"), &*number, &*number)
}

/// Draws a word of `level` letters to sort.
pub fn sort(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    sorting(&word(ALPHABET, level, rng))
}

fn sorting(word: &str) -> Problem {
    let mut letters: Vec<char> = word.chars().collect();
    letters.sort_unstable();
    let sorted: String = letters.into_iter().collect();
    let truth = json!({"text": sorted, "ignore_case": true}).to_string();
    Problem::new(format!("Write the letters of \"{word}\" in alphabetical order, without spaces."), truth, sorted)
}

fn word(letters: &[u8], length: usize, rng: &mut ChaCha8Rng) -> String {
    (0..length).map(|_| char::from(letters[rng.random_range(0..letters.len() as u32) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn letters_are_sorted() {
        assert_eq!(sorting("banana").solution, "aaabnn");
        assert_eq!(sorting("zebra").question, "Write the letters of \"zebra\" in alphabetical order, without spaces.");
    }

    #[test]
    fn letters_are_counted() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = std::collections::HashSet::new();
        for level in (3..=50).cycle().take(1_000) {
            let problem = count(level, &mut rng);
            let quoted: Vec<&str> = problem.question.split('"').skip(1).step_by(2).collect();
            let [letter, word] = quoted[..] else { panic!("{}", problem.question) };
            let number = word.chars().filter(|it| it.to_string() == letter).count();
            assert_eq!((problem.truth, word.len()), (number.to_string(), level));
            seen.insert(number);
        }
        assert!([0, 1, 2, 3].iter().all(|number| seen.contains(number)), "{seen:?}");
    }
}
