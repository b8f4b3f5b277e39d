//! Promises of a program that are completed from outside: by their name, as the next one that waits under it, or by their key, as
//! this one and no other.
//!
//! Either is an event that comes as every other. One that has a key is for the entry of that key alone, so that two promises of the
//! same name can be told apart, and whether it still comes in time is known before it is taken ([`judge`]): the first one counts,
//! and whoever comes later hears of it.

use super::act::{Event, Outcome};
use super::code;
use super::command::read_key;
use super::data::Data;
use super::eval::Json;
use super::head::Head;
use super::machine::Machine;
use crate::id::Name;

/// Source of the events that complete promises.
const SOURCE: &str = "tidewheel:promise";
/// What the types of these events begin with; the name follows.
const TYPE: &str = "promise:";

/// What completes one promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The key of its entry, as the program gave it.
    pub key: Name,
    /// The event, as [`event`] makes it.
    pub event: Data,
    /// The turns that the run had when its journal was found to have no entry of this key, of which the head knows nothing.
    pub unknown_at: Option<u64>,
}

/// The event that completes a promise of this name, with a value or an error; the one of this key alone, if there is one.
pub fn event(id: &str, name: &str, key: Option<&str>, how: &Result<Json, Json>) -> Json {
    let kind = format!("{TYPE}{name}");
    let mut event = serde_json::json!({"specversion": "1.0", "source": SOURCE, "id": id, "type": kind});
    if let Some(key) = key {
        event["subject"] = key.into();
    }
    match how {
        Ok(value) => event["data"] = value.clone(),
        Err(error) => event["error"] = error.clone(),
    }
    event
}

/// The name in the key of a promise; `None` = it is no key of one.
pub fn name_of(key: &str) -> Option<&str> {
    read_key(key).filter(|read| read.kind == "promise").map(|read| read.name)
}

/// What becomes of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first.
    First,
    /// The promise has been completed with the same already.
    Again,
    /// It comes too late: why.
    Late(&'static str),
    /// The head does not know the key: the program has not asked for it yet, or it ended long ago, which the journal knows.
    Unknown,
}

/// What becomes of a completion. `queued`: what came for the run and is not in its head yet.
pub fn judge<'e>(head: &'e Head, queued: impl Iterator<Item = &'e Event>, completion: &Completion) -> Verdict {
    let key = &completion.key;
    let state = code::of(head);
    let is_open = state.is_some_and(|state| state.open.iter().any(|open| open.1 == *key));
    let how = if is_open { None } else { state.and_then(|state| told(state, key)) };
    if let Some(how) = how {
        return ended(how, completion);
    }
    let arrived = head.inbox.iter().map(|waiting| &waiting.event);
    let kept = head.held.iter().chain(queued).filter_map(|event| match event {
        Event::Arrived { event } => Some(event),
        _ => None,
    });
    let own = |event: &&Data| event.json().is_some_and(|json| subject(json) == Some(&**key));
    match arrived.chain(kept).find(own) {
        Some(event) if same(event, &completion.event) => Verdict::Again,
        Some(_) => Verdict::Late("the promise has been completed already, with something else; the first one counts"),
        None if is_open || completion.unknown_at == Some(head.turns) => Verdict::First,
        None => Verdict::Unknown,
    }
}

/// How something has ended that the program asked for, as far as the head knows.
fn told<'s>(state: &'s code::CodeState, key: &str) -> Option<&'s Outcome> {
    let turns = state.turns.iter().rev().flat_map(|turn| turn.done.iter().rev());
    state.news.iter().rev().chain(turns).find(|told| *told.key == *key).map(|told| &told.how)
}

/// Whether a completion says once more how its promise ended.
pub fn ended(how: &Outcome, completion: &Completion) -> Verdict {
    let json = completion.event.json();
    let given = |name: &str| json.and_then(|event| event.get(name));
    let again = match how {
        Outcome::Ok(value) => given("data").is_some_and(|data| value.is(data)),
        Outcome::Err(fault) => given("error").is_some_and(|error| fault.says(error)),
        Outcome::Cancelled => false,
    };
    match how {
        _ if again => Verdict::Again,
        Outcome::Ok(_) => {
            Verdict::Late("the promise has been completed already, with something else; the first one counts")
        }
        Outcome::Err(_) => Verdict::Late("the promise has ended with an error; its time may have run out"),
        Outcome::Cancelled => Verdict::Late("the run does not wait for this promise any more"),
    }
}

/// Whether two events complete a promise with the same.
fn same(a: &Data, b: &Data) -> bool {
    let (Some(a), Some(b)) = (a.json(), b.json()) else { return false };
    a.get("data") == b.get("data") && a.get("error") == b.get("error")
}

/// The key that an event is for, if it is for one alone.
fn subject(event: &Json) -> Option<&str> {
    is_own(event).then(|| event.get("subject")?.as_str())?
}

fn is_own(event: &Json) -> bool {
    event.get("source").and_then(Json::as_str) == Some(SOURCE)
}

/// The error that an event completes a promise with.
pub(super) fn error_of(event: &Json) -> Option<&Json> {
    event.get("error").filter(|_| is_own(event))
}

impl Machine<'_> {
    /// Whether an event is for another entry than that of this line. Nothing is evaluated for it, so that older tapes stay as they are.
    pub(super) fn is_for_another(&self, line: u32, event: &Json) -> bool {
        let Some(key) = subject(event) else { return false };
        let parent = self.head.line(line).and_then(|line| line.parent);
        let open = parent.and_then(|(parent, _)| self.code(parent)).map_or(&[][..], |state| &state.open);
        let own = open.binary_search_by_key(&line, |open| open.0).ok().map(|at| &*open[at].1);
        own != Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_is_read_from_the_key_of_a_promise_alone() {
        assert_eq!(name_of("/promise:answer#0"), Some("answer"));
        assert_eq!(name_of("g1/p0.p1/promise:a/b:c#12"), Some("a/b:c"));
        assert_eq!((name_of("/signal:answer#0"), name_of("promise"), name_of("")), (None, None, None));
    }

    #[test]
    fn what_says_the_same_once_more_is_told_from_what_comes_too_late() {
        let completion = |how| {
            let event = Data::small(event("1", "answer", Some("/promise:answer#0"), &how));
            Completion { key: "/promise:answer#0".into(), event, unknown_at: None }
        };
        let value = Outcome::Ok(Data::small(json!({"a": 1})));
        assert_eq!(ended(&value, &completion(Ok(json!({"a": 1})))), Verdict::Again);
        assert!(matches!(ended(&value, &completion(Ok(json!({"a": 2})))), Verdict::Late(_)));
        assert!(matches!(ended(&value, &completion(Err(json!({"a": 1})))), Verdict::Late(_)));
        let (stored, _) = Data::of(json!("x".repeat(100_000)));
        let Data::Ref { hash, size, .. } = stored else { panic!("it is large") };
        let far = Outcome::Ok(Data::Ref { hash, size, value: None });
        assert_eq!(ended(&far, &completion(Ok(json!("x".repeat(100_000))))), Verdict::Again);
        let (null, none) = (Outcome::Ok(Data::null()), completion(Ok(Json::Null)));
        assert_eq!(ended(&null, &none), Verdict::Again);
        assert!(matches!(ended(&Outcome::Cancelled, &none), Verdict::Late(_)));
    }
}
