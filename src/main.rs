//! The program: arguments in, one subcommand run, an exit status out (0 done, 1 failed while running, 2 wrong input).

mod cli;

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Parser;
use cli::{BenchCommand, Cli, Command, CurriculumCommand, DataCommand};
use dump_rl::commands::data::PromptCounter;
use dump_rl::config::{self, run::RunConfig, sft::SftConfig};
use dump_rl::error::InputError;
use dump_rl::run_dir::log::Warnings;
use dump_rl::task::kk::parse_people;
use dump_rl::{commands, curriculum_bench, pipeline, report, reward};
use tokio::sync::watch;

/// The memory of an engine that was replaced must go back to the system. glibc's arenas keep it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_freed_memory_for_a_while();
    let log = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,mistralrs_core=off"));
    tracing_subscriber::fmt().with_env_filter(log).with_target(false).with_ansi(false).with_writer(|| Warnings).init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(Warnings, "error: {error:#}");
            ExitCode::from(if is_input(&error) { 2 } else { 1 })
        }
    }
}

/// A training step frees and allocates the same memory again and again. If mimalloc returned it to the system after its default of
/// 10 ms, page faults would take up to a third of the step.
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
        Command::Eval { target, samples, model } => block_on(commands::eval::run(&target, samples, model.as_deref())),
        Command::Bench(bench) => run_bench(bench),
        Command::Data(data) => run_data(data),
        Command::Report { runs, out } => {
            let bytes = report::run(&runs, &out)?;
            println!("{}: {:.1} MB", out.display(), bytes as f64 / 1e6);
            Ok(())
        }
        Command::Export { run, out, merge, model } => commands::export::run(&run, &out, merge, model.as_deref()),
        Command::Import { file, out } => commands::import::run(&file, &out),
        Command::InitModel { arch, out, seed } => commands::init_model::run(&arch, &out, seed),
        Command::Grade { data, completions, grader, published } => {
            let graders = commands::grade::graders(grader.as_deref(), published)?;
            to_stdout(|out| commands::grade::run(&graders, &data, &completions, out))
        }
        Command::Curriculum(curriculum) => run_curriculum(curriculum),
    }
}

fn run_bench(bench: BenchCommand) -> Result<()> {
    match bench {
        BenchCommand::Rollout(args) => block_on(async {
            commands::bench::rollout::run(&args.config, &args.sets.sets, args.load()?, args.json.as_deref()).await
        }),
        BenchCommand::Train(args) => commands::bench::train::run(args.load()?, args.json.as_deref()),
        BenchCommand::Sync(args) => block_on(commands::bench::sync::run(args.load()?, args.json.as_deref())),
        BenchCommand::Pipeline(args) => block_on(commands::bench::pipeline::run(args.load()?, args.json.as_deref())),
        BenchCommand::Check(args) => block_on(commands::bench::check::run(args.load()?, args.json.as_deref())),
    }
}

fn run_data(data: DataCommand) -> Result<()> {
    match data {
        DataCommand::Kk { people, files, variant } => {
            let people = parse_people(&people).map_err(|e| InputError::new("--people", e))?;
            let left_out = commands::data::kk(people, variant, &files)?;
            if left_out > 0 {
                eprintln!("{left_out} puzzles have no such variant and are left out; index names the original");
            }
            Ok(())
        }
        DataCommand::Make { task, levels, files } => Ok(commands::data::make::run(&task, levels.as_deref(), &files)?),
        DataCommand::Inspect { file, model } => {
            let counter = model.map(|folder| PromptCounter::load(&folder)).transpose()?;
            print!("{}", commands::data::inspect(&file, counter.as_ref())?);
            Ok(())
        }
    }
}

fn run_curriculum(curriculum: CurriculumCommand) -> Result<()> {
    match curriculum {
        CurriculumCommand::Bench { config, sets, policies, seeds, targets, out, jobs, simulate } => {
            let name = format!("bench-{}", config.file_stem().unwrap_or_default().display());
            let out = out.unwrap_or_else(|| Path::new("runs").join(name));
            let sets = sets.sets;
            let bench =
                curriculum_bench::CurriculumBench { config, sets, policies, seeds, targets, out, jobs, simulate };
            block_on(async { tokio::task::block_in_place(|| bench.run(&stop_signal())) })
        }
        CurriculumCommand::Replay { config, sets, events } => {
            let config: RunConfig = config::load(&config, &sets.sets)?;
            let mixture = pipeline::dataset::mixture(&config)?;
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

/// Turns true at the first Ctrl-C (or SIGTERM). The second one ends the program at once.
fn stop_signal() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        interrupted().await;
        eprintln!("stopping after a checkpoint; press Ctrl-C again to stop at once");
        let _ = stop.send(true);
        interrupted().await;
        reward::kill_all();
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
