//! The plans of the statements that run often. A new SQLite, index or condition that turns a search into a scan fails
//! here and not in production.

use std::path::Path;

use crate::{files, list, migrate, reader, recover, run, run_read, statement, sweep};

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
    let codes = |sql: &str, wanted: &str| {
        let mut statement = connection.prepare(&format!("EXPLAIN {sql}")).unwrap();
        let codes = statement.raw_query().mapped(|row| row.get::<_, String>(1));
        codes.filter(|code| code.as_ref().unwrap() == wanted).count()
    };
    let opened = |sql: &str| codes(sql, "OpenWrite");
    assert_eq!(opened(run::APPEND_TURN), 1);
    // The index by which the row is found is opened with it, and stays as it is.
    assert_eq!((codes(run::UPDATE_PLAIN, "IdxInsert"), codes(run::UPDATE_PLAIN, "IdxDelete")), (0, 0));
    assert_eq!(codes(run::UPDATE, "IdxInsert"), 2);
    assert_eq!(opened(statement::UPDATE_PLAIN), 1);
    assert_eq!(opened(statement::UPDATE_READY), 2);
    assert_eq!(opened(statement::UPDATE_TASK), 4);
}

#[test]
fn statements_of_runs_search_and_never_scan_or_sort() {
    let part = |table: &str| format!("SEARCH {table} USING PRIMARY KEY (key>? AND key<?)");
    let (turns, events, timers) = (part("run_turn"), part("run_event"), part("run_timer"));
    let sizes = "SEARCH t USING PRIMARY KEY (key>? AND key<?)";
    let long = "SEARCH run_long USING INTEGER PRIMARY KEY (rowid=?)";
    let row = "SEARCH run USING INDEX run_key (key=?)";
    let one = "SEARCH r USING INDEX run_key (key=?)";
    let expected: &[(&str, &[&str])] = &[
        (run::UPDATE_PLAIN, &[row]),
        (run::UPDATE, &[row]),
        (run::SELECT_MARKS, &[row]),
        (run::DELETE_MARK, &["SEARCH run_mark USING PRIMARY KEY (mark=? AND key=?)"]),
        (run::DELETE_LONG, &["SEARCH run_long USING INTEGER PRIMARY KEY (rowid=?)"]),
        (run::DELETE_EVENT, &["SEARCH run_event USING PRIMARY KEY (key=?)"]),
        (run::DELETE_TIMER, &["SEARCH run_timer USING PRIMARY KEY (key=?)"]),
        (run_read::SELECT_HEAD, &[row]),
        (run_read::SELECT_HEAD_SIZE, &[row]),
        (run_read::SELECT_TURNS_SIZE, &[sizes, "CORRELATED SCALAR SUBQUERY 1", long]),
        (run_read::SELECT_EVENTS_SIZE, &[sizes, "CORRELATED SCALAR SUBQUERY 1", long]),
        (run_read::SELECT_TURNS, &[&turns]),
        (run_read::SELECT_EVENTS, &[&events]),
        (run_read::SELECT_TIMERS, &[&timers]),
        (run_read::SELECT_DUE, &["SEARCH run_timer USING COVERING INDEX run_timer_due (due>? AND due<?)"]),
        (run_read::SELECT_LONG, &["SEARCH run_long USING INTEGER PRIMARY KEY (rowid=?)"]),
        (run_read::SELECT_VALUE, &["SEARCH value USING INDEX value_key (key=?)"]),
        (run_read::SELECT_NEXT_WAITING, &["SEARCH run_event USING PRIMARY KEY (key>?)"]),
        (run_read::SELECT_BY_KEY, &["SEARCH r USING INDEX run_key (key>? AND key<?)"]),
        (run_read::SELECT_BY_MARK, &["SEARCH m USING PRIMARY KEY (mark=? AND key>? AND key<?)", one]),
        (run_read::SELECT_LIVE, &["SEARCH r USING INDEX run_live (live=? AND key>? AND key<?)"]),
        (run_read::SELECT_LIVE_KEYS, &["SEARCH run USING COVERING INDEX run_live (live=? AND key>? AND key<?)"]),
        (run_read::SELECT_KEYS, &["SEARCH run USING COVERING INDEX run_key (key>? AND key<?)"]),
        (run_read::SELECT_ONE, &[one]),
        (run_read::SELECT_ENDED, &["SEARCH run USING INDEX run_ended (ended>? AND ended<?)"]),
        (run_read::DELETE_NAMES, &["SEARCH value_name USING COVERING INDEX value_name_namer (namer=?)"]),
        (run_read::SELECT_NAMED, &["SEARCH value_name USING PRIMARY KEY (value=?)"]),
        (run_read::DELETE_VALUE, &["SEARCH value USING INDEX value_key (key=?)"]),
        (run_read::DELETE_TURNS, &[&turns]),
        (run_read::DELETE_EVENTS, &[&events]),
        (run_read::DELETE_TIMERS, &[&timers]),
    ];
    for (sql, expected) in expected {
        assert_eq!(plan(sql), *expected, "{sql}");
    }
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
        run_read::SELECT_HEAD,
        run_read::SELECT_TURNS,
        run_read::SELECT_EVENTS,
        run_read::SELECT_TIMERS,
        run_read::SELECT_DUE,
        run_read::SELECT_LONG,
        run_read::SELECT_VALUE,
        run_read::SELECT_BY_KEY,
        run_read::SELECT_BY_MARK,
        run_read::SELECT_LIVE,
        run_read::SELECT_ONE,
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
