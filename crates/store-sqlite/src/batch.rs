//! A batch as bind values. Encoding happens on the thread that commits, so that the one writer thread only binds and
//! steps; all bytes of a batch are in one buffer, so that a row costs no allocation.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_engine::ready::Fnv;
use tidewheel_engine::task::{Payload, Spec, State, Task};
use tidewheel_store::codec;
use tidewheel_store::query::{INDEXED_LABELS, lane_order, stored_due};

use crate::keys::Key;

/// Longest input, result or ending inside a task's row. Longer ones would be copied with every transition.
pub(crate) const INLINE_BYTES: usize = 512;

/// Parts of a task that are kept apart when they are longer.
pub(crate) const PART_INPUT: u8 = 1;
pub(crate) const PART_RESULT: u8 = 2;
pub(crate) const PART_ENDING: u8 = 3;

/// First byte of an ending that is kept apart. No codec version has this number.
pub(crate) const ENDING_APART: &[u8] = &[0];

/// A piece of the batch's buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

/// A task's row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) tenant: u32,
    pub(crate) id: [u8; 16],
    pub(crate) queue: u32,
    pub(crate) kind: u32,
    pub(crate) lane: Option<(i64, i64)>,
    pub(crate) timer: Option<i64>,
    pub(crate) live: Option<i64>,
    pub(crate) head: Span,
    pub(crate) spec: Span,
    pub(crate) input: Option<Span>,
    pub(crate) ending: Option<Span>,
    pub(crate) result: Option<Span>,
}

/// A statement's worth of change.
#[derive(Debug)]
pub(crate) enum Op {
    Insert(Row),
    Update(Row),
    /// The result is in the store and not in memory.
    UpdateKeepingResult(Row),
    Payload { tenant: u32, id: [u8; 16], part: u8, bytes: Bytes },
    Mark { tenant: u32, mark: i64, id: [u8; 16] },
    Attempt { tenant: u32, id: [u8; 16], number: u32, body: Span },
    /// Rare ones, bound as they are.
    Other(Mutation),
}

/// An encoded batch.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) partition: u32,
    pub(crate) epoch: u32,
    pub(crate) index: u64,
    pub(crate) wall: u64,
    pub(crate) seq: u64,
    pub(crate) mutations: usize,
    pub(crate) ops: Vec<Op>,
    pub(crate) keys: Vec<Key>,
    buffer: Vec<u8>,
    apart: usize,
}

impl Encoded {
    /// The bytes of a span.
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        &self.buffer[span.start as usize..span.end as usize]
    }

    /// Roughly what it adds to a transaction.
    pub(crate) fn size(&self) -> usize {
        self.buffer.len() + self.apart + self.ops.len() * 32
    }
}

/// Encodes a batch.
pub(crate) fn encode(batch: Batch) -> Encoded {
    let count = batch.mutations.len();
    let mut encoder = Encoder {
        out: Encoded {
            partition: batch.partition,
            epoch: batch.epoch,
            index: batch.index,
            wall: batch.wall,
            seq: batch.seq,
            mutations: count,
            ops: Vec::with_capacity(count),
            keys: Vec::new(),
            buffer: Vec::with_capacity(count * 96),
            apart: 0,
        },
        last_spec: None,
    };
    for mutation in batch.mutations {
        encoder.mutation(mutation);
    }
    encoder.out
}

struct Encoder {
    out: Encoded,
    /// Tasks of one submit share their spec.
    last_spec: Option<(Arc<Spec>, Span)>,
}

impl Encoder {
    fn span(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.out.buffer.len();
        write(&mut self.out.buffer);
        // A batch is bounded by the engine to a few thousand records of at most 64 KiB, far below 4 GiB.
        let place = |at: usize| u32::try_from(at).expect("a batch is shorter than 4 GiB");
        Span { start: place(start), end: place(self.out.buffer.len()) }
    }

    fn mutation(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::InsertTask(task) => {
                let mut row = self.row(&task);
                row.spec = self.spec(&task.spec);
                row.input = self.payload(&task, PART_INPUT, &task.input);
                self.out.ops.push(Op::Insert(row));
                self.marks(&task);
            }
            Mutation::UpdateTask(task) => {
                let row = self.row(&task);
                let cold = task.ending.as_ref().is_some_and(|ending| ending.result == Payload::Cold);
                self.out.ops.push(if cold { Op::UpdateKeepingResult(row) } else { Op::Update(row) });
            }
            Mutation::PutAttempt(record) => {
                let body = self.span(|out| codec::encode_attempt(&record, out));
                let (tenant, id, number) = (record.tenant.0, record.task.to_bytes(), record.number);
                self.out.ops.push(Op::Attempt { tenant, id, number, body });
            }
            Mutation::PutIdempotency { tenant, hash, task, body, expires } => {
                self.out.keys.push(Key { tenant, hash, task, body, expires });
            }
            other => self.out.ops.push(Op::Other(other)),
        }
    }

    fn row(&mut self, task: &Task) -> Row {
        let head = self.span(|out| codec::encode_head(task, out));
        let (ending, result) = match &task.ending {
            None => (None, None),
            Some(ending) => {
                let mut span = self.span(|out| codec::encode_ending(ending, out));
                if self.out.bytes(span).len() > INLINE_BYTES {
                    let bytes = Bytes::copy_from_slice(self.out.bytes(span));
                    self.out.buffer.truncate(span.start as usize);
                    self.apart(task, PART_ENDING, bytes);
                    span = self.span(|out| out.extend_from_slice(ENDING_APART));
                }
                (Some(span), self.payload(task, PART_RESULT, &ending.result))
            }
        };
        Row {
            tenant: task.tenant.0,
            id: task.id.to_bytes(),
            queue: task.queue.0,
            kind: task.kind.0,
            lane: task.lane.map(|lane| (lane, signed(lane_order(task)))),
            timer: stored_due(task).map(signed),
            live: live(task.state),
            head,
            spec: Span::default(),
            input: None,
            ending,
            result,
        }
    }

    fn spec(&mut self, spec: &Arc<Spec>) -> Span {
        if let Some((last, span)) = &self.last_spec
            && Arc::ptr_eq(last, spec)
        {
            return *span;
        }
        let span = self.span(|out| codec::encode_spec(spec, out));
        self.last_spec = Some((Arc::clone(spec), span));
        span
    }

    fn payload(&mut self, task: &Task, part: u8, payload: &Payload) -> Option<Span> {
        if matches!(payload, Payload::None | Payload::Cold) {
            return None;
        }
        let mut long = None;
        let span = self.span(|out| long = codec::encode_payload(payload, INLINE_BYTES, out).cloned());
        if let Some(bytes) = long {
            self.apart(task, part, bytes);
        }
        Some(span)
    }

    fn apart(&mut self, task: &Task, part: u8, bytes: Bytes) {
        self.out.apart += bytes.len();
        self.out.ops.push(Op::Payload { tenant: task.tenant.0, id: task.id.to_bytes(), part, bytes });
    }

    fn marks(&mut self, task: &Task) {
        let (tenant, id) = (task.tenant.0, task.id.to_bytes());
        self.out.ops.extend(marks(&task.spec).map(|mark| Op::Mark { tenant, mark, id }));
    }
}

/// What a task with this spec can be found by.
pub(crate) fn marks(spec: &Spec) -> impl Iterator<Item = i64> + '_ {
    let labels = spec.labels.iter().take(INDEXED_LABELS).map(|(name, value)| label_mark(name, value));
    let one = |kind, value: &Option<Name>| value.as_deref().map(|value| mark(kind, "", value));
    labels.chain(one(CORRELATION, &spec.correlation_id)).chain(one(WORKFLOW, &spec.workflow_id))
}

/// Kinds of marks. Stored, as part of the hash; they never change.
pub(crate) const LABEL: u64 = 1;
pub(crate) const CORRELATION: u64 = 2;
pub(crate) const WORKFLOW: u64 = 3;

/// The mark of a label.
pub(crate) fn label_mark(name: &str, value: &str) -> i64 {
    mark(LABEL, name, value)
}

/// A 64-bit hash. Two values may share one; the row itself decides.
pub(crate) fn mark(kind: u64, name: &str, value: &str) -> i64 {
    let mut hash = Fnv::new();
    hash.number(kind);
    hash.text(name);
    hash.text(value);
    hash.finish() as i64
}

/// A number as SQLite keeps it, in order. Above 2^63 all are the same.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The column `live`. Running is 1 because SQLite stores 1 and null in no bytes at all: a task that starts to run or
/// succeeds keeps the length of its row.
pub(crate) fn live(state: State) -> Option<i64> {
    match state {
        State::Queued | State::Succeeded => None,
        State::Running => Some(LIVE_RUNNING),
        other => Some(10 + other as i64),
    }
}

/// `live` of a running task.
pub(crate) const LIVE_RUNNING: i64 = 1;

/// A tenant as SQLite keeps it.
pub(crate) fn tenant(tenant: TenantId) -> i64 {
    i64::from(tenant.0)
}
