//! Durable Python: a program that is replayed, driven by activations.
//!
//! An activation is a task like any other. It gets what has happened so far, replays the program on it, lets it go on until it
//! waits, and returns what it wants as commands ([`super::command`]). Each command becomes a line of its own, as the branches of a fork do, whose only
//! statement is one of the plan's: so that timeouts, maps, events, children, cancellation and resets are those of all runs. When
//! what the program waits for has ended, the next activation is opened. Nothing is held while it waits.
//!
//! The history that an activation gets is in *turns*: what had ended when the activation began, and what the program asked
//! for then. A replay goes through the same turns in the same order, so that nothing in it depends on time or on who was faster.
//!
//! A history has no bound; what a run carries of it has one (`page`).

use std::sync::Arc;

use super::act::{Act, OpenTask, Outcome, TaskHints};
use super::data::Data;
use super::eval::Json;
use super::fault::{Fault, Standard};
use super::head::{Frame, Head, Line, Next, Outside, Place, Step};
use super::history::{self, CodeTurn, Told};
use super::journal::{Ending, EntryKind};
use super::machine::{End, Machine, Res, Stop};
use super::plan::{Kind, Node, Program, Target};
use crate::id::Name;
use crate::limit::{CODE_BYTES_BEFORE, CODE_OPEN, CODE_OPEN_BEFORE, CODE_TAIL};
use crate::planted::Bug;

/// How long a program that is being cancelled may go on without coming to a wait.
const CANCEL_STALL_MS: u64 = 10_000;
/// How long one activation of it may take in all, with the steps in it. Then its process is killed.
const CANCEL_RUN_MS: u64 = 60_000;
/// Reference of the statement of an activation.
pub(super) const ACTIVATION: &str = "@activation";
/// Bytes of what is kept of what failed, so that a retry can do it again.
const FAILED_BYTES: usize = 128 * 1024;

/// State of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeState {
    /// Input of this generation: that of the run, or of the last continue-as-new.
    pub input: Data,
    /// How often it continued as new.
    pub generation: u32,
    /// Tells histories apart that have the same turns in part: the turn of the run in which it was last taken back.
    pub epoch: u64,
    /// Number of the newest activation; 0 = none yet.
    pub activation: u64,
    /// The line of the activation at work.
    pub active: Option<u32>,
    /// The page with the turns before these, which names the one before it; `None` = there are none.
    pub before: Option<Data>,
    /// The newest turns of this generation that are over, and behind them the one of the activation at work.
    pub turns: Vec<Arc<CodeTurn>>,
    /// Bytes of values and keys of these turns and of the news, about.
    pub bytes: usize,
    /// What ended since the newest activation began, in order.
    pub news: Vec<Told>,
    /// What is open: its line, and its key as the program gave it.
    pub open: Vec<(u32, Name)>,
    /// What the program waits for: each of these is enough.
    pub waits: Vec<Await>,
    /// Why it is being cancelled.
    pub cancel: Option<Name>,
    /// Whether the program was told.
    pub cancel_told: bool,
    /// What it says of itself.
    pub state: Option<Data>,
    /// Keys of what failed, of which it may not have heard yet, with what was asked: a retry of the run does that again.
    pub failed: Vec<(Name, Name, Data)>,
    /// Which of them made it fail.
    pub blame: Option<Name>,
    /// Compensations that were armed.
    pub armed: u32,
    /// How a replay differed from the history, while the run holds because of it.
    pub mismatch: Option<Data>,
    /// The last activation up to which differences between code and history were accepted: replays compare no further back.
    pub accepted: u64,
}

/// Bounds on programs that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// See [`CODE_TAIL`].
    pub tail: usize,
    /// See [`CODE_OPEN`].
    pub open: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { tail: CODE_TAIL, open: CODE_OPEN }
    }
}

/// Something that a program waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct Await {
    /// One of the keys is enough; else it is all of them.
    pub any: bool,
    /// Keys that are still open, sorted.
    pub keys: Vec<Name>,
}

impl CodeState {
    pub(super) fn new(input: Data, epoch: u64, generation: u32) -> CodeState {
        CodeState {
            input,
            generation,
            epoch,
            activation: 0,
            active: None,
            before: None,
            turns: Vec::new(),
            bytes: 0,
            news: Vec::new(),
            open: Vec::new(),
            waits: Vec::new(),
            cancel: None,
            cancel_told: false,
            state: None,
            failed: Vec::new(),
            blame: None,
            armed: 0,
            mismatch: None,
            accepted: 0,
        }
    }

    /// Bytes of values, about.
    pub(super) fn stored(&self) -> usize {
        let failed: usize = self.failed.iter().map(|failed| failed.2.stored()).sum();
        self.input.stored() + self.bytes + failed + self.state.as_ref().map_or(0, Data::stored)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Data> {
        // Not a closure: one that returns a reference cannot say for how long.
        fn of(told: &Told) -> Option<&Data> {
            match &told.how {
                Outcome::Ok(data) => Some(data),
                _ => None,
            }
        }
        let turns = self.turns.iter().flat_map(|turn| turn.done.iter().filter_map(of));
        let failed = self.failed.iter().map(|failed| &failed.2);
        std::iter::once(&self.input)
            .chain(turns)
            .chain(self.news.iter().filter_map(of))
            .chain(failed)
            .chain(&self.before)
            .chain(&self.state)
            .chain(&self.mismatch)
    }

    /// The lines of what is open, that of the activation too.
    pub(super) fn lines(&self) -> Vec<u32> {
        self.open.iter().map(|open| open.0).chain(self.active).collect()
    }

    /// Notes that a key has ended, and says whether the program can go on because of it.
    pub(super) fn heard(&mut self, key: &Name) -> bool {
        let mut goes_on = false;
        for wait in &mut self.waits {
            if let Ok(at) = wait.keys.binary_search(key) {
                wait.keys.remove(at);
                goes_on |= wait.any || wait.keys.is_empty();
            }
        }
        goes_on
    }

    /// Whether something that failed, and got this, is kept to be done again: a few, which take little room.
    fn keeps_failed(&self, raw: &Data, revision: u16) -> bool {
        let bytes = || raw.stored() + self.failed.iter().map(|failed| failed.2.stored()).sum::<usize>();
        self.failed.len() < 16 && (revision < 6 || bytes() <= FAILED_BYTES)
    }

    /// What is to be told with the next activation.
    pub(super) fn tell(&mut self, key: Name, how: Outcome, at_ms: u64) {
        let told = Told { key, how, at_ms };
        self.bytes += told.bytes();
        self.news.push(told);
    }

    /// Takes the newest turn back, as if its activation had not begun. `epoch` is a new one: another turn will have its number, and a
    /// process that has the program parked may have seen the old one.
    pub(super) fn take_back(&mut self, epoch: u64) {
        if let Some(turn) = self.turns.pop() {
            self.activation -= 1;
            self.accepted = self.accepted.min(self.activation);
            self.epoch = epoch;
            let mut done = turn.done.clone();
            done.append(&mut self.news);
            self.news = done;
            if turn.cancel.is_some() {
                self.cancel_told = false;
            }
        }
    }
}

/// The statement that a reference of a program's line stands for: `@task` of `@task:fetch`. What is not one is itself.
pub(super) fn statement_of(reference: &str) -> &str {
    match reference.strip_prefix('@').and_then(|rest| rest.find(':')) {
        Some(at) => &reference[..=at],
        None => reference,
    }
}

/// The name that a reference of a program's line has in keys: `fetch` of `@task:fetch`. What is not one is itself.
pub(super) fn name_of(reference: &Name) -> Name {
    match reference.strip_prefix('@').map(|rest| rest.split_once(':')) {
        Some(Some((_, name))) => name.into(),
        Some(None) => "".into(),
        None => reference.clone(),
    }
}

/// The kind of entry of a program's line, where it is not that of its statement.
pub(super) fn kind_of(reference: &str) -> Option<EntryKind> {
    match statement_of(reference) {
        "@signal" => Some(EntryKind::Signal),
        "@promise" => Some(EntryKind::Promise),
        _ => None,
    }
}

impl Machine<'_> {
    pub(super) fn begin_code(&mut self, id: u32, input: Data) -> Res<()> {
        // As of every other epoch: two in a row have to differ, whether or not the second one begins the program anew.
        let epoch = self.head.turns + 1;
        if let Some(frame) = self.frame_mut(id) {
            frame.step = Step::Code(Box::new(CodeState::new(input, epoch, 0)));
        }
        self.activate(id);
        Ok(())
    }

    pub(super) fn code(&self, id: u32) -> Option<&CodeState> {
        match self.frame(id).map(|frame| &frame.step) {
            Some(Step::Code(state)) => Some(state),
            _ => None,
        }
    }

    pub(super) fn code_mut(&mut self, id: u32) -> Option<&mut CodeState> {
        match self.frame_mut(id).map(|frame| &mut frame.step) {
            Some(Step::Code(state)) => Some(state),
            _ => None,
        }
    }

    /// The line of the program, if this run is one and has begun.
    pub(super) fn code_line(&self) -> Option<u32> {
        self.head.lines.iter().find(|line| matches!(top(line), Some(Step::Code(_)))).map(|line| line.id)
    }

    /// Begins the next activation, unless one is at work.
    pub(super) fn activate(&mut self, id: u32) {
        let now_ms = self.now;
        let (planted, revision) = (self.def.planted(), self.revision());
        if self.code(id).is_none_or(|state| state.active.is_some()) {
            return;
        }
        self.turn_page(id);
        let Some(state) = self.code_mut(id) else { return };
        state.activation += 1;
        state.waits.clear();
        state.mismatch = None;
        let cancel = if state.cancel_told { None } else { state.cancel.clone() };
        state.cancel_told |= cancel.is_some();
        let mut done = std::mem::take(&mut state.news);
        if revision >= 5 {
            state.news = done.split_off(super::page::at_once(&done));
        }
        if planted.has(Bug::NewsTwice) {
            let before = state.turns.last().and_then(|turn| turn.done.first());
            done.extend(before.cloned());
        }
        state.bytes += 24;
        state.turns.push(Arc::new(CodeTurn { no: state.activation, now_ms, done, opened: Vec::new(), cancel }));
        let (n, generation) = (state.activation, state.generation);
        let line = self.code_branch(id, ACTIVATION.into(), Data::null(), (n as u32, scope_of(generation)));
        if let Some(state) = self.code_mut(id) {
            state.active = Some(line);
        }
    }

    /// A line for something that the program asked for.
    pub(super) fn code_branch(&mut self, id: u32, reference: Name, raw: Data, (n, scope): (u32, Name)) -> u32 {
        let number = self.head.next_line;
        self.head.next_line += 1;
        let next = Next::Begin { place: Place::new(reference), raw, n, scope };
        let (parent, context) = (Some((id, number)), Data::null());
        let line = Line { id: number, parent, context, exported: false, frames: Vec::new(), next };
        self.head.lines.push(Arc::new(line));
        self.ready.push_back(number);
        number
    }

    /// The body of an activation: its task. What it gets is derived from the state, so that no journal holds it once more.
    pub(super) fn begin_activation(&mut self, id: u32, node: &Node) -> Res<()> {
        let Some((parent, _)) = self.head.line(id).and_then(|line| line.parent) else { return Ok(()) };
        let Some(Kind::Code(program)) = self.frame(parent).and_then(|frame| self.node(frame)).map(|node| &node.kind)
        else {
            return Ok(());
        };
        let args = self.activation_args(parent, program);
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let (entry, key) = (frame.seq, self.key(id, node));
        let hints = TaskHints { queue: program.queue.clone(), priority: program.priority, ..TaskHints::default() };
        let (target, items, awaited) = (Target::Python, None, true);
        let task = OpenTask { entry, key, target, args, sealed: false, items, awaited, deadline_ms: 0, hints };
        self.act(Act::OpenTask(Box::new(task)));
        self.open(entry, id, entry, Outside::Task);
        Ok(())
    }

    fn activation_args(&self, id: u32, program: &Program) -> Data {
        let Some(state) = self.code(id) else { return Data::null() };
        let mut activation = history::written(state, &self.head.identity, self.head.started_ms);
        if self.def.planted().has(Bug::ReorderedHistory)
            && let Some((_, before)) = activation["turns"].as_array_mut().and_then(|turns| turns.split_last_mut())
        {
            let done = before.iter_mut().filter_map(|turn| turn["done"].as_array_mut());
            done.for_each(|done| done.reverse());
        }
        let cancelling = self.code(id).is_some_and(|state| state.cancel.is_some());
        if cancelling {
            activation["stall_ms"] = CANCEL_STALL_MS.into();
        }
        // Never a reference: the task has it as its input, and nobody else needs it.
        let mut call = serde_json::json!({
            "package": &*program.package,
            "version": &*program.version,
            "entrypoint": &*program.function,
            "activation": format!("run_{}", self.head.identity.run),
            "args": activation,
            // Agents that die, and code that cannot be loaded for a while. What the program itself raises is a result.
            "retry": {"max_attempts": 12, "delay_ms": 500, "factor": 2.0, "max_delay_ms": 60_000, "jitter_ms": 500},
        });
        if cancelling {
            // One that does not come to a wait is not tried again; an agent that was lost is another matter.
            call["timeouts"] = serde_json::json!({"run_ms": CANCEL_RUN_MS});
            call["retry"]["not_on"] = serde_json::json!(["WorkflowStuck", "timeout"]);
        }
        Data::small(call)
    }

    /// Something that the program asked for has ended, or its activation has. `asked`: the statement and what it got, where it
    /// may be done again.
    pub(super) fn code_ended(
        &mut self,
        line: u32,
        id: u32,
        how: Outcome,
        asked: Option<(Name, Data)>,
    ) -> Result<(), End> {
        self.remove_line(line);
        let (now, planted) = (self.now, self.def.planted());
        let Some(state) = self.code_mut(id) else { return Ok(()) };
        if state.active == Some(line) {
            state.active = None;
            let result = self.activation_ended(id, how);
            return self.guard(id, result);
        }
        let Ok(at) = state.open.binary_search_by_key(&line, |open| open.0) else { return Ok(()) };
        let (_, key) = state.open.remove(at);
        let how = match how {
            Outcome::Err(fault) => Outcome::Err(placed(fault, &key)),
            other => self.told(id, other),
        };
        let revision = self.revision();
        let Some(state) = self.code_mut(id) else { return Ok(()) };
        if let (Outcome::Err(_), Some((reference, raw))) = (&how, asked)
            && state.keeps_failed(&raw, revision)
        {
            state.failed.push((key.clone(), reference, raw));
        }
        state.tell(key.clone(), how, now);
        let hasty = planted.has(Bug::HastyWait) && state.waits.iter().any(|wait| wait.keys.contains(&key));
        let heard = (state.heard(&key) || hasty) && !planted.has(Bug::DeafProgram);
        let goes_on = heard && state.active.is_none();
        if goes_on {
            self.activate(id);
        }
        Ok(())
    }

    fn activation_ended(&mut self, id: u32, how: Outcome) -> Res<()> {
        match how {
            Outcome::Ok(result) => {
                let result = self.json(&result)?;
                self.take_result(id, &result)
            }
            // It was told to come to its end and did not, or could not be run: what can be undone is.
            Outcome::Err(_) | Outcome::Cancelled
                if self.revision() >= 4 && self.code(id).is_some_and(|state| state.cancel.is_some()) =>
            {
                self.code_cancelled();
                Ok(())
            }
            // The code could not be run: its package is not there, the process died again and again.
            Outcome::Err(fault) => {
                // Its turn is taken back by the retry, as that of every activation that ends the run with an error.
                let instance = self.frame(id).map_or("", |frame| &frame.place.reference);
                Err(Stop::Fault(Fault::complete(&fault.0, self.plan.profile, instance)))
            }
            Outcome::Cancelled => Err(self.fault(id, Standard::Runtime, "the activation of the program was cancelled")),
        }
    }

    /// Ends all that the program has open, that of its activation too.
    pub(super) fn close_code(&mut self, id: u32, tell: bool) {
        let Some(lines) = self.code(id).map(CodeState::lines) else { return };
        let active = self.code(id).and_then(|state| state.active);
        for line in lines {
            self.unwind(line, 0, None);
            self.remove_line(line);
        }
        let (now, epoch, planted) = (self.now, self.head.turns + 1, self.def.planted());
        let Some(state) = self.code_mut(id) else { return };
        let open = std::mem::take(&mut state.open);
        state.active = None;
        if active.is_some() {
            state.take_back(epoch);
            if planted.has(Bug::LostNews) {
                state.news.clear();
            }
        }
        if tell {
            open.into_iter().for_each(|(_, key)| state.tell(key, Outcome::Cancelled, now));
        }
    }

    /// The run is to be cancelled: the program hears of it first, once. False = it is for others to end the run.
    pub(super) fn cancel_code(&mut self, reason: &Name) -> bool {
        let Some(id) = self.code_line() else { return false };
        if self.head.closing.is_some()
            || self.code(id).is_none_or(|state| state.cancel.is_some() || state.activation == 0)
        {
            return false;
        }
        self.close_code(id, true);
        if let Some(state) = self.code_mut(id) {
            state.cancel = Some(reason.clone());
        }
        self.head.reason = Some(reason.clone());
        self.activate(id);
        true
    }

    /// A program whose run faulted goes on: what made it fail is done again, and what it has heard of it is taken back.
    pub(super) fn code_again(&mut self, id: u32) -> Res<()> {
        let (epoch, revision) = (self.head.turns + 1, self.revision());
        let Some(state) = self.code_mut(id) else { return Ok(()) };
        state.epoch = epoch;
        if state.armed > 0 {
            // All of it was undone: it begins again, with nothing open of what it was.
            if revision >= 5 {
                self.close_code(id, false);
            }
            let Some(state) = self.code_mut(id) else { return Ok(()) };
            *state = CodeState::new(state.input.clone(), epoch, state.generation + 1);
            self.activate(id);
            return Ok(());
        }
        let blamed = state.blame.take();
        let told = |state: &CodeState, key: &Name| {
            state.turns.last().is_some_and(|turn| turn.done.iter().any(|told| told.key == *key))
        };
        let failed = blamed.and_then(|key| {
            let at = state.failed.iter().position(|failed| failed.0 == key)?;
            told(state, &key).then(|| state.failed.remove(at))
        });
        state.take_back(epoch);
        match failed {
            Some((key, reference, raw)) => {
                state.news.retain(|told| told.key != key);
                state.waits = vec![Await { any: true, keys: vec![key.clone()] }];
                self.open_again(id, key, reference, raw);
            }
            None => self.activate(id),
        }
        Ok(())
    }

    fn open_again(&mut self, id: u32, key: Name, reference: Name, raw: Data) {
        let turn = self.head.turns + 1;
        let (scope, n) = match super::command::read_key(&key) {
            Some(read) => (format!("{}~{turn}", read.scope), read.n),
            None => (format!("~{turn}"), 0),
        };
        let line = self.code_branch(id, reference, raw, (n, scope.into()));
        if let Some(state) = self.code_mut(id) {
            state.open.push((line, key));
        }
    }

    /// Whether the program may ask for more.
    pub(super) fn code_room(&mut self, id: u32, more: usize) -> Res<()> {
        let Some(state) = self.code(id) else { return Ok(()) };
        let (open, bytes) = (state.open.len() + more, state.bytes);
        if self.revision() < 5 {
            return self.code_room_before(id, open, bytes);
        }
        // Whether is on the tape, for the bound may be another one by the time of a fold. So the text does not name it.
        if !self.taped_full(open > self.bounds.open) {
            return Ok(());
        }
        let text = format!(
            "the program has {open} things open at once, more than it may: use wf.map, wait for some before asking for more, or call \
             wf.continue_as_new"
        );
        Err(self.fault(id, Standard::Runtime, &text))
    }

    fn code_room_before(&self, id: u32, open: usize, bytes: usize) -> Res<()> {
        if open > CODE_OPEN_BEFORE {
            let text = format!(
                "the program has more than {CODE_OPEN_BEFORE} things open at once: use wf.map, or wait for some before asking for more"
            );
            return Err(self.fault(id, Standard::Runtime, &text));
        }
        if bytes > CODE_BYTES_BEFORE {
            let text = "the history of the program is larger than a run carries: call wf.continue_as_new from time to time, or \
                        keep large values elsewhere";
            return Err(self.fault(id, Standard::Runtime, text));
        }
        Ok(())
    }

    /// What a result of an activation asks of the run, done on the way out.
    pub(super) fn code_done(&mut self, id: u32, output: Json) -> Res<()> {
        self.close_code(id, false);
        let output = self.keep(output);
        self.finish_body(id, output, None)
    }

    /// The program ended because it was cancelled.
    pub(super) fn code_cancelled(&mut self) {
        self.unwind_all();
        self.end_run(super::head::Phase::Cancelled, Outcome::Cancelled);
    }

    /// An entry that is done in the moment in which it is asked for.
    pub(super) fn instant(&mut self, id: u32, key: super::journal::Key, how: Outcome) -> Result<(), End> {
        let entry = self.opened(id, key)?;
        let ending = match &how {
            Outcome::Ok(data) => Ending::Ok(self.value(data)),
            Outcome::Err(fault) => Ending::Err(self.fault_value(fault)),
            Outcome::Cancelled => Ending::Cancelled,
        };
        self.done(entry, ending);
        Ok(())
    }
}

/// An error that says by its key where in a program it happened.
fn placed(fault: Fault, key: &str) -> Fault {
    let Json::Object(mut error) = (*fault.0).clone() else { return fault };
    if error.get("instance").and_then(Json::as_str).is_none_or(|instance| instance.starts_with('@')) {
        error.insert("instance".into(), key.into());
    }
    Fault(Arc::new(Json::Object(error)))
}

/// The scope of the keys of a generation.
pub(super) fn scope_of(generation: u32) -> Name {
    if generation == 0 { "".into() } else { format!("g{generation}").into() }
}

/// The program of a run, while it has not ended.
pub fn of(head: &Head) -> Option<&CodeState> {
    head.lines.iter().find_map(|line| match top(line) {
        Some(Step::Code(state)) => Some(&**state),
        _ => None,
    })
}

fn top(line: &Line) -> Option<&Step> {
    line.frames.last().map(|frame: &Frame| &frame.step)
}
