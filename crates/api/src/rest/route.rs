//! A row of the route table.

use std::borrow::Cow;

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::auth::guard::{Access, Guarded};
use crate::state::Api;

/// A method on a path.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// As documented: `/tasks/{id}:cancel`.
    pub(crate) path: &'static str,
    /// `operationId` of the OpenAPI document.
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) access: Access,
    pub(crate) query: &'static [Param],
    pub(crate) body: Option<Body>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) compressed: bool,
    pub(crate) handler: MethodRouter<Api>,
}

/// A query parameter: name and meaning.
pub(crate) type Param = (&'static str, &'static str);

/// A request body.
pub(crate) struct Body {
    pub(crate) content_type: &'static str,
    /// What else it may be: kinds of bytes, and a form.
    pub(crate) or_bytes: &'static [&'static str],
    pub(crate) or_form: Option<Form>,
    pub(crate) schema: Option<Described>,
    pub(crate) required: bool,
}

/// A multipart body of two fields: one is JSON of this schema and may be absent, the other holds bytes.
pub(crate) struct Form {
    pub(crate) json: (&'static str, Described),
    pub(crate) bytes: &'static str,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) schema: Option<Described>,
}

/// A schema by its name.
pub(crate) type Named = (String, RefOr<Schema>);

/// A named schema and the ones it refers to: how to make them, because those of all routes together are megabytes that only the
/// OpenAPI document and a call with `fields` ask for.
#[derive(Clone, Copy)]
pub(crate) struct Described {
    pub(crate) name: fn() -> Cow<'static, str>,
    pub(crate) schema: fn() -> RefOr<Schema>,
    /// Adds what the schema refers to.
    pub(crate) others: fn(&mut Vec<Named>),
    /// It stands inside a page.
    pub(crate) paged: bool,
    /// It stands inside an array.
    pub(crate) listed: bool,
}

fn describe<T: ToSchema + PartialSchema>() -> Described {
    Described { name: T::name, schema: T::schema, others: T::schemas, paged: false, listed: false }
}

impl Route {
    /// A route; its handler has to begin with a guard, which becomes its access rule.
    pub(crate) fn new<H, T>(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Route
    where
        H: Handler<T, Api>,
        T: Guarded + 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        Route {
            method,
            path,
            id,
            summary,
            access: T::ACCESS,
            query: &[],
            body: None,
            answers: Vec::new(),
            compressed: true,
            handler: on(filter, handler),
        }
    }

    pub(crate) fn query(mut self, query: &'static [Param]) -> Route {
        self.query = query;
        self
    }

    pub(crate) fn takes<T: ToSchema + PartialSchema>(mut self) -> Route {
        self.body = Some(Body::new("application/json", Some(describe::<T>()), true));
        self
    }

    /// Besides what it takes, the bytes alone, or a form with them.
    pub(crate) fn or_bytes<T: ToSchema + PartialSchema>(
        mut self,
        kinds: &'static [&'static str],
        (json, bytes): (&'static str, &'static str),
    ) -> Route {
        if let Some(body) = &mut self.body {
            body.or_bytes = kinds;
            body.or_form = Some(Form { json: (json, describe::<T>()), bytes });
        }
        self
    }

    pub(crate) fn may_take<T: ToSchema + PartialSchema>(mut self) -> Route {
        self.body = Some(Body::new("application/json", Some(describe::<T>()), false));
        self
    }

    pub(crate) fn takes_bytes(mut self, content_type: &'static str) -> Route {
        self.body = Some(Body::new(content_type, None, true));
        self
    }

    pub(crate) fn answers<T: ToSchema + PartialSchema>(mut self, status: u16, text: &'static str) -> Route {
        self.answers.push(Answer { status, text, content_type: "application/json", schema: Some(describe::<T>()) });
        self
    }

    /// A page of a keyset list.
    pub(crate) fn answers_page<T: ToSchema + PartialSchema>(mut self, text: &'static str) -> Route {
        let schema = Described { paged: true, ..describe::<T>() };
        self.answers.push(Answer { status: 200, text, content_type: "application/json", schema: Some(schema) });
        self
    }

    /// `{"items": [...]}` of a list that is complete.
    pub(crate) fn answers_list<T: ToSchema + PartialSchema>(mut self, text: &'static str) -> Route {
        let schema = Described { listed: true, ..describe::<T>() };
        self.answers.push(Answer { status: 200, text, content_type: "application/json", schema: Some(schema) });
        self
    }

    pub(crate) fn answers_plain(mut self, status: u16, text: &'static str, content_type: &'static str) -> Route {
        self.answers.push(Answer { status, text, content_type, schema: None });
        self
    }

    /// Without compression.
    pub(crate) fn raw(mut self) -> Route {
        self.compressed = false;
        self
    }

    /// The path that the router sees: an action `:verb` is a segment `/~verb` there (see `middleware`).
    pub(crate) fn inner_path(&self) -> String {
        let last = self.path.rfind('/').unwrap_or(0);
        match self.path[last..].rfind(':') {
            Some(i) => format!("{}/~{}", &self.path[..last + i], &self.path[last + i + 1..]),
            None => self.path.to_owned(),
        }
    }
}

impl Body {
    fn new(content_type: &'static str, schema: Option<Described>, required: bool) -> Body {
        Body { content_type, or_bytes: &[], or_form: None, schema, required }
    }
}

impl Route {
    /// Every schema that the route names.
    pub(crate) fn schemas(&self) -> impl Iterator<Item = &Described> {
        let body = self.body.as_ref().and_then(|b| b.schema.as_ref());
        let form = self.body.as_ref().and_then(|b| b.or_form.as_ref()).map(|form| &form.json.1);
        body.into_iter().chain(form).chain(self.answers.iter().filter_map(|a| a.schema.as_ref()))
    }
}
