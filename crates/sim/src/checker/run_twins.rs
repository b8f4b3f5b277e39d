//! S10 and S13 across the two ways of saying a workflow: a document and a program that say the same, given the same number, come to
//! the same end with the same output, start the same runs, and do the same steps with the same arguments, in the same order in
//! each branch. What was undone was undone in the same order.

use std::collections::BTreeMap;

use tidewheel_engine::id::{RunId, TypeId};
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::journal::{EntryKind, Key};
use tidewheel_engine::task::Task;

use super::runs::{Found, Log, Runs};

/// A step of a run: where, what and of which number.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    branch: String,
    kind: TypeId,
    n: i64,
    undoes: bool,
}

/// Steps by entry and item.
pub(super) type Effects = BTreeMap<(u64, u64), Effect>;

/// Runs that say the same: the document and the program.
#[derive(Debug, Default)]
pub(crate) struct Twins {
    started: BTreeMap<u64, BTreeMap<bool, (usize, RunId)>>,
    /// Those that were compared, none of whose steps failed but as planned.
    pub(crate) compared: u64,
}

impl Twins {
    /// One of a pair was started.
    pub(crate) fn started(&mut self, pair: u64, program: bool, at: (usize, RunId)) {
        self.started.entry(pair).or_default().insert(program, at);
    }
}

/// A task of a run was stored.
pub(super) fn given(log: &Log, task: &Task, key: Option<&Key>, n: Option<i64>) -> Option<Effect> {
    let (key, n) = (key?, n?);
    let undoes = key.kind == EntryKind::Undo;
    (undoes || matches!(key.kind, EntryKind::Task | EntryKind::Map)).then(|| Effect {
        branch: branch(log, key),
        kind: task.kind,
        n,
        undoes,
    })
}

/// Where a statement stands among all branches: what is the same for all that are done one after another.
fn branch(log: &Log, key: &Key) -> String {
    if log.program.has_begun() {
        return key.scope.to_string();
    }
    let within =
        key.name.rfind("/branches/").and_then(|at| key.name[at + 1..].match_indices('/').nth(2).map(|i| at + 1 + i.0));
    key.name[..within.unwrap_or(0)].to_owned()
}

/// After everything: all pairs.
pub(super) fn end(runs: &Runs) -> (u64, Found) {
    let (mut compared, mut found) = (0, Found::new());
    for pair in runs.twins.started.values() {
        let (Some(document), Some(program)) = (pair.get(&false), pair.get(&true)) else { continue };
        let of = |at: &(usize, RunId)| {
            let touched = runs.unwanted.contains(at) || runs.revived.contains(at);
            let as_planned = |log: &&Log| !log.hurt && !log.versions.strange;
            runs.parts[at.0].get(&at.1).filter(|log| !touched && as_planned(log) && log.head.phase.ended())
        };
        let (Some(a), Some(b)) = (of(document), of(program)) else { continue };
        compared += 1;
        let (one, other) = (seen(runs, *document, a), seen(runs, *program, b));
        if one != other {
            let (name, n) = (&a.head.identity.name, a.head.input.json());
            let text = format!(
                "run {} of {name} with {n:?} did {one:?}; as a program, run {}, it did {other:?}",
                document.1, program.1
            );
            found.push(("S10", text));
        }
    }
    (compared, found)
}

/// What came of a run, as both ways of saying it have it.
#[derive(Debug, PartialEq)]
struct Seen {
    end: String,
    branches: Vec<Vec<(TypeId, i64)>>,
    undone: Vec<(TypeId, i64)>,
    children: Vec<(String, i64)>,
}

fn seen(runs: &Runs, (partition, run): (usize, RunId), log: &Log) -> Seen {
    let given = match &log.head.outcome {
        Some(Outcome::Ok(data)) => data.json().and_then(|output| output["n"].as_i64()),
        _ => None,
    };
    let mut by_branch: BTreeMap<&str, Vec<(TypeId, i64)>> = BTreeMap::new();
    for effect in log.effects.values().filter(|effect| !effect.undoes) {
        by_branch.entry(&effect.branch).or_default().push((effect.kind, effect.n));
    }
    let mut branches: Vec<_> = by_branch.into_values().collect();
    branches.sort();
    let undone = log.effects.values().filter(|effect| effect.undoes).map(|effect| (effect.kind, effect.n)).collect();
    let below = runs.children[partition].range((run, 0, 0)..=(run, u64::MAX, u64::MAX));
    let below = below.filter_map(|(_, child)| runs.parts[partition].get(child)).map(|child| &child.head);
    let of_child = |head: &tidewheel_engine::run::head::Head| {
        let n = head.input.json().and_then(|input| input["n"].as_i64());
        (head.identity.name.to_string(), n.unwrap_or(0))
    };
    let mut children: Vec<_> = below.map(of_child).collect();
    children.sort();
    Seen { end: format!("{:?} {given:?}", log.head.phase), branches, undone, children }
}
