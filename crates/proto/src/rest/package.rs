use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A package version as it is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version; immutable once uploaded.
    pub version: String,
    /// `sha256:...` of the archive.
    pub hash: String,
    /// Bytes of the archive.
    pub size: u64,
    /// `wheel`, `sdist` or `folder`
    pub format: String,
    /// Tasks it brings.
    pub entries: Vec<PackageEntry>,
    /// The locked requirements (`name==version --hash=...` lines).
    #[serde(default)]
    pub lock: String,
    /// `active` or `yanked`
    pub state: String,
    /// RFC 3339.
    pub created_at: String,
    /// Members, unpacked size, findings of the check.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub analysis: serde_json::Value,
    /// `sha256:...` of the list of parts its archive is stored as, which versions share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<String>,
    /// Bytes of parts that the server did not have before; in the answer to an upload only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    /// What its decorators ask for and do not get, with the command that gives it; in the answer to an upload only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Operations that move runs of its workflows to it; in the answer to an upload only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moving: Vec<String>,
}

/// One task of a package, as the shim describes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PackageEntry {
    /// Task type.
    pub name: String,
    /// `module:function`
    #[serde(rename = "fn")]
    pub function: String,
    /// `task`, or `workflow` for a workflow written in Python.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Of a workflow: its namespace; `default` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Of a workflow: its version; that of the package if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of a workflow: `timeout_ms` of a run, `version_policy`.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(value_type = Object)]
    pub options: serde_json::Value,
    /// First paragraph of the docstring.
    #[serde(default)]
    pub doc: String,
    /// JSON Schema of the input.
    #[serde(default)]
    #[schema(value_type = Value)]
    pub schema_in: serde_json::Value,
    /// JSON Schema of the result.
    #[serde(default)]
    #[schema(value_type = Value)]
    pub schema_out: serde_json::Value,
    /// What the decorator says: queue, retry, timeout, priority, resources, requires, batch.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub defaults: serde_json::Value,
}

/// The manifest that comes with an upload (multipart field `manifest`).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackageManifest {
    /// `wheel`, `sdist` or `folder`
    pub format: String,
    /// Tasks.
    #[serde(default)]
    pub entries: Vec<PackageEntry>,
    /// Locked requirements.
    #[serde(default)]
    pub lock: String,
    /// Modules that hold the tasks; a worker imports them ahead of the first one.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Wanted Python, such as `>=3.9`.
    #[serde(default)]
    pub requires_python: String,
}

/// `PUT /packages/{name}/{version}` with a JSON body: the archive was stored before with `PUT /blobs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutPackage {
    /// `sha256:...` of the archive.
    pub hash: String,
    /// What the archive brings.
    pub manifest: PackageManifest,
    /// What the archive consists of, in order, each stored before with `PUT /blobs/{hash}`. Absent: the archive itself was
    /// stored so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Blob>,
}

/// `POST /blobs:missing`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskBlobs {
    /// `sha256:...` each, at most 10,000.
    pub hashes: Vec<String>,
}

/// Answer to it: what would have to be sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MissingBlobs {
    /// Those of the hashes that are not stored, in the order asked.
    pub missing: Vec<String>,
}

/// `POST /packages/{name}/{version}:rollout` and `:prefetch`
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// How long agents get, such as `2m`; at most an hour. Default 5 minutes, of which an environment to be built may take
    /// most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<super::DurationText>,
    /// Rollout only: the share of the agents, 0 to 100, that has to have the version before new tasks get it. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

/// Answer to `PUT /blobs`; a part of a package.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Blob {
    /// `sha256:...`
    pub hash: String,
    /// Bytes.
    pub size: u64,
}
