//! L10, S2 and S23, the parts that need the clients and workers: an action on a task as its caller saw it is not taken once the task was
//! handed out meanwhile; a claim for many tasks stands for one body; a worker is given what it has code for.

use std::collections::BTreeMap;

use tidewheel_engine::command::Seen;
use tidewheel_engine::effect::Refusal;
use tidewheel_engine::id::{RequestId, TenantId};
use tidewheel_engine::task::{State, Task};

use super::At;
use super::runs::Found;
use crate::world::Claim;

/// What a caller saw, and what became of the task next.
#[derive(Debug)]
struct Glance {
    number: u64,
    at: At,
    seen: Seen,
    base: u32,
    next: Option<(Seen, bool)>,
}

#[derive(Debug, Default)]
pub(crate) struct Sights {
    glances: Vec<Glance>,
    next: u64,
    /// Cancels that are out, and the glance that each follows.
    cancels: BTreeMap<RequestId, u64>,
    /// Bodies of claims, as clients were told.
    claims: BTreeMap<(usize, TenantId, [u8; 16]), u64>,
}

/// Glances that are kept.
const KEPT: usize = 64;

fn seen(task: &Task) -> Seen {
    Seen { changed: task.changed, attempt: task.attempt, state: task.state }
}

impl Sights {
    /// A caller looks at a task.
    pub(crate) fn look(&mut self, at: At, task: &Task) -> (u64, Seen) {
        self.next += 1;
        let glance = Glance { number: self.next, at, seen: seen(task), base: task.attempt_base, next: None };
        let told = (glance.number, glance.seen);
        self.glances.push(glance);
        if self.glances.len() > KEPT {
            self.glances.remove(0);
        }
        told
    }

    /// It asks for a cancel of what it saw.
    pub(crate) fn cancels(&mut self, request: RequestId, glance: u64) {
        self.cancels.insert(request, glance);
    }

    /// A task as it is committed.
    pub(super) fn changed(&mut self, at: At, task: &Task) {
        let is_it = |glance: &&mut Glance| glance.at == at && glance.next.is_none() && glance.seen != seen(task);
        for glance in self.glances.iter_mut().filter(is_it) {
            // A person's retry, in the commit of something else: that says nothing.
            let retried = task.attempt_base != glance.base;
            glance.next = Some((seen(task), task.cancelling || retried));
        }
    }

    /// It was done.
    pub(crate) fn cancelled(&mut self, request: RequestId) -> Option<String> {
        let number = self.cancels.remove(&request)?;
        let glance = self.glances.iter().find(|glance| glance.number == number)?;
        let (next, cancelling) = glance.next?;
        let granted = next.state == State::Running && next.attempt > glance.seen.attempt && !cancelling;
        granted.then(|| {
            format!("task {:x} was {:?}, then {next:?}, and is cancelled as the first", glance.at.1.0, glance.seen)
        })
    }

    /// A claim for many tasks was answered; `None` = it was taken.
    pub(crate) fn claimed(&mut self, claim: &Claim, refusal: Option<&Refusal>) -> Found {
        let known = self.claims.get(&claim.key).copied();
        match (refusal, known) {
            (None, Some(known)) if known != claim.body => {
                vec![("S2", "one claim for many tasks is taken with two bodies".to_owned())]
            }
            (None, _) => {
                self.claims.insert(claim.key, claim.body);
                Found::new()
            }
            (Some(Refusal::IdempotencyMismatch { .. }), Some(known)) if known == claim.body => {
                vec![("S2", "a claim for many tasks is refused with the body that it was taken with".to_owned())]
            }
            _ => Found::new(),
        }
    }
}
