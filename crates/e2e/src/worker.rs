//! A worker written from `worker.proto` alone. It keeps its live attempts over broken connections, resumes them, and can be
//! told to behave badly: to forget attempts, or to send results for attempts that are no longer its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewheel_proto::v1;
use tidewheel_proto::v1::server_message::Message as FromServer;
use tidewheel_proto::v1::worker_message::Message as ToServer;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::ledger::Ledger;

/// What becomes of a grant.
pub enum Deed {
    /// A result, at once.
    Done(Bytes),
    /// A result, later.
    After(Duration, Bytes),
    /// A failure.
    Fail(v1::Failure),
    /// Never a result.
    Hold,
}

/// Decides about a grant.
pub type Handler = Arc<dyn Fn(&v1::Grant) -> Deed + Send + Sync>;

/// How a worker behaves.
#[derive(Clone)]
pub struct Plan {
    /// Server.
    pub url: String,
    /// Token.
    pub token: String,
    /// Name; unique.
    pub name: String,
    /// Queues served.
    pub queues: Vec<String>,
    /// Attempts at once.
    pub permits: u32,
    /// Forgets its attempts when the connection breaks, as a worker does that crashed.
    pub forgetful: bool,
    /// Sends results even when the server said that the attempt is no longer its own.
    pub stubborn: bool,
    /// What it does.
    pub handler: Handler,
}

impl Plan {
    /// A well-behaved worker that answers every grant with its own name.
    pub fn new(url: &str, token: &str, name: &str, queues: &[&str], permits: u32) -> Plan {
        let result = Bytes::from(format!("\"{name}\""));
        Plan {
            url: url.to_owned(),
            token: token.to_owned(),
            name: name.to_owned(),
            queues: queues.iter().map(|q| (*q).to_owned()).collect(),
            permits,
            forgetful: false,
            stubborn: false,
            handler: Arc::new(move |_| Deed::Done(result.clone())),
        }
    }

    /// The same with another handler.
    pub fn with(self, handler: impl Fn(&v1::Grant) -> Deed + Send + Sync + 'static) -> Plan {
        Plan { handler: Arc::new(handler), ..self }
    }
}

/// A worker that runs until it is dropped.
pub struct Worker {
    task: tokio::task::JoinHandle<()>,
    connected: watch::Receiver<u64>,
}

impl Worker {
    /// Starts one; it connects, and connects again, by itself.
    pub fn start(plan: Plan, ledger: Ledger) -> Worker {
        let (connections, connected) = watch::channel(0);
        let task = tokio::spawn(async move {
            let (finish, finished) = mpsc::channel(65_536);
            let mut state = State { plan, ledger, live: HashMap::new(), connections, finish, finished };
            loop {
                // A refused or broken connection is what these tests cause on purpose: it tries again.
                let _ = state.session().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Worker { task, connected }
    }

    /// Waits until it has been welcomed at least once.
    pub async fn connected(&self) -> anyhow::Result<()> {
        let mut seen = self.connected.clone();
        let waited = tokio::time::timeout(crate::PATIENCE, seen.wait_for(|n| *n > 0)).await;
        anyhow::ensure!(matches!(waited, Ok(Ok(_))), "the worker was never welcomed");
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct State {
    plan: Plan,
    ledger: Ledger,
    /// Attempts it has, each with its result once that is known.
    live: HashMap<Bytes, Option<v1::TaskResult>>,
    connections: watch::Sender<u64>,
    /// Results of attempts that take their time; it outlives a broken connection, as the attempt does.
    finish: mpsc::Sender<v1::TaskResult>,
    finished: mpsc::Receiver<v1::TaskResult>,
}

impl State {
    async fn session(&mut self) -> anyhow::Result<()> {
        if self.plan.forgetful {
            self.live.clear();
        }
        let (out, stream) = mpsc::channel(1024);
        out.send(message(ToServer::Hello(self.hello()))).await?;
        let mut client = crate::wire::worker(&self.plan.url, &self.plan.token).await?;
        let mut inbound = client.connect(ReceiverStream::new(stream)).await?.into_inner();
        let mut session = Session { out, unacknowledged: VecDeque::new(), accepted: 0 };
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                received = inbound.message() => match received? {
                    Some(message) => self.handle(&mut session, message).await?,
                    None => return Ok(()),
                },
                Some(result) = self.finished.recv() => {
                    let mut results = vec![result];
                    while let Ok(more) = self.finished.try_recv() {
                        results.push(more);
                    }
                    results.retain(|result| self.plan.stubborn || self.live.contains_key(&result.token));
                    self.send(&mut session, results).await?;
                }
                _ = beat.tick() => session.out.send(message(ToServer::Heartbeat(v1::Heartbeat::default()))).await?,
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            name: self.plan.name.clone(),
            version: "e2e".to_owned(),
            queues: self.plan.queues.clone(),
            permits: self.plan.permits,
            resume: self.live.keys().map(|token| v1::Attempt { token: token.clone() }).collect(),
            instance: self.plan.name.clone(),
            kind: "sdk".to_owned(),
            ..v1::Hello::default()
        }
    }

    async fn handle(&mut self, session: &mut Session, received: v1::ServerMessage) -> anyhow::Result<()> {
        match received.message {
            Some(FromServer::Welcome(welcome)) => {
                self.connections.send_modify(|n| *n += 1);
                if !self.plan.stubborn {
                    self.live.retain(|token, _| welcome.resumed.contains(token));
                }
                // Results whose storing was never acknowledged are sent again: it may have been the answer that was lost.
                let again: Vec<_> = self.live.values().flatten().cloned().collect();
                self.send(session, again).await?;
            }
            Some(FromServer::Grants(grants)) => self.start(session, grants.grants).await?,
            Some(FromServer::Ack(ack)) => self.acknowledge(session, &ack),
            Some(FromServer::Cancel(cancel)) => {
                let failure = v1::Failure { r#type: "cancelled".to_owned(), cancelled: true, ..v1::Failure::default() };
                let result = outcome(cancel.token, v1::task_result::Outcome::Failed(failure));
                self.send(session, vec![result]).await?;
            }
            Some(FromServer::Revoke(revoke)) if !self.plan.stubborn => {
                self.live.retain(|token, _| !revoke.tokens.contains(token));
            }
            _ => {}
        }
        Ok(())
    }

    async fn start(&mut self, session: &mut Session, grants: Vec<v1::Grant>) -> anyhow::Result<()> {
        let mut started = Vec::with_capacity(grants.len());
        let mut results = Vec::new();
        for grant in grants {
            self.ledger.granted(&self.plan.name, &grant);
            self.live.insert(grant.token.clone(), None);
            started.push(grant.token.clone());
            let done = |bytes| outcome(grant.token.clone(), v1::task_result::Outcome::Ok(bytes));
            match (self.plan.handler)(&grant) {
                Deed::Done(bytes) => results.push(done(bytes)),
                Deed::Fail(failure) => {
                    results.push(outcome(grant.token.clone(), v1::task_result::Outcome::Failed(failure)));
                }
                Deed::After(wait, bytes) => {
                    let (result, finish) = (done(bytes), self.finish.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        // The worker is gone: the attempt then ends with its lease.
                        let _ = finish.send(result).await;
                    });
                }
                Deed::Hold => {}
            }
        }
        // Kept before anything is sent: the connection may break in between, and the attempts then go on without it.
        self.live.extend(results.iter().map(|result| (result.token.clone(), Some(result.clone()))));
        session.out.send(message(ToServer::Started(v1::Started { tokens: started }))).await?;
        self.send(session, results).await
    }

    async fn send(&mut self, session: &mut Session, results: Vec<v1::TaskResult>) -> anyhow::Result<()> {
        if results.is_empty() {
            return Ok(());
        }
        for result in &results {
            self.ledger.sent(&result.token);
            session.unacknowledged.push_back(result.token.clone());
            self.live.insert(result.token.clone(), Some(result.clone()));
        }
        session.out.send(message(ToServer::Results(v1::Results { results }))).await?;
        Ok(())
    }

    /// `refused` names results, `accepted` counts the others in the order in which they were sent.
    fn acknowledge(&mut self, session: &mut Session, ack: &v1::Ack) {
        for token in &ack.refused {
            session.unacknowledged.retain(|sent| sent != token);
            self.live.remove(token);
            self.ledger.refused(token);
        }
        while session.accepted < ack.accepted {
            session.accepted += 1;
            if let Some(token) = session.unacknowledged.pop_front() {
                self.live.remove(&token);
                self.ledger.accepted(&token);
            }
        }
    }
}

struct Session {
    out: mpsc::Sender<v1::WorkerMessage>,
    unacknowledged: VecDeque<Bytes>,
    accepted: u64,
}

/// A message of a worker.
pub fn message(message: ToServer) -> v1::WorkerMessage {
    v1::WorkerMessage { message: Some(message) }
}

/// The result of an attempt.
pub fn outcome(token: Bytes, outcome: v1::task_result::Outcome) -> v1::TaskResult {
    v1::TaskResult { token, outcome: Some(outcome), artifacts: Vec::new() }
}
