//! What people and programs do to runs.

use std::sync::Arc;

use super::runs::{RunEntry, Stage};
use super::{Partition, Purpose};
use crate::command::{Command, GivenUp, MoveRun, RunAction, StartRun};
use crate::effect::{Refusal, Reply};
use crate::id::{RequestId, RunId, TaskId, TenantId};
use crate::limit::INBOX;
use crate::load::Load;
use crate::mutation::Mutation;
use crate::planted::Bug;
use crate::run::act::Event;
use crate::run::code;
use crate::run::data::Data;
use crate::run::fold::Change;
use crate::run::head::{Head, Identity, Phase};
use crate::run::moves::{CodePlace, fits};
use crate::run::promise::{self, Completion, Verdict};
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
        if !self.run_at_hand(request, tenant, run, again) || self.wait_for_line(run, &action, again) {
            return;
        }
        let Some(phase) = self.runs.held.get(&run).and_then(|entry| entry.head()).map(|head| head.phase) else {
            return;
        };
        if let Some(why) = conflict(&action, phase).or_else(|| self.nothing_to_accept(run, &action)) {
            return self.refuse(request, Refusal::Conflict(why.into()));
        }
        if let RunAction::Complete(completion) = &action
            && !self.completes(request, run, completion)
        {
            return;
        }
        let comes = matches!(action, RunAction::Signal(..) | RunAction::Arrive(_) | RunAction::Complete(_));
        if comes && self.runs.held.get(&run).is_some_and(is_full) {
            let refusal = Refusal::Overloaded { what: "the inbox of the run".into(), retry_after_ms: 1_000 };
            return self.refuse(request, refusal);
        }
        if let RunAction::Arrive(data)
        | RunAction::Signal(_, _, data)
        | RunAction::Reset(_, Some(data), _)
        | RunAction::Fork(_, Some(data)) = &action
        {
            self.keep_value(tenant, run, data);
        }
        if let RunAction::Complete(completion) = &action {
            self.keep_value(tenant, run, &completion.event);
        }
        let event = match action {
            RunAction::Cancel(reason) => Event::Cancel { reason },
            RunAction::Terminate(reason) => Event::Terminate { reason },
            RunAction::Suspend(reason) => Event::Suspend { reason },
            RunAction::Resume => Event::Resume,
            RunAction::Retry => Event::Retry,
            RunAction::Signal(id, kind, data) => Event::Signal { id, kind, data },
            RunAction::Arrive(event) => Event::Arrived { event },
            RunAction::Complete(completion) => Event::Arrived { event: completion.event },
            RunAction::Accept(by) => Event::Accepted { by },
            RunAction::Move(to) => return self.move_run(request, (tenant, run), to, now),
            RunAction::Reset(key, input, given_up) => {
                let change = Change { input, identity: None, keeps: given_up == GivenUp::Kept };
                return self.go_back(request, (tenant, run), key, change);
            }
            RunAction::Fork(key, input) => {
                let Some(head) = self.runs.held.get(&run).and_then(RunEntry::head) else { return };
                let identity = head.identity.clone();
                let identity = Identity { run: self.new_run_id(None, now), parent: None, ..(*identity).clone() };
                let change = Change { input, identity: Some(Arc::new(identity)), keeps: true };
                return self.go_back(request, (tenant, run), key, change);
            }
        };
        self.deliver(tenant, run, event, now);
        self.reply_run(request, run);
    }

    /// Whether a promise is to be completed; otherwise the caller was told why it is not.
    fn completes(&mut self, request: RequestId, run: RunId, completion: &Completion) -> bool {
        let Some(entry) = self.runs.held.get(&run) else { return false };
        let Some(head) = entry.head() else { return false };
        if head.phase.ended() {
            // What it was completed with is in the journal; where that has nothing of it, it comes too late.
            let turns = head.turns;
            let refusal = match completion.unknown_at {
                Some(known) if known == turns => {
                    Refusal::Conflict(format!("the run has already ended: {}", phase_text(head.phase)).into())
                }
                _ => Refusal::Version { current: turns },
            };
            self.refuse(request, refusal);
            return false;
        }
        if head.closing.is_some() {
            let why = "the run is about to end: what is to be undone is being undone".into();
            self.refuse(request, Refusal::Conflict(why));
            return false;
        }
        let verdict = promise::judge(head, entry.inbox.iter().map(|arrival| &arrival.event), completion);
        let turns = head.turns;
        match verdict {
            Verdict::First => return true,
            Verdict::Again => self.reply_run(request, run),
            Verdict::Late(why) => self.refuse(request, Refusal::Conflict(why.into())),
            Verdict::Unknown => self.refuse(request, Refusal::Version { current: turns }),
        }
        false
    }

    fn nothing_to_accept(&self, run: RunId, action: &RunAction) -> Option<String> {
        let head =
            self.runs.held.get(&run).and_then(RunEntry::head).filter(|_| matches!(action, RunAction::Accept(_)))?;
        let nothing = code::of(head).is_none_or(|state| state.mismatch.is_none());
        nothing
            .then(|| "the run does not hold because of a replay that differed; there is nothing to accept".to_owned())
    }

    /// Makes an action wait that makes sense only where the run stands once all is taken in that came before. True = it waits.
    fn wait_for_line(&mut self, run: RunId, action: &RunAction, command: impl FnOnce() -> Command) -> bool {
        let stands = matches!(
            action,
            RunAction::Move(_) | RunAction::Accept(_) | RunAction::Resume | RunAction::Retry | RunAction::Complete(_)
        );
        let caught_up = self.runs.held.get(&run).is_none_or(RunEntry::caught_up);
        if !stands || caught_up || self.options.planted.has(Bug::HastyMove) {
            return false;
        }
        self.keep_command(run, command);
        true
    }

    /// Moves a run to another version of its workflow, if it fits. All that came before is taken in.
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
        self.forget_continue(run);
        self.deliver(tenant, run, Event::Moved { identity, by: to.by }, now);
        if why.is_ok() {
            self.reply_run(request, run);
        }
    }

    fn park(&mut self, command: Command) -> u64 {
        let number = self.next_waiting;
        self.next_waiting += 1;
        self.waiting.insert(number, super::Waiting { command, missing: 1, known: Vec::new() });
        number
    }
}

/// Whether so much came for a run, and waits to be taken, that more would not be kept.
fn is_full(entry: &RunEntry) -> bool {
    let came = |event: &Event| matches!(event, Event::Signal { .. } | Event::Arrived { .. });
    let line = entry.inbox.iter().filter(|arrival| came(&arrival.event)).count();
    let held = |head: &Head| head.inbox.len() + head.held.iter().filter(|event| came(event)).count();
    line + entry.head().map_or(0, held) >= INBOX
}

fn phase_text(phase: Phase) -> String {
    format!("{phase:?}").to_lowercase()
}

/// Why an action makes no sense in a phase.
fn conflict(action: &RunAction, phase: Phase) -> Option<String> {
    let is = phase_text(phase);
    match action {
        RunAction::Resume if phase != Phase::Suspended => {
            Some(format!("only a suspended run can be resumed; it is {is}"))
        }
        RunAction::Retry if phase != Phase::Faulted => Some(format!("only a faulted run can be retried; it is {is}")),
        RunAction::Accept(_) if phase != Phase::Suspended => {
            Some(format!("only a run that holds because its replay differed can accept the difference; it is {is}"))
        }
        RunAction::Suspend(_) | RunAction::Signal(..) | RunAction::Arrive(_) | RunAction::Move(_) if phase.ended() => {
            Some(format!("the run has already ended: {is}"))
        }
        RunAction::Cancel(_) | RunAction::Terminate(_) if phase.ended() && phase != Phase::Cancelled => {
            Some(format!("the run has already ended: {is}"))
        }
        _ => None,
    }
}
