//! Statements.

use tidewheel_engine::run::plan::{Process, Read};

use super::Checker;
use super::document::NEXT;
use super::fields::Fields;
use crate::diagnostic::nearest;
use crate::model::{Case, Catch, Kind, RaiseError, Run, Statement, Text};
use crate::text::{At, Node};

/// The keyword of each kind of statement. `for` comes before `do`, which it has too.
const KEYWORDS: [&str; 12] =
    ["call", "for", "do", "emit", "fork", "listen", "raise", "run", "set", "switch", "try", "wait"];

impl Checker<'_> {
    pub(super) fn statements(&mut self, at: At) -> Option<Vec<Statement>> {
        self.list(at, |this, item| {
            let (name, at) = this.single(item, "a statement")?;
            this.statement(&name, at)
        })
    }

    pub(super) fn statement(&mut self, name: &str, at: At) -> Option<Statement> {
        let mut fields = self.fields(at, "a statement")?;
        let condition = self.opt(&mut fields, "if", Self::text);
        let input = self.opt(&mut fields, "input", Self::input).unwrap_or_default();
        let output = self.opt(&mut fields, "output", Self::output).unwrap_or_default();
        let export = self.opt(&mut fields, "export", Self::export).unwrap_or_default();
        let timeout = self.opt(&mut fields, "timeout", Self::timeout);
        let then = self.opt(&mut fields, "then", Self::text);
        let metadata = self.opt(&mut fields, "metadata", Self::map);
        let kind = match self.keyword(at) {
            Some(keyword) => self.kind(keyword, &mut fields),
            None => {
                self.no_keyword(at);
                return None;
            }
        };
        let other =
            KEYWORDS.map(|keyword| (keyword, "a statement does one thing: make two of them, one after the other"));
        self.close_for(fields, &other);
        let kind = kind?;
        Some(Statement { at, name: name.into(), condition, input, output, export, timeout, then, metadata, kind })
    }

    fn keyword(&self, at: At) -> Option<&'static str> {
        KEYWORDS.into_iter().find(|keyword| self.tree.get(at, keyword).is_some())
    }

    /// Reports a statement that does nothing known; a misspelt keyword is reported at its place.
    fn no_keyword(&mut self, at: At) {
        let common = ["if", "input", "output", "export", "timeout", "then", "metadata"];
        for (name, value) in self.tree.entries(at) {
            if common.contains(&&**name) {
                continue;
            }
            let span = self.tree.key_span(*value);
            let near = nearest(name, KEYWORDS).map(str::to_string);
            let found = self.error(*value, "unknown-statement", format!("`{name}` is no statement"));
            found.span = span;
            found.hint = Some(match &near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("a statement has one of `{}`", KEYWORDS.join("`, `")),
            });
            found.fix = near;
            return;
        }
        let span = self.tree.key_span(at);
        let found = self.error(at, "missing-field", "a statement has to do something");
        found.span = span;
        found.hint = Some(format!("it has one of `{}`", KEYWORDS.join("`, `")));
    }

    fn kind(&mut self, keyword: &'static str, fields: &mut Fields) -> Option<Kind> {
        match keyword {
            "call" => self.call(fields).map(Kind::Call),
            "do" => self.need(fields, "do", Self::statements).map(Kind::Do),
            "for" => self.repeated(fields),
            "fork" => self.need(fields, "fork", |this, at| {
                let mut fields = this.fields(at, "a fork")?;
                let branches = this.need(&mut fields, "branches", Self::statements);
                let compete = this.opt(&mut fields, "compete", Self::boolean).unwrap_or(false);
                this.close(fields);
                Some(Kind::Fork { branches: branches?, compete })
            }),
            "emit" => self.need(fields, "emit", |this, at| {
                let mut fields = this.fields(at, "an emit")?;
                let with = this.need(&mut fields, "event", Self::event);
                this.close_for(fields, &[("with", "it stands under `event`: `emit: { event: { with: .. } }`")]);
                Some(Kind::Emit { with: with? })
            }),
            "listen" => self.listen(fields),
            "raise" => self.need(fields, "raise", |this, at| {
                let mut fields = this.fields(at, "a raise")?;
                let error = this.need(&mut fields, "error", |this, at| match this.tree.text(at) {
                    Some(_) => this.text(at).map(RaiseError::Named),
                    None => this.error_definition(at).map(RaiseError::Inline),
                });
                this.close(fields);
                error.map(Kind::Raise)
            }),
            "run" => self.need(fields, "run", Self::run),
            "set" => self.need(fields, "set", |this, at| {
                this.map_or_text(at)?;
                if matches!(this.tree.node(at), Node::Map(entries) if entries.is_empty()) {
                    this.error(at, "missing-field", "a set needs at least one value").hint =
                        Some("`set: ${ {} }` gives an empty object".to_string());
                    return None;
                }
                Some(Kind::Set(at))
            }),
            "switch" => self.need(fields, "switch", Self::switch),
            "try" => self.tried(fields),
            _ => self.need(fields, "wait", Self::duration).map(Kind::Wait),
        }
    }

    fn repeated(&mut self, fields: &mut Fields) -> Option<Kind> {
        let head = self.need(fields, "for", |this, at| {
            let mut fields = this.fields(at, "a for")?;
            let each = this.opt(&mut fields, "each", Self::text);
            let items = this.need(&mut fields, "in", Self::items);
            let index = this.opt(&mut fields, "at", Self::text);
            let under = "it stands beside `for`, not inside it";
            this.close_for(fields, &[("while", under), ("do", under)]);
            Some((each, items?, index))
        });
        let condition = self.opt(fields, "while", Self::text);
        let body = self.need(fields, "do", Self::statements);
        let (each, items, at) = head?;
        Some(Kind::For { each, items, at, condition, body: body? })
    }

    fn items(&mut self, at: At) -> Option<At> {
        match self.tree.node(at) {
            Node::List(_) if self.next() => {
                self.list(at, Self::map)?;
                Some(at)
            }
            Node::List(_) => {
                self.error(at, "wrong-type", "has to be an expression that gives the items").hint =
                    Some(NEXT.to_string());
                None
            }
            _ => self.text(at).map(|_| at),
        }
    }

    fn listen(&mut self, fields: &mut Fields) -> Option<Kind> {
        let head = self.need(fields, "listen", |this, at| {
            let mut fields = this.fields(at, "a listen")?;
            let to = this.need(&mut fields, "to", Self::strategy);
            let read = this.opt(&mut fields, "read", Self::read).unwrap_or(Read::Data);
            this.close_for(fields, &[("foreach", "it stands beside `listen`, not inside it")]);
            Some((to?, read))
        });
        let foreach = self.opt(fields, "foreach", Self::iterator);
        let (to, read) = head?;
        Some(Kind::Listen { to, read, foreach })
    }

    fn switch(&mut self, at: At) -> Option<Kind> {
        let cases = self.list(at, |this, item| {
            let (name, at) = this.single(item, "a case")?;
            let mut fields = this.fields(at, "a case")?;
            let when = this.opt(&mut fields, "when", Self::text);
            let then = this.need(&mut fields, "then", Self::text);
            this.close_for(fields, &[("do", "a case names a statement to go on with: `then: name`")]);
            Some(Case { at, name: (&*name).into(), when, then: then? })
        })?;
        if cases.is_empty() {
            self.error(at, "missing-field", "a switch needs at least one case");
            return None;
        }
        Some(Kind::Switch(cases))
    }

    fn tried(&mut self, fields: &mut Fields) -> Option<Kind> {
        let body = self.need(fields, "try", Self::statements);
        let catch = self.need(fields, "catch", |this, at| {
            let mut fields = this.fields(at, "a catch")?;
            let filter = this.opt(&mut fields, "errors", |this, at| {
                let mut fields = this.fields(at, "`errors`")?;
                let with = this.opt(&mut fields, "with", Self::error_filter);
                this.open(fields);
                with
            });
            let name: Option<Text> = this.opt(&mut fields, "as", Self::text);
            let when = this.opt(&mut fields, "when", Self::text);
            let except_when = this.opt(&mut fields, "exceptWhen", Self::text);
            let retry = this.opt(&mut fields, "retry", Self::retry_ref);
            let body = this.opt(&mut fields, "do", Self::statements);
            let then = if this.next() { this.opt(&mut fields, "then", Self::text) } else { None };
            this.close_for(fields, &[("then", NEXT)]);
            Some(Catch { at, filter, name, when, except_when, retry, body, then })
        });
        Some(Kind::Try { body: body?, catch: catch? })
    }

    fn run(&mut self, at: At) -> Option<Kind> {
        let mut fields = self.fields(at, "a run")?;
        let chosen = self.choice(&mut fields, &["container", "script", "shell", "workflow"]);
        let awaited = self.opt(&mut fields, "await", Self::boolean).unwrap_or(true);
        let result = self.opt(&mut fields, "return", |this, at| {
            this.word(at, &["stdout", "stderr", "code", "all", "none"])?;
            this.text(at)
        });
        let run = chosen.and_then(|name| {
            let with = self.tree.get(at, name)?;
            match name {
                "container" => self.container(with),
                "script" => self.script(with),
                "shell" => self.shell(with),
                _ => self.subflow(with),
            }
        });
        self.close(fields);
        Some(Kind::Run { run: run?, awaited, result })
    }

    /// What all processes have.
    fn process(&mut self, fields: &mut Fields) {
        self.opt(fields, "stdin", Self::text);
        self.opt(fields, "arguments", |this, at| this.list(at, Self::text));
        self.opt(fields, "environment", Self::map);
    }

    fn container(&mut self, at: At) -> Option<Run> {
        let mut fields = self.fields(at, "a container")?;
        self.need(&mut fields, "image", Self::text);
        self.opt(&mut fields, "name", Self::text);
        self.opt(&mut fields, "command", Self::text);
        self.opt(&mut fields, "ports", Self::map);
        self.opt(&mut fields, "volumes", Self::map);
        self.process(&mut fields);
        self.opt(&mut fields, "lifetime", Self::lifetime);
        self.opt(&mut fields, "pullPolicy", |this, at| this.word(at, &["ifNotPresent", "always", "never"]));
        self.close(fields);
        Some(Run::Process { process: Process::Container, with: at, source: None })
    }

    fn lifetime(&mut self, at: At) -> Option<()> {
        let mut fields = self.fields(at, "a lifetime")?;
        let cleanup = self.need(&mut fields, "cleanup", |this, at| this.word(at, &["always", "never", "eventually"]));
        let after = self.tree.get(at, "after");
        self.opt(&mut fields, "after", Self::duration);
        match (cleanup, after) {
            (Some("eventually"), None) => self.missing(&fields, "after"),
            (Some("always" | "never"), Some(after)) => {
                self.error(after, "conflicting-fields", "only `cleanup: eventually` has an `after`");
            }
            _ => {}
        }
        self.close(fields);
        Some(())
    }

    fn script(&mut self, at: At) -> Option<Run> {
        let mut fields = self.fields(at, "a script")?;
        let language = self.need(&mut fields, "language", Self::text);
        self.process(&mut fields);
        let source = match self.choice(&mut fields, &["code", "source"]) {
            Some("source") => self.need(&mut fields, "source", Self::resource),
            Some(_) => {
                self.need(&mut fields, "code", Self::text);
                None
            }
            None => None,
        };
        self.close(fields);
        let language = language?;
        let process = match &*language.text {
            "python" => Process::Python,
            "js" | "javascript" => Process::JavaScript,
            _ => return Some(Run::OtherScript(language)),
        };
        Some(Run::Process { process, with: at, source })
    }

    fn shell(&mut self, at: At) -> Option<Run> {
        let mut fields = self.fields(at, "a shell")?;
        self.need(&mut fields, "command", Self::text);
        self.process(&mut fields);
        self.close(fields);
        Some(Run::Process { process: Process::Shell, with: at, source: None })
    }

    fn subflow(&mut self, at: At) -> Option<Run> {
        let mut fields = self.fields(at, "a workflow to run")?;
        let namespace = self.need(&mut fields, "namespace", Self::text);
        let name = self.need(&mut fields, "name", Self::text);
        let version = self.need(&mut fields, "version", Self::text);
        let input = self.opt(&mut fields, "input", Self::map);
        self.close(fields);
        Some(Run::Workflow { namespace: namespace?, name: name?, version: version?, input })
    }
}
