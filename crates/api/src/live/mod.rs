//! What changes while somebody looks: the hub of committed changes, samples of queues and workers, and the streams of
//! server-sent events that are fed from them.

pub(crate) mod hub;
pub(crate) mod runs;
pub(crate) mod sampler;
pub(crate) mod stream;
pub(crate) mod waiters;
