//! A file of rows in JSON Lines: schemas, and the ground truths that graders read.
#![no_main]

use dump_rl::task::rows;
use dump_rl_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    drop(rows::load(&folder([("rows.jsonl", input)]).join("rows.jsonl")));
});
