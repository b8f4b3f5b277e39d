//! What a route takes in its query, held against the route table before the handler runs: a parameter that the table does not name, or
//! a field that no answer of the route has, is a mistake of the caller, and is never passed over in silence. It stands here once,
//! so that no handler can forget it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::future::Either;
use tower::{Layer, Service};
use utoipa::openapi::schema::ArrayItems;
use utoipa::openapi::{RefOr, Schema};

use super::params::{FIELDS, Params};
use super::route::{Described, Named, Param, Route};
use crate::auth::guard::{self, Access};
use crate::auth::promise::{Holder, holds_token};
use crate::problem::Failure;
use crate::state::Api;

/// The rule of one route. A request without a query passes it at the cost of one look.
struct Rule {
    access: Access,
    query: &'static [Param],
    /// The answers whose fields `fields` may name.
    answers: Vec<Described>,
    /// Those fields; made for the first call that names some.
    fields: OnceLock<Vec<String>>,
}

impl Rule {
    fn check(&self, request: &Request) -> Result<(), Failure> {
        if request.uri().query().is_none() {
            return Ok(());
        }
        let params = Params::parse(request.uri().query())?;
        params.only(self.query)?;
        if params.get(FIELDS.0).is_none() {
            return Ok(());
        }
        params.fields(self.fields.get_or_init(|| fields(&self.answers)))
    }
}

/// The answers of a route whose fields can be chosen; none where it takes no `fields`.
fn choosable(route: &Route) -> Vec<Described> {
    match route.query.contains(&FIELDS) {
        true => route.answers.iter().filter_map(|answer| answer.schema).collect(),
        false => Vec::new(),
    }
}

/// Names of the fields that the answers have; of a list, those of its items.
fn fields(answers: &[Described]) -> Vec<String> {
    let mut out = BTreeSet::new();
    for described in answers {
        let mut others = Vec::new();
        (described.others)(&mut others);
        gather(&(described.schema)(), &others, &mut out);
    }
    out.into_iter().collect()
}

fn gather(schema: &RefOr<Schema>, others: &[Named], out: &mut BTreeSet<String>) {
    match schema {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
            if let Some((_, schema)) = others.iter().find(|(known, _)| known == name) {
                gather(schema, others, out);
            }
        }
        RefOr::T(Schema::Object(object)) => match object.properties.get("items") {
            // A list with more beside its items: as for every list, the fields are those of an item.
            Some(RefOr::T(Schema::Array(array))) => {
                if let ArrayItems::RefOrSchema(item) = &array.items {
                    gather(item, others, out);
                }
            }
            _ => out.extend(object.properties.keys().cloned()),
        },
        RefOr::T(Schema::AllOf(all)) => all.items.iter().for_each(|part| gather(part, others, out)),
        RefOr::T(Schema::OneOf(one)) => one.items.iter().for_each(|part| gather(part, others, out)),
        RefOr::T(_) => {}
    }
}

/// Puts the rule of a route before its handler.
#[derive(Clone)]
pub(super) struct QueryLayer {
    api: Api,
    rule: Arc<Rule>,
}

impl QueryLayer {
    pub(super) fn new(api: &Api, route: &Route) -> QueryLayer {
        let rule =
            Rule { access: route.access, query: route.query, answers: choosable(route), fields: OnceLock::new() };
        QueryLayer { api: api.clone(), rule: Arc::new(rule) }
    }
}

impl<S> Layer<S> for QueryLayer {
    type Service = Checked<S>;
    fn layer(&self, inner: S) -> Checked<S> {
        Checked { inner, layer: self.clone() }
    }
}

/// See [`QueryLayer`].
#[derive(Clone)]
pub(super) struct Checked<S> {
    inner: S,
    layer: QueryLayer,
}

impl<S> Service<Request> for Checked<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let QueryLayer { api, rule } = &self.layer;
        match rule.check(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(failure) => {
                // Who may not make this call is told that, and nothing else.
                let path = request.uri().path();
                let barred = match rule.access.holder && holds_token(path) {
                    true => Holder::barred(api, path),
                    false => guard::admit(api, request.headers(), request.extensions(), rule.access).err(),
                };
                Either::Right(ready(Ok(barred.unwrap_or(failure).into_response())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::table;

    #[test]
    fn every_route_that_takes_fields_knows_the_fields_of_its_answers() {
        let mut taking = 0;
        for route in table() {
            let known = fields(&choosable(&route));
            assert_eq!(route.query.contains(&FIELDS), !known.is_empty(), "{} {}", route.method, route.path);
            taking += usize::from(!known.is_empty());
        }
        assert!(taking > 20, "{taking}");
        let of = |id: &str| fields(&choosable(table().iter().find(|route| route.id == id).unwrap()));
        assert!(of("getTask").contains(&"state".to_owned()) && of("listTasks").contains(&"state".to_owned()));
        // Of the lines, not of the page around them.
        assert!(of("searchLogs").contains(&"text".to_owned()) && !of("searchLogs").contains(&"items".to_owned()));
        assert!(of("countTasks").is_empty());
    }
}
