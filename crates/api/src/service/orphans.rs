//! Blobs that nothing names: uploads that were given up, inputs and results of tasks beyond their retention, parts of
//! archives that were refused. They are deleted a day after they were last put or asked for, because what names a blob is
//! committed after it.
//!
//! Order, which makes it safe: first the old blobs are listed, then everything that names any is read, then each that is
//! left is deleted, unless it was touched meanwhile (`Blobs::remove` looks under the same lock that a put takes). A blob
//! that is put or found again after the list is kept by that; one that was named before the list is found by the reading.
//! A task may come during the reading and name an old blob in the text of its input, which touches nothing: the reading
//! goes from the newest task to the oldest, and then again over those that came meanwhile, until none has.
//!
//! It costs a listing of the blobs per round, and only if some are old and not part of a package, a reading of the tasks.
//! Nothing of it is on the way of a task.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::task::{Payload, Task};
use tidewheel_runtime::Runtime;

use super::parts::Parts;
use crate::store::{Error, Hash, TaskQuery};
use crate::text::parse_hash;

/// Tasks read in one step, and the pause between two steps.
const PAGE: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);
/// A blob with JSON in it is looked through for hashes up to this size; a larger one is no description of a task.
const SCANNED: u64 = 16 << 20;
/// How a hash begins in a text.
const PREFIX: &[u8] = b"sha256:";

/// Deletes blobs of all tenants that are older than `age`, were not touched for as long, and that no task, package or operation
/// names: as input, result or artefact, or by a `sha256:...` in the JSON of an input, a result or a kept record. How many
/// went. Nothing is deleted for a tenant whose names cannot be read whole, which is logged; the others have their turn.
pub async fn sweep_blobs(runtime: &Runtime, age: Duration) -> u64 {
    let mut gone = 0;
    for tenant in runtime.directory().tenants() {
        if let Err(error) = sweep(runtime, tenant.id, age, &mut gone).await {
            tracing::warn!(tenant = %tenant.name, %error, "a round over the blobs of a tenant did not end");
        }
    }
    gone
}

/// Counts the blobs of all tenants, for `/metrics`: once after a start; the rounds of [`sweep_blobs`] count on their way.
pub async fn count_blobs(runtime: &Runtime) {
    for tenant in runtime.directory().tenants() {
        if let Err(error) = runtime.blobs().count(tenant.id.0).await {
            tracing::warn!(tenant = %tenant.name, %error, "the blobs of a tenant cannot be counted");
        }
    }
}

async fn sweep(runtime: &Runtime, tenant: TenantId, age: Duration, gone: &mut u64) -> Result<(), Error> {
    let blobs = runtime.blobs();
    let mut left: HashSet<Hash> = blobs.old(tenant.0, age).await?.into_iter().collect();
    if left.is_empty() {
        return Ok(());
    }
    // Whatever kind of record says a hash, or will say one in a later version.
    for kind in (0..=u8::MAX).filter_map(RecordKind::from_number) {
        let records = runtime.directory().records(kind, tenant);
        records.iter().for_each(|record| unname_text(record.value.as_bytes(), &mut left));
    }
    unname_packages(runtime, tenant, &mut left).await?;
    unname_outcomes(runtime, tenant, &mut left).await?;
    unname_tasks(runtime, tenant, &mut left).await?;
    unname_values(runtime, tenant, &mut left).await?;
    for hash in left {
        *gone += u64::from(blobs.remove(tenant.0, hash, age).await?);
    }
    Ok(())
}

async fn unname_packages(runtime: &Runtime, tenant: TenantId, left: &mut HashSet<Hash>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Named {
        hash: String,
        #[serde(default)]
        parts: Option<String>,
    }
    let unreadable = |what: &str| Error::Corrupt(format!("a package {what} cannot be read: no blob is deleted"));
    for record in runtime.directory().records(RecordKind::Package, tenant) {
        let named: Named = serde_json::from_str(&record.value).map_err(|_| unreadable("record"))?;
        // Kept as a whole by an earlier version.
        if let Some(whole) = parse_hash(&named.hash) {
            left.remove(&whole);
        }
        let Some(list) = named.parts else { continue };
        let list = parse_hash(&list).ok_or_else(|| unreadable("record"))?;
        left.remove(&list);
        let bytes = runtime.blobs().read(tenant.0, list, 0, u64::MAX).await?;
        let parts: Parts = serde_json::from_slice(&bytes).map_err(|_| unreadable("list of parts"))?;
        let hashes = parts.hashes().ok_or_else(|| unreadable("list of parts"))?;
        for hash in &hashes {
            left.remove(hash);
        }
    }
    Ok(())
}

/// Pages of outcomes of operations: the record names the newest, and each the one before.
async fn unname_outcomes(runtime: &Runtime, tenant: TenantId, left: &mut HashSet<Hash>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        outcomes: Option<String>,
    }
    #[derive(Deserialize)]
    struct Page {
        #[serde(default)]
        before: Option<String>,
    }
    let unreadable = || Error::Corrupt("outcomes of an operation cannot be read: no blob is deleted".to_owned());
    for record in runtime.directory().records(RecordKind::Operation, tenant) {
        let named: Named = serde_json::from_str(&record.value).map_err(|_| unreadable())?;
        let mut next = named.outcomes;
        while let Some(address) = next {
            let hash = parse_hash(&address).ok_or_else(unreadable)?;
            left.remove(&hash);
            let bytes = runtime.blobs().read(tenant.0, hash, 0, SCANNED).await?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
            next = page.before;
        }
    }
    Ok(())
}

/// What runs name: the large results of tasks, which may be forgotten long before their runs.
async fn unname_values(runtime: &Runtime, tenant: TenantId, left: &mut HashSet<Hash>) -> Result<(), Error> {
    let all: Vec<Hash> = left.iter().copied().collect();
    for page in all.chunks(PAGE) {
        let (store, hashes) = (runtime.store().clone(), page.to_vec());
        let read = tokio::task::spawn_blocking(move || {
            let named = hashes.into_iter().map(|hash| Ok((hash, store.value(tenant, &hash)?.is_some())));
            named.collect::<Result<Vec<_>, Error>>()
        });
        for (hash, named) in read.await.map_err(|_| Error::Failed("a read of the store panicked".to_owned()))?? {
            if named {
                left.remove(&hash);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn unname_tasks(runtime: &Runtime, tenant: TenantId, left: &mut HashSet<Hash>) -> Result<(), Error> {
    let mut known = None;
    loop {
        let newest = unname_tasks_since(runtime, tenant, known, left).await?;
        if newest <= known || left.is_empty() {
            return Ok(());
        }
        known = newest;
    }
}

/// Reads the tasks that came after one, newest first; the newest of them. Ids keep the order of time by the millisecond only:
/// what came in the second before is read again.
async fn unname_tasks_since(
    runtime: &Runtime,
    tenant: TenantId,
    known: Option<TaskId>,
    left: &mut HashSet<Hash>,
) -> Result<Option<TaskId>, Error> {
    let from = known.map(|id| TaskId(id.0.saturating_sub(1_000 << 80)));
    let mut newest = known;
    let mut before = None;
    while !left.is_empty() {
        let store = runtime.store().clone();
        let read = tokio::task::spawn_blocking(move || {
            let query = TaskQuery { tenant, before, limit: PAGE, scan_limit: PAGE, ..TaskQuery::default() };
            let page = store.tasks(&query)?;
            let next = page.next.or(page.tasks.last().map(|task| task.id).filter(|_| page.searched_back_to.is_some()));
            let mut whole = Vec::with_capacity(page.tasks.len());
            for task in page.tasks {
                // The list has no inputs and results; artefacts it has.
                let cold = is_cold(&task.input) || task.ending.as_ref().is_some_and(|e| is_cold(&e.result));
                match cold {
                    true => whole.extend(store.task(tenant, task.id)?),
                    false => whole.push(task),
                }
            }
            Ok::<_, Error>((whole, next))
        });
        let (tasks, next) = read.await.map_err(|_| Error::Failed("a read of the store panicked".to_owned()))??;
        newest = newest.max(tasks.first().map(|task| task.id));
        for task in tasks.iter().filter(|task| Some(task.id) > from) {
            unname_task(runtime, task, left).await?;
        }
        if next.is_none() || next <= from {
            break;
        }
        before = next;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(newest)
}

fn is_cold(payload: &Payload) -> bool {
    *payload == Payload::Cold
}

async fn unname_task(runtime: &Runtime, task: &Task, left: &mut HashSet<Hash>) -> Result<(), Error> {
    let ending = task.ending.as_ref();
    for artifact in ending.into_iter().flat_map(|e| &e.artifacts) {
        left.remove(&artifact.hash);
    }
    for payload in [Some(&task.input), ending.map(|e| &e.result)].into_iter().flatten() {
        match payload {
            Payload::Inline(bytes) => unname_text(bytes, left),
            Payload::Blob { hash, size } => {
                left.remove(hash);
                if *size <= SCANNED {
                    unname_text(&runtime.blobs().read(task.tenant.0, *hash, 0, *size).await?, left);
                }
            }
            Payload::None | Payload::Cold => {}
        }
    }
    Ok(())
}

/// Hashes that stand in a text.
fn unname_text(text: &[u8], left: &mut HashSet<Hash>) {
    let mut from = 0;
    while let Some(at) = text[from..].windows(PREFIX.len()).position(|window| window == PREFIX) {
        let begin = from + at;
        from = begin + PREFIX.len();
        let hash = text.get(begin..from + 64).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(parse_hash);
        if let Some(hash) = hash {
            left.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_in_a_text_is_a_name() {
        let hash: Hash = core::array::from_fn(|i| i as u8);
        let text = format!(r#"{{"a":"sha256:zz","b":["sha256:{}"],"c":"sha256:"}}"#, hex::encode(hash));
        let mut left: HashSet<Hash> = [hash, [9; 32]].into();
        unname_text(text.as_bytes(), &mut left);
        assert_eq!(left, [[9; 32]].into());
    }
}
