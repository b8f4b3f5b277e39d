//! Parts that several statements share.

use tidewheel_engine::run::plan::Backoff;

use super::Checker;
use super::format;
use crate::model::{
    Authentication, AuthenticationRef, Duration, Endpoint, Error, Input, Output, Resource, Retry, RetryRef, Schema,
    SchemaSource, Text, Timeout,
};
use crate::text::{At, Node};

impl Checker<'_> {
    /// An expression in `${ }`.
    pub(super) fn expression(&mut self, at: At) -> Option<Text> {
        let text = self.text(at)?;
        if format::is_expression(&text.text) {
            return Some(text);
        }
        let fix = format!("'${{ {} }}'", text.text);
        let found = self.error(at, "not-an-expression", "has to be an expression in `${ }`, on one line");
        found.fix = Some(fix);
        None
    }

    /// A URI, or a template of one.
    pub(super) fn uri(&mut self, at: At) -> Option<Text> {
        let text = self.text(at)?;
        if format::uri(&text.text, self.next()) {
            return Some(text);
        }
        let message = format!("`{}` is neither a URI nor a URI template", text.text);
        let hint = if self.next() {
            "white space and quotes have to be escaped; an expression stands in `${ }`"
        } else {
            "write it with its scheme, as in `https://example.com/orders/{id}`, or use an expression in `${ }`"
        };
        self.error(at, "not-a-uri", message).hint = Some(hint.to_string());
        None
    }

    /// A URI, a template of one, or an expression that gives one.
    pub(super) fn uri_or_expression(&mut self, at: At) -> Option<Text> {
        match self.tree.text(at) {
            Some(text) if format::is_expression(text) => self.text(at),
            _ => self.uri(at),
        }
    }

    /// A text of a form, or an expression.
    pub(super) fn formed(&mut self, at: At, form: fn(&str) -> bool, what: &str) -> Option<Text> {
        let text = self.text(at)?;
        if format::is_expression(&text.text) || form(&text.text) {
            return Some(text);
        }
        self.error(at, "wrong-value", format!("`{}` is not {what}", text.text));
        None
    }

    pub(super) fn pattern(&mut self, at: At, form: fn(&str) -> bool, what: &str) -> Option<Text> {
        let text = self.text(at)?;
        if form(&text.text) {
            return Some(text);
        }
        self.error(at, "wrong-value", format!("`{}` is not {what}", text.text));
        None
    }

    pub(super) fn endpoint(&mut self, at: At) -> Option<Endpoint> {
        if self.tree.text(at).is_some() {
            return Some(Endpoint { at, uri: self.uri_or_expression(at)?, authentication: None });
        }
        let mut fields = self.fields(at, "an endpoint")?;
        let uri = self.need(&mut fields, "uri", Self::uri_or_expression);
        let authentication = self.opt(&mut fields, "authentication", Self::authentication_ref);
        self.close(fields);
        Some(Endpoint { at, uri: uri?, authentication })
    }

    pub(super) fn resource(&mut self, at: At) -> Option<Resource> {
        let mut fields = self.fields(at, "an external resource")?;
        self.opt(&mut fields, "name", Self::text);
        let endpoint = self.need(&mut fields, "endpoint", Self::endpoint);
        self.close(fields);
        Some(Resource { at, endpoint: endpoint? })
    }

    pub(super) fn authentication_ref(&mut self, at: At) -> Option<AuthenticationRef> {
        let mut fields = self.fields(at, "an authentication")?;
        let chosen = self.choice(&mut fields, &["use", "basic", "bearer", "digest", "oauth2", "oidc"]);
        self.close(fields);
        match chosen? {
            "use" => {
                let name = self.tree.get(at, "use")?;
                self.filled(name).map(AuthenticationRef::Named)
            }
            scheme => self.policy(at, scheme).map(AuthenticationRef::Inline),
        }
    }

    pub(super) fn authentication(&mut self, at: At) -> Option<Authentication> {
        let mut fields = self.fields(at, "an authentication policy")?;
        let scheme = self.choice(&mut fields, &["basic", "bearer", "digest", "oauth2", "oidc"]);
        self.open(fields);
        self.policy(at, scheme?)
    }

    fn filled(&mut self, at: At) -> Option<Text> {
        let text = self.text(at)?;
        if text.text.is_empty() {
            self.error(at, "wrong-value", "may not be empty");
            return None;
        }
        Some(text)
    }

    fn policy(&mut self, at: At, scheme: &'static str) -> Option<Authentication> {
        let properties = self.tree.get(at, scheme)?;
        let mut fields = self.fields(properties, "this policy")?;
        if self.tree.get(properties, "use").is_some() {
            let secret = self.need(&mut fields, "use", Self::filled);
            self.close_for(fields, &[]);
            return Some(Authentication { at, scheme, properties, secret: Some(secret?) });
        }
        match scheme {
            "basic" | "digest" => {
                self.need(&mut fields, "username", Self::text);
                self.need(&mut fields, "password", Self::text);
            }
            "bearer" => {
                self.need(&mut fields, "token", Self::text);
            }
            _ => self.oauth(&mut fields, scheme),
        }
        self.close(fields);
        Some(Authentication { at, scheme, properties, secret: None })
    }

    fn oauth(&mut self, fields: &mut super::fields::Fields, scheme: &str) {
        const GRANTS: [&str; 5] = [
            "authorization_code",
            "client_credentials",
            "password",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ];
        if self.next() {
            self.need(fields, "authority", Self::uri);
            self.need(fields, "grant", |this, at| this.word(at, &GRANTS));
        } else {
            self.opt(fields, "authority", Self::uri);
            self.opt(fields, "grant", |this, at| this.word(at, &GRANTS));
        }
        self.opt(fields, "client", Self::oauth_client);
        self.opt(fields, "request", |this, at| {
            let mut fields = this.fields(at, "a token request")?;
            let encodings = ["application/x-www-form-urlencoded", "application/json"];
            this.opt(&mut fields, "encoding", |this, at| this.word(at, &encodings));
            this.open(fields);
            Some(())
        });
        for name in ["issuers", "scopes", "audiences"] {
            self.opt(fields, name, |this, at| this.list(at, Self::text));
        }
        for name in ["username", "password"] {
            self.opt(fields, name, Self::text);
        }
        for name in ["subject", "actor"] {
            self.opt(fields, name, |this, at| {
                let mut fields = this.fields(at, "a token")?;
                this.need(&mut fields, "token", Self::text);
                this.need(&mut fields, "type", Self::text);
                this.close(fields);
                Some(())
            });
        }
        if scheme == "oauth2" {
            self.opt(fields, "endpoints", |this, at| {
                let mut fields = this.fields(at, "the endpoints")?;
                for name in ["token", "revocation", "introspection"] {
                    this.opt(&mut fields, name, |this, at| this.pattern(at, format::template, "a URI template"));
                }
                this.open(fields);
                Some(())
            });
        }
    }

    fn oauth_client(&mut self, at: At) -> Option<()> {
        let ways = ["client_secret_basic", "client_secret_post", "client_secret_jwt", "private_key_jwt", "none"];
        let mut fields = self.fields(at, "a client")?;
        for name in ["id", "secret", "assertion"] {
            self.opt(&mut fields, name, Self::text);
        }
        self.opt(&mut fields, "authentication", |this, at| this.word(at, &ways));
        self.close(fields);
        Some(())
    }

    pub(super) fn duration(&mut self, at: At) -> Option<Duration> {
        if let Some(text) = self.tree.text(at) {
            if format::is_expression(text) || format::iso_duration(text) {
                return self.text(at).map(Duration::Text);
            }
            let message = format!("`{text}` is not a duration");
            self.error(at, "not-a-duration", message).hint =
                Some("write `{ minutes: 5 }`, ISO 8601 as in `PT5M`, or an expression in `${ }`".to_string());
            return None;
        }
        const UNITS: [(&str, i64); 5] =
            [("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1_000), ("milliseconds", 1)];
        let mut fields = self.fields(at, "a duration")?;
        let mut total = Some(0i64);
        for (name, factor) in UNITS {
            if let Some(amount) = self.opt(&mut fields, name, Self::whole) {
                total = total.and_then(|total| total.checked_add(amount.checked_mul(factor)?));
            }
        }
        if self.tree.entries(at).is_empty() {
            self.error(
                at,
                "missing-field",
                "a duration needs at least one of `days`, `hours`, `minutes`, `seconds`, `milliseconds`",
            );
        }
        self.close(fields);
        Some(Duration::Parts(at, total.unwrap_or(i64::MAX)))
    }

    pub(super) fn timeout(&mut self, at: At) -> Option<Timeout> {
        if self.tree.text(at).is_some() {
            return self.text(at).map(Timeout::Named);
        }
        self.timeout_definition(at).map(Timeout::Inline)
    }

    pub(super) fn timeout_definition(&mut self, at: At) -> Option<Duration> {
        let mut fields = self.fields(at, "a timeout")?;
        let after = self.need(&mut fields, "after", Self::duration);
        self.close_for(
            fields,
            &[
                ("seconds", "write `after: { seconds: .. }`"),
                ("minutes", "write `after: { minutes: .. }`"),
                ("hours", "write `after: { hours: .. }`"),
            ],
        );
        after
    }

    pub(super) fn schema(&mut self, at: At) -> Option<Schema> {
        let mut fields = self.fields(at, "a schema")?;
        let format = self.opt(&mut fields, "format", Self::text);
        let chosen = self.choice(&mut fields, &["document", "resource"]);
        let source = match chosen {
            Some("document") => self.need(&mut fields, "document", Self::any).map(SchemaSource::Inline),
            Some(_) => self.need(&mut fields, "resource", Self::resource).map(SchemaSource::Resource),
            None => None,
        };
        let hint = "put the JSON Schema under `document`";
        self.close_for(fields, &[("type", hint), ("properties", hint), ("required", hint)]);
        Some(Schema { at, format, source: source? })
    }

    pub(super) fn input(&mut self, at: At) -> Option<Input> {
        let mut fields = self.fields(at, "an input")?;
        let schema = self.opt(&mut fields, "schema", Self::schema);
        let from = self.opt(&mut fields, "from", Self::map_or_text);
        self.close(fields);
        Some(Input { schema, from })
    }

    pub(super) fn output(&mut self, at: At) -> Option<Output> {
        self.yielded(at, "an output")
    }

    pub(super) fn export(&mut self, at: At) -> Option<Output> {
        self.yielded(at, "an export")
    }

    fn yielded(&mut self, at: At, what: &'static str) -> Option<Output> {
        let mut fields = self.fields(at, what)?;
        let schema = self.opt(&mut fields, "schema", Self::schema);
        let transform = self.opt(&mut fields, "as", Self::map_or_text);
        self.close_for(fields, &[("from", "an input has `from`, an output and an export have `as`")]);
        Some(Output { schema, transform })
    }

    pub(super) fn error_definition(&mut self, at: At) -> Option<Error> {
        let mut fields = self.fields(at, "an error")?;
        self.need(&mut fields, "type", Self::uri_or_expression);
        self.need(&mut fields, "status", Self::whole);
        self.opt(&mut fields, "instance", |this, at| this.formed(at, format::pointer, "a JSON pointer"));
        self.opt(&mut fields, "title", Self::text);
        self.opt(&mut fields, "detail", Self::text);
        self.close(fields);
        Some(Error { at })
    }

    pub(super) fn error_filter(&mut self, at: At) -> Option<At> {
        let mut fields = self.fields(at, "an error filter")?;
        for name in ["type", "instance", "title"] {
            self.opt(&mut fields, name, Self::text);
        }
        self.opt(&mut fields, "status", Self::whole);
        // Both spellings are read; only the one of the edition is typed by its schema.
        let typed = if self.next() { "detail" } else { "details" };
        self.opt(&mut fields, typed, Self::text);
        self.opt(&mut fields, if self.next() { "details" } else { "detail" }, Self::any);
        self.open(fields);
        if self.tree.entries(at).is_empty() {
            self.error(at, "missing-field", "an error filter needs at least one field").hint =
                Some("drop `errors` to catch every error".to_string());
        }
        Some(at)
    }

    pub(super) fn retry_ref(&mut self, at: At) -> Option<RetryRef> {
        if self.tree.text(at).is_some() {
            return self.text(at).map(RetryRef::Named);
        }
        self.retry(at).map(|retry| RetryRef::Inline(Box::new(retry)))
    }

    pub(super) fn retry(&mut self, at: At) -> Option<Retry> {
        let mut fields = self.fields(at, "a retry policy")?;
        let when = self.opt(&mut fields, "when", Self::text);
        let except_when = self.opt(&mut fields, "exceptWhen", Self::text);
        let delay = self.opt(&mut fields, "delay", Self::duration);
        let backoff = self.opt(&mut fields, "backoff", Self::backoff).unwrap_or_default();
        let limits = self.opt(&mut fields, "limit", Self::retry_limit).unwrap_or_default();
        let jitter = self.opt(&mut fields, "jitter", |this, at| {
            let mut fields = this.fields(at, "a jitter")?;
            let from = this.need(&mut fields, "from", Self::duration);
            let to = this.need(&mut fields, "to", Self::duration);
            this.close(fields);
            Some((from?, to?))
        });
        self.close(fields);
        let (count, attempt_limit, limit) = limits;
        Some(Retry { at, when, except_when, delay, backoff, count, attempt_limit, limit, jitter })
    }

    fn backoff(&mut self, at: At) -> Option<Backoff> {
        let mut fields = self.fields(at, "a backoff")?;
        let chosen = self.choice(&mut fields, &["constant", "exponential", "linear"]);
        self.close(fields);
        let chosen = chosen?;
        let value = self.tree.get(at, chosen)?;
        if !matches!(self.tree.node(value), Node::Map(_)) {
            self.error(value, "wrong-type", "has to be a map, as in `exponential: {}`").fix = Some("{}".to_string());
            return None;
        }
        Some(match chosen {
            "exponential" => Backoff::Exponential,
            "linear" => Backoff::Linear,
            _ => Backoff::Constant,
        })
    }

    #[allow(clippy::type_complexity)]
    fn retry_limit(&mut self, at: At) -> Option<(Option<(At, i64)>, Option<Duration>, Option<Duration>)> {
        let mut fields = self.fields(at, "a retry limit")?;
        let attempt = self.opt(&mut fields, "attempt", |this, at| {
            let mut fields = this.fields(at, "a limit of attempts")?;
            let count = this.opt(&mut fields, "count", |this, at| this.whole(at).map(|count| (at, count)));
            let duration = this.opt(&mut fields, "duration", Self::duration);
            this.close(fields);
            Some((count, duration))
        });
        let duration = self.opt(&mut fields, "duration", Self::duration);
        self.close(fields);
        let (count, attempt_limit) = attempt.unwrap_or_default();
        Some((count, attempt_limit, duration))
    }
}
