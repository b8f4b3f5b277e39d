//! What a turn works on, and its bookkeeping: facts, values, acts, entries, fuel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::act::{Act, Outcome};
use super::code::Bounds;
use super::data::{BlobHash, Blobs, Data};
use super::eval::{Definition, Fuel, Json};
use super::fault::{Fault, Standard};
use super::head::{Frame, Head, Line, Next, Open, Outside, Phase, Seq, Step};
use super::journal::{Ending, Fact, REVISION, Segment, Taped, ValueId};
use super::plan::{Node, ParentClose, Plan};
use super::turn::{Env, Halt};
use crate::limit::{
    ACTS_PER_STATEMENT, ACTS_PER_TURN, EVAL_BYTES, EVAL_STEPS, RUN_WORK, SLICE_BYTES, SLICE_STEPS, STATEMENT_WORK,
    STATEMENTS_PER_TURN, WRITTEN_PER_WORK,
};

/// Whether a turn happens or is played again.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    /// It happens.
    Live,
    /// It is played again from its segment, up to where `until` would be opened.
    Replay { segment: &'a Segment, at: usize, until: Option<&'a str> },
}

/// Why a turn stops before its end.
#[derive(Debug)]
pub(super) enum End {
    /// For the caller.
    Halt(Halt),
    /// What is played again does not fit its segment.
    Diverged(&'static str),
    /// The key was reached.
    Reached,
}

/// Why a statement does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed.
    Fault(Fault),
    /// The turn ends.
    End(End),
}

impl From<End> for Stop {
    fn from(end: End) -> Stop {
        Stop::End(end)
    }
}

pub(super) type Res<T> = Result<T, Stop>;

/// Fuel of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    /// What is left of what the caller gave.
    pub(super) fuel: Fuel,
    /// Whether it gave so much that no evaluation has less than its full allowance.
    whole: bool,
    /// Steps used.
    pub(super) used: u64,
    /// Bytes used.
    bytes: u64,
    /// Bytes of values that go into the journal, or beside it.
    pub(super) written: u64,
    /// Steps from which on no further statement begins.
    enough: u64,
}

impl Meter {
    fn new(fuel: Fuel) -> Meter {
        let enough = fuel.steps.min(SLICE_STEPS) / 2;
        Meter {
            fuel,
            whole: fuel.steps >= EVAL_STEPS && fuel.bytes >= EVAL_BYTES,
            used: 0,
            bytes: 0,
            written: 0,
            enough,
        }
    }

    /// What one evaluation may use, and whether that is all that any may.
    pub(super) fn allowance(&self) -> (Fuel, bool) {
        let most = Fuel { steps: EVAL_STEPS, bytes: EVAL_BYTES };
        if self.whole {
            (most, true)
        } else {
            (self.fuel, self.fuel.steps >= EVAL_STEPS && self.fuel.bytes >= EVAL_BYTES)
        }
    }

    pub(super) fn charge(&mut self, steps: u64, bytes: u64) {
        self.used += steps;
        self.bytes += bytes;
        self.fuel.steps = self.fuel.steps.saturating_sub(steps);
        self.fuel.bytes = self.fuel.bytes.saturating_sub(bytes);
    }

    /// Work of this turn: what is written counts, too, so that a loop that makes large values ends before they fill a disk.
    pub(super) fn work(&self) -> u64 {
        self.used + self.written / WRITTEN_PER_WORK
    }

    fn low(&self) -> bool {
        self.used >= self.enough || self.bytes >= SLICE_BYTES / 2
    }
}

pub(super) struct Machine<'a> {
    pub(super) head: Head,
    pub(super) def: &'a dyn Definition,
    pub(super) plan: &'a Plan,
    pub(super) blobs: &'a dyn Blobs,
    pub(super) now: u64,
    pub(super) bounds: Bounds,
    pub(super) mode: Mode<'a>,
    pub(super) meter: Meter,
    pub(super) before: Phase,
    pub(super) tape: Vec<Taped>,
    pub(super) values: Vec<Data>,
    pub(super) facts: Vec<Fact>,
    /// Blobs to be stored before the commit: not among the acts that are counted, for none of them may come later.
    pub(super) blobs_made: Vec<Act>,
    /// What is in them: a turn may need again what it has just put aside.
    pub(super) made: BTreeMap<BlobHash, Arc<Json>>,
    pub(super) acts: Vec<Act>,
    pub(super) ready: VecDeque<u32>,
    pub(super) begun: u32,
    pub(super) more: bool,
    /// What this turn armed, each with the number that the next entry had. Only when it is played again.
    pub(super) armed: super::rollback::Armed,
    /// What the run carries with what its program asked for in this turn; `None` = it was not counted yet.
    pub(super) carried: Option<usize>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(head: Head, env: &Env<'a>, fuel: Fuel, mode: Mode<'a>) -> Machine<'a> {
        Machine {
            before: head.phase,
            head,
            def: env.definition,
            plan: env.definition.plan(),
            blobs: env.blobs,
            now: env.now_ms,
            bounds: env.bounds,
            mode,
            meter: Meter::new(fuel),
            tape: Vec::new(),
            values: Vec::new(),
            facts: Vec::new(),
            blobs_made: Vec::new(),
            made: BTreeMap::new(),
            acts: Vec::new(),
            ready: VecDeque::new(),
            begun: 0,
            more: false,
            armed: Vec::new(),
            carried: None,
        }
    }

    /// Asks the shell for something; what does not fit into the turn goes into the next.
    pub(super) fn act(&mut self, act: Act) {
        if self.acts.len() < ACTS_PER_TURN && self.head.owed.is_empty() {
            self.acts.push(act);
        } else {
            self.head.owed.push(act);
        }
    }

    /// Acts that a statement may still ask for.
    pub(super) fn acts_left(&self) -> usize {
        if self.head.owed.is_empty() { ACTS_PER_TURN.saturating_sub(self.acts.len() + ACTS_PER_STATEMENT) } else { 0 }
    }

    /// Whether a line is about to begin something new, before which a turn may stop.
    pub(super) fn begins(&self, line: u32) -> bool {
        matches!(self.head.line(line).map(|line| &line.next), Some(Next::Begin { .. } | Next::Listen | Next::Refill))
    }

    /// Whether nothing further begins in this turn. The same when it is played again.
    pub(super) fn full(&self) -> bool {
        match self.mode {
            Mode::Replay { segment, .. } => segment.more && self.begun >= segment.begun,
            Mode::Live => {
                let low = self.begun >= STATEMENTS_PER_TURN || self.acts_left() == 0 || self.meter.low();
                self.begun > 0 && low
            }
        }
    }

    /// Charges for a statement; false = the run has used up its work.
    pub(super) fn count(&mut self) -> bool {
        let over = match &mut self.mode {
            Mode::Replay { segment, at, .. } => {
                let over = segment.tape.get(*at) == Some(&Taped::Work);
                *at += usize::from(over);
                over
            }
            Mode::Live => {
                self.meter.charge(STATEMENT_WORK, 0);
                self.head.work + self.meter.work() > RUN_WORK
            }
        };
        if over {
            self.tape.push(Taped::Work);
        }
        !over
    }

    /// Charges for work that no expression does; ends the turn where the loop of a partition has not the time for it.
    pub(super) fn afford(&mut self, steps: u64) -> Res<()> {
        if matches!(self.mode, Mode::Replay { .. }) {
            return Ok(());
        }
        if !self.meter.whole && self.meter.fuel.steps < steps {
            return Err(End::Halt(Halt::OutOfFuel).into());
        }
        self.meter.charge(steps, 0);
        Ok(())
    }

    /// Revision of the engine that takes, or took, this turn.
    pub(super) fn revision(&self) -> u16 {
        match self.mode {
            Mode::Live => REVISION,
            Mode::Replay { segment, .. } => segment.revision,
        }
    }

    /// A value of this turn.
    pub(super) fn value(&mut self, data: &Data) -> ValueId {
        let from = self.values.len().saturating_sub(8);
        if let Some(at) = self.values[from..].iter().rposition(|known| known.same(data)) {
            return ValueId((from + at) as u32);
        }
        self.meter.written += data.stored() as u64;
        self.values.push(data.clone());
        ValueId((self.values.len() - 1) as u32)
    }

    pub(super) fn fault_value(&mut self, fault: &Fault) -> ValueId {
        let data = fault.data();
        self.value(&data)
    }

    /// Something has an undo from now on: a reset has to know of all of them.
    pub(super) fn note_armed(&mut self, undo: &super::undo::Undo) {
        if matches!(self.mode, Mode::Replay { .. }) {
            self.armed.push((self.head.next_seq, undo.clone()));
        }
    }

    /// A number for an entry.
    pub(super) fn next_seq(&mut self) -> Seq {
        let seq = self.head.next_seq;
        self.head.next_seq += 1;
        seq
    }

    /// Remembers what stands outside for an entry.
    pub(super) fn open(&mut self, entry: Seq, line: u32, owner: Seq, what: Outside) {
        let at = self.head.open.partition_point(|open| open.0 < entry);
        self.head.open.insert(at, (entry, Open { line, owner, what }));
    }

    /// Sets a timer for a statement and gives its entry.
    pub(super) fn open_timer(&mut self, line: u32, owner: Seq, what: Outside, ms: u64) -> u64 {
        let entry = if what == Outside::Wait { owner } else { self.next_seq() };
        let due = self.now.saturating_add(ms);
        self.open(entry, line, owner, what);
        self.act(Act::OpenTimer { entry, due });
        due
    }

    /// Closes what stands outside for a statement, all of it or one kind.
    pub(super) fn close(&mut self, owner: Seq, only: Option<Outside>) {
        let mut at = 0;
        while at < self.head.open.len() {
            let (entry, open) = self.head.open[at];
            if open.owner == owner && only.is_none_or(|only| only == open.what) {
                self.head.open.remove(at);
                self.cancel(entry, open.what);
            } else {
                at += 1;
            }
        }
    }

    /// Closes everything but what undoes.
    pub(super) fn close_all(&mut self) {
        for (entry, open) in std::mem::take(&mut self.head.open) {
            if self.owned_by_undo(entry) {
                self.head.open.push((entry, open));
            } else {
                self.cancel(entry, open.what);
            }
        }
    }

    fn cancel(&mut self, entry: Seq, what: Outside) {
        match what {
            Outside::Task | Outside::Undo => self.act(Act::CancelTask { entry }),
            Outside::Child(ParentClose::Cancel) => self.act(Act::CancelChild { entry }),
            Outside::Child(close) => self.head.children.push((entry, close)),
            Outside::Items => self.act(Act::CancelItems { entry }),
            Outside::Events => self.act(Act::Unsubscribe { entry }),
            Outside::Wait | Outside::Timeout | Outside::AttemptLimit | Outside::Backoff | Outside::UndoPause => {
                self.act(Act::CancelTimer { entry });
            }
        }
    }

    /// Removes what stood outside for an entry because it came to its end.
    pub(super) fn settle(&mut self, entry: Seq) -> Option<Open> {
        let at = self.head.open.binary_search_by_key(&entry, |open| open.0).ok()?;
        Some(self.head.open.remove(at).1)
    }

    pub(super) fn done(&mut self, entry: Seq, how: Ending) {
        self.facts.push(Fact::Done { entry, how });
    }

    pub(super) fn line_mut(&mut self, id: u32) -> Option<&mut Line> {
        let at = self.head.lines.binary_search_by_key(&id, |line| line.id).ok()?;
        Some(Arc::make_mut(&mut self.head.lines[at]))
    }

    pub(super) fn frame_mut(&mut self, line: u32) -> Option<&mut Frame> {
        self.line_mut(line)?.frames.last_mut()
    }

    pub(super) fn frame(&self, line: u32) -> Option<&Frame> {
        self.head.line(line)?.frames.last()
    }

    pub(super) fn set_next(&mut self, id: u32, next: Next) {
        let ready = next.ready();
        if let Some(line) = self.line_mut(id) {
            line.next = next;
            if ready {
                self.ready.push_back(id);
            }
        }
    }

    /// The statement of a frame; `None` = the run itself, or one that a newer compiler does not find.
    pub(super) fn node(&self, frame: &Frame) -> Option<&'a Node> {
        if matches!(frame.step, Step::Root) {
            return None;
        }
        frame.place.find(self.plan).map(|id| self.plan.node(id))
    }

    /// An error of the statement at hand.
    pub(super) fn fault(&self, line: u32, standard: Standard, detail: &str) -> Stop {
        let instance = self.frame(line).map_or("", |frame| &frame.place.reference);
        Stop::Fault(Fault::new(standard, self.plan.profile, detail, instance))
    }

    /// A task or child run ended.
    pub(super) fn outside_done(&mut self, entry: Seq, outcome: &Outcome) -> Result<(), End> {
        if self.head.opened(entry).is_none() {
            self.head.children.retain(|child| child.0 != entry);
            self.may_end();
            return Ok(());
        }
        let Some(open) = self.settle(entry) else { return Ok(()) };
        if open.what == Outside::Undo {
            self.undone(entry, outcome);
            return Ok(());
        }
        if open.owner != entry && matches!(self.frame(open.line).map(|frame| &frame.step), Some(Step::Saga(_))) {
            return self.saga_step_ended(open.line, entry, outcome);
        }
        self.body_ended(open.line, outcome)
    }

    /// The body of the statement at hand ended outside.
    pub(super) fn body_ended(&mut self, line: u32, outcome: &Outcome) -> Result<(), End> {
        let result = match outcome {
            Outcome::Ok(output) => self.finish_body(line, output.clone(), None),
            Outcome::Err(fault) => {
                let instance = self.frame(line).map_or("", |frame| &frame.place.reference);
                Err(Stop::Fault(Fault::complete(&fault.0, self.plan.profile, instance)))
            }
            Outcome::Cancelled => {
                Err(self.fault(line, Standard::Runtime, "what the statement waits for was cancelled"))
            }
        };
        self.guard(line, result)
    }

    /// Lets a line fail if its statement did.
    pub(super) fn guard(&mut self, line: u32, result: Res<()>) -> Result<(), End> {
        match result {
            Ok(()) => Ok(()),
            Err(Stop::End(end)) => Err(end),
            Err(Stop::Fault(fault)) => self.fail(line, fault),
        }
    }
}
