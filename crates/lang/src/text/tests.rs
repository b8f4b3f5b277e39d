use proptest::prelude::*;
use serde_json::json;

use super::*;

fn error(text: &str) -> (&'static str, u32, u32) {
    let error = Tree::parse(text.as_bytes()).unwrap_err();
    (error.code, error.span.start.line, error.span.start.column)
}

fn value(text: &str) -> serde_json::Value {
    let tree = Tree::parse(text.as_bytes()).unwrap();
    tree.json(tree.root())
}

#[test]
fn yaml_is_read_by_the_core_schema_of_1_2() {
    assert_eq!(
        value("on: yes\noff: True\nn: ~\ni: 0x1f\no: 0o17\nf: 1.5e3\ns: '12'\nv: 0.1.0\nd: 2026-01-01\ne:\nold: 017\n"),
        json!({"on": "yes", "off": true, "n": null, "i": 31, "o": 15, "f": 1500.0, "s": "12", "v": "0.1.0",
            "d": "2026-01-01", "e": null, "old": 17})
    );
}

#[test]
fn every_value_knows_where_it_stands_and_its_pointer() {
    let text = "do:\n  - first:\n      set: # why\n        a/b: ${ .x }\n";
    let tree = Tree::parse(text.as_bytes()).unwrap();
    let at = tree.find("/do/0/first/set/a~1b").unwrap();
    let span = tree.span(at);
    assert_eq!((span.start.line, span.start.column, span.end.line, span.end.column), (4, 14, 4, 21));
    assert_eq!(&text[span.start.offset as usize..span.end.offset as usize], "${ .x }");
    assert_eq!(tree.key_span(at).start.column, 9);
    assert_eq!(tree.pointer(at), "/do/0/first/set/a~1b");
    assert_eq!(tree.comments.len(), 1);
    assert!(tree.comments[0].trailing);
}

#[test]
fn json_is_read_with_positions_and_escapes() {
    let text = "{\n  \"a\": [1, \"\\ud83d\\ude00\"]\n}";
    let tree = Tree::parse(text.as_bytes()).unwrap();
    assert_eq!(tree.json(tree.root()), json!({"a": [1, "😀"]}));
    let at = tree.find("/a/1").unwrap();
    assert_eq!((tree.span(at).start.line, tree.span(at).start.column), (2, 12));
}

#[test]
fn what_cannot_be_read_is_an_error_with_line_and_column() {
    assert_eq!(error("a: 1\nb: 2\na: 3\n"), ("duplicate-key", 3, 1));
    assert_eq!(error("{\"a\": 1,\n \"a\": 2}"), ("duplicate-key", 2, 2));
    assert_eq!(error("a: 1\n---\nb: 2\n").0, "several-documents");
    assert_eq!(error("a: [1\nb: 2").0, "syntax");
    assert_eq!(error("a: .nan\n"), ("number", 1, 4));
    assert_eq!(error("a: !thing x\n").0, "tag");
    assert_eq!(error("? [a]\n: 1\n").0, "key-not-text");
    assert_eq!(error("").0, "empty");
    assert_eq!(error("# only a comment\n").0, "empty");
    assert_eq!(Tree::parse(b"a: \xff").unwrap_err().code, "not-utf8");
    assert_eq!(Tree::parse(&vec![b' '; MAX_TEXT + 1]).unwrap_err().code, "text-too-large");
}

#[test]
fn nesting_is_bounded() {
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(Tree::parse(deep(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(error(&deep(MAX_DEPTH + 1)).0, "too-deep");
    assert_eq!(error(&deep(100_000)).0, "too-deep");
    let block: String = (0..200).map(|level| " ".repeat(level) + "a:\n").collect();
    assert_eq!(error(&block).0, "too-deep");
}

#[test]
fn aliases_are_read_up_to_a_bound() {
    assert_eq!(value("a: &x {b: 1}\nc: *x\n"), json!({"a": {"b": 1}, "c": {"b": 1}}));
    let mut bomb = "a0: &a0 [xxxxxxxxxx, xxxxxxxxxx]\n".to_string();
    for level in 1..30 {
        bomb += &format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1);
    }
    assert_eq!(error(&bomb).0, "alias-too-large");
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Tree::parse(&bytes);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[ \\n\\t\\-:{}\\[\\],#&*!|>'\"%@`a-c0-9.?~é😀]{0,120}") {
        let _ = Tree::parse(text.as_bytes());
    }
}
