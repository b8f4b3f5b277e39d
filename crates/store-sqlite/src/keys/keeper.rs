//! The thread that moves keys out of memory.
//!
//! When the memory table is over its budget, the oldest pages are sorted into a run, a few pages per transaction of the
//! writer, so that commits never wait for long. Order: the run is complete on disk, then it is known in memory, then its
//! keys leave the memory table, then their pages leave the disk. So at each moment a key is found in one place at least.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tidewheel_store::Error;

use super::run::{self, Draft, Moving, Run};
use super::{Index, ranges};
use crate::error::During;
use crate::reader::Readers;
use crate::sweep;
use crate::writer::Inbox;

/// Keys moved at once, at most: bounds the memory that sorting takes to about 40 MiB.
const MOVED_KEYS: usize = 1 << 19;
/// Pages of keys read, or of a run written, at once.
const PAGES_AT_ONCE: usize = 256;

/// Pages of keys removed at once. They are not read for it, so more of them than that.
const PAGES_REMOVED_AT_ONCE: usize = 1_024;

const SELECT_PAGES: &str = "SELECT page, hour, entries FROM key_page WHERE page >= ?1 ORDER BY page LIMIT ?2";

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Resting,
    Wanted,
    Ended,
}

/// How the writer wakes the keeper.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

impl Bell {
    /// Asks for room in memory.
    pub(crate) fn ring(&self) {
        let mut state = self.state.lock();
        if *state == State::Resting {
            *state = State::Wanted;
            self.rung.notify_all();
        }
    }

    /// Ends the keeper.
    pub(crate) fn end(&self) {
        *self.state.lock() = State::Ended;
        self.rung.notify_all();
    }

    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while *state == State::Resting {
            self.rung.wait(&mut state);
        }
        let goes_on = *state == State::Wanted;
        if goes_on {
            *state = State::Resting;
        }
        goes_on
    }
}

/// Reads the stored keys in, and then works until the bell is ended.
pub(crate) fn work(bell: &Bell, readers: &Readers, inbox: &Inbox, index: &Index) {
    match readers.read(|connection| super::fill(connection, index)) {
        Ok(book) => {
            inbox.add_key_book(book);
            index.set_filled();
        }
        Err(error) => {
            if !matches!(error, Error::Closed) {
                tracing::error!(%error, "the idempotency keys cannot be read");
            }
            return index.fail(error);
        }
    }
    if index.is_over_budget() {
        bell.ring();
    }
    while bell.wait() {
        while index.is_over_budget() {
            match move_oldest(readers, inbox, index) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Error::Closed) => return,
                Err(error) => {
                    // Nothing is lost: the keys are still in memory, which stays over its budget until the next try.
                    tracing::warn!(%error, "idempotency keys stay in memory");
                    break;
                }
            }
        }
    }
}

fn move_oldest(readers: &Readers, inbox: &Inbox, index: &Index) -> Result<bool, Error> {
    let wanted = (index.len() / 2).clamp(1, MOVED_KEYS);
    let (entries, pages) = readers.read(|connection| oldest(connection, wanted))?;
    if entries.is_empty() {
        return Ok(false);
    }
    let drafts = readers.read(|connection| run::drafts(connection, &entries))?;
    drop(entries);
    for draft in drafts {
        index.add_run(write(inbox, draft)?);
    }
    index.drop_pages(|page| pages.binary_search(&page).is_ok());
    for pages in pages.chunks(PAGES_REMOVED_AT_ONCE) {
        inbox.remove_key_pages(ranges(pages))?;
    }
    Ok(true)
}

fn write(inbox: &Inbox, draft: Draft) -> Result<Run, Error> {
    let step = |work: Step| inbox.run(move |connection| sweep::transaction(connection, work));
    let draft = Arc::new(draft);
    let begun = Arc::clone(&draft);
    step(Box::new(move |connection| begun.begin(connection)))?;
    for (first, pages) in draft.parts(PAGES_AT_ONCE) {
        let pages = pages.to_vec();
        step(Box::new(move |connection| run::put_pages(connection, first, &pages)))?;
    }
    let head = draft.head();
    step(Box::new(move |connection| run::complete(connection, &head)))?;
    let draft = Arc::into_inner(draft).ok_or_else(|| Error::Failed("a run is still being written".to_owned()))?;
    Ok(draft.into_run())
}

/// A part of the work for one transaction.
type Step = Box<dyn FnOnce(&Connection) -> Result<(), Error> + Send>;

/// The entries of the oldest pages, and the numbers of these in order. All pages up to the last one are taken, so that
/// what stays in memory is newer than what is in runs.
fn oldest(connection: &Connection, wanted: usize) -> Result<(Vec<Moving>, Vec<u64>), Error> {
    let (mut entries, mut pages, mut next) = (Vec::new(), Vec::new(), 0);
    while entries.len() < wanted {
        let mut statement = connection.prepare_cached(SELECT_PAGES).during("read the oldest keys")?;
        let mut rows = statement.query([next, PAGES_AT_ONCE as i64]).during("read the oldest keys")?;
        let before = pages.len();
        while let Some(row) = rows.next().during("read the oldest keys")? {
            let get = |column| row.get::<_, i64>(column).during("read the oldest keys");
            let (page, hour) = (get(0)?, get(1)? as u64);
            let bytes = row.get_ref(2).during("read the oldest keys")?.as_blob().unwrap_or_default();
            entries.extend(bytes.as_chunks().0.iter().map(|entry| (hour, *entry)));
            pages.push(page as u64);
            next = page + 1;
        }
        if pages.len() - before < PAGES_AT_ONCE {
            break;
        }
    }
    Ok((entries, pages))
}
