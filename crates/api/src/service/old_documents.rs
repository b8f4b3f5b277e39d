//! Documents of workflows that nothing needs: no version names them, and no run of their workflow is kept. A program leaves one behind with each
//! version of its package, and a run may have to be read with it as long as any of its workflow is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidewheel_engine::Command;
use tidewheel_engine::effect::Reply;
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_runtime::Runtime;

use crate::store::{Error, RunQuery};

/// What a round found, each with the version of its record: a deploy stores a document just before the version that names it, so that only what
/// two rounds found in a row goes, and what was stored anew in between stays.
pub type OldDocuments = BTreeSet<(TenantId, Name, u64)>;

/// Deletes the documents that nothing needs, now and in the round before (`found`), and says how many went. The pause between two rounds is longer
/// than any deploy.
///
/// # Errors
/// When the store cannot be read; nothing more is deleted then.
pub async fn sweep_documents(runtime: &Runtime, found: &mut OldDocuments) -> Result<u64, Error> {
    let (mut now, mut gone) = (OldDocuments::new(), 0);
    for tenant in runtime.directory().tenants() {
        for ((namespace, name), documents) in unnamed(runtime, tenant.id) {
            if has_runs(runtime, tenant.id, namespace, name).await? {
                continue;
            }
            for (key, version) in documents {
                let (kind, tenant, expected) = (RecordKind::Definition, tenant.id, Some(version));
                if !found.contains(&(tenant, key.clone(), version)) {
                    now.insert((tenant, key, version));
                    continue;
                }
                let delete = move |request| Command::PutRecord { request, kind, tenant, key, value: None, expected };
                match runtime.call(delete).await {
                    Ok(Reply::Record(None)) => gone += 1,
                    // Somebody else was quicker, or stored it anew.
                    Ok(_) => {}
                    // It stays for a later round.
                    Err(error) => tracing::warn!(?error, "a document that nothing needs could not be deleted"),
                }
            }
        }
    }
    *found = now;
    Ok(gone)
}

/// Documents that no version names, by namespace and name of their workflow.
fn unnamed(runtime: &Runtime, tenant: TenantId) -> BTreeMap<(String, String), Vec<(Name, u64)>> {
    let directory = runtime.directory();
    let all = directory.records(RecordKind::Definition, tenant);
    let versions = directory.records(RecordKind::Workflow, tenant);
    let named: BTreeSet<&str> = versions.iter().filter_map(|record| Some(record.value.split_once(' ')?.0)).collect();
    let mut found: BTreeMap<(String, String), Vec<(Name, u64)>> = BTreeMap::new();
    for record in all.iter().filter(|record| !named.contains(&*record.key)) {
        let read: Value = serde_json::from_str(&record.value).unwrap_or_default();
        let about = &read["workflow"]["document"];
        // What cannot be read stays.
        if let (Some(namespace), Some(name)) = (about["namespace"].as_str(), about["name"].as_str()) {
            let workflow = (namespace.to_owned(), name.to_owned());
            found.entry(workflow).or_default().push((record.key.clone(), record.version));
        }
    }
    found
}

async fn has_runs(runtime: &Runtime, tenant: TenantId, namespace: String, name: String) -> Result<bool, Error> {
    let store = runtime.store().clone();
    let (namespace, name) = (Some(namespace), Some(name));
    let query = RunQuery { tenant, namespace, name, limit: 1, scan_limit: usize::MAX, ..RunQuery::default() };
    let read = tokio::task::spawn_blocking(move || Ok(!store.runs(&query)?.runs.is_empty()));
    read.await.map_err(|_| Error::Failed("a read of the store panicked".to_owned()))?
}
