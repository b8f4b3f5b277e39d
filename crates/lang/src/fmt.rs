//! Canonical formatting: two spaces, one statement shape, quotes only where needed; order, comments and single blank lines
//! stay. Formatting twice changes nothing, and the plan is the same before and after.

use crate::diagnostic::{Diagnostic, Span};
use crate::text::{At, Comment, Node, Tree, plain_number};

/// Widest list or map that stays on one line where its author wrote it so.
const WIDTH: usize = 100;

/// Formats a text. JSON stays JSON. Aliases are written out.
pub fn format(text: &[u8]) -> Result<String, Diagnostic> {
    let tree = Tree::parse(text)?;
    let text = String::from_utf8_lossy(text);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim_start().starts_with('{')
        && tree.comments.is_empty()
        && serde_json::from_str::<serde_json::Value>(text).is_ok()
    {
        let json = serde_json::to_string_pretty(&tree.json(tree.root())).unwrap_or_default();
        return Ok(json + "\n");
    }
    let blank = text.split('\n').map(|line| line.trim().is_empty()).collect();
    let mut writer = Writer { tree: &tree, text, blank, out: String::new(), comments: &tree.comments };
    let root = tree.root();
    if writer.inline(root).is_some() && !matches!(tree.node(root), Node::Map(_) | Node::List(_)) {
        writer.before(tree.span(root), 0);
    }
    writer.value(root, 0, false);
    let rest = writer.comments;
    for comment in rest {
        writer.own_line(comment, 0);
    }
    Ok(writer.out)
}

struct Writer<'t> {
    tree: &'t Tree,
    text: &'t str,
    /// Whether each line of the text is blank.
    blank: Vec<bool>,
    out: String,
    /// Comments that are not written yet.
    comments: &'t [Comment],
}

impl Writer<'_> {
    /// What stands before something: its comments, and one blank line where there was one.
    fn before(&mut self, span: Span, indent: usize) {
        while let [comment, rest @ ..] = self.comments {
            if comment.span.start.offset >= span.start.offset {
                break;
            }
            self.comments = rest;
            self.own_line(comment, indent);
        }
        self.gap(span.start.line);
    }

    fn own_line(&mut self, comment: &Comment, indent: usize) {
        if !comment.trailing {
            self.gap(comment.span.start.line);
        }
        self.out += &format!("{}#{}\n", " ".repeat(indent), comment.text.trim_end());
    }

    fn gap(&mut self, line: u32) {
        let blank = (line as usize).checked_sub(2).is_some_and(|above| self.blank.get(above).copied().unwrap_or(false));
        if blank && !self.out.is_empty() && !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    /// Ends a line, with the comment that stood at its end.
    fn end(&mut self, line: u32, before: Option<u32>) {
        if let [comment, rest @ ..] = self.comments
            && comment.trailing
            && comment.span.start.line == line
            && before.is_none_or(|before| comment.span.start.offset < before)
        {
            self.comments = rest;
            self.out += &format!(" #{}", comment.text.trim_end());
        }
        self.out.push('\n');
    }

    /// Writes a list or map in block style, or a leaf. `begun` = the first line has its indent already.
    fn value(&mut self, at: At, indent: usize, begun: bool) {
        match self.tree.node(at) {
            Node::Map(entries) if !entries.is_empty() => {
                for (index, (key, value)) in entries.clone().into_iter().enumerate() {
                    if !(begun && index == 0) {
                        self.before(self.tree.key_span(value), indent);
                        self.out += &" ".repeat(indent);
                    }
                    self.out += &scalar(&key, true);
                    self.out.push(':');
                    self.after_key(value, indent);
                }
            }
            Node::List(items) if !items.is_empty() => {
                for (index, item) in items.clone().into_iter().enumerate() {
                    if !(begun && index == 0) {
                        self.before(self.start_of(item), indent);
                        self.out += &" ".repeat(indent);
                    }
                    self.out.push('-');
                    match self.inline(item) {
                        Some(inline) => self.leaf(item, &inline, indent),
                        None => {
                            self.out.push(' ');
                            self.value(item, indent + 2, true);
                        }
                    }
                }
            }
            _ => {
                let inline = self.inline(at).unwrap_or_default();
                self.out += &inline;
                self.end(self.tree.span(at).end.line, None);
            }
        }
    }

    /// Where an item of a list begins: a map begins at its first key.
    fn start_of(&self, at: At) -> Span {
        match self.tree.node(at) {
            Node::Map(entries) if !entries.is_empty() => {
                let first = self.tree.key_span(entries[0].1);
                if self.tree.span(at).start.offset < first.start.offset { self.tree.span(at) } else { first }
            }
            _ => self.tree.span(at),
        }
    }

    fn after_key(&mut self, value: At, indent: usize) {
        match self.inline(value) {
            Some(inline) => self.leaf(value, &inline, indent),
            None => {
                let first = match self.tree.node(value) {
                    Node::Map(entries) => self.tree.key_span(entries[0].1),
                    Node::List(items) => self.start_of(items[0]),
                    _ => self.tree.span(value),
                };
                self.end(self.tree.key_span(value).end.line, Some(first.start.offset));
                self.value(value, indent + 2, false);
            }
        }
    }

    /// A value on the line of its key, or a text of several lines below it.
    fn leaf(&mut self, at: At, inline: &str, indent: usize) {
        if let Some(text) = self.tree.text(at)
            && let Some(header) = block_header(text)
        {
            self.out += &format!(" {header}");
            // A comment behind the header is the only one that can stand here.
            let first_line = self.tree.span(at).start.line;
            self.end(first_line, None);
            let pad = " ".repeat(indent + 2);
            for line in text.trim_end_matches('\n').split('\n') {
                if !line.is_empty() {
                    self.out += &pad;
                    self.out += line;
                }
                self.out.push('\n');
            }
            let extra = text.len() - text.trim_end_matches('\n').len();
            self.out.push_str(&"\n".repeat(extra.saturating_sub(1)));
            return;
        }
        if !inline.is_empty() {
            self.out.push(' ');
            self.out += inline;
        }
        self.end(self.tree.span(at).end.line, None);
    }

    /// The value on one line, if it stays there: a leaf, something empty, or what was on one line already.
    fn inline(&self, at: At) -> Option<String> {
        let span = self.tree.span(at);
        match self.tree.node(at) {
            Node::Map(entries) if entries.is_empty() => Some("{}".to_string()),
            Node::List(items) if items.is_empty() => Some("[]".to_string()),
            Node::Map(_) | Node::List(_) => {
                let flow = self.text.get(span.start.offset as usize..).is_some_and(|rest| rest.starts_with(['{', '[']));
                // What is far too long is not even tried: it would be written once for each level around it.
                let short = span.end.offset.saturating_sub(span.start.offset) as usize <= WIDTH * 4;
                if !flow || !short || span.start.line != span.end.line {
                    return None;
                }
                self.flow(at).filter(|written| written.chars().count() <= WIDTH)
            }
            Node::String(text) => Some(scalar(text, false)),
            Node::Null => Some("null".to_string()),
            leaf => Some(plain(leaf)),
        }
    }

    fn flow(&self, at: At) -> Option<String> {
        Some(match self.tree.node(at) {
            Node::Map(entries) if entries.is_empty() => "{}".to_string(),
            Node::List(items) if items.is_empty() => "[]".to_string(),
            Node::Map(entries) => {
                let fields: Option<Vec<String>> = entries
                    .iter()
                    .map(|(key, value)| Some(format!("{}: {}", scalar(key, true), self.flow(*value)?)))
                    .collect();
                format!("{{ {} }}", fields?.join(", "))
            }
            Node::List(items) => {
                let items: Option<Vec<String>> = items.iter().map(|item| self.flow(*item)).collect();
                format!("[ {} ]", items?.join(", "))
            }
            Node::String(text) if text.contains('\n') => return None,
            Node::String(text) => scalar(text, true),
            Node::Null => "null".to_string(),
            leaf => plain(leaf),
        })
    }
}

fn plain(leaf: &Node) -> String {
    match leaf {
        Node::Bool(bool) => bool.to_string(),
        Node::Number(number) => number.to_string(),
        _ => "null".to_string(),
    }
}

/// The header of the block that holds a text of several lines as it is, if one can.
fn block_header(text: &str) -> Option<&'static str> {
    let held = text.contains('\n')
        && text.chars().all(|char| {
            char == '\n' || char == '\t' || !char.is_control() && !matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}')
        })
        && !text.starts_with([' ', '\n', '\t'])
        && !text.trim_matches('\n').is_empty()
        && !text.trim_end_matches('\n').split('\n').any(|line| !line.is_empty() && line.trim().is_empty());
    match text.len() - text.trim_end_matches('\n').len() {
        _ if !held => None,
        0 => Some("|-"),
        1 => Some("|"),
        _ => Some("|+"),
    }
}

/// A text on one line: plain where that reads back as the same text, in quotes elsewhere.
fn scalar(text: &str, flow: bool) -> String {
    if is_plain(text, flow) {
        return text.to_string();
    }
    let odd = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}');
    if !text.chars().any(odd) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => quoted += "\\\"",
            '\\' => quoted += "\\\\",
            '\n' => quoted += "\\n",
            '\t' => quoted += "\\t",
            '\r' => quoted += "\\r",
            odd_one if odd(odd_one) => quoted += &format!("\\u{:04x}", odd_one as u32),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

fn is_plain(text: &str, flow: bool) -> bool {
    const WORDS: [&str; 12] = ["null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "="];
    let Some(first) = text.chars().next() else { return false };
    let indicator = "-?:,[]{}#&*!|>'\"%@`".contains(first);
    let numeric =
        first.is_ascii_digit() || "+.".contains(first) && text[1..].starts_with(|next: char| next.is_ascii_digit());
    let special = matches!(text, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN");
    !indicator
        && !numeric
        && !special
        && plain_number(text).is_none()
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        && text.trim() == text
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with(':')
        && !text
            .chars()
            .any(|char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}'))
        && !text.starts_with("---")
        && !text.starts_with("...")
        && !(flow && (text.contains([',', '[', ']', '{', '}', '"', '\'']) || text.contains(":,")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn comments_order_and_blank_lines_stay() {
        let text = "# head\ndocument:   # about\n    dsl: \"1.0.3\"\n\n\n    name: x # the name\ndo:\n- first:   # one\n    # why\n    set: {a: 1, b: \"two words\"}\n# end\n";
        let expected = "# head\ndocument: # about\n  dsl: '1.0.3'\n\n  name: x # the name\ndo:\n  - first: # one\n      # why\n      set: { a: 1, b: two words }\n# end\n";
        assert_eq!(format(text.as_bytes()).unwrap(), expected);
        assert_eq!(format(expected.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn texts_of_several_lines_become_blocks() {
        let text = "a: \"x\\ny\\n\"\nb: \"x\\n  y\"\nc:\n  - \"p\\n\\nq\\n\\n\"\n  - z\n";
        let expected = "a: |\n  x\n  y\nb: |-\n  x\n    y\nc:\n  - |+\n    p\n\n    q\n\n  - z\n";
        assert_eq!(format(text.as_bytes()).unwrap(), expected);
        assert_eq!(format(expected.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn json_stays_json() {
        assert_eq!(format(b"{\"a\":[1]}").unwrap(), "{\n  \"a\": [\n    1\n  ]\n}\n");
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_itself(text in "[ \\n\\t\\-:{}\\[\\],#&*!|>'\"%@`a-c0-9.?~é😀\\\\=+]{0,24}", key in "[ \\-:{},#&*'\"a-c0-9.?~]{1,8}") {
            let document = serde_json::json!({ key.clone(): { "list": [text.clone(), [text.clone()]], "map": {"k": text.clone()} }, "z": text });
            let yaml = serde_json::to_string(&document).unwrap();
            // A comment makes it YAML, so that it is not formatted as JSON.
            let once = format(format!("# x\n{yaml}\n").as_bytes()).unwrap();
            let tree = Tree::parse(once.as_bytes()).map_err(|error| TestCaseError::fail(format!("{error}\n{once}")))?;
            prop_assert_eq!(tree.json(tree.root()), document, "{}", once);
            prop_assert_eq!(format(once.as_bytes()).unwrap(), once);
        }
    }
}
