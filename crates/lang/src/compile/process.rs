//! `run`: code that a document brings, and other workflows.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::plan::{Kind, ParentClose, Target};

use super::Work;
use super::expression::Place;
use crate::feature::Feature;
use crate::model::{Run, Statement, Text};

impl<'t> Work<'t> {
    pub(super) fn run(&mut self, statement: &'t Statement, run: &'t Run, awaited: bool, result: Option<&Text>) -> Kind {
        let at = self.tree.get(statement.at, "run").unwrap_or(statement.at);
        match run {
            Run::Process { process, with, source } => {
                self.require(at, Feature::of_process(*process));
                let mut arguments = self.arguments(Some(*with));
                if let Some(source) = source {
                    let uri = &source.endpoint.uri;
                    match self.resources.get(&uri.text).cloned() {
                        Some(code) => {
                            let expr = self.builder.literal(code.clone());
                            arguments.add("code", code, expr);
                        }
                        None => {
                            let message = format!("the script at `{}` was not fetched", uri.text);
                            self.error(uri.at, "not-fetched", message);
                        }
                    }
                }
                let result = json!(result.map_or("stdout", |result| &*result.text));
                let expr = self.builder.literal(result.clone());
                arguments.add("return", result, expr);
                self.finish_call(Target::Process(*process), arguments, awaited)
            }
            Run::OtherScript(language) => {
                let message = format!("scripts in `{}` are not supported", language.text);
                self.error(language.at, "not-supported", message).hint =
                    Some("the language is `python` or `js`; other interpreters run through `run.shell`".to_string());
                Kind::Set(self.builder.literal(Json::Null))
            }
            Run::Workflow { namespace, name, version, input } => {
                self.require(at, Feature::Workflow);
                let parts = [namespace, name, version].map(|part| self.template(part.at, Place::Body));
                let input = match input {
                    Some(input) => self.template(*input, Place::Body),
                    None => self.builder.literal(json!({})),
                };
                let [namespace, name, version] = parts;
                let parent_close = self.parent_close(statement);
                Kind::Child { namespace, name, version, input, awaited, parent_close }
            }
        }
    }

    fn parent_close(&mut self, statement: &Statement) -> ParentClose {
        let Some(at) = self.hint_of(statement.metadata, "parentClose") else { return ParentClose::Cancel };
        match self.tree.text(at) {
            Some("cancel") => ParentClose::Cancel,
            Some("abandon") => ParentClose::Abandon,
            Some("wait") => ParentClose::Wait,
            _ => {
                self.error(at, "wrong-value", "`parentClose` is one of `cancel`, `abandon`, `wait`");
                ParentClose::Cancel
            }
        }
    }
}
