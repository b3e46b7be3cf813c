//! Files as people bring them: with a byte order mark, in UTF-16, with rows that are too long.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::fixtures::program::{HEAD, Workspace, printed};

const MARK: &str = "\u{feff}";

fn utf16(text: &str) -> Vec<u8> {
    format!("{MARK}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("bytes");
    encoder.finish().expect("bytes")
}

fn row(prompt: &str) -> String {
    json!({"prompt": prompt, "answer": "(1) Zoey is a knight", "data_source": "kk_1"}).to_string() + "\n"
}

/// Every command that reads text reads `text` with a byte order mark, and refuses it in UTF-16 by name.
#[test]
fn text_is_utf8_with_or_without_a_mark() {
    let work = Workspace::new();
    let rows = row("a") + &row("b");
    let completions = json!({"index": 1, "completion": "?"}).to_string();
    let events = r#"{"step": 1, "observations": [{"source": "a", "rewards": [1, 0], "advantages": [1, -1]}]}"#;
    let settings = format!("{HEAD}[data]\npeople = \"3\"\ntrain = 2\ntest = 1\n");
    let good = [
        work.file("rows.jsonl", &rows),
        work.file("given.jsonl", &completions),
        work.file("events.jsonl", events),
        work.config(&settings),
    ];
    let settings = settings.replace("{model}", &work.model.path().display().to_string());
    let commands = |[rows, given, events, config]: [String; 4]| {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        [
            words(&format!("data inspect {rows}")),
            words(&format!("grade --data {rows} --completions {given}")),
            words(&format!("curriculum replay --config {config} --events {events}")),
            words(&format!("train {config} --dry-run")),
        ]
    };
    let expected = commands(good.clone()).map(|args| printed(&args));
    let written = |write: &dyn Fn(&str) -> Vec<u8>| {
        [
            work.file("marked.jsonl", write(&rows)),
            work.file("marked-given.jsonl.gz", gzip(&write(&completions))),
            work.file("marked-events.jsonl.zst", zstd::encode_all(&*write(events), 1).expect("bytes")),
            work.file("marked.toml", write(&settings)),
        ]
    };
    let marked = written(&|text| format!("{MARK}{text}").into_bytes());
    for (args, expected) in commands(marked.clone()).iter().zip(&expected) {
        assert_eq!(&printed(args).replace("marked.jsonl", "rows.jsonl"), expected, "{args:?}");
    }
    for (index, wrong) in written(&utf16).into_iter().enumerate() {
        let mut files = good.clone();
        let place = format!("{wrong}:1");
        files[index] = wrong;
        let args = commands(files)[[0, 1, 2, 3][index]].clone();
        work.refused(&args, &[&place, "UTF-16", "UTF-8"]);
    }
    let latin = work.file("latin.toml", b"seed = 1\nmodel = \"caf\xE9\"\n");
    work.refused(&["train", &latin], &["latin.toml:2", "not UTF-8"]);
}

#[test]
fn prompts_that_are_too_long_are_named() {
    let work = Workspace::new();
    let long = "Who is a knight? ".repeat(200);
    let rows = work.file("rows.jsonl", row("a") + "\n" + &row(&long) + &row("b") + &row(&format!("{long}!")));
    let tables = |keys: &str| {
        format!(
            "{HEAD}[[data]]\ntrain_files = [\"rows.jsonl\"]\ntest_files = [\"rows.jsonl\"]\n{keys}[eval]\ninterval = 0\n"
        )
    };
    let refused = |keys: &str, words: &[&str]| work.train_refused(&tables(keys), &[], words);
    refused("", &["rows.jsonl:3", "tokens", "context of", "data.overlong = \"drop\""]);
    refused("limit = 4\n", &["rows.jsonl:3", "context of"]);
    refused("max_prompt_tokens = 100\noverlong = \"error\"\n", &["rows.jsonl:3", "data.max_prompt_tokens = 100"]);
    refused("max_prompt_tokens = 1\n", &["kk_1", "rows.jsonl:1", "data.max_prompt_tokens = 1"]);
    refused("overlong = \"skip\"\n", &["c.toml:8", "data.overlong", "drop"]);
    let fresh = "[[data]]\ntask = \"kk\"\nlevels = \"3\"\nfresh = true\noverlong = \"drop\"\n";
    work.train_refused(&format!("{HEAD}{fresh}"), &[], &["data.overlong", "fresh"]);
    let fresh = "[[data]]\ntask = \"kk\"\nlevels = \"3\"\nfresh = true\n[curriculum]\nrows = \"mopps\"\n";
    work.train_refused(&format!("{HEAD}{fresh}"), &[], &["c.toml", "curriculum.rows", "nothing to choose", "fresh"]);
    for keys in ["overlong = \"drop\"\n", "max_prompt_tokens = 100\n", "max_prompt_tokens = 100\noverlong = \"drop\"\n"]
    {
        let said = printed(&["train", &work.config(&tables(keys)), "--dry-run"]);
        // Two in the training rows, and the same two in the test rows.
        for word in ["4 have prompts that are too long", "rows.jsonl:3 has ", "rows.jsonl:5 has ", ", …"] {
            assert!(said.contains(word), "{keys}: {word}: {said}");
        }
    }
    let model = work.model.path().display().to_string();
    let said = printed(&["data", "inspect", &rows, "--model", &model]);
    assert!(said.contains("2 too long for the context of") && said.contains("rows.jsonl:3"), "{said}");
}

#[test]
fn people_whom_no_answer_can_name_are_refused_by_line() {
    let work = Workspace::new();
    let row = |name: &str| {
        let truth = format!("(1) Zoey is a knight\n(2) {name} is a knave");
        json!({"prompt": "?", "answer": truth, "data_source": "kk_2"}).to_string() + "\n"
    };
    let rows = work.file("rows.jsonl", row("Oliver") + &row("C++"));
    assert!(printed(&["data", "inspect", &rows]).contains("2 rows"));
    let given = work.file(
        "given.jsonl",
        json!({"index": 1, "completion": "<think></think><answer>C++ is a knave, Zoey is a knight</answer>"})
            .to_string(),
    );
    assert!(printed(&["grade", "--data", &rows, "--completions", &given]).contains("\"score\":3.0"));
    let published = ["grade", "--data", &rows, "--completions", &given, "--published"];
    work.refused(&published, &["rows.jsonl:2", "no answer can be right", "C++"]);
    let wrong = work.file("wrong.jsonl", row("Oliver") + &row("Zoey is a knight, Ann"));
    work.refused(&["data", "inspect", &wrong], &["wrong.jsonl:2", "no answer can be right", "Ann"]);
    let twice = work.file("twice.jsonl", row("Oliver") + &row("ZOEY"));
    work.refused(&["data", "inspect", &twice], &["twice.jsonl:2", "twice"]);
}
