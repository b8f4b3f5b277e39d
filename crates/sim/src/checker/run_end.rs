//! S1, S2 and S5 for runs: an acknowledged start is there for ever and is one run for its claim; each run ends once, with
//! what its workflow makes of its input, and whoever waits for it hears of it once.

use std::collections::BTreeMap;

use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::journal::{Fact, Segment};

use super::run_version;
use super::runs::{Found, Log, Runs};

type Claim = ([u8; 16], u64);

/// What clients were told of their starts.
#[derive(Debug, Default)]
pub(super) struct Starts {
    acknowledged: Vec<(usize, RunId)>,
    claims: BTreeMap<(usize, TenantId, [u8; 16]), (u64, RunId)>,
}

impl Starts {
    /// A start was answered with a run.
    pub(super) fn told(&mut self, partition: usize, tenant: TenantId, run: RunId, claim: Option<Claim>) -> Found {
        let mut found = Found::new();
        self.acknowledged.push((partition, run));
        let Some((hash, body)) = claim else { return found };
        let known = *self.claims.entry((partition, tenant, hash)).or_insert((body, run));
        if known.1 != run {
            found.push(("S2", format!("one claim stands for run {} and for run {run}", known.1)));
        }
        if known.0 != body {
            found.push(("S2", format!("run {run} is the answer to two different bodies of one claim")));
        }
        found
    }

    /// A start was refused for its claim.
    pub(super) fn refused(&mut self, partition: usize, tenant: TenantId, run: RunId, claim: Option<Claim>) -> Found {
        let Some((hash, body)) = claim else {
            return vec![("S2", format!("a start without a claim is refused for that of run {run}"))];
        };
        match self.claims.get(&(partition, tenant, hash)) {
            Some((known, of)) if *known == body || *of != run => {
                vec![("S2", format!("the claim of run {of} is refused as that of run {run}"))]
            }
            _ => Found::new(),
        }
    }

    /// After everything: what was acknowledged is there and has ended.
    pub(super) fn end(&self, runs: &Runs) -> Found {
        let mut found = Found::new();
        for (partition, run) in &self.acknowledged {
            match runs.parts[*partition].get(run) {
                None => found.push(("S1", format!("run {run} was acknowledged and is gone"))),
                Some(log) if !log.head.phase.ended() => {
                    found.push(("S1", format!("run {run} was acknowledged and never ends: {:?}", log.head.phase)));
                }
                Some(_) => {}
            }
        }
        found
    }
}

/// A turn of a run: none comes after its end, but for a person's wish.
pub(super) fn goes_on(run: RunId, log: &mut Log, segment: &Segment) -> Found {
    let mut found = Found::new();
    let wished = matches!(segment.event, Event::Retry | Event::Reset { .. });
    let owes = !log.head.owed.is_empty();
    if log.head.phase.ended() && !wished && !owes {
        found.push(("S5", format!("run {run} is {:?} and takes one more turn: {:?}", log.head.phase, segment.event)));
    }
    let ends = segment.facts.iter().filter(|fact| matches!(fact, Fact::Phase { phase, .. } if phase.ended())).count();
    if ends > 1 {
        found.push(("S5", format!("run {run} ends {ends} times in one turn")));
    }
    log.ends += ends as u32;
    found
}

/// The entry, and the item of it, of whose end an event tells.
pub(super) fn end_of(event: &Event) -> Option<(u64, u64)> {
    match event {
        // What was cancelled may be said once more, until it is known that it is.
        Event::Done { outcome: Outcome::Cancelled, .. } => None,
        Event::Items { outcomes, .. } if matches!(outcomes[..], [Outcome::Cancelled]) => None,
        Event::Done { entry, .. } => Some((*entry, 0)),
        Event::Items { entry, first, .. } => Some((*entry, *first)),
        _ => None,
    }
}

/// Something was put in line for a run: each end that it waits for comes once.
pub(super) fn put_in_line(run: RunId, log: &mut Log, event: &Event) -> Option<(&'static str, String)> {
    let (entry, first) = end_of(event)?;
    (!log.told.insert((entry, first))).then(|| ("S5", format!("run {run} is told twice that entry {entry} has ended")))
}

/// Whether its workflow fails if no step does.
fn fails(log: &Log, runs: &Runs) -> bool {
    let identity = &log.head.identity;
    !log.versions.has_moved() && runs.flows.results(&identity.name, &identity.version, 0).is_empty()
}

/// What came out of an ended run.
pub(super) fn result(partition: usize, run: RunId, log: &Log, runs: &Runs) -> Option<(&'static str, String)> {
    let head = &log.head;
    let name = &head.identity.name;
    let hurt = log.hurt || runs.revived.contains(&(partition, run));
    match (head.phase, &head.outcome) {
        (Phase::Completed, Some(Outcome::Ok(data))) => {
            let n = head.input.json().and_then(|input| input["n"].as_i64())?;
            let allowed = run_version::results(log, runs, n)?;
            let given = data.json().and_then(|output| output["n"].as_i64());
            // Of what may come of several versions, any is as usual as another.
            let usual = match log.versions.has_moved() {
                true => given.is_some_and(|given| allowed.contains(&given)),
                false => given.is_some() && given == allowed.first().copied(),
            };
            let other = hurt && given.is_some_and(|given| allowed.contains(&given));
            let text = format!(
                "run {run} of {name} ({}) makes {data:?} of {n}, not one of {allowed:?} (a step failed: {hurt})",
                run_version::said(log, &runs.definitions)
            );
            (!usual && !other).then_some(("S1", text))
        }
        (Phase::Faulted, outcome) if !hurt && !fails(log, runs) => {
            let events: Vec<_> = log.segments.iter().map(|segment| &segment.event).collect();
            Some(("S1", format!("run {run} of {name} fails, and none of its steps has: {outcome:?}; {events:?}")))
        }
        (Phase::Cancelled, _) if !runs.unwanted.contains(&(partition, run)) && head.identity.parent.is_none() => {
            Some(("S1", format!("run {run} of {name} is cancelled without anybody's wish")))
        }
        _ => None,
    }
}
