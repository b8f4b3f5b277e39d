//! Later versions of workflows: changed where a run has not come to as a rule, and sometimes where it stands or was.

use std::sync::Arc;

use tidewheel_engine::run::plan::VersionPolicy;

use super::{Flow, Flows, MADE, Statement, TWIN, VERSION, VERSIONS, Who, flow, program, some};
use crate::rng::Rng;

/// Workflows of those that are always there that get later versions in a run.
const CHOSEN: usize = 3;

impl Flows {
    /// Gives some workflows later versions, both as documents and as programs.
    pub fn grow(&mut self, rng: &mut Rng) {
        let first = self.0.clone();
        let documents: Vec<_> = first.iter().filter(|flow| !flow.program).cloned().collect();
        let (fixed, made) = documents.split_at(documents.len() - MADE);
        let chosen: Vec<_> = (0..CHOSEN).map(|_| rng.pick(fixed).clone()).collect();
        let twin_of = |flow: &Flow| format!("{}{TWIN}", flow.name);
        for old in made.iter().chain(&chosen) {
            if self.find(&old.name, VERSIONS[1]).is_some() {
                continue;
            }
            let twin = self.find(&twin_of(old), VERSION).cloned();
            self.versions(rng, old, &documents);
            if let Some(twin) = twin {
                self.versions(rng, &twin, &documents);
            }
        }
        // What only programs can say.
        for old in first.iter().filter(|flow| flow.program && flow.version == VERSION && !flow.name.ends_with(TWIN)) {
            if rng.chance(0.4) {
                self.versions(rng, old, &documents);
            }
        }
    }

    fn versions(&mut self, rng: &mut Rng, old: &Arc<Flow>, documents: &[Arc<Flow>]) {
        let mut statements = old.statements.clone();
        for version in VERSIONS.into_iter().skip(1) {
            if self.find(&old.name, version).is_some() {
                continue;
            }
            statements = changed(rng, &statements, documents);
            let policy = rng.pick(&VersionPolicy::ALL).1;
            let who = Who { name: &old.name, version, policy };
            self.0.push(match old.program {
                true => program(who, old.rounds, statements.clone()),
                false => flow(who, statements.clone(), documents),
            });
        }
    }
}

/// Another list, and mostly the same one up to some place in it.
fn changed(rng: &mut Rng, statements: &[Statement], documents: &[Arc<Flow>]) -> Vec<Statement> {
    let mut next = statements.to_vec();
    let at = rng.below(next.len() as u64) as usize;
    match rng.below(7) {
        0 | 1 => next.extend(some(rng, documents, &mut 2, 2)),
        2 if next.len() > 1 => next.truncate(at.max(1)),
        3 => next[at] = Statement::Step(rng.below(3) as u8),
        4 => next.insert(at, Statement::Add(rng.range(1, 9) as i64)),
        _ => next[at] = other(rng, &next[at], documents),
    }
    next
}

/// A statement of the same kind that does something else.
fn other(rng: &mut Rng, statement: &Statement, documents: &[Arc<Flow>]) -> Statement {
    match statement {
        Statement::Step(kind) => Statement::Step((kind + 1) % 3),
        Statement::Wait(ms) => Statement::Wait(ms / 2 + 1),
        Statement::Add(k) => Statement::Add(k + 2),
        Statement::Fork(branches) => {
            let mut branches = branches.clone();
            let at = rng.below(branches.len() as u64) as usize;
            branches[at] = changed(rng, &branches[at], documents);
            Statement::Fork(branches)
        }
        Statement::Race(ms) => Statement::Race(ms / 2 + 1),
        Statement::For(times, body) => Statement::For(times + 1, body.clone()),
        Statement::Try(body, retries) => Statement::Try(changed(rng, body, documents), *retries),
        Statement::Map(items, width) => Statement::Map(items + 1, *width),
        Statement::MapRuns(items, of) => Statement::MapRuns(items + 1, *of),
        Statement::Saga(trip) => {
            let mut trip = trip.clone();
            trip.steps.push((rng.below(3) as u8, true));
            Statement::Saga(trip)
        }
        same => same.clone(),
    }
}
