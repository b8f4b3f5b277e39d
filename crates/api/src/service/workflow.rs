//! Workflows: immutable versions of documents. A deploy reads, checks and resolves the text, pins what it names elsewhere, and
//! keeps the resolved document under its hash and the version that names it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::{Record, RecordKind};
use tidewheel_engine::run::plan::VersionPolicy;
use tidewheel_lang::check::check;
use tidewheel_lang::compile::is_refusal;
use tidewheel_lang::diagnostic::{self, Severity, has_errors};
use tidewheel_lang::feature::{Feature, Features};
use tidewheel_lang::graph::Graph;
use tidewheel_lang::lint;
use tidewheel_lang::resolve::{Options, Request, Resolved, Resolver, deploy};
use tidewheel_lang::text::Tree;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest::{self, FieldError};

use super::{moving, package, package_use, records, run};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::nearest;
use crate::units::time_text;

/// What documents may use here. Everything else is refused when it is deployed, by name. Events reach a `listen` as signals.
const SERVED: [Feature; 7] = [
    Feature::Workflow,
    Feature::Python,
    Feature::Map,
    Feature::Saga,
    Feature::Listen,
    Feature::Shell,
    Feature::PythonScript,
];
/// Versions of workflows per tenant: their documents are in memory.
const MAX_VERSIONS: usize = 10_000;
/// Findings that a refusal lists.
const SHOWN: usize = 100;
/// The version that stands for the highest one.
pub(crate) const LATEST: &str = "latest";

/// A version as it is stored: behind the hash of its document, as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, Value>,
    /// JSON Schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    /// RFC 3339.
    created: String,
    /// Findings of the deploy that were no errors.
    #[serde(default)]
    warnings: u32,
    /// What becomes of its runs when another version is deployed; empty = `pin`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version_policy: String,
}

/// What a document calls itself, and what it has to be called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
}

/// Deploys a document; true = it is new. The same content again changes nothing, other content is a conflict. With `named`, the
/// document has to be that version.
pub(crate) async fn put(
    api: &Api,
    caller: &Principal,
    text: bytes::Bytes,
    named: Option<Named<'_>>,
) -> Result<(rest::Workflow, bool), Failure> {
    let found = compile(api, caller.tenant, text.clone()).await?;
    let shown: Vec<_> = found.diagnostics.iter().map(shown).collect();
    let Some(compiled) = found.workflow else { return Err(refused(&found.diagnostics)) };
    if let Some(named) = named {
        is_named(&text, &compiled, named)?;
    }
    let Compiled { namespace, name, version, resolved, stored } = compiled;
    let key = format!("{namespace}/{name}/{version}");
    // One at a time: a deletion looks at what a deploy is about to use.
    let alone = api.deploys.lock().await;
    let hash = hex::encode(resolved.hash);
    if let Some(existing) = find(api, caller.tenant, &key) {
        if existing.0 != hash {
            let detail = format!(
                "{key} is deployed with other content (sha256:{}); versions are immutable. Raise document.version.",
                existing.0
            );
            return Err(Failure::new(Code::Conflict, detail));
        }
        let workflow = rest::Workflow { diagnostics: shown, ..view(api, caller.tenant, &key, existing) };
        return Ok((workflow, false));
    }
    let count = api.runtime.directory().records(RecordKind::Workflow, caller.tenant).len();
    if count >= MAX_VERSIONS {
        let detail = format!("The tenant has {count} versions of workflows; delete some that are not used any more.");
        return Err(Failure::new(Code::Overloaded, detail));
    }
    package_use::is_there(api, caller.tenant, &resolved)?;
    let warnings = u32::try_from(shown.len()).unwrap_or(u32::MAX);
    let stored = Stored { created: time_text(api.runtime.now_ms()), warnings, ..stored };
    // The document first: a version names only what is there.
    let document = String::from_utf8(resolved.bytes).map_err(|_| Failure::internal("a document is not UTF-8"))?;
    let kept = records::put_text(api, RecordKind::Definition, caller.tenant, &hash, document, None).await?;
    kept.map_err(from_refusal)?;
    let value = serde_json::to_string(&stored).map_err(|_| Failure::internal("a record does not serialise"))?;
    let value = format!("{hash} {value}");
    let kept = records::put_text(api, RecordKind::Workflow, caller.tenant, &key, value, Some(0)).await?;
    kept.map_err(from_refusal)?;
    drop(alone);
    let named = Named { namespace: &namespace, name: &name, version: &version };
    let moving = moving::deployed(api, caller.tenant, &caller.name, named).await?;
    let workflow = view(api, caller.tenant, &key, (hash, stored));
    Ok((rest::Workflow { diagnostics: shown, moving, ..workflow }, true))
}

/// Everything that a deploy would say, without deploying.
pub(crate) async fn lint(api: &Api, caller: &Principal, text: bytes::Bytes) -> Result<rest::LintReport, Failure> {
    let resolver = Packages { api: api.clone(), tenant: caller.tenant };
    let options = Options { profile: None, features: Features::of(&SERVED) };
    let report = tokio::task::spawn_blocking(move || lint::lint(&text, options, &resolver)).await;
    let report = report.map_err(|_| Failure::internal("the linter panicked"))?;
    let class = report.class.and_then(|class| serde_json::to_value(class).ok()?.as_str().map(str::to_owned));
    let critical_path = report.critical_path.map(serde_json::to_value).transpose();
    Ok(rest::LintReport {
        class,
        // What could not be fetched is only a warning of the linter.
        deployable: !has_errors(&report.diagnostics) && !report.diagnostics.iter().any(|d| d.code == "not-fetched"),
        diagnostics: report.diagnostics.iter().map(shown).collect(),
        critical_path: critical_path.map_err(|_| Failure::internal("a path does not serialise"))?,
    })
}

/// Versions, each with its name; those of one namespace or workflow, if named.
pub(crate) fn list(api: &Api, caller: &Principal, namespace: Option<&str>, name: Option<&str>) -> Vec<rest::Workflow> {
    let records = api.runtime.directory().records(RecordKind::Workflow, caller.tenant);
    let wanted = |record: &&Arc<Record>| {
        let mut parts = record.key.split('/');
        let (space, own) = (parts.next(), parts.next());
        namespace.is_none_or(|n| space == Some(n)) && name.is_none_or(|n| own == Some(n))
    };
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (workflow, version) in records.iter().filter_map(|record| record.key.rsplit_once('/')) {
        versions.entry(workflow).or_default().push(version);
    }
    let latest = |all: Vec<&'_ str>| tidewheel_engine::version::latest(all.into_iter()).map(str::to_owned);
    let latest: BTreeMap<&str, _> = versions.into_iter().map(|(workflow, all)| (workflow, latest(all))).collect();
    let one = |record: &Arc<Record>| {
        let (workflow, version) = record.key.rsplit_once('/')?;
        let is_latest = latest.get(workflow)?.as_deref() == Some(version);
        Some(rest::Workflow { latest: is_latest, ..plain(&record.key, read(record)?) })
    };
    records.iter().filter(wanted).filter_map(one).collect()
}

/// A version, with how many open runs follow it; `latest` stands for the highest.
pub(crate) async fn get(api: &Api, caller: &Principal, named: Named<'_>) -> Result<rest::Workflow, Failure> {
    let (key, stored) = locate(api, caller, named)?;
    let workflow = view(api, caller.tenant, &key, stored);
    let named = Named { version: &workflow.version, ..named };
    let open = run::followers(api, caller.tenant, named, &run::Follow::Open).await?;
    Ok(rest::Workflow { open_runs: Some(open as u64), ..workflow })
}

/// The document as its author wrote it, as JSON.
pub(crate) fn document(api: &Api, caller: &Principal, named: Named<'_>) -> Result<(String, Value), Failure> {
    let (hash, resolved) = resolved(api, caller, named)?;
    Ok((hash, resolved.workflow().clone()))
}

/// JSON Schemas of input and output.
pub(crate) fn schema(api: &Api, caller: &Principal, named: Named<'_>) -> Result<rest::WorkflowSchema, Failure> {
    let (_, (_, stored)) = locate(api, caller, named)?;
    Ok(rest::WorkflowSchema { input: stored.input, output: stored.output })
}

/// The statements as a graph.
pub(crate) fn graph(api: &Api, caller: &Principal, named: Named<'_>) -> Result<Graph, Failure> {
    let (_, resolved) = resolved(api, caller, named)?;
    graph_of(&resolved)
}

/// The statements of a document as a graph.
pub(crate) fn graph_of(resolved: &Resolved) -> Result<Graph, Failure> {
    if resolved.program().is_some() {
        let detail = "This workflow is written in Python: what it does is known only when it runs. GET \
                      /api/v1/runs/{id}/tree shows what a run of it did.";
        return Err(Failure::new(Code::Conflict, detail));
    }
    let unreadable = |_| Failure::internal("a stored document cannot be read");
    let tree = Tree::parse(resolved.workflow().to_string().as_bytes()).map_err(unreadable)?;
    match check(&tree, Some(resolved.profile())) {
        (Some(document), _) => Ok(Graph::of(&tree, &document)),
        (None, _) => Err(Failure::internal("a stored document is not well formed")),
    }
}

/// Deletes a version that no open run follows. Its document stays as long as runs of the workflow are kept: those that moved on
/// from it read their journals with it.
pub(crate) async fn delete(api: &Api, caller: &Principal, named: Named<'_>) -> Result<(), Failure> {
    let _alone = api.deploys.lock().await;
    if named.version == LATEST {
        return Err(Failure::new(Code::InvalidField, "Name the version that is to be deleted; 'latest' may change."));
    }
    let (key, (hash, _)) = locate(api, caller, named)?;
    let open = run::followers(api, caller.tenant, named, &run::Follow::Open).await?;
    if open > 0 {
        let detail = format!(
            "{key} is followed by {} that {} not ended. Wait for them, cancel them, or move them to another version \
             (`tidewheel run move`); GET /api/v1/runs?workflow={}/{}&version={} lists them.",
            run::counted(open),
            if open == 1 { "has" } else { "have" },
            named.namespace,
            named.name,
            named.version
        );
        return Err(Failure::new(Code::Conflict, detail));
    }
    records::delete(api, RecordKind::Workflow, caller.tenant, &key).await?;
    // From here on no run begins with it, and every one that did is stored: what is found now decides.
    if run::followers(api, caller.tenant, named, &run::Follow::Any).await? == 0 {
        match records::delete(api, RecordKind::Definition, caller.tenant, &hash).await {
            Err(failure) if failure.code() == Code::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// The refusal of a workflow that is not there, with the nearest name or the versions there are.
pub(crate) fn unknown(api: &Api, tenant: TenantId, named: Named<'_>) -> Failure {
    let Named { namespace, name, version } = named;
    let records = api.runtime.directory().records(RecordKind::Workflow, tenant);
    let keys: Vec<(&str, &str)> = records.iter().filter_map(|record| record.key.rsplit_once('/')).collect();
    let workflow = format!("{namespace}/{name}");
    let versions: Vec<&str> = keys.iter().filter(|(own, _)| *own == workflow).map(|(_, version)| *version).collect();
    if !versions.is_empty() {
        let mut failure = Failure::not_found("version", version);
        let last = versions[versions.len().saturating_sub(10)..].join(", ");
        failure.0.detail.push_str(&format!(" {workflow} has {last}."));
        return failure;
    }
    let mut failure = Failure::not_found("workflow", &workflow);
    let own_name = |full: &&str| full.rsplit_once('/').is_some_and(|(_, own)| own == name);
    let near = keys.iter().map(|(full, _)| *full).find(own_name);
    match near.or_else(|| nearest(&workflow, keys.iter().map(|(full, _)| *full))) {
        Some(near) => failure.0.detail.push_str(&format!(" Did you mean '{near}'?")),
        None if keys.is_empty() => {
            failure.0.detail.push_str(" Deploy one with PUT /api/v1/workflows/{ns}/{name}/{version}.")
        }
        None => {}
    }
    failure
}

/// A document that was compiled.
struct Compiled {
    namespace: String,
    name: String,
    version: String,
    resolved: Resolved,
    stored: Stored,
}

struct Outcome {
    workflow: Option<Compiled>,
    diagnostics: Vec<diagnostic::Diagnostic>,
}

/// Off the async threads: a document of megabytes takes its time.
async fn compile(api: &Api, tenant: TenantId, text: bytes::Bytes) -> Result<Outcome, Failure> {
    let resolver = Packages { api: api.clone(), tenant };
    let work = move || {
        let options = Options { profile: None, features: Features::of(&SERVED) };
        let deployed = deploy(&text, options, &resolver);
        let workflow = deployed.workflow.map(|(resolved, compiled)| {
            use tidewheel_engine::run::eval::Definition as _;
            let plan = compiled.plan();
            Compiled {
                namespace: plan.namespace.to_string(),
                name: plan.name.to_string(),
                version: plan.version.to_string(),
                stored: about(&resolved),
                resolved,
            }
        });
        Outcome { workflow, diagnostics: deployed.diagnostics }
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::internal("the compiler panicked"))
}

/// Stores a version under the hash of its document, whether it was there or not, and says whether anything changed. For workflows of
/// packages, which are immutable themselves.
pub(crate) async fn register(
    api: &Api,
    tenant: TenantId,
    named: Named<'_>,
    resolved: Resolved,
) -> Result<bool, Failure> {
    let Named { namespace, name, version } = named;
    let key = format!("{namespace}/{name}/{version}");
    let _alone = api.deploys.lock().await;
    let hash = hex::encode(resolved.hash);
    let existing = find(api, tenant, &key);
    if existing.as_ref().is_some_and(|existing| existing.0 == hash) {
        return Ok(false);
    }
    let count = api.runtime.directory().records(RecordKind::Workflow, tenant).len();
    if existing.is_none() && count >= MAX_VERSIONS {
        let detail = format!("The tenant has {count} versions of workflows; delete some that are not used any more.");
        return Err(Failure::new(Code::Overloaded, detail));
    }
    package_use::is_there(api, tenant, &resolved)?;
    let stored = Stored { created: time_text(api.runtime.now_ms()), ..about(&resolved) };
    let document = String::from_utf8(resolved.bytes).map_err(|_| Failure::internal("a document is not UTF-8"))?;
    let kept = records::put_text(api, RecordKind::Definition, tenant, &hash, document, None).await?;
    kept.map_err(from_refusal)?;
    let value = serde_json::to_string(&stored).map_err(|_| Failure::internal("a record does not serialise"))?;
    let value = format!("{hash} {value}");
    records::put_text(api, RecordKind::Workflow, tenant, &key, value, None).await?.map_err(from_refusal)?;
    Ok(true)
}

/// The hash of the document of a version, in hexadecimal digits.
pub(crate) fn hash_of(api: &Api, tenant: TenantId, named: Named<'_>) -> Option<String> {
    let Named { namespace, name, version } = named;
    find(api, tenant, &format!("{namespace}/{name}/{version}")).map(|found| found.0)
}

/// The same; `latest` is the newest, and build metadata may be left out.
pub(crate) fn hash_at(api: &Api, tenant: TenantId, named: Named<'_>) -> Result<String, Failure> {
    located(api, tenant, named).map(|(_, (hash, _))| hash)
}

/// Takes a version out of use. Its document stays: runs may follow it.
pub(crate) async fn withdraw(api: &Api, tenant: TenantId, named: Named<'_>) -> Result<(), Failure> {
    let Named { namespace, name, version } = named;
    records::delete(api, RecordKind::Workflow, tenant, &format!("{namespace}/{name}/{version}")).await
}

/// What is shown of a document without reading it.
fn about(resolved: &Resolved) -> Stored {
    let workflow = resolved.workflow();
    let policy = resolved.version_policy();
    let text = |name: &str| workflow["document"][name].as_str().map(str::to_owned);
    let tags = workflow["document"]["tags"].as_object().into_iter().flatten();
    let schema = |part: &str| workflow[part]["schema"].get("document").cloned();
    Stored {
        title: text("title"),
        summary: text("summary"),
        tags: tags.map(|(name, value)| (name.clone(), value.clone())).collect(),
        input: schema("input"),
        output: schema("output"),
        version_policy: if policy == VersionPolicy::Pin { String::new() } else { policy.name().to_owned() },
        ..Stored::default()
    }
}

/// Refuses a document that calls itself other than its path.
fn is_named(text: &[u8], compiled: &Compiled, named: Named<'_>) -> Result<(), Failure> {
    let pairs = [
        ("namespace", compiled.namespace.as_str(), named.namespace),
        ("name", &compiled.name, named.name),
        ("version", &compiled.version, named.version),
    ];
    let Some((field, own, wanted)) = pairs.into_iter().find(|(_, own, wanted)| own != wanted) else { return Ok(()) };
    let pointer = format!("/document/{field}");
    let detail = format!("the document has {field} '{own}', the path '{wanted}'; they have to be the same");
    let mut failure = Failure::field(pointer.clone(), detail);
    let place = Tree::parse(text).ok().and_then(|tree| Some(tree.span(tree.find(&pointer)?).start));
    if let (Some(place), Some(error)) = (place, failure.0.errors.first_mut()) {
        (error.line, error.column) = (Some(place.line), Some(place.column));
    }
    Err(failure)
}

/// A document that cannot be deployed: its errors, the first also as the sentence for people.
fn refused(found: &[diagnostic::Diagnostic]) -> Failure {
    let errors: Vec<_> = found.iter().filter(|one| one.severity == Severity::Error).collect();
    let only_refused = errors.iter().all(|one| is_refusal(one));
    let what = if only_refused { "needs what this server cannot do" } else { "cannot be deployed" };
    let first = errors.first().map(|one| one.to_string()).unwrap_or_default();
    let more = match errors.len().saturating_sub(1) {
        0 => String::new(),
        1 => " (and one more error)".to_owned(),
        more => format!(" (and {more} more errors)"),
    };
    let mut failure = Failure::new(Code::InvalidWorkflow, format!("The workflow {what}: {first}{more}."));
    failure.0.errors = errors.into_iter().take(SHOWN).map(field_error).collect();
    failure
}

fn field_error(one: &diagnostic::Diagnostic) -> FieldError {
    let start = one.span.start;
    let place = (start.line > 0).then_some((start.line, start.column));
    FieldError {
        line: place.map(|place| place.0),
        column: place.map(|place| place.1),
        hint: one.hint.clone(),
        ..FieldError::new(one.pointer.clone(), one.message.clone())
    }
}

fn shown(one: &diagnostic::Diagnostic) -> rest::Diagnostic {
    let severity = match one.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Hint => "hint",
    };
    rest::Diagnostic {
        code: one.code.to_owned(),
        severity: severity.to_owned(),
        message: one.message.clone(),
        pointer: one.pointer.clone(),
        line: one.span.start.line,
        column: one.span.start.column,
        end_line: one.span.end.line,
        end_column: one.span.end.column,
        hint: one.hint.clone(),
        fix: one.fix.clone(),
    }
}

/// Fetches nothing: a server that reads any address that a document names would be a way into its network. Packages are its own.
struct Packages {
    api: Api,
    tenant: TenantId,
}

impl Resolver for Packages {
    fn fetch(&self, _: &Request) -> Result<Vec<u8>, String> {
        Err("this server fetches nothing".to_owned())
    }

    fn package(&self, name: &str, version: Option<&str>, entrypoint: &str) -> Result<Option<String>, String> {
        package::pin(&self.api, self.tenant, name, version, entrypoint).map(Some)
    }
}

fn read(record: &Record) -> Option<(String, Stored)> {
    let (hash, json) = record.value.split_once(' ')?;
    Some((hash.to_owned(), serde_json::from_str(json).ok()?))
}

fn find(api: &Api, tenant: TenantId, key: &str) -> Option<(String, Stored)> {
    read(&*api.runtime.directory().record(RecordKind::Workflow, tenant, key)?)
}

/// The version that `latest` stands for: as the engine orders them.
fn newest(api: &Api, tenant: TenantId, workflow: &str) -> Option<String> {
    let prefix = format!("{workflow}/");
    let records = api.runtime.directory().records(RecordKind::Workflow, tenant);
    let versions = records.iter().filter_map(|record| record.key.strip_prefix(&prefix));
    tidewheel_engine::version::latest(versions).map(str::to_owned)
}

/// The newest version that is this one with build metadata: what changes of code under development have.
fn newest_build(api: &Api, tenant: TenantId, workflow: &str, version: &str) -> Option<String> {
    let prefix = format!("{workflow}/{version}+");
    let records = api.runtime.directory().records(RecordKind::Workflow, tenant);
    let skip = workflow.len() + 1;
    let versions = records.iter().filter(|record| record.key.starts_with(&prefix)).map(|record| &record.key[skip..]);
    tidewheel_engine::version::latest(versions).map(str::to_owned)
}

fn locate(api: &Api, caller: &Principal, named: Named<'_>) -> Result<(String, (String, Stored)), Failure> {
    located(api, caller.tenant, named)
}

fn located(api: &Api, tenant: TenantId, named: Named<'_>) -> Result<(String, (String, Stored)), Failure> {
    let Named { namespace, name, version } = named;
    let newest = match version {
        LATEST => newest(api, tenant, &format!("{namespace}/{name}")),
        version if find(api, tenant, &format!("{namespace}/{name}/{version}")).is_some() => Some(version.to_owned()),
        version => newest_build(api, tenant, &format!("{namespace}/{name}"), version),
    };
    let key = newest.map(|version| format!("{namespace}/{name}/{version}"));
    let found = key.and_then(|key| Some((find(api, tenant, &key)?, key)));
    found.map(|(stored, key)| (key, stored)).ok_or_else(|| unknown(api, tenant, named))
}

fn resolved(api: &Api, caller: &Principal, named: Named<'_>) -> Result<(String, Resolved), Failure> {
    let (_, (hash, _)) = locate(api, caller, named)?;
    let record = api.runtime.directory().record(RecordKind::Definition, caller.tenant, &hash);
    let resolved = record.and_then(|record| Resolved::read(record.value.as_bytes()).ok());
    resolved.map(|resolved| (hash, resolved)).ok_or_else(|| Failure::internal("a stored document cannot be read"))
}

fn view(api: &Api, tenant: TenantId, key: &str, stored: (String, Stored)) -> rest::Workflow {
    let mut workflow = plain(key, stored);
    let full = format!("{}/{}", workflow.namespace, workflow.name);
    workflow.latest = newest(api, tenant, &full).as_deref() == Some(&workflow.version);
    workflow
}

fn plain(key: &str, (hash, stored): (String, Stored)) -> rest::Workflow {
    let mut parts = key.splitn(3, '/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let (namespace, name, version) = (part(), part(), part());
    rest::Workflow {
        id: format!("{namespace}/{name}:{version}"),
        namespace,
        name,
        version,
        title: stored.title,
        summary: stored.summary,
        tags: stored.tags,
        hash: format!("sha256:{hash}"),
        latest: false,
        warnings: stored.warnings,
        created_at: stored.created,
        version_policy: if stored.version_policy.is_empty() { "pin".to_owned() } else { stored.version_policy },
        open_runs: None,
        moving: None,
        diagnostics: Vec::new(),
    }
}
