//! The history of a program (a workflow in Python): what a replay of it needs. The same that its activations get.

use std::collections::BTreeMap;
use std::sync::Arc;

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

use super::{run, run_pages};
use crate::auth::Principal;
use crate::problem::Failure;
use crate::state::Api;
use crate::text::run_text;

/// Turns read at once.
const TURNS: usize = 256;
/// Turns of a journal that are held at once, where the run went back in it: a fold of so many takes about a second.
const MAX_TURNS: u64 = 200_000;
/// Bytes of a history that is shown, and of the large values in it.
const MAX_BYTES: usize = 64 << 20;
/// Rounds of reading values that turned out to be needed.
const MAX_ROUNDS: usize = 10_000;

/// The history of a run, whole and with all its values.
pub(crate) async fn get(api: &Api, caller: &Principal, id: RunId) -> Result<Value, Failure> {
    of(api, caller.tenant, id).await
}

/// The same for a run of a tenant.
pub(crate) async fn of(api: &Api, tenant: TenantId, id: RunId) -> Result<Value, Failure> {
    let head = run::head_of(api, tenant, id).await?;
    let state = match code::of(&head) {
        Some(state) => state.clone(),
        None => ended(api, tenant, &head).await?,
    };
    let mut history = history::written(&state, &head.identity, head.started_ms);
    history["run"] = run_text(id).into();
    let before = match history.as_object_mut().and_then(|history| history.remove("before")) {
        Some(page) => earlier(api, tenant, &run_text(id), &page, history["first"].as_u64().unwrap_or(1)).await?,
        None => Vec::new(),
    };
    history["first"] = 1.into();
    if let Some(turns) = history["turns"].as_array_mut() {
        turns.splice(0..0, before);
    }
    let mut room = MAX_BYTES;
    fill(api, tenant, &mut history["input"], &mut room).await?;
    for turn in history["turns"].as_array_mut().into_iter().flatten() {
        for done in turn["done"].as_array_mut().into_iter().flatten().filter(|done| done.get("value").is_some()) {
            fill(api, tenant, &mut done["value"], &mut room).await?;
        }
    }
    Ok(history)
}

/// The turns that left the run as pages, in order.
async fn earlier(api: &Api, tenant: TenantId, run: &str, page: &Value, first: u64) -> Result<Vec<Value>, Failure> {
    let (mut pages, mut first, mut bytes) = (Vec::new(), first, 0);
    let mut next = name_in(page);
    while first > 1 {
        let hash = next.ok_or_else(|| run_pages::gone(run, first))?;
        let page = run_pages::read(api, tenant, hash).await?.ok_or_else(|| run_pages::gone(run, first))?;
        let turns = page.below(first).filter(|_| page.first < first).ok_or_else(|| run_pages::gone(run, first))?;
        bytes += turns.len();
        if bytes > MAX_BYTES {
            return Err(too_large());
        }
        let read = serde_json::from_str::<Vec<Value>>(&format!("[{turns}]"));
        pages.push(read.map_err(|_| Failure::internal("a page of a history cannot be read"))?);
        (first, next) = (page.first, page.before());
    }
    Ok(pages.into_iter().rev().flatten().collect())
}

fn too_large() -> Failure {
    let detail =
        format!("The history of the run has more than {MAX_BYTES} bytes, and is too long to be given at once.");
    Failure::new(Code::Conflict, detail)
}

/// The hash that a reference names.
fn name_in(value: &Value) -> Option<[u8; 32]> {
    let map = value.as_object().filter(|map| map.len() == 2 && map.contains_key("size"))?;
    crate::text::parse_hash(map.get("$ref")?.as_str()?)
}

/// Puts a large value in the place of its reference.
async fn fill(api: &Api, tenant: TenantId, value: &mut Value, room: &mut usize) -> Result<(), Failure> {
    let Some(hash) = name_in(value) else { return Ok(()) };
    let (read, bytes) = large(api, tenant, hash).await?;
    *room = room.checked_sub(bytes).ok_or_else(too_large)?;
    *value = read;
    Ok(())
}

/// A large value, and the bytes of its text: one that a run made, or a result of a task.
async fn large(api: &Api, tenant: TenantId, hash: [u8; 32]) -> Result<(Value, usize), Failure> {
    let gone = || Failure::new(Code::Conflict, "A large value of the run is not here any more.");
    let own = api.read_store(move |store| store.value(tenant, &hash)).await?.filter(|bytes| !bytes.is_empty());
    let text = match own {
        Some(text) => text,
        None => {
            let size = api.runtime.blobs().size(tenant.0, hash).await?.ok_or_else(gone)?;
            if size > MAX_BYTES as u64 {
                return Err(too_large());
            }
            api.runtime.blobs().read(tenant.0, hash, 0, size).await?
        }
    };
    Ok((serde_json::from_slice(&text).map_err(|_| gone())?, text.len()))
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
                    blobs.insert(hash, Arc::new(large(api, tenant, hash.0).await?.0));
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
