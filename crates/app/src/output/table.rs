//! Tables for people: no frames, one line per item, cut to the terminal's width.

use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, Row, Table};
use serde_json::Value;

use super::cell::{Kind, at_path, colour_of, show};
use super::{Format, Printer, Shape, compact, csv};
use crate::fail::Outcome;
use crate::text;

/// A column as it is printed now.
struct Shown<'a> {
    head: String,
    path: &'a str,
    kind: Kind,
    minor: bool,
}

fn shown<'a>(printer: &'a Printer, shape: &'a Shape) -> Vec<Shown<'a>> {
    match &printer.columns {
        Some(columns) => columns
            .iter()
            .map(|path| {
                let known = shape.cols.iter().find(|col| col.path == path || col.head.eq_ignore_ascii_case(path));
                match known {
                    Some(col) => Shown { head: col.head.to_owned(), path: col.path, kind: col.kind, minor: col.minor },
                    None => Shown { head: path.to_uppercase(), path, kind: guess(path), minor: false },
                }
            })
            .collect(),
        None => shape
            .cols
            .iter()
            .filter(|col| !col.wide || printer.format == Format::Wide)
            .map(|col| Shown { head: col.head.to_owned(), path: col.path, kind: col.kind, minor: col.minor })
            .collect(),
    }
}

fn guess(path: &str) -> Kind {
    if path.ends_with("_at") {
        Kind::Time
    } else if path.ends_with("_bytes") {
        Kind::Bytes
    } else {
        Kind::Names
    }
}

/// A list with a heading.
pub(super) fn list(printer: &Printer, shape: &Shape, items: &[Value]) -> String {
    let mut columns = shown(printer, shape);
    let now = printer.now();
    let cell =
        |item: &Value, col: &Shown<'_>| text::one_line(&show(at_path(item, col.path), col.kind, printer.time, now));
    let rows: Vec<Vec<String>> = items.iter().map(|item| columns.iter().map(|col| cell(item, col)).collect()).collect();
    let mut cells: Vec<Vec<String>> =
        (0..columns.len()).map(|i| rows.iter().map(|row| row[i].clone()).collect()).collect();
    if printer.columns.is_none() && printer.format == Format::Table {
        drop_empty(&mut columns, &mut cells);
    }
    if printer.terminal && printer.columns.is_none() && printer.format == Format::Table {
        fit(shape, &mut columns, &mut cells, usize::from(printer.width));
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    arrange(&mut table, printer);
    table.set_header(columns.iter().map(|col| {
        let cell = Cell::new(&col.head);
        if printer.colour { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    for i in 0..items.len() {
        let line = columns.iter().zip(&cells).map(|(col, cells)| {
            let cell = Cell::new(&cells[i]);
            let colour = if printer.colour && col.kind == Kind::State { colour_of(&cells[i]) } else { None };
            match colour {
                Some(colour) => cell.fg(colour),
                None => cell,
            }
        });
        let mut row = Row::from(line.collect::<Vec<_>>());
        row.max_height(1);
        table.add_row(row);
    }
    for (column, col) in table.column_iter_mut().zip(&columns) {
        column.set_padding((0, GAP as u16));
        if !gives_way(shape, col) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    trimmed(&table)
}

/// Spaces between two columns.
const GAP: usize = 2;
/// A text that is cut shorter says nothing.
const SHORTEST: usize = 10;

/// Texts may be cut; half an id, time or number is none.
fn gives_way(shape: &Shape, col: &Shown<'_>) -> bool {
    let is_id = shape.id.split('+').any(|id| id == col.path) || col.path == "id";
    !is_id && matches!(col.kind, Kind::Text | Kind::Names)
}

/// Leaves out minor columns in which no row has anything.
fn drop_empty(columns: &mut Vec<Shown<'_>>, cells: &mut Vec<Vec<String>>) {
    let keep: Vec<bool> = columns
        .iter()
        .zip(cells.iter())
        .map(|(col, cells)| !col.minor || cells.is_empty() || cells.iter().any(|cell| !cell.is_empty()))
        .collect();
    let mut at = keep.iter();
    columns.retain(|_| at.next().copied().unwrap_or(true));
    let mut at = keep.iter();
    cells.retain(|_| at.next().copied().unwrap_or(true));
}

/// Leaves columns out until the rest fits: minor ones first, from the right; the first two always stay.
fn fit(shape: &Shape, columns: &mut Vec<Shown<'_>>, cells: &mut Vec<Vec<String>>, width: usize) {
    let least = |col: &Shown<'_>, cells: &Vec<String>| {
        let natural = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let head = col.head.chars().count();
        let body = if gives_way(shape, col) { natural.min(SHORTEST) } else { natural };
        body.max(head) + GAP
    };
    loop {
        let needed: usize = columns.iter().zip(cells.iter()).map(|(col, cells)| least(col, cells)).sum();
        if needed <= width + GAP || columns.len() <= 2 {
            return;
        }
        let minor = columns.iter().skip(2).rposition(|col| col.minor).map(|at| at + 2);
        let at = minor.unwrap_or(columns.len() - 1);
        columns.remove(at);
        cells.remove(at);
    }
}

fn arrange(table: &mut Table, printer: &Printer) {
    if printer.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if printer.terminal && printer.format == Format::Table {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(printer.width);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
}

/// A table without blanks at the ends of its lines.
pub(super) fn trimmed(table: &Table) -> String {
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// All fields of one thing, one below the other.
pub(super) fn detail(printer: &Printer, shape: &Shape, value: &Value) -> String {
    let Value::Object(map) = value else {
        return compact(value) + "\n";
    };
    let now = printer.now();
    let width = map.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (key, value) in map {
        if value.is_null() || value.as_str() == Some("") {
            continue;
        }
        let kind = shape.kind_of(key, value);
        let text = match value {
            Value::Object(error) if key == "error" && error.contains_key("message") => {
                indented(&error_lines(value), width + 2)
            }
            Value::Object(_) | Value::Array(_) if kind == Kind::Text && !is_flat(value) => {
                indented(&serde_json::to_string_pretty(value).unwrap_or_default(), width + 2)
            }
            Value::String(text) if text.contains('\n') => {
                let lines: Vec<_> = text.lines().map(text::one_line).collect();
                indented(&lines.join("\n"), width + 2)
            }
            _ => text::one_line(&show(
                value,
                if is_flat(value) && kind == Kind::Text { Kind::Names } else { kind },
                printer.time,
                now,
            )),
        };
        let label = format!("{key:<width$}");
        let label = if printer.colour { format!("\u{1b}[1m{label}\u{1b}[0m") } else { label };
        out.push_str(&format!("{label}  {text}\n"));
    }
    out
}

/// `ValueError: no such page`, with the traceback below it.
fn error_lines(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let first = text::one_line(&format!("{}: {}", text("type"), text("message")));
    let rest = text("detail").lines().map(|line| text::log_line(line, false));
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n")
}

fn is_flat(value: &Value) -> bool {
    let scalar = |v: &Value| !v.is_object() && !v.is_array();
    match value {
        Value::Object(map) => map.len() <= 4 && map.values().all(scalar),
        Value::Array(items) => items.iter().all(scalar),
        _ => true,
    }
}

fn indented(text: &str, by: usize) -> String {
    text.replace('\n', &format!("\n{}", " ".repeat(by)))
}

/// Characters of the longest state.
const STATE: usize = 9;

/// Rows that come one after another; the heading is printed before the first one.
pub(crate) struct Feed<'a> {
    printer: &'a Printer,
    shape: &'a Shape,
    widths: Vec<usize>,
    started: bool,
}

impl<'a> Feed<'a> {
    pub(super) fn new(printer: &'a Printer, shape: &'a Shape) -> Feed<'a> {
        Feed { printer, shape, widths: Vec::new(), started: false }
    }

    /// Prints one item.
    pub(crate) fn push(&mut self, item: &Value) -> Outcome {
        let printer = self.printer;
        let first = !std::mem::replace(&mut self.started, true);
        if printer.jq.is_some() {
            return printer.through_jq(item);
        }
        match printer.format {
            Format::Table | Format::Wide => self.row(item, first),
            Format::Csv => {
                if first {
                    printer.write(&csv::header(printer, self.shape))?;
                }
                printer.write(&csv::line(printer, self.shape, item))
            }
            Format::Yaml => printer.write(&format!("---\n{}", super::yaml(item)?)),
            // An open list has no end that could close a bracket.
            Format::Json | Format::Jsonl => printer.write_line(&compact(item)),
            Format::Name => printer.write_line(&self.shape.name_of(item)),
            Format::None => Ok(()),
        }
    }

    fn row(&mut self, item: &Value, first: bool) -> Outcome {
        let columns = shown(self.printer, self.shape);
        let now = self.printer.now();
        let cells: Vec<_> = columns
            .iter()
            .map(|col| text::one_line(&show(at_path(item, col.path), col.kind, self.printer.time, now)))
            .collect();
        if first {
            self.widths = columns
                .iter()
                .zip(&cells)
                // A state that follows may be longer than the first one.
                .map(|(col, cell)| (col.head.len().max(if col.kind == Kind::State { STATE } else { 0 }), cell))
                .map(|(least, cell)| least.max(cell.chars().count()))
                .collect();
            let heads: Vec<_> = columns.iter().map(|col| col.head.clone()).collect();
            self.printer.write_line(&self.padded(&heads))?;
        }
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.printer.write_line(&self.padded(&cells))
    }

    fn padded(&self, cells: &[String]) -> String {
        let line: Vec<_> = cells.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = line.join("  ").trim_end().to_owned();
        let room = usize::from(self.printer.width);
        if self.printer.terminal && line.chars().count() > room {
            line.chars().take(room.saturating_sub(1)).collect::<String>() + "…"
        } else {
            line
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Col;

    #[test]
    fn a_narrow_terminal_loses_minor_columns_and_never_half_an_id() {
        const SHAPE: Shape = Shape {
            plural: "things",
            id: "id",
            cols: &[
                Col::new("ID", "id", Kind::Text),
                Col::new("STATE", "state", Kind::State),
                Col::minor("PRIO", "priority", Kind::Count),
                Col::new("NOTE", "note", Kind::Text),
            ],
        };
        let item = serde_json::json!({"id": "x".repeat(20), "state": "queued", "priority": 5, "note": "n".repeat(50)});
        let table = |width| {
            let printer = Printer {
                format: Format::Table,
                asked: false,
                columns: None,
                jq: None,
                time: crate::text::TimeStyle::Iso,
                colour: false,
                terminal: true,
                width,
                quiet: true,
            };
            list(&printer, &SHAPE, std::slice::from_ref(&item))
        };
        for (width, heads) in [(100, "ID STATE PRIO NOTE"), (43, "ID STATE NOTE"), (30, "ID STATE")] {
            let text = table(width);
            let head: Vec<_> = text.lines().next().unwrap_or_default().split_whitespace().collect();
            assert_eq!(head.join(" "), heads, "{text}");
            assert!(text.contains(&"x".repeat(20)), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            assert_eq!(text.lines().count(), 2, "{text}");
        }
    }
}
