//! A workflow as nodes and edges, as DOT and as Mermaid.

use std::fmt::Write;

use serde::Serialize;

use crate::model::{Document, Kind, Statement};
use crate::saga;
use crate::text::Tree;

/// A workflow as a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// `namespace/name:version`.
    pub workflow: String,
    /// Start, end and the statements.
    pub nodes: Vec<Node>,
    /// Ways between them.
    pub edges: Vec<Edge>,
}

/// A statement, or `start` or `end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its reference, or `start` or `end`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its keyword, with what is called or run where that is known.
    pub kind: String,
    /// The statement around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// A way from one statement to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Id of the first.
    pub from: String,
    /// Id of the second.
    pub to: String,
    /// When it is taken; empty = always.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

impl Graph {
    /// The graph of a document.
    pub fn of(tree: &Tree, document: &Document) -> Graph {
        let workflow = format!("{}/{}:{}", document.namespace.text, document.name.text, document.version.text);
        let mut graph = Graph { workflow, nodes: Vec::new(), edges: Vec::new() };
        graph.node("start", "start", "start", None);
        graph.list(tree, &document.body, "start", "", None);
        graph.node("end", "end", "end", None);
        graph
    }

    fn node(&mut self, id: &str, name: &str, kind: &str, parent: Option<&str>) {
        self.nodes.push(Node {
            id: id.into(),
            name: name.into(),
            kind: kind.into(),
            parent: parent.map(str::to_string),
        });
    }

    fn edge(&mut self, from: &str, to: &str, label: &str) {
        let edge = Edge { from: from.into(), to: to.into(), label: label.into() };
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    /// A list that is entered from a node.
    fn list(&mut self, tree: &Tree, list: &[Statement], from: &str, label: &str, parent: Option<&str>) {
        let ids: Vec<String> = list.iter().map(|statement| tree.pointer(statement.at)).collect();
        // The end of the outermost list is the end of the run; that of an inner one leads back to the statement around it.
        let leave = if parent.is_none() { "end" } else { "" };
        match ids.first() {
            Some(first) => self.edge(from, first, label),
            None if !leave.is_empty() => self.edge(from, leave, label),
            None => {}
        }
        for (at, statement) in list.iter().enumerate() {
            let id = &ids[at];
            self.node(id, &statement.name, &kind(tree, statement), parent);
            self.inside(tree, statement, id);
            let target = |name: &str| match name {
                "continue" => ids.get(at + 1).map_or(leave, String::as_str).to_string(),
                "exit" => leave.to_string(),
                "end" => "end".to_string(),
                name => list.iter().position(|one| &*one.name == name).map(|at| ids[at].clone()).unwrap_or_default(),
            };
            let mut ways: Vec<(String, String)> = Vec::new();
            let mut falls_through = !matches!(statement.kind, Kind::Raise(_));
            match &statement.kind {
                Kind::Switch(cases) => {
                    for case in cases {
                        ways.push((target(&case.then.text), case.name.to_string()));
                    }
                    falls_through = cases.iter().all(|case| case.when.is_some());
                }
                Kind::Try { catch, .. } => {
                    ways.extend(catch.then.iter().map(|then| (target(&then.text), "caught".to_string())));
                }
                _ => {}
            }
            if falls_through {
                let label = if matches!(statement.kind, Kind::Switch(_)) { "else" } else { "" };
                let then = statement.then.as_ref().map_or("continue", |then| &*then.text);
                ways.push((target(then), label.to_string()));
            }
            for (to, label) in ways.iter().filter(|(to, _)| !to.is_empty()) {
                self.edge(id, to, label);
            }
        }
    }

    fn inside(&mut self, tree: &Tree, statement: &Statement, id: &str) {
        if let Some(steps) = saga::steps(tree, statement) {
            return self.saga(tree, &steps, id);
        }
        match &statement.kind {
            Kind::Fork { branches, .. } => {
                for branch in branches {
                    let inner = tree.pointer(branch.at);
                    self.edge(id, &inner, "branch");
                    self.node(&inner, &branch.name, &kind(tree, branch), Some(id));
                    self.inside(tree, branch, &inner);
                }
            }
            Kind::Try { body, catch } => {
                self.list(tree, body, id, "try", Some(id));
                if let Some(body) = &catch.body {
                    self.list(tree, body, id, "catch", Some(id));
                }
            }
            Kind::For { body, .. } => self.list(tree, body, id, "each", Some(id)),
            _ => {
                for list in statement.lists() {
                    self.list(tree, list, id, "", Some(id));
                }
            }
        }
    }

    /// Steps one after another; from one that fails the way back leads over the undos of those before it.
    fn saga(&mut self, tree: &Tree, steps: &[saga::Part], id: &str) {
        // The undo with which the way back begins.
        let mut back: Option<String> = None;
        for (at, step) in steps.iter().enumerate() {
            let from = at.checked_sub(1).map_or(id, |before| &steps[before].reference);
            self.edge(from, &step.reference, if at == 0 { "step" } else { "" });
            let function = tree.get(step.at, "do");
            let kind = function.map_or_else(String::new, |function| saga::called(tree, function, step.with));
            self.node(&step.reference, &step.name, &kind, Some(id));
            if let Some(undo) = &back {
                self.edge(&step.reference, undo, "fails");
            }
            if let Some((function, with)) = step.undo {
                let undo = format!("{}/undo", step.reference);
                self.node(&undo, &format!("undo {}", step.name), &saga::called(tree, function, with), Some(id));
                if let Some(before) = &back {
                    self.edge(&undo, before, "");
                }
                back = Some(undo);
            }
        }
        // A saga that is stopped behind its last step undoes that, too.
        if let (Some(undo), Some(last)) = (&back, steps.last())
            && last.undo.is_some()
        {
            self.edge(&last.reference, undo, "stopped");
        }
    }

    /// As text for Graphviz.
    pub fn dot(&self) -> String {
        let mut out =
            format!("digraph {} {{\n  rankdir=TB;\n  node [shape=box, style=rounded];\n", quoted(&self.workflow));
        self.dot_level(&mut out, None, 1);
        for Edge { from, to, label } in &self.edges {
            let label = if label.is_empty() { String::new() } else { format!(" [label={}]", quoted(label)) };
            let _ = writeln!(out, "  {} -> {}{label};", quoted(from), quoted(to));
        }
        out + "}\n"
    }

    fn dot_level(&self, out: &mut String, parent: Option<&str>, depth: usize) {
        let pad = "  ".repeat(depth);
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.parent.as_deref() == parent) {
            let label =
                if node.kind == node.name { node.name.clone() } else { format!("{}\n{}", node.name, node.kind) };
            let _ = writeln!(out, "{pad}{} [label={}];", quoted(&node.id), quoted(&label));
            if self.nodes.iter().any(|inner| inner.parent.as_deref() == Some(&node.id)) {
                let _ = writeln!(out, "{pad}subgraph cluster_{index} {{\n{pad}  label={};", quoted(&node.name));
                self.dot_level(out, Some(&node.id), depth + 1);
                let _ = writeln!(out, "{pad}}}");
            }
        }
    }

    /// As text for Mermaid.
    pub fn mermaid(&self) -> String {
        let mut out = String::from("flowchart TD\n");
        self.mermaid_level(&mut out, None, 1);
        for Edge { from, to, label } in &self.edges {
            let (from, to) = (self.number(from), self.number(to));
            let _ = match label.is_empty() {
                true => writeln!(out, "  n{from} --> n{to}"),
                false => writeln!(out, "  n{from} -->|{}| n{to}", escaped(label)),
            };
        }
        out
    }

    fn number(&self, id: &str) -> usize {
        self.nodes.iter().position(|node| node.id == id).unwrap_or(0)
    }

    fn mermaid_level(&self, out: &mut String, parent: Option<&str>, depth: usize) {
        let pad = "  ".repeat(depth);
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.parent.as_deref() == parent) {
            let name = escaped(&node.name);
            let _ = match &*node.kind {
                "start" | "end" => writeln!(out, "{pad}n{index}(({name}))"),
                "switch" => writeln!(out, "{pad}n{index}{{\"{name}\"}}"),
                kind => writeln!(out, "{pad}n{index}[\"{name}<br/>{}\"]", escaped(kind)),
            };
            if self.nodes.iter().any(|inner| inner.parent.as_deref() == Some(&node.id)) {
                let _ = writeln!(out, "{pad}subgraph s{index}[\"{name}\"]");
                self.mermaid_level(out, Some(&node.id), depth + 1);
                let _ = writeln!(out, "{pad}end");
            }
        }
    }
}

/// The keyword of a statement, with what it calls or runs.
fn kind(tree: &Tree, statement: &Statement) -> String {
    let keyword = statement.kind.keyword();
    let detail = match keyword {
        "call" => tree.get(statement.at, "call").and_then(|at| tree.text(at)).map(str::to_string),
        "run" => tree
            .get(statement.at, "run")
            .and_then(|at| tree.entries(at).iter().find(|(name, _)| !["await", "return"].contains(&&**name)))
            .map(|(name, _)| name.to_string()),
        _ => None,
    };
    match detail {
        Some(detail) => format!("{keyword}: {detail}"),
        None => keyword.to_string(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;").replace('|', "&#124;")
}
