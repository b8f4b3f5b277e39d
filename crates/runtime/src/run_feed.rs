//! What live streams and waiting callers learn of runs.

use std::collections::HashMap;

use tidewheel_engine::Mutation;
use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::Fact;

/// A committed change of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunChange {
    /// Owner.
    pub tenant: TenantId,
    /// Which.
    pub run: RunId,
    /// Its phase now; `None` = the one before.
    pub phase: Option<Phase>,
    /// Its newest turn.
    pub turn: u64,
    /// Wall time of the change in milliseconds.
    pub at: u64,
}

impl RunChange {
    fn of(mutation: &Mutation) -> Option<RunChange> {
        match mutation {
            Mutation::PutRun(record) => Some(RunChange {
                tenant: record.tenant,
                run: record.head.identity.run,
                phase: Some(record.head.phase),
                turn: record.head.turns,
                at: record.changed,
            }),
            Mutation::AppendTurn { tenant, run, segment } => {
                let phases = segment.facts.iter().rev().find_map(|fact| match fact {
                    Fact::Phase { phase, .. } => Some(*phase),
                    _ => None,
                });
                Some(RunChange { tenant: *tenant, run: *run, phase: phases, turn: segment.turn, at: segment.now_ms })
            }
            _ => None,
        }
    }
}

/// What a batch changes of runs: one change of each, whatever it has of turns and heads.
#[derive(Default)]
pub(crate) struct RunChanges {
    changes: Vec<RunChange>,
    places: HashMap<RunId, usize>,
}

impl RunChanges {
    /// Adds what a mutation changes.
    pub(crate) fn note(&mut self, mutation: &Mutation) {
        let Some(change) = RunChange::of(mutation) else { return };
        let place = *self.places.entry(change.run).or_insert(self.changes.len());
        match self.changes.get_mut(place) {
            Some(known) => {
                let (phase, turn) = (change.phase.or(known.phase), known.turn.max(change.turn));
                *known = RunChange { phase, turn, at: known.at.max(change.at), ..change };
            }
            None => self.changes.push(change),
        }
    }

    /// In the order in which the runs changed first.
    pub(crate) fn into_changes(self) -> Vec<RunChange> {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidewheel_engine::mutation::RunRecord;
    use tidewheel_engine::run::act::Event;
    use tidewheel_engine::run::head::{Head, Identity};
    use tidewheel_engine::run::journal::Segment;

    use super::*;

    fn turn(run: u128, turn: u64, facts: Vec<Fact>) -> Mutation {
        let (now_ms, event) = (100 + turn, Event::Continue);
        let (tape, values) = (Vec::new(), Vec::new());
        let segment = Segment { revision: 1, turn, now_ms, event, begun: 0, more: false, work: 0, tape, values, facts };
        Mutation::AppendTurn { tenant: TenantId(1), run: RunId(run), segment: Arc::new(segment) }
    }

    fn head(run: u128, turns: u64, phase: Phase) -> Mutation {
        let name = || Arc::from("n");
        let (namespace, title, version) = (name(), name(), name());
        let (parent, correlation) = (None, None);
        let plan = [1; 32];
        let identity =
            Identity { run: RunId(run), plan, namespace, name: title, version, parent, correlation, depth: 0 };
        let head = Head { phase, turns, ..Head::new(Arc::new(identity)) };
        Mutation::PutRun(Box::new(RunRecord { tenant: TenantId(1), changed: 100 + turns, head }))
    }

    #[test]
    fn a_turn_and_its_head_are_one_change_and_other_turns_keep_the_phase() {
        let ended = Fact::Phase { phase: Phase::Completed, reason: None, value: None };
        let mutations =
            [turn(2, 4, vec![ended]), turn(1, 1, vec![]), head(2, 4, Phase::Completed), head(3, 2, Phase::Waiting)];
        let mut changes = RunChanges::default();
        mutations.iter().for_each(|mutation| changes.note(mutation));
        let seen: Vec<_> = changes.into_changes().iter().map(|c| (c.run.0, c.phase, c.turn, c.at)).collect();
        let expected = [(2, Some(Phase::Completed), 4, 104), (1, None, 1, 101), (3, Some(Phase::Waiting), 2, 102)];
        assert_eq!(seen, expected);
    }
}
