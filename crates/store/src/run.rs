//! Lists of durable runs, and what their conditions mean, once for all backends.

use std::borrow::Cow;
use std::sync::Arc;

use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::eval::Json;
use tidewheel_engine::run::head::{Identity, Phase};

use crate::codec::RunFacts;
use crate::query::PAGE_LIMIT;

/// Bytes of an input or outcome up to which lists show it.
pub const ROW_VALUE: usize = 1_024;

/// A list of runs. All conditions hold together; empty ones do not restrict.
#[derive(Clone, Debug, Default)]
pub struct RunQuery {
    /// Owner.
    pub tenant: TenantId,
    /// Any of these phases.
    pub phases: Vec<Phase>,
    /// Namespace of the workflow. With `name` it is found by an index.
    pub namespace: Option<String>,
    /// Name of the workflow.
    pub name: Option<String>,
    /// Version of the workflow.
    pub version: Option<String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// Correlation id.
    pub correlation: Option<String>,
    /// Each search attribute has the value, as text: see [`attribute_text`].
    pub attributes: Vec<(String, String)>,
    /// Accepted at or after this wall time in milliseconds.
    pub started_from: Option<u64>,
    /// Accepted before this wall time in milliseconds.
    pub started_until: Option<u64>,
    /// Only ids below this one (the last of the page before).
    pub before: Option<RunId>,
    /// 1 to 1,000.
    pub limit: usize,
    /// Rows looked at, at most; the page then says where to go on.
    pub scan_limit: usize,
}

/// A run in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// Phase.
    pub phase: Phase,
    /// Why it is in that phase, where somebody said so.
    pub reason: Option<Name>,
    /// Wall time of its first turn.
    pub started: u64,
    /// Wall time of its end; 0 = not ended.
    pub ended: u64,
    /// Wall time at which it was last written whole.
    pub changed: u64,
    /// Turns it had then.
    pub turns: u64,
    /// Raw input; `None` = longer than [`ROW_VALUE`].
    pub input: Option<Data>,
    /// Output or error; `None` = not ended, or longer than [`ROW_VALUE`].
    pub outcome: Option<Outcome>,
    /// Search attributes.
    pub attributes: Vec<(Name, Json)>,
}

/// A page.
#[derive(Clone, Debug, Default)]
pub struct RunPage {
    /// Newest first.
    pub runs: Vec<RunRow>,
    /// There may be more below this id.
    pub next: Option<RunId>,
    /// The scan limit was reached: everything newer than this wall time was looked at.
    pub searched_back_to: Option<u64>,
    /// Commit it was read at.
    pub as_of: u64,
}

impl RunRow {
    /// A row of what a head says.
    pub fn of(facts: RunFacts, changed: u64) -> RunRow {
        let short = |data: &Data| data.stored() <= ROW_VALUE;
        let outcome = facts.outcome.filter(|outcome| match outcome {
            Outcome::Ok(data) => short(data),
            Outcome::Err(fault) => short(&fault.data()),
            Outcome::Cancelled => true,
        });
        RunRow {
            identity: facts.identity,
            phase: facts.phase,
            reason: facts.reason,
            started: facts.started,
            ended: facts.ended,
            changed,
            turns: facts.turns,
            input: Some(facts.input).filter(short),
            outcome,
            attributes: facts.attributes,
        }
    }
}

/// All phases, in the order in which they are counted.
pub const PHASES: [Phase; 7] = [
    Phase::Pending,
    Phase::Running,
    Phase::Waiting,
    Phase::Suspended,
    Phase::Cancelled,
    Phase::Faulted,
    Phase::Completed,
];

/// An attribute's value as it is searched for: a text as it is, anything else as JSON.
pub fn attribute_text(value: &Json) -> Cow<'_, str> {
    match value {
        Json::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// The wall time in a run's id: when it was accepted.
pub fn accepted_at(run: RunId) -> u64 {
    (run.0 >> 80) as u64
}

impl RunQuery {
    /// Whether a run meets all conditions but the cursor and the times, which [`RunQuery::ids`] has.
    pub fn matches(&self, facts: &RunFacts) -> bool {
        let identity = &facts.identity;
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        let has = |(name, value): &(String, String)| {
            facts.attributes.iter().any(|(n, v)| **n == **name && attribute_text(v) == *value)
        };
        (self.phases.is_empty() || self.phases.contains(&facts.phase))
            && is(&self.namespace, &identity.namespace)
            && is(&self.name, &identity.name)
            && is(&self.version, &identity.version)
            && self.parent.is_none_or(|parent| identity.parent.as_ref().is_some_and(|found| found.run == parent))
            && self.correlation.as_deref().is_none_or(|wanted| identity.correlation.as_deref() == Some(wanted))
            && self.attributes.iter().all(has)
    }

    /// The ids that the cursor and the times leave: the first, and the first above; `None` = none at all.
    pub fn ids(&self) -> Option<(RunId, RunId)> {
        let of = |wall: u64| RunId(u128::from(wall & 0xFFFF_FFFF_FFFF) << 80);
        let from = self.started_from.map_or(RunId(0), of);
        let until = self.started_until.filter(|wall| *wall >> 48 == 0).map_or(RunId(u128::MAX), of);
        let until = until.min(self.before.unwrap_or(RunId(u128::MAX)));
        (from < until && self.started_from.is_none_or(|wall| wall >> 48 == 0)).then_some((from, until))
    }

    /// The page's size within its bounds.
    pub fn page_limit(&self) -> usize {
        self.limit.clamp(1, PAGE_LIMIT)
    }
}

/// Fills a page with the runs it is offered, newest first.
#[derive(Debug)]
pub struct RunPager<'q> {
    query: &'q RunQuery,
    page: RunPage,
    looked_at: usize,
    last: Option<RunId>,
}

impl RunPager<'_> {
    /// An empty page.
    pub fn new(query: &RunQuery, as_of: u64) -> RunPager<'_> {
        RunPager { query, page: RunPage { as_of, ..RunPage::default() }, looked_at: 0, last: None }
    }

    /// Takes a run if it fits; whether to go on.
    pub fn offer(&mut self, facts: RunFacts, changed: u64) -> bool {
        let run = facts.identity.run;
        if self.page.runs.len() == self.query.page_limit() {
            self.page.next = self.page.runs.last().map(|row| row.identity.run);
            return false;
        }
        if self.looked_at == self.query.scan_limit.max(1) {
            self.page.next = self.last;
            self.page.searched_back_to = Some(accepted_at(run));
            return false;
        }
        self.looked_at += 1;
        self.last = Some(run);
        if self.query.matches(&facts) {
            self.page.runs.push(RunRow::of(facts, changed));
        }
        true
    }

    /// The page.
    pub fn page(self) -> RunPage {
        self.page
    }
}
