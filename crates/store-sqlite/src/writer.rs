//! The one thread that writes.
//!
//! Protocol: callers append to the queue under its lock; the writer takes everything that has gathered while the last
//! commit was on its way to the disk (up to [`GROUP_MUTATIONS`] or [`GROUP_BYTES`]), makes one transaction of it, and
//! calls each batch's `done` after the transaction returned. It never waits for more to come. Jobs (opening a partition,
//! sweeping) keep their place between the batches. A batch that fails for its own reason fails alone: the transaction is
//! rolled back and its batches are tried one by one. After an error of fsync nothing is written any more, since what the
//! kernel then still holds is unknown.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tidewheel_store::{Committed, Error};

use crate::batch::Encoded;
use crate::checkpoint::Log;
use crate::error::During;
use crate::figures::Counters;
use crate::keys::keeper::Bell;
use crate::layout::TaskKey;
use crate::statement::Statements;
use crate::{keys, running, sweep};

/// Mutations of one transaction, unless a single batch has more. Enough to make the fsync cheap per task; more would
/// only add to the latency of the first in line.
const GROUP_MUTATIONS: usize = 8_192;
/// Bytes of one transaction, for the same reason.
const GROUP_BYTES: usize = 4 << 20;
/// A log that nobody writes to is emptied after so long.
const IDLE: Duration = Duration::from_secs(2);

/// Work between the batches.
type Job = Box<dyn FnOnce(&Connection, Result<(), Error>) + Send>;

enum Item {
    Batch(Box<Encoded>, Committed),
    Job(Job),
    ForgetKeys { now: u64, limit: u64, answer: SyncSender<Result<u64, Error>> },
    RemoveKeyPages { pages: Vec<Range<u64>>, answer: SyncSender<Result<(), Error>> },
    PruneRunning { over: Vec<TaskKey>, until: i64 },
    AddKeyBook(keys::Book),
}

#[derive(Default)]
struct Line {
    items: VecDeque<Item>,
    closed: bool,
}

/// The queue in front of the writer.
#[derive(Default)]
pub(crate) struct Inbox {
    line: Mutex<Line>,
    arrived: Condvar,
}

impl Inbox {
    pub(crate) fn commit(&self, batch: Encoded, done: Committed) {
        self.push(Item::Batch(Box::new(batch), done));
    }

    /// Runs a job on the writer's connection, outside any transaction, and returns its answer.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = sync_channel(1);
        self.push(Item::Job(Box::new(move |connection, allowed| {
            // A caller that is gone needs no answer.
            let _ = answer.send(allowed.and_then(|()| job(connection)));
        })));
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    /// Drops pages of keys that are over; how many keys may have been in them.
    pub(crate) fn forget_keys(&self, now: u64, limit: usize) -> Result<u64, Error> {
        let (answer, answered) = sync_channel(1);
        let limit = limit.div_ceil(keys::PAGE_KEYS) as u64;
        self.push(Item::ForgetKeys { now, limit, answer });
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    /// Removes pages of keys that are in a run now.
    pub(crate) fn remove_key_pages(&self, pages: Vec<Range<u64>>) -> Result<(), Error> {
        let (answer, answered) = sync_channel(1);
        self.push(Item::RemoveKeyPages { pages, answer });
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    /// Gives the writer what was found on disk.
    pub(crate) fn add_key_book(&self, book: keys::Book) {
        self.push(Item::AddKeyBook(book));
    }

    /// Tells the writer which tasks of the running pages up to `until` were found to be over.
    pub(crate) fn prune_running(&self, over: Vec<TaskKey>, until: i64) {
        self.push(Item::PruneRunning { over, until });
    }

    fn push(&self, item: Item) {
        let mut line = self.line.lock();
        if line.closed {
            drop(line);
            return refuse(item, Error::Closed);
        }
        line.items.push_back(item);
        drop(line);
        self.arrived.notify_one();
    }

    /// Lets nothing more in; what is queued is still done.
    pub(crate) fn close(&self) {
        self.line.lock().closed = true;
        self.arrived.notify_one();
    }
}

fn refuse(item: Item, error: Error) {
    // The way back of any other item goes with it, which its caller sees as closed.
    if let Item::Batch(_, done) = item {
        done(Err(error));
    }
}

type Group = Vec<(Box<Encoded>, Committed)>;

enum Next {
    Group(Group),
    Other(Item),
    Idle,
    Closed,
}

impl Inbox {
    /// Everything that has gathered, within the bounds; waits if there is nothing.
    fn next(&self, idle: Option<Duration>) -> Next {
        let mut line = self.line.lock();
        while line.items.is_empty() {
            if line.closed {
                return Next::Closed;
            }
            match idle {
                None => self.arrived.wait(&mut line),
                Some(limit) => {
                    if self.arrived.wait_for(&mut line, limit).timed_out() && line.items.is_empty() {
                        return Next::Idle;
                    }
                }
            }
        }
        let (mut group, mut mutations, mut bytes) = (Vec::new(), 0, 0);
        while let Some(item) = line.items.pop_front() {
            match item {
                Item::Batch(batch, done)
                    if group.is_empty()
                        || (mutations + batch.mutations <= GROUP_MUTATIONS && bytes + batch.size() <= GROUP_BYTES) =>
                {
                    mutations += batch.mutations;
                    bytes += batch.size();
                    group.push((batch, done));
                }
                other if group.is_empty() => return Next::Other(other),
                other => {
                    line.items.push_front(other);
                    break;
                }
            }
        }
        Next::Group(group)
    }
}

/// If the thread ends by a panic, nobody may wait for ever.
struct Farewell<'a>(&'a Inbox);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let mut line = self.0.line.lock();
        line.closed = true;
        let left: Vec<_> = line.items.drain(..).collect();
        drop(line);
        left.into_iter().for_each(|item| refuse(item, Error::Failed("the writer has ended".to_owned())));
    }
}

pub(crate) struct Writer<'c> {
    connection: &'c Connection,
    statements: Statements<'c>,
    inbox: Arc<Inbox>,
    index: Arc<keys::Index>,
    bell: Arc<Bell>,
    counters: Arc<Counters>,
    books: Books,
    log: Log,
    fatal: Option<Error>,
}

/// What the writer alone knows of packed pages.
pub(crate) struct Books {
    pub(crate) keys: keys::Book,
    pub(crate) running: running::Book,
}

/// Runs until the inbox is closed and empty.
pub(crate) fn run(
    connection: &Connection,
    inbox: Arc<Inbox>,
    index: Arc<keys::Index>,
    bell: Arc<Bell>,
    counters: Arc<Counters>,
    books: Books,
    log: Log,
) -> Result<(), Error> {
    let farewell = Arc::clone(&inbox);
    let _farewell = Farewell(&farewell);
    let statements = Statements::prepare(connection).during("prepare the statements")?;
    let mut writer = Writer { connection, statements, inbox, index, bell, counters, books, log, fatal: None };
    writer.work();
    Ok(())
}

impl Writer<'_> {
    fn work(&mut self) {
        loop {
            let idle = self.log.wants_rest().then_some(IDLE);
            match self.inbox.next(idle) {
                Next::Group(group) => self.group(group),
                Next::Other(item) => self.other(item),
                Next::Idle => self.rest(),
                Next::Closed => return self.rest(),
            }
        }
    }

    fn rest(&mut self) {
        if self.fatal.is_none()
            && let Err(error) = self.log.rest(self.connection, &self.counters)
        {
            self.fail(error);
        }
    }

    /// From here on everything is refused with this error.
    fn fail(&mut self, error: Error) {
        tracing::error!(%error, "the disk failed to keep data; nothing more is written");
        self.fatal = Some(error);
    }

    fn other(&mut self, item: Item) {
        let allowed = self.fatal.clone().map_or(Ok(()), Err);
        match item {
            Item::Job(job) => job(self.connection, allowed),
            Item::ForgetKeys { now, limit, answer } => {
                // A caller that is gone needs no answer.
                let _ = answer.send(allowed.and_then(|()| self.forget_keys(now, limit)));
            }
            Item::RemoveKeyPages { pages, answer } => {
                let _ = answer.send(allowed.and_then(|()| self.remove_key_pages(&pages)));
            }
            Item::AddKeyBook(book) => self.books.keys.add_stored(book),
            Item::PruneRunning { over, until } => self.books.running.prune(&over, until),
            Item::Batch(batch, done) => self.group(vec![(batch, done)]),
        }
    }

    /// The pages are forgotten in memory after they are gone from the disk: in between, a probe costs a read.
    fn forget_keys(&mut self, now: u64, limit: u64) -> Result<u64, Error> {
        let over = self.books.keys.over(now, limit);
        if !over.is_empty() {
            self.remove_key_pages(&over)?;
            self.index.drop_pages(|page| over.iter().any(|range| range.contains(&page)));
        }
        let (book, index) = (&mut self.books.keys, &self.index);
        let removed =
            sweep::transaction(self.connection, |connection| book.remove_runs(connection, index, now, limit))?;
        Ok(over.iter().map(|range| range.end - range.start).sum::<u64>() + removed)
    }

    fn remove_key_pages(&mut self, pages: &[Range<u64>]) -> Result<(), Error> {
        sweep::transaction(self.connection, |connection| sweep::remove_pages(connection, pages))?;
        self.books.keys.forget(pages);
        Ok(())
    }

    /// One transaction, and the answers.
    fn group(&mut self, group: Group) {
        if let Some(error) = &self.fatal {
            return group.into_iter().for_each(|(_, done)| done(Err(error.clone())));
        }
        let (batches, dones): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let answers = self.transaction(&batches);
        self.counters.wal_bytes.store(self.log.bytes(), Ordering::Relaxed);
        drop(batches);
        for (done, answer) in dones.into_iter().zip(answers) {
            done(answer);
        }
        if self.index.is_over_budget() {
            self.bell.ring();
        }
        if let Err(error) = self.log.checkpoint_if_long(self.connection, &self.counters) {
            self.fail(error);
        }
    }

    fn transaction(&mut self, batches: &[Box<Encoded>]) -> Vec<Result<(), Error>> {
        let started = Instant::now();
        match self.try_transaction(batches) {
            Ok(answers) => {
                let landed = || batches.iter().zip(&answers).filter(|(_, answer)| answer.is_ok());
                let mutations: usize = landed().map(|(batch, _)| batch.mutations).sum();
                self.counters.committed(landed().count(), mutations, started.elapsed());
                answers
            }
            Err(error) => {
                self.roll_back();
                self.books.running.take_back();
                match error {
                    // One of them may be to blame; which one shows when each is alone.
                    Error::Failed(_) if batches.len() > 1 => {
                        batches.chunks(1).flat_map(|alone| self.transaction(alone)).collect()
                    }
                    Error::Fsync(_) => {
                        self.fail(error.clone());
                        vec![Err(error); batches.len()]
                    }
                    error => vec![Err(error); batches.len()],
                }
            }
        }
    }

    fn roll_back(&mut self) {
        // SQLite rolls back by itself on some errors.
        if !self.connection.is_autocommit()
            && let Err(error) = self.statements.rollback.raw_execute()
        {
            tracing::error!(%error, "a failed transaction cannot be rolled back");
        }
    }

    fn try_transaction(&mut self, batches: &[Box<Encoded>]) -> Result<Vec<Result<(), Error>>, Error> {
        self.statements.begin.raw_execute().during("begin a transaction")?;
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            if self.statements.fence(batch)? {
                self.statements.apply(batch)?;
                answers.push(Ok(()));
            } else {
                answers.push(Err(Error::Stale { epoch: batch.epoch, index: batch.index }));
            }
        }
        let landed = || batches.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(batch, _)| batch);
        self.put_keys(landed().flat_map(|batch| &batch.keys))?;
        let states = landed().flat_map(|batch| batch.states());
        let statements = &mut self.statements;
        let changes = self.books.running.change(states, |page| statements.running_page(page))?;
        if let Some((page, keys)) = changes.page {
            self.statements.put_running(page, keys)?;
        }
        for page in changes.dead {
            self.statements.delete_running(page)?;
        }
        if landed().next().is_some() {
            let began = Instant::now();
            self.statements.commit.raw_execute().during("commit")?;
            self.counters.sync_took(began.elapsed());
            self.books.running.keep();
        } else {
            self.books.running.take_back();
            self.statements.rollback.raw_execute().during("roll back")?;
        }
        Ok(answers)
    }

    /// Appends the keys of a transaction, by hour of expiry, and tells the index before anyone can see them.
    fn put_keys<'a>(&mut self, keys: impl Iterator<Item = &'a keys::Key>) -> Result<(), Error> {
        let mut by_hour: Vec<(u64, Vec<&keys::Key>)> = Vec::new();
        for key in keys {
            let hour = keys::hour_of(key.expires);
            match by_hour.iter_mut().find(|(h, _)| *h == hour) {
                Some((_, list)) => list.push(key),
                None => by_hour.push((hour, vec![key])),
            }
        }
        let mut bytes = Vec::new();
        for (hour, list) in by_hour {
            for chunk in list.chunks(keys::PAGE_KEYS) {
                let page = self.books.keys.next(hour);
                bytes.clear();
                chunk.iter().for_each(|key| keys::encode(key, &mut bytes));
                self.statements.key_page(page, hour, &bytes)?;
                for key in chunk {
                    self.index.add(keys::fingerprint(key.tenant, &key.hash), page);
                }
            }
        }
        Ok(())
    }
}
