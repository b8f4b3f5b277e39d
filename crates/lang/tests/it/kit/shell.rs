//! A shell around the engine as small as it can be: what a commit would store, an executor, a clock that jumps to the next
//! timer when nothing else is to be done, and faults.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use tidewheel_engine::id::RunId;
use tidewheel_engine::limit::{EVAL_BYTES, EVAL_STEPS, SLICE_BYTES, SLICE_STEPS};
use tidewheel_engine::run::act::{Act, Event, OpenTask, Outcome};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Definition, Fuel};
use tidewheel_engine::run::fold::Journal;
use tidewheel_engine::run::head::{Head, Identity, Phase, Seq};
use tidewheel_engine::run::journal::{EntryKind, Fact, Segment};
use tidewheel_engine::run::turn::{Env, Halt, Turn, advance};
use tidewheel_lang::compile::Compiled;

use super::peer::Peer;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing.
    Memory,
    /// After every commit all memory is gone.
    Crash,
    /// Every commit is lost at first.
    Lost,
    /// Every commit lands and is reported as failed, so that its event comes again.
    Landed,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Completed(Json),
    Faulted(Json),
    Cancelled,
    /// Nothing is left to be done, and it has not ended.
    Stuck,
}

/// What a store holds of a run.
#[derive(Default)]
struct Store {
    segments: Vec<Segment>,
    /// The last head written whole, and how many segments are in it.
    whole: Option<(Head, usize)>,
    tasks: BTreeMap<Seq, OpenTask>,
    timers: BTreeMap<Seq, u64>,
    blobs: BTreeMap<BlobHash, Json>,
    finished: Option<(Phase, Outcome)>,
}

pub(crate) struct Shell {
    compiled: Compiled,
    mode: Mode,
    store: Store,
    now: u64,
    pub(crate) peer: Peer,
    pub(crate) emitted: Vec<Json>,
}

impl Shell {
    pub(crate) fn new(compiled: Compiled, mode: Mode) -> Shell {
        let now = 1_700_000_000_000;
        Shell { compiled, mode, store: Store::default(), now, peer: Peer::default(), emitted: Vec::new() }
    }

    /// Starts a run and does all that it asks for.
    pub(crate) fn execute(&mut self, input: &Json) -> Ended {
        let identity = Arc::new(Identity::new(RunId(7), self.compiled.plan()));
        let (input, bytes) = Data::of(input.clone());
        if let (Data::Ref { hash, .. }, Some(bytes)) = (&input, bytes) {
            self.store.blobs.insert(*hash, serde_json::from_slice(&bytes).unwrap());
        }
        let mut head = Head::new(identity.clone());
        self.drive(&mut head, Event::Start { identity, input });
        let mut taken = 0;
        for _ in 0..10_000 {
            if let Some((phase, outcome)) = &self.store.finished {
                return match (phase, outcome) {
                    (Phase::Completed, Outcome::Ok(output)) => Ended::Completed(self.read(output)),
                    (_, Outcome::Err(fault)) => Ended::Faulted((*fault.0).clone()),
                    _ => Ended::Cancelled,
                };
            }
            let Some(event) = self.next_event(&mut taken) else { return Ended::Stuck };
            self.drive(&mut head, event);
        }
        Ended::Stuck
    }

    /// A task that ends, an event that was sent, or the next timer.
    fn next_event(&mut self, taken: &mut usize) -> Option<Event> {
        let waiting: Vec<Seq> = self.store.tasks.keys().copied().collect();
        for entry in waiting {
            let task = self.store.tasks[&entry].clone();
            let args = self.read(&task.args);
            if let Some(outcome) = self.peer.call(&task.target, &args) {
                self.store.tasks.remove(&entry);
                return Some(Event::Done { entry, outcome });
            }
        }
        if let Some(event) = self.emitted.get(*taken) {
            *taken += 1;
            return Some(Event::Arrived { event: Data::of(event.clone()).0 });
        }
        let (entry, due) = self.store.timers.iter().map(|(entry, due)| (*entry, *due)).min_by_key(|timer| timer.1)?;
        self.store.timers.remove(&entry);
        self.now = self.now.max(due);
        Some(Event::Fired { entry })
    }

    /// One event and the turns that follow from it, with the faults of the mode.
    fn drive(&mut self, head: &mut Head, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let Some(turn) = self.turn(head, event.clone()) else { return };
            if self.mode == Mode::Lost {
                // The effects never leave; the engine loads the run again, and the event comes again.
                *head = self.fold(head.identity.clone());
                assert_eq!(self.turn(head, event.clone()).as_ref(), Some(&turn), "the same event gives the same turn");
            }
            let more = turn.more;
            *head = self.commit(turn);
            if self.mode != Mode::Memory {
                *head = self.fold(head.identity.clone());
                assert_eq!(head.runnable(), more, "a load shows whether the run goes on by itself");
            }
            if self.mode == Mode::Landed && !matches!(event, Event::Continue) {
                assert!(
                    self.turn(head, event).is_none_or(|again| again.acts.is_empty()),
                    "an event that counted counts once"
                );
            }
            next = more.then_some(Event::Continue);
        }
    }

    fn turn(&self, head: &Head, event: Event) -> Option<Turn> {
        let env = Env { definition: &self.compiled, blobs: &self.store.blobs, now_ms: self.now };
        let slice = Fuel { steps: SLICE_STEPS, bytes: SLICE_BYTES };
        match advance(head, event.clone(), &env, &mut slice.clone()) {
            Err(Halt::OutOfFuel) => {
                let mut whole = Fuel { steps: EVAL_STEPS, bytes: EVAL_BYTES };
                advance(head, event, &env, &mut whole).unwrap()
            }
            other => other.unwrap(),
        }
    }

    fn commit(&mut self, turn: Turn) -> Head {
        let Turn { head, segment, acts, snapshot, .. } = turn;
        self.store.segments.push(segment);
        if snapshot {
            self.store.whole = Some((head.clone(), self.store.segments.len()));
        }
        for act in acts {
            match act {
                Act::PutBlob { hash, bytes } => {
                    self.store.blobs.insert(hash, serde_json::from_slice(&bytes).unwrap());
                }
                Act::OpenTask(task) => {
                    self.store.tasks.insert(task.entry, *task);
                }
                Act::CancelTask { entry } | Act::CancelItems { entry } => {
                    self.store.tasks.remove(&entry);
                }
                Act::OpenTimer { entry, due } => {
                    self.store.timers.insert(entry, due);
                }
                Act::CancelTimer { entry } => {
                    self.store.timers.remove(&entry);
                }
                Act::Emit { event, .. } => self.emitted.push(self.read(&event)),
                Act::Finished { phase, outcome } => self.store.finished = Some((phase, outcome)),
                Act::StartChild(child) => panic!("nobody runs {child:?}"),
                Act::CancelChild { .. }
                | Act::Subscribe { .. }
                | Act::Unsubscribe { .. }
                | Act::Defer { .. }
                | Act::Attributes(_) => {}
            }
        }
        head
    }

    /// What a load gives: the same from the last whole head as from the start.
    fn fold(&self, identity: Arc<Identity>) -> Head {
        let segments = &self.store.segments[..];
        if segments.is_empty() {
            return Head::new(identity);
        }
        let journal = Journal { from: None, segments, definition: &self.compiled, blobs: &self.store.blobs };
        let head = journal.fold().unwrap();
        if let Some((whole, count)) = &self.store.whole {
            let later = Journal { from: Some(whole), segments: &segments[*count..], ..journal };
            assert_eq!(later.fold().as_ref(), Ok(&head));
        }
        head
    }

    fn read(&self, data: &Data) -> Json {
        match data {
            Data::Ref { hash, .. } => self.store.blobs[hash].clone(),
            data => data.json().cloned().unwrap(),
        }
    }

    /// Names of the statements that were run, in order.
    pub(crate) fn ran(&self) -> Vec<String> {
        let facts = self.store.segments.iter().flat_map(|segment| &segment.facts);
        let name = |reference: &str| reference.rsplit('/').next().unwrap_or("").to_owned();
        facts
            .filter_map(|fact| match fact {
                Fact::Opened { key, .. } if key.kind != EntryKind::Run => Some(name(&key.name)),
                _ => None,
            })
            .collect()
    }
}
