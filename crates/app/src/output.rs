//! What verbs print. Data goes to stdout in the form that was asked for; progress, counts and hints go to stderr.
//!
//! A verb hands over the server's JSON and a [`Shape`], which names the columns people want to see; every form is made
//! from these two here, so that no verb formats by itself.

mod cell;
mod columns;
mod csv;
pub(crate) mod jq;
pub(crate) mod markdown;
mod table;

pub(crate) use cell::{Col, Kind, Shape, at_path};
pub(crate) use table::Feed;

use std::io::Write;

use jiff::Timestamp;
use serde_json::Value;

use crate::fail::{Failure, Outcome};
use crate::text::TimeStyle;

/// The forms of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people; the default on a terminal.
    Table,
    /// The same with all columns.
    Wide,
    /// The server's JSON, indented.
    Json,
    /// One JSON document per line; the default in a pipe.
    Jsonl,
    /// The server's JSON as YAML.
    Yaml,
    /// The columns, comma separated, with a header.
    Csv,
    /// Ids or names alone, one per line.
    Name,
    /// Nothing.
    None,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Everything that decides how data looks.
pub(crate) struct Printer {
    /// Form.
    pub(crate) format: Format,
    /// The form was asked for, and is not that of where the data go.
    pub(crate) asked: bool,
    /// `--columns`
    pub(crate) columns: Option<Vec<String>>,
    /// `--jq`, compiled.
    pub(crate) jq: Option<jq::Jq>,
    /// `--time`
    pub(crate) time: TimeStyle,
    /// Colours on stdout.
    pub(crate) colour: bool,
    /// stdout is a terminal.
    pub(crate) terminal: bool,
    /// Columns of the terminal.
    pub(crate) width: u16,
    /// `--quiet`
    pub(crate) quiet: bool,
}

impl Printer {
    /// Prints a list. `page` is the server's whole answer, for forms that keep it.
    pub(crate) fn list(&self, shape: &Shape, page: &Value) -> Outcome {
        let empty = Vec::new();
        let items = page.get("items").and_then(Value::as_array).unwrap_or(&empty);
        if self.jq.is_some() {
            // As `jq` sees the lines of `-o jsonl`: the page around the items is nothing that scripts ask for.
            return items.iter().try_for_each(|item| self.through_jq(item));
        }
        match self.format {
            Format::Table | Format::Wide => {
                if items.is_empty() {
                    self.note(&format!("no {}", shape.plural));
                    return Ok(());
                }
                self.write(&table::list(self, shape, items))
            }
            Format::Json => self.write_json(page),
            Format::Yaml => self.write_yaml(page),
            Format::Jsonl => items.iter().try_for_each(|item| self.write_line(&compact(item))),
            Format::Csv => self.write(&csv::list(self, shape, items)),
            Format::Name => items.iter().try_for_each(|item| self.write_line(&shape.name_of(item))),
            Format::None => Ok(()),
        }
    }

    /// Refuses columns of `--columns` that there are not, where the form has columns. For what was only read: a call that changed
    /// something must not end with an error afterwards.
    pub(crate) fn check_columns(&self, shape: &Shape, items: &[Value]) -> Outcome {
        match &self.columns {
            Some(wanted) if matches!(self.format, Format::Table | Format::Wide | Format::Csv) => {
                columns::check(wanted, shape, items)
            }
            _ => Ok(()),
        }
    }

    /// The table of a list as text, for a screen that is redrawn.
    pub(crate) fn list_text(&self, shape: &Shape, items: &[Value]) -> String {
        if items.is_empty() { format!("no {}\n", shape.plural) } else { table::list(self, shape, items) }
    }

    /// Prints one thing with all its fields.
    pub(crate) fn one(&self, shape: &Shape, value: &Value) -> Outcome {
        if self.jq.is_some() {
            return self.through_jq(value);
        }
        match self.format {
            Format::Table | Format::Wide if self.columns.is_none() => self.write(&table::detail(self, shape, value)),
            _ => self.brief(shape, value),
        }
    }

    /// Prints one thing as a row: what an action changed.
    pub(crate) fn brief(&self, shape: &Shape, value: &Value) -> Outcome {
        if self.jq.is_some() {
            return self.through_jq(value);
        }
        let items = std::slice::from_ref(value);
        match self.format {
            Format::Table | Format::Wide => self.write(&table::list(self, shape, items)),
            Format::Json => self.write_json(value),
            Format::Yaml => self.write_yaml(value),
            Format::Jsonl => self.write_line(&compact(value)),
            Format::Csv => self.write(&csv::list(self, shape, items)),
            Format::Name => self.write_line(&shape.name_of(value)),
            Format::None => Ok(()),
        }
    }

    /// Prints a value that has no shape, such as a task's result.
    pub(crate) fn value(&self, value: &Value) -> Outcome {
        if self.jq.is_some() {
            return self.through_jq(value);
        }
        match self.format {
            Format::None => Ok(()),
            Format::Yaml => self.write_yaml(value),
            Format::Jsonl | Format::Csv | Format::Name => self.write_line(&compact(value)),
            Format::Table | Format::Wide | Format::Json => self.write_json(value),
        }
    }

    /// A feed of rows that come one after another.
    pub(crate) fn feed<'a>(&'a self, shape: &'a Shape) -> Feed<'a> {
        Feed::new(self, shape)
    }

    /// Prints text that is data already, such as a log line; `--jq` and JSON forms get `value` instead.
    pub(crate) fn text_or(&self, text: impl FnOnce() -> String, value: &Value) -> Outcome {
        if self.jq.is_some() {
            return self.through_jq(value);
        }
        match self.format {
            Format::Table | Format::Wide | Format::Name => self.write_line(&text()),
            Format::None => Ok(()),
            Format::Yaml => self.write(&format!("---\n{}", yaml(value)?)),
            Format::Json => self.write_json(value),
            Format::Jsonl => self.write_line(&compact(value)),
            Format::Csv => self.write_line(&csv::value(value)),
        }
    }

    /// A hint or count for people, on stderr.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Whether the form is one for people, wherever it goes.
    pub(crate) fn is_table(&self) -> bool {
        self.jq.is_none() && matches!(self.format, Format::Table | Format::Wide)
    }

    /// Whether what has a text of its own (a graph) is given as that, also in a pipe where no form of data was asked for.
    pub(crate) fn is_text(&self) -> bool {
        self.jq.is_none() && (!self.asked || self.is_table())
    }

    /// Whether data without a shape is written as lines of JSON, so that it can be written as it comes ([`Printer::text_or`]).
    pub(crate) fn is_lines(&self) -> bool {
        self.jq.is_none() && matches!(self.format, Format::Table | Format::Wide | Format::Name | Format::Jsonl)
    }

    /// Whether a person reads stdout as it comes.
    pub(crate) fn is_for_people(&self) -> bool {
        self.terminal && self.is_table()
    }

    /// Now, for relative times.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn through_jq(&self, value: &Value) -> Outcome {
        let Some(jq) = &self.jq else { return Ok(()) };
        for output in jq.run(value)? {
            match (&output, self.format) {
                (_, Format::None) => {}
                (jq::Output::Text(text), _) => self.write_line(text)?,
                (jq::Output::Json(text), Format::Json | Format::Yaml) => match serde_json::from_str::<Value>(text) {
                    Ok(value) if self.format == Format::Json => self.write_json(&value)?,
                    Ok(value) => self.write_yaml(&value)?,
                    // jq has values that JSON lacks, such as infinities.
                    Err(_) => self.write_line(text)?,
                },
                (jq::Output::Json(text), _) => self.write_line(text)?,
            }
        }
        Ok(())
    }

    fn write_json(&self, value: &Value) -> Outcome {
        // Values always serialise.
        self.write_line(&serde_json::to_string_pretty(value).unwrap_or_default())
    }

    fn write_yaml(&self, value: &Value) -> Outcome {
        self.write(&yaml(value)?)
    }

    /// One line of data.
    pub(crate) fn write_line(&self, line: &str) -> Outcome {
        self.write(&format!("{line}\n"))
    }

    /// Data as it is.
    pub(crate) fn write(&self, text: &str) -> Outcome {
        self.write_bytes(text.as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn write_bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            // The reader (`head`, a pager) has seen enough: not a failure.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => Err(Failure::new(crate::fail::Exit::Failed, "cannot write the output", error.to_string())),
        }
    }
}

/// A line on stderr. Where nobody reads it any more, it is not written: that changes nothing of how a verb ends.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// JSON on one line.
pub(crate) fn compact(value: &Value) -> String {
    // Values always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn yaml(value: &Value) -> Outcome<String> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|error| Failure::new(crate::fail::Exit::Failed, "cannot write YAML", error.to_string()))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
