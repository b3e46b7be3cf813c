//! The command line: what can be typed, and what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use dump_rl::commands::data::SplitFiles;
use dump_rl::commands::serve::ServeArgs;
use dump_rl::config;
use dump_rl::config::run::RunConfig;
use dump_rl::error::InputError;
use dump_rl::run_dir::start::{Changes, Resume};
use dump_rl::task::kk::Variant;

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
        /// A configuration file (docs/settings.md).
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// The run's folder (default: runs/<name of the configuration>).
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        resume: ResumeArgs,
        /// Resolve everything, print what would run, and exit.
        #[arg(long)]
        dry_run: bool,
    },
    /// Supervised training: a small base model from random weights, or more training of an existing model.
    Sft {
        /// A configuration file of supervised training (docs/settings.md).
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// The model's folder (default: `out` of the configuration).
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Evaluate a base model, or the newest policy of a run, on held-out rows.
    Eval {
        /// A configuration file, or a run's folder.
        target: PathBuf,
        /// Completions of each prompt (default: eval.samples of the configuration).
        #[arg(long)]
        samples: Option<usize>,
        /// Where the base model is now: a folder, or a name on the hub (default: as configured).
        #[arg(long, value_name = "DIR")]
        model: Option<String>,
    },
    /// Measure speed.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Make or look at data.
    #[command(subcommand)]
    Data(DataCommand),
    /// Grade completions of rows.
    Grade {
        /// Rows, as JSON Lines.
        #[arg(long)]
        data: PathBuf,
        /// JSON Lines of {"index": row number from 0, "completion": "…"}.
        #[arg(long)]
        completions: PathBuf,
        /// Grade every row with this grader, whatever the row says: a name, or an inline table as in the configuration.
        #[arg(long, value_name = "NAME|TABLE")]
        grader: Option<String>,
        /// Grade by the rules of the graders that were published with DUMP.
        #[arg(long)]
        published: bool,
    },
    /// Show one or several runs as one HTML file.
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
        /// The folder to write. It must be empty.
        #[arg(long)]
        out: PathBuf,
        /// Write a whole model for transformers, vLLM or mistral.rs, with the adapter added to its weights.
        #[arg(long)]
        merge: bool,
        /// Where the run's base model is now: a folder, or a name on the hub (default: where the run had it).
        #[arg(long, value_name = "DIR")]
        model: Option<String>,
    },
    /// Serve a model, or a run's newest policy, as an OpenAI-compatible endpoint (docs/serve.md).
    Serve(ServeArgs),
    /// Turn a GGUF file of a Llama model into a Hugging Face folder.
    Import {
        /// The GGUF file.
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
        /// The model's folder. It must be empty.
        #[arg(long)]
        out: PathBuf,
        /// Seed of the weights.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Compare curricula, or replay a recorded one.
    #[command(subcommand)]
    Curriculum(CurriculumCommand),
}

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Compare the engines on the same prompts, as `[bench]` in the configuration says.
    ///
    /// Each line is an engine on one combination of the lists in `[bench]`.
    /// Times are medians. docs/benchmarks.md explains the columns in more detail.
    ///
    /// tok/s: generated tokens divided by the whole time, including prefill.
    /// decode tok/s: the same without prefill and without each completion's first token.
    /// prefill tok/s: prompt tokens per second, for prompts that share nothing.
    /// first token: time to the first token of one prompt alone.
    /// step: time of one forward pass, decoding and prefill together.
    /// publish: time of a publish, on an idle engine and while completions are generated.
    /// tok/s publishing: tok/s with a publish every 100 ms.
    /// start MB: memory that starting the engine adds to the process.
    /// peak MB: the most memory that the process has taken so far.
    #[command(verbatim_doc_comment)]
    Rollout(BenchArgs),
    /// Time policy steps of the trainer on random tokens, of the shapes in `[bench]`.
    ///
    /// Each line is one combination of the lists in `[bench]`. Times are medians.
    ///
    /// GFLOP/s: 10^9 operations per second. Recomputation does not count.
    /// MFU: GFLOP/s as a part of `bench.peak_tflops`, or of the card's known peak.
    /// peak MB: peak memory of the process.
    /// card MB: peak memory of the card.
    /// predicted MB: memory as --dry-run predicts it.
    #[command(verbatim_doc_comment)]
    Train(BenchArgs),
    /// Time publishes of a policy, each followed by completions of the first combination in `[bench]`.
    Sync(BenchArgs),
    /// Make `max_steps` whole steps without evaluations, and show where their time goes.
    ///
    /// With random weights every completion earns the same reward.
    /// Then nothing is trained on, unless you set loss.kl_loss_coef or loss.entropy_coef.
    Pipeline(BenchArgs),
    /// Compare the log-probabilities of the engine, with many completions at a time, with the trainer's.
    ///
    /// The exit status is 1 if they differ by more than the bound of the number format.
    /// Then do not train with this engine on this device.
    ///
    /// The completions have the shape of the first combination in `[bench]`.
    Check(BenchArgs),
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Generate Knights-and-Knaves puzzles.
    Kk {
        /// Numbers of people, such as 3-14 or 5.
        #[arg(long, default_value = "3-14")]
        people: String,
        #[command(flatten)]
        files: SplitFiles,
        /// Write this variant of each puzzle that the other arguments give, to test memorisation.
        #[arg(long, value_enum)]
        variant: Option<Variant>,
    },
    /// Make rows of a procedural task: kk, arithmetic, addition, multiplication, countdown, letter_count, letter_sort,
    /// satisfiability, shortest_path, sudoku (docs/data.md).
    Make {
        /// The task's name.
        task: String,
        /// Levels, such as 3-7 or 5 (default: the task's usual ones).
        #[arg(long)]
        levels: Option<String>,
        #[command(flatten)]
        files: SplitFiles,
    },
    /// Show what a file of rows contains.
    Inspect {
        /// Rows: JSON Lines (.jsonl, also with .gz or .zst) or .parquet (docs/commands.md).
        file: PathBuf,
        /// Model folder whose tokenizer and chat template count the tokens of the prompts.
        #[arg(long)]
        model: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum CurriculumCommand {
    /// Compare policies over seeds on one configuration: curves, what it takes to reach a reward, confidence intervals.
    Bench {
        /// A configuration file (docs/settings.md).
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Policies, separated by commas. All are compared with the first.
        /// Settings go in brackets: uniform,dump,dump_plus[floor=0,filter.zero_variance=true].
        #[arg(long, default_value = "uniform,dump,dump_plus")]
        policies: String,
        /// Runs of each policy, with seeds from 0.
        #[arg(long, default_value_t = 3)]
        seeds: u64,
        /// Mean answer rewards to reach, separated by commas (default: half-way to, and at, the end of the first policy).
        #[arg(long, value_delimiter = ',', allow_negative_numbers = true)]
        targets: Vec<f64>,
        /// Folder of the runs and of bench.json. Finished runs are not repeated (default: runs/bench-<configuration>).
        #[arg(long)]
        out: Option<PathBuf>,
        /// Runs at a time. 0: one per core.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
        /// Simulate learning by a formula instead of training a model (see docs/curriculum.md).
        #[arg(long)]
        simulate: bool,
    },
    /// Print the sampling weights after each step of recorded observations.
    Replay {
        /// A configuration file (docs/settings.md).
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// curriculum.jsonl of a run: lines of {"step": t, "observations": [{"source", "rewards", "advantages"}]}.
        #[arg(long)]
        events: PathBuf,
    },
    /// Fit the simulated learner to finished runs, and compare how it and they rank the runs' policies.
    Fit {
        /// Folders of runs, for example runs/bench-kk-tiny/*/seed_?
        #[arg(required = true, value_name = "RUN_DIR")]
        runs: Vec<PathBuf>,
        /// Simulated runs of each policy.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        seeds: u64,
    },
}

#[derive(Args)]
pub struct ResumeArgs {
    /// Continue from the newest checkpoint in the run's folder, or from that of a step. Later checkpoints are set aside.
    #[arg(long, value_name = "STEP", num_args = 0..=1, require_equals = true)]
    resume: Option<Option<u64>>,
    /// Continue also with another model, other rows or settings than the run began with.
    #[arg(long, requires = "resume")]
    allow_changed: bool,
}

impl ResumeArgs {
    /// `None`: a new run.
    pub fn resume(&self) -> Option<Resume> {
        let changes = if self.allow_changed { Changes::Allowed } else { Changes::Refused };
        self.resume.map(|at| Resume { at, changes })
    }
}

#[derive(Args)]
pub struct Sets {
    /// Override a setting. Can be repeated; later ones win.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// The arguments of every bench.
#[derive(Args)]
pub struct BenchArgs {
    /// A configuration file (docs/settings.md).
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
