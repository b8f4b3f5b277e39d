//! Lists of tasks: by the best index there is, newest first, with a bound on the rows looked at.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use tidewheel_engine::task::Task;
use tidewheel_store::{Error, TaskPage, TaskQuery};

use crate::batch::{CORRELATION, WORKFLOW, label_mark, live, mark, tenant as tenant_number};
use crate::error::During;
use crate::row::{self, cold_columns};

pub(crate) const SELECT_BY_KEY: &str =
    concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.tenant = ?1 AND t.id < ?2 ORDER BY t.id DESC");
pub(crate) const SELECT_BY_MARK: &str = concat!(
    "SELECT ",
    cold_columns!(),
    " FROM mark m CROSS JOIN task t ON t.tenant = m.tenant AND t.id = m.id",
    " WHERE m.tenant = ?1 AND m.id < ?2 AND m.mark = ?3 ORDER BY m.id DESC"
);
/// One arm per state; SQLite merges the arms in order as they are read. The state's number stands for `{}`.
pub(crate) const SELECT_BY_STATE: &str =
    concat!("SELECT ", cold_columns!(), " FROM task t WHERE t.live = {} AND t.tenant = ?1 AND t.id < ?2");
const SELECT_NEWEST: &str = "SELECT max(last_index) FROM partition";

/// What is read, and by which index.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) sql: String,
    mark: Option<i64>,
}

/// Chooses the most selective index that the conditions allow.
pub(crate) fn plan(query: &TaskQuery) -> Plan {
    let correlation = query.correlation_id.as_deref().map(|id| mark(CORRELATION, "", id));
    let workflow = query.workflow_id.as_deref().map(|id| mark(WORKFLOW, "", id));
    let label = query.labels.first().map(|(name, value)| label_mark(name, value));
    if let Some(mark) = correlation.or(workflow).or(label) {
        return Plan { sql: SELECT_BY_MARK.to_owned(), mark: Some(mark) };
    }
    let wanted = query.states.iter().filter(|state| !query.not_states.contains(state));
    let mut lives: Vec<Option<i64>> = wanted.map(|state| live(*state)).collect();
    lives.sort_unstable();
    lives.dedup();
    let lives: Option<Vec<i64>> = lives.into_iter().collect();
    match lives.as_deref() {
        None | Some([]) => Plan { sql: SELECT_BY_KEY.to_owned(), mark: None },
        Some(lives) => {
            let arms: Vec<_> = lives.iter().map(|live| SELECT_BY_STATE.replace("{}", &live.to_string())).collect();
            Plan { sql: format!("{} ORDER BY 2 DESC", arms.join(" UNION ALL ")), mark: None }
        }
    }
}

/// A page.
pub(crate) fn tasks(connection: &Connection, query: &TaskQuery) -> Result<TaskPage, Error> {
    let as_of: Option<i64> = connection
        .prepare_cached(SELECT_NEWEST)
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .during("read the newest commit")?;
    let mut page = TaskPage { as_of: as_of.unwrap_or(0) as u64, ..TaskPage::default() };
    let plan = plan(query);
    let below = query.before.map_or([0xFF; 16], |id| id.to_bytes());
    let mut bounds = vec![Value::Integer(tenant_number(query.tenant)), Value::Blob(below.to_vec())];
    bounds.extend(plan.mark.map(Value::Integer));
    let mut statement = connection.prepare_cached(&plan.sql).during("list tasks")?;
    let mut rows = statement.query(params_from_iter(bounds)).during("list tasks")?;
    let mut looked_at = 0;
    let mut last: Option<Task> = None;
    while let Some(found) = rows.next().during("list tasks")? {
        if page.tasks.len() == query.page_limit() {
            page.next = page.tasks.last().map(|task| task.id);
            break;
        }
        if looked_at == query.scan_limit.max(1) {
            page.next = last.as_ref().map(|task| task.id);
            page.searched_back_to = Some(row::id(found, 1)?.millis());
            break;
        }
        looked_at += 1;
        let mut task = row::head(found)?;
        if query.head_matches(&task) {
            row::cold_body(connection, found, &mut task)?;
            if query.body_matches(&task) {
                page.tasks.push(task.clone());
            }
        }
        last = Some(task);
    }
    Ok(page)
}
