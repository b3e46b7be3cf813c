//! Whole runs with the scripted engine and a real trainer: what holds whatever the timing, the failures and the stops.
//!
//! The engine answers right, wrong or in the wrong form, as the request's seed and the policy's hash say: one bit of
//! difference in an adapter changes what is sampled next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use dump_rl::advantage::AdvantageScale;
use dump_rl::config::ckpt::CkptConfig;
use dump_rl::config::data::DataConfig;
use dump_rl::config::engine::{EngineCheck, EngineConfig};
use dump_rl::config::eval::EvalConfig;
use dump_rl::config::lora::LoraSettings;
use dump_rl::config::optim::OptimConfig;
use dump_rl::config::pipeline::PipelineConfig;
use dump_rl::config::run::RunConfig;
use dump_rl::pipeline::Run;
use dump_rl::pipeline::inputs::Inputs;
use dump_rl::pipeline::learner::End;
use dump_rl::pipeline::setup::Setup;
use dump_rl::run_dir::checkpoint::Checkpoint;
use dump_rl::task::Row;
use engine::scripted::Scripted;
use engine::seed::mix_seed;
use engine::{Adapter, AdapterHash, Completion, Engine, EngineError, PolicyVersion, Request};
use serde_json::{Map, Value};
use temp_dir::TempDir;
use tokio::sync::{Notify, watch};

use crate::fixtures::TinyModel;

/// Steps of a run, B and G.
const STEPS: u64 = 5;
const B: usize = 3;
const G: usize = 4;
/// Longer than any run here: an engine that takes so long never answers.
const FOREVER: Duration = Duration::from_secs(3600);

/// A right answer, a wrong one, and one in the wrong form, by prompt.
type Answers = HashMap<Arc<[u32]>, [Vec<u32>; 3]>;

/// A model, the answers to its prompts, and a place for runs.
struct World {
    model: TinyModel,
    answers: Arc<Answers>,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let model = TinyModel::new();
        let inputs = Inputs::load(config(&model)).expect("a good configuration");
        Self { answers: Arc::new(answers(&inputs)), model, folder: TempDir::new().expect("a folder") }
    }

    fn config(&self) -> RunConfig {
        config(&self.model)
    }

    /// The configuration with η off-policy steps.
    fn off_policy(&self, max_off_policy_steps: u64) -> RunConfig {
        RunConfig { pipeline: PipelineConfig { max_off_policy_steps, rollout_workers: 0 }, ..self.config() }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An engine that answers at once, a batch at a time.
    fn engine(&self) -> Scripted {
        self.engine_that(|_| ())
    }

    /// An engine that gives every other group G times the same answer, right or wrong.
    fn often_equal(&self) -> Scripted {
        let answers = self.answers.clone();
        Scripted::new(move |request: &Request, index: usize, _: &PolicyVersion| {
            let kind =
                if request.seed.is_multiple_of(2) { request.seed / 2 } else { mix_seed(request.seed, index as u64) };
            answers[&request.prompt][(kind % 2) as usize].clone()
        })
        .with_concurrency(B)
    }

    /// The same; `answered` sees each request when it is answered.
    fn engine_that(&self, answered: impl Fn(&Request) + Send + Sync + 'static) -> Scripted {
        let answers = self.answers.clone();
        let script = move |request: &Request, index: usize, policy: &PolicyVersion| {
            if index == 0 {
                answered(request);
            }
            let policy = u64::from_str_radix(&policy.adapter.0[..16], 16).expect("a hash");
            answers[&request.prompt][(mix_seed(request.seed ^ policy, index as u64) % 3) as usize].clone()
        };
        Scripted::new(script).with_concurrency(B)
    }
}

fn config(model: &TinyModel) -> RunConfig {
    RunConfig {
        model: model.path().to_path_buf(),
        seed: 7,
        max_steps: STEPS,
        batch_size: B,
        group_size: G,
        data: DataConfig { people: "3-5".into(), train: 8, test: 3, ..DataConfig::default() },
        engine: EngineConfig { max_new_tokens: 96, ..EngineConfig::default() },
        eval: EvalConfig { interval: 0, prompts: 3, samples: 1, ..EvalConfig::default() },
        ckpt: CkptConfig { interval: 2, keep_last: 2 },
        lora: LoraSettings { rank: 4, ..LoraSettings::default() },
        optim: OptimConfig { lr: 1e-2, ..OptimConfig::default() },
        ..RunConfig::default()
    }
}

fn answers(inputs: &Inputs) -> Answers {
    let tokens =
        |text: String| [inputs.tokenizer.encode(&text).expect("ids"), vec![inputs.tokenizer.stop_tokens[0]]].concat();
    let items = inputs.train.sources.iter().chain(&inputs.test.sources).flat_map(|source| &source.items);
    items.map(|item| (item.prompt.clone(), texts(&item.row).map(tokens))).collect()
}

fn texts(row: &Row) -> [String; 3] {
    let truth: Value = serde_json::from_str(&row.reward_model.ground_truth).expect("JSON");
    let right = truth["solution_text_format"].as_str().expect("a solution").replace('\n', " ");
    let wrong = if right.contains("knight") {
        right.replacen("knight", "knave", 1)
    } else {
        right.replacen("knave", "knight", 1)
    };
    let complete = |answer: String| format!("<think> so </think>\n<answer> {answer} </answer>");
    [complete(right), complete(wrong), "nobody knows".into()]
}

/// Trains in `out` as `dump-rl train` does. Resumes from the newest checkpoint if `out` holds a run.
async fn train<E: Engine>(config: &RunConfig, out: &Path, engine: Arc<E>, stop: watch::Receiver<bool>) -> Result<End> {
    let setup = Setup::for_training(config.clone())?;
    let checkpoint = out.join("config.toml").exists().then(|| Checkpoint::load_latest(out)).transpose()?;
    let run = Run::prepare(&setup, out, checkpoint)?;
    // An engine loads the policy of step 0 when it starts.
    engine.publish(0, run.adapter().clone()).await?;
    run.start(engine, stop).await
}

/// Runs `future` on threads of its own, all of which have ended when this returns.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.expect("the run hangs") })
}

/// A run that nobody stops.
fn run<E: Engine>(config: &RunConfig, out: &Path, engine: E) -> Result<End> {
    let (_stop, stopped) = watch::channel(false);
    block_on(train(config, out, Arc::new(engine), stopped))
}

fn finish<E: Engine>(config: &RunConfig, out: &Path, engine: E) {
    let end = run(config, out, engine).expect("a run that ends well");
    assert!(matches!(end, End::Finished { .. }), "{end:?}");
}

/// A run that is expected to fail; the whole chain of the error.
fn fail<E: Engine>(config: &RunConfig, out: &Path, engine: E) -> String {
    format!("{:#}", run(config, out, engine).expect_err("this run cannot end well"))
}

/// A run that is dropped, as a kill would end it, when `kill` is notified.
fn run_until<E: Engine>(config: &RunConfig, out: &Path, engine: E, kill: &Notify) {
    let (_stop, stopped) = watch::channel(false);
    block_on(async {
        tokio::select! {
            end = train(config, out, Arc::new(engine), stopped) => panic!("it ended before it was killed: {end:?}"),
            () = kill.notified() => {}
        }
    });
}

/// A run that is asked to stop when the request for its group number `at`, from 0, arrives; that one is never answered.
fn stop_at(engine: Scripted, config: &RunConfig, out: &Path, at: usize) -> End {
    let (stop, stopped) = watch::channel(false);
    let calls = AtomicUsize::new(0);
    let engine = engine.with_latency(move |request| {
        if request.group_size != G || calls.fetch_add(1, Ordering::SeqCst) != at {
            return Duration::ZERO;
        }
        stop.send_replace(true);
        FOREVER
    });
    block_on(train(config, out, Arc::new(engine), stopped)).expect("a run that ends well")
}

/// The lines of metrics.jsonl, without what a clock or the machine has a say in.
fn metrics(out: &Path) -> Vec<Map<String, Value>> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap_or_default();
    let line = |line: &str| {
        let values: Map<String, Value> = serde_json::from_str(line).expect("a whole line");
        values.into_iter().filter(|(name, _)| !name.starts_with("time/") && !name.starts_with("perf/")).collect()
    };
    text.lines().map(line).collect()
}

fn number(line: &Map<String, Value>, name: &str) -> f64 {
    line.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// Sum over the distributions.
fn total(line: &Map<String, Value>, what: &str) -> f64 {
    [3, 4, 5].iter().map(|people| number(line, &format!("curriculum/kk_logic_{people}/{what}"))).sum()
}

/// The state in which a run ended.
fn last(out: &Path) -> Checkpoint {
    Checkpoint::load(&out.join(format!("checkpoints/step_{STEPS}"))).expect("the last checkpoint")
}

/// All that two runs must share to be the same run.
fn assert_same(a: &Path, b: &Path) {
    let (first, second) = (metrics(a), metrics(b));
    for (first, second) in first.iter().zip(&second) {
        for (name, value) in first {
            assert_eq!(Some(value), second.get(name), "{name} at step {}", first["step"]);
        }
    }
    assert_eq!(first, second);
    assert_eq!(first.last().map(|line| number(line, "step")), Some(STEPS as f64));
    for step in 1..=STEPS {
        let read = |out: &Path| fs::read(out.join(format!("rollouts/step_{step}.jsonl"))).expect("rollouts");
        assert!(read(a) == read(b), "the completions of step {step} differ");
    }
    for name in ["curriculum.jsonl", "decisions.jsonl"] {
        let read = |out: &Path| fs::read_to_string(out.join(name)).expect(name);
        assert!(read(a) == read(b), "{name} differs");
    }
    let [first, second] = [a, b].map(last);
    assert_eq!(first.trainer.adapter.hash, second.trainer.adapter.hash);
    assert!(first.trainer.adapter.bytes == second.trainer.adapter.bytes, "the adapters differ");
    assert!(first.trainer.optimizer == second.trainer.optimizer, "the moments differ");
    let state = |it: &Checkpoint| serde_json::to_string(&it.scheduler).expect("JSON");
    assert_eq!(state(&first), state(&second));
}

/// Every job ends once, in a batch of B groups of G completions, or dropped; returns how many were dropped.
fn check_ledger(out: &Path) -> u64 {
    let lines = metrics(out);
    assert_eq!(lines.iter().map(|line| number(line, "step") as u64).collect::<Vec<_>>(), Vec::from_iter(1..=STEPS));
    let mut trained = BTreeSet::new();
    for (step, line) in (1..).zip(&lines) {
        let accounted = total(line, "trained") + number(line, "groups/dropped") + number(line, "off_policy/in_flight");
        assert_eq!(total(line, "dispatched"), accounted, "step {step}");
        assert_eq!(total(line, "trained"), (step * B) as f64);
        let text = fs::read_to_string(out.join(format!("rollouts/step_{step}.jsonl"))).expect("rollouts");
        assert_eq!(text.lines().count(), B * G, "step {step}");
        let job = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["job"].as_u64();
        let jobs: BTreeSet<_> = text.lines().map(job).collect();
        assert_eq!(jobs.len(), B, "step {step}");
        jobs.iter().for_each(|job| assert!(trained.insert(*job), "job {job:?} was trained on twice"));
    }
    let end = lines.last().expect("a line");
    assert_eq!(number(end, "off_policy/in_flight"), 0.0);
    number(end, "groups/dropped") as u64
}

/// What a [`Bent`] engine does that a good one does not.
enum Bend {
    /// Says it loaded another adapter than was published for this step.
    LoadsAnother { step: u64 },
    /// Names another policy in its completions from this step on.
    Misnames { step: u64, policy: fn(PolicyVersion) -> PolicyVersion },
    /// Tells of the publish of this step, and never ends it.
    HangsAtPublish { step: u64, told: Arc<Notify> },
    /// Holds the group of this seed back until this step is published.
    Holds { seed: u64, until: u64 },
}

/// The scripted engine with a fault.
struct Bent {
    inner: Scripted,
    bend: Bend,
    step: watch::Sender<u64>,
}

impl Bent {
    fn new(inner: Scripted, bend: Bend) -> Self {
        Self { inner, bend, step: watch::Sender::new(0) }
    }
}

impl Engine for Bent {
    async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
        let seed = request.seed;
        let mut group = self.inner.generate(request).await?;
        match &self.bend {
            Bend::Misnames { step, policy } => {
                let late = group.iter_mut().filter(|completion| completion.policy.step >= *step);
                late.for_each(|completion| completion.policy = policy(completion.policy.clone()));
            }
            Bend::Holds { seed: held, until } if *held == seed => {
                self.step.subscribe().wait_for(|step| step >= until).await.expect("a sender");
            }
            _ => {}
        }
        Ok(group)
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let loaded = self.inner.publish(step, adapter).await?;
        self.step.send_replace(step);
        match &self.bend {
            Bend::LoadsAnother { step: at } if *at == step => Ok(PolicyVersion { adapter: other_hash(), ..loaded }),
            Bend::HangsAtPublish { step: at, told } if *at == step => {
                told.notify_one();
                std::future::pending().await
            }
            _ => Ok(loaded),
        }
    }

    fn concurrency(&self, group_size: usize) -> usize {
        self.inner.concurrency(group_size)
    }
}

fn other_hash() -> AdapterHash {
    engine::adapter::hash_bytes(b"another adapter")
}

fn out_of_memory() -> EngineError {
    EngineError::Generate("scripted: out of memory".into())
}

/// An engine on which these jobs fail; it answers one at a time, so they fail in the order of their numbers.
fn failing(world: &World, jobs: std::ops::Range<u64>) -> Scripted {
    let seeds: BTreeSet<u64> = jobs.map(|job| mix_seed(world.config().seed, job)).collect();
    let failure = move |request: &Request, _| seeds.contains(&request.seed).then(out_of_memory);
    world.engine().with_failure(failure).with_concurrency(1)
}

#[test]
fn a_run_trains_and_its_rewards_vary() {
    let world = World::new();
    let (config, out) = (world.config(), world.out("a"));
    finish(&config, &out, world.engine());
    assert_eq!(check_ledger(&out), 0);
    let setup = Setup::for_training(config).expect("a good configuration");
    let start = setup.base.trainer().expect("a trainer").adapter().expect("an adapter");
    assert_ne!(last(&out).trainer.adapter.hash, start.hash);
    assert_eq!(last(&out).trainer.updates, STEPS);
    for line in metrics(&out) {
        assert!(number(&line, "frac_reward_zero_std") < 1.0 && number(&line, "actor/grad_norm") > 0.0, "{line:?}");
        assert!(number(&line, "completions/clipped_ratio") == 0.0, "{line:?}");
        assert!((total(&line, "weight") - 1.0).abs() < 1e-9, "{line:?}");
    }
    let kept: BTreeSet<String> = fs::read_dir(out.join("checkpoints"))
        .expect("a folder")
        .map(|it| it.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(kept, BTreeSet::from(["step_4".to_string(), "step_5".to_string()]));
}

/// The scripted engine says of every token that it is as likely as not: wrong, and with a check the run never begins.
#[test]
fn an_engine_that_fails_its_check_is_not_trained_on() {
    let world = World::new();
    let with_check = |check| {
        let engine = EngineConfig { check, ..world.config().engine };
        RunConfig { engine, ..world.config() }
    };
    let out = world.out("checked");
    let error = fail(&with_check(EngineCheck::Always), &out, world.engine());
    assert!(error.contains("nothing was trained") && error.contains("of 16 completions"), "{error}");
    assert!(metrics(&out).is_empty() && !out.join("checkpoints").join("step_1").exists());
    finish(&with_check(EngineCheck::Never), &world.out("unchecked"), world.engine());
    // On a CPU the engines have passed it: nothing is asked of them.
    finish(&with_check(EngineCheck::Auto), &world.out("auto"), world.engine());
}

#[test]
fn synchronous_runs_are_equal_whatever_the_latency() {
    let world = World::new();
    let orders = [|_: u64| 0, |seed: u64| seed % 40, |seed: u64| 40 - seed % 40].map(|millis| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = order.clone();
        let out = world.out(&format!("latency {}", millis(1)));
        let engine = world.engine_that(move |request| seen.lock().expect("a lock").push(request.seed));
        finish(&world.config(), &out, engine.with_latency(move |request| Duration::from_millis(millis(request.seed))));
        let order = order.lock().expect("a lock").clone();
        (out, order)
    });
    let [(first, in_order), (second, by_seed), (third, reversed)] = orders;
    assert_eq!(in_order.len(), STEPS as usize * B);
    assert!(by_seed != in_order && by_seed != reversed, "the groups did not finish in other orders");
    assert_same(&first, &second);
    assert_same(&first, &third);
    let another = RunConfig { seed: 8, ..world.config() };
    finish(&another, &world.out("another seed"), world.engine());
    assert_ne!(last(&world.out("another seed")).trainer.adapter.hash, last(&first).trainer.adapter.hash);
}

#[test]
fn a_run_that_was_stopped_goes_on_as_if_it_had_not() {
    let world = World::new();
    let (config, straight) = (world.config(), world.out("straight"));
    finish(&config, &straight, world.engine());
    // In the first round, in the first and the last request of a later one.
    for at in [1, 2 * B, 3 * B - 1] {
        let out = world.out(&format!("stopped at {at}"));
        assert_eq!(stop_at(world.engine(), &config, &out, at), End::Stopped);
        assert_eq!(Checkpoint::load_latest(&out).expect("a checkpoint").step(), (at / B) as u64);
        finish(&config, &out, world.engine());
        assert_same(&straight, &out);
    }
}

#[test]
fn a_run_that_is_stopped_again_and_again_is_still_the_same() {
    let world = World::new();
    let (config, straight, out) = (world.config(), world.out("straight"), world.out("stopped"));
    finish(&config, &straight, world.engine());
    let sessions = (0..20).take_while(|_| stop_at(world.engine(), &config, &out, B + 1) == End::Stopped).count();
    assert_eq!(sessions as u64, STEPS - 1);
    assert_same(&straight, &out);
}

/// The stop comes during the first evaluation: by then a whole batch is waiting, and the curriculum has seen it.
#[test]
fn a_stop_with_a_batch_ready_loses_nothing() {
    let world = World::new();
    let eval = EvalConfig { interval: 2, ..world.config().eval };
    let config = RunConfig { eval, ..world.config() };
    let (straight, out) = (world.out("straight"), world.out("stopped"));
    finish(&config, &straight, world.engine());
    let slow_eval = |request: &Request| Duration::from_millis(if request.group_size == G { 0 } else { 150 });
    let (_stop, stopped) = watch::channel(true);
    let engine = Arc::new(world.engine().with_latency(slow_eval));
    assert_eq!(block_on(train(&config, &out, engine, stopped)).expect("a good end"), End::Stopped);
    let seen: Value =
        serde_json::to_value(&Checkpoint::load_latest(&out).expect("a checkpoint").scheduler).expect("JSON");
    let observed = seen["flights"].as_array().into_iter().flatten().filter(|flight| flight["observed"] == true).count();
    assert_eq!(observed, B, "the batch was not ready: this test shows nothing");
    finish(&config, &out, world.engine());
    assert_same(&straight, &out);
}

/// A kill leaves lines after the checkpoint, half a line, and half a checkpoint.
#[test]
fn a_run_that_was_killed_goes_on_from_its_checkpoint() {
    let world = World::new();
    let (config, straight) = (world.config(), world.out("straight"));
    finish(&config, &straight, world.engine());
    let generating = world.out("generating");
    let (kill, calls) = (Arc::new(Notify::new()), AtomicUsize::new(0));
    let killer = kill.clone();
    let engine = world.engine().with_latency(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        at if at == 3 * B + 1 => {
            killer.notify_one();
            FOREVER
        }
        _ => Duration::ZERO,
    });
    run_until(&config, &generating, engine, &kill);
    let (publishing, kill) = (world.out("publishing"), Arc::new(Notify::new()));
    let engine = Bent::new(world.engine(), Bend::HangsAtPublish { step: 4, told: kill.clone() });
    run_until(&config, &publishing, engine, &kill);
    for out in [generating, publishing] {
        assert_eq!(Checkpoint::load_latest(&out).expect("a checkpoint").step(), 2);
        assert_eq!(metrics(&out).len(), 3);
        let mut log = fs::OpenOptions::new().append(true).open(out.join("metrics.jsonl")).expect("a log");
        log.write_all(b"{\"step\":4,\"rew").expect("half a line");
        fs::create_dir_all(out.join("checkpoints/step_4.tmp")).expect("half a checkpoint");
        fs::write(out.join("checkpoints/step_4.tmp/state.json"), "{").expect("half a checkpoint");
        finish(&config, &out, world.engine());
        assert_same(&straight, &out);
    }
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let world = World::new();
    let (config, straight, out) = (world.config(), world.out("straight"), world.out("longer"));
    finish(&config, &straight, world.engine());
    finish(&RunConfig { max_steps: 3, ..config.clone() }, &out, world.engine());
    finish(&config, &out, world.engine());
    assert_same(&straight, &out);
    let engine = world.engine();
    finish(&config, &out, engine);
    assert_same(&straight, &out);
}

#[test]
fn generation_overlaps_training_by_one_step_at_most() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    let (_stop, stopped) = watch::channel(false);
    let engine = Arc::new(
        world.engine().with_concurrency(2 * B).with_latency(|request| Duration::from_millis(request.seed % 20)),
    );
    block_on(train(&config, &out, engine.clone(), stopped)).expect("a good end");
    assert!((B + 1..=2 * B).contains(&engine.most_running()), "{} at a time", engine.most_running());
    assert_eq!(check_ledger(&out), 0);
    let ages: Vec<f64> = metrics(&out).iter().map(|line| number(line, "off_policy/max")).collect();
    assert_eq!(ages[0], 0.0);
    assert!(ages.contains(&1.0) && ages.iter().all(|age| *age <= 1.0), "{ages:?}");
    assert!(metrics(&out).iter().all(|line| line.contains_key("rollout_corr/canary_max_diff")));
    let published: Vec<u64> = engine.published().iter().map(|policy| policy.step).collect();
    assert_eq!(published, [0, 0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_synchronous_run_trains_on_its_own_policy_alone() {
    let world = World::new();
    let (config, out) = (world.config(), world.out("a"));
    finish(
        &config,
        &out,
        world.engine().with_concurrency(2 * B).with_latency(|request| Duration::from_millis(request.seed % 20)),
    );
    assert!(metrics(&out).iter().all(|line| number(line, "off_policy/max") == 0.0));
}

#[test]
fn a_group_that_is_too_old_is_dropped_but_observed() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    let bend = Bend::Holds { seed: mix_seed(config.seed, 0), until: 2 };
    finish(&config, &out, Bent::new(world.engine(), bend));
    assert_eq!(check_ledger(&out), 1);
    let lines = metrics(&out);
    assert!(lines.iter().all(|line| number(line, "off_policy/max") <= 1.0));
    assert_eq!(total(lines.last().expect("a line"), "n"), ((STEPS as usize * B + 1) * G) as f64);
    let state = serde_json::to_value(&last(&out).scheduler).expect("JSON");
    assert_eq!(state["ledger"]["dropped"], serde_json::json!({"stale": 1}));
    for step in 1..=STEPS {
        let text = fs::read_to_string(out.join(format!("rollouts/step_{step}.jsonl"))).expect("rollouts");
        assert!(!text.contains("\"job\":0,"), "step {step} was trained on the stale group");
    }
}

#[test]
fn an_overlapping_run_goes_on_after_a_stop() {
    let world = World::new();
    let (config, out) = (world.off_policy(1), world.out("a"));
    assert_eq!(stop_at(world.engine(), &config, &out, 4 * B), End::Stopped);
    assert!(Checkpoint::load_latest(&out).expect("a checkpoint").step() < STEPS);
    finish(&config, &out, world.engine());
    assert_eq!(check_ledger(&out), 0);
    assert!(metrics(&out).iter().all(|line| number(line, "off_policy/max") <= 1.0));
}

#[test]
fn failed_groups_are_replaced() {
    let world = World::new();
    for (eta, failures) in [(0, 4..5), (0, 4..6), (1, 4..5), (1, 1..3)] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta} {failures:?}")));
        let count = failures.end - failures.start;
        finish(&config, &out, failing(&world, failures));
        assert_eq!(check_ledger(&out), count);
        // A group that failed has nothing to observe.
        assert_eq!(total(metrics(&out).last().expect("a line"), "n"), (STEPS as usize * B * G) as f64);
        let state = serde_json::to_value(&last(&out).scheduler).expect("JSON");
        assert_eq!(state["ledger"]["dropped"], serde_json::json!({"failed": count}));
    }
}

#[test]
fn a_run_with_a_failure_is_the_same_after_a_stop() {
    let world = World::new();
    let (config, straight, out) = (world.config(), world.out("straight"), world.out("stopped"));
    let fails = mix_seed(config.seed, 4);
    let engine = || world.engine().with_failure(move |request, _| (request.seed == fails).then(out_of_memory));
    finish(&config, &straight, engine());
    assert_eq!(check_ledger(&straight), 1);
    // The stop comes when the rest of the round is done and the replacement runs.
    let (stop, stopped) = watch::channel(false);
    let replacement = mix_seed(config.seed, 2 * B as u64);
    let stopping = engine().with_latency(move |request| {
        if request.seed != replacement {
            return Duration::ZERO;
        }
        stop.send_replace(true);
        FOREVER
    });
    assert_eq!(block_on(train(&config, &out, Arc::new(stopping), stopped)).expect("a good end"), End::Stopped);
    finish(&config, &out, engine());
    assert_same(&straight, &out);
}

/// An engine whose log-probabilities are no numbers: three steps are left out, then the run ends and leaves the batch.
/// Groups by what became of them, as decisions.jsonl has them.
fn outcomes(out: &Path) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    for line in fs::read_to_string(out.join("decisions.jsonl")).expect("decisions").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        for decision in line["decisions"].as_array().expect("a list") {
            let sum: f64 = decision["weights"].as_array().expect("weights").iter().filter_map(Value::as_f64).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{decision}");
            *outcomes.entry(decision["outcome"].as_str().expect("an outcome").to_string()).or_default() += 1;
        }
    }
    outcomes
}

#[test]
fn groups_without_variance_are_left_out_replaced_and_observed() {
    let world = World::new();
    for eta in [0, 1] {
        let mut config = world.off_policy(eta);
        config.filter.zero_variance = true;
        let out = world.out(&format!("eta_{eta}"));
        finish(&config, &out, world.often_equal());
        assert!(check_ledger(&out) > 0, "nothing was left out");
        let (end, outcomes) = (metrics(&out).pop().expect("a line"), outcomes(&out));
        assert!(metrics(&out).iter().all(|line| number(line, "frac_reward_zero_std") == 0.0));
        for reason in ["solved_all", "solved_none"] {
            assert_eq!(number(&end, &format!("groups/filtered_{reason}")), outcomes[reason] as f64);
        }
        assert_eq!(outcomes["trained"], STEPS * B as u64);
        let text = fs::read_to_string(out.join("curriculum.jsonl")).expect("observations");
        let groups =
            |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["observations"].as_array().unwrap().len();
        assert_eq!(text.lines().map(groups).sum::<usize>() as u64, outcomes.values().sum::<u64>());
    }
}

#[test]
fn a_model_that_solves_everything_still_gets_through_its_steps() {
    let world = World::new();
    let mut config = world.config();
    (config.filter.zero_variance, config.filter.max_refills) = (true, 2);
    let answers = world.answers.clone();
    let engine = Scripted::new(move |request: &Request, _, _: &PolicyVersion| answers[&request.prompt][0].clone());
    finish(&config, &world.out("run"), engine.with_concurrency(B));
    assert_eq!(outcomes(&world.out("run"))["solved_all"], 2 * STEPS * B as u64);
}

#[test]
fn a_run_with_refills_is_the_same_after_a_stop() {
    let world = World::new();
    let mut config = world.config();
    config.filter.zero_variance = true;
    let straight = world.out("straight");
    finish(&config, &straight, world.often_equal());
    for at in [1, 4, 5, 9, 13] {
        let out = world.out(&format!("stopped_{at}"));
        assert_eq!(stop_at(world.often_equal(), &config, &out, at), End::Stopped);
        finish(&config, &out, world.often_equal());
        assert_same(&straight, &out);
    }
}

#[test]
fn three_spoilt_steps_in_a_row_end_the_run_and_leave_the_batch() {
    let world = World::new();
    let out = world.out("spoilt");
    let error = fail(&world.config(), &out, world.engine().with_log_prob(f32::NAN));
    assert!(error.contains("not finite") && error.contains("failed_step_3.jsonl"), "{error}");
    let text = fs::read_to_string(out.join("rollouts/failed_step_3.jsonl")).expect("the batch");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), B * G);
    for line in &lines {
        let length = |key: &str| line[key].as_array().map_or(0, Vec::len);
        assert!(length("prompt") > 0 && length("completion") > 0, "{line}");
        assert_eq!(length("rollout_log_probs"), length("completion"));
        assert!(line["advantage"].is_number() && line["rollout_log_probs"][0] == "NaN", "{line}");
    }
}

/// A stop between spoilt steps does not begin the count anew.
#[test]
fn spoilt_steps_are_counted_across_a_resume() {
    let world = World::new();
    let (config, out) = (world.config(), world.out("spoilt"));
    let engine = || world.engine().with_log_prob(f32::NAN);
    finish(&RunConfig { max_steps: 2, ..config.clone() }, &out, engine());
    assert_eq!(Checkpoint::load_latest(&out).expect("a checkpoint").history.skipped_in_a_row, 2);
    let error = fail(&config, &out, engine());
    assert!(error.contains("failed_step_3.jsonl"), "{error}");
}

/// What stands in a rollout is what was trained on; the curriculum's record keeps what it saw.
#[test]
fn logged_advantages_are_those_that_were_trained_on() {
    let world = World::new();
    let mut config = RunConfig { max_steps: 1, ..world.config() };
    config.advantage.scale = AdvantageScale::BatchStd;
    let out = world.out("scaled");
    finish(&config, &out, world.engine());
    let read = |name: &str| fs::read_to_string(out.join(name)).expect(name);
    let text = read("rollouts/step_1.jsonl");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let trained: Vec<f64> = lines.map(|line| line["advantage"].as_f64().expect("a number")).collect();
    let seen: Value = serde_json::from_str(&read("curriculum.jsonl")).expect("JSON");
    let groups = seen["observations"].as_array().expect("groups").iter();
    let seen: Vec<f64> = groups
        .flat_map(|g| g["advantages"].as_array().cloned().unwrap_or_default())
        .map(|a| a.as_f64().expect("a number"))
        .collect();
    let deviation = |all: &[f64]| (all.iter().map(|a| a * a).sum::<f64>() / (all.len() - 1) as f64).sqrt();
    assert!((deviation(&trained) - 1.0).abs() < 1e-4);
    // What the curriculum sees is divided by each group's own deviation, whatever the loss takes.
    for (trained, seen) in trained.chunks(G).zip(seen.chunks(G)).filter(|(_, seen)| seen.iter().any(|a| *a != 0.0)) {
        assert!((deviation(seen) - 1.0).abs() < 1e-4, "{seen:?}");
        let scale = deviation(trained);
        assert!(trained.iter().zip(seen).all(|(trained, seen)| (trained - scale * seen).abs() < 1e-4));
    }
}

#[test]
fn three_failures_in_a_row_end_the_run_with_their_cause() {
    let world = World::new();
    for eta in [0, 1] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta}")));
        let error = fail(&config, &out, failing(&world, 1..100));
        assert!(error.contains("scripted: out of memory") && error.contains("3 groups in a row"), "{error}");
        assert!(metrics(&out).is_empty());
    }
}

#[test]
fn a_failing_run_ends_although_a_request_hangs() {
    let world = World::new();
    let calls = AtomicUsize::new(0);
    let latency = move |_: &Request| if calls.fetch_add(1, Ordering::SeqCst) == 0 { FOREVER } else { Duration::ZERO };
    let engine = world.engine().with_latency(latency).with_failure(|_, _| Some(out_of_memory())).with_concurrency(B);
    let error = fail(&world.off_policy(1), &world.out("a"), engine);
    assert!(error.contains("scripted: out of memory"), "{error}");
}

#[test]
fn a_request_that_is_wrong_ends_the_run_at_once() {
    let world = World::new();
    let engine = world.engine().with_failure(|_, _| Some(EngineError::PromptLength { tokens: 900, context: 512 }));
    let (_stop, stopped) = watch::channel(false);
    let engine = Arc::new(engine.with_concurrency(1));
    let error = block_on(train(&world.config(), &world.out("a"), engine.clone(), stopped)).expect_err("a wrong prompt");
    assert!(format!("{error:#}").contains("prompt of 900 tokens"), "{error:#}");
    assert!(
        error.chain().any(|cause| cause.downcast_ref::<EngineError>().is_some_and(EngineError::is_input)),
        "exit status 2"
    );
    assert_eq!(engine.calls(), 1);
}

#[test]
fn an_engine_that_loads_another_adapter_ends_the_run() {
    let world = World::new();
    let out = world.out("a");
    let error = fail(&world.config(), &out, Bent::new(world.engine(), Bend::LoadsAnother { step: 2 }));
    let loaded = other_hash();
    assert!(error.contains("published adapter") && error.contains(&format!("the engine loaded {loaded}")), "{error}");
    // The step that could not be published does not count.
    assert_eq!(metrics(&out).len(), 1);
}

#[test]
fn a_completion_of_an_unpublished_policy_ends_the_run() {
    let world = World::new();
    let another: fn(PolicyVersion) -> PolicyVersion = |policy| PolicyVersion { adapter: other_hash(), ..policy };
    let ahead: fn(PolicyVersion) -> PolicyVersion = |policy| PolicyVersion { step: policy.step + 1, ..policy };
    for (eta, step, policy, trained) in [(0, 0, another, 0), (0, 2, another, 2), (0, 1, ahead, 1), (1, 0, ahead, 0)] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta} {step} {trained}")));
        let error = fail(&config, &out, Bent::new(world.engine(), Bend::Misnames { step, policy }));
        assert!(error.contains("was not published") && error.contains("job"), "{error}");
        assert_eq!(metrics(&out).len(), trained);
    }
}

#[test]
fn a_stop_while_waiting_for_a_batch_ends_within_a_second() {
    let world = World::new();
    for eta in [0, 1] {
        let (config, out) = (world.off_policy(eta), world.out(&format!("{eta}")));
        let (stop, stopped) = watch::channel(false);
        let engine = Arc::new(world.engine().with_latency(|_| FOREVER));
        let took = block_on(async {
            let training = train(&config, &out, engine.clone(), stopped);
            let stopping = async {
                while engine.calls() < B {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                stop.send_replace(true);
                Instant::now()
            };
            let (end, since) = tokio::join!(training, stopping);
            assert_eq!(end.expect("a good end"), End::Stopped);
            since.elapsed()
        });
        assert!(took < Duration::from_secs(1), "{took:?}");
        let checkpoint = Checkpoint::load_latest(&out).expect("a checkpoint that loads");
        assert_eq!(checkpoint.step(), 0);
        finish(&config, &out, world.engine());
        assert_eq!(check_ledger(&out), 0);
    }
}

#[test]
fn validation_never_reaches_the_curriculum() {
    let world = World::new();
    let with_eval = |interval| RunConfig { eval: EvalConfig { interval, ..world.config().eval }, ..world.config() };
    let (without, with) = (world.out("without"), world.out("with"));
    finish(&with_eval(0), &without, world.engine());
    let end = run(&with_eval(1), &with, world.engine()).expect("a good end");
    let End::Finished { first: Some(first), last: Some(last_eval) } = end else { panic!("no evaluations: {end:?}") };
    assert_eq!((first.len(), last_eval.len()), (3, 3));
    assert!(metrics(&with).iter().all(|line| line.contains_key("eval/mean/reward")));
    let curriculum = |out: &Path| -> Vec<Map<String, Value>> {
        let seen =
            |line: Map<String, Value>| line.into_iter().filter(|(name, _)| name.starts_with("curriculum/")).collect();
        metrics(out).into_iter().filter(|line| line["step"] != 0).map(seen).collect()
    };
    assert_eq!(curriculum(&without), curriculum(&with));
    assert_eq!(curriculum(&with)[0].len(), 3 * 6);
    assert_eq!(last(&without).trainer.adapter.hash, last(&with).trainer.adapter.hash);
    let state = |out: &Path| serde_json::to_string(&last(out).scheduler).expect("JSON");
    assert_eq!(state(&without), state(&with));
}

/// Trainer and engine on one device, in every way to share it. On a CPU: the order of things, not the memory of a card; and
/// there mistral.rs does not compute with CUDA built in.
#[cfg(all(feature = "mistralrs", not(feature = "cuda")))]
mod one_device {
    use super::*;
    use crate::fixtures::root;
    use dump_rl::config::engine::{EngineKind, SyncMode};
    use engine::mistral::{MistralRs, MistralSettings, Swap};

    const MODES: [SyncMode; 3] = [SyncMode::SideBySide, SyncMode::Reload, SyncMode::Alternate];

    /// mistral.rs on the shipped model, evaluated and saved on the way.
    fn config(world: &World, sync: SyncMode) -> RunConfig {
        let mut config = world.config();
        config.model = root().join("data/kk-tiny");
        (config.engine.kind, config.engine.sync) = (EngineKind::Mistralrs, sync);
        (config.eval.interval, config.eval.prompts, config.engine.max_new_tokens) = (2, 2, 160);
        config
    }

    /// The engine as the mode wants it; tells of what is asked of it, and never answers group number `stop_at`.
    struct Watched {
        inner: MistralRs,
        told: Mutex<Vec<&'static str>>,
        groups: AtomicUsize,
        stop_at: Option<(usize, watch::Sender<bool>)>,
    }

    impl Watched {
        async fn load(config: &RunConfig, stop_at: Option<(usize, watch::Sender<bool>)>) -> Arc<Self> {
            let setup = Setup::load(config.clone()).expect("a good configuration");
            let adapter = setup.trainer().and_then(|trainer| Ok(trainer.adapter()?)).expect("an adapter");
            let swap = if config.engine.sync == SyncMode::SideBySide { Swap::SideBySide } else { Swap::Reload };
            let settings = MistralSettings { swap, ..MistralSettings::cpu(2) };
            let inner = MistralRs::load(&config.model, settings, adapter).await.expect("an engine");
            Arc::new(Self { inner, told: Mutex::default(), groups: AtomicUsize::new(0), stop_at })
        }

        fn tell(&self, what: &'static str) {
            self.told.lock().expect("unpoisoned").push(what);
        }
    }

    impl Engine for Watched {
        async fn generate(&self, request: Request) -> Result<Vec<Completion>, EngineError> {
            if request.group_size == G {
                let number = self.groups.fetch_add(1, Ordering::SeqCst);
                if let Some((_, stop)) = self.stop_at.as_ref().filter(|(at, _)| *at == number) {
                    stop.send_replace(true);
                    std::future::pending::<()>().await;
                }
            }
            let completions = self.inner.generate(request).await?;
            self.tell("answer");
            Ok(completions)
        }

        async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
            let version = self.inner.publish(step, adapter).await?;
            self.tell("publish");
            Ok(version)
        }

        async fn suspend(&self) -> Result<(), EngineError> {
            self.inner.suspend().await?;
            self.tell("suspend");
            Ok(())
        }

        fn concurrency(&self, group_size: usize) -> usize {
            self.inner.concurrency(group_size)
        }
    }

    fn finish(config: &RunConfig, out: &Path) -> Arc<Watched> {
        let (_stop, stopped) = watch::channel(false);
        block_on(async {
            let engine = Watched::load(config, None).await;
            let end = train(config, out, engine.clone(), stopped).await.expect("a run that ends well");
            assert!(matches!(end, End::Finished { .. }), "{end:?}");
            engine
        })
    }

    #[test]
    fn every_mode_makes_the_same_run() {
        let world = World::new();
        let outs = MODES.map(|mode| {
            let out = world.out(&format!("{mode:?}"));
            let told = finish(&config(&world, mode), &out).told.lock().expect("unpoisoned").clone();
            let suspended = told.iter().filter(|what| **what == "suspend").count() as u64;
            assert_eq!(suspended, if mode == SyncMode::Alternate { STEPS } else { 0 });
            // Unloaded, an engine answers nothing.
            let behind = told.windows(2).filter(|pair| pair[0] == "suspend");
            behind.for_each(|pair| assert_eq!(pair[1], "publish"));
            out
        });
        assert_same(&outs[0], &outs[1]);
        assert_same(&outs[0], &outs[2]);
        let lines = metrics(&outs[2]);
        assert!(lines.iter().any(|line| line.get("actor/grad_norm").is_some_and(|norm| norm.as_f64() > Some(0.0))));
        assert!(lines.iter().any(|line| line.contains_key("eval/kk_logic_3/reward")));
    }

    /// Stopped in the middle of its fourth round, and gone on with from the checkpoint of that stop.
    #[test]
    fn a_run_that_alternates_stops_and_goes_on() {
        let world = World::new();
        let config = config(&world, SyncMode::Alternate);
        let (whole, stopped) = (world.out("whole"), world.out("stopped"));
        finish(&config, &whole);
        let (stop, stops) = watch::channel(false);
        let end = block_on(async {
            let engine = Watched::load(&config, Some((3 * B + 1, stop))).await;
            train(&config, &stopped, engine, stops).await.expect("a run that ends well")
        });
        assert_eq!(end, End::Stopped);
        finish(&config, &stopped);
        assert_same(&whole, &stopped);
    }
}
