//! The configuration of supervised training: of a small model from random weights (as the one in data/ is made), or of an existing
//! model.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

use super::Config;
use super::lora::LoraSettings;
use super::optim::{LrSchedule, OptimConfig};
use crate::error::KeyError;
use crate::task::kk::parse_people;

/// A model, its tokenizer, and what it is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SftConfig {
    /// Folder that receives the model, in Hugging Face layout.
    pub out: PathBuf,
    /// Folder of a model to start from, with its tokenizer. Empty: random weights and a new tokenizer.
    pub init: PathBuf,
    pub seed: u64,
    /// Optimiser updates of the whole run. The schedules (learning rate, puzzle sizes, styles) span all of them.
    pub max_steps: u64,
    /// Stop after this many updates. 0: make all.
    pub stop_after: u64,
    /// Tokens per batch.
    pub batch_tokens: usize,
    /// A micro-batch holds at most this many tokens.
    pub micro_batch_tokens: usize,
    /// Weight of a prompt token in the loss. Completion tokens have weight 1. With `data.files` the default is 0.
    pub prompt_loss_weight: f32,
    /// Steps between two saves of the model. It is also saved at the end.
    pub save_interval: u64,
    /// Steps between two lines of progress. There is also one at the end.
    pub log_interval: u64,
    /// With rank 0 all weights are trained. With a higher rank an adapter of the model in `init` is trained.
    pub lora: LoraSettings,
    pub data: SftData,
    pub model: SftModel,
    pub tokenizer: SftTokenizer,
    pub optim: OptimConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SftData {
    /// Conversations to learn from, as JSON Lines or parquet, instead of generated puzzles. They need a model in `init`.
    pub files: Vec<PathBuf>,
    /// Numbers of people in the puzzles, such as "3-14".
    pub people: String,
    /// The largest puzzles of a batch grow from the smallest size to all sizes over this share of the run.
    pub easy_first: f64,
    /// Until this share of the run every other text is an exercise in quoting statements.
    pub exercises_until: f64,
    /// Until this share of the run every completion reasons carefully.
    pub hasty_from: f64,
    /// After `hasty_from`: the share of careful completions at 3 and at 14 people. The others are hasty guesses.
    pub careful_at_3: f64,
    pub careful_at_14: f64,
    /// How often a hasty guess about one person is right, in percent.
    pub hasty_percent_right: u32,
    /// Seed of the puzzles to train on, and seed of the puzzles of a later run, which must never be trained on.
    pub seed: u64,
    pub held_out_seed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SftModel {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub rope_theta: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SftTokenizer {
    pub vocab_size: usize,
    /// Puzzles of each size that the tokenizer's merges are learned from.
    pub corpus_puzzles: usize,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            out: PathBuf::new(),
            init: PathBuf::new(),
            seed: 0,
            max_steps: 5000,
            stop_after: 0,
            batch_tokens: 8192,
            micro_batch_tokens: 4096,
            prompt_loss_weight: 0.3,
            save_interval: 500,
            log_interval: 50,
            lora: LoraSettings { rank: 0, ..LoraSettings::default() },
            data: SftData::default(),
            model: SftModel::default(),
            tokenizer: SftTokenizer::default(),
            optim: OptimConfig {
                lr: 2e-3,
                beta2: 0.98,
                weight_decay: 0.01,
                warmup_steps: 200,
                lr_schedule: LrSchedule::WarmupStableDecay,
                min_lr_ratio: 0.02,
                ..OptimConfig::default()
            },
        }
    }
}

impl Default for SftData {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            people: "3-14".into(),
            easy_first: 0.4,
            exercises_until: 0.1,
            hasty_from: 0.8,
            careful_at_3: 0.5,
            careful_at_14: 0.15,
            hasty_percent_right: 60,
            seed: 7,
            held_out_seed: 42,
        }
    }
}

impl Default for SftModel {
    fn default() -> Self {
        Self {
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 6,
            num_attention_heads: 4,
            max_position_embeddings: 1024,
            rope_theta: 10_000.0,
        }
    }
}

impl Default for SftTokenizer {
    fn default() -> Self {
        Self { vocab_size: 1536, corpus_puzzles: 300 }
    }
}

impl Config for SftConfig {
    const PATHS: &'static [&'static str] = &["out", "init", "data.files"];
    const MODELS: &'static [&'static str] = &["init"];
    const BY_NAME: &'static [&'static str] = &[];

    /// With conversations from files only the assistant's text counts in the loss.
    fn defaults(given: &Table) -> Self {
        let has_files = given.get("data").and_then(|data| data.get("files")).is_some();
        let config = Self::default();
        if has_files { Self { prompt_loss_weight: 0.0, ..config } } else { config }
    }

    fn check(&self) -> Result<(), KeyError> {
        let fail = |key: &str, problem: &str| Err(KeyError::new(key, problem));
        parse_people(&self.data.people).map_err(|problem| KeyError::new("data.people", problem))?;
        let model = &self.model;
        if self.out.as_os_str().is_empty() {
            return fail("out", "a folder for the model is needed");
        }
        if self.init.as_os_str().is_empty() && (!self.data.files.is_empty() || self.lora.rank > 0) {
            return fail("init", "data.files and lora.rank need a model to start from");
        }
        self.lora.check().map_err(|e| e.under("lora"))?;
        self.optim.check().map_err(|e| e.under("optim"))?;
        if !(0.0..=1.0).contains(&self.prompt_loss_weight) {
            return fail("prompt_loss_weight", "must be from 0 to 1");
        }
        if self.log_interval == 0 {
            return fail("log_interval", "must be at least 1");
        }
        if self.batch_tokens == 0 || self.micro_batch_tokens == 0 {
            return fail("batch_tokens", "must be at least 1, like micro_batch_tokens");
        }
        if model.num_attention_heads == 0 || !model.hidden_size.is_multiple_of(2 * model.num_attention_heads) {
            return fail("model.hidden_size", "must be divisible by 2 · model.num_attention_heads");
        }
        if !(0.0..=1.0).contains(&self.data.careful_at_3) || !(0.0..=1.0).contains(&self.data.careful_at_14) {
            return fail("data.careful_at_3", "must be from 0 to 1, like careful_at_14");
        }
        if self.data.hasty_percent_right > 100 {
            return fail("data.hasty_percent_right", "must be from 0 to 100");
        }
        if self.tokenizer.vocab_size < 300 {
            return fail("tokenizer.vocab_size", "must be at least 300: 256 bytes and the special tokens come first");
        }
        Ok(())
    }
}
