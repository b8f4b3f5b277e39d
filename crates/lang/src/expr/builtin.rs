//! Functions that are written in the language itself.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::ast::Def;
use super::{ExprError, native, parse};

/// Their text.
const TEXT: &str = include_str!("builtin.jq");

/// Names that other engines have and we do not, and why.
const ABSENT: [(&str, &str); 14] = [
    ("env", "the environment of a server is not for workflows; use `$secrets` or the input"),
    ("input", "an expression has one value; it is `.`"),
    ("inputs", "an expression has one value; it is `.`"),
    ("input_filename", "values do not come from files"),
    ("input_line_number", "values do not come from files"),
    ("debug", "an expression has no output besides its value"),
    ("stderr", "an expression has no output besides its value"),
    ("halt", "use `raise`, or `then: end`"),
    ("halt_error", "use `raise`, or `error(\"...\")`"),
    ("get_search_list", "modules do not exist here"),
    ("modulemeta", "modules do not exist here"),
    ("random", "values that differ from one evaluation to the next cannot be repeated"),
    ("rand", "values that differ from one evaluation to the next cannot be repeated"),
    ("uuid", "values that differ from one evaluation to the next cannot be repeated"),
];

type Table = BTreeMap<(String, usize), Def>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let defs = parse::definitions(TEXT).unwrap_or_default();
        defs.into_iter().map(|def| ((def.name.clone(), def.params.len()), def)).collect()
    })
}

/// The definition of a name with so many parameters.
pub(super) fn find(name: &str, arity: usize) -> Option<&'static Def> {
    table().get(&(name.to_owned(), arity))
}

/// All names with their parameters, `name/arity`, but those that begin with `_`.
pub(super) fn names() -> Vec<String> {
    let inline = [
        "empty/0",
        "not/0",
        "path/1",
        "first/1",
        "getpath/1",
        "select/1",
        "map/1",
        "map_values/1",
        "error/1",
        "del/1",
        "with_entries/1",
        "add/1",
        "sort_by/1",
        "group_by/1",
        "unique_by/1",
        "min_by/1",
        "max_by/1",
    ];
    let mut names: Vec<String> = table().keys().map(|(name, arity)| format!("{name}/{arity}")).collect();
    names.extend(native::names());
    names.extend(inline.map(str::to_owned));
    names.retain(|name| !name.starts_with('_'));
    names.sort();
    names.dedup();
    names
}

/// The error for a name that does not exist.
pub(super) fn unknown(at: usize, name: &str, arity: usize) -> ExprError {
    if let Some((_, why)) = ABSENT.iter().find(|(absent, _)| *absent == name) {
        return ExprError::new(at, format!("`{name}` does not exist here")).hinted(why);
    }
    if name.contains("::") {
        return ExprError::new(at, format!("`{name}`: modules do not exist here"));
    }
    let known = names();
    let others: Vec<&str> = known
        .iter()
        .filter_map(|known| known.split_once('/'))
        .filter(|(other, _)| *other == name)
        .map(|(_, n)| n)
        .collect();
    let arguments = if arity == 1 { "1 argument".to_owned() } else { format!("{arity} arguments") };
    if !others.is_empty() {
        return ExprError::new(at, format!("`{name}` does not take {arguments}"))
            .hinted(&format!("it takes {}", others.join(" or ")));
    }
    let error = ExprError::new(at, format!("there is no function `{name}`"));
    let near = known
        .iter()
        .filter_map(|known| known.split_once('/'))
        .map(|(other, _)| (distance(name, other), other))
        .min()
        .filter(|(distance, other)| *distance * 3 <= other.len().max(3));
    match near {
        Some((_, other)) => error.hinted(&format!("did you mean `{other}`?")),
        None if arity == 0 => error.hinted("a string stands in double quotes, a field is written with a dot"),
        None => error,
    }
}

/// Changes of single bytes between two names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_parsed() {
        assert_eq!(parse::definitions(TEXT).map(|defs| defs.len() > 80), Ok(true));
    }
}
