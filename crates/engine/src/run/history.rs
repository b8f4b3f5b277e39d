//! What a program is told of what has happened: its history, in turns, as an activation gets it and as it is exported.

use super::act::Outcome;
use super::code::CodeState;
use super::data::measure;
use super::eval::Json;
use super::head::Identity;
use crate::id::Name;

/// Layout of what an activation gets and gives.
pub const PROTOCOL: u64 = 1;

/// A turn of a program: one activation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CodeTurn {
    /// Which, from 1.
    pub no: u64,
    /// Wall time.
    pub now_ms: u64,
    /// What had ended, in order.
    pub done: Vec<Told>,
    /// What was asked for, in order: key, and hash of what was given.
    pub opened: Vec<(Name, Name)>,
    /// Why it is being cancelled, from this turn on.
    pub cancel: Option<Name>,
}

/// What a program is told about something that it asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its key.
    pub key: Name,
    /// How it ended.
    pub how: Outcome,
    /// Wall time.
    pub at_ms: u64,
}

impl Told {
    /// Bytes, about.
    pub(super) fn bytes(&self) -> usize {
        let value = match &self.how {
            Outcome::Ok(data) => data.stored(),
            Outcome::Err(fault) => measure(&fault.0),
            Outcome::Cancelled => 8,
        };
        self.key.len() + 32 + value
    }
}

impl CodeTurn {
    /// Bytes, about.
    pub(super) fn bytes(&self) -> usize {
        let done: usize = self.done.iter().map(Told::bytes).sum();
        24 + done + self.opened.iter().map(|opened| opened.0.len() + 24).sum::<usize>()
    }
}

/// What has happened in a program, as its next activation gets it, and as it is exported. Large values, and the page with the turns
/// before the first one, are references.
pub fn written(state: &CodeState, identity: &Identity, started_ms: u64) -> Json {
    let mut turns: Vec<Json> = state.turns.iter().map(|turn| turn_written(turn)).collect();
    // What the activation at work will ask for is not known.
    if let (Some(_), Some(Json::Object(last))) = (state.active, turns.last_mut()) {
        last.remove("opened");
    }
    let mut written = serde_json::json!({
        "v": PROTOCOL,
        "run": identity.run.to_string(),
        "workflow": format!("{}/{}:{}", identity.namespace, identity.name, identity.version),
        "seed": seed(identity.run.0, started_ms),
        "generation": state.generation,
        "epoch": state.epoch,
        "input": state.input.written(),
        "first": state.turns.first().map_or(state.activation + 1, |turn| turn.no),
        "turns": turns,
    });
    if state.accepted > 0 {
        written["accepted"] = state.accepted.into();
    }
    if let Some(page) = &state.before {
        written["before"] = page.written();
    }
    written
}

pub(super) fn turn_written(turn: &CodeTurn) -> Json {
    let mut done = Vec::with_capacity(turn.done.len());
    for told in &turn.done {
        let mut item = serde_json::json!({"key": &*told.key, "at": told.at_ms});
        match &told.how {
            Outcome::Ok(data) => {
                item["status"] = "ok".into();
                item["value"] = data.written();
            }
            Outcome::Err(fault) => {
                item["status"] = "error".into();
                item["error"] = (*fault.0).clone();
            }
            Outcome::Cancelled => item["status"] = "cancelled".into(),
        }
        done.push(item);
    }
    let opened: Vec<Json> =
        turn.opened.iter().map(|(key, hash)| serde_json::json!({"key": &**key, "hash": &**hash})).collect();
    let mut written = serde_json::json!({"no": turn.no, "now": turn.now_ms, "done": done, "opened": opened});
    if let Some(cancel) = &turn.cancel {
        written["cancel"] = (&**cancel).into();
    }
    written
}

/// The seed of what is random in a program: the same for the whole run. No secret: whoever knows the run and its start can derive it.
fn seed(run: u128, started_ms: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tidewheel program seed").update(&run.to_be_bytes()).update(&started_ms.to_be_bytes());
    let hash = hasher.finalize();
    hash.as_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
