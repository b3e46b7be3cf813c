//! A configuration file, and one `--set`. A configuration that is accepted must load again from its own text.
#![no_main]

use dump_rl::config::run::RunConfig;
use dump_rl::config::sft::SftConfig;
use dump_rl::config::{self, Config};
use dump_rl_fuzz::{folder, parts, texts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [_, set] = texts(input);
    let [file, _] = parts(input);
    let sets = if set.is_empty() { Vec::new() } else { vec![set] };
    check::<RunConfig>(file, &sets);
    check::<SftConfig>(file, &sets);
});

fn check<C: Config>(file: &[u8], sets: &[String]) {
    let load = |text: &[u8], sets| config::load::<C>(&folder([("config.toml", text)]).join("config.toml"), sets);
    let Ok(loaded) = load(file, sets) else { return };
    let text = config::to_toml(&loaded).expect("an accepted configuration has a text");
    let again = load(text.as_bytes(), &[]).expect("an accepted configuration loads again");
    assert_eq!(config::to_toml(&again).expect("a text"), text);
}
