//! One worker's stream.
//!
//! Protocol. One task per connection does everything in order: it reads what the worker sends and turns each message
//! into one command (results of a message are one command), and it takes what the engine has for the worker and sends
//! all grants that have queued up as one message. Nothing is spawned per task. The channel to the connection holds
//! [`OUT_MESSAGES`]; a worker that does not read for [`OUT_TIME`] loses its stream, and its attempts live on until
//! the lease ends. Log lines go to a task of their own with a queue of [`LOG_MESSAGES`], so that results do not wait
//! for them; the acknowledgement of lines comes after they are on disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewheel_engine::Command;
use tidewheel_engine::command::Beat;
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{Name, SessionId, TaskId, TenantId, Token, WorkerId};
use tidewheel_engine::limit;
use tidewheel_engine::task::{Outcome, Payload};
use tidewheel_engine::view::{Answer, View};
use tidewheel_proto::v1;
use tidewheel_proto::v1::server_message::Message as ToClient;
use tidewheel_proto::v1::worker_message::Message as FromClient;
use tidewheel_runtime::{Session, ToWorker};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::MESSAGE_BYTES;
use super::convert::{self, Reported, cut};
use crate::auth::Principal;
use crate::auth::promise::PromiseKeys;
use crate::problem::Failure;
use crate::seal::{Sealer, TOKEN_BYTES};
use crate::service::worker::{StoredOverride, heartbeat_ms, overrides, worker_text};
use crate::service::{enrolment, task_type};
use crate::state::{Api, Offer, Out, Serves};
use crate::store::log::Line;

/// Messages on their way to a worker.
pub(crate) const OUT_MESSAGES: usize = 1_024;
/// How long a worker may not read while its messages pile up.
const OUT_TIME: Duration = Duration::from_secs(10);
/// The first message has to come within this time.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Events of the engine that are taken at once.
const EVENTS: usize = 256;
/// Grants in one message: about 300 bytes each without inputs, so that the message stays far below its bound.
const GRANTS: usize = 2_000;
/// Inline inputs in one message.
const GRANT_BYTES: usize = MESSAGE_BYTES / 4;
/// Ended attempts whose number is remembered: their log lines may come later than their result.
const ENDED: usize = 4_096;
/// Log messages that wait to be written.
const LOG_MESSAGES: usize = 64;
/// How often the token is looked at.
const CHECK: Duration = Duration::from_secs(2);
/// Tries to write a batch of lines before it is left unacknowledged; the worker sends it again on its next stream.
const LOG_TRIES: u32 = 5;
/// Bytes of a progress text or reason.
const TEXT_BYTES: usize = 1_024;

/// An attempt that this stream was given.
#[derive(Clone, Copy)]
struct Held {
    token: Token,
    attempt: u32,
    tenant: TenantId,
}

struct Link {
    api: Api,
    caller: Principal,
    /// `None` = every tenant.
    tenant: Option<TenantId>,
    name: Name,
    /// It runs the code of packages, so that its grants have to name them.
    runs_packages: bool,
    session: SessionId,
    sealer: Sealer,
    promises: PromiseKeys,
    /// What it said in its hello.
    offer: Offer,
    serves: Serves,
    out: Out,
    held: HashMap<TaskId, Held>,
    ended: VecDeque<(TaskId, Token)>,
    /// Tenants whose names it knows, where it serves several.
    told: HashSet<TenantId>,
    /// Results of this stream that were stored.
    accepted: u64,
    logs: mpsc::Sender<(u64, Vec<Line>)>,
}

/// Whether the stream goes on.
enum Next {
    GoOn,
    End,
}

/// Serves a stream from its first message to its end.
pub(crate) async fn run(api: Api, caller: Principal, mut inbound: Streaming<v1::WorkerMessage>, out: Out) {
    let (mut link, session) = match open(&api, &caller, &mut inbound, &out).await {
        Ok(opened) => opened,
        Err(status) => {
            let _ = out.send(Err(status)).await;
            return;
        }
    };
    let id = session.id;
    if let Err(status) = link.serve(session, &mut inbound).await {
        let _ = tokio::time::timeout(OUT_TIME, link.out.send(Err(status))).await;
    }
    api.sessions.remove(id);
    api.runtime.disconnect(id);
}

async fn open(
    api: &Api,
    caller: &Principal,
    inbound: &mut Streaming<v1::WorkerMessage>,
    out: &Out,
) -> Result<(Link, Session), Status> {
    let first = tokio::time::timeout(HELLO_TIME, inbound.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    let Some(FromClient::Hello(message)) = first.and_then(|m| m.message) else {
        return Err(Status::invalid_argument("the first message has to be hello"));
    };
    // A token with system scope serves every tenant, unless its owner named one.
    let tenant = if caller.system && !caller.tenant_named { None } else { Some(caller.tenant) };
    let sealer = Sealer::new(api.runtime.token_key(), tenant);
    let mut hello = convert::hello(&message, tenant, api.runtime.now_ms()).map_err(Status::invalid_argument)?;
    let runs_code = &*hello.kind.0 == "agent" || message.runs_packages;
    if api.config.require_isolation && runs_code {
        check_walls(&hello.enforced).map_err(Status::failed_precondition)?;
    }
    if let Some(bound) = &caller.enrolment {
        enrolment::bind(bound, &mut hello).map_err(Status::permission_denied)?;
        enrolment::check_agent(api, caller, tenant, &hello.name.0).map_err(Status::permission_denied)?;
    }
    hello.resume = message.resume.iter().filter_map(|attempt| sealer.open(&attempt.token)).collect();
    let name = hello.name.0.clone();
    let set = overrides(api, tenant.unwrap_or(TenantId(0)), &name);
    let offer = Offer { permits: hello.permits, buffer: hello.buffer };
    apply(&set, offer, &mut hello);
    if api.runtime.directory().worker_id(tenant.unwrap_or(TenantId(0)), &name).is_some() {
        api.metrics.reconnected();
    }
    let serves = Serves {
        name: name.clone(),
        tenant,
        queues: hello.queues.clone(),
        runs_packages: message.runs_packages,
        packages: hello.packages.iter().map(|hash| (hash.clone(), None)).collect(),
    };
    let session = api.runtime.connect(hello).map_err(|error| Status::from(Failure::from(error)))?;
    let (logs, queue) = mpsc::channel(LOG_MESSAGES);
    tokio::spawn(write_logs(api.clone(), queue, out.clone()));
    let link = Link {
        api: api.clone(),
        caller: caller.clone(),
        tenant,
        name,
        runs_packages: message.runs_packages,
        session: session.id,
        sealer,
        promises: PromiseKeys::new(api.runtime.token_key()),
        offer,
        serves,
        out: out.clone(),
        held: HashMap::new(),
        ended: VecDeque::new(),
        told: HashSet::new(),
        accepted: 0,
        logs,
    };
    Ok((link, session))
}

/// What a server with several tenants asks of an agent that runs their code: how the wall is called in `Hello.enforced`, what is
/// missing without it, and how to get it.
const WALLS: [(&str, &str, &str); 2] = [
    (
        "sandbox",
        "its tasks would see the machine and each other",
        "install bubblewrap, allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), and \
         start the agent without --no-isolation",
    ),
    (
        "seccomp",
        "its tasks could make system calls that lead around the sandbox",
        "use a kernel with CONFIG_SECCOMP_FILTER on x86-64 or arm64, and bubblewrap 0.1.5 or later",
    ),
];

/// Fewer walls than asked for are none: the first that is missing, in words for whoever runs the agent.
fn check_walls(enforced: &[(Name, Name)]) -> Result<(), String> {
    let is_up = |wall: &str| enforced.iter().any(|(k, v)| &**k == wall && !matches!(&**v, "" | "none"));
    match WALLS.iter().find(|(wall, ..)| !is_up(wall)) {
        Some((wall, missing, remedy)) => Err(format!(
            "this server has several tenants and takes isolated agents only (tenancy.multiTenant), and this one has no {wall}: \
             {missing}. To have it, {remedy}; `tidewheel agent status` shows which walls are up"
        )),
        None => Ok(()),
    }
}

/// What an operator set goes over what the worker says.
fn apply(set: &StoredOverride, offer: Offer, hello: &mut tidewheel_engine::command::Hello) {
    let taken = set.within(offer);
    hello.permits = taken.permits;
    hello.buffer = taken.buffer;
    set.set_labels(&mut hello.labels);
}

impl Link {
    async fn serve(&mut self, mut session: Session, inbound: &mut Streaming<v1::WorkerMessage>) -> Result<(), Status> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut check = tokio::time::interval(CHECK);
        loop {
            // Only waits stand in the arms; the work is done below, where nothing cancels it.
            let step = tokio::select! {
                count = session.events.recv_many(&mut events, EVENTS) => Step::Events(count),
                message = inbound.message() => Step::Message(message),
                _ = check.tick() => Step::Check,
            };
            let next = match step {
                Step::Events(0) => Next::End,
                Step::Events(_) => self.outbound(&mut events).await?,
                // A broken connection is no news: the lease decides what becomes of the attempts.
                Step::Message(Err(_) | Ok(None)) => Next::End,
                Step::Message(Ok(Some(message))) => match message.message {
                    Some(message) => self.inbound(message).await?,
                    None => Next::GoOn,
                },
                Step::Check => {
                    if !self.caller.is_valid(&self.api) {
                        return Err(Status::unauthenticated("the token was revoked or has expired"));
                    }
                    Next::GoOn
                }
            };
            if matches!(next, Next::End) {
                return Ok(());
            }
        }
    }

    async fn send(&self, message: ToClient) -> Result<(), Status> {
        let message = Ok(v1::ServerMessage { message: Some(message) });
        let message = match self.out.try_send(message) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Status::cancelled("the stream was closed")),
            Err(mpsc::error::TrySendError::Full(message)) => message,
        };
        match tokio::time::timeout(OUT_TIME, self.out.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the stream was closed")),
            Err(_) => Err(Status::resource_exhausted("the worker does not read its stream")),
        }
    }

    fn seal(&self, list: &[(TaskId, Token)]) -> Vec<Bytes> {
        let mut buffer = BytesMut::with_capacity(list.len() * TOKEN_BYTES);
        list.iter().map(|(task, token)| self.sealer.seal(&mut buffer, *task, *token)).collect()
    }

    /// Sends what the engine has, in order, with neighbouring grants and acknowledgements put together.
    async fn outbound(&mut self, events: &mut Vec<ToWorker>) -> Result<Next, Status> {
        let mut grants = Vec::new();
        let mut bytes = 0;
        let mut ack: Option<v1::Ack> = None;
        for event in events.drain(..) {
            if !matches!(event, ToWorker::Grants(_)) && !grants.is_empty() {
                self.send_grants(&mut grants).await?;
                bytes = 0;
            }
            if !matches!(event, ToWorker::Accepted { .. })
                && let Some(ack) = ack.take()
            {
                self.send(ToClient::Ack(ack)).await?;
            }
            match event {
                ToWorker::Grants(list) => {
                    for grant in list {
                        bytes += inline_len(&grant.input);
                        grants.push(grant);
                        if grants.len() >= GRANTS || bytes >= GRANT_BYTES {
                            self.send_grants(&mut grants).await?;
                            bytes = 0;
                        }
                    }
                }
                ToWorker::Accepted { count, refused } => {
                    let stored = u64::from(count).saturating_sub(refused.len() as u64);
                    self.accepted += stored;
                    let open = ack.get_or_insert_with(v1::Ack::default);
                    open.accepted = self.accepted;
                    open.refused.extend(self.seal(&refused));
                }
                ToWorker::Welcome { worker, resumed } => self.welcome(worker, &resumed).await?,
                ToWorker::Cancel { task, token, reason } => {
                    let token = self.sealer.seal(&mut BytesMut::new(), task, token);
                    let grace_ms = u32::try_from(self.api.config.cancel_grace.as_millis()).unwrap_or(u32::MAX);
                    self.send(ToClient::Cancel(v1::Cancel { token, reason: reason.to_string(), grace_ms })).await?;
                }
                ToWorker::Revoke(list) => {
                    let tokens = self.seal(&list);
                    for (task, token) in list {
                        self.end(task, token);
                    }
                    self.send(ToClient::Revoke(v1::Revoke { tokens })).await?;
                }
                ToWorker::Recall(list) => {
                    let tokens = self.seal(&list);
                    self.send(ToClient::Recall(v1::Recall { tokens })).await?;
                }
                ToWorker::Drain => {
                    let reason = "the server is shutting down".to_owned();
                    self.send(ToClient::Drain(v1::Drain { reason })).await?;
                }
                ToWorker::Close { reason } if self.api.runtime.is_draining() => {
                    return Err(Status::unavailable(reason.to_string()));
                }
                ToWorker::Close { reason } => return Err(Status::aborted(reason.to_string())),
            }
        }
        if let Some(ack) = ack {
            self.send(ToClient::Ack(ack)).await?;
        }
        if !grants.is_empty() {
            self.send_grants(&mut grants).await?;
        }
        Ok(Next::GoOn)
    }

    async fn send_grants(&mut self, grants: &mut Vec<Grant>) -> Result<(), Status> {
        let mut names = HashMap::new();
        for grant in grants.iter_mut() {
            // What a task asks through its worker is asked in the task's tenant.
            if self.tenant.is_none()
                && self.told.insert(grant.tenant)
                && let Some(tenant) = self.api.runtime.directory().tenant_by_id(grant.tenant)
            {
                names.insert(grant.tenant.0, tenant.name.to_string());
            }
            if self.runs_packages && grant.spec.package.is_none() {
                add_package(&self.api, grant);
            }
            let held = Held { token: grant.token, attempt: grant.attempt, tenant: grant.tenant };
            self.held.insert(grant.task, held);
        }
        let message = convert::grants(&self.sealer, &self.promises, grants, names);
        grants.clear();
        self.send(ToClient::Grants(message)).await
    }

    async fn welcome(&mut self, worker: WorkerId, resumed: &[(TaskId, Token)]) -> Result<(), Status> {
        let serves = std::mem::take(&mut self.serves);
        self.api.sessions.insert(self.session, worker, self.out.clone(), self.offer, serves);
        self.api.returning.is_back(worker);
        let epoch = match self.api.runtime.read(View::Partition).await {
            Ok(Answer::Partition(figures)) => u64::from(figures.epoch),
            _ => 0,
        };
        let small = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        let welcome = v1::Welcome {
            worker_id: worker_text(worker),
            lease_ms: small(self.api.runtime.lease_ms()),
            heartbeat_ms: small(heartbeat_ms(&self.api)),
            resumed: self.seal(resumed),
            max_message_bytes: MESSAGE_BYTES as u32,
            inline_bytes: limit::INLINE_BYTES as u32,
            epoch,
            tenant: self.caller.tenant_name.to_string(),
            require_isolation: self.api.config.require_isolation,
        };
        self.send(ToClient::Welcome(welcome)).await
    }

    async fn inbound(&mut self, message: FromClient) -> Result<Next, Status> {
        let session = self.session;
        match message {
            FromClient::Results(results) => self.results(results).await?,
            FromClient::Heartbeat(beat) => {
                convert::check_heartbeat(&beat).map_err(Status::invalid_argument)?;
                let now = self.api.runtime.now_ms();
                let packages_added = convert::packages(&beat.packages_added);
                let packages_removed = convert::packages(&beat.packages_removed);
                if !(packages_added.is_empty() && packages_removed.is_empty() && beat.packages_failed.is_empty()) {
                    let failed = beat.packages_failed.iter().filter_map(convert::package_fault);
                    self.api.sessions.packages(session, &packages_added, &packages_removed, failed);
                }
                self.api.metrics.agent(beat.package_use.as_ref(), &beat.python_starts);
                self.command(Command::Heartbeat {
                    session,
                    beat: Box::new(Beat {
                        usage: convert::usage(beat.usage),
                        packages_added,
                        packages_removed,
                        data_added: convert::data(&beat.data_added),
                        data_removed: convert::data(&beat.data_removed),
                        clock_offset_ms: convert::offset(beat.clock_unix_ms, now),
                    }),
                })
                .await?;
            }
            FromClient::Started(started) => {
                let attempts = self.open_all(&started.tokens).await?;
                if !attempts.is_empty() {
                    self.command(Command::Started { session, attempts }).await?;
                }
            }
            FromClient::Credit(credit) => {
                let set = overrides(&self.api, self.tenant.unwrap_or(TenantId(0)), &self.name);
                let offer = Offer { permits: credit.permits, buffer: credit.buffer };
                // One that comes before the welcome holds, too.
                self.offer = offer;
                self.api.sessions.offers(session, offer);
                let Offer { permits, buffer } = set.within(offer);
                self.command(Command::Capacity { session, permits, buffer }).await?;
            }
            FromClient::Progress(progress) => {
                if let Some((task, token)) = self.sealer.open(&progress.token) {
                    let fraction = if progress.fraction.is_finite() { progress.fraction.clamp(0.0, 1.0) } else { 0.0 };
                    let text = cut(&progress.text, TEXT_BYTES).into();
                    // It is a sign of life, too; but one that is lost under load is followed by the next.
                    let _ = self.api.runtime.send(Command::Progress { session, task, token, fraction, text });
                }
            }
            FromClient::Logs(logs) => self.log_lines(logs).await?,
            FromClient::Returned(returned) => {
                let attempts = self.open_all(&returned.tokens).await?;
                for (task, token) in &attempts {
                    self.end(*task, *token);
                }
                if !attempts.is_empty() {
                    self.command(Command::Returned { session, attempts }).await?;
                }
            }
            FromClient::Drain(_) => {
                let (tenant, name) = (self.tenant, self.name.clone());
                let session = Some(session);
                self.command(Command::DrainWorker { request: None, tenant, name, session, draining: true }).await?;
            }
            FromClient::Bye(_) => {
                self.api.returning.said_goodbye(session);
                return Ok(Next::End);
            }
            FromClient::Hello(_) => return Err(Status::invalid_argument("hello comes once, as the first message")),
        }
        Ok(Next::GoOn)
    }

    async fn command(&self, command: Command) -> Result<(), Status> {
        self.api.runtime.send_wait(command).await.map_err(|error| Status::from(Failure::from(error)))
    }

    /// The attempts of tokens that are ours; the others are told to be refused.
    async fn open_all(&self, tokens: &[Bytes]) -> Result<Vec<(TaskId, Token)>, Status> {
        let mut attempts = Vec::with_capacity(tokens.len());
        let mut refused = Vec::new();
        for bytes in tokens {
            match self.sealer.open(bytes) {
                Some(attempt) => attempts.push(attempt),
                None => refused.push(bytes.slice(..bytes.len().min(64))),
            }
        }
        self.refuse(refused).await?;
        Ok(attempts)
    }

    async fn refuse(&self, refused: Vec<Bytes>) -> Result<(), Status> {
        if refused.is_empty() {
            return Ok(());
        }
        self.send(ToClient::Ack(v1::Ack { refused, accepted: self.accepted })).await
    }

    /// All results of a message are one command.
    async fn results(&mut self, message: v1::Results) -> Result<(), Status> {
        let mut results = Vec::with_capacity(message.results.len());
        let mut refused = Vec::new();
        for mut result in message.results {
            let bytes = std::mem::take(&mut result.token);
            let Some((task, token)) = self.sealer.open(&bytes) else {
                refused.push(bytes.slice(..bytes.len().min(64)));
                continue;
            };
            let outcome = match convert::outcome(result) {
                Reported::Ready(outcome) => outcome,
                Reported::Blob { hash, artifacts } => match self.stored_blob(task, token, hash).await {
                    Ok(size) => Outcome::Ok { result: Payload::Blob { hash, size }, artifacts },
                    Err(why) => convert::failed("unknown-blob", &why, false),
                },
            };
            self.end(task, token);
            results.push((task, token, outcome));
        }
        self.refuse(refused).await?;
        if results.is_empty() {
            return Ok(());
        }
        self.command(Command::Results { session: self.session, results }).await
    }

    /// Size of the blob that a result names; it has to be in the tenant of the task.
    async fn stored_blob(&mut self, task: TaskId, token: Token, hash: [u8; 32]) -> Result<u64, String> {
        let held = self.find(task, token).await.ok_or("the attempt is not known here")?;
        let size = self.api.runtime.blobs().size(held.tenant.0, hash).await.map_err(|error| error.to_string())?;
        size.ok_or_else(|| "the result names a blob that is not stored; put it before the result".to_owned())
    }

    /// Remembers an ended attempt for a while.
    fn end(&mut self, task: TaskId, token: Token) {
        if self.held.contains_key(&task) {
            self.ended.push_back((task, token));
            if self.ended.len() > ENDED
                && let Some((old, old_token)) = self.ended.pop_front()
            {
                // A later attempt of the same task may stand in its place.
                if self.held.get(&old).is_some_and(|h| h.token == old_token) {
                    self.held.remove(&old);
                }
            }
        }
    }

    /// An attempt by its token: from memory, else from the store (attempts of an earlier stream of this worker).
    async fn find(&mut self, task: TaskId, token: Token) -> Option<Held> {
        if let Some(held) = self.held.get(&task).filter(|h| h.token == token) {
            return Some(*held);
        }
        let tenants = match self.tenant {
            Some(tenant) => vec![tenant],
            None => self.api.runtime.directory().tenants().iter().map(|t| t.id).collect(),
        };
        let found = self.api.read_store(move |store| {
            for tenant in tenants {
                let Some(record) = store.task(tenant, task)? else { continue };
                if record.token == token {
                    return Ok(Some(Held { token, attempt: record.attempt, tenant }));
                }
                let attempts = store.attempts(tenant, task)?;
                let attempt = attempts.iter().find(|a| a.token == token);
                return Ok(attempt.map(|a| Held { token, attempt: a.number, tenant }));
            }
            Ok(None)
        });
        let held = found.await.ok()??;
        // A newer attempt of the task keeps its place.
        if self.held.get(&task).is_none_or(|other| other.token < token) {
            self.held.insert(task, held);
            self.end(task, token);
        }
        Some(held)
    }

    async fn log_lines(&mut self, message: v1::Logs) -> Result<(), Status> {
        let mut lines = Vec::with_capacity(message.lines.len());
        // Neighbouring lines are mostly of one attempt.
        let mut last: Option<(Bytes, Option<(TaskId, Held)>)> = None;
        for line in message.lines {
            let known = match &last {
                Some((token, known)) if *token == line.token => *known,
                _ => {
                    let known = match self.sealer.open(&line.token) {
                        Some((task, token)) => self.find(task, token).await.map(|held| (task, held)),
                        None => None,
                    };
                    last = Some((line.token.clone(), known));
                    known
                }
            };
            if let Some((task, held)) = known {
                lines.push(convert::line(line, held.tenant, task, held.attempt));
            }
        }
        // The queue is the bound on memory; when the log's disk is slower than the worker, the worker is slowed down
        // here.
        let sent = self.logs.send((message.sequence, lines)).await;
        sent.map_err(|_| Status::unavailable("log lines cannot be stored now"))
    }
}

#[expect(clippy::large_enum_variant, reason = "lives for one turn of the loop, on the stack")]
enum Step {
    Events(usize),
    Message(Result<Option<v1::WorkerMessage>, Status>),
    Check,
}

/// A task that was submitted before a package brought its type runs what is registered for the type now.
fn add_package(api: &Api, grant: &mut Grant) {
    let Some(registered) = task_type::defaults(api, grant.tenant, &grant.kind) else { return };
    let spec = Arc::make_mut(&mut grant.spec);
    spec.package.clone_from(&registered.spec.package);
    spec.entrypoint.clone_from(&registered.spec.entrypoint);
}

fn inline_len(payload: &Payload) -> usize {
    match payload {
        Payload::Inline(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Writes lines and acknowledges them after they are on disk. Ends with its stream.
async fn write_logs(api: Api, mut queue: mpsc::Receiver<(u64, Vec<Line>)>, out: Out) {
    let mut batch = Vec::with_capacity(LOG_MESSAGES);
    while queue.recv_many(&mut batch, LOG_MESSAGES).await > 0 {
        let mut sequences = Vec::with_capacity(batch.len());
        let mut lines = Vec::new();
        for (sequence, more) in batch.drain(..) {
            sequences.push(sequence);
            lines.extend(more);
        }
        let mut tasks: Vec<TaskId> = lines.iter().map(|line| line.task).collect();
        tasks.dedup();
        if !append(&api, lines).await {
            // Not acknowledged: the worker keeps them and sends them again on its next stream.
            continue;
        }
        api.hub.logs_arrived(tasks.into_iter());
        for sequence in sequences {
            let message = v1::ServerMessage { message: Some(ToClient::LogAck(v1::LogAck { sequence })) };
            if out.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}

async fn append(api: &Api, lines: Vec<Line>) -> bool {
    if lines.is_empty() {
        return true;
    }
    for attempt in 0..LOG_TRIES {
        let logs = api.runtime.logs().clone();
        let copy = lines.clone();
        match tokio::task::spawn_blocking(move || logs.append(copy)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!(%error, "log lines could not be stored"),
            Err(_) => tracing::error!("the log store panicked"),
        }
        tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
    }
    false
}
