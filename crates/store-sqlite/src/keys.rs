//! Idempotency keys: packed pages on disk, fingerprints in memory.
//!
//! A key is a random number; a B-tree of them would dirty one page per key. Here the keys of a transaction are appended
//! as pages of up to [`PAGE_KEYS`] entries, and memory knows which page may have a key. Over its budget, the oldest keys
//! become sorted runs on disk, of which memory keeps fences and, as far as they fit, filters ([`run`], [`keeper`]).
//!
//! Protocol: the writer thread adds the fingerprints of a transaction *before* its commit, so that no reader can see
//! the commit without them (a fingerprint whose commit failed only costs a read). Any thread may ask; a shard's lock is
//! held for one probe.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::{Condvar, Mutex, RwLock};
use rusqlite::Connection;
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::ready::mix;
use tidewheel_store::Error;

use crate::error::During;

pub(crate) mod keeper;
pub(crate) mod run;

use run::{Gone, Run};

/// An idempotency key and what it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) tenant: TenantId,
    pub(crate) hash: [u8; 16],
    pub(crate) task: TaskId,
    pub(crate) body: u64,
    pub(crate) expires: u64,
}

/// Bytes of an entry: tenant, hash, task, body.
const ENTRY_BYTES: usize = 4 + 16 + 16 + 8;
/// Entries of a page at most; they fill one and a half database pages, so that finding one reads two.
pub(crate) const PAGE_KEYS: usize = 128;
/// Shards of the memory table, so that growing one blocks nobody for long.
const SHARDS: usize = 64;
/// Bytes of memory for a key, on average over the growth of a table.
const SLOT_BYTES: usize = 24;
/// Keys are forgotten by the hour.
const HOUR_MS: u64 = 3_600_000;

/// The hour in which a key expires.
pub(crate) fn hour_of(expires: u64) -> u64 {
    expires / HOUR_MS
}

/// 12 bytes: 48 bits of fingerprint and 48 bits of page.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct Slot {
    upper: u64,
    lower: u32,
}

const PRINT_MASK: u64 = !0xFFFF;

/// What the table hashes by. It takes the bucket from the low bits and a tag from the high ones; the low bits that a slot
/// does not keep must be neither.
fn bucket(print: u64) -> u64 {
    (print & PRINT_MASK).rotate_left(32)
}

impl Slot {
    fn new(print: u64, page: u64) -> Slot {
        Slot { upper: (print & PRINT_MASK) | ((page >> 32) & 0xFFFF), lower: page as u32 }
    }
    fn print(self) -> u64 {
        self.upper & PRINT_MASK
    }
    fn bucket(&self) -> u64 {
        bucket(self.print())
    }
    fn page(self) -> u64 {
        ((self.upper & 0xFFFF) << 32) | u64::from(self.lower)
    }
}

/// The fingerprint of a key. The hash is uniform already; the tenant is mixed in so that equal keys of tenants differ.
pub(crate) fn fingerprint(tenant: TenantId, hash: &[u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    mix(u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ (u64::from(tenant.0) << 32))
}

/// Where a key may be.
pub(crate) struct Index {
    shards: Box<[RwLock<HashTable<Slot>>]>,
    len: AtomicUsize,
    /// Oldest first.
    runs: RwLock<Vec<Arc<Run>>>,
    budget: usize,
    /// Whether the stored keys have been read since the start. Until then any key may be known.
    filled: AtomicBool,
    filling: Mutex<Option<Error>>,
    fill_ended: Condvar,
}

impl Index {
    /// An index that takes about so many bytes of memory: one half for keys, the other for filters of runs.
    pub(crate) fn new(budget: usize) -> Index {
        let shards = (0..SHARDS).map(|_| RwLock::new(HashTable::new())).collect();
        Index {
            shards,
            len: AtomicUsize::new(0),
            runs: RwLock::default(),
            budget,
            filled: AtomicBool::new(false),
            filling: Mutex::default(),
            fill_ended: Condvar::new(),
        }
    }

    /// The low 16 bits are not in the slot, so they choose the shard.
    fn shard(&self, print: u64) -> &RwLock<HashTable<Slot>> {
        &self.shards[print as usize % SHARDS]
    }

    pub(crate) fn add(&self, print: u64, page: u64) {
        let mut table = self.shard(print).write();
        table.insert_unique(bucket(print), Slot::new(print, page), Slot::bucket);
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    /// `false` is certain. The table is asked first: a key that is on its way is in the run before it leaves the table.
    pub(crate) fn may_know(&self, print: u64) -> bool {
        !self.filled.load(Ordering::Acquire)
            || self.shard(print).read().find(bucket(print), |slot| slot.print() == print & PRINT_MASK).is_some()
            || self.runs.read().iter().any(|run| run.may_have(print))
    }

    /// Waits until the stored keys have been read; an error if they cannot be.
    pub(crate) fn wait_until_filled(&self) -> Result<(), Error> {
        if self.filled.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut error = self.filling.lock();
        while error.is_none() && !self.filled.load(Ordering::Acquire) {
            self.fill_ended.wait(&mut error);
        }
        error.clone().map_or(Ok(()), Err)
    }

    fn set_filled(&self) {
        let _guard = self.filling.lock();
        self.filled.store(true, Ordering::Release);
        self.fill_ended.notify_all();
    }

    /// The stored keys cannot be read: any key may be known, and asking for one fails.
    fn fail(&self, error: Error) {
        *self.filling.lock() = Some(error);
        self.fill_ended.notify_all();
    }

    /// Makes room for so many more keys, so that a table does not grow step by step.
    fn reserve(&self, keys: usize) {
        for shard in &self.shards {
            shard.write().reserve(keys / SHARDS, Slot::bucket);
        }
    }

    /// Runs that may have the key, newest first. Ask for the pages first, for the same reason.
    pub(crate) fn runs(&self, print: u64) -> Vec<Arc<Run>> {
        self.runs.read().iter().rev().filter(|run| run.may_have(print)).cloned().collect()
    }

    /// Makes a run known. If the filters take more than their part of the budget, the oldest ones go.
    pub(crate) fn add_run(&self, run: Run) {
        let mut runs = self.runs.write();
        runs.push(Arc::new(run));
        let mut bytes: usize = runs.iter().map(|run| run.bytes()).sum();
        for run in runs.iter_mut().filter(|run| run.filter.is_some()) {
            if bytes <= self.budget / 2 {
                break;
            }
            let bare = run.without_filter();
            bytes = bytes + bare.bytes() - run.bytes();
            *run = Arc::new(bare);
        }
    }

    /// Takes out the runs of which all keys are over.
    fn take_over(&self, now: u64) -> Vec<Arc<Run>> {
        self.runs.write().extract_if(.., |run| (run.hour + 1) * HOUR_MS <= now).collect()
    }

    /// Keys in the memory table.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over_budget(&self) -> bool {
        self.len() * SLOT_BYTES > self.budget / 2
    }

    /// Pages that may have the key, newest first.
    pub(crate) fn pages(&self, print: u64) -> Vec<u64> {
        let table = self.shard(print).read();
        let slots = table.iter_hash(bucket(print)).filter(|slot| slot.print() == print & PRINT_MASK);
        let mut pages: Vec<u64> = slots.map(|slot| slot.page()).collect();
        pages.sort_unstable_by(|a, b| b.cmp(a));
        pages
    }

    /// Forgets pages.
    pub(crate) fn drop_pages(&self, gone: impl Fn(u64) -> bool) {
        for shard in &self.shards {
            let mut table = shard.write();
            let before = table.len();
            table.retain(|slot| !gone(slot.page()));
            self.len.fetch_sub(before - table.len(), Ordering::Relaxed);
            let spare = table.capacity() > 4 * table.len() + 64;
            if spare {
                table.shrink_to_fit(Slot::bucket);
            }
        }
    }
}

/// Appends an entry to a page.
pub(crate) fn encode(key: &Key, page: &mut Vec<u8>) {
    page.extend_from_slice(&key.tenant.0.to_le_bytes());
    page.extend_from_slice(&key.hash);
    page.extend_from_slice(&key.task.to_bytes());
    page.extend_from_slice(&key.body.to_le_bytes());
}

/// The fingerprints of a page's entries; `None` if it is damaged.
pub(crate) fn fingerprints(page: &[u8]) -> Option<impl Iterator<Item = u64> + '_> {
    let (entries, []) = page.as_chunks::<ENTRY_BYTES>() else { return None };
    Some(entries.iter().map(|entry| {
        let (tenant, hash) = key_of(entry);
        fingerprint(tenant, &hash)
    }))
}

fn key_of(entry: &[u8; ENTRY_BYTES]) -> (TenantId, [u8; 16]) {
    let tenant = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
    let mut hash = [0; 16];
    hash.copy_from_slice(&entry[4..20]);
    (TenantId(tenant), hash)
}

/// Looks a key up in a page; the newest entry counts.
pub(crate) fn find(page: &[u8], tenant: TenantId, hash: &[u8; 16]) -> Option<(TaskId, u64)> {
    let (entries, _) = page.as_chunks::<ENTRY_BYTES>();
    let entry = entries.iter().rev().find(|entry| key_of(entry) == (tenant, *hash))?;
    let (mut task, mut body) = ([0; 16], [0; 8]);
    task.copy_from_slice(&entry[20..36]);
    body.copy_from_slice(&entry[36..]);
    Some((TaskId::from_bytes(task), u64::from_le_bytes(body)))
}

/// Pages in a row that expire in the same hour.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    from: u64,
    until: u64,
    hour: u64,
}

/// The writer's book: which page comes next, in which hour each expires, and which runs are to be removed.
#[derive(Default)]
pub(crate) struct Book {
    next: u64,
    /// In page order.
    stretches: VecDeque<Stretch>,
    gone: VecDeque<Gone>,
}

impl Book {
    /// Notes a page that is there, in page order.
    fn found(&mut self, page: u64, hour: u64) {
        self.next = page + 1;
        match self.stretches.back_mut() {
            Some(last) if last.hour == hour && last.until == page => last.until = page + 1,
            _ => self.stretches.push_back(Stretch { from: page, until: page + 1, hour }),
        }
    }

    /// A new page. A number is never used twice, even if its transaction fails.
    pub(crate) fn next(&mut self, hour: u64) -> u64 {
        let page = self.next;
        self.found(page, hour);
        page
    }

    /// Takes over what was found on disk.
    pub(crate) fn add_stored(&mut self, stored: Book) {
        let known = self.stretches.front().map_or(u64::MAX, |first| first.from);
        let older = stored.stretches.into_iter().filter(|stretch| stretch.from < known);
        let older = older.map(|stretch| Stretch { until: stretch.until.min(known), ..stretch });
        let newer = std::mem::take(&mut self.stretches);
        self.stretches = older.chain(newer).collect();
        self.gone.extend(stored.gone);
    }

    /// Forgets pages that have been removed.
    pub(crate) fn forget(&mut self, gone: &[Range<u64>]) {
        let old = std::mem::take(&mut self.stretches);
        for mut stretch in old {
            let (from, until) = (stretch.from, stretch.until);
            for range in gone.iter().filter(|range| range.start < until && range.end > from) {
                if range.start > stretch.from {
                    self.stretches.push_back(Stretch { until: range.start, ..stretch });
                }
                stretch.from = range.end.min(until);
            }
            if stretch.from < until {
                self.stretches.push_back(stretch);
            }
        }
    }

    /// The pages of which all keys are over at `now`, at most `limit` of them.
    pub(crate) fn over(&self, now: u64, limit: u64) -> Vec<Range<u64>> {
        let mut left = limit;
        let mut ranges = Vec::new();
        for stretch in self.stretches.iter().filter(|stretch| (stretch.hour + 1) * HOUR_MS <= now) {
            let taken = (stretch.until - stretch.from).min(left);
            if taken > 0 {
                ranges.push(stretch.from..stretch.from + taken);
            }
            left -= taken;
        }
        ranges
    }

    /// Ends the runs that are over at `now` and removes up to `limit` of the pages that wait for it. Returns how many.
    pub(crate) fn remove_runs(
        &mut self,
        connection: &Connection,
        index: &Index,
        now: u64,
        limit: u64,
    ) -> Result<u64, Error> {
        for run in index.take_over(now) {
            run::end(connection, run.number)?;
            self.gone.push_back(run.gone());
        }
        let Some(gone) = self.gone.front_mut() else { return Ok(0) };
        if run::remove(connection, gone, limit)? {
            self.gone.pop_front();
        }
        Ok(limit)
    }
}

const SELECT_PAGES: &str = "SELECT page, hour, entries FROM key_page ORDER BY page";

const SELECT_NEXT: &str = "SELECT max(page) FROM key_page";
const COUNT_PAGES: &str = "SELECT count(*) FROM key_page";

/// The book of a store that has just been opened: it knows the next page, and the others when they have been read.
pub(crate) fn open_book(connection: &Connection) -> Result<Book, Error> {
    let last: Option<i64> = connection.query_row(SELECT_NEXT, [], |row| row.get(0)).during("read the keys")?;
    Ok(Book { next: last.map_or(0, |page| page as u64 + 1), ..Book::default() })
}

/// Fills the index from what is stored, beside the writer: a million keys take a good part of a second, and nothing but
/// a repeated key has to wait for them. Pages that are written meanwhile may be seen twice, which does no harm.
fn fill(connection: &Connection, index: &Index) -> Result<Book, Error> {
    let (runs, gone) = run::stored(connection)?;
    runs.into_iter().for_each(|run| index.add_run(run));
    let pages: i64 = connection.query_row(COUNT_PAGES, [], |row| row.get(0)).during("read the keys")?;
    let mut book = Book { gone: gone.into(), ..Book::default() };
    let mut reserved = false;
    let mut statement = connection.prepare(SELECT_PAGES).during("read the keys")?;
    let mut rows = statement.query([]).during("read the keys")?;
    while let Some(row) = rows.next().during("read the keys")? {
        let (page, hour): (i64, i64) = (row.get(0).during("read the keys")?, row.get(1).during("read the keys")?);
        let entries = row.get_ref(2).during("read the keys")?.as_blob().unwrap_or_default();
        if !reserved {
            // Full pages, as busy servers write them; a small first page says that it was not one.
            let keys = pages as usize * entries.len() / ENTRY_BYTES;
            index.reserve(keys.min(index.budget / SLOT_BYTES));
            reserved = true;
        }
        let prints = fingerprints(entries).ok_or_else(|| Error::Corrupt(format!("page {page} of keys is damaged")))?;
        prints.for_each(|print| index.add(print, page as u64));
        book.found(page as u64, hour as u64);
    }
    Ok(book)
}

/// Numbers in order as ranges.
fn ranges(numbers: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if last.end == *number => last.end += 1,
            _ => ranges.push(*number..*number + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_48_bits_of_each() {
        let slot = Slot::new(0xFEDC_BA98_7654_3210, 0x1234_5678_9ABC);
        assert_eq!((slot.print(), slot.page()), (0xFEDC_BA98_7654_0000, 0x1234_5678_9ABC));
    }

    #[test]
    fn the_book_knows_the_hour_of_each_page() {
        let mut book = Book::default();
        for hour in [5, 5, 6, 5, 5, 5, 7] {
            book.next(hour);
        }
        let end_of = |hour: u64| (hour + 1) * HOUR_MS;
        assert_eq!(book.over(end_of(5) - 1, 100), []);
        assert_eq!(book.over(end_of(5), 100), [0..2, 3..6]);
        assert_eq!(book.over(end_of(5), 3), [0..2, 3..4]);
        book.forget(&[0..1, 4..5, 6..7]);
        assert_eq!(book.over(end_of(9), 100), [1..2, 2..3, 3..4, 5..6]);
        book.forget(std::slice::from_ref(&(0..6)));
        assert_eq!(book.over(end_of(9), 100), []);
        assert_eq!(book.next(8), 7);
    }

    #[test]
    fn keys_spread_over_the_table() {
        let buckets: Vec<u64> =
            (0..4096u64).map(|i| bucket(fingerprint(TenantId(1), &u128::from(i).to_le_bytes()))).collect();
        let distinct =
            |of: fn(u64) -> u64| buckets.iter().map(|b| of(*b)).collect::<std::collections::HashSet<_>>().len();
        // 4096 balls into 4096 bins leave 1/e of the bins empty.
        assert!(distinct(|b| b & 0xFFF) > 2_400, "the low bits choose the bucket");
        assert_eq!(distinct(|b| b >> 57), 128, "the seven high bits are the tag");
    }

    #[test]
    fn the_book_of_the_disk_goes_before_that_of_the_process() {
        let mut stored = Book::default();
        for hour in [1, 1, 2, 2, 2] {
            stored.next(hour);
        }
        let mut book = Book { next: 3, ..Book::default() };
        book.next(2);
        book.next(3);
        book.add_stored(stored);
        let all: Vec<_> = book.stretches.iter().map(|stretch| (stretch.from, stretch.until, stretch.hour)).collect();
        assert_eq!(all, [(0, 2, 1), (2, 3, 2), (3, 4, 2), (4, 5, 3)]);
    }

    #[test]
    fn numbers_become_ranges() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
        assert_eq!(ranges(&[]), []);
    }
}
