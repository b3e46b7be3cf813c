//! The configuration of a training run.

use std::path::PathBuf;

use engine::decoder::{DecoderConfig, Module};
use engine::native::Native;
use engine::{CacheFormat, Precision, Quantization};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::Config;
use crate::advantage::AdvantageScale;
use crate::curriculum::CurriculumConfig;
use crate::curriculum_bench::simulate::SimulateConfig;
use crate::error::KeyError;
use crate::task::kk::parse_people;
use crate::train::loss::{LossConfig, LossKind, RolloutIs};
use crate::train::optim::OptimConfig;
use crate::train::trainer::TrainerConfig;

/// Everything a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// Folder of the base model in Hugging Face layout, or its name on the hub (`owner/name`).
    pub model: PathBuf,
    /// Everything random follows from it.
    pub seed: u64,
    /// Policy steps.
    pub max_steps: u64,
    /// B: groups (prompts) a step.
    pub batch_size: usize,
    /// G: completions a prompt.
    pub group_size: usize,
    pub data: DataConfig,
    pub engine: EngineConfig,
    pub curriculum: CurriculumConfig,
    pub advantage: AdvantageConfig,
    pub filter: FilterConfig,
    pub pipeline: PipelineConfig,
    pub eval: EvalConfig,
    pub ckpt: CkptConfig,
    pub lora: LoraSettings,
    pub optim: OptimConfig,
    pub loss: LossConfig,
    pub trainer: TrainerConfig,
    pub reward: RewardConfig,
    pub bench: BenchConfig,
    pub simulate: SimulateConfig,
}

/// Where the rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// Generated Knights-and-Knaves puzzles.
    Kk,
    /// JSON Lines files.
    Files,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    pub kind: DataKind,
    /// For `kk`: numbers of people, one distribution each.
    pub people: String,
    /// For `kk`: training and test puzzles of each size.
    pub train: usize,
    pub test: usize,
    /// For `kk`: seed of the generator, apart from the run's.
    pub seed: u64,
    /// For `files`.
    pub train_files: Vec<PathBuf>,
    pub test_files: Vec<PathBuf>,
}

/// Which engine samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// `native` on a CPU if it can run the model, and where mistral.rs is not built in; else `mistralrs`.
    Auto,
    /// Our own: continuous batching, with the trainer's weights.
    Native,
    Mistralrs,
}

/// Whether the engine is held against the trainer before the first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineCheck {
    /// Where nobody has seen an engine pass it: on a GPU.
    Auto,
    Always,
    Never,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

/// How the trainer and the engine share a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// The first of the others whose budget fits.
    Auto,
    /// A publish builds the new model while the old one answers.
    SideBySide,
    /// A publish lets the old model answer what runs, frees it, and builds the new one.
    Reload,
    /// The engine is unloaded while the trainer computes, and the trainer's base weights are in main memory while it
    /// does not. The native engine gives back its cache only.
    Alternate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineConfig {
    pub kind: EngineKind,
    pub device: DeviceKind,
    /// How a policy gets into the engine, and what is in memory at a time.
    pub sync: SyncMode,
    /// Which CUDA device, from 0.
    pub device_index: usize,
    /// On a GPU: its memory in MiB, to count with; 0: ask the card.
    pub device_memory_mb: usize,
    /// The engine's number format (on a GPU also the trainer's). On a CPU `bf16` takes AVX-512 BF16.
    pub dtype: Precision,
    /// Whether a few completions are sampled together and scored by the trainer before the first step; where the two
    /// disagree the run ends.
    pub check: EngineCheck,
    /// Sampling temperature; the trainer's log-probabilities use the same.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are drawn; 0: all. This and the next two cut the distribution that is
    /// sampled but not the one that is trained: leave them off in training unless you want that bias.
    pub top_k: usize,
    /// Only the fewest likeliest tokens whose probabilities reach this sum are drawn; 1: all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest are drawn; 0: all.
    pub min_p: f32,
    /// Strings that end a completion, beside the model's own stop tokens. They stay in the completion.
    pub stop: Vec<String>,
    /// Longest completion, in tokens.
    pub max_new_tokens: usize,
    /// Most sequences in one batch of the engine (on a CPU mistral.rs runs one at a time).
    pub max_sequences: usize,
    /// Copies of the model that mistral.rs runs side by side on a CPU; 0: one a core for a small model, else one.
    pub replicas: usize,
    /// Memory that the paged KV cache may take, in MiB. On a CPU it is taken as it is needed, and more of it where the
    /// longest request does not fit; on a GPU all of it when a model is loaded.
    pub cache_mb: usize,
    /// On a GPU instead of `cache_mb`: the part of the card's memory that weights, cache and activations of the engine
    /// take together, as in vLLM; 0: `cache_mb` says. The trainer needs the rest.
    pub gpu_memory_utilization: f32,
    /// On a GPU: tokens in a block of mistral.rs's cache: 8, 16 or 32. The native engine's have 16.
    pub block_size: usize,
    /// On a GPU: the number format of mistral.rs's cache.
    pub cache_dtype: CacheFormat,
    /// How mistral.rs packs its matrices. The trainer's stay whole: `loss.rollout_is` corrects for the difference.
    pub quantization: Quantization,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdvantageConfig {
    pub scale: AdvantageScale,
}

/// Groups that nothing can be learnt from (DAPO's dynamic sampling, arXiv 2503.14476).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterConfig {
    /// Groups whose completions all have the same reward are left out, and others are drawn in their place. The curriculum
    /// observes them all the same.
    pub zero_variance: bool,
    /// After so many batches' worth of groups were left out within one step, any group is taken: a model that solves all
    /// or nothing could never fill a batch.
    pub max_refills: u64,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self { zero_variance: false, max_refills: 10 }
    }
}

/// What is taken off a completion's grade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RewardConfig {
    /// Completions lose reward from this many tokens before `engine.max_new_tokens` (or the context's end) on; 0: never.
    pub overlong_buffer: usize,
    /// What a completion of the longest length loses.
    pub overlong_penalty: f32,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self { overlong_buffer: 0, overlong_penalty: 1.0 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineConfig {
    /// η: how many steps old the policy that made a group may be when the group is trained on; 0 is synchronous.
    pub max_off_policy_steps: u64,
    /// Requests in flight; 0 takes what the engine advises.
    pub rollout_workers: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvalConfig {
    /// Evaluate at step 0, every so many steps, and at the end; 0: never.
    pub interval: u64,
    /// Test prompts of each distribution.
    pub prompts: usize,
    /// Completions of each prompt (k of avg@k and pass@k).
    pub samples: usize,
    /// 0 is greedy.
    pub temperature: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CkptConfig {
    /// Save every so many steps; 0: only at the end.
    pub interval: u64,
    /// How many checkpoints stay.
    pub keep_last: usize,
}

/// What the benches measure: every combination of the lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BenchConfig {
    /// Engines to compare; empty: every one that is built in for the device.
    pub engines: Vec<EngineKind>,
    pub prompts: Vec<usize>,
    pub group_sizes: Vec<usize>,
    pub prompt_tokens: Vec<usize>,
    pub new_tokens: Vec<usize>,
    pub lengths: Lengths,
    /// For `bench train`, instead of `prompt_tokens` and `new_tokens`: tokens of a sequence, of which the prompt takes the
    /// first of `prompt_tokens`, at most half.
    pub train_tokens: Vec<usize>,
    /// What the device can do at most, in 10^12 floating-point operations a second; 0: what is known of the card.
    pub peak_tflops: f64,
    /// Timed runs of each combination; the median is reported.
    pub repeats: usize,
}

/// How long the completions of a benchmark are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// All have `new_tokens`.
    Fixed,
    /// Drawn evenly from 1 to `new_tokens`, one length a prompt.
    Drawn,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraSettings {
    pub rank: usize,
    pub alpha: f64,
    pub target_modules: Vec<String>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            seed: 0,
            max_steps: 100,
            batch_size: 16,
            group_size: 8,
            data: DataConfig::default(),
            engine: EngineConfig::default(),
            curriculum: CurriculumConfig::default(),
            advantage: AdvantageConfig::default(),
            filter: FilterConfig::default(),
            pipeline: PipelineConfig::default(),
            eval: EvalConfig::default(),
            ckpt: CkptConfig::default(),
            lora: LoraSettings::default(),
            optim: OptimConfig::default(),
            loss: LossConfig::default(),
            trainer: TrainerConfig::default(),
            reward: RewardConfig::default(),
            bench: BenchConfig::default(),
            simulate: SimulateConfig::default(),
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        let (train_files, test_files) = (Vec::new(), Vec::new());
        Self { kind: DataKind::Kk, people: "3-14".into(), train: 900, test: 100, seed: 42, train_files, test_files }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kind: EngineKind::Auto,
            device: DeviceKind::Cpu,
            sync: SyncMode::Auto,
            device_index: 0,
            device_memory_mb: 0,
            dtype: Precision::F32,
            check: EngineCheck::Auto,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            stop: Vec::new(),
            max_new_tokens: 512,
            max_sequences: 64,
            replicas: 0,
            cache_mb: 4096,
            gpu_memory_utilization: 0.0,
            block_size: 32,
            cache_dtype: CacheFormat::Auto,
            quantization: Quantization::None,
        }
    }
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self { scale: AdvantageScale::GroupStd }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { interval: 10, prompts: 20, samples: 1, temperature: 1.0 }
    }
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            engines: Vec::new(),
            prompts: vec![8],
            group_sizes: vec![8],
            prompt_tokens: vec![100],
            new_tokens: vec![128],
            lengths: Lengths::Fixed,
            train_tokens: Vec::new(),
            peak_tflops: 0.0,
            repeats: 3,
        }
    }
}

impl Default for CkptConfig {
    fn default() -> Self {
        Self { interval: 25, keep_last: 2 }
    }
}

impl Default for LoraSettings {
    fn default() -> Self {
        let target_modules = engine::adapter::LINEAR_LAYERS.map(String::from).to_vec();
        Self { rank: 16, alpha: 32.0, target_modules }
    }
}

impl Config for RunConfig {
    const PATHS: &'static [&'static str] = &["model", "data.train_files", "data.test_files"];
    const MODELS: &'static [&'static str] = &["model"];
    const BY_NAME: &'static [&'static str] = &["curriculum.fixed_mix.weights"];

    /// GRPO's, or those of the loss that is named.
    fn defaults(given: &Table) -> Self {
        let mut config = Self::default();
        let kind = given.get("loss").and_then(|loss| loss.get("kind")).cloned();
        if let Some(Ok(kind)) = kind.map(LossKind::deserialize) {
            kind.apply(&mut config.loss, &mut config.advantage.scale);
        }
        config
    }

    fn check(&self) -> Result<(), KeyError> {
        self.check_counts()?;
        self.check_numbers()?;
        self.curriculum.validate().map_err(|error| error.under("curriculum"))?;
        match self.data.kind {
            DataKind::Kk => {
                parse_people(&self.data.people).map_err(|problem| KeyError::new("data.people", problem))?;
            }
            DataKind::Files if self.data.train_files.is_empty() => {
                return Err(KeyError::new("data.train_files", "data.kind = \"files\" needs at least one file"));
            }
            DataKind::Files => {}
        }
        if self.engine.sync == SyncMode::Alternate && self.pipeline.max_off_policy_steps > 0 {
            let problem = "\"alternate\" generates and trains in turn, so that nothing can overlap: set \
                           pipeline.max_off_policy_steps = 0, or take \"reload\"";
            return Err(KeyError::new("engine.sync", problem));
        }
        if ![8, 16, 32].contains(&self.engine.block_size) {
            let problem = format!("must be 8, 16 or 32, got {}", self.engine.block_size);
            return Err(KeyError::new("engine.block_size", problem));
        }
        if self.engine.stop.iter().any(String::is_empty) {
            return Err(KeyError::new("engine.stop", "an empty string would end every completion at once"));
        }
        check_lora(&self.lora)
    }
}

/// Refuses an adapter that changes nothing, or names that are no linear layer of a block.
pub fn check_lora(lora: &LoraSettings) -> Result<(), KeyError> {
    check_ranges(&[("lora.alpha", lora.alpha, f64::MIN_POSITIVE, 1e6)])?;
    if lora.target_modules.is_empty() {
        return Err(KeyError::new("lora.target_modules", "must name at least one linear layer"));
    }
    match lora.target_modules.iter().find(|name| Module::from_name(name).is_none()) {
        Some(name) => {
            let known = Module::ALL.map(Module::name).join(", ");
            Err(KeyError::new("lora.target_modules", format!("{name:?} is no linear layer; known: {known}")))
        }
        None => Ok(()),
    }
}

impl EngineConfig {
    /// The engine that samples: what `kind` says, or what `auto` comes to for this model on this device. On a CPU
    /// `native` was faster on every model that was measured (docs/benchmarks.md), so `auto` takes it where it can. On a GPU
    /// neither was measured yet, and it takes mistral.rs where that is built in.
    pub fn resolved_kind(&self, model: &DecoderConfig) -> EngineKind {
        let is_native = self.quantization == Quantization::None && Native::supports(model);
        match (self.kind, self.device) {
            (EngineKind::Auto, DeviceKind::Cpu) if is_native => EngineKind::Native,
            (EngineKind::Auto, DeviceKind::Cpu) => EngineKind::Mistralrs,
            (_, DeviceKind::Cuda) => self.kind_on_gpu(),
            (kind, DeviceKind::Cpu) => kind,
        }
    }

    /// The same on a GPU, where it does not depend on the model.
    pub fn kind_on_gpu(&self) -> EngineKind {
        match self.kind {
            EngineKind::Auto if cfg!(feature = "mistralrs") => EngineKind::Mistralrs,
            EngineKind::Auto => EngineKind::Native,
            kind => kind,
        }
    }

    /// Whether `check` asks for a check of the engine.
    pub fn is_checked(&self) -> bool {
        let is_unseen = self.device == DeviceKind::Cuda;
        self.check == EngineCheck::Always || self.check == EngineCheck::Auto && is_unseen
    }
}

impl RunConfig {
    /// Optimiser updates in each policy step.
    pub fn updates_per_step(&self) -> u64 {
        let mini_batches = match self.trainer.ppo_mini_batch_size {
            0 => 1,
            size => self.batch_size.div_ceil(size),
        };
        (self.trainer.ppo_epochs * mini_batches) as u64
    }

    fn check_counts(&self) -> Result<(), KeyError> {
        let at_least_one = [
            ("batch_size", self.batch_size),
            ("data.train", self.data.train),
            ("engine.max_new_tokens", self.engine.max_new_tokens),
            ("engine.max_sequences", self.engine.max_sequences),
            ("eval.prompts", self.eval.prompts),
            ("eval.samples", self.eval.samples),
            ("ckpt.keep_last", self.ckpt.keep_last),
            ("lora.rank", self.lora.rank),
            ("trainer.ppo_epochs", self.trainer.ppo_epochs),
            ("trainer.micro_batch_tokens", self.trainer.micro_batch_tokens),
            ("bench.repeats", self.bench.repeats),
        ];
        let bench = &self.bench;
        let lists = [
            ("bench.prompts", &bench.prompts),
            ("bench.group_sizes", &bench.group_sizes),
            ("bench.prompt_tokens", &bench.prompt_tokens),
            ("bench.new_tokens", &bench.new_tokens),
        ];
        if let Some((key, _)) = lists.iter().find(|(_, list)| list.is_empty() || list.contains(&0)) {
            return Err(KeyError::new(*key, "must list numbers of at least 1"));
        }
        if let Some(tokens) = bench.train_tokens.iter().find(|tokens| **tokens < 2) {
            let problem = format!("must list numbers of at least 2, a prompt and a completion, got {tokens}");
            return Err(KeyError::new("bench.train_tokens", problem));
        }
        if self.group_size < 2 {
            let problem =
                format!("must be at least 2, got {}: a group of one has no advantage to learn from", self.group_size);
            return Err(KeyError::new("group_size", problem));
        }
        let (buffer, longest) = (self.reward.overlong_buffer, self.engine.max_new_tokens);
        if buffer > longest {
            let problem = format!("must be at most engine.max_new_tokens, which is {longest}, got {buffer}");
            return Err(KeyError::new("reward.overlong_buffer", problem));
        }
        // More is a slip of the pen, and would only be found out when memory ends.
        let at_most = [
            ("max_steps", self.max_steps, 1_000_000_000),
            ("batch_size", self.batch_size as u64, 1_000_000),
            ("group_size", self.group_size as u64, 100_000),
            ("pipeline.max_off_policy_steps", self.pipeline.max_off_policy_steps, 1_000_000),
        ];
        if let Some((key, value, most)) = at_most.iter().find(|(_, value, most)| value > most) {
            return Err(KeyError::new(*key, format!("must be at most {most}, got {value}")));
        }
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(KeyError::new(*key, "must be at least 1")),
            None => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), KeyError> {
        let loss = &self.loss;
        check_optim(&self.optim)?;
        if loss.rollout_is == RolloutIs::Mask && loss.rollout_is_threshold < 1.0 {
            let problem = format!("must be at least 1 to mask, got {}: no token would stay", loss.rollout_is_threshold);
            return Err(KeyError::new("loss.rollout_is_threshold", problem));
        }
        let ranges = [
            ("simulate.skill_easiest", self.simulate.skill_easiest, -1e3, 1e3),
            ("simulate.skill_slope", self.simulate.skill_slope, -1e3, 1e3),
            ("simulate.transfer", self.simulate.transfer, 0.0, 1.0),
            ("simulate.drift", self.simulate.drift, 0.0, 1.0),
            ("simulate.rate", self.simulate.rate, 0.0, 1e3),
            ("simulate.spread", self.simulate.spread, 0.0, 1e3),
            ("simulate.tokens_easiest", self.simulate.tokens_easiest, 1.0, 1e9),
            ("simulate.tokens_slope", self.simulate.tokens_slope, 0.0, 1e9),
            ("bench.peak_tflops", self.bench.peak_tflops, 0.0, 1e9),
            ("engine.temperature", f64::from(self.engine.temperature), 1e-3, 100.0),
            ("engine.top_p", f64::from(self.engine.top_p), 1e-6, 1.0),
            ("engine.gpu_memory_utilization", f64::from(self.engine.gpu_memory_utilization), 0.0, 1.0),
            ("engine.min_p", f64::from(self.engine.min_p), 0.0, 1.0),
            ("eval.temperature", f64::from(self.eval.temperature), 0.0, 100.0),
            ("loss.clip_ratio_low", loss.clip_ratio_low, 0.0, 1.0),
            ("loss.clip_ratio_high", loss.clip_ratio_high, 0.0, 1e6),
            ("loss.clip_ratio_c", loss.clip_ratio_c, 0.0, 1e6),
            ("loss.entropy_coef", loss.entropy_coef, -10.0, 10.0),
            ("reward.overlong_penalty", f64::from(self.reward.overlong_penalty), 0.0, 1e6),
            ("loss.kl_loss_coef", loss.kl_loss_coef, 0.0, 1e6),
            ("loss.rollout_is_threshold", loss.rollout_is_threshold, f64::MIN_POSITIVE, 1e6),
        ];
        check_ranges(&ranges)
    }
}

/// A key, its value, and the range it must be in.
type Range = (&'static str, f64, f64, f64);

fn check_ranges(ranges: &[Range]) -> Result<(), KeyError> {
    match ranges.iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
        Some((key, value, low, high)) => Err(KeyError::new(*key, format!("must be from {low} to {high}, got {value}"))),
        None => Ok(()),
    }
}

/// Refuses settings that an optimiser cannot work with.
pub fn check_optim(optim: &OptimConfig) -> Result<(), KeyError> {
    check_ranges(&[
        ("optim.lr", optim.lr, 0.0, 10.0),
        ("optim.beta1", optim.beta1, 0.0, 1.0 - 1e-12),
        ("optim.beta2", optim.beta2, 0.0, 1.0 - 1e-12),
        ("optim.eps", optim.eps, f64::MIN_POSITIVE, 1.0),
        ("optim.weight_decay", optim.weight_decay, 0.0, 10.0),
        ("optim.max_grad_norm", optim.max_grad_norm, 0.0, 1e9),
        ("optim.min_lr_ratio", optim.min_lr_ratio, 0.0, 1.0),
    ])
}
