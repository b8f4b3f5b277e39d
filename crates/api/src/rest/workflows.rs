//! `/workflows`.

use axum::extract::{FromRequest, Request, State};
use axum::http::{Method, header};
use bytes::Bytes;
use serde_json::Value;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, Params, Path, SHORT_LIMIT};
use super::reply::{Reply, bytes_of, json, no_content, page, read_body, versioned, with_header};
use super::route::{Param, Route};
use crate::auth::guard::{Operator, Viewer};
use crate::problem::Failure;
use crate::service::short_list::{self, Order, Part};
use crate::service::workflow::{self, Named};
use crate::service::workflow_diff;
use crate::state::Api;

const ONE: &[Param] = &[FIELDS];
const LIST: &[Param] = &[
    ("namespace", "Only workflows of this namespace."),
    ("name", "Only workflows of this name."),
    CURSOR,
    SHORT_LIMIT,
    FIELDS,
];
const VERSIONS: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];
const DIFF: &[Param] = &[("to", "The other version; the latest if absent.")];
const GRAPH: &[Param] = &[("format", "`json` (the default), `mermaid` or `dot`.")];
/// Forms of a document, as they are documented.
const YAML: &str = "application/yaml";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/workflows", "listWorkflows", "Lists versions of workflows, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Workflow>("A page, newest first."),
        Route::new(
            Method::POST,
            "/workflows",
            "deployWorkflow",
            "Deploys a workflow under the namespace, name and version of its document.",
            post,
        )
        .takes_bytes(YAML)
        .answers::<rest::Workflow>(201, "Deployed.")
        .answers::<rest::Workflow>(200, "The same content was there already."),
        Route::new(
            Method::POST,
            "/workflows:lint",
            "lintWorkflow",
            "Says everything about a document that a deploy and the linter find; deploys nothing.",
            lint,
        )
        .takes_bytes(YAML)
        .answers::<rest::LintReport>(200, "What was found."),
        Route::new(
            Method::GET,
            "/workflows/{namespace}/{name}",
            "listWorkflowVersions",
            "Lists the versions of a workflow.",
            versions,
        )
        .query(VERSIONS)
        .answers_page::<rest::Workflow>("A page, newest first."),
        Route::new(
            Method::PUT,
            "/workflows/{namespace}/{name}/{version}",
            "putWorkflow",
            "Deploys a version, in YAML or JSON; versions are immutable.",
            put,
        )
        .takes_bytes(YAML)
        .answers::<rest::Workflow>(201, "Deployed.")
        .answers::<rest::Workflow>(200, "The same content was there already."),
        Route::new(
            Method::GET,
            "/workflows/{namespace}/{name}/{version}",
            "getWorkflow",
            "Shows a version; `latest` is the highest that is no candidate.",
            get,
        )
        .query(ONE)
        .answers::<rest::Workflow>(200, "The version."),
        Route::new(
            Method::DELETE,
            "/workflows/{namespace}/{name}/{version}",
            "deleteWorkflow",
            "Deletes a version that no open run follows.",
            delete,
        )
        .answers_plain(204, "It is gone.", ""),
        Route::new(
            Method::GET,
            "/workflows/{namespace}/{name}/{version}/document",
            "getWorkflowDocument",
            "Gives the document as JSON.",
            document,
        )
        .answers_plain(200, "The document.", "application/json"),
        Route::new(
            Method::GET,
            "/workflows/{namespace}/{name}/{version}/schema",
            "getWorkflowSchema",
            "Shows the JSON Schemas of input and output.",
            schema,
        )
        .answers::<rest::WorkflowSchema>(200, "The schemas that there are."),
        Route::new(
            Method::GET,
            "/workflows/{namespace}/{name}/{version}/diff",
            "diffWorkflows",
            "Shows what another version of a workflow has differently.",
            diff,
        )
        .query(DIFF)
        .answers::<rest::WorkflowDiff>(200, "The differences."),
        Route::new(
            Method::GET,
            "/workflows/{namespace}/{name}/{version}/graph",
            "getWorkflowGraph",
            "Shows the statements as nodes and edges, or as text for Mermaid or Graphviz.",
            graph,
        )
        .query(GRAPH)
        .answers::<rest::WorkflowGraph>(200, "The graph."),
    ]
}

type Version = (String, String, String);

fn named((namespace, name, version): &Version) -> Named<'_> {
    Named { namespace, name, version }
}

/// A document in YAML or JSON, up to the limit of single calls.
pub(super) struct DocumentBody(Bytes);

impl FromRequest<Api> for DocumentBody {
    type Rejection = Failure;
    async fn from_request(request: Request, api: &Api) -> Result<Self, Failure> {
        let given = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let known = matches!(
            essence.as_str(),
            "" | "application/yaml"
                | "application/x-yaml"
                | "text/yaml"
                | "text/x-yaml"
                | "text/plain"
                | "application/json"
                | "application/octet-stream"
        ) || essence.ends_with("+yaml")
            || essence.ends_with("+json");
        if !known {
            let shown: String = essence.chars().take(60).collect();
            let detail = format!(
                "This path takes application/yaml or application/json, not {shown}. With curl, add -H 'Content-Type: \
                 application/yaml'."
            );
            return Err(Failure::new(Code::UnsupportedMediaType, detail));
        }
        let bytes = read_body(request, api.config.body_bound()).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            let detail =
                "The body is empty; send a workflow document in YAML or JSON. With curl: --data-binary @flow.yaml";
            return Err(Failure::new(Code::InvalidWorkflow, detail));
        }
        Ok(DocumentBody(bytes))
    }
}

async fn list(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let (namespace, name) = (params.get("namespace"), params.get("name"));
    let items = workflow::list(&api, &caller, namespace, name);
    let filter = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
    pages(&api, &caller, &params, items, filter, "/api/v1/workflows")
}

async fn versions(
    caller: Viewer,
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    params: Params,
) -> Reply {
    let items = workflow::list(&api, &caller, Some(&namespace), Some(&name));
    if items.is_empty() {
        let named = Named { namespace: &namespace, name: &name, version: workflow::LATEST };
        return Err(workflow::unknown(&api, caller.tenant, named));
    }
    pages(
        &api,
        &caller,
        &params,
        items,
        format!("{namespace}/{name}"),
        &format!("/api/v1/workflows/{namespace}/{name}"),
    )
}

/// A page, newest first. `filter`: what else the cursors of the list are bound to.
fn pages(
    api: &Api,
    caller: &crate::auth::Principal,
    params: &Params,
    items: Vec<rest::Workflow>,
    filter: String,
    path: &str,
) -> Reply {
    let part = Part { filter, ..params.short()? };
    let place = |w: &rest::Workflow| format!("{}\0{}/{}/{}", w.created_at, w.namespace, w.name, w.version);
    let found = short_list::page(api, caller, "workflows", (items, Order::Descending), &part, place)?;
    page(path, params, &found)
}

async fn post(caller: Operator, State(api): State<Api>, DocumentBody(text): DocumentBody) -> Reply {
    deployed(workflow::put(&api, &caller, text, None).await?)
}

async fn put(
    caller: Operator,
    State(api): State<Api>,
    Path(version): Path<Version>,
    DocumentBody(text): DocumentBody,
) -> Reply {
    deployed(workflow::put(&api, &caller, text, Some(named(&version))).await?)
}

fn deployed((workflow, is_new): (rest::Workflow, bool)) -> Reply {
    let response = json(if is_new { 201 } else { 200 }, &workflow)?;
    let location = format!("/api/v1/workflows/{}/{}/{}", workflow.namespace, workflow.name, workflow.version);
    Ok(with_header(response, header::LOCATION, &location))
}

async fn lint(caller: Viewer, State(api): State<Api>, DocumentBody(text): DocumentBody) -> Reply {
    json(200, &workflow::lint(&api, &caller, text).await?)
}

async fn get(caller: Viewer, State(api): State<Api>, Path(version): Path<Version>, params: Params) -> Reply {
    let found = workflow::get(&api, &caller, named(&version)).await?;
    // The content never changes; whether it is the latest does.
    let etag = format!("\"{}-{}\"", found.hash, u8::from(found.latest));
    versioned(&params, &etag, &found)
}

async fn delete(caller: Operator, State(api): State<Api>, Path(version): Path<Version>) -> Reply {
    workflow::delete(&api, &caller, named(&version)).await?;
    Ok(no_content())
}

async fn document(caller: Viewer, State(api): State<Api>, Path(version): Path<Version>, params: Params) -> Reply {
    let (hash, document) = workflow::document(&api, &caller, named(&version))?;
    versioned(&params, &format!("\"{hash}\""), &document)
}

async fn schema(caller: Viewer, State(api): State<Api>, Path(version): Path<Version>) -> Reply {
    json(200, &workflow::schema(&api, &caller, named(&version))?)
}

async fn diff(caller: Viewer, State(api): State<Api>, Path(version): Path<Version>, params: Params) -> Reply {
    let to = params.get("to").unwrap_or(workflow::LATEST);
    json(200, &workflow_diff::diff(&api, &caller, named(&version), to)?)
}

async fn graph(caller: Viewer, State(api): State<Api>, Path(version): Path<Version>, params: Params) -> Reply {
    let graph = workflow::graph(&api, &caller, named(&version))?;
    let text = match params.get("format") {
        None | Some("json") => return json(200, &serde_json::to_value(&graph).unwrap_or(Value::Null)),
        Some("mermaid") => graph.mermaid(),
        Some("dot") => graph.dot(),
        Some(_) => return Err(Failure::query("format", "the format is json, mermaid or dot")),
    };
    Ok(bytes_of(200, "text/plain; charset=utf-8", text.into()))
}
