//! Filters of short lists that are held in memory: queues and workers.

use tidewheel_proto::rest;

use super::enrolment::GROUP;
use super::filter::{Filter, FilterError, Op, Resource, Term, Value, What};
use super::filter_values::{exact, matches, moment, no_state, numbers, whole};
use super::{queue, worker};
use crate::units::parse_time;

/// What an item of such a list has.
trait Item {
    const RESOURCE: Resource;
    /// Those that its state may be.
    const STATES: &'static [&'static str];

    /// The texts of a field; none where the item has no such field.
    fn texts(&self, field: &str) -> Vec<String>;
    /// The number of a field, or its time in milliseconds.
    fn number(&self, field: &str) -> Option<u64>;
    /// Where free words are looked for.
    fn name(&self) -> &str;
}

impl Item for rest::QueueStats {
    const RESOURCE: Resource = Resource::Queues;
    const STATES: &'static [&'static str] = queue::STATES;

    fn texts(&self, field: &str) -> Vec<String> {
        match field {
            "id" => vec![self.name.clone()],
            "state" => vec![self.state.clone()],
            _ => Vec::new(),
        }
    }

    fn number(&self, field: &str) -> Option<u64> {
        match field {
            "depth" => Some(self.depth),
            "dead" => Some(self.dead),
            _ => None,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Item for rest::Worker {
    const RESOURCE: Resource = Resource::Workers;
    const STATES: &'static [&'static str] = worker::STATES;

    fn texts(&self, field: &str) -> Vec<String> {
        let label = |name: &str| self.labels.get(name).cloned().into_iter().collect();
        match field {
            "id" => vec![self.id.clone()],
            "state" => vec![self.state.clone()],
            "version" => vec![self.version.clone()],
            "group" => label(GROUP),
            "capability" => self.labels.keys().cloned().collect(),
            _ => field.strip_prefix("label.").map(label).unwrap_or_default(),
        }
    }

    fn number(&self, field: &str) -> Option<u64> {
        if field == "seen" { parse_time(&self.last_seen).ok() } else { None }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The queues that pass. `now`: in milliseconds, for times that are given as "so long ago".
pub(crate) fn queues(text: &str, items: Vec<rest::QueueStats>, now: u64) -> Result<Vec<rest::QueueStats>, FilterError> {
    keep(text, items, now)
}

/// The workers that pass.
pub(crate) fn workers(text: &str, items: Vec<rest::Worker>, now: u64) -> Result<Vec<rest::Worker>, FilterError> {
    keep(text, items, now)
}

/// What a term asks of an item.
enum Test {
    /// In its name, in small letters.
    Word(String),
    Texts(String, Vec<Value>),
    /// Ranges, both ends included.
    Number(String, Vec<(u64, u64)>),
}

fn keep<T: Item>(text: &str, mut items: Vec<T>, now: u64) -> Result<Vec<T>, FilterError> {
    let filter = Filter::parse(T::RESOURCE, text)?;
    // Read as a whole before the first item: what is wrong is wrong of an empty list, too.
    let read = |term: &Term| {
        let test = test::<T>(term, now).map_err(|message| FilterError { at: term.at, message })?;
        Ok((term.negated, test))
    };
    let tests = filter.terms.iter().map(read).collect::<Result<Vec<_>, FilterError>>()?;
    items.retain(|item| tests.iter().all(|(negated, test)| holds(test, item) != *negated));
    Ok(items)
}

fn test<T: Item>(term: &Term, now: u64) -> Result<Test, String> {
    let (name, op, values) = match &term.what {
        What::Word(word) => return Ok(Test::Word(word.to_lowercase())),
        What::Field { name, op, values } => (name.clone(), *op, values),
    };
    match name.as_str() {
        "depth" | "dead" => Ok(Test::Number(name, numbers(op, values, whole)?)),
        "seen" => Ok(Test::Number(name, numbers(op, values, |text| moment(text, now))?)),
        "state" => {
            let one = |text: &String| {
                let state = text.to_ascii_lowercase();
                let is_known = T::STATES.contains(&state.as_str());
                if is_known { Ok(Value::Exact(state)) } else { Err(no_state(text, T::STATES)) }
            };
            let states = exact(op, values)?.into_iter().map(one).collect::<Result<_, String>>()?;
            Ok(Test::Texts(name, states))
        }
        _ if op != Op::Is => Err("this field is a text; use ':'".to_owned()),
        _ => Ok(Test::Texts(name, values.clone())),
    }
}

fn holds<T: Item>(test: &Test, item: &T) -> bool {
    match test {
        Test::Word(word) => item.name().to_lowercase().contains(word),
        Test::Texts(field, values) => {
            let texts = item.texts(field);
            values.iter().any(|value| texts.iter().any(|text| matches(value, Some(text))))
        }
        Test::Number(field, ranges) => item
            .number(field)
            .is_some_and(|number| ranges.iter().any(|(from, until)| (*from..=*until).contains(&number))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, state: &str, depth: u64) -> rest::QueueStats {
        rest::QueueStats { name: name.to_owned(), state: state.to_owned(), depth, ..rest::QueueStats::default() }
    }

    fn kept(filter: &str) -> String {
        let items = vec![queue("pdf", "active", 5), queue("mail", "paused", 0), queue("pdf-big", "active", 500)];
        match queues(filter, items, 0) {
            Ok(items) => items.iter().map(|q| q.name.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn short_lists_take_the_same_grammar() {
        assert_eq!(kept(""), "pdf mail pdf-big");
        assert_eq!(kept("state:active depth:>10"), "pdf-big");
        assert_eq!(kept("-state:active"), "mail");
        assert_eq!(kept("pdf depth:0..100"), "pdf");
        assert_eq!(kept("id:pdf*"), "pdf pdf-big");
        assert_eq!(kept("depth:many"), "at position 1: 'many' is not a whole number");
        assert_eq!(kept("dept:1"), "at position 1: unknown field 'dept'; did you mean 'depth'?");
    }
}
