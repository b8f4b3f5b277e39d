//! How many task lifecycles per second the store commits, and what they cost on disk.
//!
//! `cargo run --release -p tidewheel-store-sqlite --example store_lifecycle -- [folder] [tasks] [batch] [input bytes] [2 | 2-without-keys | 3]`
//!
//! Two ways of a task: submit and grant in one row write and then its completion; and submit, grant, completion as
//! three writes. Every task has an idempotency key. Up to two batches are in flight, as the engine has them. "done"
//! counts what has been reported durable.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tidewheel_engine::id::{QueueId, Slot, TaskId, TenantId, Token, TypeId, WorkerId};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_engine::task::{Ending, Payload, State, Task};
use tidewheel_store::{Error, Store, codec};
use tidewheel_store_sqlite::{Options, SqliteStore};

const START: u64 = 1_750_000_000_000;

struct Plan {
    tasks: u64,
    batch: u64,
    input: usize,
    steps: u32,
    keys: bool,
}

fn main() -> Result<(), Error> {
    let argument = |at: usize| std::env::args().nth(at);
    let number = |at: usize, default: u64| argument(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let folder = argument(1).map_or_else(|| std::env::temp_dir().join("tidewheel-lifecycle"), PathBuf::from);
    let (tasks, batch, input) = (number(2, 1_000_000), number(3, 4_000), number(4, 64) as usize);
    let only = argument(5);
    for (name, steps, keys) in [("2", 2, true), ("2-without-keys", 2, false), ("3", 3, true)] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        run(&folder, &Plan { tasks, batch, input, steps, keys })?;
    }
    Ok(())
}

fn run(folder: &std::path::Path, plan: &Plan) -> Result<(), Error> {
    // What is left of the run before has to go; that there is nothing is fine.
    let _ = std::fs::remove_dir_all(folder);
    let path = folder.join("tidewheel.db");
    let store = SqliteStore::open(&path, Options::default())?;
    let recovered = store.open(0)?;
    let mut flight = Flight { store: &store, epoch: recovered.epoch, index: 0, waiting: Vec::new() };
    let (began, cpu) = (Instant::now(), cpu_times());
    for batch in batches(plan) {
        flight.send(batch)?;
    }
    flight.finish()?;
    let took = began.elapsed();
    let now = cpu_times();
    let cpu = (now.0 - cpu.0, now.1 - cpu.1);
    report(plan, &store, took, cpu, &path);
    store.close();
    let size = std::fs::metadata(&path).map_or(0, |m| m.len());
    println!("    on disk after close: {} B per task", size / plan.tasks);
    let reopened = Instant::now();
    let store = SqliteStore::open(&path, Options::default())?;
    let running = store.open(0)?.running.len();
    println!("    reopened in {:.0?} ({running} running)", reopened.elapsed());
    Ok(())
}

fn report(plan: &Plan, store: &SqliteStore, took: Duration, cpu: (Duration, Duration), path: &std::path::Path) {
    let figures = store.figures();
    let rate = plan.tasks as f64 / took.as_secs_f64();
    println!(
        "{} writes per task, keys {}, batches of {}, input {} B: {rate:.0} lifecycles/s ({:.2} s)",
        plan.steps,
        plan.keys,
        plan.batch,
        plan.input,
        took.as_secs_f64(),
    );
    let written = written_bytes();
    println!(
        "    {:.2} us cpu per task, of it {:.2} us in the writer; {} transactions of {} mutations; {} fsyncs; commits busy {:.2} s; log {} MiB; \
         written by the process so far {} MiB; file {} MiB",
        cpu.0.as_micros() as f64 / plan.tasks as f64,
        cpu.1.as_micros() as f64 / plan.tasks as f64,
        figures.commits,
        figures.mutations / figures.commits.max(1),
        figures.fsyncs,
        figures.commit_us as f64 / 1e6,
        figures.wal_bytes >> 20,
        written >> 20,
        std::fs::metadata(path).map_or(0, |m| m.len()) >> 20,
    );
}

/// Two batches in flight, as `engine::node` allows.
struct Flight<'a> {
    store: &'a Arc<SqliteStore>,
    epoch: u32,
    index: u64,
    waiting: Vec<Receiver<Result<(), Error>>>,
}

impl Flight<'_> {
    fn send(&mut self, mutations: Vec<Mutation>) -> Result<(), Error> {
        if self.waiting.len() == 2 {
            self.waiting.remove(0).recv().unwrap_or(Err(Error::Closed))?;
        }
        self.index += 1;
        let (epoch, index) = (self.epoch, self.index);
        let (answer, answered) = channel();
        let batch = Batch { partition: 0, epoch, index, wall: START + index, seq: index, mutations };
        self.store.commit(batch, Box::new(move |result| drop(answer.send(result))));
        self.waiting.push(answered);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.waiting.drain(..).try_for_each(|answer| answer.recv().unwrap_or(Err(Error::Closed)))
    }
}

/// Batches as a busy engine makes them: the tasks of this one, and the next steps of those before.
fn batches(plan: &Plan) -> impl Iterator<Item = Vec<Mutation>> + '_ {
    let per_batch = plan.batch / u64::from(plan.steps);
    let count = plan.tasks.div_ceil(per_batch);
    (0..count + u64::from(plan.steps) - 1).map(move |at| {
        let mut mutations = Vec::with_capacity(plan.batch as usize * 2);
        for step in 0..u64::from(plan.steps) {
            let Some(group) = at.checked_sub(step).filter(|group| *group < count) else { continue };
            for number in group * per_batch..((group + 1) * per_batch).min(plan.tasks) {
                step_of(plan, number, step, &mut mutations);
            }
        }
        mutations.push(Mutation::AddCounts { queue: QueueId(1), deltas: [0, 0, 1, 0, 1, 0, 0, 0, 0] });
        mutations
    })
}

fn step_of(plan: &Plan, number: u64, step: u64, mutations: &mut Vec<Mutation>) {
    let mut task = base(number);
    let last = u64::from(plan.steps) - 1;
    if step == 0 {
        task.input = Payload::Inline(vec![b'x'; plan.input].into());
    } else {
        task.input = Payload::Cold;
    }
    if plan.steps == 3 && step == 0 {
        task.state = State::Queued;
        task.lane = Some(1 << 60);
    } else {
        grant(&mut task, number);
    }
    if step == last {
        task.state = State::Succeeded;
        task.changed += 2;
        task.ending = Some(Arc::new(Ending::default()));
    }
    if step == 0 {
        if plan.keys {
            let digest = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut hash = [0; 16];
            hash[..8].copy_from_slice(&digest.to_le_bytes());
            hash[8..].copy_from_slice(&number.to_le_bytes());
            let expires = START + 86_400_000;
            mutations.push(Mutation::PutIdempotency {
                tenant: TenantId(1),
                hash,
                task: task.id,
                body: number,
                expires,
            });
        }
        mutations.push(Mutation::InsertTask(Box::new(task)));
    } else {
        mutations.push(Mutation::UpdateTask(Box::new(task)));
    }
}

fn base(number: u64) -> Task {
    // 200 tasks per millisecond, in slots that look random.
    let wall = START + number / 200;
    let slot = Slot((number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as u16);
    let mut task = codec::blank_task(TenantId(1), TaskId::build(wall, slot, 1, number));
    task.queue = QueueId(1);
    task.kind = TypeId(1);
    task.state = State::Queued;
    task.priority = 5;
    task.seq = number;
    task.created = wall;
    task.changed = wall;
    task
}

fn grant(task: &mut Task, number: u64) {
    task.state = State::Running;
    task.attempt = 1;
    task.token = Token { epoch: 1, grant: number };
    task.worker = WorkerId(1);
    task.granted = task.created + 1;
    task.changed = task.granted;
}

/// Processor time of the process so far, and of it the writer threads'.
fn cpu_times() -> (Duration, Duration) {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let (mut all, mut writer) = (Duration::ZERO, Duration::ZERO);
    for task in tasks {
        let time = cpu_time(&task.path());
        all += time;
        if std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("store-writer")) {
            writer += time;
        }
    }
    (all, writer)
}

/// Processor time of a thread, from the kernel's counters (100 per second).
fn cpu_time(thread: &std::path::Path) -> Duration {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Bytes this process has caused to be written to disks.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
