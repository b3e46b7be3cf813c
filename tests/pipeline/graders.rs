//! Runs whose grader is a program: a shell script.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dump_rl::config::eval::EvalConfig;
use dump_rl::config::grader::GraderConfig;
use dump_rl::config::grader_spec::{ExternalSpec, GraderSpec, PartSpec, Program};
use dump_rl::config::run::RunConfig;
use serde_json::{Value, json};

use crate::fixtures::records::{all_metrics, check_ledger, dropped, metrics, number, rollouts};
use crate::fixtures::runs::{FOREVER, fail, finish};
use crate::fixtures::world::{B, G, STEPS, World};

/// Scores a completion by its length. `$first` runs before.
fn script(first: &str, workers: usize) -> GraderSpec {
    let text = format!(
        r#"
while read -r line; do
  id=${{line#*\"id\":}}; id=${{id%%,*}}
  text=${{line#*\"completion\":\"}}; text=${{text%%\",\"ground_truth*}}
  {first}
  echo "{{\"id\": $id, \"score\": ${{#text}}, \"parts\": {{\"length\": ${{#text}}}}}}"
done"#
    );
    let words = ["sh", "-c", &text].map(str::to_string).to_vec();
    GraderSpec::External(ExternalSpec { workers, ..ExternalSpec::new(Program::Command(words)) })
}

/// Runs `command` for test rows alone. Training rows are graded at the same time as those of an evaluation.
fn for_test_rows(command: &str) -> String {
    format!(r#"case $line in *'"split":"test"'*) {command};; esac"#)
}

fn graded_by(config: RunConfig, always: GraderSpec) -> RunConfig {
    RunConfig { grader: GraderConfig { always, ..config.grader.clone() }, ..config }
}

#[test]
fn synchronous_runs_with_a_program_are_equal() {
    let world = World::new();
    let outs = [1, 3].map(|workers| {
        let config = graded_by(world.config(), script("", workers));
        let config = RunConfig { eval: EvalConfig { interval: 2, ..config.eval }, ..config };
        let out = world.out(&format!("{workers} workers"));
        finish(&config, &out, world.engine().with_latency(|it| Duration::from_millis(it.seed % 20)));
        assert_eq!(check_evaluated(&out), 0);
        out
    });
    let [a, b] = &outs;
    let seen = |out| metrics(out).into_iter().map(|line| Value::Object(line).to_string()).collect::<Vec<_>>();
    assert_eq!(seen(a), seen(b));
    for step in 1..=STEPS {
        assert_eq!(rollouts(a, step), rollouts(b, step));
    }
    // Every completion has the score that its length says.
    for line in rollouts(a, 1).lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let text = line["completion"].to_string();
        let length = (text.chars().count() - 2) as f64;
        assert_eq!((line["reward"].as_f64(), line["parts"]["length"].as_f64()), (Some(length), Some(length)), "{line}");
    }
}

/// The groups dropped at the end of a run that has evaluations.
fn check_evaluated(out: &std::path::Path) -> u64 {
    let lines = metrics(out);
    assert!(lines.iter().any(|line| line.contains_key("eval/mean/reward")));
    number(lines.last().expect("a line"), "groups/dropped") as u64
}

#[test]
fn a_weighted_sum_of_the_same_grader_is_the_same_run() {
    let world = World::new();
    let part = |name: &str, grader: &str| PartSpec { name: name.into(), grader: grader.into(), weight: 1.0 };
    let parts = GraderSpec::Parts(vec![part("format", "format"), part("answer", "kk")]);
    let (plain, sum) = (world.out("plain"), world.out("sum"));
    finish(&world.config(), &plain, world.engine());
    finish(&graded_by(world.config(), parts), &sum, world.engine());
    for (first, second) in metrics(&plain).iter().zip(&metrics(&sum)) {
        first.iter().for_each(|(name, value)| assert_eq!(Some(value), second.get(name), "{name}"));
    }
    assert_eq!(metrics(&plain).len(), STEPS as usize);
}

#[test]
fn a_grader_that_fails_once_and_dies_once_does_not_end_the_run() {
    let world = World::new();
    for eta in [0, 1] {
        let locks = world.out(&format!("locks {eta}"));
        std::fs::create_dir(&locks).expect("a folder");
        let locks = locks.display();
        let first = format!(
            r#"if mkdir "{locks}/a" 2>/dev/null; then echo "{{\"id\": $id, \"error\": \"no luck\"}}"; continue; fi
               if mkdir "{locks}/b" 2>/dev/null; then exit 3; fi"#
        );
        let (config, out) = (graded_by(world.off_policy(eta), script(&first, 1)), world.out(&format!("{eta}")));
        finish(&config, &out, world.engine());
        assert_eq!(check_ledger(&out), 1);
        assert_eq!(dropped(&out), json!({"ungraded": 1}));
        let last = all_metrics(&out).pop().expect("a line");
        assert_eq!((number(&last, "groups/ungraded"), number(&last, "grader/restarts")), (1.0, 1.0));
        assert_eq!((number(&last, "grader/failures"), number(&last, "grader/timeouts")), (1.0, 0.0));
        assert!(number(&last, "rewards/length/mean") > 0.0);
        // With overlap, all groups of a step may be graded during the step before.
        assert!(all_metrics(&out).iter().map(|line| number(line, "time/grade")).sum::<f64>() > 0.0);
    }
}

#[test]
fn three_groups_in_a_row_that_cannot_be_graded_end_the_run() {
    let world = World::new();
    for (eta, first, words) in [
        (0, r#"echo "{\"id\": $id, \"error\": \"no luck\"}"; continue"#, "it says: no luck"),
        (1, "echo broken >&2; exit 7", "exit status: 7; its last words: broken"),
    ] {
        let config = graded_by(world.off_policy(eta), script(first, 2));
        let error = fail(&config, &world.out(&format!("{eta}")), world.engine());
        assert!(error.contains("3 groups in a row could not be graded") && error.contains(words), "{error}");
    }
}

/// A program that does not answer is killed and asked again. One that never answers ends the run.
#[test]
fn a_grader_that_hangs_is_timed_out() {
    let world = World::new();
    let hung = world.out("hung");
    let with_retries = |first: &str, retries| match script(first, 1) {
        GraderSpec::External(spec) => {
            GraderSpec::External(ExternalSpec { timeout_s: 1.0, start_timeout_s: 1.0, retries, ..spec })
        }
        other => other,
    };
    let once = format!(r#"if mkdir "{}" 2>/dev/null; then sleep 60; fi"#, hung.display());
    let out = world.out("once");
    finish(&graded_by(world.config(), with_retries(&once, 2)), &out, world.engine());
    assert_eq!(check_ledger(&out), 0);
    assert!(number(&all_metrics(&out).pop().expect("a line"), "grader/timeouts") >= 1.0);
    let error = fail(&graded_by(world.config(), with_retries("sleep 60", 0)), &world.out("always"), world.engine());
    assert!(
        error.contains("3 groups in a row could not be graded") && error.contains("no reply within 1 s"),
        "{error}"
    );
    assert!(error.contains(" of kk_logic_"), "{error}");
}

#[test]
fn an_evaluation_that_cannot_be_graded_ends_the_run() {
    let world = World::new();
    let config = graded_by(world.config(), script(&for_test_rows("echo nonsense; continue"), 1));
    let config = RunConfig { eval: EvalConfig { interval: 1, ..config.eval }, ..config };
    // Groups are never answered: theirs would fail as well, and perhaps earlier.
    let engine = world.engine().with_latency(|request| if request.group_size == G { FOREVER } else { Duration::ZERO });
    let error = fail(&config, &world.out("a"), engine);
    assert!(error.contains("3 test rows in a row could not be graded") && error.contains("nonsense"), "{error}");
}

/// Generation of 5 batches takes 5 · 0.2 s, and grading of each group 1 s. If a group held its slot while it is graded, the
/// last one would be generated after 5 s.
#[test]
fn a_slow_grader_does_not_hold_back_the_engine() {
    let world = World::new();
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    let engine = world.engine_that(move |request| {
        if request.group_size == G {
            seen.lock().expect("a lock").push(Instant::now());
        }
    });
    let config = graded_by(world.off_policy(STEPS - 1), script("sleep 1", 30));
    finish(&config, &world.out("a"), engine.with_latency(|_| Duration::from_millis(200)));
    let times = times.lock().expect("a lock");
    assert_eq!(times.len(), STEPS as usize * B);
    let took = times.iter().max().expect("a time").duration_since(*times.iter().min().expect("a time"));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// One test row that cannot be graded is left out, and the run goes on.
#[test]
fn an_evaluation_survives_a_row_that_cannot_be_graded() {
    let world = World::new();
    let once = world.out("once");
    let fails_once = format!(
        r#"if mkdir "{}" 2>/dev/null; then echo "{{\"id\": $id, \"error\": \"no luck\"}}"; continue; fi"#,
        once.display()
    );
    let config = graded_by(world.config(), script(&for_test_rows(&fails_once), 1));
    let config = RunConfig { eval: EvalConfig { interval: 1, ..config.eval }, ..config };
    let out = world.out("a");
    finish(&config, &out, world.engine());
    assert!(once.exists(), "no test row failed");
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    assert!(metrics.lines().count() > 1 && !metrics.contains("null"), "{metrics}");
}
