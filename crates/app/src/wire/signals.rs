//! What the machine asks of the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::fail::{Exit, Outcome, While};

/// A request of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// SIGTERM: end, but let what runs end first.
    Stop,
    /// SIGINT: the same, from a terminal.
    Interrupt,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals, from now on caught.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over. Has to be called in a runtime.
    pub(crate) fn take() -> Outcome<Signals> {
        let one = |kind| signal(kind).doing(Exit::Failed, || "cannot handle signals".to_owned());
        Ok(Signals {
            terminate: one(SignalKind::terminate())?,
            interrupt: one(SignalKind::interrupt())?,
            hangup: one(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::Stop,
            _ = self.interrupt.recv() => Ask::Interrupt,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }

    /// A second request to end, while the first is being followed: somebody does not want to wait.
    pub(crate) async fn impatient(&mut self) {
        while self.next().await == Ask::Reload {}
    }
}
