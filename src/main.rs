//! The program: arguments in, one subcommand run, an exit status out (0 done, 1 failed while running, 2 wrong input).

mod cli;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Parser;
use cli::{BenchCommand, Cli, Command, CurriculumCommand, DataCommand};
use dump_rl::commands::data::PromptCounter;
use dump_rl::config::{self, run::RunConfig, sft::SftConfig};
use dump_rl::error::InputError;
use dump_rl::run_dir::log::{self, Warnings};
use dump_rl::signals::{self, BeforeWork, Hangup, Stop};
use dump_rl::task::kk::parse_people;
use dump_rl::{commands, curriculum_bench, panics, pipeline, report, terminal};

/// The memory of an engine that was replaced must go back to the system. glibc's arenas keep it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_freed_memory_for_a_while();
    log_panics();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,mistralrs_core=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| Warnings)
        .init();
    let command = Cli::parse().command;
    let ended = listen(&command).and_then(|stop| run(command, stop));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::warn(&format!("error: {error:#}"));
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

/// Hears signals as the command needs it. What trains or measures for long is a run: it outlives its terminal.
fn listen(command: &Command) -> Result<Stop> {
    let (before_work, hangup) = match command {
        Command::Train { dry_run: false, .. } => (BeforeWork::Stops, Hangup::Ignored),
        Command::Sft { .. } | Command::Eval { .. } | Command::Bench(_) => (BeforeWork::Fails, Hangup::Ignored),
        Command::Curriculum(CurriculumCommand::Bench { .. }) => (BeforeWork::Fails, Hangup::Ignored),
        _ => (BeforeWork::Fails, Hangup::Ends),
    };
    signals::listen(before_work, hangup).map_err(|e| anyhow!("no signal can be heard: {e}"))
}

/// A panic is told on standard error, which may be closed, and in the run's log.
fn log_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panics::is_quiet() {
            return;
        }
        log::note(&panic.to_string());
        tell(panic);
    }));
}

fn run(command: Command, stop: Stop) -> Result<()> {
    match command {
        Command::Train { config, sets, out, resume, dry_run } => {
            let resolved: RunConfig = config::load(&config, &sets.sets)?;
            if dry_run {
                return terminal::give(|out| commands::dry_run::run(resolved, out));
            }
            let out = out.unwrap_or_else(|| Path::new("runs").join(config.file_stem().unwrap_or_default()));
            block_on(commands::train::run(resolved, &out, resume.resume(), stop))
        }
        Command::Sft { config, mut sets, out } => {
            sets.sets.extend(out.map(|out| format!("out={}", out.display())));
            let config: SftConfig = config::load(&config, &sets.sets)?;
            commands::sft::run(&config, stop)
        }
        Command::Eval { target, samples, model } => block_on(commands::eval::run(&target, samples, model.as_deref())),
        Command::Bench(bench) => run_bench(bench, stop),
        Command::Data(data) => run_data(data),
        Command::Report { runs, out } => {
            let bytes = report::run(&runs, &out)?;
            terminal::say(format_args!("{}: {:.1} MB", out.display(), bytes as f64 / 1e6));
            Ok(())
        }
        Command::Export { run, out, merge, model } => commands::export::run(&run, &out, merge, model.as_deref()),
        Command::Serve(args) => block_on(commands::serve::run(args, stop)),
        Command::Import { file, out } => commands::import::run(&file, &out),
        Command::InitModel { arch, out, seed } => commands::init_model::run(&arch, &out, seed),
        Command::Grade { data, completions, grader, published } => {
            let graders = commands::grade::graders(grader.as_deref(), published)?;
            terminal::give(|out| commands::grade::run(&graders, &data, &completions, out))
        }
        Command::Curriculum(curriculum) => run_curriculum(curriculum, stop),
    }
}

fn run_bench(bench: BenchCommand, stop: Stop) -> Result<()> {
    match bench {
        BenchCommand::Rollout(args) => block_on(async {
            commands::bench::rollout::run(&args.config, &args.sets.sets, args.load()?, args.json.as_deref()).await
        }),
        BenchCommand::Train(args) => commands::bench::train::run(args.load()?, args.json.as_deref()),
        BenchCommand::Sync(args) => block_on(commands::bench::sync::run(args.load()?, args.json.as_deref())),
        BenchCommand::Pipeline(args) => {
            block_on(commands::bench::pipeline::run(args.load()?, args.json.as_deref(), stop))
        }
        BenchCommand::Check(args) => block_on(commands::bench::check::run(args.load()?, args.json.as_deref())),
    }
}

fn run_data(data: DataCommand) -> Result<()> {
    match data {
        DataCommand::Kk { people, files, variant } => {
            let people = parse_people(&people).map_err(|e| InputError::new("--people", e))?;
            let left_out = commands::data::kk(people, variant, &files)?;
            if left_out > 0 {
                log::warn(&format!(
                    "{left_out} puzzles have no such variant and are left out; index names the original"
                ));
            }
            Ok(())
        }
        DataCommand::Make { task, levels, files } => Ok(commands::data::make::run(&task, levels.as_deref(), &files)?),
        DataCommand::Inspect { file, model } => {
            let counter = model.map(|folder| PromptCounter::load(&folder)).transpose()?;
            let about = commands::data::inspect(&file, counter.as_ref())?;
            terminal::give(|out| write!(out, "{about}"))
        }
    }
}

fn run_curriculum(curriculum: CurriculumCommand, stop: Stop) -> Result<()> {
    match curriculum {
        CurriculumCommand::Bench { config, sets, policies, seeds, targets, out, jobs, simulate } => {
            let name = format!("bench-{}", config.file_stem().unwrap_or_default().display());
            let out = out.unwrap_or_else(|| Path::new("runs").join(name));
            let sets = sets.sets;
            let bench =
                curriculum_bench::CurriculumBench { config, sets, policies, seeds, targets, out, jobs, simulate };
            bench.run(stop)
        }
        CurriculumCommand::Replay { config, sets, events } => {
            let config: RunConfig = config::load(&config, &sets.sets)?;
            let mixture = pipeline::dataset::mixture(&config)?;
            terminal::give(|out| commands::replay::run(&config.curriculum, &mixture, &events, out))
        }
        CurriculumCommand::Fit { runs, seeds } => {
            let text = commands::fit::fit_and_compare(&runs, seeds)?;
            terminal::give(|out| write!(out, "{text}"))
        }
    }
}

/// Tasks that still run when the command has ended get this long.
const LAST_TASKS: Duration = Duration::from_secs(1);

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| anyhow!("no async runtime: {e}"))?;
    let output = runtime.block_on(future);
    runtime.shutdown_timeout(LAST_TASKS);
    output
}
