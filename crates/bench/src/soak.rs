//! Memory over time: a steady load, and how the resident memory of the server goes on after it has settled.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;

use crate::server::{Server, told};
use crate::{Figure, Options, client, probe};

/// Tasks a second, unless a number of tasks is asked for: the tasks of a whole day in an hour find what a day finds, but for what depends on time
/// alone.
const RATE: u64 = 1_000;
/// Ended tasks are kept for this part of a run, so that in its second half as many go as come.
const KEPT: u64 = 8;
/// The first part of a run fills caches, windows and tables; what counts is what comes after.
const SETTLING: f64 = 0.5;

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let seconds =
        options.minutes.map_or(if options.quick { 10.0 } else { 60.0 }, |minutes| minutes * 60.0).max(4.0) as u64;
    let rate = options.tasks.map_or(RATE, |tasks| (tasks / seconds).max(1));
    let total = seconds * rate;
    let kept_s = (seconds / KEPT).max(60);
    let server = Server::start_with(options, &["--set", &format!("retention.finished={kept_s}s")])?;
    let finished = || server.sum("tidewheel_tasks_finished_total", "outcome=\"succeeded\"");
    let (pid, before) = (server.pid()?, finished()?);
    let worker = server.role("worker", &told(&[("total", total), ("permits", 1_000)]))?;
    let submitter = server.role("steady", &told(&[("total", total), ("rate", rate)]))?;
    let (begun, mut samples, mut said) = (Instant::now(), Vec::new(), Instant::now());
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(500));
        let at = begun.elapsed().as_secs_f64();
        samples.push((at, probe::resident_bytes(pid)?));
        if said.elapsed() >= 6 * client::PROGRESS {
            client::say(&format!("{at:.0} of {seconds} s, {:.0} MB", samples[samples.len() - 1].1 / 1e6));
            said = Instant::now();
        }
    }
    let accepted = submitter.answer()?["accepted"].as_u64();
    let completed = worker.answer()?["accepted"].as_u64();
    if accepted != Some(total) || completed != Some(total) {
        bail!("of {total} tasks {accepted:?} were acknowledged and {completed:?} completed");
    }
    // Most of them are forgotten by now: they are counted, not looked up.
    let succeeded = finished()? - before;
    if succeeded != total as f64 {
        bail!("{total} tasks were acknowledged and completed, but {succeeded} were counted as succeeded");
    }
    let left = server.count("succeeded")?;
    let settled: Vec<(f64, f64)> = samples.iter().copied().filter(|(at, _)| *at >= seconds as f64 * SETTLING).collect();
    let (slope, level) = line(&settled);
    let growth = slope * seconds as f64 * (1.0 - SETTLING) / level * 100.0;
    let config = json!({
        "seconds": seconds, "rate_per_s": rate, "tasks": total, "settling": SETTLING, "samples": settled.len(),
        "kept_s": kept_s, "stored_at_the_end": left,
    });
    report(Figure::low("soak", "rss_bytes", level, "bytes", 1e9).with(config.clone()));
    report(Figure::low("soak", "rss_slope_bytes_per_hour", slope * 3_600.0, "bytes/h", None).with(config.clone()));
    report(Figure::low("soak", "rss_growth_percent", growth, "%", 1.0).with(config));
    Ok(())
}

/// Least squares: slope per second, and the mean.
fn line(samples: &[(f64, f64)]) -> (f64, f64) {
    let count = samples.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (middle, level) = (mean(|s| s.0), mean(|s| s.1));
    let over: f64 = samples.iter().map(|(at, bytes)| (at - middle) * (bytes - level)).sum();
    let under: f64 = samples.iter().map(|(at, _)| (at - middle).powi(2)).sum();
    (if under > 0.0 { over / under } else { 0.0 }, level)
}
