//! From a filter to a query on tasks. What the store has an index or column for goes into the query; the rest is
//! checked on the rows that come back.

use tidewheel_engine::id::{RunId, TaskId, TenantId, WorkerId};
use tidewheel_engine::task::{State, Task};
use tidewheel_proto::id;
use tidewheel_runtime::Directory;

use super::filter::{Filter, FilterError, Op, Term, Value, What};
use super::filter_values::{self, exact, length, matches, moment, no_state, numbers, whole};
use super::package::{self, Version};
use super::scan::{self, Checks, Found, Row, Test, Wanted};
use super::spec::priority_name;
use crate::problem::Failure;
use crate::state::Api;
use crate::store::TaskQuery;
use crate::text::{parse_hash, run_text};

/// A query and what has to be checked on its rows.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    query: TaskQuery,
    checks: Checks<Task>,
    /// No row can pass: a name in the filter does not exist.
    never: bool,
    now: u64,
}

/// Texts of a task.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    Type,
    Queue,
    Worker,
    Workflow,
    Run,
    Key,
    Correlation,
    Error,
    Package,
    Executor,
    Label(String),
}

/// Numbers of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Priority,
    Attempts,
    Created,
    Due,
    Waiting,
    Duration,
}

/// Who asks, and when: `me` and times that are given as "so long ago" depend on it.
pub(crate) struct Asker<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) me: &'a str,
    pub(crate) now: u64,
}

/// Makes the plan.
pub(crate) fn plan(directory: &Directory, asker: &Asker<'_>, filter: &Filter) -> Result<Plan, FilterError> {
    let query = TaskQuery { tenant: asker.tenant, ..TaskQuery::default() };
    let mut plan = Plan { query, checks: Checks::default(), never: false, now: asker.now };
    for term in &filter.terms {
        let fail = |message: String| FilterError { at: term.at, message };
        match &term.what {
            What::Word(word) if term.negated => plan.checks.add(term, Test::Word(word.to_lowercase())),
            What::Word(word) => plan.query.words.push(word.to_lowercase()),
            What::Field { name, op, values } => plan.field(directory, asker, term, name, *op, values).map_err(fail)?,
        }
    }
    Ok(plan)
}

impl Plan {
    fn field(
        &mut self,
        directory: &Directory,
        asker: &Asker<'_>,
        term: &Term,
        name: &str,
        op: Op,
        values: &[Value],
    ) -> Result<(), String> {
        if let Some(label) = name.strip_prefix("label.") {
            return self.label(term, label, op, values);
        }
        match name {
            "state" => self.state(term, op, values),
            "id" => {
                let ids: Option<Vec<u128>> = exact(op, values)?.iter().map(|text| id::parse("task", text)).collect();
                self.checks.add(term, Test::Id(ids.ok_or("an id looks like task_01h...")?));
                Ok(())
            }
            "created" | "after" | "before" => self.created(term, asker.now, name, op, values),
            "due" => self.number(term, Number::Due, op, values, |text| moment(text, asker.now)),
            "priority" => {
                let read = |text: &str| {
                    let level = priority_name(text).ok_or("a priority is 0 to 9, low, medium or high")?;
                    Ok((u64::from(level), u64::from(level)))
                };
                self.number(term, Number::Priority, op, values, read)
            }
            "attempts" => self.number(term, Number::Attempts, op, values, whole),
            "waiting" => self.number(term, Number::Waiting, op, values, length),
            "duration" => self.number(term, Number::Duration, op, values, length),
            "type" | "queue" | "worker" => self.named(directory, asker, term, name, op, values),
            "workflow" => self.text(term, Text::Workflow, op, values),
            "run" => self.run(term, op, values),
            "correlation" => self.text(term, Text::Correlation, op, values),
            "error" => self.text(term, Text::Error, op, values),
            "key" => self.text(term, Text::Key, op, values),
            "kind" => self.text(term, Text::Executor, op, values),
            "package" => {
                let hashes = hashes_of(directory, asker.tenant, values);
                self.text(term, Text::Package, op, &hashes)
            }
            // Tasks of this server have none of these; a filter on one finds nothing.
            _ => {
                self.checks.add(term, Test::Constant(false));
                Ok(())
            }
        }
    }

    /// The run of which a task is a step, or what its submitter named so.
    fn run(&mut self, term: &Term, op: Op, values: &[Value]) -> Result<(), String> {
        let id = |value: &Value| if let Value::Exact(text) = value { id::parse("run", text).map(RunId) } else { None };
        let ids: Vec<Option<RunId>> = values.iter().map(id).collect();
        if op != Op::Is || ids.iter().all(Option::is_none) && values != [Value::Any] {
            return self.text(term, Text::Workflow, op, values);
        }
        // A step is no older than its run.
        let first = ids
            .iter()
            .copied()
            .collect::<Option<Vec<RunId>>>()
            .and_then(|ids| ids.iter().map(|run| run.millis()).min());
        if let Some(first) = first.filter(|_| !term.negated) {
            self.query.created_from = Some(self.query.created_from.map_or(first, |old| old.max(first)));
        }
        let one = |(value, id): (&Value, &Option<RunId>)| id.map_or(value.clone(), |run| Value::Exact(run_text(run)));
        self.checks.add(term, Test::Text(Text::Run, values.iter().zip(&ids).map(one).collect()));
        Ok(())
    }

    fn state(&mut self, term: &Term, op: Op, values: &[Value]) -> Result<(), String> {
        let mut states = Vec::new();
        for text in exact(op, values)? {
            let state = State::parse(&text.to_ascii_lowercase())
                .ok_or_else(|| no_state(text, &State::ALL.map(State::as_str)))?;
            states.push(state);
        }
        if term.negated {
            self.query.not_states.extend(states);
        } else if self.query.states.is_empty() {
            self.query.states = states;
        } else {
            self.checks.add(term, Test::State(states));
        }
        Ok(())
    }

    fn created(&mut self, term: &Term, now: u64, name: &str, op: Op, values: &[Value]) -> Result<(), String> {
        let ranges = filter_values::created(name, op, values, now)?;
        if let (false, [(from, until)]) = (term.negated, ranges.as_slice()) {
            let query = &mut self.query;
            query.created_from = Some(query.created_from.map_or(*from, |old| old.max(*from)));
            if *until < u64::MAX {
                let until = until.saturating_add(1);
                query.created_until = Some(query.created_until.map_or(until, |old| old.min(until)));
            }
            return Ok(());
        }
        self.checks.add(term, Test::Number(Number::Created, ranges));
        Ok(())
    }

    fn number(
        &mut self,
        term: &Term,
        number: Number,
        op: Op,
        values: &[Value],
        read: impl Fn(&str) -> Result<(u64, u64), String>,
    ) -> Result<(), String> {
        let ranges = numbers(op, values, read)?;
        if let (false, false, [(from, until)]) = (term.negated, values == [Value::Any], ranges.as_slice()) {
            let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            match number {
                Number::Priority if self.query.priority.is_none() => {
                    self.query.priority = Some((small(*from).min(255) as u8, small(*until).min(255) as u8));
                    return Ok(());
                }
                Number::Attempts if self.query.attempts.is_none() => {
                    self.query.attempts = Some((small(*from), small(*until)));
                    return Ok(());
                }
                _ => {}
            }
        }
        self.checks.add(term, Test::Number(number, ranges));
        Ok(())
    }

    /// Types, queues and workers are numbers in the store: exact names are looked up once.
    fn named(
        &mut self,
        directory: &Directory,
        asker: &Asker<'_>,
        term: &Term,
        name: &str,
        op: Op,
        values: &[Value],
    ) -> Result<(), String> {
        let values: Vec<Value> = values
            .iter()
            .map(|v| match v {
                Value::Exact(text) if name == "worker" && text == "me" => Value::Exact(asker.me.to_owned()),
                other => other.clone(),
            })
            .collect();
        let taken = match name {
            "type" => !self.query.kinds.is_empty(),
            "queue" => !self.query.queues.is_empty(),
            _ => !self.query.workers.is_empty(),
        };
        let all_exact = values.iter().all(|v| matches!(v, Value::Exact(_)));
        if term.negated || taken || !all_exact || op != Op::Is {
            let text = match name {
                "type" => Text::Type,
                "queue" => Text::Queue,
                _ => Text::Worker,
            };
            return self.text(term, text, op, &values);
        }
        for value in exact(op, &values)? {
            match name {
                "type" => self.query.kinds.extend(directory.type_id(asker.tenant, value)),
                "queue" => self.query.queues.extend(directory.queue(asker.tenant, value).map(|q| q.id)),
                _ => {
                    let known = id::parse("work", value).and_then(|n| u32::try_from(n).ok());
                    self.query.workers.extend(known.map(WorkerId));
                    // Workers that serve every tenant are named in the system's own.
                    for tenant in [asker.tenant, TenantId(0)] {
                        self.query.workers.extend(directory.worker_id(tenant, value));
                    }
                }
            }
        }
        // An empty list would not restrict at all: none of the names exists, so nothing can be found.
        self.never |= match name {
            "type" => self.query.kinds.is_empty(),
            "queue" => self.query.queues.is_empty(),
            _ => self.query.workers.is_empty(),
        };
        Ok(())
    }

    fn text(&mut self, term: &Term, text: Text, op: Op, values: &[Value]) -> Result<(), String> {
        if op != Op::Is {
            return Err("this field is a text; use ':'".to_owned());
        }
        if let (false, [Value::Exact(value)]) = (term.negated, values) {
            let slot = match text {
                Text::Workflow => Some(&mut self.query.workflow_id),
                Text::Correlation => Some(&mut self.query.correlation_id),
                Text::Error => Some(&mut self.query.error_kind),
                _ => None,
            };
            if let Some(slot @ None) = slot {
                *slot = Some(value.clone());
                return Ok(());
            }
        }
        self.checks.add(term, Test::Text(text, values.to_vec()));
        Ok(())
    }

    fn label(&mut self, term: &Term, label: &str, op: Op, values: &[Value]) -> Result<(), String> {
        if let (false, Op::Is, [Value::Exact(value)]) = (term.negated, op, values) {
            self.query.labels.push((label.to_owned(), value.clone()));
            return Ok(());
        }
        self.text(term, Text::Label(label.to_owned()), op, values)
    }
}

/// Tasks hold the hash of their package in hexadecimal digits: a hash stays what it is, and names (`pdf`), versions
/// (`pdf@1.2.0`) and beginnings of them (`pdf*`, `pdf@1.*`) become the hashes of the versions that they mean now. A name
/// that is none becomes nothing, so that no task passes.
fn hashes_of(directory: &Directory, tenant: TenantId, values: &[Value]) -> Vec<Value> {
    let versions = package::versions(directory, tenant);
    let mut out = Vec::new();
    for value in values {
        match value {
            Value::Exact(text) if parse_hash(text).is_some() => {
                out.push(Value::Exact(text.trim_start_matches("sha256:").to_owned()));
            }
            Value::Prefix(text) if text.starts_with("sha256:") => {
                out.push(Value::Prefix(text.trim_start_matches("sha256:").to_owned()));
            }
            Value::Any => out.push(Value::Any),
            _ => {
                let is_meant = |v: &&Version| matches(value, Some(&v.name)) || matches(value, Some(&v.text()));
                out.extend(versions.iter().filter(is_meant).map(|v| Value::Exact(v.hash.clone())));
            }
        }
    }
    out
}

impl Row for Task {
    type Text = Text;
    type Number = Number;
    type State = State;
    type Names = Directory;

    fn id(&self) -> u128 {
        self.id.0
    }

    fn state(&self) -> State {
        self.state
    }

    fn number(&self, which: Number, now: u64) -> Option<u64> {
        match which {
            Number::Priority => Some(u64::from(self.priority)),
            Number::Attempts => Some(u64::from(self.attempt)),
            Number::Created => Some(self.created),
            Number::Due => Some(self.due.max(self.run_at)).filter(|due| *due > 0),
            Number::Waiting => {
                matches!(self.state, State::Queued | State::Scheduled).then(|| now.saturating_sub(self.changed))
            }
            Number::Duration if self.granted == 0 => None,
            Number::Duration if self.state.is_terminal() => Some(self.changed.saturating_sub(self.granted)),
            Number::Duration => (self.state == State::Running).then(|| now.saturating_sub(self.granted)),
        }
    }

    fn texts(&self, which: &Text, directory: &Directory) -> Vec<String> {
        let spec = &self.spec;
        let text = |name: &Option<tidewheel_engine::id::Name>| name.as_ref().map(|n| n.to_string());
        let found = match which {
            Text::Type => directory.type_name(self.kind).map(|n| n.to_string()),
            Text::Queue => directory.queue_by_id(self.queue).map(|q| q.name.to_string()),
            Text::Worker if self.attempt == 0 => None,
            Text::Worker => directory.worker_name(self.worker).map(|n| n.to_string()),
            Text::Workflow => text(&spec.workflow_id).filter(|_| self.step.is_none()),
            Text::Run => run_of(self),
            Text::Key => text(&spec.ordering_key),
            Text::Correlation => text(&spec.correlation_id),
            Text::Package => text(&spec.package),
            Text::Error => failure_of(self).map(|f| f.kind.to_string()),
            Text::Executor => Some("automated".to_owned()),
            Text::Label(name) => spec.labels.iter().find(|(k, _)| **k == **name).map(|(_, v)| v.to_string()),
        };
        found.into_iter().collect()
    }

    fn says(&self, word: &str) -> bool {
        failure_of(self).is_some_and(|failure| {
            failure.kind.to_lowercase().contains(word) || failure.message.to_lowercase().contains(word)
        })
    }
}

/// The run of which a task is a step, or what its submitter named so.
pub(super) fn run_of(task: &Task) -> Option<String> {
    match &task.step {
        Some(step) => Some(run_text(step.run)),
        None => task.spec.workflow_id.as_ref().map(|name| name.to_string()),
    }
}

fn failure_of(task: &Task) -> Option<&tidewheel_engine::task::Failure> {
    task.ending.as_ref().and_then(|ending| ending.failure.as_ref())
}

/// Rows of a plan below an id, newest first, at most `limit`.
pub(crate) async fn find(api: &Api, plan: &Plan, before: Option<u128>, limit: usize) -> Result<Found<Task>, Failure> {
    if plan.never {
        let as_of = api.runtime.committed_index();
        return Ok(Found { rows: Vec::new(), next: None, searched_back_to: None, as_of });
    }
    let directory = api.runtime.directory();
    let read = |Wanted { before, limit, scan_limit }: Wanted| {
        let query = TaskQuery { before: before.map(TaskId), limit, scan_limit, ..plan.query.clone() };
        async move {
            let page = api.read_store(move |store| store.tasks(&query)).await?;
            let (next, searched_back_to, as_of) = (page.next.map(|task| task.0), page.searched_back_to, page.as_of);
            Ok(Found { rows: page.tasks, next, searched_back_to, as_of })
        }
    };
    let passes = |task: &Task| plan.checks.pass(task, &directory, plan.now);
    scan::find((before, limit, !plan.checks.is_empty()), passes, read).await
}
