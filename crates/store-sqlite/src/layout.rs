//! Keys as bytes. SQLite compares bytes with one `memcmp`, several columns field by field; so what is sorted together is
//! one run of big-endian bytes.

use tidewheel_engine::id::{QueueId, RunId, TaskId, TenantId};
use tidewheel_engine::mutation::RunTimer;
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

/// Tenant and id of a run.
pub(crate) type RunKey = [u8; 20];
/// Tenant, run, and a turn, entry or number.
pub(crate) type PartKey = [u8; 28];
/// Due time, run, entry, tenant.
pub(crate) type RunTimerKey = [u8; 36];

pub(crate) fn run_key(tenant: TenantId, run: RunId) -> RunKey {
    task_key(tenant, TaskId(run.0))
}

pub(crate) fn part_key(tenant: TenantId, run: RunId, number: u64) -> PartKey {
    let mut key = [0; 28];
    key[..20].copy_from_slice(&run_key(tenant, run));
    key[20..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Tenant and hash of a value.
pub(crate) type ValueKey = [u8; 36];

pub(crate) fn value_key(tenant: TenantId, hash: &[u8; 32]) -> ValueKey {
    let mut key = [0; 36];
    key[..4].copy_from_slice(&tenant.0.to_be_bytes());
    key[4..].copy_from_slice(hash);
    key
}

/// A task as what names a value. Its first byte tells it from a run, whose key is as long as that of a task.
pub(crate) fn task_name(key: &TaskKey) -> [u8; 21] {
    let mut name = [b't'; 21];
    name[1..].copy_from_slice(key);
    name
}

pub(crate) fn parse_part_key(bytes: &[u8]) -> Result<(TenantId, RunId, u64), Error> {
    let split = bytes.split_last_chunk::<8>();
    let (run, number) = split.ok_or_else(|| Error::Corrupt("the key of a run's part is not 28 bytes".to_owned()))?;
    let (tenant, run) = parse_task_key(run)?;
    Ok((tenant, RunId(run.0), u64::from_be_bytes(*number)))
}

pub(crate) fn run_timer_key(due: u64, run: RunId, entry: u64, tenant: TenantId) -> RunTimerKey {
    let mut key = [0; 36];
    key[..8].copy_from_slice(&due.to_be_bytes());
    key[8..24].copy_from_slice(&run.0.to_be_bytes());
    key[24..32].copy_from_slice(&entry.to_be_bytes());
    key[32..].copy_from_slice(&tenant.0.to_be_bytes());
    key
}

pub(crate) fn parse_run_timer_key(bytes: &[u8]) -> Result<(RunTimer, u64), Error> {
    let key: &RunTimerKey =
        bytes.try_into().map_err(|_| Error::Corrupt("the key of a run's timer is not 36 bytes".to_owned()))?;
    let number = |at: usize, length: usize| key[at..at + length].iter().fold(0, |sum, b| (sum << 8) | u128::from(*b));
    let timer =
        RunTimer { tenant: TenantId(number(32, 4) as u32), run: RunId(number(8, 16)), entry: number(24, 8) as u64 };
    Ok((timer, number(0, 8) as u64))
}
