//! Idempotency keys: packed pages on disk, fingerprints in memory.
//!
//! A key is a random number; a B-tree of them would dirty one page per key. Here the keys of a transaction are appended
//! as pages of up to [`PAGE_KEYS`] entries, and memory knows which page may have a key. Protocol: the writer thread
//! alone adds and drops; it adds the fingerprints of a transaction *before* its commit, so that no reader can see the
//! commit without them (a fingerprint whose commit failed only costs a read). Any thread may ask; a shard's lock is
//! held for one probe.

use hashbrown::HashTable;
use parking_lot::RwLock;
use rusqlite::Connection;
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::ready::mix;
use tidewheel_store::Error;

use crate::error::During;

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

impl Slot {
    fn new(print: u64, page: u64) -> Slot {
        Slot { upper: (print & PRINT_MASK) | ((page >> 32) & 0xFFFF), lower: page as u32 }
    }
    fn print(self) -> u64 {
        self.upper & PRINT_MASK
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

/// Which pages may have a key.
pub(crate) struct Index {
    shards: Box<[RwLock<HashTable<Slot>>]>,
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| RwLock::new(HashTable::new())).collect() }
    }

    /// The low 16 bits are not in the slot, so they choose the shard.
    fn shard(&self, print: u64) -> &RwLock<HashTable<Slot>> {
        &self.shards[print as usize % SHARDS]
    }

    pub(crate) fn add(&self, print: u64, page: u64) {
        let mut table = self.shard(print).write();
        table.insert_unique(print & PRINT_MASK, Slot::new(print, page), |slot| slot.print());
    }

    pub(crate) fn may_know(&self, print: u64) -> bool {
        self.shard(print).read().find(print & PRINT_MASK, |slot| slot.print() == print & PRINT_MASK).is_some()
    }

    /// Pages that may have the key, newest first.
    pub(crate) fn pages(&self, print: u64) -> Vec<u64> {
        let table = self.shard(print).read();
        let slots = table.iter_hash(print & PRINT_MASK).filter(|slot| slot.print() == print & PRINT_MASK);
        let mut pages: Vec<u64> = slots.map(|slot| slot.page()).collect();
        pages.sort_unstable_by(|a, b| b.cmp(a));
        pages
    }

    /// Forgets pages.
    pub(crate) fn drop_pages(&self, gone: impl Fn(u64) -> bool) {
        for shard in &self.shards {
            let mut table = shard.write();
            table.retain(|slot| !gone(slot.page()));
            let spare = table.capacity() > 4 * table.len() + 64;
            if spare {
                table.shrink_to_fit(|slot| slot.print());
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
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

/// The writer's book of pages: which number comes next, and which hour each page belongs to.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    next: u64,
    /// Pages in a row that expire in the same hour: first page and hour, in page order.
    runs: std::collections::VecDeque<(u64, u64)>,
}

impl Pages {
    /// Notes a page that is there, in page order.
    pub(crate) fn found(&mut self, page: u64, hour: u64) {
        if self.runs.back().is_none_or(|run| run.1 != hour) {
            self.runs.push_back((page, hour));
        }
        self.next = page + 1;
    }

    /// Takes out the pages of which all keys are over at `now`, at most `limit` of them, as ranges.
    pub(crate) fn over(&mut self, now: u64, limit: u64) -> Vec<(u64, u64)> {
        let (mut ranges, mut left) = (Vec::new(), limit);
        let mut kept = std::collections::VecDeque::with_capacity(self.runs.len());
        let mut runs = std::mem::take(&mut self.runs).into_iter().peekable();
        while let Some((first, hour)) = runs.next() {
            let end = runs.peek().map_or(self.next, |run| run.0);
            let take = if (hour + 1) * HOUR_MS <= now { (end - first).min(left) } else { 0 };
            if take > 0 {
                ranges.push((first, first + take));
                left -= take;
            }
            if first + take < end {
                kept.push_back((first + take, hour));
            }
        }
        self.runs = kept;
        ranges
    }

    /// A new page. A number is never used twice, even if its transaction fails.
    pub(crate) fn next(&mut self, hour: u64) -> u64 {
        let page = self.next;
        self.found(page, hour);
        page
    }
}

const SELECT_PAGES: &str = "SELECT page, hour, entries FROM key_page ORDER BY page";

/// Fills the index from what is stored.
pub(crate) fn rebuild(connection: &Connection, index: &Index) -> Result<Pages, Error> {
    let mut pages = Pages::default();
    let mut statement = connection.prepare(SELECT_PAGES).during("read the keys")?;
    let mut rows = statement.query([]).during("read the keys")?;
    while let Some(row) = rows.next().during("read the keys")? {
        let (page, hour): (i64, i64) = (row.get(0).during("read the keys")?, row.get(1).during("read the keys")?);
        let entries = row.get_ref(2).during("read the keys")?.as_blob().unwrap_or_default();
        let prints = fingerprints(entries).ok_or_else(|| Error::Corrupt(format!("page {page} of keys is damaged")))?;
        prints.for_each(|print| index.add(print, page as u64));
        pages.found(page as u64, hour as u64);
    }
    Ok(pages)
}
