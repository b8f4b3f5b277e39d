//! Promises of programs, completed by their name or by a token of one.

use serde_json::Value;
use tidewheel_engine::Command;
use tidewheel_engine::command::RunAction;
use tidewheel_engine::effect::{Refusal, Reply};
use tidewheel_engine::id::{Name, RunId, TenantId};
use tidewheel_engine::run::act::{Event, Outcome};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::head::{Head, Seq};
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Key, Segment};
use tidewheel_engine::run::promise::{self, Completion, Verdict};
use tidewheel_proto::code::Code;
use tidewheel_proto::rest;

use super::{run, run_journal, spec};
use crate::auth::Principal;
use crate::auth::promise::{Holder, no_promise};
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::fresh_id;

/// Bytes of an error that a promise is completed with.
const ERROR_BYTES: usize = 16 << 10;
/// How often the journal is read while the run goes on meanwhile.
const ROUNDS: usize = 8;
/// Turns read at once.
const TURNS: usize = 256;

/// Completes the next promise that waits under a name, or will.
pub(crate) async fn by_name(
    api: &Api,
    caller: &Principal,
    run: RunId,
    name: &str,
    body: rest::CompletePromise,
) -> Result<Box<Head>, Failure> {
    spec::check_type(name).map_err(|_| {
        let detail = "The name of a promise has 1 to 200 characters, none of them a control character.";
        Failure::new(Code::InvalidField, detail)
    })?;
    let id = match &body.id {
        Some(id) => spec::key(id, "/id")?,
        None => fresh(api),
    };
    let event = promise::event(&id, name, None, &how(body)?);
    let event = run::data(api, caller.tenant, event).await?;
    run::act(api, caller, run, RunAction::Arrive(event)).await
}

/// Completes the one promise that a token is for. What it was completed with before may be said again; anything else comes too late.
pub(crate) async fn by_token(api: &Api, holder: &Holder, body: rest::CompletePromise) -> Result<(), Failure> {
    if body.id.is_some() {
        return Err(Failure::field("/id", "a token completes its promise once, so that it needs no id; leave it out"));
    }
    let (tenant, run) = (holder.tenant, holder.run);
    let name = promise::name_of(&holder.key).ok_or_else(no_promise)?;
    let event = promise::event(&fresh(api), name, Some(&holder.key), &how(body)?);
    let event = run::data(api, tenant, event).await?;
    let mut completion = Completion { key: holder.key.clone(), event, unknown_at: None };
    for _ in 0..ROUNDS {
        let action = RunAction::Complete(Box::new(completion.clone()));
        match api.runtime.call(move |request| Command::ActOnRun { request, tenant, run, action }).await? {
            Reply::Run(_) => return Ok(()),
            Reply::Refused(Refusal::NotFound) => return Err(no_promise()),
            Reply::Refused(Refusal::Version { current }) => completion.unknown_at = Some(current),
            Reply::Refused(refusal) => return Err(from_refusal(refusal)),
            _ => return Err(Failure::internal("the completion of a promise was answered with something else")),
        }
        // The head knows nothing of it: the program has not asked yet, or it ended long ago.
        if let Some(how) = past(api, tenant, run, &holder.key).await? {
            return match promise::ended(&how, &completion) {
                Verdict::Late(why) => Err(from_refusal(Refusal::Conflict(why.into()))),
                _ => Ok(()),
            };
        }
    }
    let mut busy = Failure::new(Code::Overloaded, "The run goes on all the time; nothing was stored. Repeat the call.");
    busy.0.retry_after = Some(1);
    Err(busy)
}

fn fresh(api: &Api) -> Name {
    format!("{:032x}", fresh_id(api.runtime.now_ms())).as_str().into()
}

/// What a promise is completed with.
fn how(body: rest::CompletePromise) -> Result<Result<Value, Value>, Failure> {
    let value = match (body.value, body.data) {
        (Some(_), Some(_)) => return Err(Failure::field("/data", "data is the same as value; give one of them")),
        (value, data) => value.or(data),
    };
    match (value, body.error) {
        (Some(_), Some(_)) => Err(Failure::field("/error", "a promise is completed with a value or with an error")),
        (value, None) => Ok(Ok(value.unwrap_or(Value::Null))),
        (None, Some(error)) => check_error(&error).map(|()| Err(error)),
    }
}

/// An error is a text, or an object with the members of RFC 9457.
fn check_error(error: &Value) -> Result<(), Failure> {
    let fields = match error {
        Value::String(text) if !text.is_empty() => None,
        Value::Object(fields) if !fields.is_empty() => Some(fields),
        _ => {
            let detail = "an error is a text, or an object with type, title, detail and status, such as {\"detail\":\"rejected\"}";
            return Err(Failure::field("/error", detail));
        }
    };
    if serde_json::to_vec(error).map_or(0, |text| text.len()) > ERROR_BYTES {
        return Err(Failure::field("/error", format!("an error has at most {ERROR_BYTES} bytes")));
    }
    for (name, value) in fields.into_iter().flatten() {
        let pointer = || format!("/error/{name}");
        let fits = match name.as_str() {
            "type" | "title" | "detail" | "instance" => value.is_string() || value.is_null(),
            "status" => value.is_null() || value.as_u64().is_some_and(|status| (100..=599).contains(&status)),
            _ => true,
        };
        if !fits {
            let what = if name == "status" { "a number from 100 to 599" } else { "a text" };
            return Err(Failure::field(pointer(), format!("this is {what}")));
        }
    }
    Ok(())
}

/// How the promise of a key has ended, by the journal of its run; `None` = it has not, as far as that goes.
async fn past(api: &Api, tenant: TenantId, run: RunId, key: &str) -> Result<Option<Outcome>, Failure> {
    let (mut found, mut after): (Past, u64) = (Past::default(), 0);
    loop {
        let segments = api.read_store(move |store| store.turns(tenant, run, after, TURNS)).await?;
        for segment in &segments {
            if let Event::Reset { key: to, .. } = &segment.event
                && found.entry.is_some()
            {
                let to = run_journal::opened(api, tenant, run, to, segment.turn).await?;
                found.went_back(to);
            }
            found.take(segment, key);
        }
        match segments.last() {
            Some(last) => after = last.turn,
            None => return Ok(found.how),
        }
    }
}

/// An entry that is looked for in a journal.
#[derive(Default)]
struct Past {
    entry: Option<Seq>,
    how: Option<Outcome>,
    /// The newest entry, and the one that was it when this one ended.
    newest: Seq,
    ended_at: Seq,
}

impl Past {
    fn take(&mut self, segment: &Segment, key: &str) {
        let value = |id| segment.value(id).cloned();
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, key: own, .. } => {
                    self.newest = *entry;
                    if is_of(own, key) {
                        (self.entry, self.how) = (Some(*entry), None);
                    }
                }
                Fact::Done { entry, how } if self.entry == Some(*entry) => {
                    self.ended_at = self.newest;
                    self.how = match how {
                        Ending::Ok(id) => value(*id).map(Outcome::Ok),
                        Ending::Err(id) => {
                            let error = value(*id).and_then(|data| data.json().cloned()).unwrap_or_default();
                            Some(Outcome::Err(Fault(std::sync::Arc::new(error))))
                        }
                        Ending::Skipped | Ending::Cancelled => Some(Outcome::Cancelled),
                    };
                }
                _ => {}
            }
        }
    }

    /// The run went back to before this entry was opened, or before it ended.
    fn went_back(&mut self, to: Option<Seq>) {
        let Some(to) = to else { return };
        if self.entry.is_some_and(|entry| entry >= to) {
            (self.entry, self.how) = (None, None);
        } else if self.ended_at >= to {
            self.how = None;
        }
    }
}

/// Whether a key of the journal is that of a promise, as its program gave it. What is asked for again after a retry has a scope of its
/// own in the journal.
fn is_of(own: &Key, key: &str) -> bool {
    if own.kind != EntryKind::Promise {
        return false;
    }
    let scope = own.scope.rsplit_once('~').map_or(&*own.scope, |(scope, _)| scope);
    format!("{scope}/promise:{}#{}", own.name, own.n) == key
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(json: Value) -> rest::CompletePromise {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_promise_is_completed_with_a_value_or_an_error() {
        assert_eq!(how(body(json!({}))).unwrap(), Ok(Value::Null));
        assert_eq!(how(body(json!({"value": 1}))).unwrap(), Ok(json!(1)));
        assert_eq!(how(body(json!({"data": {"a": 1}}))).unwrap(), Ok(json!({"a": 1})));
        assert_eq!(how(body(json!({"error": "no"}))).unwrap(), Err(json!("no")));
        for wrong in [
            json!({"value": 1, "data": 1}),
            json!({"value": null, "error": "no"}),
            json!({"error": null}),
            json!({"error": {}}),
            json!({"error": [1]}),
            json!({"error": {"status": 20}}),
            json!({"error": {"detail": 5}}),
            json!({"error": "x".repeat(ERROR_BYTES)}),
        ] {
            let failure = how(body(wrong.clone())).unwrap_err();
            assert_eq!(failure.code(), Code::InvalidField, "{wrong}");
        }
    }

    #[test]
    fn a_promise_that_was_asked_for_again_is_the_same() {
        let key = |scope: &str| Key { scope: scope.into(), kind: EntryKind::Promise, name: "a".into(), n: 1 };
        assert!(is_of(&key(""), "/promise:a#1") && is_of(&key("~12"), "/promise:a#1"));
        assert!(is_of(&key("g1/p0~7"), "g1/p0/promise:a#1") && !is_of(&key("g1"), "/promise:a#1"));
    }
}
