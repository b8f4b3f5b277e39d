//! Reader threads: the engine's loads, performed off the loop.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use parking_lot::Mutex;
use tidewheel_engine::load::{Load, LoadId, Loaded};

use crate::Shared;
use crate::mailbox::Event;

pub(crate) struct Reader {
    sender: mpsc::Sender<(u32, LoadId, Load)>,
}

impl Reader {
    pub(crate) fn start(shared: &Arc<Shared>) -> Reader {
        let (sender, receiver) = mpsc::channel::<(u32, LoadId, Load)>();
        let receiver = Arc::new(Mutex::new(receiver));
        // Blobs are read where whoever started this runs their futures; without that, there are none.
        let handle = tokio::runtime::Handle::try_current().ok();
        for number in 0..shared.config.readers.max(1) {
            let (shared, receiver, handle) = (shared.clone(), receiver.clone(), handle.clone());
            let run = move || {
                loop {
                    let next = receiver.lock().recv();
                    let Ok((epoch, id, load)) = next else { return };
                    let begun = Instant::now();
                    let answer = shared.store.load(shared.config.options.partition, &load);
                    let answer = answer.and_then(|answer| with_blobs(&shared, handle.as_ref(), &load, answer));
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

/// Fills in the values that a run has not stored itself: large results of tasks are blobs. A failure is one of the whole load, so
/// that it is tried again and never taken for a value that is gone.
fn with_blobs(
    shared: &Shared,
    handle: Option<&tokio::runtime::Handle>,
    load: &Load,
    (index, mut loaded): (u64, Loaded),
) -> Result<(u64, Loaded), tidewheel_store::Error> {
    if let (Load::Values(tenant, hashes), Loaded::Values(values), Some(handle)) = (load, &mut loaded, handle) {
        for (hash, value) in hashes.iter().zip(values).filter(|(_, value)| value.is_none()) {
            let blobs = &shared.blobs;
            *value = handle.block_on(async {
                match blobs.size(tenant.0, *hash).await? {
                    Some(size) => blobs.read(tenant.0, *hash, 0, size).await.map(Some),
                    None => Ok(None),
                }
            })?;
        }
    }
    Ok((index, loaded.parsed()))
}
