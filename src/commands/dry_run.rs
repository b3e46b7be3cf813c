//! `dump-rl train --dry-run`: resolves everything and prints what would run.
//!
//! Only the headers of weight files are read, so a model that does not fit this machine can be planned on it. Weights and a GPU
//! may be missing; then a line says so.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use engine::decoder::{DecoderConfig, Weights, has_weights};

use super::train::describe;
use crate::config;
use crate::config::engine::DeviceKind;
use crate::config::resolve::{EngineChoice, HAS_CUDA, check_engine};
use crate::config::run::RunConfig;
use crate::error::InputError;
use crate::memory::{Workload, budget, predict};
use crate::model::hub::Download;
use crate::model::{device, hub, presets};
use crate::pipeline::dataset::load::{Loaded, Planned};
use crate::pipeline::dataset::{self, Dataset};
use crate::pipeline::inputs::Inputs;
use crate::train::gemm;

/// Characters per token where there is no tokenizer. Tokenizers with large vocabularies have more characters per token in English
/// text, so the prediction stays an upper bound.
const CHARACTERS_A_TOKEN: usize = 3;

/// Prints the configuration, the data, the sizes of the model and the memory that a run will take.
///
/// # Errors
/// Whatever would make the run fail at its start.
pub fn run(config: RunConfig, out: &mut impl Write) -> Result<()> {
    write!(out, "{}", config::to_toml(&config)?)?;
    hub::check_named(&config.model)?;
    check_engine(&config.engine)?;
    dataset::check_curriculum(&config)?;
    let Some(folder) = hub::local(&config.model)? else {
        let id = config.model.to_string_lossy();
        let problem =
            "is not in the Hugging Face cache, and its sizes are not known; download it first, or give a folder";
        let model = presets::find(hub::without_revision(&id)).ok_or_else(|| InputError::new(&id, problem))?;
        return without_tokenizer(&config, &model, out);
    };
    let decoder = DecoderConfig::load(&folder)?;
    if !has_weights(&folder) && !folder.join("tokenizer.json").exists() {
        return without_tokenizer(&config, &decoder, out);
    }
    with_tokenizer(&config, &folder, out)?;
    match has_weights(&folder) {
        true => Ok(Weights::check(&folder, &decoder)?),
        false => Ok(()),
    }
}

fn with_tokenizer(config: &RunConfig, folder: &Path, out: &mut impl Write) -> Result<()> {
    let here = RunConfig { model: folder.to_path_buf(), ..config.clone() };
    let inputs = Inputs::plan(here)?;
    let (longest, evaluated) = (inputs.longest_prompt(), inputs.eval_prompt_tokens());
    let workload = Workload { eval_prompt_tokens: evaluated, ..workload(config, &inputs.decoder, longest)? };
    let sizes = sizes(inputs.train.sizes(), &inputs.planned);
    writeln!(out, "\n{}", describe(config, &inputs.decoder, &workload.resolved, &sizes, Path::new("(dry run)")))?;
    print_sources(&inputs.train, &inputs.test, out)?;
    print_planned(&inputs.planned, out)?;
    if let Some(left_out) = inputs.left_out.describe() {
        writeln!(out, "{left_out}")?;
    }
    print_prediction(&workload, out)
}

/// For a model of which only the sizes are known.
fn without_tokenizer(config: &RunConfig, model: &DecoderConfig, out: &mut impl Write) -> Result<()> {
    let Loaded { train, planned, .. } = Loaded::new(config, &dataset::loaded_scorers(config)?, Download::Never)?;
    let sizes = sizes(train.iter().map(|it| it.rows.size()).collect(), &planned);
    let characters = train.into_iter().map(|it| it.rows.longest_prompt());
    let longest = characters.max().unwrap_or(0).div_ceil(CHARACTERS_A_TOKEN);
    let workload = workload(config, model, longest)?;
    writeln!(out, "\n{}", describe(config, model, &workload.resolved, &sizes, Path::new("(dry run)")))?;
    writeln!(
        out,
        "prompts  the longest is taken to have {longest} tokens, {CHARACTERS_A_TOKEN} characters each: there is no tokenizer"
    )?;
    print_planned(&planned, out)?;
    print_prediction(&workload, out)
}

/// Rows of each distribution, with those that are still to be downloaded.
fn sizes(here: Vec<usize>, planned: &[Planned]) -> Vec<usize> {
    here.into_iter().chain(planned.iter().map(|it| it.rows)).collect()
}

fn print_planned(planned: &[Planned], out: &mut impl Write) -> io::Result<()> {
    for Planned { name, rows, .. } in planned {
        let rows = if *rows == 0 { "?".to_string() } else { format!("≤ {rows}") };
        writeln!(out, "{name:<20} {rows:>6} rows, still to be downloaded; a run does that")?;
    }
    if !planned.is_empty() {
        writeln!(out, "note     prompts that are still to be downloaded are not part of the predictions")?;
    }
    Ok(())
}

/// A card may be missing here.
fn workload<'a>(
    config: &'a RunConfig,
    model: &'a DecoderConfig,
    prompt_tokens: usize,
) -> Result<Workload<'a>, InputError> {
    let device = device::open(&config.engine).ok();
    Workload::new(config, model, device::machine(&config.engine, device.as_ref()), prompt_tokens)
}

fn print_sources(train: &Dataset, test: &Dataset, out: &mut impl Write) -> io::Result<()> {
    for train in &train.sources {
        let test = test.sources.iter().find(|it| it.name == train.name).map_or(0, |it| it.size());
        let tokens: usize = train.known().iter().map(|item| item.prompt.len()).sum();
        writeln!(
            out,
            "{:<20} {:>6} rows, {test:>4} for evaluation, prompts of {:.0} tokens on average",
            train.name,
            train.size(),
            tokens as f64 / train.known().len() as f64,
        )?;
    }
    Ok(())
}

fn print_prediction(workload: &Workload, out: &mut impl Write) -> Result<()> {
    match workload.resolved.device {
        DeviceKind::Cpu => {
            print_parts(workload, out)?;
            let (generate, train) = predict::seconds(workload, gemm::measured_rate());
            let generation = match workload.resolved.engine {
                EngineChoice::Remote => "generation on servers, whose speed is not known,".to_string(),
                EngineChoice::Native | EngineChoice::Mistralrs => format!("about {generate:.0} s of generation"),
            };
            writeln!(
                out,
                "time     {generation} and {train:.0} s of training per step, if every completion has the greatest length"
            )?;
        }
        DeviceKind::Cuda => {
            writeln!(out, "\n{}", budget::describe(workload))?;
            writeln!(out, "time     not predicted on a GPU: it was not measured there")?;
            if !HAS_CUDA {
                writeln!(out, "note     {}", device::NO_CUDA)?;
            }
        }
    }
    print_missing_weights(workload.config, out)?;
    workload.fit()?;
    Ok(())
}

fn print_parts(workload: &Workload, out: &mut impl Write) -> io::Result<()> {
    let (parts, gb) = (predict::run(workload), |bytes: usize| bytes as f64 * 1e-9);
    let all = gb(parts.iter().map(|p| p.bytes).sum());
    writeln!(out, "\nmemory   {all:.2} GB predicted at most, on {:?}", workload.resolved.device)?;
    parts.iter().try_for_each(|part| writeln!(out, "  {:>9.2} GB  {}", gb(part.bytes), part.what))
}

fn print_missing_weights(config: &RunConfig, out: &mut impl Write) -> Result<()> {
    let id = config.model.to_string_lossy();
    match hub::local(&config.model)? {
        Some(folder) if has_weights(&folder) => {}
        _ if config::is_hub_id(&id) && !config.model.is_dir() => {
            writeln!(out, "note     {id} is still to be downloaded; a run does that")?;
        }
        _ => writeln!(out, "note     the model's weights are missing in {id}; a run needs them")?,
    }
    Ok(())
}
