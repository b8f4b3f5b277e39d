//! The OpenAPI document, the list of operations and the page of error codes: all made from the route table and the
//! closed enums, so that none can lag behind. Tests keep the checked-in copies equal.

use std::fmt::Write as _;

use tidewheel_proto::code::Code;
use tidewheel_proto::rest::Problem;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{
    ArrayBuilder, ComponentsBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required,
    ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

use crate::rest::{Answer, Body, PREFIXES, Route, table};

/// The document as JSON text.
pub fn openapi_json(version: &str) -> String {
    // The document is made of strings and maps: it always serialises.
    document(version).to_pretty_json().unwrap_or_default()
}

fn document(version: &str) -> OpenApi {
    let mut components = ComponentsBuilder::new()
        .schema(Problem::name(), Problem::schema())
        .security_scheme("bearer", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    let mut paths = PathsBuilder::new();
    let mut others = Vec::new();
    Problem::schemas(&mut others);
    for route in table() {
        for described in route.schemas() {
            (described.others)(&mut others);
            others.push(((described.name)().into_owned(), (described.schema)()));
            // Of each answer on its own: of all together, most are the same ones again, and megabytes.
            for (name, schema) in others.drain(..) {
                components = components.schema(name, schema);
            }
        }
        let path = format!("{}{}", PREFIXES[0], route.path);
        paths = paths.path(path, PathItem::new(method(&route), operation(&route)));
    }
    let mut license = LicenseBuilder::new();
    license = license.name("Apache-2.0");
    let info = InfoBuilder::new()
        .title("Tidewheel")
        .version(version)
        .description(Some(
            "Durable tasks. Every path also stands below /api without the version. Errors are \
             application/problem+json; their codes are listed in docs/reference/errors.md. An unknown query \
             parameter is refused (`invalid-query`); /health/live, /health/ready, /metrics, /openapi.json and /docs ignore \
             all of them, for probes, scrapers and browsers add their own.",
        ))
        .license(Some(license.build()))
        .build();
    OpenApiBuilder::new().info(info).paths(paths.build()).components(Some(components.build())).build()
}

fn method(route: &Route) -> HttpMethod {
    match route.method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(route: &Route) -> utoipa::openapi::path::Operation {
    let roles: Vec<String> = route.access.roles.iter().map(|r| r.as_str().to_owned()).collect();
    let scope = if route.access.system { " with system scope" } else { "" };
    let holder = if route.access.holder { "; with a token of it in the path, no API token" } else { "" };
    let mut out = OperationBuilder::new()
        .operation_id(Some(route.id))
        .tag(tag(route.path))
        .summary(Some(route.summary))
        .description(Some(format!("Needs the role {}{scope}{holder}.", roles.join(" or "))))
        .security(SecurityRequirement::new("bearer", roles));
    if route.access.holder {
        out = out.security(SecurityRequirement::default());
    }
    for name in placeholders(route.path) {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        out = out.parameter(parameter.schema(Some(string())).build());
    }
    for (name, meaning) in route.query {
        let parameter = ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query).required(Required::False);
        out = out.parameter(parameter.description(Some(*meaning)).schema(Some(string())).build());
    }
    if route.method == "POST" && route.id != "takeItems" {
        let meaning =
            "The same key and body get the same answer for 24 h and change nothing twice; another body is refused.";
        let parameter = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
        let parameter = parameter.required(Required::False).description(Some(meaning)).schema(Some(string()));
        out = out.parameter(parameter.build());
    }
    if let Some(body) = &route.body {
        out = out.request_body(Some(request_body(body)));
    }
    for answer in &route.answers {
        out = out.response(answer.status.to_string(), response(answer));
    }
    let problem = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name(Problem::name())))).build();
    let problem = ResponseBuilder::new().description("A problem.").content("application/problem+json", problem);
    out.response("default", problem.build()).build()
}

fn request_body(body: &Body) -> utoipa::openapi::request_body::RequestBody {
    let schema = body.schema.as_ref().map(|s| RefOr::Ref(Ref::from_schema_name((s.name)())));
    let content = ContentBuilder::new().schema(Some(schema.unwrap_or_else(bytes))).build();
    let required = if body.required { Required::True } else { Required::False };
    let mut out = RequestBodyBuilder::new().content(body.content_type, content).required(Some(required));
    for kind in body.or_bytes {
        out = out.content(*kind, ContentBuilder::new().schema(Some(binary())).build());
    }
    if let Some(form) = &body.or_form {
        let (name, json) = (form.json.0, Ref::from_schema_name((form.json.1.name)()));
        let both = ObjectBuilder::new().property(name, json).property(form.bytes, binary()).required(form.bytes);
        let schema = RefOr::T(Schema::Object(both.build()));
        out = out.content("multipart/form-data", ContentBuilder::new().schema(Some(schema)).build());
    }
    out.build()
}

fn response(answer: &Answer) -> utoipa::openapi::Response {
    let out = ResponseBuilder::new().description(answer.text);
    if answer.content_type.is_empty() {
        return out.build();
    }
    let schema = match &answer.schema {
        None => None,
        Some(described) => {
            let one = RefOr::Ref(Ref::from_schema_name((described.name)()));
            Some(if described.paged || described.listed { items(one, described.paged) } else { one })
        }
    };
    out.content(answer.content_type, ContentBuilder::new().schema(schema).build()).build()
}

/// `{items}` of a complete list, `{items, next_cursor, as_of}` of a page.
fn items(one: RefOr<Schema>, paged: bool) -> RefOr<Schema> {
    let array = ArrayBuilder::new().items(one);
    let mut object = ObjectBuilder::new().property("items", array).required("items");
    if paged {
        let number = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer));
        object = object
            .property("next_cursor", string())
            .property("as_of", number)
            .property("searched_back_to", string())
            .required("as_of");
    }
    RefOr::T(Schema::Object(object.build()))
}

fn string() -> RefOr<Schema> {
    RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).build()))
}

/// Bytes that are no text.
fn binary() -> RefOr<Schema> {
    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
    RefOr::T(Schema::Object(
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).format(Some(format)).build(),
    ))
}

fn bytes() -> RefOr<Schema> {
    string()
}

fn placeholders(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|part| part.split('}').next())
}

/// The first segment of the path.
fn tag(path: &str) -> &str {
    path.trim_start_matches('/').split(['/', ':']).next().unwrap_or_default()
}

/// The list of operations as a page.
pub(crate) fn listing_html() -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tidewheel API</title>\
         <h1>Tidewheel API</h1><p><a href=\"/openapi.json\">OpenAPI document</a> \
         <a href=\"/docs/reference/errors\">Error codes</a></p><table><tr><th>Method<th>Path<th>What<th>Roles",
    );
    for route in table() {
        let roles: Vec<_> = route.access.roles.iter().map(|r| r.as_str()).collect();
        let (method, path, summary) = (route.method.as_str(), route.path, route.summary);
        // All texts of the table are ours and hold no markup; writing to a String does not fail.
        let _ =
            write!(out, "<tr><td>{method}<td><code>{}{path}</code><td>{summary}<td>{}", PREFIXES[0], roles.join(", "));
    }
    out.push_str("</table></html>");
    out
}

/// The page of error codes.
pub(crate) fn errors_markdown() -> String {
    let mut out = String::from(
        "# Error codes\n\nEvery error of REST is an `application/problem+json` object (RFC 9457) with one of these \
         codes in `code`; gRPC carries it in the metadata key `tidewheel-code`. Generated from the source; do not edit.\n\n\
         | code | status | title | may be repeated unchanged |\n|---|---|---|---|\n",
    );
    for code in Code::ALL {
        let repeat = if code.is_retryable() { "yes" } else { "no" };
        let name = code.as_str();
        let _ = writeln!(out, "| <a id=\"{name}\"></a>`{name}` | {} | {} | {repeat} |", code.status(), code.title());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares a generated text with its checked-in copy; `UPDATE_EXPECT=1` writes the copy.
    fn check(file: &str, generated: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(file);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, generated).unwrap();
        }
        let held = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(held == generated, "docs/reference/{file} is stale: run the test again with UPDATE_EXPECT=1");
    }

    #[test]
    fn the_checked_in_document_is_current() {
        check("openapi.json", &(openapi_json(env!("CARGO_PKG_VERSION")) + "\n"));
    }

    #[test]
    fn the_page_of_error_codes_is_current() {
        check("errors.md", &errors_markdown());
    }

    #[test]
    fn operation_ids_are_unique_and_every_reference_resolves() {
        let ids: Vec<_> = table().iter().map(|r| r.id).collect();
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(ids.len(), unique.len());
        let text = openapi_json("0");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(value["components"]["schemas"].get(name).is_some(), "{name} is not there");
        }
    }
}
