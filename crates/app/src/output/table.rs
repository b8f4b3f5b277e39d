//! Tables for people: no frames, one line per item, cut to the terminal's width.

use comfy_table::{Attribute, Cell, ContentArrangement, Row, Table};
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
}

fn shown<'a>(printer: &'a Printer, shape: &'a Shape) -> Vec<Shown<'a>> {
    match &printer.columns {
        Some(columns) => columns
            .iter()
            .map(|path| {
                let known = shape.cols.iter().find(|col| col.path == path || col.head.eq_ignore_ascii_case(path));
                match known {
                    Some(col) => Shown { head: col.head.to_owned(), path: col.path, kind: col.kind },
                    None => Shown { head: path.to_uppercase(), path, kind: guess(path) },
                }
            })
            .collect(),
        None => shape
            .cols
            .iter()
            .filter(|col| !col.wide || printer.format == Format::Wide)
            .map(|col| Shown { head: col.head.to_owned(), path: col.path, kind: col.kind })
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
    let columns = shown(printer, shape);
    let now = printer.now();
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    arrange(&mut table, printer);
    table.set_header(columns.iter().map(|col| {
        let cell = Cell::new(&col.head);
        if printer.colour { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    for item in items {
        let cells = columns.iter().map(|col| {
            let text = text::one_line(&show(at_path(item, col.path), col.kind, printer.time, now));
            let colour = if printer.colour && col.kind == Kind::State { colour_of(&text) } else { None };
            let cell = Cell::new(text);
            match colour {
                Some(colour) => cell.fg(colour),
                None => cell,
            }
        });
        let mut row = Row::from(cells.collect::<Vec<_>>());
        row.max_height(1);
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    trimmed(&table)
}

fn arrange(table: &mut Table, printer: &Printer) {
    if printer.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if printer.terminal {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(printer.width);
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
}

fn trimmed(table: &Table) -> String {
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
            self.widths =
                columns.iter().zip(&cells).map(|(col, cell)| col.head.len().max(cell.chars().count())).collect();
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
