//! `curriculum replay` and `curriculum bench`.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::fixtures::program::{Workspace, parse, printed, program, text};
use crate::fixtures::root;
use crate::fixtures::wait_until;

#[test]
fn a_curriculum_is_replayed() {
    let work = Workspace::new();
    let config = root().join("configs/kk-tiny.toml").display().to_string();
    let events = root().join("tests/golden/curriculum_events.jsonl").display().to_string();
    let replay =
        |sets: &[&str]| printed(&[&["curriculum", "replay", "--config", &config, "--events", &events], sets].concat());
    let said = replay(&[]);
    let names: Vec<String> = (3..=14).map(|people| format!("kk_logic_{people}")).collect();
    let steps: Vec<Value> = said.lines().map(parse).collect();
    assert_eq!(steps.iter().map(|it| it["step"].as_u64()).collect::<Vec<_>>(), (1..=60).map(Some).collect::<Vec<_>>());
    for step in &steps {
        let weights = step["weights"].as_object().expect("weights");
        assert_eq!(weights.keys().cloned().collect::<Vec<_>>(), names);
        let sum: f64 = weights.values().filter_map(Value::as_f64).sum();
        assert!((sum - 1.0).abs() < 1e-9 && weights.values().all(|w| w.as_f64() >= Some(0.0)), "{step}");
    }
    assert_ne!(steps[0]["weights"], steps[59]["weights"]);
    assert_ne!(replay(&["--set", "curriculum.count=groups"]), said);
    let uniform = replay(&["--set", "curriculum.policy=uniform"]);
    assert!(uniform.lines().all(|line| parse(line)["weights"]["kk_logic_9"] == 1.0 / 12.0));
    let wrong = work.file("events.jsonl", "{\"step\": 1, \"observations\": []}\n{\"step\": 2}\n");
    work.refused(
        &["curriculum", "replay", "--config", &config, "--events", &wrong],
        &["events.jsonl:2", "observations"],
    );
    work.refused(&["curriculum", "replay", "--config", &config, "--events", "nowhere.jsonl"], &["nowhere.jsonl"]);
    let set = ["curriculum", "replay", "--config", &config, "--events", &events, "--set", "curriculum.window=0"];
    work.refused(&set, &["curriculum.window", "at least 1"]);
}

#[test]
fn policies_are_compared_and_finished_runs_are_kept() {
    let work = Workspace::new();
    let config = work.good_config();
    let out = work.path("bench").display().to_string();
    let compare = |policies: &str| {
        let args = ["curriculum", "bench", &config, "--policies", policies, "--seeds", "2", "--out", &out];
        printed(&[&args[..], &["--set", "eval.interval=1"]].concat())
    };
    let said = compare("uniform,dump[count=groups]");
    assert_eq!(said.matches("took").count(), 4, "{said}");
    let log = fs::read_to_string(work.path("bench/uniform/seed_0/run.log")).expect("a log");
    assert!(log.starts_with("model ") && log.contains("step    2/2") && log.contains("done in"), "{log}");
    let json = || parse(&fs::read_to_string(work.path("bench/bench.json")).expect("results"));
    let curve = json()["rows"][1]["curves"][1].clone();
    assert_eq!(curve["points"].as_array().map(Vec::len), Some(3));
    // A run that was cut off before its first checkpoint is made again, with the same result. The others are only read.
    let cut = work.path("bench/dump_count=groups/seed_1");
    fs::remove_dir_all(cut.join("checkpoints")).expect("checkpoints");
    fs::write(cut.join("metrics.jsonl"), "").expect("metrics");
    let said = compare("uniform,dump[count=groups]");
    assert_eq!(said.matches("took").count(), 1, "{said}");
    let rewards = |curve: &Value| -> Vec<Value> {
        curve["points"].as_array().expect("points").iter().map(|point| point["reward"].clone()).collect()
    };
    assert_eq!(rewards(&json()["rows"][1]["curves"][1]), rewards(&curve));

    let refused = |policies: &str, words: &[&str]| {
        work.refused(&["curriculum", "bench", &config, "--policies", policies, "--out", &out], words);
    };
    refused("uniform,dmup", &["curriculum.policy", "dump"]);
    refused("dump[tau=1]", &["curriculum.dump.tau"]);
    refused("sec[alpha=2]", &["curriculum.sec.alpha"]);
    refused("fixed_mix[curriculum.fixed_mix.weights={kk_logic_9=1}]", &["kk_logic_9", "kk_logic_3"]);
    let other = |set: &[&str], words: &[&str]| {
        let args = ["curriculum", "bench", &config, "--policies", "uniform", "--out", &out];
        work.refused(&[&args[..], set].concat(), words);
    };
    other(&["--set", "eval.interval=1", "--set", "optim.lr=0.5"], &["optim.lr was"]);
    other(&[], &["eval.interval was 1", "--out"]);
    other(&["--set", "eval.interval=1", "--targets", "nan"], &["--targets", "finite"]);
    let lock = dump_rl::files::lock(&work.path("bench/uniform/seed_0")).expect("no other program uses it");
    other(&["--set", "eval.interval=1"], &["seed_0", "another dump-rl"]);
    drop(lock);

    let runs = ["uniform/seed_0", "uniform/seed_1", "dump_count=groups/seed_0"].map(|run| format!("{out}/{run}"));
    let fit = |runs: &[String]| -> Vec<String> {
        ["curriculum", "fit", "--seeds", "3"].map(String::from).iter().chain(runs).cloned().collect()
    };
    let said = printed(&fit(&runs).iter().map(String::as_str).collect::<Vec<_>>());
    for words in ["[simulate]", "skills = [", "of 3 runs", "uniform", "dump_count=groups", "of 1 pairs of policies"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let refused = |run: &str, words: &[&str]| work.refused(&["curriculum", "fit", &runs[0], run], words);
    refused("nowhere", &["nowhere/config.toml"]);
    let metrics = work.path("bench/uniform/seed_1/metrics.jsonl");
    let text = fs::read_to_string(&metrics).expect("metrics");
    let [first, rest] = text.split_once('\n').map(|(first, rest)| [first, rest]).expect("lines");
    fs::write(&metrics, format!("{first}\n")).expect("a file");
    refused(&runs[1], &["uniform/seed_1", "not finished", "--resume"]);
    fs::write(&metrics, rest).expect("a file");
    refused(&runs[1], &["metrics.jsonl", "no evaluation at step 0", "eval.interval"]);
}

/// A signal stops the runs at a checkpoint. The same command then goes on.
#[test]
fn a_stopped_comparison_goes_on() {
    let work = Workspace::new();
    let (config, out) = (work.good_config(), work.path("bench").display().to_string());
    let args = ["curriculum", "bench", &config, "--policies", "uniform", "--seeds", "1", "--out", &out];
    let sets = ["--set", "eval.interval=1", "--set", "max_steps=40"];
    let mut child = program().args(args).args(sets).stdout(Stdio::piped()).spawn().expect("the program starts");
    let metrics = work.path("bench/uniform/seed_0/metrics.jsonl");
    wait_until("three lines of metrics", || {
        assert!(child.try_wait().expect("a state").is_none(), "it ended before it could be stopped");
        fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) >= 3
    });
    Command::new("kill").arg(child.id().to_string()).status().expect("a signal");
    let output = child.wait_with_output().expect("it ends");
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("stopped at a checkpoint"), "{said}");
    let steps = fs::read_to_string(&metrics).expect("metrics").lines().count();
    assert!(steps < 41, "it was not stopped");
    let said = printed(&[&args[..], &sets].concat());
    assert!(said.contains("took") && said.contains("uniform"), "{said}");
    assert_eq!(fs::read_to_string(&metrics).expect("metrics").lines().count(), 41);
}

#[test]
fn a_simulation_says_that_it_is_one() {
    let work = Workspace::new();
    let (config, out) = (work.good_config(), work.path("bench").display().to_string());
    let said = printed(&["curriculum", "bench", &config, "--simulate", "--seeds", "20", "--out", &out]);
    assert!(said.starts_with("SIMULATION"), "{said}");
    let json = parse(&fs::read_to_string(work.path("bench/simulation.json")).expect("results"));
    assert_eq!(
        (json["simulated"].clone(), json["rows"][0]["curves"].as_array().map(Vec::len)),
        (true.into(), Some(20))
    );
}
