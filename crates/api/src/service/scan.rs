//! Lists that a filter finds: the conditions that are checked on rows because the store has no index for them, and the pages in which
//! rows are read until enough have passed. The same for every kind of row.

use std::fmt::Debug;

use super::filter::{Term, Value};
use super::filter_values::matches;
use crate::problem::Failure;

/// Rows that one page looks at, at most; then the answer says how far it came (`interfaces.md`, section 4).
const SCAN_ROWS: usize = 50_000;
/// Rows read at once when the store's conditions are not enough.
const SCAN_PAGE: usize = 1_000;

/// A row of a list, as a filter sees it.
pub(crate) trait Row: Clone + Debug {
    /// Its texts, by which they are asked for.
    type Text: Clone + Debug;
    /// Its numbers.
    type Number: Copy + Debug;
    /// States that it may have.
    type State: Copy + PartialEq + Debug;
    /// What has the names that a row holds as numbers.
    type Names: ?Sized;

    /// Its id; rows come in descending order of it.
    fn id(&self) -> u128;
    /// Its state.
    fn state(&self) -> Self::State;
    /// One of its numbers, if it has it.
    fn number(&self, which: Self::Number, now: u64) -> Option<u64>;
    /// Every form that one of its texts has.
    fn texts(&self, which: &Self::Text, names: &Self::Names) -> Vec<String>;
    /// Whether a word, in small letters, occurs in what it says of its failure.
    fn says(&self, word: &str) -> bool;
}

/// What has to hold of a row.
#[derive(Clone, Debug)]
pub(super) enum Test<R: Row> {
    /// A text of the row is any of these.
    Text(R::Text, Vec<Value>),
    /// A number of the row lies within any of these; a row without it does not pass.
    Number(R::Number, Vec<(u64, u64)>),
    /// It has a state of these.
    State(Vec<R::State>),
    Id(Vec<u128>),
    /// The word occurs in its error.
    Word(String),
    Constant(bool),
}

/// Conditions, all of which hold of a row that passes.
#[derive(Clone, Debug)]
pub(super) struct Checks<R: Row>(Vec<(bool, Test<R>)>);

impl<R: Row> Default for Checks<R> {
    fn default() -> Self {
        Checks(Vec::new())
    }
}

impl<R: Row> Checks<R> {
    /// A condition as a term of the filter says it: it may have to be false.
    pub(super) fn add(&mut self, term: &Term, test: Test<R>) {
        self.0.push((term.negated, test));
    }

    /// One that has to hold.
    pub(super) fn require(&mut self, test: Test<R>) {
        self.0.push((false, test));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn pass(&self, row: &R, names: &R::Names, now: u64) -> bool {
        self.0.iter().all(|(negated, test)| test.holds(row, names, now) != *negated)
    }
}

impl<R: Row> Test<R> {
    fn holds(&self, row: &R, names: &R::Names, now: u64) -> bool {
        match self {
            Test::Constant(value) => *value,
            Test::State(states) => states.contains(&row.state()),
            Test::Id(ids) => ids.contains(&row.id()),
            Test::Number(number, ranges) => {
                let within = |n: u64| ranges.iter().any(|(from, until)| (*from..=*until).contains(&n));
                row.number(*number, now).is_some_and(within)
            }
            Test::Word(word) => row.says(word),
            Test::Text(text, values) => {
                let found = row.texts(text, names);
                values.iter().any(|value| found.iter().any(|text| matches(value, Some(text))))
            }
        }
    }
}

/// Rows found.
#[derive(Debug)]
pub(crate) struct Found<R> {
    pub(crate) rows: Vec<R>,
    /// There may be more below this id.
    pub(crate) next: Option<u128>,
    /// The rows back to this time were looked at, and there may be more: in milliseconds.
    pub(crate) searched_back_to: Option<u64>,
    pub(crate) as_of: u64,
}

/// A page that is to be read.
pub(super) struct Wanted {
    /// Only rows below this id.
    pub(super) before: Option<u128>,
    pub(super) limit: usize,
    /// Rows that the store looks at, at most.
    pub(super) scan_limit: usize,
}

/// Rows below an id, newest first, at most `limit`, that pass. `checked`: whether there is anything to check; `read` gives pages of
/// what the store finds.
pub(super) async fn find<R: Row, F>(
    (before, limit, checked): (Option<u128>, usize, bool),
    passes: impl Fn(&R) -> bool,
    read: impl Fn(Wanted) -> F,
) -> Result<Found<R>, Failure>
where
    F: Future<Output = Result<Found<R>, Failure>>,
{
    let page_size = if checked { SCAN_PAGE } else { limit };
    let mut found = Found { rows: Vec::new(), next: before, searched_back_to: None, as_of: 0 };
    let mut looked_at = 0;
    loop {
        let scan_limit = SCAN_ROWS - looked_at.min(SCAN_ROWS - 1);
        let page = read(Wanted { before: found.next, limit: page_size, scan_limit }).await?;
        looked_at += page.rows.len().max(1);
        (found.as_of, found.next, found.searched_back_to) = (page.as_of, page.next, page.searched_back_to);
        for row in page.rows {
            if !passes(&row) {
                continue;
            }
            let id = row.id();
            found.rows.push(row);
            if found.rows.len() == limit {
                // With checks, the page of the store may hold more rows that pass: go on behind the last one shown.
                if checked {
                    found.next = Some(id);
                }
                found.searched_back_to = None;
                return Ok(found);
            }
        }
        if found.next.is_none() || found.searched_back_to.is_some() {
            return Ok(found);
        }
        if looked_at >= SCAN_ROWS {
            found.searched_back_to = found.next.map(millis);
            return Ok(found);
        }
    }
}

/// Every id begins with the time of its making.
fn millis(id: u128) -> u64 {
    (id >> 80) as u64
}
