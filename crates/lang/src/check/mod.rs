//! Whether a document is well formed: reads the tree into the model and reports every problem on the way, not the first.
//!
//! The verdict equals that of the standard's schema for the edition (a test compares them). What the schema lets through
//! and yet makes no sense (an unknown name, a statement that cannot be reached) is found by the compiler and the linter.

mod call;
mod common;
mod document;
mod event;
mod fields;
mod format;
mod statement;
mod test_file;

use tidewheel_engine::run::plan::Profile;

use crate::diagnostic::{Diagnostic, Severity, has_errors};
use crate::model::Document;
use crate::text::Tree;

pub(crate) use format::semver;
pub(crate) use test_file::test_file;

/// Findings that are reported of one document.
pub(crate) const MAX_FOUND: usize = 1_000;

/// Reads a tree. The document is there if no diagnostic is an error.
pub fn check(tree: &Tree, profile: Option<Profile>) -> (Option<Document>, Vec<Diagnostic>) {
    let mut checker = Checker { tree, profile: Profile::default(), found: Vec::new() };
    checker.profile = profile.unwrap_or_else(|| checker.declared());
    let document = checker.document();
    let mut found = checker.found;
    found.sort_by_key(|one| one.span.start);
    let broken = has_errors(&found);
    found.truncate(MAX_FOUND);
    let sound = !broken;
    (document.filter(|_| sound), found)
}

/// Reads the tree, and keeps what is wrong with it.
struct Checker<'t> {
    tree: &'t Tree,
    profile: Profile,
    found: Vec<Diagnostic>,
}

impl Checker<'_> {
    /// The edition that `document.dsl` selects: 1.0.3 up to that version, the next one above it.
    fn declared(&self) -> Profile {
        let version = self.tree.find("/document/dsl").and_then(|at| self.tree.text(at));
        let Some((major, minor, patch)) = version.and_then(format::semver) else { return Profile::V1_0_3 };
        if (major, minor, patch) > (1, 0, 3) { Profile::Next } else { Profile::V1_0_3 }
    }

    fn next(&self) -> bool {
        self.profile == Profile::Next
    }

    /// Reads what the edition does not know yet: what is wrong there is only a warning.
    fn leniently<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.found.len();
        let value = read(self);
        for one in &mut self.found[before..] {
            one.severity = Severity::Warning;
        }
        value
    }
}
