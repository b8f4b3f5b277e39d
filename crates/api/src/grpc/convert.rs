//! Between the worker protocol's messages and the engine's terms.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tidewheel_engine::command::{Hello, Usage};
use tidewheel_engine::effect::Grant;
use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_engine::limit;
use tidewheel_engine::serve::Serves;
use tidewheel_engine::task::{Artifact, Failure, Outcome, Payload, Resources};
use tidewheel_proto::v1;

use crate::auth::promise::PromiseKeys;
use crate::seal::{Sealer, TOKEN_BYTES};
use crate::store::log::{Level, Line, Stream};
use crate::text::{hash_text, is_name, parse_hash, run_id, task_text};

/// Labels and capabilities of one worker.
const MAX_LABELS: usize = 256;
/// Bytes of a label, name or type that a worker sends.
const MAX_TEXT: usize = 256;
/// Queues, types and cached packages that a worker may name.
const MAX_NAMES: usize = 10_000;
/// Bytes of an error's message; the detail gets the rest of the engine's bound.
const MESSAGE_BYTES: usize = 2 * 1024;
/// Files of one attempt.
const MAX_ARTIFACTS: usize = 100;
/// Begins the name of a package that is a folder on the worker's machine.
const LOCAL: &str = "local:";
/// Bytes of one log line; the agent cuts earlier.
const LINE_BYTES: usize = 64 * 1024;

/// A text cut at a character's end.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Who a worker is, checked. `tenant` comes from its token, never from the message.
pub(crate) fn hello(message: &v1::Hello, tenant: Option<TenantId>, now: u64) -> Result<Hello, String> {
    let name = message.name.trim();
    if name.is_empty() || name.len() > MAX_TEXT || name.chars().any(char::is_control) {
        return Err(format!("a worker's name has 1 to {MAX_TEXT} bytes without control characters"));
    }
    if message.labels.len() > MAX_LABELS || message.enforced.len() > MAX_LABELS {
        return Err(format!("a worker has at most {MAX_LABELS} labels"));
    }
    if message.queues.len() > MAX_NAMES || message.packages.len() > MAX_NAMES {
        return Err(format!("a worker names at most {MAX_NAMES} queues and packages"));
    }
    if message.types.len() > MAX_NAMES || message.own_types.len() > MAX_NAMES {
        return Err(format!("a worker names at most {MAX_NAMES} types"));
    }
    if message.data.len() > limit::HELD_DATA {
        return Err(format!("a worker names at most {} data", limit::HELD_DATA));
    }
    let every = message.queues.iter().any(|q| q == "*");
    Ok(Hello {
        tenant,
        name: name.into(),
        instance: cut(&message.instance, MAX_TEXT).into(),
        kind: cut(&message.kind, MAX_TEXT).into(),
        version: cut(&message.version, MAX_TEXT).into(),
        queues: if every { Vec::new() } else { names(&message.queues) },
        types: names(&message.types),
        own_types: message.runs_packages.then(|| names(&message.own_types)),
        labels: pairs(&message.labels),
        resources: message.resources.as_ref().map(resources).unwrap_or_default(),
        permits: message.permits,
        buffer: message.buffer,
        serves: message.serves.as_ref().map(serves).transpose()?.unwrap_or_default(),
        data: sorted(data(&message.data)),
        packages: packages(&message.packages),
        enforced: pairs(&message.enforced),
        resume: Vec::new(),
        clock_offset_ms: offset(message.clock_unix_ms, now),
    })
}

/// Bounds on what a worker serves. An unknown name is refused: a bound that is not understood would be passed over.
fn serves(message: &v1::Serves) -> Result<Serves, String> {
    let bits = |given: &[String], known: [&str; 3], what: &str| {
        given.iter().try_fold(0, |bits, name| match known.iter().position(|k| k == name) {
            Some(at) => Ok(bits | 1 << at),
            None => Err(format!("a worker serves {what} {}, not '{}'", known.join(", "), cut(name, 40))),
        })
    };
    if message.executors.len() > limit::SERVED_EXECUTORS {
        return Err(format!("a worker serves at most {} executor keys", limit::SERVED_EXECUTORS));
    }
    if let Some(wrong) = message.executors.iter().find(|key| !is_name(key)) {
        return Err(format!("'{}' is no executor key: letters, digits, '.', '_' or '-'", cut(wrong, 40)));
    }
    Ok(Serves {
        classes: bits(&message.priorities, ["low", "medium", "high"], "priority")?,
        lengths: bits(&message.durations, ["short", "medium", "long"], "duration")?,
        executors: sorted(names(&message.executors)),
    })
}

/// Names of data as the engine keeps them.
pub(crate) fn data(list: &[String]) -> Vec<Name> {
    names(&list[..list.len().min(limit::HELD_DATA)])
}

fn sorted(mut names: Vec<Name>) -> Vec<Name> {
    names.sort();
    names.dedup();
    names
}

/// The worker's clock minus ours; a worker that sends none counts as right.
pub(crate) fn offset(clock_unix_ms: i64, now: u64) -> i64 {
    if clock_unix_ms == 0 { 0 } else { clock_unix_ms.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX)) }
}

fn names(list: &[String]) -> Vec<Name> {
    list.iter().map(|n| cut(n, MAX_TEXT).into()).collect()
}

fn pairs(map: &HashMap<String, String>) -> Vec<(Name, Name)> {
    let mut out: Vec<(Name, Name)> =
        map.iter().map(|(k, v)| (cut(k, MAX_TEXT).into(), cut(v, MAX_TEXT).into())).collect();
    out.sort();
    out
}

/// Packages as the engine keeps them: the bare hex of a hash, or the name of a folder on the worker's own machine.
pub(crate) fn packages(list: &[String]) -> Vec<Name> {
    let kept = |text: &String| match parse_hash(text) {
        Some(hash) => Some(hex::encode(hash).as_str().into()),
        None => text.starts_with(LOCAL).then(|| cut(text, MAX_TEXT).into()),
    };
    list.iter().filter_map(kept).collect()
}

/// Bounds of what one heartbeat says of packages and data. One above them is refused as a whole: cut, it would leave the
/// server with a wrong picture of the worker.
pub(crate) fn check_heartbeat(beat: &v1::Heartbeat) -> Result<(), String> {
    for (what, count, most) in [
        ("packages_added", beat.packages_added.len(), MAX_NAMES),
        ("packages_removed", beat.packages_removed.len(), MAX_NAMES),
        ("packages_failed", beat.packages_failed.len(), MAX_NAMES),
        ("data_added", beat.data_added.len(), limit::HELD_DATA),
        ("data_removed", beat.data_removed.len(), limit::HELD_DATA),
    ] {
        if count > most {
            return Err(format!("a heartbeat names at most {most} entries in {what}, not {count}"));
        }
    }
    Ok(())
}

/// A package that could not be fetched, and why.
pub(crate) fn package_fault(fault: &v1::PackageFault) -> Option<(Name, String)> {
    let hash = parse_hash(&fault.hash)?;
    Some((hex::encode(hash).as_str().into(), cut(&fault.reason, 1_024).to_owned()))
}

/// A package of [`packages`] on the wire.
pub(crate) fn package_text(kept: &str) -> String {
    if kept.starts_with(LOCAL) { kept.to_owned() } else { format!("sha256:{kept}") }
}

fn resources(message: &v1::Resources) -> Resources {
    Resources { cpu_millis: message.cpu_millis, memory_bytes: message.memory_bytes }
}

pub(crate) fn usage(message: Option<v1::Usage>) -> Usage {
    let message = message.unwrap_or_default();
    // A ratio that is no number would spread through every mean it enters.
    let ratio = if message.cpu_ratio.is_finite() { message.cpu_ratio.clamp(0.0, 1.0) } else { 0.0 };
    Usage {
        cpu_ratio: ratio,
        memory_used_bytes: message.memory_used_bytes,
        disk_free_bytes: message.disk_free_bytes,
        tight: message.tight,
    }
}

/// Grants as one message. All tokens of the batch share one allocation.
pub(crate) fn grants(
    sealer: &Sealer,
    promises: &PromiseKeys,
    grants: &[Grant],
    tenants: std::collections::HashMap<u32, String>,
) -> v1::Grants {
    let mut tokens = BytesMut::with_capacity(grants.len() * TOKEN_BYTES);
    let one = |grant| one_grant((sealer, promises), &mut tokens, grant);
    v1::Grants { grants: grants.iter().map(one).collect(), tenants }
}

fn one_grant((sealer, promises): (&Sealer, &PromiseKeys), tokens: &mut BytesMut, grant: &Grant) -> v1::Grant {
    let spec = &grant.spec;
    let token = sealer.seal(tokens, grant.task, grant.token);
    let (input, input_ref) = match &grant.input {
        Payload::Inline(bytes) => (bytes.clone(), String::new()),
        Payload::Blob { hash, .. } => (Bytes::new(), hash_text(hash)),
        Payload::None | Payload::Cold => (Bytes::new(), String::new()),
    };
    let run = spec.workflow_id.as_deref().filter(|id| id.starts_with(ACTIVATION));
    let text = |name: &Option<Name>| name.as_deref().unwrap_or_default().to_owned();
    let limits = (spec.resources != Resources::default() || spec.fast_io).then(|| v1::Resources {
        cpu_millis: spec.resources.cpu_millis,
        memory_bytes: spec.resources.memory_bytes,
        disk_bytes: 0,
        fast_io: spec.fast_io,
    });
    v1::Grant {
        // The token begins with the task's id.
        task: token.slice(..16),
        token,
        r#type: grant.kind.to_string(),
        queue: grant.queue.to_string(),
        attempt: grant.attempt,
        input,
        input_ref,
        run_timeout_ms: grant.run_ms,
        package: spec.package.as_deref().map(package_text).unwrap_or_default(),
        entrypoint: text(&spec.entrypoint),
        resources: limits,
        batch: grant.batch,
        labels: spec.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        correlation_id: text(&spec.correlation_id),
        traceparent: text(&spec.traceparent),
        idempotency_key: spec.idempotency_key.as_ref().map_or_else(|| task_text(grant.task), |k| k.to_string()),
        max_attempts: grant.max_attempts,
        priority: u32::from(grant.priority),
        tenant: grant.tenant.0,
        promises: run.and_then(activated).map(|run| promises.of_run(grant.tenant, run)).unwrap_or_default(),
        run: run.map(str::to_owned).unwrap_or_default(),
    }
}

/// The run of an activation: a UUID follows.
fn activated(text: &str) -> Option<RunId> {
    run_id(text.strip_prefix(ACTIVATION)?).ok()
}

/// How the workflow of a task begins that is an activation of a program: what the engine gives it. Whoever submits one like it has a
/// task of their own tenant, and no more than a completion by name could do.
const ACTIVATION: &str = "run_";

/// What a result says, checked; a blob reference is not looked up here.
pub(crate) enum Reported {
    Ready(Outcome),
    /// The result is a blob that has to be there.
    Blob {
        hash: [u8; 32],
        artifacts: Vec<Artifact>,
    },
}

/// Reads a result. What cannot be kept becomes a failure of the attempt that says so: the attempt is over in any case.
pub(crate) fn outcome(message: v1::TaskResult) -> Reported {
    use v1::task_result::Outcome as Wire;
    let artifacts = match artifacts(&message.artifacts) {
        Ok(artifacts) => artifacts,
        Err(why) => return Reported::Ready(failed("invalid-result", &why, false)),
    };
    Reported::Ready(match message.outcome {
        None => Outcome::Ok { result: Payload::None, artifacts },
        Some(Wire::Ok(bytes)) if bytes.is_empty() => Outcome::Ok { result: Payload::None, artifacts },
        Some(Wire::Ok(bytes)) if bytes.len() > limit::INLINE_BYTES => {
            let text = format!("an inline result has at most {} bytes; store it with PutBlob", limit::INLINE_BYTES);
            failed("result-too-large", &text, false)
        }
        Some(Wire::Ok(bytes)) => match crate::body::check_json(&bytes) {
            Ok(()) => Outcome::Ok { result: Payload::Inline(bytes), artifacts },
            Err(failure) => failed("invalid-result", &failure.0.detail, false),
        },
        Some(Wire::OkRef(text)) => match parse_hash(&text) {
            Some(hash) => return Reported::Blob { hash, artifacts },
            None => failed("invalid-result", "the reference of the result is not sha256:<64 hex>", false),
        },
        Some(Wire::Failed(failure)) => {
            let cancelled = failure.cancelled;
            let kind = if failure.r#type.is_empty() { "Error" } else { cut(&failure.r#type, MAX_TEXT) };
            let message = cut(&failure.message, MESSAGE_BYTES);
            let detail = cut(&failure.detail, limit::ERROR_BYTES.saturating_sub(MESSAGE_BYTES + MAX_TEXT));
            let failure = Failure {
                kind: kind.into(),
                message: message.into(),
                detail: detail.into(),
                retryable: failure.retryable,
            };
            Outcome::Failed { failure, artifacts, cancelled }
        }
    })
}

pub(crate) fn failed(kind: &str, message: &str, retryable: bool) -> Outcome {
    let failure =
        Failure { kind: kind.into(), message: cut(message, MESSAGE_BYTES).into(), detail: "".into(), retryable };
    Outcome::Failed { failure, artifacts: Vec::new(), cancelled: false }
}

fn artifacts(list: &[v1::Artifact]) -> Result<Vec<Artifact>, String> {
    if list.len() > MAX_ARTIFACTS {
        return Err(format!("an attempt leaves at most {MAX_ARTIFACTS} files"));
    }
    let one = |a: &v1::Artifact| {
        let hash = parse_hash(&a.hash).ok_or("the hash of a file is not sha256:<64 hex>")?;
        let name = cut(&a.name, MAX_TEXT);
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err("the name of a file is empty or has control characters".to_owned());
        }
        Ok(Artifact { name: name.into(), hash, size: a.size, content_type: cut(&a.content_type, MAX_TEXT).into() })
    };
    list.iter().map(one).collect()
}

/// A log line of an attempt that is known.
pub(crate) fn line(message: v1::LogLine, tenant: TenantId, task: tidewheel_engine::id::TaskId, attempt: u32) -> Line {
    let level = match message.level.as_str() {
        "debug" => Level::Debug,
        "warning" | "warn" => Level::Warning,
        "error" => Level::Error,
        _ => Level::Info,
    };
    let stream = match message.stream.as_str() {
        "stderr" => Stream::Stderr,
        "log" => Stream::Log,
        _ => Stream::Stdout,
    };
    let mut text = message.text;
    if text.len() > LINE_BYTES {
        let end = cut(&text, LINE_BYTES).len();
        text.truncate(end);
    }
    let at = u64::try_from(message.at_unix_ms).unwrap_or(0);
    Line { tenant, task, attempt, offset: message.offset, at, stream, level, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::task_result::Outcome as Wire;

    fn reported(outcome: Wire) -> Outcome {
        match super::outcome(v1::TaskResult { token: Bytes::new(), outcome: Some(outcome), artifacts: Vec::new() }) {
            Reported::Ready(outcome) => outcome,
            Reported::Blob { .. } => panic!("a blob"),
        }
    }

    fn kind(outcome: &Outcome) -> &str {
        match outcome {
            Outcome::Ok { .. } => "ok",
            Outcome::Failed { failure, .. } => &failure.kind,
        }
    }

    #[test]
    fn results_that_cannot_be_kept_fail_their_attempt() {
        assert_eq!(kind(&reported(Wire::Ok("{\"a\":1}".into()))), "ok");
        assert_eq!(kind(&reported(Wire::Ok(Bytes::new()))), "ok");
        assert_eq!(kind(&reported(Wire::Ok("{\"a\":".into()))), "invalid-result");
        assert_eq!(kind(&reported(Wire::Ok("\u{0}".into()))), "invalid-result");
        assert_eq!(kind(&reported(Wire::Ok(Bytes::from(vec![b' '; limit::INLINE_BYTES + 1])))), "result-too-large");
        assert_eq!(kind(&reported(Wire::OkRef("../../etc/passwd".to_owned()))), "invalid-result");
    }

    #[test]
    fn long_errors_are_cut_at_a_character() {
        let failure =
            v1::Failure { message: "ä".repeat(10_000), detail: "x".repeat(1 << 20), ..v1::Failure::default() };
        let Outcome::Failed { failure, .. } = reported(Wire::Failed(failure)) else { panic!("no failure") };
        assert!(failure.message.len() <= MESSAGE_BYTES && failure.detail.len() <= limit::ERROR_BYTES);
        assert_eq!(&*failure.kind, "Error");
        assert_eq!(cut("aä", 2), "a");
    }

    #[test]
    fn packages_are_hashes_or_folders_of_the_worker() {
        let hash = format!("sha256:{}", "0a".repeat(32));
        let names = [hash.clone(), "local:/code".to_owned(), "nothing".to_owned()];
        let kept = packages(&names);
        let kept: Vec<&str> = kept.iter().map(|name| &**name).collect();
        assert_eq!(kept, [&hash["sha256:".len()..], "local:/code"]);
        assert_eq!(kept.iter().map(|name| package_text(name)).collect::<Vec<_>>(), names[..2]);
    }

    #[test]
    fn a_worker_without_a_name_is_refused() {
        let message = |name: &str| v1::Hello { name: name.to_owned(), ..v1::Hello::default() };
        assert!(hello(&message(""), None, 0).is_err());
        assert!(hello(&message("a\nb"), None, 0).is_err());
        assert!(hello(&message(&"x".repeat(300)), None, 0).is_err());
        let star = v1::Hello { queues: vec!["pdf".to_owned(), "*".to_owned()], ..message("w") };
        assert!(hello(&star, None, 0).unwrap().queues.is_empty());
    }

    #[test]
    fn bounds_on_what_a_worker_serves_are_understood_or_refused() {
        let served = |serves: v1::Serves| {
            let message = v1::Hello { name: "w".to_owned(), serves: Some(serves), ..v1::Hello::default() };
            hello(&message, None, 0).map(|hello| hello.serves)
        };
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let good = v1::Serves {
            priorities: list(&["high", "low", "high"]),
            durations: list(&["short"]),
            executors: list(&["gpu", "automated", "gpu"]),
        };
        let serves = served(good).unwrap();
        assert_eq!((serves.classes, serves.lengths), (0b101, 0b001));
        assert_eq!(serves.executors, ["automated".into(), "gpu".into()]);
        for bad in [
            v1::Serves { priorities: list(&["urgent"]), ..v1::Serves::default() },
            v1::Serves { durations: list(&["forever"]), ..v1::Serves::default() },
            v1::Serves { executors: list(&["a b"]), ..v1::Serves::default() },
            v1::Serves { executors: (0..65).map(|n| n.to_string()).collect(), ..v1::Serves::default() },
        ] {
            assert!(served(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
