//! A head from its journal: fold, reset to a key, checkpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::act::{Act, Event, Outcome};
use super::code::{self, Bounds, CodeState};
use super::data::{BlobHash, Blobs, Data};
use super::eval::{Definition, Fuel};
use super::head::{Compacted, Head, Identity, Next, Phase, Seq, Waiting};
use super::journal::{Ending, EntryKind, Fact, Key, REVISION, Segment, ValueId};
use super::machine::{End, Machine, Mode};
use super::turn::{Env, Halt, Turn, plan_of};
use crate::id::Name;
use crate::planted::Bug;

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

/// What a fold comes by at each turn that went back: the head before it, and the one that it went back to. A journal with
/// many resets is folded in the time that its turns take, however they refer to each other.
#[derive(Default)]
struct Past {
    before: BTreeMap<usize, Head>,
    back: BTreeMap<usize, Head>,
}

impl Journal<'_> {
    /// The head after all segments. Evaluates nothing.
    pub fn fold(&self) -> Result<Head, FoldError> {
        let (mut head, mut past) = (self.base()?, Past::default());
        for at in 0..self.segments.len() {
            head = self.play(&mut past, &head, at, None)?.ok_or(FoldError::NoKey)?;
        }
        Ok(head)
    }

    /// The head after all segments, and the state of the program of the run, with the turns of its last generation that have not become
    /// pages: as it is then, or as it was before the turn in which it ended, with what it asked for last. `None` = it is no program, has
    /// not begun, or had ended before.
    pub fn program(&self) -> Result<(Head, Option<CodeState>), FoldError> {
        let (mut head, mut last, mut past) = (self.base()?, None, Past::default());
        for (at, segment) in self.segments.iter().enumerate() {
            let next = self.play(&mut past, &head, at, None)?.ok_or(FoldError::NoKey)?;
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
    fn definition_of(&self, plan: &[u8; 32]) -> Result<&dyn Definition, FoldError> {
        if self.definition.plan().hash == *plan {
            return Ok(self.definition);
        }
        let earlier = self.earlier.iter().find(|earlier| earlier.plan().hash == *plan);
        earlier.map(|earlier| &**earlier).ok_or(FoldError::Plan(*plan))
    }

    fn base(&self) -> Result<Head, FoldError> {
        match (self.from, self.segments.first().map(|segment| &segment.event)) {
            (Some(head), _) => Ok(head.clone()),
            (None, Some(Event::Start { identity, .. })) => Ok(Head::new(identity.clone())),
            (None, _) => Err(FoldError::NoStart),
        }
    }

    /// The head after one more segment; `None` = the key was reached in it, and `head` is set to that moment.
    fn play(
        &self,
        past: &mut Past,
        head: &Head,
        at: usize,
        until: Option<(&str, &mut Option<Head>)>,
    ) -> Result<Option<Head>, FoldError> {
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
        let turn = machine.finish(segment.event.clone());
        if turn.segment.facts != segment.facts {
            return Err(diverged("the facts"));
        }
        if turn.segment.tape.len() != segment.tape.len() {
            return Err(diverged("the tape"));
        }
        Ok(Some(turn.head))
    }

    /// The same as [`Journal::went_back`], for a turn of the journal, once.
    fn went_back_in(&self, past: &mut Past, head: &Head, at: usize, key: &str) -> Result<Head, FoldError> {
        if let Some(back) = past.back.get(&at) {
            return Ok(back.clone());
        }
        let segment = &self.segments[at];
        let back = self.went_back(past, head, at, key, (&segment.event, segment.revision))?;
        past.before.insert(at, head.clone());
        past.back.insert(at, back.clone());
        Ok(back)
    }

    /// The head at the moment before a key was opened the last time, as a reset goes on from it. Up to revision 2 it was the first time,
    /// which is another one after an earlier reset.
    fn went_back(
        &self,
        past: &mut Past,
        current: &Head,
        before: usize,
        key: &str,
        (event, revision): (&Event, u16),
    ) -> Result<Head, FoldError> {
        let Event::Reset { input, next_seq, identity, .. } = event else { return Err(FoldError::NoKey) };
        let is_it = |fact: &Fact| matches!(fact, Fact::Opened { key: opened, .. } if opened.to_string() == key);
        let last = || self.segments[..before].iter().rposition(|segment| segment.facts.iter().any(is_it));
        let until = if revision >= 3 { last().ok_or_else(|| self.unknown(current))? } else { 0 };
        let known = past.before.range(..=until).next_back();
        let (mut at, mut head) = match known {
            Some((at, head)) => (*at, head.clone()),
            None => (0, self.base()?),
        };
        let mut reached = None;
        while at < before {
            let stops = (at >= until).then_some((key, &mut reached));
            match self.play(past, &head, at, stops)? {
                Some(next) => head = next,
                None => break,
            }
            at += 1;
        }
        let Some(mut head) = reached else { return Err(self.unknown(current)) };
        if head.identity.plan != identity.plan {
            let (old, new) = (self.definition_of(&head.identity.plan)?, self.definition_of(&identity.plan)?);
            super::moves::fits(&head, old.plan(), new.plan()).map_err(FoldError::Unfit)?;
        }
        self.take_up(&mut head, at, before);
        head.identity = identity.clone();
        head.next_seq = *next_seq;
        head.turns = current.turns;
        head.entries = current.entries;
        head.compacted = current.compacted;
        head.phase = Phase::Running;
        head.reason = None;
        head.outcome = None;
        head.closing = None;
        head.ended_ms = 0;
        head.work = 0;
        head.held.clear();
        head.owed.clear();
        // Children from before that moment stay, those that are still there; those of another run are not this one's.
        let forks = identity.run != current.identity.run;
        let later = &self.segments[at.min(before)..before];
        super::saga::went_back(
            &mut head,
            current,
            later,
            &super::saga::GoesBack { forks, revision, planted: self.definition.planted() },
        );
        let ended =
            |entry: Seq| current.held.iter().any(|held| matches!(held, Event::Done { entry: e, .. } if *e == entry));
        head.children.retain(|child| !forks && current.children.contains(child) && !ended(child.0));
        if let Some(input) = input
            && !set_input(&mut head, key, input)
            && revision >= 3
        {
            return Err(FoldError::NoInput(self.whose_input(&head, key)));
        }
        Ok(head)
    }

    /// Events that came later are there for the run once more.
    fn take_up(&self, head: &mut Head, from: usize, before: usize) {
        for segment in &self.segments[from..before] {
            let event = match &segment.event {
                Event::Arrived { event } => event.clone(),
                Event::Signal { id, kind, data } => super::turn::signal(id, kind, data),
                _ => continue,
            };
            let Some(json) = event.json() else { continue };
            let hash = super::listen::identity_of(json);
            if segment.turn > head.turns + 1 && !head.seen.contains(&hash) {
                Arc::make_mut(&mut head.seen).push(hash);
                head.arrivals += 1;
                head.inbox.push(Waiting { no: head.arrivals, event });
            }
        }
    }

    /// What to do where an entry takes no other input.
    fn whose_input(&self, head: &Head, key: &str) -> Name {
        let sagas = head.lines.iter().filter_map(|line| line.frames.last());
        let mut sagas = sagas.filter(|frame| matches!(frame.step, super::head::Step::Saga(_)));
        let of_step = |frame: &super::head::Frame| key.contains(&format!(":{}/", frame.place.reference));
        match sagas.find(|frame| of_step(frame)) {
            Some(frame) => {
                let saga =
                    Key { scope: frame.scope.clone(), kind: EntryKind::Saga, name: frame.place.name(), n: frame.n };
                format!(
                    "a step of a saga has the saga's input; go back to the saga itself, '{saga}', with the other input"
                )
                .into()
            }
            None => format!("'{key}' goes on with what it had begun; give the input to an entry before it").into(),
        }
    }

    fn unknown(&self, current: &Head) -> FoldError {
        if current.compacted.is_none() {
            return FoldError::NoKey;
        }
        let opened = |segment: &Segment| {
            segment.facts.iter().find_map(|fact| match fact {
                Fact::Opened { key, .. } => Some(key.to_string().into()),
                _ => None,
            })
        };
        FoldError::Compacted(self.segments.iter().find_map(opened))
    }

    /// Takes a run back to the moment before a key was opened, and on from there. What is open now is cancelled; what was
    /// open then is opened again under new entries. Keys of entries after that moment are free again. With another
    /// `identity` it is a fork: this run stays as it is, and the turn belongs to the new one, whose journal begins with a
    /// copy of this one's.
    pub fn reset(
        &self,
        current: &Head,
        key: &str,
        change: Change,
        now_ms: u64,
        fuel: &mut Fuel,
    ) -> Result<Turn, FoldError> {
        let forks = change.identity.is_some();
        let activation = self.activation_of(key);
        if activation.is_some() && change.input.is_some() {
            return Err(FoldError::Input);
        }
        let key = activation.as_deref().unwrap_or(key);
        let identity = change.identity.unwrap_or_else(|| current.identity.clone());
        let next_seq = current.next_seq;
        let event = Event::Reset { key: key.into(), input: change.input, next_seq, identity };
        let start = self.went_back(&mut Past::default(), current, self.segments.len(), key, (&event, REVISION))?;
        if code::of(&start).is_some_and(|state| state.cancel.is_some()) {
            return Err(FoldError::Cancelled(self.before_cancel()));
        }
        let definition = self.definition_of(plan_of(current, &event))?;
        let env = Env { definition, blobs: self.blobs, now_ms, bounds: Bounds::default() };
        let mut machine = Machine::new(start, &env, *fuel, Mode::Live);
        match machine.go_on(current) {
            Ok(()) => {}
            Err(End::Halt(halt)) => return Err(halt.into()),
            Err(End::Diverged(_) | End::Reached) => return Err(FoldError::NoKey),
        }
        *fuel = machine.meter.fuel;
        let mut turn = machine.finish(event);
        if forks {
            // Nothing is open outside for the new run but what this turn opens.
            let old = |entry: &Seq| *entry < next_seq;
            let foreign = |act: &Act| match act {
                Act::CancelTask { entry } | Act::CancelItems { entry } | Act::CancelTimer { entry } => old(entry),
                Act::CancelChild { entry } | Act::Unsubscribe { entry } => old(entry),
                _ => false,
            };
            turn.acts.retain(|act| !foreign(act));
            turn.head.owed.retain(|act| !foreign(act));
        }
        Ok(turn)
    }

    /// The last key that was opened before the run was cancelled, of what is not the run itself or how it is driven.
    fn before_cancel(&self) -> Option<Name> {
        use super::journal::EntryKind::{Activation, Program, Run};
        let cancel = self.segments.iter().rposition(|segment| matches!(segment.event, Event::Cancel { .. }))?;
        let facts = self.segments[..cancel].iter().rev().flat_map(|segment| segment.facts.iter().rev());
        let mut opened = facts.filter_map(|fact| match fact {
            Fact::Opened { key, .. } if !matches!(key.kind, Activation | Program | Run) => Some(key.to_string().into()),
            _ => None,
        });
        opened.next()
    }

    /// The activation in which a program asked for a key: it is done again as a whole, since what it asked for first may depend on what
    /// only the program knows. `None` = no program asked for it.
    fn activation_of(&self, key: &str) -> Option<String> {
        let mut activation = None;
        let mut asked = None;
        for fact in self.segments.iter().flat_map(|segment| &segment.facts) {
            let Fact::Opened { key: opened, .. } = fact else { continue };
            let is_it = opened.to_string() == key;
            match opened.kind {
                EntryKind::Activation => {
                    activation = Some(opened.to_string());
                    asked = if is_it { activation.clone() } else { asked };
                }
                // The last time counts, as it does for every key.
                _ if activation.is_some() && is_it => asked = activation.clone(),
                _ => {}
            }
        }
        asked
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

/// What a reset changes besides going back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Replaces the raw input of the statement.
    pub input: Option<Data>,
    /// Goes on as another run.
    pub identity: Option<Arc<Identity>>,
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

impl Machine<'_> {
    /// Goes on from where a run was taken back to.
    pub(super) fn go_on(&mut self, current: &Head) -> Result<(), End> {
        self.cancel_of(current);
        // Programs have another history from here.
        let epoch = self.head.turns + 1;
        let kept = self.def.planted().has(Bug::KeptEpoch);
        for id in self.head.lines.iter().map(|line| line.id).collect::<Vec<_>>() {
            if let Some(code) = self.code_mut(id).filter(|_| !kept) {
                code.epoch = epoch;
            }
        }
        // What was open at that moment is opened again.
        self.head.open.clear();
        self.undo_on(current);
        for line in &mut self.head.lines {
            let forks = line.frames.last().is_some_and(|frame| frame.step.has_lines());
            if matches!(line.next, Next::Wait | Next::Refill | Next::Listen) && !forks && !line.frames.is_empty() {
                Arc::make_mut(line).next = Next::Interrupted;
            }
        }
        self.facts.push(Fact::Phase { phase: Phase::Running, reason: Some("reset".into()), value: None });
        self.subscribe_from_the_start();
        self.rearm();
        self.redo(|next| matches!(next, Next::Failed(_) | Next::Interrupted))?;
        self.run()
    }
}

/// Gives the statement of a key, which is to begin, another raw input. Says whether there is one.
fn set_input(head: &mut Head, key: &str, input: &Data) -> bool {
    let mut set = false;
    for line in &mut head.lines {
        let ours =
            matches!(&line.next, Next::Begin { place, n, .. } if key.ends_with(&format!(":{}#{n}", place.reference)));
        if ours && let Next::Begin { raw, .. } = &mut Arc::make_mut(line).next {
            *raw = input.clone();
            set = true;
        }
    }
    set
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
