//! The reply table: request id to waiter. A caller that goes away takes its waiter with it, not its command.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tidewheel_engine::Reply;
use tidewheel_engine::id::RequestId;
use tokio::sync::oneshot;

use crate::{Error, Shared};

/// Spread over several locks, since every request of every connection passes here twice.
const SHARDS: usize = 16;

type Waiters = HashMap<RequestId, oneshot::Sender<Result<Reply, Error>>>;

pub(crate) struct Replies {
    shards: [Mutex<Waiters>; SHARDS],
}

impl Default for Replies {
    fn default() -> Self {
        Replies { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

pub(crate) struct Waiter {
    shared: Arc<Shared>,
    request: RequestId,
    receiver: oneshot::Receiver<Result<Reply, Error>>,
}

impl Replies {
    fn shard(&self, request: RequestId) -> &Mutex<Waiters> {
        &self.shards[request.0 as usize % SHARDS]
    }

    pub(crate) fn wait(&self, shared: &Arc<Shared>, request: RequestId) -> Waiter {
        let (sender, receiver) = oneshot::channel();
        self.shard(request).lock().insert(request, sender);
        Waiter { shared: shared.clone(), request, receiver }
    }

    pub(crate) fn send(&self, request: RequestId, reply: Result<Reply, Error>) {
        if let Some(sender) = self.shard(request).lock().remove(&request) {
            // The caller may just have gone.
            let _ = sender.send(reply);
        }
    }

    /// Every waiter hears that its outcome is unknown.
    pub(crate) fn fail_all(&self, error: &Error) {
        for shard in &self.shards {
            for (_, sender) in shard.lock().drain() {
                let _ = sender.send(Err(error.clone()));
            }
        }
    }
}

impl Waiter {
    pub(crate) async fn answer(mut self) -> Result<Reply, Error> {
        (&mut self.receiver).await.unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.shared.replies.shard(self.request).lock().remove(&self.request);
    }
}
