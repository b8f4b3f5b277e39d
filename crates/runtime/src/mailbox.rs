//! The mailbox of a partition loop: the one queue between a caller and the engine.
//!
//! Two lists under one lock: commands and events of the shell itself (commits, reads, lost streams), which are never
//! refused since each answers something that was sent. The loop takes a whole list at once, so that the cost of lock and
//! wake-up is shared by all that came meanwhile.
//!
//! Commands are bounded by their weight and refused above. What was taken and not yet applied still counts: the loop
//! says with [`Mailbox::applied`] what it is done with. New tasks have a bound of their own, so that a flood of them
//! leaves room for the results that make an end of it.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tidewheel_engine::Command;
use tidewheel_engine::load::{Load, LoadId, Loaded};

use crate::Error;

/// What a loop wakes up for.
#[derive(Debug)]
pub(crate) enum Event {
    /// A batch was stored, or failed.
    Committed(u32, u64, Result<(), tidewheel_store::Error>),
    /// A read is done, or failed.
    Loaded(u32, LoadId, Load, Result<(u64, Loaded), tidewheel_store::Error>),
}

/// What waits: items of new tasks, and of everything else.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weights {
    submits: usize,
    others: usize,
}

impl Weights {
    fn of(&mut self, submit: bool) -> &mut usize {
        if submit { &mut self.submits } else { &mut self.others }
    }

    /// Counts a command.
    pub(crate) fn add(&mut self, command: &Command) {
        *self.of(command.is_submit()) += command.weight();
    }
}

#[derive(Default)]
struct Inner {
    commands: Vec<Command>,
    weights: Weights,
    events: Vec<Event>,
    closed: bool,
    /// The loop sleeps and wants to be woken by commands too.
    sleeping: bool,
    wants_commands: bool,
}

pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    wake: Condvar,
    room: tokio::sync::Notify,
    bound: usize,
}

/// What `take` brought.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) commands: Vec<Command>,
    pub(crate) events: Vec<Event>,
    pub(crate) closed: bool,
}

impl Mailbox {
    pub(crate) fn new(bound: usize) -> Mailbox {
        Mailbox { inner: Mutex::default(), wake: Condvar::new(), room: tokio::sync::Notify::new(), bound }
    }

    pub(crate) fn push(&self, command: Command) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Error::Closed);
        }
        if *inner.weights.of(command.is_submit()) >= self.bound {
            return Err(Error::Overloaded { retry_after_ms: 1_000 });
        }
        self.add(&mut inner, command);
        Ok(())
    }

    /// A command that must not be refused, in its order behind the others.
    pub(crate) fn push_always(&self, command: Command) {
        self.add(&mut self.inner.lock(), command);
    }

    pub(crate) async fn push_wait(&self, command: Command) -> Result<(), Error> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut inner = self.inner.lock();
                if inner.closed {
                    return Err(Error::Closed);
                }
                if *inner.weights.of(command.is_submit()) < self.bound {
                    self.add(&mut inner, command);
                    return Ok(());
                }
            }
            room.await;
        }
    }

    fn add(&self, inner: &mut Inner, command: Command) {
        inner.weights.add(&command);
        inner.commands.push(command);
        if inner.sleeping && inner.wants_commands {
            inner.sleeping = false;
            self.wake.notify_one();
        }
    }

    pub(crate) fn push_internal(&self, event: Event) {
        let mut inner = self.inner.lock();
        inner.events.push(event);
        if inner.sleeping {
            inner.sleeping = false;
            self.wake.notify_one();
        }
    }

    /// Takes what is there; sleeps at most `wait` for it. Without `commands` they stay where they are.
    pub(crate) fn take(&self, commands: bool, wait: Option<Duration>) -> Taken {
        let mut inner = self.inner.lock();
        let nothing = inner.events.is_empty() && (!commands || inner.commands.is_empty()) && !inner.closed;
        if nothing && wait != Some(Duration::ZERO) {
            inner.sleeping = true;
            inner.wants_commands = commands;
            match wait {
                Some(wait) => drop(self.wake.wait_for(&mut inner, wait)),
                None => self.wake.wait(&mut inner),
            }
            inner.sleeping = false;
        }
        let mut taken = Taken { events: std::mem::take(&mut inner.events), closed: inner.closed, ..Taken::default() };
        if commands {
            taken.commands = std::mem::take(&mut inner.commands);
        }
        taken
    }

    /// So much of what was taken is applied, or given up.
    pub(crate) fn applied(&self, weights: Weights) {
        let mut inner = self.inner.lock();
        let was_full = inner.weights.submits >= self.bound || inner.weights.others >= self.bound;
        inner.weights.submits -= weights.submits;
        inner.weights.others -= weights.others;
        if was_full {
            self.room.notify_waiters();
        }
    }

    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        self.wake.notify_all();
        self.room.notify_waiters();
    }

    /// Weight that waits.
    pub(crate) fn depth(&self) -> usize {
        let weights = self.inner.lock().weights;
        weights.submits + weights.others
    }
}
