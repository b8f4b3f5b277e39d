//! REST: thin adapters over `service`. One table holds every route with its access rule, its documentation and its
//! handler; the router, the OpenAPI document and the test of roles against routes are all made from it.

mod blobs;
mod enrolments;
mod items;
mod logs;
mod once;
mod operations;
mod packages;
mod params;
mod query;
mod queues;
mod reply;
mod route;
mod routing;
mod runs;
mod stream;
mod system;
mod tasks;
mod tenancy;
mod workers;
mod workflows;

use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use tidewheel_proto::code::Code;
use tower_http::compression::CompressionLayer;

pub(crate) use once::InFlight;
pub(crate) use params::{Path, decode};
pub(crate) use route::{Answer, Body, Route};
pub(crate) use system::Page;

use crate::problem::Failure;
use crate::state::Api;

/// Where the versioned surface stands, and its permanent alias.
pub(crate) const PREFIXES: [&str; 2] = ["/api/v1", "/api"];

/// Every route below the prefixes.
pub(crate) fn table() -> Vec<Route> {
    let mut routes = tasks::routes();
    routes.extend(queues::routes());
    routes.extend(items::routes());
    routes.extend(routing::routes());
    routes.extend(workers::routes());
    routes.extend(enrolments::routes());
    routes.extend(packages::routes());
    routes.extend(workflows::routes());
    routes.extend(runs::routes());
    routes.extend(blobs::routes());
    routes.extend(logs::routes());
    routes.extend(operations::routes());
    routes.extend(tenancy::routes());
    routes.extend(stream::routes());
    routes.extend(system::routes());
    routes
}

/// Paths of calls that make something and end in a placeholder, such as the type of a signal. What stands there is a name as a
/// whole: `order:paid` is no action `paid` of `order`.
pub(crate) fn names_at_the_end() -> Vec<String> {
    let ends = |route: &Route| route.method == Method::POST && route.path.ends_with('}');
    let paths: Vec<&str> = table().iter().filter(|route| ends(route)).map(|route| route.path).collect();
    PREFIXES.iter().flat_map(|prefix| paths.iter().map(move |path| format!("{prefix}{path}"))).collect()
}

/// Everything over HTTP that is not gRPC.
pub(crate) fn build(api: &Api) -> Router {
    let compression = CompressionLayer::new().gzip(true).zstd(true).br(true);
    let mut router: Router<Api> = Router::new();
    for prefix in PREFIXES {
        for route in table() {
            let path = format!("{prefix}{}", route.inner_path());
            let observe = api.metrics.route(route.method.as_str(), route.path);
            let checked = query::QueryLayer::new(api, &route);
            let mut handler = route.handler;
            // Submits and starts have keys of their own, per task or run; an enrolment is repeated with the agent's own secret, which must
            // not lie in a kept answer's key. A take is not kept: each idle poll would be a record that pushes out another
            // answer, and the tokens of leases would lie in it. Items whose answer is lost come back after their lease.
            let own_keys = matches!(
                route.id,
                "submitTask"
                    | "submitBatch"
                    | "startRun"
                    | "startWorkflowRun"
                    | "addItem"
                    | "takeItems"
                    | "redeemEnrolment"
                    | "rotateEnrolment"
            );
            if route.method == Method::POST && !own_keys {
                let state = (api.clone(), matches!(route.id, "createToken" | "createEnrolment"));
                handler = handler.route_layer(from_fn_with_state(state, once::layer));
            }
            // Compression costs a wrapped body and a header scan, so the one hot route and raw bytes go without.
            if route.compressed {
                handler = handler.route_layer(compression.clone());
            }
            // One layer of the two: each on its own would cost a boxed future more.
            router = router.route(&path, handler.route_layer((observe, checked)));
        }
    }
    router = system::open_routes(router);
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(api.clone())
}

async fn not_found(request: Request) -> Failure {
    let path = request.uri().path();
    if let Some((_, verb)) = path.rsplit_once("/~") {
        let verb: String = verb.chars().take(40).collect();
        return Failure::new(
            Code::NotFound,
            format!("There is no action ':{verb}' here. /openapi.json lists what there is."),
        );
    }
    Failure::new(Code::NotFound, "There is nothing at this path. /openapi.json lists what there is.")
}

async fn method_not_allowed(request: Request) -> Failure {
    let detail = format!("{} is not a method of this path; the Allow header names those that are.", request.method());
    Failure::new(Code::MethodNotAllowed, detail)
}
