//! A run: many keys of one hour in the order of their fingerprints, on disk; in memory the fences between its pages and,
//! as long as there is room, a filter that says of nearly every new key that the run does not have it.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_store::Error;

use super::{ENTRY_BYTES, PAGE_KEYS, find, fingerprint, key_of};
use crate::batch::signed;
use crate::error::During;

/// Bits of the filter per key: about one new key in a thousand is taken for a known one, and costs a read.
const FILTER_BITS: usize = 16;
/// Bits set for a key, all in one block, so that asking costs one line of the processor's cache.
const FILTER_PROBES: u32 = 8;
/// Words of a block.
const BLOCK: usize = 8;

const SELECT_PAGE: &str = "SELECT entries FROM key_run_page WHERE page = ?1";
const PUT_PAGE: &str = "INSERT INTO key_run_page (page, entries) VALUES (?1, ?2)";
const DELETE_PAGES: &str = "DELETE FROM key_run_page WHERE page >= ?1 AND page < ?2";
const BEGIN_RUN: &str = "INSERT INTO key_run (run, hour, first_page, pages) VALUES (?1, ?2, ?3, ?4)";
const COMPLETE_RUN: &str = "UPDATE key_run SET fences = ?2, filter = ?3 WHERE run = ?1";
const END_RUN: &str = "UPDATE key_run SET fences = NULL, filter = NULL WHERE run = ?1";
const DELETE_RUN: &str = "DELETE FROM key_run WHERE run = ?1";
const SELECT_RUNS: &str = "SELECT run, hour, first_page, pages, fences, filter FROM key_run ORDER BY run";
const SELECT_LAST: &str = "SELECT (SELECT max(run) FROM key_run), (SELECT max(first_page + pages) FROM key_run)";

/// A set that never forgets and sometimes claims too much. Source: Putze, Sanders, Singler, "Cache-, Hash- and
/// Space-Efficient Bloom Filters" (2007), the blocked form.
pub(crate) struct Filter(Box<[[u64; BLOCK]]>);

impl Filter {
    fn new(keys: usize) -> Filter {
        Filter(vec![[0; BLOCK]; (keys * FILTER_BITS).div_ceil(64 * BLOCK).max(1)].into())
    }

    fn block(&self, print: u64) -> usize {
        // The high bits choose the block, the rest the bits in it: the two have to be independent.
        ((u128::from(print) * self.0.len() as u128) >> 64) as usize
    }

    fn bits(print: u64) -> impl Iterator<Item = (usize, u64)> {
        let mut rest = tidewheel_engine::ready::mix(print.rotate_left(32));
        (0..FILTER_PROBES).map(move |_| {
            let bit = rest & 511;
            rest = rest.rotate_right(9).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            ((bit / 64) as usize, 1u64 << (bit % 64))
        })
    }

    fn add(&mut self, print: u64) {
        let block = self.block(print);
        Filter::bits(print).for_each(|(word, bit)| self.0[block][word] |= bit);
    }

    fn may_have(&self, print: u64) -> bool {
        let block = &self.0[self.block(print)];
        Filter::bits(print).all(|(word, bit)| block[word] & bit != 0)
    }

    fn bytes(&self) -> usize {
        self.0.len() * BLOCK * 8
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().flatten().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Filter> {
        let words: Vec<u64> = numbers(bytes)?;
        let (blocks, []) = words.as_chunks::<BLOCK>() else { return None };
        (!blocks.is_empty()).then(|| Filter(blocks.into()))
    }
}

fn numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let (words, []) = bytes.as_chunks::<8>() else { return None };
    Some(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// A complete run.
pub(crate) struct Run {
    pub(crate) number: i64,
    pub(crate) hour: u64,
    first_page: i64,
    fences: Vec<u64>,
    pub(crate) filter: Option<Filter>,
}

/// A run that is going, or never came to be: its pages wait to be removed.
pub(crate) struct Gone {
    number: i64,
    next_page: i64,
    end: i64,
}

/// What a probe of a run found.
pub(crate) enum Found {
    Key(TaskId, u64),
    Nothing,
    /// The run is not in this read's view of the database: it was completed after the read began.
    Unseen,
}

impl Run {
    pub(crate) fn may_have(&self, print: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.may_have(print))
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.fences.len() * 8 + self.filter.as_ref().map_or(0, Filter::bytes)
    }

    /// The same run without its filter.
    pub(crate) fn without_filter(&self) -> Run {
        Run {
            number: self.number,
            hour: self.hour,
            first_page: self.first_page,
            fences: self.fences.clone(),
            filter: None,
        }
    }

    pub(crate) fn gone(&self) -> Gone {
        Gone { number: self.number, next_page: self.first_page, end: self.first_page + self.fences.len() as i64 }
    }

    /// Looks a key up on disk.
    pub(crate) fn find(&self, connection: &Connection, tenant: TenantId, hash: &[u8; 16]) -> Result<Found, Error> {
        let print = fingerprint(tenant, hash);
        // Equal fingerprints may go over the end of a page.
        let first = self.fences.partition_point(|fence| *fence < print).saturating_sub(1);
        let last = self.fences.partition_point(|fence| *fence <= print);
        let mut statement = connection.prepare_cached(SELECT_PAGE).during("read a key")?;
        for page in first..last {
            let number = self.first_page + page as i64;
            let entries: Option<Vec<u8>> =
                statement.query_row([number], |row| row.get(0)).optional().during("read a key")?;
            let Some(entries) = entries else { return Ok(Found::Unseen) };
            if let Some((task, body)) = find(&entries, tenant, hash) {
                return Ok(Found::Key(task, body));
            }
        }
        Ok(Found::Nothing)
    }
}

/// A run being written.
pub(crate) struct Draft {
    number: i64,
    hour: u64,
    first_page: i64,
    pages: Vec<Vec<u8>>,
    fences: Vec<u64>,
    filter: Filter,
}

/// An entry that moves, with the hour in which it expires.
pub(crate) type Moving = (u64, [u8; ENTRY_BYTES]);

/// Sorts entries into a run for each hour. Of several entries of one key the last one counts.
pub(crate) fn drafts(connection: &Connection, entries: &[Moving]) -> Result<Vec<Draft>, Error> {
    let mut order: Vec<(u64, u32)> = (0..).zip(entries).map(|(at, entry)| (print_of(&entry.1), at)).collect();
    order.sort_unstable();
    let mut hours: BTreeMap<u64, Vec<(u64, u32)>> = BTreeMap::new();
    for (at, (print, entry)) in order.iter().enumerate() {
        let (hour, bytes) = &entries[*entry as usize];
        let mut alike = order[at + 1..].iter().take_while(|later| later.0 == *print);
        if !alike.any(|later| key_of(&entries[later.1 as usize].1) == key_of(bytes)) {
            hours.entry(*hour).or_default().push((*print, *entry));
        }
    }
    let (last, end): (Option<i64>, Option<i64>) =
        connection.query_row(SELECT_LAST, [], |row| Ok((row.get(0)?, row.get(1)?))).during("begin a run")?;
    let mut first_page = end.unwrap_or(0);
    let numbered = (last.map_or(0, |run| run + 1)..).zip(hours);
    let drafts = numbered.map(|(number, (hour, keys))| {
        let draft = Draft::new(number, hour, first_page, entries, &keys);
        first_page += draft.pages.len() as i64;
        draft
    });
    Ok(drafts.collect())
}

impl Draft {
    /// Packs entries that are in order.
    fn new(number: i64, hour: u64, first_page: i64, entries: &[Moving], keys: &[(u64, u32)]) -> Draft {
        let mut filter = Filter::new(keys.len());
        keys.iter().for_each(|(print, _)| filter.add(*print));
        let pages = keys.chunks(PAGE_KEYS);
        Draft {
            number,
            hour,
            first_page,
            fences: pages.clone().map(|page| page[0].0).collect(),
            pages: pages.map(|page| page.iter().flat_map(|(_, at)| entries[*at as usize].1).collect()).collect(),
            filter,
        }
    }

    /// Notes the run before any of its pages, so that a crash leaves none that nobody knows.
    pub(crate) fn begin(&self, connection: &Connection) -> Result<(), Error> {
        let head = params![self.number, signed(self.hour), self.first_page, self.pages.len() as i64];
        connection.execute(BEGIN_RUN, head).during("begin a run").map(drop)
    }

    /// The pages in parts, each with its first number.
    pub(crate) fn parts(&self, pages: usize) -> impl Iterator<Item = (i64, &[Vec<u8>])> {
        let first = self.first_page;
        self.pages.chunks(pages).enumerate().map(move |(part, chunk)| (first + (part * pages) as i64, chunk))
    }

    pub(crate) fn head(&self) -> (i64, Vec<u8>, Vec<u8>) {
        let fences = self.fences.iter().flat_map(|fence| fence.to_le_bytes()).collect();
        (self.number, fences, self.filter.encode())
    }

    pub(crate) fn into_run(self) -> Run {
        let Draft { number, hour, first_page, fences, filter, .. } = self;
        Run { number, hour, first_page, fences, filter: Some(filter) }
    }
}

fn print_of(entry: &[u8; ENTRY_BYTES]) -> u64 {
    let (tenant, hash) = key_of(entry);
    fingerprint(tenant, &hash)
}

/// Writes pages of a run.
pub(crate) fn put_pages(connection: &Connection, first: i64, pages: &[Vec<u8>]) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(PUT_PAGE).during("write a run")?;
    for (number, page) in (first..).zip(pages) {
        statement.execute(params![number, page]).during("write a run")?;
    }
    Ok(())
}

/// Makes a run one that is read.
pub(crate) fn complete(connection: &Connection, head: &(i64, Vec<u8>, Vec<u8>)) -> Result<(), Error> {
    connection.execute(COMPLETE_RUN, params![head.0, head.1, head.2]).during("complete a run").map(drop)
}

/// Makes a run one that is read no more.
pub(crate) fn end(connection: &Connection, number: i64) -> Result<(), Error> {
    connection.execute(END_RUN, [number]).during("end a run").map(drop)
}

/// Removes some pages of a run that is going, and at the end its head. Whether it is all gone.
pub(crate) fn remove(connection: &Connection, gone: &mut Gone, pages: u64) -> Result<bool, Error> {
    let until = gone.end.min(gone.next_page.saturating_add(i64::try_from(pages).unwrap_or(i64::MAX)));
    connection.execute(DELETE_PAGES, [gone.next_page, until]).during("remove a run")?;
    if until == gone.end {
        connection.execute(DELETE_RUN, [gone.number]).during("remove a run")?;
    }
    gone.next_page = until;
    Ok(until == gone.end)
}

/// The complete runs, oldest first, and those that are to be removed.
pub(crate) fn stored(connection: &Connection) -> Result<(Vec<Run>, Vec<Gone>), Error> {
    let mut statement = connection.prepare(SELECT_RUNS).during("read the runs")?;
    let mut rows = statement.query([]).during("read the runs")?;
    let (mut runs, mut gone) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next().during("read the runs")? {
        let get = |column| row.get::<_, i64>(column).during("read the runs");
        let (number, hour, first_page, pages) = (get(0)?, get(1)? as u64, get(2)?, get(3)?);
        let fences: Option<Vec<u8>> = row.get(4).during("read the runs")?;
        let Some(fences) = fences else {
            gone.push(Gone { number, next_page: first_page, end: first_page + pages });
            continue;
        };
        let damaged = || Error::Corrupt(format!("run {number} of keys is damaged"));
        let fences = numbers(&fences).filter(|fences| fences.len() as i64 == pages).ok_or_else(damaged)?;
        let filter = row.get_ref(5).during("read the runs")?.as_blob().unwrap_or_default();
        let filter = Some(Filter::decode(filter).ok_or_else(damaged)?);
        runs.push(Run { number, hour, first_page, fences, filter });
    }
    Ok((runs, gone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_knows_its_keys_and_few_others() {
        let mut filter = Filter::new(100_000);
        let print = |number: u64| tidewheel_engine::ready::mix(number + 1);
        (0..100_000).for_each(|number| filter.add(print(number)));
        assert!((0..100_000).all(|number| filter.may_have(print(number))));
        let wrong = (100_000..1_100_000).filter(|number| filter.may_have(print(*number))).count();
        assert!(wrong < 4_000, "{wrong} of a million");
        let copy = Filter::decode(&filter.encode()).unwrap();
        assert!((0..100_000).all(|number| copy.may_have(print(number))));
        assert!(Filter::decode(&[1, 2, 3]).is_none() && Filter::decode(&[]).is_none());
    }
}
