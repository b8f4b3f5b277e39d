//! The history of a program (a workflow in Python): what a replay of it needs. The same that its activations get.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::run::code;
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Compiler, Definition};
use tidewheel_engine::run::fold::{FoldError, Journal};
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::run::moves;
use tidewheel_lang::compile::Language;
use tidewheel_proto::code::Code;

use super::run;
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;
use crate::text::run_text;

/// Turns read at once.
const TURNS: usize = 256;
/// Turns of a run whose history is shown: a fold of so many takes about a second.
const MAX_TURNS: usize = 200_000;
/// Rounds of reading values that turned out to be needed.
const MAX_ROUNDS: usize = 10_000;

/// The history of a run.
pub(crate) async fn get(api: &Api, caller: &Principal, id: RunId) -> Result<Value, Failure> {
    of(api, caller.tenant, id).await
}

/// The same for a run of a tenant.
pub(crate) async fn of(api: &Api, tenant: TenantId, id: RunId) -> Result<Value, Failure> {
    let head = run::head_of(api, tenant, id).await?;
    let missing = || Failure::new(Code::Conflict, "The document that the run follows is not here any more.");
    let definition = definition(api, tenant, &head.identity.plan).ok_or_else(missing)?;
    let segments = all(api, tenant, id).await?;
    let mut blobs: BTreeMap<BlobHash, Arc<Value>> = BTreeMap::new();
    let mut earlier: Vec<Arc<dyn Definition>> = Vec::new();
    let shared = Arc::new((segments, definition, head));
    for _ in 0..MAX_ROUNDS {
        let (known, before, work) = (blobs.clone(), earlier.clone(), shared.clone());
        let found = tokio::task::spawn_blocking(move || fold(&work.0, (&*work.1, &before), &work.2, &known)).await;
        match found.map_err(|_| Failure::internal("a fold panicked"))? {
            Ok(Some(mut history)) => {
                history["run"] = run_text(id).into();
                return Ok(history);
            }
            Ok(None) => {
                let detail = format!(
                    "{} is no workflow in Python, whose history a replay needs; its journal says what it did: GET \
                     /api/v1/runs/{{id}}/journal.",
                    run_text(id)
                );
                return Err(Failure::new(Code::Conflict, detail));
            }
            Err(FoldError::Blobs(wanted)) => {
                for hash in wanted {
                    let value = api.read_store(move |store| store.value(tenant, &hash.0)).await?;
                    let value = value.and_then(|bytes| serde_json::from_slice(&bytes).ok());
                    let gone = || Failure::new(Code::Conflict, "A large value of the run is not here any more.");
                    blobs.insert(hash, Arc::new(value.ok_or_else(gone)?));
                }
            }
            // It followed another version then.
            Err(FoldError::Plan(plan)) => earlier.push(self::definition(api, tenant, &plan).ok_or_else(missing)?),
            Err(error) => return Err(Failure::internal(&format!("the journal of a run does not fold: {error:?}"))),
        }
    }
    Err(Failure::internal("the history of a run names values without end"))
}

fn definition(api: &Api, tenant: TenantId, plan: &[u8; 32]) -> Option<Arc<dyn Definition>> {
    let record = api.runtime.directory().record(RecordKind::Definition, tenant, &hex::encode(plan))?;
    Language.compile(record.value.as_bytes()).ok()
}

/// Why a run cannot go on with another plan; `None` = it can, as far as its state tells.
pub(crate) fn unfit(api: &Api, tenant: TenantId, head: &Head, plan: &[u8; 32]) -> Option<String> {
    let (old, new) = (definition(api, tenant, &head.identity.plan)?, definition(api, tenant, plan)?);
    moves::fits(head, old.plan(), new.plan()).err()
}

async fn all(api: &Api, tenant: TenantId, id: RunId) -> Result<Vec<Segment>, Failure> {
    let mut segments: Vec<Segment> = Vec::new();
    loop {
        let after = segments.last().map_or(0, |segment| segment.turn);
        let more = api.read_store(move |store| store.turns(tenant, id, after, TURNS)).await?;
        if more.is_empty() {
            return Ok(segments);
        }
        segments.extend(more);
        if segments.len() > MAX_TURNS {
            let detail = format!("The run has more than {MAX_TURNS} turns; its history is too long to be shown.");
            return Err(Failure::new(Code::Conflict, detail));
        }
    }
}

fn fold(
    segments: &[Segment],
    (definition, earlier): (&dyn Definition, &[Arc<dyn Definition>]),
    head: &Head,
    blobs: &BTreeMap<BlobHash, Arc<Value>>,
) -> Result<Option<Value>, FoldError> {
    let journal = Journal { from: None, segments, definition, earlier, blobs };
    let Some(state) = journal.program()? else { return Ok(None) };
    let read = |data: &Data| match data {
        Data::Inline { value, .. } | Data::Ref { value: Some(value), .. } => Ok(value.clone()),
        Data::Ref { hash, value: None, .. } => blobs.get(hash).cloned().ok_or_else(|| FoldError::Blobs(vec![*hash])),
    };
    code::history(&state, &head.identity, head.started_ms, &read).map(Some)
}
