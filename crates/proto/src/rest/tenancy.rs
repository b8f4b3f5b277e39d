use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /tenants`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutTenant {
    /// Share of workers against other tenants; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Attempts that run at once; absent or 0 = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Grants per time, such as `100/s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Tasks that may wait; absent or 0 = no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued: Option<u64>,
}

/// A tenant as it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Unique name.
    pub name: String,
    /// Settings.
    pub settings: PutTenant,
    /// Rises with each change.
    pub version: u64,
}

/// `POST /tokens`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is for.
    pub name: String,
    /// `admin`, `operator`, `viewer` or `worker`
    pub role: String,
    /// Life, such as `30d`; absent = no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<super::DurationText>,
    /// System scope: may act in any tenant (only a system admin may give it).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

/// A token as it is shown; the secret only once, when it is created.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// `tok_...`
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// The tenant it speaks for.
    pub tenant: String,
    /// System scope.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The secret, in the answer to its creation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Who I am.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// Token id.
    pub token: String,
    /// Name of the token.
    pub name: String,
    /// Role.
    pub role: String,
    /// Tenant.
    pub tenant: String,
    /// System scope.
    pub system: bool,
}

/// `POST /system/config:reload`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Settings that changed and hold now.
    pub changed: Vec<String>,
    /// Settings that changed and need a restart.
    pub needs_restart: Vec<String>,
}

/// `GET /system/status`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct SystemStatus {
    /// Version of the server.
    pub version: String,
    /// `ready`, `starting` or `draining`
    pub state: String,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// RFC 3339.
    pub started_at: String,
    /// Newest commit.
    pub committed_index: u64,
    /// Epoch of the partition.
    pub epoch: u32,
    /// Running attempts.
    pub running: u64,
    /// Task records in memory.
    pub tasks_in_memory: u64,
    /// Pending timers in memory.
    pub timers: u64,
    /// Open worker sessions.
    pub workers: u64,
    /// Live streams that are open.
    pub streams: u64,
    /// Figures of the store since the start.
    pub store: StoreStatus,
}

/// Figures of the store.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Transactions.
    pub commits: u64,
    /// Batches in them.
    pub batches: u64,
    /// Mutations in them.
    pub mutations: u64,
    /// Syncs of the log file.
    pub fsyncs: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Size of the database.
    pub database_bytes: u64,
}

/// What a backup is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBackup {
    /// Name of its folder: 1 to 100 letters, digits, `-`, `_` and `.`, no dot first. The time if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A backup that is complete and on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// Its name.
    pub name: String,
    /// Its folder on the server's machine.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}
