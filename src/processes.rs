//! The processes that this program has started and that still run, for an end of the program that drops nothing.

#[cfg(unix)]
use std::sync::{Mutex, PoisonError};
#[cfg(unix)]
use std::time::Duration;

#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A grader, and the group of all that it has started. It is killed.
    Grader,
    /// This program again. It is told to end at once, so that it ends its own graders.
    Program,
}

#[cfg(unix)]
static RUNNING: Mutex<Vec<(Pid, Kind)>> = Mutex::new(Vec::new());

/// Ends every process that still runs.
pub fn end_all() {
    #[cfg(unix)]
    {
        let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
        let programs = || running.iter().filter(|(_, kind)| *kind == Kind::Program);
        running.iter().for_each(|(id, kind)| end(*id, *kind));
        if programs().next().is_some() {
            // A first signal stops a run at a checkpoint, a second one ends it at once. The pause keeps them two.
            std::thread::sleep(Duration::from_millis(50));
            programs().for_each(|(id, kind)| end(*id, *kind));
        }
    }
}

/// It fails only if the process has ended.
#[cfg(unix)]
fn end(id: Pid, kind: Kind) {
    let _ = match kind {
        Kind::Grader => kill_process_group(id, Signal::KILL),
        Kind::Program => kill_process(id, Signal::TERM),
    };
}

/// A process that runs. A grader is killed when this is dropped.
pub struct Running {
    #[cfg(unix)]
    id: Option<(Pid, Kind)>,
}

impl Running {
    /// The process with this id. A grader must be the leader of its group.
    #[cfg(unix)]
    pub fn new(id: Option<u32>, kind: Kind) -> Self {
        let id = id.and_then(|id| Some((Pid::from_raw(i32::try_from(id).ok()?)?, kind)));
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).extend(id);
        Self { id }
    }

    #[cfg(not(unix))]
    pub fn new(_: Option<u32>, _: Kind) -> Self {
        Self {}
    }

    /// Kills a grader now.
    pub fn end(&mut self) {
        #[cfg(unix)]
        if let Some((id, kind)) = self.id.take() {
            RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| it.0 != id);
            if kind == Kind::Grader {
                end(id, kind);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
