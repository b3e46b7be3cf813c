//! The OS thread that owns a [`Trainer`]. Training blocks its thread, and the async runtime must not be blocked.
//!
//! Base weights that are kept in main memory are on the device only while a command computes.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use engine::threads;
use tokio::sync::{oneshot, watch};

use super::sample::Sample;
use super::stats::Mismatch;
use super::trainer::state::TrainerState;
use super::trainer::{StepOutput, Trainer};
use crate::panics;

/// Sends commands to the trainer's thread. Dropping it gives up the running command, and waits a while for the thread.
pub struct TrainerHandle {
    give_up: watch::Sender<bool>,
    progress: Arc<AtomicU64>,
    commands: Option<mpsc::Sender<TrainerCommand>>,
    thread: Option<JoinHandle<()>>,
}

enum TrainerCommand {
    Step { step: u64, samples: Vec<Sample>, reply: TrainerReply<Option<StepOutput>> },
    Mismatch { step: u64, samples: Vec<Sample>, reply: TrainerReply<Mismatch> },
    State { reply: TrainerReply<TrainerState> },
}

type TrainerReply<T> = oneshot::Sender<candle_core::Result<T>>;

impl TrainerHandle {
    /// Moves `trainer` to its own thread.
    pub fn spawn(mut trainer: Trainer) -> std::io::Result<Self> {
        let (give_up, asked) = watch::channel(false);
        let progress = trainer.give_up_when(asked);
        let (commands, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name("trainer".into()).spawn(move || serve(trainer, inbox))?;
        Ok(Self { give_up, progress, commands: Some(commands), thread: Some(thread) })
    }

    /// Runs one policy step. Dropping the future does not stop the step. `None` if it was given up: then it changed nothing.
    pub async fn step(&self, step: u64, samples: Vec<Sample>) -> Result<Option<StepOutput>> {
        self.call(|reply| TrainerCommand::Step { step, samples, reply }).await
    }

    /// The gap between the engine's log-probabilities of `samples` and the policy's.
    pub async fn mismatch(&self, step: u64, samples: Vec<Sample>) -> Result<Mismatch> {
        self.call(|reply| TrainerCommand::Mismatch { step, samples, reply }).await
    }

    /// What a resume needs.
    pub async fn state(&self) -> Result<TrainerState> {
        self.call(|reply| TrainerCommand::State { reply }).await
    }

    /// Grows while something is computed.
    pub fn progress(&self) -> Arc<AtomicU64> {
        self.progress.clone()
    }

    /// Lets the running command and all later ones end early, except [`TrainerHandle::state`].
    pub fn give_up(&self) {
        self.give_up.send_replace(true);
    }

    async fn call<T>(&self, command: impl FnOnce(TrainerReply<T>) -> TrainerCommand) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command(reply)).is_ok());
        anyhow::ensure!(sent, "the trainer's thread has ended");
        answer.await.context("the trainer's thread has ended")?.context("training failed")
    }
}

fn serve(mut trainer: Trainer, inbox: mpsc::Receiver<TrainerCommand>) {
    for command in inbox {
        let goes_on = match command {
            TrainerCommand::Step { step, samples, reply } => {
                answer(reply, || trainer.fetched(|trainer| trainer.step_unless_given_up(step, &samples)))
            }
            TrainerCommand::Mismatch { step, samples, reply } => {
                answer(reply, || trainer.fetched(|trainer| trainer.mismatch(&samples, step)))
            }
            TrainerCommand::State { reply } => answer(reply, || trainer.state()),
        };
        if !goes_on {
            return;
        }
    }
}

/// Answers with what `work` gives, or with the message of its panic. After a panic the trainer must not be used again: `false`.
fn answer<T>(reply: TrainerReply<T>, work: impl FnOnce() -> candle_core::Result<T>) -> bool {
    let (result, goes_on) = match panics::caught(work) {
        Ok(result) => (result, true),
        Err(message) => {
            (Err(candle_core::Error::msg(format!("the trainer panicked: {message}; this is a bug"))), false)
        }
    };
    // A dropped receiver means that the run is ending, so a failed send is no error.
    drop(reply.send(result));
    goes_on
}

impl Drop for TrainerHandle {
    fn drop(&mut self) {
        self.give_up();
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            threads::join_within(thread, threads::LAST_WORK);
        }
    }
}
