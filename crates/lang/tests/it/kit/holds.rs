//! What the steps of a scenario say about its end.

use serde_json::Value as Json;
use tidewheel_lang::testkit::world::Ended;
use tidewheel_lang::text::Tree;

use super::gherkin::Step;

/// The value of a text.
pub(crate) fn yaml(text: &str) -> Json {
    match Tree::parse(text.as_bytes()) {
        Ok(tree) => tree.json(tree.root()),
        Err(error) => panic!("{text}: {error:?}"),
    }
}

/// Follows names and indexes: `a.b.0`.
fn at<'v>(value: &'v Json, path: &str) -> Option<&'v Json> {
    path.split('.').try_fold(value, |value, part| match value {
        Json::Array(items) => items.get(part.parse::<usize>().ok()?),
        other => other.get(part),
    })
}

fn same(found: &Json, wanted: &Json) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("found {found}, wanted {wanted}")) }
}

/// Whether a step holds of a run that ended so, in which statements of these names began; the error says why not.
pub(crate) fn holds(step: &Step, ended: &Ended, ran: &[String]) -> Result<(), String> {
    let output = || match ended {
        Ended::Completed(output) => Ok(output),
        other => Err(format!("it did not complete: {other:?}")),
    };
    let wanted = |name: &String, found: Option<&String>| {
        if found == Some(name) { Ok(()) } else { Err(format!("it was {found:?}")) }
    };
    match step {
        Step::Completes => output().map(|_| ()),
        Step::CompletesWith(text) => same(output()?, &yaml(text)),
        Step::Faults => match ended {
            Ended::Faulted(_) => Ok(()),
            other => Err(format!("{other:?}")),
        },
        Step::FaultsWith(text) => match (ended, yaml(text)) {
            (Ended::Faulted(error), Json::Object(wanted)) => {
                wanted.iter().try_for_each(|(key, wanted)| same(error.get(key).unwrap_or(&Json::Null), wanted))
            }
            (other, _) => Err(format!("{other:?}")),
        },
        Step::HasProperties(names) => {
            let output = output()?;
            match names.iter().find(|name| at(output, name).is_none()) {
                Some(missing) => Err(format!("`{missing}` is missing in {output}")),
                None => Ok(()),
            }
        }
        Step::HasValue(name, text) => same(at(output()?, name).unwrap_or(&Json::Null), &yaml(text)),
        Step::HasItems(name, count) => {
            let items = at(output()?, name).and_then(Json::as_array).map(Vec::len);
            if items == Some(*count) { Ok(()) } else { Err(format!("{items:?} items")) }
        }
        Step::RunsFirst(name) => wanted(name, ran.first()),
        Step::RunsLast(name) => wanted(name, ran.last()),
        Step::RunsAfter(name, before) => {
            let place = |wanted: &String| ran.iter().position(|name| name == wanted);
            match (place(name), place(before)) {
                (Some(one), Some(other)) if one > other => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    }
}
