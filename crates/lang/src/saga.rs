//! The steps of a saga as they stand in a document, for whoever looks at a document without compiling it.

use crate::model::{Call, Kind, Statement};
use crate::resolve::{PYTHON, SAGA};
use crate::text::{At, Tree};

/// A step, as far as it is well formed.
pub(crate) struct Part {
    pub(crate) at: At,
    pub(crate) name: String,
    /// The reference under which it stands in a journal; that of its undo is this and `/undo`.
    pub(crate) reference: String,
    /// Its arguments.
    pub(crate) with: Option<At>,
    /// What undoes it, and the arguments of that.
    pub(crate) undo: Option<(At, Option<At>)>,
}

/// The steps of a statement that is a saga; `None` = it is none.
pub(crate) fn steps(tree: &Tree, statement: &Statement) -> Option<Vec<Part>> {
    let Kind::Call(Call::Function { name, with: Some(with) }) = &statement.kind else { return None };
    if &*name.text != SAGA {
        return None;
    }
    let pointer = tree.pointer(statement.at);
    let part = |at: At| {
        let name = tree.text(tree.get(at, "name")?)?.to_owned();
        let undo = tree.get(at, "undo").map(|undo| (undo, tree.get(at, "undoWith")));
        Some(Part { at, reference: format!("{pointer}/{name}"), name, with: tree.get(at, "with"), undo })
    };
    let list = tree.get(*with, "steps").map_or(&[][..], |steps| tree.items(steps));
    Some(list.iter().filter_map(|at| part(*at)).collect())
}

/// What a step or an undo calls, in words.
pub(crate) fn called(tree: &Tree, function: At, with: Option<At>) -> String {
    let function = tree.text(function).unwrap_or_default();
    let argument = |name: &str| with.and_then(|with| tree.get(with, name)).and_then(|at| tree.text(at));
    let what = if function == PYTHON { argument("entrypoint") } else { argument("type") };
    what.map_or_else(|| function.to_owned(), |what| format!("task: {what}"))
}

/// The steps whose outputs an expression names: `$steps.flight`, `$steps["flight"]`. What it finds by a computed name is not seen.
pub(crate) fn named_steps(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("$steps") {
        let rest = code[at + "$steps".len()..].trim_start();
        if let Some(field) = rest.strip_prefix('.') {
            match field.strip_prefix('"') {
                Some(_) => found.extend(quoted(field)),
                None if plain(field) > 0 => found.push(&field[..plain(field)]),
                None => found.extend(field.strip_prefix('[').and_then(|field| quoted(field.trim_start()))),
            }
        } else if let Some(index) = rest.strip_prefix('[') {
            found.extend(quoted(index.trim_start()));
        }
    }
    found
}

/// Bytes of the plain name at the beginning of a text.
fn plain(text: &str) -> usize {
    text.find(|char: char| !(char.is_alphanumeric() || char == '_')).unwrap_or(text.len())
}

/// The text in quotes at the beginning of a text.
fn quoted(text: &str) -> Option<&str> {
    let text = text.strip_prefix('"')?;
    text.find('"').map(|end| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_the_names_that_stand_in_an_expression() {
        let cases: [(&str, &[&str]); 7] = [
            ("$steps.flight.id + $steps.hotel", &["flight", "hotel"]),
            ("$steps[\"the flight\"].id", &["the flight"]),
            ("$steps.\"the-flight\" | length", &["the-flight"]),
            ("$steps.[\"flight\"]", &["flight"]),
            ("$steps[$input.name]", &[]),
            ("$steps | keys", &[]),
            ("$step.flight", &[]),
        ];
        for (code, names) in cases {
            assert_eq!(named_steps(code), names, "{code}");
        }
    }
}
