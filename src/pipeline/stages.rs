//! The tasks of a running pipeline. The first that fails or panics ends the others, and its error names it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;

use super::learner::{End, EndedEarly};
use crate::panics;

/// How long a stage that failed may need to end, after it has closed its channels.
const GRACE: Duration = Duration::from_secs(5);

/// See the module. Dropping it ends every stage.
#[derive(Default)]
pub struct Stages {
    tasks: JoinSet<Result<Option<End>>>,
    names: HashMap<Id, &'static str>,
}

impl Stages {
    /// Starts a stage that ends when its input does.
    pub fn spawn(&mut self, name: &'static str, stage: impl Future<Output = Result<()>> + Send + 'static) {
        self.spawn_last(name, async { stage.await.map(|()| None) });
    }

    /// Starts the stage that says how the run ended.
    pub fn spawn_last(
        &mut self,
        name: &'static str,
        stage: impl Future<Output = Result<Option<End>>> + Send + 'static,
    ) {
        self.names.insert(self.tasks.spawn(stage).id(), name);
    }

    /// Waits for every stage. A failure ends the others, and so does a learner that was told to stop.
    ///
    /// # Errors
    /// The first failure.
    pub async fn join(mut self) -> Result<End> {
        let mut end = None;
        while let Some(task) = self.tasks.join_next_with_id().await {
            match self.outcome(task) {
                Ok(Some(End::Stopped)) => {
                    self.tasks.shutdown().await;
                    return Ok(End::Stopped);
                }
                Ok(Some(finished)) => end = Some(finished),
                Ok(None) => {}
                Err(error) if error.is::<EndedEarly>() => return Err(self.cause().await.unwrap_or(error)),
                Err(error) => return Err(error),
            }
        }
        end.context("the learner ended without a result: this is a bug")
    }

    /// The error of the stage whose end made the learner end.
    async fn cause(&mut self) -> Option<anyhow::Error> {
        let failed = async {
            while let Some(task) = self.tasks.join_next_with_id().await {
                if let Err(error) = self.outcome(task) {
                    return Some(error);
                }
            }
            None
        };
        // It has closed its channel already, so its task is about to end. A stage that is not may wait for ever.
        timeout(GRACE, failed).await.unwrap_or_default()
    }

    fn outcome(&self, task: Result<(Id, Result<Option<End>>), JoinError>) -> Result<Option<End>> {
        match task {
            Ok((_, ended)) => ended,
            Err(error) => {
                let name = self.names.get(&error.id()).copied().unwrap_or_default();
                let panic = error.try_into_panic();
                let message = panic.as_ref().map_or("it was cancelled", |panic| panics::message(&**panic));
                Err(anyhow!("the stage {name} panicked: {message}; this is a bug"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_that_panics_is_named_and_ends_the_others() {
        for name in ["dispatch", "rollout", "reward", "batch", "learner"] {
            let mut stages = Stages::default();
            for other in ["dispatch", "rollout", "reward", "batch", "learner"] {
                stages.spawn(other, async move {
                    assert!(other != name, "no {}", 7);
                    std::future::pending().await
                });
            }
            let error = stages.join().await.unwrap_err().to_string();
            assert_eq!(error, format!("the stage {name} panicked: no 7; this is a bug"));
        }
    }

    #[tokio::test]
    async fn a_failure_is_the_error_of_the_run() {
        let mut stages = Stages::default();
        stages.spawn("rollout", std::future::pending());
        stages.spawn("reward", async { Err(anyhow!("no grade")) });
        assert_eq!(stages.join().await.unwrap_err().to_string(), "no grade");
        let mut stages = Stages::default();
        stages.spawn("reward", async { Ok(()) });
        assert!(stages.join().await.unwrap_err().to_string().contains("this is a bug"));
    }

    /// A stage closes its channels before its task ends, so the learner may end first.
    #[tokio::test(start_paused = true)]
    async fn a_learner_whose_input_ended_is_not_the_cause() {
        let mut stages = Stages::default();
        stages.spawn("dispatch", std::future::pending());
        stages.spawn("batch", async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(anyhow!("no batch"))
        });
        stages.spawn_last("learner", async { Err(EndedEarly.into()) });
        assert_eq!(stages.join().await.unwrap_err().to_string(), "no batch");
        let mut stages = Stages::default();
        stages.spawn("dispatch", std::future::pending());
        stages.spawn_last("learner", async { Err(EndedEarly.into()) });
        assert!(stages.join().await.unwrap_err().is::<EndedEarly>());
    }
}
