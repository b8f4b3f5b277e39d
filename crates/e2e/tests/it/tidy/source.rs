//! Rust sources as the checks need them: without comments, texts and test code, with functions and their lengths. A small
//! lexer of our own, so that a check of style brings no dependency.

use std::path::{Path, PathBuf};

/// A source file.
pub(crate) struct Source {
    /// Path from the root of the workspace, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Comments and the contents of texts replaced by spaces; line breaks stay.
    pub(crate) code: String,
    /// Like `code`, with items under `#[cfg(test)]` blanked too.
    pub(crate) product: String,
}

/// A function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

impl Source {
    pub(crate) fn read(root: &Path, path: &Path) -> Source {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let code = blank(&text);
        let product = without_tests(&code);
        let path = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        Source { path, text, code, product }
    }

    /// Lines of product code that contain a word, with their numbers.
    pub(crate) fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        self.product.lines().enumerate().filter(move |(_, line)| has_word(line, word)).map(|(i, line)| (i + 1, line))
    }

    /// Every function outside tests.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let bytes = self.product.as_bytes();
        let mut out = Vec::new();
        for (at, _) in self.product.match_indices("fn ") {
            let begins_word = at == 0 || !is_word(bytes[at - 1]);
            let name: String =
                self.product[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !begins_word || name.is_empty() {
                continue;
            }
            // The body begins at the first brace; a declaration without one ends with a semicolon before it. Brackets are
            // skipped, since an array type holds a semicolon too.
            let mut depth = 0;
            let open = bytes[at..].iter().position(|byte| {
                match byte {
                    b'(' | b'[' => depth += 1,
                    b')' | b']' => depth -= 1,
                    _ => {}
                }
                depth == 0 && matches!(byte, b'{' | b';')
            });
            let Some(open) = open.map(|i| at + i).filter(|i| bytes[*i] == b'{') else { continue };
            let close = closing(bytes, open);
            let line = line_of(&self.product, at);
            out.push(Function { name, line, lines: line_of(&self.product, close) - line + 1 });
        }
        out
    }
}

/// Every Rust file below a folder, in order of path.
pub(crate) fn below(root: &Path, folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    files.sort();
    files.iter().map(|path| Source::read(root, path)).collect()
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether `word` stands in a line and is no part of a longer word.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let bytes = line.as_bytes();
    line.match_indices(word).any(|(at, _)| {
        let end = at + word.len();
        let sound = |i: usize, edge: u8| !(is_word(edge) && bytes.get(i).copied().is_some_and(is_word));
        let before = at == 0 || sound(at - 1, bytes[at]);
        before && (end >= bytes.len() || sound(end, bytes[end - 1]))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// Index of the brace that closes the one at `open`.
fn closing(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return i;
        }
    }
    bytes.len() - 1
}

/// Blanks comments, texts and characters.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes.get(i + 1) == Some(&b'/') => find(bytes, i, b"\n"),
            b'/' if bytes.get(i + 1) == Some(&b'*') => block_comment(bytes, i),
            b'"' => string_end(bytes, i + 1),
            b'r' | b'b' | b'c' if i == 0 || !is_word(bytes[i - 1]) => prefixed_text(bytes, i).unwrap_or(i),
            b'\'' => character_end(bytes, i).unwrap_or(i),
            _ => i,
        };
        if end == i {
            i += 1;
            continue;
        }
        for byte in &mut out[i..end.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        i = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let found = bytes[from..].windows(what.len()).position(|w| w == what);
    found.map_or(bytes.len(), |i| from + i)
}

fn block_comment(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0;
    let mut i = from;
    while i < bytes.len() {
        match &bytes[i..bytes.len().min(i + 2)] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            break;
        }
    }
    i
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut i = from;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"`, `br#"…"#`, `b"…"`, `c"…"`; nothing if no text begins here.
fn prefixed_text(bytes: &[u8], from: usize) -> Option<usize> {
    let mut i = from;
    while matches!(bytes.get(i), Some(b'r' | b'b' | b'c')) && i - from < 2 {
        i += 1;
    }
    let raw = bytes[from..i].contains(&b'r');
    let hashes = bytes[i..].iter().take_while(|b| raw && **b == b'#').count();
    if bytes.get(i + hashes) != Some(&b'"') {
        return None;
    }
    let start = i + hashes + 1;
    if !raw {
        return Some(string_end(bytes, start));
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    Some(find(bytes, start, &close) + close.len())
}

/// The end of a character; nothing for a lifetime.
fn character_end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.get(from + 1) == Some(&b'\\') {
        return Some(find(bytes, from + 3, b"'") + 1);
    }
    // One character of up to four bytes, then the quote.
    (from + 2..=from + 5)
        .find(|i| bytes.get(*i) == Some(&b'\''))
        .filter(|i| {
            let inner = bytes.get(from + 1..*i).unwrap_or_default();
            std::str::from_utf8(inner).is_ok_and(|c| c.chars().count() == 1)
        })
        .map(|i| i + 1)
}

/// Blanks every item under `#[cfg(test)]` and every test function.
fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (at, mark) in code.match_indices("#[cfg(test)]").chain(code.match_indices("#[test]")) {
        let from = at + mark.len();
        let bytes = code.as_bytes();
        let Some(open) = bytes[from..].iter().position(|b| matches!(b, b'{' | b';')).map(|i| from + i) else {
            continue;
        };
        let end = if bytes[open] == b'{' { closing(bytes, open) } else { open };
        for byte in &mut out[at..=end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn comments_texts_and_tests_are_blanked() {
    let text = "fn a() { let x = \"fn b() {\"; // {\n let c = '{'; let r = r#\"\"}\"#; }\n#[cfg(test)]\nmod tests { fn t() {} }\n";
    let code = blank(text);
    assert_eq!(code.matches('{').count(), 3);
    assert_eq!(code.lines().count(), text.lines().count());
    let product = without_tests(&code);
    assert!(!product.contains("fn t"));
    let source = Source { path: String::new(), text: String::new(), code, product };
    let functions = source.functions();
    assert_eq!(functions.iter().map(|f| (f.name.as_str(), f.lines)).collect::<Vec<_>>(), [("a", 2)]);
}

#[test]
fn lifetimes_are_no_characters() {
    let code = blank("fn a<'a>(x: &'a str) -> char { 'b' }");
    assert!(code.contains("<'a>"), "{code}");
    assert!(!code.contains("'b'"), "{code}");
}
