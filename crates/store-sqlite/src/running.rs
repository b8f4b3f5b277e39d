//! Which tasks run, without an index on the state: an index entry would be written and removed for every task.
//!
//! Protocol: a transaction that makes tasks run appends their keys as one page. The writer alone knows, in memory, which
//! page holds each running task; when the last task of a page is over, the page is deleted with that transaction. So at
//! every commit each running task is in at least one page, and a reader that wants them reads the pages and then the
//! tasks, of which some may be over. Pages that a few long runners keep alive are rewritten a few at a time. After a
//! restart memory starts with all keys of all pages; the keys of tasks that are over leave when a partition is opened,
//! for then their rows are read anyway.

use std::collections::BTreeMap;

use hashbrown::hash_table::{Entry, HashTable};
use rusqlite::Connection;
use tidewheel_engine::ready::mix;
use tidewheel_store::Error;

use crate::error::During;
use crate::layout::TaskKey;

/// Bytes of a key in a page.
const KEY_BYTES: usize = 20;
/// Keys on disk that are over may be so many more than those that run, before pages are rewritten.
const SPARE_KEYS: usize = 32_768;
/// Pages rewritten with one transaction, so that none gets long.
const REWRITTEN_AT_ONCE: usize = 4;

#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct Slot {
    key: TaskKey,
    page: i64,
}

#[derive(Clone, Copy, Default)]
struct Page {
    keys: usize,
    alive: usize,
}

/// A step that can be taken back.
#[derive(Clone, Copy)]
enum Step {
    Added(TaskKey),
    /// From this page.
    Moved(TaskKey, i64),
    Removed(TaskKey, i64),
}

/// The writer's book.
#[derive(Default)]
pub(crate) struct Book {
    slots: HashTable<Slot>,
    pages: BTreeMap<i64, Page>,
    next: i64,
    stored_keys: usize,
    /// Pages in which nothing was alive at some time since they were written.
    dead: Vec<i64>,
    /// Of the transaction being made: its page, and what it changed here.
    open: Option<i64>,
    steps: Vec<Step>,
    fresh: Vec<u8>,
}

/// What a transaction has to write.
pub(crate) struct Changes<'a> {
    /// The new page, if there is something to put in.
    pub(crate) page: Option<(i64, &'a [u8])>,
    /// Pages that hold nothing alive any more.
    pub(crate) dead: Vec<i64>,
}

fn hash(key: &TaskKey) -> u64 {
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    mix(number(&key[12..]) ^ number(&key[4..12]) ^ number(&key[..4]).rotate_left(32))
}

/// Keys of a stored page.
pub(crate) fn keys_of(page: &[u8]) -> &[TaskKey] {
    page.as_chunks::<KEY_BYTES>().0
}

const SELECT_PAGES: &str = "SELECT page, keys FROM running_page ORDER BY page";

/// The book as the stored pages say.
pub(crate) fn rebuild(connection: &Connection) -> Result<Book, Error> {
    let mut book = Book::default();
    let mut statement = connection.prepare(SELECT_PAGES).during("read the running tasks")?;
    let mut rows = statement.query([]).during("read the running tasks")?;
    while let Some(row) = rows.next().during("read the running tasks")? {
        let number = row.get(0).during("read the running tasks")?;
        let page = row.get_ref(1).during("read the running tasks")?.as_blob().unwrap_or_default();
        book.found(number, page);
    }
    Ok(book)
}

impl Book {
    /// Notes a stored page, in page order.
    pub(crate) fn found(&mut self, number: i64, page: &[u8]) {
        self.next = number + 1;
        self.pages.insert(number, Page::default());
        for key in keys_of(page) {
            self.put(key, number, true);
        }
        self.seal(number, keys_of(page).len());
        self.steps.clear();
    }

    /// Works the tasks of a transaction in and says what it has to write. Then call [`Book::keep`] after the commit, or
    /// [`Book::take_back`] after a failure.
    pub(crate) fn change<'a, E>(
        &mut self,
        states: impl Iterator<Item = (&'a TaskKey, bool)>,
        read_page: impl FnMut(i64) -> Result<Vec<u8>, E>,
    ) -> Result<Changes<'_>, E> {
        let number = self.next;
        self.next += 1;
        self.open = Some(number);
        self.fresh.clear();
        self.pages.insert(number, Page::default());
        for (key, runs) in states {
            if !runs {
                self.remove(key);
            } else if self.put(key, number, false) {
                self.fresh.extend_from_slice(key);
            }
        }
        self.rewrite(number, read_page)?;
        self.seal(number, self.fresh.len() / KEY_BYTES);
        let pages = &self.pages;
        self.dead.sort_unstable();
        self.dead.dedup();
        self.dead.retain(|page| pages.get(page).is_some_and(|page| page.alive == 0));
        let page = (!self.fresh.is_empty()).then_some((number, &self.fresh[..]));
        let dead = self.dead.iter().copied().filter(|page| *page != number);
        Ok(Changes { page, dead: dead.collect() })
    }

    /// The transaction is on disk.
    pub(crate) fn keep(&mut self) {
        self.steps.clear();
        let Some(new) = self.open.take() else { return };
        for page in std::mem::take(&mut self.dead) {
            // A new page of which everything is over already is deleted by the next transaction.
            if page == new && !self.fresh.is_empty() {
                self.dead.push(page);
            } else {
                self.forget(page);
            }
        }
        if self.fresh.is_empty() {
            self.forget(new);
        }
    }

    /// The transaction has failed: all is as it was before it. Its page number is not used again.
    pub(crate) fn take_back(&mut self) {
        for step in std::mem::take(&mut self.steps).into_iter().rev() {
            match step {
                Step::Added(key) => self.remove(&key),
                Step::Moved(key, page) | Step::Removed(key, page) => drop(self.put(&key, page, true)),
            }
        }
        self.steps.clear();
        if let Some(new) = self.open.take() {
            self.forget(new);
        }
    }

    /// Forgets keys that were found to be over, unless they have been granted again after page `until`.
    pub(crate) fn prune(&mut self, over: &[TaskKey], until: i64) {
        for key in over {
            if self.slots.find(hash(key), |slot| slot.key == *key).is_some_and(|slot| slot.page <= until) {
                self.remove(key);
            }
        }
        self.steps.clear();
    }

    /// Moves what is alive in the oldest pages to the new one, if too much on disk is over.
    fn rewrite<E>(&mut self, new: i64, mut read_page: impl FnMut(i64) -> Result<Vec<u8>, E>) -> Result<(), E> {
        for _ in 0..REWRITTEN_AT_ONCE {
            if self.stored_keys <= 2 * self.slots.len() + SPARE_KEYS {
                break;
            }
            let Some((&oldest, _)) = self.pages.iter().find(|(page, found)| **page != new && found.alive > 0) else {
                break;
            };
            for key in keys_of(&read_page(oldest)?) {
                let here = |slot: &Slot| slot.key == *key && slot.page == oldest;
                if self.slots.find(hash(key), here).is_some() {
                    self.put(key, new, true);
                    self.fresh.extend_from_slice(key);
                }
            }
        }
        Ok(())
    }

    fn seal(&mut self, number: i64, keys: usize) {
        self.stored_keys += keys;
        if let Some(page) = self.pages.get_mut(&number) {
            page.keys = keys;
            if page.alive == 0 {
                self.dead.push(number);
            }
        }
    }

    fn forget(&mut self, number: i64) {
        if let Some(page) = self.pages.remove(&number) {
            self.stored_keys -= page.keys;
        }
    }

    /// Puts a key into a page; one that is in a page already only if it may be moved. Whether it was put.
    fn put(&mut self, key: &TaskKey, page: i64, may_move: bool) -> bool {
        match self.slots.entry(hash(key), |slot| slot.key == *key, |slot| hash(&{ slot.key })) {
            Entry::Vacant(entry) => {
                entry.insert(Slot { key: *key, page });
                self.steps.push(Step::Added(*key));
            }
            Entry::Occupied(_) if !may_move => return false,
            Entry::Occupied(mut entry) => {
                let old = std::mem::replace(entry.get_mut(), Slot { key: *key, page }).page;
                self.leave(old);
                self.steps.push(Step::Moved(*key, old));
            }
        }
        if let Some(page) = self.pages.get_mut(&page) {
            page.alive += 1;
        }
        true
    }

    fn remove(&mut self, key: &TaskKey) {
        if let Ok(entry) = self.slots.find_entry(hash(key), |slot| slot.key == *key) {
            let (slot, _) = entry.remove();
            self.leave(slot.page);
            self.steps.push(Step::Removed(slot.key, slot.page));
        }
    }

    fn leave(&mut self, number: i64) {
        if let Some(page) = self.pages.get_mut(&number) {
            page.alive -= 1;
            if page.alive == 0 {
                self.dead.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use super::*;

    fn key(number: u64) -> TaskKey {
        let mut key = [0; 20];
        key[12..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// A book with the pages it would have on disk.
    #[derive(Default)]
    struct Disk {
        book: Book,
        pages: BTreeMap<i64, Vec<u8>>,
        running: BTreeSet<TaskKey>,
    }

    impl Disk {
        fn transaction(&mut self, states: &[(TaskKey, bool)], lands: bool) {
            let pages = &self.pages;
            let read = |page| Ok::<_, Infallible>(pages[&page].clone());
            let changes = self.book.change(states.iter().map(|(key, runs)| (key, *runs)), read).unwrap();
            if !lands {
                return self.book.take_back();
            }
            for dead in changes.dead {
                assert!(self.pages.remove(&dead).is_some(), "page {dead} is deleted once");
            }
            if let Some((number, keys)) = changes.page {
                assert!(self.pages.insert(number, keys.to_vec()).is_none());
            }
            self.book.keep();
            for (key, runs) in states {
                if *runs {
                    self.running.insert(*key)
                } else {
                    self.running.remove(key)
                };
            }
        }

        fn check(&self) {
            let stored: BTreeSet<TaskKey> = self.pages.values().flat_map(|page| keys_of(page)).copied().collect();
            assert!(self.running.is_subset(&stored), "every running task is in a page");
            assert_eq!(self.book.slots.len(), self.running.len());
            let keys: usize = self.pages.values().map(|page| keys_of(page).len()).sum();
            assert_eq!(keys, self.book.stored_keys);
            assert_eq!(self.pages.len(), self.book.pages.len());
        }

        fn restart(&mut self) {
            self.book = Book::default();
            for (number, page) in &self.pages {
                self.book.found(*number, page);
            }
            let stored: BTreeSet<TaskKey> = self.pages.values().flat_map(|page| keys_of(page)).copied().collect();
            let over: Vec<_> = stored.difference(&self.running).copied().collect();
            self.book.prune(&over, i64::MAX);
        }
    }

    #[test]
    fn every_running_task_is_in_a_page_whatever_happens() {
        let mut disk = Disk::default();
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15));
            seed % below
        };
        for round in 0..600 {
            let count = random(40);
            let states: Vec<_> = (0..count).map(|_| (key(random(2_000)), random(5) < 2)).collect();
            disk.transaction(&states, random(10) > 0);
            disk.check();
            if round % 100 == 99 {
                disk.restart();
                disk.check();
            }
        }
    }

    #[test]
    fn a_page_goes_when_its_last_task_is_over() {
        let mut disk = Disk::default();
        disk.transaction(&[(key(1), true), (key(2), true)], true);
        disk.transaction(&[(key(3), true), (key(1), false)], true);
        assert_eq!(disk.pages.len(), 2);
        disk.transaction(&[(key(2), false)], true);
        assert_eq!(disk.pages.len(), 1);
        disk.transaction(&[(key(3), false)], true);
        assert!(disk.pages.is_empty());
        disk.check();
    }

    #[test]
    fn a_task_that_starts_and_ends_in_one_transaction_leaves_nothing() {
        let mut disk = Disk::default();
        disk.transaction(&[(key(1), true), (key(1), false)], true);
        disk.transaction(&[], true);
        assert!(disk.pages.is_empty());
        disk.check();
    }

    #[test]
    fn one_long_runner_does_not_keep_its_whole_page() {
        let mut disk = Disk::default();
        for round in 0..300 {
            let starts: Vec<_> = (0..500).map(|at| (key(round * 1_000 + at), true)).collect();
            disk.transaction(&starts, true);
            let ends: Vec<_> = (1..500).map(|at| (key(round * 1_000 + at), false)).collect();
            disk.transaction(&ends, true);
        }
        disk.check();
        let keys: usize = disk.pages.values().map(|page| keys_of(page).len()).sum();
        assert!(keys <= 2 * disk.running.len() + SPARE_KEYS + 500, "{keys} keys are stored for {}", disk.running.len());
    }
}
