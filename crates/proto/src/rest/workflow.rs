use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A deployed version of a workflow.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Workflow {
    /// `namespace/name:version`
    pub id: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Semantic version; immutable once deployed.
    pub version: String,
    /// Title for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Summary in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub tags: BTreeMap<String, Value>,
    /// `sha256:...` of the resolved document: the same content has the same hash.
    pub hash: String,
    /// It is what `latest` stands for.
    #[serde(default)]
    pub latest: bool,
    /// Warnings and hints of its deploy.
    #[serde(default)]
    pub warnings: u32,
    /// When it was deployed (RFC 3339).
    pub created_at: String,
    /// What becomes of its runs when another version is deployed: `pin` (they stay), `compatible` (they move if they fit), `latest`.
    #[serde(default)]
    pub version_policy: String,
    /// Runs that follow it and have not ended; where one version is shown. A version with such runs cannot be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_runs: Option<u64>,
    /// The operation that moves runs of earlier versions to it; in the answer to a deploy only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<String>,
    /// What was found in the document; in the answer to a deploy only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

/// Something found in a workflow document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diagnostic {
    /// Stable code, such as `unknown-field`.
    pub code: String,
    /// `error`, `warning` or `hint`
    pub severity: String,
    /// One sentence: what is wrong.
    pub message: String,
    /// JSON pointer to the value.
    pub pointer: String,
    /// Line, from 1; 0 = it has no place in the text.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Line where it ends.
    pub end_line: u32,
    /// Column after its last character.
    pub end_column: u32,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Text that put in place of what stands there mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Answer of `POST /workflows:lint`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LintReport {
    /// `portable`, `portable-with-hints` or `product-only`; absent where the document is not well formed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Whether it could be deployed here.
    pub deployable: bool,
    /// Everything found, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The longest chain of statements that wait for each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub critical_path: Option<Value>,
}

/// Schemas of a workflow; absent where it has none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkflowSchema {
    /// JSON Schema of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub input: Option<Value>,
    /// JSON Schema of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value)]
    pub output: Option<Value>,
}

/// A workflow as nodes and edges.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkflowGraph {
    /// `namespace/name:version`
    pub workflow: String,
    /// Start, end and the statements.
    #[schema(value_type = Vec<Object>)]
    pub nodes: Vec<Value>,
    /// Ways between them.
    #[schema(value_type = Vec<Object>)]
    pub edges: Vec<Value>,
}
