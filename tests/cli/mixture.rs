//! `[[data]]`: mixtures of tasks and files.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::fixtures::program::{DATA, HEAD, Workspace, parse, printed, program, text};

/// 60 rows: `level` 0, 1, 2 in turn, `size` from 0 to 59.
fn sums(work: &Workspace) {
    let row = |i: usize| json!({"data_source": "sums", "prompt": format!("{i} + 1"), "answer": i + 1, "extra_info": {"level": i % 3, "size": i}});
    for (name, rows) in [("sums-0.jsonl", 0..40), ("sums-1.jsonl", 40..60)] {
        work.file(name, rows.map(|i| row(i).to_string() + "\n").collect::<String>());
    }
}

/// 10 rows with columns of their own.
fn animals(work: &Workspace, name: &str) {
    let row =
        |i: usize| json!({"text": format!("{i} owls"), "options": ["cat", "owl"], "label": i % 2, "year": 1990 + i});
    work.file(name, (0..10).map(|i| row(i).to_string() + "\n").collect::<String>());
}

const SUMS: &str = "[[data]]\ntrain_files = [\"sums-*.jsonl\"]\ntest_files = [\"sums-1.jsonl\"]\ngrader = \"number\"\n";
const ANIMALS: &str = "[[data]]\ntrain_files = [\"animals.jsonl\"]\ntest_files = [\"animals.jsonl\"]\ngrader = \"choice\"\n\
    prompt = \"{text}?\\n{options|letters}\"\nanswer = \"{label|letter}\"\ndistribution = \"animals\"\n";
const KK: &str = "[[data]]\ntask = \"kk\"\nlevels = \"3-4\"\ntrain = 4\ntest = 2\n";

/// The names and training rows of the distributions that a dry run shows.
fn distributions(said: &str) -> Vec<(String, usize)> {
    let lines = said.lines().filter_map(|line| line.split_once(" rows, "));
    let words = lines.filter_map(|(start, _)| {
        let mut words = start.split_whitespace();
        Some((words.next()?.to_owned(), words.last()?.parse().ok()?))
    });
    words.collect()
}

fn check(work: &Workspace, tables: &str, more: &[&str], expected: &[(&str, usize)]) -> String {
    let config = work.config(&format!("{HEAD}{tables}"));
    let said = printed(&[&["train", &config, "--dry-run"], more].concat());
    let expected: Vec<_> = expected.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect();
    assert_eq!(distributions(&said), expected, "{tables}\n{said}");
    said
}

#[test]
fn tables_give_the_distributions_of_a_run() {
    let work = Workspace::new();
    sums(&work);
    animals(&work, "animals.jsonl");
    let kk = [("kk_logic_3", 4), ("kk_logic_4", 4)];
    check(&work, &format!("{KK}{SUMS}{ANIMALS}"), &[], &[kk[0], kk[1], ("sums", 60), ("animals", 10)]);
    // A field, and a template.
    let by_level = [("0", 20), ("1", 20), ("2", 20)];
    check(&work, &format!("{SUMS}distribution = \"extra_info.level\"\n"), &[], &by_level);
    let by_level = [("sums/0", 20), ("sums/1", 20), ("sums/2", 20)];
    check(&work, &format!("{SUMS}distribution = \"{{data_source}}/{{level}}\"\n"), &[], &by_level);
    // The values 0 to 59 in three parts, and the lengths of "0 + 1" to "59 + 1".
    let parts = [("sums_q1", 20), ("sums_q2", 20), ("sums_q3", 20)];
    let no_tests = "[eval]\ninterval = 0\n";
    let quantiles =
        |parts: usize, field: &str| format!("{SUMS}quantiles = {parts}\nquantiles_of = \"{field}\"\n{no_tests}");
    check(&work, &quantiles(3, "size"), &[], &parts);
    check(&work, &quantiles(6, "prompt_chars"), &[], &[("sums_q1", 10), ("sums_q2", 50)]);
    // Conditions and limits, and what they leave out.
    let some = format!("{SUMS}where = {{ level = [0, 1], size = {{ to = 39 }} }}\nlimit = 9\n{no_tests}");
    let said = check(&work, &some, &["--set", "data.test_files=[]"], &[("sums", 9)]);
    assert!(said.contains("33 do not fit where") && said.contains("18 are over the limit"), "{said}");
    // A number in `--set` is a table, counted from 0.
    check(
        &work,
        &format!("{KK}{SUMS}"),
        &["--set", "data.0.train=3", "--set", "data.1.limit=5"],
        &[("kk_logic_3", 3), ("kk_logic_4", 3), ("sums", 5)],
    );
}

#[test]
fn a_share_is_held_out() {
    let work = Workspace::new();
    sums(&work);
    let tables = "[[data]]\ntrain_files = [\"sums-*.jsonl\"]\ntest_share = 0.25\ngrader = \"number\"\n";
    let config = work.config(&format!("{HEAD}{tables}[eval]\nprompts = 1000\n"));
    let said = printed(&["train", &config, "--dry-run"]);
    let line = said.lines().find(|line| line.starts_with("sums ")).expect("the distribution");
    let numbers: Vec<usize> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[0] + numbers[1], 60, "{line}");
    assert!((5..=25).contains(&numbers[1]), "{line}");
}

/// The old `[data]` table and its keys change the usual table.
#[test]
fn one_table_needs_no_list() {
    let work = Workspace::new();
    sums(&work);
    let kk = [("kk_logic_3", 4), ("kk_logic_4", 4)];
    check(&work, DATA, &[], &kk);
    check(&work, "[data]\nlevels = \"3-4\"\ntrain = 4\ntest = 2\n", &[], &kk);
    check(&work, "", &["--set", "data.people=3-4", "--set", "data.train=4", "--set", "data.test=2"], &kk);
    check(&work, &SUMS.replace("[[data]]", "[data]"), &[], &[("sums", 60)]);
    check(&work, &SUMS.replace("[[data]]", "[data]\nkind = \"files\""), &[], &[("sums", 60)]);
}

#[test]
fn a_mixture_is_trained_on() {
    let work = Workspace::new();
    sums(&work);
    animals(&work, "animals.jsonl");
    let more = "[engine]\nmax_new_tokens = 8\n[curriculum]\npolicy = \"uniform\"\n[eval]\nprompts = 1\n";
    let (config, out) = (work.config(&format!("{HEAD}{KK}{SUMS}{ANIMALS}{more}")), work.out());
    printed(&["train", &config, "--out", &out, "--set", "batch_size=8"]);
    let mut seen = std::collections::BTreeSet::new();
    for step in 0..2 {
        let rollouts =
            fs::read_to_string(Path::new(&out).join(format!("rollouts/step_{}.jsonl", step + 1))).expect("rollouts");
        seen.extend(rollouts.lines().map(|line| parse(line)["data_source"].as_str().expect("a name").to_owned()));
    }
    assert!(
        seen.len() >= 3 && seen.iter().all(|it| ["kk_logic_3", "kk_logic_4", "sums", "animals"].contains(&it.as_str())),
        "{seen:?}"
    );
    // A resume refuses other data, and says which table.
    let sets = ["--set", "batch_size=8", "--set", "data.1.limit=7", "--resume"];
    work.refused(&[&["train", config.as_str(), "--out", &out], &sets[..]].concat(), &["data[1].limit was 0, is 7"]);
}

#[test]
fn wrong_tables_are_refused() {
    let work = Workspace::new();
    sums(&work);
    animals(&work, "animals.jsonl");
    work.file("torn.jsonl", "{\"prompt\": \"?\", \"answer\": \"?\", \"data_source\": \"sums\"}\n");
    let refused = |tables: &str, words: &[&str]| work.train_refused(&format!("{HEAD}{tables}"), &[], words);
    let files =
        |more: &str| format!("[[data]]\ntrain_files = [\"sums-*.jsonl\"]\ntest_files = [\"sums-1.jsonl\"]\n{more}\n");
    for (tables, words) in [
        (format!("{KK}{KK}"), vec!["kk_logic_3", "data[0]", "data[1]"]),
        (format!("{SUMS}{}", SUMS.replace("sums-*", "sums-1")), vec!["\"sums\"", "data[0]", "data[1]", "distribution"]),
        ("[[data]]\n".into(), vec!["c.toml:5", "data.train_files", "at least one file", "task"]),
        ("data = []\n".into(), vec!["data", "[[data]]"]),
        ("[[data]]\ntask = \"kk\"\nlevels = \"2-4\"\n".into(), vec!["c.toml:7", "data.levels", "3-20"]),
        ("[[data]]\ntask = \"countdwon\"\n".into(), vec!["c.toml:6", "data.task", "countdwon", "\"countdown\""]),
        (KK.replace("train = 4", "limit = 4"), vec!["data.limit", "files"]),
        (format!("{KK}{}", files("levels = \"3\"")), vec!["data[1].levels", "generated"]),
        (format!("{KK}{}", files("lmit = 3")), vec!["c.toml:13", "data[1].lmit", "data[1].limit"]),
        (files("grader = \"nubmer\""), vec!["data.grader", "nubmer", "number"]),
        (files(""), vec!["sums-0.jsonl:1", "sums", "grader"]),
        (files("grader = \"number\"").replace("sums-*", "none-*"), vec!["data.train_files", "none-*.jsonl", "no file"]),
        (files("grader = \"number\"").replace("sums-*", "torn"), vec!["torn.jsonl:1", "number"]),
        (files("grader = \"number\"\ndistribution = \"{levle}\""), vec!["sums-0.jsonl:1", "levle", "level"]),
        (files("grader = \"number\"\ndistribution = \"{level\""), vec!["c.toml:9", "data.distribution", "{{"]),
        (files("grader = \"number\"\nwhere = { level = 7 }"), vec!["data.where", "no row"]),
        (files("grader = \"number\"\nwhere = { level = [] }"), vec!["data.where.level", "empty"]),
        (files("grader = \"number\"\nquantiles = 3"), vec!["data.quantiles_of", "prompt_chars"]),
        (files("grader = \"number\"\nquantiles = 3\nquantiles_of = \"data_source\""), vec!["quantiles_of", "number"]),
        (files("grader = \"number\"\ntest_share = 0.5"), vec!["data.test_share", "test_files"]),
        (files("grader = \"number\"\nmax_prompt_tokens = 1"), vec!["sums", "max_prompt_tokens = 1"]),
        (files("grader = \"number\"\nanswer = \"{label}\""), vec!["sums-0.jsonl:1", "label"]),
        (ANIMALS.replace("distribution = \"animals\"\n", ""), vec!["animals.jsonl:1", "data_source"]),
    ] {
        refused(&tables, &words);
    }
    let two = format!("{HEAD}{KK}{SUMS}");
    work.train_refused(&two, &["--set", "data.train=3"], &["--set data.train=3", "data.0.train"]);
    work.train_refused(&two, &["--set", "data.2.train=3"], &["--set data.2.train=3", "there are 2"]);
    work.train_refused(&two, &["--set", "data.0.trian=3"], &["data.0.trian", "data.0.train"]);
}

/// A cache as `huggingface_hub` writes it, and no network.
#[test]
fn a_data_set_of_the_hub_is_read_from_its_cache() {
    let work = Workspace::new();
    let home = work.path("home");
    let repo = home.join("hub/datasets--owner--animals");
    fs::create_dir_all(repo.join("refs")).expect("a folder");
    fs::create_dir_all(repo.join("snapshots/c0ffee/main")).expect("a folder");
    fs::write(repo.join("refs/main"), "c0ffee").expect("a file");
    animals(&work, "a.jsonl");
    for name in ["main/train-0.jsonl", "main/train-1.jsonl", "main/test-0.jsonl", "other.jsonl"] {
        fs::copy(work.path("a.jsonl"), repo.join("snapshots/c0ffee").join(name)).expect("a copy");
    }
    let run = |tables: &str, offline: bool| {
        let config = work.config(&format!("{HEAD}{tables}"));
        let mut command = program();
        command.env("HF_HOME", &home).env("HF_HUB_OFFLINE", if offline { "1" } else { "0" });
        let output = command.args(["train", &config, "--dry-run"]).output().expect("the program");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let hub = |name: &str| {
        ANIMALS.replacen("animals.jsonl", &format!("hf://datasets/{name}/main/train-*.jsonl"), 1).replacen(
            "animals.jsonl",
            &format!("hf://datasets/{name}/main/test-0.jsonl"),
            1,
        )
    };
    let (code, said, error) = run(&hub("owner/animals"), true);
    assert_eq!((code, distributions(&said)), (Some(0), vec![("animals".to_owned(), 20)]), "{error}");
    // One that is not here is planned, if its name is known.
    for offline in [true, false] {
        let (code, said, error) = run(&format!("{KK}{}limit = 400\n", hub("owner/more")), offline);
        assert_eq!(code, Some(0), "{error}");
        assert!(said.contains("≤ 400 rows, still to be downloaded"), "{said}");
    }
    let unnamed = hub("owner/more").replace("distribution = \"animals\"", "distribution = \"{label}\"");
    let (code, _, error) = run(&unnamed, true);
    assert!(code == Some(2) && error.contains("data.train_files") && error.contains("distribution"), "{error}");
    let (code, _, error) = run(&SUMS.replace("sums-*.jsonl", "hf://datasets/owner/animals"), true);
    assert!(code == Some(2) && error.contains("hf://datasets/OWNER/NAME/PATH"), "{error}");
    let config = work.config(&format!("{HEAD}{}", hub("owner/more")));
    let output = program()
        .env("HF_HOME", &home)
        .env("HF_HUB_OFFLINE", "1")
        .args(["train", &config])
        .output()
        .expect("the program");
    let error = text(&output.stderr);
    assert!(
        output.status.code() == Some(2) && error.contains("owner/more") && error.contains("HF_HUB_OFFLINE"),
        "{error}"
    );
}

/// The paper's second and third setting.
#[test]
fn the_published_settings_resolve() {
    let home = Workspace::new();
    let plan = |name: &str| -> Value {
        let config = crate::fixtures::root().join("configs").join(name).display().to_string();
        let output = program()
            .env("HF_HOME", home.path("home"))
            .args(["train", &config, "--dry-run"])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains("still to be downloaded"), "{said}");
        json!(said.lines().filter_map(|line| line.strip_prefix("data     ")).collect::<Vec<_>>())
    };
    // 15 × 400; 7,473 + 124 + 194 + 283 + 238 (arXiv 2504.09710, section 4).
    assert_eq!(plan("logic-mix.toml"), json!(["6000 rows in 15 distributions"]));
    assert_eq!(plan("math-gsm8k-aime.toml"), json!(["8312 rows in 5 distributions"]));
}

/// Every draw of a fresh task is a new row: over two steps, and a resume goes on where the run stopped.
#[test]
fn fresh_rows_do_not_repeat() {
    let work = Workspace::new();
    let tables = "[[data]]\ntask = \"addition\"\nlevels = \"2-3\"\nfresh = true\ntest = 2\n";
    let more = "[engine]\nmax_new_tokens = 4\n[curriculum]\npolicy = \"uniform\"\n[eval]\nprompts = 1\n";
    let config = work.config(&format!("{HEAD}{tables}{more}"));
    let rows = |out: &str| {
        let mut all = Vec::new();
        for step in 1..=4 {
            let rollouts =
                fs::read_to_string(Path::new(out).join(format!("rollouts/step_{step}.jsonl"))).expect("rollouts");
            let mut lines: Vec<_> = rollouts.lines().map(parse).collect();
            lines.dedup_by_key(|line| line["job"].clone());
            all.extend(
                lines.into_iter().map(|line| (line["data_source"].to_string(), line["row"].as_u64().expect("a row"))),
            );
        }
        all
    };
    let train = |name: &str, more: &[&str]| {
        let out = work.path(name).display().to_string();
        printed(&[&["train", &config, "--out", &out, "--set", "batch_size=6"], more].concat());
        out
    };
    let whole = rows(&train("whole", &["--set", "max_steps=4"]));
    assert_eq!(whole.len(), 24);
    for source in ["\"addition_2\"", "\"addition_3\""] {
        let mut of_source: Vec<u64> = whole.iter().filter(|(name, _)| name == source).map(|(_, row)| *row).collect();
        of_source.sort_unstable();
        assert_eq!(of_source, (0..of_source.len() as u64).collect::<Vec<_>>(), "{source}");
    }
    train("parts", &["--set", "max_steps=2"]);
    assert_eq!(rows(&train("parts", &["--set", "max_steps=4", "--resume"])), whole);
}
