//! The journal of a run as a list: entries folded from the facts of its turns.
//!
//! A page holds the entries that its turns opened. Their ends lie in later turns, which are read on without being kept, up to a
//! bound: what has not ended there and is not open in the run as it is now has ended somewhere beyond.

use std::collections::HashMap;

use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::{Head, Phase, Seq};
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Key, Segment, ValueId};
use tidewheel_proto::rest;

use super::run;
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::Failure;
use crate::state::Api;
use crate::text::{run_text, task_text};
use crate::units::time_text;

/// Entries of a page that asks for no number.
pub(crate) const DEFAULT_LIMIT: usize = 100;
/// Turns read at once.
const TURNS: usize = 256;
/// Turns that are read beyond a page for the ends of its entries.
const AHEAD: u64 = 20_000;
/// Bytes of values in one page, about; a page ends after the entry that passes it.
const PAGE_BYTES: usize = 4 << 20;

/// Where a page begins.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The turn to read first, from 1.
    turn: u64,
    /// The first entry that belongs to the page.
    entry: Seq,
    /// The run that its first turn belongs to: another one where this one was forked from it later.
    run: RunId,
}

impl Place {
    fn bytes(self) -> Vec<u8> {
        [&self.turn.to_be_bytes()[..], &self.entry.to_be_bytes(), &self.run.0.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Place> {
        let part = |range: std::ops::Range<usize>| bytes.get(range);
        Some(Place {
            turn: u64::from_be_bytes(part(0..8)?.try_into().ok()?),
            entry: u64::from_be_bytes(part(8..16)?.try_into().ok()?),
            run: RunId(u128::from_be_bytes(part(16..32)?.try_into().ok()?)),
        })
    }
}

/// A page of the journal, oldest first.
pub(crate) async fn page(
    api: &Api,
    caller: &Principal,
    id: RunId,
    cursor: Option<&str>,
    limit: usize,
) -> Result<rest::Page<rest::JournalEntry>, Failure> {
    let head = run::head(api, caller, id).await?;
    let text = run_text(id);
    let list = List { key: api.runtime.token_key(), resource: "journal", tenant: caller.tenant, filter: &text };
    let refused = || Failure::query("cursor", "the cursor is not one of this list; start again without it");
    let first = match cursor {
        Some(cursor) => Place::read(&list.open(cursor)?).ok_or_else(refused)?,
        None => Place { turn: 1, entry: 0, run: id },
    };
    let mut fold =
        Fold { first, limit, run: first.run, bytes: 0, page: Vec::new(), at: HashMap::new(), next: None, newest: 0 };
    let mut read_to = first.turn.saturating_sub(1);
    loop {
        let segments = turns(api, caller.tenant, id, read_to).await?;
        for segment in &segments {
            if let Some(key) = fold.reset_key(segment) {
                let opened = opened(api, caller.tenant, id, &key, segment.turn).await?;
                fold.went_back(opened, segment);
            }
            fold.take(segment);
        }
        let Some(last) = segments.last() else { break };
        read_to = last.turn;
        let far = fold.next.is_some_and(|next| read_to.saturating_sub(next.turn) > AHEAD);
        if fold.next.is_some() && (far || fold.is_whole()) {
            break;
        }
    }
    let next = fold.next.map(|next| list.seal(&next.bytes()));
    let items = fold.page.into_iter().map(|entry| entry.shown(&head)).collect();
    Ok(rest::Page { items, next_cursor: next, as_of: api.runtime.committed_index(), searched_back_to: None })
}

async fn turns(api: &Api, tenant: TenantId, run: RunId, after: u64) -> Result<Vec<Segment>, Failure> {
    api.read_store(move |store| store.turns(tenant, run, after, TURNS)).await
}

/// The entry that a reset went back to: the last one that was opened under its key before that turn.
pub(super) async fn opened(
    api: &Api,
    tenant: TenantId,
    run: RunId,
    key: &str,
    before: u64,
) -> Result<Option<Seq>, Failure> {
    let (mut found, mut read_to) = (None, 0);
    loop {
        let segments = turns(api, tenant, run, read_to).await?;
        for segment in &segments {
            if segment.turn >= before {
                return Ok(found);
            }
            for fact in &segment.facts {
                match fact {
                    Fact::Opened { entry, key: own, .. } if own.to_string() == key => found = Some(*entry),
                    _ => {}
                }
            }
        }
        let Some(last) = segments.last() else { return Ok(found) };
        read_to = last.turn;
    }
}

/// An entry on its way to a page.
struct Entry {
    shown: rest::JournalEntry,
    number: Seq,
    ended: bool,
    /// The newest entry at its end: a reset to an entry up to that one undoes the end.
    ended_at: Seq,
}

struct Fold {
    first: Place,
    limit: usize,
    /// Whose turns are read.
    run: RunId,
    bytes: usize,
    page: Vec<Entry>,
    /// Where an entry stands in the page.
    at: HashMap<Seq, usize>,
    /// Where the next page begins.
    next: Option<Place>,
    /// The last entry that was opened.
    newest: Seq,
}

impl Fold {
    /// The key that a turn goes back to.
    fn reset_key(&self, segment: &Segment) -> Option<String> {
        let Event::Reset { key, .. } = &segment.event else { return None };
        Some(key.to_string())
    }

    /// Everything from an entry on was given up, and what ended since is open again.
    fn went_back(&mut self, to: Option<Seq>, segment: &Segment) {
        if let Event::Reset { identity, .. } = &segment.event {
            self.run = identity.run;
        }
        let Some(to) = to else { return };
        for entry in &mut self.page {
            if entry.number >= to {
                entry.ended = true;
                "superseded".clone_into(&mut entry.shown.status);
            } else if entry.ended && entry.ended_at >= to {
                entry.ended = false;
                let shown = &mut entry.shown;
                "open".clone_into(&mut shown.status);
                (shown.done_at, shown.output, shown.error) = (None, None, None);
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.page.iter().all(|entry| entry.ended)
    }

    fn take(&mut self, segment: &Segment) {
        if let Event::Start { identity, .. } = &segment.event {
            self.run = identity.run;
        }
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, within, key, value, due_ms, .. } => {
                    self.newest = *entry;
                    self.opened(segment, (*entry, *within), key, *value, *due_ms);
                }
                Fact::Done { entry, how } => self.done(segment, *entry, *how),
                Fact::Retried { entry, attempt, error, .. } => {
                    if let Some(at) = self.at.get(entry) {
                        let shown = &mut self.page[*at].shown;
                        shown.retries = Some(*attempt);
                        shown.error = written(segment, Some(*error));
                    }
                }
                Fact::Phase { .. } => {}
            }
        }
    }

    fn opened(&mut self, segment: &Segment, (entry, within): (Seq, Seq), key: &Key, value: Option<ValueId>, due: u64) {
        if self.next.is_some() || entry < self.first.entry {
            return;
        }
        if self.page.len() >= self.limit || self.bytes > PAGE_BYTES {
            self.next = Some(Place { turn: segment.turn, entry, run: self.run });
            return;
        }
        let input = value.and_then(|value| segment.value(value));
        self.bytes += input.map_or(0, Data::stored);
        let is = |kind| key.kind == kind;
        let shown = rest::JournalEntry {
            entry,
            key: key.to_string(),
            kind: key.kind.name().to_owned(),
            statement: key.name.to_string(),
            status: "open".to_owned(),
            within: (within > 0).then_some(within),
            opened_at: time_text(segment.now_ms),
            due_at: (due > 0).then(|| time_text(due)),
            input: input.map(Data::written),
            task: is(EntryKind::Task).then(|| task_text(TaskId::of_step(self.run, entry, 0))),
            run: is(EntryKind::Child).then(|| run_text(RunId::of_child(self.run, entry, 0))),
            turn: segment.turn,
            ..rest::JournalEntry::default()
        };
        self.at.insert(entry, self.page.len());
        self.page.push(Entry { shown, number: entry, ended: false, ended_at: 0 });
    }

    fn done(&mut self, segment: &Segment, number: Seq, how: Ending) {
        let newest = self.newest;
        let Some(entry) = self.at.get(&number).map(|at| &mut self.page[*at]) else { return };
        let (status, output, error) = match how {
            Ending::Ok(value) => ("done", Some(value), None),
            Ending::Skipped => ("skipped", None, None),
            Ending::Err(value) => ("failed", None, Some(value)),
            Ending::Cancelled => ("cancelled", None, None),
        };
        entry.ended = true;
        entry.ended_at = newest;
        let shown = &mut entry.shown;
        status.clone_into(&mut shown.status);
        shown.done_at = Some(time_text(segment.now_ms));
        shown.output = written(segment, output);
        shown.error = written(segment, error);
        self.bytes += output.or(error).and_then(|value| segment.value(value)).map_or(0, Data::stored);
    }
}

fn written(segment: &Segment, value: Option<ValueId>) -> Option<serde_json::Value> {
    value.and_then(|value| segment.value(value)).map(Data::written)
}

impl Entry {
    /// As it is shown: what was not seen to end and is not open now has ended beyond what was read.
    fn shown(self, head: &Head) -> rest::JournalEntry {
        let mut shown = self.shown;
        let frames = head.lines.iter().flat_map(|line| &line.frames);
        let open = || head.opened(self.number).is_some() || frames.clone().any(|frame| frame.seq == self.number);
        if !self.ended && !open() {
            "ended".clone_into(&mut shown.status);
        } else if !self.ended && head.phase == Phase::Faulted {
            // What stays open for a retry has failed with the run as long as nobody retries it.
            "failed".clone_into(&mut shown.status);
            shown.done_at = Some(time_text(head.ended_ms));
        }
        shown
    }
}
