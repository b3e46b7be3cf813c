//! Graders that behave well and badly, as shell scripts, and a server.

#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use temp_dir::TempDir;

use super::*;
use crate::config::grader_spec::{PartSpec, Program, PythonFunction};
use crate::task::grade::Verdict;
use crate::task::graders::Judge;
use crate::task::graders::answer::Mode;
use crate::task::{Message, RewardModel};

/// Reads the id of a request and the number that its completion is, into `id` and `n`.
const READ: &str = r#"
while read -r line; do
  id=${line#*\"id\":}; id=${id%%,*}
  n=${line#*\"completion\":\"}; n=${n%%\"*}
"#;

fn row() -> Row {
    Row {
        data_source: "mine".into(),
        prompt: vec![Message::new("user", "?")],
        ability: String::new(),
        reward_model: RewardModel::rule("4"),
        extra_info: json!({"level": 2}),
    }
}

/// A grader whose loop has this body.
fn script(body: &str) -> ExternalSpec {
    program(&format!("{READ}\n{body}\ndone"))
}

fn program(text: &str) -> ExternalSpec {
    let words = ["sh", "-c", text].map(str::to_string).to_vec();
    ExternalSpec { workers: 1, start_timeout_s: 5.0, ..ExternalSpec::new(Program::Command(words)) }
}

/// A grader that is built in, and has a fault: it panics at empty texts.
#[derive(Debug)]
struct Faulty;

impl Judge for Faulty {
    fn verdict(&self, completion: &str, _mode: Mode) -> Verdict {
        assert!(!completion.is_empty(), "no first word");
        Verdict::Right
    }
}

#[test]
fn a_built_in_grader_that_panics_is_an_error_with_its_name() {
    let scorer = RowScorer::Rule(Grader::new("faulty", Arc::new(Faulty), &Graders::default()));
    let grade =
        |texts: &[&str]| block_on(scorer.grade(&row(), &texts.iter().map(ToString::to_string).collect::<Vec<_>>()));
    let error = grade(&["4", "", "4"]).unwrap_err().to_string();
    assert_eq!(error, "the grader faulty: panicked at completion 1: no first word; this is a bug");
    // The next group is graded as if nothing had been.
    assert_eq!(grade(&["4", "4"]).map(|grades| grades.len()), Ok(2));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Each completion, graded together with all others.
fn grade_each(scorers: &Scorers, spec: &GraderSpec, completions: &[&str]) -> Vec<Result<Grade, String>> {
    let scorer = scorers.for_row(&row(), Some(spec)).unwrap();
    let started: Vec<_> = completions.iter().map(|text| scorer.start(&row(), &[text.to_string()])).collect();
    block_on(async {
        let mut grades = Vec::new();
        for grade in started {
            grades.push(grade.await.map(|mut it| it.remove(0)).map_err(|e| e.to_string()));
        }
        grades
    })
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn scores(grades: &[Result<Grade, String>]) -> Vec<Option<f32>> {
    grades.iter().map(|grade| grade.as_ref().ok().map(Grade::score)).collect()
}

fn check(spec: ExternalSpec, completions: &[&str], expected: &[Option<f32>], words: &str) -> Scorers {
    let scorers = Scorers::default();
    let grades = grade_each(&scorers, &GraderSpec::External(spec), completions);
    assert_eq!(scores(&grades), expected, "{grades:?}");
    for error in grades.iter().filter_map(|grade| grade.as_ref().err()) {
        assert!(error.contains(words), "{error}");
    }
    scorers
}

const ECHO: &str = r#"echo "{\"id\": $id, \"score\": $n}""#;

#[test]
fn replies_in_any_order_reach_their_completions() {
    // Answers pairs in reverse.
    let pairs = r#"if [ -n "$held" ]; then echo "{\"id\": $id, \"score\": $n}"; echo "$held"; held=; else held="{\"id\": $id, \"score\": $n}"; fi"#;
    for workers in [1, 2] {
        let texts = numbers(400);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let expected: Vec<_> = (0..400).map(|n| Some(n as f32)).collect();
        let scorers = check(ExternalSpec { workers, ..script(ECHO) }, &texts, &expected, "");
        assert_eq!(scorers.stats().restarts.load(Relaxed), 0);
        if workers == 1 {
            check(script(pairs), &texts, &expected, "");
        }
    }
}

#[test]
fn one_completion_that_kills_processes_fails_alone() {
    let body = format!("if [ $n = 3 ]; then echo 'out of luck' >&2; exit 9; fi; {ECHO}");
    let expected = [Some(0.0), Some(1.0), Some(2.0), None, Some(4.0), Some(5.0)];
    let scorers =
        check(script(&body), &["0", "1", "2", "3", "4", "5"], &expected, "exit status: 9; its last words: out of luck");
    assert_eq!(scorers.stats().failures.load(Relaxed), 1);
    assert!(scorers.stats().restarts.load(Relaxed) >= 3);
}

#[test]
fn a_process_that_ends_now_and_then_is_started_again() {
    let scorers = check(script(&format!("{ECHO}; exit 0")), &["1", "2", "3", "4"], &[1.0, 2.0, 3.0, 4.0].map(Some), "");
    assert_eq!(scorers.stats().failures.load(Relaxed), 0);
}

#[test]
fn a_completion_that_takes_too_long_fails_alone() {
    let body = format!("if [ $n = 1 ]; then sleep 100; fi; {ECHO}");
    let spec = ExternalSpec { timeout_s: 0.3, start_timeout_s: 0.5, ..script(&body) };
    let since = Instant::now();
    let scorers = check(spec, &["0", "1", "2"], &[Some(0.0), None, Some(2.0)], "no reply within 0.3 s");
    assert!(scorers.stats().timeouts.load(Relaxed) == 2);
    drop(scorers);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[test]
fn nonsense_is_quoted() {
    check(script("echo hello"), &["1"], &[None], "not a reply (other output belongs on standard error): \"hello\"");
    check(script(r#"echo "{\"id\": 99, \"score\": 1}""#), &["1"], &[None], "id 99");
    let nan = format!(r#"if [ $n = 1 ]; then echo "{{\"id\": $id, \"score\": NaN}}"; else {ECHO}; fi"#);
    let scorers = check(script(&nan), &["0", "1", "2"], &[Some(0.0), None, Some(2.0)], "`score` must be a number from");
    assert_eq!(scorers.stats().restarts.load(Relaxed), 0, "only the completion fails");
    // The second reply to one id cannot be another completion's.
    check(script(&format!("{ECHO}; {ECHO}")), &["1"], &[Some(1.0)], "");
}

#[test]
fn output_without_end_is_bounded() {
    check(script("yes | tr -d '\\n'"), &["1"], &[None], "a line of more than 1048576 bytes");
    check(script("yes"), &["1"], &[None], "\"y\"");
    check(script("yes ''"), &["1"], &[None], "empty lines without end");
    check(script(&format!("yes >&2 & sleep 0.1; kill $!; {ECHO}")), &["1"], &[Some(1.0)], "");
}

#[test]
fn a_program_that_is_not_there_is_found_out_before_anything_runs() {
    let error = |spec| Scorers::default().for_row(&row(), Some(&spec)).err().unwrap();
    let command = |word: &str| GraderSpec::External(ExternalSpec::new(Program::Command(vec![word.into()])));
    assert!(error(command("no-such-program")).contains("\"no-such-program\" is not there"));
    assert!(error(command("/etc/passwd")).contains("cannot be executed"));
    let verl = PythonFunction { place: "/no/such.py".into(), python: "sh".into() };
    assert!(error(GraderSpec::External(ExternalSpec::new(Program::Verl(verl)))).contains("no file /no/such.py"));
    let config = GraderConfig { always: command("no-such-program"), ..GraderConfig::default() };
    assert_eq!(Scorers::new(&config).err().unwrap().key, "always");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_limited() {
    let body = format!("if [ $n = 1 ]; then big=$(head -c 400000000 /dev/zero | tr '\\0' x); fi; {ECHO}");
    let spec = ExternalSpec { memory_mb: 100, ..script(&body) };
    let grades = grade_each(&Scorers::default(), &GraderSpec::External(spec), &["0", "1", "2"]);
    assert_eq!((scores(&grades)[0], scores(&grades)[2]), (Some(0.0), Some(2.0)), "{grades:?}");
    assert!(grades[1].is_err() || cfg!(not(target_os = "linux")), "{grades:?}");
}

#[test]
fn processes_end_with_their_grader() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("pid");
    let scorers = check(script(&format!("echo $$ > {}; {ECHO}", file.display())), &["1"], &[Some(1.0)], "");
    let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let runs = || rustix::process::test_kill_process(rustix::process::Pid::from_raw(pid).unwrap()).is_ok();
    let is_zombie = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    assert!(runs());
    drop(scorers);
    let since = Instant::now();
    while runs() && !is_zombie() {
        assert!(since.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn weighted_sums_add_their_parts() {
    let part = |name: &str, grader: GraderSpec, weight| PartSpec { name: name.into(), grader, weight };
    let style = GraderSpec::External(script(r#"echo "{\"id\": $id, \"score\": 0.5, \"parts\": {\"short\": 1}}""#));
    let spec = GraderSpec::Parts(vec![
        part("format", "format".into(), 2.0),
        part("answer", "math".into(), 1.0),
        part("style", style, -0.5),
    ]);
    let complete = |answer: &str| format!("<think>a</think><answer>{answer}</answer>");
    let (right, wrong) = (complete("4"), complete("5"));
    let grades = grade_each(&Scorers::default(), &spec, &[&right, &wrong]);
    // 2 · 1 + 2 − 0.5 · 0.5 and 2 · 1 − 1.5 − 0.25.
    assert_eq!(scores(&grades), [Some(3.75), Some(0.25)]);
    let grade = grades[0].as_ref().unwrap();
    assert_eq!((grade.format_score, grade.answer_score), (2.0, 1.75));
    let part = |name| grade.part(name);
    assert_eq!([part("format"), part("answer"), part("style"), part("style.short")], [1.0, 2.0, 0.5, 1.0].map(Some));
    assert_eq!(grades.iter().map(|it| it.as_ref().unwrap().right).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn the_configuration_and_the_row_choose() {
    let table = GraderSpec::External(script(ECHO));
    let label = |config: GraderConfig, source: &str| {
        let row = Row { data_source: source.into(), ..row() };
        Scorers::new(&config).unwrap().for_row(&row, None).map(|it| it.is_rule())
    };
    let config = GraderConfig::default;
    assert_eq!(label(GraderConfig { default: table.clone(), ..config() }, "mine"), Ok(false));
    assert_eq!(label(GraderConfig { default: table.clone(), ..config() }, "math"), Ok(true));
    assert_eq!(label(GraderConfig { always: table, ..config() }, "math"), Ok(false));
    assert_eq!(label(GraderConfig { always: "math".into(), ..config() }, "mine"), Ok(true));
    assert!(label(config(), "mine").is_err());
}

/// A server that answers each request with what `answer` makes of its number and its items: a status and a body.
fn serve(answer: impl Fn(usize, &[Value]) -> (u16, String) + Send + 'static) -> ExternalSpec {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/grade", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let items: Value = serde_json::from_slice(&body).unwrap();
            let (status, body) = answer(number, items["items"].as_array().unwrap());
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            drop(reader.get_mut().write_all((head + &body).as_bytes()));
        }
    });
    ExternalSpec { workers: 1, timeout_s: 2.0, ..ExternalSpec::new(Program::Http(url)) }
}

fn replies(items: &[Value]) -> String {
    let reply =
        |item: &Value| json!({"id": item["id"], "score": item["completion"].as_str().unwrap().parse::<f32>().unwrap()});
    // In reverse: the order does not matter.
    json!({"replies": items.iter().rev().map(reply).collect::<Vec<_>>()}).to_string()
}

#[test]
fn servers_are_asked_in_batches_and_again_after_a_5xx() {
    let (one, two, three) = (Some(1.0), Some(2.0), Some(3.0));
    check(serve(|_, items| (200, replies(items))), &["1", "2", "3"], &[one, two, three], "");
    let scorers = check(
        serve(|number, items| if number == 0 { (500, "busy".into()) } else { (200, replies(items)) }),
        &["1", "2"],
        &[one, two],
        "",
    );
    assert_eq!(scorers.stats().restarts.load(Relaxed), 1);
    let scorers = check(serve(|_, _| (404, "no such page".into())), &["1"], &[None], "status 404: no such page");
    assert_eq!(scorers.stats().restarts.load(Relaxed), 0, "never again after a 4xx");
    let failing = ExternalSpec { retries: 1, ..serve(|_, _| (503, "down".into())) };
    check(failing, &["1"], &[None], "status 503: down");
}

#[test]
fn wrong_answers_of_servers_are_named() {
    check(serve(|_, _| (200, "hello".into())), &["1"], &[None], "not JSON: \"hello\"");
    check(serve(|_, _| (200, "{}".into())), &["1"], &[None], "expected {\"replies\"");
    check(
        serve(|_, _| (200, r#"{"replies": [{"id": 99, "score": 1}]}"#.into())),
        &["1"],
        &[None],
        "no reply has the id 0",
    );
    let twice = |_: usize, items: &[Value]| {
        let reply = json!({"id": items[0]["id"], "score": 1});
        (200, json!({"replies": [reply, reply]}).to_string())
    };
    check(serve(twice), &["1"], &[None], "two replies have the id 0");
    let slow = |_: usize, items: &[Value]| {
        std::thread::sleep(Duration::from_secs(1));
        (200, replies(items))
    };
    check(ExternalSpec { timeout_s: 0.2, retries: 0, ..serve(slow) }, &["1"], &[None], "no answer");
    let nobody = ExternalSpec { retries: 0, ..ExternalSpec::new(Program::Http("http://127.0.0.1:9/".into())) };
    check(nobody, &["1"], &[None], "no answer");
}

/// A file with functions as verl and TRL call them; none without Python.
fn python(text: &str) -> Option<(TempDir, String)> {
    if !std::process::Command::new("python3").arg("--version").output().is_ok_and(|it| it.status.success()) {
        println!("skipped: there is no python3");
        return None;
    }
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("reward.py");
    std::fs::write(&file, text).unwrap();
    let place = file.display().to_string();
    Some((folder, place))
}

const FUNCTIONS: &str = r#"
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    print("a line that is not a reply")
    assert data_source == "mine" and ground_truth == "4" and extra_info == {"level": 2}
    if solution_str == "bool": return True
    if solution_str == "dict": return {"score": 0.5, "acc": False, "length": 3, "note": "x"}
    if solution_str == "nan": return float("nan")
    return float(solution_str)

def reward(completions, prompts, level, solution, **kwargs):
    assert prompts == [[{"role": "user", "content": "?"}]] and level == [2] and solution == ["4"]
    return [None if c[0]["content"] == "none" else float(c[0]["content"]) for c in completions]

async def later(completions):
    return [float(c[0]["content"]) for c in completions]
"#;

#[test]
fn functions_for_verl_and_trl_run_unchanged() {
    let Some((_folder, place)) = python(FUNCTIONS) else { return };
    let spec = |program: fn(PythonFunction) -> Program, name: &str| {
        let function = PythonFunction { place: format!("{place}{name}"), python: "python3".into() };
        GraderSpec::External(ExternalSpec { workers: 1, ..ExternalSpec::new(program(function)) })
    };
    let scorers = Scorers::default();
    let grades = grade_each(&scorers, &spec(Program::Verl, ""), &["1.5", "bool", "dict", "nan", "x"]);
    assert_eq!(scores(&grades), [Some(1.5), Some(1.0), Some(0.5), None, None], "{grades:?}");
    let dict = grades[2].as_ref().unwrap();
    assert_eq!((dict.right, dict.part("length"), dict.part("note")), (false, Some(3.0), None));
    assert!(grades[4].as_ref().unwrap_err().contains("it says: ValueError: could not convert"), "{grades:?}");
    let grades = grade_each(&scorers, &spec(Program::Trl, ":reward"), &["1", "none", "-2"]);
    assert_eq!(scores(&grades), [Some(1.0), Some(0.0), Some(-2.0)], "{grades:?}");
    assert_eq!(scores(&grade_each(&scorers, &spec(Program::Trl, ":later"), &["3"])), [Some(3.0)]);
    assert_eq!(scorers.stats().restarts.load(Relaxed), 0);
    scorers.check(&spec(Program::Verl, ":nothing")).unwrap();
    let error = scorers.load_functions().unwrap_err();
    assert!(error.contains("cannot be loaded") && error.contains("has no function nothing"), "{error}");
}

/// Prints completions per second: `cargo test --release speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed_of_one_python_process() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reward.py");
    let words = ["python3", example].map(str::to_string).to_vec();
    let verl = PythonFunction {
        place: python(FUNCTIONS).map(|(folder, place)| (std::mem::forget(folder), place).1).unwrap(),
        python: "python3".into(),
    };
    for program in [Program::Command(words), Program::Verl(verl)] {
        let spec = GraderSpec::External(ExternalSpec { workers: 1, ..ExternalSpec::new(program) });
        let scorers = Scorers::default();
        grade_each(&scorers, &spec, &["1"]);
        let texts = vec!["4".to_string(); 8];
        let since = Instant::now();
        let scorer = scorers.for_row(&row(), Some(&spec)).unwrap();
        let started: Vec<_> = (0..5000).map(|_| scorer.start(&row(), &texts)).collect();
        block_on(async {
            for grades in started {
                grades.await.unwrap();
            }
        });
        println!("{}: {:.0} completions per second", scorer.label(), 40_000.0 / since.elapsed().as_secs_f64());
    }
}
