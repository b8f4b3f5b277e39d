//! Waiting for the end of a task: register first, read second, so that an end in between is not missed.

use std::time::Duration;

use tidewheel_engine::id::TaskId;
use tidewheel_engine::task::Task;

use super::get_task;
use crate::auth::Principal;
use crate::live::waiters::Seen;
use crate::problem::Failure;
use crate::state::Api;

/// The task, at its end or when the wait is over, whichever comes first.
pub(crate) async fn wait(api: &Api, caller: &Principal, task: TaskId, at_most: Duration) -> Result<Task, Failure> {
    if at_most.is_zero() {
        return get_task::record(api, caller, task).await;
    }
    let mut watch = api.hub.watch(task);
    let found = get_task::record(api, caller, task).await?;
    if found.state.is_terminal() {
        return Ok(found);
    }
    let ended = tokio::time::timeout(at_most.min(api.config.max_wait), async {
        loop {
            match watch.next().await {
                Seen::Change(change) if !change.state.is_terminal() => {}
                _ => {
                    let now = get_task::record(api, caller, task).await?;
                    if now.state.is_terminal() {
                        return Ok(now);
                    }
                }
            }
        }
    });
    match ended.await {
        Ok(result) => result,
        Err(_) => get_task::record(api, caller, task).await,
    }
}
