//! Text to a tree in which every value knows where it stands. YAML 1.2 core schema, and JSON.

mod json;
mod yaml;

pub(crate) use yaml::number as plain_number;

use serde_json::Number;

use crate::diagnostic::{Diagnostic, Position, Severity, Span};

/// Largest text in bytes.
pub const MAX_TEXT: usize = 4 << 20;
/// Deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 128;
/// Bytes that all aliases of a document together may stand for.
pub const MAX_ALIASED: usize = 1 << 20;

/// A value of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At(pub(crate) u32);

/// A parsed text.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: Vec<Item>,
    /// Comments in the order of the text.
    pub(crate) comments: Vec<Comment>,
    root: Option<At>,
}

/// A comment.
#[derive(Clone, Debug)]
pub(crate) struct Comment {
    /// Where: from its `#` on.
    pub(crate) span: Span,
    /// What follows the `#`.
    pub(crate) text: String,
    /// Whether something stands before it in its line.
    pub(crate) trailing: bool,
}

#[derive(Clone, Debug)]
struct Item {
    span: Span,
    /// The key, where it is the value of one.
    key: Option<Span>,
    parent: Option<At>,
    step: Step,
    node: Node,
}

/// How a parent reaches a value.
#[derive(Clone, Debug)]
enum Step {
    Root,
    Key(Box<str>),
    Index(usize),
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    String(Box<str>),
    /// A list.
    List(Vec<At>),
    /// A map, in the order of the text.
    Map(Vec<(Box<str>, At)>),
}

impl Tree {
    /// Reads a text. Errors name the first place that could not be read.
    pub fn parse(text: &[u8]) -> Result<Tree, Diagnostic> {
        if text.len() > MAX_TEXT {
            let message = format!("the document has {} bytes; at most {MAX_TEXT} are read", text.len());
            return Err(fault("text-too-large", message, Span::default()));
        }
        let text = match std::str::from_utf8(text) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                let at = position_of(&text[..error.valid_up_to()]);
                return Err(fault("not-utf8", "the document is not UTF-8".to_string(), Span { start: at, end: at }));
            }
        };
        // JSON is nearly a subset of YAML; what is not (escapes of surrogate pairs) is the reason to read it first.
        if text.trim_start().starts_with(['{', '['])
            && let Ok(tree) = json::parse(text, MAX_DEPTH)
        {
            return Ok(tree);
        }
        yaml::parse(text)
    }

    /// A tree of a value that has no text.
    pub(crate) fn from_json(value: &serde_json::Value) -> Tree {
        let mut tree = Tree::default();
        let root = tree.plant(value, Span::default());
        tree.root = Some(root);
        tree
    }

    /// The outermost value.
    pub fn root(&self) -> At {
        self.root.expect("a parsed text has a root")
    }

    /// A value.
    pub fn node(&self, at: At) -> &Node {
        &self.nodes[at.0 as usize].node
    }

    /// Where a value stands.
    pub fn span(&self, at: At) -> Span {
        self.nodes[at.0 as usize].span
    }

    /// Where its key stands, or the value itself if it has none.
    pub fn key_span(&self, at: At) -> Span {
        let item = &self.nodes[at.0 as usize];
        item.key.unwrap_or(item.span)
    }

    /// The value around it.
    pub fn parent(&self, at: At) -> Option<At> {
        self.nodes[at.0 as usize].parent
    }

    /// JSON pointer to it.
    pub fn pointer(&self, at: At) -> String {
        let mut steps = Vec::new();
        let mut here = Some(at);
        while let Some(at) = here {
            let item = &self.nodes[at.0 as usize];
            match &item.step {
                Step::Root => {}
                Step::Key(key) => steps.push(key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => steps.push(index.to_string()),
            }
            here = item.parent;
        }
        steps.iter().rev().fold(String::new(), |path, step| path + "/" + step)
    }

    /// The value at a JSON pointer.
    pub fn find(&self, pointer: &str) -> Option<At> {
        let mut here = self.root();
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            here = match self.node(here) {
                Node::List(items) => *items.get(step.parse::<usize>().ok()?)?,
                Node::Map(_) => self.get(here, &step)?,
                _ => return None,
            };
        }
        Some(here)
    }

    /// The value of a key of a map.
    pub fn get(&self, at: At, key: &str) -> Option<At> {
        self.entries(at).iter().find(|(name, _)| &**name == key).map(|(_, value)| *value)
    }

    /// The entries of a map; none if it is no map.
    pub fn entries(&self, at: At) -> &[(Box<str>, At)] {
        match self.node(at) {
            Node::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none if it is no list.
    pub fn items(&self, at: At) -> &[At] {
        match self.node(at) {
            Node::List(items) => items,
            _ => &[],
        }
    }

    /// A text.
    pub fn text(&self, at: At) -> Option<&str> {
        match self.node(at) {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON.
    pub fn json(&self, at: At) -> serde_json::Value {
        use serde_json::Value;
        match self.node(at) {
            Node::Null => Value::Null,
            Node::Bool(bool) => Value::Bool(*bool),
            Node::Number(number) => Value::Number(number.clone()),
            Node::String(text) => Value::String(text.to_string()),
            Node::List(items) => Value::Array(items.iter().map(|item| self.json(*item)).collect()),
            Node::Map(entries) => {
                Value::Object(entries.iter().map(|(key, value)| (key.to_string(), self.json(*value))).collect())
            }
        }
    }

    /// What a value is, in words.
    pub fn kind(&self, at: At) -> &'static str {
        match self.node(at) {
            Node::Null => "null",
            Node::Bool(_) => "a boolean",
            Node::Number(_) => "a number",
            Node::String(_) => "a text",
            Node::List(_) => "a list",
            Node::Map(_) => "a map",
        }
    }

    /// An error about a value.
    pub fn error(&self, at: At, code: &'static str, message: impl Into<String>) -> Diagnostic {
        self.finding(Severity::Error, at, code, message)
    }

    /// A finding about a value.
    pub fn finding(&self, severity: Severity, at: At, code: &'static str, message: impl Into<String>) -> Diagnostic {
        let (message, pointer, span) = (message.into(), self.pointer(at), self.span(at));
        Diagnostic { code, severity, message, pointer, span, hint: None, fix: None }
    }

    /// Puts a value under a path of keys from the root, making the maps on the way; it stands at `span`.
    pub(crate) fn graft(&mut self, path: &[&str], key: &str, value: &serde_json::Value, span: Span) {
        let mut here = self.root();
        for step in path {
            here = match self.get(here, step) {
                Some(next) => next,
                None => {
                    let map = self.add(span, Node::Map(Vec::new()));
                    self.attach(here, step, map);
                    map
                }
            };
        }
        let value = self.plant(value, span);
        self.attach(here, key, value);
    }

    fn attach(&mut self, parent: At, key: &str, value: At) {
        let item = &mut self.nodes[value.0 as usize];
        (item.parent, item.step) = (Some(parent), Step::Key(key.into()));
        if let Node::Map(entries) = &mut self.nodes[parent.0 as usize].node {
            entries.push((key.into(), value));
        }
    }

    fn plant(&mut self, value: &serde_json::Value, span: Span) -> At {
        use serde_json::Value;
        let node = match value {
            Value::Null => Node::Null,
            Value::Bool(bool) => Node::Bool(*bool),
            Value::Number(number) => Node::Number(number.clone()),
            Value::String(text) => Node::String(text.as_str().into()),
            Value::Array(items) => Node::List(items.iter().map(|item| self.plant(item, span)).collect()),
            Value::Object(fields) => {
                Node::Map(fields.iter().map(|(key, value)| (key.as_str().into(), self.plant(value, span))).collect())
            }
        };
        self.add(span, node)
    }

    fn add(&mut self, span: Span, node: Node) -> At {
        let at = At(u32::try_from(self.nodes.len()).expect("a text of 4 MiB has fewer values"));
        self.nodes.push(Item { span, key: None, parent: None, step: Step::Root, node });
        match &self.nodes[at.0 as usize].node {
            Node::List(items) => {
                for (index, item) in items.clone().into_iter().enumerate() {
                    let item = &mut self.nodes[item.0 as usize];
                    (item.parent, item.step) = (Some(at), Step::Index(index));
                }
            }
            Node::Map(entries) => {
                for (key, value) in entries.clone() {
                    let item = &mut self.nodes[value.0 as usize];
                    (item.parent, item.step) = (Some(at), Step::Key(key));
                }
            }
            _ => {}
        }
        at
    }

    /// Copies a value, for an alias that stands at `span`.
    fn copy(&mut self, from: At, span: Span) -> At {
        let node = match self.node(from).clone() {
            Node::List(items) => Node::List(items.into_iter().map(|item| self.copy(item, span)).collect()),
            Node::Map(entries) => {
                Node::Map(entries.into_iter().map(|(key, value)| (key, self.copy(value, span))).collect())
            }
            leaf => leaf,
        };
        self.add(span, node)
    }
}

/// Reads JSON that this crate wrote: it may be deeper than a document, which is only a part of it.
pub(crate) fn read_json(text: &[u8]) -> Option<serde_json::Value> {
    let tree = json::parse(std::str::from_utf8(text).ok()?, MAX_DEPTH * 2).ok()?;
    Some(tree.json(tree.root()))
}

fn fault(code: &'static str, message: String, span: Span) -> Diagnostic {
    Diagnostic { code, severity: Severity::Error, message, pointer: String::new(), span, hint: None, fix: None }
}

/// The position behind a text.
fn position_of(before: &[u8]) -> Position {
    let text = String::from_utf8_lossy(before);
    let line = text.matches('\n').count();
    let column = text.rsplit('\n').next().map_or(0, |last| last.chars().count());
    Position { line: line as u32 + 1, column: column as u32 + 1, offset: before.len() as u32 }
}

#[cfg(test)]
mod tests;
