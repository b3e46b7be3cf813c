//! `dump-rl train` on servers of our own: the same run as in process, bit for bit, whatever happens to a server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixtures::program::{Workspace, dump_rl, parse, program, text};
use crate::fixtures::server::Server;

const RUN: &str = "model = \"{model}\"\nmax_steps = 3\nbatch_size = 4\ngroup_size = 4\n[data]\npeople = \"3-5\"\n\
                   train = 8\ntest = 2\n[engine]\nmax_new_tokens = 24\n[eval]\ninterval = 0\n[optim]\nlr = 0.01\n";

/// Trains. Returns what the program printed, also to standard error.
fn train(config: &str, out: &Path, sets: &[&str]) -> String {
    let out = out.display().to_string();
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let output = dump_rl(&["train", config, "--out", &out].into_iter().chain(sets).collect::<Vec<_>>());
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).expect("a file").lines().map(parse).collect()
}

/// The last metrics of a run.
fn last_metrics(out: &Path) -> Value {
    lines(&out.join("metrics.jsonl")).pop().expect("a line")
}

/// What a run has sampled and learned: every completion without its server, and the adapter.
fn outcome(out: &Path, steps: u64) -> (Vec<Value>, Vec<u8>) {
    let step = |step: u64| lines(&out.join(format!("rollouts/step_{step}.jsonl")));
    let mut completions: Vec<Value> = (1..=steps).flat_map(step).collect();
    for completion in &mut completions {
        completion.as_object_mut().expect("an object").shift_remove("endpoint");
    }
    let adapter = out.join(format!("checkpoints/step_{steps}/adapter_model.safetensors"));
    (completions, fs::read(adapter).expect("an adapter"))
}

fn endpoints(servers: &[&str]) -> String {
    format!("engine.endpoints={}", serde_json::to_string(servers).expect("JSON"))
}

#[test]
fn two_servers_give_the_run_that_one_process_gives() {
    let space = Workspace::new();
    let config = space.config(RUN);
    let (alone, shared) = (space.path("alone"), space.path("shared"));
    train(&config, &alone, &[]);
    let (first, second) = (Server::of(space.model.path()), Server::of(space.model.path()));
    // So small that one server alone cannot take a step's groups at once.
    let said = train(&config, &shared, &[&endpoints(&[first.url(), second.url()]), "engine.max_sequences=8"]);
    assert_eq!(said.matches("checked  http://127.0.0.1:").count(), 2, "{said}");
    assert!(outcome(&shared, 3) == outcome(&alone, 3), "another run: {said}");
    for server in [&first, &second] {
        let answered = lines(&shared.join("rollouts/step_1.jsonl"));
        assert!(answered.iter().any(|line| same_server(&line["endpoint"], server.url())), "{answered:?}");
    }
    // Nothing of the run stays on the servers.
    let models = ureq::get(&format!("{}/v1/models", first.url())).call().expect("an answer").into_string();
    assert_eq!(models.expect("text").matches("dump-rl-").count(), 0);
}

fn same_server(endpoint: &Value, url: &str) -> bool {
    endpoint.as_str().is_some_and(|endpoint| endpoint.trim_end_matches('/') == url)
}

#[test]
fn a_killed_server_costs_time_and_nothing_else() {
    let space = Workspace::new();
    let config = space.config(RUN);
    let (alone, shared) = (space.path("alone"), space.path("shared"));
    let steps = "max_steps=12";
    train(&config, &alone, &[steps]);
    let (stays, mut dies) = (Server::of(space.model.path()), Server::of(space.model.path()));
    let mut run = program();
    run.args(["train", &config, "--set", steps, "--set", "engine.max_sequences=8", "--set"]);
    run.arg(endpoints(&[stays.url(), dies.url()])).arg("--out").arg(&shared);
    let mut run = run.spawn().expect("the program starts");
    wait_until(|| shared.join("rollouts/step_2.jsonl").exists());
    dies.kill();
    assert!(run.wait().expect("an end").success());
    assert!(outcome(&shared, 12) == outcome(&alone, 12), "another run");
    assert_eq!(last_metrics(&shared)["engine/servers_up"], 1.0);
}

fn wait_until(happened: impl Fn() -> bool) {
    let since = Instant::now();
    while !happened() {
        assert!(since.elapsed() < Duration::from_secs(60), "it does not happen");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn connections_that_break_off_change_nothing() {
    let space = Workspace::new();
    let config = space.config(RUN);
    let (alone, shared) = (space.path("alone"), space.path("shared"));
    train(&config, &alone, &[]);
    let server = Server::of(space.model.path());
    let proxy = FaultyProxy::start(server.url());
    train(&config, &shared, &[&endpoints(&[&proxy.url]), "engine.remote.retries=100"]);
    assert!(outcome(&shared, 3) == outcome(&alone, 3), "another run");
    assert!(last_metrics(&shared)["engine/retries"].as_f64() > Some(0.0), "{}", last_metrics(&shared));
}

/// Forwards connections to a server. Of each four, one is cut at once, and one after some bytes of the answer. The others are cut
/// in the middle of a later answer.
struct FaultyProxy {
    url: String,
}

impl FaultyProxy {
    fn start(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_string();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let connections = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // The first ones are whole: a run does not begin without a server.
                let allowed = match connections.fetch_add(1, Ordering::Relaxed) {
                    0..3 => usize::MAX,
                    index if index % 4 == 0 => 0,
                    index if index % 4 == 1 => 300,
                    _ => usize::MAX,
                };
                let server = TcpStream::connect(&server).expect("the server listens");
                let (mut from, mut to) = (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
                thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
                thread::spawn(move || forward(server, client, allowed));
            }
        });
        Self { url }
    }
}

/// Forwards up to `allowed` bytes of answers, and never many more than `ENDS`.
fn forward(mut server: TcpStream, mut client: TcpStream, mut allowed: usize) {
    const ENDS: usize = 20_000;
    let (mut buffer, mut sent) = ([0; 1024], 0);
    while let Ok(read) = server.read(&mut buffer) {
        let part = read.min(allowed);
        if read == 0 || client.write_all(&buffer[..part]).is_err() || part < read {
            break;
        }
        (allowed, sent) = (allowed - part, sent + part);
        if sent > ENDS {
            allowed = allowed.min(300);
        }
    }
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

#[test]
fn servers_that_cannot_serve_are_refused_by_name() {
    let space = Workspace::new();
    let refused = |endpoint: &str, words: &[&str]| {
        space.train_refused(RUN, &["--set", &endpoints(&[endpoint])], words);
    };
    refused("127.0.0.1:8000", &["engine.endpoints", "http://10.0.0.2:8000"]);
    let other = Workspace::new();
    let path = other.model.path().join("config.json");
    let shorter = fs::read_to_string(&path).expect("config.json");
    let mut shorter = parse(&shorter);
    shorter["max_position_embeddings"] = 100.into();
    fs::write(&path, shorter.to_string()).expect("config.json");
    let server = Server::of(other.model.path());
    refused(server.url(), &[server.url(), "context"]);
    let guarded = Server::with_token(space.model.path(), "right");
    refused(guarded.url(), &[guarded.url(), "engine.remote.token"]);
}

#[test]
fn an_address_of_nobody_ends_the_run_by_its_name() {
    let space = Workspace::new();
    let (config, out) = (space.config(RUN), space.out());
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let nobody = format!("http://127.0.0.1:{port}");
    let output = dump_rl(&["train", &config, "--out", &out, "--set", &endpoints(&[&nobody])]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&nobody) && said.contains("unreachable"), "{said}");
}
