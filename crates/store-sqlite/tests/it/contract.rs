//! The SQLite store keeps the contract.

use std::sync::Arc;

use tempfile::TempDir;
use tidewheel_store::conformance::{Fixture, run_all};
use tidewheel_store::{SharedStore, Store};
use tidewheel_store_sqlite::{Options, SqliteStore};

struct Sqlite {
    folder: TempDir,
    store: Option<Arc<SqliteStore>>,
}

impl Sqlite {
    fn open(&mut self) {
        let path = self.folder.path().join("tidewheel.db");
        self.store = Some(SqliteStore::open(&path, Options::default()).unwrap());
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

#[test]
fn the_sqlite_store_keeps_the_contract() {
    run_all(&|| {
        let mut fixture = Sqlite { folder: TempDir::new().unwrap(), store: None };
        fixture.open();
        Box::new(fixture)
    });
}
