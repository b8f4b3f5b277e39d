//! The document around the statements.

use super::Checker;
use super::format;
use crate::model::{Document, Extension, Schedule, Text, Use};
use crate::text::At;

struct Head {
    dsl: Text,
    namespace: Text,
    name: Text,
    version: Text,
    title: Option<Text>,
    summary: Option<Text>,
    tags: Option<At>,
    metadata: Option<At>,
}

impl Checker<'_> {
    pub(super) fn document(&mut self) -> Option<Document> {
        let at = self.tree.root();
        let mut fields = self.fields(at, "a workflow")?;
        let head = self.need(&mut fields, "document", Self::head);
        let input = self.opt(&mut fields, "input", Self::input);
        let uses = self.opt(&mut fields, "use", Self::uses);
        let body = self.need(&mut fields, "do", Self::statements);
        let timeout = self.opt(&mut fields, "timeout", Self::timeout);
        let output = self.opt(&mut fields, "output", Self::output);
        let schedule = self.opt(&mut fields, "schedule", Self::schedule);
        let evaluate = if self.next() {
            self.opt(&mut fields, "evaluate", Self::evaluate)
        } else {
            self.leniently(|this| this.opt(&mut fields, "evaluate", Self::evaluate))
        };
        self.open(fields);
        let (language, loose) = evaluate.unwrap_or_default();
        let Head { dsl, namespace, name, version, title, summary, tags, metadata } = head?;
        Some(Document {
            at,
            dsl,
            profile: self.profile,
            namespace,
            name,
            version,
            title,
            summary,
            tags,
            metadata,
            input: input.unwrap_or_default(),
            output: output.unwrap_or_default(),
            uses: uses.unwrap_or_default(),
            body: body?,
            timeout,
            schedule,
            language,
            loose,
        })
    }

    fn head(&mut self, at: At) -> Option<Head> {
        let mut fields = self.fields(at, "the document's head")?;
        let version = |text: &str| format::semver(text).is_some();
        let semver = "a semantic version, as in `1.0.0`";
        let label = "a name of at most 63 letters, digits and inner hyphens";
        let dsl = self.need(&mut fields, "dsl", |this, at| this.pattern(at, version, semver));
        let namespace = self.need(&mut fields, "namespace", |this, at| this.pattern(at, format::label, label));
        let name = self.need(&mut fields, "name", |this, at| this.pattern(at, format::label, label));
        let number = self.need(&mut fields, "version", |this, at| this.pattern(at, version, semver));
        let title = self.opt(&mut fields, "title", Self::text);
        let summary = self.opt(&mut fields, "summary", Self::text);
        let tags = self.opt(&mut fields, "tags", Self::map);
        let metadata = self.opt(&mut fields, "metadata", Self::map);
        self.close(fields);
        Some(Head { dsl: dsl?, namespace: namespace?, name: name?, version: number?, title, summary, tags, metadata })
    }

    fn uses(&mut self, at: At) -> Option<Use> {
        let mut fields = self.fields(at, "`use`")?;
        let uses = Use {
            authentications: self
                .opt(&mut fields, "authentications", |this, at| this.named(at, Self::authentication))
                .unwrap_or_default(),
            errors: self
                .opt(&mut fields, "errors", |this, at| this.named(at, Self::error_definition))
                .unwrap_or_default(),
            extensions: self
                .opt(&mut fields, "extensions", |this, at| this.list(at, Self::extension))
                .unwrap_or_default(),
            functions: self.opt(&mut fields, "functions", Self::functions).unwrap_or_default(),
            retries: self.opt(&mut fields, "retries", |this, at| this.named(at, Self::retry)).unwrap_or_default(),
            secrets: self.opt(&mut fields, "secrets", |this, at| this.list(at, Self::text)).unwrap_or_default(),
            timeouts: self
                .opt(&mut fields, "timeouts", |this, at| this.named(at, Self::timeout_definition))
                .unwrap_or_default(),
            catalogs: self.opt(&mut fields, "catalogs", |this, at| this.named(at, Self::catalog)).unwrap_or_default(),
        };
        self.close(fields);
        Some(uses)
    }

    fn catalog(&mut self, at: At) -> Option<crate::model::Endpoint> {
        let mut fields = self.fields(at, "a catalog")?;
        let endpoint = self.need(&mut fields, "endpoint", Self::endpoint);
        self.close(fields);
        endpoint
    }

    fn functions(&mut self, at: At) -> Option<Vec<crate::model::Statement>> {
        let named = self.named(at, |this, at| {
            let name = this.tree.pointer(at);
            let name = name.rsplit('/').next().unwrap_or("").replace("~1", "/").replace("~0", "~");
            this.statement(&name, at)
        })?;
        Some(named.into_iter().map(|(_, statement)| statement).collect())
    }

    fn extension(&mut self, item: At) -> Option<Extension> {
        const KINDS: [&str; 12] =
            ["call", "composite", "emit", "for", "listen", "raise", "run", "set", "switch", "try", "wait", "all"];
        let (name, at) = self.single(item, "an extension")?;
        let mut fields = self.fields(at, "an extension")?;
        let extend = self.need(&mut fields, "extend", |this, at| {
            this.word(at, &KINDS)?;
            this.text(at)
        });
        let when = self.opt(&mut fields, "when", Self::text);
        let before = self.opt(&mut fields, "before", Self::statements);
        let after = self.opt(&mut fields, "after", Self::statements);
        self.close(fields);
        Some(Extension { at, name: (&*name).into(), extend: extend?, when, before, after })
    }

    fn schedule(&mut self, at: At) -> Option<Schedule> {
        let mut fields = self.fields(at, "a schedule")?;
        let every = self.opt(&mut fields, "every", Self::duration);
        let cron = self.opt(&mut fields, "cron", Self::text);
        let after = self.opt(&mut fields, "after", Self::duration);
        let on = self.opt(&mut fields, "on", Self::strategy);
        let read = if self.next() { self.opt(&mut fields, "read", Self::read) } else { None };
        if read.is_some() && self.tree.get(at, "on").is_none() {
            self.missing(&fields, "on");
        }
        self.close_for(fields, &[("read", NEXT)]);
        Some(Schedule { at, every, cron, after, on, read })
    }

    fn evaluate(&mut self, at: At) -> Option<(Option<Text>, bool)> {
        let mut fields = self.fields(at, "`evaluate`")?;
        let language = self.opt(&mut fields, "language", Self::text);
        let mode = self.opt(&mut fields, "mode", |this, at| this.word(at, &["strict", "loose"]));
        self.close(fields);
        Some((language, mode == Some("loose")))
    }
}

/// Why a field of the next edition is not known.
pub(super) const NEXT: &str =
    "the edition after 1.0.3 has it: deploy with the profile `next`, or raise `document.dsl` above 1.0.3";
