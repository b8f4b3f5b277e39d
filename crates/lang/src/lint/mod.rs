//! What is legal and yet hardly meant, what other engines would make of a document, and how its work could go faster.

mod circle;
mod data;
mod flow;
mod order;
mod saga;

use serde::Serialize;

use crate::check::check;
use crate::diagnostic::{Diagnostic, Severity, UNKNOWN_NAME, has_errors};
use crate::model::{Call, Document, Kind};
use crate::resolve::{Options, Resolver, deploy};
use crate::text::{At, Tree};

pub use order::CriticalPath;

/// How a document fares on other engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Runs the same elsewhere.
    Portable,
    /// Runs elsewhere, where its hints are passed over.
    PortableWithHints,
    /// Needs functions that this product alone has.
    ProductOnly,
}

impl Class {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Class::Portable => "portable",
            Class::PortableWithHints => "portable with hints that others ignore",
            Class::ProductOnly => "product-only",
        }
    }
}

/// What the linter found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it fares elsewhere; `None` = it is not well formed.
    pub class: Option<Class>,
    /// Everything found, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The longest chain of statements that wait for each other.
    pub critical_path: Option<CriticalPath>,
}

/// Reads a text and says everything about it.
pub fn lint(text: &[u8], options: Options, resolver: &dyn Resolver) -> Report {
    let deployed = deploy(text, options, resolver);
    let mut diagnostics = deployed.diagnostics;
    // What could not be fetched is said, and no mistake of the document.
    for one in diagnostics.iter_mut().filter(|one| one.code == "not-fetched") {
        one.severity = Severity::Warning;
    }
    let Ok(tree) = Tree::parse(text) else { return Report { class: None, diagnostics, critical_path: None } };
    let (document, _) = check(&tree, options.profile);
    let Some(document) = document else { return Report { class: None, diagnostics, critical_path: None } };
    let mut linter = Linter { tree: &tree, document: &document, found: Vec::new() };
    let class = linter.class();
    linter.data();
    linter.flow();
    linter.starts_itself();
    linter.sagas();
    let critical_path = linter.order();
    // Of a function that there is not, that is all there is to say.
    let unknown: Vec<String> =
        diagnostics.iter().filter(|one| one.code == UNKNOWN_NAME).map(|one| one.pointer.clone()).collect();
    linter.found.retain(|one| one.code != "product-only" || !unknown.contains(&one.pointer));
    diagnostics.extend(linter.found);
    diagnostics.sort_by_key(|one| (one.span.start, one.severity));
    let critical_path = (!has_errors(&diagnostics)).then_some(critical_path);
    Report { class: Some(class), diagnostics, critical_path }
}

struct Linter<'t> {
    tree: &'t Tree,
    document: &'t Document,
    found: Vec<Diagnostic>,
}

impl Linter<'_> {
    fn warn(&mut self, at: At, code: &'static str, message: impl Into<String>, hint: &str) -> &mut Diagnostic {
        self.note(Severity::Warning, at, code, message, hint)
    }

    fn note(
        &mut self,
        severity: Severity,
        at: At,
        code: &'static str,
        message: impl Into<String>,
        hint: &str,
    ) -> &mut Diagnostic {
        self.found.push(self.tree.finding(severity, at, code, message).hint(hint));
        self.found.last_mut().expect("just pushed")
    }

    fn class(&mut self) -> Class {
        let document = self.document;
        let mut product = Vec::new();
        let mut hints = document.metadata.is_some_and(|at| self.tree.get(at, "tidewheel").is_some());
        document.visit(&mut |statement| {
            hints |= statement.metadata.is_some_and(|at| self.tree.get(at, "tidewheel").is_some());
            if let Kind::Call(Call::Function { name, .. }) = &statement.kind
                && name.text.ends_with("@default")
            {
                product.push(name.clone());
            }
        });
        for name in &product {
            let message = format!("`{}` is a function of this product; other engines refuse it", name.text);
            self.note(
                Severity::Hint,
                name.at,
                "product-only",
                message,
                "nothing is wrong with that unless the workflow has to run elsewhere",
            );
        }
        match (product.is_empty(), hints) {
            (false, _) => Class::ProductOnly,
            (true, true) => Class::PortableWithHints,
            (true, false) => Class::Portable,
        }
    }
}

/// Whether the code of an expression looks at the dot.
fn uses_dot(code: &str) -> bool {
    let bytes = code.as_bytes();
    let mut quoted = false;
    for (at, byte) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        match byte {
            b'"' if before != Some(b'\\') => quoted = !quoted,
            // Inside a text only interpolation can look at it; it is rare enough to be taken for granted.
            b'\\' if quoted && bytes.get(at + 1) == Some(&b'(') => return true,
            b'.' if !quoted => {
                let continues =
                    before.is_some_and(|before| before.is_ascii_alphanumeric() || b"_)]\"?.".contains(&before));
                if !continues {
                    return true;
                }
            }
            _ => {}
        }
    }
    // A filter without a dot that works on its input, such as `length`.
    let word = code.trim();
    !word.is_empty()
        && word.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
        && word.parse::<f64>().is_err()
        && !matches!(word, "true" | "false" | "null" | "now")
}

/// The expressions of a text: the text itself if it is one, else what stands in `${ }`.
pub(crate) fn expressions(text: &str, bare: bool) -> Vec<&str> {
    if bare && !text.contains("${") {
        return vec![text];
    }
    text.split("${").skip(1).map(|rest| rest.rfind('}').map_or(rest, |end| &rest[..end])).collect()
}

/// Visits every text below a value.
pub(crate) fn texts<'t>(tree: &'t Tree, at: At, each: &mut dyn FnMut(At, &'t str)) {
    if let Some(text) = tree.text(at) {
        each(at, text);
    }
    for (_, value) in tree.entries(at) {
        texts(tree, *value, each);
    }
    for item in tree.items(at) {
        texts(tree, *item, each);
    }
}
