//! The few statements that run for every task, without the copies of the general way.
//!
//! `rusqlite` copies each bound value into memory that SQLite frees again; for rows of a hundred bytes that is a seventh
//! of the work. Here values are bound where they lie. The one place with `unsafe` of this crate: a value's bytes are
//! borrowed for the whole of [`Hot::execute`], every parameter is bound anew by each call, and SQLite reads a bound
//! value only while a statement is stepped.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::NonNull;

use rusqlite::{Connection, ffi};

/// A prepared statement without a result.
pub(crate) struct Hot<'c> {
    statement: NonNull<ffi::sqlite3_stmt>,
    parameters: c_int,
    connection: &'c Connection,
}

/// Binds the parameters of one execution in order.
pub(crate) struct Binder<'s, 'v> {
    statement: NonNull<ffi::sqlite3_stmt>,
    bound: c_int,
    code: c_int,
    borrows: PhantomData<(&'s (), &'v [u8])>,
}

impl<'c> Hot<'c> {
    pub(crate) fn prepare(connection: &'c Connection, sql: &str) -> rusqlite::Result<Hot<'c>> {
        let length = c_int::try_from(sql.len()).map_err(|_| rusqlite::Error::InvalidQuery)?;
        let mut statement = std::ptr::null_mut();
        // SAFETY: the handle is open for as long as the connection is borrowed; the text is as long as said.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                connection.handle(),
                sql.as_ptr().cast(),
                length,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut statement,
                std::ptr::null_mut(),
            )
        };
        check(connection, code)?;
        let statement = NonNull::new(statement).ok_or(rusqlite::Error::InvalidQuery)?;
        // SAFETY: the statement has just been prepared.
        let parameters = unsafe { ffi::sqlite3_bind_parameter_count(statement.as_ptr()) };
        Ok(Hot { statement, parameters, connection })
    }

    /// Binds every parameter, runs the statement, and returns how many rows it changed.
    pub(crate) fn execute<'v>(&mut self, bind: impl FnOnce(&mut Binder<'_, 'v>)) -> rusqlite::Result<usize> {
        let mut binder = Binder { statement: self.statement, bound: 0, code: ffi::SQLITE_OK, borrows: PhantomData };
        bind(&mut binder);
        assert_eq!(binder.bound, self.parameters, "every parameter is bound anew");
        check(self.connection, binder.code)?;
        // SAFETY: the statement is ours and not in use; all its values live until this call returns.
        let (stepped, changed) = unsafe {
            let stepped = ffi::sqlite3_step(self.statement.as_ptr());
            (stepped, ffi::sqlite3_changes64(self.connection.handle()))
        };
        // The error has to be read before the statement is reset, which may not change it but is not asked to keep it.
        let result = if stepped == ffi::SQLITE_DONE { Ok(()) } else { check(self.connection, stepped) };
        // SAFETY: as above; the result of a reset repeats that of the step.
        unsafe { ffi::sqlite3_reset(self.statement.as_ptr()) };
        result.map(|()| usize::try_from(changed).unwrap_or(0))
    }
}

impl Drop for Hot<'_> {
    fn drop(&mut self) {
        // SAFETY: the statement is ours, and the connection it belongs to is still open.
        unsafe { ffi::sqlite3_finalize(self.statement.as_ptr()) };
    }
}

impl<'v> Binder<'_, 'v> {
    fn next(&mut self) -> c_int {
        self.bound += 1;
        self.bound
    }

    fn note(&mut self, code: c_int) {
        if code != ffi::SQLITE_OK {
            self.code = code;
        }
    }

    pub(crate) fn blob(&mut self, bytes: &'v [u8]) {
        let at = self.next();
        // A pointer to nothing would be bound as null; any other of length 0 is an empty blob.
        // SAFETY: the bytes outlive the execution, which is the only time they are read.
        let code = unsafe {
            let bytes_at = bytes.as_ptr().cast();
            ffi::sqlite3_bind_blob64(self.statement.as_ptr(), at, bytes_at, bytes.len() as u64, ffi::SQLITE_STATIC())
        };
        self.note(code);
    }

    pub(crate) fn null(&mut self) {
        let at = self.next();
        // SAFETY: the statement is not in use.
        let code = unsafe { ffi::sqlite3_bind_null(self.statement.as_ptr(), at) };
        self.note(code);
    }

    pub(crate) fn integer(&mut self, number: i64) {
        let at = self.next();
        // SAFETY: the statement is not in use.
        let code = unsafe { ffi::sqlite3_bind_int64(self.statement.as_ptr(), at, number) };
        self.note(code);
    }

    pub(crate) fn optional(&mut self, bytes: Option<&'v [u8]>) {
        match bytes {
            Some(bytes) => self.blob(bytes),
            None => self.null(),
        }
    }
}

fn check(connection: &Connection, code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK {
        return Ok(());
    }
    // SAFETY: the handle is open; the message is a text that ends with 0 and is copied before the next call.
    let (code, text) = unsafe {
        let handle = connection.handle();
        let text = std::ffi::CStr::from_ptr(ffi::sqlite3_errmsg(handle)).to_string_lossy().into_owned();
        (ffi::sqlite3_extended_errcode(handle), text)
    };
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(text)))
}

/// Switches SQLite's own count of its memory off, which takes a lock around each allocation. Nothing reads it.
pub(crate) fn without_memory_count() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // SAFETY: every connection of this crate is opened after this call. If the process has used SQLite before, the call
    // is refused and changes nothing.
    ONCE.call_once(|| unsafe {
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a BLOB PRIMARY KEY, b BLOB, c INTEGER) WITHOUT ROWID").unwrap();
        connection
    }

    #[test]
    fn values_arrive_as_they_are() {
        let connection = database();
        let mut insert = Hot::prepare(&connection, "INSERT INTO t VALUES (?, ?, ?)").unwrap();
        for number in 0..3i64 {
            let bytes = vec![number as u8; number as usize];
            let changed = insert.execute(|bind| {
                bind.blob(&bytes);
                bind.optional((number > 0).then_some(&bytes[..]));
                bind.integer(number - 1);
            });
            assert_eq!(changed.unwrap(), 1);
        }
        drop(insert);
        let mut rows = connection.prepare("SELECT a, b, c FROM t ORDER BY c").unwrap();
        let rows: Vec<(Vec<u8>, Option<Vec<u8>>, i64)> =
            rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, [(vec![], None, -1), (vec![1], Some(vec![1]), 0), (vec![2, 2], Some(vec![2, 2]), 1)]);
    }

    #[test]
    fn an_error_has_its_code_and_the_statement_can_be_used_again() {
        let connection = database();
        let mut insert = Hot::prepare(&connection, "INSERT INTO t VALUES (?, NULL, NULL)").unwrap();
        assert_eq!(insert.execute(|bind| bind.blob(b"x")).unwrap(), 1);
        match insert.execute(|bind| bind.blob(b"x")) {
            Err(rusqlite::Error::SqliteFailure(error, Some(text))) => {
                assert_eq!(error.extended_code, ffi::SQLITE_CONSTRAINT_PRIMARYKEY);
                assert!(text.contains("UNIQUE"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(insert.execute(|bind| bind.blob(b"y")).unwrap(), 1);
        let mut update = Hot::prepare(&connection, "UPDATE t SET c = 1 WHERE a = ?").unwrap();
        assert_eq!(update.execute(|bind| bind.blob(b"z")).unwrap(), 0);
    }

    #[test]
    #[should_panic(expected = "every parameter is bound anew")]
    fn a_forgotten_parameter_is_noticed() {
        let connection = database();
        let mut insert = Hot::prepare(&connection, "INSERT INTO t VALUES (?, ?, NULL)").unwrap();
        drop(insert.execute(|bind| bind.blob(b"x")));
    }
}
