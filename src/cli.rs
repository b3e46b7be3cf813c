//! The command line: what can be typed, and what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use dump_rl::config;
use dump_rl::config::run::RunConfig;
use dump_rl::error::InputError;

/// Curriculum-driven GRPO post-training of language models.
#[derive(Parser)]
#[command(name = "dump-rl", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a LoRA adapter by GRPO under a curriculum.
    Train {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// The run's folder (default: runs/<name of the configuration>).
        #[arg(long)]
        out: Option<PathBuf>,
        /// Go on from the newest checkpoint in the run's folder.
        #[arg(long)]
        resume: bool,
        /// Resolve everything, say what would run, and exit.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a small base model from nothing by supervised training.
    Sft {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// The model's folder.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Evaluate a base model, or the newest policy of a run, on held-out rows.
    Eval {
        /// A configuration file, or a run's folder.
        target: PathBuf,
        /// Completions of each prompt.
        #[arg(long)]
        samples: Option<usize>,
    },
    /// Measure speed.
    #[command(subcommand)]
    Bench(Bench),
    /// Make or look at data.
    #[command(subcommand)]
    Data(Data),
    /// Grade completions of rows.
    Grade {
        /// Rows, as JSON Lines.
        #[arg(long)]
        data: PathBuf,
        /// JSON Lines of {"index": row number from 0, "completion": "…"}.
        #[arg(long)]
        completions: PathBuf,
    },
    /// Draw one or several runs as one HTML file.
    Report {
        /// The runs' folders.
        #[arg(required = true, value_name = "RUN_DIR")]
        runs: Vec<PathBuf>,
        /// The file to write.
        #[arg(long, value_name = "FILE.html")]
        out: PathBuf,
    },
    /// Write a run's newest policy as a PEFT adapter, or merged into its base model.
    Export {
        /// The run's folder.
        run: PathBuf,
        /// The folder to write; it must be empty.
        #[arg(long)]
        out: PathBuf,
        /// A whole model for transformers, vLLM or mistral.rs, the adapter added to its weights.
        #[arg(long)]
        merge: bool,
    },
    /// Turn a GGUF file of a Llama model into a Hugging Face folder.
    Import {
        file: PathBuf,
        /// The model's folder.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write a model of random weights, to measure speed and memory without a download.
    InitModel {
        /// qwen2.5-0.5b, 1.5b, 3b or 7b (or the size alone), llama-3.1-8b, qwen3-4b, smollm2-135m, kk-tiny.
        #[arg(long)]
        arch: String,
        /// The model's folder; it must be empty.
        #[arg(long)]
        out: PathBuf,
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Work with a curriculum apart from training.
    #[command(subcommand)]
    Curriculum(Curriculum),
}

#[derive(Subcommand)]
pub enum Bench {
    /// Compare the engines on the same prompts: `[bench]` in the configuration says which, how many and how long.
    ///
    /// A line is an engine on one combination of prompts, group size and lengths; times are medians.
    /// tok/s: generated tokens over the whole time, prefill included.
    /// decode tok/s: tokens behind each completion's first, over the time by which the whole is longer than a run that ends
    /// with the first tokens.
    /// prefill tok/s: prompt tokens, of prompts that share nothing.
    /// first token: of one prompt alone.
    /// step: one forward pass, decoding and prefill together.
    /// publish: of an adapter, on an idle engine and while completions are generated.
    /// tok/s publishing: the first rate once more, with a publish every 100 ms.
    /// start MB: what starting the engine adds to the process; peak MB: of the process so far.
    #[command(verbatim_doc_comment)]
    Rollout(BenchArgs),
    /// Time policy steps of the trainer on random tokens, of the shapes in `[bench]`.
    ///
    /// A line is a combination of prompts, group size and lengths, or a length of `bench.train_tokens`; times are medians.
    /// GFLOP/s: what the mathematics of a step needs, in 10^9 operations, without what is computed again, over its time.
    /// MFU: that as a part of `bench.peak_tflops`, or of what is known of the card.
    /// peak MB, card MB: the most memory of the process, and in use on the card; predicted MB: as --dry-run says it.
    #[command(verbatim_doc_comment)]
    Train(BenchArgs),
    /// Time publishes of a policy, each followed by completions of the first combination in `[bench]`.
    Sync(BenchArgs),
    /// Make `max_steps` whole steps, without evaluations, and say where their time goes.
    ///
    /// A model of random weights earns the same with every completion: set loss.kl_loss_coef or loss.entropy_coef, or nothing
    /// is trained on.
    Pipeline(BenchArgs),
    /// Hold what the engine samples, many completions at a time, against the model's own forward.
    ///
    /// Exit status 1 where log-probabilities differ by more than the bound of the number format: do not train with that
    /// engine on that device. The completions are those of the first combination in `[bench]`.
    Check(BenchArgs),
}

#[derive(Subcommand)]
pub enum Data {
    /// Generate Knights-and-Knaves puzzles.
    Kk {
        /// Numbers of people, as in 3-14 or 5.
        #[arg(long, default_value = "3-14")]
        people: String,
        /// Training puzzles of each size.
        #[arg(long, default_value_t = 900)]
        train: usize,
        /// Test puzzles of each size.
        #[arg(long, default_value_t = 100)]
        test: usize,
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Folder for train.jsonl and test.jsonl.
        #[arg(long)]
        out: PathBuf,
    },
    /// Say what a file of rows holds.
    Inspect { file: PathBuf },
}

#[derive(Subcommand)]
pub enum Curriculum {
    /// Compare policies over seeds on one configuration: curves, what it takes to reach a reward, confidence intervals.
    Bench {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Policies, separated by commas; settings in brackets: uniform,dump,dump_plus[floor=0,filter.zero_variance=true].
        /// The others are compared with the first.
        #[arg(long, default_value = "uniform,dump,dump_plus")]
        policies: String,
        /// Runs of each policy, with seeds from 0.
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// Mean answer rewards to reach, separated by commas (default: half-way to, and at, the end of the first policy).
        #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
        targets: Vec<f64>,
        /// Folder of the runs and of bench.json; what is finished there is not run again (default: runs/bench-<configuration>).
        #[arg(long)]
        out: Option<PathBuf>,
        /// Runs at a time; 0: one a core.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
        /// Train no model: a model of a learner stands for it (see docs/curriculum.md).
        #[arg(long)]
        simulate: bool,
    },
    /// Print the sampling weights after each step of recorded observations.
    Replay {
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// JSON Lines of {"step": t, "observations": [{"source", "rewards", "advantages"}]}.
        #[arg(long)]
        events: PathBuf,
    },
}

#[derive(Args)]
pub struct Sets {
    /// Override a setting; may be given again, later ones win.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// What every bench takes.
#[derive(Args)]
pub struct BenchArgs {
    pub config: PathBuf,
    #[command(flatten)]
    pub sets: Sets,
    /// Also write the results here, as a JSON list.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

impl BenchArgs {
    /// # Errors
    /// A configuration that cannot be read or holds a wrong value.
    pub fn load(&self) -> Result<RunConfig, InputError> {
        config::load(&self.config, &self.sets.sets)
    }
}
