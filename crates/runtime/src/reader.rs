//! Reader threads: the engine's loads, performed off the loop.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use parking_lot::Mutex;
use tidewheel_engine::load::{Load, LoadId};

use crate::Shared;
use crate::mailbox::Event;

pub(crate) struct Reader {
    sender: mpsc::Sender<(u32, LoadId, Load)>,
}

impl Reader {
    pub(crate) fn start(shared: &Arc<Shared>) -> Reader {
        let (sender, receiver) = mpsc::channel::<(u32, LoadId, Load)>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..shared.config.readers.max(1) {
            let (shared, receiver) = (shared.clone(), receiver.clone());
            let run = move || {
                loop {
                    let next = receiver.lock().recv();
                    let Ok((epoch, id, load)) = next else { return };
                    let begun = Instant::now();
                    let answer = shared.store.load(shared.config.options.partition, &load);
                    shared.metrics.store_query.observe(begun.elapsed().as_secs_f64());
                    shared.mailbox.push_internal(Event::Loaded(epoch, id, load, answer));
                }
            };
            if let Err(error) = std::thread::Builder::new().name(format!("reader-{number}")).spawn(run) {
                tracing::error!(%error, "a reader thread does not start");
            }
        }
        Reader { sender }
    }

    pub(crate) fn ask(&self, epoch: u32, id: LoadId, load: Load) {
        // The readers live as long as this sender.
        let _ = self.sender.send((epoch, id, load));
    }
}
