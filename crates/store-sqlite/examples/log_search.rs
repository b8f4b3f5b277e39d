//! How fast log lines are stored, and how long searches take when there are many.
//!
//! `cargo run --release -p tidewheel-store-sqlite --example log_search -- [folder] [lines]`

use std::path::PathBuf;
use std::time::Instant;

use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_store::Error;
use tidewheel_store::log::{Level, Line, LogQuery, LogStore, Stream};
use tidewheel_store_sqlite::SqliteLogStore;

/// Lines of one task.
const PER_TASK: u64 = 200;

fn main() -> Result<(), Error> {
    let argument = |at: usize| std::env::args().nth(at);
    let folder = argument(1).map_or_else(|| std::env::temp_dir().join("tidewheel-logs"), PathBuf::from);
    let lines: u64 = argument(2).and_then(|a| a.parse().ok()).unwrap_or(2_000_000);
    // What is left of the run before has to go; that there is nothing is fine.
    let _ = std::fs::remove_dir_all(&folder);
    let path = folder.join("logs.db");
    let store = SqliteLogStore::open(&path)?;
    let (began, mut bytes) = (Instant::now(), 0);
    for first in (0..lines).step_by(2_000) {
        let batch: Vec<Line> = (first..(first + 2_000).min(lines)).map(line).collect();
        bytes += batch.iter().map(|line| line.text.len() as u64).sum::<u64>();
        store.append(batch)?;
    }
    let took = began.elapsed().as_secs_f64();
    let size = std::fs::metadata(&path).map_or(0, |m| m.len());
    println!(
        "{lines} lines of {} B in {took:.1} s: {:.0} lines/s, {} B on disk each",
        bytes / lines,
        lines as f64 / took,
        size / lines
    );
    let tenant = LogQuery { tenant: TenantId(1), limit: 100, ..LogQuery::default() };
    let task = LogQuery { task: Some(TaskId(u128::from(lines / PER_TASK / 2))), ..tenant.clone() };
    let words = |text: &str, query: &LogQuery| LogQuery { text: Some(text.to_owned()), ..query.clone() };
    let cases = [
        ("newest lines of a tenant", tenant.clone()),
        ("newest lines of a tenant with few", LogQuery { tenant: TenantId(2), ..tenant.clone() }),
        ("newest errors", LogQuery { level: Some(Level::Error), ..tenant.clone() }),
        ("a word in every line", words("done", &tenant)),
        ("a word in every line, tenant with few", words("done", &LogQuery { tenant: TenantId(2), ..tenant.clone() })),
        ("a word in one line of a thousand", words("w700", &tenant)),
        ("two common words", words("w1 w2", &tenant)),
        ("a word in one line of all", words(&format!("unique{}", lines / 2), &tenant)),
        ("a word that is nowhere", words("nowhere", &tenant)),
        ("a task's first lines", task.clone()),
        ("a task's last lines", LogQuery { tail: true, ..task.clone() }),
        ("a word in every line of a task", words("done", &task)),
    ];
    for (name, query) in cases {
        let mut times: Vec<_> = (0..5).map(|_| time(&store, &query)).collect::<Result<_, _>>()?;
        times.sort_by_key(|(took, _)| *took);
        println!("    {name}: median {:.1?}, longest {:.1?}, {} lines", times[2].0, times[4].0, times[2].1);
    }
    Ok(())
}

fn time(store: &SqliteLogStore, query: &LogQuery) -> Result<(std::time::Duration, usize), Error> {
    let began = Instant::now();
    let page = store.query(query)?;
    Ok((began.elapsed(), page.len()))
}

/// Twelve words of which some are common and some are rare; one line of ten thousand is of another tenant, one of two
/// thousand an error.
fn line(number: u64) -> Line {
    let mut text = format!("step {number} done unique{number}");
    let mut seed = number;
    for _ in 0..8 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (seed >> 40) as f64 / (1u64 << 24) as f64;
        text.push_str(&format!(" w{}", (2_000f64.powf(uniform)) as u64));
    }
    Line {
        tenant: TenantId(if number % 10_000 == 7 { 2 } else { 1 }),
        task: TaskId(u128::from(number / PER_TASK)),
        attempt: 1,
        offset: number % PER_TASK,
        at: 1_750_000_000_000 + number,
        stream: Stream::Stdout,
        level: if number % 2_000 == 9 { Level::Error } else { Level::Info },
        text,
    }
}
