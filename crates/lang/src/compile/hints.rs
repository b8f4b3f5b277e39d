//! Hints of `metadata.tidewheel`.

use serde_json::Value as Json;
use tidewheel_engine::id::Name;
use tidewheel_engine::run::plan::{ExprId, Hints, VersionPolicy};

use super::Work;
use super::expression::Place;
use crate::model::Statement;
use crate::text::At;

/// Hints of a statement.
const STATEMENT: [&str; 10] = [
    "queue",
    "priority",
    "requires",
    "affinityKey",
    "concurrencyKey",
    "idempotencyKey",
    "slaMs",
    "buffer",
    "parentClose",
    "ui",
];
/// Hints of a document.
const DOCUMENT: [&str; 10] = [
    "queue",
    "priority",
    "requires",
    "affinityKey",
    "concurrencyKey",
    "idempotencyKey",
    "slaMs",
    "attributes",
    "versionPolicy",
    "ui",
];
/// Search attributes that a workflow may have.
const MAX_ATTRIBUTES: usize = 32;

impl Work<'_> {
    /// The value of one hint.
    pub(super) fn hint_of(&self, metadata: Option<At>, name: &str) -> Option<At> {
        self.tree.get(self.tree.get(metadata?, "tidewheel")?, name)
    }

    pub(super) fn hints(&mut self, statement: &Statement) -> Hints {
        self.read_hints(statement.metadata, &STATEMENT, Place::Body)
    }

    pub(super) fn document_hints(&mut self) -> Hints {
        let metadata = self.document.metadata;
        self.read_hints(metadata, &DOCUMENT, Place::RunOutput)
    }

    /// What becomes of runs when another version is deployed.
    pub(super) fn version_policy(&mut self) -> VersionPolicy {
        let Some(at) = self.hint_of(self.document.metadata, "versionPolicy") else { return VersionPolicy::Pin };
        let found = self.tree.text(at).and_then(VersionPolicy::named);
        if found.is_none() {
            self.wrong_hint(at, "versionPolicy", "pin, compatible or latest");
        }
        found.unwrap_or_default()
    }

    fn read_hints(&mut self, metadata: Option<At>, known: &[&str], place: Place) -> Hints {
        let mut hints = Hints::default();
        let Some(at) = metadata.and_then(|metadata| self.tree.get(metadata, "tidewheel")) else { return hints };
        if !self.is_map(at) {
            self.error(at, "wrong-type", "the hints in `metadata.tidewheel` are a map");
            return hints;
        }
        for (name, value) in self.entries(at) {
            if &*name == "rateLimit" {
                self.refuse(
                    value,
                    "the hint `rateLimit`",
                    "limit the rate of the queue, and name the queue with the hint `queue`",
                );
            } else if !known.contains(&&*name) {
                let span = self.tree.key_span(value);
                self.unknown(value, format!("there is no hint `{name}` here"), known.iter().copied(), &name);
                self.found.last_mut().expect("just reported").span = span;
            } else {
                self.read_hint(&name, value, &mut hints, place);
            }
        }
        hints
    }

    fn read_hint(&mut self, name: &str, at: At, hints: &mut Hints, place: Place) {
        match name {
            "queue" => match self.tree.text(at) {
                Some(text) if !text.is_empty() => hints.queue = Some(text.into()),
                _ => self.wrong_hint(at, name, "the name of a queue"),
            },
            "priority" => match self.tree.json(at).as_u64() {
                Some(priority @ 0..=9) => hints.priority = Some(priority as u8),
                _ => self.wrong_hint(at, name, "a number from 0 to 9"),
            },
            "slaMs" => match self.tree.json(at).as_u64() {
                Some(millis) => hints.sla_ms = millis,
                _ => self.wrong_hint(at, name, "a number of milliseconds"),
            },
            "buffer" => match self.tree.json(at).as_bool() {
                Some(buffer) => hints.live_only = !buffer,
                _ => self.wrong_hint(at, name, "true or false"),
            },
            "requires" => hints.requires = self.labels(at),
            "affinityKey" => hints.affinity_key = Some(self.template(at, place)),
            "concurrencyKey" => hints.concurrency_key = Some(self.template(at, place)),
            "idempotencyKey" => hints.idempotency_key = Some(self.template(at, place)),
            _ => {}
        }
    }

    fn wrong_hint(&mut self, at: At, name: &str, expected: &str) {
        self.error(at, "wrong-value", format!("the hint `{name}` is {expected}"));
    }

    fn labels(&mut self, at: At) -> Vec<(Name, Name)> {
        let mut labels: Vec<(Name, Name)> = Vec::new();
        if !self.is_map(at) {
            self.wrong_hint(at, "requires", "a map of labels");
        }
        for (name, value) in self.entries(at) {
            match self.tree.json(value) {
                Json::String(text) => labels.push(((&*name).into(), text.as_str().into())),
                Json::Bool(_) | Json::Number(_) => {
                    labels.push(((&*name).into(), self.tree.json(value).to_string().as_str().into()));
                }
                _ => self.wrong_hint(value, "requires", "a map of labels, each a text"),
            }
        }
        labels.sort();
        labels
    }

    /// Search attributes: names and expressions over the run's context.
    pub(super) fn attributes(&mut self) -> Vec<(Name, ExprId)> {
        let Some(at) = self.hint_of(self.document.metadata, "attributes") else { return Vec::new() };
        if !self.is_map(at) {
            self.wrong_hint(at, "attributes", "a map of names and expressions");
        }
        let entries = self.entries(at);
        if entries.len() > MAX_ATTRIBUTES {
            let message =
                format!("a workflow has at most {MAX_ATTRIBUTES} search attributes; these are {}", entries.len());
            self.error(at, "wrong-value", message);
        }
        entries.iter().map(|(name, value)| ((&**name).into(), self.template(*value, Place::RunOutput))).collect()
    }
}
