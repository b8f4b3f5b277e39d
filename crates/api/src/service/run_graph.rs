//! The graph of the document that a run follows, with what the run made of each statement.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use tidewheel_engine::id::RunId;
use tidewheel_engine::run::head::Phase;
use tidewheel_lang::graph::Graph;
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::{moving, run, run_journal, workflow};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;
use crate::text::run_text;

/// Entries of the journal that are read, oldest first.
const ENTRIES: usize = 20_000;
/// Entries read at once.
const PAGE: usize = 1_000;
/// How what became of a statement is drawn.
const CLASSES: [(&str, &str); 4] = [
    ("open", "fill:#fff3c4,stroke:#b7791f,color:#1a202c"),
    ("done", "fill:#d6f5e0,stroke:#2f855a,color:#1a202c"),
    ("failed", "fill:#fbd5d5,stroke:#c53030,color:#1a202c"),
    ("cancelled", "fill:#e2e8f0,stroke:#718096,color:#1a202c,stroke-dasharray:4"),
];

/// What became of a statement.
#[derive(Default)]
struct Made {
    /// Of its newest entry.
    status: String,
    /// How often it was come to.
    entries: u64,
}

/// The graph of a run.
pub(crate) struct RunGraph {
    run: RunId,
    phase: Phase,
    graph: Graph,
    made: BTreeMap<String, Made>,
    more: bool,
}

/// Reads the journal of a run into the graph of its document.
pub(crate) async fn graph(api: &Api, caller: &Principal, id: RunId) -> Result<RunGraph, Failure> {
    let head = run::head(api, caller, id).await?;
    let gone = || Failure::new(Code::Conflict, "the document of the version that the run follows is not here any more");
    let resolved = moving::resolved(api, caller.tenant, &head.identity.plan).ok_or_else(gone)?;
    let graph = workflow::graph_of(&resolved)?;
    let (mut made, mut cursor, mut read) = (BTreeMap::<String, Made>::new(), None::<String>, 0);
    let more = loop {
        let page = run_journal::page(api, caller, id, cursor.as_deref(), PAGE).await?;
        read += page.items.len();
        // What a reset went back before is no part of what the run did.
        for entry in page.items.into_iter().filter(|entry| entry.status != "superseded") {
            let made = made.entry(entry.statement).or_default();
            (made.status, made.entries) = (entry.status, made.entries + 1);
        }
        cursor = page.next_cursor;
        if cursor.is_none() || read >= ENTRIES {
            break cursor.is_some();
        }
    };
    Ok(RunGraph { run: id, phase: head.phase, graph, made, more })
}

impl RunGraph {
    /// As it is answered.
    pub(crate) fn shown(&self) -> rest::RunGraph {
        let node = |node: &tidewheel_lang::graph::Node| {
            let mut shown = serde_json::to_value(node).unwrap_or_default();
            if let Some(status) = self.status(&node.id) {
                shown["status"] = status.into();
            }
            if let Some(made) = self.made.get(&node.id) {
                shown["entries"] = made.entries.into();
            }
            shown
        };
        let values = |edges: &[tidewheel_lang::graph::Edge]| -> Vec<Value> {
            edges.iter().map(|edge| serde_json::to_value(edge).unwrap_or_default()).collect()
        };
        rest::RunGraph {
            id: run_text(self.run),
            phase: run::phase_name(self.phase).to_owned(),
            workflow: self.graph.workflow.clone(),
            nodes: self.graph.nodes.iter().map(node).collect(),
            edges: values(&self.graph.edges),
            more: self.more,
        }
    }

    /// As a flowchart of Mermaid, in colours.
    pub(crate) fn mermaid(&self) -> String {
        let mut out = self.graph.mermaid();
        for (name, style) in CLASSES {
            let is_it = |(_, node): &(usize, &tidewheel_lang::graph::Node)| self.status(&node.id) == Some(name);
            let nodes: Vec<String> =
                self.graph.nodes.iter().enumerate().filter(is_it).map(|(number, _)| format!("n{number}")).collect();
            if !nodes.is_empty() {
                // Writing to a text never fails.
                let _ = write!(out, "  classDef {name} {style}\n  class {} {name}\n", nodes.join(","));
            }
        }
        out
    }

    fn status(&self, node: &str) -> Option<&str> {
        match node {
            "start" => Some("done"),
            "end" => (self.phase == Phase::Completed).then_some("done"),
            _ => self.made.get(node).map(|made| &*made.status),
        }
    }
}
