use std::path::PathBuf;

use super::run::RunConfig;
use super::*;

fn load_text(text: &str, sets: &[&str]) -> Result<RunConfig, String> {
    let dir = temp_dir::TempDir::new().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    load(&path, &sets).map_err(|e| e.to_string().replace(&path.display().to_string(), "c.toml"))
}

fn check_error(text: &str, sets: &[&str], expected: &str) {
    let error = load_text(text, sets).unwrap_err();
    assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
}

#[test]
fn a_mistyped_key_is_named_with_its_line_and_the_nearest_right_one() {
    check_error("seed = 1\nbach_size = 3\n", &[], "c.toml:2: unknown key \"bach_size\"; did you mean \"batch_size\"?");
    check_error("[optim]\nqqq = 1\n", &[], "c.toml:2: unknown key \"optim.qqq\"; known here: optim.beta1");
    check_error("", &["optim.ler=1"], "--set optim.ler=1: unknown key \"optim.ler\"; did you mean \"optim.lr\"?");
}

#[test]
fn tables_by_name_take_any_name() {
    let config =
        load_text("[curriculum.fixed_mix.weights]\nmine = 2.0", &["curriculum.fixed_mix.weights.other=1"]).unwrap();
    let weights: Vec<_> = config.curriculum.fixed_mix.weights.into_iter().collect();
    assert_eq!(weights, [("mine".to_string(), 2.0), ("other".to_string(), 1.0)]);
    check_error("[curriculum.fixed_mix.weights]\nmine = \"much\"", &[], "curriculum.fixed_mix.weights.mine");
}

#[test]
fn wrong_types_and_values_out_of_range_are_refused() {
    check_error("[optim]\nlr = \"fast\"\n", &[], "c.toml:2: optim.lr: got string \"fast\", expected a number");
    check_error("seed = 3\ngroup_size = 0\n", &[], "c.toml:2: group_size:");
    check_error("", &["curriculum.temperature=0"], "--set curriculum.temperature: curriculum.temperature:");
    check_error("x = = 3", &[], "c.toml:1: ");
    check_error("", &["seed"], "--set seed: expected KEY=VALUE");
    check_error("", &[&format!("{}=1", "a.".repeat(60_000))], "no key has more than 32 parts");
}

/// Nothing is walked deeper than the stack.
#[test]
fn what_is_nested_too_deeply_is_refused() {
    let many = |text: &str| text.repeat(100_000);
    for text in [
        format!("x = {}1", many("[")),
        format!("x = {}1", many("{a = ")),
        format!("{}a = 1", many("a.")),
        format!("[{}a]", many("a.")),
        format!("[[{}a]]", many("a.")),
    ] {
        check_error(&text, &[], "c.toml:1: ");
        check_error("", &[&format!("grader.always={}", text.trim_start_matches("x = "))], "grader.always");
    }
}

#[test]
fn later_settings_win_and_paths_become_absolute() {
    let config =
        load_text("model = \"../m\"\nmax_steps = 3", &["max_steps=4", "max_steps=5", "engine.kind=mistralrs"]).unwrap();
    assert_eq!(config.max_steps, 5);
    assert!(config.model.is_absolute() && config.model.ends_with("m"));
    assert_eq!(load_text("", &["data.people=3"]).unwrap().data[0].levels, "3");
    let config = load_text("", &["model=here"]).unwrap();
    assert_eq!(config.model, std::env::current_dir().unwrap().join("here"));
}

#[test]
fn names_on_the_hub_are_told_from_paths() {
    for id in ["Qwen/Qwen2.5-7B-Instruct", "HuggingFaceTB/SmolLM2-135M", "a/b_c"] {
        assert!(is_hub_id(id), "{id}");
        assert_eq!(load_text(&format!("model = \"{id}\""), &[]).unwrap().model, PathBuf::from(id));
    }
    for path in ["model", "./a/b", "/a/b", "../a", "a/b/c", "a/", "/a", "a/.b", "", "a--b/c", "a/b--c", "models--a/b"] {
        assert!(!is_hub_id(path), "{path}");
    }
    let files = load_text("[data]\nkind = \"files\"\ntrain_files = [\"data/train.jsonl\"]", &[]).unwrap();
    assert!(files.data[0].train_files[0].starts_with('/'), "only models have names");
}

#[test]
fn a_grader_and_a_condition_are_replaced_whole() {
    let text = "[data]\ntrain_files = ['a']\nwhere = { x = { from = 1, to = 2 }, y = 3 }\n[grader]\nalways = { http = 'http://a' }";
    let sets = ["grader.always={http=\"http://b\",batch=3}", "data.where.x={from=5}"];
    let resolved = to_toml(&load_text(text, &sets).unwrap()).unwrap();
    assert!(resolved.contains("http://b") && !resolved.contains("http://a"), "{resolved}");
    let conditions = &resolved[resolved.find("[data.where").unwrap()..resolved.find("[grader").unwrap()];
    assert!(
        conditions.contains("from = 5") && !conditions.contains("to = 2") && conditions.contains("y = 3"),
        "{resolved}"
    );
    let command = load_text(text, &["grader.always={command=[\"cat\"]}"]).unwrap();
    assert!(to_toml(&command).unwrap().contains("cat"));
    // The order of overrides does not matter.
    for sets in [["data.levels=4-5", "data.task=arithmetic"], ["data.task=arithmetic", "data.levels=4-5"]] {
        let config = load_text("", &sets).unwrap();
        assert_eq!((config.data[0].task.as_str(), config.data[0].levels.as_str()), ("arithmetic", "4-5"));
    }
}

#[test]
fn a_resolved_configuration_reads_back_as_itself() {
    let config = load_text("model = \"m\"\n[data]\ntrain = 12", &[]).unwrap();
    assert_eq!(load_text(&to_toml(&config).unwrap(), &[]).unwrap(), config);
}
