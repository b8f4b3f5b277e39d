//! The history of a workflow in Python for the worker that replays it: the turns before those that its activation brought.
//!
//! The activation is the input of the attempt's task, and names the newest page of the history. So an attempt reads the history that it was
//! given and no other, and one that is not current any more reads nothing.

use bytes::Bytes;
use tidewheel_engine::id::TenantId;
use tidewheel_engine::task::{Payload, State, Task};
use tidewheel_proto::code::Code;
use tidewheel_proto::v1;

use super::blobs::task_of;
use crate::auth::Principal;
use crate::problem::Failure;
use crate::service::run_pages::{self, Page};
use crate::state::Api;

/// Bytes of turns from which on an answer has enough: with the page that passes it an answer stays far below the bound of a message.
const ENOUGH: usize = 4 << 20;

/// Turns before one of them, the newest first in answers, in order within one.
pub(crate) async fn turns(
    api: &Api,
    caller: &Principal,
    request: v1::HistoryRequest,
) -> Result<v1::HistoryResponse, Failure> {
    let (tenant, task) = current(api, caller, &request.token).await?;
    let Payload::Inline(input) = &task.input else { return Err(no_activation()) };
    let activation: Activation = serde_json::from_slice(input).map_err(|_| no_activation())?;
    if request.below < 2 || request.below > activation.first {
        let detail = format!(
            "The turns below {} are asked for; the activation begins with {}.",
            request.below, activation.first
        );
        return Err(Failure::new(Code::InvalidField, detail));
    }
    let (mut taken, mut bytes, mut first) = (Vec::new(), 0, request.below);
    let mut next = activation.before.and_then(|page| page.hash());
    while first > 1 && bytes < ENOUGH {
        let hash = next.ok_or_else(|| run_pages::gone(&activation.run, first))?;
        let page: Page =
            run_pages::read(api, tenant, hash).await?.ok_or_else(|| run_pages::gone(&activation.run, first))?;
        next = page.before();
        if page.first >= first {
            continue;
        }
        let part = page.below(first).ok_or_else(|| run_pages::gone(&activation.run, first))?;
        (bytes, first) = (bytes + part.len(), page.first);
        taken.push(part);
    }
    taken.reverse();
    Ok(v1::HistoryResponse { first, turns: Bytes::from(format!("[{}]", taken.join(","))) })
}

#[derive(serde::Deserialize)]
struct Activation {
    run: String,
    first: u64,
    #[serde(default)]
    before: Option<run_pages::Reference>,
    #[allow(dead_code, reason = "what has none is no activation")]
    epoch: u64,
}

/// The task of an attempt that is still at work.
async fn current(api: &Api, caller: &Principal, token: &[u8]) -> Result<(TenantId, Task), Failure> {
    let (tenant, task, attempt) = task_of(api, caller, token).await?;
    if task.token != attempt || task.state != State::Running {
        let detail = "The attempt is not current any more: it was given to another worker, or its task has ended.";
        return Err(Failure::new(Code::Conflict, detail));
    }
    Ok((tenant, task))
}

fn no_activation() -> Failure {
    Failure::new(Code::Conflict, "The attempt is no activation of a workflow in Python, and has no history.")
}
