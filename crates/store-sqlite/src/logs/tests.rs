//! What a log store promises.

use tidewheel_engine::id::{TaskId, TenantId};
use tidewheel_store::log::{Level, Stream};

use super::*;

fn line(task: u128, offset: u64, text: &str) -> Line {
    Line {
        tenant: TenantId(1),
        task: TaskId(task),
        attempt: 1,
        offset,
        at: 1_000 + offset,
        stream: Stream::Stdout,
        level: Level::Info,
        text: text.to_owned(),
    }
}

fn store() -> Arc<SqliteLogStore> {
    SqliteLogStore::open(Path::new(":memory:")).unwrap()
}

fn of_task(task: u128) -> LogQuery {
    LogQuery { task: Some(TaskId(task)), ..of_tenant() }
}

fn of_tenant() -> LogQuery {
    LogQuery { tenant: TenantId(1), limit: 10, ..LogQuery::default() }
}

fn words(words: &str) -> LogQuery {
    LogQuery { text: Some(words.to_owned()), ..of_tenant() }
}

fn texts(store: &SqliteLogStore, query: &LogQuery) -> Vec<String> {
    store.query(query).unwrap().into_iter().map(|(_, line)| line.text).collect()
}

#[test]
fn a_line_comes_back_as_it_was() {
    let store = store();
    let odd = Line {
        tenant: TenantId(u32::MAX),
        task: TaskId(u128::MAX),
        attempt: 1_000,
        offset: 1 << 40,
        at: 1 << 47,
        stream: Stream::Stderr,
        level: Level::Error,
        text: "tab\there \u{1b}[31mred\u{1b}[0m \u{0} ünïcode".to_owned(),
    };
    let (log, empty) = (Line { stream: Stream::Log, level: Level::Debug, ..line(1, 0, "x") }, line(1, 1, ""));
    store.append(vec![odd.clone(), log.clone(), empty.clone()]).unwrap();
    let query = LogQuery { tenant: odd.tenant, task: Some(odd.task), ..of_tenant() };
    assert_eq!(store.query(&query).unwrap().into_iter().map(|row| row.1).collect::<Vec<_>>(), [odd]);
    assert_eq!(store.query(&of_task(1)).unwrap().into_iter().map(|row| row.1).collect::<Vec<_>>(), [log, empty]);
}

#[test]
fn lines_come_back_in_order_and_a_resend_is_harmless() {
    let store = store();
    store.append(vec![line(1, 0, "one"), line(1, 1, "two"), line(2, 0, "other")]).unwrap();
    store.append(vec![line(1, 1, "two"), line(1, 2, "three"), line(1, 2, "three")]).unwrap();
    assert_eq!(texts(&store, &of_task(1)), ["one", "two", "three"]);
    let page = store.query(&LogQuery { limit: 1, ..of_task(1) }).unwrap();
    let rest = LogQuery { cursor: Some(page[0].0), ..of_task(1) };
    assert_eq!(texts(&store, &rest), ["two", "three"]);
    assert_eq!(texts(&store, &LogQuery { tail: true, limit: 2, ..of_task(1) }), ["two", "three"]);
    assert_eq!(texts(&store, &LogQuery { tail: true, limit: 2, ..rest }), ["two", "three"]);
    assert_eq!(texts(&store, &of_task(3)), [""; 0]);
}

#[test]
fn attempts_are_apart_and_follow_in_order_of_arrival() {
    let store = store();
    let second = |offset, text| Line { attempt: 2, ..line(1, offset, text) };
    store.append(vec![line(1, 0, "a"), second(0, "c"), line(1, 1, "late b"), second(1, "d")]).unwrap();
    assert_eq!(texts(&store, &of_task(1)), ["a", "c", "late b", "d"]);
    assert_eq!(texts(&store, &LogQuery { attempt: Some(2), ..of_task(1) }), ["c", "d"]);
    assert_eq!(texts(&store, &LogQuery { attempt: Some(3), ..of_task(1) }), [""; 0]);
    assert_eq!(texts(&store, &LogQuery { limit: 3, ..of_task(1) }), ["a", "c", "late b"]);
    assert_eq!(texts(&store, &LogQuery { limit: 2, tail: true, ..of_task(1) }), ["late b", "d"]);
    assert_eq!(texts(&store, &LogQuery { task: Some(TaskId(1)), ..words("late") }), ["late b"]);
}

#[test]
fn a_tenant_sees_its_own_lines_newest_first() {
    let store = store();
    let theirs = |offset, text| Line { tenant: TenantId(2), ..line(1, offset, text) };
    store.append(vec![line(1, 0, "mine"), theirs(0, "theirs"), line(2, 0, "also mine"), theirs(1, "theirs")]).unwrap();
    assert_eq!(texts(&store, &of_tenant()), ["also mine", "mine"]);
    assert_eq!(texts(&store, &words("mine")), ["also mine", "mine"]);
    assert_eq!(texts(&store, &words("theirs")), [""; 0]);
    assert_eq!(texts(&store, &words("t2")), [""; 0], "the word for a tenant is not in the text");
    let first = store.query(&LogQuery { limit: 1, ..of_tenant() }).unwrap();
    assert_eq!(texts(&store, &LogQuery { cursor: Some(first[0].0), ..of_tenant() }), ["mine"]);
    assert_eq!(texts(&store, &LogQuery { cursor: Some(first[0].0), ..words("mine") }), ["mine"]);
    let foreign = LogQuery { tenant: TenantId(2), ..of_task(2) };
    assert_eq!(texts(&store, &foreign), [""; 0]);
}

#[test]
fn levels_are_a_lower_bound() {
    let store = store();
    let of = |offset, level, text| Line { level, ..line(1, offset, text) };
    let levels = [(Level::Debug, "d one"), (Level::Info, "i one"), (Level::Warning, "w one"), (Level::Error, "e one")];
    store.append((0..).zip(levels).map(|(offset, (level, text))| of(offset, level, text)).collect()).unwrap();
    for (level, expected) in [(Level::Debug, 4), (Level::Info, 3), (Level::Warning, 2), (Level::Error, 1)] {
        for query in [of_tenant(), of_task(1), words("one"), LogQuery { tail: true, ..of_task(1) }] {
            let found = texts(&store, &LogQuery { level: Some(level), ..query.clone() });
            assert_eq!(found.len(), expected, "{level:?} {query:?}");
            assert!(found.contains(&"e one".to_owned()));
        }
    }
}

#[test]
fn all_words_have_to_be_there_and_nothing_is_search_language() {
    let store = store();
    store
        .append(vec![
            line(1, 0, "connection refused by host-17"),
            line(1, 1, "Connection reset"),
            line(1, 2, "NEAR the OR gate: 100% \"quoted\""),
        ])
        .unwrap();
    assert_eq!(texts(&store, &words("CONNECTION")), ["Connection reset", "connection refused by host-17"]);
    assert_eq!(texts(&store, &words("connection host-17")), ["connection refused by host-17"]);
    assert_eq!(texts(&store, &words("connection gate")), [""; 0]);
    for odd in ["\"quoted\"", "NEAR OR", "100%", "gate: \"", "text:gate", "* gate", "gate)"] {
        let found = texts(&store, &words(odd)).len();
        assert!(found <= 1, "{odd}");
    }
    assert_eq!(texts(&store, &words("\"quoted\"")).len(), 1);
    for nothing in ["", "  ", "%", "* - \"\""] {
        assert_eq!(texts(&store, &words(nothing)), [""; 0], "{nothing:?}");
    }
}

#[test]
fn old_lines_go_with_their_words_and_attempts() {
    let store = store();
    store.append((0..100).map(|at| line(at / 10, at as u64 % 10, &format!("word{at} all"))).collect()).unwrap();
    store.append(vec![Line { at: 9_000_000, ..line(50, 0, "from a clock ahead") }, line(51, 0, "word all")]).unwrap();
    assert_eq!(store.sweep(1_000, 1_000).unwrap(), 0);
    let mut gone = 0;
    for _ in 0..100 {
        let now = store.sweep(5_000, 7).unwrap();
        assert!(now <= 7);
        gone += now;
    }
    assert_eq!(gone, 101);
    assert_eq!(texts(&store, &LogQuery { limit: 1_000, ..of_tenant() }), ["from a clock ahead"]);
    assert_eq!(texts(&store, &words("all")), [""; 0]);
    let sources = store.readers.read(|connection| {
        connection.query_row("SELECT count(*) FROM source", [], |row| row.get::<_, i64>(0)).during("count")
    });
    assert_eq!(sources.unwrap(), 1);
    store.append(vec![line(1, 0, "again")]).unwrap();
    assert_eq!(texts(&store, &of_task(1)), ["again"]);
}

#[test]
fn lines_survive_a_restart_and_nothing_is_taken_after_the_close() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("logs.db");
    let store = SqliteLogStore::open(&path).unwrap();
    assert!(SqliteLogStore::open(&path).is_err(), "one process at a time");
    store.append(vec![line(1, 0, "one")]).unwrap();
    store.close();
    assert!(matches!(store.append(vec![line(1, 1, "two")]), Err(Error::Closed)));
    assert!(matches!(store.query(&of_task(1)), Err(Error::Closed)));
    let store = SqliteLogStore::open(&path).unwrap();
    store.append(vec![line(1, 0, "one"), line(1, 1, "two")]).unwrap();
    assert_eq!(texts(&store, &of_task(1)), ["one", "two"]);
}

#[test]
fn many_callers_share_a_commit_and_all_are_stored() {
    let store = store();
    std::thread::scope(|scope| {
        for task in 0..8 {
            let store = &store;
            scope.spawn(move || (0..50).for_each(|at| store.append(vec![line(task, at, "x")]).unwrap()));
        }
    });
    for task in 0..8 {
        let lines = store.query(&LogQuery { limit: 100, ..of_task(task) }).unwrap();
        assert_eq!(lines.iter().map(|(_, line)| line.offset).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    }
}

#[test]
fn searches_follow_an_index_in_the_order_of_the_answer() {
    let store = store();
    let plan = |sql: &str| {
        let lines = store.readers.read(|connection| {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).during("plan")?;
            let lines =
                statement.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<rusqlite::Result<Vec<_>>>();
            lines.during("plan")
        });
        lines.unwrap()
    };
    let source = "SEARCH source USING INTEGER PRIMARY KEY (rowid=?)";
    let by_source = "SEARCH line USING INDEX line_source (source=? AND rowid>?)";
    assert_eq!(plan(query::SELECT_SOURCE_UP), [source, by_source]);
    assert_eq!(plan(query::SELECT_SOURCE_DOWN), [source, by_source]);
    assert_eq!(plan(query::SELECT_TENANT), ["SEARCH line USING INDEX line_tenant (tenant=? AND rowid<?)", source]);
    assert_eq!(plan(query::SELECT_SEVERE), ["SEARCH line USING INDEX line_severe (tenant=? AND rowid<?)", source]);
    for sql in [query::SELECT_WORDS_UP, query::SELECT_WORDS_DOWN] {
        let plan = plan(sql);
        assert!(plan.len() == 1 && plan[0].starts_with("SCAN line_text VIRTUAL TABLE INDEX"), "{plan:?}");
    }
}
