//! What the program of a run that has ended said of itself last (`wf.status`).
//!
//! While a run goes on its head has it. A run that has ended keeps no state of its program, so it is looked for in the newest turns of
//! its journal: the results of its activations say it. What was said longer ago is not found, and no reader waits for a whole journal.

use std::sync::Arc;

use serde_json::Value;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::journal::{Ending, EntryKind, Fact, Segment};

use super::run_history;
use crate::problem::Failure;
use crate::state::Api;

/// Turns that are looked at, from the last one back.
const TURNS: usize = 128;
/// Bytes of large results of activations that are read for it, in all.
const LARGE_BYTES: u64 = 1 << 20;
/// Key that the stored document of every program has, and hardly another one.
const MARK: &str = "\"program\":";

/// What it said last, in the form in which values of runs are shown. `None` = it is no program, said nothing since it was reset or continued as
/// new, or said it before the newest [`TURNS`] turns.
pub(crate) async fn last(api: &Api, tenant: TenantId, head: &Head) -> Result<Option<Value>, Failure> {
    let (run, plan) = (head.identity.run, hex::encode(head.identity.plan));
    let document = api.runtime.directory().record(RecordKind::Definition, tenant, &plan);
    if !document.is_some_and(|document| document.value.contains(MARK)) {
        return Ok(None);
    }
    let after = head.turns.saturating_sub(TURNS as u64);
    let segments = api.read_store(move |store| store.turns(tenant, run, after, TURNS)).await?;
    let mut room = LARGE_BYTES;
    for result in results(&segments).into_iter().rev() {
        let Some(result) = read(api, tenant, result, &mut room).await else { return Ok(None) };
        match (result.get("end"), result.get("state")) {
            // It was not taken: its code differs from the history.
            (Some(end), _) if end.get("mismatch").is_some() => {}
            // What follows is another history, in which nothing was said.
            (Some(end), _) if end.get("continue").is_some() => return Ok(None),
            (_, Some(said)) => return Ok(Some(Data::of(said.clone()).0.written())),
            (_, None) => {}
        }
    }
    Ok(None)
}

/// Results of the activations that ended in these turns, in order: those since the run went back last.
fn results(segments: &[Segment]) -> Vec<&Data> {
    let (mut activations, mut found) = (Vec::new(), Vec::new());
    for segment in segments {
        if matches!(segment.event, Event::Reset { .. }) {
            found.clear();
        }
        for fact in &segment.facts {
            match fact {
                Fact::Opened { entry, key, .. } if key.kind == EntryKind::Activation => activations.push(*entry),
                Fact::Done { entry, how: Ending::Ok(value) } if activations.contains(entry) => {
                    found.extend(segment.value(*value));
                }
                _ => {}
            }
        }
    }
    found
}

/// The value; `None` = there is no room to read it, or it is not here any more.
async fn read(api: &Api, tenant: TenantId, data: &Data, room: &mut u64) -> Option<Arc<Value>> {
    match data {
        Data::Inline { value, .. } | Data::Ref { value: Some(value), .. } => Some(value.clone()),
        Data::Ref { hash, size, .. } => {
            *room = room.checked_sub(*size)?;
            run_history::large(api, tenant, hash.0).await.ok().map(Arc::new)
        }
    }
}
