//! The configuration of a training run: its top level, and checks that concern several tables.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Table;

use super::Config;
use super::bench::BenchConfig;
use super::ckpt::CkptConfig;
use super::data::{self, DataEntry};
use super::engine::{EngineConfig, SyncMode};
use super::eval::EvalConfig;
use super::grader::GraderConfig;
use super::log::LogConfig;
use super::lora::LoraSettings;
use super::loss::{LossConfig, LossKind};
use super::optim::OptimConfig;
use super::pipeline::PipelineConfig;
use super::reward::{AdvantageConfig, RewardConfig};
use super::trainer::TrainerConfig;
use crate::curriculum::CurriculumConfig;
use crate::curriculum::rows::Rows;
use crate::error::KeyError;
use crate::scheduler::{FilterConfig, SchedulerConfig};
use crate::simulator::{SimulateConfig, Simulation};

/// Everything a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    /// Folder of the base model in Hugging Face layout, or its name on the hub (`owner/name`).
    pub model: PathBuf,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// Policy steps.
    pub max_steps: u64,
    /// B: prompts (groups) per step.
    pub batch_size: usize,
    /// G: completions per prompt.
    pub group_size: usize,
    /// What the distributions are made of.
    pub data: Vec<DataEntry>,
    pub grader: GraderConfig,
    pub engine: EngineConfig,
    pub curriculum: CurriculumConfig,
    pub advantage: AdvantageConfig,
    pub filter: FilterConfig,
    pub pipeline: PipelineConfig,
    pub eval: EvalConfig,
    pub ckpt: CkptConfig,
    pub log: LogConfig,
    pub lora: LoraSettings,
    pub optim: OptimConfig,
    pub loss: LossConfig,
    pub trainer: TrainerConfig,
    pub reward: RewardConfig,
    pub bench: BenchConfig,
    pub simulate: SimulateConfig,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            seed: 0,
            max_steps: 100,
            batch_size: 16,
            group_size: 8,
            data: vec![DataEntry::usual()],
            grader: GraderConfig::default(),
            engine: EngineConfig::default(),
            curriculum: CurriculumConfig::default(),
            advantage: AdvantageConfig::default(),
            filter: FilterConfig::default(),
            pipeline: PipelineConfig::default(),
            eval: EvalConfig::default(),
            ckpt: CkptConfig::default(),
            log: LogConfig::default(),
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

impl Config for RunConfig {
    const PATHS: &'static [&'static str] = &[
        "model",
        "data.train_files",
        "data.test_files",
        "engine.remote.endpoints_file",
        "engine.remote.adapters",
        "engine.remote.token_file",
        "engine.remote.ca_file",
    ];
    const MODELS: &'static [&'static str] = &["model"];
    const BY_NAME: &'static [&'static str] = &["curriculum.fixed_mix.weights", "data.where"];
    const GRADERS: &'static [&'static str] = &["grader.default", "grader.always", "data.grader"];

    const OLD_NAMES: &'static [(&'static str, &'static str)] = &data::old_names::OLD_NAMES;

    fn modernise(given: &mut Table) {
        data::old_names::modernise(given);
    }

    /// The defaults of GRPO, or those of the loss that `given` names.
    fn defaults(given: &Table) -> Self {
        let mut config = Self::default();
        let kind = given.get("loss").and_then(|loss| loss.get("kind")).cloned();
        if let Some(Ok(kind)) = kind.map(LossKind::deserialize) {
            kind.apply(&mut config.loss, &mut config.advantage.scale);
        }
        config
    }

    fn check(&self) -> Result<(), KeyError> {
        self.check_top_level()?;
        data::check(&self.data)?;
        self.grader.check().map_err(|e| e.under("grader"))?;
        self.engine.check().map_err(|e| e.under("engine"))?;
        self.curriculum.check().map_err(|e| e.under("curriculum"))?;
        self.pipeline.check().map_err(|e| e.under("pipeline"))?;
        self.eval.check().map_err(|e| e.under("eval"))?;
        self.ckpt.check().map_err(|e| e.under("ckpt"))?;
        KeyError::if_zero(&[("lora.rank", self.lora.rank)])?;
        self.lora.check().map_err(|e| e.under("lora"))?;
        self.optim.check().map_err(|e| e.under("optim"))?;
        self.loss.check().map_err(|e| e.under("loss"))?;
        self.trainer.check().map_err(|e| e.under("trainer"))?;
        self.reward.check(self.engine.max_new_tokens).map_err(|e| e.under("reward"))?;
        self.bench.check().map_err(|e| e.under("bench"))?;
        self.simulate.check().map_err(|e| e.under("simulate"))?;
        if self.engine.sync == SyncMode::Alternate && self.pipeline.max_off_policy_steps > 0 {
            let problem = "\"alternate\" generates and trains in turn, so that nothing can overlap: set \
                           pipeline.max_off_policy_steps = 0, or take \"reload\"";
            return Err(KeyError::new("engine.sync", problem));
        }
        if self.curriculum.rows != Rows::Uniform && self.data.iter().all(|entry| entry.fresh) {
            let rows = self.curriculum.rows;
            let problem =
                format!("{rows} has nothing to choose from: every [[data]] table makes new rows at each draw (fresh)");
            return Err(KeyError::new("curriculum.rows", problem));
        }
        Ok(())
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

    /// What the scheduler needs to know.
    pub fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            batch_size: self.batch_size,
            max_off_policy_steps: self.pipeline.max_off_policy_steps,
            max_steps: self.max_steps,
            seed: self.seed,
            curriculum: self.curriculum.clone(),
            filter: self.filter,
        }
    }

    /// What the simulator needs to know.
    pub fn simulation(&self) -> Simulation {
        let (scheduler, learner) = (self.scheduler(), self.simulate.clone());
        Simulation { scheduler, learner, group_size: self.group_size, eval_interval: self.eval.interval }
    }

    fn check_top_level(&self) -> Result<(), KeyError> {
        KeyError::if_zero(&[("batch_size", self.batch_size)])?;
        if self.group_size < 2 {
            let problem =
                format!("must be at least 2, got {}: a group of one has no advantage to learn from", self.group_size);
            return Err(KeyError::new("group_size", problem));
        }
        // Larger values are typos. Without these limits they would be noticed only when memory runs out.
        KeyError::if_above(&[
            ("max_steps", self.max_steps, 1_000_000_000),
            ("batch_size", self.batch_size as u64, 1_000_000),
            ("group_size", self.group_size as u64, 100_000),
        ])
    }
}
