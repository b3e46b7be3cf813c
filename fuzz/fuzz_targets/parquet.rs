//! A parquet file of rows.
#![no_main]

use dump_rl::task::rows;
use dump_rl_fuzz::folder;
use libfuzzer_sys::fuzz_target;

// The parquet crate panics on some damaged files, which the reader takes for an error. What it does not catch is a finding.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |input: &[u8]| {
    let file = folder([("rows.parquet", input)]).join("rows.parquet");
    drop(rows::read(&file, |_| Ok(())));
    drop(rows::objects(&file, |_, _| Ok(())));
});
