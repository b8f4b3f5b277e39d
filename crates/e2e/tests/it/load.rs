//! Load that keeps its own books: numbered tasks with idempotency keys, over gRPC and REST, where each number ends as
//! acknowledged, refused or unknown, and the unknown ones are repeated under the same key until they are known.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::rest::Rest;
use tidewheel_e2e::wire;
use tidewheel_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const BULK: usize = 0;
const SINGLE: usize = 1;

/// What the submitters of a test share.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) queue: String,
    pub(crate) ledger: Ledger,
    /// Numbers that may be open at once: sent and not yet ended. It bounds how long the end takes.
    pub(crate) open: u64,
    next: Arc<AtomicU64>,
    /// Tasks that ended without the ledger having heard of it: the acknowledgement of their result died with the server.
    unheard: Arc<AtomicU64>,
    /// One at a time asks the server how many have ended.
    asking: Arc<tokio::sync::Mutex<()>>,
    /// Numbers whose outcome is unknown, apart for bulk and single submits: a repeat has to be the same call.
    unknown: [Arc<Mutex<VecDeque<u64>>>; 2],
    /// How often an outcome was unknown.
    pub(crate) unknowns: Arc<AtomicU64>,
    /// How often a submit was refused: by the server's own word nothing was stored.
    pub(crate) refusals: Arc<AtomicU64>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Load {
    pub(crate) fn new(url: &str, token: &str, queue: &str, ledger: &Ledger, open: u64) -> Load {
        Load {
            url: url.to_owned(),
            token: token.to_owned(),
            queue: queue.to_owned(),
            ledger: ledger.clone(),
            open,
            next: Arc::default(),
            unheard: Arc::default(),
            asking: Arc::default(),
            unknown: Default::default(),
            unknowns: Arc::default(),
            refusals: Arc::default(),
            stop: Arc::default(),
        }
    }

    /// The idempotency key of a number.
    pub(crate) fn key(n: u64) -> String {
        format!("number-{n}")
    }

    /// Numbers given out so far.
    pub(crate) fn given(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Gives out nothing new from now on; what is unknown is still settled.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// How many numbers are not settled yet.
    pub(crate) fn unsettled(&self) -> usize {
        self.given() as usize - self.ledger.acknowledged()
    }

    /// The next numbers to send: the unknown ones first.
    fn take(&self, way: usize, count: u64) -> Vec<u64> {
        let mut unknown = self.unknown[way].lock().unwrap_or_else(PoisonError::into_inner);
        let again = (count as usize).min(unknown.len());
        let mut numbers: Vec<u64> = unknown.drain(..again).collect();
        drop(unknown);
        if numbers.is_empty() && self.has_room() && !self.stop.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(count, Ordering::Relaxed);
            numbers.extend(first..first + count);
        }
        numbers
    }

    fn has_room(&self) -> bool {
        self.given() < self.ledger.completed() as u64 + self.unheard.load(Ordering::Relaxed) + self.open
    }

    /// Waits a moment; where the books say that too much is open, asks the server. A result that was stored right before a
    /// kill is acknowledged to nobody: its attempt is not resumed, so that its worker forgets it. Such tasks have ended
    /// without the ledger knowing, a few with each kill, and would take up all the room in the end.
    async fn wait_for_room(&self, rest: &Rest) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if self.has_room() {
            return;
        }
        let Ok(_one) = self.asking.try_lock() else { return };
        // No answer while the server is down: it is asked again.
        let Ok(ended) = self.ended(rest).await else { return };
        // The ledger is read after the server: what was acknowledged in between makes the difference smaller, never larger.
        self.unheard.store(ended.saturating_sub(self.ledger.completed() as u64), Ordering::Relaxed);
    }

    /// Tasks that have ended, by the server's own count; the tests of this load have no others.
    async fn ended(&self, rest: &Rest) -> anyhow::Result<u64> {
        let counts = rest.get("/api/tasks/counts").await?.ok()?.json()?;
        counts["counts"]["succeeded"].as_u64().with_context(|| format!("no count of succeeded tasks: {counts}"))
    }

    fn is_unknown(&self, way: usize, numbers: &[u64]) {
        self.unknowns.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        self.again(way, numbers);
    }

    fn is_refused(&self, way: usize, n: u64) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        // Tried again like an unknown one, so that at the end every number is stored once.
        self.again(way, &[n]);
    }

    fn again(&self, way: usize, numbers: &[u64]) {
        self.unknown[way].lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
    }

    /// Submits in bulk over one gRPC stream after the other, several requests in flight, until the task is aborted.
    pub(crate) async fn bulk(self, size: u64, window: usize) {
        loop {
            let mut flight: VecDeque<Vec<u64>> = VecDeque::new();
            // The connection broke, as it is meant to: what was in flight is unknown.
            let _ = self.bulk_stream(size, window, &mut flight).await;
            for numbers in flight {
                self.is_unknown(BULK, &numbers);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn bulk_stream(&self, size: u64, window: usize, flight: &mut VecDeque<Vec<u64>>) -> anyhow::Result<()> {
        let mut client = wire::client(&self.url, &self.token).await?;
        let (out, stream) = mpsc::channel(window);
        let mut inbound = None;
        let mut stream = Some(ReceiverStream::new(stream));
        let rest = Rest::new(&self.url, &self.token);
        let mut request = 0;
        loop {
            while flight.len() < window {
                let numbers = self.take(BULK, size);
                if numbers.is_empty() {
                    break;
                }
                let spec = |n: &u64| wire::numbered(&self.queue, "e2e.step", &Load::key(*n), *n);
                let tasks = numbers.iter().map(spec).collect();
                flight.push_back(numbers);
                request += 1;
                out.send(v1::SubmitRequest { request, tasks }).await?;
            }
            // The stream is opened with its first request under way: a server may answer no sooner.
            if inbound.is_none()
                && let Some(stream) = stream.take()
            {
                inbound = Some(client.submit_stream(stream).await?.into_inner());
            }
            let Some(inbound) = inbound.as_mut() else { continue };
            if flight.is_empty() {
                self.wait_for_room(&rest).await;
                continue;
            }
            let Some(response) = inbound.message().await? else { return Ok(()) };
            let numbers = flight.front().map(Vec::as_slice).unwrap_or_default();
            anyhow::ensure!(numbers.len() == response.outcomes.len(), "an answer of another length than its request");
            self.settle(numbers, &response.outcomes);
            flight.pop_front();
        }
    }

    fn settle(&self, numbers: &[u64], outcomes: &[v1::SubmitOutcome]) {
        for (n, outcome) in numbers.iter().zip(outcomes) {
            match outcome.error_code.as_str() {
                "" => self.ledger.submitted(*n, wire::id(&outcome.id)),
                "outcome-unknown" => self.is_unknown(BULK, &[*n]),
                "overloaded" | "unavailable" | "rate-limited" => self.is_refused(BULK, *n),
                other => self.ledger.book().violations.push(format!("a sound submit was refused with {other}")),
            }
        }
    }

    /// Submits one by one over REST until the task is aborted.
    pub(crate) async fn single(self) {
        let rest = Rest::new(&self.url, &self.token);
        loop {
            let Some(n) = self.take(SINGLE, 1).first().copied() else {
                self.wait_for_room(&rest).await;
                continue;
            };
            let body = json!({ "type": "e2e.step", "queue": self.queue, "input": { "n": n } });
            match rest.submit(&Load::key(n), &body).await {
                Ok(answer) if matches!(answer.status, 200 | 201) => match answer.text("/id") {
                    Ok(text) => self.ledger.submitted(n, tidewheel_proto::id::parse("task", &text).unwrap_or(0)),
                    Err(error) => self.ledger.book().violations.push(error.to_string()),
                },
                Ok(answer) if matches!(answer.status, 429 | 503) => {
                    if answer.code() == "outcome-unknown" {
                        self.is_unknown(SINGLE, &[n]);
                    } else {
                        self.is_refused(SINGLE, n);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(answer) => {
                    let what = format!("a sound submit got {}: {}", answer.status, answer.shown());
                    self.ledger.book().violations.push(what);
                }
                Err(_) => {
                    self.is_unknown(SINGLE, &[n]);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Waits until every number is settled and has run, and no task is open in the queue.
    pub(crate) async fn settled(&self, rest: &Rest) -> anyhow::Result<()> {
        let waited = tidewheel_e2e::until_done("every accepted task to end", || async {
            let left = (open_in(rest, &self.queue).await?, self.unsettled());
            Ok(if left == (0, 0) { Ok(()) } else { Err(left) })
        })
        .await;
        let stats = rest.get(&format!("/api/queues/{}/stats", self.queue)).await?.shown();
        let unsettled = self.unsettled();
        waited.map_err(|e: anyhow::Error| e.context(format!("{unsettled} numbers have no id; the queue says {stats}")))
    }

    /// Checks every acknowledged task against the store: there, succeeded, one per number; and none beside them.
    pub(crate) async fn check_store(&self, rest: &Rest) -> anyhow::Result<()> {
        self.ledger.check()?;
        let numbers: Vec<(u64, u128)> = {
            let book = self.ledger.book();
            book.submitted.iter().flat_map(|(n, ids)| ids.iter().map(|id| (*n, *id))).collect()
        };
        check_states(&self.url, &self.token, &numbers, Some("succeeded")).await?;
        let unheard: Vec<_> = {
            let book = self.ledger.book();
            numbers.iter().filter(|(_, id)| !book.tasks.contains_key(id)).take(5).copied().collect()
        };
        anyhow::ensure!(unheard.is_empty(), "these ended without any worker having seen them: {unheard:?}");
        let filter = format!("/api/queues/{}/stats", self.queue);
        let stats = rest.get(&filter).await?.ok()?.json()?;
        anyhow::ensure!(stats["dead"].as_u64() == Some(0), "there are dead tasks: {stats}");
        let counts = rest.get("/api/tasks/counts").await?.ok()?.json()?;
        let stored = counts["counts"]["succeeded"].as_u64().unwrap_or(0);
        let wanted = numbers.len() as u64;
        anyhow::ensure!(stored == wanted, "{stored} tasks have succeeded, {wanted} were acknowledged: {counts}");
        Ok(())
    }
}

/// Tasks of a queue that have not ended, by the store's word.
pub(crate) async fn open_in(rest: &Rest, queue: &str) -> anyhow::Result<u64> {
    let stats = rest.get(&format!("/api/queues/{queue}/stats")).await?.ok()?.json()?;
    let count = |name: &&str| stats[*name].as_u64().with_context(|| format!("no {name}: {stats}"));
    ["depth", "scheduled", "running"].iter().map(count).sum()
}

/// Reads tasks back over gRPC, many at once: each has to be there, and in `state` where one is given.
pub(crate) async fn check_states(
    url: &str,
    token: &str,
    tasks: &[(u64, u128)],
    state: Option<&str>,
) -> anyhow::Result<()> {
    let client = wire::client(url, token).await?;
    for chunk in tasks.chunks(256) {
        let mut reads = tokio::task::JoinSet::new();
        for (n, id) in chunk.iter().copied() {
            let mut client = client.clone();
            reads.spawn(async move {
                let request = v1::GetRequest { id: id.to_be_bytes().to_vec().into(), wait_ms: 0 };
                (n, id, client.get(request).await)
            });
        }
        while let Some(read) = reads.join_next().await {
            let (n, id, answer) = read?;
            let view = answer.map_err(|status| {
                anyhow::anyhow!("acknowledged number {n}, {} cannot be read: {status}", wire::text(id))
            })?;
            let found = view.into_inner().state;
            let right = state.is_none_or(|wanted| wanted == found);
            anyhow::ensure!(right, "number {n}, {} is {found}", wire::text(id));
        }
    }
    Ok(())
}
