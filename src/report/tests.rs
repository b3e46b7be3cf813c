//! The whole report, on runs that the tests write.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::*;

/// A run to write, with `steps` steps over `arms` distributions.
#[derive(Clone, Copy)]
struct Made {
    steps: u64,
    arms: usize,
    policy: &'static str,
    seed: u64,
    /// Length of a completion in letters.
    length: usize,
}

const SMALL: Made = Made { steps: 4, arms: 2, policy: "dump", seed: 1, length: 30 };

/// B and G.
const GROUPS: u64 = 16;
const COMPLETIONS: u64 = 8;

impl Made {
    fn sources(self) -> Vec<String> {
        (0..self.arms).map(|arm| format!("kk/{}", arm + 3)).collect()
    }

    /// Writes the run's folder.
    fn write(self, path: &Path) {
        fs::create_dir_all(path.join("rollouts")).unwrap();
        let config = format!(
            "model = \"models/tiny\"\nseed = {}\nmax_steps = {}\nbatch_size = 16\ngroup_size = 8\n[curriculum]\npolicy = \
             \"{}\"\n[pipeline]\nmax_off_policy_steps = 0\n[filter]\nzero_variance = false\n",
            self.seed, self.steps, self.policy
        );
        fs::write(path.join("config.toml"), config).unwrap();
        let lines = |line: &dyn Fn(u64) -> Value, from: u64| -> String {
            (from..=self.steps).map(|step| line(step).to_string() + "\n").collect()
        };
        fs::write(path.join("metrics.jsonl"), lines(&|step| self.metrics(step), 0)).unwrap();
        fs::write(path.join("curriculum.jsonl"), lines(&|step| self.observations(step), 1)).unwrap();
        fs::write(path.join("decisions.jsonl"), lines(&|step| self.decisions(step), 1)).unwrap();
        (1..=self.steps).for_each(|step| {
            fs::write(path.join(format!("rollouts/step_{step}.jsonl")), self.rollouts(step)).unwrap();
        });
    }

    /// Test scores rise by 0.1 per step; the first distribution gets three of four groups.
    fn metrics(self, step: u64) -> Value {
        let mut line = Map::from_iter([("step".to_string(), json!(step))]);
        let mut add = |name: String, value: f64| drop(line.insert(name, json!(value)));
        for source in self.sources().iter().chain([&"mean".to_string()]) {
            add(format!("eval/{source}/answer_reward"), -1.5 + 0.1 * step as f64);
            add(format!("eval/{source}/avg@2"), 0.25);
        }
        if step == 0 {
            return Value::Object(line);
        }
        for (arm, source) in self.sources().iter().enumerate() {
            let trained = if arm == 0 { 12 * step } else { 4 * step / (self.arms as u64 - 1) };
            for (what, value) in [("trained", trained as f64), ("dispatched", trained as f64), ("learnability", 0.5)] {
                add(format!("curriculum/{source}/{what}"), value);
            }
        }
        for (name, value) in [
            ("perf/total_tokens", 1000.0 * step as f64),
            ("time/step", 10.0),
            ("time/generate", 6.0),
            ("time/train", 3.0),
            ("time/wait_for_batch", 6.0),
            ("groups/solved_all", 0.25),
            ("groups/solved_some", 0.5),
            ("groups/solved_none", 0.25),
            ("actor/entropy", 0.5),
            ("actor/kl_loss", 0.0),
        ] {
            add(name.into(), value);
        }
        line.insert("actor/grad_norm".into(), Value::Null);
        Value::Object(line)
    }

    fn observations(self, step: u64) -> Value {
        let sources = self.sources();
        let group = |i: u64| {
            json!({"source": sources[i as usize % sources.len()], "rewards": vec![3.0; COMPLETIONS as usize],
                "advantages": vec![0.0; COMPLETIONS as usize], "tokens": 100})
        };
        json!({"step": step, "observations": (0..GROUPS).map(group).collect::<Vec<_>>()})
    }

    fn decisions(self, step: u64) -> Value {
        let sources = self.sources();
        let job = |i: u64| {
            json!({"job": i, "drawn_at_step": step, "source": sources[i as usize % sources.len()], "row": i,
                "outcome": if i == 0 { "solved_none" } else { "trained" }, "weights": vec![0.1; self.arms],
                "values": vec![0.1; self.arms], "bonuses": vec![0.1; self.arms]})
        };
        json!({"step": step, "sources": sources, "decisions": (0..GROUPS).map(job).collect::<Vec<_>>()})
    }

    fn rollouts(self, step: u64) -> String {
        let mut out = String::new();
        for i in 0..GROUPS * COMPLETIONS {
            let text = format!("<think>{}</think> & \"done\" {i}</script>", "x".repeat(self.length));
            let right = (i / self.arms as u64).is_multiple_of(2);
            let line = json!({"step": step, "job": i, "data_source": self.sources()[i as usize % self.arms], "row": i,
                "completion": text, "reward": if right { 3.0 } else { -0.5 }, "format_score": 1.0,
                "answer_score": if right { 2.0 } else { -1.5 }, "advantage": 0.5, "tokens": 50 + i, "finish": "stop",
                "policy_step": step - 1, "last_policy_step": step - 1, "adapter": "ab12"});
            writeln!(out, "{line}").unwrap();
        }
        out
    }
}

/// The report on these runs.
fn report(made: &[Made]) -> String {
    let folder = temp_dir::TempDir::new().unwrap();
    let runs: Vec<PathBuf> = (0..made.len()).map(|i| folder.path().join(format!("run-{i}"))).collect();
    made.iter().zip(&runs).for_each(|(made, path)| made.write(path));
    written(&folder, &runs).unwrap()
}

fn written(folder: &temp_dir::TempDir, runs: &[PathBuf]) -> Result<String, InputError> {
    let out = folder.path().join("report.html");
    let size = run(runs, &out)?;
    let html = fs::read_to_string(&out).unwrap();
    assert_eq!(html.len(), size);
    Ok(html)
}

fn check(html: &str, has: &[&str], lacks: &[&str]) {
    has.iter().for_each(|text| assert!(html.contains(text), "no {text:?}"));
    lacks.iter().for_each(|text| assert!(!html.contains(text), "there is {text:?}"));
}

#[test]
fn the_numbers_of_a_run_are_drawn() {
    let html = report(&[SMALL]);
    check(
        &html,
        &[
            // The table: −1.5 to −1.1; the curve; the mean against tokens.
            "<small>−1.50 →</small> <span>−1.10</span> <small class=\"up\">+0.40</small>",
            "<title>run-0, step 4: −1.1</title>",
            "<title>run-0, tokens 4000: −1.1</title>",
            // Three of four groups.
            "<title>kk/3, step 4: 75</title>",
            "<title>kk/3, step 2: 75 %</title>",
            "<title>step 3, some right, some wrong: 50</title>",
            "<title>step 1, training: 3</title>",
            "<title>first fifth, 3: 50 %</title>",
            "Generation is the bottleneck with 60 %",
            "<td>16 × 8</td>",
            "solved none",
            "of step 3 ab12",
        ],
        // Metrics that are always 0 or null have no plot.
        &["kl_loss", "grad_norm", "Exploration bonus", "Groups left out", "The runs differ"],
    );
}

#[test]
fn text_from_data_is_escaped_and_nothing_is_fetched() {
    let html = report(&[SMALL]);
    check(
        &html,
        &["&lt;think&gt;xxx", "&amp; &quot;done&quot;", "&lt;/script&gt;"],
        &["<think>", "src=", "url(", "@import"],
    );
    assert_eq!(html.matches("</script>").count(), 1);
    // The only address is the name of the SVG name space.
    assert_eq!(html.matches("http").count() - html.matches("http-equiv").count(), 1);
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}

#[test]
fn names_from_data_folders_and_settings_are_escaped_everywhere() {
    let folder = temp_dir::TempDir::new().unwrap();
    let runs = ["<b>first", "<b>second"].map(|name| folder.path().join(name));
    for (path, policy) in runs.iter().zip(["dump", "uniform"]) {
        Made { policy, ..SMALL }.write(path);
        let rollouts = (1..=SMALL.steps).map(|step| format!("rollouts/step_{step}.jsonl"));
        let lines = ["metrics.jsonl", "curriculum.jsonl", "decisions.jsonl"].map(String::from);
        for file in rollouts.chain(lines).map(|name| path.join(name)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains("kk/3"), "{}", file.display());
            fs::write(&file, text.replace("kk/3", r#"<script>3\" onload=\"x' y"#)).unwrap();
        }
        let config = fs::read_to_string(path.join("config.toml")).unwrap();
        fs::write(path.join("config.toml"), config.replace(policy, &format!("<i>{policy}"))).unwrap();
    }
    for shown in [&runs[..1], &runs[..]] {
        let html = written(&folder, shown).unwrap();
        check(
            &html,
            &["&lt;script&gt;3&quot; onload=", "&lt;i&gt;dump", "&lt;b&gt;first"],
            &["<i>dump", "<i>uniform", "<b>first", "<b>second", "\" onload"],
        );
        assert_eq!((html.matches("<script>").count(), html.matches("</script>").count()), (1, 1));
    }
}

#[test]
fn several_runs_are_overlaid_and_their_differences_named() {
    let html = report(&[SMALL, Made { policy: "uniform", ..SMALL }]);
    check(
        &html,
        &["The runs differ in curriculum.policy; every", "<option>run-1</option>", "var(--run1)"],
        &["<th>seed</th></tr>"],
    );
}

#[test]
fn many_runs_are_means_over_seeds() {
    let runs = (0..10).map(|seed| Made { policy: if seed < 5 { "dump" } else { "uniform" }, seed, ..SMALL });
    let html = report(&runs.collect::<Vec<_>>());
    check(
        &html,
        &["dump (5 runs)", "uniform (5 runs)", "<title>dump (5 runs), step 4: −1.1</title>"],
        &["run-0, step 4"],
    );
}

#[test]
fn an_active_run_is_read_as_far_as_it_is_written() {
    let folder = temp_dir::TempDir::new().unwrap();
    let path = folder.path().join("run");
    SMALL.write(&path);
    ["config.toml", "decisions.jsonl", "curriculum.jsonl"]
        .iter()
        .for_each(|name| fs::remove_file(path.join(name)).unwrap());
    fs::remove_dir_all(path.join("rollouts")).unwrap();
    let metrics = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    fs::write(path.join("metrics.jsonl"), &metrics[..metrics.len() - 20]).unwrap();
    let html = written(&folder, std::slice::from_ref(&path)).unwrap();
    check(&html, &["<title>run, step 3: −1.2</title>"], &["step 4", "Sample completions", "first fifth"]);
    fs::write(path.join("metrics.jsonl"), "").unwrap();
    check(&written(&folder, &[path]).unwrap(), &["<td>run</td>"], &["<svg"]);
}

#[test]
fn wrong_input_is_named() {
    let folder = temp_dir::TempDir::new().unwrap();
    let path = folder.path().join("run");
    let place = |path: &Path| written(&folder, &[path.to_path_buf()]).unwrap_err();
    assert!(place(&path).place.ends_with("run") && place(&path).problem.contains("holds no run"));
    SMALL.write(&path);
    for (name, text, line) in [
        ("metrics.jsonl", "{\"step\":0}\n{\n{\"step\":1}\n", "metrics.jsonl:2"),
        ("metrics.jsonl", "{\"reward\":0}\n", "metrics.jsonl:1"),
        ("config.toml", "seed = \n", "config.toml"),
        ("rollouts/step_2.jsonl", "\n{\"step\":2}\n", "step_2.jsonl:2"),
        ("decisions.jsonl", "[]\n", "decisions.jsonl:1"),
    ] {
        let before = fs::read(path.join(name)).unwrap();
        fs::write(path.join(name), text).unwrap();
        let error = place(&path);
        assert!(error.place.ends_with(line), "{error}");
        fs::write(path.join(name), before).unwrap();
    }
    let error = run(&[path], &folder.path().join("no/such/folder.html")).unwrap_err();
    assert!(error.problem.contains("cannot be written"), "{error}");
}

#[test]
fn five_runs_of_200_steps_take_little_time_and_space() {
    let folder = temp_dir::TempDir::new().unwrap();
    let large = |seed| Made { steps: 200, arms: 12, policy: "dump", seed, length: 2000 };
    let runs: Vec<PathBuf> = (0..5).map(|seed| folder.path().join(format!("seed-{seed}"))).collect();
    runs.iter().zip(0..).for_each(|(path, seed)| large(seed).write(path));
    let since = Instant::now();
    let html = written(&folder, &runs).unwrap();
    let seconds = since.elapsed().as_secs_f64();
    assert!(html.len() < 5_000_000, "{} bytes", html.len());
    assert!(seconds < 5.0, "{seconds} s");
    let samples = html.matches("<details").count();
    assert!((100..=MOST_SAMPLES).contains(&samples), "{samples} samples");
}
