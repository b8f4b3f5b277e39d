//! Packages: immutable versions of automation code. An upload is checked, kept as a blob, and its entries become task
//! types.

use std::sync::Arc;

use serde::Deserialize;
use tidewheel_engine::config::{QueueConfig, Rate, RetryPolicy};
use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::{Name, TenantId};
use tidewheel_engine::mutation::{Record, RecordKind};
use tidewheel_proto::builtin;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;
use tidewheel_runtime::Directory;

use super::archive::{Kind, analyse};
use super::blob::{self, Uploaded};
use super::parts::{self, Content, Parts};
use super::task_type::{StoredType, entry_defaults};
use super::{list_tasks, package_use, program, queue, queue_settings, records, rollout, spec};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::{check_name, hash_text, is_name, nearest, parse_hash};
use crate::units::{duration_text, rate_text, time_text};

/// Tasks that one package may bring.
const MAX_ENTRIES: usize = 1_000;
/// Bytes of a lock file; kept in the record.
const MAX_LOCK: usize = 1 << 20;

/// Where the archive of a new version comes from.
pub(crate) enum Source {
    /// In this request.
    Upload(Uploaded),
    /// Stored before as a blob.
    Blob([u8; 32]),
    /// Its parts were stored before: what hash they have together.
    Parts([u8; 32], Vec<rest::Blob>),
}

/// Registers a version; true = it is new. The same content again changes nothing, other content is a conflict.
pub(crate) async fn put(
    api: &Api,
    caller: &Principal,
    name: &str,
    version: &str,
    source: Source,
    manifest: Option<rest::PackageManifest>,
) -> Result<(rest::Package, bool), Failure> {
    check_name("package", "name", name)?;
    if !is_version(version) {
        return Err(Failure::named(
            "version",
            "A package version has 1 to 100 letters, digits, '.', '_', '+', '!' or '-', and does not start with '.'.",
        ));
    }
    let hash = match &source {
        Source::Upload(upload) => upload.hash,
        Source::Parts(hash, _) => *hash,
        Source::Blob(hash) => match parts::find(api, caller.tenant, *hash).await? {
            Some(_) => *hash,
            None => return Err(Failure::not_found("blob", &hash_text(hash))),
        },
    };
    if let Some(existing) = find(api, caller, name, version) {
        return same_or_conflict(existing, &hash).map(|package| (warned(api, caller, package), false));
    }
    let (upload, listed) = receive(api, caller, source).await?;
    if upload.hash != hash {
        let detail = format!("the parts together have another hash: {}", hash_text(&upload.hash));
        return Err(Failure::field("/hash", detail));
    }
    let size = upload.size;
    let reader = upload.open().map_err(|_| Failure::new(Code::Unavailable, "The upload cannot be read now."))?;
    let analysis = tokio::task::spawn_blocking(move || analyse(reader, size)).await;
    let analysis = analysis.map_err(|_| Failure::new(Code::InvalidPackage, "The archive cannot be read."))??;
    let manifest = manifest_of(manifest, analysis.manifest.as_deref())?;
    let entries = check_manifest(&manifest, analysis.kind)?;
    program::check(name, version, &hash_text(&hash), &manifest.entries)?;
    // Durable first: the record that names the blob is committed after it.
    let kept = match &listed {
        Some(parts) => parts::keep_list(api, caller.tenant, parts, 0).await?,
        None => parts::keep(api, caller.tenant, &upload).await?,
    };
    for (entry, wanted) in &entries {
        if let Some(name) = &wanted.queue {
            queue::ensure(api, caller, name, queue_config(entry)?).await?;
        }
    }
    let package = rest::Package {
        name: name.to_owned(),
        version: version.to_owned(),
        hash: hash_text(&hash),
        size,
        format: manifest.format.clone(),
        entries: manifest.entries.clone(),
        lock: manifest.lock.clone(),
        state: "active".to_owned(),
        created_at: time_text(api.runtime.now_ms()),
        analysis: analysis.shown(size),
        parts: Some(kept.list),
        new_bytes: None,
        warnings: Vec::new(),
        moving: Vec::new(),
    };
    let key = key_of(name, version);
    match records::put(api, RecordKind::Package, caller.tenant, &key, &package, Some(0)).await? {
        Ok(_) => {}
        // Two uploads of one version at once: the second is judged like any later one.
        Err(Refusal::Version { .. }) => {
            let existing = find(api, caller, name, version).ok_or_else(|| Failure::not_found("package", name))?;
            return same_or_conflict(existing, &hash).map(|package| (warned(api, caller, package), false));
        }
        Err(other) => return Err(from_refusal(other)),
    }
    register(api, caller.tenant, &package).await?;
    rollout::announce(api, caller.tenant, &package);
    let moving = program::deployed(api, caller.tenant, &caller.name, &package).await?;
    let package = rest::Package { new_bytes: Some(kept.new_bytes), moving, ..package };
    Ok((warned(api, caller, package), true))
}

/// Adds what the entries ask of their queues and do not get: batches and rates belong to the queue, which keeps what it
/// has when it exists already.
fn warned(api: &Api, caller: &Principal, mut package: rest::Package) -> rest::Package {
    let directory = api.runtime.directory();
    for entry in &package.entries {
        let asks = |name: &str| entry.defaults.get(name).is_some_and(|value| !value.is_null());
        let name = entry.defaults.get("queue").and_then(|q| q.as_str()).unwrap_or(&api.default_queue);
        let (Ok(wanted), Some(queue)) = (queue_config(entry), directory.queue(caller.tenant, name)) else { continue };
        let (has, kind) = (&queue.config, &entry.name);
        if asks("batch") && (has.batch_size, has.batch_wait_ms) != (wanted.batch_size, wanted.batch_wait_ms) {
            let (size, wait) = (wanted.batch_size, duration_text(wanted.batch_wait_ms));
            let now = match has.batch_size {
                0 | 1 => "hands tasks over one by one".to_owned(),
                n => format!("has batches of {n} after at most {}", duration_text(has.batch_wait_ms)),
            };
            package.warnings.push(format!(
                "task '{kind}' asks for batches of {size} after at most {wait}, but queue '{name}' exists and {now}; \
                 change it with: tidewheel queue limits {name} --batch-size {size} --batch-wait {wait}"
            ));
        }
        if asks("batch") && has.rate.is_some() {
            package.warnings.push(format!(
                "task '{kind}' asks for batches, but queue '{name}' has a rate, which lets tasks out one at a time; take it \
                 away with: tidewheel queue limits {name} --rate ''"
            ));
        }
        if asks("rate") && has.rate != wanted.rate {
            let text = |rate: Option<Rate>| rate.map_or("no rate".to_owned(), |r| format!("rate {}", rate_text(r)));
            let (asked, now) = (wanted.rate.map(rate_text).unwrap_or_default(), text(has.rate));
            package.warnings.push(format!(
                "task '{kind}' asks for rate {asked}, but queue '{name}' exists and has {now}; change it with: \
                 tidewheel queue limits {name} --rate {asked}"
            ));
        }
    }
    package
}

fn same_or_conflict(existing: rest::Package, hash: &[u8; 32]) -> Result<rest::Package, Failure> {
    if existing.hash == hash_text(hash) {
        return Ok(existing);
    }
    let detail = format!(
        "{} {} exists with other content ({}); versions are immutable, so upload it under a new version.",
        existing.name, existing.version, existing.hash
    );
    Err(Failure::new(Code::Conflict, detail))
}

/// The archive as an upload, so that one check serves all ways; and its parts, where they are stored already.
async fn receive(api: &Api, caller: &Principal, source: Source) -> Result<(Uploaded, Option<Arc<Parts>>), Failure> {
    let tenant = caller.tenant;
    let parts = match source {
        Source::Upload(upload) => return Ok((upload, None)),
        Source::Parts(_, given) => Arc::new(parts::named(api, caller, &given).await?),
        Source::Blob(hash) => match parts::find(api, tenant, hash).await? {
            Some(Content::Parts(parts)) => parts,
            Some(Content::Value(_)) => return Err(Failure::not_found("blob", &hash_text(&hash))),
            Some(Content::Blob(size)) => {
                let bound = api.config.package_bound();
                if size > bound.bytes {
                    return Err(bound.exceeded());
                }
                let stream = Box::pin(blob::stream(api, tenant, hash, 0, size));
                return Ok((blob::receive(api, bound, stream).await?, None));
            }
            None => return Err(Failure::not_found("blob", &hash_text(&hash))),
        },
    };
    Ok((parts::assemble(api, tenant, &parts).await?, Some(parts)))
}

fn manifest_of(given: Option<rest::PackageManifest>, inside: Option<&[u8]>) -> Result<rest::PackageManifest, Failure> {
    match (given, inside) {
        (Some(manifest), _) => Ok(manifest),
        (None, Some(bytes)) => crate::body::parse(bytes).map_err(|f| {
            let detail = format!("The tidewheel-manifest.json in the archive cannot be read: {}", f.0.detail);
            Failure::new(Code::InvalidPackage, detail)
        }),
        (None, None) => Err(Failure::new(
            Code::InvalidPackage,
            "There is no manifest: send it as the multipart field 'manifest', or put a tidewheel-manifest.json into \
             the archive.",
        )),
    }
}

/// Entries with what their tasks get.
fn check_manifest(
    manifest: &rest::PackageManifest,
    kind: Kind,
) -> Result<Vec<(&rest::PackageEntry, rest::SubmitTask)>, Failure> {
    let wanted = match manifest.format.as_str() {
        "wheel" => vec![Kind::Zip],
        "folder" => vec![Kind::Zip, Kind::TarGz],
        "sdist" => vec![Kind::TarGz, Kind::Zip],
        _ => return Err(Failure::field("/format", "a format is wheel, sdist or folder")),
    };
    if !wanted.contains(&kind) {
        return Err(Failure::field("/format", "the archive is not of this format"));
    }
    if manifest.entries.len() > MAX_ENTRIES {
        return Err(Failure::field("/entries", format!("a package brings at most {MAX_ENTRIES} tasks")));
    }
    if manifest.lock.len() > MAX_LOCK {
        return Err(Failure::field("/lock", format!("a lock has at most {MAX_LOCK} bytes")));
    }
    let mut out = Vec::with_capacity(manifest.entries.len());
    for (index, entry) in manifest.entries.iter().enumerate() {
        let prefix = format!("/entries/{index}");
        let checked = check_entry(entry).map_err(|f| f.under(&prefix))?;
        if !program::is_one(entry) && builtin::is_one(&entry.name) {
            return Err(Failure::package(format!("{prefix}/name"), builtin::taken(&entry.name)));
        }
        if manifest.entries[..index].iter().any(|e| e.name == entry.name) {
            return Err(Failure::field(format!("{prefix}/name"), format!("the task '{}' is named twice", entry.name)));
        }
        out.push((entry, checked));
    }
    Ok(out)
}

fn check_entry(entry: &rest::PackageEntry) -> Result<rest::SubmitTask, Failure> {
    spec::check_type(&entry.name).map_err(|_| Failure::field("/name", "a task name has 1 to 200 characters"))?;
    // `module:function`; the shim imports it, and nothing else may be put into its place.
    let sound = |part: &str| {
        !part.is_empty() && part.split('.').all(|p| !p.is_empty() && p.chars().all(|c| c.is_alphanumeric() || c == '_'))
    };
    let ok = entry.function.len() <= 512
        && entry.function.split_once(':').is_some_and(|(module, function)| sound(module) && sound(function));
    if !ok {
        return Err(Failure::field("/fn", "an entry point is module:function"));
    }
    let wanted = entry_defaults(&entry.defaults)?;
    queue_config(entry)?;
    let mut probe = tidewheel_engine::task::Spec::default();
    spec::overlay(&mut probe, &wanted, &entry.name, RetryPolicy::default).map_err(|f| f.under("/defaults"))?;
    if let Some(priority) = &wanted.priority {
        spec::priority(priority).map_err(|f| f.under("/defaults"))?;
    }
    if let Some(queue) = &wanted.queue
        && !is_name(queue)
    {
        return Err(Failure::field("/defaults/queue", "a queue name has letters, digits, '.', '_' or '-'"));
    }
    Ok(wanted)
}

/// Settings for a queue that an entry names and that does not exist yet: the decorator's rate and batch belong to the
/// queue. An existing queue keeps what its operator set.
fn queue_config(entry: &rest::PackageEntry) -> Result<QueueConfig, Failure> {
    let text = |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).map(str::to_owned);
    let batch = entry.defaults.get("batch");
    let size = batch.and_then(|b| b.get("size")).and_then(serde_json::Value::as_u64);
    let settings = rest::QueueSettings {
        rate: text(entry.defaults.get("rate")),
        batch_size: size.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        batch_wait: text(batch.and_then(|b| b.get("wait"))).map(rest::DurationText::Text),
        ..rest::QueueSettings::default()
    };
    let mut config = QueueConfig::default();
    queue_settings::apply(&mut config, &settings, "/defaults")?;
    Ok(config)
}

/// Makes the entries of a package the task types of their names. The newest registration of a type wins.
pub(crate) async fn register(api: &Api, tenant: TenantId, package: &rest::Package) -> Result<(), Failure> {
    for entry in package.entries.iter().filter(|entry| !program::is_one(entry)) {
        let stored = StoredType {
            package: package.name.clone(),
            version: package.version.clone(),
            hash: package.hash.trim_start_matches("sha256:").to_owned(),
            entrypoint: entry.function.clone(),
            doc: entry.doc.clone(),
            schema_in: entry.schema_in.clone(),
            defaults: entry.defaults.clone(),
            step: serde_json::Value::Null,
        }
        .with_step(&entry.name);
        records::put(api, RecordKind::TaskType, tenant, &entry.name, &stored, None).await?.map_err(from_refusal)?;
    }
    program::register(api, tenant, package).await
}

/// Takes a version out of use: tasks that run keep it, new ones get the newest active version that serves their type.
pub(crate) async fn yank(api: &Api, caller: &Principal, name: &str, version: &str) -> Result<rest::Package, Failure> {
    let mut package = get(api, caller, name, version)?;
    package.state = "yanked".to_owned();
    let key = key_of(name, version);
    records::put(api, RecordKind::Package, caller.tenant, &key, &package, None).await?.map_err(from_refusal)?;
    program::unregister(api, caller, &package).await?;
    for entry in package.entries.iter().filter(|entry| !program::is_one(entry)) {
        let served = api.runtime.directory().record(RecordKind::TaskType, caller.tenant, &entry.name);
        let ours = served.and_then(|r| serde_json::from_str::<StoredType>(&r.value).ok());
        if ours.is_none_or(|s| s.package != name || s.version != version) {
            continue;
        }
        let others = all(api, caller).into_iter();
        let next = others
            .filter(|p| p.name == name && p.state == "active" && p.version != version)
            .filter(|p| p.entries.iter().any(|e| e.name == entry.name))
            .max_by(|a, b| a.created_at.cmp(&b.created_at));
        match next {
            Some(mut other) => {
                other.entries.retain(|e| e.name == entry.name);
                register(api, caller.tenant, &other).await?;
            }
            None => records::delete(api, RecordKind::TaskType, caller.tenant, &entry.name).await?,
        }
    }
    Ok(package)
}

/// Deletes a version for good: out of use first, then its record. Its content goes with the next round over the blobs that
/// finds nothing else naming it.
///
/// `if_match`: tags of which one has to be the version's own.
pub(crate) async fn delete(
    api: &Api,
    caller: &Principal,
    name: &str,
    version: &str,
    if_match: Option<&str>,
) -> Result<(), Failure> {
    let tag = etag(&get(api, caller, name, version)?);
    let is_meant = |tags: &str| tags.split(',').map(str::trim).any(|wanted| wanted == "*" || wanted == tag);
    if !if_match.is_none_or(is_meant) {
        let detail = format!("{name} {version} is {tag} now, which If-Match does not name; read it again.");
        return Err(Failure::new(Code::PreconditionFailed, detail));
    }
    let filter = format!("package:\"{name}@{version}\" state:queued,scheduled,running,waiting");
    let mut wanted = list_tasks::ListRequest { filter, cursor: None, limit: 1 };
    let open = loop {
        let found = list_tasks::list(api, caller, &wanted).await?;
        // A page may end before the search does.
        match (found.items.into_iter().next(), found.next_cursor) {
            (None, Some(next)) => wanted.cursor = Some(next),
            (open, _) => break open,
        }
    };
    if let Some(task) = open {
        let detail = format!(
            "{} has not ended and runs {name} {version}. Wait for its tasks or cancel them; until then \
             POST /api/v1/packages/{name}/{version}:yank keeps new tasks from it.",
            task.id
        );
        return Err(Failure::new(Code::Conflict, detail));
    }
    let package = get(api, caller, name, version)?;
    package_use::is_free(api, caller.tenant, &package).await?;
    yank(api, caller, name, version).await?;
    // From here on nothing new begins with it, but what did so meanwhile, or was deployed, keeps it.
    let _alone = api.deploys.lock().await;
    package_use::is_followed_by_none(api, caller.tenant, &package).await?;
    records::delete(api, RecordKind::Package, caller.tenant, &key_of(name, version)).await
}

/// The version for `ETag`: the content never changes, the state does.
pub(crate) fn etag(package: &rest::Package) -> String {
    format!("\"{}-{}\"", package.hash, package.state)
}

/// Every version of every package, or of one, newest first.
pub(crate) fn list(api: &Api, caller: &Principal, name: Option<&str>) -> Vec<rest::Package> {
    let mut packages: Vec<_> = all(api, caller).into_iter().filter(|p| name.is_none_or(|n| p.name == n)).collect();
    packages.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));
    packages
}

pub(crate) fn get(api: &Api, caller: &Principal, name: &str, version: &str) -> Result<rest::Package, Failure> {
    find(api, caller, name, version).ok_or_else(|| {
        let names: Vec<String> = all(api, caller).into_iter().map(|p| format!("{} {}", p.name, p.version)).collect();
        Failure::not_found_near("package", &format!("{name} {version}"), names.iter().map(String::as_str))
    })
}

/// Hash and entry point for `name` or `name@version` and a task type.
pub(crate) fn resolve(api: &Api, caller: &Principal, wanted: &str, kind: &str) -> Result<(Name, Name), Failure> {
    let (name, version) = match wanted.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (wanted, None),
    };
    let versions = list(api, caller, Some(name));
    let found = versions.iter().find(|p| match version {
        Some(version) => p.version == version,
        None => p.state == "active" && p.entries.iter().any(|e| e.name == kind),
    });
    let package = found.ok_or_else(|| {
        let names: Vec<_> = all(api, caller).into_iter().map(|p| p.name).collect();
        let hint = nearest(name, names.iter().map(String::as_str)).map(|n| format!("; did you mean '{n}'?"));
        Failure::field("/package", format!("there is no such package{}", hint.unwrap_or_default()))
    })?;
    let entry = package.entries.iter().find(|e| e.name == kind).ok_or_else(|| {
        let known: Vec<_> = package.entries.iter().map(|e| e.name.as_str()).collect();
        Failure::field(
            "/type",
            format!("{} {} brings no such task; it has {}", package.name, package.version, known.join(", ")),
        )
    })?;
    let hash = parse_hash(&package.hash).map(hex::encode);
    let hash = hash.ok_or_else(|| Failure::internal("a stored package has no hash"))?;
    Ok((hash.as_str().into(), entry.function.as_str().into()))
}

/// The version that a call in a workflow is pinned to: the one that it names, else the one that new tasks of its type get, else the
/// newest with that entry. `entrypoint` is the name of the task, or `module:function`. The error is one sentence.
pub(crate) fn pin(
    api: &Api,
    tenant: TenantId,
    name: &str,
    version: Option<&str>,
    entrypoint: &str,
) -> Result<String, String> {
    let directory = api.runtime.directory();
    let records = directory.records(RecordKind::Package, tenant);
    let all: Vec<rest::Package> = records.iter().filter_map(|r| serde_json::from_str(&r.value).ok()).collect();
    let versions: Vec<_> = all.iter().filter(|p| p.name == name).collect();
    if versions.is_empty() {
        let near = nearest(name, all.iter().map(|p| p.name.as_str()));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Err(format!("there is no package `{name}` here{hint}"));
    }
    let is_entry = |e: &&rest::PackageEntry| e.name == entrypoint || e.function == entrypoint;
    let package = match version {
        Some(version) => versions.iter().find(|p| p.version == version).ok_or_else(|| {
            let known: Vec<_> = versions.iter().map(|p| p.version.as_str()).collect();
            format!("package `{name}` has no version {version}; it has {}", known.join(", "))
        })?,
        None => {
            let brings = |p: &&&rest::Package| p.state == "active" && p.entries.iter().any(|e| is_entry(&e));
            let rolled_out = |p: &&&rest::Package| {
                let entry = p.entries.iter().find(is_entry);
                let record = entry.and_then(|e| directory.record(RecordKind::TaskType, tenant, &e.name));
                let stored = record.and_then(|r| serde_json::from_str::<StoredType>(&r.value).ok());
                stored.is_some_and(|s| s.package == p.name && s.version == p.version)
            };
            let newest = versions.iter().filter(brings).max_by(|a, b| a.created_at.cmp(&b.created_at));
            let found = versions.iter().filter(brings).find(rolled_out).or(newest);
            found.or_else(|| versions.last()).ok_or_else(|| format!("package `{name}` has no version in use"))?
        }
    };
    if !package.entries.iter().any(|e| is_entry(&e)) {
        let known: Vec<_> = package.entries.iter().map(|e| e.name.as_str()).collect();
        let (version, known) = (&package.version, known.join(", "));
        return Err(format!("package `{name}` {version} has no task `{entrypoint}`; it has {known}"));
    }
    Ok(package.version.clone())
}

/// `name@version` of the archive with this hash, in hexadecimal digits. The same content under several names is the one
/// that was uploaded last.
pub(crate) fn version_of(api: &Api, caller: &Principal, hash: &str) -> Option<String> {
    let named = versions(&api.runtime.directory(), caller.tenant);
    named.into_iter().filter(|v| v.hash == hash).max_by(|a, b| a.created_at.cmp(&b.created_at)).map(|v| v.text())
}

/// What tells one version of a package from another.
#[derive(Deserialize)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) version: String,
    /// In hexadecimal digits.
    pub(crate) hash: String,
    created_at: String,
}

impl Version {
    /// `name@version`
    pub(crate) fn text(&self) -> String {
        key_of(&self.name, &self.version)
    }
}

/// Every version of every package of a tenant.
pub(crate) fn versions(directory: &Directory, tenant: TenantId) -> Vec<Version> {
    let read = |record: &Arc<Record>| {
        let mut version: Version = serde_json::from_str(&record.value).ok()?;
        version.hash = version.hash.trim_start_matches("sha256:").to_owned();
        Some(version)
    };
    directory.records(RecordKind::Package, tenant).iter().filter_map(read).collect()
}

fn all(api: &Api, caller: &Principal) -> Vec<rest::Package> {
    let records: Vec<Arc<Record>> = api.runtime.directory().records(RecordKind::Package, caller.tenant);
    records.iter().filter_map(|r| serde_json::from_str(&r.value).ok()).collect()
}

fn find(api: &Api, caller: &Principal, name: &str, version: &str) -> Option<rest::Package> {
    of_key(api, caller.tenant, &key_of(name, version))
}

/// The version `name@version`.
pub(crate) fn of_key(api: &Api, tenant: TenantId, key: &str) -> Option<rest::Package> {
    let record = api.runtime.directory().record(RecordKind::Package, tenant, key)?;
    serde_json::from_str(&record.value).ok()
}

pub(crate) fn key_of(name: &str, version: &str) -> String {
    format!("{name}@{version}")
}

fn is_version(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'!' | b'-'))
}
