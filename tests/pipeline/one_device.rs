//! Trainer and engine on one device, in each way to share it. On a CPU this shows the order of loads and publishes, not the
//! memory of a GPU. If CUDA is built in, mistral.rs does not compute on a CPU.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use dump_rl::config::engine::{EngineKind, SyncMode};
use dump_rl::config::run::RunConfig;
use dump_rl::pipeline::learner::End;
use dump_rl::pipeline::setup::Setup;
use engine::mistral::{MistralRs, MistralSettings, Swap};
use engine::{Adapter, Completion, Engine, EngineError, PolicyVersion, Request};
use tokio::sync::watch;

use crate::fixtures::records::{assert_same, metrics};
use crate::fixtures::root;
use crate::fixtures::runs::{block_on, check_finished, never, train};
use crate::fixtures::world::{B, G, STEPS, World};

const MODES: [SyncMode; 3] = [SyncMode::SideBySide, SyncMode::Reload, SyncMode::Alternate];

/// mistral.rs on the shipped model, with evaluations and checkpoints during the run.
fn config(world: &World, sync: SyncMode) -> RunConfig {
    let mut config = world.config();
    config.model = root().join("data/kk-tiny");
    (config.engine.kind, config.engine.sync) = (EngineKind::Mistralrs, sync);
    (config.eval.interval, config.eval.prompts, config.engine.max_new_tokens) = (2, 2, 160);
    config
}

/// mistral.rs as the mode needs it. Records what it did, and never answers group number `stop_at`.
struct Watched {
    inner: MistralRs,
    events: Mutex<Vec<&'static str>>,
    groups: AtomicUsize,
    stop_at: Option<(usize, watch::Sender<bool>)>,
}

impl Watched {
    async fn load(config: &RunConfig, stop_at: Option<(usize, watch::Sender<bool>)>) -> Arc<Self> {
        let setup = Setup::for_training(config.clone()).expect("a good configuration");
        let adapter = setup.base.trainer().and_then(|trainer| Ok(trainer.adapter()?)).expect("an adapter");
        let swap = if config.engine.sync == SyncMode::SideBySide { Swap::SideBySide } else { Swap::Reload };
        let settings = MistralSettings { swap, ..MistralSettings::cpu(2) };
        let inner = MistralRs::load(&config.model, settings, adapter).await.expect("an engine");
        Arc::new(Self { inner, events: Mutex::default(), groups: AtomicUsize::new(0), stop_at })
    }

    fn record(&self, event: &'static str) {
        self.events.lock().expect("unpoisoned").push(event);
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
        self.record("answer");
        Ok(completions)
    }

    async fn publish(&self, step: u64, adapter: Adapter) -> Result<PolicyVersion, EngineError> {
        let version = self.inner.publish(step, adapter).await?;
        self.record("publish");
        Ok(version)
    }

    async fn suspend(&self) -> Result<(), EngineError> {
        self.inner.suspend().await?;
        self.record("suspend");
        Ok(())
    }

    fn concurrency(&self, group_size: usize) -> usize {
        self.inner.concurrency(group_size)
    }
}

fn finish(config: &RunConfig, out: &Path) -> Arc<Watched> {
    block_on(async {
        let engine = Watched::load(config, None).await;
        check_finished(&train(config, out, engine.clone(), never()).await.expect("a run that ends well"));
        engine
    })
}

#[test]
fn every_mode_makes_the_same_run() {
    let world = World::new();
    let outs = MODES.map(|mode| {
        let out = world.out(&format!("{mode:?}"));
        let events = finish(&config(&world, mode), &out).events.lock().expect("unpoisoned").clone();
        let suspended = events.iter().filter(|event| **event == "suspend").count() as u64;
        assert_eq!(suspended, if mode == SyncMode::Alternate { STEPS } else { 0 });
        // A suspended engine answers nothing.
        let after_suspend = events.windows(2).filter(|pair| pair[0] == "suspend");
        after_suspend.for_each(|pair| assert_eq!(pair[1], "publish"));
        out
    });
    assert_same(&outs[0], &outs[1]);
    assert_same(&outs[0], &outs[2]);
    let lines = metrics(&outs[2]);
    assert!(lines.iter().any(|line| line.get("actor/grad_norm").is_some_and(|norm| norm.as_f64() > Some(0.0))));
    assert!(lines.iter().any(|line| line.contains_key("eval/kk_logic_3/reward")));
}

/// The run is stopped in the middle of its fourth round, and resumes from the checkpoint of that stop.
#[test]
fn an_alternating_run_resumes_after_a_stop() {
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
