//! The connection to the server: one outbound stream, opened again for ever until the agent ends. It says hello, beats, moves
//! results and logs, and tells the runner what comes in. It decides nothing about attempts.
//!
//! ```text
//!  runner --Out--> [unbounded: bounded by the credits the server was given] --> link --> stream --> server
//!  runner <-Event-- [bounded; when full the link stops reading, which is flow control] <-- link <--
//!  heartbeat task -----------------------------------------------------------> stream (its own sender)
//! ```
//! Owned here: results until acknowledged (`outbox`), log lines until acknowledged (`log_ship`). Order on a new stream:
//! hello with every live attempt, welcome, the results that are still current, then the rest.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::future::OptionFuture;
use tidewheel_proto::v1::server_message::Message as In;
use tidewheel_proto::v1::worker_message::Message as Wire;
use tidewheel_proto::v1::{
    Bye, Heartbeat, Hello, LogLine, Results, ServerMessage, Started, TaskResult, Welcome, WorkerMessage,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::capacity::Gauge;
use crate::client::{Client, KEEP_ALIVE, KEEP_ALIVE_TIMEOUT};
use crate::error::Error;
use crate::lease::Lease;
use crate::log_ship::LogBuffer;
use crate::outbox::Outbox;
use crate::tally::Tally;

const FLUSH_LOGS: Duration = Duration::from_millis(100);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A server that accepts the call answers the hello in this time or is taken for dead.
const WELCOME_WAIT: Duration = Duration::from_secs(10);
/// Where the server names no bound.
const DEFAULT_MESSAGE: usize = 4 << 20;

/// From the runner.
pub(crate) enum Out {
    Results(Vec<TaskResult>),
    Logs(Vec<LogLine>),
    Started(Vec<Bytes>),
    Other(Box<Wire>),
}

/// To the runner.
pub(crate) enum LinkEvent {
    /// A stream is being opened: which attempts live?
    Hello(oneshot::Sender<Hello>),
    Welcome(Box<Welcome>),
    Message(In),
    Lost,
}

pub(crate) struct Link<E> {
    pub(crate) client: Client,
    /// Where the server asked to connect next, once.
    pub(crate) elsewhere: Option<Client>,
    pub(crate) commands: mpsc::UnboundedReceiver<Out>,
    pub(crate) events: mpsc::Sender<E>,
    pub(crate) wrap: fn(LinkEvent) -> E,
    pub(crate) gauge: Gauge,
    pub(crate) lease: Arc<Lease>,
    pub(crate) shared: Arc<LinkState>,
    /// Set when everything was said: what is unacknowledged is sent, then the stream is closed.
    pub(crate) finish: CancellationToken,
    pub(crate) outbox: Outbox,
    /// Attempts that began while there was no stream.
    pub(crate) begun: Vec<Bytes>,
    pub(crate) logs: LogBuffer,
}

/// What others look at.
#[derive(Default)]
pub(crate) struct LinkState {
    pub(crate) connected: std::sync::atomic::AtomicBool,
    pub(crate) worker_id: parking_lot::Mutex<String>,
    pub(crate) packages_added: parking_lot::Mutex<Vec<String>>,
    pub(crate) packages_removed: parking_lot::Mutex<Vec<String>>,
    pub(crate) data_added: parking_lot::Mutex<Vec<String>>,
    pub(crate) data_removed: parking_lot::Mutex<Vec<String>>,
    pub(crate) tally: Arc<Tally>,
}

/// What happened on a stream.
enum Step {
    Came(Result<Option<ServerMessage>, tonic::Status>),
    Told(usize),
    FlushLogs,
    Nothing,
}

/// Why a stream ended.
enum End {
    Finished,
    /// Nobody listens any more.
    Abandoned,
    Broken(tonic::Status),
    /// The server asked for another stream.
    Asked(String),
}

impl<E: Send + 'static> Link<E> {
    /// Runs until `finish`. An error only if the server refuses this agent at its first hello.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut delay = FIRST_RETRY;
        let mut welcomed = false;
        let mut said = false;
        loop {
            let begin = Instant::now();
            let end = self.stream(&mut welcomed).await;
            self.shared.connected.store(false, std::sync::atomic::Ordering::Relaxed);
            let (status, asked) = match end {
                End::Finished | End::Abandoned => return Ok(()),
                End::Broken(status) => (status, false),
                End::Asked(why) => (tonic::Status::unavailable(format!("asked to reconnect: {why}")), true),
            };
            if self.events.send((self.wrap)(LinkEvent::Lost)).await.is_err() {
                return Ok(());
            }
            let refused = matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument
            );
            if status.code() == Code::Unauthenticated && self.client.renew() {
                continue;
            }
            if refused && !welcomed {
                return Err(Error::Refused(status.message().to_owned()));
            }
            if status.code() == Code::Unimplemented && self.client.without_compression() {
                continue;
            }
            if begin.elapsed() > Duration::from_secs(10) {
                (delay, said) = (FIRST_RETRY, false);
            }
            // At once, for tasks may wait for what it will say of itself; with a pause where it was asked as soon as it had come.
            if asked && begin.elapsed() > FIRST_RETRY {
                tracing::info!(reason = %status.message(), "connecting anew");
                continue;
            }
            if !said {
                tracing::warn!(reason = %status.message(), "the connection to the server is gone; trying again");
                said = delay >= Duration::from_secs(1);
            }
            self.absorb_while(tokio::time::sleep(jitter(delay))).await;
            if self.finish.is_cancelled() && self.outbox.is_empty() {
                return Ok(());
            }
            delay = (delay * 2).min(LAST_RETRY);
        }
    }

    async fn stream(&mut self, welcomed: &mut bool) -> End {
        let (reply, answer) = oneshot::channel();
        if self.events.send((self.wrap)(LinkEvent::Hello(reply))).await.is_err() {
            return End::Abandoned;
        }
        let Ok(mut hello) = answer.await else { return End::Abandoned };
        hello.resume.extend(self.outbox.tokens().map(|token| tidewheel_proto::v1::Attempt { token: token.clone() }));
        hello.clock_unix_ms = now_ms();
        let (sender, queue) = mpsc::channel(64);
        let first = WorkerMessage { message: Some(Wire::Hello(hello)) };
        sender.try_send(first).expect("a new channel has room");
        // For this stream only: when it ends, the address this agent was given stands for all nodes again.
        let mut client = self.elsewhere.take().unwrap_or_else(|| self.client.clone()).worker();
        let opened = tokio::time::timeout(WELCOME_WAIT, async {
            let mut inbound = client.connect(tokio_stream::wrappers::ReceiverStream::new(queue)).await?.into_inner();
            match inbound.message().await? {
                Some(ServerMessage { message: Some(In::Welcome(welcome)) }) => Ok((inbound, welcome)),
                _ => Err(tonic::Status::aborted("the server did not say welcome")),
            }
        });
        let (inbound, welcome) = match self.absorb_while(opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return End::Broken(status),
            Err(_) => return End::Broken(tonic::Status::deadline_exceeded("the server did not answer in time")),
        };
        *welcomed = true;
        let beat = self.begin(&welcome, sender.clone());
        let end = self.serve(inbound, sender, welcome, &beat).await;
        beat.cancel();
        if let End::Broken(status) = &end
            && is_silence(status)
        {
            self.lease.was_silent(KEEP_ALIVE + KEEP_ALIVE_TIMEOUT);
        }
        end
    }

    /// Takes what the runner says while there is no stream, so that it waits here, where it is bounded. What is only worth
    /// something at once is dropped; the next hello tells the server what is live.
    async fn absorb_while<T>(&mut self, wait: impl Future<Output = T>) -> T {
        tokio::pin!(wait);
        let mut commands = Vec::new();
        loop {
            tokio::select! {
                done = &mut wait => return done,
                count = self.commands.recv_many(&mut commands, 256), if !self.commands.is_closed() || !self.commands.is_empty() => {
                    if count == 0 {
                        self.finish.cancel();
                    }
                }
            }
            for command in commands.drain(..) {
                match command {
                    Out::Results(results) => self.outbox.push(results),
                    Out::Logs(lines) => lines.into_iter().for_each(|line| self.logs.push(line)),
                    Out::Started(tokens) => self.begun.extend(tokens),
                    Out::Other(_) => {}
                }
            }
        }
    }

    /// What follows from a welcome, and the heartbeat. A task of its own beats, so that neither a full stream of results nor
    /// a busy runner delays it.
    fn begin(&mut self, welcome: &Welcome, sender: mpsc::Sender<WorkerMessage>) -> CancellationToken {
        self.lease.welcome(Duration::from_millis(welcome.lease_ms.max(100).into()), Instant::now());
        let current: HashSet<Bytes> = welcome.resumed.iter().cloned().collect();
        self.outbox.restart(&current);
        self.logs.restart();
        *self.shared.worker_id.lock() = welcome.worker_id.clone();
        self.shared.connected.store(true, std::sync::atomic::Ordering::Relaxed);
        tracing::info!(worker = %welcome.worker_id, lease_ms = welcome.lease_ms, "connected");
        let stop = CancellationToken::new();
        let every = Duration::from_millis(welcome.heartbeat_ms.max(10).into());
        let (gauge, lease, shared, token) = (self.gauge.clone(), self.lease.clone(), self.shared.clone(), stop.clone());
        tokio::spawn(async move {
            let beat = async {
                let mut tick = tokio::time::interval(every);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    let due = tick.tick().await;
                    let mut beat = Heartbeat {
                        usage: Some(gauge.usage()),
                        clock_unix_ms: now_ms(),
                        packages_added: std::mem::take(&mut shared.packages_added.lock()),
                        packages_removed: std::mem::take(&mut shared.packages_removed.lock()),
                        data_added: std::mem::take(&mut shared.data_added.lock()),
                        data_removed: std::mem::take(&mut shared.data_removed.lock()),
                        ..Heartbeat::default()
                    };
                    shared.tally.tell(&mut beat);
                    let message = Wire::Heartbeat(beat);
                    if sender.send(WorkerMessage { message: Some(message) }).await.is_err() {
                        return;
                    }
                    lease.contact(Instant::now());
                    let late = due.elapsed();
                    if late > every {
                        tracing::warn!(
                            ms = late.as_millis() as u64,
                            "a heartbeat was late: this machine is overloaded, or the server reads slowly"
                        );
                    }
                }
            };
            tokio::select! { () = beat => {}, () = token.cancelled() => {} }
        });
        stop
    }

    async fn serve(
        &mut self,
        mut inbound: tonic::Streaming<ServerMessage>,
        sender: mpsc::Sender<WorkerMessage>,
        welcome: Welcome,
        beat: &CancellationToken,
    ) -> End {
        let max_bytes = match welcome.max_message_bytes {
            0 => DEFAULT_MESSAGE,
            n => n as usize,
        } * 3
            / 4;
        if self.events.send((self.wrap)(LinkEvent::Welcome(Box::new(welcome)))).await.is_err() {
            return End::Abandoned;
        }
        let mut flush_logs = tokio::time::interval(FLUSH_LOGS);
        flush_logs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut commands = vec![Out::Started(std::mem::take(&mut self.begun))];
        self.obey(&mut commands, &sender).await;
        // A message taken from the stream that the runner has no room for yet. While it waits, nothing more is read.
        let mut pending: Option<E> = None;
        let mut due = false;
        let mut listening = true;
        loop {
            if !self.send_waiting(&sender, max_bytes, due).await {
                // The body of the call is gone; its status says why.
                let status = inbound.message().await.err();
                return End::Broken(status.unwrap_or_else(|| tonic::Status::unavailable("the stream ended")));
            }
            due = false;
            if self.finish.is_cancelled() && self.outbox.is_empty() && self.logs.is_empty() && self.commands.is_empty()
            {
                let bye = Wire::Bye(Bye { reason: "the agent stopped".into() });
                let _ = sender.send(WorkerMessage { message: Some(bye) }).await;
                // The call ends when the last sender is gone, that of the heartbeat included; the server closes its side once it has read everything.
                beat.cancel();
                drop(sender);
                let closed = async { while let Ok(Some(_)) = inbound.message().await {} };
                let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
                return End::Finished;
            }
            let deliver: OptionFuture<_> = pending.is_some().then(|| self.events.reserve()).into();
            let step = tokio::select! {
                message = inbound.message(), if pending.is_none() => Step::Came(message),
                Some(room) = deliver => {
                    let Ok(room) = room else { return End::Abandoned };
                    room.send(pending.take().expect("there is a message to deliver"));
                    Step::Nothing
                }
                count = self.commands.recv_many(&mut commands, 256), if listening => Step::Told(count),
                _ = flush_logs.tick(), if !self.logs.is_empty() => Step::FlushLogs,
                () = self.finish.cancelled(), if !self.finish.is_cancelled() => Step::Nothing,
            };
            match step {
                Step::Came(Ok(Some(ServerMessage { message: Some(In::Reconnect(why)) }))) => {
                    if !why.address.is_empty() {
                        match self.client.at(&why.address) {
                            Ok(client) => self.elsewhere = Some(client),
                            Err(error) => tracing::warn!(%error, "the server asked to connect elsewhere"),
                        }
                    }
                    return End::Asked(why.reason);
                }
                Step::Came(Ok(Some(message))) => pending = self.take_in(message),
                Step::Came(Ok(None)) => return End::Broken(tonic::Status::unavailable("the server closed the stream")),
                Step::Came(Err(status)) => return End::Broken(status),
                Step::Told(0) => {
                    // The runner is gone without a word; what it said before still goes out.
                    listening = false;
                    self.finish.cancel();
                }
                Step::Told(_) => self.obey(&mut commands, &sender).await,
                Step::FlushLogs => due = true,
                Step::Nothing => {}
            }
        }
    }

    /// Acknowledgements end here; everything else is for the runner.
    fn take_in(&mut self, message: ServerMessage) -> Option<E> {
        self.lease.contact(Instant::now());
        match message.message? {
            In::Ack(ack) => {
                self.outbox.acknowledge(&ack);
                None
            }
            In::LogAck(ack) => {
                self.logs.acknowledge(ack.sequence);
                None
            }
            other => Some((self.wrap)(LinkEvent::Message(other))),
        }
    }

    /// A send fails only when the stream is gone, which the next step of the loop sees.
    async fn obey(&mut self, commands: &mut Vec<Out>, sender: &mpsc::Sender<WorkerMessage>) {
        let mut started = Vec::new();
        for command in commands.drain(..) {
            match command {
                Out::Results(results) => self.outbox.push(results),
                Out::Logs(lines) => lines.into_iter().for_each(|line| self.logs.push(line)),
                Out::Started(tokens) => started.extend(tokens),
                Out::Other(message) => drop(sender.send(WorkerMessage { message: Some(*message) }).await),
            }
        }
        if !started.is_empty() {
            let message = Some(Wire::Started(Started { tokens: started }));
            let _ = sender.send(WorkerMessage { message }).await;
        }
    }

    async fn send_waiting(&mut self, sender: &mpsc::Sender<WorkerMessage>, max_bytes: usize, due: bool) -> bool {
        loop {
            let results = self.outbox.next(max_bytes);
            if results.is_empty() {
                break;
            }
            if sender.send(WorkerMessage { message: Some(Wire::Results(Results { results })) }).await.is_err() {
                return false;
            }
        }
        let flush = due || self.finish.is_cancelled();
        while let Some(logs) = self.logs.next(flush) {
            if sender.send(WorkerMessage { message: Some(Wire::Logs(logs)) }).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Whether the connection ended because nothing was heard, and not because the peer closed it.
fn is_silence(status: &tonic::Status) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(status);
    while let Some(error) = source {
        let text = error.to_string();
        if text.contains("keep-alive timed out") || text.contains("operation timed out") {
            return true;
        }
        source = error.source();
    }
    false
}

/// Between half and all of a delay, so that agents that lost the same server do not return in step.
fn jitter(delay: Duration) -> Duration {
    let mut byte = [0u8; 1];
    let _ = getrandom::fill(&mut byte);
    delay / 2 + delay.mul_f64(f64::from(byte[0]) / 512.0)
}

pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
