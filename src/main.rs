//! The program: arguments in, one subcommand run, an exit status out (0 done, 1 failed while running, 2 wrong input).

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Parser, Subcommand};
use dump_rl::commands;
use dump_rl::config::{self, run::RunConfig, sft::SftConfig};
use dump_rl::error::InputError;
use dump_rl::task::kk::parse_people;
use tokio::sync::watch;

/// Memory of an engine that was replaced has to go back (glibc's arenas keep it).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Curriculum-driven GRPO post-training of language models.
#[derive(Parser)]
#[command(name = "dump-rl", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
enum Bench {
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
    Rollout {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Also write the results here, as a JSON list.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Time policy steps of the trainer on random tokens, of the shapes in `[bench]`.
    ///
    /// A line is a combination of prompts, group size and lengths, or a length of `bench.train_tokens`; times are medians.
    /// GFLOP/s: what the mathematics of a step needs, in 10^9 operations, without what is computed again, over its time.
    /// MFU: that as a part of `bench.peak_tflops`, or of what is known of the card.
    /// peak MB, card MB: the most memory of the process, and in use on the card; predicted MB: as --dry-run says it.
    #[command(verbatim_doc_comment)]
    Train {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Also write the results here, as a JSON list.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Time publishes of a policy, each followed by completions of the first combination in `[bench]`.
    Sync {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Also write the results here, as a JSON list.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Make `max_steps` whole steps, without evaluations, and say where their time goes.
    ///
    /// A model of random weights earns the same with every completion: set loss.kl_loss_coef or loss.entropy_coef, or nothing
    /// is trained on.
    Pipeline {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Also write the results here, as a JSON list.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Hold what the engine samples, many completions at a time, against the model's own forward.
    ///
    /// Exit status 1 where log-probabilities differ by more than the bound of the number format: do not train with that
    /// engine on that device. The completions are those of the first combination in `[bench]`.
    Check {
        config: PathBuf,
        #[command(flatten)]
        sets: Sets,
        /// Also write the results here, as a JSON list.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Data {
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
enum Curriculum {
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
struct Sets {
    /// Override a setting; may be given again, later ones win.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

fn main() -> ExitCode {
    keep_freed_memory_for_a_while();
    let log = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,mistralrs_core=off"));
    tracing_subscriber::fmt().with_env_filter(log).with_target(false).with_writer(|| dump_rl::run_log::Warnings).init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(dump_rl::run_log::Warnings, "error: {error:#}");
            ExitCode::from(if is_input(&error) { 2 } else { 1 })
        }
    }
}

/// A training step frees and takes the same memory again and again; handing it back to the system after mimalloc's 10 ms
/// costs up to a third of the step in page faults.
fn keep_freed_memory_for_a_while() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15; // mi_option_purge_delay in mimalloc.h
    // SAFETY: sets an integer option that mimalloc reads at run time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 1000) }
}

fn is_input(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<InputError>()
            || cause.downcast_ref::<engine::EngineError>().is_some_and(engine::EngineError::is_input)
    })
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Train { config, sets, out, resume, dry_run } => {
            let resolved: RunConfig = config::load(&config, &sets.sets)?;
            if dry_run {
                return commands::dry_run::run(resolved);
            }
            let out = out.unwrap_or_else(|| Path::new("runs").join(config.file_stem().unwrap_or_default()));
            block_on(async { commands::train::run(resolved, &out, resume, stop_signal()).await })
        }
        Command::Sft { config, mut sets, out } => {
            sets.sets.extend(out.map(|out| format!("out={}", out.display())));
            let config: SftConfig = config::load(&config, &sets.sets)?;
            commands::sft::run(&config)
        }
        Command::Eval { target, samples } => block_on(commands::eval::run(&target, samples)),
        Command::Bench(Bench::Rollout { config: file, sets, json }) => {
            let config: RunConfig = config::load(&file, &sets.sets)?;
            block_on(commands::bench::rollout::run(&file, &sets.sets, config, json.as_deref()))
        }
        Command::Bench(Bench::Train { config, sets, json }) => {
            commands::bench::train::run(config::load(&config, &sets.sets)?, json.as_deref())
        }
        Command::Bench(Bench::Sync { config, sets, json }) => {
            block_on(commands::bench::sync::run(config::load(&config, &sets.sets)?, json.as_deref()))
        }
        Command::Bench(Bench::Pipeline { config, sets, json }) => {
            block_on(commands::bench::pipeline::run(config::load(&config, &sets.sets)?, json.as_deref()))
        }
        Command::Bench(Bench::Check { config, sets, json }) => {
            block_on(commands::bench::check::run(config::load(&config, &sets.sets)?, json.as_deref()))
        }
        Command::Data(Data::Kk { people, train, test, seed, out }) => {
            let people = parse_people(&people).map_err(|e| InputError::new("--people", e))?;
            Ok(commands::data::kk(people, train, test, seed, &out)?)
        }
        Command::Data(Data::Inspect { file }) => {
            print!("{}", commands::data::inspect(&file)?);
            Ok(())
        }
        Command::Report { runs, out } => {
            let bytes = dump_rl::report::run(&runs, &out)?;
            println!("{}: {:.1} MB", out.display(), bytes as f64 / 1e6);
            Ok(())
        }
        Command::Export { run, out, merge } => commands::export::run(&run, &out, merge),
        Command::Import { file, out } => commands::import::run(&file, &out),
        Command::InitModel { arch, out, seed } => commands::init_model::run(&arch, &out, seed),
        Command::Grade { data, completions } => to_stdout(|out| commands::grade::run(&data, &completions, out)),
        Command::Curriculum(Curriculum::Bench { config, sets, policies, seeds, targets, out, jobs, simulate }) => {
            let name = format!("bench-{}", config.file_stem().unwrap_or_default().display());
            let out = out.unwrap_or_else(|| Path::new("runs").join(name));
            let sets = sets.sets;
            let bench =
                dump_rl::curriculum_bench::Bench { config, sets, policies, seeds, targets, out, jobs, simulate };
            block_on(async { tokio::task::block_in_place(|| bench.run(&stop_signal())) })
        }
        Command::Curriculum(Curriculum::Replay { config, sets, events }) => {
            let config: RunConfig = config::load(&config, &sets.sets)?;
            let mixture = dump_rl::dataset::mixture(&config)?;
            to_stdout(|out| commands::replay::run(&config.curriculum, &mixture, &events, out))
        }
    }
}

fn to_stdout(f: impl FnOnce(&mut BufWriter<std::io::StdoutLock>) -> Result<(), InputError>) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    f(&mut out)?;
    Ok(out.flush()?)
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| anyhow!("no async runtime: {e}"))?
        .block_on(future)
}

/// Turns true at the first Ctrl-C (or SIGTERM); the second ends the program at once.
fn stop_signal() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        interrupted().await;
        eprintln!("stopping after a checkpoint; press Ctrl-C again to stop at once");
        let _ = stop.send(true);
        interrupted().await;
        std::process::exit(130);
    });
    stopped
}

async fn interrupted() {
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        return;
    }
    drop(tokio::signal::ctrl_c().await);
}
