//! Kills and failures of the disk at the calls that change something in the run's folder.

use super::{Ended, Runs, assert_same};
use crate::fixtures::failing_disk::Fault;
use crate::fixtures::records::{metrics, number};

/// In CI every so manieth call fails. A prime, so that all kinds of calls are met.
const STRIDE: usize = 23;

/// Kills the program at every `stride`th call, and once more in the resume. Returns how many kills there were.
fn kill_at_calls(stride: usize) -> usize {
    let runs = Runs::new("");
    let whole = runs.whole();
    let line = metrics(&whole).pop().expect("a line");
    let [often, seldom] = ["often", "seldom"].map(|arm| number(&line, &format!("curriculum/{arm}/learnability")));
    assert!(often != seldom, "nothing was learned, so this test shows little: {line:?}");
    let mut kills = 0;
    for (fault, first) in [(Fault::KillBefore, 1), (Fault::KillWithin, 1 + stride as u64 / 2)] {
        for at in (first..).step_by(stride) {
            let (why, out) = (format!("{fault:?} at call {at}"), runs.empty("run"));
            let (ended, _) = runs.with(fault, at, &out);
            if !ended.was_killed() {
                assert!(ended.status.success(), "{why}: {}", ended.said);
                break;
            }
            kills += 1 + usize::from(runs.with(fault, at, &out).0.was_killed());
            runs.finish(&out, &why);
            assert_same(&whole, &out, &why);
        }
    }
    kills
}

/// Lets the disk fail at every `stride`th call. Returns how many runs ended by it.
fn fail_at_calls(stride: usize) -> usize {
    let runs = Runs::new("");
    let whole = runs.whole();
    let mut stopped = 0;
    for (fault, first) in
        [(Fault::Full, 1), (Fault::ReadOnly, 1 + stride as u64 / 3), (Fault::Once, 1 + stride as u64 / 2)]
    {
        for at in (first..).step_by(stride) {
            let (why, out) = (format!("{fault:?} at call {at}"), runs.empty("run"));
            let (ended, failed) = runs.with(fault, at, &out);
            if failed.is_empty() {
                assert!(ended.status.success(), "{why}: {}", ended.said);
                break;
            }
            stopped += usize::from(is_stopped_by_name(fault, &ended, &failed, &why));
            runs.finish(&out, &why);
            assert_same(&whole, &out, &why);
        }
    }
    stopped
}

/// Whether the run ended as one that failed. Then it has named one of the files and the cause.
fn is_stopped_by_name(fault: Fault, Ended { status, said }: &Ended, failed: &str, why: &str) -> bool {
    let is_named = |path: &str| said.contains(path.trim_end_matches(".tmp"));
    match status.code() {
        Some(0) => assert!(failed.lines().all(may_fail), "{why}: it went on after {failed}: {said}"),
        Some(1 | 2) => {
            let is_told = said.contains(fault.words()) && failed.lines().any(|call| is_named(path(call)));
            assert!(is_told && !said.contains("panicked"), "{why}: {failed} failed, and it said {said}");
        }
        _ => panic!("{why}: it ended with {status}: {said}"),
    }
    !status.success()
}

/// What a run does not need: its log, its report with the sync of the folder after it, and the removal of an old checkpoint, which may
/// get another name for that.
fn may_fail(call: &str) -> bool {
    let is_sync = call.starts_with("fsync") && call.ends_with("/run");
    let is_removal = ["unlink", "rmdir"].iter().any(|name| call.starts_with(name));
    let is_renamed = call.starts_with("rename") && call.ends_with(".tmp");
    is_sync || is_removal || is_renamed || call.contains("run.log") || call.contains("report.html")
}

/// The path in a line about a call.
fn path(call: &str) -> &str {
    call.split_once(' ').map_or("", |(_, path)| path)
}

#[test]
fn a_run_that_is_killed_inside_a_write_goes_on() {
    let kills = kill_at_calls(STRIDE);
    assert!(kills >= 10, "only {kills} kills");
}

#[test]
fn a_disk_that_fails_ends_the_run_by_its_name_and_loses_nothing() {
    let stopped = fail_at_calls(STRIDE);
    assert!(stopped >= 10, "only {stopped} runs met a fault");
}

#[test]
#[ignore = "long; just soak runs it"]
fn soak_every_write() {
    println!("{} kills, at every call that writes: all runs ended as the uninterrupted one", kill_at_calls(1));
    println!("{} runs whose disk failed, at every such call: the same", fail_at_calls(1));
}
