//! The memory store keeps the contract.

use std::sync::Arc;

use tidewheel_store::conformance::{Fixture, run_all};
use tidewheel_store::memory::MemoryStore;
use tidewheel_store::{SharedStore, Store};

struct Memory(Arc<MemoryStore>);

impl Fixture for Memory {
    fn store(&self) -> SharedStore {
        self.0.clone()
    }

    fn reopen(&mut self) {
        self.0.close();
        self.0 = MemoryStore::from_state(self.0.snapshot());
    }
}

#[test]
fn the_memory_store_keeps_the_contract() {
    run_all(&|| Box::new(Memory(MemoryStore::new())));
}
