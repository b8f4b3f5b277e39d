//! Events: what is sent, and what is waited for.

use serde_json::Value as Json;
use tidewheel_engine::run::plan::{ExprId, Filter, Foreach, Kind, Listen, Read, Strategy, Until};

use super::Work;
use super::expression::Place;
use crate::feature::Feature;
use crate::model::{self, Statement};
use crate::text::At;

impl<'t> Work<'t> {
    pub(super) fn emit(&mut self, statement: &Statement, with: Option<At>) -> Kind {
        let at = self.tree.get(statement.at, "emit").unwrap_or(statement.at);
        self.require(at, Feature::Emit);
        let event = match with {
            Some(with) => self.template(with, Place::Body),
            None => {
                self.error(at, "missing-field", "an event needs `with`, at least a `type`");
                self.builder.literal(Json::Null)
            }
        };
        Kind::Emit { event }
    }

    pub(super) fn listen(
        &mut self,
        statement: &Statement,
        to: &'t model::Strategy,
        read: Read,
        foreach: Option<&'t model::Iterator>,
    ) -> Kind {
        let at = self.tree.get(statement.at, "listen").unwrap_or(statement.at);
        self.require(at, Feature::Listen);
        let strategy = self.strategy(to, Place::Body);
        let foreach = foreach.map(|each| {
            let item = self.local(&each.item, "item");
            let at = self.local(&each.index, "index");
            let names = [item.clone(), at.clone()];
            let (body, output) = self.with_locals(&names, |work| {
                (each.body.as_deref().map(|body| work.list(body)), work.outlet(&each.output, &each.export))
            });
            Foreach { item, at, body, output }
        });
        Kind::Listen(Listen { strategy, read, foreach })
    }

    pub(super) fn strategy(&mut self, strategy: &model::Strategy, place: Place) -> Strategy {
        match strategy {
            model::Strategy::One(filter) => Strategy::One(self.filter(filter, place)),
            model::Strategy::All(filters) => {
                Strategy::All(filters.iter().map(|filter| self.filter(filter, place)).collect())
            }
            model::Strategy::Any(filters, until) => {
                let until = until.as_ref().map(|until| match until {
                    model::Until::Condition(text) => Until::Condition(self.expression(text.at, &text.text, place)),
                    model::Until::Events(strategy) => Until::Events(Box::new(self.strategy(strategy, place))),
                });
                Strategy::Any(filters.iter().map(|filter| self.filter(filter, place)).collect(), until)
            }
        }
    }

    fn filter(&mut self, filter: &model::Filter, place: Place) -> Filter {
        let mut with = Vec::new();
        for (name, at) in self.entries(filter.with) {
            with.push(((&*name).into(), self.attribute(&name, at, place)));
        }
        let mut correlate = Vec::new();
        let mut named: Vec<_> = filter.correlate.iter().collect();
        named.sort_by_key(|(name, ..)| &name.text);
        for (name, from, expect) in named {
            let from = self.expression(from.at, &from.text, place);
            // A constant, or an expression in `${ }`.
            let expect = expect.as_ref().map(|expect| self.template(expect.at, place));
            correlate.push((name.text.clone(), from, expect));
        }
        Filter { with, correlate }
    }

    /// What an attribute has to be. A text with signs of a regular expression has to match as a whole; it also fits where
    /// the attribute is that very text, so that a URI with a `?` needs no escapes.
    fn attribute(&mut self, name: &str, at: At, place: Place) -> ExprId {
        let pattern = self.tree.text(at).map(str::to_string).filter(|text| {
            name != "data"
                && !text.contains("${")
                && text.contains(['*', '+', '?', '^', '$', '|', '(', ')', '[', ']', '\\'])
        });
        let Some(pattern) = pattern else { return self.template(at, place) };
        let literal = Json::String(pattern.clone()).to_string();
        let anchored = Json::String(format!("^(?:{pattern})$")).to_string();
        let code = format!("type == \"string\" and (. == {literal} or test({anchored}))");
        match self.builder.expression(&code, &[]) {
            Ok(expr) => expr,
            Err(error) => {
                let message = format!("`{pattern}` is not a regular expression: {}", error.message);
                self.error(at, "expression", message);
                self.builder.literal(Json::Null)
            }
        }
    }
}
