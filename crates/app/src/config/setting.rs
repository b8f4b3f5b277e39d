//! Every setting: its place, kind, default and meaning. Checks, schema, environment names and `config show` follow from
//! it.

use serde_json::{Value, json};

/// What a setting may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Any text; empty = absent.
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
    /// true or false.
    Flag,
    /// A whole number within bounds.
    Count {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number, 0 or more.
    Number,
    /// `500ms`, `10s`, `1h30m`, or milliseconds.
    Duration {
        /// Shortest, in milliseconds.
        min: u64,
    },
    /// `512MB`, `4Gi`, or bytes.
    Size,
    /// `host:port`
    Address,
    /// Texts.
    List,
    /// Texts by name.
    Map,
    /// A text that is never shown and never stands in the file or on the command line.
    Secret,
}

/// A setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Dotted path in camelCase.
    pub(crate) path: &'static str,
    /// What it may hold.
    pub(crate) kind: Kind,
    /// What holds when nothing is said.
    pub(crate) default: fn() -> Value,
    /// A change holds at once after SIGHUP.
    pub(crate) reload: bool,
    /// What it means.
    pub(crate) doc: &'static str,
}

const fn fixed(path: &'static str, kind: Kind, default: fn() -> Value, doc: &'static str) -> Setting {
    Setting { path, kind, default, reload: false, doc }
}

const fn live(path: &'static str, kind: Kind, default: fn() -> Value, doc: &'static str) -> Setting {
    Setting { path, kind, default, reload: true, doc }
}

const ANY: Kind = Kind::Count { min: 0, max: u64::MAX };
const TIME: Kind = Kind::Duration { min: 0 };

/// Every setting, in the order of the reference.
pub(crate) const ALL: &[Setting] = &[
    fixed("server.listen", Kind::Address, || json!("127.0.0.1:8080"), "Address of REST, gRPC, health and metrics."),
    fixed("server.publicUrl", Kind::Text, || json!(""), "How callers reach the server; from the address if empty."),
    fixed(
        "server.roles",
        Kind::List,
        || json!(["api", "scheduler", "executor", "agents", "notifier"]),
        "What this process does. On a single node all roles run together.",
    ),
    live("server.drainTimeout", TIME, || json!("30s"), "Time that running work gets after SIGTERM."),
    fixed("server.workerThreads", Kind::Count { min: 0, max: 1_024 }, || json!(0), "Threads; 0 = one per core."),
    fixed("server.maxBodySize", Kind::Size, || json!("4Mi"), "Body of a single call."),
    fixed("server.maxBatchSize", Kind::Size, || json!("16Mi"), "Body of a batch of tasks."),
    fixed("server.maxPackageSize", Kind::Size, || json!("512Mi"), "Archive of a package."),
    fixed(
        "server.maxBlobSize",
        Kind::Size,
        || json!("64Gi"),
        "A stored input, result or artefact; it flows through in pieces.",
    ),
    fixed("server.maxWait", Kind::Duration { min: 1_000 }, || json!("60s"), "Longest wait that a call may ask for."),
    fixed("server.maxStreams", Kind::Count { min: 1, max: 1_000_000 }, || json!(1_000), "Live streams at once."),
    fixed("tls.certFile", Kind::Text, || json!(""), "Certificate chain (PEM). With it the server speaks TLS only."),
    fixed("tls.keyFile", Kind::Text, || json!(""), "Private key (PEM)."),
    fixed(
        "tls.agentCertLife",
        Kind::Duration { min: 60_000 },
        || json!("90d"),
        "Life of an agent's client certificate; the agent renews it after two thirds.",
    ),
    fixed("storage.dataDir", Kind::Text, || json!("tidewheel-data"), "Folder of database, logs, blobs and keys."),
    fixed("storage.database", Kind::Text, || json!(""), "Database file, or :memory:; in dataDir if empty."),
    fixed("storage.cacheSize", Kind::Size, || json!("64Mi"), "Page cache of the database's writer."),
    fixed("blobs.backend", Kind::Choice(&["local", "s3"]), || json!("local"), "Where large values are kept."),
    fixed("blobs.dir", Kind::Text, || json!(""), "Folder of the local backend; in dataDir if empty."),
    live("blobs.orphanAge", TIME, || json!("24h"), "A blob that nothing names is deleted after so long; 0 = never."),
    fixed("blobs.s3.bucket", Kind::Text, || json!(""), "Bucket."),
    fixed("blobs.s3.prefix", Kind::Text, || json!(""), "Put before every name in the bucket."),
    fixed("blobs.s3.region", Kind::Text, || json!("us-east-1"), "Region."),
    fixed("blobs.s3.endpoint", Kind::Text, || json!(""), "Address of a server that is not AWS."),
    fixed("blobs.s3.allowHttp", Kind::Flag, || json!(false), "Allow an endpoint without TLS."),
    fixed("blobs.s3.accessKey", Kind::Secret, || json!(""), "Key id; from the machine's role if absent."),
    fixed("blobs.s3.secretKey", Kind::Secret, || json!(""), "Secret key."),
    fixed(
        "engine.lease",
        Kind::Duration { min: 1_000 },
        || json!("4s"),
        "An attempt is lost so long after the last heartbeat.",
    ),
    fixed("engine.heartbeat", Kind::Duration { min: 100 }, || json!("1s"), "How often a worker sends one."),
    fixed("engine.cancelGrace", TIME, || json!("5s"), "Time a cancelled attempt gets before it is killed."),
    fixed("engine.maxLiveTasks", ANY, || json!(0), "Tasks not ended that are taken in; 0 = no bound."),
    fixed(
        "engine.maxOpenEntries",
        Kind::Count { min: 100, max: 1_000_000 },
        || json!(50_000),
        "Things that a workflow in Python may have open at once; one that asks for more fails.",
    ),
    fixed(
        "engine.manyOpenEntries",
        Kind::Count { min: 1, max: 1_000_000 },
        || json!(10_000),
        "From so many on `run why` warns of them.",
    ),
    fixed(
        "engine.mailboxItems",
        Kind::Count { min: 100, max: 10_000_000 },
        || json!(150_000),
        "Requests that may wait.",
    ),
    fixed(
        "engine.runCacheSize",
        Kind::Size,
        || json!("64Mi"),
        "Memory of runs that are idle. From twice as much on, runs are read one after the other; from four times, none is started.",
    ),
    fixed("engine.readers", Kind::Count { min: 1, max: 64 }, || json!(2), "Threads that read for the engine."),
    fixed(
        "tenancy.multiTenant",
        Kind::Flag,
        || json!(false),
        "Tenants share workers: attempts run isolated or not at all.",
    ),
    fixed(
        "metrics.taskTypes",
        Kind::Count { min: 0, max: 10_000 },
        || json!(100),
        "Task types with a label of their own in metrics; the others share the label other.",
    ),
    live("retention.finished", TIME, || json!("30d"), "Ended tasks are kept so long; 0 = for ever."),
    live(
        "retention.runs",
        TIME,
        || json!("30d"),
        "Runs that ended are kept so long, with their journals and large values; 0 = for ever.",
    ),
    live("retention.logs", TIME, || json!("14d"), "Log lines are kept so long; 0 = for ever."),
    fixed("agent.enabled", Kind::Flag, || json!(false), "Run an agent in this process."),
    fixed("agent.name", Kind::Text, || json!(""), "Its name; the machine's if empty."),
    fixed("agent.queues", Kind::List, || json!(["*"]), "Queues it serves; * = all."),
    fixed("agent.types", Kind::List, || json!([]), "Task types it serves; empty = all."),
    fixed(
        "agent.serve",
        Kind::List,
        || json!([]),
        "Bounds on what it serves: priority=high, duration=short,medium, executor=gpu; empty = all.",
    ),
    fixed(
        "agent.pool",
        Kind::Choice(&["", "dedicated", "shared", "best-effort"]),
        || json!(""),
        "Priorities it serves: dedicated = high, shared = high and medium, best-effort = all.",
    ),
    fixed("agent.data", Kind::List, || json!([]), "Data it holds, for tasks that work near it."),
    fixed("agent.labels", Kind::Map, || json!({}), "Labels that tasks can ask for."),
    fixed("agent.capacity", Kind::Count { min: 0, max: 100_000 }, || json!(0), "Attempts at once; 0 = by cores."),
    fixed(
        "agent.dataDir",
        Kind::Text,
        || json!(""),
        "Folder of packages and environments; in storage.dataDir if empty.",
    ),
    fixed(
        "agent.isolation",
        Kind::Choice(&["auto", "on", "off"]),
        || json!("auto"),
        "Whether attempts run in a sandbox.",
    ),
    fixed("agent.network", Kind::Flag, || json!(false), "Network inside the sandbox."),
    fixed("agent.memory", Kind::Size, || json!(0), "Memory of an attempt that names none; 0 = no bound."),
    fixed("agent.cpu", Kind::Number, || json!(0), "Cores of an attempt that names none; 0 = no bound."),
    fixed("agent.processes", Kind::Count { min: 1, max: 1_000_000 }, || json!(512), "Processes of an attempt."),
    fixed("agent.output", Kind::Size, || json!("64Mi"), "Captured output of an attempt."),
    fixed(
        "agent.buildTime",
        Kind::Duration { min: 1_000 },
        || json!("30m"),
        "Time for the build of an environment, fetching included.",
    ),
    fixed("agent.buildMemory", Kind::Size, || json!("4Gi"), "Memory for the build of an environment; 0 = no bound."),
    fixed("agent.buildDisk", Kind::Size, || json!("20Gi"), "Disk for the build of an environment; 0 = no bound."),
    fixed(
        "agent.buildProcesses",
        Kind::Count { min: 1, max: 1_000_000 },
        || json!(1_024),
        "Processes and threads of the build of an environment.",
    ),
    fixed(
        "agent.cacheSize",
        Kind::Size,
        || json!("20Gi"),
        "Packages, environments and downloads kept between uses; the longest unused go first.",
    ),
    fixed("agent.cacheAge", TIME, || json!("30d"), "What was not used for so long is removed; 0 = kept."),
    fixed("agent.python", Kind::Text, || json!(""), "Interpreter to use; the one on PATH if empty."),
    live(
        "log.level",
        Kind::Text,
        || json!("info"),
        "error, warn, info, debug, trace, or by module: info,tidewheel_api=debug.",
    ),
    fixed(
        "log.format",
        Kind::Choice(&["auto", "pretty", "json"]),
        || json!("auto"),
        "auto: pretty on a terminal, else json.",
    ),
];

impl Kind {
    /// The value in the setting's own form, or why it cannot be one.
    pub(crate) fn check(self, value: &Value) -> Result<Value, String> {
        let good = |ok: bool, wanted: &str| {
            if ok { Ok(value.clone()) } else { Err(format!("{wanted} is needed, not {}", shown(value))) }
        };
        match self {
            Kind::Text | Kind::Secret => match value {
                Value::Number(_) => Ok(Value::String(value.to_string())),
                _ => good(value.is_string(), "a text"),
            },
            Kind::Choice(names) => {
                let text = value.as_str().unwrap_or_default();
                if names.contains(&text) {
                    return Ok(value.clone());
                }
                let near = crate::text::did_you_mean(text, names.iter().copied());
                Err(format!("one of {} is needed, not {}{near}", names.join(", "), shown(value)))
            }
            Kind::Flag => good(value.is_boolean(), "true or false"),
            Kind::Count { min, max } => {
                let ok = value.as_u64().is_some_and(|n| (min..=max).contains(&n));
                if max == u64::MAX {
                    return good(ok, "a whole number");
                }
                good(ok, &format!("a whole number from {min} to {max}"))
            }
            Kind::Number => good(value.as_f64().is_some_and(|n| n >= 0.0), "a number"),
            Kind::Duration { min } => match duration_ms(value)? {
                ms if ms < min => Err(format!("at least {min} ms are needed, not {}", shown(value))),
                _ => Ok(value.clone()),
            },
            Kind::Size => size_bytes(value).map(|_| value.clone()),
            Kind::Address => {
                let text = value.as_str().unwrap_or_default();
                let port =
                    text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
                good(matches!(port, Some(Ok(_))), "an address such as 127.0.0.1:8080 or [::]:8080")
            }
            Kind::List => match value {
                Value::Array(items) if items.iter().all(|v| v.is_string() || v.is_number()) => {
                    Ok(items.iter().map(|v| Value::String(plain(v))).collect())
                }
                // One item is what people mean by a bare text.
                Value::String(_) => Ok(Value::Array(vec![value.clone()])),
                _ => good(false, "a list of texts"),
            },
            Kind::Map => {
                let ok = value.as_object().is_some_and(|map| map.values().all(|v| !v.is_object() && !v.is_array()));
                good(ok, "names with texts")
            }
        }
    }

    /// The JSON Schema of a value.
    pub(crate) fn schema(self) -> Value {
        match self {
            Kind::Text | Kind::Secret => json!({"type": "string"}),
            Kind::Choice(names) => json!({"enum": names}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Count { min, max: u64::MAX } => json!({"type": "integer", "minimum": min}),
            Kind::Count { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
            Kind::Number => json!({"type": "number", "minimum": 0}),
            Kind::Duration { .. } => json!({
                "type": ["string", "integer"], "examples": ["500ms", "10s", "1h30m", "2d", 1500],
                "description": "A bare number is milliseconds.",
            }),
            Kind::Size => json!({"type": ["string", "integer"], "examples": ["512MB", "4Gi", 1048576]}),
            Kind::Address => json!({"type": "string", "examples": ["127.0.0.1:8080", "[::]:8080"]}),
            Kind::List => json!({"type": "array", "items": {"type": "string"}}),
            Kind::Map => json!({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
        }
    }
}

/// Milliseconds of a value.
pub(crate) fn duration_ms(value: &Value) -> Result<u64, String> {
    match value {
        Value::Number(number) => number.as_u64().ok_or_else(|| format!("{number} is no duration")),
        Value::String(text) => crate::units::parse_duration_ms(text),
        other => Err(format!("a duration such as 10s is needed, not {}", shown(other))),
    }
}

/// Bytes of a value.
pub(crate) fn size_bytes(value: &Value) -> Result<u64, String> {
    match value {
        Value::Number(number) => number.as_u64().ok_or_else(|| format!("{number} is no size")),
        Value::String(text) => crate::units::parse_size(text),
        other => Err(format!("a size such as 512MB is needed, not {}", shown(other))),
    }
}

/// A scalar as text.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shown(value: &Value) -> String {
    let text = crate::text::one_line(&value.to_string());
    if text.chars().count() > 60 { text.chars().take(57).collect::<String>() + "..." } else { text }
}
