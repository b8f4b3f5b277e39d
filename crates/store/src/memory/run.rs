//! Durable runs in memory. They are kept as the bytes that the codec makes of them, so that what is read is what a disk would
//! have given: without what is only remembered for speed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::load::{Due, StoredRun};
use tidewheel_engine::mutation::{Mutation, RunRecord, RunTimer};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::Segment;

use crate::run::{PHASES, RunPage, RunPager, RunQuery};
use crate::{Hash, codec, naming};

type RunKey = (TenantId, RunId);
type ValueKey = (TenantId, Hash);
/// Of a turn, a timer or an event.
type PartKey = (TenantId, RunId, u64);

/// All that is kept of runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    heads: BTreeMap<RunKey, Head>,
    turns: BTreeMap<PartKey, Arc<[u8]>>,
    timers: BTreeMap<PartKey, u64>,
    due: BTreeSet<(u64, RunId, u64, TenantId)>,
    events: BTreeMap<PartKey, Arc<[u8]>>,
    values: BTreeMap<ValueKey, Bytes>,
    /// What names a value, and the inverse.
    namers: BTreeSet<(ValueKey, Namer)>,
    named: BTreeSet<(Namer, ValueKey)>,
}

/// What names a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Namer {
    Run(RunKey),
    Task((TenantId, TaskId)),
    Value(ValueKey),
}

#[derive(Clone, Debug)]
struct Head {
    changed: u64,
    turns: u64,
    ended: u64,
    bytes: Arc<[u8]>,
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Arc<[u8]> {
    let mut out = Vec::new();
    write(&mut out);
    out.into()
}

/// What was encoded in this process can be read.
fn decoded<T>(read: Result<T, crate::Error>) -> T {
    read.expect("a run is read as it was written")
}

fn parts<V>(map: &BTreeMap<PartKey, V>, (tenant, run): RunKey, from: u64) -> impl Iterator<Item = (u64, &V)> {
    map.range((tenant, run, from)..=(tenant, run, u64::MAX)).map(|(key, value)| (key.2, value))
}

impl Runs {
    /// Whether a turn is there.
    pub(super) fn has_turn(&self, tenant: TenantId, run: RunId, turn: u64) -> bool {
        self.turns.contains_key(&(tenant, run, turn))
    }

    /// Folds a mutation of a run into the state; others are left alone.
    pub(super) fn fold(&mut self, mutation: &Mutation) {
        match mutation {
            Mutation::PutRun(record) => {
                self.name(mutation, &[], (record.tenant, record.head.identity.run));
                self.put(record);
            }
            Mutation::AppendTurn { tenant, run, segment } => {
                let bytes = encoded(|out| codec::encode_turn(segment, out));
                self.name(mutation, &bytes, (*tenant, *run));
                self.turns.insert((*tenant, *run, segment.turn), bytes);
            }
            Mutation::PutRunTimer { timer, due } => {
                self.delete_timer(timer);
                self.timers.insert((timer.tenant, timer.run, timer.entry), *due);
                self.due.insert((*due, timer.run, timer.entry, timer.tenant));
            }
            Mutation::DeleteRunTimer(timer) => self.delete_timer(timer),
            Mutation::PutRunEvent { tenant, run, number, event } => {
                let bytes = encoded(|out| codec::encode_event(event, out));
                self.name(mutation, &bytes, (*tenant, *run));
                self.events.insert((*tenant, *run, *number), bytes);
            }
            Mutation::DeleteRunEvent { tenant, run, number } => {
                self.events.remove(&(*tenant, *run, *number));
            }
            Mutation::PutValue { tenant, run, hash, bytes } => {
                self.name(mutation, &[], (*tenant, *run));
                naming::in_text(bytes, |inner| self.named_by((*tenant, *inner), Namer::Value((*tenant, *hash))));
                let known = self.values.entry((*tenant, *hash)).or_default();
                if known.is_empty() {
                    *known = bytes.clone();
                }
            }
            // Its input may be a value of a run.
            Mutation::InsertTask(task) => {
                let by = Namer::Task((task.tenant, task.id));
                naming::names(mutation, &[], |hash| self.named_by((task.tenant, *hash), by));
            }
            _ => {}
        }
    }

    fn name(&mut self, mutation: &Mutation, encoded: &[u8], run: RunKey) {
        naming::names(mutation, encoded, |hash| self.named_by((run.0, *hash), Namer::Run(run)));
    }

    fn named_by(&mut self, value: ValueKey, by: Namer) {
        self.namers.insert((value, by));
        self.named.insert((by, value));
    }

    /// A task was removed.
    pub(super) fn task_gone(&mut self, tenant: TenantId, task: TaskId) {
        self.unname(Namer::Task((tenant, task)));
    }

    /// Forgets what something names, and the values that nothing names any more.
    fn unname(&mut self, by: Namer) {
        let mut gone = vec![by];
        while let Some(by) = gone.pop() {
            let least = (by, (TenantId(0), [0; 32]));
            let named: Vec<_> = self.named.range(least..).take_while(|(own, _)| *own == by).copied().collect();
            for (by, value) in named {
                self.named.remove(&(by, value));
                self.namers.remove(&(value, by));
                let least = (value, Namer::Run((TenantId(0), RunId(0))));
                if self.namers.range(least..).next().is_none_or(|(own, _)| *own != value) {
                    self.values.remove(&value);
                    gone.push(Namer::Value(value));
                }
            }
        }
    }

    fn put(&mut self, record: &RunRecord) {
        let head = Head {
            changed: record.changed,
            turns: record.head.turns,
            ended: record.head.ended_ms,
            bytes: encoded(|out| codec::encode_run(&record.head, out)),
        };
        self.heads.insert((record.tenant, record.head.identity.run), head);
    }

    fn delete_timer(&mut self, timer: &RunTimer) {
        if let Some(due) = self.timers.remove(&(timer.tenant, timer.run, timer.entry)) {
            self.due.remove(&(due, timer.run, timer.entry, timer.tenant));
        }
    }

    /// Bytes of a run: of its head, the turns after it, and what was not taken in yet. `None` = there is none.
    pub(super) fn size(&self, tenant: TenantId, run: RunId) -> Option<usize> {
        let key = (tenant, run);
        let head = self.heads.get(&key);
        let from = head.map_or(0, |head| head.turns + 1);
        let turns: Vec<usize> = parts(&self.turns, key, from).map(|(_, bytes)| bytes.len()).collect();
        let events: usize = parts(&self.events, key, 0).map(|(_, bytes)| bytes.len()).sum();
        let is_there = head.is_some() || !turns.is_empty();
        is_there.then(|| head.map_or(0, |head| head.bytes.len()) + turns.iter().sum::<usize>() + events)
    }

    /// A run with the turns that its head has not; or with all of them.
    pub(super) fn stored(&self, tenant: TenantId, run: RunId, all: bool) -> Option<Box<StoredRun>> {
        let key = (tenant, run);
        let head = self.heads.get(&key);
        let from = if all { 0 } else { head.map_or(0, |head| head.turns + 1) };
        let stored = StoredRun {
            head: head.map(|head| Box::new(decoded(codec::decode_run(&head.bytes)))),
            segments: parts(&self.turns, key, from).map(|(_, bytes)| decoded(codec::decode_turn(bytes))).collect(),
            timers: parts(&self.timers, key, 0).map(|(entry, due)| (entry, *due)).collect(),
            events: parts(&self.events, key, 0).map(|(no, event)| (no, decoded(codec::decode_event(event)))).collect(),
        };
        let is_there = stored.head.is_some() || !stored.segments.is_empty();
        is_there.then(|| Box::new(stored))
    }

    /// Turns after one, in order.
    pub(super) fn turns(&self, tenant: TenantId, run: RunId, after: u64, limit: usize) -> Vec<Segment> {
        let Some(from) = after.checked_add(1) else { return Vec::new() };
        let turns = parts(&self.turns, (tenant, run), from).take(limit);
        turns.map(|(_, bytes)| decoded(codec::decode_turn(bytes))).collect()
    }

    /// Timers after a place in the order of [`Due::place`].
    pub(super) fn due(&self, after: (u64, u128, u64), until: u64) -> impl Iterator<Item = Due> + '_ {
        let start = (after.0, RunId(after.1), after.2, TenantId(u32::MAX));
        let rows = self.due.range((std::ops::Bound::Excluded(start), std::ops::Bound::Unbounded));
        rows.take_while(move |row| row.0 <= until)
            .map(|(due, run, entry, tenant)| Due::Run(RunTimer { tenant: *tenant, run: *run, entry: *entry }, *due))
    }

    /// A value by its hash.
    pub(super) fn value(&self, tenant: TenantId, hash: &[u8; 32]) -> Option<Bytes> {
        self.values.get(&(tenant, *hash)).cloned()
    }

    /// Runs for which something waits.
    pub(super) fn waiting(&self) -> Vec<RunKey> {
        let mut runs: Vec<RunKey> = self.events.keys().map(|key| (key.0, key.1)).collect();
        runs.dedup();
        runs
    }

    /// Answers a list query.
    pub(super) fn list(&self, query: &RunQuery, as_of: u64) -> RunPage {
        let mut pager = RunPager::new(query, as_of);
        if let Some((from, until)) = query.ids() {
            for (_, head) in self.heads.range((query.tenant, from)..(query.tenant, until)).rev() {
                if !pager.offer(decoded(codec::decode_run_facts(&head.bytes)), head.changed) {
                    break;
                }
            }
        }
        pager.page()
    }

    /// Runs of a tenant by phase.
    pub(super) fn counts(&self, tenant: TenantId, at_most: u64) -> Vec<(Phase, u64)> {
        let heads = self.heads.range((tenant, RunId(0))..=(tenant, RunId(u128::MAX)));
        let phases: Vec<Phase> = heads.map(|(_, head)| decoded(codec::decode_run_facts(&head.bytes)).phase).collect();
        let count = |phase: Phase| phases.iter().filter(|found| **found == phase).count() as u64;
        PHASES.map(|phase| (phase, count(phase).min(at_most))).to_vec()
    }

    /// Forgets runs that ended before a time, with their turns, timers and events.
    pub(super) fn sweep(&mut self, ended_before: u64, limit: usize) -> u64 {
        let old = self.heads.iter().filter(|(_, head)| head.ended > 0 && head.ended < ended_before);
        let mut old: Vec<(u64, RunKey)> = old.map(|(key, head)| (head.ended, *key)).collect();
        old.sort_unstable();
        old.truncate(limit);
        for (_, key) in &old {
            self.heads.remove(key);
            self.turns.retain(|part, _| (part.0, part.1) != *key);
            self.events.retain(|part, _| (part.0, part.1) != *key);
            self.timers.retain(|part, _| (part.0, part.1) != *key);
            self.due.retain(|row| (row.3, row.1) != *key);
            self.unname(Namer::Run(*key));
        }
        old.len() as u64
    }

    /// Feeds all of it to a hash.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        for (key, head) in &self.heads {
            add(format!("{key:?}{}", head.changed).as_bytes());
            add(&head.bytes);
        }
        for (key, bytes) in self.turns.iter().chain(&self.events) {
            add(format!("{key:?}").as_bytes());
            add(bytes);
        }
        add(format!("{:?}", self.timers).as_bytes());
        for ((tenant, hash), bytes) in &self.values {
            add(&tenant.0.to_be_bytes());
            add(hash);
            add(bytes);
        }
    }
}
