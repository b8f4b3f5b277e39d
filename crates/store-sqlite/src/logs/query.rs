//! Searches. A task's lines come in order of arrival; a tenant's newest first.
//!
//! Each way to a page follows one index in the order of the answer and stops when the page is full, so that its cost
//! does not grow with what is stored.

use rusqlite::{Connection, Row, params};
use tidewheel_engine::id::TaskId;
use tidewheel_store::Error;
use tidewheel_store::log::{Level, Line, LogPage, LogQuery, Stream};

use super::writer::owner;
use crate::error::During;

macro_rules! columns {
    () => {
        "line.row, source.task, source.attempt, line.number, line.at, line.kind, line.text, line.source"
    };
}

pub(super) const SELECT_SOURCES: &str = "SELECT id FROM source WHERE tenant = ?1 AND task = ?2 \
     AND (?3 IS NULL OR attempt = ?3) ORDER BY attempt";
pub(super) const SELECT_SOURCE_UP: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM line JOIN source ON source.id = line.source",
    " WHERE line.source = ?1 AND line.row > ?2 AND line.kind % 16 >= ?3 ORDER BY line.row LIMIT ?4"
);
pub(super) const SELECT_SOURCE_DOWN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM line JOIN source ON source.id = line.source",
    " WHERE line.source = ?1 AND line.row > ?2 AND line.kind % 16 >= ?3 ORDER BY line.row DESC LIMIT ?4"
);
pub(super) const SELECT_TENANT: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM line INDEXED BY line_tenant CROSS JOIN source ON source.id = line.source",
    " WHERE line.tenant = ?1 AND line.row < ?2 AND line.kind % 16 >= ?3 ORDER BY line.row DESC LIMIT ?4"
);
pub(super) const SELECT_SEVERE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM line INDEXED BY line_severe CROSS JOIN source ON source.id = line.source",
    " WHERE line.tenant = ?1 AND line.row < ?2 AND line.kind % 16 >= 3 AND line.kind % 16 >= ?3",
    " ORDER BY line.row DESC LIMIT ?4"
);
pub(super) const SELECT_WORDS_UP: &str =
    "SELECT rowid FROM line_text WHERE line_text MATCH ?1 AND rowid >= ?2 AND rowid <= ?3 ORDER BY rowid";
pub(super) const SELECT_WORDS_DOWN: &str =
    "SELECT rowid FROM line_text WHERE line_text MATCH ?1 AND rowid >= ?2 AND rowid <= ?3 ORDER BY rowid DESC";
pub(super) const SELECT_ROW: &str =
    concat!("SELECT ", columns!(), " FROM line JOIN source ON source.id = line.source WHERE line.row = ?1");
pub(super) const SELECT_BOUNDS: &str = "SELECT (SELECT min(row) FROM line WHERE source = ?1), \
     (SELECT max(row) FROM line WHERE source = ?1)";

/// Longest page.
const PAGE_LIMIT: usize = 10_000;

/// A page.
pub(super) fn page(connection: &Connection, query: &LogQuery) -> Result<LogPage, Error> {
    let limit = query.limit.clamp(1, PAGE_LIMIT);
    let sources = match query.task {
        Some(task) => Some(sources(connection, query, task)?),
        None => None,
    };
    let words = query.text.as_deref().map(|text| match_words(text, &owner(query.tenant)));
    let mut page = match (words, &sources) {
        (Some(Some(words)), _) => by_words(connection, query, &words, sources.as_deref(), limit)?,
        // Only what is no word was asked for.
        (Some(None), _) => Vec::new(),
        (None, Some(sources)) => by_sources(connection, query, sources, limit)?,
        (None, None) => by_tenant(connection, query, limit)?,
    };
    if query.tail && query.task.is_some() {
        page.reverse();
    }
    Ok(page)
}

fn level(query: &LogQuery) -> u8 {
    query.level.map_or(0, |level| level as u8)
}

fn signed(cursor: Option<u64>) -> Option<i64> {
    cursor.map(crate::batch::signed)
}

fn sources(connection: &Connection, query: &LogQuery, task: TaskId) -> Result<Vec<i64>, Error> {
    let mut statement = connection.prepare_cached(SELECT_SOURCES).during("search log lines")?;
    let values = params![query.tenant.0, task.to_bytes(), query.attempt];
    let rows = statement.query_map(values, |row| row.get(0)).during("search log lines")?;
    rows.collect::<rusqlite::Result<_>>().during("search log lines")
}

/// Lines of a task: of each attempt as many as fit, then the first (or last) of all. Attempts follow each other, so
/// that as a rule the first ones fill the page.
fn by_sources(connection: &Connection, query: &LogQuery, sources: &[i64], limit: usize) -> Result<LogPage, Error> {
    let sql = if query.tail { SELECT_SOURCE_DOWN } else { SELECT_SOURCE_UP };
    let mut statement = connection.prepare_cached(sql).during("search log lines")?;
    let after = signed(query.cursor).unwrap_or(-1);
    let mut page = LogPage::new();
    for source in sources {
        let mut rows =
            statement.query(params![source, after, level(query), limit as i64]).during("search log lines")?;
        while let Some(row) = rows.next().during("search log lines")? {
            page.push(line_of(row, query)?);
        }
    }
    if sources.len() > 1 {
        page.sort_by_key(|(row, _)| if query.tail { u64::MAX - row } else { *row });
        page.truncate(limit);
    }
    Ok(page)
}

fn by_tenant(connection: &Connection, query: &LogQuery, limit: usize) -> Result<LogPage, Error> {
    let severe = query.level >= Some(Level::Warning);
    let sql = if severe { SELECT_SEVERE } else { SELECT_TENANT };
    let mut statement = connection.prepare_cached(sql).during("search log lines")?;
    let below = signed(query.cursor).unwrap_or(i64::MAX);
    let mut rows =
        statement.query(params![query.tenant.0, below, level(query), limit as i64]).during("search log lines")?;
    let mut page = LogPage::new();
    while let Some(row) = rows.next().during("search log lines")? {
        page.push(line_of(row, query)?);
    }
    Ok(page)
}

/// Lines with words: by the word index within the rows that come into question.
fn by_words(
    connection: &Connection,
    query: &LogQuery,
    words: &str,
    sources: Option<&[i64]>,
    limit: usize,
) -> Result<LogPage, Error> {
    let cursor = signed(query.cursor);
    let (first, last) = match sources {
        Some(sources) => {
            let Some((first, last)) = bounds(connection, sources)? else { return Ok(LogPage::new()) };
            (first.max(cursor.map_or(first, |cursor| cursor.saturating_add(1))), last)
        }
        None => (0, cursor.map_or(i64::MAX, |cursor| cursor - 1)),
    };
    let down = query.tail || sources.is_none();
    let sql = if down { SELECT_WORDS_DOWN } else { SELECT_WORDS_UP };
    let mut found = connection.prepare_cached(sql).during("search log lines")?;
    let mut found = found.query(params![words, first, last]).during("search log lines")?;
    let mut one = connection.prepare_cached(SELECT_ROW).during("search log lines")?;
    let mut page = LogPage::new();
    while let Some(row) = found.next().during("search log lines")? {
        let row: i64 = row.get(0).during("search log lines")?;
        let mut rows = one.query([row]).during("search log lines")?;
        let Some(row) = rows.next().during("search log lines")? else { continue };
        let source: i64 = row.get(7).during("search log lines")?;
        let (number, line) = line_of(row, query)?;
        let wanted = sources.is_none_or(|sources| sources.contains(&source)) && line.level as u8 >= level(query);
        if wanted {
            page.push((number, line));
            if page.len() == limit {
                break;
            }
        }
    }
    Ok(page)
}

/// First and last row of some attempts.
fn bounds(connection: &Connection, sources: &[i64]) -> Result<Option<(i64, i64)>, Error> {
    let mut statement = connection.prepare_cached(SELECT_BOUNDS).during("search log lines")?;
    let mut bounds = None;
    for source in sources {
        let found: (Option<i64>, Option<i64>) =
            statement.query_row([source], |row| Ok((row.get(0)?, row.get(1)?))).during("search log lines")?;
        if let (Some(first), Some(last)) = found {
            let (low, high) = bounds.unwrap_or((first, last));
            bounds = Some((first.min(low), last.max(high)));
        }
    }
    Ok(bounds)
}

/// Stream and level as one number.
pub(super) fn kind_of(stream: Stream, level: Level) -> u8 {
    stream as u8 * 16 + level as u8
}

fn line_of(row: &Row<'_>, query: &LogQuery) -> Result<(u64, Line), Error> {
    let read = || -> rusqlite::Result<(u64, Line)> {
        let kind: u8 = row.get(5)?;
        let line = Line {
            tenant: query.tenant,
            task: TaskId::from_bytes(row.get(1)?),
            attempt: row.get(2)?,
            offset: row.get::<_, i64>(3)? as u64,
            at: row.get::<_, i64>(4)? as u64,
            stream: match kind / 16 {
                1 => Stream::Stdout,
                2 => Stream::Stderr,
                _ => Stream::Log,
            },
            level: match kind % 16 {
                1 => Level::Debug,
                2 => Level::Info,
                3 => Level::Warning,
                _ => Level::Error,
            },
            text: row.get(6)?,
        };
        Ok((row.get::<_, i64>(0)? as u64, line))
    };
    read().during("read a log line")
}

/// The search for all words of a text, among the lines of one owner. Each word is quoted, so that nothing of the text is
/// taken for the search language. `None` if there is no word in it.
pub(super) fn match_words(text: &str, owner: &str) -> Option<String> {
    let words = text.split_whitespace().filter(|word| word.contains(char::is_alphanumeric));
    let terms: Vec<_> = words.map(|word| format!("text : \"{}\"", word.replace('"', "\"\""))).collect();
    (!terms.is_empty()).then(|| format!("{} AND owner : {owner}", terms.join(" AND ")))
}
