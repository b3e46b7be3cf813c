//! Completions of megabytes: what a grader takes for one grows with its length, not with the square of it.

use super::*;

const SMALL: usize = 1 << 20;
const LARGE: usize = 8 * SMALL;
/// Linear graders need 8 times as long for the large text, and up to twice that where memory is given anew; quadratic ones 64 times.
const MOST: f64 = 24.0;
/// Shorter times say nothing.
const MEASURABLE: Duration = Duration::from_millis(40);
const SHELLS: [&str; 4] = ["{}", "<think></think><answer>{}</answer>", r"\boxed{{}}", "the answer is {}"];
/// Pieces that lead each grader far into the text.
const TYPICAL: [&str; 7] =
    ["the answer is ", "<answer>42</answer>", "1,", "((", "{\"a\":", "Zoey is a knight. ", "**B** "];

/// How many times as long `grader` takes for the large text.
fn ratio(grader: &Grader, texts: &[String; 2]) -> f64 {
    let [small, large] = [&texts[0], &texts[1]].map(|text| {
        let start = Instant::now();
        grader.grade(text);
        start.elapsed()
    });
    if large < MEASURABLE { 0.0 } else { large.as_secs_f64() / small.as_secs_f64() }
}

fn check(pieces: &[&str], shells: &[&str]) {
    let graders = every_grader();
    for (piece, shell) in pieces.iter().flat_map(|piece| shells.iter().map(move |shell| (piece, shell))) {
        let texts = [SMALL, LARGE].map(|size| shell.replacen("{}", &piece.repeat(size / piece.len()), 1));
        for grader in &graders {
            // Another program may have slowed down one measurement.
            let is_linear = (0..5).any(|_| ratio(grader, &texts) < MOST);
            assert!(is_linear, "{} is not linear for {piece:?} in {shell:?}", grader.name());
        }
    }
}

#[test]
fn graders_are_linear_in_megabytes() {
    check(&TYPICAL, &SHELLS[..2]);
}

/// All pieces, which takes minutes.
#[test]
#[ignore = "takes minutes: cargo test --release --lib graders_are_linear -- --ignored"]
fn graders_are_linear_in_megabytes_of_anything() {
    check(&PIECES, &SHELLS);
}
