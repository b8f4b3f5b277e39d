//! A node as small as can be: a partition over a SQLite file, one worker that asks the peer of the kit, and a clock that jumps
//! to whatever is due next.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use serde_json::Value as Json;
use tidewheel_engine::command::{Hello, RunAction, StartRun};
use tidewheel_engine::config::{QueueConfig, QueueState, TenantConfig};
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{Name, RequestId, RunId, SessionId, TaskId, TenantId, Token};
use tidewheel_engine::mutation::{Batch, RecordKind};
use tidewheel_engine::partition::{Options, Probe, WithCompiler};
use tidewheel_engine::run::act::Outcome as RunOutcome;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::eval::Compiler;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::journal::{EntryKind, Fact};
use tidewheel_engine::run::plan::{Protocol, Target};
use tidewheel_engine::task::{Failure, Outcome, Payload};
use tidewheel_engine::time::Now;
use tidewheel_engine::view::View;
use tidewheel_engine::{Command, Effect, Partition, Reply};
use tidewheel_lang::compile::Language;
use tidewheel_lang::resolve::Resolved;
use tidewheel_lang::testkit::world::{Answer, Ask, Ended, Peer, START_MS, Whom};
use tidewheel_store::Store;
use tidewheel_store::run::RunQuery;
use tidewheel_store_sqlite::SqliteStore;

const TENANT: TenantId = TenantId(1);
/// Longer than any scenario takes: the worker never loses its attempts.
const LEASE_MS: u64 = 10 * 365 * 24 * 3_600_000;
/// Rounds of a scenario. One that takes more goes round in circles.
const ROUNDS: u32 = 10_000;

struct Asks<'s>(&'s SqliteStore);

impl Probe for Asks<'_> {
    fn may_know(&self, tenant: TenantId, hash: &[u8; 16]) -> bool {
        self.0.may_know(tenant, hash)
    }
}

/// See the module.
pub(crate) struct Node<'p> {
    file: PathBuf,
    store: Arc<SqliteStore>,
    partition: Partition,
    peer: &'p mut dyn Peer,
    /// Whether store and partition are opened anew after each commit.
    reload: bool,
    now: Now,
    number: u64,
    session: SessionId,
    /// Attempts that the worker has, and results that it has not sent.
    live: Vec<(TaskId, Token)>,
    results: Vec<(TaskId, Token, Outcome)>,
    replies: Vec<(RequestId, Reply)>,
    /// Names of the pages of histories that were read.
    pub(crate) pages: BTreeSet<String>,
}

fn set_up() -> Options {
    let compiler = WithCompiler(Some(Arc::new(Language)));
    Options { compiler, lease_ms: LEASE_MS, ..Options::default() }
}

fn opened(file: &Path, now: Now) -> (Arc<SqliteStore>, Partition) {
    // Nothing here cuts the power: what is written is there for whoever opens the file next.
    let options = tidewheel_store_sqlite::Options { durable: false, ..Default::default() };
    let store = SqliteStore::open(file, options).unwrap();
    let recovered = store.open(0).unwrap();
    let partition = Partition::new(set_up(), recovered, now);
    (store, partition)
}

impl<'p> Node<'p> {
    /// A node with a tenant, a queue and a worker.
    pub(crate) fn open(folder: &Path, peer: &'p mut dyn Peer, reload: bool) -> Node<'p> {
        let now = Now { wall: START_MS, mono: 0 };
        let file = folder.join("tidewheel.db");
        let (store, partition) = opened(&file, now);
        let mut node = Node {
            file,
            store,
            partition,
            peer,
            reload: false,
            now,
            number: 0,
            session: SessionId(0),
            live: Vec::new(),
            results: Vec::new(),
            replies: Vec::new(),
            pages: BTreeSet::new(),
        };
        let (name, config, expected): (Name, _, _) = ("t".into(), TenantConfig::default(), None);
        node.ask(|request| Command::PutTenant { request, name, config, expected });
        let (config, state) = (Some(Box::new(QueueConfig::default())), Some(QueueState::Active));
        let name: Name = "default".into();
        node.ask(|request| Command::PutQueue { request, tenant: TENANT, name, config, state, expected: None });
        node.connect();
        node.reload = reload;
        node
    }

    pub(crate) fn close(self) {
        self.store.close();
    }

    /// Deploys a workflow and runs it to its end, or until nothing is due any more. Gives the names of the statements that
    /// began, in order, too.
    pub(crate) fn execute(&mut self, workflow: &Resolved, input: Json) -> (Ended, Vec<String>) {
        let compiled = Language.compile(&workflow.bytes).unwrap();
        let plan = compiled.plan();
        let hash: String = workflow.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.put(RecordKind::Definition, &hash, std::str::from_utf8(&workflow.bytes).unwrap());
        let (namespace, name, version) = (plan.namespace.clone(), plan.name.clone(), plan.version.clone());
        self.put(RecordKind::Workflow, &format!("{namespace}/{name}/{version}"), &format!("{hash} {{}}"));
        let start = StartRun { namespace, name, version, input: Data::of(input).0, correlation: None, claim: None };
        let reply = self.ask(|request| Command::StartRun { request, tenant: TENANT, start: Box::new(start) });
        let run = match reply {
            Reply::Run(head) => head.identity.run,
            other => panic!("not started: {other:?}"),
        };
        let ended = self.until_it_ends(run);
        (ended, self.ran(run))
    }

    /// Retries a run that has faulted.
    pub(crate) fn retry(&mut self, run: RunId) -> Ended {
        let action = RunAction::Retry;
        let reply = self.ask(|request| Command::ActOnRun { request, tenant: TENANT, run, action });
        assert!(matches!(reply, Reply::Run(_)), "{reply:?}");
        self.until_it_ends(run)
    }

    /// The only run that there is.
    pub(crate) fn run(&self) -> RunId {
        let query = RunQuery { tenant: TENANT, limit: 2, scan_limit: 2, ..RunQuery::default() };
        let runs = self.store.runs(&query).unwrap().runs;
        assert_eq!(runs.len(), 1);
        runs[0].identity.run
    }

    fn until_it_ends(&mut self, run: RunId) -> Ended {
        loop {
            let head = self.head(run);
            if head.phase.ended() || !self.pass() {
                return ended(&head);
            }
        }
    }

    fn ran(&self, run: RunId) -> Vec<String> {
        let opened = |fact: &Fact| match fact {
            Fact::Opened { key, .. } if key.kind != EntryKind::Run => Some(super::gherkin::name_of(&key.name)),
            _ => None,
        };
        let turns = self.store.turns(TENANT, run, 0, 10_000).unwrap();
        turns.iter().flat_map(|turn| &turn.facts).filter_map(opened).collect()
    }

    fn head(&mut self, run: RunId) -> Head {
        match self.ask(|request| Command::Read { request, view: View::Run { tenant: TENANT, run } }) {
            Reply::Run(head) => *head,
            other => panic!("no run: {other:?}"),
        }
    }

    pub(crate) fn put(&mut self, kind: RecordKind, key: &str, value: &str) {
        let (key, value) = (key.into(), Some(value.into()));
        self.ask(|request| Command::PutRecord { request, kind, tenant: TENANT, key, value, expected: None });
    }

    fn ask(&mut self, command: impl FnOnce(RequestId) -> Command) -> Reply {
        self.number += 1;
        let request = RequestId(self.number);
        self.apply(command(request));
        self.settle();
        let at = self.replies.iter().position(|reply| reply.0 == request).expect("an answer");
        self.replies.remove(at).1
    }

    fn connect(&mut self) {
        self.number += 1;
        self.session = SessionId(self.number);
        let hello = Hello { name: tidewheel_engine::command::Name2("w".into()), permits: 100, ..Hello::default() };
        let hello = Box::new(Hello { resume: self.live.clone(), ..hello });
        self.apply(Command::Connect { session: self.session, hello });
        if !self.reload {
            self.settle();
        }
    }

    fn apply(&mut self, command: Command) {
        self.partition.apply(command, self.now, &Asks(&self.store));
    }

    /// Turns, commits, reads and works until nothing is left to do now.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            while self.partition.turn(self.now) {}
            if self.partition.has_output() {
                let (batch, effects) = self.partition.finish_batch();
                self.commit(batch, effects);
                continue;
            }
            let loads = self.partition.take_loads();
            if !loads.is_empty() {
                for (id, load) in loads {
                    let (as_of, loaded) = self.store.load(0, &load).unwrap();
                    self.partition.loaded(id, as_of, loaded, self.now);
                }
                continue;
            }
            if self.results.is_empty() {
                return;
            }
            let results = std::mem::take(&mut self.results);
            let done = |(task, _): &(TaskId, Token)| results.iter().any(|result| result.0 == *task);
            self.live.retain(|attempt| !done(attempt));
            self.apply(Command::Results { session: self.session, results });
        }
        panic!("it goes round in circles");
    }

    /// A commit, what follows from it, and the reload.
    fn commit(&mut self, batch: Batch, effects: Vec<Effect>) {
        let (index, changes) = (batch.index, !batch.mutations.is_empty());
        if changes {
            let (answer, answered) = channel();
            self.store.commit(batch, Box::new(move |result| answer.send(result).unwrap()));
            answered.recv().unwrap().unwrap();
            self.partition.committed(index);
        }
        effects.into_iter().for_each(|effect| self.effect(effect));
        if changes && self.reload {
            self.store.close();
            (self.store, self.partition) = opened(&self.file, self.now);
            self.connect();
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { request, reply } => self.replies.push((request, reply)),
            Effect::Grant { grants, .. } => grants.iter().for_each(|grant| self.work(grant)),
            Effect::Compute(work) => {
                let outcome = Box::new(work.run());
                let (tenant, run, ticket) = (work.tenant, work.run, work.ticket);
                self.apply(Command::TurnComputed { tenant, run, ticket, outcome });
            }
            Effect::Cancel { task, token, .. } => {
                let failure = Failure::ours("cancelled", "as it was told");
                self.results.push((task, token, Outcome::Failed { failure, artifacts: Vec::new(), cancelled: true }));
            }
            Effect::Close { reason, .. } => panic!("the worker was sent away: {reason}"),
            _ => {}
        }
    }

    fn work(&mut self, grant: &Grant) {
        self.live.push((grant.task, grant.token));
        let target = match &*grant.kind {
            "call.http" => Target::Outbound(Protocol::Http),
            "call.openapi" => Target::Outbound(Protocol::OpenApi),
            other => Target::Task(other.into()),
        };
        let Payload::Inline(input) = &grant.input else { panic!("no input: {grant:?}") };
        let mut args: Json = serde_json::from_slice(input).unwrap();
        self.replay(&mut args);
        let ask = Ask { whom: Whom::Task(&target), reference: &grant.kind, args: &args, sealed: false };
        let outcome = match self.peer.answer(&ask) {
            Answer::Ends(Ok(value), _) => {
                let result = Payload::Inline(serde_json::to_vec(&value).unwrap().into());
                Outcome::Ok { result, artifacts: Vec::new() }
            }
            Answer::Ends(Err(error), _) => {
                let kind = error["type"].as_str().unwrap_or("Error").into();
                let (message, detail) = ("as the peer answered".into(), error.to_string().into());
                let failure = Failure { kind, message, detail, retryable: false };
                Outcome::Failed { failure, artifacts: Vec::new(), cancelled: false }
            }
            Answer::Never => return,
            other => panic!("{other:?}"),
        };
        self.results.push((grant.task, grant.token, outcome));
    }

    /// What a worker that has to replay a program reads: the turns in pages before those that its activation brought, and large values.
    fn replay(&mut self, activation: &mut Json) {
        if activation.get("epoch").is_none() {
            return;
        }
        let mut page = activation.as_object_mut().and_then(|map| map.remove("before")).unwrap_or(Json::Null);
        while let Some(read) = self.value(&page) {
            self.pages.insert(page["$ref"].as_str().unwrap().to_owned());
            let mut turns = read["turns"].as_array().unwrap().clone();
            assert_eq!(turns[0]["no"], read["first"]);
            turns.append(activation["turns"].as_array_mut().unwrap());
            activation["turns"] = turns.into();
            page = read["before"].clone();
        }
        assert!(page.is_null(), "{page} is not stored");
        for turn in activation["turns"].as_array_mut().unwrap() {
            for done in turn["done"].as_array_mut().unwrap() {
                if let Some(read) = self.value(&done["value"]) {
                    done["value"] = read;
                }
            }
        }
    }

    /// The value that a reference names.
    fn value(&self, reference: &Json) -> Option<Json> {
        let name = reference.get("$ref")?.as_str()?.strip_prefix("sha256:")?;
        let hash: Vec<u8> =
            (0..name.len()).step_by(2).map(|at| u8::from_str_radix(&name[at..at + 2], 16).unwrap()).collect();
        let text = self.store.value(TENANT, &hash.try_into().unwrap()).unwrap()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// Lets time pass until something is due; whether anything is.
    fn pass(&mut self) -> bool {
        let (wall, mono) = self.partition.next_wake();
        let waits = [wall.map(|at| at.saturating_sub(self.now.wall)), mono.map(|at| at.saturating_sub(self.now.mono))];
        let Some(ms) = waits.into_iter().flatten().min().filter(|ms| *ms < LEASE_MS / 2) else { return false };
        let ms = ms.max(1);
        self.now = Now { wall: self.now.wall + ms, mono: self.now.mono + ms };
        self.settle();
        true
    }
}

fn ended(head: &Head) -> Ended {
    match &head.outcome {
        Some(RunOutcome::Ok(Data::Inline { value, .. })) => Ended::Completed((**value).clone()),
        Some(RunOutcome::Err(fault)) => Ended::Faulted((*fault.0).clone()),
        Some(_) => Ended::Cancelled,
        None => Ended::Stuck(head.phase),
    }
}
