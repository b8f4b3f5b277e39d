//! Filters of short lists that are held in memory: queues and workers.

use tidewheel_proto::rest;

use super::filter::{Filter, FilterError, Op, Resource, Term, Value, What};
use super::filter_values::matches;

/// Texts and numbers of an item by field name; `None` = the item has no such field.
trait Item {
    fn text(&self, field: &str) -> Option<String>;
    fn number(&self, field: &str) -> Option<f64>;
    /// Where free words are looked for.
    fn words(&self) -> String;
    /// Fields with several values.
    fn list(&self, _field: &str) -> Option<Vec<String>> {
        None
    }
}

impl Item for rest::QueueStats {
    fn text(&self, field: &str) -> Option<String> {
        match field {
            "id" => Some(self.name.clone()),
            "state" => Some(self.state.clone()),
            _ => None,
        }
    }

    fn number(&self, field: &str) -> Option<f64> {
        match field {
            "depth" => Some(self.depth as f64),
            "dead" => Some(self.dead as f64),
            _ => None,
        }
    }

    fn words(&self) -> String {
        self.name.to_lowercase()
    }
}

impl Item for rest::Worker {
    fn text(&self, field: &str) -> Option<String> {
        match field {
            "id" => Some(self.id.clone()),
            "state" => Some(self.state.clone()),
            "version" => Some(self.version.clone()),
            "group" => self.labels.get("group").cloned(),
            _ => self.labels.get(field.strip_prefix("label.")?).cloned(),
        }
    }

    fn number(&self, _field: &str) -> Option<f64> {
        None
    }

    fn list(&self, field: &str) -> Option<Vec<String>> {
        (field == "capability").then(|| self.labels.keys().cloned().collect())
    }

    fn words(&self) -> String {
        self.name.to_lowercase()
    }
}

/// The queues that pass.
pub(crate) fn queues(text: &str, items: Vec<rest::QueueStats>) -> Result<Vec<rest::QueueStats>, FilterError> {
    keep(Resource::Queues, text, items)
}

/// The workers that pass.
pub(crate) fn workers(text: &str, items: Vec<rest::Worker>) -> Result<Vec<rest::Worker>, FilterError> {
    keep(Resource::Workers, text, items)
}

fn keep<T: Item>(resource: Resource, text: &str, items: Vec<T>) -> Result<Vec<T>, FilterError> {
    let filter = Filter::parse(resource, text)?;
    let mut out = Vec::with_capacity(items.len());
    'items: for item in items {
        for term in &filter.terms {
            if holds(term, &item)? == term.negated {
                continue 'items;
            }
        }
        out.push(item);
    }
    Ok(out)
}

fn holds<T: Item>(term: &Term, item: &T) -> Result<bool, FilterError> {
    let (name, op, values) = match &term.what {
        What::Word(word) => return Ok(item.words().contains(&word.to_lowercase())),
        What::Field { name, op, values } => (name, op, values),
    };
    if let Some(number) = item.number(name) {
        return values.iter().try_fold(false, |any, value| Ok(any || compare(term, number, *op, value)?));
    }
    if *op != Op::Is {
        return Err(FilterError { at: term.at, message: "this field is a text; use ':'".to_owned() });
    }
    if let Some(list) = item.list(name) {
        return Ok(values.iter().any(|v| list.iter().any(|text| matches(v, Some(text)))));
    }
    let text = item.text(name);
    Ok(values.iter().any(|v| matches(v, text.as_deref())))
}

fn compare(term: &Term, number: f64, op: Op, value: &Value) -> Result<bool, FilterError> {
    let read = |text: &str| {
        let bad = || FilterError { at: term.at, message: format!("'{text}' is not a number") };
        text.parse::<f64>().map_err(|_| bad())
    };
    Ok(match value {
        Value::Any => true,
        Value::Exact(text) => {
            let wanted = read(text)?;
            match op {
                Op::Is => number == wanted,
                Op::Greater => number > wanted,
                Op::AtLeast => number >= wanted,
                Op::Less => number < wanted,
                Op::AtMost => number <= wanted,
            }
        }
        Value::Range(from, to) => {
            let from = from.as_deref().map(read).transpose()?.unwrap_or(f64::MIN);
            let to = to.as_deref().map(read).transpose()?.unwrap_or(f64::MAX);
            (from..=to).contains(&number)
        }
        Value::Prefix(text) => {
            return Err(FilterError { at: term.at, message: format!("'{text}*' is not a number") });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, state: &str, depth: u64) -> rest::QueueStats {
        rest::QueueStats { name: name.to_owned(), state: state.to_owned(), depth, ..rest::QueueStats::default() }
    }

    fn kept(filter: &str) -> String {
        let items = vec![queue("pdf", "active", 5), queue("mail", "paused", 0), queue("pdf-big", "active", 500)];
        match queues(filter, items) {
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
        assert_eq!(kept("depth:many"), "at position 1: 'many' is not a number");
        assert_eq!(kept("dept:1"), "at position 1: unknown field 'dept'; did you mean 'depth'?");
    }
}
