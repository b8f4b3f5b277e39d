//! Many tasks stored: whether a task takes longer on its way when millions of finished and waiting ones lie beside it; what
//! they take of the disk; and whether the ten-thousandth page of them comes as fast as the first.

use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::json;

use crate::figure::{median, percentile};
use crate::server::{Server, number, told};
use crate::steady::pace;
use crate::{Figure, Options, probe};

/// Tasks per second that are looked at.
const RATE: u64 = 1_000;
/// Turns of empty and full server: the machine's own noise then hits both.
const TURNS: u64 = 5;
/// Measured: 183 bytes on disk for a finished task without an input, 250 with keys. Room for the log beside it.
const BYTES_PER_TASK: u64 = 300;

/// Half of the tasks finished, half of them waiting in a queue that nobody serves.
pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let stored = options.size(2_000_000, 100_000);
    let each = if options.quick { RATE } else { 3 * RATE };
    let (empty, full) = (Server::start(options)?, Server::start(options)?);
    probe::room_for(full.data(), stored * BYTES_PER_TASK)?;
    full.http()?.call("PUT", "/api/v1/queues/waiting", "", "{}")?;
    let bulk = |queue: &str, total| {
        [told(&[("total", total), ("bulk", 1_000), ("progress", 1)]), vec![format!("queue={queue}")]].concat()
    };
    full.role("submitter", &bulk("default", stored / 2))?.answer()?;
    full.role(
        "worker",
        &[told(&[("total", stored / 2), ("permits", 16_000)]), vec!["queue=default".to_owned()]].concat(),
    )?
    .answer()?;
    full.role("submitter", &bulk("waiting", stored / 2))?.answer()?;
    for server in [&empty, &full] {
        pace(server, RATE, RATE, "default")?;
    }
    let (mut of_empty, mut of_full) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        of_empty.push(number(&pace(&empty, RATE, each, "default")?.worked, "p99_ms")?);
        of_full.push(number(&pace(&full, RATE, each, "default")?.worked, "p99_ms")?);
    }
    full.has_succeeded(stored / 2 + RATE + TURNS * each)?;
    let waiting = full.count("queued")?;
    if waiting != stored / 2 {
        bail!("{} tasks were left waiting, {waiting} are stored as queued", stored / 2);
    }
    let config = json!({
        "finished": stored / 2, "queued": stored / 2, "rate_per_s": RATE, "tasks": TURNS * each,
        "turns": TURNS, "empty_ms": of_empty, "full_ms": of_full,
    });
    let (of_empty, of_full) = (median(of_empty), median(of_full));
    report(Figure::low("volume", "start_p99_empty_ms", of_empty, "ms", None).with(config.clone()));
    report(Figure::low("volume", "start_p99_ms", of_full, "ms", 10.0).with(config.clone()));
    report(Figure::low("volume", "start_p99_of_empty", of_full / of_empty, "ratio", 1.2).with(config.clone()));
    report(Figure::low("volume", "rss_bytes", probe::resident_bytes(full.pid()?)?, "bytes", 1e9).with(config));
    Ok(())
}

/// What a million finished tasks take of the disk, with keys and inputs of 200 bytes.
pub(crate) fn storage(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let tasks = options.size(1_000_000, 50_000);
    let input = 200;
    let server = Server::start(options)?;
    probe::room_for(server.data(), tasks * (BYTES_PER_TASK + 2 * input))?;
    let submitter = told(&[("total", tasks), ("bulk", 1_000), ("keys", 1), ("input", input), ("progress", 1)]);
    server.role("submitter", &submitter)?.answer()?;
    server.role("worker", &told(&[("total", tasks), ("permits", 16_000)]))?.answer()?;
    server.has_succeeded(tasks)?;
    let bytes = probe::folder_bytes(server.data())?;
    let store = server.status()?["store"].clone();
    let million = |bytes: f64| bytes / tasks as f64 * 1e6;
    let config = json!({"tasks": tasks, "input_bytes": input, "idempotency_keys": true, "store": store});
    report(
        Figure::low("storage", "bytes_per_1m_tasks", million(number(&store, "database_bytes")?), "bytes", 2e9)
            .with(config.clone()),
    );
    report(
        Figure::low("storage", "folder_bytes_per_1m_tasks", million(bytes), "bytes", None)
            .with(json!({"tasks": tasks, "counted": "every file of the server, its log included"})),
    );
    Ok(())
}

/// The list of tasks, page by page along the cursors.
pub(crate) fn pages(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    const LIMIT: u64 = 50;
    let tasks = options.size(500_000 + LIMIT, 10_000 + LIMIT);
    let deep = (tasks - LIMIT) / LIMIT;
    let server = Server::start(options)?;
    server.role("submitter", &told(&[("total", tasks), ("bulk", 1_000)]))?.answer()?;
    let mut http = server.http()?;
    let first = format!("/api/v1/tasks?limit={LIMIT}");
    let (mut path, mut seen, mut last) = (first.clone(), 0u64, String::from("~"));
    for _ in 1..deep {
        let page = http.call("GET", &path, "", "")?;
        let items = page["items"].as_array().context("a page has items")?;
        seen += items.len() as u64;
        for item in items {
            let id = item["id"].as_str().context("a task has an id")?;
            if id >= last.as_str() {
                bail!("{id} came after {last}: the pages are not in one order");
            }
            last = id.to_owned();
        }
        let cursor =
            page["next_cursor"].as_str().with_context(|| format!("the list ends after {seen} of {tasks} tasks"))?;
        path = format!("{first}&cursor={cursor}");
    }
    if seen != (deep - 1) * LIMIT {
        bail!("{} pages had {seen} tasks", deep - 1);
    }
    // In turns, so that what else the machine does hits both.
    let (mut of_first, mut of_deep) = (Vec::new(), Vec::new());
    for _ in 0..if options.quick { 50 } else { 500 } {
        for (path, times) in [(&first, &mut of_first), (&path, &mut of_deep)] {
            let begun = Instant::now();
            let page = http.call("GET", path, "", "")?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
            if page["items"].as_array().map_or(0, Vec::len) as u64 != LIMIT {
                bail!("a page of {path} is not full");
            }
        }
    }
    of_first.sort_by(f64::total_cmp);
    of_deep.sort_by(f64::total_cmp);
    let config = json!({"tasks": tasks, "limit": LIMIT, "page": deep, "runs": of_deep.len()});
    let mut low = |name: &'static str, value, unit, target: Option<f64>| {
        report(Figure::low("pages", name, value, unit, target).with(config.clone()));
    };
    low("first_p50_ms", percentile(&of_first, 0.5), "ms", None);
    low("first_p99_ms", percentile(&of_first, 0.99), "ms", None);
    low("deep_p50_ms", percentile(&of_deep, 0.5), "ms", None);
    low("deep_p99_ms", percentile(&of_deep, 0.99), "ms", None);
    low("deep_of_first", percentile(&of_deep, 0.5) / percentile(&of_first, 0.5), "ratio", Some(1.2));
    Ok(())
}
