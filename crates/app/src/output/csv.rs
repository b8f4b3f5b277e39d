//! Comma-separated values as RFC 4180 has them, in the server's own forms: times stay RFC 3339, numbers stay bare.

use serde_json::Value;

use super::cell::{at_path, plain};
use super::{Printer, Shape};

pub(super) fn list(printer: &Printer, shape: &Shape, items: &[Value]) -> String {
    let paths = paths(printer, shape);
    let mut out = row(paths.iter().map(|path| quoted(path)));
    for item in items {
        out.push_str(&self::row(paths.iter().map(|path| quoted(&plain(at_path(item, path))))));
    }
    out
}

/// One line, without the header.
pub(super) fn line(printer: &Printer, shape: &Shape, item: &Value) -> String {
    row(paths(printer, shape).iter().map(|path| quoted(&plain(at_path(item, path)))))
}

pub(super) fn header(printer: &Printer, shape: &Shape) -> String {
    row(paths(printer, shape).iter().map(|path| quoted(path)))
}

pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Object(map) => map.values().map(|v| quoted(&plain(v))).collect::<Vec<_>>().join(","),
        other => quoted(&plain(other)),
    }
}

fn paths(printer: &Printer, shape: &Shape) -> Vec<String> {
    match &printer.columns {
        Some(columns) => columns.clone(),
        None => shape.cols.iter().map(|col| col.path.to_owned()).collect(),
    }
}

fn row(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\r\n"
}

fn quoted(text: &str) -> String {
    // A leading =, +, - or @ would be run as a formula by spreadsheets; numbers are left alone.
    let risky = text.starts_with(['=', '+', '-', '@', '\t']) && text.parse::<f64>().is_err();
    let text = if risky { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_quotes_and_formulas_are_defused() {
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(quoted("=cmd()"), "'=cmd()");
        assert_eq!(quoted("-3.5"), "-3.5");
    }
}
