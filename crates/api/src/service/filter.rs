//! The one filter grammar of CLI, REST and dashboard: text to terms. What a field means for a resource is decided
//! elsewhere; here it is only checked that the resource has such a field.
//!
//! ```text
//! filter := term*                     all terms hold
//! term   := ["-"] (field op value ("," value)* | word)
//! op     := ":" | ">" | ">=" | "<" | "<="
//! value  := bare | "quoted"           field:a..b range, field:ab* prefix, field:* presence
//! ```

use std::fmt;

use crate::text::nearest;

/// Longest filter, in bytes.
const MAX_BYTES: usize = 4_096;
/// Terms of one filter; each costs a comparison per row.
const MAX_TERMS: usize = 64;
/// Values of one term.
const MAX_VALUES: usize = 256;

/// What is filtered: it decides which fields exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Tasks.
    Tasks,
    /// Runs of workflows.
    Runs,
    /// Queues.
    Queues,
    /// Workers.
    Workers,
    /// Log lines.
    Logs,
}

impl Resource {
    /// The fields besides `label.*`.
    pub(crate) fn fields(self) -> &'static [&'static str] {
        match self {
            Resource::Tasks => &[
                "id",
                "created",
                "after",
                "before",
                "state",
                "type",
                "kind",
                "queue",
                "priority",
                "worker",
                "run",
                "workflow",
                "schedule",
                "key",
                "correlation",
                "assignee",
                "group",
                "due",
                "attempts",
                "error",
                "waiting",
                "duration",
                "batch",
                "package",
            ],
            Resource::Runs => &[
                "id",
                "created",
                "after",
                "before",
                "phase",
                "state",
                "workflow",
                "version",
                "parent",
                "schedule",
                "correlation",
                "error",
                "waiting",
                "duration",
                "package",
            ],
            Resource::Queues => &["id", "state", "depth", "dead"],
            Resource::Workers => &["id", "state", "version", "group", "capability", "seen"],
            Resource::Logs => &["id", "created", "after", "before", "level", "task", "run", "worker"],
        }
    }

    /// What the names of its fields may begin with, where the rest is the caller's. What a run is found by besides its fields are its
    /// search attributes.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Resource::Runs => &["attribute.", "label."],
            Resource::Tasks | Resource::Workers => &["label."],
            Resource::Queues | Resource::Logs => &[],
        }
    }

    /// Its name in paths and cursors.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Resource::Tasks => "tasks",
            Resource::Runs => "runs",
            Resource::Queues => "queues",
            Resource::Workers => "workers",
            Resource::Logs => "logs",
        }
    }
}

/// A filter: all terms hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// In the order written.
    pub(crate) terms: Vec<Term>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Term {
    /// Has to be false.
    pub(crate) negated: bool,
    /// Byte offset in the text, for errors that are found later.
    pub(crate) at: usize,
    /// What has to hold.
    pub(crate) what: What,
}

/// Free text or a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// A word or quoted text.
    Word(String),
    /// A field with any of these values.
    Field {
        /// Canonical name; `label.env` for a label.
        name: String,
        /// How it is compared.
        op: Op,
        /// Any of these.
        values: Vec<Value>,
    },
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// `:`
    Is,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
    /// `<`
    Less,
    /// `<=`
    AtMost,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `*`: there is one.
    Any,
    /// This very text.
    Exact(String),
    /// Begins so.
    Prefix(String),
    /// Between, both included; an open end is `None`.
    Range(Option<String>, Option<String>),
}

/// Where and why a filter cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterError {
    /// Byte offset.
    pub(crate) at: usize,
    /// What is wrong, and what was probably meant.
    pub(crate) message: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at position {}: {}", self.at + 1, self.message)
    }
}

impl std::error::Error for FilterError {}

impl Filter {
    /// Reads a filter for a resource.
    pub(crate) fn parse(resource: Resource, text: &str) -> Result<Filter, FilterError> {
        if text.len() > MAX_BYTES {
            return Err(FilterError { at: MAX_BYTES, message: format!("a filter has at most {MAX_BYTES} bytes") });
        }
        let mut reader = Reader { resource, text, at: 0 };
        let mut terms = Vec::new();
        while reader.skip_space() {
            if terms.len() == MAX_TERMS {
                return Err(reader.error(reader.at, format!("a filter has at most {MAX_TERMS} terms")));
            }
            terms.push(reader.term()?);
        }
        Ok(Filter { terms })
    }
}

struct Reader<'a> {
    resource: Resource,
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn error(&self, at: usize, message: impl Into<String>) -> FilterError {
        FilterError { at, message: message.into() }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    /// Moves to the next term; false at the end.
    fn skip_space(&mut self) -> bool {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.at < self.text.len()
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        let at = self.at;
        let negated = self.peek() == Some('-');
        if negated {
            self.at += 1;
        }
        let start = self.at;
        let what = match self.peek() {
            None => return Err(self.error(at, "a '-' has to stand before a term")),
            Some(c) if c.is_whitespace() => return Err(self.error(at, "a '-' has to stand before a term")),
            Some('"') => What::Word(self.quoted()?),
            Some(_) => {
                let name_end = self.text[start..]
                    .find(|c: char| c.is_whitespace() || matches!(c, ':' | '<' | '>' | '"' | ','))
                    .map_or(self.text.len(), |i| start + i);
                self.at = name_end;
                match self.op() {
                    Some(op) => self.field(start, name_end, op)?,
                    None => What::Word(self.bare_word(start)?),
                }
            }
        };
        if self.peek().is_some_and(|c| !c.is_whitespace()) {
            return Err(self.error(self.at, "a space is missing between two terms"));
        }
        Ok(Term { negated, at, what })
    }

    fn bare_word(&mut self, start: usize) -> Result<String, FilterError> {
        let rest = &self.text[start..];
        let end = rest.find(char::is_whitespace).map_or(self.text.len(), |i| start + i);
        let word = &self.text[start..end];
        if let Some(i) = word.find('"') {
            return Err(self.error(start + i, "a quote stands inside a word; put the whole text in quotes"));
        }
        self.at = end;
        Ok(word.to_owned())
    }

    fn op(&mut self) -> Option<Op> {
        let rest = &self.text[self.at..];
        let (op, length) = match rest.as_bytes() {
            [b'>', b'=', ..] => (Op::AtLeast, 2),
            [b'<', b'=', ..] => (Op::AtMost, 2),
            [b'>', ..] => (Op::Greater, 1),
            [b'<', ..] => (Op::Less, 1),
            // `attempts:>3` is the written form of a comparison, too.
            [b':', b'>', b'=', ..] => (Op::AtLeast, 3),
            [b':', b'<', b'=', ..] => (Op::AtMost, 3),
            [b':', b'>', ..] => (Op::Greater, 2),
            [b':', b'<', ..] => (Op::Less, 2),
            [b':', ..] => (Op::Is, 1),
            _ => return None,
        };
        self.at += length;
        Some(op)
    }

    fn field(&mut self, start: usize, end: usize, op: Op) -> Result<What, FilterError> {
        let name = self.text[start..end].to_ascii_lowercase();
        let prefixes = self.resource.prefixes();
        let label = prefixes.iter().find(|prefix| name.len() > prefix.len() && name.starts_with(**prefix));
        let known = self.resource.fields();
        if label.is_none() && !known.contains(&name.as_str()) {
            let written = &self.text[start..end];
            let hint = match nearest(&name, known.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => {
                    let prefix = prefixes.first().map(|prefix| format!(", {prefix}*")).unwrap_or_default();
                    format!("{} have {}{prefix}", self.resource.as_str(), known.join(", "))
                }
            };
            return Err(self.error(start, format!("unknown field '{written}'; {hint}")));
        }
        // Names of labels keep their case.
        let name = match label {
            Some(prefix) => format!("{prefix}{}", &self.text[start + prefix.len()..end]),
            None => name,
        };
        let mut values = Vec::new();
        loop {
            values.push(self.value(op)?);
            if values.len() > MAX_VALUES {
                return Err(self.error(self.at, format!("a term has at most {MAX_VALUES} values")));
            }
            if self.peek() != Some(',') {
                break;
            }
            self.at += 1;
        }
        if op != Op::Is && values.len() > 1 {
            return Err(self.error(start, "a comparison has one value"));
        }
        Ok(What::Field { name, op, values })
    }

    fn value(&mut self, op: Op) -> Result<Value, FilterError> {
        let at = self.at;
        if self.peek() == Some('"') {
            return Ok(Value::Exact(self.quoted()?));
        }
        let rest = &self.text[at..];
        let end = rest.find(|c: char| c.is_whitespace() || c == ',').map_or(self.text.len(), |i| at + i);
        let raw = &self.text[at..end];
        self.at = end;
        if raw.is_empty() {
            return Err(self.error(at, "a value is missing"));
        }
        if raw.contains('"') {
            return Err(self.error(at, "a quote stands inside a value; put the whole value in quotes"));
        }
        if op != Op::Is {
            return Ok(Value::Exact(raw.to_owned()));
        }
        if raw == "*" {
            return Ok(Value::Any);
        }
        if let Some((from, to)) = raw.split_once("..") {
            let end = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            if from.is_empty() && to.is_empty() {
                return Err(self.error(at, "a range needs at least one end"));
            }
            return Ok(Value::Range(end(from), end(to)));
        }
        if let Some(prefix) = raw.strip_suffix('*') {
            return Ok(Value::Prefix(prefix.to_owned()));
        }
        Ok(Value::Exact(raw.to_owned()))
    }

    /// A text in double quotes; a backslash takes the next character as it is.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let start = self.at;
        let mut out = String::new();
        let mut chars = self.text[start + 1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = start + 1 + i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, next)) => out.push(next),
                    None => break,
                },
                _ => out.push(c),
            }
        }
        Err(self.error(start, "the quote is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_has_every_field() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/filter.md");
        let page = std::fs::read_to_string(path).unwrap();
        for resource in [Resource::Tasks, Resource::Runs, Resource::Queues, Resource::Workers, Resource::Logs] {
            // The rows of the table from its name on to the next one.
            let begin = page.find(&format!("\n| {} |", resource.as_str())).unwrap() + 1;
            let mut rows = page[begin..].lines().take_while(|row| row.starts_with('|'));
            let first = rows.next().into_iter();
            let rows: String = first.chain(rows.take_while(|row| row.starts_with("| |"))).collect();
            for field in resource.fields() {
                assert!(rows.contains(&format!("`{field}`")), "{field} of {} is missing", resource.as_str());
            }
            for prefix in resource.prefixes() {
                assert!(rows.contains(&format!("`{prefix}NAME`")), "{prefix} of {} is missing", resource.as_str());
            }
        }
    }

    /// A filter in a form that shows how it was read.
    fn check(text: &str, wanted: &str) {
        let shown = match Filter::parse(Resource::Tasks, text) {
            Err(error) => format!("{error}"),
            Ok(filter) => filter.terms.iter().map(show).collect::<Vec<_>>().join(" & "),
        };
        assert_eq!(shown, wanted, "{text}");
    }

    fn show(term: &Term) -> String {
        let sign = if term.negated { "not " } else { "" };
        match &term.what {
            What::Word(word) => format!("{sign}word({word})"),
            What::Field { name, op, values } => format!("{sign}{name} {op:?} {values:?}"),
        }
    }

    #[test]
    fn the_example_of_the_reference_reads() {
        check(
            r#"state:failed,dead queue:pdf label.env:prod after:2h attempts:>3 -type:noop "time out""#,
            "state Is [Exact(\"failed\"), Exact(\"dead\")] & queue Is [Exact(\"pdf\")] \
             & label.env Is [Exact(\"prod\")] & after Is [Exact(\"2h\")] & attempts Greater [Exact(\"3\")] \
             & not type Is [Exact(\"noop\")] & word(time out)",
        );
    }

    #[test]
    fn ranges_prefixes_and_presence() {
        check("attempts:2..5", "attempts Is [Range(Some(\"2\"), Some(\"5\"))]");
        check("created:2026-01-01..", "created Is [Range(Some(\"2026-01-01\"), None)]");
        check("type:pdf*", "type Is [Prefix(\"pdf\")]");
        check("error:*", "error Is [Any]");
        check("attempts>=3", "attempts AtLeast [Exact(\"3\")]");
        check(r#"type:"a b",c"#, "type Is [Exact(\"a b\"), Exact(\"c\")]");
        check(r#"label.Env:"*""#, "label.Env Is [Exact(\"*\")]");
        check(r#""a \"b\"" word"#, "word(a \"b\") & word(word)");
        check("", "");
    }

    #[test]
    fn errors_have_a_position_and_the_nearest_name() {
        check("state:failed quueue:pdf", "at position 14: unknown field 'quueue'; did you mean 'queue'?");
        check("state:", "at position 7: a value is missing");
        check("\"open", "at position 1: the quote is not closed");
        check("- x", "at position 1: a '-' has to stand before a term");
        check("attempts:..", "at position 10: a range needs at least one end");
        check("attempts>1,2", "at position 1: a comparison has one value");
        check("\"a\"b", "at position 4: a space is missing between two terms");
        check("a\"b", "at position 2: a quote stands inside a word; put the whole text in quotes");
        assert!(Filter::parse(Resource::Tasks, "12:30").unwrap_err().message.contains("tasks have id, created"));
    }

    #[test]
    fn each_resource_has_its_own_fields() {
        assert!(Filter::parse(Resource::Queues, "depth:>10").is_ok());
        assert!(Filter::parse(Resource::Tasks, "depth:>10").is_err());
        assert!(Filter::parse(Resource::Workers, "label.gpu:true capability:python").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            let _ = Filter::parse(Resource::Tasks, &text);
        }

        #[test]
        fn no_filter_like_text_makes_it_panic(text in r#"(-|state|label\.|:|>|<|=|"|,|\.\.|\*| |ä|\\){0,20}"#) {
            let _ = Filter::parse(Resource::Tasks, &text);
        }
    }
}
