//! Errors, from the caller's view: was it accepted, may it be sent again?

use tidewheel_store as store;

/// Why a call had no answer from the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Not accepted: too much waits already. Send it again later.
    #[error("overloaded; try again in {retry_after_ms} ms")]
    Overloaded {
        /// When.
        retry_after_ms: u64,
    },
    /// Not accepted: starting, stopping, or the store is out of space.
    #[error("{0}")]
    Unavailable(String),
    /// The store failed while it was under way: it may have been stored or not. Send it again with the same idempotency key.
    #[error("the store failed while the request was under way; it may or may not have been stored")]
    OutcomeUnknown,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The runtime has stopped.
    #[error("the server has stopped")]
    Closed,
}
