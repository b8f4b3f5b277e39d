//! Schema migrations: the numbered files of `schema/`, applied in order and never edited once released.

use rusqlite::Connection;
use tidewheel_store::Error;

use crate::error::During;

mod store_schema {
    refinery::embed_migrations!("schema/store");
}

mod log_schema {
    refinery::embed_migrations!("schema/logs");
}

/// Brings the task database to this program's schema.
pub(crate) fn store(connection: &mut Connection) -> Result<(), Error> {
    run(connection, store_schema::migrations::runner())
}

/// The schema of an earlier program.
#[cfg(test)]
pub(crate) fn store_up_to(connection: &mut Connection, version: i32) -> Result<(), Error> {
    run(connection, store_schema::migrations::runner().set_target(refinery::Target::Version(version)))
}

/// Brings the log database to this program's schema.
pub(crate) fn logs(connection: &mut Connection) -> Result<(), Error> {
    run(connection, log_schema::migrations::runner())
}

/// All files that are missing and the note that they were applied are one transaction: by itself refinery makes two of each, and a
/// process that is killed between them leaves a database that cannot be opened any more.
fn run(connection: &mut Connection, runner: refinery::Runner) -> Result<(), Error> {
    let runner = runner.set_grouped(true);
    let known = runner.get_migrations().iter().map(refinery::Migration::version).max().unwrap_or(0);
    let found = applied(connection)?;
    if found > i64::from(known) {
        return Err(Error::TooNew(format!(
            "the database has schema {found}; this program knows schemas up to {known}"
        )));
    }
    runner
        .run(connection)
        .map_err(|error| Error::Corrupt(format!("the schema cannot be brought up to date: {error}")))?;
    Ok(())
}

/// The schema's version, 0 for a new database.
fn applied(connection: &Connection) -> Result<i64, Error> {
    let exists: bool = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'refinery_schema_history'", [], |row| row.get(0))
        .during("read the schema")?;
    if !exists {
        return Ok(0);
    }
    let newest: Option<i64> = connection
        .query_row("SELECT max(version) FROM refinery_schema_history", [], |row| row.get(0))
        .during("read the schema's version")?;
    Ok(newest.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_migration_that_is_cut_off_at_any_commit_is_done_by_the_next_start() {
        for last in 0..8 {
            let mut connection = Connection::open_in_memory().unwrap();
            let commits = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&commits);
            // What would have been committed after that is gone.
            connection.commit_hook(Some(move || counted.fetch_add(1, Ordering::Relaxed) >= last)).unwrap();
            let cut_off = store(&mut connection).is_err();
            connection.commit_hook(None::<fn() -> bool>).unwrap();
            store(&mut connection).unwrap();
            assert_eq!(applied(&connection).unwrap(), 4, "after {last} commits, cut off: {cut_off}");
        }
    }
}
