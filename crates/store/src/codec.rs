//! The record codec: how parts of a record that a store only keeps become bytes, and back.
//!
//! Every encoding is one version byte followed by integer-tagged fields, so that a field can be added without a new
//! version and an unknown version is refused instead of misread. Older versions are migrated in `migrate` and nowhere
//! else. A store decides what it keeps as columns of its own; everything else passes through here, so that all stores
//! agree on the bytes. Never here: I/O, a decision about a task.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use prost::Message;
use tidewheel_engine::config::{Backoff, Policy, QueueConfig, Rate, RetryPolicy, TenantConfig, Timeouts};
use tidewheel_engine::id::{Name, TaskId, TenantId};
use tidewheel_engine::mutation::{AttemptOutcome, AttemptRecord};
use tidewheel_engine::task::{Artifact, Ending, Failure, Payload, Resources, Spec, State, Task};

use crate::Error;

mod head;
mod run;
mod wire;

pub use head::{HEAD_BYTES, decode_head, encode_head};
pub use run::{
    RunFacts, decode_event, decode_run, decode_run_facts, decode_turn, encode_event, encode_run, encode_turn,
    phase_number,
};

/// The version written by this program.
pub const VERSION: u8 = 1;

/// A decoding step's result.
type Decoded<T> = Result<T, Error>;

static DEFAULT_SPEC: LazyLock<Arc<Spec>> = LazyLock::new(Arc::default);
static DEFAULT_ENDING: LazyLock<Arc<Ending>> = LazyLock::new(Arc::default);
static EMPTY_NAME: LazyLock<Name> = LazyLock::new(|| "".into());

/// Splits off the version byte and brings an older body to the fields of [`VERSION`]. The one place for migrations.
fn migrate<'a>(what: &str, bytes: &'a [u8]) -> Decoded<&'a [u8]> {
    let Some((&version, body)) = bytes.split_first() else {
        return Err(damaged(what, "it is empty"));
    };
    match version {
        0 => Err(damaged(what, "it has no version")),
        1 => Ok(body),
        newer => Err(Error::TooNew(format!("{what} of version {newer}; this program knows versions up to {VERSION}"))),
    }
}

fn damaged(what: &str, why: &str) -> Error {
    Error::Corrupt(format!("{what} cannot be read: {why}"))
}

fn parse<M: Message + Default>(what: &str, bytes: &[u8]) -> Decoded<M> {
    M::decode(migrate(what, bytes)?).map_err(|e| damaged(what, &e.to_string()))
}

fn write(message: &impl Message, out: &mut Vec<u8>) {
    out.push(VERSION);
    message.encode(out).expect("a vector grows as needed");
}

fn to_vec(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    write(message, &mut out);
    out
}

/// Appends a spec. Nothing at all for the default one, which most tasks have.
pub fn encode_spec(spec: &Spec, out: &mut Vec<u8>) {
    if *spec != **DEFAULT_SPEC {
        write(&wire::Spec::from(spec), out);
    }
}

/// Reads a spec. All default specs are one allocation.
pub fn decode_spec(bytes: &[u8]) -> Decoded<Arc<Spec>> {
    if bytes.is_empty() {
        return Ok(Arc::clone(&DEFAULT_SPEC));
    }
    Ok(Arc::new(parse::<wire::Spec>("a task's spec", bytes)?.into()))
}

/// Appends an ending without its result, which stores keep apart. Nothing at all if it has neither error nor files.
pub fn encode_ending(ending: &Ending, out: &mut Vec<u8>) {
    if ending.failure.is_some() || !ending.artifacts.is_empty() {
        write(&wire::Ending::from(ending), out);
    }
}

/// Reads an ending and puts its result back.
pub fn decode_ending(bytes: &[u8], result: Payload) -> Decoded<Arc<Ending>> {
    if bytes.is_empty() {
        if result == Payload::None {
            return Ok(Arc::clone(&DEFAULT_ENDING));
        }
        return Ok(Arc::new(Ending { result, ..Ending::default() }));
    }
    let mut ending = Ending::try_from(parse::<wire::Ending>("a task's ending", bytes)?)?;
    ending.result = result;
    Ok(Arc::new(ending))
}

/// Encodes a queue's settings.
pub fn encode_queue_config(config: &QueueConfig) -> Vec<u8> {
    to_vec(&wire::QueueConfig::from(config))
}

/// Reads a queue's settings.
pub fn decode_queue_config(bytes: &[u8]) -> Decoded<QueueConfig> {
    parse::<wire::QueueConfig>("a queue's settings", bytes)?.try_into()
}

/// Encodes a tenant's limits.
pub fn encode_tenant_config(config: &TenantConfig) -> Vec<u8> {
    to_vec(&wire::TenantConfig::from(config))
}

/// Reads a tenant's limits.
pub fn decode_tenant_config(bytes: &[u8]) -> Decoded<TenantConfig> {
    Ok(parse::<wire::TenantConfig>("a tenant's limits", bytes)?.into())
}

/// Appends an ended attempt, without the tenant, task and number that are its key.
pub fn encode_attempt(record: &AttemptRecord, out: &mut Vec<u8>) {
    write(&wire::Attempt::from(record), out);
}

/// Reads an ended attempt.
pub fn decode_attempt(tenant: TenantId, task: TaskId, number: u32, bytes: &[u8]) -> Decoded<AttemptRecord> {
    parse::<wire::Attempt>("an attempt", bytes)?.into_record(tenant, task, number)
}

/// The kinds of a stored payload: its first byte.
const INLINE: u8 = 1;
const BLOB: u8 = 2;
const APART: u8 = 3;

/// A payload as a row holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Here.
    Here(Payload),
    /// In the store's payload table; so many bytes.
    Apart(u64),
}

/// Appends a payload: nothing for none. What is longer than `inline` bytes is not written; the caller keeps it in a
/// row of its own, and gets it back here.
pub fn encode_payload<'a>(payload: &'a Payload, inline: usize, out: &mut Vec<u8>) -> Option<&'a Bytes> {
    match payload {
        Payload::None | Payload::Cold => None,
        Payload::Inline(bytes) if bytes.len() <= inline => {
            out.push(INLINE);
            out.extend_from_slice(bytes);
            None
        }
        Payload::Inline(bytes) => {
            out.push(APART);
            out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            Some(bytes)
        }
        Payload::Blob { hash, size } => {
            out.push(BLOB);
            out.extend_from_slice(hash);
            out.extend_from_slice(&size.to_le_bytes());
            None
        }
    }
}

/// Reads what [`encode_payload`] wrote.
pub fn decode_payload(bytes: &[u8]) -> Decoded<Stored> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
    match bytes.split_first() {
        None => Some(Stored::Here(Payload::None)),
        Some((&INLINE, body)) => Some(Stored::Here(Payload::Inline(Bytes::copy_from_slice(body)))),
        Some((&APART, body)) => number(body).map(Stored::Apart),
        Some((&BLOB, body)) => body
            .split_first_chunk::<32>()
            .and_then(|(hash, size)| Some(Stored::Here(Payload::Blob { hash: *hash, size: number(size)? }))),
        Some((&kind, _)) if kind > APART => return Err(Error::TooNew(format!("a payload of kind {kind}"))),
        Some(_) => None,
    }
    .ok_or_else(|| damaged("a payload", "its kind or length is wrong"))
}

/// Appends a whole task in one canonical form: equal tasks give equal bytes. For state hashes and snapshots.
pub fn encode_task(task: &Task, out: &mut Vec<u8>) {
    let mut message =
        wire::Task { tenant: task.tenant.0, id: task.id.to_bytes().to_vec(), lane: task.lane, ..wire::Task::default() };
    encode_head(task, &mut message.head);
    encode_spec(&task.spec, &mut message.spec);
    encode_payload(&task.input, usize::MAX, &mut message.input);
    message.ending = task.ending.as_ref().map(|ending| {
        let mut bytes = Vec::new();
        encode_ending(ending, &mut bytes);
        encode_payload(&ending.result, usize::MAX, &mut message.result);
        bytes
    });
    write(&message, out);
}

/// Reads what [`encode_task`] wrote.
pub fn decode_task(bytes: &[u8]) -> Decoded<Task> {
    let message: wire::Task = parse("a task", bytes)?;
    let here = |bytes: &[u8]| match decode_payload(bytes)? {
        Stored::Here(payload) => Ok(payload),
        Stored::Apart(_) => Err(damaged("a task", "its payload is not in it")),
    };
    let id = message.id.as_slice().try_into().map_err(|_| damaged("a task", "its id is not 16 bytes"))?;
    let mut task = blank_task(TenantId(message.tenant), TaskId::from_bytes(id));
    task.lane = message.lane;
    decode_head(&message.head, &mut task)?;
    task.spec = decode_spec(&message.spec)?;
    task.input = here(&message.input)?;
    let result = here(&message.result)?;
    task.ending = message.ending.map(|ending| decode_ending(&ending, result)).transpose()?;
    Ok(task)
}

/// A task of which nothing is known but its key; decoders fill it.
pub fn blank_task(tenant: TenantId, id: TaskId) -> Task {
    Task { state: State::Scheduled, ..Task::blank(tenant, id, Arc::clone(&DEFAULT_SPEC)) }
}

fn name(text: String) -> Name {
    if text.is_empty() { Arc::clone(&EMPTY_NAME) } else { text.into() }
}

#[cfg(test)]
mod tests;
