//! What needs a version of a package: workflows that are deployed and call it, runs that follow such a version of a workflow,
//! and runs that moved on from one and keep calls of that time (compensations that are armed, maps that have begun).
//!
//! Tasks that have not ended are asked for where a version is deleted ([`super::package`]).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::kept::kept;
use tidewheel_engine::run::plan::Target;
use tidewheel_lang::resolve::Resolved;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::workflow::{self, Named};
use super::{package, run};
use crate::problem::Failure;
use crate::state::Api;
use crate::store::{self, RunQuery, Store};
use crate::text::run_text;

/// Rows of runs read at once.
const ROWS: usize = 1_000;
/// Runs read whole at once.
const HEADS: usize = 100;

/// A document that calls a version of a package.
struct User {
    plan: [u8; 32],
    namespace: String,
    name: String,
    version: String,
    is_program: bool,
}

/// Refuses if anything needs the version, and says what and what to do. Open runs of the workflows that call it are read whole if they follow
/// other versions, which takes about a minute for a million.
pub(crate) async fn is_free(api: &Api, tenant: TenantId, package: &rest::Package) -> Result<(), Failure> {
    for (workflow, others) in is_followed_by_none(api, tenant, package).await? {
        for some in others.chunks(HEADS) {
            if let Some(moved) = keeping(api, tenant, some, package).await? {
                let why = format!(
                    "{} of {workflow} has moved on from a version that runs {}, and may call it still: for a compensation that \
                     it armed before, or for a map that it had begun. Wait for it, or cancel it",
                    run_text(moved),
                    shown(package)
                );
                return Err(needed(&why, package));
            }
        }
    }
    Ok(())
}

/// Refuses if a workflow that is deployed calls the version, or an open run follows one that does. Else the other open runs of these
/// workflows: one that moved on may keep calls.
pub(crate) async fn is_followed_by_none(
    api: &Api,
    tenant: TenantId,
    package: &rest::Package,
) -> Result<Vec<(String, Vec<RunId>)>, Failure> {
    let users = users(api, tenant, package).await?;
    // Programs are the package's own, and go with it.
    let deployed = users.iter().filter(|user| !user.is_program).find(|user| {
        let named = Named { namespace: &user.namespace, name: &user.name, version: &user.version };
        workflow::hash_of(api, tenant, named).as_deref() == Some(&hex::encode(user.plan))
    });
    if let Some(User { namespace, name, version, .. }) = deployed {
        let why = format!(
            "{namespace}/{name}:{version} calls {}, to which it was pinned when it was deployed. Delete that version of the workflow \
             first (`tidewheel workflow delete {namespace}/{name}:{version}`)",
            shown(package)
        );
        return Err(needed(&why, package));
    }
    let mut workflows: BTreeMap<(String, String), BTreeSet<[u8; 32]>> = BTreeMap::new();
    for user in users {
        workflows.entry((user.namespace, user.name)).or_default().insert(user.plan);
    }
    let mut others = Vec::new();
    for (workflow, plans) in workflows {
        let text = format!("{}/{}", workflow.0, workflow.1);
        others.push((text, runs_are_over(api, tenant, &workflow, &plans, package).await?));
    }
    Ok(others)
}

/// Refuses a document that calls a version of a package which was deleted since it was compiled.
pub(crate) fn is_there(api: &Api, tenant: TenantId, document: &Resolved) -> Result<(), Failure> {
    match missing(api, tenant, document) {
        None => Ok(()),
        Some((name, version)) => {
            let detail = format!("The package {name} {version} was deleted while this was deployed; deploy it again.");
            Err(Failure::new(Code::Conflict, detail))
        }
    }
}

/// The first version of a package that a document calls and that is not there any more: name and version.
pub(crate) fn missing<'d>(api: &Api, tenant: TenantId, document: &'d Resolved) -> Option<(&'d str, &'d str)> {
    let gone = |(name, version): &(&str, &str)| {
        let key = package::key_of(name, version);
        api.runtime.directory().record(RecordKind::Package, tenant, &key).is_none()
    };
    document.packages().into_iter().find(gone)
}

/// `name version`
fn shown(package: &rest::Package) -> String {
    format!("{} {}", package.name, package.version)
}

fn needed(why: &str, package: &rest::Package) -> Failure {
    let detail = format!(
        "{why}; until then POST /api/v1/packages/{}/{}:yank keeps new tasks and runs from it.",
        package.name, package.version
    );
    Failure::new(Code::Conflict, detail)
}

/// The documents that call a version, those of versions that are not deployed any more as well.
async fn users(api: &Api, tenant: TenantId, package: &rest::Package) -> Result<Vec<User>, Failure> {
    let records = api.runtime.directory().records(RecordKind::Definition, tenant);
    let (name, version) = (package.name.clone(), package.version.clone());
    let work = move || {
        // Few of them name it, and only those are read.
        let naming = records.iter().filter(|record| record.value.contains(&*name) && record.value.contains(&*version));
        let read = naming.filter_map(|record| Resolved::read(record.value.as_bytes()).ok());
        let calling = read.filter(|document| document.packages().contains(&(&*name, &*version)));
        calling.map(|document| User::of(&document)).collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::internal("a read of documents panicked"))
}

impl User {
    fn of(document: &Resolved) -> User {
        let about = &document.workflow()["document"];
        let text = |name: &str| about[name].as_str().unwrap_or_default().to_owned();
        User {
            plan: document.hash,
            namespace: text("namespace"),
            name: text("name"),
            version: text("version"),
            is_program: document.program().is_some(),
        }
    }
}

/// Refuses if a run of a workflow that has not ended follows one of these documents; else those that follow others.
async fn runs_are_over(
    api: &Api,
    tenant: TenantId,
    (namespace, name): &(String, String),
    plans: &BTreeSet<[u8; 32]>,
    package: &rest::Package,
) -> Result<Vec<RunId>, Failure> {
    let phases = run::PHASES.iter().map(|(_, phase)| *phase).filter(|phase| !phase.ended()).collect();
    let mut query = RunQuery {
        tenant,
        phases,
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        limit: ROWS,
        scan_limit: usize::MAX,
        ..RunQuery::default()
    };
    let (mut following, mut others) = (0, Vec::new());
    loop {
        let asked = query.clone();
        let page = api.read_store(move |store| store.runs(&asked)).await?;
        for row in &page.runs {
            match plans.contains(&row.identity.plan) {
                true => following += 1,
                false => others.push(row.identity.run),
            }
        }
        query.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    if following > 0 {
        let why = format!(
            "{} of {namespace}/{name} that {} not ended run {}. Wait for them, cancel them, or move them to another version \
             (`tidewheel run move`)",
            run::counted(following),
            if following == 1 { "has" } else { "have" },
            shown(package)
        );
        return Err(needed(&why, package));
    }
    Ok(others)
}

/// The first of some runs that keeps a call of the version.
async fn keeping(
    api: &Api,
    tenant: TenantId,
    runs: &[RunId],
    package: &rest::Package,
) -> Result<Option<RunId>, Failure> {
    let (ids, name, version) = (runs.to_vec(), package.name.clone(), package.version.clone());
    let found = api.read_store(move |store| {
        let mut found = Vec::new();
        for run in ids {
            // A run is written whole when it moves, so that what it has of before is in what is stored of it.
            let head = store.run(tenant, run)?.and_then(|stored| stored.head);
            if let Some(head) = head
                && keeps(store, tenant, &head, (&name, &version))?
            {
                found.push(run);
            }
        }
        Ok(found)
    });
    for run in found.await? {
        // It may have made the call since.
        let head = match run::head_of(api, tenant, run).await {
            Err(failure) if failure.code() == Code::NotFound => continue,
            other => other?,
        };
        let (name, version) = (package.name.clone(), package.version.clone());
        let still = move |store: &dyn Store| keeps(store, tenant, &head, (&name, &version));
        if api.read_store(still).await? {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

fn keeps(
    store: &dyn Store,
    tenant: TenantId,
    head: &Head,
    (name, version): (&str, &str),
) -> Result<bool, store::Error> {
    if head.phase.ended() {
        return Ok(false);
    }
    let names = |call: &Value| call["package"] == *name && call["version"] == *version;
    for (_, call) in kept(head).filter(|(target, _)| matches!(target, Target::Python)) {
        let found = match (call.json(), call) {
            (Some(call), _) => names(call),
            (None, Data::Ref { hash, .. }) => {
                let text = store.value(tenant, &hash.0)?;
                // One that cannot be read may be it: the version is kept rather than lost.
                text.and_then(|text| serde_json::from_slice(&text).ok()).is_none_or(|call: Value| names(&call))
            }
            (None, Data::Inline { .. }) => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
