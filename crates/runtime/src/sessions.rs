//! Worker sessions: where grants and cancels go. A session's channel is bounded by the engine's credits: it never has
//! more grants out than the worker's permits and buffer.

use hashbrown::HashMap;
use parking_lot::Mutex;
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{Name, SessionId, TaskId, Token, WorkerId};
use tokio::sync::mpsc;

/// What a worker is told.
#[derive(Debug)]
pub enum ToWorker {
    /// The session stands; these attempts go on.
    Welcome {
        /// Number of its name.
        worker: WorkerId,
        /// Attempts that go on; every other one has to stop.
        resumed: Vec<(TaskId, Token)>,
    },
    /// Run these.
    Grants(Vec<Grant>),
    /// Results were dealt with.
    Accepted {
        /// How many, refused ones included.
        count: u32,
        /// Which came too late.
        refused: Vec<(TaskId, Token)>,
    },
    /// Stop one.
    Cancel {
        /// Which.
        task: TaskId,
        /// Its token.
        token: Token,
        /// Why.
        reason: Name,
    },
    /// No longer yours.
    Revoke(Vec<(TaskId, Token)>),
    /// Asked back, if they have not begun.
    Recall(Vec<(TaskId, Token)>),
    /// The server is about to end: give back what has not started, finish the rest, expect nothing new.
    Drain,
    /// The session is over.
    Close {
        /// Why.
        reason: Name,
    },
}

/// A worker's end of a session.
#[derive(Debug)]
pub struct Session {
    /// Names it in commands.
    pub id: SessionId,
    /// In order.
    pub events: mpsc::UnboundedReceiver<ToWorker>,
}

#[derive(Default)]
pub(crate) struct Sessions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    senders: HashMap<SessionId, Sender>,
    draining: bool,
}

struct Sender {
    events: mpsc::UnboundedSender<ToWorker>,
    /// `Welcome`, always the first event, was sent.
    welcomed: bool,
}

impl Sessions {
    pub(crate) fn open(&self, id: SessionId) -> Session {
        let (sender, events) = mpsc::unbounded_channel();
        self.inner.lock().senders.insert(id, Sender { events: sender, welcomed: false });
        Session { id, events }
    }

    pub(crate) fn close(&self, id: SessionId) {
        self.inner.lock().senders.remove(&id);
    }

    pub(crate) fn send(&self, id: SessionId, event: ToWorker) {
        let closes = matches!(event, ToWorker::Close { .. });
        let welcomes = matches!(event, ToWorker::Welcome { .. });
        let mut inner = self.inner.lock();
        let draining = inner.draining;
        if let Some(sender) = inner.senders.get_mut(&id) {
            sender.welcomed |= welcomes;
            // A stream that has just ended loses nothing: its grants are durable and its lease runs.
            let _ = sender.events.send(event);
            if welcomes && draining {
                let _ = sender.events.send(ToWorker::Drain);
            }
        }
        if closes {
            inner.senders.remove(&id);
        }
    }

    /// Tells every worker, and each that comes from now on, that the server is about to end.
    pub(crate) fn drain(&self) {
        let mut inner = self.inner.lock();
        inner.draining = true;
        for sender in inner.senders.values().filter(|sender| sender.welcomed) {
            let _ = sender.events.send(ToWorker::Drain);
        }
    }

    /// Ends every session, so that workers come again and name their live attempts.
    pub(crate) fn close_all(&self, reason: &str) {
        for (_, sender) in self.inner.lock().senders.drain() {
            let _ = sender.events.send(ToWorker::Close { reason: reason.into() });
        }
    }
}
