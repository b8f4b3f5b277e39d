//! Workflows that packages bring: durable Python. Each is registered under its namespace, name and version; the newest package that
//! brings one serves the runs that begin from then on, and those that have begun keep theirs.

use tidewheel_engine::config::RetryPolicy;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::task::Spec;
use tidewheel_lang::program::{ProgramDocument, version_of};
use tidewheel_lang::resolve::Resolved;
use tidewheel_proto::rest;

use super::task_type::entry_defaults;
use super::workflow::{self, Named};
use super::{moving, package, spec};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;

/// Whether an entry is a workflow.
pub(crate) fn is_one(entry: &rest::PackageEntry) -> bool {
    entry.kind == "workflow"
}

/// Refuses a package with a workflow that could not run.
pub(crate) fn check(name: &str, version: &str, hash: &str, entries: &[rest::PackageEntry]) -> Result<(), Failure> {
    for (at, entry) in entries.iter().enumerate() {
        let known = matches!(entry.kind.as_str(), "" | "task" | "workflow");
        if !known {
            let detail = format!("the kind '{}' is unknown; there are task and workflow", entry.kind);
            return Err(Failure::field(format!("/entries/{at}/kind"), detail));
        }
        if is_one(entry) {
            resolved(name, version, hash, entries, entry)
                .map_err(|failure| failure.under(&format!("/entries/{at}")))?;
        }
    }
    Ok(())
}

fn resolved(
    name: &str,
    version: &str,
    hash: &str,
    entries: &[rest::PackageEntry],
    entry: &rest::PackageEntry,
) -> Result<(ProgramDocument, Resolved), Failure> {
    let own = version_of(entry.version.as_deref(), version).ok_or_else(|| {
        let given = entry.version.as_deref().unwrap_or_default();
        Failure::field(
            "/version",
            format!("'{given}' is no version of a workflow; write numbers, such as \"3\" or \"1.2.0\""),
        )
    })?;
    let wanted = entry_defaults(&entry.defaults)?;
    let mut asked = Spec::default();
    spec::overlay(&mut asked, &wanted, &entry.name, RetryPolicy::default).map_err(|f| f.under("/defaults"))?;
    let priority = wanted.priority.as_ref().map(spec::priority).transpose().map_err(|f| f.under("/defaults"))?;
    let tasks = entries.iter().filter(|entry| !is_one(entry)).map(|entry| entry.name.clone()).collect();
    let document = ProgramDocument {
        namespace: entry.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        name: entry.name.clone(),
        version: own,
        summary: entry.doc.clone(),
        input: schema(&entry.schema_in),
        output: schema(&entry.schema_out),
        package: name.to_owned(),
        package_version: version.to_owned(),
        package_hash: hash.to_owned(),
        function: entry.function.clone(),
        tasks,
        queue: wanted.queue,
        priority,
        timeout_ms: entry
            .options
            .get("timeout_ms")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(asked.timeouts.run_ms),
        version_policy: match entry.options.get("version_policy").and_then(serde_json::Value::as_str) {
            // As if nothing was said: a version of its own would be registered else for those who say it.
            Some("pin") | None => String::new(),
            Some(policy) => policy.to_owned(),
        },
    };
    let resolved =
        document.resolved().map_err(|why| Failure::field("", format!("the workflow '{}': {why}", entry.name)))?;
    Ok((document, resolved))
}

/// A schema that says something.
fn schema(given: &serde_json::Value) -> serde_json::Value {
    match given {
        serde_json::Value::Object(map) if !map.is_empty() => given.clone(),
        _ => serde_json::Value::Null,
    }
}

fn all(package: &rest::Package) -> impl Iterator<Item = Result<(ProgramDocument, Resolved), Failure>> + '_ {
    let entries = package.entries.iter().filter(|entry| is_one(entry));
    entries.map(|entry| resolved(&package.name, &package.version, &package.hash, &package.entries, entry))
}

fn named(document: &ProgramDocument) -> Named<'_> {
    Named { namespace: &document.namespace, name: &document.name, version: &document.version }
}

/// Registers the workflows of a package.
pub(crate) async fn register(api: &Api, tenant: TenantId, package: &rest::Package) -> Result<(), Failure> {
    for found in all(package) {
        let (document, resolved) = found?;
        workflow::register(api, tenant, named(&document), resolved).await?;
    }
    Ok(())
}

/// A package was deployed: runs of its workflows that follow other versions move, where those say so. The operations that move them.
pub(crate) async fn deployed(
    api: &Api,
    tenant: TenantId,
    by: &str,
    package: &rest::Package,
) -> Result<Vec<String>, Failure> {
    let mut started = Vec::new();
    for found in all(package) {
        let (document, _) = found?;
        started.extend(moving::deployed(api, tenant, by, named(&document)).await?);
    }
    Ok(started)
}

/// Takes the workflows of a package out of use that are served by it: the newest other active version that brings one serves it from
/// then on. Runs that have begun keep theirs.
pub(crate) async fn unregister(api: &Api, caller: &Principal, package: &rest::Package) -> Result<(), Failure> {
    for found in all(package) {
        let (document, resolved) = found?;
        let named = named(&document);
        if workflow::hash_of(api, caller.tenant, named).as_deref() != Some(&hex::encode(resolved.hash)) {
            continue;
        }
        let others = package::list(api, caller, Some(&package.name)).into_iter();
        let active = others.filter(|other| other.state == "active" && other.version != package.version);
        let next =
            active.flat_map(|other| all(&other).filter_map(Result::ok).collect::<Vec<_>>()).find(|(other, _)| {
                other.namespace == document.namespace
                    && other.name == document.name
                    && other.version == document.version
            });
        match next {
            Some((other, resolved)) => {
                let named = self::named(&other);
                workflow::register(api, caller.tenant, named, resolved).await?;
            }
            None => workflow::withdraw(api, caller.tenant, named).await?,
        }
    }
    Ok(())
}
