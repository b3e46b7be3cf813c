//! The script that checks a GPU, on a CPU.

use std::fs;
use std::process::Command;

use crate::fixtures::{ENGINES, root};

/// With a tiny model every part passes and is in the results.
#[test]
fn the_script_for_gpus_runs_on_a_cpu() {
    let folder = temp_dir::TempDir::new().unwrap();
    let mut command = Command::new(root().join("tests/gpu/run.sh"));
    command.arg(env!("CARGO_BIN_EXE_dump-rl")).env("OUT", folder.path()).env("TMPDIR", folder.path());
    command.env("ENGINES", ENGINES.join(" "));
    let output = command.envs([("DEVICE", "cpu"), ("SMALL", "1")]).env_remove("MODELS").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("results.json")).unwrap()).unwrap();
    let parts = results["parts"].as_array().unwrap();
    let with = |begin: &str| {
        let found = parts.iter().filter(|part| part["part"].as_str().unwrap().starts_with(begin));
        found.map(|part| part["results"].as_array().unwrap().len()).collect::<Vec<_>>()
    };
    assert!(parts.iter().all(|part| part["state"] == "passed"), "{said}");
    // train: two lengths; pipeline: two steps; rollout: three numbers of prompts and a large model; sync: three ways of mistral.rs,
    // two of the native engine, and a large model each.
    let engines = ENGINES.len();
    assert_eq!((with("check"), with("train"), with("pipeline")), (vec![1; engines], vec![2; 3], vec![2; engines]));
    assert_eq!((with("rollout"), with("sync").len()), (vec![1; 4 * engines], if engines == 2 { 7 } else { 3 }));
    for part in parts.iter().filter(|part| part["results"][0]["bench"] == "sync") {
        let (name, mode) = (part["part"].as_str().unwrap(), part["results"][0]["sync"].as_str().unwrap());
        assert!(name.starts_with("sync-large") || name.ends_with(mode), "{part}");
    }

    // If the program fails, that is recorded, and every other part still runs.
    let failing = folder.path().join("false");
    fs::write(&failing, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&failing, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(root().join("tests/gpu/run.sh"));
    command.arg(&failing).env("OUT", folder.path()).env("TMPDIR", folder.path());
    let output = command.envs([("DEVICE", "cpu"), ("SMALL", "1")]).env_remove("MODELS").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let results = fs::read_to_string(folder.path().join("results.json")).unwrap();
    assert!(results.matches("failed: exit status 3").count() >= 10, "{results}");
}
