//! JSON with positions.

use std::collections::HashSet;

use serde_json::Number;

use super::{At, Node, Tree};
use crate::diagnostic::{Position, Span};

struct Reader<'t> {
    deepest: usize,
    text: &'t str,
    here: Position,
    tree: Tree,
    depth: usize,
}

/// Reads a text as JSON; `Err` = it is not JSON, or has keys twice, or is too deep: YAML's reader says which.
pub(super) fn parse(text: &str, deepest: usize) -> Result<Tree, ()> {
    let here = Position { line: 1, column: 1, offset: 0 };
    let mut reader = Reader { deepest, text, here, tree: Tree::default(), depth: 0 };
    reader.space();
    let root = reader.value()?;
    reader.space();
    if reader.here.offset as usize != text.len() {
        return Err(());
    }
    reader.tree.root = Some(root);
    Ok(reader.tree)
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.here.offset as usize..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn step(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.here.offset += char.len_utf8() as u32;
        if char == '\n' {
            self.here.line += 1;
            self.here.column = 1;
        } else {
            self.here.column += 1;
        }
        Some(char)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.step();
        }
    }

    fn take(&mut self, expected: char) -> Result<(), ()> {
        self.space();
        if self.step() == Some(expected) { Ok(()) } else { Err(()) }
    }

    fn value(&mut self) -> Result<At, ()> {
        self.space();
        let start = self.here;
        let node = match self.peek().ok_or(())? {
            '{' => self.map()?,
            '[' => self.list()?,
            '"' => Node::String(self.string()?.into()),
            _ => self.word()?,
        };
        Ok(self.tree.add(Span { start, end: self.here }, node))
    }

    fn word(&mut self) -> Result<Node, ()> {
        let start = self.here.offset as usize;
        while self.peek().is_some_and(|char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.')) {
            self.step();
        }
        match &self.text[start..self.here.offset as usize] {
            "null" => Ok(Node::Null),
            "true" => Ok(Node::Bool(true)),
            "false" => Ok(Node::Bool(false)),
            word => serde_json::from_str::<Number>(word).map(Node::Number).map_err(|_| ()),
        }
    }

    fn string(&mut self) -> Result<String, ()> {
        let start = self.here.offset as usize;
        self.step();
        loop {
            match self.step().ok_or(())? {
                '"' => break,
                '\\' => {
                    self.step().ok_or(())?;
                }
                _ => {}
            }
        }
        serde_json::from_str(&self.text[start..self.here.offset as usize]).map_err(|_| ())
    }

    fn enter(&mut self) -> Result<(), ()> {
        self.step();
        self.depth += 1;
        self.space();
        if self.depth > self.deepest { Err(()) } else { Ok(()) }
    }

    fn list(&mut self) -> Result<Node, ()> {
        self.enter()?;
        let mut items = Vec::new();
        if self.peek() != Some(']') {
            loop {
                items.push(self.value()?);
                self.space();
                if self.peek() != Some(',') {
                    break;
                }
                self.step();
            }
        }
        self.take(']')?;
        self.depth -= 1;
        Ok(Node::List(items))
    }

    fn map(&mut self) -> Result<Node, ()> {
        self.enter()?;
        let mut entries: Vec<(Box<str>, At)> = Vec::new();
        let mut names: HashSet<Box<str>> = HashSet::new();
        if self.peek() != Some('}') {
            loop {
                self.space();
                if self.peek() != Some('"') {
                    return Err(());
                }
                let start = self.here;
                let key: Box<str> = self.string()?.into();
                let span = Span { start, end: self.here };
                if !names.insert(key.clone()) {
                    return Err(());
                }
                self.take(':')?;
                let value = self.value()?;
                self.tree.nodes[value.0 as usize].key = Some(span);
                entries.push((key, value));
                self.space();
                if self.peek() != Some(',') {
                    break;
                }
                self.step();
            }
        }
        self.take('}')?;
        self.depth -= 1;
        Ok(Node::Map(entries))
    }
}
