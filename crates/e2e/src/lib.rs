//! The harness of the end-to-end tests: it starts the built binary, talks to it over its public interfaces alone, breaks
//! it from outside, and keeps a ledger of what workers saw. It never imports a crate of the product other than `proto`.
//!
//! A test that cannot run says so with [`not_run`]: it is then counted as not run and never looks like a pass.

pub mod agent;
pub mod ledger;
pub mod process;
pub mod rest;
pub mod rng;
pub mod server;
pub mod tools;
pub mod trace;
pub mod wire;
pub mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a condition may take before the test is given up. Generous: nothing here is a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(|crates| crates.parent()).map(PathBuf::from).unwrap_or(here)
}

/// Prints past the test runner's capture, which would swallow what a passing test says.
pub fn say(line: &str) {
    // A leading line break, since the runner may have begun a line; a closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "\n{line}");
}

/// Says that the test of this thread did not run and why; the test command counts these lines apart.
pub fn not_run(reason: &str) {
    // The runner names the thread of a test after it.
    let thread = std::thread::current();
    say(&format!("not run: {}: {reason}", thread.name().unwrap_or("a test")));
}

/// Prints a figure that a test measured on its way.
pub fn figure(text: &str) {
    say(&format!("figure: {text}"));
}

/// Whether the long fault tests were asked for.
pub fn is_chaos() -> bool {
    chaos_rounds().is_some()
}

/// Rounds of SIGKILL that were asked for by the environment.
pub fn chaos_rounds() -> Option<u32> {
    std::env::var("TIDEWHEEL_CHAOS_ROUNDS").ok().and_then(|text| text.parse().ok())
}

/// Waits until `check` gives a value; names what it waited for when the patience is over.
pub async fn until<T, F>(what: &str, limit: Duration, mut check: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        if let Some(value) = check().await? {
            return Ok(value);
        }
        anyhow::ensure!(begun.elapsed() < limit, "waited {} s for: {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for something that much work stands before. `check` gives the value, or what is left to do: as long as that
/// changes, it is waited for, however slow the machine is; it is given up after [`PATIENCE`] without any change.
pub async fn until_done<T, P, F>(what: &str, mut check: impl FnMut() -> F) -> anyhow::Result<T>
where
    P: PartialEq + std::fmt::Debug,
    F: Future<Output = anyhow::Result<Result<T, P>>>,
{
    let mut moved = Instant::now();
    let mut last = None;
    loop {
        let left = match check().await? {
            Ok(value) => return Ok(value),
            Err(left) => left,
        };
        if last.as_ref() != Some(&left) {
            (moved, last) = (Instant::now(), Some(left));
        }
        let still = moved.elapsed() < PATIENCE;
        anyhow::ensure!(still, "no change for {} s while waiting for: {what}; left: {last:?}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tests that load the whole machine run alone, the others beside each other: two loads at once on two cores would only
/// make both slow.
pub mod gate {
    use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    static GATE: RwLock<()> = RwLock::const_new(());

    /// For a test that leaves room for others.
    pub async fn beside() -> RwLockReadGuard<'static, ()> {
        GATE.read().await
    }

    /// For a test that takes the machine.
    pub async fn alone() -> RwLockWriteGuard<'static, ()> {
        GATE.write().await
    }
}
