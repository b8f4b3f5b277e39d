//! A worker as a process of its own, so that a test can stop and kill it. It prints what happens to its attempts, one
//! event per line. Arguments: server, name, queue, permits, milliseconds each attempt takes; the token comes from the
//! environment.

use std::time::Duration;

use anyhow::Context;
use tidewheel_e2e::ledger::Ledger;
use tidewheel_e2e::worker::{Deed, Plan, Worker};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, name, queue, permits, takes] = args.as_slice() else {
        anyhow::bail!("usage: e2e-worker SERVER NAME QUEUE PERMITS MILLISECONDS");
    };
    let token = std::env::var("E2E_TOKEN").context("E2E_TOKEN holds the token")?;
    let takes = Duration::from_millis(takes.parse()?);
    let result: bytes::Bytes = format!("\"{name}\"").into();
    let mut plan =
        Plan::new(url, &token, name, &[queue], permits.parse()?).with(move |_| Deed::After(takes, result.clone()));
    plan.stubborn = true;
    let ledger = Ledger::default();
    ledger.book().echo = true;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let _worker = Worker::start(plan, ledger);
        // Until the test ends it.
        std::future::pending::<()>().await;
    });
    Ok(())
}
