//! Models and data sets on the hub: a fake one on loopback, and the program as a user runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use temp_dir::TempDir;

use crate::fixtures::fake_hub::{Access, FakeHub, Fault, Files, files};
use crate::fixtures::model::{TinyModel, shard};
use crate::fixtures::program::text;
use crate::fixtures::wait_until;

const WEIGHTS: &str = "model.safetensors";

/// A hub with the model `some/tiny`, and a folder with a cache and a configuration.
struct World {
    hub: FakeHub,
    folder: TempDir,
    commit: String,
}

impl World {
    fn new() -> Self {
        let (hub, folder) = (FakeHub::new(), TempDir::new().expect("a folder"));
        let commit = hub.put("models/some/tiny", "main", model());
        Self { hub, folder, commit }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.path("home")
    }

    fn cache(&self) -> PathBuf {
        self.home().join("hub/models--some--tiny")
    }

    /// An evaluation of `model`, which is the shortest command that needs one.
    fn eval(&self, model: &str) -> Command {
        let config = format!(
            "model = {model:?}\n[data]\npeople = \"3\"\ntrain = 2\ntest = 1\n[engine]\nmax_new_tokens = 1\n[eval]\nsamples = 1\n"
        );
        fs::write(self.path("c.toml"), config).expect("a file");
        self.command(&["eval", &self.path("c.toml").display().to_string()])
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.hub.program(&self.home());
        command.args(args);
        command
    }

    fn requests(&self, what: impl Fn(&crate::fixtures::fake_hub::Request) -> bool) -> usize {
        self.hub.state().requests.iter().filter(|request| what(request)).count()
    }

    fn forget_requests(&self) {
        self.hub.state().requests.clear();
    }

    fn fault_of_storage(&self, fault: Fault) {
        self.hub.state().storage_faults.push_back(fault);
    }

    fn partial(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.cache().join("blobs")).ok()?.flatten().map(|entry| entry.path());
        entries.into_iter().find(|path| path.extension().is_some_and(|it| it == "incomplete"))
    }
}

/// The files of a model, with some that a model has beside what the program reads, and some that nobody wants.
fn model() -> Files {
    let tiny = TinyModel::new();
    let mut all = files(tiny.path());
    all.insert("chat_template.jinja".into(), tiny.chat_template().into());
    for name in
        ["README.md", "pytorch_model.bin", "tiny.gguf", "onnx/model.onnx", "original/params.json", ".gitattributes"]
    {
        all.insert(name.into(), b"not wanted".to_vec());
    }
    all.insert("generation_config.json".into(), b"{}".to_vec());
    all.insert("tokenizer.model".into(), b"pieces".to_vec());
    all.insert("additional_chat_templates/tools.jinja".into(), b"{{ tools }}".to_vec());
    all.insert("LICENSE".into(), b"free".to_vec());
    all
}

fn run(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

fn succeeds(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// Ends as wrong input does, with one sentence that has these words.
fn refused(command: Command, words: &[&str]) {
    let output = run(command);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    words.iter().for_each(|word| assert!(said.contains(word), "{said:?} does not contain {word:?}"));
}

/// Every file of a folder by its path, links with what they point to.
fn tree(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for path in fs::read_dir(next).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = path.strip_prefix(folder).expect("inside").display().to_string();
            match fs::read_link(&path) {
                Ok(target) => all.push(format!("{name} -> {}", target.display())),
                Err(_) if path.is_dir() => folders.push(path),
                Err(_) => all.push(name),
            }
        }
    }
    all.sort();
    all
}

/// Everything of a model comes, nothing else, and it lies as huggingface_hub lays it.
#[test]
fn a_model_is_downloaded_once_and_then_read_offline() {
    let world = World::new();
    succeeds(world.eval("some/tiny"));
    let snapshot = world.cache().join("snapshots").join(&world.commit);
    let there = tree(&snapshot);
    let names: Vec<&str> = there.iter().filter_map(|line| line.split(" -> ").next()).collect();
    let mut wanted: Vec<String> = model().into_keys().collect();
    wanted.retain(|name| {
        !["README", "pytorch", "tiny.gguf", "onnx", "original", ".git"].iter().any(|it| name.starts_with(it))
    });
    assert_eq!(names, wanted);
    assert!(
        there.iter().any(|line| line.starts_with("additional_chat_templates/tools.jinja -> ../../../blobs/")),
        "{there:?}"
    );
    assert_eq!(fs::read_to_string(world.cache().join("refs/main")).unwrap(), world.commit);
    assert!(world.partial().is_none());
    assert_eq!(world.requests(|it| it.is_storage), 1);

    world.forget_requests();
    for value in ["1", "on", "TRUE"] {
        let mut offline = world.eval("some/tiny");
        offline.env("HF_HUB_OFFLINE", value);
        succeeds(offline);
    }
    assert_eq!(world.requests(|_| true), 0);
    // These words do not mean offline: the hub is asked for the newest commit, and nothing is downloaded again.
    for value in ["0", "false", "no"] {
        let mut online = world.eval("some/tiny");
        online.env("HF_HUB_OFFLINE", value);
        succeeds(online);
    }
    assert_eq!((world.requests(|_| true), world.requests(|it| it.path.contains("resolve"))), (3, 0));
}

#[test]
fn the_cache_is_where_the_variables_say() {
    let world = World::new();
    for (name, value, expected) in [
        ("HF_HUB_CACHE", "a", "a/models--some--tiny"),
        ("HUGGINGFACE_HUB_CACHE", "b", "b/models--some--tiny"),
        ("HF_HOME", "c", "c/hub/models--some--tiny"),
    ] {
        let mut command = world.eval("some/tiny");
        succeeds({
            command.env(name, world.path(value));
            command
        });
        assert!(world.path(expected).join("refs/main").is_file(), "{name}");
    }
    let mut command = world.eval("some/tiny");
    command.env_remove("HF_HOME").env("XDG_CACHE_HOME", world.path("d"));
    succeeds(command);
    assert!(world.path("d/huggingface/hub/models--some--tiny/refs/main").is_file());
    let mut prefixed = world.eval("some/tiny");
    prefixed.env("HF_ENDPOINT", format!("{}/", world.hub.address)).env("HF_HOME", world.path("e"));
    succeeds(prefixed);
    let mut wrong = world.eval("some/tiny");
    wrong.env("HF_ENDPOINT", "hub.example");
    refused(wrong, &["HF_ENDPOINT", "https://huggingface.co"]);
}

/// A branch with a slash, a tag, a commit: each is its own snapshot, and a commit is never asked for again.
#[test]
fn a_revision_chooses_the_commit() {
    let world = World::new();
    let pr = world.hub.put("models/some/tiny", "refs/pr/3", model());
    succeeds(world.eval("some/tiny@refs/pr/3"));
    assert_eq!(fs::read_to_string(world.cache().join("refs/refs/pr/3")).unwrap(), pr);
    succeeds(world.eval(&format!("some/tiny@{}", world.commit)));
    assert!(world.cache().join("snapshots").join(&world.commit).is_dir());
    assert!(!world.cache().join("refs/main").exists());
    world.forget_requests();
    succeeds(world.eval(&format!("some/tiny@{}", world.commit)));
    assert_eq!(world.requests(|_| true), 0);
    refused(world.eval("some/tiny@v9"), &["some/tiny@v9", "no branch, tag or commit v9", "/some/tiny"]);
}

#[test]
fn online_a_branch_is_asked_for_and_the_cache_stands_in() {
    let world = World::new();
    succeeds(world.eval("some/tiny"));
    let mut newer = model();
    newer.insert("generation_config.json".into(), b"{ }".to_vec());
    let newer = world.hub.put("models/some/tiny", "main", newer);
    let known = || fs::read_to_string(world.cache().join("refs/main")).unwrap();
    let mut offline = world.eval("some/tiny");
    offline.env("HF_HUB_OFFLINE", "1");
    succeeds(offline);
    assert_eq!(known(), world.commit);
    succeeds(world.eval("some/tiny"));
    assert_eq!(known(), newer);
    // No network, a hub with a fault, a repository that was taken away: what is here is used, and said so.
    let mut nowhere = world.eval("some/tiny");
    nowhere.env("HF_ENDPOINT", "http://127.0.0.1:9");
    assert!(succeeds(nowhere).contains("what the cache has is used"));
    world.hub.state().hub_faults.push_back(Fault::Status(503, ""));
    assert!(succeeds(world.eval("some/tiny")).contains("status 503"));
    world.hub.state().repos.clear();
    assert!(succeeds(world.eval("some/tiny")).contains("is not on the hub"));
}

/// The branch moves on; the run does not.
#[test]
fn a_run_stays_at_the_commit_it_began_with() {
    let world = World::new();
    let (config, out) = (world.path("t.toml").display().to_string(), world.path("run").display().to_string());
    let settings = "model = \"some/tiny\"\nmax_steps = 1\nbatch_size = 2\ngroup_size = 2\n[data]\npeople = \"3\"\ntrain = 4\ntest = 1\n\
                    [engine]\nmax_new_tokens = 4\n[eval]\ninterval = 0\n";
    fs::write(&config, settings).expect("a file");
    succeeds(world.command(&["train", &config, "--out", &out]));
    let recorded = fs::read_to_string(world.path("run/config.toml")).expect("a configuration");
    assert!(recorded.contains(&format!("model = \"some/tiny@{}\"", world.commit)), "{recorded}");
    let mut newer = model();
    newer.insert("generation_config.json".into(), b"{ }".to_vec());
    let newer = world.hub.put("models/some/tiny", "main", newer);
    world.forget_requests();
    succeeds(world.command(&["train", &config, "--out", &out, "--resume", "--set", "max_steps=2"]));
    succeeds(world.command(&["export", &out, "--out", &world.path("adapter").display().to_string()]));
    assert_eq!(world.requests(|_| true), 0);
    let adapter = fs::read_to_string(world.path("adapter/adapter_config.json")).expect("an adapter");
    assert!(adapter.contains("\"some/tiny\""), "{adapter}");
    let other = format!("model=some/tiny@{newer}");
    let resume = ["train", &config, "--out", &out, "--resume", "--set", "max_steps=3", "--set", &other];
    refused(world.command(&resume), &["is not the base model of the run", "generation_config.json differs"]);
}

/// The part that came is kept, and a second program asks for the rest only.
#[test]
fn a_download_goes_on_where_it_broke_off() {
    let world = World::new();
    let size = model()[WEIGHTS].len();
    // Within one program: the connection breaks twice.
    world.fault_of_storage(Fault::Cut(size / 4));
    world.fault_of_storage(Fault::Cut(size / 4));
    succeeds(world.eval("some/tiny"));
    let ranges = |world: &World| -> Vec<Option<String>> {
        world.hub.state().requests.iter().filter(|it| it.is_storage).map(|it| it.range.clone()).collect()
    };
    let from = |byte: usize| Some(format!("bytes={byte}-"));
    assert_eq!(ranges(&world), [None, from(size / 4), from(size / 4 * 2)]);

    // The program is killed.
    let world = World::new();
    world.fault_of_storage(Fault::Stall(size / 3));
    let mut child = world.eval("some/tiny").stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    wait_until("part of the weights", || {
        world.partial().is_some_and(|path| fs::metadata(path).is_ok_and(|it| it.len() == (size / 3) as u64))
    });
    child.kill().and_then(|()| child.wait()).expect("it is killed");
    let mut offline = world.eval("some/tiny");
    offline.env("HF_HUB_OFFLINE", "1");
    refused(offline, &["some/tiny", "HF_HUB_OFFLINE"]);
    succeeds(world.eval("some/tiny"));
    assert_eq!(ranges(&world), [None, from(size / 3)]);
    assert!(world.partial().is_none());

    // A part that is not of this file: everything comes again. A server that does not know ranges sends everything.
    for fault in [None, Some(Fault::NoRanges)] {
        let other = World::new();
        other.fault_of_storage(Fault::Stall(size / 3));
        let mut child = other.eval("some/tiny").stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
        wait_until("part of the weights", || {
            other.partial().is_some_and(|path| fs::metadata(path).is_ok_and(|it| it.len() > 0))
        });
        child.kill().and_then(|()| child.wait()).expect("it is killed");
        let path = other.partial().expect("a part");
        fs::write(path, vec![7; size / 2]).expect("a part");
        fault.into_iter().for_each(|fault| other.fault_of_storage(fault));
        succeeds(other.eval("some/tiny"));
    }
}

/// What is not what the hub announced never gets a name in the cache.
#[test]
fn a_damaged_download_is_refused() {
    let world = World::new();
    world.fault_of_storage(Fault::Garbled);
    refused(world.eval("some/tiny"), &["some/tiny", WEIGHTS, "SHA-256", "start again"]);
    let blobs = tree(&world.cache().join("blobs"));
    assert!(blobs.iter().all(|name| name.len() == 40 || name.ends_with(".incomplete")), "{blobs:?}");
    succeeds(world.eval("some/tiny"));

    let world = World::new();
    (0..5).for_each(|_| world.fault_of_storage(Fault::Cut(0)));
    refused(world.eval("some/tiny"), &["some/tiny", "broke off", "goes on where it stopped"]);
    succeeds(world.eval("some/tiny"));
}

/// Faults that pass are waited out; others are one sentence that says what to do.
#[test]
fn what_the_hub_refuses_is_explained() {
    let world = World::new();
    [500, 503, 429].into_iter().for_each(|status| world.hub.state().hub_faults.push_back(Fault::Status(status, "")));
    succeeds(world.eval("some/tiny"));

    let world = World::new();
    let fail = |status: u16| (0..5).for_each(|_| world.hub.state().hub_faults.push_back(Fault::Status(status, "")));
    fail(429);
    refused(world.eval("some/tiny"), &["429", "try again in some minutes", "HF_TOKEN"]);
    fail(502);
    refused(world.eval("some/tiny"), &["status 502", "try again later"]);
    let mut nowhere = world.eval("some/tiny");
    nowhere.env("HF_ENDPOINT", "http://127.0.0.1:9");
    refused(nowhere, &["some/tiny", "http://127.0.0.1:9", "did not answer", "HF_ENDPOINT"]);
    refused(world.eval("some/none"), &["some/none", "is not on the hub as a model", "HF_TOKEN"]);
    let mut offline = world.eval("some/none");
    offline.env("HF_HUB_OFFLINE", "yes");
    refused(offline, &["some/none", "not in the Hugging Face cache", "HF_HUB_OFFLINE"]);

    let without = |names: &[&str], other: &str| {
        let mut all = model();
        all.retain(|name, _| !names.iter().any(|it| name.contains(it)));
        world.hub.put("models/some/other", "main", all);
        refused(world.eval("some/other"), &["some/other", other]);
        assert!(!world.home().join("hub/models--some--other").exists(), "nothing was downloaded");
    };
    without(&["safetensors"], "turn it into a folder with dump-rl import");
    without(&["safetensors", "gguf"], "only pytorch_model.bin: convert it");
    without(&["safetensors", "gguf", ".bin"], "has no weights");
    without(&["tokenizer.json"], "has no tokenizer.json: make one");
    without(&["config.json"], "no config.json");
}

#[test]
fn a_gated_model_needs_a_token_that_no_other_host_sees() {
    let world = World::new();
    let access = |access: Access| world.hub.state().repos.get_mut("models/some/tiny").expect("a model").access = access;
    access(Access::Gated("hf_right".into()));
    let page = format!("{}/some/tiny", world.hub.address);
    refused(world.eval("some/tiny"), &["is gated", "accept its conditions", &page, "HF_TOKEN"]);
    let with = |token: &str| {
        let mut command = world.eval("some/tiny");
        command.env("HF_TOKEN", token);
        command
    };
    refused(with("hf_wrong"), &["is gated", "with the account of the token of HF_TOKEN"]);
    access(Access::Private("hf_right".into()));
    refused(world.eval("some/tiny"), &["or is private", "HF_TOKEN"]);
    world.forget_requests();
    succeeds(with(" hf_right\n"));
    let requests = world.hub.state().requests.clone();
    assert!(
        requests.iter().filter(|it| !it.is_storage).all(|it| it.token.as_deref() == Some("hf_right")),
        "{requests:?}"
    );
    let to_storage: Vec<_> = requests.iter().filter(|it| it.is_storage).collect();
    assert!(!to_storage.is_empty() && to_storage.iter().all(|it| it.token.is_none()), "{to_storage:?}");

    // The token of `hf auth login`, and one that is kept back.
    fs::remove_dir_all(world.cache()).expect("a cache");
    fs::write(world.home().join("token"), "hf_right\n").expect("a token");
    let mut kept_back = world.eval("some/tiny");
    kept_back.env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    refused(kept_back, &["is private"]);
    succeeds(world.eval("some/tiny"));
}

#[test]
fn two_programs_share_one_download() {
    let world = World::new();
    let (mut first, mut second) = (world.eval("some/tiny"), world.eval("some/tiny"));
    let children = [&mut first, &mut second].map(|command| command.stdout(Stdio::null()).spawn().expect("it starts"));
    children.into_iter().for_each(|mut child| assert!(child.wait().expect("it ends").success()));
    assert_eq!(world.requests(|it| it.is_storage), 1);
}

/// Shards come by their index, and a slow download says how far it is.
#[test]
fn a_sharded_model_comes_whole() {
    let (world, model, folder) = (World::new(), TinyModel::new(), TempDir::new().expect("a folder"));
    shard(model.path(), folder.path());
    let mut all = files(folder.path());
    all.insert("model-9-of-9.safetensors".into(), b"of no index".to_vec());
    world.hub.put("models/some/shards", "main", all);
    succeeds(world.eval("some/shards"));
    let there = tree(&world.home().join("hub/models--some--shards/snapshots"));
    let has = |name: &str| there.iter().any(|line| line.contains(name));
    assert!(has("model-0.safetensors") && has("model-1.safetensors") && !has("model-9"), "{there:?}");
}

#[test]
fn a_slow_hub_is_waited_for_as_long_as_it_may_take() {
    let world = World::new();
    world.fault_of_storage(Fault::Stall(60_000));
    let mut command = world.eval("some/tiny");
    command.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let since = std::time::Instant::now();
    succeeds(command);
    assert!(since.elapsed() < Duration::from_secs(30));
    assert_eq!(world.requests(|it| it.is_storage && it.range.as_deref() == Some("bytes=60000-")), 1);
}

/// Rows of a data set: by glob, at a revision, from the cache, with the same sentences.
#[test]
fn a_data_set_comes_by_glob_and_revision() {
    let world = World::new();
    let rows = |n: u32| -> Vec<u8> {
        let row = |i| format!("{{\"data_source\": \"sums\", \"prompt\": \"{n} + {i}\", \"answer\": {}}}\n", n + i);
        (0..4).map(row).collect::<String>().into_bytes()
    };
    let set = |n: u32| -> Files {
        let names =
            ["main/train-00000-of-00002.jsonl", "main/train-00001-of-00002.jsonl", "main/test.jsonl", "other/x.jsonl"];
        (n..).zip(names).map(|(n, name)| (name.to_string(), rows(n))).collect()
    };
    world.hub.put("datasets/some/sums", "main", set(1));
    world.hub.put("datasets/some/sums", "refs/convert/jsonl", set(5));
    let model = TinyModel::new();
    let eval = |name: &str, path: &str| {
        let config = format!(
            "model = {:?}\n[[data]]\ngrader = \"number\"\ntrain_files = [\"hf://datasets/{name}/{path}\"]\n\
             test_files = [\"hf://datasets/{name}/main/test.jsonl\"]\n[engine]\nmax_new_tokens = 1\n[eval]\nsamples = 1\n",
            model.path()
        );
        fs::write(world.path("d.toml"), config).expect("a file");
        world.command(&["eval", &world.path("d.toml").display().to_string()])
    };
    succeeds(eval("some/sums", "main/train-*.jsonl"));
    let names = tree(&world.home().join("hub/datasets--some--sums/snapshots"));
    assert_eq!(names.len(), 3, "{names:?}");
    let mut offline = eval("some/sums", "main/train-*.jsonl");
    offline.env("HF_HUB_OFFLINE", "1");
    succeeds(offline);
    succeeds(eval("some/sums@refs%2Fconvert%2Fjsonl", "main/train-*.jsonl"));
    assert!(world.home().join("hub/datasets--some--sums/refs/refs/convert/jsonl").is_file());
    refused(eval("some/sums", "main/none-*.jsonl"), &["hf://datasets/some/sums", "no file fits", "main/test.jsonl"]);
    refused(eval("some/sums@v2", "main/train-*.jsonl"), &["no branch, tag or commit v2"]);
    refused(eval("some/none", "x.jsonl"), &["is not on the hub as a data set", "/datasets/some/none"]);
    world.hub.state().repos.get_mut("datasets/some/sums").expect("a data set").access =
        Access::Gated("hf_right".into());
    let mut fresh = eval("some/sums", "main/train-*.jsonl");
    fresh.env("HF_HOME", world.path("fresh"));
    refused(fresh, &["is gated", "/datasets/some/sums", "HF_TOKEN"]);
}

/// Both programs read what the other wrote, and lay it out alike.
#[test]
#[ignore = "needs PYTHON, an interpreter with huggingface_hub"]
fn huggingface_hub_shares_the_cache() {
    let python = std::env::var("PYTHON").expect("PYTHON");
    let world = World::new();
    let theirs = |home: &Path, local: &str| {
        let script = format!(
            "from huggingface_hub import snapshot_download\n\
             print(snapshot_download('some/tiny', local_files_only={local}, ignore_patterns=['README.md','*.bin','*.gguf','onnx/*','original/*','.*']))"
        );
        let mut command = Command::new(&python);
        world.hub.environment(&mut command, home);
        let output = command.env("HF_HUB_DISABLE_XET", "1").args(["-c", &script]).output().expect("Python");
        assert!(output.status.success(), "{}", text(&output.stderr));
        PathBuf::from(text(&output.stdout).trim())
    };
    succeeds(world.eval("some/tiny"));
    let found = theirs(&world.home(), "True");
    assert_eq!(found, world.cache().join("snapshots").join(&world.commit).canonicalize().expect("a folder"));
    let other = world.path("theirs");
    theirs(&other, "False");
    let mut ours = world.eval("some/tiny");
    ours.env("HF_HOME", &other).env("HF_HUB_OFFLINE", "1");
    succeeds(ours);
    let extra = |line: &String| !line.contains("/trees/") && !line.contains("CACHEDIR.TAG") && !line.contains(".locks");
    let [ours, theirs] = [world.home(), other].map(|home| {
        let mut all = tree(&home.join("hub"));
        all.retain(extra);
        all
    });
    assert_eq!(ours, theirs);
}
