//! Keys as bytes. SQLite compares bytes with one `memcmp`, several columns field by field; so what is sorted together is
//! one run of big-endian bytes.

use tidewheel_engine::id::{QueueId, TaskId, TenantId};
use tidewheel_engine::task::{State, Task};
use tidewheel_store::Error;
use tidewheel_store::query::{lane_order, stored_due};

/// Tenant and id of a task.
pub(crate) type TaskKey = [u8; 20];
/// Queue, lane and order of a waiting task.
pub(crate) type ReadyKey = [u8; 20];
/// Stored deadline and id.
pub(crate) type TimerKey = [u8; 24];

pub(crate) fn task_key(tenant: TenantId, id: TaskId) -> TaskKey {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&tenant.0.to_be_bytes());
    key[4..].copy_from_slice(&id.to_bytes());
    key
}

pub(crate) fn parse_task_key(bytes: &[u8]) -> Result<(TenantId, TaskId), Error> {
    let split = bytes.split_first_chunk::<4>().and_then(|(tenant, id)| Some((tenant, id.try_into().ok()?)));
    let (tenant, id) = split.ok_or_else(|| Error::Corrupt("a task's key is not 20 bytes".to_owned()))?;
    Ok((TenantId(u32::from_be_bytes(*tenant)), TaskId::from_bytes(id)))
}

pub(crate) fn ready_key(queue: QueueId, lane: i64, order: u64) -> ReadyKey {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&queue.0.to_be_bytes());
    key[4..12].copy_from_slice(&(lane ^ i64::MIN).to_be_bytes());
    key[12..].copy_from_slice(&order.to_be_bytes());
    key
}

/// The lane of a ready key.
pub(crate) fn lane_of(ready: &[u8]) -> Result<i64, Error> {
    let bytes = ready.get(4..12).and_then(|lane| lane.try_into().ok());
    let lane = bytes.ok_or_else(|| Error::Corrupt("a ready key is not 20 bytes".to_owned()))?;
    Ok(i64::from_be_bytes(lane) ^ i64::MIN)
}

pub(crate) fn timer_key(due: u64, id: TaskId) -> TimerKey {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&due.to_be_bytes());
    key[8..].copy_from_slice(&id.to_bytes());
    key
}

/// The index columns of a task: each is set while the task can be found by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) ready: Option<ReadyKey>,
    pub(crate) timer: Option<TimerKey>,
    pub(crate) live: Option<u8>,
}

impl Places {
    pub(crate) fn of(task: &Task) -> Places {
        Places {
            ready: task.lane.map(|lane| ready_key(task.queue, lane, lane_order(task))),
            timer: stored_due(task).map(|due| timer_key(due, task.id)),
            live: live(task.state, task.lane),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Places::default()
    }
}

/// The column `live`. Running tasks are in the running pages, queued ones in the ready index, and succeeded ones are so
/// many that they are found by their keys.
pub(crate) fn live(state: State, lane: Option<i64>) -> Option<u8> {
    match state {
        State::Running | State::Succeeded => None,
        State::Queued => lane.is_none().then_some(state as u8),
        other => Some(other as u8),
    }
}
