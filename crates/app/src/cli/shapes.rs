//! Which columns people see of each kind of thing. The paths are the REST interface's field names.

use crate::output::Kind::{Bytes, Clock, Count, Length, Names, Number, Seconds, Share, State, Text, Time};
use crate::output::{Col, Shape};

pub(crate) const TASK: Shape = Shape {
    plural: "tasks",
    id: "id",
    cols: &[
        Col::new("ID", "id", Text),
        Col::new("STATE", "state", State),
        Col::new("TYPE", "type", Text),
        Col::new("QUEUE", "queue", Text),
        Col::minor("PRIO", "priority", Count),
        Col::minor("ATTEMPT", "attempt", Count),
        Col::new("CREATED", "created_at", Time),
        Col::new("ERROR", "error.message", Text),
        Col::wide("STARTED", "started_at", Time),
        Col::wide("FINISHED", "finished_at", Time),
        Col::wide("WORKER", "worker", Text),
        Col::wide("RUN", "run", Text),
        Col::wide("EXECUTOR", "executor", Text),
        Col::wide("RULE", "rule", Text),
        Col::wide("KEY", "key", Text),
        Col::wide("LABELS", "labels", Names),
        Col::wide("PACKAGE", "package", Text),
    ],
};

pub(crate) const CHANGE: Shape = Shape {
    plural: "changes",
    id: "id",
    cols: &[
        Col::new("AT", "at", Clock),
        Col::new("STATE", "state", State),
        Col::new("ATTEMPT", "attempt", Count),
        Col::new("TYPE", "type", Text),
        Col::new("QUEUE", "queue", Text),
        Col::wide("ID", "id", Text),
    ],
};

pub(crate) const RULE: Shape = Shape {
    plural: "routing rules",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("TYPE", "type", Text),
        Col::new("PRIORITY", "priority", Names),
        Col::new("WORKFLOW", "workflow", Text),
        Col::new("LABELS", "labels", Names),
        Col::new("QUEUE", "queue", Text),
        Col::new("EXECUTOR", "executor", Text),
        Col::wide("KIND", "kind", Text),
    ],
};

pub(crate) const ROUTE: Shape = Shape {
    plural: "routes",
    id: "queue",
    cols: &[
        Col::new("QUEUE", "queue", Text),
        Col::new("EXECUTOR", "executor", Text),
        Col::new("RULE", "rule", Text),
        Col::new("PRIORITY", "priority_class", Text),
    ],
};

pub(crate) const ATTEMPT: Shape = Shape {
    plural: "attempts",
    id: "number",
    cols: &[
        Col::new("NO", "number", Count),
        Col::new("OUTCOME", "outcome", State),
        Col::new("WORKER", "worker", Text),
        Col::new("GRANTED", "granted_at", Time),
        Col::new("ENDED", "ended_at", Time),
        Col::new("ERROR", "error.type", Text),
        Col::new("MESSAGE", "error.message", Text),
    ],
};

pub(crate) const REASON: Shape = Shape {
    plural: "reasons",
    id: "code",
    cols: &[
        Col::new("CODE", "code", Text),
        Col::new("REASON", "text", Text),
        Col::minor("SINCE", "since", Time),
        Col::minor("UNTIL", "until", Time),
    ],
};

pub(crate) const RUN_REASON: Shape = Shape {
    plural: "reasons",
    id: "code",
    cols: &[
        Col::new("FOR", "code", Text),
        Col::new("KEY", "key", Text),
        Col::minor("TASK", "task", Text),
        Col::minor("RUN", "run", Text),
        Col::minor("SINCE", "since", Time),
        Col::minor("UNTIL", "until", Time),
        Col::wide("REASON", "text", Text),
    ],
};

pub(crate) const RUN_COUNT: Shape = Shape {
    plural: "counts",
    id: "phase",
    cols: &[Col::new("PHASE", "phase", State), Col::new("RUNS", "count", Text)],
};

pub(crate) const COMPARED_RUN: Shape = Shape {
    plural: "runs",
    id: "id",
    cols: &[
        Col::new("RUN", "id", Text),
        Col::new("PHASE", "phase", State),
        Col::new("WORKFLOW", "workflow", Text),
        Col::new("MS", "duration_ms", Count),
        Col::wide("HASH", "hash", Text),
    ],
};

pub(crate) const COMPARED_ENTRY: Shape = Shape {
    plural: "entries",
    id: "key",
    cols: &[
        Col::new("KEY", "key", Text),
        Col::new("DIFFERS", "differs", Text),
        Col::new("STATUS", "a_status", State),
        Col::new("STATUS B", "b_status", State),
        Col::new("MS", "a_ms", Count),
        Col::new("MS B", "b_ms", Count),
    ],
};

pub(crate) const SUBMITTED: Shape = Shape {
    plural: "answers",
    id: "id",
    cols: &[
        Col::new("LINE", "line", Count),
        Col::new("STATUS", "status", Count),
        Col::new("ID", "id", Text),
        Col::new("WHY", "problem.detail", Text),
    ],
};

pub(crate) const QUEUE: Shape = Shape {
    plural: "queues",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("STATE", "state", State),
        Col::new("CONCURRENCY", "settings.concurrency", Count),
        Col::new("RATE", "settings.rate", Text),
        Col::minor("POLICY", "settings.policy", Text),
        Col::minor("MAX DEPTH", "settings.max_depth", Count),
        Col::wide("PER KEY", "settings.key_concurrency", Count),
        Col::wide("BATCH", "settings.batch_size", Count),
        Col::wide("AGING", "settings.aging", Text),
        Col::wide("VERSION", "version", Count),
    ],
};

pub(crate) const QUEUE_STATS: Shape = Shape {
    plural: "queues",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("STATE", "state", State),
        Col::new("DEPTH", "depth", Count),
        Col::new("OLDEST", "oldest_wait_seconds", Seconds),
        Col::new("RUNNING", "running", Count),
        Col::minor("SCHEDULED", "scheduled", Count),
        Col::new("DEAD", "dead", Count),
        Col::new("IN/S", "in_per_s", Number),
        Col::new("OUT/S", "out_per_s", Number),
        Col::minor("WORKERS", "workers", Count),
        Col::minor("PRESSURE", "pressure", Text),
        Col::wide("WANTED PERMITS", "desired_permits", Count),
    ],
};

/// An item that was taken, or its lease.
pub(crate) const TAKEN: Shape = Shape {
    plural: "items",
    id: "id",
    cols: &[
        Col::new("ID", "id", Text),
        Col::new("TOKEN", "token", Text),
        Col::new("LEASED UNTIL", "leased_until", Time),
        Col::new("ATTEMPT", "attempt", Count),
        Col::minor("PRIORITY", "priority", Count),
        Col::new("INPUT", "input", Text),
        Col::wide("KEY", "key", Text),
        Col::wide("LABELS", "labels", Names),
    ],
};

pub(crate) const OUTCOME: Shape = Shape {
    plural: "outcomes",
    id: "task",
    cols: &[Col::new("TASK", "task", Text), Col::new("OUTCOME", "outcome", State), Col::new("WHY", "detail", Text)],
};

pub(crate) const RUN_OUTCOME: Shape = Shape {
    plural: "runs",
    id: "run",
    cols: &[Col::new("RUN", "run", Text), Col::new("OUTCOME", "outcome", State), Col::new("WHY", "detail", Text)],
};

pub(crate) const WORKER: Shape = Shape {
    plural: "workers",
    id: "id",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("STATE", "state", State),
        Col::new("ID", "id", Text),
        Col::new("QUEUES", "queues", Names),
        Col::new("USED", "used", Count),
        Col::minor("PERMITS", "permits", Count),
        Col::wide("OFFERS", "offered_permits", Count),
        Col::new("CPU", "cpu_ratio", Share),
        Col::new("SEEN", "last_seen", Time),
        Col::wide("KIND", "kind", Text),
        Col::wide("SERVES", "serves", Names),
        Col::wide("DATA", "data", Names),
        Col::wide("VERSION", "version", Text),
        Col::wide("MEMORY", "memory_used_bytes", Bytes),
        Col::wide("DISK FREE", "disk_free_bytes", Bytes),
        Col::wide("CLOCK MS", "clock_offset_ms", Text),
        Col::wide("LABELS", "labels", Names),
        Col::wide("ENFORCED", "enforced", Names),
    ],
};

pub(crate) const WORKFLOW: Shape = Shape {
    plural: "workflows",
    id: "id",
    cols: &[
        Col::new("NAMESPACE", "namespace", Text),
        Col::new("NAME", "name", Text),
        Col::new("VERSION", "version", Text),
        Col::new("LATEST", "latest", Text),
        Col::minor("WARNINGS", "warnings", Count),
        Col::new("TITLE", "title", Text),
        Col::new("CREATED", "created_at", Time),
        Col::wide("HASH", "hash", Text),
        Col::wide("TAGS", "tags", Names),
    ],
};

pub(crate) const RUN: Shape = Shape {
    plural: "runs",
    id: "id",
    cols: &[
        Col::new("ID", "id", Text),
        Col::new("PHASE", "phase", State),
        Col::minor("NAMESPACE", "namespace", Text),
        Col::new("WORKFLOW", "workflow", Text),
        Col::new("VERSION", "version", Text),
        Col::new("STARTED", "started_at", Time),
        Col::new("ENDED", "ended_at", Time),
        Col::new("ERROR", "error.detail", Text),
        Col::wide("REASON", "reason", Text),
        Col::wide("PARENT", "parent", Text),
        Col::wide("CORRELATION", "correlation_id", Text),
        Col::wide("TURNS", "turns", Count),
        Col::wide("ATTRIBUTES", "attributes", Names),
    ],
};

pub(crate) const RUN_CHANGE: Shape = Shape {
    plural: "changes",
    id: "id",
    cols: &[
        Col::new("AT", "at", Clock),
        Col::new("PHASE", "phase", State),
        Col::new("TURN", "turn", Count),
        Col::wide("ID", "id", Text),
    ],
};

pub(crate) const JOURNAL: Shape = Shape {
    plural: "entries",
    id: "key",
    cols: &[
        Col::new("ENTRY", "entry", Count),
        Col::new("STATUS", "status", State),
        Col::new("KEY", "key", Text),
        Col::new("OPENED", "opened_at", Time),
        Col::new("DONE", "done_at", Time),
        Col::new("ERROR", "error.detail", Text),
        Col::minor("RETRIES", "retries", Count),
        Col::wide("WITHIN", "within", Count),
        Col::wide("DUE", "due_at", Time),
        Col::wide("TASK", "task", Text),
        Col::wide("RUN", "run", Text),
    ],
};

pub(crate) const FINDING: Shape = Shape {
    plural: "findings",
    id: "code",
    cols: &[
        Col::new("SEVERITY", "severity", State),
        Col::new("LINE", "line", Count),
        Col::new("COLUMN", "column", Count),
        Col::new("CODE", "code", Text),
        Col::new("MESSAGE", "message", Text),
        Col::new("HINT", "hint", Text),
    ],
};

pub(crate) const PACKAGE: Shape = Shape {
    plural: "packages",
    id: "name+version",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("VERSION", "version", Text),
        Col::new("STATE", "state", State),
        Col::minor("FORMAT", "format", Text),
        Col::new("TASKS", "entries", Length),
        Col::new("SIZE", "size", Bytes),
        Col::new("CREATED", "created_at", Time),
        Col::wide("HASH", "hash", Text),
    ],
};

pub(crate) const ENTRY: Shape = Shape {
    plural: "tasks",
    id: "name",
    cols: &[
        Col::new("TASK", "name", Text),
        Col::new("FUNCTION", "fn", Text),
        Col::new("DOC", "doc", Text),
        Col::wide("DEFAULTS", "defaults", Names),
    ],
};

pub(crate) const ARTIFACT: Shape = Shape {
    plural: "artifacts",
    id: "id",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::minor("ID", "id", Text),
        Col::new("SIZE", "size", Bytes),
        Col::new("TYPE", "content_type", Text),
        Col::new("ATTEMPT", "attempt", Count),
        Col::wide("HASH", "hash", Text),
    ],
};

pub(crate) const LOG: Shape = Shape {
    plural: "log lines",
    id: "task",
    cols: &[
        Col::new("AT", "at", Time),
        Col::new("LEVEL", "level", State),
        Col::new("TASK", "task", Text),
        Col::new("TEXT", "text", Text),
        Col::wide("ATTEMPT", "attempt", Count),
        Col::wide("STREAM", "stream", Text),
    ],
};

pub(crate) const OPERATION: Shape = Shape {
    plural: "operations",
    id: "id",
    cols: &[
        Col::new("ID", "id", Text),
        Col::new("ACTION", "action", Text),
        Col::new("OF", "resource", Text),
        Col::new("STATE", "state", State),
        Col::minor("SEEN", "seen", Count),
        Col::new("DONE", "done", Count),
        Col::new("FAILED", "failed", Count),
        Col::new("FILTER", "filter", Text),
        Col::new("CREATED", "created_at", Time),
    ],
};

pub(crate) const ROLLOUT: Shape = Shape {
    plural: "agents",
    id: "agent",
    cols: &[
        Col::new("AGENT", "agent", Text),
        Col::new("STATE", "state", State),
        Col::new("AFTER MS", "after_ms", Count),
        Col::new("DETAIL", "detail", Text),
    ],
};

/// A stored file, by its content.
pub(crate) const BLOB: Shape = Shape {
    plural: "files",
    id: "hash",
    cols: &[Col::new("HASH", "hash", Text), Col::new("SIZE", "size", Bytes), Col::new("NAME", "name", Text)],
};

pub(crate) const ENROLMENT: Shape = Shape {
    plural: "enrolments",
    id: "id",
    cols: &[
        Col::new("ID", "id", Text),
        Col::new("NAME", "name", Text),
        Col::new("STATE", "state", State),
        Col::new("GROUP", "group", Text),
        Col::new("QUEUES", "queues", Names),
        Col::wide("LABELS", "labels", Names),
        Col::new("EXPIRES", "expires_at", Time),
        Col::new("JOIN TOKEN", "secret", Text),
    ],
};

pub(crate) const TOKEN: Shape = Shape {
    plural: "tokens",
    id: "id",
    cols: &[
        Col::new("ID", "id", Text),
        Col::new("NAME", "name", Text),
        Col::new("ROLE", "role", Text),
        Col::new("TENANT", "tenant", Text),
        Col::minor("SYSTEM", "system", Text),
        Col::new("CREATED", "created_at", Time),
        Col::new("EXPIRES", "expires_at", Time),
    ],
};

pub(crate) const TENANT: Shape = Shape {
    plural: "tenants",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("WEIGHT", "settings.weight", Count),
        Col::new("CONCURRENCY", "settings.concurrency", Count),
        Col::new("RATE", "settings.rate", Text),
        Col::new("MAX QUEUED", "settings.max_queued", Count),
        Col::wide("VERSION", "version", Count),
    ],
};

pub(crate) const PROFILE: Shape = Shape {
    plural: "profiles",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("CURRENT", "current", Text),
        Col::new("URL", "url", Text),
        Col::new("TENANT", "tenant", Text),
        Col::new("TOKEN", "token", Text),
    ],
};

pub(crate) const WHO: Shape = Shape {
    plural: "principals",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Text),
        Col::new("ROLE", "role", Text),
        Col::new("TENANT", "tenant", Text),
        Col::new("SYSTEM", "system", Text),
        Col::new("TOKEN", "token", Text),
        Col::new("URL", "url", Text),
    ],
};

pub(crate) const STATUS: Shape = Shape {
    plural: "servers",
    id: "state",
    cols: &[
        Col::new("STATE", "state", State),
        Col::new("VERSION", "version", Text),
        Col::new("STARTED", "started_at", Time),
        Col::new("RUNNING", "running", Count),
        Col::new("WORKERS", "workers", Count),
        Col::new("DATABASE", "store.database_bytes", Bytes),
    ],
};

pub(crate) const CHECK: Shape = Shape {
    plural: "checks",
    id: "check",
    cols: &[
        Col::new("CHECK", "check", Text),
        Col::new("RESULT", "result", State),
        Col::new("FOUND", "found", Text),
        Col::new("ADVICE", "advice", Text),
    ],
};
