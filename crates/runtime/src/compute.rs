//! Threads that take turns of runs which need more time than the loop of a partition can give.
//!
//! So many at a time as there are threads; the others wait. Each answer comes back as a command and is never refused: the run
//! waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tidewheel_engine::Command;
use tidewheel_engine::effect::Computation;
use tidewheel_engine::run::turn::Halt;

use crate::Shared;

/// Stack of a thread: values may be nested as deep as the language lets them.
const STACK_BYTES: usize = 8 << 20;

pub(crate) struct Pool {
    sender: mpsc::Sender<Box<Computation>>,
}

impl Pool {
    pub(crate) fn start(shared: &Arc<Shared>) -> Pool {
        let (sender, receiver) = mpsc::channel::<Box<Computation>>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..shared.config.computers.max(1) {
            let (shared, receiver) = (shared.clone(), receiver.clone());
            let run = move || {
                loop {
                    let next = receiver.lock().recv();
                    let Ok(work) = next else { return };
                    shared.mailbox.push_always(answer(&work));
                }
            };
            let thread = std::thread::Builder::new().name(format!("turns-{number}")).stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn(run) {
                tracing::error!(%error, "a thread for turns of runs does not start");
            }
        }
        Pool { sender }
    }

    pub(crate) fn ask(&self, work: Box<Computation>) {
        // The threads live as long as this sender.
        let _ = self.sender.send(work);
    }
}

/// What came of it. A turn that ends in a panic is one that cannot be taken: the run stays as it is, for a person.
fn answer(work: &Computation) -> Command {
    let outcome = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|_| {
        tracing::error!(run = %work.run, "a turn of a run ended in a panic");
        Err(Halt::OutOfFuel)
    });
    Command::TurnComputed { tenant: work.tenant, run: work.run, turns: work.head.turns, outcome: Box::new(outcome) }
}
