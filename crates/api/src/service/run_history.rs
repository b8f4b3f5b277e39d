//! The history of a program (a workflow in Python): what a replay of it needs. The same that its activations get. It has no bound, and is
//! given piece by piece ([`run_history_text`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tidewheel_engine::id::{RunId, TenantId};
use tidewheel_engine::mutation::RecordKind;
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::code::{self, CodeState};
use tidewheel_engine::run::data::BlobHash;
use tidewheel_engine::run::eval::{Compiler, Definition};
use tidewheel_engine::run::fold::{FoldError, Journal};
use tidewheel_engine::run::head::Head;
use tidewheel_engine::run::history;
use tidewheel_engine::run::journal::Segment;
use tidewheel_engine::run::moves;
use tidewheel_lang::compile::Language;
use tidewheel_proto::code::Code;
use tokio::sync::mpsc::Receiver;

use super::{run, run_history_text};
use crate::problem::Failure;
use crate::state::Api;
use crate::text::run_text;

/// Turns read at once.
const TURNS: usize = 256;
/// Turns of a journal that are held at once, where the run went back in it: a fold of so many takes about a second.
const MAX_TURNS: u64 = 200_000;
/// Bytes of a history that is held whole, for a replay on an agent, and of one value that a fold reads.
const MAX_BYTES: usize = 64 << 20;
/// Rounds of reading values that turned out to be needed.
const MAX_ROUNDS: usize = 10_000;

/// The history of a run as JSON text, whole and with all its values, piece by piece.
pub(crate) async fn text(api: &Api, tenant: TenantId, id: RunId) -> Result<Receiver<Result<Bytes, Failure>>, Failure> {
    let head = run::head_of(api, tenant, id).await?;
    let state = match code::of(&head) {
        Some(state) => state.clone(),
        None => ended(api, tenant, &head).await?,
    };
    let mut history = history::written(&state, &head.identity, head.started_ms);
    history["run"] = run_text(id).into();
    run_history_text::text(api, tenant, run_text(id), history).await
}

/// The same as one value, for a replay on an agent: its size has a bound.
pub(crate) async fn of(api: &Api, tenant: TenantId, id: RunId) -> Result<Value, Failure> {
    let (mut pieces, mut whole) = (text(api, tenant, id).await?, Vec::new());
    while let Some(piece) = pieces.recv().await {
        whole.extend_from_slice(&piece?);
        if whole.len() > MAX_BYTES {
            let detail = format!(
                "The history of the run has more than {MAX_BYTES} bytes, which no replay on an agent is given. Try the new code on \
                 what `tidewheel run export` gives (`tidewheel.testing.replay`), and then move the run without the check."
            );
            return Err(Failure::new(Code::Conflict, detail));
        }
    }
    serde_json::from_slice(&whole).map_err(|_| Failure::internal("a history cannot be read"))
}

/// A large value: one that a run made, or a result of a task.
pub(super) async fn large(api: &Api, tenant: TenantId, hash: [u8; 32]) -> Result<Value, Failure> {
    let gone = || Failure::new(Code::Conflict, "A large value of the run is not here any more.");
    let own = api.read_store(move |store| store.value(tenant, &hash)).await?.filter(|bytes| !bytes.is_empty());
    let text = match own {
        Some(text) => text,
        None => {
            let size = api.runtime.blobs().size(tenant.0, hash).await?.ok_or_else(gone)?;
            if size > MAX_BYTES as u64 {
                let detail =
                    format!("A value of the run has more than {MAX_BYTES} bytes, and is too large to be read whole.");
                return Err(Failure::new(Code::Conflict, detail));
            }
            api.runtime.blobs().read(tenant.0, hash, 0, size).await?
        }
    };
    serde_json::from_slice(&text).map_err(|_| gone())
}

/// The state of a program that has ended, as it was before: from its journal, some turns at a time.
async fn ended(api: &Api, tenant: TenantId, head: &Head) -> Result<CodeState, Failure> {
    let (id, plan) = (head.identity.run, head.identity.plan);
    let definition = definition(api, tenant, &plan).ok_or_else(missing)?;
    let mut piece = Piece { definition, plans: Vec::new(), from: None, segments: Vec::new() };
    let (mut after, mut program) = (0, None);
    loop {
        piece.segments = api.read_store(move |store| store.turns(tenant, id, after, TURNS)).await?;
        let Some(last) = piece.segments.last().map(|segment| segment.turn) else { break };
        if piece.segments.iter().any(|segment| matches!(segment.event, Event::Reset { .. })) {
            // It went back, perhaps to its first turn.
            piece.segments = until(api, tenant, id, last).await?;
            piece.from = None;
        }
        let (head, found) = folded(api, tenant, &mut piece).await?;
        (after, program, piece.from) = (last, found.or(program), Some(head));
    }
    program.ok_or_else(|| {
        let detail = format!(
            "{} is no workflow in Python, whose history a replay needs; its journal says what it did: GET \
             /api/v1/runs/{{id}}/journal.",
            run_text(id)
        );
        Failure::new(Code::Conflict, detail)
    })
}

/// Turns of a journal, and the run before them.
struct Piece {
    definition: Arc<dyn Definition>,
    /// Those that the run followed before.
    plans: Vec<Arc<dyn Definition>>,
    from: Option<Head>,
    segments: Vec<Segment>,
}

/// The run after some turns, and its program in them.
async fn folded(api: &Api, tenant: TenantId, piece: &mut Piece) -> Result<(Head, Option<CodeState>), Failure> {
    let mut blobs: BTreeMap<BlobHash, Arc<Value>> = BTreeMap::new();
    for _ in 0..MAX_ROUNDS {
        let known = blobs.clone();
        let work = Piece {
            plans: piece.plans.clone(),
            definition: piece.definition.clone(),
            from: piece.from.take(),
            segments: std::mem::take(&mut piece.segments),
        };
        let task = tokio::task::spawn_blocking(move || {
            let Piece { definition, plans, from, segments } = &work;
            let journal =
                Journal { from: from.as_ref(), segments, definition: &**definition, earlier: plans, blobs: &known };
            let found = journal.program();
            (work, found)
        });
        let (work, found) = task.await.map_err(|_| Failure::internal("a fold panicked"))?;
        *piece = work;
        match found {
            Ok(found) => return Ok(found),
            Err(FoldError::Blobs(wanted)) => {
                for hash in wanted {
                    blobs.insert(hash, Arc::new(large(api, tenant, hash.0).await?));
                }
            }
            // It followed another version then.
            Err(FoldError::Plan(plan)) => piece.plans.push(definition(api, tenant, &plan).ok_or_else(missing)?),
            Err(error) => return Err(Failure::internal(&format!("the journal of a run does not fold: {error:?}"))),
        }
    }
    Err(Failure::internal("the history of a run names values without end"))
}

fn missing() -> Failure {
    Failure::new(Code::Conflict, "The document that the run follows is not here any more.")
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

/// All turns of a run up to one.
async fn until(api: &Api, tenant: TenantId, id: RunId, last: u64) -> Result<Vec<Segment>, Failure> {
    if last > MAX_TURNS {
        let detail =
            format!("The run was taken back after more than {MAX_TURNS} turns; its history is too long to be shown.");
        return Err(Failure::new(Code::Conflict, detail));
    }
    let mut segments: Vec<Segment> = Vec::new();
    loop {
        let after = segments.last().map_or(0, |segment| segment.turn);
        let more = api.read_store(move |store| store.turns(tenant, id, after, TURNS)).await?;
        segments.extend(more.into_iter().take_while(|segment| segment.turn <= last));
        if segments.last().is_none_or(|segment| segment.turn >= last || segment.turn == after) {
            return Ok(segments);
        }
    }
}
