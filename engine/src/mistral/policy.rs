//! A loaded policy, and how a group's sequences get into its models.

use std::sync::Arc;
use std::time::Duration;

use mistralrs::core::{Pipeline, Request as CoreRequest};
use tokio::sync::{Mutex, mpsc};

use super::admission::Admission;
use super::capture::ResultReceiver;
use super::sequence::PendingSequence;
use super::slots::Slots;
use super::wave::Wave;
use crate::{EngineError, PolicyVersion, Request};

/// One loaded policy. Dropping the last reference ends its models' threads.
pub struct LoadedPolicy {
    pub version: PolicyVersion,
    /// The greatest length of prompt and completion together.
    pub context: usize,
    pub replicas: Vec<Replica>,
}

/// Weights and cache of one copy of the model; mistral.rs's threads hold them too.
pub type SharedPipeline = Arc<Mutex<dyn Pipeline>>;

/// One copy of the model.
pub struct Replica {
    pub requests: mpsc::Sender<CoreRequest>,
    pub pipeline: SharedPipeline,
    /// Admission on a GPU; on a CPU the engine's slots are.
    pub wave: Option<Arc<Wave>>,
    /// Ends the model's thread when dropped. `requests` is taken from it only once: a second call would restart a
    /// thread that died, with a model that was not checked.
    pub _runner: Arc<mistralrs::core::MistralRs>,
}

impl LoadedPolicy {
    /// Sends the sequences of a group to the replicas one by one, as slots become free.
    pub async fn start_in_slots(
        &self,
        slots: &Arc<Slots>,
        request: &Request,
        most: usize,
    ) -> Result<Vec<ResultReceiver>, EngineError> {
        let mut answers = Vec::with_capacity(request.group_size);
        for index in 0..request.group_size {
            let slot = slots.acquire().await?;
            let model = &self.replicas[slot.replica()];
            let (sequence, answer) = PendingSequence::new(request, index, most);
            sequence.send(Admission::Slot(slot), &model.requests);
            answers.push(answer);
        }
        Ok(answers)
    }

    /// Queues a group for the wave that will admit it. If nothing runs, a wave begins a moment later, with the shortest
    /// prompt that has arrived by then.
    pub async fn start_in_waves(
        &self,
        model: &Replica,
        wave: &Arc<Wave>,
        request: &Request,
        most: usize,
    ) -> Vec<ResultReceiver> {
        const GATHER: Duration = Duration::from_millis(2);
        let enter = |index| {
            let (sequence, answer) = PendingSequence::new(request, index, most);
            let requests = model.requests.clone();
            let launch = move |ticket| {
                // A sequence whose caller has gone is skipped.
                if !sequence.is_abandoned() {
                    sequence.send(Admission::Wave(ticket), &requests);
                }
            };
            wave.enter(request.prompt.len(), most, Box::new(launch));
            answer
        };
        let answers = (0..request.group_size).map(enter).collect();
        tokio::time::sleep(GATHER).await;
        wave.begin();
        answers
    }
}
