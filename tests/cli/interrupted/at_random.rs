//! Kills at random moments, far more than CI has time for: `just soak`.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::{BATCH_SIZE, GROUP_SIZE, Runs, STEPS, assert_same};
use crate::fixtures::program::{parse, program};
use crate::fixtures::records::log;

/// So many kills, and the run may end. One that never gets far would never end.
const MOST_KILLS: usize = 20;

/// Starts the run in `out`, and kills it after `time`. Whether it still ran.
fn killed_after(runs: &Runs, out: &Path, time: Duration, why: &str) -> bool {
    let mut command = runs.of(program(), out);
    let mut child = command.stderr(Stdio::null()).spawn().expect("the program starts");
    std::thread::sleep(time);
    child.kill().expect("a signal");
    let status = child.wait().expect("a status");
    let was_killed = status.code().is_none();
    assert!(was_killed || status.success(), "{why}: it ended with {status}");
    was_killed
}

/// Kills runs until there were `kills` kills, several in each, and checks what each one leaves in the end. Returns the number of runs.
fn kill_runs(runs: &Runs, kills: usize, check: impl Fn(&Path, &str)) -> u64 {
    let since = Instant::now();
    check(&runs.whole(), "no fault");
    let longest = since.elapsed();
    let (mut done, mut seed) = (0, 0_u64);
    while done < kills {
        let (out, why) = (runs.empty("run"), format!("seed {seed}"));
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let is_killed = |_: &usize| killed_after(runs, &out, longest.mul_f64(random.random()), &why);
        let in_this = (0..MOST_KILLS).take_while(is_killed).count();
        runs.finish(&out, &why);
        check(&out, &why);
        println!("{why}: {in_this} kills");
        (done, seed) = (done + in_this, seed + 1);
    }
    println!("{done} kills at random moments of {seed} runs");
    seed
}

/// The value of an environment variable, or the usual one.
fn wanted(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "long; just soak runs it"]
fn soak_kills() {
    let runs = Runs::new("");
    let whole = runs.whole();
    let ended = kill_runs(&runs, wanted("SOAK_KILLS", 500), |out, why| assert_same(&whole, out, why));
    println!("{ended} runs ended as the uninterrupted one");
}

/// Where generation and training overlap, no two runs are the same. But each step is there once, and each prompt ends once.
#[test]
#[ignore = "long; just soak runs it"]
fn soak_overlapping_kills() {
    let runs = Runs::new("[pipeline]\nmax_off_policy_steps = 2\n");
    let ended = kill_runs(&runs, wanted("SOAK_OVERLAPPING_KILLS", 200), check_books);
    println!("{ended} overlapping runs: every prompt that was dispatched ended exactly once");
}

/// Checks that every step is there once in each file, and that every job ended once: in the batch of its step, or dropped.
fn check_books(out: &Path, why: &str) {
    let [metrics, observed, decided] =
        ["metrics.jsonl", "curriculum.jsonl", "decisions.jsonl"].map(|it| lines(out, it));
    let steps = |lines: &[Value]| lines.iter().filter_map(|line| line["step"].as_u64()).collect::<Vec<_>>();
    assert_eq!(steps(&metrics), Vec::from_iter(0..=STEPS), "{why}: metrics");
    assert_eq!(steps(&observed), Vec::from_iter(1..=STEPS), "{why}: observations");
    assert_eq!(steps(&decided), Vec::from_iter(1..=STEPS), "{why}: decisions");

    let of_arm = |arm| metrics[STEPS as usize][format!("curriculum/{arm}/dispatched")].as_f64();
    let dispatched = ["often", "seldom"].map(of_arm).into_iter().flatten().sum::<f64>() as u64;
    let mut ended: Vec<u64> = decided.iter().flat_map(|line| list(&line["decisions"])).map(job).collect();
    ended.sort_unstable();
    assert_eq!(ended, Vec::from_iter(0..dispatched), "{why}: the jobs that ended");
    let seen = observed.iter().map(|line| list(&line["observations"]).len()).sum::<usize>();
    assert_eq!(seen as u64, dispatched, "{why}: groups that the curriculum observed");
    decided.iter().zip(1..).for_each(|(line, step)| check_rollouts(out, step, &list(&line["decisions"]), why));
}

/// Checks that a step's completions are those of the jobs that it was trained on.
fn check_rollouts(out: &Path, step: u64, decisions: &[Value], why: &str) {
    let trained = decisions.iter().filter(|it| it["outcome"] == "trained").map(|it| (job(it), GROUP_SIZE));
    let mut completions: BTreeMap<u64, usize> = BTreeMap::new();
    for line in lines(out, &format!("rollouts/step_{step}.jsonl")) {
        *completions.entry(job(&line)).or_default() += 1;
    }
    assert_eq!(completions, trained.collect(), "{why}: the completions of step {step}");
    assert_eq!(completions.len(), BATCH_SIZE, "{why}: step {step}");
}

/// The JSON objects in the lines of a run's file.
fn lines(out: &Path, name: &str) -> Vec<Value> {
    log(out, name).lines().map(parse).collect()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_else(|| panic!("{value} is no list"))
}

fn job(value: impl Borrow<Value>) -> u64 {
    value.borrow()["job"].as_u64().expect("a job")
}
