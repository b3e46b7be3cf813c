//! Every grader: its name, a ground truth and a completion.
#![no_main]

use dump_rl_fuzz::{grade, texts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [grader, truth, completion] = texts(input);
    grade(&grader, &truth, &completion);
});
