//! What workers and submitters saw, kept outside the product, so that its promises can be judged by somebody else's book:
//! which task was granted, reported and acknowledged, in which order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidewheel_proto::v1::Grant;

/// The book, shared by all workers and submitters of a test.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

/// Everything that was seen.
#[derive(Default)]
pub struct Book {
    /// By task id.
    pub tasks: HashMap<u128, Seen>,
    tokens: HashMap<Vec<u8>, u128>,
    /// By number: the ids that submits of it were answered with. More than one is a broken promise.
    pub submitted: BTreeMap<u64, HashSet<u128>>,
    /// Grants in all.
    pub grants: u64,
    /// Results sent in all, repeats included.
    pub sent: u64,
    /// Results that the server refused as too late.
    pub refused: u64,
    /// Tasks with an acknowledged result. Counted as they come: the load asks for it before each submit.
    completed: usize,
    /// Promises that were seen broken.
    pub violations: Vec<String>,
    /// Prints each event to standard output, for workers that are a process of their own.
    pub echo: bool,
}

/// What was seen of one task.
#[derive(Default, Clone)]
pub struct Seen {
    /// The number of its input.
    pub n: Option<u64>,
    /// Grants, each with the worker that got it.
    pub grants: Vec<String>,
    /// Results whose storing was acknowledged.
    pub accepted: u32,
}

impl Ledger {
    /// Locks the book.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        // A panic elsewhere fails its own test; the book stays readable for the message.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker got a grant.
    pub fn granted(&self, worker: &str, grant: &Grant) {
        let mut book = self.book();
        let id = crate::wire::id(&grant.task);
        book.grants += 1;
        if book.tokens.insert(grant.token.to_vec(), id).is_some() {
            book.violations.push(format!("{} was granted twice under one token", crate::wire::text(id)));
        }
        let seen = book.tasks.entry(id).or_default();
        seen.n = crate::wire::number(&grant.input);
        seen.grants.push(worker.to_owned());
        if seen.accepted > 0 {
            let what = format!("{} was granted to {worker} after its result was acknowledged", crate::wire::text(id));
            book.violations.push(what);
        }
        book.echo("granted", id);
    }

    /// A worker sent a result.
    pub fn sent(&self, token: &[u8]) {
        let mut book = self.book();
        book.sent += 1;
        let id = book.task_of(token);
        book.echo("sent", id);
    }

    /// The server acknowledged a result.
    pub fn accepted(&self, token: &[u8]) {
        let mut book = self.book();
        let id = book.task_of(token);
        let seen = book.tasks.entry(id).or_default();
        seen.accepted += 1;
        let is_first = seen.accepted == 1;
        if seen.accepted > 1 {
            let what = format!("{} was completed {} times", crate::wire::text(id), seen.accepted);
            book.violations.push(what);
        }
        book.completed += usize::from(is_first);
        book.echo("accepted", id);
    }

    /// The server refused a result as too late.
    pub fn refused(&self, token: &[u8]) {
        let mut book = self.book();
        book.refused += 1;
        let id = book.task_of(token);
        book.echo("refused", id);
    }

    /// A submit of number `n` was answered with this id.
    pub fn submitted(&self, n: u64, id: u128) {
        let mut book = self.book();
        let book = &mut *book;
        let ids = book.submitted.entry(n).or_default();
        ids.insert(id);
        if ids.len() > 1 {
            book.violations.push(format!("number {n} was stored as {} tasks", ids.len()));
        }
    }

    /// How many different numbers have an acknowledged id.
    pub fn acknowledged(&self) -> usize {
        self.book().submitted.len()
    }

    /// How many tasks have an acknowledged result.
    pub fn completed(&self) -> usize {
        self.book().completed
    }

    /// Fails with the first few broken promises.
    pub fn check(&self) -> anyhow::Result<()> {
        let mut book = self.book();
        let granted: Vec<(u128, u64)> = book.tasks.iter().filter_map(|(id, s)| s.n.map(|n| (*id, n))).collect();
        for (id, n) in granted {
            // A task that ran under a number whose submit was answered with another id exists twice.
            if book.submitted.get(&n).is_some_and(|ids| !ids.contains(&id)) {
                let what =
                    format!("number {n} ran as {} too, which no submit was answered with", crate::wire::text(id));
                book.violations.push(what);
            }
        }
        let found = book.violations.len();
        anyhow::ensure!(found == 0, "{found} broken promises: {:#?}", &book.violations[..found.min(10)]);
        Ok(())
    }
}

impl Book {
    fn task_of(&self, token: &[u8]) -> u128 {
        self.tokens.get(token).copied().unwrap_or(0)
    }

    fn echo(&self, what: &str, id: u128) {
        if self.echo {
            use std::io::Write as _;
            let mut out = std::io::stdout().lock();
            // The parent reads line by line; if it is gone, nobody needs the line.
            let _ = writeln!(out, "{what} {}", crate::wire::text(id));
            let _ = out.flush();
        }
    }
}
