//! YAML through the events of the parser.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, Tag};
use serde_json::Number;

use super::{At, Comment, MAX_ALIASED, MAX_DEPTH, Node, Tree, fault};
use crate::diagnostic::{Diagnostic, Position, Span};

/// A list or map that is not closed yet.
enum Open {
    List {
        start: Span,
        anchor: usize,
        items: Vec<At>,
    },
    Map {
        start: Span,
        anchor: usize,
        entries: Vec<(Box<str>, At)>,
        names: HashSet<Box<str>>,
        key: Option<(Box<str>, Span)>,
    },
}

struct Reader<'t> {
    text: &'t str,
    tree: Tree,
    open: Vec<Open>,
    anchors: HashMap<usize, (At, usize)>,
    aliased: usize,
    documents: usize,
    /// End of the last value, for the end of the list or map around it: block collections end where their last value does.
    end: Position,
}

pub(super) fn parse(text: &str) -> Result<Tree, Diagnostic> {
    let options = granit_parser::options! { flow_nesting_limit: 200, block_nesting_limit: 200, max_buffered_comment_events: 100_000 };
    let mut reader = Reader {
        text,
        tree: Tree::default(),
        open: Vec::new(),
        anchors: HashMap::new(),
        aliased: 0,
        documents: 0,
        end: Position { line: 1, column: 1, offset: 0 },
    };
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((event, span)) => {
                reader.event(event, Span { start: position(&span.start), end: position(&span.end) })?
            }
            Err(error) => {
                let at = position(error.marker());
                let span = Span { start: at, end: at };
                if *error.kind() == ErrorKind::RecursionLimitExceeded {
                    return Err(too_deep(span));
                }
                return Err(fault("syntax", format!("not readable as YAML: {}", error.info()), span));
            }
        }
    }
    if reader.tree.root.is_none() {
        return Err(fault("empty", "the document is empty".to_string(), Span::default())
            .hint("a workflow has at least `document` and `do`"));
    }
    Ok(reader.tree)
}

fn too_deep(span: Span) -> Diagnostic {
    fault("too-deep", format!("nested more than {MAX_DEPTH} levels deep"), span)
}

fn position(marker: &Marker) -> Position {
    Position {
        line: marker.line() as u32,
        column: marker.col() as u32 + 1,
        offset: marker.byte_offset().unwrap_or(marker.index()) as u32,
    }
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(fault(
                        "several-documents",
                        "a file holds one workflow; a second document starts here".into(),
                        span,
                    )
                    .hint("put each workflow in its own file"));
                }
                Ok(())
            }
            Event::Comment(text, _) => {
                let line_start = self.text[..span.start.offset as usize].rfind('\n').map_or(0, |at| at + 1);
                let trailing = !self.text[line_start..span.start.offset as usize].trim().is_empty();
                self.tree.comments.push(Comment { span, text: text.into_owned(), trailing });
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.key(&text, style, tag.as_deref(), anchor, span);
                }
                let span = trim(self.text, span, style);
                let node = scalar(&text, style, tag.as_deref(), span)?;
                let at = self.tree.add(span, node);
                self.value(at, anchor, span)
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "seq", span)?;
                self.start(Open::List { start: span, anchor, items: Vec::new() }, span)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), "map", span)?;
                self.start(
                    Open::Map { start: span, anchor, entries: Vec::new(), names: HashSet::new(), key: None },
                    span,
                )
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => self.alias(id, span),
            _ => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn start(&mut self, open: Open, span: Span) -> Result<(), Diagnostic> {
        if self.wants_key() {
            return Err(fault("key-not-text", "a key has to be a text, not a list or map".into(), span));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.open.push(open);
        Ok(())
    }

    fn key(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        anchor: usize,
        span: Span,
    ) -> Result<(), Diagnostic> {
        check_tag(tag, "str", span)?;
        if anchor > 0 {
            let at = self.tree.add(span, Node::String(text.into()));
            self.anchors.insert(anchor, (at, text.len() + 1));
        }
        let span = trim(self.text, span, style);
        let Some(Open::Map { entries, names, key, .. }) = self.open.last_mut() else { return Ok(()) };
        if !names.insert(text.into()) {
            let first = entries.iter().find(|(name, _)| &**name == text);
            let line = first.map_or(0, |(_, first)| self.tree.key_span(*first).start.line);
            return Err(fault("duplicate-key", format!("the key `{text}` is given twice; first in line {line}"), span)
                .hint("drop one of the two"));
        }
        *key = Some((text.into(), span));
        Ok(())
    }

    fn value(&mut self, at: At, anchor: usize, span: Span) -> Result<(), Diagnostic> {
        if anchor > 0 {
            let size = size(&self.tree, at);
            self.anchors.insert(anchor, (at, size));
        }
        self.end = self.end.max(span.end);
        match self.open.last_mut() {
            None => self.tree.root = Some(at),
            Some(Open::List { items, .. }) => items.push(at),
            Some(Open::Map { entries, key, .. }) => {
                let Some((name, key_span)) = key.take() else { return Ok(()) };
                self.tree.nodes[at.0 as usize].key = Some(key_span);
                entries.push((name, at));
                self.end = self.end.max(key_span.end);
            }
        }
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Diagnostic> {
        let (start, anchor, node) = match self.open.pop() {
            Some(Open::List { start, anchor, items }) => (start, anchor, Node::List(items)),
            Some(Open::Map { start, anchor, entries, .. }) => (start, anchor, Node::Map(entries)),
            None => return Ok(()),
        };
        // The end of a flow collection is its bracket; that of a block collection is where its last value ended.
        let flow =
            self.text[start.start.offset as usize..].starts_with(['[', '{']) && span.end.offset > span.start.offset;
        let end = if flow { span.end } else { self.end.max(start.start) };
        let span = Span { start: start.start, end };
        let at = self.tree.add(span, node);
        self.value(at, anchor, span)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Diagnostic> {
        let Some((from, size)) = self.anchors.get(&id).copied() else {
            return Err(fault("alias", "the alias names a value that is not complete yet".into(), span));
        };
        if self.wants_key() {
            let Some(text) = self.tree.text(from).map(str::to_string) else {
                return Err(fault("key-not-text", "a key has to be a text".into(), span));
            };
            return self.key(&text, ScalarStyle::Plain, None, 0, span);
        }
        self.aliased += size;
        if self.aliased > MAX_ALIASED {
            return Err(fault("alias-too-large", format!("the aliases stand for more than {MAX_ALIASED} bytes"), span)
                .hint("write the values out, or use `use.functions`"));
        }
        if self.open.len() + height(&self.tree, from) > MAX_DEPTH {
            return Err(too_deep(span));
        }
        let at = self.tree.copy(from, span);
        self.value(at, 0, span)
    }
}

/// Bytes that a value takes, about: each value counts at least 16, so that empty ones cost something too.
fn size(tree: &Tree, at: At) -> usize {
    match tree.node(at) {
        Node::String(text) => text.len() + 16,
        Node::List(items) => 16 + items.iter().map(|item| size(tree, *item)).sum::<usize>(),
        Node::Map(entries) => 16 + entries.iter().map(|(key, value)| key.len() + size(tree, *value)).sum::<usize>(),
        _ => 16,
    }
}

fn height(tree: &Tree, at: At) -> usize {
    match tree.node(at) {
        Node::List(items) => 1 + items.iter().map(|item| height(tree, *item)).max().unwrap_or(0),
        Node::Map(entries) => 1 + entries.iter().map(|(_, value)| height(tree, *value)).max().unwrap_or(0),
        _ => 0,
    }
}

/// The parser lets plain and block scalars run up to the next token; a reader wants the text alone.
fn trim(text: &str, span: Span, style: ScalarStyle) -> Span {
    let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    let Some(inside) = text.get(span.start.offset as usize..span.end.offset as usize) else { return span };
    let kept = inside.trim_end();
    if quoted || kept.len() == inside.len() {
        return span;
    }
    let lines = kept.matches('\n').count() as u32;
    let column = match kept.rfind('\n') {
        Some(at) => kept[at + 1..].chars().count() as u32 + 1,
        None => span.start.column + kept.chars().count() as u32,
    };
    let offset = span.start.offset + kept.len() as u32;
    Span { start: span.start, end: Position { line: span.start.line + lines, column, offset } }
}

fn tag_name(tag: &Tag) -> String {
    let text = tag.to_string();
    text.trim_start_matches("tag:yaml.org,2002:").trim_start_matches('!').to_string()
}

fn check_tag(tag: Option<&Tag>, expected: &str, span: Span) -> Result<(), Diagnostic> {
    match tag.map(tag_name) {
        None => Ok(()),
        Some(name) if name == expected || name.is_empty() => Ok(()),
        Some(name) => Err(unknown_tag(&name, span)),
    }
}

fn unknown_tag(name: &str, span: Span) -> Diagnostic {
    fault("tag", format!("the tag `{name}` is not part of YAML's core schema, or does not fit this value"), span)
        .hint("drop the tag")
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Node, Diagnostic> {
    let string = || Node::String(text.into());
    match tag.map(tag_name) {
        None if style == ScalarStyle::Plain => plain(text, span),
        None => Ok(string()),
        Some(name) if name == "str" || name.is_empty() => Ok(string()),
        Some(name) => {
            let node = plain(text, span)?;
            let fits = match &node {
                Node::Null => name == "null",
                Node::Bool(_) => name == "bool",
                Node::Number(number) => name == "float" || (name == "int" && !number.is_f64()),
                _ => false,
            };
            if fits { Ok(node) } else { Err(unknown_tag(&name, span)) }
        }
    }
}

/// The core schema's reading of a plain scalar.
fn plain(text: &str, span: Span) -> Result<Node, Diagnostic> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Node::Null,
        "true" | "True" | "TRUE" => Node::Bool(true),
        "false" | "False" | "FALSE" => Node::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => {
            return Err(fault("number", format!("`{text}` is not a number that JSON knows"), span)
                .hint("put it in quotes if a text is meant"));
        }
        _ => match number(text) {
            Some(number) => Node::Number(number),
            None => Node::String(text.into()),
        },
    })
}

/// Decimal, `0o` and `0x` integers and decimal floats of the core schema.
pub(crate) fn number(text: &str) -> Option<Number> {
    if let Some(octal) = text.strip_prefix("0o") {
        return plain_digits(octal, 8).then(|| u64::from_str_radix(octal, 8).ok())?.map(Number::from);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return plain_digits(hex, 16).then(|| u64::from_str_radix(hex, 16).ok())?.map(Number::from);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if plain_digits(unsigned, 10) {
        let whole = text.strip_prefix('+').unwrap_or(text);
        if let Ok(number) = whole.parse::<i64>() {
            return Some(number.into());
        }
        if let Ok(number) = whole.parse::<u64>() {
            return Some(number.into());
        }
        return Number::from_f64(whole.parse().ok()?);
    }
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| plain_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent), 10));
    if fits { Number::from_f64(text.strip_prefix('+').unwrap_or(text).parse().ok()?) } else { None }
}

fn plain_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|char| char.is_digit(radix))
}
