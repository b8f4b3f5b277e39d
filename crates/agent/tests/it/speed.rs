//! How fast: not part of the usual run. `cargo test -p tidewheel-agent --release -- --ignored --nocapture speed`

use std::time::{Duration, Instant};

use crate::mock::*;

/// Grants as many as the agent's credit allows, as a server does.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_python_noops() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let total = 100_000usize;
    let mut credit = (s.hello.permits + s.hello.buffer) as usize;
    let (mut sent, mut begin, mut warm) = (0usize, Instant::now(), 0usize);
    while s.results.len() < total {
        if let Some(last) = s.credits.last() {
            credit = (last.permits + last.buffer) as usize;
        }
        let out = sent - s.results.len();
        if out < credit && sent < total {
            let count = (credit - out).min(total - sent);
            s.grant((0..count).map(|i| bench.python(&format!("{}", sent + i), "noop", "null")).collect()).await;
            sent += count;
        }
        let before = s.results.len();
        s.until("a result", |s| s.results.len() > before).await;
        if warm == 0 && s.results.len() > total / 10 {
            (warm, begin) = (s.results.len(), Instant::now());
        }
    }
    let rate = (total - warm) as f64 / begin.elapsed().as_secs_f64();
    println!("{rate:.0} Python no-op tasks/s through one agent (credit at the end: {credit})");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_starts() {
    let mut bench = Bench::start_with(|c| c.idle = Duration::from_millis(1)).await;
    let mut s = bench.connected().await;
    // A module that imports nothing: what a start costs by itself.
    let package =
        pack(&[("tasks.py", b"from tidewheel import task\n\n@task\ndef noop():\n    return None\n")], &["tasks"]);
    bench.package = hash_of(&package);
    bench.blobs.lock().insert(bench.package.clone(), package.into());
    s.grant(vec![bench.python("first", "noop", "null")]).await;
    s.ok("first").await;
    let marker = format!("TIDEWHEEL_ARTIFACTS={}", bench.dir.path().display());
    let mut cold = Vec::new();
    for i in 0..20 {
        eventually("the process ended", || processes_of(&marker).is_empty()).await;
        let token = format!("cold{i}");
        let begin = Instant::now();
        s.grant(vec![bench.python(&token, "noop", "null")]).await;
        s.ok(&token).await;
        cold.push(begin.elapsed());
    }
    cold.sort();
    println!(
        "new process of a cached environment, grant to result: min {:?}, p50 {:?}, max {:?}",
        cold[0], cold[10], cold[19]
    );
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let mut warm = Vec::new();
    for i in 0..500 {
        let token = format!("warm{i}");
        let begin = Instant::now();
        s.grant(vec![bench.python(&token, "noop", "null")]).await;
        s.ok(&token).await;
        warm.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    warm.sort();
    println!("warm process, grant to result: p50 {:?}, p99 {:?}", warm[250], warm[495]);
}
