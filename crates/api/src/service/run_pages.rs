//! Pages of the history of a workflow in Python, as the engine stores them beside the journal ([`tidewheel_engine::run`], `page.rs`).

use serde::Deserialize;
use serde_json::value::RawValue;
use tidewheel_engine::id::TenantId;

use crate::problem::Failure;
use crate::state::Api;
use crate::text::parse_hash;

/// The name of a stored value, as it stands in place of it.
#[derive(Deserialize)]
pub(crate) struct Reference {
    #[serde(rename = "$ref")]
    hash: String,
}

impl Reference {
    pub(crate) fn hash(&self) -> Option<[u8; 32]> {
        parse_hash(&self.hash)
    }
}

/// A page: its turns are texts, which nobody on their way has to read.
#[derive(Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    before: Option<Reference>,
    /// Number of its first turn; the others follow.
    pub(crate) first: u64,
    pub(crate) turns: Vec<Box<RawValue>>,
}

impl Page {
    /// The page with the turns before these.
    pub(crate) fn before(&self) -> Option<[u8; 32]> {
        self.before.as_ref().and_then(Reference::hash)
    }

    /// Its turns up to one; `None` = they do not reach so far.
    pub(crate) fn turns_below(&self, no: u64) -> Option<&[Box<RawValue>]> {
        let count = usize::try_from(no.checked_sub(self.first)?).ok()?;
        self.turns.get(..count)
    }

    /// The same as the middle of a JSON array.
    pub(crate) fn below(&self, no: u64) -> Option<String> {
        let turns = self.turns_below(no)?;
        Some(turns.iter().map(|turn| turn.get()).collect::<Vec<_>>().join(","))
    }
}

/// A page of a tenant; `None` = it is not there.
pub(crate) async fn read(api: &Api, tenant: TenantId, hash: [u8; 32]) -> Result<Option<Page>, Failure> {
    let Some(text) = api.read_store(move |store| store.value(tenant, &hash)).await? else { return Ok(None) };
    let page = serde_json::from_slice(&text);
    page.map(Some).map_err(|error| Failure::internal(&format!("a page of a history cannot be read: {error}")))
}

/// The history has a hole.
pub(crate) fn gone(run: &str, below: u64) -> Failure {
    Failure::internal(&format!("turns of {run} before turn {below} are not in the store"))
}
