//! One group until it is answered: again elsewhere after a failure, and on a second server if the first is slow.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::counters::Event;
use super::place::{Place, Run};
use super::placing::{Ask, Denied, LONGEST_OUTAGE, MemberId, Wish};
use crate::remote::{Connect, Failure, FailureKind, Server};
use crate::{Completion, EngineError, Request};

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often to look for a second server, or for durations to compare with.
const LOOK: Duration = Duration::from_secs(1);

/// Where a group may be answered.
#[derive(Clone, Copy)]
pub(super) enum Where {
    AnyServer,
    Only(MemberId),
}

impl Where {
    fn wish(self, failed: Option<MemberId>) -> Wish {
        match (self, failed) {
            (Self::Only(id), _) => Wish::Only(id),
            (Self::AnyServer, Some(failed)) => Wish::Not(failed),
            (Self::AnyServer, None) => Wish::Anywhere,
        }
    }
}

impl<C: Connect> Shared<C> {
    /// Answers a group. Dropping the future frees its place.
    pub(super) async fn generate(
        self: &Arc<Self>,
        at: Where,
        request: &Request,
    ) -> Result<Vec<Completion>, EngineError> {
        let mut failures = Vec::new();
        let mut failed = None;
        loop {
            let place = Place::find(self, ask(request, at.wish(failed))).await;
            let place = place.map_err(|denied| self.denied(denied, &failures))?;
            let Some(run) = Run::begin(place) else { continue };
            let failure = match self.answer(&run, at, request).await {
                Ok(completions) => return Ok(completions),
                Err(failure) => failure,
            };
            let words = format!("{}: {failure}", run.server.url());
            failures.push(words);
            if failure.kind == FailureKind::Refused || failures.len() > self.settings.retries {
                return Err(given_up(&failures));
            }
            failed = Some(run.id);
            // A server that has too much to do keeps the place for so long, so that it does not look free.
            let kept = (failure.kind == FailureKind::Busy).then_some(run);
            sleep(pause(failures.len(), rand::random())).await;
            drop(kept);
            self.counters.add(Event::Retry);
        }
    }

    async fn answer(&self, run: &Run<C>, at: Where, request: &Request) -> Result<Vec<Completion>, Failure> {
        let mut first = pin!(run.answer(request));
        let (true, Where::AnyServer) = (self.settings.hedges, at) else { return first.await };
        let second = match self.until_slow(run, first.as_mut()).await {
            Either::Left(answer) => return answer,
            Either::Right(second) => second,
        };
        self.counters.add(Event::Hedge);
        match select(first, pin!(second.answer(request))).await {
            Either::Left((Ok(completions), _)) => Ok(completions),
            Either::Left((Err(failure), rest)) => {
                let completions = rest.await.map_err(|_| failure)?;
                self.counters.add(Event::HedgeWon);
                Ok(completions)
            }
            Either::Right((Ok(completions), _)) => {
                self.counters.add(Event::HedgeWon);
                Ok(completions)
            }
            Either::Right((Err(_), rest)) => rest.await,
        }
    }

    /// Until the answer comes, or it takes long and a second server has nothing to do.
    async fn until_slow<F: Future>(&self, run: &Run<C>, mut first: Pin<&mut F>) -> Either<F::Output, Run<C>> {
        loop {
            let slow = self.state().durations.slow();
            let left = slow.map_or(LOOK, |slow| slow.saturating_sub(run.started.elapsed()));
            if left.is_zero()
                && let Some(second) = run.second()
            {
                return Either::Right(second);
            }
            let wait = if left.is_zero() { LOOK } else { left };
            if let Ok(answer) = timeout(wait, first.as_mut()).await {
                return Either::Left(answer);
            }
        }
    }

    fn denied(&self, denied: Denied, failures: &[String]) -> EngineError {
        let words = match denied {
            Denied::Closed => return EngineError::Stopped,
            Denied::NoneUp => format!("no server was up for {} s", LONGEST_OUTAGE.as_secs()),
            Denied::Gone => "the server is not in use".to_owned(),
        };
        let last = match failures.last() {
            Some(last) => last.clone(),
            None => self.state().failures(),
        };
        EngineError::Generate(format!("{words}; last: {last}"))
    }
}

fn ask(request: &Request, wish: Wish) -> Ask {
    let tokens = request.prompt.len().saturating_add(request.sampling.max_new_tokens);
    Ask { sequences: request.group_size, tokens: (tokens as u64).saturating_mul(request.group_size as u64), wish }
}

fn given_up(failures: &[String]) -> EngineError {
    const NAMED: usize = 5;
    let last = failures[failures.len().saturating_sub(NAMED)..].join("; ");
    match failures.len() {
        1 => EngineError::Generate(last),
        tries => EngineError::Generate(format!("no answer in {tries} tries; last: {last}")),
    }
}

/// From 0.05 s, twice as long after each failure, to 2 s; up to half of that less, so that groups that failed together
/// do not come back together. `jitter` is from 0 to 1.
fn pause(failures: usize, jitter: f64) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let doubled = SHORTEST_PAUSE.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_PAUSE);
    doubled.mul_f64(1.0 - 0.5 * jitter).max(SHORTEST_PAUSE)
}
