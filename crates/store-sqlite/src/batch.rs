//! A batch as bind values. Encoding happens on the thread that commits, so that the one writer thread only binds and
//! steps; all bytes of a batch are in one buffer, so that a row costs no allocation.
//!
//! Within a batch the order of mutations counts per record only. So rows are sorted by key: neighbours share pages.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::id::{Name, TaskId, TenantId};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_engine::ready::Fnv;
use tidewheel_engine::task::{Payload, Spec, State, Task};
use tidewheel_store::codec;
use tidewheel_store::query::INDEXED_LABELS;

use crate::keys::Key;
use crate::layout::{Places, TaskKey, task_key, task_name};
use crate::run::{self, RunOp};

/// Longest input, result or ending inside a task's row. Longer ones would be copied with every transition, and a row of more
/// than 1,002 bytes (a quarter of a page) would spill into a page of its own: input and result together stay below it.
pub(crate) const INLINE_BYTES: usize = 384;

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

/// What of a task's row changes.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: TaskKey,
    pub(crate) places: Places,
    pub(crate) head: Span,
    pub(crate) ending: Option<Span>,
    pub(crate) result: Option<Span>,
    /// The result is in the store and not in memory.
    pub(crate) keep_result: bool,
    pub(crate) state: State,
}

/// A new row.
#[derive(Debug)]
pub(crate) struct NewRow {
    pub(crate) row: Row,
    pub(crate) spec: Span,
    pub(crate) input: Option<Span>,
}

/// A rarer change.
#[derive(Debug)]
pub(crate) enum Op {
    Payload {
        key: TaskKey,
        part: u8,
        bytes: Bytes,
    },
    Spec {
        key: TaskKey,
        spec: Span,
    },
    Mark {
        mark: i64,
        key: TaskKey,
    },
    Unmark {
        mark: i64,
        key: TaskKey,
    },
    Attempt {
        key: TaskKey,
        number: u32,
        body: Span,
    },
    Run(RunOp),
    /// Bound as they are.
    Other(Mutation),
}

/// An encoded batch. Inserts are applied first, then updates, then the rest.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) partition: u32,
    pub(crate) epoch: u32,
    pub(crate) index: u64,
    pub(crate) wall: u64,
    pub(crate) seq: u64,
    pub(crate) mutations: usize,
    /// In key order.
    pub(crate) inserts: Vec<NewRow>,
    /// In key order, and for one task in the order given.
    pub(crate) updates: Vec<Row>,
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
        self.buffer.len() + self.apart + self.mutations * 32
    }

    /// Each task whose state the batch writes, and whether it then runs; the last entry of a task counts.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&TaskKey, bool)> {
        let rows = self.inserts.iter().map(|new| &new.row).chain(&self.updates);
        rows.map(|row| (&row.key, row.state == State::Running))
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
            inserts: Vec::new(),
            updates: Vec::new(),
            ops: Vec::new(),
            keys: Vec::new(),
            buffer: Vec::with_capacity(count * 96),
            apart: 0,
        },
        last_spec: None,
    };
    for mutation in batch.mutations {
        encoder.mutation(mutation);
    }
    let mut encoded = encoder.out;
    encoded.inserts.sort_unstable_by_key(|insert| insert.row.key);
    encoded.updates.sort_by_key(|update| update.key);
    encoded
}

pub(crate) struct Encoder {
    out: Encoded,
    /// Tasks of one submit share their spec.
    last_spec: Option<(Arc<Spec>, Span)>,
}

impl Encoder {
    pub(crate) fn span(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.out.buffer.len();
        write(&mut self.out.buffer);
        // A batch is bounded by the engine to a few thousand records of at most 64 KiB, far below 4 GiB.
        let place = |at: usize| u32::try_from(at).expect("a batch is shorter than 4 GiB");
        Span { start: place(start), end: place(self.out.buffer.len()) }
    }

    /// The bytes of a span.
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        self.out.bytes(span)
    }

    /// One more change of runs.
    pub(crate) fn run(&mut self, op: RunOp) {
        self.out.ops.push(Op::Run(op));
    }

    fn mutation(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::InsertTask(task) => {
                let row = self.row(&task);
                if let Payload::Blob { hash, .. } = &task.input {
                    run::write_names(self, task.tenant, &[*hash], &task_name(&row.key));
                }
                let spec = self.spec(&task.spec);
                let input = self.payload(row.key, PART_INPUT, &task.input);
                let key = row.key;
                self.out.ops.extend(marks(&task.spec).map(|mark| Op::Mark { mark, key }));
                self.out.inserts.push(NewRow { row, spec, input });
            }
            Mutation::UpdateTask(task) => {
                let row = self.row(&task);
                self.out.updates.push(row);
            }
            Mutation::PutSpec { tenant, task, spec, before } => {
                let key = task_key(tenant, task);
                let span = self.spec(&spec);
                self.out.ops.push(Op::Spec { key, spec: span });
                self.out.ops.extend(marks(&before).map(|mark| Op::Unmark { mark, key }));
                self.out.ops.extend(marks(&spec).map(|mark| Op::Mark { mark, key }));
            }
            Mutation::PutAttempt(record) => {
                let body = self.span(|out| codec::encode_attempt(&record, out));
                let key = task_key(record.tenant, record.task);
                self.out.ops.push(Op::Attempt { key, number: record.number, body });
            }
            Mutation::PutIdempotency { tenant, hash, task, body, expires } => {
                self.out.keys.push(Key { tenant, hash, task, body, expires });
            }
            other => {
                let op = match run::encode(self, other) {
                    Ok(run) => Op::Run(run),
                    Err(other) => Op::Other(other),
                };
                if let Op::Run(RunOp::Value { bytes, .. }) = &op {
                    self.out.apart += bytes.len();
                }
                self.out.ops.push(op);
            }
        }
    }

    fn row(&mut self, task: &Task) -> Row {
        let key = task_key(task.tenant, task.id);
        let head = self.span(|out| codec::encode_head(task, out));
        let (mut ending, mut result, mut keep_result) = (None, None, false);
        if let Some(known) = &task.ending {
            let mut span = self.span(|out| codec::encode_ending(known, out));
            if self.out.bytes(span).len() > INLINE_BYTES {
                let bytes = Bytes::copy_from_slice(self.out.bytes(span));
                self.out.buffer.truncate(span.start as usize);
                self.apart(key, PART_ENDING, bytes);
                span = self.span(|out| out.extend_from_slice(ENDING_APART));
            }
            ending = Some(span);
            keep_result = known.result == Payload::Cold;
            result = self.payload(key, PART_RESULT, &known.result);
        }
        Row { key, places: Places::of(task), head, ending, result, keep_result, state: task.state }
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

    fn payload(&mut self, key: TaskKey, part: u8, payload: &Payload) -> Option<Span> {
        if matches!(payload, Payload::None | Payload::Cold) {
            return None;
        }
        let mut long = None;
        let span = self.span(|out| long = codec::encode_payload(payload, INLINE_BYTES, out).cloned());
        if let Some(bytes) = long {
            self.apart(key, part, bytes);
        }
        Some(span)
    }

    fn apart(&mut self, key: TaskKey, part: u8, bytes: Bytes) {
        self.out.apart += bytes.len();
        self.out.ops.push(Op::Payload { key, part, bytes });
    }
}

/// What a task with this spec can be found by.
pub(crate) fn marks(spec: &Spec) -> impl Iterator<Item = i64> + '_ {
    let labels = spec.labels.iter().take(INDEXED_LABELS).map(|(name, value)| mark(LABEL, name, value));
    let one = |kind, value: &Option<Name>| value.as_deref().map(|value| mark(kind, "", value));
    labels.chain(one(CORRELATION, &spec.correlation_id)).chain(one(WORKFLOW, &spec.workflow_id))
}

/// Kinds of marks. Stored, as part of the hash; they never change.
pub(crate) const LABEL: u64 = 1;
pub(crate) const CORRELATION: u64 = 2;
pub(crate) const WORKFLOW: u64 = 3;

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

/// The keys of a tenant's tasks below an id, as an inclusive lower and an exclusive upper bound.
pub(crate) fn below(tenant: TenantId, before: Option<TaskId>) -> (TaskKey, Vec<u8>) {
    let first = task_key(tenant, TaskId(0));
    match before {
        Some(id) => (first, task_key(tenant, id).to_vec()),
        // Longer than every key of the tenant, and so above them all.
        None => (first, [&task_key(tenant, TaskId(u128::MAX))[..], &[0]].concat()),
    }
}
