//! From a filter to a query on runs. What the store has an index or column for goes into the query; the rest is checked on the
//! rows that come back.

use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::run::act::Outcome;
use tidewheel_engine::run::head::Phase;
use tidewheel_proto::id;

use super::filter::{Filter, FilterError, Op, Resource, Term, Value, What};
use super::filter_values::{self, exact, length, ranges};
use super::list_tasks::refused;
use super::run::{PHASES, phase_named};
use super::scan::{self, Checks, Found, Row, Test, Wanted};
use crate::problem::Failure;
use crate::state::Api;
use crate::store::run::{accepted_at, attribute_text};
use crate::store::{RunQuery, RunRow};
use crate::text::run_text;

/// A query and what has to be checked on its rows.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    query: RunQuery,
    checks: Checks<RunRow>,
    now: u64,
}

/// Texts of a run.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Workflow,
    Version,
    Parent,
    Correlation,
    Error,
    Attribute(String),
}

/// Numbers of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Created,
    Waiting,
    Duration,
}

impl Plan {
    /// A plan from conditions that are given apart and a filter; all of them hold. `now`: what times that are given as "so
    /// long ago" are counted from.
    pub(crate) fn new(base: RunQuery, filter: &str, now: u64) -> Result<Plan, Failure> {
        let filter = Filter::parse(Resource::Runs, filter).map_err(refused)?;
        let mut plan = Plan { query: base, checks: Checks::default(), now };
        for term in &filter.terms {
            let fail = |message: String| FilterError { at: term.at, message };
            match &term.what {
                What::Word(word) => plan.checks.add(term, Test::Word(word.to_lowercase())),
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
                self.checks.add(term, Test::Id(ids));
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
                self.checks.add(term, Test::Constant(false));
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
            false => self.checks.require(Test::State(phases)),
        }
        Ok(())
    }

    fn created(&mut self, term: &Term, name: &str, op: Op, values: &[Value]) -> Result<(), String> {
        let ranges = filter_values::created(name, op, values, self.now)?;
        if let (false, [(from, until)]) = (term.negated, ranges.as_slice()) {
            self.within(*from, *until);
            return Ok(());
        }
        self.checks.add(term, Test::Number(Number::Created, ranges));
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
        self.checks.add(term, Test::Number(number, ranges));
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
        self.checks.add(term, Test::Text(text, values.to_vec()));
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

impl Row for RunRow {
    type Text = Text;
    type Number = Number;
    type State = Phase;
    type Names = ();

    fn id(&self) -> u128 {
        self.identity.run.0
    }

    fn state(&self) -> Phase {
        self.phase
    }

    fn number(&self, which: Number, now: u64) -> Option<u64> {
        let accepted = accepted_at(self.identity.run);
        let started = if self.started > 0 { self.started } else { accepted };
        match which {
            Number::Created => Some(accepted),
            Number::Waiting => (self.phase == Phase::Waiting).then(|| now.saturating_sub(self.changed)),
            Number::Duration => Some(if self.ended > 0 { self.ended } else { now }.saturating_sub(started)),
        }
    }

    fn texts(&self, which: &Text, (): &()) -> Vec<String> {
        let identity = &self.identity;
        match which {
            Text::Workflow => {
                vec![identity.name.to_string(), format!("{}/{}", identity.namespace, identity.name)]
            }
            Text::Version => vec![identity.version.to_string()],
            Text::Parent => identity.parent.iter().map(|parent| run_text(parent.run)).collect(),
            Text::Correlation => identity.correlation.iter().map(|text| text.to_string()).collect(),
            Text::Error => {
                let mut forms = errors_of(self);
                // The detail is no name; the type is one as a whole and by its last part.
                forms.truncate(2);
                let last = forms.first().and_then(|kind| kind.rsplit('/').next()).map(str::to_owned);
                forms.extend(last);
                forms
            }
            Text::Attribute(name) => {
                let found = self.attributes.iter().filter(|(own, _)| **own == **name);
                found.map(|(_, value)| attribute_text(value).into_owned()).collect()
            }
        }
    }

    fn says(&self, word: &str) -> bool {
        errors_of(self).iter().any(|text| text.to_lowercase().contains(word))
    }
}

/// Type, title and detail of the error that ended a run.
fn errors_of(row: &RunRow) -> Vec<String> {
    let Some(Outcome::Err(fault)) = &row.outcome else { return Vec::new() };
    let text = |name: &str| fault.0.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    ["type", "title", "detail"].map(text).to_vec()
}

/// Rows of a plan below an id, newest first, at most `limit`.
pub(crate) async fn find(api: &Api, plan: &Plan, before: Option<u128>, limit: usize) -> Result<Found<RunRow>, Failure> {
    let read = |Wanted { before, limit, scan_limit }: Wanted| {
        let query = RunQuery { before: before.map(RunId), limit, scan_limit, ..plan.query.clone() };
        async move {
            let page = api.read_store(move |store| store.runs(&query)).await?;
            let (next, searched_back_to, as_of) = (page.next.map(|run| run.0), page.searched_back_to, page.as_of);
            Ok(Found { rows: page.runs, next, searched_back_to, as_of })
        }
    };
    let passes = |row: &RunRow| plan.checks.pass(row, &(), plan.now);
    scan::find((before, limit, !plan.checks.is_empty()), passes, read).await
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
