//! A head from its journal: fold and checkpoints. Resets to a key: `reset`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::act::{Event, Outcome};
use super::code::{self, Bounds, CodeState};
use super::data::{BlobHash, Blobs, Data};
use super::eval::{Definition, Fuel};
use super::head::{Compacted, Head, Seq};
use super::journal::{Ending, EntryKind, Fact, REVISION, Segment, ValueId};
use super::machine::{End, Machine, Mode};
pub use super::reset::Change;
use super::rollback::{Armed, Ledger};
use super::turn::{Env, Halt, plan_of};
use crate::id::Name;

/// Why a journal cannot be folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldError {
    /// The first turn does not start the run.
    NoStart,
    /// A turn is missing, or there twice.
    Gap {
        /// The turn that should follow.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// A newer engine made it.
    Revision(u16),
    /// What comes out is not what was written: the journal is damaged, or the plan is another one.
    Diverged {
        /// In which turn.
        turn: u64,
        /// What differs.
        what: &'static str,
    },
    /// These blobs have to be read first, then the same call made again.
    Blobs(Vec<BlobHash>),
    /// No turn opened the key.
    NoKey,
    /// The key is in what was compacted; the oldest key that can be gone back to, if there is one.
    Compacted(Option<Name>),
    /// The fuel of the turn that goes on from there is used up.
    OutOfFuel,
    /// What a program asked for cannot be given another input: it asks for it anew.
    Input,
    /// The entry has no input of its own, or has begun with it and goes on: what to do instead.
    NoInput(Name),
    /// The plan with this hash, which the run followed then, is needed first, in [`Journal::earlier`].
    Plan([u8; 32]),
    /// The run moved to another version since, and what was open at that moment does not fit that version: why.
    Unfit(String),
    /// The key was opened after the run was cancelled; the last one before that, if there is one.
    Cancelled(Option<Name>),
}

impl From<Halt> for FoldError {
    fn from(halt: Halt) -> FoldError {
        match halt {
            Halt::OutOfFuel => FoldError::OutOfFuel,
            Halt::Blobs(blobs) => FoldError::Blobs(blobs),
        }
    }
}

/// Where a fold begins, and with what.
#[derive(Clone, Copy)]
pub struct Journal<'a> {
    /// A head that was written whole; `None` = from the start.
    pub from: Option<&'a Head>,
    /// The turns after it, in order.
    pub segments: &'a [Segment],
    /// The workflow, in the version that the run follows after the last turn.
    pub definition: &'a dyn Definition,
    /// Other versions that it followed before.
    pub earlier: &'a [Arc<dyn Definition>],
    /// Blobs that were read.
    pub blobs: &'a dyn Blobs,
}

/// What a fold comes by: at each turn that went back the head before it, and the one that it went back to, so that a journal with
/// many resets is folded in the time that its turns take, however they refer to each other; what was armed and undone.
#[derive(Default)]
pub(super) struct Past {
    pub(super) before: BTreeMap<usize, Head>,
    pub(super) back: BTreeMap<usize, Head>,
    pub(super) ledger: Ledger,
}

impl Journal<'_> {
    /// The head after all segments. Evaluates nothing.
    pub fn fold(&self) -> Result<Head, FoldError> {
        let (mut head, mut past) = (self.base()?, Past::default());
        for at in 0..self.segments.len() {
            head = self.play_next(&mut past, &head, at)?;
        }
        Ok(head)
    }

    /// The head after all segments, and the state of the program of the run, with the turns of its last generation that have not become
    /// pages: as it is then, or as it was before the turn in which it ended, with what it asked for last. `None` = it is no program, has
    /// not begun, or had ended before.
    pub fn program(&self) -> Result<(Head, Option<CodeState>), FoldError> {
        let (mut head, mut last, mut past) = (self.base()?, None, Past::default());
        for (at, segment) in self.segments.iter().enumerate() {
            let next = self.play_next(&mut past, &head, at)?;
            let ended = code::of(&next).is_none();
            if let (true, Some(state)) = (ended, code::of(&head)) {
                last = Some(self.ended(state.clone(), segment));
            }
            head = next;
        }
        let state = code::of(&head).cloned().or(last);
        Ok((head, state))
    }

    /// The state of a program before its last turn, with what it asked for in it.
    fn ended(&self, mut state: CodeState, segment: &Segment) -> CodeState {
        if let Event::Done { outcome: Outcome::Ok(result), .. } = &segment.event {
            let result = match result {
                Data::Ref { hash, value: None, .. } => self.blobs.get(hash).map(|json| &**json),
                at_hand => at_hand.json(),
            };
            if let (Some(turn), Some(result)) = (state.turns.last_mut(), result) {
                Arc::make_mut(turn).opened = super::command::asked(result);
                state.active = None;
            }
        }
        state
    }

    /// The plan of a turn.
    pub(super) fn definition_of(&self, plan: &[u8; 32]) -> Result<&dyn Definition, FoldError> {
        if self.definition.plan().hash == *plan {
            return Ok(self.definition);
        }
        let earlier = self.earlier.iter().find(|earlier| earlier.plan().hash == *plan);
        earlier.map(|earlier| &**earlier).ok_or(FoldError::Plan(*plan))
    }

    pub(super) fn base(&self) -> Result<Head, FoldError> {
        match (self.from, self.segments.first().map(|segment| &segment.event)) {
            (Some(head), _) => Ok(head.clone()),
            (None, Some(Event::Start { identity, .. })) => Ok(Head::new(identity.clone())),
            (None, _) => Err(FoldError::NoStart),
        }
    }

    /// The head after one more segment, in their order.
    pub(super) fn play_next(&self, past: &mut Past, head: &Head, at: usize) -> Result<Head, FoldError> {
        let (next, armed) = self.play(past, head, at, None)?.ok_or(FoldError::NoKey)?;
        past.ledger.note(&self.segments[at], armed);
        Ok(next)
    }

    /// The head after one more segment, and what it armed; `None` = the key was reached in it, and `head` is set to that moment.
    pub(super) fn play(
        &self,
        past: &mut Past,
        head: &Head,
        at: usize,
        until: Option<(&str, &mut Option<Head>)>,
    ) -> Result<Option<(Head, Armed)>, FoldError> {
        let segment = &self.segments[at];
        if segment.turn != head.turns + 1 {
            return Err(FoldError::Gap { expected: head.turns + 1, found: segment.turn });
        }
        if segment.revision > REVISION {
            return Err(FoldError::Revision(segment.revision));
        }
        let diverged = |what| FoldError::Diverged { turn: segment.turn, what };
        let definition = self.definition_of(plan_of(head, &segment.event))?;
        let env = Env { definition, blobs: self.blobs, now_ms: segment.now_ms, bounds: Bounds::default() };
        let (key, reached) = match until {
            Some((key, reached)) => (Some(key), Some(reached)),
            None => (None, None),
        };
        let mode = Mode::Replay { segment, at: 0, until: key };
        let none = Fuel { steps: 0, bytes: 0 };
        let (start, current) = match &segment.event {
            Event::Reset { key, .. } => (self.went_back_in(past, head, at, key)?, Some(head)),
            _ => (head.clone(), None),
        };
        let mut machine = Machine::new(start, &env, none, mode);
        let played = match current {
            Some(current) => machine.go_on(current),
            None => machine.play(&segment.event),
        };
        match (played, reached) {
            (Ok(()), _) => {}
            (Err(End::Reached), Some(reached)) => {
                *reached = Some(machine.head);
                return Ok(None);
            }
            (Err(End::Halt(halt)), _) => return Err(halt.into()),
            (Err(End::Diverged(what)), _) => return Err(diverged(what)),
            (Err(End::Reached), None) => return Err(FoldError::NoKey),
        }
        let armed = std::mem::take(&mut machine.armed);
        let turn = machine.finish(segment.event.clone());
        if turn.segment.facts != segment.facts {
            return Err(diverged("the facts"));
        }
        if turn.segment.tape.len() != segment.tape.len() {
            return Err(diverged("the tape"));
        }
        Ok(Some((turn.head, armed)))
    }

    /// What can stand for these segments from now on: the head after them, and their facts without those of finished
    /// iterations of loops. `stored` are the segments as they were written; a chain of hashes over them proves later what
    /// was here.
    pub fn checkpoint(&self, before: Option<&Checkpoint>, stored: &[&[u8]]) -> Result<Checkpoint, FoldError> {
        let mut head = self.fold()?;
        let mut chain = before.map_or([0; 32], |before| before.head.compacted.map_or([0; 32], |before| before.chain));
        for text in stored {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&chain).update(text);
            chain = *hasher.finalize().as_bytes();
        }
        head.compacted = Some(Compacted { turns: head.turns, chain });
        let mut values: Vec<Data> = before.map_or_else(Vec::new, |before| before.values.clone());
        let mut facts: Vec<Fact> = before.map_or_else(Vec::new, |before| before.facts.clone());
        for segment in self.segments {
            let base = values.len() as u32;
            values.extend(segment.values.iter().cloned());
            facts.extend(segment.facts.iter().cloned().map(|fact| moved(fact, base)));
        }
        Ok(thin(Checkpoint { head, values, facts, dropped: before.map_or(0, |before| before.dropped) }))
    }
}

/// Stands for the segments of a run up to a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The head after them; says how far they went, and the hash of their chain.
    pub head: Head,
    /// Values that the facts name.
    pub values: Vec<Data>,
    /// Their facts, without those inside of finished loops.
    pub facts: Vec<Fact>,
    /// How many facts were left out.
    pub dropped: u64,
}

/// A fact whose values stand further back.
fn moved(mut fact: Fact, base: u32) -> Fact {
    let shift = |id: &mut ValueId| id.0 += base;
    match &mut fact {
        Fact::Opened { value, .. } | Fact::Phase { value, .. } => value.iter_mut().for_each(shift),
        Fact::Done { how: Ending::Ok(id) | Ending::Err(id), .. } | Fact::Retried { error: id, .. } => shift(id),
        Fact::Done { how: Ending::Skipped | Ending::Cancelled, .. } => {}
    }
    fact
}

/// Leaves out what is inside of finished loops, and values that no fact names any more.
fn thin(mut checkpoint: Checkpoint) -> Checkpoint {
    use std::collections::BTreeSet;
    let mut loops: BTreeSet<Seq> = BTreeSet::new();
    let mut finished: BTreeSet<Seq> = BTreeSet::new();
    for fact in &checkpoint.facts {
        match fact {
            Fact::Opened { entry, key, .. } if key.kind == EntryKind::For => {
                loops.insert(*entry);
            }
            Fact::Done { entry, .. } if loops.contains(entry) => {
                finished.insert(*entry);
            }
            _ => {}
        }
    }
    let mut inside: BTreeSet<Seq> = BTreeSet::new();
    for fact in &checkpoint.facts {
        if let Fact::Opened { entry, within, .. } = fact
            && (finished.contains(within) || inside.contains(within))
        {
            inside.insert(*entry);
        }
    }
    let before = checkpoint.facts.len();
    checkpoint.facts.retain(|fact| match fact {
        Fact::Opened { entry, .. } | Fact::Done { entry, .. } | Fact::Retried { entry, .. } => !inside.contains(entry),
        Fact::Phase { .. } => true,
    });
    checkpoint.dropped += (before - checkpoint.facts.len()) as u64;
    let mut kept = Vec::new();
    let mut keep = |id: &mut ValueId| {
        if let Some(data) = checkpoint.values.get(id.0 as usize) {
            kept.push(data.clone());
            id.0 = kept.len() as u32 - 1;
        }
    };
    for fact in &mut checkpoint.facts {
        match fact {
            Fact::Opened { value, .. } | Fact::Phase { value, .. } => value.iter_mut().for_each(&mut keep),
            Fact::Done { how: Ending::Ok(id) | Ending::Err(id), .. } | Fact::Retried { error: id, .. } => keep(id),
            Fact::Done { how: Ending::Skipped | Ending::Cancelled, .. } => {}
        }
    }
    checkpoint.values = kept;
    checkpoint
}
