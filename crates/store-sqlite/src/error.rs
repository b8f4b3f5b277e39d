//! What SQLite's errors mean to a caller of the store: try again, make room, or end the process.

use rusqlite::ffi;
use tidewheel_store::Error;

/// Linux's number for an exceeded quota, which SQLite reports as a plain write error.
const EDQUOT: i32 = 122;

/// Maps an error of SQLite. `what` says what was being done.
pub(crate) fn map(what: &str, error: &rusqlite::Error) -> Error {
    let text = format!("{what}: {error}");
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => map_code(failure.extended_code, text),
        // A column of another type or length than the schema says was not written by this program.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => Error::Corrupt(text),
        _ => Error::Failed(text),
    }
}

fn map_code(extended: i32, text: String) -> Error {
    match extended {
        ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => return Error::Fsync(text),
        // A write that the disk refused for any other reason than room: pages written before it may be gone as well.
        ffi::SQLITE_IOERR_WRITE if last_os_error() == Some(EDQUOT) => return Error::Full(text),
        ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE => return Error::Fsync(text),
        ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA => {
            return Error::Corrupt(text);
        }
        _ => {}
    }
    match extended & 0xFF {
        ffi::SQLITE_FULL => Error::Full(text),
        ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB | ffi::SQLITE_FORMAT => Error::Corrupt(text),
        _ => Error::Failed(text),
    }
}

fn last_os_error() -> Option<i32> {
    std::io::Error::last_os_error().raw_os_error()
}

/// Adds what was being done to an error of SQLite.
pub(crate) trait During<T> {
    fn during(self, what: &str) -> Result<T, Error>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, what: &str) -> Result<T, Error> {
        self.map_err(|error| map(what, &error))
    }
}
