//! `config.json`, `generation_config.json` and `model.safetensors` of a model folder.
#![no_main]

use dump_rl_fuzz::{folder, parts};
use engine::decoder::{DecoderConfig, Weights};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [config, generation, tensors] = parts(input);
    let generation = if generation.is_empty() { b"{}" } else { generation };
    let files = [("config.json", config), ("generation_config.json", generation), ("model.safetensors", tensors)];
    let folder = folder(files);
    drop(engine::decoder::number_formats(folder));
    if let Ok(config) = DecoderConfig::load(folder) {
        drop(Weights::check(folder, &config));
    }
});
