//! The store in process: searches among many log lines, and due times among many timers.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;
use tidewheel_engine::id::{QueueId, Slot, TaskId, TenantId, TypeId};
use tidewheel_engine::load::{Due, Load, Loaded};
use tidewheel_engine::mutation::{Batch, Mutation};
use tidewheel_engine::task::State;
use tidewheel_engine::wheel::Wheel;
use tidewheel_store::log::{Level, Line, LogQuery, LogStore, Stream};
use tidewheel_store::{Store, codec};
use tidewheel_store_sqlite::{SqliteLogStore, SqliteStore};

use crate::client::{PROGRESS, say};
use crate::figure::percentile;
use crate::{Figure, Options, probe};

/// Where the clock of these runs stands; the day does not matter, only that it is the same in every run.
const START: u64 = 1_790_000_000_000;

/// Lines of one task.
const PER_TASK: u64 = 200;
/// Measured: a line of 90 bytes takes 330 with its words.
const BYTES_PER_LINE: u64 = 400;

/// Full-text search and the other questions that are asked of logs.
pub(crate) fn logs(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let lines = options.size(1_000_000, 50_000);
    let folder = tempfile::tempdir()?;
    probe::room_for(folder.path(), lines * BYTES_PER_LINE)?;
    let store = SqliteLogStore::open(&folder.path().join("logs.db"))?;
    let (begun, mut bytes, mut said) = (Instant::now(), 0u64, Instant::now());
    for first in (0..lines).step_by(2_000) {
        let batch: Vec<Line> = (first..(first + 2_000).min(lines)).map(line).collect();
        bytes += batch.iter().map(|line| line.text.len() as u64).sum::<u64>();
        store.append(batch)?;
        if said.elapsed() >= PROGRESS {
            say(&format!("{first} of {lines} lines stored after {:.0} s", begun.elapsed().as_secs_f64()));
            said = Instant::now();
        }
    }
    let rate = lines as f64 / begun.elapsed().as_secs_f64();
    let (mut longest, mut shown) = (0f64, serde_json::Map::new());
    for (name, query, wanted) in questions(lines) {
        let mut times = Vec::new();
        for _ in 0..5 {
            let at = Instant::now();
            let found = store.query(&query)?.len();
            times.push(at.elapsed().as_secs_f64() * 1000.0);
            if (found > 0) != wanted {
                bail!("`{name}` found {found} lines");
            }
        }
        times.sort_by(f64::total_cmp);
        longest = longest.max(times[4]);
        shown.insert(name.to_owned(), json!(times[2]));
    }
    let config = json!({"lines": lines, "text_bytes": bytes, "disk_bytes": probe::folder_bytes(folder.path())?, "median_ms": shown});
    report(Figure::high("logs", "append_per_s", rate, "lines/s", None).with(json!({"lines": lines, "durable": true})));
    report(Figure::low("logs", "search_longest_ms", longest, "ms", 200.0).with(config));
    store.close();
    Ok(())
}

/// What is asked, and whether there is an answer.
fn questions(lines: u64) -> Vec<(&'static str, LogQuery, bool)> {
    let tenant = LogQuery { tenant: TenantId(1), limit: 100, ..LogQuery::default() };
    let task = LogQuery { task: Some(TaskId(u128::from(lines / PER_TASK / 2))), ..tenant.clone() };
    let words = |text: &str, query: &LogQuery| LogQuery { text: Some(text.to_owned()), ..query.clone() };
    vec![
        ("newest lines", tenant.clone(), true),
        ("newest errors", LogQuery { level: Some(Level::Error), ..tenant.clone() }, true),
        ("a word in every line", words("done", &tenant), true),
        (
            "a word in every line, tenant with few",
            words("done", &LogQuery { tenant: TenantId(2), ..tenant.clone() }),
            true,
        ),
        ("a word in one line of a thousand", words("w700", &tenant), true),
        ("two common words", words("w1 w2", &tenant), true),
        ("a word in one line of all", words(&format!("unique{}", lines / 2), &tenant), true),
        ("a word that is nowhere", words("nowhere", &tenant), false),
        ("a task's last lines", LogQuery { tail: true, ..task.clone() }, true),
        ("a word in every line of a task", words("done", &task), true),
    ]
}

/// Twelve words of which some are common and some are rare; one line of ten thousand is of another tenant, one of two
/// thousand an error.
fn line(number: u64) -> Line {
    let mut text = format!("step {number} done unique{number}");
    let mut random = Random(number);
    for _ in 0..8 {
        let uniform = random.below(1 << 24) as f64 / (1u64 << 24) as f64;
        text.push_str(&format!(" w{}", 2_000f64.powf(uniform) as u64));
    }
    Line {
        tenant: TenantId(if number % 10_000 == 7 { 2 } else { 1 }),
        task: TaskId(u128::from(number / PER_TASK)),
        attempt: 1,
        offset: number % PER_TASK,
        at: START + number,
        stream: Stream::Stdout,
        level: if number % 2_000 == 9 { Level::Error } else { Level::Info },
        text,
    }
}

/// Timers in the wheel.
const NEAR: usize = 1_000_000;
/// A stored timer takes 130 bytes with its place in the index of due times.
const BYTES_PER_TIMER: u64 = 250;
/// A year of due times.
const SPAN: u64 = 365 * 86_400_000;

/// Due times that are near, in memory, and all others, in the store.
pub(crate) fn timers(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let rows = options.size(1_000_000, 50_000);
    let lookups = near(if options.quick { NEAR / 10 } else { NEAR });
    let config = json!({"timers": NEAR, "lookup": "one timer out of the wheel by its key and another one in"});
    report(Figure::low("timer_cache", "l1_lookup_us", percentile(&lookups, 0.5), "us", None).with(config.clone()));
    report(Figure::low("timer_cache", "l1_lookup_p99_us", percentile(&lookups, 0.99), "us", 10.0).with(config));
    let folder = tempfile::tempdir()?;
    probe::room_for(folder.path(), rows * BYTES_PER_TIMER)?;
    let store = SqliteStore::open(&folder.path().join("tidewheel.db"), Default::default())?;
    fill(&store, rows)?;
    let mut random = Random(7);
    let (mut ones, mut windows) = (Vec::new(), Vec::new());
    for _ in 0..if options.quick { 500 } else { 5_000 } {
        let number = random.below(rows);
        let begun = Instant::now();
        let found = store.task(TenantId(1), scheduled(number).id)?;
        ones.push(begun.elapsed().as_secs_f64() * 1000.0);
        if found.is_none_or(|task| task.due != scheduled(number).due) {
            bail!("timer {number} is not stored as it was given");
        }
    }
    for _ in 0..if options.quick { 100 } else { 1_000 } {
        // The next hundred from anywhere in the year.
        let from = START + random.below(SPAN / 2);
        let load = Load::Due { from: (from, 0, 0), until: u64::MAX >> 1, limit: 100 };
        let begun = Instant::now();
        let (_, loaded) = store.load(0, &load)?;
        windows.push(begun.elapsed().as_secs_f64() * 1000.0);
        let Loaded::Due(found) = loaded else { bail!("an answer of another kind") };
        if found.len() != 100 || found.iter().any(|row| row.at() < from) || !found.is_sorted_by_key(Due::at) {
            bail!("the next hundred from {from} on are not right");
        }
    }
    ones.sort_by(f64::total_cmp);
    windows.sort_by(f64::total_cmp);
    let config = json!({"rows": rows, "runs": ones.len(), "disk_bytes": probe::folder_bytes(folder.path())?});
    report(Figure::low("timer_cache", "l3_read_p50_ms", percentile(&ones, 0.5), "ms", None).with(config.clone()));
    report(Figure::low("timer_cache", "l3_read_p99_ms", percentile(&ones, 0.99), "ms", 5.0).with(config.clone()));
    report(Figure::low("timer_cache", "l3_next_100_p99_ms", percentile(&windows, 0.99), "ms", 5.0).with(config));
    store.close();
    Ok(())
}

/// Microseconds of single lookups in a full wheel, sorted.
fn near(count: usize) -> Vec<f64> {
    const MINUTE: u64 = 60_000;
    let mut random = Random(11);
    let mut wheel = Wheel::<u64>::new(START);
    let mut keys: Vec<_> = (0..count as u64).map(|n| wheel.insert(START + 1 + random.below(MINUTE), n)).collect();
    let mut times = Vec::with_capacity(200_000);
    for _ in 0..200_000 {
        let at = random.below(count as u64) as usize;
        let due = START + 1 + random.below(MINUTE);
        let begun = Instant::now();
        let value = wheel.cancel(keys[at]);
        keys[at] = wheel.insert(due, at as u64);
        times.push(begun.elapsed().as_nanos() as f64 / 1000.0);
        assert!(value.is_some(), "every key is live");
    }
    times.sort_by(f64::total_cmp);
    times
}

fn fill(store: &SqliteStore, rows: u64) -> anyhow::Result<()> {
    let recovered = store.open(0)?;
    let (mut said, begun) = (Instant::now(), Instant::now());
    let mut waiting = std::collections::VecDeque::new();
    for (index, first) in (recovered.last_index + 1..).zip((0..rows).step_by(8_000)) {
        let mutations =
            (first..(first + 8_000).min(rows)).map(|n| Mutation::InsertTask(Box::new(scheduled(n)))).collect();
        let batch = Batch { partition: 0, epoch: recovered.epoch, index, wall: START, seq: index, mutations };
        let (answer, answered) = channel();
        store.commit(batch, Box::new(move |result| drop(answer.send(result))));
        waiting.push_back(answered);
        if waiting.len() > 2 {
            waiting.pop_front().context("there is one")?.recv()??;
        }
        if said.elapsed() >= PROGRESS {
            say(&format!("{first} of {rows} timers stored after {:.0} s", begun.elapsed().as_secs_f64()));
            said = Instant::now();
        }
    }
    for answered in waiting {
        answered.recv_timeout(Duration::from_secs(300))??;
    }
    Ok(())
}

/// The `number`-th timer: its due time lies anywhere within a year.
fn scheduled(number: u64) -> tidewheel_engine::task::Task {
    let wall = START - 1_000_000_000 + number / 200;
    let slot = Slot((number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as u16);
    let mut task = codec::blank_task(TenantId(1), TaskId::build(wall, slot, 1, number));
    task.queue = QueueId(1);
    task.kind = TypeId(1);
    task.state = State::Scheduled;
    task.priority = 5;
    task.seq = number;
    task.created = wall;
    task.changed = wall;
    task.due = START + Random(number).below(SPAN);
    task.run_at = task.due;
    task
}

/// SplitMix64: cheap, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
