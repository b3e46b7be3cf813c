//! A GGUF file, imported into a folder.
#![no_main]

use std::fs;

use dump_rl::commands::import;
use dump_rl_fuzz::folder;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let folder = folder([("model.gguf", input)]);
    let out = folder.join("imported");
    drop(import::run(&folder.join("model.gguf"), &out));
    drop(fs::remove_dir_all(out));
});
