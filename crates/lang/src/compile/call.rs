//! Calls: arguments in one shape for the executors.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::plan::{ExprId, Kind, Protocol, Target};

use super::Work;
use super::expression::Place;
use crate::feature::Feature;
use crate::model::{Authentication, AuthenticationRef, Call, Statement};
use crate::text::At;

impl<'t> Work<'t> {
    pub(super) fn call(&mut self, statement: &'t Statement, call: &'t Call) -> Kind {
        match call {
            Call::Function { name, with } => self.call_function(statement, name, *with),
            Call::Protocol { protocol, with, endpoint, authentication, foreach, .. } => {
                let at = self.tree.get(statement.at, "call").unwrap_or(statement.at);
                self.require(at, Feature::of_protocol(*protocol));
                if let Some(foreach) = foreach {
                    self.refuse(foreach.at, "`subscription.foreach`", "use `listen` with `foreach`");
                }
                let mut arguments = Arguments::default();
                for (name, value) in self.entries(*with) {
                    let wanted = match (protocol, &*name) {
                        (Protocol::Http, "endpoint") | (Protocol::A2a, "server") => endpoint.as_ref(),
                        _ => None,
                    };
                    match wanted {
                        Some(endpoint) => {
                            let uri = self.uri(&endpoint.uri, Place::With);
                            arguments.add(&name, json!(&*endpoint.uri.text), uri);
                            if let Some(policy) = &endpoint.authentication {
                                self.authentication(policy, &mut arguments);
                            }
                        }
                        None if &*name == "authentication" => {}
                        None if &*name == "subscription" && foreach.is_some() => {}
                        None => {
                            let expr = self.template(value, Place::With);
                            arguments.add(&name, self.tree.json(value), expr);
                        }
                    }
                }
                if let Some(policy) = authentication {
                    self.authentication(policy, &mut arguments);
                }
                // What is asked of each message can only be evaluated where messages come.
                let later = self.tree.get(*with, "subscription").is_some();
                self.finish(Target::Outbound(*protocol), arguments, true, later)
            }
        }
    }

    /// A call with these arguments.
    pub(super) fn finish_call(&mut self, target: Target, arguments: Arguments, awaited: bool) -> Kind {
        self.finish(target, arguments, awaited, false)
    }

    fn finish(&mut self, target: Target, arguments: Arguments, awaited: bool, later: bool) -> Kind {
        let Arguments { template, fields } = arguments;
        let with = self.object(fields);
        let sealed = later || self.sealed(with);
        let with = if sealed { self.seal(Json::Object(template), with) } else { with };
        Kind::Call { target, with, sealed, awaited }
    }

    /// Puts the policy in place of its name.
    fn authentication(&mut self, reference: &'t AuthenticationRef, arguments: &mut Arguments) {
        let document = self.document;
        let policy: &Authentication = match reference {
            AuthenticationRef::Inline(policy) => policy,
            AuthenticationRef::Named(name) => {
                let all = &document.uses.authentications;
                match all.iter().find(|(known, _)| known.text == name.text) {
                    Some((_, policy)) => policy,
                    None => {
                        let known = all.iter().map(|(known, _)| &*known.text);
                        let message = format!("there is no policy `{}` in `use.authentications`", name.text);
                        return self.unknown(name.at, message, known, &name.text);
                    }
                }
            }
        };
        if let Some(secret) = &policy.secret {
            self.require(secret.at, Feature::Secrets);
            self.check_secret(secret.at, &secret.text);
        }
        let inner = self.template(policy.properties, Place::With);
        let expr = self.object(vec![(policy.scheme.to_string(), inner)]);
        arguments.add("authentication", json!({ policy.scheme: self.tree.json(policy.properties) }), expr);
    }

    /// Arguments as they stand in a map.
    pub(super) fn arguments(&mut self, with: Option<At>) -> Arguments {
        let mut arguments = Arguments::default();
        for (name, value) in with.map(|with| self.entries(with)).unwrap_or_default() {
            let expr = self.template(value, Place::With);
            arguments.add(&name, self.tree.json(value), expr);
        }
        arguments
    }
}

/// Arguments of a call, each as it stands and compiled.
#[derive(Default)]
pub(super) struct Arguments {
    template: serde_json::Map<String, Json>,
    fields: Vec<(String, ExprId)>,
}

impl Arguments {
    pub(super) fn add(&mut self, name: &str, template: Json, expr: ExprId) {
        self.template.insert(name.to_string(), template);
        self.fields.push((name.to_string(), expr));
    }
}
