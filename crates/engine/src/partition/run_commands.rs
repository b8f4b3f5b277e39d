//! What people and programs do to runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::runs::{RunEntry, Stage};
use super::{Partition, Purpose};
use crate::command::{Command, MoveRun, RunAction, StartRun};
use crate::effect::{Refusal, Reply};
use crate::id::{Name, RequestId, RunId, TaskId, TenantId};
use crate::limit;
use crate::load::{Load, StoredRun};
use crate::mutation::Mutation;
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::code;
use crate::run::data::{BlobHash, Data};
use crate::run::eval::{Definition, Fuel, Json};
use crate::run::fold::{Change, FoldError, Journal};
use crate::run::head::{Head, Identity, Phase};
use crate::run::journal::Segment;
use crate::run::moves::{CodePlace, fits};
use crate::time::Now;
use crate::view::View;

impl Partition {
    pub(super) fn start_run(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        start: StartRun,
        known: &super::submit::Known,
        now: Now,
    ) {
        if let Some((hash, body)) = start.claim
            && let Some((earlier, earlier_body)) = self.earlier((tenant, hash), known)
        {
            if earlier_body != body {
                return self.refuse(request, Refusal::IdempotencyMismatch { task: earlier });
            }
            let view = View::Run { tenant, run: RunId(earlier.0) };
            return self.execute(Command::Read { request, view }, Vec::new(), now, None);
        }
        if !self.tenants.contains_key(&tenant) {
            return self.refuse(request, Refusal::NotFound);
        }
        if self.runs_are_full() {
            let what = "the memory for workflow runs at work".into();
            return self.refuse(request, Refusal::Overloaded { what, retry_after_ms: 1_000 });
        }
        let Some((plan, version)) = self.workflow(tenant, &start.namespace, &start.name, &start.version) else {
            return self.refuse(request, Refusal::NotFound);
        };
        if self.definition(tenant, &plan).is_none() {
            return self.refuse(request, Refusal::Conflict("the document of the workflow cannot be read".into()));
        }
        let run = self.new_run_id(start.claim.as_ref().map(|(hash, _)| hash), now);
        if let Some((hash, body)) = start.claim
            && !self.options.planted.has(Bug::ForgottenClaim)
        {
            self.remember_key((tenant, hash), TaskId(run.0), body, now);
        }
        let identity = Arc::new(Identity {
            run,
            plan,
            namespace: start.namespace,
            name: start.name,
            version,
            parent: None,
            correlation: start.correlation,
            depth: 0,
        });
        self.keep_value(tenant, run, &start.input);
        self.begin_run(tenant, identity, start.input, now);
        self.reply_run(request, run);
    }

    /// A run that another one started. Its first turn comes with its turn in line.
    pub(super) fn adopt_child(&mut self, tenant: TenantId, identity: Arc<Identity>, input: Data) {
        let run = identity.run;
        let head = Head::new(identity.clone());
        self.runs.held.insert(run, RunEntry::new(tenant, Stage::Ready(head), self.index));
        self.save_run(run);
        self.queue_event(tenant, run, Event::Start { identity, input });
    }

    /// A large value that came from outside is stored in the commit that names it.
    fn keep_value(&mut self, tenant: TenantId, run: RunId, data: &Data) {
        if let Data::Ref { hash, value: Some(value), .. } = data {
            let bytes = serde_json::to_vec(&**value).unwrap_or_default().into();
            self.mutations.push(Mutation::PutValue { tenant, run, hash: hash.0, bytes });
        }
    }

    pub(super) fn reply_run(&mut self, request: RequestId, run: RunId) {
        match self.runs.held.get(&run).and_then(RunEntry::head) {
            Some(head) => {
                let head = Box::new(head.clone());
                self.reply(request, Reply::Run(head));
            }
            None => self.refuse(request, Refusal::NotFound),
        }
    }

    /// Whether a run is in memory and the tenant's; otherwise the command waits for it, or is refused.
    fn run_at_hand(
        &mut self,
        request: RequestId,
        tenant: TenantId,
        run: RunId,
        command: impl FnOnce() -> Command,
    ) -> bool {
        if self.runs.held.get(&run).is_some_and(|entry| entry.tenant != tenant) {
            self.refuse(request, Refusal::NotFound);
            return false;
        }
        if !self.runs.held.contains_key(&run) {
            // First whether it is the tenant's at all: only what is its own is taken into memory.
            let number = self.park(command());
            self.ask(Load::Run { tenant, run, at_most: 0 }, Purpose::RunExists(number, tenant, run));
            return false;
        }
        !self.wait_for_run(run, command)
    }

    /// Whether the run that a command is for exists, and how many bytes are stored of it.
    pub(super) fn run_exists(&mut self, number: u64, tenant: TenantId, run: RunId, stored: Option<usize>, now: Now) {
        let Some(waiting) = self.waiting.remove(&number) else { return };
        if stored.is_some() {
            self.want_run(tenant, run, stored);
            return self.execute(waiting.command, Vec::new(), now, None);
        }
        if let Some(request) = super::request_of(&waiting.command) {
            self.refuse(request, Refusal::NotFound);
        }
    }

    pub(super) fn read_run(&mut self, request: RequestId, tenant: TenantId, run: RunId) {
        if self.runs.held.get(&run).is_some_and(|entry| entry.tenant == tenant && entry.head().is_some()) {
            return self.reply_run(request, run);
        }
        let again = || Command::Read { request, view: View::Run { tenant, run } };
        if self.run_at_hand(request, tenant, run, again) {
            self.reply_run(request, run);
        }
    }

    pub(super) fn act_on_run(&mut self, request: RequestId, tenant: TenantId, run: RunId, action: RunAction, now: Now) {
        let again = || Command::ActOnRun { request, tenant, run, action: action.clone() };
        if !self.run_at_hand(request, tenant, run, again) {
            return;
        }
        let Some(phase) = self.runs.held.get(&run).and_then(|entry| entry.head()).map(|head| head.phase) else {
            return;
        };
        if let Some(why) = conflict(&action, phase).or_else(|| self.nothing_to_accept(run, &action)) {
            return self.refuse(request, Refusal::Conflict(why.into()));
        }
        if let RunAction::Signal(_, _, data) | RunAction::Reset(_, Some(data)) | RunAction::Fork(_, Some(data)) =
            &action
        {
            self.keep_value(tenant, run, data);
        }
        let event = match action {
            RunAction::Cancel(reason) => Event::Cancel { reason },
            RunAction::Terminate(reason) => Event::Terminate { reason },
            RunAction::Suspend(reason) => Event::Suspend { reason },
            RunAction::Resume => Event::Resume,
            RunAction::Retry => Event::Retry,
            RunAction::Signal(id, kind, data) => Event::Signal { id, kind, data },
            RunAction::Accept(by) => Event::Accepted { by },
            RunAction::Move(to) => return self.move_run(request, (tenant, run), to, now),
            RunAction::Reset(..) | RunAction::Fork(..) => {
                let number = self.park(Command::ActOnRun { request, tenant, run, action });
                return self.ask(Load::History(tenant, run), Purpose::History(number));
            }
        };
        self.deliver(tenant, run, event, now);
        self.reply_run(request, run);
    }

    fn nothing_to_accept(&self, run: RunId, action: &RunAction) -> Option<String> {
        let head =
            self.runs.held.get(&run).and_then(RunEntry::head).filter(|_| matches!(action, RunAction::Accept(_)))?;
        let nothing = code::of(head).is_none_or(|state| state.mismatch.is_none());
        nothing
            .then(|| "the run does not hold because of a replay that differed; there is nothing to accept".to_owned())
    }

    /// Moves a run to another version of its workflow, if it fits.
    fn move_run(&mut self, request: RequestId, (tenant, run): (TenantId, RunId), to: MoveRun, now: Now) {
        let Some(head) = self.runs.held.get(&run).and_then(RunEntry::head).cloned() else { return };
        let own = head.identity.plan;
        if to.plan == own {
            return self.reply_run(request, run);
        }
        let (Some(new), Some(old)) = (self.definition(tenant, &to.plan), self.definition(tenant, &own)) else {
            let why = "the document of one of the versions cannot be read".into();
            return self.refuse(request, Refusal::Conflict(why));
        };
        let why = match to.at {
            _ if head.closing.is_some() => {
                Err("the run is about to end: what is to be undone is being undone".to_owned())
            }
            _ if self.options.planted.has(Bug::UncheckedMove) => Ok(()),
            Some(at) if CodePlace::of(&head) != Some(at) && !self.options.planted.has(Bug::StaleRehearsal) => {
                Err("the run went on while its history was replayed; move it again".to_owned())
            }
            _ => fits(&head, old.plan(), new.plan()),
        };
        if let Err(why) = &why {
            self.refuse(request, Refusal::Conflict(why.as_str().into()));
            if !self.options.planted.has(Bug::RefusedAndMoved) {
                return;
            }
        }
        let version = new.plan().version.clone();
        let identity = Arc::new(Identity { plan: to.plan, version, ..(*head.identity).clone() });
        self.deliver(tenant, run, Event::Moved { identity, by: to.by }, now);
        if why.is_ok() {
            self.reply_run(request, run);
        }
    }

    /// The whole history of a run has been read for a command that goes back in it.
    pub(super) fn history_loaded(&mut self, command: Command, stored: Option<Box<StoredRun>>, now: Now) {
        let segments = stored.map(|stored| stored.segments).unwrap_or_default();
        self.history_at_hand(
            Box::new(GoingBack { command, segments, earlier: Vec::new(), blobs: BTreeMap::new() }),
            now,
        );
    }

    /// Values that its journal names were read, too.
    pub(super) fn history_values(
        &mut self,
        mut back: Box<GoingBack>,
        hashes: Vec<BlobHash>,
        values: Vec<Option<(Arc<Json>, usize)>>,
        now: Now,
    ) {
        for (hash, value) in hashes.into_iter().zip(values) {
            let Some((value, _)) = value else {
                let why = format!("the value {hash}, which the journal of the run names, is gone");
                if let Some(request) = super::request_of(&back.command) {
                    self.refuse(request, Refusal::Conflict(why.into()));
                }
                return;
            };
            back.blobs.insert(hash, value);
        }
        self.history_at_hand(back, now);
    }

    fn history_at_hand(&mut self, back: Box<GoingBack>, now: Now) {
        let command = back.command.clone();
        let Command::ActOnRun { request, tenant, run, action } = command else { return };
        let (RunAction::Reset(key, input) | RunAction::Fork(key, input)) = action.clone() else { return };
        let again = || Command::ActOnRun { request, tenant, run, action: action.clone() };
        if !self.run_at_hand(request, tenant, run, again) {
            return;
        }
        let Some(head) = self.runs.held.get(&run).and_then(|entry| entry.head()).cloned() else { return };
        if back.segments.last().map(|segment| segment.turn) != Some(head.turns) {
            // It went on while its history was read.
            let number = self.park(Command::ActOnRun { request, tenant, run, action });
            return self.ask(Load::History(tenant, run), Purpose::History(number));
        }
        let forks = matches!(action, RunAction::Fork(..));
        let identity = forks.then(|| {
            let run = self.new_run_id(None, now);
            Arc::new(Identity { run, parent: None, ..(*head.identity).clone() })
        });
        self.go_back(back, (tenant, &head), &key, Change { input, identity }, now);
    }

    fn go_back(
        &mut self,
        back: Box<GoingBack>,
        (tenant, head): (TenantId, &Head),
        key: &Name,
        change: Change,
        now: Now,
    ) {
        let Some(request) = super::request_of(&back.command) else { return };
        let Some(definition) = self.definition(tenant, &head.identity.plan) else {
            return self.refuse(request, Refusal::Conflict("the document of the workflow cannot be read".into()));
        };
        let journal = Journal {
            from: None,
            segments: &back.segments,
            definition: &*definition,
            earlier: &back.earlier,
            blobs: &back.blobs,
        };
        let mut fuel = Fuel { steps: 4 * limit::EVAL_STEPS, bytes: 4 * limit::EVAL_BYTES };
        let (forked, again) = (change.identity.clone(), change.clone());
        let turn = match journal.reset(head, key, change, now.wall, &mut fuel) {
            Ok(turn) => turn,
            Err(FoldError::Blobs(hashes)) => {
                let wanted = hashes.iter().map(|hash| hash.0).collect();
                return self.ask(Load::Values(tenant, wanted), Purpose::HistoryValues(back, hashes));
            }
            Err(FoldError::Plan(plan)) => {
                let Some(earlier) = self.definition(tenant, &plan) else {
                    let why = "the document of a version that the run followed is not here any more";
                    return self.refuse(request, Refusal::Conflict(why.into()));
                };
                let mut back = back;
                back.earlier.push(earlier);
                return self.go_back(back, (tenant, head), key, again, now);
            }
            Err(error) => return self.refuse(request, Refusal::Conflict(why_not(&error, key).into())),
        };
        let run = match forked {
            None => head.identity.run,
            Some(identity) => {
                // Its journal begins with a copy of the other's.
                for segment in &back.segments {
                    let segment = Arc::new(segment.clone());
                    self.mutations.push(Mutation::AppendTurn { tenant, run: identity.run, segment });
                }
                let stage = Stage::Ready(Head::new(identity.clone()));
                self.runs.held.insert(identity.run, RunEntry::new(tenant, stage, self.index));
                identity.run
            }
        };
        self.take_turn(run, turn, now);
        self.reply_run(request, run);
    }

    fn park(&mut self, command: Command) -> u64 {
        let number = self.next_waiting;
        self.next_waiting += 1;
        self.waiting.insert(number, super::Waiting { command, missing: 1, known: Vec::new() });
        number
    }
}

/// A command that goes back in the journal of a run, with what was read for it.
#[derive(Debug)]
pub(crate) struct GoingBack {
    command: Command,
    segments: Vec<Segment>,
    /// Versions of its workflow that it followed before.
    earlier: Vec<Arc<dyn Definition>>,
    blobs: BTreeMap<BlobHash, Arc<Json>>,
}

/// Why an action makes no sense in a phase.
fn conflict(action: &RunAction, phase: Phase) -> Option<String> {
    let is = format!("{phase:?}").to_lowercase();
    match action {
        RunAction::Resume if phase != Phase::Suspended => {
            Some(format!("only a suspended run can be resumed; it is {is}"))
        }
        RunAction::Retry if phase != Phase::Faulted => Some(format!("only a faulted run can be retried; it is {is}")),
        RunAction::Accept(_) if phase != Phase::Suspended => {
            Some(format!("only a run that holds because its replay differed can accept the difference; it is {is}"))
        }
        RunAction::Suspend(_) | RunAction::Signal(..) | RunAction::Move(_) if phase.ended() => {
            Some(format!("the run has already ended: {is}"))
        }
        RunAction::Cancel(_) | RunAction::Terminate(_) if phase.ended() && phase != Phase::Cancelled => {
            Some(format!("the run has already ended: {is}"))
        }
        _ => None,
    }
}

fn why_not(error: &FoldError, key: &str) -> String {
    match error {
        FoldError::NoKey if key.contains("/undo:") => {
            format!("'{key}' is an undo, which is no moment to go back to: name the step that it undoes")
        }
        FoldError::NoKey => format!("the journal of the run has no key '{key}'"),
        FoldError::Compacted(Some(oldest)) => {
            format!("'{key}' was compacted; the oldest key that still works is '{oldest}'")
        }
        FoldError::Compacted(None) => format!("'{key}' was compacted"),
        FoldError::Diverged { turn, what } => format!("turn {turn} of the journal does not fit the workflow: {what}"),
        FoldError::Revision(revision) => format!("the journal was written by a newer program (revision {revision})"),
        FoldError::NoStart | FoldError::Gap { .. } => "the journal of the run is not complete".to_owned(),
        FoldError::Blobs(_) => "large values of the run would have to be read first".to_owned(),
        FoldError::Input => {
            "only the run itself can be given another input: what a program asks for depends on what it did before"
                .to_owned()
        }
        FoldError::NoInput(instead) => format!("no other input: {instead}"),
        FoldError::Unfit(why) => {
            format!("the run moved to another version since, which does not fit that moment: {why}; move it back first")
        }
        FoldError::Cancelled(before) => {
            let instead = before.as_ref().map_or_else(String::new, |key| format!(", such as '{key}'"));
            format!(
                "'{key}' was asked for after the run was cancelled, and what comes there belongs to the cancel; name a key from \
                 before it{instead}"
            )
        }
        FoldError::Plan(_) => "the document of a version that the run followed is not here any more".to_owned(),
        FoldError::OutOfFuel => "going on from there needs more than one turn may".to_owned(),
    }
}
