//! `dump-rl sft`: supervised training on worked puzzles, or on conversations from files.
//!
//! Without `init` it makes a small base model from a new tokenizer and random weights. With `init` it trains all weights of that
//! model, or an adapter.

mod conversation;
mod conversations;
mod demonstrations;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use engine::LoraConfig;
use engine::decoder::{DecoderConfig, SlidingWindows};
use tokio::sync::watch;

use crate::config::sft::SftConfig;
use crate::error::InputError;
use crate::model::folder::copy_beside;
use crate::model::hub;
use crate::model::tokenizer::ChatTokenizer;
use crate::signals::Stop;
use crate::task::kk::parse_people;
use crate::terminal;
use crate::train::lora::ADAPTER;
use crate::train::sft::{Example, SftStats, SftTrainer};
use crate::train::{MAX_SKIPPED, bpe};
use conversations::Conversations;
use demonstrations::Demonstrations;

/// An endless source of examples.
trait Examples {
    /// About `batch_tokens` tokens of examples, none longer than the model's context. `along`: the share of the run that is done.
    fn batch(&mut self, along: f64) -> Result<Vec<Example>>;
}

/// A folder with any of these holds a model or an adapter.
const MODEL_FILES: [&str; 4] = ["config.json", "model.safetensors", "model.safetensors.index.json", ADAPTER];

/// # Errors
/// If `out` holds a model already, such as the one in `init`.
fn check_free(config: &SftConfig) -> Result<(), InputError> {
    let dir = &config.out;
    let is_init = dir.canonicalize().is_ok_and(|dir| config.init.canonicalize().is_ok_and(|init| init == dir));
    if is_init {
        let problem = "is the folder of init, whose files would be overwritten; choose another with --out DIR";
        return Err(InputError::new(dir.display(), problem));
    }
    match MODEL_FILES.iter().find(|name| dir.join(name).exists()) {
        Some(there) => {
            let problem = format!("{there} is already here; remove it, or choose another folder with --out DIR");
            Err(InputError::new(dir.display(), problem))
        }
        None => Ok(()),
    }
}

/// Trains and saves the model, at the latest step once it is asked to stop. Never overwrites one.
pub fn run(config: &SftConfig, stop: Stop) -> Result<()> {
    let dir = &config.out;
    check_free(config)?;
    let people = parse_people(&config.data.people).map_err(|e| InputError::new("data.people", e))?;
    let mut demonstrations = Demonstrations::new(config, people);
    std::fs::create_dir_all(dir).map_err(|e| InputError::new(dir.display(), e))?;
    let mut trainer = match config.init.as_os_str().is_empty() {
        true => from_nothing(config, &mut demonstrations)?,
        false => from_model(config)?,
    };
    let tokenizer = ChatTokenizer::load(dir, trainer.config())?;
    terminal::say(format_args!(
        "model of {} parameters, vocabulary of {} tokens, {} numbers to train",
        trainer.config().parameters(),
        trainer.config().vocab_size,
        trainer.trained(),
    ));
    let context = trainer.config().max_position_embeddings;
    let mut examples: Box<dyn Examples> = match config.data.files.is_empty() {
        true => Box::new(demonstrations.with_tokenizer(tokenizer, context)),
        false => Box::new(Conversations::load(config, &tokenizer, context)?),
    };
    let stop = stop.heed();
    trainer.give_up_when(stop.clone());
    let steps = train(config, &mut trainer, &mut *examples, &stop)?;
    let is_stopped = *stop.borrow();
    if is_stopped && steps == 0 {
        terminal::say("stopped before a step was made");
        return Ok(());
    }
    trainer.save(dir).with_context(|| format!("saving to {}", dir.display()))?;
    if is_stopped {
        terminal::say(format_args!("stopped; the model of step {steps} is in {}", dir.display()));
    }
    Ok(())
}

/// A new tokenizer and random weights.
fn from_nothing(config: &SftConfig, demonstrations: &mut Demonstrations) -> Result<SftTrainer> {
    let corpus = demonstrations.corpus();
    bpe::train(&corpus, config.tokenizer.vocab_size, &config.out).map_err(anyhow::Error::from_boxed)?;
    SftTrainer::init(decoder_config(config)?, config.optim.clone(), config.seed)
}

/// The model and the tokenizer in `init`. All weights are trained, or an adapter.
fn from_model(config: &SftConfig) -> Result<SftTrainer> {
    let init = hub::folder(&config.init)?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        if !init.join(name).is_file() {
            return Err(InputError::new(init.join(name).display(), "is missing").into());
        }
    }
    copy_beside(&init, &config.out)?;
    if config.lora.rank == 0 {
        return SftTrainer::load(&init, config.optim.clone());
    }
    // As it was configured: a name on the hub is valid on other machines, the folder of its cache is not.
    let base = hub::without_revision(&config.init.to_string_lossy()).to_string();
    let lora = LoraConfig::new(config.lora.rank, config.lora.alpha, config.lora.target_modules.clone(), base);
    SftTrainer::with_lora(&init, Arc::new(lora), config.optim.clone(), config.seed)
}

/// The number of steps that were made: all, or those before `stop` turned true. A step that runs then is given up.
fn train(
    config: &SftConfig,
    trainer: &mut SftTrainer,
    examples: &mut dyn Examples,
    stop: &watch::Receiver<bool>,
) -> Result<u64> {
    let (mut progress, mut skipped_in_a_row) = (Progress::new(), 0);
    for step in 0..config.max_steps {
        let batch = examples.batch(step as f64 / config.max_steps as f64)?;
        let stats = match trainer.step(&batch, config.micro_batch_tokens, step, config.max_steps) {
            Err(_) if *stop.borrow() => return Ok(step),
            stats => stats?,
        };
        skipped_in_a_row = if stats.grad_norm.is_finite() { 0 } else { skipped_in_a_row + 1 };
        if skipped_in_a_row > 0 {
            tracing::warn!(step = step + 1, "the gradient was not finite; the update was left out");
        }
        ensure!(
            skipped_in_a_row < MAX_SKIPPED,
            "{MAX_SKIPPED} steps in a row up to step {} had a gradient that is not finite; lower optim.lr or \
             optim.max_grad_norm, or look for numbers in init that are not finite",
            step + 1
        );
        progress.add(stats);
        let is_last = step + 1 == config.max_steps || step + 1 == config.stop_after;
        if (step + 1) % config.log_interval == 0 || is_last {
            progress.print(step + 1, config.max_steps);
        }
        if (step + 1) % config.save_interval.max(1) == 0 {
            trainer.save(&config.out)?;
        }
        if is_last || *stop.borrow() {
            return Ok(step + 1);
        }
    }
    Ok(config.max_steps)
}

/// The model's shape: the configured sizes, and the smallest vocabulary that holds the tokenizer.
fn decoder_config(config: &SftConfig) -> Result<DecoderConfig> {
    let path = config.out.join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(&path).map_err(anyhow::Error::from_boxed)?;
    let model = &config.model;
    Ok(DecoderConfig {
        architectures: vec!["LlamaForCausalLM".into()],
        model_type: "llama".into(),
        vocab_size: tokenizer.get_vocab_size(true),
        hidden_size: model.hidden_size,
        intermediate_size: model.intermediate_size,
        num_hidden_layers: model.num_hidden_layers,
        num_attention_heads: model.num_attention_heads,
        num_key_value_heads: model.num_attention_heads,
        head_dim: model.hidden_size / model.num_attention_heads,
        max_position_embeddings: model.max_position_embeddings,
        rms_norm_eps: 1e-5,
        rope_theta: model.rope_theta,
        tie_word_embeddings: true,
        hidden_act: "silu".into(),
        rope_scaling: serde_json::Value::Null,
        attention_bias: false,
        mlp_bias: false,
        windows: SlidingWindows::default(),
        bos_token_id: serde_json::Value::Null,
        eos_token_id: tokenizer.token_to_id(bpe::END_OF_TURN).into(),
    })
}

/// Means since the last line.
struct Progress {
    since: Instant,
    stats: Vec<SftStats>,
}

impl Progress {
    fn new() -> Self {
        Self { since: Instant::now(), stats: Vec::new() }
    }

    fn add(&mut self, stats: SftStats) {
        self.stats.push(stats);
    }

    fn print(&mut self, step: u64, max_steps: u64) {
        let mean = |f: fn(&SftStats) -> f64| self.stats.iter().map(f).sum::<f64>() / self.stats.len() as f64;
        let tokens: usize = self.stats.iter().map(|s| s.tokens).sum();
        terminal::say(format_args!(
            "step {step}/{max_steps}  completion loss {:.4}  loss {:.4}  grad norm {:.2}  {:.0} tokens/s",
            mean(|s| s.completion_loss),
            mean(|s| s.loss),
            mean(|s| s.grad_norm),
            tokens as f64 / self.since.elapsed().as_secs_f64(),
        ));
        *self = Self::new();
    }
}
