//! Circles: jumps back from which a run never comes away and on whose way nothing waits, and workflows of which every run starts
//! another one. A `for` goes over a list that ends, and is none.

use std::collections::BTreeSet;

use super::Linter;
use super::flow::next;
use crate::model::{Call, Document, Kind, Run, Statement};
use crate::text::At;

/// What has to be known of a whole document to tell whether a statement waits.
pub(super) struct Waits<'t> {
    /// Functions of the document that neither wait nor end anything.
    idle: BTreeSet<&'t str>,
    /// An extension may wait before or after any statement.
    around: bool,
}

impl<'t> Waits<'t> {
    pub(super) fn of(document: &'t Document) -> Waits<'t> {
        // A function that another one calls is taken to wait: what is not known is no reason for a warning.
        let mut all = Waits { idle: BTreeSet::new(), around: false };
        let functions = &document.uses.functions;
        all.idle = functions.iter().filter(|one| !all.breaks(one)).map(|one| &*one.name).collect();
        let extensions = document.uses.extensions.iter();
        all.around =
            extensions.flat_map(|one| one.before.iter().chain(&one.after)).flatten().any(|one| all.breaks(one));
        all
    }

    /// Whether a statement, or one inside it, waits for something or may end the run.
    fn breaks(&self, statement: &Statement) -> bool {
        match &statement.kind {
            Kind::Wait(_) | Kind::Listen { .. } | Kind::Raise(_) | Kind::Call(Call::Protocol { .. }) => true,
            Kind::Run { awaited, .. } => *awaited,
            Kind::Call(Call::Function { name, .. }) => !self.idle.contains(&*name.text),
            _ => statement.lists().into_iter().flatten().any(|inner| ends(inner) || self.breaks(inner)),
        }
    }
}

/// Whether a statement may lead to the end of the whole run.
fn ends(statement: &Statement) -> bool {
    let end = |then: &crate::model::Text| &*then.text == "end";
    statement.then.as_ref().is_some_and(end)
        || match &statement.kind {
            Kind::Switch(cases) => cases.iter().any(|case| end(&case.then)),
            Kind::Try { catch, .. } => catch.then.as_ref().is_some_and(end),
            _ => false,
        }
}

impl<'t> Linter<'t> {
    /// Jumps back in a list into a circle that has no way out and in which nothing waits.
    pub(super) fn circles(&mut self, list: &'t [Statement], reached: &[bool], waits: &Waits<'t>) {
        if waits.around {
            return;
        }
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); list.len()];
        // From these a run comes away: it waits there, or the list ends.
        let mut free = vec![false; list.len()];
        let mut open = Vec::new();
        for at in (0..list.len()).filter(|at| reached[*at]) {
            let ways = next(list, at);
            if ways.is_empty() || ways.iter().any(|to| *to >= list.len()) || waits.breaks(&list[at]) {
                open.push(at);
            }
            ways.into_iter().filter(|to| *to < list.len()).for_each(|to| before[to].push(at));
        }
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut free[at], true) {
                open.extend(&before[at]);
            }
        }
        for at in (0..list.len()).filter(|at| reached[*at] && !free[*at]) {
            let back = jumps(&list[at]).into_iter().find_map(|then| {
                let to = list.iter().position(|one| one.name == then.text).filter(|to| *to <= at)?;
                Some((then.at, to))
            });
            let Some((place, to)) = back else { continue };
            let message = match to == at {
                true => format!("`{}` goes round for ever: it does not wait, and nothing leads out", list[at].name),
                false => format!(
                    "from `{}` to `{}` and back the run goes round for ever: nothing there waits, and nothing leads out",
                    list[to].name, list[at].name
                ),
            };
            self.warn(
                place,
                "endless-loop",
                message,
                "wait in it (`wait`, `listen`, a call), or lead out with a `switch`; as it is the run ends with an error",
            );
        }
    }

    /// A workflow of which every run starts another one.
    pub(super) fn starts_itself(&mut self) {
        if let Some(place) = self.always_starts(&self.document.body) {
            self.warn(
                place,
                "starts-itself",
                "every run of this workflow starts another one of it, and so on, until a start is refused at 32 deep",
                "start it under an `if` or behind a `switch`, or go back with `then`",
            );
        }
    }

    /// Where this workflow is started on each way through a list, if it is.
    fn always_starts(&self, list: &[Statement]) -> Option<At> {
        let mut reached = vec![false; list.len()];
        let mut open = vec![0];
        let mut found: Option<(usize, At)> = None;
        while let Some(at) = open.pop() {
            if at >= list.len() {
                return None;
            }
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            if let Some(place) = self.starts(&list[at]) {
                found = Some(found.map_or((at, place), |first| if first.0 < at { first } else { (at, place) }));
                continue;
            }
            let ways = next(list, at);
            // It ends with an error that it raises.
            if ways.is_empty() {
                return None;
            }
            open.extend(ways);
        }
        found.map(|(_, place)| place)
    }

    fn starts(&self, statement: &Statement) -> Option<At> {
        if statement.condition.is_some() {
            return None;
        }
        match &statement.kind {
            Kind::Run { run: Run::Workflow { namespace, name, version, .. }, .. } => {
                let own = self.document;
                let same = namespace.text == own.namespace.text && name.text == own.name.text;
                (same && (&*version.text == "latest" || version.text == own.version.text)).then_some(name.at)
            }
            Kind::Do(body) | Kind::Try { body, .. } => self.always_starts(body),
            // All of them begin, also in a race.
            Kind::Fork { branches, .. } => branches.iter().find_map(|branch| self.starts(branch)),
            _ => None,
        }
    }
}

/// Where a statement says what follows it.
fn jumps(statement: &Statement) -> Vec<&crate::model::Text> {
    let inner: Vec<&crate::model::Text> = match &statement.kind {
        Kind::Switch(cases) => cases.iter().map(|case| &case.then).collect(),
        Kind::Try { catch, .. } => catch.then.iter().collect(),
        _ => Vec::new(),
    };
    inner.into_iter().chain(&statement.then).collect()
}
