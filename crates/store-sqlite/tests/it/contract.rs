//! The SQLite store keeps the contract.

use std::sync::Arc;

use tempfile::TempDir;
use tidewheel_store::conformance::{Fixture, run_all};
use tidewheel_store::{SharedStore, Store};
use tidewheel_store_sqlite::{Options, SqliteStore};

struct Sqlite {
    folder: TempDir,
    options: Options,
    store: Option<Arc<SqliteStore>>,
}

impl Sqlite {
    fn open(&mut self) {
        let path = self.folder.path().join("tidewheel.db");
        self.store = Some(SqliteStore::open(&path, self.options.clone()).unwrap());
    }
}

impl Fixture for Sqlite {
    fn store(&self) -> SharedStore {
        self.store.clone().unwrap()
    }

    fn reopen(&mut self) {
        let old = self.store.take().unwrap();
        old.close();
        drop(old);
        self.open();
        self.store.as_ref().unwrap().verify().unwrap();
    }
}

fn keeps_the_contract(options: &Options) {
    run_all(&|| {
        let mut fixture = Sqlite { folder: TempDir::new().unwrap(), options: options.clone(), store: None };
        fixture.open();
        Box::new(fixture)
    });
}

#[test]
fn the_sqlite_store_keeps_the_contract() {
    keeps_the_contract(&Options::default());
}

#[test]
fn the_sqlite_store_keeps_the_contract_with_little_memory_and_a_short_log() {
    let little = Options { cache_kib: 256, checkpoint_bytes: 64 << 10, key_bytes: 128 << 10, ..Options::default() };
    keeps_the_contract(&little);
}
