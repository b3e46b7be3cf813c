//! `dump-rl train --dry-run`: resolves everything, says what would run, runs nothing.

use std::path::Path;

use anyhow::Result;
use engine::decoder::DecoderConfig;

use crate::config::{
    self,
    run::{DeviceKind, RunConfig},
};
use crate::error::InputError;
use crate::setup::Setup;
use crate::train::gemm;
use crate::{dataset, hub, predict, presets};

/// Tokens that a prompt is taken to have where there is no tokenizer to ask.
const PROMPT_TOKENS: usize = 1024;

/// Prints the configuration, the data, the sizes of the model and the memory that a run will take.
///
/// # Errors
/// What would be wrong with the run.
pub fn run(config: RunConfig) -> Result<()> {
    print!("{}", config::to_toml(&config)?);
    let id = config.model.to_string_lossy().into_owned();
    if config::is_hub_id(&id) && !config.model.is_dir() && hub::cached(&id).is_none() {
        return dry_run_without_model(&config, &id);
    }
    let setup = Setup::load(config)?;
    setup.trainer()?;
    println!("\n{}", super::train::describe(&setup, Path::new("(dry run)")));
    for (train, test) in
        setup.train.sources.iter().zip(setup.test.sources.iter().map(|s| s.items.len()).chain(std::iter::repeat(0)))
    {
        let tokens: usize = train.items.iter().map(|item| item.prompt.len()).sum();
        let mean = tokens as f64 / train.items.len() as f64;
        println!(
            "{:<20} {:>6} rows, {test:>4} for evaluation, prompts of {mean:.0} tokens on average",
            train.name,
            train.items.len()
        );
    }
    let items = setup.train.sources.iter().flat_map(|source| &source.items);
    let longest = items.map(|item| item.prompt.len()).max().unwrap_or(0);
    print_memory(&setup.config, &setup.decoder, longest);
    Ok(())
}

/// A model that is still to be downloaded: what is known of it by its name.
fn dry_run_without_model(config: &RunConfig, id: &str) -> Result<()> {
    let Some(model) = presets::find(id) else {
        let problem =
            "is not in the Hugging Face cache, and its sizes are not known; download it first, or give a folder";
        return Err(InputError::new(id, problem).into());
    };
    let rows: usize = dataset::load_rows(config)?.0.len();
    println!(
        "\nmodel    {id}: {:.0} M parameters, still to be downloaded; a run does that\ndata     {rows} rows",
        model.parameters() as f64 / 1e6
    );
    print_memory(config, &model, PROMPT_TOKENS);
    Ok(())
}

fn print_memory(config: &RunConfig, model: &DecoderConfig, prompt_tokens: usize) {
    let (parts, gb) = (predict::run(config, model, prompt_tokens), |bytes: usize| bytes as f64 * 1e-9);
    println!(
        "\nmemory   {:.2} GB predicted at most, on {:?}",
        gb(parts.iter().map(|p| p.bytes).sum()),
        config.engine.device
    );
    parts.iter().for_each(|part| println!("  {:>9.2} GB  {}", gb(part.bytes), part.what));
    if config.engine.device == DeviceKind::Cpu {
        let (generate, train) = predict::seconds(config, model, prompt_tokens, gemm::measured_rate());
        println!(
            "time     about {generate:.0} s of generation and {train:.0} s of training a step, if every completion is as long as it may be"
        );
    }
}
