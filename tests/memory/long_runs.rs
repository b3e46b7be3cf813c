//! Memory over many steps: what the stages, the scheduler, the curriculum, the logs and the checkpoints keep of a run's past.
//!
//! A scripted engine and a scripted trainer on a paused clock, in a process that does nothing else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dump_rl::config::eval::EvalConfig;
use dump_rl::config::log::Compression;
use dump_rl::config::run::RunConfig;
use dump_rl::report;
use engine::Request;
use temp_dir::TempDir;
use tokio::runtime::Builder;

use crate::fixtures::records::{Line, all_metrics, newest_step, number, rollouts, total};
use crate::fixtures::runs::{check_finished, never, prepare_scripted, start};
use crate::fixtures::scripted_trainer::ScriptedTrainer;
use crate::fixtures::world::{B, G, World};

const STEPS: &str = "DUMP_RL_TEST_STEPS";
const OFF_POLICY: &str = "DUMP_RL_TEST_OFF_POLICY";
const OUT: &str = "DUMP_RL_TEST_OUT";

/// The memory of this many steps is averaged.
const WINDOW: usize = 50;

#[test]
fn memory_stays_flat_over_some_hundred_steps() {
    check_memory(600, 300, 1);
}

#[test]
#[ignore = "takes minutes; just soak runs it"]
fn soak_memory_stays_flat_over_ten_thousand_steps() {
    check_memory(10_000, 1_000, 0);
    check_memory(10_000, 1_000, 1);
}

/// Makes a run of `steps` steps with η off-policy steps. After the last one it takes as much memory as after step `early`.
fn check_memory(steps: u64, early: usize, off_policy: u64) {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("run");
    run_alone(steps, off_policy, &out);
    let lines: Vec<Line> = all_metrics(&out).into_iter().filter(|line| number(line, "step") > 0.0).collect();
    check_whole(&lines, &out, steps);
    let memory =
        |lines: &[Line]| lines.iter().map(|line| number(line, "perf/memory")).sum::<f64>() / lines.len() as f64;
    let (before, after) = (memory(&lines[early - WINDOW..early]), memory(&lines[lines.len() - WINDOW..]));
    println!("η = {off_policy}: {before:.2} MB after {early} steps, {after:.2} MB after {steps}");
    if cfg!(target_os = "linux") {
        assert!(before > 1.0 && after < 1.05 * before, "{before} MB after {early} steps, {after} MB after {steps}");
    }
    check_report(&out);
}

/// Runs the test below in a process of its own.
fn run_alone(steps: u64, off_policy: u64, out: &Path) {
    let since = Instant::now();
    let mut alone = Command::new(env::current_exe().expect("this program"));
    alone.args(["memory::long_runs::a_run_in_its_own_process", "--exact", "--ignored"]);
    alone.env(STEPS, steps.to_string()).env(OFF_POLICY, off_policy.to_string()).env(OUT, out);
    // Freed memory goes back to the system at once.
    alone.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_ARENA_MAX", "1");
    let output = alone.output().expect("the process starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    println!("{steps} steps took {:.0} s", since.elapsed().as_secs_f64());
}

#[test]
#[ignore = "run by the tests above, in its own process"]
fn a_run_in_its_own_process() {
    let setting = |name: &str| env::var(name).expect(name).parse::<u64>().expect("a number");
    let world = World::new();
    let mut config = RunConfig { max_steps: setting(STEPS), ..world.off_policy(setting(OFF_POLICY)) };
    config.eval = EvalConfig { interval: 100, ..config.eval };
    config.ckpt.interval = 100;
    config.filter.zero_variance = true;
    config.log.compression = Compression::Zstd;
    let latency = |request: &Request| Duration::from_millis(request.seed % 900);
    let engine = Arc::new(world.engine_without_variance().with_latency(latency));
    let trainer = |state| ScriptedTrainer::new(state, Duration::from_millis(500));
    // No deadline: many steps take their time.
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let end = runtime.block_on(async {
        let run = prepare_scripted(&config, &PathBuf::from(env::var_os(OUT).expect(OUT)), trainer).expect("a run");
        start(run, engine, never()).await
    });
    check_finished(&end.expect("a good end"));
}

/// The run did what runs do: it dropped groups, evaluated, logged every step and saved the last.
fn check_whole(lines: &[Line], out: &Path, steps: u64) {
    let end = lines.last().expect("a line");
    assert_eq!((lines.len() as u64, number(end, "step") as u64, newest_step(out)), (steps, steps, steps));
    assert_eq!(total(end, "trained"), (steps * B as u64) as f64);
    assert!(number(end, "groups/dropped") > 0.1 * total(end, "trained"), "{end:?}");
    assert!(lines.iter().filter(|line| line.contains_key("eval/mean/reward")).count() as u64 == steps / 100);
    [1, steps].iter().for_each(|step| assert_eq!(rollouts(out, *step).lines().count(), B * G));
}

/// The report of a long run stays small, and is made in little time.
fn check_report(out: &Path) {
    let since = Instant::now();
    let bytes = report::run(&[out.to_path_buf()], &out.join("report.html")).expect("a report");
    let seconds = since.elapsed().as_secs_f64();
    println!("a report of {} kB in {seconds:.1} s", bytes / 1000);
    assert!(bytes < 3_000_000 && seconds < 30.0, "{bytes} bytes in {seconds} s");
}
