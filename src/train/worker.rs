//! The OS thread that owns a [`Trainer`]: training blocks, and must not block the runtime. Base weights that rest in main
//! memory are on the device only while a command computes.

use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::stats::Mismatch;
use super::trainer::{Sample, StepOutput, Trainer, TrainerState};

type Reply<T> = oneshot::Sender<candle_core::Result<T>>;

enum Command {
    Step { step: u64, samples: Vec<Sample>, reply: Reply<StepOutput> },
    Mismatch { step: u64, samples: Vec<Sample>, reply: Reply<Mismatch> },
    State { reply: Reply<TrainerState> },
}

/// Sends work to the trainer's thread; the thread is joined on drop, after the command that runs.
pub struct TrainerHandle {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl TrainerHandle {
    /// Moves `trainer` to a thread of its own.
    pub fn spawn(trainer: Trainer) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new().name("trainer".into()).spawn(move || serve(trainer, inbox))?;
        Ok(Self { commands: Some(commands), thread: Some(thread) })
    }

    /// One policy step. Dropping the future does not stop the step.
    pub async fn step(&self, step: u64, samples: Vec<Sample>) -> Result<StepOutput> {
        self.call(|reply| Command::Step { step, samples, reply }).await
    }

    /// How far an engine's log-probabilities are from the policy's.
    pub async fn mismatch(&self, step: u64, samples: Vec<Sample>) -> Result<Mismatch> {
        self.call(|reply| Command::Mismatch { step, samples, reply }).await
    }

    /// Everything that a resume needs.
    pub async fn state(&self) -> Result<TrainerState> {
        self.call(|reply| Command::State { reply }).await
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command(reply)).is_ok());
        anyhow::ensure!(sent, "the trainer's thread has ended");
        answer.await.context("the trainer's thread panicked")?.context("training failed")
    }
}

fn serve(mut trainer: Trainer, inbox: mpsc::Receiver<Command>) {
    for command in inbox {
        // A dropped receiver means that the run is ending; there is nobody left to tell.
        match command {
            Command::Step { step, samples, reply } => {
                drop(reply.send(trainer.fetched(|trainer| trainer.step(step, &samples))));
            }
            Command::Mismatch { step, samples, reply } => {
                drop(reply.send(trainer.fetched(|trainer| trainer.mismatch(&samples, step))));
            }
            Command::State { reply } => drop(reply.send(trainer.state())),
        }
    }
}

impl Drop for TrainerHandle {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
