//! The signals that ask the program to end. A thread of its own hears them, whatever else is busy.
//!
//! - The first SIGINT (Ctrl-C) or SIGTERM asks a run that has begun to stop with a checkpoint. Whatever has nothing to save ends at once.
//! - The second one ends the program at once. Files are written under another name and renamed, so none is harmed.
//! - SIGHUP, a closed terminal, does not end a run: it is output that cannot be written any more.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Runtime};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::processes;
use crate::run_dir::log;

/// What a signal does to a command as long as it has nothing to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeWork {
    /// It ends with 128 + the signal's number.
    Fails,
    /// A run that has not begun is stopped, and loses nothing: it ends with 0, as one that has begun.
    Stops,
}

/// How a command is asked to stop.
#[derive(Clone)]
pub struct Stop {
    asked: watch::Receiver<bool>,
    is_heeded: Arc<AtomicBool>,
}

impl Stop {
    /// Turns true at the first signal. From now on the command must heed it: until this call a signal ends the program at once.
    pub fn heed(self) -> watch::Receiver<bool> {
        self.is_heeded.store(true, Ordering::SeqCst);
        self.asked
    }
}

/// Hears signals from now on.
///
/// # Errors
/// If the system refuses the thread or a handler.
pub fn listen(before_work: BeforeWork, hangup: Hangup) -> io::Result<Stop> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let heard = runtime.block_on(async { Heard::new(hangup) })?;
    let ((ask, asked), is_heeded) = (watch::channel(false), Arc::new(AtomicBool::new(false)));
    let stop = Stop { asked, is_heeded: is_heeded.clone() };
    let hear = move || answer(&runtime, heard, before_work, &is_heeded, &ask);
    std::thread::Builder::new().name("signals".into()).spawn(hear)?;
    Ok(stop)
}

fn answer(runtime: &Runtime, mut heard: Heard, before: BeforeWork, is_heeded: &AtomicBool, ask: &watch::Sender<bool>) {
    let first = runtime.block_on(heard.next());
    if !is_heeded.load(Ordering::SeqCst) {
        match before {
            BeforeWork::Fails => end_at_once(128 + first),
            BeforeWork::Stops => {
                log::warn("stopped before a step was made; nothing is lost");
                end_at_once(0)
            }
        }
    }
    ask.send_replace(true);
    // Not on this thread: standard error may block.
    runtime.spawn_blocking(|| log::warn("stopping; press Ctrl-C again to stop at once"));
    let second = runtime.block_on(heard.next());
    end_at_once(128 + second)
}

/// Ends the program without waiting for any thread.
fn end_at_once(status: i32) -> ! {
    processes::end_all();
    #[cfg(unix)]
    // SAFETY: ends the process.
    unsafe {
        libc::_exit(status)
    }
    #[cfg(not(unix))]
    std::process::exit(status)
}

/// What a closed terminal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// What the system does: it ends the program, unless `nohup` started it.
    Ends,
    /// Nothing.
    Ignored,
}

#[cfg(unix)]
struct Heard {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

#[cfg(unix)]
impl Heard {
    fn new(hangup: Hangup) -> io::Result<Self> {
        let hangup = (hangup == Hangup::Ignored).then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup })
    }

    /// The number of the next signal.
    async fn next(&mut self) -> i32 {
        let Self { interrupt, terminate, hangup } = self;
        loop {
            let hung_up = async {
                match hangup {
                    Some(hangup) => hangup.recv().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                Some(()) = interrupt.recv() => return SignalKind::interrupt().as_raw_value(),
                Some(()) = terminate.recv() => return SignalKind::terminate().as_raw_value(),
                Some(()) = hung_up => log::note("the terminal was closed; the run goes on"),
                else => pending().await,
            }
        }
    }
}

#[cfg(not(unix))]
struct Heard;

#[cfg(not(unix))]
impl Heard {
    fn new(_: Hangup) -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> i32 {
        const INTERRUPT: i32 = 2;
        match tokio::signal::ctrl_c().await {
            Ok(()) => INTERRUPT,
            Err(_) => pending().await,
        }
    }
}
