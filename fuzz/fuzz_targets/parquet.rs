//! A parquet file of rows.
#![no_main]

use dump_rl::task::rows;
use dump_rl_fuzz::{folder, pass_quiet_panics};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: pass_quiet_panics(), |input: &[u8]| {
    let file = folder([("rows.parquet", input)]).join("rows.parquet");
    drop(rows::read(&file, |_| Ok(())));
    drop(rows::objects(&file, |_, _| Ok(())));
});
