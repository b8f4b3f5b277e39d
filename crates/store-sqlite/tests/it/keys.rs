//! Idempotency keys beyond what memory holds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use tempfile::TempDir;
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::load::{Load, Loaded};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_store::Store;
use tidewheel_store_sqlite::{Options, SqliteStore};

const TENANT: TenantId = TenantId(1);
const HOUR: u64 = 3_600_000;
const PER_BATCH: u64 = 1_000;

fn hash(number: u64) -> [u8; 16] {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    hash[8..].copy_from_slice(&number.to_le_bytes());
    hash
}

/// Keys expire in one of three hours.
fn batch(epoch: u32, index: u64) -> Batch {
    let keys = ((index - 1) * PER_BATCH..index * PER_BATCH).map(|number| Mutation::PutIdempotency {
        tenant: TENANT,
        hash: hash(number),
        task: TaskId(u128::from(number)),
        body: number,
        expires: HOUR * (number / 500 % 3),
    });
    Batch { partition: 0, epoch, index, wall: index, seq: index, mutations: keys.collect() }
}

fn commit(store: &SqliteStore, batch: Batch) {
    let (answer, answered) = channel();
    store.commit(batch, Box::new(move |result| answer.send(result).unwrap()));
    answered.recv().unwrap().unwrap();
}

fn find(store: &SqliteStore, number: u64) -> Option<(TaskId, u64)> {
    let load = Load::Idempotency { tenant: TENANT, hash: hash(number) };
    match store.load(0, &load).unwrap().1 {
        Loaded::Idempotency(found) => found,
        other => panic!("{other:?}"),
    }
}

fn is_there(store: &SqliteStore, number: u64) -> bool {
    match find(store, number) {
        Some(found) => {
            assert!(store.may_know(TENANT, &hash(number)));
            assert_eq!(found, (TaskId(u128::from(number)), number));
            true
        }
        None => false,
    }
}

fn open(path: &Path, key_bytes: usize) -> Arc<SqliteStore> {
    SqliteStore::open(path, Options { key_bytes, ..Options::default() }).unwrap()
}

fn rows(path: &Path, table: &str) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// While keys are on their way out of memory, each that was ever committed is found by every read.
#[test]
fn every_key_is_found_while_it_moves_to_disk() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = open(&path, 256 << 10);
    let epoch = store.open(0).unwrap().epoch;
    let written = Arc::new(AtomicU64::new(0));
    let batches = 100;
    let reader = std::thread::spawn({
        let (store, written) = (Arc::clone(&store), Arc::clone(&written));
        move || {
            let (mut seed, mut asked) = (1u64, 0);
            while written.load(Ordering::Acquire) < batches * PER_BATCH {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = (seed >> 33) % written.load(Ordering::Acquire).max(1);
                if written.load(Ordering::Acquire) > 0 {
                    assert!(is_there(&store, number), "key {number} was not found");
                    asked += 1;
                }
            }
            asked
        }
    });
    for index in 1..=batches {
        commit(&store, batch(epoch, index));
        written.store(index * PER_BATCH, Ordering::Release);
    }
    let asked = reader.join().unwrap();
    assert!(asked > 100, "only {asked} reads");
    store.close();
    assert!(rows(&path, "key_run") > 0, "nothing has moved");
    assert!(rows(&path, "key_page") < 90_000 / 128, "everything is still in pages");

    // With and without room for filters, and with room for all.
    for key_bytes in [256 << 10, 1 << 10, 64 << 20] {
        let store = open(&path, key_bytes);
        assert!((0..batches * PER_BATCH).step_by(101).all(|number| is_there(&store, number)));
        assert!((0..1_000).all(|number| find(&store, batches * PER_BATCH + number).is_none()));
        store.close();
    }
}

#[test]
fn new_keys_cost_no_read_while_filters_fit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = open(&path, 1 << 20);
    let epoch = store.open(0).unwrap().epoch;
    (1..=60).for_each(|index| commit(&store, batch(epoch, index)));
    let wrong = (1_000_000..1_100_000).filter(|number| store.may_know(TENANT, &hash(*number))).count();
    assert!(wrong < 1_500, "{wrong} of 100,000 new keys would cost a read");
}

#[test]
fn keys_go_by_the_hour_from_memory_and_from_disk() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidewheel.db");
    let store = open(&path, 256 << 10);
    let epoch = store.open(0).unwrap().epoch;
    (1..=50).for_each(|index| commit(&store, batch(epoch, index)));
    let sweep = |store: &SqliteStore, now| while store.sweep(now, 0, 1_000).unwrap() > 0 {};
    sweep(&store, HOUR - 1);
    assert!((0..50_000).step_by(91).all(|number| is_there(&store, number)), "none is over");
    // What the keeper is moving while its hour is forgotten goes with a later round, as it does in a server.
    let rounds = |store: &SqliteStore, now, what: &str, holds: &dyn Fn(&SqliteStore) -> bool| {
        let begun = std::time::Instant::now();
        loop {
            sweep(store, now);
            if holds(store) {
                return;
            }
            assert!(begun.elapsed().as_secs() < 60, "{what}");
            std::thread::yield_now();
        }
    };
    let third = |store: &SqliteStore| {
        assert!((0..50_000).step_by(91).all(|n| n / 500 % 3 == 0 || is_there(store, n)), "not over, and gone");
        (0..50_000).step_by(91).all(|n| n / 500 % 3 != 0 || find(store, n).is_none())
    };
    rounds(&store, HOUR, "the keys of the first hour do not go", &third);
    store.close();
    let store = open(&path, 256 << 10);
    rounds(&store, HOUR, "they are back after a restart", &third);
    let none = |store: &SqliteStore| {
        let tables = ["key_page", "key_run", "key_run_page"];
        (0..50_000).step_by(91).all(|number| find(store, number).is_none())
            && tables.iter().all(|table| rows(&path, table) == 0)
    };
    rounds(&store, 10 * HOUR, "rows are left of keys that are over", &none);
    store.close();
}

#[test]
fn figures_say_how_long_the_disk_took_and_what_is_open() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(&folder.path().join("tidewheel.db"), Options::default()).unwrap();
    let epoch = store.open(0).unwrap().epoch;
    let before = store.figures();
    (1..=5).for_each(|index| commit(&store, batch(epoch, index)));
    let after = store.figures();
    let count = |figures: &tidewheel_store::Figures| figures.syncs.counts.iter().sum::<u64>();
    assert_eq!(count(&after) - count(&before), after.commits - before.commits);
    assert!(after.syncs.sum_us > before.syncs.sum_us && after.commits > before.commits);
    let open = after.connections;
    assert_eq!((open.writers, open.readers_used), (1, 0));
    assert!(open.readers_idle >= 1, "the one that opened the partition: {open:?}");
    store.close();
    assert_eq!(store.figures().connections, tidewheel_store::Connections::default());
}
