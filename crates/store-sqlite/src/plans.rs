//! The plans of the statements that run often. A new SQLite, index or condition that turns a search into a scan fails
//! here and not in production.

use std::path::Path;

use crate::{files, list, migrate, reader, recover, statement, sweep};

/// What SQLite says it would do, line by line.
#[cfg(test)]
fn plan(sql: &str) -> Vec<String> {
    let place = files::Place::take(Path::new(":memory:")).unwrap();
    let mut connection = files::open_writer(&place.path, 1_024, false).unwrap();
    migrate::store(&mut connection).unwrap();
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    // Parameters need no values to be planned.
    let lines = statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>();
    lines.unwrap()
}

#[test]
fn hot_statements_search_and_never_scan_or_sort() {
    let by_key = "SEARCH t USING PRIMARY KEY (key=?)";
    let key_range = "SEARCH t USING PRIMARY KEY (key>? AND key<?)";
    let update = "SEARCH task USING PRIMARY KEY (key=?)";
    let expected: &[(&str, &[&str])] = &[
        (statement::FENCE, &["SEARCH partition USING INTEGER PRIMARY KEY (rowid=?)"]),
        (statement::UPDATE_PLAIN, &[update]),
        (statement::UPDATE_READY, &[update]),
        (statement::UPDATE_TASK, &[update]),
        (statement::UPDATE_KEEPING_RESULT, &[update]),
        (reader::SELECT_INDEX, &["SEARCH partition USING INTEGER PRIMARY KEY (rowid=?)"]),
        (reader::SELECT_TASK, &[by_key]),
        (reader::SELECT_LANE, &["SEARCH t USING INDEX task_ready (ready>? AND ready<?)"]),
        (reader::SELECT_NEXT_LANE, &["SEARCH task USING COVERING INDEX task_ready (ready>? AND ready<?)"]),
        (reader::SELECT_DUE, &["SEARCH t USING INDEX task_timer (timer>? AND timer<?)"]),
        (reader::SELECT_KEY_PAGE, &["SEARCH key_page USING INTEGER PRIMARY KEY (rowid=?)"]),
        (reader::SELECT_ATTEMPTS, &["SEARCH attempt USING PRIMARY KEY (key=?)"]),
        (list::SELECT_BY_KEY, &[key_range]),
        (list::SELECT_BY_MARK, &["SEARCH m USING PRIMARY KEY (mark=? AND key>? AND key<?)", by_key]),
        (list::SELECT_ONE, &[by_key]),
        (list::SELECT_LIVE, &["SEARCH task USING COVERING INDEX task_live (live=? AND key>? AND key<?)"]),
        (list::SELECT_READY, &["SEARCH task USING COVERING INDEX task_ready (ready>? AND ready<?)"]),
        (recover::SELECT_RANGE, &[key_range]),
        (sweep::SELECT_AFTER, &["SEARCH t USING PRIMARY KEY (key>?)"]),
    ];
    for (sql, expected) in expected {
        assert_eq!(plan(sql), *expected, "{sql}");
    }
}

#[test]
fn a_plain_update_opens_the_table_and_nothing_else() {
    let place = files::Place::take(Path::new(":memory:")).unwrap();
    let mut connection = files::open_writer(&place.path, 1_024, false).unwrap();
    migrate::store(&mut connection).unwrap();
    let opened = |sql: &str| {
        let mut statement = connection.prepare(&format!("EXPLAIN {sql}")).unwrap();
        let codes = statement.raw_query().mapped(|row| row.get::<_, String>(1));
        codes.filter(|code| code.as_ref().unwrap() == "OpenWrite").count()
    };
    assert_eq!(opened(statement::UPDATE_PLAIN), 1);
    assert_eq!(opened(statement::UPDATE_READY), 2);
    assert_eq!(opened(statement::UPDATE_TASK), 4);
}

/// SQLite prepares a statement again when a value that its plan may depend on is bound anew; that costs ten times as much
/// as the statement itself.
#[test]
fn hot_reads_are_prepared_once() {
    let place = files::Place::take(Path::new(":memory:")).unwrap();
    let mut connection = files::open_writer(&place.path, 1_024, false).unwrap();
    migrate::store(&mut connection).unwrap();
    let statements = [
        reader::SELECT_INDEX,
        reader::SELECT_TASK,
        reader::SELECT_LANE,
        reader::SELECT_NEXT_LANE,
        reader::SELECT_DUE,
        reader::SELECT_KEY_PAGE,
        reader::SELECT_ATTEMPTS,
        list::SELECT_BY_KEY,
        list::SELECT_BY_MARK,
        list::SELECT_ONE,
        list::SELECT_LIVE,
        list::SELECT_READY,
        recover::SELECT_RANGE,
        sweep::SELECT_AFTER,
    ];
    for sql in statements {
        let mut statement = connection.prepare(sql).unwrap();
        for round in 0..10i64 {
            for parameter in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(parameter, round).unwrap();
            }
            let mut rows = statement.raw_query();
            while rows.next().unwrap().is_some() {}
        }
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
    }
}
