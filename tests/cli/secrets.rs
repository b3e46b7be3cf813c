//! No token of the user's is in a run's folder or in what is printed, however much is logged.

use std::fs;
use std::path::Path;
use std::process::Command;

use temp_dir::TempDir;

use crate::fixtures::fake_hub::{Access, FakeHub, files};
use crate::fixtures::model::TinyModel;
use crate::fixtures::program::{DATA, HEAD};
use crate::fixtures::server::Server;

const OF_THE_HUB: &str = "hf_a-secret-of-the-hub";
const OF_THE_SERVERS: &str = "a-secret-of-the-servers";
const SECRETS: [&str; 2] = [OF_THE_HUB, OF_THE_SERVERS];

fn check_text(text: &[u8], place: &str) {
    let text = String::from_utf8_lossy(text);
    SECRETS.iter().for_each(|secret| assert!(!text.contains(secret), "{place} contains {secret}"));
}

/// Checks every file in a folder. Returns their number.
fn check_files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let check = |path: std::path::PathBuf| match path.is_dir() {
        true => check_files(&path),
        false => {
            check_text(&fs::read(&path).expect("a file"), &path.display().to_string());
            1
        }
    };
    entries.map(check).sum()
}

/// Runs the program with the tokens, and checks what it prints. Returns its exit status.
fn status(mut command: Command, servers: &str) -> Option<i32> {
    command.env("HF_TOKEN", OF_THE_HUB).env("DUMP_RL_API_KEY", servers).env("RUST_LOG", "trace");
    let output = command.output().expect("the program starts");
    [&output.stdout, &output.stderr].into_iter().for_each(|text| check_text(text, "the output"));
    output.status.code()
}

#[test]
fn tokens_are_sent_and_never_written() {
    let (tiny, hub, folder) = (TinyModel::new(), FakeHub::new(), TempDir::new().expect("a folder"));
    let mut model = files(tiny.path());
    model.insert("chat_template.jinja".into(), tiny.chat_template().into());
    hub.put("models/some/tiny", "main", model);
    hub.state().repos.get_mut("models/some/tiny").expect("a model").access = Access::Private(OF_THE_HUB.into());
    let server = Server::with_token(tiny.path(), OF_THE_SERVERS);
    let config = format!("{HEAD}{DATA}[engine]\nmax_new_tokens = 4\nendpoints = [\"{}\"]\n", server.url());
    let (file, run) = (folder.path().join("c.toml"), folder.path().join("run"));
    fs::write(&file, config.replace("{model}", "some/tiny")).expect("a file");
    let train = |out: &Path| {
        let mut command = hub.program(&folder.path().join("home"));
        command.arg("train").arg(&file).arg("--out").arg(out);
        command
    };
    assert_eq!(status(train(&run), OF_THE_SERVERS), Some(0));
    let mut report = hub.program(&folder.path().join("home"));
    report.arg("report").arg(&run).arg("--out").arg(folder.path().join("report.html"));
    assert_eq!(status(report, OF_THE_SERVERS), Some(0));
    // A token that the server refuses is not shown either.
    assert_eq!(status(train(&folder.path().join("refused")), &format!("{OF_THE_SERVERS}?")), Some(2));
    let used = hub.state().requests.iter().any(|request| request.token.as_deref() == Some(OF_THE_HUB));
    assert!(used && check_files(folder.path()) > 10);
}
