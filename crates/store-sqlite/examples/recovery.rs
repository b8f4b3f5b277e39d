//! How long a store takes to be opened again with many running (or waiting) tasks in it.
//!
//! `cargo run --release -p tidewheel-store-sqlite --example recovery -- [folder] [running] [others between]`

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Instant;

use tidewheel_engine::id::{QueueId, Slot, TaskId, TenantId, Token, TypeId, WorkerId};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_engine::task::{Payload, State, Task};
use tidewheel_store::{Error, Store, codec};
use tidewheel_store_sqlite::{Options, SqliteStore};

fn main() -> Result<(), Error> {
    let argument = |at: usize| std::env::args().nth(at);
    let number = |at: usize, default: u64| argument(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let folder = argument(1).map_or_else(|| std::env::temp_dir().join("tidewheel-recovery"), PathBuf::from);
    let (running, between) = (number(2, 1_000_000), number(3, 0));
    // What is left of the run before has to go; that there is nothing is fine.
    let _ = std::fs::remove_dir_all(&folder);
    let path = folder.join("tidewheel.db");
    fill(&path, running, between)?;
    for cold in [true, false] {
        if cold {
            // Only root may; without it the first figure is a warm one too.
            let dropped = std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
            print!("{}", if dropped { "cold: " } else { "warm: " });
        } else {
            print!("warm: ");
        }
        let began = Instant::now();
        let store = SqliteStore::open(&path, Options::default())?;
        let opened = began.elapsed();
        let recovered = store.open(0)?;
        println!(
            "{} running tasks: store opened in {opened:.0?}, partition in {:.0?} more",
            recovered.running.len(),
            began.elapsed() - opened
        );
        store.close();
    }
    Ok(())
}

fn fill(path: &std::path::Path, running: u64, between: u64) -> Result<(), Error> {
    let store = SqliteStore::open(path, Options::default())?;
    let epoch = store.open(0)?.epoch;
    let total = running * (between + 1);
    for (index, first) in (1..).zip((0..total).step_by(4_000)) {
        let mutations = (first..(first + 4_000).min(total)).map(|number| {
            let state = if number % (between + 1) == 0 { State::Running } else { State::Succeeded };
            Mutation::InsertTask(Box::new(task(number, state)))
        });
        let batch = Batch { partition: 0, epoch, index, wall: index, seq: index, mutations: mutations.collect() };
        let (answer, answered) = channel();
        store.commit(batch, Box::new(move |result| drop(answer.send(result))));
        answered.recv().unwrap_or(Err(Error::Closed))?;
    }
    store.close();
    Ok(())
}

fn task(number: u64, state: State) -> Task {
    let wall = 1_750_000_000_000 + number / 200;
    let slot = Slot((number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as u16);
    let mut task = codec::blank_task(TenantId(1), TaskId::build(wall, slot, 1, number));
    task.queue = QueueId(1);
    task.kind = TypeId(1);
    task.state = state;
    task.priority = 5;
    task.seq = number;
    task.created = wall;
    task.changed = wall;
    task.attempt = 1;
    task.token = Token { epoch: 1, grant: number };
    task.worker = WorkerId(1);
    task.granted = wall;
    task.input = Payload::Inline(vec![b'x'; 64].into());
    task
}
