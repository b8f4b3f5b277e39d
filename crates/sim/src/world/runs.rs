//! Clients of durable runs: they start some, with and without a claim, ask again when they got no answer, and act on them.
//! Turns that the node hands out are taken late, twice, or not before it dies.

use tidewheel_engine::Command;
use tidewheel_engine::command::{GivenUp, RunAction, StartRun};
use tidewheel_engine::effect::{Computation, Refusal, Reply};
use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::ready::mix;
use tidewheel_engine::run::data::Data;

use super::{Call, CallKind, World};
use crate::checker::runs::Help;
use crate::event::{Event, RunAct};
use crate::flow::{LAST_VERSION, NAMESPACE, NEXT_VERSION, PROMISE, SIGNAL, VERSION, VERSIONS, package};
use crate::plan::{MS, SECOND};
use crate::rng::Rng;

/// Runs of which a client remembers the ids.
const REMEMBERED: usize = 300;
/// How often it is looked whether somebody waits for a person, once faults are over.
const HELP_EVERY: u64 = 2 * SECOND;
/// The longest that a turn takes beside the loop, in milliseconds.
pub(super) const LATEST_MS: u64 = 9_000;

/// Clients of runs.
#[derive(Debug)]
pub(crate) struct Starters {
    rng: Rng,
    /// For pairs, so that all others draw the same whether there are some or not.
    pairs: Rng,
    known: Vec<(usize, TenantId, RunId)>,
    claims: Vec<Start>,
    next: u64,
    next_help: u64,
}

/// A start, as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) partition: usize,
    pub(crate) tenant: TenantId,
    pub(crate) start: StartRun,
    /// The pair that it is of, and whether it is the program of it.
    pub(crate) pair: Option<(u64, bool)>,
}

impl Starters {
    pub(crate) fn new(seed: u64) -> Starters {
        let rng = Rng::new(seed ^ 0x7275_6e73);
        let pairs = Rng::new(seed ^ 0x7477_696e);
        Starters { rng, pairs, known: Vec::new(), claims: Vec::new(), next: 1, next_help: 0 }
    }

    /// Some run that was acknowledged.
    pub(super) fn some_known(&self, draw: u64) -> Option<(usize, TenantId, RunId)> {
        self.known.get((draw % self.known.len().max(1) as u64) as usize).copied()
    }
}

impl World {
    /// Deploys the workflows for every tenant.
    pub(crate) fn deploy_flows(&mut self) {
        if self.plan.runs.every == 0 {
            return;
        }
        for tenant in (0..self.plan.tenants.len()).map(|n| TenantId(n as u32 + 1)) {
            for partition in 0..self.disks.len() {
                if self.plan.runs.flows.iter().any(|flow| flow.program) {
                    for (key, record) in VERSIONS.map(package) {
                        self.put_record(partition, RecordKind::Package, tenant, &key, &record);
                    }
                }
                self.deploy_versions(partition, tenant, VERSION);
            }
        }
    }

    /// Later versions, for every tenant, while runs of the earlier ones are at work.
    fn deploy_next(&mut self, version: &str) {
        for tenant in (0..self.plan.tenants.len()).map(|n| TenantId(n as u32 + 1)) {
            for partition in 0..self.disks.len() {
                self.deploy_versions(partition, tenant, version);
            }
        }
        self.follow(version);
    }

    fn deploy_versions(&mut self, partition: usize, tenant: TenantId, version: &str) {
        let flows = self.plan.runs.flows.clone();
        for flow in flows.iter().filter(|flow| flow.version == version) {
            let key = format!("{NAMESPACE}/{}/{}", flow.name, flow.version);
            let record = format!("{} {{}}", flow.hash);
            self.put_record(partition, RecordKind::Definition, tenant, &flow.hash, &flow.document);
            self.put_record(partition, RecordKind::Workflow, tenant, &key, &record);
        }
    }

    pub(super) fn put_record(&mut self, partition: usize, kind: RecordKind, tenant: TenantId, key: &str, value: &str) {
        let (key, value) = (key.into(), Some(value.into()));
        let command = |request| Command::PutRecord { request, kind, tenant, key, value, expected: None };
        self.call(partition, CallKind::Other, command);
    }

    pub(crate) fn plan_runs(&mut self) {
        for act in RunAct::ALL {
            self.run_act_after(act);
        }
        if self.plan.runs.flows.iter().any(|flow| flow.version != VERSION) {
            self.at(self.plan.length / 3, Event::ActOnRuns(RunAct::Deploy));
            self.at(self.plan.length / 2, Event::ActOnRuns(RunAct::DeployLast));
        }
    }

    fn run_act_after(&mut self, act: RunAct) {
        let runs = &self.plan.runs;
        let mean = if act == RunAct::Start { runs.every } else { runs.act_every };
        if runs.every > 0 && mean > 0 && !self.is_quiet() {
            let wait = self.starters.rng.exponential(mean);
            self.after(wait.max(MS), Event::ActOnRuns(act));
        }
    }

    pub(crate) fn act_on_runs(&mut self, act: RunAct) {
        if self.is_quiet() {
            return;
        }
        match act {
            RunAct::Deploy => return self.deploy_next(NEXT_VERSION),
            RunAct::DeployLast => return self.deploy_next(LAST_VERSION),
            RunAct::Move | RunAct::Accept => return self.act_move(act),
            RunAct::Pair => return self.start_pair(),
            _ => {}
        }
        self.run_act_after(act);
        if act == RunAct::Start {
            return self.start_some_run();
        }
        let rng = &mut self.starters.rng;
        let known = &self.starters.known;
        let window = if rng.chance(0.7) { known.len().min(8) } else { known.len() };
        let Some(at) = known.len().checked_sub(1 + rng.below(window as u64) as usize) else { return };
        let Some((partition, tenant, run)) = known.get(at).copied() else { return };
        let draw = rng.next();
        // What was forked goes back more often than its share, and what has something to undo is forked more often.
        let picked = match act {
            RunAct::Reset if draw % 5 < 2 => self.checkers.runs.some_fork(draw / 5),
            RunAct::Fork if draw % 4 < 3 => self.checkers.runs.some_saga(known, draw / 4),
            _ => None,
        };
        let (partition, tenant, run) = picked.unwrap_or((partition, tenant, run));
        let action = match act {
            RunAct::Start | RunAct::Deploy | RunAct::DeployLast | RunAct::Move | RunAct::Accept | RunAct::Pair => {
                return;
            }
            RunAct::Read => return self.read_run(partition, tenant, run),
            RunAct::Signal => {
                // Some ids come twice, and then count once.
                let id = format!("s{}", draw % 1_000).as_str().into();
                let kept = draw.is_multiple_of(3) && self.checkers.runs.is_program(partition, run);
                RunAction::Signal(id, if kept { promise() } else { SIGNAL.0.into() }, signal())
            }
            RunAct::Cancel if draw.is_multiple_of(3) => RunAction::Terminate("asked for".into()),
            RunAct::Cancel => RunAction::Cancel("asked for".into()),
            RunAct::Suspend => RunAction::Suspend("look first".into()),
            RunAct::Resume => RunAction::Resume,
            RunAct::Retry => RunAction::Retry,
            RunAct::Reset | RunAct::Fork => {
                let Some(key) = self.checkers.runs.some_key(partition, run, draw) else { return };
                if act == RunAct::Reset {
                    RunAction::Reset(key, None, GivenUp::Undone)
                } else {
                    RunAction::Fork(key, None)
                }
            }
        };
        self.act_on_run(partition, tenant, run, action);
    }

    pub(super) fn act_on_run(&mut self, partition: usize, tenant: TenantId, run: RunId, action: RunAction) {
        self.checkers.runs.asked(partition, run, &action);
        let kind = CallKind::Run(run, Some(action.clone()));
        self.call(partition, kind, |request| Command::ActOnRun { request, tenant, run, action });
    }

    fn read_run(&mut self, partition: usize, tenant: TenantId, run: RunId) {
        let view = tidewheel_engine::view::View::Run { tenant, run };
        self.call(partition, CallKind::Run(run, None), |request| Command::Read { request, view });
    }

    fn start_some_run(&mut self) {
        let runs = &self.plan.runs;
        let starters = &mut self.starters;
        let rng = &mut starters.rng;
        if !starters.claims.is_empty() && rng.chance(0.1) {
            let mut again = rng.pick(&starters.claims).clone();
            if rng.chance(0.3)
                && let Some((_, body)) = &mut again.start.claim
            {
                *body ^= 1;
            }
            return self.send_start(again);
        }
        let Some(flow) = runs.flows.pick(rng) else { return };
        let tenant = TenantId(rng.below(self.plan.tenants.len() as u64) as u32 + 1);
        starters.next += 1;
        let n = rng.below(50);
        let claim = rng.chance(runs.claimed).then(|| claim_of(starters.next));
        let start = StartRun {
            namespace: NAMESPACE.into(),
            name: flow.name.as_str().into(),
            version: if rng.chance(0.5) { "latest" } else { VERSION }.into(),
            input: Data::of(serde_json::json!({ "n": n })).0,
            correlation: None,
            claim,
        };
        let partition = rng.below(self.disks.len() as u64) as usize;
        let start = Start { partition, tenant, start, pair: None };
        if start.start.claim.is_some() {
            starters.claims.push(start.clone());
        }
        self.send_start(start);
    }

    pub(crate) fn plan_pairs(&mut self) {
        let mean = self.plan.runs.pair_every;
        if mean > 0 && !self.is_quiet() {
            let wait = self.starters.pairs.exponential(mean);
            self.after(wait.max(MS), Event::ActOnRuns(RunAct::Pair));
        }
    }

    /// Starts a workflow both as a document and as a program, with the same number.
    fn start_pair(&mut self) {
        self.plan_pairs();
        let flows = self.plan.runs.flows.clone();
        let starters = &mut self.starters;
        let rng = &mut starters.pairs;
        let Some((document, program)) = flows.pick_pair(rng) else { return };
        let tenant = TenantId(rng.below(self.plan.tenants.len() as u64) as u32 + 1);
        let partition = rng.below(self.disks.len() as u64) as usize;
        let (n, pair) = (rng.below(50), rng.next());
        for flow in [document, program] {
            let start = StartRun {
                namespace: NAMESPACE.into(),
                name: flow.name.as_str().into(),
                version: VERSION.into(),
                input: Data::of(serde_json::json!({ "n": n })).0,
                correlation: None,
                claim: Some(claim_of(pair ^ u64::from(flow.program))),
            };
            self.send_start(Start { partition, tenant, start, pair: Some((pair, flow.program)) });
        }
    }

    fn send_start(&mut self, start: Start) {
        let (tenant, command) = (start.tenant, Box::new(start.start.clone()));
        self.call(start.partition, CallKind::Start(Box::new(start)), |request| Command::StartRun {
            request,
            tenant,
            start: command,
        });
    }

    /// A call about a run ended without an answer.
    pub(crate) fn run_unknown(&mut self, call: Call) {
        if let CallKind::Start(start) = call.kind
            && start.start.claim.is_some()
            && (!self.is_quiet() || self.now < self.plan.length + 30 * SECOND)
        {
            self.send_start(*start);
        }
    }

    /// A call about a run was answered.
    pub(crate) fn run_answered(&mut self, partition: usize, kind: CallKind, reply: Reply) {
        match (kind, reply) {
            (CallKind::Start(start), Reply::Run(head)) => {
                let run = head.identity.run;
                let (claim, tenant) = (start.start.claim, start.tenant);
                self.checkers.run_started(partition, tenant, run, claim);
                if let Some((pair, program)) = start.pair {
                    self.checkers.runs.twins.started(pair, program, (partition, run));
                    if pair % 4 > 0 {
                        return;
                    }
                }
                self.starters.known.push((partition, tenant, run));
                if self.starters.known.len() > REMEMBERED {
                    self.starters.known.remove(0);
                }
            }
            (CallKind::Start(start), Reply::Refused(Refusal::IdempotencyMismatch { task })) => {
                let (tenant, claim) = (start.tenant, start.start.claim);
                self.checkers.run_start_refused(partition, tenant, RunId(task.0), claim);
            }
            (CallKind::Start(_), Reply::Refused(Refusal::NotFound)) => {
                self.checkers.fail("S1", "a workflow that was deployed is not found".to_owned());
            }
            (CallKind::Run(run, _), Reply::Refused(Refusal::NotFound)) => {
                self.checkers.fail("S1", format!("run {run} was acknowledged, and a strong read does not find it"));
            }
            (CallKind::Run(run, Some(RunAction::Cancel(_) | RunAction::Terminate(_))), Reply::Run(_)) => {
                self.checkers.run_cancelled(partition, run, self.now);
            }
            (CallKind::Run(run, Some(RunAction::Move(to))), Reply::Run(head)) => {
                self.checkers.run_moved(partition, run, &to.by, &head);
            }
            (CallKind::Run(run, Some(RunAction::Move(to))), Reply::Refused(Refusal::Conflict(why))) => {
                self.checkers.run_move_refused(partition, run, &to.by, &why);
            }
            (CallKind::Rehearse(to), Reply::Run(head)) => self.rehearse(*to, &head),
            (CallKind::Run(run, Some(RunAction::Fork(..))), Reply::Run(head)) => {
                let forked = head.identity.run;
                if forked != run {
                    let tenant = self.checkers.runs.tenant_of(partition, forked);
                    self.starters.known.extend(tenant.map(|tenant| (partition, tenant, forked)));
                }
            }
            _ => {}
        }
    }

    /// A turn is to be taken beside the loop: it takes its time, and sometimes its answer comes twice.
    pub(crate) fn compute(&mut self, process: u64, partition: usize, work: Box<Computation>) {
        let outcome = Box::new(work.run());
        let (tenant, run, ticket) = (work.tenant, work.run, work.ticket);
        let rng = &mut self.starters.rng;
        let late = self.plan.runs.late;
        let wait = if rng.chance(late) { rng.range(500, LATEST_MS) } else { rng.range(1, 60) } * MS;
        let answer = |outcome| Box::new(Command::TurnComputed { tenant, run, ticket, outcome });
        if late > 0.0 && rng.chance(0.2) {
            let again = wait + rng.below(3_000) * MS;
            let command = answer(outcome.clone());
            self.after(again, Event::Computed { process, partition, command });
        }
        self.after(wait, Event::Computed { process, partition, command: answer(outcome) });
    }

    /// Once faults are over: whoever waits for a person or a signal gets it.
    pub(crate) fn help_runs(&mut self) {
        if !self.is_quiet() || self.now < self.starters.next_help {
            return;
        }
        self.starters.next_help = self.now + HELP_EVERY;
        // One round brings signals, the next one what was promised.
        let round = self.now / HELP_EVERY;
        for partition in 0..self.disks.len() {
            for (tenant, run, help) in self.checkers.runs.need_help(partition) {
                let action = match help {
                    Help::Differs => {
                        self.help_mismatch(partition, tenant, run);
                        continue;
                    }
                    Help::Holds => RunAction::Resume,
                    Help::Listens => {
                        self.starters.next += 1;
                        let id = format!("help{}", self.starters.next).as_str().into();
                        let kept = round.is_multiple_of(2) && self.checkers.runs.is_program(partition, run);
                        RunAction::Signal(id, if kept { promise() } else { SIGNAL.0.into() }, signal())
                    }
                };
                self.act_on_run(partition, tenant, run, action);
            }
        }
    }
}

fn claim_of(number: u64) -> ([u8; 16], u64) {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&mix(number ^ 0xC1A1).to_be_bytes());
    hash[8..].copy_from_slice(&mix(number).to_be_bytes());
    (hash, mix(number) & !1)
}

fn promise() -> Name {
    format!("promise:{PROMISE}").into()
}

fn signal() -> Data {
    Data::of(serde_json::json!({ "k": SIGNAL.1 })).0
}
