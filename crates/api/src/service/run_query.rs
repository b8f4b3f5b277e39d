//! From a filter to a query on runs. What the store has an index or column for goes into the query; the rest is checked on the
//! rows that come back.

use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::head::Phase;
use tidewheel_proto::id;

use super::filter::{Filter, FilterError, Op, Resource, Term, Value, What};
use super::filter_values::{self, exact, length, matches, ranges};
use super::list_tasks::refused;
use super::run::{PHASES, phase_named};
use crate::problem::Failure;
use crate::state::Api;
use crate::store::run::{accepted_at, attribute_text};
use crate::store::{RunQuery, RunRow};
use crate::text::run_text;

/// Rows that one page looks at, at most; then the answer says how far it came (`interfaces.md`, section 4).
const SCAN_ROWS: usize = 50_000;
/// Rows read at once when the store's conditions are not enough.
const SCAN_PAGE: usize = 1_000;

/// A query and what has to be checked on its rows.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    query: RunQuery,
    checks: Vec<Check>,
    now: u64,
}

#[derive(Clone, Debug)]
struct Check {
    negated: bool,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// A text of the row is any of these.
    Text(Text, Vec<Value>),
    /// A number of the row lies within any of these; a row without it does not pass.
    Number(Number, Vec<(u64, u64)>),
    Phase(Vec<Phase>),
    Id(Vec<u128>),
    /// The word occurs in the error's type, title or detail.
    Word(String),
    Constant(bool),
}

#[derive(Clone, Debug)]
enum Text {
    Workflow,
    Version,
    Parent,
    Correlation,
    Error,
    Attribute(String),
}

#[derive(Clone, Copy, Debug)]
enum Number {
    Created,
    Waiting,
    Duration,
}

/// Rows found.
pub(crate) struct Found {
    pub(crate) runs: Vec<RunRow>,
    /// There may be more below this id.
    pub(crate) next: Option<RunId>,
    pub(crate) searched_back_to: Option<u64>,
    pub(crate) as_of: u64,
}

impl Plan {
    /// A plan from conditions that are given apart and a filter; all of them hold. `now`: what times that are given as "so
    /// long ago" are counted from.
    pub(crate) fn new(base: RunQuery, filter: &str, now: u64) -> Result<Plan, Failure> {
        let filter = Filter::parse(Resource::Runs, filter).map_err(refused)?;
        let mut plan = Plan { query: base, checks: Vec::new(), now };
        for term in &filter.terms {
            let fail = |message: String| FilterError { at: term.at, message };
            match &term.what {
                What::Word(word) => plan.check(term, Test::Word(word.to_lowercase())),
                What::Field { name, op, values } => {
                    plan.field(term, name, *op, values).map_err(fail).map_err(refused)?;
                }
            }
        }
        Ok(plan)
    }

    /// The runs of a tenant that a filter finds.
    pub(crate) fn of(tenant: TenantId, filter: &str, now: u64) -> Result<Plan, Failure> {
        Plan::new(RunQuery { tenant, ..RunQuery::default() }, filter, now)
    }

    fn check(&mut self, term: &Term, test: Test) {
        self.checks.push(Check { negated: term.negated, test });
    }

    fn passes(&self, row: &RunRow) -> bool {
        self.checks.iter().all(|check| check.test.holds(row, self.now) != check.negated)
    }

    fn field(&mut self, term: &Term, name: &str, op: Op, values: &[Value]) -> Result<(), String> {
        if let Some(attribute) = name.strip_prefix("attribute.").or_else(|| name.strip_prefix("label.")) {
            return self.attribute(term, attribute, op, values);
        }
        match name {
            "phase" | "state" => self.phase(term, op, values),
            "id" => {
                let ids: Option<Vec<u128>> = exact(op, values)?.iter().map(|text| id::parse("run", text)).collect();
                let ids = ids.ok_or("an id looks like run_01h...")?;
                // Ids carry the time of their making: only that stretch is read.
                let times = || ids.iter().map(|id| accepted_at(RunId(*id)));
                if let (false, Some(from), Some(until)) = (term.negated, times().min(), times().max()) {
                    self.within(from, until);
                }
                self.check(term, Test::Id(ids));
                Ok(())
            }
            "created" | "after" | "before" => self.created(term, name, op, values),
            "waiting" => self.number(term, Number::Waiting, op, values),
            "duration" => self.number(term, Number::Duration, op, values),
            "workflow" => self.text(term, Text::Workflow, op, values),
            "version" => self.text(term, Text::Version, op, values),
            "parent" => self.parent(term, op, values),
            "correlation" => self.text(term, Text::Correlation, op, values),
            "error" => self.text(term, Text::Error, op, values),
            // Runs of this server have none of these; a filter on one finds nothing.
            _ => {
                self.check(term, Test::Constant(false));
                Ok(())
            }
        }
    }

    fn phase(&mut self, term: &Term, op: Op, values: &[Value]) -> Result<(), String> {
        let mut phases = exact(op, values)?.into_iter().map(|text| phase_named(text)).collect::<Result<Vec<_>, _>>()?;
        if term.negated {
            phases = PHASES.iter().map(|(_, phase)| *phase).filter(|phase| !phases.contains(phase)).collect();
        }
        match self.query.phases.is_empty() && !phases.is_empty() {
            true => self.query.phases = phases,
            false => self.checks.push(Check { negated: false, test: Test::Phase(phases) }),
        }
        Ok(())
    }

    fn created(&mut self, term: &Term, name: &str, op: Op, values: &[Value]) -> Result<(), String> {
        let ranges = filter_values::created(name, op, values, self.now)?;
        if let (false, [(from, until)]) = (term.negated, ranges.as_slice()) {
            self.within(*from, *until);
            return Ok(());
        }
        self.check(term, Test::Number(Number::Created, ranges));
        Ok(())
    }

    /// Only runs that were accepted between two times, both included.
    fn within(&mut self, from: u64, until: u64) {
        let query = &mut self.query;
        query.started_from = Some(query.started_from.map_or(from, |old| old.max(from)));
        if until < u64::MAX {
            let until = until.saturating_add(1);
            query.started_until = Some(query.started_until.map_or(until, |old| old.min(until)));
        }
    }

    fn number(&mut self, term: &Term, number: Number, op: Op, values: &[Value]) -> Result<(), String> {
        let ranges = if values == [Value::Any] { vec![(0, u64::MAX)] } else { ranges(op, values, length)? };
        self.check(term, Test::Number(number, ranges));
        Ok(())
    }

    fn parent(&mut self, term: &Term, op: Op, values: &[Value]) -> Result<(), String> {
        if let (false, None, [Value::Exact(text)]) = (term.negated, self.query.parent, values) {
            exact(op, values)?;
            self.query.parent = Some(RunId(id::parse("run", text).ok_or("an id looks like run_01h...")?));
            return Ok(());
        }
        self.text(term, Text::Parent, op, values)
    }

    fn text(&mut self, term: &Term, text: Text, op: Op, values: &[Value]) -> Result<(), String> {
        if op != Op::Is {
            return Err("this field is a text; use ':'".to_owned());
        }
        if let (false, [Value::Exact(value)]) = (term.negated, values) {
            let query = &mut self.query;
            match (&text, value.split_once('/')) {
                (Text::Workflow, Some((namespace, name))) if query.namespace.is_none() && query.name.is_none() => {
                    (query.namespace, query.name) = (Some(namespace.to_owned()), Some(name.to_owned()));
                    return Ok(());
                }
                (Text::Workflow, None) if query.name.is_none() => {
                    query.name = Some(value.clone());
                    return Ok(());
                }
                (Text::Version, _) if query.version.is_none() => {
                    query.version = Some(value.clone());
                    return Ok(());
                }
                (Text::Correlation, _) if query.correlation.is_none() => {
                    query.correlation = Some(value.clone());
                    return Ok(());
                }
                _ => {}
            }
        }
        self.check(term, Test::Text(text, values.to_vec()));
        Ok(())
    }

    fn attribute(&mut self, term: &Term, name: &str, op: Op, values: &[Value]) -> Result<(), String> {
        if let (false, Op::Is, [Value::Exact(value)]) = (term.negated, op, values) {
            self.query.attributes.push((name.to_owned(), value.clone()));
            return Ok(());
        }
        self.text(term, Text::Attribute(name.to_owned()), op, values)
    }
}

impl Test {
    fn holds(&self, row: &RunRow, now: u64) -> bool {
        match self {
            Test::Constant(value) => *value,
            Test::Phase(phases) => phases.contains(&row.phase),
            Test::Id(ids) => ids.contains(&row.identity.run.0),
            Test::Number(number, ranges) => {
                number.of(row, now).is_some_and(|n| ranges.iter().any(|(from, until)| (*from..=*until).contains(&n)))
            }
            Test::Word(word) => errors_of(row).iter().any(|text| text.to_lowercase().contains(word)),
            Test::Text(text, values) => {
                let found = text.of(row);
                values.iter().any(|value| match found.is_empty() {
                    true => false,
                    false => found.iter().any(|text| matches(value, Some(text))),
                })
            }
        }
    }
}

impl Number {
    fn of(self, row: &RunRow, now: u64) -> Option<u64> {
        let started = if row.started > 0 { row.started } else { accepted_at(row.identity.run) };
        match self {
            Number::Created => Some(accepted_at(row.identity.run)),
            Number::Waiting => (row.phase == Phase::Waiting).then(|| now.saturating_sub(row.changed)),
            Number::Duration => Some(if row.ended > 0 { row.ended } else { now }.saturating_sub(started)),
        }
    }
}

impl Text {
    /// All the forms that the text of a row has.
    fn of(&self, row: &RunRow) -> Vec<String> {
        let identity = &row.identity;
        match self {
            Text::Workflow => {
                vec![identity.name.to_string(), format!("{}/{}", identity.namespace, identity.name)]
            }
            Text::Version => vec![identity.version.to_string()],
            Text::Parent => identity.parent.iter().map(|parent| run_text(parent.run)).collect(),
            Text::Correlation => identity.correlation.iter().map(|text| text.to_string()).collect(),
            Text::Error => {
                let mut forms = errors_of(row);
                // The detail is no name; the type is one as a whole and by its last part.
                forms.truncate(2);
                let last = forms.first().and_then(|kind| kind.rsplit('/').next()).map(str::to_owned);
                forms.extend(last);
                forms
            }
            Text::Attribute(name) => {
                let found = row.attributes.iter().filter(|(own, _)| **own == **name);
                found.map(|(_, value)| attribute_text(value).into_owned()).collect()
            }
        }
    }
}

/// Type, title and detail of the error that ended a run.
fn errors_of(row: &RunRow) -> Vec<String> {
    let Some(Outcome::Err(fault)) = &row.outcome else { return Vec::new() };
    let text = |name: &str| fault.0.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    ["type", "title", "detail"].map(text).to_vec()
}

/// Rows of a plan below an id, newest first, at most `limit`.
pub(crate) async fn find(api: &Api, plan: &Plan, before: Option<RunId>, limit: usize) -> Result<Found, Failure> {
    let checked = !plan.checks.is_empty();
    let page_size = if checked { SCAN_PAGE } else { limit };
    let mut found = Found { runs: Vec::new(), next: before, searched_back_to: None, as_of: 0 };
    let mut looked_at = 0;
    loop {
        let query = RunQuery {
            before: found.next,
            limit: page_size,
            scan_limit: SCAN_ROWS - looked_at.min(SCAN_ROWS - 1),
            ..plan.query.clone()
        };
        let page = api.read_store(move |store| store.runs(&query)).await?;
        looked_at += page.runs.len().max(1);
        (found.as_of, found.next, found.searched_back_to) = (page.as_of, page.next, page.searched_back_to);
        for row in page.runs {
            if !plan.passes(&row) {
                continue;
            }
            let run = row.identity.run;
            found.runs.push(row);
            if found.runs.len() == limit {
                // With checks, the page of the store may hold more rows that pass: go on behind the last one shown.
                if checked {
                    found.next = Some(run);
                }
                found.searched_back_to = None;
                return Ok(found);
            }
        }
        if found.next.is_none() || found.searched_back_to.is_some() {
            return Ok(found);
        }
        if looked_at >= SCAN_ROWS {
            found.searched_back_to = found.next.map(accepted_at);
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(filter: &str) -> Plan {
        Plan::of(TenantId(1), filter, 1_000_000_000).unwrap_or_else(|failure| panic!("{filter}: {}", failure.0.detail))
    }

    fn refusal(filter: &str) -> String {
        Plan::of(TenantId(1), filter, 1_000).map(|_| String::new()).unwrap_or_else(|failure| failure.0.detail)
    }

    #[test]
    fn what_has_an_index_becomes_part_of_the_query() {
        let plan = plan(
            "phase:waiting,faulted workflow:shop/order version:1.0.0 correlation:c-1 attribute.customer:acme after:10s",
        );
        assert_eq!(plan.query.phases, [Phase::Waiting, Phase::Faulted]);
        assert_eq!((plan.query.namespace.as_deref(), plan.query.name.as_deref()), (Some("shop"), Some("order")));
        assert_eq!(plan.query.attributes, [("customer".to_owned(), "acme".to_owned())]);
        assert_eq!(plan.query.started_from, Some(999_990_000));
        assert!(plan.checks.is_empty());
    }

    #[test]
    fn the_rest_is_checked() {
        for filter in
            ["-workflow:order", "workflow:shop/*", "error:*", "duration:>1m", "waiting:1h..", "word", "label.a:b,c"]
        {
            assert_eq!(plan(filter).checks.len(), 1, "{filter}");
        }
        assert_eq!(plan("-phase:completed,faulted,cancelled").query.phases.len(), 4);
    }

    #[test]
    fn mistakes_have_a_position_and_the_nearest_name() {
        assert!(refusal("phase:waitin").contains("did you mean 'waiting'?"));
        assert!(refusal("workflov:x").contains("did you mean 'workflow'?"));
        assert!(refusal("x parent:y").contains("position 3"));
        assert!(refusal("queue:pdf").contains("unknown field 'queue'"));
        assert!(refusal("workflow>3").contains("use ':'"));
        assert!(refusal("duration:soon").contains("position 1"));
    }
}
